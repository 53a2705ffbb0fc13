//! X7: an exporter, a source and an offset store of one's own keep the contracts, are configured like ours, and fit on a
//! page each. They are the examples `custom_exporter`, `custom_source` and `custom_offset_store`.

#![allow(clippy::unwrap_used, reason = "a test says why it fails by its panic")]

#[path = "../examples/custom_exporter.rs"]
#[allow(dead_code, unreachable_pub, missing_docs)]
mod custom_exporter;
#[path = "../examples/custom_offset_store.rs"]
#[allow(dead_code, unreachable_pub, missing_docs)]
mod custom_offset_store;
#[path = "../examples/custom_source.rs"]
#[allow(dead_code, unreachable_pub, missing_docs)]
mod custom_source;

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use logship::{
    BuildContext, Error, Exporter, Fields, OffsetKey, OffsetStore, Registry, Severity, Source, Timestamp, async_trait,
};
use logship_testkit::conformance::exporter::{ExporterFixture, World};
use logship_testkit::conformance::offset_store::OffsetStoreFixture;
use logship_testkit::conformance::source::{Row, SourceFixture};
use logship_testkit::{exporter_conformance, offset_store_conformance, source_conformance};
use redb::{ReadableDatabase, ReadableTable};
use serde_json::{Value, json};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};
use tempfile::TempDir;

fn fields(value: Value) -> Fields {
    serde_json::from_value(value).unwrap()
}

struct Table(TempDir, SqlitePool);

const TABLE: &str = "create table if not exists records (id text primary key, at text, record text)";

impl Table {
    async fn new(_: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let options = SqliteConnectOptions::new().filename(dir.path().join("records.db")).create_if_missing(true);
        let pool = SqlitePool::connect_with(options).await.unwrap();
        sqlx::query(TABLE).execute(&pool).await.unwrap();
        Some(Table(dir, pool))
    }

    fn exporter(&self, file: &str) -> Arc<dyn Exporter> {
        let mut registry = Registry::new();
        custom_exporter::register(&mut registry);
        let fields = fields(json!({"path": self.0.path().join(file)}));
        registry.exporter("table", fields, &BuildContext::default()).unwrap()
    }
}

#[async_trait]
impl ExporterFixture for Table {
    async fn open(&self) -> Arc<dyn Exporter> {
        self.exporter("records.db")
    }

    async fn held(&self) -> Vec<String> {
        sqlx::query_scalar("select record from records").fetch_all(&self.1).await.unwrap_or_default()
    }

    /// There is no such table.
    async fn play(&self, world: World, _: usize) -> bool {
        let is_played = world == World::Refused && self.held().await.is_empty();
        if is_played {
            sqlx::query("drop table if exists records").execute(&self.1).await.unwrap();
        }
        is_played
    }

    async fn unreachable(&self) -> Option<Arc<dyn Exporter>> {
        Some(self.exporter("nowhere/records.db"))
    }
}

exporter_conformance!(exporter, Table::new);

struct Jobs(TempDir);

#[async_trait]
impl SourceFixture for Jobs {
    async fn fill(&self, rows: &[Row]) {
        for row in rows {
            let path = self.0.path().join(format!("{}.log", row.partition));
            let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
            let level = if row.severity == Severity::UNSPECIFIED { "-" } else { row.severity.name() };
            let namespace = row.namespace.as_deref().unwrap_or("-");
            writeln!(file, "{} {level} {namespace} {}", row.timestamp, row.body).unwrap();
        }
    }

    async fn open(&self) -> Box<dyn Source> {
        Box::new(custom_source::JobLogs { dir: self.0.path().to_owned() })
    }

    fn partitions(&self) -> usize {
        2
    }

    async fn take_away(&self) -> bool {
        fs::remove_file(self.0.path().join("0.log")).unwrap();
        true
    }
}

source_conformance!(source, async |_| Some(Jobs(tempfile::tempdir().unwrap())));

struct Redb {
    _dir: TempDir,
    store: custom_offset_store::RedbOffsets,
}

impl Redb {
    async fn new(_: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let store = custom_offset_store::RedbOffsets::open(&dir.path().join("offsets.redb")).unwrap();
        Some(Redb { _dir: dir, store })
    }

