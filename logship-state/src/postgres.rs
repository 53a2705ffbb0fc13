//! Offsets in a PostgreSQL database.

use std::fmt;
use std::time::Duration;

use logship_core::{
    BuildContext, Error, ErrorKind, LaneDelta, Lease, OffsetKey, OffsetStore, Offsets, OffsetsDelta, Registry,
    SecretRef, async_trait, read_fields,
};
use serde::Deserialize;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection, Executor, PgConnection, PgPool, Postgres, Transaction};
use tokio::sync::OnceCell;

use crate::rows::{self, CursorRow, LaneRow, Session, VERSION, WindowRow};
use crate::{busy, fenced};

/// Keeps offsets in four tables of a PostgreSQL database, which are made if they are not there, in the first schema of
/// the user's `search_path`:
///
/// - `logship_keys(key, version, epoch, owner, expires_at)`: the newest lease of each key, by the database's clock;
/// - `logship_lanes(key, lane, fingerprint, since)`: each lane and where it began;
/// - `logship_offsets(key, lane, partition, cursor)`: how far it has come;
/// - `logship_windows(key, lane, partition, shipped)`: what it has shipped of the stretch in which records may still
///   appear, as JSON.
///
/// Everything is text or a number that `psql` shows as it is. A commit is one transaction that begins by locking the
/// row of its lease, by key and epoch, and is on disk when it returns. A call that is dropped leaves all of its
/// transaction or nothing.
///
/// The user needs the right to make these tables, or, where somebody else has made them, to select, insert, update and
/// delete. The database must be the primary: a replica that takes its place must have every commit, so let the primary
/// wait for it (`synchronous_standby_names`), or records of the last commits are shipped again.
pub struct PostgresOffsets {
    pool: PgPool,
    has_tables: OnceCell<()>,
}

/// What a configuration says of [`PostgresOffsets`].
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct PostgresOffsetsConfig {
    /// The database: `postgres://user:password@host:port/database`, with the parameters of libpq such as
    /// `sslmode=verify-full` behind a `?`.
    pub url: SecretRef,
}

impl PostgresOffsets {
    /// A store in the database at a URL. Connects on first use.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when the URL is none, or the secret is not found.
    pub fn open(config: &PostgresOffsetsConfig, context: &BuildContext) -> Result<Self, Error> {
        let url = context.secret("url", &config.url)?;
        // The parser's own error may quote the URL.
        let options: PgConnectOptions = url
            .expose()
            .parse()
            .map_err(|_| Error::config("url", "it is no URL such as postgres://user:password@host:5432/database"))?;
        // One connection to commit and one to renew the lease beside it. Connections that never age need no task that
        // closes them.
        let pool = PgPoolOptions::new()
            .max_connections(2)
            .acquire_timeout(Duration::from_secs(10))
            .idle_timeout(None)
            .max_lifetime(None)
            .after_connect(|connection, _| {
                // Whoever holds a row for longer has lost its way.
                Box::pin(async {
                    connection.execute("set statement_timeout = '30s'; set lock_timeout = '10s'").await.map(drop)
                })
            })
            .connect_lazy_with(options.application_name("logship"));
        Ok(Self::in_pool(pool))
    }

    /// A store in a database that the program has open already.
    pub fn in_pool(pool: PgPool) -> Self {
        PostgresOffsets { pool, has_tables: OnceCell::new() }
    }

    async fn session(&self) -> Result<Session<Postgres>, sqlx::Error> {
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
        if let Err(error) = rows::check_version(OPERATION, key, version(&mut transaction, key).await?) {
            return Ok(Err(error));
        }
        let epoch: Option<i64> = sqlx::query_scalar(
            "insert into logship_keys as held (key, version, epoch, owner, expires_at)
             values ($1, $2, 1, $3, clock_timestamp() + make_interval(secs => $4))
             on conflict (key) do update
               set epoch = held.epoch + 1, owner = excluded.owner, expires_at = excluded.expires_at
               where held.owner is null or held.expires_at <= clock_timestamp()
             returning epoch",
        )
        .bind(key.as_str())
        .bind(VERSION)
        .bind(owner)
        .bind(ttl.as_secs_f64())
        .fetch_optional(&mut *transaction)
        .await?;
        let Some(epoch) = epoch else {
            let holder = owner_of(&mut transaction, key).await?;
            return Ok(Err(busy(OPERATION, key, holder.as_deref().unwrap_or("another shipper"))));
        };
        transaction.commit().await?;
        session.done();
        Ok(Ok(Lease { key: key.clone(), epoch: epoch.cast_unsigned() }))
    }

