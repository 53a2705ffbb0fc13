//! Records of any content, made of a fuzzer's bytes.

use std::sync::Arc;

use libfuzzer_sys::arbitrary::{Arbitrary, Result, Unstructured};
use logship::{Cursor, LogRecord, Partition, RecordId, Resource, Severity, Text, Timestamp, Value};

/// Values are nested a little deeper than encodings take.
const DEPTH_MAX: usize = 70;

fn value(bytes: &mut Unstructured<'_>, depth: usize) -> Result<Value> {
    Ok(match bytes.int_in_range(0..=8)? {
        1 => Value::Bool(bytes.arbitrary()?),
        2 => Value::Int(bytes.arbitrary()?),
        3 => Value::Double(bytes.arbitrary()?),
        4 => Value::Bytes(<Vec<u8>>::arbitrary(bytes)?.into()),
        5 if depth < DEPTH_MAX => {
            Value::Array((0..bytes.int_in_range(0..=3)?).map(|_| value(bytes, depth + 1)).collect::<Result<_>>()?)
        }
        6 if depth < DEPTH_MAX => Value::Map(entries(bytes, depth + 1)?),
        7 | 8 => Value::String(<&str>::arbitrary(bytes)?.into()),
        _ => Value::Null,
    })
}

fn entries(bytes: &mut Unstructured<'_>, depth: usize) -> Result<Vec<(Text, Value)>> {
    (0..bytes.int_in_range(0..=4)?).map(|_| Ok((<&str>::arbitrary(bytes)?.into(), value(bytes, depth)?))).collect()
}

/// A record of these bytes.
pub fn record(bytes: &mut Unstructured<'_>) -> Result<LogRecord> {
    let position = Cursor::new(bytes.arbitrary()?, <&str>::arbitrary(bytes)?.into());
    let id = RecordId::new(Partition::new(<&str>::arbitrary(bytes)?), position);
    let mut record = LogRecord::new(id, Timestamp::from_nanos(bytes.arbitrary()?));
    record.severity = Severity::from_number(bytes.int_in_range(1..=24)?).unwrap_or_default();
    record.severity_text = <Option<&str>>::arbitrary(bytes)?.map(Text::from);
    record.body = value(bytes, 0)?;
    record.attributes = entries(bytes, 0)?;
    record.resource = Arc::new(Resource { attributes: entries(bytes, 0)? });
    record.trace_id = bytes.arbitrary()?;
    record.span_id = bytes.arbitrary()?;
    record.observed_timestamp = bytes.arbitrary::<Option<i64>>()?.map(Timestamp::from_nanos);
    Ok(record)
}
