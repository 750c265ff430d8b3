#!/bin/sh
# check-wheel.sh: packs what `pip wheel .` packs, out of the build that is
# there, and tests it in a clean environment of each CPython it is for (3.11 to
# 3.14) that this machine has: on PATH, or below ~/.pyenv or uv's folder. Says
# which it has not. Ends with `N passed, N failed`.

set -eu
cd "$(dirname "$0")/.."
. scripts/common.sh

work=$build/wheel-check
log=$work/log
mkdir -p "$work"
quietly "$work/build.log" ninja -C "$build" attnc-extension attnc-tool
quietly "$work/wheel.log" .venv/bin/python scripts/pack_wheel.py "$build" \
  "$work"
wheel=$(ls "$work"/attnc-*.whl)
megabytes=$(($(wc -c <"$wheel") / 1000000))
echo "$(basename "$wheel"): $megabytes MB"

passed=0 failed=0
# verdict WHAT: of the command before.
verdict() {
  if [ "$1" -eq 0 ]; then
    passed=$((passed + 1)) && echo "ok      $2"
  else
    failed=$((failed + 1)) && echo "FAILED  $2"
  fi
}
[ "$megabytes" -le 35 ] && code=0 || code=1
verdict $code "at most 35 MB"

# interpreter MINOR: a CPython 3.MINOR, or nothing.
interpreter() {
  for python in "$(command -v "python3.$1" || true)" "/usr/bin/python3.$1" \
    "$HOME"/.pyenv/versions/3."$1".*/bin/python3."$1" \
    "$HOME"/.local/share/uv/python/cpython-3."$1".*/bin/python3."$1"; do
    [ -x "$python" ] || continue
    "$python" -c "import ensurepip, sys, venv
assert sys.implementation.name == 'cpython'
assert sys.version_info[:2] == (3, $1)" 2>/dev/null || continue
    echo "$python"
    return
  done
}

# in_clean_venv PYTHON MINOR: the wheel and what its tests need, nothing else.
in_clean_venv() {
  venv=$work/venv-3.$2
  rm -rf "$venv" "$work/tests"
  "$1" -m venv "$venv"
  "$venv/bin/pip" install -q --disable-pip-version-check "$wheel" \
    -r test/python/requirements-wheel.txt || return 1
  "$venv/bin/pip" check || return 1
  # Away from the sources, so that what is imported is what was installed.
  cp -R test/python "$work/tests"
  (cd "$work/tests" && PYTHONPATH='' PYTHONDONTWRITEBYTECODE=1 \
    "$venv/bin/python" -m pytest -q -p no:cacheprovider test_wheel.py \
    test_numpy.py test_errors.py) || return 1
  # JAX too, on one that the main tests do not run on; torch has no small
  # build for others than 3.11 here.
  [ "$2" -eq 12 ] || return 0
  "$venv/bin/pip" install -q --disable-pip-version-check \
    "$(grep '^jax==' test/python/requirements.txt)" || return 1
  (cd "$work/tests" && PYTHONPATH='' PYTHONDONTWRITEBYTECODE=1 \
    "$venv/bin/python" -m pytest -q -p no:cacheprovider test_jax.py)
}

: >"$log"
for minor in 11 12 13 14; do
  python=$(interpreter "$minor")
  if [ -z "$python" ]; then
    echo "skipped CPython 3.$minor: this machine has none"
    continue
  fi
  in_clean_venv "$python" "$minor" >>"$log" 2>&1 && code=0 || code=1
  verdict $code "CPython $("$python" -V | cut -d' ' -f2) ($python)"
  rm -rf "$work/venv-3.$minor"
done
[ $failed -eq 0 ] || tail -n 60 "$log"
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
