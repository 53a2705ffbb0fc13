//! Records in a table of a MySQL (5.7 or later) or MariaDB (10.2 or later) database.
//!
//! Pages follow the timestamp and then the id of a row (keyset pagination): no page is found by counting, and no
//! transaction stays open between pages. An index on the timestamp makes each page a range of it. MySQL would sort the
//! whole rest of a table to order it by time and id, so a page is read in two steps: how far it reaches in time, and
//! then its rows.
//!
//! Ids, filters and the order of rows are by bytes, whatever the collations are. Times of the type `datetime` have no
//! zone, and are taken as UTC.
//!
//! # Cancellation
//! A read that is dropped closes its connection and, where it was waiting for rows, has the server end the statement.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use logship_core::{
    ArrivalOrder, BuildContext, Error, ErrorKind, Page, PageLimits, Partition, Query, RecordId, Registry, SecretRef,
    Source, Start, async_trait, read_fields,
};
use serde::Deserialize;
use sqlx::mysql::{MySqlArguments, MySqlConnectOptions, MySqlDatabaseError, MySqlPoolOptions, MySqlRow};
use sqlx::pool::PoolConnection;
use sqlx::{Arguments, AssertSqlSafe, Executor, MySql, MySqlConnection, MySqlPool, Row, ValueRef};
use tokio::runtime::Handle;
use tokio::sync::OnceCell;

use crate::sql::{self, Bind, Cell, Column, Contents, Dialect, Kind, Layout, PageBuilder, RowSizes, Statements};

pub use crate::sql::{IdFormat, JsonColumn, TableMapping, TimestampFormat};

#[cfg(test)]
mod tests;

