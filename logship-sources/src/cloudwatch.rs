//! Log events in CloudWatch Logs of AWS.
//!
//! A log stream is a partition, called by its group, a colon and its name; streams and groups may appear while a run
//! lasts. A position is an event's time, in milliseconds, and its id.
//!
//! # Why the id
//! `GetLogEvents` gives tokens to read on with, but no ids, and a token cannot be made for a place in time;
//! `FilterLogEvents`, asked for one stream, gives each event an id that is the same on every read. It gives events in
//! the order of their times and, within one millisecond, of their arrival, which says nothing to whoever reads later. So
//! the events of a millisecond are put into the order of their ids here; a page ends between two milliseconds, or, where
//! one millisecond holds more than a page, behind an id.
//!
//! # What arrives late
//! A stream takes events up to 14 days old at any time, so rows may appear behind a position
//! ([`ArrivalOrder::Bounded`]): the engine reads the stretch of its `overlap` again and ships what it does not know yet.
//! Set the overlap to the longest time that a writer may lag behind; what is later than that, a reconciliation finds.

mod api;
mod export_task;
mod page;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use logship_connect::Connection;
use logship_connect::aws::{Aws, AwsConfig};
use logship_core::{
    ArrivalOrder, BuildContext, Cursor, Error, ErrorKind, Page, PageEnd, PageLimits, Partition, Query, Registry,
    Source, Start, Timestamp, async_trait, read_fields,
};
use serde::Deserialize;
use tokio::time::Instant;

use self::api::{Api, Stream};
pub use self::export_task::{ExportTask, ExportTaskConfig, ExportedTask, Exports};
use self::page::Collected;
use crate::aws::{excluded_groups, resource_of};
use crate::jsonl::JsonlFields;

/// Events of one answer.
/// <https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_FilterLogEvents.html>
const ANSWER_EVENTS_MAX: usize = 10_000;

/// What a configuration says of a [`CloudWatchSource`].
///
/// ```
/// use logship_core::{BuildContext, read_fields};
/// use logship_sources::cloudwatch::CloudWatchSource;
///
/// let fields = serde_json::from_str(
///     r#"{"log_group_prefixes": ["/aws/eks/cluster/dev", "/aws/eks/cluster/prd"], "aws": {"region": "eu-west-1"}}"#,
/// )?;
/// let source = CloudWatchSource::new(read_fields(fields)?, &BuildContext::default())?;
/// # let _ = source;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct CloudWatchSourceConfig {
    /// Log groups by their names. One that is not there is an error. Default: none.
    pub log_groups: Vec<String>,
    /// All log groups whose names begin so. Default: none; one of both is needed.
    pub log_group_prefixes: Vec<String>,
    /// Only streams whose names begin so. Default: all.
    pub log_stream_prefix: Option<String>,
    /// Groups that are left out, by their names: above all those that the lanes write to. The group of the Lambda
    /// function that runs this is always left out. Default: none.
    pub exclude_log_groups: Vec<String>,
    /// Reads messages that are objects of JSON: which of their fields are the record's own. The record's time stays
    /// that of the event. Default: none, a message is the body as it is.
    pub json: Option<JsonlFields>,
    /// Requests in a second, of all streams together. Default: 5, which is what AWS allows an account for reading in
    /// most regions (<https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/cloudwatch_limits_cwl.html>).
    pub requests_per_second: u32,
    /// How often groups and streams are listed, in seconds, while a run goes on. Default: 60.
    pub list_interval_secs: u64,
    /// Asks nothing of a stream whose last event, as listed, has been read, and which is listed as silent for an hour.
    /// Saves a request for each such stream; AWS brings that time up to date within an hour, mostly, and a new event in a
    /// silent stream may be seen so much later. Default: false.
    pub skip_idle_streams: bool,
    /// Who asks, and where.
    pub aws: AwsConfig,
    /// How connections are made.
    pub connection: Connection,
}

impl Default for CloudWatchSourceConfig {
    fn default() -> Self {
        CloudWatchSourceConfig {
            log_groups: Vec::new(),
            log_group_prefixes: Vec::new(),
            log_stream_prefix: None,
            exclude_log_groups: Vec::new(),
            json: None,
            requests_per_second: 5,
            list_interval_secs: 60,
            skip_idle_streams: false,
            aws: AwsConfig::default(),
            connection: Connection::default(),
        }
    }
}

