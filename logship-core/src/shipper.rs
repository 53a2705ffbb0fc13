//! Puts a source, an offset store and lanes together.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use tokio_util::sync::CancellationToken;

use crate::engine::budget::Shares;
use crate::engine::{self, CpuWork, Mode};
use crate::progress::{Progress, ProgressSender};
use crate::rehearsal;
use crate::{Clock, Error, ErrorKind, Lane, OffsetKey, OffsetStore, Query, RunReport, Source, SystemClock, Timestamp};

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
    pub(crate) until: Option<Timestamp>,
    pub(crate) settle: Duration,
    pub(crate) overlap: Duration,
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
        let mut plan = LogShipper { store: Arc::new(store), progress: ProgressSender::new(), ..self.clone() };
        for lane in &mut plan.lanes {
            lane.exporter = Arc::new(rehearsal::Destination::of(&lane.exporter));
            if let Some(exporter) = &mut lane.dead_letter {
                *exporter = Arc::new(rehearsal::Destination::of(exporter));
            }
        }
        engine::run(&plan, Mode::Once, CancellationToken::new()).await
    }

    /// Ships a range of time again, from and including `from` up to `to`, to one lane: for a destination that is new,
    /// or has lost something. The lane's own offset stays where it is, and its runs may go on at the same time.
    ///
    /// A backfill has an offset of its own, under the offset key with `.backfill` behind it: one that was stopped goes
    /// on where it was when it is begun again, and one that is complete ships nothing more. Chunks go one at a time.
    /// A destination that cannot tell a repeat gets what it had before once more.
    ///
    /// # Errors
    /// As [`LogShipper::run_once`]; [`ErrorKind::Config`] when there is no such lane, or the range is empty or does
    /// not lie in the past.
    pub async fn backfill(&self, lane: &str, from: Timestamp, to: Timestamp) -> Result<RunReport, Error> {
        self.backfill_until(lane, from, to, CancellationToken::new()).await
    }

    /// As [`backfill`](LogShipper::backfill), or stops gracefully when the token is cancelled.
    ///
    /// # Errors
    /// As [`LogShipper::backfill`].
    pub async fn backfill_until(
        &self,
        lane: &str,
        from: Timestamp,
        to: Timestamp,
        stop: CancellationToken,
    ) -> Result<RunReport, Error> {
        let Some(lane) = self.lanes.iter().find(|known| known.id == lane) else {
            let ids: Vec<&str> = self.lanes.iter().map(Lane::id).collect();
            return Err(Error::config("lane", format!("there is no lane `{lane}`; there are: {}", ids.join(", "))));
        };
        if from >= to || to > self.clock.now() {
            return Err(Error::config("range", format!("from {from} to {to} is no range of the past")));
        }
        let mut lane = lane.clone();
        // An id of its own, so that an object of the backfill never takes the name of one of the lane's.
        lane.id = format!("{}-backfill-{}-{}", lane.id, from.as_millis(), to.as_millis());
        lane.options.concurrency = 1;
        let backfill = LogShipper {
            offset_key: OffsetKey::new(format!("{}.backfill", self.offset_key))?,
            lanes: vec![lane],
            begin: Begin::At(from),
            until: Some(to),
            progress: ProgressSender::new(),
            ..self.clone()
        };
        engine::run(&backfill, Mode::Once, stop).await
    }

    /// What runs of this shipper are doing, from now on. Listening slows nothing down; who listens too slowly misses
    /// the oldest.
    pub fn progress(&self) -> impl Stream<Item = Progress> + Send + Unpin + 'static + use<> {
        self.progress.subscribe()
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

    /// What a stored offset of this lane means, in one line.
    pub(crate) fn fingerprint(&self, lane: &Lane) -> String {
        let mut text = format!("{}; {}", self.source.fingerprint(), self.query);
        if lane.options.filter != Query::all() {
            text.push_str(&format!("; lane: {}", lane.options.filter));
        }
        text
    }
}

/// Where a lane begins that has no offset yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begin {
    Earliest,
    Lookback(Duration),
    At(Timestamp),
}

impl Begin {
    pub(crate) fn since(self, now: Timestamp) -> Option<Timestamp> {
        match self {
            Begin::Earliest => None,
            Begin::Lookback(lookback) => Some(now.saturating_sub(lookback)),
            Begin::At(time) => Some(time),
        }
    }
}

