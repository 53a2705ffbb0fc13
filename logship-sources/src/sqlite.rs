//! Records in a table of a SQLite database.
//!
//! Pages follow the timestamp and then the id of a row (keyset pagination): no page is found by counting, and no
//! transaction stays open between pages. An index on `(timestamp, id)` makes each page a range of it.
//!
//! Rows may become readable behind a position that has been read, from writers with slow clocks or transactions that
//! commit late; [`arrival_order`](Source::arrival_order) says so. Rows whose timestamp or id is NULL, or of another
//! type than the mapping says (in SQLite each value has a type of its own), have no position and are not read;
//! [`check`](Source::check) warns of them with their number.

use std::path::PathBuf;
use std::sync::Arc;

use futures::TryStreamExt;
use logship_core::{
    ArrivalOrder, Error, ErrorKind, Page, PageLimits, Partition, Query, RecordId, Registry, Source, Start, async_trait,
    read_fields,
};
use serde::Deserialize;
use sqlx::sqlite::{SqliteArguments, SqliteConnectOptions, SqlitePoolOptions, SqliteRow};
use sqlx::{Arguments, AssertSqlSafe, Row, SqlitePool, TypeInfo, ValueRef};
use tokio::sync::OnceCell;

use crate::sql::{self, Bind, Cell, Column, Contents, Dialect, Kind, Layout, PageBuilder, RowSizes, Statements};

pub use crate::sql::{IdFormat, JsonColumn, TableMapping, TimestampFormat};

/// What a configuration says of a [`SqliteSource`].
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SqliteConfig {
    /// The database file. It must exist; it is opened for reading, and for writing only by
    /// [`delete`](Source::delete).
    pub path: PathBuf,
    /// The table. Default: Kestra's `logs`. Its fields, or the name of a mapping.
    #[serde(default = "TableMapping::kestra")]
    pub mapping: TableMapping,
}

/// Reads a table of a SQLite database.
#[derive(Debug)]
pub struct SqliteSource {
    pool: SqlitePool,
    /// For deleting, where `pool` only reads.
    writer: Option<SqlitePool>,
    /// What `pool` opens, where that is known.
    file: Option<DatabaseFile>,
    mapping: TableMapping,
    partition: Partition,
    layout: OnceCell<Arc<Layout>>,
    sizes: RowSizes,
}

pub(crate) fn register(registry: &mut Registry) {
    #[cfg(feature = "schema")]
    registry.describe_source::<SqliteConfig>("sqlite");
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
        // Connections that never age need no task that closes them, and so no runtime to make the pool in.
        let pool = |max| SqlitePoolOptions::new().max_connections(max).idle_timeout(None).max_lifetime(None);
        let reader = pool(4).connect_lazy_with(options.clone().read_only(true));
        let mut source = SqliteSource::in_pool(reader, config.mapping);
        source.writer = Some(pool(1).connect_lazy_with(options));
        source.file = Some(DatabaseFile::new(config.path));
        Ok(source)
    }

    /// Reads, and deletes, through the host's own pool.
    pub fn in_pool(pool: SqlitePool, mapping: TableMapping) -> Self {
        let partition = Partition::new(&mapping.table);
        let (layout, sizes) = (OnceCell::new(), RowSizes::default());
        SqliteSource { pool, writer: None, file: None, mapping, partition, layout, sizes }
    }

    /// The table as it was when first looked at.
    async fn layout(&self) -> Result<&Arc<Layout>, Error> {
        self.layout.get_or_try_init(|| async { self.look().await.map(Arc::new) }).await
    }

    /// The table as it is now.
    async fn look(&self) -> Result<Layout, Error> {
        let sql = "select name, type, \"notnull\" from pragma_table_info(?, ?)";
        let rows: Vec<(String, String, bool)> = sqlx::query_as(sql)
            .bind(&self.mapping.table)
            .bind(self.mapping.schema.as_deref())
            .fetch_all(&self.pool)
            .await
            .map_err(|error| failed("look at the log table", error))?;
        let columns: Vec<Column> = rows
            .into_iter()
            .map(|(name, declared, not_null)| Column { name, kind: Kind::Dynamic, declared, nullable: !not_null })
            .collect();
        let layout = Layout::new(&self.mapping, &columns)?;
        let is_number = self.mapping.timestamp_format.unit_nanos().is_some();
        check_affinity("timestamp_format", &layout.timestamp, is_number)?;
        check_affinity("id_format", &layout.id, self.mapping.id_format == IdFormat::Integer)?;
        Ok(layout)
    }

    /// Warns of rows that cannot be read, and of pages that cost a look at every row.
    async fn warn(&self, statements: &Statements<'_>) -> Result<(), Error> {
        let table = &self.mapping.table;
        let lost: i64 = sqlx::query_scalar(AssertSqlSafe(statements.count_unreadable()))
            .fetch_one(&self.pool)
            .await
            .map_err(|error| failed("look at the log table", error))?;
        if lost > 0 {
            tracing::warn!(
                table,
                rows = lost,
                "rows whose timestamp or id is missing or of another type have no position and are not shipped"
            );
        }
        if self.plan(statements).await?.iter().any(|step| is_slow(step)) {
            tracing::warn!(table, hint = %sql::index_hint(&self.mapping), "every page looks at the whole table");
        }
        Ok(())
    }

    /// How the database finds a page.
    async fn plan(&self, statements: &Statements<'_>) -> Result<Vec<String>, Error> {
        let page = statements.page(&statements.example(), &Query::all(), 100, None)?;
        let explain = AssertSqlSafe(format!("explain query plan {}", page.sql));
        let rows = sqlx::query_with(explain, arguments(page.bound)?)
            .fetch_all(&self.pool)
            .await
            .map_err(|error| failed("explain a page", error))?;
        rows.iter().map(|row| row.try_get("detail").map_err(|error| failed("explain a page", error))).collect()
    }
}

