//! Ships again: a range of time, what is missing of one, and dead letters.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use crate::builder::Begin;
use crate::engine::{self, Mode};
use crate::page::Until;
use crate::progress::ProgressSender;
use crate::shipper::LogShipper;
use crate::{
    DeadLetter, Error, ErrorKind, Idempotency, Lane, LogRecord, OffsetKey, Page, PageEnd, PageLimits, Partition, Query,
    RunReport, SeenIds, Source, Start, Timestamp,
};

impl LogShipper {
    /// Ships a range of time again, from and including `from` up to `to`, to one lane: for a destination that is new,
    /// or has lost something. The lane's own offset stays where it is, and its runs may go on at the same time.
    ///
    /// A backfill has an offset of its own, under the offset key with `.backfill` behind it: one that was stopped goes
    /// on where it was when it is begun again, and one that is complete ships nothing more. Chunks go one at a time.
    /// A destination that cannot tell a repeat gets what it had before once more.
    ///
    /// # Errors
    /// As [`LogShipper::run_once`]; [`ErrorKind::Config`] when there is no such lane, or the range is empty or does
    /// not lie in the past.
    pub async fn backfill(&self, lane: &str, from: Timestamp, to: Timestamp) -> Result<RunReport, Error> {
        self.backfill_until(lane, from, to, CancellationToken::new()).await
    }

    /// As [`backfill`](LogShipper::backfill), or stops gracefully when the token is cancelled.
    ///
    /// # Errors
    /// As [`LogShipper::backfill`].
    pub async fn backfill_until(
        &self,
        lane: &str,
        from: Timestamp,
        to: Timestamp,
        stop: CancellationToken,
    ) -> Result<RunReport, Error> {
        let backfill = self.of_range("backfill", lane, from, to)?;
        engine::run(&backfill, Mode::Once, stop).await
    }

    /// Compares a range of time, from and including `from` up to `to`, with what one lane's destination has, and ships
    /// what is missing there: records that appeared later than the [overlap](crate::LogShipperBuilder::overlap), or
    /// that the destination has lost.
    ///
    /// It is the destination that compares: it is given every record of the range under the record's id, and keeps
    /// those it has not. In the report [`already_there`](crate::LaneReport::already_there) counts those it had; the
    /// other accepted ones were missing. The lane's own offset stays where it is. One that was stopped goes on where it
    /// was when it is begun again; one that is complete begins anew.
    ///
    /// # Errors
    /// As [`LogShipper::backfill`]; [`ErrorKind::Unsupported`] when the destination cannot tell records that it has
    /// ([`Idempotency::PerRecord`]).
    pub async fn reconcile(&self, lane: &str, from: Timestamp, to: Timestamp) -> Result<RunReport, Error> {
        self.reconcile_until(lane, from, to, CancellationToken::new()).await
    }

    /// As [`reconcile`](LogShipper::reconcile), or stops gracefully when the token is cancelled.
    ///
    /// # Errors
    /// As [`LogShipper::reconcile`].
    pub async fn reconcile_until(
        &self,
        lane: &str,
        from: Timestamp,
        to: Timestamp,
        stop: CancellationToken,
    ) -> Result<RunReport, Error> {
        let exporter = &self.lane(lane)?.exporter;
        if exporter.capabilities().idempotency != Idempotency::PerRecord {
            let message = format!(
                "{} cannot tell which records it has, so that all of the range would be there twice; a backfill into \
                 an empty place does what can be done",
                exporter.kind()
            );
            return Err(Error::new(ErrorKind::Unsupported, "reconcile", message).with("exporter", lane));
        }
        let reconciliation = self.of_range("reconcile", lane, from, to)?;
        let report = engine::run(&reconciliation, Mode::Once, stop).await?;
        if report.is_complete() {
            self.store.reset(&reconciliation.offset_key, Some(&reconciliation.lanes[0].id)).await?;
        }
        Ok(report)
    }

    /// Ships dead letters again, to one lane: once the cause of their refusal is gone. Each record goes as it was
    /// refused, under its own id; one that is refused again is treated as the lane's options say.
    ///
    /// A replay has an offset of its own, under the offset key with `.replay` behind it: the same letters, if that was
    /// stopped, go on where it was when it is begun again, and are shipped once.
    ///
    /// # Errors
    /// As [`LogShipper::run_once`]; [`ErrorKind::Config`] when there is no such lane.
    pub async fn replay(&self, lane: &str, letters: Vec<DeadLetter>) -> Result<RunReport, Error> {
        self.replay_until(lane, letters, CancellationToken::new()).await
    }