/// Builds a [`LogShipper`].
#[derive(Debug)]
pub struct LogShipperBuilder {
    source: Arc<dyn Source>,
    store: Option<Arc<dyn OffsetStore>>,
    offset_key: String,
    query: Query,
    begin: Begin,
    until: Option<Timestamp>,
    settle: Duration,
    overlap: Duration,
    lanes: Vec<Lane>,
    byte_budget: usize,
    page_records: usize,
    page_bytes: usize,
    poll_interval: Duration,
    lease_ttl: Duration,
    deadline: Option<Duration>,
    grace: Duration,
    accept_changed_filter: bool,
    clock: Arc<dyn Clock>,
    seed: Option<u64>,
    cpu: CpuWork,
}

impl LogShipperBuilder {
    fn new(source: Arc<dyn Source>) -> Self {
        LogShipperBuilder {
            source,
            store: None,
            offset_key: "LogShipper-state".to_owned(),
            query: Query::all(),
            begin: Begin::Lookback(Duration::from_secs(24 * 60 * 60)),
            until: None,
            settle: Duration::ZERO,
            overlap: Duration::from_secs(5 * 60),
            lanes: Vec::new(),
            byte_budget: 64 * 1024 * 1024,
            page_records: 1000,
            page_bytes: 1024 * 1024,
            poll_interval: Duration::from_secs(1),
            lease_ttl: Duration::from_secs(30),
            deadline: None,
            grace: Duration::from_secs(10),
            accept_changed_filter: false,
            clock: Arc::new(SystemClock),
            seed: None,
            cpu: CpuWork::default(),
        }
    }

    /// Where offsets are kept. Required: a shipper without memory would ship everything again.
    #[must_use]
    pub fn offsets(self, store: impl OffsetStore + 'static) -> Self {
        self.offsets_shared(Arc::new(store))
    }

    /// Where offsets are kept, in a store that is shared or was made by a [`Registry`](crate::Registry).
    #[must_use]
    pub fn offsets_shared(mut self, store: Arc<dyn OffsetStore>) -> Self {
        self.store = Some(store);
        self
    }

    /// The name under which offsets are kept. Another name ships everything again. Default `LogShipper-state`.
    #[must_use]
    pub fn offset_key(mut self, key: impl Into<String>) -> Self {
        self.offset_key = key.into();
        self
    }

    /// Which records are shipped; lanes may narrow it. Default all.
    #[must_use]
    pub fn query(mut self, query: Query) -> Self {
        self.query = query;
        self
    }

    /// How far before now a lane begins that has no offset yet; `None` for the first record there is. Default one day.
    /// Where that is gets fixed at the lane's first run, also when that run delivers nothing.
    #[must_use]
    pub fn lookback(mut self, lookback: impl Into<Option<Duration>>) -> Self {
        self.begin = lookback.into().map_or(Begin::Earliest, Begin::Lookback);
        self
    }

    /// At which time a lane begins that has no offset yet, instead of a time before now.
    #[must_use]
    pub fn since(mut self, time: Timestamp) -> Self {
        self.begin = Begin::At(time);
        self
    }

    /// Ships only records before this time. Default all.
    #[must_use]
    pub fn until(mut self, time: Timestamp) -> Self {
        self.until = Some(time);
        self
    }

    /// How long a record waits before it is shipped, so that earlier ones can still appear before it. For sources whose
    /// order of arrival is [`Bounded`](crate::ArrivalOrder::Bounded). Records with a time in the future wait until it
    /// has come in any case, as shipping them would move the offset there. Default none.
    #[must_use]
    pub fn settle(mut self, settle: Duration) -> Self {
        self.settle = settle;
        self
    }

    /// How late a record may appear behind others that were shipped, and be shipped all the same. For sources whose
    /// order of arrival is [`Bounded`](crate::ArrivalOrder::Bounded), from slow clocks and transactions that commit
    /// late. What is not older than this when it is read is read once more by the next run, and in a long run each
    /// time this has passed; what was shipped of it is kept with the offset, at most [`Window::IDS_MAX`] records for
    /// each lane and partition. Default 5 min.
    ///
    /// [`Window::IDS_MAX`]: crate::Window::IDS_MAX
    #[must_use]
    pub fn overlap(mut self, overlap: Duration) -> Self {
        self.overlap = overlap;
        self
    }

