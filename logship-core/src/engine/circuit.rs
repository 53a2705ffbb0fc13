//! Spares a destination that does not work.

use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::{Semaphore, SemaphorePermit};

/// Opens when attempts fail one after another. While it is open the lane sends one request at a time, each after the
/// wait of the one before, until one succeeds.
#[derive(Debug)]
pub(crate) struct Circuit {
    failed_in_a_row: AtomicU32,
    probe: Semaphore,
}

/// One failure may be chance; so many are not.
const OPENS_AT: u32 = 5;

impl Default for Circuit {
    fn default() -> Self {
        Circuit { failed_in_a_row: AtomicU32::new(0), probe: Semaphore::new(1) }
    }
}

impl Circuit {
    pub(crate) fn is_open(&self) -> bool {
        self.failed_in_a_row.load(Ordering::Relaxed) >= OPENS_AT
    }

    /// Waits for the turn of this attempt. Held while it lasts.
    pub(crate) async fn enter(&self) -> Option<SemaphorePermit<'_>> {
        match self.is_open() {
            // The semaphore is never closed.
            true => self.probe.acquire().await.ok(),
            false => None,
        }
    }

    /// Books how an attempt ended. Says whether it opened the circuit.
    pub(crate) fn book(&self, worked: bool) -> bool {
        match worked {
            true => {
                self.failed_in_a_row.store(0, Ordering::Relaxed);
                false
            }
            false => self.failed_in_a_row.fetch_add(1, Ordering::Relaxed) + 1 == OPENS_AT,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test]
    async fn an_open_circuit_lets_one_attempt_through_at_a_time() {
        let circuit = Circuit::default();
        assert!(circuit.enter().await.is_none());
        let opened: Vec<bool> = (0..6).map(|_| circuit.book(false)).collect();
        assert_eq!(opened, [false, false, false, false, true, false]);
        let first = circuit.enter().await;
        assert!(first.is_some());
        assert!(circuit.enter().now_or_never().is_none());
        drop(first);
        assert!(circuit.enter().now_or_never().is_some());
        circuit.book(true);
        assert!(!circuit.is_open());
    }
}
