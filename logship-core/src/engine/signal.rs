//! A value that changes, and those who wait for that.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// A value with a version. Waiters are woken in the order in which they began to wait; tokio's own `watch` wakes them
/// in an order drawn by chance, with which a seed would not be the same run every time.
#[derive(Debug)]
pub(crate) struct Signal<T> {
    value: Mutex<(u64, T)>,
    changed: Notify,
}

impl<T: Clone> Signal<T> {
    pub(crate) fn new(value: T) -> Self {
        Signal { value: Mutex::new((0, value)), changed: Notify::new() }
    }

    pub(crate) fn set(&self, value: T) {
        {
            let mut current = self.lock();
            *current = (current.0 + 1, value);
        }
        self.changed.notify_waiters();
    }

    /// The version and the value.
    pub(crate) fn get(&self) -> (u64, T) {
        self.lock().clone()
    }

    /// Waits for another version than this.
    pub(crate) async fn changed(&self, seen: u64) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Waits from here on, so that a change between the look and the wait is not missed.
            changed.as_mut().enable();
            if self.lock().0 != seen {
                return;
            }
            changed.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, (u64, T)> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
