use std::sync::Arc;

use logship_core::{BuildContext, Exporter, async_trait, read_fields};
use logship_exporters::datadog::Datadog;
use logship_testkit::conformance::exporter::{ExporterFixture, Request, World};
use logship_testkit::exporter_conformance;
use logship_testkit::strict::datadog::StrictDatadog;
use serde_json::json;

use super::{nowhere, stand};

struct Fixture(StrictDatadog);

impl Fixture {
    async fn new(_: &str) -> Option<Self> {
        let server = StrictDatadog::start().await.unwrap();
        server.rotate_key("hunter2-key");
        Some(Fixture(server))
    }
}

fn exporter(url: &str) -> Arc<dyn Exporter> {
    let fields = json!({
        "url": url, "api_key": "hunter2-key", "chunk_bytes_max": 20_000,
        "connection": {"headers": {"X-Gateway": "sw0rdfish-gate"}},
    });
    let serde_json::Value::Object(fields) = fields else { unreachable!() };
    Arc::new(Datadog::new(read_fields(fields).unwrap(), &BuildContext::default()).unwrap())
}

#[async_trait]
impl ExporterFixture for Fixture {
    async fn open(&self) -> Arc<dyn Exporter> {
        exporter(&self.0.url())
    }

    async fn held(&self) -> Vec<String> {
        assert_eq!(self.0.spoiled(), Default::default(), "nothing is lost behind a success");
        self.0.logs().iter().map(ToString::to_string).collect()
    }

    async fn play(&self, world: World, requests: usize) -> bool {
        stand::play(&self.0, &world, 403, 404, requests)
    }

    async fn unreachable(&self) -> Option<Arc<dyn Exporter>> {
        Some(exporter(&nowhere().await))
    }

    fn secrets(&self) -> Vec<String> {
        ["hunter2", "sw0rdfish"].map(str::to_owned).to_vec()
    }

    async fn requests(&self) -> Option<Vec<Request>> {
        Some(stand::requests(&self.0))
    }
}

exporter_conformance!(Fixture::new);
