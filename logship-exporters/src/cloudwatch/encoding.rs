//! Messages, each in a frame as long as what CloudWatch Logs counts beside it.

use std::ops::Range;

use logship_core::{Encoding, LogRecord, Unencodable, Value};

use super::Message;
use crate::encode::json;

/// What a message is counted with beside its own bytes.
/// <https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_PutLogEvents.html>
pub(super) const OVERHEAD: usize = 26;

/// Writes the length of a message in as many digits as it is counted with, then the message. So a body is as long as
/// what the service counts, to the byte, and the engine cuts chunks where the service would refuse them.
#[derive(Debug)]
pub(super) struct Frames(Message);

impl Frames {
    pub(super) fn new(message: Message) -> Self {
        Frames(message)
    }
}

impl Encoding for Frames {
    fn key(&self) -> &str {
        match self.0 {
            Message::Json => "cloudwatch json",
            Message::Text => "cloudwatch text",
        }
    }

    fn record(&self, record: &LogRecord, out: &mut Vec<u8>) -> Result<(), Unencodable> {
        let frame = out.len();
        out.resize(frame + OVERHEAD, b'0');
        match (self.0, &record.body) {
            (Message::Json, _) => json::record(out, record)?,
            (Message::Text, Value::String(text)) => out.extend_from_slice(text.as_bytes()),
            (Message::Text, Value::Null) => {}
            (Message::Text, body) => json::value(out, body, 0)?,
        }
        let mut len = out.len() - frame - OVERHEAD;
        if len == 0 {
            // An empty message fails the whole request.
            out.push(b' ');
            len = 1;
        }
        let mut digits = itoa::Buffer::new();
        let digits = digits.format(len).as_bytes();
        out[frame + OVERHEAD - digits.len()..frame + OVERHEAD].copy_from_slice(digits);
        Ok(())
    }
}

/// Where the messages of a body are; nothing if it is not one of ours.
pub(super) fn messages(body: &[u8]) -> Option<Vec<Range<usize>>> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < body.len() {
        let begin = at + OVERHEAD;
        let len: usize = std::str::from_utf8(body.get(at..begin)?).ok()?.parse().ok()?;
        at = begin.checked_add(len).filter(|end| *end <= body.len())?;
        found.push(begin..at);
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use logship_core::{Cursor, Partition, RecordId, Timestamp};
    use proptest::prelude::*;

    fn record(body: Value) -> LogRecord {
        let mut record = LogRecord::new(RecordId::new(Partition::new("p"), Cursor::number(1)), Timestamp::now());
        record.body = body;
        record
    }

    fn text_of(body: Value) -> String {
        let mut out = Vec::new();
        Frames(Message::Text).record(&record(body), &mut out).unwrap();
        let found = messages(&out).unwrap();
        String::from_utf8(out[found[0].clone()].to_vec()).unwrap()
    }

    #[test]
    fn a_message_is_the_text_or_what_stands_for_it() {
        assert_eq!(text_of("paid 7\n".into()), "paid 7\n");
        assert_eq!(text_of(Value::Map(vec![("a".into(), 1.into())])), r#"{"a":1}"#);
        assert_eq!(text_of("".into()), " ");
        assert_eq!(text_of(Value::Null), " ");
    }

    #[test]
    fn no_attribute_makes_a_metric_of_a_record() {
        // The embedded metric format is read at the root of a message.
        let mut record = record("text".into());
        record.attributes = vec![("_aws".into(), Value::Map(vec![("CloudWatchMetrics".into(), Value::Array(vec![]))]))];
        let mut out = Vec::new();
        Frames(Message::Json).record(&record, &mut out).unwrap();
        let message: serde_json::Value = serde_json::from_slice(&out[OVERHEAD..]).unwrap();
        assert!(message.get("_aws").is_none() && message["attributes"].get("_aws").is_some());
    }

    proptest! {
        #[test]
        fn messages_are_found_again_and_counted_as_the_service_counts(texts in prop::collection::vec("\\PC{0,40}", 1..9)) {
            let mut body = Vec::new();
            for text in &texts {
                Frames(Message::Text).record(&record(text.as_str().into()), &mut body).unwrap();
            }
            let found: Vec<&[u8]> = messages(&body).unwrap().into_iter().map(|range| &body[range]).collect();
            let expected: Vec<&[u8]> = texts.iter().map(|text| if text.is_empty() { &b" "[..] } else { text.as_bytes() }).collect();
            prop_assert_eq!(&found, &expected);
            prop_assert_eq!(body.len(), expected.iter().map(|text| text.len() + 26).sum::<usize>());
        }

        #[test]
        fn no_body_is_read_past_its_end(body: Vec<u8>) {
            if let Some(found) = messages(&body) {
                prop_assert!(found.iter().all(|range| range.end <= body.len()));
            }
        }
    }
}
