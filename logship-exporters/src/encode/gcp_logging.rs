//! Records as entries of Google Cloud Logging.

use std::cell::RefCell;
use std::collections::BTreeMap;

use logship_core::{Compression, Encoding, LogRecord, Severity, Unencodable};

use super::json;
use super::object::{Object, Places};
use super::shape::{Named, Roles, Shapes, with_roles};

/// Names in a payload that we write ourselves. An attribute of such a name is in `attributes`.
const OWN: &[&str] = &["attributes", "logger", "message", "severity_text"];

/// Writes entries behind what is common to all of them.
#[derive(Clone, Debug)]
pub(crate) struct EntryEncoding {
    key: String,
    begin: Vec<u8>,
    /// What stands before a trace's digits.
    traces: String,
    compression: Compression,
}

impl EntryEncoding {
    /// `log` is the log's whole name; `resource` what the monitored resource is, and its labels.
    pub(crate) fn new(
        project: &str,
        log: &str,
        resource: (&str, &BTreeMap<String, String>),
        labels: &BTreeMap<String, String>,
        compression: Compression,
    ) -> Self {
        let begin = Self::envelope(log, resource, labels, "\"partialSuccess\":true");
        let traces = format!("projects/{project}/traces/");
        let key = format!("gcp_logging {traces} {} {compression:?}", String::from_utf8_lossy(&begin));
        EntryEncoding { key, begin, traces, compression }
    }

    /// The beginning of a request, up to the first entry.
    pub(crate) fn envelope(
        log: &str,
        (resource, resource_labels): (&str, &BTreeMap<String, String>),
        labels: &BTreeMap<String, String>,
        option: &str,
    ) -> Vec<u8> {
        let mut begin = Vec::new();
        let mut request = Object::open(&mut begin);
        request.str("logName", log);
        let mut monitored = Object::open(request.name("resource"));
        monitored.str("type", resource);
        texts(monitored.name("labels"), resource_labels);
        monitored.close();
        texts(request.name("labels"), labels);
        begin.extend_from_slice(b",");
        begin.extend_from_slice(option.as_bytes());
        begin.extend_from_slice(b",\"entries\":[");
        begin
    }

    fn write(&self, record: &LogRecord, places: &Places, out: &mut Vec<u8>) -> Result<(), Unencodable> {
        let mut entry = Object::open(out);
        let time = entry.name("timestamp");
        time.push(b'"');
        record.timestamp.write_rfc3339(time);
        time.push(b'"');
        entry.str("severity", severity(record.severity));
        json::id(entry.name("insertId"), &record.id);
        let mut payload = Object::open(entry.name("jsonPayload"));
        payload.value("message", &record.body)?;
        if let Some(text) = record.severity_text.as_ref().filter(|text| text.as_str() != record.severity.name()) {
            payload.text("severity_text", text);
        }
        if let Some(scope) = record.scope.as_ref().filter(|scope| !scope.name.is_empty()) {
            payload.text("logger", &scope.name);
        }
        payload.attributes(record, &places.plain)?;
        payload.inner("attributes", record, &places.reserved)?;
        payload.close();
        if let Some(trace) = &record.trace_id {
            let out = entry.name("trace");
            out.push(b'"');
            out.extend_from_slice(self.traces.as_bytes());
            json::hex(out, trace);
            out.push(b'"');
        }
        entry.hex("spanId", record.span_id.as_ref().map(<[u8; 8]>::as_slice));
        entry.close();
        Ok(())
    }
}

/// What becomes of attributes.
#[derive(Debug, Default)]
struct Attributes(Places);

impl Roles for Attributes {
    fn add(&mut self, place: usize, name: &str) -> bool {
        self.0.add(place, name, OWN.contains(&name));
        true
    }
}

fn texts(out: &mut Vec<u8>, texts: &BTreeMap<String, String>) {
    let mut object = Object::open(out);
    texts.iter().for_each(|(name, value)| json::string(object.any_name(name), value));
    object.close();
}

impl Encoding for EntryEncoding {
    fn key(&self) -> &str {
        &self.key
    }

    fn record(&self, record: &LogRecord, out: &mut Vec<u8>) -> Result<(), Unencodable> {
        thread_local!(static KNOWN: RefCell<Shapes<Named<Attributes>>> = const { RefCell::new(Shapes::new()) });
        with_roles(&KNOWN, record, |Attributes(places)| self.write(record, places, out))
    }

    fn begin(&self) -> &[u8] {
        &self.begin
    }

    fn separator(&self) -> &[u8] {
        b","
    }

    fn end(&self) -> &[u8] {
        b"]}"
    }

    fn compression(&self) -> Compression {
        self.compression
    }
}

