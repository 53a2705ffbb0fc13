//! The PostgreSQL store keeps the contract of `OffsetStore`, against a real server.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![cfg(feature = "postgres")]

mod conformance;

use std::collections::BTreeMap;
use std::time::Duration;

use conformance::{Slow, TTL, key, moved};
use logship_core::{BuildContext, Cursor, ErrorKind, LaneDelta, OffsetStore, OffsetsDelta};
use logship_state::postgres::{PostgresOffsets, PostgresOffsetsConfig};
use sqlx::{AssertSqlSafe, Executor, PgPool};

/// A database of a test's own.
struct Database {
    url: String,
    pool: PgPool,
}

impl Database {
    async fn new(name: &str) -> Option<Self> {
        let url = conformance::server("LOGSHIP_POSTGRES_URL")?;
        let name = format!("logship_state_{name}");
        let admin = PgPool::connect(&url).await.unwrap();
        admin.execute(AssertSqlSafe(format!("drop database if exists {name} with (force)"))).await.unwrap();
        admin.execute(AssertSqlSafe(format!("create database {name}"))).await.unwrap();
        admin.close().await;
        let url = format!("{}/{name}", url.rsplit_once('/').unwrap().0);
        Some(Database { pool: PgPool::connect(&url).await.unwrap(), url })
    }

    fn store(&self) -> PostgresOffsets {
        store(&self.url)
    }
}

fn store(url: &str) -> PostgresOffsets {
    PostgresOffsets::open(&PostgresOffsetsConfig { url: url.into() }, &BuildContext::default()).unwrap()
}

#[tokio::test]
async fn c1_commits_merge_and_change_nothing_they_do_not_name() {
    let Some(database) = Database::new("c1").await else { return };
    conformance::c1_commits_merge_and_change_nothing_they_do_not_name(&database.store()).await;
}

#[tokio::test]
async fn c1_a_lane_without_a_cursor_is_kept() {
    let Some(database) = Database::new("c1_lane").await else { return };
    conformance::c1_a_lane_without_a_cursor_is_kept(&database.store()).await;
}

#[tokio::test]
async fn c1_windows_are_kept_and_forgotten() {
    let Some(database) = Database::new("c1_lane").await else { return };
    conformance::c1_windows_are_kept_and_forgotten(&database.store()).await;
}

#[tokio::test]
async fn c2_an_old_lease_moves_nothing() {
    let Some(database) = Database::new("c2").await else { return };
    conformance::c2_an_old_lease_moves_nothing(&database.store()).await;
}

#[tokio::test]
async fn c3_a_held_key_is_busy_and_epochs_grow() {
    let Some(database) = Database::new("c3").await else { return };
    conformance::c3_a_held_key_is_busy_and_epochs_grow(&database.store(), &database.store()).await;
}

/// Goal: of many that take a key at the same moment, in a database without tables, exactly one gets it.
#[tokio::test]
async fn c3_only_one_of_many_gets_a_key() {
    let Some(database) = Database::new("c3_many").await else { return };
    let mut takers = tokio::task::JoinSet::new();
    for number in 0..8 {
        let store = database.store();
        takers.spawn(async move { store.acquire(&key("k"), &format!("worker-{number}"), TTL).await });
    }
    let taken = takers.join_all().await;
    assert_eq!(taken.iter().filter(|lease| lease.is_ok()).count(), 1, "{taken:?}");
    assert!(taken.iter().filter_map(|lease| lease.as_ref().err()).all(|error| error.kind() == ErrorKind::Busy));
}

/// The database's clock cannot be moved, so the stored ends are moved the other way.
#[tokio::test]
async fn c4_a_lease_that_is_not_renewed_expires() {
    let Some(database) = Database::new("c4").await else { return };
    let pass = async |time: Duration| {
        let shift = sqlx::query("update logship_keys set expires_at = expires_at - make_interval(secs => $1)");
        shift.bind(time.as_secs_f64() * 60.0).execute(&database.pool).await.unwrap();
    };
    // Sixty times slower than the suite says, so that the seconds the test itself takes do not matter.
    conformance::c4_a_lease_that_is_not_renewed_expires(&Slow(database.store()), pass).await;
}

#[tokio::test]
async fn c5_what_was_committed_is_there_after_a_restart() {
    let Some(database) = Database::new("c5").await else { return };
    conformance::c5_what_was_committed_is_there_after_a_restart(&database.store(), &database.store()).await;
}

