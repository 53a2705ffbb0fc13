//! A stand-in for putting records into Kinesis Data Streams, written from
//! <https://docs.aws.amazon.com/kinesis/latest/APIReference/API_PutRecords.html>, over AWS JSON 1.1. It checks who signs,
//! not the signature, and knows no shards: what it is there for is a request of which some records fail, which no
//! emulator answers with.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use super::amazon::{Refusal, asked, failure, refuse, reply};
use super::faults::{Fault, Items, SeenRequest};
use super::stand::{Call, Destination, Reply, Strict, usual_ways};

const RECORDS_MAX: usize = 500;
const REQUEST_BYTES_MAX: usize = 10 * 1024 * 1024;
const RECORD_BYTES: usize = 1024 * 1024;
const KEY_CHARACTERS_MAX: usize = 256;

/// Kinesis on a port of its own.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use logship_testkit::strict::kinesis::StrictKinesis;
///
/// let kinesis = StrictKinesis::start().await?;
/// kinesis.create("logs");
/// assert!(kinesis.records("logs").is_empty());
/// # std::io::Result::Ok(())
/// # }).unwrap();
/// ```
pub type StrictKinesis = Strict<Kinesis>;

/// What Kinesis takes and keeps.
#[derive(Debug, Default)]
pub struct Kinesis {
    streams: BTreeMap<String, Stream>,
    /// How many records there are in all.
    count: u64,
    /// The only access key that is let in, if there is one.
    access_key_id: Option<String>,
}

#[derive(Debug)]
struct Stream {
    record_bytes_max: usize,
    records: Vec<Put>,
}

/// A record that was put.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Put {
    /// Its partition key.
    pub partition_key: String,
    /// What it holds.
    pub data: Vec<u8>,
}

impl StrictKinesis {
    /// Lets nobody in but who signs with this key.
    pub fn require_access_key(&self, id: &str) {
        self.state().destination.access_key_id = Some(id.to_owned());
    }

    /// Makes a stream, which takes records of 1 MiB.
    pub fn create(&self, stream: &str) {
        self.create_for(stream, RECORD_BYTES);
    }

    /// Makes a stream that takes records of so many bytes.
    pub fn create_for(&self, stream: &str, record_bytes_max: usize) {
        let made = Stream { record_bytes_max, records: Vec::new() };
        self.state().destination.streams.insert(stream.to_owned(), made);
    }

    /// What a stream holds, in the order in which it came.
    pub fn records(&self, stream: &str) -> Vec<Put> {
        let state = self.state();
        state.destination.streams.get(stream).map(|stream| stream.records.clone()).unwrap_or_default()
    }
}

impl Kinesis {
    /// Answers a call; of a request with records, those that are meant are not taken.
    fn take(&mut self, call: &Call, seen: &mut SeenRequest, fails: &Items) -> Result<Value, Refusal> {
        let (action, request) = asked(call, "kinesis", "Kinesis_20131202.", self.access_key_id.as_ref())?;
        let name = request["StreamName"].as_str().unwrap_or_default();
        let Some(stream) = self.streams.get_mut(name) else {
            return refuse("ResourceNotFoundException", format!("Stream {name} under account 123456789012 not found."));
        };
        match action.as_str() {
            "PutRecords" => {
                let records = records(&request, stream.record_bytes_max, seen)?;
                let mut number = self.count;
                let failing = fails.of(records.len());
                let answers = records.into_iter().zip(failing).enumerate().map(|(place, (record, fails))| {
                    if fails {
                        // Either of the two codes that there are.
                        let throughput = "ProvisionedThroughputExceededException";
                        let code = if place % 2 == 0 { throughput } else { "InternalFailure" };
                        return json!({"ErrorCode": code, "ErrorMessage": "not now"});
                    }
                    stream.records.push(record);
                    number += 1;
                    json!({"SequenceNumber": format!("{number:056}"), "ShardId": "shardId-000000000000"})
                });
                let answers: Vec<Value> = answers.collect();
                seen.stored = (number - self.count) as usize;
                self.count = number;
                let failed = answers.iter().filter(|answer| answer.get("ErrorCode").is_some()).count();
                Ok(json!({"FailedRecordCount": failed, "Records": answers, "EncryptionType": "NONE"}))
            }
            "DescribeStreamSummary" => Ok(json!({"StreamDescriptionSummary": {
                "StreamName": name, "StreamARN": format!("arn:aws:kinesis:eu-west-1:123456789012:stream/{name}"),
                "StreamStatus": "ACTIVE", "RetentionPeriodHours": 24, "StreamCreationTimestamp": 1.795e9,
                "EnhancedMonitoring": [], "OpenShardCount": 1,
            }})),
            _ => refuse("UnknownOperationException", ""),
        }
    }
}

/// The records of a request, if it may hold them all.
fn records(request: &Value, record_bytes_max: usize, seen: &mut SeenRequest) -> Result<Vec<Put>, Refusal> {
    let wrong = |words: String| refuse("ValidationException", format!("1 validation error detected: {words}"));
    let Some(given) = request["Records"].as_array() else { return wrong("records must not be null".to_owned()) };
    seen.items = given.len();
    let mut records = Vec::with_capacity(given.len());
    // What the limits are about is this count, not the JSON around it.
    seen.body_bytes = 0;
    for (place, record) in given.iter().enumerate() {
        let data = record["Data"].as_str().and_then(|data| BASE64.decode(data).ok());
        let (Some(data), Some(key)) = (data, record["PartitionKey"].as_str()) else {
            return refuse("SerializationException", format!("record {place} is none"));
        };
        if !(1..=KEY_CHARACTERS_MAX).contains(&key.encode_utf16().count()) {
            return wrong(format!(
                "the partition key of record {place} must have 1 to {KEY_CHARACTERS_MAX} characters"
            ));
        }
        let bytes = data.len() + key.len();
        if bytes > record_bytes_max {
            return wrong(format!("record {place} must have length less than or equal to {record_bytes_max}"));
        }
        seen.body_bytes += bytes;
        records.push(Put { partition_key: key.to_owned(), data });
    }
    if !(1..=RECORDS_MAX).contains(&records.len()) {
        return wrong(format!("records must have length between 1 and {RECORDS_MAX}"));
    }
    if seen.body_bytes > REQUEST_BYTES_MAX {
        return refuse("InvalidArgumentException", "Records size exceeds 10 MB limit");
    }
    Ok(records)
}

impl Destination for Kinesis {
    fn takes_records_at(&self, _: &str) -> bool {
        true
    }

    fn answer(&mut self, call: &Call, seen: &mut SeenRequest) -> Reply {
        self.answer_busy(call, seen, &Items::At(Vec::new()))
    }

    fn answer_busy(&mut self, call: &Call, seen: &mut SeenRequest, items: &Items) -> Reply {
        reply(self.take(call, seen, items))
    }

    fn failure(&self, status: u16) -> Reply {
        failure(status, "ProvisionedThroughputExceededException")
    }

    fn ways_to_fail(&self) -> Vec<Fault> {
        let mut ways = usual_ways();
        ways.extend([Fault::Answer(Reply::page(200)), Fault::Busy(Items::Percent { percent: 30, seed: 0 })]);
        ways
    }
}
