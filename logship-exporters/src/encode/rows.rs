//! Rows of a log file, with Kestra's names.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use logship_core::{Compression, Encoding, LogRecord, Text, Unencodable, Value};
use serde::{Deserialize, Serialize};

use super::json::{self, DEPTH_MAX, string, too_deep};

/// The form of a record in a file: one record a line, each line ended by a line feed. Read in any case (`ION`, `json`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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

    fn entries(&self, out: &mut Vec<u8>, entries: &[(Text, Value)], depth: usize) -> Result<(), Unencodable> {
        match self.format {
            Format::Json => json::entries(out, entries, depth),
            Format::Ion => ion_entries(out, entries, depth),
        }
    }

    fn value(&self, out: &mut Vec<u8>, value: &Value) -> Result<(), Unencodable> {
        match self.format {
            Format::Json => json::value(out, value, 0),
            Format::Ion => ion_value(out, value, 0),
        }
    }

    /// Appends what stands between two members, and the name of the next one.
    fn name(&self, out: &mut Vec<u8>, name: &'static str) {
        match self.format {
            Format::Ion => out.extend_from_slice(name.as_bytes()),
            Format::Json => {
                out.push(b'"');
                out.extend_from_slice(name.as_bytes());
                out.push(b'"');
            }
        }
        out.push(b':');
    }
}

fn ion_entries(out: &mut Vec<u8>, entries: &[(Text, Value)], depth: usize) -> Result<(), Unencodable> {
    out.push(b'{');
    for (index, (name, value)) in entries.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        let text = name.as_str();
        match is_identifier(text) {
            true => out.extend_from_slice(text.as_bytes()),
            false => string(out, text),
        }
        out.push(b':');
        match value {
            // Most values are text, which is written here and not where all others are.
            Value::String(text) => json::text(out, text),
            value => ion_value(out, value, depth)?,
        }
    }
    out.push(b'}');
    Ok(())
}

fn ion_value(out: &mut Vec<u8>, value: &Value, depth: usize) -> Result<(), Unencodable> {
    match value {
        Value::Double(number) => ion_double(out, *number),
        Value::Bytes(bytes) => {
            out.extend_from_slice(b"{{");
            out.extend_from_slice(BASE64.encode(bytes).as_bytes());
            out.extend_from_slice(b"}}");
        }
        Value::Array(_) | Value::Map(_) if depth >= DEPTH_MAX => return Err(too_deep()),
        Value::Array(values) => {
            out.push(b'[');
            for (index, inner) in values.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                ion_value(out, inner, depth + 1)?;
            }
            out.push(b']');
        }
        Value::Map(entries) => ion_entries(out, entries, depth + 1)?,
        // These are the same in both.
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::String(_) => json::value(out, value, depth)?,
    }
    Ok(())
}

fn ion_double(out: &mut Vec<u8>, number: f64) {
    let mut buffer = ryu::Buffer::new();
    let digits = match number {
        _ if number.is_nan() => "nan",
        f64::INFINITY => "+inf",
        f64::NEG_INFINITY => "-inf",
        _ => buffer.format_finite(number),
    };
    out.extend_from_slice(digits.as_bytes());
    if number.is_finite() && !digits.contains('e') {
        // Without an exponent Ion reads a decimal.
        out.extend_from_slice(b"e0");
    }
}

impl Encoding for Rows {
    fn key(&self) -> &str {
        &self.key
    }

    fn record(&self, record: &LogRecord, out: &mut Vec<u8>) -> Result<(), Unencodable> {
        out.push(b'{');
        self.name(out, "id");
        json::id(out, &record.id);
        out.push(b',');
        self.name(out, "timestamp");
        out.push(b'"');
        record.timestamp.write_rfc3339(out);
        out.extend_from_slice(b"\",");
        self.name(out, "timestampEpochNanos");
        json::int(out, record.timestamp.as_nanos());
        out.push(b',');
        self.name(out, "severity");
        string(out, record.severity_name());
        out.push(b',');
        self.name(out, "resource");
        self.entries(out, &record.resource.attributes, 0)?;
        out.push(b',');
        self.name(out, "attributes");
        self.entries(out, &record.attributes, 0)?;
        out.push(b',');
        self.name(out, "bodyValue");
        self.value(out, &record.body)?;
        out.extend_from_slice(b"}\n");
        Ok(())
    }

    fn compression(&self) -> Compression {
        self.compression
    }
}

/// Whether Ion takes a name without quotes.
fn is_identifier(name: &str) -> bool {
    // Looked up, as there is a name before each value.
    const PLAIN: [bool; 256] = {
        let mut plain = [false; 256];
        let mut byte = 0;
        while byte < 256 {
            plain[byte] = (byte as u8).is_ascii_alphanumeric() || matches!(byte as u8, b'_' | b'$');
            byte += 1;
        }
        plain
    };
    // A name such as `$10` would be taken for the number of a symbol.
    matches!(name.as_bytes(), [b'a'..=b'z' | b'A'..=b'Z' | b'_', ..])
        && name.bytes().all(|byte| PLAIN[usize::from(byte)])
        && !matches!(name, "null" | "true" | "false" | "nan")
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

    #[test]
    fn what_is_too_deep_is_refused_in_both_forms() {
        let nested = |depth| (0..depth).fold(Value::Null, |inner, _| Value::Map(vec![("a".into(), inner)]));
        for format in [Format::Ion, Format::Json] {
            let rows = Rows::new(format, Compression::None);
            assert!(rows.record(&record(nested(DEPTH_MAX), vec![]), &mut Vec::new()).is_ok());
            assert!(rows.record(&record(nested(DEPTH_MAX + 1), vec![]), &mut Vec::new()).is_err());
        }
    }

    proptest! {
        #[test]
        fn other_readers_read_back_what_was_written(text in "\\PC*[\\x00-\\x1f]?\\PC*", name in ".{0,8}", number: i64, double: f64) {
            let record = record(text.as_str().into(), vec![
                (name.as_str().into(), number.into()), ("double".into(), double.into()), ("null".into(), true.into()),
                ("blob".into(), Value::Bytes(text.as_bytes().to_vec().into())),
            ]);
            let json: serde_json::Value = serde_json::from_str(&row(Format::Json, &record)).unwrap();
            prop_assert_eq!(json["bodyValue"].as_str(), Some(text.as_str()));
            let ion = Element::read_one(row(Format::Ion, &record)).unwrap();
            let ion = ion.as_struct().unwrap();
            prop_assert_eq!(ion.get("bodyValue").and_then(Element::as_string), Some(text.as_str()));
            let attributes = ion.get("attributes").and_then(Element::as_struct).unwrap();
            prop_assert_eq!(attributes.get("null").and_then(Element::as_bool), Some(true));
            prop_assert!(attributes.get_all(name.as_str()).any(|value| value.as_i64() == Some(number)));
            let blob = attributes.get("blob").and_then(Element::as_blob).map(<[u8]>::to_vec);
            prop_assert_eq!(blob.as_deref(), Some(text.as_bytes()));
            let read = attributes.get_all("double").find_map(Element::as_float).unwrap();
            prop_assert!(read == double || (read.is_nan() && double.is_nan()));
        }
    }
}
