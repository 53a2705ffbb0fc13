//! CloudWatch Logs of AWS, through `PutLogEvents`.

mod encoding;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_cloudwatchlogs::Client;
use aws_sdk_cloudwatchlogs::types::RejectedLogEventsInfo;
use bytes::Bytes;
pub use logship_connect::aws::{AssumeRole, AwsConfig, AwsCredentials};
use logship_connect::aws::{Aws, error_code, failure, is_denied};
pub use logship_connect::{Connection, TlsVersion};
use logship_core::{
    Advice, BuildContext, Capabilities, Certainty, Chunk, Encoding, Error, ErrorKind, Exporter, Limits, Outcome,
    Partition, Registry, async_trait, read_fields,
};
use serde::Deserialize;
use tokio::sync::OnceCell;

use self::encoding::{Frames, OVERHEAD, messages};
use crate::encode::json;

/// The largest batch, messages counted with 26 bytes more each.
/// <https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_PutLogEvents.html>, as all that follow.
const BATCH_BYTES_MAX: usize = 1_048_576;
/// The largest event, counted in the same way: "Each log event can be no larger than 1 MB".
const EVENT_BYTES_MAX: usize = 1_048_576;
/// Events of a batch.
const EVENTS_MAX: usize = 10_000;
/// From the first event of a batch to its last.
const SPAN_MAX: Duration = Duration::from_secs(24 * 3600);
/// How old an event may be, unless its group forgets sooner.
const AGE_MAX: Duration = Duration::from_secs(14 * 24 * 3600);
/// How far in the future an event may lie.
const AHEAD_MAX: Duration = Duration::from_secs(2 * 3600);
/// Characters of a name of a group or a stream.
/// <https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_CreateLogStream.html>
const NAME_MAX: usize = 512;
/// After how many days a group can forget.
/// <https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_PutRetentionPolicy.html>
const RETENTION_DAYS: [u32; 22] =
    [1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653];

/// Where to write, and as whom.
///
/// ```
/// use logship_core::{BuildContext, Exporter, read_fields};
/// use logship_exporters::cloudwatch::CloudWatch;
///
/// let fields = serde_json::from_str(
///     r#"{
///         "log_group_name": "kestra",
///         "log_stream_name": "production",
///         "aws": {
///             "region": "eu-west-1",
///             "credentials": {"static": {"access_key_id": "AKIA…", "secret_access_key": "secret-key"}}
///         }
///     }"#,
/// )?;
/// let exporter = CloudWatch::new(read_fields(fields)?, &BuildContext::default())?;
/// assert_eq!(exporter.limits().chunk_records_max, Some(10_000));
/// assert!(!format!("{exporter:?}").contains("secret-key"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct CloudWatchConfig {
    /// The log group.
    #[serde(alias = "logGroupName")]
    pub log_group_name: String,
    /// The log stream. Default: `logship`.
    #[serde(default = "logship", alias = "logStreamName")]
    pub log_stream_name: String,
    /// A stream for each partition of the source, called `log_stream_name`, a slash and the partition; `:`, `*` and `%`
    /// in it as `%3A`, `%2A` and `%25`. Default: false.
    #[serde(default)]
    pub stream_per_partition: bool,
    /// Makes a stream that is not there. Default: true.
    #[serde(default = "yes")]
    pub create_log_stream: bool,
    /// Makes the group if it is not there. Default: false, as a wrong name would be a new group.
    #[serde(default)]
    pub create_log_group: bool,
    /// After how many days the group forgets; set when the group is made, and what is older is refused here. One of
    /// those AWS knows, such as 1, 7, 14, 30, 90 or 365. Default: never, and 14 days for what is refused.
    #[serde(default)]
    pub retention_days: Option<u32>,
    /// What a message is. Default: `json`.
    #[serde(default)]
    pub message: Message,
    /// The largest batch in bytes, each message counted with 26 more. Default and maximum: 1,048,576.
    #[serde(default = "batch_bytes_max")]
    pub chunk_bytes_max: usize,
    /// Who asks, and where.
    #[serde(default)]
    pub aws: AwsConfig,
    /// How connections are made.
    #[serde(default)]
    pub connection: Connection,
}

