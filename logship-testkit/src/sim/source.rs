//! The source of a simulated process.

use async_trait::async_trait;
use logship_core::{
    ArrivalOrder, Cursor, Error, ErrorKind, LogRecord, Page, PageEnd, PageLimits, Partition, Query, RawRecords,
    RecordId, Source, Start, Timestamp, Value,
};

use super::world::{Arrival, Row, World};

/// A source whose rows are in the world.
#[derive(Clone, Debug)]
pub(crate) struct SimSource {
    pub(crate) world: World,
    pub(crate) generation: u64,
}

#[async_trait]
impl Source for SimSource {
    fn kind(&self) -> &'static str {
        "sim"
    }

    fn fingerprint(&self) -> String {
        "sim".to_owned()
    }

    fn arrival_order(&self) -> ArrivalOrder {
        match self.world.lock().arrival {
            Arrival::Total => ArrivalOrder::Total,
            Arrival::Late { .. } | Arrival::Horizon { .. } => ArrivalOrder::Bounded,
        }
    }

    async fn horizon(&self) -> Result<Option<Timestamp>, Error> {
        self.world.step(self.generation).await;
        let now = self.world.now();
        let state = self.world.lock();
        let Arrival::Horizon { .. } = state.arrival else { return Ok(None) };
        let to_come = state.rows.values().flatten().filter(|row| row.visible > now).map(|row| row.timestamp).min();
        Ok(Some(to_come.map_or(now, |time| time.min(now))))
    }

    async fn partitions(&self) -> Result<Vec<Partition>, Error> {
        self.world.step(self.generation).await;
        Ok(self.world.lock().rows.keys().map(Partition::new).collect())
    }

    async fn read(&self, partition: &Partition, start: &Start, _: &Query, limits: PageLimits) -> Result<Page, Error> {
        self.world.step(self.generation).await;
        if self.world.fault() {
            self.world.cover("a read failed");
            return Err(Error::new(ErrorKind::Unavailable, "sim read", "the database is away"));
        }
        let page = self.page(partition, start, limits);
        self.world.step(self.generation).await;
        Ok(page)
    }

    async fn delete(&self, ids: &[RecordId]) -> Result<u64, Error> {
        self.world.step(self.generation).await;
        let mut deleted = 0;
        let fault = self.world.fault();
        let some = if fault { self.world.pick(ids.len() as u32 + 1) as usize } else { ids.len() };
        for id in &ids[..some] {
            let state = &mut *self.world.lock();
            deleted += u64::from(state.delete(id.partition().as_str(), id.position().as_number()));
            state.coverage.insert("rows were deleted");
        }
        self.world.step(self.generation).await;
        if fault && !ids.is_empty() {
            self.world.cover("a deletion failed in the middle");
            return Err(Error::new(ErrorKind::Unavailable, "sim delete", "the database is away"));
        }
        Ok(deleted)
    }
}

impl SimSource {
    fn page(&self, partition: &Partition, start: &Start, limits: PageLimits) -> Page {
        let now = self.world.now();
        let state = &mut *self.world.lock();
        let rows = state.rows.get(partition.as_str()).map(Vec::as_slice).unwrap_or_default();
        let is_new = |row: &&Row| {
            let is_behind = match start {
                Start::Earliest => true,
                Start::At(time) => row.timestamp >= *time,
                Start::After(cursor) => row.number > cursor.as_number(),
            };
            is_behind && !row.deleted && row.visible <= now && limits.until.is_none_or(|until| row.timestamp < until)
        };
        let mut records = Vec::new();
        let (mut next, mut bytes, mut end) = (None, 0, PageEnd::CaughtUp);
        // A page may end anywhere, also before its first wanted row.
        let looked_at_max = state.rng.usize(1..=2 * limits.records_max);
        for (looked_at, row) in rows.iter().filter(is_new).enumerate() {
            let id = RecordId::new(partition.clone(), Cursor::number(row.number));
            let mut record = LogRecord::new(id, row.timestamp);
            record.body = Value::from(row.text.as_str());
            if row.poison {
                record.attributes.push(("poison".into(), true.into()));
            }
            let full = records.len() >= limits.records_max || bytes + record.size() > limits.bytes_max;
            if looked_at == looked_at_max || (full && !records.is_empty()) {
                end = PageEnd::More;
                break;
            }
            next = Some(Cursor::number(row.number));
            if row.wanted {
                bytes += record.size();
                records.push(record);
            }
        }
        if records.is_empty() && end == PageEnd::More {
            state.coverage.insert("an empty page that is not the end");
        }
        if state.rng.bool() {
            state.coverage.insert("a page of raw records");
            return Page::raw(partition.clone(), RawRows(records), next, end);
        }
        Page::ending_at(partition.clone(), records, next, end)
    }
}

/// Rows whose records are made when they are needed.
#[derive(Debug)]
struct RawRows(Vec<LogRecord>);

impl RawRecords for RawRows {
    fn each(&self, take: &mut dyn FnMut(&mut LogRecord)) {
        self.0.iter().for_each(|record| take(&mut record.clone()));
    }

    fn bytes(&self) -> usize {
        self.0.iter().map(LogRecord::size).sum()
    }
}
