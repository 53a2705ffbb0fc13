//! The source, the destinations and the offset store of a simulated process.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use logship_core::{
    Advice, ArrivalOrder, Begins, Capabilities, Certainty, Chunk, Cursor, DeadLetter, Encoding, Error, ErrorKind,
    Exporter, Idempotency, Lease, Limits, LogRecord, OffsetKey, OffsetStore, Offsets, OffsetsDelta, Outcome, Page,
    PageEnd, PageLimits, Partition, Query, RecordId, Source, Start, Timestamp, Unencodable, Value,
};
use tokio::time::Instant;

use super::world::{Arrival, World};

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
        let is_new = |row: &&super::world::Row| {
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
        Page::ending_at(partition.clone(), records, next, end)
    }
}

/// A destination whose store is in the world.
#[derive(Clone)]
pub(crate) struct SimExporter {
    pub(crate) world: World,
    pub(crate) generation: u64,
    pub(crate) lane: &'static str,
    pub(crate) idempotency: Idempotency,
    pub(crate) limits: Limits,
    pub(crate) encodes: bool,
    /// Refuses poison, record by record.
    pub(crate) refuses: bool,
    /// What is refused goes to a dead letter, which is what counts then.
    pub(crate) has_dead_letter: bool,
    /// More records than this in a request are too large.
    pub(crate) too_large: usize,
}

impl fmt::Debug for SimExporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimExporter({})", self.lane)
    }
}

#[async_trait]
impl Exporter for SimExporter {
    fn kind(&self) -> &'static str {
        "sim"
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::none().idempotency(self.idempotency)
    }

    fn encoding(&self) -> Option<Arc<dyn Encoding>> {
        self.encodes.then(|| Arc::new(Lines) as Arc<dyn Encoding>)
    }

    async fn export(&self, chunk: &Chunk) -> Result<Outcome, Error> {
        self.world.step(self.generation).await;
        self.check(chunk);
        if self.world.lock().hung == Some(self.lane) {
            self.world.cover("a destination answered nothing for a whole process");
            std::future::pending::<()>().await;
        }
        if chunk.len() > self.too_large {
            self.world.cover("a chunk was split");
            return Err(Error::new(ErrorKind::TooLarge, "sim export", "413"));
        }
        let fault = if self.world.fault() { self.world.pick(9) } else { 99 };
        match fault {
            0 => return Err(Error::new(ErrorKind::Unavailable, "sim export", "connection refused")),
            1 => {
                self.world.cover("asked to wait");
                let advice = Advice::After(Some(Duration::from_millis(self.world.pick(5_000).into())));
                return Err(Error::new(ErrorKind::Throttled, "sim export", "429").advise(advice));
            }
            2 => {
                self.world.cover("an attempt hung");
                std::future::pending::<()>().await;
            }
            3 => {
                self.world.cover("credentials were refreshed");
                return Err(Error::new(ErrorKind::Auth, "sim export", "401").advise(Advice::Refresh));
            }
            4 if self.world.pick(4) == 0 => {
                self.world.cover("a lane stopped for good");
                return Err(Error::new(ErrorKind::NotFound, "sim export", "no such index"));
            }
            _ => {}
        }
        let outcome = self.apply(chunk, fault == 5);
        self.world.step(self.generation).await;
        match fault {
            6 => {
                self.world.cover("an answer was lost");
                let error = Error::new(ErrorKind::Unavailable, "sim export", "connection reset");
                Err(error.certainty_is(Certainty::Unknown))
            }
            7 => {
                self.world.cover("an attempt hung after it arrived");
                std::future::pending().await
            }
            _ => Ok(outcome),
        }
    }

    async fn refresh(&self) -> Result<(), Error> {
        self.world.step(self.generation).await;
        Ok(())
    }
}

impl SimExporter {
    /// The chunk keeps to the limits, is in order, and says what the rows say.
    fn check(&self, chunk: &Chunk) {
        let mut texts = Vec::new();
        let mut last: Option<&RecordId> = None;
        for record in chunk.records() {
            let number = record.id.position().as_number();
            let text = self.world.wanted_text(record.id.partition().as_str(), number);
            if text.is_none() || text.as_deref() != record.body.as_str() {
                return self.world.violation(format!("{} got something else than row {number}", self.lane));
            }
            if last.is_some_and(|last| last.partition() == record.id.partition() && *last >= record.id) {
                return self.world.violation(format!("P8: {} got a chunk out of order", self.lane));
            }
            last = Some(&record.id);
            texts.extend_from_slice(text.unwrap_or_default().as_bytes());
            texts.push(b'\n');
        }
        if self.encodes && chunk.body().is_none_or(|body| body.bytes != texts) {
            self.world.violation(format!("{} got a body that is not its records", self.lane));
        }
        let too_many = self.limits.chunk_records_max.is_some_and(|max| chunk.len() > max);
        let too_long = self.encodes && self.limits.chunk_bytes_max.is_some_and(|max| texts.len() > max);
        if chunk.is_empty() || too_many || too_long {
            self.world.violation(format!("{} got a chunk beyond its limits", self.lane));
        }
    }

