//! P1, P3 and P4 with real processes: a shipper that is killed again and again, real databases whose writers commit out
//! of order and late, and the strict Elasticsearch, at which every row is counted.
//!
//! `LOGSHIP_KILLS` and `LOGSHIP_KILL_ROWS` make it longer: 100 and 200 000 for the whole proof.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test says what it does, and why it fails by its panic")]

use std::collections::HashSet;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use logship::config::ShipperConfig;
use logship::{BuildContext, CancellationToken, ErrorKind, registry};
use logship_testkit::strict::elasticsearch::StrictElasticsearch;
use serde_json::{Value, json};
use sqlx::any::{AnyPoolOptions, install_default_drivers};
use sqlx::{AnyPool, AssertSqlSafe, Executor};

const STREAM: &str = "logs-killed-default";

/// How late a row may appear: this is longer than any transaction and any slow clock below.
const OVERLAP_SECS: u64 = 10;

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// The process that is killed: ships for ever, as the configuration in its environment says.
#[tokio::test]
#[ignore = "is run by the tests below, as a process of its own"]
async fn child() {
    let Ok(config) = std::env::var("LOGSHIP_KILL_CONFIG") else { return };
    let config: ShipperConfig = serde_json::from_str(&config).unwrap();
    let shipper = config.build(&registry(), &BuildContext::default()).unwrap();
    loop {
        match shipper.run(CancellationToken::new()).await {
            // The one that was killed has the lease for a while.
            Err(error) if error.kind() == ErrorKind::Busy => tokio::time::sleep(Duration::from_millis(10)).await,
            Err(error) => panic!("{error}"),
            Ok(report) => panic!("it ended by itself: {report}"),
        }
    }
}

fn spawn(config: &Value) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--nocapture"])
        .env("LOGSHIP_KILL_CONFIG", config.to_string())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// One row: its own time may be a while ago, as from a worker with a slow clock.
fn insert(number: usize, rng: &mut fastrand::Rng) -> String {
    let ago = Duration::from_millis(if rng.u32(0..20) == 0 { rng.u64(0..2_000) } else { 0 });
    let time = logship::Timestamp::now().saturating_sub(ago).to_string();
    format!(
        "insert into logs (id, at, level, message) values ('row-{number:07}', '{}', 'INFO', 'row {number}')",
        &time[..26]
    )
}

/// Rows of one transaction, on average.
const TRANSACTION_ROWS: usize = 60;

