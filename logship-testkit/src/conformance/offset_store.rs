//! What any [`OffsetStore`] must do, by the numbers of its contract.
//!
//! ```
//! use std::time::Duration;
//! use logship_core::{OffsetStore, async_trait};
//! use logship_testkit::conformance::offset_store::OffsetStoreFixture;
//! # use logship_core::{Error, Lease, OffsetKey, Offsets, OffsetsDelta};
//! # #[derive(Debug)]
//! # struct MyStore;
//! # impl MyStore { fn at(_: &std::path::Path) -> Self { MyStore } }
//! # #[async_trait]
//! # impl OffsetStore for MyStore {
//! #     fn kind(&self) -> &'static str { "mine" }
//! #     async fn acquire(&self, _: &OffsetKey, _: &str, _: Duration) -> Result<Lease, Error> { unimplemented!() }
//! #     async fn renew(&self, _: &Lease, _: Duration) -> Result<(), Error> { unimplemented!() }
//! #     async fn release(&self, _: &Lease) -> Result<(), Error> { unimplemented!() }
//! #     async fn load(&self, _: &OffsetKey) -> Result<Offsets, Error> { unimplemented!() }
//! #     async fn commit(&self, _: &Lease, _: &OffsetsDelta) -> Result<(), Error> { unimplemented!() }
//! #     async fn list(&self) -> Result<Vec<OffsetKey>, Error> { unimplemented!() }
//! #     async fn reset(&self, _: &OffsetKey, _: Option<&str>) -> Result<(), Error> { unimplemented!() }
//! # }
//!
//! // In a file of `tests`: a storage of each test's own, which is empty.
//! struct Fixture(std::path::PathBuf);
//!
//! #[async_trait]
//! impl OffsetStoreFixture for Fixture {
//!     async fn open(&self) -> Box<dyn OffsetStore> {
//!         Box::new(MyStore::at(&self.0))
//!     }
//! }
//!
//! async fn fixture(test: &'static str) -> Option<Fixture> {
//!     Some(Fixture(std::env::temp_dir().join(test)))
//! }
//!
//! logship_testkit::offset_store_conformance!(fixture);
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use logship_core::{
    Cursor, ErrorKind, LaneDelta, Lease, OffsetKey, OffsetStore, Offsets, OffsetsDelta, Seen, Timestamp, Window,
    async_trait,
};

use super::{POLLS_MAX, cut};

/// A storage that is empty at first, and handles onto it.
#[async_trait]
pub trait OffsetStoreFixture: Send + Sync {
    /// A new handle onto the storage, as another process has it.
    async fn open(&self) -> Box<dyn OffsetStore>;

    /// How long leases last that are to expire. What is short enough to be waited for, where
    /// [`pass`](Self::pass) has to wait. By default a minute.
    fn ttl(&self) -> Duration {
        Duration::from_secs(60)
    }

    /// Lets so much of the store's own time pass. `false`, as by default, where leases do not end by time, or time
    /// cannot be moved.
    async fn pass(&self, time: Duration) -> bool {
        let _ = time;
        false
    }

    /// Makes all that is stored of this key unreadable, as a broken disk or a wrong hand would. `false`, as by default,
    /// where that cannot be done.
    async fn damage(&self, key: &OffsetKey) -> bool {
        let _ = key;
        false
    }

    /// All that is stored of this key, as a person finds it who looks with the storage's own tools. `None`, as by
    /// default, where there is nothing to be looked at.
    async fn text(&self, key: &OffsetKey) -> Option<String> {
        let _ = key;
        None
    }
}

/// Writes a test for each line of the contract of [`OffsetStore`].
///
/// Takes an `async fn(&'static str) -> Option<impl OffsetStoreFixture>`, which is given the test's name, and the name
/// of the module before it if there is to be more than one. Without a fixture a test is skipped.
#[macro_export]
macro_rules! offset_store_conformance {
    ($fixture:expr) => {
        $crate::offset_store_conformance!(conformance, $fixture);
    };
    ($module:ident, $fixture:expr) => {
        $crate::conformance_tests!(
            $module, $fixture, offset_store:
            c1_commits_merge_and_change_nothing_they_do_not_name,
            c1_windows_are_kept_and_forgotten,
            c1_a_lane_without_a_cursor_is_kept,
            c1_many_partitions_are_committed_at_once,
            c2_an_old_lease_moves_nothing,
            c2_a_lease_of_another_key_moves_nothing,
            c3_a_held_key_is_busy_and_epochs_grow,
            c3_only_one_of_many_gets_a_key,
            c4_a_lease_that_is_not_renewed_expires,
            c5_what_was_committed_is_there_after_a_restart,
            c5_what_cannot_be_read_is_an_error,
            c6_what_is_stored_is_text_with_the_version_of_its_form,
            c7_calls_that_are_dropped_leave_nothing_behind,
            keys_with_offsets_are_listed_in_order,
            a_reset_forgets_and_is_refused_while_leased,
        );
    };
}