/// What a configuration says of a [`MysqlSource`].
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct MysqlConfig {
    /// The database: `mysql://user:password@host:port/database`, with parameters such as `ssl-mode=VERIFY_IDENTITY`
    /// behind a `?`.
    pub url: SecretRef,
    /// The table. Default: Kestra's `logs`. Its fields, or the name of a mapping.
    #[serde(default = "TableMapping::kestra")]
    pub mapping: TableMapping,
    /// The most connections. Default: 4.
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

impl MysqlConfig {
    /// Kestra's table in the database at this URL.
    pub fn new(url: impl Into<SecretRef>) -> Self {
        MysqlConfig {
            url: url.into(),
            mapping: TableMapping::kestra(),
            connections_max: default_connections_max(),
            statement_timeout_secs: default_statement_timeout_secs(),
        }
    }
}

/// How long a read waits for a connection, before it fails as unavailable and the engine decides.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

/// Sets what every connection of an own pool has set, beside what the driver sets: UTC and utf8mb4.
async fn prepare(connection: &mut MySqlConnection, timeout_secs: u32) -> Result<(), sqlx::Error> {
    // MariaDB's and MySQL's name for the same:
    // https://mariadb.com/docs/server/ha-and-performance/optimization-and-tuning/query-optimizations/aborting-statements
    // https://dev.mysql.com/doc/refman/8.4/en/server-system-variables.html#sysvar_max_execution_time
    let mariadb = format!("set session max_statement_time = {timeout_secs}");
    let mysql = format!("set session max_execution_time = {}", u64::from(timeout_secs) * 1_000);
    if connection.execute(AssertSqlSafe(mariadb)).await.is_err() {
        connection.execute(AssertSqlSafe(mysql)).await?;
    }
    Ok(())
}

/// Reads a table of a MySQL or MariaDB database.
pub struct MysqlSource {
    pool: MySqlPool,
    mapping: TableMapping,
    partition: Partition,
    layout: OnceCell<Arc<Layout>>,
    sizes: RowSizes,
}

pub(crate) fn register(registry: &mut Registry) {
    #[cfg(feature = "schema")]
    registry.describe_source::<MysqlConfig>("mysql");
    registry.add_source("mysql", |fields, context| MysqlSource::open(read_fields(fields)?, context));
}

impl MysqlSource {
    /// Reads the database at a URL. Connects on first use.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when the URL is none, or the secret is not found.
    pub fn open(config: MysqlConfig, context: &BuildContext) -> Result<Self, Error> {
        config.mapping.validate()?;
        let url = context.secret("url", &config.url)?;
        // The parser's own error may quote the URL.
        let options: MySqlConnectOptions = url
            .expose()
            .parse()
            .map_err(|_| Error::config("url", "it is no URL such as mysql://user:password@host:3306/database"))?;
        let timeout_secs = config.statement_timeout_secs;
        let pool = MySqlPoolOptions::new()
            .max_connections(config.connections_max.max(1))
            .acquire_timeout(ACQUIRE_TIMEOUT)
            // Connections that never age need no task that closes them, and so no runtime to make the pool in.
            .idle_timeout(None)
            .max_lifetime(None)
            .after_connect(move |connection, _| Box::pin(prepare(connection, timeout_secs)))
            .connect_lazy_with(options);
        Ok(MysqlSource::in_pool(pool, config.mapping))
    }

    /// Reads, and deletes, through the host's own pool. Its sessions must speak utf8mb4, and, for columns of the type
    /// `timestamp`, have the time zone UTC.
    pub fn in_pool(pool: MySqlPool, mapping: TableMapping) -> Self {
        let partition = Partition::new(&mapping.table);
        MysqlSource { pool, mapping, partition, layout: OnceCell::new(), sizes: RowSizes::default() }
    }

    /// The table as it was when first looked at.
    async fn layout(&self) -> Result<&Arc<Layout>, Error> {
        self.layout.get_or_try_init(|| async { self.look().await.map(Arc::new) }).await
    }

    async fn reading(&self) -> Result<Reading, sqlx::Error> {
        Ok(Reading { connection: Some(self.pool.acquire().await?), id: None, pool: self.pool.clone() })
    }

    /// The table as it is now.
    async fn look(&self) -> Result<Layout, Error> {
        // Some servers send the columns of this view as bytes.
        let columns = sqlx::query_as(
            "select cast(column_name as char), cast(data_type as char), cast(column_type as char),
                    cast(is_nullable as char)
             from information_schema.columns
             where table_schema = coalesce(?, database()) and table_name = ? order by ordinal_position",
        )
        .bind(self.mapping.schema.as_deref())
        .bind(&self.mapping.table);
        let failed = |error| failed("look at the log table", error);
        let mut reading = self.reading().await.map_err(failed)?;
        let rows: Vec<(String, String, String, String)> =
            columns.fetch_all(reading.connection()?).await.map_err(failed)?;
        reading.done();
        let columns: Vec<Column> = rows
            .into_iter()
            .map(|(name, base, declared, nullable)| {
                let kind = kind(&base, declared.contains("unsigned"));
                Column { name, kind, declared, nullable: nullable == "YES" }
            })
            .collect();
        Layout::new(&self.mapping, &columns)
    }

    /// Whether the time leads an index. A plan would not say: MySQL reads a small table as a whole in any case.
    async fn has_index(&self, layout: &Layout) -> Result<bool, Error> {
        let indexes = sqlx::query_scalar(
            "select count(*) from information_schema.statistics
             where table_schema = coalesce(?, database()) and table_name = ? and column_name = ? and seq_in_index = 1",
        )
        .bind(self.mapping.schema.as_deref())
        .bind(&self.mapping.table)
        .bind(&layout.timestamp.name);
        let failed = |error| failed("look at the log table", error);
        let mut reading = self.reading().await.map_err(failed)?;
        let count: i64 = indexes.fetch_one(reading.connection()?).await.map_err(failed)?;
        reading.done();
        Ok(count > 0)
    }

    /// The rows of one page. Starts again only if all of them were deleted while it looked.
    async fn read_page(
        &self,
        reading: &mut Reading,
        layout: &Arc<Layout>,
        (start, query, limits): (&Start, &Query, PageLimits),
    ) -> Result<Page, Error> {
        const OPERATION: &str = "read the log table";
        let statements = Statements { dialect: Dialect::Mysql, layout };
        let asked = self.sizes.rows(limits);
        loop {
            let reach = statements.reach(start, query, asked)?;
            let reach = sqlx::query_with(AssertSqlSafe(reach.sql), arguments(reach.bound)?)
                .fetch_one(reading.connection()?)
                .await
                .map_err(|error| failed(OPERATION, error))?;
            reading.id = Some(reach.try_get(0).map_err(|error| failed(OPERATION, error))?);
            let until = sql::time(layout, |contents| value(&reach, 1, &layout.timestamp, contents))?;
            let is_last = until.is_none();
            let rows = statements.page(start, query, asked, until)?;
            let mut rows =
                sqlx::query_with(AssertSqlSafe(rows.sql), arguments(rows.bound)?).fetch(reading.connection()?);
            let mut page = PageBuilder::new(Dialect::Mysql, layout, start, query, limits);
            while let Some(row) = rows.try_next().await.map_err(|error| failed(OPERATION, error))? {
                if !page.push(|index, column, contents| value(&row, index, column, contents))? {
                    break;
                }
            }
            if page.rows() > 0 || page.waits() || is_last {
                return Ok(page.finish(if is_last { asked } else { 0 }, &self.sizes));
            }
        }
    }
}

#[async_trait]
impl Source for MysqlSource {
    fn kind(&self) -> &'static str {
        "mysql"
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
        let layout = self.layout().await?;
        let mut reading = self.reading().await.map_err(|error| failed("read the log table", error))?;
        let page = self.read_page(&mut reading, layout, (start, query, limits)).await?;
        reading.done();
        Ok(page)
    }

    async fn check(&self) -> Result<(), Error> {
        let layout = self.look().await?;
        sql::warn_of_nulls(&layout);
        if !self.has_index(&layout).await? {
            tracing::warn!(
                table = self.mapping.table,
                hint = %sql::index_hint(&self.mapping),
                "every page looks at the whole table"
            );
        }
        Ok(())
    }

    async fn delete(&self, ids: &[RecordId]) -> Result<u64, Error> {
        let statements = Statements { dialect: Dialect::Mysql, layout: self.layout().await? };
        let failed = |error| failed("delete rows", error);
        let mut reading = self.reading().await.map_err(failed)?;
        let mut deleted = 0;
        for batch in sql::batches(&self.partition, ids)? {
            let statement = statements.delete(batch)?;
            let rows = sqlx::query_with(AssertSqlSafe(statement.sql), arguments(statement.bound)?);
            deleted += rows.execute(reading.connection()?).await.map_err(failed)?.rows_affected();
        }
        reading.done();
        Ok(deleted)
    }
}

