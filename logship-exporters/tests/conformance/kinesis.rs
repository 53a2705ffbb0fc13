use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::types::{ShardIteratorType, StreamStatus};
use logship_connect::Connection;
use logship_connect::aws::{Aws, AwsConfig};
use logship_core::{
    Advice, BuildContext, Certainty, Chunk, Cursor, Error, ErrorKind, Exporter, LogRecord, Outcome, Page, PageEnd,
    Partition, RecordId, Timestamp, async_trait, read_fields,
};
use logship_exporters::kinesis::Kinesis;
use logship_testkit::conformance::exporter::{ExporterFixture, Request, World};
use logship_testkit::conformance::server;
use logship_testkit::exporter_conformance;
use logship_testkit::strict::kinesis::StrictKinesis;
use logship_testkit::strict::{Fault, Items, Reply};
use serde_json::{Value, json};

use super::{nowhere, stand};

fn aws(url: &str) -> Value {
    json!({
        "region": "us-east-1", "endpoint": url,
        "credentials": {"static": {"access_key_id": "AKIDKIT", "secret_access_key": "hunter2-secret"}},
    })
}

fn kinesis(url: &str, fields: Value) -> Result<Kinesis, Error> {
    let mut all = json!({"stream_name": "kit", "aws": aws(url)});
    let (Some(all), Value::Object(fields)) = (all.as_object_mut(), fields) else { unreachable!() };
    all.extend(fields);
    Kinesis::new(read_fields(all.clone())?, &BuildContext::default())
}

/// A stand-in of ours, which fails for some records of a request.
struct Fixture(StrictKinesis);

impl Fixture {
    async fn new(_: &str) -> Option<Self> {
        let server = StrictKinesis::start().await.unwrap();
        server.require_access_key("AKIDKIT");
        server.create_for("kit", 4_096);
        Some(Fixture(server))
    }
}

#[async_trait]
impl ExporterFixture for Fixture {
    async fn open(&self) -> Arc<dyn Exporter> {
        Arc::new(kinesis(&self.0.url(), json!({})).unwrap())
    }

    async fn held(&self) -> Vec<String> {
        self.0.records("kit").into_iter().map(|record| String::from_utf8(record.data).unwrap()).collect()
    }

    async fn play(&self, world: World, requests: usize) -> bool {
        if let World::Later(places) = world {
            self.0.fail_next(requests, Fault::Busy(Items::At(places)));
            return true;
        }
        stand::play(&self.0, &world, 401, 404, requests)
    }

    async fn unreachable(&self) -> Option<Arc<dyn Exporter>> {
        Some(Arc::new(kinesis(&nowhere().await, json!({})).unwrap()))
    }

    fn secrets(&self) -> Vec<String> {
        vec!["hunter2".to_owned()]
    }

    async fn requests(&self) -> Option<Vec<Request>> {
        Some(stand::requests(&self.0))
    }
}

/// A stream of two shards of an emulator, which no other run has.
struct Emulator {
    client: Client,
    url: String,
    stream: String,
}

impl Emulator {
    async fn new(url: String) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let stream = format!("put-{}-{}-{number}", std::process::id(), Timestamp::now().as_millis());
        let config: AwsConfig = serde_json::from_value(aws(&url)).unwrap();
        let aws = Aws::new(&config, &Connection::default(), &BuildContext::default()).unwrap();
        let client = Client::new(aws.sdk_config().await.unwrap());
        client.create_stream().stream_name(&stream).shard_count(2).send().await.unwrap();
        let mut is_ready = false;
        for _ in 0..1_000 {
            let described = client.describe_stream_summary().stream_name(&stream).send().await.unwrap();
            is_ready = described.stream_description_summary.unwrap().stream_status == StreamStatus::Active;
            if is_ready {
                break;
            }
            tokio::task::yield_now().await;
        }
        assert!(is_ready, "the stream is not ready");
        Emulator { client, url, stream }
    }

    /// What each shard holds, the key and the record.
    async fn shards(&self) -> Vec<Vec<(String, String)>> {
        let mut all = Vec::new();
        for shard in self.client.list_shards().stream_name(&self.stream).send().await.unwrap().shards.unwrap() {
            let from = self.client.get_shard_iterator().stream_name(&self.stream).shard_id(shard.shard_id);
            let from = from.shard_iterator_type(ShardIteratorType::TrimHorizon).send().await.unwrap();
            let (mut next, mut found) = (from.shard_iterator, Vec::new());
            while let Some(iterator) = next {
                let answer = self.client.get_records().shard_iterator(iterator).send().await.unwrap();
                if answer.records.is_empty() {
                    break;
                }
                let record = |record: aws_sdk_kinesis::types::Record| {
                    (record.partition_key.unwrap(), String::from_utf8(record.data.into_inner()).unwrap())
                };
                found.extend(answer.records.into_iter().map(record));
                next = answer.next_shard_iterator;
            }
            all.push(found);
        }
        all
    }
}

