//! Offsets in a SQLite database.

use std::path::{Path, PathBuf};
use std::time::Duration;

use logship_core::{
    Error, ErrorKind, LaneDelta, Lease, OffsetKey, OffsetStore, Offsets, OffsetsDelta, Registry, async_trait,
    read_fields,
};
use serde::Deserialize;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Sqlite, SqlitePool, Transaction};
use tokio::sync::OnceCell;
use tokio::time::Instant;

use crate::rows::{self, CursorRow, LaneRow, VERSION, WindowRow};
use crate::{busy, fenced};

/// How long another process may hold the database before a call gives up.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

const TABLES: &str = "CREATE TABLE IF NOT EXISTS logship_keys (
   key TEXT PRIMARY KEY, version INTEGER NOT NULL, epoch INTEGER NOT NULL,
   owner TEXT, expires_at REAL);
 CREATE TABLE IF NOT EXISTS logship_lanes (
   key TEXT NOT NULL, lane TEXT NOT NULL, fingerprint TEXT NOT NULL, since TEXT,
   PRIMARY KEY (key, lane));
 CREATE TABLE IF NOT EXISTS logship_offsets (
   key TEXT NOT NULL, lane TEXT NOT NULL, partition TEXT NOT NULL, cursor TEXT NOT NULL,
   PRIMARY KEY (key, lane, partition));
 CREATE TABLE IF NOT EXISTS logship_windows (
   key TEXT NOT NULL, lane TEXT NOT NULL, partition TEXT NOT NULL, shipped TEXT NOT NULL,
   PRIMARY KEY (key, lane, partition));";

/// Keeps offsets in four tables of a SQLite database, which are made if they are not there:
///
/// - `logship_keys(key, version, epoch, owner, expires_at)`: the newest lease of each key, by the database's clock;
/// - `logship_lanes(key, lane, fingerprint, since)`: each lane and where it began;
/// - `logship_offsets(key, lane, partition, cursor)`: how far it has come;
/// - `logship_windows(key, lane, partition, shipped)`: what it has shipped of the stretch in which records may still
///   appear, as JSON.
///
/// Everything is text or a number that `sqlite3` shows as it is. A commit is one transaction that begins by looking
/// whether the lease is the newest. A call that is dropped leaves all of its transaction or nothing.
///
/// A database that stays locked by somebody else for 5 seconds gives a retryable
/// [`ErrorKind::Unavailable`]. Needs SQLite 3.42 or later, which a pool of this build has.
#[derive(Debug)]
pub struct SqliteOffsets {
    pool: SqlitePool,
    has_tables: OnceCell<()>,
}

impl SqliteOffsets {
    /// A store in this database file, which is made if it is not there; the folder above it must exist. Opened on first
    /// use, with a write-ahead log and every commit synced to disk.
    pub fn new(path: impl AsRef<Path>) -> Self {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY_TIMEOUT);
        // One connection: its few small transactions wait for each other anyway. Connections that never age need no
        // task that closes them.
        let pool = SqlitePoolOptions::new().max_connections(1).idle_timeout(None).max_lifetime(None);
        Self::in_pool(pool.connect_lazy_with(options))
    }

    /// A store in a database that the program has open already. How durable a commit is, is then the pool's: use
    /// `synchronous = FULL`, or a power cut may take the last commits back, whose records are shipped again.
    pub fn in_pool(pool: SqlitePool) -> Self {
        SqliteOffsets { pool, has_tables: OnceCell::new() }
    }

    /// A transaction that holds the right to write from its beginning, so that nothing changes between its statements.
    async fn begin(&self, operation: &'static str) -> Result<Transaction<'static, Sqlite>, Error> {
        self.make_tables().await.map_err(|error| failed(operation, error))?;
        self.pool.begin_with("BEGIN IMMEDIATE").await.map_err(|error| failed(operation, error))
    }

    /// Makes the tables. Tries again while another process opens the same new file: SQLite does not wait for the lock
    /// under which a file is given its write-ahead log (<https://www.sqlite.org/wal.html>, section 9).
    async fn make_tables(&self) -> Result<(), sqlx::Error> {
        let until = Instant::now() + BUSY_TIMEOUT;
        let make = async || loop {
            match sqlx::raw_sql(TABLES).execute(&self.pool).await {
                Err(error) if matches!(primary_code(&error), Some(5 | 6)) && Instant::now() < until => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                made => return made.map(drop),
            }
        };
        self.has_tables.get_or_try_init(make).await.map(drop)
    }
}

