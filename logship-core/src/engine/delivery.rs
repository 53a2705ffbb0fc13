//! Brings one chunk to its destination: attempts, waits, splits.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::budget::{Gauge, Held};
use super::buffers::Buffers;
use super::circuit::Circuit;
use super::dead_letter::DeadLetterBox;
use super::meter::Meter;
use super::offload::CpuWork;
use super::part::Part;
use super::renewal::renew;
use crate::outcome::Fate;
use crate::progress::{Progress, ProgressSender};
use crate::report::LaneReport;
use crate::{
    Advice, Body, Certainty, Chunk, Clock, Encoding, Error, ErrorKind, Exporter, Idempotency, LaneOptions, Limits,
    OnReject, Outcome, Rejection, SecretProvider,
};

/// What all deliveries of a lane share.
#[derive(Debug)]
pub(crate) struct Courier {
    pub(crate) offset_key: Arc<str>,
    pub(crate) lane: Arc<str>,
    pub(crate) exporter: Arc<dyn Exporter>,
    /// Where its secrets are kept.
    pub(crate) secrets: Arc<dyn SecretProvider>,
    pub(crate) encoding: Option<Arc<dyn Encoding>>,
    pub(crate) limits: Limits,
    pub(crate) options: LaneOptions,
    pub(crate) idempotency: Idempotency,
    /// Where refused records go.
    pub(crate) dead_letter: Option<Box<DeadLetterBox>>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) cpu: CpuWork,
    pub(crate) gauge: Arc<Gauge>,
    /// Where bodies are packed.
    pub(crate) bodies: Arc<Buffers>,
    /// Whether another lane writes its records in the same form.
    pub(crate) shares_bodies: bool,
    /// Whether bodies need not be in one piece.
    pub(crate) takes_parts: bool,
    pub(crate) progress: ProgressSender,
    /// Cancelled when no further attempt may begin.
    pub(crate) stop: CancellationToken,
    pub(crate) report: Mutex<LaneReport>,
    pub(crate) rng: Mutex<fastrand::Rng>,
    /// No attempt of this lane begins before, because the destination asked for time.
    pub(crate) not_before: Mutex<Option<Instant>>,
    /// When the next chunk may go at the lane's pace.
    pub(crate) paced_until: Mutex<Option<Instant>>,
    pub(crate) circuit: Circuit,
    pub(crate) meter: Meter,
}

/// A chunk on its way.
#[derive(Debug)]
pub(crate) struct Parcel {
    pub(crate) chunk: Chunk,
    /// Why the destination's limits refuse its records, one for each; empty for a chunk that is sent.
    pub(crate) refused: Vec<Rejection>,
    pub(crate) held: Option<Held>,
}

/// How a delivery ended.
#[derive(Debug)]
pub(crate) struct Delivered {
    pub(crate) number: u64,
    pub(crate) chunk: Chunk,
    /// How each record stands; empty when all are finished.
    pub(crate) standing: Vec<Standing>,
    /// Why not all are.
    pub(crate) error: Option<Error>,
}

/// How a record stands on its way to the destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is not there.
    Open,
    /// It was sent and nothing was heard of it.
    MaybeArrived,
    /// Accepted, or passed over by rule.
    Finished,
}

impl Courier {
    /// What chunks of this lane say of where they are from.
    pub(crate) fn identity(&self) -> (Arc<str>, Arc<str>) {
        (Arc::clone(&self.offset_key), Arc::clone(&self.lane))
    }

    /// Encodes and packs a chunk, ahead of its delivery.
    pub(crate) async fn pack(&self, mut parcel: Parcel) -> Result<Parcel, Error> {
        let Some(encoding) = self.encoding.clone().filter(|_| parcel.refused.is_empty()) else { return Ok(parcel) };
        let mut chunk = parcel.chunk;
        if let Some(body) = chunk.body_in_place(encoding.as_ref(), self.takes_parts) {
            // Its bytes are counted where they stand.
            chunk.body = Some(body);
            chunk.forget_encoded();
            return Ok(Parcel { chunk, ..parcel });
        }
        let (bodies, shares_bodies) = (Arc::clone(&self.bodies), self.shares_bodies);
        parcel.chunk = self
            .cpu
            .run(move || {
                let buffer = |bytes| bodies.take(bytes);
                chunk.encode(encoding.as_ref());
                chunk.body = Some(match shares_bodies {
                    true => chunk.pack_once(encoding.as_ref(), buffer)?,
                    false => chunk.pack_in(encoding.as_ref(), buffer)?,
                });
                chunk.forget_encoded();
                Ok::<_, Error>(chunk)
            })
            .await??;
        parcel.held = parcel.chunk.body.as_ref().map(|body| self.gauge.hold(body.len()));
        Ok(parcel)
    }

