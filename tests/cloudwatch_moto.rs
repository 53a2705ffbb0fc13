//! CloudWatch Logs against moto, which somebody else wrote: what is shipped there is read from there, and exported.

#![allow(clippy::unwrap_used, reason = "a test says why it fails by its panic")]

use std::collections::BTreeSet;
use std::io::Read;
use std::time::Duration;

use flate2::read::MultiGzDecoder;
use futures::TryStreamExt;
use logship::exporters::cloudwatch::{AwsConfig, CloudWatch, CloudWatchConfig, Message};
use logship::sources::cloudwatch::{CloudWatchSource, CloudWatchSourceConfig, ExportTask, ExportTaskConfig};
use logship::sources::memory::MemorySource;
use logship::state::memory::MemoryOffsets;
use logship::{BuildContext, CancellationToken, Exporter, Lane, LogShipper, OnReject, Query, Source, Start, Timestamp};
use logship_connect::Connection;
use logship_connect::objects::object_store::{ObjectStore, ObjectStoreExt};
use logship_connect::objects::{Bucket, S3Bucket, S3Config};
use logship_testkit::conformance::server;
use logship_testkit::conformance::source::{WIDE, read_on};
use serde_json::{Value, json};

fn aws(url: &str, more: Value) -> AwsConfig {
    let mut aws = json!({
        "region": "us-east-1", "endpoint": url,
        "credentials": {"static": {"access_key_id": "AKIDEXAMPLE", "secret_access_key": "hunter2-secret"}},
    });
    let (Some(aws), Value::Object(more)) = (aws.as_object_mut(), more) else { unreachable!() };
    aws.extend(more);
    serde_json::from_value(Value::Object(aws.clone())).unwrap()
}

/// A name that no other run has.
fn new_name(what: &str) -> String {
    format!("logship-{what}-{}-{}", std::process::id(), Timestamp::now().as_millis())
}

fn exporter(url: &str, group: &str) -> CloudWatch {
    let mut config = CloudWatchConfig::new(group);
    config.create_log_group = true;
    config.stream_per_partition = true;
    config.message = Message::Text;
    config.aws = aws(url, json!({}));
    CloudWatch::new(config, &BuildContext::default()).unwrap()
}

/// So many records in each of three partitions, of which each third is of one millisecond.
fn records(count: i64, age: Duration) -> MemorySource {
    let source = MemorySource::new();
    let begin = Timestamp::now().saturating_sub(age);
    for number in 0..count {
        for partition in ["a", "b:c", "d*e"] {
            let time = begin.saturating_add(Duration::from_millis(number as u64 / 3));
            source.push(partition, time, |record| record.body = format!("{partition} {number:05}").into());
        }
    }
    source
}

async fn ship(source: MemorySource, exporter: CloudWatch) -> u64 {
    let lane = Lane::new("cloudwatch", exporter).on_reject(OnReject::Stop);
    let shipper = LogShipper::builder(source).offsets(MemoryOffsets::new()).lookback(None).lane(lane).build().unwrap();
    let report = shipper.run_once().await.unwrap();
    assert!(report.is_complete(), "{report}");
    report.lane("cloudwatch").unwrap().accepted
}

#[tokio::test]
async fn k15_c1_what_is_shipped_to_cloudwatch_is_read_from_it() {
    let Some(url) = server("LOGSHIP_MOTO_URL") else { return };
    let group = new_name("round");
    exporter(&url, &group).check().await.unwrap();
    assert_eq!(ship(records(2_500, Duration::from_secs(60)), exporter(&url, &group)).await, 7_500);
    let mut config = CloudWatchSourceConfig::default();
    config.log_group_prefixes = vec![group.clone()];
    config.requests_per_second = 1_000;
    config.aws = aws(&url, json!({}));
    let source = CloudWatchSource::new(config, &BuildContext::default()).unwrap();
    source.check().await.unwrap();
    let partitions = source.partitions().await.unwrap();
    let names: Vec<&str> = partitions.iter().map(|partition| partition.as_str()).collect();
    let expected = ["logship/a", "logship/b%3Ac", "logship/d%2Ae"].map(|stream| format!("{group}:{stream}"));
    assert_eq!(names, expected);
    for (partition, name) in partitions.iter().zip(["a", "b:c", "d*e"]) {
        for limits in [WIDE, logship::PageLimits { records_max: 700, ..WIDE }] {
            let read = read_on(&source, partition, Start::Earliest, &Query::all(), limits).await;
            let bodies: BTreeSet<String> = read.iter().map(|record| record.body.as_str().unwrap().to_owned()).collect();
            assert_eq!(bodies, (0..2_500).map(|number| format!("{name} {number:05}")).collect(), "{limits:?}");
            assert_eq!(read.len(), 2_500, "{limits:?}");
        }
    }
}

#[tokio::test]
async fn a_role_is_assumed_and_its_session_is_what_signs() {
    let Some(url) = server("LOGSHIP_MOTO_URL") else { return };
    let role = json!({"role": {
        "arn": "arn:aws:iam::123456789012:role/shipper", "external_id": "acme", "session_name": "kit",
        "session_secs": 900, "endpoint": url,
    }});
    let group = new_name("role");
    let mut config = CloudWatchConfig::new(&group);
    config.create_log_group = true;
    config.aws = aws(&url, role);
    let exporter = CloudWatch::new(config, &BuildContext::default()).unwrap();
    // A session is new each time it is asked for.
    exporter.check().await.unwrap();
    exporter.refresh().await.unwrap();
    assert_eq!(ship(records(10, Duration::from_secs(60)), exporter).await, 30);
}

#[tokio::test]
async fn c6_a_group_is_exported_to_s3() {
    let Some(url) = server("LOGSHIP_MOTO_URL") else { return };
    let (group, bucket) = (new_name("export"), new_name("archive"));
    let client = Connection::default().client("make a bucket", &BuildContext::default()).unwrap();
    assert!(client.put(format!("{url}/{bucket}")).send().await.unwrap().status().is_success());
    assert_eq!(ship(records(40, Duration::from_secs(7200)), exporter(&url, &group)).await, 120);
    let offsets = MemoryOffsets::new();
    let mut config = ExportTaskConfig::new(vec![group.clone()], &bucket);
    config.settle_secs = 3600;
    config.poll_interval_secs = 1;
    config.aws = aws(&url, json!({}));
    let exports = ExportTask::new(config, offsets, "exports", &BuildContext::default()).unwrap();
    let done = exports.run(CancellationToken::new()).await.unwrap();
    assert_eq!((done.tasks.len(), done.is_stopped), (1, false));
    let mut place = S3Config::new(&bucket);
    place.aws = aws(&url, json!({}));
    let (place, _) = S3Bucket::new(&place, &BuildContext::default()).unwrap();
    let store = place.store().await.unwrap();
    let keys: Vec<_> = store.list(None).map_ok(|found| found.location).try_collect().await.unwrap();
    let mut lines = BTreeSet::new();
    for key in keys.iter().filter(|key| key.as_ref().ends_with(".gz")) {
        let bytes = store.get(key).await.unwrap().bytes().await.unwrap();
        let mut text = String::new();
        MultiGzDecoder::new(&bytes[..]).read_to_string(&mut text).unwrap();
        lines.extend(text.lines().map(|line| line.split_once(' ').unwrap().1.to_owned()));
    }
    assert_eq!(lines.len(), 120, "{keys:?}");
}
