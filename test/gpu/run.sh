#!/bin/sh
# run.sh [STEP...]: on a GPU machine, in the folder that pack.sh made: checks
# every case, runs the memory and race checkers on a small one, and times the
# kernels against torch's. Steps: machine checks api gradients python sanitize
# bench (all of them by default), variants: other schedules beside the defaults,
# within 150 seconds, and copies: layouts without bulk copies. Reports go to $OUT, else ./out.
here=$(cd "$(dirname "$0")" && pwd)
out=${OUT:-$here/out}
steps=${*:-machine checks api gradients python sanitize bench}
mkdir -p "$out" "$here/bin"
rm -f "$out/failed"
for packed in "$here"/*.xz; do
  file=$here/bin/$(basename "$packed" .xz)
  [ "$file" -nt "$packed" ] || { xz -dc "$packed" >"$file"; chmod +x "$file"; }
done
tools="--attnc $here/bin/attnc --harness $here/bin/libattnc-gpu-harness.so"
export PYTHONUNBUFFERED=1

machine() {
  cat "$here/commit"
  nvidia-smi --query-gpu=name,driver_version,clocks.max.sm,power.limit \
    --format=csv
  ptxas --version | tail -n 2
  python3 -c 'import torch; print("torch", torch.__version__, "cuda",
    torch.version.cuda, "cudnn", torch.backends.cudnn.version())'
}

checks() {
  # A case that hangs or crashes takes its process along, not the rest.
  rm -f "$out/checks.json"
  for attempt in 1 2 3 4 5 6 7 8; do
    python3 "$here/test/gpu/check.py" $tools --json "$out/checks.json" \
      --resume ${CHECKS:+--only $CHECKS}
    code=$?
    [ $code -gt 1 ] || return $code
  done
  return 1
}

api() {
  ATTNC_CACHE_DIR=$out/cache python3 "$here/test/gpu/api.py" \
    --library "$here/bin/libattnc.so" --launch "$here/bin/bench-launch"
}

# GRADIENTS='--only none --bench' times instead.
gradients() {
  python3 "$here/test/gpu/backward.py" $tools --json "$out/backward.json" \
    $GRADIENTS
}

# The Python package, which looks for the library by its versioned name.
python() {
  ln -sf libattnc.so "$here/bin/libattnc.so.0"
  export LD_LIBRARY_PATH=$here/bin PYTHONPATH=$here/python
  code=0
  python3 "$here/test/gpu/python.py" --json "$out/python.json" || code=1
  python3 "$here/test/gpu/python_jax.py" || code=1
  return $code
}

# Cooperative copies against bulk copies.
copies() {
  python3 "$here/test/gpu/copies.py" $tools --json "$out/copies.json" $COPIES
}

# Exact allocation bounds, and only the kernels under test.
sanitize() {
  for tool in memcheck racecheck; do
    echo "== compute-sanitizer --tool $tool"
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 timeout "${SANITIZE_SECONDS:-90}" \
      compute-sanitizer --tool $tool --kernel-name kns=attention \
      --error-exitcode 9 --print-limit 20 \
      python3 "$here/test/gpu/check.py" $tools --json "$out/sanitize.json" \
      --only ${SANITIZE:-sigmoid-d128-200x300} 2>&1 | tail -n 40
  done
}

bench() {
  python3 "$here/benchmarks/attention.py" $tools --json "$out/bench.json" \
    $BENCH
}

variants() {
  python3 "$here/benchmarks/attention.py" $tools \
    --json "$out/variants.json" --plan "$here/benchmarks/variants.json" \
    --passes 4 --budget 140 $VARIANTS
}

set -f # patterns of cases are not file names
for step in $steps; do
  echo "#### $step"
  { $step || touch "$out/failed"; } 2>&1 | tee "$out/$step.txt"
done
[ ! -e "$out/failed" ]
