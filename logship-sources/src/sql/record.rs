//! One row to one record, in the place of the record of the row before.

use std::ops::Range;
use std::slice;

use logship_core::{LogRecord, Severity, Text, TextArena, Value};

use super::JsonColumn;
use super::json::JsonReader;
use super::layout::{Column, Kind};
use super::rows::{Cell, RawRows, Row};
use crate::in_place::{entry, rename, renew, set_text};

/// Makes the records of rows, one after another.
#[derive(Debug)]
pub(super) struct RecordReader<'r> {
    raw: &'r RawRows,
    cells: slice::Iter<'r, Cell>,
    /// Where the text and the bytes of the next cell begin.
    text: usize,
    bytes: usize,
    json: JsonReader,
    /// Holds what does not lie in the text of the rows as it is meant.
    arena: TextArena,
}

impl<'r> RecordReader<'r> {
    pub(super) fn new(raw: &'r RawRows) -> Self {
        let (json, arena) = (JsonReader::default(), TextArena::new());
        RecordReader { raw, cells: raw.cells.iter(), text: 0, bytes: 0, json, arena }
    }

    /// Makes the record of the next row, whatever the record was before.
    pub(super) fn read(&mut self, row: &Row, record: &mut LogRecord) {
        let layout = &self.raw.layout;
        let word = record.severity_text.take();
        renew(record, &layout.resource);
        let position = self.take_text(row.position);
        let time = position.start..position.start + row.time;
        record.id.cut_position(row.number, &self.raw.text, position);
        record.timestamp = row.timestamp.unwrap_or_default();
        match layout.body {
            Some(_) => {
                let (cell, range) = self.take();
                self.set(&mut record.body, cell, range);
            }
            None => record.body = Value::Null,
        }
        if layout.severity.is_some() {
            self.read_severity(word, record);
        }
        self.read_attributes(record);
        if let (Some(mapping), Some(column)) = (&layout.mapping.json, &layout.json)
            && let (Cell::Text(_), text) = self.take()
        {
            self.read_json(mapping, column, text, record);
        }
        if row.timestamp.is_none() {
            // The record is shipped all the same, at the beginning of time, with what its row says.
            let mut raw = Text::new();
            raw.cut(&self.raw.text, time);
            record.attributes.push((Text::from_static("logship.timestamp_raw"), Value::String(raw)));
        }
    }

    /// The next cell, and where what it holds lies in the text or the bytes.
    fn take(&mut self) -> (Cell, Range<usize>) {
        let cell = self.cells.next().copied().unwrap_or(Cell::Null);
        let range = match cell {
            Cell::Text(len) => self.take_text(len),
            Cell::Bytes(len) => {
                let begin = self.bytes;
                self.bytes += len;
                begin..self.bytes
            }
            Cell::Null | Cell::Bool(_) | Cell::Int(_) | Cell::Double(_) => 0..0,
        };
        (cell, range)
    }

    fn take_text(&mut self, len: usize) -> Range<usize> {
        let begin = self.text;
        self.text += len;
        begin..self.text
    }

    fn text(&self, range: Range<usize>) -> &'r str {
        self.raw.text.as_str().get(range).unwrap_or_default()
    }

    fn set(&self, value: &mut Value, cell: Cell, range: Range<usize>) {
        match cell {
            Cell::Null => *value = Value::Null,
            Cell::Bool(is) => *value = Value::Bool(is),
            Cell::Int(number) => *value = Value::Int(number),
            Cell::Double(number) => *value = Value::Double(number),
            Cell::Text(_) => set_text(value, |text| text.cut(&self.raw.text, range)),
            Cell::Bytes(_) => *value = Value::Bytes(self.raw.bytes.slice(range)),
        }
    }

    /// Reads the severity. `word` is the text that the severity before had, if it had one.
    fn read_severity(&mut self, word: Option<Text>, record: &mut LogRecord) {
        match self.take() {
            (Cell::Text(_), range) => {
                let level = self.text(range.clone());
                record.severity = Severity::from_name(level).unwrap_or_default();
                if record.severity.name() != level {
                    let mut word = word.unwrap_or_default();
                    word.cut(&self.raw.text, range);
                    record.severity_text = Some(word);
                }
            }
            // A number has no meaning that everybody shares.
            (Cell::Int(number), _) => record.severity_text = Some(self.arena.push(&number.to_string())),
            _ => {}
        }
    }

    /// Reads the attributes that have columns, each in the place of the attribute that stood there before.
    fn read_attributes(&mut self, record: &mut LogRecord) {
        let raw = self.raw;
        let mut count = 0;
        for (name, column) in &raw.layout.attributes {
            let place = entry(&mut record.attributes, count);
            match self.take() {
                (Cell::Null, _) => continue,
                (Cell::Text(_), range) if column.kind == Kind::Json => {
                    match self.json.read(self.text(range.clone()), &mut self.arena) {
                        Some(Value::Null) => continue,
                        Some(value) => place.1 = value,
                        None => set_text(&mut place.1, |text| text.cut(&raw.text, range)),
                    }
                }
                (cell, range) => self.set(&mut place.1, cell, range),
            }
            rename(&mut place.0, name);
            count += 1;
        }
        record.attributes.truncate(count);
    }

    /// Reads the attributes, and the body, that the text of a column of JSON holds.
    fn read_json(&mut self, mapping: &JsonColumn, column: &Column, range: Range<usize>, record: &mut LogRecord) {
        let entries = match self.json.read(self.text(range.clone()), &mut self.arena) {
            Some(Value::Map(entries)) => entries,
            Some(Value::Null) => return,
            _ => {
                let mut text = Text::new();
                text.cut(&self.raw.text, range);
                record.attributes.push((Text::interned(&column.name), Value::String(text)));
                return;
            }
        };
        for (name, path) in &mapping.attributes {
            if record.attribute(name).is_none()
                && let Some(value) = at_path(&entries, path)
            {
                record.attributes.push((Text::interned(name), value.clone()));
            }
        }
        for (key, value) in entries {
            let is_named = |name: &String| *name == *key;
            if mapping.body.as_ref().is_some_and(is_named) {
                record.body = value;
            } else if value != Value::Null
                && !mapping.skip.iter().any(is_named)
                && !self.raw.layout.mapping.attributes.iter().any(|(name, _)| *name == *key)
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
