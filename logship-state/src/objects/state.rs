//! What an object of offsets says. Much like `OffsetDocument` of the core, but for what only objects have: a lease is
//! counted from the object's time of change, so its end is no time that could be written into it; a `revision` makes each
//! text another one; and a holder is told apart before the text is written, as offsets may be ahead of the object.

use std::collections::BTreeMap;
use std::time::Duration;

use logship_core::{Error, ErrorKind, LaneOffset, Lease, OffsetKey, Offsets, OffsetsDelta};
use serde::{Deserialize, Serialize};

/// The form of the objects. One of a later form is refused.
const VERSION: u32 = 1;

/// What an object says.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    pub(super) version: u32,
    pub(super) key: OffsetKey,
    pub(super) epoch: u64,
    /// No two states are the same text, so that none has the entity tag of another.
    #[serde(default)]
    pub(super) revision: u64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) lease: Option<Holder>,
    pub(super) lanes: BTreeMap<String, LaneOffset>,
}

/// Who has the newest lease.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Holder {
    pub(super) owner: String,
    /// Counted from the object's time of change. Negative is long over.
    pub(super) ttl_ms: i64,
}

impl Holder {
    pub(super) fn new(owner: &str, ttl: Duration) -> Self {
        let mut holder = Holder { owner: owner.to_owned(), ttl_ms: 0 };
        holder.set_ttl(ttl);
        holder
    }

    pub(super) fn set_ttl(&mut self, ttl: Duration) {
        self.ttl_ms = i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX);
    }

    /// How long after the object's time of change it ends; `None` if that was long ago.
    pub(super) fn ttl(&self) -> Option<Duration> {
        u64::try_from(self.ttl_ms).ok().map(Duration::from_millis)
    }
}

impl State {
    pub(super) fn new(key: &OffsetKey) -> Self {
        State { version: VERSION, key: key.clone(), epoch: 0, revision: 0, lease: None, lanes: BTreeMap::new() }
    }

    pub(super) fn parse(operation: &'static str, key: &OffsetKey, text: &[u8]) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct Form {
            version: u32,
        }
        let unreadable = |message: String| Error::new(ErrorKind::State, operation, message);
        let damaged = |error: serde_json::Error| {
            unreadable(format!(
                "the offsets of `{key}` cannot be read: {error}; put an older version of the object back, or delete it to ship everything again"
            ))
        };
        let Form { version } = serde_json::from_slice(text).map_err(damaged)?;
        if version > VERSION {
            return Err(unreadable(format!(
                "the offsets of `{key}` have version {version}, and this program reads up to {VERSION}: use the newer program that wrote them"
            )));
        }
        let state: State = serde_json::from_slice(text).map_err(damaged)?;
        match state.key == *key {
            true => Ok(state),
            false => Err(unreadable(format!(
                "the object of `{key}` belongs to the key `{}`: put it back under its own name",
                state.key
            ))),
        }
    }

    /// Whether this lease is the newest, and was not given back.
    pub(super) fn is_of(&self, lease: &Lease) -> bool {
        self.epoch == lease.epoch && self.lease.is_some()
    }

    pub(super) fn apply(&mut self, delta: &OffsetsDelta) {
        let mut offsets = Offsets { lanes: std::mem::take(&mut self.lanes) };
        offsets.apply(delta);
        self.lanes = offsets.lanes;
    }
}