/// Long enough for leases that are not to expire.
pub const TTL: Duration = Duration::from_secs(600);

/// A key.
///
/// # Panics
/// If it cannot be one.
pub fn key(name: &str) -> OffsetKey {
    OffsetKey::new(name).unwrap()
}

/// A commit of one cursor.
pub fn moved(lane: &str, partition: &str, cursor: Cursor) -> OffsetsDelta {
    let cursors = BTreeMap::from([(partition.to_owned(), cursor)]);
    OffsetsDelta { lanes: BTreeMap::from([(lane.to_owned(), LaneDelta { cursors, ..LaneDelta::default() })]) }
}

async fn acquired(store: &dyn OffsetStore, name: &str) -> Lease {
    store.acquire(&key(name), "me", TTL).await.expect("a key that nobody holds can be acquired")
}

async fn cursor_of(store: &dyn OffsetStore, name: &str) -> Option<Cursor> {
    let offsets = store.load(&key(name)).await.expect("what was stored can be loaded");
    offsets.lanes.get("es").and_then(|lane| lane.cursors.get("p").cloned())
}

/// Contract 1: each commit is added to those before.
pub async fn c1_commits_merge_and_change_nothing_they_do_not_name(fixture: &dyn OffsetStoreFixture) {
    let store = fixture.open().await;
    let lease = acquired(&*store, "merge").await;
    let mut first = moved("es", "a", Cursor::number(1));
    let lane = first.lanes.get_mut("es").unwrap();
    lane.fingerprint = Some("rows; every severity".to_owned());
    lane.since = Some(Timestamp::from_secs(-5));
    let second = moved("es", "b/ä \"'", Cursor::new(2, "k\\2".into()));
    let third = moved("file", "a", Cursor::number(3));
    let mut expected = Offsets::default();
    for delta in [&first, &second, &third, &moved("es", "a", Cursor::number(9)), &OffsetsDelta::default()] {
        store.commit(&lease, delta).await.unwrap();
        expected.apply(delta);
        assert_eq!(store.load(&lease.key).await.unwrap(), expected, "a commit changes what it names and no more");
    }
}

/// Contract 1: what was shipped of the stretch in which records may still appear is kept as it is, and goes when it is
/// said to.
pub async fn c1_windows_are_kept_and_forgotten(fixture: &dyn OffsetStoreFixture) {
    let store = fixture.open().await;
    let lease = acquired(&*store, "window").await;
    let window = Window {
        after: Some(Cursor::new(1, "k/\"1".into())),
        late: 3,
        seen: vec![Seen { to: Cursor::number(9), time: Timestamp::from_secs(9), ids: (0..500).collect() }],
    };
    let mut delta = moved("es", "p", Cursor::number(9));
    let mut expected = Offsets::default();
    for window in [Some(window.clone()), Some(Window { late: 4, ..window }), None] {
        delta.lanes.get_mut("es").unwrap().windows.insert("p".to_owned(), window);
        store.commit(&lease, &delta).await.unwrap();
        expected.apply(&delta);
        assert_eq!(store.load(&lease.key).await.unwrap(), expected, "a window is kept as a whole");
    }
}

/// Contract 1: a lane that has a fingerprint and no cursor yet is kept, as its first run fixed where it begins.
pub async fn c1_a_lane_without_a_cursor_is_kept(fixture: &dyn OffsetStoreFixture) {
    let store = fixture.open().await;
    let lease = acquired(&*store, "bare").await;
    let since = Some(Timestamp::from_secs(1_700_000_000));
    let change = LaneDelta { fingerprint: Some("f".to_owned()), since, ..LaneDelta::default() };
    store.commit(&lease, &OffsetsDelta { lanes: BTreeMap::from([("es".to_owned(), change)]) }).await.unwrap();
    let lane = store.load(&lease.key).await.unwrap().lanes.remove("es").expect("the lane is kept");
    assert_eq!((lane.fingerprint.as_str(), lane.since), ("f", since));
    assert!(lane.cursors.is_empty());
}

