use std::sync::Arc;
use std::time::Duration;

use logship_core::{
    Advice, BuildContext, Certainty, Chunk, Cursor, Error, ErrorKind, Exporter, LogRecord, Outcome, Page, PageEnd,
    Partition, RecordId, Timestamp, async_trait, read_fields,
};
use logship_exporters::loki::Loki;
use logship_testkit::conformance::exporter::{ExporterFixture, Request, World};
use logship_testkit::exporter_conformance;
use logship_testkit::strict::loki::StrictLoki;
use logship_testkit::strict::{Fault, Items};
use serde_json::json;

use super::nowhere;

struct Fixture(StrictLoki);

impl Fixture {
    async fn new(_: &str) -> Option<Self> {
        let server = StrictLoki::start().await.unwrap();
        server.require_basic("kit", "hunter2");
        server.require_tenant("payments");
        server.max_line_size(4_000);
        Some(Fixture(server))
    }
}

fn loki(fields: serde_json::Value) -> Result<Loki, Error> {
    let serde_json::Value::Object(fields) = fields else { unreachable!() };
    Loki::new(read_fields(fields)?, BuildContext::default())
}

fn exporter(url: &str) -> Arc<dyn Exporter> {
    let fields = json!({
        "url": url, "tenant": "payments", "auth": {"basic": {"username": "kit", "password": "hunter2"}},
        "labels": {"partition": "partition"}, "chunk_bytes_max": 20_000, "concurrency_max": 4,
    });
    Arc::new(loki(fields).unwrap())
}

#[async_trait]
impl ExporterFixture for Fixture {
    async fn open(&self) -> Arc<dyn Exporter> {
        exporter(&self.0.url())
    }

