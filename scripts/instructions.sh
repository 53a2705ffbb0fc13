#!/usr/bin/env bash
# Counts the instructions that each hot stage takes for a record, and holds them against benches/instructions/figures.txt:
# time is noise on shared machines, instructions are not. Fails where a stage takes 5 % more than its figure.
#
#   scripts/instructions.sh            compares
#   scripts/instructions.sh --store    writes the figures of this build, to be committed with the reason
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/logship/target}/instructions"
figures=benches/instructions/figures.txt
records=1000 times=10 tolerance=5

if ! command -v valgrind >/dev/null; then
  apt-get update -q && apt-get install -y -q --no-install-recommends valgrind
fi
cargo build -q --release --locked --manifest-path benches/instructions/Cargo.toml
program="$CARGO_TARGET_DIR/release/instructions"

count() {
  local log
  log="$(mktemp)"
  valgrind --tool=callgrind --callgrind-out-file=/dev/null "$program" "$1" "$2" 2>"$log"
  sed -n 's/^==[0-9]*== Collected : //p' "$log"
  rm -f "$log"
}

stored="" failed=0
while read -r stage figure; do
  once="$(count "$stage" 1)" more="$(count "$stage" $((times + 1)))"
  counted=$(((more - once) / (times * records)))
  stored+="$stage $counted"$'\n'
  if [ "$counted" -gt $((figure + figure * tolerance / 100)) ]; then
    failed=1
    echo "MORE     $stage: $counted instructions a record, $figure are stored"
  else
    echo "passed   $stage: $counted instructions a record, $figure are stored"
  fi
done <"$figures"
if [ "${1:-}" = --store ]; then
  printf '%s' "$stored" >"$figures"
  exit 0
fi
[ "$failed" = 0 ] || echo "if the stage does more now, say so in the commit that stores new figures (scripts/instructions.sh --store)"
exit "$failed"
