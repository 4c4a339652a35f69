#!/usr/bin/env bash
# Runs the tests, with real database servers and Spark processes; arguments go to pytest.
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/common.sh"

have_packages test,pymysql,pack,examples
have_java
cd "$root"
"$python" tests/servers.py
exec "$python" -m pytest "$@"
