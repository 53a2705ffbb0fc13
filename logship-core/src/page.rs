//! What one read of a source gives.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::encoding::{EncodedPage, Encoding};
use crate::engine::budget::{Gauge, Held};
use crate::{Cursor, LogRecord, Partition, Timestamp, Transform};

/// How much one read may give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageLimits {
    /// The most records.
    pub records_max: usize,
    /// The most bytes of memory, by [`LogRecord::size`]; one record is always allowed.
    pub bytes_max: usize,
    /// Neither to give nor to pass records of this time or later. `None` for sources whose order of arrival is
    /// [`Total`](crate::ArrivalOrder::Total).
    pub until: Option<Timestamp>,
}

/// Whether there is more behind a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageEnd {
    /// There may be more: read on. Also after a page without records.
    More,
    /// There is no more now; there may be later.
    CaughtUp,
}

/// Records of one partition, in order, and where to read on.
///
/// The engine holds a page behind an `Arc`; all lanes work on the same one.
pub struct Page {
    partition: Partition,
    records: Vec<LogRecord>,
    next: Option<Cursor>,
    end: PageEnd,
    bytes: usize,
    /// When the source was asked. What appeared in it since is not in the page.
    pub(crate) read_at: Timestamp,
    encoded: Mutex<Vec<(String, Arc<EncodedPage>)>>,
    /// Counts this page against the byte budget, as long as anybody holds it.
    held: Option<Held>,
}

impl Page {
    /// A page of records. Where it ends is the position of its last record.
    pub fn new(partition: Partition, records: Vec<LogRecord>, end: PageEnd) -> Self {
        let next = records.last().map(|record| record.id.position().clone());
        Page::ending_at(partition, records, next, end)
    }

    /// A page that ends behind its last record: the source has looked further and found nothing that was asked for.
    /// With `next` `None` it ends where it began.
    pub fn ending_at(partition: Partition, records: Vec<LogRecord>, next: Option<Cursor>, end: PageEnd) -> Self {
        let bytes = records.iter().map(LogRecord::size).sum();
        let read_at = Timestamp::default();
        Page { partition, records, next, end, bytes, read_at, encoded: Mutex::new(Vec::new()), held: None }
    }

    /// The partition all records are of.
    pub fn partition(&self) -> &Partition {
        &self.partition
    }

    /// The records.
    pub fn records(&self) -> &[LogRecord] {
        &self.records
    }

    /// Where to read on; `None` if nothing was passed.
    pub fn next(&self) -> Option<&Cursor> {
        self.next.as_ref()
    }

    /// Whether there is more.
    pub fn end(&self) -> PageEnd {
        self.end
    }

    /// Bytes of memory the records hold.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The page with every record changed by these, one after another.
    pub(crate) fn transformed(mut self, transforms: &[Arc<dyn Transform>]) -> Self {
        for record in &mut self.records {
            transforms.iter().for_each(|transform| transform.apply(record));
        }
        self.bytes = self.records.iter().map(LogRecord::size).sum();
        self
    }

    /// Leaves out the records that are not wanted after all.
    pub(crate) fn keep(&mut self, is_wanted: impl Fn(&LogRecord) -> bool) {
        self.records.retain(is_wanted);
        self.bytes = self.records.iter().map(LogRecord::size).sum();
    }

    /// Counts the page by `gauge` from now on.
    pub(crate) fn charge(&mut self, gauge: &Arc<Gauge>) {
        self.held = Some(gauge.hold(self.bytes));
    }

    /// The records as written by `encoding`. Done once for all lanes with the same encoding key.
    pub(crate) fn encoded(&self, encoding: &dyn Encoding) -> Arc<EncodedPage> {
        // Held while encoding, so that a second lane waits for the first one's work instead of repeating it.
        let mut encoded = self.encoded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, page)) = encoded.iter().find(|(key, _)| key == encoding.key()) {
            return Arc::clone(page);
        }
        let mut page = EncodedPage::encode(encoding, &self.records);
        page.held = self.held.as_ref().map(|held| held.hold_more(page.bytes()));
        let page = Arc::new(page);
        encoded.push((encoding.key().to_owned(), Arc::clone(&page)));
        page
    }
}

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Page")
            .field("partition", &self.partition)
            .field("records", &self.records.len())
            .field("next", &self.next)
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}
