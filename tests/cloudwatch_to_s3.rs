//! CloudWatch Logs to S3, with a shipper that is killed again and again: the lines in the bucket are the events that
//! were put, each once. Fifty streams, a throttled API, events that arrive late and events that share a millisecond,
//! written while it runs.
//!
//! `LOGSHIP_CLOUDWATCH_KILLS` and `LOGSHIP_CLOUDWATCH_EVENTS` make it longer: 20 and 200 000 for the whole proof.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test says what it does, and why it fails by its panic")]

use std::collections::HashMap;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use futures::{FutureExt, TryStreamExt};
use logship::config::ShipperConfig;
use logship::{BuildContext, CancellationToken, ErrorKind, Timestamp, registry};
use logship_connect::Connection;
use logship_connect::objects::object_store::{ObjectStore, ObjectStoreExt};
use logship_connect::objects::{Bucket, S3Bucket, S3Config};
use logship_testkit::conformance::server;
use logship_testkit::strict::Fault;
use logship_testkit::strict::cloudwatch::StrictCloudWatch;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

const GROUPS: usize = 5;
const STREAMS: usize = 50;

/// How late an event may arrive: longer than any below, and than a process is dead.
const OVERLAP_SECS: u64 = 10;
const LATE_MAX: Duration = Duration::from_secs(4);

/// Events of one call of a writer.
const BATCH: usize = 100;

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// The process that is killed: ships for ever, as the configuration in its environment says.
#[tokio::test]
#[ignore = "is run by the test below, as a process of its own"]
async fn child() {
    let Ok(config) = std::env::var("LOGSHIP_CLOUDWATCH_CONFIG") else { return };
    let config: ShipperConfig = serde_json::from_str(&config).unwrap();
    let shipper = config.build(&registry(), &BuildContext::default()).unwrap();
    loop {
        match shipper.run(CancellationToken::new()).await {
            // The one that was killed has the lease for a while; on a machine that stands still it may be lost.
            Err(error) if matches!(error.kind(), ErrorKind::Busy | ErrorKind::Fenced) => {
                sleep(Duration::from_millis(10)).await;
            }
            Err(error) => panic!("{error}"),
            Ok(report) => panic!("it ended by itself: {report}"),
        }
    }
}

fn spawn(config: &Value) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--nocapture"])
        .env("LOGSHIP_CLOUDWATCH_CONFIG", config.to_string())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// Puts so many events in about this time, into all streams in turn. Of a batch many share a millisecond; one in twenty
/// batches is late. The API is throttled, and breaks a connection, now and then.
async fn write(logs: &StrictCloudWatch, events: usize, time: Duration) {
    let batches = events.div_ceil(BATCH);
    let began = Instant::now();
    let (mut rng, mut next_fault) = (fastrand::Rng::with_seed(7), 20);
    for batch in 0..batches {
        let (group, stream) = (batch % GROUPS, batch % STREAMS);
        let late = if rng.u32(..20) == 0 { rng.u64(..LATE_MAX.as_millis() as u64) as i64 } else { 0 };
        let at = Timestamp::now().as_millis() - late;
        let numbers = batch * BATCH..((batch + 1) * BATCH).min(events);
        let of = |number: usize| (at - (number % BATCH / 40) as i64, format!("event {number:07}"));
        logs.put(&format!("app/{group}"), &format!("stream-{stream}"), numbers.map(of));
        if logs.arrived(next_fault).now_or_never().is_some() {
            next_fault += rng.usize(20..80);
            match rng.u32(..8) {
                0 => logs.fail_next(1, Fault::DropUnread),
                1 => logs.fail_next(1, Fault::TruncateAnswer),
                _ => logs.fail_next(rng.usize(1..4), Fault::status(429)),
            }
        }
        let due = time.mul_f64((batch + 1) as f64 / batches as f64);
        sleep(due.saturating_sub(began.elapsed())).await;
    }
}

/// How often each line is in the bucket.
async fn lines(bucket: &S3Bucket) -> HashMap<String, usize> {
    let store = bucket.store().await.unwrap();
    let keys: Vec<_> = store.list(None).map_ok(|found| found.location).try_collect().await.unwrap();
    let mut lines = HashMap::new();
    for key in keys {
        let bytes = store.get(&key).await.unwrap().bytes().await.unwrap();
        for line in std::str::from_utf8(&bytes).unwrap().lines() {
            let row: Value = serde_json::from_str(line).unwrap();
            *lines.entry(row["bodyValue"].as_str().unwrap().to_owned()).or_default() += 1;
        }
    }
    lines
}