    async fn held(&self) -> Vec<String> {
        self.0.entries().into_iter().map(|entry| entry.line).collect()
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
        // And the base64 of both.
        vec!["hunter2".to_owned(), "a2l0Omh1bnRlcjI".to_owned()]
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

fn record(number: i64, time: Timestamp, flow: &str) -> LogRecord {
    let mut record = LogRecord::new(RecordId::new(Partition::new("p"), Cursor::number(number)), time);
    record.body = format!("text {number}").into();
    record.attributes = vec![("flow".into(), flow.into())];
    record
}

async fn export(exporter: &dyn Exporter, records: Vec<LogRecord>) -> Result<Outcome, Error> {
    let page = Page::new(Partition::new("p"), records, PageEnd::More);
    exporter.export(&Chunk::of_page(page, exporter.encoding().as_deref()).unwrap()).await
}

/// An exporter that sends whatever it is given, with the flow as a label.
fn unlimited(url: &str) -> Loki {
    let limits = json!({
        "line_bytes_max": 10_000_000, "metadata_bytes_max": 10_000_000, "metadata_entries_max": 10_000,
        "label_value_bytes_max": 10_000,
    });
    loki(json!({"url": url, "labels": {"flow": {"attribute": "flow"}}, "line": "message", "limits": limits})).unwrap()
}

fn places(outcome: &Outcome) -> Vec<usize> {
    outcome.rejected().map(|(index, _)| index).collect()
}

/// Goal: each limit of the server is met at its edge, and what is past it is named while all else is stored. Method: an
/// exporter that knows no limits of its own, and chunks with one record past one of them.
#[tokio::test]
async fn each_line_that_loki_refuses_is_named_and_the_others_are_there() {
    let now = Timestamp::now();
    let plain = |number| record(number, now, "a");
    let edge = |spoil: &dyn Fn(&mut LogRecord, usize)| {
        [0, 1].map(|past| {
            let mut record = plain(2);
            spoil(&mut record, past);
            record
        })
    };
    let week = Duration::from_secs(7 * 24 * 3600);
    let spoilt = [
        edge(&|record, past| record.body = "x".repeat(256 * 1024 + past).into()),
        // Beside `record_id`, its 22 bytes, and the flow.
        edge(&|record, past| record.attributes.extend((0..126 + past).map(|n| (format!("n{n}").into(), "v".into())))),
        edge(&|record, past| record.attributes[0].1 = "x".repeat(2_048 + past).into()),
        edge(&|record, past| {
            let age = if past == 0 { week - Duration::from_secs(60) } else { week + Duration::from_secs(60) };
            record.timestamp = now.saturating_sub(age);
            record.attributes[0].1 = "old".into();
        }),
        edge(&|record, past| {
            let ahead = Duration::from_secs(if past == 0 { 540 } else { 660 });
            record.timestamp = now.saturating_add(ahead);
            record.attributes[0].1 = "new".into();
        }),
        edge(&|record, past| {
            let fixed = "flow".len() + 1 + "record_id".len() + record.id.to_string().len() + "n".len();
            record.attributes.push(("n".into(), "x".repeat(64 * 1024 - fixed + past).into()));
        }),
    ];
    for (index, [within, past]) in spoilt.into_iter().enumerate() {
        let server = StrictLoki::start().await.unwrap();
        let exporter = unlimited(&server.url());
        let outcome = export(&exporter, vec![plain(1), within, plain(3)]).await.unwrap();
        assert_eq!(outcome.accepted_count(), 3, "{index}: {:?}", outcome.rejected().next());
        let outcome = export(&exporter, vec![plain(4), past, plain(5)]).await.unwrap();
        assert_eq!((places(&outcome), outcome.accepted_count()), (vec![1], 2), "{index}");
        assert_eq!(server.entries().len(), 5, "{index}");
    }
}

/// Goal: a line too far behind its stream is named; what Loki says nothing of is sent again. Method: two streams, of
/// which one is an hour ahead.
#[tokio::test]
async fn what_is_too_far_behind_is_named_and_other_streams_are_sent_again() {
    let server = StrictLoki::start().await.unwrap();
    let exporter = unlimited(&server.url());
    let now = Timestamp::now();
    let ago = |secs: u64| now.saturating_sub(Duration::from_secs(secs));
    assert_eq!(export(&exporter, vec![record(1, now, "a")]).await.unwrap().accepted_count(), 1);
    let chunk = || vec![record(2, ago(10), "a"), record(3, ago(3_700), "a"), record(4, ago(9_000), "b")];
    let outcome = export(&exporter, chunk()).await.unwrap();
    assert_eq!((places(&outcome), outcome.undelivered().collect::<Vec<_>>()), (vec![1], vec![2]));
    let outcome = export(&exporter, vec![chunk().remove(2)]).await.unwrap();
    assert_eq!(outcome.accepted_count(), 1);
    assert_eq!(server.entries().len(), 3, "the one that was sent again was known");
}

#[tokio::test]
async fn a_limit_of_one_stream_leaves_open_what_is_there_and_one_of_the_tenant_does_not() {
    let server = StrictLoki::start().await.unwrap();
    let exporter = unlimited(&server.url());
    let chunk = || vec![record(1, Timestamp::now(), "a"), record(2, Timestamp::now(), "b")];
    server.fail_next(1, Fault::Busy(Items::At(vec![1])));
    let error = export(&exporter, chunk()).await.unwrap_err();
    assert_eq!((error.kind(), error.certainty()), (ErrorKind::Throttled, Certainty::Unknown));
    assert_eq!(server.entries().len(), 1);
    server.max_streams(2);
    let third = vec![record(1, Timestamp::now(), "a"), record(2, Timestamp::now(), "c")];
    let error = export(&exporter, third).await.unwrap_err();
    assert_eq!((error.kind(), error.certainty()), (ErrorKind::Throttled, Certainty::Unknown));
    server.fail_next(1, Fault::status_after(429, "7"));
    let error = export(&exporter, chunk()).await.unwrap_err();
    assert_eq!(error.certainty(), Certainty::NotDelivered);
    assert_eq!(error.advice(), Advice::After(Some(Duration::from_secs(7))));
}

#[tokio::test]
async fn a_success_that_is_none_confirms_nothing() {
    let server = StrictLoki::start().await.unwrap();
    let exporter = unlimited(&server.url());
    for (status, body, certainty) in [
        (260, "ingestion blocked for user fake until 'x' with status code '260'", Certainty::NotDelivered),
        (200, "<html>sign in first</html>", Certainty::Unknown),
        (400, "something that nobody has said before", Certainty::Unknown),
    ] {
        server.answer_next(1, status, body);
        let chunk = vec![record(1, Timestamp::now(), "a"), record(2, Timestamp::now(), "b")];
        let error = export(&exporter, chunk).await.unwrap_err();
        assert!(error.is_retryable(), "{error}");
        assert_eq!((error.certainty(), error.advice() == Advice::Split), (certainty, status == 400), "{error}");
    }
    server.answer_next(1, 400, "something that nobody has said before");
    assert_eq!(places(&export(&exporter, vec![record(1, Timestamp::now(), "a")]).await.unwrap()), [0]);
}

/// Goal: what the distributor takes and an ingester does not is sent in halves. Method: Loki's own words of that.
#[tokio::test]
async fn what_is_too_large_within_loki_is_split() {
    let server = StrictLoki::start().await.unwrap();
    let exporter = unlimited(&server.url());
    let words =
        "rpc error: code = ResourceExhausted desc = grpc: received message larger than max (12948666 vs. 4194304)";
    server.answer_next(1, 500, words);
    let chunk = vec![record(1, Timestamp::now(), "a"), record(2, Timestamp::now(), "b")];
    let error = export(&exporter, chunk).await.unwrap_err();
    let what = (error.kind(), error.advice(), error.certainty());
    assert_eq!(what, (ErrorKind::TooLarge, Advice::Split, Certainty::Unknown), "{error}");
}

#[tokio::test]
async fn every_way_to_be_let_in_is_checked_without_a_record() {
    let server = StrictLoki::start().await.unwrap();
    server.require_bearer("hunter2");
    server.require_tenant("t");
    let url = server.url();
    loki(json!({"url": url, "tenant": "t", "auth": {"bearer": {"token": "hunter2"}}})).unwrap().check().await.unwrap();
    for fields in [
        json!({"url": url, "auth": {"bearer": {"token": "hunter2"}}}),
        json!({"url": url, "tenant": "t"}),
        json!({"url": url, "tenant": "other", "auth": {"bearer": {"token": "hunter2"}}}),
        json!({"url": url.replace("http://", "http://user:hunter2@"), "tenant": "t"}),
    ] {
        let error = loki(fields).unwrap().check().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Auth, "{error}");
        assert!(!format!("{error:?}").contains("hunter2"), "{error}");
    }
    assert!(server.entries().is_empty());
}

#[test]
fn a_wrong_configuration_is_refused_before_anything_is_sent() {
    let url = "http://localhost:3100";
    let labels =
        |count: usize| (0..count).map(|n| (format!("l{n}"), json!({"value": "v"}))).collect::<serde_json::Map<_, _>>();
    assert!(loki(json!({"url": url, "labels": labels(14)})).is_ok());
    for (fields, field) in [
        (json!({}), "url"),
        (json!({"url": url, "labels": labels(15)}), "labels"),
        (json!({"url": url, "labels": {"a.b": "severity"}}), "labels"),
        (json!({"url": url, "labels": {"__a": "severity"}}), "labels"),
        (json!({"url": url, "labels": {"a": "hostname"}}), "labels"),
        (json!({"url": url, "tenant": "a\nb"}), "tenant"),
        (json!({"url": url, "chunk_bytes_max": 104_857_601}), "chunk_bytes_max"),
        (json!({"url": url, "concurrency_max": 0}), "concurrency_max"),
        (json!({"url": url.replace("//", "//u:hunter2@"), "auth": {"bearer": {"token": "hunter2"}}}), "auth"),
    ] {
        let shown = fields.to_string();
        let error = loki(fields).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{shown}");
        assert!(error.to_string().contains(field) && !format!("{error:?}").contains("hunter2"), "{shown}: {error}");
    }
}
