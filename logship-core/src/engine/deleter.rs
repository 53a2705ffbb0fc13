//! Deletes from the source what every lane has.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::budget::Gauge;
use super::buffers::Buffer;
use super::committer::{Changes, Committer};
use super::ledger::{Change, Note};
use super::signal::Signal;
use super::{News, Team};
use crate::page::Preparation;
use crate::shipper::LogShipper;
use crate::{
    Cursor, Deletion, Error, LogRecord, Offsets, Page, PageEnd, PageLimits, Partition, Query, RecordId, SeenIds,
    Source, Start, Transform,
};

/// Under which lane it is kept how far deletion has come. No lane can have this id.
const DELETED: &str = "(deleted)";

/// How often a last deletion is tried that fails for a passing reason.
const ATTEMPTS_MAX: u32 = 3;

/// Follows the slowest lane through the source and deletes what all lanes are known to have, record by record. What a
/// lane has is what its stored offset says, so that nothing is deleted which a crash would send again.
#[derive(Debug)]
pub(crate) struct Deleter {
    source: Arc<dyn Source>,
    committer: Arc<Committer>,
    news: Arc<Signal<News>>,
    gauge: Arc<Gauge>,
    query: Query,
    /// The lanes, and what each wants.
    lanes: Vec<(Arc<str>, Query)>,
    transforms: Arc<[Arc<dyn Transform>]>,
    limits: PageLimits,
    interval: Duration,
}

/// A stretch behind which every lane is, and in which nothing appears any more that a lane would ship.
struct Stretch {
    from: Start,
    to: Cursor,
    /// What each lane has shipped.
    shipped: Vec<HashSet<u64>>,
}

/// How far deletion has come in a partition.
pub(crate) fn deleted<'o>(stored: &'o Offsets, partition: &Partition) -> Option<&'o Cursor> {
    stored.lanes.get(DELETED)?.cursors.get(partition.as_str())
}

impl Deleter {
    pub(crate) fn new(shipper: &LogShipper, team: &Team) -> Self {
        let lanes = team.contexts.iter().map(|context| {
            let courier = &context.courier;
            (Arc::clone(&courier.lane), courier.options.filter.clone())
        });
        Deleter {
            source: Arc::clone(&shipper.source),
            committer: Arc::clone(&team.committer),
            news: Arc::clone(&team.news),
            gauge: Arc::clone(&team.gauge),
            query: shipper.query.clone(),
            lanes: lanes.collect(),
            transforms: Arc::clone(&shipper.transforms),
            limits: PageLimits { records_max: shipper.page_records, bytes_max: shipper.shares.page, until: None },
            interval: shipper.poll_interval,
        }
    }

    /// Deletes while the lanes ship, and once more when they have ended, unless the run is to stop.
    pub(crate) async fn run(&self, lanes_ended: &CancellationToken, stop: &CancellationToken) -> Deletion {
        let mut deletion = Deletion::default();
        let mut failed = 0;
        loop {
            let last = lanes_ended.is_cancelled();
            let swept = tokio::select! {
                biased;
                () = stop.cancelled() => return deletion,
                swept = self.sweep(&mut deletion) => swept,
            };
            match swept {
                Ok(()) if last => return deletion,
                Ok(()) => failed = 0,
                Err(error) => {
                    failed += u32::from(last);
                    if !error.is_retryable() || failed == ATTEMPTS_MAX {
                        deletion.error = Some(error);
                        return deletion;
                    }
                    tracing::warn!(%error, "what was shipped could not be deleted from the source; trying again");
                }
            }
            tokio::select! {
                biased;
                () = lanes_ended.cancelled(), if !last => {}
                () = tokio::time::sleep(self.interval) => {}
            }
        }
    }

    /// Deletes what can be deleted now.
    async fn sweep(&self, deletion: &mut Deletion) -> Result<(), Error> {
        let (_, news) = self.news.get();
        for partition in news.partitions.iter() {
            let Some(stretch) = self.committer.look(|stored| self.stretch(stored, partition)) else { continue };
            self.delete(partition, stretch, deletion).await.map_err(|error| error.with("partition", partition))?;
        }
        Ok(())
    }