    /// Stores records, and says what became of them. A partial answer leaves some out, and does not name all.
    fn apply(&self, chunk: &Chunk, partial: bool) -> Outcome {
        let state = &mut *self.world.lock();
        let object = format!("{:?} of {:?}", chunk.begins(), chunk.partition());
        if matches!(chunk.begins(), Some(Begins::Late { .. })) {
            state.coverage.insert("late rows were shipped");
        }
        let Some(destination) = state.destinations.get_mut(self.lane) else { return Outcome::all_accepted(0) };
        destination.requests += 1;
        if self.idempotency == Idempotency::PerChunk {
            destination.objects.insert(object.clone(), Vec::new());
        }
        let partial = partial && self.idempotency != Idempotency::PerChunk;
        let mut outcome = Outcome::builder(chunk.len());
        for (index, record) in chunk.records().enumerate() {
            let (partition, number) = (record.id.partition().as_str(), record.id.position().as_number());
            if self.refuses && record.attribute("poison").is_some() {
                if !self.has_dead_letter {
                    destination.refuse(partition, number);
                }
                outcome.rejected(index, "400", "poison");
                state.coverage.insert("a record was refused");
                continue;
            }
            match if partial { state.rng.u32(0..4) } else { 3 } {
                0 => outcome.retry(index),
                1 => {
                    // Stored, and not named.
                    destination.store(partition, number, &object);
                    state.coverage.insert("a record was not named");
                }
                _ => {
                    destination.store(partition, number, &object);
                    outcome.accepted(index);
                }
            }
        }
        outcome.build()
    }
}

/// The dead letter of a lane.
#[derive(Clone, Debug)]
pub(crate) struct SimDeadLetter {
    pub(crate) world: World,
    pub(crate) generation: u64,
    pub(crate) lane: String,
}

#[async_trait]
impl Exporter for SimDeadLetter {
    fn kind(&self) -> &'static str {
        "sim dead letter"
    }

    fn limits(&self) -> Limits {
        Limits::none().chunk_records_max(2)
    }

    async fn export(&self, chunk: &Chunk) -> Result<Outcome, Error> {
        self.world.step(self.generation).await;
        if chunk.len() > 2 {
            self.world.violation(format!("the dead letter of {} got a chunk beyond its limits", self.lane));
        }
        if self.world.fault() {
            self.world.cover("a dead letter was not taken at once");
            return Err(Error::new(ErrorKind::Unavailable, "sim dead letter", "away"));
        }
        let lines: Vec<u8> = chunk.records().filter_map(|record| record.body.as_str()).flat_map(str::bytes).collect();
        let text = String::from_utf8_lossy(&lines).replace("}{", "}\n{");
        let letters = DeadLetter::read_lines(text.as_bytes())?;
        if letters.len() != chunk.len() {
            self.world.violation(format!("the dead letter of {} got something else than letters", self.lane));
        }
        for letter in letters {
            let (partition, number) = (letter.record.id.partition().as_str(), letter.record.id.position().as_number());
            if self.world.wanted_text(partition, number).as_deref() != letter.record.body.as_str() {
                self.world.violation(format!("P10: the letter of row {number} of {} says something else", self.lane));
            }
            self.world.cover(if letter.attempts == 0 {
                "a giant went to the dead letter"
            } else {
                "a dead letter was taken"
            });
            let state = &mut *self.world.lock();
            if let Some(destination) = state.destinations.get_mut(&self.lane) {
                destination.refuse(partition, number);
            }
        }
        self.world.step(self.generation).await;
        Ok(Outcome::all_accepted(chunk.len()))
    }
}

/// The text of each record on a line.
#[derive(Debug)]
struct Lines;

impl Encoding for Lines {
    fn key(&self) -> &str {
        "lines"
    }

