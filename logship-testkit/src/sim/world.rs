//! The world outside the engine: rows that were written, what destinations stored, what was committed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use logship_core::{Clock, Idempotency, Offsets, Timestamp};
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
    /// Rows by partition, in order.
    pub(crate) rows: BTreeMap<String, Vec<Row>>,
    pub(crate) destinations: BTreeMap<String, Destination>,
    pub(crate) offsets: Offsets,
    pub(crate) epoch: u64,
    pub(crate) lease_until: Option<Instant>,
    pub(crate) coverage: BTreeSet<&'static str>,
    pub(crate) violations: Vec<String>,
}

/// A row of the source.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) number: i64,
    pub(crate) timestamp: Timestamp,
    pub(crate) text: String,
    /// Wanted by the shipper's query.
    pub(crate) wanted: bool,
    /// Refused for good by destinations that look.
    pub(crate) poison: bool,
}

/// What one destination has stored.
#[derive(Debug, Default)]
pub(crate) struct Destination {
    pub(crate) idempotency: Idempotency,
    /// Copies, by partition and row.
    pub(crate) copies: BTreeMap<(String, i64), u64>,
    /// For a destination that is idempotent by chunk: what each object holds.
    pub(crate) objects: BTreeMap<String, Vec<(String, i64)>>,
    /// Rows it refused for good.
    pub(crate) refused: BTreeSet<(String, i64)>,
    /// Rows in the order in which they first arrived, by partition.
    pub(crate) arrivals: BTreeMap<String, Vec<i64>>,
    pub(crate) requests: u64,
    /// Copies stored in the present run.
    pub(crate) run_copies: BTreeMap<(String, i64), u64>,
}

impl Destination {
    /// Stores a row. `object` is where, for a destination that is idempotent by chunk.
    pub(crate) fn store(&mut self, partition: &str, number: i64, object: &str) {
        let row = (partition.to_owned(), number);
        if !self.copies.contains_key(&row) {
            self.arrivals.entry(partition.to_owned()).or_default().push(number);
        }
        *self.run_copies.entry(row.clone()).or_default() += 1;
        match self.idempotency {
            Idempotency::None => *self.copies.entry(row).or_default() += 1,
            Idempotency::PerChunk => {
                self.copies.insert(row.clone(), 1);
                self.objects.entry(object.to_owned()).or_default().push(row);
            }
            _ => {
                self.copies.insert(row, 1);
            }
        }
    }

    /// Whether a row needs nothing more.
    pub(crate) fn has(&self, partition: &str, number: i64) -> bool {
        let row = (partition.to_owned(), number);
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

    /// Appends rows to a partition. Some share a time, some are not wanted, a few are poison.
    pub(crate) fn append(&self, partition: &str, rows: usize) {
        let now = self.now();
        let state = &mut *self.lock();
        let partition = state.rows.entry(partition.to_owned()).or_default();
        for _ in 0..rows {
            let number = partition.last().map_or(1, |row| row.number + state.rng.i64(1..3));
            let length = if state.rng.u32(0..100) == 0 { 3_000 } else { state.rng.usize(1..200) };
            let text = format!("row {number} {}", "x".repeat(length));
            let wanted = state.rng.u32(0..4) > 0;
            let poison = state.rng.u32(0..60) == 0;
            partition.push(Row { number, timestamp: now, text, wanted, poison });
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

    fn now(&self) -> Timestamp {
        Timestamp::from_secs(1_795_000_000).saturating_add(self.began.elapsed())
    }
}

impl Clock for World {
    fn now(&self) -> Timestamp {
        World::now(self)
    }
}

impl State {
    /// P1: a cursor that is committed passes nothing which its destination has not got.
    pub(crate) fn check_cursors(&mut self) {
        for (lane, offset) in &self.offsets.lanes {
            let Some(destination) = self.destinations.get(lane) else { continue };
            for (partition, cursor) in &offset.cursors {
                let passed = self.rows.get(partition).into_iter().flatten().filter(|row| row.wanted);
                for row in passed.take_while(|row| row.number <= cursor.as_number()) {
                    if !destination.has(partition, row.number) {
                        self.violations.push(format!(
                            "P1: the offset of {lane} passed row {} of {partition}, which it has not got",
                            row.number
                        ));
                        return;
                    }
                }
            }
        }
    }

    /// P3: what a crash now would repeat at a destination that cannot tell.
    pub(crate) fn repeatable(&self, lane: &str) -> usize {
        let Some(destination) = self.destinations.get(lane) else { return 0 };
        let cursors = self.offsets.lanes.get(lane).map(|offset| &offset.cursors);
        let is_behind = |(partition, number): &&(String, i64)| {
            cursors.and_then(|cursors| cursors.get(partition)).is_none_or(|cursor| *number > cursor.as_number())
        };
        destination.copies.keys().filter(is_behind).count()
    }
}
