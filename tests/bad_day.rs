//! A bad day at each destination: one request in ten is answered badly, in every way the destination knows. All that was
//! accepted is there, nothing is missing, what is refused is in the dead letter in the destination's words, and nothing
//! is there twice that was not counted as such.
//!
//! `LOGSHIP_BAD_DAY_RECORDS` makes it longer: 100 000 for the whole proof. A test that fails prints its seed, and
//! `LOGSHIP_BAD_DAY_SEED` replays it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test says what it did, and fails by its panic"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use logship::exporters::azure_monitor::{
    AccessToken, AzureMonitor, AzureMonitorConfig, EntraCredentials, TokenProvider,
};
use logship::exporters::file::{FileConfig, FileExporter};
use logship::sources::memory::MemorySource;
use logship::state::memory::MemoryOffsets;
use logship::{
    BuildContext, Error, Exporter, Lane, LaneReport, LaneStatus, LogRecord, LogShipper, Query, RetryPolicy, Severity,
    Timestamp, async_trait,
};
use logship_testkit::strict::azure_monitor::StrictAzureMonitor;
use logship_testkit::strict::cloudwatch::StrictCloudWatch;
use logship_testkit::strict::datadog::StrictDatadog;
use logship_testkit::strict::elasticsearch::{Credentials, StrictElasticsearch};
use logship_testkit::strict::gcp_logging::StrictGcpLogging;
use logship_testkit::strict::http::StrictHttp;
use logship_testkit::strict::loggly::StrictLoggly;
use logship_testkit::strict::logzio::StrictLogzio;
use logship_testkit::strict::loki::StrictLoki;
use logship_testkit::strict::newrelic::StrictNewRelic;
use logship_testkit::strict::opensearch::{Access, Signer, StrictOpenSearch};
use logship_testkit::strict::otlp::{Refuses, StrictOtlp};
use logship_testkit::strict::splunk::StrictSplunk;
use logship_testkit::strict::{Destination, Fault, Items, Strict};
use serde_json::{Value, json};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::FmtSpan;
use tracing_subscriber::prelude::*;

/// What every key, token and password here begins with.
const SECRET: &str = "hunter2";

/// Looks through everything that is traced.
#[derive(Clone, Default)]
struct Watch {
    seen: Arc<AtomicUsize>,
    leaks: Arc<Mutex<Vec<String>>>,
}

