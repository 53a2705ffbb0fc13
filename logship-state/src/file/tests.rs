//! A generation that is cut off behind each step on the way to its place.

use logship_core::{Cursor, LaneDelta};

use super::files::{New, STEPS, new};
use super::generation::Generation;
use super::*;

const TTL: Duration = Duration::from_secs(600);

fn key() -> OffsetKey {
    OffsetKey::new("k").unwrap()
}

fn moved(lane: &str, partition: &str, number: i64) -> OffsetsDelta {
    let cursors = BTreeMap::from([(partition.to_owned(), Cursor::number(number))]);
    OffsetsDelta { lanes: BTreeMap::from([(lane.to_owned(), LaneDelta { cursors, ..LaneDelta::default() })]) }
}

/// What was acknowledged, and the folder: two generations, each with a journal.
async fn acknowledged() -> (tempfile::TempDir, Offsets) {
    let dir = tempfile::tempdir().unwrap();
    let mut offsets = Offsets::default();
    for (lane, partition) in [("es", "a"), ("es", "b"), ("es", "c")] {
        let store = FileOffsets::new(dir.path());
        let lease = store.acquire(&key(), "me", TTL).await.unwrap();
        for number in 1..=2 {
            let delta = moved(lane, partition, number);
            store.commit(&lease, &delta).await.unwrap();
            offsets.apply(&delta);
        }
    }
    (dir, offsets)
}

fn files(dir: &tempfile::TempDir) -> Files {
    Files::new(&Arc::from(dir.path()), &key())
}

/// Makes this the newest generation as [`Files::write`] does, and ends as a process does that is killed behind so many
/// steps. Gives the number of those that are left.
fn cut(files: &Files, generation: &mut Generation, steps: usize) -> usize {
    let (mut new, _): (New, _) = new(generation).unwrap();
    for step in STEPS.iter().take(steps) {
        step(files, &mut new).unwrap();
    }
    generation.is_current |= steps >= STEPS.len();
    steps.saturating_sub(STEPS.len())
}

async fn load(dir: &tempfile::TempDir) -> Offsets {
    FileOffsets::new(dir.path()).load(&key()).await.unwrap()
}

/// The newest file is gone.
async fn load_without_newest(dir: &tempfile::TempDir) -> Offsets {
    let (file, aside) = (dir.path().join("k.offsets.json"), dir.path().join("aside"));
    fs::rename(&file, &aside).unwrap();
    let loaded = load(dir).await;
    fs::rename(aside, file).unwrap();
    loaded
}

/// The next lease and a commit under it.
async fn go_on(dir: &tempfile::TempDir, offsets: &mut Offsets) {
    let store = FileOffsets::new(dir.path());
    let lease = store.acquire(&key(), "next", TTL).await.unwrap();
    let delta = moved("es", "d", 1);
    store.commit(&lease, &delta).await.unwrap();
    offsets.apply(&delta);
    assert_eq!(load(dir).await, *offsets);
    assert_eq!(load_without_newest(dir).await, *offsets);
}

/// A journal is folded, that is cut off, the next process folds it, and is cut off, too: whatever is left then has all
/// that was acknowledged, also without its newest file.
#[tokio::test]
async fn c1_a_fold_cut_off_behind_any_step_loses_nothing() {
    for first in 0..=STEPS.len() {
        for second in 0..=STEPS.len() {
            let (dir, mut offsets) = acknowledged().await;
            for steps in [first, second] {
                let mut generation = files(&dir).read().unwrap();
                generation.raise_epoch();
                cut(&files(&dir), &mut generation, steps);
                assert_eq!(load(&dir).await, offsets, "cut at {first}, then at {second}");
                assert_eq!(load_without_newest(&dir).await, offsets, "cut at {first}, then at {second}");
            }
            go_on(&dir, &mut offsets).await;
        }
    }
}

/// What is written to both files is there as a whole or not at all, and stays once it was acknowledged.
#[tokio::test]
async fn c1_a_beginning_of_a_lane_cut_off_behind_any_step_is_whole_or_not_there() {
    for steps in 0..=2 * STEPS.len() {
        let (dir, before) = acknowledged().await;
        let mut after = before.clone();
        let mut generation = files(&dir).read().unwrap();
        generation.content.apply(&moved("file", "a", 1));
        after.apply(&moved("file", "a", 1));
        let left = cut(&files(&dir), &mut generation, steps);
        if steps > STEPS.len() {
            cut(&files(&dir), &mut generation, left);
        }
        // The fourth step of each half gives the file its place.
        let mut loaded = load(&dir).await;
        assert_eq!(loaded, if steps < 4 { before.clone() } else { after.clone() }, "cut at {steps}");
        let fallen_back = load_without_newest(&dir).await;
        assert_eq!(fallen_back, if steps < 5 + 3 { before } else { after }, "cut at {steps}");
        go_on(&dir, &mut loaded).await;
    }
}

/// Over a damaged newest file, too, which must not take the place of the one that is read instead.
#[tokio::test]
async fn c1_a_generation_over_a_damaged_one_cut_off_behind_any_step_loses_nothing() {
    for steps in 0..=2 * STEPS.len() {
        let (dir, mut offsets) = acknowledged().await;
        fs::write(dir.path().join("k.offsets.json"), "{").unwrap();
        let mut generation = files(&dir).read().unwrap();
        assert!(generation.in_both);
        generation.raise_epoch();
        let left = cut(&files(&dir), &mut generation, steps);
        if steps > STEPS.len() {
            cut(&files(&dir), &mut generation, left);
        }
        assert_eq!(load(&dir).await, offsets, "cut at {steps}");
        assert_eq!(load_without_newest(&dir).await, offsets, "cut at {steps}");
        go_on(&dir, &mut offsets).await;
    }
}

/// While a person's edit takes its place, no journal comes back that was for what stood there before.
#[tokio::test]
async fn c6_an_edit_cut_off_behind_any_step_stays() {
    for steps in 0..=2 * STEPS.len() {
        let (dir, _) = acknowledged().await;
        let path = dir.path().join("k.offsets.json");
        let text = fs::read_to_string(&path).unwrap();
        let edited: Vec<&str> = text.lines().filter(|line| !line.contains("\"checksum\"")).collect();
        fs::write(&path, edited.join("\n")).unwrap();
        let edited = load(&dir).await;
        // Without a larger epoch, it is the very generation that the journal follows.
        let mut generation = files(&dir).read().unwrap();
        files(&dir).forget_journals(&generation).unwrap();
        let left = cut(&files(&dir), &mut generation, steps);
        if steps > STEPS.len() {
            cut(&files(&dir), &mut generation, left);
        }
        assert_eq!(load(&dir).await, edited, "cut at {steps}");
    }
}

#[test]
fn the_first_form_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let text = r#"{"version":1,"key":"k","epoch":3,"checksum":"c0e5603087795087","lanes":{}}"#;
    fs::write(dir.path().join("k.offsets.json"), text).unwrap();
    let generation = files(&dir).read().unwrap();
    assert_eq!((generation.content.epoch, generation.is_current, generation.in_both), (3, true, false));
}
