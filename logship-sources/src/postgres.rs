//! Records in a table of a PostgreSQL database, 13 or later.
//!
//! Pages follow the timestamp and then the id of a row (keyset pagination): no page is found by counting, and no
//! transaction stays open between pages. An index on the timestamp makes each page a range of it; one on
//! `(timestamp, id collate "C")` serves many rows of one timestamp too.
//!
//! Positions keep the microseconds of the database, whatever a record's nanoseconds can hold: `infinity`, years before
//! 1677 and after 2262 have their place, though their records carry the nearest time there is.
//!
//! # Open transactions
//! Reading never passes the oldest open transaction that has written. One that has only read so far is not known to the
//! server as a writer, and `now()` is the time at which it began: what it then inserts by such a default lies where it
//! began. If that is further back than the lane's `overlap`, it is not found. Take `clock_timestamp()` as the column's
//! default, an `overlap` as long as such transactions, or
//! [`idle_in_transaction_session_timeout`](https://www.postgresql.org/docs/current/runtime-config-client.html) to end
//! them.
//!
//! # Cancellation
//! A read that is dropped closes its connection. On a pool that the source made itself the server (14 or later)
//! notices within half a second and ends the statement; on a host's pool it notices when it next writes, unless the
//! host has set [`client_connection_check_interval`].
//!
//! [`client_connection_check_interval`]:
//! https://www.postgresql.org/docs/current/runtime-config-connection.html#GUC-CLIENT-CONNECTION-CHECK-INTERVAL

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::TryStreamExt;
use logship_core::{
    ArrivalOrder, BuildContext, Error, ErrorKind, Page, PageLimits, Partition, Query, RecordId, Registry, SecretRef,
    Source, Start, Timestamp, async_trait, read_fields,
};
use serde::Deserialize;
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::pool::PoolConnection;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgArguments, PgConnectOptions, PgPoolOptions, PgRow, PgTypeInfo};
use sqlx::{
    Arguments, AssertSqlSafe, Connection, Encode, Executor, PgConnection, PgPool, Postgres, Row, Type, ValueRef,
};
use tokio::sync::OnceCell;

use crate::sql::{self, Bind, Cell, Column, Contents, Dialect, Kind, Layout, PageBuilder, RowSizes, Statements};

mod horizon;
#[cfg(test)]
mod tests;

use horizon::Horizon;

pub use crate::sql::{IdFormat, JsonColumn, TableMapping, TimestampFormat};

/// What a configuration says of a [`PostgresSource`].
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct PostgresConfig {
    /// The database: `postgres://user:password@host:port/database`, with the parameters of libpq such as
    /// `sslmode=verify-full` behind a `?`.
    pub url: SecretRef,
    /// A read replica of it, from which pages are then read. The database itself is asked for its open transactions
    /// only, and deletes.
    #[serde(default)]
    pub replica_url: Option<SecretRef>,
    /// The table. Default: Kestra's `logs`. Its fields, or the name of a mapping.
    #[serde(default = "TableMapping::kestra_postgres")]
    pub mapping: TableMapping,
    /// The most connections to each database. Default: 4.
    #[serde(default = "default_connections_max")]
    pub connections_max: u32,
    /// After how many seconds the server gives a statement up, which is then tried again. Default: 300.
    #[serde(default = "default_statement_timeout_secs")]
    pub statement_timeout_secs: u32,
}

fn default_connections_max() -> u32 {
    4
}

fn default_statement_timeout_secs() -> u32 {
    300
}

impl PostgresConfig {
    /// Kestra's table in the database at this URL.
    pub fn new(url: impl Into<SecretRef>) -> Self {
        PostgresConfig {
            url: url.into(),
            replica_url: None,
            mapping: TableMapping::kestra_postgres(),
            connections_max: default_connections_max(),
            statement_timeout_secs: default_statement_timeout_secs(),
        }
    }

    /// A pool that connects when it is first used.
    fn pool(&self, field: &str, url: &SecretRef, context: &BuildContext) -> Result<PgPool, Error> {
        let url = context.secret(field, url)?;
        // The parser's own error may quote the URL.
        let options: PgConnectOptions = url
            .expose()
            .parse()
            .map_err(|_| Error::config(field, "it is no URL such as postgres://user:password@host:5432/database"))?;
        let timeout_secs = self.statement_timeout_secs;
        Ok(PgPoolOptions::new()
            .max_connections(self.connections_max.max(1))
            .acquire_timeout(ACQUIRE_TIMEOUT)
            // Connections that never age need no task that closes them, and so no runtime to make the pool in.
            .idle_timeout(None)
            .max_lifetime(None)
            .after_connect(move |connection, _| Box::pin(prepare(connection, timeout_secs)))
            .connect_lazy_with(options.application_name("logship")))
    }
}

