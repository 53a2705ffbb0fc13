//! How records become the body of a request.

use std::fmt;
use std::sync::Arc;

use crate::engine::budget::Held;
use crate::engine::buffers::Buffer;
use crate::{Compression, LogRecord};

/// How one destination wants a record written: pure, without I/O.
///
/// An exporter that has one lets the engine encode: chunks are then cut at the exact encoded size, bodies are kept for
/// retries, and lanes whose encodings have the same key share the work. A body is
/// `begin record (separator record)* end`, packed as [`Encoding::compression`] says. With a [`Grouping`] it is
/// `begin group (separator group)* end`, where a group is what its records share, `record (separator record)*`, and the
/// group's end.
///
/// # Contract
/// 1. Encodings of equal [`key`](Encoding::key) MUST write equal bytes for equal records, whoever made them.
/// 2. [`record`](Encoding::record) MUST either append the whole record or return an error; what it appended before an
///    error is cut off again.
/// 3. [`record`](Encoding::record) MUST NOT depend on other records, on time, or on chance.
pub trait Encoding: fmt::Debug + Send + Sync {
    /// What tells this encoding from others: its name and every option that changes a byte.
    fn key(&self) -> &str;

    /// Appends one record.
    fn record(&self, record: &LogRecord, out: &mut Vec<u8>) -> Result<(), Unencodable>;

    /// What a body begins with.
    fn begin(&self) -> &[u8] {
        b""
    }

    /// What stands between two records.
    fn separator(&self) -> &[u8] {
        b""
    }

    /// What a body ends with.
    fn end(&self) -> &[u8] {
        b""
    }

    /// How the body is packed.
    fn compression(&self) -> Compression {
        Compression::None
    }

    /// How neighbours share what they have in common, for formats that say it once for many records, such as the
    /// resource in OTLP. By default every record stands alone.
    fn grouping(&self) -> Option<Arc<dyn Grouping>> {
        None
    }
}

/// How an encoding writes, once for a run of neighbouring records, what these share.
///
/// # Contract
/// 1. [`begin`](Grouping::begin) MUST write equal bytes for all records that share a group, and MUST NOT depend on
///    anything but the record and the length.
/// 2. [`begin`](Grouping::begin) MUST NOT write more bytes for a smaller length.
/// 3. [`begin`](Grouping::begin) is asked only about records that have a form: what a group cannot say,
///    [`Encoding::record`] refuses.
/// 4. [`is_shared`](Grouping::is_shared) MUST be an equivalence: whoever shares a group with one of its records shares it
///    with all of them. Of neighbours in one group only the first is kept to be asked about.
pub trait Grouping: fmt::Debug + Send + Sync {
    /// Whether two neighbours stand in one group.
    fn is_shared(&self, one: &LogRecord, other: &LogRecord) -> bool;

    /// Appends what stands before the records of a group. `records_len` is the length of these, with the separators
    /// between them: for formats in which a length comes first.
    fn begin(&self, record: &LogRecord, records_len: usize, out: &mut Vec<u8>);

    /// What stands behind them.
    fn end(&self) -> &'static [u8] {
        b""
    }
}

/// A record has no form in an encoding. It is rejected before anything is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unencodable {
    /// Why, without the record's text.
    pub reason: String,
}

/// The records of a page as an encoding writes them: laid out as in a body that has all of them, so that such a body, and
/// any of neighbours alone that needs no frame, is there without a copy.
#[derive(Debug)]
pub(crate) struct EncodedPage {
    key: String,
    bytes: Arc<Encoded>,
    begin_len: usize,
    separator_len: usize,
    end_len: usize,
    /// Where each record ends.
    ends: Vec<u32>,
    /// The records that have no form, with the reason, in order.
    unencodable: Vec<(u32, String)>,
    /// Where a [`Grouping`] begins a group: the record, and its place.
    leaders: Vec<(u32, LogRecord)>,
    leaders_bytes: usize,
    /// Counts what is not in `bytes` against the byte budget.
    held: Option<Held>,
}

