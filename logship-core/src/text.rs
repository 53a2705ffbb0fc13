//! Strings that are slices of shared buffers.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::{Deref, Range};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::json::find_json_escape;

/// An immutable UTF-8 string that shares its buffer: a clone or a slice copies no bytes.
///
/// A source puts all strings of a page into a few buffers (see [`TextArena`]) or cuts them out of what it has read
/// (see [`Text::from_utf8`] and [`Text::cut`]), so that a page costs few allocations. What outlives its page (a dead
/// letter, an error) should be copied with [`Text::detached`], for the smallest slice keeps its whole buffer alive.
#[derive(Clone)]
pub struct Text(Repr);

/// Two kinds of two, so that all four fit into the room of the first: in three words less one the others find the place
/// which the first one's pointers leave no value for.
#[derive(Clone)]
enum Repr {
    Slice(ByteString),
    Other(Other),
}

#[derive(Clone)]
enum Other {
    /// A part of a block. `is_json` says that it stands there between quotes, as JSON writes it.
    Part {
        block: TextBlock,
        from: u32,
        to: u32,
        is_json: bool,
    },
    Static(&'static str),
    /// The string as JSON writes it before a further member of an object: a comma, the string in quotes, a colon.
    Interned(&'static str),
}

impl Text {
    /// The empty string.
    pub const fn new() -> Self {
        Text::from_static("")
    }

    /// A string that lives as long as the program; costs no allocation.
    pub const fn from_static(text: &'static str) -> Self {
        Text(Repr::Other(Other::Static(text)))
    }

    /// A string of which there are few different ones, such as the name of a field, kept for as long as the program
    /// lives: to clone it costs nothing. Beyond 4096 of them, and for one longer than 128 bytes, a copy like any other.
    pub fn interned(text: &str) -> Self {
        static TEXTS: RwLock<BTreeMap<&'static str, Text>> = RwLock::new(BTreeMap::new());
        const TEXTS_MAX: usize = 4096;
        const BYTES_MAX: usize = 128;
        if text.len() > BYTES_MAX {
            return Text::from(text);
        }
        if let Some(known) = TEXTS.read().unwrap_or_else(PoisonError::into_inner).get(text) {
            return known.clone();
        }
        let mut texts = TEXTS.write().unwrap_or_else(PoisonError::into_inner);
        match texts.get(text) {
            Some(known) => known.clone(),
            None if texts.len() >= TEXTS_MAX => Text::from(text),
            None => {
                let (kept, interned) = Other::interned(text);
                texts.insert(kept, Text(Repr::Other(interned.clone())));
                Text(Repr::Other(interned))
            }
        }
    }

    /// Takes `bytes` over when they are UTF-8, and gives them back when they are not.
    pub fn from_utf8(bytes: Bytes) -> Result<Self, Bytes> {
        // `Bytes` are cheap to clone, and the conversion does not give them back.
        ByteString::try_from(bytes.clone()).map(Text::from).map_err(|_| bytes)
    }

    /// Takes `bytes` over, with each sequence that is not UTF-8 replaced by U+FFFD. Copies only when there is one.
    pub fn from_utf8_lossy(bytes: Bytes) -> Self {
        match Text::from_utf8(bytes) {
            Ok(text) => text,
            Err(bytes) => Text::from(String::from_utf8_lossy(&bytes).into_owned()),
        }
    }

    /// Becomes the part of `block` that lies at these bytes. Where it was a part of the same block before, this costs no
    /// more than writing two numbers: so a record is filled from line after line.
    ///
    /// A range that does not lie in the block, or cuts a character, is the empty string.
    #[inline]
    pub fn cut(&mut self, block: &TextBlock, range: Range<usize>) {
        self.become_part(block, range, false);
    }

    /// The same where the part stands between quotes in the block and JSON writes it as it is there: there MUST be a
    /// quote before and one behind it, and nothing in it that JSON escapes.
    #[inline]
    pub fn cut_json(&mut self, block: &TextBlock, range: Range<usize>) {
        self.become_part(block, range, true);
    }

    #[inline]
    fn become_part(&mut self, of: &TextBlock, range: Range<usize>, json: bool) {
        if let Repr::Other(Other::Part { block, from, to, is_json }) = &mut self.0
            && Arc::ptr_eq(&block.0, &of.0)
            && range.start.max(range.end) <= u32::MAX as usize
        {
            (*from, *to, *is_json) = (range.start as u32, range.end as u32, json);
        } else {
            self.become_part_of_another(of, range, json);
        }
    }

    #[cold]
    fn become_part_of_another(&mut self, of: &TextBlock, range: Range<usize>, is_json: bool) {
        *self = match (u32::try_from(range.start), u32::try_from(range.end)) {
            (Ok(from), Ok(to)) => Text(Repr::Other(Other::Part { block: of.clone(), from, to, is_json })),
            // Farther than such a part reaches.
            _ => Text::from(of.0.get(range).map_or_else(ByteString::new, |part| of.0.slice_ref(part))),
        };
    }

    /// The part of this string that `part` points at, which must be a slice of this very string.
    ///
    /// # Panics
    /// If `part` is not a slice of this string.
    pub fn slice_ref(&self, part: &str) -> Self {
        match &self.0 {
            Repr::Slice(text) => Text::from(text.slice_ref(part)),
            Repr::Other(Other::Part { block, .. }) => Text::from(block.0.slice_ref(part)),
            Repr::Other(Other::Static(_) | Other::Interned(_)) => Text::from(part),
        }
    }

    /// The string.
    #[inline]
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Repr::Slice(text) => text,
            Repr::Other(Other::Part { block, from, to, .. }) => {
                block.0.get(*from as usize..*to as usize).unwrap_or_default()
            }
            Repr::Other(Other::Static(text)) => text,
            Repr::Other(Other::Interned(name)) => name.get(2..name.len() - 2).unwrap_or_default(),
        }
    }

