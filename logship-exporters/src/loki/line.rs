//! A record's JSON as a string: what [`json::record`] writes, with what a string escapes, in one go.

use logship_core::{LogRecord, Unencodable, find_json_escape};

use crate::encode::json;

/// A quote in a string.
const QUOTE: &[u8] = br#"\""#;

/// Appends the string, with its quotes.
pub(super) fn write(out: &mut Vec<u8>, record: &LogRecord) -> Result<(), Unencodable> {
    out.extend_from_slice(br#""{\"id\":"#);
    let begin = out.len();
    out.extend_from_slice(QUOTE);
    record.id.write(out);
    out.extend_from_slice(QUOTE);
    // An id is the text of its record's position, which may hold anything.
    if find_json_escape(&out[begin + QUOTE.len()..out.len() - QUOTE.len()]).is_some() {
        out.truncate(begin);
        json::string_in_string(out, &record.id.to_string());
    }
    out.extend_from_slice(br#",\"timestamp\":\""#);
    record.timestamp.write_rfc3339(out);
    if let Some(observed) = record.observed_timestamp {
        out.extend_from_slice(br#"\",\"observedTimestamp\":\""#);
        observed.write_rfc3339(out);
    }
    out.extend_from_slice(br#"\",\"severityNumber\":"#);
    json::int(out, record.severity.number().into());
    out.extend_from_slice(br#",\"severityText\":"#);
    json::string_in_string(out, record.severity_name());
    out.extend_from_slice(br#",\"body\":"#);
    json::value_in_string(out, &record.body)?;
    out.extend_from_slice(br#",\"attributes\":"#);
    json::entries_in_string(out, &record.attributes)?;
    out.extend_from_slice(br#",\"resource\":"#);
    json::entries_in_string(out, &record.resource.attributes)?;
    if let Some(scope) = &record.scope {
        out.extend_from_slice(br#",\"scope\":"#);
        json::string_in_string(out, &scope.name);
    }
    let ids = [
        (&br#",\"traceId\":\""#[..], record.trace_id.as_ref().map(<[u8; 16]>::as_slice)),
        (&br#",\"spanId\":\""#[..], record.span_id.as_ref().map(<[u8; 8]>::as_slice)),
    ];
    for (name, bytes) in ids {
        let Some(bytes) = bytes else { continue };
        out.extend_from_slice(name);
        json::hex(out, bytes);
        out.extend_from_slice(QUOTE);
    }
    out.extend_from_slice(b"}\"");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use logship_core::{Cursor, Partition, RecordId, Resource, Scope, Severity, Timestamp};
    use proptest::prelude::*;

    use super::*;
    use crate::encode::shape::tests::entries;

    proptest! {
        #[test]
        fn a_line_is_the_records_json_as_a_string(
            id in "(\\PC|[\n\"\\\\]){0,6}", body in entries("(\\PC|[\n\"\\\\]){0,3}"), own in entries("[a-c\"]"),
            scope in prop::option::of("(\\PC|[\n\"\\\\]){0,3}"), severity in 0u8..25, seen: Option<i64>,
            trace: Option<[u8; 16]>, span: Option<[u8; 8]>, is_text: bool,
        ) {
            let id = RecordId::new(Partition::new(&*id), Cursor::text(id.as_str().into()));
            let mut record = LogRecord::new(id, Timestamp::from_secs(1));
            record.observed_timestamp = seen.map(Timestamp::from_nanos);
            record.severity = Severity::from_number(severity).unwrap();
            record.severity_text = scope.as_deref().map(Into::into);
            record.body = if is_text { "say \"\\\n\"".into() } else { logship_core::Value::Map(body.clone()) };
            record.attributes = own;
            record.resource = Arc::new(Resource { attributes: body });
            record.scope = scope.map(|name| Arc::new(Scope { name: name.as_str().into(), ..Scope::default() }));
            (record.trace_id, record.span_id) = (trace, span);
            let (mut line, mut plain, mut expected) = (Vec::new(), Vec::new(), Vec::new());
            write(&mut line, &record).unwrap();
            json::record(&mut plain, &record).unwrap();
            json::string(&mut expected, str::from_utf8(&plain).unwrap());
            prop_assert_eq!(String::from_utf8(line), String::from_utf8(expected));
        }
    }
}
