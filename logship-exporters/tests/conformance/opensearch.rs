use std::sync::{Arc, Mutex};

use logship_core::{
    Advice, BuildContext, Certainty, Chunk, Cursor, Error, ErrorKind, Exporter, Idempotency, LogRecord, Outcome, Page,
    PageEnd, Partition, RecordId, Secret, SecretProvider, Timestamp, async_trait, read_fields,
};
use logship_exporters::opensearch::OpenSearch;
use logship_testkit::conformance::exporter::{ExporterFixture, Request, World};
use logship_testkit::exporter_conformance;
use logship_testkit::strict::opensearch::{Access, Signer, StrictOpenSearch};
use logship_testkit::strict::{Fault, Items};
use serde_json::json;

use super::nowhere;

const REGION: &str = "eu-west-1";

/// A destination and the way into it.
struct Fixture {
    server: StrictOpenSearch,
    auth: serde_json::Value,
}

fn signer() -> Signer {
    Signer::new("AKIDEXAMPLE", "hunter2/key+", REGION)
}

fn aws(service: &str) -> serde_json::Value {
    let key = json!({"access_key_id": "AKIDEXAMPLE", "secret_access_key": "hunter2/key+"});
    json!({"aws": {"service": service, "region": REGION, "credentials": {"static": key}}})
}

async fn own(_: &str) -> Option<Fixture> {
    let access = Access::Basic("kit".to_owned(), "hunter2".into());
    let auth = json!({"basic": {"username": "kit", "password": "hunter2"}});
    Some(Fixture { server: StrictOpenSearch::start(access).await.unwrap(), auth })
}

async fn domain(_: &str) -> Option<Fixture> {
    Some(Fixture { server: StrictOpenSearch::start(Access::Domain(signer())).await.unwrap(), auth: aws("es") })
}

async fn collection(_: &str) -> Option<Fixture> {
    let access = Access::Collection { signer: signer(), is_time_series: true };
    Some(Fixture { server: StrictOpenSearch::start(access).await.unwrap(), auth: aws("aoss") })
}

fn open(fields: serde_json::Value, context: BuildContext) -> Result<OpenSearch, Error> {
    let serde_json::Value::Object(fields) = fields else { unreachable!() };
    OpenSearch::new(read_fields(fields)?, context)
}

fn exporter(url: &str, auth: &serde_json::Value) -> Arc<dyn Exporter> {
    let fields = json!({"hosts": [url], "index": "kit", "auth": auth, "chunk_bytes_max": 20_000});
    Arc::new(open(fields, BuildContext::default()).unwrap())
}

#[async_trait]
impl ExporterFixture for Fixture {
    async fn open(&self) -> Arc<dyn Exporter> {
        exporter(&self.server.url(), &self.auth)
    }

    async fn held(&self) -> Vec<String> {
        let documents = self.server.documents("kit");
        assert_eq!(documents.len(), self.server.count("kit"));
        documents.values().map(ToString::to_string).collect()
    }

    async fn play(&self, world: World, requests: usize) -> bool {
        let fault = match world {
            World::Busy => Fault::status_after(429, "0"),
            World::BrokenBefore => Fault::DropUnread,
            World::AnswerLost => Fault::LoseAnswer,
            World::Denied => Fault::status(403),
            World::Refused => Fault::status(404),
            World::Later(places) => Fault::Busy(Items::At(places)),
            _ => return false,
        };
        self.server.fail_next(requests, fault);
        true
    }

    async fn unreachable(&self) -> Option<Arc<dyn Exporter>> {
        Some(exporter(&nowhere().await, &self.auth))
    }

    /// An index takes a thousand fields.
    fn spoil(&self, record: &mut LogRecord) -> bool {
        record.attributes = (0..1_200).map(|number| (format!("field{number}").into(), "x".into())).collect();
        true
    }

    fn secrets(&self) -> Vec<String> {
        vec!["hunter2".to_owned()]
    }

    async fn requests(&self) -> Option<Vec<Request>> {
        let requests = self.server.requests().into_iter().filter(|request| request.path.ends_with("/_bulk"));
        let request = |seen: logship_testkit::strict::SeenRequest| Request {
            records: seen.items,
            body_bytes: seen.body_bytes,
            wire_bytes: seen.wire_bytes,
        };
        Some(requests.map(request).collect())
    }
}

exporter_conformance!(own_cluster, own);
exporter_conformance!(aws_domain, domain);
exporter_conformance!(aws_collection, collection);