/// Reads log streams.
///
/// A record's time is the event's, its observed time that of its arrival, its body the message. Group and stream are
/// `aws.log.group.names` and `aws.log.stream.names` of its resource, each a list of one, as OpenTelemetry calls them.
///
/// # Errors
/// Throttling is an error that may pass, and slows down all further requests for a moment. Credentials that have ended
/// are renewed, once. A stream that is deleted while it is read has no more events, nor has a group, unless it is one of
/// `log_groups`.
///
/// # Cancellation
/// Dropping a read loses nothing.
pub struct CloudWatchSource {
    config: CloudWatchSourceConfig,
    excluded: BTreeSet<String>,
    api: Api,
    listing: Mutex<Listing>,
}

/// The streams there were when they were last listed.
#[derive(Default)]
struct Listing {
    at: Option<Instant>,
    streams: BTreeMap<Partition, Stream>,
    /// The positions behind which a read of this process has found nothing more. A page may end inside a millisecond, so
    /// that a position's time alone does not tell.
    ends: BTreeMap<Partition, Cursor>,
}

pub(crate) fn register(registry: &mut Registry) {
    #[cfg(feature = "schema")]
    registry.describe_source::<CloudWatchSourceConfig>("cloudwatch");
    registry.add_source("cloudwatch", |fields, context| CloudWatchSource::new(read_fields(fields)?, context));
}

impl CloudWatchSource {
    /// Checks a configuration and finds its secrets. Asks nobody yet.
    ///
    /// # Errors
    /// [`ErrorKind::Config`], which names the field.
    pub fn new(config: CloudWatchSourceConfig, context: &BuildContext) -> Result<Self, Error> {
        let groups = || config.log_groups.iter().chain(&config.log_group_prefixes);
        if groups().next().is_none() {
            return Err(Error::config("log_groups", "name a group here, or a prefix in `log_group_prefixes`"));
        }
        if groups().any(String::is_empty) {
            return Err(Error::config("log_groups", "neither a name nor a prefix may be empty"));
        }
        if config.requests_per_second == 0 {
            return Err(Error::config("requests_per_second", "must be more than 0"));
        }
        let excluded = excluded_groups(&config.exclude_log_groups);
        if let Some(group) = config.log_groups.iter().find(|group| excluded.contains(*group)) {
            let message = format!("`{group}` is left out by `exclude_log_groups`, or is where this program writes");
            return Err(Error::config("log_groups", message));
        }
        let aws = Aws::new(&config.aws, &config.connection, context)?;
        let api = Api::new(aws, config.requests_per_second);
        Ok(CloudWatchSource { config, excluded, api, listing: Mutex::default() })
    }

    /// The groups there are now.
    async fn groups(&self) -> Result<BTreeSet<String>, Error> {
        groups_of(&self.api, &self.config.log_groups, &self.config.log_group_prefixes, &self.excluded).await
    }

    /// The streams there are now.
    async fn streams(&self) -> Result<BTreeMap<Partition, Stream>, Error> {
        let mut streams = BTreeMap::new();
        for group in self.groups().await? {
            let prefix = self.config.log_stream_prefix.as_deref();
            for stream in streams_of(&self.api, &self.config.log_groups, &group, prefix).await? {
                streams.insert(partition_of(&group, &stream.name), stream);
            }
        }
        Ok(streams)
    }

    fn listing(&self) -> MutexGuard<'_, Listing> {
        self.listing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a stream, as listed, has nothing behind this position and is silent.
    fn is_idle(&self, partition: &Partition, start: &Start) -> bool {
        let Start::After(cursor) = start else { return false };
        let listing = self.listing();
        let Some(stream) = listing.streams.get(partition).filter(|_| self.config.skip_idle_streams) else {
            return false;
        };
        let an_hour_ago = Timestamp::now().saturating_sub(Duration::from_secs(3600)).as_millis();
        let is_read = |last: i64| {
            last < cursor.as_number() || last == cursor.as_number() && listing.ends.get(partition) == Some(cursor)
        };
        stream.last_event.is_none_or(is_read) && stream.last_ingestion.is_some_and(|last| last < an_hour_ago)
    }
}

/// The groups of these names, and those that begin so, but for those that are left out.
async fn groups_of(
    api: &Api,
    names: &[String],
    prefixes: &[String],
    excluded: &BTreeSet<String>,
) -> Result<BTreeSet<String>, Error> {
    let mut groups: BTreeSet<String> = names.iter().cloned().collect();
    for prefix in prefixes {
        groups.extend(api.groups(prefix).await?);
    }
    groups.retain(|group| !excluded.contains(group));
    Ok(groups)
}

/// The streams of a group that begin so.
async fn streams_of(api: &Api, names: &[String], group: &str, prefix: Option<&str>) -> Result<Vec<Stream>, Error> {
    match api.streams(group, prefix).await {
        Err(error) if is_gone(&error, names, group) => Ok(Vec::new()),
        streams => streams,
    }
}

