//! The world outside the engine: rows that were written, what destinations stored, what was committed.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use logship_core::{Clock, Cursor, Idempotency, LaneOffset, Offsets, SeenIds, Timestamp, Window};
use tokio::sync::Notify;
use tokio::time::Instant;

/// Everything that outlives a crash of the shipper. One seed decides all that happens.
#[derive(Clone, Debug)]
pub struct World {
    state: Arc<Mutex<State>>,
    crashed: Arc<Notify>,
    began: Instant,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) rng: fastrand::Rng,
    /// The process that is alive. What an older one still does has no effect.
    pub(crate) generation: u64,
    /// Steps until the process crashes.
    pub(crate) crash_in: Option<u64>,
    /// Out of a thousand operations, so many go wrong.
    pub(crate) fault_rate: u64,
    /// The longest that an operation takes.
    pub(crate) latency_max: Duration,
    /// In which order rows appear.
    pub(crate) arrival: Arrival,
    /// What is shipped is deleted.
    pub(crate) deletes: bool,
    /// By how much the shipper's clock is wrong.
    pub(crate) clock_ahead: Duration,
    pub(crate) clock_behind: Duration,
    /// Whether it ever was behind.
    pub(crate) clock_was_behind: bool,
    /// A destination that answers nothing.
    pub(crate) hung: Option<&'static str>,
    /// Rows by partition, in order.
    pub(crate) rows: BTreeMap<String, Vec<Row>>,
    pub(crate) destinations: BTreeMap<String, Destination>,
    pub(crate) offsets: Offsets,
    pub(crate) epoch: u64,
    pub(crate) lease_until: Option<Instant>,
    pub(crate) coverage: BTreeSet<&'static str>,
    pub(crate) violations: Vec<String>,
}

/// The number of a row's partition, and the row's. The oracle looks up so many that text would take most of its time.
pub(crate) type RowKey = (u32, i64);

/// A row of a partition, which is named by `p` and its number.
pub(crate) fn key(partition: &str, number: i64) -> RowKey {
    (partition.trim_start_matches('p').parse().unwrap_or(u32::MAX), number)
}

/// In which order rows appear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// In the order of their positions.
    Total,
    /// Up to so much later than their time says.
    Late { by: Duration },
    /// The same, and the source knows which are still to come.
    Horizon { by: Duration },
}

/// A row of the source.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) number: i64,
    pub(crate) timestamp: Timestamp,
    /// When it can be read.
    pub(crate) visible: Timestamp,
    pub(crate) text: String,
    /// Wanted by the shipper's query.
    pub(crate) wanted: bool,
    /// Refused for good by destinations that look.
    pub(crate) poison: bool,
    /// Appears later than anything is promised for.
    pub(crate) stray: bool,
    pub(crate) deleted: bool,
}

/// What one destination has stored.
#[derive(Debug, Default)]
pub(crate) struct Destination {
    pub(crate) idempotency: Idempotency,
    /// Copies, by partition and row.
    pub(crate) copies: HashMap<RowKey, u64>,
    /// For a destination that is idempotent by chunk: what each object holds.
    pub(crate) objects: BTreeMap<String, Vec<RowKey>>,
    /// Rows that it still has to get, by partition.
    pub(crate) owed: BTreeMap<String, BTreeSet<i64>>,
    /// Rows it refused for good.
    pub(crate) refused: HashSet<RowKey>,
    /// What each object of its dead letter holds.
    pub(crate) letters: BTreeMap<String, Vec<RowKey>>,
    /// Rows in the order in which they first arrived, by partition.
    pub(crate) arrivals: BTreeMap<String, Vec<i64>>,
    pub(crate) requests: u64,
    /// Copies stored in the present run.
    pub(crate) run_copies: HashMap<RowKey, u64>,
}

impl Destination {
    /// Stores a row. `object` is where, for a destination that is idempotent by chunk.
    pub(crate) fn store(&mut self, partition: &str, number: i64, object: &str) {
        let row = key(partition, number);
        self.settle(partition, number);
        if !self.copies.contains_key(&row) {
            self.arrivals.entry(partition.to_owned()).or_default().push(number);
        }
        *self.run_copies.entry(row).or_default() += 1;
        match self.idempotency {
            Idempotency::None => *self.copies.entry(row).or_default() += 1,
            Idempotency::PerChunk => {
                self.copies.insert(row, 1);
                self.objects.entry(object.to_owned()).or_default().push(row);
            }
            _ => {
                self.copies.insert(row, 1);
            }
        }
    }

    /// Refuses a row for good.
    pub(crate) fn refuse(&mut self, partition: &str, number: i64) {
        self.settle(partition, number);
        self.refused.insert(key(partition, number));
    }

    fn settle(&mut self, partition: &str, number: i64) {
        if let Some(owed) = self.owed.get_mut(partition) {
            owed.remove(&number);
        }
    }

    /// Whether a row needs nothing more.
    pub(crate) fn has(&self, partition: &str, number: i64) -> bool {
        let row = key(partition, number);
        self.copies.contains_key(&row) || self.refused.contains(&row)
    }
}

