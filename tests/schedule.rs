//! K24: a schedule starts a run, as its example shows it: never two at a time, and what was missed is said.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says why it fails by its panic")]

#[path = "../examples/schedule.rs"]
#[allow(dead_code, unreachable_pub, missing_docs)]
mod schedule;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use croner::Cron;
use logship::sources::memory::MemorySource;
use logship::{CancellationToken, Clock, ErrorKind, Timestamp};
use schedule::{Fired, fire, shipper};
use tokio::time::Instant;

/// Wall time that moves with the paused clock of the runtime.
#[derive(Debug)]
struct Wall(Timestamp, Instant);

impl Clock for Wall {
    fn now(&self) -> Timestamp {
        self.0.saturating_add(self.1.elapsed())
    }
}

/// What becomes of firings in so many seconds from 08:30:30 on, where a chunk takes so long.
async fn fired(pattern: &str, takes: Duration, last: TimeDelta, secs: u64) -> Vec<Fired> {
    let cron: Cron = pattern.parse().unwrap();
    let clock = Arc::new(Wall("2026-11-20T08:30:30Z".parse().unwrap(), Instant::now()));
    let (source, stop) = (MemorySource::new(), CancellationToken::new());
    let shipper = shipper(&source, takes, clock.clone()).unwrap();
    let (rows, end) = (source, stop.clone());
    tokio::spawn(async move {
        for number in 0..secs {
            rows.push("logs", Timestamp::from_secs(number as i64), |record| record.body = "row".into());
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        end.cancel();
    });
    let told = Mutex::new(Vec::new());
    let last = DateTime::<Utc>::from(clock.now()) + last;
    fire(&cron, &shipper, &*clock, last, stop, |fired| told.lock().unwrap().push(fired)).await.unwrap();
    told.into_inner().unwrap()
}

/// The minute of each that ran, of each that was refused, and what was missed.
fn minutes(fired: &[Fired]) -> (Vec<String>, Vec<String>, Vec<usize>) {
    let (mut ran, mut refused, mut missed) = (Vec::new(), Vec::new(), Vec::new());
    for fired in fired {
        match fired {
            Fired::Ran(due, report) => {
                assert!(report.is_ok(), "{report:?}");
                ran.push(due.format("%H:%M").to_string());
            }
            Fired::Overlapped(due, error) => {
                assert_eq!(error.kind(), ErrorKind::Busy);
                refused.push(due.format("%H:%M").to_string());
            }
            Fired::Missed(_, count) => missed.push(*count),
        }
    }
    (ran, refused, missed)
}

#[tokio::test(start_paused = true)]
async fn k24_each_firing_is_one_run() {
    let fired = fired("* * * * *", Duration::from_secs(1), TimeDelta::zero(), 200).await;
    assert_eq!(minutes(&fired), (["08:31", "08:32", "08:33"].map(str::to_owned).to_vec(), vec![], vec![]));
    let shipped: Vec<u64> = fired
        .iter()
        .map(|fired| match fired {
            Fired::Ran(_, Ok(report)) => report.lanes[0].accepted,
            _ => 0,
        })
        .collect();
    assert!(shipped.iter().all(|records| (28..=62).contains(records)), "{shipped:?}");
}

#[tokio::test(start_paused = true)]
async fn k24_p6_a_firing_while_a_run_is_at_it_is_refused() {
    let fired = fired("* * * * *", Duration::from_secs(150), TimeDelta::zero(), 300).await;
    let (ran, refused, missed) = minutes(&fired);
    assert_eq!(ran[0], "08:31");
    assert_eq!(refused[..2], ["08:32", "08:33"]);
    assert!(ran.contains(&"08:34".to_owned()), "it goes on when that has ended: {ran:?}");
    assert!(missed.is_empty(), "a run that is refused was not missed");
}

#[tokio::test(start_paused = true)]
async fn k24_what_was_missed_is_said_and_made_up_for_once() {
    let fired = fired("*/10 * * * *", Duration::from_secs(1), TimeDelta::hours(-1), 40).await;
    let (ran, refused, missed) = minutes(&fired);
    assert_eq!((missed, refused), (vec![6], vec![]));
    assert_eq!(ran, ["08:30"]);
    let Fired::Missed(first, _) = &fired[0] else { panic!("it is said first: {fired:?}") };
    assert_eq!(first.format("%H:%M").to_string(), "07:40");
}