/// What the message of an event is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Message {
    /// The whole record as JSON, with its id: `fields` in Logs Insights finds all of it, and `dedup id` leaves out what
    /// was sent twice.
    #[default]
    Json,
    /// What the record says, alone: its text, or the JSON of a body that is no text. An empty one is a space, as AWS
    /// takes no empty message. A text in the embedded metric format makes metrics, which cost.
    Text,
}

impl CloudWatchConfig {
    /// Everything by default.
    pub fn new(log_group_name: impl Into<String>) -> Self {
        CloudWatchConfig {
            log_group_name: log_group_name.into(),
            log_stream_name: logship(),
            stream_per_partition: false,
            create_log_stream: true,
            create_log_group: false,
            retention_days: None,
            message: Message::Json,
            chunk_bytes_max: BATCH_BYTES_MAX,
            aws: AwsConfig::default(),
            connection: Connection::default(),
        }
    }

    fn validate(&self) -> Result<(), Error> {
        let is_group = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-/.#".contains(&byte));
        let has_room = |name: &str| (1..=NAME_MAX).contains(&name.chars().count());
        if !has_room(&self.log_group_name) || !is_group(&self.log_group_name) {
            let message = "must be 1 to 512 letters, digits and any of `_-/.#`; it is a name, not an ARN";
            return Err(Error::config("log_group_name", message));
        }
        if !has_room(&self.log_stream_name) || self.log_stream_name.contains([':', '*']) {
            return Err(Error::config("log_stream_name", "must be 1 to 512 characters, without `:` and `*`"));
        }
        if let Some(days) = self.retention_days.filter(|days| !RETENTION_DAYS.contains(days)) {
            let message = format!("{days} is none of those AWS knows: {RETENTION_DAYS:?}");
            return Err(Error::config("retention_days", message));
        }
        if !(OVERHEAD + 1..=BATCH_BYTES_MAX).contains(&self.chunk_bytes_max) {
            let message = format!("{} is not between {} and {BATCH_BYTES_MAX}", self.chunk_bytes_max, OVERHEAD + 1);
            return Err(Error::config("chunk_bytes_max", message));
        }
        Ok(())
    }
}

fn logship() -> String {
    "logship".to_owned()
}

fn yes() -> bool {
    true
}

fn batch_bytes_max() -> usize {
    BATCH_BYTES_MAX
}

/// Puts chunks into a log stream.
///
/// The events of a batch are sent in the order of their times, whatever order the source has. Events that AWS finds too
/// old, too new or expired are refused one by one; the others of the batch are there.
///
/// # Errors
/// Throttling and failures of the service are tried again. Credentials that have ended are renewed, once. A batch that
/// is refused as a whole because of one event, which AWS does not name, is split down to it. A group or stream that is
/// not there is made if the configuration says so, and the batch sent again.
///
/// # Cancellation
/// Dropping an export closes its connection. AWS may have taken the events; it does not recognise a repeat.
pub struct CloudWatch {
    config: CloudWatchConfig,
    aws: Aws,
    client: OnceCell<Client>,
    encoding: Arc<Frames>,
}

pub(crate) fn register(registry: &mut Registry) {
    registry.add_exporter("cloudwatch", |fields, context| CloudWatch::new(read_fields(fields)?, context));
    #[cfg(feature = "schema")]
    registry.describe_exporter::<CloudWatchConfig>("cloudwatch");
}

impl CloudWatch {
    /// Checks a configuration and finds its secrets. Sends nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Config`], which names the field.
    pub fn new(config: CloudWatchConfig, context: &BuildContext) -> Result<Self, Error> {
        config.validate()?;
        let aws = Aws::new(&config.aws, &config.connection, context)?;
        let encoding = Arc::new(Frames::new(config.message));
        Ok(CloudWatch { config, aws, client: OnceCell::new(), encoding })
    }

    async fn client(&self) -> Result<&Client, Error> {
        self.client.get_or_try_init(|| async { Ok(Client::new(self.aws.sdk_config().await?)) }).await
    }

