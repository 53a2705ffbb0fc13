//! Records as events of Splunk's HTTP Event Collector: objects one after another, with neither commas nor brackets.

use std::cell::RefCell;
use std::collections::BTreeMap;

use logship_core::{Compression, Encoding, LogRecord, Text, Timestamp, Unencodable, Value};

use super::json;
use super::object::{Object, Places, text_at};
use super::shape::{Named, Roles, Shapes, with_roles};

/// Members of an event that we write ourselves: an attribute of such a name goes into the object `attributes`.
const RESERVED: &[&str] = &["attributes", "logger", "message"];

/// Fields that we write ourselves: none of all events has such a name.
const OWN_FIELDS: &[&str] = &["level", "record_id", "service", "span_id", "trace_id"];

/// Writes events with what does not change from record to record.
#[derive(Clone, Debug)]
pub(crate) struct SplunkEncoding {
    key: String,
    /// The host of records that do not say.
    hostname: Option<String>,
    /// What stands behind time and host in all events: the metadata, and of the fields those of all events and the name
    /// of the first one that is the record's own.
    shared: Vec<u8>,
    compression: Compression,
}

impl SplunkEncoding {
    /// `metadata` is `source`, `sourcetype` and `index`, those there are; `fields` are those of all events.
    pub(crate) fn new(
        metadata: &[(&'static str, String)],
        fields: &BTreeMap<String, String>,
        hostname: Option<String>,
        compression: Compression,
    ) -> Self {
        let mut shared = Vec::new();
        let mut event = Object::open(&mut shared);
        metadata.iter().for_each(|(name, value)| event.str(name, value));
        let mut members = Object::open(event.name("fields"));
        let fields = fields.iter().filter(|(name, _)| !OWN_FIELDS.contains(&name.as_str()));
        fields.for_each(|(name, value)| json::string(members.any_name(name), value));
        members.name("level");
        // These are not the first members.
        shared[0] = b',';
        let key = format!("splunk {hostname:?} {} {compression:?}", String::from_utf8_lossy(&shared));
        SplunkEncoding { key, hostname, shared, compression }
    }

    /// The metadata, and what is searched by without reading the event: names without dots, flat values.
    fn fields(&self, event: &mut Object<'_>, record: &LogRecord, service: Option<&Text>) {
        let mut fields = Object::begun(event.rest(), &self.shared);
        let is_known = record.severity.number() > 0;
        json::string(fields.rest(), if is_known { record.severity.name() } else { record.severity_name() });
        json::id(fields.name("record_id"), &record.id);
        if let Some(service) = service {
            fields.text("service", service);
        }
        fields.hex("trace_id", record.trace_id.as_ref().map(<[u8; 16]>::as_slice));
        fields.hex("span_id", record.span_id.as_ref().map(<[u8; 8]>::as_slice));
        fields.close();
    }

    fn write(&self, record: &LogRecord, places: &Places, out: &mut Vec<u8>) -> Result<(), Unencodable> {
        let mut event = Object::open(out);
        time(event.name("time"), record.timestamp);
        if let Some(host) = text_at(record, places.host).map(Text::as_str).or(self.hostname.as_deref()) {
            event.str("host", host);
        }
        self.fields(&mut event, record, text_at(record, places.service));
        let mut members = Object::open(event.name("event"));
        if record.body != Value::Null {
            members.value("message", &record.body)?;
        } else {
            members.str("message", "");
        }
        if let Some(scope) = record.scope.as_ref().filter(|scope| !scope.name.is_empty()) {
            members.text("logger", &scope.name);
        }
        members.attributes(record, &places.plain)?;
        members.inner("attributes", record, &places.reserved)?;
        members.close();
        event.close();
        out.push(b'\n');
        Ok(())
    }
}

/// What becomes of attributes.
#[derive(Debug, Default)]
struct Attributes(Places);

impl Roles for Attributes {
    fn add(&mut self, place: usize, name: &str) -> bool {
        self.0.add(place, name, RESERVED.contains(&name));
        true
    }
}

impl Encoding for SplunkEncoding {
    fn key(&self) -> &str {
        &self.key
    }

    fn record(&self, record: &LogRecord, out: &mut Vec<u8>) -> Result<(), Unencodable> {
        thread_local!(static KNOWN: RefCell<Shapes<Named<Attributes>>> = const { RefCell::new(Shapes::new()) });
        with_roles(&KNOWN, record, |Attributes(places)| self.write(record, places, out))
    }

    fn compression(&self) -> Compression {
        self.compression
    }
}

/// Appends seconds since the epoch as a decimal number: three digits behind the point, as Splunk's page has them, and
/// nine where these say more. A double would hold seven of them.
fn time(out: &mut Vec<u8>, time: Timestamp) {
    let nanos = time.as_nanos();
    let (seconds, fraction) = (nanos.unsigned_abs() / 1_000_000_000, nanos.unsigned_abs() % 1_000_000_000);
    if nanos < 0 {
        out.push(b'-');
    }
    out.extend_from_slice(itoa::Buffer::new().format(seconds).as_bytes());
    out.push(b'.');
    let (digits, fraction) = if fraction.is_multiple_of(1_000_000) { (3, fraction / 1_000_000) } else { (9, fraction) };
    let mut buffer = itoa::Buffer::new();
    let text = buffer.format(fraction).as_bytes();
    out.extend_from_slice(&b"000000000"[..digits - text.len()]);
    out.extend_from_slice(text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use logship_core::{Cursor, Partition, RecordId, Severity};
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::shape;

    fn encoding() -> SplunkEncoding {
        let metadata = [("source", "logship".to_owned()), ("sourcetype", "_json".to_owned())];
        let fields = [("team", "shop"), ("level", "mine")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        SplunkEncoding::new(&metadata, &fields.into(), Some("h".to_owned()), Compression::None)
    }

    fn text(record: &LogRecord) -> String {
        let mut out = Vec::new();
        encoding().record(record, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn record() -> LogRecord {
        let id = RecordId::new(Partition::new("logs"), Cursor::number(7));
        let mut record = LogRecord::new(id, Timestamp::from_nanos(1_795_163_400_123_456_789));
        record.severity = Severity::WARN;
        record.body = "card declined".into();
        record
    }

    #[test]
    fn a_record_is_an_event_with_its_metadata() {
        let mut record = record();
        record.attributes = vec![
            ("flow.id".into(), "pay".into()),
            ("message".into(), 7.into()),
            ("host.name".into(), "web-1".into()),
            ("service.name".into(), "checkout".into()),
            ("flow.id".into(), "again".into()),
        ];
        record.trace_id = Some([0xab; 16]);
        record.span_id = Some([1; 8]);
        let text = text(&record);
        assert!(text.starts_with(r#"{"time":1795163400.123456789,"host":"web-1","#) && text.ends_with("}\n"), "{text}");
        let mut event: serde_json::Value = serde_json::from_str(&text).unwrap();
        event.as_object_mut().unwrap().remove("time");
        let expected = json!({
            "host": "web-1", "source": "logship", "sourcetype": "_json",
            "fields": {
                "team": "shop", "level": "WARN", "record_id": "logs:00000000000000000007", "service": "checkout",
                "trace_id": "abababababababababababababababab", "span_id": "0101010101010101",
            },
            "event": {
                "message": "card declined", "flow.id": "pay", "host.name": "web-1", "service.name": "checkout",
                "attributes": {"message": 7},
            },
        });
        assert_eq!(event, expected);
    }

    #[test]
    fn a_time_keeps_all_its_digits() {
        for (nanos, expected) in [
            (0, "0.000"),
            (1_795_163_400_123_000_000, "1795163400.123"),
            (1_795_163_400_000_000_001, "1795163400.000000001"),
            (-1_500_000_000, "-1.500"),
            (-1, "-0.000000001"),
            (i64::MIN, "-9223372036.854775808"),
        ] {
            let mut out = Vec::new();
            time(&mut out, Timestamp::from_nanos(nanos));
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }

    proptest! {
        #[test]
        fn by_names_alone_the_same_is_written_as_by_values((one, other) in shape::tests::pairs("(message|host.name|service.name|logger|[a-c])")) {
            for roles in shape::tests::both_roles::<Attributes>(&one, &other).as_slice() {
                let [by_name, by_value] = roles.each_ref().map(|Attributes(places)| {
                    let mut out = Vec::new();
                    encoding().write(&other, places, &mut out).map(|()| out)
                });
                prop_assert_eq!(by_name, by_value);
            }
        }

        /// Goal: whatever a record holds, its event is one that Splunk reads: on one line, with flat fields.
        #[test]
        fn an_event_reads_back(
            body in "(\\PC|[\\x00-\\x1f\"\\\\]){0,40}",
            names in prop::collection::vec("(message|attributes|logger|\\PC{0,3})", 0..40),
            number: i64, nanos: i64,
        ) {
            let mut record = record();
            record.timestamp = Timestamp::from_nanos(nanos);
            record.body = body.as_str().into();
            record.attributes = names.iter().map(|name| (Text::from(name.as_str()), number.into())).collect();
            let text = text(&record);
            prop_assert_eq!(text.matches('\n').count(), 1);
            let event: serde_json::Value = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(event["event"]["message"].as_str(), Some(body.as_str()));
            prop_assert!(event["time"].is_number());
            prop_assert!(event["fields"].as_object().unwrap().values().all(serde_json::Value::is_string));
            for name in &names {
                let own = &event["event"];
                prop_assert!(own.get(name).is_some() || own["attributes"].get(name).is_some(), "{} is gone", name);
            }
        }
    }
}