impl World {
    /// A world without rows.
    pub fn new(seed: u64) -> Self {
        let state = State {
            rng: fastrand::Rng::with_seed(seed),
            generation: 0,
            crash_in: None,
            fault_rate: 0,
            latency_max: Duration::from_millis(20),
            arrival: Arrival::Total,
            deletes: false,
            clock_ahead: Duration::ZERO,
            clock_behind: Duration::ZERO,
            clock_was_behind: false,
            hung: None,
            rows: BTreeMap::new(),
            destinations: BTreeMap::new(),
            offsets: Offsets::default(),
            epoch: 0,
            lease_until: None,
            coverage: BTreeSet::new(),
            violations: Vec::new(),
        };
        World { state: Arc::new(Mutex::new(state)), crashed: Arc::default(), began: Instant::now() }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes rows to a partition. Some share a time, some are not wanted, a few are poison; some of a table become
    /// visible late, or have a time in the future.
    pub(crate) fn append(&self, partition: &str, rows: usize) {
        let now = self.now();
        let state = &mut *self.lock();
        let name = partition;
        let partition = state.rows.entry(name.to_owned()).or_default();
        for _ in 0..rows {
            let rng = &mut state.rng;
            let mut stray = false;
            let (number, timestamp, visible) = match state.arrival {
                Arrival::Total => (partition.last().map_or(1, |row| row.number + rng.i64(1..3)), now, now),
                Arrival::Late { by } | Arrival::Horizon { by } => {
                    let ahead =
                        if rng.u32(0..50) == 0 { Duration::from_millis(rng.u64(0..3_000)) } else { Duration::ZERO };
                    let timestamp = now.saturating_add(ahead);
                    let by = by.as_millis() as u64;
                    stray = state.deletes && rng.u32(0..20) == 0;
                    let late = match rng.u32(0..3) {
                        _ if stray => by + rng.u64(0..60_000),
                        0 => rng.u64(0..=by),
                        _ => 0,
                    };
                    let visible = timestamp.saturating_add(Duration::from_millis(late));
                    // The millisecond, and what tells rows of the same one apart.
                    (timestamp.as_millis() * 1_000 + rng.i64(0..1_000), timestamp, visible)
                }
            };
            let length = if rng.u32(0..100) == 0 { 3_000 } else { rng.usize(1..200) };
            let text = format!("row {number} {}", "x".repeat(length));
            let wanted = rng.u32(0..4) > 0;
            let poison = rng.u32(0..60) == 0;
            let at = partition.partition_point(|row| row.number < number);
            if partition.get(at).is_none_or(|row| row.number != number) {
                if wanted && !stray {
                    for destination in state.destinations.values_mut() {
                        destination.owed.entry(name.to_owned()).or_default().insert(number);
                    }
                }
                partition.insert(at, Row { number, timestamp, visible, text, wanted, poison, stray, deleted: false });
            }
        }
    }

    /// A step of the process of this generation: it takes time, and the process may crash in it. A process that is no
    /// longer alive never comes back from here, so that nothing it does has an effect.
    pub(crate) async fn step(&self, generation: u64) {
        let delay = {
            let state = &mut *self.lock();
            let alive = state.generation == generation;
            if alive && let Some(steps) = &mut state.crash_in {
                *steps = steps.saturating_sub(1);
                if *steps == 0 {
                    state.crash_in = None;
                    state.generation += 1;
                    self.crashed.notify_one();
                }
            }
            // Whole milliseconds: the clock of tokio counts in them, and a seed must not depend on what it rounds.
            let longest = state.latency_max.as_millis() as u64;
            (state.generation == generation).then(|| Duration::from_millis(state.rng.u64(0..=longest)))
        };
        match delay {
            Some(delay) => tokio::time::sleep(delay).await,
            None => std::future::pending().await,
        }
        if self.lock().generation != generation {
            std::future::pending::<()>().await;
        }
    }

    /// Returns when the process crashes.
    pub(crate) async fn crash(&self) {
        self.crashed.notified().await;
    }

    /// Whether something goes wrong now.
    pub(crate) fn fault(&self) -> bool {
        let state = &mut *self.lock();
        state.rng.u64(0..1000) < state.fault_rate
    }

    pub(crate) fn pick(&self, below: u32) -> u32 {
        self.lock().rng.u32(0..below)
    }

    /// An interesting thing happened.
    pub(crate) fn cover(&self, what: &'static str) {
        self.lock().coverage.insert(what);
    }

    /// A promise was broken.
    pub(crate) fn violation(&self, what: String) {
        self.lock().violations.push(what);
    }

    /// The shipper's clock jumps. One that is ahead makes late what is not, so that rows which may be late are shipped
    /// by a clock that is right or behind.
    pub(crate) fn jump(&self) {
        let state = &mut *self.lock();
        let ahead = state.arrival == Arrival::Total && state.rng.bool();
        let by = Duration::from_millis(state.rng.u64(0..100_000));
        (state.clock_ahead, state.clock_behind) = match state.rng.u32(0..3) {
            0 if ahead => (by, Duration::ZERO),
            0 => (Duration::ZERO, by),
            _ => (Duration::ZERO, Duration::ZERO),
        };
        state.clock_was_behind |= !state.clock_behind.is_zero();
        if !by.is_zero() {
            state.coverage.insert(if ahead { "the clock was ahead" } else { "the clock was behind" });
        }
    }

    /// Somebody else takes the lease, and gives it back.
    pub(crate) fn steal_lease(&self) {
        let state = &mut *self.lock();
        state.epoch += 1;
        state.lease_until = None;
    }

    /// What a row says, if it is wanted.
    pub(crate) fn wanted_text(&self, partition: &str, number: i64) -> Option<String> {
        let state = self.lock();
        let row = state.rows.get(partition)?.iter().find(|row| row.number == number)?;
        row.wanted.then(|| row.text.clone())
    }

    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::from_secs(1_795_000_000).saturating_add(self.began.elapsed())
    }
}

