use std::sync::Arc;

use logship_core::{
    Advice, BuildContext, Certainty, Chunk, Cursor, Error, ErrorKind, Exporter, LogRecord, Outcome, Page, PageEnd,
    Partition, RecordId, Timestamp, async_trait, read_fields,
};
use logship_exporters::firehose::Firehose;
use logship_testkit::conformance::exporter::{ExporterFixture, Request, World};
use logship_testkit::exporter_conformance;
use logship_testkit::strict::firehose::StrictFirehose;
use logship_testkit::strict::{Fault, Items, Reply};
use serde_json::{Value, json};

use super::{nowhere, stand};

fn firehose(url: &str, fields: Value) -> Result<Firehose, Error> {
    let mut all = json!({
        "delivery_stream_name": "kit",
        "aws": {
            "region": "us-east-1", "endpoint": url,
            "credentials": {"static": {"access_key_id": "AKIDKIT", "secret_access_key": "hunter2-secret"}},
        },
    });
    let (Some(all), Value::Object(fields)) = (all.as_object_mut(), fields) else { unreachable!() };
    all.extend(fields);
    Firehose::new(read_fields(all.clone())?, &BuildContext::default())
}

/// A stand-in of ours, which fails for some records of a request.
struct Fixture(StrictFirehose);

impl Fixture {
    async fn new(_: &str) -> Option<Self> {
        let server = StrictFirehose::start().await.unwrap();
        server.require_access_key("AKIDKIT");
        server.create("kit");
        Some(Fixture(server))
    }
}

#[async_trait]
impl ExporterFixture for Fixture {
    async fn open(&self) -> Arc<dyn Exporter> {
        Arc::new(firehose(&self.0.url(), json!({})).unwrap())
    }

    async fn held(&self) -> Vec<String> {
        self.0.records("kit").into_iter().map(|record| String::from_utf8(record).unwrap()).collect()
    }

    async fn play(&self, world: World, requests: usize) -> bool {
        if let World::Later(places) = world {
            self.0.fail_next(requests, Fault::Busy(Items::At(places)));
            return true;
        }
        stand::play(&self.0, &world, 401, 404, requests)
    }

    async fn unreachable(&self) -> Option<Arc<dyn Exporter>> {
        Some(Arc::new(firehose(&nowhere().await, json!({})).unwrap()))
    }

    fn secrets(&self) -> Vec<String> {
        vec!["hunter2".to_owned()]
    }

    async fn requests(&self) -> Option<Vec<Request>> {
        Some(stand::requests(&self.0))
    }
}

exporter_conformance!(Fixture::new);

/// Moto's Firehose, which writes what it is given to a bucket at once.
#[cfg(feature = "s3")]
mod on_moto {
    use super::*;
    use crate::clouds::{self, Cloud};
    use logship_testkit::conformance::server;

    struct Emulator {
        url: String,
        stream: String,
        cloud: Cloud,
    }

    async fn emulator(_: &str) -> Option<Emulator> {
        let (url, cloud) = (server("LOGSHIP_MOTO_URL")?, clouds::s3::cloud().await?);
        let stream = cloud.name.clone();
        // With what AWS fills in itself and moto does not, for the SDK reads no description without it.
        let bucket = json!({
            "RoleARN": "arn:aws:iam::123456789012:role/r", "BucketARN": format!("arn:aws:s3:::{stream}"),
            "BufferingHints": {"SizeInMBs": 5, "IntervalInSeconds": 300}, "CompressionFormat": "UNCOMPRESSED",
            "EncryptionConfiguration": {"NoEncryptionConfig": "NoEncryption"},
        });
        let made = json!({"DeliveryStreamName": stream, "S3DestinationConfiguration": bucket});
        let credential = "Credential=AKIDKIT/20261121/us-east-1/firehose/aws4_request";
        let client = logship_connect::Connection::default().client("ask moto", &BuildContext::default()).unwrap();
        let request = client
            .post(&url)
            .header("x-amz-target", "Firehose_20150804.CreateDeliveryStream")
            .header("content-type", "application/x-amz-json-1.1")
            .header("authorization", format!("AWS4-HMAC-SHA256 {credential}, SignedHeaders=host, Signature=0"))
            .body(made.to_string());
        let answer = request.send().await.unwrap();
        assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
        Some(Emulator { url, stream, cloud })
    }

