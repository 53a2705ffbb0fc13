//! A check that cannot fail is worth nothing: for each line of each suite there is an implementation that breaks it.

use std::panic::AssertUnwindSafe;

use futures::FutureExt;

mod exporter;
mod offset_store;
mod source;

/// Whether a line panics.
async fn is_broken(line: impl Future<Output = ()>) -> bool {
    AssertUnwindSafe(line).catch_unwind().await.is_err()
}
