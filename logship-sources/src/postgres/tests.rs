//! Against a real server; see [`server`].

use std::sync::Arc;

use logship_core::{BuildContext, Cursor, Filter, Severity, Value};
use logship_testkit::conformance::server;
use proptest::prelude::*;
use sqlx::postgres::PgPoolOptions;

use super::*;
use crate::sql::testing::{ALL, any_filter, assert_pushed_down, bodies, read_all};

/// A database of a test's own.
struct Database {
    url: String,
    pool: PgPool,
}

impl Database {
    /// An empty database of this name, or `None` if there is no server.
    async fn new(name: &str) -> Option<Self> {
        let url = server("LOGSHIP_POSTGRES_URL")?;
        let name = format!("logship_source_{name}");
        let admin = PgPool::connect(&url).await.unwrap();
        admin.execute(AssertSqlSafe(format!("drop database if exists {name} with (force)"))).await.unwrap();
        admin.execute(AssertSqlSafe(format!("create database {name}"))).await.unwrap();
        admin.close().await;
        let (server, _) = url.rsplit_once('/').unwrap();
        let url = format!("{server}/{name}");
        let pool = PgPoolOptions::new().max_connections(5).connect(&url).await.unwrap();
        Some(Database { url, pool })
    }

    async fn run(&self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&self.pool).await.unwrap();
    }

    fn source(&self, mapping: TableMapping) -> PostgresSource {
        let config = PostgresConfig { mapping, ..PostgresConfig::new(self.url.as_str()) };
        PostgresSource::open(config, &BuildContext::default()).unwrap()
    }

    /// Waits at the server until no statement (or, with `there`, one) has this text in it.
    async fn wait_for_statement(&self, text: &str, there: bool) {
        let not = if there { "" } else { "not" };
        self.run(&format!(
            "do $$ begin
               for i in 1..400 loop
                 if {not} exists (select from pg_stat_activity
                   where query like '%{text}%' and state = 'active' and pid <> pg_backend_pid()
                     and datname = current_database()) then return; end if;
                 perform pg_sleep(0.025), pg_stat_clear_snapshot();
               end loop;
               raise exception 'waited in vain';
             end $$"
        ))
        .await;
    }
}

/// A table of id, time and message.
fn plain() -> TableMapping {
    TableMapping { body: Some("m".to_owned()), ..TableMapping::new("t", "id", "at") }
}

/// Goal: rows of one timestamp are read once each, whatever order the column's collation has. Method: keys that a
/// collation orders otherwise than their bytes, and every size of page.
#[tokio::test]
async fn p4_ties_across_a_page_cut_are_neither_lost_nor_doubled() {
    let Some(database) = Database::new("ties").await else { return };
    database
        .run(
            "create table t (id text collate \"en-x-icu\", at timestamptz, m text);
             insert into t select k, '2026-11-20T08:30:00.123456Z', k from unnest(array['a','B','b','A','_','ä','z','']) k;
             insert into t values ('first', '2026-11-20T08:30:00.123455Z', 'first'), ('x', null, 'x'), (null, now(), 'y')",
        )
        .await;
    let source = database.source(plain());
    source.check().await.unwrap();
    for records_max in 1..=10 {
        let limits = PageLimits { records_max, ..ALL };
        let records = read_all(&source, Start::Earliest, &Query::all(), limits).await;
        assert_eq!(bodies(&records), ["first", "", "A", "B", "_", "a", "b", "z", "ä"], "pages of {records_max}");
    }
    let tiny = PageLimits { records_max: 10, bytes_max: 1, until: None };
    assert_eq!(read_all(&source, Start::Earliest, &Query::all(), tiny).await.len(), 9);
    let since = Start::At(Timestamp::from_nanos(1_795_163_400_123_455_001));
    assert_eq!(read_all(&source, since, &Query::all(), ALL).await.len(), 8);
}

