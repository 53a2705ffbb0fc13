//! Export tasks: CloudWatch Logs writes a group to S3 itself, and nothing goes through this process.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_cloudwatchlogs::types::{ExportTask as Described, ExportTaskStatusCode};
use logship_connect::Connection;
use logship_connect::aws::{Aws, AwsConfig};
use logship_core::{
    BuildContext, CancellationToken, Certainty, Cursor, Error, ErrorKind, LaneDelta, Lease, OffsetKey, OffsetStore,
    OffsetsDelta, Timestamp,
};
use serde::Deserialize;

use super::api::Api;
use super::{groups_of, is_gone, streams_of};

/// Under which lane how far exports have come is kept. No user can name a lane so.
const LANE: &str = "(export tasks)";

/// How long the lease lasts. It is renewed at each look at a task.
const LEASE_TTL: Duration = Duration::from_secs(120);

/// Where CloudWatch Logs writes what, unless the configuration says otherwise.
/// <https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_CreateExportTask.html>
const PREFIX: &str = "exportedlogs";

/// What an [`ExportTask`] exports, and where to.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ExportTaskConfig {
    /// Log groups by their names. Default: none.
    #[serde(default)]
    pub log_groups: Vec<String>,
    /// All log groups whose names begin so. Default: none; one of both is needed.
    #[serde(default)]
    pub log_group_prefixes: Vec<String>,
    /// Groups that are left out, by their names. Default: none.
    #[serde(default)]
    pub exclude_log_groups: Vec<String>,
    /// The bucket, in the region of the groups; its policy lets CloudWatch Logs write to it.
    pub bucket: String,
    /// What each key begins with: then come the task's id, the stream and a number. Default: `exportedlogs`.
    #[serde(default = "prefix")]
    pub prefix: String,
    /// How old events are at least, in seconds. What arrives in a range of time after its export is not exported, and it
    /// can take up to 12 hours before an event can be exported
    /// (<https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/S3Export.html>). Default: 43,200.
    #[serde(default = "twelve_hours")]
    pub settle_secs: u64,
    /// How often a task is looked at, in seconds, at most 60. Default: 10.
    #[serde(default = "ten")]
    pub poll_interval_secs: u64,
    /// Who asks, and where.
    #[serde(default)]
    pub aws: AwsConfig,
    /// How connections are made.
    #[serde(default)]
    pub connection: Connection,
}

fn prefix() -> String {
    PREFIX.to_owned()
}

fn twelve_hours() -> u64 {
    12 * 3600
}

fn ten() -> u64 {
    10
}

impl ExportTaskConfig {
    /// These groups, all else as by default.
    pub fn new(log_group_prefixes: Vec<String>, bucket: impl Into<String>) -> Self {
        ExportTaskConfig {
            log_groups: Vec::new(),
            log_group_prefixes,
            exclude_log_groups: Vec::new(),
            bucket: bucket.into(),
            prefix: prefix(),
            settle_secs: twelve_hours(),
            poll_interval_secs: ten(),
            aws: AwsConfig::default(),
            connection: Connection::default(),
        }
    }
}

/// Has CloudWatch Logs write what is new in log groups to S3, one task after another, as AWS runs one at a time for an
/// account. How far each group has come is kept in an offset store.
///
/// This moves large amounts cheaply. It cannot filter, change or retry single events, and what arrives late is left out:
/// [`CloudWatchSource`](super::CloudWatchSource) with an S3 exporter leaves out nothing.
///
/// ```no_run
/// use logship_core::{BuildContext, CancellationToken};
/// use logship_sources::cloudwatch::{ExportTask, ExportTaskConfig};
///
/// # async fn example(offsets: impl logship_core::OffsetStore + 'static) -> Result<(), logship_core::Error> {
/// let config = ExportTaskConfig::new(vec!["/aws/eks/cluster/prd".to_owned()], "my-cwlogs-archive");
/// let exports = ExportTask::new(config, offsets, "cloudwatch-exports", &BuildContext::default())?;
/// let stop = CancellationToken::new();
/// for done in exports.run(stop).await?.tasks {
///     println!("{} from {} to {}", done.log_group, done.from, done.to);
/// }
/// # Ok(())
/// # }
/// ```
///
/// # What is kept where
/// A group is exported whole, all streams of it: a task can be limited to streams that begin with a name, and the name
/// of one stream may be how another begins. A range of time is named by where it begins, which is where the last one
/// ended. So when a process dies, the next finds its task in AWS's own list, by group, place and beginning, and waits for
/// it instead of exporting the range again. Tasks that are older than the offsets do not count: after a reset all is
/// exported again.
///
/// # Cancellation
/// A task that is under way when `stop` is cancelled goes on by itself; the next run waits for it. Dropping
/// [`run`](ExportTask::run) does the same, but the lease is held until it expires.
pub struct ExportTask {
    config: ExportTaskConfig,
    api: Api,
    store: Arc<dyn OffsetStore>,
    key: OffsetKey,
}

/// What a run has done.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Exports {
    /// The tasks that were completed, in order.
    pub tasks: Vec<ExportedTask>,
    /// Whether it was stopped before all groups were done.
    pub is_stopped: bool,
}

