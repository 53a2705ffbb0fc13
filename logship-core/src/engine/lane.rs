//! The life of one lane in a run.

use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use tokio::time::Instant;

use super::committer::Committer;
use super::delivery::Courier;
use super::intake::Intake;
use super::late::Remembers;
use super::outbox::Outbox;
use super::reader::Reader;
use super::signal::Signal;
use super::{Mode, News};
use crate::progress::Progress;
use crate::{Clock, Error, ErrorKind, LaneStatus};

/// What a lane is given for a run.
#[derive(Debug)]
pub(crate) struct LaneContext {
    pub(crate) number: usize,
    pub(crate) courier: Courier,
    pub(crate) reader: Arc<Reader>,
    pub(crate) committer: Arc<Committer>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) mode: Mode,
    pub(crate) news: Arc<Signal<News>>,
    /// Bytes this lane may hold.
    pub(crate) share: usize,
    /// Bytes of the largest page.
    pub(crate) page: usize,
    pub(crate) remembers: Remembers,
    pub(crate) grace: Duration,
}

/// How a pass through the source ended.
enum PassEnd {
    /// Everything there was is durable.
    CaughtUp,
    /// The run is stopping.
    Interrupted,
    /// The lane cannot go on.
    Failed(Error),
}

impl LaneContext {
    /// Ships until there is no more, or, in a continuous run, until it is told to stop.
    pub(crate) async fn run(&self) -> LaneStatus {
        let status = loop {
            let mut pass = Pass::new(self);
            let end = pass.run().await;
            pass.outbox.abandon();
            self.reader.rests(self.number);
            match end {
                PassEnd::CaughtUp => break LaneStatus::Complete,
                PassEnd::Interrupted => break LaneStatus::Interrupted,
                PassEnd::Failed(error) => {
                    let gave_up = error.is_retryable() && self.mode == Mode::Continuous;
                    let rests = gave_up.then_some(self.courier.options.retry.delay_max);
                    tracing::error!(lane = %self.courier.lane, %error, ?rests, "the lane cannot go on");
                    self.courier.progress.send(Progress::Stopped {
                        lane: Arc::clone(&self.courier.lane),
                        error: error.to_string().into(),
                        rests,
                    });
                    let Some(rest) = rests else { break LaneStatus::Stopped(error) };
                    tokio::select! {
                        biased;
                        () = self.courier.stop.cancelled() => break LaneStatus::Stopped(error),
                        () = tokio::time::sleep(rest) => {}
                    }
                }
            }
        };
        self.reader.leave(self.number);
        status
    }
}

/// A lane from its offset to the end of what there is.
struct Pass<'a> {
    lane: &'a LaneContext,
    intake: Intake<'a>,
    outbox: Outbox<'a>,
    /// Why the lane cannot go on once what is before it has been delivered.
    failed: Option<Error>,
    said_caught_up: bool,
}

impl<'a> Pass<'a> {
    fn new(lane: &'a LaneContext) -> Self {
        Pass { lane, intake: Intake::new(lane), outbox: Outbox::new(lane), failed: None, said_caught_up: false }
    }

