//! Records in a table of a SQLite database.
//!
//! Rows may become readable behind a position that has been read, from writers with slow clocks or transactions that
//! commit late; [`arrival_order`](Source::arrival_order) says so. Rows whose timestamp or id is NULL have no position
//! and are not read; [`check`](Source::check) warns of them with their number.

use std::path::PathBuf;

use futures::TryStreamExt;
use logship_core::{
    ArrivalOrder, Error, ErrorKind, Page, PageLimits, Partition, Query, RecordId, Registry, Source, Start, TextArena,
    Value, async_trait, read_fields,
};
use serde::Deserialize;
use sqlx::sqlite::{SqliteArguments, SqliteConnectOptions, SqlitePoolOptions, SqliteRow};
use sqlx::{AssertSqlSafe, Row as _, Sqlite, SqlitePool, TypeInfo, ValueRef};

use crate::sql::{Bind, Dialect, IdType, PageBuilder, Row, Statement, Table, Time, TimestampFormat};

pub use crate::sql::TableMapping;

/// What a configuration says of a [`SqliteSource`].
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SqliteConfig {
    /// The database file. It must exist.
    pub path: PathBuf,
    /// The table. Default: Kestra's `logs`.
    #[serde(default = "TableMapping::kestra")]
    pub mapping: TableMapping,
}

/// Reads a table of a SQLite database.
#[derive(Clone, Debug)]
pub struct SqliteSource {
    pool: SqlitePool,
    table: Table,
}

pub(crate) fn register(registry: &mut Registry) {
    registry.add_source("sqlite", |fields, _| SqliteSource::open(read_fields(fields)?));
}

impl SqliteSource {
    /// Reads a database file. Nothing is opened before the first use.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when there is no such file.
    pub fn open(config: SqliteConfig) -> Result<Self, Error> {
        if !config.path.is_file() {
            return Err(Error::config("path", format!("there is no database file {}", config.path.display())));
        }
        let options = SqliteConnectOptions::new().filename(&config.path);
        let pool = SqlitePoolOptions::new().max_connections(4).connect_lazy_with(options);
        Ok(SqliteSource::in_pool(pool, config.mapping))
    }

    /// Reads through the host's own pool.
    pub fn in_pool(pool: SqlitePool, mapping: TableMapping) -> Self {
        SqliteSource { pool, table: Table::new(mapping, TimestampFormat::Text) }
    }

    fn row<'r>(&self, row: &'r SqliteRow, arena: &mut TextArena) -> Result<Row<'r>, Error> {
        let unreadable = |error| failed("read a row", error);
        let time = match self.table.format.unit() {
            Some(_) => Time::Number(row.try_get(0).map_err(unreadable)?),
            None => Time::Text(row.try_get(0).map_err(unreadable)?),
        };
        let attributes = 0..self.table.mapping.attributes.len();
        Ok(Row {
            time,
            id: row.try_get(1).map_err(unreadable)?,
            body: value(row, 2, arena)?,
            severity: value(row, 3, arena)?,
            attributes: attributes.map(|index| value(row, 4 + index, arena)).collect::<Result<_, _>>()?,
        })
    }

    /// Warns of rows that are never read, and of a query that reads the whole table.
    async fn warn(&self) -> Result<(), sqlx::Error> {
        let (mapping, dialect) = (&self.table.mapping, Dialect::Sqlite);
        let table = dialect.quoted(&mapping.table);
        let (timestamp, id) = (dialect.quoted(&mapping.timestamp), dialect.quoted(&mapping.id));
        let lost = format!("select count(*) from {table} where {timestamp} is null or {id} is null");
        let lost: i64 = sqlx::query_scalar(AssertSqlSafe(lost)).fetch_one(&self.pool).await?;
        if lost > 0 {
            tracing::warn!(
                table = mapping.table,
                rows = lost,
                "rows without a timestamp or an id have no position and are not shipped"
            );
        }
        let limits = PageLimits { records_max: 1, bytes_max: 1, until: None };
        let mut statement = self.table.page_statement(dialect, &Start::Earliest, &Query::all(), limits, &|_| true);
        statement.sql.insert_str(0, "explain query plan ");
        let plan = bound(statement).fetch_all(&self.pool).await?;
        let sorts_all = |step: &SqliteRow| step.try_get::<&str, _>("detail").is_ok_and(|d| d.ends_with("FOR ORDER BY"));
        if plan.iter().any(sorts_all) {
            tracing::warn!(
                table = mapping.table,
                "there is no index on ({timestamp}, {id}): each page reads and sorts the whole table"
            );
        }
        Ok(())
    }
}

