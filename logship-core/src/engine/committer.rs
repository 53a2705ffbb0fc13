//! Makes offsets durable: one write at a time for all lanes, the newest wins.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::ledger::Change;
use super::signal::Signal;
use crate::{Cursor, Error, ErrorKind, LaneDelta, LaneOffset, Lease, OffsetStore, Offsets, OffsetsDelta, Partition};

/// Collects what lanes have finished and writes it. A lane that has handed in a change gets a ticket, and the change
/// is durable when the ticket is.
#[derive(Debug)]
pub(crate) struct Committer {
    state: Mutex<State>,
    wake: Notify,
    /// The newest ticket that is durable.
    pub(crate) durable: Signal<u64>,
}

#[derive(Debug, Default)]
struct State {
    waiting: BTreeMap<String, HashMap<Partition, Change>>,
    /// The ticket of the newest change that waits.
    ticket: u64,
    /// What the store holds.
    stored: Offsets,
}

/// The changes of a lane, by partition.
pub(crate) type Changes = Vec<(Partition, Change)>;

/// How often a commit that fails for a passing reason is tried before the run ends.
const ATTEMPTS_MAX: u32 = 10;

/// How long the store may take for one call, beyond whatever limits of its own it has.
const PATIENCE: Duration = Duration::from_secs(60);

impl Committer {
    pub(crate) fn new(stored: Offsets) -> Self {
        Committer {
            state: Mutex::new(State { stored, ..State::default() }),
            wake: Notify::new(),
            durable: Signal::new(0),
        }
    }

    /// Hands in the changes of a lane.
    pub(crate) fn add(&self, lane: &str, changes: Changes) -> u64 {
        self.add_all([(lane, changes)])
    }

    /// Hands in the changes of several lanes, which become durable together.
    pub(crate) fn add_all<'l>(&self, lanes: impl IntoIterator<Item = (&'l str, Changes)>) -> u64 {
        let ticket = {
            let mut state = self.lock();
            for (lane, changes) in lanes {
                let waiting = state.waiting.entry(lane.to_owned()).or_default();
                for (partition, change) in changes {
                    waiting.entry(partition).or_default().merge(change);
                }
            }
            state.ticket += 1;
            state.ticket
        };
        self.wake.notify_one();
        ticket
    }

    /// What is durable for a lane.
    pub(crate) fn stored(&self, lane: &str) -> LaneOffset {
        self.lock().stored.lanes.get(lane).cloned().unwrap_or_default()
    }

    /// Looks at what is durable.
    pub(crate) fn look<T>(&self, at: impl FnOnce(&Offsets) -> T) -> T {
        at(&self.lock().stored)
    }

    /// Returns once this ticket's changes are durable.
    pub(crate) async fn wait_for(&self, ticket: u64) {
        loop {
            let (seen, durable) = self.durable.get();
            if durable >= ticket {
                return;
            }
            self.durable.changed(seen).await;
        }
    }

    /// Writes whatever is handed in, until that fails for good.
    pub(crate) async fn run(&self, store: &dyn OffsetStore, lease: &Lease) -> Error {
        loop {
            let (delta, ticket) = {
                let mut state = self.lock();
                (state.take_waiting(), state.ticket)
            };
            if !delta.is_empty() {
                if let Err(error) = write(store, lease, &delta).await {
                    return error;
                }
                self.lock().stored.apply(&delta);
                self.durable.set(ticket);
            } else {
                self.wake.notified().await;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Everything that waits, as one commit on top of what is stored.
    fn take_waiting(&mut self) -> OffsetsDelta {
        let mut delta = OffsetsDelta::default();
        for (lane, changes) in std::mem::take(&mut self.waiting) {
            let stored = self.stored.lanes.get(&lane);
            let mut windows = BTreeMap::new();
            let mut cursors: Vec<(String, Cursor)> = Vec::with_capacity(changes.len());
            for (partition, change) in changes {
                let name = partition.as_str();
                if !change.notes.is_empty() {
                    let mut window = stored.and_then(|stored| stored.windows.get(name)).cloned();
                    change.notes.into_iter().for_each(|note| note.apply(&mut window));
                    windows.insert(name.to_owned(), window);
                }
                cursors.extend(change.cursor.map(|cursor| (name.to_owned(), cursor)));
            }
            // A map that is made of all at once costs less than one that grows.
            let cursors = cursors.into_iter().collect();
            delta.lanes.insert(lane, LaneDelta { cursors, windows, ..LaneDelta::default() });
        }
        delta
    }
}

/// One commit, tried again while the store is merely unavailable.
pub(crate) async fn write(store: &dyn OffsetStore, lease: &Lease, delta: &OffsetsDelta) -> Result<(), Error> {
    let mut attempts = 0;
    loop {
        // What was dropped has happened or not, and to do it again changes nothing.
        let error = match tokio::time::timeout(PATIENCE, store.commit(lease, delta)).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error,
            Err(_) => {
                let message = format!("no answer within {PATIENCE:?}");
                Error::new(ErrorKind::Timeout, "commit offsets", message)
            }
        };
        attempts += 1;
        if error.kind() == ErrorKind::Fenced || !error.is_retryable() || attempts == ATTEMPTS_MAX {
            return Err(error.with("offset_key", &lease.key));
        }
        tracing::warn!(%error, attempts, "the offset could not be committed; trying again");
        tokio::time::sleep(Duration::from_millis(50 << attempts)).await;
    }
}