/// What Kestra's migrations make, in the form of its first versions and of the newest.
fn kestra_table(new: bool) -> String {
    let text = |column: &str, key: &str, rest: &str| {
        format!("{column} varchar(150) {rest} generated always as (value ->> '{key}') stored")
    };
    let mut columns = vec![
        "key varchar(30) not null primary key".to_owned(),
        "value jsonb not null".to_owned(),
        text("namespace", "namespace", "not null"),
        text("flow_id", "flowId", "not null"),
        text("task_id", "taskId", ""),
        text("execution_id", "executionId", ""),
        text("taskrun_id", "taskRunId", ""),
        text("trigger_id", "triggerId", ""),
        "attempt_number int generated always as (cast(value ->> 'attemptNumber' as integer)) stored".to_owned(),
        "level log_level not null generated always as (loglevel_fromtext(value ->> 'level')) stored".to_owned(),
        "timestamp timestamptz not null generated always as (parse_iso8601_datetime(value ->> 'timestamp')) stored"
            .to_owned(),
    ];
    if new {
        columns.push(text("tenant_id", "tenantId", ""));
        columns.push(text("execution_kind", "executionKind", ""));
    } else {
        columns.push("deleted bool not null generated always as (cast(value ->> 'deleted' as bool)) stored".to_owned());
    }
    format!(
        "create type log_level as enum ('ERROR', 'WARN', 'INFO', 'DEBUG', 'TRACE');
         create function loglevel_fromtext(text) returns log_level language sql immutable as 'select $1::log_level';
         create function parse_iso8601_datetime(text) returns timestamptz language sql immutable
           as 'select $1::timestamptz';
         create table logs ({});
         create index logs_timestamp on logs (timestamp);",
        columns.join(", ")
    )
}

