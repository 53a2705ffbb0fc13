//! The MySQL store keeps the contract of `OffsetStore`, against a real server.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![cfg(feature = "mysql")]

use std::time::Duration;

use logship_core::{BuildContext, Cursor, ErrorKind, OffsetKey, OffsetStore, async_trait};
use logship_state::mysql::{MysqlOffsets, MysqlOffsetsConfig};
use logship_testkit::conformance::offset_store::{OffsetStoreFixture, TTL, key, moved};
use logship_testkit::conformance::{cut, server};
use logship_testkit::offset_store_conformance;
use sqlx::mysql::MySqlPoolOptions;
use sqlx::{AssertSqlSafe, Executor, MySqlPool};

/// A database of a test's own.
struct Database {
    url: String,
    pool: MySqlPool,
}

impl Database {
    /// `None` if there is no server. Of the name, as much is taken as a server's limit allows.
    async fn new(name: &str) -> Option<Self> {
        let url = server("LOGSHIP_MYSQL_URL")?;
        let name = format!("logship_state_{}", &name[..name.len().min(45)]);
        let admin = MySqlPool::connect(&url).await.unwrap();
        admin.execute(AssertSqlSafe(format!("drop database if exists {name}"))).await.unwrap();
        admin.execute(AssertSqlSafe(format!("create database {name}"))).await.unwrap();
        admin.close().await;
        let url = format!("{}/{name}", url.rsplit_once('/').unwrap().0);
        Some(Database { pool: MySqlPool::connect(&url).await.unwrap(), url })
    }

    fn store(&self) -> MysqlOffsets {
        store(&self.url)
    }
}

fn store(url: &str) -> MysqlOffsets {
    MysqlOffsets::open(&MysqlOffsetsConfig { url: url.into() }, &BuildContext::default()).unwrap()
}

#[async_trait]
impl OffsetStoreFixture for Database {
    async fn open(&self) -> Box<dyn OffsetStore> {
        Box::new(self.store())
    }

    /// The database's clock cannot be moved, so the stored ends are moved the other way.
    async fn pass(&self, time: Duration) -> bool {
        let shift = sqlx::query("update logship_keys set expires_at = expires_at - interval ? microsecond");
        shift.bind(time.as_micros() as i64).execute(&self.pool).await.unwrap();
        true
    }

    async fn damage(&self, key: &OffsetKey) -> bool {
        let damage = sqlx::query("update logship_offsets set `cursor` = 'x' where `key` = ?").bind(key.as_str());
        damage.execute(&self.pool).await.unwrap();
        true
    }

    async fn text(&self, key: &OffsetKey) -> Option<String> {
        let text = sqlx::query_scalar(
            "select concat_ws(' ', `key`, lane, `partition`, `cursor`, 'version', version)
             from logship_offsets join logship_keys using (`key`) where `key` = ?",
        );
        text.bind(key.as_str()).fetch_one(&self.pool).await.ok()
    }
}

offset_store_conformance!(Database::new);

#[tokio::test]
async fn c5_rows_that_cannot_be_read_are_an_error() {
    let Some(database) = Database::new("c5_rows").await else { return };
    let store = database.store();
    let lease = store.acquire(&key("k"), "me", TTL).await.unwrap();
    store.commit(&lease, &moved("es", "p", Cursor::number(1))).await.unwrap();
    for (damage, repair, words) in [
        (
            "update logship_offsets set `cursor` = 'x'",
            "update logship_offsets set `cursor` = '5'",
            "`x` is not a cursor",
        ),
        ("update logship_lanes set since = 'x'", "update logship_lanes set since = null", "is not a time"),
        ("update logship_keys set version = 2", "update logship_keys set version = 1", "version 2"),
    ] {
        database.pool.execute(damage).await.unwrap();
        let error = store.load(&key("k")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::State, "{error}");
        assert!(error.to_string().contains(words), "{error}");
        database.pool.execute(repair).await.unwrap();
    }
    assert_eq!(store.load(&key("k")).await.unwrap().lanes["es"].cursors["p"], Cursor::number(5));
}

