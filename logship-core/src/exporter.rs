//! What writes to one destination.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::{Chunk, Encoding, Error, ErrorKind, Outcome};

/// Writes chunks to one destination and says what became of each record.
///
/// An exporter translates: it encodes, sends, and classifies the answer. Waiting, retrying, splitting, pacing and
/// offsets are the engine's.
///
/// # Contract
/// 1. [`export`](Exporter::export) MUST report a record as accepted only when the destination has confirmed it. What
///    an outcome does not name counts as not delivered.
/// 2. Indexes in an outcome MUST refer to the chunk as given.
/// 3. An answer with a verdict for each record MUST be reported record by record, also under a status that says
///    success; a request that failed as a whole MUST be an [`Error`].
/// 4. An error after which the destination may have taken records MUST say [`Certainty::Unknown`](crate::Certainty).
/// 5. [`Advice::Split`](crate::Advice) MUST NOT be given when some record of the chunk was accepted.
/// 6. [`export`](Exporter::export) MUST NOT sleep and MUST NOT retry.
/// 7. [`export`](Exporter::export) MUST be safe to drop at any await, and to call from several tasks at once.
/// 8. A request MUST NOT exceed [`limits`](Exporter::limits).
/// 9. Neither errors nor `Debug` may show a secret or a record's text.
/// 10. An exporter that is [idempotent](Idempotency) MUST leave one copy when it is given the same records
///     (or, by chunk, a chunk of the same beginning) again.
#[async_trait]
pub trait Exporter: fmt::Debug + Send + Sync {
    /// What kind of exporter this is, as a configuration names it.
    fn kind(&self) -> &'static str;

    /// What the destination takes. By default anything.
    fn limits(&self) -> Limits {
        Limits::default()
    }

    /// What the destination can promise. By default nothing.
    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    /// How records are written. With one the engine encodes and [`Chunk::body`] is the body to send; without one the
    /// exporter reads [`Chunk::records`] itself.
    fn encoding(&self) -> Option<Arc<dyn Encoding>> {
        None
    }

    /// Sends a chunk. Bounded by the lane's
    /// [`attempt_timeout`](crate::Lane::attempt_timeout), after which it is dropped.
    async fn export(&self, chunk: &Chunk) -> Result<Outcome, Error>;

    /// Gets new credentials, after an error that advised it. By default there are none to get.
    async fn refresh(&self) -> Result<(), Error> {
        Err(Error::new(ErrorKind::Auth, "refresh credentials", format!("{} has none that could change", self.kind())))
    }

    /// Whether the destination can be reached and lets us in. Sends no record. By default assumes so.
    async fn check(&self) -> Result<(), Error> {
        Ok(())
    }

    /// Called once when a run ends: what was made, for the report. By default nothing.
    async fn finish(&self) -> Result<Artifacts, Error> {
        Ok(Artifacts::default())
    }
}

/// What a destination takes in one request. Everything that is `None` has no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Records in a request.
    pub chunk_records_max: Option<usize>,
    /// Bytes of a body before packing.
    pub chunk_bytes_max: Option<usize>,
    /// Bytes of a body after packing.
    pub wire_bytes_max: Option<usize>,
    /// Bytes of one record as encoded (or, without an encoding, as held in memory). A larger one is rejected before
    /// sending.
    pub record_bytes_max: Option<usize>,
    /// How old a record may be. An older one is rejected before sending.
    pub record_age_max: Option<Duration>,
    /// How far in the future a record's time may lie. A later one is rejected before sending.
    pub record_ahead_max: Option<Duration>,
    /// From the earliest to the latest time in a request.
    pub span_max: Option<Duration>,
    /// Requests at a time.
    pub concurrency_max: Option<usize>,
    /// All records of a request are of one partition.
    pub one_partition: bool,
}

impl Limits {
    /// No limits.
    pub fn none() -> Self {
        Limits::default()
    }

    /// With at most so many records in a request.
    #[must_use]
    pub fn chunk_records_max(mut self, records: usize) -> Self {
        self.chunk_records_max = Some(records);
        self
    }

    /// With at most so many bytes in a body before packing.
    #[must_use]
    pub fn chunk_bytes_max(mut self, bytes: usize) -> Self {
        self.chunk_bytes_max = Some(bytes);
        self
    }

    /// With at most so many bytes in a body after packing.
    #[must_use]
    pub fn wire_bytes_max(mut self, bytes: usize) -> Self {
        self.wire_bytes_max = Some(bytes);
        self
    }

    /// With at most so many bytes in one record.
    #[must_use]
    pub fn record_bytes_max(mut self, bytes: usize) -> Self {
        self.record_bytes_max = Some(bytes);
        self
    }

    /// With records at most so old.
    #[must_use]
    pub fn record_age_max(mut self, age: Duration) -> Self {
        self.record_age_max = Some(age);
        self
    }

    /// With records at most so far in the future.
    #[must_use]
    pub fn record_ahead_max(mut self, ahead: Duration) -> Self {
        self.record_ahead_max = Some(ahead);
        self
    }

    /// With at most this time between the earliest and the latest record of a request.
    #[must_use]
    pub fn span_max(mut self, span: Duration) -> Self {
        self.span_max = Some(span);
        self
    }

    /// With at most so many requests at a time.
    #[must_use]
    pub fn concurrency_max(mut self, requests: usize) -> Self {
        self.concurrency_max = Some(requests);
        self
    }

    /// With requests that hold records of one partition only.
    #[must_use]
    pub fn one_partition(mut self) -> Self {
        self.one_partition = true;
        self
    }
}

/// What a destination can promise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// What happens when records are sent again.
    pub idempotency: Idempotency,
    /// The destination says which record it refused, and takes the others.
    pub answers_per_record: bool,
    /// Bodies need not be in one piece.
    pub takes_parts: bool,
}

impl Capabilities {
    /// Nothing.
    pub fn none() -> Self {
        Capabilities::default()
    }

    /// With this behaviour on repeats.
    #[must_use]
    pub fn idempotency(mut self, idempotency: Idempotency) -> Self {
        self.idempotency = idempotency;
        self
    }

    /// With a verdict for each record.
    #[must_use]
    pub fn answers_per_record(mut self) -> Self {
        self.answers_per_record = true;
        self
    }

    /// With bodies in [several parts](crate::Body::parts), which saves a copy of most of them. An exporter that says so
    /// sends them one after another.
    #[must_use]
    pub fn takes_parts(mut self) -> Self {
        self.takes_parts = true;
        self
    }
}

/// What happens when records are sent to a destination again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Idempotency {
    /// They are stored twice. What was in flight at a crash is repeated.
    #[default]
    None,
    /// A record that is there already is recognised by its id.
    PerRecord,
    /// A chunk that begins where an earlier one began replaces it (an object or file of the same name). Such a lane
    /// sends one chunk at a time, and the next only when the position behind the last is durable. Over a source in which
    /// records may appear late this takes a clock that is not set back between a crash and the next run.
    PerChunk,
}

/// What an exporter made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Artifacts {
    /// Where files or objects were written, in order.
    pub uris: Vec<String>,
}

impl Artifacts {
    /// These places.
    pub fn uris(uris: Vec<String>) -> Self {
        Artifacts { uris }
    }
}
