//! Rows into records, and records into pages.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use logship_core::{
    Cursor, Error, ErrorKind, LogRecord, Page, PageEnd, PageLimits, Query, RecordId, Start, Text, TextArena, Timestamp,
    Value,
};

use super::json::JsonReader;
use super::layout::{Column, Kind, Layout};
use super::position::{self, Times};
use super::statement::Dialect;
use super::{IdFormat, JsonColumn};

/// Why a value could not be read.
pub(crate) type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Makes records of rows, whose values it asks for by their index in [`Layout::selected`].
#[derive(Debug)]
pub(crate) struct RowReader<'a> {
    layout: &'a Layout,
    times: Times,
    arena: TextArena,
    json: JsonReader,
    /// The text of a position while it is put together.
    text: String,
}

impl<'a> RowReader<'a> {
    pub(crate) fn new(dialect: Dialect, layout: &'a Layout) -> Self {
        let times = dialect.times(layout.mapping.timestamp_format);
        RowReader { layout, times, arena: TextArena::new(), json: JsonReader::default(), text: String::new() }
    }

    /// A time that is not of a record.
    pub(crate) fn value(&mut self, value: impl FnOnce(&mut TextArena) -> Result<Value, Cause>) -> Result<Value, Error> {
        value(&mut self.arena).map_err(|cause| unreadable(self.layout, &self.layout.timestamp, cause))
    }

    /// The record of a row.
    pub(crate) fn record(
        &mut self,
        mut value: impl FnMut(usize, &Column, &mut TextArena) -> Result<Value, Cause>,
    ) -> Result<LogRecord, Error> {
        let layout = self.layout;
        let mut columns = layout.selected().enumerate();
        let mut next = |arena: &mut TextArena| match columns.next() {
            Some((index, column)) => value(index, column, arena).map_err(|cause| unreadable(layout, column, cause)),
            None => Ok(Value::Null),
        };
        let (time, id) = (next(&mut self.arena)?, next(&mut self.arena)?);
        let (position, timestamp) = self.position(&time, &id)?;
        let id = RecordId::new(layout.partition.clone(), position);
        let mut record = LogRecord::new(id, timestamp.unwrap_or_default());
        record.resource = Arc::clone(&layout.resource);
        if layout.body.is_some() {
            record.body = next(&mut self.arena)?;
        }
        if layout.severity.is_some() {
            match next(&mut self.arena)? {
                Value::String(level) => {
                    record.severity = level.parse().unwrap_or_default();
                    if record.severity.name() != level.as_str() {
                        record.severity_text = Some(level);
                    }
                }
                // A number has no meaning that everybody shares.
                Value::Int(number) => record.severity_text = Some(self.arena.push(&number.to_string())),
                _ => {}
            }
        }
        record.attributes.reserve(layout.attributes.len());
        for (name, column) in &layout.attributes {
            match next(&mut self.arena)? {
                Value::Null => {}
                Value::String(text) if column.kind == Kind::Json => {
                    match self.json.read(&text, &mut self.arena).unwrap_or(Value::String(text)) {
                        Value::Null => {}
                        value => record.attributes.push((name.clone(), value)),
                    }
                }
                value => record.attributes.push((name.clone(), value)),
            }
        }
        if let (Some(mapping), Some(column)) = (&layout.mapping.json, &layout.json)
            && let Value::String(text) = next(&mut self.arena)?
        {
            self.take_json(&mut record, mapping, column, text);
        }
        if timestamp.is_none() {
            // The record is shipped all the same, at the beginning of time, with what its row says.
            record.attributes.push((Text::from_static("logship.timestamp_raw"), time));
        }
        Ok(record)
    }

    /// Where a row is, and when it happened, if its text is a time.
    fn position(&mut self, time: &Value, id: &Value) -> Result<(Cursor, Option<Timestamp>), Error> {
        let layout = self.layout;
        self.text.clear();
        let (number, timestamp) = match (self.times, time) {
            (Times::Text, Value::String(time)) => {
                self.text.push_str(time);
                self.text.push('\t');
                (0, time.parse().ok())
            }
            (Times::Unix(_) | Times::Micros, Value::Int(number)) => (*number, Some(self.times.timestamp(*number))),
            _ => return Err(unreadable(layout, &layout.timestamp, "it holds no time of this format".into())),
        };
        match (layout.mapping.id_format, id) {
            (IdFormat::Text, Value::String(id)) => self.text.push_str(id),
            (IdFormat::Integer, Value::Int(id)) => position::write_integer((*id).into(), &mut self.text),
            // Above the whole numbers of a record there are the unsigned ones, which come as their digits.
            (IdFormat::Integer, Value::String(digits)) => match digits.parse::<u64>() {
                Ok(id) => position::write_integer(id.into(), &mut self.text),
                Err(error) => return Err(unreadable(layout, &layout.id, error.into())),
            },
            _ => return Err(unreadable(layout, &layout.id, "it holds no id of this format".into())),
        }
        Ok((Cursor::new(number, self.arena.push(&self.text)), timestamp))
    }

    fn take_json(&mut self, record: &mut LogRecord, mapping: &JsonColumn, column: &Column, text: Text) {
        let entries = match self.json.read(&text, &mut self.arena) {
            Some(Value::Map(entries)) => entries,
            Some(Value::Null) => return,
            _ => {
                record.attributes.push((self.arena.push(&column.name), Value::String(text)));
                return;
            }
        };
        for (name, path) in &mapping.attributes {
            if record.attribute(name).is_none()
                && let Some(value) = at_path(&entries, path)
            {
                record.attributes.push((self.arena.push(name), value.clone()));
            }
        }
        for (key, value) in entries {
            let is_named = |name: &String| *name == *key;
            if mapping.body.as_ref().is_some_and(is_named) {
                record.body = value;
            } else if value != Value::Null
                && !mapping.skip.iter().any(is_named)
                && !self.layout.mapping.attributes.iter().any(|(name, _)| *name == *key)
                && !mapping.attributes.iter().any(|(name, _)| *name == *key)
            {
                let stays_text = mapping.text.iter().any(is_named) && value.as_str().is_none();
                let text = stays_text.then(|| serde_json::to_string(&value).ok()).flatten();
                let value = text.map_or(value, |text| Value::String(self.arena.push(&text)));
                record.attributes.push((key, value));
            }
        }
    }
}

