//! What a push looks like, and how Loki words what it refuses.

use std::collections::BTreeMap;
use std::fmt;

use logship_core::Timestamp;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::Entry;

/// The body of a push: <https://grafana.com/docs/loki/latest/reference/loki-http-api/#ingest-logs>.
#[derive(Debug, Deserialize)]
pub(super) struct Push {
    pub(super) streams: Vec<Stream>,
}

#[derive(Debug, Deserialize)]
#[serde(from = "RawStream")]
pub(super) struct Stream {
    /// The labels as Loki writes them.
    pub(super) name: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) values: Vec<Item>,
}

#[derive(Debug, Deserialize)]
struct RawStream {
    stream: Pairs,
    values: Vec<Item>,
}

impl From<RawStream> for Stream {
    fn from(raw: RawStream) -> Self {
        let labels = raw.stream.0;
        let pairs: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={}", quoted(value))).collect();
        Stream { name: format!("{{{}}}", pairs.join(", ")), labels, values: raw.values }
    }
}

/// Time, line, and what is known about the line. A time that is a number is refused.
#[derive(Debug)]
pub(super) struct Item(i64, String, BTreeMap<String, String>);

impl Item {
    pub(super) fn entry(&self, stream: &str) -> Entry {
        Entry { stream: stream.to_owned(), nanos: self.0, line: self.1.clone(), metadata: self.2.clone() }
    }
}

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Raw {
            Plain(String, String),
            Rich(String, String, Pairs),
        }
        let (time, line, metadata) = match Raw::deserialize(deserializer)? {
            Raw::Plain(time, line) => (time, line, BTreeMap::new()),
            Raw::Rich(time, line, metadata) => (time, line, metadata.0),
        };
        let nanos = time
            .parse()
            .map_err(|_| D::Error::custom("Value looks like Number/Boolean/None, but can't find its end"))?;
        Ok(Item(nanos, line, metadata))
    }
}

/// Text by name, no name twice.
#[derive(Debug)]
struct Pairs(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PairsVisitor;
        impl<'de> Visitor<'de> for PairsVisitor {
            type Value = Pairs;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text by name")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, String>()? {
                    if pairs.insert(name.clone(), value).is_some() {
                        return Err(A::Error::custom(format!("duplicate label name: '{name}'")));
                    }
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(PairsVisitor)
    }
}

/// <https://prometheus.io/docs/concepts/data_model/#metric-names-and-labels>
pub(super) fn is_label_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// As Go quotes text.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// To the second, as Go's `time.RFC3339` has it.
pub(super) fn rfc3339(time: Timestamp) -> String {
    format!("{}Z", &time.to_string()[..19])
}

/// As Go's `Time.String` has it: `2026-11-20 08:30:00.5 +0000 UTC`.
fn go_time(nanos: i64) -> String {
    let text = Timestamp::from_nanos(nanos).to_string().replace('T', " ");
    let digits = text.trim_end_matches('Z').trim_end_matches('0').trim_end_matches('.');
    format!("{} +0000 UTC", if digits.len() < 19 { &text[..19] } else { digits })
}

/// Messages that are the same are counted.
pub(super) fn grouped(messages: &[String]) -> String {
    if let [message] = messages {
        return message.clone();
    }
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    messages.iter().for_each(|message| *counts.entry(message).or_default() += 1);
    counts.iter().map(|(message, count)| format!("{count} errors like: {message}")).collect::<Vec<_>>().join("; ")
}

/// An entry that an ingester did not store.
pub(super) struct Fault {
    status: u16,
    words: String,
}

impl Fault {
    pub(super) fn too_far_behind(entry: &Entry, cutoff: i64) -> Self {
        let reason = format!(
            "entry too far behind, entry timestamp is: {}, oldest acceptable timestamp is: {}",
            rfc3339(Timestamp::from_nanos(entry.nanos)),
            rfc3339(Timestamp::from_nanos(cutoff))
        );
        Fault { status: 400, words: Self::words(entry, &reason) }
    }

    pub(super) fn rate_limited(entry: &Entry) -> Self {
        let reason = format!(
            "Per stream rate limit exceeded (limit: 3MB/sec) while attempting to ingest for stream '{}' totaling {}B, consider splitting a stream via additional labels or contact your Loki administrator to see if the limit can be increased",
            entry.stream,
            entry.line.len()
        );
        Fault { status: 429, words: Self::words(entry, &reason) }
    }

    fn words(entry: &Entry, reason: &str) -> String {
        format!("entry with timestamp {} ignored, reason: '{reason}',\n", go_time(entry.nanos))
    }

    /// The status is that of the last; ten are named.
    pub(super) fn answer(faults: &[Fault], total: usize, stream: &str) -> Option<(u16, String)> {
        let last = faults.last()?;
        let named: String = faults.iter().take(10).map(|fault| fault.words.as_str()).collect();
        let ignored = faults.len();
        Some((last.status, format!("{named}user 'fake', total ignored: {ignored} out of {total} for stream: {stream}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<Push, String> {
        serde_json::from_str(body).map_err(|error| error.to_string())
    }

    #[test]
    fn a_push_is_read_as_the_documents_show_it_and_in_no_other_form() {
        let push = read(r#"{"streams":[{"stream":{"b":"x\"y","a":"1"},"values":[["5","line"],["6","",{"k":"v"}]]}]}"#)
            .unwrap();
        assert_eq!(push.streams[0].name, r#"{a="1", b="x\"y"}"#);
        let entry = push.streams[0].values[1].entry("{}");
        assert_eq!((entry.nanos, entry.line.as_str(), entry.metadata["k"].as_str()), (6, "", "v"));
        for wrong in [
            r#"{"streams":[{"stream":{"a":"1"},"values":[[5,"line"]]}]}"#,
            r#"{"streams":[{"stream":{"a":1},"values":[["5","line"]]}]}"#,
            r#"{"streams":[{"stream":{"a":"1","a":"2"},"values":[["5","line"]]}]}"#,
            r#"{"streams":[{"stream":{"a":"1"},"values":[["5","line",{"k":1}]]}]}"#,
            r#"{"streams":[{"stream":{"a":"1"},"values":[["5s","line"]]}]}"#,
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn times_are_written_as_go_writes_them() {
        for (nanos, expected) in [
            (0, "1970-01-01 00:00:00 +0000 UTC"),
            (10_500_000_000, "1970-01-01 00:00:10.5 +0000 UTC"),
            (1_000_000_007, "1970-01-01 00:00:01.000000007 +0000 UTC"),
        ] {
            assert_eq!(go_time(nanos), expected);
        }
    }

    #[test]
    fn the_same_words_are_counted() {
        let messages = ["a", "b", "a"].map(str::to_owned);
        assert_eq!(grouped(&messages), "2 errors like: a; 1 errors like: b");
        assert_eq!(grouped(&messages[..1]), "a");
    }
}
