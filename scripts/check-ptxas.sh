#!/bin/sh
# check-ptxas.sh: compiles the matrix of test/ptxas for sm_90a with ptxas and
# asks of every kernel what no GPU is needed for: no spills, no stack, no
# complaint about wgmma or registers, and the statistics of golden.json.
# Arguments go to matrix.py (--only PATTERN..., --update, --every-head-dim).

set -eu
cd "$(dirname "$0")/.."
. scripts/common.sh
exec python3 test/ptxas/matrix.py --attnc "$build/bin/attnc" "$@"
