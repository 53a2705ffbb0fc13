//! Rows into pages.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use logship_core::{
    Cursor, Error, ErrorKind, LogRecord, Page, PageEnd, PageLimits, Query, Start, Text, Timestamp, Value,
};

use super::IdFormat;
use super::layout::{Column, Kind, Layout};
use super::position::{self, Times};
use super::rows::{Cell, Contents, Row, Rows};
use super::statement::{Bind, Dialect};

/// Why a value could not be read.
pub(crate) type Cause = Box<dyn std::error::Error + Send + Sync>;

/// About so many times the bytes of its text a value of JSON has in memory.
const JSON_BYTES_PER_BYTE: usize = 4;

/// Collects the rows of a page until it is full.
#[derive(Debug)]
pub(crate) struct PageBuilder {
    layout: Arc<Layout>,
    times: Times,
    query: Query,
    limits: PageLimits,
    not_before: Option<Timestamp>,
    pub(super) rows: Rows,
    /// Bytes that the records of the rows will have.
    bytes: usize,
    /// How many rows were taken, also of those that are too early, and the bytes of their records.
    taken: usize,
    taken_bytes: usize,
    /// The number and the text of the position of the row before.
    last: Option<(i64, String)>,
    is_full: bool,
    /// Rows follow that are to wait.
    waits: bool,
}

impl PageBuilder {
    pub(crate) fn new(
        dialect: Dialect,
        layout: &Arc<Layout>,
        start: &Start,
        query: &Query,
        limits: PageLimits,
    ) -> Self {
        let (not_before, last) = match start {
            Start::Earliest => (None, None),
            Start::At(time) => (Some(*time), None),
            Start::After(cursor) => (None, Some((cursor.as_number(), cursor.as_text().to_string()))),
        };
        PageBuilder {
            layout: Arc::clone(layout),
            times: dialect.times(layout.mapping.timestamp_format),
            query: query.clone(),
            limits,
            not_before,
            rows: Rows::default(),
            bytes: 0,
            taken: 0,
            taken_bytes: 0,
            last,
            is_full: false,
            waits: false,
        }
    }

    /// Takes the next row, whose values it asks for in the order of [`Layout::selected`], and says whether there is room
    /// for another.
    ///
    /// # Errors
    /// [`ErrorKind::State`] if a value cannot be read, or the row is not behind the one before: the database orders rows
    /// otherwise than their positions are ordered, and going on would lose some.
    pub(crate) fn push(
        &mut self,
        value: impl FnMut(usize, &Column, &mut Contents) -> Result<Cell, Cause>,
    ) -> Result<bool, Error> {
        let before = self.rows.lengths();
        let (row, size) = self.read(value)?;
        let text = &self.rows.contents.text[before.1..];
        let (position, raw_time) = (&text[..row.position], &text[..row.time]);
        if self.last.as_ref().is_some_and(|(number, text)| (*number, text.as_str()) >= (row.number, position)) {
            let (number, text) = self.last.clone().unwrap_or_default();
            let message = format!(
                "the database gave the row {} after the row {}: are `timestamp_format` and `id_format` right, and is the id unique?",
                Cursor::new(row.number, position.into()),
                Cursor::new(number, text.into())
            );
            return Err(Error::new(ErrorKind::State, "read the log table", message));
        }
        if self.is_to_wait(&row, raw_time) {
            self.waits = true;
            self.rows.truncate(before);
            return Ok(false);
        }
        // A time that could not be read is no reason to leave a record out.
        let is_too_early = self.not_before.zip(row.timestamp).is_some_and(|(time, timestamp)| timestamp < time);
        if !is_too_early && !self.rows.rows.is_empty() && self.bytes + size > self.limits.bytes_max {
            self.is_full = true;
            self.rows.truncate(before);
            return Ok(false);
        }
        self.taken += 1;
        self.taken_bytes += size;
        let (number, last) = self.last.get_or_insert_default();
        *number = row.number;
        last.clear();
        last.push_str(position);
        if is_too_early {
            self.rows.truncate(before);
        } else {
            self.bytes += size;
            self.rows.rows.push(row);
        }
        Ok(true)
    }

