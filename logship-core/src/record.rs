//! The record: one log entry in the OpenTelemetry log data model.

use std::fmt;
use std::mem::size_of;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Cursor, Partition, RecordId, Severity, Text, Timestamp};

/// One log entry, in the OpenTelemetry log data model
/// (<https://opentelemetry.io/docs/specs/otel/logs/data-model/>), with a stable identity.
///
/// Strings are slices of buffers that the records of a page share, so records are cheap to hold and to drop, and are
/// never cloned on their way to many exporters.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct LogRecord {
    /// Who this record is, on every read.
    pub id: RecordId,
    /// When it happened, as its writer says.
    pub timestamp: Timestamp,
    /// When it was first seen by a collecting system, if known.
    pub observed_timestamp: Option<Timestamp>,
    /// How bad it is.
    pub severity: Severity,
    /// The writer's own word for the severity, where it says more than [`Severity::name`].
    pub severity_text: Option<Text>,
    /// What it says.
    pub body: Value,
    /// What else is known about this one entry, in the source's order.
    pub attributes: Vec<(Text, Value)>,
    /// What wrote it; shared by many records.
    pub resource: Arc<Resource>,
    /// The part of the writer that emitted it; shared by many records.
    pub scope: Option<Arc<Scope>>,
    /// The trace it belongs to.
    pub trace_id: Option<[u8; 16]>,
    /// The span it belongs to.
    pub span_id: Option<[u8; 8]>,
}

impl LogRecord {
    /// A record of no severity, with an empty body and nothing else.
    pub fn new(id: RecordId, timestamp: Timestamp) -> Self {
        thread_local!(static NO_RESOURCE: Arc<Resource> = Arc::default());
        LogRecord {
            id,
            timestamp,
            observed_timestamp: None,
            severity: Severity::UNSPECIFIED,
            severity_text: None,
            body: Value::Null,
            attributes: Vec::new(),
            resource: NO_RESOURCE.with(Arc::clone),
            scope: None,
            trace_id: None,
            span_id: None,
        }
    }

    /// The value of the first attribute of this name.
    pub fn attribute(&self, name: &str) -> Option<&Value> {
        self.attributes.iter().find(|(key, _)| key.as_str() == name).map(|(_, value)| value)
    }

    /// The severity as the writer called it, or by its common name.
    pub fn severity_name(&self) -> &str {
        self.severity_text.as_deref().unwrap_or(self.severity.name())
    }

    /// Bytes of memory this record holds, shared resources and scopes left out. This is what the byte budget counts.
    pub fn size(&self) -> usize {
        size_of::<LogRecord>()
            + self.id.position().heap_bytes()
            + self.severity_text.as_ref().map_or(0, |text| text.len())
            + self.body.heap_bytes()
            + attributes_bytes(&self.attributes)
    }
}

/// Any value OpenTelemetry allows in a body or an attribute.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Value {
    /// Nothing.
    #[default]
    Null,
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Any other number; may be infinite or not a number.
    Double(f64),
    /// Text.
    String(Text),
    /// Bytes that are not text.
    Bytes(Bytes),
    /// Several values.
    Array(Vec<Value>),
    /// Values by name, in order.
    Map(Vec<(Text, Value)>),
}

impl Value {
    /// The text, if this is text.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// Bytes held beyond the value itself.
    fn heap_bytes(&self) -> usize {
        match self {
            Value::Null | Value::Bool(_) | Value::Int(_) | Value::Double(_) => 0,
            Value::String(text) => text.len(),
            Value::Bytes(bytes) => bytes.len(),
            Value::Array(values) => values.iter().map(|value| size_of::<Value>() + value.heap_bytes()).sum(),
            Value::Map(entries) => attributes_bytes(entries),
        }
    }
}

fn attributes_bytes(entries: &[(Text, Value)]) -> usize {
    entries.iter().map(|(name, value)| size_of::<(Text, Value)>() + name.len() + value.heap_bytes()).sum()
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::String(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Value::String(text.into())
    }
}

impl From<Text> for Value {
    fn from(text: Text) -> Self {
        Value::String(text)
    }
}

impl From<i32> for Value {
    fn from(number: i32) -> Self {
        Value::Int(number.into())
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Value::Int(number)
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Value::Double(number)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Value::Bool(value)
    }
}

