//! Records as logs of Datadog.

use std::cell::RefCell;

use logship_core::{Compression, LogRecord, Severity, Text, Unencodable};

use super::array::{Array, Element};
use super::json;
use super::object::{self, Object, Places, text_at};
use super::shape::{Named, Roles, Shapes, attribute, with_roles};

/// What does not change from record to record.
#[derive(Debug)]
pub(crate) struct DatadogLog {
    /// What every log begins with.
    begin: Vec<u8>,
    service: Option<String>,
    hostname: Option<String>,
}

/// Names that Datadog reads something out of, or that we write ourselves: an attribute of such a name goes into the
/// object `attributes`, so that it cannot pass for what it is not.
/// <https://docs.datadoghq.com/logs/log_configuration/pipelines/#preprocessing>
const RESERVED: &[&str] = &[
    "@timestamp",
    "Timestamp",
    "_timestamp",
    "attributes",
    "date",
    "dd",
    "dd.span_id",
    "dd.trace_id",
    "ddsource",
    "ddtags",
    "error",
    "eventTime",
    "host",
    "hostname",
    "id",
    "level",
    "log",
    "logger",
    "message",
    "msg",
    "published_date",
    "service",
    "severity",
    "span_id",
    "status",
    "timestamp",
    "trace_id",
];

/// The standard attributes of errors, and the attributes they are taken from.
/// <https://docs.datadoghq.com/standard-attributes/>
const ERROR: &[(&str, &[&str])] = &[
    ("kind", &["error.type", "exception.type"]),
    ("message", &["error.message", "exception.message"]),
    ("stack", &["error.stack_trace", "exception.stacktrace"]),
];

impl DatadogLog {
    /// Logs in one array.
    pub(crate) fn array(
        source: &str,
        tags: &[String],
        service: Option<&str>,
        hostname: Option<&str>,
        compression: Compression,
    ) -> Array<Self> {
        let tags = tags.join(",");
        let name = format!("datadog {source:?} {tags:?} {service:?} {hostname:?}");
        let log = DatadogLog::new(source, &tags, service, hostname);
        Array::new(&name, log, compression)
    }

    fn new(source: &str, tags: &str, service: Option<&str>, hostname: Option<&str>) -> Self {
        let mut begin = Vec::new();
        let mut log = Object::open(&mut begin);
        log.str("ddsource", source);
        if !tags.is_empty() {
            log.str("ddtags", tags);
        }
        DatadogLog { begin, service: service.map(str::to_owned), hostname: hostname.map(str::to_owned) }
    }
}

impl Element for DatadogLog {
    fn write(&self, record: &LogRecord, out: &mut Vec<u8>) -> Result<(), Unencodable> {
        thread_local!(static KNOWN: RefCell<Shapes<Named<Attributes>>> = const { RefCell::new(Shapes::new()) });
        with_roles(&KNOWN, record, |attributes| self.write_with(record, attributes, out))
    }
}

/// What becomes of attributes.
#[derive(Debug, Default)]
struct Attributes {
    places: Places,
    /// Where the standard attributes of errors are taken from.
    error: [Option<usize>; ERROR.len()],
}

impl Roles for Attributes {
    fn add(&mut self, place: usize, name: &str) -> bool {
        let slot = ERROR.iter().position(|(_, names)| names.contains(&name));
        match slot.map(|slot| &mut self.error[slot]) {
            Some(slot @ None) => *slot = Some(place),
            taken => {
                self.places.add(place, name, RESERVED.contains(&name));
                return taken.is_none();
            }
        }
        true
    }
}

impl DatadogLog {
    fn write_with(&self, record: &LogRecord, attributes: &Attributes, out: &mut Vec<u8>) -> Result<(), Unencodable> {
        let mut log = Object::begun(out, &self.begin);
        let places = &attributes.places;
        if let Some(host) = text_at(record, places.host).map(Text::as_str).or(self.hostname.as_deref()) {
            log.str("hostname", host);
        }
        if let Some(service) = text_at(record, places.service).map(Text::as_str).or(self.service.as_deref()) {
            log.str("service", service);
        }
        if let Some(status) = status(record) {
            log.str("status", status);
        }
        // Datadog counts in milliseconds.
        log.int("timestamp", record.timestamp.as_millis());
        object::text_of(log.name("message"), &record.body)?;
        json::id(log.name("id"), &record.id);
        ids(&mut log, record);
        log.attributes(record, &places.plain)?;
        if let Some(scope) = record.scope.as_ref().filter(|scope| !scope.name.is_empty()) {
            let mut logger = Object::open(log.name("logger"));
            logger.text("name", &scope.name);
            logger.close();
        }
        let error = attributes.error.map(|place| place.and_then(|place| attribute(record, place)));
        if error.iter().any(Option::is_some) {
            let mut members = Object::open(log.name("error"));
            for ((name, _), attribute) in ERROR.iter().zip(error) {
                if let Some((_, value)) = attribute {
                    object::text_of(members.name(name), value)?;
                }
            }
            members.close();
        }
        log.inner("attributes", record, &places.reserved)?;
        log.close();
        Ok(())
    }
}

/// What a log and a trace are joined by: the trace's id as 32 hexadecimal digits, the span's as a decimal number, which
/// is how Datadog's own tracers write them into logs.
/// <https://docs.datadoghq.com/tracing/other_telemetry/connect_logs_and_traces/>
fn ids(log: &mut Object<'_>, record: &LogRecord) {
    if record.trace_id.is_none() && record.span_id.is_none() {
        return;
    }
    let mut ids = Object::open(log.name("dd"));
    ids.hex("trace_id", record.trace_id.as_ref().map(<[u8; 16]>::as_slice));
    if let Some(span) = record.span_id {
        ids.str("span_id", itoa::Buffer::new().format(u64::from_be_bytes(span)));
    }
    ids.close();
}

