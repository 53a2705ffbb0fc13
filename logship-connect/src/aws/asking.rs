//! Asking AWS outside of what the engine repeats.

use std::error::Error as StdError;
use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use logship_core::{Advice, Error, ErrorKind};
use tokio::time::Instant;

use super::{Aws, failure};

/// How long nothing more is asked after AWS has said that it was too much: it counts by the second.
const BREATH: Duration = Duration::from_secs(1);

/// How long a request may take: one that nobody answers would hold up whoever waits for it for ever.
const PATIENCE: Duration = Duration::from_secs(60);

/// When requests go out that share a limit: one after another in time.
#[derive(Debug)]
pub struct Pace {
    /// From one request to the next.
    interval: Duration,
    /// When the next request may go out.
    next: Mutex<Option<Instant>>,
}

impl Pace {
    /// So many requests in a second, at least one.
    pub fn new(requests_per_second: u32) -> Self {
        Pace { interval: Duration::from_secs(1) / requests_per_second.max(1), next: Mutex::new(None) }
    }

    /// Takes the next moment at which a request may go out, and waits for it.
    async fn turn(&self) {
        let at = {
            let mut next = self.next();
            let at = next.map_or_else(Instant::now, |at| at.max(Instant::now()));
            *next = Some(at + self.interval);
            at
        };
        tokio::time::sleep_until(at).await;
    }

    /// Puts off all further requests for a moment.
    pub fn take_a_breath(&self) {
        let until = Instant::now() + BREATH.max(self.interval);
        let mut next = self.next();
        *next = Some(next.map_or(until, |at| at.max(until)));
    }

    fn next(&self) -> MutexGuard<'_, Option<Instant>> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Aws {
    /// Asks for what no engine asks again: when it is time, in 60 seconds at most, and once more with new credentials
    /// where the old ones are not let in. After throttling the pace slows down.
    ///
    /// # Errors
    /// Those of [`failure`]. Credentials that are not let in after that either are final.
    pub async fn ask<T, E, F>(
        &self,
        operation: &'static str,
        pace: Option<&Pace>,
        call: impl Fn() -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, SdkError<E, HttpResponse>>>,
        E: StdError + ProvideErrorMetadata + Send + Sync + 'static,
    {
        let mut is_renewed = false;
        loop {
            if let Some(pace) = pace {
                pace.turn().await;
            }
            let error = match tokio::time::timeout(PATIENCE, call()).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => failure(operation, error),
                Err(_) => return Err(Error::new(ErrorKind::Timeout, operation, "no answer in time")),
            };
            if let (ErrorKind::Throttled, Some(pace)) = (error.kind(), pace) {
                pace.take_a_breath();
            }
            if error.advice() != Advice::Refresh {
                return Err(error);
            }
            // Nobody behind us could do more about it.
            let error = error.advise(Advice::Never);
            if is_renewed {
                return Err(error);
            }
            is_renewed = true;
            if let Err(cause) = self.refresh().await {
                return Err(if cause.is_retryable() { cause } else { error.with_source(cause) });
            }
        }
    }
}