#[tokio::test]
async fn c5_rows_that_cannot_be_read_are_an_error() {
    let Some(database) = Database::new("c5_rows").await else { return };
    let store = database.store();
    let lease = store.acquire(&key("k"), "me", TTL).await.unwrap();
    store.commit(&lease, &moved("es", "p", Cursor::number(1))).await.unwrap();
    for (damage, repair, words) in [
        ("update logship_offsets set cursor = 'x'", "update logship_offsets set cursor = '5'", "`x` is not a cursor"),
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

#[tokio::test]
async fn c6_what_is_stored_is_text_with_the_version_of_its_form() {
    let Some(database) = Database::new("c6").await else { return };
    let store = database.store();
    let lease = store.acquire(&key("k"), "worker-7", TTL).await.unwrap();
    store.commit(&lease, &moved("es", "p", Cursor::new(3, "row".into()))).await.unwrap();
    let offset: (String, String, String, String) =
        sqlx::query_as("select key, lane, partition, cursor from logship_offsets")
            .fetch_one(&database.pool)
            .await
            .unwrap();
    assert_eq!(<[String; 4]>::from(offset), ["k", "es", "p", "00000000000000000003/row"].map(str::to_owned));
    let held: (i64, i64, String) =
        sqlx::query_as("select version, epoch, owner from logship_keys").fetch_one(&database.pool).await.unwrap();
    assert_eq!(held, (1, 1, "worker-7".to_owned()));
}

#[tokio::test]
async fn keys_with_offsets_are_listed_in_order() {
    let Some(database) = Database::new("list").await else { return };
    conformance::keys_with_offsets_are_listed_in_order(&database.store()).await;
}

#[tokio::test]
async fn a_reset_forgets_and_is_refused_while_leased() {
    let Some(database) = Database::new("reset").await else { return };
    conformance::a_reset_forgets_and_is_refused_while_leased(&database.store()).await;
}

/// A commit of a thousand partitions, which is one statement.
#[tokio::test]
async fn many_partitions_are_committed_at_once() {
    let Some(database) = Database::new("many").await else { return };
    let store = database.store();
    let lease = store.acquire(&key("k"), "me", TTL).await.unwrap();
    for round in 1..3 {
        let cursors: BTreeMap<String, Cursor> = (0..1_000).map(|p| (p.to_string(), Cursor::number(round))).collect();
        let delta = LaneDelta { cursors: cursors.clone(), ..LaneDelta::default() };
        store.commit(&lease, &OffsetsDelta { lanes: BTreeMap::from([("es".to_owned(), delta)]) }).await.unwrap();
        assert_eq!(store.load(&lease.key).await.unwrap().lanes["es"].cursors, cursors);
    }
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
        let waits =
            "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()";
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
    let cut = "select pg_terminate_backend(pid) from pg_stat_activity
               where application_name = 'logship' and datname = current_database()";
    database.pool.execute(cut).await.unwrap();
    store.commit(&lease, &moved("es", "p", Cursor::number(1))).await.unwrap();
    let error = self::store("postgres://me:hunter2@nowhere.invalid/none").list().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.is_retryable() && !format!("{error:?}").contains("hunter2"), "{error:?}");
}

/// Somebody else has made the tables, and the user may use them only.
#[tokio::test]
async fn the_right_to_make_tables_is_not_needed_where_they_are() {
    let Some(database) = Database::new("rights").await else { return };
    let admin = "drop role if exists logship_keeper; create role logship_keeper login";
    sqlx::raw_sql(admin).execute(&database.pool).await.unwrap();
    let keeper = store(&database.url.replace("postgres@", "logship_keeper@"));
    assert_eq!(keeper.list().await.unwrap_err().kind(), ErrorKind::Auth);
    database.store().list().await.unwrap();
    let grant =
        "grant select, insert, update, delete on logship_keys, logship_lanes, logship_offsets to logship_keeper";
    database.pool.execute(grant).await.unwrap();
    let lease = keeper.acquire(&key("k"), "me", TTL).await.unwrap();
    keeper.commit(&lease, &moved("es", "p", Cursor::number(1))).await.unwrap();
    sqlx::raw_sql("drop owned by logship_keeper; drop role logship_keeper").execute(&database.pool).await.unwrap();
}

#[test]
fn a_store_can_be_made_outside_a_runtime_and_shows_no_password() {
    let store = store("postgres://me:hunter2@127.0.0.1/none");
    assert_eq!(store.kind(), "postgres");
    assert!(!format!("{store:?}").contains("hunter2"));
    let wrong = PostgresOffsetsConfig { url: "postgres://me:hunter2@host:port/none".into() };
    let error = PostgresOffsets::open(&wrong, &BuildContext::default()).unwrap_err();
    assert!(!format!("{error:?} {wrong:?}").contains("hunter2"), "{error:?}");
}
