//! The life of one lane in a run: fetch, cut, pack, deliver, commit.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::{FuturesOrdered, FuturesUnordered};
use tokio::time::Instant;

use super::budget::{Gauge, Held};
use super::chunker::{Chunker, Cut, Input, Pushed, Span};
use super::committer::Committer;
use super::delivery::{Courier, Delivered, Standing, rejected};
use super::ledger::Ledger;
use super::reader::{Reader, Taken};
use super::signal::Signal;
use super::{Mode, News};
use crate::encoding::EncodedPage;
use crate::progress::Progress;
use crate::{
    Chunk, Clock, Cursor, Error, ErrorKind, Idempotency, LaneDelta, LaneOffset, LaneStatus, OffsetsDelta, OnReject,
    PageEnd, Partition, RetryPolicy, Start,
};

/// What a lane is given for a run.
#[derive(Debug)]
pub(crate) struct LaneContext {
    pub(crate) number: usize,
    pub(crate) courier: Courier,
    pub(crate) reader: Arc<Reader>,
    pub(crate) committer: Arc<Committer>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) mode: Mode,
    pub(crate) news: Arc<Signal<News>>,
    /// Bytes this lane may hold.
    pub(crate) share: usize,
    /// Bytes of the largest page.
    pub(crate) page: usize,
    pub(crate) grace: Duration,
}

/// How a pass through the source ended.
enum PassEnd {
    /// Everything there was is durable.
    CaughtUp,
    /// The run is stopping.
    Interrupted,
    /// The lane cannot go on.
    Failed(Error),
}

/// Pages that are fetched at a time, each of another partition.
const FETCHES_MAX: usize = 4;

/// Chunks that are packed ahead of the one being sent.
const PACKED_AHEAD: usize = 1;

/// Chunks that may be delivered and not yet durable, beyond those under way, where a repeat does no harm.
const UNCOMMITTED_EXTRA: usize = 8;

impl LaneContext {
    /// Ships until there is no more, or, in a continuous run, until it is told to stop.
    pub(crate) async fn run(&self) -> LaneStatus {
        let status = loop {
            let mut pass = Pass::new(self);
            let end = pass.run().await;
            pass.abandon();
            match end {
                PassEnd::CaughtUp => break LaneStatus::Complete,
                PassEnd::Interrupted => break LaneStatus::Interrupted,
                PassEnd::Failed(error) => {
                    let gave_up = error.is_retryable() && self.mode == Mode::Continuous;
                    let rests = gave_up.then_some(self.courier.options.retry.delay_max);
                    tracing::error!(lane = %self.courier.lane, %error, ?rests, "the lane cannot go on");
                    self.courier.progress.send(Progress::Stopped {
                        lane: Arc::clone(&self.courier.lane),
                        error: error.to_string().into(),
                        rests,
                    });
                    let Some(rest) = rests else { break LaneStatus::Stopped(error) };
                    tokio::select! {
                        biased;
                        () = self.courier.stop.cancelled() => break LaneStatus::Stopped(error),
                        () = tokio::time::sleep(rest) => {}
                    }
                }
            }
        };
        self.reader.leave(self.number);
        status
    }

    /// Chunks that may be under way or not yet durable at a time.
    fn window(&self) -> usize {
        match self.courier.idempotency {
            Idempotency::None => self.courier.options.concurrency,
            Idempotency::PerRecord => self.courier.options.concurrency + UNCOMMITTED_EXTRA,
            Idempotency::PerChunk => 1,
        }
    }
}

type Fetched = (usize, Result<(Taken, Option<Arc<EncodedPage>>), Error>);
type Packed = (u64, Result<(Chunk, Option<Held>), Error>);

