//! The exporter that OpenTelemetry itself has, which is also a second opinion on the stand-in.

use std::sync::Arc;

use logship_core::{Chunk, Cursor, Exporter, LogRecord, Page, PageEnd, Partition, RecordId, Timestamp, async_trait};
use logship_exporters::otlp_sdk::SdkExporter;
use logship_testkit::conformance::exporter::{ExporterFixture, Request, World};
use logship_testkit::exporter_conformance;
use logship_testkit::strict::Fault;
use logship_testkit::strict::otlp::{Refuses, StrictOtlp};
use opentelemetry_otlp::{LogExporter, Protocol, RetryPolicy, WithExportConfig, WithHttpConfig};

use super::otlp::{held, requests};

struct Fixture(StrictOtlp);

impl Fixture {
    async fn new(_: &str) -> Option<Self> {
        let server = StrictOtlp::start().await.unwrap();
        server.require_header("api-key", "hunter2");
        Some(Fixture(server))
    }
}

fn exporter(url: &str) -> Arc<dyn Exporter> {
    // This client would take a provider of TLS from the process.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let exporter = LogExporter::builder()
        .with_http()
        .with_http_client(reqwest::Client::builder().no_proxy().build().unwrap())
        .with_retry_policy(RetryPolicy::disabled())
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(format!("{url}/v1/logs"))
        .with_headers([("api-key".to_owned(), "hunter2".to_owned())].into());
    Arc::new(SdkExporter::new(exporter.build().unwrap()))
}

#[async_trait]
impl ExporterFixture for Fixture {
    async fn open(&self) -> Arc<dyn Exporter> {
        exporter(&self.0.url())
    }

    async fn held(&self) -> Vec<String> {
        held(&self.0)
    }

    async fn play(&self, world: World, requests: usize) -> bool {
        let fault = match world {
            World::Busy => Fault::status_after(429, "0"),
            World::BrokenBefore => Fault::DropUnread,
            World::AnswerLost => Fault::LoseAnswer,
            // The SDK does not tell what fails for good from what may pass.
            _ => return false,
        };
        self.0.fail_next(requests, fault);
        true
    }

    fn secrets(&self) -> Vec<String> {
        vec!["hunter2".to_owned()]
    }

    async fn requests(&self) -> Option<Vec<Request>> {
        Some(requests(&self.0))
    }
}

exporter_conformance!(Fixture::new);

/// Goal: the weakness that the documents name is still there; where it is gone they are to say so.
#[tokio::test]
async fn a_partial_success_is_taken_for_a_whole_one() {
    let server = StrictOtlp::start().await.unwrap();
    server.require_header("api-key", "hunter2");
    server.refuse("line", Refuses::TheRecord);
    let id = RecordId::new(Partition::new("logs"), Cursor::number(1));
    let mut record = LogRecord::new(id, Timestamp::from_secs(1));
    record.body = "line".into();
    let chunk = Chunk::of_page(Page::new(Partition::new("logs"), vec![record], PageEnd::More), None).unwrap();
    let outcome = exporter(&server.url()).export(&chunk).await.unwrap();
    assert_eq!((outcome.accepted_count(), server.count()), (1, 0));
}
