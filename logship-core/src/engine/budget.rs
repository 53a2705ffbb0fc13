//! Bytes of memory held: counted once for the whole shipper, and once for each lane.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts bytes held now and at most.
#[derive(Debug, Default)]
pub(crate) struct Gauge {
    now: AtomicUsize,
    peak: AtomicUsize,
}

impl Gauge {
    /// Counts bytes until the result is dropped.
    pub(crate) fn hold(self: &Arc<Self>, bytes: usize) -> Held {
        let now = self.now.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.peak.fetch_max(now, Ordering::Relaxed);
        Held { gauge: Arc::clone(self), bytes }
    }

    pub(crate) fn now(&self) -> usize {
        self.now.load(Ordering::Relaxed)
    }

    pub(crate) fn peak(&self) -> usize {
        self.peak.load(Ordering::Relaxed)
    }
}

/// Bytes that are held as long as this lives.
#[derive(Debug)]
pub(crate) struct Held {
    gauge: Arc<Gauge>,
    bytes: usize,
}

impl Held {
    /// Counts bytes by the same gauge.
    pub(crate) fn hold_more(&self, bytes: usize) -> Held {
        self.gauge.hold(bytes)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.gauge.now.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// How the byte budget is divided.
///
/// Every lane has a share of its own, and one more share keeps pages for lanes that follow. A page that several lanes
/// hold counts in full against each of their shares and once in truth, so the sum of the shares bounds the truth, and
/// no lane, however stuck, can take memory from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shares {
    pub(crate) lane: usize,
    pub(crate) retained: usize,
    pub(crate) page: usize,
}

/// Below this a lane cannot hold a page, its encoded form and a body at once.
const SHARE_BYTES_MIN: usize = 64 * 1024;

impl Shares {
    /// The shares of a budget, or the least budget that would do.
    pub(crate) fn divide(budget: usize, lanes: usize, page_bytes_max: usize) -> Result<Self, usize> {
        // A single lane has nobody to keep pages for.
        let shares = if lanes == 1 { 1 } else { lanes + 1 };
        let share = budget / shares;
        if share < SHARE_BYTES_MIN {
            return Err(SHARE_BYTES_MIN * shares);
        }
        // Eight pages to a share leave room for reading, encoding and sending at the same time.
        Ok(Shares { lane: share, retained: budget - share * lanes, page: page_bytes_max.min(share / 8) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_outlives_what_was_held() {
        let gauge = Arc::new(Gauge::default());
        let first = gauge.hold(10);
        drop(gauge.hold(5));
        drop(first);
        assert_eq!((gauge.now(), gauge.peak()), (0, 15));
    }

    #[test]
    fn shares_never_sum_to_more_than_the_budget() {
        for lanes in 1..20 {
            let budget = 16 * 1024 * 1024 + lanes;
            let shares = Shares::divide(budget, lanes, usize::MAX).unwrap();
            assert!(shares.lane * lanes + shares.retained <= budget);
            assert!(shares.page * 8 <= shares.lane);
        }
        assert_eq!(Shares::divide(1, 1, 1), Err(SHARE_BYTES_MIN));
    }
}
