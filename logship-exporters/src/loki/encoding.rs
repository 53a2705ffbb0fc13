//! Records as entries of streams, and the streams of a chunk.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;

use logship_core::{Encoding, LogRecord, Severity, Unencodable, Value};

use super::{LokiConfig, LokiLabel, LokiLimits, LokiLine, SERVICE_NAME, line};
use crate::encode::json::{self, string};
use crate::encode::object::Object;
use crate::encode::shape::{Named, Roles, Shapes, attribute, key_of, with_roles_by_name};

const BEGIN: &[u8] = b"{\"streams\":[";
const END: &[u8] = b"]}";

/// What a body has beside its records.
pub(super) const ENVELOPE_BYTES: usize = BEGIN.len() + END.len();

/// Stands between the head of a stream and the one entry that was written with it.
const HEAD_END: u8 = b'\t';
/// Stands behind each entry. Neither can stand in JSON as it is written here.
const ENTRY_END: u8 = b'\n';

/// Writes each record as a stream of its own, `,{"stream":{…},"values":[` tab entry line feed. A request has the entries
/// of one stream together, so what is sent is made of these pieces by [`grouped`], and is never longer.
#[derive(Debug)]
pub(super) struct Fragments {
    key: String,
    labels: Vec<(String, LokiLabel)>,
    line: LokiLine,
    limits: LokiLimits,
}

impl Fragments {
    pub(super) fn new(config: &LokiConfig) -> Self {
        let mut labels = config.labels.clone();
        labels.entry(SERVICE_NAME.to_owned()).or_insert_with(|| LokiLabel::Attribute("service.name".to_owned()));
        let (line, limits) = (config.line, config.limits);
        let key = format!("loki {labels:?} {line:?} {limits:?}");
        Fragments { key, labels: labels.into_iter().collect(), line, limits }
    }

    fn labels(&self, record: &LogRecord, out: &mut Vec<u8>) {
        let mut between = b'{';
        for (name, label) in &self.labels {
            let value = match label_value(label, record) {
                Some(value) if !value.is_empty() => value,
                // As Loki calls what nobody named.
                _ if name == SERVICE_NAME => Cow::Borrowed("unknown_service"),
                _ => continue,
            };
            out.push(between);
            between = b',';
            string(out, name);
            out.push(b':');
            string(out, &value[..value.floor_char_boundary(self.limits.label_value_bytes_max)]);
        }
        out.push(b'}');
    }

    fn line(&self, record: &LogRecord, out: &mut Vec<u8>) -> Result<(), Unencodable> {
        let max = self.limits.line_bytes_max;
        let fits = |len: usize| {
            let reason = || format!("its line has {len} bytes, and Loki takes {max} (max_line_size)");
            if len > max { Err(Unencodable { reason: reason() }) } else { Ok(()) }
        };
        match (self.line, &record.body) {
            (LokiLine::Message, Value::String(line)) => {
                fits(line.len())?;
                json::text(out, line);
            }
            (LokiLine::Message, body) => {
                let line = text_of(body)?;
                fits(line.len())?;
                string(out, &line);
            }
            (LokiLine::Json, _) => {
                let begin = out.len();
                line::write(out, record)?;
                // As it stands here it is longer than what Loki counts.
                if out.len() - begin > max {
                    let mut line = Vec::new();
                    json::record(&mut line, record)?;
                    fits(line.len())?;
                }
            }
        }
        Ok(())
    }

    fn metadata(&self, record: &LogRecord, out: &mut Vec<u8>) -> Result<(), Unencodable> {
        let begin = out.len();
        // What is written is longer than what Loki counts.
        match self.known_metadata(record, out)? {
            Some(entries)
                if entries <= self.limits.metadata_entries_max
                    && out.len() - begin <= self.limits.metadata_bytes_max =>
            {
                Ok(())
            }
            _ => {
                out.truncate(begin);
                self.any_metadata(record, out)
            }
        }
    }

    /// The metadata of a record whose names say what becomes of its attributes, and how many entries there are.
    fn known_metadata(&self, record: &LogRecord, out: &mut Vec<u8>) -> Result<Option<usize>, Unencodable> {
        thread_local!(static KNOWN: RefCell<Shapes<Named<Keys>>> = const { RefCell::new(Shapes::new()) });
        match self.line {
            LokiLine::Json => self.metadata_with(record, &[], out).map(Some),
            LokiLine::Message => with_roles_by_name(&KNOWN, record, |keys: Option<&Keys>| {
                keys.map(|Keys(keys)| self.metadata_with(record, keys, out)).transpose()
            }),
        }
    }

