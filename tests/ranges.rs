//! What a run would do; ranges and dead letters shipped again; a lane's pace.

#![allow(clippy::unwrap_used, reason = "a test says why it fails by its panic")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use logship::sources::jsonl::{JsonlConfig, JsonlFields, JsonlSource};
use logship::sources::memory::MemorySource;
use logship::state::memory::MemoryOffsets;
use logship::{
    Capabilities, Chunk, Clock, CpuWork, DeadLetter, Error, ErrorKind, Exporter, Idempotency, Lane, Limits, LogShipper,
    LogShipperBuilder, OffsetKey, OffsetStore, Outcome, RecordId, Timestamp, async_trait,
};

/// Keeps the bodies of what it is given, and fails as often as it is told to.
#[derive(Clone, Debug, Default)]
struct Kept {
    bodies: Arc<Mutex<Vec<String>>>,
    failures: Arc<Mutex<u32>>,
}

impl Kept {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.bodies.lock().unwrap())
    }
}

#[async_trait]
impl Exporter for Kept {
    fn kind(&self) -> &'static str {
        "kept"
    }
    fn limits(&self) -> Limits {
        Limits::none().record_bytes_max(2_000)
    }
    async fn export(&self, chunk: &Chunk) -> Result<Outcome, Error> {
        let mut failures = self.failures.lock().unwrap();
        if *failures > 0 {
            *failures -= 1;
            return Err(Error::new(ErrorKind::NotFound, "keep", "told to fail"));
        }
        let bodies = chunk.records().filter_map(|record| record.body.as_str()).map(str::to_owned);
        self.bodies.lock().unwrap().extend(bodies);
        Ok(Outcome::all_accepted(chunk.len()))
    }
}

/// A wall clock that stands.
#[derive(Debug)]
struct At(Timestamp);

impl Clock for At {
    fn now(&self) -> Timestamp {
        self.0
    }
}

const NOON: Timestamp = Timestamp::from_secs(1_795_000_000);

/// Ten records, one a minute, the last of them at noon.
fn ten(kept: &Kept, store: &MemoryOffsets) -> LogShipperBuilder {
    let source = MemorySource::new();
    for minute in 0..10u64 {
        let time = NOON.saturating_sub(Duration::from_secs(60 * (9 - minute)));
        source.push("logs", time, |record| record.body = minute.to_string().into());
    }
    LogShipper::builder(source)
        .offsets(store.clone())
        .clock(Arc::new(At(NOON)))
        .cpu_work(CpuWork::Inline)
        .lane(Lane::new("kept", kept.clone()).chunk(4))
}

#[tokio::test]
async fn x9_a_plan_says_what_a_run_would_do_and_does_nothing() {
    let (kept, store) = (Kept::default(), MemoryOffsets::new());
    let shipper = ten(&kept, &store).build().unwrap();
    let plan = shipper.plan().await.unwrap();
    let lane = plan.lane("kept").unwrap();
    assert_eq!((lane.read, lane.accepted, lane.chunks), (10, 10, 3));
    assert!(kept.take().is_empty());
    let key = OffsetKey::new("LogShipper-state").unwrap();
    assert!(store.load(&key).await.unwrap().lanes.is_empty(), "no offset moved");
    // While somebody ships, a plan can be made all the same.
    let _held = store.acquire(&key, "somebody", Duration::from_secs(60)).await.unwrap();
    shipper.plan().await.unwrap().require_complete().unwrap();
}

#[tokio::test]
async fn a_plan_goes_on_from_the_offset() {
    let (kept, store) = (Kept::default(), MemoryOffsets::new());
    let shipper = ten(&kept, &store).build().unwrap();
    shipper.run_once().await.unwrap();
    assert_eq!(shipper.plan().await.unwrap().lane("kept").unwrap().read, 0);
}

#[tokio::test]
async fn x10_a_backfill_ships_a_closed_range_and_leaves_the_lanes_offset_alone() {
    let (kept, store) = (Kept::default(), MemoryOffsets::new());
    let shipper = ten(&kept, &store).build().unwrap();
    shipper.run_once().await.unwrap();
    let before = store.load(&OffsetKey::new("LogShipper-state").unwrap()).await.unwrap();
    kept.take();
    let minute = |minute: u64| NOON.saturating_sub(Duration::from_secs(60 * (9 - minute)));
    let report = shipper.backfill("kept", minute(2), minute(5)).await.unwrap().require_complete().unwrap();
    assert_eq!(kept.take(), ["2", "3", "4"]);
    assert_eq!(report.lanes[0].accepted, 3);
    assert_eq!(store.load(&OffsetKey::new("LogShipper-state").unwrap()).await.unwrap(), before);
    // What is complete ships nothing more.
    shipper.backfill("kept", minute(2), minute(5)).await.unwrap();
    assert!(kept.take().is_empty());
    let tomorrow = NOON.saturating_add(Duration::from_secs(86_400));
    for (lane, from, to) in
        [("kpt", minute(2), minute(5)), ("kept", minute(5), minute(5)), ("kept", minute(2), tomorrow)]
    {
        assert_eq!(shipper.backfill(lane, from, to).await.unwrap_err().kind(), ErrorKind::Config, "{lane} {from} {to}");
    }
}

