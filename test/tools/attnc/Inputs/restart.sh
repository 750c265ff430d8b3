# restart.sh IN.mlir TARGET DIR: going on from every phase P of a target, to
# every later phase, gives byte for byte what the direct compile gives.
set -eu
in=$1 target=$2 dir=$3
mkdir -p "$dir"
phases=$(attnc help phases | sed -n "/--target=$target:/,/^phases/p" |
  sed -n 's/^  \([a-z0-9]*\) .*/\1/p')
last=
for phase in $phases; do
  attnc "$in" --target="$target" --emit="$phase" -o "$dir/$phase.direct"
  last=$phase
done
count=0
for phase in $phases; do
  for later in $(echo "$phases" | sed -n "/^$phase\$/,\$p"); do
    attnc - --target="$target" --emit="$later" \
      < "$dir/$phase.direct" > "$dir/$phase-$later.restarted"
    cmp "$dir/$phase-$later.restarted" "$dir/$later.direct" >&2
    count=$((count + 1))
  done
done
echo "$count restarts, all the same, up to $last"