/// Contract 1: a commit of a thousand partitions is one, and again when they are there already.
pub async fn c1_many_partitions_are_committed_at_once(fixture: &dyn OffsetStoreFixture) {
    let store = fixture.open().await;
    let lease = acquired(&*store, "many").await;
    for round in 1..3 {
        let cursors: BTreeMap<String, Cursor> = (0..1_000).map(|p| (p.to_string(), Cursor::number(round))).collect();
        let delta = LaneDelta { cursors: cursors.clone(), ..LaneDelta::default() };
        store.commit(&lease, &OffsetsDelta { lanes: BTreeMap::from([("es".to_owned(), delta)]) }).await.unwrap();
        let lanes = store.load(&lease.key).await.unwrap().lanes;
        assert!(lanes["es"].cursors == cursors, "all of a thousand partitions are committed");
    }
}

/// Contract 2: a lease that was given back, or that somebody newer took over, moves nothing.
pub async fn c2_an_old_lease_moves_nothing(fixture: &dyn OffsetStoreFixture) {
    let store = fixture.open().await;
    let old = acquired(&*store, "fenced").await;
    store.commit(&old, &moved("es", "p", Cursor::number(1))).await.unwrap();
    store.release(&old).await.unwrap();
    let refused = store.commit(&old, &moved("es", "p", Cursor::number(8))).await;
    let refused = refused.expect_err("a commit under a lease that was given back is fenced");
    assert_eq!(refused.kind(), ErrorKind::Fenced, "{refused}");

    let new = acquired(&*store, "fenced").await;
    let refused = store.commit(&old, &moved("es", "p", Cursor::number(9))).await;
    let refused = refused.expect_err("a commit under an old lease is fenced");
    assert_eq!(refused.kind(), ErrorKind::Fenced, "{refused}");
    assert!(refused.to_string().contains("fenced"), "the error names the key: {refused}");
    let refused = store.renew(&old, TTL).await.expect_err("an old lease cannot be renewed");
    assert_eq!(refused.kind(), ErrorKind::Fenced, "{refused}");
    store.release(&old).await.expect("to give back what is lost is no error");
    store.renew(&new, TTL).await.expect("nothing was taken from the new holder");
    assert_eq!(cursor_of(&*store, "fenced").await, Some(Cursor::number(1)), "what was fenced changed nothing");
    store.commit(&new, &moved("es", "p", Cursor::number(2))).await.unwrap();
    assert_eq!(cursor_of(&*store, "fenced").await, Some(Cursor::number(2)));
}

/// Contract 2: a lease is of one key, whatever its epoch.
pub async fn c2_a_lease_of_another_key_moves_nothing(fixture: &dyn OffsetStoreFixture) {
    let store = fixture.open().await;
    let mine = acquired(&*store, "mine").await;
    for lease in [Lease { key: key("unheld"), epoch: mine.epoch }, Lease { epoch: mine.epoch + 1, ..mine.clone() }] {
        let refused = store.commit(&lease, &moved("es", "p", Cursor::number(1))).await;
        let refused = refused.expect_err("a lease that was never given moves nothing");
        assert_eq!(refused.kind(), ErrorKind::Fenced, "{refused}");
        assert_eq!(cursor_of(&*store, lease.key.as_str()).await, None);
    }
}

/// Contract 3: of two handles, one has the key, and each lease's epoch is larger than the last.
pub async fn c3_a_held_key_is_busy_and_epochs_grow(fixture: &dyn OffsetStoreFixture) {
    let (store, other) = (fixture.open().await, fixture.open().await);
    let mut last = 0;
    for round in 0..4 {
        let (mine, theirs) = if round % 2 == 0 { (&store, &other) } else { (&other, &store) };
        let lease = mine.acquire(&key("held"), "worker-7", TTL).await.unwrap();
        assert!(lease.epoch > last, "an epoch of {} after {last}", lease.epoch);
        last = lease.epoch;
        for taker in [theirs, mine] {
            let refused = taker.acquire(&key("held"), "worker-8", TTL).await.expect_err("a held key is busy");
            assert_eq!(refused.kind(), ErrorKind::Busy, "{refused}");
            let names = refused.to_string().contains("worker-7") && refused.to_string().contains("held");
            assert!(names, "the error names the key and its holder: {refused}");
        }
        let beside = theirs.acquire(&key("another"), "worker-8", TTL).await.expect("another key is free");
        theirs.release(&beside).await.unwrap();
        mine.release(&lease).await.unwrap();
    }
}

