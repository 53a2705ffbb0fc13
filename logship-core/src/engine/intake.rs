//! A lane's way in: reads pages, finds what is late, cuts chunks.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, PoisonError};

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use tokio::time::Instant;

use super::Mode;
use super::budget::Gauge;
use super::chunker::{Chunker, Cut, Input, Pushed};
use super::deleter;
use super::lane::LaneContext;
use super::late::{Covered, Watch};
use super::ledger::Change;
use super::reader::Taken;
use super::shelf::Shelf;
use crate::encoding::EncodedPage;
use crate::{Chunk, Cursor, Error, Idempotency, LaneOffset, PageEnd, Partition, Rejection, Start};

/// Pages that are fetched at a time, each of another partition.
const FETCHES_MAX: usize = 4;

/// Pages that are taken in one go where they are there at once, so that the many small ones of many partitions do not
/// cost a turn of the lane each.
const AT_ONCE_MAX: usize = 64;

/// Reads on in every partition, and cuts what it reads into chunks, in order.
pub(crate) struct Intake<'a> {
    lane: &'a LaneContext,
    offset: LaneOffset,
    /// Bytes this lane holds.
    gauge: Arc<Gauge>,
    partitions: Vec<Reading>,
    numbers: HashMap<Partition, usize>,
    /// Partitions to read next.
    ready: VecDeque<usize>,
    pub(crate) fetches: FuturesUnordered<BoxFuture<'a, Fetched>>,
    /// There was no room to fetch the next page.
    out_of_room: bool,
    chunker: Chunker,
    /// When the oldest waiting record began to wait.
    waiting_since: Option<Instant>,
    /// Partitions whose `skipped_to` has not been handed on.
    skips: BTreeSet<usize>,
    /// The version of the news that was taken up.
    pub(crate) news_seen: u64,
    /// What is cut and skipped, for whoever delivers it.
    pub(crate) steps: VecDeque<Step>,
}

/// A partition as far as it has been read.
#[derive(Debug)]
struct Reading {
    /// Where its pages are kept.
    shelf: Arc<Shelf>,
    next: Start,
    caught_up: bool,
    /// Covered without a chunk, and not handed on yet.
    skipped_to: Option<Covered>,
    /// Where records may appear late.
    watch: Option<Box<Watch>>,
}

/// What is to be done next, in order.
#[derive(Debug)]
pub(crate) enum Step {
    /// There are more partitions. The lane numbers them as they come.
    Partitions(Vec<Partition>),
    /// Deliver a chunk; what becomes durable then, by the lane's number of the partition.
    Chunk { chunk: Chunk, late: bool, refused: Vec<Rejection>, changes: Vec<(usize, Change)> },
    /// Nothing is to be delivered for this to become durable.
    Skip { partition: usize, change: Change },
}

pub(crate) type Fetched = (usize, Result<(Taken, Option<Arc<EncodedPage>>), Error>);

impl<'a> Intake<'a> {
    /// Begins where the lane's offset is.
    pub(crate) fn new(lane: &'a LaneContext) -> Self {
        let courier = &lane.courier;
        let chunker = Chunker::new(
            courier.identity(),
            courier.limits,
            courier.options.filter.clone(),
            courier.encoding.as_deref(),
            courier.options.on_reject,
        );
        let mut intake = Intake {
            lane,
            offset: lane.committer.stored(&courier.lane),
            gauge: Arc::default(),
            partitions: Vec::new(),
            numbers: HashMap::new(),
            ready: VecDeque::new(),
            fetches: FuturesUnordered::new(),
            out_of_room: false,
            chunker,
            waiting_since: None,
            skips: BTreeSet::new(),
            news_seen: 0,
            steps: VecDeque::new(),
        };
        intake.look_around();
        intake
    }