#[async_trait]
impl Source for SqliteSource {
    fn kind(&self) -> &'static str {
        "sqlite"
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
        if let Some(file) = self.file.clone() {
            file.check().await?;
        }
        let layout = self.layout().await?;
        let asked = self.sizes.rows(limits);
        let statement = Statements { dialect: Dialect::Sqlite, layout }.page(start, query, asked, None)?;
        let mut rows = sqlx::query_with(AssertSqlSafe(statement.sql), arguments(statement.bound)?).fetch(&self.pool);
        let mut page = PageBuilder::new(Dialect::Sqlite, layout, start, query, limits);
        while let Some(row) = rows.try_next().await.map_err(|error| failed("read the log table", error))? {
            if !page.push(|index, _, contents| value(&row, index, contents))? {
                break;
            }
        }
        Ok(page.finish(asked, &self.sizes))
    }

    async fn check(&self) -> Result<(), Error> {
        let layout = self.look().await?;
        self.warn(&Statements { dialect: Dialect::Sqlite, layout: &layout }).await
    }

    async fn delete(&self, ids: &[RecordId]) -> Result<u64, Error> {
        let statements = Statements { dialect: Dialect::Sqlite, layout: self.layout().await? };
        let pool = self.writer.as_ref().unwrap_or(&self.pool);
        let mut deleted = 0;
        for batch in sql::batches(&self.partition, ids)? {
            let statement = statements.delete(batch)?;
            let done = sqlx::query_with(AssertSqlSafe(statement.sql), arguments(statement.bound)?).execute(pool).await;
            deleted += done.map_err(|error| failed("delete rows", error))?.rows_affected();
        }
        Ok(deleted)
    }
}

/// A database file as it was when the source was made. An open connection would go on reading a file that has been
/// deleted, or whose name another one has, and see nothing new in it for ever.
#[derive(Clone, Debug)]
struct DatabaseFile {
    path: PathBuf,
    identity: Option<(u64, u64)>,
}

impl DatabaseFile {
    fn new(path: PathBuf) -> Self {
        let identity = std::fs::metadata(&path).ok().and_then(|file| identity(&file));
        DatabaseFile { path, identity }
    }

    /// Whether the file is still there.
    async fn check(self) -> Result<(), Error> {
        const OPERATION: &str = "read the log table";
        let path = self.path.display().to_string();
        let looked = tokio::task::spawn_blocking(move || std::fs::metadata(&self.path)).await;
        match looked.map_err(std::io::Error::other).and_then(|file| file) {
            Ok(file) if self.identity.is_none() || identity(&file) == self.identity => Ok(()),
            Ok(_) => {
                let message = "another database file has taken the place of the one that was read: start again to read \
                               it, with an offset key of its own if its rows are others";
                Err(Error::new(ErrorKind::State, OPERATION, message).with("path", path))
            }
            Err(error) => Err(Error::new(ErrorKind::Unavailable, OPERATION, "the database file is gone")
                .with("path", path)
                .with_source(error)),
        }
    }
}