#[async_trait]
impl OffsetStore for SqliteOffsets {
    fn kind(&self) -> &'static str {
        "sqlite"
    }

    async fn acquire(&self, key: &OffsetKey, owner: &str, ttl: Duration) -> Result<Lease, Error> {
        const OPERATION: &str = "acquire lease";
        let mut transaction = self.begin(OPERATION).await?;
        check_version(&mut transaction, OPERATION, key).await?;
        let epoch: Option<i64> = sqlx::query_scalar(
            "INSERT INTO logship_keys (key, version, epoch, owner, expires_at)
             VALUES (?, ?, 1, ?, unixepoch('subsec') + ?)
             ON CONFLICT (key) DO UPDATE
               SET epoch = epoch + 1, owner = excluded.owner, expires_at = excluded.expires_at
               WHERE owner IS NULL OR expires_at <= unixepoch('subsec')
             RETURNING epoch",
        )
        .bind(key.as_str())
        .bind(VERSION)
        .bind(owner)
        .bind(ttl.as_secs_f64())
        .fetch_optional(&mut *transaction)
        .await
        .map_err(|error| failed(OPERATION, error))?;
        let Some(epoch) = epoch else {
            let holder = owner_of(&mut transaction, OPERATION, key).await?;
            return Err(busy(OPERATION, key, holder.as_deref().unwrap_or("another shipper")));
        };
        transaction.commit().await.map_err(|error| failed(OPERATION, error))?;
        Ok(Lease { key: key.clone(), epoch: epoch.cast_unsigned() })
    }

    async fn renew(&self, lease: &Lease, ttl: Duration) -> Result<(), Error> {
        const OPERATION: &str = "renew lease";
        self.make_tables().await.map_err(|error| failed(OPERATION, error))?;
        let renewed = sqlx::query(
            "UPDATE logship_keys SET expires_at = unixepoch('subsec') + ?
             WHERE key = ? AND epoch = ? AND owner IS NOT NULL",
        )
        .bind(ttl.as_secs_f64())
        .bind(lease.key.as_str())
        .bind(lease.epoch.cast_signed())
        .execute(&self.pool)
        .await
        .map_err(|error| failed(OPERATION, error))?;
        if renewed.rows_affected() == 0 { Err(fenced(OPERATION, lease)) } else { Ok(()) }
    }

    async fn release(&self, lease: &Lease) -> Result<(), Error> {
        const OPERATION: &str = "release lease";
        self.make_tables().await.map_err(|error| failed(OPERATION, error))?;
        sqlx::query("UPDATE logship_keys SET owner = NULL, expires_at = NULL WHERE key = ? AND epoch = ?")
            .bind(lease.key.as_str())
            .bind(lease.epoch.cast_signed())
            .execute(&self.pool)
            .await
            .map_err(|error| failed(OPERATION, error))?;
        Ok(())
    }

    async fn load(&self, key: &OffsetKey) -> Result<Offsets, Error> {
        const OPERATION: &str = "load offsets";
        self.make_tables().await.map_err(|error| failed(OPERATION, error))?;
        // One transaction sees both tables as one commit left them.
        let mut transaction = self.pool.begin().await.map_err(|error| failed(OPERATION, error))?;
        check_version(&mut transaction, OPERATION, key).await?;
        read_offsets(&mut transaction, OPERATION, key).await
    }

    async fn commit(&self, lease: &Lease, delta: &OffsetsDelta) -> Result<(), Error> {
        const OPERATION: &str = "commit offsets";
        let mut transaction = self.begin(OPERATION).await?;
        let held: Option<i64> =
            sqlx::query_scalar("SELECT version FROM logship_keys WHERE key = ? AND epoch = ? AND owner IS NOT NULL")
                .bind(lease.key.as_str())
                .bind(lease.epoch.cast_signed())
                .fetch_optional(&mut *transaction)
                .await
                .map_err(|error| failed(OPERATION, error))?;
        if held.is_none() {
            return Err(fenced(OPERATION, lease));
        }
        for (lane, change) in &delta.lanes {
            write_lane(&mut transaction, &lease.key, lane, change).await.map_err(|error| failed(OPERATION, error))?;
        }
        transaction.commit().await.map_err(|error| failed(OPERATION, error))
    }

    async fn list(&self) -> Result<Vec<OffsetKey>, Error> {
        const OPERATION: &str = "list offsets";
        self.make_tables().await.map_err(|error| failed(OPERATION, error))?;
        let keys: Vec<String> = sqlx::query_scalar("SELECT DISTINCT key FROM logship_lanes ORDER BY key")
            .fetch_all(&self.pool)
            .await
            .map_err(|error| failed(OPERATION, error))?;
        keys.into_iter().map(OffsetKey::new).collect()
    }

    async fn reset(&self, key: &OffsetKey, lane: Option<&str>) -> Result<(), Error> {
        const OPERATION: &str = "reset offsets";
        let mut transaction = self.begin(OPERATION).await?;
        check_version(&mut transaction, OPERATION, key).await?;
        // A holder whose lease expired must not put back what was forgotten, so the epoch grows.
        let freed = sqlx::query(
            "UPDATE logship_keys SET epoch = epoch + 1, owner = NULL, expires_at = NULL
             WHERE key = ? AND (owner IS NULL OR expires_at <= unixepoch('subsec'))",
        )
        .bind(key.as_str())
        .execute(&mut *transaction)
        .await
        .map_err(|error| failed(OPERATION, error))?;
        if freed.rows_affected() == 0
            && let Some(holder) = owner_of(&mut transaction, OPERATION, key).await?
        {
            return Err(busy(OPERATION, key, &holder));
        }
        for statement in [
            "DELETE FROM logship_windows WHERE key = ?1 AND (?2 IS NULL OR lane = ?2)",
            "DELETE FROM logship_offsets WHERE key = ?1 AND (?2 IS NULL OR lane = ?2)",
            "DELETE FROM logship_lanes WHERE key = ?1 AND (?2 IS NULL OR lane = ?2)",
        ] {
            let forget = sqlx::query(statement).bind(key.as_str()).bind(lane).execute(&mut *transaction);
            forget.await.map_err(|error| failed(OPERATION, error))?;
        }
        transaction.commit().await.map_err(|error| failed(OPERATION, error))
    }
}