/// A lane from its offset to the end of what there is.
struct Pass<'a> {
    lane: &'a LaneContext,
    offset: LaneOffset,
    /// Bytes this lane holds.
    gauge: Arc<Gauge>,
    partitions: Vec<PartitionState>,
    numbers: BTreeMap<Partition, usize>,
    /// Partitions to read next.
    ready: VecDeque<usize>,
    fetches: FuturesUnordered<BoxFuture<'a, Fetched>>,
    chunker: Chunker,
    /// When the oldest waiting record began to wait.
    waiting_since: Option<Instant>,
    /// Cut, not yet packed.
    cuts: VecDeque<(u64, Chunk)>,
    packing: FuturesOrdered<BoxFuture<'a, Packed>>,
    packed: VecDeque<(u64, Chunk, Option<Held>)>,
    in_flight: FuturesUnordered<BoxFuture<'a, Delivered>>,
    /// Chunks that are cut and not durable.
    open_chunks: BTreeMap<u64, OpenChunk>,
    next_chunk: u64,
    /// Commits that are not durable: the ticket, and what it finishes.
    committing: VecDeque<(u64, Vec<u64>)>,
    /// The versions of what this pass has seen.
    durable_seen: u64,
    news_seen: u64,
    /// Partitions whose `skipped_to` waits for the ledger.
    skips: BTreeSet<usize>,
    /// Why the lane cannot go on once what is before it has been delivered.
    failed: Option<Error>,
    /// A chunk could not be delivered: nothing behind it may be sent.
    blocked: bool,
    said_caught_up: bool,
}

#[derive(Debug)]
struct PartitionState {
    partition: Partition,
    next: Start,
    ledger: Ledger,
    caught_up: bool,
    /// Covered without a chunk, and not in the ledger yet.
    skipped_to: Option<Cursor>,
}

#[derive(Debug)]
struct OpenChunk {
    spans: Vec<Span>,
    /// Spans that the cursor has not passed.
    spans_left: usize,
    records: u64,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Waiting,
    InFlight,
    Delivered,
    /// Not delivered, but for so many records that may be there and will be sent again.
    Failed {
        repeated: u64,
    },
}

impl<'a> Pass<'a> {
    fn new(lane: &'a LaneContext) -> Self {
        let courier = &lane.courier;
        let chunker = Chunker::new(
            Arc::clone(&courier.lane),
            courier.limits,
            courier.options.filter.clone(),
            courier.encoding.as_deref(),
            courier.options.on_reject == OnReject::Stop,
        );
        let mut pass = Pass {
            lane,
            offset: lane.committer.stored(&courier.lane),
            gauge: Arc::default(),
            partitions: Vec::new(),
            numbers: BTreeMap::new(),
            ready: VecDeque::new(),
            fetches: FuturesUnordered::new(),
            chunker,
            waiting_since: None,
            cuts: VecDeque::new(),
            packing: FuturesOrdered::new(),
            packed: VecDeque::new(),
            in_flight: FuturesUnordered::new(),
            open_chunks: BTreeMap::new(),
            next_chunk: 0,
            committing: VecDeque::new(),
            durable_seen: 0,
            news_seen: 0,
            skips: BTreeSet::new(),
            failed: None,
            blocked: false,
            said_caught_up: false,
        };
        pass.look_around();
        pass
    }

    async fn run(&mut self) -> PassEnd {
        let lane = self.lane;
        let stop = &lane.courier.stop;
        let mut grace_ends: Option<Instant> = None;
        loop {
            let stopping = stop.is_cancelled();
            if stopping && grace_ends.is_none() {
                grace_ends = Some(Instant::now() + lane.grace);
            }
            if !stopping && self.failed.is_none() {
                self.fetch();
                self.cut_if_due();
                self.finish_skips();
            }
            if !stopping {
                self.pack();
                self.dispatch();
            }
            if let Some(end) = self.end(stopping) {
                return end;
            }
            let linger_ends = self.linger_ends().filter(|end| *end > Instant::now());
            tokio::select! {
                biased;
                () = until(grace_ends) => return PassEnd::Interrupted,
                Some(delivered) = self.in_flight.next() => self.delivered(delivered),
                Some(packed) = self.packing.next() => self.was_packed(packed),
                () = lane.committer.durable.changed(self.durable_seen) => self.committed(),
                Some(fetched) = self.fetches.next(), if !stopping => self.fetched(fetched),
                () = lane.news.changed(self.news_seen), if !stopping && lane.mode == Mode::Continuous => self.look_around(),
                () = until(linger_ends), if !stopping => {}
                () = stop.cancelled(), if !stopping => {}
            }
        }
    }

