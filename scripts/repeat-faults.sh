#!/usr/bin/env bash
# Runs the fault table again and again: repeat-faults.sh N [PYTEST ARGUMENT ...]
#
# Prints how many runs passed and failed, keeps the output of those that failed in
# .cache/faults, and fails if any did.
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/common.sh"

runs=${1:-}
case $runs in
  "" | *[!0-9]* | 0) stop "how often is not said: repeat-faults.sh N [PYTEST ARGUMENT ...]" ;;
esac
shift

logs=$root/.cache/faults/$(date +%Y%m%d-%H%M%S)
mkdir -p "$logs"
passed=0
failed=0
for run in $(seq "$runs"); do
  log=$logs/run-$run.log
  if "$root/scripts/test.sh" "$root/tests/faults" --dist worksteal "$@" >"$log" 2>&1; then
    passed=$((passed + 1))
    rm "$log"
  else
    failed=$((failed + 1))
    grep -E '^(FAILED|ERROR) ' "$log" || tail -n 3 "$log"
  fi
  echo "run $run of $runs: $passed passed, $failed failed"
done
rmdir "$logs" 2>/dev/null || echo "The output of failed runs is in $logs."
[ "$failed" -eq 0 ]
