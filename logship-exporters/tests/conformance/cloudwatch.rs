use std::sync::Arc;
use std::time::Duration;

use logship_core::{
    Advice, BuildContext, Certainty, Chunk, Cursor, Error, ErrorKind, Exporter, LogRecord, Outcome, Page, PageEnd,
    Partition, RecordId, Timestamp, async_trait, read_fields,
};
use logship_exporters::cloudwatch::CloudWatch;
use logship_testkit::conformance::exporter::{ExporterFixture, Request, World};
use logship_testkit::exporter_conformance;
use logship_testkit::strict::cloudwatch::StrictCloudWatch;
use logship_testkit::strict::{Fault, Reply};
use serde_json::json;

use super::{nowhere, stand};

const DAY: Duration = Duration::from_secs(24 * 3600);

struct Fixture(StrictCloudWatch);

impl Fixture {
    async fn new(_: &str) -> Option<Self> {
        let server = StrictCloudWatch::start().await.unwrap();
        server.require_access_key("AKIDKIT");
        server.create("kit", "stream");
        Some(Fixture(server))
    }
}

fn cloudwatch(url: &str, fields: serde_json::Value) -> Result<CloudWatch, Error> {
    let mut all = json!({
        "log_group_name": "kit", "log_stream_name": "stream",
        "aws": {
            "region": "eu-west-1", "endpoint": url,
            "credentials": {"static": {"access_key_id": "AKIDKIT", "secret_access_key": "hunter2-secret"}},
        },
    });
    let (Some(all), serde_json::Value::Object(fields)) = (all.as_object_mut(), fields) else { unreachable!() };
    all.extend(fields);
    CloudWatch::new(read_fields(all.clone())?, &BuildContext::default())
}

fn exporter(url: &str) -> Arc<dyn Exporter> {
    Arc::new(cloudwatch(url, json!({"create_log_stream": false, "chunk_bytes_max": 20_000})).unwrap())
}

#[async_trait]
impl ExporterFixture for Fixture {
    async fn open(&self) -> Arc<dyn Exporter> {
        exporter(&self.0.url())
    }

    async fn held(&self) -> Vec<String> {
        self.0.events("kit", "stream").into_iter().map(|event| event.message).collect()
    }

    async fn play(&self, world: World, requests: usize) -> bool {
        stand::play(&self.0, &world, 401, 404, requests)
    }

    async fn unreachable(&self) -> Option<Arc<dyn Exporter>> {
        Some(exporter(&nowhere().await))
    }

    fn spoil(&self, record: &mut LogRecord) -> bool {
        record.timestamp = Timestamp::now().saturating_add(DAY / 2);
        true
    }

    fn secrets(&self) -> Vec<String> {
        vec!["hunter2".to_owned()]
    }

    async fn requests(&self) -> Option<Vec<Request>> {
        Some(stand::requests(&self.0))
    }
}

exporter_conformance!(Fixture::new);

fn record(number: i64, time: Timestamp) -> LogRecord {
    let mut record = LogRecord::new(RecordId::new(Partition::new("p"), Cursor::number(number)), time);
    record.body = format!("text {number}").into();
    record
}

async fn export(exporter: &dyn Exporter, records: Vec<LogRecord>) -> Result<Outcome, Error> {
    let page = Page::new(Partition::new("p"), records, PageEnd::More);
    exporter.export(&Chunk::of_page(page, exporter.encoding().as_deref()).unwrap()).await
}

fn text(url: &str) -> CloudWatch {
    cloudwatch(url, json!({"message": "text"})).unwrap()
}

fn messages(server: &StrictCloudWatch) -> Vec<String> {
    server.events("kit", "stream").into_iter().map(|event| event.message).collect()
}

