//! One run: takes the lease, sets the lanes going, keeps the lease, and reports.

pub(crate) mod budget;
pub(crate) mod buffers;
mod chunker;
mod circuit;
mod committer;
mod dead_letter;
mod deleter;
mod delivery;
pub(crate) mod equipment;
mod intake;
mod lane;
mod late;
mod ledger;
mod meter;
mod offload;
mod outbox;
mod part;
mod reader;
mod renewal;
mod shelf;
mod signal;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use self::budget::Gauge;
use self::buffers::Buffers;
use self::committer::Committer;
use self::deleter::Deleter;
use self::delivery::Courier;
use self::equipment::{courier, form};
use self::lane::{LaneContext, until};
use self::late::Remembers;
pub use self::offload::CpuWork;
use self::reader::{Reader, ReaderOptions};
use self::signal::Signal;
use crate::shipper::LogShipper;
use crate::{
    ArrivalOrder, Deletion, Error, ErrorKind, Lane, LaneDelta, LaneOffset, LaneReport, LaneStatus, Lease, OffsetStore,
    Offsets, OffsetsDelta, PageLimits, Partition, RunReport,
};

/// Whether a run ends when there is no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Once,
    Continuous,
}

/// What lanes are told while they run: there may be new records, in these partitions.
#[derive(Clone, Debug, Default)]
pub(crate) struct News {
    pub(crate) partitions: Arc<Vec<Partition>>,
}

/// Runs a shipper, from taking the lease to giving it back.
pub(crate) async fn run(shipper: &LogShipper, mode: Mode, stop: CancellationToken) -> Result<RunReport, Error> {
    shipper.source.check().await?;
    if shipper.delete_shipped {
        // Whether it can delete is known before anything is shipped.
        shipper.source.delete(&[]).await?;
    }
    let owner = format!("process {}", std::process::id());
    let asked = Instant::now();
    let lease = shipper.store.acquire(&shipper.offset_key, &owner, shipper.lease_ttl).await?;
    let guard = LeaseGuard { store: Arc::clone(&shipper.store), lease: Some(lease.clone()) };
    // Of the worst level, so that it is there wherever any event is, and what happens inside can be told apart.
    let span = tracing::error_span!("logship", offset_key = %shipper.offset_key, epoch = lease.epoch);
    let run = Run { shipper, mode, lease };
    let result = async {
        tokio::select! {
            biased;
            error = run.keep_lease(asked) => Err(error),
            report = run.ship(stop) => report,
        }
    };
    let result = result.instrument(span).await;
    let released = guard.release().await;
    let result = result.and_then(|report| released.map(|()| report));
    if result.is_err() {
        shipper.progress.board.failed();
    }
    result
}

/// How long a store may take to give a lease back. One that writes only then tries more than once.
const RELEASE_PATIENCE: Duration = Duration::from_secs(180);

/// Gives the lease back, also when the run is dropped.
struct LeaseGuard {
    store: Arc<dyn OffsetStore>,
    lease: Option<Lease>,
}

impl LeaseGuard {
    /// Fails only where offsets were lost by it.
    async fn release(mut self) -> Result<(), Error> {
        let Some(lease) = &self.lease else { return Ok(()) };
        let released = tokio::time::timeout(RELEASE_PATIENCE, self.store.release(lease)).await;
        self.lease = None;
        match released {
            Ok(Err(error)) if matches!(error.kind(), ErrorKind::State | ErrorKind::Fenced) => return Err(error),
            Ok(Err(error)) => tracing::warn!(%error, "the lease could not be given back; it expires by itself"),
            Err(_) => tracing::warn!("the lease could not be given back in time; it expires by itself"),
            Ok(Ok(())) => {}
        }
        Ok(())
    }
}

impl Drop for LeaseGuard {
    fn drop(&mut self) {
        let Some(lease) = self.lease.take() else { return };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let store = Arc::clone(&self.store);
            // Whether it works or not, nobody is left to be told; a lease that stays expires by itself.
            runtime.spawn(async move { drop(store.release(&lease).await) });
        }
    }
}

