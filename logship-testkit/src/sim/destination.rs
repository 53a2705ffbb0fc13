//! The destinations of a simulated process, and their dead letters.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use logship_core::{
    Advice, Begins, Capabilities, Certainty, Chunk, DeadLetter, Encoding, Error, ErrorKind, Exporter, Idempotency,
    Limits, LogRecord, Outcome, RecordId, Unencodable,
};

use super::world::{World, key};

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
        if self.encodes && chunk.body().is_none_or(|body| body.bytes() != texts) {
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
            let fate = if partial { state.rng.u32(0..4) } else { 3 };
            if fate != 0 && self.refuses && record.attribute("poison").is_some() {
                if !self.has_dead_letter {
                    destination.refuse(partition, number);
                }
                outcome.rejected(index, "400", "poison");
                state.coverage.insert("a record was refused");
                continue;
            }
            match fate {
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

    fn capabilities(&self) -> Capabilities {
        Capabilities::none().idempotency(Idempotency::PerChunk)
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
        let object = format!("{:?} of {:?}", chunk.begins(), chunk.partition());
        let mut rows = Vec::new();
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
            rows.push(key(partition, number));
            let state = &mut *self.world.lock();
            if let Some(destination) = state.destinations.get_mut(&self.lane) {
                destination.refuse(partition, number);
            }
        }
        if let Some(destination) = self.world.lock().destinations.get_mut(&self.lane) {
            destination.letters.insert(object, rows);
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