    /// Whether the lease is the newest, and the change therefore made.
    async fn try_commit(&self, lease: &Lease, delta: &OffsetsDelta) -> Result<bool, sqlx::Error> {
        let mut session = self.session().await?;
        let mut transaction = session.begin().await?;
        // Whatever the user's or the database's default is.
        transaction.execute("set local synchronous_commit = on").await?;
        let held: Option<i64> = sqlx::query_scalar(
            "select epoch from logship_keys where key = $1 and epoch = $2 and owner is not null for update",
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
        if let Err(error) = rows::check_version(OPERATION, key, version(&mut transaction, key).await?) {
            return Ok(Err(error));
        }
        // A holder whose lease expired must not put back what was forgotten, so the epoch grows.
        let freed = sqlx::query(
            "update logship_keys set epoch = epoch + 1, owner = null, expires_at = null
             where key = $1 and (owner is null or expires_at <= clock_timestamp())",
        )
        .bind(key.as_str())
        .execute(&mut *transaction)
        .await?;
        if freed.rows_affected() == 0
            && let Some(holder) = owner_of(&mut transaction, key).await?
        {
            return Ok(Err(busy(OPERATION, key, &holder)));
        }
        for statement in [
            "delete from logship_windows where key = $1 and ($2::text is null or lane = $2)",
            "delete from logship_offsets where key = $1 and ($2::text is null or lane = $2)",
            "delete from logship_lanes where key = $1 and ($2::text is null or lane = $2)",
        ] {
            sqlx::query(statement).bind(key.as_str()).bind(lane).execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
        session.done();
        Ok(Ok(()))
    }
}

#[async_trait]
impl OffsetStore for PostgresOffsets {
    fn kind(&self) -> &'static str {
        "postgres"
    }

    async fn acquire(&self, key: &OffsetKey, owner: &str, ttl: Duration) -> Result<Lease, Error> {
        self.try_acquire(key, owner, ttl).await.map_err(|error| failed("acquire lease", error))?
    }

    async fn renew(&self, lease: &Lease, ttl: Duration) -> Result<(), Error> {
        const OPERATION: &str = "renew lease";
        let renew = async {
            let mut session = self.session().await?;
            let renewed = sqlx::query(
                "update logship_keys set expires_at = clock_timestamp() + make_interval(secs => $3)
                 where key = $1 and epoch = $2 and owner is not null",
            )
            .bind(lease.key.as_str())
            .bind(lease.epoch.cast_signed())
            .bind(ttl.as_secs_f64())
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
            sqlx::query("update logship_keys set owner = null, expires_at = null where key = $1 and epoch = $2")
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
            // All tables as one commit left them.
            transaction.execute("set transaction isolation level repeatable read, read only").await?;
            let version = version(&mut transaction, key).await?;
            let lanes: Vec<LaneRow> =
                sqlx::query_as("select lane, fingerprint, since from logship_lanes where key = $1")
                    .bind(key.as_str())
                    .fetch_all(&mut *transaction)
                    .await?;
            let cursors: Vec<CursorRow> =
                sqlx::query_as("select lane, partition, cursor from logship_offsets where key = $1")
                    .bind(key.as_str())
                    .fetch_all(&mut *transaction)
                    .await?;
            let windows: Vec<WindowRow> =
                sqlx::query_as("select lane, partition, shipped from logship_windows where key = $1")
                    .bind(key.as_str())
                    .fetch_all(&mut *transaction)
                    .await?;
            transaction.rollback().await?;
            session.done();
            Ok((version, lanes, cursors, windows))
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
            let keys = sqlx::query_scalar("select distinct key from logship_lanes order by key");
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

impl fmt::Debug for PostgresOffsets {
    /// Without the pool, which would show the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PostgresOffsets")
    }
}

async fn make_tables(session: &mut PgConnection) -> Result<(), sqlx::Error> {
    // To make a table takes a right that to find it does not.
    let has_tables: bool =
        sqlx::query_scalar("select to_regclass('logship_windows') is not null").fetch_one(&mut *session).await?;
    if has_tables {
        return Ok(());
    }
    // Two that make the same table at once disturb each other, `if not exists` or not. The number is a lock's name.
    let mut transaction = session.begin().await?;
    sqlx::raw_sql(
        "select pg_advisory_xact_lock(7810784573113041);
         create table if not exists logship_keys (
           key text collate \"C\" primary key, version bigint not null, epoch bigint not null,
           owner text, expires_at timestamptz);
         create table if not exists logship_lanes (
           key text collate \"C\" not null, lane text collate \"C\" not null, fingerprint text not null, since text,
           primary key (key, lane));
         create table if not exists logship_offsets (
           key text collate \"C\" not null, lane text collate \"C\" not null, partition text collate \"C\" not null,
           cursor text not null, primary key (key, lane, partition));
         create table if not exists logship_windows (
           key text collate \"C\" not null, lane text collate \"C\" not null, partition text collate \"C\" not null,
           shipped text not null, primary key (key, lane, partition));",
    )
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await
}

async fn version(transaction: &mut Transaction<'_, Postgres>, key: &OffsetKey) -> Result<Option<i64>, sqlx::Error> {
    sqlx::query_scalar("select version from logship_keys where key = $1")
        .bind(key.as_str())
        .fetch_optional(&mut **transaction)
        .await
}

async fn owner_of(transaction: &mut Transaction<'_, Postgres>, key: &OffsetKey) -> Result<Option<String>, sqlx::Error> {
    let owner: Option<Option<String>> = sqlx::query_scalar("select owner from logship_keys where key = $1")
        .bind(key.as_str())
        .fetch_optional(&mut **transaction)
        .await?;
    Ok(owner.flatten())
}

async fn write_lane(
    transaction: &mut Transaction<'_, Postgres>,
    key: &OffsetKey,
    lane: &str,
    change: &LaneDelta,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into logship_lanes as lanes (key, lane, fingerprint, since) values ($1, $2, coalesce($3, ''), $4)
         on conflict (key, lane) do update
           set fingerprint = coalesce($3, lanes.fingerprint), since = coalesce($4, lanes.since)",
    )
    .bind(key.as_str())
    .bind(lane)
    .bind(change.fingerprint.as_deref())
    .bind(change.since.map(|since| since.to_string()))
    .execute(&mut **transaction)
    .await?;
    for (partition, window) in &change.windows {
        let statement = match window {
            Some(window) => sqlx::query(
                "insert into logship_windows (key, lane, partition, shipped) values ($1, $2, $3, $4)
                 on conflict (key, lane, partition) do update set shipped = excluded.shipped",
            )
            .bind(key.as_str())
            .bind(lane)
            .bind(partition)
            .bind(rows::window_text(window)?),
            None => sqlx::query("delete from logship_windows where key = $1 and lane = $2 and partition = $3")
                .bind(key.as_str())
                .bind(lane)
                .bind(partition),
        };
        statement.execute(&mut **transaction).await?;
    }
    if change.cursors.is_empty() {
        return Ok(());
    }
    // One statement for all partitions, of which there may be thousands.
    let partitions: Vec<&str> = change.cursors.keys().map(String::as_str).collect();
    let cursors: Vec<String> = change.cursors.values().map(ToString::to_string).collect();
    sqlx::query(
        "insert into logship_offsets (key, lane, partition, cursor)
         select $1, $2, moved.partition, moved.cursor from unnest($3::text[], $4::text[]) as moved(partition, cursor)
         on conflict (key, lane, partition) do update set cursor = excluded.cursor",
    )
    .bind(key.as_str())
    .bind(lane)
    .bind(partitions)
    .bind(cursors)
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

/// Whether trying again helps, by SQLSTATE (<https://www.postgresql.org/docs/current/errcodes-appendix.html>).
fn failed(operation: &'static str, error: sqlx::Error) -> Error {
    let code = error.as_database_error().and_then(|error| error.code()).unwrap_or_default().into_owned();
    let (kind, message) = match (&error, code.as_str()) {
        (_, "42501") => (ErrorKind::Auth, "the user lacks a right to the logship_ tables, or to make them"),
        (_, "25006") => (ErrorKind::Unavailable, "the database can only be read: is it a replica?"),
        (_, "3D000" | "3F000") => (ErrorKind::Config, "there is no such database or schema"),
        (_, code) if code.starts_with("28") => (ErrorKind::Auth, "the database does not let us in"),
        (_, code) if ["08", "40", "53", "55", "57", "58"].iter().any(|class| code.starts_with(class)) => {
            (ErrorKind::Unavailable, "the database cannot serve us now")
        }
        (sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::Protocol(_), _) => {
            (ErrorKind::Unavailable, "the database cannot be reached")
        }
        (sqlx::Error::Tls(_), _) => (ErrorKind::Config, "no secure connection: check sslmode and certificates"),
        (sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_), _) => {
            (ErrorKind::State, "a row of the logship_ tables cannot be read: put it right, or reset the key")
        }
        _ => (ErrorKind::Unexpected, "the database refused a statement"),
    };
    Error::new(kind, operation, message).with_source(error)
}

/// Adds the store `postgres`, whose one field `url` says where the database is.
pub fn register(registry: &mut Registry) {
    #[cfg(feature = "schema")]
    registry.describe_store::<PostgresOffsetsConfig>("postgres");
    registry.add_store("postgres", |fields, context| PostgresOffsets::open(&read_fields(fields)?, context));
}
