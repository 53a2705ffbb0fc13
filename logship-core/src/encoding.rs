//! How records become the body of a request.

use std::fmt;

use bytes::Bytes;

use crate::engine::budget::Held;
use crate::{Compression, LogRecord};

/// How one destination wants a record written: pure, without I/O.
///
/// An exporter that has one lets the engine encode: chunks are then cut at the exact encoded size, bodies are kept for
/// retries, and lanes whose encodings have the same key share the work. A body is
/// `begin record (separator record)* end`, packed as [`Encoding::compression`] says.
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
}

/// A record has no form in an encoding. It is rejected before anything is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unencodable {
    /// Why, without the record's text.
    pub reason: String,
}

/// The records of a page as an encoding writes them, one after another.
#[derive(Debug)]
pub(crate) struct EncodedPage {
    bytes: Bytes,
    /// Where each record ends.
    ends: Vec<u32>,
    /// The records that have no form, with the reason, in order.
    unencodable: Vec<(u32, String)>,
    /// Counts these bytes against the byte budget.
    pub(crate) held: Option<Held>,
}

/// From how many records the length of all is guessed.
const SAMPLE: usize = 16;

impl EncodedPage {
    pub(crate) fn encode(encoding: &dyn Encoding, records: &[LogRecord]) -> Self {
        let mut bytes = Vec::new();
        let mut ends = Vec::with_capacity(records.len());
        let mut unencodable = Vec::new();
        for (index, record) in records.iter().enumerate() {
            let begin = bytes.len();
            let result = encoding.record(record, &mut bytes);
            if let Err(error) = result {
                bytes.truncate(begin);
                unencodable.push((index as u32, error.reason));
            }
            ends.push(bytes.len() as u32);
            // The others are about as long as the first few; a wrong guess costs a copy, nothing else.
            if index + 1 == SAMPLE {
                bytes.reserve(bytes.len() / SAMPLE * (records.len() - SAMPLE) * 9 / 8);
            }
        }
        EncodedPage { bytes: bytes.into(), ends, unencodable, held: None }
    }

    /// The bytes of one record.
    pub(crate) fn record(&self, index: usize) -> &[u8] {
        &self.bytes[self.start(index)..self.ends[index] as usize]
    }

    /// How many bytes one record has.
    pub(crate) fn len(&self, index: usize) -> usize {
        self.ends[index] as usize - self.start(index)
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
        self.bytes.len() + self.ends.len() * 4
    }

    /// The bytes of several records that follow one another.
    pub(crate) fn range(&self, range: std::ops::Range<usize>) -> &[u8] {
        match range.is_empty() {
            true => &[],
            false => &self.bytes[self.start(range.start)..self.ends[range.end - 1] as usize],
        }
    }

    fn start(&self, index: usize) -> usize {
        if index == 0 { 0 } else { self.ends[index - 1] as usize }
    }
}