impl fmt::Debug for MysqlSource {
    /// Without the pool, which would show the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MysqlSource").field("mapping", &self.mapping).finish_non_exhaustive()
    }
}

/// A connection on which the table is being read or deleted from. Dropped before it is done, it closes the connection,
/// whose next answer sqlx 0.9.0 might take for that of another statement, and tells the server, which does not look by
/// itself.
struct Reading {
    connection: Option<PoolConnection<MySql>>,
    /// The server's number of the connection, once known.
    id: Option<u64>,
    pool: MySqlPool,
}

impl Reading {
    fn connection(&mut self) -> Result<&mut MySqlConnection, Error> {
        let gone = || Error::new(ErrorKind::Unexpected, "read the log table", "the connection is given back");
        self.connection.as_deref_mut().ok_or_else(gone)
    }

    /// Gives the connection back to its pool.
    fn done(mut self) {
        self.connection = None;
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        drop(connection.detach());
        if let (Some(id), Ok(runtime)) = (self.id, Handle::try_current()) {
            let pool = self.pool.clone();
            runtime.spawn(async move {
                if let Err(error) = pool.execute(AssertSqlSafe(format!("kill {id}"))).await {
                    tracing::debug!(%error, "a statement that nobody waits for may go on until its time is up");
                }
            });
        }
    }
}

