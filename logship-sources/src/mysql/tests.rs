//! Against a real server; see [`server`].

use std::sync::Arc;

use logship_core::{BuildContext, Cursor, Filter, LogRecord, Severity, Timestamp};
use logship_testkit::conformance::server;
use proptest::prelude::*;

use super::*;
use crate::sql::testing::{ALL, any_filter, assert_pushed_down, bodies, read_all};

/// A database of a test's own.
struct Database {
    url: String,
    pool: MySqlPool,
}

impl Database {
    /// An empty database of this name, or `None` if there is no server. As a server's own defaults are of the last
    /// century, with the collation that Kestra's tables have.
    async fn new(name: &str) -> Option<Self> {
        let url = server("LOGSHIP_MYSQL_URL")?;
        let name = format!("logship_source_{name}");
        let admin = MySqlPool::connect(&url).await.unwrap();
        admin.execute(AssertSqlSafe(format!("drop database if exists {name}"))).await.unwrap();
        let create = format!("create database {name} character set utf8mb4 collate utf8mb4_unicode_ci");
        admin.execute(AssertSqlSafe(create)).await.unwrap();
        admin.close().await;
        let (server, _) = url.rsplit_once('/').unwrap();
        let url = format!("{server}/{name}");
        let pool = MySqlPoolOptions::new().max_connections(3).connect(&url).await.unwrap();
        Some(Database { url, pool })
    }

    async fn run(&self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&self.pool).await.unwrap();
    }

    fn source(&self, mapping: TableMapping) -> MysqlSource {
        let config = MysqlConfig { mapping, ..MysqlConfig::new(self.url.as_str()) };
        MysqlSource::open(config, &BuildContext::default()).unwrap()
    }

    /// Waits at the server until a statement with this text runs in this database, and gives the number of its
    /// connection; or, without `there`, until there is none.
    async fn wait_for_statement(&self, text: &str, there: bool) -> Option<u64> {
        for _ in 0..400 {
            let id: Option<u64> = sqlx::query_scalar(
                "select cast(id as unsigned) from information_schema.processlist
                 where db = database() and command <> 'Sleep' and info like ? and id <> connection_id()",
            )
            .bind(format!("%{text}%"))
            .fetch_optional(&self.pool)
            .await
            .unwrap();
            if id.is_some() == there {
                return id;
            }
            self.run("select sleep(0.025)").await;
        }
        panic!("waited in vain");
    }
}

/// A table of id, time and message.
fn plain() -> TableMapping {
    TableMapping { body: Some("m".to_owned()), ..TableMapping::new("t", "id", "at") }
}

/// Goal: rows of one timestamp are read once each, though the collation takes some ids for equal.
#[tokio::test]
async fn p4_ties_across_a_page_cut_are_neither_lost_nor_doubled() {
    let Some(database) = Database::new("ties").await else { return };
    database
        .run(
            "create table t (id varchar(30), at datetime(6), m text, key (at));
             insert into t select k, '2026-11-20 08:30:00.123456', k from (select 'a' k union all select 'B' union all
               select 'b' union all select 'A' union all select '_' union all select 'ä' union all select 'a ' union all
               select '') ks;
             insert into t values ('first', '2026-11-20 08:30:00.123455', 'first'), ('x', null, 'x'), (null, now(), 'y')",
        )
        .await;
    let source = database.source(plain());
    source.check().await.unwrap();
    for records_max in 1..=10 {
        let limits = PageLimits { records_max, ..ALL };
        let records = read_all(&source, Start::Earliest, &Query::all(), limits).await;
        assert_eq!(bodies(&records), ["first", "", "A", "B", "_", "a", "a ", "b", "ä"], "pages of {records_max}");
    }
    let tiny = PageLimits { records_max: 10, bytes_max: 1, until: None };
    assert_eq!(read_all(&source, Start::Earliest, &Query::all(), tiny).await.len(), 9);
    let since = Start::At(Timestamp::from_nanos(1_795_163_400_123_455_001));
    assert_eq!(read_all(&source, since, &Query::all(), ALL).await.len(), 8);
}