    /// The string as JSON writes it, with its quotes, where that lies at hand: it was cut out of JSON, or is
    /// [interned](Text::interned).
    #[inline]
    pub fn as_json(&self) -> Option<&[u8]> {
        match &self.0 {
            Repr::Other(Other::Part { block, from, to, is_json: true }) => {
                block.0.as_bytes().get((*from as usize).checked_sub(1)?..(*to as usize).checked_add(1)?)
            }
            Repr::Other(Other::Interned(name)) => name.as_bytes().get(1..name.len() - 1),
            _ => None,
        }
    }

    /// The string as JSON writes it where it is the name of a further member of an object, with the comma before and the
    /// colon behind it, where that lies at hand: it is [interned](Text::interned).
    #[inline]
    pub fn as_json_name(&self) -> Option<&[u8]> {
        match &self.0 {
            Repr::Other(Other::Interned(name)) => Some(name.as_bytes()),
            _ => None,
        }
    }

    /// The bytes of the string.
    pub fn as_bytes(&self) -> &[u8] {
        self.as_str().as_bytes()
    }

    /// Whether both are the same bytes in memory: sooner told than whether they are equal.
    #[inline]
    pub fn is_same(&self, other: &Text) -> bool {
        self.is_interned_as(other) || self.lies_where(other)
    }

    /// Whether both are one [interned](Text::interned) string, as names mostly are.
    #[inline(always)]
    fn is_interned_as(&self, other: &Text) -> bool {
        match (&self.0, &other.0) {
            (Repr::Other(Other::Interned(one)), Repr::Other(Other::Interned(other))) => std::ptr::eq(*one, *other),
            _ => false,
        }
    }

    // What is rare stays out of line, so that the rest is written where names are compared.
    fn lies_where(&self, other: &Text) -> bool {
        std::ptr::eq(self.as_str(), other.as_str())
    }

    fn has_bytes_of(&self, other: &Text) -> bool {
        self.as_str() == other.as_str()
    }

    /// A copy with a buffer of its own.
    pub fn detached(&self) -> Self {
        match &self.0 {
            Repr::Other(Other::Static(_) | Other::Interned(_)) => self.clone(),
            _ => Text::from(self.as_str()),
        }
    }
}