/// What stands in an object under these keys, one inside the other.
fn at_path<'v>(entries: &'v [(Text, Value)], path: &str) -> Option<&'v Value> {
    let (key, rest) = path.split_once('.').map_or((path, None), |(key, rest)| (key, Some(rest)));
    match (entries.iter().find(|(name, _)| name.as_str() == key), rest) {
        (Some((_, Value::Map(inner))), Some(rest)) => at_path(inner, rest),
        (Some((_, value)), None) => Some(value).filter(|value| **value != Value::Null),
        _ => None,
    }
}

fn unreadable(layout: &Layout, column: &Column, cause: Cause) -> Error {
    let message = format!("a row of `{}` cannot be read: its column `{}`", layout.mapping.table, column.name);
    Error::new(ErrorKind::State, "read the log table", message).with_source(cause)
}

/// Collects the records of a page until it is full.
#[derive(Debug)]
pub(crate) struct PageBuilder<'a> {
    query: &'a Query,
    limits: PageLimits,
    not_before: Option<Timestamp>,
    records: Vec<LogRecord>,
    bytes: usize,
    rows: usize,
    row_bytes: usize,
    /// The position of the row before.
    last: Option<Cursor>,
    is_full: bool,
    /// Rows follow that are to wait.
    waits: bool,
}

impl<'a> PageBuilder<'a> {
    pub(crate) fn new(start: &Start, query: &'a Query, limits: PageLimits) -> Self {
        let (not_before, last) = match start {
            Start::Earliest => (None, None),
            Start::At(time) => (Some(*time), None),
            Start::After(cursor) => (None, Some(cursor.clone())),
        };
        PageBuilder {
            query,
            limits,
            not_before,
            records: Vec::new(),
            bytes: 0,
            rows: 0,
            row_bytes: 0,
            last,
            is_full: false,
            waits: false,
        }
    }

    /// Takes the next row, and says whether there is room for another.
    ///
    /// # Errors
    /// [`ErrorKind::State`] if the row is not behind the one before: the database orders rows otherwise than their
    /// positions are ordered, and going on would lose some.
    pub(crate) fn push(&mut self, record: LogRecord) -> Result<bool, Error> {
        let position = record.id.position();
        if self.last.as_ref().is_some_and(|last| last >= position) {
            let message = format!(
                "the database gave the row {position} after the row {}: are `timestamp_format` and `id_format` right, and is the id unique?",
                self.last.clone().unwrap_or_default()
            );
            return Err(Error::new(ErrorKind::State, "read the log table", message));
        }
        if self.is_to_wait(&record) {
            self.waits = true;
            return Ok(false);
        }
        // A time that could not be read is no reason to leave a record out.
        let is_too_early = self
            .not_before
            .is_some_and(|time| record.timestamp < time && record.attribute("logship.timestamp_raw").is_none());
        let is_wanted = !is_too_early && self.query.matches(&record);
        let size = record.size();
        if is_wanted && !self.records.is_empty() && self.bytes + size > self.limits.bytes_max {
            self.is_full = true;
            return Ok(false);
        }
        self.rows += 1;
        self.row_bytes += size;
        self.last = Some(position.clone());
        if is_wanted {
            self.bytes += size;
            self.records.push(record);
        }
        Ok(true)
    }

    /// Whether a row, and with it all that follow it in the order of time, is not to be given yet.
    fn is_to_wait(&self, record: &LogRecord) -> bool {
        let Some(until) = self.limits.until else { return false };
        match record.attribute("logship.timestamp_raw") {
            None => record.timestamp >= until,
            // A text that is no time has its place among the others all the same; behind today's it would take the
            // cursor with it.
            Some(raw) => raw.as_str().is_some_and(|raw| raw > &until.to_string()[..10]),
        }
    }

    /// Whether rows follow that are to wait.
    pub(crate) fn waits(&self) -> bool {
        self.waits
    }

    /// How many rows were taken.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// The page, when `asked` rows were asked for.
    pub(crate) fn finish(self, layout: &Layout, asked: usize, sizes: &RowSizes) -> Page {
        sizes.saw(self.rows, self.row_bytes);
        let is_last = !self.is_full && (self.waits || self.rows < asked);
        let end = if is_last { PageEnd::CaughtUp } else { PageEnd::More };
        let next = self.last.filter(|_| self.rows > 0);
        Page::ending_at(layout.partition.clone(), self.records, next, end)
    }
}

/// How large rows have been, so that a page asks for hardly more of them than fit.
#[derive(Debug, Default)]
pub(crate) struct RowSizes(AtomicUsize);

impl RowSizes {
    /// How many rows to ask for.
    pub(crate) fn rows(&self, limits: PageLimits) -> usize {
        match self.0.load(Ordering::Relaxed) {
            0 => limits.records_max.max(1),
            // A quarter more, as the next rows may be smaller.
            size => (limits.bytes_max / size).saturating_mul(5) / 4 + 16,
        }
        .min(limits.records_max)
        .max(1)
    }

    fn saw(&self, rows: usize, bytes: usize) {
        if let Some(size) = bytes.checked_div(rows) {
            self.0.store(size, Ordering::Relaxed);
        }
    }
}
