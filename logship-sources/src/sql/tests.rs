//! Records of rows, beside the plainest way to make them.

use std::sync::Arc;

use logship_core::{
    Cursor, LogRecord, PageLimits, Query, RawRecords, RecordId, Resource, Scope, Severity, Start, Text, TextArena,
    Timestamp, Value,
};
use proptest::prelude::*;

use super::json::JsonReader;
use super::testing::ALL;
use super::{Cell, Column, Contents, Dialect, IdFormat, JsonColumn, Kind, Layout, PageBuilder, TableMapping};
use super::{RowSizes, TimestampFormat};

/// A value in place of a row's cell.
fn cell(value: &Value, contents: &mut Contents) -> Cell {
    match value {
        Value::Bool(is) => Cell::Bool(*is),
        Value::Int(number) => Cell::Int(*number),
        Value::Double(number) => Cell::Double(*number),
        Value::String(text) => contents.text(text),
        Value::Bytes(bytes) => contents.bytes(bytes),
        Value::Null | Value::Array(_) | Value::Map(_) => Cell::Null,
    }
}

fn page(layout: &Arc<Layout>, rows: &[Vec<Value>]) -> PageBuilder {
    let mut page = PageBuilder::new(Dialect::Sqlite, layout, &Start::Earliest, &Query::all(), ALL);
    for row in rows {
        assert!(page.push(|index, _, contents| Ok(cell(&row[index], contents))).unwrap());
    }
    page
}

/// What the mapping says of a row, made of nothing but its values.
fn expected(layout: &Layout, row: &[Value]) -> LogRecord {
    let mut values = row.iter().cloned();
    let mut next = || values.next().unwrap();
    let (time, id) = (next(), next());
    let id = match id {
        Value::Int(id) => format!("{id:020}"),
        id => id.as_str().unwrap().to_owned(),
    };
    let (position, timestamp) = match &time {
        Value::Int(number) => (Cursor::new(*number, id.into()), Some(Timestamp::from_millis(*number))),
        text => {
            let text = text.as_str().unwrap();
            (Cursor::text(format!("{text}\t{id}").into()), text.parse().ok())
        }
    };
    let id = RecordId::new(layout.partition.clone(), position);
    let mut record = LogRecord::new(id, timestamp.unwrap_or_default());
    record.resource = Arc::clone(&layout.resource);
    if layout.body.is_some() {
        record.body = next();
    }
    if layout.severity.is_some() {
        match next() {
            Value::String(level) => {
                record.severity = level.parse().unwrap_or_default();
                record.severity_text = (record.severity.name() != level.as_str()).then_some(level);
            }
            Value::Int(number) => record.severity_text = Some(number.to_string().into()),
            _ => {}
        }
    }
    for (name, column) in &layout.attributes {
        let value = match next() {
            Value::String(text) if column.kind == Kind::Json => json(&text).unwrap_or(Value::String(text)),
            value => value,
        };
        record.attributes.extend((value != Value::Null).then(|| (name.clone(), value)));
    }
    if let (Some(mapping), Some(column)) = (&layout.mapping.json, &layout.json)
        && let Value::String(text) = next()
    {
        match json(&text) {
            Some(Value::Map(entries)) => take_json(layout, mapping, entries, &mut record),
            Some(Value::Null) => {}
            _ => record.attributes.push((column.name.as_str().into(), Value::String(text))),
        }
    }
    if timestamp.is_none() {
        record.attributes.push(("logship.timestamp_raw".into(), time));
    }
    record
}

fn json(text: &str) -> Option<Value> {
    JsonReader::default().read(text, &mut TextArena::new())
}

fn take_json(layout: &Layout, mapping: &JsonColumn, entries: Vec<(Text, Value)>, record: &mut LogRecord) {
    let whole = Value::Map(entries.clone());
    for (name, path) in &mapping.attributes {
        let found = path.split('.').try_fold(&whole, |value, key| match value {
            Value::Map(entries) => entries.iter().find(|(name, _)| name == key).map(|(_, value)| value),
            _ => None,
        });
        if let Some(value) = found.filter(|value| **value != Value::Null && record.attribute(name).is_none()) {
            record.attributes.push((name.as_str().into(), value.clone()));
        }
    }
    for (key, value) in entries {
        let named = |names: &[(String, String)]| names.iter().any(|(name, _)| key == name.as_str());
        if mapping.body.as_ref().is_some_and(|name| key == name.as_str()) {
            record.body = value;
        } else if value != Value::Null
            && !mapping.skip.iter().any(|name| key == name.as_str())
            && !named(&layout.mapping.attributes)
            && !named(&mapping.attributes)
        {
            let stays_text = mapping.text.iter().any(|name| key == name.as_str()) && value.as_str().is_none();
            let value = if stays_text { serde_json::to_string(&value).unwrap().into() } else { value };
            record.attributes.push((key, value));
        }
    }
}

