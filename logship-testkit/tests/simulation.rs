//! The promises of the engine, over many seeds.

#![allow(clippy::panic, clippy::expect_used, reason = "a test says why it fails")]

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use logship_testkit::sim::run_seed;

/// Interesting things that must happen in some seed, or the simulation has become vacuous.
const SOMETIMES: &[&str] = &[
    "a chunk was split",
    "a commit failed",
    "a destination answered nothing for a whole process",
    "a window changed and its offset stayed",
    "a window was closed",
    "an offset moved over rows that nobody wants",
    "an offset moved together with its window",
    "the clock was ahead",
    "the clock was behind",
    "a commit failed after it was applied",
    "a commit was fenced",
    "a crash between delivery and commit",
    "a dead letter was not taken at once",
    "a dead letter was taken",
    "a giant went to the dead letter",
    "a lane gave up",
    "a lane stopped for good",
    "a lost lease was noticed when renewing",
    "a read failed",
    "a record was not named",
    "a record was refused",
    "a repeat was announced",
    "an answer was lost",
    "an attempt hung",
    "an attempt hung after it arrived",
    "an empty page that is not the end",
    "a page of raw records",
    "a deletion failed in the middle",
    "a row is still to appear behind the offset",
    "a row that nobody shipped was not deleted",
    "asked to wait",
    "credentials were refreshed",
    "late rows were shipped",
    "rows were deleted",
    "the key was taken",
];

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is `{text}`, which is not a number")))
}

/// Goal: P1, P3, P5, P6, P8, P9 and P11 hold whatever happens. Method: one world a seed; a seed that fails is printed
/// with the command that replays it.
#[test]
fn the_promises_hold_for_every_seed() {
    let seeds = match number("LOGSHIP_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("LOGSHIP_SIM_SEEDS").unwrap_or(2_000),
    };
    let alone = seeds.end - seeds.start == 1;
    let next = AtomicU64::new(seeds.start);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let coverage: BTreeSet<&str> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(|| some_seeds(&next, seeds.end))).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("every promise holds")).collect()
    });
    let missing: Vec<_> = SOMETIMES.iter().filter(|what| !coverage.contains(*what)).collect();
    assert!(alone || missing.is_empty(), "no seed showed: {missing:?}");
}

/// Runs seeds for as long as there are any, and says what they covered.
fn some_seeds(next: &AtomicU64, end: u64) -> BTreeSet<&'static str> {
    let mut coverage = BTreeSet::new();
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= end {
            return coverage;
        }
        let replay = format!("LOGSHIP_SIM_SEED={seed} cargo test -p logship-testkit --test simulation -- --nocapture");
        let findings = match std::panic::catch_unwind(|| run_seed(seed)) {
            Ok(findings) => findings.expect("a runtime"),
            Err(_) => panic!("seed {seed} panicked; replay it with\n  {replay}"),
        };
        let violations = findings.violations.join("\n  ");
        assert!(
            findings.violations.is_empty(),
            "seed {seed} broke a promise:\n  {violations}\nreplay it with\n  {replay}"
        );
        coverage.extend(findings.coverage);
    }
}

/// Goal: a failure can be replayed. Method: the same seed twice.
#[test]
fn a_seed_is_the_same_run_every_time() {
    for seed in 0..20 {
        let (first, second) = (run_seed(seed).expect("a runtime"), run_seed(seed).expect("a runtime"));
        assert_eq!(first.coverage, second.coverage, "seed {seed}");
        assert_eq!(first.violations, second.violations, "seed {seed}");
    }
}
