#!/bin/sh
# check-ptxas.sh: compiles attention for sm_90a with ptxas and asks of every
# kernel what no GPU is needed for: no spills, no stack, no complaint about
# wgmma or registers.

set -eu
cd "$(dirname "$0")/.."
. scripts/common.sh
attnc=$build/bin/attnc
work=$build/ptxas-stats
rm -rf "$work"
mkdir -p "$work"
passed=0 failed=0

# clean FLAGS...: whether `attnc gen FLAGS` ends in a clean kernel.
clean() {
  name=$(echo "$*" | tr -cs 'a-z0-9_\n' - | sed 's/^-//')
  stats=$work/$name
  if "$attnc" gen "$@" -o "$stats.mlir" 2>"$stats.log" &&
    "$attnc" "$stats.mlir" --target=sm_90a --emit=stats -o "$stats.json" \
      2>>"$stats.log" &&
    grep -q '"registers"' "$stats.json" &&
    ! grep -E '"(stack|spill_stores|spill_loads)": [1-9]' "$stats.json" &&
    grep -q '"remarks": \[\]' "$stats.json"; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    echo "not clean: attnc gen $*"
    head -n 3 "$stats.log"
    sed -n '/"remarks"/,$p' "$stats.json" 2>/dev/null | head -n 5
  fi
}

for score in sigmoid softmax relu relu2 rela softcap silu softplus poly \
  linear cosine gaussian; do
  clean --score=$score --head-dim=128 --dtype=bf16
done
for score in sigmoid softmax; do
  for dim in 64 96 128 192 256; do
    for dtype in bf16 f16; do
      clean --score=$score --head-dim=$dim --dtype=$dtype --causal
    done
  done
  for flags in '--window=128,0' --alibi --bias=full '--mask documents' \
    '--heads=8 --kv-heads=2' --layout=bshd '--kv-len --q-len' --gate; do
    # shellcheck disable=SC2086
    clean --score=$score --head-dim=128 --dtype=bf16 $flags
  done
done
clean --score=softmax --head-dim=128 --dtype=bf16 --lse
echo "$passed passed, $failed failed"
[ $failed -eq 0 ] && [ $passed -gt 0 ]
