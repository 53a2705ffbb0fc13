//! Which fields of a line are the record's own, and what their values mean.

use logship_core::{Severity, Text, Timestamp, Value};
use serde::{Deserialize, Serialize};

/// The names under which lines have the record's own fields. Of several that a line has, the first in the list whose
/// value is understood is taken; the others become attributes, as does every field that is named nowhere here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct JsonlFields {
    /// Names of the time at which it happened. Understood are RFC 3339 (with `T` or a space; UTC where no offset is
    /// given) and numbers since 1970 in seconds, milliseconds, microseconds or nanoseconds, told apart by their size;
    /// numbers that would lie before 1973 are not taken for a time.
    ///
    /// Default: `timestamp`, `@timestamp`, `time`, `ts`, `datetime`.
    pub timestamp: Vec<String>,
    /// Names of the severity: a name such as `WARN`, or a number. In a field whose name ends in `number`, that is
    /// OpenTelemetry's, 1 to 24; elsewhere 0 to 7 are syslog's and 10 to 60 those of bunyan and pino.
    ///
    /// Default: `severityText`, `severity_text`, `severity`, `level`, `log.level`, `loglevel`, `lvl`,
    /// `severityNumber`, `severity_number`.
    pub severity: Vec<String>,
    /// Names of what the record says, which may be any value.
    ///
    /// Default: `body`, `message`, `msg`, `log`.
    pub body: Vec<String>,
}

impl Default for JsonlFields {
    fn default() -> Self {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        JsonlFields {
            timestamp: names(&["timestamp", "@timestamp", "time", "ts", "datetime"]),
            severity: names(&[
                "severityText",
                "severity_text",
                "severity",
                "level",
                "log.level",
                "loglevel",
                "lvl",
                "severityNumber",
                "severity_number",
            ]),
            body: names(&["body", "message", "msg", "log"]),
        }
    }
}

/// What a field is to the record, and the place of its name in its list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Attribute,
    Timestamp(usize),
    Severity(usize),
    Body(usize),
}

impl JsonlFields {
    pub(super) fn role(&self, name: &str) -> Role {
        let place = |names: &[String]| names.iter().position(|known| known == name);
        if let Some(rank) = place(&self.timestamp) {
            Role::Timestamp(rank)
        } else if let Some(rank) = place(&self.severity) {
            Role::Severity(rank)
        } else if let Some(rank) = place(&self.body) {
            Role::Body(rank)
        } else {
            Role::Attribute
        }
    }
}

/// The record's own fields as the line says them.
#[derive(Debug, Default)]
pub(super) struct OwnFields {
    pub(super) time: Slot<Timestamp>,
    pub(super) level: Slot<(Severity, Option<Text>)>,
    pub(super) body: Slot<()>,
}

/// A field of the record's own, as long as a better one may come.
#[derive(Debug, Default)]
pub(super) struct Slot<T> {
    /// The place of the name in its list, if the line has such a field.
    pub(super) rank: Option<usize>,
    pub(super) name: Text,
    pub(super) value: Value,
    pub(super) meaning: T,
}

/// The names of lines, each with its role. They mostly come in the order of the line before, so the one behind the last
/// is tried first; a name that stands in a line more than once is here as often.
#[derive(Debug)]
pub(super) struct Names<'a> {
    fields: &'a JsonlFields,
    known: Vec<Known>,
    /// The place of the name that was read last.
    current: usize,
    next: usize,
    /// A name that is not kept.
    other: Text,
}

#[derive(Debug)]
struct Known {
    name: Text,
    role: Role,
    written: Written,
}

/// A name as it stands in a line, with its quotes and the colon behind it. Empty where it stands there in more than one
/// way, because it has escapes.
#[derive(Debug)]
struct Written {
    bytes: Box<[u8]>,
    /// The first sixteen of them, or as many as there are, and which those are: compared as one number.
    head: u128,
    mask: u128,
}

/// Lines whose names are data, not names, end here: the search through them would cost more than it saves.
const NAMES_MAX: usize = 64;

impl<'a> Names<'a> {
    pub(super) fn new(fields: &'a JsonlFields) -> Self {
        Names { fields, known: Vec::new(), current: 0, next: 0, other: Text::new() }
    }

    pub(super) fn begin_line(&mut self) {
        self.next = 0;
    }

    /// The name that was read last.
    pub(super) fn current(&self) -> &Text {
        self.known.get(self.current).map_or(&self.other, |known| &known.name)
    }

    /// Takes the name behind the last one, if that is what stands here: its role, and how long it is with its quotes and
    /// its colon.
    #[inline]
    pub(super) fn expected(&mut self, bytes: &[u8]) -> Option<(Role, usize)> {
        let known = self.known.get(self.next)?;
        if !known.written.is_at(bytes) {
            return None;
        }
        self.current = self.next;
        self.next += 1;
        Some((known.role, known.written.bytes.len()))
    }

    /// Takes a name, and says its role.
    pub(super) fn find(&mut self, name: &str) -> Role {
        let ahead = self.known.iter().skip(self.next).position(|known| known.name == name).map(|at| self.next + at);
        let at = if self.known.len() < NAMES_MAX {
            ahead
        } else {
            ahead.or_else(|| self.known.iter().position(|known| known.name == name))
        };
        match at {
            Some(at) => self.current = at,
            None if self.known.len() < NAMES_MAX => {
                self.current = self.known.len();
                let (name, role) = (Text::interned(name), self.fields.role(name));
                self.known.push(Known { written: Written::new(&name), name, role });
            }
            None => {
                self.current = usize::MAX;
                self.other = Text::from(name);
                return self.fields.role(name);
            }
        }
        self.next = self.current + 1;
        self.known[self.current].role
    }
}