#[tokio::test]
async fn the_kestra_table_is_read_in_its_old_and_its_new_form() {
    for new in [false, true] {
        let Some(database) = Database::new(if new { "kestra_new" } else { "kestra_old" }).await else { return };
        database.run(&kestra_table(new)).await;
        let row = |key: &str, timestamp: &str, level: &str, rest: &str| {
            format!(
                r#"('{key}', '{{"timestamp": "{timestamp}", "level": "{level}", "namespace": "company.team",
                "flowId": "pay", "message": "m-{key}", "thread": "main", "deleted": false, "id": null {rest}}}')"#
            )
        };
        let rows = [
            row("k2", "2026-11-20T08:30:00.123Z", "INFO", r#", "attemptNumber": 2, "tenantId": "main", "extra": [1]"#),
            row("k1", "2026-11-20T08:30:00.123456Z", "WARN", r#", "executionKind": "NORMAL", "triggerId": "t""#),
            row("k3", "2026-11-20T08:30:01.000000Z", "INFO", r#", "executionKind": "TEST""#),
            row("k4", "2026-11-20T08:30:02.000000Z", "DEBUG", ""),
        ];
        database.run(&format!("insert into logs (key, value) values {}", rows.join(", "))).await;
        let source = database.source(TableMapping::kestra_postgres());
        source.check().await.unwrap();
        let query = Query::all().severity_min(Severity::INFO).namespace("company");
        let records = read_all(&source, Start::Earliest, &query, ALL).await;
        // An old table knows no kinds of executions.
        assert_eq!(bodies(&records), if new { vec!["m-k2", "m-k1"] } else { vec!["m-k2", "m-k1", "m-k3"] });
        let first = &records[0];
        assert_eq!(first.timestamp, Timestamp::from_millis(1_795_163_400_123));
        assert_eq!((first.severity, first.severity_name()), (Severity::INFO, "INFO"));
        assert_eq!(first.attribute("attemptNumber"), Some(&2.into()));
        assert_eq!(first.attribute("thread"), Some(&"main".into()));
        assert_eq!(first.attribute("extra"), Some(&Value::Array(vec![1.into()])));
        assert_eq!(first.attribute("tenantId").is_some(), new);
        for absent in ["level", "timestamp", "message", "deleted", "id", "taskId"] {
            assert_eq!(first.attribute(absent), None, "{absent}");
        }
        assert_eq!(first.resource.attributes, [("service.name".into(), "Kestra".into())]);
        let statements = Statements { dialect: Dialect::Postgres, layout: source.layout().await.unwrap() };
        let plan = source.plan(&statements).await.unwrap();
        assert!(!plan.iter().any(|line| is_slow(line)), "the index that Kestra has serves a page: {plan:#?}");
    }
}

#[tokio::test]
async fn a_page_without_an_index_is_found_out() {
    let Some(database) = Database::new("plan").await else { return };
    database.run("create table t (id varchar(30) primary key, at timestamptz not null, m text)").await;
    let source = database.source(plain());
    let layout = source.look().await.unwrap();
    let statements = Statements { dialect: Dialect::Postgres, layout: &layout };
    let plan = source.plan(&statements).await.unwrap();
    assert!(plan.iter().any(|line| is_slow(line)), "{plan:#?}");
    database.run("create index on t (at, id collate \"C\")").await;
    let plan = source.plan(&statements).await.unwrap();
    assert!(!plan.iter().any(|line| is_slow(line) || line.contains("Incremental")), "{plan:#?}");
}

#[tokio::test]
async fn what_is_not_as_mapped_is_named_before_anything_is_read() {
    let Some(database) = Database::new("mapping").await else { return };
    database.run("create table t (id bigint primary key, at timestamptz, m text); create schema s").await;
    let error = async |mapping: TableMapping| database.source(mapping).check().await.unwrap_err().to_string();
    let integers = TableMapping { id_format: IdFormat::Integer, ..plain() };
    database.source(integers.clone()).check().await.unwrap();
    for (mapping, words) in [
        (TableMapping { table: "T".to_owned(), ..integers.clone() }, ["mapping.table", "no table `T`"]),
        (TableMapping { schema: Some("s".to_owned()), ..integers.clone() }, ["mapping.table", "no table `t`"]),
        (TableMapping { body: Some("text".to_owned()), ..integers.clone() }, ["mapping.body", "it has: id, at, m"]),
        (plain(), ["mapping.id_format", "bigint"]),
        (
            TableMapping { timestamp_format: TimestampFormat::UnixMs, ..integers.clone() },
            ["mapping.timestamp_format", "timestamp with time zone"],
        ),
    ] {
        let text = error(mapping).await;
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    }
    let gone = TableMapping { body: Some("text".to_owned()), ..integers };
    let read = database.source(gone).read(&Partition::new("t"), &Start::Earliest, &Query::all(), ALL).await;
    assert_eq!(read.unwrap_err().kind(), ErrorKind::Config);
}

/// Goal: microseconds, the ends of time and strange texts come through, and keep their order in positions.
#[tokio::test]
async fn odd_times_and_texts_keep_their_place() {
    let Some(database) = Database::new("odd").await else { return };
    let times = [
        "-infinity",
        "4713-01-01 00:00:00 BC",
        "0001-01-01 00:00:00.000001",
        "1969-12-31 23:59:59.999999",
        "2026-11-20 08:30:00.123456",
        "2026-11-20 08:30:00.123457",
        "9999-12-31 23:59:59.999999",
        "infinity",
    ];
    for kind in ["timestamp", "timestamptz"] {
        database.run(&format!("drop table if exists t; create table t (id text primary key, at {kind}, m text)")).await;
        // Ids in the opposite order, so that the times alone order the rows.
        for (index, time) in times.iter().enumerate() {
            let utc = if kind == "timestamptz" && !time.contains("infinity") { " UTC" } else { "" };
            let time = time.strip_suffix(" BC").map_or(format!("{time}{utc}"), |time| format!("{time}{utc} BC"));
            database.run(&format!("insert into t values ('{}\t''\"é', '{time}', 'm{index}')", 9 - index)).await;
        }
        let mapping = TableMapping { attributes: vec![("at".to_owned(), "at".to_owned())], ..plain() };
        let source = database.source(mapping);
        for records_max in [1, 3, 100] {
            let limits = PageLimits { records_max, ..ALL };
            let records = read_all(&source, Start::Earliest, &Query::all(), limits).await;
            assert_eq!(bodies(&records), ["m0", "m1", "m2", "m3", "m4", "m5", "m6", "m7"], "{kind}");
            assert_eq!(records[0].timestamp, Timestamp::from_nanos(i64::MIN));
            assert_eq!(records[3].timestamp, Timestamp::from_micros(-1));
            assert_eq!(records[4].timestamp, Timestamp::from_micros(1_795_163_400_123_456));
            assert_eq!(records[4].id.position().as_number(), 1_795_163_400_123_456);
            assert_eq!(records[7].timestamp, Timestamp::from_nanos(i64::MAX));
            assert!(records[4].attribute("at").unwrap().as_str().unwrap().starts_with("2026-11-20 08:30:00.123456"));
        }
        let query = Query::all().filter(Filter::not_in("at", ["\0"]));
        assert_eq!(read_all(&source, Start::Earliest, &query, ALL).await.len(), 8);
        let ids: Vec<RecordId> =
            read_all(&source, Start::Earliest, &Query::all(), ALL).await.into_iter().map(|record| record.id).collect();
        assert_eq!(source.delete(&ids).await.unwrap(), 8);
    }
}

#[tokio::test]
async fn p7_delete_takes_the_rows_named_and_no_other() {
    let Some(database) = Database::new("delete").await else { return };
    let uuid = "'00000000-0000-0000-0000-' || lpad(i::text, 12, '0')";
    for (id_type, id, format) in [
        ("text", "i::text", IdFormat::Text),
        ("uuid", &format!("({uuid})::uuid"), IdFormat::Text),
        ("bigint", "i - 250", IdFormat::Integer),
    ] {
        database
            .run(&format!(
                "drop table if exists t; create table t (id {id_type} primary key, at timestamptz, m text);
                 insert into t select {id}, '2026-11-20Z', i::text from generate_series(1, 503) i"
            ))
            .await;
        let source = database.source(TableMapping { id_format: format, ..plain() });
        let records = read_all(&source, Start::Earliest, &Query::all(), ALL).await;
        assert_eq!(records.len(), 503);
        let ids: Vec<RecordId> =
            records.iter().filter(|r| !matches!(r.body.as_str(), Some("7" | "8"))).map(|r| r.id.clone()).collect();
        // The row of message 9 is another one by now, and that of 10 is gone.
        database.run("update t set at = now() where m = '9'; delete from t where m = '10'").await;
        assert_eq!(source.delete(&ids).await.unwrap(), 499, "{id_type}");
        assert_eq!(source.delete(&ids).await.unwrap(), 0);
        let left = read_all(&source, Start::Earliest, &Query::all(), ALL).await;
        let mut left = bodies(&left);
        left.sort_unstable();
        assert_eq!(left, ["7", "8", "9"], "{id_type}");
    }
}

/// Goal: a row whose transaction commits after a later row has been read is not behind the horizon when it appears.
#[tokio::test]
async fn p4_the_horizon_stands_before_every_open_transaction() {
    let Some(database) = Database::new("horizon").await else { return };
    database.run("create table t (id text primary key, at timestamptz default now(), m text)").await;
    let source = database.source(plain());
    assert_eq!(source.horizon().await.unwrap(), None);
    let mut slow = database.pool.begin().await.unwrap();
    slow.execute("insert into t (id, m) values ('slow', 'slow')").await.unwrap();
    database.run("insert into t (id, m) values ('quick', 'quick')").await;
    let horizon = source.horizon().await.unwrap().unwrap();
    let quick = read_all(&source, Start::Earliest, &Query::all(), ALL).await;
    assert_eq!(bodies(&quick), ["quick"]);
    assert!(quick[0].timestamp > horizon);
    slow.commit().await.unwrap();
    assert_eq!(source.horizon().await.unwrap(), None);
    let both = read_all(&source, Start::Earliest, &Query::all(), ALL).await;
    assert_eq!(bodies(&both), ["slow", "quick"]);
    assert!(both[0].timestamp >= horizon, "nothing older than the horizon has appeared");
}

#[tokio::test]
async fn p4_a_prepared_transaction_keeps_the_horizon_of_its_beginning() {
    let Some(database) = Database::new("prepared").await else { return };
    database.run("create table t (id text primary key, at timestamptz default now(), m text)").await;
    let source = database.source(plain());
    let mut connection = database.pool.acquire().await.unwrap();
    connection.execute("begin; insert into t (id, m) values ('a', 'a')").await.unwrap();
    let horizon = source.horizon().await.unwrap().unwrap();
    connection.execute("prepare transaction 'logship-test'").await.unwrap();
    assert_eq!(source.horizon().await.unwrap(), Some(horizon));
    // A source that has not seen it begin knows when it was prepared.
    assert!(database.source(plain()).horizon().await.unwrap().unwrap() > horizon);
    connection.execute("commit prepared 'logship-test'").await.unwrap();
    assert_eq!(source.horizon().await.unwrap(), None);
}

#[tokio::test]
async fn a_user_without_rights_is_told_nothing_certain() {
    let Some(database) = Database::new("rights").await else { return };
    database
        .run(
            "drop role if exists logship_reader; create role logship_reader login;
             create table t (id text primary key, at timestamptz, m text); grant select on t to logship_reader",
        )
        .await;
    let url = database.url.replace("postgres@", "logship_reader@");
    let config = PostgresConfig { mapping: plain(), ..PostgresConfig::new(url.as_str()) };
    let source = PostgresSource::open(config, &BuildContext::default()).unwrap();
    source.check().await.unwrap();
    let mut writer = database.pool.begin().await.unwrap();
    writer.execute("insert into t values ('a', now(), 'a')").await.unwrap();
    assert_eq!(source.horizon().await.unwrap(), None);
    assert!(source.horizon.lock().unwrap().has_warned);
    writer.commit().await.unwrap();
    let id = read_all(&source, Start::Earliest, &Query::all(), ALL).await.remove(0).id;
    assert_eq!(source.delete(&[id]).await.unwrap_err().kind(), ErrorKind::Auth);
    database.run("grant pg_read_all_stats to logship_reader").await;
    let mut writer = database.pool.begin().await.unwrap();
    writer.execute("insert into t values ('b', now(), 'b')").await.unwrap();
    assert!(source.horizon().await.unwrap().is_some());
    writer.rollback().await.unwrap();
    database.run("drop owned by logship_reader; drop role logship_reader").await;
}

/// A table of which every row takes a minute, and a read of it that the server is busy with.
async fn slow_read(database: &Database) -> (Arc<PostgresSource>, tokio::task::JoinHandle<Result<Page, Error>>) {
    database
        .run(
            "create table rows (id text primary key, at timestamptz not null); insert into rows values ('a', now());
             create view t as select id, at, 'm' || pg_sleep(60)::text as m from rows",
        )
        .await;
    let source = Arc::new(database.source(plain()));
    source.layout().await.unwrap();
    let reader = Arc::clone(&source);
    let task =
        tokio::spawn(async move { reader.read(&Partition::new("t"), &Start::Earliest, &Query::all(), ALL).await });
    database.wait_for_statement("order by \"at\"", true).await;
    (source, task)
}

#[tokio::test]
async fn a_read_that_is_dropped_ends_at_the_server() {
    let Some(database) = Database::new("dropped").await else { return };
    let (source, task) = slow_read(&database).await;
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    database.wait_for_statement("order by \"at\"", false).await;
    database.run("create or replace view t as select id, at, 'quick' as m from rows").await;
    assert_eq!(bodies(&read_all(&*source, Start::Earliest, &Query::all(), ALL).await), ["quick"]);
}

#[tokio::test]
async fn a_server_that_goes_away_in_the_middle_is_an_error_that_passes() {
    let Some(database) = Database::new("away").await else { return };
    let (source, task) = slow_read(&database).await;
    database
        .run(
            "select pg_terminate_backend(pid) from pg_stat_activity
             where application_name = 'logship' and datname = current_database()",
        )
        .await;
    let error = task.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.is_retryable());
    database.run("create or replace view t as select id, at, 'quick' as m from rows").await;
    assert_eq!(bodies(&read_all(&*source, Start::Earliest, &Query::all(), ALL).await), ["quick"]);
}

