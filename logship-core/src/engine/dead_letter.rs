//! Hands what a destination refused to the lane's dead letter.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::chunker::{Chunker, Input};
use super::delivery::{Courier, Parcel};
use crate::chunk::Begins;
use crate::{
    Chunk, DeadLetter, Error, ErrorKind, LogRecord, OnReject, Page, PageEnd, Partition, Query, Rejection, Start,
    Timestamp,
};

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
        let mut letters: BTreeMap<Partition, Vec<LogRecord>> = BTreeMap::new();
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
            let letter = letter.into_record()?;
            letters.entry(letter.id.partition().clone()).or_default().push(letter);
        }
        let encoding = courier.encoding.as_deref();
        let mut chunker = Chunker::new(courier.identity(), courier.limits, Query::all(), encoding, OnReject::Stop);
        let mut cuts = Vec::new();
        for (number, (partition, letters)) in letters.into_iter().enumerate() {
            let page = Arc::new(Page::new(partition, letters, PageEnd::CaughtUp));
            let encoded = encoding.map(|encoding| page.encoded(encoding));
            let bytes = page.bytes() + encoded.as_ref().map_or(0, |encoded| encoded.bytes());
            let held = Arc::new(courier.gauge.hold(bytes));
            let input = Input { partition: number, page, from: 0, encoded, held };
            chunker.add_partition(Start::Earliest);
            let pushed = chunker.push(&input, None, now);
            if let Some((at, rejection)) = pushed.refused.first() {
                let message = format!("the dead letter does not take a record either: {rejection}");
                let error = Error::new(ErrorKind::Rejected, "write a dead letter", message);
                return Err(match input.page.records().get(*at) {
                    Some(letter) => error.with("record", &letter.id),
                    None => error,
                });
            }
            cuts.extend(pushed.cuts);
        }
        cuts.extend(chunker.cut());
        let mut chunks: Vec<Chunk> = cuts.into_iter().map(|cut| cut.chunk).collect();
        for chunk in &mut chunks {
            // What else is refused in this attempt may not be in another one, so letters are known by their first.
            let first = chunk.heads().next().map(|letter| letter.position.detached());
            chunk.begins = first.map(|first| Arc::new(Begins::Refused(first)));
        }
        Ok(chunks)
    }
}
