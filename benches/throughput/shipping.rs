//! A scenario as logship runs it.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use logship::sources::jsonl::{JsonlConfig, JsonlFields, JsonlSource};
use logship::sources::postgres::{PostgresConfig, PostgresSource, TimestampFormat};
use logship::sources::sqlite::{SqliteConfig, SqliteSource};
use logship::state::memory::MemoryOffsets;
use logship::{
    BuildContext, Capabilities, Chunk, Clock, Error, Exporter, Idempotency, Lane, LogRecord, LogShipper, Outcome, Page,
    PageEnd, PageLimits, Partition, Query, RecordId, Source, Start, Timestamp, async_trait,
};

use crate::corpus::Corpus;
use crate::destination::CHUNK;
use crate::scenario::{From, Scenario};
use crate::tables;

/// As many records in a page as the engine asks for.
const PAGE: usize = 2_000;

/// As many records in memory as a machine is expected to hold, at two kilobytes each.
pub(crate) const IN_MEMORY_MAX: u64 = 500_000;

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

/// Pages that were made before the clock was started. The first read of each costs nothing; a lane that has fallen behind
/// and reads one again gets a copy that is made then, as from any source in memory.
#[derive(Debug)]
pub(crate) struct Prepared {
    partitions: Vec<Partition>,
    pages: Mutex<HashMap<Partition, Vec<PreparedPage>>>,
}

#[derive(Debug)]
struct PreparedPage {
    records: Vec<LogRecord>,
    first: Option<Vec<LogRecord>>,
}

impl Prepared {
    /// The corpus, or as much of it as there is room for, in so many partitions of the same size.
    pub(crate) async fn read(corpus: &Corpus, partitions: usize) -> Result<Self, Error> {
        let records = corpus.records.min(IN_MEMORY_MAX) as usize;
        let names: Vec<Partition> = (0..partitions).map(|number| Partition::new(format!("part{number:05}"))).collect();
        let mut pages: HashMap<Partition, Vec<PreparedPage>> = HashMap::new();
        let source = jsonl(&corpus.lines())?;
        let lines = source.partitions().await?.remove(0);
        let limits = PageLimits { records_max: PAGE, bytes_max: usize::MAX, until: None };
        let (mut start, mut number) = (Start::Earliest, 0);
        loop {
            let page = source.read(&lines, &start, &Query::all(), limits).await?;
            for record in page.records().iter().take(records - number) {
                let mut record = record.clone();
                let partition = &names[number * partitions / records];
                record.id = RecordId::new(partition.clone(), record.id.position().clone());
                let pages = pages.entry(partition.clone()).or_default();
                match pages.last_mut() {
                    Some(page) if page.records.len() < PAGE => page.records.push(record),
                    _ => pages.push(PreparedPage { records: vec![record], first: None }),
                }
                number += 1;
            }
            match page.next() {
                Some(next) if page.end() == PageEnd::More && number < records => start = Start::After(next.clone()),
                _ => break,
            }
        }
        pages.values_mut().flatten().for_each(|page| page.first = Some(page.records.clone()));
        Ok(Prepared { partitions: names, pages: Mutex::new(pages) })
    }

    pub(crate) fn into_records(self) -> impl Iterator<Item = Vec<LogRecord>> {
        let mut pages = self.pages.into_inner().unwrap_or_else(PoisonError::into_inner);
        let pages = self.partitions.into_iter().filter_map(move |partition| pages.remove(&partition));
        pages.flatten().map(|page| page.records)
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
        Ok(self.partitions.clone())
    }

    async fn read(&self, partition: &Partition, start: &Start, _: &Query, _: PageLimits) -> Result<Page, Error> {
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        let pages = pages.entry(partition.clone()).or_default();
        let is_read = |record: &LogRecord| matches!(start, Start::After(cursor) if record.id.position() <= cursor);
        let at = pages.partition_point(|page| page.records.last().is_some_and(is_read));
        let end = if at + 1 < pages.len() { PageEnd::More } else { PageEnd::CaughtUp };
        let Some(page) = pages.get_mut(at) else { return Ok(Page::new(partition.clone(), Vec::new(), end)) };
        let records = match page.records.partition_point(is_read) {
            0 => page.first.take().unwrap_or_else(|| page.records.clone()),
            skipped => page.records[skipped..].to_vec(),
        };
        Ok(Page::new(partition.clone(), records, end))
    }
}

/// When the corpus was written: some destinations refuse what is older than a day.
#[derive(Debug)]
struct ThatDay;

impl Clock for ThatDay {
    fn now(&self) -> Timestamp {
        Timestamp::from_secs(END_OF_CORPUS_SECS)
    }
}

/// 2026-11-20 06:00 UTC, behind the last of ten million records.
const END_OF_CORPUS_SECS: i64 = 1_795_154_400;

pub(crate) fn jsonl(lines: &Path) -> Result<JsonlSource, Error> {
    JsonlSource::new(JsonlConfig { paths: vec![lines.to_owned()], fields: JsonlFields::default() })
}

pub(crate) fn sqlite(corpus: &Corpus) -> Result<SqliteSource, Error> {
    SqliteSource::open(SqliteConfig { path: corpus.sqlite(), mapping: tables::mapping("logs", TimestampFormat::Text) })
}

fn postgres(corpus: &Corpus) -> Result<PostgresSource, Box<dyn StdError>> {
    let mapping = tables::mapping(&corpus.postgres(), TimestampFormat::Native);
    let config = PostgresConfig { mapping, ..PostgresConfig::new(tables::postgres_url()?.as_str()) };
    Ok(PostgresSource::open(config, &BuildContext::default())?)
}

fn lanes(scenario: Scenario, port: u16, dir: &Path) -> Result<Vec<Lane>, Error> {
    let lane = |number| {
        let id = format!("lane{number}");
        let lane = match scenario.to.of_lane(number) {
            None => Lane::new(id, Null).chunk(CHUNK),
            Some(destination) => {
                let exporter = destination.exporter(port, &dir.join(&id), scenario.packing.compression())?;
                Lane::shared(id, exporter).chunk(destination.chunk)
            }
        };
        Ok(lane.attempt_timeout(Duration::from_secs(30)))
    };
    (0..scenario.lanes).map(lane).collect()
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
        From::Memory(partitions) => LogShipper::builder(Prepared::read(corpus, partitions).await?),
        From::Sqlite => LogShipper::builder(sqlite(corpus)?),
        From::Postgres => LogShipper::builder(postgres(corpus)?),
    };
    let builder = builder.offsets(MemoryOffsets::new()).lookback(None).clock(Arc::new(ThatDay));
    Ok(lanes(scenario, port, dir)?.into_iter().fold(builder, |builder, lane| builder.lane(lane)).build()?)
}