impl Other {
    /// Keeps a string for ever.
    fn interned(text: &str) -> (&'static str, Other) {
        if find_json_escape(text.as_bytes()).is_some() {
            let kept: &'static str = Box::leak(text.into());
            return (kept, Other::Static(kept));
        }
        let name: &'static str = Box::leak(format!(",\"{text}\":").into());
        (&name[2..name.len() - 2], Other::Interned(name))
    }
}

/// A text out of which others are [cut](Text::cut), as lines are out of a file and strings out of lines.
#[derive(Clone, Debug)]
pub struct TextBlock(Arc<ByteString>);

impl TextBlock {
    /// Takes a text over.
    pub fn new(text: Text) -> Self {
        TextBlock(Arc::new(match text.0 {
            Repr::Slice(text) => text,
            Repr::Other(Other::Part { ref block, .. }) => block.0.slice_ref(text.as_str()),
            Repr::Other(Other::Static(text)) => ByteString::from_static(text),
            Repr::Other(Other::Interned(_)) => ByteString::from(text.as_str()),
        }))
    }

    /// All of it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<Text> for TextBlock {
    fn from(text: Text) -> Self {
        TextBlock::new(text)
    }
}

impl From<ByteString> for Text {
    fn from(text: ByteString) -> Self {
        Text(Repr::Slice(text))
    }
}

impl Default for Text {
    fn default() -> Self {
        Text::new()
    }
}

impl PartialEq for Text {
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        self.is_interned_as(other) || self.has_bytes_of(other)
    }
}

impl Eq for Text {}

impl PartialOrd for Text {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Text {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_str().cmp(other.as_str())
    }
}

impl Hash for Text {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl Deref for Text {
    type Target = str;
    #[inline]
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
        Text::from(ByteString::from(text))
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Text::from(ByteString::from(text))
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
    fn a_text_is_no_larger_than_a_slice() {
        assert_eq!(size_of::<Text>(), size_of::<ByteString>());
    }

    #[test]
    fn parts_of_a_block_are_cut_in_place() {
        let block = TextBlock::new(Text::from("{\"a\":\"é1\"} {\"a\":\"2\"}"));
        let mut text = Text::from("before");
        text.cut_json(&block, 6..9);
        assert_eq!((text.as_str(), text.as_json()), ("é1", Some("\"é1\"".as_bytes())));
        let kept = text.clone();
        text.cut(&block, 18..19);
        assert_eq!((text.as_str(), text.as_json()), ("2", None));
        assert_eq!((&kept, kept.slice_ref(&kept[2..])), (&Text::from("é1"), Text::from("1")));
        assert_eq!(Arc::strong_count(&block.0), 3);
        for range in [6..7, 90..91, 9..100, usize::MAX - 1..usize::MAX] {
            text.cut_json(&block, range);
            assert_eq!(text, "");
        }
    }

    #[test]
    fn what_is_interned_is_at_hand_as_json() {
        let name = Text::interned("flowId");
        assert_eq!((name.as_str(), name.as_json()), ("flowId", Some(&b"\"flowId\""[..])));
        assert_eq!((name.as_json_name(), Text::from("flowId").as_json_name()), (Some(&b",\"flowId\":"[..]), None));
        assert!(name.is_same(&Text::interned("flowId")));
        let odd = Text::interned("a\"b");
        assert_eq!((odd.as_str(), odd.as_json()), ("a\"b", None));
        assert_eq!(Text::interned(""), "");
    }

    #[test]
    fn broken_utf8_is_replaced_not_lost() {
        assert_eq!(Text::from_utf8_lossy(Bytes::from_static(b"a\xffb")), "a\u{fffd}b");
        assert_eq!(TextArena::new().push_lossy(b"a\xffb"), "a\u{fffd}b");
        assert_eq!(Text::from_utf8(Bytes::from_static(b"\xff")), Err(Bytes::from_static(b"\xff")));
    }
}
