//! The journal of the file store: what is loaded is what was committed, also where files were cut off, damaged or edited.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![cfg(feature = "file")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use logship_core::{Cursor, ErrorKind, LaneDelta, Lease, OffsetStore, Offsets, OffsetsDelta, Timestamp};
use logship_state::file::FileOffsets;
use logship_testkit::conformance::offset_store::{TTL, key, moved};
use tempfile::TempDir;

/// A folder, and the offsets of the key `k` in it.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Place(tempfile::tempdir().unwrap())
    }

    /// The store, as another process opens it.
    fn open(&self) -> FileOffsets {
        FileOffsets::new(self.0.path().join("offsets"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join("offsets").join(name)
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// The files there are, in order.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path().join("offsets")).unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    async fn load(&self) -> Offsets {
        self.open().load(&key("k")).await.unwrap()
    }
}

const CURRENT: &str = "k.offsets.json";
const JOURNAL: &str = "k.offsets.journal";
const PREVIOUS: &str = "k.offsets.previous.json";
const PREVIOUS_JOURNAL: &str = "k.offsets.previous.journal";

/// Where the lane `es` begins, with so many partitions.
fn begins(partitions: usize) -> OffsetsDelta {
    let cursors: BTreeMap<String, Cursor> = (0..partitions).map(|p| (format!("p{p}"), Cursor::number(0))).collect();
    let fingerprint = Some("rows; every severity".to_owned());
    let lane = LaneDelta { fingerprint, since: Some(Timestamp::from_secs(60)), cursors, ..LaneDelta::default() };
    OffsetsDelta { lanes: BTreeMap::from([("es".to_owned(), lane)]) }
}

async fn taken(store: &FileOffsets) -> Lease {
    store.acquire(&key("k"), "me", TTL).await.unwrap()
}

/// Commits that each move a partition of their own, the last of which are only in the journals: half of them in that of
/// the newest generation, as the lease was taken between them. Gives all commits, in order.
async fn crashed(place: &Place) -> Vec<OffsetsDelta> {
    let mut commits = vec![begins(8)];
    commits.extend((0..8).map(|p| moved("es", &format!("p{p}"), Cursor::new(p + 1, "k\"\\\n".into()))));
    for half in [&commits[..5], &commits[5..]] {
        let store = place.open();
        let lease = taken(&store).await;
        for delta in half {
            store.commit(&lease, delta).await.unwrap();
        }
    }
    assert_eq!(place.names(), ["k.lock", JOURNAL, CURRENT, PREVIOUS_JOURNAL, PREVIOUS].map(str::to_owned));
    commits
}

/// What these commits make, without the one of this number.
fn state(commits: &[OffsetsDelta], without: Option<usize>) -> Offsets {
    let mut offsets = Offsets::default();
    for (number, delta) in commits.iter().enumerate() {
        if Some(number) != without {
            offsets.apply(delta);
        }
    }
    offsets
}

/// Where each line of a journal lies, with the line breaks on both sides.
fn lines(journal: &[u8]) -> Vec<std::ops::Range<usize>> {
    let text = std::str::from_utf8(journal).unwrap();
    let mut from = 0;
    let of = |line: &str| {
        let range = from..from + line.len() + 2;
        from = range.end;
        range
    };
    text.trim_matches('\n').split("\n\n").map(of).collect()
}

#[tokio::test]
async fn c5_a_journal_that_is_cut_anywhere_has_every_line_before_the_cut() {
    let place = Place::new();
    let commits = crashed(&place).await;
    let whole = fs::read(place.path(JOURNAL)).unwrap();
    let lines = lines(&whole);
    assert_eq!(lines.len(), 4);
    for cut in 0..=whole.len() {
        fs::write(place.path(JOURNAL), &whole[..cut]).unwrap();
        // A line is whole without the line break behind it.
        let kept = lines.iter().filter(|line| line.end - 1 <= cut).count();
        assert_eq!(place.load().await, state(&commits[..5 + kept], None), "cut at {cut}");
    }
}

#[tokio::test]
async fn c5_a_damaged_byte_of_a_journal_costs_its_line_alone() {
    let place = Place::new();
    let commits = crashed(&place).await;
    let whole = fs::read(place.path(JOURNAL)).unwrap();
    for (number, line) in lines(&whole).into_iter().enumerate() {
        let (all, without) = (state(&commits, None), state(&commits, Some(5 + number)));
        for at in line.clone() {
            for flip in [0x01, 0x10, 0x80, whole[at], whole[at] ^ b'\n', whole[at] ^ b' '] {
                let mut damaged = whole.clone();
                damaged[at] ^= flip;
                fs::write(place.path(JOURNAL), &damaged).unwrap();
                let loaded = place.load().await;
                let is_break = at == line.start || at == line.end - 1;
                let is_kept = damaged == whole || is_break;
                assert!(loaded == without || (is_kept && loaded == all), "byte {at} as {}: {loaded}", damaged[at]);
            }
        }
    }
}

/// The newest file is the only one that is damaged, so the one before it and the journals have all.
#[tokio::test]
async fn c5_a_newest_file_damaged_anywhere_loses_nothing() {
    let place = Place::new();
    let commits = crashed(&place).await;
    let all = state(&commits, None);
    let whole = fs::read(place.path(CURRENT)).unwrap();
    for at in 0..whole.len() {
        let mut damages = vec![whole[..at].to_vec()];
        for flip in [0x01, 0x10, 0x80, whole[at]] {
            let mut damaged = whole.clone();
            damaged[at] ^= flip;
            damages.push(damaged);
        }
        for damaged in damages {
            fs::write(place.path(CURRENT), &damaged).unwrap();
            match place.open().load(&key("k")).await {
                Ok(loaded) => assert_eq!(loaded, all, "at {at}"),
                // A damaged version or key may be that of another program or key, which is said.
                Err(error) => assert_eq!(error.kind(), ErrorKind::State, "at {at}: {error}"),
            }
        }
    }
}

/// Both are damaged: the newest file, and a byte of one of the journals that lead there from the one before.
#[tokio::test]
async fn c5_a_damaged_journal_beside_a_damaged_newest_file_costs_its_line_alone() {
    let place = Place::new();
    let commits = crashed(&place).await;
    fs::write(place.path(CURRENT), "{").unwrap();
    for (journal, first) in [(PREVIOUS_JOURNAL, 1), (JOURNAL, 5)] {
        let whole = fs::read(place.path(journal)).unwrap();
        for (number, line) in lines(&whole).into_iter().enumerate() {
            let without = state(&commits, Some(first + number));
            for at in line.start + 1..line.end - 1 {
                let mut damaged = whole.clone();
                damaged[at] ^= 0x04;
                fs::write(place.path(journal), &damaged).unwrap();
                assert_eq!(place.load().await, without, "byte {at} of {journal}");
            }
        }
        fs::write(place.path(journal), &whole).unwrap();
    }
}

/// Where a lane begins is in both files, so that no damaged line takes it away; nor a lane that a reset has forgotten back.
#[tokio::test]
async fn c5_where_a_lane_begins_and_what_was_reset_is_in_no_journal() {
    let place = Place::new();
    let commits = crashed(&place).await;
    let store = place.open();
    let lease = taken(&store).await;
    let mut second = begins(1);
    second.lanes = BTreeMap::from([("file".to_owned(), second.lanes.remove("es").unwrap())]);
    store.commit(&lease, &second).await.unwrap();
    let mut expected = state(&commits, None);
    expected.apply(&second);
    assert_eq!(place.names(), ["k.lock", CURRENT, PREVIOUS].map(str::to_owned));
    fs::write(place.path(CURRENT), "").unwrap();
    assert_eq!(place.load().await, expected);

    store.commit(&lease, &moved("es", "p0", Cursor::number(99))).await.unwrap();
    drop(store);
    place.open().reset(&key("k"), Some("es")).await.unwrap();
    expected.lanes.remove("es");
    assert_eq!(place.load().await, expected);
    fs::write(place.path(CURRENT), "").unwrap();
    assert_eq!(place.load().await, expected);
}

#[tokio::test]
async fn a_commit_writes_no_more_for_partitions_that_did_not_move() {
    for partitions in [1, 10_000] {
        let place = Place::new();
        let store = place.open();
        let lease = taken(&store).await;
        store.commit(&lease, &begins(partitions)).await.unwrap();
        let before = [CURRENT, PREVIOUS].map(|name| fs::metadata(place.path(name)).unwrap().modified().unwrap());
        for number in 1..=10 {
            store.commit(&lease, &moved("es", "p0", Cursor::number(number))).await.unwrap();
        }
        let after = [CURRENT, PREVIOUS].map(|name| fs::metadata(place.path(name)).unwrap().modified().unwrap());
        assert_eq!(before, after, "neither generation was written");
        let len = fs::metadata(place.path(JOURNAL)).unwrap().len();
        assert!(len < 10 * 256, "ten commits took {len} bytes");
        assert_eq!(place.load().await.lanes["es"].cursors["p0"], Cursor::number(10));
    }
}

#[tokio::test]
async fn a_journal_is_folded_once_it_outgrows_its_generation() {
    let place = Place::new();
    let store = place.open();
    let lease = taken(&store).await;
    store.commit(&lease, &begins(2)).await.unwrap();
    let long = "x".repeat(10_000);
    let (mut folded, mut expected) = (0, state(&[begins(2)], None));
    for number in 1..=30 {
        let delta = moved("es", "p0", Cursor::new(number, long.as_str().into()));
        let before = place.text(CURRENT);
        store.commit(&lease, &delta).await.unwrap();
        expected.apply(&delta);
        folded += usize::from(place.text(CURRENT) != before);
        let len = fs::metadata(place.path(JOURNAL)).unwrap().len();
        assert!(len < 64 * 1024 + 11_000, "the journal is {len} bytes long");
        assert_eq!(place.load().await, expected);
        // Whichever file is damaged, nothing is lost.
        let current = place.text(CURRENT);
        fs::remove_file(place.path(CURRENT)).unwrap();
        assert_eq!(place.load().await, expected, "at {number}");
        fs::write(place.path(CURRENT), current).unwrap();
    }
    assert!(folded > 1, "it was folded {folded} times");
}

#[tokio::test]
async fn a_lease_that_is_given_back_leaves_one_readable_file_and_no_journal() {
    let place = Place::new();
    let commits = crashed(&place).await;
    let store = place.open();
    let lease = taken(&store).await;
    store.commit(&lease, &moved("es", "p0", Cursor::number(77))).await.unwrap();
    store.release(&lease).await.unwrap();
    let mut expected = state(&commits, None);
    expected.apply(&moved("es", "p0", Cursor::number(77)));
    assert_eq!(place.names(), ["k.lock", CURRENT, PREVIOUS].map(str::to_owned));
    for name in [CURRENT, PREVIOUS] {
        assert!(place.text(name).contains("\"p0\": \"00000000000000000077\""), "{name}");
    }
    assert_eq!(place.load().await, expected);
}

/// Takes the line `checksum` out, as a person is told to, and puts `p1` back to the beginning.
fn edit(path: &Path) {
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().filter(|line| !line.contains("\"checksum\""));
    let edited: Vec<&str> = lines.map(|line| if line.contains("\"p1\":") { "\"p1\": \"0\"," } else { line }).collect();
    fs::write(path, edited.join("\n")).unwrap();
}

#[tokio::test]
async fn c6_what_a_person_edits_wins_over_the_journals() {
    let place = Place::new();
    crashed(&place).await;
    edit(&place.path(CURRENT));
    let mut edited = place.load().await;
    assert_eq!(edited.lanes["es"].cursors["p1"], Cursor::number(0));
    assert_eq!(edited.lanes["es"].cursors["p7"], Cursor::number(0), "the journal does not count any more");
    let store = place.open();
    let lease = taken(&store).await;
    assert_eq!(place.load().await, edited);
    let delta = moved("es", "p3", Cursor::number(33));
    store.commit(&lease, &delta).await.unwrap();
    edited.apply(&delta);
    fs::write(place.path(CURRENT), "").unwrap();
    assert_eq!(place.load().await, edited, "what was edited away does not come back");

    // Also while somebody has the lease.
    for number in 1..=3 {
        store.commit(&lease, &moved("es", "p1", Cursor::number(number))).await.unwrap();
        edit(&place.path(CURRENT));
        store.commit(&lease, &moved("es", "p2", Cursor::number(number))).await.unwrap();
        let lane = place.load().await.lanes.remove("es").unwrap();
        assert_eq!((&lane.cursors["p1"], &lane.cursors["p2"]), (&Cursor::number(0), &Cursor::number(number)));
    }
}

/// A generation that is put back from a backup does not get the commits of another one.
#[tokio::test]
async fn c6_a_file_from_a_backup_counts_as_it_stands() {
    let place = Place::new();
    let store = place.open();
    let lease = taken(&store).await;
    store.commit(&lease, &begins(8)).await.unwrap();
    store.release(&lease).await.unwrap();
    let (backup, then) = (place.text(CURRENT), place.load().await);
    crashed(&place).await;
    fs::write(place.path(CURRENT), backup).unwrap();
    assert_eq!(place.load().await, then);
}

#[tokio::test]
async fn c2_a_holder_whose_lock_was_deleted_adds_nothing_to_a_journal() {
    let place = Place::new();
    let old = place.open();
    let lease = taken(&old).await;
    old.commit(&lease, &begins(2)).await.unwrap();
    old.commit(&lease, &moved("es", "p0", Cursor::number(1))).await.unwrap();
    fs::remove_file(place.path("k.lock")).unwrap();
    let new = place.open();
    let newer = taken(&new).await;
    for _ in 0..2 {
        let error = old.commit(&lease, &moved("es", "p0", Cursor::number(9))).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
        assert_eq!(old.renew(&lease, TTL).await.unwrap_err().kind(), ErrorKind::Fenced);
        assert_eq!(place.load().await.lanes["es"].cursors["p0"], Cursor::number(1));
    }
    old.release(&lease).await.unwrap();
    new.commit(&newer, &moved("es", "p0", Cursor::number(2))).await.unwrap();
    assert_eq!(place.load().await.lanes["es"].cursors["p0"], Cursor::number(2));
}

/// Whoever loads without the lease sees what was durable when it began, and never anything older.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c5_who_loads_beside_commits_and_folds_never_goes_back() {
    let place = Place::new();
    let store = place.open();
    let lease = taken(&store).await;
    store.commit(&lease, &begins(1)).await.unwrap();
    let (durable, seen) = tokio::sync::watch::channel(0);
    let other = place.open();
    let loads = tokio::spawn(async move {
        let mut loads = 0;
        while seen.has_changed().is_ok() {
            let before = *seen.borrow();
            let cursor = other.load(&key("k")).await.unwrap().lanes["es"].cursors["p0"].as_number();
            assert!(cursor >= before, "{cursor} was loaded after {before} was durable");
            loads += 1;
        }
        loads
    });
    let long = "x".repeat(20_000);
    for number in 1..=200 {
        store.commit(&lease, &moved("es", "p0", Cursor::new(number, long.as_str().into()))).await.unwrap();
        durable.send_replace(number);
    }
    drop(durable);
    assert!(loads.await.unwrap() > 10);
}

