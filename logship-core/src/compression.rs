//! How bodies are packed.

use std::io::{self, Write};

use serde::{Deserialize, Serialize};

/// How a body is packed. Written `none`, `gzip` (level 1), `gzip-6`, `zstd` (level 1) or `zstd-3` in a configuration.
///
/// Level 1 of either is the default where packing is on: for logs, each higher gzip level costs two to four times the
/// time of the whole rest of the way for a few percent of size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[non_exhaustive]
pub enum Compression {
    /// As it is.
    #[default]
    None,
    /// Gzip of a level from 1 (fast) to 9 (small).
    Gzip(u32),
    /// Zstandard of a level from 1 (fast) to 19 (small).
    #[cfg(feature = "zstd")]
    Zstd(i32),
}

impl Compression {
    /// Gzip, level 1.
    pub const GZIP: Compression = Compression::Gzip(1);

    /// The word for it in a `Content-Encoding` header; none for none.
    pub fn content_encoding(self) -> Option<&'static str> {
        match self {
            Compression::None => None,
            Compression::Gzip(_) => Some("gzip"),
            #[cfg(feature = "zstd")]
            Compression::Zstd(_) => Some("zstd"),
        }
    }

    /// What is added to a file's name: `.gz`, `.zst` or nothing.
    pub fn file_suffix(self) -> &'static str {
        match self {
            Compression::None => "",
            Compression::Gzip(_) => ".gz",
            #[cfg(feature = "zstd")]
            Compression::Zstd(_) => ".zst",
        }
    }

    /// Packs parts that follow one another into one body. The same parts always give the same bytes.
    pub fn pack<'a>(self, parts: impl IntoIterator<Item = &'a [u8]>, bytes_hint: usize) -> io::Result<Vec<u8>> {
        self.pack_into(parts, bytes_hint, Vec::new())
    }

    /// How many bytes so many may become.
    pub(crate) fn packed_len_guess(self, unpacked_len: usize) -> usize {
        match self {
            Compression::None => unpacked_len,
            Compression::Gzip(_) => unpacked_len / 6,
            #[cfg(feature = "zstd")]
            Compression::Zstd(_) => unpacked_len / 8,
        }
    }

    /// The same behind what is in `out`.
    pub(crate) fn pack_into<'a>(
        self,
        parts: impl IntoIterator<Item = &'a [u8]>,
        bytes_hint: usize,
        mut out: Vec<u8>,
    ) -> io::Result<Vec<u8>> {
        out.reserve(self.packed_len_guess(bytes_hint));
        match self {
            Compression::None => {
                parts.into_iter().for_each(|part| out.extend_from_slice(part));
                Ok(out)
            }
            Compression::Gzip(level) => {
                let mut encoder = flate2::write::GzEncoder::new(out, flate2::Compression::new(level));
                parts.into_iter().try_for_each(|part| encoder.write_all(part))?;
                encoder.finish()
            }
            #[cfg(feature = "zstd")]
            Compression::Zstd(level) => {
                let mut encoder = zstd::stream::write::Encoder::new(out, level)?;
                parts.into_iter().try_for_each(|part| encoder.write_all(part))?;
                encoder.finish()
            }
        }
    }
}

impl TryFrom<String> for Compression {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let (name, level) = match text.split_once('-') {
            Some((name, level)) => {
                (name, level.parse().map_err(|_| format!("`{text}` has a level that is not a number"))?)
            }
            None => (text.as_str(), 1),
        };
        match (name, level) {
            ("none", _) => Ok(Compression::None),
            ("gzip", 1..=9) => Ok(Compression::Gzip(level)),
            #[cfg(feature = "zstd")]
            ("zstd", 1..=19) => Ok(Compression::Zstd(level as i32)),
            #[cfg(not(feature = "zstd"))]
            ("zstd", _) => Err("zstd needs the Cargo feature `zstd`".to_owned()),
            _ => Err(format!("`{text}` is not one of none, gzip, gzip-1 to gzip-9, zstd, zstd-1 to zstd-19")),
        }
    }
}

impl From<Compression> for String {
    fn from(compression: Compression) -> String {
        match compression {
            Compression::None => "none".to_owned(),
            Compression::Gzip(level) => format!("gzip-{level}"),
            #[cfg(feature = "zstd")]
            Compression::Zstd(level) => format!("zstd-{level}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn gzip_gives_back_what_was_packed_and_repeats_itself() {
        let parts: [&[u8]; 2] = [b"one ", b"two"];
        let packed = Compression::GZIP.pack(parts, 7).unwrap();
        let mut text = String::new();
        flate2::read::GzDecoder::new(packed.as_slice()).read_to_string(&mut text).unwrap();
        assert_eq!(text, "one two");
        assert_eq!(packed, Compression::GZIP.pack(parts, 7).unwrap());
    }

    #[test]
    fn a_configuration_names_it_by_word_and_level() {
        let read = |text: &str| serde_json::from_str::<Compression>(&format!("\"{text}\""));
        assert_eq!(read("gzip").unwrap(), Compression::Gzip(1));
        assert_eq!(read("gzip-6").unwrap(), Compression::Gzip(6));
        assert_eq!(read("none").unwrap(), Compression::None);
        for wrong in ["gzip-0", "gzip-x", "lz4"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
