//! What is asked of CloudWatch Logs, no faster than it allows.

use std::future::Future;

use aws_sdk_cloudwatchlogs::Client;
use aws_sdk_cloudwatchlogs::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_cloudwatchlogs::types::FilteredLogEvent;
use logship_connect::aws::{Aws, Pace};
use logship_core::{Error, ErrorKind};
use tokio::sync::OnceCell;

/// How often one page of a listing is asked for before the listing fails. A listing of many pages that began anew each
/// time would never end.
const LISTING_ATTEMPTS: u32 = 30;

/// A stream as it is listed.
#[derive(Clone, Debug)]
pub(super) struct Stream {
    pub(super) name: String,
    /// The time of its last event, in milliseconds. An hour behind, at times.
    pub(super) last_event: Option<i64>,
    /// When something last arrived.
    pub(super) last_ingestion: Option<i64>,
}

/// Asks, one request after another in time.
pub(super) struct Api {
    aws: Aws,
    client: OnceCell<Client>,
    pace: Pace,
}

impl Api {
    pub(super) fn new(aws: Aws, requests_per_second: u32) -> Self {
        Api { aws, client: OnceCell::new(), pace: Pace::new(requests_per_second) }
    }

    pub(super) async fn client(&self) -> Result<&Client, Error> {
        self.client.get_or_try_init(|| async { Ok(Client::new(self.aws.sdk_config().await?)) }).await
    }

    /// Asks when it is time, and once more with new credentials where the old ones have ended.
    pub(super) async fn ask<T, E, F>(&self, operation: &'static str, call: impl Fn() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, SdkError<E>>>,
        E: std::error::Error + ProvideErrorMetadata + Send + Sync + 'static,
    {
        self.aws.ask(operation, Some(&self.pace), call).await
    }

    /// The same for a page of a listing, which is asked for again while that may help.
    pub(super) async fn ask_again<T, E, F>(&self, operation: &'static str, call: impl Fn() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, SdkError<E>>>,
        E: std::error::Error + ProvideErrorMetadata + Send + Sync + 'static,
    {
        let mut attempts = 1;
        loop {
            match self.ask(operation, &call).await {
                Err(error) if error.is_retryable() && attempts < LISTING_ATTEMPTS => {
                    tracing::debug!(%error, attempts, "a listing waits");
                    self.pace.take_a_breath();
                    attempts += 1;
                }
                answer => return answer,
            }
        }
    }

    /// The names of the groups that begin so.
    pub(super) async fn groups(&self, prefix: &str) -> Result<Vec<String>, Error> {
        let client = self.client().await?;
        let (mut groups, mut token) = (Vec::new(), None);
        loop {
            let ask =
                || client.describe_log_groups().log_group_name_prefix(prefix).set_next_token(token.clone()).send();
            let answer = self.ask_again("list log groups", ask).await.map_err(|error| error.with("prefix", prefix))?;
            groups.extend(answer.log_groups().iter().filter_map(|group| group.log_group_name()).map(str::to_owned));
            token = answer.next_token().map(str::to_owned);
            if token.is_none() {
                return Ok(groups);
            }
        }
    }

    /// The streams of a group that begin so.
    pub(super) async fn streams(&self, group: &str, prefix: Option<&str>) -> Result<Vec<Stream>, Error> {
        let client = self.client().await?;
        let (mut streams, mut token) = (Vec::new(), None);
        loop {
            let ask = || {
                let request = client.describe_log_streams().log_group_name(group);
                request.set_log_stream_name_prefix(prefix.map(str::to_owned)).set_next_token(token.clone()).send()
            };
            let answer = self.ask_again("list log streams", ask).await.map_err(|error| error.with("group", group))?;
            streams.extend(answer.log_streams().iter().filter_map(|stream| {
                Some(Stream {
                    name: stream.log_stream_name()?.to_owned(),
                    last_event: stream.last_event_timestamp(),
                    last_ingestion: stream.last_ingestion_time(),
                })
            }));
            token = answer.next_token().map(str::to_owned);
            if token.is_none() {
                return Ok(streams);
            }
        }
    }

    /// Whether a group can be looked into.
    pub(super) async fn look_for(&self, group: &str) -> Result<(), Error> {
        let client = self.client().await?;
        let looked =
            self.ask("look for a log group", || client.describe_log_streams().log_group_name(group).limit(1).send());
        looked.await.map(drop).map_err(|error| error.with("group", group))
    }

    /// Events of a stream from a millisecond on and before another, and a token if there may be more. Nothing if there
    /// is no such stream.
    pub(super) async fn events(
        &self,
        group: &str,
        stream: &str,
        (from, until): (i64, Option<i64>),
        limit: usize,
        token: Option<String>,
    ) -> Result<Option<(Vec<FilteredLogEvent>, Option<String>)>, Error> {
        let client = self.client().await?;
        let ask = || {
            let request = client.filter_log_events().log_group_name(group).log_stream_names(stream).start_time(from);
            // The end is part of the range.
            let request = request.set_end_time(until.map(|until| until - 1)).set_next_token(token.clone());
            request.limit(i32::try_from(limit).unwrap_or(i32::MAX)).send()
        };
        match self.ask("read a log stream", ask).await {
            Ok(answer) => Ok(Some((answer.events.unwrap_or_default(), answer.next_token))),
            Err(error) if is_stream_gone(&error) => Ok(None),
            Err(error) => Err(error.with("group", group).with("stream", stream)),
        }
    }
}

/// Whether it is the stream that is not there, and not its group. AWS says so in words alone.
fn is_stream_gone(error: &Error) -> bool {
    error.kind() == ErrorKind::NotFound && error.to_string().contains("log stream does not exist")
}
