//! Records as protobuf, written straight into a request's bytes, and the few messages of an answer, read from theirs.
//!
//! The fields are those of `opentelemetry/proto/logs/v1/logs.proto`, `common/v1/common.proto` and
//! `resource/v1/resource.proto` at <https://github.com/open-telemetry/opentelemetry-proto>.

use std::sync::Arc;

use logship_core::{Compression, Encoding, Grouping, LogRecord, Scope, Text, Unencodable, Value};

use super::model::{Sayable, UID, is_shared, unique};

/// Wire types (<https://protobuf.dev/programming-guides/encoding/#structure>).
const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const BYTES: u32 = 2;
const FIXED32: u32 = 5;

/// Records as an `ExportLogsServiceRequest`.
#[derive(Debug)]
pub(super) struct Protobuf {
    key: String,
    with_uid: bool,
    compression: Compression,
}

impl Protobuf {
    pub(super) fn new(with_uid: bool, compression: Compression) -> Self {
        Protobuf { key: format!("otlp protobuf, uid {with_uid}, {compression:?}"), with_uid, compression }
    }
}

impl Encoding for Protobuf {
    fn key(&self) -> &str {
        &self.key
    }

    fn record(&self, record: &LogRecord, out: &mut Vec<u8>) -> Result<(), Unencodable> {
        let sayable = Sayable::new(record, self.with_uid)?;
        // `log_records` of `ScopeLogs`.
        tag(out, 2, BYTES);
        varint(out, record_len(record, &sayable) as u64);
        write_record(out, record, &sayable);
        Ok(())
    }

    fn compression(&self) -> Compression {
        self.compression
    }

    fn grouping(&self) -> Option<Arc<dyn Grouping>> {
        Some(Arc::new(Groups))
    }
}

/// One `ResourceLogs` with one `ScopeLogs`, whose records follow.
#[derive(Debug)]
struct Groups;

impl Grouping for Groups {
    fn is_shared(&self, one: &LogRecord, other: &LogRecord) -> bool {
        is_shared(one, other)
    }

    fn begin(&self, record: &LogRecord, records_len: usize, out: &mut Vec<u8>) {
        let (mut resource, mut scope) = (Vec::new(), Vec::new());
        // Of a record that was encoded neither can fail.
        if let Ok(attributes) = unique(&record.resource.attributes)
            && !attributes.is_empty()
        {
            message(&mut resource, 1, entries_len(&attributes), |out| entries(out, 1, &attributes));
        }
        if let Some(of) = record.scope.as_deref() {
            let mut inner = Vec::new();
            write_scope(&mut inner, of);
            message(&mut scope, 1, inner.len(), |out| out.extend_from_slice(&inner));
        }
        let scope_logs = scope.len() + records_len;
        // `resource_logs` of the request, and in it `resource` and `scope_logs`.
        tag(out, 1, BYTES);
        varint(out, (resource.len() + message_len(scope_logs)) as u64);
        out.extend_from_slice(&resource);
        tag(out, 2, BYTES);
        varint(out, scope_logs as u64);
        out.extend_from_slice(&scope);
    }
}

fn write_scope(out: &mut Vec<u8>, scope: &Scope) {
    text(out, 1, &scope.name);
    text(out, 2, scope.version.as_deref().unwrap_or_default());
    if let Ok(attributes) = unique(&scope.attributes) {
        entries(out, 3, &attributes);
    }
}

fn record_len(record: &LogRecord, sayable: &Sayable<'_>) -> usize {
    let fixed = |is_there: bool| if is_there { 9 } else { 0 };
    let severity = u64::from(record.severity.number());
    fixed(sayable.time > 0)
        + fixed(sayable.observed > 0)
        + if severity > 0 { 1 + varint_len(severity) } else { 0 }
        + text_len(sayable.severity_text)
        + if *sayable.body == Value::Null { 0 } else { message_len(value_len(&sayable.body)) }
        + sayable.uid.as_deref().map_or(0, |uid| message_len(uid_len(uid)))
        + entries_len(&sayable.attributes)
        + record.trace_id.map_or(0, |id| message_len(id.len()))
        + record.span_id.map_or(0, |id| message_len(id.len()))
}

fn write_record(out: &mut Vec<u8>, record: &LogRecord, sayable: &Sayable<'_>) {
    let mut fixed = |field: u32, nanos: u64| {
        if nanos > 0 {
            tag(out, field, FIXED64);
            out.extend_from_slice(&nanos.to_le_bytes());
        }
    };
    fixed(1, sayable.time);
    fixed(11, sayable.observed);
    let severity = record.severity.number();
    if severity > 0 {
        tag(out, 2, VARINT);
        varint(out, severity.into());
    }
    text(out, 3, sayable.severity_text);
    if *sayable.body != Value::Null {
        message(out, 5, value_len(&sayable.body), |out| value(out, &sayable.body));
    }
    if let Some(uid) = &sayable.uid {
        message(out, 6, uid_len(uid), |out| {
            text(out, 1, UID);
            message(out, 2, message_len(uid.len()), |out| bytes(out, 1, uid.as_bytes()));
        });
    }
    entries(out, 6, &sayable.attributes);
    if let Some(id) = &record.trace_id {
        bytes(out, 9, id);
    }
    if let Some(id) = &record.span_id {
        bytes(out, 10, id);
    }
}