#[tokio::test]
async fn a_statement_that_takes_too_long_is_given_up() {
    let Some(database) = Database::new("timeout").await else { return };
    database.run("create view t as select 'a' as id, now() as at, 'm' || pg_sleep(60)::text as m").await;
    let config =
        PostgresConfig { mapping: plain(), statement_timeout_secs: 1, ..PostgresConfig::new(database.url.as_str()) };
    let source = PostgresSource::open(config, &BuildContext::default()).unwrap();
    let error = source.read(&Partition::new("t"), &Start::Earliest, &Query::all(), ALL).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
}

#[tokio::test]
async fn large_rows_do_not_make_the_server_send_what_does_not_fit() {
    let Some(database) = Database::new("large").await else { return };
    database
        .run(
            "create table t (id text primary key, at timestamptz not null, m text);
             insert into t select i::text, '2026-11-20Z', repeat('x', 10000) from generate_series(1, 300) i",
        )
        .await;
    let source = database.source(plain());
    let limits = PageLimits { records_max: 1_000, bytes_max: 100_000, until: None };
    assert_eq!(read_all(&source, Start::Earliest, &Query::all(), limits).await.len(), 300);
    assert!(source.sizes.rows(limits) < 40, "{}", source.sizes.rows(limits));
}

#[test]
fn p12_the_password_does_not_show() {
    let url = "postgres://user:hunter2@127.0.0.1:1/database";
    let mut config = PostgresConfig::new(url);
    config.connections_max = 1;
    let source = PostgresSource::open(config.clone(), &BuildContext::default()).unwrap();
    let wrong = PostgresConfig::new("postgres://user:hunter2@host:port/database");
    let error = PostgresSource::open(wrong, &BuildContext::default()).unwrap_err();
    let without_body = PostgresConfig { mapping: TableMapping::new("t", "id", "at"), ..PostgresConfig::new(url) };
    let no_body = PostgresSource::open(without_body, &BuildContext::default()).unwrap_err();
    assert!(no_body.to_string().contains("mapping.body"), "{no_body}");
    for shown in [format!("{source:?}"), format!("{no_body:?}"), format!("{config:?}"), format!("{error:?}")] {
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}

#[tokio::test]
async fn positions_of_another_mapping_are_refused() {
    let Some(database) = Database::new("positions").await else { return };
    database.run("create table t (id bigint primary key, at timestamptz, m text)").await;
    let source = database.source(TableMapping { id_format: IdFormat::Integer, ..plain() });
    let start = Start::After(Cursor::new(1, "abc".into()));
    let error = source.read(&Partition::new("t"), &start, &Query::all(), ALL).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::State, "{error}");
}