/// A range of a group that is in S3.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExportedTask {
    /// The task's id, which is a part of its keys.
    pub task_id: String,
    /// The group.
    pub log_group: String,
    /// The time of the first millisecond in it.
    pub from: Timestamp,
    /// The time of the last.
    pub to: Timestamp,
}

impl ExportTask {
    /// Checks a configuration and finds its secrets. Asks nobody yet. `key` is the name of the offsets.
    ///
    /// # Errors
    /// [`ErrorKind::Config`], which names the field.
    pub fn new(
        config: ExportTaskConfig,
        offsets: impl OffsetStore + 'static,
        key: &str,
        context: &BuildContext,
    ) -> Result<Self, Error> {
        if config.log_groups.iter().chain(&config.log_group_prefixes).next().is_none() {
            return Err(Error::config("log_groups", "name a group here, or a prefix in `log_group_prefixes`"));
        }
        if config.bucket.is_empty() {
            return Err(Error::config("bucket", "must not be empty"));
        }
        if !(1..=LEASE_TTL.as_secs() / 2).contains(&config.poll_interval_secs) {
            return Err(Error::config("poll_interval_secs", "must be 1 to 60"));
        }
        let aws = Aws::new(&config.aws, &config.connection, context)?;
        // <https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/cloudwatch_limits_cwl.html>
        let api = Api::new(aws, 5);
        Ok(ExportTask { config, api, store: Arc::new(offsets), key: OffsetKey::new(key)? })
    }

    /// Exports what is new in each group, and ends.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] if another run holds the key; the task's own words if one fails; and whatever the offset store
    /// says. Groups that were done before the error stay done.
    pub async fn run(&self, stop: CancellationToken) -> Result<Exports, Error> {
        let owner = format!("export tasks, process {}", std::process::id());
        let lease = self.store.acquire(&self.key, &owner, LEASE_TTL).await?;
        let done = self.run_with(&lease, &stop).await;
        if let Err(error) = self.store.release(&lease).await {
            tracing::warn!(%error, "the lease could not be given back; it ends by itself");
        }
        done
    }

    async fn run_with(&self, lease: &Lease, stop: &CancellationToken) -> Result<Exports, Error> {
        let excluded = self.config.exclude_log_groups.iter().cloned().collect();
        let groups = groups_of(&self.api, &self.config.log_groups, &self.config.log_group_prefixes, &excluded).await?;
        let offsets = self.store.load(&self.key).await?;
        let since = match offsets.lanes.get(LANE) {
            Some(lane) => lane.since,
            None => Some(self.begin(lease).await?),
        };
        let mut exports = Exports::default();
        for group in groups {
            let last = offsets.lanes.get(LANE).and_then(|lane| lane.cursors.get(&group)).map(Cursor::as_number);
            let from = last.map_or(0, |last| last + 1);
            if self.is_silent(&group, from).await? {
                continue;
            }
            match self.export(lease, stop, &group, (since, from)).await? {
                Progress::Done(task) => exports.tasks.push(task),
                Progress::Nothing => {}
                Progress::Stopped => {
                    exports.is_stopped = true;
                    break;
                }
            }
        }
        Ok(exports)
    }

    /// Keeps when these offsets began, before anything is exported.
    async fn begin(&self, lease: &Lease) -> Result<Timestamp, Error> {
        let since = Timestamp::now();
        let fingerprint = Some(self.fingerprint());
        let delta = LaneDelta { fingerprint, since: Some(since), ..LaneDelta::default() };
        self.store.commit(lease, &OffsetsDelta { lanes: [(LANE.to_owned(), delta)].into() }).await?;
        Ok(since)
    }

    /// Whether nothing has arrived in a group since its last export ended.
    async fn is_silent(&self, group: &str, from: i64) -> Result<bool, Error> {
        let streams = streams_of(&self.api, &self.config.log_groups, group, None).await?;
        Ok(streams.iter().all(|stream| stream.last_ingestion.is_none_or(|last| last < from)))
    }

    /// Exports a group from this millisecond on, for offsets that began then.
    async fn export(
        &self,
        lease: &Lease,
        stop: &CancellationToken,
        group: &str,
        (since, from): (Option<Timestamp>, i64),
    ) -> Result<Progress, Error> {
        let settle = Duration::from_secs(self.config.settle_secs);
        let until = Timestamp::now().saturating_sub(settle).as_millis();
        let (id, to) = match self.under_way(group, since, from).await? {
            Some(found) => found,
            None if until <= from => return Ok(Progress::Nothing),
            None => match self.create(lease, stop, group, since, (from, until)).await {
                Ok(Some(made)) => made,
                Ok(None) => return Ok(Progress::Stopped),
                Err(error) if is_gone(&error, &self.config.log_groups, group) => return Ok(Progress::Nothing),
                Err(error) => return Err(error),
            },
        };
        if !self.wait(lease, stop, &id).await.map_err(|error| error.with("group", group).with("task", &id))? {
            return Ok(Progress::Stopped);
        }
        let mut delta = LaneDelta { fingerprint: Some(self.fingerprint()), ..LaneDelta::default() };
        delta.cursors.insert(group.to_owned(), Cursor::number(to));
        let delta = OffsetsDelta { lanes: [(LANE.to_owned(), delta)].into() };
        self.store.commit(lease, &delta).await?;
        let (from, to) = (Timestamp::from_millis(from), Timestamp::from_millis(to));
        Ok(Progress::Done(ExportedTask { task_id: id, log_group: group.to_owned(), from, to }))
    }

