#!/bin/sh
# test.sh: sets up, then runs every suite. Each stage prints its counts and
# seconds; the last line is `N passed, N failed`. Exits with 1 if a test failed
# or a stage ran none.
#
#   ./test.sh              everything
#   ./test.sh lit unit     set-up and these stages

set -u
cd "$(dirname "$0")" || exit 1
. scripts/common.sh

case ${1:-} in -h | --help) sed -n '2,/^$/s/^# \{0,1\}//p' "$0" && exit 0 ;; esac

chosen=$*
logs=$build/test-logs
passed=0 failed=0 ran=
mkdir -p "$logs"

# summed WORD LOG: the sum over lit's summaries of the lines that WORD starts.
summed() {
  sed -n "s/^ *\($1\) *: *\([0-9]*\)\( (.*\)\{0,1\}\$/\2/p" "$2" |
    awk '{ n += $1 } END { print n + 0 }'
}

# counts LOG: "passed failed", of lit's summaries and the closing line
# `N passed, N failed` together: a stage may have either or both.
counts() {
  line=$(sed -n 's/^\(.*[ :]\)\{0,1\}\([0-9][0-9]*\) passed, \([0-9][0-9]*\) failed.*/\2 \3/p' \
    "$1" | tail -n 1)
  line=${line:-0 0}
  echo "$((${line% *} + $(summed 'Passed\|Passed With Retry\|Expectedly Failed' "$1")))" \
    "$((${line#* } + $(summed 'Failed\|Timed Out\|Unresolved\|Unexpectedly Passed' "$1")))"
}

# stage NAME COMMAND...: runs it, adds its counts, shows its log if it failed.
stage() {
  name=$1
  shift
  ran="$ran $name"
  case " ${chosen:-$name} " in *" $name "*) ;; *) return 0 ;; esac
  log=$logs/$name.log
  start=$(date +%s)
  "$@" >"$log" 2>&1 </dev/null
  code=$?
  # shellcheck disable=SC2046
  set -- $(counts "$log")
  good=$1 bad=$2
  if [ $((good + bad)) -eq 0 ]; then
    bad=1
    echo "stage $name ran no test (exit status $code)" >>"$log"
  elif [ "$bad" -eq 0 ] && [ $code -ne 0 ]; then
    bad=1
    echo "stage $name: exit status $code" >>"$log"
  fi
  [ "$bad" -eq 0 ] || {
    grep -v '^\(PASS\|UNSUPPORTED\): ' "$log" | tail -n 150
    echo "(the whole log is $log)"
  }
  printf '%-14s %5d passed, %d failed %6d s\n' "$name" "$good" "$bad" \
    $(($(date +%s) - start))
  passed=$((passed + good)) failed=$((failed + bad))
}

# checked COMMAND...: a stage of one test, the command itself.
checked() {
  if "$@"; then echo "1 passed, 0 failed"; else echo "0 passed, 1 failed"; fi
}

start=$(date +%s)
./setup.sh --all || {
  echo "0 passed, 1 failed"
  exit 1
}
printf '%-14s %27d s\n' setup $(($(date +%s) - start))

# One line adds a stage.
stage lit ninja -C "$build" check-lit
stage roundtrip ninja -C "$build" check-lit-roundtrip
stage unit ninja -C "$build" check-unit
stage python scripts/check-python.sh
stage wheel scripts/check-wheel.sh
stage install scripts/check-install.sh
stage format checked scripts/check-format.sh
stage docs checked scripts/make-reference.sh --check
stage labels scripts/check-labels.sh
stage sanitizers scripts/check-sanitizers.sh
stage threads test/unit/runtime/sanitize.sh "$build/threads" thread
stage ptxas scripts/check-ptxas.sh
stage evidence scripts/check-evidence.sh
stage fuzz scripts/check-fuzz.sh 60

for name in $chosen; do
  case " $ran " in *" $name "*) ;; *)
    die "no stage '$name'; there are$ran"
    ;;
  esac
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