fn any_row() -> impl Strategy<Value = [String; 7]> {
    let null_or = |values: &'static [&'static str]| prop::sample::select(values).prop_map(str::to_owned);
    let text = || null_or(&["null", "'a'", "'A'", "'a.b'", "'a/b'", "'a.'", "'5'", "''", "'ä'", "'a '", "'true'"]);
    let json = null_or(&["null", "'null'", "'\"a\"'", "'5'", "'[5]'", "'{\"a\":5}'", "'true'"]);
    (
        text(),
        text(),
        null_or(&["null", "5", "-5", "0"]),
        null_or(&["null", "true", "false"]),
        null_or(&["null", "5", "5.5", "'NaN'"]),
        json,
        null_or(&["'INFO'", "'info'", "'Warn'", "'odd'", "null", "'iNFO'", "'ınfo'"]),
    )
        .prop_map(|(a, b, c, d, e, f, g)| [a, b, c, d, e, f, g])
}

/// What the database decides is what the query says of each record, for every type of column.
#[test]
fn k2_push_down_agrees_with_the_query() {
    const NAMES: &[&str] = &["text", "padded", "number", "flag", "ratio", "json", "unmapped"];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let Some(database) = runtime.block_on(Database::new("push_down")) else { return };
    runtime.block_on(database.run(
        "create collation ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
         create table t (id text primary key, at timestamptz default '2026-11-20Z', m text default 'm',
           text text collate ci, padded char(5), number int, flag bool, ratio float8, json jsonb, level text collate ci)",
    ));
    let mut mapping = plain();
    mapping.severity = Some("level".to_owned());
    mapping.attributes = NAMES[..6].iter().map(|name| ((*name).to_owned(), (*name).to_owned())).collect();
    let source = database.source(mapping);
    let rows = prop::collection::vec(any_row(), 1..8);
    let filters = prop::collection::vec(any_filter(NAMES), 1..3);
    let minimum = prop::sample::select(vec![None, Some(Severity::INFO), Some(Severity::ERROR)]);
    proptest!(ProptestConfig::with_cases(96), |(rows in rows, filters in filters, minimum in minimum)| {
        let values: Vec<String> =
            rows.iter().enumerate().map(|(index, row)| format!("('{index}', {})", row.join(", "))).collect();
        let mut query = Query::all();
        query.severity_min = minimum;
        query.filters = filters;
        runtime.block_on(async {
            let columns = "id, text, padded, number, flag, ratio, json, level";
            database.run(&format!("truncate t; insert into t ({columns}) values {}", values.join(", "))).await;
            assert_pushed_down(&source, &query).await;
        });
    });
}
