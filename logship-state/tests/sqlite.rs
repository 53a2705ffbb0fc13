//! The SQLite store keeps the contract of `OffsetStore`.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![cfg(feature = "sqlite")]

use std::time::Duration;

use logship_core::{Cursor, ErrorKind, OffsetKey, OffsetStore, async_trait};
use logship_state::sqlite::SqliteOffsets;
use logship_testkit::conformance::offset_store::{OffsetStoreFixture, TTL, key, moved};
use logship_testkit::offset_store_conformance;
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

struct Fixture(TempDir);

#[async_trait]
impl OffsetStoreFixture for Fixture {
    async fn open(&self) -> Box<dyn OffsetStore> {
        Box::new(SqliteOffsets::new(self.0.path().join("state.db")))
    }

    /// The database's clock cannot be moved, so the stored ends are moved the other way.
    async fn pass(&self, time: Duration) -> bool {
        let shift = sqlx::query("UPDATE logship_keys SET expires_at = expires_at - ?").bind(time.as_secs_f64());
        shift.execute(&pool(&self.0).await).await.unwrap();
        true
    }

    async fn damage(&self, key: &OffsetKey) -> bool {
        let damage = sqlx::query("UPDATE logship_offsets SET cursor = 'x' WHERE key = ?").bind(key.as_str());
        damage.execute(&pool(&self.0).await).await.unwrap();
        true
    }

    async fn text(&self, key: &OffsetKey) -> Option<String> {
        let text = sqlx::query_scalar(
            "SELECT key || ' ' || lane || ' ' || partition || ' ' || cursor || ' version ' || version
             FROM logship_offsets JOIN logship_keys USING (key) WHERE key = ?",
        );
        text.bind(key.as_str()).fetch_one(&pool(&self.0).await).await.ok()
    }
}

offset_store_conformance!(async |_| Some(Fixture(tempfile::tempdir().unwrap())));

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

#[test]
fn a_store_can_be_made_outside_a_runtime() {
    let (_dir, store) = store();
    assert_eq!(store.kind(), "sqlite");
}