/// Goal: every limit is that of the service, to the byte. Method: what is at a limit is taken, and what is one past it
/// is refused as a whole; the exporter is given chunks that no engine cut.
#[tokio::test]
async fn the_limits_are_those_of_the_service_to_the_byte() {
    let server = StrictCloudWatch::start().await.unwrap();
    server.create("kit", "stream");
    let exporter = text(&server.url());
    let limits = exporter.limits();
    let now = Timestamp::now();
    let of = |bodies: Vec<String>| {
        let records = bodies.into_iter().enumerate().map(|(index, body)| {
            let mut record = record(index as i64 + 1, now);
            record.body = body.into();
            record
        });
        records.collect::<Vec<_>>()
    };
    let (batch, events) = (limits.chunk_bytes_max.unwrap(), limits.chunk_records_max.unwrap());
    for (within, past) in [
        (of(vec!["x".repeat(batch - 26)]), of(vec!["x".repeat(batch - 25)])),
        (
            of(vec!["ü".repeat(100_000), "y".repeat(batch - 200_052)]),
            of(vec!["ü".repeat(100_000), "y".repeat(batch - 200_051)]),
        ),
        (of(vec!["z".to_owned(); events]), of(vec!["z".to_owned(); events + 1])),
        (
            vec![record(1, now.saturating_sub(limits.span_max.unwrap())), record(2, now)],
            vec![record(1, now.saturating_sub(limits.span_max.unwrap() + Duration::from_millis(1))), record(2, now)],
        ),
    ] {
        let (len, before) = (within.len(), messages(&server).len());
        assert_eq!(export(&exporter, within).await.unwrap().accepted_count(), len);
        assert_eq!(messages(&server).len(), before + len);
        let error = export(&exporter, past).await.unwrap_err();
        assert_eq!((error.kind(), error.advice()), (ErrorKind::Rejected, Advice::Split), "{error}");
        assert_eq!(messages(&server).len(), before + len);
    }
}

/// Goal: too old, expired and too new are told apart, and what is between is there once, in whatever order it came.
#[tokio::test]
async fn each_record_has_the_fate_that_the_borders_give_it() {
    let server = StrictCloudWatch::start().await.unwrap();
    server.create("kit", "stream");
    let exporter = text(&server.url());
    let now = Timestamp::now();
    let ago = |time: Duration| now.saturating_sub(time);
    let soon = Duration::from_secs(60);
    for (times, codes) in [
        (vec![now, ago(14 * DAY + soon), ago(14 * DAY - soon), ago(13 * DAY + DAY / 2)], None),
        (vec![ago(14 * DAY - soon), ago(14 * DAY + soon), ago(14 * DAY - 2 * soon)], Some(vec![(1, "tooOld")])),
        (
            vec![now.saturating_add(DAY / 12 + soon), now, now.saturating_add(DAY / 12 - soon), now],
            Some(vec![(0, "tooNew")]),
        ),
    ] {
        let before = messages(&server).len();
        let records: Vec<LogRecord> = times.iter().zip(1..).map(|(time, number)| record(number, *time)).collect();
        let result = export(&exporter, records).await;
        let Some(codes) = codes else {
            assert_eq!(result.unwrap_err().advice(), Advice::Split, "a day is not spanned");
            continue;
        };
        let outcome = result.unwrap();
        let refused: Vec<(usize, &str)> = outcome.rejected().map(|(index, why)| (index, why.code.as_str())).collect();
        assert_eq!(refused, codes);
        assert_eq!(outcome.accepted_count(), times.len() - codes.len());
        assert_eq!(messages(&server).len(), before + times.len() - codes.len());
    }
    server.retain("kit", 3);
    let outcome =
        export(&exporter, vec![record(8, ago(3 * DAY + soon)), record(9, ago(3 * DAY - soon))]).await.unwrap();
    assert_eq!(
        outcome.rejected().map(|(index, why)| (index, why.code.clone())).collect::<Vec<_>>(),
        [(0, "expired".to_owned())]
    );
    assert!(messages(&server).contains(&"text 9".to_owned()) && !messages(&server).contains(&"text 8".to_owned()));
}

#[tokio::test]
async fn what_is_missing_is_made_and_the_batch_is_to_be_sent_again() {
    let server = StrictCloudWatch::start().await.unwrap();
    let make = json!({"create_log_group": true, "retention_days": 30, "stream_per_partition": true});
    let exporter = cloudwatch(&server.url(), make).unwrap();
    let error = export(&exporter, vec![record(1, Timestamp::now())]).await.unwrap_err();
    assert_eq!((error.certainty(), error.advice()), (Certainty::NotDelivered, Advice::After(None)), "{error}");
    assert_eq!((server.streams("kit"), server.retention("kit")), (vec!["stream/p".to_owned()], Some(30)));
    assert_eq!(export(&exporter, vec![record(1, Timestamp::now())]).await.unwrap().accepted_count(), 1);
    assert_eq!(server.events("kit", "stream/p").len(), 1);
    // A group is not made unless that was asked for.
    let other = cloudwatch(&server.url(), json!({"log_group_name": "other"})).unwrap();
    let error = export(&other, vec![record(1, Timestamp::now())]).await.unwrap_err();
    assert_eq!((error.kind(), error.advice()), (ErrorKind::NotFound, Advice::Never), "{error}");
    assert!(server.streams("other").is_empty());
}