async fn on_moto(_: &str) -> Option<Emulator> {
    Some(Emulator::new(server("LOGSHIP_MOTO_URL")?).await)
}

async fn on_kinesalite(_: &str) -> Option<Emulator> {
    Some(Emulator::new(server("LOGSHIP_KINESALITE_URL")?).await)
}

#[async_trait]
impl ExporterFixture for Emulator {
    async fn open(&self) -> Arc<dyn Exporter> {
        Arc::new(kinesis(&self.url, json!({"stream_name": self.stream})).unwrap())
    }

    async fn held(&self) -> Vec<String> {
        self.shards().await.into_iter().flatten().map(|(_, record)| record).collect()
    }
}

exporter_conformance!(Fixture::new);
exporter_conformance!(moto, on_moto);
exporter_conformance!(kinesalite, on_kinesalite);

fn record(number: i64, body: String) -> LogRecord {
    let id = RecordId::new(Partition::new("p"), Cursor::number(number));
    let mut record = LogRecord::new(id, Timestamp::parse("2026-11-20T08:30:00Z").unwrap());
    record.body = body.into();
    record
}

async fn export(exporter: &dyn Exporter, records: Vec<LogRecord>) -> Result<Outcome, Error> {
    let page = Page::new(Partition::new("p"), records, PageEnd::More);
    exporter.export(&Chunk::of_page(page, exporter.encoding().as_deref()).unwrap()).await
}

/// How many bytes a record is beside its body, with its key.
async fn overhead(server: &StrictKinesis, exporter: &dyn Exporter) -> usize {
    export(exporter, vec![record(1, String::new())]).await.unwrap();
    let first = server.records("kit").remove(0);
    first.partition_key.len() + first.data.len()
}

/// Goal: every limit is that of the service, to the byte. Method: what is at a limit is taken, and what is one past it
/// is refused as a whole; the exporter is given chunks that no engine cut. The engine cuts at the same places.
#[tokio::test]
async fn the_limits_are_those_of_the_service_to_the_byte() {
    const MIB: usize = 1_048_576;
    let server = StrictKinesis::start().await.unwrap();
    server.create("kit");
    let exporter = kinesis(&server.url(), json!({})).unwrap();
    let overhead = overhead(&server, &exporter).await;
    let of = |lengths: &[usize]| -> Vec<LogRecord> {
        let body = |bytes: &usize| "x".repeat(bytes - overhead);
        lengths.iter().zip(1..).map(|(bytes, number)| record(number, body(bytes))).collect()
    };
    let whole = [MIB; 10];
    let mut past = whole.to_vec();
    past[9] -= overhead + 100;
    past.push(overhead + 101);
    for (within, past) in
        [(of(&[MIB]), of(&[MIB + 1])), (of(&whole), of(&past)), (of(&[overhead; 500]), of(&[overhead; 501]))]
    {
        let (len, before) = (within.len(), server.records("kit").len());
        assert_eq!(export(&exporter, within).await.unwrap().accepted_count(), len);
        assert_eq!(server.records("kit").len(), before + len);
        let error = export(&exporter, past).await.unwrap_err();
        assert_eq!((error.kind(), error.advice()), (ErrorKind::Rejected, Advice::Split), "{error}");
        assert_eq!(server.records("kit").len(), before + len);
    }
    // One record may take a whole request, where the stream says so.
    server.create_for("large", 10 * MIB);
    let large = kinesis(&server.url(), json!({"stream_name": "large", "record_bytes_max": 10 * MIB})).unwrap();
    let limits = large.limits();
    let body = |bytes: usize| {
        let page = Page::new(Partition::new("p"), of(&[bytes]), PageEnd::More);
        Chunk::of_page(page, large.encoding().as_deref()).unwrap().body().unwrap().unpacked_len
    };
    assert_eq!(Some(body(10 * MIB)), limits.record_bytes_max);
    assert_eq!(limits.chunk_bytes_max, limits.record_bytes_max);
    assert_eq!(export(&large, of(&[10 * MIB])).await.unwrap().accepted_count(), 1);
    assert_eq!(export(&large, of(&[10 * MIB + 1])).await.unwrap_err().advice(), Advice::Split);
    assert_eq!(Some(body(MIB)), exporter.limits().record_bytes_max);
}

