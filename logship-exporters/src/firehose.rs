//! Streams of Amazon Data Firehose, through `PutRecordBatch`.

use std::fmt;
use std::sync::Arc;

use aws_sdk_firehose::Client;
use aws_sdk_firehose::primitives::Blob;
use aws_sdk_firehose::types::Record;
pub use logship_connect::aws::{AssumeRole, AwsConfig, AwsCredentials};
use logship_connect::aws::{Aws, failure, is_denied};
pub use logship_connect::{Connection, TlsVersion};
use logship_core::{
    BuildContext, Capabilities, Chunk, Compression, Encoding, Error, ErrorKind, Exporter, Limits, Outcome, Registry,
    async_trait, read_fields,
};
use serde::Deserialize;
use tokio::sync::OnceCell;

use crate::encode::records::Records;
use crate::put_records::{outcome, refused};

/// Records of a request.
/// <https://docs.aws.amazon.com/firehose/latest/APIReference/API_PutRecordBatch.html>, as what follows.
const RECORDS_MAX: usize = 500;
/// The largest request, all its records together, before they are written in base64.
/// <https://docs.aws.amazon.com/firehose/latest/dev/limits.html>, as what follows.
const REQUEST_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The largest record: 1,000 KiB.
const RECORD_BYTES_MAX: usize = 1_000 * 1024;

/// Where to put records, and as whom.
///
/// ```
/// use logship_core::{BuildContext, Exporter, read_fields};
/// use logship_exporters::firehose::Firehose;
///
/// let fields = serde_json::from_str(
///     r#"{
///         "delivery_stream_name": "logs-to-s3",
///         "aws": {
///             "region": "eu-west-1",
///             "credentials": {"static": {"access_key_id": "AKIA…", "secret_access_key": "secret-key"}}
///         }
///     }"#,
/// )?;
/// let exporter = Firehose::new(read_fields(fields)?, &BuildContext::default())?;
/// assert_eq!(exporter.limits().chunk_records_max, Some(500));
/// assert!(!format!("{exporter:?}").contains("secret-key"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct FirehoseConfig {
    /// The stream, by its name. One that takes records directly (Direct PUT), not from elsewhere.
    #[serde(alias = "deliveryStreamName")]
    pub delivery_stream_name: String,
    /// Whether each record ends in a line break, which tells it from the next where Firehose writes them together. Not
    /// for a stream that puts a delimiter there itself. Default: true.
    #[serde(default = "yes")]
    pub newline: bool,
    /// Who sends, and where.
    #[serde(default)]
    pub aws: AwsConfig,
    /// How connections are made.
    #[serde(default)]
    pub connection: Connection,
}

fn yes() -> bool {
    true
}

impl FirehoseConfig {
    /// This stream, all else as by default.
    pub fn new(delivery_stream_name: impl Into<String>) -> Self {
        FirehoseConfig {
            delivery_stream_name: delivery_stream_name.into(),
            newline: yes(),
            aws: AwsConfig::default(),
            connection: Connection::default(),
        }
    }
}

/// Gives each record to Firehose: the whole record as JSON, with its id.
///
/// What is accepted is with Firehose, which brings it to its destination when it thinks fit; what becomes of it there it
/// says in its own error output.
///
/// # Errors
/// Failures of the service, throttling among them, are tried again, those of single records for these alone. A request
/// that is refused as a whole because of one record, which AWS does not name, is split down to it. Credentials that have
/// ended are renewed, once.
///
/// # Cancellation
/// Dropping an export closes its connection. Firehose may have the records; it does not recognise a repeat.
pub struct Firehose {
    config: FirehoseConfig,
    aws: Aws,
    client: OnceCell<Client>,
    encoding: Arc<Records>,
}

pub(crate) fn register(registry: &mut Registry) {
    #[cfg(feature = "schema")]
    registry.describe_exporter::<FirehoseConfig>("firehose");
    registry.add_exporter("firehose", |fields, context| Firehose::new(read_fields(fields)?, context));
}

