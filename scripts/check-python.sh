#!/bin/sh
# check-python.sh [PYTEST ARGUMENT...]: the Python package's tests, in an
# environment of their own (build/python-venv) with torch and JAX for the CPU.
# Ends with `N passed, N failed`.

set -eu
cd "$(dirname "$0")/.."
. scripts/common.sh

requirements=test/python/requirements.txt
venv=$build/python-venv
wanted=$(cksum <"$requirements")
if [ "$(cat "$venv/attnc-requirements" 2>/dev/null)" != "$wanted" ]; then
  quietly "$build/python-venv.log" .venv/bin/python -m venv --clear "$venv"
  quietly "$build/python-venv.log" "$venv/bin/pip" install -q -r "$requirements"
  echo "$wanted" >"$venv/attnc-requirements"
fi
quietly "$build/python-build.log" ninja -C "$build" attnc-python

log=$build/pytest.log
code=0
PYTHONPATH=$build/python PYTHONDONTWRITEBYTECODE=1 \
  "$venv/bin/python" -m pytest -q -p no:cacheprovider --durations=8 \
  test/python "$@" >"$log" 2>&1 || code=$?
cat "$log"

# number WORD: of the closing line, `1 failed, 2 passed, 3 errors in 4.00s`.
number() {
  tail -n 1 "$log" |
    sed -n "s/^\(.*[^0-9]\)\{0,1\}\([0-9][0-9]*\) $1.*/\2/p"
}
passed=$(number passed) failed=$(number failed) errors=$(number error)
failed=$((${failed:-0} + ${errors:-0}))
[ $code -eq 0 ] || [ $failed -gt 0 ] || failed=1
echo "${passed:-0} passed, $failed failed"
[ $failed -eq 0 ]