/// What Kestra's migrations make, in the form of its first versions and of the newest.
fn kestra_table(new: bool) -> String {
    let text = |column: &str, key: &str, rest: &str| {
        format!("{column} varchar(150) generated always as (json_value(value, '$.{key}')) stored {rest}")
    };
    let mut columns = vec![
        "`key` varchar(30) not null primary key".to_owned(),
        "value json not null".to_owned(),
        text("namespace", "namespace", "not null"),
        text("flow_id", "flowId", "not null"),
        text("task_id", "taskId", ""),
        text("execution_id", "executionId", ""),
        text("taskrun_id", "taskRunId", ""),
        text("trigger_id", "triggerId", ""),
        text("thread", "thread", ""),
        "message text generated always as (json_value(value, '$.message')) stored".to_owned(),
        "attempt_number int generated always as (json_value(value, '$.attemptNumber')) stored".to_owned(),
        "level enum('ERROR', 'WARN', 'INFO', 'DEBUG', 'TRACE') generated always as (json_value(value, '$.level')) stored not null"
            .to_owned(),
        "timestamp datetime(6) generated always as
           (str_to_date(json_value(value, '$.timestamp'), '%Y-%m-%dT%H:%i:%s.%fZ')) stored not null"
            .to_owned(),
        "index ix_logs_timestamp (timestamp)".to_owned(),
    ];
    if new {
        columns.push(text("tenant_id", "tenantId", ""));
        columns.push(text("execution_kind", "executionKind", ""));
    } else {
        columns.push("deleted bool generated always as (json_value(value, '$.deleted') = 'true') stored".to_owned());
    }
    format!("create table logs ({}) engine innodb", columns.join(", ").replace("stored not null", "stored"))
}