async fn owner_of(
    transaction: &mut Transaction<'static, Sqlite>,
    operation: &'static str,
    key: &OffsetKey,
) -> Result<Option<String>, Error> {
    let owner: Option<Option<String>> = sqlx::query_scalar("SELECT owner FROM logship_keys WHERE key = ?")
        .bind(key.as_str())
        .fetch_optional(&mut **transaction)
        .await
        .map_err(|error| failed(operation, error))?;
    Ok(owner.flatten())
}

async fn check_version(
    transaction: &mut Transaction<'static, Sqlite>,
    operation: &'static str,
    key: &OffsetKey,
) -> Result<(), Error> {
    let version: Option<i64> = sqlx::query_scalar("SELECT version FROM logship_keys WHERE key = ?")
        .bind(key.as_str())
        .fetch_optional(&mut **transaction)
        .await
        .map_err(|error| failed(operation, error))?;
    rows::check_version(operation, key, version)
}

async fn read_offsets(
    transaction: &mut Transaction<'static, Sqlite>,
    operation: &'static str,
    key: &OffsetKey,
) -> Result<Offsets, Error> {
    let lanes: Vec<LaneRow> = sqlx::query_as("SELECT lane, fingerprint, since FROM logship_lanes WHERE key = ?")
        .bind(key.as_str())
        .fetch_all(&mut **transaction)
        .await
        .map_err(|error| failed(operation, error))?;
    let cursors: Vec<CursorRow> = sqlx::query_as("SELECT lane, partition, cursor FROM logship_offsets WHERE key = ?")
        .bind(key.as_str())
        .fetch_all(&mut **transaction)
        .await
        .map_err(|error| failed(operation, error))?;
    let windows: Vec<WindowRow> = sqlx::query_as("SELECT lane, partition, shipped FROM logship_windows WHERE key = ?")
        .bind(key.as_str())
        .fetch_all(&mut **transaction)
        .await
        .map_err(|error| failed(operation, error))?;
    rows::offsets(operation, key, lanes, cursors, windows)
}