    /// Whether the pass is over.
    fn end(&mut self, stopping: bool) -> Option<PassEnd> {
        let under_way = !self.in_flight.is_empty() || !self.committing.is_empty();
        if under_way {
            return None;
        }
        if stopping {
            let all_done = self.is_caught_up() && self.failed.is_none();
            return Some(if all_done && self.lane.mode == Mode::Once {
                PassEnd::CaughtUp
            } else {
                PassEnd::Interrupted
            });
        }
        if self.failed.is_some() {
            // What was cut before the failure is still to be delivered, unless it failed itself.
            if self.blocked || (self.cuts.is_empty() && self.packing.is_empty() && self.packed.is_empty()) {
                return self.failed.take().map(PassEnd::Failed);
            }
            return None;
        }
        if !self.is_caught_up() {
            return None;
        }
        if !self.said_caught_up {
            self.said_caught_up = true;
            self.lane.courier.progress.send(Progress::CaughtUp { lane: Arc::clone(&self.lane.courier.lane) });
        }
        (self.lane.mode == Mode::Once).then_some(PassEnd::CaughtUp)
    }

    fn is_caught_up(&self) -> bool {
        self.fetches.is_empty()
            && self.ready.is_empty()
            && self.chunker.is_empty()
            && self.open_chunks.is_empty()
            && self.skips.is_empty()
    }

    /// Takes up new partitions, and reads on in those that had no more.
    fn look_around(&mut self) {
        let (seen, news) = self.lane.news.get();
        self.news_seen = seen;
        for partition in news.partitions.iter() {
            if self.numbers.contains_key(partition) {
                continue;
            }
            let number = self.partitions.len();
            let next = self.offset.start(partition);
            self.chunker.add_partition(next.clone());
            self.numbers.insert(partition.clone(), number);
            self.ready.push_back(number);
            self.partitions.push(PartitionState {
                partition: partition.clone(),
                next,
                ledger: Ledger::default(),
                caught_up: false,
                skipped_to: None,
            });
        }
        for (number, state) in self.partitions.iter_mut().enumerate() {
            if std::mem::take(&mut state.caught_up) {
                self.ready.push_back(number);
            }
        }
    }

    /// What one more page may cost this lane: the page, its encoded form, and the body made of that.
    fn page_cost(&self) -> usize {
        self.lane.page * if self.lane.courier.encoding.is_some() { 3 } else { 1 }
    }

    fn has_room(&self) -> bool {
        let fetching = (self.fetches.len() + 1) * self.page_cost();
        self.gauge.now() + fetching <= self.lane.share || (self.gauge.now() == 0 && self.fetches.is_empty())
    }

    fn fetch(&mut self) {
        // What is cut and not sent is enough; reading on would only hold memory.
        let enough = PACKED_AHEAD + 1;
        while self.fetches.len() < FETCHES_MAX && self.cuts.len() < enough && self.has_room() {
            let Some(number) = self.ready.pop_front() else { return };
            let state = &self.partitions[number];
            let fetch = fetch(self.lane, number, state.partition.clone(), state.next.clone());
            self.fetches.push(Box::pin(fetch));
        }
    }

