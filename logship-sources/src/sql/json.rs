//! JSON text straight into attribute values, in the place of those of the row before.

use std::fmt;
use std::mem::take;

use logship_core::{Text, TextArena, TextBlock, Value};
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::in_place::{entry, set_text};

/// Reads the values of a page's JSON columns; a key is held once.
#[derive(Debug, Default)]
pub(crate) struct JsonReader {
    keys: Vec<Text>,
}

/// Deeper nesting no destination takes: the column's text, which is then the value, it does.
const DEPTH_MAX: usize = 64;

/// Rows of a log table share few keys; beyond these a key costs a copy.
const KEYS_KEPT: usize = 64;

impl JsonReader {
    /// The value of a JSON text; `None` if it is none, or nested deeper than 64. Strings go to the arena.
    #[cfg(any(test, feature = "_fuzzing", feature = "tracing"))]
    pub(crate) fn read(&mut self, text: &str, arena: &mut TextArena) -> Option<Value> {
        let mut value = Value::Null;
        self.read_into(&mut value, text, None, arena).then_some(value)
    }

    /// Makes `value` that of a JSON text, or says false and leaves any value there. Strings are cut out of `block`, which
    /// must be what `text` is a part of, as long as they have no escapes; those, and all without a block, go to the arena.
    pub(crate) fn read_into(
        &mut self,
        value: &mut Value,
        text: &str,
        block: Option<&TextBlock>,
        arena: &mut TextArena,
    ) -> bool {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let seed = Seed { value, keys: &mut self.keys, block, arena, depth: 0 };
        seed.deserialize(&mut deserializer).and_then(|()| deserializer.end()).is_ok()
    }
}

struct Seed<'a, 'b> {
    /// What is written over.
    value: &'a mut Value,
    keys: &'a mut Vec<Text>,
    block: Option<&'b TextBlock>,
    arena: &'a mut TextArena,
    /// How many values this one stands inside.
    depth: usize,
}

impl<'b> Seed<'_, 'b> {
    fn inner<'i>(&'i mut self, value: &'i mut Value) -> Seed<'i, 'b> {
        Seed { value, keys: self.keys, block: self.block, arena: self.arena, depth: self.depth + 1 }
    }

    fn check_depth<E: serde::de::Error>(&self) -> Result<(), E> {
        if self.depth >= DEPTH_MAX { Err(E::custom("nested deeper than 64")) } else { Ok(()) }
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        *self.value = Value::Null;
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        *self.value = Value::Bool(value);
        Ok(())
    }

    fn visit_i64<E>(self, number: i64) -> Result<(), E> {
        *self.value = Value::Int(number);
        Ok(())
    }

    fn visit_u64<E>(self, number: u64) -> Result<(), E> {
        *self.value = i64::try_from(number).map_or(Value::Double(number as f64), Value::Int);
        Ok(())
    }

    fn visit_f64<E>(self, number: f64) -> Result<(), E> {
        *self.value = Value::Double(number);
        Ok(())
    }

    /// A string with escapes.
    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        *self.value = Value::String(self.arena.push(text));
        Ok(())
    }

    /// A string as it stands between its quotes.
    fn visit_borrowed_str<E: serde::de::Error>(self, text: &'de str) -> Result<(), E> {
        let Some(block) = self.block else { return self.visit_str(text) };
        let begin = text.as_ptr() as usize - block.as_str().as_ptr() as usize;
        set_text(self.value, |place| place.cut_json(block, begin..begin + text.len()));
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<(), A::Error> {
        self.check_depth()?;
        let mut values = if let Value::Array(values) = &mut *self.value { take(values) } else { Vec::new() };
        let mut count = 0;
        loop {
            if count == values.len() {
                values.push(Value::Null);
            }
            if items.next_element_seed(self.inner(&mut values[count]))?.is_none() {
                break;
            }
            count += 1;
        }
        values.truncate(count);
        *self.value = Value::Array(values);
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut entries: A) -> Result<(), A::Error> {
        self.check_depth()?;
        let mut values = if let Value::Map(values) = &mut *self.value { take(values) } else { Vec::new() };
        let mut count = 0;
        loop {
            let (key, value) = entry(&mut values, count);
            if entries.next_key_seed(Key { key, keys: self.keys, arena: self.arena })?.is_none() {
                break;
            }
            entries.next_value_seed(self.inner(value))?;
            count += 1;
        }
        values.truncate(count);
        *self.value = Value::Map(values);
        Ok(())
    }
}

/// The key of an entry.
struct Key<'a> {
    /// What is written over.
    key: &'a mut Text,
    keys: &'a mut Vec<Text>,
    arena: &'a mut TextArena,
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<(), E> {
        // Keys mostly stand where they stood in the row before.
        if self.key.as_str() == key {
            return Ok(());
        }
        *self.key = match self.keys.iter().find(|known| known.as_str() == key) {
            Some(known) => known.clone(),
            None if self.keys.len() < KEYS_KEPT => {
                let text = Text::interned(key);
                self.keys.push(text.clone());
                text
            }
            None => self.arena.push(key),
        };
        Ok(())
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
