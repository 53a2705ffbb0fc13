//! How far each lane has come, and who may move it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{Cursor, Error, Partition, Start, Timestamp, Window};

/// The name under which the offsets of a shipper are kept, such as `LogShipper-state`.
///
/// Letters, digits, `.`, `_` and `-`, at most 128, the first a letter or a digit, so that it can be a file name, a
/// column and an object key as it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct OffsetKey(String);

impl OffsetKey {
    /// The key, or why it cannot be one.
    pub fn new(key: impl Into<String>) -> Result<Self, Error> {
        let key = key.into();
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if key.len() > 128 || !key.starts_with(|c: char| c.is_ascii_alphanumeric()) || !key.chars().all(is_plain) {
            let message = format!(
                "`{key}` cannot be an offset key: use at most 128 letters, digits, `.`, `_` and `-`, beginning with a letter or digit"
            );
            return Err(Error::config("offset_key", message));
        }
        Ok(OffsetKey(key))
    }

    /// The key.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for OffsetKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl<'de> Deserialize<'de> for OffsetKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        OffsetKey::new(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// The offsets of all lanes under one key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Offsets {
    /// By lane id.
    pub lanes: BTreeMap<String, LaneOffset>,
}

impl Offsets {
    /// Takes over what a commit says.
    pub fn apply(&mut self, delta: &OffsetsDelta) {
        for (id, change) in &delta.lanes {
            let lane = self.lanes.entry(id.clone()).or_default();
            if let Some(fingerprint) = &change.fingerprint {
                lane.fingerprint.clone_from(fingerprint);
            }
            if change.since.is_some() {
                lane.since = change.since;
            }
            for (partition, cursor) in &change.cursors {
                match lane.cursors.get_mut(partition) {
                    Some(stored) => stored.clone_from(cursor),
                    None => drop(lane.cursors.insert(partition.clone(), cursor.clone())),
                }
            }
            for (partition, window) in &change.windows {
                match window {
                    Some(window) => drop(lane.windows.insert(partition.clone(), window.clone())),
                    None => drop(lane.windows.remove(partition)),
                }
            }
        }
    }
}

/// How far one lane has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaneOffset {
    /// What the cursors mean: the source and everything that selects records. A lane whose own fingerprint differs
    /// refuses to go on from here.
    pub fingerprint: String,
    /// Where a partition without a cursor begins: fixed at the very first run, so that a first run that delivers
    /// nothing does not move the beginning for the next. `None` is the first record there is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub since: Option<Timestamp>,
    /// By partition name: everything up to here is done.
    #[serde(default)]
    pub cursors: BTreeMap<String, Cursor>,
    /// By partition name: what was shipped of the stretch in which records may still appear.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub windows: BTreeMap<String, Window>,
}

impl fmt::Display for Offsets {
    /// For people: a line for each lane and partition.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (id, lane) in &self.lanes {
            match lane.since {
                Some(since) => writeln!(f, "{id}: since {since}, {}", lane.fingerprint)?,
                None => writeln!(f, "{id}: {}", lane.fingerprint)?,
            }
            for (partition, cursor) in &lane.cursors {
                write!(f, "  {partition}: {cursor}")?;
                match lane.windows.get(partition) {
                    Some(window) => writeln!(f, ", {} records remembered", window.ids_count())?,
                    None => writeln!(f)?,
                }
            }
        }
        Ok(())
    }
}

impl LaneOffset {
    /// Where this lane goes on in a partition.
    pub fn start(&self, partition: &Partition) -> Start {
        self.cursors.get(partition.as_str()).map_or_else(|| self.beginning(), |cursor| Start::After(cursor.clone()))
    }

    /// Where this lane begins in a partition that it has nothing of.
    pub(crate) fn beginning(&self) -> Start {
        self.since.map_or(Start::Earliest, Start::At)
    }
}

/// What one commit changes. Changes nothing that it does not name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OffsetsDelta {
    /// By lane id.
    pub lanes: BTreeMap<String, LaneDelta>,
}

/// What one commit changes for one lane.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LaneDelta {
    /// The new fingerprint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// The new beginning of partitions without a cursor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// The new cursors, by partition name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub cursors: BTreeMap<String, Cursor>,
    /// The new windows, by partition name, each as a whole; `None` for one that is gone.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub windows: BTreeMap<String, Option<Window>>,
}

impl OffsetsDelta {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }
}

