//! The file store keeps the contract of `OffsetStore`, also where its files were cut off or damaged.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![cfg(feature = "file")]

use std::fs;
use std::path::{Path, PathBuf};

use logship_core::{Cursor, ErrorKind, OffsetKey, OffsetStore, Timestamp, async_trait};
use logship_state::file::FileOffsets;
use logship_testkit::conformance::offset_store::{OffsetStoreFixture, TTL, key, moved};
use logship_testkit::offset_store_conformance;
use tempfile::TempDir;

fn store() -> (TempDir, FileOffsets) {
    let dir = tempfile::tempdir().unwrap();
    let store = FileOffsets::new(dir.path().join("offsets"));
    (dir, store)
}

struct Fixture(TempDir);

#[async_trait]
impl OffsetStoreFixture for Fixture {
    async fn open(&self) -> Box<dyn OffsetStore> {
        Box::new(FileOffsets::new(self.0.path().join("offsets")))
    }

    async fn damage(&self, key: &OffsetKey) -> bool {
        for generation in ["offsets", "offsets.previous"] {
            fs::write(self.0.path().join(format!("offsets/{key}.{generation}.json")), "{").unwrap();
        }
        true
    }

    async fn text(&self, key: &OffsetKey) -> Option<String> {
        fs::read_to_string(self.0.path().join(format!("offsets/{key}.offsets.json"))).ok()
    }
}

offset_store_conformance!(async |_| Some(Fixture(tempfile::tempdir().unwrap())));

