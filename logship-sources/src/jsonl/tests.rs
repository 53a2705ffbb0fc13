use std::io::Write;

use logship_core::{Filter, Resource, Scope, Severity, TextBlock, Timestamp, Value};
use proptest::prelude::*;

use super::lines::TRUNCATED_BYTES;
use super::*;

const ALL: PageLimits = PageLimits { records_max: 1_000, bytes_max: usize::MAX, until: None };

fn source(dir: &tempfile::TempDir) -> JsonlSource {
    let config = JsonlConfig { paths: vec![dir.path().join("*.jsonl")], fields: JsonlFields::default() };
    JsonlSource::new(config).unwrap()
}

/// A file of this content, and the source and partition to read it.
fn file(content: &[u8]) -> (tempfile::TempDir, JsonlSource, Partition) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.jsonl");
    std::fs::write(&path, content).unwrap();
    let source = source(&dir);
    (dir, source, Partition::new(path.to_str().unwrap()))
}

/// All records, page by page.
fn read_all(source: &JsonlSource, partition: &Partition, limits: PageLimits) -> Vec<LogRecord> {
    let (mut start, mut records) = (Start::Earliest, Vec::new());
    loop {
        let page = source.page(partition, &start, &Query::all(), limits).unwrap();
        assert!(page.records().len() <= limits.records_max);
        records.extend_from_slice(page.records());
        if let Some(next) = page.next() {
            start = Start::After(next.clone());
        }
        if page.end() == PageEnd::CaughtUp {
            return records;
        }
    }
}

#[test]
fn a_line_is_a_record_with_its_usual_fields() {
    let line = br#"{"time":"2026-11-20T08:30:00Z","level":"WARN","msg":"say \"hi\"\n\u00e9\ud83d\ude00","flow":{"id":7,"ok":true},"n":[1.5,null]}"#;
    let (_dir, source, partition) = file(&[line.as_slice(), b"\r\n\n"].concat());
    let records = read_all(&source, &partition, ALL);
    assert_eq!(records.len(), 1, "an empty line is no record");
    let record = &records[0];
    assert_eq!(record.timestamp, "2026-11-20T08:30:00Z".parse::<Timestamp>().unwrap());
    assert_eq!((record.severity, record.body.as_str()), (Severity::WARN, Some("say \"hi\"\né😀")));
    let flow = Value::Map(vec![("id".into(), 7.into()), ("ok".into(), true.into())]);
    assert_eq!(record.attribute("flow"), Some(&flow));
    assert_eq!(record.attribute("n"), Some(&Value::Array(vec![1.5.into(), Value::Null])));
    assert_eq!(record.id.position().as_number() as usize, line.len() + 2);
}

#[test]
fn p1_what_is_no_object_is_shipped_as_it_is() {
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let content = format!("plain\n[1]\n{{\"a\":1}} x\n{{\"a\":{deep}}}\n");
    let (_dir, source, partition) = file(content.as_bytes());
    let records = read_all(&source, &partition, ALL);
    let bodies: Vec<&str> = records.iter().filter_map(|record| record.body.as_str()).collect();
    assert_eq!(bodies[..3], ["plain", "[1]", "{\"a\":1} x"]);
    assert_eq!(bodies[3].len(), deep.len() + 6);
    assert!(records.iter().all(|record| record.attribute("logship.parse_error").is_some()));
}

#[test]
fn a_line_that_is_being_written_waits_for_its_end() {
    let (dir, source, partition) = file(b"{\"msg\":\"1\"}\n{\"msg\":\"2");
    assert_eq!(read_all(&source, &partition, ALL).len(), 1);
    let mut growing = std::fs::OpenOptions::new().append(true).open(dir.path().join("a.jsonl")).unwrap();
    growing.write_all(b"\"}\n").unwrap();
    let records = read_all(&source, &partition, ALL);
    assert_eq!(records[1].body, "2".into());
}

#[tokio::test]
async fn files_that_appear_are_partitions_and_only_they() {
    let (dir, source, partition) = file(b"");
    assert_eq!(source.partitions().await.unwrap(), [partition]);
    std::fs::write(dir.path().join("b.jsonl"), b"").unwrap();
    std::fs::write(dir.path().join("c.txt"), b"").unwrap();
    assert_eq!(source.partitions().await.unwrap().len(), 2);
    let folder = JsonlConfig { paths: vec![dir.path().into()], fields: JsonlFields::default() };
    assert_eq!(JsonlSource::new(folder).unwrap().partitions().await.unwrap().len(), 2);
    let wrong = JsonlConfig { paths: vec!["a*/b*".into()], fields: JsonlFields::default() };
    assert!(JsonlSource::new(wrong).unwrap_err().to_string().contains("one `*`"));
}

