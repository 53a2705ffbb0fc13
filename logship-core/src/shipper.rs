//! Puts a source, an offset store and lanes together.

use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use tokio_util::sync::CancellationToken;

use crate::builder::{Begin, LogShipperBuilder};
use crate::engine::budget::Shares;
use crate::engine::{self, CpuWork, Mode};
use crate::page::Until;
use crate::progress::{Progress, ProgressSender};
use crate::rehearsal;
use crate::{
    Clock, Error, ErrorKind, Lane, LaneState, OffsetKey, OffsetStore, Offsets, Query, RunReport, Source, Transform,
};

/// Reads a source from the last offset, once, and gives each lane what is new to it.
///
/// ```no_run
/// # async fn example(
/// #     source: impl logship_core::Source + 'static,
/// #     store: impl logship_core::OffsetStore + 'static,
/// #     archive: impl logship_core::Exporter + 'static,
/// #     search: impl logship_core::Exporter + 'static,
/// # ) -> Result<(), logship_core::Error> {
/// use logship_core::{Lane, LogShipper, Query, Severity};
///
/// let shipper = LogShipper::builder(source)
///     .offsets(store)
///     .offset_key("LogShipper-state")
///     .query(Query::all().severity_min(Severity::INFO))
///     .lane(Lane::new("archive", archive).chunk(10_000))
///     .lane(Lane::new("search", search).chunk(5_000).concurrency(2))
///     .build()?;
/// let report = shipper.run_once().await?;
/// println!("{report}");
/// # Ok(())
/// # }
/// ```
///
/// # Cancellation
/// A run that is dropped stops at once: what was under way is in doubt and is sent again by the next run, as after a
/// crash. [`LogShipper::run_once_until`] and [`LogShipper::run`] stop gracefully when their token is cancelled: no new
/// chunks, time for those under way, a last commit, a report.
#[derive(Clone, Debug)]
pub struct LogShipper {
    pub(crate) source: Arc<dyn Source>,
    pub(crate) store: Arc<dyn OffsetStore>,
    pub(crate) offset_key: OffsetKey,
    pub(crate) query: Query,
    pub(crate) begin: Begin,
    pub(crate) until: Option<Until>,
    /// Nothing of a run is real, and nobody is to count it.
    pub(crate) is_plan: bool,
    pub(crate) settle: Duration,
    pub(crate) overlap: Duration,
    pub(crate) delete_shipped: bool,
    pub(crate) transforms: Arc<[Arc<dyn Transform>]>,
    pub(crate) lanes: Vec<Lane>,
    pub(crate) byte_budget: usize,
    pub(crate) shares: Shares,
    pub(crate) page_records: usize,
    pub(crate) poll_interval: Duration,
    pub(crate) lease_ttl: Duration,
    pub(crate) deadline: Option<Duration>,
    pub(crate) grace: Duration,
    pub(crate) accept_changed_filter: bool,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) seed: Option<u64>,
    pub(crate) cpu: CpuWork,
    pub(crate) progress: ProgressSender,
}

impl LogShipper {
    /// A shipper that reads this source.
    pub fn builder(source: impl Source + 'static) -> LogShipperBuilder {
        LogShipper::builder_shared(Arc::new(source))
    }

    /// A shipper that reads a source which is shared or was made by a [`Registry`](crate::Registry).
    pub fn builder_shared(source: Arc<dyn Source>) -> LogShipperBuilder {
        LogShipperBuilder::new(source)
    }

    /// Ships what there is now and returns.
    ///
    /// # Errors
    /// When the source or the offset store cannot be used, when somebody else holds the offset key
    /// ([`ErrorKind::Busy`]), or when the lease is lost on the way ([`ErrorKind::Fenced`]). A lane that stopped is not
    /// an error but a [`LaneStatus`](crate::LaneStatus) in the report.
    pub async fn run_once(&self) -> Result<RunReport, Error> {
        self.run_once_until(CancellationToken::new()).await
    }

    /// Ships what there is now and returns; or stops gracefully when the token is cancelled.
    ///
    /// # Errors
    /// As [`LogShipper::run_once`].
    pub async fn run_once_until(&self, stop: CancellationToken) -> Result<RunReport, Error> {
        engine::run(self, Mode::Once, stop).await
    }

    /// Ships what there is and what comes, until the token is cancelled, the deadline is near, or no lane is left that
    /// could go on.
    ///
    /// # Errors
    /// As [`LogShipper::run_once`].
    pub async fn run(&self, stop: CancellationToken) -> Result<RunReport, Error> {
        engine::run(self, Mode::Continuous, stop).await
    }

