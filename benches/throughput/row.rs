//! A line of the corpus as the reference loop has it: slices of what was read, in fields that are known when it is
//! compiled.

use std::borrow::Cow;

use logship::{LogRecord, Timestamp, Value};
use serde::Deserialize;

/// As it was read: most destinations get the text of a line copied, and some a number.
#[derive(Clone, Copy, Deserialize)]
#[serde(from = "&'a str")]
pub(crate) enum Time<'a> {
    Text(&'a str),
    Nanos(i64),
}

impl<'a> std::convert::From<&'a str> for Time<'a> {
    fn from(text: &'a str) -> Self {
        Time::Text(text)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Row<'a> {
    /// What stands before the number in its id, as JSON has it.
    #[serde(skip)]
    pub(crate) id_prefix: &'a str,
    #[serde(skip)]
    pub(crate) number: u64,
    /// Whether host and labels are attributes each by itself, as they are columns.
    #[serde(skip)]
    pub(crate) is_flat: bool,
    #[serde(borrow)]
    pub(crate) timestamp: Time<'a>,
    pub(crate) level: &'a str,
    #[serde(borrow)]
    pub(crate) message: Cow<'a, str>,
    pub(crate) tenant_id: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) flow_id: &'a str,
    pub(crate) execution_id: &'a str,
    pub(crate) task_id: &'a str,
    pub(crate) task_run_id: &'a str,
    pub(crate) attempt_number: i64,
    pub(crate) thread: &'a str,
    #[serde(borrow)]
    pub(crate) host: Host<'a>,
    #[serde(borrow)]
    pub(crate) labels: Labels<'a>,
    pub(crate) duration_ms: i64,
}

#[derive(Deserialize)]
pub(crate) struct Host<'a> {
    pub(crate) name: &'a str,
    pub(crate) zone: &'a str,
}

#[derive(Deserialize)]
pub(crate) struct Labels<'a> {
    pub(crate) team: &'a str,
    pub(crate) tier: &'a str,
    pub(crate) cost: &'a str,
    pub(crate) run: &'a str,
}

impl<'a> Row<'a> {
    /// The row that a record of the corpus was made of, by the places of its attributes.
    pub(crate) fn of(record: &'a LogRecord, id_prefix: &'a str) -> Self {
        let value = |at: usize| record.attributes.get(at).map_or(&Value::Null, |(_, value)| value);
        let text = |at: usize| value(at).as_str().unwrap_or_default();
        let int = |at: usize| if let Value::Int(number) = value(at) { *number } else { 0 };
        let inside = |at: usize, place: usize| match value(at) {
            Value::Map(entries) => entries.get(place).and_then(|(_, value)| value.as_str()).unwrap_or_default(),
            _ => "",
        };
        Row {
            id_prefix,
            number: record.id.position().as_number().cast_unsigned(),
            is_flat: false,
            timestamp: Time::Nanos(record.timestamp.as_nanos()),
            level: record.severity.name(),
            message: Cow::Borrowed(record.body.as_str().unwrap_or_default()),
            tenant_id: text(0),
            namespace: text(1),
            flow_id: text(2),
            execution_id: text(3),
            task_id: text(4),
            task_run_id: text(5),
            attempt_number: int(6),
            thread: text(7),
            host: Host { name: inside(8, 0), zone: inside(8, 1) },
            labels: Labels { team: inside(9, 0), tier: inside(9, 1), cost: inside(9, 2), run: inside(9, 3) },
            duration_ms: int(10),
        }
    }

    /// The time as a number.
    pub(crate) fn nanos(&self) -> i64 {
        match self.timestamp {
            Time::Text(text) => Timestamp::parse(text).map_or(0, Timestamp::as_nanos),
            Time::Nanos(nanos) => nanos,
        }
    }
}
