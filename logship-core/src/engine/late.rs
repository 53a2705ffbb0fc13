//! Finds records that appeared behind a lane's cursor, in one partition.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

use super::ledger::Note;
use crate::chunk::Begins;
use crate::page::Head;
use crate::{Cursor, Page, Seen, SeenIds, Timestamp, Window};

/// What a lane remembers of the records it has shipped.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Remembers {
    /// How late records may appear, where they may: those of this time before a read.
    pub(crate) overlap: Option<Duration>,
    /// All records, until they are deleted from the source.
    pub(crate) until_deleted: bool,
}

/// What a lane has taken of the stretch in which records may still appear. It reads the stretch again when a run
/// begins, and from time to time while it lasts; what it finds there and has not taken is late.
#[derive(Debug)]
pub(crate) struct Watch {
    remembers: Remembers,
    /// The window as it will be once all that is cut is durable.
    window: Option<Window>,
    /// What is in the window, and what will be with the next note.
    seen: HashSet<u64>,
    /// Records that were passed over by rule since the last note.
    passed_over: Vec<u64>,
    again: Option<Again>,
    /// When the stretch was last read again, to its end.
    ended: Option<Instant>,
    /// It was said that more is shipped than can be remembered.
    is_overfull: bool,
}

/// However short the overlap is, the lane gets on for so long before it reads it again.
const REST_MIN: Duration = Duration::from_secs(1);

/// The stretch is being read again.
#[derive(Debug)]
struct Again {
    /// Up to where.
    to: Cursor,
    /// When its first page was asked for.
    asked: Option<Timestamp>,
}

impl Watch {
    /// Nothing, where nothing is to be remembered.
    pub(crate) fn new(remembers: Remembers, stored: Option<Window>) -> Option<Self> {
        if remembers.overlap.is_none() && !remembers.until_deleted {
            return None;
        }
        let seen = stored.iter().flat_map(Window::ids).collect();
        let is_overfull = false;
        Some(Watch { remembers, window: stored, seen, passed_over: Vec::new(), again: None, ended: None, is_overfull })
    }

    /// Whether it is time to read the stretch again, of what has been read up to `read_to`.
    pub(crate) fn is_due(&self, read_to: &Cursor) -> bool {
        let Some(overlap) = self.remembers.overlap else { return false };
        let rested = self.ended.is_none_or(|ended| ended.elapsed() >= overlap.max(REST_MIN));
        // A chunk that was delivered in part may have left the offset in front of the stretch.
        let is_inside = |window: &Window| window.after.as_ref().is_none_or(|after| after < read_to);
        self.window.as_ref().is_some_and(is_inside) && self.again.is_none() && rested
    }

    /// Begins to read again what has been read up to `to`, and says behind which position; without one where the lane
    /// began.
    pub(crate) fn read_again(&mut self, to: Cursor) -> Option<Cursor> {
        self.again = Some(Again { to, asked: None });
        self.window.as_ref().and_then(|window| window.after.clone())
    }

    /// Whether a position lies in what is being read again.
    pub(crate) fn is_again(&self, position: &Cursor) -> bool {
        self.again.as_ref().is_some_and(|again| *position <= again.to)
    }

    /// Whether a record that is read again has been taken before.
    pub(crate) fn is_seen(&self, position: &Cursor) -> bool {
        self.seen.contains(&SeenIds::id_of(position))
    }

    /// Where a chunk of late records begins that is cut next, after so many that are cut and not noted.
    pub(crate) fn begins(&self, cut: u64) -> Begins {
        let window = self.window.as_ref();
        Begins::Late {
            after: window.and_then(|window| window.after.clone()),
            number: window.map_or(0, |window| window.late) + cut,
        }
    }

    /// A page was read. If it ends what is being read again, how far that had come.
    pub(crate) fn was_read(&mut self, page: &Page) -> Option<Cursor> {
        let again = self.again.as_mut()?;
        // Kept pages may have been asked for before.
        again.asked = Some(again.asked.map_or(page.read_at, |asked| asked.min(page.read_at)));
        let ends = page.end() == crate::PageEnd::CaughtUp || page.next().is_some_and(|next| *next >= again.to);
        ends.then(|| again.to.clone())
    }

    /// The stretch was read again, and all that was found is cut.
    pub(crate) fn was_read_again(&mut self) -> Option<Note> {
        let asked = self.again.take()?.asked?;
        self.ended = Some(Instant::now());
        let before = asked.saturating_sub(self.remembers.overlap.unwrap_or_default());
        let note = Note::Settled { before, keep: self.remembers.until_deleted };
        note.clone().apply(&mut self.window);
        self.seen = self.window.iter().flat_map(Window::ids).chain(self.passed_over.iter().copied()).collect();
        Some(note)
    }

