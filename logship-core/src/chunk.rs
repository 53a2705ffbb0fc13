//! What one `export` call is given.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::encoding::{EncodedPage, Stretch};
use crate::engine::budget::Held;
use crate::page::Head;
use crate::{Body, LogRecord, Page, Partition, RecordId, Start};

/// Records for one `export` call: a view of pages, which copies none.
///
/// What happened to a record is said by its index in the chunk: 0 is the first that [`Chunk::records`] gives.
#[derive(Clone)]
pub struct Chunk {
    pub(crate) offset_key: Arc<str>,
    pub(crate) lane: Arc<str>,
    pub(crate) segments: Vec<Segment>,
    pub(crate) len: usize,
    pub(crate) begins: Option<Arc<Begins>>,
    pub(crate) attempt: u32,
    pub(crate) body: Option<Body>,
    /// What [`sends`](Chunk::sends) said of this attempt; 0 if nothing.
    pub(crate) sent: Arc<AtomicUsize>,
}

/// Where a chunk begins: what a chunk that is made again after a crash has in common with the lost one, and with no
/// other chunk of its lane and partition.
///
/// As text, letters and digits of which a name can be made: `from-the-first`, `from-<time>`, `after-<cursor>`,
/// `late-<number>-after-<cursor>`, `refused-<cursor>`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Begins {
    /// Where the lane stood in the partition before the first record.
    Reading(Start),
    /// With the late record of this number, counted from 0, of those found behind this position.
    Late {
        /// Where the stretch begins in which records may still appear; `None` where the lane began.
        after: Option<crate::Cursor>,
        /// How many late records were shipped before.
        number: u64,
    },
    /// With the dead letter of the record at this position. A record is refused once: what was refused beside it in an
    /// attempt is not known again, but no other letters begin with it.
    Refused(crate::Cursor),
}

impl fmt::Display for Begins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Begins::Reading(Start::Earliest) => f.write_str("from-the-first"),
            Begins::Reading(Start::At(time)) => write!(f, "from-{time}"),
            Begins::Reading(Start::After(cursor)) => write!(f, "after-{cursor}"),
            Begins::Late { after: None, number } => write!(f, "late-{number}"),
            Begins::Late { after: Some(cursor), number } => write!(f, "late-{number}-after-{cursor}"),
            Begins::Refused(cursor) => write!(f, "refused-{cursor}"),
        }
    }
}

/// Neighbouring records of one page.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) page: Arc<Page>,
    /// Let go once the chunk is packed.
    pub(crate) encoded: Option<Arc<EncodedPage>>,
    pub(crate) range: Range<usize>,
    /// Counts the page and its encoded form against the lane's share, as long as the lane holds them.
    pub(crate) _held: Option<Arc<Held>>,
}

impl Segment {
    /// The records with their encoded form, if they have one.
    pub(crate) fn stretch(&self) -> Option<Stretch<'_>> {
        let encoded = self.encoded.as_deref()?;
        Some(Stretch { encoded, from: self.range.start, to: self.range.end })
    }
}

impl Chunk {
    /// A chunk made by hand, for tests of an exporter and for programs that have records but no engine. `encoding`
    /// is the exporter's own, if it has one.
    pub fn of_page(page: Page, encoding: Option<&dyn crate::Encoding>) -> Result<Self, crate::Error> {
        let range = 0..page.len();
        let page = Arc::new(page);
        let encoded = encoding.map(|encoding| page.encoded(encoding));
        let mut chunk = Chunk {
            offset_key: Arc::from("test"),
            lane: Arc::from("test"),
            len: range.len(),
            segments: vec![Segment { page, encoded, range, _held: None }],
            begins: Some(Arc::new(Begins::Reading(Start::Earliest))),
            attempt: 1,
            body: None,
            sent: Arc::default(),
        };
        if let Some(encoding) = encoding {
            chunk.body = Some(chunk.pack(encoding)?);
        }
        Ok(chunk)
    }

