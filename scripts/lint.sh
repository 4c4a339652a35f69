#!/usr/bin/env bash
# Checks format, style and types.
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/common.sh"

have_packages lint,pymysql,pack
cd "$root"
"$venv/bin/ruff" check .
"$venv/bin/ruff" format --check .
"$venv/bin/mypy"
if command -v shellcheck >/dev/null; then
  shellcheck --external-sources --source-path=SCRIPTDIR scripts/*.sh deploy/mysql/*.sh .ci/run
fi
