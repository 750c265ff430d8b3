# restart.sh IN.mlir TARGET END DIR: going on from every phase up to END gives
# byte for byte what the direct compile gives, both at the next phase and at
# END. What can be reached at all is reached through these.
set -eu
in=$1 target=$2 end=$3 dir=$4
mkdir -p "$dir"
phases=$(attnc help phases | sed -n "/--target=$target:/,/^phases/p" |
  sed -n 's/^  \([a-z0-9]*\) .*/\1/p' | sed "/^$end\$/q")
attnc "$in" --target="$target" --emit="$end" --dump-to="$dir" -o "$dir/$end"
count=0
before=
for phase in $phases; do
  attnc "$in" --target="$target" --emit="$phase" -o "$dir/$phase"
  cmp "$dir/$phase" "$dir"/[0-9]*-"$phase".* >&2
  if [ -n "$before" ]; then
    attnc - --target="$target" --emit="$phase" < "$dir/$before" |
      cmp - "$dir/$phase" >&2
  fi
  attnc - --target="$target" --emit="$end" < "$dir/$phase" |
    cmp - "$dir/$end" >&2
  count=$((count + 1))
  before=$phase
done
[ "$before" = "$end" ]
echo "$count phases, all the same, up to $end"
