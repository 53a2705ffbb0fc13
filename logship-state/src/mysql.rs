//! Offsets in a MySQL or MariaDB database.

use std::fmt;
use std::time::Duration;

use logship_core::{
    BuildContext, Error, ErrorKind, LaneDelta, Lease, OffsetKey, OffsetStore, Offsets, OffsetsDelta, Registry,
    SecretRef, async_trait, read_fields,
};
use serde::Deserialize;
use sqlx::mysql::{MySqlConnectOptions, MySqlDatabaseError, MySqlPoolOptions};
use sqlx::{AssertSqlSafe, Connection, Executor, MySql, MySqlConnection, MySqlPool, Transaction};
use tokio::sync::OnceCell;

use crate::rows::{self, CursorRow, LaneRow, Session, VERSION, WindowRow};
use crate::{busy, fenced};

/// Keeps offsets in four tables of a MySQL (5.7 or later) or MariaDB (10.2 or later) database, which are made if they
/// are not there:
///
/// - `logship_keys(key, version, epoch, owner, expires_at)`: the newest lease of each key, by the database's clock in
///   UTC;
/// - `logship_lanes(key, lane, fingerprint, since)`: each lane and where it began;
/// - `logship_offsets(key, lane, partition_sum, partition, cursor)`: how far it has come. The sum, SHA-256, stands for
///   the partition in the primary key, for which its name may be too long;
/// - `logship_windows(key, lane, partition_sum, partition, shipped)`: what it has shipped of the stretch in which records
///   may still appear, as JSON.
///
/// Everything is text or a number that `mysql` shows as it is. A commit is one transaction that begins by locking the
/// row of its lease, by key and epoch. It is on disk when it returns, unless the server is set otherwise: keep
/// `innodb_flush_log_at_trx_commit` at 1. A call that is dropped leaves all of its transaction or nothing. Names of
/// lanes have at most 255 characters.
///
/// The user needs the right to make these tables, or, where somebody else has made them, to select, insert, update and
/// delete.
pub struct MysqlOffsets {
    pool: MySqlPool,
    has_tables: OnceCell<()>,
}

/// What a configuration says of [`MysqlOffsets`].
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct MysqlOffsetsConfig {
    /// The database: `mysql://user:password@host:port/database`, with parameters such as `ssl-mode=VERIFY_IDENTITY`
    /// behind a `?`.
    pub url: SecretRef,
}

/// The tables. Text is compared by its bytes.
const TABLES: [&str; 4] = [
    "create table if not exists logship_keys (
       `key` varchar(128) character set ascii collate ascii_bin primary key, version bigint not null,
       epoch bigint not null, owner text character set utf8mb4, expires_at datetime(6)) engine = InnoDB",
    "create table if not exists logship_lanes (
       `key` varchar(128) character set ascii collate ascii_bin not null,
       lane varchar(255) character set utf8mb4 collate utf8mb4_bin not null,
       fingerprint longtext character set utf8mb4 not null, since varchar(40) character set ascii,
       primary key (`key`, lane)) engine = InnoDB",
    "create table if not exists logship_offsets (
       `key` varchar(128) character set ascii collate ascii_bin not null,
       lane varchar(255) character set utf8mb4 collate utf8mb4_bin not null,
       partition_sum char(64) character set ascii collate ascii_bin not null,
       `partition` longtext character set utf8mb4 not null, `cursor` longtext character set utf8mb4 not null,
       primary key (`key`, lane, partition_sum)) engine = InnoDB",
    "create table if not exists logship_windows (
       `key` varchar(128) character set ascii collate ascii_bin not null,
       lane varchar(255) character set utf8mb4 collate utf8mb4_bin not null,
       partition_sum char(64) character set ascii collate ascii_bin not null,
       `partition` longtext character set utf8mb4 not null, shipped longtext character set utf8mb4 not null,
       primary key (`key`, lane, partition_sum)) engine = InnoDB",
];

/// Partitions that one statement moves.
const MOVED_AT_ONCE: usize = 500;

impl MysqlOffsets {
    /// A store in the database at a URL. Connects on first use.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when the URL is none, or the secret is not found.
    pub fn open(config: &MysqlOffsetsConfig, context: &BuildContext) -> Result<Self, Error> {
        let url = context.secret("url", &config.url)?;
        // The parser's own error may quote the URL.
        let options: MySqlConnectOptions = url
            .expose()
            .parse()
            .map_err(|_| Error::config("url", "it is no URL such as mysql://user:password@host:3306/database"))?;
        // One connection to commit and one to renew the lease beside it. Connections that never age need no task that
        // closes them.
        let pool = MySqlPoolOptions::new()
            .max_connections(2)
            .acquire_timeout(Duration::from_secs(10))
            .idle_timeout(None)
            .max_lifetime(None)
            .after_connect(|connection, _| {
                // Whoever holds a row for longer has lost its way.
                Box::pin(async { connection.execute("set session innodb_lock_wait_timeout = 10").await.map(drop) })
            })
            .connect_lazy_with(options);
        Ok(Self::in_pool(pool))
    }