    /// The stream a chunk goes to.
    fn stream_for(&self, partition: Option<&Partition>) -> Result<Cow<'_, str>, Error> {
        let base = self.config.log_stream_name.as_str();
        let Some(partition) = partition.filter(|_| self.config.stream_per_partition) else {
            return Ok(Cow::Borrowed(base));
        };
        let mut name = format!("{base}/");
        for letter in partition.as_str().chars() {
            match letter {
                ':' => name.push_str("%3A"),
                '*' => name.push_str("%2A"),
                '%' => name.push_str("%25"),
                letter => name.push(letter),
            }
        }
        if name.chars().count() > NAME_MAX {
            let message = format!("the name of the partition's stream is longer than {NAME_MAX} characters");
            return Err(Error::new(ErrorKind::Config, "cloudwatch put", message).with("partition", partition));
        }
        Ok(Cow::Owned(name))
    }

    /// The error of a batch; makes what was missing, if that is why.
    async fn failed(&self, error: Error, stream: &str) -> Error {
        let error = error.with("group", &self.config.log_group_name).with("stream", stream);
        match error_code(&error) {
            // A wrong event, or a wrong stream: the halves will tell.
            "InvalidParameterException" => error.advise(Advice::Split),
            "ResourceNotFoundException" if self.config.create_log_stream => match self.create(stream).await {
                Ok(()) => error.advise(Advice::After(None)),
                // Whatever became of the stream, the batch is not there.
                Err(cause) => cause.certainty_is(Certainty::NotDelivered),
            },
            _ => error,
        }
    }

    /// Makes the stream, and its group if that is what is missing and may be made. It is no error if they are there.
    async fn create(&self, stream: &str) -> Result<(), Error> {
        match self.create_stream(stream).await {
            Err(error) if error.kind() == ErrorKind::NotFound && self.config.create_log_group => {
                self.create_group().await?;
                self.create_stream(stream).await
            }
            created => created,
        }
    }

    async fn create_stream(&self, stream: &str) -> Result<(), Error> {
        let group = self.config.log_group_name.as_str();
        let created = self.client().await?.create_log_stream().log_group_name(group).log_stream_name(stream).send();
        let created = created.await.map(drop).map_err(|error| failure("cloudwatch create stream", error));
        unless_there(created).map_err(|error| error.with("group", group).with("stream", stream))
    }

    async fn create_group(&self) -> Result<(), Error> {
        let group = self.config.log_group_name.as_str();
        let created = self.client().await?.create_log_group().log_group_name(group).send().await;
        let created = created.map(drop).map_err(|error| failure("cloudwatch create group", error));
        unless_there(created).map_err(|error| error.with("group", group))?;
        let Some(days) = self.config.retention_days else { return Ok(()) };
        let days = i32::try_from(days).unwrap_or(i32::MAX);
        let policy = self.client().await?.put_retention_policy().log_group_name(group).retention_in_days(days);
        let policy = policy.send().await;
        policy.map(drop).map_err(|error| failure("cloudwatch set retention", error).with("group", group))
    }
}

/// The error of making something, unless that is there already.
fn unless_there(created: Result<(), Error>) -> Result<(), Error> {
    match created {
        Err(error) if error_code(&error) == "ResourceAlreadyExistsException" => Ok(()),
        created => created,
    }
}

