//! How records are written to files: JSON lines, and Ion text as Kestra writes it.

use logship_core::{Compression, Encoding, LogRecord, Text, Unencodable, Value};
use serde::{Deserialize, Serialize};

/// The form of a record in a file: one record a line, each line ended by a line feed. Read in any case (`ION`, `json`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Amazon Ion text (<https://amazon-ion.github.io/ion-docs/docs/spec.html>); what is null is written as `null`.
    #[default]
    #[serde(alias = "ION", alias = "Ion")]
    Ion,
    /// JSON; attributes that are null are left out.
    #[serde(alias = "JSON", alias = "ndjson", alias = "NDJSON")]
    Json,
}

impl Format {
    /// What a file of this form is called: `.ion` or `.json`.
    pub fn file_suffix(self) -> &'static str {
        match self {
            Format::Ion => ".ion",
            Format::Json => ".json",
        }
    }
}

/// Writes records as rows of a log file, with Kestra's names: `resource`, `timestampEpochNanos`, `severity`,
/// `attributes`, `bodyValue`; before them the record's `id` and its `timestamp` for people.
#[derive(Clone, Debug)]
pub struct Rows {
    format: Format,
    compression: Compression,
    key: String,
}

impl Rows {
    /// Rows of this form, packed so.
    pub fn new(format: Format, compression: Compression) -> Self {
        Rows { format, compression, key: format!("rows {format:?} {compression:?}") }
    }

    fn name(&self, out: &mut Vec<u8>, name: &str) {
        match self.format {
            Format::Ion if is_identifier(name) => out.extend_from_slice(name.as_bytes()),
            Format::Ion | Format::Json => string(out, name),
        }
        out.push(b':');
    }

    fn entries(&self, out: &mut Vec<u8>, entries: &[(Text, Value)]) {
        out.push(b'{');
        let mut first = true;
        for (name, value) in entries {
            if self.format == Format::Json && *value == Value::Null {
                continue;
            }
            if !std::mem::take(&mut first) {
                out.push(b',');
            }
            self.name(out, name);
            self.value(out, value);
        }
        out.push(b'}');
    }

    fn value(&self, out: &mut Vec<u8>, value: &Value) {
        match value {
            Value::Null => out.extend_from_slice(b"null"),
            Value::Bool(true) => out.extend_from_slice(b"true"),
            Value::Bool(false) => out.extend_from_slice(b"false"),
            Value::Int(number) => out.extend_from_slice(itoa::Buffer::new().format(*number).as_bytes()),
            Value::Double(number) => self.double(out, *number),
            Value::String(text) => string(out, text),
            Value::Bytes(bytes) => string(out, &bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()),
            Value::Array(values) => {
                out.push(b'[');
                for (index, value) in values.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    self.value(out, value);
                }
                out.push(b']');
            }
            Value::Map(entries) => self.entries(out, entries),
        }
    }

    fn double(&self, out: &mut Vec<u8>, number: f64) {
        let mut buffer = ryu::Buffer::new();
        let digits = match self.format {
            Format::Ion if number.is_nan() => "nan",
            Format::Ion if number.is_infinite() => {
                if number > 0.0 {
                    "+inf"
                } else {
                    "-inf"
                }
            }
            // JSON has no form for these; a string keeps what was said.
            Format::Json if !number.is_finite() => return string(out, &number.to_string()),
            _ => buffer.format_finite(number),
        };
        out.extend_from_slice(digits.as_bytes());
        if self.format == Format::Ion && number.is_finite() && !digits.contains('e') {
            // Without an exponent Ion reads a decimal.
            out.extend_from_slice(b"e0");
        }
    }
}

impl Encoding for Rows {
    fn key(&self) -> &str {
        &self.key
    }

