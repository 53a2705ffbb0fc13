use std::sync::Arc;

use logship_core::{BuildContext, Exporter, LogRecord, async_trait, read_fields};
use logship_exporters::otlp::Otlp;
use logship_testkit::conformance::exporter::{ExporterFixture, Request, World};
use logship_testkit::exporter_conformance;
use logship_testkit::strict::otlp::{Refuses, StrictOtlp};
use logship_testkit::strict::{Fault, SeenRequest};
use serde_json::json;

use super::nowhere;

struct Fixture {
    server: StrictOtlp,
    protocol: &'static str,
}

impl Fixture {
    async fn new(protocol: &'static str) -> Option<Self> {
        let server = StrictOtlp::start().await.unwrap();
        server.require_header("api-key", "hunter2");
        server.refuse("spoilt", Refuses::TheRequest);
        server.max_request_bytes(20_000);
        Some(Fixture { server, protocol })
    }
}

fn exporter(url: &str, protocol: &str) -> Arc<dyn Exporter> {
    let fields = json!({
        "endpoint": url.replace("http://", "http://user:s3cret@"), "protocol": protocol,
        "headers": {"api-key": "hunter2"}, "chunk_bytes_max": 20_000,
    });
    let serde_json::Value::Object(fields) = fields else { unreachable!() };
    Arc::new(Otlp::new(read_fields(fields).unwrap(), BuildContext::default()).unwrap())
}

pub(super) fn held(server: &StrictOtlp) -> Vec<String> {
    server.records().iter().map(ToString::to_string).collect()
}

pub(super) fn requests(server: &StrictOtlp) -> Vec<Request> {
    // A check is a request without records, and so is one that was not let in or not read.
    let is_export = |seen: &SeenRequest| seen.items > 0 || seen.status != Some(200);
    let request =
        |seen: SeenRequest| Request { records: seen.items, body_bytes: seen.body_bytes, wire_bytes: seen.wire_bytes };
    server.requests().into_iter().filter(is_export).map(request).collect()
}

#[async_trait]
impl ExporterFixture for Fixture {
    async fn open(&self) -> Arc<dyn Exporter> {
        exporter(&self.server.url(), self.protocol)
    }

    async fn held(&self) -> Vec<String> {
        held(&self.server)
    }

    async fn play(&self, world: World, requests: usize) -> bool {
        let fault = match world {
            World::Busy => Fault::status_after(429, "0"),
            World::BrokenBefore => Fault::DropUnread,
            World::AnswerLost => Fault::LoseAnswer,
            World::Denied => Fault::status(401),
            World::Refused => Fault::status(404),
            // The protocol does not name records.
            _ => return false,
        };
        self.server.fail_next(requests, fault);
        true
    }

    async fn unreachable(&self) -> Option<Arc<dyn Exporter>> {
        Some(exporter(&nowhere().await, self.protocol))
    }

    fn spoil(&self, record: &mut LogRecord) -> bool {
        record.attributes.push(("state".into(), "spoilt".into()));
        true
    }

    fn secrets(&self) -> Vec<String> {
        vec!["hunter2".to_owned(), "s3cret".to_owned()]
    }

    async fn requests(&self) -> Option<Vec<Request>> {
        Some(requests(&self.server))
    }
}

exporter_conformance!(http_protobuf, async |_| Fixture::new("http_protobuf").await);
exporter_conformance!(http_json, async |_| Fixture::new("http_json").await);
exporter_conformance!(grpc, async |_| Fixture::new("grpc").await);
