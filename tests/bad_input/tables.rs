//! Bad rows of the three databases, and tables that are not as they should be.

use std::path::Path;
use std::sync::Arc;

use logship::exporters::console::{Console, ConsoleFormat};
use logship::sources::mysql::{MysqlConfig, MysqlSource};
use logship::sources::postgres::{PostgresConfig, PostgresSource};
use logship::sources::sqlite::{JsonColumn, SqliteConfig, SqliteSource, TableMapping};
use logship::state::memory::MemoryOffsets;
use logship::{BuildContext, ErrorKind, Lane, LogShipper, PageLimits, Query, Source, Start};
use sqlx::any::install_default_drivers;
use sqlx::{AnyPool, AssertSqlSafe, Executor};

use super::destinations::*;

const ALL: PageLimits = PageLimits { records_max: 1_000, bytes_max: usize::MAX, until: None };

/// The address of a real server, or `None` where there need not be one.
pub(crate) fn server(name: &str) -> Option<String> {
    let url = std::env::var(name).ok();
    assert!(url.is_some() || std::env::var("LOGSHIP_REQUIRE_SERVERS").is_err(), "{name} is not set");
    if url.is_none() {
        eprintln!("not run: {name} is not set; eval \"$(scripts/servers.sh start)\" starts what it needs");
    }
    url
}

/// A database of its own on a server.
pub(crate) async fn database(server: &str, name: &str) -> (String, AnyPool) {
    install_default_drivers();
    let name = format!("logship_bad_{name}");
    let url = format!("{}/{name}", server.rsplit_once('/').unwrap().0);
    let admin = AnyPool::connect(server).await.unwrap();
    let force = if server.starts_with("postgres") { " with (force)" } else { "" };
    for statement in [format!("drop database if exists {name}{force}"), format!("create database {name}")] {
        admin.execute(AssertSqlSafe(statement)).await.unwrap();
    }
    (url.clone(), AnyPool::connect(&url).await.unwrap())
}

/// A SQLite database of its own.
pub(crate) async fn sqlite_file(dir: &Path) -> (std::path::PathBuf, AnyPool) {
    install_default_drivers();
    let file = dir.join("logs.db");
    let url = format!("sqlite://{}?mode=rwc", file.display());
    (file, AnyPool::connect(&url).await.unwrap())
}

pub(crate) fn mapping() -> TableMapping {
    let mut mapping = TableMapping::new("t", "id", "at");
    mapping.body = Some("m".to_owned());
    mapping.severity = Some("level".to_owned());
    mapping.attributes = vec![("n".to_owned(), "n".to_owned())];
    mapping.json = Some(JsonColumn { column: "j".to_owned(), ..JsonColumn::default() });
    mapping
}

pub(crate) fn sqlite(path: &Path, mapping: TableMapping) -> SqliteSource {
    SqliteSource::open(SqliteConfig { path: path.into(), mapping }).unwrap()
}

pub(crate) fn postgres(url: &str, mapping: TableMapping) -> PostgresSource {
    let config = PostgresConfig { mapping, ..PostgresConfig::new(url) };
    PostgresSource::open(config, &BuildContext::default()).unwrap()
}

pub(crate) fn mysql(url: &str, mapping: TableMapping) -> MysqlSource {
    let config = MysqlConfig { mapping, ..MysqlConfig::new(url) };
    MysqlSource::open(config, &BuildContext::default()).unwrap()
}

fn json_of_many(attributes: usize) -> String {
    let members: Vec<String> = (0..attributes).map(|n| format!("\"field{n}\":{n}")).collect();
    format!("{{{}}}", members.join(","))
}

fn json_as_deep(depth: usize) -> String {
    format!("{{\"deep\":{}1{}}}", "[".repeat(depth), "]".repeat(depth))
}

/// One row as the values of `(at, m, level, n, j)` in SQL, of which each stands between two good ones.
type Row = [String; 5];

fn row(at: &str, m: &str, level: &str, n: &str, j: &str) -> Row {
    [at, m, level, n, j].map(str::to_owned)
}

const AT: &str = "'2026-11-20 08:30:00'";

async fn fill(pool: &AnyPool, rows: Vec<Row>) -> usize {
    let count = rows.len();
    for (index, bad) in rows.into_iter().enumerate() {
        let good = row(AT, &format!("'good {index}'"), "'INFO'", "1", "null");
        for (kind, row) in [("a", good), ("b", bad)] {
            let statement =
                format!("insert into t (id, at, m, level, n, j) values ('{index:03}{kind}', {})", row.join(", "));
            pool.execute(AssertSqlSafe(statement)).await.unwrap();
        }
    }
    pool.execute(AssertSqlSafe(format!("insert into t (id, at, m) values ('zz', {AT}, 'good at the end')")))
        .await
        .unwrap();
    2 * count + 1
}

