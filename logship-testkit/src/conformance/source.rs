//! What any [`Source`] must do, by the numbers of its contract.
//!
//! ```
//! use logship_core::{Source, async_trait};
//! use logship_testkit::conformance::source::{Row, SourceFixture};
//! # use logship_core::{Error, Page, PageLimits, Partition, Query, Start};
//! # #[derive(Debug)]
//! # struct MySource;
//! # impl MySource { fn at(_: &std::path::Path) -> Self { MySource } }
//! # #[async_trait]
//! # impl Source for MySource {
//! #     fn kind(&self) -> &'static str { "mine" }
//! #     fn fingerprint(&self) -> String { String::new() }
//! #     async fn partitions(&self) -> Result<Vec<Partition>, Error> { unimplemented!() }
//! #     async fn read(&self, _: &Partition, _: &Start, _: &Query, _: PageLimits) -> Result<Page, Error> { unimplemented!() }
//! # }
//!
//! // In a file of `tests`: a log store of each test's own, which is empty.
//! struct Fixture(std::path::PathBuf);
//!
//! #[async_trait]
//! impl SourceFixture for Fixture {
//!     async fn fill(&self, rows: &[Row]) {
//!         for row in rows {
//!             // Writes it as the programs do whose logs these are.
//!             let _line = format!("{} {} {}", row.timestamp, row.severity, row.body);
//!         }
//!     }
//!
//!     async fn open(&self) -> Box<dyn Source> {
//!         Box::new(MySource::at(&self.0))
//!     }
//! }
//!
//! async fn fixture(test: &'static str) -> Option<Fixture> {
//!     Some(Fixture(std::env::temp_dir().join(test)))
//! }
//!
//! logship_testkit::source_conformance!(fixture);
//! ```

use std::collections::BTreeSet;
use std::time::Duration;

use logship_core::{
    ArrivalOrder, ErrorKind, Filter, LogRecord, PageLimits, Query, RecordId, Severity, Source, Start, Timestamp,
    async_trait,
};

pub use self::rows::{Row, read_on};
use self::rows::{assert_are, ids, read_all, row_saying, rows};
use super::{POLLS_MAX, cut};

mod rows;

/// A log store that is empty at first, and sources that read it.
#[async_trait]
pub trait SourceFixture: Send + Sync {
    /// Writes these rows, beside those that are there.
    async fn fill(&self, rows: &[Row]);

    /// A new source of what was filled in, as another process has it. Records have the row's time, severity, attribute
    /// `namespace` and body.
    async fn open(&self) -> Box<dyn Source>;

    /// How many partitions the store can be filled in. By default one.
    fn partitions(&self) -> usize {
        1
    }

    /// The finest time that the store keeps. By default a microsecond.
    fn time_step(&self) -> Duration {
        Duration::from_micros(1)
    }

    /// Whether the source can delete. By default it cannot.
    fn can_delete(&self) -> bool {
        false
    }

    /// Takes the store away, or makes it unreadable. `false`, as by default, where that cannot be done.
    async fn take_away(&self) -> bool {
        false
    }

    /// Writes this row with the present time, in a transaction that is left open, and says that time. `None`, as by
    /// default, where there is no such thing.
    async fn begin_write(&self, row: Row) -> Option<Timestamp> {
        let _ = row;
        None
    }

    /// Ends that transaction, so that the row is there.
    async fn end_write(&self) {}
}

/// Writes a test for each line of the contract of [`Source`].
///
/// Takes an `async fn(&'static str) -> Option<impl SourceFixture>`, which is given the test's name, and the name of the
/// module before it if there is to be more than one. Without a fixture a test is skipped.
#[macro_export]
macro_rules! source_conformance {
    ($fixture:expr) => {
        $crate::source_conformance!(conformance, $fixture);
    };
    ($module:ident, $fixture:expr) => {
        $crate::conformance_tests!(
            $module, $fixture, source:
            c1_each_record_is_given_once_and_in_order,
            c1_a_start_is_exclusive,
            c1_a_start_in_time_takes_that_moment_in,
            c2_another_instance_gives_the_same_ids,
            c3_what_is_wanted_is_what_the_query_says,
            c4_a_page_without_records_is_not_the_end,
            c4_rows_that_are_added_later_are_found,
            c5_a_giant_record_is_given_alone,
            c5_nothing_from_a_time_on_is_given_or_passed,
            c6_a_store_that_is_gone_is_an_error,
            c7_a_read_that_is_dropped_loses_nothing,
            c7_reads_at_the_same_time_are_apart,
            c8_exactly_the_named_records_are_deleted,
            c9_positions_are_in_the_order_of_time,
            c10_nothing_older_than_the_horizon_appears,
        );
    };
}

