//! Objects of JSON, and the attributes of a record as their members.

use std::collections::HashSet;

use logship_core::{LogRecord, Text, Unencodable, Value};

use super::json;

/// Up to so many attributes are compared one by one, which is faster than a set.
const FEW: usize = 16;

/// The largest whole number of which all smaller ones have a form as a double, which is what readers of JSON take
/// numbers for: <https://www.rfc-editor.org/rfc/rfc8259#section-6>.
const EXACT_MAX: u64 = 1 << 53;

/// A JSON object that is being written.
pub(crate) struct Object<'a> {
    out: &'a mut Vec<u8>,
    is_empty: bool,
}

impl<'a> Object<'a> {
    pub(crate) fn open(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Object { out, is_empty: true }
    }

    pub(crate) fn close(self) {
        self.out.push(b'}');
    }

    /// Names the next member, whose value is to be appended.
    pub(crate) fn name(&mut self, name: &str) -> &mut Vec<u8> {
        if !std::mem::take(&mut self.is_empty) {
            self.out.push(b',');
        }
        json::string(self.out, name);
        self.out.push(b':');
        self.out
    }

    pub(crate) fn text(&mut self, name: &str, text: &str) {
        json::string(self.name(name), text);
    }

    pub(crate) fn int(&mut self, name: &str, number: i64) {
        json::int(self.name(name), number);
    }

    /// Bytes as hexadecimal digits, if there are any.
    pub(crate) fn hex(&mut self, name: &str, bytes: Option<&[u8]>) {
        let Some(bytes) = bytes else { return };
        let out = self.name(name);
        out.push(b'"');
        json::hex(out, bytes);
        out.push(b'"');
    }

    pub(crate) fn value(&mut self, name: &str, value: &Value) -> Result<(), Unencodable> {
        self::value(self.name(name), value)
    }

    /// The same of an attribute, whose name may be at hand as it is to be written.
    pub(crate) fn attribute(&mut self, name: &Text, value: &Value) -> Result<(), Unencodable> {
        if !std::mem::take(&mut self.is_empty) {
            self.out.push(b',');
        }
        json::text(self.out, name);
        self.out.push(b':');
        self::value(self.out, value)
    }
}

/// Appends a value. A whole number that a double does not hold is text: as a number it would be another one.
pub(crate) fn value(out: &mut Vec<u8>, value: &Value) -> Result<(), Unencodable> {
    match value {
        Value::Int(number) if number.unsigned_abs() > EXACT_MAX => {
            json::string(out, itoa::Buffer::new().format(*number));
            Ok(())
        }
        value => json::value(out, value, 0),
    }
}

/// Appends a value as text: text as it is, anything else as the text of its JSON.
pub(crate) fn text_of(out: &mut Vec<u8>, value: &Value) -> Result<(), Unencodable> {
    match value {
        Value::Null => json::string(out, ""),
        Value::String(text) => json::text(out, text),
        // JSON has these as strings already.
        Value::Bytes(_) => json::value(out, value, 0)?,
        value => {
            let mut text = Vec::new();
            json::value(&mut text, value, 0)?;
            let text = String::from_utf8_lossy(&text);
            // A number that is not finite is a string in JSON.
            json::string(out, text.trim_matches('"'));
        }
    }
    Ok(())
}

/// Appends a value that may not be longer than `who` keeps.
pub(crate) fn bounded(
    out: &mut Vec<u8>,
    bytes_max: usize,
    who: &str,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), Unencodable>,
) -> Result<(), Unencodable> {
    let begin = out.len();
    write(out)?;
    // Escapes and quotes are counted with it, which errs on the safe side.
    let bytes = out.len() - begin;
    if bytes > bytes_max {
        return Err(Unencodable { reason: format!("a value of {bytes} bytes; {who} keeps {bytes_max}") });
    }
    Ok(())
}

/// The attributes of a record, then those of its resource, that are not null; of two of one name the first.
pub(crate) fn attributes(record: &LogRecord) -> Vec<&(Text, Value)> {
    first_of_each(record.attributes.iter().chain(&record.resource.attributes))
}

/// Those of these attributes that are not null; of two of one name the first.
pub(crate) fn first_of_each<'a>(all: impl Iterator<Item = &'a (Text, Value)>) -> Vec<&'a (Text, Value)> {
    let mut list: Vec<&(Text, Value)> = Vec::with_capacity(all.size_hint().0);
    let mut known: HashSet<&str> = HashSet::new();
    for attribute in all.filter(|(_, value)| *value != Value::Null) {
        let name = attribute.0.as_str();
        let is_new = if list.len() < FEW {
            list.iter().all(|(known, _)| known.as_str() != name)
        } else {
            if known.is_empty() {
                known.extend(list.iter().map(|(known, _)| known.as_str()));
            }
            known.insert(name)
        };
        if is_new {
            list.push(attribute);
        }
    }
    list
}

/// The text of the first of these attributes that is a text with something in it.
pub(crate) fn text_attribute<'a>(attributes: &[&'a (Text, Value)], name: &str) -> Option<&'a str> {
    let found = attributes.iter().find(|(known, _)| known.as_str() == name)?;
    found.1.as_str().filter(|text| !text.is_empty())
}

/// The members of an object in order, also those of one name.
#[cfg(test)]
pub(crate) fn pairs(text: &[u8]) -> Vec<(String, serde_json::Value)> {
    struct Pairs;
    impl<'de> serde::de::Visitor<'de> for Pairs {
        type Value = Vec<(String, serde_json::Value)>;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }
        fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut pairs = Vec::new();
            while let Some(pair) = map.next_entry()? {
                pairs.push(pair);
            }
            Ok(pairs)
        }
    }
    use serde::Deserializer;
    serde_json::Deserializer::from_slice(text).deserialize_map(Pairs).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;
    use logship_core::{Cursor, Partition, RecordId, Timestamp};

    #[test]
    fn each_name_is_there_once_however_many_there_are() {
        for names in [10, 20, 100_000] {
            let mut record = LogRecord::new(RecordId::new(Partition::new("p"), Cursor::number(1)), Timestamp::now());
            record.attributes = (0..2 * names).map(|n: i64| (format!("n{}", n % names).into(), n.into())).collect();
            let list = attributes(&record);
            assert_eq!(list.len(), names as usize);
            assert!(list.iter().zip(0..names).all(|((_, value), number)| *value == Value::Int(number)));
        }
    }

    #[test]
    fn whole_numbers_keep_their_digits() {
        for (number, expected) in [(1 << 53, "9007199254740992"), (i64::MAX, "\"9223372036854775807\"")] {
            let mut out = Vec::new();
            value(&mut out, &Value::Int(number)).unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }
}