    /// As [`replay`](LogShipper::replay), or stops gracefully when the token is cancelled.
    ///
    /// # Errors
    /// As [`LogShipper::replay`].
    pub async fn replay_until(
        &self,
        lane: &str,
        letters: Vec<DeadLetter>,
        stop: CancellationToken,
    ) -> Result<RunReport, Error> {
        let mut lane = self.lane(lane)?.clone();
        let letters = Letters::new(letters);
        lane.id = format!("{}-replay-{:012x}", lane.id, letters.identity);
        // They are the lane's, and they went through the transforms before.
        lane.options.filter = Query::all();
        let replay = LogShipper {
            source: Arc::new(letters),
            transforms: Arc::new([]),
            query: Query::all(),
            begin: Begin::Earliest,
            until: None,
            ..self.aside("replay", lane)?
        };
        engine::run(&replay, Mode::Once, stop).await
    }

    /// This shipper for one lane and a range of time, beside its own runs.
    fn of_range(&self, purpose: &str, lane: &str, from: Timestamp, to: Timestamp) -> Result<LogShipper, Error> {
        let mut lane = self.lane(lane)?.clone();
        if from >= to || to > self.clock.now() {
            return Err(Error::config("range", format!("from {from} to {to} is no range of the past")));
        }
        // An id of its own, so that an object of it never takes the name of one of the lane's.
        lane.id = format!("{}-{purpose}-{}-{}", lane.id, from.as_millis(), to.as_millis());
        let until = Some(Until { time: to, passes: true });
        Ok(LogShipper { begin: Begin::At(from), until, ..self.aside(purpose, lane)? })
    }

    /// A shipper beside this one, with an offset key of its own, which takes little and deletes nothing.
    fn aside(&self, purpose: &str, mut lane: Lane) -> Result<LogShipper, Error> {
        lane.options.concurrency = 1;
        Ok(LogShipper {
            offset_key: OffsetKey::new(format!("{}.{purpose}", self.offset_key))?,
            lanes: vec![lane],
            delete_shipped: false,
            progress: ProgressSender::new(),
            ..self.clone()
        })
    }
}

/// Dead letters as a source: their records, under their own ids.
#[derive(Debug)]
struct Letters {
    partitions: BTreeMap<Partition, Vec<LogRecord>>,
    /// The same for the same records.
    identity: u64,
}

impl Letters {
    fn new(letters: Vec<DeadLetter>) -> Self {
        let mut partitions: BTreeMap<Partition, Vec<LogRecord>> = BTreeMap::new();
        for DeadLetter { record, .. } in letters {
            partitions.entry(record.id.partition().clone()).or_default().push(record);
        }
        let mut identity = 0;
        for records in partitions.values_mut() {
            records.sort_by(|one, other| one.id.cmp(&other.id));
            // A record may have been refused more than once.
            records.dedup_by(|one, other| one.id == other.id);
            for record in records {
                identity = u64::rotate_left(identity, 7) ^ SeenIds::id_of(record.id.position());
            }
        }
        Letters { partitions, identity: identity & 0xffff_ffff_ffff }
    }
}

#[async_trait]
impl Source for Letters {
    fn kind(&self) -> &'static str {
        "dead letters"
    }

    fn fingerprint(&self) -> String {
        format!("dead letters {:012x}", self.identity)
    }

    async fn partitions(&self) -> Result<Vec<Partition>, Error> {
        Ok(self.partitions.keys().cloned().collect())
    }

    async fn read(
        &self,
        partition: &Partition,
        start: &Start,
        query: &Query,
        limits: PageLimits,
    ) -> Result<Page, Error> {
        let all = self.partitions.get(partition).map(Vec::as_slice).unwrap_or_default();
        let from = match start {
            Start::After(cursor) => all.partition_point(|record| record.id.position() <= cursor),
            Start::Earliest | Start::At(_) => 0,
        };
        let (mut records, mut bytes, mut end) = (Vec::new(), 0, PageEnd::CaughtUp);
        for record in all[from..].iter().filter(|record| query.matches(record)) {
            bytes += record.size();
            if records.len() == limits.records_max || (bytes > limits.bytes_max && !records.is_empty()) {
                end = PageEnd::More;
                break;
            }
            records.push(record.clone());
        }
        Ok(Page::new(partition.clone(), records, end))
    }
}
