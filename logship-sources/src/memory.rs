//! Records in memory: for tests, benchmarks, and programs whose records are elsewhere kept.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use logship_core::{
    Cursor, Error, LogRecord, Page, PageEnd, PageLimits, Partition, Query, RecordId, Source, Start, Timestamp, Value,
    async_trait,
};
use tokio::sync::Notify;

/// A source of records in memory. A clone is the same source, so that one half can be written while the other is
/// shipped.
///
/// It forgets everything with the process: what is in it and not yet shipped is lost at a crash. Within a process it
/// keeps every promise.
///
/// ```
/// use logship_core::{LogRecord, Timestamp};
/// use logship_sources::memory::MemorySource;
///
/// let source = MemorySource::new();
/// source.push("flows", Timestamp::now(), |record| record.body = "hello".into());
/// assert_eq!(source.len(), 1);
/// ```
#[derive(Clone, Default)]
pub struct MemorySource {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<BTreeMap<Partition, Records>>,
    changed: Notify,
}

#[derive(Default)]
struct Records {
    last: i64,
    records: Vec<LogRecord>,
}

impl fmt::Debug for MemorySource {
    /// Without the records, which no redaction has seen yet.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemorySource").field("records", &self.len()).finish_non_exhaustive()
    }
}

impl MemorySource {
    /// A source without records.
    pub fn new() -> Self {
        MemorySource::default()
    }

    /// Appends a record to a partition, at the next position. `fill` gives it what it says; of values nested deeper
    /// than 100, which no destination takes, what is deeper is left out.
    pub fn push(&self, partition: &str, timestamp: Timestamp, fill: impl FnOnce(&mut LogRecord)) -> RecordId {
        let partition = Partition::new(partition);
        let id = {
            let mut state = self.lock();
            let records = state.entry(partition.clone()).or_default();
            records.last += 1;
            let id = RecordId::new(partition, Cursor::number(records.last));
            let mut record = LogRecord::new(id.clone(), timestamp);
            fill(&mut record);
            record.id = id.clone();
            cut(&mut record.body, DEPTH_MAX);
            record.attributes.iter_mut().for_each(|(_, value)| cut(value, DEPTH_MAX));
            records.records.push(record);
            id
        };
        self.shared.changed.notify_waiters();
        id
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.lock().values().map(|records| records.records.len()).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Partition, Records>> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whoever looks at a value, or drops it, needs a stack as deep as it is nested. This is more than any encoding takes, so
/// that a record which is cut is refused by it, and never shipped as if it were whole.
const DEPTH_MAX: usize = 100;

/// Leaves out of a value what is inside so many others.
fn cut(value: &mut Value, depth: usize) {
    match value {
        Value::Array(_) | Value::Map(_) if depth == 0 => {
            // Taken apart piece by piece, as dropping it whole would need the stack.
            let mut left = vec![std::mem::take(value)];
            while let Some(value) = left.pop() {
                match value {
                    Value::Array(values) => left.extend(values),
                    Value::Map(entries) => left.extend(entries.into_iter().map(|(_, value)| value)),
                    _ => {}
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| cut(value, depth - 1)),
        Value::Map(entries) => entries.iter_mut().for_each(|(_, value)| cut(value, depth - 1)),
        _ => {}
    }
}

#[async_trait]
impl Source for MemorySource {
    fn kind(&self) -> &'static str {
        "memory"
    }

    fn fingerprint(&self) -> String {
        "memory".to_owned()
    }

    async fn partitions(&self) -> Result<Vec<Partition>, Error> {
        Ok(self.lock().keys().cloned().collect())
    }

    async fn read(
        &self,
        partition: &Partition,
        start: &Start,
        query: &Query,
        limits: PageLimits,
    ) -> Result<Page, Error> {
        let state = self.lock();
        let all = state.get(partition).map(|records| records.records.as_slice()).unwrap_or_default();
        let from = match start {
            Start::Earliest | Start::At(_) => 0,
            Start::After(cursor) => all.partition_point(|record| record.id.position() <= cursor),
        };
        let mut wanted = Vec::new();
        let (mut bytes, mut end, mut next) = (0, PageEnd::CaughtUp, None);
        for record in &all[from..] {
            let too_early = matches!(start, Start::At(time) if record.timestamp < *time);
            if !too_early && query.matches(record) {
                bytes += record.size();
                if wanted.len() == limits.records_max || (bytes > limits.bytes_max && !wanted.is_empty()) {
                    end = PageEnd::More;
                    break;
                }
                wanted.push(record.clone());
            }
            next = Some(record.id.position().clone());
        }
        Ok(Page::ending_at(partition.clone(), wanted, next, end))
    }

    async fn changed(&self) {
        self.shared.changed.notified().await;
    }

    async fn delete(&self, ids: &[RecordId]) -> Result<u64, Error> {
        let mut deleted = 0;
        let mut state = self.lock();
        for id in ids {
            let Some(records) = state.get_mut(id.partition()) else { continue };
            if let Ok(at) = records.records.binary_search_by(|record| record.id.cmp(id)) {
                records.records.remove(at);
                deleted += 1;
            }
        }
        Ok(deleted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use logship_core::{Filter, Severity};

    const ALL: PageLimits = PageLimits { records_max: 100, bytes_max: usize::MAX, until: None };

    fn source() -> MemorySource {
        let source = MemorySource::new();
        for number in 1..=6 {
            source.push("p", Timestamp::from_secs(number), |record| {
                record.severity = if number % 2 == 0 { Severity::INFO } else { Severity::DEBUG };
                record.attributes.push(("number".into(), number.into()));
            });
        }
        source
    }

    async fn read(start: Start, query: Query, limits: PageLimits) -> (Vec<i64>, Option<i64>, PageEnd) {
        let page = source().read(&Partition::new("p"), &start, &query, limits).await.unwrap();
        let numbers = page.records().iter().map(|record| record.id.position().as_number()).collect();
        (numbers, page.next().map(Cursor::as_number), page.end())
    }

    #[tokio::test]
    async fn c3_the_next_position_passes_only_what_is_not_wanted() {
        let info = Query::all().severity_min(Severity::INFO);
        let one = PageLimits { records_max: 1, ..ALL };
        assert_eq!(read(Start::Earliest, info.clone(), one).await, (vec![2], Some(3), PageEnd::More));
        assert_eq!(read(Start::Earliest, info, ALL).await, (vec![2, 4, 6], Some(6), PageEnd::CaughtUp));
        let none = Query::all().filter(Filter::equals("number", "77"));
        assert_eq!(read(Start::Earliest, none, ALL).await, (vec![], Some(6), PageEnd::CaughtUp));
    }

    #[tokio::test]
    async fn c8_exactly_the_named_records_are_deleted() {
        let source = source();
        let id = |number| RecordId::new(Partition::new("p"), Cursor::number(number));
        assert_eq!(source.delete(&[id(2), id(99)]).await.unwrap(), 1);
        assert_eq!(source.len(), 5);
        assert_eq!(source.push("p", Timestamp::from_secs(9), |_| ()), id(7));
    }
}
