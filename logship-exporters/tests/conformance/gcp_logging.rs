use std::sync::Arc;
use std::time::Duration;

use logship_core::{
    Advice, BuildContext, Certainty, Chunk, Cursor, Error, ErrorKind, Exporter, LogRecord, Outcome, Page, PageEnd,
    Partition, RecordId, Timestamp, async_trait, read_fields,
};
use logship_exporters::gcp_logging::GcpLogging;
use logship_testkit::conformance::exporter::{ExporterFixture, Request, World};
use logship_testkit::exporter_conformance;
use logship_testkit::strict::gcp_logging::StrictGcpLogging;
use logship_testkit::strict::{Fault, Items};
use serde_json::json;

use super::{nowhere, stand};

struct Fixture(StrictGcpLogging);

impl Fixture {
    async fn new(_: &str) -> Option<Self> {
        Some(Fixture(StrictGcpLogging::start().await.unwrap()))
    }
}

fn exporter(url: &str, key: &str) -> GcpLogging {
    let fields = json!({
        "endpoint": url, "service_account": key, "labels": {"app": "kit"}, "compression": "gzip",
        "connection": {"headers": {"X-Gateway": "sw0rdfish-gate"}},
    });
    let serde_json::Value::Object(fields) = fields else { unreachable!() };
    GcpLogging::new(read_fields(fields).unwrap(), &BuildContext::default()).unwrap()
}

fn open(server: &StrictGcpLogging) -> GcpLogging {
    exporter(&server.url(), &server.service_account_key())
}

#[async_trait]
impl ExporterFixture for Fixture {
    async fn open(&self) -> Arc<dyn Exporter> {
        Arc::new(open(&self.0))
    }

    async fn held(&self) -> Vec<String> {
        assert_eq!(self.0.too_old(), 0, "nothing is lost behind a success");
        self.0.entries().iter().map(ToString::to_string).collect()
    }

    async fn play(&self, world: World, requests: usize) -> bool {
        match world {
            World::Later(places) => {
                self.0.fail_next(requests, Fault::Busy(Items::At(places)));
                true
            }
            world => stand::play(&self.0, &world, 403, 404, requests),
        }
    }

    async fn unreachable(&self) -> Option<Arc<dyn Exporter>> {
        Some(Arc::new(exporter(&nowhere().await, &self.0.service_account_key())))
    }

    fn spoil(&self, record: &mut LogRecord) -> bool {
        record.timestamp = Timestamp::now().saturating_add(Duration::from_secs(25 * 60 * 60));
        true
    }

    fn secrets(&self) -> Vec<String> {
        ["PRIVATE KEY", "ya29.", "sw0rdfish"].map(str::to_owned).to_vec()
    }

    async fn requests(&self) -> Option<Vec<Request>> {
        Some(stand::requests(&self.0))
    }
}

exporter_conformance!(Fixture::new);

fn record(number: i64) -> LogRecord {
    let mut record = LogRecord::new(RecordId::new(Partition::new("p"), Cursor::number(number)), Timestamp::now());
    record.body = format!("text {number}").into();
    record
}

async fn export(exporter: &dyn Exporter, records: Vec<LogRecord>) -> Result<Outcome, Error> {
    let page = Page::new(Partition::new("p"), records, PageEnd::More);
    exporter.export(&Chunk::of_page(page, exporter.encoding().as_deref()).unwrap()).await
}

fn places(outcome: &Outcome) -> Vec<usize> {
    outcome.rejected().map(|(index, _)| index).collect()
}

/// Goal: each limit of an entry is met at its edge, and what is past it is named while all else is stored.
#[tokio::test]
async fn each_entry_that_google_refuses_is_named_and_the_others_are_there() {
    let edge = |spoil: &dyn Fn(&mut LogRecord, usize)| {
        [0, 1].map(|past| {
            let mut record = record(2);
            spoil(&mut record, past);
            record
        })
    };
    // What an entry has beside its message.
    let server = StrictGcpLogging::start().await.unwrap();
    export(&open(&server), vec![record(2)]).await.unwrap();
    let beside = server.entries()[0].to_string().len() - "text 2".len();
    for [within, past] in [
        edge(&|record, past| record.body = "x".repeat(256 * 1024 - beside + past).into()),
        edge(&|record, past| {
            let ahead = 24 * 60 * 60 - 60 + 120 * past as u64;
            record.timestamp = Timestamp::now().saturating_add(Duration::from_secs(ahead));
        }),
    ] {
        let server = StrictGcpLogging::start().await.unwrap();
        let exporter = open(&server);
        let outcome = export(&exporter, vec![record(1), within, record(3)]).await.unwrap();
        assert_eq!(outcome.accepted_count(), 3, "{:?}", outcome.rejected().next());
        let outcome = export(&exporter, vec![record(4), past, record(5)]).await.unwrap();
        assert_eq!((places(&outcome), outcome.accepted_count()), (vec![1], 2));
        assert_eq!(server.entries().len(), 5);
    }
}