    fn metadata_with(
        &self,
        record: &LogRecord,
        keys: &[(usize, Vec<u8>)],
        out: &mut Vec<u8>,
    ) -> Result<usize, Unencodable> {
        let mut entries = 0;
        let mut members = Object::open(out);
        if record.severity != Severity::UNSPECIFIED {
            entries += 1;
            members.str("level", level(record.severity));
        }
        if let Some(scope) = record.scope.as_ref().filter(|scope| !scope.name.is_empty()) {
            entries += 1;
            members.text("logger", &scope.name);
        }
        for (id_name, id) in [
            ("trace_id", record.trace_id.as_ref().map(<[u8; 16]>::as_slice)),
            ("span_id", record.span_id.as_ref().map(<[u8; 8]>::as_slice)),
        ] {
            let Some(id) = id else { continue };
            entries += 1;
            members.hex(id_name, Some(id));
        }
        if self.line == LokiLine::Message {
            entries += 1;
            json::id(members.name("record_id"), &record.id);
            for (place, key) in keys {
                if let Some((_, value)) = attribute(record, *place) {
                    entries += 1;
                    members.rest().extend_from_slice(key);
                    write_text_of(members.rest(), value)?;
                }
            }
        }
        members.close();
        Ok(entries)
    }

    /// The same of any record, of which all is measured.
    fn any_metadata(&self, record: &LogRecord, out: &mut Vec<u8>) -> Result<(), Unencodable> {
        let mut entries: Vec<(Cow<'_, str>, Cow<'_, str>)> = Vec::new();
        let mut add = |name: Cow<'static, str>, value| entries.push((name, value));
        if record.severity != Severity::UNSPECIFIED {
            add("level".into(), level(record.severity).into());
        }
        if let Some(scope) = record.scope.as_ref().filter(|scope| !scope.name.is_empty()) {
            add("logger".into(), scope.name.as_str().to_owned().into());
        }
        for (name, id) in [
            ("trace_id", record.trace_id.as_ref().map(<[u8; 16]>::as_slice)),
            ("span_id", record.span_id.as_ref().map(<[u8; 8]>::as_slice)),
        ] {
            let Some(id) = id else { continue };
            let mut digits = Vec::with_capacity(32);
            json::hex(&mut digits, id);
            add(name.into(), String::from_utf8_lossy(&digits).into_owned().into());
        }
        if self.line == LokiLine::Message {
            add("record_id".into(), record.id.to_string().into());
            for (name, value) in record.attributes.iter().chain(&record.resource.attributes) {
                let name = metadata_name(name);
                // An object with a name twice is refused; the first stays.
                if *value != Value::Null && !entries.iter().any(|(known, _)| *known == name) {
                    entries.push((name, text_of(value)?));
                    // Each is compared with all before it, which are no more than that.
                    self.check_entries(entries.len())?;
                }
            }
        }
        self.check_entries(entries.len())?;
        self.check_bytes(entries.iter().map(|(name, value)| name.len() + value.len()).sum())?;
        let mut between = b'{';
        for (name, value) in &entries {
            out.push(between);
            between = b',';
            string(out, name);
            out.push(b':');
            string(out, value);
        }
        out.extend_from_slice(if entries.is_empty() { b"{}" } else { b"}" });
        Ok(())
    }

    fn check_entries(&self, entries: usize) -> Result<(), Unencodable> {
        let max = self.limits.metadata_entries_max;
        if entries > max {
            let reason = format!(
                "its metadata has more than {max} entries, as many as Loki takes (max_structured_metadata_entries_count)"
            );
            return Err(Unencodable { reason });
        }
        Ok(())
    }

    fn check_bytes(&self, bytes: usize) -> Result<(), Unencodable> {
        let max = self.limits.metadata_bytes_max;
        if bytes > max {
            let reason = format!("its metadata has {bytes} bytes, and Loki takes {max} (max_structured_metadata_size)");
            return Err(Unencodable { reason });
        }
        Ok(())
    }
}

/// The attributes and the name of each as it is written, with the comma before and the colon behind it.
#[derive(Debug, Default)]
struct Keys(Vec<(usize, Vec<u8>)>);

impl Roles for Keys {
    fn add(&mut self, place: usize, name: &str) -> bool {
        let name = metadata_name(name);
        let key = key_of(&name);
        let is_own = matches!(&*name, "level" | "logger" | "trace_id" | "span_id" | "record_id");
        let is_new = !is_own && self.0.iter().all(|(_, known)| *known != key);
        self.0.push((place, key));
        is_new
    }
}