    /// A store in a database that the program has open already, whose sessions must speak utf8mb4.
    pub fn in_pool(pool: MySqlPool) -> Self {
        MysqlOffsets { pool, has_tables: OnceCell::new() }
    }

    async fn session(&self) -> Result<Session<MySql>, sqlx::Error> {
        let mut session = Session::open(&self.pool).await?;
        self.has_tables.get_or_try_init(|| make_tables(&mut session)).await?;
        Ok(session)
    }

    async fn try_acquire(
        &self,
        key: &OffsetKey,
        owner: &str,
        ttl: Duration,
    ) -> Result<Result<Lease, Error>, sqlx::Error> {
        const OPERATION: &str = "acquire lease";
        let mut session = self.session().await?;
        let mut transaction = session.begin().await?;
        // A row to lock, also for a key that nobody has taken before.
        sqlx::query("insert into logship_keys (`key`, version, epoch) values (?, ?, 0) on duplicate key update version = version")
            .bind(key.as_str())
            .bind(VERSION)
            .execute(&mut *transaction)
            .await?;
        let Some(row) = lock(&mut transaction, key).await? else { return Err(sqlx::Error::RowNotFound) };
        if let Err(error) = rows::check_version(OPERATION, key, Some(row.version)) {
            return Ok(Err(error));
        }
        if let Some(holder) = row.holder {
            return Ok(Err(busy(OPERATION, key, &holder)));
        }
        sqlx::query(
            "update logship_keys set epoch = epoch + 1, owner = ?,
               expires_at = utc_timestamp(6) + interval ? microsecond where `key` = ?",
        )
        .bind(owner)
        .bind(micros(ttl))
        .bind(key.as_str())
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        session.done();
        Ok(Ok(Lease { key: key.clone(), epoch: (row.epoch + 1).cast_unsigned() }))
    }

    /// Whether the lease is the newest, and the change therefore made.
    async fn try_commit(&self, lease: &Lease, delta: &OffsetsDelta) -> Result<bool, sqlx::Error> {
        let mut session = self.session().await?;
        let mut transaction = session.begin().await?;
        let held: Option<i64> = sqlx::query_scalar(
            "select epoch from logship_keys where `key` = ? and epoch = ? and owner is not null for update",
        )
        .bind(lease.key.as_str())
        .bind(lease.epoch.cast_signed())
        .fetch_optional(&mut *transaction)
        .await?;
        if held.is_none() {
            return Ok(false);
        }
        for (lane, change) in &delta.lanes {
            write_lane(&mut transaction, &lease.key, lane, change).await?;
        }
        transaction.commit().await?;
        session.done();
        Ok(true)
    }

    async fn try_reset(&self, key: &OffsetKey, lane: Option<&str>) -> Result<Result<(), Error>, sqlx::Error> {
        const OPERATION: &str = "reset offsets";
        let mut session = self.session().await?;
        let mut transaction = session.begin().await?;
        let Some(row) = lock(&mut transaction, key).await? else { return Ok(Ok(())) };
        if let Err(error) = rows::check_version(OPERATION, key, Some(row.version)) {
            return Ok(Err(error));
        }
        if let Some(holder) = row.holder {
            return Ok(Err(busy(OPERATION, key, &holder)));
        }
        // A holder whose lease expired must not put back what was forgotten, so the epoch grows.
        sqlx::query("update logship_keys set epoch = epoch + 1, owner = null, expires_at = null where `key` = ?")
            .bind(key.as_str())
            .execute(&mut *transaction)
            .await?;
        for statement in [
            "delete from logship_windows where `key` = ? and lane = coalesce(?, lane)",
            "delete from logship_offsets where `key` = ? and lane = coalesce(?, lane)",
            "delete from logship_lanes where `key` = ? and lane = coalesce(?, lane)",
        ] {
            sqlx::query(statement).bind(key.as_str()).bind(lane).execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
        session.done();
        Ok(Ok(()))
    }
}

#[async_trait]
impl OffsetStore for MysqlOffsets {
    fn kind(&self) -> &'static str {
        "mysql"
    }

    async fn acquire(&self, key: &OffsetKey, owner: &str, ttl: Duration) -> Result<Lease, Error> {
        self.try_acquire(key, owner, ttl).await.map_err(|error| failed("acquire lease", error))?
    }

