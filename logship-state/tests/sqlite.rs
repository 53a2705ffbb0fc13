//! The SQLite store keeps the contract of `OffsetStore`.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![cfg(feature = "sqlite")]

mod conformance;

use std::time::Duration;

use conformance::{Slow, TTL, key, moved};
use logship_core::{Cursor, ErrorKind, OffsetStore};
use logship_state::sqlite::SqliteOffsets;
use sqlx::SqlitePool;
use sqlx::sqlite::SqliteConnectOptions;
use tempfile::TempDir;

fn store() -> (TempDir, SqliteOffsets) {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteOffsets::new(dir.path().join("state.db"));
    (dir, store)
}

/// A connection of the program's own, which may look and meddle.
async fn pool(dir: &TempDir) -> SqlitePool {
    let options = SqliteConnectOptions::new().filename(dir.path().join("state.db"));
    SqlitePool::connect_with(options.busy_timeout(Duration::from_secs(5))).await.unwrap()
}

#[tokio::test]
async fn c1_commits_merge_and_change_nothing_they_do_not_name() {
    let (_dir, store) = store();
    conformance::c1_commits_merge_and_change_nothing_they_do_not_name(&store).await;
}

#[tokio::test]
async fn c1_a_lane_without_a_cursor_is_kept() {
    let (_dir, store) = store();
    conformance::c1_a_lane_without_a_cursor_is_kept(&store).await;
}

#[tokio::test]
async fn c1_windows_are_kept_and_forgotten() {
    let (_dir, store) = store();
    conformance::c1_windows_are_kept_and_forgotten(&store).await;
}

#[tokio::test]
async fn c2_an_old_lease_moves_nothing() {
    let (_dir, store) = store();
    conformance::c2_an_old_lease_moves_nothing(&store).await;
}

#[tokio::test]
async fn c3_a_held_key_is_busy_and_epochs_grow() {
    let (dir, store) = store();
    let other = SqliteOffsets::new(dir.path().join("state.db"));
    conformance::c3_a_held_key_is_busy_and_epochs_grow(&store, &other).await;
}

/// The database's clock cannot be moved, so the stored ends are moved the other way.
#[tokio::test]
async fn c4_a_lease_that_is_not_renewed_expires() {
    let (dir, store) = store();
    store.list().await.unwrap();
    let pool = pool(&dir).await;
    let pass = async |time: Duration| {
        let shift = sqlx::query("UPDATE logship_keys SET expires_at = expires_at - ?").bind(time.as_secs_f64() * 60.0);
        shift.execute(&pool).await.unwrap();
    };
    // Sixty times slower than the suite says, so that the seconds the test itself takes do not matter.
    let slow = Slow(store);
    conformance::c4_a_lease_that_is_not_renewed_expires(&slow, pass).await;
}

#[tokio::test]
async fn c5_what_was_committed_is_there_after_a_restart() {
    let (dir, store) = store();
    let reopened = SqliteOffsets::new(dir.path().join("state.db"));
    conformance::c5_what_was_committed_is_there_after_a_restart(&store, &reopened).await;
}

#[tokio::test]
async fn c5_rows_that_cannot_be_read_are_an_error() {
    let (dir, store) = store();
    let lease = store.acquire(&key("k"), "me", TTL).await.unwrap();
    store.commit(&lease, &moved("es", "p", Cursor::number(1))).await.unwrap();
    let pool = pool(&dir).await;
    for (damage, repair, words) in [
        ("UPDATE logship_offsets SET cursor = 'x'", "UPDATE logship_offsets SET cursor = '5'", "`x` is not a cursor"),
        ("UPDATE logship_lanes SET since = 'x'", "UPDATE logship_lanes SET since = NULL", "is not a time"),
        ("UPDATE logship_keys SET version = 2", "UPDATE logship_keys SET version = 1", "version 2"),
    ] {
        sqlx::query(damage).execute(&pool).await.unwrap();
        let error = store.load(&key("k")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::State, "{error}");
        assert!(error.to_string().contains(words), "{error}");
        sqlx::query(repair).execute(&pool).await.unwrap();
    }
    assert_eq!(store.load(&key("k")).await.unwrap().lanes["es"].cursors["p"], Cursor::number(5));
}

#[tokio::test]
async fn c5_a_file_that_is_no_database_is_an_error() {
    let (dir, store) = store();
    std::fs::write(dir.path().join("state.db"), "x".repeat(4096)).unwrap();
    let error = store.load(&key("k")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::State, "{error}");
}

#[tokio::test]
async fn c6_what_is_stored_is_text_with_the_version_of_its_form() {
    let (dir, store) = store();
    let lease = store.acquire(&key("k"), "worker-7", TTL).await.unwrap();
    store.commit(&lease, &moved("es", "p", Cursor::new(3, "row".into()))).await.unwrap();
    let pool = pool(&dir).await;
    let offset: (String, String, String, String) =
        sqlx::query_as("SELECT key, lane, partition, cursor FROM logship_offsets").fetch_one(&pool).await.unwrap();
    let expected = ["k", "es", "p", "00000000000000000003/row"].map(str::to_owned);
    assert_eq!(<[String; 4]>::from(offset), expected);
    let held: (i64, i64, String) =
        sqlx::query_as("SELECT version, epoch, owner FROM logship_keys").fetch_one(&pool).await.unwrap();
    assert_eq!(held, (1, 1, "worker-7".to_owned()));
}

/// A pool of the program's own whose database somebody else is writing to: retryable, and nothing changed.
#[tokio::test]
async fn a_locked_database_is_tried_again() {
    let (dir, store) = store();
    let lease = store.acquire(&key("k"), "me", TTL).await.unwrap();
    let options = SqliteConnectOptions::new().filename(dir.path().join("state.db")).busy_timeout(Duration::ZERO);
    let impatient = SqliteOffsets::in_pool(SqlitePool::connect_with(options).await.unwrap());
    impatient.list().await.unwrap();
    let pool = pool(&dir).await;
    let writer = pool.begin_with("BEGIN IMMEDIATE").await.unwrap();
    let error = impatient.commit(&lease, &moved("es", "p", Cursor::number(1))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.is_retryable());
    writer.rollback().await.unwrap();
    impatient.commit(&lease, &moved("es", "p", Cursor::number(1))).await.unwrap();
}

#[tokio::test]
async fn keys_with_offsets_are_listed_in_order() {
    let (_dir, store) = store();
    conformance::keys_with_offsets_are_listed_in_order(&store).await;
}

#[tokio::test]
async fn a_reset_forgets_and_is_refused_while_leased() {
    let (_dir, store) = store();
    conformance::a_reset_forgets_and_is_refused_while_leased(&store).await;
}

#[test]
fn a_store_can_be_made_outside_a_runtime() {
    let (_dir, store) = store();
    assert_eq!(store.kind(), "sqlite");
}