fn record(number: i64, time: Timestamp) -> LogRecord {
    let mut record = LogRecord::new(RecordId::new(Partition::new("p"), Cursor::number(number)), time);
    record.body = format!("text {number}").into();
    record
}

async fn export(exporter: &dyn Exporter, records: Vec<LogRecord>) -> Result<Outcome, Error> {
    let page = Page::new(Partition::new("p"), records, PageEnd::More);
    exporter.export(&Chunk::of_page(page, exporter.encoding().as_deref()).unwrap()).await
}

fn two() -> Vec<LogRecord> {
    vec![record(1, Timestamp::now()), record(2, Timestamp::now())]
}

/// Goal: a wrong signature gets nobody in, and says what is wrong. Method: each part of it wrong.
#[tokio::test]
async fn what_is_not_signed_as_it_should_be_is_not_let_in() {
    let server = StrictOpenSearch::start(Access::Domain(signer())).await.unwrap();
    let mut wrong_region = aws("es");
    wrong_region["aws"]["region"] = "us-east-1".into();
    let mut wrong_key = aws("es");
    wrong_key["aws"]["credentials"]["static"]["secret_access_key"] = "hunter3".into();
    for auth in [aws("aoss"), wrong_region, wrong_key, json!("none")] {
        let exporter = exporter(&server.url(), &auth);
        for error in [exporter.check().await.unwrap_err(), export(&*exporter, two()).await.unwrap_err()] {
            assert_eq!((error.kind(), error.certainty()), (ErrorKind::Auth, Certainty::NotDelivered), "{error}");
            assert!(!format!("{error:?}").contains("hunter"), "{error}");
        }
    }
    assert_eq!(server.count("kit"), 0);
    exporter(&server.url(), &aws("es")).check().await.unwrap();
}

/// Goal: an address with a path and a pipeline is signed as it is sent, and so is an index of each day.
#[tokio::test]
async fn every_address_is_signed_as_it_is_sent() {
    let server = StrictOpenSearch::start(Access::Domain(signer())).await.unwrap();
    let fields = json!({"hosts": [server.url()], "index": "logs-%Y.%m.%d", "auth": aws("es"), "pipeline": "a b/c"});
    let exporter = open(fields, BuildContext::default()).unwrap();
    let days = ["2026-11-20T23:59:59Z", "2026-11-21T00:00:00Z"].map(|day| Timestamp::parse(day).unwrap());
    let outcome = export(&exporter, vec![record(1, days[0]), record(2, days[1])]).await.unwrap();
    assert_eq!(outcome.accepted_count(), 2);
    assert_eq!((server.count("logs-2026.11.20"), server.count("logs-2026.11.21")), (1, 1));
}

