//! The exporters for OpenSearch, Loki, Logz.io, Loggly, Cloud Logging and Azure Monitor in the engine, against stand-ins that answer one request in
//! ten badly, in every way they know: all that was accepted is there, nothing is missing, and nothing is there twice
//! that was not counted as such.

#![allow(clippy::unwrap_used, reason = "a test says why it fails by its panic")]

use std::collections::BTreeMap;
use std::time::Duration;

use logship::exporters::azure_monitor::{
    AccessToken, AzureMonitor, AzureMonitorConfig, EntraCredentials, TokenProvider,
};
use logship::exporters::file::{FileConfig, FileExporter};
use logship::exporters::gcp_logging::{GcpLogging, GcpLoggingConfig};
use logship::exporters::loggly::{Loggly, LogglyConfig};
use logship::exporters::logzio::{Logzio, LogzioConfig};
use logship::exporters::loki::{Loki, LokiConfig};
use logship::exporters::opensearch::{OpenSearch, OpenSearchConfig};
use logship::sources::memory::MemorySource;
use logship::state::memory::MemoryOffsets;
use logship::{
    BuildContext, Error, Exporter, Lane, LaneReport, LaneStatus, LogShipper, RetryPolicy, Secret, Severity, Timestamp,
    async_trait,
};
use logship_testkit::strict::azure_monitor::StrictAzureMonitor;
use logship_testkit::strict::gcp_logging::StrictGcpLogging;
use logship_testkit::strict::loggly::StrictLoggly;
use logship_testkit::strict::logzio::StrictLogzio;
use logship_testkit::strict::loki::StrictLoki;
use logship_testkit::strict::opensearch::{Access, Signer, StrictOpenSearch};

const RECORDS: usize = 1_000;
const SEEDS: std::ops::Range<u64> = 0..3;

fn source() -> MemorySource {
    let source = MemorySource::new();
    let now = Timestamp::now();
    for number in 0..RECORDS {
        source.push("logs", now.saturating_add(Duration::from_millis(number as u64)), |record| {
            record.severity = Severity::INFO;
            record.body = format!("record {number:06} says \"hi\"\n\tand more").into();
            record.attributes = vec![
                ("flow.id".into(), "load".into()),
                ("flow_id".into(), "load too".into()),
                ("flow.id".into(), 7.into()),
                ("thread".into(), format!("worker-{}", number % 3).into()),
            ];
        });
    }
    source
}

async fn ship(exporter: impl Exporter + 'static) -> LaneReport {
    let mut retry = RetryPolicy::default();
    retry.delay_initial = Duration::from_millis(1);
    retry.delay_max = Duration::from_millis(20);
    retry.attempts_max = 30;
    let lane =
        Lane::new("x", exporter).chunk(10).concurrency(4).attempt_timeout(Duration::from_millis(500)).retry(retry);
    let shipper =
        LogShipper::builder(source()).offsets(MemoryOffsets::new()).lookback(None).lane(lane).build().unwrap();
    shipper.run_once().await.unwrap().lanes.remove(0)
}

/// Counts the copies of each record by what it says.
fn assert_all(texts: impl Iterator<Item = String>, lane: &LaneReport, what: &str) {
    let mut copies: BTreeMap<String, usize> = BTreeMap::new();
    for text in texts {
        let (_, behind) = text.split_once("record ").unwrap();
        *copies.entry(behind[..6].to_owned()).or_default() += 1;
    }
    assert!(matches!(lane.status, LaneStatus::Complete), "{what}: {lane:?}");
    assert_eq!((lane.accepted, lane.left, lane.rejected), (RECORDS as u64, 0, 0), "{what}: {lane:?}");
    assert_eq!(copies.len(), RECORDS, "{what}: some are missing");
    let again = copies.values().map(|copies| copies - 1).sum::<usize>() as u64;
    assert!(again <= lane.possibly_duplicated, "{what}: {again} are there again, {lane:?}");
    assert!(lane.retries > 0, "{what}: nothing went wrong: {lane:?}");
}

