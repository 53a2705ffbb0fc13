//! What is in a record of Kinesis: log records.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::io::Read;
use std::sync::Arc;

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use logship_core::{LogRecord, RecordId, Text, TextBlock, Timestamp, Value};
use serde::Deserialize;

use super::Payload;
use crate::aws::resource_of;
use crate::jsonl::{JsonlFields, Parser};

/// The most bytes that a payload may be unpacked to: a small one can be made to grow without end.
const UNPACKED_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What CloudWatch Logs sends to a subscriber
/// (<https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/SubscriptionFilters.html>).
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Subscribed<'a> {
    #[serde(borrow)]
    message_type: Cow<'a, str>,
    #[serde(borrow, default)]
    owner: Cow<'a, str>,
    #[serde(borrow, default)]
    log_group: Cow<'a, str>,
    #[serde(borrow, default)]
    log_stream: Cow<'a, str>,
    #[serde(default)]
    log_events: Vec<Event>,
}

#[derive(Deserialize)]
struct Event {
    id: EventId,
    timestamp: i64,
    message: String,
}

/// A text; some stand-ins for the service write a number.
#[derive(Deserialize)]
#[serde(untagged)]
enum EventId {
    Text(String),
    Number(u64),
}

/// Makes log records of payloads.
#[derive(Debug)]
pub(super) struct Decoder<'a> {
    pub(super) payload: Payload,
    pub(super) json: Option<&'a JsonlFields>,
    pub(super) excluded: &'a BTreeSet<String>,
}

impl Decoder<'_> {
    /// Gives the records of a payload to `take`, each with its number in it. `id` makes an id of such a number.
    pub(super) fn decode(
        &self,
        data: &Bytes,
        arrived: Timestamp,
        id: impl Fn(u32) -> RecordId,
        mut take: impl FnMut(LogRecord),
    ) {
        let mut take = |mut record: LogRecord| {
            record.observed_timestamp = Some(arrived);
            take(record);
        };
        match self.payload {
            Payload::Text => {
                let mut record = LogRecord::new(id(0), arrived);
                record.body = text_or_bytes(data);
                take(record);
            }
            Payload::Json => match Text::from_utf8(data.clone()) {
                Ok(line) => take(self.of_json(&TextBlock::new(line), id(0), arrived)),
                Err(_) => take(broken(data, id(0), arrived, "the payload is no text".to_owned())),
            },
            Payload::Cloudwatch => match unpacked(data) {
                Ok(json) => match serde_json::from_slice(&json) {
                    Ok(subscribed) => self.of_subscription(data, subscribed, arrived, id, take),
                    Err(error) => take(broken(data, id(0), arrived, no_subscription(&error))),
                },
                Err(reason) => take(broken(data, id(0), arrived, reason)),
            },
        }
    }

    /// The record of an object of JSON, at this time if it does not say its own.
    fn of_json(&self, line: &TextBlock, id: RecordId, time: Timestamp) -> LogRecord {
        let usual = JsonlFields::default();
        let mut record = LogRecord::new(id, time);
        Parser::new(self.json.unwrap_or(&usual), time).record(line, 0..line.as_str().len(), &mut record);
        record.attributes.retain(|(name, _)| name.as_str() != "logship.timestamp_missing");
        record
    }

    fn of_subscription(
        &self,
        data: &Bytes,
        subscribed: Subscribed<'_>,
        arrived: Timestamp,
        id: impl Fn(u32) -> RecordId,
        mut take: impl FnMut(LogRecord),
    ) {
        match &*subscribed.message_type {
            "DATA_MESSAGE" => {}
            // Says that the stream can be reached.
            "CONTROL_MESSAGE" => return,
            other => {
                let reason = format!("the message type {:?} is not known", excerpt(other));
                return take(broken(data, id(0), arrived, reason));
            }
        }
        if self.excluded.contains(&*subscribed.log_group) {
            return;
        }
        let resource = resource_of(&subscribed.log_group, &subscribed.log_stream, Some(&subscribed.owner));
        for (number, event) in (0..).zip(subscribed.log_events) {
            let time = Timestamp::from_millis(event.timestamp);
            let message = Text::from(event.message);
            let mut record = match self.json {
                Some(_) if message.trim_start().starts_with('{') => {
                    self.of_json(&TextBlock::new(message.clone()), id(number), time)
                }
                _ => {
                    let mut record = LogRecord::new(id(number), time);
                    record.body = Value::String(message);
                    record
                }
            };
            record.timestamp = time;
            let event_id = match event.id {
                EventId::Text(id) => Text::from(id),
                EventId::Number(id) => Text::from(id.to_string()),
            };
            // What OpenTelemetry calls the name by which duplicates are known.
            record.attributes.push((Text::from_static("log.record.uid"), Value::String(event_id)));
            record.resource = Arc::clone(&resource);
            take(record);
        }
    }
}

/// A payload that cannot be read, whole, and why.
fn broken(data: &Bytes, id: RecordId, arrived: Timestamp, reason: String) -> LogRecord {
    let mut record = LogRecord::new(id, arrived);
    record.body = text_or_bytes(data);
    record.attributes.push((Text::from_static("logship.parse_error"), reason.into()));
    record
}

fn text_or_bytes(data: &Bytes) -> Value {
    Text::from_utf8(data.clone()).map_or_else(Value::Bytes, Value::String)
}

/// Where it breaks off, and nothing of what it says.
fn no_subscription(error: &serde_json::Error) -> String {
    let (line, column) = (error.line(), error.column());
    match error.classify() {
        serde_json::error::Category::Data => {
            format!("the payload is JSON, but not what CloudWatch Logs sends, at line {line}, column {column}")
        }
        _ => format!("the payload is not JSON, at line {line}, column {column}"),
    }
}