/// Goal: a request of the largest size is taken, and one of a byte more is split, with nothing of it stored.
#[tokio::test]
async fn a_request_is_taken_up_to_its_largest_size() {
    let server = StrictGcpLogging::start().await.unwrap();
    let exporter = open(&server);
    let limit = exporter.limits().chunk_bytes_max.unwrap();
    let chunk = |last: usize| {
        let mut records: Vec<LogRecord> = (0..50).map(record).collect();
        records.iter_mut().for_each(|record| record.body = "x".repeat(190_000).into());
        records.push(record(50));
        records[50].body = "x".repeat(last).into();
        let page = Page::new(Partition::new("p"), records, PageEnd::More);
        Chunk::of_page(page, exporter.encoding().as_deref()).unwrap()
    };
    let last = limit - chunk(0).body().unwrap().unpacked_len;
    let largest = chunk(last);
    assert_eq!(largest.body().unwrap().unpacked_len, limit);
    let error = exporter.export(&chunk(last + 1)).await.unwrap_err();
    assert_eq!((error.advice(), error.certainty()), (Advice::Split, Certainty::NotDelivered), "{error}");
    assert!(server.entries().is_empty());
    let outcome = exporter.export(&largest).await.unwrap();
    // The last entry alone may be larger than an entry can be.
    assert_eq!(
        (outcome.accepted_count(), places(&outcome)),
        if last > 250_000 { (50, vec![50]) } else { (51, vec![]) }
    );
}

/// Goal: of one answer, some are refused, some are to come again, the others are there; and what is sent again is there
/// once.
#[tokio::test]
async fn one_answer_has_a_fate_for_each_entry() {
    let server = StrictGcpLogging::start().await.unwrap();
    let exporter = open(&server);
    let records = || {
        let mut records: Vec<LogRecord> = (0..5).map(record).collect();
        records.iter_mut().for_each(|record| record.timestamp = Timestamp::from_nanos(1_795_163_400_123_456_789));
        records[1].body = "x".repeat(300_000).into();
        records
    };
    server.fail_next(1, Fault::Busy(Items::At(vec![0, 3])));
    let outcome = export(&exporter, records()).await.unwrap();
    assert_eq!((places(&outcome), outcome.undelivered().collect::<Vec<_>>()), (vec![1], vec![0, 3]));
    assert_eq!((outcome.accepted_count(), server.entries().len()), (2, 2));
    let (_, why) = outcome.rejected().next().unwrap();
    assert!(why.code == "3" && why.reason.contains("exceeds maximum size"), "{why}");
    let outcome = export(&exporter, records()).await.unwrap();
    assert_eq!((outcome.accepted_count(), server.entries().len()), (4, 4));
}

#[tokio::test]
async fn an_answer_that_cannot_be_meant_confirms_nothing() {
    let server = StrictGcpLogging::start().await.unwrap();
    let exporter = open(&server);
    let kind = "type.googleapis.com/google.logging.v2.WriteLogEntriesPartialErrors";
    let partial = |status: u16, errors: serde_json::Value| {
        let details = json!([{"@type": kind, "logEntryErrors": errors}]);
        json!({"error": {"code": status, "details": details}}).to_string()
    };
    let denied = json!({"0": {"code": 7}, "1": {"code": 7}});
    for (status, body, expected, certainty) in [
        (200, "<html>sign in first</html>".to_owned(), ErrorKind::Protocol, Certainty::Unknown),
        (400, partial(400, json!({"2": {"code": 3}})), ErrorKind::Protocol, Certainty::Unknown),
        (403, partial(403, denied), ErrorKind::Auth, Certainty::NotDelivered),
        (400, partial(400, json!({})), ErrorKind::Rejected, Certainty::NotDelivered),
        (400, "x".repeat(2_000_000), ErrorKind::Rejected, Certainty::Unknown),
    ] {
        server.answer_next(1, status, &body);
        let error = export(&exporter, vec![record(1), record(2)]).await.unwrap_err();
        assert_eq!((error.kind(), error.certainty()), (expected, certainty), "{error}");
        assert!(certainty == Certainty::NotDelivered || error.is_retryable(), "{error}");
    }
    assert!(server.entries().is_empty());
}

/// Goal: a token that is no longer good is replaced by one request, and records are sent again then.
#[tokio::test]
async fn an_expired_token_is_replaced_once() {
    let server = StrictGcpLogging::start().await.unwrap();
    let exporter = open(&server);
    export(&exporter, vec![record(1)]).await.unwrap();
    export(&exporter, vec![record(2)]).await.unwrap();
    assert_eq!(server.tokens_given(), 1);
    server.expire_tokens();
    let error = export(&exporter, vec![record(3)]).await.unwrap_err();
    assert_eq!((error.kind(), error.advice()), (ErrorKind::Auth, Advice::Refresh), "{error}");
    exporter.refresh().await.unwrap();
    assert_eq!(export(&exporter, vec![record(3)]).await.unwrap().accepted_count(), 1);
    assert_eq!((server.tokens_given(), server.entries().len()), (2, 3));
}

/// Goal: looking whether all is well stores nothing, and says what is not.
#[tokio::test]
async fn a_check_stores_nothing() {
    let server = StrictGcpLogging::start().await.unwrap();
    open(&server).check().await.unwrap();
    let key = server.service_account_key().replace("logs@acme", "other@acme");
    let error = exporter(&server.url(), &key).check().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("check the service account"), "{error}");
    let key = server.service_account_key().replace("\"acme\"", "\"other\"");
    let error = exporter(&server.url(), &key).check().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Auth, "{error}");
    assert!(!format!("{error:?}").contains("PRIVATE KEY"));
    assert!(server.entries().is_empty());
}