async fn write_lane(
    transaction: &mut Transaction<'static, Sqlite>,
    key: &OffsetKey,
    lane: &str,
    change: &LaneDelta,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO logship_lanes (key, lane, fingerprint, since) VALUES (?1, ?2, coalesce(?3, ''), ?4)
         ON CONFLICT (key, lane) DO UPDATE
           SET fingerprint = coalesce(?3, fingerprint), since = coalesce(?4, since)",
    )
    .bind(key.as_str())
    .bind(lane)
    .bind(change.fingerprint.as_deref())
    .bind(change.since.map(|since| since.to_string()))
    .execute(&mut **transaction)
    .await?;
    for (partition, cursor) in &change.cursors {
        sqlx::query("INSERT OR REPLACE INTO logship_offsets (key, lane, partition, cursor) VALUES (?, ?, ?, ?)")
            .bind(key.as_str())
            .bind(lane)
            .bind(partition)
            .bind(cursor.to_string())
            .execute(&mut **transaction)
            .await?;
    }
    for (partition, window) in &change.windows {
        let statement = match window {
            Some(window) => {
                let text = rows::window_text(window)?;
                sqlx::query(
                    "INSERT OR REPLACE INTO logship_windows (key, lane, partition, shipped) VALUES (?1, ?2, ?3, ?4)",
                )
                .bind(key.as_str())
                .bind(lane)
                .bind(partition)
                .bind(text)
            }
            None => sqlx::query("DELETE FROM logship_windows WHERE key = ?1 AND lane = ?2 AND partition = ?3")
                .bind(key.as_str())
                .bind(lane)
                .bind(partition),
        };
        statement.execute(&mut **transaction).await?;
    }
    Ok(())
}

/// SQLite's primary result code (<https://www.sqlite.org/rescode.html>).
fn primary_code(error: &sqlx::Error) -> Option<i32> {
    let code = error.as_database_error()?.code()?.parse::<i32>().ok()?;
    Some(code & 0xff)
}

/// Whether trying again helps, by SQLite's primary result code.
fn failed(operation: &'static str, error: sqlx::Error) -> Error {
    let (kind, message) = match (&error, primary_code(&error)) {
        (_, Some(5 | 6)) => (ErrorKind::Unavailable, "the database is locked by somebody else"),
        (_, Some(8 | 10 | 13 | 14)) => {
            (ErrorKind::Unavailable, "the database cannot be used: is the disk full, or the file not writable?")
        }
        (_, Some(11 | 26)) => {
            (ErrorKind::State, "the database is damaged, or no SQLite database: put it back from a backup")
        }
        (sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::WorkerCrashed, _) => {
            (ErrorKind::Unavailable, "the database cannot be reached")
        }
        (sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_), _) => {
            (ErrorKind::State, "a row of the logship_ tables cannot be read: put it right, or reset the key")
        }
        _ => (ErrorKind::Unexpected, "the database refused a statement"),
    };
    Error::new(kind, operation, message).with_source(error)
}

/// Adds the store `sqlite`, whose one field `path` is the database file.
pub fn register(registry: &mut Registry) {
    #[derive(Deserialize)]
    #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
    #[serde(deny_unknown_fields)]
    struct Config {
        path: PathBuf,
    }

    #[cfg(feature = "schema")]
    registry.describe_store::<Config>("sqlite");
    registry.add_store("sqlite", |fields, _| {
        let config: Config = read_fields(fields)?;
        Ok(SqliteOffsets::new(config.path))
    });
}
