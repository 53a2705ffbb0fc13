//! What any offset store must do, by the numbers of the contract of `OffsetStore`. Each function is one promise; each
//! store's test file calls them with a fresh store.

#![allow(dead_code, reason = "each test file uses what applies to its store")]

use std::collections::BTreeMap;
use std::time::Duration;

use logship_core::{
    Cursor, Error, ErrorKind, LaneDelta, Lease, OffsetKey, OffsetStore, Offsets, OffsetsDelta, Seen, Timestamp, Window,
};

pub(crate) const TTL: Duration = Duration::from_secs(60);

pub(crate) fn key(name: &str) -> OffsetKey {
    OffsetKey::new(name).unwrap()
}

/// A commit of one cursor.
pub(crate) fn moved(lane: &str, partition: &str, cursor: Cursor) -> OffsetsDelta {
    let cursors = BTreeMap::from([(partition.to_owned(), cursor)]);
    OffsetsDelta { lanes: BTreeMap::from([(lane.to_owned(), LaneDelta { cursors, ..LaneDelta::default() })]) }
}

pub(crate) async fn c1_commits_merge_and_change_nothing_they_do_not_name(store: &dyn OffsetStore) {
    let lease = store.acquire(&key("merge"), "me", TTL).await.unwrap();
    let mut first = moved("es", "a", Cursor::number(1));
    let lane = first.lanes.get_mut("es").unwrap();
    lane.fingerprint = Some("rows; every severity".to_owned());
    lane.since = Some(Timestamp::from_secs(-5));
    let second = moved("es", "b/ä \"'", Cursor::new(2, "k\\2".into()));
    let third = moved("file", "a", Cursor::number(3));
    let mut expected = logship_core::Offsets::default();
    for delta in [&first, &second, &third, &moved("es", "a", Cursor::number(9)), &OffsetsDelta::default()] {
        store.commit(&lease, delta).await.unwrap();
        expected.apply(delta);
        assert_eq!(store.load(&lease.key).await.unwrap(), expected);
    }
    assert_eq!(expected.lanes["es"].cursors["a"], Cursor::number(9));
}

/// What was shipped of the stretch in which records may still appear is kept as it is, and goes when it is said to.
pub(crate) async fn c1_windows_are_kept_and_forgotten(store: &dyn OffsetStore) {
    let lease = store.acquire(&key("window"), "me", TTL).await.unwrap();
    let window = Window {
        after: Some(Cursor::new(1, "k/\"1".into())),
        late: 3,
        seen: vec![Seen { to: Cursor::number(9), time: Timestamp::from_secs(9), ids: (0..500).collect() }],
    };
    let mut delta = moved("es", "p", Cursor::number(9));
    let mut expected = logship_core::Offsets::default();
    for window in [Some(window.clone()), Some(Window { late: 4, ..window }), None] {
        delta.lanes.get_mut("es").unwrap().windows.insert("p".to_owned(), window);
        store.commit(&lease, &delta).await.unwrap();
        expected.apply(&delta);
        assert_eq!(store.load(&lease.key).await.unwrap(), expected);
    }
    assert!(expected.lanes["es"].windows.is_empty());
}

/// A lane that has a fingerprint and no cursor yet is kept: its first run fixed where it begins.
pub(crate) async fn c1_a_lane_without_a_cursor_is_kept(store: &dyn OffsetStore) {
    let lease = store.acquire(&key("bare"), "me", TTL).await.unwrap();
    let change = LaneDelta {
        fingerprint: Some("f".to_owned()),
        since: Some(Timestamp::from_secs(1_700_000_000)),
        ..LaneDelta::default()
    };
    store.commit(&lease, &OffsetsDelta { lanes: BTreeMap::from([("es".to_owned(), change)]) }).await.unwrap();
    let lane = store.load(&lease.key).await.unwrap().lanes.remove("es").unwrap();
    assert_eq!((lane.fingerprint.as_str(), lane.since), ("f", Some(Timestamp::from_secs(1_700_000_000))));
    assert!(lane.cursors.is_empty());
}

