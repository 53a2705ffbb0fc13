//! The Elasticsearch exporter in the engine, against a server that is as nasty as the real one: whatever goes wrong,
//! every record is there once.

#![allow(clippy::unwrap_used, reason = "a test says why it fails by its panic")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use logship::exporters::elasticsearch::{Elasticsearch, ElasticsearchConfig};
use logship::exporters::file::{FileConfig, FileExporter};
use logship::sources::memory::MemorySource;
use logship::state::memory::MemoryOffsets;
use logship::{
    BuildContext, ErrorKind, Lane, LaneReport, LaneStatus, LogShipper, RetryPolicy, Secret, SecretProvider, Severity,
    Timestamp,
};
use logship_testkit::strict::elasticsearch::{Credentials, StrictElasticsearch};
use logship_testkit::strict::{Fault, Items};

const STREAM: &str = "logs-orchestrator-default";
const RECORDS: usize = 200;

fn source() -> MemorySource {
    let source = MemorySource::new();
    for number in 0..RECORDS {
        source.push("logs", Timestamp::now(), |record| {
            record.severity = Severity::INFO;
            record.body = format!("record {number} says \"hi\"\n\tand more").into();
            // Names that would meet in one label, and one that is a field of its own.
            record.attributes = vec![
                ("flow.id".into(), "load".into()),
                ("flow_id".into(), "load too".into()),
                ("flow.id".into(), 7.into()),
                ("thread".into(), "main".into()),
                ("process.pid".into(), (number as i64).into()),
            ];
        });
    }
    source
}

async fn server() -> StrictElasticsearch {
    let server = StrictElasticsearch::start().await.unwrap();
    server.refuse_duplicate_keys(true);
    server
}

fn lane(url: &str) -> Lane {
    let config = ElasticsearchConfig::new(vec![url.parse().unwrap()], STREAM);
    let exporter = Elasticsearch::new(config, &BuildContext::default()).unwrap();
    let mut retry = RetryPolicy::default();
    retry.delay_initial = Duration::from_millis(1);
    retry.delay_max = Duration::from_millis(20);
    Lane::new("es", exporter).chunk(50).concurrency(2).attempt_timeout(Duration::from_millis(500)).retry(retry)
}

async fn ship(source: MemorySource, lane: Lane) -> LaneReport {
    let shipper = LogShipper::builder(source).offsets(MemoryOffsets::new()).lookback(None).lane(lane).build().unwrap();
    let mut report = shipper.run_once().await.unwrap();
    report.lanes.remove(0)
}

fn assert_once(server: &StrictElasticsearch, lane: &LaneReport, what: &str) {
    assert!(matches!(lane.status, LaneStatus::Complete), "{what}: {lane:?}");
    assert_eq!((lane.accepted, lane.left), (RECORDS as u64, 0), "{what}");
    assert_eq!(server.count(STREAM), RECORDS, "{what}");
}

/// Goal: H3, H4, H5, H6, H7, H8 and H10 lose and repeat nothing. Method: each fault alone, at the first requests.
#[tokio::test]
async fn each_fault_leaves_every_record_there_once() {
    let faults = [
        Fault::status(429),
        Fault::status_after(503, "0"),
        Fault::status_after(429, "Fri, 20 Nov 2026 08:30:00 GMT"),
        Fault::ProxyPage(502),
        Fault::ProxyPage(504),
        Fault::DropUnread,
        Fault::LoseAnswer,
        Fault::TruncateAnswer,
        Fault::Hang,
        Fault::Slow(Duration::from_millis(50)),
        Fault::Busy(Items::At(vec![0, 3, 49])),
        Fault::Busy(Items::Percent { percent: 90, seed: 7 }),
    ];
    for fault in faults {
        let server = server().await;
        server.fail_next(3, fault.clone());
        let lane = ship(source(), lane(&server.url())).await;
        assert_once(&server, &lane, &format!("{fault:?}"));
        // What was stored before the answer was lost is recognised by its id.
        assert_eq!(server.duplicates() > 0, matches!(fault, Fault::LoseAnswer | Fault::TruncateAnswer), "{fault:?}");
    }
}

/// Goal: the same, with faults in any order. Method: a third of all requests fail, by seed.
#[tokio::test]
async fn chaos_leaves_every_record_there_once() {
    for seed in 0..5 {
        let server = server().await;
        server.fail_at_random(seed, 33);
        let lane = ship(source(), lane(&server.url())).await;
        assert_once(&server, &lane, &format!("seed {seed}"));
    }
}

