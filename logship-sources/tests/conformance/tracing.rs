use logship_core::{Source, async_trait};
use logship_sources::tracing::{Spool, SpoolConfig, SpoolSource, SpoolSourceConfig};
use logship_testkit::conformance::source::{Row, SourceFixture};
use logship_testkit::source_conformance;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Executor, SqlitePool};
use tempfile::TempDir;

use super::level;

struct Fixture {
    dir: TempDir,
    pool: SqlitePool,
}

impl Fixture {
    async fn new(_: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("spool.db");
        Spool::open(SpoolConfig::new(&path)).await.unwrap();
        let pool = SqlitePool::connect_with(SqliteConnectOptions::new().filename(path)).await.unwrap();
        Some(Fixture { dir, pool })
    }
}

#[async_trait]
impl SourceFixture for Fixture {
    /// As the writer does, with the rows' own times.
    async fn fill(&self, rows: &[Row]) {
        let mut transaction = self.pool.begin().await.unwrap();
        for row in rows {
            let sql = "insert into logship_spool (at, level, target, body, attributes) values (?, ?, 'app', ?, ?)";
            let attributes =
                row.namespace.as_ref().map_or(serde_json::json!({}), |name| serde_json::json!({"namespace": name}));
            let insert = sqlx::query(sql).bind(row.timestamp.as_nanos()).bind(level(row.severity).unwrap_or_default());
            insert.bind(&row.body).bind(attributes.to_string()).execute(&mut *transaction).await.unwrap();
        }
        transaction.commit().await.unwrap();
    }

    async fn open(&self) -> Box<dyn Source> {
        Box::new(SpoolSource::open(SpoolSourceConfig { path: self.dir.path().join("spool.db") }).unwrap())
    }

    fn can_delete(&self) -> bool {
        true
    }

    async fn take_away(&self) -> bool {
        self.pool.execute("drop table logship_spool").await.unwrap();
        true
    }
}

source_conformance!(Fixture::new);