/// What tells files apart, where the system says it.
fn identity(file: &std::fs::Metadata) -> Option<(u64, u64)> {
    #[cfg(unix)]
    return Some((std::os::unix::fs::MetadataExt::dev(file), std::os::unix::fs::MetadataExt::ino(file)));
    #[cfg(not(unix))]
    {
        let _ = file;
        None
    }
}

/// SQLite turns what is written to a column into the type the column was declared with, if it can, and so the values
/// of a column of the wrong type would none be read (<https://www.sqlite.org/datatype3.html#determination_of_column_affinity>).
fn check_affinity(field: &str, column: &Column, is_number: bool) -> Result<(), Error> {
    let declared = column.declared.to_ascii_uppercase();
    let holds_integers = declared.contains("INT");
    let holds_text = !holds_integers && ["CHAR", "CLOB", "TEXT"].iter().any(|word| declared.contains(word));
    if (holds_integers && !is_number) || (holds_text && is_number) {
        let message = format!("the column `{}` is of type {declared}: does it hold text or numbers?", column.name);
        return Err(Error::config(&format!("mapping.{field}"), message));
    }
    Ok(())
}

/// Whether a step of a plan looks at every row, or sorts them all
/// (<https://www.sqlite.org/eqp.html>).
fn is_slow(step: &str) -> bool {
    step.starts_with("SCAN") || step == "USE TEMP B-TREE FOR ORDER BY"
}

/// What a statement binds, as SQLite takes it.
fn arguments(bound: Vec<Bind>) -> Result<SqliteArguments, Error> {
    let mut arguments = SqliteArguments::default();
    for value in bound {
        let added = match value {
            Bind::Text(text) => arguments.add(text),
            Bind::Int(number) | Bind::Micros(number) => arguments.add(number),
            // No id of SQLite is that large.
            Bind::Unsigned(number) => arguments.add(number.to_string()),
        };
        added.map_err(|error| failed("bind a value", sqlx::Error::Encode(error)))?;
    }
    Ok(arguments)
}

/// Whatever SQLite holds in a column, as what it is.
fn value(row: &SqliteRow, index: usize, contents: &mut Contents) -> Result<Cell, sql::Cause> {
    let raw = row.try_get_raw(index)?;
    if raw.is_null() {
        return Ok(Cell::Null);
    }
    // Bytes that are no UTF-8 are text to SQLite all the same.
    let bytes = || row.try_get_unchecked::<&[u8], _>(index);
    Ok(match raw.type_info().name() {
        "INTEGER" | "BOOLEAN" => Cell::Int(row.try_get_unchecked(index)?),
        "REAL" => Cell::Double(row.try_get_unchecked(index)?),
        "BLOB" => contents.bytes(bytes()?),
        _ => contents.text_lossy(bytes()?),
    })
}

