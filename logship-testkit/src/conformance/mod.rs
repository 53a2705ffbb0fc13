//! Suites by which an exporter, a source or an offset store proves that it keeps its trait's contract.
//!
//! A suite is a module of plain functions, each of which is one numbered line of the contract, takes a fixture and
//! panics where the line is broken. A macro writes a test for each of them, so that a failure names the line:
//!
//! - [`exporter`] and [`exporter_conformance!`](crate::exporter_conformance) for
//!   [`Exporter`](logship_core::Exporter);
//! - [`source`] and [`source_conformance!`](crate::source_conformance) for [`Source`](logship_core::Source);
//! - [`offset_store`] and [`offset_store_conformance!`](crate::offset_store_conformance) for
//!   [`OffsetStore`](logship_core::OffsetStore).
//!
//! A fixture is what the implementor adds: how to open the thing under test, and how to look behind it. What a fixture
//! says it cannot do is not checked, so a suite proves as much as its fixture can show. The macros need `tokio` with
//! the features `macros` and `rt` among the dev-dependencies.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a suite says that a contract is broken by its panic"
)]

pub mod exporter;
pub mod offset_store;
mod plain;
pub mod source;
#[cfg(test)]
mod tests;

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

/// More awaits than any call of a conforming implementation should need: a call that is polled as often and still not
/// ready is let run to its end.
pub(crate) const POLLS_MAX: usize = 64;

/// Polls a future so many times, then drops it. Between two polls it is waited for as anybody would, so that the n-th
/// poll is where the future has come to its n-th await. `Some` if it was ready before.
pub async fn cut<F: Future>(future: F, polls: usize) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Where a real server is, by an environment variable that `scripts/servers.sh` prints. `None`, with a line that says
/// so, where it is not set: the test is then skipped, unless `LOGSHIP_REQUIRE_SERVERS` is 1.
///
/// # Panics
/// If the variable is not set and `LOGSHIP_REQUIRE_SERVERS` is 1.
pub fn server(variable: &str) -> Option<String> {
    let url = std::env::var(variable).ok();
    if url.is_none() {
        let required = std::env::var("LOGSHIP_REQUIRE_SERVERS").is_ok_and(|value| value == "1");
        assert!(!required, "{variable} is not set: run eval \"$(scripts/servers.sh start)\"");
        // Not by a macro, whose output a passing test would swallow.
        let line = format!("skipped: {variable} is not set; scripts/servers.sh starts a server and prints it\n");
        std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes()).unwrap();
    }
    url
}

/// Writes a module with one test for each line of a suite.
#[doc(hidden)]
#[macro_export]
macro_rules! conformance_tests {
    ($module:ident, $fixture:expr, $suite:ident: $($line:ident),+ $(,)?) => {
        mod $module {
            #[allow(unused_imports, reason = "the fixture may be named by a path of its own")]
            use super::*;

            $(
                #[tokio::test]
                async fn $line() {
                    if let Some(fixture) = ($fixture)(stringify!($line)).await {
                        $crate::conformance::$suite::$line(&fixture).await;
                    }
                }
            )+
        }
    };
}