/// How long a read waits for a connection, before it fails as unavailable and the engine decides.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

/// Sets what every connection of an own pool has set.
async fn prepare(connection: &mut PgConnection, timeout_secs: u32) -> Result<(), sqlx::Error> {
    let settings = format!("set statement_timeout = '{timeout_secs}s'; set timezone = 'UTC'");
    connection.execute(AssertSqlSafe(settings)).await?;
    // Servers before 14, and some systems, have no such thing: there a dropped read ends when it next writes.
    if let Err(error) = connection.execute("set client_connection_check_interval = '500ms'").await {
        tracing::debug!(%error, "the server does not look whether a client is still there");
    }
    Ok(())
}

/// Reads a table of a PostgreSQL database.
pub struct PostgresSource {
    /// Pages are read from here.
    pages: PgPool,
    /// Open transactions are known, and rows are deleted, here.
    primary: PgPool,
    has_replica: bool,
    mapping: TableMapping,
    partition: Partition,
    layout: OnceCell<Arc<Layout>>,
    sizes: RowSizes,
    horizon: Mutex<Horizon>,
}

pub(crate) fn register(registry: &mut Registry) {
    #[cfg(feature = "schema")]
    registry.describe_source::<PostgresConfig>("postgres");
    registry.add_source("postgres", |fields, context| PostgresSource::open(read_fields(fields)?, context));
}

impl PostgresSource {
    /// Reads the database at a URL. Connects on first use.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when a URL is none, or a secret is not found.
    pub fn open(config: PostgresConfig, context: &BuildContext) -> Result<Self, Error> {
        config.mapping.validate()?;
        let primary = config.pool("url", &config.url, context)?;
        let replica = config.replica_url.as_ref().map(|url| config.pool("replica_url", url, context)).transpose()?;
        Ok(match replica {
            Some(replica) => PostgresSource::with_replica(primary, replica, config.mapping),
            None => PostgresSource::in_pool(primary, config.mapping),
        })
    }

    /// Reads through the host's own pool. Sessions are left as they are: set `statement_timeout`, and the time zone
    /// to UTC where attributes hold times.
    pub fn in_pool(pool: PgPool, mapping: TableMapping) -> Self {
        PostgresSource { has_replica: false, ..PostgresSource::with_replica(pool.clone(), pool, mapping) }
    }

    /// Reads pages through the host's own pool of a read replica.
    pub fn with_replica(primary: PgPool, replica: PgPool, mapping: TableMapping) -> Self {
        PostgresSource {
            pages: replica,
            primary,
            has_replica: true,
            partition: Partition::new(&mapping.table),
            mapping,
            layout: OnceCell::new(),
            sizes: RowSizes::default(),
            horizon: Mutex::default(),
        }
    }

    /// The table as it was when first looked at.
    async fn layout(&self) -> Result<&Arc<Layout>, Error> {
        self.layout.get_or_try_init(|| async { self.look().await.map(Arc::new) }).await
    }

    /// The table as it is now.
    async fn look(&self) -> Result<Layout, Error> {
        let schema = self.mapping.schema.as_ref().map_or(String::new(), |name| Dialect::Postgres.quoted(name) + ".");
        // A domain is read as the type it is made of.
        let rows: Vec<(String, String, String, bool)> = sqlx::query_as(
            "select a.attname::text, coalesce(b.typname, t.typname)::text, format_type(a.atttypid, a.atttypmod),
                    not a.attnotnull
             from pg_catalog.pg_attribute a join pg_catalog.pg_type t on t.oid = a.atttypid
                  left join pg_catalog.pg_type b on t.typtype = 'd' and b.oid = t.typbasetype
             where a.attrelid = to_regclass($1) and a.attnum > 0 and not a.attisdropped order by a.attnum",
        )
        .bind(schema + &Dialect::Postgres.quoted(&self.mapping.table))
        .fetch_all(&self.pages)
        .await
        .map_err(|error| failed("look at the log table", error))?;
        let columns: Vec<Column> = rows
            .into_iter()
            .map(|(name, base, declared, nullable)| Column { name, kind: kind(&base), declared, nullable })
            .collect();
        Layout::new(&self.mapping, &columns)
    }

    /// How the database would find a page if it used whatever index there is: the plan for a table that is small
    /// today says nothing of tomorrow.
    async fn plan(&self, statements: &Statements<'_>) -> Result<Vec<String>, sqlx::Error> {
        let page = statements.page(&statements.example(), &Query::all(), 100, None).map_err(sqlx::Error::config)?;
        // Its settings go with this connection, also when the call is dropped.
        let mut connection = self.pages.acquire().await?.detach();
        connection.execute("set enable_seqscan = off; set enable_sort = off; set enable_bitmapscan = off").await?;
        let explain = AssertSqlSafe(format!("explain (costs off) {}", page.sql));
        let plan = sqlx::query_with(explain, arguments(page.bound)?).fetch_all(&mut connection).await?;
        connection.close().await?;
        plan.iter().map(|line| line.try_get(0)).collect()
    }
}

