//! One line to one record, in one pass: what the line says is cut out of it, not copied.

use std::ops::Range;

use logship_core::{LogRecord, RecordId, Severity, Text, TextArena, Timestamp, Value};

use super::fields::{JsonlFields, Names, Role, severity, timestamp};

/// Deeper nesting is no log line, and would need a stack as deep.
const DEPTH_MAX: usize = 64;

/// Makes records of lines.
#[derive(Debug)]
pub(crate) struct Parser<'a> {
    names: Names<'a>,
    /// Holds the strings that are not in the line as they are meant, because they have escapes.
    unescaped: TextArena,
    scratch: String,
    /// The time of records that do not say theirs.
    now: Timestamp,
}

impl<'a> Parser<'a> {
    /// Untimed records get the time `now`.
    pub(crate) fn new(fields: &'a JsonlFields, now: Timestamp) -> Self {
        Parser { names: Names::new(fields), unescaped: TextArena::new(), scratch: String::new(), now }
    }

    /// Makes the record of a line without its line break, in the place of another one.
    pub(crate) fn record(&mut self, line: &Text, id: RecordId, record: &mut LogRecord) {
        renew(record, id);
        let mut reader = Reader { line, bytes: line.as_bytes(), at: 0, parser: self };
        let read = reader.record(record);
        let at = reader.at;
        match read {
            Ok(true) => {}
            Ok(false) => self.untimed(record),
            Err(fault) => {
                *record = LogRecord::new(record.id.clone(), self.now);
                record.body = line.clone().into();
                let fault = format!("{fault}, at byte {at} of the line");
                record.attributes.push((Text::from_static("logship.parse_error"), fault.into()));
                self.untimed(record);
            }
        }
    }