impl Written {
    fn new(name: &Text) -> Self {
        // As in an object behind others, without the comma.
        let bytes: Box<[u8]> = name.as_json_name().map(|json| json[1..].into()).unwrap_or_default();
        let mut head = [0; 16];
        head.iter_mut().zip(&bytes).for_each(|(place, byte)| *place = *byte);
        let mask = if bytes.len() < 16 { (1 << (8 * bytes.len())) - 1 } else { u128::MAX };
        Written { head: u128::from_le_bytes(head), mask, bytes }
    }

    #[inline]
    fn is_at(&self, bytes: &[u8]) -> bool {
        match bytes.first_chunk::<16>() {
            Some(head) if self.bytes.len() <= 16 => {
                u128::from_le_bytes(*head) & self.mask == self.head && !self.bytes.is_empty()
            }
            _ => !self.bytes.is_empty() && bytes.starts_with(&self.bytes),
        }
    }
}

/// Below this a number is rather a duration, a count or a clock without a date: 1973-03-03 in seconds.
const SECONDS_MIN: u64 = 100_000_000;

/// The time a value says. Numbers are told apart by their size: seconds reach to the year 5138, and the finer units
/// follow at a thousand times the number each.
pub(super) fn timestamp(value: &Value) -> Option<Timestamp> {
    match value {
        Value::String(text) if text.as_bytes().iter().all(u8::is_ascii_digit) => epoch(text.parse().ok()?),
        Value::String(text) => Timestamp::parse(text),
        Value::Int(number) => epoch(*number),
        Value::Double(number) => {
            // Whole units and what is left of them apart: a double holds no nanoseconds of today's time.
            let whole = epoch(number.trunc() as i64)?;
            let unit = nanos_of_unit(number.abs() as u64) as f64;
            let rest = std::time::Duration::from_nanos((number.fract().abs() * unit) as u64);
            Some(if *number < 0.0 { whole.saturating_sub(rest) } else { whole.saturating_add(rest) })
        }
        _ => None,
    }
}

fn epoch(number: i64) -> Option<Timestamp> {
    let size = number.unsigned_abs();
    (size >= SECONDS_MIN).then(|| Timestamp::from_nanos(number.saturating_mul(nanos_of_unit(size))))
}

/// How many nanoseconds the unit has in which a number of this size counts.
fn nanos_of_unit(size: u64) -> i64 {
    match size {
        0..100_000_000_000 => 1_000_000_000,
        100_000_000_000..100_000_000_000_000 => 1_000_000,
        100_000_000_000_000..100_000_000_000_000_000 => 1_000,
        _ => 1,
    }
}

/// The severity a value says, and the writer's own word for it where that says more.
pub(super) fn severity(name: &str, value: &Value) -> Option<(Severity, Option<Text>)> {
    match value {
        Value::String(word) => {
            let severity = Severity::from_name(word).unwrap_or_default();
            Some((severity, (severity.name() != word.as_str()).then(|| word.clone())))
        }
        Value::Int(number) => {
            let number = u8::try_from(*number).ok()?;
            let ends_in_number = name.len() >= 6 && name.as_bytes()[name.len() - 6..].eq_ignore_ascii_case(b"number");
            let severity = match number {
                _ if ends_in_number => Severity::from_number(number)?,
                0..=7 => Severity::from_syslog(number)?,
                // <https://github.com/trentm/node-bunyan#levels>, <https://getpino.io/#/docs/api?id=loggerlevels-object>
                10 => Severity::TRACE,
                20 => Severity::DEBUG,
                30 => Severity::INFO,
                40 => Severity::WARN,
                50 => Severity::ERROR,
                60 => Severity::FATAL,
                _ => return None,
            };
            Some((severity, None))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_times_by_their_size() {
        let millis = Some(Timestamp::from_millis(1_795_163_400_123));
        for value in [
            Value::Int(1_795_163_400_123),
            Value::Int(1_795_163_400_123_000),
            Value::Int(1_795_163_400_123_000_000),
            "1795163400123".into(),
            "2026-11-20T08:30:00.123Z".into(),
            "2026-11-20T09:30:00.123+01:00".into(),
            "2026-11-20 08:30:00.123".into(),
        ] {
            assert_eq!(timestamp(&value), millis, "{value:?}");
        }
        assert_eq!(timestamp(&Value::Int(1_795_163_400)), Some(Timestamp::from_secs(1_795_163_400)));
        assert_eq!(timestamp(&Value::Double(1_795_163_400.5)), Some(Timestamp::from_millis(1_795_163_400_500)));
        assert_eq!(timestamp(&Value::Double(-1_795_163_400.5)), Some(Timestamp::from_millis(-1_795_163_400_500)));
        for value in [Value::Int(12), Value::Double(0.25), Value::Double(f64::NAN), "".into(), "soon".into()] {
            assert_eq!(timestamp(&value), None, "{value:?}");
        }
    }

    #[test]
    fn a_severity_is_read_in_the_way_of_its_writer() {
        let number = |name, number: i64| severity(name, &number.into()).map(|(severity, _)| severity);
        assert_eq!(number("level", 30), Some(Severity::INFO));
        assert_eq!(number("level", 3), Some(Severity::ERROR));
        assert_eq!(number("severityNumber", 13), Some(Severity::WARN));
        assert_eq!(number("level", 35), None);
        assert_eq!(severity("level", &"WARN".into()), Some((Severity::WARN, None)));
        assert_eq!(severity("level", &"warning".into()), Some((Severity::WARN, Some("warning".into()))));
        assert_eq!(severity("level", &"loud".into()), Some((Severity::UNSPECIFIED, Some("loud".into()))));
    }
}