/// Whether an error says of a group that it is gone which was found by how its name begins: such a group may be deleted
/// at any time, and one that is named has to be there.
fn is_gone(error: &Error, names: &[String], group: &str) -> bool {
    error.kind() == ErrorKind::NotFound && !names.iter().any(|name| name == group)
}

/// What a stream is called. Neither a group's name nor a stream's can hold a colon.
fn partition_of(group: &str, stream: &str) -> Partition {
    Partition::new(format!("{group}:{stream}"))
}

/// The first whole millisecond that is not before this time.
fn millis_from(time: Timestamp) -> i64 {
    let millis = time.as_millis();
    if Timestamp::from_millis(millis) < time { millis + 1 } else { millis }
}

#[async_trait]
impl Source for CloudWatchSource {
    fn kind(&self) -> &'static str {
        "cloudwatch"
    }

    fn fingerprint(&self) -> String {
        let region = self.config.aws.region.as_deref().unwrap_or("the environment's region");
        let prefix = self.config.log_stream_prefix.as_deref().unwrap_or_default();
        format!(
            "log groups {}, those that begin with {}, streams that begin with `{prefix}`, of {region}",
            self.config.log_groups.join(", "),
            self.config.log_group_prefixes.join(", "),
        )
    }

    fn arrival_order(&self) -> ArrivalOrder {
        ArrivalOrder::Bounded
    }

    /// The streams. Listed anew when the last listing is older than `list_interval_secs`.
    async fn partitions(&self) -> Result<Vec<Partition>, Error> {
        let interval = Duration::from_secs(self.config.list_interval_secs);
        {
            let listing = self.listing();
            if listing.at.is_some_and(|at| at.elapsed() < interval) {
                return Ok(listing.streams.keys().cloned().collect());
            }
        }
        let streams = self.streams().await?;
        let partitions = streams.keys().cloned().collect();
        let mut listing = self.listing();
        listing.ends.retain(|partition, _| streams.contains_key(partition));
        (listing.at, listing.streams) = (Some(Instant::now()), streams);
        Ok(partitions)
    }

    async fn read(
        &self,
        partition: &Partition,
        start: &Start,
        query: &Query,
        limits: PageLimits,
    ) -> Result<Page, Error> {
        let Some((group, stream)) = partition.as_str().split_once(':') else {
            let message = "the partition is not called as a group and a stream";
            return Err(Error::new(ErrorKind::State, "read a log stream", message).with("partition", partition));
        };
        let from = match start {
            Start::Earliest => 0,
            Start::At(time) => millis_from(*time).max(0),
            Start::After(cursor) => cursor.as_number().max(0),
        };
        let until = limits.until.map(millis_from);
        let nothing = || Page::ending_at(partition.clone(), Vec::new(), None, PageEnd::CaughtUp);
        if until.is_some_and(|until| until <= from) || self.is_idle(partition, start) {
            return Ok(nothing());
        }
        let after = match start {
            Start::After(cursor) => Some(cursor),
            Start::Earliest | Start::At(_) => None,
        };
        let mut collected = Collected::new(after, limits);
        let limit = limits.records_max.saturating_add(1).min(ANSWER_EVENTS_MAX);
        let mut token = None;
        loop {
            let (events, next) = match self.api.events(group, stream, (from, until), limit, token).await {
                Ok(Some(answer)) => answer,
                // Deleted since it was listed.
                Ok(None) => return Ok(nothing()),
                Err(error) if is_gone(&error, &self.config.log_groups, group) => return Ok(nothing()),
                Err(error) => return Err(error),
            };
            collected.add(events)?;
            token = next;
            if token.is_none() || collected.is_enough() {
                break;
            }
        }
        let resource = resource_of(group, stream, None);
        let page = collected.into_page(partition, query, token.is_none(), self.config.json.as_ref(), resource);
        if self.config.skip_idle_streams
            && page.end() == PageEnd::CaughtUp
            && let Some(end) = page.next().or(after)
        {
            self.listing().ends.insert(partition.clone(), end.clone());
        }
        Ok(page)
    }

    /// Lists the groups.
    async fn check(&self) -> Result<(), Error> {
        for group in self.groups().await? {
            if self.config.log_groups.contains(&group) {
                self.api.look_for(&group).await?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for CloudWatchSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CloudWatchSource")
            .field("log_groups", &self.config.log_groups)
            .field("log_group_prefixes", &self.config.log_group_prefixes)
            .finish_non_exhaustive()
    }
}