impl Write for Watch {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.seen.fetch_add(bytes.len(), Ordering::Relaxed);
        let text = String::from_utf8_lossy(bytes);
        if text.contains(SECRET) {
            self.leaks.lock().unwrap().push(text.into_owned());
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The watch over all tests of this process.
fn watch() -> &'static Watch {
    static WATCH: OnceLock<Watch> = OnceLock::new();
    WATCH.get_or_init(|| {
        let watch = Watch::default();
        let writer = watch.clone();
        let levels = Targets::new().with_default(LevelFilter::DEBUG).with_target("logship", LevelFilter::TRACE);
        let layer = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(move || writer.clone());
        let layer = layer.with_span_events(FmtSpan::NEW | FmtSpan::CLOSE);
        tracing_subscriber::registry().with(layer.with_filter(levels)).init();
        watch
    })
}

/// One record in so many is one that destinations refuse.
const POISON_EVERY: usize = 1_250;

/// A destination, and what is expected of it.
struct Day<'a, D> {
    name: String,
    server: &'a Strict<D>,
    exporter: Arc<dyn Exporter>,
    /// Makes a record one that the destination refuses.
    poison: Option<fn(&mut LogRecord)>,
    /// Whether it refuses the neighbours of such a record, too.
    refuses_neighbours: bool,
    /// Whether it knows a repeat, so that nothing may be there twice.
    knows_repeats: bool,
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

fn exporter(kind: &str, fields: Value) -> Arc<dyn Exporter> {
    let Value::Object(fields) = fields else { unreachable!() };
    logship::registry().exporter(kind, fields, &BuildContext::default()).unwrap()
}

/// A field too many, for an index that takes a thousand.
fn many_fields(record: &mut LogRecord) {
    record.attributes = (0..1_200).map(|number| (format!("field{number}").into(), "x".into())).collect();
}

fn long_line(record: &mut LogRecord) {
    record.attributes.push(("long".into(), "x".repeat(4_000).into()));
}

fn poisoned(record: &mut LogRecord) {
    record.attributes.push(("state".into(), "poison".into()));
}

fn source(records: usize, poison: Option<fn(&mut LogRecord)>) -> MemorySource {
    let source = MemorySource::new();
    let begin = Timestamp::now().saturating_sub(Duration::from_secs(60));
    for number in 0..records {
        source.push("logs", begin.saturating_add(Duration::from_micros(100 * number as u64)), |record| {
            record.severity = Severity::INFO;
            record.body = format!("record {number:06} says \"hi\"\n\tand more").into();
            // Names that would meet in one label, and one that is there twice.
            record.attributes = vec![
                ("flow.id".into(), "load".into()),
                ("flow_id".into(), "load too".into()),
                ("flow.id".into(), 7.into()),
                ("thread".into(), format!("worker-{}", number % 3).into()),
            ];
            if let Some(poison) = poison.filter(|_| is_poisoned(number)) {
                poison(record);
            }
        });
    }
    source
}

fn is_poisoned(number: usize) -> bool {
    number % POISON_EVERY == POISON_EVERY / 2
}

fn lane(exporter: Arc<dyn Exporter>, chunk: usize, dead: &tempfile::TempDir) -> Lane {
    let mut retry = RetryPolicy::default();
    retry.delay_initial = Duration::from_millis(1);
    retry.delay_max = Duration::from_millis(20);
    retry.attempts_max = 30;
    let dead = FileExporter::new(FileConfig { dir: dead.path().into(), ..FileConfig::default() });
    let lane = Lane::shared("x", exporter).chunk(chunk).concurrency(4).attempt_timeout(Duration::from_millis(300));
    lane.retry(retry).dead_letter(dead)
}

async fn ship(source: MemorySource, lane: Lane) -> LaneReport {
    let shipper = LogShipper::builder(source).offsets(MemoryOffsets::new()).lookback(None).lane(lane).build().unwrap();
    shipper.run_once().await.unwrap().lanes.remove(0)
}

/// The numbers of records by what these texts say, each with how often it is there.
fn numbers(texts: impl IntoIterator<Item = impl Display>) -> BTreeMap<usize, usize> {
    let mut copies = BTreeMap::new();
    for text in texts {
        let text = text.to_string();
        let number = text.split("record ").skip(1).find_map(|behind| behind.get(..6)?.parse().ok());
        *copies.entry(number.unwrap_or_else(|| panic!("{text}"))).or_default() += 1;
    }
    copies
}

fn dead_lettered(dir: &tempfile::TempDir) -> BTreeSet<usize> {
    let files = std::fs::read_dir(dir.path()).unwrap();
    let texts = files.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap());
    let lines: Vec<String> = texts.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    numbers(lines).into_keys().collect()
}

impl<'a, D: Destination> Day<'a, D> {
    fn at(name: impl Into<String>, server: &'a Strict<D>, exporter: Arc<dyn Exporter>) -> Self {
        let (poison, refuses_neighbours, knows_repeats) = (None, false, false);
        Day { name: name.into(), server, exporter, poison, refuses_neighbours, knows_repeats }
    }

