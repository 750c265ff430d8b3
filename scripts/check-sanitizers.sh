#!/bin/sh
# check-sanitizers.sh: builds with ASan and UBSan (build-sanitize) and runs the
# unit tests and the lit suite on that.

set -eu
cd "$(dirname "$0")/.."
. scripts/common.sh
build=$root/build-sanitize
. scripts/sanitizers.sh

[ -f "$build/build.ninja" ] ||
  quietly "$build/cmake.log" cmake --preset sanitize
quietly "$build/build.log" ninja -C "$build" -j "$(job_limit)" all

# The accuracy grid is long arithmetic through code that the other tests reach;
# it runs without sanitizers, in the unit stage.
export GTEST_FILTER='-Accuracy.*'

# Both must run, and both must pass; the stage counts what the logs say.
code=0
ninja -C "$build" check-unit >"$build/unit.log" 2>&1 || code=1
ninja -C "$build" check-lit >"$build/lit.log" 2>&1 || code=1
cat "$build/unit.log" "$build/lit.log"
exit $code
