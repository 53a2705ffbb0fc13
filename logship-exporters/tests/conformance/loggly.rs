use std::sync::Arc;

use logship_core::{
    Advice, BuildContext, Certainty, Chunk, Cursor, Error, ErrorKind, Exporter, LogRecord, Outcome, Page, PageEnd,
    Partition, RecordId, Timestamp, async_trait, read_fields,
};
use logship_exporters::loggly::Loggly;
use logship_testkit::conformance::exporter::{ExporterFixture, Request, World};
use logship_testkit::exporter_conformance;
use logship_testkit::strict::Fault;
use logship_testkit::strict::loggly::StrictLoggly;
use serde_json::json;

use super::nowhere;

const TOKEN: &str = "hunter2";

struct Fixture(StrictLoggly);

impl Fixture {
    async fn new(_: &str) -> Option<Self> {
        let server = StrictLoggly::start(TOKEN).await.unwrap();
        server.max_event_length(4_000);
        Some(Fixture(server))
    }
}

fn exporter(url: &str) -> Arc<dyn Exporter> {
    let fields = json!({"url": url, "token": TOKEN, "tags": ["kit", "a.b"], "chunk_bytes_max": 20_000});
    let serde_json::Value::Object(fields) = fields else { unreachable!() };
    Arc::new(Loggly::new(read_fields(fields).unwrap(), BuildContext::default()).unwrap())
}

#[async_trait]
impl ExporterFixture for Fixture {
    async fn open(&self) -> Arc<dyn Exporter> {
        exporter(&self.0.url())
    }

    async fn held(&self) -> Vec<String> {
        let events = self.0.events();
        assert!(events.iter().all(|event| event.tags == ["kit", "a.b"] && event.has_time));
        events.into_iter().map(|event| event.text).collect()
    }

    async fn play(&self, world: World, requests: usize) -> bool {
        let fault = match world {
            World::Busy => Fault::status_after(429, "0"),
            World::BrokenBefore => Fault::DropUnread,
            World::AnswerLost => Fault::LoseAnswer,
            World::Denied => Fault::status(403),
            World::Refused => Fault::status(404),
            _ => return false,
        };
        self.0.fail_next(requests, fault);
        true
    }

    async fn unreachable(&self) -> Option<Arc<dyn Exporter>> {
        Some(exporter(&nowhere().await))
    }

    fn spoil(&self, record: &mut LogRecord) -> bool {
        record.attributes.push(("filler".into(), "x".repeat(4_000).into()));
        true
    }

    fn secrets(&self) -> Vec<String> {
        vec![TOKEN.to_owned()]
    }

    async fn requests(&self) -> Option<Vec<Request>> {
        let request = |seen: logship_testkit::strict::SeenRequest| Request {
            records: seen.items,
            body_bytes: seen.body_bytes,
            wire_bytes: seen.wire_bytes,
        };
        Some(self.0.requests().into_iter().filter(|seen| seen.method == "POST").map(request).collect())
    }
}

exporter_conformance!(Fixture::new);

fn record(number: i64, len: usize) -> LogRecord {
    let id = RecordId::new(Partition::new("p"), Cursor::number(number));
    let mut record = LogRecord::new(id, Timestamp::now());
    record.body = "x".repeat(len).into();
    record
}

async fn export(exporter: &dyn Exporter, records: Vec<LogRecord>) -> Result<Outcome, Error> {
    let page = Page::new(Partition::new("p"), records, PageEnd::More);
    exporter.export(&Chunk::of_page(page, exporter.encoding().as_deref()).unwrap()).await
}

/// Goal: Loggly's 1 MB an event and 5 MB a batch are ours. Method: both at the limit and one past it.
#[tokio::test]
async fn events_and_batches_are_taken_at_their_limits_and_refused_past_them() {
    let server = StrictLoggly::start(TOKEN).await.unwrap();
    let fields = json!({"url": server.url(), "token": TOKEN});
    let exporter = Loggly::new(serde_json::from_value(fields).unwrap(), BuildContext::default()).unwrap();
    let limits = exporter.limits();
    assert_eq!((limits.record_bytes_max, limits.chunk_bytes_max), (Some(1_000_001), Some(5_000_000)));
    let mut line = Vec::new();
    exporter.encoding().unwrap().record(&record(1, 0), &mut line).unwrap();
    let overhead = line.len();
    // Its line feed does not belong to an event.
    let event = |len: usize| vec![record(1, len + 1 - overhead)];
    assert_eq!(export(&exporter, event(1_000_000)).await.unwrap().accepted_count(), 1);
    assert_eq!(export(&exporter, event(1_000_001)).await.unwrap_err().kind(), ErrorKind::TooLarge);
    let batch = |more: usize| {
        (0..5).map(|number| record(number, 1_000_000 - overhead + if number == 4 { more } else { 0 })).collect()
    };
    assert_eq!(export(&exporter, batch(0)).await.unwrap().accepted_count(), 5);
    let error = export(&exporter, batch(1)).await.unwrap_err();
    assert_eq!((error.kind(), error.advice()), (ErrorKind::TooLarge, Advice::Split));
    assert_eq!(server.events().len(), 6);
}

#[tokio::test]
async fn nothing_but_ok_confirms_a_batch() {
    let server = StrictLoggly::start(TOKEN).await.unwrap();
    let exporter = exporter(&server.url());
    for body in ["", "ok", r#"{"response":"error"}"#, "<html>sign in first</html>"] {
        server.answer_next(1, 200, body);
        let error = export(&*exporter, vec![record(1, 1), record(2, 1)]).await.unwrap_err();
        assert_eq!((error.certainty(), error.is_retryable()), (Certainty::Unknown, true), "{body}");
    }
}

#[test]
fn a_wrong_configuration_is_refused_before_anything_is_sent() {
    for (fields, field) in [
        (json!({"token": ""}), "token"),
        (json!({"token": "hunter2", "tags": ["a b"]}), "tags"),
        (json!({"token": "hunter2", "tags": ["x".repeat(65)]}), "tags"),
        (json!({"token": "hunter2", "chunk_bytes_max": 5_000_001}), "chunk_bytes_max"),
        (json!({"token": "hunter2", "url": "https://u:hunter2@host"}), "url"),
        (json!({"token": "hunter2", "retries": 1}), "retries"),
    ] {
        let serde_json::Value::Object(fields) = fields else { unreachable!() };
        let error = read_fields(fields).and_then(|config| Loggly::new(config, BuildContext::default())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains(field) && !format!("{error:?}").contains("hunter2"), "{error}");
    }
}