#[async_trait]
impl Exporter for CloudWatch {
    fn kind(&self) -> &'static str {
        "cloudwatch"
    }

    fn limits(&self) -> Limits {
        let forgets = self.config.retention_days.map(|days| Duration::from_secs(u64::from(days) * 24 * 3600));
        let limits = Limits::none()
            .chunk_records_max(EVENTS_MAX)
            .chunk_bytes_max(self.config.chunk_bytes_max)
            .record_bytes_max(EVENT_BYTES_MAX.min(self.config.chunk_bytes_max))
            .record_age_max(forgets.map_or(AGE_MAX, |forgets| forgets.min(AGE_MAX)))
            .record_ahead_max(AHEAD_MAX)
            .span_max(SPAN_MAX);
        if self.config.stream_per_partition { limits.one_partition() } else { limits }
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::none().answers_per_record()
    }

    fn encoding(&self) -> Option<Arc<dyn Encoding>> {
        Some(Arc::clone(&self.encoding) as Arc<dyn Encoding>)
    }

    async fn export(&self, chunk: &Chunk) -> Result<Outcome, Error> {
        let stream = self.stream_for(chunk.partition())?;
        let group = self.config.log_group_name.as_str();
        let (order, body) = request(group, &stream, chunk)?;
        let put = self.client().await?.put_log_events().log_group_name(group).log_stream_name(&*stream);
        // The SDK would write a message character by character, which takes longer than all else. It signs what is here.
        let put = put.set_log_events(Some(Vec::new())).customize().mutate_request(move |request| {
            request.headers_mut().insert("content-length", body.len().to_string());
            *request.body_mut() = body.clone().into();
        });
        match put.send().await {
            // What AWS says of the entity of a batch is of no event, and we send none.
            Ok(answer) => outcome(&order, answer.rejected_log_events_info()),
            Err(error) => Err(self.failed(failure("cloudwatch put", error), &stream).await),
        }
    }

    async fn refresh(&self) -> Result<(), Error> {
        self.aws.refresh().await
    }

    /// Looks for the stream. Rights to write do not include the right to look, so being refused that is no failure.
    async fn check(&self) -> Result<(), Error> {
        let (group, stream) = (self.config.log_group_name.as_str(), self.config.log_stream_name.as_str());
        let found = self.client().await?.describe_log_streams().log_group_name(group).log_stream_name_prefix(stream);
        let found = match found.limit(1).send().await.map_err(|error| failure("cloudwatch check", error)) {
            Ok(found) => found,
            Err(error) if is_denied(&error) => return Ok(()),
            Err(error) if error_code(&error) == "ResourceNotFoundException" && self.config.create_log_group => {
                return Ok(());
            }
            Err(error) => return Err(error.with("group", group)),
        };
        // The first of all whose names begin so is the shortest.
        let is_there = found.log_streams().iter().any(|found| found.log_stream_name() == Some(stream));
        if is_there || self.config.create_log_stream || self.config.stream_per_partition {
            return Ok(());
        }
        let error = Error::new(ErrorKind::NotFound, "cloudwatch check", "there is no such stream");
        Err(error.with("group", group).with("stream", stream))
    }
}

/// The body of a request, and of each event in it its place in the chunk: AWS asks for the order of their times.
fn request(group: &str, stream: &str, chunk: &Chunk) -> Result<(Vec<usize>, Bytes), Error> {
    let wrong = || Error::new(ErrorKind::Unexpected, "cloudwatch put", "the body is not that of the chunk");
    let bytes = chunk.body().ok_or_else(wrong)?.bytes();
    let messages = messages(&bytes).filter(|found| found.len() == chunk.len()).ok_or_else(wrong)?;
    let times: Vec<i64> = chunk.timestamps().map(|time| time.as_millis()).collect();
    let mut order: Vec<usize> = (0..times.len()).collect();
    order.sort_by_key(|place| times[*place]);
    // Messages are JSON, whose quotes are escaped.
    let mut out = Vec::with_capacity(bytes.len() * 3 / 2);
    out.extend_from_slice(b"{\"logGroupName\":");
    json::string(&mut out, group);
    out.extend_from_slice(b",\"logStreamName\":");
    json::string(&mut out, stream);
    out.extend_from_slice(b",\"logEvents\":[");
    for (index, place) in order.iter().enumerate() {
        out.extend_from_slice(if index > 0 { b",{\"timestamp\":" } else { b"{\"timestamp\":" });
        json::int(&mut out, times[*place]);
        out.extend_from_slice(b",\"message\":");
        json::string_of(&mut out, &bytes[messages[*place].clone()]);
        out.push(b'}');
    }
    out.extend_from_slice(b"]}");
    Ok((order, out.into()))
}

/// What became of each record. AWS gives borders in the batch: what lies before the one is too old, or its group has
/// forgotten it already; what lies behind the other is too new; all between is there.
fn outcome(order: &[usize], refused: Option<&RejectedLogEventsInfo>) -> Result<Outcome, Error> {
    let Some(refused) = refused else { return Ok(Outcome::all_accepted(order.len())) };
    let border = |index: Option<i32>, without: usize| match index.map(usize::try_from) {
        None => Ok(without),
        Some(Ok(index)) if index <= order.len() => Ok(index),
        Some(_) => {
            let message = "the answer speaks of events that were not sent";
            Err(Error::new(ErrorKind::Protocol, "cloudwatch put", message).certainty_is(Certainty::Unknown))
        }
    };
    let too_old = border(refused.too_old_log_event_end_index(), 0)?;
    let expired = border(refused.expired_log_event_end_index(), 0)?;
    let too_new = border(refused.too_new_log_event_start_index(), order.len())?;
    let mut outcome = Outcome::builder(order.len());
    for (index, place) in order.iter().enumerate() {
        if index < too_old {
            outcome.rejected(*place, "tooOld", "older than the 14 days that CloudWatch Logs takes");
        } else if index < expired {
            outcome.rejected(*place, "expired", "older than what the log group keeps");
        } else if index >= too_new {
            outcome.rejected(*place, "tooNew", "more than 2 hours in the future");
        } else {
            outcome.accepted(*place);
        }
    }
    Ok(outcome.build())
}

