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
use logship::sources::postgres::{PostgresConfig, PostgresSource, TimestampFormat};
use logship::sources::sqlite::{SqliteConfig, SqliteSource};
use logship::state::memory::MemoryOffsets;
use logship::{
    BuildContext, Capabilities, Chunk, Error, Exporter, Idempotency, Lane, LogRecord, LogShipper, Outcome, Page,
    PageEnd, PageLimits, Partition, Query, Source, Start, async_trait,
};

use crate::corpus::Corpus;
use crate::scenario::{From, Scenario, To};
use crate::tables;

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
    pub(crate) async fn read(lines: &Path) -> Result<Self, Error> {
        let source = jsonl(lines)?;
        let partition = source.partitions().await?.remove(0);
        let limits = PageLimits { records_max: 1_000, bytes_max: 1 << 20, until: None };
        let (mut start, mut pages) = (Start::Earliest, VecDeque::new());
        loop {
            let page = source.read(&partition, &start, &Query::all(), limits).await?;
            let (next, end) = (page.next().cloned(), page.end());
            pages.push_back(page.records().to_vec());
            match next {
                Some(next) if end == PageEnd::More => start = Start::After(next),
                _ => return Ok(Prepared { partition, pages: Mutex::new(pages) }),
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

fn jsonl(lines: &Path) -> Result<JsonlSource, Error> {
    JsonlSource::new(JsonlConfig { paths: vec![lines.to_owned()], fields: JsonlFields::default() })
}

fn sqlite(corpus: &Corpus) -> Result<SqliteSource, Error> {
    SqliteSource::open(SqliteConfig { path: corpus.sqlite(), mapping: tables::mapping("logs", TimestampFormat::Text) })
}

fn postgres(corpus: &Corpus) -> Result<PostgresSource, Box<dyn StdError>> {
    let mapping = tables::mapping(&corpus.postgres(), TimestampFormat::Native);
    let config = PostgresConfig { mapping, ..PostgresConfig::new(tables::postgres_url()?.as_str()) };
    Ok(PostgresSource::open(config, &BuildContext::default())?)
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

/// A shipper of the corpus, with everything prepared that does not count.
pub(crate) async fn shipper(
    scenario: Scenario,
    corpus: &Corpus,
    port: u16,
    dir: &Path,
) -> Result<LogShipper, Box<dyn StdError>> {
    let builder = match scenario.from {
        From::Jsonl => LogShipper::builder(jsonl(&corpus.lines())?),
        From::Memory => LogShipper::builder(Prepared::read(&corpus.lines()).await?),
        From::Sqlite => LogShipper::builder(sqlite(corpus)?),
        From::Postgres => LogShipper::builder(postgres(corpus)?),
    };
    let builder = builder.offsets(MemoryOffsets::new()).lookback(None);
    Ok(lanes(scenario, port, dir)?.into_iter().fold(builder, |builder, lane| builder.lane(lane)).build()?)
}
