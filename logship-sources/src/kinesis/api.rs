//! What is asked of Kinesis, no faster than it allows, and the iterators it gives.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kinesis::primitives::DateTime;
use aws_sdk_kinesis::types::{Record, Shard, ShardIteratorType};
use logship_connect::aws::{Aws, Pace};
use logship_core::{Error, ErrorKind, Partition, Start, Timestamp};
use tokio::sync::OnceCell;

use super::position::Place;

/// What an answer holds.
pub(super) struct Answer {
    pub(super) records: Vec<Record>,
    /// Whether nothing more is in the shard now.
    pub(super) is_end: bool,
    /// For what is behind; none where the shard is closed and this was its end.
    pub(super) iterator: Option<String>,
}

/// What is known of a shard between reads.
struct Known {
    pace: Arc<Pace>,
    /// Where the last read ended, and the iterator that goes on from there.
    iterator: Option<(Start, String)>,
}

/// Asks, one request after another in time for each shard.
pub(super) struct Api {
    aws: Aws,
    client: OnceCell<Client>,
    stream: String,
    requests_per_second: u32,
    shards: Mutex<HashMap<Partition, Known>>,
}

impl Api {
    pub(super) fn new(aws: Aws, stream: &str, requests_per_second: u32) -> Self {
        Api { aws, client: OnceCell::new(), stream: stream.to_owned(), requests_per_second, shards: Mutex::default() }
    }

    async fn client(&self) -> Result<&Client, Error> {
        self.client.get_or_try_init(|| async { Ok(Client::new(self.aws.sdk_config().await?)) }).await
    }

    fn known<T>(&self, shard: &Partition, look: impl FnOnce(&mut Known) -> T) -> T {
        let mut shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Known { pace: Arc::new(Pace::new(self.requests_per_second)), iterator: None };
        look(shards.entry(shard.clone()).or_insert_with(new))
    }

    async fn ask<T, E, F>(&self, operation: &'static str, pace: Option<&Pace>, call: impl Fn() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, SdkError<E>>>,
        E: std::error::Error + ProvideErrorMetadata + Send + Sync + 'static,
    {
        self.aws.ask(operation, pace, call).await.map_err(|error| error.with("stream", &self.stream))
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
            let answer = self.ask("list shards", None, ask).await?;
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
        match self.ask("get a shard iterator", None, || request.clone().send()).await {
            Ok(answer) => Ok(answer.shard_iterator),
            // Of a shard that has outlived its records. A missing stream is answered in the same words.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let is_listed = self.shards().await?.iter().any(|listed| listed.shard_id == name);
                if is_listed { Err(error.with("shard", shard)) } else { Ok(None) }
            }
            Err(error) => {
                if error.kind() == ErrorKind::Throttled {
                    self.known(shard, |known| known.pace.take_a_breath());
                }
                Err(error.with("shard", shard))
            }
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
            let pace = self.known(shard, |known| Arc::clone(&known.pace));
            let client = self.client().await?;
            let ask = || client.get_records().shard_iterator(&iterator).limit(limit).send();
            match self.ask("get records", Some(&pace), ask).await {
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
                Err(error) => return Err(error.with("shard", shard)),
            }
        }
    }

    /// Keeps an iterator for whoever reads on from there.
    pub(super) fn keep(&self, shard: &Partition, at: Start, iterator: String) {
        self.known(shard, |known| known.iterator = Some((at, iterator)));
    }
}

/// What a partition's shard is called: the stream's name, which cannot hold a colon, comes before it.
pub(super) fn shard_id(partition: &Partition) -> &str {
    partition.as_str().split_once(':').map_or(partition.as_str(), |(_, shard)| shard)
}
