//! Records in a table of a SQLite database.
//!
//! Pages follow the timestamp and then the id of a row (keyset pagination): no page is found by counting, and no
//! transaction stays open between pages. An index on `(timestamp, id)` makes each page a range of it.
//!
//! Rows may become readable behind a position that has been read, from writers with slow clocks or transactions that
//! commit late; [`arrival_order`](Source::arrival_order) says so. Rows whose timestamp or id is NULL have no position
//! and are not read; [`check`](Source::check) warns of them with their number.

use std::path::PathBuf;
use std::str::FromStr;

use futures::TryStreamExt;
use logship_core::{
    ArrivalOrder, Condition, Cursor, Error, ErrorKind, LogRecord, Page, PageEnd, PageLimits, Partition, Query,
    RecordId, Registry, Resource, Severity, Source, Start, Text, TextArena, Timestamp, Value, async_trait, read_fields,
};
use serde::{Deserialize, Serialize};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions, SqliteRow};
use sqlx::{AssertSqlSafe, Row, SqlitePool, TypeInfo, ValueRef};

/// Which table holds the records, and what its columns mean.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableMapping {
    /// The table.
    pub table: String,
    /// The column that tells rows apart: text or whole numbers, unique.
    pub id: String,
    /// The column that holds when it happened, as text that sorts as time does (ISO 8601, UTC).
    pub timestamp: String,
    /// The column that holds the severity's name.
    #[serde(default)]
    pub severity: Option<String>,
    /// The column that holds what the record says.
    pub body: String,
    /// Attributes, and the columns that hold them, in the order in which records get them.
    #[serde(default)]
    pub attributes: Vec<(String, String)>,
    /// The `service.name` of every record's resource.
    #[serde(default)]
    pub service_name: Option<String>,
    /// Only rows in which this column is NULL or has this value are read.
    #[serde(default)]
    pub only: Option<(String, String)>,
}

impl TableMapping {
    /// The `logs` table of a Kestra database, as its own log shipper reads it: rows of test and playground executions
    /// are left out. Attributes have Kestra's names.
    pub fn kestra() -> Self {
        let attributes = [
            ("tenantId", "tenant_id"),
            ("namespace", "namespace"),
            ("flowId", "flow_id"),
            ("taskId", "task_id"),
            ("executionId", "execution_id"),
            ("taskRunId", "taskrun_id"),
            ("attemptNumber", "attempt_number"),
            ("triggerId", "trigger_id"),
            ("executionKind", "execution_kind"),
            ("thread", "thread"),
        ];
        TableMapping {
            table: "logs".to_owned(),
            id: "key".to_owned(),
            timestamp: "timestamp".to_owned(),
            severity: Some("level".to_owned()),
            body: "message".to_owned(),
            attributes: attributes.map(|(name, column)| (name.to_owned(), column.to_owned())).to_vec(),
            service_name: Some("Kestra".to_owned()),
            only: Some(("execution_kind".to_owned(), "NORMAL".to_owned())),
        }
    }

    /// Every column that is read, with the field of the mapping that names it.
    fn columns(&self) -> Vec<(String, &str)> {
        let mut columns = vec![("id".to_owned(), self.id.as_str()), ("timestamp".to_owned(), &self.timestamp)];
        columns.push(("body".to_owned(), &self.body));
        columns.extend(self.severity.iter().map(|column| ("severity".to_owned(), column.as_str())));
        columns.extend(self.only.iter().map(|(column, _)| ("only".to_owned(), column.as_str())));
        columns.extend(self.attributes.iter().map(|(name, column)| (format!("attributes.{name}"), column.as_str())));
        columns
    }
}

/// What a configuration says of a [`SqliteSource`].
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SqliteConfig {
    /// The database file. It must exist; it is opened for reading only.
    pub path: PathBuf,
    /// The table. Default: Kestra's `logs`.
    #[serde(default = "TableMapping::kestra")]
    pub mapping: TableMapping,
}

