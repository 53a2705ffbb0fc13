//! What the sources over SQL share: the mapping of a table, the query of a page, the record of a row.
//!
//! Pages follow the timestamp and then the id of a row (keyset pagination): no page is found by counting, and no
//! transaction stays open between pages. An index on the timestamp serves it; one on `(timestamp, id)` serves it best.

mod mapping;
mod statement;

use std::sync::Arc;

use logship_core::{
    Cursor, Error, ErrorKind, LogRecord, Page, PageEnd, PageLimits, Partition, Query, RecordId, Resource, Severity,
    Text, TextArena, Timestamp, Value,
};

pub use self::mapping::{IdType, TableMapping, TimestampFormat};
pub(crate) use self::statement::{Bind, Dialect, Statement};

/// A mapped table of one database.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub(crate) mapping: TableMapping,
    pub(crate) partition: Partition,
    pub(crate) format: TimestampFormat,
    resource: Arc<Resource>,
}

/// What a row says, in the order of the statement's columns.
pub(crate) struct Row<'r> {
    /// The timestamp as text, or as a number where the format is one.
    pub(crate) time: Time<'r>,
    pub(crate) id: &'r str,
    pub(crate) body: Value,
    pub(crate) severity: Value,
    pub(crate) attributes: Vec<Value>,
}

/// When a row happened.
pub(crate) enum Time<'r> {
    Text(&'r str),
    Number(i64),
}

impl Table {
    pub(crate) fn new(mapping: TableMapping, default_format: TimestampFormat) -> Self {
        let service = mapping.service_name.iter();
        let attributes = service.map(|name| ("service.name".into(), name.as_str().into())).collect();
        Table {
            partition: Partition::new(&mapping.table),
            format: mapping.timestamp_format.unwrap_or(default_format),
            resource: Arc::new(Resource { attributes }),
            mapping,
        }
    }

    pub(crate) fn fingerprint(&self) -> String {
        let mapping = &self.mapping;
        let only = mapping.only.as_ref().map_or(String::new(), |(column, value)| format!(" only {column} = {value}"));
        format!("table {} by {}, {}{only}", mapping.table, mapping.timestamp, mapping.id)
    }

    /// The record of a row.
    pub(crate) fn record(&self, row: Row<'_>, arena: &mut TextArena) -> Result<LogRecord, Error> {
        let key = match self.mapping.id_type {
            IdType::Text => row.id.to_owned(),
            // Twenty digits, so that text sorts as numbers do.
            IdType::Integer => format!("{:020}", row.id.parse::<u64>().map_err(|_| self.no_id(row.id))?),
        };
        let (position, parsed) = match row.time {
            Time::Text(time) => (Cursor::text(arena.push(&format!("{time}\t{key}"))), Timestamp::parse(time)),
            Time::Number(number) => {
                let nanos = number.checked_mul(self.format.unit().unwrap_or(1));
                (Cursor::new(number, arena.push(&key)), nanos.map(Timestamp::from_nanos))
            }
        };
        let mut record = LogRecord::new(RecordId::new(self.partition.clone(), position), parsed.unwrap_or_default());
        record.resource = Arc::clone(&self.resource);
        record.body = row.body;
        if let Value::String(level) = row.severity {
            record.severity = Severity::from_name(&level).unwrap_or_default();
            if record.severity.name() != level.as_str() {
                record.severity_text = Some(level);
            }
        }
        for ((name, _), value) in self.mapping.attributes.iter().zip(row.attributes) {
            if value != Value::Null {
                record.attributes.push((arena.push(name), value));
            }
        }
        if parsed.is_none() {
            // The record is shipped all the same, at the beginning of time, with what its row says.
            let raw = match row.time {
                Time::Text(time) => arena.push(time).into(),
                Time::Number(number) => Value::Int(number),
            };
            record.attributes.push((Text::from_static("logship.timestamp_raw"), raw));
        }
        Ok(record)
    }

    fn no_id(&self, id: &str) -> Error {
        let message = format!("`{id}` is no whole number from 0 on, and `id_type` is `integer`");
        Error::new(ErrorKind::State, "read a row", message).with("table", &self.mapping.table)
    }
}

/// Gathers rows into a page.
pub(crate) struct PageBuilder<'a> {
    query: &'a Query,
    limits: PageLimits,
    records: Vec<LogRecord>,
    rows: usize,
    bytes: usize,
    next: Option<Cursor>,
    end: PageEnd,
}

impl<'a> PageBuilder<'a> {
    pub(crate) fn new(query: &'a Query, limits: PageLimits) -> Self {
        let end = PageEnd::CaughtUp;
        PageBuilder { query, limits, records: Vec::new(), rows: 0, bytes: 0, next: None, end }
    }

    /// Adds a row's record. `false` if it has no room, and the page is full.
    pub(crate) fn push(&mut self, record: LogRecord) -> bool {
        let is_wanted = self.query.matches(&record);
        if is_wanted && !self.records.is_empty() && self.bytes + record.size() > self.limits.bytes_max {
            self.end = PageEnd::More;
            return false;
        }
        self.rows += 1;
        self.next = Some(record.id.position().clone());
        if is_wanted {
            self.bytes += record.size();
            self.records.push(record);
        }
        true
    }

    pub(crate) fn build(mut self, partition: Partition) -> Page {
        // As many rows as were asked for: there may be more.
        if self.rows >= self.limits.records_max {
            self.end = PageEnd::More;
        }
        Page::ending_at(partition, self.records, self.next, self.end)
    }
}