    fn record(&self, record: &LogRecord, out: &mut Vec<u8>) -> Result<(), Unencodable> {
        out.extend_from_slice(record.body.as_str().unwrap_or_default().as_bytes());
        out.push(b'\n');
        Ok(())
    }
}

/// An offset store whose contents are in the world.
#[derive(Clone, Debug)]
pub(crate) struct SimStore {
    pub(crate) world: World,
    pub(crate) generation: u64,
}

impl SimStore {
    fn unavailable() -> Error {
        Error::new(ErrorKind::Unavailable, "sim store", "the store is away")
    }

    fn fenced() -> Error {
        Error::new(ErrorKind::Fenced, "sim store", "somebody newer holds the lease")
    }
}

#[async_trait]
impl OffsetStore for SimStore {
    fn kind(&self) -> &'static str {
        "sim"
    }

    async fn acquire(&self, key: &OffsetKey, _owner: &str, ttl: Duration) -> Result<Lease, Error> {
        self.world.step(self.generation).await;
        let state = &mut *self.world.lock();
        if state.lease_until.is_some_and(|until| until > Instant::now()) {
            state.coverage.insert("the key was taken");
            return Err(Error::new(ErrorKind::Busy, "sim store", "the key is taken"));
        }
        state.epoch += 1;
        state.lease_until = Some(Instant::now() + ttl);
        Ok(Lease { key: key.clone(), epoch: state.epoch })
    }

    async fn renew(&self, lease: &Lease, ttl: Duration) -> Result<(), Error> {
        self.world.step(self.generation).await;
        if self.world.fault() {
            return Err(SimStore::unavailable());
        }
        let state = &mut *self.world.lock();
        if state.epoch != lease.epoch {
            state.coverage.insert("a lost lease was noticed when renewing");
            return Err(SimStore::fenced());
        }
        state.lease_until = Some(Instant::now() + ttl);
        Ok(())
    }

    async fn release(&self, lease: &Lease) -> Result<(), Error> {
        self.world.step(self.generation).await;
        let state = &mut *self.world.lock();
        if state.epoch == lease.epoch {
            state.lease_until = None;
        }
        Ok(())
    }

    async fn load(&self, _key: &OffsetKey) -> Result<Offsets, Error> {
        self.world.step(self.generation).await;
        Ok(self.world.lock().offsets.clone())
    }

    async fn commit(&self, lease: &Lease, delta: &OffsetsDelta) -> Result<(), Error> {
        self.world.step(self.generation).await;
        let fault = self.world.fault();
        if fault && self.world.pick(2) == 0 {
            self.world.cover("a commit failed");
            return Err(SimStore::unavailable());
        }
        {
            let state = &mut *self.world.lock();
            if state.epoch != lease.epoch {
                state.coverage.insert("a commit was fenced");
                return Err(SimStore::fenced());
            }
            for (lane, change) in &delta.lanes {
                let cursors = state.offsets.lanes.get(lane).map(|offset| offset.cursors.clone()).unwrap_or_default();
                for (partition, cursor) in &change.cursors {
                    if cursors.get(partition).is_some_and(|before| before > cursor) {
                        state.violations.push(format!("the offset of {lane} in {partition} moved back"));
                    }
                    let rows = state.rows.get(partition).map(Vec::as_slice).unwrap_or_default();
                    if rows.iter().any(|row| row.number == cursor.as_number() && !row.wanted) {
                        state.coverage.insert("an offset moved over rows that nobody wants");
                    }
                }
                for (partition, window) in &change.windows {
                    let moved = change.cursors.contains_key(partition);
                    state.coverage.insert(match window {
                        None => "a window was closed",
                        Some(_) if moved => "an offset moved together with its window",
                        Some(_) => "a window changed and its offset stayed",
                    });
                }
            }
            state.offsets.apply(delta);
            state.check_cursors(delta.lanes.keys());
        }
        self.world.step(self.generation).await;
        match fault {
            true => {
                self.world.cover("a commit failed after it was applied");
                Err(SimStore::unavailable())
            }
            false => Ok(()),
        }
    }

    async fn list(&self) -> Result<Vec<OffsetKey>, Error> {
        Ok(Vec::new())
    }

    async fn reset(&self, _key: &OffsetKey, lane: Option<&str>) -> Result<(), Error> {
        let state = &mut *self.world.lock();
        match lane {
            Some(lane) => drop(state.offsets.lanes.remove(lane)),
            None => state.offsets = Offsets::default(),
        }
        Ok(())
    }
}