    /// The same of a line of `bytes` bytes of which this is the beginning.
    pub(super) fn truncated(&mut self, beginning: Text, bytes: u64, id: RecordId, record: &mut LogRecord) {
        renew(record, id);
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

/// Leaves nothing of a record but the room that its attributes took.
fn renew(record: &mut LogRecord, id: RecordId) {
    let mut attributes = std::mem::take(&mut record.attributes);
    attributes.clear();
    *record = LogRecord::new(id, Timestamp::default());
    record.attributes = attributes;
}

/// Why a line is not an object of JSON.
type Fault = &'static str;

const NO_END: Fault = "the line ends too early";

struct Reader<'r, 'a> {
    line: &'r Text,
    bytes: &'r [u8],
    at: usize,
    parser: &'r mut Parser<'a>,
}

/// A field of the record's own, as long as a better one may come.
struct Slot<T> {
    rank: usize,
    name: Text,
    value: Value,
    meaning: T,
}

/// Keeps the better of two candidates for a field; the other one becomes an attribute.
fn offer<T>(slot: &mut Option<Slot<T>>, candidate: Slot<T>, attributes: &mut Vec<(Text, Value)>) {
    let loser = match slot {
        Some(kept) if kept.rank <= candidate.rank => candidate,
        _ => match slot.replace(candidate) {
            Some(loser) => loser,
            None => return,
        },
    };
    attributes.push((loser.name, loser.value));
}

impl Reader<'_, '_> {
    /// Reads the whole line, and says whether it has a time.
    fn record(&mut self, record: &mut LogRecord) -> Result<bool, Fault> {
        let mut time: Option<Slot<Timestamp>> = None;
        let mut level: Option<Slot<(Severity, Option<Text>)>> = None;
        let mut body: Option<Slot<()>> = None;
        self.space();
        if self.take() != Some(b'{') {
            return Err("not a JSON object");
        }
        let attributes = &mut record.attributes;
        self.members(|reader, name, role| {
            let value = reader.value(1)?;
            match role {
                Role::Timestamp(rank) if let Some(meaning) = timestamp(&value) => {
                    offer(&mut time, Slot { rank, name, value, meaning }, attributes);
                }
                Role::Severity(rank) if let Some(meaning) = severity(&name, &value) => {
                    offer(&mut level, Slot { rank, name, value, meaning }, attributes);
                }
                Role::Body(rank) => offer(&mut body, Slot { rank, name, value, meaning: () }, attributes),
                _ => attributes.push((name, value)),
            }
            Ok(())
        })?;
        self.space();
        if self.at < self.bytes.len() {
            return Err("something follows the object");
        }
        if let Some(level) = level {
            (record.severity, record.severity_text) = level.meaning;
        }
        if let Some(body) = body {
            record.body = body.value;
        }
        if let Some(time) = &time {
            record.timestamp = time.meaning;
        }
        Ok(time.is_some())
    }

    /// Reads names and hands each on, to have its value read, up to the brace that closes the object.
    fn members(&mut self, mut member: impl FnMut(&mut Self, Text, Role) -> Result<(), Fault>) -> Result<(), Fault> {
        self.space();
        if self.next_is(b'}') {
            return Ok(());
        }
        loop {
            self.space();
            self.expect(b'"', "a name in quotes is missing")?;
            let (name, role) = self.name()?;
            self.space();
            self.expect(b':', "a colon is missing")?;
            member(self, name, role)?;
            self.space();
            match self.take() {
                Some(b',') => {}
                Some(b'}') => return Ok(()),
                _ => return Err("a comma or closing brace is missing"),
            }
        }
    }

    /// Reads a value that stands inside `depth` others.
    fn value(&mut self, depth: usize) -> Result<Value, Fault> {
        self.space();
        match self.take().ok_or(NO_END)? {
            b'"' => self.string().map(Value::String),
            b'{' | b'[' if depth >= DEPTH_MAX => Err("nested deeper than 64"),
            b'{' => {
                let mut entries = Vec::new();
                self.members(|reader, name, _| {
                    let value = reader.value(depth + 1)?;
                    entries.push((name, value));
                    Ok(())
                })?;
                Ok(Value::Map(entries))
            }
            b'[' => self.array(depth).map(Value::Array),
            b't' => self.word(b"rue", Value::Bool(true)),
            b'f' => self.word(b"alse", Value::Bool(false)),
            b'n' => self.word(b"ull", Value::Null),
            b'-' | b'0'..=b'9' => {
                self.at -= 1;
                self.number()
            }
            _ => Err("a value is missing"),
        }
    }

    fn array(&mut self, depth: usize) -> Result<Vec<Value>, Fault> {
        let mut values = Vec::new();
        self.space();
        if self.next_is(b']') {
            return Ok(values);
        }
        loop {
            values.push(self.value(depth + 1)?);
            self.space();
            match self.take() {
                Some(b',') => {}
                Some(b']') => return Ok(values),
                _ => return Err("a comma or closing bracket is missing"),
            }
        }
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
        let text = &self.line.as_str()[start..self.at];
        if whole && text != "-0" {
            return Ok(text.parse().map_or_else(|_| Value::String(self.line.slice_ref(text)), Value::Int));
        }
        match text.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(Value::Double(number)),
            _ => Ok(Value::String(self.line.slice_ref(text))),
        }
    }

    fn digits(&mut self) -> Range<usize> {
        let start = self.at;
        while self.bytes.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
        start..self.at
    }

    /// Reads the rest of a name behind its opening quote.
    fn name(&mut self) -> Result<(Text, Role), Fault> {
        let start = self.at;
        let line = self.line;
        // Names mostly come in the order of the line before.
        if let Some((name, role, len)) = self.parser.names.expected(&self.bytes[start..]) {
            self.at = start + len;
            return Ok((name, role));
        }
        let read;
        let name = if self.seek_quote()? {
            &line.as_str()[start..self.at - 1]
        } else {
            read = self.unescape(start)?;
            read.as_str()
        };
        Ok(match self.parser.names.find(name) {
            Some(known) => known,
            None => (self.parser.unescaped.push(name), self.parser.names.role(name)),
        })
    }

    /// Reads the rest of a string behind its opening quote.
    fn string(&mut self) -> Result<Text, Fault> {
        let start = self.at;
        if self.seek_quote()? {
            Ok(self.line.slice_ref(&self.line.as_str()[start..self.at - 1]))
        } else {
            self.unescape(start)
        }
    }

    /// Goes behind the next quote and says true, or to the next backslash and says false.
    fn seek_quote(&mut self) -> Result<bool, Fault> {
        // Most strings are short, and for those a call of memchr costs more than it saves.
        const NEAR: usize = 24;
        const ONES: u64 = u64::MAX / 255;
        const HIGHS: u64 = ONES * 0x80;
        let rest = &self.bytes[self.at..];
        let mut found = None;
        for (index, word) in rest.chunks_exact(8).take(NEAR / 8).enumerate() {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(word);
            let word = u64::from_le_bytes(bytes);
            // The high bit of each byte that is zero, and of no byte before the first.
            let zeros = |word: u64| word.wrapping_sub(ONES) & !word & HIGHS;
            let ends = zeros(word ^ (ONES * u64::from(b'"'))) | zeros(word ^ (ONES * u64::from(b'\\')));
            if ends != 0 {
                found = Some(index * 8 + ends.trailing_zeros() as usize / 8);
                break;
            }
        }
        if found.is_none() {
            let near = NEAR.min(rest.len() / 8 * 8);
            found = memchr::memchr2(b'"', b'\\', &rest[near..]).map(|found| found + near);
        }
        self.at += found.ok_or("a string has no end")?;
        Ok(self.next_is(b'"'))
    }

    /// Reads a string from `start`, which has a backslash where the reader is.
    fn unescape(&mut self, start: usize) -> Result<Text, Fault> {
        let mut plain = start;
        self.parser.scratch.clear();
        loop {
            let text = &self.line.as_str()[plain..self.at];
            self.parser.scratch.push_str(text);
            self.at += 1;
            let character = self.escape()?;
            self.parser.scratch.push(character);
            plain = self.at;
            if self.seek_quote()? {
                let text = &self.line.as_str()[plain..self.at - 1];
                self.parser.scratch.push_str(text);
                return Ok(self.parser.unescaped.push(&self.parser.scratch));
            }
        }
    }

    /// The character that stands behind a backslash. Half of a surrogate pair is no character and is replaced.
    fn escape(&mut self) -> Result<char, Fault> {
        Ok(match self.take().ok_or(NO_END)? {
            b'n' => '\n',
            b't' => '\t',
            b'r' => '\r',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            byte @ (b'"' | b'\\' | b'/') => char::from(byte),
            b'u' => {
                let first = self.hex()?;
                let behind = self.at;
                if (0xd800..0xdc00).contains(&first) && self.next_is(b'\\') && self.next_is(b'u') {
                    let second = self.hex()?;
                    if (0xdc00..0xe000).contains(&second) {
                        let code = 0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                        return Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
                    }
                    // What follows is a character of its own.
                    self.at = behind;
                }
                self.at = self.at.min(behind);
                char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER)
            }
            _ => return Err("an escape is unknown"),
        })
    }

    fn hex(&mut self) -> Result<u32, Fault> {
        let mut code = 0;
        for _ in 0..4 {
            let digit = self.take().and_then(|byte| char::from(byte).to_digit(16));
            code = code * 16 + digit.ok_or("an escape is unknown")?;
        }
        Ok(code)
    }

    fn space(&mut self) {
        while matches!(self.bytes.get(self.at), Some(b' ' | b'\t' | b'\r')) {
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

    fn expect(&mut self, byte: u8, fault: Fault) -> Result<(), Fault> {
        if self.next_is(byte) { Ok(()) } else { Err(fault) }
    }
}
