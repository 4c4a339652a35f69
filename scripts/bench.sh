#!/usr/bin/env bash
# Measures how fast studies run, against others on the same work: bench.sh [OPTION ...]
#
#   bench.sh --smoke      about a minute: does it work?
#   bench.sh              some 25 minutes on two cores
#   bench.sh --full       256 and 4,096 slots at once, and search quality: half an hour more
#   bench.sh --report     writes docs/benchmarks.md from what was measured
#
# --help lists the options. Each contender gets an environment in .cache/bench, once.
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/common.sh"

have_packages test,pymysql,pack,examples
have_java
cd "$root"
exec "$python" -m benchmarks "$@"