/// What wrote a record: a service, a host, an orchestrator.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resource {
    /// Its attributes, such as `service.name`.
    pub attributes: Vec<(Text, Value)>,
}

/// The part of a program that emitted a record: a logger.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scope {
    /// Its name.
    pub name: Text,
    /// Its version.
    pub version: Option<Text>,
    /// Its attributes.
    pub attributes: Vec<(Text, Value)>,
}

/// What JSON has no form for is written as OTLP names it
/// (<https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding>).
const BYTES_VALUE: &str = "bytesValue";
const DOUBLE_VALUE: &str = "doubleValue";

impl Serialize for Value {
    /// As JSON would have it; bytes as `{"bytesValue": base64}` and numbers that are not finite as
    /// `{"doubleValue": "NaN"}`.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Null => serializer.serialize_unit(),
            Value::Bool(value) => serializer.serialize_bool(*value),
            Value::Int(number) => serializer.serialize_i64(*number),
            Value::Double(number) if !number.is_finite() => {
                serializer.collect_map([(DOUBLE_VALUE, number.to_string())])
            }
            Value::Double(number) => serializer.serialize_f64(*number),
            Value::String(text) => text.serialize(serializer),
            Value::Bytes(bytes) => serializer.collect_map([(BYTES_VALUE, BASE64.encode(bytes))]),
            Value::Array(values) => {
                let mut seq = serializer.serialize_seq(Some(values.len()))?;
                for value in values {
                    seq.serialize_element(value)?;
                }
                seq.end()
            }
            Value::Map(entries) => serialize_entries(entries, serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    /// Reads what `serialize` writes. A whole number that an `i64` does not hold is read as a double.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ValueVisitor;
        impl<'de> Visitor<'de> for ValueVisitor {
            type Value = Value;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }
            fn visit_unit<E>(self) -> Result<Value, E> {
                Ok(Value::Null)
            }
            fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
                Ok(Value::Bool(value))
            }
            fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
                Ok(Value::Int(number))
            }
            fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
                Ok(i64::try_from(number).map_or(Value::Double(number as f64), Value::Int))
            }
            fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
                Ok(Value::Double(number))
            }
            fn visit_str<E>(self, text: &str) -> Result<Value, E> {
                Ok(text.into())
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
                let mut values = Vec::new();
                while let Some(value) = seq.next_element()? {
                    values.push(value);
                }
                Ok(Value::Array(values))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Value, A::Error> {
                let entries = read_entries(map)?;
                let [(name, Value::String(text))] = entries.as_slice() else { return Ok(Value::Map(entries)) };
                match name.as_str() {
                    BYTES_VALUE => {
                        BASE64.decode(text.as_str()).map_err(A::Error::custom).map(|b| Value::Bytes(b.into()))
                    }
                    DOUBLE_VALUE => text.parse().map_err(A::Error::custom).map(Value::Double),
                    _ => Ok(Value::Map(entries)),
                }
            }
        }
        deserializer.deserialize_any(ValueVisitor)
    }
}

fn serialize_entries<S: Serializer>(entries: &[(Text, Value)], serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(entries.len()))?;
    for (name, value) in entries {
        map.serialize_entry(name, value)?;
    }
    map.end()
}

fn read_entries<'de, A: MapAccess<'de>>(mut map: A) -> Result<Vec<(Text, Value)>, A::Error> {
    let mut entries = Vec::new();
    while let Some(entry) = map.next_entry()? {
        entries.push(entry);
    }
    Ok(entries)
}

struct Entries<'a>(&'a [(Text, Value)]);

impl Serialize for Entries<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serialize_entries(self.0, serializer)
    }
}

#[derive(Default)]
struct OwnedEntries(Vec<(Text, Value)>);

impl<'de> Deserialize<'de> for OwnedEntries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntriesVisitor;
        impl<'de> Visitor<'de> for EntriesVisitor {
            type Value = OwnedEntries;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("values by name")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<OwnedEntries, A::Error> {
                read_entries(map).map(OwnedEntries)
            }
        }
        deserializer.deserialize_map(EntriesVisitor)
    }
}

