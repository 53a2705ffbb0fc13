//! What a run is doing while it runs.

use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use tokio::sync::broadcast::{self, error::RecvError};

use crate::lane_state::Board;

/// What just happened in a run. Numbers are totals of the lane since the run began.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Progress {
    /// A chunk was delivered.
    Delivered {
        /// The lane.
        lane: Arc<str>,
        /// Records taken from the source.
        read: u64,
        /// Records that the destination confirmed.
        accepted: u64,
        /// Bytes of all bodies sent.
        wire_bytes: u64,
    },
    /// An attempt failed and is repeated.
    Retrying {
        /// The lane.
        lane: Arc<str>,
        /// How many attempts there were for this chunk.
        attempts: u32,
        /// How long the engine waits.
        delay: Duration,
        /// Why it failed.
        error: Arc<str>,
    },
    /// A lane's offset is durable up to here.
    Committed {
        /// The lane.
        lane: Arc<str>,
        /// Records finished and behind the offset.
        records: u64,
    },
    /// A lane has everything there is now. In a continuous run it goes on when there is more.
    CaughtUp {
        /// The lane.
        lane: Arc<str>,
    },
    /// A lane cannot go on now. In a continuous run one that merely gave up begins again after a rest.
    Stopped {
        /// The lane.
        lane: Arc<str>,
        /// Why.
        error: Arc<str>,
        /// After which time it begins again, if it does.
        rests: Option<Duration>,
    },
}

/// Hands progress to whoever listens, and never waits for them.
#[derive(Clone, Debug)]
pub(crate) struct ProgressSender {
    listeners: broadcast::Sender<Progress>,
    /// For who asks instead of listening.
    pub(crate) board: Board,
}

/// A listener that is further behind than this loses the oldest; numbers are totals, so the next one makes up for it.
const PROGRESS_KEPT: usize = 1024;

impl ProgressSender {
    pub(crate) fn new() -> Self {
        ProgressSender { listeners: broadcast::Sender::new(PROGRESS_KEPT), board: Board::default() }
    }

    pub(crate) fn send(&self, progress: Progress) {
        self.board.hears(&progress);
        // An error says that nobody listens, which is nobody's loss.
        let _ = self.listeners.send(progress);
    }

    pub(crate) fn subscribe(&self) -> impl Stream<Item = Progress> + Send + Unpin + 'static + use<> {
        let receiver = self.listeners.subscribe();
        Box::pin(futures::stream::unfold(receiver, |mut receiver| async move {
            loop {
                match receiver.recv().await {
                    Ok(progress) => return Some((progress, receiver)),
                    Err(RecvError::Lagged(_)) => continue,
                    Err(RecvError::Closed) => return None,
                }
            }
        }))
    }
}
