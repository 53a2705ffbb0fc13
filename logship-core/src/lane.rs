//! One exporter's way through the engine.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Error, Exporter, Query};

/// One exporter's way through the engine: its own cursors, filter, chunk sizes, concurrency and retries.
///
/// Nothing that happens in one lane changes what another gets, when, or how often.
#[derive(Clone, Debug)]
pub struct Lane {
    pub(crate) id: String,
    pub(crate) exporter: Arc<dyn Exporter>,
    pub(crate) dead_letter: Option<Arc<dyn Exporter>>,
    pub(crate) options: LaneOptions,
}

/// How a lane ships. The fields of an exporter's entry in a configuration, beside the exporter's own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct LaneOptions {
    /// The most records in a chunk; never more than the exporter's own limit. Default that limit, or 1000.
    pub chunk: Option<usize>,
    /// The most bytes of a chunk's body before packing. Default: the exporter's own limit, or 10 MB.
    pub chunk_bytes_max: Option<usize>,
    /// How many chunks are under way at a time. Default 1, which keeps the order of each partition. With more, a later
    /// chunk may arrive before an earlier one; the offset still moves only behind what has no gap before it.
    pub concurrency: usize,
    /// How long a chunk may wait for more records when the source has no more now, in a continuous run. Default none.
    #[serde(with = "millis", rename = "linger_ms")]
    #[cfg_attr(feature = "schema", schemars(with = "u64"))]
    pub linger: Duration,
    /// Which of the shipper's records this lane wants. Default all.
    pub filter: Query,
    /// What happens to a record that the destination refuses for good. Default: the lane stops; with a dead letter, the
    /// record goes there.
    pub on_reject: OnReject,
    /// After so many refused records without an accepted one between them the lane stops, for then it is not the
    /// records that are wrong. Default 1000.
    pub rejected_in_a_row_max: u64,
    /// The most records in a second, on average. Default as many as the destination takes.
    pub records_per_second_max: Option<u32>,
    /// How failed attempts are repeated.
    pub retry: RetryPolicy,
    /// How long one attempt may take. After that its outcome is unknown, and it is repeated. Default 60 s.
    #[serde(with = "millis", rename = "attempt_timeout_ms")]
    #[cfg_attr(feature = "schema", schemars(with = "u64"))]
    pub attempt_timeout: Duration,
}

impl Default for LaneOptions {
    fn default() -> Self {
        LaneOptions {
            chunk: None,
            chunk_bytes_max: None,
            concurrency: 1,
            linger: Duration::ZERO,
            filter: Query::all(),
            on_reject: OnReject::Stop,
            rejected_in_a_row_max: 1000,
            records_per_second_max: None,
            retry: RetryPolicy::default(),
            attempt_timeout: Duration::from_secs(60),
        }
    }
}

/// What happens to a record that the destination refuses for good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum OnReject {
    /// The lane stops in front of it and says so. Nothing is passed over.
    #[default]
    Stop,
    /// The record is dropped, and counted with the destination's reason.
    Drop,
    /// The record goes to the lane's dead letter, with the destination's reason; once that has accepted it, the lane
    /// goes on. See [`Lane::dead_letter`].
    DeadLetter,
}

/// How failed attempts are repeated: after a random time between zero and a bound that doubles from attempt to attempt
/// (full jitter, <https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/>), or after the time that
/// the destination asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct RetryPolicy {
    /// How often a chunk is tried before the lane gives up, and leaves its records in the source. In a continuous run
    /// a lane that gave up begins again at its offset after `delay_max`. Default 10.
    pub attempts_max: u32,
    /// The bound of the first delay. Default 500 ms.
    #[serde(with = "millis", rename = "delay_initial_ms")]
    #[cfg_attr(feature = "schema", schemars(with = "u64"))]
    pub delay_initial: Duration,
    /// The largest bound, also for what a destination asks for. Default 60 s.
    #[serde(with = "millis", rename = "delay_max_ms")]
    #[cfg_attr(feature = "schema", schemars(with = "u64"))]
    pub delay_max: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        RetryPolicy { attempts_max: 10, delay_initial: Duration::from_millis(500), delay_max: Duration::from_secs(60) }
    }
}

impl RetryPolicy {
    /// How long to wait after `failed` attempts (at least one).
    pub(crate) fn delay(&self, failed: u32, asked: Option<Duration>, rng: &mut fastrand::Rng) -> Duration {
        let bound = self.delay_initial.saturating_mul(1 << (failed - 1).min(20)).min(self.delay_max);
        match asked {
            Some(asked) => asked.min(self.delay_max),
            None => bound.mul_f64(rng.f64()),
        }
    }
}

impl Lane {
    /// A lane of this id, with the default options. The id names the lane in offsets and reports: letters, digits,
    /// `-` and `_`.
    pub fn new(id: impl Into<String>, exporter: impl Exporter + 'static) -> Self {
        Lane::shared(id, Arc::new(exporter))
    }

    /// A lane of an exporter that is shared or was made by a [`Registry`](crate::Registry).
    pub fn shared(id: impl Into<String>, exporter: Arc<dyn Exporter>) -> Self {
        Lane { id: id.into(), exporter, dead_letter: None, options: LaneOptions::default() }
    }