    /// What [`run_once`](LogShipper::run_once) would do now, without doing it: the source is read and chunks are made,
    /// but nothing is sent, no offset moves, and no lease is taken. In the report of the plan, `accepted` is what would
    /// be sent, `chunks` in how many requests at least, `bytes` their size, and `rejected` what the destinations' own
    /// limits would refuse.
    ///
    /// # Errors
    /// When the source or the offset store cannot be read.
    pub async fn plan(&self) -> Result<RunReport, Error> {
        let store = rehearsal::Offsets::new(self.store.load(&self.offset_key).await?);
        let progress = ProgressSender::new();
        let store = Arc::new(store);
        let mut plan = LogShipper { store, progress, delete_shipped: false, is_plan: true, ..self.clone() };
        for lane in &mut plan.lanes {
            lane.options.records_per_second_max = None;
            lane.exporter = Arc::new(rehearsal::Destination::of(&lane.exporter));
            if let Some(exporter) = &mut lane.dead_letter {
                *exporter = Arc::new(rehearsal::Destination::of(exporter));
            }
        }
        engine::run(&plan, Mode::Once, CancellationToken::new()).await
    }

    /// How far each lane has come, as it is stored.
    ///
    /// # Errors
    /// When the offset store cannot be read.
    pub async fn offsets(&self) -> Result<Offsets, Error> {
        self.store.load(&self.offset_key).await
    }

    /// Forgets how far a lane has come, or all lanes, so that the next run begins anew and ships what there is again.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] while a run holds the offset key; [`ErrorKind::Config`] when there is no such lane.
    pub async fn reset_offsets(&self, lane: Option<&str>) -> Result<(), Error> {
        if let Some(lane) = lane {
            self.lane(lane)?;
        }
        self.store.reset(&self.offset_key, lane).await
    }

    /// What runs of this shipper are doing, from now on. Listening slows nothing down; who listens too slowly misses
    /// the oldest.
    pub fn progress(&self) -> impl Stream<Item = Progress> + Send + Unpin + 'static + use<> {
        self.progress.subscribe()
    }

    /// What each lane is doing now, in the order in which lanes were given, and what it has done in the newest run. Cheap;
    /// says of the runs of this shipper and its clones, in this process.
    pub fn states(&self) -> Vec<LaneState> {
        let now = self.clock.now();
        self.lanes.iter().map(|lane| self.progress.board.state(lane, now)).collect()
    }

    /// Whether the source and every destination can be reached and let us in. Ships nothing. The first of each pair
    /// is `source`, a lane's id, or `<lane> dead letter`.
    pub async fn check(&self) -> Vec<(String, Result<(), Error>)> {
        let mut results = vec![("source".to_owned(), self.source.check().await)];
        for lane in &self.lanes {
            let answer = tokio::time::timeout(lane.options.attempt_timeout, lane.exporter.check()).await;
            let timed_out = || Err(Error::new(ErrorKind::Timeout, "check", "no answer in time"));
            results.push((lane.id.clone(), answer.unwrap_or_else(|_| timed_out())));
            if let Some(exporter) = &lane.dead_letter {
                let answer = tokio::time::timeout(lane.options.attempt_timeout, exporter.check()).await;
                results.push((format!("{} dead letter", lane.id), answer.unwrap_or_else(|_| timed_out())));
            }
        }
        results
    }

    /// The lane of this id.
    pub(crate) fn lane(&self, id: &str) -> Result<&Lane, Error> {
        self.lanes.iter().find(|lane| lane.id == id).ok_or_else(|| {
            let ids: Vec<&str> = self.lanes.iter().map(Lane::id).collect();
            Error::config("lane", format!("there is no lane `{id}`; there are: {}", ids.join(", ")))
        })
    }

    /// Whether a stored offset was made for this source.
    pub(crate) fn is_of_source(&self, fingerprint: &str) -> bool {
        fingerprint.starts_with(&self.source_fingerprint())
    }

    fn source_fingerprint(&self) -> String {
        format!("{}; ", self.source.fingerprint())
    }

    /// What a stored offset of this lane means, in one line.
    pub(crate) fn fingerprint(&self, lane: &Lane) -> String {
        let mut text = format!("{}{}", self.source_fingerprint(), self.query);
        if lane.options.filter != Query::all() {
            text.push_str(&format!("; lane: {}", lane.options.filter));
        }
        text
    }
}
