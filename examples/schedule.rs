//! Shipping by a schedule: each firing of a cron pattern is one run, two never overlap, and what was missed is said.
//!
//! What you will see: for eight seconds a pattern fires every second, at a destination that takes two and a half. Firings
//! from before the program began are reported as missed, and one run makes up for them; firings while a run is still at
//! it get `Busy` from the lease, and leave it alone.
//!
//!     cargo run --example schedule

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use croner::Cron;
use logship::sources::memory::MemorySource;
use logship::state::memory::MemoryOffsets;
use logship::{
    CancellationToken, Chunk, Clock, Error, ErrorKind, Exporter, Lane, LogShipper, Outcome, RunReport, SystemClock,
    Timestamp, async_trait,
};
use tokio::task::JoinSet;

/// Any error ends the example with its text.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What became of firings.
#[derive(Debug)]
pub enum Fired {
    /// A run, to its end.
    Ran(DateTime<Utc>, Result<RunReport, Error>),
    /// The run before is still at it, here or in another process.
    Overlapped(DateTime<Utc>, Error),
    /// So many firings since this one did not come in time, as the program was not there or its machine slept. The next
    /// run ships what they would have.
    Missed(DateTime<Utc>, usize),
}

/// A firing that comes later than this is one that was missed.
const TOLERANCE: TimeDelta = TimeDelta::seconds(1);

/// More than these are not counted.
const MISSED_MAX: usize = 1_000;

/// Fires until told to stop, and then lets the run under way stop gracefully. `last` is the last firing there was, which
/// a program keeps that wants to know what it missed.
///
/// # Errors
/// When the pattern never fires again.
pub async fn fire(
    cron: &Cron,
    shipper: &LogShipper,
    clock: &dyn Clock,
    mut last: DateTime<Utc>,
    stop: CancellationToken,
    tell: impl Fn(Fired),
) -> Result<(), Failure> {
    let mut runs = JoinSet::new();
    loop {
        let now = DateTime::from(clock.now());
        let due = cron.find_previous_occurrence(&now, true)?;
        if due > last {
            let late = cron.iter_after(last).take(MISSED_MAX).take_while(|due| now - due > TOLERANCE);
            let late: Vec<DateTime<Utc>> = late.collect();
            if let Some(first) = late.first() {
                tell(Fired::Missed(*first, late.len()));
            }
            let (shipper, stop) = (shipper.clone(), stop.clone());
            runs.spawn(async move { (due, shipper.run_once_until(stop).await) });
            last = due;
        }
        let next = cron.find_next_occurrence(&now, false)?;
        tokio::select! {
            () = stop.cancelled() => break,
            Some(Ok(ran)) = runs.join_next() => tell(said(ran)),
            // The wall clock may be set, so it is asked again, at least each minute.
            () = tokio::time::sleep((next - now).to_std()?.min(Duration::from_secs(60))) => {}
        }
    }
    while let Some(ran) = runs.join_next().await {
        tell(said(ran?));
    }
    Ok(())
}

fn said((due, result): (DateTime<Utc>, Result<RunReport, Error>)) -> Fired {
    match result {
        Err(error) if error.kind() == ErrorKind::Busy => Fired::Overlapped(due, error),
        result => Fired::Ran(due, result),
    }
}

/// A destination that takes so long for a chunk.
#[derive(Debug)]
pub struct Slow(pub Duration);

#[async_trait]
impl Exporter for Slow {
    fn kind(&self) -> &'static str {
        "slow"
    }

    async fn export(&self, chunk: &Chunk) -> Result<Outcome, Error> {
        tokio::time::sleep(self.0).await;
        Ok(Outcome::all_accepted(chunk.len()))
    }
}

/// A shipper from memory to a destination that takes so long.
pub fn shipper(source: &MemorySource, takes: Duration, clock: Arc<dyn Clock>) -> Result<LogShipper, Error> {
    LogShipper::builder(source.clone())
        .offsets(MemoryOffsets::new())
        .lookback(None)
        .clock(clock)
        .lane(Lane::new("slow", Slow(takes)).attempt_timeout(takes * 2))
        .build()
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    // With seconds in front; `@daily` and `30 2 * * *` are patterns, too.
    let cron: Cron = "* * * * * *".parse()?;
    let (source, stop) = (MemorySource::new(), CancellationToken::new());
    let shipper = shipper(&source, Duration::from_millis(2_500), Arc::new(SystemClock))?;
    let (rows, end) = (source, stop.clone());
    tokio::spawn(async move {
        for number in 0..80 {
            rows.push("logs", Timestamp::now(), |record| record.body = format!("row {number}").into());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        end.cancel();
    });
    let tell = |fired| match fired {
        Fired::Ran(due, Ok(report)) => println!("{due}: shipped {} records", report.lanes[0].accepted),
        Fired::Ran(due, Err(error)) => println!("{due}: failed: {error}"),
        Fired::Overlapped(due, error) => println!("{due}: not begun: {error}"),
        Fired::Missed(since, count) => println!("{count} firings were missed since {since}"),
    };
    fire(&cron, &shipper, &SystemClock, Utc::now() - TimeDelta::seconds(5), stop, tell).await
}