    fn fetched(&mut self, (number, result): Fetched) {
        let (taken, encoded) = match result {
            Ok(fetched) => fetched,
            Err(error) => {
                // What has been read is shipped first.
                if let Some(cut) = self.chunker.cut() {
                    self.was_cut(cut);
                }
                return self.fail(error);
            }
        };
        if self.failed.is_some() {
            return;
        }
        let Taken { page, from } = taken;
        let state = &mut self.partitions[number];
        state.caught_up = page.end() == PageEnd::CaughtUp;
        if let Some(next) = page.next() {
            state.next = Start::After(next.detached());
        }
        if !state.caught_up {
            self.ready.push_back(number);
        }
        let records = page.records().len() - from;
        if records > 0 {
            self.said_caught_up = false;
            self.lane.courier.lock().read += records as u64;
        }
        // The encoded bytes count twice, for the body that will be made of them.
        let bytes = page.bytes() + encoded.as_ref().map_or(0, |encoded| 2 * encoded.bytes());
        let held = Arc::new(self.gauge.hold(bytes));
        let input = Input { partition: number, page, from, encoded, held };
        let pushed = self.chunker.push(&input, self.lane.clock.now());
        self.pushed(&input, records, pushed);
    }

    /// Books what the chunker did with a page.
    fn pushed(&mut self, input: &Input, records: usize, pushed: Pushed) {
        let courier = &self.lane.courier;
        let mut stop_error = None;
        {
            let mut report = courier.lock();
            if pushed.filtered > 0 {
                *report.dropped.entry("filter").or_default() += pushed.filtered as u64;
            }
            for (index, rejection) in &pushed.refused {
                let id = &input.page.records()[*index].id;
                report.reject(id, rejection);
                if pushed.stopped {
                    stop_error = Some(rejected(&id.to_string(), rejection));
                }
            }
            let passed_over = pushed.refused.len() - usize::from(pushed.stopped);
            report.rejected += passed_over as u64;
            report.left += (records - pushed.filtered - passed_over) as u64;
        }
        for cut in pushed.cuts {
            self.was_cut(cut);
        }
        let state = &mut self.partitions[input.partition];
        if pushed.taken > 0 {
            // The chunk covers what was skipped before it.
            state.skipped_to = None;
            self.skips.remove(&input.partition);
        }
        if let Some(end) = pushed.skipped_to {
            state.skipped_to = Some(end);
            self.skips.insert(input.partition);
        }
        if !self.chunker.is_empty() && self.waiting_since.is_none() {
            self.waiting_since = Some(Instant::now());
        }
        if let Some(error) = stop_error {
            // Everything before the record is shipped first.
            if let Some(cut) = self.chunker.cut() {
                self.was_cut(cut);
            }
            self.fail(error);
        }
    }

    /// Moves over stretches that hold nothing for this lane. A lane whose chunks are known by where they begin waits
    /// until the partition has no more, so that a chunk which is made again begins where it began.
    fn finish_skips(&mut self) {
        let by_chunk = self.lane.courier.idempotency == Idempotency::PerChunk;
        let partitions = &mut self.partitions;
        let due: Vec<usize> =
            self.skips.iter().copied().filter(|number| !by_chunk || partitions[*number].caught_up).collect();
        for number in &due {
            self.skips.remove(number);
            if let Some(end) = partitions[*number].skipped_to.take() {
                self.chunker.skipped(*number, end.clone());
                partitions[*number].ledger.skip(end);
            }
        }
        self.advance(&due);
    }

    /// Cuts what is waiting when nothing more is to be waited for.
    fn cut_if_due(&mut self) {
        if self.chunker.is_empty() {
            self.waiting_since = None;
            return;
        }
        let nothing_comes = self.fetches.is_empty() && self.ready.is_empty();
        let out_of_room = self.fetches.is_empty()
            && !self.has_room()
            && self.cuts.is_empty()
            && self.packing.is_empty()
            && self.packed.is_empty()
            && self.in_flight.is_empty();
        let due = (nothing_comes && (self.lane.mode == Mode::Once || !self.lingers())) || out_of_room;
        if due && let Some(cut) = self.chunker.cut() {
            self.was_cut(cut);
            self.waiting_since = None;
        }
    }

    fn lingers(&self) -> bool {
        self.linger_ends().is_some_and(|end| end > Instant::now())
    }

    fn linger_ends(&self) -> Option<Instant> {
        self.waiting_since.map(|since| since + self.lane.courier.options.linger)
    }