impl Encoding for Fragments {
    fn key(&self) -> &str {
        &self.key
    }

    fn record(&self, record: &LogRecord, out: &mut Vec<u8>) -> Result<(), Unencodable> {
        out.extend_from_slice(b",{\"stream\":");
        self.labels(record, out);
        out.extend_from_slice(b",\"values\":[");
        out.push(HEAD_END);
        out.extend_from_slice(b"[\"");
        json::int(out, record.timestamp.as_nanos());
        out.extend_from_slice(b"\",");
        self.line(record, out)?;
        out.push(b',');
        self.metadata(record, out)?;
        out.push(b']');
        out.push(ENTRY_END);
        Ok(())
    }

    fn begin(&self) -> &'static [u8] {
        BEGIN
    }

    fn end(&self) -> &'static [u8] {
        END
    }
}

/// The heads and entries of what was encoded, in order.
pub(super) fn fragments(encoded: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let records = encoded.strip_prefix(BEGIN).unwrap_or(encoded);
    let records = records.strip_suffix(END).unwrap_or(records);
    let mut rest = records;
    std::iter::from_fn(move || {
        let head = memchr::memchr(HEAD_END, rest)?;
        let end = head + memchr::memchr(ENTRY_END, &rest[head..])?;
        let found = (&rest[..head], &rest[head + 1..end]);
        rest = &rest[end + 1..];
        Some(found)
    })
}

/// The entries of the same labels, each with its time.
struct Stream<'a> {
    head: &'a [u8],
    entries: Vec<(i64, &'a [u8])>,
}

/// The parts of a body in which the entries of each stream are together, in the order of their times.
pub(super) fn grouped(encoded: &[u8], times: impl Iterator<Item = i64>) -> Vec<&[u8]> {
    let mut places: HashMap<&[u8], usize> = HashMap::new();
    let mut streams: Vec<Stream<'_>> = Vec::new();
    for ((head, entry), time) in fragments(encoded).zip(times) {
        let place = *places.entry(head).or_insert_with(|| {
            streams.push(Stream { head, entries: Vec::new() });
            streams.len() - 1
        });
        streams[place].entries.push((time, entry));
    }
    let mut parts: Vec<&[u8]> = vec![BEGIN];
    for (index, Stream { head, entries }) in streams.iter_mut().enumerate() {
        entries.sort_by_key(|(time, _)| *time);
        // Each head begins with the comma behind the stream before it.
        parts.push(if index == 0 { &head[1..] } else { head });
        for (index, (_, entry)) in entries.iter().enumerate() {
            if index > 0 {
                parts.push(b",");
            }
            parts.push(entry);
        }
        parts.push(END);
    }
    parts.push(END);
    parts
}

fn label_value<'a>(label: &'a LokiLabel, record: &'a LogRecord) -> Option<Cow<'a, str>> {
    Some(match label {
        LokiLabel::Value(text) => text.into(),
        LokiLabel::Attribute(name) => {
            let known = record.attributes.iter().chain(&record.resource.attributes);
            let (_, value) = known.into_iter().find(|(key, _)| key.as_str() == name)?;
            text_of(value).ok()?
        }
        LokiLabel::Severity => level(record.severity).into(),
        LokiLabel::Partition => record.id.partition().as_str().into(),
        LokiLabel::Scope => record.scope.as_ref()?.name.as_str().into(),
    })
}

/// <https://grafana.com/docs/loki/latest/get-started/labels/#log-levels>
fn level(severity: Severity) -> &'static str {
    match severity.name() {
        "TRACE" => "trace",
        "DEBUG" => "debug",
        "INFO" => "info",
        "WARN" => "warn",
        "ERROR" => "error",
        "FATAL" => "fatal",
        _ => "unknown",
    }
}

/// A name of which queries can speak: letters, digits and `_`, not beginning with a digit.
fn metadata_name(name: &str) -> Cow<'_, str> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let begins_well = name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
    if begins_well && name.chars().all(is_plain) {
        return name.into();
    }
    let plain = name.chars().map(|c| if is_plain(c) { c } else { '_' });
    (if begins_well { plain.collect() } else { std::iter::once('_').chain(plain).collect::<String>() }).into()
}

