#!/bin/sh
# check-fuzz.sh [SECONDS]: fuzzes the parser and the pipeline in the sanitizer
# build, starting from all IR in test/ and examples/ and what attnc gen writes. One crash, hang or report fails;
# the input is kept in build-sanitize/fuzz.

set -eu
cd "$(dirname "$0")/.."
. scripts/common.sh
build=$root/build-sanitize
. scripts/sanitizers.sh
seconds=${1:-60}

[ -f "$build/build.ninja" ] ||
  quietly "$build/cmake.log" cmake --preset sanitize
quietly "$build/build.log" ninja -C "$build" -j "$(job_limit)" \
  attnc-fuzz attnc

work=$build/fuzz
rm -rf "$work"
mkdir -p "$work/seeds" "$work/found"
# One seed for each part of a split file, without the comments.
git ls-files -- 'test/*.mlir' 'examples/*.mlir' | while read -r file; do
  awk -v out="$work/seeds/$(echo "$file" | tr / -)" '
    /^\/\/ -----/ { part++; next }
    { sub(/^ *\/\/.*/, ""); if ($0 != "") print > (out "-" part + 0) }' "$file"
done
for score in sigmoid softmax relu rela softcap softplus cosine gaussian; do
  for flags in '' '--causal --heads=4 --kv-heads=2' '--window=8,0 --alibi' \
    '--mask documents --layout=bshd --dtype=bf16' '--gate --lse --kv-len'; do
    # Some of these do not go together; then there is no seed.
    # shellcheck disable=SC2086
    "$build/bin/attnc" gen --score=$score $flags \
      -o "$work/seeds/gen-$score-$(echo "$flags" | tr -c 'a-z0-9\n' -)" \
      2>/dev/null || :
  done
done

code=0
"$build/bin/attnc-fuzz" -seed=1 -max_total_time="$seconds" -max_len=16384 \
  -timeout=20 -rss_limit_mb=2048 -malloc_limit_mb=1024 -print_final_stats=1 \
  -artifact_prefix="$work/" "$work/found" "$work/seeds" \
  >"$work/log" 2>&1 </dev/null || code=$?
grep -E '^(stat::|SUMMARY|==|#[0-9]+ (INITED|DONE)|.*Test unit written)' \
  "$work/log" || tail -n 30 "$work/log"
runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$work/log")
if [ $code -eq 0 ] && [ "${runs:-0}" -gt 100 ]; then
  echo "$runs inputs, no crash: 1 passed, 0 failed"
else
  grep -E '^ *#[0-9]+ 0x' "$work/log" | head -n 30
  echo "0 passed, 1 failed"
  exit 1
fi