/// A locked or missing database may come back; anything else would fail again
/// (<https://www.sqlite.org/rescode.html>).
pub(crate) fn failed(operation: &'static str, error: sqlx::Error) -> Error {
    let code = error.as_database_error().and_then(|error| error.code()).and_then(|code| code.parse::<i32>().ok());
    let (kind, message) = match (&error, code.map(|code| code & 0xff)) {
        (_, Some(5 | 6)) => (ErrorKind::Unavailable, "the database is locked by somebody else"),
        (_, Some(10 | 13 | 14)) => (ErrorKind::Unavailable, "the database cannot be used"),
        (_, Some(8)) => (ErrorKind::Auth, "the database may not be written to"),
        (_, Some(11 | 26)) => (ErrorKind::State, "the database is damaged, or no SQLite database"),
        (sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::WorkerCrashed, _) => {
            (ErrorKind::Unavailable, "the database cannot be reached")
        }
        (sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_), _) => (ErrorKind::State, "a row cannot be read"),
        _ => (ErrorKind::Config, "the database refused a statement"),
    };
    Error::new(kind, operation, message).with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::testing::{ALL, any_filter, assert_pushed_down};
    use logship_core::{Cursor, PageEnd, Severity, Timestamp, Value};
    use proptest::prelude::*;
    use sqlx::Executor;

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
            let page = source.read(&source.partition, &start, query, limits).await.unwrap();
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
    async fn p4_rows_from_a_time_on_wait_when_they_are_told_to() {
        let mut rows = ROWS.to_vec();
        rows.push(("g", "soon", "INFO", "company"));
        let source = source(&rows).await;
        for (until, count) in
            [("2026-11-20T08:30:01Z", 3), ("2026-11-20T08:30:01.000000001Z", 5), ("2026-11-21T00:00:00Z", 6)]
        {
            let limits = PageLimits { until: Some(until.parse().unwrap()), ..ALL };
            let page = source.read(&source.partition, &Start::Earliest, &Query::all(), limits).await.unwrap();
            assert_eq!((page.records().len(), page.end()), (count, PageEnd::CaughtUp), "{until}");
        }
    }

    #[tokio::test]
    async fn k3_a_start_in_time_loses_no_way_of_writing_that_moment() {
        let source = source(ROWS).await;
        let start = Start::At("2026-11-20T08:30:01Z".parse().unwrap());
        assert_eq!(read_all(&source, start, &Query::all(), ALL).await, ["d", "e", "f"]);
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
        source.mapping.body = Some("text".to_owned());
        let error = source.check().await.unwrap_err().to_string();
        assert!(
            error.contains("no column `text`") && error.contains("mapping.body") && error.contains("message"),
            "{error}"
        );
        source.mapping.table = "nothing".to_owned();
        assert!(source.check().await.unwrap_err().to_string().contains("no table `nothing`"));
        let missing = SqliteConfig { path: "/nowhere/logs.db".into(), mapping: TableMapping::kestra() };
        assert!(SqliteSource::open(missing).unwrap_err().to_string().contains("/nowhere/logs.db"));
    }

    #[tokio::test]
    async fn a_row_says_what_it_is_whatever_sqlite_holds() {
        let source = source(&[("k", "no time", "WARNING", "n")]).await;
        source.pool.execute("update logs set attempt_number = 3, message = cast(x'61ff62' as text)").await.unwrap();
        let page = source.read(&source.partition, &Start::Earliest, &Query::all(), ALL).await.unwrap();
        let record = &page.records()[0];
        assert_eq!(record.body, "a\u{fffd}b".into());
        assert_eq!(record.attribute("attemptNumber"), Some(&3.into()));
        assert_eq!(record.attribute("logship.timestamp_raw"), Some(&"no time".into()));
        assert_eq!((record.severity, record.severity_name()), (Severity::WARN, "WARNING"));
    }

    /// A source of a table `t` of these columns.
    async fn table(columns: &str, inserts: &str, mapping: TableMapping) -> SqliteSource {
        let pool = SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await.unwrap();
        pool.execute(AssertSqlSafe(format!("create table t ({columns}); {inserts}"))).await.unwrap();
        SqliteSource::in_pool(pool, TableMapping { body: Some("m".to_owned()), ..mapping })
    }

    #[tokio::test]
    async fn integer_ids_and_times_are_read_in_the_databases_order() {
        let ids = [i64::MIN, -10, -9, -1, 0, 9, 10, i64::MAX];
        let rows: Vec<String> = ids.iter().rev().map(|id| format!("({id}, 1795163400123, 'm')")).collect();
        let inserts = format!("insert into t values {}, (5, -1, 'm')", rows.join(", "));
        let mut mapping = TableMapping::new("t", "id", "at");
        mapping.id_format = IdFormat::Integer;
        mapping.timestamp_format = TimestampFormat::UnixMs;
        let source = table("id integer primary key, at integer, m text", &inserts, mapping).await;
        source.check().await.unwrap();
        let (mut start, mut times) = (Start::Earliest, Vec::new());
        loop {
            let limits = PageLimits { records_max: 1, ..ALL };
            let page = source.read(&source.partition, &start, &Query::all(), limits).await.unwrap();
            let Some(next) = page.next() else { break };
            start = Start::After(next.to_string().parse().unwrap());
            times.extend(page.records().iter().map(|record| record.timestamp));
        }
        assert_eq!(times[0], Timestamp::from_millis(-1));
        assert_eq!(times[1..], [Timestamp::from_millis(1_795_163_400_123); 8]);
        let since = Start::At(Timestamp::from_nanos(1_795_163_400_122_000_001));
        let page = source.read(&source.partition, &since, &Query::all(), ALL).await.unwrap();
        assert_eq!(page.records().len(), 8);
    }

    #[tokio::test]
    async fn a_format_that_is_not_the_columns_is_said_before_anything_is_read() {
        let source = table("id integer primary key, at text, m", "", TableMapping::new("t", "id", "at")).await;
        let error = source.check().await.unwrap_err().to_string();
        assert!(error.contains("mapping.id_format") && error.contains("INTEGER"), "{error}");
    }

    #[tokio::test]
    async fn json_keys_become_attributes_behind_the_columns() {
        let mut mapping = TableMapping::new("t", "id", "at");
        mapping.attributes = vec![("flow".to_owned(), "flow".to_owned())];
        mapping.json =
            Some(JsonColumn { column: "j".to_owned(), skip: vec!["level".to_owned()], ..JsonColumn::default() });
        let inserts = r#"insert into t values ('b', '2026-11-21', 'm', 'f', 'no json'), ('a', '2026-11-20', 'm', null,
            '{"flow":"other","level":"INFO","n":null,"deep":{"x":[1,2.5]},"t":"ä"}')"#;
        let source = table("id text, at text, m text, flow text, j text", inserts, mapping).await;
        let page = source.read(&source.partition, &Start::Earliest, &Query::all(), ALL).await.unwrap();
        let deep = Value::Map(vec![("x".into(), Value::Array(vec![1.into(), 2.5.into()]))]);
        assert_eq!(page.records()[0].attributes, [("deep".into(), deep), ("t".into(), "ä".into())]);
        assert_eq!(page.records()[1].attributes, [("flow".into(), "f".into()), ("j".into(), "no json".into())]);
    }

    #[tokio::test]
    async fn an_index_on_time_and_id_serves_ties_too() {
        let source = source(&[]).await;
        let layout = source.look().await.unwrap();
        let statements = Statements { dialect: Dialect::Sqlite, layout: &layout };
        let plan = source.plan(&statements).await.unwrap();
        assert!(plan.iter().any(|step| is_slow(step)), "{plan:?}");
        source.pool.execute("create index i on logs (timestamp)").await.unwrap();
        let plan = source.plan(&statements).await.unwrap();
        assert!(!plan.iter().any(|step| is_slow(step)), "{plan:?}");
        source.pool.execute("create index j on logs (timestamp, key)").await.unwrap();
        let plan = source.plan(&statements).await.unwrap();
        assert_eq!(plan, ["SEARCH logs USING INDEX j ((timestamp,key)>(?,?))"]);
    }

    #[tokio::test]
    async fn p7_delete_takes_the_rows_named_and_no_other() {
        let source = source(ROWS).await;
        let page = source.read(&source.partition, &Start::Earliest, &Query::all(), ALL).await.unwrap();
        let mut ids: Vec<RecordId> = page.records().iter().map(|record| record.id.clone()).collect();
        // The row `d` is another one by now: its time has changed.
        source.pool.execute("update logs set timestamp = '2027-01-01T00:00:00Z' where key = 'd'").await.unwrap();
        ids.retain(|id| !id.position().as_text().ends_with("\tf"));
        ids.push(RecordId::new(source.partition.clone(), Cursor::text("2026-11-20\tgone".into())));
        assert_eq!(source.delete(&ids).await.unwrap(), 4);
        assert_eq!(read_all(&source, Start::Earliest, &Query::all(), ALL).await, ["f", "d"]);
        let foreign = RecordId::new(Partition::new("other"), Cursor::text("2026\tf".into()));
        assert!(source.delete(&[foreign]).await.is_err());
        assert_eq!(source.delete(&[]).await.unwrap(), 0);
    }

    /// Goal: a database file is opened for reading, and deleting from it works all the same, in several statements.
    #[tokio::test]
    async fn p7_delete_works_on_a_file_in_batches() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("logs.db");
        let options = SqliteConnectOptions::new().filename(&path).create_if_missing(true);
        let pool = SqlitePool::connect_with(options).await.unwrap();
        pool.execute(
            "create table t (id text primary key, at text, m text); with recursive n(i) as \
             (select 1 union all select i + 1 from n where i < 1001) insert into t select i, '2026-11-20', 'm' from n",
        )
        .await
        .unwrap();
        let mapping = TableMapping { body: Some("m".to_owned()), ..TableMapping::new("t", "id", "at") };
        let source = SqliteSource::open(SqliteConfig { path, mapping }).unwrap();
        let page = source.read(&source.partition, &Start::Earliest, &Query::all(), ALL).await.unwrap();
        assert_eq!(page.records().len(), 1_000);
        let ids: Vec<RecordId> = page.records().iter().map(|record| record.id.clone()).collect();
        assert_eq!(source.delete(&ids).await.unwrap(), 1_000);
        let left: i64 = sqlx::query_scalar("select count(*) from t").fetch_one(&pool).await.unwrap();
        assert_eq!(left, 1);
    }

    #[tokio::test]
    async fn a_start_in_time_finds_both_ways_of_writing_a_day() {
        let rows = [
            ("a", "2026-11-20 07:59:59", "INFO", "n"),
            ("b", "2026-11-20 08:30:00.5", "INFO", "n"),
            ("c", "2026-11-20T07:59:59Z", "INFO", "n"),
            ("d", "2026-11-20T08:30:00.1Z", "INFO", "n"),
            ("e", "2026-11-20T08:30:00.9Z", "INFO", "n"),
        ];
        let source = source(&rows).await;
        let start = Start::At("2026-11-20T08:30:00.3Z".parse().unwrap());
        assert_eq!(read_all(&source, start, &Query::all(), ALL).await, ["b", "e"]);
    }

    #[tokio::test]
    async fn an_order_that_is_not_the_positions_order_is_an_error_and_no_loss() {
        let mapping = TableMapping::new("t", "id", "at");
        let inserts = "insert into t values ('a', '2026', 'm'), ('a', '2026', 'm')";
        let source = table("id text, at text, m text", inserts, mapping).await;
        let error = source.read(&source.partition, &Start::Earliest, &Query::all(), ALL).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::State);
        assert!(error.to_string().contains("is the id unique"), "{error}");
    }

    /// Any value SQLite can hold in a column, as SQL.
    fn any_value() -> impl Strategy<Value = String> {
        let texts = ["a", "A", "a.b", "a/b", "a.", "5", "05", "-5", "5.5", "true", "", "a\0b", "ä"];
        prop_oneof![
            Just("null".to_owned()),
            prop::sample::select(texts.to_vec()).prop_map(|text| format!("cast(x'{}' as text)", hex(text.as_bytes()))),
            Just("cast(x'61ff' as text)".to_owned()),
            (-6_i64..7).prop_map(|number| number.to_string()),
            prop::sample::select(vec!["5.0", "5.5", "-1e300", "x'61'"]).prop_map(str::to_owned),
        ]
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    const MINIMUMS: [Option<Severity>; 4] = [None, Some(Severity::TRACE), Some(Severity::INFO), Some(Severity::ERROR)];
    const WORDS: [&str; 7] = ["INFO", "info", "iNFO", "Warn", "odd", "crit", ""];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// What the database decides is what the query says of each record, whatever the columns hold.
        #[test]
        fn k2_push_down_agrees_with_the_query(
            rows in prop::collection::vec((any_value(), any_value(), any_value()), 1..12),
            filters in prop::collection::vec(any_filter(&["free", "number", "unmapped"]), 1..3),
            minimum in prop::sample::select(MINIMUMS.to_vec()),
            words in prop::collection::vec(prop::sample::select(WORDS.to_vec()), 12),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let values = rows.iter().zip(words).enumerate().map(|(index, ((free, number, level), word))| {
                    let level = if word.is_empty() { level.clone() } else { format!("'{word}'") };
                    format!("('{index:03}', '2026', 'm', {free}, {number}, {level})")
                });
                let inserts = format!("insert into t values {}", values.collect::<Vec<_>>().join(", "));
                let mut mapping = TableMapping::new("t", "id", "at");
                mapping.severity = Some("level".to_owned());
                mapping.attributes = ["free", "number"].map(|name| (name.to_owned(), name.to_owned())).to_vec();
                let columns = "id text, at text, m text, free, number integer, level collate nocase";
                let source = table(columns, &inserts, mapping).await;
                let mut query = Query::all();
                query.severity_min = minimum;
                query.filters = filters;
                assert_pushed_down(&source, &query).await;
            });
        }
    }
}
