//! What a run would do, ranges shipped again, a lane's pace.

#![allow(clippy::unwrap_used, reason = "a test says why it fails by its panic")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use logship::sources::memory::MemorySource;
use logship::state::memory::MemoryOffsets;
use logship::{
    Chunk, Clock, CpuWork, Error, ErrorKind, Exporter, Lane, Limits, LogShipper, LogShipperBuilder, OffsetKey,
    OffsetStore, Outcome, Timestamp, async_trait,
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
