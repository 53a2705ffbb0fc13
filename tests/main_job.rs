//! The main job, part by part, as the quickstart shows it.

#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "../examples/quickstart.rs"]
#[allow(dead_code, unreachable_pub, missing_docs)]
mod quickstart;

use std::path::Path;

use logship::LaneStatus;
use logship_testkit::strict::elasticsearch::StrictElasticsearch;
use quickstart::{add_rows, ship, shipper};

const INDEX: &str = "logs-orchestrator-default";

/// Rows of INFO and above in the database.
async fn wanted(database: &Path) -> usize {
    let pool = sqlx::SqlitePool::connect(&database.display().to_string()).await.unwrap();
    let sql = "select count(*) from logs where level in ('INFO', 'WARN', 'ERROR')";
    let count: i64 = sqlx::query_scalar(sql).fetch_one(&pool).await.unwrap();
    count as usize
}

/// Lines in all Ion files.
fn ion_lines(dir: &Path) -> usize {
    let files = std::fs::read_dir(dir.join("ion")).unwrap();
    files.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap().lines().count()).sum()
}

/// Goal: what is new is shipped, once, to each; a destination that is away is not missed by the others and catches up
/// alone. Method: a real database, real files, and the strict Elasticsearch, which keeps what it accepts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x1_each_destination_gets_what_is_new_to_it_once() {
    let dir = tempfile::tempdir().unwrap();
    let database = dir.path().join("logs.db");
    add_rows(&database, 3_000).await.unwrap();
    let mut elasticsearch = StrictElasticsearch::start().await.unwrap();
    let shipper = shipper(&database, dir.path(), &elasticsearch.url()).unwrap();

    let first = ship(&shipper, false).await.unwrap();
    let all = wanted(&database).await;
    assert!(first.is_complete(), "{first}");
    assert_eq!((elasticsearch.count(INDEX), ion_lines(dir.path())), (all, all));
    assert_eq!(first.lane("json").unwrap().accepted, all as u64);
    assert!(first.lanes.iter().all(|lane| lane.balances()), "{first}");

    add_rows(&database, 500).await.unwrap();
    let second = ship(&shipper, false).await.unwrap();
    let new = wanted(&database).await - all;
    assert!(second.lanes.iter().all(|lane| lane.accepted == new as u64), "{second}");

    add_rows(&database, 500).await.unwrap();
    elasticsearch.take_away().await;
    let away = ship(&shipper, false).await.unwrap();
    let newest = wanted(&database).await - all - new;
    assert!(matches!(away.lane("search").unwrap().status, LaneStatus::Stopped(_)), "{away}");
    assert_eq!(away.lane("ion").unwrap().accepted, newest as u64);
    elasticsearch.bring_back().await.unwrap();
    let back = ship(&shipper, false).await.unwrap();
    let accepted: Vec<u64> = back.lanes.iter().map(|lane| lane.accepted).collect();
    assert_eq!(accepted, [0, 0, newest as u64], "{back}");

    let all = wanted(&database).await;
    assert_eq!((elasticsearch.count(INDEX), ion_lines(dir.path())), (all, all));
    assert_eq!(elasticsearch.duplicates(), 0);
}