#[tokio::test]
async fn a_file_that_is_written_anew_or_missing_is_said() {
    let (dir, source, partition) = file(b"{\"msg\":\"1\"}\n{\"msg\":\"2\"}\n");
    let start = Start::After(Cursor::number(24));
    assert!(source.page(&partition, &start, &Query::all(), ALL).unwrap().records().is_empty());
    std::fs::write(dir.path().join("a.jsonl"), b"{\"msg\":\"3\"}\n").unwrap();
    let error = source.page(&partition, &start, &Query::all(), ALL).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::State);
    assert!(error.to_string().contains("12 bytes, and 24 were read"), "{error}");
    std::fs::write(dir.path().join("a.jsonl"), b"{\"msg\":\"other, and longer\"}\n").unwrap();
    let error = source.page(&partition, &start, &Query::all(), ALL).unwrap_err();
    assert!(error.to_string().contains("no line ends at byte 24"), "{error}");
    std::fs::remove_file(dir.path().join("a.jsonl")).unwrap();
    // Of one that is found in a folder nobody has said that it stays.
    assert!(source.read(&partition, &start, &Query::all(), ALL).await.unwrap().is_empty());
    let missing = JsonlConfig { paths: vec!["/nowhere/a.jsonl".into()], fields: JsonlFields::default() };
    let error = JsonlSource::new(missing).unwrap().check().await.unwrap_err().to_string();
    assert!(error.contains("/nowhere/a.jsonl"), "{error}");
}

#[test]
fn a_giant_line_is_whole_and_a_larger_one_is_cut_and_says_so() {
    let line = |bytes: usize| format!("{{\"msg\":\"{}\"}}\n", "x".repeat(bytes));
    let (_dir, source, partition) = file((line(5_000_000) + &line(LINE_BYTES_MAX) + &line(1)).as_bytes());
    let records = read_all(&source, &partition, ALL);
    assert_eq!(records.len(), 3);
    assert_eq!(records[0].body.as_str().map(str::len), Some(5_000_000));
    assert_eq!(records[1].body.as_str().map(str::len), Some(TRUNCATED_BYTES));
    assert_eq!(records[1].attribute("logship.truncated"), Some(&Value::Int(LINE_BYTES_MAX as i64 + 10)));
    assert_eq!(records[2].body, "x".into());
}

#[test]
fn broken_utf8_and_nul_are_kept_apart_from_their_neighbours() {
    let (_dir, source, partition) = file(b"{\"msg\":\"a\xffb\"}\n{\"msg\":\"c\0d\"}\n{\"msg\":\"\xc3\xa9\"}\n");
    let bodies: Vec<String> =
        read_all(&source, &partition, ALL).iter().map(|record| record.body.as_str().unwrap().to_owned()).collect();
    assert_eq!(bodies, ["a\u{fffd}b", "c\0d", "é"]);
}

/// Goal: what a page says that it holds is what it holds, also where little of what was read is in it. Method: what is
/// held is the room of the buffer, which whoever has it alone can see.
#[test]
fn p5_a_page_counts_all_that_it_holds_of_a_file() {
    let line = "{\"msg\":\"short\"}\n";
    let (_dir, source, partition) = file(line.repeat(50_000).as_bytes());
    let near_its_end = Start::After(position(line.len() as u64 * 49_990));
    for (start, records_max) in [(Start::Earliest, 1), (Start::Earliest, 1_000), (near_its_end, 1_000)] {
        let limits = PageLimits { records_max, ..ALL };
        let raw = source.raw(&partition, &start, &Query::all(), limits).unwrap().0;
        let counted = raw.bytes();
        let used = raw.ranges.iter().map(|line| line.len() + 1).sum::<usize>();
        let RawLines { lines: Lines { bytes, text, .. }, .. } = raw;
        drop(text);
        let held = bytes.try_into_mut().unwrap().capacity();
        assert!(counted >= held && held <= 2 * used + 64, "{counted} bytes counted, {held} held for {used}");
    }
}

#[test]
fn only_what_is_wanted_is_given_and_the_rest_is_passed() {
    let lines: String =
        (0..10).map(|n| format!("{{\"level\":\"INFO\",\"flow\":\"{}\",\"msg\":\"{n}\"}}\n", n % 2)).collect();
    let (_dir, source, partition) = file(lines.as_bytes());
    let query = Query::all().filter(Filter::equals("flow", "1"));
    let page = source.page(&partition, &Start::Earliest, &query, ALL).unwrap();
    assert_eq!(page.records().len(), 5);
    assert_eq!(page.next().unwrap().as_number() as usize, lines.len());
    let at = Start::At(Timestamp::now().saturating_add(std::time::Duration::from_secs(60)));
    assert!(source.page(&partition, &at, &Query::all(), ALL).unwrap().records().is_empty());
}