    /// Sends a chunk until every record is accepted, refused for good, or given up.
    pub(crate) async fn deliver(&self, number: u64, parcel: Parcel) -> Delivered {
        let Parcel { mut chunk, refused, held } = parcel;
        let mut standing = vec![Standing::Open; chunk.len()];
        let whole = Part { indexes: None, chunk: chunk.clone(), failed: 0, refreshed: false, held };
        // The body goes when its part does.
        chunk.body = None;
        let mut parts = VecDeque::new();
        let mut error = None;
        if refused.is_empty() {
            parts.push_back(whole);
        } else {
            error = self.reject(&whole, refused.into_iter().enumerate().collect(), &mut standing).await;
        }
        while let Some(part) = parts.pop_front() {
            let rest = self.attempt(part, &mut standing).await;
            self.publish();
            match rest {
                // In front, so that order is kept.
                Ok(rest) => rest.into_iter().rev().for_each(|part| parts.push_front(part)),
                Err(stopped) => {
                    error = Some(stopped);
                    break;
                }
            }
        }
        if error.is_none() {
            standing = Vec::new();
            self.lock().chunks += 1;
        }
        Delivered { number, chunk, standing, error }
    }

    /// One attempt, and what is left to do after it.
    async fn attempt(&self, mut part: Part, standing: &mut [Standing]) -> Result<Vec<Part>, Error> {
        if part.chunk.body.is_none() {
            let parcel = Parcel { chunk: part.chunk, refused: Vec::new(), held: part.held };
            let parcel = self.pack(parcel).await?;
            (part.chunk, part.held) = (parcel.chunk, parcel.held);
        }
        let wire_bytes = part.chunk.body.as_ref().map_or(0, Body::len);
        if self.limits.wire_bytes_max.is_some_and(|max| wire_bytes > max) {
            let error = Error::new(ErrorKind::TooLarge, "pack", "larger after packing than the destination takes");
            return self.split(part, error, standing).await;
        }
        self.keep_pace(part.chunk.len()).await?;
        let probe = self.circuit.enter().await;
        self.wait_for_turn().await?;
        part.chunk.attempt += 1;
        {
            let mut report = self.lock();
            report.attempts += 1;
            report.wire_bytes += wire_bytes as u64;
            if part.chunk.attempt > 1 {
                report.retries += 1;
            }
            if self.idempotency == Idempotency::None {
                let again = |position| standing[part.index(position)] == Standing::MaybeArrived;
                report.possibly_duplicated += (0..part.chunk.len()).filter(|position| again(*position)).count() as u64;
            }
        }
        let began = Instant::now();
        let sending = self.exporter.export(&part.chunk);
        let answer = match tokio::time::timeout(self.options.attempt_timeout, sending).await {
            Ok(answer) => answer,
            Err(_) => {
                let message = format!("no answer within {:?}", self.options.attempt_timeout);
                Err(Error::new(ErrorKind::Timeout, "export", message))
            }
        };
        self.meter.attempted(began.elapsed());
        part.chunk.recount(&mut self.lock().wire_bytes);
        let worked = match &answer {
            Ok(outcome) => outcome.accepted_count() > 0 || outcome.rejected().next().is_some(),
            // It read the request and does not want it.
            Err(error) => error.advice() == Advice::Split,
        };
        if self.circuit.book(worked) {
            tracing::warn!(lane = %self.lane, "attempts fail one after another; from now on one is made at a time");
            self.lock().circuit_opened += 1;
        }
        // Whoever waits goes after the wait that this attempt asks for.
        if !worked && probe.is_some() {
            self.hold_back(self.options.retry.delay_initial);
        }
        drop(probe);
        match answer {
            Ok(outcome) if outcome.len() == part.chunk.len() => self.settle(part, &outcome, standing).await,
            Ok(outcome) => {
                let message = format!("the exporter answered for {} of {} records", outcome.len(), part.chunk.len());
                let error = Error::new(ErrorKind::Protocol, "export", message).certainty_is(Certainty::Unknown);
                self.failed(part, error.advise(Advice::After(None)), standing).await
            }
            Err(error) => self.failed(part, error, standing).await,
        }
    }