/// What an encoded page and bodies made of it have in common.
#[derive(Debug)]
pub(crate) struct Encoded {
    bytes: Buffer,
    /// Counts the bytes against the byte budget until the last body made of them is gone.
    held: Option<Held>,
}

impl AsRef<[u8]> for Encoded {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_ref()
    }
}

/// Writes an [`EncodedPage`].
#[derive(Debug)]
pub(crate) struct Encoder<'e> {
    encoding: &'e dyn Encoding,
    grouping: Option<Arc<dyn Grouping>>,
    separator: &'e [u8],
    bytes: Buffer,
    ends: Vec<u32>,
    unencodable: Vec<(u32, String)>,
    leaders: Vec<(u32, LogRecord)>,
    leaders_bytes: usize,
}

/// From how many records the length of all is guessed.
const SAMPLE: usize = 16;

impl<'e> Encoder<'e> {
    pub(crate) fn new(encoding: &'e dyn Encoding, mut bytes: Buffer) -> Self {
        bytes.extend_from_slice(encoding.begin());
        Encoder {
            encoding,
            grouping: encoding.grouping(),
            separator: encoding.separator(),
            bytes,
            ends: Vec::new(),
            unencodable: Vec::new(),
            leaders: Vec::new(),
            leaders_bytes: 0,
        }
    }

    pub(crate) fn push(&mut self, record: &LogRecord) {
        let (begin, index) = (self.bytes.len(), self.ends.len() as u32);
        if index > 0 {
            self.bytes.extend_from_slice(self.separator);
        }
        let written = self.encoding.record(record, &mut self.bytes);
        match (written.and_then(|()| check_reach(self.bytes.len())), &self.grouping) {
            (Ok(()), Some(grouping)) => {
                if self.leaders.last().is_none_or(|(_, leader)| !grouping.is_shared(leader, record)) {
                    self.leaders_bytes += record.size();
                    self.leaders.push((index, record.clone()));
                }
            }
            (Ok(()), None) => {}
            (Err(error), _) => {
                self.bytes.truncate(begin);
                self.unencodable.push((index, error.reason));
            }
        }
        self.ends.push(self.bytes.len() as u32);
    }

    pub(crate) fn push_all(&mut self, records: &[LogRecord]) {
        self.ends.reserve(records.len());
        for (index, record) in records.iter().enumerate() {
            self.push(record);
            // The others are about as long as the first few; a wrong guess costs a copy, nothing else.
            if index + 1 == SAMPLE {
                let rest = self.bytes.len() / SAMPLE * (records.len() - SAMPLE) * 9 / 8;
                self.bytes.reserve(rest);
            }
        }
    }

    /// The page, which gives back the room that it does not need where `is_exact`, or where it is small: a buffer that
    /// was used before may be far larger than a small page needs, and all of it is counted.
    pub(crate) fn finish(mut self, is_exact: bool) -> EncodedPage {
        const SMALL: usize = 64 * 1024;
        self.bytes.extend_from_slice(self.encoding.end());
        let capacity = self.bytes.capacity();
        if is_exact || (capacity < SMALL && capacity > 2 * self.bytes.len()) {
            self.bytes.shrink_to_fit();
            self.ends.shrink_to_fit();
        }
        EncodedPage {
            key: self.encoding.key().to_owned(),
            bytes: Arc::new(Encoded { bytes: self.bytes, held: None }),
            begin_len: self.encoding.begin().len(),
            separator_len: self.separator.len(),
            end_len: self.encoding.end().len(),
            ends: self.ends,
            unencodable: self.unencodable,
            leaders: self.leaders,
            leaders_bytes: self.leaders_bytes,
            held: None,
        }
    }
}

/// Whether [`EncodedPage::ends`] reach as far.
fn check_reach(bytes: usize) -> Result<(), Unencodable> {
    if u32::try_from(bytes).is_err() {
        let reason = "the page that it is in has more than 4 GiB in this form: set `page_bytes` lower".to_owned();
        return Err(Unencodable { reason });
    }
    Ok(())
}