#[tokio::test]
async fn h6_what_is_there_already_is_accepted_and_counted() {
    let server = server().await;
    let first = ship(source(), lane(&server.url())).await;
    assert_once(&server, &first, "first");
    // Another offset store: all of it is sent again.
    let again = ship(source(), lane(&server.url())).await;
    assert_once(&server, &again, "again");
    assert_eq!((first.already_there, again.already_there, again.retries), (0, RECORDS as u64, 0));
}

#[tokio::test]
async fn h8_a_body_that_is_too_large_is_split_and_nothing_of_it_is_lost() {
    let server = server().await;
    server.max_content_length(700);
    let lane = ship(source(), lane(&server.url())).await;
    assert_once(&server, &lane, "413");
    assert!(lane.attempts > 8, "{lane:?}");
}

/// A key that changes while the shipper runs.
#[derive(Debug)]
struct Vault(Arc<AtomicBool>);

impl SecretProvider for Vault {
    fn secret(&self, _name: &str) -> Option<Secret> {
        // base64 of `id:old` and `id:new`
        Some(Secret::new(if self.0.load(Ordering::SeqCst) { "aWQ6bmV3" } else { "aWQ6b2xk" }))
    }
}

#[tokio::test]
async fn h7_a_key_that_expired_is_fetched_again_and_nothing_is_lost() {
    let server = server().await;
    server.rotate_credentials(Credentials::api_key("id", "new"));
    let rotated = Arc::new(AtomicBool::new(false));
    let exporter = || {
        let fields = serde_json::json!({
            "hosts": [server.url()], "index": STREAM, "auth": {"api_key": {"secret": "ES"}},
        });
        let context = BuildContext::new(Arc::new(Vault(Arc::clone(&rotated))));
        Elasticsearch::new(serde_json::from_value(fields).unwrap(), &context).unwrap()
    };
    // As long as there is no other key the lane stops, and says why.
    let stopped = ship(source(), Lane::new("es", exporter())).await;
    let LaneStatus::Stopped(error) = &stopped.status else { panic!("{stopped:?}") };
    assert_eq!((error.kind(), stopped.accepted, stopped.left > 0), (ErrorKind::Auth, 0, true), "{error}");
    assert!(!error.to_string().contains("aWQ6"), "{error}");
    let exporter = exporter();
    rotated.store(true, Ordering::SeqCst);
    let lane = ship(source(), Lane::new("es", exporter)).await;
    assert_once(&server, &lane, "rotated key");
}

/// A source in which one record has more fields than an index takes (1000 by default).
fn source_with_a_poison() -> MemorySource {
    let source = source();
    source.push("logs", Timestamp::now(), |record| {
        record.body = "poison".into();
        record.attributes = (0..1_200).map(|n| (format!("field{n}").into(), "x".into())).collect();
    });
    source
}

#[tokio::test]
async fn p10_what_elasticsearch_refuses_goes_to_the_dead_letter_in_its_words() {
    let dir = tempfile::tempdir().unwrap();
    let server = server().await;
    let dead = FileExporter::new(FileConfig { dir: dir.path().into(), ..FileConfig::default() });
    let lane = ship(source_with_a_poison(), lane(&server.url()).dead_letter(dead)).await;
    assert_eq!((lane.accepted, lane.rejected, lane.dead_lettered), (RECORDS as u64, 1, 1));
    let file = std::fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
    let letter = std::fs::read_to_string(file).unwrap();
    assert!(letter.contains("Limit of total fields [1000] has been exceeded") && letter.contains("poison"), "{letter}");
}

#[tokio::test]
async fn what_the_failure_store_takes_is_accepted_and_counted() {
    let server = server().await;
    server.failure_store(true);
    let lane = ship(source_with_a_poison(), lane(&server.url())).await;
    assert_eq!((lane.accepted, lane.diverted, lane.rejected), (RECORDS as u64 + 1, 1, 0));
    assert_eq!((server.count(STREAM), server.failed_documents(STREAM).len()), (RECORDS, 1));
}

/// Goal: without a dead letter nothing is passed over. Method: the poison stands in the middle.
#[tokio::test]
async fn p10_without_a_dead_letter_the_lane_stops_at_the_record_and_says_so() {
    let server = server().await;
    let source = source_with_a_poison();
    source.push("logs", Timestamp::now(), |record| record.body = "behind".into());
    let lane = ship(source, lane(&server.url()).chunk(1_000)).await;
    let LaneStatus::Stopped(error) = &lane.status else { panic!("{lane:?}") };
    assert!(error.to_string().contains("Limit of total fields"), "{error}");
    assert_eq!(lane.rejected, 0);
    assert!(lane.left >= 1, "{lane:?}");
}