    /// The destination answered: each record has a fate.
    async fn settle(&self, part: Part, outcome: &Outcome, standing: &mut [Standing]) -> Result<Vec<Part>, Error> {
        if outcome.is_all_accepted() && part.indexes.is_none() {
            standing.fill(Standing::Finished);
            self.count_accepted(&part.chunk, outcome);
            return Ok(Vec::new());
        }
        let mut refused: Vec<(usize, Rejection)> = Vec::new();
        let mut again: Vec<usize> = Vec::new();
        for position in 0..part.chunk.len() {
            match outcome.fate(position) {
                Fate::Accepted | Fate::AlreadyThere | Fate::Diverted => {
                    standing[part.index(position)] = Standing::Finished;
                }
                Fate::Rejected(rejection) => refused.push((position, rejection.as_ref().clone())),
                Fate::Retry => again.push(position),
                Fate::Unnamed => {
                    standing[part.index(position)] = Standing::MaybeArrived;
                    again.push(position);
                }
            }
        }
        self.count_accepted(&part.chunk, outcome);
        let stopped = self.reject(&part, refused, standing).await;
        let rest = (!again.is_empty()).then(|| {
            let mut rest = part.select(&again);
            rest.chunk.attempt = part.chunk.attempt;
            // Progress was made: the destination works.
            rest.failed = if again.len() < part.chunk.len() { 0 } else { part.failed };
            rest
        });
        if let Some(error) = stopped {
            return Err(error);
        }
        let Some(rest) = rest else { return Ok(Vec::new()) };
        let error = Error::new(ErrorKind::Throttled, "export", "some records were not taken now");
        self.back_off(rest, error).await.map(|part| vec![part])
    }

    /// The request failed as a whole.
    async fn failed(&self, part: Part, error: Error, standing: &mut [Standing]) -> Result<Vec<Part>, Error> {
        if error.certainty() == Certainty::Unknown {
            (0..part.chunk.len()).for_each(|position| standing[part.index(position)] = Standing::MaybeArrived);
        }
        match error.advice() {
            Advice::Never => Err(error),
            Advice::Split => self.split(part, error, standing).await,
            Advice::Refresh if part.refreshed => Err(error),
            Advice::Refresh => {
                let renewed = renew(&*self.exporter, &*self.secrets);
                match tokio::time::timeout(self.options.attempt_timeout, renewed).await {
                    Ok(Ok(())) => Ok(vec![Part { refreshed: true, ..part }]),
                    Ok(Err(cause)) if cause.is_retryable() => self.back_off(part, cause).await.map(|part| vec![part]),
                    Ok(Err(cause)) => Err(error.with_source(cause)),
                    Err(_) => self.back_off(part, error).await.map(|part| vec![part]),
                }
            }
            Advice::After(_) => self.back_off(part, error).await.map(|part| vec![part]),
        }
    }

    /// Two halves; or, where there is one record, its refusal.
    async fn split(&self, part: Part, error: Error, standing: &mut [Standing]) -> Result<Vec<Part>, Error> {
        if part.chunk.len() > 1 {
            return Ok(part.halves().into());
        }
        let code = match error.kind() {
            ErrorKind::TooLarge => "record too large".to_owned(),
            kind => format!("{kind:?}").to_lowercase(),
        };
        match self.reject(&part, vec![(0, Rejection::new(code, error.to_string()))], standing).await {
            None => Ok(Vec::new()),
            Some(error) => Err(error),
        }
    }

