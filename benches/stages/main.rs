//! Each stage of a run alone, in nanoseconds for each record, beside a bare loop that does the same, and the share of
//! the loop's speed that it reaches: `cargo bench --bench stages [-- FILTER]`.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot run says why by its panic")]
#![allow(clippy::print_stdout, reason = "a benchmark says what it found")]

mod commit;
mod engine;
#[path = "../throughput/mod.rs"]
#[allow(dead_code, reason = "whole runs use the rest")]
mod throughput;

use std::collections::HashSet;
use std::hint::black_box;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use logship::exporters::encode::Format;
use logship::exporters::file::{FileConfig, FileExporter};
use logship::exporters::otlp::{Otlp, OtlpConfig, OtlpProtocol};
use logship::sources::memory::MemorySource;
use logship::{BuildContext, Compression, Encoding, Exporter, LogRecord, PageEnd, PageLimits, Query, Source, Start};
use throughput::{corpus, destination, format, json, row, rows, scenario, shipping, tables};
use tokio::runtime::Runtime;

use crate::corpus::Corpus;
use crate::destination::{CHUNK, DESTINATIONS};
use crate::row::Row;
use crate::scenario::From;
use crate::shipping::Prepared;

/// Programs that ship use an allocator of this kind; the library leaves the choice to them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Enough for four chunks.
const RECORDS: u64 = 20_000;

/// Measures, and remembers what there is to compare.
struct Stages {
    criterion: Criterion,
    table: Vec<(String, f64, Option<f64>)>,
}

impl Stages {
    /// Measures a stage and its bare loop. `per` is how many records, or commits, one call of either works on.
    fn compare(&mut self, name: &str, per: usize, stage: impl FnMut(), bare: impl FnMut()) {
        if let Some(stage) = self.time(name, "logship", per, stage) {
            let bare = self.time(name, "bare", per, bare);
            self.table.push((name.to_owned(), stage, bare));
        }
    }

    /// Measures a stage that has no bare loop.
    fn alone(&mut self, name: &str, per: usize, stage: impl FnMut()) {
        if let Some(stage) = self.time(name, "logship", per, stage) {
            self.table.push((name.to_owned(), stage, None));
        }
    }

    /// Nanoseconds for each record, in the fastest sample; none if the filter leaves it out.
    fn time(&mut self, stage: &str, who: &str, per: usize, mut work: impl FnMut()) -> Option<f64> {
        let mut best: Option<f64> = None;
        let mut group = self.criterion.benchmark_group(stage);
        group.throughput(Throughput::Elements(per as u64)).sample_size(10);
        group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
        group.bench_function(who, |bencher| {
            bencher.iter_custom(|iterations| {
                let began = Instant::now();
                (0..iterations).for_each(|_| work());
                let elapsed = began.elapsed();
                let nanos = elapsed.as_nanos() as f64 / (iterations as usize * per) as f64;
                best = Some(best.map_or(nanos, |best| best.min(nanos)));
                elapsed
            });
        });
        group.finish();
        best
    }

    fn print(&self) {
        println!("\n{:32} | {:>12} {:>12} | share of the bare loop's speed", "nanoseconds a record", "logship", "bare");
        for (name, stage, bare) in &self.table {
            match bare {
                Some(bare) => println!("{name:32} | {stage:>12.1} {bare:>12.1} | {:.2}", bare / stage),
                None => println!("{name:32} | {stage:>12.1} {:>12} |", "-"),
            }
        }
    }
}

fn main() {
    let mut stages = Stages { criterion: Criterion::default().configure_from_args(), table: Vec::new() };
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("stages");
    std::fs::create_dir_all(&dir).unwrap();
    let corpus = Corpus { dir: dir.clone(), records: RECORDS };
    corpus.make_lines().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(tables::make_sqlite(&corpus)).unwrap();
    let records: Vec<LogRecord> =
        runtime.block_on(Prepared::read(&corpus, 1)).unwrap().into_records().flatten().collect();
    pages(&mut stages, &runtime, &corpus, &records);
    encoders(&mut stages, &records, &dir);
    packing(&mut stages, &records);
    engine::stages(&mut stages, &runtime, &records);
    commit::stages(&mut stages, &runtime, &dir);
    stages.criterion.final_summary();
    stages.print();
}

/// Reads everything, and says how many records that was.
async fn read_all(source: &dyn Source) -> usize {
    let partition = source.partitions().await.unwrap().remove(0);
    let limits = PageLimits { records_max: 1_000, bytes_max: 1 << 20, until: None };
    let (mut start, mut read) = (Start::Earliest, 0);
    loop {
        let page = source.read(&partition, &start, &Query::all(), limits).await.unwrap();
        read += black_box(page.records()).len();
        match page.next() {
            Some(next) if page.end() == PageEnd::More => start = Start::After(next.clone()),
            _ => return read,
        }
    }
}