/// Contract 3: of many that take a key at the same moment, in a storage that has nothing yet, exactly one gets it.
pub async fn c3_only_one_of_many_gets_a_key(fixture: &dyn OffsetStoreFixture) {
    let mut takers = tokio::task::JoinSet::new();
    for number in 0..8 {
        let store = fixture.open().await;
        takers.spawn(async move {
            let taken = store.acquire(&key("k"), &format!("worker-{number}"), TTL).await;
            // The store is kept, as some give back what they hold when they are dropped.
            (taken, store)
        });
    }
    let taken = takers.join_all().await;
    let refused = taken.iter().filter_map(|(lease, _)| lease.as_ref().err());
    assert!(refused.clone().all(|error| error.kind() == ErrorKind::Busy), "{taken:?}");
    assert_eq!(refused.count(), 7, "exactly one of eight has the key: {taken:?}");
}

/// Contract 3 and 4: a lease lasts as long as it is renewed, by the store's clock.
pub async fn c4_a_lease_that_is_not_renewed_expires(fixture: &dyn OffsetStoreFixture) {
    let (store, ttl) = (fixture.open().await, fixture.ttl());
    let old = store.acquire(&key("expiring"), "old", ttl).await.unwrap();
    if !fixture.pass(ttl / 2).await {
        return;
    }
    store.renew(&old, ttl).await.unwrap();
    fixture.pass(ttl * 3 / 5).await;
    let refused = store.acquire(&key("expiring"), "new", ttl).await.expect_err("a renewed lease has not expired");
    assert_eq!(refused.kind(), ErrorKind::Busy, "{refused}");
    fixture.pass(ttl).await;
    let new = store.acquire(&key("expiring"), "new", TTL).await.expect("a lease that was not renewed has expired");
    assert!(new.epoch > old.epoch, "an epoch of {} after {}", new.epoch, old.epoch);
    let refused = store.commit(&old, &moved("es", "p", Cursor::number(1))).await;
    let refused = refused.expect_err("an expired lease that somebody took moves nothing");
    assert_eq!(refused.kind(), ErrorKind::Fenced, "{refused}");
    assert!(store.load(&new.key).await.unwrap().lanes.is_empty());
}

/// Contract 1 and 5: another handle loads what this one committed, also when this one is gone.
pub async fn c5_what_was_committed_is_there_after_a_restart(fixture: &dyn OffsetStoreFixture) {
    let (store, before) = (fixture.open().await, fixture.open().await);
    let lease = acquired(&*store, "kept").await;
    for number in 1..=3 {
        store.commit(&lease, &moved("es", "p", Cursor::new(number, "k".into()))).await.unwrap();
        assert_eq!(cursor_of(&*before, "kept").await, Some(Cursor::new(number, "k".into())), "seen by another");
    }
    store.release(&lease).await.unwrap();
    drop(store);
    let after = fixture.open().await;
    assert_eq!(cursor_of(&*after, "kept").await, Some(Cursor::new(3, "k".into())), "seen after a restart");
    assert!(after.load(&key("never-seen")).await.expect("a key without offsets is empty").lanes.is_empty());
}

/// Contract 5: what cannot be read is an error, never an empty state.
pub async fn c5_what_cannot_be_read_is_an_error(fixture: &dyn OffsetStoreFixture) {
    let store = fixture.open().await;
    let lease = acquired(&*store, "damaged").await;
    store.commit(&lease, &moved("es", "p", Cursor::number(1))).await.unwrap();
    store.commit(&lease, &moved("es", "p", Cursor::number(2))).await.unwrap();
    store.release(&lease).await.unwrap();
    if !fixture.damage(&lease.key).await {
        return;
    }
    for store in [store, fixture.open().await] {
        let error = store.load(&lease.key).await.expect_err("what cannot be read is an error");
        assert_eq!(error.kind(), ErrorKind::State, "{error}");
        assert!(!error.is_retryable(), "the same again would fail again: {error}");
    }
}

/// Contract 6: a person who looks finds key, lane, partition, position and the version of the form.
pub async fn c6_what_is_stored_is_text_with_the_version_of_its_form(fixture: &dyn OffsetStoreFixture) {
    let store = fixture.open().await;
    let lease = acquired(&*store, "plain-text").await;
    store.commit(&lease, &moved("to-es", "rows", Cursor::new(3, "row".into()))).await.unwrap();
    let Some(text) = fixture.text(&lease.key).await else { return };
    for part in ["plain-text", "to-es", "rows", "00000000000000000003/row", "version"] {
        assert!(text.contains(part), "`{part}` is not to be found in {text}");
    }
}