#[tokio::test]
async fn the_kestra_table_is_read_in_its_old_and_its_new_form() {
    for new in [false, true] {
        let Some(database) = Database::new(if new { "kestra_new" } else { "kestra_old" }).await else { return };
        database.run(&kestra_table(new)).await;
        let row = |key: &str, timestamp: &str, level: &str, rest: &str| {
            format!(
                r#"('{key}', '{{"timestamp": "{timestamp}", "level": "{level}", "namespace": "company.team",
                "flowId": "pay", "message": "m-{key}", "thread": "main", "deleted": false {rest}}}')"#
            )
        };
        let rows = [
            row("k2", "2026-11-20T08:30:00.123Z", "INFO", r#", "attemptNumber": 2, "tenantId": "main""#),
            row("k1", "2026-11-20T08:30:00.123456Z", "WARN", r#", "executionKind": "NORMAL", "triggerId": "t""#),
            row("k3", "2026-11-20T08:30:01.000000Z", "INFO", r#", "executionKind": "TEST""#),
            row("k4", "2026-11-20T08:30:02.000000Z", "DEBUG", ""),
        ];
        database.run(&format!("insert into logs (`key`, value) values {}", rows.join(", "))).await;
        let source = database.source(TableMapping::kestra());
        source.check().await.unwrap();
        assert!(source.has_index(source.layout().await.unwrap()).await.unwrap());
        let query = Query::all().severity_min(Severity::INFO).namespace("company");
        let records = read_all(&source, Start::Earliest, &query, ALL).await;
        // An old table knows no kinds of executions.
        assert_eq!(bodies(&records), if new { vec!["m-k2", "m-k1"] } else { vec!["m-k2", "m-k1", "m-k3"] });
        let first = &records[0];
        assert_eq!(first.timestamp, Timestamp::from_millis(1_795_163_400_123));
        assert_eq!(records[1].timestamp, Timestamp::from_micros(1_795_163_400_123_456));
        assert_eq!((first.severity, first.severity_name()), (Severity::INFO, "INFO"));
        assert_eq!(first.attribute("attemptNumber"), Some(&2.into()));
        assert_eq!(first.attribute("thread"), Some(&"main".into()));
        assert_eq!(first.attribute("tenantId").is_some(), new);
        // The collation takes these for equal, and a query does not.
        assert!(read_all(&source, Start::Earliest, &Query::all().namespace("Company"), ALL).await.is_empty());
    }
}

#[tokio::test]
async fn a_table_without_an_index_is_found_out() {
    let Some(database) = Database::new("no_index").await else { return };
    database.run("create table t (id varchar(30) primary key, at datetime(6), m text, key (m(10), at))").await;
    let source = database.source(plain());
    assert!(!source.has_index(&source.look().await.unwrap()).await.unwrap());
}

#[tokio::test]
async fn what_is_not_as_mapped_is_named_before_anything_is_read() {
    let Some(database) = Database::new("mapping").await else { return };
    database.run("create table t (id bigint primary key, at datetime(6), m text)").await;
    let integers = TableMapping { id_format: IdFormat::Integer, ..plain() };
    database.source(integers.clone()).check().await.unwrap();
    for (mapping, words) in [
        (TableMapping { table: "gone".to_owned(), ..integers.clone() }, ["mapping.table", "no table `gone`"]),
        (TableMapping { schema: Some("s".to_owned()), ..integers.clone() }, ["mapping.table", "no table `t`"]),
        (TableMapping { body: Some("text".to_owned()), ..integers.clone() }, ["mapping.body", "it has: id, at, m"]),
        (plain(), ["mapping.id_format", "bigint"]),
        (
            TableMapping { timestamp_format: TimestampFormat::UnixMs, ..integers.clone() },
            ["mapping.timestamp_format", "datetime(6)"],
        ),
    ] {
        let text = database.source(mapping).check().await.unwrap_err().to_string();
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    }
}

/// Goal: microseconds, the ends of time and strange texts come through, and keep their order in positions.
#[tokio::test]
async fn odd_times_and_texts_keep_their_place() {
    let Some(database) = Database::new("odd").await else { return };
    let times = [
        "0000-00-00 00:00:00",
        "0001-01-01 00:00:00.000001",
        "1969-12-31 23:59:59.999999",
        "2026-11-20 08:30:00.123456",
        "2026-11-20 08:30:00.123457",
        "9999-12-31 23:59:59.999999",
    ];
    database.run("create table t (id varchar(99) primary key, at datetime(6), m text, key (at))").await;
    // Ids in the opposite order, so that the times alone order the rows.
    for (index, time) in times.iter().enumerate() {
        let insert = format!("insert into t values ('{}\\t''\"\\0é🦀', '{time}', 'm{index}')", 9 - index);
        database.run(&format!("set statement sql_mode = '' for {insert}")).await;
    }
    let source = database.source(plain());
    for records_max in [1, 3, 100] {
        let limits = PageLimits { records_max, ..ALL };
        let records = read_all(&source, Start::Earliest, &Query::all(), limits).await;
        assert_eq!(bodies(&records), ["m0", "m1", "m2", "m3", "m4", "m5"]);
        let raw = "0000-00-00 00:00:00.000000";
        assert_eq!(records[0].attribute("logship.timestamp_raw"), Some(&raw.into()));
        assert_eq!(records[1].timestamp, Timestamp::from_nanos(i64::MIN));
        assert_eq!(records[2].timestamp, Timestamp::from_micros(-1));
        assert_eq!(records[3].timestamp, Timestamp::from_micros(1_795_163_400_123_456));
        assert_eq!(records[3].id.position().as_text(), "2026-11-20 08:30:00.123456\t6\t'\"\0é🦀");
        assert_eq!(records[5].timestamp, Timestamp::from_nanos(i64::MAX));
    }
    let ids: Vec<RecordId> =
        read_all(&source, Start::Earliest, &Query::all(), ALL).await.into_iter().map(|record| record.id).collect();
    assert_eq!(source.delete(&ids).await.unwrap(), 6);
}

#[tokio::test]
async fn the_formats_of_ids_and_times_are_read_in_the_databases_order() {
    let Some(database) = Database::new("formats").await else { return };
    let millis = "1795163400123";
    for (id, at, format, time) in [
        ("bigint unsigned", "timestamp(3) default 0", TimestampFormat::Native, "'2026-11-20 08:30:00.123'"),
        ("bigint unsigned", "bigint", TimestampFormat::UnixMs, millis),
        ("int unsigned", "varchar(40)", TimestampFormat::Text, "'2026-11-20T08:30:00.123Z'"),
        ("bigint", "bigint unsigned", TimestampFormat::UnixMs, millis),
    ] {
        let ids = match id {
            "bigint" => vec!["-9223372036854775808", "-2", "-1", "0", "9", "10", "9223372036854775807"],
            "int unsigned" => vec!["0", "9", "10", "4294967295"],
            _ => vec!["0", "9", "10", "9223372036854775807", "9223372036854775808", "18446744073709551615"],
        };
        let rows: Vec<String> = ids.iter().rev().map(|id| format!("({id}, {time}, '{id}')")).collect();
        database.run(&format!("drop table if exists t; create table t (id {id} primary key, at {at}, m text)")).await;
        database.run(&format!("insert into t values {}", rows.join(", "))).await;
        let source =
            database.source(TableMapping { id_format: IdFormat::Integer, timestamp_format: format, ..plain() });
        for records_max in [1, 2, 10] {
            let limits = PageLimits { records_max, ..ALL };
            let records = read_all(&source, Start::Earliest, &Query::all(), limits).await;
            assert_eq!(bodies(&records), ids, "{id}, {at}");
            assert_eq!(records[0].timestamp, Timestamp::from_millis(1_795_163_400_123), "{id}, {at}");
        }
        let since = |text: &str| Start::At(text.parse().unwrap());
        let all = read_all(&source, since("2026-11-20T08:30:00.123Z"), &Query::all(), ALL).await;
        assert_eq!(all.len(), ids.len(), "{id}, {at}");
        assert!(read_all(&source, since("2026-11-20T08:30:00.124Z"), &Query::all(), ALL).await.is_empty());
        let records: Vec<RecordId> = all.into_iter().map(|record| record.id).collect();
        assert_eq!(source.delete(&records).await.unwrap(), ids.len() as u64, "{id}, {at}");
    }
}

#[tokio::test]
async fn p7_delete_takes_the_rows_named_and_no_other() {
    let Some(database) = Database::new("delete").await else { return };
    database
        .run(
            "create table t (id varchar(30), at datetime(6), m text, key (id));
             insert into t select seq, '2026-11-20', seq from seq_1_to_503;
             insert into t values ('A', '2026-11-20', 'A'), ('a', '2026-11-20', 'a'), ('a ', '2026-11-20', 'a ')",
        )
        .await;
    let source = database.source(plain());
    let records = read_all(&source, Start::Earliest, &Query::all(), ALL).await;
    assert_eq!(records.len(), 506);
    let kept = |record: &&LogRecord| !matches!(record.body.as_str(), Some("7" | "8" | "A" | "a "));
    let ids: Vec<RecordId> = records.iter().filter(kept).map(|record| record.id.clone()).collect();
    // The row of message 9 is another one by now, and that of 10 is gone.
    database.run("update t set at = now() where m = '9'; delete from t where m = '10'").await;
    assert_eq!(source.delete(&ids).await.unwrap(), 500);
    assert_eq!(source.delete(&ids).await.unwrap(), 0);
    let left = read_all(&source, Start::Earliest, &Query::all(), ALL).await;
    let mut left = bodies(&left);
    left.sort_unstable();
    assert_eq!(left, ["7", "8", "9", "A", "a "]);
}

/// A table of which every row takes a minute, and a read of it that the server is busy with.
async fn slow_read(database: &Database) -> (Arc<MysqlSource>, tokio::task::JoinHandle<Result<Page, Error>>) {
    database
        .run(
            "create table raw (id varchar(9) primary key, at datetime(6) not null); insert into raw values ('a', now());
             create view t as select id, at, concat('m', sleep(60)) as m from raw",
        )
        .await;
    let source = Arc::new(database.source(plain()));
    source.layout().await.unwrap();
    let reader = Arc::clone(&source);
    let task =
        tokio::spawn(async move { reader.read(&Partition::new("t"), &Start::Earliest, &Query::all(), ALL).await });
    (source, task)
}

#[tokio::test]
async fn a_read_that_is_dropped_ends_at_the_server() {
    let Some(database) = Database::new("dropped").await else { return };
    let (source, task) = slow_read(&database).await;
    database.wait_for_statement("limit 1000", true).await;
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    database.wait_for_statement("limit 1000", false).await;
    database.run("create or replace view t as select id, at, 'quick' as m from raw").await;
    assert_eq!(bodies(&read_all(&*source, Start::Earliest, &Query::all(), ALL).await), ["quick"]);
}

#[tokio::test]
async fn a_server_that_goes_away_in_the_middle_is_an_error_that_passes() {
    let Some(database) = Database::new("away").await else { return };
    let (source, task) = slow_read(&database).await;
    let id = database.wait_for_statement("limit 1000", true).await.unwrap();
    database.run(&format!("kill {id}")).await;
    let error = task.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.is_retryable());
    database.run("create or replace view t as select id, at, 'quick' as m from raw").await;
    assert_eq!(bodies(&read_all(&*source, Start::Earliest, &Query::all(), ALL).await), ["quick"]);
}

