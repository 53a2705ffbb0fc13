//! Bad records of the sources that need no database.

use std::fmt::Write;
use std::sync::Arc;

use logship::sources::jsonl::{JsonlConfig, JsonlFields, JsonlSource};
use logship::sources::memory::MemorySource;
use logship::state::memory::MemoryOffsets;
use logship::{ErrorKind, Lane, LaneStatus, LogRecord, LogShipper, OnReject, Source, Timestamp, Value};

use super::destinations::*;

fn nested(depth: usize, map: bool) -> Value {
    (0..depth).fold(Value::Null, |inner, _| match map {
        true => Value::Map(vec![("a".into(), inner)]),
        false => Value::Array(vec![inner]),
    })
}

type Fill = fn(&mut LogRecord);

/// What a record may hold, each a thing that some program writes.
const BAD: &[(&str, Fill)] = &[
    ("nul in the body", |record| record.body = "a\0b\u{9b}31m\u{1b}[2J".into()),
    ("nul in names", |record| record.attributes = vec![("a\0b".into(), "\0".into()), ("\0".into(), 1.into())]),
    ("bytes that are no text", |record| record.body = Value::Bytes(vec![0xff, 0, 0xfe, 0xc3].into())),
    ("characters at the ends", |record| record.body = "\u{feff}\u{ffff}\u{2028}\u{202e}\u{10ffff}\u{fffd}".into()),
    ("five megabytes", |record| record.body = "é\n\"x".repeat(1_000_000).into()),
    ("ten thousand attributes", |record| {
        record.attributes = (0..10_000).map(|n| (format!("field{n}").into(), n.into())).collect();
    }),
    ("names twice and without a character", |record| {
        record.attributes = ["", "", "a", "a", "a.b", "a.", ".a", "."].map(|name| (name.into(), "x".into())).to_vec();
    }),
    ("the first moment there is", |record| record.timestamp = Timestamp::from_nanos(i64::MIN)),
    ("the last moment there is", |record| record.timestamp = Timestamp::from_nanos(i64::MAX)),
    ("the year 0001", |record| record.timestamp = Timestamp::parse("0001-01-01T00:00:00Z").unwrap()),
    ("the year 9999", |record| record.observed_timestamp = Timestamp::parse("9999-12-31T23:59:59Z")),
    ("no numbers", |record| {
        let numbers = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, f64::MIN_POSITIVE / 2.0, f64::MAX];
        record.attributes = numbers.iter().map(|n| (format!("n{n:e}").into(), (*n).into())).collect();
        record.body = f64::NAN.into();
    }),
    ("a list as deep as nobody reads", |record| record.body = nested(10_000, false)),
    ("an object as deep as nobody reads", |record| record.attributes = vec![("deep".into(), nested(10_000, true))]),
    ("somewhat too deep", |record| record.body = nested(100, true)),
    ("just not too deep", |record| record.body = nested(60, true)),
    ("nothing", |record| *record = LogRecord::new(record.id.clone(), Timestamp::from_secs(0))),
    ("a severity that is a novel", |record| record.severity_text = Some("\0\n\u{1b}[31mWARN ".repeat(20_000).into())),
];

fn memory() -> MemorySource {
    let source = MemorySource::new();
    for (index, (name, fill)) in BAD.iter().enumerate() {
        source.push("logs", Timestamp::now(), |record| record.body = format!("good before {name}, {index}").into());
        source.push("logs", Timestamp::now(), fill);
    }
    source.push("logs", Timestamp::now(), |record| record.body = "good at the end".into());
    source
}

#[tokio::test]
async fn p1_p10_bad_records_in_memory_arrive_or_are_in_the_dead_letter() {
    let dir = tempfile::tempdir().unwrap();
    let lanes = ship_everywhere(Arc::new(memory()), dir.path()).await;
    for lane in lanes {
        // The three that are too deep, at every destination; at Elasticsearch also those it has no room for.
        let expected = if lane.id == "es" { 1..=6 } else { 3..=3 };
        assert!(expected.contains(&lane.dead_lettered), "{}: {:?}", lane.id, lane.rejections);
    }
}

