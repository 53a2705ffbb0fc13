//! Kinesis Data Streams of AWS, and what CloudWatch Logs sends there.
//!
//! A shard is a partition, called by its stream, a colon and its id. A position is a record's sequence number and the
//! number of the log record in it, as one record may hold many: what the Producer Library has put together, and the events
//! of a subscription.
//!
//! # Resharding
//! A shard that is split or merged is closed and ends; those that follow it appear as partitions, and are read from their
//! beginning. Order is kept within a shard, which is all that lanes rely on: the last records of a closed shard and the
//! first of the next may be shipped at the same time.
//!
//! # Broken payloads
//! What cannot be read is a log record as well: its body is the payload, its attribute `logship.parse_error` says why. So
//! nothing is lost, and a lane's filter says what becomes of them. Two lanes of which one leaves them out and the other
//! sends them, and nothing else, to a queue:
//!
//! ```json
//! {"id": "search", "lane": {"filter": {"filters": [{"attribute": "logship.parse_error", "exists": false}]}}}
//! {"id": "broken", "lane": {"filter": {"filters": [{"attribute": "logship.parse_error", "exists": true}]}}}
//! ```
//!
//! # Retention
//! Kinesis forgets records after a day unless told otherwise. A position that lies before what is left is read on from the
//! oldest record there is.

mod aggregated;
mod api;
mod payload;
mod position;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_kinesis::types::{Record, Shard};
use bytes::Bytes;
use logship_connect::Connection;
use logship_connect::aws::{Aws, AwsConfig};
use logship_core::{
    BuildContext, Cursor, Error, LogRecord, Page, PageEnd, PageLimits, Partition, Query, RecordId, Registry, Source,
    Start, Timestamp, async_trait, read_fields,
};
use serde::Deserialize;
use tokio::time::Instant;

use self::aggregated::{HashKeys, disaggregated};
use self::api::Api;
use self::payload::Decoder;
use self::position::Place;
use crate::aws::excluded_groups;
use crate::jsonl::JsonlFields;

/// Records of one answer.
/// <https://docs.aws.amazon.com/kinesis/latest/APIReference/API_GetRecords.html>
const ANSWER_RECORDS_MAX: usize = 10_000;

/// What a record of Kinesis is taken to become in memory, until some have been seen.
const RECORD_BYTES_GUESS: usize = 4 * 1024;

/// What a configuration says of a [`KinesisSource`].
///
/// ```
/// use logship_core::{BuildContext, read_fields};
/// use logship_sources::kinesis::KinesisSource;
///
/// let fields = serde_json::from_str(
///     r#"{"stream_name": "cloudwatch-logs", "payload": "cloudwatch", "aws": {"region": "eu-west-1"}}"#,
/// )?;
/// let source = KinesisSource::new(read_fields(fields)?, &BuildContext::default())?;
/// # let _ = source;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct KinesisSourceConfig {
    /// The stream, by its name.
    pub stream_name: String,
    /// What its records hold. Default: `text`.
    #[serde(default)]
    pub payload: Payload,
    /// Which fields of an object of JSON are the record's own. For the payload `json`, by default the usual names. With
    /// `cloudwatch` it has messages read that are objects of JSON; by default a message is the body as it is.
    #[serde(default)]
    pub json: Option<JsonlFields>,
    /// Log groups whose events are left out of `cloudwatch` payloads, by their names: above all those that the lanes
    /// write to. The group of the Lambda function that runs this is always left out. Default: none.
    #[serde(default)]
    pub exclude_log_groups: Vec<String>,
    /// How often a shard is asked for records in a second. Default: 5, which is what AWS allows all readers of a shard
    /// together (<https://docs.aws.amazon.com/streams/latest/dev/service-sizes-and-limits.html>).
    #[serde(default = "five")]
    pub requests_per_second: u32,
    /// How often shards are listed, in seconds, while a run goes on. Default: 30.
    #[serde(default = "thirty")]
    pub list_interval_secs: u64,
    /// Who asks, and where.
    #[serde(default)]
    pub aws: AwsConfig,
    /// How connections are made.
    #[serde(default)]
    pub connection: Connection,
}

/// What a record of Kinesis holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Payload {
    /// Text, which is the body; bytes that are no text stay bytes. The record's time is that of its arrival.
    #[default]
    Text,
    /// An object of JSON. The record's time is the one it says, or that of its arrival.
    Json,
    /// Events of CloudWatch Logs, as its subscription filters send them, packed with gzip or not. Messages that check
    /// the stream are passed over.
    Cloudwatch,
}

fn five() -> u32 {
    5
}

fn thirty() -> u64 {
    30
}

impl KinesisSourceConfig {
    /// This stream, all else as by default.
    pub fn new(stream_name: impl Into<String>) -> Self {
        KinesisSourceConfig {
            stream_name: stream_name.into(),
            payload: Payload::default(),
            json: None,
            exclude_log_groups: Vec::new(),
            requests_per_second: five(),
            list_interval_secs: thirty(),
            aws: AwsConfig::default(),
            connection: Connection::default(),
        }
    }
}

