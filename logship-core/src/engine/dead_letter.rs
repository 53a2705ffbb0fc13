//! Hands what a destination refused to the lane's dead letter.

use std::sync::Arc;

use super::budget::Gauge;
use super::chunker::{Chunker, Input};
use super::delivery::{Courier, Parcel};
use crate::{Chunk, DeadLetter, Error, OnReject, Page, PageEnd, Partition, Query, Rejection, Start, Timestamp};

/// A lane's dead letter: an exporter with the engine's retries, splits and limits, and nothing behind it.
#[derive(Debug)]
pub(crate) struct DeadLetterBox {
    pub(crate) courier: Courier,
}

impl DeadLetterBox {
    /// Returns once all letters are accepted; or says why they are not, and the lane cannot go on.
    pub(crate) async fn send(
        &self,
        lane: &str,
        now: Timestamp,
        chunk: &Chunk,
        refused: &[(usize, Rejection)],
    ) -> Result<(), Error> {
        for cut in self.chunks(lane, now, chunk, refused)? {
            {
                let mut report = self.courier.lock();
                report.read += cut.len() as u64;
                report.left += cut.len() as u64;
            }
            let parcel = Parcel { chunk: cut, refused: Vec::new(), held: None };
            // A boxed future, because a dead letter is delivered within a delivery.
            let delivered = Box::pin(self.courier.deliver(0, parcel)).await;
            if let Some(error) = delivered.error {
                return Err(error.with("dead_letter_of", lane));
            }
        }
        Ok(())
    }

    /// The letters, in chunks that the dead letter's exporter takes.
    fn chunks(
        &self,
        lane: &str,
        now: Timestamp,
        chunk: &Chunk,
        refused: &[(usize, Rejection)],
    ) -> Result<Vec<Chunk>, Error> {
        let courier = &self.courier;
        let mut letters = Vec::with_capacity(refused.len());
        for (position, rejection) in refused {
            let Some(record) = chunk.records().nth(*position) else { continue };
            let letter = DeadLetter {
                record: record.clone(),
                exporter: lane.to_owned(),
                chunk: chunk.begins().map_or(String::new(), ToString::to_string),
                code: rejection.code.clone(),
                reason: rejection.reason.clone(),
                attempts: chunk.attempt(),
                time: now,
            };
            letters.push(letter.into_record()?);
        }
        let Some(partition) = letters.first().map(|letter| letter.id.partition().clone()) else {
            return Ok(Vec::new());
        };
        let begins = chunk.select(&refused.iter().map(|(position, _)| *position).collect::<Vec<_>>()).begins;
        let page = Arc::new(Page::new(Partition::clone(&partition), letters, PageEnd::CaughtUp));
        let encoded = courier.encoding.as_deref().map(|encoding| page.encoded(encoding));
        let held = Arc::new(Arc::<Gauge>::default().hold(0));
        let input = Input { partition: 0, page, from: 0, encoded, held };
        let encoding = courier.encoding.as_deref();
        let mut chunker =
            Chunker::new(Arc::clone(&courier.lane), courier.limits, Query::all(), encoding, OnReject::Stop);
        chunker.add_partition(Start::Earliest);
        let pushed = chunker.push(&input, None, now);
        if let Some((at, rejection)) = pushed.refused.first() {
            let message = format!("the dead letter does not take a record either: {rejection}");
            let error = Error::new(crate::ErrorKind::Rejected, "write a dead letter", message);
            return Err(match input.page.records().get(*at) {
                Some(letter) => error.with("record", &letter.id),
                None => error,
            });
        }
        let cuts = pushed.cuts.into_iter().chain(chunker.cut());
        let mut chunks: Vec<Chunk> = cuts.map(|cut| cut.chunk).collect();
        // The letters are known by where the refused records were.
        if let Some(first) = chunks.first_mut() {
            first.begins = begins;
        }
        Ok(chunks)
    }
}