fn excerpt(text: &str) -> String {
    text.chars().take(40).collect()
}

/// The JSON of a payload. Firehose can unpack it on its way, so it need not be packed.
fn unpacked(data: &Bytes) -> Result<Cow<'_, [u8]>, String> {
    if !data.starts_with(&[0x1f, 0x8b]) {
        return Ok(Cow::Borrowed(data));
    }
    let mut json = Vec::new();
    let read = MultiGzDecoder::new(&data[..]).take(UNPACKED_BYTES_MAX + 1).read_to_end(&mut json);
    match read {
        Err(error) => Err(format!("the payload is not gzip from its beginning to its end: {error}")),
        Ok(_) if json.len() as u64 > UNPACKED_BYTES_MAX => {
            Err(format!("the payload unpacks to more than {UNPACKED_BYTES_MAX} bytes"))
        }
        Ok(_) => Ok(Cow::Owned(json)),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use logship_core::{Cursor, Partition};
    use proptest::prelude::*;

    use super::*;

    fn packed(text: &str) -> Bytes {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap().into()
    }

    fn decode(payload: Payload, data: &Bytes) -> Vec<LogRecord> {
        let excluded = BTreeSet::from(["own".to_owned()]);
        let decoder = Decoder { payload, json: None, excluded: &excluded };
        let id = |number: u32| RecordId::new(Partition::new("shard"), Cursor::number(number.into()));
        let mut records = Vec::new();
        decoder.decode(data, Timestamp::from_secs(9), id, |record| records.push(record));
        records
    }

    fn message(kind: &str, group: &str) -> String {
        format!(
            r#"{{"messageType":"{kind}","owner":"123456789012","logGroup":"{group}","logStream":"s","subscriptionFilters":["f"],
            "logEvents":[{{"id":"31953106606966983378809025079804211143289615424298221568","timestamp":1432826855000,"message":"one \" ü"}},
            {{"id":7,"timestamp":1432826855001,"message":"two"}}]}}"#
        )
    }

    #[test]
    fn each_event_of_a_subscription_is_a_record_that_says_where_it_is_from() {
        for data in [packed(&message("DATA_MESSAGE", "app")), Bytes::from(message("DATA_MESSAGE", "app"))] {
            let records = decode(Payload::Cloudwatch, &data);
            let bodies: Vec<&str> = records.iter().map(|record| record.body.as_str().unwrap()).collect();
            assert_eq!(bodies, ["one \" ü", "two"]);
            assert_eq!(records[0].timestamp, Timestamp::from_millis(1_432_826_855_000));
            assert_eq!(records[0].observed_timestamp, Some(Timestamp::from_secs(9)));
            assert!(records[0].attribute("log.record.uid").unwrap().as_str().unwrap().starts_with("319531"));
            assert_eq!(records[1].attribute("log.record.uid").unwrap().as_str(), Some("7"));
            let names: Vec<&str> = records[1].resource.attributes.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!(names, ["aws.log.group.names", "aws.log.stream.names", "cloud.account.id"]);
            assert_eq!(records[1].id.position(), &Cursor::number(1));
        }
    }

    #[test]
    fn control_messages_and_what_is_left_out_give_nothing() {
        assert!(decode(Payload::Cloudwatch, &packed(&message("CONTROL_MESSAGE", ""))).is_empty());
        assert!(decode(Payload::Cloudwatch, &packed(&message("DATA_MESSAGE", "own"))).is_empty());
    }

    /// Goal: JSON is read however it is laid out: producers end payloads with a line feed, and print objects in lines.
    #[test]
    fn json_may_have_line_feeds_in_it_and_behind_it() {
        for text in ["{\"msg\":\"m\",\"a\":[1,2]}\n", "{\n  \"msg\": \"m\",\n  \"a\": [\n    1,\n    2\n  ]\n}\r\n"] {
            let records = decode(Payload::Json, &Bytes::from(text));
            assert_eq!(records[0].body, "m".into(), "{:?}", records[0].attributes);
            assert_eq!(records[0].attributes, [("a".into(), Value::Array(vec![1.into(), 2.into()]))]);
        }
    }

    #[test]
    fn what_cannot_be_read_is_a_record_that_says_why() {
        let whole = packed(&message("DATA_MESSAGE", "app"));
        let bomb = packed(&" ".repeat(usize::try_from(UNPACKED_BYTES_MAX).unwrap() + 1));
        for (data, reason) in [
            (whole.slice(..whole.len() - 9), "not gzip"),
            (bomb, "more than"),
            (Bytes::from("hunter2"), "not JSON"),
            (packed(r#"{"messageType":"DATA_MESSAGE","logEvents":[{"message":"hunter2"}]}"#), "not what CloudWatch"),
            (packed(&message("OTHER", "app")), "message type"),
        ] {
            let records = decode(Payload::Cloudwatch, &data);
            let [record] = records.as_slice() else { panic!("{records:?}") };
            let why = record.attribute("logship.parse_error").and_then(Value::as_str).unwrap();
            assert!(why.contains(reason) && !why.contains("hunter2"), "{why}");
            assert_eq!(record.body, text_or_bytes(&data), "the payload is there, whole");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_do_harm(bytes: Vec<u8>, text: String) {
            for data in [Bytes::from(bytes), packed(&text), Bytes::from(text)] {
                for payload in [Payload::Text, Payload::Json, Payload::Cloudwatch] {
                    let _ = decode(payload, &data);
                }
            }
        }
    }
}
