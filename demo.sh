#!/bin/sh
# demo.sh: sets up, then takes attention all the way: generates it, shows the
# way down phase by phase, runs it on the Hopper GPU if there is one, else on
# the CPU, and compares with float64.
#
#   ./demo.sh              1 sequence, 8 heads, 1024 rows
#   ./demo.sh B=2,H=4,S=512

set -eu
cd "$(dirname "$0")"
. scripts/common.sh
case ${1:-} in -h | --help) sed -n '2,/^$/s/^# \{0,1\}//p' "$0" && exit 0 ;; esac
sizes=${1:-B=1,H=8,S=1024}

./setup.sh
attnc=$build/bin/attnc
work=$build/demo
rm -rf "$work"
mkdir -p "$work"

# A Hopper GPU takes half-precision operands, the CPU f32 as well.
if "$attnc" collect-env | grep -q '^gpu 0 .*compute capability 9\.0'; then
  target=sm_90a dtype=bf16 where='this GPU' last=cubin
else
  target=cpu dtype=f32 where='this CPU' last=asm
fi

# --- one program, step by step ------------------------------------------------

say "Sigmoid attention, causal, as attnc gen writes it:"
say
"$attnc" gen --score=sigmoid --causal --dtype=$dtype \
  -o "$work/sigmoid-causal.mlir"
sed 's/^/    /' "$work/sigmoid-causal.mlir"
say
say "The way down (every phase is a file in build/demo/phases):"
say
"$attnc" "$work/sigmoid-causal.mlir" --target=$target --emit=$last \
  --dump-to="$work/phases" --timing -o /dev/null 2>"$work/timing"
printf '    %-10s %8s %8s %10s\n' phase lines bytes ms
for file in "$work"/phases/*; do
  name=$(basename "$file" | sed 's/^[0-9]*-//; s/\..*//')
  printf '    %-10s %8d %8d %10s\n' "$name" "$(wc -l <"$file")" \
    "$(wc -c <"$file")" \
    "$(awk -v name="$name" '$3 == name { print $1 }' "$work/timing")"
done

# --- four programs against the oracle -----------------------------------------

say
say "On $where, $sizes, head dim 64, $dtype, random operands. The error is
|o - o64| / |o64| against a float64 reference; model is the error of the best
that arithmetic of this type can do, and the rule in docs/semantics.md sets the
limit:"
say
printf '    %-8s %-7s %9s %9s %9s  %-6s %10s %10s %9s\n' \
  score mask error model limit '' 'compile ms' 'best ms' GFLOP/s
wrong=0
for score in sigmoid softmax; do
  for mask in full causal; do
    flags=
    [ $mask = full ] || flags=--causal
    program=$work/$score-$mask.mlir log=$work/$score-$mask.log
    # shellcheck disable=SC2086
    "$attnc" gen --score=$score --dtype=$dtype $flags -o "$program"
    "$attnc" run "$program" --target=$target --random "$sizes" --check --bench \
      -o "$work/$score-$mask.npy" >"$log" 2>&1 || wrong=$((wrong + 1))
    # `output error reference limit rule verdict` is the line that counts.
    awk -v score=$score -v mask=$mask '
      /^compiled in/ { compiled = $3 }
      $1 == "ms" && !best { best = $2 }
      $1 == "GFLOP/s" { rate = $2 }
      $1 == "output" && NF >= 6 {
        error = $2; model = $3; limit = $4; verdict = $6 }
      END {
        printf "    %-8s %-7s %9s %9s %9s  %-6s %10s %10s %9s\n", score, mask,
          error, model, limit, verdict, compiled, best, rate
        exit verdict != "ok" }' "$log" ||
      { cat "$log" >&2; die "attnc run $program failed"; }
  done
done
[ $wrong -eq 0 ] || die "$wrong programs are less exact than they must be"
say
say "Programs, results and logs are in build/demo. Next: build/bin/attnc help"
