//! How long a record takes, in a continuous run, from when it is written until the destination has accepted it.

use std::error::Error as StdError;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use logship::exporters::elasticsearch::{Elasticsearch, ElasticsearchConfig};
use logship::sources::memory::MemorySource;
use logship::sources::sqlite::{IdFormat, SqliteConfig, SqliteSource, TableMapping, TimestampFormat};
use logship::state::file::FileOffsets;
use logship::{BuildContext, CancellationToken, Compression, Lane, LogShipper, Source, Timestamp};
use serde::{Deserialize, Serialize};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode};
use sqlx::{Connection, Executor, SqliteConnection};

use crate::destination::CHUNK;
use crate::receiver::{Receiver, TIMED_INDEX};

/// What is measured by default.
pub(crate) const LATENCIES: [&str; 2] = ["latency-memory", "latency-sqlite"];

/// How often the store is asked, unless it tells of new records itself.
const POLL: Duration = Duration::from_millis(100);
/// What the engine and the exporter may add to it.
const ADDED_MAX: Duration = Duration::from_millis(50);

/// Records that are written at a time, which makes 5 000 in a second.
const BATCH: u64 = 50;
const BATCH_EVERY: Duration = Duration::from_millis(10);
const WRITING: Duration = Duration::from_secs(10);

/// How long records of one store took.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Latency {
    pub(crate) scenario: String,
    pub(crate) records: u64,
    pub(crate) p50_millis: f64,
    pub(crate) p99_millis: f64,
    pub(crate) max_millis: f64,
    pub(crate) aim_millis: f64,
}

/// What the measured process is told.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Child {
    scenario: String,
    port: u16,
    dir: PathBuf,
}

/// Measures one store, with the shipper and the writer in a process of their own.
pub(crate) fn measure(scenario: &str, dir: &Path, receiver: &Receiver) -> Result<Latency, Box<dyn StdError>> {
    std::fs::remove_dir_all(dir).ok();
    std::fs::create_dir_all(dir)?;
    receiver.taken()?;
    let child = Child { scenario: scenario.to_owned(), port: receiver.port, dir: dir.to_owned() };
    let mut command = Command::new(std::env::current_exe()?);
    let output = command.args(["--latency-child", &serde_json::to_string(&child)?]).output()?;
    if !output.status.success() {
        return Err(format!("{scenario} failed: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let written: u64 = String::from_utf8_lossy(&output.stdout).trim().parse()?;
    let mut micros = receiver.taken()?.micros;
    if micros.len() as u64 != written {
        return Err(format!("{scenario}: {written} records were written, {} arrived", micros.len()).into());
    }
    micros.sort_unstable();
    let percentile = |part: usize| micros[(micros.len() - 1) * part / 100] as f64 / 1e3;
    Ok(Latency {
        scenario: scenario.to_owned(),
        records: written,
        p50_millis: percentile(50),
        p99_millis: percentile(99),
        max_millis: percentile(100),
        aim_millis: (POLL + ADDED_MAX).as_secs_f64() * 1e3,
    })
}

impl Child {
    /// Ships what is written, in this process.
    pub(crate) fn run(&self) -> Result<(), Box<dyn StdError>> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let written = runtime.block_on(self.written())?;
        println!("{written}");
        Ok(())
    }

    async fn written(&self) -> Result<u64, Box<dyn StdError>> {
        let database = self.dir.join("timed.sqlite");
        let (source, mut store): (Arc<dyn Source>, Store) = match self.scenario.as_str() {
            "latency-memory" => {
                let source = MemorySource::new();
                (Arc::new(source.clone()), Store::Memory(source))
            }
            "latency-sqlite" => {
                let connection = create(&database).await?;
                let config = SqliteConfig { path: database, mapping: mapping() };
                (Arc::new(SqliteSource::open(config)?), Store::Sqlite(Box::new(connection)))
            }
            other => return Err(format!("`{other}` is none of {LATENCIES:?}").into()),
        };
        let mut config =
            ElasticsearchConfig::new(vec![format!("http://127.0.0.1:{}", self.port).parse()?], TIMED_INDEX);
        config.compression = Compression::None;
        let shipper = LogShipper::builder_shared(source)
            .offsets(FileOffsets::new(self.dir.join("offsets")))
            .poll_interval(POLL)
            .lane(Lane::new("es", Elasticsearch::new(config, &BuildContext::default())?).chunk(CHUNK))
            .build()?;
        let stop = CancellationToken::new();
        let run = tokio::spawn({
            let stop = stop.clone();
            async move { shipper.run(stop).await }
        });
        // Until connections are made, and after the last record until it has arrived.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let written = store.write().await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        stop.cancel();
        run.await??;
        Ok(written)
    }
}

fn mapping() -> TableMapping {
    TableMapping {
        id_format: IdFormat::Integer,
        timestamp_format: TimestampFormat::Text,
        body: Some("message".to_owned()),
        ..TableMapping::new("logs", "id", "timestamp")
    }
}

async fn create(database: &Path) -> Result<SqliteConnection, sqlx::Error> {
    let options = SqliteConnectOptions::new().filename(database).create_if_missing(true);
    let mut connection = SqliteConnection::connect_with(&options.journal_mode(SqliteJournalMode::Wal)).await?;
    let sql = "create table logs (id integer primary key, timestamp text not null, message text);
               create index logs_order on logs (timestamp, id)";
    connection.execute(sql).await?;
    Ok(connection)
}

/// Where records are written.
enum Store {
    Memory(MemorySource),
    Sqlite(Box<SqliteConnection>),
}

impl Store {
    /// Writes at its pace, and says how many records. Their time is that before the transaction, so what is measured
    /// includes the writing of up to [`BATCH`] of them.
    async fn write(&mut self) -> Result<u64, sqlx::Error> {
        let mut pace = tokio::time::interval(BATCH_EVERY);
        let batches = (WRITING.as_millis() / BATCH_EVERY.as_millis()) as u64;
        for batch in 0..batches {
            pace.tick().await;
            let now = Timestamp::now();
            let numbers = batch * BATCH..(batch + 1) * BATCH;
            match self {
                Store::Memory(source) => {
                    for number in numbers {
                        source.push("logs", now, |record| record.body = text(number).into());
                    }
                }
                Store::Sqlite(connection) => {
                    let mut transaction = connection.begin().await?;
                    for number in numbers {
                        let insert = sqlx::query("insert into logs values ($1, $2, $3)").bind(number as i64);
                        insert.bind(now.to_string()).bind(text(number)).execute(&mut *transaction).await?;
                    }
                    transaction.commit().await?;
                }
            }
        }
        Ok(batches * BATCH)
    }
}

fn text(number: u64) -> String {
    format!("{number}: copied 8192 rows from staging.orders to warehouse.orders in 3 batches")
}

impl Latency {
    pub(crate) const HEAD: &'static str =
        "scenario                 |  records |   p50 ms   p99 ms   max ms | aim for p99: poll interval + 50 ms";
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Latency { scenario, records, p50_millis, p99_millis, max_millis, aim_millis } = self;
        write!(
            f,
            "{scenario:24} | {records:>8} | {p50_millis:>8.1} {p99_millis:>8.1} {max_millis:>8.1} | {aim_millis:.0} ms"
        )
    }
}
