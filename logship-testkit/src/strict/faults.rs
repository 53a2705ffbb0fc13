//! How a stand-in fails when it is told to, and what it remembers of the requests it saw.

use std::collections::VecDeque;
use std::time::Duration;

use super::stand::Reply;

/// One failure of one request that carries records.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Fault {
    /// Answers this status with an error in the destination's own shape
    /// ([`Destination::failure`](super::Destination::failure)). Nothing is stored.
    Status {
        /// The status.
        status: u16,
        /// What the `Retry-After` header says, if there is one: seconds or an HTTP date.
        retry_after: Option<String>,
    },
    /// Answers this status with the HTML page of a proxy that stands before the destination. Nothing is stored.
    ProxyPage(u16),
    /// Closes the connection before the body is read. Nothing is stored.
    DropUnread,
    /// Reads the whole request, then closes the connection. Nothing is stored.
    DropRead,
    /// Answers a success whose body says that nothing was taken, and nothing is. For destinations whose
    /// [`error_in_success`](super::Destination::error_in_success) has one; others go on as usual.
    ErrorInSuccess,
    /// Answers this. Nothing is stored.
    Answer(Reply),
    /// Stores the records, then closes the connection without an answer.
    LoseAnswer,
    /// Stores the records, sends the first half of the answer, then closes the connection.
    TruncateAnswer,
    /// Reads the request, then waits for [`Strict::release`](super::Strict::release) before it goes on as usual.
    Hang,
    /// Waits so long, then goes on as usual.
    Slow(Duration),
    /// Turns these items away with the destination's own word for "too busy", and stores the others: see
    /// [`Destination::answer_busy`](super::Destination::answer_busy).
    Busy(Items),
}

impl Fault {
    /// This status, without a `Retry-After` header.
    pub fn status(status: u16) -> Self {
        Fault::Status { status, retry_after: None }
    }

    /// This status, with a `Retry-After` header.
    pub fn status_after(status: u16, retry_after: impl Into<String>) -> Self {
        Fault::Status { status, retry_after: Some(retry_after.into()) }
    }
}

/// Which items of a request a fault is about.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Items {
    /// Those at these places, counted from 0.
    At(Vec<usize>),
    /// Each with this chance in a hundred, drawn from this seed.
    Percent {
        /// The chance.
        percent: u8,
        /// The seed.
        seed: u64,
    },
}

impl Items {
    /// Whether each of `len` items is meant.
    pub(super) fn of(&self, len: usize) -> Vec<bool> {
        match self {
            Items::At(places) => (0..len).map(|index| places.contains(&index)).collect(),
            Items::Percent { percent, seed } => {
                let mut chance = fastrand::Rng::with_seed(*seed);
                (0..len).map(|_| chance.u8(..100) < *percent).collect()
            }
        }
    }
}

/// The faults that lie ahead, and how often each of those by chance was met.
#[derive(Debug, Default)]
pub(super) struct Script {
    planned: VecDeque<Fault>,
    chaos: Option<(fastrand::Rng, u8)>,
    met: Vec<usize>,
}

impl Script {
    pub(super) fn plan(&mut self, times: usize, fault: Fault) {
        self.planned.extend(std::iter::repeat_n(fault, times));
    }

    pub(super) fn chaos(&mut self, seed: u64, percent: u8) {
        self.chaos = Some((fastrand::Rng::with_seed(seed), percent));
    }

    pub(super) fn clear(&mut self) {
        self.planned.clear();
        self.chaos = None;
    }

    /// How often each of these ways was drawn by chance.
    pub(super) fn met(&self, ways: usize) -> Vec<usize> {
        (0..ways).map(|way| self.met.get(way).copied().unwrap_or_default()).collect()
    }

    /// The fault of the next request: the next that was planned, else one of these by chance, if chance was asked for.
    pub(super) fn next(&mut self, ways: &[Fault]) -> Option<Fault> {
        if let Some(fault) = self.planned.pop_front() {
            return Some(fault);
        }
        let (chance, percent) = self.chaos.as_mut()?;
        if chance.u8(..100) >= *percent || ways.is_empty() {
            return None;
        }
        let way = chance.usize(..ways.len());
        self.met.resize(ways.len().max(self.met.len()), 0);
        self.met[way] += 1;
        let mut fault = ways[way].clone();
        if let Fault::Busy(Items::Percent { seed, .. }) = &mut fault {
            // Not the same records each time.
            *seed = chance.u64(..);
        }
        Some(fault)
    }
}

/// What a stand-in remembers of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SeenRequest {
    /// The method.
    pub method: String,
    /// The path, without the query.
    pub path: String,
    /// What the client called itself.
    pub user_agent: String,
    /// Bytes of the body as sent.
    pub wire_bytes: usize,
    /// Bytes of the body when unpacked.
    pub body_bytes: usize,
    /// How many records it carried; none when it was turned away before they were counted.
    pub items: usize,
    /// How many of them were stored.
    pub stored: usize,
    /// How many of them were there already.
    pub duplicates: usize,
    /// The status it was answered with, or was to be answered with when the answer got lost; `None` when it was
    /// dropped unread or has no answer yet.
    pub status: Option<u16>,
}
