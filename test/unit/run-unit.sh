#!/bin/sh
# run-unit.sh PROGRAM...: runs GoogleTest programs, one after the other, and
# prints one line each and a closing `Unit tests: N passed, N failed, N skipped`.
# A program that runs no test, or dies, counts as a failure.

passed=0 failed=0 skipped=0
log=$(mktemp) || exit 1
trap 'rm -f "$log"' EXIT

# count PATTERN: the number in the summary line of the log that PATTERN starts.
count() {
  sed -n "s/^\[ *$1 *\] \([0-9][0-9]*\) tests\{0,1\}.*/\1/p" "$log" | tail -n 1
}

for program; do
  name=$(basename "$program")
  "$program" --gtest_color=no --gtest_brief=0 >"$log" 2>&1 </dev/null
  code=$?
  ok=$(count PASSED) bad=$(count FAILED) out=$(count SKIPPED)
  ok=${ok:-0} bad=${bad:-0} out=${out:-0}
  if [ "$bad" -eq 0 ] && { [ $code -ne 0 ] || [ $((ok + out)) -eq 0 ]; }; then
    bad=1
    echo "$name: exit status $code after $ok tests" >>"$log"
  fi
  [ "$bad" -eq 0 ] || grep -v '^\[ *\(OK\|RUN\|---*\) *\]' "$log"
  echo "$name: $ok passed, $bad failed, $out skipped"
  passed=$((passed + ok)) failed=$((failed + bad)) skipped=$((skipped + out))
done

echo "Unit tests: $passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
