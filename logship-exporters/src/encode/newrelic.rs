//! Records as logs of New Relic, in its detailed form.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashSet;

use logship_core::{Compression, Encoding, LogRecord, Text, Unencodable, Value};

use super::json::{self, DEPTH_MAX, too_deep};
use super::object::{self, Object};
use super::shape::{Outline, Shapes, attributes, first_of_each};

/// Attributes of a log, those common to all and ours included. What is beyond would be dropped, so it goes into one
/// attribute together. <https://docs.newrelic.com/docs/logs/log-api/introduction-log-api/#limits>
pub(crate) const ATTRIBUTES_MAX: usize = 255;
/// Bytes of an attribute's name; the page counts characters. Same page.
const NAME_BYTES_MAX: usize = 255;
/// Bytes of a value: 128 KB. What is behind would be cut off, so such a record is refused.
/// <https://docs.newrelic.com/docs/logs/ui-data/long-logs-blobs/>
pub(crate) const VALUE_BYTES_MAX: usize = 128_000;
/// The attributes that we write: level, logger.name, record.id, span.id, trace.id, and what does not fit.
const OWN: usize = 6;

/// The attribute that holds those that do not fit, as JSON.
const REST: &str = "logship.attributes";

/// Names that New Relic keeps for itself, or that we write ourselves. An attribute of such a name goes with those that
/// do not fit. <https://docs.newrelic.com/docs/data-apis/custom-data/custom-events/data-requirements-limits-custom-event-data/#reserved-words>
fn is_reserved(name: &str) -> bool {
    matches!(
        name,
        "accountId"
            | "appId"
            | "entity.guid"
            | "entity.name"
            | "entity.type"
            | "eventType"
            | "level"
            | "log"
            | "logger.name"
            | "logtype"
            | "message"
            | "newrelic"
            | "record.id"
            | "span.id"
            | "timestamp"
            | "trace.id"
            | REST
    )
}

/// Writes logs behind what is common to all of them.
#[derive(Clone, Debug)]
pub(crate) struct NewRelicEncoding {
    key: String,
    begin: Vec<u8>,
    /// The names of the common attributes.
    common: Vec<String>,
    compression: Compression,
}

impl NewRelicEncoding {
    pub(crate) fn new(common: &[(String, String)], compression: Compression) -> Self {
        let mut begin = b"[{\"common\":{\"attributes\":".to_vec();
        let mut object = Object::open(&mut begin);
        common.iter().for_each(|(name, value)| json::string(object.any_name(name), value));
        object.close();
        begin.extend_from_slice(b"},\"logs\":[");
        let key = format!("newrelic {} {compression:?}", String::from_utf8_lossy(&begin));
        NewRelicEncoding { key, begin, common: common.iter().map(|(name, _)| name.clone()).collect(), compression }
    }

    /// The attributes of a record whose names say nothing.
    fn unplanned(&self, record: &LogRecord, members: &mut Object<'_>) -> Result<(), Unencodable> {
        let mut flat = Flat { list: Vec::new(), rest: Vec::new(), room: self.room() };
        for (_, attribute) in first_of_each(attributes(record)) {
            flat.add(attribute);
        }
        flat.drop_repeated();
        for (name, value) in &flat.list {
            leaf(members.any_name(name), value)?;
        }
        if !flat.rest.is_empty() {
            let mut text = Vec::new();
            let mut rest = Object::open(&mut text);
            flat.rest.iter().try_for_each(|(name, value)| object::value(rest.any_name(name), value))?;
            rest.close();
            let text = String::from_utf8_lossy(&text);
            bounded(members.name(REST), |out| {
                json::string(out, &text);
                Ok(())
            })?;
        }
        Ok(())
    }

    /// How many attributes a record may have of its own.
    fn room(&self) -> usize {
        ATTRIBUTES_MAX - OWN - self.common.len().min(ATTRIBUTES_MAX - OWN)
    }
}

impl Encoding for NewRelicEncoding {
    fn key(&self) -> &str {
        &self.key
    }

