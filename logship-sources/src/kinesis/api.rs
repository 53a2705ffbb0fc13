//! What is asked of Kinesis, no faster than it allows, and the iterators it gives.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kinesis::primitives::DateTime;
use aws_sdk_kinesis::types::{Record, Shard, ShardIteratorType};
use logship_connect::aws::{Aws, failure};
use logship_core::{Advice, Error, ErrorKind, Partition, Start, Timestamp};
use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::position::Place;

/// How long nothing more is asked of a shard after Kinesis has said that it was too much: it counts by the second.
/// <https://docs.aws.amazon.com/kinesis/latest/APIReference/API_GetRecords.html>
const BREATH: Duration = Duration::from_secs(1);

/// How long a request may take: one that nobody answers would hold up its shard for ever.
const PATIENCE: Duration = Duration::from_secs(60);

/// What an answer holds.
pub(super) struct Answer {
    pub(super) records: Vec<Record>,
    /// Whether nothing more is in the shard now.
    pub(super) is_end: bool,
    /// For what is behind; none where the shard is closed and this was its end.
    pub(super) iterator: Option<String>,
}

/// What is known of a shard between reads.
#[derive(Default)]
struct Known {
    /// When the next request may go out.
    next: Option<Instant>,
    /// Where the last read ended, and the iterator that goes on from there.
    iterator: Option<(Start, String)>,
}

/// Asks, one request after another in time for each shard.
pub(super) struct Api {
    aws: Aws,
    client: OnceCell<Client>,
    stream: String,
    /// From one request to the next.
    interval: Duration,
    shards: Mutex<HashMap<Partition, Known>>,
}

impl Api {
    pub(super) fn new(aws: Aws, stream: &str, requests_per_second: u32) -> Self {
        let interval = Duration::from_secs(1) / requests_per_second;
        Api { aws, client: OnceCell::new(), stream: stream.to_owned(), interval, shards: Mutex::default() }
    }

    async fn client(&self) -> Result<&Client, Error> {
        self.client.get_or_try_init(|| async { Ok(Client::new(self.aws.sdk_config().await?)) }).await
    }

    fn known<T>(&self, shard: &Partition, look: impl FnOnce(&mut Known) -> T) -> T {
        let mut shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        look(shards.entry(shard.clone()).or_default())
    }

    /// Takes the next moment at which the shard may be asked, and waits for it.
    async fn turn(&self, shard: &Partition) {
        let at = self.known(shard, |known| {
            let at = known.next.map_or_else(Instant::now, |at| at.max(Instant::now()));
            known.next = Some(at + self.interval);
            at
        });
        tokio::time::sleep_until(at).await;
    }

    /// Puts off all further requests to the shard.
    fn take_a_breath(&self, shard: &Partition) {
        let until = Instant::now() + BREATH.max(self.interval);
        self.known(shard, |known| known.next = Some(known.next.map_or(until, |at| at.max(until))));
    }

    /// Asks, and once more with new credentials where the old ones have ended.
    async fn ask<T, E, F>(&self, operation: &'static str, call: impl Fn() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, SdkError<E>>>,
        E: std::error::Error + ProvideErrorMetadata + Send + Sync + 'static,
    {
        let mut is_renewed = false;
        loop {
            let error = match tokio::time::timeout(PATIENCE, call()).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => failure(operation, error).with("stream", &self.stream),
                Err(_) => return Err(Error::new(ErrorKind::Timeout, operation, "no answer in time")),
            };
            if error.advice() != Advice::Refresh || is_renewed {
                return Err(error);
            }
            is_renewed = true;
            if let Err(cause) = self.aws.refresh().await {
                return Err(if cause.is_retryable() { cause } else { error.with_source(cause) });
            }
        }
    }

    /// All shards that hold something, closed ones too.
    pub(super) async fn shards(&self) -> Result<Vec<Shard>, Error> {
        let client = self.client().await?;
        let (mut shards, mut token): (Vec<Shard>, Option<String>) = (Vec::new(), None);
        loop {
            let ask = || match &token {
                // The token stands for the stream, which must not be named as well.
                Some(token) => client.list_shards().next_token(token).send(),
                None => client.list_shards().stream_name(&self.stream).send(),
            };
            let answer = self.ask("list shards", ask).await?;
            shards.extend(answer.shards.unwrap_or_default());
            token = answer.next_token;
            if token.is_none() {
                return Ok(shards);
            }
        }
    }