    async fn renew(&self, lease: &Lease, ttl: Duration) -> Result<(), Error> {
        const OPERATION: &str = "renew lease";
        let renew = async {
            let mut session = self.session().await?;
            // The driver counts rows that were found, whether or not they have changed.
            let renewed = sqlx::query(
                "update logship_keys set expires_at = utc_timestamp(6) + interval ? microsecond
                 where `key` = ? and epoch = ? and owner is not null",
            )
            .bind(micros(ttl))
            .bind(lease.key.as_str())
            .bind(lease.epoch.cast_signed())
            .execute(&mut *session)
            .await?;
            session.done();
            Ok(renewed.rows_affected())
        };
        let renewed = renew.await.map_err(|error| failed(OPERATION, error))?;
        if renewed == 0 { Err(fenced(OPERATION, lease)) } else { Ok(()) }
    }

    async fn release(&self, lease: &Lease) -> Result<(), Error> {
        let release = async {
            let mut session = self.session().await?;
            sqlx::query("update logship_keys set owner = null, expires_at = null where `key` = ? and epoch = ?")
                .bind(lease.key.as_str())
                .bind(lease.epoch.cast_signed())
                .execute(&mut *session)
                .await?;
            session.done();
            Ok(())
        };
        release.await.map_err(|error| failed("release lease", error))
    }

    async fn load(&self, key: &OffsetKey) -> Result<Offsets, Error> {
        const OPERATION: &str = "load offsets";
        let load = async {
            let mut session = self.session().await?;
            let mut transaction = session.begin().await?;
            // The lock keeps a commit from coming between the two tables, whatever the isolation is.
            let row = lock(&mut transaction, key).await?;
            let lanes: Vec<LaneRow> =
                sqlx::query_as("select lane, fingerprint, since from logship_lanes where `key` = ?")
                    .bind(key.as_str())
                    .fetch_all(&mut *transaction)
                    .await?;
            let cursors: Vec<CursorRow> =
                sqlx::query_as("select lane, `partition`, `cursor` from logship_offsets where `key` = ?")
                    .bind(key.as_str())
                    .fetch_all(&mut *transaction)
                    .await?;
            let windows: Vec<WindowRow> =
                sqlx::query_as("select lane, `partition`, shipped from logship_windows where `key` = ?")
                    .bind(key.as_str())
                    .fetch_all(&mut *transaction)
                    .await?;
            transaction.rollback().await?;
            session.done();
            Ok((row.map(|row| row.version), lanes, cursors, windows))
        };
        let (version, lanes, cursors, windows) = load.await.map_err(|error| failed(OPERATION, error))?;
        rows::check_version(OPERATION, key, version)?;
        rows::offsets(OPERATION, key, lanes, cursors, windows)
    }

    async fn commit(&self, lease: &Lease, delta: &OffsetsDelta) -> Result<(), Error> {
        const OPERATION: &str = "commit offsets";
        let is_held = self.try_commit(lease, delta).await.map_err(|error| failed(OPERATION, error))?;
        if is_held { Ok(()) } else { Err(fenced(OPERATION, lease)) }
    }

    async fn list(&self) -> Result<Vec<OffsetKey>, Error> {
        let list = async {
            let mut session = self.session().await?;
            let keys = sqlx::query_scalar("select distinct `key` from logship_lanes order by `key`");
            let keys = keys.fetch_all(&mut *session).await?;
            session.done();
            Ok(keys)
        };
        let keys: Vec<String> = list.await.map_err(|error| failed("list offsets", error))?;
        keys.into_iter().map(OffsetKey::new).collect()
    }

    async fn reset(&self, key: &OffsetKey, lane: Option<&str>) -> Result<(), Error> {
        self.try_reset(key, lane).await.map_err(|error| failed("reset offsets", error))?
    }
}

impl fmt::Debug for MysqlOffsets {
    /// Without the pool, which would show the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MysqlOffsets")
    }
}

async fn make_tables(session: &mut MySqlConnection) -> Result<(), sqlx::Error> {
    // To make a table takes a right that to find it does not.
    let found: i64 = sqlx::query_scalar(
        "select count(*) from information_schema.tables where table_schema = database()
         and table_name in ('logship_keys', 'logship_lanes', 'logship_offsets', 'logship_windows')",
    )
    .fetch_one(&mut *session)
    .await?;
    if found < TABLES.len() as i64 {
        for table in TABLES {
            session.execute(table).await?;
        }
    }
    Ok(())
}

/// The row of a key.
struct KeyRow {
    version: i64,
    epoch: i64,
    /// Who holds a lease that is neither given back nor expired.
    holder: Option<String>,
}