    fn record(&self, record: &LogRecord, out: &mut Vec<u8>) -> Result<(), Unencodable> {
        let mut log = Object::open(out);
        log.int("timestamp", record.timestamp.as_millis());
        bounded(log.name("message"), |out| object::text_of(out, &record.body))?;
        let mut members = Object::open(log.name("attributes"));
        json::id(members.name("record.id"), &record.id);
        if record.severity.number() > 0 || record.severity_text.is_some() {
            let is_known = record.severity.number() > 0;
            members.str("level", if is_known { record.severity.name() } else { record.severity_name() });
        }
        if let Some(scope) = record.scope.as_ref().filter(|scope| !scope.name.is_empty()) {
            members.text("logger.name", &scope.name);
        }
        members.hex("trace.id", record.trace_id.as_ref().map(<[u8; 16]>::as_slice));
        members.hex("span.id", record.span_id.as_ref().map(<[u8; 8]>::as_slice));
        thread_local!(static KNOWN: RefCell<Shapes<Keys>> = const { RefCell::new(Shapes::new()) });
        let is_known = KNOWN.with_borrow_mut(|shapes| {
            let keys = shapes.find(|keys| keys.outline.is_of(record), || Keys::of(record));
            let keys = keys.filter(|keys| keys.keys.len() <= self.room())?;
            Some(keys.write(record, members.rest()))
        });
        match is_known {
            Some(result) => result?,
            None => self.unplanned(record, &mut members)?,
        }
        members.close();
        log.close();
        Ok(())
    }

    fn begin(&self) -> &[u8] {
        &self.begin
    }

    fn separator(&self) -> &[u8] {
        b","
    }

    fn end(&self) -> &[u8] {
        b"]}]"
    }

    fn compression(&self) -> Compression {
        self.compression
    }
}

/// A value that is no object.
fn leaf(out: &mut Vec<u8>, value: &Value) -> Result<(), Unencodable> {
    bounded(out, |out| match value {
        Value::Array(_) => object::text_of(out, value),
        value => object::value(out, value),
    })
}

/// Names as they are written, for records in which all attributes have a place of their own, whatever their values are.
#[derive(Debug)]
struct Keys {
    outline: Outline,
    /// The name of each value that is no object, with the comma before and the colon behind it.
    keys: Vec<Vec<u8>>,
}

impl Keys {
    fn of(record: &LogRecord) -> Option<Self> {
        let outline = Outline::of(record)?;
        let mut outermost = HashSet::new();
        let (mut names, mut known) = (Vec::new(), HashSet::new());
        let is_clear = attributes(record).all(|(name, _)| outermost.insert(name.as_str()));
        attributes(record).for_each(|(name, value)| flat_names(name.as_str().to_owned(), value, &mut names));
        let is_clear = is_clear && names.iter().all(|name| is_fine(name) && known.insert(name.as_str()));
        let key = |name: &String| {
            let mut key = vec![b','];
            json::string(&mut key, name);
            key.push(b':');
            key
        };
        is_clear.then(|| Keys { outline, keys: names.iter().map(key).collect() })
    }

    fn write(&self, record: &LogRecord, out: &mut Vec<u8>) -> Result<(), Unencodable> {
        let mut keys = self.keys.iter();
        attributes(record).try_for_each(|(_, value)| write_leaves(value, &mut keys, out))
    }
}

/// The names of what is no object in a value of this name, in order.
fn flat_names(name: String, value: &Value, names: &mut Vec<String>) {
    match value {
        Value::Map(members) => {
            members.iter().for_each(|(inner, value)| flat_names([&name, ".", inner.as_str()].concat(), value, names));
        }
        _ => names.push(name),
    }
}

fn write_leaves<'k>(
    value: &Value,
    keys: &mut impl Iterator<Item = &'k Vec<u8>>,
    out: &mut Vec<u8>,
) -> Result<(), Unencodable> {
    if let Value::Map(members) = value {
        return members.iter().try_for_each(|(_, value)| write_leaves(value, keys, out));
    }
    match keys.next() {
        Some(key) if !matches!(value, Value::Null) => {
            out.extend_from_slice(key);
            leaf(out, value)
        }
        _ => Ok(()),
    }
}

