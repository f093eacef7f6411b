# Sourced by the tests of scripts that check a list, with the repository's root as $1: what a list says
# of the sources is right, and what goes stale is found.
# `program` is the script that reads the list, and what makes it check; `needed` what it reads.
set -euo pipefail
root=$1
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
failed=0

fresh() {
  rm -rf "${copy:?}"/*
  (cd "$root" && cp -R --parents "scripts/${program[0]}" "${needed[@]}" "$copy")
}

run() { "$copy/scripts/${program[0]}" "${program[@]:1}"; }

right() {
  fresh
  run || failed=1
}

# spoilt WHAT FILE SED EXPECTED: after `sed` the check fails, and says so.
spoilt() {
  fresh
  sed -i "$3" "$copy/$2"
  if cmp -s "$root/$2" "$copy/$2"; then
    echo "FAILED: $1: nothing was changed"
    failed=1
  elif said=$(run 2>&1); then
    echo "FAILED: $1: not found"
    failed=1
  elif ! grep -qF -- "$4" <<<"$said"; then
    printf 'FAILED: %s: said\n%s\n' "$1" "$said"
    failed=1
  fi
}
