//! One line to one record, in one pass: what the line says is cut out of it, not copied, and the record of the line
//! before is written over, place by place, as the next line mostly says the same of other things.

mod escape;

use std::mem::{swap, take};
use std::ops::Range;
use std::sync::Arc;

use logship_core::{
    Cursor, LogRecord, Partition, RecordId, Resource, Text, TextArena, TextBlock, Timestamp, Value, find_json_escape,
};

use super::fields::{JsonlFields, Names, OwnFields, Role, Slot, severity, timestamp};
use crate::in_place::{entry, rename, renew, set_text};

/// Deeper nesting is no log line, and would need a stack as deep.
const DEPTH_MAX: usize = 64;

/// Makes records of lines.
#[derive(Debug)]
pub(crate) struct Parser<'a> {
    names: Names<'a>,
    strings: Strings,
    own: OwnFields,
    /// The time of records that do not say theirs.
    now: Timestamp,
    /// What records of lines are of.
    no_resource: Arc<Resource>,
}

/// Holds the strings that are not in the line as they are meant, because they have escapes.
#[derive(Debug, Default)]
struct Strings {
    unescaped: TextArena,
    scratch: String,
}

impl<'a> Parser<'a> {
    /// Untimed records get the time `now`.
    pub(crate) fn new(fields: &'a JsonlFields, now: Timestamp) -> Self {
        let empty = LogRecord::new(RecordId::new(Partition::new(""), Cursor::default()), now);
        let (names, strings, own) = (Names::new(fields), Strings::default(), OwnFields::default());
        Parser { names, strings, own, now, no_resource: empty.resource }
    }

    /// Makes the record of a line without its line break, which is a part of `block`, in the place of another one. The
    /// id stays.
    pub(crate) fn record(&mut self, block: &TextBlock, line: Range<usize>, record: &mut LogRecord) {
        renew(record, &self.no_resource);
        self.names.begin_line();
        let bytes = block.as_str().as_bytes().get(..line.end).unwrap_or_default();
        let begin = line.start;
        let mut reader = Reader { block, bytes, at: begin, names: &mut self.names, strings: &mut self.strings };
        let read = reader.record(&mut self.own, record);
        let at = reader.at - begin;
        match read {
            Ok(true) => {}
            Ok(false) => self.untimed(record),
            Err(fault) => {
                *record = LogRecord::new(record.id.clone(), self.now);
                let mut body = Text::new();
                body.cut(block, line);
                record.body = body.into();
                let fault = format!("{fault}, at byte {at} of the line");
                record.attributes.push((Text::from_static("logship.parse_error"), fault.into()));
                self.untimed(record);
            }
        }
    }

    /// The same of a line of `bytes` bytes of which this is the beginning.
    pub(super) fn truncated(&mut self, beginning: Text, bytes: u64, record: &mut LogRecord) {
        renew(record, &self.no_resource);
        record.attributes.clear();
        record.body = beginning.into();
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        record.attributes.push((Text::from_static("logship.truncated"), bytes.into()));
        self.untimed(record);
    }

    fn untimed(&self, record: &mut LogRecord) {
        record.timestamp = self.now;
        record.observed_timestamp = Some(self.now);
        record.attributes.push((Text::from_static("logship.timestamp_missing"), true.into()));
    }
}

/// Why a line is not an object of JSON.
type Fault = &'static str;

const NO_END: Fault = "the line ends too early";

struct Reader<'r, 'a> {
    block: &'r TextBlock,
    /// The block up to the end of the line.
    bytes: &'r [u8],
    at: usize,
    names: &'r mut Names<'a>,
    strings: &'r mut Strings,
}

/// What JSON calls white space. A line of a file has no line feed, but what comes as a whole may have some.
fn is_space(byte: Option<u8>) -> bool {
    matches!(byte, Some(b' ' | b'\t' | b'\r' | b'\n'))
}

impl Reader<'_, '_> {
    /// Reads the whole line, and says whether it has a time.
    fn record(&mut self, own: &mut OwnFields, record: &mut LogRecord) -> Result<bool, Fault> {
        (own.time.rank, own.level.rank, own.body.rank) = (None, None, None);
        self.space();
        if self.take() != Some(b'{') {
            return Err("not a JSON object");
        }
        let mut count = 0;
        let attributes = &mut record.attributes;
        self.space();
        if !self.next_is(b'}') {
            loop {
                let place = entry(attributes, count);
                let is_taken = match self.name()? {
                    Role::Timestamp(rank) => self.own_field(rank, &mut own.time, place, |_, value| timestamp(value))?,
                    Role::Severity(rank) => self.own_field(rank, &mut own.level, place, severity)?,
                    Role::Body(rank) => self.own_field(rank, &mut own.body, place, |_, _| Some(()))?,
                    Role::Attribute => {
                        rename(&mut place.0, self.names.current());
                        self.value(1, &mut place.1)?;
                        true
                    }
                };
                count += usize::from(is_taken);
                if self.is_last(b'}', "a comma or closing brace is missing")? {
                    break;
                }
            }
        }
        attributes.truncate(count);
        self.space();
        if self.at < self.bytes.len() {
            return Err("something follows the object");
        }
        if own.level.rank.is_some() {
            (record.severity, record.severity_text) = take(&mut own.level.meaning);
        }
        match own.body.rank {
            // What was there before is written over next time.
            Some(_) => swap(&mut record.body, &mut own.body.value),
            None => record.body = Value::Null,
        }
        if own.time.rank.is_some() {
            record.timestamp = own.time.meaning;
        }
        Ok(own.time.rank.is_some())
    }