#[tokio::test]
async fn loki_has_every_line_of_a_bad_day() {
    for seed in SEEDS {
        for forgets in [false, true] {
            let server = StrictLoki::start().await.unwrap();
            server.forget_repeats(forgets);
            server.fail_at_random(seed, 10);
            let mut config = LokiConfig::new(server.url().as_str());
            let thread = serde_json::json!({"attribute": "thread"});
            config.labels.insert("thread".to_owned(), serde_json::from_value(thread).unwrap());
            let lane = ship(Loki::new(config, BuildContext::default()).unwrap()).await;
            let entries = server.entries();
            assert_all(entries.into_iter().map(|entry| entry.line), &lane, &format!("seed {seed}, forgets {forgets}"));
        }
    }
}

#[tokio::test]
async fn logzio_has_every_log_of_a_bad_day() {
    for seed in SEEDS {
        let server = StrictLogzio::start("token").await.unwrap();
        server.fail_at_random(seed, 10);
        let mut config = LogzioConfig::new("token");
        config.url = Some(server.url());
        let lane = ship(Logzio::new(config, BuildContext::default()).unwrap()).await;
        let logs = server.logs();
        assert_all(logs.into_iter().map(|log| log["message"].to_string()), &lane, &format!("seed {seed}"));
    }
}

#[tokio::test]
async fn loggly_has_every_event_of_a_bad_day() {
    for seed in SEEDS {
        let server = StrictLoggly::start("token").await.unwrap();
        server.fail_at_random(seed, 10);
        let mut config = LogglyConfig::new("token");
        config.url = server.url();
        let lane = ship(Loggly::new(config, BuildContext::default()).unwrap()).await;
        let events = server.events();
        assert!(events.iter().all(|event| event.has_time && event.tags == ["logship"]));
        assert_all(events.into_iter().map(|event| event.text), &lane, &format!("seed {seed}"));
    }
}

#[tokio::test]
async fn opensearch_has_every_document_of_a_bad_day_once() {
    let signer = Signer::new("AKIDEXAMPLE", "key", "eu-west-1");
    let aws = |service: &str| {
        let key = serde_json::json!({"access_key_id": "AKIDEXAMPLE", "secret_access_key": "key"});
        serde_json::json!({"aws": {"service": service, "region": "eu-west-1", "credentials": {"static": key}}})
    };
    let collection = Access::Collection { signer: signer.clone(), is_time_series: true };
    for (access, auth, is_once) in [
        (
            Access::Basic("a".to_owned(), Secret::new("b")),
            serde_json::json!({"basic": {"username": "a", "password": "b"}}),
            true,
        ),
        (Access::Domain(signer), aws("es"), true),
        (collection, aws("aoss"), false),
    ] {
        for seed in SEEDS {
            let server = StrictOpenSearch::start(access.clone()).await.unwrap();
            server.fail_at_random(seed, 10);
            let mut config = OpenSearchConfig::new(vec![server.url()], "logs");
            config.auth = serde_json::from_value(auth.clone()).unwrap();
            let lane = ship(OpenSearch::new(config, BuildContext::default()).unwrap()).await;
            let what = format!("{access:?}, seed {seed}");
            let documents = server.documents("logs");
            assert_all(documents.values().map(|document| document["message"].to_string()), &lane, &what);
            assert!(!is_once || (server.count("logs") == RECORDS && lane.possibly_duplicated == 0), "{what}: {lane:?}");
        }
    }
}

