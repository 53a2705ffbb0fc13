//! The exporters of vendors in the engine, against stand-ins as strict as the vendors' documents: whatever goes wrong,
//! no record is missing, none is there more often than the report says, and nothing secret is shown.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says why it fails by its panic")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use logship::exporters::file::{FileConfig, FileExporter};
use logship::exporters::loggly::{Loggly, LogglyConfig};
use logship::exporters::logzio::{Logzio, LogzioConfig};
use logship::exporters::loki::{Loki, LokiConfig};
use logship::sources::memory::MemorySource;
use logship::state::memory::MemoryOffsets;
use logship::{
    BuildContext, Error, ErrorKind, Exporter, Lane, LaneReport, LaneStatus, LogRecord, LogShipper, RetryPolicy, Secret,
    SecretProvider, Severity, Timestamp,
};
use logship_testkit::strict::datadog::StrictDatadog;
use logship_testkit::strict::loggly::StrictLoggly;
use logship_testkit::strict::logzio::StrictLogzio;
use logship_testkit::strict::loki::StrictLoki;
use logship_testkit::strict::newrelic::StrictNewRelic;
use logship_testkit::strict::splunk::StrictSplunk;
use logship_testkit::strict::{Destination, Fault, Strict};
use serde_json::{Value, json};

const MARK: &str = "number-";

/// A destination, and the fields of an exporter that writes to it.
enum Place {
    Datadog(StrictDatadog),
    NewRelic(StrictNewRelic),
    Splunk(StrictSplunk, Value),
}

/// Calls a method that all of them have.
macro_rules! each {
    ($place:expr, $server:ident => $call:expr) => {
        match $place {
            Place::Datadog($server) => $call,
            Place::NewRelic($server) => $call,
            Place::Splunk($server, _) => $call,
        }
    };
}

const PLACES: [&str; 5] = ["datadog", "newrelic", "splunk", "splunk raw", "splunk acknowledged"];

impl Place {
    async fn start(name: &str) -> Self {
        match name {
            "datadog" => {
                let server = StrictDatadog::start().await.unwrap();
                server.rotate_key("hunter2-key");
                Place::Datadog(server)
            }
            "newrelic" => {
                let server = StrictNewRelic::start().await.unwrap();
                server.rotate_key("hunter2-key");
                Place::NewRelic(server)
            }
            _ => {
                let server = StrictSplunk::start().await.unwrap();
                server.rotate_token("hunter2-key");
                server.indexes(&["main"]);
                let fields = match name {
                    "splunk raw" => json!({"endpoint": "raw", "index": "main"}),
                    "splunk acknowledged" => {
                        server.acknowledge_after(2);
                        json!({"acknowledge": true, "acknowledge_poll_ms": 5})
                    }
                    _ => json!({"fields": {"team": "shop"}, "hostname": "h"}),
                };
                Place::Splunk(server, fields)
            }
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Place::Datadog(_) => "datadog",
            Place::NewRelic(_) => "newrelic",
            Place::Splunk(..) => "splunk",
        }
    }

    /// The exporter with these fields beside its own, as a configuration makes it.
    fn exporter(&self, more: Value, context: &BuildContext) -> Result<Arc<dyn Exporter>, Error> {
        let key = match self {
            Place::Datadog(_) => "api_key",
            Place::NewRelic(_) => "license_key",
            Place::Splunk(..) => "token",
        };
        let mut fields = json!({"url": each!(self, server => server.url()), key: "hunter2-key"});
        let own = if let Place::Splunk(_, own) = self { own.clone() } else { json!({}) };
        for (name, value) in [own, more].iter().flat_map(|more| more.as_object().unwrap()) {
            fields[name] = value.clone();
        }
        let Value::Object(fields) = fields else { unreachable!() };
        logship::registry().exporter(self.name(), fields, context)
    }

    fn lane(&self) -> Lane {
        lane(self.exporter(json!({}), &BuildContext::default()).unwrap())
    }