/// Goal: a record that is not taken is sent again, and no other is. Method: some fail in each of three requests, with
/// both of the codes that there are.
#[tokio::test]
async fn c3_of_a_request_that_fails_in_part_only_that_part_is_sent_again() {
    let server = StrictKinesis::start().await.unwrap();
    server.create("kit");
    let exporter = kinesis(&server.url(), json!({})).unwrap();
    let mut left: Vec<i64> = (0..20).collect();
    for failing in [vec![0, 3, 4, 19], vec![1, 2], vec![1], vec![]] {
        server.fail_next(1, Fault::Busy(Items::At(failing.clone())));
        let records = left.iter().map(|number| record(*number, format!("text {number}"))).collect();
        let outcome = export(&exporter, records).await.unwrap();
        assert_eq!(outcome.undelivered().collect::<Vec<_>>(), failing);
        assert_eq!((outcome.accepted_count(), outcome.rejected().count()), (left.len() - failing.len(), 0));
        left = failing.iter().map(|place| left[*place]).collect();
    }
    let mut found: Vec<String> = server.records("kit").into_iter().map(|record| record.partition_key).collect();
    found.sort();
    assert_eq!(found, (0..20).map(|number| record(number, String::new()).id.to_string()).collect::<Vec<_>>());
}

/// Goal: records of one key are in one shard, and those of many are in both.
#[tokio::test]
async fn a_partition_key_decides_the_shard() {
    for emulator in [on_moto("").await, on_kinesalite("").await].into_iter().flatten() {
        let put = async |partition_key: Value| {
            let fields = json!({"stream_name": emulator.stream, "partition_key": partition_key});
            let records = (0..40).map(|number| {
                let mut record = record(number, "text".to_owned());
                record.attributes = vec![("flow".into(), format!("flow-{}", number % 10).into())];
                record
            });
            export(&kinesis(&emulator.url, fields).unwrap(), records.collect()).await.unwrap();
        };
        put(json!("partition")).await;
        let shards = emulator.shards().await;
        assert_eq!(shards.iter().filter(|shard| shard.is_empty()).count(), 1, "one shard has all");
        assert!(shards.iter().flatten().all(|(key, _)| key == "p"));
        put(json!("id")).await;
        put(json!({"attribute": "flow"})).await;
        let shards = emulator.shards().await;
        assert_eq!(shards.iter().map(Vec::len).sum::<usize>(), 120);
        let keys = |shard: &Vec<(String, String)>| shard.iter().map(|(key, _)| key.clone()).collect();
        let keys: Vec<BTreeSet<String>> = shards.iter().map(keys).collect();
        assert!(keys.iter().all(|keys| keys.len() > 10), "both shards have some of many keys");
        assert!(keys[0].is_disjoint(&keys[1]), "a key is in one shard");
    }
}

#[tokio::test]
async fn each_answer_has_its_meaning() {
    let server = StrictKinesis::start().await.unwrap();
    server.create("kit");
    let exporter = kinesis(&server.url(), json!({})).unwrap();
    for (status, code, kind, advice) in [
        (400, "ProvisionedThroughputExceededException", ErrorKind::Throttled, Advice::After(None)),
        (400, "KMSThrottlingException", ErrorKind::Throttled, Advice::After(None)),
        (400, "KMSAccessDeniedException", ErrorKind::Rejected, Advice::Never),
        (400, "InvalidArgumentException", ErrorKind::Rejected, Advice::Split),
        (400, "ResourceNotFoundException", ErrorKind::NotFound, Advice::Never),
        (400, "ExpiredTokenException", ErrorKind::Auth, Advice::Refresh),
        (400, "AccessDeniedException", ErrorKind::Auth, Advice::Never),
        (500, "InternalFailureException", ErrorKind::Unavailable, Advice::After(None)),
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
    let server = StrictKinesis::start().await.unwrap();
    server.create("kit");
    let check = |fields: Value| kinesis(&server.url(), fields).unwrap();
    check(json!({})).check().await.unwrap();
    assert_eq!(check(json!({"stream_name": "absent"})).check().await.unwrap_err().kind(), ErrorKind::NotFound);
    server.fail_next(1, Fault::status(403));
    check(json!({})).check().await.unwrap();
    server.require_access_key("AKIDOTHER");
    assert_eq!(check(json!({})).check().await.unwrap_err().kind(), ErrorKind::Auth);
    assert!(server.records("kit").is_empty());
}