    /// With all options at once.
    #[must_use]
    pub fn options(mut self, options: LaneOptions) -> Self {
        self.options = options;
        self
    }

    /// With at most so many records in a chunk.
    #[must_use]
    pub fn chunk(mut self, records: usize) -> Self {
        self.options.chunk = Some(records);
        self
    }

    /// With at most so many bytes in a chunk's body before packing.
    #[must_use]
    pub fn chunk_bytes_max(mut self, bytes: usize) -> Self {
        self.options.chunk_bytes_max = Some(bytes);
        self
    }

    /// With so many chunks under way at a time.
    #[must_use]
    pub fn concurrency(mut self, chunks: usize) -> Self {
        self.options.concurrency = chunks;
        self
    }

    /// With chunks that wait so long for more records.
    #[must_use]
    pub fn linger(mut self, linger: Duration) -> Self {
        self.options.linger = linger;
        self
    }

    /// With only the records that this query wants as well.
    #[must_use]
    pub fn filter(mut self, query: Query) -> Self {
        self.options.filter = query;
        self
    }

    /// With this way to treat records that are refused for good.
    #[must_use]
    pub fn on_reject(mut self, on_reject: OnReject) -> Self {
        self.options.on_reject = on_reject;
        self
    }

    /// With an exporter of any kind to which a record goes that the destination refuses for good, as a
    /// [`DeadLetter`](crate::DeadLetter). Sets [`OnReject::DeadLetter`]. A record that the dead letter does not accept
    /// either stops the lane.
    #[must_use]
    pub fn dead_letter(self, exporter: impl Exporter + 'static) -> Self {
        self.dead_letter_shared(Arc::new(exporter))
    }

    /// With a dead letter that is shared or was made by a [`Registry`](crate::Registry).
    #[must_use]
    pub fn dead_letter_shared(mut self, exporter: Arc<dyn Exporter>) -> Self {
        self.dead_letter = Some(exporter);
        self.options.on_reject = OnReject::DeadLetter;
        self
    }

    /// With at most so many records in a second, on average.
    #[must_use]
    pub fn records_per_second_max(mut self, records: u32) -> Self {
        self.options.records_per_second_max = Some(records);
        self
    }

    /// With this way to repeat failed attempts.
    #[must_use]
    pub fn retry(mut self, retry: RetryPolicy) -> Self {
        self.options.retry = retry;
        self
    }

    /// With so much time for one attempt.
    #[must_use]
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.options.attempt_timeout = timeout;
        self
    }

    /// The id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The exporter.
    pub fn exporter(&self) -> &Arc<dyn Exporter> {
        &self.exporter
    }

    pub(crate) fn validate(&self) -> Result<(), Error> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        if !self.id.starts_with(|c: char| c.is_ascii_alphanumeric()) || !self.id.chars().all(is_plain) {
            return Err(Error::config(
                "id",
                format!(
                    "`{}` cannot be a lane's id: use letters, digits, `-` and `_`, beginning with a letter or digit",
                    self.id
                ),
            ));
        }
        if (self.options.on_reject == OnReject::DeadLetter) != self.dead_letter.is_some() {
            let message = "`dead_letter` goes with a dead letter, and a dead letter with `dead_letter`";
            return Err(Error::config("on_reject", message).with("exporter", &self.id));
        }
        let positive: [(&str, u128); 7] = [
            ("chunk", self.options.chunk.unwrap_or(1) as u128),
            ("chunk_bytes_max", self.options.chunk_bytes_max.unwrap_or(1) as u128),
            ("concurrency", self.options.concurrency as u128),
            ("rejected_in_a_row_max", self.options.rejected_in_a_row_max.into()),
            ("records_per_second_max", self.options.records_per_second_max.unwrap_or(1).into()),
            ("retry.attempts_max", self.options.retry.attempts_max.into()),
            ("attempt_timeout_ms", self.options.attempt_timeout.as_millis()),
        ];
        match positive.iter().find(|(_, value)| *value == 0) {
            Some((field, _)) => Err(Error::config(field, "must be at least 1").with("exporter", &self.id)),
            None => Ok(()),
        }
    }
}

/// Durations as whole milliseconds.
mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_bound_and_are_drawn_below_it() {
        let policy = RetryPolicy::default();
        let mut rng = fastrand::Rng::with_seed(1);
        for (failed, bound_ms) in [(1, 500), (2, 1_000), (7, 32_000), (8, 60_000), (40, 60_000)] {
            let longest = (0..200).map(|_| policy.delay(failed, None, &mut rng)).max().unwrap_or_default();
            assert!(longest <= Duration::from_millis(bound_ms), "{failed}: {longest:?}");
            assert!(longest > Duration::from_millis(bound_ms * 8 / 10), "{failed}: {longest:?}");
        }
    }

    #[test]
    fn what_the_destination_asks_for_is_given_up_to_the_bound() {
        let policy = RetryPolicy::default();
        let mut rng = fastrand::Rng::with_seed(1);
        assert_eq!(policy.delay(1, Some(Duration::from_secs(7)), &mut rng), Duration::from_secs(7));
        assert_eq!(policy.delay(1, Some(Duration::from_secs(7_000)), &mut rng), Duration::from_secs(60));
    }
}
