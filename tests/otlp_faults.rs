//! The OTLP exporter in the engine, against a server that is as nasty as a real one: whatever goes wrong, no record is
//! missing, and none is there again that was not reported as possibly so.

#![allow(clippy::unwrap_used, reason = "a test says why it fails by its panic")]

use std::collections::BTreeMap;
use std::time::Duration;

use logship::exporters::file::{FileConfig, FileExporter};
use logship::exporters::otlp::{Otlp, OtlpConfig, OtlpProtocol};
use logship::sources::memory::MemorySource;
use logship::state::memory::MemoryOffsets;
use logship::{
    BuildContext, Compression, ErrorKind, Lane, LaneReport, LaneStatus, LogShipper, RetryPolicy, Severity, Timestamp,
};
use logship_testkit::strict::otlp::{Refuses, StrictOtlp};
use logship_testkit::strict::{Fault, Items};

const RECORDS: usize = 200;
const PROTOCOLS: [OtlpProtocol; 3] = [OtlpProtocol::HttpProtobuf, OtlpProtocol::HttpJson, OtlpProtocol::Grpc];

fn source() -> MemorySource {
    let source = MemorySource::new();
    for number in 0..RECORDS {
        source.push("logs", Timestamp::now(), |record| {
            record.severity = Severity::INFO;
            record.body = format!("record {number} says \"hi\"\n\tand more").into();
            // A name that is there twice, which a strict server refuses.
            record.attributes = vec![("flow".into(), "load".into()), ("flow".into(), (number as i64).into())];
        });
    }
    source
}

fn exporter(url: &str, protocol: OtlpProtocol, change: impl FnOnce(&mut OtlpConfig)) -> Otlp {
    let mut config = OtlpConfig::new(url);
    config.protocol = protocol;
    change(&mut config);
    Otlp::new(config, BuildContext::default()).unwrap()
}

fn lane_of(exporter: Otlp) -> Lane {
    let mut retry = RetryPolicy::default();
    retry.delay_initial = Duration::from_millis(1);
    retry.delay_max = Duration::from_millis(20);
    Lane::new("otlp", exporter).chunk(20).concurrency(2).attempt_timeout(Duration::from_millis(500)).retry(retry)
}

fn lane(url: &str, protocol: OtlpProtocol) -> Lane {
    lane_of(exporter(url, protocol, |_| {}))
}

async fn ship(source: MemorySource, lane: Lane) -> LaneReport {
    let shipper = LogShipper::builder(source).offsets(MemoryOffsets::new()).lookback(None).lane(lane).build().unwrap();
    let mut report = shipper.run_once().await.unwrap();
    report.lanes.remove(0)
}

/// How often each record is there, by its id.
fn copies(server: &StrictOtlp) -> BTreeMap<String, u64> {
    let mut copies = BTreeMap::new();
    for record in server.records() {
        let attributes = record["record"]["attributes"].as_array().unwrap();
        let uid = attributes.iter().find(|entry| entry["key"] == "log.record.uid").unwrap();
        *copies.entry(uid["value"]["stringValue"].as_str().unwrap().to_owned()).or_insert(0) += 1;
    }
    copies
}

/// None is missing, and those that are there again were reported. How many are there again.
fn assert_all_there(server: &StrictOtlp, lane: &LaneReport, what: &str) -> u64 {
    assert!(matches!(lane.status, LaneStatus::Complete), "{what}: {lane:?}");
    assert_eq!((lane.accepted, lane.left, lane.rejected), (RECORDS as u64, 0, 0), "{what}");
    let copies = copies(server);
    assert_eq!(copies.len(), RECORDS, "{what}");
    let repeated = copies.values().sum::<u64>() - RECORDS as u64;
    assert!(repeated <= lane.possibly_duplicated, "{what}: {repeated} repeated: {lane:?}");
    repeated
}

/// Goal: no fault loses a record, and what may be there twice is counted. Method: each fault alone, at the first
/// requests.
#[tokio::test]
async fn each_fault_leaves_every_record_there() {
    for protocol in PROTOCOLS {
        for fault in [
            Fault::status(429),
            Fault::status_after(429, "0"),
            Fault::status_after(503, "0"),
            Fault::status(504),
            Fault::status_after(429, "Fri, 20 Nov 2026 08:30:00 GMT"),
            Fault::status(413),
            Fault::ProxyPage(502),
            Fault::DropUnread,
            Fault::LoseAnswer,
            Fault::TruncateAnswer,
            Fault::Hang,
            Fault::Slow(Duration::from_millis(50)),
            Fault::Busy(Items::At(vec![0])),
        ] {
            let server = StrictOtlp::start().await.unwrap();
            server.fail_next(3, fault.clone());
            let lane = ship(source(), lane(&server.url(), protocol)).await;
            let repeated = assert_all_there(&server, &lane, &format!("{protocol:?} {fault:?}"));
            // With the connection the other call on it breaks off, whose records may have been taken.
            if !(protocol == OtlpProtocol::Grpc && fault == Fault::DropUnread) {
                let must_repeat = matches!(fault, Fault::LoseAnswer | Fault::TruncateAnswer);
                assert_eq!(repeated > 0, must_repeat, "{protocol:?} {fault:?}: {repeated}");
            }
        }
    }
}

/// Goal: the same, with faults in any order. Method: a third of all requests fail, by seed.
#[tokio::test]
async fn chaos_leaves_every_record_there() {
    for protocol in PROTOCOLS {
        for seed in 1..4 {
            let server = StrictOtlp::start().await.unwrap();
            server.fail_at_random(seed, 33);
            let lane = ship(source(), lane(&server.url(), protocol).chunk(5)).await;
            assert_all_there(&server, &lane, &format!("{protocol:?}, seed {seed}"));
        }
    }
}