fn uid_len(uid: &str) -> usize {
    text_len(UID) + message_len(message_len(uid.len()))
}

/// An `AnyValue`. One of its fields is set even where it is empty; nothing is none of them.
fn value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => {}
        Value::String(text) => bytes(out, 1, text.as_bytes()),
        Value::Bool(is_true) => {
            tag(out, 2, VARINT);
            out.push(u8::from(*is_true));
        }
        Value::Int(number) => {
            tag(out, 3, VARINT);
            // As two's complement, which is what `int64` is on the wire.
            varint(out, *number as u64);
        }
        Value::Double(number) => {
            tag(out, 4, FIXED64);
            out.extend_from_slice(&number.to_le_bytes());
        }
        Value::Array(values) => message(out, 5, array_len(values), |out| {
            for value in values {
                message(out, 1, value_len(value), |out| self::value(out, value));
            }
        }),
        Value::Map(members) => message(out, 6, entries_len(members), |out| entries(out, 1, members)),
        Value::Bytes(binary) => bytes(out, 7, binary),
    }
}

fn value_len(value: &Value) -> usize {
    match value {
        Value::Null => 0,
        Value::String(text) => message_len(text.len()),
        Value::Bool(_) => 2,
        Value::Int(number) => 1 + varint_len(*number as u64),
        Value::Double(_) => 9,
        Value::Array(values) => message_len(array_len(values)),
        Value::Map(members) => message_len(entries_len(members)),
        Value::Bytes(binary) => message_len(binary.len()),
    }
}

fn array_len(values: &[Value]) -> usize {
    values.iter().map(|value| message_len(value_len(value))).sum()
}

/// `KeyValue`s in a field. A value that is nothing is said to be nothing.
fn entries(out: &mut Vec<u8>, field: u32, entries: &[(Text, Value)]) {
    for (name, value) in entries {
        message(out, field, entry_len(name, value), |out| {
            text(out, 1, name);
            message(out, 2, value_len(value), |out| self::value(out, value));
        });
    }
}

fn entries_len(entries: &[(Text, Value)]) -> usize {
    entries.iter().map(|(name, value)| message_len(entry_len(name, value))).sum()
}

fn entry_len(name: &str, value: &Value) -> usize {
    text_len(name) + message_len(value_len(value))
}

fn message(out: &mut Vec<u8>, field: u32, len: usize, write: impl FnOnce(&mut Vec<u8>)) {
    tag(out, field, BYTES);
    varint(out, len as u64);
    write(out);
}

/// How long a field of this content is; all fields up to 15 have a tag of one byte.
fn message_len(len: usize) -> usize {
    1 + varint_len(len as u64) + len
}

fn bytes(out: &mut Vec<u8>, field: u32, bytes: &[u8]) {
    message(out, field, bytes.len(), |out| out.extend_from_slice(bytes));
}

/// A text outside a `oneof`, which is left out where it is empty.
fn text(out: &mut Vec<u8>, field: u32, text: &str) {
    if !text.is_empty() {
        bytes(out, field, text.as_bytes());
    }
}

fn text_len(text: &str) -> usize {
    if text.is_empty() { 0 } else { message_len(text.len()) }
}

fn tag(out: &mut Vec<u8>, field: u32, wire_type: u32) {
    out.push((field << 3 | wire_type) as u8);
}

fn varint(out: &mut Vec<u8>, mut number: u64) {
    while number > 0x7f {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn varint_len(number: u64) -> usize {
    (64 - (number | 1).leading_zeros() as usize).div_ceil(7)
}

/// A field of an answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message, each with its number; `None` if it is no message.
pub(super) fn fields(mut message: &[u8]) -> Option<Vec<(u64, Field<'_>)>> {
    let mut fields = Vec::new();
    while !message.is_empty() {
        let tag = read_varint(&mut message)?;
        let field = match (tag & 7) as u32 {
            VARINT => Field::Number(read_varint(&mut message)?),
            FIXED64 => Field::Number(u64::from_le_bytes(take(&mut message, 8)?.try_into().ok()?)),
            FIXED32 => Field::Number(u32::from_le_bytes(take(&mut message, 4)?.try_into().ok()?).into()),
            BYTES => {
                let len = usize::try_from(read_varint(&mut message)?).ok()?;
                Field::Bytes(take(&mut message, len)?)
            }
            _ => return None,
        };
        fields.push((tag >> 3, field));
    }
    Some(fields)
}

/// The last field of this number that holds bytes.
pub(super) fn bytes_of<'a>(fields: &[(u64, Field<'a>)], number: u64) -> Option<&'a [u8]> {
    fields.iter().rev().find_map(|(at, field)| match field {
        Field::Bytes(bytes) if *at == number => Some(*bytes),
        _ => None,
    })
}

/// The last field of this number that holds a number, or 0.
pub(super) fn number_of(fields: &[(u64, Field<'_>)], number: u64) -> u64 {
    let found = fields.iter().rev().find_map(|(at, field)| match field {
        Field::Number(value) if *at == number => Some(*value),
        _ => None,
    });
    found.unwrap_or(0)
}

fn take<'a>(message: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, rest) = message.split_at_checked(len)?;
    *message = rest;
    Some(taken)
}

fn read_varint(message: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = message.split_first()?;
        *message = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}