    /// Ships through the day, and holds what is there against what was promised.
    async fn pass<T: Display>(self, held: impl Fn(&Strict<D>) -> Vec<T>) {
        let (seed, records) = (number("LOGSHIP_BAD_DAY_SEED", 7), number("LOGSHIP_BAD_DAY_RECORDS", 10_000) as usize);
        eprintln!("LOGSHIP_BAD_DAY_SEED={seed} LOGSHIP_BAD_DAY_RECORDS={records} is what replays {}", self.name);
        let watch = watch();
        self.server.fail_at_random(seed, 10);
        let dead = tempfile::tempdir().unwrap();
        let begun = Instant::now();
        // A thousand requests or two, of which each way of answering badly gets some.
        let lane = lane(self.exporter.clone(), (records / 2_000).max(5), &dead);
        let report = ship(source(records, self.poison), lane).await;
        let (took, what) = (begun.elapsed(), &self.name);
        assert!(matches!(report.status, LaneStatus::Complete) && report.balances(), "{what}: {report:?}");
        assert_eq!((report.accepted + report.rejected, report.left), (records as u64, 0), "{what}: {report:?}");

        let refused = dead_lettered(&dead);
        assert_eq!((refused.len() as u64, report.rejected), (report.dead_lettered, report.dead_lettered), "{what}");
        let poison: BTreeSet<usize> = (0..records).filter(|n| self.poison.is_some() && is_poisoned(*n)).collect();
        match self.refuses_neighbours {
            true => assert!(poison.is_subset(&refused), "{what}: {poison:?} {refused:?}"),
            false => assert_eq!(poison, refused, "{what}"),
        }
        let held = numbers(held(self.server));
        let missing: Vec<usize> = (0..records).filter(|n| !held.contains_key(n) && !refused.contains(n)).collect();
        assert_eq!(missing, [0; 0], "{what}");
        assert!(poison.iter().all(|number| !held.contains_key(number)), "{what}: what was refused is there");
        let again = (held.values().sum::<usize>() - held.len()) as u64;
        assert!(again <= report.possibly_duplicated, "{what}: {again} are there again, {report:?}");
        assert!(!self.knows_repeats || again == 0, "{what}: {again} are there again");

        let shown = format!("{:?} {report:?} {report:#?} {:?}", self.exporter, self.exporter.check().await);
        assert!(!shown.contains(SECRET), "{what}: {shown}");
        assert_eq!((&*watch.leaks.lock().unwrap(), watch.seen.load(Ordering::Relaxed) > 10_000), (&vec![], true));

        let failed = self.server.failed();
        for (way, times) in &failed {
            assert!(*times > 0, "{what}: it never failed by {way:?}");
        }
        eprintln!(
            "{what}: {records} records, {} held, {} refused, {again} again of {} possibly, {} requests, {} bad in {} ways, \
             {:.1} s",
            held.len(),
            refused.len(),
            report.possibly_duplicated,
            self.server.deliveries().len(),
            failed.iter().map(|(_, times)| times).sum::<usize>(),
            failed.len(),
            took.as_secs_f64(),
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn datadog_has_every_log_of_a_bad_day() {
    let server = StrictDatadog::start().await.unwrap();
    server.rotate_key("hunter2-key");
    let exporter = exporter("datadog", json!({"url": server.url(), "api_key": "hunter2-key"}));
    Day::at("datadog", &server, exporter).pass(StrictDatadog::logs).await;
    assert_eq!(server.spoiled(), Default::default());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn newrelic_has_every_log_of_a_bad_day() {
    let server = StrictNewRelic::start().await.unwrap();
    server.rotate_key("hunter2-key");
    let exporter = exporter("newrelic", json!({"url": server.url(), "license_key": "hunter2-key"}));
    Day::at("newrelic", &server, exporter).pass(StrictNewRelic::logs).await;
    assert_eq!(server.spoiled(), Default::default());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn splunk_has_every_event_of_a_bad_day() {
    for (name, more) in [
        ("splunk", json!({"fields": {"team": "shop"}, "hostname": "h"})),
        ("splunk raw", json!({"endpoint": "raw", "index": "main"})),
        ("splunk acknowledged", json!({"acknowledge": true, "acknowledge_poll_ms": 5})),
    ] {
        let server = StrictSplunk::start().await.unwrap();
        server.rotate_token("hunter2-key");
        server.indexes(&["main"]);
        if name == "splunk acknowledged" {
            server.acknowledge_after(2);
        }
        let mut fields = json!({"url": server.url(), "token": "hunter2-key"});
        fields.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let mut day = Day::at(name, &server, exporter("splunk", fields));
        // Raw lines have no form that could be wrong.
        if name != "splunk raw" {
            server.refuse_events_with("poison");
            day.poison = Some(poisoned);
        }
        day.pass(StrictSplunk::events).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn elasticsearch_has_every_document_of_a_bad_day_once() {
    const STREAM: &str = "logs-orchestrator-default";
    let server = StrictElasticsearch::start().await.unwrap();
    server.refuse_duplicate_keys(true);
    server.rotate_credentials(Credentials::basic("a", "hunter2-b"));
    let auth = json!({"basic": {"username": "a", "password": "hunter2-b"}});
    let exporter = exporter("elasticsearch", json!({"hosts": [server.url()], "index": STREAM, "auth": auth}));
    let day = Day::at("elasticsearch", &server, exporter);
    let day = Day { poison: Some(many_fields), knows_repeats: true, ..day };
    day.pass(|server| {
        let documents = server.documents(STREAM);
        assert_eq!(documents.len(), server.count(STREAM));
        documents.into_values().collect()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opensearch_has_every_document_of_a_bad_day_once() {
    let signer = Signer::new("AKIDEXAMPLE", "hunter2-key", "eu-west-1");
    let aws = |service: &str| {
        let key = json!({"access_key_id": "AKIDEXAMPLE", "secret_access_key": "hunter2-key"});
        json!({"aws": {"service": service, "region": "eu-west-1", "credentials": {"static": key}}})
    };
    let basic = json!({"basic": {"username": "a", "password": "hunter2-b"}});
    let collection = Access::Collection { signer: signer.clone(), is_time_series: true };
    for (name, access, auth) in [
        ("opensearch", Access::Basic("a".to_owned(), "hunter2-b".into()), basic),
        ("opensearch domain", Access::Domain(signer), aws("es")),
        ("opensearch collection", collection, aws("aoss")),
    ] {
        let server = StrictOpenSearch::start(access).await.unwrap();
        let exporter = exporter("opensearch", json!({"hosts": [server.url()], "index": "logs", "auth": auth}));
        // A collection of time series takes no ids.
        let knows_repeats = name != "opensearch collection";
        let day = Day { poison: Some(many_fields), knows_repeats, ..Day::at(name, &server, exporter) };
        day.pass(|server| server.documents("logs").into_values().collect()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn otlp_has_every_record_of_a_bad_day() {
    for protocol in ["http_protobuf", "http_json", "grpc"] {
        let server = StrictOtlp::start().await.unwrap();
        server.refuse("poison", Refuses::TheRecord);
        server.require_header("api-key", "hunter2-key");
        let headers = json!({"api-key": "hunter2-key"});
        let fields = json!({"endpoint": server.url(), "protocol": protocol, "headers": headers});
        let exporter = exporter("otlp", fields);
        let day = Day::at(format!("otlp {protocol}"), &server, exporter);
        // A partial success names a number, and not which.
        Day { poison: Some(poisoned), refuses_neighbours: true, ..day }.pass(StrictOtlp::records).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logzio_has_every_log_of_a_bad_day() {
    let server = StrictLogzio::start("hunter2-token").await.unwrap();
    server.max_line_length(4_000);
    let exporter = exporter("logzio", json!({"url": server.url(), "token": "hunter2-token"}));
    let day = Day { poison: Some(long_line), ..Day::at("logzio", &server, exporter) };
    day.pass(|server| server.logs().into_iter().map(Value::Object).collect()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loggly_has_every_event_of_a_bad_day() {
    let server = StrictLoggly::start("hunter2-token").await.unwrap();
    server.max_event_length(4_000);
    let exporter = exporter("loggly", json!({"url": server.url(), "token": "hunter2-token"}));
    let day = Day { poison: Some(long_line), ..Day::at("loggly", &server, exporter) };
    day.pass(|server| {
        let events = server.events();
        assert!(events.iter().all(|event| event.has_time && event.tags == ["logship"]));
        events.into_iter().map(|event| event.text).collect()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loki_has_every_line_of_a_bad_day() {
    for (name, forgets) in [("loki", false), ("loki that forgets", true)] {
        let server = StrictLoki::start().await.unwrap();
        server.forget_repeats(forgets);
        server.max_line_size(4_000);
        let labels = json!({"job": {"value": "logship"}, "thread": {"attribute": "thread"}});
        server.require_bearer("hunter2-token");
        let auth = json!({"bearer": {"token": "hunter2-token"}});
        let fields = json!({"url": server.url(), "auth": auth, "labels": labels, "concurrency_max": 4});
        let exporter = exporter("loki", fields);
        let day = Day { poison: Some(long_line), knows_repeats: !forgets, ..Day::at(name, &server, exporter) };
        day.pass(|server| server.entries().into_iter().map(|entry| entry.line).collect()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_web_service_has_every_record_of_a_bad_day() {
    for (format, forgets) in [("ndjson", false), ("json_array", true)] {
        let server = StrictHttp::start().await.unwrap();
        server.forget_keys(forgets);
        server.refuse("poison");
        server.require_bearer("hunter2-token");
        let auth = json!({"bearer": {"token": "hunter2-token"}});
        let exporter = exporter("http", json!({"url": server.url(), "format": format, "auth": auth}));
        let day = Day::at(format!("http {format}"), &server, exporter);
        Day { poison: Some(poisoned), knows_repeats: !forgets, ..day }.pass(StrictHttp::records).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cloud_logging_has_every_entry_of_a_bad_day_once() {
    let server = StrictGcpLogging::start().await.unwrap();
    let fields = json!({"endpoint": server.url(), "service_account": server.service_account_key()});
    let day = Day::at("gcp_logging", &server, exporter("gcp_logging", fields));
    Day { knows_repeats: true, ..day }.pass(StrictGcpLogging::entries).await;
    assert_eq!(server.too_old(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cloudwatch_has_every_event_of_a_bad_day() {
    let server = StrictCloudWatch::start().await.unwrap();
    server.create("kit", "stream");
    let key = json!({"access_key_id": "AKIDKIT", "secret_access_key": "hunter2-key"});
    let fields = json!({"log_group_name": "kit", "log_stream_name": "stream", "create_log_stream": false,
        "aws": {"region": "eu-west-1", "endpoint": server.url(), "credentials": {"static": key}}});
    let day = Day::at("cloudwatch", &server, exporter("cloudwatch", fields));
    day.pass(|server| server.events("kit", "stream").into_iter().map(|event| event.message).collect()).await;
}

/// Gives out the token that a stand-in knows.
#[derive(Debug)]
struct Given(String);

#[async_trait]
impl TokenProvider for Given {
    async fn token(&self, _: &str) -> Result<AccessToken, Error> {
        Ok(AccessToken::new(self.0.as_str(), Duration::from_secs(3_600)))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn azure_monitor_has_every_row_of_a_bad_day() {
    let server = StrictAzureMonitor::start().await.unwrap();
    let mut config = AzureMonitorConfig::new(server.url(), server.rule_id(), server.stream_name());
    config.credentials = EntraCredentials::Provider(Arc::new(Given(server.token())));
    let exporter = Arc::new(AzureMonitor::new(config, &BuildContext::default()).unwrap());
    Day::at("azure_monitor", &server, exporter).pass(StrictAzureMonitor::rows).await;
    assert_eq!(server.spoiled(), Default::default());
}

/// Goal: each record of one answer has its own fate. Method: of twenty documents in one request two are there already
/// (409), three are turned away for now (429), two do not fit (400), and the others are new (201).
#[tokio::test]
async fn a_bulk_answer_of_every_kind_gives_each_record_its_own_fate() {
    let elasticsearch = StrictElasticsearch::start().await.unwrap();
    let opensearch = StrictOpenSearch::start(Access::Open).await.unwrap();
    let fields = |url: String| json!({"hosts": [url], "index": "logs-a-b"});
    mixed(&elasticsearch, exporter("elasticsearch", fields(elasticsearch.url()))).await;
    mixed(&opensearch, exporter("opensearch", fields(opensearch.url()))).await;
    for documents in [elasticsearch.documents("logs-a-b"), opensearch.documents("logs-a-b")] {
        let held = numbers(documents.into_values());
        assert!(held.keys().copied().eq((0..20).filter(|number| ![7, 12].contains(number))), "{held:?}");
        assert!(held.values().all(|copies| *copies == 1), "{held:?}");
    }
}

async fn mixed<D: Destination>(server: &Strict<D>, exporter: Arc<dyn Exporter>) {
    let source = MemorySource::new();
    for number in 0..20 {
        source.push("logs", Timestamp::now(), |record| {
            record.severity = if [1, 3].contains(&number) { Severity::ERROR } else { Severity::INFO };
            record.body = format!("record {number:06} ").into();
            if [7, 12].contains(&number) {
                many_fields(record);
            }
        });
    }
    let dead = tempfile::tempdir().unwrap();
    let errors = lane(exporter.clone(), 20, &dead).filter(Query::all().severity_min(Severity::ERROR));
    assert_eq!(ship(source.clone(), errors).await.accepted, 2);

    server.fail_next(1, Fault::Busy(Items::At(vec![0, 4, 9])));
    let report = ship(source, lane(exporter, 20, &dead)).await;
    assert!(matches!(report.status, LaneStatus::Complete), "{report:?}");
    assert_eq!((report.accepted, report.already_there, report.rejected, report.dead_lettered), (18, 2, 2, 2));
    assert_eq!((report.attempts, report.possibly_duplicated), (2, 0), "{report:?}");
    assert_eq!(dead_lettered(&dead), BTreeSet::from([7, 12]));
    let seen = server.deliveries();
    let [_, first, second] = seen.as_slice() else { panic!("{seen:?}") };
    assert_eq!((first.items, first.stored, first.duplicates), (20, 13, 2), "of three 429 and two 400 the others");
    assert_eq!((second.items, second.stored, second.duplicates), (3, 3, 0));
}
