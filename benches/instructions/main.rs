//! One hot stage over the same seeded lines, so many times: `instructions STAGE TIMES`.
//!
//! What `scripts/instructions.sh` counts is the difference between once and eleven times, which leaves out everything
//! that is done only once.

use std::error::Error;
use std::hint::black_box;

use logship::exporters::encode::Format;
use logship::exporters::file::{FileConfig, FileExporter};
use logship::sources::memory::MemorySource;
use logship::state::memory::MemoryOffsets;
use logship::{
    Capabilities, Chunk, CpuWork, Encoding, Exporter, Idempotency, Lane, LogRecord, LogShipper, Outcome, Page, PageEnd,
    Partition, async_trait,
};
use logship_exporters::fuzzing::bulk_lines;
use logship_sources::fuzzing::jsonl_page;

/// As many as scripts/instructions.sh divides by.
const RECORDS: usize = 1_000;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let stage = arguments.next().ok_or("which stage?")?;
    let times: usize = arguments.next().ok_or("how many times?")?.parse()?;
    let lines = lines();
    let page = jsonl_page(lines.clone());
    let records = page.records();
    let encoding = |format| FileExporter::new(FileConfig { format, ..FileConfig::default() }).encoding();
    let (json, ion) = (encoding(Format::Json).ok_or("no encoding")?, encoding(Format::Ion).ok_or("no encoding")?);
    match stage.as_str() {
        "lane" => return ship(records, times, 1),
        "lanes" => return ship(records, times, 5),
        _ => {}
    }
    for _ in 0..times {
        match stage.as_str() {
            "parse" => assert_eq!(black_box(jsonl_page(lines.clone())).records().len(), RECORDS),
            "bulk" => records.iter().for_each(|record| drop(black_box(bulk_lines(record)))),
            "json" => encode(json.as_ref(), records),
            "ion" => encode(ion.as_ref(), records),
            "pack" => {
                let page = Page::new(Partition::new("counted"), records.to_vec(), PageEnd::More);
                black_box(Chunk::of_page(page, Some(json.as_ref()))?);
            }
            other => return Err(format!("no stage is called {other}").into()),
        }
    }
    Ok(())
}

/// Takes everything at once.
#[derive(Debug)]
struct Null;

#[async_trait]
impl Exporter for Null {
    fn kind(&self) -> &'static str {
        "null"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::none().idempotency(Idempotency::PerRecord)
    }

    async fn export(&self, chunk: &Chunk) -> Result<Outcome, logship::Error> {
        Ok(Outcome::all_accepted(chunk.len()))
    }
}

/// The engine, with nothing to do but to read, cut and commit.
fn ship(records: &[LogRecord], times: usize, lanes: usize) -> Result<(), Box<dyn Error>> {
    let source = MemorySource::new();
    for record in (0..times).flat_map(|_| records) {
        source.push("counted", record.timestamp, |new| new.body = record.body.clone());
    }
    let offsets = MemoryOffsets::new();
    let mut builder = LogShipper::builder(source).offsets(offsets).lookback(None).cpu_work(CpuWork::Inline);
    for lane in 0..lanes {
        builder = builder.lane(Lane::new(format!("lane{lane}"), Null));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let report = runtime.block_on(builder.build()?.run_once())?.require_complete()?;
    assert!(report.lanes.iter().all(|lane| lane.accepted == (times * RECORDS) as u64), "{report}");
    Ok(())
}

fn encode(encoding: &dyn Encoding, records: &[LogRecord]) {
    let mut out = Vec::with_capacity(1 << 20);
    for record in records {
        // What has no form costs what it costs.
        let _ = encoding.record(record, &mut out);
    }
    black_box(out);
}

/// Lines of a workflow engine: half a kilobyte each, a quote or a line break in some, a stack trace in a few.
fn lines() -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(7);
    let mut line = |number: usize| {
        let mut message = format!("task \\\"load-{number}\\\" copied {} rows from staging.orders", rng.u32(..));
        if rng.u32(0..20) == 0 {
            (0..12)
                .for_each(|line| message.push_str(&format!("\\n\\tat com.company.Task.step{line}(Task.java:{line})")));
        }
        let level = ["INFO", "WARN", "ERROR"][rng.usize(0..3)];
        let (execution, run) = (rng.u64(..), rng.u64(..));
        format!(
            r#"{{"timestamp":"2026-11-20T08:{:02}:{:02}.{:03}Z","level":"{level}","message":"{message}","tenantId":"main","namespace":"company.team","flowId":"nightly-load","executionId":"{execution:016x}","taskId":"load","taskRunId":"{run:016x}","attemptNumber":{},"thread":"worker-{}","host":{{"name":"node-{}","zone":"eu-1"}},"labels":{{"team":"data","tier":"gold","cost":"42"}},"durationMs":{}}}"#,
            number / 60 % 60,
            number % 60,
            number % 1_000,
            rng.u8(0..4),
            rng.u8(0..32),
            rng.u8(0..9),
            rng.u32(0..90_000),
        )
    };
    (0..RECORDS).map(|number| line(number) + "\n").collect::<String>().into_bytes()
}
