//! Makes offsets durable: one write at a time for all lanes, the newest wins.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::signal::Signal;
use crate::{Error, ErrorKind, Lease, OffsetStore, Offsets, OffsetsDelta};

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
    waiting: OffsetsDelta,
    /// The ticket of the newest change that waits.
    ticket: u64,
    /// What the store holds.
    stored: Offsets,
}

/// How often a commit that fails for a passing reason is tried before the run ends.
const ATTEMPTS_MAX: u32 = 10;

impl Committer {
    pub(crate) fn new(stored: Offsets) -> Self {
        Committer {
            state: Mutex::new(State { stored, ..State::default() }),
            wake: Notify::new(),
            durable: Signal::new(0),
        }
    }

    /// Hands in a change.
    pub(crate) fn add(&self, delta: OffsetsDelta) -> u64 {
        let ticket = {
            let mut state = self.lock();
            state.waiting.merge(delta);
            state.ticket += 1;
            state.ticket
        };
        self.wake.notify_one();
        ticket
    }

    /// What is durable for a lane.
    pub(crate) fn stored(&self, lane: &str) -> crate::LaneOffset {
        self.lock().stored.lanes.get(lane).cloned().unwrap_or_default()
    }

    /// Writes whatever is handed in, until that fails for good.
    pub(crate) async fn run(&self, store: &dyn OffsetStore, lease: &Lease) -> Error {
        loop {
            let (delta, ticket) = {
                let mut state = self.lock();
                (std::mem::take(&mut state.waiting), state.ticket)
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

/// One commit, tried again while the store is merely unavailable.
pub(crate) async fn write(store: &dyn OffsetStore, lease: &Lease, delta: &OffsetsDelta) -> Result<(), Error> {
    let mut attempts = 0;
    loop {
        let error = match store.commit(lease, delta).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        attempts += 1;
        if error.kind() == ErrorKind::Fenced || !error.is_retryable() || attempts == ATTEMPTS_MAX {
            return Err(error.with("offset_key", &lease.key));
        }
        tracing::warn!(%error, attempts, "the offset could not be committed; trying again");
        tokio::time::sleep(Duration::from_millis(50 << attempts)).await;
    }
}
