//! Records in a table of a PostgreSQL database.
//!
//! Rows may become readable behind a position that has been read, because transactions commit in another order than
//! that of the times they wrote. The database knows which transactions are still open, and no position passes the
//! beginning of the oldest one that has written ([`horizon`](Source::horizon)). Rows whose timestamp or id is NULL, or
//! whose timestamp is infinite, have no position and are not read.
//!
//! A read that is dropped closes its connection; the server notices when it writes, and gives up after
//! [`PostgresConfig::statement_timeout_secs`] in any case.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use logship_core::{
    ArrivalOrder, BuildContext, Error, ErrorKind, Page, PageLimits, Partition, Query, RecordId, Registry, SecretRef,
    Source, Start, TextArena, Timestamp, Value, async_trait, read_fields,
};
use serde::Deserialize;
use sqlx::postgres::{PgArguments, PgConnectOptions, PgPoolOptions, PgRow};
use sqlx::{AssertSqlSafe, PgPool, Postgres, Row as _};
use tokio::sync::OnceCell;

use crate::sql::{Bind, Dialect, IdType, PageBuilder, Row, Statement, Table, TableMapping, Time, TimestampFormat};

/// What a configuration says of a [`PostgresSource`].
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostgresConfig {
    /// Where the database is: `postgres://user:password@host:5432/database`
    /// (<https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-URIS>). A replica will do, and
    /// spares the primary; what has not reached it yet is read later.
    pub url: SecretRef,
    /// The table. Default: Kestra's `logs`, as Kestra makes it on PostgreSQL.
    #[serde(default = "TableMapping::kestra_postgres")]
    pub mapping: TableMapping,
    /// The most connections at a time. Default 4.
    #[serde(default = "four")]
    pub connections_max: u32,
    /// How long one statement may take, in seconds. Default 60.
    #[serde(default = "sixty")]
    pub statement_timeout_secs: u64,
}

fn four() -> u32 {
    4
}

fn sixty() -> u64 {
    60
}

/// Reads a table of a PostgreSQL database.
#[derive(Clone, Debug)]
pub struct PostgresSource {
    pool: PgPool,
    table: Table,
    catalog: Arc<OnceCell<Catalog>>,
}

/// What the database says of the table's columns, and of us.
#[derive(Debug)]
struct Catalog {
    /// The type of each column, by its name.
    types: BTreeMap<String, String>,
    /// Whether we may see other people's transactions.
    sees_transactions: bool,
}

pub(crate) fn register(registry: &mut Registry) {
    registry.add_source("postgres", |fields, context| PostgresSource::new(read_fields(fields)?, context));
}

impl PostgresSource {
    /// Reads through connections of its own. Connects on first use, and anew when a connection is lost.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when the address is none, without showing it.
    pub fn new(config: PostgresConfig, context: &BuildContext) -> Result<Self, Error> {
        let url = context.secret("url", &config.url)?;
        let is_ours = ["postgres://", "postgresql://"].iter().any(|scheme| url.expose().starts_with(scheme));
        // What the parser says may quote the password.
        let options = PgConnectOptions::from_str(url.expose()).ok().filter(|_| is_ours);
        let options = options
            .ok_or_else(|| Error::config("url", "this is not the address of a PostgreSQL database: postgres://…"))?
            .application_name("logship")
            .options([("statement_timeout", format!("{}s", config.statement_timeout_secs))]);
        let pool = PgPoolOptions::new()
            .max_connections(config.connections_max.max(1))
            .acquire_timeout(Duration::from_secs(10))
            .connect_lazy_with(options);
        Ok(PostgresSource::in_pool(pool, config.mapping))
    }

    /// Reads through the host's own pool.
    pub fn in_pool(pool: PgPool, mapping: TableMapping) -> Self {
        PostgresSource { pool, table: Table::new(mapping, TimestampFormat::Native), catalog: Arc::default() }
    }

    async fn catalog(&self) -> Result<&Catalog, Error> {
        let look = async {
            let columns: Vec<(String, String)> = sqlx::query_as(
                "select a.attname::text, format_type(a.atttypid, null) from pg_attribute a \
                 where a.attrelid = to_regclass($1) and a.attnum > 0 and not a.attisdropped",
            )
            .bind(Dialect::Postgres.quoted(&self.table.mapping.table))
            .fetch_all(&self.pool)
            .await?;
            let sees_transactions: bool =
                sqlx::query_scalar("select pg_has_role(current_user, 'pg_read_all_stats', 'usage')")
                    .fetch_one(&self.pool)
                    .await?;
            if !sees_transactions {
                tracing::warn!(
                    "this user may not see which transactions are open: grant it pg_read_all_stats, or set `settle` to \
                     longer than a transaction lasts"
                );
            }
            Ok(Catalog { types: columns.into_iter().collect(), sees_transactions })
        };
        self.catalog.get_or_try_init(|| look).await.map_err(|error| failed("look at the log table", error))
    }

