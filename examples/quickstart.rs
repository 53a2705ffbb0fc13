//! The main job: out of an orchestrator's database to three destinations at once.
//!
//! What you will see: a SQLite log table with 200 000 rows is shipped, INFO and above, to Ion files, to gzipped JSON
//! files and to Elasticsearch, from one read; rows are added, and only those are shipped; Elasticsearch is taken away,
//! the other two go on, it comes back, and alone catches up.
//!
//!     cargo run --release --example quickstart [-- path/to/logs.db]
//!
//! Elasticsearch is a strict stand-in inside this process, unless `LOGSHIP_ES_URL` names a real one.

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use logship::exporters::file::{FileConfig, FileExporter};
use logship::sources::sqlite::{SqliteConfig, SqliteSource, TableMapping};
use logship::state::file::FileOffsets;
use logship::{BuildContext, Lane, LogShipper, Progress, Query, RetryPolicy, RunReport, Severity, registry};
use logship_testkit::strict::elasticsearch::StrictElasticsearch;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
use sqlx::{Executor, SqlitePool};

/// Any error ends the example with its text.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let given = std::env::args().nth(1).map(PathBuf::from);
    let dir = PathBuf::from("quickstart-data");
    if dir.exists() && given.is_none() {
        // Every quickstart begins anew; offsets and files belong to the database that is made here.
        std::fs::remove_dir_all(&dir)?;
    }
    std::fs::create_dir_all(&dir)?;
    let database = given.clone().unwrap_or_else(|| dir.join("logs.db"));
    if given.is_none() {
        println!("Making a log table of 200 000 rows in {} ...", database.display());
        add_rows(&database, 200_000).await?;
    }
    let mut elasticsearch = Elasticsearch::start().await?;
    let shipper = shipper(&database, &dir, elasticsearch.url())?;

    println!("\n1. Everything there is, INFO and above, to three destinations at once:\n");
    println!("{}", ship(&shipper, true).await?);
    if given.is_some() {
        return Ok(());
    }

    add_rows(&database, 1_000).await?;
    println!("2. A thousand rows more; only what is new to each is shipped:\n\n{}", ship(&shipper, true).await?);

    add_rows(&database, 1_000).await?;
    if elasticsearch.take_away().await {
        println!("3. Elasticsearch is away; the others do not notice:\n\n{}", ship(&shipper, true).await?);
        elasticsearch.bring_back().await?;
        println!("   It is back, and alone catches up:\n\n{}", ship(&shipper, true).await?);
    }
    println!("The files are in {}.", dir.display());
    Ok(())
}

/// A shipper from the database to Ion files, gzipped JSON files and Elasticsearch.
pub fn shipper(database: &Path, dir: &Path, elasticsearch: &str) -> Result<LogShipper, Failure> {
    let source = SqliteSource::open(SqliteConfig { path: database.into(), mapping: TableMapping::kestra() })?;
    let ion = FileExporter::new(FileConfig { dir: dir.join("ion"), ..FileConfig::default() });
    let json = FileConfig {
        dir: dir.join("json"),
        format: logship::exporters::encode::Format::Json,
        compression: logship::Compression::GZIP,
        ..FileConfig::default()
    };
    let fields = serde_json::json!({"hosts": [elasticsearch], "index": "logs-orchestrator-default"});
    let search = registry().exporter("elasticsearch", serde_json::from_value(fields)?, &BuildContext::default())?;
    let mut retry = RetryPolicy::default();
    retry.attempts_max = 3;
    retry.delay_max = Duration::from_millis(200);
    Ok(LogShipper::builder(source)
        .offsets(FileOffsets::new(dir.join("offsets")))
        .query(Query::all().severity_min(Severity::INFO))
        .lookback(None)
        .lane(Lane::new("ion", ion).chunk(20_000))
        .lane(Lane::new("json", FileExporter::new(json)).chunk(10_000))
        .lane(Lane::shared("search", search).chunk(5_000).concurrency(2).retry(retry))
        .build()?)
}

/// Ships what there is now, with a bar for each lane.
pub async fn ship(shipper: &LogShipper, bars: bool) -> Result<RunReport, Failure> {
    let mut progress = shipper.progress();
    let all = MultiProgress::new();
    let run = shipper.run_once();
    tokio::pin!(run);
    let mut shown: Vec<(String, ProgressBar)> = Vec::new();
    loop {
        tokio::select! {
            report = &mut run => {
                shown.iter().for_each(|(_, bar)| bar.finish());
                return Ok(report?);
            }
            Some(progress) = progress.next(), if bars => {
                if let Progress::Delivered { lane, read, accepted, .. } = progress {
                    let at = shown.iter().position(|(id, _)| **id == *lane).unwrap_or_else(|| {
                        let bar = all.add(ProgressBar::new(0).with_message(lane.to_string()));
                        bar.set_style(ProgressStyle::default_bar());
                        if let Ok(style) = ProgressStyle::with_template("{msg:8} {bar:40} {pos}/{len} {per_sec}") {
                            bar.set_style(style);
                        }
                        shown.push((lane.to_string(), bar));
                        shown.len() - 1
                    });
                    shown[at].1.set_length(read);
                    shown[at].1.set_position(accepted);
                }
            }
        }
    }
}

