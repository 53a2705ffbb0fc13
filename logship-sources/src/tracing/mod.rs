//! What a program says through `tracing`, by way of a spool in a SQLite file.
//!
//! A subscriber forgets, and a source may not. So a [`Layer`](SpoolLayer) hands what happens to a task that writes it to
//! a table, many rows at a time, and [`SpoolSource`] reads the table: from there on every promise holds, over a crash,
//! too, and over a destination that is away for a day.
//!
//! # What is promised
//! - The layer never waits, and never panics: whoever logs does not notice the disk. An event is put into a buffer of
//!   [`buffer_bytes_max`](SpoolConfig::buffer_bytes_max); where it does not fit, it is dropped, counted
//!   ([`Spool::dropped`]), and a record of severity WARN in the spool says how many. There is no choice to wait instead:
//!   a program whose only thread waits for a writer on the same thread would wait for ever.
//! - What is promised begins when the row is in the spool, which is moments after the event. [`Spool::flush`] waits for
//!   that: what was logged before it, and not counted as dropped, is on the disk when it returns. A program that ends
//!   calls it last; one that is killed loses what was in the buffer.
//! - A row keeps its id for ever, and no other spool has it, so a destination that recognises records by id has each
//!   once, from however many programs.
//! - With [`delete_shipped`](logship_core::LogShipperBuilder::delete_shipped) rows go at once when every lane has them,
//!   and their space is used again. The file never grows beyond [`spool_bytes_max`](SpoolConfig::spool_bytes_max): then
//!   events wait in the buffer, and are dropped there.
//!
//! # What is left out
//! Shipping logs by logging that one ships would never end. Left out is what comes from logship itself, what happens
//! inside of its spans, and the targets of [`exclude_targets`](SpoolConfig::exclude_targets), which are those of the
//! libraries that carry the records.
//!
//! # What a record has
//! The body is the event's message, the scope's name its target, and attributes are the event's fields and, behind them,
//! those of the spans around it, the inner before the outer; one of a name that is there already is left out, and
//! `span.name` is the innermost span. Fields `trace_id` and `span_id` of 32 and 16 hexadecimal digits, of the event or
//! of a span around it, become the record's own.
//!
//! ```no_run
//! use logship_core::{Lane, LogShipper};
//! use logship_sources::tracing::{Spool, SpoolConfig};
//! use tracing_subscriber::layer::SubscriberExt;
//! use tracing_subscriber::util::SubscriberInitExt;
//! # async fn example(
//! #     search: impl logship_core::Exporter + 'static,
//! #     store: impl logship_core::OffsetStore + 'static,
//! # ) -> Result<(), logship_core::Error> {
//!
//! let spool = Spool::open(SpoolConfig::new("spool.db")).await?;
//! tracing_subscriber::registry().with(spool.layer()).init();
//! let shipper = LogShipper::builder(spool.source())
//!     .offsets(store)
//!     .delete_shipped(true)
//!     .lane(Lane::new("search", search))
//!     .build()?;
//! tracing::info!(flow = "nightly-load", "started");
//! spool.flush().await?;
//! shipper.run_once().await?;
//! # Ok(())
//! # }
//! ```

mod layer;
mod source;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use logship_core::{Error, ErrorKind};
use serde::Deserialize;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use tokio::sync::{Notify, mpsc, watch};

pub use self::layer::SpoolLayer;
pub(crate) use self::source::register;
pub use self::source::{SpoolSource, SpoolSourceConfig};
use crate::sqlite::failed;

/// How a [`Spool`] keeps events.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpoolConfig {
    /// The database file, which is made if it is not there; the folder above it must exist.
    pub path: PathBuf,
    /// The most bytes of events that wait to be written. Default 8 MiB.
    #[serde(default = "buffer_bytes_default")]
    pub buffer_bytes_max: usize,
    /// The most bytes of the file, beside its write-ahead log. Default 512 MiB.
    #[serde(default = "spool_bytes_default")]
    pub spool_bytes_max: u64,
    /// Targets that are left out, with all below them. Default: the libraries that carry records, `h2`, `hyper`,
    /// `hyper_util`, `reqwest`, `rustls` and `sqlx`. A program that wants to ship what it does with these itself leaves
    /// them out of its shipping by a filter.
    #[serde(default = "exclude_targets_default")]
    pub exclude_targets: Vec<String>,
}

fn buffer_bytes_default() -> usize {
    8 * 1024 * 1024
}

fn spool_bytes_default() -> u64 {
    512 * 1024 * 1024
}

fn exclude_targets_default() -> Vec<String> {
    ["h2", "hyper", "hyper_util", "reqwest", "rustls", "sqlx"].map(str::to_owned).to_vec()
}

