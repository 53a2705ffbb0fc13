//! Records as JSON, each with its partition key before it.

use logship_core::{Encoding, LogRecord, Unencodable, Value};

use super::PartitionKey;
use crate::encode::json;

/// Characters of a partition key.
/// <https://docs.aws.amazon.com/kinesis/latest/APIReference/API_PutRecordsRequestEntry.html>
const KEY_CHARACTERS_MAX: usize = 256;

/// How many bytes of a frame are not sent: three digits that say how long the key is, and the line's end.
pub(super) const FRAME: usize = DIGITS + 1;
const DIGITS: usize = 3;

/// Writes the length of the partition key, the key, the record, and a line break, which JSON has nowhere else. So a body
/// is never shorter than what the service counts, records with their keys.
#[derive(Debug)]
pub(super) struct Keyed {
    name: String,
    partition_key: PartitionKey,
}

impl Keyed {
    pub(super) fn new(partition_key: PartitionKey) -> Self {
        Keyed { name: format!("kinesis {partition_key:?}"), partition_key }
    }

    fn write_key(&self, record: &LogRecord, out: &mut Vec<u8>) -> Result<(), Unencodable> {
        let partition = record.id.partition().as_str();
        match &self.partition_key {
            PartitionKey::Id => record.id.write(out),
            PartitionKey::Partition => out.extend_from_slice(partition.as_bytes()),
            PartitionKey::Attribute(name) => match attribute(record, name) {
                Some(Value::String(text)) => out.extend_from_slice(text.as_bytes()),
                Some(value) => json::value(out, value, 0)?,
                None => out.extend_from_slice(partition.as_bytes()),
            },
        }
        Ok(())
    }
}

/// The first attribute of this name, of the record or its resource, with something in it.
fn attribute<'r>(record: &'r LogRecord, name: &str) -> Option<&'r Value> {
    let mut all = record.attributes.iter().chain(&record.resource.attributes);
    let is_empty = |value: &Value| *value == Value::Null || value.as_str() == Some("");
    all.find(|(known, value)| known.as_str() == name && !is_empty(value)).map(|(_, value)| value)
}

impl Encoding for Keyed {
    fn key(&self) -> &str {
        &self.name
    }

    fn record(&self, record: &LogRecord, out: &mut Vec<u8>) -> Result<(), Unencodable> {
        let mut key = Vec::with_capacity(64);
        self.write_key(record, &mut key)?;
        let key = String::from_utf8_lossy(&key);
        let key = first_characters(&key);
        out.extend_from_slice(format!("{:0DIGITS$}", key.len()).as_bytes());
        out.extend_from_slice(key.as_bytes());
        json::record(out, record)?;
        out.push(b'\n');
        Ok(())
    }
}

/// As much of a text as a key may hold, whichever way its characters are counted; a dash for nothing.
fn first_characters(text: &str) -> &str {
    let mut characters = 0;
    let end = text.char_indices().find(|(_, letter)| {
        characters += letter.len_utf16();
        characters > KEY_CHARACTERS_MAX
    });
    match end.map_or(text, |(end, _)| &text[..end]) {
        "" => "-",
        key => key,
    }
}

/// The key and the record of each frame of a body; nothing if it is not one of ours.
pub(super) fn entries(body: &[u8]) -> Option<Vec<(&str, &[u8])>> {
    let mut found = Vec::new();
    let mut rest = body;
    while !rest.is_empty() {
        let (digits, behind) = rest.split_at_checked(DIGITS)?;
        let key_len: usize = std::str::from_utf8(digits).ok()?.parse().ok()?;
        let (key, behind) = behind.split_at_checked(key_len)?;
        let (record, behind) = behind.split_at(memchr::memchr(b'\n', behind)?);
        found.push((std::str::from_utf8(key).ok()?, record));
        rest = &behind[1..];
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use logship_core::{Cursor, Partition, RecordId, Timestamp};
    use proptest::prelude::*;

    fn encoded(partition_key: PartitionKey, record: &LogRecord) -> Vec<u8> {
        let mut out = Vec::new();
        Keyed::new(partition_key).record(record, &mut out).unwrap();
        out
    }

    fn key_of(partition_key: PartitionKey, record: &LogRecord) -> String {
        entries(&encoded(partition_key, record)).unwrap()[0].0.to_owned()
    }

    fn record(partition: &str) -> LogRecord {
        LogRecord::new(RecordId::new(Partition::new(partition), Cursor::number(7)), Timestamp::now())
    }

    #[test]
    fn a_key_is_the_id_the_partition_or_an_attribute() {
        let mut record = record("logs");
        let named = |name: &str| PartitionKey::Attribute(name.to_owned());
        record.attributes =
            vec![("flow".into(), "pay".into()), ("number".into(), 7.into()), ("nothing".into(), "".into())];
        let resource = logship_core::Resource { attributes: vec![("host".into(), "a".into())] };
        record.resource = std::sync::Arc::new(resource);
        assert_eq!(key_of(PartitionKey::Id, &record), record.id.to_string());
        assert_eq!(key_of(PartitionKey::Partition, &record), "logs");
        for (name, expected) in
            [("flow", "pay"), ("number", "7"), ("host", "a"), ("absent", "logs"), ("nothing", "logs")]
        {
            assert_eq!(key_of(named(name), &record), expected, "{name}");
        }
    }

    #[test]
    fn a_key_has_as_many_characters_as_kinesis_takes() {
        for (partition, expected) in [
            ("x".repeat(256), 256),
            ("x".repeat(257), 256),
            ("\u{20ac}".repeat(257), 256 * 3),
            ("\u{1f600}".repeat(129), 128 * 4),
            (format!("x{}", "\u{1f600}".repeat(129)), 1 + 127 * 4),
        ] {
            assert_eq!(key_of(PartitionKey::Partition, &record(&partition)).len(), expected);
        }
        assert_eq!(key_of(PartitionKey::Partition, &record("")), "-");
    }

    proptest! {
        #[test]
        fn keys_and_records_are_found_again(texts in prop::collection::vec("(\\PC|[\\n0-9]){0,300}", 1..6)) {
            let records: Vec<LogRecord> = texts.iter().map(|text| {
                let mut record = record(text);
                record.body = text.as_str().into();
                record
            }).collect();
            let body: Vec<u8> = records.iter().flat_map(|record| encoded(PartitionKey::Partition, record)).collect();
            let found = entries(&body).unwrap();
            prop_assert_eq!(found.len(), records.len());
            prop_assert_eq!(found.iter().map(|(key, data)| key.len() + data.len() + FRAME).sum::<usize>(), body.len());
            for ((key, data), text) in found.iter().zip(&texts) {
                prop_assert!(text.starts_with(key) || *key == "-");
                let data: serde_json::Value = serde_json::from_slice(data).unwrap();
                prop_assert_eq!(data["body"].as_str(), Some(text.as_str()));
            }
        }

        #[test]
        fn no_body_is_read_past_its_end(body: Vec<u8>) {
            if let Some(found) = entries(&body) {
                prop_assert!(found.iter().map(|(key, data)| key.len() + data.len() + FRAME).sum::<usize>() <= body.len());
            }
        }
    }
}