/// Changes everything on a record but its id.
fn spoil(record: &mut LogRecord, how: usize) {
    record.timestamp = Timestamp::from_secs(-7);
    record.observed_timestamp = Some(Timestamp::from_secs(7));
    record.severity = Severity::FATAL;
    record.severity_text = Some("spoiled".into());
    record.body = Value::Map(vec![("spoiled".into(), Value::Array(vec![1.into(), "spoiled".into()]))]);
    record.resource = Arc::new(Resource { attributes: vec![("spoiled".into(), true.into())] });
    record.scope = Some(Arc::new(Scope { name: "spoiled".into(), ..Scope::default() }));
    (record.trace_id, record.span_id) = (Some([7; 16]), Some([7; 8]));
    match how % 4 {
        0 => record.attributes.clear(),
        1 => record.attributes.iter_mut().for_each(|entry| *entry = ("spoiled".into(), "spoiled".into())),
        2 => record.attributes.extend(vec![("spoiled".into(), Value::Array(vec![])); 9]),
        _ => record.attributes.reverse(),
    }
}

const JSON: &[&str] = &[
    r#"{"message":"m","a":1,"level":"INFO","deep":{"x":{"y":[1,2.5,"\n"]}},"n":null,"b":"\"q\" ä"}"#,
    r#"{"a":"\u00e4","message":{"k":[]},"deep":{"x":5},"long":18446744073709551615}"#,
    r#"{"deep":null,"b":{"c":false}}"#,
    r#" { "a" : [ ] } "#,
    "{}",
    "null",
    "[1]",
    "5",
    "no json",
    "",
];

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        (-1e9..1e9).prop_map(Value::Double),
        ".{0,9}".prop_map(Value::from),
        prop::sample::select(JSON).prop_map(Value::from),
        prop::collection::vec(any::<u8>(), 0..5).prop_map(|bytes| Value::Bytes(bytes.into())),
        prop::sample::select(vec!["INFO", "warning", "ERROR", "odd"]).prop_map(Value::from),
    ]
}

/// Any mapping, and the columns it is for.
fn any_layout() -> impl Strategy<Value = Layout> {
    let kinds = prop::collection::vec(prop::sample::select(vec![Kind::Dynamic, Kind::Json]), 0..5);
    let formats = (any::<bool>(), any::<bool>());
    let json = prop::option::of((any::<bool>(), any::<bool>(), any::<bool>()));
    (formats, any::<bool>(), kinds, json, any::<bool>()).prop_map(|((text, millis), severity, kinds, json, service)| {
        let mut mapping = TableMapping::new("t", "id", "at");
        mapping.id_format = if text { IdFormat::Text } else { IdFormat::Integer };
        mapping.timestamp_format = if millis { TimestampFormat::UnixMs } else { TimestampFormat::Text };
        mapping.severity = severity.then(|| "s".to_owned());
        mapping.service_name = service.then(|| "program".to_owned());
        // `a` and `b` are keys of the JSON as well.
        let names = ["a", "x", "b", "y", "z"];
        mapping.attributes = (0..kinds.len()).map(|at| (names[at].to_owned(), format!("c{at}"))).collect();
        mapping.json = json.map(|(body, skip, more)| JsonColumn {
            column: "j".to_owned(),
            body: body.then(|| "message".to_owned()),
            skip: if skip { vec!["level".to_owned()] } else { Vec::new() },
            attributes: if more { vec![("y".to_owned(), "deep.x".to_owned())] } else { Vec::new() },
            text: if more { vec!["deep".to_owned(), "b".to_owned()] } else { Vec::new() },
        });
        let has_body = mapping.json.as_ref().is_some_and(|json| json.body.is_some());
        mapping.body = (!has_body).then(|| "m".to_owned());
        let column = |name: &str, kind| {
            let (name, declared) = (name.to_owned(), String::new());
            Column { name, kind, declared, nullable: true }
        };
        let mut columns: Vec<Column> = ["id", "at", "m", "s", "j"].map(|name| column(name, Kind::Dynamic)).into();
        columns.extend(kinds.iter().enumerate().map(|(at, kind)| column(&format!("c{at}"), *kind)));
        Layout::new(&mapping, &columns).unwrap()
    })
}

/// Times in their order, some of which are none.
const TIMES: [&str; 4] = ["2026-11-20", "2026-11-20 08:30:00.123", "2026-11-20T08:30:00Z", "soon"];

/// A row of this number, of as many values as there are columns.
fn row(layout: &Layout, number: usize, time: usize, values: &[Value]) -> Vec<Value> {
    let time = match layout.mapping.timestamp_format {
        TimestampFormat::Text => TIMES[time].into(),
        _ => Value::Int(1_795_163_400_000 + time as i64),
    };
    let id = match layout.mapping.id_format {
        IdFormat::Text => format!("ä{number:03}").into(),
        IdFormat::Integer => Value::Int(number as i64),
    };
    [time, id].into_iter().chain(values.iter().cloned()).take(layout.selected().count()).collect()
}