impl fmt::Debug for CloudWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CloudWatch")
            .field("log_group_name", &self.config.log_group_name)
            .field("log_stream_name", &self.config.log_stream_name)
            .field("aws", &self.aws)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use logship_core::{Cursor, LogRecord, Page, PageEnd, RecordId, Timestamp};
    use serde_json::json;

    use super::*;

    fn fates(order: &[usize], info: RejectedLogEventsInfo) -> Vec<String> {
        let outcome = outcome(order, Some(&info)).unwrap();
        let mut fates = vec!["accepted".to_owned(); order.len()];
        outcome.rejected().for_each(|(index, rejection)| fates[index].clone_from(&rejection.code));
        assert_eq!(outcome.undelivered().count(), 0);
        fates
    }

    #[test]
    fn a_request_holds_all_messages_as_they_are_in_the_order_of_their_times() {
        let messages = ["say \"hi\"\n\t\\", "\u{8}\u{c}\u{1}\u{7f}é", "last"];
        let record = |(number, message): (i64, &&str)| {
            let id = RecordId::new(Partition::new("p"), Cursor::number(number));
            let mut record = LogRecord::new(id, Timestamp::from_millis(100 - number));
            record.body = (*message).into();
            record
        };
        let page = Page::new(Partition::new("p"), (0..).zip(&messages).map(record).collect(), PageEnd::More);
        let chunk = Chunk::of_page(page, Some(&Frames::new(Message::Text))).unwrap();
        let (order, body) = request("a \"group\"", "stream", &chunk).unwrap();
        assert_eq!(order, [2, 1, 0]);
        let event = |place: usize| json!({"timestamp": 100 - place, "message": messages[place]});
        let events: Vec<_> = order.iter().map(|place| event(*place)).collect();
        let expected = json!({"logGroupName": "a \"group\"", "logStreamName": "stream", "logEvents": events});
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&body).unwrap(), expected);
    }

    #[test]
    fn borders_are_of_the_batch_and_fates_of_the_chunk() {
        let info = || RejectedLogEventsInfo::builder();
        let order = [2, 0, 1, 3];
        let both = info().too_old_log_event_end_index(1).too_new_log_event_start_index(3).build();
        assert_eq!(fates(&order, both), ["accepted", "accepted", "tooOld", "tooNew"]);
        let expired = info().too_old_log_event_end_index(1).expired_log_event_end_index(2).build();
        assert_eq!(fates(&order, expired), ["expired", "accepted", "tooOld", "accepted"]);
        assert_eq!(fates(&order, info().build()), ["accepted"; 4]);
        assert_eq!(fates(&order, info().too_new_log_event_start_index(0).build()), ["tooNew"; 4]);
    }

    #[test]
    fn borders_that_make_no_sense_confirm_nothing() {
        for index in [-1, 5] {
            let info = RejectedLogEventsInfo::builder().too_old_log_event_end_index(index).build();
            let error = outcome(&[0, 1, 2, 3], Some(&info)).unwrap_err();
            assert_eq!((error.kind(), error.certainty()), (ErrorKind::Protocol, Certainty::Unknown));
        }
    }

    #[test]
    fn a_partition_has_a_stream_of_its_own_that_no_other_has() {
        let mut config = CloudWatchConfig::new("group");
        config.stream_per_partition = true;
        let exporter = CloudWatch::new(config, &BuildContext::default()).unwrap();
        let name = |partition: &str| exporter.stream_for(Some(&Partition::new(partition))).map(Cow::into_owned);
        assert_eq!(name("a:b*c%d").unwrap(), "logship/a%3Ab%2Ac%25d");
        assert_ne!(name("a:b").unwrap(), name("a%3Ab").unwrap());
        assert_eq!(name(&"x".repeat(513)).unwrap_err().kind(), ErrorKind::Config);
        assert!(exporter.limits().one_partition);
    }
}