#[async_trait]
impl Source for PostgresSource {
    fn kind(&self) -> &'static str {
        "postgres"
    }

    fn fingerprint(&self) -> String {
        self.mapping.fingerprint()
    }

    fn arrival_order(&self) -> ArrivalOrder {
        ArrivalOrder::Bounded
    }

    async fn partitions(&self) -> Result<Vec<Partition>, Error> {
        Ok(vec![self.partition.clone()])
    }

    async fn read(&self, _: &Partition, start: &Start, query: &Query, limits: PageLimits) -> Result<Page, Error> {
        const OPERATION: &str = "read the log table";
        let layout = self.layout().await?;
        let asked = self.sizes.rows(limits);
        let statement = Statements { dialect: Dialect::Postgres, layout }.page(start, query, asked, None)?;
        let arguments = arguments(statement.bound).map_err(|error| failed(OPERATION, error))?;
        let mut reading = Reading::new(self.pages.acquire().await.map_err(|error| failed(OPERATION, error))?);
        let mut page = PageBuilder::new(Dialect::Postgres, layout, start, query, limits);
        {
            let mut rows = sqlx::query_with(AssertSqlSafe(statement.sql), arguments).fetch(reading.connection()?);
            while let Some(row) = rows.try_next().await.map_err(|error| failed(OPERATION, error))? {
                if !page.push(|index, column, contents| value(&row, index, column, contents))? {
                    break;
                }
            }
        }
        reading.done();
        Ok(page.finish(asked, &self.sizes))
    }

    /// When the oldest transaction began that has written and is still open, in this database, or prepared; `None`
    /// where there is none. With a replica, nothing younger than what the replica shows.
    ///
    /// Sees the transactions of other users only with the rights of `pg_read_all_stats`; without them it warns once,
    /// and gives `None` while another user is writing.
    async fn horizon(&self) -> Result<Option<Timestamp>, Error> {
        horizon::ask(self).await.map_err(|error| failed("look at open transactions", error))
    }

    async fn check(&self) -> Result<(), Error> {
        let layout = self.look().await?;
        sql::warn_of_nulls(&layout);
        let statements = Statements { dialect: Dialect::Postgres, layout: &layout };
        let plan = self.plan(&statements).await.map_err(|error| failed("explain a page", error))?;
        if plan.iter().any(|line| is_slow(line)) {
            tracing::warn!(
                table = self.mapping.table,
                hint = %sql::index_hint(&self.mapping),
                "every page looks at the whole table"
            );
        }
        Ok(())
    }

    async fn delete(&self, ids: &[RecordId]) -> Result<u64, Error> {
        const OPERATION: &str = "delete rows";
        let statements = Statements { dialect: Dialect::Postgres, layout: self.layout().await? };
        let mut deleted = 0;
        for batch in sql::batches(&self.partition, ids)? {
            let statement = statements.delete(batch)?;
            let arguments = arguments(statement.bound).map_err(|error| failed(OPERATION, error))?;
            let done = sqlx::query_with(AssertSqlSafe(statement.sql), arguments).execute(&self.primary).await;
            deleted += done.map_err(|error| failed(OPERATION, error))?.rows_affected();
        }
        Ok(deleted)
    }
}

impl fmt::Debug for PostgresSource {
    /// Without the pools, which would show the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresSource").field("mapping", &self.mapping).finish_non_exhaustive()
    }
}

/// A connection on which a page is being read. Dropped before it is done, it closes the connection, so that the
/// server ends the statement; in the pool it would first have to read the rest of the page.
struct Reading(Option<PoolConnection<Postgres>>);

impl Reading {
    fn new(connection: PoolConnection<Postgres>) -> Self {
        Reading(Some(connection))
    }

    fn connection(&mut self) -> Result<&mut PgConnection, Error> {
        let gone = || Error::new(ErrorKind::Unexpected, "read the log table", "the connection is given back");
        self.0.as_deref_mut().ok_or_else(gone)
    }

    /// Gives the connection back to its pool.
    fn done(mut self) {
        self.0 = None;
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(connection.detach());
        }
    }
}

/// What a type holds, by its name in the catalogue.
fn kind(type_name: &str) -> Kind {
    match type_name {
        "text" | "varchar" => Kind::Text,
        "int2" | "int4" | "int8" => Kind::Integer,
        "bool" => Kind::Boolean,
        "float4" | "float8" => Kind::Float,
        "bytea" => Kind::Bytes,
        "json" | "jsonb" => Kind::Json,
        "timestamptz" | "timestamp" => Kind::Time,
        _ => Kind::Other,
    }
}

