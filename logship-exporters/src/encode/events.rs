//! JSON events, one a line, as log services with a schema of their own making read them.

use logship_core::{Compression, Encoding, LogRecord, Text, Unencodable, Value};

use super::json::{self, string};
use super::shape::{first_of_each, is_each_once};

/// Records as JSON objects, one a line: the time under a name and with a precision that the service reads, `type` if it
/// wants one, then `message`, `level`, `id`, `logger`, `trace_id`, `span_id`, `attributes` and `resource`.
#[derive(Debug)]
pub(crate) struct Events {
    key: String,
    time: &'static str,
    /// Digits of a second's fraction.
    digits: usize,
    kind: Option<String>,
    compression: Compression,
}

impl Events {
    pub(crate) fn new(time: &'static str, digits: usize, kind: Option<String>, compression: Compression) -> Self {
        let key = format!("events, {time} {digits}, type {kind:?}, {}", String::from(compression));
        Events { key, time, digits, kind, compression }
    }
}

impl Encoding for Events {
    fn key(&self) -> &str {
        &self.key
    }

    fn record(&self, record: &LogRecord, out: &mut Vec<u8>) -> Result<(), Unencodable> {
        out.extend_from_slice(b"{\"");
        out.extend_from_slice(self.time.as_bytes());
        out.extend_from_slice(b"\":\"");
        record.timestamp.write_rfc3339(out);
        // What was written has nine digits and a Z.
        out.truncate(out.len() - (10 - self.digits.min(9)));
        out.extend_from_slice(b"Z\"");
        if let Some(kind) = &self.kind {
            text(out, ",\"type\":", kind);
        }
        out.extend_from_slice(b",\"message\":");
        message(out, &record.body)?;
        text(out, ",\"level\":", record.severity_name());
        out.extend_from_slice(b",\"id\":");
        json::id(out, &record.id);
        if let Some(scope) = record.scope.as_ref().filter(|scope| !scope.name.is_empty()) {
            text(out, ",\"logger\":", &scope.name);
        }
        hex(out, ",\"trace_id\":\"", record.trace_id.as_ref().map(<[u8; 16]>::as_slice));
        hex(out, ",\"span_id\":\"", record.span_id.as_ref().map(<[u8; 8]>::as_slice));
        members(out, ",\"attributes\":", &record.attributes)?;
        members(out, ",\"resource\":", &record.resource.attributes)?;
        out.extend_from_slice(b"}\n");
        Ok(())
    }

    fn compression(&self) -> Compression {
        self.compression
    }
}

fn text(out: &mut Vec<u8>, name: &str, text: &str) {
    out.extend_from_slice(name.as_bytes());
    string(out, text);
}

fn hex(out: &mut Vec<u8>, name: &str, id: Option<&[u8]>) {
    let Some(id) = id else { return };
    out.extend_from_slice(name.as_bytes());
    json::hex(out, id);
    out.push(b'"');
}

/// A message is text, or it would take another type from record to record.
fn message(out: &mut Vec<u8>, body: &Value) -> Result<(), Unencodable> {
    match body {
        Value::String(text) => json::text(out, text),
        Value::Null => string(out, ""),
        Value::Bytes(_) => json::value(out, body, 0)?,
        _ => {
            let mut text = Vec::new();
            json::value(&mut text, body, 0)?;
            string(out, &String::from_utf8_lossy(&text));
        }
    }
    Ok(())
}

