//! What stores are filled with, and how it is read back.

use std::time::Duration;

use logship_core::{
    LogRecord, PageEnd, PageLimits, Partition, Query, RecordId, Severity, Source, Start, Timestamp, Value,
};

use super::SourceFixture;

/// A row that a fixture is to write into its log store.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Row {
    /// Which partition it goes to, counted from 0, of as many as
    /// [`partitions`](super::SourceFixture::partitions) says.
    pub partition: usize,
    /// What tells it from every other row, for stores that need a key. Not in the order of time; some differ in case
    /// or in accents only.
    pub key: String,
    /// Its time, in whole microseconds, or whatever the fixture's [`time_step`](super::SourceFixture::time_step) is.
    /// Several rows have the same.
    pub timestamp: Timestamp,
    /// Its severity; [`Severity::UNSPECIFIED`] for none.
    pub severity: Severity,
    /// Its attribute `namespace`.
    pub namespace: Option<String>,
    /// What it says, which no other row does.
    pub body: String,
}

/// 2026-11-20T08:30:00Z.
const BASE_SECS: i64 = 1_795_163_400;

/// Rows of each partition, with nine of one time, and neighbours that a comparison may take for equal.
pub(super) fn rows(partitions: usize, step: Duration) -> Vec<Row> {
    const KEYS: [&str; 9] = ["a", "B", "b", "A", "_", "ä", "z", "aa", "a b"];
    const NAMESPACES: [&str; 6] = ["", "company", "company.team", "companyx", "Company", "other"];
    const SEVERITIES: [Severity; 5] =
        [Severity::INFO, Severity::DEBUG, Severity::ERROR, Severity::UNSPECIFIED, Severity::WARN];
    let row = |partition: usize, number: usize| {
        // Every third of the last rows comes before its neighbours: stores are not filled in the order of time.
        let micros = match number {
            0..9 => 1_000_000,
            _ if number.is_multiple_of(3) => 2_000_000 - number,
            _ => 2_000_000 + number / 2,
        };
        Row {
            partition,
            key: format!("{}{}", KEYS.get(number).copied().unwrap_or("k"), if number < 9 { 0 } else { 99 - number }),
            timestamp: after_base(step, micros as i64),
            severity: SEVERITIES[number % SEVERITIES.len()],
            namespace: Some(NAMESPACES[number % NAMESPACES.len()].to_owned()).filter(|name| !name.is_empty()),
            body: format!("row {number} of {partition}"),
        }
    };
    (0..partitions).flat_map(|partition| (0..30).map(move |number| row(partition, number))).collect()
}

/// So many steps of time later.
fn after_base(step: Duration, steps: i64) -> Timestamp {
    Timestamp::from_nanos(BASE_SECS * 1_000_000_000 + steps * step.as_nanos() as i64)
}

/// One row of partition 0, with this text.
pub(super) fn row_saying(fixture: &dyn SourceFixture, body: impl Into<String>, steps: i64) -> Row {
    let body = body.into();
    let key = format!("x{steps}");
    let timestamp = after_base(fixture.time_step(), steps);
    Row { partition: 0, key, timestamp, severity: Severity::INFO, namespace: None, body }
}

/// Reads on behind `start` to the end, page by page, with positions going through their text as in an offset store.
/// Each page is held against what the contract says of a single one.
///
/// # Panics
/// Where it says otherwise.
pub async fn read_on(
    source: &dyn Source,
    partition: &Partition,
    mut start: Start,
    query: &Query,
    limits: PageLimits,
) -> Vec<LogRecord> {
    let mut records: Vec<LogRecord> = Vec::new();
    for _ in 0..10_000 {
        let page = source.read(partition, &start, query, limits).await.expect("a page can be read");
        let given = page.records();
        assert_eq!(page.partition(), partition, "contract 1: a page of another partition");
        assert!(given.iter().all(|record| record.id.partition() == partition), "contract 1: of another partition");
        let positions = || given.iter().map(|record| record.id.position());
        assert!(positions().is_sorted_by(|a, b| a < b), "contract 1: positions are not in order: {given:#?}");
        if let Start::After(cursor) = &start {
            assert!(positions().all(|position| position > cursor), "contract 1: not strictly after {cursor}");
        }
        assert!(given.len() <= limits.records_max, "contract 5: {} of {limits:?}", given.len());
        let bytes: usize = given.iter().map(LogRecord::size).sum();
        assert!(bytes <= limits.bytes_max || given.len() == 1, "contract 5: {bytes} bytes of {limits:?}");
        assert!(page.next() >= positions().last(), "contract 1: the page ends before its last record");
        records.extend_from_slice(given);
        if let (Some(next), Start::After(cursor)) = (page.next(), &start) {
            assert!(next >= cursor, "contract 4: back from {cursor} to {next}");
            assert!(next > cursor || page.end() == PageEnd::CaughtUp, "contract 4: more is to come and {next} stays");
        }
        match page.next() {
            Some(next) => {
                let text = next.to_string();
                start = Start::After(text.parse().expect("a position can be read from its text"));
            }
            None => assert_eq!(page.end(), PageEnd::CaughtUp, "contract 4: more is to come from nowhere"),
        }
        if page.end() == PageEnd::CaughtUp {
            return records;
        }
    }
    panic!("contract 4: ten thousand pages are not the end");
}

/// All records of all partitions, behind `start` in each.
pub(super) async fn read_all(source: &dyn Source, start: &Start, query: &Query, limits: PageLimits) -> Vec<LogRecord> {
    let mut records = Vec::new();
    for partition in source.partitions().await.expect("partitions are known") {
        records.extend(read_on(source, &partition, start.clone(), query, limits).await);
    }
    records
}

pub(super) fn ids(records: &[LogRecord]) -> Vec<&RecordId> {
    records.iter().map(|record| &record.id).collect()
}

/// Whether these are the records of these rows, each once and as it was written.
pub(super) fn assert_are(records: &[LogRecord], rows: &[Row], what: &str) {
    let mut given: Vec<&str> = records.iter().map(|record| record.body.as_str().unwrap_or_default()).collect();
    let mut expected: Vec<&str> = rows.iter().map(|row| row.body.as_str()).collect();
    given.sort_unstable();
    expected.sort_unstable();
    assert_eq!(given, expected, "not each record once: {what}");
    for row in rows {
        let record = records.iter().find(|record| record.body.as_str() == Some(&row.body)).unwrap();
        let namespace = record.attribute("namespace").and_then(Value::as_str);
        let is_same = record.timestamp == row.timestamp && record.severity == row.severity;
        assert!(is_same && namespace == row.namespace.as_deref(), "{record:?} is not {row:?}");
    }
}
