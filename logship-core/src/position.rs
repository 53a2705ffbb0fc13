//! Where in a source a record is, and the identity that follows from it.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::digits::write_digits;
use crate::{Text, TextBlock};

/// The name of an independently ordered part of a source: a Kafka partition, a Kinesis shard, a CloudWatch stream, a
/// file, or, for a table, the table itself. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition(Arc<str>);

impl Partition {
    /// A partition of this name. Names are stable: they are part of offsets and of record ids.
    pub fn new(name: impl AsRef<str>) -> Self {
        Partition(Arc::from(name.as_ref()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// A position in a partition: everything up to and including it has been read.
///
/// Only the source that made it knows what it means; the engine compares cursors and stores them. The order is that of
/// the number, then of the bytes of the text, and must be the order in which the source gives its records. A source
/// with a numeric position (a Kafka offset, a byte in a file, a time stamp) puts it into the number, and what tells
/// equal numbers apart (a row's key) into the text.
///
/// As text, which is what an offset store keeps: twenty digits, then, if there is a text, a slash and the text.
/// Where the number is zero and there is a text, the digits are left out.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cursor {
    number: i64,
    text: Text,
}

impl Cursor {
    /// A cursor that is a number alone.
    pub const fn number(number: i64) -> Self {
        Cursor { number, text: Text::new() }
    }

    /// A cursor that is a text alone.
    pub const fn text(text: Text) -> Self {
        Cursor { number: 0, text }
    }

    /// A number, and a text that tells records of the same number apart.
    pub const fn new(number: i64, text: Text) -> Self {
        Cursor { number, text }
    }

    /// The number.
    pub const fn as_number(&self) -> i64 {
        self.number
    }

    /// The text.
    pub const fn as_text(&self) -> &Text {
        &self.text
    }

    /// Bytes held beyond the struct itself.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.text.len()
    }

    /// How many bytes the textual form has.
    fn len(&self) -> usize {
        let digits = if self.number != 0 || self.text.is_empty() { 20 } else { 0 };
        digits + if self.text.is_empty() { 0 } else { 1 + self.text.len() }
    }

    /// Writes the textual form to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        if self.number != 0 || self.text.is_empty() {
            let mut digits = [0; 20];
            write_digits(&mut digits, self.number.unsigned_abs());
            if self.number < 0 {
                digits[0] = b'-';
            }
            out.extend_from_slice(&digits);
        }
        if !self.text.is_empty() {
            out.push(b'/');
            out.extend_from_slice(self.text.as_bytes());
        }
    }

    /// A copy whose text has a buffer of its own, so that keeping it does not keep its page.
    pub fn detached(&self) -> Self {
        Cursor { number: self.number, text: self.text.detached() }
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Vec::with_capacity(21 + self.text.len());
        self.write(&mut text);
        f.write_str(&String::from_utf8_lossy(&text))
    }
}

impl fmt::Debug for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Cursor {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (digits, rest) = match text.split_once('/') {
            Some((digits, rest)) => (digits, rest),
            None => (text, ""),
        };
        let number = match digits {
            "" if !rest.is_empty() => 0,
            _ => digits.parse().map_err(|_| format!("`{text}` is not a cursor: `{digits}` is not a number"))?,
        };
        Ok(Cursor { number, text: Text::from(rest) })
    }
}

impl Serialize for Cursor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cursor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What a record is known by, for ever: the same row of a source has the same id on every read and every machine.
///
/// Destinations that can tell a repeat get it as their document id (`_id`, `insertId`). Sorted by partition, then by
/// position.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordId {
    partition: Partition,
    position: Cursor,
}

impl RecordId {
    /// The record at `position` of `partition`.
    pub const fn new(partition: Partition, position: Cursor) -> Self {
        RecordId { partition, position }
    }

    /// The partition.
    pub const fn partition(&self) -> &Partition {
        &self.partition
    }

    /// The position in the partition.
    pub const fn position(&self) -> &Cursor {
        &self.position
    }

    /// Makes it the id of the record at another position of the same partition.
    pub fn set_position(&mut self, position: Cursor) {
        self.position = position;
    }

    /// Makes it the id of the record whose position has this number and, for its text, this part of `block`: as with
    /// [`Text::cut`], for no more than writing three numbers where the position before was a part of the same block.
    pub fn cut_position(&mut self, number: i64, block: &TextBlock, range: Range<usize>) {
        self.position.number = number;
        self.position.text.cut(block, range);
    }

    /// How many bytes the textual form has; at least one.
    #[allow(clippy::len_without_is_empty, reason = "it never is")]
    pub fn len(&self) -> usize {
        self.partition.as_str().len() + 1 + self.position.len()
    }

    /// Writes the textual form, `partition:position`, to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.partition.as_str().as_bytes());
        out.push(b':');
        self.position.write(out);
    }
}

impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.partition, self.position)
    }
}

impl fmt::Debug for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where to begin reading a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// At the first record there is.
    Earliest,
    /// At the first record that is not older than this. Where positions are not in the order of time, older records
    /// that stand behind it may be given as well.
    At(crate::Timestamp),
    /// Strictly after this position.
    After(Cursor),
}

impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Start::Earliest => f.write_str("the first record"),
            Start::At(time) => write!(f, "time {time}"),
            Start::After(cursor) => write!(f, "position {cursor}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_position_that_is_cut_is_as_one_that_is_set() {
        let block = TextBlock::new(Text::from("a\tk1b\tk22"));
        let mut id = RecordId::new(Partition::new("logs"), Cursor::new(7, "before".into()));
        for (number, range, text) in [(0, 0..4, "a\tk1"), (-3, 4..9, "b\tk22"), (1, 9..9, "")] {
            id.cut_position(number, &block, range);
            assert_eq!(id, RecordId::new(Partition::new("logs"), Cursor::new(number, text.into())));
        }
    }

    #[test]
    fn a_cursor_reads_as_a_person_would_write_it() {
        assert_eq!(Cursor::number(42).to_string(), "00000000000000000042");
        assert_eq!(Cursor::number(-42).to_string(), "-0000000000000000042");
        assert_eq!(Cursor::new(7, "k/1".into()).to_string(), "00000000000000000007/k/1");
        assert_eq!(Cursor::text("2026-11-20\tk1".into()).to_string(), "/2026-11-20\tk1");
        assert!("x/1".parse::<Cursor>().is_err());
        assert!("".parse::<Cursor>().is_err());
    }

    proptest! {
        #[test]
        fn cursors_read_back(number: i64, text in ".{0,20}") {
            let cursor = Cursor::new(number, text.as_str().into());
            prop_assert_eq!(cursor.len(), cursor.to_string().len());
            prop_assert_eq!(cursor.to_string().parse::<Cursor>(), Ok(cursor));
        }

        #[test]
        fn ids_sort_as_their_text(a in 0i64.., b in 0i64.., ka in "[a-z]{1,3}", kb in "[a-z]{1,3}") {
            let id = |n, k: &str| RecordId::new(Partition::new("p"), Cursor::new(n, k.into()));
            // The text of number zero has no digits; ids start at one wherever numbers are used.
            let (a, b) = (id(a.max(1), &ka), id(b.max(1), &kb));
            prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
        }
    }
}
