//! The Lambda function of the example, as Lambda calls it.

#![allow(clippy::unwrap_used, reason = "a test says why it fails by its panic")]

#[path = "../examples/cloudwatch_to_s3_lambda.rs"]
#[allow(dead_code, unreachable_pub)]
mod lambda;

use std::collections::BTreeMap;
use std::io::Read;
use std::time::{Duration, Instant};

use flate2::read::MultiGzDecoder;
use futures::TryStreamExt;
use lambda::{Settings, event_with, handle};
use logship::exporters::s3::{AwsConfig, S3Config};
use logship::sources::cloudwatch::CloudWatchSourceConfig;
use logship::{BuildContext, Compression, Timestamp};
use logship_connect::Connection;
use logship_connect::objects::object_store::{ObjectStore, ObjectStoreExt};
use logship_connect::objects::{Bucket, S3Bucket};
use logship_testkit::conformance::server;
use logship_testkit::strict::cloudwatch::StrictCloudWatch;
use serde_json::{Value, json};

fn aws(url: &str) -> AwsConfig {
    let credentials = json!({"static": {"access_key_id": "AKIDEXAMPLE", "secret_access_key": "secret"}});
    serde_json::from_value(json!({"region": "us-east-1", "endpoint": url, "credentials": credentials})).unwrap()
}

/// How often each line is in the bucket.
async fn lines(bucket: &str, url: &str) -> BTreeMap<String, usize> {
    let mut place = logship_connect::objects::S3Config::new(bucket);
    place.aws = aws(url);
    let (bucket, _) = S3Bucket::new(&place, &BuildContext::default()).unwrap();
    let store = bucket.store().await.unwrap();
    let keys: Vec<_> = store.list(None).map_ok(|found| found.location).try_collect().await.unwrap();
    let mut lines = BTreeMap::new();
    for key in keys.iter().filter(|key| key.as_ref().ends_with(".gz")) {
        let bytes = store.get(key).await.unwrap().bytes().await.unwrap();
        let mut text = String::new();
        MultiGzDecoder::new(&bytes[..]).read_to_string(&mut text).unwrap();
        for line in text.lines() {
            let row: Value = serde_json::from_str(line).unwrap();
            *lines.entry(row["bodyValue"].as_str().unwrap().to_owned()).or_default() += 1;
        }
    }
    lines
}

/// Goal: a function that has too little time stops 30 s before that is up, and others go on where it stopped. Method: an
/// API that allows so few requests that not all streams can be read in the first run.
#[tokio::test(flavor = "multi_thread")]
async fn c7_a_run_stops_before_its_time_is_up_and_the_next_goes_on() {
    let Some(url) = server("LOGSHIP_MOTO_URL") else { return };
    let logs = StrictCloudWatch::start().await.unwrap();
    let now = Timestamp::now().as_millis();
    for stream in 0..40 {
        let events = (0..50).map(|number| (now - 60_000 + number, format!("event {stream} {number}")));
        logs.put("app/a", &format!("stream-{stream:02}"), events);
    }
    let bucket = format!("logship-lambda-{}-{now}", std::process::id());
    let client = Connection::default().client("make a bucket", &BuildContext::default()).unwrap();
    for name in [bucket.clone(), format!("{bucket}-state")] {
        assert!(client.put(format!("{url}/{name}")).send().await.unwrap().status().is_success());
    }
    let mut source = CloudWatchSourceConfig::default();
    source.log_group_prefixes = vec!["app/".to_owned()];
    source.requests_per_second = 20;
    source.aws = aws(&logs.url());
    let mut destination = S3Config::new(&bucket);
    (destination.aws, destination.compression) = (aws(&url), Compression::GZIP);
    let state = serde_json::from_value(json!({"url": format!("s3://{bucket}-state/logship")})).unwrap();
    let mut settings = Settings { source, destination, state };
    settings.state.aws = aws(&url);

    let began = Instant::now();
    let answer = handle(&settings, event_with(Duration::from_secs(32)).unwrap()).await.unwrap();
    let (first, there) = (answer["accepted"].as_u64().unwrap(), lines(&bucket, &url).await.len());
    assert_eq!((answer["complete"].as_bool(), there as u64), (Some(false), first), "{answer}");
    assert!(first < 2_000 && began.elapsed() < Duration::from_secs(20), "{answer}, {:?}", began.elapsed());
    settings.source.requests_per_second = 1_000;
    let answer = handle(&settings, event_with(Duration::from_secs(600)).unwrap()).await.unwrap();
    assert_eq!(
        (answer["complete"].as_bool(), answer["accepted"].as_u64()),
        (Some(true), Some(2_000 - first)),
        "{answer}"
    );
    let there = lines(&bucket, &url).await;
    assert!(there.len() == 2_000 && there.values().all(|times| *times == 1), "{} lines", there.len());
}