    fn was_cut(&mut self, cut: Cut) {
        let number = self.next_chunk;
        self.next_chunk += 1;
        for span in &cut.spans {
            self.partitions[span.partition].ledger.open(number, span.end.clone());
        }
        let open = OpenChunk {
            spans_left: cut.spans.len(),
            spans: cut.spans,
            records: cut.chunk.len() as u64,
            stage: Stage::Waiting,
        };
        self.open_chunks.insert(number, open);
        self.cuts.push_back((number, cut.chunk));
    }

    fn pack(&mut self) {
        while self.packing.len() + self.packed.len() <= PACKED_AHEAD {
            let Some((number, chunk)) = self.cuts.pop_front() else { return };
            let courier = &self.lane.courier;
            self.packing.push_back(Box::pin(async move { (number, courier.pack(chunk).await) }));
        }
    }

    fn was_packed(&mut self, (number, result): Packed) {
        match result {
            Ok((chunk, held)) => self.packed.push_back((number, chunk, held)),
            Err(error) => {
                if let Some(open) = self.open_chunks.get_mut(&number) {
                    open.stage = Stage::Failed { repeated: 0 };
                }
                self.blocked = true;
                self.fail(error);
            }
        }
    }

    fn dispatch(&mut self) {
        let courier = &self.lane.courier;
        let by_chunk = courier.idempotency == Idempotency::PerChunk;
        while self.in_flight.len() < courier.options.concurrency && !self.blocked {
            let unsettled = self.open_chunks.values().filter(|chunk| chunk.stage != Stage::Waiting).count();
            // Where a chunk is known by where it begins, that place has to be durable first.
            if unsettled >= self.lane.window() || (by_chunk && !self.committing.is_empty()) {
                return;
            }
            let Some((number, chunk, held)) = self.packed.pop_front() else { return };
            if let Some(open) = self.open_chunks.get_mut(&number) {
                open.stage = Stage::InFlight;
            }
            self.in_flight.push(Box::pin(courier.deliver(number, chunk, held)));
        }
    }

    fn delivered(&mut self, delivered: Delivered) {
        let Delivered { number, chunk, standing, error } = delivered;
        let Some(open) = self.open_chunks.get_mut(&number) else { return };
        let partitions: Vec<usize> = open.spans.iter().map(|span| span.partition).collect();
        match error {
            None => {
                open.stage = Stage::Delivered;
                for partition in &partitions {
                    self.partitions[*partition].ledger.done(number);
                }
                if let Some(last) = chunk.last() {
                    self.lane.courier.lock().last_timestamp = Some(last.timestamp);
                }
            }
            Some(error) => {
                let mut repeated = standing.iter().filter(|standing| **standing != Standing::Open).count();
                for partition in &partitions {
                    let state = &mut self.partitions[*partition];
                    let (records, end) = finished_prefix(&chunk, &standing, &state.partition);
                    repeated -= records;
                    state.ledger.broken(number, end);
                }
                open.stage = Stage::Failed { repeated: repeated as u64 };
                self.blocked = true;
                self.fail(error);
            }
        }
        self.advance(&partitions);
    }

    /// Hands the cursors that may move to the committer.
    fn advance(&mut self, partitions: &[usize]) {
        let mut change = LaneDelta::default();
        let mut passed: Vec<u64> = Vec::new();
        for partition in partitions {
            let state = &mut self.partitions[*partition];
            let advance = state.ledger.advance();
            if let Some(cursor) = advance.cursor {
                change.cursors.insert(state.partition.as_str().to_owned(), cursor);
            }
            for number in advance.chunks {
                let Some(open) = self.open_chunks.get_mut(&number) else { continue };
                open.spans_left -= 1;
                if open.spans_left == 0 {
                    passed.push(number);
                }
            }
        }
        if change.cursors.is_empty() {
            return;
        }
        debug_assert!(self.lane.courier.lock().balances(), "every record read is accounted for at every commit");
        let lanes = BTreeMap::from([(self.lane.courier.lane.to_string(), change)]);
        let ticket = self.lane.committer.add(OffsetsDelta { lanes });
        self.committing.push_back((ticket, passed));
    }

