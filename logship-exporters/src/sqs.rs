//! Queues of AWS: the Simple Queue Service, through `SendMessageBatch`.

use std::fmt;
use std::sync::Arc;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::operation::send_message_batch::SendMessageBatchOutput;
use aws_sdk_sqs::types::{QueueAttributeName, SendMessageBatchRequestEntry};
pub use logship_connect::aws::{AssumeRole, AwsConfig, AwsCredentials};
use logship_connect::aws::{Aws, error_code, failure, is_denied};
pub use logship_connect::{Connection, TlsVersion};
use logship_core::{
    Advice, BuildContext, Capabilities, Chunk, Compression, Encoding, Error, ErrorKind, Exporter, Limits, Outcome,
    Registry, async_trait, read_fields,
};
use serde::Deserialize;
use tokio::sync::OnceCell;

use crate::encode::records::Records;

/// Messages of a batch.
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html>, as what follows.
const MESSAGES_MAX: usize = 10;
/// The largest batch, all its messages together, and the largest message.
const BATCH_BYTES_MAX: usize = 1_048_576;
/// What a queue takes as one message where nothing else was set, if it was made before the limit above was raised.
const MESSAGE_BYTES: usize = 262_144;

/// Where to send, and as whom.
///
/// ```
/// use logship_core::{BuildContext, Exporter, read_fields};
/// use logship_exporters::sqs::Sqs;
///
/// let fields = serde_json::from_str(
///     r#"{
///         "queue_url": "https://sqs.eu-west-1.amazonaws.com/123456789012/dead-logs",
///         "aws": {
///             "region": "eu-west-1",
///             "credentials": {"static": {"access_key_id": "AKIA…", "secret_access_key": "secret-key"}}
///         }
///     }"#,
/// )?;
/// let exporter = Sqs::new(read_fields(fields)?, &BuildContext::default())?;
/// assert_eq!(exporter.limits().chunk_records_max, Some(10));
/// assert!(!format!("{exporter:?}").contains("secret-key"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct SqsConfig {
    /// The queue, by its address. A standard queue: those that end in `.fifo` are not taken.
    #[serde(alias = "queueUrl")]
    pub queue_url: String,
    /// The largest message in bytes, which is the queue's `MaximumMessageSize`. A longer record is refused before it is
    /// sent. Default: 262,144; maximum: 1,048,576.
    #[serde(default = "message_bytes")]
    pub message_bytes_max: usize,
    /// Who sends, and where.
    #[serde(default)]
    pub aws: AwsConfig,
    /// How connections are made.
    #[serde(default)]
    pub connection: Connection,
}

fn message_bytes() -> usize {
    MESSAGE_BYTES
}

impl SqsConfig {
    /// This queue, all else as by default.
    pub fn new(queue_url: impl Into<String>) -> Self {
        SqsConfig {
            queue_url: queue_url.into(),
            message_bytes_max: message_bytes(),
            aws: AwsConfig::default(),
            connection: Connection::default(),
        }
    }
}

/// Sends each record as a message: the whole record as JSON, with its id. Meant for dead letters and for the few records
/// that somebody has to look at: a request holds ten.
///
/// # Errors
/// Throttling and failures of the service are tried again, those of single messages for these alone. A message that is
/// refused for what it is, is refused alone. Credentials that have ended are renewed, once.
///
/// # Cancellation
/// Dropping an export closes its connection. The messages may be in the queue; it does not recognise a repeat.
pub struct Sqs {
    config: SqsConfig,
    aws: Aws,
    client: OnceCell<Client>,
    encoding: Arc<Records>,
}

pub(crate) fn register(registry: &mut Registry) {
    #[cfg(feature = "schema")]
    registry.describe_exporter::<SqsConfig>("sqs");
    registry.add_exporter("sqs", |fields, context| Sqs::new(read_fields(fields)?, context));
}