/// From lines, rows and records to pages.
fn pages(stages: &mut Stages, runtime: &Runtime, corpus: &Corpus, records: &[LogRecord]) {
    let memory = MemorySource::new();
    for record in records {
        memory.push("logs", record.timestamp, |pushed| *pushed = record.clone());
    }
    let sources: [(&str, Box<dyn Source>, From); 2] = [
        ("parse: jsonl", Box::new(shipping::jsonl(&corpus.lines()).unwrap()), From::Jsonl),
        ("page: sqlite", Box::new(shipping::sqlite(corpus).unwrap()), From::Sqlite),
    ];
    for (name, source, from) in sources {
        let per = RECORDS as usize;
        stages.compare(
            name,
            per,
            || assert_eq!(runtime.block_on(read_all(&*source)), per),
            || {
                let mut bytes = 0;
                let take = |row: &Row<'_>| {
                    bytes += black_box(row).message.len();
                    Ok(())
                };
                runtime.block_on(rows::each(from, corpus, || (), take)).unwrap();
                assert!(black_box(bytes) > 0);
            },
        );
    }
    stages.compare(
        "page: memory",
        RECORDS as usize,
        || assert_eq!(runtime.block_on(read_all(&memory)), RECORDS as usize),
        || records.chunks(1_000).for_each(|page| drop(black_box(page.to_vec()))),
    );
}

/// From records to each destination's form.
fn encoders(stages: &mut Stages, records: &[LogRecord], dir: &Path) {
    let records = &records[..1_000];
    let mut out = Vec::with_capacity(2 << 20);
    let encode = |encoding: &dyn Encoding, out: &mut Vec<u8>| {
        out.clear();
        records.iter().for_each(|record| encoding.record(black_box(record), out).unwrap());
    };
    let mut known = HashSet::new();
    // What CloudWatch gets is put into its form by its SDK.
    for destination in DESTINATIONS.iter().filter(|destination| destination.name != "cloudwatch") {
        let exporter = destination.exporter(1, dir, Compression::None).unwrap();
        let encoding = exporter.encoding().unwrap();
        if !known.insert(encoding.key().to_owned()) {
            continue;
        }
        let mut bare = Vec::with_capacity(2 << 20);
        stages.compare(
            &format!("encode: {}", destination.name),
            records.len(),
            || encode(&*encoding, &mut out),
            || {
                bare.clear();
                for record in records {
                    (destination.write)(&Row::of(black_box(record), "part00000:"), &mut bare);
                }
            },
        );
    }
    let mut otlp = OtlpConfig::new("http://127.0.0.1:1");
    otlp.protocol = OtlpProtocol::HttpJson;
    let ion = FileExporter::new(FileConfig { format: Format::Ion, ..FileConfig::default() });
    let others: [(&str, Arc<dyn Exporter>); 2] = [
        ("encode: ion", Arc::new(ion)),
        ("encode: otlp json", Arc::new(Otlp::new(otlp, BuildContext::default()).unwrap())),
    ];
    for (name, exporter) in others {
        let encoding = exporter.encoding().unwrap();
        stages.alone(name, records.len(), || encode(&*encoding, &mut out));
    }
}

/// From a chunk's body to what is sent.
fn packing(stages: &mut Stages, records: &[LogRecord]) {
    let mut body = Vec::new();
    records[..CHUNK].iter().for_each(|record| format::bulk(&Row::of(record, "part00000:"), &mut body));
    let mut packed = Vec::with_capacity(body.len());
    for (name, compression) in [
        ("pack: gzip 1", Compression::Gzip(1)),
        ("pack: gzip 6", Compression::Gzip(6)),
        ("pack: zstd 1", Compression::Zstd(1)),
    ] {
        stages.compare(
            name,
            CHUNK,
            || drop(black_box(compression.pack([body.as_slice()], body.len()).unwrap())),
            || {
                packed.clear();
                match compression {
                    Compression::Gzip(level) => {
                        let level = flate2::Compression::new(level);
                        let mut encoder = flate2::write::GzEncoder::new(&mut packed, level);
                        encoder.write_all(&body).unwrap();
                        encoder.finish().unwrap();
                    }
                    _ => drop(black_box(zstd::bulk::compress(&body, 1).unwrap())),
                }
            },
        );
    }
}