/// Whether New Relic takes an attribute of this name.
fn is_fine(name: &str) -> bool {
    !name.is_empty() && name.len() <= NAME_BYTES_MAX && !is_reserved(name)
}

/// Attributes without objects in objects: New Relic makes names with dots of these, and we count them as it does.
struct Flat<'a> {
    list: Vec<(Cow<'a, str>, &'a Value)>,
    /// Those that have no place in a log of New Relic.
    rest: Vec<(&'a str, &'a Value)>,
    room: usize,
}

impl<'a> Flat<'a> {
    fn add(&mut self, attribute: &'a (Text, Value)) {
        let (name, value) = attribute;
        let before = self.list.len();
        let fits = self.flatten(Cow::Borrowed(name), value, 0).is_ok() && self.list.len() <= self.room;
        if !fits {
            self.list.truncate(before);
            self.rest.push((name, value));
        }
    }

    fn flatten(&mut self, name: Cow<'a, str>, value: &'a Value, depth: usize) -> Result<(), Unencodable> {
        match value {
            Value::Map(_) if depth >= DEPTH_MAX => return Err(too_deep()),
            Value::Map(members) => {
                for (inner, value) in members.iter().filter(|(_, value)| *value != Value::Null) {
                    // No more than fit are made, however many there are.
                    if self.list.len() > self.room {
                        break;
                    }
                    self.flatten(Cow::Owned([&name, ".", inner.as_str()].concat()), value, depth + 1)?;
                }
            }
            value => {
                if !is_fine(&name) {
                    return Err(Unencodable { reason: "not a name for New Relic".to_owned() });
                }
                self.list.push((name, value));
            }
        }
        Ok(())
    }

    /// `a.b` may be there as such and as `b` in `a`: of two of one name the first stays. Names that a record gives are
    /// different already, so that one of the two was made here.
    fn drop_repeated(&mut self) {
        let is_made = |name: &Cow<'_, str>| matches!(name, Cow::Owned(_));
        let mut at = 0;
        while let Some((name, _)) = self.list.get(at) {
            let is_repeat = |(known, _): &(Cow<'_, str>, _)| (is_made(name) || is_made(known)) && known == name;
            match self.list[..at].iter().any(is_repeat) {
                true => drop(self.list.remove(at)),
                false => at += 1,
            }
        }
    }
}

/// Appends a value that may not be longer than New Relic keeps.
fn bounded(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>) -> Result<(), Unencodable>) -> Result<(), Unencodable> {
    object::bounded(out, VALUE_BYTES_MAX, "New Relic", write)
}

#[cfg(test)]
mod tests {
    use super::*;
    use logship_core::{Cursor, Partition, RecordId, Severity, Timestamp};
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::shape;

    fn encoding() -> NewRelicEncoding {
        NewRelicEncoding::new(&[("plugin.type".to_owned(), "logship".to_owned())], Compression::None)
    }

    fn log(record: &LogRecord) -> serde_json::Value {
        let encoding = encoding();
        let mut out = encoding.begin().to_vec();
        encoding.record(record, &mut out).unwrap();
        out.extend_from_slice(encoding.end());
        let body: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(body[0]["common"], json!({"attributes": {"plugin.type": "logship"}}));
        body[0]["logs"][0].clone()
    }

    fn record() -> LogRecord {
        let id = RecordId::new(Partition::new("logs"), Cursor::number(7));
        let mut record = LogRecord::new(id, Timestamp::from_nanos(1_795_163_400_123_456_789));
        record.severity = Severity::WARN;
        record.body = "card declined".into();
        record
    }

    #[test]
    fn a_record_has_new_relics_names_and_types() {
        let mut record = record();
        let map = |entries: Vec<(Text, Value)>| Value::Map(entries);
        record.attributes = vec![
            ("flow".into(), map(vec![("id".into(), "pay".into()), ("deep".into(), map(vec![("n".into(), 1.into())]))])),
            ("flow.id".into(), "again".into()),
            ("list".into(), Value::Array(vec![1.into(), "x".into()])),
            ("eventType".into(), "mine".into()),
            ("big".into(), i64::MIN.into()),
        ];
        record.trace_id = Some([0xab; 16]);
        record.span_id = Some([1; 8]);
        let expected = json!({
            "timestamp": 1_795_163_400_123_i64, "message": "card declined",
            "attributes": {
                "level": "WARN", "record.id": "logs:00000000000000000007", "flow.id": "pay", "flow.deep.n": 1,
                "list": "[1,\"x\"]", "big": "-9223372036854775808", "span.id": "0101010101010101",
                "trace.id": "abababababababababababababababab", "logship.attributes": "{\"eventType\":\"mine\"}",
            },
        });
        assert_eq!(log(&record), expected);
    }