/// What others do to the files while the lease is held costs what they did, and the commits after it are whole.
#[tokio::test]
async fn c1_commits_go_on_over_a_journal_that_was_cut_damaged_or_taken_away() {
    for (damage, p1) in [("a torn line", 1), ("a damaged line", 0), ("no journal", 0)] {
        let place = Place::new();
        let store = place.open();
        let lease = taken(&store).await;
        store.commit(&lease, &begins(3)).await.unwrap();
        store.commit(&lease, &moved("es", "p1", Cursor::number(1))).await.unwrap();
        let text = place.text(JOURNAL);
        match damage {
            "a torn line" => fs::write(place.path(JOURNAL), format!("{text}{}", &text[..text.len() / 2])).unwrap(),
            "a damaged line" => fs::write(place.path(JOURNAL), format!("{text}\n").replace("p1", "p2")).unwrap(),
            _ => fs::remove_file(place.path(JOURNAL)).unwrap(),
        }
        store.renew(&lease, TTL).await.unwrap();
        for number in 1..=2 {
            store.commit(&lease, &moved("es", "p0", Cursor::number(number))).await.unwrap();
        }
        let lane = place.load().await.lanes.remove("es").unwrap();
        let expected = [("p0", 2), ("p1", p1), ("p2", 0)].map(|(p, number)| (p.to_owned(), Cursor::number(number)));
        assert_eq!(lane.cursors, BTreeMap::from(expected), "{damage}");
        assert_eq!(lane.since, Some(Timestamp::from_secs(60)), "{damage}");
    }
}

/// A holder that falls back writes under its own epoch, or the next lease would have the same one.
#[tokio::test]
async fn c3_epochs_grow_over_a_file_that_was_damaged_under_the_lease() {
    let place = Place::new();
    crashed(&place).await;
    let store = place.open();
    let lease = taken(&store).await;
    fs::write(place.path(CURRENT), "").unwrap();
    store.commit(&lease, &moved("file", "p0", Cursor::number(9))).await.unwrap();
    drop(store);
    let next = taken(&place.open()).await;
    assert!(next.epoch > lease.epoch, "{} after {}", next.epoch, lease.epoch);
}