    async fn run(&mut self) -> PassEnd {
        let lane = self.lane;
        let stop = &lane.courier.stop;
        let mut grace_ends: Option<Instant> = None;
        loop {
            let stopping = stop.is_cancelled();
            if stopping && grace_ends.is_none() {
                grace_ends = Some(Instant::now() + lane.grace);
            }
            if !stopping && let Err(error) = self.go_on() {
                self.fail(error);
                continue;
            }
            if let Some(end) = self.end(stopping) {
                return end;
            }
            if let Some(Some(delivered)) = self.outbox.in_flight.next().now_or_never() {
                self.outbox.delivered(delivered).unwrap_or_else(|error| self.fail(error));
                continue;
            }
            debug_assert!(
                stopping || lane.mode == Mode::Continuous || self.waits_for_something(),
                "no lane waits for ever"
            );
            if !self.moves(stopping) {
                lane.reader.rests(lane.number);
            }
            let linger_ends = self.intake.linger_ends().filter(|end| *end > Instant::now());
            let result = tokio::select! {
                biased;
                () = until(grace_ends) => return PassEnd::Interrupted,
                Some(delivered) = self.outbox.in_flight.next() => self.outbox.delivered(delivered),
                Some(packed) = self.outbox.packing.next() => self.outbox.was_packed(packed),
                () = lane.committer.durable.changed(self.outbox.durable_seen) => {
                    self.outbox.committed();
                    Ok(())
                }
                Some(fetched) = self.intake.fetches.next(), if !stopping && self.failed.is_none() => {
                    self.intake.fetched(fetched)
                }
                () = lane.news.changed(self.intake.news_seen), if !stopping && lane.mode == Mode::Continuous => {
                    self.intake.look_around();
                    Ok(())
                }
                () = until(linger_ends), if !stopping => Ok(()),
                () = stop.cancelled(), if !stopping => Ok(()),
            };
            if let Err(error) = result {
                self.fail(error);
            }
        }
    }

    /// Whether anything is under way whose end goes on with the pass.
    fn waits_for_something(&self) -> bool {
        !self.intake.fetches.is_empty() || self.outbox.is_at_work() || !self.outbox.in_flight.is_empty()
    }

    /// Whether others may wait for this lane: not for its destination, nor for new records.
    fn moves(&self, stopping: bool) -> bool {
        let reads = !stopping && self.failed.is_none() && !self.intake.fetches.is_empty();
        reads || (self.outbox.in_flight.is_empty() && self.outbox.is_at_work())
    }

    /// Does whatever can be done without waiting. An error is why the lane cannot go on behind what is cut.
    fn go_on(&mut self) -> Result<(), Error> {
        self.outbox.take(&mut self.intake.steps);
        if self.failed.is_none() {
            if !self.outbox.has_enough() {
                self.intake.read_on()?;
                self.outbox.take(&mut self.intake.steps);
            }
            self.intake.cut_if_due(self.outbox.is_idle());
            self.intake.finish_skips();
        }
        self.outbox.take(&mut self.intake.steps);
        self.outbox.pack();
        self.outbox.dispatch();
        Ok(())
    }

    /// Whether the pass is over.
    fn end(&mut self, stopping: bool) -> Option<PassEnd> {
        // What has no chunk is no news.
        self.said_caught_up &= self.outbox.is_durable();
        if self.outbox.is_under_way() {
            return None;
        }
        let caught_up = self.intake.is_caught_up() && self.intake.steps.is_empty() && self.outbox.is_durable();
        if stopping {
            let complete = caught_up && self.failed.is_none() && self.lane.mode == Mode::Once;
            return Some(if complete { PassEnd::CaughtUp } else { PassEnd::Interrupted });
        }
        if self.failed.is_some() {
            // What was cut before the failure is still to be delivered, unless it failed itself.
            return if self.outbox.is_spent() { self.failed.take().map(PassEnd::Failed) } else { None };
        }
        if !caught_up {
            return None;
        }
        if !self.said_caught_up {
            self.said_caught_up = true;
            // By now the report knows when the last finished record was, too.
            self.lane.courier.publish();
            self.lane.courier.progress.send(Progress::CaughtUp { lane: Arc::clone(&self.lane.courier.lane) });
        }
        (self.lane.mode == Mode::Once).then_some(PassEnd::CaughtUp)
    }

    fn fail(&mut self, error: Error) {
        if self.lane.courier.stop.is_cancelled() && (error.is_retryable() || error.kind() == ErrorKind::Cancelled) {
            // The run is stopping anyway, and the error is not why.
            return;
        }
        if self.failed.is_none() {
            self.failed = Some(error);
        }
    }
}

/// Waits until this instant, or for ever if there is none.
pub(crate) async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
