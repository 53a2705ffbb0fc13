//! Records that a destination refused for good, kept with its words.

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, LogRecord, Text, Timestamp, Value};

/// A record that a destination refused for good, and why.
///
/// A lane with a [dead letter](crate::Lane::dead_letter) hands these to an exporter of any kind, each as a record of
/// the same id and time whose body is the letter as one line of JSON. What kept them can be read with
/// [`DeadLetter::read_lines`], and shipped again once the cause is gone.
///
/// ```
/// use logship_core::DeadLetter;
///
/// let lines = r#"{"record":{"partition":"logs","position":"00000000000000000007","timestamp":"2026-11-20T08:30:00Z","severityNumber":9,"body":"hello","attributes":{},"resource":{}},"exporter":"search","chunk":"after-00000000000000000006","code":"document_parsing_exception","reason":"failed to parse field [at]","attempts":1,"time":"2026-11-20T08:30:01Z"}"#;
/// let letters = DeadLetter::read_lines(lines.as_bytes())?;
/// assert_eq!(letters[0].reason, "failed to parse field [at]");
/// assert_eq!(letters[0].record.body, "hello".into());
/// # Ok::<(), logship_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DeadLetter {
    /// The record, as the lane had it: after redaction.
    pub record: LogRecord,
    /// The lane whose destination refused it.
    pub exporter: String,
    /// Where the chunk began that it was sent in.
    pub chunk: String,
    /// The destination's code, short: a status, an error type.
    pub code: String,
    /// The destination's own words.
    pub reason: String,
    /// How often the chunk was sent; 0 for a record that was refused before sending, by the destination's limits.
    pub attempts: u32,
    /// When it was refused.
    pub time: Timestamp,
}

impl DeadLetter {
    /// Reads letters, one a line. Empty lines are passed over. A line may also be any JSON in which the letter stands as
    /// a text, which is how an exporter writes the record that carries it: a row of a file, a document of an index.
    ///
    /// # Errors
    /// [`ErrorKind::State`] with the number of the line that is not a letter.
    pub fn read_lines(lines: &[u8]) -> Result<Vec<Self>, Error> {
        let mut letters = Vec::new();
        for (index, line) in lines.split(|byte| *byte == b'\n').enumerate() {
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let carried = || find(&serde_json::from_slice(line).ok()?);
            let letter = match serde_json::from_slice(line) {
                Ok(letter) => Some(letter),
                Err(_) => carried(),
            };
            // What the parser would say may quote a record's text.
            let message = format!("line {} is no dead letter and holds none", index + 1);
            letters.push(letter.ok_or_else(|| Error::new(ErrorKind::State, "read dead letters", message))?);
        }
        Ok(letters)
    }

    /// The letter as a record that any exporter takes: what it is about says who and when, the body says all.
    pub(crate) fn into_record(self) -> Result<LogRecord, Error> {
        let body = serde_json::to_string(&self).map_err(|error| {
            Error::new(ErrorKind::Unexpected, "write a dead letter", "the record has no form").with_source(error)
        })?;
        let mut record = LogRecord::new(self.record.id.clone(), self.record.timestamp);
        record.severity = self.record.severity;
        record.body = body.into();
        record.resource = self.record.resource.clone();
        let attributes = [("exporter", self.exporter), ("code", self.code), ("reason", self.reason)];
        for (name, value) in attributes {
            record.attributes.push((Text::from(format!("logship.dead_letter.{name}")), Value::from(value)));
        }
        Ok(record)
    }
}

/// The letter that stands as a text somewhere in a value.
fn find(value: &serde_json::Value) -> Option<DeadLetter> {
    match value {
        serde_json::Value::String(text) if text.starts_with('{') => serde_json::from_str(text).ok(),
        serde_json::Value::Array(values) => values.iter().find_map(find),
        serde_json::Value::Object(fields) => fields.values().find_map(find),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Cursor, Partition, RecordId, Resource, Severity};
    use std::sync::Arc;

    #[test]
    fn p10_a_letter_reads_back_whole() {
        let id = RecordId::new(Partition::new("a:b"), Cursor::new(7, "k:1".into()));
        let mut record = LogRecord::new(id, Timestamp::from_millis(1_795_163_400_123));
        record.severity = Severity::WARN;
        record.severity_text = Some("WARNING".into());
        record.trace_id = Some([0xab; 16]);
        record.span_id = Some([1, 2, 3, 4, 5, 6, 7, 8]);
        record.resource = Arc::new(Resource { attributes: vec![("service.name".into(), "s".into())] });
        record.body = Value::Map(vec![
            ("bytes".into(), Value::Bytes(vec![0, 255, 10].into())),
            ("array".into(), Value::Array(vec![Value::Null, true.into(), (-1).into(), 0.5.into()])),
            ("inf".into(), f64::INFINITY.into()),
        ]);
        record.attributes = vec![("z".into(), "\"quoted\"\n".into()), ("a".into(), i64::MAX.into())];
        let letter = DeadLetter {
            record,
            exporter: "search".to_owned(),
            chunk: "from-the-first".to_owned(),
            code: "400".to_owned(),
            reason: "no".to_owned(),
            attempts: 2,
            time: Timestamp::from_secs(9),
        };
        let as_record = letter.clone().into_record().unwrap();
        assert_eq!(as_record.id, letter.record.id);
        let line = as_record.body.as_str().unwrap();
        assert!(!line.contains('\n'));
        assert_eq!(DeadLetter::read_lines(format!("{line}\n\n{line}").as_bytes()).unwrap(), [letter.clone(), letter]);
    }

    #[test]
    fn a_line_that_is_no_letter_is_named_and_not_quoted() {
        let error = DeadLetter::read_lines(b"\n{\"record\": \"hunter2\"}").unwrap_err().to_string();
        assert!(error.contains("line 2") && !error.contains("hunter2"), "{error}");
    }
}