/// JSON of any shape, as another library makes it.
fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_filter("finite", |number| number.is_finite()).prop_map(Into::into),
        "\\PC{0,12}[\\x00-\\x1f\"\\\\]?".prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 20, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
            prop::collection::btree_map("\\PC{0,6}", inner, 0..5)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

fn is_same(ours: &Value, theirs: &serde_json::Value) -> bool {
    match (ours, theirs) {
        (Value::Map(ours), serde_json::Value::Object(theirs)) => {
            ours.len() == theirs.len()
                && ours
                    .iter()
                    .all(|(name, value)| theirs.get(name.as_str()).is_some_and(|theirs| is_same(value, theirs)))
        }
        (Value::Array(ours), serde_json::Value::Array(theirs)) => {
            ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(ours, theirs)| is_same(ours, theirs))
        }
        (Value::String(ours), theirs) => theirs.as_str() == Some(ours.as_str()),
        (Value::Int(ours), theirs) => theirs.as_i64() == Some(*ours),
        (Value::Double(ours), theirs) => theirs.as_f64() == Some(*ours),
        (Value::Bool(ours), theirs) => theirs.as_bool() == Some(*ours),
        (Value::Null, theirs) => theirs.is_null(),
        _ => false,
    }
}

/// What a transform may do to a record.
fn scramble(record: &mut LogRecord) {
    record.timestamp = Timestamp::from_secs(1);
    record.observed_timestamp = Some(Timestamp::from_secs(2));
    (record.severity, record.severity_text) = (Severity::FATAL, Some("worst".into()));
    record.body = Value::Map(vec![("body".into(), Value::Null)]);
    record.attributes.iter_mut().for_each(|(name, _)| *name = "renamed".into());
    record.attributes.insert(0, ("first".into(), Value::Array(vec![1.into()])));
    record.attributes.reverse();
    record.resource = Arc::new(Resource { attributes: vec![("service.name".into(), "s".into())] });
    record.scope = Some(Arc::new(Scope { name: "scope".into(), ..Scope::default() }));
    (record.trace_id, record.span_id) = (Some([1; 16]), Some([2; 8]));
}

proptest! {
    #[test]
    fn p12_a_record_that_is_filled_again_keeps_nothing(
        lines in prop::collection::vec((json(), prop::collection::vec("(level|severity|ts|time|msg|body|x|y|\\PC{0,2})", 0..6)), 1..8),
        scrambles: bool,
    ) {
        let mut text = String::new();
        let mut ranges = Vec::new();
        for (value, names) in &lines {
            let begin = text.len();
            let members: Vec<String> =
                names.iter().map(|name| format!("{}:{value}", serde_json::to_string(name).unwrap())).collect();
            text.push_str(&format!("{{{}}}", members.join(",")));
            ranges.push(begin..text.len());
            text.push('\n');
        }
        let (block, fields, now) = (TextBlock::new(text.into()), JsonlFields::default(), Timestamp::from_secs(3));
        let id = RecordId::new(Partition::new("p"), Cursor::number(1));
        let (mut parser, mut record) = (Parser::new(&fields, now), LogRecord::new(id.clone(), now));
        for range in ranges {
            parser.record(&block, range.clone(), &mut record);
            let mut fresh = LogRecord::new(id.clone(), now);
            Parser::new(&fields, now).record(&block, range, &mut fresh);
            prop_assert_eq!(&record, &fresh);
            if scrambles {
                scramble(&mut record);
            }
        }
    }

    #[test]
    fn values_are_what_another_reader_reads(values in prop::collection::vec(json(), 1..8), records_max in 1usize..5, bytes_max in 1usize..2_000) {
        let mut content = String::new();
        for value in &values {
            content.push_str(&serde_json::to_string(&serde_json::json!({"at": value, "msg": "m"})).unwrap());
            content.push('\n');
        }
        let (_dir, source, partition) = file(content.as_bytes());
        let records = read_all(&source, &partition, PageLimits { records_max, bytes_max, until: None });
        prop_assert_eq!(records.len(), values.len());
        for (record, value) in records.iter().zip(&values) {
            prop_assert_eq!(&record.body, &"m".into());
            prop_assert!(is_same(record.attribute("at").unwrap(), value), "{:?} is not {}", record.attribute("at"), value);
        }
    }

    #[test]
    fn no_line_breaks_the_reader(content in prop::collection::vec(any::<u8>(), 0..200)) {
        let (_dir, source, partition) = file(&content);
        let lines = content.split(|byte| *byte == b'\n').rev().skip(1).filter(|line| !line.trim_ascii().is_empty()).count();
        prop_assert_eq!(read_all(&source, &partition, ALL).len(), lines);
    }
}