/// What a type holds, by its name in the information schema.
fn kind(type_name: &str, is_unsigned: bool) -> Kind {
    match type_name {
        "char" | "varchar" | "tinytext" | "text" | "mediumtext" | "longtext" => Kind::Text,
        "tinyint" | "smallint" | "mediumint" | "int" | "bigint" if is_unsigned => Kind::Unsigned,
        "tinyint" | "smallint" | "mediumint" | "int" | "bigint" => Kind::Integer,
        "float" | "double" => Kind::Float,
        "binary" | "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob" | "bit" => Kind::Bytes,
        "json" => Kind::Json,
        "datetime" | "timestamp" => Kind::Time,
        _ => Kind::Other,
    }
}

/// What a statement binds, as MySQL takes it.
fn arguments(bound: Vec<Bind>) -> Result<MySqlArguments, Error> {
    let mut arguments = MySqlArguments::default();
    for value in bound {
        let added = match value {
            Bind::Text(text) => arguments.add(text),
            Bind::Int(number) | Bind::Micros(number) => arguments.add(number),
            Bind::Unsigned(number) => arguments.add(number),
        };
        added.map_err(|error| failed("bind a value", sqlx::Error::Encode(error)))?;
    }
    Ok(arguments)
}

/// The value of a column.
fn value(row: &MySqlRow, index: usize, column: &Column, contents: &mut Contents) -> Result<Cell, sql::Cause> {
    if row.try_get_raw(index)?.is_null() {
        return Ok(Cell::Null);
    }
    let bytes = || row.try_get_unchecked::<&[u8], _>(index);
    Ok(match column.kind {
        Kind::Integer => Cell::Int(row.try_get_unchecked(index)?),
        Kind::Unsigned => {
            let number: u64 = row.try_get_unchecked(index)?;
            i64::try_from(number).map_or_else(|_| contents.text(&number.to_string()), Cell::Int)
        }
        Kind::Float => Cell::Double(row.try_get_unchecked(index)?),
        Kind::Bytes => contents.bytes(bytes()?),
        _ => contents.text_lossy(bytes()?),
    })
}

/// What to do about an error, by its number
/// (<https://dev.mysql.com/doc/mysql-errors/8.4/en/server-error-reference.html>, and for 1927 and 1969
/// <https://mariadb.com/docs/server/reference/error-codes>).
fn failed(operation: &'static str, error: sqlx::Error) -> Error {
    let number = error
        .as_database_error()
        .and_then(|error| error.try_downcast_ref::<MySqlDatabaseError>())
        .map(MySqlDatabaseError::number);
    let (kind, message) = match (&error, number) {
        (_, Some(1969 | 3024)) => {
            (ErrorKind::Timeout, "the server gave the statement up: is there an index it could use?")
        }
        (_, Some(1049 | 1054 | 1146)) => {
            (ErrorKind::Config, "the database has no such table or column: has it changed?")
        }
        (_, Some(1044 | 1045 | 1142 | 1143 | 1227 | 1698)) => (ErrorKind::Auth, "the database does not let us do this"),
        (_, Some(1153)) => (ErrorKind::Config, "the server takes no such statement: raise `max_allowed_packet`"),
        (
            _,
            Some(
                1040 | 1053 | 1152 | 1154..=1161 | 1203 | 1205 | 1213 | 1226 | 1290 | 1317 | 1836 | 1927 | 2006 | 2013,
            ),
        ) => (ErrorKind::Unavailable, "the database cannot serve us now"),
        (sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::Protocol(_), _) => {
            (ErrorKind::Unavailable, "the database cannot be reached")
        }
        (sqlx::Error::Tls(_), _) => (ErrorKind::Config, "no secure connection: check ssl-mode and certificates"),
        (sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_), _) => (ErrorKind::State, "a row cannot be read"),
        _ => (ErrorKind::Unexpected, "the database refused a statement"),
    };
    Error::new(kind, operation, message).with_source(error)
}