/// Appends an object, if there is anything in it: of members of one name the first, as an object that has a name twice
/// is refused by many readers.
fn members(out: &mut Vec<u8>, name: &str, entries: &[(Text, Value)]) -> Result<(), Unencodable> {
    let begin = out.len();
    out.extend_from_slice(name.as_bytes());
    let object = out.len();
    let mut member = |(name, value): &(Text, Value)| {
        json::further_name(out, name);
        match value {
            Value::String(text) => json::text(out, text),
            value => json::value(out, value, 0)?,
        }
        Ok(())
    };
    if is_each_once(entries) {
        entries.iter().filter(|(_, value)| !matches!(value, Value::Null)).try_for_each(&mut member)?;
    } else {
        first_of_each(entries.iter()).try_for_each(|(_, entry)| member(entry))?;
    }
    match out.len() > object {
        true => json::close_object(out, object),
        false => out.truncate(begin),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use logship_core::{Cursor, Partition, RecordId, Resource, Severity, Timestamp};
    use proptest::prelude::*;

    use super::*;

    fn line(events: &Events, record: &LogRecord) -> String {
        let mut out = Vec::new();
        events.record(record, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn record(number: i64) -> LogRecord {
        let id = RecordId::new(Partition::new("logs"), Cursor::number(number));
        LogRecord::new(id, Timestamp::parse("2026-11-20T08:30:00.123456789Z").unwrap())
    }

    #[test]
    fn a_record_is_one_object_with_the_services_own_names() {
        let mut record = record(7);
        record.severity = Severity::WARN;
        record.body = "card \"declined\"\nagain".into();
        record.attributes = vec![("a".into(), 1.into()), ("a".into(), "again".into()), ("none".into(), Value::Null)];
        record.resource = Arc::new(Resource { attributes: vec![("service.name".into(), "shop".into())] });
        record.trace_id = Some([0xab; 16]);
        let rest = concat!(
            r#""message":"card \"declined\"\nagain","level":"WARN","id":"logs:00000000000000000007","#,
            r#""trace_id":"abababababababababababababababab","attributes":{"a":1},"#,
            r#""resource":{"service.name":"shop"}}"#,
            "\n"
        );
        let logzio = Events::new("@timestamp", 3, Some("app".to_owned()), Compression::None);
        assert_eq!(line(&logzio, &record), format!(r#"{{"@timestamp":"2026-11-20T08:30:00.123Z","type":"app",{rest}"#));
        let loggly = Events::new("timestamp", 6, None, Compression::None);
        assert_eq!(line(&loggly, &record), format!(r#"{{"timestamp":"2026-11-20T08:30:00.123456Z",{rest}"#));
    }

    #[test]
    fn a_message_is_always_text() {
        let events = Events::new("timestamp", 6, None, Compression::None);
        for (body, expected) in [
            (Value::Null, ""),
            (7.into(), "7"),
            (Value::Map(vec![("a".into(), Value::Array(vec![1.into()]))]), r#"{"a":[1]}"#),
            (Value::Bytes(vec![0, 255].into()), "AP8="),
        ] {
            let mut record = record(1);
            record.body = body;
            let json: serde_json::Value = serde_json::from_str(&line(&events, &record)).unwrap();
            assert_eq!(json["message"], expected);
        }
    }

    proptest! {
        #[test]
        fn attributes_are_the_first_of_each_name(entries in crate::encode::shape::tests::entries("[a-d]")) {
            let mut expected = Vec::new();
            for (_, (name, value)) in first_of_each(entries.iter()) {
                expected.extend_from_slice(if expected.is_empty() { b"n{" } else { b"," });
                string(&mut expected, name);
                expected.push(b':');
                json::value(&mut expected, value, 0).unwrap();
            }
            expected.extend_from_slice(if expected.is_empty() { b"" } else { b"}" });
            for _ in 0..20 {
                let mut out = Vec::new();
                members(&mut out, "n", &entries).unwrap();
                prop_assert_eq!(&out, &expected);
            }
        }

        #[test]
        fn whatever_is_in_a_record_reads_back(
            body: String, key: String, names in prop::collection::vec("[a-c\"]{1,2}", 0..8), number: f64,
        ) {
            let events = Events::new("@timestamp", 3, Some("t".to_owned()), Compression::None);
            let mut record = record(1);
            record.id = RecordId::new(Partition::new("p"), Cursor::text(key.as_str().into()));
            record.body = body.as_str().into();
            record.attributes = names.iter().map(|name| (name.as_str().into(), number.into())).collect();
            let text = line(&events, &record);
            prop_assert_eq!(text.matches('\n').count(), 1);
            let json: serde_json::Value = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(json["message"].as_str(), Some(body.as_str()));
            let id = record.id.to_string();
            prop_assert_eq!(json["id"].as_str(), Some(id.as_str()));
            let distinct: std::collections::BTreeSet<&String> = names.iter().collect();
            prop_assert_eq!(json["attributes"].as_object().map_or(0, serde_json::Map::len), distinct.len());
            prop_assert_eq!(text.matches("\":").count() >= distinct.len(), true);
        }
    }
}
