use std::sync::Arc;

use logship_core::{BuildContext, Exporter, async_trait, read_fields};
use logship_exporters::splunk::Splunk;
use logship_testkit::conformance::exporter::{ExporterFixture, Request, World};
use logship_testkit::exporter_conformance;
use logship_testkit::strict::splunk::StrictSplunk;
use serde_json::json;

use super::{nowhere, stand};

struct Fixture {
    server: StrictSplunk,
    endpoint: &'static str,
    acknowledge: bool,
}

impl Fixture {
    async fn new(endpoint: &'static str, acknowledge: bool) -> Option<Self> {
        let server = StrictSplunk::start().await.unwrap();
        server.rotate_token("hunter2-token");
        server.indexes(&["kit"]);
        if acknowledge {
            // At the first question, for the suite's clock may stand still.
            server.acknowledge_after(0);
        }
        Some(Fixture { server, endpoint, acknowledge })
    }

    fn exporter(&self, url: &str) -> Arc<dyn Exporter> {
        let fields = json!({
            "url": url, "token": "hunter2-token", "index": "kit", "chunk_bytes_max": 20_000,
            "endpoint": self.endpoint, "acknowledge": self.acknowledge, "acknowledge_poll_ms": 1,
            "connection": {"headers": {"X-Gateway": "sw0rdfish-gate"}},
        });
        let serde_json::Value::Object(fields) = fields else { unreachable!() };
        Arc::new(Splunk::new(read_fields(fields).unwrap(), &BuildContext::default()).unwrap())
    }
}

#[async_trait]
impl ExporterFixture for Fixture {
    async fn open(&self) -> Arc<dyn Exporter> {
        self.exporter(&self.server.url())
    }

    async fn held(&self) -> Vec<String> {
        self.server.events().iter().map(ToString::to_string).collect()
    }

    async fn play(&self, world: World, requests: usize) -> bool {
        stand::play(&self.server, &world, 403, 400, requests)
    }

    async fn unreachable(&self) -> Option<Arc<dyn Exporter>> {
        Some(self.exporter(&nowhere().await))
    }

    fn secrets(&self) -> Vec<String> {
        ["hunter2", "sw0rdfish"].map(str::to_owned).to_vec()
    }

    async fn requests(&self) -> Option<Vec<Request>> {
        Some(stand::requests(&self.server))
    }
}

exporter_conformance!(events, async |_| Fixture::new("event", false).await);
exporter_conformance!(raw, async |_| Fixture::new("raw", false).await);
exporter_conformance!(acknowledged, async |_| Fixture::new("event", true).await);