    /// Takes up new partitions, and reads on in those that had no more. One that is not listed any more is read to its
    /// end, and then left alone: a file may be gone, and a stream that has ended costs a request each time.
    pub(crate) fn look_around(&mut self) {
        let (seen, news) = self.lane.news.get();
        self.news_seen = seen;
        let mut new = Vec::new();
        // What grows by doubling has every partition twice for a while.
        let more = news.partitions.len().saturating_sub(self.partitions.len());
        self.partitions.reserve(more);
        self.numbers.reserve(more);
        self.ready.reserve(more);
        for partition in news.partitions.iter() {
            if let Some(number) = self.numbers.get(partition) {
                if std::mem::take(&mut self.partitions[*number].caught_up) {
                    self.ready.push_back(*number);
                }
                continue;
            }
            let number = self.partitions.len();
            let next = self.offset.start(partition);
            self.chunker.add_partition(next.clone());
            self.numbers.insert(partition.clone(), number);
            self.ready.push_back(number);
            let window = self.offset.windows.remove(partition.as_str());
            let watch = Watch::new(self.lane.remembers, window).map(Box::new);
            let shelf = self.lane.reader.shelf(partition);
            self.partitions.push(Reading { shelf, next, caught_up: false, skipped_to: None, watch });
            new.push(partition.clone());
        }
        if !new.is_empty() {
            self.steps.push_back(Step::Partitions(new));
        }
    }

    /// Whether everything there was is cut and handed on.
    pub(crate) fn is_caught_up(&self) -> bool {
        self.fetches.is_empty() && self.ready.is_empty() && self.chunker.is_empty() && self.skips.is_empty()
    }

    /// What one more page may cost this lane: the page, its encoded form, and the body made of that.
    fn page_cost(&self) -> usize {
        self.lane.page * if self.lane.courier.encoding.is_some() { 3 } else { 1 }
    }

    fn has_room(&self) -> bool {
        let fetching = (self.fetches.len() + 1) * self.page_cost();
        self.gauge.now() + fetching <= self.lane.share || (self.gauge.now() == 0 && self.fetches.is_empty())
    }

    /// Reads on, and takes what is there at once, until a chunk is cut. An error is why the lane cannot go on behind what
    /// is cut.
    pub(crate) fn read_on(&mut self) -> Result<(), Error> {
        for _ in 0..AT_ONCE_MAX {
            self.fetch();
            let Some(Some(fetched)) = self.fetches.next().now_or_never() else { return Ok(()) };
            self.fetched(fetched)?;
            if self.steps.iter().any(|step| matches!(step, Step::Chunk { .. })) {
                return Ok(());
            }
        }
        // The lane's next turn comes with what is under way.
        self.fetch();
        Ok(())
    }

    /// Begins to read as many pages as there is room for.
    fn fetch(&mut self) {
        self.out_of_room = false;
        while self.fetches.len() < FETCHES_MAX && !self.ready.is_empty() {
            // Asked once: room that appears after this look wakes nobody.
            self.out_of_room = !self.has_room();
            if self.out_of_room {
                return;
            }
            let Some(number) = self.ready.pop_front() else { return };
            self.read_again_if_due(number);
            let reading = &self.partitions[number];
            let fetch = fetch(self.lane, number, Arc::clone(&reading.shelf), reading.next.clone());
            self.fetches.push(Box::pin(fetch));
        }
    }

    /// Goes back to where records may still have appeared. No page of the partition is being read now.
    fn read_again_if_due(&mut self, number: usize) {
        let Start::After(read_to) = self.partitions[number].next.clone() else { return };
        if !self.partitions[number].watch.as_ref().is_some_and(|watch| watch.is_due(&read_to)) {
            return;
        }
        // What is taken is known by what is cut.
        self.cut();
        let reading = &mut self.partitions[number];
        let behind = reading.watch.as_mut().and_then(|watch| watch.read_again(read_to));
        reading.next = behind.map_or_else(|| self.offset.beginning(), Start::After);
    }

