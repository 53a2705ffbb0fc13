//! P2 and P5: a destination that hangs for ever changes nothing for the others.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::time::Duration;

use logship::sources::memory::MemorySource;
use logship::state::memory::MemoryOffsets;
use logship::{
    Capabilities, Chunk, CpuWork, Error, Exporter, Idempotency, Lane, LogShipper, Outcome, Query, RunReport, Timestamp,
    async_trait,
};

const RECORDS: u64 = 20_000;
const BUDGET: usize = 4 * 1024 * 1024;

/// Answers after this time, or never.
#[derive(Debug)]
struct Destination(Option<Duration>);

#[async_trait]
impl Exporter for Destination {
    fn kind(&self) -> &'static str {
        "test"
    }

    async fn export(&self, chunk: &Chunk) -> Result<Outcome, Error> {
        match self.0 {
            Some(Duration::ZERO) => {}
            Some(time) => tokio::time::sleep(time).await,
            None => std::future::pending().await,
        }
        Ok(Outcome::all_accepted(chunk.len()))
    }
}

fn source() -> MemorySource {
    let source = MemorySource::new();
    for number in 0..RECORDS {
        source.push("p", Timestamp::now(), |record| record.body = format!("record {number:0200}").into());
    }
    source
}

async fn ship(with_hung_lane: bool) -> RunReport {
    let mut builder = LogShipper::builder(source())
        .offsets(MemoryOffsets::new())
        .lookback(None)
        .byte_budget(BUDGET)
        .cpu_work(CpuWork::Inline)
        .deadline(Duration::from_secs(3_600))
        .lane(Lane::new("healthy", Destination(Some(Duration::from_millis(20)))).chunk(500));
    if with_hung_lane {
        let day = Duration::from_secs(24 * 60 * 60);
        builder = builder.lane(Lane::new("hung", Destination(None)).attempt_timeout(day));
    }
    builder.build().unwrap().run_once().await.unwrap()
}

/// Method: the same records with and without a lane that hangs, on a paused clock, on which the healthy lane's time is
/// exact.
#[tokio::test(start_paused = true)]
async fn p2_a_lane_that_hangs_for_ever_costs_the_others_nothing() {
    let (alone, beside) = (ship(false).await, ship(true).await);
    let (alone, healthy) = (alone.lane("healthy").unwrap(), beside.lane("healthy").unwrap());
    assert_eq!((alone.accepted, healthy.accepted), (RECORDS, RECORDS));
    assert!(healthy.elapsed.as_secs_f64() <= alone.elapsed.as_secs_f64() * 1.05, "{healthy:?} {alone:?}");
    let hung = beside.lane("hung").unwrap();
    assert_eq!((hung.accepted, hung.in_doubt), (0, 1_000));
    assert!(hung.balances() && beside.memory_peak <= BUDGET, "{beside}");
}

/// Method: lanes that cost nothing, on several threads, where one that is ahead would drive out in no time what the others
/// still want; and beside them one that hangs, which nobody waits for. How often the source is read says who kept up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p2_lanes_of_the_same_speed_read_the_source_once() {
    for hung in [false, true] {
        let mut builder = LogShipper::builder(source())
            .offsets(MemoryOffsets::new())
            .lookback(None)
            .byte_budget(BUDGET)
            .deadline(Duration::from_secs(5))
            .grace(Duration::ZERO);
        for number in 0..8 {
            builder = builder.lane(Lane::new(format!("lane-{number}"), Destination(Some(Duration::ZERO))).chunk(200));
        }
        if hung {
            builder = builder.lane(Lane::new("hung", Destination(None)).chunk(200));
        }
        let report = builder.build().unwrap().run_once().await.unwrap();
        let accepted: u64 = report.lanes.iter().map(|lane| lane.accepted).sum();
        assert_eq!(accepted, 8 * RECORDS, "{report}");
        assert!(report.source_records < 2 * RECORDS, "{} records read: {report}", report.source_records);
    }
}

/// A destination that knows a chunk by where it begins, so that what is passed over waits for the next chunk.
#[derive(Debug)]
struct ByChunk;

#[async_trait]
impl Exporter for ByChunk {
    fn kind(&self) -> &'static str {
        "by-chunk"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::none().idempotency(Idempotency::PerChunk)
    }

    async fn export(&self, chunk: &Chunk) -> Result<Outcome, Error> {
        Ok(Outcome::all_accepted(chunk.len()))
    }
}

/// Method: pages that are there at once, far more of them than a lane takes in one turn, none of which fills a chunk;
/// first because the chunk is large, then because the lane wants nothing of them.
#[tokio::test(start_paused = true)]
async fn p2_a_lane_goes_on_however_many_pages_it_takes_to_fill_a_chunk() {
    let lane = || Lane::new("patient", ByChunk).chunk(RECORDS as usize);
    for (lane, accepted) in [(lane(), RECORDS), (lane().filter(Query::all().namespace("other")), 0)] {
        let builder = LogShipper::builder(source()).offsets(MemoryOffsets::new()).lookback(None).page_records(100);
        let report = builder.deadline(Duration::from_secs(60)).lane(lane).build().unwrap().run_once().await.unwrap();
        assert_eq!(report.lane("patient").unwrap().accepted, accepted, "{report}");
        assert!(report.is_complete(), "{report}");
    }
}