/// Reads the shards of a stream.
///
/// A record's observed time is that of its arrival in the stream. Of a CloudWatch event the time is the event's, group,
/// stream and account are `aws.log.group.names`, `aws.log.stream.names` and `cloud.account.id` of its resource, and its id
/// is the attribute `log.record.uid`: CloudWatch may deliver an event twice, and then it is two records of Kinesis with
/// one `log.record.uid`.
///
/// # Errors
/// Throttling is an error that may pass, and puts off further requests to the shard for a second. Credentials that have
/// ended are renewed, once; so is an iterator. A shard that has outlived its records has no more.
///
/// # Cancellation
/// Dropping a read loses nothing.
pub struct KinesisSource {
    config: KinesisSourceConfig,
    excluded: BTreeSet<String>,
    api: Api,
    listing: Mutex<Listing>,
    /// What a record of Kinesis became in memory, in the last answer.
    record_bytes: AtomicUsize,
}

/// The shards there were when they were last listed, with what each takes.
#[derive(Default)]
struct Listing {
    at: Option<Instant>,
    shards: BTreeMap<Partition, Option<HashKeys>>,
}

pub(crate) fn register(registry: &mut Registry) {
    #[cfg(feature = "schema")]
    registry.describe_source::<KinesisSourceConfig>("kinesis");
    registry.add_source("kinesis", |fields, context| KinesisSource::new(read_fields(fields)?, context));
}

impl KinesisSource {
    /// Checks a configuration and finds its secrets. Asks nobody yet.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](logship_core::ErrorKind::Config), which names the field.
    pub fn new(config: KinesisSourceConfig, context: &BuildContext) -> Result<Self, Error> {
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        // <https://docs.aws.amazon.com/kinesis/latest/APIReference/API_CreateStream.html>
        if !(1..=128).contains(&config.stream_name.len()) || !config.stream_name.bytes().all(is_name) {
            let message = "must be 1 to 128 letters, digits and any of `_.-`; it is a name, not an ARN";
            return Err(Error::config("stream_name", message));
        }
        if config.payload == Payload::Text && config.json.is_some() {
            return Err(Error::config("json", "goes with the payloads `json` and `cloudwatch`"));
        }
        if config.payload != Payload::Cloudwatch && !config.exclude_log_groups.is_empty() {
            return Err(Error::config("exclude_log_groups", "goes with the payload `cloudwatch`"));
        }
        if config.requests_per_second == 0 {
            return Err(Error::config("requests_per_second", "must be more than 0"));
        }
        let excluded = excluded_groups(&config.exclude_log_groups);
        let aws = Aws::new(&config.aws, &config.connection, context)?;
        let api = Api::new(aws, &config.stream_name, config.requests_per_second);
        let record_bytes = AtomicUsize::new(RECORD_BYTES_GUESS);
        Ok(KinesisSource { config, excluded, api, listing: Mutex::default(), record_bytes })
    }

    /// Lists the shards.
    async fn list(&self) -> Result<(), Error> {
        let partition = |shard: &Shard| Partition::new(format!("{}:{}", self.config.stream_name, shard.shard_id));
        let shards = self.api.shards().await?;
        let shards = shards.iter().map(|shard| (partition(shard), hash_keys(shard))).collect();
        let listing = Listing { at: Some(Instant::now()), shards };
        *self.listing.lock().unwrap_or_else(PoisonError::into_inner) = listing;
        Ok(())
    }

    fn listed<T>(&self, look: impl FnOnce(&Listing) -> T) -> T {
        look(&self.listing.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What a shard takes.
    async fn hash_keys(&self, partition: &Partition) -> Result<Option<HashKeys>, Error> {
        if let Some(keys) = self.listed(|listing| listing.shards.get(partition).cloned()) {
            return Ok(keys);
        }
        self.list().await?;
        Ok(self.listed(|listing| listing.shards.get(partition).cloned().flatten()))
    }

    /// How many records to ask for, so that what they become is about a page.
    fn limit(&self, limits: PageLimits) -> usize {
        let fit = limits.bytes_max / self.record_bytes.load(Ordering::Relaxed);
        fit.min(limits.records_max).clamp(1, ANSWER_RECORDS_MAX)
    }

    /// Keeps what so many records became in memory.
    fn learn(&self, bytes: usize, records: usize) {
        if let Some(each) = bytes.checked_div(records) {
            self.record_bytes.store(each + 1, Ordering::Relaxed);
        }
    }

    /// All log records of a record of Kinesis.
    fn decode(&self, record: Record, partition: &Partition, keys: Option<&HashKeys>) -> (Cursor, Vec<LogRecord>) {
        let decoder =
            Decoder { payload: self.config.payload, json: self.config.json.as_ref(), excluded: &self.excluded };
        let arrived = record.approximate_arrival_timestamp.map_or_else(Timestamp::now, |time| {
            Timestamp::from_nanos(i64::try_from(time.as_nanos()).unwrap_or(i64::MAX))
        });
        let sequence = record.sequence_number;
        let data = Bytes::from(record.data.into_inner());
        let mut records = Vec::new();
        for (payload, data) in disaggregated(&data, keys).unwrap_or_else(|| vec![(0, data)]) {
            let id = |number| RecordId::new(partition.clone(), Place::new(&sequence, payload, number).cursor());
            decoder.decode(&data, arrived, id, |record| records.push(record));
        }
        (Place::behind(&sequence).cursor(), records)
    }
}

/// What a shard takes, as it says.
fn hash_keys(shard: &Shard) -> Option<HashKeys> {
    let range = shard.hash_key_range.as_ref()?;
    Some(range.starting_hash_key.parse().ok()?..=range.ending_hash_key.parse().ok()?)
}

/// Log records on their way into a page.
struct Collected<'a> {
    start: &'a Start,
    query: &'a Query,
    limits: PageLimits,
    records: Vec<LogRecord>,
    bytes: usize,
    next: Option<Cursor>,
    /// Whether the beginning of a time has been found.
    has_begun: bool,
}

impl<'a> Collected<'a> {
    fn new(start: &'a Start, query: &'a Query, limits: PageLimits) -> Self {
        let has_begun = !matches!(start, Start::At(_));
        Collected { start, query, limits, records: Vec::new(), bytes: 0, next: None, has_begun }
    }