/// Contract 7: a call that is dropped at any await has happened or not, and hinders none that follows.
pub async fn c7_calls_that_are_dropped_leave_nothing_behind(fixture: &dyn OffsetStoreFixture) {
    let (mut last, mut is_whole) = (0, false);
    for polls in 1..POLLS_MAX {
        if is_whole {
            break;
        }
        let store = fixture.open().await;
        let dropped = cut(store.acquire(&key("dropped"), "dropped", fixture.ttl()), polls).await;
        let lease = match dropped {
            Some(lease) => lease.expect("nobody holds the key"),
            None => acquired_after_a_dropped_call(fixture, &*store).await,
        };
        assert!(lease.epoch > last, "an epoch of {} after {last}", lease.epoch);
        last = lease.epoch;

        let (older, newer) = (Cursor::new(last as i64, "older".into()), Cursor::new(last as i64, "newer".into()));
        let before = cursor_of(&*store, "dropped").await;
        is_whole = cut(store.commit(&lease, &moved("es", "p", older.clone())), polls).await.is_some();
        let after = cursor_of(&*store, "dropped").await;
        assert!(after == before || after == Some(older), "a dropped commit happened or not, and is not {after:?}");
        store.commit(&lease, &moved("es", "p", newer.clone())).await.expect("a dropped commit hinders no other");
        // A dropped call that still works in the background has all chance to do harm.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert_eq!(cursor_of(&*store, "dropped").await, Some(newer), "a dropped commit does not undo a later one");
        drop(cut(store.load(&lease.key), polls).await);
        drop(cut(store.renew(&lease, TTL), polls).await);
        drop(cut(store.release(&lease), polls).await);
        store.release(&lease).await.expect("a dropped release hinders no other");
    }
}

/// A call to acquire that was dropped may have got the lease, which nobody knows then: it ends by time, or at once
/// where leases do not.
async fn acquired_after_a_dropped_call(fixture: &dyn OffsetStoreFixture, store: &dyn OffsetStore) -> Lease {
    match store.acquire(&key("dropped"), "next", TTL).await {
        Ok(lease) => lease,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
            assert!(fixture.pass(fixture.ttl() * 2).await, "a dropped call keeps the lease for ever: {error}");
            store.acquire(&key("dropped"), "next", TTL).await.expect("the lease of a dropped call expires")
        }
    }
}

/// The keys that have offsets are listed in their order.
pub async fn keys_with_offsets_are_listed_in_order(fixture: &dyn OffsetStoreFixture) {
    let store = fixture.open().await;
    assert!(store.list().await.unwrap().is_empty(), "nothing is listed of an empty storage");
    for name in ["b", "a.1", "B", "a"] {
        let lease = acquired(&*store, name).await;
        store.commit(&lease, &moved("es", "p", Cursor::number(1))).await.unwrap();
        store.release(&lease).await.unwrap();
    }
    assert_eq!(store.list().await.unwrap(), ["B", "a", "a.1", "b"].map(key));
}

/// A reset forgets a lane or a key, never epochs, and is refused while the key is leased.
pub async fn a_reset_forgets_and_is_refused_while_leased(fixture: &dyn OffsetStoreFixture) {
    let store = fixture.open().await;
    let lease = store.acquire(&key("reset"), "worker-7", TTL).await.unwrap();
    for lane in ["es", "file", "s3"] {
        store.commit(&lease, &moved(lane, "p", Cursor::number(1))).await.unwrap();
    }
    let refused = store.reset(&lease.key, Some("es")).await.expect_err("a leased key is not reset");
    assert_eq!(refused.kind(), ErrorKind::Busy, "{refused}");
    assert!(refused.to_string().contains("worker-7"), "the error names the holder: {refused}");
    assert_eq!(store.load(&lease.key).await.unwrap().lanes.len(), 3, "what was refused changed nothing");

    store.release(&lease).await.unwrap();
    store.reset(&lease.key, Some("es")).await.unwrap();
    let lanes: Vec<String> = store.load(&lease.key).await.unwrap().lanes.into_keys().collect();
    assert_eq!(lanes, ["file", "s3"], "one lane is forgotten");
    store.reset(&lease.key, None).await.unwrap();
    assert!(store.load(&lease.key).await.unwrap().lanes.is_empty(), "all lanes are forgotten");
    store.reset(&key("never-seen"), None).await.expect("to forget what is not there is no error");

    // Or a holder from before could move what came after.
    let next = acquired(&*store, "reset").await;
    assert!(next.epoch > lease.epoch, "a reset forgets no epochs: {} after {}", next.epoch, lease.epoch);
}
