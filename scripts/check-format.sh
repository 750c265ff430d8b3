#!/bin/sh
# check-format.sh: whether every C++ file that git does not ignore is as clang-format
# wants it, within 80 columns. `--fix` formats them instead.

set -eu
cd "$(dirname "$0")/.."
mode='--dry-run -Werror'
[ "${1:-}" != --fix ] || mode=-i
git ls-files -co --exclude-standard -z -- '*.cpp' '*.h' | xargs -0 clang-format-22 $mode