    fn row<'r>(&self, catalog: &Catalog, row: &'r PgRow, arena: &mut TextArena) -> Result<Row<'r>, Error> {
        let unreadable = |error| failed("read a row", error);
        let mapping = &self.table.mapping;
        let mut value = |index: usize, column: &str| -> Result<Value, Error> {
            let text: Option<&str> = row.try_get(index).map_err(unreadable)?;
            Ok(text.map_or(Value::Null, |text| catalog.value(column, text, arena)))
        };
        let attributes = mapping.attributes.iter().enumerate();
        Ok(Row {
            time: match self.table.format.unit() {
                Some(_) => Time::Number(row.try_get(0).map_err(unreadable)?),
                None => Time::Text(row.try_get(0).map_err(unreadable)?),
            },
            id: row.try_get(1).map_err(unreadable)?,
            body: value(2, &mapping.body)?,
            severity: value(3, mapping.severity.as_deref().unwrap_or_default())?,
            attributes: attributes.map(|(index, (_, column))| value(4 + index, column)).collect::<Result<_, _>>()?,
        })
    }

    /// Warns of a query that reads the whole of a large table.
    async fn warn_of_full_scan(&self) -> Result<(), Error> {
        let limits = PageLimits { records_max: 1_000, bytes_max: 1, until: None };
        let now = Start::At(Timestamp::now());
        let mut statement = self.table.page_statement(Dialect::Postgres, &now, &Query::all(), limits, &|_| false);
        statement.sql.insert_str(0, "explain ");
        let plan = bound(statement).fetch_all(&self.pool).await;
        let plan = plan.map_err(|error| failed("look at the plan of the page query", error))?;
        let scans = |row: &PgRow| row.try_get::<&str, _>(0).is_ok_and(|step| step.contains("Seq Scan"));
        let sql = "select reltuples::bigint from pg_class where oid = to_regclass($1)";
        let name = Dialect::Postgres.quoted(&self.table.mapping.table);
        let rows: Option<i64> = sqlx::query_scalar(sql)
            .bind(name)
            .fetch_one(&self.pool)
            .await
            .map_err(|error| failed("look at the log table", error))?;
        const LARGE: i64 = 100_000;
        if rows.is_some_and(|rows| rows >= LARGE) && plan.iter().any(scans) {
            let mapping = &self.table.mapping;
            tracing::warn!(
                table = mapping.table,
                rows,
                "each page reads the whole table: it needs an index on ({}, {}), and fresh statistics",
                mapping.timestamp,
                mapping.id
            );
        }
        Ok(())
    }
}

impl Catalog {
    fn type_of(&self, column: &str) -> &str {
        self.types.get(column).map_or("text", String::as_str)
    }

    /// What the text of a column's value stands for.
    fn value(&self, column: &str, text: &str, arena: &mut TextArena) -> Value {
        match self.type_of(column) {
            "smallint" | "integer" | "bigint" => text.parse().map_or_else(|_| arena.push(text).into(), Value::Int),
            "real" | "double precision" => text.parse().map_or_else(|_| arena.push(text).into(), Value::Double),
            "boolean" => Value::Bool(text == "true"),
            "json" | "jsonb" => serde_json::from_str(text).unwrap_or_else(|_| arena.push(text).into()),
            _ => arena.push(text).into(),
        }
    }

    /// Whether the text of a column is the text that a filter compares.
    fn can_push(&self, column: &str) -> bool {
        let is_number = matches!(self.type_of(column), "smallint" | "integer" | "bigint");
        is_number || matches!(self.type_of(column), "text" | "character varying")
    }
}

/// A statement with its values. Names of tables and columns are quoted in it.
fn bound(statement: Statement) -> sqlx::query::Query<'static, Postgres, PgArguments> {
    statement.binds.into_iter().fold(sqlx::query(AssertSqlSafe(statement.sql)), |query, bind| match bind {
        // PostgreSQL has no text with a NUL in it, and so no row that one would find.
        Bind::Text(text) => query.bind(text.replace('\0', "")),
        Bind::Int(number) => query.bind(number),
    })
}