    /// Records are refused for good: they are passed over, go to the dead letter, or stop the lane, as its options say.
    async fn reject(&self, part: &Part, refused: Vec<(usize, Rejection)>, standing: &mut [Standing]) -> Option<Error> {
        let (first, rejection) = refused.first()?;
        let id = part.chunk.ids().nth(*first)?;
        let error = rejection.stops_at(&id.to_string());
        match (self.options.on_reject, &self.dead_letter) {
            (OnReject::Stop, _) | (OnReject::DeadLetter, None) => {
                self.lock().reject(&id, rejection);
                return Some(error);
            }
            (OnReject::Drop, _) => {}
            (OnReject::DeadLetter, Some(dead_letter)) => {
                if let Err(error) = dead_letter.send(&self.lane, self.clock.now(), &part.chunk, &refused).await {
                    return Some(error);
                }
                self.lock().dead_lettered += refused.len() as u64;
            }
        }
        let mut report = self.lock();
        for (position, rejection) in &refused {
            let Some(id) = part.chunk.ids().nth(*position) else { continue };
            standing[part.index(*position)] = Standing::Finished;
            report.rejected += 1;
            report.left -= 1;
            report.reject(&id, rejection);
        }
        report.rejected_in_a_row += refused.len() as u64;
        let too_many = report.rejected_in_a_row >= self.options.rejected_in_a_row_max;
        too_many.then(|| error.with("rejected_in_a_row", report.rejected_in_a_row))
    }

    /// Waits before the same is tried again, or gives up.
    async fn back_off(&self, mut part: Part, error: Error) -> Result<Part, Error> {
        part.failed += 1;
        if part.failed >= self.options.retry.attempts_max {
            return Err(error.with("attempts", part.failed));
        }
        let asked = match error.advice() {
            Advice::After(asked) => asked,
            _ => None,
        };
        let delay = {
            let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
            self.options.retry.delay(part.failed, asked, &mut rng)
        };
        tracing::debug!(lane = %self.lane, %error, attempts = part.failed, ?delay, "an attempt failed");
        self.progress.send(Progress::Retrying {
            lane: Arc::clone(&self.lane),
            attempts: part.failed,
            delay,
            error: error.to_string().into(),
        });
        if asked.is_some() || error.kind() == ErrorKind::Throttled {
            self.hold_back(delay);
        }
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(error.with("attempts", part.failed)),
            () = tokio::time::sleep(delay) => Ok(part),
        }
    }

    /// No attempt of this lane begins within this time.
    fn hold_back(&self, delay: Duration) {
        let until = Instant::now() + delay;
        let mut not_before = self.not_before.lock().unwrap_or_else(PoisonError::into_inner);
        *not_before = Some(not_before.map_or(until, |other| other.max(until)));
    }

    /// Waits until so many records may go at the lane's pace.
    async fn keep_pace(&self, records: usize) -> Result<(), Error> {
        let Some(pace) = self.options.records_per_second_max else { return Ok(()) };
        let turn = {
            let mut paced_until = self.paced_until.lock().unwrap_or_else(PoisonError::into_inner);
            let turn = paced_until.unwrap_or_else(Instant::now).max(Instant::now());
            *paced_until = Some(turn + Duration::from_secs_f64(records as f64 / f64::from(pace)));
            turn
        };
        self.wait_until(turn).await
    }

    async fn wait_for_turn(&self) -> Result<(), Error> {
        loop {
            let until = *self.not_before.lock().unwrap_or_else(PoisonError::into_inner);
            let until = until.filter(|until| *until > Instant::now());
            self.wait_until(until.unwrap_or_else(Instant::now)).await?;
            if until.is_none() {
                return Ok(());
            }
        }
    }

    /// Waits, unless the run is stopping.
    async fn wait_until(&self, instant: Instant) -> Result<(), Error> {
        let stopped = || Error::new(ErrorKind::Cancelled, "export", "the run is stopping");
        if self.stop.is_cancelled() {
            return Err(stopped());
        }
        if instant <= Instant::now() {
            return Ok(());
        }
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(stopped()),
            () = tokio::time::sleep_until(instant) => Ok(()),
        }
    }

    fn count_accepted(&self, chunk: &Chunk, outcome: &Outcome) {
        let accepted = outcome.accepted_count() as u64;
        let mut report = self.lock();
        report.accepted += accepted;
        if accepted > 0 {
            report.rejected_in_a_row = 0;
        }
        report.left -= accepted;
        report.diverted += outcome.diverted_count() as u64;
        report.already_there += outcome.already_there_count() as u64;
        report.bytes += chunk.body.as_ref().map_or(0, |body| body.unpacked_len) as u64;
        let progress = Progress::Delivered {
            lane: Arc::clone(&self.lane),
            read: report.read,
            accepted: report.accepted,
            wire_bytes: report.wire_bytes,
        };
        drop(report);
        self.progress.send(progress);
    }

    /// Brings the lane's metrics up to its report.
    pub(crate) fn publish(&self) {
        self.meter.publish(&self.lock(), self.clock.now());
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, LaneReport> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