proptest! {
    /// Whatever columns hold and mean, and whatever a transform did to the record before.
    #[test]
    fn p12_a_record_is_its_rows_alone(
        layout in any_layout(),
        mut times in prop::collection::vec(0..TIMES.len(), 1..7),
        values in prop::collection::vec(prop::collection::vec(any_value(), 8), 7),
    ) {
        times.sort_unstable();
        let rows: Vec<_> =
            times.iter().zip(&values).enumerate().map(|(at, (time, values))| row(&layout, at, *time, values)).collect();
        let layout = Arc::new(layout);
        let expected: Vec<LogRecord> = rows.iter().map(|row| expected(&layout, row)).collect();
        let finished = page(&layout, &rows).finish(rows.len(), &RowSizes::default());
        prop_assert_eq!(finished.records(), &expected);
        prop_assert_eq!(finished.next(), expected.last().map(|record| record.id.position()));
        let raw = page(&layout, &rows).rows.raw(Arc::clone(&layout), Query::all());
        for spoils in [false, true] {
            let mut records = Vec::new();
            raw.each(&mut |record| {
                records.push(record.clone());
                if spoils {
                    spoil(record, records.len());
                }
            });
            prop_assert_eq!(&records, &expected);
        }
    }
}

/// Goal: what was read of a row that is not given is not taken for another's.
#[test]
fn rows_that_are_not_given_leave_nothing_in_the_page() {
    let mut mapping = TableMapping::new("t", "id", "at");
    (mapping.body, mapping.timestamp_format) = (Some("m".to_owned()), TimestampFormat::UnixS);
    let names = ["id", "at", "m"];
    let columns = names.map(|name| Column {
        name: name.to_owned(),
        kind: Kind::Dynamic,
        declared: String::new(),
        nullable: false,
    });
    let layout = Arc::new(Layout::new(&mapping, &columns).unwrap());
    let row = |time: i64, body: Value| [Value::Int(time), time.to_string().into(), body];
    let rows = [
        row(1, "too early".into()),
        row(2, "first".into()),
        row(3, Value::Bytes(vec![3].into())),
        row(4, "has to wait".into()),
    ];
    let limits = PageLimits { until: Some(Timestamp::from_secs(4)), ..ALL };
    let start = Start::At(Timestamp::from_secs(2));
    let mut page = PageBuilder::new(Dialect::Sqlite, &layout, &start, &Query::all(), limits);
    let more: Vec<bool> =
        rows.iter().map(|row| page.push(|index, _, contents| Ok(cell(&row[index], contents))).unwrap()).collect();
    assert_eq!(more, [true, true, true, false]);
    assert_eq!((page.rows(), page.waits()), (3, true));
    assert_eq!(page.rows.contents.text, "2first3");
    let page = page.finish(100, &RowSizes::default());
    assert_eq!(page.next(), Some(&Cursor::new(3, "3".into())));
    assert_eq!(page.records().iter().map(|record| &record.body).collect::<Vec<_>>(), [&rows[1][2], &rows[2][2]]);
}

/// Goal: a page holds about what it was allowed to, in records, and always one of them.
#[test]
fn p5_a_page_of_rows_ends_where_its_records_would_be_too_many() {
    let mut mapping = TableMapping::new("t", "id", "at");
    (mapping.body, mapping.id_format) = (Some("m".to_owned()), IdFormat::Integer);
    mapping.timestamp_format = TimestampFormat::UnixS;
    let columns = ["id", "at", "m"].map(|name| Column {
        name: name.to_owned(),
        kind: Kind::Dynamic,
        declared: String::new(),
        nullable: false,
    });
    let layout = Arc::new(Layout::new(&mapping, &columns).unwrap());
    for (bytes_max, count) in [(0, 1), (20_000, 1), (31_000, 2), (47_000, 3), (1_000_000, 5)] {
        let limits = PageLimits { bytes_max, ..ALL };
        let mut page = PageBuilder::new(Dialect::Sqlite, &layout, &Start::Earliest, &Query::all(), limits);
        for number in 0..5_i64 {
            let row = [number.into(), number.into(), Value::from("x".repeat(15_000))];
            if !page.push(|index, _, contents| Ok(cell(&row[index], contents))).unwrap() {
                break;
            }
        }
        let page = page.finish(5, &RowSizes::default());
        assert_eq!(page.records().len(), count, "{bytes_max}");
        let size: usize = page.records().iter().map(LogRecord::size).sum();
        let held = page.bytes().max(size);
        assert!(count == 1 || held <= bytes_max, "{held} bytes of {bytes_max}");
    }
}
