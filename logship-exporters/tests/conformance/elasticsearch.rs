use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use logship_core::{BuildContext, Exporter, LogRecord, Secret, SecretRef, async_trait};
use logship_exporters::elasticsearch::{Elasticsearch, ElasticsearchAuth, ElasticsearchConfig};
use logship_testkit::conformance::exporter::{ExporterFixture, Request, World};
use logship_testkit::exporter_conformance;
use logship_testkit::strict::elasticsearch::{Credentials, StrictElasticsearch};
use logship_testkit::strict::{Fault, Items};

use super::nowhere;

const STREAM: &str = "logs-kit-default";

struct Fixture(StrictElasticsearch);

impl Fixture {
    async fn new(_: &str) -> Option<Self> {
        let server = StrictElasticsearch::start().await.unwrap();
        server.rotate_credentials(Credentials::api_key("kit", "hunter2"));
        Some(Fixture(server))
    }
}

fn key() -> String {
    BASE64.encode("kit:hunter2")
}

fn exporter(url: &str) -> Arc<dyn Exporter> {
    let auth = ElasticsearchAuth::ApiKey(SecretRef::Value(Secret::new(key())));
    let config = ElasticsearchConfig::new(vec![url.parse().unwrap()], STREAM);
    let config = ElasticsearchConfig { auth, chunk_bytes_max: 20_000, ..config };
    Arc::new(Elasticsearch::new(config, &BuildContext::default()).unwrap())
}

#[async_trait]
impl ExporterFixture for Fixture {
    async fn open(&self) -> Arc<dyn Exporter> {
        exporter(&self.0.url())
    }

    async fn held(&self) -> Vec<String> {
        let documents = self.0.documents(STREAM);
        assert_eq!(documents.len(), self.0.count(STREAM));
        documents.values().map(ToString::to_string).collect()
    }

    async fn play(&self, world: World, requests: usize) -> bool {
        let fault = match world {
            World::Busy => Fault::status_after(429, "0"),
            World::BrokenBefore => Fault::DropUnread,
            World::AnswerLost => Fault::LoseAnswer,
            World::Denied => Fault::status(401),
            World::Refused => Fault::status(404),
            World::Later(places) => Fault::Busy(Items::At(places)),
            _ => return false,
        };
        self.0.fail_next(requests, fault);
        true
    }

    async fn unreachable(&self) -> Option<Arc<dyn Exporter>> {
        Some(exporter(&nowhere().await))
    }

    /// An index takes a thousand fields.
    fn spoil(&self, record: &mut LogRecord) -> bool {
        record.attributes = (0..1_200).map(|number| (format!("field{number}").into(), "x".into())).collect();
        true
    }

    fn secrets(&self) -> Vec<String> {
        vec!["hunter2".to_owned(), key()]
    }

    async fn requests(&self) -> Option<Vec<Request>> {
        let requests = self.0.requests().into_iter().filter(|request| request.path.ends_with("/_bulk"));
        let request = |seen: logship_testkit::strict::SeenRequest| Request {
            records: seen.items,
            body_bytes: seen.body_bytes,
            wire_bytes: seen.wire_bytes,
        };
        Some(requests.map(request).collect())
    }
}

exporter_conformance!(Fixture::new);
