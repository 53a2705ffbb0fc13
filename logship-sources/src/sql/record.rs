//! One row to one record, in the place of the record of the row before.

use std::mem::{swap, take};
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
    /// What the JSON column held in the row before, to be written over.
    object: Value,
    /// Its keys in their places, and what they are to the record.
    roles: Vec<(Text, Role)>,
    /// The names of attributes that stand inside the object.
    named: Vec<Text>,
    /// Holds what does not lie in the text of the rows as it is meant.
    arena: TextArena,
}

impl<'r> RecordReader<'r> {
    pub(super) fn new(raw: &'r RawRows) -> Self {
        let named = raw.layout.mapping.json.iter().flat_map(|json| &json.attributes);
        RecordReader {
            raw,
            cells: raw.cells.iter(),
            text: 0,
            bytes: 0,
            json: JsonReader::default(),
            object: Value::Null,
            roles: Vec::new(),
            named: named.map(|(name, _)| Text::interned(name)).collect(),
            arena: TextArena::new(),
        }
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
        if layout.body.is_some() {
            let (cell, range) = self.take();
            self.set(&mut record.body, cell, range);
        }
        if layout.severity.is_some() {
            self.read_severity(word, record);
        }
        let mut count = self.read_attributes(&mut record.attributes);
        let mut has_body = layout.body.is_some();
        if let (Some(mapping), Some(column)) = (&layout.mapping.json, &layout.json)
            && let (Cell::Text(_), range) = self.take()
        {
            has_body |= self.read_json(mapping, column, range, record, &mut count);
        }
        if !has_body {
            record.body = Value::Null;
        }
        record.attributes.truncate(count);
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

    /// Reads the attributes that have columns, each in the place of the attribute that stood there before, and says how
    /// many there are.
    fn read_attributes(&mut self, attributes: &mut Vec<(Text, Value)>) -> usize {
        let raw = self.raw;
        let mut count = 0;
        for (name, column) in &raw.layout.attributes {
            let place = entry(attributes, count);
            match self.take() {
                (Cell::Null, _) => continue,
                (Cell::Text(_), range) if column.kind == Kind::Json => {
                    let text = self.text(range.clone());
                    if !self.json.read_into(&mut place.1, text, Some(&raw.text), &mut self.arena) {
                        set_text(&mut place.1, |text| text.cut(&raw.text, range));
                    } else if let Value::Null = place.1 {
                        continue;
                    }
                }
                (cell, range) => self.set(&mut place.1, cell, range),
            }
            rename(&mut place.0, name);
            count += 1;
        }
        count
    }

    /// Reads what the text of a column of JSON holds: attributes, of which there are `count` so far, and the body, if it
    /// says that there is one.
    fn read_json(
        &mut self,
        mapping: &JsonColumn,
        column: &Column,
        range: Range<usize>,
        record: &mut LogRecord,
        count: &mut usize,
    ) -> bool {
        let raw = self.raw;
        let text = self.text(range.clone());
        let is_json = self.json.read_into(&mut self.object, text, Some(&raw.text), &mut self.arena);
        let mut entries = match &mut self.object {
            Value::Map(entries) if is_json => take(entries),
            Value::Null if is_json => return false,
            _ => {
                let place = next_entry(&mut record.attributes, count);
                place.0 = Text::interned(&column.name);
                set_text(&mut place.1, |text| text.cut(&raw.text, range));
                return false;
            }
        };
        for (name, (_, path)) in self.named.iter().zip(&mapping.attributes) {
            if !record.attributes[..*count].iter().any(|(known, _)| known == name)
                && let Some(value) = at_path(&entries, path)
            {
                *next_entry(&mut record.attributes, count) = (name.clone(), value.clone());
            }
        }
        let mut has_body = false;
        for (at, (key, value)) in entries.iter_mut().enumerate() {
            match self.role(mapping, at, key) {
                Role::Body => {
                    swap(&mut record.body, value);
                    has_body = true;
                }
                Role::Attribute { stays_text } if *value != Value::Null => {
                    if stays_text
                        && value.as_str().is_none()
                        && let Ok(text) = serde_json::to_string(value)
                    {
                        *value = Value::String(self.arena.push(&text));
                    }
                    let place = next_entry(&mut record.attributes, count);
                    rename(&mut place.0, key);
                    // What was there is written over with the next row.
                    swap(&mut place.1, value);
                }
                Role::Attribute { .. } | Role::Skipped => {}
            }
        }
        self.object = Value::Map(entries);
        has_body
    }

    /// What a key in this place is to the record; it mostly is the one of the row before.
    fn role(&mut self, mapping: &JsonColumn, at: usize, key: &Text) -> Role {
        if let Some((_, role)) = self.roles.get(at).filter(|(known, _)| known.is_same(key)) {
            return *role;
        }
        let is_key = |name: &String| *name == *key.as_str();
        let is_named = |named: &[(String, String)]| named.iter().any(|(name, _)| is_key(name));
        let role = if mapping.body.as_ref().is_some_and(is_key) {
            Role::Body
        } else if mapping.skip.iter().any(is_key)
            || is_named(&self.raw.layout.mapping.attributes)
            || is_named(&mapping.attributes)
        {
            Role::Skipped
        } else {
            Role::Attribute { stays_text: mapping.text.iter().any(is_key) }
        };
        match self.roles.get_mut(at) {
            Some(place) => *place = (key.clone(), role),
            None => self.roles.push((key.clone(), role)),
        }
        role
    }
}

/// What a key of the JSON column is to the record.
#[derive(Clone, Copy, Debug)]
enum Role {
    Body,
    Attribute { stays_text: bool },
    Skipped,
}

/// The place behind so many entries, which is one of them now.
fn next_entry<'e>(entries: &'e mut Vec<(Text, Value)>, count: &mut usize) -> &'e mut (Text, Value) {
    let at = *count;
    *count += 1;
    entry(entries, at)
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
