//! What one read of a source gives.

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::body::Packed;
use crate::encoding::{EncodedPage, Encoder, Encoding};
use crate::engine::budget::{Gauge, Held};
use crate::engine::buffers::Buffer;
use crate::{Cursor, LogRecord, Partition, Timestamp, Transform};

/// How much one read may give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageLimits {
    /// The most records.
    pub records_max: usize,
    /// The most bytes of memory, by [`LogRecord::size`], or by [`RawRecords::bytes`]; one record is always allowed.
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

/// Records as they lie in what was read, for sources that can make them again: the lines of a file, the rows of
/// a table, a broker's messages.
///
/// Most records are wanted in their encoded form and in no other. So the engine has each made and encodes it while it is
/// at hand, and keeps only what it was made of. In the rare case that somebody asks for the record itself, such as a
/// dead letter, it is made once more.
///
/// # Contract
/// 1. [`each`](RawRecords::each) MUST give the same records in the same order every time.
/// 2. [`each`](RawRecords::each) MUST give only what the read was asked for.
/// 3. [`each`](RawRecords::each) MUST NOT wait or do I/O.
pub trait RawRecords: fmt::Debug + Send + Sync {
    /// Makes the records and gives each to `take`, in order. The next one may be made in the same place, whatever
    /// `take` has done to it.
    fn each(&self, take: &mut dyn FnMut(&mut LogRecord));

    /// Bytes of memory held.
    fn bytes(&self) -> usize;
}

/// Records of one partition, in order, and where to read on.
///
/// The engine holds a page behind an `Arc`; all lanes work on the same one.
pub struct Page {
    partition: Partition,
    records: Records,
    next: Option<Cursor>,
    end: PageEnd,
    bytes: usize,
    /// When the source was asked. What appeared in it since is not in the page.
    pub(crate) read_at: Timestamp,
    encoded: Mutex<Vec<Arc<EncodedPage>>>,
    /// Bodies of chunks that begin in this page, for lanes whose chunks are the same.
    pub(crate) packed: Mutex<Vec<Packed>>,
    /// Counts this page against the byte budget, as long as anybody holds it.
    held: Option<Held>,
}

enum Records {
    Made(Made),
    Raw(Raw),
}

/// Records that are there, and the bytes that each has: every lane wants to know.
struct Made {
    records: Vec<LogRecord>,
    sizes: Vec<u32>,
}

impl Made {
    fn new(records: Vec<LogRecord>) -> Self {
        let sizes = records.iter().map(|record| u32::try_from(record.size()).unwrap_or(u32::MAX)).collect();
        Made { records, sizes }
    }

    fn bytes(&self) -> usize {
        self.sizes.iter().map(|size| *size as usize).sum()
    }
}

/// Records that are made when they are asked for.
struct Raw {
    raw: Box<dyn RawRecords>,
    preparation: Preparation,
    /// What the engine itself needs of each record, once it has gone through all of them.
    heads: Option<Vec<(Cursor, Timestamp)>>,
    made: OnceLock<(Vec<LogRecord>, Option<Held>)>,
}

impl Raw {
    fn records(&self, held: Option<&Held>) -> &[LogRecord] {
        let make = || {
            let records = self.make(&mut Passage::new(&self.preparation));
            let bytes = records.iter().map(LogRecord::size).sum();
            (records, held.map(|held| held.hold_more(bytes)))
        };
        &self.made.get_or_init(make).0
    }

    fn make(&self, passage: &mut Passage<'_>) -> Vec<LogRecord> {
        let mut records = Vec::new();
        self.raw.each(&mut |record| {
            if passage.takes(record) {
                let next = LogRecord::new(record.id.clone(), record.timestamp);
                records.push(std::mem::replace(record, next));
            }
        });
        records
    }
}

/// What becomes of records between the source and all lanes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Preparation {
    pub(crate) transforms: Arc<[Arc<dyn Transform>]>,
    /// Records of this time or later are left out.
    pub(crate) until: Option<Until>,
}

/// Where shipping ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Until {
    /// The time of the first record that is not wanted.
    pub(crate) time: Timestamp,
    /// Whether such a record is passed, with no offset that anybody goes on from; otherwise it and what is behind it
    /// wait for a run that wants them.
    pub(crate) passes: bool,
}

impl Preparation {
    /// Whether it leaves records as they are.
    fn is_idle(&self) -> bool {
        self.transforms.is_empty() && self.until.is_none()
    }
}