impl EncodedPage {
    /// The key of the encoding.
    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// Whether every record has a form.
    pub(crate) fn is_whole(&self) -> bool {
        self.unencodable.is_empty()
    }

    /// How many bytes one record has.
    pub(crate) fn len(&self, index: usize) -> usize {
        // One without a form has no separator, either.
        (self.ends[index] as usize).saturating_sub(self.start(index))
    }

    /// The bytes of one record.
    #[cfg(test)]
    pub(crate) fn record(&self, index: usize) -> &[u8] {
        &self.bytes.bytes[self.place(index..index + 1)]
    }

    /// Why a record has no form, if it has none.
    pub(crate) fn unencodable(&self, index: usize) -> Option<&str> {
        self.unencodable
            .binary_search_by_key(&(index as u32), |(at, _)| *at)
            .ok()
            .map(|found| self.unencodable[found].1.as_str())
    }

    /// Bytes of memory held.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.bytes.capacity() + self.index_bytes()
    }

    /// The same without the records.
    fn index_bytes(&self) -> usize {
        self.ends.capacity() * 4 + self.leaders_bytes
    }

    /// Counts the page from now on: `hold` counts so many bytes.
    pub(crate) fn charge(&mut self, hold: impl Fn(usize) -> Held) {
        self.held = Some(hold(self.index_bytes()));
        if let Some(encoded) = Arc::get_mut(&mut self.bytes) {
            encoded.held = Some(hold(encoded.bytes.capacity()));
        }
    }

    /// The body of these records before it is packed, if it stands here as it is.
    pub(crate) fn body(&self, range: std::ops::Range<usize>) -> Option<(&Arc<Encoded>, std::ops::Range<usize>)> {
        if !self.leaders.is_empty() || range.is_empty() {
            None
        } else if range == (0..self.ends.len()) && self.is_whole() {
            Some((&self.bytes, 0..self.bytes.bytes.len()))
        } else if self.begin_len + self.end_len == 0 {
            Some((&self.bytes, self.place(range)))
        } else {
            None
        }
    }

    /// The first record of the group that a record stands in, with its place, and where the next group begins.
    pub(crate) fn group(&self, index: usize) -> Option<(&LogRecord, std::ops::Range<usize>)> {
        let next = self.leaders.partition_point(|(at, _)| *at as usize <= index);
        let (at, leader) = self.leaders.get(next.checked_sub(1)?)?;
        let end = self.leaders.get(next).map_or(self.ends.len(), |(at, _)| *at as usize);
        Some((leader, *at as usize..end))
    }

    /// Where several records stand that follow one another, with the separators between them.
    fn place(&self, range: std::ops::Range<usize>) -> std::ops::Range<usize> {
        let end = range.end.checked_sub(1).map_or(0, |last| self.ends[last] as usize);
        self.start(range.start).min(end)..end
    }

    fn start(&self, index: usize) -> usize {
        if index == 0 { self.begin_len } else { self.ends[index - 1] as usize + self.separator_len }
    }
}

/// Some records of a page and their encoded form, as a body takes them.
#[derive(Clone, Copy)]
pub(crate) struct Stretch<'a> {
    pub(crate) encoded: &'a EncodedPage,
    /// Where in the page they stand.
    pub(crate) from: usize,
    pub(crate) to: usize,
}

/// A part of a body that is not packed.
pub(crate) enum Piece<'a> {
    /// Records of a page.
    Records(&'a Arc<Encoded>, std::ops::Range<usize>),
    /// What stands around them.
    Frame(&'a [u8]),
}

impl<'a> Piece<'a> {
    pub(crate) fn bytes(&self) -> &'a [u8] {
        match self {
            Piece::Records(encoded, range) => &encoded.bytes[range.clone()],
            Piece::Frame(bytes) => bytes,
        }
    }
}

