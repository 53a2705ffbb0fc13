//! Databases that go away in the middle of a run: what passes is waited for, what does not is said, nothing is lost.

use std::sync::Arc;
use std::time::Duration;

use logship::state::memory::MemoryOffsets;
use logship::{ErrorKind, Lane, LaneStatus, LogShipper, PageLimits, Query, RetryPolicy, RunReport, Source, Start};
use logship_testkit::strict::Fault;
use logship_testkit::strict::elasticsearch::StrictElasticsearch;
use sqlx::{AnyPool, AssertSqlSafe, Executor};

use super::destinations::*;
use super::tables::*;

const ROWS: usize = 2_000;

async fn fill(pool: &AnyPool) {
    for batch in 0..ROWS / 100 {
        let row = |n| format!("('{:05}', '2026-11-20 08:30:00', 'row {0}', 'INFO')", 100 * batch + n);
        let rows: Vec<String> = (0..100).map(row).collect();
        let statement = format!("insert into t (id, at, m, level) values {}", rows.join(", "));
        pool.execute(AssertSqlSafe(statement)).await.unwrap();
    }
}

/// Ships in small pages to a destination that takes its time, and calls `hurt` again and again once it has begun.
/// Says how often `hurt` says that it did.
async fn ship_while_hurt(
    source: impl Source + 'static,
    hurt: impl AsyncFn() -> usize,
) -> (RunReport, StrictElasticsearch, usize) {
    let server = StrictElasticsearch::start().await.unwrap();
    server.fail_next(usize::MAX >> 50, Fault::Slow(Duration::from_millis(15)));
    let mut retry = RetryPolicy::default();
    retry.attempts_max = 1_000;
    retry.delay_initial = Duration::from_millis(1);
    retry.delay_max = Duration::from_millis(10);
    let lane = Lane::new("es", elasticsearch(&server)).chunk(40).retry(retry);
    let builder = LogShipper::builder(source).offsets(MemoryOffsets::new()).lookback(None).lane(lane);
    let shipper = builder.page_records(40).build().unwrap();
    let run = tokio::spawn(async move { shipper.run_once().await.unwrap() });
    server.arrived(2).await;
    let (mut hits, mut requests) = (0, 2);
    while !run.is_finished() {
        hits += hurt().await;
        requests += 1;
        // The next blow falls when the lane has moved, so that it falls at another place.
        let moved = server.arrived(requests);
        let _ = tokio::time::timeout(Duration::from_millis(50), moved).await;
    }
    (run.await.unwrap(), server, hits)
}

fn assert_whole(report: &RunReport, server: &StrictElasticsearch) {
    assert!(matches!(report.lanes[0].status, LaneStatus::Complete), "{report:?}");
    assert_eq!((report.lanes[0].accepted, server.count(STREAM)), (ROWS as u64, ROWS));
}

#[tokio::test]
async fn p1_a_postgresql_that_ends_our_connections_again_and_again_loses_nothing() {
    let Some(server) = server("LOGSHIP_POSTGRES_URL") else { return };
    let (url, pool) = database(&server, "gone").await;
    pool.execute(
        "create table t (id text primary key, at timestamp, m text, level text, n float8, j json);
         create index on t (at, id collate \"C\")",
    )
    .await
    .unwrap();
    fill(&pool).await;
    let hurt = async || {
        let ended: i64 = sqlx::query_scalar(
            "select count(*) from (select pg_terminate_backend(pid) from pg_stat_activity
             where application_name = 'logship' and datname = current_database()) t",
        )
        .fetch_one(&pool)
        .await
        .unwrap();
        ended as usize
    };
    let (report, server, hits) = ship_while_hurt(postgres(&url, mapping()), hurt).await;
    assert_whole(&report, &server);
    assert!(hits > 5, "only {hits} connections were ended");
}

#[tokio::test]
async fn p1_a_mariadb_that_ends_our_connections_again_and_again_loses_nothing() {
    let Some(server) = server("LOGSHIP_MYSQL_URL") else { return };
    let (url, pool) = database(&server, "gone").await;
    pool.execute(
        "create table t (id varchar(40) primary key, at datetime(6), m text, level text, n double, j longtext)",
    )
    .await
    .unwrap();
    pool.execute("create index t_at on t (at, id)").await.unwrap();
    fill(&pool).await;
    // Connections to the server's own database, to tell them from those of the source.
    let admin = AnyPool::connect(&server).await.unwrap();
    let hurt = async || {
        let ids: Vec<i64> = sqlx::query_scalar(
            "select id from information_schema.processlist where db = 'logship_bad_gone' and info is null or info like '%`at`%'",
        )
        .fetch_all(&admin)
        .await
        .unwrap();
        let mut ended = 0;
        for id in ids {
            // It may have gone by itself.
            ended += usize::from(admin.execute(AssertSqlSafe(format!("kill {id}"))).await.is_ok());
        }
        ended
    };
    let (report, server, hits) = ship_while_hurt(mysql(&url, mapping()), hurt).await;
    assert_whole(&report, &server);
    assert!(hits > 5, "only {hits} connections were ended");
}

/// Goal: a database file that is gone is an error that passes when it is back, and another one in its place is never
/// taken for it. Without that an open file would be read for ever, in which nothing new appears.
#[tokio::test]
async fn p1_a_sqlite_file_that_is_gone_is_waited_for_and_another_one_is_not_taken_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let (path, pool) = sqlite_file(dir.path()).await;
    pool.execute("create table t (id text primary key, at text, m text, level text, n, j text)").await.unwrap();
    pool.execute("create index t_at on t (at, id)").await.unwrap();
    fill(&pool).await;
    pool.close().await;
    let away = dir.path().join("away.db");
    let source = Arc::new(sqlite(&path, mapping()));
    let again = {
        let (path, away) = (path.clone(), away.clone());
        move || {
            let (from, to) = if path.exists() { (&path, &away) } else { (&away, &path) };
            std::fs::rename(from, to).unwrap();
            1
        }
    };
    let (report, server, hits) = ship_while_hurt(sqlite(&path, mapping()), async || again()).await;
    assert_whole(&report, &server);
    assert!(hits > 5, "the file was moved only {hits} times");

    if !path.exists() {
        std::fs::rename(&away, &path).unwrap();
    }
    let partition = source.partitions().await.unwrap().remove(0);
    let limits = PageLimits { records_max: 10, bytes_max: usize::MAX, until: None };
    let read = async || source.read(&partition, &Start::Earliest, &Query::all(), limits).await;
    assert_eq!(read().await.unwrap().records().len(), 10);
    std::fs::remove_file(&path).unwrap();
    let error = read().await.unwrap_err();
    assert!(error.kind() == ErrorKind::Unavailable && error.is_retryable(), "{error}");
    assert!(error.to_string().contains("logs.db"), "{error}");
    let (_, pool) = sqlite_file(dir.path()).await;
    pool.execute("create table t (id text primary key, at text, m text, level text, n, j text)").await.unwrap();
    let error = read().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::State, "{error}");
    assert!(error.to_string().contains("start again"), "{error}");
}