    #[test]
    fn attributes_beyond_those_that_fit_are_kept_in_one() {
        let mut record = record();
        record.trace_id = Some([1; 16]);
        record.span_id = Some([1; 8]);
        for (count, rest) in [(248, 0), (249, 1), (1_000, 752)] {
            record.attributes = (0..count).map(|n| (format!("n{n}").into(), 1.into())).collect();
            let log = log(&record);
            let attributes = log["attributes"].as_object().unwrap();
            assert!(attributes.len() < ATTRIBUTES_MAX, "{}", attributes.len());
            let kept = attributes.get(REST).map_or(0, |text| text.as_str().unwrap().matches(":1").count());
            assert_eq!(kept, rest);
        }
    }

    #[test]
    fn a_value_that_would_be_cut_off_has_no_form() {
        let message = |len: usize| {
            let mut record = record();
            record.body = "x".repeat(len).into();
            record
        };
        let is_written = |record: &LogRecord| encoding().record(record, &mut Vec::new()).is_ok();
        assert!(is_written(&message(VALUE_BYTES_MAX - 2)));
        assert!(!is_written(&message(VALUE_BYTES_MAX - 1)));
        let mut record = record();
        record.attributes = vec![("long".into(), "x".repeat(VALUE_BYTES_MAX).into())];
        assert!(!is_written(&record));
    }

    proptest! {
        #[test]
        fn by_names_alone_the_same_is_written_as_by_values((one, other) in shape::tests::pairs("(a.b|message|a|b|c)")) {
            let encoding = encoding();
            if let Some(keys) = Keys::of(&one).filter(|keys| keys.outline.is_of(&other)) {
                let (mut by_name, mut by_value) = (b"{\"n\":0".to_vec(), Vec::new());
                let result = keys.write(&other, &mut by_name);
                let mut members = Object::open(&mut by_value);
                members.int("n", 0);
                prop_assert_eq!(result, encoding.unplanned(&other, &mut members));
                prop_assert_eq!(String::from_utf8(by_name), String::from_utf8(by_value));
            }
        }

        /// Goal: whatever a record holds, its log is one that New Relic reads, with no list and no name twice in it.
        #[test]
        fn a_log_reads_back(
            text in "(\\PC|[\\x00-\\x1f\"\\\\]){0,40}",
            names in prop::collection::vec("(message|a|a.b|b|entity.guid|\\PC{0,3})", 0..40),
            number: i64,
        ) {
            let mut record = record();
            record.body = text.as_str().into();
            let nested = |name: &String| Value::Map(vec![("b".into(), number.into()), (name.as_str().into(), true.into())]);
            let attribute = |(place, name): (usize, &String)| {
                let value = if place % 2 == 0 { number.into() } else { nested(name) };
                (Text::from(name.as_str()), value)
            };
            record.attributes = names.iter().enumerate().map(attribute).collect();
            let log = log(&record);
            prop_assert_eq!(log["message"].as_str(), Some(text.as_str()));
            let attributes = log["attributes"].as_object().unwrap();
            prop_assert!(attributes.values().all(|value| !value.is_array() && !value.is_object()));
            let rest: serde_json::Value =
                serde_json::from_str(attributes.get(REST).and_then(|text| text.as_str()).unwrap_or("{}")).unwrap();
            for name in &names {
                let prefix = format!("{name}.");
                let is_there = attributes.keys().any(|key| key == name || key.starts_with(&prefix));
                prop_assert!(is_there || rest.get(name).is_some(), "{:?} is gone", name);
            }
        }
    }
}