struct Run<'a> {
    shipper: &'a LogShipper,
    mode: Mode,
    lease: Lease,
}

/// The lanes at work, and what they share.
struct Team {
    reader: Arc<Reader>,
    committer: Arc<Committer>,
    gauge: Arc<Gauge>,
    news: Arc<Signal<News>>,
    contexts: Vec<Arc<LaneContext>>,
    tasks: JoinSet<(usize, LaneStatus)>,
    /// How lanes ended, and after which time.
    ended: BTreeMap<usize, (LaneStatus, Duration)>,
}

impl Run<'_> {
    async fn ship(&self, stop: CancellationToken) -> Result<RunReport, Error> {
        let shipper = self.shipper;
        let (started, began) = (shipper.clock.now(), Instant::now());
        // Cancelled by the caller's token, by the deadline, and by nothing of ours that the caller would notice.
        let stop = stop.child_token();
        let offsets = shipper.store.load(&shipper.offset_key).await?;
        let (offsets, refusals) = self.prepare(offsets).await?;
        let partitions = shipper.source.partitions().await?;
        let mut team = self.assemble(offsets, partitions, &stop);
        self.set_going(&mut team, &refusals);
        let deleter = (shipper.delete_shipped && refusals.is_empty()).then(|| Deleter::new(shipper, &team));
        let deletion = self.wait(&mut team, deleter, began, &stop).await?;
        let mut lanes = Vec::new();
        for (number, context) in team.contexts.iter().enumerate() {
            let panicked = || {
                let message = "the lane panicked; this is a fault in logship or in the exporter";
                (LaneStatus::Stopped(Error::new(ErrorKind::Unexpected, "ship", message)), Duration::ZERO)
            };
            let (status, elapsed) = team.ended.remove(&number).unwrap_or_else(panicked);
            lanes.push(self.finish(context, status, elapsed).await);
        }
        Ok(RunReport {
            started,
            elapsed: began.elapsed(),
            source_records: team.reader.records(),
            source_reads: team.reader.reads(),
            memory_peak: team.gauge.peak(),
            memory_budget: shipper.byte_budget,
            deletion: deletion.or(shipper.delete_shipped.then(Deletion::default)),
            lanes,
        })
    }

    /// Everything that the lanes share, and what each is given.
    fn assemble(&self, offsets: Offsets, partitions: Vec<Partition>, stop: &CancellationToken) -> Team {
        let (shipper, shares) = (self.shipper, self.shipper.shares);
        let news = Arc::new(Signal::new(News { partitions: Arc::new(partitions) }));
        let gauge = Arc::new(Gauge::default());
        let options = ReaderOptions {
            query: shipper.query.clone(),
            limits: PageLimits { records_max: shipper.page_records, bytes_max: shares.page, until: None },
            retained_max: shares.retained,
            settle: shipper.settle,
            until: shipper.until,
            forms: shipper.lanes.iter().map(form).collect(),
            transforms: Arc::clone(&shipper.transforms),
            cpu: shipper.cpu,
            clock: Arc::clone(&shipper.clock),
            buffers: Arc::new(Buffers::new(Arc::clone(&gauge), shipper.byte_budget)),
        };
        let bodies = Arc::new(Buffers::new(Arc::clone(&gauge), shipper.byte_budget));
        let source = Arc::clone(&shipper.source);
        let reader = Arc::new(Reader::new(source, options, Arc::clone(&gauge), shipper.lanes.len()));
        let committer = Arc::new(Committer::new(offsets));
        let remembers = Remembers {
            overlap: (shipper.source.arrival_order() == ArrivalOrder::Bounded).then_some(shipper.overlap),
            until_deleted: shipper.delete_shipped,
        };
        let context = |(number, lane): (usize, &Lane)| {
            Arc::new(LaneContext {
                number,
                courier: courier(shipper, lane, number, &gauge, &bodies, stop),
                reader: Arc::clone(&reader),
                committer: Arc::clone(&committer),
                clock: Arc::clone(&shipper.clock),
                mode: self.mode,
                news: Arc::clone(&news),
                share: shares.lane,
                page: shares.page,
                remembers,
                grace: shipper.grace,
            })
        };
        let contexts = shipper.lanes.iter().enumerate().map(context).collect();
        let (tasks, ended) = (JoinSet::new(), BTreeMap::new());
        Team { reader, committer, gauge, news, contexts, tasks, ended }
    }

    /// Starts every lane whose offset means what it should.
    fn set_going(&self, team: &mut Team, refusals: &BTreeMap<String, Error>) {
        for (number, lane) in self.shipper.lanes.iter().enumerate() {
            self.shipper.progress.board.begins(lane);
            if let Some(error) = refusals.get(&lane.id) {
                team.reader.leave(number);
                team.ended.insert(number, (LaneStatus::Stopped(error.duplicate()), Duration::ZERO));
                continue;
            }
            let span = tracing::error_span!("lane", id = %lane.id, kind = lane.exporter.kind());
            let context = Arc::clone(&team.contexts[number]);
            team.tasks.spawn(async move { (number, context.run().await) }.instrument(span));
        }
    }

    /// Waits for the lanes, and for what they have to be deleted, and commits what they finish.
    async fn wait(
        &self,
        team: &mut Team,
        deleter: Option<Deleter>,
        began: Instant,
        stop: &CancellationToken,
    ) -> Result<Option<Deletion>, Error> {
        let shipper = self.shipper;
        let lanes_ended = CancellationToken::new();
        let deadline = shipper.deadline.map(|deadline| began + deadline.saturating_sub(shipper.grace));
        let commit = team.committer.run(shipper.store.as_ref(), &self.lease);
        let watch = self.watch_source(&team.news);
        let delete = async {
            match deleter {
                Some(deleter) => Some(deleter.run(&lanes_ended, stop).await),
                None => {
                    lanes_ended.cancelled().await;
                    None
                }
            }
        };
        tokio::pin!(commit, watch, delete);
        let mut deletion: Option<Option<Deletion>> = None;
        loop {
            if lanes_ended.is_cancelled()
                && let Some(deletion) = deletion.take()
            {
                return Ok(deletion);
            }
            tokio::select! {
                biased;
                error = &mut commit => return Err(error),
                joined = team.tasks.join_next(), if !lanes_ended.is_cancelled() => match joined {
                    None => lanes_ended.cancel(),
                    Some(Ok((number, status))) => drop(team.ended.insert(number, (status, began.elapsed()))),
                    Some(Err(error)) => tracing::error!(%error, "a lane ended without a status"),
                },
                done = &mut delete, if deletion.is_none() => deletion = Some(done),
                () = until(deadline), if !stop.is_cancelled() => stop.cancel(),
                () = &mut watch, if self.mode == Mode::Continuous => {}
            }
        }
    }

    /// Fixes where new lanes begin, before anything is read, and finds the lanes whose offsets mean something else.
    async fn prepare(&self, mut offsets: Offsets) -> Result<(Offsets, BTreeMap<String, Error>), Error> {
        let shipper = self.shipper;
        let mut refusals = BTreeMap::new();
        let mut delta = OffsetsDelta::default();
        for lane in &shipper.lanes {
            let fingerprint = shipper.fingerprint(lane);
            match offsets.lanes.get(&lane.id) {
                None => {
                    let since = shipper.begin.since(shipper.clock.now());
                    let change = LaneDelta { fingerprint: Some(fingerprint), since, ..LaneDelta::default() };
                    delta.lanes.insert(lane.id.clone(), change);
                }
                Some(stored) if stored.fingerprint == fingerprint => {}
                // Positions in another source mean nothing.
                Some(stored) if shipper.accept_changed_filter && shipper.is_of_source(&stored.fingerprint) => {
                    let change = LaneDelta { fingerprint: Some(fingerprint), ..LaneDelta::default() };
                    delta.lanes.insert(lane.id.clone(), change);
                }
                Some(stored) => {
                    refusals.insert(lane.id.clone(), changed_filter(stored, &fingerprint, &shipper.offset_key));
                }
            }
        }
        if !delta.is_empty() {
            committer::write(shipper.store.as_ref(), &self.lease, &delta).await?;
            offsets.apply(&delta);
        }
        Ok((offsets, refusals))
    }

    /// Renews the lease, which was asked for at this time, for as long as the run lasts. Returns when it is lost, or may
    /// be.
    async fn keep_lease(&self, mut renewed: Instant) -> Error {
        let ttl = self.shipper.lease_ttl;
        let patience = ttl / 6;
        let mut next = renewed + ttl / 3;
        loop {
            tokio::time::sleep_until(next).await;
            let asked = Instant::now();
            match tokio::time::timeout(patience, self.shipper.store.renew(&self.lease, ttl)).await {
                Ok(Ok(())) => {
                    renewed = asked;
                    next = renewed + ttl / 3;
                    continue;
                }
                Ok(Err(error)) if error.kind() == ErrorKind::Fenced || !error.is_retryable() => return error,
                Ok(Err(error)) => tracing::warn!(%error, "the lease could not be renewed; trying again"),
                Err(_) => tracing::warn!("the lease could not be renewed in time; trying again"),
            }
            // Shipping on with a lease that somebody else may hold would send everything twice, so there is to be time
            // for one more try, and for what is under way to end.
            if renewed.elapsed() + 2 * patience > ttl {
                return Error::new(ErrorKind::Fenced, "renew the lease", "it could not be renewed before it expired")
                    .with("offset_key", &self.shipper.offset_key);
            }
            next = Instant::now() + patience;
        }
    }

    /// Tells the lanes of new records and partitions, for as long as the run lasts.
    async fn watch_source(&self, news: &Signal<News>) {
        loop {
            tokio::select! {
                biased;
                () = self.shipper.source.changed() => {}
                () = tokio::time::sleep(self.shipper.poll_interval) => {}
            }
            match self.shipper.source.partitions().await {
                Ok(partitions) => news.set(News { partitions: Arc::new(partitions) }),
                Err(error) => tracing::warn!(%error, "the partitions of the source could not be listed; trying again"),
            }
        }
    }

    /// Completes a lane's report.
    async fn finish(&self, context: &LaneContext, status: LaneStatus, elapsed: Duration) -> LaneReport {
        let courier = &context.courier;
        let mut uris = finish_exporter(courier).await;
        if let Some(dead_letter) = &courier.dead_letter {
            uris.extend(finish_exporter(&dead_letter.courier).await);
        }
        let empty = LaneReport::new(&courier.lane, courier.exporter.kind());
        courier.publish();
        self.shipper.progress.board.ended(&courier.lane, &status);
        let mut report = std::mem::replace(&mut *courier.lock(), empty);
        let last = report.last_timestamp.filter(|_| !matches!(status, LaneStatus::Complete));
        report.lag = last.map(|last| self.shipper.clock.now().since(last));
        report.status = status;
        report.elapsed = elapsed;
        report.uris = uris;
        report
    }
}

/// What an exporter has made.
async fn finish_exporter(courier: &Courier) -> Vec<String> {
    match tokio::time::timeout(courier.options.attempt_timeout, courier.exporter.finish()).await {
        Ok(Ok(artifacts)) => artifacts.uris,
        Ok(Err(error)) => {
            tracing::warn!(lane = %courier.lane, %error, "the exporter could not say what it made");
            Vec::new()
        }
        Err(_) => Vec::new(),
    }
}

/// The stored offset was made with another source or filter.
fn changed_filter(stored: &LaneOffset, fingerprint: &str, key: &crate::OffsetKey) -> Error {
    let message = format!(
        "the stored offset was made for [{}] and this lane now reads [{fingerprint}]; going on from it would pass \
         records over. Use another offset key, reset this lane's offset, or, where only the filter is another, accept \
         the change, which ships what the new filter wants from here on",
        stored.fingerprint
    );
    Error::new(ErrorKind::Config, "use the stored offset", message).with("offset_key", key)
}
