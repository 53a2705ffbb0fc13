//! Which chunks of a partition are done, and how far the cursor may move.

use std::collections::VecDeque;

use crate::Cursor;

/// The chunks of one lane in one partition, in order. The cursor moves only over the prefix that is done.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    entries: VecDeque<Entry>,
}

#[derive(Debug)]
struct Entry {
    chunk: Option<u64>,
    /// Where the cursor stands once this entry is done.
    end: Cursor,
    state: State,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Open,
    Done,
    /// Done up to `end`, which was moved back, and never further.
    Broken,
}

/// What moving the prefix gave.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Advance {
    /// Where the cursor may stand now, if it moved.
    pub(crate) cursor: Option<Cursor>,
    /// The chunks that the cursor passed.
    pub(crate) chunks: Vec<u64>,
}

impl Ledger {
    /// A chunk that covers this partition up to `end` was cut.
    pub(crate) fn open(&mut self, chunk: u64, end: Cursor) {
        self.entries.push_back(Entry { chunk: Some(chunk), end, state: State::Open });
    }

    /// There is nothing to ship up to `end`.
    pub(crate) fn skip(&mut self, end: Cursor) {
        match self.entries.back_mut() {
            // Joins the last entry when that is a skip too, so that skipping needs no memory.
            Some(last) if last.chunk.is_none() && last.state == State::Done => last.end = end,
            _ => self.entries.push_back(Entry { chunk: None, end, state: State::Done }),
        }
    }

    /// A chunk was delivered, whole.
    pub(crate) fn done(&mut self, chunk: u64) {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.chunk == Some(chunk)) {
            entry.state = State::Done;
        }
    }

    /// A chunk was delivered up to `end`, or not at all, and will not be delivered further.
    pub(crate) fn broken(&mut self, chunk: u64, end: Option<Cursor>) {
        let Some(at) = self.entries.iter().position(|entry| entry.chunk == Some(chunk)) else { return };
        match end {
            Some(end) => {
                self.entries[at].end = end;
                self.entries[at].state = State::Broken;
            }
            None => self.entries[at].state = State::Open,
        }
    }

    /// Moves over what is done.
    pub(crate) fn advance(&mut self) -> Advance {
        let mut advance = Advance::default();
        while let Some(entry) = self.entries.pop_front_if(|entry| entry.state == State::Done) {
            advance.chunks.extend(entry.chunk);
            advance.cursor = Some(entry.end);
        }
        if let Some(entry) = self.entries.front_mut().filter(|entry| entry.state == State::Broken) {
            advance.cursor = Some(entry.end.clone());
            entry.state = State::Open;
        }
        advance
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(number: i64) -> Option<Cursor> {
        Some(Cursor::number(number))
    }

    #[test]
    fn p8_the_cursor_moves_only_over_a_gapless_prefix() {
        let mut ledger = Ledger::default();
        (1..=3).for_each(|chunk| ledger.open(chunk, Cursor::number(chunk as i64 * 10)));
        ledger.done(2);
        assert_eq!(ledger.advance(), Advance::default());
        ledger.done(1);
        assert_eq!(ledger.advance(), Advance { cursor: at(20), chunks: vec![1, 2] });
        ledger.done(3);
        assert_eq!(ledger.advance(), Advance { cursor: at(30), chunks: vec![3] });
    }

    #[test]
    fn what_is_skipped_waits_for_what_is_before_it() {
        let mut ledger = Ledger::default();
        ledger.skip(Cursor::number(1));
        assert_eq!(ledger.advance().cursor, at(1));
        ledger.open(1, Cursor::number(2));
        ledger.skip(Cursor::number(3));
        ledger.skip(Cursor::number(4));
        assert_eq!(ledger.advance().cursor, None);
        ledger.done(1);
        assert_eq!(ledger.advance().cursor, at(4));
    }

    #[test]
    fn p1_a_broken_chunk_lets_nothing_behind_it_through() {
        let mut ledger = Ledger::default();
        ledger.open(1, Cursor::number(10));
        ledger.open(2, Cursor::number(20));
        ledger.done(2);
        ledger.broken(1, at(4));
        assert_eq!(ledger.advance(), Advance { cursor: at(4), chunks: vec![] });
        assert_eq!(ledger.advance(), Advance::default());
    }
}
