#!/bin/sh
# pack.sh [BUILD [FOLDER]]: collects what run.sh needs on a GPU machine, small
# enough to carry: the tools of a build and the scripts, compressed.
#
#   cmake --build build --target attnc attnc-gpu-harness libattnc bench-launch \
#     attnc-python
#   test/gpu/pack.sh build .device       # here
#   sh .device/run.sh                    # there; leaves .device/out
set -e
source=$(cd "$(dirname "$0")/../.." && pwd)
build=${1:-$source/build}
folder=${2:-$source/.device}
mkdir -p "$folder/test/gpu" "$folder/benchmarks"
for file in bin/attnc lib/libattnc-gpu-harness.so lib/libattnc.so \
  bin/bench-launch; do
  file=$build/$file
  [ -e "$file" ] || continue # the steps that need it say so
  packed=$folder/$(basename "$file").xz
  if [ ! "$packed" -nt "$file" ]; then
    strip -o "$packed.tmp" "$file"
    xz -5 -T0 -c "$packed.tmp" >"$packed"
    rm "$packed.tmp"
  fi
done
if [ -e "$build/python/attnc/_attnc.abi3.so" ]; then
  rm -rf "$folder/python"
  cp -R "$build/python" "$folder/python"
fi
cp "$source"/test/gpu/*.py "$folder/test/gpu/"
cp "$source"/benchmarks/*.py "$source"/benchmarks/*.json "$folder/benchmarks/"
cp "$source"/test/gpu/run.sh "$folder/"
git -C "$source" rev-parse HEAD >"$folder/commit"
du -sh "$folder"