/// A statement with its values. Names of tables and columns are quoted in it.
fn bound(statement: Statement) -> sqlx::query::Query<'static, Sqlite, SqliteArguments> {
    statement.binds.into_iter().fold(sqlx::query(AssertSqlSafe(statement.sql)), |query, bind| match bind {
        Bind::Text(text) => query.bind(text),
        Bind::Int(number) => query.bind(number),
    })
}

#[async_trait]
impl Source for SqliteSource {
    fn kind(&self) -> &'static str {
        "sqlite"
    }

    fn fingerprint(&self) -> String {
        self.table.fingerprint()
    }

    fn arrival_order(&self) -> ArrivalOrder {
        ArrivalOrder::Bounded
    }

    async fn partitions(&self) -> Result<Vec<Partition>, Error> {
        Ok(vec![self.table.partition.clone()])
    }

    async fn read(&self, _: &Partition, start: &Start, query: &Query, limits: PageLimits) -> Result<Page, Error> {
        let statement = self.table.page_statement(Dialect::Sqlite, start, query, limits, &|_| true);
        let mut rows = bound(statement).fetch(&self.pool);
        let mut arena = TextArena::new();
        let mut page = PageBuilder::new(query, limits);
        while let Some(row) = rows.try_next().await.map_err(|error| failed("read the log table", error))? {
            let row = self.row(&row, &mut arena)?;
            if !page.push(self.table.record(row, &mut arena)?) {
                break;
            }
        }
        Ok(page.build(self.table.partition.clone()))
    }

    async fn check(&self) -> Result<(), Error> {
        let operation = "look at the log table";
        let found: Vec<String> = sqlx::query_scalar("select name from pragma_table_info(?)")
            .bind(&self.table.mapping.table)
            .fetch_all(&self.pool)
            .await
            .map_err(|error| failed(operation, error))?;
        self.table.mapping.check_columns(&found)?;
        self.warn().await.map_err(|error| failed(operation, error))
    }

    async fn delete(&self, ids: &[RecordId]) -> Result<u64, Error> {
        let (mapping, dialect) = (&self.table.mapping, Dialect::Sqlite);
        let mut deleted = 0;
        for batch in ids.chunks(DELETE_ROWS_MAX) {
            let marks = vec!["?"; batch.len()].join(", ");
            let sql = format!(
                "delete from {} where {} in ({marks})",
                dialect.quoted(&mapping.table),
                dialect.quoted(&mapping.id)
            );
            let mut query = sqlx::query(AssertSqlSafe(sql));
            for id in batch {
                let text = id.position().as_text().as_str();
                let key = text.rsplit_once('\t').map_or(text, |(_, key)| key);
                query = match mapping.id_type {
                    IdType::Integer => query.bind(key.parse::<i64>().unwrap_or(-1)),
                    _ => query.bind(key.to_owned()),
                };
            }
            let result = query.execute(&self.pool).await.map_err(|error| failed("delete shipped rows", error))?;
            deleted += result.rows_affected();
        }
        Ok(deleted)
    }
}

/// So many rows are deleted in one statement, and so in one transaction: writers do not wait long.
const DELETE_ROWS_MAX: usize = 500;

/// Whatever SQLite holds in a column, as what it is.
fn value(row: &SqliteRow, index: usize, arena: &mut TextArena) -> Result<Value, Error> {
    let raw = row.try_get_raw(index).map_err(|error| failed("read a row", error))?;
    let kind = raw.type_info().name().to_owned();
    if raw.is_null() {
        return Ok(Value::Null);
    }
    let read = match kind.as_str() {
        "INTEGER" | "BOOLEAN" => row.try_get_unchecked::<i64, _>(index).map(Value::Int),
        "REAL" => row.try_get_unchecked::<f64, _>(index).map(Value::Double),
        "BLOB" => row.try_get_unchecked::<Vec<u8>, _>(index).map(|bytes| Value::Bytes(bytes.into())),
        _ => row.try_get_unchecked::<Vec<u8>, _>(index).map(|bytes| Value::String(arena.push_lossy(&bytes))),
    };
    read.map_err(|error| failed("read a row", error))
}