    #[async_trait]
    impl ExporterFixture for Emulator {
        async fn open(&self) -> Arc<dyn Exporter> {
            Arc::new(firehose(&self.url, json!({"delivery_stream_name": self.stream})).unwrap())
        }

        /// The lines of all objects: that there is one for each record is what the line breaks are for.
        async fn held(&self) -> Vec<String> {
            let objects = self.cloud.objects().await.into_iter();
            let lines = |(_, bytes): (String, Vec<u8>)| {
                String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect::<Vec<_>>()
            };
            objects.flat_map(lines).collect()
        }
    }

    exporter_conformance!(moto, emulator);
}

fn record(number: i64, body: String) -> LogRecord {
    let id = RecordId::new(Partition::new("p"), Cursor::number(number));
    let mut record = LogRecord::new(id, Timestamp::parse("2026-11-20T08:30:00Z").unwrap());
    record.body = body.into();
    record
}

fn chunk(exporter: &dyn Exporter, records: Vec<LogRecord>) -> Chunk {
    let page = Page::new(Partition::new("p"), records, PageEnd::More);
    Chunk::of_page(page, exporter.encoding().as_deref()).unwrap()
}

async fn export(exporter: &dyn Exporter, records: Vec<LogRecord>) -> Result<Outcome, Error> {
    exporter.export(&chunk(exporter, records)).await
}

/// Goal: every limit is that of the service, to the byte, with line breaks and without. Method: what is at a limit is
/// taken, and what is one past it is refused as a whole; the exporter is given chunks that no engine cut. The engine cuts
/// at the same places.
#[tokio::test]
async fn the_limits_are_those_of_the_service_to_the_byte() {
    const RECORD: usize = 1_024_000;
    const REQUEST: usize = 4_194_304;
    let server = StrictFirehose::start().await.unwrap();
    for newline in [true, false] {
        server.create("kit");
        let exporter = firehose(&server.url(), json!({"newline": newline})).unwrap();
        export(&exporter, vec![record(1, String::new())]).await.unwrap();
        let first = server.records("kit").remove(0);
        assert_eq!((first.ends_with(b"\n"), first.starts_with(b"{")), (newline, true));
        let overhead = first.len();
        let of = |lengths: &[usize]| -> Vec<LogRecord> {
            let body = |bytes: &usize| "x".repeat(bytes - overhead);
            lengths.iter().zip(1..).map(|(bytes, number)| record(number, body(bytes))).collect()
        };
        let rest = REQUEST - 4 * RECORD;
        for (within, past) in [
            (of(&[RECORD]), of(&[RECORD + 1])),
            (of(&[RECORD, RECORD, RECORD, RECORD, rest]), of(&[RECORD, RECORD, RECORD, RECORD, rest + 1])),
            (of(&[overhead; 500]), of(&[overhead; 501])),
        ] {
            let (len, before) = (within.len(), server.records("kit").len());
            assert_eq!(export(&exporter, within).await.unwrap().accepted_count(), len);
            assert_eq!(server.records("kit").len(), before + len);
            let error = export(&exporter, past).await.unwrap_err();
            assert_eq!((error.kind(), error.advice()), (ErrorKind::Rejected, Advice::Split), "{error}");
            assert_eq!(server.records("kit").len(), before + len);
        }
        let limits = exporter.limits();
        let bytes = |lengths: &[usize]| chunk(&exporter, of(lengths)).body().unwrap().unpacked_len;
        assert_eq!(Some(bytes(&[RECORD])), limits.record_bytes_max);
        assert_eq!(limits.chunk_bytes_max, Some(REQUEST + usize::from(!newline)));
    }
}