/// Whether a line of a plan reads the whole table or sorts the whole rest of it.
fn is_slow(line: &str) -> bool {
    let node = line.trim_start().trim_start_matches("->").trim_start();
    node.starts_with("Seq Scan") || node == "Sort"
}

/// Microseconds from 1970 to 2000, where PostgreSQL begins to count.
const EPOCH_MICROS: i64 = 946_684_800_000_000;

/// Microseconds since 1970 of PostgreSQL's own number, in which the ends stand for `-infinity` and `infinity`.
fn unix_micros(number: i64) -> i64 {
    if number == i64::MIN { i64::MIN } else { number.saturating_add(EPOCH_MICROS) }
}

/// A point in time, for a parameter whose type the server takes from the column it is compared with: with or without
/// a time zone, both are sent as the same number.
struct Moment(i64);

impl Type<Postgres> for Moment {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(0))
    }
}

impl Encode<'_, Postgres> for Moment {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        let number = if self.0 == i64::MAX { i64::MAX } else { self.0.saturating_sub(EPOCH_MICROS) };
        buffer.extend_from_slice(&number.to_be_bytes());
        Ok(IsNull::No)
    }
}

/// What a statement binds, as PostgreSQL takes it.
fn arguments(bound: Vec<Bind>) -> Result<PgArguments, sqlx::Error> {
    let mut arguments = PgArguments::default();
    for value in bound {
        match value {
            Bind::Text(text) => arguments.add(text),
            Bind::Int(number) => arguments.add(number),
            Bind::Micros(micros) => arguments.add(Moment(micros)),
            // PostgreSQL has no number that large, and compares with the largest.
            Bind::Unsigned(number) => arguments.add(i64::try_from(number).unwrap_or(i64::MAX)),
        }
        .map_err(sqlx::Error::Encode)?;
    }
    Ok(arguments)
}

/// The value of a column, which the server has sent in its binary form
/// (<https://www.postgresql.org/docs/current/protocol-overview.html#PROTOCOL-FORMAT-CODES>).
fn value(row: &PgRow, index: usize, column: &Column, contents: &mut Contents) -> Result<Cell, sql::Cause> {
    let raw = row.try_get_raw(index)?;
    if raw.is_null() {
        return Ok(Cell::Null);
    }
    let bytes = raw.as_bytes()?;
    Ok(match column.kind {
        Kind::Integer => Cell::Int(match bytes.len() {
            2 => i16::from_be_bytes(bytes.try_into()?).into(),
            4 => i32::from_be_bytes(bytes.try_into()?).into(),
            _ => i64::from_be_bytes(bytes.try_into()?),
        }),
        Kind::Float if bytes.len() == 4 => Cell::Double(f32::from_be_bytes(bytes.try_into()?).into()),
        Kind::Float => Cell::Double(f64::from_be_bytes(bytes.try_into()?)),
        Kind::Boolean => Cell::Bool(bytes == [1]),
        Kind::Bytes => contents.bytes(bytes),
        // The time of the position comes first, and is not sent as text.
        Kind::Time if index == 0 => Cell::Int(unix_micros(i64::from_be_bytes(bytes.try_into()?))),
        _ => contents.text_lossy(bytes),
    })
}

/// What to do about an error, by its SQLSTATE (<https://www.postgresql.org/docs/current/errcodes-appendix.html>).
fn failed(operation: &'static str, error: sqlx::Error) -> Error {
    let code = error.as_database_error().and_then(|error| error.code()).unwrap_or_default().into_owned();
    let (kind, message) = match (&error, code.as_str()) {
        (_, "57014") => (ErrorKind::Timeout, "the server gave the statement up: is there an index it could use?"),
        (_, "42P01" | "42703" | "3D000" | "3F000") => {
            (ErrorKind::Config, "the database has no such table or column: has it changed?")
        }
        (_, "42501") => (ErrorKind::Auth, "the user lacks a right"),
        (_, "25006") => (ErrorKind::Unavailable, "the database can only be read: is it a replica?"),
        (_, code) if code.starts_with("28") => (ErrorKind::Auth, "the database does not let us in"),
        (_, code) if ["08", "40", "53", "55", "57", "58"].iter().any(|class| code.starts_with(class)) => {
            (ErrorKind::Unavailable, "the database cannot serve us now")
        }
        (sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::Protocol(_), _) => {
            (ErrorKind::Unavailable, "the database cannot be reached")
        }
        (sqlx::Error::Tls(_), _) => (ErrorKind::Config, "no secure connection: check sslmode and certificates"),
        (sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_), _) => (ErrorKind::State, "a row cannot be read"),
        _ => (ErrorKind::Unexpected, "the database refused a statement"),
    };
    Error::new(kind, operation, message).with_source(error)
}