/// Values are text in Loki; what has no text of its own is the text of its JSON.
fn text_of(value: &Value) -> Result<Cow<'_, str>, Unencodable> {
    let mut json = Vec::new();
    Ok(match value {
        Value::String(text) => text.as_str().into(),
        Value::Null => "".into(),
        Value::Bool(value) => if *value { "true" } else { "false" }.into(),
        Value::Int(number) => number.to_string().into(),
        Value::Double(number) => number.to_string().into(),
        Value::Bytes(_) => {
            json::value(&mut json, value, 0)?;
            String::from_utf8_lossy(json.get(1..json.len() - 1).unwrap_or_default()).into_owned().into()
        }
        Value::Array(_) | Value::Map(_) => {
            json::value(&mut json, value, 0)?;
            String::from_utf8_lossy(&json).into_owned().into()
        }
    })
}

/// Appends the same as a string.
fn write_text_of(out: &mut Vec<u8>, value: &Value) -> Result<(), Unencodable> {
    match value {
        Value::String(text) => json::text(out, text),
        Value::Array(_) | Value::Map(_) => {
            out.push(b'"');
            json::value_in_string(out, value)?;
            out.push(b'"');
        }
        value => string(out, &text_of(value)?),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use logship_core::{Chunk, Cursor, Page, PageEnd, Partition, RecordId, Timestamp};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn config(line: LokiLine) -> LokiConfig {
        let mut config = LokiConfig::new("http://localhost");
        config.labels.insert("flow".to_owned(), LokiLabel::Attribute("flow.id".to_owned()));
        config.line = line;
        config
    }

    fn record(number: i64, nanos: i64) -> LogRecord {
        let id = RecordId::new(Partition::new("logs"), Cursor::number(number));
        let mut record = LogRecord::new(id, Timestamp::from_nanos(nanos));
        record.body = format!("text {number}").into();
        record
    }

    /// The body of a push of these records, and how long it may be.
    fn body(config: &LokiConfig, records: Vec<LogRecord>) -> (serde_json::Value, usize, usize) {
        let chunk =
            Chunk::of_page(Page::new(Partition::new("logs"), records, PageEnd::More), Some(&Fragments::new(config)));
        let chunk = chunk.unwrap();
        let encoded = &chunk.body().unwrap().bytes();
        let body = grouped(encoded, chunk.timestamps().map(|time| time.as_nanos())).concat();
        (serde_json::from_slice(&body).unwrap(), body.len(), encoded.len())
    }

    #[test]
    fn entries_of_the_same_labels_are_one_stream_in_order_of_time() {
        let mut records: Vec<LogRecord> =
            [(1, 30), (2, 20), (3, 10)].map(|(number, nanos)| record(number, nanos)).into();
        records[1].attributes =
            vec![("flow.id".into(), "load".into()), ("a.b".into(), 1.into()), ("a_b".into(), 2.into())];
        records[1].severity = Severity::WARN;
        let (body, ..) = body(&config(LokiLine::Message), records);
        let id = |number: i64| format!("logs:{number:020}");
        let expected = json!({"streams": [
            {"stream": {"job": "logship", "service_name": "unknown_service"}, "values": [
                ["10", "text 3", {"record_id": id(3)}],
                ["30", "text 1", {"record_id": id(1)}],
            ]},
            {"stream": {"flow": "load", "job": "logship", "service_name": "unknown_service"}, "values": [
                ["20", "text 2", {"level": "warn", "record_id": id(2), "flow_id": "load", "a_b": "1"}],
            ]},
        ]});
        assert_eq!(body, expected);
    }

    #[test]
    fn a_line_of_json_holds_the_whole_record() {
        let (body, ..) = body(&config(LokiLine::Json), vec![record(1, 30)]);
        let line = body["streams"][0]["values"][0][1].as_str().unwrap();
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!((line["id"].as_str(), line["body"].as_str()), (Some("logs:00000000000000000001"), Some("text 1")));
    }

    #[test]
    fn what_loki_would_drop_is_refused_at_the_limit_and_not_below() {
        let mut config = config(LokiLine::Message);
        config.limits =
            LokiLimits { line_bytes_max: 10, metadata_entries_max: 3, metadata_bytes_max: 60, ..LokiLimits::default() };
        let fragments = Fragments::new(&config);
        let attempt = |body: &str, attributes: &[(&str, &str)]| {
            let mut record = record(1, 1);
            record.body = body.into();
            record.attributes = attributes.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
            fragments.record(&record, &mut Vec::new()).map_err(|error| error.reason)
        };
        assert_eq!(attempt("0123456789", &[]), Ok(()));
        assert!(attempt("0123456789a", &[]).unwrap_err().contains("max_line_size"));
        // The id is one entry, of 9 and 25 bytes.
        assert_eq!(attempt("", &[("a", "1"), ("b", "2")]), Ok(()));
        assert!(attempt("", &[("a", "1"), ("b", "2"), ("c", "3")]).unwrap_err().contains("entries_count"));
        assert_eq!(attempt("", &[("a", &"x".repeat(25))]), Ok(()));
        assert!(attempt("", &[("a", &"x".repeat(26))]).unwrap_err().contains("max_structured_metadata_size"));
    }

    #[test]
    fn a_label_is_cut_where_loki_would_refuse_the_stream() {
        let mut long = record(1, 1);
        long.attributes = vec![("flow.id".into(), "é".repeat(2_000).into())];
        let (body, ..) = body(&config(LokiLine::Json), vec![long]);
        assert_eq!(body["streams"][0]["stream"]["flow"].as_str().map(str::len), Some(2_048));
    }

    /// Goal: a record of very many attributes takes its length, not its square. Method: what would take minutes.
    #[test]
    fn very_many_attributes_are_refused_without_being_compared() {
        let mut record = record(1, 1);
        record.attributes = (0..300_000).map(|number: i64| (format!("field_{number}").into(), number.into())).collect();
        let refused = Fragments::new(&config(LokiLine::Message)).record(&record, &mut Vec::new()).unwrap_err();
        assert!(refused.reason.contains("entries_count"), "{}", refused.reason);
    }

    proptest! {
        #[test]
        fn metadata_is_the_same_by_names_alone(
            (one, other) in crate::encode::shape::tests::pairs("(level|a.b|a_b|[a-c])"), has_scope: bool, bytes_max in 20..300_usize,
        ) {
            let mut config = config(LokiLine::Message);
            config.limits = LokiLimits { metadata_bytes_max: bytes_max, ..LokiLimits::default() };
            let fragments = Fragments::new(&config);
            for mut record in std::iter::repeat_n(one, 20).chain([other]) {
                record.severity = if has_scope { Severity::WARN } else { Severity::UNSPECIFIED };
                record.trace_id = has_scope.then_some([7; 16]);
                record.scope = has_scope.then(|| std::sync::Arc::new(logship_core::Scope { name: "l\"".into(), ..Default::default() }));
                let (mut known, mut any) = (Vec::new(), Vec::new());
                let known = fragments.metadata(&record, &mut known).map(|()| String::from_utf8(known));
                let any = fragments.any_metadata(&record, &mut any).map(|()| String::from_utf8(any));
                prop_assert_eq!(known, any);
            }
        }

        /// Whatever is in records, each is an entry once, in a stream of its labels, and the body is within what was cut.
        #[test]
        fn every_record_is_an_entry_that_reads_back(
            texts in prop::collection::vec((any::<String>(), "[ab\t\n\"]{0,2}", -5i64..5), 1..12), is_json: bool,
        ) {
            let line = if is_json { LokiLine::Json } else { LokiLine::Message };
            let records = texts.iter().enumerate().map(|(number, (text, flow, nanos))| {
                let mut record = record(number as i64, *nanos);
                record.body = text.as_str().into();
                record.attributes = vec![("flow.id".into(), flow.as_str().into())];
                record
            });
            let (body, sent, cut) = body(&config(line), records.collect());
            prop_assert!(sent <= cut, "{} of {}", sent, cut);
            let mut read: BTreeMap<String, Vec<(i64, String)>> = BTreeMap::new();
            for stream in body["streams"].as_array().unwrap() {
                let flow = stream["stream"]["flow"].as_str().unwrap_or_default().to_owned();
                prop_assert!(!read.contains_key(&flow));
                let entries: Vec<(i64, String)> = stream["values"].as_array().unwrap().iter().map(|entry| {
                    let line = entry[1].as_str().unwrap();
                    let text = match is_json {
                        true => serde_json::from_str::<serde_json::Value>(line).unwrap()["body"].as_str().unwrap().to_owned(),
                        false => line.to_owned(),
                    };
                    (entry[0].as_str().unwrap().parse().unwrap(), text)
                }).collect();
                prop_assert!(entries.is_sorted_by_key(|(nanos, _)| *nanos));
                read.insert(flow, entries);
            }
            let mut expected: BTreeMap<String, Vec<(i64, String)>> = BTreeMap::new();
            for (text, flow, nanos) in texts {
                expected.entry(flow).or_default().push((nanos, text));
            }
            expected.values_mut().for_each(|entries| entries.sort_by_key(|(nanos, _)| *nanos));
            prop_assert_eq!(read, expected);
        }
    }
}
