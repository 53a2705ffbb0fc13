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
        message::<RECORD_DIGITS>(out, 2, |out| write_record(out, record, &sayable));
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
            message::<1>(&mut resource, 1, |out| entries(out, 1, &attributes));
        }
        if let Some(of) = record.scope.as_deref() {
            message::<1>(&mut scope, 1, |out| write_scope(out, of));
        }
        let scope_logs = scope.len() + records_len;
        // `resource_logs` of the request, and in it `resource` and `scope_logs`.
        tag(out, 1, BYTES);
        varint(out, (resource.len() + field_len(scope_logs)) as u64);
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
        any_value(out, 5, &sayable.body);
    }
    if sayable.with_uid {
        let id_len = record.id.len();
        entry_head(out, 6, UID, field_len(id_len));
        tag(out, 1, BYTES);
        varint(out, id_len as u64);
        record.id.write(out);
    }
    entries(out, 6, &sayable.attributes);
    if let Some(id) = &record.trace_id {
        bytes(out, 9, id);
    }
    if let Some(id) = &record.span_id {
        bytes(out, 10, id);
    }
}

/// An `AnyValue` in a field.
fn any_value(out: &mut Vec<u8>, field: u32, value: &Value) {
    match plain_len(value) {
        Some(len) => {
            tag(out, field, BYTES);
            varint(out, len as u64);
            self::value(out, value);
        }
        None => message::<1>(out, field, |out| self::value(out, value)),
    }
}

/// How long an `AnyValue` is that holds no others.
fn plain_len(value: &Value) -> Option<usize> {
    Some(match value {
        Value::Null => 0,
        Value::Bool(_) => 2,
        Value::Int(number) => 1 + varint_len(*number as u64),
        Value::Double(_) => 9,
        Value::String(text) => field_len(text.as_str().len()),
        Value::Bytes(binary) => field_len(binary.len()),
        Value::Array(_) | Value::Map(_) => return None,
    })
}

/// The content of an `AnyValue`. One of its fields is set even where it is empty; nothing is none of them.
fn value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => {}
        Value::String(text) => bytes(out, 1, text.as_str().as_bytes()),
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
        Value::Array(values) => message::<1>(out, 5, |out| values.iter().for_each(|value| any_value(out, 1, value))),
        Value::Map(members) => message::<1>(out, 6, |out| entries(out, 1, members)),
        Value::Bytes(binary) => bytes(out, 7, binary),
    }
}

/// `KeyValue`s in a field. A value that is nothing is said to be nothing.
fn entries(out: &mut Vec<u8>, field: u32, entries: &[(Text, Value)]) {
    for (name, value) in entries {
        if let Value::String(value) = value
            && write_short(out, field, name, value)
        {
            continue;
        }
        match plain_len(value) {
            Some(len) => {
                entry_head(out, field, name, len);
                self::value(out, value);
            }
            None => message::<1>(out, field, |out| {
                text(out, 1, name);
                any_value(out, 2, value);
            }),
        }
    }
}

/// Writes the most usual entry, in which each length has one digit. False where it is none of these.
#[inline]
fn write_short(out: &mut Vec<u8>, field: u32, name: &str, text: &str) -> bool {
    const TAGS_AND_LENGTHS: usize = 6;
    if name.is_empty() || name.len() + text.len() + TAGS_AND_LENGTHS > 0x7f {
        return false;
    }
    let tag = |field: u32| (field << 3 | BYTES) as u8;
    let (name_len, text_len) = (name.len() as u8, text.len() as u8);
    out.extend_from_slice(&[tag(field), name_len + text_len + TAGS_AND_LENGTHS as u8, tag(1), name_len]);
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(&[tag(2), text_len + 2, tag(1), text_len]);
    out.extend_from_slice(text.as_bytes());
    true
}

/// What stands before a value of this length.
fn entry_head(out: &mut Vec<u8>, field: u32, name: &str, value_len: usize) {
    let name_len = if name.is_empty() { 0 } else { field_len(name.len()) };
    tag(out, field, BYTES);
    varint(out, (name_len + field_len(value_len)) as u64);
    text(out, 1, name);
    tag(out, 2, BYTES);
    varint(out, value_len as u64);
}

/// As many digits as the length of most records has: more than 127 bytes, and fewer than 16 384.
const RECORD_DIGITS: usize = 2;

/// A message in a field. Its length is known when it is written: there is room for a length of `DIGITS` digits before it,
/// and where that has others, the message is moved.
fn message<const DIGITS: usize>(out: &mut Vec<u8>, field: u32, write: impl FnOnce(&mut Vec<u8>)) {
    tag(out, field, BYTES);
    let begin = out.len();
    out.extend_from_slice(&[0; DIGITS]);
    write(out);
    let end = out.len();
    let len = (end - begin - DIGITS) as u64;
    let digits = varint_len(len);
    if digits != DIGITS {
        out.resize(end.max(begin + digits + len as usize), 0);
        out.copy_within(begin + DIGITS..end, begin + digits);
        out.truncate(begin + digits + len as usize);
    }
    let mut rest = len;
    for (place, byte) in out[begin..begin + digits].iter_mut().enumerate() {
        *byte = rest as u8 & 0x7f | if place + 1 < digits { 0x80 } else { 0 };
        rest >>= 7;
    }
}

/// How long a field of this content is; all fields up to 15 have a tag of one byte.
fn field_len(len: usize) -> usize {
    1 + varint_len(len as u64) + len
}

fn bytes(out: &mut Vec<u8>, field: u32, bytes: &[u8]) {
    tag(out, field, BYTES);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// A text outside a `oneof`, which is left out where it is empty.
fn text(out: &mut Vec<u8>, field: u32, text: &str) {
    if !text.is_empty() {
        bytes(out, field, text.as_bytes());
    }
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
