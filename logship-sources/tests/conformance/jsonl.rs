use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;

use logship_core::{Source, async_trait};
use logship_sources::jsonl::{JsonlConfig, JsonlFields, JsonlSource};
use logship_testkit::conformance::source::{Row, SourceFixture};
use logship_testkit::source_conformance;
use tempfile::TempDir;

use super::level;

struct Fixture(TempDir);

impl Fixture {
    fn file(&self, partition: usize) -> PathBuf {
        self.0.path().join(format!("{partition}.jsonl"))
    }
}

#[async_trait]
impl SourceFixture for Fixture {
    async fn fill(&self, rows: &[Row]) {
        for row in rows {
            let mut line = serde_json::json!({"time": row.timestamp.to_string(), "msg": row.body});
            if let Some(level) = level(row.severity) {
                line["level"] = level.into();
            }
            if let Some(namespace) = &row.namespace {
                line["namespace"] = namespace.as_str().into();
            }
            let mut file = OpenOptions::new().create(true).append(true).open(self.file(row.partition)).unwrap();
            writeln!(file, "{line}").unwrap();
        }
    }

    async fn open(&self) -> Box<dyn Source> {
        let config = JsonlConfig { paths: vec![self.0.path().into()], fields: JsonlFields::default() };
        Box::new(JsonlSource::new(config).unwrap())
    }

    fn partitions(&self) -> usize {
        2
    }

    async fn take_away(&self) -> bool {
        std::fs::remove_dir_all(self.0.path()).unwrap();
        true
    }
}

source_conformance!(async |_| Some(Fixture(tempfile::tempdir().unwrap())));
