#!/bin/sh
# Stands in for ptxas: the "machine code" is the PTX behind the four bytes that
# machine code begins with, and a kernel spills if a line of its PTX matches
# the regular expression $SPILLS.
if [ "$1" = --version ]; then
  echo "Cuda compilation tools, release 13.0, V13.0.88"
  exit
fi
in=$4 out=$6
printf '\177ELF' >"$out"
cat "$in" >>"$out"
awk -v spills="$SPILLS" '
function finish() {
  if (kernel == "")
    return
  print "ptxas info    : Compiling entry function \047" kernel \
    "\047 for \047sm_90a\047"
  print spilled ? "    32 bytes stack frame, 48 bytes spill stores, " \
    "64 bytes spill loads" : "    0 bytes stack frame, 0 bytes spill stores, " \
    "0 bytes spill loads"
  print "ptxas info    : Used 168 registers, used 16 barriers"
}
/^\.visible \.entry / {
  finish()
  kernel = $3
  sub(/\(.*/, "", kernel)
  spilled = 0
}
$0 ~ spills { spilled = 1 }
END { finish() }
' "$in"