/// Limits that no test comes near to.
pub const WIDE: PageLimits = PageLimits { records_max: 10_000, bytes_max: usize::MAX, until: None };

/// Small pages of several sizes, by records and by bytes.
const NARROW: [PageLimits; 5] = [
    PageLimits { records_max: 1, ..WIDE },
    PageLimits { records_max: 2, ..WIDE },
    PageLimits { records_max: 7, ..WIDE },
    PageLimits { bytes_max: 1, ..WIDE },
    PageLimits { bytes_max: 2_000, ..WIDE },
];

/// A fixture with rows in it, and a source.
async fn filled(fixture: &dyn SourceFixture) -> (Vec<Row>, Box<dyn Source>) {
    let rows = rows(fixture.partitions(), fixture.time_step());
    fixture.fill(&rows).await;
    (rows, fixture.open().await)
}

/// Contract 1: each record once and in order, with pages of one, two and seven records and of few bytes, through which
/// records of one time are cut.
pub async fn c1_each_record_is_given_once_and_in_order(fixture: &dyn SourceFixture) {
    let (rows, source) = filled(fixture).await;
    source.check().await.expect("the source is as configured");
    for limits in NARROW.into_iter().chain([WIDE]) {
        let records = read_all(&*source, &Start::Earliest, &Query::all(), limits).await;
        assert_are(&records, &rows, &format!("{limits:?}"));
    }
}

/// Contract 1: behind each position are exactly the records that came after it.
pub async fn c1_a_start_is_exclusive(fixture: &dyn SourceFixture) {
    let (_, source) = filled(fixture).await;
    for partition in source.partitions().await.unwrap() {
        let all = read_on(&*source, &partition, Start::Earliest, &Query::all(), WIDE).await;
        for (index, record) in all.iter().enumerate() {
            let start = Start::After(record.id.position().clone());
            let rest = read_on(&*source, &partition, start, &Query::all(), WIDE).await;
            assert_eq!(ids(&rest), ids(&all[index + 1..]), "behind {}", record.id);
        }
    }
}

/// Contract 1: a start in time is the first record that is not older. Behind it, sources whose order of arrival is total
/// may give older ones.
pub async fn c1_a_start_in_time_takes_that_moment_in(fixture: &dyn SourceFixture) {
    let (rows, source) = filled(fixture).await;
    let is_sorted = source.arrival_order() == ArrivalOrder::Bounded;
    let times: BTreeSet<Timestamp> = rows.iter().map(|row| row.timestamp).collect();
    let between = times.iter().map(|time| Timestamp::from_nanos(time.as_nanos() + 1));
    for time in times.iter().copied().chain(between) {
        for limits in [WIDE, PageLimits { records_max: 2, ..WIDE }] {
            let mut records = Vec::new();
            for partition in source.partitions().await.unwrap() {
                let given = read_on(&*source, &partition, Start::At(time), &Query::all(), limits).await;
                let is_first_young = given.first().is_none_or(|record| record.timestamp >= time);
                assert!(is_first_young, "from {time} on, {limits:?}, begins with {:?}", given.first());
                records.extend(given.into_iter().filter(|record| is_sorted || record.timestamp >= time));
            }
            let younger: Vec<Row> = rows.iter().filter(|row| row.timestamp >= time).cloned().collect();
            assert_are(&records, &younger, &format!("from {time} on, {limits:?}"));
        }
    }
}

/// Contract 2: a row has its id on every read and in every process, and no other row has it.
pub async fn c2_another_instance_gives_the_same_ids(fixture: &dyn SourceFixture) {
    let (_, source) = filled(fixture).await;
    let other = fixture.open().await;
    let first = read_all(&*source, &Start::Earliest, &Query::all(), WIDE).await;
    for limits in [WIDE, NARROW[1]] {
        let again = read_all(&*other, &Start::Earliest, &Query::all(), limits).await;
        assert!(first == again, "another instance gives other records: {first:#?} and {again:#?}");
    }
    let unique: BTreeSet<&RecordId> = ids(&first).into_iter().collect();
    assert_eq!(unique.len(), first.len(), "two rows have one id: {:#?}", ids(&first));
    assert_eq!(source.fingerprint(), other.fingerprint(), "offsets of one are of use to the other");
    assert!(!source.fingerprint().contains('\n'), "a fingerprint is one line");
}