impl SpoolConfig {
    /// A spool in this file, with the defaults.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        SpoolConfig {
            path: path.into(),
            buffer_bytes_max: buffer_bytes_default(),
            spool_bytes_max: spool_bytes_default(),
            exclude_targets: exclude_targets_default(),
        }
    }
}

/// A table into which events go, and out of which they are shipped. A clone is the same spool.
///
/// The task that writes belongs to the runtime in which the spool was opened, and ends when every clone and every layer
/// is gone.
#[derive(Clone, Debug)]
pub struct Spool {
    inbox: mpsc::UnboundedSender<Event>,
    shared: Arc<Shared>,
    state: watch::Receiver<State>,
    reader: SqlitePool,
}

/// What layers, the writer and the source have in common.
#[derive(Debug)]
struct Shared {
    config: SpoolConfig,
    /// Bytes of events in the buffer.
    buffered: AtomicUsize,
    /// Events put into the buffer, ever.
    sent: AtomicU64,
    /// Events that did not fit, ever.
    dropped: AtomicU64,
    /// There are new rows.
    written: Notify,
}

/// How far the writer has come.
#[derive(Clone, Debug, Default)]
struct State {
    written: u64,
    failures: u64,
    error: Option<(ErrorKind, String)>,
}

/// An event, as a row has it.
#[derive(Debug)]
struct Event {
    at: i64,
    level: &'static str,
    target: std::borrow::Cow<'static, str>,
    body: String,
    attributes: String,
    trace_id: Option<String>,
    span_id: Option<String>,
}

impl Event {
    /// Bytes in the buffer.
    fn size(&self) -> usize {
        size_of::<Event>() + self.body.len() + self.attributes.len()
    }
}

/// The size of SQLite's pages, unless told otherwise (<https://www.sqlite.org/pragma.html#pragma_page_size>).
const PAGE_BYTES: u64 = 4096;

impl Spool {
    /// Opens the spool, makes its table if there is none, and starts the task that writes to it.
    ///
    /// # Errors
    /// When the file cannot be opened or is no spool.
    pub async fn open(config: SpoolConfig) -> Result<Self, Error> {
        const OPERATION: &str = "open the spool";
        let options = SqliteConnectOptions::new()
            .filename(&config.path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(5));
        let pages = (config.spool_bytes_max / PAGE_BYTES).max(16);
        let pool = || SqlitePoolOptions::new().idle_timeout(None).max_lifetime(None);
        let writer =
            pool().max_connections(1).connect_lazy_with(options.clone().pragma("max_page_count", pages.to_string()));
        writer::make_table(&writer)
            .await
            .map_err(|error| failed(OPERATION, error).with("path", config.path.display()))?;
        let (inbox, events) = mpsc::unbounded_channel();
        let (states, state) = watch::channel(State::default());
        let shared = Arc::new(Shared {
            config,
            buffered: AtomicUsize::new(0),
            sent: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            written: Notify::new(),
        });
        tokio::spawn(writer::run(events, writer, Arc::clone(&shared), states));
        Ok(Spool { inbox, shared, state, reader: pool().max_connections(2).connect_lazy_with(options) })
    }

    /// A layer that writes to this spool, for a `tracing-subscriber` registry. Filters of the program's own go before it
    /// or around it.
    pub fn layer(&self) -> SpoolLayer {
        SpoolLayer::new(self.inbox.clone(), Arc::clone(&self.shared))
    }

    /// The source that reads this spool, and is told of new rows.
    pub fn source(&self) -> SpoolSource {
        SpoolSource::new(self.reader.clone(), Some(Arc::clone(&self.shared)))
    }

    /// How many events were dropped, as the buffer was full, since the spool was opened.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::SeqCst)
    }

    /// Waits until everything that was logged before, and not dropped, is on the disk. Safe to drop at any await.
    ///
    /// # Errors
    /// When the spool could not be written to meanwhile: the events stay in the buffer, and are tried again.
    pub async fn flush(&self) -> Result<(), Error> {
        const OPERATION: &str = "flush the spool";
        let mut states = self.state.clone();
        let (sent, failures) = (self.shared.sent.load(Ordering::SeqCst), states.borrow_and_update().failures);
        loop {
            let state = states.borrow_and_update().clone();
            if state.written >= sent {
                return Ok(());
            }
            if let Some((kind, message)) = state.error.filter(|_| state.failures > failures) {
                return Err(Error::new(kind, OPERATION, message).with("path", self.shared.config.path.display()));
            }
            if states.changed().await.is_err() {
                let message = "the task that writes to it has ended with the runtime it was opened in";
                return Err(Error::new(ErrorKind::Unavailable, OPERATION, message));
            }
        }
    }
}
