//! The name of what a chunk is written to.

use logship_core::{Chunk, Compression};

use crate::encode::Format;

/// The name of a chunk's file or object: of its shipper's offset key, its lane, its partition and where it begins, and
/// of nothing else, since that is all that a repeat has in common with it.
pub(crate) fn chunk_name(chunk: &Chunk, format: Format, compression: Compression) -> String {
    let begins = chunk.begins().map_or(String::new(), ToString::to_string);
    let partition = chunk.partition().map_or("", |partition| partition.as_str());
    let identity = format!("{}\n{}\n{partition}\n{begins}", chunk.offset_key(), chunk.lane());
    let readable: String =
        begins.chars().map(|c| if c.is_ascii_alphanumeric() || "-.".contains(c) { c } else { '_' }).take(80).collect();
    let (format, compression) = (format.file_suffix(), compression.file_suffix());
    format!("{}-{readable}-{:032x}{format}{compression}", chunk.lane(), fnv128(identity.as_bytes()))
}

/// FNV-1a of 128 bits (<https://datatracker.ietf.org/doc/draft-eastlake-fnv/>): the same on every machine, and wide
/// enough that no two chunks of a folder share a name.
fn fnv128(bytes: &[u8]) -> u128 {
    bytes.iter().fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d, |hash, byte| {
        (hash ^ u128::from(*byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
    })
}