/// Lower-case hexadecimal digits, as trace and span ids are written everywhere.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes that these hexadecimal digits stand for, if they are as many.
fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if text.len() != 2 * N || !text.is_ascii() {
        return None;
    }
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(bytes)
}

impl Serialize for LogRecord {
    /// Writes the record as a map with OpenTelemetry's names in camelCase. Exporters have encoders of their own; this
    /// is for people and for dead letters.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("partition", self.id.partition().as_str())?;
        map.serialize_entry("position", self.id.position())?;
        map.serialize_entry("timestamp", &self.timestamp)?;
        if let Some(observed) = &self.observed_timestamp {
            map.serialize_entry("observedTimestamp", observed)?;
        }
        map.serialize_entry("severityNumber", &self.severity.number())?;
        map.serialize_entry("severityText", self.severity_name())?;
        map.serialize_entry("body", &self.body)?;
        map.serialize_entry("attributes", &Entries(&self.attributes))?;
        map.serialize_entry("resource", &Entries(&self.resource.attributes))?;
        if let Some(scope) = &self.scope {
            map.serialize_entry("scope", &scope.name)?;
        }
        if let Some(trace_id) = &self.trace_id {
            map.serialize_entry("traceId", &hex(trace_id))?;
        }
        if let Some(span_id) = &self.span_id {
            map.serialize_entry("spanId", &hex(span_id))?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for LogRecord {
    /// Reads what `serialize` writes; of a scope, its name.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Wire {
            partition: String,
            position: Cursor,
            timestamp: Timestamp,
            observed_timestamp: Option<Timestamp>,
            #[serde(default)]
            severity_number: u8,
            severity_text: Option<Text>,
            #[serde(default)]
            body: Value,
            #[serde(default)]
            attributes: OwnedEntries,
            #[serde(default)]
            resource: OwnedEntries,
            scope: Option<Text>,
            trace_id: Option<String>,
            span_id: Option<String>,
        }
        let wire = Wire::deserialize(deserializer)?;
        let not_hex = || D::Error::custom("a trace or span id is not hexadecimal");
        let id = RecordId::new(Partition::new(wire.partition), wire.position);
        let mut record = LogRecord::new(id, wire.timestamp);
        record.observed_timestamp = wire.observed_timestamp;
        record.severity = Severity::from_number(wire.severity_number).unwrap_or_default();
        record.severity_text = wire.severity_text.filter(|text| text.as_str() != record.severity.name());
        record.body = wire.body;
        record.attributes = wire.attributes.0;
        if !wire.resource.0.is_empty() {
            record.resource = Arc::new(Resource { attributes: wire.resource.0 });
        }
        record.scope = wire.scope.map(|name| Arc::new(Scope { name, ..Scope::default() }));
        record.trace_id = wire.trace_id.map(|text| unhex(&text).ok_or_else(not_hex)).transpose()?;
        record.span_id = wire.span_id.map(|text| unhex(&text).ok_or_else(not_hex)).transpose()?;
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> LogRecord {
        let mut record = LogRecord::new(
            RecordId::new(Partition::new("logs"), Cursor::new(7, "k1".into())),
            Timestamp::from_millis(1_795_163_400_123),
        );
        record.severity = Severity::WARN;
        record.body = "card declined".into();
        record.attributes =
            vec![("flow".into(), "pay".into()), ("attempt".into(), 2.into()), ("ratio".into(), f64::NAN.into())];
        record
    }

    #[test]
    fn serializes_with_the_names_of_the_data_model() {
        assert_eq!(
            serde_json::to_string(&record()).unwrap(),
            r#"{"partition":"logs","position":"00000000000000000007/k1","timestamp":"2026-11-20T08:30:00.123000000Z","severityNumber":13,"severityText":"WARN","body":"card declined","attributes":{"flow":"pay","attempt":2,"ratio":{"doubleValue":"NaN"}},"resource":{}}"#
        );
    }

    #[test]
    fn size_counts_every_byte_of_text() {
        let small = record();
        let mut large = record();
        large.body = format!("card declined{}", "!".repeat(1000)).into();
        large.attributes.push(("note".into(), "x".repeat(50).into()));
        assert_eq!(large.size() - small.size(), 1000 + size_of::<(Text, Value)>() + 4 + 50);
    }
}
