//! The plainest source and offset store that keep their contracts: the exporter's suite runs the engine over them, and
//! the suites' own tests break them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use logship_core::{
    Cursor, Error, ErrorKind, Lease, LogRecord, OffsetKey, OffsetStore, Offsets, OffsetsDelta, Page, PageEnd,
    PageLimits, Partition, Query, RecordId, Source, Start, async_trait,
};
use tokio::time::Instant;

/// Records in memory, in the order of their positions. A clone is the same source.
#[derive(Clone, Debug, Default)]
pub(crate) struct PlainSource {
    pub(crate) records: Arc<Mutex<Vec<LogRecord>>>,
}

impl PlainSource {
    pub(crate) fn new(records: Vec<LogRecord>) -> Self {
        PlainSource { records: Arc::new(Mutex::new(records)) }
    }

    pub(crate) fn all(&self) -> Vec<LogRecord> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[async_trait]
impl Source for PlainSource {
    fn kind(&self) -> &'static str {
        "plain"
    }

    fn fingerprint(&self) -> String {
        "plain".to_owned()
    }

    async fn partitions(&self) -> Result<Vec<Partition>, Error> {
        let mut partitions: Vec<Partition> = self.all().iter().map(|record| record.id.partition().clone()).collect();
        partitions.sort();
        partitions.dedup();
        Ok(partitions)
    }

    async fn read(
        &self,
        partition: &Partition,
        start: &Start,
        query: &Query,
        limits: PageLimits,
    ) -> Result<Page, Error> {
        let (mut given, mut bytes, mut next, mut end) = (Vec::new(), 0, None, PageEnd::CaughtUp);
        for record in self.all().into_iter().filter(|record| record.id.partition() == partition) {
            if matches!(start, Start::After(cursor) if record.id.position() <= cursor) {
                continue;
            }
            if limits.until.is_some_and(|until| record.timestamp >= until) {
                break;
            }
            let position = record.id.position().clone();
            let is_early = matches!(start, Start::At(time) if record.timestamp < *time);
            if !is_early && query.matches(&record) {
                bytes += record.size();
                if given.len() == limits.records_max || (bytes > limits.bytes_max && !given.is_empty()) {
                    end = PageEnd::More;
                    break;
                }
                given.push(record);
            }
            next = Some(position);
        }
        Ok(Page::ending_at(partition.clone(), given, next, end))
    }

    async fn delete(&self, ids: &[RecordId]) -> Result<u64, Error> {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        let before = records.len();
        records.retain(|record| !ids.contains(&record.id));
        Ok((before - records.len()) as u64)
    }
}

/// Offsets in memory. A clone is the same store.
#[derive(Clone, Debug, Default)]
pub(crate) struct PlainOffsets {
    keys: Arc<Mutex<BTreeMap<OffsetKey, Kept>>>,
}

#[derive(Debug, Default)]
struct Kept {
    offsets: Offsets,
    epoch: u64,
    holder: Option<(String, Instant)>,
}

impl PlainOffsets {
    /// Does something with what is kept of a key.
    #[cfg(test)]
    pub(crate) fn with<T>(&self, key: &OffsetKey, work: impl FnOnce(&mut Offsets, &mut u64) -> T) -> T {
        self.kept(key, |kept| work(&mut kept.offsets, &mut kept.epoch))
    }

    fn kept<T>(&self, key: &OffsetKey, work: impl FnOnce(&mut Kept) -> T) -> T {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        work(keys.entry(key.clone()).or_default())
    }

    fn busy(key: &OffsetKey, holder: &str) -> Error {
        Error::new(ErrorKind::Busy, "plain offsets", format!("{key} is held by {holder}"))
    }
}

impl Kept {
    fn held_by(&self) -> Option<&str> {
        self.holder.as_ref().filter(|(_, until)| Instant::now() < *until).map(|(owner, _)| owner.as_str())
    }

    fn check(&mut self, lease: &Lease) -> Result<(), Error> {
        match self.holder {
            Some(_) if self.epoch == lease.epoch => Ok(()),
            _ => Err(Error::new(ErrorKind::Fenced, "plain offsets", format!("{} is lost", lease.key))),
        }
    }
}

#[async_trait]
impl OffsetStore for PlainOffsets {
    fn kind(&self) -> &'static str {
        "plain"
    }

    async fn acquire(&self, key: &OffsetKey, owner: &str, ttl: Duration) -> Result<Lease, Error> {
        self.kept(key, |kept| {
            if let Some(holder) = kept.held_by() {
                return Err(PlainOffsets::busy(key, holder));
            }
            kept.epoch += 1;
            kept.holder = Some((owner.to_owned(), Instant::now() + ttl));
            Ok(Lease { key: key.clone(), epoch: kept.epoch })
        })
    }

    async fn renew(&self, lease: &Lease, ttl: Duration) -> Result<(), Error> {
        self.kept(&lease.key, |kept| {
            kept.check(lease)?;
            kept.holder = kept.holder.take().map(|(owner, _)| (owner, Instant::now() + ttl));
            Ok(())
        })
    }

    async fn release(&self, lease: &Lease) -> Result<(), Error> {
        self.kept(&lease.key, |kept| kept.holder = kept.holder.take().filter(|_| kept.epoch != lease.epoch));
        Ok(())
    }

    async fn load(&self, key: &OffsetKey) -> Result<Offsets, Error> {
        Ok(self.kept(key, |kept| kept.offsets.clone()))
    }

    async fn commit(&self, lease: &Lease, delta: &OffsetsDelta) -> Result<(), Error> {
        self.kept(&lease.key, |kept| {
            kept.check(lease)?;
            kept.offsets.apply(delta);
            Ok(())
        })
    }

    async fn list(&self) -> Result<Vec<OffsetKey>, Error> {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(keys.iter().filter(|(_, kept)| !kept.offsets.lanes.is_empty()).map(|(key, _)| key.clone()).collect())
    }

    async fn reset(&self, key: &OffsetKey, lane: Option<&str>) -> Result<(), Error> {
        self.kept(key, |kept| {
            if let Some(holder) = kept.held_by() {
                return Err(PlainOffsets::busy(key, holder));
            }
            match lane {
                Some(lane) => drop(kept.offsets.lanes.remove(lane)),
                None => kept.offsets = Offsets::default(),
            }
            Ok(())
        })
    }
}

/// A record of this number, with a text that names it.
pub(crate) fn record(partition: &str, number: i64, timestamp: logship_core::Timestamp, body: String) -> LogRecord {
    let mut record = LogRecord::new(RecordId::new(Partition::new(partition), Cursor::number(number)), timestamp);
    record.body = body.into();
    record
}