    /// Reads a field of the record's own, whose name was read last, and says whether there is now something in the place
    /// of an attribute: of two such fields the better one stays, and the other one is an attribute, as is one that is not
    /// understood.
    fn own_field<T>(
        &mut self,
        rank: usize,
        slot: &mut Slot<T>,
        place: &mut (Text, Value),
        meaning: impl Fn(&str, &Value) -> Option<T>,
    ) -> Result<bool, Fault> {
        let (name, value) =
            if slot.rank.is_none() { (&mut slot.name, &mut slot.value) } else { (&mut place.0, &mut place.1) };
        rename(name, self.names.current());
        self.value(1, value)?;
        let meant = meaning(name, value);
        let is_first = slot.rank.is_none();
        let is_better = meant.is_some() && slot.rank.is_none_or(|kept| rank < kept);
        if is_first != is_better {
            swap(&mut slot.name, &mut place.0);
            swap(&mut slot.value, &mut place.1);
        }
        if let Some(meant) = meant.filter(|_| is_better) {
            (slot.rank, slot.meaning) = (Some(rank), meant);
        }
        Ok(!(is_first && is_better))
    }

    /// Reads the entries of an object that stands inside `depth` others, behind its brace.
    fn entries(&mut self, depth: usize, entries: &mut Vec<(Text, Value)>) -> Result<(), Fault> {
        let mut count = 0;
        self.space();
        if !self.next_is(b'}') {
            loop {
                let (name, value) = entry(entries, count);
                self.name()?;
                rename(name, self.names.current());
                self.value(depth + 1, value)?;
                count += 1;
                if self.is_last(b'}', "a comma or closing brace is missing")? {
                    break;
                }
            }
        }
        entries.truncate(count);
        Ok(())
    }

    /// The same of the values of an array, behind its bracket.
    fn values(&mut self, depth: usize, values: &mut Vec<Value>) -> Result<(), Fault> {
        let mut count = 0;
        self.space();
        if !self.next_is(b']') {
            loop {
                if count == values.len() {
                    values.push(Value::Null);
                }
                self.value(depth + 1, &mut values[count])?;
                count += 1;
                if self.is_last(b']', "a comma or closing bracket is missing")? {
                    break;
                }
            }
        }
        values.truncate(count);
        Ok(())
    }

    /// Goes behind the comma that follows a value and says false, or behind the end of what it stands in and says true.
    #[inline]
    fn is_last(&mut self, end: u8, fault: Fault) -> Result<bool, Fault> {
        let mut next = self.take();
        if is_space(next) {
            self.space();
            next = self.take();
        }
        match next {
            Some(b',') => Ok(false),
            Some(byte) if byte == end => Ok(true),
            _ => Err(fault),
        }
    }

    /// Reads a value that stands inside `depth` others.
    fn value(&mut self, depth: usize, value: &mut Value) -> Result<(), Fault> {
        let mut next = self.take();
        if is_space(next) {
            self.space();
            next = self.take();
        }
        match next.ok_or(NO_END)? {
            b'"' => return self.string(value),
            b'{' | b'[' if depth >= DEPTH_MAX => return Err("nested deeper than 64"),
            b'{' => {
                let mut entries = if let Value::Map(entries) = value { take(entries) } else { Vec::new() };
                let read = self.entries(depth, &mut entries);
                *value = Value::Map(entries);
                return read;
            }
            b'[' => {
                let mut values = if let Value::Array(values) = value { take(values) } else { Vec::new() };
                let read = self.values(depth, &mut values);
                *value = Value::Array(values);
                return read;
            }
            b't' => *value = self.word(b"rue", Value::Bool(true))?,
            b'f' => *value = self.word(b"alse", Value::Bool(false))?,
            b'n' => *value = self.word(b"ull", Value::Null)?,
            b'-' | b'0'..=b'9' => {
                self.at -= 1;
                *value = self.number()?;
            }
            _ => return Err("a value is missing"),
        }
        Ok(())
    }

