//! Rows as a page keeps them: cells side by side, and the text of all of them in one.

use std::sync::Arc;

use bytes::Bytes;
use logship_core::{Cursor, LogRecord, Query, RawRecords, RecordId, Text, TextBlock, Timestamp};

use super::layout::Layout;
use super::record::RecordReader;

/// What a column holds in a row. Text and bytes lie behind those of the cell before.
///
/// Two words, of which the first says what it is: it is written to memory and read again for every cell.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(u64)]
pub(crate) enum Cell {
    Null,
    Bool(bool),
    Int(i64),
    Double(f64),
    /// So many bytes of text.
    Text(usize),
    /// So many bytes that are no text.
    Bytes(usize),
}

impl Cell {
    /// How many bytes lie beyond the cell itself.
    pub(super) fn len(self) -> usize {
        match self {
            Cell::Text(len) | Cell::Bytes(len) => len,
            Cell::Null | Cell::Bool(_) | Cell::Int(_) | Cell::Double(_) => 0,
        }
    }
}

/// What cells hold that is longer than a number.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    pub(super) text: String,
    pub(super) bytes: Vec<u8>,
}

impl Contents {
    /// A cell of text.
    pub(crate) fn text(&mut self, text: &str) -> Cell {
        self.text.push_str(text);
        Cell::Text(text.len())
    }

    /// A cell of text, with each sequence that is not UTF-8 replaced by U+FFFD.
    pub(crate) fn text_lossy(&mut self, bytes: &[u8]) -> Cell {
        match std::str::from_utf8(bytes) {
            Ok(text) => self.text(text),
            Err(_) => self.text(&String::from_utf8_lossy(bytes)),
        }
    }

    /// A cell of bytes.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Cell {
        self.bytes.extend_from_slice(bytes);
        Cell::Bytes(bytes.len())
    }
}

/// Where a row is, and when it happened. The text of its position lies before that of its cells.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    /// The number of its position.
    pub(super) number: i64,
    /// Bytes of the text of its position.
    pub(super) position: usize,
    /// Bytes of the text of its time, with which that begins, if it is text.
    pub(super) time: usize,
    /// `None` for a text that is no time.
    pub(super) timestamp: Option<Timestamp>,
}

/// Rows that are being read.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pub(super) rows: Vec<Row>,
    /// Those of [`Layout::selected`] in each row, without the time and the id.
    pub(super) cells: Vec<Cell>,
    pub(super) contents: Contents,
}

impl Rows {
    /// Forgets what was read of a row, from these lengths on.
    pub(super) fn truncate(&mut self, (cells, text, bytes): (usize, usize, usize)) {
        self.cells.truncate(cells);
        self.contents.text.truncate(text);
        self.contents.bytes.truncate(bytes);
    }

    /// How much there is, to come back to.
    pub(super) fn lengths(&self) -> (usize, usize, usize) {
        (self.cells.len(), self.contents.text.len(), self.contents.bytes.len())
    }

    /// The records of these rows that are wanted.
    pub(super) fn raw(self, layout: Arc<Layout>, query: Query) -> RawRows {
        let Rows { rows, cells, contents: Contents { mut text, mut bytes } } = self;
        // What grows by doubling has room for as much again, which a page is not allowed.
        text.shrink_to_fit();
        bytes.shrink_to_fit();
        let held = size_of::<Row>() * rows.capacity()
            + size_of::<Cell>() * cells.capacity()
            + text.capacity()
            + bytes.capacity();
        let (text, bytes) = (TextBlock::new(Text::from(text)), Bytes::from(bytes));
        RawRows { layout, query, rows, cells, text, bytes, held }
    }
}

/// The rows of a page, whose records are made when they are wanted.
#[derive(Debug)]
pub(super) struct RawRows {
    pub(super) layout: Arc<Layout>,
    query: Query,
    rows: Vec<Row>,
    pub(super) cells: Vec<Cell>,
    pub(super) text: TextBlock,
    pub(super) bytes: Bytes,
    /// Bytes of memory.
    held: usize,
}

impl RawRecords for RawRows {
    fn each(&self, take: &mut dyn FnMut(&mut LogRecord)) {
        let mut reader = RecordReader::new(self);
        let id = RecordId::new(self.layout.partition.clone(), Cursor::default());
        let mut record = LogRecord::new(id, Timestamp::default());
        for row in &self.rows {
            reader.read(row, &mut record);
            if self.query.matches(&record) {
                take(&mut record);
            }
        }
    }

    fn bytes(&self) -> usize {
        self.held
    }
}