    /// How often each record is there. What a success hid from us is a failure of ours.
    fn held(&self) -> BTreeMap<usize, usize> {
        let texts: Vec<Value> = match self {
            Place::Datadog(server) => {
                assert_eq!(server.spoiled(), Default::default());
                server.logs()
            }
            Place::NewRelic(server) => {
                assert_eq!(server.spoiled(), Default::default());
                server.logs()
            }
            Place::Splunk(server, _) => server.events(),
        };
        let mut held = BTreeMap::new();
        for text in texts {
            let text = text.to_string();
            let (_, behind) = text.split_once(MARK).unwrap_or_else(|| panic!("{text}"));
            *held.entry(behind[..6].parse().unwrap()).or_insert(0) += 1;
        }
        held
    }
}

fn body(number: usize) -> String {
    format!("{MARK}{number:06} says \"hi\"\n\tand more")
}

fn source(records: usize) -> MemorySource {
    let source = MemorySource::new();
    for number in 0..records {
        source.push("logs", Timestamp::now(), |record| {
            record.severity = Severity::INFO;
            record.body = body(number).into();
            record.attributes = vec![("flow.id".into(), "load".into()), ("message".into(), 7.into())];
        });
    }
    source
}

fn lane(exporter: Arc<dyn Exporter>) -> Lane {
    let mut retry = RetryPolicy::default();
    retry.delay_initial = Duration::from_millis(1);
    retry.delay_max = Duration::from_millis(20);
    retry.attempts_max = 20;
    Lane::shared("place", exporter).chunk(10).concurrency(2).attempt_timeout(Duration::from_millis(400)).retry(retry)
}

async fn ship(source: MemorySource, lane: Lane) -> LaneReport {
    let shipper = LogShipper::builder(source).offsets(MemoryOffsets::new()).lookback(None).lane(lane).build().unwrap();
    let mut report = shipper.run_once().await.unwrap();
    report.lanes.remove(0)
}

/// Every record is there; none more often than the report says.
fn assert_all(place: &Place, lane: &LaneReport, records: usize, what: &str) {
    assert!(matches!(lane.status, LaneStatus::Complete) && lane.balances(), "{what}: {lane:?}");
    assert_eq!((lane.accepted, lane.left, lane.rejected), (records as u64, 0, 0), "{what}");
    let held = place.held();
    assert!(held.keys().copied().eq(0..records), "{what}: of {records} records {} are there", held.len());
    let repeats = held.values().sum::<usize>() - records;
    assert!(repeats as u64 <= lane.possibly_duplicated, "{what}: {repeats} repeats, {}", lane.possibly_duplicated);
}

/// Goal: each way a destination fails loses nothing. Method: each alone, at the first requests.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_fault_leaves_every_record_there() {
    for name in PLACES {
        let ways = {
            let place = Place::start(name).await;
            let ways = each!(&place, server => ways(server));
            [
                ways,
                vec![Fault::Slow(Duration::from_millis(30)), Fault::status_after(429, "Fri, 20 Nov 2026 08:30:00 GMT")],
            ]
        };
        for fault in ways.concat() {
            let place = Place::start(name).await;
            each!(&place, server => server.fail_next(3, fault.clone()));
            let lane = ship(source(60), place.lane()).await;
            assert_all(&place, &lane, 60, &format!("{name}: {fault:?}"));
        }
    }
}

fn ways<D: Destination + Default>(_: &Strict<D>) -> Vec<Fault> {
    D::default().ways_to_fail()
}

/// Goal: no answer and no failure shows a key. Method: each fault at a lane that gives up at once; all that is said.
#[tokio::test]
async fn no_error_shows_a_key_or_a_record() {
    for name in PLACES {
        let place = Place::start(name).await;
        let mut retry = RetryPolicy::default();
        retry.attempts_max = 1;
        let mut faults = each!(&place, server => ways(server));
        faults.extend([400, 401, 403, 404, 413, 422].map(Fault::status));
        for fault in faults {
            each!(&place, server => server.heal());
            each!(&place, server => server.fail_next(50, fault.clone()));
            let exporter = place.exporter(json!({}), &BuildContext::default()).unwrap();
            let lane = lane(exporter.clone()).retry(retry).attempt_timeout(Duration::from_millis(50));
            let report = ship(source(3), lane).await;
            let checked = tokio::time::timeout(Duration::from_millis(50), exporter.check()).await;
            let said = format!("{exporter:?} {report:?} {:?} {checked:?}", exporter.refresh().await);
            assert!(!said.contains("hunter2") && !said.contains(MARK), "{name}, {fault:?}: {said}");
            assert!(!matches!(report.status, LaneStatus::Complete), "{name}, {fault:?}");
        }
    }
}

