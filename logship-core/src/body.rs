//! The body of a request: what a chunk is sent as.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, PoisonError, Weak};

use bytes::Bytes;

use crate::chunk::Segment;
use crate::encoding::{self, Encoded, Piece, Stretch};
use crate::engine::buffers::Buffer;
use crate::{Chunk, Compression, Page};

/// The body of a request, ready to send. Cheap to clone; a retry sends the same bytes.
#[derive(Clone)]
pub struct Body {
    parts: Vec<Bytes>,
    /// How many bytes there were before packing.
    pub unpacked_len: usize,
    /// How they are packed.
    pub compression: Compression,
}

impl Body {
    /// The bytes, packed, in one piece. That is how they are, but for an exporter that
    /// [takes parts](crate::Capabilities::takes_parts), for which they are copied here.
    pub fn bytes(&self) -> Bytes {
        match &self.parts[..] {
            [whole] => whole.clone(),
            parts => parts.concat().into(),
        }
    }

    /// The same in the parts that there are, one after another.
    pub fn parts(&self) -> &[Bytes] {
        &self.parts
    }

    /// How many bytes there are, packed.
    pub fn len(&self) -> usize {
        self.parts.iter().map(Bytes::len).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A body that is not packed.
impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Body { unpacked_len: bytes.len(), parts: vec![bytes], compression: Compression::None }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes, {} before {:?}", self.len(), self.unpacked_len, self.compression)
    }
}

/// A body that was just packed.
struct Packing {
    bytes: Arc<Buffer>,
    unpacked_len: usize,
    compression: Compression,
}

/// A body's share in what it is made of, whose memory goes back to where it is from when the last body is gone.
struct Owner<T>(Arc<T>);

impl<T: AsRef<[u8]>> AsRef<[u8]> for Owner<T> {
    fn as_ref(&self) -> &[u8] {
        self.0.as_ref().as_ref()
    }
}

impl From<Packing> for Body {
    fn from(packing: Packing) -> Self {
        let Packing { bytes, unpacked_len, compression } = packing;
        Body { parts: vec![Bytes::from_owner(Owner(bytes))], unpacked_len, compression }
    }
}

/// A body that some lane has packed, and of what. It is there as long as that lane, or one that shares it, has it.
#[derive(Debug)]
pub(crate) struct Packed {
    key: String,
    segments: Vec<(Weak<Page>, Range<usize>)>,
    pub(crate) bytes: Weak<Buffer>,
    unpacked_len: usize,
    compression: Compression,
}

impl Packed {
    fn is_of(&self, chunk: &Chunk, encoding: &dyn crate::Encoding) -> bool {
        let is_same = |((page, range), segment): (&(Weak<Page>, Range<usize>), &Segment)| {
            page.as_ptr() == Arc::as_ptr(&segment.page) && *range == segment.range
        };
        self.key == encoding.key()
            && self.compression == encoding.compression()
            && self.segments.len() == chunk.segments.len()
            && self.segments.iter().zip(&chunk.segments).all(is_same)
    }

    fn body(&self) -> Option<Body> {
        let bytes = self.bytes.upgrade()?;
        Some(Packing { bytes, unpacked_len: self.unpacked_len, compression: self.compression }.into())
    }
}

impl Chunk {
    /// The body without a copy, where it is not packed: in one piece if it stands in a page as it is, and in several
    /// if `takes_parts` and that few are large.
    pub(crate) fn body_in_place(&self, encoding: &dyn crate::Encoding, takes_parts: bool) -> Option<Body> {
        /// Less is copied faster than sent by itself.
        const PART_BYTES: usize = 16 * 1024;
        if encoding.compression() != Compression::None {
            return None;
        }
        let shared = |encoded: &Arc<Encoded>, range| Bytes::from_owner(Owner(Arc::clone(encoded))).slice(range);
        if let [Segment { encoded: Some(page), range, .. }] = &self.segments[..]
            && let Some((encoded, range)) = page.body(range.clone())
        {
            return Some(shared(encoded, range).into());
        }
        if !takes_parts {
            return None;
        }
        let mut heads = Vec::new();
        let pieces = self.pieces(encoding, &mut heads);
        let unpacked_len: usize = pieces.iter().map(|piece| piece.bytes().len()).sum();
        if pieces.len() * PART_BYTES > unpacked_len {
            return None;
        }
        let part = |piece: Piece<'_>| match piece {
            Piece::Records(encoded, range) => shared(encoded, range),
            Piece::Frame(bytes) => Bytes::copy_from_slice(bytes),
        };
        Some(Body { parts: pieces.into_iter().map(part).collect(), unpacked_len, compression: Compression::None })
    }

    /// What the body is made of.
    fn pieces<'a>(&'a self, encoding: &'a dyn crate::Encoding, heads: &'a mut Vec<u8>) -> Vec<Piece<'a>> {
        let stretches: Vec<Stretch<'_>> = self.segments.iter().filter_map(Segment::stretch).collect();
        debug_assert_eq!(stretches.len(), self.segments.len(), "a record without its encoded form would be lost");
        encoding::pieces(encoding, &stretches, heads)
    }

    /// Packs the body.
    pub(crate) fn pack(&self, encoding: &dyn crate::Encoding) -> Result<Body, crate::Error> {
        self.pack_in(encoding, |_| Buffer::default())
    }

    /// Packs the body in a buffer that is given for about so many bytes.
    pub(crate) fn pack_in(
        &self,
        encoding: &dyn crate::Encoding,
        buffer: impl FnOnce(usize) -> Buffer,
    ) -> Result<Body, crate::Error> {
        self.packing(encoding, buffer).map(Body::from)
    }

    fn packing(
        &self,
        encoding: &dyn crate::Encoding,
        buffer: impl FnOnce(usize) -> Buffer,
    ) -> Result<Packing, crate::Error> {
        let mut heads = Vec::new();
        let pieces = self.pieces(encoding, &mut heads);
        let parts = pieces.iter().map(Piece::bytes);
        let unpacked_len = parts.clone().map(<[u8]>::len).sum();
        let compression = encoding.compression();
        let buffer = buffer(compression.packed_len_guess(unpacked_len));
        let bytes = buffer.filled(|out| compression.pack_into(parts, unpacked_len, out)).map_err(|error| {
            crate::Error::new(crate::ErrorKind::Unexpected, "pack a body", "the packer failed").with_source(error)
        })?;
        Ok(Packing { bytes: Arc::new(bytes), unpacked_len, compression })
    }

    /// The same, done once for all lanes whose chunks have the same records in the same form.
    pub(crate) fn pack_once(
        &self,
        encoding: &dyn crate::Encoding,
        buffer: impl FnOnce(usize) -> Buffer,
    ) -> Result<Body, crate::Error> {
        let Some(first) = self.segments.first() else { return self.pack_in(encoding, buffer) };
        // Held while packing, so that a second lane waits for the first one's work instead of repeating it.
        let mut packed = first.page.packed.lock().unwrap_or_else(PoisonError::into_inner);
        packed.retain(|packed| packed.bytes.strong_count() > 0);
        let known = packed.iter().filter(|packed| packed.is_of(self, encoding));
        if let Some(body) = known.filter_map(Packed::body).next() {
            return Ok(body);
        }
        let packing = self.packing(encoding, buffer)?;
        packed.push(Packed {
            key: encoding.key().to_owned(),
            segments: self.segments.iter().map(|s| (Arc::downgrade(&s.page), s.range.clone())).collect(),
            bytes: Arc::downgrade(&packing.bytes),
            unpacked_len: packing.unpacked_len,
            compression: packing.compression,
        });
        Ok(packing.into())
    }
}
