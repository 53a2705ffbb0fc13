use logship_core::{Source, async_trait};
use logship_sources::memory::MemorySource;
use logship_testkit::conformance::source::{Row, SourceFixture};
use logship_testkit::source_conformance;

struct Fixture(MemorySource);

#[async_trait]
impl SourceFixture for Fixture {
    async fn fill(&self, rows: &[Row]) {
        for row in rows {
            self.0.push(["one", "two", "three"][row.partition], row.timestamp, |record| {
                record.severity = row.severity;
                record.attributes =
                    row.namespace.iter().map(|name| ("namespace".into(), name.as_str().into())).collect();
                record.body = row.body.as_str().into();
            });
        }
    }

    async fn open(&self) -> Box<dyn Source> {
        Box::new(self.0.clone())
    }

    fn partitions(&self) -> usize {
        3
    }

    fn can_delete(&self) -> bool {
        true
    }
}

source_conformance!(async |_| Some(Fixture(MemorySource::new())));