/// The shipper's clock.
impl Clock for World {
    fn now(&self) -> Timestamp {
        let state = self.lock();
        World::now(self).saturating_add(state.clock_ahead).saturating_sub(state.clock_behind)
    }
}

impl State {
    /// P1, P4: a cursor that is committed passes nothing which its destination has not got, other than in the stretch
    /// that is read again.
    pub(crate) fn check_cursors<'l>(&mut self, lanes: impl Iterator<Item = &'l String>) {
        for lane in lanes {
            let Some(offset) = self.offsets.lanes.get(lane) else { continue };
            let Some(destination) = self.destinations.get(lane) else { continue };
            let again = ReadAgain::new(offset);
            for (partition, owed) in &destination.owed {
                for number in owed {
                    if !again.is(partition, *number) {
                        self.violations.push(format!(
                            "P1: the offset of {lane} passed row {number} of {partition}, which it has not got"
                        ));
                        return;
                    }
                    if again.is_late(partition, *number) {
                        self.coverage.insert("a row is still to appear behind the offset");
                    }
                }
            }
        }
    }

    /// P7: a row is deleted when every destination has it, and every offset says so.
    pub(crate) fn delete(&mut self, partition: &str, number: i64) -> bool {
        let position = Cursor::number(number);
        for (lane, destination) in &self.destinations {
            let cursor = self.offsets.lanes.get(lane).and_then(|offset| offset.cursors.get(partition));
            if !destination.has(partition, number) || cursor.is_none_or(|cursor| *cursor < position) {
                self.violations.push(format!("P7: row {number} of {partition} is deleted, and {lane} has not got it"));
            }
        }
        let rows = self.rows.get_mut(partition).map(Vec::as_mut_slice).unwrap_or_default();
        let Some(row) = rows.iter_mut().find(|row| row.number == number && !row.deleted) else { return false };
        row.deleted = true;
        if !row.wanted {
            self.violations.push(format!("P7: row {number} of {partition} is deleted, and was not wanted"));
        }
        true
    }

    /// P3: what a crash now would repeat at a destination that cannot tell.
    pub(crate) fn repeatable(&self, lane: &str) -> usize {
        let Some(destination) = self.destinations.get(lane) else { return 0 };
        let offset = self.offsets.lanes.get(lane).cloned().unwrap_or_default();
        let again = ReadAgain::new(&offset);
        let copies = destination.copies.keys();
        copies.filter(|(partition, number)| again.is(&format!("p{partition}"), *number)).count()
    }
}

/// What an offset says of rows: whether they are read, or read again, and shipped.
struct ReadAgain<'a> {
    offset: &'a LaneOffset,
    /// What is in the windows; few rows are asked for.
    seen: OnceCell<BTreeMap<&'a str, HashSet<u64>>>,
}

impl<'a> ReadAgain<'a> {
    fn new(offset: &'a LaneOffset) -> Self {
        ReadAgain { offset, seen: OnceCell::new() }
    }

    fn seen(&self) -> &BTreeMap<&'a str, HashSet<u64>> {
        let ids = |window: &'a Window| window.seen.iter().flat_map(|seen| seen.ids.iter()).collect();
        let windows = self.offset.windows.iter();
        self.seen.get_or_init(|| windows.map(|(partition, window)| (partition.as_str(), ids(window))).collect())
    }

    fn is(&self, partition: &str, number: i64) -> bool {
        let position = Cursor::number(number);
        self.offset.cursors.get(partition).is_none_or(|cursor| position > *cursor) || self.is_late(partition, number)
    }

    /// Whether a row would be found behind the cursor, and shipped.
    fn is_late(&self, partition: &str, number: i64) -> bool {
        let position = Cursor::number(number);
        let (Some(cursor), Some(window)) = (self.offset.cursors.get(partition), self.offset.windows.get(partition))
        else {
            return false;
        };
        position <= *cursor
            && window.after.as_ref().is_none_or(|after| position > *after)
            && !self.seen()[partition].contains(&SeenIds::id_of(&position))
    }
}
