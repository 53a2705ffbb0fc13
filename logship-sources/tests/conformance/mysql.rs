use logship_core::{BuildContext, Source, async_trait};
use logship_sources::mysql::{MysqlConfig, MysqlSource};
use logship_testkit::conformance::server;
use logship_testkit::conformance::source::{Row, SourceFixture};
use logship_testkit::source_conformance;
use sqlx::{AssertSqlSafe, Executor, MySqlPool};

use super::{level, mapping};

/// A database of a test's own, with a table whose collation takes some ids for equal.
struct Fixture {
    url: String,
    pool: MySqlPool,
}

impl Fixture {
    async fn new(name: &str) -> Option<Self> {
        let url = server("LOGSHIP_MYSQL_URL")?;
        let name = format!("logship_kit_{}", &name[..name.len().min(45)]);
        let admin = MySqlPool::connect(&url).await.unwrap();
        admin.execute(AssertSqlSafe(format!("drop database if exists {name}"))).await.unwrap();
        let create = format!("create database {name} character set utf8mb4 collate utf8mb4_unicode_ci");
        admin.execute(AssertSqlSafe(create)).await.unwrap();
        admin.close().await;
        let url = format!("{}/{name}", url.rsplit_once('/').unwrap().0);
        let pool = MySqlPool::connect(&url).await.unwrap();
        let table = "create table t (id varchar(30), at datetime(6), level varchar(10), namespace varchar(30),
                     m mediumtext, key (at))";
        pool.execute(table).await.unwrap();
        Some(Fixture { url, pool })
    }
}

#[async_trait]
impl SourceFixture for Fixture {
    async fn fill(&self, rows: &[Row]) {
        let mut transaction = self.pool.begin().await.unwrap();
        for row in rows {
            let at = row.timestamp.to_string()[..26].replace('T', " ");
            let insert = sqlx::query("insert into t values (?, ?, ?, ?, ?)").bind(&row.key).bind(at);
            let insert = insert.bind(level(row.severity)).bind(&row.namespace).bind(&row.body);
            insert.execute(&mut *transaction).await.unwrap();
        }
        transaction.commit().await.unwrap();
    }

    async fn open(&self) -> Box<dyn Source> {
        let config = MysqlConfig { mapping: mapping(), ..MysqlConfig::new(self.url.as_str()) };
        Box::new(MysqlSource::open(config, &BuildContext::default()).unwrap())
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
