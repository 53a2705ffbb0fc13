//! P5: memory does not grow with the backlog, nor with a destination that hangs, nor with chunks that are asked to be
//! larger than the budget.
//!
//! `LOGSHIP_MEMORY_ROWS` makes it longer: 10 000 000 for the whole proof.

#![allow(clippy::unwrap_used, reason = "a test says why it fails by its panic")]

use std::sync::Arc;
use std::time::Duration;

use logship::exporters::encode::{Format, Rows};
use logship::state::memory::MemoryOffsets;
use logship::{
    Capabilities, Chunk, Compression, CpuWork, Cursor, Encoding, Error, Exporter, Idempotency, Lane, LogRecord,
    LogShipper, Outcome, Page, PageEnd, PageLimits, Partition, Query, RecordId, Source, Start, TextArena, Timestamp,
    async_trait,
};

const BUDGET: usize = 64 * 1024 * 1024;

/// A source of so many records of half a kilobyte, made as they are read.
#[derive(Debug)]
struct Made {
    rows: i64,
}

#[async_trait]
impl Source for Made {
    fn kind(&self) -> &'static str {
        "made"
    }
    fn fingerprint(&self) -> String {
        "made".to_owned()
    }
    async fn partitions(&self) -> Result<Vec<Partition>, Error> {
        Ok(vec![Partition::new("rows")])
    }
    async fn read(&self, rows: &Partition, start: &Start, _: &Query, limits: PageLimits) -> Result<Page, Error> {
        let from = if let Start::After(cursor) = start { cursor.as_number() } else { 0 };
        let (mut arena, mut records, mut bytes) = (TextArena::new(), Vec::new(), 0);
        for number in from + 1..=self.rows {
            let mut record =
                LogRecord::new(RecordId::new(rows.clone(), Cursor::number(number)), Timestamp::from_secs(number));
            record.body = arena.push(&format!("{number:0480}")).into();
            bytes += record.size();
            if records.len() == limits.records_max || bytes > limits.bytes_max {
                return Ok(Page::new(rows.clone(), records, PageEnd::More));
            }
            records.push(record);
        }
        Ok(Page::new(rows.clone(), records, PageEnd::CaughtUp))
    }
}

/// Takes everything after this time, or never answers.
#[derive(Debug)]
struct Destination(Option<Duration>);

#[async_trait]
impl Exporter for Destination {
    fn kind(&self) -> &'static str {
        "test"
    }
    fn capabilities(&self) -> Capabilities {
        Capabilities::none().idempotency(Idempotency::PerRecord)
    }
    async fn export(&self, chunk: &Chunk) -> Result<Outcome, Error> {
        match self.0 {
            Some(time) => tokio::time::sleep(time).await,
            None => std::future::pending().await,
        }
        Ok(Outcome::all_accepted(chunk.len()))
    }
}

/// The most memory this process has ever held.
fn peak_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0 kB");
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

/// Goal: P5. Method: a lane with chunks that would hold everything, one that is slow, one that hangs; the budget is kept,
/// and the process as a whole stays within what the issue of the budget is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p5_memory_stays_within_the_budget_whatever_the_backlog() {
    let rows: i64 = std::env::var("LOGSHIP_MEMORY_ROWS").map_or(300_000, |rows| rows.parse().unwrap());
    let shipper = LogShipper::builder(Made { rows })
        .offsets(MemoryOffsets::new())
        .lookback(None)
        .byte_budget(BUDGET)
        .deadline(Duration::from_secs(600))
        .grace(Duration::ZERO)
        .lane(Lane::new("large", Destination(Some(Duration::ZERO))).chunk(usize::MAX).chunk_bytes_max(usize::MAX))
        .lane(Lane::new("usual", Destination(Some(Duration::from_millis(1)))).chunk(5_000).concurrency(4))
        .lane(Lane::new("hung", Destination(None)).chunk(usize::MAX).chunk_bytes_max(usize::MAX))
        .build()
        .unwrap();
    let stop = logship::CancellationToken::new();
    let mut progress = shipper.progress();
    let run = shipper.run_once_until(stop.clone());
    let watch = async {
        use futures::StreamExt;
        let mut caught_up = 0;
        while caught_up < 2 {
            if let Some(logship::Progress::CaughtUp { .. }) = progress.next().await {
                caught_up += 1;
            }
        }
        // The lane that hangs would do so for ever.
        stop.cancel();
    };
    let (report, ()) = tokio::join!(run, watch);
    let report = report.unwrap();
    for lane in ["large", "usual"] {
        assert_eq!(report.lane(lane).unwrap().accepted, rows as u64, "{report}");
    }
    assert!(
        report.lane("large").unwrap().chunks > 1,
        "a chunk is cut short where the share would not hold it: {report}"
    );
    assert!(report.memory_peak <= BUDGET, "{report}");
    let peak = peak_bytes();
    assert!(peak < 150 * 1024 * 1024, "the process held {} MiB at its peak: {report}", peak / 1024 / 1024);
}

/// Never answers.
#[derive(Debug)]
struct Hangs;

#[async_trait]
impl Exporter for Hangs {
    fn kind(&self) -> &'static str {
        "hangs"
    }
    fn encoding(&self) -> Option<Arc<dyn Encoding>> {
        Some(Arc::new(Rows::new(Format::Json, Compression::None)))
    }
    async fn export(&self, _: &Chunk) -> Result<Outcome, Error> {
        std::future::pending().await
    }
}

/// Goal: however large the budget is, a lane holds what keeps it busy: a chunk that is sent, one that is packed, one that
/// is cut, and of these only the last in its encoded form. Method: a destination that never answers, so that the lane gets
/// as far ahead as it ever does.
#[tokio::test(start_paused = true)]
async fn p5_a_lane_gets_no_further_ahead_than_helps_it() {
    const CHUNK: usize = 5_000;
    let source = Made { rows: 100_000 };
    let limits = PageLimits { records_max: CHUNK, bytes_max: usize::MAX, until: None };
    let page = source.read(&Partition::new("rows"), &Start::Earliest, &Query::all(), limits).await.unwrap();
    let records = page.bytes();
    let chunk = Chunk::of_page(page, Hangs.encoding().as_deref()).unwrap();
    let body = chunk.body().unwrap().len();
    let shipper = LogShipper::builder(source)
        .offsets(MemoryOffsets::new())
        .lookback(None)
        .byte_budget(BUDGET)
        .cpu_work(CpuWork::Inline)
        .deadline(Duration::from_secs(10))
        .grace(Duration::ZERO)
        .lane(Lane::new("hangs", Hangs).chunk(CHUNK).attempt_timeout(Duration::from_secs(60)))
        .build()
        .unwrap();
    let report = shipper.run_once().await.unwrap();
    // And a page more.
    let needed = 3 * (records + body) + (records + body) / 5;
    assert!(report.memory_peak <= needed, "{} bytes, of which {needed} help: {report}", report.memory_peak);
}
