//! What the engine itself costs: a source in memory, an exporter that takes everything at once, one to ten lanes.
//!
//! One iteration is one record on one lane, so the time is nanoseconds per record and lane, and the throughput is
//! records of all lanes in a second.

#![allow(missing_docs, reason = "criterion's macros make undocumented items")]
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot run says why by its panic")]

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use logship::sources::memory::MemorySource;
use logship::state::memory::MemoryOffsets;
use logship::{
    Capabilities, Chunk, CpuWork, Error, Exporter, Idempotency, Lane, LogShipper, Outcome, Timestamp, async_trait,
};

const RECORDS: usize = 200_000;

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

    async fn export(&self, chunk: &Chunk) -> Result<Outcome, Error> {
        Ok(Outcome::all_accepted(chunk.len()))
    }
}

fn source() -> MemorySource {
    let source = MemorySource::new();
    for number in 0..RECORDS {
        source.push("logs", Timestamp::now(), |record| {
            record.body = format!("{number}: copied 8192 rows from staging.orders to warehouse.orders").into();
            record.attributes =
                vec![("namespace".into(), "company.team".into()), ("flowId".into(), "nightly-load".into())];
        });
    }
    source
}

fn run(runtime: &tokio::runtime::Runtime, source: &MemorySource, lanes: usize) -> Duration {
    let mut builder =
        LogShipper::builder(source.clone()).offsets(MemoryOffsets::new()).lookback(None).cpu_work(CpuWork::Inline);
    for lane in 0..lanes {
        builder = builder.lane(Lane::new(format!("lane{lane}"), Null).chunk(5_000));
    }
    let shipper = builder.build().unwrap();
    let began = Instant::now();
    let report = runtime.block_on(shipper.run_once()).unwrap();
    let elapsed = began.elapsed();
    assert!(report.lanes.iter().all(|lane| lane.accepted == RECORDS as u64), "{report}");
    elapsed
}

fn engine(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let source = source();
    let mut group = criterion.benchmark_group("engine");
    group.throughput(Throughput::Elements(1)).sample_size(10).measurement_time(Duration::from_secs(4));
    for lanes in [1, 3, 10] {
        group.bench_function(BenchmarkId::new("lanes", lanes), |bencher| {
            bencher.iter_custom(|iterations| {
                let runs = (iterations as usize).div_ceil(RECORDS * lanes).clamp(1, 4);
                let elapsed: Duration = (0..runs).map(|_| run(&runtime, &source, lanes)).sum();
                elapsed.mul_f64(iterations as f64 / (runs * RECORDS * lanes) as f64)
            });
        });
    }
    group.finish();
}

criterion_group!(benches, engine);
criterion_main!(benches);