    fn fingerprint(&self) -> String {
        format!("exports to {} as {}", self.config.bucket, self.config.prefix)
    }

    /// A task that an earlier run began for what comes next, and where it ends. What is older than the offsets belongs to
    /// others, which were reset.
    async fn under_way(
        &self,
        group: &str,
        since: Option<Timestamp>,
        from: i64,
    ) -> Result<Option<(String, i64)>, Error> {
        let oldest = since.map_or(i64::MIN, Timestamp::as_millis);
        let client = self.api.client().await?;
        let mut token = None;
        loop {
            let ask = || client.describe_export_tasks().set_next_token(token.clone()).send();
            let listed = self.api.ask_again("list export tasks", ask).await?;
            let is_ours = |task: &&Described| {
                task.log_group_name() == Some(group)
                    && task.from() == Some(from)
                    && task.execution_info().and_then(|info| info.creation_time()).is_none_or(|made| made >= oldest)
                    && task.destination() == Some(&self.config.bucket)
                    && task.destination_prefix() == Some(&self.config.prefix)
                    && !matches!(
                        status_of(task),
                        Some(
                            ExportTaskStatusCode::Cancelled
                                | ExportTaskStatusCode::Failed
                                | ExportTaskStatusCode::PendingCancel
                        )
                    )
            };
            if let Some(task) = listed.export_tasks().iter().find(is_ours) {
                return Ok(task.task_id().map(str::to_owned).zip(task.to()));
            }
            token = listed.next_token().map(str::to_owned);
            if token.is_none() {
                return Ok(None);
            }
        }
    }

    /// Begins a task, as soon as no other one of the account is under way: its id, and where it ends. Nothing if it was
    /// stopped before that.
    async fn create(
        &self,
        lease: &Lease,
        stop: &CancellationToken,
        group: &str,
        since: Option<Timestamp>,
        (from, to): (i64, i64),
    ) -> Result<Option<(String, i64)>, Error> {
        let client = self.api.client().await?;
        let ask = || {
            let task = client.create_export_task().task_name("logship").log_group_name(group).from(from).to(to);
            task.destination(&self.config.bucket).destination_prefix(&self.config.prefix).send()
        };
        while !stop.is_cancelled() {
            match self.api.ask("create an export task", ask).await {
                Ok(created) => {
                    let none = || Error::new(ErrorKind::Protocol, "create an export task", "the task has no id");
                    return created.task_id.map(|id| Some((id, to))).ok_or_else(none);
                }
                Err(error) if error.is_retryable() => {
                    tracing::debug!(%error, group, "an export task cannot begin yet");
                    self.pause(lease, stop).await?;
                    // It may have begun all the same.
                    if error.certainty() == Certainty::Unknown
                        && let Some(found) = self.under_way(group, since, from).await?
                    {
                        return Ok(Some(found));
                    }
                }
                Err(error) => return Err(error.with("group", group)),
            }
        }
        Ok(None)
    }

    /// Waits for the end of a task. False if it was stopped before that.
    async fn wait(&self, lease: &Lease, stop: &CancellationToken, id: &str) -> Result<bool, Error> {
        let client = self.api.client().await?;
        while !stop.is_cancelled() {
            let ask = || client.describe_export_tasks().task_id(id).send();
            let listed = self.api.ask_again("look at an export task", ask).await?;
            let task = listed.export_tasks().first();
            match task.and_then(status_of) {
                Some(ExportTaskStatusCode::Completed) => return Ok(true),
                Some(ExportTaskStatusCode::Pending | ExportTaskStatusCode::Running) => self.pause(lease, stop).await?,
                status => {
                    let said = task.and_then(Described::status).and_then(|status| status.message()).unwrap_or_default();
                    let status = status.map_or("gone", ExportTaskStatusCode::as_str);
                    let error = Error::new(ErrorKind::Rejected, "export task", "it did not complete");
                    return Err(error.with("status", status).with("answer", Error::excerpt(said.as_bytes())));
                }
            }
        }
        Ok(false)
    }

    /// Lets some time pass, and keeps the lease.
    async fn pause(&self, lease: &Lease, stop: &CancellationToken) -> Result<(), Error> {
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = tokio::time::sleep(Duration::from_secs(self.config.poll_interval_secs)) => {}
        }
        self.store.renew(lease, LEASE_TTL).await
    }
}

/// How far a group has come.
enum Progress {
    Done(ExportedTask),
    /// Nothing is old enough.
    Nothing,
    Stopped,
}

fn status_of(task: &Described) -> Option<&ExportTaskStatusCode> {
    task.status().and_then(|status| status.code())
}

impl fmt::Debug for ExportTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExportTask")
            .field("bucket", &self.config.bucket)
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}
