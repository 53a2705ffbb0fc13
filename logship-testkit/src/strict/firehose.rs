//! A stand-in for giving records to Amazon Data Firehose, written from
//! <https://docs.aws.amazon.com/firehose/latest/APIReference/API_PutRecordBatch.html> and
//! <https://docs.aws.amazon.com/firehose/latest/dev/limits.html>, over AWS JSON 1.1. It checks who signs, not the
//! signature, and delivers nothing: what it was given is what it holds.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use super::amazon::{Refusal, asked, failure, refuse, reply};
use super::faults::{Fault, Items, SeenRequest};
use super::stand::{Call, Destination, Reply, Strict, usual_ways};

const RECORDS_MAX: usize = 500;
const REQUEST_BYTES_MAX: usize = 4 * 1024 * 1024;
const RECORD_BYTES_MAX: usize = 1_000 * 1024;

/// Firehose on a port of its own.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use logship_testkit::strict::firehose::StrictFirehose;
///
/// let firehose = StrictFirehose::start().await?;
/// firehose.create("logs");
/// assert!(firehose.records("logs").is_empty());
/// # std::io::Result::Ok(())
/// # }).unwrap();
/// ```
pub type StrictFirehose = Strict<Firehose>;

/// What Firehose takes and keeps.
#[derive(Debug, Default)]
pub struct Firehose {
    streams: BTreeMap<String, Vec<Vec<u8>>>,
    /// The only access key that is let in, if there is one.
    access_key_id: Option<String>,
}

impl StrictFirehose {
    /// Lets nobody in but who signs with this key.
    pub fn require_access_key(&self, id: &str) {
        self.state().destination.access_key_id = Some(id.to_owned());
    }

    /// Makes a stream that takes records directly.
    pub fn create(&self, stream: &str) {
        self.state().destination.streams.insert(stream.to_owned(), Vec::new());
    }

    /// What a stream was given, in the order in which it came.
    pub fn records(&self, stream: &str) -> Vec<Vec<u8>> {
        self.state().destination.streams.get(stream).cloned().unwrap_or_default()
    }
}

impl Firehose {
    /// Answers a call; of a request with records, those that are meant are not taken.
    fn take(&mut self, call: &Call, seen: &mut SeenRequest, fails: &Items) -> Result<Value, Refusal> {
        let (action, request) = asked(call, "firehose", "Firehose_20150804.", self.access_key_id.as_ref())?;
        let name = request["DeliveryStreamName"].as_str().unwrap_or_default();
        let Some(stream) = self.streams.get_mut(name) else {
            let words = format!("Firehose {name} under account 123456789012 not found.");
            return refuse("ResourceNotFoundException", words);
        };
        match action.as_str() {
            "PutRecordBatch" => {
                let records = records(&request, seen)?;
                let failing = fails.of(records.len());
                let before = stream.len();
                let answers = records.into_iter().zip(failing).map(|(record, fails)| {
                    if fails {
                        return json!({"ErrorCode": "ServiceUnavailableException", "ErrorMessage": "Slow down."});
                    }
                    stream.push(record);
                    json!({"RecordId": format!("{:0>216}", stream.len())})
                });
                let answers: Vec<Value> = answers.collect();
                seen.stored = stream.len() - before;
                let failed = answers.len() - seen.stored;
                Ok(json!({"FailedPutCount": failed, "RequestResponses": answers, "Encrypted": false}))
            }
            "DescribeDeliveryStream" => Ok(json!({"DeliveryStreamDescription": {
                "DeliveryStreamName": name, "DeliveryStreamStatus": "ACTIVE", "DeliveryStreamType": "DirectPut",
                "DeliveryStreamARN": format!("arn:aws:firehose:eu-west-1:123456789012:deliverystream/{name}"),
                "VersionId": "1", "Destinations": [], "HasMoreDestinations": false,
            }})),
            _ => refuse("UnknownOperationException", ""),
        }
    }
}

/// The records of a request, if it may hold them all.
fn records(request: &Value, seen: &mut SeenRequest) -> Result<Vec<Vec<u8>>, Refusal> {
    let wrong = |words: String| refuse("ValidationException", format!("1 validation error detected: {words}"));
    let Some(given) = request["Records"].as_array() else { return wrong("records must not be null".to_owned()) };
    seen.items = given.len();
    let mut records = Vec::with_capacity(given.len());
    for (place, record) in given.iter().enumerate() {
        let Some(data) = record["Data"].as_str().and_then(|data| BASE64.decode(data).ok()) else {
            return refuse("SerializationException", format!("record {place} is none"));
        };
        if data.len() > RECORD_BYTES_MAX {
            return wrong(format!("record {place} must have length less than or equal to {RECORD_BYTES_MAX}"));
        }
        records.push(data);
    }
    // What the limits are about is this count, not the JSON around it.
    seen.body_bytes = records.iter().map(Vec::len).sum();
    if !(1..=RECORDS_MAX).contains(&records.len()) {
        return wrong(format!("records must have length between 1 and {RECORDS_MAX}"));
    }
    if seen.body_bytes > REQUEST_BYTES_MAX {
        return refuse("InvalidArgumentException", "Records size exceeds 4 MB limit");
    }
    Ok(records)
}

impl Destination for Firehose {
    fn takes_records_at(&self, _: &str) -> bool {
        true
    }

    fn answer(&mut self, call: &Call, seen: &mut SeenRequest) -> Reply {
        self.answer_busy(call, seen, &Items::At(Vec::new()))
    }

    fn answer_busy(&mut self, call: &Call, seen: &mut SeenRequest, items: &Items) -> Reply {
        reply(self.take(call, seen, items))
    }

    /// Firehose says that it is unavailable where others say that they are busy.
    fn failure(&self, status: u16) -> Reply {
        failure(status, "ServiceUnavailableException")
    }

    fn ways_to_fail(&self) -> Vec<Fault> {
        let mut ways = usual_ways();
        ways.extend([Fault::Answer(Reply::page(200)), Fault::Busy(Items::Percent { percent: 30, seed: 0 })]);
        ways
    }
}
