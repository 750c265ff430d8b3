#!/bin/sh
# setup.sh: installs what is missing and builds the tools into build/bin.
#
#   ./setup.sh          the tools
#   ./setup.sh --all    the tools, the tests and the benchmarks
#
# On Debian the packages come from apt, as root or through sudo; elsewhere the
# script names what is missing and stops. Python packages go to .venv, never to
# the system. With nothing to do it prints nothing.

set -eu
cd "$(dirname "$0")"
. scripts/common.sh

targets=tools/all
for arg; do
  case $arg in
  --all) targets=all ;;
  -h | --help) sed -n '2,/^$/s/^# \{0,1\}//p' "$0" && exit 0 ;;
  *) die "unknown argument '$arg'; setup.sh knows --all" ;;
  esac
done

# --- what must be there: "package probe", the probe a command or a file ------

llvm=/usr/lib/llvm-22
needs="
make make
cmake cmake
ninja-build ninja
git git
g++ c++
clang-22 clang++-22
libclang-rt-22-dev $llvm/lib/clang/22/lib/linux/libclang_rt.fuzzer-x86_64.a
clang-format-22 clang-format-22
clang-tidy-22 clang-tidy-22
lld-22 $llvm/bin/ld.lld
llvm-22-dev $llvm/lib/cmake/llvm/LLVMConfig.cmake
llvm-22-tools $llvm/bin/FileCheck
libmlir-22-dev $llvm/lib/cmake/mlir/MLIRConfig.cmake
mlir-22-tools $llvm/bin/mlir-tblgen
zlib1g-dev /usr/include/zlib.h
libzstd-dev /usr/include/zstd.h
libgtest-dev /usr/include/gtest/gtest.h
libbenchmark-dev /usr/include/benchmark/benchmark.h
libopenblas-dev libopenblas.so
python3 python3
python3-dev /usr/bin/python3-config
"

# there PROBE: whether a command runs, a library is known, or a file exists.
there() {
  case $1 in
  /*) [ -e "$1" ] || [ -e "$(echo "$1" | sed 's,/linux/,/*/,')" ] ;;
  *.so) ldconfig -p 2>/dev/null | grep -q "$1" || [ -e "/usr/lib/$1" ] ;;
  *) "$1" --version >/dev/null 2>&1 </dev/null ;;
  esac
}

missing=$(echo "$needs" | while read -r package probe; do
  [ -z "$package" ] || there "$probe" || echo "$package"
done)
# venv is a package of its own on Debian, with no file to probe for.
python3 -c 'import ensurepip, venv' 2>/dev/null </dev/null ||
  missing="$missing python3-venv"
missing=$(echo $missing) # one line

if [ -n "$missing" ]; then
  if ! command -v apt-get >/dev/null; then
    echo "attnc needs LLVM and MLIR 22 in $llvm and some tools." >&2
    echo "Not found here; the Debian names are:" >&2
    for package in $missing; do echo "  $package" >&2; done
    die "install these with your package manager, then run ./setup.sh again"
  fi
  if [ "$(id -u)" -eq 0 ]; then
    sudo=
  elif command -v sudo >/dev/null; then
    sudo='sudo -E'
  else
    die "not root and no sudo; run as root: apt-get install $missing"
  fi
  say "setup: installing $missing"
  log=$build/setup-apt.log
  install="$sudo apt-get install -y --no-install-recommends $missing"
  mkdir -p "$build"
  # Package lists may be absent or old: only then fetch them.
  $install >"$log" 2>&1 </dev/null || {
    quietly "$log" $sudo apt-get update
    $install >"$log" 2>&1 </dev/null || {
      grep '^E: ' "$log" >&2 || tail -n 5 "$log" >&2
      die "apt-get cannot install these; LLVM 22 is in Debian 12
and 13 (security updates). The log is $log"
    }
  }
fi

# --- Python, in .venv only ----------------------------------------------------

wanted=$(cksum <scripts/requirements.txt)
if [ "$(cat .venv/attnc-requirements 2>/dev/null)" != "$wanted" ]; then
  say "setup: making .venv"
  for python in python3 /usr/bin/python3 none; do
    "$python" -c 'import sys, ensurepip, venv
sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break
  done
  [ "$python" != none ] || die "no Python 3.11 or newer with venv on the PATH"
  quietly "$build/setup-venv.log" "$python" -m venv .venv
  quietly "$build/setup-venv.log" .venv/bin/pip install -q \
    -r scripts/requirements.txt
  echo "$wanted" >.venv/attnc-requirements
fi

# --- ptxas: any from CUDA 12.4 on, else NVIDIA's wheel ------------------------

# recent PTXAS: whether it runs and is of CUDA 12.4 or newer.
recent() {
  release=$("$1" --version 2>/dev/null </dev/null |
    sed -n 's/.*release \([0-9]*\)\.\([0-9]*\),.*/\1 \2/p')
  [ -n "$release" ] || return 1
  [ "${release% *}" -gt 12 ] ||
    { [ "${release% *}" -eq 12 ] && [ "${release#* }" -ge 4 ]; }
}

# ptxas_path: the first that will do; the wheel unpacks to the last of them.
ptxas_path() {
  for ptxas in "${ATTNC_PTXAS:-}" "$(command -v ptxas || :)" \
    /usr/local/cuda/bin/ptxas /opt/cuda/bin/ptxas \
    "$root"/.venv/lib/python3.*/site-packages/nvidia/cu13/bin/ptxas; do
    [ -x "$ptxas" ] && recent "$ptxas" && echo "$ptxas" && return 0
  done
  return 1
}

mkdir -p "$build/bin"
if ! recent "$build/bin/ptxas"; then
  if ! ptxas=$(ptxas_path); then
    say "setup: fetching ptxas"
    quietly "$build/setup-ptxas.log" .venv/bin/pip install -q --no-deps \
      nvidia-cuda-nvcc==13.0.88
    ptxas=$(ptxas_path) || die "the nvidia-cuda-nvcc wheel has no ptxas for \
this machine; install CUDA 12.4 or newer, or set ATTNC_PTXAS"
  fi
  ln -sfn "$ptxas" "$build/bin/ptxas"
fi

# --- configure and build ------------------------------------------------------

# A build folder that was copied or moved does not know where it is.
if [ -f "$build/CMakeCache.txt" ] &&
  ! grep -qx "CMAKE_HOME_DIRECTORY:INTERNAL=$root" "$build/CMakeCache.txt"; then
  rm -rf "$build/CMakeCache.txt" "$build/CMakeFiles"
fi
if ! [ -f "$build/build.ninja" ]; then
  say "setup: configuring"
  quietly "$build/setup-cmake.log" cmake --preset release
fi

# The plan itself first, so that the steps that are left can be counted.
jobs=$(job_limit)
quietly "$build/setup-cmake.log" ninja -C "$build" build.ninja
todo=$(ninja -C "$build" -n $targets 2>/dev/null | tail -n 1)
case $todo in
*'no work to do'*) ;;
*)
  steps=$(echo "$todo" | sed -n 's,^\[[0-9]*/\([0-9]*\)\].*,\1,p')
  say "setup: building, ${steps:-some} steps, $jobs at a time"
  if [ -t 1 ]; then
    NINJA_STATUS='[%f/%t %es] ' ninja -C "$build" -j "$jobs" $targets
  else
    quietly "$build/setup-build.log" ninja -C "$build" -j "$jobs" $targets
  fi
  ;;
esac