/// Refuses what says "3" while it is told to, and knows what it has.
#[derive(Clone, Debug, Default)]
struct Knowing {
    has: Arc<Mutex<BTreeMap<RecordId, String>>>,
    refuses: Arc<AtomicBool>,
}

#[async_trait]
impl Exporter for Knowing {
    fn kind(&self) -> &'static str {
        "knowing"
    }
    fn capabilities(&self) -> Capabilities {
        Capabilities::none().idempotency(Idempotency::PerRecord)
    }
    async fn export(&self, chunk: &Chunk) -> Result<Outcome, Error> {
        let mut outcome = Outcome::builder(chunk.len());
        for (index, record) in chunk.records().enumerate() {
            let body = record.body.as_str().unwrap_or_default();
            if self.refuses.load(Ordering::Relaxed) && body == "3" {
                outcome.rejected(index, "400", "no threes");
                continue;
            }
            match self.has.lock().unwrap().insert(record.id.clone(), body.to_owned()) {
                None => outcome.accepted(index),
                Some(_) => outcome.already_there(index),
            }
        }
        Ok(outcome.build())
    }
}

#[tokio::test]
async fn x12_a_reconciliation_ships_what_is_missing_and_counts_it() {
    let (kept, knowing, store) = (Kept::default(), Knowing::default(), MemoryOffsets::new());
    let shipper = ten(&kept, &store).lane(Lane::new("knowing", knowing.clone())).build().unwrap();
    shipper.run_once().await.unwrap().require_complete().unwrap();
    let lost: Vec<RecordId> = knowing.has.lock().unwrap().keys().step_by(4).cloned().collect();
    lost.iter().for_each(|id| drop(knowing.has.lock().unwrap().remove(id)));
    let (from, to) = (NOON.saturating_sub(Duration::from_secs(3_600)), NOON);
    for missing in [3, 0] {
        let report = shipper.reconcile("knowing", from, to).await.unwrap().require_complete().unwrap();
        // The last of the ten is not before noon.
        assert_eq!((report.lanes[0].accepted, report.lanes[0].accepted - report.lanes[0].already_there), (9, missing));
    }
    assert_eq!(knowing.has.lock().unwrap().len(), 10);
    let error = shipper.reconcile("kept", from, to).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
}

#[tokio::test]
async fn p10_dead_letters_are_shipped_again_once_the_cause_is_gone() {
    let (kept, letters, knowing, store) = (Kept::default(), Kept::default(), Knowing::default(), MemoryOffsets::new());
    knowing.refuses.store(true, Ordering::Relaxed);
    let lane = Lane::new("knowing", knowing.clone()).dead_letter(letters.clone());
    let shipper = ten(&kept, &store).lane(lane).build().unwrap();
    shipper.run_once().await.unwrap().require_complete().unwrap();
    let letters = DeadLetter::read_lines(letters.take().join("\n").as_bytes()).unwrap();
    assert_eq!((letters.len(), letters[0].reason.as_str(), knowing.has.lock().unwrap().len()), (1, "no threes", 9));
    let before = shipper.offsets().await.unwrap();

    knowing.refuses.store(false, Ordering::Relaxed);
    for accepted in [1, 0] {
        let report = shipper.replay("knowing", letters.clone()).await.unwrap().require_complete().unwrap();
        assert_eq!((report.lanes.len(), report.lanes[0].accepted), (1, accepted));
    }
    assert_eq!(shipper.offsets().await.unwrap(), before, "the lane's own offset stays");
    let has = knowing.has.lock().unwrap();
    assert_eq!((has.len(), has[&letters[0].record.id].as_str()), (10, "3"));
}

#[tokio::test]
async fn an_offset_can_be_shown_and_reset() {
    let (kept, store) = (Kept::default(), MemoryOffsets::new());
    let shipper = ten(&kept, &store).build().unwrap();
    shipper.run_once().await.unwrap();
    let shown = shipper.offsets().await.unwrap().to_string();
    assert!(shown.contains("kept: since ") && shown.contains("logs: 00000000000000000010"), "{shown}");
    assert_eq!(store.list().await.unwrap(), [OffsetKey::new("LogShipper-state").unwrap()]);
    assert_eq!(shipper.reset_offsets(Some("kpt")).await.unwrap_err().kind(), ErrorKind::Config);
    shipper.reset_offsets(Some("kept")).await.unwrap();
    kept.take();
    shipper.run_once().await.unwrap();
    assert_eq!(kept.take().len(), 10, "shipped again");
    shipper.reset_offsets(None).await.unwrap();
    assert_eq!(shipper.offsets().await.unwrap().lanes.len(), 0);
}

