#!/bin/sh
# check-labels.sh: whether every label that docs/semantics.md defines stands in
# the sources (op docs, verifiers, lowerings) and in a test, and whether the
# labels used there are defined.

set -eu
cd "$(dirname "$0")/.."
spec=docs/semantics.md
sources='dialects passes lib tools'
passed=0 failed=0

fail() {
  echo "$*"
  failed=$((failed + 1))
}

labels=$(grep -o '\*\*[SA]-[a-z0-9-]*\*\*' $spec | tr -d '*' | sort -u)
for label in $labels; do
  before=$failed
  # Not the start of a longer label, nor the end of another word.
  pattern="(^|[^A-Za-z0-9-])$label($|[^a-z0-9-])"
  # shellcheck disable=SC2086
  git grep -qE "$pattern" -- $sources || fail "$label: in no source"
  git grep -qE "$pattern" -- test || fail "$label: in no test"
  [ $failed -ne $before ] || passed=$((passed + 1))
done

# shellcheck disable=SC2086
used=$(git grep -ohE '(^|[^A-Za-z0-9-])[SA]-[a-z][a-z0-9-]*[a-z0-9]' -- \
  $sources test docs README.md | sed 's/^[^SA]*//' | sort -u)
for label in $used; do
  echo "$labels" | grep -qx -- "$label" || fail "$label: not in $spec"
done

echo "$passed passed, $failed failed"
[ $failed -eq 0 ] && [ $passed -gt 0 ]