/// A body. `heads` holds what groups begin with.
pub(crate) fn pieces<'a>(
    encoding: &'a dyn Encoding,
    stretches: &[Stretch<'a>],
    heads: &'a mut Vec<u8>,
) -> Vec<Piece<'a>> {
    let separator = encoding.separator();
    let mut pieces = vec![Piece::Frame(encoding.begin())];
    if let Some(grouping) = encoding.grouping() {
        let groups = groups(stretches, grouping.as_ref());
        let mut head_ends = Vec::with_capacity(groups.len());
        for (leader, group) in &groups {
            let bytes: usize = group.iter().map(|stretch| stretch.range().len()).sum();
            grouping.begin(leader, bytes + (group.len() - 1) * separator.len(), heads);
            head_ends.push(heads.len());
        }
        let heads = &heads[..];
        let mut from = 0;
        for (index, ((_, group), end)) in groups.iter().zip(head_ends).enumerate() {
            if index > 0 {
                pieces.push(Piece::Frame(separator));
            }
            pieces.push(Piece::Frame(&heads[from..end]));
            from = end;
            append(group, separator, &mut pieces);
            pieces.push(Piece::Frame(grouping.end()));
        }
    } else {
        append(stretches, separator, &mut pieces);
    }
    pieces.push(Piece::Frame(encoding.end()));
    pieces.retain(|piece| !piece.bytes().is_empty());
    pieces
}

/// A record of a group, and where all of them are.
type Group<'a> = (&'a LogRecord, Vec<Stretch<'a>>);

/// The records cut where a new group begins.
fn groups<'a>(stretches: &[Stretch<'a>], grouping: &dyn Grouping) -> Vec<Group<'a>> {
    let mut groups: Vec<Group<'a>> = Vec::new();
    for stretch in stretches {
        let mut from = stretch.from;
        while from < stretch.to
            && let Some((leader, range)) = stretch.encoded.group(from)
        {
            let part = Stretch { from, to: range.end.min(stretch.to), ..*stretch };
            from = part.to;
            match groups.last_mut().filter(|(last, _)| grouping.is_shared(last, leader)) {
                Some((_, group)) => group.push(part),
                None => groups.push((leader, vec![part])),
            }
        }
    }
    groups
}

/// Adds the records of several stretches.
fn append<'a>(stretches: &[Stretch<'a>], separator: &'a [u8], pieces: &mut Vec<Piece<'a>>) {
    for (index, stretch) in stretches.iter().enumerate() {
        if index > 0 {
            pieces.push(Piece::Frame(separator));
        }
        pieces.push(Piece::Records(&stretch.encoded.bytes, stretch.range()));
    }
}

impl Stretch<'_> {
    /// Where its bytes are.
    fn range(&self) -> std::ops::Range<usize> {
        self.encoded.place(self.from..self.to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Cursor, Partition, RecordId, Timestamp};

    /// Writes as many bytes as the record's position says.
    #[derive(Debug)]
    struct Zeros;

    impl Encoding for Zeros {
        fn key(&self) -> &str {
            "zeros"
        }
        fn record(&self, record: &LogRecord, out: &mut Vec<u8>) -> Result<(), Unencodable> {
            let len = out.len() + record.id.position().as_number() as usize;
            if len > 1 << 20 {
                // Memory that nobody has written to takes none.
                *out = vec![0; len];
            }
            out.resize(len, 0);
            Ok(())
        }
    }

    #[test]
    fn what_lies_farther_than_an_end_reaches_is_refused_and_nothing_is_mixed_up() {
        let mut encoder = Encoder::new(&Zeros, Buffer::default());
        for bytes in [3, 1 << 32, 0, 5] {
            let id = RecordId::new(Partition::new("p"), Cursor::number(bytes));
            encoder.push(&LogRecord::new(id, Timestamp::default()));
        }
        let page = encoder.finish(false);
        assert_eq!((0..4).map(|index| page.len(index)).collect::<Vec<_>>(), [3, 0, 0, 5]);
        assert!(page.unencodable(1).is_some_and(|reason| reason.contains("page_bytes")));
        assert_eq!([0, 2, 3].map(|index| page.unencodable(index)), [None; 3]);
    }
}