/// The rows that every database takes. `five_megabytes` is how it says that.
fn rows(five_megabytes: &str, float: &str) -> Vec<Row> {
    vec![
        row(AT, five_megabytes, "'INFO'", "0", "null"),
        row("'0001-01-01 00:00:00'", "'old'", "'INFO'", "0", "null"),
        row("'9999-12-31 23:59:59'", "'new'", "'INFO'", "0", "null"),
        row(AT, "null", "null", "null", "null"),
        row(AT, "'\u{feff}\u{ffff}\u{2028}\u{202e}\u{10ffff}\u{1}\u{9b}'", "'\u{1b}[31m'", float, "null"),
        row(AT, "'many'", "''", "-0.0", &format!("'{}'", json_of_many(10_000))),
        row(AT, "'scalar'", "'x'", "0", "'7'"),
        row(AT, "'list'", "'x'", "0", "'[1,2]'"),
        row(AT, "'null'", "'x'", "0", "'null'"),
        row(AT, "'names'", "'x'", "0", r#"'{"":1,"a":1,"a.b":2,".":3}'"#),
        row(AT, "'numbers'", "'x'", "0", r#"'{"a":18446744073709551615,"b":1e300,"c":-0}'"#),
        row(AT, "'deep'", "'x'", "0", &format!("'{}'", json_as_deep(28))),
    ]
}

/// As many rows as there are arrive, or are in the dead letter: only Elasticsearch has no room for a row of ten
/// thousand attributes, or for names such as a single dot.
async fn ship(source: impl Source + 'static, dir: &Path, rows: usize) {
    let source: Arc<dyn Source> = Arc::new(source);
    for lane in ship_everywhere(source, dir).await {
        assert_eq!(lane.read, rows as u64);
        let expected = if lane.id == "es" { 0..=3 } else { 0..=0 };
        assert!(expected.contains(&lane.dead_lettered), "{}: {:?}", lane.id, lane.rejections);
    }
}

#[tokio::test]
async fn p1_p10_bad_rows_of_sqlite_arrive_or_are_in_the_dead_letter() {
    let dir = tempfile::tempdir().unwrap();
    let (path, pool) = sqlite_file(dir.path()).await;
    pool.execute("create table t (id text primary key, at text, m text, level text, n, j text)").await.unwrap();
    let mut all = rows(&format!("'{}'", "x".repeat(5_000_000)), "9e999");
    all.extend([
        row(AT, "'a' || char(0) || 'b'", "char(0)", "-9e999", "'{\"a\":' || char(0) || '}'"),
        row(AT, "cast(x'61ff62fec3' as text)", "cast(x'ff' as text)", "x'00ff'", "cast(x'7b22ff223a317d' as text)"),
        row(AT, "x'ff00'", "5", "'text'", "x'00'"),
        row("'soon'", "'a time that is none'", "'x'", "0", "null"),
        row("''", "'an empty time'", "'x'", "0", "null"),
        row(AT, "'too deep'", "'x'", "0", &format!("'{}'", json_as_deep(10_000))),
        row(AT, "'no JSON'", "'x'", "0", "'{\"a\":NaN}'"),
    ]);
    let count = fill(&pool, all).await;
    // What has no place among the others is not read, and no reason to stop.
    pool.execute("insert into t (id, at, m) values ('n1', null, 'x'), (null, '2026', 'x')").await.unwrap();
    let source = sqlite(&path, mapping());
    source.check().await.unwrap();
    // The row of the year 9999 waits until then, and so does the one whose time is a word behind today's.
    ship(source, dir.path(), count - 2).await;
}

#[tokio::test]
async fn p1_p10_bad_rows_of_postgresql_arrive_or_are_in_the_dead_letter() {
    let Some(server) = server("LOGSHIP_POSTGRES_URL") else { return };
    let (url, pool) = database(&server, "rows").await;
    pool.execute(
        "create table t (id text primary key, at timestamp, m text, level text, n float8, j json);
         create index on t (at, id collate \"C\")",
    )
    .await
    .unwrap();
    let mut all = rows("repeat('x', 5000000)", "'infinity'");
    all.extend([
        row("'-infinity'", "'before all'", "'x'", "'nan'", "null"),
        row("'infinity'", "'behind all'", "'x'", "'-infinity'", "null"),
        row("'4713-01-01 00:00:00 BC'", "'very old'", "'x'", "5e-324", r#"'{"a":"\u0000"}'"#),
        row(AT, "'no whole number'", "'x'", "0", r#"'{"a":1e999999}'"#),
        row(AT, "'too deep'", "'x'", "0", &format!("'{}'", json_as_deep(5_000))),
    ]);
    let count = fill(&pool, all).await;
    let source = postgres(&url, mapping());
    source.check().await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    // The rows of the year 9999 and of infinity wait.
    ship(source, dir.path(), count - 2).await;
}

#[tokio::test]
async fn p1_p10_bad_rows_of_mariadb_arrive_or_are_in_the_dead_letter() {
    let Some(server) = server("LOGSHIP_MYSQL_URL") else { return };
    let (url, pool) = database(&server, "rows").await;
    pool.execute(
        "create table t (id varchar(40) primary key, at datetime(6), m longtext character set utf8mb4, \
         level varchar(40) character set utf8mb4, n double, j longtext character set utf8mb4)",
    )
    .await
    .unwrap();
    pool.execute("create index t_at on t (at, id)").await.unwrap();
    let mut all = rows("repeat('x', 5000000)", "1.7976931348623157e308");
    all.extend([
        row(AT, "concat('a', char(0), 'b')", "char(0)", "5e-324", "concat('{\"a\":', char(0), '}')"),
        row(AT, "'too deep'", "'x'", "0", &format!("'{}'", json_as_deep(10_000))),
    ]);
    let count = fill(&pool, all).await;
    let source = mysql(&url, mapping());
    source.check().await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    ship(source, dir.path(), count - 1).await;
}

/// What a run says of a table that is not as the mapping has it; `None` if it is fine.
async fn said(source: impl Source + 'static) -> Option<logship::Error> {
    let lane = Lane::new("console", Console::over(std::io::empty(), ConsoleFormat::Json, false));
    let shipper = LogShipper::builder(source).offsets(MemoryOffsets::new()).lookback(None).lane(lane).build().unwrap();
    shipper.run_once().await.and_then(logship::RunReport::require_complete).err()
}

/// Goal: an empty table is complete, and a table or column that is not there is named with what to do about it.
async fn assert_missing_is_said<S: Source + 'static>(source: impl Fn(TableMapping) -> S) {
    assert!(said(source(mapping())).await.is_none(), "an empty table has nothing to ship");
    let missing = [
        (TableMapping { table: "nowhere".to_owned(), ..mapping() }, "no table `nowhere`"),
        (TableMapping { body: Some("text".to_owned()), ..mapping() }, "no column `text`; it has: id, at, m"),
        (TableMapping { timestamp: "a\"`'\0".to_owned(), ..mapping() }, "no column `a\"`'\0`"),
    ];
    for (mapping, words) in missing {
        let error = said(source(mapping)).await.unwrap();
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[tokio::test]
async fn an_empty_table_is_complete_and_what_is_missing_is_named_in_sqlite() {
    let dir = tempfile::tempdir().unwrap();
    let (path, pool) = sqlite_file(dir.path()).await;
    pool.execute("create table t (id text primary key, at text, m text, level text, n, j text)").await.unwrap();
    assert_missing_is_said(|mapping| sqlite(&path, mapping)).await;
    // A table that goes away, and a file that is no database.
    let source = sqlite(&path, mapping());
    source.check().await.unwrap();
    let partition = source.partitions().await.unwrap().remove(0);
    let read = async || source.read(&partition, &Start::Earliest, &Query::all(), ALL).await;
    read().await.unwrap();
    pool.execute("alter table t rename column m to msg").await.unwrap();
    let error = read().await.unwrap_err();
    assert!(error.kind() == ErrorKind::Config && error.to_string().contains("no such column"), "{error}");
    std::fs::write(dir.path().join("text.db"), "this is no database".repeat(1_000)).unwrap();
    let error = said(sqlite(&dir.path().join("text.db"), mapping())).await.unwrap();
    assert!(error.kind() == ErrorKind::State && error.to_string().contains("no SQLite database"), "{error}");
}

#[tokio::test]
async fn an_empty_table_is_complete_and_what_is_missing_is_named_in_postgresql() {
    let Some(server) = server("LOGSHIP_POSTGRES_URL") else { return };
    let (url, pool) = database(&server, "missing").await;
    pool.execute("create table t (id text primary key, at timestamp, m text, level text, n float8, j json)")
        .await
        .unwrap();
    assert_missing_is_said(|mapping| postgres(&url, mapping)).await;
    let source = postgres(&url, mapping());
    source.check().await.unwrap();
    let partition = source.partitions().await.unwrap().remove(0);
    let read = async || source.read(&partition, &Start::Earliest, &Query::all(), ALL).await;
    read().await.unwrap();
    pool.execute("drop table t").await.unwrap();
    let error = read().await.unwrap_err();
    assert!(error.kind() == ErrorKind::Config && error.to_string().contains("has it changed"), "{error}");
}

#[tokio::test]
async fn an_empty_table_is_complete_and_what_is_missing_is_named_in_mariadb() {
    let Some(server) = server("LOGSHIP_MYSQL_URL") else { return };
    let (url, pool) = database(&server, "missing").await;
    pool.execute(
        "create table t (id varchar(40) primary key, at datetime(6), m text, level text, n double, j longtext)",
    )
    .await
    .unwrap();
    assert_missing_is_said(|mapping| mysql(&url, mapping)).await;
    let source = mysql(&url, mapping());
    source.check().await.unwrap();
    let partition = source.partitions().await.unwrap().remove(0);
    let read = async || source.read(&partition, &Start::Earliest, &Query::all(), ALL).await;
    read().await.unwrap();
    pool.execute("drop table t").await.unwrap();
    let error = read().await.unwrap_err();
    assert!(error.kind() == ErrorKind::Config && error.to_string().contains("has it changed"), "{error}");
}