    /// A commit became durable.
    fn committed(&mut self) {
        let (seen, durable) = self.lane.committer.durable.get();
        self.durable_seen = seen;
        let mut records = 0;
        while let Some((_, passed)) = self.committing.pop_front_if(|(ticket, _)| *ticket <= durable) {
            for number in passed {
                records += self.open_chunks.remove(&number).map_or(0, |open| open.records);
            }
        }
        if records > 0 {
            self.lane.courier.progress.send(Progress::Committed { lane: Arc::clone(&self.lane.courier.lane), records });
        }
    }

    fn fail(&mut self, error: Error) {
        if self.lane.courier.stop.is_cancelled() && (error.is_retryable() || error.kind() == ErrorKind::Cancelled) {
            // The run is stopping anyway, and the error is not why.
            return;
        }
        if self.failed.is_none() {
            self.failed = Some(error);
        }
    }

    /// Books what is under way or waiting, before all of it is let go.
    fn abandon(&mut self) {
        let courier = &self.lane.courier;
        let mut unanswered = 0;
        let mut repeated = 0;
        for open in self.open_chunks.values() {
            match open.stage {
                Stage::Waiting => {}
                Stage::InFlight => unanswered += open.records,
                Stage::Delivered => repeated += open.records,
                Stage::Failed { repeated: records } => repeated += records,
            }
        }
        let mut report = courier.lock();
        let begins_again = self.lane.mode == Mode::Continuous && !courier.stop.is_cancelled();
        match (courier.idempotency, begins_again) {
            (Idempotency::None, true) => report.possibly_duplicated += unanswered + repeated,
            (Idempotency::None, false) => report.in_doubt += unanswered + repeated,
            _ => {}
        }
        if begins_again {
            // The lane reads these again from its offset.
            report.read -= report.left;
            report.left = 0;
        }
    }
}

/// The records of a partition before the first unfinished one: how many, and the position of the last.
fn finished_prefix(chunk: &Chunk, standing: &[Standing], partition: &Partition) -> (usize, Option<Cursor>) {
    let of_partition = chunk.records().zip(standing).filter(|(record, _)| record.id.partition() == partition);
    let prefix = of_partition.take_while(|(_, standing)| **standing == Standing::Finished);
    let positions = prefix.map(|(record, _)| record.id.position());
    positions.fold((0, None), |(records, _), position| (records + 1, Some(position.detached())))
}

/// Reads a page and encodes it; tries again while the source is merely unavailable.
async fn fetch(lane: &LaneContext, number: usize, partition: Partition, start: Start) -> Fetched {
    let mut attempts = 0;
    let taken = loop {
        let error = match lane.reader.page(lane.number, &partition, &start).await {
            Ok(taken) => break taken,
            Err(error) => error,
        };
        attempts += 1;
        let retry: &RetryPolicy = &lane.courier.options.retry;
        if !error.is_retryable() || attempts >= retry.attempts_max {
            return (number, Err(error.with("partition", &partition)));
        }
        tracing::debug!(lane = %lane.courier.lane, %error, attempts, "the source could not be read");
        let delay = {
            let mut rng = lane.courier.rng.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            retry.delay(attempts, None, &mut rng)
        };
        tokio::time::sleep(delay).await;
    };
    let encoded = match lane.courier.encoding.clone() {
        Some(encoding) if !taken.page.records().is_empty() => {
            let page = Arc::clone(&taken.page);
            match lane.courier.cpu.run(move || page.encoded(encoding.as_ref())).await {
                Ok(encoded) => Some(encoded),
                Err(error) => return (number, Err(error)),
            }
        }
        _ => None,
    };
    (number, Ok((taken, encoded)))
}

/// Waits until this instant, or for ever if there is none.
pub(crate) async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