#[tokio::test]
async fn a_statement_that_takes_too_long_is_given_up() {
    let Some(database) = Database::new("timeout").await else { return };
    database.run("create view t as select 'a' as id, now() as at, concat('m', sleep(60)) as m").await;
    let config = MysqlConfig { mapping: plain(), statement_timeout_secs: 1, ..MysqlConfig::new(database.url.as_str()) };
    let source = MysqlSource::open(config, &BuildContext::default()).unwrap();
    let error = source.read(&Partition::new("t"), &Start::Earliest, &Query::all(), ALL).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
}

#[test]
fn p12_the_password_does_not_show() {
    let config = MysqlConfig::new("mysql://user:hunter2@127.0.0.1:1/database");
    let source = MysqlSource::open(config.clone(), &BuildContext::default()).unwrap();
    let wrong = MysqlConfig::new("mysql://user:hunter2@host:port/database");
    let error = MysqlSource::open(wrong, &BuildContext::default()).unwrap_err();
    for shown in [format!("{source:?}"), format!("{config:?}"), format!("{error:?}")] {
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}

#[tokio::test]
async fn positions_of_another_mapping_are_refused() {
    let Some(database) = Database::new("positions").await else { return };
    database.run("create table t (id varchar(9) primary key, at datetime(6), m text)").await;
    let start = Start::After(Cursor::new(1, "abc".into()));
    let read = database.source(plain()).read(&Partition::new("t"), &start, &Query::all(), ALL).await;
    assert_eq!(read.unwrap_err().kind(), ErrorKind::State);
}

fn any_row() -> impl Strategy<Value = [String; 9]> {
    let null_or = |values: &'static [&'static str]| prop::sample::select(values).prop_map(str::to_owned);
    let text = || null_or(&["null", "'a'", "'A'", "'a.b'", "'a/b'", "'a.'", "'5'", "''", "'ä'", "'a '", "'true'"]);
    (
        text(),
        text(),
        text(),
        null_or(&["null", "5", "-5", "0"]),
        null_or(&["null", "5", "0", "18446744073709551615"]),
        null_or(&["null", "1", "0"]),
        null_or(&["null", "5", "5.5"]),
        null_or(&["null", "'a'", "'5'"]),
        null_or(&["'INFO'", "'info'", "'Warn'", "'odd'", "null", "'iNFO'", "'ınfo'"]),
    )
        .prop_map(|(a, b, c, d, e, f, g, h, i)| [a, b, c, d, e, f, g, h, i])
}

