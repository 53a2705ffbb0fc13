//! JSON, written by hand: strings in runs, no tree in between.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use logship_core::{LogRecord, RecordId, Text, Unencodable, Value, find_json_escape};

/// Values nested deeper than this have no form: a destination would not read them, and writing them needs a stack as
/// deep.
pub(crate) const DEPTH_MAX: usize = 64;

pub(crate) fn too_deep() -> Unencodable {
    Unencodable { reason: format!("its values are nested deeper than {DEPTH_MAX}") }
}

/// Appends a quoted string, as JSON and Ion both read it.
pub(crate) fn string(out: &mut Vec<u8>, text: &str) {
    string_of(out, text.as_bytes());
}

/// The same of bytes that are known to be text.
pub(crate) fn string_of(out: &mut Vec<u8>, text: &[u8]) {
    out.reserve(text.len() + 2);
    out.push(b'"');
    escaped(out, text);
    out.push(b'"');
}

/// The same of a text, whose JSON may be at hand.
#[inline]
pub(crate) fn text(out: &mut Vec<u8>, text: &Text) {
    match text.as_json() {
        Some(json) => append(out, json),
        None => string(out, text),
    }
}

/// Appends the name of a further member of an object, with the comma before and the colon behind it.
#[inline]
pub(crate) fn further_name(out: &mut Vec<u8>, name: &Text) {
    match name.as_json_name() {
        Some(json) => append(out, json),
        None => {
            out.push(b',');
            string(out, name);
            out.push(b':');
        }
    }
}

/// Appends bytes. Few of them are copied by halves that overlap, which costs less than a call that finds out how many
/// there are.
#[inline]
pub(crate) fn append(out: &mut Vec<u8>, bytes: &[u8]) {
    match bytes.len() {
        8..16 => halves::<8>(out, bytes),
        16..=32 => halves::<16>(out, bytes),
        _ => out.extend_from_slice(bytes),
    }
}

#[inline(always)]
fn halves<const N: usize>(out: &mut Vec<u8>, bytes: &[u8]) {
    if let (Some(first), Some(last)) = (bytes.first_chunk::<N>(), bytes.last_chunk::<N>()) {
        let begin_of_last = out.len() + bytes.len() - N;
        out.extend_from_slice(first);
        out.truncate(begin_of_last);
        out.extend_from_slice(last);
    }
}

/// Appends a string that has nothing to escape.
#[inline]
pub(crate) fn plain(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    append(out, text.as_bytes());
    out.push(b'"');
}

/// Appends what stands between the quotes of a string.
fn escaped(out: &mut Vec<u8>, text: &[u8]) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut rest = text;
    while let Some(at) = find_json_escape(rest) {
        out.extend_from_slice(&rest[..at]);
        match rest[at] {
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            byte @ (b'"' | b'\\') => out.extend_from_slice(&[b'\\', byte]),
            byte => {
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
            }
        }
        rest = &rest[at + 1..];
    }
    append(out, rest);
}

/// Appends a number. JSON has no form for one that is not finite; a string keeps what was said.
pub(crate) fn double(out: &mut Vec<u8>, number: f64) {
    match number.is_finite() {
        true => out.extend_from_slice(ryu::Buffer::new().format_finite(number).as_bytes()),
        false => string(out, &number.to_string()),
    }
}