/// Reads a table of a SQLite database.
#[derive(Clone, Debug)]
pub struct SqliteSource {
    pool: SqlitePool,
    mapping: TableMapping,
    partition: Partition,
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
        let options = SqliteConnectOptions::new().filename(&config.path).read_only(true);
        let pool = SqlitePoolOptions::new().max_connections(4).connect_lazy_with(options);
        Ok(SqliteSource::in_pool(pool, config.mapping))
    }

    /// Reads through the host's own pool.
    pub fn in_pool(pool: SqlitePool, mapping: TableMapping) -> Self {
        let partition = Partition::new(&mapping.table);
        SqliteSource { pool, mapping, partition }
    }

    /// The query of one page, and what is bound to it.
    fn statement(&self, start: &Start, query: &Query, limits: PageLimits) -> (String, Vec<String>) {
        let mapping = &self.mapping;
        let (timestamp, id) = (quoted(&mapping.timestamp), quoted(&mapping.id));
        let mut columns =
            vec![format!("cast({timestamp} as text)"), format!("cast({id} as text)"), quoted(&mapping.body)];
        columns.push(mapping.severity.as_deref().map_or("null".to_owned(), quoted));
        columns.extend(mapping.attributes.iter().map(|(_, column)| quoted(column)));
        let mut conditions = vec![format!("{timestamp} is not null and {id} is not null")];
        let mut bound = Vec::new();
        match start {
            Start::Earliest => {}
            Start::At(time) => {
                // Without the fraction: at or before every way of writing this moment, `Z` and all.
                conditions.push(format!("{timestamp} >= ?"));
                bound.push(time.to_string()[..19].to_owned());
            }
            Start::After(cursor) => {
                let (time, key) = cursor.as_text().split_once('\t').unwrap_or((cursor.as_text(), ""));
                conditions.push(format!("({timestamp} > ? or ({timestamp} = ? and cast({id} as text) > ?))"));
                bound.extend([time.to_owned(), time.to_owned(), key.to_owned()]);
                // Says the same more weakly, in a form for which SQLite uses an index.
                conditions.push(format!("{timestamp} >= ?"));
                bound.push(time.to_owned());
            }
        }
        if let Some(until) = limits.until {
            // Without the zone: at or before every way of writing this moment.
            conditions.push(format!("{timestamp} < ?"));
            bound.push(until.to_string()[..29].to_owned());
        }
        if let Some((column, value)) = &mapping.only {
            conditions.push(format!("({0} is null or {0} = ?)", quoted(column)));
            bound.push(value.clone());
        }
        self.push_down(query, &mut conditions, &mut bound);
        let sql = format!(
            "select {} from {} where {} order by {timestamp}, cast({id} as text) limit {}",
            columns.join(", "),
            quoted(&mapping.table),
            conditions.join(" and "),
            limits.records_max,
        );
        (sql, bound)
    }

    /// What of a query the database can decide. The rest is decided on the record.
    fn push_down(&self, query: &Query, conditions: &mut Vec<String>, bound: &mut Vec<String>) {
        if let (Some(minimum), Some(column)) = (query.severity_min, &self.mapping.severity) {
            const NAMES: [&str; 5] = ["TRACE", "DEBUG", "INFO", "WARN", "ERROR"];
            let lower: Vec<&str> = NAMES
                .into_iter()
                .filter(|name| Severity::from_name(name).is_some_and(|s| !s.passes(minimum)))
                .collect();
            if !lower.is_empty() {
                let marks = vec!["?"; lower.len()].join(", ");
                conditions.push(format!("({0} is null or upper({0}) not in ({marks}))", quoted(column)));
                bound.extend(lower.into_iter().map(str::to_owned));
            }
        }
        for filter in &query.filters {
            let column = self.mapping.attributes.iter().find(|(name, _)| *name == filter.attribute);
            let Some(column) = column.map(|(_, column)| quoted(column)) else { continue };
            match &filter.condition {
                Condition::Equals(value) => {
                    conditions.push(format!("cast({column} as text) = ?"));
                    bound.push(value.clone());
                }
                Condition::Within(parent) => {
                    // What continues the parent after a dot lies between `parent.` and `parent/`, the next character.
                    conditions.push(format!("({column} = ? or ({column} >= ? and {column} < ?))"));
                    bound.extend([parent.clone(), format!("{parent}."), format!("{parent}/")]);
                }
                _ => {}
            }
        }
    }

    /// The record of a row, and its position.
    fn record(
        &self,
        row: &SqliteRow,
        arena: &mut TextArena,
        resource: &std::sync::Arc<Resource>,
    ) -> Result<LogRecord, Error> {
        let time: &str = row.try_get(0).map_err(|error| failed("read a row", error))?;
        let key: &str = row.try_get(1).map_err(|error| failed("read a row", error))?;
        let position = Cursor::text(arena.push(&format!("{time}\t{key}")));
        let id = RecordId::new(self.partition.clone(), position);
        let parsed = Timestamp::parse(time);
        let mut record = LogRecord::new(id, parsed.unwrap_or_default());
        record.resource = std::sync::Arc::clone(resource);
        record.body = value(row, 2, arena)?;
        if let Value::String(level) = value(row, 3, arena)? {
            record.severity = level.parse().unwrap_or_default();
            if record.severity.name() != level.as_str() {
                record.severity_text = Some(level);
            }
        }
        for (index, (name, _)) in self.mapping.attributes.iter().enumerate() {
            match value(row, 4 + index, arena)? {
                Value::Null => {}
                value => record.attributes.push((arena.push(name), value)),
            }
        }
        if parsed.is_none() {
            // The record is shipped all the same, at the beginning of time, with what its row says.
            record.attributes.push((Text::from_static("logship.timestamp_raw"), arena.push(time).into()));
        }
        Ok(record)
    }
}

