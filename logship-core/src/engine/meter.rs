//! What a lane does, for whoever looks: as its state, and as metrics through the `metrics` facade, to whatever recorder
//! the program has installed.

use std::time::Duration;

use crate::lane_state::Board;
use crate::{LaneReport, Timestamp};

/// The state of one lane and, with the feature `metrics`, its counters and gauges.
#[derive(Debug)]
pub(crate) struct Meter {
    board: Board,
    #[cfg(feature = "metrics")]
    recorded: Option<recorded::Recorded>,
}

impl Meter {
    /// `records` is not set for a run that only says what it would do.
    #[cfg_attr(not(feature = "metrics"), allow(unused_variables, reason = "there is nothing to label"))]
    pub(crate) fn new(lane: &str, kind: &'static str, offset_key: &str, board: Board, records: bool) -> Self {
        Meter {
            board,
            #[cfg(feature = "metrics")]
            recorded: records.then(|| recorded::Recorded::new(lane, kind, offset_key)),
        }
    }

    /// Brings the state and the metrics up to what the report says.
    #[cfg_attr(not(feature = "metrics"), allow(unused_variables, reason = "nothing is recorded"))]
    pub(crate) fn publish(&self, report: &LaneReport, now: Timestamp) {
        self.board.counts(report);
        #[cfg(feature = "metrics")]
        if let Some(recorded) = &self.recorded {
            recorded.publish(report, now);
        }
    }

    /// A request took so long.
    #[cfg_attr(not(feature = "metrics"), allow(unused_variables, clippy::unused_self, reason = "nothing is recorded"))]
    pub(crate) fn attempted(&self, took: Duration) {
        #[cfg(feature = "metrics")]
        if let Some(recorded) = &self.recorded {
            recorded.attempted(took);
        }
    }
}

#[cfg(feature = "metrics")]
mod recorded {
    use std::fmt;
    use std::sync::{Mutex, PoisonError};
    use std::time::Duration;

    use metrics::{Counter, Gauge, Histogram, Label, Unit};

    use crate::{LaneReport, Timestamp};

    /// A counter: its name, what it counts, and where the report says how many.
    type Count = (&'static str, &'static str, fn(&LaneReport) -> u64);

    const COUNTS: [Count; 15] = [
        ("logship_records_read_total", "Records taken from the source", |report| report.read),
        ("logship_records_accepted_total", "Records that the destination confirmed", |report| report.accepted),
        ("logship_records_already_there_total", "Of those, records it had before", |report| report.already_there),
        ("logship_records_diverted_total", "Of those, records it kept elsewhere", |report| report.diverted),
        ("logship_records_late_total", "Of those, records that appeared behind others", |report| report.late),
        ("logship_records_rejected_total", "Records refused for good and passed over", |report| report.rejected),
        ("logship_records_dead_lettered_total", "Of those, records in the dead letter", |report| report.dead_lettered),
        ("logship_records_dropped_total", "Records not sent because of a rule", LaneReport::dropped_total),
        ("logship_records_possibly_duplicated_total", "Records sent again that may have arrived", |report| {
            report.possibly_duplicated
        }),
        ("logship_chunks_delivered_total", "Chunks delivered", |report| report.chunks),
        ("logship_attempts_total", "Requests made", |report| report.attempts),
        ("logship_retries_total", "Requests made again", |report| report.retries),
        ("logship_circuit_opened_total", "Times the lane went down to one request", |report| report.circuit_opened),
        ("logship_body_bytes_total", "Bytes of delivered bodies before packing", |report| report.bytes),
        ("logship_wire_bytes_total", "Bytes of bodies sent", |report| report.wire_bytes),
    ];

    pub(super) struct Recorded {
        counters: [Counter; COUNTS.len()],
        /// What has been counted. Totals of a lane may shrink, when it begins again; counters never do.
        counted: Mutex<[u64; COUNTS.len()]>,
        left: Gauge,
        lag: Gauge,
        attempts: Histogram,
    }

    impl Recorded {
        pub(super) fn new(lane: &str, kind: &'static str, offset_key: &str) -> Self {
            let labels = vec![
                Label::new("lane", lane.to_owned()),
                Label::new("kind", kind),
                Label::new("offset_key", offset_key.to_owned()),
            ];
            metrics::describe_gauge!("logship_records_left", "Records read and not finished");
            metrics::describe_gauge!("logship_lag_seconds", Unit::Seconds, "How old the last finished record is");
            metrics::describe_histogram!("logship_attempt_seconds", Unit::Seconds, "How long requests take");
            Recorded {
                counters: COUNTS.map(|(name, description, _)| {
                    metrics::describe_counter!(name, description);
                    metrics::counter!(name, labels.clone())
                }),
                counted: Mutex::default(),
                left: metrics::gauge!("logship_records_left", labels.clone()),
                lag: metrics::gauge!("logship_lag_seconds", labels.clone()),
                attempts: metrics::histogram!("logship_attempt_seconds", labels),
            }
        }

        pub(super) fn publish(&self, report: &LaneReport, now: Timestamp) {
            let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
            for ((counter, counted), (_, _, total)) in self.counters.iter().zip(counted.iter_mut()).zip(COUNTS) {
                let total = total(report);
                counter.increment(total.saturating_sub(*counted));
                *counted = total.max(*counted);
            }
            self.left.set(report.left as f64);
            // A lane that has everything is not behind, however long ago the last record was.
            let last = report.last_timestamp.filter(|_| report.left > 0);
            self.lag.set(last.map_or(0.0, |last| now.since(last).as_secs_f64()));
        }

        pub(super) fn attempted(&self, took: Duration) {
            self.attempts.record(took.as_secs_f64());
        }
    }

    impl fmt::Debug for Recorded {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Recorded")
        }
    }
}
