#!/bin/sh
# check-evidence.sh: whether the speeds in README.md are those of the kernels
# that the compiler emits (benchmarks/evidence.py).

set -eu
cd "$(dirname "$0")/.."
. scripts/common.sh
exec python3 benchmarks/evidence.py --attnc "$build/bin/attnc"
