//! What a journal says: the commits since a generation, a line each.

use std::io::Write;

use logship_core::OffsetsDelta;
use serde::{Deserialize, Serialize};

use super::generation::{Content, Fnv1a};

/// One commit. Everything in it is absolute, so the lines behind one that is damaged still hold.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry<D = OffsetsDelta> {
    /// The checksum of the generation that it follows, so that a journal counts for no other.
    pub(super) base: String,
    /// The checksum of the generation before that, from which it can be reached when that one is damaged.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) previous: Option<String>,
    /// That of the lease.
    pub(super) epoch: u64,
    pub(super) change: D,
}

impl Entry<&OffsetsDelta> {
    /// The line: a checksum and JSON. A line break stands on both sides, so that a line which was cut off, or whose
    /// break was damaged, takes no neighbour with it.
    pub(super) fn line(&self) -> serde_json::Result<Vec<u8>> {
        let json = serde_json::to_vec(self)?;
        let mut line = format!("\n{} ", sum(&json)).into_bytes();
        line.extend_from_slice(&json);
        line.push(b'\n');
        Ok(line)
    }
}

impl Entry {
    fn parse(line: &[u8]) -> Option<Entry> {
        let space = line.iter().position(|byte| *byte == b' ')?;
        let (stored, json) = (&line[..space], &line[space + 1..]);
        if sum(json).as_bytes() == stored { serde_json::from_slice(json).ok() } else { None }
    }
}

fn sum(json: &[u8]) -> String {
    let mut hash = Fnv1a::default();
    // Writing to a hash does not fail.
    let _ = hash.write_all(json);
    hash.to_string()
}

/// Takes over the commits of a journal that `follows` wants. Returns how many lines are damaged. One without its end is
/// not: its commit was cut off, and nobody was told that it was durable.
pub(super) fn replay(journal: &[u8], content: &mut Content, follows: impl Fn(&Entry) -> bool) -> usize {
    let mut damaged = 0;
    for line in journal.split_inclusive(|byte| *byte == b'\n') {
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        match Entry::parse(text) {
            Some(entry) if follows(&entry) => {
                content.apply(&entry.change);
                content.epoch = content.epoch.max(entry.epoch);
            }
            Some(_) => {}
            None if text.is_empty() => {}
            None if text.len() == line.len() => {
                tracing::debug!(key = %content.key, "the last line of a journal of offsets was cut off and counts for nothing");
            }
            None => damaged += 1,
        }
    }
    damaged
}