    /// Takes a log record, or says that there is no room for it.
    fn push(&mut self, record: LogRecord) -> bool {
        match self.start {
            Start::After(cursor) if record.id.position() <= cursor => return true,
            // The records of a time that are there first arrived later than they happened.
            Start::At(time) => self.has_begun |= record.timestamp >= *time,
            Start::After(_) | Start::Earliest => {}
        }
        let position = record.id.position().clone();
        if self.has_begun && self.query.matches(&record) {
            let size = record.size();
            let is_full = self.records.len() >= self.limits.records_max || self.bytes + size > self.limits.bytes_max;
            if is_full && !self.records.is_empty() {
                return false;
            }
            self.bytes += size;
            self.records.push(record);
        }
        self.next = Some(position);
        true
    }

    fn into_page(self, partition: &Partition, end: PageEnd) -> Page {
        Page::ending_at(partition.clone(), self.records, self.next, end)
    }
}

#[async_trait]
impl Source for KinesisSource {
    fn kind(&self) -> &'static str {
        "kinesis"
    }

    fn fingerprint(&self) -> String {
        let region = self.config.aws.region.as_deref().unwrap_or("the environment's region");
        let payload = match self.config.payload {
            Payload::Text => "text",
            Payload::Json => "json",
            Payload::Cloudwatch => "cloudwatch",
        };
        format!("stream {} of {payload}, of {region}", self.config.stream_name)
    }

    /// The shards, closed ones too while they hold something. Listed anew when the last listing is older than
    /// `list_interval_secs`.
    async fn partitions(&self) -> Result<Vec<Partition>, Error> {
        let interval = Duration::from_secs(self.config.list_interval_secs);
        if !self.listed(|listing| listing.at.is_some_and(|at| at.elapsed() < interval)) {
            self.list().await?;
        }
        Ok(self.listed(|listing| listing.shards.keys().cloned().collect()))
    }

    async fn read(
        &self,
        partition: &Partition,
        start: &Start,
        query: &Query,
        limits: PageLimits,
    ) -> Result<Page, Error> {
        let keys = self.hash_keys(partition).await?;
        let mut collected = Collected::new(start, query, limits);
        let mut from = start.clone();
        loop {
            let Some(answer) = self.api.records(partition, &from, self.limit(limits)).await? else {
                return Ok(collected.into_page(partition, PageEnd::CaughtUp));
            };
            let (mut count, mut bytes) = (0, 0);
            for record in answer.records {
                let (behind, records) = self.decode(record, partition, keys.as_ref());
                count += 1;
                bytes += records.iter().map(LogRecord::size).sum::<usize>();
                for record in records {
                    if !collected.push(record) {
                        self.learn(bytes, count);
                        return Ok(collected.into_page(partition, PageEnd::More));
                    }
                }
                collected.next = Some(behind);
            }
            self.learn(bytes, count);
            if let Some(next) = &collected.next {
                from = Start::After(next.clone());
            }
            if let Some(iterator) = answer.iterator {
                self.api.keep(partition, from.clone(), iterator);
            }
            if answer.is_end {
                return Ok(collected.into_page(partition, PageEnd::CaughtUp));
            }
            // An answer without records is not the end, and no place to read on from.
            if count > 0 && collected.has_begun {
                return Ok(collected.into_page(partition, PageEnd::More));
            }
        }
    }

    /// Lists the shards.
    async fn check(&self) -> Result<(), Error> {
        self.list().await
    }
}

impl fmt::Debug for KinesisSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KinesisSource").field("stream_name", &self.config.stream_name).finish_non_exhaustive()
    }
}
