//! Against moto, whose sequence numbers are 1, 2, 3, kinesalite, which has those of 56 digits, and a script for what
//! neither does.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::{PutRecordsRequestEntry, StreamStatus};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use logship_connect::Connection;
use logship_connect::aws::{Aws, AwsConfig};
use logship_core::{
    BuildContext, Error, ErrorKind, Page, PageEnd, PageLimits, Partition, Query, Source, Start, Timestamp, async_trait,
    read_fields,
};
use logship_sources::kinesis::KinesisSource;
use logship_testkit::conformance::server;
use logship_testkit::conformance::source::{Row, SourceFixture, WIDE, read_on};
use logship_testkit::source_conformance;
use logship_testkit::strict::{Call, Destination, Reply, SeenRequest, Strict};
use md5::{Digest, Md5};
use serde_json::{Value, json};

use super::level;

fn aws(url: &str) -> Value {
    json!({
        "region": "us-east-1", "endpoint": url,
        "credentials": {"static": {"access_key_id": "AKIDKIT", "secret_access_key": "hunter2-secret"}},
    })
}

fn source(url: &str, fields: Value) -> Result<KinesisSource, Error> {
    let mut all = json!({"requests_per_second": 100_000, "list_interval_secs": 0, "aws": aws(url)});
    let (Some(all), Value::Object(fields)) = (all.as_object_mut(), fields) else { unreachable!() };
    all.extend(fields);
    KinesisSource::new(read_fields(all.clone())?, &BuildContext::default())
}

/// A stream that no other run has.
struct Stream {
    client: Client,
    url: String,
    name: String,
}

impl Stream {
    async fn new(url: String, shards: i32) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("kit-{}-{}-{number}", std::process::id(), Timestamp::now().as_millis());
        let config: AwsConfig = serde_json::from_value(aws(&url)).unwrap();
        let aws = Aws::new(&config, &Connection::default(), &BuildContext::default()).unwrap();
        let client = Client::new(aws.sdk_config().await.unwrap());
        client.create_stream().stream_name(&name).shard_count(shards).send().await.unwrap();
        let stream = Stream { client, url, name };
        stream.wait().await;
        stream
    }

    /// Until it is as it was asked to be.
    async fn wait(&self) {
        let mut is_ready = false;
        for _ in 0..1_000 {
            let described = self.client.describe_stream_summary().stream_name(&self.name).send().await.unwrap();
            is_ready = described.stream_description_summary.unwrap().stream_status == StreamStatus::Active;
            if is_ready {
                break;
            }
            tokio::task::yield_now().await;
        }
        assert!(is_ready, "the stream is not ready");
    }

    /// Puts each into the shard of the lower or the upper half of hash keys.
    async fn put(&self, records: impl IntoIterator<Item = (usize, Vec<u8>)>) {
        let entry = |(half, data): (usize, Vec<u8>)| {
            let key = (half as u128) << 127;
            let entry = PutRecordsRequestEntry::builder().data(Blob::new(data)).partition_key("k");
            entry.explicit_hash_key(key.to_string()).build().unwrap()
        };
        let entries: Vec<_> = records.into_iter().map(entry).collect();
        for entries in entries.chunks(500) {
            let put = self.client.put_records().stream_name(&self.name).set_records(Some(entries.to_vec()));
            assert_eq!(put.send().await.unwrap().failed_record_count, Some(0));
        }
    }

    fn source(&self, mut fields: Value) -> KinesisSource {
        fields["stream_name"] = self.name.as_str().into();
        source(&self.url, fields).unwrap()
    }

    fn partition(&self, shard: usize) -> Partition {
        Partition::new(format!("{}:shardId-{shard:012}", self.name))
    }
}

async fn on_moto(_: &str) -> Option<Stream> {
    Some(Stream::new(server("LOGSHIP_MOTO_URL")?, 2).await)
}

async fn on_kinesalite(_: &str) -> Option<Stream> {
    Some(Stream::new(server("LOGSHIP_KINESALITE_URL")?, 2).await)
}

