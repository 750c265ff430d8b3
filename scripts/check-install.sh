#!/bin/sh
# check-install.sh: installs the build that is there, moves the result, builds
# and runs the examples against it as users would (find_package, pkg-config),
# and uninstalls. Ends with `N passed, N failed`.

set -eu
cd "$(dirname "$0")/.."
. scripts/common.sh

work=$build/install-check
rm -rf "$work"
mkdir -p "$work"
quietly "$work/build.log" ninja -C "$build" attnc attnc-opt libattnc
passed=0 failed=0

# check WHAT COMMAND...
check() {
  what=$1
  shift
  if "$@" >>"$work/log" 2>&1 </dev/null; then
    passed=$((passed + 1)) && echo "ok      $what"
  else
    failed=$((failed + 1)) && echo "FAILED  $what"
  fi
}

install() {
  cmake --install "$build" --prefix "$work/first"
}

# run FOLDER: the examples there agree with what they check themselves.
run() {
  ATTNC_CACHE_DIR=$work/cache "$1/example-c" "$work/causal.mlir" &&
    ATTNC_CACHE_DIR=$work/cache "$1/example-cpp" "$work/full.mlir"
}

with_cmake() {
  mkdir -p "$work/cmake"
  cat >"$work/cmake/CMakeLists.txt" <<END
cmake_minimum_required(VERSION 3.25)
project(user LANGUAGES C CXX)
find_package(attnc 0.1 REQUIRED CONFIG)
add_executable(example-c $root/examples/c/attention.c)
add_executable(example-cpp $root/examples/cpp/attention.cpp)
target_link_libraries(example-c attnc::attnc m)
target_link_libraries(example-cpp attnc::attnc)
END
  cmake -G Ninja -S "$work/cmake" -B "$work/cmake/build" \
    -DCMAKE_PREFIX_PATH="$work/moved" && ninja -C "$work/cmake/build" &&
    run "$work/cmake/build"
}

# Without pkg-config its file is read as it would be.
pkg_config() {
  PKG_CONFIG_PATH=$work/moved/lib/pkgconfig
  export PKG_CONFIG_PATH
  if command -v pkg-config >/dev/null; then
    pkg-config "$@"
  else
    sed -n "s,\${pcfiledir},$PKG_CONFIG_PATH,; s,\${prefix},$work/moved,
      s,\${includedir},$work/moved/include,; s,\${libdir},$work/moved/lib,
      s/^Cflags: //p; s/^Libs: //p" "$PKG_CONFIG_PATH/attnc.pc"
  fi
}

with_pkg_config() {
  mkdir -p "$work/pc"
  flags="$(pkg_config --cflags --libs attnc) -Wl,-rpath,$work/moved/lib"
  # shellcheck disable=SC2086
  cc examples/c/attention.c -o "$work/pc/example-c" $flags -lm &&
    c++ -std=c++17 examples/cpp/attention.cpp -o "$work/pc/example-cpp" \
      $flags && run "$work/pc"
}

# The next install would be taken away from elsewhere: the first place again.
uninstall() {
  mv "$work/moved" "$work/first"
  ninja -C "$build" uninstall && [ -z "$(find "$work/first" -type f)" ] &&
    [ -z "$(find "$work/first" -name attnc)" ]
}

check "cmake --install" install
mv "$work/first" "$work/moved"
check "attnc" "$work/moved/bin/attnc" gen --causal -o "$work/causal.mlir"
"$work/moved/bin/attnc" gen -o "$work/full.mlir"
check "find_package(attnc)" with_cmake
check "pkg-config attnc" with_pkg_config
check "uninstall" uninstall
[ $failed -eq 0 ] || tail -n 60 "$work/log"
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