/// Appends a whole number.
pub(crate) fn int(out: &mut Vec<u8>, number: i64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Appends a value that stands inside `depth` others; bytes as base64.
pub(crate) fn value(out: &mut Vec<u8>, value: &Value, depth: usize) -> Result<(), Unencodable> {
    write::<false>(out, value, depth)
}

/// Appends an object; members that are null are left out.
pub(crate) fn entries(out: &mut Vec<u8>, entries: &[(Text, Value)], depth: usize) -> Result<(), Unencodable> {
    write_entries::<false>(out, entries, depth)
}

/// Appends a value's JSON as a string.
#[cfg(any(feature = "elasticsearch", feature = "opensearch", feature = "_fuzzing", test))]
pub(crate) fn value_as_string(out: &mut Vec<u8>, value: &Value) -> Result<(), Unencodable> {
    out.push(b'"');
    write::<true>(out, value, 0)?;
    out.push(b'"');
    Ok(())
}

/// Appends a value as it stands in a string that holds JSON.
#[cfg(any(feature = "loki", test))]
pub(crate) fn value_in_string(out: &mut Vec<u8>, value: &Value) -> Result<(), Unencodable> {
    write::<true>(out, value, 0)
}

/// The same of an object; members that are null are left out.
#[cfg(any(feature = "loki", test))]
pub(crate) fn entries_in_string(out: &mut Vec<u8>, entries: &[(Text, Value)]) -> Result<(), Unencodable> {
    write_entries::<true>(out, entries, 0)
}

/// The same of a string.
#[cfg(any(feature = "loki", test))]
pub(crate) fn string_in_string(out: &mut Vec<u8>, text: &str) {
    write_string::<true>(out, text);
}

/// Writes a value, as it is or as what stands in a string.
fn write<const IN_STRING: bool>(out: &mut Vec<u8>, value: &Value, depth: usize) -> Result<(), Unencodable> {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Int(number) => int(out, *number),
        Value::Double(number) if number.is_finite() => double(out, *number),
        Value::Double(number) => write_string::<IN_STRING>(out, &number.to_string()),
        Value::String(text) => write_text::<IN_STRING>(out, text),
        Value::Bytes(bytes) => write_string::<IN_STRING>(out, &BASE64.encode(bytes)),
        Value::Array(_) | Value::Map(_) if depth >= DEPTH_MAX => return Err(too_deep()),
        Value::Array(values) => {
            out.push(b'[');
            for (index, inner) in values.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write::<IN_STRING>(out, inner, depth + 1)?;
            }
            out.push(b']');
        }
        Value::Map(members) => write_entries::<IN_STRING>(out, members, depth + 1)?,
    }
    Ok(())
}

fn write_entries<const IN_STRING: bool>(
    out: &mut Vec<u8>,
    entries: &[(Text, Value)],
    depth: usize,
) -> Result<(), Unencodable> {
    let begin = out.len();
    for (name, inner) in entries.iter().filter(|(_, inner)| !matches!(inner, Value::Null)) {
        if IN_STRING {
            out.push(b',');
            write_text::<IN_STRING>(out, name);
            out.push(b':');
        } else {
            further_name(out, name);
        }
        match inner {
            // Most values are text, which is written here and not where all others are.
            Value::String(text) => write_text::<IN_STRING>(out, text),
            inner => write::<IN_STRING>(out, inner, depth)?,
        }
    }
    close_object(out, begin);
    Ok(())
}

/// Ends an object that begins here, in which each member was written as a further one: the first comma is its brace.
#[inline]
pub(crate) fn close_object(out: &mut Vec<u8>, begin: usize) {
    match out.get_mut(begin) {
        Some(comma) => *comma = b'{',
        None => out.push(b'{'),
    }
    out.push(b'}');
}

#[inline]
fn write_text<const IN_STRING: bool>(out: &mut Vec<u8>, text: &Text) {
    match text.as_json() {
        Some(json) if !IN_STRING => append(out, json),
        // Nothing in it is to be escaped but its quotes.
        Some(_) => plain_in_string(out, text),
        None => write_string::<IN_STRING>(out, text),
    }
}

fn write_string<const IN_STRING: bool>(out: &mut Vec<u8>, text: &str) {
    if !IN_STRING {
        return string(out, text);
    }
    if find_json_escape(text.as_bytes()).is_none() {
        return plain_in_string(out, text);
    }
    let mut once = Vec::with_capacity(text.len() + 16);
    string(&mut once, text);
    escaped(out, &once);
}

fn plain_in_string(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(b"\\\"");
    append(out, text.as_bytes());
    out.extend_from_slice(b"\\\"");
}

/// Appends bytes as lower-case hexadecimal digits, as trace and span ids are written everywhere.
pub(crate) fn hex(out: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        out.extend_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
}

/// Appends a record's id as a quoted string.
pub(crate) fn id(out: &mut Vec<u8>, id: &RecordId) {
    out.push(b'"');
    let begin = out.len();
    id.write(out);
    // An id is the text of its record's position, which may hold anything.
    if find_json_escape(&out[begin..]).is_some() {
        let id = out.split_off(begin);
        escaped(out, &id);
    }
    out.push(b'"');
}

