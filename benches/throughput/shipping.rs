//! A scenario as logship runs it.

use std::collections::VecDeque;
use std::error::Error as StdError;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use logship::exporters::elasticsearch::{Elasticsearch, ElasticsearchConfig};
use logship::exporters::encode::Format;
use logship::exporters::file::{FileConfig, FileExporter};
use logship::exporters::http::{Http, HttpConfig, HttpFormat};
use logship::sources::jsonl::{JsonlConfig, JsonlFields, JsonlSource};
use logship::state::memory::MemoryOffsets;
use logship::{
    BuildContext, Capabilities, Chunk, Error, Exporter, Idempotency, Lane, LogRecord, LogShipper, Outcome, Page,
    PageEnd, PageLimits, Partition, Query, Source, Start, async_trait,
};

use crate::scenario::{From, Scenario, To};

/// As many records in a chunk as the peers were given.
pub(crate) const CHUNK: usize = 5_000;

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

/// Pages that were made before the clock was started, each of which is given once.
#[derive(Debug)]
pub(crate) struct Prepared {
    partition: Partition,
    pages: Mutex<VecDeque<Vec<LogRecord>>>,
}

impl Prepared {
    /// Reads the corpus.
    pub(crate) async fn read(corpus: &Path) -> Result<(Self, u64), Error> {
        let source = jsonl(corpus)?;
        let partition = source.partitions().await?.remove(0);
        let limits = PageLimits { records_max: 1_000, bytes_max: 1 << 20, until: None };
        let (mut start, mut pages, mut records) = (Start::Earliest, VecDeque::new(), 0);
        loop {
            let page = source.read(&partition, &start, &Query::all(), limits).await?;
            records += page.records().len() as u64;
            let (next, end) = (page.next().cloned(), page.end());
            pages.push_back(page.records().to_vec());
            match next {
                Some(next) if end == PageEnd::More => start = Start::After(next),
                _ => return Ok((Prepared { partition, pages: Mutex::new(pages) }, records)),
            }
        }
    }

    pub(crate) fn into_records(self) -> Vec<Vec<LogRecord>> {
        self.pages.into_inner().unwrap_or_else(PoisonError::into_inner).into()
    }
}

#[async_trait]
impl Source for Prepared {
    fn kind(&self) -> &'static str {
        "prepared"
    }

    fn fingerprint(&self) -> String {
        "prepared".to_owned()
    }

    async fn partitions(&self) -> Result<Vec<Partition>, Error> {
        Ok(vec![self.partition.clone()])
    }

    async fn read(&self, partition: &Partition, _: &Start, _: &Query, _: PageLimits) -> Result<Page, Error> {
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        let records = pages.pop_front().unwrap_or_default();
        let end = if pages.is_empty() { PageEnd::CaughtUp } else { PageEnd::More };
        Ok(Page::new(partition.clone(), records, end))
    }
}

fn jsonl(corpus: &Path) -> Result<JsonlSource, Error> {
    JsonlSource::new(JsonlConfig { paths: vec![corpus.to_owned()], fields: JsonlFields::default() })
}

fn bulk(scenario: Scenario, port: u16) -> Result<Elasticsearch, Box<dyn StdError>> {
    let mut config = ElasticsearchConfig::new(vec![format!("http://127.0.0.1:{port}").parse()?], "logs");
    config.compression = scenario.packing.compression();
    Ok(Elasticsearch::new(config, &BuildContext::default())?)
}

fn http(scenario: Scenario, port: u16, format: HttpFormat) -> Result<Http, Error> {
    let mut config = HttpConfig::new(format!("http://127.0.0.1:{port}/in"));
    (config.compression, config.format) = (scenario.packing.compression(), format);
    Http::new(config, BuildContext::default())
}

fn lanes(scenario: Scenario, port: u16, dir: &Path) -> Result<Vec<Lane>, Box<dyn StdError>> {
    let mut lanes = Vec::new();
    for number in 0..scenario.lanes {
        let id = format!("lane{number}");
        lanes.push(match (scenario.to, number) {
            (To::Null, _) => Lane::new(id, Null),
            (To::Bulk, _) | (To::Three, 0) => Lane::new(id, bulk(scenario, port)?),
            (To::Ndjson, _) | (To::Three, 1) => Lane::new(id, http(scenario, port, HttpFormat::Ndjson)?),
            (To::Three, _) => Lane::new(id, http(scenario, port, HttpFormat::JsonArray)?),
            (To::File, _) => {
                let (dir, compression) = (dir.join(&id), scenario.packing.compression());
                let config = FileConfig { dir, format: Format::Json, compression, ..FileConfig::default() };
                Lane::new(id, FileExporter::new(config))
            }
        });
    }
    Ok(lanes.into_iter().map(|lane| lane.chunk(CHUNK).attempt_timeout(Duration::from_secs(30))).collect())
}

/// Ships the corpus, and says how many records went to each lane and what that cost. What was prepared does not count.
pub(crate) async fn ship(
    scenario: Scenario,
    corpus: &Path,
    port: u16,
    dir: &Path,
    measured: impl AsyncFnOnce(LogShipper) -> Result<u64, Error>,
) -> Result<(), Box<dyn StdError>> {
    let builder = match scenario.from {
        From::Jsonl => LogShipper::builder(jsonl(corpus)?),
        From::Memory => LogShipper::builder(Prepared::read(corpus).await?.0),
    };
    let builder = builder.offsets(MemoryOffsets::new()).lookback(None);
    let shipper = lanes(scenario, port, dir)?.into_iter().fold(builder, |builder, lane| builder.lane(lane)).build()?;
    measured(shipper).await?;
    Ok(())
}