impl Sqs {
    /// Checks a configuration and finds its secrets. Sends nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Config`], which names the field.
    pub fn new(config: SqsConfig, context: &BuildContext) -> Result<Self, Error> {
        if let (_, Some(_)) = logship_connect::parse_url("queue_url", &config.queue_url)? {
            return Err(Error::config("queue_url", "holds a user: the credentials have a field of their own"));
        }
        if config.queue_url.ends_with(".fifo") {
            return Err(Error::config("queue_url", "is a FIFO queue: give a standard one"));
        }
        if !(1_024..=BATCH_BYTES_MAX).contains(&config.message_bytes_max) {
            let message = format!("{} is not between 1024 and {BATCH_BYTES_MAX}", config.message_bytes_max);
            return Err(Error::config("message_bytes_max", message));
        }
        let aws = Aws::new(&config.aws, &config.connection, context)?;
        let encoding = Arc::new(Records::new(Compression::None));
        Ok(Sqs { config, aws, client: OnceCell::new(), encoding })
    }

    async fn client(&self) -> Result<&Client, Error> {
        self.client.get_or_try_init(|| async { Ok(Client::new(self.aws.sdk_config().await?)) }).await
    }
}

#[async_trait]
impl Exporter for Sqs {
    fn kind(&self) -> &'static str {
        "sqs"
    }

    fn limits(&self) -> Limits {
        // Each line ends in a byte that is not sent.
        Limits::none()
            .chunk_records_max(MESSAGES_MAX)
            .chunk_bytes_max(BATCH_BYTES_MAX)
            .record_bytes_max((self.config.message_bytes_max + 1).min(BATCH_BYTES_MAX))
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::none().answers_per_record()
    }

    fn encoding(&self) -> Option<Arc<dyn Encoding>> {
        Some(Arc::clone(&self.encoding) as Arc<dyn Encoding>)
    }

    async fn export(&self, chunk: &Chunk) -> Result<Outcome, Error> {
        let entries = entries(chunk)?;
        let send = self.client().await?.send_message_batch().queue_url(&self.config.queue_url);
        match send.set_entries(Some(entries)).send().await {
            Ok(answer) => outcome(chunk.len(), &answer),
            Err(error) => {
                let error = failure("sqs send", error).with("queue", &self.config.queue_url);
                Err(match error_code(&error) {
                    // Of one message, which is not named: the halves will tell.
                    "BatchRequestTooLong" | "InvalidMessageContents" => error.advise(Advice::Split),
                    _ => error,
                })
            }
        }
    }

    async fn refresh(&self) -> Result<(), Error> {
        self.aws.refresh().await
    }

    /// Looks for the queue. Rights to send do not include the right to look, so being refused that is no failure.
    async fn check(&self) -> Result<(), Error> {
        let asked = self.client().await?.get_queue_attributes().queue_url(&self.config.queue_url);
        let asked = asked.attribute_names(QueueAttributeName::QueueArn).send().await;
        match asked.map_err(|error| failure("sqs check", error)) {
            Ok(_) => Ok(()),
            Err(error) if is_denied(&error) => Ok(()),
            Err(error) => Err(error.with("queue", &self.config.queue_url)),
        }
    }
}

/// A message of each line, called by its place.
fn entries(chunk: &Chunk) -> Result<Vec<SendMessageBatchRequestEntry>, Error> {
    let wrong = || Error::new(ErrorKind::Unexpected, "sqs send", "the body is not that of the chunk");
    let body = chunk.body().ok_or_else(wrong)?;
    let bytes = body.bytes();
    let text = std::str::from_utf8(&bytes).map_err(|_| wrong())?;
    let entry = |(place, line): (usize, &str)| {
        // The two characters of JSON that a message cannot hold.
        let message = line.replace('\u{fffe}', "\\ufffe").replace('\u{ffff}', "\\uffff");
        let entry = SendMessageBatchRequestEntry::builder().id(place.to_string()).message_body(message);
        entry.build().map_err(|_| wrong())
    };
    let entries: Vec<_> = text.lines().enumerate().map(entry).collect::<Result<_, Error>>()?;
    if entries.len() == chunk.len() { Ok(entries) } else { Err(wrong()) }
}

