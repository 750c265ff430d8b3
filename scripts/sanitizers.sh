# How the sanitizers run with a prebuilt LLVM. Sourced after common.sh.
#
# LLVM's allocators poison memory in code of ours that is inlined from its
# headers and cannot unpoison it in Debian's libraries: no user poisoning.
# Contexts are left to the end of the process: no leak check. Memory of LLVM's
# inline functions may be taken in its code and given back in ours, each with
# an operator of its own: no check that they match.
export ASAN_OPTIONS=allow_user_poisoning=0:detect_leaks=0
ASAN_OPTIONS=$ASAN_OPTIONS:detect_odr_violation=0:alloc_dealloc_mismatch=0
export UBSAN_OPTIONS=print_stacktrace=1
[ -z "${CI:-}" ] || export ASAN_OPTIONS="$ASAN_OPTIONS:color=never"
ASAN_SYMBOLIZER_PATH=/usr/lib/llvm-22/bin/llvm-symbolizer
export ASAN_SYMBOLIZER_PATH