#[tokio::test]
async fn p7_what_every_lane_has_is_deleted_and_nothing_else() {
    let (kept, slow, store) = (Kept::default(), Kept::default(), MemoryOffsets::new());
    let source = MemorySource::new();
    let push = |body: &str| drop(source.push("logs", NOON, |record| record.body = body.into()));
    ["a", "b", "c"].into_iter().for_each(push);
    let shipper = |delete: bool| {
        let builder = LogShipper::builder(source.clone()).offsets(store.clone()).clock(Arc::new(At(NOON)));
        let builder = builder.lane(Lane::new("kept", kept.clone())).lane(Lane::new("slow", slow.clone()));
        builder.cpu_work(CpuWork::Inline).delete_shipped(delete).build().unwrap()
    };
    // Shipped before deletion is switched on: nobody knows by identity what was.
    shipper(false).run_once().await.unwrap();
    ["d", "e"].into_iter().for_each(push);
    *slow.failures.lock().unwrap() = 1;
    let report = shipper(true).run_once().await.unwrap();
    assert_eq!((report.deletion.as_ref().unwrap().deleted, source.len()), (0, 5), "one lane has not got them");
    push("f");
    let plan = shipper(true).plan().await.unwrap();
    assert!(plan.deletion.is_none() && source.len() == 5 + 1, "a plan deletes nothing");
    let report = shipper(true).run_once().await.unwrap().require_complete().unwrap();
    assert_eq!((report.deletion.unwrap().deleted, source.len()), (3, 3));
    assert_eq!(kept.take(), ["a", "b", "c", "d", "e", "f"]);
    assert_eq!(slow.take(), ["a", "b", "c", "d", "e", "f"]);
}

#[tokio::test]
async fn p7_a_source_that_cannot_delete_is_found_out_before_anything_is_shipped() {
    let (kept, dir) = (Kept::default(), tempfile::tempdir().unwrap());
    std::fs::write(dir.path().join("a.jsonl"), "{\"message\":\"a\"}\n").unwrap();
    let config = JsonlConfig { paths: vec![dir.path().join("a.jsonl")], fields: JsonlFields::default() };
    let source = JsonlSource::new(config).unwrap();
    let builder = LogShipper::builder(source).offsets(MemoryOffsets::new()).lane(Lane::new("kept", kept.clone()));
    let error = builder.delete_shipped(true).build().unwrap().run_once().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(kept.take().is_empty());
}

#[tokio::test]
async fn x10_a_backfill_that_was_stopped_goes_on_where_it_was() {
    let (kept, store) = (Kept::default(), MemoryOffsets::new());
    let shipper = ten(&kept, &store).build().unwrap();
    let from = NOON.saturating_sub(Duration::from_secs(3_600));
    *kept.failures.lock().unwrap() = 1;
    assert!(shipper.backfill("kept", from, NOON).await.unwrap().require_complete().is_err());
    assert!(kept.take().is_empty());
    shipper.backfill("kept", from, NOON).await.unwrap().require_complete().unwrap();
    assert_eq!(kept.take().len(), 9, "the record of noon itself is not in the range");
}

#[tokio::test(start_paused = true)]
async fn a_lane_keeps_to_its_pace() {
    let (kept, store) = (Kept::default(), MemoryOffsets::new());
    let lane = Lane::new("slow", kept.clone()).chunk(2).records_per_second_max(1);
    let shipper = ten(&kept, &store).lane(lane).build().unwrap();
    let began = tokio::time::Instant::now();
    let report = shipper.run_once().await.unwrap();
    // Five chunks of two: the fifth goes after eight seconds.
    assert_eq!(began.elapsed().as_secs(), 8);
    assert!(report.lane("kept").unwrap().elapsed < Duration::from_secs(1), "the other lane does not notice");
}

/// Goal: a destination for which everything is refused stops its lane. Method: a giant behind a giant.
#[tokio::test]
async fn p10_a_lane_for_which_everything_is_refused_stops() {
    let source = MemorySource::new();
    for _ in 0..30 {
        source.push("logs", NOON, |record| record.body = "x".repeat(3_000).into());
    }
    let (kept, dead) = (Kept::default(), Kept::default());
    let mut lane = Lane::new("kept", kept.clone()).dead_letter(Dead(dead.clone()));
    let mut options = logship::LaneOptions::default();
    options.rejected_in_a_row_max = 10;
    options.on_reject = logship::OnReject::DeadLetter;
    options.chunk = Some(5);
    lane = lane.options(options);
    let shipper =
        LogShipper::builder(source).offsets(MemoryOffsets::new()).clock(Arc::new(At(NOON))).lane(lane).build().unwrap();
    let report = shipper.run_once().await.unwrap();
    let lane = report.lane("kept").unwrap();
    assert_eq!((lane.rejected, lane.dead_lettered, lane.left), (10, 10, 20));
    assert!(report.require_complete().unwrap_err().to_string().contains("rejected_in_a_row: 10"));
    assert_eq!(dead.take().len(), 10);
    assert!(kept.take().is_empty());
}

/// Takes records of any size.
#[derive(Debug)]
struct Dead(Kept);

#[async_trait]
impl Exporter for Dead {
    fn kind(&self) -> &'static str {
        "dead"
    }
    async fn export(&self, chunk: &Chunk) -> Result<Outcome, Error> {
        self.0.export(chunk).await
    }
}