/// The records of a page on their way through a preparation.
struct Passage<'p> {
    preparation: &'p Preparation,
    /// A record waits, and so does all that is behind it.
    waits: bool,
}

impl<'p> Passage<'p> {
    fn new(preparation: &'p Preparation) -> Self {
        Passage { preparation, waits: false }
    }

    /// Changes a record, and says whether it is wanted.
    fn takes(&mut self, record: &mut LogRecord) -> bool {
        if self.waits {
            return false;
        }
        self.preparation.transforms.iter().for_each(|transform| transform.apply(record));
        let Some(until) = self.preparation.until.filter(|until| record.timestamp >= until.time) else { return true };
        self.waits = !until.passes;
        false
    }
}

/// What the engine itself needs of a record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head<'p> {
    pub(crate) position: &'p Cursor,
    pub(crate) timestamp: Timestamp,
}

impl<'p> Head<'p> {
    pub(crate) fn of(record: &'p LogRecord) -> Self {
        Head { position: record.id.position(), timestamp: record.timestamp }
    }
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
        let made = Made::new(records);
        let bytes = made.bytes();
        Page::of(partition, Records::Made(made), bytes, next, end)
    }

    /// A page of records that are made when they are needed. It ends at `next`; with `None` where it began.
    pub fn raw(partition: Partition, raw: impl RawRecords + 'static, next: Option<Cursor>, end: PageEnd) -> Self {
        let bytes = raw.bytes();
        let preparation = Preparation::default();
        let raw = Raw { raw: Box::new(raw), preparation, heads: None, made: OnceLock::new() };
        Page::of(partition, Records::Raw(raw), bytes, next, end)
    }

    fn of(partition: Partition, records: Records, bytes: usize, next: Option<Cursor>, end: PageEnd) -> Self {
        let read_at = Timestamp::default();
        let (encoded, packed) = (Mutex::default(), Mutex::default());
        Page { partition, records, next, end, bytes, read_at, encoded, packed, held: None }
    }

    /// The partition all records are of.
    pub fn partition(&self) -> &Partition {
        &self.partition
    }

    /// The records. Those of a raw page are made now, if nobody has asked for them before.
    pub fn records(&self) -> &[LogRecord] {
        match &self.records {
            Records::Made(made) => &made.records,
            Records::Raw(raw) => raw.records(self.held.as_ref()),
        }
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        match &self.records {
            Records::Raw(Raw { heads: Some(heads), .. }) => heads.len(),
            _ => self.records().len(),
        }
    }

    /// Whether there are no records.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What the engine needs of one record.
    pub(crate) fn head(&self, index: usize) -> Head<'_> {
        match &self.records {
            Records::Raw(Raw { heads: Some(heads), .. }) => {
                Head { position: &heads[index].0, timestamp: heads[index].1 }
            }
            _ => Head::of(&self.records()[index]),
        }
    }

    /// What the engine needs of all records.
    pub(crate) fn heads(&self) -> impl DoubleEndedIterator<Item = Head<'_>> + Clone {
        (0..self.len()).map(|index| self.head(index))
    }

    /// Bytes of memory that one record holds.
    pub(crate) fn size(&self, index: usize) -> usize {
        match &self.records {
            Records::Made(made) => made.sizes[index] as usize,
            Records::Raw(_) => self.records()[index].size(),
        }
    }

    /// Where to read on; `None` if nothing was passed.
    pub fn next(&self) -> Option<&Cursor> {
        self.next.as_ref()
    }

    /// Whether there is more.
    pub fn end(&self) -> PageEnd {
        self.end
    }

    /// Bytes of memory held: of the records, or of what they are made of.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether lanes can see the page as it is.
    pub(crate) fn is_prepared(&self, preparation: &Preparation, encodings: &[Arc<dyn Encoding>]) -> bool {
        matches!(self.records, Records::Made(_)) && preparation.is_idle() && encodings.is_empty()
    }

    /// The page as lanes see it, with its records written by these encodings. `keeps_records` is for lanes that want
    /// the records themselves, `buffer` for what is written.
    pub(crate) fn prepared(
        mut self,
        preparation: &Preparation,
        encodings: &[Arc<dyn Encoding>],
        keeps_records: bool,
        buffer: impl Fn(usize) -> Buffer,
    ) -> Self {
        // Text grows a little when it is written in another form.
        let size = if let Records::Raw(_) = &self.records { self.bytes + self.bytes / 4 } else { 0 };
        let mut encoders: Vec<Encoder<'_>> =
            encodings.iter().map(|encoding| Encoder::new(encoding.as_ref(), buffer(size))).collect();
        let mut passage = Passage::new(preparation);
        match &mut self.records {
            Records::Raw(raw) if keeps_records => {
                let made = Made::new(raw.make(&mut passage));
                self.bytes = made.bytes();
                self.records = Records::Made(made);
            }
            Records::Raw(raw) => {
                let mut heads = Vec::new();
                raw.raw.each(&mut |record| {
                    if passage.takes(record) {
                        heads.push((record.id.position().clone(), record.timestamp));
                        encoders.iter_mut().for_each(|encoder| encoder.push(record));
                    }
                });
                self.bytes += heads.capacity() * size_of::<(Cursor, Timestamp)>();
                (raw.heads, raw.preparation) = (Some(heads), preparation.clone());
                // Whoever looked before saw them as they came from the source.
                raw.made = OnceLock::new();
            }
            Records::Made(_) if preparation.is_idle() => {}
            Records::Made(made) => {
                let mut records = std::mem::take(&mut made.records);
                records.retain_mut(|record| passage.takes(record));
                *made = Made::new(records);
                self.bytes = made.bytes();
            }
        }
        if let Records::Made(made) = &self.records {
            encoders.iter_mut().for_each(|encoder| encoder.push_all(&made.records));
        }
        let encoded = encoders.into_iter().map(|encoder| Arc::new(encoder.finish(false))).collect();
        self.encoded = Mutex::new(encoded);
        if passage.waits {
            let last = self.heads().next_back().map(|last| last.position.clone());
            self.next = last;
            self.end = PageEnd::CaughtUp;
        }
        self
    }

    /// Counts the page by `gauge` from now on.
    pub(crate) fn charge(&mut self, gauge: &Arc<Gauge>) {
        self.held = Some(gauge.hold(self.bytes));
        let encoded = self.encoded.get_mut().unwrap_or_else(PoisonError::into_inner);
        encoded.iter_mut().filter_map(Arc::get_mut).for_each(|page| page.charge(|bytes| gauge.hold(bytes)));
    }

    /// The records as written by the encoding of this key, if that was done.
    pub(crate) fn find_encoded(&self, key: &str) -> Option<Arc<EncodedPage>> {
        let encoded = self.encoded.lock().unwrap_or_else(PoisonError::into_inner);
        encoded.iter().find(|page| page.key() == key).map(Arc::clone)
    }

    /// Bytes of memory held by encoded forms.
    pub(crate) fn encoded_bytes(&self) -> usize {
        let encoded = self.encoded.lock().unwrap_or_else(PoisonError::into_inner);
        encoded.iter().map(|page| page.bytes()).sum()
    }

    /// Lets the encoded forms go that nobody else holds.
    pub(crate) fn forget_encoded(&self) {
        self.encoded.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The records as written by `encoding`. Done once for all lanes with the same encoding key.
    pub(crate) fn encoded(&self, encoding: &dyn Encoding) -> Arc<EncodedPage> {
        // Held while encoding, so that a second lane waits for the first one's work instead of repeating it.
        let mut encoded = self.encoded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(page) = encoded.iter().find(|page| page.key() == encoding.key()) {
            return Arc::clone(page);
        }
        let mut encoder = Encoder::new(encoding, Buffer::default());
        match &self.records {
            Records::Raw(raw) if raw.made.get().is_none() => {
                let mut passage = Passage::new(&raw.preparation);
                raw.raw.each(&mut |record| {
                    if passage.takes(record) {
                        encoder.push(record);
                    }
                });
            }
            _ => encoder.push_all(self.records()),
        }
        // What is written again may take no more room than the first time.
        let mut page = encoder.finish(true);
        if let Some(held) = &self.held {
            page.charge(|bytes| held.hold_more(bytes));
        }
        let page = Arc::new(page);
        encoded.push(Arc::clone(&page));
        page
    }
}

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Page")
            .field("partition", &self.partition)
            .field("next", &self.next)
            .field("end", &self.end)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Enrichment, RecordId, Unencodable};

    /// Records of these numbers and times, made in one place.
    #[derive(Debug)]
    struct Numbers(Vec<i64>);

    impl RawRecords for Numbers {
        fn each(&self, take: &mut dyn FnMut(&mut LogRecord)) {
            let id = |number: i64| RecordId::new(Partition::new("p"), Cursor::number(number));
            let mut record = LogRecord::new(id(0), Timestamp::default());
            for number in &self.0 {
                (record.id, record.timestamp) = (id(*number), Timestamp::from_secs(*number));
                record.attributes.clear();
                record.body = (*number).into();
                take(&mut record);
            }
        }
        fn bytes(&self) -> usize {
            self.0.len() * size_of::<i64>()
        }
    }

    /// Writes the number and the attributes; 3 has no form.
    #[derive(Debug)]
    struct Plain;

    impl Encoding for Plain {
        fn key(&self) -> &str {
            "plain"
        }
        fn record(&self, record: &LogRecord, out: &mut Vec<u8>) -> Result<(), Unencodable> {
            out.extend_from_slice(record.id.position().as_number().to_string().as_bytes());
            if record.id.position().as_number() == 3 {
                return Err(Unencodable { reason: "no form".to_owned() });
            }
            record.attributes.iter().for_each(|(name, _)| out.extend_from_slice(name.as_bytes()));
            Ok(())
        }
    }

    fn prepared(page: Page, keeps_records: bool) -> Page {
        let transforms: Arc<[Arc<dyn Transform>]> = Arc::new([Arc::new(Enrichment::new().attribute("a", "b"))]);
        let until = Some(Until { time: Timestamp::from_secs(5), passes: true });
        let preparation = Preparation { transforms, until };
        page.prepared(&preparation, &[Arc::new(Plain)], keeps_records, |_| Buffer::default())
    }

    #[test]
    fn a_raw_page_is_the_same_to_lanes_as_one_of_records() {
        let raw = || Page::raw(Partition::new("p"), Numbers(vec![1, 2, 3, 4, 5, 6]), None, PageEnd::More);
        let made = Page::new(Partition::new("p"), raw().records().to_vec(), PageEnd::More);
        let seen = |page: Page| {
            let encoded = page.find_encoded("plain").unwrap();
            let heads: Vec<(i64, Timestamp)> =
                page.heads().map(|head| (head.position.as_number(), head.timestamp)).collect();
            let texts: Vec<String> =
                (0..page.len()).map(|at| String::from_utf8(encoded.record(at).to_vec()).unwrap()).collect();
            assert_eq!(texts, ["1a", "2a", "", "4a"]);
            assert_eq!(encoded.unencodable(2), Some("no form"));
            (heads, page.records().to_vec())
        };
        let expected = seen(prepared(made, false));
        assert_eq!(seen(prepared(raw(), false)), expected);
        assert_eq!(seen(prepared(raw(), true)), expected);
    }

    #[test]
    fn p12_a_record_that_is_made_again_is_transformed_again() {
        let page = prepared(Page::raw(Partition::new("p"), Numbers(vec![1]), None, PageEnd::More), false);
        assert_eq!(page.records()[0].attribute("a"), Some(&"b".into()));
    }

    #[test]
    fn p12_who_looks_too_early_keeps_nothing_of_what_was_seen() {
        let page = Page::raw(Partition::new("p"), Numbers(vec![1, 6]), None, PageEnd::More);
        assert_eq!(page.len(), 2);
        let page = prepared(page, false);
        assert_eq!((page.len(), page.records().len()), (1, 1));
        assert_eq!(page.records()[0].attribute("a"), Some(&"b".into()));
    }

    #[test]
    fn what_waits_and_what_is_behind_it_is_not_passed() {
        let until = Some(Until { time: Timestamp::from_secs(5), passes: false });
        let preparation = Preparation { until, ..Preparation::default() };
        for keeps_records in [false, true] {
            let next = Some(Cursor::number(3));
            let page = Page::raw(Partition::new("p"), Numbers(vec![1, 2, 7, 3]), next, PageEnd::More);
            let page = page.prepared(&preparation, &[Arc::new(Plain)], keeps_records, |_| Buffer::default());
            assert_eq!(page.records().iter().map(|r| r.id.position().as_number()).collect::<Vec<_>>(), [1, 2]);
            assert_eq!((page.next(), page.end()), (Some(&Cursor::number(2)), PageEnd::CaughtUp));
        }
    }

    #[test]
    fn p5_records_that_are_made_again_count() {
        let gauge = Arc::new(Gauge::default());
        let mut page = prepared(Page::raw(Partition::new("p"), Numbers(vec![1, 2]), None, PageEnd::More), false);
        page.charge(&gauge);
        let before = gauge.now();
        let size: usize = page.records().iter().map(LogRecord::size).sum();
        assert_eq!(gauge.now(), before + size);
        drop(page);
        assert_eq!(gauge.now(), 0);
    }
}
