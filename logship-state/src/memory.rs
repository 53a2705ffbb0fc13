//! Offsets in memory.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use logship_core::{Error, Lease, OffsetKey, OffsetStore, Offsets, OffsetsDelta, Registry, async_trait, read_fields};
use serde::Deserialize;
use tokio::time::Instant;

use crate::{busy, fenced};

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
#[derive(Clone, Default)]
pub struct MemoryOffsets {
    keys: Arc<Mutex<BTreeMap<OffsetKey, Kept>>>,
}

/// What is kept of one key.
#[derive(Default)]
struct Kept {
    offsets: Offsets,
    /// Of the newest lease there ever was.
    epoch: u64,
    holder: Option<Holder>,
}

/// Who has the newest lease, until it is given back.
struct Holder {
    owner: String,
    /// `None` is never.
    expires: Option<Instant>,
}

impl MemoryOffsets {
    /// A store that keeps nothing yet.
    pub fn new() -> Self {
        MemoryOffsets::default()
    }

    fn keys(&self) -> MutexGuard<'_, BTreeMap<OffsetKey, Kept>> {
        // Every change under the lock is complete before anything can panic, so what a panic left is whole.
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    /// Whoever has an unexpired lease.
    fn held_by(&self) -> Option<&str> {
        let now = Instant::now();
        let holder = self.holder.as_ref().filter(|holder| holder.expires.is_none_or(|expires| now < expires))?;
        Some(&holder.owner)
    }

    /// Takes a lease for the holder's own: the newest, and not given back.
    fn check(&mut self, operation: &'static str, lease: &Lease) -> Result<&mut Holder, Error> {
        match &mut self.holder {
            Some(holder) if self.epoch == lease.epoch => Ok(holder),
            _ => Err(fenced(operation, lease)),
        }
    }
}

#[async_trait]
impl OffsetStore for MemoryOffsets {
    fn kind(&self) -> &'static str {
        "memory"
    }

    async fn acquire(&self, key: &OffsetKey, owner: &str, ttl: Duration) -> Result<Lease, Error> {
        let mut keys = self.keys();
        let kept = keys.entry(key.clone()).or_default();
        if let Some(holder) = kept.held_by() {
            return Err(busy("acquire lease", key, holder));
        }
        kept.epoch += 1;
        kept.holder = Some(Holder { owner: owner.to_owned(), expires: Instant::now().checked_add(ttl) });
        Ok(Lease { key: key.clone(), epoch: kept.epoch })
    }

    async fn renew(&self, lease: &Lease, ttl: Duration) -> Result<(), Error> {
        let mut keys = self.keys();
        let holder = keys.entry(lease.key.clone()).or_default().check("renew lease", lease)?;
        holder.expires = Instant::now().checked_add(ttl);
        Ok(())
    }

    async fn release(&self, lease: &Lease) -> Result<(), Error> {
        if let Some(kept) = self.keys().get_mut(&lease.key)
            && kept.epoch == lease.epoch
        {
            kept.holder = None;
        }
        Ok(())
    }

    async fn load(&self, key: &OffsetKey) -> Result<Offsets, Error> {
        Ok(self.keys().get(key).map(|kept| kept.offsets.clone()).unwrap_or_default())
    }

    async fn commit(&self, lease: &Lease, delta: &OffsetsDelta) -> Result<(), Error> {
        let mut keys = self.keys();
        let kept = keys.entry(lease.key.clone()).or_default();
        kept.check("commit offsets", lease)?;
        kept.offsets.apply(delta);
        Ok(())
    }

    async fn list(&self) -> Result<Vec<OffsetKey>, Error> {
        let keys = self.keys();
        Ok(keys.iter().filter(|(_, kept)| !kept.offsets.lanes.is_empty()).map(|(key, _)| key.clone()).collect())
    }

    async fn reset(&self, key: &OffsetKey, lane: Option<&str>) -> Result<(), Error> {
        let mut keys = self.keys();
        let Some(kept) = keys.get_mut(key) else { return Ok(()) };
        if let Some(holder) = kept.held_by() {
            return Err(busy("reset offsets", key, holder));
        }
        // A holder whose lease expired must not put back what was forgotten.
        kept.epoch += 1;
        kept.holder = None;
        match lane {
            Some(lane) => drop(kept.offsets.lanes.remove(lane)),
            None => kept.offsets = Offsets::default(),
        }
        Ok(())
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
