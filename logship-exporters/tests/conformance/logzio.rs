use std::sync::Arc;

use logship_core::{
    Advice, BuildContext, Certainty, Chunk, Cursor, Error, ErrorKind, Exporter, LogRecord, Outcome, Page, PageEnd,
    Partition, RecordId, Timestamp, async_trait, read_fields,
};
use logship_exporters::logzio::Logzio;
use logship_testkit::conformance::exporter::{ExporterFixture, Request, World};
use logship_testkit::exporter_conformance;
use logship_testkit::strict::Fault;
use logship_testkit::strict::logzio::StrictLogzio;
use serde_json::json;

use super::nowhere;

const TOKEN: &str = "hunter2";

struct Fixture(StrictLogzio);

impl Fixture {
    async fn new(_: &str) -> Option<Self> {
        let server = StrictLogzio::start(TOKEN).await.unwrap();
        server.max_line_length(4_000);
        Some(Fixture(server))
    }
}

fn exporter(url: &str) -> Arc<dyn Exporter> {
    let fields = json!({"url": url, "token": TOKEN, "type": "kit", "chunk_bytes_max": 20_000});
    let serde_json::Value::Object(fields) = fields else { unreachable!() };
    Arc::new(Logzio::new(read_fields(fields).unwrap(), BuildContext::default()).unwrap())
}

#[async_trait]
impl ExporterFixture for Fixture {
    async fn open(&self) -> Arc<dyn Exporter> {
        exporter(&self.0.url())
    }

    async fn held(&self) -> Vec<String> {
        let logs = self.0.logs();
        assert!(logs.iter().all(|log| log["type"] == "kit"));
        logs.iter().map(|log| log["message"].to_string()).collect()
    }

    async fn play(&self, world: World, requests: usize) -> bool {
        let fault = match world {
            World::Busy => Fault::status_after(429, "0"),
            World::BrokenBefore => Fault::DropUnread,
            World::AnswerLost => Fault::LoseAnswer,
            World::Denied => Fault::status(401),
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
        Some(self.0.requests().into_iter().map(request).collect())
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

/// How long the line of a record is, beside its text.
fn overhead(exporter: &dyn Exporter) -> usize {
    let mut line = Vec::new();
    exporter.encoding().unwrap().record(&record(1, 0), &mut line).unwrap();
    line.len() - 1
}

/// Goal: the listener's 500,000 bytes a line are ours. Method: a line at the limit and one past it, both sent.
#[tokio::test]
async fn a_line_of_500_000_bytes_is_taken_and_one_more_is_refused_on_both_sides() {
    let server = StrictLogzio::start(TOKEN).await.unwrap();
    let fields = json!({"url": server.url(), "token": TOKEN});
    let exporter = Logzio::new(serde_json::from_value(fields).unwrap(), BuildContext::default()).unwrap();
    let room = 500_000 - overhead(&exporter);
    assert_eq!(exporter.limits().record_bytes_max, Some(500_001), "with its line feed");
    assert_eq!(export(&exporter, vec![record(1, room)]).await.unwrap().accepted_count(), 1);
    let outcome = export(&exporter, vec![record(1, room), record(2, room + 1), record(3, 5)]).await.unwrap();
    assert_eq!(outcome.rejected().map(|(index, _)| index).collect::<Vec<_>>(), [1]);
    assert_eq!(server.logs().len(), 3);
}

#[tokio::test]
async fn a_body_over_ten_megabytes_is_split() {
    let server = StrictLogzio::start(TOKEN).await.unwrap();
    let fields = json!({"url": server.url(), "token": TOKEN, "chunk_bytes_max": 10_485_760});
    let exporter = Logzio::new(serde_json::from_value(fields).unwrap(), BuildContext::default()).unwrap();
    let line = 10_485_760 / 32;
    let records = |last: usize| {
        (0..32).map(|n| record(n, line - 1 - overhead(&exporter) + if n == 31 { last } else { 0 })).collect()
    };
    assert_eq!(export(&exporter, records(0)).await.unwrap().accepted_count(), 32);
    let error = export(&exporter, records(1)).await.unwrap_err();
    assert_eq!((error.kind(), error.advice()), (ErrorKind::TooLarge, Advice::Split));
    assert_eq!(server.logs().len(), 32);
}

/// Goal: nothing is confirmed that the listener did not name. Method: counts which cannot be put down to records.
#[tokio::test]
async fn lines_that_are_refused_and_not_named_stop_the_lane() {
    let server = StrictLogzio::start(TOKEN).await.unwrap();
    let exporter = exporter(&server.url());
    let three = || (1..4).map(|number| record(number, 10)).collect::<Vec<_>>();
    for (counts, kind) in [
        (json!({"malformedLines": 1, "successfulLines": 2}), ErrorKind::Rejected),
        (json!({"oversizedLines": 1, "successfulLines": 2}), ErrorKind::Rejected),
        (json!({"malformedLines": 1, "successfulLines": 5}), ErrorKind::Protocol),
    ] {
        server.answer_next(1, 400, &counts.to_string());
        let error = export(&*exporter, three()).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.advice(), error.certainty()),
            (kind, Advice::Never, Certainty::Unknown),
            "{error}"
        );
    }
    server.answer_next(1, 400, &json!({"malformedLines": 3, "successfulLines": 0}).to_string());
    assert_eq!(export(&*exporter, three()).await.unwrap_err().advice(), Advice::Split);
    server.answer_next(1, 400, &json!({"malformedLines": 1, "successfulLines": 0}).to_string());
    assert_eq!(export(&*exporter, vec![record(1, 1)]).await.unwrap().rejected().count(), 1);
    server.answer_next(1, 200, "<html>sign in first</html>");
    let error = export(&*exporter, three()).await.unwrap_err();
    assert_eq!((error.certainty(), error.is_retryable()), (Certainty::Unknown, true));
}

#[test]
fn a_wrong_configuration_is_refused_before_anything_is_sent() {
    for (fields, field) in [
        (json!({"token": ""}), "token"),
        (json!({"token": "hunter2", "region": "e/u"}), "region"),
        (json!({"token": "hunter2", "type": "a b"}), "type"),
        (json!({"token": "hunter2", "chunk_bytes_max": 10_485_761}), "chunk_bytes_max"),
        (json!({"token": "hunter2", "url": "https://u:hunter2@host"}), "url"),
        (json!({"token": {"env": "LOGSHIP_TEST_NOT_SET"}}), "LOGSHIP_TEST_NOT_SET"),
        (json!({"token": "hunter2", "retries": 1}), "retries"),
    ] {
        let serde_json::Value::Object(fields) = fields else { unreachable!() };
        let error = read_fields(fields).and_then(|config| Logzio::new(config, BuildContext::default())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains(field) && !format!("{error:?}").contains("hunter2"), "{error}");
    }
}