#[tokio::test]
async fn a_body_that_is_too_large_is_split_and_nothing_of_it_is_lost() {
    for name in PLACES {
        let place = Place::start(name).await;
        // What passes our own limits, and is refused all the same.
        each!(&place, server => server.fail_next(2, Fault::status(413)));
        let lane = ship(source(60), place.lane()).await;
        assert_all(&place, &lane, 60, name);
    }
    let Place::Splunk(server, _) = Place::start("splunk").await else { unreachable!() };
    server.max_content_length(1_500);
    let place = Place::Splunk(server, json!({}));
    let lane = ship(source(60), place.lane()).await;
    assert_all(&place, &lane, 60, "max_content_length");
    assert!(lane.attempts > 6, "{lane:?}");
}

/// A key that changes while the shipper runs.
#[derive(Debug)]
struct Vault(Mutex<u32>);

impl SecretProvider for Vault {
    fn secret(&self, _name: &str) -> Option<Secret> {
        let mut asked = self.0.lock().unwrap();
        *asked += 1;
        Some(Secret::new(if *asked > 1 { "hunter2-key" } else { "hunter1-key" }))
    }
}

#[tokio::test]
async fn a_key_that_was_replaced_is_fetched_again_and_one_that_is_wrong_stops_the_lane() {
    for name in PLACES {
        let place = Place::start(name).await;
        let key = match place.name() {
            "datadog" => "api_key",
            "newrelic" => "license_key",
            _ => "token",
        };
        let context = BuildContext::new(Arc::new(Vault(Mutex::new(0))));
        let exporter = place.exporter(json!({key: {"secret": "K"}}), &context).unwrap();
        let shipped = ship(source(20), lane(exporter)).await;
        assert_all(&place, &shipped, 20, name);

        let place = Place::start(name).await;
        let exporter = place.exporter(json!({key: "wrong-hunter2"}), &BuildContext::default()).unwrap();
        let check = exporter.check().await.unwrap_err();
        let stopped = ship(source(20), lane(exporter)).await;
        let LaneStatus::Stopped(error) = &stopped.status else { panic!("{name}: {stopped:?}") };
        assert_eq!((error.kind(), check.kind(), stopped.accepted), (ErrorKind::Auth, ErrorKind::Auth, 0), "{name}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}

/// The record whose form at this destination has so many bytes.
fn sized(exporter: &dyn Exporter, bytes: usize) -> impl Fn(&mut LogRecord) {
    let encoding = exporter.encoding().unwrap();
    let fill =
        move |record: &mut LogRecord, len: usize| record.body = format!("{MARK}{:06}{}", 0, "x".repeat(len)).into();
    move |record| {
        fill(record, 0);
        let mut out = Vec::new();
        encoding.record(record, &mut out).unwrap();
        fill(record, bytes - out.len());
    }
}

/// Ships one record that is made so, and says whether it was accepted. What is refused goes to a dead letter.
async fn takes(place: &Place, exporter: Arc<dyn Exporter>, make: impl Fn(&mut LogRecord)) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let dead = FileExporter::new(FileConfig { dir: dir.path().into(), ..FileConfig::default() });
    let source = MemorySource::new();
    source.push("logs", Timestamp::now(), |record| {
        record.body = body(0).into();
        make(record);
    });
    let before: usize = place.held().values().sum();
    let lane = ship(source, lane(exporter).dead_letter(dead)).await;
    let is_there = place.held().values().sum::<usize>() > before;
    assert_eq!((lane.accepted, lane.rejected), (u64::from(is_there), u64::from(!is_there)), "{lane:?}");
    is_there
}

#[tokio::test]
async fn a_record_at_the_limit_is_taken_and_one_byte_more_is_refused_before_it_is_sent() {
    for (name, fields, max) in [
        ("datadog", json!({}), 1_000_000),
        ("datadog", json!({"chunk_bytes_max": 5_000}), 5_000),
        ("splunk", json!({}), 1_000_000),
        ("splunk", json!({"chunk_bytes_max": 5_000}), 5_000),
        ("splunk raw", json!({}), 1_000_000),
        ("newrelic", json!({"chunk_bytes_max": 5_000}), 5_000),
    ] {
        let place = Place::start(name).await;
        let exporter = place.exporter(fields, &BuildContext::default()).unwrap();
        // A body has what stands around the records, too.
        let encoding = exporter.encoding().unwrap();
        let frame = encoding.begin().len() + encoding.end().len();
        let max = if max == 5_000 { max - frame } else { max };
        assert!(takes(&place, exporter.clone(), sized(&*exporter, max)).await, "{name}: {max}");
        let requests = each!(&place, server => server.deliveries().len());
        assert!(!takes(&place, exporter.clone(), sized(&*exporter, max + 1)).await, "{name}: {max}");
        assert_eq!(each!(&place, server => server.deliveries().len()), requests, "{name}: sent");
    }
}

#[tokio::test]
async fn a_record_as_old_as_is_taken_is_taken_and_an_older_one_is_refused_before_it_is_sent() {
    const HOUR: Duration = Duration::from_secs(3_600);
    const MINUTE: Duration = Duration::from_secs(60);
    for (name, age) in [("datadog", 18 * HOUR), ("newrelic", 48 * HOUR)] {
        let place = Place::start(name).await;
        let exporter = place.exporter(json!({}), &BuildContext::default()).unwrap();
        let aged =
            |age: Duration| move |record: &mut LogRecord| record.timestamp = Timestamp::now().saturating_sub(age);
        assert!(takes(&place, exporter.clone(), aged(age - MINUTE)).await, "{name}");
        assert!(!takes(&place, exporter.clone(), aged(age + MINUTE)).await, "{name}");
    }
}

#[tokio::test]
async fn requests_are_full_and_never_beyond_what_is_taken() {
    let place = Place::start("datadog").await;
    let lane_of = |fields| lane(place.exporter(fields, &BuildContext::default()).unwrap()).concurrency(1);
    let lane = ship(source(1_001), lane_of(json!({})).chunk(10_000).attempt_timeout(Duration::from_secs(20))).await;
    assert_all(&place, &lane, 1_001, "count");
    let Place::Datadog(server) = &place else { unreachable!() };
    assert_eq!(server.deliveries().iter().map(|request| request.items).collect::<Vec<_>>(), [1_000, 1]);

    // 1 MB as sent: what hardly packs is split until it fits.
    let place = Place::start("newrelic").await;
    let noise = MemorySource::new();
    let mut chance = fastrand::Rng::with_seed(7);
    for number in 0..40 {
        let text: String = (0..60_000).map(|_| chance.alphanumeric()).collect();
        noise.push("logs", Timestamp::now(), |record| record.body = format!("{MARK}{number:06}{text}").into());
    }
    let exporter = place.exporter(json!({}), &BuildContext::default()).unwrap();
    let lane = ship(noise, self::lane(exporter).chunk(10_000).attempt_timeout(Duration::from_secs(20))).await;
    assert_all(&place, &lane, 40, "wire bytes");
    let Place::NewRelic(server) = &place else { unreachable!() };
    assert!(server.deliveries().iter().all(|request| request.wire_bytes <= 1_000_000 && request.status == Some(202)));
    assert!(server.deliveries().len() > 1);
}

/// Goal: accepted means indexed. Method: Splunk receives two requests and loses them before they are indexed.
#[tokio::test]
async fn with_acknowledgement_what_splunk_lost_before_indexing_is_sent_again() {
    let place = Place::start("splunk acknowledged").await;
    let Place::Splunk(server, _) = &place else { unreachable!() };
    server.lose_received(2);
    let lane = ship(source(40), place.lane()).await;
    assert_all(&place, &lane, 40, "lost");
    assert!(lane.possibly_duplicated >= 20, "{lane:?}");

    // A token that does not acknowledge is a wrong configuration, not a success.
    let Place::Splunk(server, _) = Place::start("splunk").await else { unreachable!() };
    let place = Place::Splunk(server, json!({"acknowledge": true}));
    let stopped = ship(source(10), place.lane()).await;
    let LaneStatus::Stopped(error) = &stopped.status else { panic!("{stopped:?}") };
    assert!(error.to_string().contains("acknowledge") && stopped.accepted == 0, "{error}");
}

#[tokio::test]
async fn an_index_that_splunk_does_not_know_stops_the_lane_and_refuses_no_record() {
    let Place::Splunk(server, _) = Place::start("splunk").await else { unreachable!() };
    let place = Place::Splunk(server, json!({"index": "absent"}));
    let stopped = ship(source(10), place.lane()).await;
    let LaneStatus::Stopped(error) = &stopped.status else { panic!("{stopped:?}") };
    assert_eq!((error.kind(), stopped.accepted, stopped.rejected), (ErrorKind::NotFound, 0, 0), "{error}");
}

/// Goal: of a request with bad events, these go to the dead letter and all others are there, whether Splunk keeps the
/// events before a bad one or not. Method: two bad ones in one request.
#[tokio::test]
async fn events_that_splunk_names_as_bad_are_refused_and_all_others_are_there() {
    for keeps_prefix in [true, false] {
        let place = Place::start("splunk").await;
        let Place::Splunk(server, _) = &place else { unreachable!() };
        server.refuse_events_with("poison");
        server.keep_prefix(keeps_prefix);
        let source = MemorySource::new();
        for number in 0..30 {
            let poison = if [7, 22].contains(&number) { " poison" } else { "" };
            source.push("logs", Timestamp::now(), |record| record.body = (body(number) + poison).into());
        }
        let dir = tempfile::tempdir().unwrap();
        let dead = FileExporter::new(FileConfig { dir: dir.path().into(), ..FileConfig::default() });
        let lane = ship(source, place.lane().chunk(30).dead_letter(dead)).await;
        assert!(matches!(lane.status, LaneStatus::Complete), "{lane:?}");
        assert_eq!((lane.accepted, lane.rejected, lane.dead_lettered), (28, 2, 2));
        let held = place.held();
        assert!(held.keys().copied().eq((0..30).filter(|number| ![7, 22].contains(number))), "{held:?}");
        let repeats = held.values().sum::<usize>() - 28;
        assert!(repeats as u64 <= lane.possibly_duplicated, "{repeats} repeats, {lane:?}");
        assert_eq!(repeats > 0, keeps_prefix);
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
    let exporters: [Arc<dyn Exporter>; 3] = [
        Arc::new(Loki::new(LokiConfig::new(loki.url().as_str()), context()).unwrap()),
        Arc::new(Logzio::new(logzio_config, context()).unwrap()),
        Arc::new(Loggly::new(loggly_config, context()).unwrap()),
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

/// Goal: the report counts what went over the wire, also where the exporter packs it itself. Method: what the servers saw.
#[tokio::test]
async fn the_report_counts_the_bytes_that_were_sent() {
    let (loki, datadog) = (StrictLoki::start().await.unwrap(), Place::start("datadog").await);
    let exporter = Arc::new(Loki::new(LokiConfig::new(loki.url().as_str()), BuildContext::default()).unwrap());
    let to_loki = ship(source(60), lane(exporter)).await;
    let to_datadog = ship(source(60), datadog.lane()).await;
    let Place::Datadog(datadog) = datadog else { unreachable!() };
    for (report, seen) in [(to_loki, loki.deliveries()), (to_datadog, datadog.deliveries())] {
        let wire_bytes: usize = seen.iter().map(|request| request.wire_bytes).sum();
        assert_eq!(report.wire_bytes, wire_bytes as u64, "{report:?}");
        assert!(report.wire_bytes < report.bytes, "{report:?}");
    }
}
