#!/usr/bin/env bash
# Runs the tests, with real database servers and Spark processes; arguments go to pytest.
# Two files of tests run at once: `-n 0` runs one after the other, in this process.
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/common.sh"

have_packages test,pymysql,pack,examples
have_java
have_classes
cd "$root"
"$python" tests/servers.py
exec "$python" -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