/// Locks the row of a key, if there is one, until the transaction ends.
async fn lock(transaction: &mut Transaction<'_, MySql>, key: &OffsetKey) -> Result<Option<KeyRow>, sqlx::Error> {
    let row: Option<(i64, i64, Option<String>)> = sqlx::query_as(
        "select version, epoch, case when expires_at > utc_timestamp(6) then owner end
         from logship_keys where `key` = ? for update",
    )
    .bind(key.as_str())
    .fetch_optional(&mut **transaction)
    .await?;
    Ok(row.map(|(version, epoch, holder)| KeyRow { version, epoch, holder }))
}

async fn write_lane(
    transaction: &mut Transaction<'_, MySql>,
    key: &OffsetKey,
    lane: &str,
    change: &LaneDelta,
) -> Result<(), sqlx::Error> {
    let (fingerprint, since) = (change.fingerprint.as_deref(), change.since.map(|since| since.to_string()));
    sqlx::query(
        "insert into logship_lanes (`key`, lane, fingerprint, since) values (?, ?, coalesce(?, ''), ?)
         on duplicate key update fingerprint = coalesce(?, fingerprint), since = coalesce(?, since)",
    )
    .bind(key.as_str())
    .bind(lane)
    .bind(fingerprint)
    .bind(&since)
    .bind(fingerprint)
    .bind(&since)
    .execute(&mut **transaction)
    .await?;
    for (partition, window) in &change.windows {
        let statement = match window {
            Some(window) => sqlx::query(
                "insert into logship_windows (`key`, lane, partition_sum, `partition`, shipped)
                 values (?, ?, sha2(?, 256), ?, ?) on duplicate key update shipped = values(shipped)",
            )
            .bind(key.as_str())
            .bind(lane)
            .bind(partition)
            .bind(partition)
            .bind(rows::window_text(window)?),
            None => {
                sqlx::query("delete from logship_windows where `key` = ? and lane = ? and partition_sum = sha2(?, 256)")
                    .bind(key.as_str())
                    .bind(lane)
                    .bind(partition)
            }
        };
        statement.execute(&mut **transaction).await?;
    }
    let cursors: Vec<_> = change.cursors.iter().collect();
    for batch in cursors.chunks(MOVED_AT_ONCE) {
        let rows = vec!["(?, ?, sha2(?, 256), ?, ?)"; batch.len()].join(", ");
        let mut statement = sqlx::query(AssertSqlSafe(format!(
            "insert into logship_offsets (`key`, lane, partition_sum, `partition`, `cursor`) values {rows}
             on duplicate key update `cursor` = values(`cursor`)"
        )));
        for (partition, cursor) in batch {
            statement = statement.bind(key.as_str()).bind(lane);
            statement = statement.bind(*partition).bind(*partition).bind(cursor.to_string());
        }
        statement.execute(&mut **transaction).await?;
    }
    Ok(())
}

fn micros(ttl: Duration) -> i64 {
    i64::try_from(ttl.as_micros()).unwrap_or(i64::MAX)
}

/// Whether trying again helps, by the error's number
/// (<https://dev.mysql.com/doc/mysql-errors/8.4/en/server-error-reference.html>).
fn failed(operation: &'static str, error: sqlx::Error) -> Error {
    let number = error
        .as_database_error()
        .and_then(|error| error.try_downcast_ref::<MySqlDatabaseError>())
        .map(MySqlDatabaseError::number);
    let (kind, message) = match (&error, number) {
        (_, Some(1044 | 1045 | 1142 | 1143 | 1227 | 1698)) => {
            (ErrorKind::Auth, "the user lacks a right to the logship_ tables, or to make them")
        }
        (_, Some(1049)) => (ErrorKind::Config, "there is no such database"),
        (_, Some(1040 | 1053 | 1152..=1161 | 1203 | 1205 | 1213 | 1226 | 1290 | 1317 | 1836 | 1927 | 2006 | 2013)) => {
            (ErrorKind::Unavailable, "the database cannot serve us now")
        }
        (sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::Protocol(_), _) => {
            (ErrorKind::Unavailable, "the database cannot be reached")
        }
        (sqlx::Error::Tls(_), _) => (ErrorKind::Config, "no secure connection: check ssl-mode and certificates"),
        (sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_), _) => {
            (ErrorKind::State, "a row of the logship_ tables cannot be read: put it right, or reset the key")
        }
        _ => (ErrorKind::Unexpected, "the database refused a statement"),
    };
    Error::new(kind, operation, message).with_source(error)
}

/// Adds the store `mysql`, whose one field `url` says where the database is.
pub fn register(registry: &mut Registry) {
    #[cfg(feature = "schema")]
    registry.describe_store::<MysqlOffsetsConfig>("mysql");
    registry.add_store("mysql", |fields, context| MysqlOffsets::open(&read_fields(fields)?, context));
}