/// Contract 3: what is read under a query is what [`Query::matches`] takes of all there is, whoever decides it.
pub async fn c3_what_is_wanted_is_what_the_query_says(fixture: &dyn SourceFixture) {
    let (_, source) = filled(fixture).await;
    let all = read_all(&*source, &Start::Earliest, &Query::all(), WIDE).await;
    let queries = [
        Query::all().severity_min(Severity::TRACE),
        Query::all().severity_min(Severity::INFO),
        Query::all().severity_min(Severity::ERROR),
        Query::all().namespace("company"),
        Query::all().namespace("company.team").severity_min(Severity::WARN),
        Query::all().filter(Filter::equals("namespace", "company")),
        Query::all().filter(Filter::one_of("namespace", ["Company", "other"])),
        Query::all().filter(Filter::one_of("namespace", Vec::<String>::new())),
        Query::all().filter(Filter::not_in("namespace", ["company", "other"])),
        Query::all().filter(Filter::equals("nowhere", "x")),
        Query::all().filter(Filter::not_in("nowhere", ["x"])).namespace("other"),
    ];
    for query in queries {
        let wanted: Vec<LogRecord> = all.iter().filter(|record| query.matches(record)).cloned().collect();
        for limits in [WIDE, NARROW[0], NARROW[2], NARROW[3]] {
            let given = read_all(&*source, &Start::Earliest, &query, limits).await;
            assert_eq!(ids(&given), ids(&wanted), "{query}, {limits:?}");
        }
    }
}

/// Contract 4: of many records, the one that is wanted is found, however many pages without any come before it; and a
/// store without records is read to its end.
pub async fn c4_a_page_without_records_is_not_the_end(fixture: &dyn SourceFixture) {
    let source = fixture.open().await;
    let nothing = read_all(&*source, &Start::Earliest, &Query::all(), WIDE).await;
    assert!(nothing.is_empty(), "an empty store gives {nothing:?}");
    let mut rows: Vec<Row> = (0..300).map(|number| row_saying(fixture, format!("row {number}"), number)).collect();
    rows[290].namespace = Some("rare".to_owned());
    fixture.fill(&rows).await;
    let query = Query::all().namespace("rare");
    for limits in NARROW {
        let records = read_all(&*source, &Start::Earliest, &query, limits).await;
        assert_are(&records, &rows[290..291], &format!("{limits:?}"));
    }
}

/// Contract 3 and 4: behind the end of what was read, later rows are found, and nothing else.
pub async fn c4_rows_that_are_added_later_are_found(fixture: &dyn SourceFixture) {
    let source = fixture.open().await;
    fixture.fill(&[row_saying(fixture, "first", 1)]).await;
    for number in 2..6 {
        let before = read_all(&*source, &Start::Earliest, &Query::all(), WIDE).await;
        let last = before.last().expect("what was filled in is read").id.clone();
        let row = row_saying(fixture, format!("row {number}"), number);
        fixture.fill(std::slice::from_ref(&row)).await;
        let start = Start::After(last.position().clone());
        let after = read_on(&*source, last.partition(), start, &Query::all(), WIDE).await;
        assert_are(&after, &[row], "behind what was the end");
    }
}

/// Contract 5: a record that is larger than a page is given, and alone. That no page exceeds its limits is looked at
/// in every line.
pub async fn c5_a_giant_record_is_given_alone(fixture: &dyn SourceFixture) {
    let giant = "x".repeat(300_000);
    let rows = [row_saying(fixture, "before", 1), row_saying(fixture, giant, 2), row_saying(fixture, "after", 3)];
    fixture.fill(&rows).await;
    let source = fixture.open().await;
    for bytes_max in [1, 2_000, 100_000, 300_001] {
        let limits = PageLimits { bytes_max, ..WIDE };
        let records = read_all(&*source, &Start::Earliest, &Query::all(), limits).await;
        assert_are(&records, &rows, &format!("{limits:?}"));
    }
}

/// Contract 5: nothing from `until` on is given or passed. Sources whose order of arrival is total are not asked.
pub async fn c5_nothing_from_a_time_on_is_given_or_passed(fixture: &dyn SourceFixture) {
    let (rows, source) = filled(fixture).await;
    if source.arrival_order() != ArrivalOrder::Bounded {
        return;
    }
    let times: BTreeSet<Timestamp> = rows.iter().map(|row| row.timestamp).collect();
    for partition in source.partitions().await.unwrap() {
        let all = read_on(&*source, &partition, Start::Earliest, &Query::all(), WIDE).await;
        for until in &times {
            let limits = PageLimits { until: Some(*until), ..WIDE };
            let page = source.read(&partition, &Start::Earliest, &Query::all(), limits).await.unwrap();
            let settled = all.iter().filter(|record| record.timestamp < *until).count();
            assert_eq!(ids(page.records()), ids(&all[..settled]), "until {until}");
            let start = page.next().map_or(Start::Earliest, |next| Start::After(next.clone()));
            let rest = read_on(&*source, &partition, start, &Query::all(), WIDE).await;
            assert_eq!(ids(&rest), ids(&all[settled..]), "what was left out until {until} is read later");
        }
    }
}