    /// Takes a page that was read. An error is why the lane cannot go on behind what is cut.
    pub(crate) fn fetched(&mut self, (number, result): Fetched) -> Result<(), Error> {
        let (taken, encoded) = match result {
            Ok(fetched) => fetched,
            Err(error) => {
                // What has been read is shipped first.
                self.cut();
                return Err(error);
            }
        };
        let Taken { page, from, .. } = taken;
        let reading = &mut self.partitions[number];
        reading.caught_up = page.end() == PageEnd::CaughtUp;
        if let Some(next) = page.next() {
            reading.next = Start::After(next.detached());
        }
        if !reading.caught_up {
            self.ready.push_back(number);
        }
        // The encoded bytes count twice, for the body that will be made of them.
        let bytes = page.bytes() + encoded.as_ref().map_or(0, |encoded| 2 * encoded.bytes());
        let held = Arc::new(self.gauge.hold(bytes));
        let input = Input { partition: number, page, from, encoded, held };
        let pushed = self.chunker.push(&input, reading.watch.as_deref(), self.lane.clock.now());
        self.pushed(&input, pushed)?;
        self.finish_reading_again(&input);
        Ok(())
    }

    /// Books what the chunker did with a page.
    fn pushed(&mut self, input: &Input, pushed: Pushed) -> Result<(), Error> {
        let records = input.page.len() - input.from - pushed.known;
        let mut stop_error = None;
        let watch = &mut self.partitions[input.partition].watch;
        {
            let mut report = self.lane.courier.lock();
            report.read += records as u64;
            if pushed.filtered > 0 {
                *report.dropped.entry("filter").or_default() += pushed.filtered as u64;
            }
            for (index, rejection) in &pushed.refused {
                let record = &input.page.records()[*index];
                report.reject(&record.id, rejection);
                if let Some(watch) = watch {
                    watch.passes_over(input.page.head(*index), input.page.read_at);
                }
                if pushed.stopped {
                    stop_error = Some(rejection.stops_at(&record.id.to_string()));
                }
            }
            let passed_over = pushed.refused.len() - usize::from(pushed.stopped);
            report.rejected += passed_over as u64;
            report.rejected_in_a_row += passed_over as u64;
            if let Some((index, rejection)) = pushed.refused.last()
                && report.rejected_in_a_row >= self.lane.courier.options.rejected_in_a_row_max
            {
                let error = rejection.stops_at(&input.page.records()[*index].id.to_string());
                stop_error = Some(error.with("rejected_in_a_row", report.rejected_in_a_row));
            }
            report.left += (records - pushed.filtered - passed_over) as u64;
        }
        for cut in pushed.cuts {
            self.was_cut(cut);
        }
        let reading = &mut self.partitions[input.partition];
        if pushed.covers {
            // The chunk covers what was skipped before it.
            reading.skipped_to = None;
            self.skips.remove(&input.partition);
        }
        if let Some(end) = pushed.skipped_to {
            reading.skipped_to = Some(end);
            self.skips.insert(input.partition);
        }
        if !self.chunker.is_empty() && self.waiting_since.is_none() {
            self.waiting_since = Some(Instant::now());
        }
        let Some(error) = stop_error else { return Ok(()) };
        // Everything before the record is shipped first.
        self.cut();
        Err(error)
    }

    /// If the page was the last of those that are read again: what was found is shipped, and then nothing older than
    /// the overlap is looked at any more.
    fn finish_reading_again(&mut self, input: &Input) {
        let reading = &mut self.partitions[input.partition];
        let Some(watch) = &mut reading.watch else { return };
        let Some(read_to) = watch.was_read(&input.page) else { return };
        // Rows may have been deleted since, and the page may end before.
        if !matches!(&reading.next, Start::After(next) if *next > read_to) {
            reading.next = Start::After(read_to);
        }
        if self.chunker.is_late() {
            self.cut();
        }
        let reading = &mut self.partitions[input.partition];
        if let Some(note) = reading.watch.as_mut().and_then(|watch| watch.was_read_again()) {
            let change = Change { cursor: None, notes: vec![note] };
            self.steps.push_back(Step::Skip { partition: input.partition, change });
        }
    }

    /// Hands on the stretches that hold nothing for this lane. A lane whose chunks are known by where they begin waits
    /// until the partition has no more, so that a chunk which is made again begins where it began.
    pub(crate) fn finish_skips(&mut self) {
        let by_chunk = self.lane.courier.idempotency == Idempotency::PerChunk;
        let partitions = &self.partitions;
        let is_due = |number: &usize| !by_chunk || partitions[*number].caught_up;
        let due: Vec<usize> = self.skips.iter().copied().filter(is_due).collect();
        for number in due {
            self.skips.remove(&number);
            let reading = &mut self.partitions[number];
            let Some(end) = reading.skipped_to.take() else { continue };
            let begins = position(self.chunker.covered(number));
            let note = reading.watch.as_mut().and_then(|watch| watch.ships(std::iter::empty(), begins, &end));
            let change = Change { cursor: Some(end.position.clone()), notes: note.into_iter().collect() };
            self.chunker.skipped(number, end.position);
            self.steps.push_back(Step::Skip { partition: number, change });
        }
    }

