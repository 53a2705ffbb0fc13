//! The core of [logship](https://docs.rs/logship): the record model, the three traits, and the engine between them.
//!
//! Five nouns carry everything:
//!
//! - a [`Source`] gives [`Page`]s of [`LogRecord`]s of one [`Partition`], strictly after a [`Cursor`];
//! - an [`Exporter`] takes a [`Chunk`] and says what became of each record in it, an [`Outcome`];
//! - a [`Lane`] is one exporter's way through the engine, with its own cursors, filter, chunk size and retries;
//! - an [`OffsetStore`] keeps how far each lane has come, and sees to it that one shipper at a time moves it;
//! - a [`LogShipper`] puts them together.
//!
//! This crate has no HTTP client, no database driver and no vendor in it, starts no threads of its own, installs
//! nothing process-wide, and reads the clock only through [`Clock`] and `tokio::time`.

mod body;
mod builder;
mod chunk;
mod compression;
mod dead_letter;
mod digits;
mod encoding;
mod engine;
mod error;
mod exporter;
mod json;
mod lane;
mod lane_state;
mod offset_document;
mod offsets;
mod outcome;
mod page;
mod position;
mod progress;
mod query;
mod record;
mod redaction;
mod registry;
mod rehearsal;
mod report;
mod reship;
#[cfg(feature = "schema")]
mod schema;
mod secret;
mod severity;
mod shipper;
mod source;
mod text;
mod time;
mod transform;
mod window;

pub use async_trait::async_trait;
pub use tokio_util::sync::CancellationToken;

pub use body::Body;
pub use builder::LogShipperBuilder;
pub use chunk::{Begins, Chunk};
pub use compression::Compression;
pub use dead_letter::DeadLetter;
pub use encoding::{Encoding, Grouping, Unencodable};
pub use engine::CpuWork;
pub use error::{Advice, Certainty, Error, ErrorKind};
pub use exporter::{Artifacts, Capabilities, Exporter, Idempotency, Limits};
pub use json::find_json_escape;
pub use lane::{Lane, LaneOptions, OnReject, RetryPolicy};
pub use lane_state::{Activity, LaneState};
pub use offset_document::OffsetDocument;
pub use offsets::{LaneDelta, LaneOffset, Lease, OffsetKey, OffsetStore, Offsets, OffsetsDelta};
pub use outcome::{Outcome, OutcomeBuilder, Rejection};
pub use page::{Page, PageEnd, PageLimits, RawRecords};
pub use position::{Cursor, Partition, RecordId, Start};
pub use progress::Progress;
pub use query::{Condition, Filter, Query};
pub use record::{LogRecord, Resource, Scope, Value};
pub use redaction::{Redact, Redaction, RedactionConfig};
pub use registry::{BuildContext, Fields, Registry, read_fields};
pub use report::{Deletion, LaneReport, LaneStatus, RunReport};
pub use secret::{NoSecrets, Secret, SecretProvider, SecretRef};
pub use severity::Severity;
pub use shipper::LogShipper;
pub use source::{ArrivalOrder, Source};
pub use text::{Text, TextArena, TextBlock};
pub use time::{Clock, SystemClock, Timestamp};
pub use transform::{Enrichment, Transform};
pub use window::{Seen, SeenIds, Window};