/// Google's name for a severity. <https://docs.cloud.google.com/logging/docs/reference/v2/rest/v2/LogEntry#LogSeverity>
fn severity(severity: Severity) -> &'static str {
    match severity.number() {
        0 => "DEFAULT",
        1..=8 => "DEBUG",
        9 => "INFO",
        10..=12 => "NOTICE",
        13..=16 => "WARNING",
        17..=20 => "ERROR",
        21 | 22 => "CRITICAL",
        23 => "ALERT",
        _ => "EMERGENCY",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use logship_core::{Cursor, Partition, RecordId, Text, Timestamp, Value};
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::shape;

    fn encoding() -> EntryEncoding {
        let labels = BTreeMap::from([("app".to_owned(), "checkout".to_owned())]);
        let resource = BTreeMap::from([("project_id".to_owned(), "acme".to_owned())]);
        EntryEncoding::new("acme", "projects/acme/logs/x", ("global", &resource), &labels, Compression::None)
    }

    fn entry(record: &LogRecord) -> serde_json::Value {
        let encoding = encoding();
        let mut out = encoding.begin().to_vec();
        encoding.record(record, &mut out).unwrap();
        out.extend_from_slice(encoding.end());
        let body: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!((&body["logName"], &body["partialSuccess"]), (&json!("projects/acme/logs/x"), &json!(true)));
        assert_eq!(body["resource"], json!({"type": "global", "labels": {"project_id": "acme"}}));
        assert_eq!(body["labels"], json!({"app": "checkout"}));
        body["entries"][0].clone()
    }

    fn record() -> LogRecord {
        let id = RecordId::new(Partition::new("logs"), Cursor::number(7));
        let mut record = LogRecord::new(id, Timestamp::from_nanos(1_795_163_400_123_456_789));
        record.body = "card declined".into();
        record
    }

    #[test]
    fn a_record_has_googles_names_and_types() {
        let mut record = record();
        record.severity = Severity::WARN;
        record.severity_text = Some("ATTENTION".into());
        record.attributes = vec![
            ("flow".into(), "pay".into()),
            ("message".into(), "mine".into()),
            ("big".into(), i64::MIN.into()),
            ("flow".into(), "again".into()),
        ];
        record.trace_id = Some([0xab; 16]);
        record.span_id = Some([1; 8]);
        let expected = json!({
            "timestamp": "2026-11-20T08:30:00.123456789Z", "severity": "WARNING",
            "insertId": "logs:00000000000000000007",
            "jsonPayload": {"message": "card declined", "severity_text": "ATTENTION", "flow": "pay",
                "big": "-9223372036854775808", "attributes": {"message": "mine"}},
            "trace": "projects/acme/traces/abababababababababababababababab", "spanId": "0101010101010101",
        });
        assert_eq!(entry(&record), expected);
    }

    #[test]
    fn every_severity_has_googles_name() {
        let names = (0..=24).map(|number| severity(Severity::from_number(number).unwrap()));
        let mut counts: Vec<(&str, usize)> = Vec::new();
        for name in names {
            match counts.last_mut().filter(|(last, _)| *last == name) {
                Some((_, count)) => *count += 1,
                None => counts.push((name, 1)),
            }
        }
        let expected = [("DEFAULT", 1), ("DEBUG", 8), ("INFO", 1), ("NOTICE", 3), ("WARNING", 4), ("ERROR", 4)];
        assert_eq!(counts[..6], expected);
        assert_eq!(counts[6..], [("CRITICAL", 2), ("ALERT", 1), ("EMERGENCY", 1)]);
    }

    proptest! {
        #[test]
        fn by_names_alone_the_same_is_written_as_by_values((one, other) in shape::tests::pairs("(message|logger|severity_text|[a-c])")) {
            for roles in shape::tests::both_roles::<Attributes>(&one, &other).as_slice() {
                let [by_name, by_value] = roles.each_ref().map(|Attributes(places)| {
                    let mut out = Vec::new();
                    encoding().write(&other, places, &mut out).map(|()| out)
                });
                prop_assert_eq!(by_name, by_value);
            }
        }

        /// Goal: whatever a record holds, all of it is in its entry.
        #[test]
        fn an_entry_reads_back(
            text in "(\\PC|[\\x00-\\x1f\"\\\\]){0,40}",
            names in prop::collection::vec("(message|logger|attributes|a|\\PC{0,3})", 0..40),
            number: i64,
        ) {
            let mut record = record();
            record.body = text.as_str().into();
            record.attributes = names.iter().map(|name| (Text::from(name.as_str()), Value::from(number))).collect();
            let mut out = Vec::new();
            encoding().record(&record, &mut out).unwrap();
            let entry = entry(&record);
            let payload = &entry["jsonPayload"];
            prop_assert_eq!(payload["message"].as_str(), Some(text.as_str()));
            for name in &names {
                let place = if OWN.contains(&name.as_str()) { &payload["attributes"] } else { payload };
                prop_assert!(place.get(name).is_some(), "{:?} is gone", name);
            }
        }
    }
}
