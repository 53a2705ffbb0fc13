#!/usr/bin/env bash
# Fuzzes every target for some seconds each (10 unless told otherwise), on the stable toolchain:
#
#   scripts/fuzz.sh [SECONDS_PER_TARGET] [TARGET...]
#
# What is found on the way is kept beside the build, so that the next run goes on from there.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds="${1:-10}"
shift || true
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/logship/target}/fuzz"
host=x86_64-unknown-linux-gnu

if ! command -v g++ >/dev/null; then
  # libFuzzer is C++.
  apt-get update -q && apt-get install -y -q --no-install-recommends g++
fi

targets=("$@")
[ "${#targets[@]}" -gt 0 ] || for file in fuzz/targets/*.rs; do targets+=("$(basename "$file" .rs)"); done

# With --target, build scripts are not instrumented.
export RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 --cfg fuzzing"
cargo build --release --locked --manifest-path fuzz/Cargo.toml --target "$host" "${targets[@]/#/--bin=}"

failed=0
for target in "${targets[@]}"; do
  found="$CARGO_TARGET_DIR/corpus/$target" crashes="$CARGO_TARGET_DIR/crashes/$target/" log="$CARGO_TARGET_DIR/$target.log"
  program="$CARGO_TARGET_DIR/$host/release/$target"
  mkdir -p "$found" "$crashes"
  if "$program" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=4096 -artifact_prefix="$crashes" \
    -print_final_stats=1 "$found" "fuzz/corpus/$target" >"$log" 2>&1; then
    runs="$(sed -n 's/^stat::number_of_executed_units: //p' "$log")"
    echo "passed   $target: ${runs:-?} runs"
  else
    failed=1
    echo "FAILED   $target"
    tail -n 40 "$log"
    crash="$(sed -n 's/.*Test unit written to //p' "$log" | tail -n 1)"
    echo "replay with: $program ${crash:-$crashes}"
  fi
done
exit "$failed"
