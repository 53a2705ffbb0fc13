//! Puts a shipper together, and refuses what cannot work before anything is read.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::CpuWork;
use crate::engine::budget::Shares;
use crate::engine::equipment::page_records;
use crate::page::Until;
use crate::progress::ProgressSender;
use crate::shipper::LogShipper;
use crate::{
    Clock, Error, Lane, NoSecrets, OffsetKey, OffsetStore, Query, SecretProvider, Source, SystemClock, Timestamp,
    Transform,
};

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
    delete_shipped: bool,
    transforms: Vec<Arc<dyn Transform>>,
    lanes: Vec<Lane>,
    secrets: Arc<dyn SecretProvider>,
    byte_budget: usize,
    page_records: Option<usize>,
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
    pub(crate) fn new(source: Arc<dyn Source>) -> Self {
        LogShipperBuilder {
            source,
            store: None,
            offset_key: "LogShipper-state".to_owned(),
            query: Query::all(),
            begin: Begin::Lookback(Duration::from_secs(24 * 60 * 60)),
            until: None,
            settle: Duration::ZERO,
            overlap: Duration::from_secs(5 * 60),
            delete_shipped: false,
            transforms: Vec::new(),
            lanes: Vec::new(),
            secrets: Arc::new(NoSecrets),
            byte_budget: 64 * 1024 * 1024,
            page_records: None,
            page_bytes: 4 * 1024 * 1024,
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

    /// Ships only records before this time. Default all. Later ones wait for a run that wants them, and so do those
    /// behind them in a source whose order is that of arrival.
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

    /// Deletes from the source what every lane has: accepted, in the dead letter, or passed over by a rule. Default off.
    ///
    /// Exactly those records are deleted, by identity: a record that appears later in the same stretch of time, or that
    /// was shipped before this was switched on, stays. A record goes once the [`overlap`](Self::overlap) behind it has
    /// passed (at once for a source in which nothing appears late), while the run lasts or in the next one. For each lane
    /// and partition at most [`Window::IDS_MAX`] records wait for slower lanes; what is more stays in the source.
    /// A run fails at its start with [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) if the source cannot
    /// delete.
    ///
    /// [`Window::IDS_MAX`]: crate::Window::IDS_MAX
    #[must_use]
    pub fn delete_shipped(mut self, delete: bool) -> Self {
        self.delete_shipped = delete;
        self
    }

    /// Changes every record before any lane sees it, in the order in which transforms are added: a
    /// [`Redaction`](crate::Redaction), an [`Enrichment`](crate::Enrichment), or one of the program's own.
    #[must_use]
    pub fn transform(mut self, transform: impl Transform + 'static) -> Self {
        self.transforms.push(Arc::new(transform));
        self
    }

    /// Adds an exporter's lane. At least one is required, and ids are unique.
    #[must_use]
    pub fn lane(mut self, lane: Lane) -> Self {
        self.lanes.push(lane);
        self
    }

    /// Where the secrets of the exporters are kept, if they are asked for over a network: they are
    /// [renewed](SecretProvider::renew) before an exporter that is not let in any more reads them again. Default: nobody
    /// has to be asked.
    #[must_use]
    pub fn secrets(mut self, secrets: Arc<dyn SecretProvider>) -> Self {
        self.secrets = secrets;
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

    /// The most records in one read of the source. Default 1 000 to 5 000: the largest chunk of any lane, or so many such
    /// chunks, or such a part of one, that chunks begin and end with pages.
    #[must_use]
    pub fn page_records(mut self, records: usize) -> Self {
        self.page_records = Some(records);
        self
    }

    /// The most bytes in one read of the source. Default 4 MiB, and never more than an eighth of a lane's share.
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

    /// Goes on from an offset that was made with another filter, of the same source. What the old filter left out stays
    /// left out. Default off: such a lane stops and explains itself.
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
    /// [`ErrorKind::Config`](crate::ErrorKind::Config), with the name of the option that is wrong and why.
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
        let page_records = self.page_records.unwrap_or_else(|| page_records(&self.lanes));
        let positive = [
            ("page_records", page_records as u128),
            ("page_bytes", self.page_bytes as u128),
            ("poll_interval", self.poll_interval.as_nanos()),
            ("lease_ttl", self.lease_ttl.as_nanos()),
        ];
        if let Some((field, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(Error::config(field, "must be more than zero"));
        }
        // What deletes holds a page, too.
        let holders = self.lanes.len() + usize::from(self.delete_shipped);
        let shares = Shares::divide(self.byte_budget, holders, self.page_bytes).map_err(|least| {
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
            until: self.until.map(|time| Until { time, passes: false }),
            is_plan: false,
            settle: self.settle,
            overlap: self.overlap,
            delete_shipped: self.delete_shipped,
            transforms: self.transforms.into(),
            lanes: self.lanes,
            secrets: self.secrets,
            byte_budget: self.byte_budget,
            shares,
            page_records,
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