/// Contract 6: a store that cannot be read is an error, never a page without records.
pub async fn c6_a_store_that_is_gone_is_an_error(fixture: &dyn SourceFixture) {
    let (_, source) = filled(fixture).await;
    let partitions = source.partitions().await.unwrap();
    let seen = read_all(&*source, &Start::Earliest, &Query::all(), NARROW[2]).await;
    if !fixture.take_away().await {
        return;
    }
    for start in [Start::Earliest, Start::At(seen[0].timestamp), Start::After(seen[3].id.position().clone())] {
        let page = source.read(&partitions[0], &start, &Query::all(), WIDE).await;
        assert!(page.is_err(), "a store that is gone gives {page:?}");
    }
}

/// Contract 7: a read that is dropped at any await spoils none that follows.
pub async fn c7_a_read_that_is_dropped_loses_nothing(fixture: &dyn SourceFixture) {
    let (rows, source) = filled(fixture).await;
    let partition = source.partitions().await.unwrap().remove(0);
    for polls in 1..POLLS_MAX {
        let query = Query::all();
        let dropped = cut(source.read(&partition, &Start::Earliest, &query, NARROW[2]), polls).await;
        let records = read_all(&*source, &Start::Earliest, &Query::all(), NARROW[2]).await;
        assert_are(&records, &rows, &format!("after a read that was dropped at its await {polls}"));
        if dropped.is_some() {
            break;
        }
    }
}

/// Contract 7: several tasks read one source, each to its own end.
pub async fn c7_reads_at_the_same_time_are_apart(fixture: &dyn SourceFixture) {
    let (rows, source) = filled(fixture).await;
    let (query, source) = (Query::all(), &*source);
    let reads = NARROW.iter().map(|limits| read_all(source, &Start::Earliest, &query, *limits));
    for records in futures::future::join_all(reads).await {
        assert_are(&records, &rows, "one of several readers");
    }
}

/// Contract 8: the named records go and no other, and what is gone already is no error.
pub async fn c8_exactly_the_named_records_are_deleted(fixture: &dyn SourceFixture) {
    let (rows, source) = filled(fixture).await;
    let all = read_all(&*source, &Start::Earliest, &Query::all(), WIDE).await;
    let named: Vec<RecordId> = all.iter().step_by(3).map(|record| record.id.clone()).collect();
    let (first, last) = named.split_at(4);
    if !fixture.can_delete() {
        let error = source.delete(&named).await.expect_err("what cannot be done is an error");
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        return;
    }
    assert_eq!(source.delete(&[]).await.unwrap(), 0, "nothing was named");
    assert_eq!(source.delete(first).await.unwrap(), first.len() as u64, "the named are counted");
    assert_eq!(source.delete(first).await.unwrap(), 0, "what is gone is no error and is not counted");
    assert_eq!(source.delete(&named).await.unwrap(), last.len() as u64, "some of the named are gone");
    let left = read_all(&*source, &Start::Earliest, &Query::all(), WIDE).await;
    let is_named = |row: &Row| all.iter().step_by(3).any(|record| record.body.as_str() == Some(&row.body));
    let expected: Vec<Row> = rows.into_iter().filter(|row| !is_named(row)).collect();
    assert_are(&left, &expected, "after a deletion");
}

/// Contract 9: where records may still appear, positions are in the order of time.
pub async fn c9_positions_are_in_the_order_of_time(fixture: &dyn SourceFixture) {
    let (_, source) = filled(fixture).await;
    if source.arrival_order() != ArrivalOrder::Bounded {
        return;
    }
    for partition in source.partitions().await.unwrap() {
        let all = read_on(&*source, &partition, Start::Earliest, &Query::all(), NARROW[1]).await;
        assert!(all.is_sorted_by_key(|record| record.timestamp), "not in the order of time: {all:#?}");
    }
}

/// Contract 10: a row that an open transaction has written is not older than the horizon.
pub async fn c10_nothing_older_than_the_horizon_appears(fixture: &dyn SourceFixture) {
    let source = fixture.open().await;
    let _ = source.horizon().await.expect("the horizon can be asked for");
    let Some(written) = fixture.begin_write(row_saying(fixture, "slow", 1)).await else { return };
    fixture.fill(&[row_saying(fixture, "quick", 2)]).await;
    let horizon = source.horizon().await.expect("the horizon can be asked for");
    fixture.end_write().await;
    let records = read_all(&*source, &Start::Earliest, &Query::all(), WIDE).await;
    let slow = records.iter().find(|record| record.body.as_str() == Some("slow")).expect("a row that was written");
    let is_honest = horizon.is_none_or(|horizon| horizon <= slow.timestamp && horizon <= written);
    assert!(is_honest, "a record of {} has become readable after a horizon of {horizon:?}", slow.timestamp);
}