/// Appends a record as an object with OpenTelemetry's names in camelCase, and its `id`.
pub(crate) fn record(out: &mut Vec<u8>, record: &LogRecord) -> Result<(), Unencodable> {
    out.extend_from_slice(b"{\"id\":");
    id(out, &record.id);
    out.extend_from_slice(b",\"timestamp\":\"");
    record.timestamp.write_rfc3339(out);
    if let Some(observed) = record.observed_timestamp {
        out.extend_from_slice(b"\",\"observedTimestamp\":\"");
        observed.write_rfc3339(out);
    }
    out.extend_from_slice(b"\",\"severityNumber\":");
    int(out, record.severity.number().into());
    out.extend_from_slice(b",\"severityText\":");
    string(out, record.severity_name());
    out.extend_from_slice(b",\"body\":");
    value(out, &record.body, 0)?;
    out.extend_from_slice(b",\"attributes\":");
    entries(out, &record.attributes, 0)?;
    out.extend_from_slice(b",\"resource\":");
    entries(out, &record.resource.attributes, 0)?;
    if let Some(scope) = &record.scope {
        out.extend_from_slice(b",\"scope\":");
        text(out, &scope.name);
    }
    let ids = [
        ("traceId", record.trace_id.as_ref().map(<[u8; 16]>::as_slice)),
        ("spanId", record.span_id.as_ref().map(<[u8; 8]>::as_slice)),
    ];
    for (name, bytes) in ids {
        let Some(bytes) = bytes else { continue };
        out.extend_from_slice(b",\"");
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"\":\"");
        hex(out, bytes);
        out.push(b'"');
    }
    out.push(b'}');
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use logship_core::{Cursor, Partition, RecordId, Severity, Timestamp};
    use proptest::prelude::*;

    fn json(write: impl FnOnce(&mut Vec<u8>)) -> serde_json::Value {
        let mut out = Vec::new();
        write(&mut out);
        serde_json::from_slice(&out).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&out)))
    }

    #[test]
    fn a_record_has_the_names_of_the_data_model() {
        let id = RecordId::new(Partition::new("logs"), Cursor::new(7, "k\"1".into()));
        let mut record = LogRecord::new(id, Timestamp::from_millis(1_795_163_400_123));
        record.severity = Severity::WARN;
        record.body =
            Value::Map(vec![("bytes".into(), Value::Bytes(vec![0, 255].into())), ("nan".into(), f64::NAN.into())]);
        record.attributes =
            vec![("absent".into(), Value::Null), ("list".into(), Value::Array(vec![Value::Null, 1.into()]))];
        record.trace_id = Some([0xab; 16]);
        record.span_id = Some([1; 8]);
        let expected = serde_json::json!({
            "id": "logs:00000000000000000007/k\"1", "timestamp": "2026-11-20T08:30:00.123000000Z",
            "severityNumber": 13, "severityText": "WARN", "body": {"bytes": "AP8=", "nan": "NaN"},
            "attributes": {"list": [null, 1]}, "resource": {},
            "traceId": "abababababababababababababababab", "spanId": "0101010101010101",
        });
        assert_eq!(json(|out| super::record(out, &record).unwrap()), expected);
    }

    #[test]
    fn what_is_too_deep_is_refused_and_what_is_not_is_written() {
        let nested = |depth| (0..depth).fold(Value::Null, |inner, _| Value::Array(vec![inner]));
        assert!(value(&mut Vec::new(), &nested(DEPTH_MAX), 0).is_ok());
        assert!(value(&mut Vec::new(), &nested(DEPTH_MAX + 1), 0).unwrap_err().reason.contains("64"));
        assert!(value(&mut Vec::new(), &nested(2_000), 0).is_err());
    }

    #[test]
    fn a_text_of_five_megabytes_is_written_whole() {
        let text = "é\n\"".repeat(1_250_000);
        assert_eq!(json(|out| string(out, &text)).as_str(), Some(text.as_str()));
    }

    proptest! {
        #[test]
        fn strings_read_back(text in "(\\PC|[\\x00-\\x1f\"\\\\]){0,40}") {
            prop_assert_eq!(json(|out| string(out, &text)), serde_json::Value::from(text));
        }

        #[cfg(any(feature = "elasticsearch", feature = "opensearch", feature = "_fuzzing"))]
        #[test]
        fn a_string_in_a_string_reads_back(text in "(\\PC|[\\x00-\\x1f\"\\\\]){0,40}") {
            let inner = Value::Map(vec![("k\"".into(), text.as_str().into()), ("n".into(), 1.into())]);
            let outer = json(|out| value_as_string(out, &inner).unwrap());
            let expected = json(|out| value(out, &inner, 0).unwrap());
            prop_assert_eq!(serde_json::from_str::<serde_json::Value>(outer.as_str().unwrap()).unwrap(), expected);
        }

        #[test]
        fn numbers_read_back(whole: i64, number: f64) {
            prop_assert_eq!(json(|out| int(out, whole)).as_i64(), Some(whole));
            let mut digits = Vec::new();
            double(&mut digits, number);
            let read = String::from_utf8(digits).unwrap().parse::<f64>();
            prop_assert!(read == Ok(number) || !number.is_finite());
            prop_assert_eq!(json(|out| double(out, number)).is_number(), number.is_finite());
        }
    }
}
