//! Strings that are slices of shared buffers.

use std::borrow::Borrow;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Deref;
use std::sync::{PoisonError, RwLock};

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An immutable UTF-8 string that shares its buffer: a clone or a slice copies no bytes.
///
/// A source puts all strings of a page into a few buffers (see [`TextArena`]) or cuts them out of what it has read
/// (see [`Text::from_utf8`]), so that a page costs few allocations. What outlives its page (a dead letter, an error)
/// should be copied with [`Text::detached`], for the smallest slice keeps its whole buffer alive.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text(ByteString);

impl Text {
    /// The empty string.
    pub const fn new() -> Self {
        Text(ByteString::new())
    }

    /// A string that lives as long as the program; costs no allocation.
    pub const fn from_static(text: &'static str) -> Self {
        Text(ByteString::from_static(text))
    }

    /// A string of which there are few different ones, such as the name of a field, kept for as long as the program
    /// lives: to clone it costs nothing. Beyond 4096 of them, and for one longer than 128 bytes, a copy like any other.
    pub fn interned(text: &str) -> Self {
        static TEXTS: RwLock<BTreeSet<&'static str>> = RwLock::new(BTreeSet::new());
        const TEXTS_MAX: usize = 4096;
        const BYTES_MAX: usize = 128;
        if text.len() > BYTES_MAX {
            return Text::from(text);
        }
        if let Some(known) = TEXTS.read().unwrap_or_else(PoisonError::into_inner).get(text) {
            return Text::from_static(known);
        }
        let mut texts = TEXTS.write().unwrap_or_else(PoisonError::into_inner);
        match texts.get(text) {
            Some(known) => Text::from_static(known),
            None if texts.len() >= TEXTS_MAX => Text::from(text),
            None => {
                let kept: &'static str = Box::leak(text.into());
                texts.insert(kept);
                Text::from_static(kept)
            }
        }
    }

    /// Takes `bytes` over when they are UTF-8, and gives them back when they are not.
    pub fn from_utf8(bytes: Bytes) -> Result<Self, Bytes> {
        // `Bytes` are cheap to clone, and the conversion does not give them back.
        ByteString::try_from(bytes.clone()).map(Text).map_err(|_| bytes)
    }

    /// Takes `bytes` over, with each sequence that is not UTF-8 replaced by U+FFFD. Copies only when there is one.
    pub fn from_utf8_lossy(bytes: Bytes) -> Self {
        match Text::from_utf8(bytes) {
            Ok(text) => text,
            Err(bytes) => Text::from(String::from_utf8_lossy(&bytes).into_owned()),
        }
    }

    /// The part of this string that `part` points at, which must be a slice of this very string.
    ///
    /// # Panics
    /// If `part` is not a slice of this string.
    pub fn slice_ref(&self, part: &str) -> Self {
        Text(self.0.slice_ref(part))
    }

    /// The string.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The bytes of the string.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// A copy with a buffer of its own.
    pub fn detached(&self) -> Self {
        Text::from(self.as_str())
    }
}

impl Deref for Text {
    type Target = str;
    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<str> for Text {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl Borrow<str> for Text {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Text(ByteString::from(text))
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Text(ByteString::from(text))
    }
}

impl PartialEq<str> for Text {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for Text {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Text::from)
    }
}

/// Copies strings into shared blocks, so that the many strings of a page cost few allocations.
///
/// ```
/// use logship_core::TextArena;
///
/// let mut arena = TextArena::new();
/// let flow = arena.push("nightly-load");
/// let task = arena.push("extract");
/// assert_eq!(format!("{flow}/{task}"), "nightly-load/extract");
/// ```
#[derive(Debug, Default)]
pub struct TextArena {
    block: BytesMut,
}

/// Large enough that a page needs few blocks, small enough that a page of a few records wastes little.
const BLOCK_BYTES: usize = 64 * 1024;

impl TextArena {
    /// An arena without a block.
    pub fn new() -> Self {
        TextArena { block: BytesMut::new() }
    }

    /// Copies `text` behind the last one.
    pub fn push(&mut self, text: &str) -> Text {
        if text.is_empty() {
            return Text::new();
        }
        if self.block.capacity() < text.len() {
            self.block = BytesMut::with_capacity(text.len().max(BLOCK_BYTES));
        }
        self.block.extend_from_slice(text.as_bytes());
        Text::from_utf8_lossy(self.block.split().freeze())
    }

    /// Copies `bytes` behind the last string, with each sequence that is not UTF-8 replaced by U+FFFD.
    pub fn push_lossy(&mut self, bytes: &[u8]) -> Text {
        match std::str::from_utf8(bytes) {
            Ok(text) => self.push(text),
            Err(_) => self.push(&String::from_utf8_lossy(bytes)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arena_strings_share_a_block() {
        let mut arena = TextArena::new();
        let first = arena.push("abc");
        let second = arena.push("déf");
        assert_eq!(first, "abc");
        assert_eq!(second, "déf");
        assert_eq!(second.as_bytes().as_ptr() as usize - first.as_bytes().as_ptr() as usize, 3);
    }

    #[test]
    fn a_string_larger_than_a_block_fits() {
        let mut arena = TextArena::new();
        let long = "x".repeat(BLOCK_BYTES * 2);
        assert_eq!(arena.push(&long), long.as_str());
        assert_eq!(arena.push("y"), "y");
    }

    #[test]
    fn broken_utf8_is_replaced_not_lost() {
        assert_eq!(Text::from_utf8_lossy(Bytes::from_static(b"a\xffb")), "a\u{fffd}b");
        assert_eq!(TextArena::new().push_lossy(b"a\xffb"), "a\u{fffd}b");
        assert_eq!(Text::from_utf8(Bytes::from_static(b"\xff")), Err(Bytes::from_static(b"\xff")));
    }
}
