//! The PostgreSQL source against a real server. `eval "$(scripts/servers.sh start)"` starts one; without it these tests
//! say so and do nothing, unless `LOGSHIP_REQUIRE_SERVERS` is set.

#![cfg(feature = "postgres")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test says what it does and why it fails"
)]

use logship_core::{
    BuildContext, Error, ErrorKind, Filter, Page, PageEnd, PageLimits, Partition, Query, RecordId, Severity, Source,
    Start, Timestamp, Value,
};
use logship_sources::postgres::{PostgresConfig, PostgresSource};
use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, PgPool};

const ALL: PageLimits = PageLimits { records_max: 1_000, bytes_max: usize::MAX, until: None };

/// A database of the test's own on the real server.
struct Database {
    url: String,
    pool: PgPool,
}

async fn database(name: &str) -> Option<Database> {
    let Ok(server) = std::env::var("LOGSHIP_POSTGRES_URL") else {
        assert!(std::env::var("LOGSHIP_REQUIRE_SERVERS").is_err(), "LOGSHIP_POSTGRES_URL is not set");
        eprintln!("not run: LOGSHIP_POSTGRES_URL is not set");
        return None;
    };
    let mut admin = PgConnection::connect(&server).await.unwrap();
    let name = format!("logship_{name}_{}", std::process::id());
    admin.execute(AssertSqlSafe(format!("drop database if exists {name} with (force)"))).await.unwrap();
    admin.execute(AssertSqlSafe(format!("create database {name}"))).await.unwrap();
    let url = format!("{}/{name}", server.rsplit_once('/').unwrap().0);
    let pool = PgPoolOptions::new().max_connections(8).connect(&url).await.unwrap();
    Some(Database { url, pool })
}

/// Kestra's table, as its migrations leave it (facts: `key` and `value` are written, everything else is generated).
const KESTRA: &str = "
    create type log_level as enum ('ERROR', 'WARN', 'INFO', 'DEBUG', 'TRACE');
    create function loglevel_fromtext(text) returns log_level language sql immutable as 'select $1::log_level';
    create function parse_iso8601_datetime(text) returns timestamptz language sql immutable as 'select $1::timestamptz';
    create table logs (
        key varchar(30) not null primary key,
        value jsonb not null,
        tenant_id varchar(250) generated always as (value ->> 'tenantId') stored,
        namespace varchar(150) not null generated always as (value ->> 'namespace') stored,
        flow_id varchar(150) not null generated always as (value ->> 'flowId') stored,
        task_id varchar(256) generated always as (value ->> 'taskId') stored,
        execution_id varchar(150) generated always as (value ->> 'executionId') stored,
        taskrun_id varchar(150) generated always as (value ->> 'taskRunId') stored,
        attempt_number int generated always as (cast(value ->> 'attemptNumber' as int)) stored,
        trigger_id varchar(150) generated always as (value ->> 'triggerId') stored,
        level log_level not null generated always as (loglevel_fromtext(value ->> 'level')) stored,
        timestamp timestamptz not null generated always as (parse_iso8601_datetime(value ->> 'timestamp')) stored,
        execution_kind varchar(32) generated always as (value ->> 'executionKind') stored
    );
    create index logs_timestamp on logs (timestamp);";

async fn insert(pool: impl Executor<'_, Database = sqlx::Postgres>, key: &str, time: &str, level: &str, more: &str) {
    let sql = format!(
        "insert into logs (key, value) values ('{key}', jsonb_build_object('namespace', 'company.team', 'flowId', 'load', \
         'level', '{level}', 'timestamp', '{time}', 'message', 'message of {key}', 'thread', 'main', 'attemptNumber', 2) || '{more}')"
    );
    pool.execute(AssertSqlSafe(sql)).await.unwrap();
}

fn source(database: &Database) -> PostgresSource {
    let config: PostgresConfig = serde_json::from_value(serde_json::json!({"url": database.url})).unwrap();
    PostgresSource::new(config, &BuildContext::default()).unwrap()
}

