//! Records as JSON, in the form that OTLP gives protobuf there
//! (<https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding>): names in camelCase, whole numbers as strings,
//! ids in hexadecimal, other bytes in base64.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use logship_core::{Compression, Encoding, Grouping, LogRecord, RecordId, Text, Unencodable, Value};

use super::model::{Sayable, UID, is_shared, unique};
use crate::encode::json::{self, double, hex, int, string};

/// Records as an `ExportLogsServiceRequest` in JSON.
#[derive(Debug)]
pub(super) struct Json {
    key: String,
    with_uid: bool,
    compression: Compression,
}

impl Json {
    pub(super) fn new(with_uid: bool, compression: Compression) -> Self {
        Json { key: format!("otlp json, uid {with_uid}, {compression:?}"), with_uid, compression }
    }
}

impl Encoding for Json {
    fn key(&self) -> &str {
        &self.key
    }

    fn record(&self, record: &LogRecord, out: &mut Vec<u8>) -> Result<(), Unencodable> {
        let sayable = Sayable::new(record, self.with_uid)?;
        out.extend_from_slice(b"{\"timeUnixNano\":\"");
        number(out, sayable.time);
        out.push(b'"');
        if sayable.observed > 0 {
            out.extend_from_slice(b",\"observedTimeUnixNano\":\"");
            number(out, sayable.observed);
            out.push(b'"');
        }
        if record.severity.number() > 0 {
            out.extend_from_slice(b",\"severityNumber\":");
            int(out, record.severity.number().into());
        }
        if !sayable.severity_text.is_empty() {
            out.extend_from_slice(b",\"severityText\":");
            string(out, sayable.severity_text);
        }
        if *sayable.body != Value::Null {
            out.extend_from_slice(b",\"body\":");
            value(out, &sayable.body);
        }
        attributes(out, sayable.with_uid.then_some(&record.id), &sayable.attributes);
        let ids = [
            (&b",\"traceId\":\""[..], record.trace_id.as_ref().map(<[u8; 16]>::as_slice)),
            (&b",\"spanId\":\""[..], record.span_id.as_ref().map(<[u8; 8]>::as_slice)),
        ];
        for (name, id) in ids {
            let Some(id) = id else { continue };
            out.extend_from_slice(name);
            hex(out, id);
            out.push(b'"');
        }
        out.push(b'}');
        Ok(())
    }

    fn begin(&self) -> &'static [u8] {
        b"{\"resourceLogs\":["
    }

    fn separator(&self) -> &'static [u8] {
        b","
    }

    fn end(&self) -> &'static [u8] {
        b"]}"
    }

    fn compression(&self) -> Compression {
        self.compression
    }

    fn grouping(&self) -> Option<Arc<dyn Grouping>> {
        Some(Arc::new(Groups))
    }
}

#[derive(Debug)]
struct Groups;

impl Grouping for Groups {
    fn is_shared(&self, one: &LogRecord, other: &LogRecord) -> bool {
        is_shared(one, other)
    }

    fn begin(&self, record: &LogRecord, _records_len: usize, out: &mut Vec<u8>) {
        out.push(b'{');
        // Of a record that was encoded neither can fail.
        if let Ok(attributes) = unique(&record.resource.attributes)
            && !attributes.is_empty()
        {
            out.extend_from_slice(b"\"resource\":{\"attributes\":");
            entries(out, &attributes);
            out.extend_from_slice(b"},");
        }
        out.extend_from_slice(b"\"scopeLogs\":[{");
        if let Some(scope) = &record.scope {
            out.extend_from_slice(b"\"scope\":{\"name\":");
            string(out, &scope.name);
            if let Some(version) = &scope.version {
                out.extend_from_slice(b",\"version\":");
                string(out, version);
            }
            if let Ok(of) = unique(&scope.attributes) {
                attributes(out, None, &of);
            }
            out.extend_from_slice(b"},");
        }
        out.extend_from_slice(b"\"logRecords\":[");
    }

    fn end(&self) -> &'static [u8] {
        b"]}]}"
    }
}

/// The member `attributes`, if there are any.
fn attributes(out: &mut Vec<u8>, uid: Option<&RecordId>, attributes: &[(Text, Value)]) {
    if uid.is_none() && attributes.is_empty() {
        return;
    }
    out.extend_from_slice(b",\"attributes\":");
    let begin = out.len();
    entries(out, attributes);
    if let Some(uid) = uid {
        out.truncate(out.len() - 1);
        if out.len() > begin + 1 {
            out.push(b',');
        }
        out.extend_from_slice(b"{\"key\":");
        string(out, UID);
        out.extend_from_slice(b",\"value\":{\"stringValue\":");
        json::id(out, uid);
        out.extend_from_slice(b"}}]");
    }
}

fn entries(out: &mut Vec<u8>, entries: &[(Text, Value)]) {
    out.push(b'[');
    for (index, (name, value)) in entries.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(b"{\"key\":");
        json::text(out, name);
        // Nothing is left out: it means the same, and older readers refuse an empty value.
        if *value != Value::Null {
            out.extend_from_slice(b",\"value\":");
            self::value(out, value);
        }
        out.push(b'}');
    }
    out.push(b']');
}

/// An `AnyValue`; nothing is an empty one.
fn value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => out.push(b'{'),
        Value::Bool(is_true) => {
            out.extend_from_slice(if *is_true { b"{\"boolValue\":true" } else { b"{\"boolValue\":false" });
        }
        Value::Int(number) => {
            out.extend_from_slice(b"{\"intValue\":\"");
            int(out, *number);
            out.push(b'"');
        }
        Value::Double(number) => {
            out.extend_from_slice(b"{\"doubleValue\":");
            match *number {
                // The names protobuf has for them (<https://protobuf.dev/programming-guides/json/>).
                f64::INFINITY => out.extend_from_slice(b"\"Infinity\""),
                f64::NEG_INFINITY => out.extend_from_slice(b"\"-Infinity\""),
                number => double(out, number),
            }
        }
        Value::String(text) => {
            out.extend_from_slice(b"{\"stringValue\":");
            json::text(out, text);
        }
        Value::Bytes(bytes) => {
            out.extend_from_slice(b"{\"bytesValue\":");
            string(out, &BASE64.encode(bytes));
        }
        Value::Array(values) => {
            out.extend_from_slice(b"{\"arrayValue\":{\"values\":[");
            for (index, inner) in values.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                self::value(out, inner);
            }
            out.extend_from_slice(b"]}");
        }
        Value::Map(members) => {
            out.extend_from_slice(b"{\"kvlistValue\":{\"values\":");
            entries(out, members);
            out.push(b'}');
        }
    }
    out.push(b'}');
}

fn number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}