/// Goal: a record that is not taken is sent again, and no other is.
#[tokio::test]
async fn c3_of_a_request_that_fails_in_part_only_that_part_is_sent_again() {
    let server = StrictFirehose::start().await.unwrap();
    server.create("kit");
    let exporter = firehose(&server.url(), json!({})).unwrap();
    let mut left: Vec<i64> = (10..30).collect();
    for failing in [vec![0, 3, 4, 19], vec![1, 2], vec![1], vec![]] {
        server.fail_next(1, Fault::Busy(Items::At(failing.clone())));
        let records = left.iter().map(|number| record(*number, format!("text {number}"))).collect();
        let outcome = export(&exporter, records).await.unwrap();
        assert_eq!(outcome.undelivered().collect::<Vec<_>>(), failing);
        assert_eq!((outcome.accepted_count(), outcome.rejected().count()), (left.len() - failing.len(), 0));
        left = failing.iter().map(|place| left[*place]).collect();
    }
    let text = |data: Vec<u8>| serde_json::from_slice::<Value>(&data).unwrap()["body"].as_str().unwrap().to_owned();
    let mut found: Vec<String> = server.records("kit").into_iter().map(text).collect();
    found.sort();
    assert_eq!(found, (10..30).map(|number| format!("text {number}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn each_answer_has_its_meaning() {
    let server = StrictFirehose::start().await.unwrap();
    server.create("kit");
    let exporter = firehose(&server.url(), json!({})).unwrap();
    for (status, code, kind, advice) in [
        (500, "ServiceUnavailableException", ErrorKind::Unavailable, Advice::After(None)),
        (400, "ThrottlingException", ErrorKind::Throttled, Advice::After(None)),
        (400, "InvalidArgumentException", ErrorKind::Rejected, Advice::Split),
        (400, "InvalidSourceException", ErrorKind::Rejected, Advice::Never),
        (400, "InvalidKMSResourceException", ErrorKind::Rejected, Advice::Never),
        (400, "ResourceNotFoundException", ErrorKind::NotFound, Advice::Never),
        (400, "ExpiredTokenException", ErrorKind::Auth, Advice::Refresh),
        (400, "AccessDeniedException", ErrorKind::Auth, Advice::Never),
        (413, "RequestEntityTooLarge", ErrorKind::TooLarge, Advice::Split),
    ] {
        server.fail_next(1, Fault::Answer(Reply::new(status, json!({"__type": code, "message": "no"}))));
        let error = export(&exporter, vec![record(1, "text".to_owned())]).await.unwrap_err();
        assert_eq!((error.kind(), error.advice()), (kind, advice), "{code}: {error:?}");
        assert!(error.to_string().contains("stream: kit"), "{error}");
    }
    server.fail_next(1, Fault::Answer(Reply::text(200, "<html>sign in first</html>")));
    let error = export(&exporter, vec![record(1, "text".to_owned())]).await.unwrap_err();
    assert_eq!((error.kind(), error.certainty()), (ErrorKind::Protocol, Certainty::Unknown), "{error}");
    assert!(server.records("kit").is_empty());
}

#[tokio::test]
async fn a_check_sends_nothing_and_tells_what_is_wrong() {
    let server = StrictFirehose::start().await.unwrap();
    server.create("kit");
    let check = |fields: Value| firehose(&server.url(), fields).unwrap();
    check(json!({})).check().await.unwrap();
    let absent = json!({"delivery_stream_name": "absent"});
    assert_eq!(check(absent).check().await.unwrap_err().kind(), ErrorKind::NotFound);
    server.fail_next(1, Fault::status(403));
    check(json!({})).check().await.unwrap();
    server.require_access_key("AKIDOTHER");
    assert_eq!(check(json!({})).check().await.unwrap_err().kind(), ErrorKind::Auth);
    assert!(server.records("kit").is_empty());
}