#[tokio::test]
async fn a_success_that_is_none_confirms_nothing() {
    let server = StrictCloudWatch::start().await.unwrap();
    server.create("kit", "stream");
    let page = Reply::text(200, "<html>sign in first</html>");
    server.fail_next(1, Fault::Answer(page));
    let error = export(&text(&server.url()), vec![record(1, Timestamp::now())]).await.unwrap_err();
    assert_eq!((error.kind(), error.certainty()), (ErrorKind::Protocol, Certainty::Unknown), "{error}");
}

#[tokio::test]
async fn credentials_that_have_ended_are_read_again_once() {
    let server = StrictCloudWatch::start().await.unwrap();
    server.create("kit", "stream");
    server.require_access_key("AKIDNEW");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "AKIDOLD").unwrap();
    let credentials = json!({"static": {"access_key_id": {"file": file.path()}, "secret_access_key": "hunter2"}});
    let aws = json!({"region": "eu-west-1", "endpoint": server.url(), "credentials": credentials});
    let exporter = cloudwatch(&server.url(), json!({"aws": aws})).unwrap();
    let error = export(&exporter, vec![record(1, Timestamp::now())]).await.unwrap_err();
    assert_eq!((error.kind(), error.advice()), (ErrorKind::Auth, Advice::Refresh), "{error}");
    assert_eq!(exporter.refresh().await.unwrap_err().kind(), ErrorKind::Auth);
    std::fs::write(file.path(), "AKIDNEW").unwrap();
    exporter.refresh().await.unwrap();
    assert_eq!(export(&exporter, vec![record(1, Timestamp::now())]).await.unwrap().accepted_count(), 1);
    assert_eq!(messages(&server).len(), 1);
}

#[tokio::test]
async fn a_check_sends_nothing_and_tells_what_is_wrong() {
    let server = StrictCloudWatch::start().await.unwrap();
    let fixed = json!({"create_log_stream": false});
    let check = |fields: serde_json::Value| cloudwatch(&server.url(), fields).unwrap();
    assert_eq!(check(fixed.clone()).check().await.unwrap_err().kind(), ErrorKind::NotFound);
    check(json!({"create_log_group": true})).check().await.unwrap();
    server.create("kit", "stream-2");
    assert_eq!(check(fixed.clone()).check().await.unwrap_err().kind(), ErrorKind::NotFound);
    server.create("kit", "stream");
    check(fixed.clone()).check().await.unwrap();
    server.fail_next(1, Fault::status(403));
    check(fixed.clone()).check().await.unwrap();
    server.require_access_key("AKIDOTHER");
    assert_eq!(check(fixed).check().await.unwrap_err().kind(), ErrorKind::Auth);
}

#[test]
fn a_wrong_configuration_is_refused_before_anything_is_sent() {
    let url = "http://localhost:4586";
    for (fields, field) in [
        (json!({"log_group_name": ""}), "log_group_name"),
        (json!({"log_group_name": "arn:aws:logs:eu-west-1:123456789012:log-group:kit"}), "log_group_name"),
        (json!({"log_stream_name": "a:b"}), "log_stream_name"),
        (json!({"log_stream_name": "x".repeat(513)}), "log_stream_name"),
        (json!({"retention_days": 2}), "retention_days"),
        (json!({"chunk_bytes_max": 1_048_577}), "chunk_bytes_max"),
        (json!({"chunk_bytes_max": 26}), "chunk_bytes_max"),
        (json!({"message": "xml"}), "message"),
        (json!({"aws": {"endpoint": "localhost"}}), "aws.endpoint"),
        (json!({"aws": {"endpoint": "http://u:hunter2@localhost"}}), "aws.endpoint"),
        (json!({"aws": {"role": {"arn": "r", "session_secs": 60}}}), "aws.role.session_secs"),
        (json!({"aws": {"credentials": {"static": {"access_key_id": "", "secret_access_key": "x"}}}}), "access_key_id"),
    ] {
        let shown = fields.to_string();
        let error = cloudwatch(url, fields).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{shown}");
        assert!(error.to_string().contains(field) && !format!("{error:?}").contains("hunter2"), "{shown}: {error}");
    }
    let kestra = json!({"logGroupName": "kestra", "logStreamName": "production"}).as_object().unwrap().clone();
    assert!(CloudWatch::new(read_fields(kestra).unwrap(), &BuildContext::default()).is_ok());
}