/// Writes so many rows in about this time: many transactions at a time, each open for a while between its writes and
/// its commit, so that they commit in another order than that of their times.
async fn write(pool: AnyPool, writers: usize, rows: usize, time: Duration) {
    let pause = time * (writers * TRANSACTION_ROWS) as u32 / rows as u32;
    let tasks = (0..writers).map(|writer| {
        let pool = pool.clone();
        tokio::spawn(async move {
            let mut rng = fastrand::Rng::with_seed(writer as u64);
            let mut numbers = (writer..rows).step_by(writers).peekable();
            while numbers.peek().is_some() {
                let mut transaction = pool.begin().await.unwrap();
                for number in numbers.by_ref().take(rng.usize(1..2 * TRANSACTION_ROWS)) {
                    transaction.execute(AssertSqlSafe(insert(number, &mut rng))).await.unwrap();
                }
                let pause = pause.mul_f64(2.0 * rng.f64());
                // A single writer is one because nobody else may write while its transaction is open.
                let open = if writers > 1 { pause.min(Duration::from_secs(3)) } else { Duration::ZERO };
                tokio::time::sleep(open).await;
                transaction.commit().await.unwrap();
                tokio::time::sleep(pause - open).await;
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
}

/// Ships with a process that is killed at random moments while rows are written, and counts at the destination.
async fn killed(url: &str, writers: usize, kills: usize, rows: usize, source: Value, offsets: Value) {
    install_default_drivers();
    let pool = AnyPoolOptions::new().max_connections(writers as u32).connect(url).await.unwrap();
    let elasticsearch = StrictElasticsearch::start().await.unwrap();
    let config = json!({
        "source": source, "offsets": offsets, "overlap_secs": OVERLAP_SECS, "lookback_secs": 0,
        "lease_ttl_ms": 600, "poll_interval_ms": 20,
        "exporters": [{"id": "es", "type": "elasticsearch", "hosts": [elasticsearch.url()], "index": STREAM,
            "lane": {"chunk": 200, "concurrency": 2}}],
    });
    let writing = tokio::spawn(write(pool, writers, rows, Duration::from_millis(900) * kills as u32));
    let mut rng = fastrand::Rng::new();
    let seed = rng.get_seed();
    let mut shipped_between = 0;
    for _ in 0..kills {
        let before = elasticsearch.count(STREAM);
        let mut process = spawn(&config);
        tokio::time::sleep(Duration::from_millis(rng.u64(600..1_200))).await;
        process.kill().unwrap();
        process.wait().unwrap();
        shipped_between += usize::from(elasticsearch.count(STREAM) > before);
    }
    writing.await.unwrap();
    // The last process has time to find what is late.
    let mut last = spawn(&config);
    let patience = tokio::time::Instant::now() + Duration::from_secs(120);
    while elasticsearch.count(STREAM) < rows && tokio::time::Instant::now() < patience {
        assert!(last.try_wait().unwrap().is_none(), "the last process ended by itself");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    last.kill().unwrap();
    last.wait().unwrap();
    let documents = elasticsearch.documents(STREAM);
    let there: HashSet<&str> = documents.values().filter_map(|document| document["message"].as_str()).collect();
    let mut missing: Vec<String> = (0..rows).map(|number| format!("row {number}")).collect();
    missing.retain(|message| !there.contains(message.as_str()));
    assert!(missing.is_empty(), "seed {seed}: {} rows are missing, such as {:?}", missing.len(), &missing[..1]);
    assert_eq!(documents.len(), rows, "seed {seed}: each row is there once");
    assert!(shipped_between * 2 > kills, "only {shipped_between} of {kills} processes shipped anything");
}

fn mapping() -> Value {
    json!({"table": "logs", "id": "id", "timestamp": "at", "severity": "level", "body": "message"})
}

/// The address of a real server, or `None` where there need not be one.
fn server(name: &str) -> Option<String> {
    let url = std::env::var(name).ok();
    assert!(url.is_some() || std::env::var("LOGSHIP_REQUIRE_SERVERS").is_err(), "{name} is not set");
    if url.is_none() {
        eprintln!("not run: {name} is not set; eval \"$(scripts/servers.sh start)\" starts what it needs");
    }
    url
}

/// A database of its own on a server, with the table.
async fn database(server: &str, time: &str) -> String {
    install_default_drivers();
    let name = format!("logship_killed_{}", std::process::id());
    let url = format!("{}/{name}", server.rsplit_once('/').unwrap().0);
    let admin = AnyPool::connect(server).await.unwrap();
    for statement in [format!("drop database if exists {name}"), format!("create database {name}")] {
        admin.execute(AssertSqlSafe(statement)).await.unwrap();
    }
    let pool = AnyPool::connect(&url).await.unwrap();
    let table =
        format!("create table logs (id varchar(40) primary key, at {time} not null, level varchar(10), message text)");
    pool.execute(AssertSqlSafe(table)).await.unwrap();
    pool.execute("create index logs_at on logs (at, id)").await.unwrap();
    url
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_p3_p4_a_shipper_of_postgresql_that_is_killed_loses_and_repeats_nothing() {
    let Some(server) = server("LOGSHIP_POSTGRES_URL") else { return };
    let url = database(&server, "timestamptz").await;
    let source = json!({"type": "postgres", "url": url, "mapping": mapping()});
    let offsets = json!({"type": "postgres", "url": url});
    killed(&url, 12, number("LOGSHIP_KILLS", 15), number("LOGSHIP_KILL_ROWS", 15_000), source, offsets).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_p3_p4_a_shipper_of_mariadb_that_is_killed_loses_and_repeats_nothing() {
    let Some(server) = server("LOGSHIP_MYSQL_URL") else { return };
    let url = database(&server, "datetime(6)").await;
    let source = json!({"type": "mysql", "url": url, "mapping": mapping()});
    let offsets = json!({"type": "mysql", "url": url});
    killed(&url, 12, number("LOGSHIP_KILLS", 10).min(20), number("LOGSHIP_KILL_ROWS", 10_000), source, offsets).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_p3_p4_a_shipper_of_sqlite_that_is_killed_loses_and_repeats_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("logs.db");
    install_default_drivers();
    let url = format!("sqlite://{}?mode=rwc", Path::display(&file));
    let pool = AnyPool::connect(&url).await.unwrap();
    pool.execute("pragma journal_mode = wal").await.unwrap();
    pool.execute("create table logs (id text primary key, at text not null, level text, message text)").await.unwrap();
    pool.execute("create index logs_at on logs (at, id)").await.unwrap();
    let source = json!({"type": "sqlite", "path": file, "mapping": mapping()});
    let offsets = json!({"type": "file", "dir": dir.path().join("offsets")});
    killed(&url, 1, number("LOGSHIP_KILLS", 10).min(20), number("LOGSHIP_KILL_ROWS", 10_000), source, offsets).await;
}