#[derive(Debug)]
struct Vault(Mutex<&'static str>);

impl SecretProvider for Vault {
    fn secret(&self, _name: &str) -> Option<Secret> {
        Some(Secret::new(*self.0.lock().unwrap()))
    }
}

#[tokio::test]
async fn temporary_credentials_that_are_over_are_read_again() {
    let server = StrictOpenSearch::start(Access::Domain(signer().session_token("first"))).await.unwrap();
    let vault = Arc::new(Vault(Mutex::new("first")));
    let mut auth = aws("es");
    auth["aws"]["credentials"]["static"]["session_token"] = json!({"secret": "TOKEN"});
    let fields = json!({"hosts": [server.url()], "index": "kit", "auth": auth});
    let exporter = open(fields, BuildContext::new(vault.clone())).unwrap();
    assert_eq!(export(&exporter, two()).await.unwrap().accepted_count(), 2);
    server.rotate(Access::Domain(signer().session_token("second")));
    let error = export(&exporter, two()).await.unwrap_err();
    assert_eq!((error.kind(), error.advice()), (ErrorKind::Auth, Advice::Refresh), "{error}");
    assert_eq!(exporter.refresh().await.unwrap_err().kind(), ErrorKind::Auth);
    *vault.0.lock().unwrap() = "second";
    exporter.refresh().await.unwrap();
    assert_eq!(export(&exporter, two()).await.unwrap().already_there_count(), 2);
}

#[tokio::test]
async fn a_collection_of_time_series_gets_no_ids_unless_it_is_said_to_take_them() {
    let access = |is_time_series| Access::Collection { signer: signer(), is_time_series };
    let server = StrictOpenSearch::start(access(true)).await.unwrap();
    let exporter = |url: String, ids: serde_json::Value| {
        open(json!({"hosts": [url], "index": "kit", "auth": aws("aoss"), "ids": ids}), BuildContext::default()).unwrap()
    };
    let plain = exporter(server.url(), json!(null));
    assert_eq!(plain.capabilities().idempotency, Idempotency::None);
    assert_eq!(export(&plain, two()).await.unwrap().accepted_count(), 2);
    let error = export(&exporter(server.url(), json!(true)), two()).await.unwrap_err();
    assert_eq!((error.kind(), error.advice()), (ErrorKind::Config, Advice::Never));
    assert!(error.to_string().contains("`ids`"), "{error}");

    let server = StrictOpenSearch::start(access(false)).await.unwrap();
    let search = exporter(server.url(), json!(true));
    assert_eq!(search.capabilities().idempotency, Idempotency::PerRecord);
    export(&search, two()).await.unwrap();
    assert_eq!(export(&search, two()).await.unwrap().already_there_count(), 2);
}

#[tokio::test]
async fn data_streams_take_records_once() {
    let server = StrictOpenSearch::start(Access::Open).await.unwrap();
    server.create_data_stream("logs-app");
    let fields = json!({"hosts": [server.url()], "index": "logs-app"});
    let exporter = open(fields, BuildContext::default()).unwrap();
    assert_eq!(export(&exporter, two()).await.unwrap().accepted_count(), 2);
    assert_eq!(export(&exporter, two()).await.unwrap().already_there_count(), 2);
    assert_eq!(server.count("logs-app"), 2);
}

/// Goal: the body is within what a small domain takes, at its limit and one past it.
#[tokio::test]
async fn a_body_over_ten_mebibytes_is_split_at_a_small_domain() {
    let server = StrictOpenSearch::start(Access::Domain(signer())).await.unwrap();
    let fields = json!({"hosts": [server.url()], "index": "kit", "auth": aws("es"), "compression": "none"});
    let exporter = open(fields, BuildContext::default()).unwrap();
    let body = |len: usize| {
        let mut record = record(1, Timestamp::from_secs(1));
        record.body = "x".repeat(len).into();
        record
    };
    let mut line = Vec::new();
    exporter.encoding().unwrap().record(&body(0), &mut line).unwrap();
    let room = 10 * 1024 * 1024 - line.len();
    assert_eq!(export(&exporter, vec![body(room)]).await.unwrap().accepted_count(), 1);
    let error = export(&exporter, vec![body(room + 1)]).await.unwrap_err();
    assert_eq!((error.kind(), error.advice()), (ErrorKind::TooLarge, Advice::Split), "{error}");
}

#[test]
fn a_wrong_configuration_is_refused_before_anything_is_sent() {
    let host = "https://localhost:9200";
    for (fields, field) in [
        (json!({"hosts": [], "index": "logs"}), "hosts"),
        (json!({"hosts": ["https://u:hunter2@localhost"], "index": "logs"}), "hosts"),
        (json!({"hosts": ["localhost"], "index": "logs"}), "hosts"),
        (json!({"hosts": [host], "index": "Logs"}), "index"),
        (json!({"hosts": [host], "index": "logs-%q"}), "index"),
        (json!({"hosts": [host], "index": "logs", "chunk_bytes_max": 104_857_601}), "chunk_bytes_max"),
        (json!({"hosts": [host], "index": "logs", "auth": {"aws": {"service": "s3"}}}), "service"),
        (
            json!({"hosts": [host], "index": "logs", "auth": {"aws": {"credentials": {"static":
                {"access_key_id": "x", "secret_access_key": {"env": "LOGSHIP_TEST_NOT_SET"}}}}}}),
            "auth.aws.credentials.static.secret_access_key",
        ),
        (
            json!({"hosts": [host], "index": "logs", "auth": {"aws": {"role": {"arn": "a", "session_secs": 1}}}}),
            "auth.aws.role.session_secs",
        ),
        (
            json!({"hosts": [host], "index": "logs", "auth": {"basic": {"username": "a:b", "password": "hunter2"}}}),
            "auth",
        ),
        (json!({"hosts": [host], "index": "logs", "cloud_id": "x"}), "cloud_id"),
    ] {
        let shown = fields.to_string();
        let error = open(fields, BuildContext::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{shown}");
        assert!(error.to_string().contains(field) && !format!("{error:?}").contains("hunter2"), "{shown}: {error}");
    }
}
