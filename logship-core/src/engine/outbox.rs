//! A lane's way out: packs and delivers chunks, and makes durable what was delivered.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::{FuturesOrdered, FuturesUnordered};

use super::Mode;
use super::committer::Changes;
use super::delivery::{Delivered, Parcel, Standing};
use super::intake::Step;
use super::lane::LaneContext;
use super::late;
use super::ledger::{Change, Ledger};
use crate::page::Head;
use crate::progress::Progress;
use crate::{Chunk, Cursor, Error, Idempotency, Partition, Rejection};

/// Chunks that are being packed at a time where the destination waits for them: one processor is too few then.
const PACKING_MAX: usize = 2;

/// Chunks that may be delivered and not yet durable, beyond those under way, where a repeat does no harm.
const UNCOMMITTED_EXTRA: usize = 8;

/// Delivers chunks, as many at a time as the lane allows, and moves the offset over what has no gap before it.
pub(crate) struct Outbox<'a> {
    lane: &'a LaneContext,
    /// By the lane's number of the partition.
    ledgers: Vec<(Partition, Ledger)>,
    /// Cut, not yet packed.
    cuts: VecDeque<(u64, Parcel)>,
    pub(crate) packing: FuturesOrdered<BoxFuture<'a, Packed>>,
    packed: VecDeque<(u64, Parcel)>,
    pub(crate) in_flight: FuturesUnordered<BoxFuture<'a, Delivered>>,
    /// Chunks that are cut and not durable.
    open_chunks: BTreeMap<u64, OpenChunk>,
    next_chunk: u64,
    /// Commits that are not durable: the ticket, and what it finishes.
    committing: VecDeque<(u64, Vec<u64>)>,
    /// The version of what is durable that was taken up.
    pub(crate) durable_seen: u64,
    /// A chunk could not be delivered: nothing behind it may be sent.
    blocked: bool,
}

pub(crate) type Packed = (u64, Result<Parcel, Error>);

#[derive(Debug)]
struct OpenChunk {
    partitions: Vec<usize>,
    /// Partitions whose cursor has not passed it.
    partitions_left: usize,
    late: bool,
    records: u64,
    stage: Stage,
    /// Of a chunk that failed: the records before the first unfinished one, by partition. Once the cursor has passed
    /// them they are not sent again.
    finished: BTreeMap<usize, u64>,
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

impl<'a> Outbox<'a> {
    pub(crate) fn new(lane: &'a LaneContext) -> Self {
        Outbox {
            lane,
            ledgers: Vec::new(),
            cuts: VecDeque::new(),
            packing: FuturesOrdered::new(),
            packed: VecDeque::new(),
            in_flight: FuturesUnordered::new(),
            open_chunks: BTreeMap::new(),
            next_chunk: 0,
            committing: VecDeque::new(),
            durable_seen: 0,
            blocked: false,
        }
    }

    /// Whether reading on would only hold memory.
    pub(crate) fn has_enough(&self) -> bool {
        !self.cuts.is_empty()
    }

    /// Whether no chunk waits or is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.nothing_waits() && self.in_flight.is_empty()
    }

    fn nothing_waits(&self) -> bool {
        self.cuts.is_empty() && self.packing.is_empty() && self.packed.is_empty()
    }

    /// Whether all that was cut is durable.
    pub(crate) fn is_durable(&self) -> bool {
        self.open_chunks.is_empty() && self.committing.is_empty()
    }

    /// Whether something is being delivered or made durable.
    pub(crate) fn is_under_way(&self) -> bool {
        !self.in_flight.is_empty() || !self.committing.is_empty()
    }

    /// Whether something is being packed or made durable.
    pub(crate) fn is_at_work(&self) -> bool {
        !self.packing.is_empty() || !self.committing.is_empty()
    }

    /// Whether nothing of what was cut will be sent any more.
    pub(crate) fn is_spent(&self) -> bool {
        self.blocked || self.nothing_waits()
    }