#[async_trait]
impl Source for PostgresSource {
    fn kind(&self) -> &'static str {
        "postgres"
    }

    fn fingerprint(&self) -> String {
        self.table.fingerprint()
    }

    fn arrival_order(&self) -> ArrivalOrder {
        ArrivalOrder::Bounded
    }

    /// When the oldest transaction began that is open and has written, prepared ones included; the database's own time
    /// if there is none. Needs the role `pg_read_all_stats`
    /// (<https://www.postgresql.org/docs/current/predefined-roles.html>); without it nothing is known, and `check`
    /// warns.
    async fn horizon(&self) -> Result<Option<Timestamp>, Error> {
        if !self.catalog().await?.sees_transactions {
            return Ok(None);
        }
        let text: String = sqlx::query_scalar(
            "select to_char(least( \
               (select min(xact_start) from pg_stat_activity \
                where datname = current_database() and backend_xid is not null and pid <> pg_backend_pid()), \
               (select min(prepared) from pg_prepared_xacts where database = current_database()), \
               clock_timestamp()) at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')",
        )
        .fetch_one(&self.pool)
        .await
        .map_err(|error| failed("look for open transactions", error))?;
        let no_time = || Error::new(ErrorKind::Protocol, "look for open transactions", format!("`{text}` is no time"));
        Timestamp::parse(&text).ok_or_else(no_time).map(Some)
    }

    async fn partitions(&self) -> Result<Vec<Partition>, Error> {
        Ok(vec![self.table.partition.clone()])
    }

    async fn read(&self, _: &Partition, start: &Start, query: &Query, limits: PageLimits) -> Result<Page, Error> {
        let catalog = self.catalog().await?;
        let can_push = |column: &str| catalog.can_push(column);
        let statement = self.table.page_statement(Dialect::Postgres, start, query, limits, &can_push);
        let mut rows = bound(statement).fetch(&self.pool);
        let mut arena = TextArena::new();
        let mut page = PageBuilder::new(query, limits);
        while let Some(row) = rows.try_next().await.map_err(|error| failed("read the log table", error))? {
            let row = self.row(catalog, &row, &mut arena)?;
            if !page.push(self.table.record(row, &mut arena)?) {
                break;
            }
        }
        Ok(page.build(self.table.partition.clone()))
    }

    async fn check(&self) -> Result<(), Error> {
        let catalog = self.catalog().await?;
        let found: Vec<String> = catalog.types.keys().cloned().collect();
        self.table.mapping.check_columns(&found)?;
        self.warn_of_full_scan().await
    }

    async fn delete(&self, ids: &[RecordId]) -> Result<u64, Error> {
        let (mapping, dialect) = (&self.table.mapping, Dialect::Postgres);
        let mut deleted = 0;
        for batch in ids.chunks(DELETE_ROWS_MAX) {
            let (table, id) = (dialect.quoted(&mapping.table), dialect.quoted(&mapping.id));
            let keys = batch.iter().map(|id| {
                let text = id.position().as_text().as_str();
                text.split_once('\t').map_or(text, |(_, key)| key).to_owned()
            });
            let result = match mapping.id_type {
                IdType::Integer => {
                    let keys: Vec<i64> = keys.map(|key| key.parse().unwrap_or(-1)).collect();
                    let sql = format!("delete from {table} where {id} = any($1)");
                    sqlx::query(AssertSqlSafe(sql)).bind(keys).execute(&self.pool).await
                }
                _ => {
                    let keys: Vec<String> = keys.collect();
                    let sql = format!("delete from {table} where {id} = any($1)");
                    sqlx::query(AssertSqlSafe(sql)).bind(keys).execute(&self.pool).await
                }
            };
            deleted += result.map_err(|error| failed("delete shipped rows", error))?.rows_affected();
        }
        Ok(deleted)
    }
}

/// So many rows are deleted in one statement, and so in one transaction: writers do not wait long.
const DELETE_ROWS_MAX: usize = 1_000;

/// Whether trying again helps, by the class of the SQLSTATE
/// (<https://www.postgresql.org/docs/current/errcodes-appendix.html>).
fn failed(operation: &'static str, error: sqlx::Error) -> Error {
    let state = error.as_database_error().and_then(|error| error.code()).map(|code| code.into_owned());
    let (kind, message) = match (&error, state.as_deref()) {
        (_, Some("57014")) => (ErrorKind::Timeout, "the statement was cancelled or took too long"),
        (_, Some(state)) if ["08", "53", "57", "40", "58"].contains(&&state[..2.min(state.len())]) => {
            (ErrorKind::Unavailable, "the database cannot answer now")
        }
        (_, Some(state)) if state.starts_with("28") => (ErrorKind::Auth, "the database does not let us in"),
        (_, Some("42501")) => (ErrorKind::Auth, "this user may not do that"),
        (_, Some("3D000")) => (ErrorKind::Config, "there is no such database"),
        (_, Some(_)) => (ErrorKind::Config, "the database refused the statement"),
        (sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_), _) => {
            (ErrorKind::State, "a row cannot be read as it is mapped")
        }
        (sqlx::Error::Tls(_) | sqlx::Error::Configuration(_), _) => (ErrorKind::Config, "the connection is not set up"),
        _ => (ErrorKind::Unavailable, "the database cannot be reached"),
    };
    // A read changes nothing, so it may always be made again.
    Error::new(kind, operation, message).certainty_is(logship_core::Certainty::NotDelivered).with_source(error)
}