async fn page(source: &PostgresSource, start: &Start, query: &Query, limits: PageLimits) -> Result<Page, Error> {
    source.read(&Partition::new("logs"), start, query, limits).await
}

fn key(id: &RecordId) -> String {
    id.position().as_text().split_once('\t').unwrap().1.to_owned()
}

async fn read_all(source: &PostgresSource, query: &Query, limits: PageLimits) -> Vec<String> {
    let (mut start, mut keys) = (Start::Earliest, Vec::new());
    loop {
        let page = page(source, &start, query, limits).await.unwrap();
        assert!(page.records().is_sorted_by(|a, b| a.id < b.id), "positions are in the database's order");
        keys.extend(page.records().iter().map(|record| key(&record.id)));
        match page.next() {
            Some(next) => start = Start::After(next.clone()),
            None => assert_eq!(page.end(), PageEnd::CaughtUp),
        }
        if page.end() == PageEnd::CaughtUp {
            return keys;
        }
    }
}

#[tokio::test]
async fn k1_a_row_of_kestras_table_is_a_record() {
    let Some(database) = database("k1").await else { return };
    database.pool.execute(KESTRA).await.unwrap();
    insert(&database.pool, "k1", "2026-11-20T08:30:00.123456Z", "WARN", r#"{"tenantId": "main"}"#).await;
    insert(&database.pool, "k2", "2026-11-20T08:30:00Z", "INFO", r#"{"executionKind": "TEST"}"#).await;
    let source = source(&database);
    source.check().await.unwrap();
    let page = page(&source, &Start::Earliest, &Query::all(), ALL).await.unwrap();
    assert_eq!(page.records().len(), 1, "a test execution is left out");
    let record = &page.records()[0];
    assert_eq!(record.timestamp, "2026-11-20T08:30:00.123456Z".parse::<Timestamp>().unwrap());
    assert_eq!((record.severity, record.body.as_str()), (Severity::WARN, Some("message of k1")));
    assert_eq!(record.attribute("namespace"), Some(&"company.team".into()));
    assert_eq!(record.attribute("attemptNumber"), Some(&Value::Int(2)));
    assert_eq!(record.attribute("thread"), Some(&"main".into()));
    assert_eq!(record.attribute("tenantId"), Some(&"main".into()));
    assert_eq!(record.id.to_string(), "logs:/2026-11-20T08:30:00.123456Z\tk1");
}

#[tokio::test]
async fn h16_ties_across_a_page_cut_are_neither_lost_nor_doubled() {
    let Some(database) = database("ties").await else { return };
    database.pool.execute(KESTRA).await.unwrap();
    // In the order of bytes, which no language's collation has: upper case first, `_` between.
    let mut keys = ["B", "_", "a", "Z", "b", "é", "aa", "a b"].map(str::to_owned);
    for key in &keys {
        insert(&database.pool, key, "2026-11-20T08:30:00Z", "INFO", "{}").await;
    }
    insert(&database.pool, "later", "2026-11-20T08:30:00.000001Z", "INFO", "{}").await;
    keys.sort();
    let expected: Vec<&str> = keys.iter().map(String::as_str).chain(["later"]).collect();
    let source = source(&database);
    for records_max in 1..=10 {
        assert_eq!(read_all(&source, &Query::all(), PageLimits { records_max, ..ALL }).await, expected);
    }
}

#[tokio::test]
async fn k2_k4_what_the_database_decides_is_what_the_query_says() {
    let Some(database) = database("push").await else { return };
    database.pool.execute(KESTRA).await.unwrap();
    let levels = ["TRACE", "DEBUG", "INFO", "WARN", "ERROR"];
    for (number, level) in levels.iter().cycle().take(20).enumerate() {
        let namespace = ["company", "company.team", "companyx", "other"][number % 4];
        let more = format!(r#"{{"namespace": "{namespace}", "attemptNumber": {}}}"#, number % 3);
        insert(&database.pool, &format!("k{number:02}"), "2026-11-20T08:30:00Z", level, &more).await;
    }
    let source = source(&database);
    let all = page(&source, &Start::Earliest, &Query::all(), ALL).await.unwrap();
    assert_eq!(all.records().len(), 20);
    let queries = [
        Query::all().severity_min(Severity::INFO),
        Query::all().severity_min(Severity::ERROR),
        Query::all().namespace("company"),
        Query::all().filter(Filter::equals("attemptNumber", "1")),
        Query::all().filter(Filter::not_in("namespace", ["other", "company"])).severity_min(Severity::WARN),
        Query::all().filter(Filter::one_of("namespace", ["other", "nothing"])),
        Query::all().filter(Filter::not_in("taskId", ["x"])),
        Query::all().filter(Filter::equals("thread", "main")),
        Query::all().filter(Filter::equals("unmapped", "x")),
        Query::all().filter(Filter::equals("namespace", "a\0b")),
    ];
    for query in queries {
        let expected: Vec<_> = all.records().iter().filter(|record| query.matches(record)).map(|r| &r.id).collect();
        let page = page(&source, &Start::Earliest, &query, ALL).await.unwrap();
        assert_eq!(page.records().iter().map(|record| &record.id).collect::<Vec<_>>(), expected, "{query}");
    }
}

/// Goal: what commits late is not passed. Method: a transaction that writes first and commits last.
#[tokio::test]
async fn p4_the_horizon_stands_before_the_oldest_transaction_that_has_written() {
    let Some(database) = database("horizon").await else { return };
    database.pool.execute(KESTRA).await.unwrap();
    let source = source(&database);
    let idle = source.horizon().await.unwrap().unwrap();
    let mut open = database.pool.begin().await.unwrap();
    insert(&mut *open, "first", "2026-11-20T08:30:00Z", "INFO", "{}").await;
    let held = source.horizon().await.unwrap().unwrap();
    assert!(held >= idle, "it never moves back");
    insert(&database.pool, "second", "2026-11-20T08:31:00Z", "INFO", "{}").await;
    assert_eq!(source.horizon().await.unwrap(), Some(held), "it stands as long as the transaction is open");
    open.commit().await.unwrap();
    assert!(source.horizon().await.unwrap().unwrap() > held);
    let mut prepared = database.pool.begin().await.unwrap();
    insert(&mut *prepared, "third", "2026-11-20T08:30:00Z", "INFO", "{}").await;
    prepared.execute("prepare transaction 'logship'").await.unwrap();
    let held = source.horizon().await.unwrap();
    assert_eq!(source.horizon().await.unwrap(), held, "a prepared transaction is open, too");
    database.pool.execute("rollback prepared 'logship'").await.unwrap();
    assert!(source.horizon().await.unwrap() > held);
}

#[tokio::test]
async fn p4_without_the_right_to_see_transactions_the_horizon_is_not_known() {
    let Some(database) = database("rights").await else { return };
    database.pool.execute(KESTRA).await.unwrap();
    let user = format!("reader_{}", std::process::id());
    let create = format!("drop role if exists {user}; create role {user} login; grant select on logs to {user}");
    database.pool.execute(AssertSqlSafe(create)).await.unwrap();
    let url = database.url.replace("postgres@", &format!("{user}@"));
    let reader = source(&Database { url, pool: database.pool.clone() });
    assert_eq!(reader.horizon().await.unwrap(), None);
    assert!(page(&reader, &Start::Earliest, &Query::all(), ALL).await.unwrap().records().is_empty());
    let refused = reader.delete(&[RecordId::new(Partition::new("logs"), "/t\tk".parse().unwrap())]).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Auth, "{refused}");
    database.pool.execute(AssertSqlSafe(format!("drop owned by {user}; drop role {user}"))).await.unwrap();
}

#[tokio::test]
async fn years_at_both_ends_and_infinite_ones_cost_nobody_else() {
    let Some(database) = database("years").await else { return };
    database.pool.execute(KESTRA).await.unwrap();
    let times = ["0001-01-01T00:00:00Z", "2026-11-20T08:30:00Z", "9999-12-31T23:59:59Z", "-infinity", "infinity"];
    for (number, time) in times.iter().enumerate() {
        insert(&database.pool, &format!("k{number}"), time, "INFO", "{}").await;
    }
    let source = source(&database);
    let limits = PageLimits { records_max: 1, until: Some("2026-11-21T00:00:00Z".parse().unwrap()), ..ALL };
    assert_eq!(read_all(&source, &Query::all(), limits).await, ["k0", "k1"]);
}

#[tokio::test]
async fn what_is_not_as_mapped_or_not_there_is_said() {
    let Some(database) = database("mapped").await else { return };
    let error = source(&database).check().await.unwrap_err().to_string();
    assert!(error.contains("no table `logs`"), "{error}");
    database.pool.execute("create table logs (key text, value jsonb, at timestamptz)").await.unwrap();
    let error = source(&database).check().await.unwrap_err().to_string();
    assert!(error.contains("no column `timestamp`") && error.contains("mapping.timestamp"), "{error}");
    let with = |url: &str| {
        let config: PostgresConfig = serde_json::from_value(serde_json::json!({"url": url})).unwrap();
        PostgresSource::new(config, &BuildContext::default())
    };
    let error = with("mysql://u:hunter2@h/d").unwrap_err();
    assert!(error.kind() == ErrorKind::Config && !error.to_string().contains("hunter2"), "{error}");
    let error = with("postgres://u:hunter2@127.0.0.1:1/d").unwrap().check().await.unwrap_err();
    assert!(error.kind() == ErrorKind::Unavailable && !error.to_string().contains("hunter2"), "{error}");
    let gone = database.url.replace("logship_mapped", "nowhere");
    assert_eq!(with(&gone).unwrap().check().await.unwrap_err().kind(), ErrorKind::Config);
}

/// Goal: a server that goes away is an error that says to try again, and then it works. Method: all connections are
/// ended by the server.
#[tokio::test]
async fn a_connection_that_is_lost_is_made_again() {
    let Some(database) = database("lost").await else { return };
    database.pool.execute(KESTRA).await.unwrap();
    insert(&database.pool, "k", "2026-11-20T08:30:00Z", "INFO", "{}").await;
    let source = source(&database);
    assert_eq!(read_all(&source, &Query::all(), ALL).await, ["k"]);
    let end = "select count(pg_terminate_backend(pid)) from pg_stat_activity \
               where application_name = 'logship' and datname = current_database()";
    let ended: i64 = sqlx::query_scalar(end).fetch_one(&database.pool).await.unwrap();
    assert!(ended > 0);
    if let Err(error) = page(&source, &Start::Earliest, &Query::all(), ALL).await {
        assert!(error.is_retryable(), "{error}");
    }
    assert_eq!(read_all(&source, &Query::all(), ALL).await, ["k"]);
}

#[tokio::test]
async fn p7_delete_takes_the_rows_named_and_no_other() {
    let Some(database) = database("delete").await else { return };
    database.pool.execute(KESTRA).await.unwrap();
    for number in 0..2_500 {
        insert(&database.pool, &format!("k{number:04}"), "2026-11-20T08:30:00Z", "INFO", "{}").await;
    }
    let source = source(&database);
    let limits = PageLimits { records_max: 5_000, ..ALL };
    let page = page(&source, &Start::Earliest, &Query::all(), limits).await.unwrap();
    let ids: Vec<RecordId> = page.records().iter().take(2_200).map(|record| record.id.clone()).collect();
    assert_eq!(source.delete(&ids).await.unwrap(), 2_200);
    assert_eq!(source.delete(&ids).await.unwrap(), 0);
    assert_eq!(read_all(&source, &Query::all(), limits).await.len(), 300);
}
