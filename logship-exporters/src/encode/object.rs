//! Objects of JSON, and the attributes of a record as their members.

use logship_core::{LogRecord, Text, Unencodable, Value};

use super::json;
use super::shape::{attribute, first_of_each, is_each_once};

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

    /// One whose first members are written already, with the brace before them.
    pub(crate) fn begun(out: &'a mut Vec<u8>, begin: &[u8]) -> Self {
        out.extend_from_slice(begin);
        Object { out, is_empty: false }
    }

    pub(crate) fn close(self) {
        self.out.push(b'}');
    }

    /// Names the next member, whose value is to be appended. The name is one that has nothing to escape.
    #[inline]
    pub(crate) fn name(&mut self, name: &'static str) -> &mut Vec<u8> {
        debug_assert!(logship_core::find_json_escape(name.as_bytes()).is_none(), "{name} is to be escaped");
        self.out.extend_from_slice(if std::mem::take(&mut self.is_empty) { b"\"" } else { b",\"" });
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
        self.out
    }

    /// The same of any name.
    pub(crate) fn any_name(&mut self, name: &str) -> &mut Vec<u8> {
        if !std::mem::take(&mut self.is_empty) {
            self.out.push(b',');
        }
        json::string(self.out, name);
        self.out.push(b':');
        self.out
    }

    pub(crate) fn value(&mut self, name: &'static str, value: &Value) -> Result<(), Unencodable> {
        self::value(self.name(name), value)
    }

    /// What further members are appended to, each with a comma before it: one has been written.
    pub(crate) fn rest(&mut self) -> &mut Vec<u8> {
        debug_assert!(!self.is_empty, "the first member has no comma before it");
        self.out
    }

    pub(crate) fn str(&mut self, name: &'static str, text: &str) {
        json::string(self.name(name), text);
    }

    pub(crate) fn text(&mut self, name: &'static str, text: &Text) {
        json::text(self.name(name), text);
    }

    pub(crate) fn int(&mut self, name: &'static str, number: i64) {
        json::int(self.name(name), number);
    }

    /// Bytes as hexadecimal digits, if there are any.
    pub(crate) fn hex(&mut self, name: &'static str, bytes: Option<&[u8]>) {
        let Some(bytes) = bytes else { return };
        let out = self.name(name);
        out.push(b'"');
        json::hex(out, bytes);
        out.push(b'"');
    }

    /// The attributes at these places, those that are not null.
    pub(crate) fn attributes(&mut self, record: &LogRecord, places: &[usize]) -> Result<(), Unencodable> {
        let mut known = places.iter().filter_map(|place| attribute(record, *place));
        known.try_for_each(|(name, value)| self.attribute(name, value))
    }

    /// An object of the attributes at these places, if any of them is not null.
    pub(crate) fn inner(
        &mut self,
        name: &'static str,
        record: &LogRecord,
        places: &[usize],
    ) -> Result<(), Unencodable> {
        if places.iter().all(|place| attribute(record, *place).is_none()) {
            return Ok(());
        }
        let mut inner = Object::open(self.name(name));
        inner.attributes(record, places)?;
        inner.close();
        Ok(())
    }

    /// An attribute, whose name may be at hand as it is to be written.
    #[inline]
    pub(crate) fn attribute(&mut self, name: &Text, value: &Value) -> Result<(), Unencodable> {
        if std::mem::take(&mut self.is_empty) {
            json::text(self.out, name);
            self.out.push(b':');
        } else {
            json::further_name(self.out, name);
        }
        self::value(self.out, value)
    }
}

/// Appends a value. A whole number that a double does not hold is text: as a number it would be another one.
#[inline]
pub(crate) fn value(out: &mut Vec<u8>, value: &Value) -> Result<(), Unencodable> {
    match value {
        // Most values are text, which is written here and not where all others are.
        Value::String(text) => json::text(out, text),
        Value::Int(number) if number.unsigned_abs() > EXACT_MAX => {
            json::string(out, itoa::Buffer::new().format(*number));
        }
        value => json::value(out, value, 0)?,
    }
    Ok(())
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

/// The members of an object: of those of one name the first, and none that is null.
pub(crate) fn members(out: &mut Vec<u8>, entries: &[(Text, Value)]) -> Result<(), Unencodable> {
    let mut object = Object::open(out);
    if is_each_once(entries) {
        let mut known = entries.iter().filter(|(_, value)| !matches!(value, Value::Null));
        known.try_for_each(|(name, value)| object.attribute(name, value))?;
    } else {
        first_of_each(entries.iter()).try_for_each(|(_, (name, value))| object.attribute(name, value))?;
    }
    object.close();
    Ok(())
}

/// What becomes of attributes where some names are the object's own: those go into an object inside it.
#[derive(Debug, Default)]
pub(crate) struct Places {
    pub(crate) plain: Vec<usize>,
    pub(crate) reserved: Vec<usize>,
    /// `host.name` and `service.name`, which are among the others too.
    pub(crate) host: Option<usize>,
    pub(crate) service: Option<usize>,
}

impl Places {
    pub(crate) fn add(&mut self, place: usize, name: &str, is_reserved: bool) {
        match name {
            "host.name" => self.host = Some(place),
            "service.name" => self.service = Some(place),
            _ => {}
        }
        if is_reserved { &mut self.reserved } else { &mut self.plain }.push(place);
    }
}

/// The text at this place, if it is a text with something in it.
pub(crate) fn text_at(record: &LogRecord, place: Option<usize>) -> Option<&Text> {
    match attribute(record, place?) {
        Some((_, Value::String(text))) if !text.is_empty() => Some(text),
        _ => None,
    }
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
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn members_are_the_first_of_each_name(entries in super::super::shape::tests::entries("[a-d]")) {
            let mut expected = Vec::new();
            let mut object = Object::open(&mut expected);
            first_of_each(entries.iter()).for_each(|(_, (name, value))| object.attribute(name, value).unwrap());
            object.close();
            // Often enough for it to become known that names are different.
            for _ in 0..20 {
                let mut out = Vec::new();
                members(&mut out, &entries).unwrap();
                prop_assert_eq!(&out, &expected);
            }
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