async fn both() -> Vec<Stream> {
    [on_moto("").await, on_kinesalite("").await].into_iter().flatten().collect()
}

#[async_trait]
impl SourceFixture for Stream {
    async fn fill(&self, rows: &[Row]) {
        let record = |row: &Row| {
            let mut line = json!({"body": row.body, "time": row.timestamp.to_string()});
            if let Some(level) = level(row.severity) {
                line["level"] = level.into();
            }
            if let Some(namespace) = &row.namespace {
                line["namespace"] = namespace.as_str().into();
            }
            (row.partition, line.to_string().into_bytes())
        };
        self.put(rows.iter().map(record)).await;
    }

    async fn open(&self) -> Box<dyn Source> {
        Box::new(self.source(json!({"payload": "json"})))
    }

    fn partitions(&self) -> usize {
        2
    }

    async fn take_away(&self) -> bool {
        self.client.delete_stream().stream_name(&self.name).send().await.unwrap();
        // Some say for a while that it is being deleted.
        for _ in 0..1_000 {
            if self.client.list_shards().stream_name(&self.name).send().await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        true
    }
}

source_conformance!(moto, on_moto);
source_conformance!(kinesalite, on_kinesalite);

/// Goal: when a shard is split, all that was in it and all that follows is read, each once. Method: records before and
/// after, read in pages by positions that went through their text.
#[tokio::test]
async fn c1_a_shard_that_is_split_ends_and_its_children_are_read_from_their_beginning() {
    for stream in both().await {
        stream.put((0..5).map(|number| (0, format!("before {number}").into_bytes()))).await;
        let source = stream.source(json!({}));
        assert_eq!(source.partitions().await.unwrap(), [stream.partition(0), stream.partition(1)]);
        let split = stream.client.split_shard().stream_name(&stream.name).shard_to_split("shardId-000000000000");
        split.new_starting_hash_key((1u128 << 126).to_string()).send().await.unwrap();
        stream.wait().await;
        stream.put((0..5).map(|number| (0, format!("after {number}").into_bytes()))).await;
        let partitions = source.partitions().await.unwrap();
        assert_eq!(partitions, [0, 1, 2, 3].map(|shard| stream.partition(shard)));
        let mut bodies = Vec::new();
        for partition in &partitions {
            let limits = PageLimits { records_max: 2, ..WIDE };
            let records = read_on(&source, partition, Start::Earliest, &Query::all(), limits).await;
            bodies.extend(records.iter().map(|record| record.body.as_str().unwrap().to_owned()));
        }
        let expected = ["before", "after"].map(|when| (0..5).map(move |number| format!("{when} {number}")));
        assert_eq!(bodies, expected.into_iter().flatten().collect::<Vec<_>>());
        // The closed shard has no more, however often it is asked.
        let end = read_on(&source, &partitions[0], Start::Earliest, &Query::all(), WIDE).await;
        let start = Start::After(end.last().unwrap().id.position().clone());
        for _ in 0..3 {
            let page = source.read(&partitions[0], &start, &Query::all(), WIDE).await.unwrap();
            assert!(page.is_empty() && page.end() == PageEnd::CaughtUp);
        }
    }
}

#[tokio::test]
async fn a_stream_or_a_shard_that_is_not_there_is_told_apart() {
    for stream in both().await {
        let gone = source(&stream.url, json!({"stream_name": "absent"})).unwrap();
        assert_eq!(gone.check().await.unwrap_err().kind(), ErrorKind::NotFound);
        let page = stream.source(json!({})).read(&stream.partition(77), &Start::Earliest, &Query::all(), WIDE).await;
        let page = page.unwrap();
        assert!(page.is_empty() && page.end() == PageEnd::CaughtUp);
    }
}

#[test]
fn a_wrong_configuration_is_refused() {
    for (fields, field) in [
        (json!({"stream_name": ""}), "stream_name"),
        (json!({"stream_name": "arn:aws:kinesis:eu-west-1:1:stream/s"}), "stream_name"),
        (json!({"stream_name": "s", "json": {}}), "json"),
        (json!({"stream_name": "s", "exclude_log_groups": ["g"]}), "exclude_log_groups"),
        (json!({"stream_name": "s", "requests_per_second": 0}), "requests_per_second"),
        (json!({"stream_name": "s", "payload": "xml"}), "payload"),
    ] {
        let shown = fields.to_string();
        let error = source("http://localhost:4586", fields).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{shown}");
        assert!(error.to_string().contains(field), "{shown}: {error}");
    }
}

/// A stream of one shard that answers as it is told, and writes down what it was asked.
#[derive(Debug)]
struct Scripted {
    answers: VecDeque<Reply>,
    asked: Arc<Mutex<Vec<String>>>,
    iterators: u32,
}

impl Destination for Scripted {
    fn takes_records_at(&self, _: &str) -> bool {
        true
    }