#[async_trait]
impl Source for SqliteSource {
    fn kind(&self) -> &'static str {
        "sqlite"
    }

    fn fingerprint(&self) -> String {
        let mapping = &self.mapping;
        let only = mapping.only.as_ref().map_or(String::new(), |(column, value)| format!(" only {column} = {value}"));
        format!("table {} by {}, {}{only}", mapping.table, mapping.timestamp, mapping.id)
    }

    fn arrival_order(&self) -> ArrivalOrder {
        ArrivalOrder::Bounded
    }

    async fn partitions(&self) -> Result<Vec<Partition>, Error> {
        Ok(vec![self.partition.clone()])
    }

    async fn read(&self, _: &Partition, start: &Start, query: &Query, limits: PageLimits) -> Result<Page, Error> {
        let (sql, bound) = self.statement(start, query, limits);
        // Names of tables and columns are quoted, and values are bound.
        let mut statement = sqlx::query(AssertSqlSafe(sql));
        for value in bound {
            statement = statement.bind(value);
        }
        let resource = std::sync::Arc::new(Resource {
            attributes: self
                .mapping
                .service_name
                .iter()
                .map(|name| ("service.name".into(), name.as_str().into()))
                .collect(),
        });
        let mut rows = statement.fetch(&self.pool);
        let mut arena = TextArena::new();
        let (mut records, mut seen, mut bytes, mut next) = (Vec::new(), 0, 0, None);
        let mut end = PageEnd::CaughtUp;
        while let Some(row) = rows.try_next().await.map_err(|error| failed("read the log table", error))? {
            let record = self.record(&row, &mut arena, &resource)?;
            let wanted = query.matches(&record);
            if wanted && !records.is_empty() && bytes + record.size() > limits.bytes_max {
                end = PageEnd::More;
                break;
            }
            seen += 1;
            next = Some(record.id.position().clone());
            if wanted {
                bytes += record.size();
                records.push(record);
            }
        }
        if seen == limits.records_max {
            end = PageEnd::More;
        }
        Ok(Page::ending_at(self.partition.clone(), records, next, end))
    }

    async fn check(&self) -> Result<(), Error> {
        let table = &self.mapping.table;
        let found: Vec<String> = sqlx::query_scalar("select name from pragma_table_info(?)")
            .bind(table)
            .fetch_all(&self.pool)
            .await
            .map_err(|error| failed("look at the log table", error))?;
        if found.is_empty() {
            return Err(Error::config("mapping.table", format!("the database has no table `{table}`")));
        }
        for (field, column) in self.mapping.columns() {
            if !found.iter().any(|name| name.eq_ignore_ascii_case(column)) {
                let message = format!("the table `{table}` has no column `{column}`; it has: {}", found.join(", "));
                return Err(Error::config(&format!("mapping.{field}"), message));
            }
        }
        let (timestamp, id) = (quoted(&self.mapping.timestamp), quoted(&self.mapping.id));
        let sql = format!("select count(*) from {} where {timestamp} is null or {id} is null", quoted(table));
        let lost: i64 = sqlx::query_scalar(AssertSqlSafe(sql))
            .fetch_one(&self.pool)
            .await
            .map_err(|error| failed("look at the log table", error))?;
        if lost > 0 {
            tracing::warn!(
                table,
                rows = lost,
                "rows without a timestamp or an id have no position and are not shipped"
            );
        }
        Ok(())
    }
}

/// A name as SQL quotes it.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

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

impl FromStr for TableMapping {
    type Err = String;
    /// The mapping of this name: `kestra`.
    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "kestra" => Ok(TableMapping::kestra()),
            _ => Err(format!("there is no mapping `{name}`; there is: kestra")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use logship_core::Filter;
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
        let all = source.read(&source.partition, &Start::Earliest, &Query::all(), ALL).await.unwrap();
        for query in queries {
            let expected: Vec<_> = all.records().iter().filter(|record| query.matches(record)).map(|r| &r.id).collect();
            let page = source.read(&source.partition, &Start::Earliest, &query, ALL).await.unwrap();
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
        source.mapping.body = "text".to_owned();
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
}