    /// Everything that is stored, changed.
    async fn change(&self, change: impl Fn(&str, String) -> String) {
        let database = self.store.0.lock().await;
        let transaction = database.begin_write().unwrap();
        {
            let mut table = transaction.open_table(custom_offset_store::KEYS).unwrap();
            let rows: Vec<(String, String)> = table
                .iter()
                .unwrap()
                .map(|row| row.unwrap())
                .map(|(key, text)| (key.value().into(), text.value()))
                .collect();
            for (key, text) in rows {
                let text = change(&key, text);
                table.insert(key.as_str(), text).unwrap();
            }
        }
        transaction.commit().unwrap();
    }
}

#[async_trait]
impl OffsetStoreFixture for Redb {
    /// One process at a time has the file open, and shares it.
    async fn open(&self) -> Box<dyn OffsetStore> {
        Box::new(self.store.clone())
    }

    /// The machine's clock cannot be moved, so the stored ends are moved the other way.
    async fn pass(&self, time: Duration) -> bool {
        self.change(|_, text| {
            let mut kept: Value = serde_json::from_str(&text).unwrap();
            if let Some(Value::String(expires)) = kept.pointer_mut("/holder/expires") {
                *expires = expires.parse::<Timestamp>().unwrap().saturating_sub(time).to_string();
            }
            kept.to_string()
        })
        .await;
        true
    }

    async fn damage(&self, key: &OffsetKey) -> bool {
        self.change(|name, text| if name == key.as_str() { "{".to_owned() } else { text }).await;
        true
    }

    async fn text(&self, key: &OffsetKey) -> Option<String> {
        let database = self.store.0.lock().await;
        let table = database.begin_read().unwrap().open_table(custom_offset_store::KEYS).unwrap();
        Some(table.get(key.as_str()).unwrap()?.value())
    }
}

offset_store_conformance!(offset_store, Redb::new);

#[tokio::test]
async fn an_exporter_of_ones_own_ships_what_yaml_says() {
    let dir = tempfile::tempdir().unwrap();
    let report = custom_exporter::ship(dir.path()).await.unwrap();
    assert_eq!((report.is_complete(), report.lanes[0].accepted, report.lanes[0].chunks), (true, 3, 2), "{report}");
    let pool = SqlitePool::connect(&dir.path().join("records.db").display().to_string()).await.unwrap();
    let records: Vec<String> =
        sqlx::query_scalar("select record from records order by id").fetch_all(&pool).await.unwrap();
    assert!(records.len() == 3 && records[0].contains("one") && records[2].contains("three"), "{records:?}");
}

#[tokio::test]
async fn a_source_of_ones_own_ships_what_yaml_says() {
    let dir = tempfile::tempdir().unwrap();
    let report = custom_source::ship(dir.path()).await.unwrap();
    assert_eq!((report.is_complete(), report.lanes[0].accepted), (true, 4), "{report}");
}

#[tokio::test]
async fn an_offset_store_of_ones_own_keeps_what_yaml_ships() {
    let dir = tempfile::tempdir().unwrap();
    let [first, second] = custom_offset_store::ship(dir.path()).await.unwrap();
    assert_eq!((first.lanes[0].accepted, second.lanes[0].accepted, second.lanes[0].read), (1, 0, 0), "{second}");
}

/// Goal: what one writes is what is one's own; all else is there. Method: from the configuration to the last line of the
/// trait, without imports, comments, empty lines and the program around it.
#[test]
fn each_is_under_eighty_lines() {
    for name in ["custom_exporter", "custom_source", "custom_offset_store"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("examples/{name}.rs"));
        let text = fs::read_to_string(path).unwrap();
        let (begin, end) =
            (text.find("/// What a configuration says of it").unwrap(), text.find("\n/// Ships").unwrap());
        let lines =
            text[begin..end].lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//")).count();
        assert!(lines < 80, "{name}: {lines} lines");
        assert!(lines > 30, "{name}: what is counted is not the whole of it");
    }
}

#[test]
fn a_configuration_that_is_wrong_is_named() {
    let mut registry = Registry::new();
    custom_exporter::register(&mut registry);
    custom_source::register(&mut registry);
    custom_offset_store::register(&mut registry);
    let (wrong, context) = (|| fields(json!({"paht": "x"})), BuildContext::default());
    let errors: [Error; 3] = [
        registry.exporter("table", wrong(), &context).unwrap_err(),
        registry.source("job_logs", wrong(), &context).unwrap_err(),
        registry.store("redb", wrong(), &context).unwrap_err(),
    ];
    assert!(errors.iter().all(|error| error.to_string().contains("unknown field `paht`")), "{errors:?}");
}