pub(crate) async fn c2_an_old_lease_moves_nothing(store: &dyn OffsetStore) {
    let old = store.acquire(&key("fenced"), "old", TTL).await.unwrap();
    store.commit(&old, &moved("es", "p", Cursor::number(1))).await.unwrap();
    store.release(&old).await.unwrap();
    let after_release = store.commit(&old, &moved("es", "p", Cursor::number(8))).await.unwrap_err();
    assert_eq!(after_release.kind(), ErrorKind::Fenced);

    let new = store.acquire(&key("fenced"), "new", TTL).await.unwrap();
    let error = store.commit(&old, &moved("es", "p", Cursor::number(9))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
    assert!(error.to_string().contains("fenced"), "names the key: {error}");
    assert_eq!(store.renew(&old, TTL).await.unwrap_err().kind(), ErrorKind::Fenced);
    // To give back what is lost is no error, and takes nothing from the new holder.
    store.release(&old).await.unwrap();
    store.renew(&new, TTL).await.unwrap();
    assert_eq!(store.load(&new.key).await.unwrap().lanes["es"].cursors["p"], Cursor::number(1));
    store.commit(&new, &moved("es", "p", Cursor::number(2))).await.unwrap();
    assert_eq!(store.load(&new.key).await.unwrap().lanes["es"].cursors["p"], Cursor::number(2));
}

/// `store` and `other` are two handles of the same storage.
pub(crate) async fn c3_a_held_key_is_busy_and_epochs_grow(store: &dyn OffsetStore, other: &dyn OffsetStore) {
    let mut last = 0;
    for round in 0..4 {
        let (mine, theirs) = if round % 2 == 0 { (store, other) } else { (other, store) };
        let lease = mine.acquire(&key("held"), "worker-7", TTL).await.unwrap();
        assert!(lease.epoch > last, "{} after {last}", lease.epoch);
        last = lease.epoch;
        for taker in [theirs, mine] {
            let error = taker.acquire(&key("held"), "worker-8", TTL).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
            assert!(error.to_string().contains("worker-7") && error.to_string().contains("held"), "{error}");
        }
        let beside = theirs.acquire(&key("another"), "worker-8", TTL).await.unwrap();
        theirs.release(&beside).await.unwrap();
        mine.release(&lease).await.unwrap();
    }
}

/// `pass` lets so much of the store's own time pass.
pub(crate) async fn c4_a_lease_that_is_not_renewed_expires(store: &dyn OffsetStore, pass: impl AsyncFn(Duration)) {
    let ttl = Duration::from_secs(1);
    let old = store.acquire(&key("expiring"), "old", ttl).await.unwrap();
    pass(ttl / 2).await;
    store.renew(&old, ttl).await.unwrap();
    pass(ttl * 3 / 5).await;
    assert_eq!(store.acquire(&key("expiring"), "new", ttl).await.unwrap_err().kind(), ErrorKind::Busy);
    pass(ttl).await;
    let new = store.acquire(&key("expiring"), "new", TTL).await.unwrap();
    assert!(new.epoch > old.epoch);
    assert_eq!(store.commit(&old, &moved("es", "p", Cursor::number(1))).await.unwrap_err().kind(), ErrorKind::Fenced);
    assert!(store.load(&new.key).await.unwrap().lanes.is_empty());
}

/// `reopened` is a new handle of the storage that `store` wrote.
pub(crate) async fn c5_what_was_committed_is_there_after_a_restart(
    store: &dyn OffsetStore,
    reopened: &dyn OffsetStore,
) {
    let lease = store.acquire(&key("kept"), "me", TTL).await.unwrap();
    store.commit(&lease, &moved("es", "p", Cursor::new(7, "k".into()))).await.unwrap();
    store.release(&lease).await.unwrap();
    assert_eq!(reopened.load(&lease.key).await.unwrap(), store.load(&lease.key).await.unwrap());
    assert_eq!(reopened.load(&lease.key).await.unwrap().lanes["es"].cursors["p"], Cursor::new(7, "k".into()));
    assert!(reopened.load(&key("never-seen")).await.unwrap().lanes.is_empty());
}

pub(crate) async fn keys_with_offsets_are_listed_in_order(store: &dyn OffsetStore) {
    assert!(store.list().await.unwrap().is_empty());
    for name in ["b", "a.1", "B", "a"] {
        let lease = store.acquire(&key(name), "me", TTL).await.unwrap();
        store.commit(&lease, &moved("es", "p", Cursor::number(1))).await.unwrap();
        store.release(&lease).await.unwrap();
    }
    assert_eq!(store.list().await.unwrap(), ["B", "a", "a.1", "b"].map(key));
}

pub(crate) async fn a_reset_forgets_and_is_refused_while_leased(store: &dyn OffsetStore) {
    let lease = store.acquire(&key("reset"), "worker-7", TTL).await.unwrap();
    for lane in ["es", "file", "s3"] {
        store.commit(&lease, &moved(lane, "p", Cursor::number(1))).await.unwrap();
    }
    let error = store.reset(&lease.key, Some("es")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    assert!(error.to_string().contains("worker-7"), "{error}");
    assert_eq!(store.load(&lease.key).await.unwrap().lanes.len(), 3);

    store.release(&lease).await.unwrap();
    store.reset(&lease.key, Some("es")).await.unwrap();
    let lanes: Vec<String> = store.load(&lease.key).await.unwrap().lanes.into_keys().collect();
    assert_eq!(lanes, ["file", "s3"]);
    store.reset(&lease.key, None).await.unwrap();
    assert!(store.load(&lease.key).await.unwrap().lanes.is_empty());
    store.reset(&key("never-seen"), None).await.unwrap();

    // Forgetting offsets does not forget epochs, or a holder from before could move what came after.
    let next = store.acquire(&lease.key, "me", TTL).await.unwrap();
    assert!(next.epoch > lease.epoch, "{} after {}", next.epoch, lease.epoch);
    store.release(&next).await.unwrap();
}

/// A store in which every lease lasts sixty times as long.
#[derive(Debug)]
pub(crate) struct Slow<S>(pub(crate) S);

#[logship_core::async_trait]
impl<S: OffsetStore> OffsetStore for Slow<S> {
    fn kind(&self) -> &'static str {
        self.0.kind()
    }
    async fn acquire(&self, key: &OffsetKey, owner: &str, ttl: Duration) -> Result<Lease, Error> {
        self.0.acquire(key, owner, ttl * 60).await
    }
    async fn renew(&self, lease: &Lease, ttl: Duration) -> Result<(), Error> {
        self.0.renew(lease, ttl * 60).await
    }
    async fn release(&self, lease: &Lease) -> Result<(), Error> {
        self.0.release(lease).await
    }
    async fn load(&self, key: &OffsetKey) -> Result<Offsets, Error> {
        self.0.load(key).await
    }
    async fn commit(&self, lease: &Lease, delta: &OffsetsDelta) -> Result<(), Error> {
        self.0.commit(lease, delta).await
    }
    async fn list(&self) -> Result<Vec<OffsetKey>, Error> {
        self.0.list().await
    }
    async fn reset(&self, key: &OffsetKey, lane: Option<&str>) -> Result<(), Error> {
        self.0.reset(key, lane).await
    }
}

/// Where a real server is, by an environment variable that `scripts/servers.sh` prints. `None`, with a line that says
/// so, where it is not set: the test is then skipped, unless `LOGSHIP_REQUIRE_SERVERS` is 1.
pub(crate) fn server(variable: &str) -> Option<String> {
    let url = std::env::var(variable).ok();
    if url.is_none() {
        let required = std::env::var("LOGSHIP_REQUIRE_SERVERS").is_ok_and(|value| value == "1");
        assert!(!required, "{variable} is not set: run eval \"$(scripts/servers.sh start)\"");
        // Not by a macro, whose output a passing test would swallow.
        let line = format!("skipped: {variable} is not set; scripts/servers.sh starts a server and prints it\n");
        std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes()).unwrap();
    }
    url
}