/// A locked or missing database may come back; anything else would fail again.
fn failed(operation: &'static str, error: sqlx::Error) -> Error {
    let locked = error.as_database_error().is_some_and(|error| error.message().contains("locked"));
    let kind = match &error {
        sqlx::Error::PoolTimedOut | sqlx::Error::Io(_) => ErrorKind::Unavailable,
        _ if locked => ErrorKind::Unavailable,
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => ErrorKind::State,
        _ => ErrorKind::Config,
    };
    Error::new(kind, operation, "the database refused").with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use logship_core::{Filter, PageEnd, Severity};
    use sqlx::Executor;

    const ALL: PageLimits = PageLimits { records_max: 1_000, bytes_max: usize::MAX, until: None };

    async fn source(rows: &[(&str, &str, &str, &str)]) -> SqliteSource {
        let pool = SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await.unwrap();
        pool.execute(
            "create table logs (key text primary key, timestamp text, level text, message text, tenant_id text, \
             namespace text, flow_id text, task_id text, execution_id text, taskrun_id text, attempt_number int, \
             trigger_id text, execution_kind text, thread text)",
        )
        .await
        .unwrap();
        for (key, timestamp, level, namespace) in rows {
            sqlx::query("insert into logs (key, timestamp, level, namespace, message) values (?, ?, ?, ?, 'm')")
                .bind(key)
                .bind(timestamp)
                .bind(level)
                .bind(namespace)
                .execute(&pool)
                .await
                .unwrap();
        }
        SqliteSource::in_pool(pool, TableMapping::kestra())
    }

    /// The keys of all records, read page by page.
    async fn read_all(source: &SqliteSource, start: Start, query: &Query, limits: PageLimits) -> Vec<String> {
        let (mut start, mut keys) = (start, Vec::new());
        loop {
            let page = source.read(&source.table.partition, &start, query, limits).await.unwrap();
            keys.extend(
                page.records().iter().map(|record| {
                    record.id.position().as_text().split_once('\t').map(|(_, key)| key.to_owned()).unwrap()
                }),
            );
            assert!(page.records().is_sorted_by(|a, b| a.id < b.id), "positions are in order");
            match page.next() {
                Some(next) => start = Start::After(next.clone()),
                None => assert_eq!(page.end(), PageEnd::CaughtUp),
            }
            if page.end() == PageEnd::CaughtUp {
                return keys;
            }
        }
    }

    const ROWS: &[(&str, &str, &str, &str)] = &[
        ("b", "2026-11-20T08:30:00.123Z", "INFO", "company"),
        ("a", "2026-11-20T08:30:00.123Z", "WARN", "company.team"),
        ("c", "2026-11-20T08:30:00.123456Z", "DEBUG", "companyx"),
        ("d", "2026-11-20T08:30:01.000000Z", "ERROR", "company"),
        ("e", "2026-11-20T08:30:01.000000Z", "odd", "other"),
        ("f", "2026-11-20T08:30:02.000Z", "info", "company.team.x"),
    ];

    #[tokio::test]
    async fn h16_ties_across_a_page_cut_are_neither_lost_nor_doubled() {
        let source = source(ROWS).await;
        for records_max in 1..=7 {
            let limits = PageLimits { records_max, ..ALL };
            let mut keys = read_all(&source, Start::Earliest, &Query::all(), limits).await;
            keys.sort();
            assert_eq!(keys, ["a", "b", "c", "d", "e", "f"], "pages of {records_max}");
        }
        let tiny = PageLimits { records_max: 10, bytes_max: 1, until: None };
        assert_eq!(read_all(&source, Start::Earliest, &Query::all(), tiny).await.len(), 6);
    }

    #[tokio::test]
    async fn k2_k4_what_the_database_decides_is_what_the_query_says() {
        let source = source(ROWS).await;
        let queries = [
            Query::all().severity_min(Severity::INFO),
            Query::all().severity_min(Severity::ERROR),
            Query::all().namespace("company"),
            Query::all().namespace("company.team").severity_min(Severity::WARN),
            Query::all().filter(Filter::equals("namespace", "other")),
            Query::all().filter(Filter::not_in("namespace", ["other", "company"])),
            Query::all().filter(Filter::equals("unmapped", "x")),
        ];
        let all = source.read(&source.table.partition, &Start::Earliest, &Query::all(), ALL).await.unwrap();
        for query in queries {
            let expected: Vec<_> = all.records().iter().filter(|record| query.matches(record)).map(|r| &r.id).collect();
            let page = source.read(&source.table.partition, &Start::Earliest, &query, ALL).await.unwrap();
            assert_eq!(page.records().iter().map(|record| &record.id).collect::<Vec<_>>(), expected, "{query}");
        }
    }

    #[tokio::test]
    async fn k3_a_start_in_time_loses_no_way_of_writing_that_moment() {
        let source = source(ROWS).await;
        let start = Start::At("2026-11-20T08:30:01Z".parse().unwrap());
        assert_eq!(read_all(&source, start, &Query::all(), ALL).await, ["d", "e", "f"]);
    }

    #[tokio::test]
    async fn rows_that_are_added_later_are_found_behind_the_last_page() {
        let source = source(&[]).await;
        assert!(read_all(&source, Start::Earliest, &Query::all(), ALL).await.is_empty());
        source
            .pool
            .execute("insert into logs (key, timestamp, message) values ('z', '2026-11-21', 'late')")
            .await
            .unwrap();
        assert_eq!(read_all(&source, Start::Earliest, &Query::all(), ALL).await, ["z"]);
    }

    #[tokio::test]
    async fn other_kinds_of_executions_are_left_out() {
        let source = source(ROWS).await;
        source.pool.execute("update logs set execution_kind = 'TEST' where key = 'a'").await.unwrap();
        assert_eq!(read_all(&source, Start::Earliest, &Query::all(), ALL).await.len(), 5);
    }

    #[tokio::test]
    async fn a_table_that_is_not_as_mapped_is_said_before_anything_is_read() {
        let mut source = source(ROWS).await;
        source.check().await.unwrap();
        source.table.mapping.body = "text".to_owned();
        let error = source.check().await.unwrap_err().to_string();
        assert!(
            error.contains("no column `text`") && error.contains("mapping.body") && error.contains("message"),
            "{error}"
        );
        source.table.mapping.table = "nothing".to_owned();
        assert!(source.check().await.unwrap_err().to_string().contains("no table `nothing`"));
        let missing = SqliteConfig { path: "/nowhere/logs.db".into(), mapping: TableMapping::kestra() };
        assert!(SqliteSource::open(missing).unwrap_err().to_string().contains("/nowhere/logs.db"));
    }

    /// Rows of integer ids and of a time in one of the numeric formats.
    async fn numeric(format: TimestampFormat, unit: i64) -> SqliteSource {
        let mut source = source(&[]).await;
        source
            .pool
            .execute("create table numbers (id integer primary key, at integer, level text, message text)")
            .await
            .unwrap();
        source.pool.execute("create index numbers_at on numbers (at, id)").await.unwrap();
        for (id, seconds) in [(9, 1), (10, 1), (11, 2), (100, 2), (2, 3)] {
            let sql = "insert into numbers (id, at, message) values (?, ?, 'm')";
            sqlx::query(sql).bind(id).bind((1_795_163_400 + seconds) * unit).execute(&source.pool).await.unwrap();
        }
        source.table = Table::new(
            TableMapping {
                table: "numbers".to_owned(),
                id: "id".to_owned(),
                id_type: IdType::Integer,
                timestamp: "at".to_owned(),
                timestamp_format: Some(format),
                attributes: Vec::new(),
                only: None,
                ..TableMapping::kestra()
            },
            TimestampFormat::Text,
        );
        source
    }

    #[tokio::test]
    async fn numbers_are_times_and_ids_in_their_own_order() {
        let formats = [
            (TimestampFormat::UnixS, 1),
            (TimestampFormat::UnixMs, 1_000),
            (TimestampFormat::UnixUs, 1_000_000),
            (TimestampFormat::UnixNs, 1_000_000_000),
        ];
        for (format, unit) in formats {
            let source = numeric(format, unit).await;
            source.check().await.unwrap();
            for records_max in 1..=6 {
                let limits = PageLimits { records_max, ..ALL };
                let (mut start, mut ids) = (Start::Earliest, Vec::new());
                loop {
                    let page = source.read(&source.table.partition, &start, &Query::all(), limits).await.unwrap();
                    assert!(page.records().is_sorted_by(|a, b| a.id < b.id));
                    ids.extend(
                        page.records().iter().map(|record| record.id.position().as_text().parse::<u64>().unwrap()),
                    );
                    let Some(next) = page.next() else { break };
                    start = Start::After(next.clone());
                }
                assert_eq!(ids, [9, 10, 11, 100, 2], "{format:?}, pages of {records_max}");
            }
            let time: logship_core::Timestamp = "2026-11-20T08:30:02Z".parse().unwrap();
            let from = source.read(&source.table.partition, &Start::At(time), &Query::all(), ALL).await.unwrap();
            assert_eq!((from.records().len(), from.records()[0].timestamp), (3, time), "{format:?}");
            let until = PageLimits { until: Some(time), ..ALL };
            let before = source.read(&source.table.partition, &Start::Earliest, &Query::all(), until).await.unwrap();
            assert_eq!(before.records().len(), 2, "{format:?}");
        }
    }

    #[tokio::test]
    async fn p7_delete_takes_the_rows_named_and_no_other() {
        let source = numeric(TimestampFormat::UnixS, 1).await;
        let page = source.read(&source.table.partition, &Start::Earliest, &Query::all(), ALL).await.unwrap();
        let ids: Vec<RecordId> = page.records().iter().skip(1).step_by(2).map(|record| record.id.clone()).collect();
        assert_eq!(source.delete(&ids).await.unwrap(), 2);
        assert_eq!(source.delete(&ids).await.unwrap(), 0, "what is gone is no error");
        let left: Vec<i64> =
            sqlx::query_scalar("select id from numbers order by id").fetch_all(&source.pool).await.unwrap();
        assert_eq!(left, [2, 9, 11]);
    }

    #[tokio::test]
    async fn p4_rows_from_a_time_on_wait_when_they_are_told_to() {
        let source = source(ROWS).await;
        let until = PageLimits { until: Some("2026-11-20T08:30:01Z".parse().unwrap()), ..ALL };
        let page = source.read(&source.table.partition, &Start::Earliest, &Query::all(), until).await.unwrap();
        assert_eq!((page.records().len(), page.end()), (3, PageEnd::CaughtUp));
    }

    proptest::proptest! {
        /// Goal: what the database decides is what the query says. Method: random rows of any type, random queries.
        #[test]
        fn k2_pushing_down_changes_nothing(
            rows in proptest::collection::vec((0..6usize, 0..7usize), 1..20),
            minimum in 0..4usize,
            condition in 0..5usize,
            values in proptest::collection::vec(0..7usize, 0..3),
        ) {
            const LEVELS: [&str; 6] = ["'INFO'", "'warning'", "'DEBUG'", "null", "'odd'", "7"];
            const VALUES: [&str; 7] = ["'a'", "'a.b'", "'A'", "null", "7", "7.0", "x'61'"];
            const TEXTS: [&str; 7] = ["a", "a.b", "A", "", "7", "7.0", "x"];
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let source = source(&[]).await;
                for (number, (level, value)) in rows.iter().enumerate() {
                    let sql = format!(
                        "insert into logs (key, timestamp, message, level, namespace) values ('k{number:03}', '2026-11-20T08:30:00Z', 'm', {}, {})",
                        LEVELS[*level], VALUES[*value],
                    );
                    source.pool.execute(AssertSqlSafe(sql)).await.unwrap();
                }
                let mut query = Query::all();
                query.severity_min = [None, Some(Severity::DEBUG), Some(Severity::INFO), Some(Severity::ERROR)][minimum];
                let texts: Vec<&str> = values.iter().map(|value| TEXTS[*value]).collect();
                let first = texts.first().copied().unwrap_or("a");
                query = match condition {
                    0 => query.filter(Filter::equals("namespace", first)),
                    1 => query.filter(Filter::one_of("namespace", texts)),
                    2 => query.filter(Filter::not_in("namespace", texts)),
                    3 => query.filter(Filter::within("namespace", first)),
                    _ => query,
                };
                let all = source.read(&source.table.partition, &Start::Earliest, &Query::all(), ALL).await.unwrap();
                assert_eq!(all.records().len(), rows.len());
                let expected: Vec<_> = all.records().iter().filter(|record| query.matches(record)).map(|r| &r.id).collect();
                let page = source.read(&source.table.partition, &Start::Earliest, &query, ALL).await.unwrap();
                assert_eq!(page.records().iter().map(|record| &record.id).collect::<Vec<_>>(), expected, "{query}");
            });
        }
    }

    #[tokio::test]
    async fn a_row_says_what_it_is_whatever_sqlite_holds() {
        let source = source(&[("k", "no time", "WARNING", "n")]).await;
        source.pool.execute("update logs set attempt_number = 3, message = cast(x'61ff62' as text)").await.unwrap();
        let page = source.read(&source.table.partition, &Start::Earliest, &Query::all(), ALL).await.unwrap();
        let record = &page.records()[0];
        assert_eq!(record.body, "a\u{fffd}b".into());
        assert_eq!(record.attribute("attemptNumber"), Some(&3.into()));
        assert_eq!(record.attribute("logship.timestamp_raw"), Some(&"no time".into()));
        assert_eq!((record.severity, record.severity_name()), (Severity::WARN, "WARNING"));
    }
}