    fn word(&mut self, rest: &[u8], value: Value) -> Result<Value, Fault> {
        if !self.bytes[self.at..].starts_with(rest) {
            return Err("a value is missing");
        }
        self.at += rest.len();
        Ok(value)
    }

    /// Reads a number. One that neither a whole number of 64 bits nor a double can hold is kept as its digits.
    fn number(&mut self) -> Result<Value, Fault> {
        let start = self.at;
        let negative = self.next_is(b'-');
        let digits = self.digits();
        if digits.is_empty() || (digits.len() > 1 && self.bytes[digits.start] == b'0') {
            return Err("a number is malformed");
        }
        let mut whole = true;
        if self.next_is(b'.') {
            whole = false;
            if self.digits().is_empty() {
                return Err("a number is malformed");
            }
        }
        if self.next_is(b'e') || self.next_is(b'E') {
            whole = false;
            let _sign = self.next_is(b'-') || self.next_is(b'+');
            if self.digits().is_empty() {
                return Err("a number is malformed");
            }
        }
        // Eighteen digits always fit.
        if whole && digits.len() <= 18 && !(negative && self.bytes[digits.start] == b'0') {
            let number = self.bytes[digits].iter().fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0'));
            return Ok(Value::Int(if negative { -number } else { number }));
        }
        let text = &self.block.as_str()[start..self.at];
        if whole && text != "-0" {
            return Ok(text.parse().map_or_else(|_| self.digits_as_text(start), Value::Int));
        }
        match text.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(Value::Double(number)),
            _ => Ok(self.digits_as_text(start)),
        }
    }

    fn digits_as_text(&self, start: usize) -> Value {
        let mut text = Text::new();
        text.cut(self.block, start..self.at);
        Value::String(text)
    }

    fn digits(&mut self) -> Range<usize> {
        let start = self.at;
        while self.bytes.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
        start..self.at
    }

    /// Reads a name with its quotes and the colon behind it, and says what it is to the record.
    #[inline]
    fn name(&mut self) -> Result<Role, Fault> {
        // Names mostly come in the order of the line before.
        if let Some((role, len)) = self.names.expected(&self.bytes[self.at..]) {
            self.at += len;
            return Ok(role);
        }
        self.other_name()
    }

    #[cold]
    fn other_name(&mut self) -> Result<Role, Fault> {
        self.space();
        if !self.next_is(b'"') {
            return Err("a name in quotes is missing");
        }
        let start = self.at;
        let read;
        let name = if self.seek_quote()? {
            &self.block.as_str()[start..self.at - 1]
        } else {
            read = self.unescape(start)?;
            read.as_str()
        };
        let role = self.names.find(name);
        self.space();
        if self.next_is(b':') { Ok(role) } else { Err("a colon is missing") }
    }

    /// Reads the rest of a string behind its opening quote.
    #[inline]
    fn string(&mut self, value: &mut Value) -> Result<(), Fault> {
        let (start, block) = (self.at, self.block);
        if let Some(len) = find_json_escape(&self.bytes[start..])
            && self.bytes[start + len] == b'"'
        {
            let end = start + len;
            self.at = end + 1;
            set_text(value, |text| text.cut_json(block, start..end));
            return Ok(());
        }
        if self.seek_quote()? {
            let end = self.at - 1;
            set_text(value, |text| text.cut(block, start..end));
        } else {
            *value = Value::String(self.unescape(start)?);
        }
        Ok(())
    }

    /// Goes behind the next quote and says true, or to the next backslash and says false.
    fn seek_quote(&mut self) -> Result<bool, Fault> {
        self.at += memchr::memchr2(b'"', b'\\', &self.bytes[self.at..]).ok_or("a string has no end")?;
        Ok(self.next_is(b'"'))
    }

    /// Reads a string from `start`, which has a backslash where the reader is.
    fn unescape(&mut self, start: usize) -> Result<Text, Fault> {
        let mut plain = start;
        self.strings.scratch.clear();
        loop {
            self.strings.scratch.push_str(&self.block.as_str()[plain..self.at]);
            self.at += 1;
            let character = self.escape()?;
            self.strings.scratch.push(character);
            plain = self.at;
            if self.seek_quote()? {
                self.strings.scratch.push_str(&self.block.as_str()[plain..self.at - 1]);
                return Ok(self.strings.unescaped.push(&self.strings.scratch));
            }
        }
    }

    fn space(&mut self) {
        while is_space(self.bytes.get(self.at).copied()) {
            self.at += 1;
        }
    }

    fn take(&mut self) -> Option<u8> {
        let byte = self.bytes.get(self.at).copied();
        self.at += usize::from(byte.is_some());
        byte
    }

    fn next_is(&mut self, byte: u8) -> bool {
        let is = self.bytes.get(self.at) == Some(&byte);
        self.at += usize::from(is);
        is
    }
}