    /// What of a partition every lane has passed and deletion has not.
    fn stretch(&self, stored: &Offsets, partition: &Partition) -> Option<Stretch> {
        let name = partition.as_str();
        let offsets: Option<Vec<_>> = self.lanes.iter().map(|(lane, _)| stored.lanes.get(lane.as_ref())).collect();
        let offsets = offsets?;
        let mut ends = Vec::with_capacity(offsets.len());
        for offset in &offsets {
            let cursor = offset.cursors.get(name)?;
            ends.push(match offset.windows.get(name) {
                Some(window) => cursor.min(window.after.as_ref()?),
                None => cursor,
            });
        }
        let to = ends.into_iter().min()?.clone();
        // Where a lane began later than the others, there is nothing before that which all have.
        let begins = offsets.iter().map(|offset| offset.since).max().flatten().map_or(Start::Earliest, Start::At);
        let deleted = deleted(stored, partition);
        if deleted.is_some_and(|deleted| *deleted >= to) {
            return None;
        }
        let ids = |window: &crate::Window| window.ids().collect();
        let shipped = offsets.iter().map(|offset| offset.windows.get(name).map(ids).unwrap_or_default()).collect();
        Some(Stretch { from: deleted.map_or(begins, |deleted| Start::After(deleted.clone())), to, shipped })
    }

    async fn delete(&self, partition: &Partition, stretch: Stretch, deletion: &mut Deletion) -> Result<(), Error> {
        let mut from = stretch.from.clone();
        loop {
            let mut page = self.source.read(partition, &from, &self.query, self.limits).await?;
            page.charge(&self.gauge);
            let next = page.next().map(Cursor::detached);
            let ends = page.end() == PageEnd::CaughtUp || next.as_ref().is_none_or(|next| *next >= stretch.to);
            let ids = self.shipped(page, &stretch, deletion);
            if !ids.is_empty() {
                deletion.deleted += self.source.delete(&ids).await?;
            }
            match next {
                Some(next) if !ends => from = Start::After(next),
                _ => break,
            }
        }
        let change = |change: Change| Changes::from([(partition.clone(), change)]);
        let forget = |to: &Cursor| Change { cursor: None, notes: vec![Note::Deleted { to: to.clone() }] };
        let lanes = self.lanes.iter().map(|(lane, _)| (lane.as_ref(), change(forget(&stretch.to))));
        let deleted = (DELETED, change(Change { cursor: Some(stretch.to.clone()), notes: Vec::new() }));
        let ticket = self.committer.add_all(lanes.chain([deleted]));
        self.committer.wait_for(ticket).await;
        Ok(())
    }

    /// The records of a page that every lane has: shipped, or never wanted.
    fn shipped(&self, page: Page, stretch: &Stretch, deletion: &mut Deletion) -> Vec<RecordId> {
        // Lanes choose among records as they see them.
        let by_content = self.lanes.iter().any(|(_, filter)| *filter != Query::all());
        let transforms = if by_content { Arc::clone(&self.transforms) } else { Arc::default() };
        let page = page.prepared(&Preparation { transforms, until: None }, &[], true, |_| Buffer::default());
        let passed = page.records().iter().take_while(|record| *record.id.position() <= stretch.to);
        let is_shipped = |record: &&LogRecord| {
            let id = SeenIds::id_of(record.id.position());
            let mut lanes = self.lanes.iter().zip(&stretch.shipped);
            lanes.all(|((_, filter), shipped)| shipped.contains(&id) || !filter.matches(record))
        };
        let (shipped, kept): (Vec<_>, Vec<_>) = passed.partition(is_shipped);
        deletion.kept += kept.len() as u64;
        shipped.into_iter().map(|record| record.id.clone()).collect()
    }
}
