//! Kinesis Data Streams of AWS, through `PutRecords`.

mod encoding;

use std::fmt;
use std::sync::Arc;

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::PutRecordsRequestEntry;
pub use logship_connect::aws::{AssumeRole, AwsConfig, AwsCredentials};
use logship_connect::aws::{Aws, failure, is_denied};
pub use logship_connect::{Connection, TlsVersion};
use logship_core::{
    BuildContext, Capabilities, Chunk, Encoding, Error, ErrorKind, Exporter, Limits, Outcome, Registry, async_trait,
    read_fields,
};
use serde::Deserialize;
use tokio::sync::OnceCell;

use self::encoding::{FRAME, Keyed, entries};
use crate::put_records::{outcome, refused};

/// Records of a request.
/// <https://docs.aws.amazon.com/kinesis/latest/APIReference/API_PutRecords.html>, as what follows.
const RECORDS_MAX: usize = 500;
/// The largest request, all its records and their partition keys together, and the largest record with its key.
const REQUEST_BYTES_MAX: usize = 10 * 1024 * 1024;
/// What a stream takes as one record unless it was told otherwise.
/// <https://docs.aws.amazon.com/streams/latest/dev/large-records.html>
const RECORD_BYTES: usize = 1024 * 1024;

/// Where to put records, and as whom.
///
/// ```
/// use logship_core::{BuildContext, Exporter, read_fields};
/// use logship_exporters::kinesis::Kinesis;
///
/// let fields = serde_json::from_str(
///     r#"{
///         "stream_name": "logs",
///         "partition_key": {"attribute": "namespace"},
///         "aws": {
///             "region": "eu-west-1",
///             "credentials": {"static": {"access_key_id": "AKIA…", "secret_access_key": "secret-key"}}
///         }
///     }"#,
/// )?;
/// let exporter = Kinesis::new(read_fields(fields)?, &BuildContext::default())?;
/// assert_eq!(exporter.limits().chunk_records_max, Some(500));
/// assert!(!format!("{exporter:?}").contains("secret-key"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct KinesisConfig {
    /// The stream, by its name.
    #[serde(alias = "streamName")]
    pub stream_name: String,
    /// What decides which shard a record goes to. Default: `id`.
    #[serde(default)]
    pub partition_key: PartitionKey,
    /// The largest record in bytes, with its partition key, which is the stream's maximum record size. A longer record is
    /// refused before it is sent. Default: 1,048,576; maximum: 10,485,760.
    #[serde(default = "record_bytes")]
    pub record_bytes_max: usize,
    /// Who sends, and where.
    #[serde(default)]
    pub aws: AwsConfig,
    /// How connections are made.
    #[serde(default)]
    pub connection: Connection,
}

/// What decides which shard a record goes to: records of one key go to one shard. In a configuration: `"id"`,
/// `"partition"` or `{"attribute": "namespace"}`. Of a key, 256 characters count, as Kinesis takes no more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PartitionKey {
    /// The record's id: records are spread over all shards.
    #[default]
    Id,
    /// The partition of the source that the record is of. A shard takes 1,000 records and 1 MB a second.
    Partition,
    /// An attribute of the record, or else of its resource; where neither has it, the partition.
    Attribute(String),
}

fn record_bytes() -> usize {
    RECORD_BYTES
}

impl KinesisConfig {
    /// This stream, all else as by default.
    pub fn new(stream_name: impl Into<String>) -> Self {
        KinesisConfig {
            stream_name: stream_name.into(),
            partition_key: PartitionKey::default(),
            record_bytes_max: record_bytes(),
            aws: AwsConfig::default(),
            connection: Connection::default(),
        }
    }
}

/// Puts each record into a stream: the whole record as JSON, with its id.
///
/// Records that Kinesis does not take now are sent again alone, and come behind others of their shard: whoever reads them
/// in order sorts them by their time.
///
/// # Errors
/// Throttling and failures of the service are tried again, those of single records for these alone. A request that is
/// refused as a whole because of one record, which AWS does not name, is split down to it. Credentials that have ended
/// are renewed, once.
///
/// # Cancellation
/// Dropping an export closes its connection. The records may be in the stream; it does not recognise a repeat.
pub struct Kinesis {
    config: KinesisConfig,
    aws: Aws,
    client: OnceCell<Client>,
    encoding: Arc<Keyed>,
}

pub(crate) fn register(registry: &mut Registry) {
    #[cfg(feature = "schema")]
    registry.describe_exporter::<KinesisConfig>("kinesis");
    registry.add_exporter("kinesis", |fields, context| Kinesis::new(read_fields(fields)?, context));
}