#[tokio::test]
async fn every_packing_arrives() {
    for protocol in PROTOCOLS {
        for packing in ["none", "gzip", "zstd"] {
            let server = StrictOtlp::start().await.unwrap();
            let compression = Compression::try_from(packing.to_owned()).unwrap();
            let exporter = exporter(&server.url(), protocol, |config| config.compression = compression);
            let lane = ship(source(), lane_of(exporter)).await;
            assert_eq!(assert_all_there(&server, &lane, packing), 0);
            let packed = server.requests().iter().all(|request| request.wire_bytes < request.body_bytes);
            assert_eq!(packed, packing != "none", "{packing}");
        }
    }
}

#[tokio::test]
async fn a_request_that_is_too_large_is_split_and_one_within_the_limit_is_not() {
    for protocol in PROTOCOLS {
        let server = StrictOtlp::start().await.unwrap();
        server.max_request_bytes(2_000);
        let split = ship(source(), lane(&server.url(), protocol)).await;
        assert_all_there(&server, &split, "413");
        assert!(split.attempts > 10, "{split:?}");

        let server = StrictOtlp::start().await.unwrap();
        server.max_request_bytes(2_000);
        let exporter = exporter(&server.url(), protocol, |config| config.chunk_bytes_max = 2_000);
        let whole = ship(source(), lane_of(exporter)).await;
        assert_all_there(&server, &whole, "within");
        assert_eq!(whole.attempts, whole.chunks, "{whole:?}");
    }
}

/// Goal: H1: of a partial success none is lost and none is sent again. Method: a dead letter, and one without.
#[tokio::test]
async fn a_partial_success_is_neither_lost_nor_sent_again() {
    for protocol in PROTOCOLS {
        let dir = tempfile::tempdir().unwrap();
        let server = StrictOtlp::start().await.unwrap();
        server.refuse("record 25 ", Refuses::TheRecord);
        let dead = FileExporter::new(FileConfig { dir: dir.path().into(), ..FileConfig::default() });
        let lane = ship(source(), lane(&server.url(), protocol).dead_letter(dead)).await;
        assert!(matches!(lane.status, LaneStatus::Complete), "{lane:?}");
        // The chunk of twenty in which it stands.
        assert_eq!((lane.accepted, lane.rejected, lane.dead_lettered), (RECORDS as u64 - 20, 20, 20));
        assert!(copies(&server).values().all(|copies| *copies == 1));
        assert_eq!((server.count(), lane.possibly_duplicated), (RECORDS - 1, 0));
        let file = std::fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
        let letters = std::fs::read_to_string(file).unwrap();
        assert!(letters.contains("record 25 ") && letters.contains("1 of the 20 records"), "{letters}");
        assert!(letters.contains("some records are not wanted"), "{letters}");

        let server = StrictOtlp::start().await.unwrap();
        server.refuse("record 25 ", Refuses::TheRecord);
        let lane = ship(source(), self::lane(&server.url(), protocol).concurrency(1)).await;
        let LaneStatus::Stopped(error) = &lane.status else { panic!("{lane:?}") };
        assert!(error.to_string().contains("1 of the 20 records"), "{error}");
        assert!(lane.left > 0 && copies(&server).values().all(|copies| *copies == 1), "{lane:?}");
    }
}

#[tokio::test]
async fn a_warning_with_a_success_changes_nothing() {
    for protocol in PROTOCOLS {
        let server = StrictOtlp::start().await.unwrap();
        server.warn("use fewer attributes");
        let lane = ship(source(), lane(&server.url(), protocol)).await;
        assert_eq!(assert_all_there(&server, &lane, "warned"), 0);
    }
}

#[tokio::test]
async fn the_one_record_for_which_a_request_is_refused_is_found() {
    for protocol in PROTOCOLS {
        let dir = tempfile::tempdir().unwrap();
        let server = StrictOtlp::start().await.unwrap();
        server.refuse("record 25 ", Refuses::TheRequest);
        let dead = FileExporter::new(FileConfig { dir: dir.path().into(), ..FileConfig::default() });
        let lane = ship(source(), lane(&server.url(), protocol).dead_letter(dead)).await;
        assert_eq!((lane.accepted, lane.rejected, lane.dead_lettered), (RECORDS as u64 - 1, 1, 1));
        assert!(copies(&server).values().all(|copies| *copies == 1));
    }
}

/// Goal: what the protocol says is for good stops the lane at once. Method: one request each.
#[tokio::test]
async fn what_is_not_to_be_tried_again_stops_the_lane() {
    for protocol in PROTOCOLS {
        for (status, kind) in [(401, ErrorKind::Auth), (403, ErrorKind::Auth), (404, ErrorKind::NotFound)] {
            let server = StrictOtlp::start().await.unwrap();
            server.fail_next(1, Fault::status(status));
            let lane = ship(source(), lane(&server.url(), protocol).concurrency(1)).await;
            let LaneStatus::Stopped(error) = &lane.status else { panic!("{status}: {lane:?}") };
            assert_eq!((error.kind(), lane.attempts, server.count()), (kind, 1, 0), "{status}: {error}");
        }
        let server = StrictOtlp::start().await.unwrap();
        server.fail_next(1, Fault::status(500));
        let lane = ship(source(), lane(&server.url(), protocol).concurrency(1)).await;
        assert!(matches!(lane.status, LaneStatus::Stopped(_)), "{lane:?}");
        assert_eq!((lane.attempts, server.count()), (1, 0), "500 is not tried again");
    }
}
