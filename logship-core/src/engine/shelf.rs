//! What is kept of a partition for the lanes that follow.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::{BoxFuture, Shared, WeakShared};

use crate::{Cursor, Error, Page, Partition, Start, Timestamp};

pub(super) type Read = Shared<BoxFuture<'static, Result<Arc<Page>, Arc<Error>>>>;
pub(super) type WeakRead = WeakShared<BoxFuture<'static, Result<Arc<Page>, Arc<Error>>>>;

/// A partition, and what is known about it. Lanes keep theirs at hand, as looking one of ten thousand up for each page
/// costs more than a small page does.
pub(crate) struct Shelf {
    pub(crate) partition: Partition,
    window: Mutex<Window>,
}

/// What is known about one partition.
#[derive(Default)]
pub(super) struct Window {
    /// Kept pages, oldest first.
    pub(super) pages: VecDeque<Kept>,
    /// Reads under way. Each lives as long as a lane waits for it.
    pub(super) reading: Vec<(Start, WeakRead)>,
    /// How far each lane has come, by its number. Nobody asks where there is one.
    pub(super) positions: Vec<(usize, Cursor)>,
    /// Lanes that let others go first. As soon as the page that one of them wants is kept, it takes that.
    pub(super) waiting: Vec<usize>,
    /// Lanes that were waited for in vain, until they take a page of this partition.
    pub(super) given_up: Vec<usize>,
    /// Kept pages that were taken.
    pub(super) taken: u64,
    /// What the source said of the time before which nothing appears, until there is a page that is not the last:
    /// that time only moves on.
    pub(super) horizon: Option<Option<Timestamp>>,
}

/// A page that is kept for lanes that follow.
pub(super) struct Kept {
    /// Where it was read from.
    pub(super) start: Start,
    pub(super) page: Arc<Page>,
    /// What it was counted as.
    pub(super) bytes: usize,
}

/// A lane that waits, as long as it does.
pub(super) struct Waiting<'s> {
    pub(super) shelf: &'s Shelf,
    pub(super) lane: usize,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.shelf.lock().waiting.retain(|lane| *lane != self.lane);
    }
}

impl Shelf {
    pub(crate) fn new(partition: Partition) -> Self {
        Shelf { partition, window: Mutex::default() }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Window {
    /// How far a lane has come.
    pub(super) fn position(&self, lane: usize) -> Option<&Cursor> {
        self.positions.iter().find(|(number, _)| *number == lane).map(|(_, position)| position)
    }

    pub(super) fn move_on(&mut self, lane: usize, to: &Cursor) {
        match self.positions.iter_mut().find(|(number, _)| *number == lane) {
            Some((_, position)) => position.clone_from(to),
            None => self.positions.push((lane, to.clone())),
        }
    }

    /// A kept page that begins at or spans `start`.
    pub(super) fn find(&self, start: &Start) -> Option<(Arc<Page>, usize)> {
        self.pages.iter().find_map(|Kept { start: from, page, .. }| {
            if from == start {
                return Some((Arc::clone(page), 0));
            }
            let Start::After(cursor) = start else { return None };
            let first = page.heads().next()?.position;
            let begins_before = match from {
                Start::After(from) => from <= cursor,
                // Whatever lies between such a beginning and the first record is not known to be nothing.
                Start::Earliest | Start::At(_) => first <= cursor,
            };
            (begins_before && page.next().is_some_and(|end| cursor < end)).then(|| {
                let from = page.heads().take_while(|record| record.position <= cursor).count();
                (Arc::clone(page), from)
            })
        })
    }
}

impl fmt::Debug for Shelf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Shelf").field(&self.partition).finish()
    }
}
