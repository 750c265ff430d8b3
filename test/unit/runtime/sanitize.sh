#!/bin/sh
# sanitize.sh [BUILD-DIR [SANITIZERS...]]: builds the kernel cache and its tests
# under the thread sanitizer and under the address and undefined-behaviour
# sanitizers (or those named), without LLVM, runs them, and prints
# `N passed, N failed` over all.

set -eu
here=$(cd "$(dirname "$0")" && pwd)
build=${1:-$here/../../../build/sanitize}
[ $# -eq 0 ] || shift
[ $# -ne 0 ] || set -- thread address,undefined
mkdir -p "$build"
# Debian's clang comes without the sanitizers' libraries; g++ has them.
compiler=${ATTNC_SANITIZER_CXX:-g++}
passed=0 failed=0

for kind; do
  dir=$build/$kind
  cmake -S "$here" -B "$dir" -G Ninja -DCMAKE_CXX_COMPILER="$compiler" \
    -DATTNC_SANITIZE=$kind >"$build/build.log" 2>&1 || { cat "$build/build.log"; exit 1; }
  ninja -C "$dir" -j2 RuntimeTest >"$build/build.log" 2>&1 || {
    cat "$build/build.log"
    exit 1
  }
  code=0
  "$dir/RuntimeTest" --gtest_color=no >"$dir/run.log" 2>&1 || code=$?
  ok=$(sed -n 's/^\[  PASSED  \] \([0-9]*\) tests\{0,1\}\.$/\1/p' "$dir/run.log")
  bad=$(grep -c '^\[  FAILED  \].*ms)$' "$dir/run.log" || true)
  [ "$code" -eq 0 ] || [ "$bad" -ne 0 ] || bad=1
  [ "$bad" -eq 0 ] || grep -v '^\[ *\(OK\|RUN\|---*\) *\]' "$dir/run.log" || true
  echo "$kind: ${ok:-0} passed, $bad failed"
  passed=$((passed + ${ok:-0})) failed=$((failed + bad))
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