    fn record(&self, record: &LogRecord, out: &mut Vec<u8>) -> Result<(), Unencodable> {
        out.push(b'{');
        self.name(out, "id");
        // An id is the text of its record's position, which may hold anything.
        let mut id = Vec::with_capacity(64);
        record.id.write(&mut id);
        string(out, &String::from_utf8_lossy(&id));
        out.push(b',');
        self.name(out, "timestamp");
        out.push(b'"');
        record.timestamp.write_rfc3339(out);
        out.extend_from_slice(b"\",");
        self.name(out, "timestampEpochNanos");
        out.extend_from_slice(itoa::Buffer::new().format(record.timestamp.as_nanos()).as_bytes());
        out.push(b',');
        self.name(out, "severity");
        string(out, record.severity_name());
        out.push(b',');
        self.name(out, "resource");
        self.entries(out, &record.resource.attributes);
        out.push(b',');
        self.name(out, "attributes");
        self.entries(out, &record.attributes);
        out.push(b',');
        self.name(out, "bodyValue");
        self.value(out, &record.body);
        out.extend_from_slice(b"}\n");
        Ok(())
    }

    fn compression(&self) -> Compression {
        self.compression
    }
}

/// Whether Ion takes a name without quotes.
fn is_identifier(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$';
    // A name such as `$10` would be taken for the number of a symbol.
    name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && name.bytes().all(plain)
        && !matches!(name, "null" | "true" | "false" | "nan")
}

/// Appends a quoted string, as JSON and Ion both read it. Clean runs are copied whole.
pub(crate) fn string(out: &mut Vec<u8>, text: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let bytes = text.as_bytes();
    let mut clean_from = 0;
    out.push(b'"');
    for (at, &byte) in bytes.iter().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&bytes[clean_from..at]);
        clean_from = at + 1;
        match byte {
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            _ => out.extend_from_slice(&[
                b'\\',
                b'u',
                b'0',
                b'0',
                HEX[usize::from(byte >> 4)],
                HEX[usize::from(byte & 15)],
            ]),
        }
    }
    out.extend_from_slice(&bytes[clean_from..]);
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use ion_rs::Element;
    use logship_core::{Cursor, Partition, RecordId, Severity, Timestamp};
    use proptest::prelude::*;

    fn record(body: Value, attributes: Vec<(Text, Value)>) -> LogRecord {
        let id = RecordId::new(Partition::new("logs"), Cursor::number(7));
        let mut record = LogRecord::new(id, Timestamp::from_millis(1_795_163_400_123));
        record.severity = Severity::INFO;
        record.body = body;
        record.attributes = attributes;
        record
    }

    fn row(format: Format, record: &LogRecord) -> String {
        let mut out = Vec::new();
        Rows::new(format, Compression::None).record(record, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn k21_rows_have_kestras_names() {
        let record = record(
            "say \"hi\"\n".into(),
            vec![("flowId".into(), "f".into()), ("thread".into(), Value::Null), ("a b".into(), 1.5.into())],
        );
        assert_eq!(
            row(Format::Ion, &record),
            "{id:\"logs:00000000000000000007\",timestamp:\"2026-11-20T08:30:00.123000000Z\",timestampEpochNanos:1795163400123000000,severity:\"INFO\",resource:{},attributes:{flowId:\"f\",thread:null,\"a b\":1.5e0},bodyValue:\"say \\\"hi\\\"\\n\"}\n"
        );
        assert!(row(Format::Json, &record).contains(r#""attributes":{"flowId":"f","a b":1.5},"#));
    }

    proptest! {
        #[test]
        fn other_readers_read_back_what_was_written(text in "\\PC*[\\x00-\\x1f]?\\PC*", name in ".{0,8}", number: i64, double: f64) {
            let record = record(text.as_str().into(), vec![
                (name.as_str().into(), number.into()), ("double".into(), double.into()), ("null".into(), true.into()),
            ]);
            let json: serde_json::Value = serde_json::from_str(&row(Format::Json, &record)).unwrap();
            prop_assert_eq!(json["bodyValue"].as_str(), Some(text.as_str()));
            let ion = Element::read_one(row(Format::Ion, &record)).unwrap();
            let ion = ion.as_struct().unwrap();
            prop_assert_eq!(ion.get("bodyValue").and_then(Element::as_string), Some(text.as_str()));
            let attributes = ion.get("attributes").and_then(Element::as_struct).unwrap();
            prop_assert_eq!(attributes.get("null").and_then(Element::as_bool), Some(true));
            prop_assert!(attributes.get_all(name.as_str()).any(|value| value.as_i64() == Some(number)));
            let read = attributes.get_all("double").find_map(Element::as_float).unwrap();
            prop_assert!(read == double || (read.is_nan() && double.is_nan()));
        }
    }
}
