//! Records as rows of a stream of Azure Monitor.

use logship_core::{LogRecord, Timestamp, Unencodable};

use super::array::Element;
use super::json;
use super::object::{self, Object};

/// Bytes of a column: 64 KB. What is behind would be cut off, so such a record is refused.
/// <https://learn.microsoft.com/azure/azure-monitor/fundamentals/service-limits#logs-ingestion-api>
pub(crate) const COLUMN_BYTES_MAX: usize = 64_000;

/// The end of a time that has nine digits of a second: Azure's have seven.
/// <https://learn.microsoft.com/kusto/query/scalar-data-types/datetime>
const BEHIND_TICKS: usize = "89Z".len();

/// A row, with columns of Azure's names.
#[derive(Debug)]
pub(crate) struct Row;

impl Element for Row {
    fn write(&self, record: &LogRecord, out: &mut Vec<u8>) -> Result<(), Unencodable> {
        let mut row = Object::open(out);
        time(row.name("TimeGenerated"), record.timestamp);
        time(row.name("Timestamp"), record.timestamp);
        if let Some(observed) = record.observed_timestamp {
            time(row.name("ObservedTimestamp"), observed);
        }
        json::id(row.name("RecordId"), &record.id);
        row.str("Severity", record.severity_name());
        row.int("SeverityNumber", record.severity.number().into());
        bounded(row.name("Message"), |out| object::text_of(out, &record.body))?;
        if let Some(scope) = record.scope.as_ref().filter(|scope| !scope.name.is_empty()) {
            bounded(row.name("Logger"), |out| {
                json::text(out, &scope.name);
                Ok(())
            })?;
        }
        row.hex("TraceId", record.trace_id.as_ref().map(<[u8; 16]>::as_slice));
        row.hex("SpanId", record.span_id.as_ref().map(<[u8; 8]>::as_slice));
        bounded(row.name("Attributes"), |out| object::members(out, &record.attributes))?;
        bounded(row.name("Resource"), |out| object::members(out, &record.resource.attributes))?;
        row.close();
        Ok(())
    }
}

fn time(out: &mut Vec<u8>, time: Timestamp) {
    out.push(b'"');
    time.write_rfc3339(out);
    out.truncate(out.len() - BEHIND_TICKS);
    out.extend_from_slice(b"Z\"");
}

/// Appends a column that may not be longer than Azure keeps.
fn bounded(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>) -> Result<(), Unencodable>) -> Result<(), Unencodable> {
    object::bounded(out, COLUMN_BYTES_MAX, "Azure Monitor", write)
}

#[cfg(test)]
mod tests {
    use super::*;
    use logship_core::{Cursor, Partition, RecordId, Severity, Text, Value};
    use proptest::prelude::*;
    use serde_json::json;

    fn record() -> LogRecord {
        let id = RecordId::new(Partition::new("logs"), Cursor::number(7));
        let mut record = LogRecord::new(id, Timestamp::from_nanos(1_795_163_400_123_456_789));
        record.body = "card declined".into();
        record
    }

    fn row(record: &LogRecord) -> serde_json::Value {
        let mut out = Vec::new();
        Row.write(record, &mut out).unwrap();
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn a_record_is_a_row_with_columns_of_one_type_each() {
        let mut record = record();
        record.severity = Severity::WARN;
        record.attributes =
            vec![("flow".into(), "pay".into()), ("flow".into(), "again".into()), ("big".into(), i64::MIN.into())];
        record.trace_id = Some([0xab; 16]);
        record.span_id = Some([1; 8]);
        let expected = json!({
            "TimeGenerated": "2026-11-20T08:30:00.1234567Z", "Timestamp": "2026-11-20T08:30:00.1234567Z",
            "RecordId": "logs:00000000000000000007", "Severity": "WARN", "SeverityNumber": 13,
            "Message": "card declined", "TraceId": "abababababababababababababababab",
            "SpanId": "0101010101010101", "Attributes": {"flow": "pay", "big": "-9223372036854775808"},
            "Resource": {},
        });
        assert_eq!(row(&record), expected);
        // A column of text is one also where the body is none.
        record.body = Value::Map(vec![("a".into(), 1.into())]);
        assert_eq!(row(&record)["Message"], json!("{\"a\":1}"));
    }

    #[test]
    fn a_column_that_would_be_cut_off_has_no_form() {
        let is_written = |record: &LogRecord| Row.write(record, &mut Vec::new()).is_ok();
        for (past, expected) in [(0, true), (1, false)] {
            let mut record = record();
            record.body = "x".repeat(COLUMN_BYTES_MAX - 2 + past).into();
            assert_eq!(is_written(&record), expected);
            record.body = "x".into();
            record.attributes = vec![("a".into(), "x".repeat(COLUMN_BYTES_MAX - r#"{"a":""}"#.len() + past).into())];
            assert_eq!(is_written(&record), expected);
        }
    }

    proptest! {
        /// Goal: whatever a record holds, all of it is in its row.
        #[test]
        fn a_row_reads_back(
            text in "(\\PC|[\\x00-\\x1f\"\\\\]){0,40}",
            names in prop::collection::vec("(Message|a|\\PC{0,3})", 0..40),
            number: i64,
        ) {
            let mut record = record();
            record.body = text.as_str().into();
            record.attributes = names.iter().map(|name| (Text::from(name.as_str()), Value::from(number))).collect();
            let row = row(&record);
            prop_assert_eq!(row["Message"].as_str(), Some(text.as_str()));
            for name in &names {
                prop_assert!(row["Attributes"].get(name).is_some(), "{:?} is gone", name);
            }
        }
    }
}