/// Goal: a commit that waits for the row of its lease is refused when somebody newer has taken the key meanwhile.
#[tokio::test]
async fn c2_a_commit_that_waited_is_fenced() {
    let Some(database) = Database::new("c2_waits").await else { return };
    let store = database.store();
    let lease = store.acquire(&key("k"), "old", TTL).await.unwrap();
    let mut taker = database.pool.begin().await.unwrap();
    taker.execute("update logship_keys set epoch = epoch + 1, owner = 'new'").await.unwrap();
    let delta = moved("es", "p", Cursor::number(1));
    let commit = store.commit(&lease, &delta);
    let take = async {
        // The commit has begun to wait once it is seen to.
        let waits = "select count(*) from information_schema.processlist
                     where db = database() and info like '%for update' and id <> connection_id()";
        while sqlx::query_scalar::<_, i64>(waits).fetch_one(&database.pool).await.unwrap() == 0 {
            tokio::task::yield_now().await;
        }
        taker.commit().await.unwrap();
    };
    let (committed, ()) = tokio::join!(commit, take);
    assert_eq!(committed.unwrap_err().kind(), ErrorKind::Fenced);
    assert!(store.load(&lease.key).await.unwrap().lanes.is_empty());
}

#[tokio::test]
async fn a_server_that_goes_away_is_tried_again() {
    let Some(database) = Database::new("away").await else { return };
    let store = database.store();
    let lease = store.acquire(&key("k"), "me", TTL).await.unwrap();
    let others = "select cast(id as unsigned) from information_schema.processlist
                  where db = database() and id <> connection_id()";
    let others: Vec<u64> = sqlx::query_scalar(others).fetch_all(&database.pool).await.unwrap();
    assert!(!others.is_empty());
    for id in others {
        database.pool.execute(AssertSqlSafe(format!("kill {id}"))).await.unwrap();
    }
    store.commit(&lease, &moved("es", "p", Cursor::number(1))).await.unwrap();
    let error = self::store("mysql://me:hunter2@nowhere.invalid/none").list().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.is_retryable() && !format!("{error:?}").contains("hunter2"), "{error:?}");
}

/// Somebody else has made the tables, and the user may use them only.
#[tokio::test]
async fn the_right_to_make_tables_is_not_needed_where_they_are() {
    let Some(database) = Database::new("rights").await else { return };
    let grant = async |sql: &str| {
        for host in ["localhost", "%"] {
            let user = format!("'logship_keeper'@'{host}'");
            sqlx::raw_sql(AssertSqlSafe(sql.replace("keeper", &user))).execute(&database.pool).await.unwrap();
        }
    };
    grant("create or replace user keeper; grant select on logship_state_rights.* to keeper").await;
    let keeper = store(&database.url.replace("root@", "logship_keeper@"));
    assert_eq!(keeper.list().await.unwrap_err().kind(), ErrorKind::Auth);
    database.store().list().await.unwrap();
    for table in ["keys", "lanes", "offsets"] {
        grant(&format!("grant select, insert, update, delete on logship_state_rights.logship_{table} to keeper")).await;
    }
    let lease = keeper.acquire(&key("k"), "me", TTL).await.unwrap();
    keeper.commit(&lease, &moved("es", "p", Cursor::number(1))).await.unwrap();
    grant("drop user keeper").await;
}

#[test]
fn a_store_can_be_made_outside_a_runtime_and_shows_no_password() {
    let store = store("mysql://me:hunter2@127.0.0.1/none");
    assert_eq!(store.kind(), "mysql");
    assert!(!format!("{store:?}").contains("hunter2"));
    let wrong = MysqlOffsetsConfig { url: "mysql://me:hunter2@host:port/none".into() };
    let error = MysqlOffsets::open(&wrong, &BuildContext::default()).unwrap_err();
    assert!(!format!("{error:?} {wrong:?}").contains("hunter2"), "{error:?}");
}

/// Goal: a call that is dropped while its transaction begins leaves nothing open in the pool, or what the next call
/// changes is taken back with it.
#[tokio::test]
async fn c7_a_dropped_call_leaves_no_transaction() {
    let Some(database) = Database::new("c7_begin").await else { return };
    database.pool.execute("create table seen (polls int)").await.unwrap();
    let pool = MySqlPoolOptions::new().max_connections(1).connect(&database.url).await.unwrap();
    let store = MysqlOffsets::in_pool(pool.clone());
    let mut is_whole = false;
    for polls in 1..200 {
        if is_whole {
            break;
        }
        is_whole = cut(store.load(&key("k")), polls).await.is_some();
        // Outside of a transaction everybody sees a change as soon as it is made.
        sqlx::query("insert into seen values (?)").bind(polls as i32).execute(&pool).await.unwrap();
        let newest: i32 =
            sqlx::query_scalar("select max(polls) from seen").fetch_one(&database.pool).await.unwrap_or(0);
        assert_eq!(newest, polls as i32, "a call of {polls} polls left a transaction");
    }
    assert!(is_whole, "the call was cut at every await");
}