    /// Reads a row, and says about how many bytes of memory its record will have.
    fn read(
        &mut self,
        mut value: impl FnMut(usize, &Column, &mut Contents) -> Result<Cell, Cause>,
    ) -> Result<(Row, usize), Error> {
        let layout = &*self.layout;
        let (cells, contents) = (&mut self.rows.cells, &mut self.rows.contents);
        let mut read = |index, column: &Column, contents: &mut Contents| {
            value(index, column, contents).map_err(|cause| unreadable(layout, column, cause))
        };
        let begin = contents.text.len();
        let (number, timestamp, time) = match (self.times, read(0, &layout.timestamp, contents)?) {
            (Times::Text, Cell::Text(len)) => {
                let timestamp = contents.text[begin..].parse().ok();
                contents.text.push('\t');
                (0, timestamp, len)
            }
            (times @ (Times::Unix(_) | Times::Micros), Cell::Int(number)) => (number, Some(times.timestamp(number)), 0),
            _ => return Err(unreadable(layout, &layout.timestamp, "it holds no time of this format".into())),
        };
        let id = contents.text.len();
        match (layout.mapping.id_format, read(1, &layout.id, contents)?) {
            (IdFormat::Text, Cell::Text(_)) => {}
            (IdFormat::Integer, Cell::Int(id)) => position::write_integer(id.into(), &mut contents.text),
            // Above the whole numbers of a record there are the unsigned ones, which come as their digits.
            (IdFormat::Integer, Cell::Text(_)) => match contents.text[id..].parse::<u64>() {
                Ok(number) => {
                    contents.text.truncate(id);
                    position::write_integer(number.into(), &mut contents.text);
                }
                Err(error) => return Err(unreadable(layout, &layout.id, error.into())),
            },
            _ => return Err(unreadable(layout, &layout.id, "it holds no id of this format".into())),
        }
        let row = Row { number, position: contents.text.len() - begin, time, timestamp };
        let mut size = size_of::<LogRecord>() + row.position;
        for (index, column) in layout.selected().enumerate().skip(2) {
            let cell = read(index, column, contents)?;
            cells.push(cell);
            if cell != Cell::Null {
                let is_json =
                    column.kind == Kind::Json || layout.json.as_ref().is_some_and(|json| std::ptr::eq(json, column));
                size += size_of::<(Text, Value)>() + cell.len() * if is_json { JSON_BYTES_PER_BYTE } else { 1 };
            }
        }
        Ok((row, size))
    }

    /// Whether a row, and with it all that follow it in the order of time, is not to be given yet.
    fn is_to_wait(&self, row: &Row, raw_time: &str) -> bool {
        let Some(until) = self.limits.until else { return false };
        match row.timestamp {
            Some(timestamp) => timestamp >= until,
            // A text that is no time has its place among the others all the same; behind today's it would take the
            // cursor with it.
            None => raw_time > &until.to_string()[..10],
        }
    }

    /// Whether rows follow that are to wait.
    pub(crate) fn waits(&self) -> bool {
        self.waits
    }

    /// How many rows were taken.
    pub(crate) fn rows(&self) -> usize {
        self.taken
    }

    /// The page, when `asked` rows were asked for.
    pub(crate) fn finish(self, asked: usize, sizes: &RowSizes) -> Page {
        sizes.saw(self.taken, self.taken_bytes);
        let is_last = !self.is_full && (self.waits || self.taken < asked);
        let end = if is_last { PageEnd::CaughtUp } else { PageEnd::More };
        let last = self.last.filter(|_| self.taken > 0);
        let next = last.map(|(number, text)| Cursor::new(number, text.into()));
        let partition = self.layout.partition.clone();
        Page::raw(partition, self.rows.raw(self.layout, self.query), next, end)
    }
}

/// A time of the table that is not of a row, to be compared with; `None` for NULL.
pub(crate) fn time(
    layout: &Layout,
    value: impl FnOnce(&mut Contents) -> Result<Cell, Cause>,
) -> Result<Option<Bind>, Error> {
    let mut contents = Contents::default();
    match value(&mut contents) {
        Ok(Cell::Int(number)) => Ok(Some(Bind::Int(number))),
        Ok(Cell::Text(_)) => Ok(Some(Bind::Text(contents.text))),
        Ok(_) => Ok(None),
        Err(cause) => Err(unreadable(layout, &layout.timestamp, cause)),
    }
}

fn unreadable(layout: &Layout, column: &Column, cause: Cause) -> Error {
    let message = format!("a row of `{}` cannot be read: its column `{}`", layout.mapping.table, column.name);
    Error::new(ErrorKind::State, "read the log table", message).with_source(cause)
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