/// What became of each message. What the service does not name was not delivered.
fn outcome(len: usize, answer: &SendMessageBatchOutput) -> Result<Outcome, Error> {
    let place = |id: &str| {
        id.parse().ok().filter(|place| *place < len).ok_or_else(|| {
            Error::new(ErrorKind::Protocol, "sqs send", "the answer speaks of messages that were not sent")
                .certainty_is(logship_core::Certainty::Unknown)
        })
    };
    let mut outcome = Outcome::builder(len);
    for sent in answer.successful() {
        outcome.accepted(place(sent.id())?);
    }
    for failed in answer.failed() {
        let place = place(failed.id())?;
        if failed.sender_fault() && !failed.code().contains("Throttl") {
            let reason = Error::excerpt(failed.message().unwrap_or_default().as_bytes());
            outcome.rejected(place, Error::excerpt(failed.code().as_bytes()), reason);
        } else {
            outcome.retry(place);
        }
    }
    Ok(outcome.build())
}

impl fmt::Debug for Sqs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sqs").field("queue_url", &self.config.queue_url).field("aws", &self.aws).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_sqs::types::{BatchResultErrorEntry, SendMessageBatchResultEntry};
    use logship_core::Certainty;

    use super::*;

    fn answer(sent: &[&str], failed: &[(&str, &str, bool)]) -> SendMessageBatchOutput {
        let sent = sent.iter().map(|id| {
            let entry = SendMessageBatchResultEntry::builder().id(*id).message_id("m").md5_of_message_body("d");
            entry.build().unwrap()
        });
        let failed = failed.iter().map(|(id, code, is_ours)| {
            let entry = BatchResultErrorEntry::builder().id(*id).code(*code).message("why").sender_fault(*is_ours);
            entry.build().unwrap()
        });
        let answer = SendMessageBatchOutput::builder().set_successful(Some(sent.collect()));
        answer.set_failed(Some(failed.collect())).build().unwrap()
    }

    #[test]
    fn c2_each_message_has_a_fate_of_its_own() {
        let failed = [("1", "InvalidParameterValue", true), ("2", "InternalError", false), ("3", "KmsThrottled", true)];
        let outcome = outcome(5, &answer(&["0"], &failed)).unwrap();
        assert_eq!(outcome.accepted_count(), 1);
        let rejected: Vec<_> = outcome.rejected().map(|(place, why)| (place, why.code.as_str())).collect();
        assert_eq!(rejected, [(1, "InvalidParameterValue")]);
        assert_eq!(outcome.undelivered().collect::<Vec<_>>(), [2, 3, 4], "4 is not named");
    }

    #[test]
    fn an_answer_about_other_messages_confirms_nothing() {
        for id in ["5", "x", "-1"] {
            let error = outcome(5, &answer(&[id], &[])).unwrap_err();
            assert_eq!((error.kind(), error.certainty()), (ErrorKind::Protocol, Certainty::Unknown), "{id}");
        }
    }

    #[test]
    fn a_wrong_configuration_is_refused() {
        let url = "https://sqs.eu-west-1.amazonaws.com/1/q";
        for (fields, field) in [
            (serde_json::json!({"queue_url": "q"}), "queue_url"),
            (serde_json::json!({"queue_url": format!("{url}.fifo")}), "queue_url"),
            (serde_json::json!({"queue_url": url, "message_bytes_max": 1_048_577}), "message_bytes_max"),
        ] {
            let config = serde_json::from_value(fields).unwrap();
            let error = Sqs::new(config, &BuildContext::default()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.to_string().contains(field), "{error}");
        }
    }
}
