#!/usr/bin/env bash
# Everything the project promises to pass: format, lints, docs, tests, the simulation, and each feature alone.
# Builds go to a folder that survives a fresh clone; set CARGO_TARGET_DIR for another.
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/logship/target}"
export RUSTDOCFLAGS="-D warnings"
step() { printf '\n== %s\n' "$*"; "$@"; }

if ! command -v cc >/dev/null; then
  # SQLite and the TLS provider hold a little C.
  apt-get update -q && apt-get install -y -q --no-install-recommends gcc libc6-dev
fi

step cargo fmt --all --check
step cargo clippy --workspace --all-targets --all-features --locked -- -D warnings
step cargo doc --workspace --all-features --no-deps --locked

# A feature that only builds together with others is not a feature.
step cargo check -q -p logship-core --no-default-features --locked
features_of() {
  cargo metadata --no-deps --format-version 1 --locked |
    python3 -c 'import json, sys; print(*sorted(f for p in json.load(sys.stdin)["packages"] if p["name"] == sys.argv[1] for f in p["features"] if f not in ("default", "full") and f[0] != "_"))' "$1"
}
for package in logship-connect logship-exporters logship-sources logship-state logship; do
  for feature in $(features_of "$package"); do
    step cargo check -q -p "$package" --no-default-features --features "$feature" --locked
  done
done

# Tests against real servers; one that could not run is a failure.
eval "$(scripts/servers.sh start)"
trap 'scripts/servers.sh stop' EXIT
export LOGSHIP_REQUIRE_SERVERS=1
step cargo test --workspace --all-features --locked

# A safety mechanism that no test misses is held by none; a parser that was never given nonsense is not known.
step scripts/mutations.sh
step scripts/fuzz.sh 5

# Time is noise on shared machines; the instructions of the hot stages are not.
step scripts/instructions.sh

# The main job, as the README's first command does it but for the optimiser.
step cargo build -q --example quickstart --locked
(cd "$(mktemp -d)" && step "$CARGO_TARGET_DIR/debug/examples/quickstart")
