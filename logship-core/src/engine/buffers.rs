//! Buffers that are used again: memory that is new costs the system more than filling it costs us.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

use super::budget::Gauge;

/// Large buffers of one kind that nobody uses now. They are kept as long as they and what is held fit into the byte
/// budget together.
#[derive(Debug)]
pub(crate) struct Buffers {
    gauge: Arc<Gauge>,
    byte_budget: usize,
    idle: Mutex<Vec<Vec<u8>>>,
}

/// How many are kept: what is used at a time comes and goes by ones and twos.
const IDLE_MAX: usize = 4;

impl Buffers {
    pub(crate) fn new(gauge: Arc<Gauge>, byte_budget: usize) -> Self {
        Buffers { gauge, byte_budget, idle: Mutex::default() }
    }

    /// An empty buffer with room for so many bytes.
    pub(crate) fn take(self: &Arc<Self>, bytes: usize) -> Buffer {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |buffer: &Vec<u8>| buffer.capacity() >= bytes;
        // If none is large enough, growing one gives its memory back.
        let at = idle.iter().position(fits).or(idle.len().checked_sub(1));
        let mut buffer = at.map(|at| idle.swap_remove(at)).unwrap_or_default();
        drop(idle);
        buffer.reserve(bytes);
        Buffer { bytes: buffer, home: Some(Arc::clone(self)) }
    }

    fn give_back(&self, mut buffer: Vec<u8>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept: usize = idle.iter().map(Vec::capacity).sum();
        if idle.len() < IDLE_MAX && self.gauge.now() + kept + buffer.capacity() <= self.byte_budget {
            buffer.clear();
            idle.push(buffer);
        }
    }
}

/// Bytes that go back to where they are from.
#[derive(Default)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    home: Option<Arc<Buffers>>,
}

impl Buffer {
    /// The bytes alone, to be handed to whoever gives them back filled.
    pub(crate) fn filled<E>(mut self, fill: impl FnOnce(Vec<u8>) -> Result<Vec<u8>, E>) -> Result<Self, E> {
        self.bytes = fill(std::mem::take(&mut self.bytes))?;
        Ok(self)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(home) = self.home.take() {
            home.give_back(std::mem::take(&mut self.bytes));
        }
    }
}

impl Deref for Buffer {
    type Target = Vec<u8>;
    fn deref(&self) -> &Vec<u8> {
        &self.bytes
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_empty_and_is_used_again() {
        let buffers = Arc::new(Buffers::new(Arc::default(), 1 << 20));
        let mut buffer = buffers.take(1000);
        buffer.extend_from_slice(b"text");
        let memory = buffer.as_ptr();
        drop(buffer);
        let again = buffers.take(500);
        assert_eq!((again.len(), again.as_ptr()), (0, memory));
    }

    #[test]
    fn p5_idle_buffers_are_part_of_the_budget() {
        let gauge = Arc::new(Gauge::default());
        let buffers = Arc::new(Buffers::new(Arc::clone(&gauge), 10_000));
        let taken = [buffers.take(4_000), buffers.take(4_000), buffers.take(4_000)];
        drop(taken);
        assert_eq!(buffers.idle.lock().unwrap().len(), 2);
        let _held = gauge.hold(9_000);
        drop([buffers.take(4_000), buffers.take(4_000)]);
        assert_eq!(buffers.idle.lock().unwrap().len(), 0);
    }
}