    /// An iterator from `start` on; none if the shard is not there any more.
    async fn iterator(&self, shard: &Partition, start: &Start) -> Result<Option<String>, Error> {
        let client = self.client().await?;
        let name = shard_id(shard);
        let request = client.get_shard_iterator().stream_name(&self.stream).shard_id(name);
        let request = match start {
            Start::Earliest => request.shard_iterator_type(ShardIteratorType::TrimHorizon),
            Start::At(time) => {
                // A time to come is refused.
                let millis = time.min(&Timestamp::now()).as_millis().max(0);
                request.shard_iterator_type(ShardIteratorType::AtTimestamp).timestamp(DateTime::from_millis(millis))
            }
            Start::After(cursor) => {
                let place = Place::of(cursor)?;
                // What is left of a record that was read in part is found by reading it again.
                let kind = if place.is_whole() {
                    ShardIteratorType::AfterSequenceNumber
                } else {
                    ShardIteratorType::AtSequenceNumber
                };
                request.shard_iterator_type(kind).starting_sequence_number(place.sequence)
            }
        };
        match self.ask("get a shard iterator", || request.clone().send()).await {
            Ok(answer) => Ok(answer.shard_iterator),
            // Of a shard that has outlived its records. A missing stream is answered in the same words.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let is_listed = self.shards().await?.iter().any(|listed| listed.shard_id == name);
                if is_listed { Err(error.with("shard", shard)) } else { Ok(None) }
            }
            Err(error) => Err(self.slowed(shard, error)),
        }
    }

    /// At most so many records of a shard behind `start`; nothing if it is not there any more.
    pub(super) async fn records(
        &self,
        shard: &Partition,
        start: &Start,
        limit: usize,
    ) -> Result<Option<Answer>, Error> {
        let limit = i32::try_from(limit).unwrap_or(i32::MAX);
        let mut is_new = false;
        loop {
            let kept = self.known(shard, |known| {
                known.iterator.as_ref().filter(|(at, _)| at == start).map(|(_, iterator)| iterator.clone())
            });
            let iterator = match kept.filter(|_| !is_new) {
                Some(iterator) => iterator,
                None => {
                    is_new = true;
                    let Some(iterator) = self.iterator(shard, start).await? else { return Ok(None) };
                    iterator
                }
            };
            self.turn(shard).await;
            let client = self.client().await?;
            let ask = || client.get_records().shard_iterator(&iterator).limit(limit).send();
            match self.ask("get records", ask).await {
                Ok(answer) => {
                    let is_full = answer.records.len() >= usize::try_from(limit).unwrap_or(usize::MAX);
                    let is_behind = answer.millis_behind_latest.is_some_and(|millis| millis > 0);
                    return Ok(Some(Answer {
                        is_end: answer.next_shard_iterator.is_none() || !is_full && !is_behind,
                        records: answer.records,
                        iterator: answer.next_shard_iterator,
                    }));
                }
                // They are good for five minutes.
                Err(error) if !is_new && error.to_string().contains("ExpiredIteratorException") => is_new = true,
                Err(error) => return Err(self.slowed(shard, error)),
            }
        }
    }

    /// Keeps an iterator for whoever reads on from there.
    pub(super) fn keep(&self, shard: &Partition, at: Start, iterator: String) {
        self.known(shard, |known| known.iterator = Some((at, iterator)));
    }

    fn slowed(&self, shard: &Partition, error: Error) -> Error {
        if error.kind() == ErrorKind::Throttled {
            self.take_a_breath(shard);
        }
        error.with("shard", shard)
    }
}

/// What a partition's shard is called: the stream's name, which cannot hold a colon, comes before it.
pub(super) fn shard_id(partition: &Partition) -> &str {
    partition.as_str().split_once(':').map_or(partition.as_str(), |(_, shard)| shard)
}
