//! Which chunks of a partition are done, and how far the cursor may move.

use std::collections::VecDeque;

use crate::{Cursor, Seen, Timestamp, Window};

/// What becomes durable once everything before it has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    /// Everything up to here is done. Without one the cursor stays: late records lie before it.
    pub(crate) cursor: Option<Cursor>,
    pub(crate) notes: Vec<Note>,
}

/// What is to be remembered of the stretch in which records may still appear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Note {
    /// These were shipped, so many of them late. `after` is where the stretch begins if there is none yet.
    Shipped { after: Option<Cursor>, seen: Seen, late: u64 },
    /// The stretch was read again, and nothing older than this appears any more. What was shipped of it is kept until it
    /// is deleted, if it ever will be.
    Settled { before: Timestamp, keep: bool },
    /// What was shipped up to here is deleted from the source.
    Deleted { to: Cursor },
}

impl Note {
    pub(crate) fn apply(self, window: &mut Option<Window>) {
        match self {
            Note::Shipped { after, seen, late } => {
                let window = window.get_or_insert_default();
                if !window.is_open() {
                    // What was shipped before is settled, and the stretch begins anew.
                    window.after = window.after.take().max(after);
                }
                window.note(seen, late);
                window.keep_within(Window::IDS_MAX);
            }
            Note::Settled { before, keep } => {
                if let Some(window) = window {
                    window.settle(before, keep);
                }
                if !keep {
                    // With nothing in it the next one begins at the cursor.
                    window.take_if(|window| window.seen.is_empty());
                }
            }
            Note::Deleted { to } => {
                if let Some(window) = window {
                    window.was_deleted(&to);
                }
            }
        }
    }
}

impl Change {
    pub(crate) fn is_empty(&self) -> bool {
        self.cursor.is_none() && self.notes.is_empty()
    }

    /// Takes over a later change on top of this one.
    pub(crate) fn merge(&mut self, later: Change) {
        if later.cursor.is_some() {
            self.cursor = later.cursor;
        }
        self.notes.extend(later.notes);
    }
}

/// The chunks of one lane in one partition, in order. The cursor moves only over the prefix that is done.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    entries: VecDeque<Entry>,
}

#[derive(Debug)]
struct Entry {
    chunk: Option<u64>,
    change: Change,
    state: State,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Open,
    Done,
    /// Done as far as `change` says, which was cut back, and never further.
    Broken,
}

/// What moving the prefix gave.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Advance {
    /// What is to be made durable.
    pub(crate) change: Change,
    /// The chunk of which only a part was delivered, and which the cursor entered.
    pub(crate) broken: Option<u64>,
}

impl Ledger {
    /// A chunk was cut. Once it is delivered, this may become durable.
    pub(crate) fn open(&mut self, chunk: u64, change: Change) {
        self.entries.push_back(Entry { chunk: Some(chunk), change, state: State::Open });
    }

    /// There is nothing to ship: this may become durable once everything before it is.
    pub(crate) fn skip(&mut self, change: Change) {
        match self.entries.back_mut() {
            // Joins the last entry when that is a skip too, so that skipping needs no memory.
            Some(last) if last.chunk.is_none() && last.state == State::Done => last.change.merge(change),
            _ => self.entries.push_back(Entry { chunk: None, change, state: State::Done }),
        }
    }