    /// Cuts what is waiting when nothing more is to be waited for.
    pub(crate) fn cut_if_due(&mut self, nothing_under_way: bool) {
        if self.chunker.is_empty() {
            self.waiting_since = None;
            return;
        }
        let nothing_comes = self.fetches.is_empty() && self.ready.is_empty();
        let out_of_room = self.fetches.is_empty() && self.out_of_room && nothing_under_way;
        let lingers = self.linger_ends().is_some_and(|end| end > Instant::now());
        if (nothing_comes && (self.lane.mode == Mode::Once || !lingers)) || out_of_room {
            self.cut();
        }
    }

    /// When what is waiting has waited long enough.
    pub(crate) fn linger_ends(&self) -> Option<Instant> {
        self.waiting_since.map(|since| since + self.lane.courier.options.linger)
    }

    fn cut(&mut self) {
        if let Some(cut) = self.chunker.cut() {
            self.was_cut(cut);
        }
        self.waiting_since = None;
    }

    fn was_cut(&mut self, Cut { chunk, late, refused, spans }: Cut) {
        let mut changes = Vec::with_capacity(spans.len());
        for span in spans {
            let Reading { shelf, watch, .. } = &mut self.partitions[span.partition];
            let partition = &shelf.partition;
            if let Some(watch) = watch.as_mut().filter(|_| self.lane.remembers.until_deleted)
                && let Some(deleted) = self.lane.committer.look(|stored| deleter::deleted(stored, partition).cloned())
            {
                watch.was_deleted(&deleted);
            }
            let records = chunk.heads_of(partition);
            let note = watch.as_mut().and_then(|watch| match late {
                true => watch.ships_late(records.map(|(record, _)| record)),
                false => watch.ships(records, position(&span.begins), &span.end),
            });
            let cursor = (!late).then_some(span.end.position);
            changes.push((span.partition, Change { cursor, notes: note.into_iter().collect() }));
        }
        self.steps.push_back(Step::Chunk { chunk, late, refused, changes });
    }
}

/// The position of a start that is one.
fn position(start: &Start) -> Option<Cursor> {
    match start {
        Start::After(cursor) => Some(cursor.clone()),
        Start::Earliest | Start::At(_) => None,
    }
}

/// Reads a page and encodes it; tries again while the source is merely unavailable.
async fn fetch(lane: &LaneContext, number: usize, shelf: Arc<Shelf>, start: Start) -> Fetched {
    let mut attempts = 0;
    let mut taken = loop {
        let error = match lane.reader.page(lane.number, &shelf, &start).await {
            Ok(taken) => break taken,
            Err(error) => error,
        };
        attempts += 1;
        let retry = &lane.courier.options.retry;
        if !error.is_retryable() || attempts >= retry.attempts_max {
            return (number, Err(error.with("partition", &shelf.partition)));
        }
        tracing::debug!(lane = %lane.courier.lane, %error, attempts, "the source could not be read");
        let delay = {
            let mut rng = lane.courier.rng.lock().unwrap_or_else(PoisonError::into_inner);
            retry.delay(attempts, None, &mut rng)
        };
        lane.reader.rests(lane.number);
        tokio::time::sleep(delay).await;
    };
    let encoded = match lane.courier.encoding.clone() {
        Some(encoding) if taken.encoded.is_none() && !taken.page.is_empty() => {
            let page = Arc::clone(&taken.page);
            match lane.courier.cpu.run(move || page.encoded(encoding.as_ref())).await {
                Ok(encoded) => Some(encoded),
                Err(error) => return (number, Err(error)),
            }
        }
        _ => taken.encoded.take(),
    };
    (number, Ok((taken, encoded)))
}
