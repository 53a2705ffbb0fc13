//! The corpus as a log table of a database, one column for each field of a line.

use std::error::Error;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use logship::sources::sqlite::{IdFormat, TableMapping, TimestampFormat};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, SqliteConnection};

use crate::corpus::Corpus;

/// The columns behind the id and the time, with their types, the attributes they are, and where in a line they stand.
/// Both databases read JSON by these operators.
pub(crate) const COLUMNS: &[(&str, &str, &str, &str)] = &[
    ("level", "text", "", "->> 'level'"),
    ("message", "text", "", "->> 'message'"),
    ("tenant_id", "text", "tenantId", "->> 'tenantId'"),
    ("namespace", "text", "namespace", "->> 'namespace'"),
    ("flow_id", "text", "flowId", "->> 'flowId'"),
    ("execution_id", "text", "executionId", "->> 'executionId'"),
    ("task_id", "text", "taskId", "->> 'taskId'"),
    ("task_run_id", "text", "taskRunId", "->> 'taskRunId'"),
    ("attempt_number", "bigint", "attemptNumber", "->> 'attemptNumber'"),
    ("thread", "text", "thread", "->> 'thread'"),
    ("host_name", "text", "host_name", "-> 'host' ->> 'name'"),
    ("host_zone", "text", "host_zone", "-> 'host' ->> 'zone'"),
    ("labels_team", "text", "labels_team", "-> 'labels' ->> 'team'"),
    ("labels_tier", "text", "labels_tier", "-> 'labels' ->> 'tier'"),
    ("labels_cost", "text", "labels_cost", "-> 'labels' ->> 'cost'"),
    ("labels_run", "text", "labels_run", "-> 'labels' ->> 'run'"),
    ("duration_ms", "bigint", "durationMs", "->> 'durationMs'"),
];

/// Lines that are given to a database at a time.
const BATCH: usize = 1_000;

/// Where PostgreSQL is.
pub(crate) const POSTGRES_URL: &str = "LOGSHIP_POSTGRES_URL";

pub(crate) fn postgres_url() -> Result<String, String> {
    std::env::var(POSTGRES_URL).map_err(|_| format!("set {POSTGRES_URL} to measure what comes from PostgreSQL"))
}

/// What the columns mean.
pub(crate) fn mapping(table: &str, timestamp_format: TimestampFormat) -> TableMapping {
    let attributes = COLUMNS.iter().filter(|(_, _, attribute, _)| !attribute.is_empty());
    TableMapping {
        id_format: IdFormat::Integer,
        timestamp_format,
        severity: Some("level".to_owned()),
        body: Some("message".to_owned()),
        attributes: attributes.map(|(column, _, name, _)| ((*name).to_owned(), (*column).to_owned())).collect(),
        ..TableMapping::new(table, "id", "timestamp")
    }
}

/// One page of an ordered scan, from behind a time, which is bound first, and an id.
pub(crate) fn page_sql(table: &str, time: &str, rows: usize) -> String {
    let columns: Vec<&str> = COLUMNS.iter().map(|(column, ..)| *column).collect();
    let columns = columns.join(", ");
    format!(
        "select id, timestamp, {columns} from {table} where (timestamp, id) > ({time}, $2) order by timestamp, id limit {rows}"
    )
}

fn create_sql(table: &str, timestamp: &str) -> String {
    let columns: Vec<String> = COLUMNS.iter().map(|(column, kind, ..)| format!("{column} {kind}")).collect();
    let columns = columns.join(", ");
    format!(
        "create table {table} (id bigint primary key, timestamp {timestamp} not null, {columns});
         create index {table}_order on {table} (timestamp, id)"
    )
}

/// Inserts the lines of a JSON array; `lines` gives each as `value`, with its place in it as `key`.
fn insert_sql(table: &str, timestamp: &str, lines: &str) -> String {
    let values: Vec<String> =
        COLUMNS.iter().map(|(_, kind, _, path)| format!("cast(value {path} as {kind})")).collect();
    let values = values.join(", ");
    format!("insert into {table} select $2 + key, cast(value ->> 'timestamp' as {timestamp}), {values} from {lines}")
}

/// The lines of a file as JSON arrays, each with the number of its first line.
fn batches(lines: &Path) -> std::io::Result<impl Iterator<Item = std::io::Result<(i64, String)>>> {
    let mut lines = BufReader::new(File::open(lines)?).lines();
    let mut first = 0;
    Ok(std::iter::from_fn(move || {
        let batch: std::io::Result<Vec<String>> = lines.by_ref().take(BATCH).collect();
        match batch {
            Ok(batch) if batch.is_empty() => None,
            Ok(batch) => {
                let begin = first;
                first += batch.len() as i64;
                Some(Ok((begin, format!("[{}]", batch.join(",")))))
            }
            Err(error) => Some(Err(error)),
        }
    }))
}

/// Makes the database file, if it is not there yet.
pub(crate) async fn make_sqlite(corpus: &Corpus) -> Result<(), Box<dyn Error>> {
    let path = corpus.sqlite();
    if path.exists() {
        return Ok(());
    }
    let unfinished = path.with_extension("unfinished");
    std::fs::remove_file(&unfinished).ok();
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&unfinished).create_if_missing(true);
    let mut connection = SqliteConnection::connect_with(&options).await?;
    connection.execute(AssertSqlSafe(create_sql("logs", "text"))).await?;
    let insert = insert_sql("logs", "text", "json_each($1)");
    let mut transaction = connection.begin().await?;
    for batch in batches(&corpus.lines())? {
        let (first, lines) = batch?;
        sqlx::query(AssertSqlSafe(insert.as_str())).bind(lines).bind(first).execute(&mut *transaction).await?;
    }
    transaction.commit().await?;
    connection.close().await?;
    Ok(std::fs::rename(unfinished, path)?)
}

/// Makes the table, if it is not there yet.
pub(crate) async fn make_postgres(corpus: &Corpus) -> Result<(), Box<dyn Error>> {
    let table = corpus.postgres();
    let mut connection = PgConnection::connect(&postgres_url()?).await?;
    let is_there: bool =
        sqlx::query_scalar("select to_regclass($1) is not null").bind(&table).fetch_one(&mut connection).await?;
    if is_there {
        return Ok(());
    }
    let mut transaction = connection.begin().await?;
    transaction.execute(AssertSqlSafe(create_sql(&table, "timestamptz"))).await?;
    let lines = "json_array_elements($1::json) with ordinality as lines(value, key)";
    let insert = insert_sql(&table, "timestamptz", lines);
    for batch in batches(&corpus.lines())? {
        let (first, lines) = batch?;
        sqlx::query(AssertSqlSafe(insert.as_str())).bind(lines).bind(first).execute(&mut *transaction).await?;
    }
    transaction.commit().await?;
    connection.execute(AssertSqlSafe(format!("analyze {table}"))).await?;
    Ok(connection.close().await?)
}