    /// A chunk was delivered, whole.
    pub(crate) fn done(&mut self, chunk: u64) {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.chunk == Some(chunk)) {
            entry.state = State::Done;
        }
    }

    /// Of a chunk only a part was delivered, and no more will be. `cut_back` says what of its change holds for that
    /// part, if anything does.
    pub(crate) fn broken(&mut self, chunk: u64, cut_back: impl FnOnce(Change) -> Option<Change>) {
        let Some(entry) = self.entries.iter_mut().find(|entry| entry.chunk == Some(chunk)) else { return };
        if let Some(change) = cut_back(std::mem::take(&mut entry.change)) {
            entry.change = change;
            entry.state = State::Broken;
        }
    }

    /// Moves over what is done. The chunks that the cursor passes are added to `passed`.
    pub(crate) fn advance(&mut self, passed: &mut Vec<u64>) -> Advance {
        let mut advance = Advance::default();
        while let Some(entry) = self.entries.pop_front_if(|entry| entry.state == State::Done) {
            passed.extend(entry.chunk);
            advance.change.merge(entry.change);
        }
        if let Some(entry) = self.entries.front_mut().filter(|entry| entry.state == State::Broken) {
            advance.change.merge(std::mem::take(&mut entry.change));
            entry.state = State::Open;
            advance.broken = entry.chunk;
        }
        if self.entries.is_empty() {
            // There may be many partitions, and few of them move at a time.
            self.entries = VecDeque::new();
        }
        advance
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SeenIds;

    /// What moving the prefix gives, and the chunks that it passes.
    fn advance(ledger: &mut Ledger) -> (Change, Vec<u64>, Option<u64>) {
        let mut passed = Vec::new();
        let Advance { change, broken } = ledger.advance(&mut passed);
        (change, passed, broken)
    }

    fn at(number: i64) -> Change {
        Change { cursor: Some(Cursor::number(number)), notes: Vec::new() }
    }

    #[test]
    fn p8_the_cursor_moves_only_over_a_gapless_prefix() {
        let mut ledger = Ledger::default();
        (1..=3).for_each(|chunk| ledger.open(chunk, at(chunk as i64 * 10)));
        ledger.done(2);
        assert_eq!(advance(&mut ledger), (Change::default(), vec![], None));
        ledger.done(1);
        assert_eq!(advance(&mut ledger), (at(20), vec![1, 2], None));
        ledger.done(3);
        assert_eq!(advance(&mut ledger), (at(30), vec![3], None));
    }

    #[test]
    fn what_is_skipped_waits_for_what_is_before_it() {
        let mut ledger = Ledger::default();
        ledger.skip(at(1));
        assert_eq!(advance(&mut ledger).0, at(1));
        ledger.open(1, at(2));
        ledger.skip(at(3));
        ledger.skip(at(4));
        assert_eq!(advance(&mut ledger).0, Change::default());
        ledger.done(1);
        assert_eq!(advance(&mut ledger).0, at(4));
    }

    #[test]
    fn p1_a_broken_chunk_lets_nothing_behind_it_through() {
        let mut ledger = Ledger::default();
        ledger.open(1, at(10));
        ledger.open(2, at(20));
        ledger.done(2);
        ledger.broken(1, |_| Some(at(4)));
        assert_eq!(advance(&mut ledger), (at(4), vec![], Some(1)));
        assert_eq!(advance(&mut ledger), (Change::default(), vec![], None));
    }

    #[test]
    fn p4_late_records_are_noted_and_leave_the_cursor_where_it_is() {
        let seen = |number| Seen {
            to: Cursor::number(number),
            time: Timestamp::from_secs(number),
            ids: [SeenIds::id_of(&Cursor::number(number))].into_iter().collect(),
        };
        let shipped = |number, late| Note::Shipped { after: Some(Cursor::number(1)), seen: seen(number), late };
        let mut ledger = Ledger::default();
        ledger.open(1, Change { notes: vec![shipped(20, 0)], ..at(20) });
        ledger.open(2, Change { cursor: None, notes: vec![shipped(15, 1)] });
        ledger.skip(Change {
            cursor: None,
            notes: vec![Note::Settled { before: Timestamp::from_secs(18), keep: false }],
        });
        ledger.done(1);
        ledger.done(2);
        let change = advance(&mut ledger).0;
        assert_eq!(change.cursor, Some(Cursor::number(20)));
        let mut window = None;
        change.notes.into_iter().for_each(|note| note.apply(&mut window));
        let window = window.unwrap();
        assert_eq!((window.after.clone(), window.late, window.ids_count()), (Some(Cursor::number(1)), 1, 2));
        let mut window = Some(window);
        Note::Settled { before: Timestamp::from_secs(21), keep: false }.apply(&mut window);
        assert_eq!(window, None);
    }
}
