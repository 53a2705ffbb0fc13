use logship_core::{BuildContext, Source, Timestamp, async_trait};
use logship_sources::postgres::{PostgresConfig, PostgresSource};
use logship_testkit::conformance::server;
use logship_testkit::conformance::source::{Row, SourceFixture};
use logship_testkit::source_conformance;
use sqlx::{AssertSqlSafe, Executor, PgPool, Postgres, Transaction};
use tokio::sync::Mutex;

use super::{level, mapping};

/// A database of a test's own, with a table whose collation orders ids otherwise than their bytes.
struct Fixture {
    url: String,
    pool: PgPool,
    open: Mutex<Option<Transaction<'static, Postgres>>>,
}

impl Fixture {
    async fn new(name: &str) -> Option<Self> {
        let url = server("LOGSHIP_POSTGRES_URL")?;
        let name = format!("logship_kit_{}", &name[..name.len().min(45)]);
        let admin = PgPool::connect(&url).await.unwrap();
        admin.execute(AssertSqlSafe(format!("drop database if exists {name} with (force)"))).await.unwrap();
        admin.execute(AssertSqlSafe(format!("create database {name}"))).await.unwrap();
        admin.close().await;
        let url = format!("{}/{name}", url.rsplit_once('/').unwrap().0);
        let pool = PgPool::connect(&url).await.unwrap();
        let table = "create table t (id text collate \"en-x-icu\" primary key, at timestamptz, level text,
                     namespace text, m text)";
        pool.execute(table).await.unwrap();
        Some(Fixture { url, pool, open: Mutex::default() })
    }
}

#[async_trait]
impl SourceFixture for Fixture {
    async fn fill(&self, rows: &[Row]) {
        let mut transaction = self.pool.begin().await.unwrap();
        for row in rows {
            let insert = sqlx::query("insert into t values ($1, $2::text::timestamptz, $3, $4, $5)").bind(&row.key);
            let insert = insert.bind(row.timestamp.to_string()).bind(level(row.severity)).bind(&row.namespace);
            insert.bind(&row.body).execute(&mut *transaction).await.unwrap();
        }
        transaction.commit().await.unwrap();
    }

    async fn open(&self) -> Box<dyn Source> {
        let config = PostgresConfig { mapping: mapping(), ..PostgresConfig::new(self.url.as_str()) };
        Box::new(PostgresSource::open(config, &BuildContext::default()).unwrap())
    }

    fn can_delete(&self) -> bool {
        true
    }

    async fn take_away(&self) -> bool {
        self.pool.execute("drop table t").await.unwrap();
        true
    }

    async fn begin_write(&self, row: Row) -> Option<Timestamp> {
        let mut transaction = self.pool.begin().await.unwrap();
        let insert = "insert into t (id, at, m) values ($1, now(), $2)
                      returning (extract(epoch from at) * 1000000)::bigint";
        let insert = sqlx::query_scalar(insert).bind(&row.key).bind(&row.body);
        let micros: i64 = insert.fetch_one(&mut *transaction).await.unwrap();
        *self.open.lock().await = Some(transaction);
        Some(Timestamp::from_micros(micros))
    }

    async fn end_write(&self) {
        self.open.lock().await.take().unwrap().commit().await.unwrap();
    }
}

source_conformance!(Fixture::new);