    fn answer(&mut self, call: &Call, _: &mut SeenRequest) -> Reply {
        let request: Value = serde_json::from_slice(&call.wire).unwrap();
        let action = call.header("x-amz-target").unwrap().trim_start_matches("Kinesis_20131202.").to_owned();
        let what = match action.as_str() {
            "ListShards" => {
                let keys = json!({"StartingHashKey": "0", "EndingHashKey": u128::MAX.to_string()});
                let numbers = json!({"StartingSequenceNumber": "1"});
                let shard = json!({"ShardId": "shardId-0", "HashKeyRange": keys, "SequenceNumberRange": numbers});
                return Reply::new(200, json!({"Shards": [shard]}));
            }
            "GetShardIterator" => {
                self.iterators += 1;
                let number = request["StartingSequenceNumber"].as_str().unwrap_or_default();
                format!("{} {number}", request["ShardIteratorType"].as_str().unwrap())
            }
            _ => request["ShardIterator"].as_str().unwrap().to_owned(),
        };
        self.asked.lock().unwrap().push(what.trim_end().to_owned());
        if action == "GetShardIterator" {
            return Reply::new(200, json!({"ShardIterator": format!("new {}", self.iterators)}));
        }
        self.answers.pop_front().unwrap_or_else(|| records(&[], 0, Some("last")))
    }

    fn failure(&self, status: u16) -> Reply {
        Reply::new(status, json!({"__type": "InternalFailure"}))
    }
}

fn records(records: &[(&str, &[u8])], behind: i64, next: Option<&str>) -> Reply {
    let record = |(number, data): &(&str, &[u8])| {
        let data = BASE64.encode(data);
        json!({"SequenceNumber": number, "Data": data, "PartitionKey": "k", "ApproximateArrivalTimestamp": 1.795e9})
    };
    let records: Vec<Value> = records.iter().map(record).collect();
    Reply::new(200, json!({"Records": records, "MillisBehindLatest": behind, "NextShardIterator": next}))
}

fn error(code: &str) -> Reply {
    Reply::new(400, json!({"__type": code, "message": "no"}))
}

struct Script {
    source: KinesisSource,
    asked: Arc<Mutex<Vec<String>>>,
    _server: Strict<Scripted>,
}

impl Script {
    async fn new(answers: impl IntoIterator<Item = Reply>) -> Self {
        let asked = Arc::default();
        let scripted = Scripted { answers: answers.into_iter().collect(), asked: Arc::clone(&asked), iterators: 0 };
        let server = Strict::of(scripted, 0).await.unwrap();
        let source = source(&server.url(), json!({"stream_name": "s"})).unwrap();
        Script { source, asked, _server: server }
    }

