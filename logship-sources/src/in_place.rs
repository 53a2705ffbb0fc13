//! How a record is filled in the place of the one before, whatever was done to that one.

use std::sync::Arc;

use logship_core::{LogRecord, Resource, Severity, Text, Timestamp, Value};

/// Leaves nothing of a record but its id and what will be written over: the body and the attributes.
pub(crate) fn renew(record: &mut LogRecord, resource: &Arc<Resource>) {
    record.timestamp = Timestamp::default();
    record.observed_timestamp = None;
    record.severity = Severity::UNSPECIFIED;
    record.severity_text = None;
    if !Arc::ptr_eq(&record.resource, resource) {
        record.resource = Arc::clone(resource);
    }
    record.scope = None;
    record.trace_id = None;
    record.span_id = None;
}

/// The entry at this place, which may be the first behind those there are.
#[inline]
pub(crate) fn entry(entries: &mut Vec<(Text, Value)>, place: usize) -> &mut (Text, Value) {
    if place >= entries.len() {
        entries.push(Default::default());
    }
    &mut entries[place]
}

/// Gives an entry its name, which it mostly has.
#[inline]
pub(crate) fn rename(entry: &mut Text, name: &Text) {
    if !entry.is_same(name) {
        *entry = name.clone();
    }
}

/// Makes a value the text that `set` says, in the room of the text it was.
#[inline]
pub(crate) fn set_text(value: &mut Value, set: impl FnOnce(&mut Text)) {
    if let Value::String(text) = value {
        return set(text);
    }
    let mut text = Text::new();
    set(&mut text);
    *value = Value::String(text);
}