/// Goal: what is dropped is counted and the rest arrives; a lane without either stops and says where.
#[tokio::test]
async fn p10_a_record_without_a_form_is_dropped_or_stops_the_lane_as_it_is_told() {
    let source = memory();
    for on_reject in [OnReject::Drop, OnReject::Stop] {
        let dir = tempfile::tempdir().unwrap();
        let exporter = file(dir.path(), Format::Json);
        let lane = Lane::new("json", exporter).on_reject(on_reject);
        let builder = LogShipper::builder(source.clone()).offsets(MemoryOffsets::new()).lookback(None).lane(lane);
        let report = builder.build().unwrap().run_once().await.unwrap();
        let lane = &report.lanes[0];
        let arrived = ids_of_lines(&folder(dir.path())).len() as u64;
        assert_eq!(arrived, lane.accepted);
        match (&lane.status, on_reject) {
            (LaneStatus::Complete, OnReject::Drop) => assert_eq!((lane.rejected, lane.left), (3, 0)),
            (LaneStatus::Stopped(error), OnReject::Stop) => {
                let text = error.to_string();
                assert!(text.contains("nested deeper than 64") && text.contains("logs:0000"), "{text}");
                assert!(lane.left > 0 && lane.rejected == 0);
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Goal: a record that no destination has room for, the dead letter included, is not lost: the lane stops before it.
#[tokio::test]
async fn p10_what_even_the_dead_letter_has_no_room_for_stops_the_lane() {
    let source = MemorySource::new();
    source.push("logs", Timestamp::now(), |record| record.body = "good".into());
    source.push("logs", Timestamp::now(), |record| record.body = "\0".repeat(5_000_000).into());
    source.push("logs", Timestamp::now(), |record| record.body = "good too".into());
    let dir = tempfile::tempdir().unwrap();
    let dead = file(&dir.path().join("dead"), Format::Json);
    let lane = Lane::new("json", file(&dir.path().join("json"), Format::Json));
    let builder = LogShipper::builder(source).offsets(MemoryOffsets::new()).lookback(None).lane(lane.dead_letter(dead));
    let report = builder.build().unwrap().run_once().await.unwrap();
    let lane = &report.lanes[0];
    let LaneStatus::Stopped(error) = &lane.status else { panic!("{lane:?}") };
    assert!(error.to_string().contains("the dead letter does not take a record either"), "{error}");
    assert!(error.to_string().contains("logs:00000000000000000002"), "it is named: {error}");
    assert!((lane.accepted, lane.rejected) == (1, 0) && lane.left > 0, "{lane:?}");
    assert_eq!(folder(&dir.path().join("json")).lines().count(), 1);
}

fn lines() -> Vec<u8> {
    let mut many = String::from("{\"msg\":\"many\"");
    for n in 0..10_000 {
        write!(many, ",\"field{n}\":{n}").unwrap();
    }
    many.push('}');
    let deep = |open: &str, close: &str| format!("{{\"msg\":{}1{}}}", open.repeat(10_000), close.repeat(10_000));
    let bad: Vec<Vec<u8>> = vec![
        b"{\"msg\":\"a\0b\"}".to_vec(),
        b"\0\0\0".to_vec(),
        b"{\"msg\":\"\xff\xfe\xc3\", \"\xff\":\"\xed\xa0\x80\"}".to_vec(),
        b"{\"msg\":\"\\ud800\\udfff\\udc00 \\u0000\"}".to_vec(),
        format!("{{\"msg\":\"{}\"}}", "x".repeat(5_000_000)).into_bytes(),
        many.into_bytes(),
        b"{\"time\":\"0001-01-01T00:00:00Z\",\"msg\":\"old\"}".to_vec(),
        b"{\"time\":\"9999-12-31T23:59:59.999999999Z\",\"msg\":\"new\"}".to_vec(),
        b"{\"time\":1e300,\"ts\":-9223372036854775808,\"msg\":\"numbers\"}".to_vec(),
        b"{\"msg\":NaN,\"a\":Infinity}".to_vec(),
        b"{\"msg\":\"large\",\"a\":1e999,\"b\":-1e999,\"c\":123456789012345678901234567890}".to_vec(),
        deep("[", "]").into_bytes(),
        deep("{\"a\":", "}").into_bytes(),
        b"{}".to_vec(),
        b"null".to_vec(),
        b"{\"msg\":\"".to_vec(),
    ];
    let mut content = Vec::new();
    for (index, line) in bad.iter().enumerate() {
        content.extend_from_slice(format!("{{\"msg\":\"good {index}\",\"level\":\"INFO\"}}\r\n\n").as_bytes());
        content.extend_from_slice(line);
        content.push(b'\n');
    }
    content
}

#[tokio::test]
async fn p1_p10_bad_lines_of_files_arrive_or_are_in_the_dead_letter() {
    let dir = tempfile::tempdir().unwrap();
    let logs = dir.path().join("logs");
    std::fs::create_dir(&logs).unwrap();
    std::fs::write(logs.join("a.jsonl"), lines()).unwrap();
    std::fs::write(logs.join("empty.jsonl"), "").unwrap();
    let config = JsonlConfig { paths: vec![logs], fields: JsonlFields::default() };
    let lanes = ship_everywhere(Arc::new(JsonlSource::new(config).unwrap()), dir.path()).await;
    for lane in lanes {
        assert_eq!(lane.read, 32);
        let expected = if lane.id == "es" { 0..=1 } else { 0..=0 };
        assert!(expected.contains(&lane.dead_lettered), "{}: {:?}", lane.id, lane.rejections);
    }
}

#[tokio::test]
async fn a_source_without_records_is_complete_and_one_that_is_not_there_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let run = async |source: Arc<dyn Source>| {
        let lane = Lane::new("json", file(&dir.path().join("out"), Format::Json));
        let builder = LogShipper::builder_shared(source).offsets(MemoryOffsets::new()).lookback(None).lane(lane);
        builder.build().unwrap().run_once().await.map(|mut report| report.lanes.remove(0))
    };
    let jsonl = |path| Arc::new(JsonlSource::new(JsonlConfig { paths: vec![path], fields: <_>::default() }).unwrap());
    for source in [Arc::new(MemorySource::new()) as Arc<dyn Source>, jsonl(dir.path().into())] {
        let lane = run(source).await.unwrap();
        assert!(matches!(lane.status, LaneStatus::Complete) && lane.read == 0, "{lane:?}");
    }
    let error = run(jsonl(dir.path().join("missing.jsonl"))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("missing.jsonl"), "{error}");
}
