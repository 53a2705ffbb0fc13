use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use logship_core::{Error, ErrorKind, Lease, OffsetKey, OffsetStore, Offsets, OffsetsDelta, async_trait};

use super::is_broken;
use crate::conformance::offset_store::{self as suite, OffsetStoreFixture};
use crate::conformance::plain::PlainOffsets;

/// What is wrong with a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    Nothing,
    ReplacesAll,
    ForgetsWindows,
    ForgetsBareLanes,
    KeepsAHundred,
    ForgetsEpochs,
    TrustsLaterEpochs,
    NeverGrows,
    NeverBusy,
    NeverExpires,
    KeepsInTheHandle,
    EmptyWhenDamaged,
    NoVersion,
    CommitsBehindTheBack,
    ListsBackwards,
    ResetsEpochs,
}

#[derive(Clone, Debug)]
struct Store {
    store: PlainOffsets,
    flaw: Flaw,
    damaged: Arc<AtomicBool>,
}

impl Store {
    fn new(flaw: Flaw) -> Self {
        Store { store: PlainOffsets::default(), flaw, damaged: Arc::default() }
    }

    fn ttl(&self, ttl: Duration) -> Duration {
        if self.flaw == Flaw::NeverExpires { ttl * 1_000 } else { ttl }
    }

    fn change(&self, delta: &OffsetsDelta) -> OffsetsDelta {
        let mut delta = delta.clone();
        for lane in delta.lanes.values_mut() {
            match self.flaw {
                Flaw::ForgetsWindows => lane.windows.clear(),
                Flaw::KeepsAHundred => lane.cursors = std::mem::take(&mut lane.cursors).into_iter().take(100).collect(),
                _ => {}
            }
        }
        if self.flaw == Flaw::ForgetsBareLanes {
            delta.lanes.retain(|_, lane| !lane.cursors.is_empty());
        }
        delta
    }
}

#[async_trait]
impl OffsetStore for Store {
    fn kind(&self) -> &'static str {
        "flawed"
    }

    async fn acquire(&self, key: &OffsetKey, owner: &str, ttl: Duration) -> Result<Lease, Error> {
        if self.flaw == Flaw::NeverBusy {
            let epoch = self.store.with(key, |_, epoch| *epoch);
            self.store.release(&Lease { key: key.clone(), epoch }).await?;
        }
        let mut lease = self.store.acquire(key, owner, self.ttl(ttl)).await?;
        if self.flaw == Flaw::NeverGrows {
            self.store.with(key, |_, epoch| *epoch = 1);
            lease.epoch = 1;
        }
        Ok(lease)
    }

    async fn renew(&self, lease: &Lease, ttl: Duration) -> Result<(), Error> {
        self.store.renew(lease, self.ttl(ttl)).await
    }

    async fn release(&self, lease: &Lease) -> Result<(), Error> {
        self.store.release(lease).await
    }

    async fn load(&self, key: &OffsetKey) -> Result<Offsets, Error> {
        match (self.damaged.load(Ordering::SeqCst), self.flaw) {
            (false, _) => self.store.load(key).await,
            (true, Flaw::EmptyWhenDamaged) => Ok(Offsets::default()),
            (true, _) => Err(Error::new(ErrorKind::State, "load", "damaged")),
        }
    }

    async fn commit(&self, lease: &Lease, delta: &OffsetsDelta) -> Result<(), Error> {
        let mut lease = lease.clone();
        let delta = self.change(delta);
        match self.flaw {
            Flaw::ForgetsEpochs => {
                self.store.with(&lease.key, |offsets, _| offsets.apply(&delta));
                return Ok(());
            }
            Flaw::TrustsLaterEpochs => lease.epoch = lease.epoch.min(self.store.with(&lease.key, |_, epoch| *epoch)),
            Flaw::ReplacesAll => self.store.with(&lease.key, |offsets, _| *offsets = Offsets::default()),
            Flaw::CommitsBehindTheBack => {
                let store = self.store.clone();
                let waits = if format!("{delta:?}").contains("older") { 8 } else { 1 };
                let work = async move {
                    for _ in 0..waits {
                        tokio::task::yield_now().await;
                    }
                    store.commit(&lease, &delta).await
                };
                return tokio::spawn(work).await.unwrap();
            }
            _ => {}
        }
        self.store.commit(&lease, &delta).await
    }

    async fn list(&self) -> Result<Vec<OffsetKey>, Error> {
        let mut keys = self.store.list().await?;
        if self.flaw == Flaw::ListsBackwards {
            keys.reverse();
        }
        Ok(keys)
    }

    async fn reset(&self, key: &OffsetKey, lane: Option<&str>) -> Result<(), Error> {
        self.store.reset(key, lane).await?;
        if self.flaw == Flaw::ResetsEpochs {
            self.store.with(key, |_, epoch| *epoch = 0);
        }
        Ok(())
    }
}

#[async_trait]
impl OffsetStoreFixture for Store {
    async fn open(&self) -> Box<dyn OffsetStore> {
        let is_apart = self.flaw == Flaw::KeepsInTheHandle;
        Box::new(if is_apart { Store::new(self.flaw) } else { self.clone() })
    }

    async fn pass(&self, time: Duration) -> bool {
        tokio::time::pause();
        tokio::time::advance(time).await;
        tokio::time::resume();
        true
    }

    async fn damage(&self, _: &OffsetKey) -> bool {
        self.damaged.store(true, Ordering::SeqCst);
        true
    }

    async fn text(&self, key: &OffsetKey) -> Option<String> {
        let version = if self.flaw == Flaw::NoVersion { "" } else { "version" };
        Some(self.store.with(key, |offsets, _| format!("{key} {version} {offsets:?}")))
    }
}

crate::offset_store_conformance!(sound, async |_| Some(Store::new(Flaw::Nothing)));

macro_rules! breaks {
    ($($flaw:ident: $($line:ident),+;)+) => {
        $($(
            let fixture = Store::new(Flaw::$flaw);
            assert!(is_broken(suite::$line(&fixture)).await, "{} passes {:?}", stringify!($line), Flaw::$flaw);
        )+)+
    };
}

#[tokio::test]
async fn every_line_can_be_broken() {
    breaks! {
        ReplacesAll: c1_commits_merge_and_change_nothing_they_do_not_name;
        ForgetsWindows: c1_windows_are_kept_and_forgotten;
        ForgetsBareLanes: c1_a_lane_without_a_cursor_is_kept;
        KeepsAHundred: c1_many_partitions_are_committed_at_once;
        ForgetsEpochs: c2_an_old_lease_moves_nothing, c2_a_lease_of_another_key_moves_nothing;
        TrustsLaterEpochs: c2_a_lease_of_another_key_moves_nothing;
        NeverGrows: c3_a_held_key_is_busy_and_epochs_grow, c2_an_old_lease_moves_nothing;
        NeverBusy: c3_a_held_key_is_busy_and_epochs_grow, c3_only_one_of_many_gets_a_key;
        NeverExpires: c4_a_lease_that_is_not_renewed_expires;
        KeepsInTheHandle: c5_what_was_committed_is_there_after_a_restart, c3_only_one_of_many_gets_a_key;
        EmptyWhenDamaged: c5_what_cannot_be_read_is_an_error;
        NoVersion: c6_what_is_stored_is_text_with_the_version_of_its_form;
        CommitsBehindTheBack: c7_calls_that_are_dropped_leave_nothing_behind;
        ListsBackwards: keys_with_offsets_are_listed_in_order;
        ResetsEpochs: a_reset_forgets_and_is_refused_while_leased;
    }
}
