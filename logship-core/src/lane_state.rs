//! What lanes are doing now, for whoever asks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::{Lane, LaneReport, LaneStatus, Progress, Timestamp};

/// What a lane is doing now, and what it has done in the newest run.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct LaneState {
    /// The lane's id.
    pub id: String,
    /// The kind of its exporter.
    pub kind: &'static str,
    /// What it is doing.
    #[serde(flatten)]
    pub activity: Activity,
    /// Records taken from the source.
    pub read: u64,
    /// Records that the destination confirmed.
    pub accepted: u64,
    /// Records refused for good and passed over.
    pub rejected: u64,
    /// Records not sent because of a rule.
    pub dropped: u64,
    /// Records read and not finished.
    pub left: u64,
    /// Requests made again after a failure, and records sent again after a partial one.
    pub retries: u64,
    /// Bytes of all bodies sent.
    pub wire_bytes: u64,
    /// The time of the last finished record.
    pub last_timestamp: Option<Timestamp>,
    /// How old that is now; zero where the lane has everything, and `None` where it does not and has finished nothing
    /// yet. As JSON in seconds.
    #[serde(rename = "lag_secs", serialize_with = "optional_secs")]
    pub lag: Option<Duration>,
}

/// What a lane is doing.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(tag = "activity", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Activity {
    /// There is no run, or it was stopped before this lane had everything.
    #[default]
    Idle,
    /// It looks for records, and ships them.
    Shipping,
    /// It has everything there is.
    CaughtUp,
    /// An attempt failed and is repeated.
    Retrying {
        /// How many attempts there were for the chunk.
        attempts: u32,
        /// Why the last one failed.
        error: String,
    },
    /// It cannot go on.
    Stopped {
        /// Why.
        error: String,
        /// After which time it begins again, if it does. As JSON in seconds.
        #[serde(rename = "rests_secs", serialize_with = "optional_secs")]
        rests: Option<Duration>,
    },
}

fn optional_secs<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    duration.map(|duration| duration.as_secs_f64()).serialize(serializer)
}

/// The states of all lanes of a shipper.
#[derive(Clone, Debug, Default)]
pub(crate) struct Board(Arc<Mutex<BTreeMap<String, LaneState>>>);

impl LaneState {
    fn new(id: &str, kind: &'static str) -> Self {
        LaneState {
            id: id.to_owned(),
            kind,
            activity: Activity::Idle,
            read: 0,
            accepted: 0,
            rejected: 0,
            dropped: 0,
            left: 0,
            retries: 0,
            wire_bytes: 0,
            last_timestamp: None,
            lag: None,
        }
    }
}

impl Board {
    /// The state of this lane.
    pub(crate) fn state(&self, lane: &Lane, now: Timestamp) -> LaneState {
        let unseen = || LaneState::new(&lane.id, lane.exporter.kind());
        let mut state = self.lock().get(&lane.id).cloned().unwrap_or_else(unseen);
        state.lag = match state.activity {
            Activity::CaughtUp => Some(Duration::ZERO),
            _ => state.last_timestamp.map(|last| now.since(last)),
        };
        state
    }

    /// A run of this lane begins.
    pub(crate) fn begins(&self, lane: &Lane) {
        let state = LaneState { activity: Activity::Shipping, ..LaneState::new(&lane.id, lane.exporter.kind()) };
        self.lock().insert(lane.id.clone(), state);
    }

    /// What a lane has done so far.
    pub(crate) fn counts(&self, report: &LaneReport) {
        if let Some(state) = self.lock().get_mut(&report.id) {
            state.read = report.read;
            state.accepted = report.accepted;
            state.rejected = report.rejected;
            state.dropped = report.dropped_total();
            state.left = report.left;
            state.retries = report.retries;
            state.wire_bytes = report.wire_bytes;
            state.last_timestamp = report.last_timestamp;
        }
    }

    /// What a lane says of itself.
    pub(crate) fn hears(&self, progress: &Progress) {
        let (lane, activity) = match progress {
            Progress::Delivered { lane, .. } => (lane, Activity::Shipping),
            Progress::CaughtUp { lane } => (lane, Activity::CaughtUp),
            Progress::Retrying { lane, attempts, error, .. } => {
                (lane, Activity::Retrying { attempts: *attempts, error: error.to_string() })
            }
            Progress::Stopped { lane, error, rests } => {
                (lane, Activity::Stopped { error: error.to_string(), rests: *rests })
            }
            Progress::Committed { .. } => return,
        };
        if let Some(state) = self.lock().get_mut(&**lane) {
            state.activity = activity;
        }
    }

    /// The run of this lane has ended.
    pub(crate) fn ended(&self, lane: &str, status: &LaneStatus) {
        if let Some(state) = self.lock().get_mut(lane) {
            state.activity = match status {
                LaneStatus::Complete => Activity::CaughtUp,
                LaneStatus::Interrupted => Activity::Idle,
                LaneStatus::Stopped(error) => Activity::Stopped { error: error.to_string(), rests: None },
            };
        }
    }

    /// The run has ended as a whole.
    pub(crate) fn failed(&self) {
        self.lock().values_mut().for_each(|state| state.activity = Activity::Idle);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, LaneState>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