/// The right to move the offsets of a key, until it is released, expires, or somebody newer takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// What may be moved.
    pub key: OffsetKey,
    /// Grows with each lease of the key. A commit under a smaller epoch than the newest is refused.
    pub epoch: u64,
}

/// Keeps offsets, and sees to it that only one shipper moves them.
///
/// # Contract
/// 1. [`commit`](OffsetStore::commit) MUST be all or nothing, and durable once it returns `Ok`.
/// 2. [`commit`](OffsetStore::commit) MUST fail with [`ErrorKind::Fenced`](crate::ErrorKind::Fenced), changing
///    nothing, when the lease is not the newest of its key.
/// 3. [`acquire`](OffsetStore::acquire) MUST fail with [`ErrorKind::Busy`](crate::ErrorKind::Busy) while another
///    lease of the key is neither released nor expired, and MUST give a larger epoch than every lease before.
/// 4. Time to live MUST be counted by one clock for all holders: the store's.
/// 5. [`load`](OffsetStore::load) MUST give what the last successful commit left. Where that cannot be read it MUST
///    fail; it MUST NOT give an empty or older state silently.
/// 6. What is stored MUST be text a person can read, with the version of its form.
/// 7. Every method MUST be safe to drop at any await.
#[async_trait]
pub trait OffsetStore: fmt::Debug + Send + Sync {
    /// What kind of store this is, as a configuration names it.
    fn kind(&self) -> &'static str;

    /// Takes the lease of a key. `owner` is for the error that others get.
    async fn acquire(&self, key: &OffsetKey, owner: &str, ttl: Duration) -> Result<Lease, Error>;

    /// Makes the lease last for `ttl` from now. Fails with [`ErrorKind::Fenced`](crate::ErrorKind::Fenced) when it is
    /// lost.
    async fn renew(&self, lease: &Lease, ttl: Duration) -> Result<(), Error>;

    /// Gives the lease back. Giving back what is lost is no error, unless commits are lost with it: a store that keeps
    /// some of them back until now says so with [`ErrorKind::State`](crate::ErrorKind::State), or with
    /// [`ErrorKind::Fenced`](crate::ErrorKind::Fenced) when somebody else has the key, and the run fails.
    async fn release(&self, lease: &Lease) -> Result<(), Error>;

    /// The offsets of a key; empty if there are none.
    async fn load(&self, key: &OffsetKey) -> Result<Offsets, Error>;

    /// Makes a change durable.
    async fn commit(&self, lease: &Lease, delta: &OffsetsDelta) -> Result<(), Error>;

    /// The keys that have offsets, in order.
    async fn list(&self) -> Result<Vec<OffsetKey>, Error>;

    /// Forgets the offsets of a key, or of one lane of it, so that its records are shipped again. Fails with
    /// [`ErrorKind::Busy`](crate::ErrorKind::Busy) while the key is leased.
    async fn reset(&self, key: &OffsetKey, lane: Option<&str>) -> Result<(), Error>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_plain() {
        for key in ["LogShipper-state", "a", "1.b_c"] {
            assert!(OffsetKey::new(key).is_ok(), "{key}");
        }
        for key in ["", "-a", "a/b", "a b", "..", "ä"] {
            assert!(OffsetKey::new(key).is_err(), "{key}");
        }
    }

    #[test]
    fn stored_offsets_are_text_a_person_can_read() {
        let mut offsets = Offsets::default();
        let mut delta = OffsetsDelta::default();
        let lane = delta.lanes.entry("es".to_owned()).or_default();
        lane.since = Some(Timestamp::from_secs(0));
        lane.fingerprint = Some("memory; every severity".to_owned());
        lane.cursors.insert("logs".to_owned(), Cursor::new(5, "k1".into()));
        offsets.apply(&delta);
        let text = serde_json::to_string(&offsets).unwrap();
        assert_eq!(
            text,
            r#"{"lanes":{"es":{"fingerprint":"memory; every severity","since":"1970-01-01T00:00:00.000000000Z","cursors":{"logs":"00000000000000000005/k1"}}}}"#
        );
        assert_eq!(serde_json::from_str::<Offsets>(&text).unwrap(), offsets);
        assert_eq!(offsets.lanes["es"].start(&Partition::new("logs")), Start::After(Cursor::new(5, "k1".into())));
        assert_eq!(offsets.lanes["es"].start(&Partition::new("new")), Start::At(Timestamp::from_secs(0)));
    }
}
