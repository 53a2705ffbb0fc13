//! What the engine itself costs: a source in memory, and exporters that take everything at once.

use std::hint::black_box;
use std::sync::Arc;

use logship::sources::memory::MemorySource;
use logship::state::memory::MemoryOffsets;
use logship::{
    Capabilities, Chunk, CpuWork, Encoding, Error, Exporter, Idempotency, Lane, LogRecord, LogShipper, Outcome,
    Unencodable, async_trait,
};
use tokio::runtime::Runtime;

use crate::Stages;
use crate::destination::CHUNK;

/// As long as a usual document.
const DOCUMENT: &[u8] = &[b'x'; 600];

/// Takes everything at once, as records or as documents.
#[derive(Debug)]
struct Null {
    is_encoded: bool,
}

#[async_trait]
impl Exporter for Null {
    fn kind(&self) -> &'static str {
        "null"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::none().idempotency(Idempotency::PerRecord)
    }

    fn encoding(&self) -> Option<Arc<dyn Encoding>> {
        self.is_encoded.then(|| Arc::new(Documents) as Arc<dyn Encoding>)
    }

    async fn export(&self, chunk: &Chunk) -> Result<Outcome, Error> {
        assert_eq!(
            chunk.body().map_or(0, |body| body.unpacked_len),
            if self.is_encoded { chunk.len() * DOCUMENT.len() } else { 0 }
        );
        Ok(Outcome::all_accepted(chunk.len()))
    }
}

/// Writes the same for every record.
#[derive(Debug)]
struct Documents;

impl Encoding for Documents {
    fn key(&self) -> &str {
        "documents"
    }

    fn record(&self, _: &LogRecord, out: &mut Vec<u8>) -> Result<(), Unencodable> {
        out.extend_from_slice(DOCUMENT);
        Ok(())
    }
}

pub(crate) fn stages(stages: &mut Stages, runtime: &Runtime, records: &[LogRecord]) {
    let source = MemorySource::new();
    for record in records {
        source.push("logs", record.timestamp, |pushed| *pushed = record.clone());
    }
    let ship = |lanes: usize, is_encoded: bool| {
        let builder = LogShipper::builder(source.clone()).offsets(MemoryOffsets::new()).lookback(None);
        let lane = |number| Lane::new(format!("lane{number}"), Null { is_encoded }).chunk(CHUNK);
        let builder = (0..lanes).map(lane).fold(builder.cpu_work(CpuWork::Inline), |builder, lane| builder.lane(lane));
        let report = runtime.block_on(builder.build().unwrap().run_once()).unwrap();
        assert!(report.lanes.iter().all(|lane| lane.accepted == records.len() as u64), "{report}");
    };
    for lanes in [1, 3, 10] {
        stages.compare(
            &format!("bookkeeping: {lanes} lanes"),
            records.len() * lanes,
            || ship(lanes, false),
            || {
                for page in records.chunks(1_000) {
                    let page = black_box(page.to_vec());
                    for lane in 0..lanes {
                        let bytes: usize = page.iter().map(LogRecord::size).sum();
                        black_box((lane, bytes, page.last().map(|record| record.id.clone())));
                    }
                }
            },
        );
    }
    let mut body = Vec::with_capacity(CHUNK * DOCUMENT.len());
    stages.compare(
        "chunking: documents to bodies",
        records.len(),
        || ship(1, true),
        || {
            for page in records.chunks(1_000) {
                for record in black_box(page.to_vec()) {
                    black_box(record);
                    body.extend_from_slice(DOCUMENT);
                }
                if body.len() >= CHUNK * DOCUMENT.len() {
                    black_box(&body);
                    body.clear();
                }
            }
        },
    );
}