/// The status, from which Datadog's own are made by their beginnings: of `FATAL` it would make an emergency.
/// <https://docs.datadoghq.com/logs/log_configuration/processors/#log-status-remapper>
fn status(record: &LogRecord) -> Option<&str> {
    Some(match record.severity.number() {
        0 => return record.severity_text.as_deref(),
        1..=8 => "debug",
        number if number == Severity::INFO.number() => "info",
        10..=12 => "notice",
        13..=16 => "warn",
        17..=20 => "error",
        _ => "critical",
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use logship_core::{Cursor, Partition, RecordId, Resource, Timestamp, Value};
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::shape;

    fn datadog() -> DatadogLog {
        DatadogLog::new("logship", "env:prod,team:shop", Some("checkout"), None)
    }

    fn log(record: &LogRecord) -> serde_json::Value {
        let mut out = Vec::new();
        datadog().write(record, &mut out).unwrap();
        serde_json::from_slice(&out).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&out)))
    }

    fn record() -> LogRecord {
        let id = RecordId::new(Partition::new("logs"), Cursor::number(7));
        let mut record = LogRecord::new(id, Timestamp::from_nanos(1_795_163_400_123_456_789));
        record.severity = Severity::WARN;
        record.body = "card declined".into();
        record
    }

    #[test]
    fn a_record_has_datadogs_names() {
        let mut record = record();
        record.attributes = vec![
            ("flow.id".into(), "pay".into()),
            ("status".into(), 7.into()),
            ("exception.type".into(), "Timeout".into()),
            ("flow.id".into(), "again".into()),
            ("big".into(), i64::MAX.into()),
        ];
        record.resource = Arc::new(Resource { attributes: vec![("host.name".into(), "web-1".into())] });
        record.trace_id = Some([0xab; 16]);
        record.span_id = Some([0, 0, 0, 0, 0, 0, 1, 0]);
        let expected = json!({
            "ddsource": "logship", "ddtags": "env:prod,team:shop", "hostname": "web-1", "service": "checkout",
            "status": "warn", "timestamp": 1_795_163_400_123_i64, "message": "card declined",
            "id": "logs:00000000000000000007", "flow.id": "pay", "big": "9223372036854775807", "host.name": "web-1",
            "dd": {"trace_id": "abababababababababababababababab", "span_id": "256"},
            "error": {"kind": "Timeout"}, "attributes": {"status": 7},
        });
        assert_eq!(log(&record), expected);
    }

    #[test]
    fn every_severity_has_its_status() {
        let status = |number| {
            let mut record = record();
            record.severity = Severity::from_number(number).unwrap();
            log(&record)["status"].as_str().map(str::to_owned)
        };
        let expected = [(0, None), (1, Some("debug")), (5, Some("debug")), (9, Some("info")), (10, Some("notice"))];
        let worse = [(13, Some("warn")), (17, Some("error")), (21, Some("critical")), (24, Some("critical"))];
        for (number, expected) in expected.into_iter().chain(worse) {
            assert_eq!(status(number).as_deref(), expected, "{number}");
        }
    }

    #[test]
    fn a_body_that_is_no_text_is_its_json() {
        for (body, expected) in [
            (Value::Null, ""),
            (true.into(), "true"),
            (f64::NAN.into(), "NaN"),
            (Value::Map(vec![("a".into(), 1.into())]), r#"{"a":1}"#),
            (Value::Bytes(vec![0, 255].into()), "AP8="),
        ] {
            let mut record = record();
            record.body = body;
            assert_eq!(log(&record)["message"], expected);
        }
    }

    proptest! {
        #[test]
        fn by_names_alone_the_same_is_written_as_by_values((one, other) in shape::tests::pairs("(message|host.name|service.name|status|error.type|exception.type|[a-c])")) {
            for roles in shape::tests::both_roles::<Attributes>(&one, &other).as_slice() {
                let [by_name, by_value] = roles.each_ref().map(|roles| {
                    let mut out = Vec::new();
                    datadog().write_with(&other, roles, &mut out).map(|()| out)
                });
                prop_assert_eq!(by_name, by_value);
            }
        }

        /// Goal: whatever a record holds, its log is one that Datadog reads, in which no name is there twice.
        #[test]
        fn a_log_reads_back(
            text in "(\\PC|[\\x00-\\x1f\"\\\\]){0,40}",
            names in prop::collection::vec("(message|status|date|error|error.type|exception.type|dd|attributes|\\PC{0,3})", 0..40),
            number: i64,
        ) {
            let mut record = record();
            record.body = text.as_str().into();
            record.attributes = names.iter().map(|name| (Text::from(name.as_str()), number.into())).collect();
            let mut out = Vec::new();
            datadog().write(&record, &mut out).unwrap();
            let pairs: Vec<(String, serde_json::Value)> = super::super::object::pairs(&out);
            let mut seen: Vec<&str> = pairs.iter().map(|(name, _)| name.as_str()).collect();
            seen.sort_unstable();
            let all = seen.len();
            seen.dedup();
            prop_assert_eq!(seen.len(), all);
            let log = log(&record);
            prop_assert_eq!(log["message"].as_str(), Some(text.as_str()));
            prop_assert_eq!(log["timestamp"].as_i64(), Some(1_795_163_400_123));
            for name in &names {
                let is_there = log.get(name).is_some() || log["attributes"].get(name).is_some();
                prop_assert!(is_there || log["error"].get("kind").is_some(), "{} is gone", name);
            }
        }
    }
}
