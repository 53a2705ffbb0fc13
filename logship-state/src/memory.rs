//! Offsets in memory.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use logship_core::{
    Error, Lease, OffsetDocument, OffsetKey, OffsetStore, Offsets, OffsetsDelta, Registry, Timestamp, async_trait,
    read_fields,
};
use serde::Deserialize;
use tokio::time::Instant;

/// Keeps offsets in this process, for tests and for hosts that keep them elsewhere themselves. They end with the
/// process: a shipper that begins with an empty store ships everything again.
///
/// A clone shares what is kept. Leases expire by [`tokio::time::Instant`], so that tests can run on a paused clock. No
/// method waits for anything, so each either happened whole or not at all when it is dropped.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), logship_core::Error> {
/// use std::time::Duration;
/// use logship_core::{ErrorKind, OffsetKey, OffsetStore};
/// use logship_state::memory::MemoryOffsets;
///
/// let store = MemoryOffsets::new();
/// let key = OffsetKey::new("LogShipper-state")?;
/// let lease = store.acquire(&key, "worker-1", Duration::from_secs(60)).await?;
/// let refused = store.acquire(&key, "worker-2", Duration::from_secs(60)).await.unwrap_err();
/// assert_eq!(refused.kind(), ErrorKind::Busy);
/// store.release(&lease).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct MemoryOffsets {
    keys: Arc<Mutex<BTreeMap<OffsetKey, OffsetDocument>>>,
    /// What leases are counted from.
    began: Instant,
}

impl Default for MemoryOffsets {
    fn default() -> Self {
        MemoryOffsets { keys: Arc::default(), began: Instant::now() }
    }
}

impl MemoryOffsets {
    /// A store that keeps nothing yet.
    pub fn new() -> Self {
        MemoryOffsets::default()
    }

    fn keys(&self) -> MutexGuard<'_, BTreeMap<OffsetKey, OffsetDocument>> {
        // Every change under the lock is complete before anything can panic, so what a panic left is whole.
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(
        &self,
        key: &OffsetKey,
        change: impl FnOnce(&mut OffsetDocument, Timestamp) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut keys = self.keys();
        let document = match keys.entry(key.clone()) {
            Entry::Occupied(found) => found.into_mut(),
            Entry::Vacant(none) => none.insert(OffsetDocument::read(key, None)?),
        };
        change(document, Timestamp::from_secs(0).saturating_add(self.began.elapsed()))
    }
}

#[async_trait]
impl OffsetStore for MemoryOffsets {
    fn kind(&self) -> &'static str {
        "memory"
    }

    async fn acquire(&self, key: &OffsetKey, owner: &str, ttl: Duration) -> Result<Lease, Error> {
        self.change(key, |document, now| document.acquire(owner, ttl, now))
    }

    async fn renew(&self, lease: &Lease, ttl: Duration) -> Result<(), Error> {
        self.change(&lease.key, |document, now| document.renew(lease, ttl, now))
    }

    async fn release(&self, lease: &Lease) -> Result<(), Error> {
        self.change(&lease.key, |document, _| document.release(lease))
    }

    async fn load(&self, key: &OffsetKey) -> Result<Offsets, Error> {
        Ok(self.keys().get(key).map(|document| document.offsets().clone()).unwrap_or_default())
    }

    async fn commit(&self, lease: &Lease, delta: &OffsetsDelta) -> Result<(), Error> {
        self.change(&lease.key, |document, _| document.commit(lease, delta))
    }

    async fn list(&self) -> Result<Vec<OffsetKey>, Error> {
        let keys = self.keys();
        let kept = keys.iter().filter(|(_, document)| !document.offsets().lanes.is_empty());
        Ok(kept.map(|(key, _)| key.clone()).collect())
    }

    async fn reset(&self, key: &OffsetKey, lane: Option<&str>) -> Result<(), Error> {
        self.change(key, |document, now| document.reset(lane, now))
    }
}

impl fmt::Debug for MemoryOffsets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryOffsets").field("keys", &self.keys().len()).finish()
    }
}

/// Adds the store `memory`, which has no fields.
pub fn register(registry: &mut Registry) {
    #[derive(Deserialize)]
    #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
    #[serde(deny_unknown_fields)]
    struct Config {}

    #[cfg(feature = "schema")]
    registry.describe_store::<Config>("memory");
    registry.add_store("memory", |fields, _| {
        let Config {} = read_fields(fields)?;
        Ok(MemoryOffsets::new())
    });
}
