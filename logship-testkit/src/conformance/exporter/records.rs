//! What is exported, and how it is found again.

use std::future::Future;
use std::ops::Range;
use std::time::{Duration, Instant};

use logship_core::{
    Advice, Certainty, Chunk, Error, Exporter, LogRecord, Outcome, Page, PageEnd, Partition, Timestamp,
};

use super::ExporterFixture;
use crate::conformance::plain::record;

/// What each record's text begins with.
pub(super) const MARK: &str = "conformance record ";

/// How long an export that was dropped is given to do harm.
pub(super) const COPIES_SETTLE: Duration = Duration::from_millis(10);

/// How long an export may take by the clock on the wall, while the runtime's stands still.
const PATIENCE: Duration = if cfg!(test) { Duration::from_secs(1) } else { Duration::from_secs(30) };

/// The record of this number, whose length varies.
pub(super) fn numbered(partition: &str, number: usize) -> LogRecord {
    let filler = "x".repeat(number * 37 % 400);
    // Of now, as some destinations take no old records; of one moment, as a repeat is of the same record.
    static NOW: std::sync::OnceLock<Timestamp> = std::sync::OnceLock::new();
    let time = NOW.get_or_init(Timestamp::now).saturating_add(Duration::from_millis(number as u64));
    record(partition, number as i64 + 1, time, format!("{MARK}{number:06} {filler}"))
}

/// A chunk of these records, of a partition that no other chunk of the test is of.
pub(super) fn chunk(exporter: &dyn Exporter, range: &Range<usize>) -> Chunk {
    chunk_of(exporter, &format!("kit-{}", range.start), range.clone())
}

/// A chunk of these records of a partition.
pub(super) fn chunk_of(exporter: &dyn Exporter, partition: &str, range: Range<usize>) -> Chunk {
    packed(exporter, partition, range.map(|number| numbered(partition, number)).collect())
}

/// A chunk in which the records at these places are such that the destination refuses them, if there are such.
pub(super) fn spoilt(
    fixture: &dyn ExporterFixture,
    exporter: &dyn Exporter,
    range: Range<usize>,
    places: &[usize],
) -> Option<Chunk> {
    let mut records: Vec<LogRecord> = range.map(|number| numbered("kit", number)).collect();
    let can_spoil = places.iter().all(|place| fixture.spoil(&mut records[*place]));
    can_spoil.then(|| packed(exporter, "kit", records))
}

fn packed(exporter: &dyn Exporter, partition: &str, records: Vec<LogRecord>) -> Chunk {
    let page = Page::new(Partition::new(partition), records, PageEnd::More);
    Chunk::of_page(page, exporter.encoding().as_deref()).expect("a chunk can be packed")
}

/// Exports these records, and holds the answer against what the contract says of any answer.
pub(super) async fn export(
    fixture: &dyn ExporterFixture,
    exporter: &dyn Exporter,
    range: &Range<usize>,
) -> Result<Outcome, Error> {
    let result = exporter.export(&chunk(exporter, range)).await;
    let held = held(fixture).await;
    match &result {
        Ok(outcome) => {
            assert_eq!(outcome.len(), range.len(), "contract 2: an outcome of another chunk: {outcome:?}");
            for index in accepted(outcome) {
                let number = range.start + index;
                assert!(held.contains(&number), "contract 1: record {number} is accepted and not there: {outcome:?}");
            }
        }
        Err(error) => {
            let taken = range.clone().filter(|number| held.contains(number)).count();
            let is_honest = taken == 0 || error.certainty() == Certainty::Unknown;
            assert!(is_honest, "contract 4: {taken} records are there that certainly are not: {error:?}");
            let is_split = error.advice() == Advice::Split;
            assert!(taken == 0 || !is_split, "contract 5: split, and {taken} records are there: {error:?}");
        }
    }
    result
}

/// The places of the records that were accepted.
pub(super) fn accepted(outcome: &Outcome) -> Vec<usize> {
    let rejected: Vec<usize> = outcome.rejected().map(|(index, _)| index).collect();
    let undelivered: Vec<usize> = outcome.undelivered().collect();
    let places: Vec<usize> =
        (0..outcome.len()).filter(|index| !rejected.contains(index) && !undelivered.contains(index)).collect();
    assert_eq!(places.len(), outcome.accepted_count(), "contract 2: {outcome:?}");
    places
}

/// The numbers of the records that the destination holds, in order, each as often as it is there.
pub(super) async fn held(fixture: &dyn ExporterFixture) -> Vec<usize> {
    let number = |text: &String| {
        let (_, behind) = text.split_once(MARK).unwrap_or_else(|| panic!("a record without its body is there: {text}"));
        behind[..6].parse::<usize>().expect("a number of six digits")
    };
    let mut numbers: Vec<usize> = fixture.held().await.iter().map(number).collect();
    numbers.sort_unstable();
    numbers
}

/// Waits for a future while the runtime's clock stands still.
///
/// # Panics
/// If the future waits for that clock.
pub(super) async fn without_time<F: Future>(future: F) -> F::Output {
    tokio::time::pause();
    let began = Instant::now();
    // A runtime that has nothing to do moves a clock that stands still, so it is kept busy.
    let watch = async {
        while began.elapsed() < PATIENCE {
            tokio::task::yield_now().await;
        }
    };
    let output = tokio::select! {
        biased;
        output = future => output,
        () = watch => panic!("contract 6: an export waits for time to pass"),
    };
    tokio::time::resume();
    output
}
