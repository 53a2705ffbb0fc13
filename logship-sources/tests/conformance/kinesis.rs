//! Against moto, whose sequence numbers are 1, 2, 3, and kinesalite, which has those of 56 digits.

use std::sync::atomic::{AtomicU32, Ordering};

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::{PutRecordsRequestEntry, StreamStatus};
use logship_connect::Connection;
use logship_connect::aws::{Aws, AwsConfig};
use logship_core::{
    BuildContext, Error, ErrorKind, PageEnd, PageLimits, Partition, Query, Source, Start, Timestamp, async_trait,
    read_fields,
};
use logship_sources::kinesis::KinesisSource;
use logship_testkit::conformance::server;
use logship_testkit::conformance::source::{Row, SourceFixture, WIDE, read_on};
use logship_testkit::source_conformance;
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
        for _ in 0..1_000 {
            let described = self.client.describe_stream_summary().stream_name(&self.name).send().await.unwrap();
            if described.stream_description_summary.unwrap().stream_status == StreamStatus::Active {
                return;
            }
            tokio::task::yield_now().await;
        }
        panic!("the stream is not ready");
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