    /// Takes over what was cut and skipped, in order.
    pub(crate) fn take(&mut self, steps: &mut VecDeque<Step>) {
        let mut skipped = BTreeSet::new();
        for step in steps.drain(..) {
            match step {
                Step::Partitions(new) => {
                    self.ledgers.extend(new.into_iter().map(|partition| (partition, Ledger::default())));
                }
                Step::Skip { partition, change } => {
                    self.ledgers[partition].1.skip(change);
                    skipped.insert(partition);
                }
                Step::Chunk { chunk, late, refused, changes } => self.open(chunk, late, refused, changes),
            }
        }
        self.advance(skipped);
    }

    fn open(&mut self, chunk: Chunk, late: bool, refused: Vec<Rejection>, changes: Vec<(usize, Change)>) {
        let number = self.next_chunk;
        self.next_chunk += 1;
        let partitions: Vec<usize> = changes.iter().map(|(partition, _)| *partition).collect();
        for (partition, change) in changes {
            self.ledgers[partition].1.open(number, change);
        }
        let (partitions_left, records) = (partitions.len(), chunk.len() as u64);
        let stage = Stage::Waiting;
        let finished = BTreeMap::new();
        self.open_chunks.insert(number, OpenChunk { partitions, partitions_left, late, records, stage, finished });
        self.cuts.push_back((number, Parcel { chunk, refused, held: None }));
    }

    /// Packs one chunk ahead of those being sent. More would hold memory and send nothing sooner.
    pub(crate) fn pack(&mut self) {
        let is_busy = self.in_flight.len() >= self.lane.courier.options.concurrency;
        let packing_max = if is_busy { 1 } else { PACKING_MAX };
        while self.packed.is_empty() && self.packing.len() < packing_max {
            let Some((number, parcel)) = self.cuts.pop_front() else { return };
            let courier = &self.lane.courier;
            self.packing.push_back(Box::pin(async move { (number, courier.pack(parcel).await) }));
        }
    }

    /// Takes a packed chunk. An error is why the lane cannot go on.
    pub(crate) fn was_packed(&mut self, (number, result): Packed) -> Result<(), Error> {
        match result {
            Ok(parcel) => {
                self.packed.push_back((number, parcel));
                Ok(())
            }
            Err(error) => {
                if let Some(open) = self.open_chunks.get_mut(&number) {
                    open.stage = Stage::Failed { repeated: 0 };
                }
                self.blocked = true;
                Err(error)
            }
        }
    }

    /// Chunks that may be under way or not yet durable at a time.
    fn window(&self) -> usize {
        let concurrency = self.lane.courier.options.concurrency;
        match self.lane.courier.idempotency {
            Idempotency::None => concurrency,
            Idempotency::PerRecord => concurrency + UNCOMMITTED_EXTRA,
            Idempotency::PerChunk => 1,
        }
    }

    /// Sends what may be sent now.
    pub(crate) fn dispatch(&mut self) {
        let courier = &self.lane.courier;
        let by_chunk = courier.idempotency == Idempotency::PerChunk;
        while self.in_flight.len() < courier.options.concurrency && !self.blocked {
            let unsettled = self.open_chunks.values().filter(|chunk| chunk.stage != Stage::Waiting).count();
            // Where a chunk is known by where it begins, that place has to be durable first.
            if unsettled >= self.window() || (by_chunk && !self.committing.is_empty()) {
                return;
            }
            let Some((number, parcel)) = self.packed.pop_front() else { return };
            if let Some(open) = self.open_chunks.get_mut(&number) {
                open.stage = Stage::InFlight;
            }
            self.in_flight.push(Box::pin(courier.deliver(number, parcel)));
        }
    }