    /// Adds an exporter's lane. At least one is required, and ids are unique.
    #[must_use]
    pub fn lane(mut self, lane: Lane) -> Self {
        self.lanes.push(lane);
        self
    }

    /// The most bytes of records and bodies held at a time. Default 64 MiB.
    ///
    /// Each lane has an equal share, which nothing that happens in another lane can take from it; one more share keeps
    /// pages for lanes that follow behind. A chunk is cut short where a share would not hold it. A single record that
    /// is larger than a page is still read, alone.
    #[must_use]
    pub fn byte_budget(mut self, bytes: usize) -> Self {
        self.byte_budget = bytes;
        self
    }

    /// The most records in one read of the source. Default 1000.
    #[must_use]
    pub fn page_records(mut self, records: usize) -> Self {
        self.page_records = records;
        self
    }

    /// The most bytes in one read of the source. Default 1 MiB, and never more than an eighth of a lane's share.
    #[must_use]
    pub fn page_bytes(mut self, bytes: usize) -> Self {
        self.page_bytes = bytes;
        self
    }

    /// How long a continuous run waits, when it has everything, before it asks the source again. Default 1 s.
    #[must_use]
    pub fn poll_interval(mut self, interval: Duration) -> Self {
        self.poll_interval = interval;
        self
    }

    /// How long the offset key stays taken after this process has gone without giving it back. Renewed three times in
    /// that time. Default 30 s.
    #[must_use]
    pub fn lease_ttl(mut self, ttl: Duration) -> Self {
        self.lease_ttl = ttl;
        self
    }

    /// How long a run may take. It begins to stop [`grace`](Self::grace) before that. Default without end.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// How long chunks that are under way may take when a run stops. Default 10 s.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Goes on from an offset that was made with another filter. What the old filter left out stays left out. Default
    /// off: such a lane stops and explains itself.
    #[must_use]
    pub fn accept_changed_filter(mut self, accept: bool) -> Self {
        self.accept_changed_filter = accept;
        self
    }

    /// Wall time, for tests. Default the machine's clock.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Makes delays repeatable, for tests. Default by chance.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Where encoding and packing run. Default tokio's blocking pool.
    #[must_use]
    pub fn cpu_work(mut self, cpu: CpuWork) -> Self {
        self.cpu = cpu;
        self
    }

    /// The shipper.
    ///
    /// # Errors
    /// [`ErrorKind::Config`], with the name of the option that is wrong and why.
    pub fn build(self) -> Result<LogShipper, Error> {
        let Some(store) = self.store else {
            return Err(Error::config("offsets", "an offset store is required, such as a file or a memory store"));
        };
        if self.lanes.is_empty() {
            return Err(Error::config("exporters", "at least one exporter is required"));
        }
        let mut ids = BTreeSet::new();
        for lane in &self.lanes {
            lane.validate()?;
            if !ids.insert(lane.id.as_str()) {
                return Err(Error::config("id", format!("two exporters have the id `{}`", lane.id)));
            }
        }
        let positive = [
            ("page_records", self.page_records as u128),
            ("page_bytes", self.page_bytes as u128),
            ("poll_interval", self.poll_interval.as_nanos()),
            ("lease_ttl", self.lease_ttl.as_nanos()),
        ];
        if let Some((field, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(Error::config(field, "must be more than zero"));
        }
        let shares = Shares::divide(self.byte_budget, self.lanes.len(), self.page_bytes).map_err(|least| {
            let message = format!(
                "{} bytes are too few for {} exporters; use at least {least}",
                self.byte_budget,
                self.lanes.len()
            );
            Error::config("byte_budget", message)
        })?;
        Ok(LogShipper {
            source: self.source,
            store,
            offset_key: OffsetKey::new(self.offset_key)?,
            query: self.query,
            begin: self.begin,
            until: self.until,
            settle: self.settle,
            overlap: self.overlap,
            lanes: self.lanes,
            byte_budget: self.byte_budget,
            shares,
            page_records: self.page_records,
            poll_interval: self.poll_interval,
            lease_ttl: self.lease_ttl,
            deadline: self.deadline,
            grace: self.grace,
            accept_changed_filter: self.accept_changed_filter,
            clock: self.clock,
            seed: self.seed,
            cpu: self.cpu,
            progress: ProgressSender::new(),
        })
    }
}
