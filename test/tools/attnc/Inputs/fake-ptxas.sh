#!/bin/sh
# Stands in for ptxas: the "machine code" is the PTX behind the four bytes that
# machine code begins with, and it spills if a line of the PTX matches the
# regular expression $SPILLS.
if [ "$1" = --version ]; then
  echo "Cuda compilation tools, release 13.0, V13.0.88"
  exit
fi
in=$4 out=$6
printf '\177ELF' >"$out"
cat "$in" >>"$out"
kernel=$(sed -n 's/^\.visible \.entry \([a-z_]*\)(.*/\1/p' "$in")
echo "ptxas info    : Compiling entry function '$kernel' for 'sm_90a'"
if grep -Eq "$SPILLS" "$in"; then
  echo "    32 bytes stack frame, 48 bytes spill stores, 64 bytes spill loads"
else
  echo "    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads"
fi
echo "ptxas info    : Used 168 registers, used 16 barriers"
