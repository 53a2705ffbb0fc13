//! JSON text straight into attribute values.

use std::fmt;

use logship_core::{Text, TextArena, Value};
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

/// Reads the values of a page's JSON columns; strings go to the page's arena, and a key is held once.
#[derive(Debug, Default)]
pub(crate) struct JsonReader {
    keys: Vec<Text>,
}

/// Deeper nesting no destination takes: the column's text, which is then the value, it does.
const DEPTH_MAX: usize = 64;

/// Rows of a log table share few keys; beyond these a key costs a copy.
const KEYS_KEPT: usize = 64;

impl JsonReader {
    /// The value of a JSON text; `None` if it is none, or nested deeper than 64.
    pub(crate) fn read(&mut self, text: &str, arena: &mut TextArena) -> Option<Value> {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let value = Seed { keys: &mut self.keys, arena, depth: 0 }.deserialize(&mut deserializer).ok()?;
        deserializer.end().ok()?;
        Some(value)
    }
}

struct Seed<'a> {
    keys: &'a mut Vec<Text>,
    arena: &'a mut TextArena,
    /// How many values this one stands inside.
    depth: usize,
}

impl Seed<'_> {
    fn inner(&mut self) -> Seed<'_> {
        Seed { keys: self.keys, arena: self.arena, depth: self.depth + 1 }
    }

    fn check_depth<E: serde::de::Error>(&self) -> Result<(), E> {
        if self.depth >= DEPTH_MAX { Err(E::custom("nested deeper than 64")) } else { Ok(()) }
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Int(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(i64::try_from(number).map_or(Value::Double(number as f64), Value::Int))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(Value::Double(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::String(self.arena.push(text)))
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<Value, A::Error> {
        self.check_depth()?;
        let mut values = Vec::new();
        while let Some(value) = items.next_element_seed(self.inner())? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut entries: A) -> Result<Value, A::Error> {
        self.check_depth()?;
        let mut values = Vec::with_capacity(entries.size_hint().unwrap_or(8));
        while let Some(key) = entries.next_key_seed(Key(self.inner()))? {
            values.push((key, entries.next_value_seed(self.inner())?));
        }
        Ok(Value::Map(values))
    }
}

/// The key of an entry.
struct Key<'a>(Seed<'a>);

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = Text;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Text, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = Text;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<Text, E> {
        let Seed { keys, arena, .. } = self.0;
        if let Some(known) = keys.iter().find(|known| known.as_str() == key) {
            return Ok(known.clone());
        }
        let text = arena.push(key);
        if keys.len() < KEYS_KEPT {
            keys.push(text.clone());
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_kind_of_value_is_kept() {
        let text = r#"{"a":"x\u00e4","n":null,"b":true,"i":-5,"big":18446744073709551615,"d":1.5,"l":[1,{"a":2}]}"#;
        let Some(Value::Map(entries)) = JsonReader::default().read(text, &mut TextArena::new()) else { panic!() };
        let nested = Value::Map(vec![("a".into(), Value::Int(2))]);
        let expected = vec![
            ("a".into(), "xä".into()),
            ("n".into(), Value::Null),
            ("b".into(), true.into()),
            ("i".into(), (-5).into()),
            ("big".into(), Value::Double(18_446_744_073_709_551_615.0)),
            ("d".into(), 1.5.into()),
            ("l".into(), Value::Array(vec![1.into(), nested])),
        ];
        assert_eq!(entries, expected);
    }

    #[test]
    fn what_is_no_json_is_none() {
        for text in ["", "{", "{} {}", "{'a':1}", &"[".repeat(100_000)] {
            assert_eq!(JsonReader::default().read(text, &mut TextArena::new()), None);
        }
    }

    /// Goal: a record that was read has a form at every destination, and in a dead letter.
    #[test]
    fn what_is_too_deep_for_a_destination_is_left_as_text() {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let text = |depth| format!("{}1{}", open.repeat(depth), close.repeat(depth));
            assert!(JsonReader::default().read(&text(64), &mut TextArena::new()).is_some());
            assert_eq!(JsonReader::default().read(&text(65), &mut TextArena::new()), None);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,60}") {
            let read = JsonReader::default().read(&text, &mut TextArena::new());
            prop_assert_eq!(read.is_some(), serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok());
        }

        #[test]
        fn strings_come_through_whole(text in any::<String>()) {
            let json = serde_json::to_string(&text).unwrap();
            let read = JsonReader::default().read(&json, &mut TextArena::new());
            prop_assert_eq!(read, Some(Value::from(text)));
        }
    }
}
