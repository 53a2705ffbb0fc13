//! Some records of a chunk, on their own way to the destination.

use super::budget::Held;
use crate::Chunk;

/// Some records of the chunk, which are sent together.
pub(super) struct Part {
    /// Their indexes in the chunk, ascending; `None` for all.
    pub(super) indexes: Option<Vec<usize>>,
    pub(super) chunk: Chunk,
    /// Failed attempts without any record accepted.
    pub(super) failed: u32,
    pub(super) refreshed: bool,
    pub(super) held: Option<Held>,
}

impl Part {
    pub(super) fn index(&self, position: usize) -> usize {
        self.indexes.as_ref().map_or(position, |indexes| indexes[position])
    }

    /// The records at these positions of this part, as a part of its own.
    pub(super) fn select(&self, positions: &[usize]) -> Part {
        Part {
            indexes: Some(positions.iter().map(|position| self.index(*position)).collect()),
            chunk: self.chunk.select(positions),
            failed: self.failed,
            refreshed: self.refreshed,
            held: None,
        }
    }

    pub(super) fn halves(&self) -> [Part; 2] {
        let positions: Vec<usize> = (0..self.chunk.len()).collect();
        let (first, second) = positions.split_at(positions.len() / 2);
        [self.select(first), self.select(second)]
    }
}
