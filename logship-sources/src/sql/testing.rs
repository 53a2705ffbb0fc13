//! What the tests of the table sources share.

use logship_core::{Condition, Filter, LogRecord, PageEnd, PageLimits, Partition, Query, Source, Start};
use proptest::prelude::*;

pub(crate) const ALL: PageLimits = PageLimits { records_max: 1_000, bytes_max: usize::MAX, until: None };

/// All records behind `start`, read page by page, with the positions going through their text as in an offset store.
pub(crate) async fn read_all(source: &dyn Source, start: Start, query: &Query, limits: PageLimits) -> Vec<LogRecord> {
    let partition: Partition = source.partitions().await.unwrap().remove(0);
    let (mut start, mut records) = (start, Vec::new());
    loop {
        let page = source.read(&partition, &start, query, limits).await.unwrap();
        records.extend(page.records().iter().cloned());
        match page.next() {
            Some(next) => start = Start::After(next.to_string().parse().unwrap()),
            None => assert_eq!(page.end(), PageEnd::CaughtUp),
        }
        if page.end() == PageEnd::CaughtUp {
            assert!(records.is_sorted_by(|a, b| a.id < b.id), "positions are in order");
            return records;
        }
    }
}

/// What the records say.
pub(crate) fn bodies(records: &[LogRecord]) -> Vec<&str> {
    records.iter().map(|record| record.body.as_str().unwrap()).collect()
}

/// A filter on one of these attributes by values that rows may nearly have.
pub(crate) fn any_filter(attributes: &'static [&'static str]) -> impl Strategy<Value = Filter> {
    const VALUES: &[&str] =
        &["a", "A", "a.b", "a.", "5", "05", "-5", "5.0", "true", "", "a\0b", "a\u{fffd}", "ä", "a "];
    let value = || prop::sample::select(VALUES).prop_map(str::to_owned);
    let condition = prop_oneof![
        value().prop_map(Condition::Equals),
        value().prop_map(Condition::Within),
        prop::collection::vec(value(), 0..4).prop_map(Condition::In),
        prop::collection::vec(value(), 0..4).prop_map(Condition::NotIn),
    ];
    (prop::sample::select(attributes), condition)
        .prop_map(|(attribute, condition)| Filter { attribute: attribute.to_owned(), condition })
}

/// Whether the source, asked for `query`, gives what the query says of all its records.
pub(crate) async fn assert_pushed_down(source: &dyn Source, query: &Query) {
    let all = read_all(source, Start::Earliest, &Query::all(), ALL).await;
    let ids = |records: &[LogRecord]| records.iter().map(|record| record.id.clone()).collect::<Vec<_>>();
    let wanted: Vec<LogRecord> = all.iter().filter(|record| query.matches(record)).cloned().collect();
    assert_eq!(ids(&read_all(source, Start::Earliest, query, ALL).await), ids(&wanted), "{query} of {all:#?}");
}