impl Firehose {
    /// Checks a configuration and finds its secrets. Sends nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Config`], which names the field.
    pub fn new(config: FirehoseConfig, context: &BuildContext) -> Result<Self, Error> {
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        // <https://docs.aws.amazon.com/firehose/latest/APIReference/API_CreateDeliveryStream.html>
        let name = &config.delivery_stream_name;
        if !(1..=64).contains(&name.len()) || !name.bytes().all(is_name) {
            let message = "must be 1 to 64 letters, digits and any of `_.-`; it is a name, not an ARN";
            return Err(Error::config("delivery_stream_name", message));
        }
        let aws = Aws::new(&config.aws, &config.connection, context)?;
        let encoding = Arc::new(Records::new(Compression::None));
        Ok(Firehose { config, aws, client: OnceCell::new(), encoding })
    }

    async fn client(&self) -> Result<&Client, Error> {
        self.client.get_or_try_init(|| async { Ok(Client::new(self.aws.sdk_config().await?)) }).await
    }

    /// A record of each line.
    fn records(&self, chunk: &Chunk) -> Result<Vec<Record>, Error> {
        let wrong = || Error::new(ErrorKind::Unexpected, "firehose put", "the body is not that of the chunk");
        let body = chunk.body().ok_or_else(wrong)?;
        let bytes = body.bytes();
        let lines = bytes.split_inclusive(|byte| *byte == b'\n');
        let record = |line: &[u8]| {
            let data = if self.config.newline { line } else { line.strip_suffix(b"\n").unwrap_or(line) };
            Record::builder().data(Blob::new(data)).build().map_err(|_| wrong())
        };
        let records: Vec<_> = lines.map(record).collect::<Result<_, Error>>()?;
        if records.len() == chunk.len() { Ok(records) } else { Err(wrong()) }
    }
}

#[async_trait]
impl Exporter for Firehose {
    fn kind(&self) -> &'static str {
        "firehose"
    }

    fn limits(&self) -> Limits {
        // A line break that is not sent is not counted; there is one at least.
        let unsent = usize::from(!self.config.newline);
        Limits::none()
            .chunk_records_max(RECORDS_MAX)
            .chunk_bytes_max(REQUEST_BYTES_MAX + unsent)
            .record_bytes_max(RECORD_BYTES_MAX + unsent)
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::none().answers_per_record()
    }

    fn encoding(&self) -> Option<Arc<dyn Encoding>> {
        Some(Arc::clone(&self.encoding) as Arc<dyn Encoding>)
    }

    async fn export(&self, chunk: &Chunk) -> Result<Outcome, Error> {
        let records = self.records(chunk)?;
        let put = self.client().await?.put_record_batch().delivery_stream_name(&self.config.delivery_stream_name);
        match put.set_records(Some(records)).send().await {
            Ok(answer) => {
                let answers = answer.request_responses().iter().map(|record| (record.error_code(), record.record_id()));
                outcome("firehose put", chunk.len(), answers)
            }
            Err(error) => {
                Err(refused(failure("firehose put", error)).with("stream", &self.config.delivery_stream_name))
            }
        }
    }

    async fn refresh(&self) -> Result<(), Error> {
        self.aws.refresh().await
    }

    /// Looks for the stream. Rights to write do not include the right to look, so being refused that is no failure.
    async fn check(&self) -> Result<(), Error> {
        let name = &self.config.delivery_stream_name;
        let asked = self.client().await?.describe_delivery_stream().delivery_stream_name(name).send().await;
        match asked.map_err(|error| failure("firehose check", error)) {
            Ok(_) => Ok(()),
            Err(error) if is_denied(&error) => Ok(()),
            Err(error) => Err(error.with("stream", name)),
        }
    }
}

impl fmt::Debug for Firehose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Firehose")
            .field("delivery_stream_name", &self.config.delivery_stream_name)
            .field("aws", &self.aws)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_configuration_is_refused() {
        for name in ["", "arn:aws:firehose:eu-west-1:1:deliverystream/s", &"x".repeat(65)] {
            let error = Firehose::new(FirehoseConfig::new(name), &BuildContext::default()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.to_string().contains("delivery_stream_name"), "{error}");
        }
    }
}