#[tokio::test]
async fn cloud_logging_has_every_entry_of_a_bad_day_once() {
    for seed in SEEDS {
        let server = StrictGcpLogging::start().await.unwrap();
        server.fail_at_random(seed, 10);
        let mut config = GcpLoggingConfig::default();
        config.endpoint = Some(server.url());
        config.service_account = Some(server.service_account_key().as_str().into());
        let lane = ship(GcpLogging::new(config, &BuildContext::default()).unwrap()).await;
        let entries = server.entries();
        assert_eq!((entries.len(), server.too_old()), (RECORDS, 0), "seed {seed}: {lane:?}");
        let messages = entries.into_iter().map(|entry| entry["jsonPayload"]["message"].to_string());
        assert_all(messages, &lane, &format!("seed {seed}"));
    }
}

/// Gives out the tokens that a stand-in knows.
#[derive(Debug)]
struct Given(String);

#[async_trait]
impl TokenProvider for Given {
    async fn token(&self, _: &str) -> Result<AccessToken, Error> {
        Ok(AccessToken::new(self.0.as_str(), Duration::from_secs(3_600)))
    }
}

#[tokio::test]
async fn azure_monitor_has_every_row_of_a_bad_day() {
    for seed in SEEDS {
        let server = StrictAzureMonitor::start().await.unwrap();
        server.fail_at_random(seed, 10);
        let mut config = AzureMonitorConfig::new(server.url(), server.rule_id(), server.stream_name());
        config.credentials = EntraCredentials::Provider(std::sync::Arc::new(Given(server.token())));
        let lane = ship(AzureMonitor::new(config, &BuildContext::default()).unwrap()).await;
        assert_eq!(server.spoiled(), Default::default(), "seed {seed}");
        let rows = server.rows();
        assert_all(rows.into_iter().map(|row| row["Message"].to_string()), &lane, &format!("seed {seed}"));
    }
}

/// Goal: a record that a destination refuses for what it is holds up no other, however the destination says so. Method:
/// one that is longer than each takes, in the middle.
#[tokio::test]
async fn a_line_that_is_too_long_goes_to_the_dead_letter_and_all_others_arrive() {
    let loki = StrictLoki::start().await.unwrap();
    loki.max_line_size(4_000);
    let logzio = StrictLogzio::start("token").await.unwrap();
    logzio.max_line_length(4_000);
    let loggly = StrictLoggly::start("token").await.unwrap();
    loggly.max_event_length(4_000);
    let mut logzio_config = LogzioConfig::new("token");
    logzio_config.url = Some(logzio.url());
    let mut loggly_config = LogglyConfig::new("token");
    loggly_config.url = loggly.url();
    let context = BuildContext::default;
    let exporters: [std::sync::Arc<dyn Exporter>; 3] = [
        std::sync::Arc::new(Loki::new(LokiConfig::new(loki.url().as_str()), context()).unwrap()),
        std::sync::Arc::new(Logzio::new(logzio_config, context()).unwrap()),
        std::sync::Arc::new(Loggly::new(loggly_config, context()).unwrap()),
    ];
    for exporter in exporters {
        let source = MemorySource::new();
        for number in 0..50 {
            source.push("logs", Timestamp::now(), |record| {
                record.body = if number == 20 { "x".repeat(4_000) } else { format!("record {number}") }.into();
            });
        }
        let dir = tempfile::tempdir().unwrap();
        let dead = FileExporter::new(FileConfig { dir: dir.path().into(), ..FileConfig::default() });
        let kind = exporter.kind();
        let lane = Lane::shared("x", exporter).chunk(30).dead_letter(dead);
        let shipper =
            LogShipper::builder(source).offsets(MemoryOffsets::new()).lookback(None).lane(lane).build().unwrap();
        let lane = shipper.run_once().await.unwrap().lanes.remove(0);
        assert_eq!((lane.accepted, lane.rejected, lane.dead_lettered), (49, 1, 1), "{kind}: {lane:?}");
        assert_eq!(lane.possibly_duplicated, 0, "{kind}: {lane:?}");
    }
    assert_eq!((loki.entries().len(), logzio.logs().len(), loggly.events().len()), (49, 49, 49));
}