    /// Books how a delivery ended. An error is why the lane cannot go on.
    pub(crate) fn delivered(&mut self, delivered: Delivered) -> Result<(), Error> {
        let Delivered { number, chunk, standing, error } = delivered;
        let Some(open) = self.open_chunks.get_mut(&number) else { return Ok(()) };
        let partitions = open.partitions.clone();
        let result = match error {
            None => {
                open.stage = Stage::Delivered;
                for partition in &partitions {
                    self.ledgers[*partition].1.done(number);
                }
                self.count_delivered(number, &chunk);
                Ok(())
            }
            Some(error) => {
                let repeated = standing.iter().filter(|standing| **standing != Standing::Open).count() as u64;
                for at in &partitions {
                    let (partition, ledger) = &mut self.ledgers[*at];
                    let records = match open.late {
                        true => {
                            let finished = finished(&chunk, &standing, partition);
                            let note = late::late(finished.clone());
                            ledger.broken(number, |_| note.map(|note| Change { cursor: None, notes: vec![note] }));
                            finished.count()
                        }
                        false => {
                            let (records, end) = finished_prefix(&chunk, &standing, partition);
                            // What is noted beyond the cursor does no harm: it is read as new.
                            ledger.broken(number, |change| end.map(|end| Change { cursor: Some(end), ..change }));
                            records
                        }
                    };
                    open.finished.insert(*at, records as u64);
                }
                open.stage = Stage::Failed { repeated };
                self.blocked = true;
                Err(error)
            }
        };
        self.advance(partitions);
        result
    }

    fn count_delivered(&self, number: u64, chunk: &Chunk) {
        let late = self.open_chunks.get(&number).is_some_and(|open| open.late);
        let now = self.lane.clock.now();
        let mut report = self.lane.courier.lock();
        if late {
            report.late += chunk.len() as u64;
            let latest = chunk.heads().map(|record| now.since(record.timestamp)).max();
            report.lateness_max = report.lateness_max.max(latest);
        } else if let Some(last) = chunk.last_timestamp() {
            report.last_timestamp = Some(last);
        }
    }

    /// Hands what may become durable to the committer.
    fn advance(&mut self, partitions: impl IntoIterator<Item = usize>) {
        let mut changes = Changes::new();
        let (mut done, mut passed): (Vec<u64>, Vec<u64>) = (Vec::new(), Vec::new());
        for at in partitions {
            let (partition, ledger) = &mut self.ledgers[at];
            let advance = ledger.advance(&mut done);
            if !advance.change.is_empty() {
                changes.push((partition.clone(), advance.change));
            }
            if let Some(open) = advance.broken.and_then(|number| self.open_chunks.get_mut(&number))
                && let Stage::Failed { repeated } = &mut open.stage
            {
                *repeated -= open.finished.remove(&at).unwrap_or_default();
            }
            for number in done.drain(..) {
                let Some(open) = self.open_chunks.get_mut(&number) else { continue };
                open.partitions_left -= 1;
                if open.partitions_left == 0 {
                    passed.push(number);
                }
            }
        }
        if changes.is_empty() {
            return;
        }
        debug_assert!(self.lane.courier.lock().balances(), "every record read is accounted for at every commit");
        let ticket = self.lane.committer.add(&self.lane.courier.lane, changes);
        self.committing.push_back((ticket, passed));
    }

    /// A commit became durable.
    pub(crate) fn committed(&mut self) {
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

    /// Books what is under way or waiting, before all of it is let go.
    pub(crate) fn abandon(&mut self) {
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

/// The finished records of a partition.
fn finished<'c>(
    chunk: &'c Chunk,
    standing: &'c [Standing],
    partition: &'c Partition,
) -> impl Iterator<Item = Head<'c>> + Clone {
    let of_partition = chunk.places().zip(standing).filter(move |((of, _), _)| *of == partition);
    of_partition.filter(|(_, standing)| **standing == Standing::Finished).map(|((_, head), _)| head)
}

/// The records of a partition before the first unfinished one: how many, and the position of the last.
fn finished_prefix(chunk: &Chunk, standing: &[Standing], partition: &Partition) -> (usize, Option<Cursor>) {
    let of_partition = chunk.places().zip(standing).filter(|((of, _), _)| *of == partition);
    let prefix = of_partition.take_while(|(_, standing)| **standing == Standing::Finished);
    let positions = prefix.map(|((_, head), _)| head.position);
    positions.fold((0, None), |(records, _), position| (records + 1, Some(position.detached())))
}
