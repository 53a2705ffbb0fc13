use std::sync::Arc;

use logship_core::{BuildContext, Exporter, LogRecord, async_trait, read_fields};
use logship_exporters::http::Http;
use logship_testkit::conformance::exporter::{ExporterFixture, Request, World};
use logship_testkit::exporter_conformance;
use logship_testkit::strict::http::StrictHttp;
use logship_testkit::strict::{Fault, Items, SeenRequest};
use serde_json::json;

use super::{nowhere, stand};

struct Fixture(StrictHttp);

impl Fixture {
    async fn new(_: &str) -> Option<Self> {
        let server = StrictHttp::start().await.unwrap();
        server.require_bearer("hunter2");
        server.refuse("spoilt");
        // Most receivers do not, and none has to.
        server.forget_keys(true);
        Some(Fixture(server))
    }
}

fn exporter(url: &str) -> Arc<dyn Exporter> {
    let fields = json!({
        "url": format!("{url}/in?key=s3cret"),
        "auth": {"bearer": {"token": "hunter2"}},
        "headers": {"X-Tenant": "sw0rdfish"},
        "chunk_bytes_max": 20_000,
    });
    let serde_json::Value::Object(fields) = fields else { unreachable!() };
    Arc::new(Http::new(read_fields(fields).unwrap(), BuildContext::default()).unwrap())
}

#[async_trait]
impl ExporterFixture for Fixture {
    async fn open(&self) -> Arc<dyn Exporter> {
        exporter(&self.0.url())
    }

    async fn held(&self) -> Vec<String> {
        self.0.records().iter().map(ToString::to_string).collect()
    }

    async fn play(&self, world: World, requests: usize) -> bool {
        if let World::Later(places) = world {
            self.0.fail_next(requests, Fault::Busy(Items::At(places)));
            return true;
        }
        stand::play(&self.0, &world, 401, 404, requests)
    }

    async fn unreachable(&self) -> Option<Arc<dyn Exporter>> {
        Some(exporter(&nowhere().await))
    }

    fn spoil(&self, record: &mut LogRecord) -> bool {
        record.attributes.push(("state".into(), "spoilt".into()));
        true
    }

    fn secrets(&self) -> Vec<String> {
        ["s3cret", "hunter2", "sw0rdfish"].map(str::to_owned).to_vec()
    }

    async fn requests(&self) -> Option<Vec<Request>> {
        let request = |seen: SeenRequest| Request {
            records: seen.items,
            body_bytes: seen.body_bytes,
            wire_bytes: seen.wire_bytes,
        };
        Some(self.0.requests().into_iter().filter(|seen| seen.method == "POST").map(request).collect())
    }
}

exporter_conformance!(Fixture::new);