impl Kinesis {
    /// Checks a configuration and finds its secrets. Sends nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Config`], which names the field.
    pub fn new(config: KinesisConfig, context: &BuildContext) -> Result<Self, Error> {
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        // <https://docs.aws.amazon.com/kinesis/latest/APIReference/API_CreateStream.html>
        if !(1..=128).contains(&config.stream_name.len()) || !config.stream_name.bytes().all(is_name) {
            let message = "must be 1 to 128 letters, digits and any of `_.-`; it is a name, not an ARN";
            return Err(Error::config("stream_name", message));
        }
        if !(1_024..=REQUEST_BYTES_MAX).contains(&config.record_bytes_max) {
            let message = format!("{} is not between 1024 and {REQUEST_BYTES_MAX}", config.record_bytes_max);
            return Err(Error::config("record_bytes_max", message));
        }
        let aws = Aws::new(&config.aws, &config.connection, context)?;
        let encoding = Arc::new(Keyed::new(config.partition_key.clone()));
        Ok(Kinesis { config, aws, client: OnceCell::new(), encoding })
    }

    async fn client(&self) -> Result<&Client, Error> {
        self.client.get_or_try_init(|| async { Ok(Client::new(self.aws.sdk_config().await?)) }).await
    }
}

#[async_trait]
impl Exporter for Kinesis {
    fn kind(&self) -> &'static str {
        "kinesis"
    }

    fn limits(&self) -> Limits {
        // What frames a record is not sent; there is one at least.
        Limits::none()
            .chunk_records_max(RECORDS_MAX)
            .chunk_bytes_max(REQUEST_BYTES_MAX + FRAME)
            .record_bytes_max(self.config.record_bytes_max + FRAME)
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::none().answers_per_record()
    }

    fn encoding(&self) -> Option<Arc<dyn Encoding>> {
        Some(Arc::clone(&self.encoding) as Arc<dyn Encoding>)
    }

    async fn export(&self, chunk: &Chunk) -> Result<Outcome, Error> {
        let wrong = || Error::new(ErrorKind::Unexpected, "kinesis put", "the body is not that of the chunk");
        let body = chunk.body().ok_or_else(wrong)?;
        let entry = |(key, data): (&str, &[u8])| {
            PutRecordsRequestEntry::builder().partition_key(key).data(Blob::new(data)).build().map_err(|_| wrong())
        };
        let bytes = body.bytes();
        let entries = entries(&bytes).filter(|found| found.len() == chunk.len()).ok_or_else(wrong)?;
        let entries: Vec<_> = entries.into_iter().map(entry).collect::<Result<_, Error>>()?;
        let put = self.client().await?.put_records().stream_name(&self.config.stream_name);
        match put.set_records(Some(entries)).send().await {
            Ok(answer) => {
                let answers = answer.records().iter().map(|record| (record.error_code(), record.sequence_number()));
                outcome("kinesis put", chunk.len(), answers)
            }
            Err(error) => Err(refused(failure("kinesis put", error)).with("stream", &self.config.stream_name)),
        }
    }

    async fn refresh(&self) -> Result<(), Error> {
        self.aws.refresh().await
    }

    /// Looks for the stream. Rights to write do not include the right to look, so being refused that is no failure.
    async fn check(&self) -> Result<(), Error> {
        let asked = self.client().await?.describe_stream_summary().stream_name(&self.config.stream_name).send().await;
        match asked.map_err(|error| failure("kinesis check", error)) {
            Ok(_) => Ok(()),
            Err(error) if is_denied(&error) => Ok(()),
            Err(error) => Err(error.with("stream", &self.config.stream_name)),
        }
    }
}

impl fmt::Debug for Kinesis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kinesis")
            .field("stream_name", &self.config.stream_name)
            .field("aws", &self.aws)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_configuration_is_refused() {
        for (fields, field) in [
            (serde_json::json!({"stream_name": ""}), "stream_name"),
            (serde_json::json!({"stream_name": "arn:aws:kinesis:eu-west-1:1:stream/s"}), "stream_name"),
            (serde_json::json!({"stream_name": "s", "record_bytes_max": 10_485_761}), "record_bytes_max"),
            (serde_json::json!({"stream_name": "s", "record_bytes_max": 1_023}), "record_bytes_max"),
        ] {
            let config = serde_json::from_value(fields).unwrap();
            let error = Kinesis::new(config, &BuildContext::default()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.to_string().contains(field), "{error}");
        }
    }
}