    async fn read(&self, start: &Start, limits: PageLimits) -> Result<Page, Error> {
        self.source.read(&Partition::new("s:shardId-0"), start, &Query::all(), limits).await
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

fn bodies(page: &Page) -> Vec<&str> {
    page.records().iter().map(|record| record.body.as_str().unwrap()).collect()
}

#[tokio::test]
async fn c4_answers_without_records_are_not_the_end_while_there_is_more() {
    let gap = [records(&[], 9_000, Some("2")), records(&[], 5_000, Some("3")), records(&[("7", b"far")], 0, Some("4"))];
    let script = Script::new(gap).await;
    let page = script.read(&Start::Earliest, WIDE).await.unwrap();
    assert_eq!((bodies(&page), page.end()), (vec!["far"], PageEnd::CaughtUp));
    assert_eq!(script.asked(), ["TRIM_HORIZON", "new 1", "2", "3"]);
    // The iterator that came with it goes on from there.
    let page = script.read(&Start::After(page.next().unwrap().clone()), WIDE).await.unwrap();
    assert!(page.is_empty() && page.end() == PageEnd::CaughtUp);
    assert_eq!(script.asked(), ["4"]);
}

#[tokio::test]
async fn an_iterator_that_has_expired_is_asked_for_anew_from_the_same_place() {
    let answers = [
        records(&[("7", b"one")], 9, Some("old")),
        error("ExpiredIteratorException"),
        records(&[("8", b"two")], 0, None),
    ];
    let script = Script::new(answers).await;
    let page = script.read(&Start::Earliest, WIDE).await.unwrap();
    assert_eq!((bodies(&page), page.end()), (vec!["one"], PageEnd::More));
    let page = script.read(&Start::After(page.next().unwrap().clone()), WIDE).await.unwrap();
    assert_eq!((bodies(&page), page.end()), (vec!["two"], PageEnd::CaughtUp));
    assert_eq!(script.asked(), ["TRIM_HORIZON", "new 1", "old", "AFTER_SEQUENCE_NUMBER 7", "new 2"]);
}

#[tokio::test(start_paused = true)]
async fn throttling_may_pass_and_puts_off_what_follows() {
    let script =
        Script::new([error("ProvisionedThroughputExceededException"), records(&[("7", b"one")], 0, None)]).await;
    let failed = script.read(&Start::Earliest, WIDE).await.unwrap_err();
    assert_eq!((failed.kind(), failed.is_retryable()), (ErrorKind::Throttled, true), "{failed}");
    let began = tokio::time::Instant::now();
    assert_eq!(bodies(&script.read(&Start::Earliest, WIDE).await.unwrap()), ["one"]);
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
}

#[tokio::test]
async fn keys_that_were_revoked_stop_whoever_asks_with_them() {
    let script = Script::new([error("UnrecognizedClientException"), error("UnrecognizedClientException")]).await;
    let failed = script.read(&Start::Earliest, WIDE).await.unwrap_err();
    assert_eq!((failed.kind(), failed.is_retryable()), (ErrorKind::Auth, false), "{failed}");
}

/// Goal: of records that were put together, a page may hold some, and the next goes on in their midst.
#[tokio::test]
async fn c1_a_page_may_end_within_records_that_were_put_together() {
    let mut body = vec![0x0a, 1, b'k'];
    for text in ["a", "b", "c"] {
        body.extend([0x1a, 5, 0x08, 0, 0x1a, 1, text.as_bytes()[0]]);
    }
    let data = [&[0xf3, 0x89, 0x9a, 0xc2][..], &body, &Md5::digest(&body)[..]].concat();
    let all = || records(&[("7", &data), ("8", b"d")], 0, None);
    let script = Script::new([all(), all(), all()]).await;
    let two = PageLimits { records_max: 2, ..WIDE };
    let first = script.read(&Start::Earliest, two).await.unwrap();
    assert_eq!((bodies(&first), first.end()), (vec!["a", "b"], PageEnd::More));
    let second = script.read(&Start::After(first.next().unwrap().clone()), two).await.unwrap();
    assert_eq!((bodies(&second), second.end()), (vec!["c", "d"], PageEnd::CaughtUp));
    assert_eq!(script.asked(), ["TRIM_HORIZON", "new 1", "AT_SEQUENCE_NUMBER 7", "new 2"]);
}