/// Appends believable rows to an orchestrator's log table, which is made when it is not there.
pub async fn add_rows(database: &Path, rows: usize) -> Result<(), Failure> {
    let options = SqliteConnectOptions::new().filename(database).create_if_missing(true);
    let pool: SqlitePool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await?;
    pool.execute(
        "create table if not exists logs (key text primary key, tenant_id text, namespace text not null, \
         flow_id text not null, task_id text, execution_id text, taskrun_id text, attempt_number integer, \
         trigger_id text, execution_kind text, level text, timestamp text, thread text, message text); \
         create index if not exists logs_timestamp on logs (timestamp, key)",
    )
    .await?;
    let (from,): (i64,) = sqlx::query_as("select count(*) from logs").fetch_one(&pool).await?;
    let mut random = fastrand::Rng::with_seed(from as u64 + 1);
    let mut transaction = pool.begin().await?;
    for number in from..from + rows as i64 {
        let row = row(number, &mut random);
        sqlx::query(
            "insert into logs (key, tenant_id, namespace, flow_id, task_id, execution_id, taskrun_id, attempt_number, \
             level, timestamp, thread, message) values (?, 'main', ?, ?, ?, ?, ?, 0, ?, ?, ?, ?)",
        )
        .bind(format!("{:016x}{number:06x}", random.u64(..)))
        .bind(row.namespace)
        .bind(row.flow)
        .bind(row.task)
        .bind(format!("exec{:06}", number / 40))
        .bind(format!("run{number:07}"))
        .bind(row.level)
        .bind(row.timestamp)
        .bind(format!("worker_{}", number % 8))
        .bind(row.message)
        .execute(&mut *transaction)
        .await?;
    }
    transaction.commit().await?;
    pool.close().await;
    Ok(())
}

struct LogRow {
    namespace: &'static str,
    flow: &'static str,
    task: &'static str,
    level: &'static str,
    timestamp: String,
    message: String,
}

/// One row: several share a time, as they do in practice, and some are stack traces over many lines.
fn row(number: i64, random: &mut fastrand::Rng) -> LogRow {
    let namespace = ["company", "company.team", "company.team.etl", "company.billing"][random.usize(0..4)];
    let flow = ["nightly-load", "invoice-run", "sync-customers", "train-model"][random.usize(0..4)];
    let task = ["extract", "transform", "load", "notify"][random.usize(0..4)];
    let micros = 1_795_000_000_000_000 + number / 3 * 1_371;
    let timestamp = logship::Timestamp::from_micros(micros).to_string();
    let (level, message) = match random.u32(0..100) {
        0..=9 => ("DEBUG", format!("Resolved 14 variables for task '{task}' in {} µs", random.u32(20..900))),
        10..=14 => ("TRACE", stack_trace(flow, random)),
        15..=79 => (
            "INFO",
            format!("Fetched {} rows from \"public\".\"orders\" ({} kB)", random.u32(1..90_000), random.u32(1..9_000)),
        ),
        80..=93 => (
            "WARN",
            format!(
                "Request to https://api.example.com/v2/{flow} took {} ms, retrying – café №{number}",
                random.u32(500..9_000)
            ),
        ),
        _ => ("ERROR", stack_trace(flow, random)),
    };
    LogRow { namespace, flow, task, level, timestamp: format!("{}Z", &timestamp[..26]), message }
}

fn stack_trace(flow: &str, random: &mut fastrand::Rng) -> String {
    let mut text = format!("java.lang.IllegalStateException: Flow '{flow}' failed: connection \"reset\" by peer\n");
    for frame in 0..random.usize(4..14) {
        text.push_str(&format!("\tat io.example.runner.Worker$Task{frame}.run(Worker.java:{})\n", random.u32(10..900)));
    }
    text
}

/// The stand-in, or a real one.
enum Elasticsearch {
    StandIn(Box<StrictElasticsearch>, String),
    Real(String),
}

impl Elasticsearch {
    async fn start() -> Result<Self, Failure> {
        match std::env::var("LOGSHIP_ES_URL") {
            Ok(url) => Ok(Elasticsearch::Real(url)),
            Err(_) => {
                let server = StrictElasticsearch::start().await?;
                let url = server.url();
                Ok(Elasticsearch::StandIn(Box::new(server), url))
            }
        }
    }

    fn url(&self) -> &str {
        match self {
            Elasticsearch::StandIn(_, url) | Elasticsearch::Real(url) => url,
        }
    }

    /// Takes it away; a real one stays.
    async fn take_away(&mut self) -> bool {
        match self {
            Elasticsearch::StandIn(server, _) => {
                server.take_away().await;
                true
            }
            Elasticsearch::Real(_) => false,
        }
    }

    async fn bring_back(&mut self) -> std::io::Result<()> {
        match self {
            Elasticsearch::StandIn(server, _) => server.bring_back().await,
            Elasticsearch::Real(_) => Ok(()),
        }
    }
}
