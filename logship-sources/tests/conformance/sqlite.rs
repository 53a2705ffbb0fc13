use logship_core::{Source, async_trait};
use logship_sources::sqlite::{SqliteConfig, SqliteSource};
use logship_testkit::conformance::source::{Row, SourceFixture};
use logship_testkit::source_conformance;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Executor, SqlitePool};
use tempfile::TempDir;

use super::{level, mapping};

struct Fixture {
    dir: TempDir,
    pool: SqlitePool,
}

impl Fixture {
    async fn new(_: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let options = SqliteConnectOptions::new().filename(dir.path().join("logs.db")).create_if_missing(true);
        let pool = SqlitePool::connect_with(options).await.unwrap();
        pool.execute("create table t (id text primary key, at text, level text, namespace text, m text)")
            .await
            .unwrap();
        Some(Fixture { dir, pool })
    }
}

#[async_trait]
impl SourceFixture for Fixture {
    async fn fill(&self, rows: &[Row]) {
        let mut transaction = self.pool.begin().await.unwrap();
        for row in rows {
            let insert = sqlx::query("insert into t values (?, ?, ?, ?, ?)").bind(&row.key);
            let insert = insert.bind(row.timestamp.to_string()).bind(level(row.severity)).bind(&row.namespace);
            insert.bind(&row.body).execute(&mut *transaction).await.unwrap();
        }
        transaction.commit().await.unwrap();
    }

    async fn open(&self) -> Box<dyn Source> {
        let config = SqliteConfig { path: self.dir.path().join("logs.db"), mapping: mapping() };
        Box::new(SqliteSource::open(config).unwrap())
    }

    fn can_delete(&self) -> bool {
        true
    }

    async fn take_away(&self) -> bool {
        self.pool.execute("drop table t").await.unwrap();
        true
    }
}

source_conformance!(Fixture::new);
