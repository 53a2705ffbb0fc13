//! What a file of offsets says.

use std::collections::BTreeMap;
use std::{fmt, io};

use logship_core::{LaneOffset, OffsetKey, Offsets, OffsetsDelta};
use serde::{Deserialize, Serialize};

/// The form of the files. A file of a later one is refused, so that no program overlooks a journal, which the first
/// form had not.
pub(super) const VERSION: u32 = 2;

/// What one file says.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Content {
    pub(super) version: u32,
    pub(super) key: OffsetKey,
    pub(super) epoch: u64,
    /// Of everything else in the file. Absent where a person edited it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) checksum: Option<String>,
    pub(super) lanes: BTreeMap<String, LaneOffset>,
}

/// What was read, and how it is to be replaced.
#[derive(Debug)]
pub(super) struct Generation {
    /// With what the journals say. The checksum is that of the file.
    pub(super) content: Content,
    /// The newest file was whole. Otherwise it must not take the place of the one before it.
    pub(super) is_current: bool,
    /// It is to stand in both files: what would be read without it could pass something over.
    pub(super) in_both: bool,
}

impl Content {
    /// What is known of a key without files.
    pub(super) fn empty(key: &OffsetKey) -> Content {
        let (key, lanes) = (key.clone(), BTreeMap::new());
        Content { version: VERSION, key, epoch: 0, checksum: None, lanes }
    }

    /// Takes over what a commit says.
    pub(super) fn apply(&mut self, delta: &OffsetsDelta) {
        let mut offsets = Offsets { lanes: std::mem::take(&mut self.lanes) };
        offsets.apply(delta);
        self.lanes = offsets.lanes;
    }

    /// Reads a file's text. `Err` says what is wrong with it.
    pub(super) fn parse(text: &[u8], key: &OffsetKey) -> Result<Content, Fault> {
        #[derive(Deserialize)]
        struct Form {
            version: u32,
        }
        let damaged = |error: serde_json::Error| Fault::Damaged(error.to_string());
        let content = serde_json::from_slice::<Content>(text);
        let version = match &content {
            Ok(content) => content.version,
            // What a later form says may not be readable at all.
            Err(_) => serde_json::from_slice::<Form>(text).map_err(damaged)?.version,
        };
        if version > VERSION {
            return Err(Fault::Foreign(format!(
                "it has version {version}, and this program reads up to {VERSION}: use the newer program that wrote it"
            )));
        }
        let content = content.map_err(damaged)?;
        if content.key != *key {
            return Err(Fault::Foreign(format!(
                "it belongs to the key `{}`: put it back under its own name",
                content.key
            )));
        }
        match &content.checksum {
            Some(stored) if *stored != content.sum()? => Err(Fault::Damaged("its checksum is wrong".to_owned())),
            _ => Ok(content),
        }
    }

    /// The checksum: that of the compact JSON without it.
    pub(super) fn sum(&self) -> Result<String, Fault> {
        #[derive(Serialize)]
        struct Bare<'c> {
            version: u32,
            key: &'c OffsetKey,
            epoch: u64,
            lanes: &'c BTreeMap<String, LaneOffset>,
        }
        let Content { version, key, epoch, lanes, .. } = self;
        let mut hash = Fnv1a::default();
        serde_json::to_writer(&mut hash, &Bare { version: *version, key, epoch: *epoch, lanes })
            .map_err(|error| Fault::Damaged(error.to_string()))?;
        Ok(hash.to_string())
    }
}

/// The 64-bit FNV-1a of what is written to it, in hexadecimal. It is there to notice damage, not an enemy.
pub(super) struct Fnv1a(u64);

impl Default for Fnv1a {
    fn default() -> Self {
        Fnv1a(0xcbf2_9ce4_8422_2325)
    }
}

impl fmt::Display for Fnv1a {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl io::Write for Fnv1a {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        self.0 = bytes.iter().fold(self.0, step);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Generation {
    /// Makes the epoch larger than that of every lease before. A generation raises it by one at most, so that of a
    /// damaged newest one is at most one more than what could be read.
    pub(super) fn raise_epoch(&mut self) {
        self.content.epoch += if self.is_current { 1 } else { 2 };
    }
}

/// Why a file is of no use.
pub(super) enum Fault {
    Missing,
    /// The generation before it takes its place.
    Damaged(String),
    /// A whole file, not for us.
    Foreign(String),
    Io(io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_files_written_before() {
        let text = br#"{"version":1,"key":"k","epoch":3,"checksum":"c0e5603087795087","lanes":{}}"#;
        let content = Content::parse(text, &OffsetKey::new("k").unwrap()).unwrap_or_else(|_| panic!("not read"));
        assert_eq!(content.sum().ok(), content.checksum);
    }
}
