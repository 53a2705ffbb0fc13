//! What is asked of CloudWatch Logs, no faster than it allows.

use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_cloudwatchlogs::Client;
use aws_sdk_cloudwatchlogs::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_cloudwatchlogs::types::FilteredLogEvent;
use logship_connect::aws::{Aws, failure};
use logship_core::{Advice, Error, ErrorKind};
use tokio::sync::OnceCell;
use tokio::time::Instant;

/// How long nothing more is asked after AWS has said that it was too much.
const BREATH: Duration = Duration::from_secs(1);

/// How long a request may take: one that nobody answers would hold up its stream for ever.
const PATIENCE: Duration = Duration::from_secs(60);

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
    /// From one request to the next.
    interval: Duration,
    /// When the next request may go out.
    next: Mutex<Option<Instant>>,
}

impl Api {
    pub(super) fn new(aws: Aws, requests_per_second: u32) -> Self {
        let interval = Duration::from_secs(1) / requests_per_second;
        Api { aws, client: OnceCell::new(), interval, next: Mutex::new(None) }
    }

    pub(super) async fn client(&self) -> Result<&Client, Error> {
        self.client.get_or_try_init(|| async { Ok(Client::new(self.aws.sdk_config().await?)) }).await
    }

    /// Takes the next moment at which a request may go out, and waits for it.
    async fn turn(&self) {
        let at = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let at = next.map_or_else(Instant::now, |at| at.max(Instant::now()));
            *next = Some(at + self.interval);
            at
        };
        tokio::time::sleep_until(at).await;
    }

    /// Puts off all further requests.
    fn take_a_breath(&self) {
        let until = Instant::now() + BREATH.max(self.interval);
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        *next = Some(next.map_or(until, |at| at.max(until)));
    }

    /// Asks when it is time, and once more with new credentials where the old ones have ended.
    pub(super) async fn ask<T, E, F>(&self, operation: &'static str, call: impl Fn() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, SdkError<E>>>,
        E: std::error::Error + ProvideErrorMetadata + Send + Sync + 'static,
    {
        let mut is_renewed = false;
        loop {
            self.turn().await;
            let error = match tokio::time::timeout(PATIENCE, call()).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => failure(operation, error),
                Err(_) => return Err(Error::new(ErrorKind::Timeout, operation, "no answer in time")),
            };
            if error.kind() == ErrorKind::Throttled {
                self.take_a_breath();
            }
            if error.advice() != Advice::Refresh || is_renewed {
                return Err(error);
            }
            is_renewed = true;
            if let Err(cause) = self.aws.refresh().await {
                return Err(if cause.is_retryable() { cause } else { error.with_source(cause) });
            }
        }
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
                    self.take_a_breath();
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