    /// What was shipped up to here is deleted from the source. Where the stretch begins, and with it the identity of
    /// chunks, stays.
    pub(crate) fn was_deleted(&mut self, to: &Cursor) {
        let Some(window) = self.window.as_mut().filter(|window| window.seen.iter().any(|seen| seen.to <= *to)) else {
            return;
        };
        window.was_deleted(to);
        self.seen = window.ids().chain(self.passed_over.iter().copied()).collect();
    }

    /// A record is not shipped, by rule.
    pub(crate) fn passes_over(&mut self, record: Head<'_>, read_at: Timestamp) {
        if self.remembers.until_deleted || self.window.is_some() || self.is_open(record.timestamp, read_at) {
            let id = SeenIds::id_of(record.position);
            self.passed_over.push(id);
            self.seen.insert(id);
        }
    }

    /// What to note of records that are shipped in the order of their positions, up to and including `end`, which is
    /// of this time or earlier. `begins` is where the partition was covered before. Nothing if no other record can
    /// appear between them.
    pub(crate) fn ships<'r>(
        &mut self,
        records: impl Iterator<Item = (Head<'r>, Timestamp)>,
        begins: Option<Cursor>,
        end: &Covered,
    ) -> Option<Note> {
        let keep = self.remembers.until_deleted;
        let mut open = self.window.as_ref().is_some_and(Window::is_open);
        let mut after = begins;
        let mut ids: SeenIds = self.passed_over.drain(..).collect();
        for (record, read_at) in records {
            open |= self.is_open(record.timestamp, read_at);
            if open || keep {
                ids.push(SeenIds::id_of(record.position));
            }
            if !open {
                after = Some(record.position.detached());
            }
        }
        open |= self.is_open(end.time, end.read_at);
        if !open && !keep {
            return None;
        }
        if !open {
            after = Some(end.position.clone());
        }
        let seen = Seen { to: end.position.clone(), time: end.time, ids };
        Some(self.note(Note::Shipped { after, seen, late: 0 }))
    }

    /// What to note of late records that are shipped.
    pub(crate) fn ships_late<'r>(&mut self, records: impl Iterator<Item = Head<'r>>) -> Option<Note> {
        late(records).map(|note| self.note(note))
    }

    fn note(&mut self, note: Note) -> Note {
        if let Note::Shipped { seen, .. } = &note {
            self.seen.extend(seen.ids.iter());
        }
        note.clone().apply(&mut self.window);
        // What the window forgets goes here from time to time, and not with every chunk.
        if self.seen.len() > Window::IDS_MAX + Window::IDS_MAX / 8 {
            if !std::mem::replace(&mut self.is_overfull, true) {
                tracing::warn!(
                    ids_max = Window::IDS_MAX,
                    overlap = ?self.remembers.overlap,
                    "more records are shipped within the overlap, or wait for their deletion, than are remembered; what \
                     appears late behind the oldest of them is left to a reconciliation, and they are not deleted"
                );
            }
            self.seen = self.window.iter().flat_map(Window::ids).collect();
        }
        note
    }

    /// Whether a record of this time could appear after the read.
    fn is_open(&self, time: Timestamp, read_at: Timestamp) -> bool {
        self.remembers.overlap.is_some_and(|overlap| time >= read_at.saturating_sub(overlap))
    }
}

/// How far a partition is covered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Covered {
    pub(crate) position: Cursor,
    /// The time of the record there; of the read, where that is not known.
    pub(crate) time: Timestamp,
    pub(crate) read_at: Timestamp,
}

impl Covered {
    /// Covered up to the end of a page, whose last record that counts is `last`.
    pub(crate) fn behind(end: &Cursor, last: Option<Head<'_>>, page: &Page) -> Self {
        // What lies behind the last record was not given, so its time is not known.
        let time = last.filter(|last| last.position == end).map_or(page.read_at, |last| last.timestamp);
        Covered { position: end.detached(), time, read_at: page.read_at }
    }

    /// Covered up to and including a record.
    pub(crate) fn at(record: Head<'_>, page: &Page) -> Self {
        Covered { position: record.position.detached(), time: record.timestamp, read_at: page.read_at }
    }
}

/// What to note of late records that were shipped.
pub(crate) fn late<'r>(records: impl Iterator<Item = Head<'r>>) -> Option<Note> {
    let (mut to, mut time, mut ids): (Option<Cursor>, _, _) =
        (None, Timestamp::from_nanos(i64::MIN), SeenIds::default());
    for record in records {
        let position = record.position;
        ids.push(SeenIds::id_of(position));
        time = time.max(record.timestamp);
        if to.as_ref().is_none_or(|to| to < position) {
            to = Some(position.detached());
        }
    }
    let late = ids.len() as u64;
    to.map(|to| Note::Shipped { after: None, seen: Seen { to, time, ids }, late })
}