    /// How many records there are; never none.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no records. The engine never makes such a chunk.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The records, in order. An exporter that sends the [body](Chunk::body) and can do without them should: records
    /// that nobody asks for may not have to be kept.
    pub fn records(&self) -> impl Iterator<Item = &LogRecord> + Clone {
        self.segments.iter().flat_map(|segment| &segment.page.records()[segment.range.clone()])
    }

    /// The ids of the records, in order. The records themselves need not be there for that.
    pub fn ids(&self) -> impl Iterator<Item = RecordId> {
        self.places().map(|(partition, head)| RecordId::new(partition.clone(), head.position.clone()))
    }

    /// When the records happened, in order. The records themselves need not be there for that.
    pub fn timestamps(&self) -> impl Iterator<Item = crate::Timestamp> + Clone {
        self.heads().map(|head| head.timestamp)
    }

    /// What the engine needs of each record.
    pub(crate) fn heads(&self) -> impl Iterator<Item = Head<'_>> + Clone {
        self.places().map(|(_, head)| head)
    }

    /// The same, each with its partition.
    pub(crate) fn places(&self) -> impl Iterator<Item = (&Partition, Head<'_>)> + Clone {
        self.segments.iter().flat_map(|segment| {
            let page = segment.page.as_ref();
            segment.range.clone().map(move |index| (page.partition(), page.head(index)))
        })
    }

    /// The same of the records of one partition, each with the time at which its page was asked for.
    pub(crate) fn heads_of(&self, partition: &Partition) -> impl Iterator<Item = (Head<'_>, crate::Timestamp)> {
        let segments = self.segments.iter().filter(move |segment| segment.page.partition() == partition);
        segments.flat_map(|segment| {
            let read_at = segment.page.read_at;
            segment.range.clone().map(move |index| (segment.page.head(index), read_at))
        })
    }

    /// The time of the last record.
    pub(crate) fn last_timestamp(&self) -> Option<crate::Timestamp> {
        let segment = self.segments.last()?;
        segment.range.clone().next_back().map(|index| segment.page.head(index).timestamp)
    }

    /// The first record.
    pub fn first(&self) -> Option<&LogRecord> {
        self.records().next()
    }

    /// The last record.
    pub fn last(&self) -> Option<&LogRecord> {
        self.segments.last().and_then(|segment| segment.page.records()[segment.range.clone()].last())
    }

    /// The key of the shipper that sends this chunk. Two shippers with lanes of the same name may write to one place.
    pub fn offset_key(&self) -> &str {
        &self.offset_key
    }

    /// The lane this chunk is of.
    pub fn lane(&self) -> &str {
        &self.lane
    }

    /// The partition of the first record. All records are of it where the exporter's
    /// [`Limits::one_partition`](crate::Limits::one_partition) is set.
    pub fn partition(&self) -> Option<&Partition> {
        self.segments.first().map(|segment| segment.page.partition())
    }

    /// Where in that partition the chunk begins. For exporters that are
    /// [idempotent by chunk](crate::Idempotency::PerChunk) this is the identity of the chunk: after a crash the lane
    /// begins again at the last committed position, so whatever it sends first begins where the lost chunk began.
    pub fn begins(&self) -> Option<&Begins> {
        self.begins.as_deref()
    }

    /// Which attempt this is, from 1.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The encoded and packed body; `None` for exporters without an [`Encoding`](crate::Encoding).
    pub fn body(&self) -> Option<&Body> {
        self.body.as_ref()
    }

    /// The same for an exporter with an encoding, whose chunks have a body.
    ///
    /// # Errors
    /// [`ErrorKind::Unexpected`](crate::ErrorKind::Unexpected) for a chunk that was made without the encoding.
    pub fn require_body(&self, operation: &'static str) -> Result<&Body, crate::Error> {
        let missing = || crate::Error::new(crate::ErrorKind::Unexpected, operation, "the chunk was not encoded");
        self.body().ok_or_else(missing)
    }

    /// For an exporter that makes another body of this one: how many bytes it sends instead, for the report.
    pub fn sends(&self, wire_bytes: usize) {
        self.sent.store(wire_bytes, Ordering::Relaxed);
    }

    /// Counts what was sent in this attempt in place of the body, if that was another.
    pub(crate) fn recount(&self, wire_bytes: &mut u64) {
        let sent = self.sent.swap(0, Ordering::Relaxed);
        if sent > 0 {
            let counted = self.body.as_ref().map_or(0, Body::len);
            *wire_bytes = wire_bytes.saturating_sub(counted as u64) + sent as u64;
        }
    }

    /// Encodes again what is only there as a part of a body that is no longer of use.
    pub(crate) fn encode(&mut self, encoding: &dyn crate::Encoding) {
        for segment in self.segments.iter_mut().filter(|segment| segment.encoded.is_none()) {
            segment.encoded = Some(segment.page.encoded(encoding));
        }
    }

    /// Lets the encoded records go: they are in the body. Few chunks are ever sent in parts, and those are encoded again.
    pub(crate) fn forget_encoded(&mut self) {
        self.segments.iter_mut().for_each(|segment| segment.encoded = None);
    }

    /// The records at the given ascending indexes, as a chunk of their own without a body.
    pub(crate) fn select(&self, indexes: &[usize]) -> Chunk {
        let mut segments: Vec<Segment> = Vec::new();
        let mut wanted = indexes.iter().copied().peekable();
        let mut base = 0;
        for segment in &self.segments {
            let mut open: Option<Range<usize>> = None;
            while let Some(index) = wanted.next_if(|index| *index < base + segment.range.len()) {
                let at = segment.range.start + index - base;
                match &mut open {
                    Some(range) if range.end == at => range.end = at + 1,
                    _ => {
                        segments.extend(open.take().map(|range| Segment { range, ..segment.clone() }));
                        open = Some(at..at + 1);
                    }
                }
            }
            segments.extend(open.map(|range| Segment { range, ..segment.clone() }));
            base += segment.range.len();
        }
        let begins = match (indexes.first(), self.begins.as_deref()) {
            (Some(0) | None, _) => self.begins.clone(),
            (Some(first), Some(Begins::Late { after, number })) => {
                Some(Arc::new(Begins::Late { after: after.clone(), number: number + *first as u64 }))
            }
            // The record before the first is where the lane would stand.
            (Some(first), Some(Begins::Reading(_)) | None) => self
                .heads()
                .nth(first - 1)
                .map(|record| Arc::new(Begins::Reading(Start::After(record.position.detached())))),
            (Some(first), Some(Begins::Refused(_))) => {
                self.heads().nth(*first).map(|letter| Arc::new(Begins::Refused(letter.position.detached())))
            }
        };
        let (offset_key, lane) = (Arc::clone(&self.offset_key), Arc::clone(&self.lane));
        let (len, attempt) = (indexes.len(), self.attempt);
        Chunk { offset_key, lane, segments, len, begins, attempt, body: None, sent: Arc::default() }
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chunk")
            .field("lane", &self.lane)
            .field("records", &self.len)
            .field("first", &self.ids().next())
            .field("attempt", &self.attempt)
            .field("body", &self.body)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::buffers::Buffer;
    use crate::{Cursor, PageEnd, Timestamp};

    fn chunk(pages: &[&[i64]]) -> Chunk {
        let partition = Partition::new("p");
        let segments: Vec<Segment> = pages
            .iter()
            .map(|numbers| {
                let records = numbers.iter().map(|number| {
                    let id = RecordId::new(partition.clone(), Cursor::number(*number));
                    LogRecord::new(id, Timestamp::from_secs(*number))
                });
                let page = Page::new(partition.clone(), records.collect(), PageEnd::More);
                Segment { range: 0..page.records().len(), page: Arc::new(page), encoded: None, _held: None }
            })
            .collect();
        let len = segments.iter().map(|segment| segment.range.len()).sum();
        Chunk {
            offset_key: "k".into(),
            lane: "l".into(),
            segments,
            len,
            begins: Some(Arc::new(Begins::Reading(Start::Earliest))),
            attempt: 1,
            body: None,
            sent: Arc::default(),
        }
    }

    fn numbers(chunk: &Chunk) -> Vec<i64> {
        chunk.records().map(|record| record.id.position().as_number()).collect()
    }

    /// Writes the position.
    #[derive(Debug)]
    struct Positions(&'static str);

    impl crate::Encoding for Positions {
        fn key(&self) -> &str {
            self.0
        }
        fn record(&self, record: &LogRecord, out: &mut Vec<u8>) -> Result<(), crate::Unencodable> {
            out.extend_from_slice(record.id.position().to_string().as_bytes());
            Ok(())
        }
    }

    #[test]
    fn lanes_share_a_body_of_the_same_records_in_the_same_form() {
        let mut chunk = chunk(&[&[1, 2, 3], &[4, 5]]);
        let encoding = Positions("positions");
        for segment in &mut chunk.segments {
            segment.encoded = Some(segment.page.encoded(&encoding));
        }
        let pack = |chunk: &Chunk, encoding| chunk.pack_once(encoding, |_| Buffer::default()).unwrap().bytes();
        let first = pack(&chunk, &encoding);
        let second = pack(&chunk.clone(), &encoding);
        assert_eq!(first, chunk.pack(&encoding).unwrap().bytes());
        assert_eq!(first.as_ptr(), second.as_ptr(), "packed once");
        let part = pack(&chunk.select(&[0, 1, 3]), &encoding);
        assert_eq!(part, chunk.select(&[0, 1, 3]).pack(&encoding).unwrap().bytes());
        assert_ne!(part, first);
        assert_ne!(pack(&chunk, &Positions("other")).as_ptr(), first.as_ptr());
        drop((first, second));
        assert_eq!(chunk.segments[0].page.packed.lock().unwrap()[0].bytes.strong_count(), 0, "nothing keeps it");
    }

    /// Writes an array of positions; some have no form.
    #[derive(Debug)]
    struct Array {
        begin: &'static [u8],
        without: &'static [&'static str],
    }

    impl crate::Encoding for Array {
        fn key(&self) -> &str {
            "array"
        }
        fn record(&self, record: &LogRecord, out: &mut Vec<u8>) -> Result<(), crate::Unencodable> {
            let text = record.id.position().as_number().to_string();
            out.extend_from_slice(text.as_bytes());
            match self.without.contains(&text.as_str()) {
                true => Err(crate::Unencodable { reason: "no form".to_owned() }),
                false => Ok(()),
            }
        }
        fn begin(&self) -> &[u8] {
            self.begin
        }
        fn separator(&self) -> &[u8] {
            b", "
        }
    }

    #[test]
    fn a_body_that_stands_in_a_page_is_not_copied_and_is_the_same() {
        let encoded = |encoding: &Array, indexes: &[usize]| {
            let mut chunk = chunk(&[&[1, 2, 3], &[4, 5]]).select(indexes);
            chunk.encode(encoding);
            let (packed, in_place) = (chunk.pack(encoding).unwrap().bytes(), chunk.body_in_place(encoding, false));
            assert!(in_place.as_ref().is_none_or(|body| body.bytes() == packed), "{in_place:?}");
            (String::from_utf8(packed.to_vec()).unwrap(), in_place.is_some())
        };
        let (framed, bare) = (Array { begin: b"[", without: &[] }, Array { begin: b"", without: &[] });
        for (encoding, indexes, body, is_in_place) in [
            (&framed, &[0, 1, 2][..], "[1, 2, 3", true),
            (&framed, &[1, 2], "[2, 3", false),
            (&framed, &[0, 1, 2, 3, 4], "[1, 2, 3, 4, 5", false),
            (&bare, &[0, 1, 2], "1, 2, 3", true),
            (&bare, &[1, 2], "2, 3", true),
            (&bare, &[4], "5", true),
            (&bare, &[0, 2], "1, 3", false),
            // What has no form is not chosen.
            (&Array { begin: b"[", without: &["1"] }, &[1, 2], "[2, 3", false),
            (&Array { begin: b"", without: &["1"] }, &[1, 2], "2, 3", true),
            (&Array { begin: b"", without: &["2"] }, &[0, 2], "1, 3", false),
        ] {
            assert_eq!(encoded(encoding, indexes), (body.to_owned(), is_in_place));
        }
    }

    /// Writes long positions, with or without groups.
    #[derive(Debug)]
    struct Long(bool);

    impl crate::Encoding for Long {
        fn key(&self) -> &str {
            "long"
        }
        fn record(&self, record: &LogRecord, out: &mut Vec<u8>) -> Result<(), crate::Unencodable> {
            out.extend_from_slice(format!("{:050000}", record.id.position().as_number()).as_bytes());
            Ok(())
        }
        fn begin(&self) -> &[u8] {
            b"["
        }
        fn separator(&self) -> &[u8] {
            b", "
        }
        fn end(&self) -> &[u8] {
            b"]"
        }
        fn grouping(&self) -> Option<Arc<dyn crate::Grouping>> {
            self.0.then(|| Arc::new(Threes) as Arc<dyn crate::Grouping>)
        }
    }

    /// Groups positions by threes.
    #[derive(Debug)]
    struct Threes;

    impl crate::Grouping for Threes {
        fn is_shared(&self, one: &LogRecord, other: &LogRecord) -> bool {
            one.id.position().as_number() / 3 == other.id.position().as_number() / 3
        }
        fn begin(&self, _: &LogRecord, records_len: usize, out: &mut Vec<u8>) {
            out.extend_from_slice(format!("({records_len}:").as_bytes());
        }
        fn end(&self) -> &'static [u8] {
            b")"
        }
    }

    #[test]
    fn a_body_in_parts_is_the_one_that_is_packed() {
        for (is_grouped, indexes, parts) in [
            (false, &[0, 1, 2, 3, 4, 5][..], 5),
            (false, &[0, 2, 5], 7),
            (true, &[3, 4], 5),
            (true, &[0, 1, 3, 4, 5], 13),
        ] {
            let encoding = Long(is_grouped);
            let mut chunk = chunk(&[&[1, 2, 3], &[4, 5, 6]]).select(indexes);
            chunk.encode(&encoding);
            let body = chunk.body_in_place(&encoding, true).map(|body| (body.parts().len(), body.len(), body.bytes()));
            let whole = chunk.pack(&encoding).unwrap().bytes();
            assert_eq!(body, Some((parts, whole.len(), whole)), "{indexes:?}");
            assert!(chunk.body_in_place(&encoding, false).is_none());
        }
    }

    #[test]
    fn a_selection_keeps_order_across_pages() {
        let chunk = chunk(&[&[1, 2, 3], &[4, 5], &[6, 7]]);
        for indexes in [vec![0, 1, 2, 3, 4, 5, 6], vec![1, 2, 3, 6], vec![0, 2, 5], vec![4]] {
            let selected = chunk.select(&indexes);
            let expected: Vec<i64> = indexes.iter().map(|index| *index as i64 + 1).collect();
            assert_eq!(numbers(&selected), expected);
            assert_eq!(selected.len(), indexes.len());
        }
    }

    #[test]
    fn a_selection_begins_behind_the_record_before_it() {
        let chunk = chunk(&[&[1, 2, 3]]);
        assert_eq!(chunk.select(&[0, 1]).begins(), Some(&Begins::Reading(Start::Earliest)));
        assert_eq!(chunk.select(&[2]).begins(), Some(&Begins::Reading(Start::After(Cursor::number(2)))));
    }
}
