//! The offset store of a simulated process.

use std::time::Duration;

use async_trait::async_trait;
use logship_core::{Error, ErrorKind, Lease, OffsetKey, OffsetStore, Offsets, OffsetsDelta};
use tokio::time::Instant;

use super::world::World;

/// An offset store whose contents are in the world.
#[derive(Clone, Debug)]
pub(crate) struct SimStore {
    pub(crate) world: World,
    pub(crate) generation: u64,
}

impl SimStore {
    fn unavailable() -> Error {
        Error::new(ErrorKind::Unavailable, "sim store", "the store is away")
    }

    fn fenced() -> Error {
        Error::new(ErrorKind::Fenced, "sim store", "somebody newer holds the lease")
    }
}

#[async_trait]
impl OffsetStore for SimStore {
    fn kind(&self) -> &'static str {
        "sim"
    }

    async fn acquire(&self, key: &OffsetKey, _owner: &str, ttl: Duration) -> Result<Lease, Error> {
        self.world.step(self.generation).await;
        let state = &mut *self.world.lock();
        if state.lease_until.is_some_and(|until| until > Instant::now()) {
            state.coverage.insert("the key was taken");
            return Err(Error::new(ErrorKind::Busy, "sim store", "the key is taken"));
        }
        state.epoch += 1;
        state.lease_until = Some(Instant::now() + ttl);
        Ok(Lease { key: key.clone(), epoch: state.epoch })
    }

    async fn renew(&self, lease: &Lease, ttl: Duration) -> Result<(), Error> {
        self.world.step(self.generation).await;
        if self.world.fault() {
            return Err(SimStore::unavailable());
        }
        let state = &mut *self.world.lock();
        if state.epoch != lease.epoch {
            state.coverage.insert("a lost lease was noticed when renewing");
            return Err(SimStore::fenced());
        }
        state.lease_until = Some(Instant::now() + ttl);
        Ok(())
    }

    async fn release(&self, lease: &Lease) -> Result<(), Error> {
        self.world.step(self.generation).await;
        let state = &mut *self.world.lock();
        if state.epoch == lease.epoch {
            state.lease_until = None;
        }
        Ok(())
    }

    async fn load(&self, _key: &OffsetKey) -> Result<Offsets, Error> {
        self.world.step(self.generation).await;
        Ok(self.world.lock().offsets.clone())
    }

    async fn commit(&self, lease: &Lease, delta: &OffsetsDelta) -> Result<(), Error> {
        self.world.step(self.generation).await;
        let fault = self.world.fault();
        if fault && self.world.pick(2) == 0 {
            self.world.cover("a commit failed");
            return Err(SimStore::unavailable());
        }
        {
            let state = &mut *self.world.lock();
            if state.epoch != lease.epoch {
                state.coverage.insert("a commit was fenced");
                return Err(SimStore::fenced());
            }
            for (lane, change) in &delta.lanes {
                let cursors = state.offsets.lanes.get(lane).map(|offset| offset.cursors.clone()).unwrap_or_default();
                for (partition, cursor) in &change.cursors {
                    if cursors.get(partition).is_some_and(|before| before > cursor) {
                        state.violations.push(format!("the offset of {lane} in {partition} moved back"));
                    }
                    let rows = state.rows.get(partition).map(Vec::as_slice).unwrap_or_default();
                    if rows.iter().any(|row| row.number == cursor.as_number() && !row.wanted) {
                        state.coverage.insert("an offset moved over rows that nobody wants");
                    }
                }
                for (partition, window) in &change.windows {
                    let moved = change.cursors.contains_key(partition);
                    state.coverage.insert(match window {
                        None => "a window was closed",
                        Some(_) if moved => "an offset moved together with its window",
                        Some(_) => "a window changed and its offset stayed",
                    });
                }
            }
            state.offsets.apply(delta);
            state.check_cursors(delta.lanes.keys());
        }
        self.world.step(self.generation).await;
        match fault {
            true => {
                self.world.cover("a commit failed after it was applied");
                Err(SimStore::unavailable())
            }
            false => Ok(()),
        }
    }

    async fn list(&self) -> Result<Vec<OffsetKey>, Error> {
        Ok(Vec::new())
    }

    async fn reset(&self, _key: &OffsetKey, lane: Option<&str>) -> Result<(), Error> {
        let state = &mut *self.world.lock();
        match lane {
            Some(lane) => drop(state.offsets.lanes.remove(lane)),
            None => state.offsets = Offsets::default(),
        }
        Ok(())
    }
}