/// Somebody deletes the lock file and takes the lease: the epoch in the file fences the first holder.
#[tokio::test]
async fn c2_a_holder_whose_lock_was_deleted_moves_nothing() {
    let (dir, store) = store();
    let old = store.acquire(&key("k"), "old", TTL).await.unwrap();
    fs::remove_file(dir.path().join("offsets/k.lock")).unwrap();
    let other = FileOffsets::new(dir.path().join("offsets"));
    other.acquire(&key("k"), "new", TTL).await.unwrap();
    let error = store.commit(&old, &moved("es", "p", Cursor::number(1))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
    assert!(other.load(&key("k")).await.unwrap().lanes.is_empty());
}

#[tokio::test]
async fn c3_a_store_that_is_dropped_gives_its_leases_back() {
    let (dir, store) = store();
    store.acquire(&key("k"), "gone", TTL).await.unwrap();
    let other = FileOffsets::new(dir.path().join("offsets"));
    assert_eq!(other.acquire(&key("k"), "next", TTL).await.unwrap_err().kind(), ErrorKind::Busy);
    drop(store);
    other.acquire(&key("k"), "next", TTL).await.unwrap();
}

/// A store whose lane `es` was committed at 1, 2 and 3, and the newest and previous file of it. It was not given back,
/// so that both files know 1, and the journal the rest.
async fn committed() -> (TempDir, PathBuf, PathBuf) {
    let (dir, store) = store();
    let lease = store.acquire(&key("k"), "me", TTL).await.unwrap();
    for number in 1..=3 {
        store.commit(&lease, &moved("es", "p", Cursor::number(number))).await.unwrap();
    }
    assert!(dir.path().join("offsets/k.offsets.journal").exists());
    let file = |name: &str| dir.path().join("offsets").join(name);
    let (current, previous) = (file("k.offsets.json"), file("k.offsets.previous.json"));
    (dir, current, previous)
}

async fn cursor_of(store: &FileOffsets) -> Cursor {
    store.load(&key("k")).await.unwrap().lanes["es"].cursors["p"].clone()
}

/// Every way in which a newest file can be of no use.
fn damages(text: &str) -> Vec<(&'static str, Option<String>)> {
    vec![
        ("missing", None),
        ("empty", Some(String::new())),
        ("cut in the middle", Some(text[..text.len() / 2].to_owned())),
        ("cut before its end", Some(text.trim_end().trim_end_matches('}').to_owned())),
        ("garbage", Some("\u{0}\u{0}\u{0}\u{0}".to_owned())),
        ("with a changed digit", Some(text.replace("00000000001", "00000000007"))),
        ("of no known form", Some("{\"version\": 1}".to_owned())),
    ]
}

fn put(path: &Path, text: Option<&str>) {
    match text {
        Some(text) => fs::write(path, text).unwrap(),
        None => fs::remove_file(path).unwrap(),
    }
}

#[tokio::test]
async fn c5_a_damaged_newest_file_loses_nothing_that_is_in_the_journal() {
    for index in 0..7 {
        let (dir, current, _previous) = committed().await;
        let (what, damage) = damages(&fs::read_to_string(&current).unwrap()).swap_remove(index);
        put(&current, damage.as_deref());

        let store = FileOffsets::new(dir.path().join("offsets"));
        assert_eq!(cursor_of(&store).await, Cursor::number(3), "{what}");
        assert_eq!(store.list().await.unwrap(), [key("k")], "{what}");
        let lease = store.acquire(&key("k"), "next", TTL).await.unwrap();
        assert!(lease.epoch >= 2, "{what}");
        store.commit(&lease, &moved("es", "p", Cursor::number(4))).await.unwrap();
        assert_eq!(cursor_of(&store).await, Cursor::number(4), "{what}");
    }
}

/// The lease whose taking was the damaged generation is older than the next.
#[tokio::test]
async fn c3_epochs_grow_over_a_damaged_file() {
    let (dir, current, _previous) = committed().await;
    let store = FileOffsets::new(dir.path().join("offsets"));
    let lost = store.acquire(&key("k"), "lost", TTL).await.unwrap();
    store.release(&lost).await.unwrap();
    fs::write(&current, "").unwrap();
    let next = store.acquire(&key("k"), "next", TTL).await.unwrap();
    assert!(next.epoch > lost.epoch, "{} after {}", next.epoch, lost.epoch);
    assert_eq!(cursor_of(&store).await, Cursor::number(3));
}

#[tokio::test]
async fn c5_two_damaged_files_are_an_error_that_says_what_to_do() {
    for index in 0..7 {
        let (dir, current, previous) = committed().await;
        let (what, damage) = damages(&fs::read_to_string(&current).unwrap()).swap_remove(index);
        put(&current, damage.as_deref());
        fs::write(&previous, "{").unwrap();
        let store = FileOffsets::new(dir.path().join("offsets"));
        let load = store.load(&key("k")).await.unwrap_err();
        let acquire = store.acquire(&key("k"), "me", TTL).await.unwrap_err();
        for error in [load, acquire] {
            assert_eq!(error.kind(), ErrorKind::State, "{what}: {error}");
            let text = error.to_string();
            assert!(text.contains("k.offsets.json") && text.contains("k.offsets.previous.json"), "{what}: {text}");
            assert!(text.contains("backup"), "{what}: {text}");
        }
    }
}

/// A write cut off before its last rename leaves a half-written new file, which counts for nothing.
#[tokio::test]
async fn c1_a_commit_cut_off_while_writing_changes_nothing() {
    for half in ["", "{\"version\": 2, \"key\""] {
        let (dir, current, _previous) = committed().await;
        fs::write(current.with_file_name("k.offsets.new.json"), half).unwrap();
        let store = FileOffsets::new(dir.path().join("offsets"));
        assert_eq!(cursor_of(&store).await, Cursor::number(3));
        assert_eq!(store.list().await.unwrap(), [key("k")]);
        let lease = store.acquire(&key("k"), "next", TTL).await.unwrap();
        store.commit(&lease, &moved("es", "p", Cursor::number(4))).await.unwrap();
        assert_eq!(cursor_of(&store).await, Cursor::number(4));
        fs::write(&current, "").unwrap();
        assert_eq!(cursor_of(&store).await, Cursor::number(4));
    }
}

/// A write cut off after the newest file got its second name, before or after that took the previous one's place.
#[tokio::test]
async fn c1_a_commit_cut_off_between_its_renames_changes_nothing() {
    for links in [
        &["k.offsets.link.json"][..],
        &["k.offsets.previous.json"],
        &["k.offsets.link.json", "k.offsets.previous.json"],
    ] {
        let (dir, current, _previous) = committed().await;
        for link in links {
            let link = current.with_file_name(link);
            let _ = fs::remove_file(&link);
            fs::hard_link(&current, &link).unwrap();
        }
        let store = FileOffsets::new(dir.path().join("offsets"));
        assert_eq!(cursor_of(&store).await, Cursor::number(3), "{links:?}");
        let lease = store.acquire(&key("k"), "next", TTL).await.unwrap();
        store.commit(&lease, &moved("es", "p", Cursor::number(4))).await.unwrap();
        assert_eq!(cursor_of(&store).await, Cursor::number(4), "{links:?}");
        // What the newest held is still there once it is damaged: the names were of different files.
        fs::write(&current, "").unwrap();
        assert_eq!(cursor_of(&store).await, Cursor::number(4), "{links:?}");
    }
}

/// Falling back may repeat and never lose: the beginning of a lane stands in both files after its first commit.
#[tokio::test]
async fn c5_a_lane_keeps_its_beginning_over_a_damaged_file() {
    let (dir, store) = store();
    let lease = store.acquire(&key("k"), "me", TTL).await.unwrap();
    let mut first = moved("es", "p", Cursor::number(1));
    first.lanes.get_mut("es").unwrap().since = Some(Timestamp::from_secs(60));
    store.commit(&lease, &first).await.unwrap();
    fs::write(dir.path().join("offsets/k.offsets.json"), "").unwrap();
    let lanes = store.load(&lease.key).await.unwrap().lanes;
    assert_eq!(lanes["es"].since, Some(Timestamp::from_secs(60)));
}

/// Falling back after a reset may not bring back what was forgotten: it would skip what is to be shipped again.
#[tokio::test]
async fn c5_a_reset_holds_over_a_damaged_file() {
    let (dir, current, _previous) = committed().await;
    let store = FileOffsets::new(dir.path().join("offsets"));
    store.reset(&key("k"), None).await.unwrap();
    fs::write(&current, "").unwrap();
    assert!(store.load(&key("k")).await.unwrap().lanes.is_empty());
}

#[tokio::test]
async fn c5_a_newer_form_and_another_keys_file_are_refused() {
    let (dir, current, _previous) = committed().await;
    let text = fs::read_to_string(&current).unwrap();
    let store = FileOffsets::new(dir.path().join("offsets"));
    fs::write(&current, text.replace("\"version\": 2", "\"version\": 3")).unwrap();
    let error = store.load(&key("k")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::State);
    assert!(error.to_string().contains("version 3") && error.to_string().contains("newer program"), "{error}");

    fs::write(current.with_file_name("other.offsets.json"), text).unwrap();
    let error = store.load(&key("other")).await.unwrap_err();
    assert!(error.to_string().contains("belongs to the key `k`"), "{error}");
}

#[tokio::test]
async fn c6_offsets_are_text_a_person_can_read_and_edit() {
    let (dir, current, _previous) = committed().await;
    let store = FileOffsets::new(dir.path().join("offsets"));
    let lease = store.acquire(&key("k"), "me", TTL).await.unwrap();
    store.release(&lease).await.unwrap();
    let text = fs::read_to_string(&current).unwrap();
    let checksum = text.lines().find(|line| line.contains("checksum")).unwrap();
    let expected = format!(
        "{{\n  \"version\": 2,\n  \"key\": \"k\",\n  \"epoch\": 2,\n{checksum}\n  \"lanes\": {{\n    \"es\": {{\n      \"fingerprint\": \"\",\n      \"cursors\": {{\n        \"p\": \"00000000000000000003\"\n      }}\n    }}\n  }}\n}}\n"
    );
    assert_eq!(text, expected);
    let edited = text.replace(&format!("{checksum}\n"), "").replace("00000000003", "00000000001");
    fs::write(&current, edited).unwrap();
    assert_eq!(cursor_of(&FileOffsets::new(dir.path().join("offsets"))).await, Cursor::number(1));
}

/// A dropped acquire may not keep the lock, and a dropped commit may not run into the one after it.
#[tokio::test]
async fn c7_calls_that_are_dropped_leave_nothing_behind() {
    let (_dir, store) = store();
    let name = key("k");
    for _ in 0..100 {
        if let Some(taken) = begun(store.acquire(&name, "dropped", TTL)).await {
            store.release(&taken.unwrap()).await.unwrap();
        }
        let lease = store.acquire(&key("k"), "me", TTL).await.unwrap();
        let older = moved("es", "p", Cursor::number(1));
        drop(begun(store.commit(&lease, &older)).await);
        store.commit(&lease, &moved("es", "p", Cursor::number(2))).await.unwrap();
        assert_eq!(cursor_of(&store).await, Cursor::number(2));
        store.release(&lease).await.unwrap();
    }
}

/// Polls a future once, so that its work has begun, and drops it, unless that was all it took.
async fn begun<F: Future + Unpin>(mut future: F) -> Option<F::Output> {
    std::future::poll_fn(|context| match std::pin::Pin::new(&mut future).poll(context) {
        std::task::Poll::Ready(output) => std::task::Poll::Ready(Some(output)),
        std::task::Poll::Pending => std::task::Poll::Ready(None),
    })
    .await
}

#[tokio::test]
async fn a_missing_parent_folder_is_named() {
    let (dir, _store) = store();
    let store = FileOffsets::new(dir.path().join("no/such"));
    let error = store.acquire(&key("k"), "me", TTL).await.unwrap_err();
    assert!(error.to_string().contains("no/such"), "{error}");
}
