//! The name of what a chunk is written to.

use logship_core::{Chunk, Compression};

use crate::encode::Format;
use crate::fnv::Fnv128;

/// The name of a chunk's file or object: of its shipper's offset key, its lane, its partition and where it begins, and
/// of nothing else, since that is all that a repeat has in common with it.
pub(crate) fn chunk_name(chunk: &Chunk, format: Format, compression: Compression) -> String {
    let begins = chunk.begins().map_or(String::new(), ToString::to_string);
    let partition = chunk.partition().map_or("", |partition| partition.as_str());
    let identity = format!("{}\n{}\n{partition}\n{begins}", chunk.offset_key(), chunk.lane());
    let hash = Fnv128::new().with(identity.as_bytes());
    let readable: String =
        begins.chars().map(|c| if c.is_ascii_alphanumeric() || "-.".contains(c) { c } else { '_' }).take(80).collect();
    let (format, compression) = (format.file_suffix(), compression.file_suffix());
    format!("{}-{readable}-{hash}{format}{compression}", chunk.lane())
}