/// A bucket of its own on a real server, and how to write to it.
async fn bucket(url: &str) -> (S3Bucket, Value) {
    let name = format!("logship-cloudwatch-{}-{}", std::process::id(), Timestamp::now().as_millis());
    let client = Connection::default().client("make a bucket", &BuildContext::default()).unwrap();
    let made = client.put(format!("{url}/{name}")).send().await.unwrap();
    assert!(made.status().is_success(), "{}", made.status());
    let aws = json!({
        "region": "us-east-1", "endpoint": url,
        "credentials": {"static": {"access_key_id": "AKIDEXAMPLE", "secret_access_key": "secret"}},
    });
    let mut config = S3Config::new(&name);
    config.aws = serde_json::from_value(aws.clone()).unwrap();
    let (bucket, _) = S3Bucket::new(&config, &BuildContext::default()).unwrap();
    (bucket, json!({"id": "s3", "type": "s3", "bucket": name, "aws": aws, "prefix": "logs"}))
}

#[tokio::test(flavor = "multi_thread")]
async fn c1_c4_the_bucket_has_each_event_once_however_often_the_shipper_is_killed() {
    let Some(moto) = server("LOGSHIP_MOTO_URL") else { return };
    let (kills, events) = (number("LOGSHIP_CLOUDWATCH_KILLS", 5), number("LOGSHIP_CLOUDWATCH_EVENTS", 20_000));
    let logs = StrictCloudWatch::start().await.unwrap();
    let (bucket, exporter) = bucket(&moto).await;
    let offsets = tempfile::tempdir().unwrap();
    let config = json!({
        "source": {
            "type": "cloudwatch", "log_group_prefixes": ["app/"], "requests_per_second": 1_000, "list_interval_secs": 1,
            "aws": {
                "region": "eu-west-1", "endpoint": logs.url(),
                "credentials": {"static": {"access_key_id": "AKIDEXAMPLE", "secret_access_key": "secret"}},
            },
        },
        "offsets": {"type": "file", "dir": offsets.path()},
        "overlap_secs": OVERLAP_SECS, "lookback_secs": 0, "lease_ttl_ms": 600, "poll_interval_ms": 100,
        "exporters": [exporter],
    });
    let mut rng = fastrand::Rng::new();
    let seed = rng.get_seed();
    let began = Instant::now();
    let killing = async {
        for _ in 0..kills {
            let mut process = spawn(&config);
            sleep(Duration::from_millis(rng.u64(1_500..4_000))).await;
            process.kill().unwrap();
            process.wait().unwrap();
        }
    };
    tokio::join!(write(&logs, events, Duration::from_millis(2_500) * kills as u32), killing);
    let after_kills = lines(&bucket).await.len();
    // The last process has time to find what is late.
    let mut last = spawn(&config);
    let patience = Instant::now() + Duration::from_secs(240);
    let mut there = lines(&bucket).await;
    while there.len() < events && Instant::now() < patience {
        assert!(last.try_wait().unwrap().is_none(), "seed {seed}: the last process ended by itself");
        sleep(Duration::from_millis(500)).await;
        there = lines(&bucket).await;
    }
    // And for what it would do too often: it reads the stretch again when the overlap has passed.
    sleep(Duration::from_secs(OVERLAP_SECS + 2)).await;
    last.kill().unwrap();
    last.wait().unwrap();
    there = lines(&bucket).await;
    let missing: Vec<String> =
        (0..events).map(|number| format!("event {number:07}")).filter(|line| !there.contains_key(line)).collect();
    assert!(missing.is_empty(), "seed {seed}: {} events are missing, such as {:?}", missing.len(), &missing[..1]);
    let twice = there.values().filter(|times| **times > 1).count();
    assert_eq!((there.len(), twice), (events, 0), "seed {seed}: each event is there once");
    let throttled = logs.requests().iter().filter(|seen| seen.status == Some(400)).count();
    assert!(after_kills > 0 && throttled > 0, "{after_kills} lines before the last process, {throttled} throttled");
    eprintln!(
        "{events} events of {STREAMS} streams, {kills} kills, {after_kills} there before the last process, {throttled} \
         throttled requests of {}, {:?}",
        logs.requests().len(),
        began.elapsed()
    );
}