/// What the database decides is what the query says of each record, for every type of column.
#[test]
fn k2_push_down_agrees_with_the_query() {
    const NAMES: &[&str] = &["free", "padded", "latin", "number", "large", "flag", "ratio", "bytes", "unmapped"];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let Some(database) = runtime.block_on(Database::new("push_down")) else { return };
    runtime.block_on(database.run(
        "create table t (id int primary key, at datetime(6) default '2026-11-20', m text default 'm', free text,
           padded char(5), latin varchar(9) character set latin1, number int, large bigint unsigned, flag bool,
           ratio float, bytes varbinary(9), level varchar(9))",
    ));
    let mut mapping = TableMapping { id_format: IdFormat::Integer, ..plain() };
    mapping.severity = Some("level".to_owned());
    mapping.attributes = NAMES[..8].iter().map(|name| ((*name).to_owned(), (*name).to_owned())).collect();
    let source = database.source(mapping);
    let rows = prop::collection::vec(any_row(), 1..8);
    let filters = prop::collection::vec(any_filter(NAMES), 1..3);
    let minimum = prop::sample::select(vec![None, Some(Severity::INFO), Some(Severity::ERROR)]);
    proptest!(ProptestConfig::with_cases(96), |(rows in rows, filters in filters, minimum in minimum)| {
        let values: Vec<String> =
            rows.iter().enumerate().map(|(index, row)| format!("({index}, {})", row.join(", "))).collect();
        let mut query = Query::all();
        query.severity_min = minimum;
        query.filters = filters;
        runtime.block_on(async {
            let columns = "id, free, padded, latin, number, large, flag, ratio, bytes, level";
            database.run(&format!("delete from t; insert into t ({columns}) values {}", values.join(", "))).await;
            assert_pushed_down(&source, &query).await;
        });
    });
    let query = Query::all().filter(Filter::equals("large", "18446744073709551615"));
    runtime.block_on(async {
        database.run("delete from t; insert into t (id, large) values (1, 18446744073709551615)").await;
        assert_eq!(read_all(&source, Start::Earliest, &query, ALL).await.len(), 1);
    });
}
