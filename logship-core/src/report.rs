//! What a run did.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::ser::{SerializeMap, SerializeStruct};
use serde::{Serialize, Serializer};

use crate::{Error, RecordId, Rejection, Timestamp};

/// What a run did, lane by lane.
///
/// `Display` is a table for people. Serialised, it is the same with all its fields, durations in seconds.
#[derive(Debug, Serialize)]
#[non_exhaustive]
pub struct RunReport {
    /// When the run began.
    pub started: Timestamp,
    /// How long it took.
    #[serde(rename = "elapsed_secs", serialize_with = "secs")]
    pub elapsed: Duration,
    /// Records read from the source. A record that several lanes took from one read counts once.
    pub source_records: u64,
    /// Reads of the source.
    pub source_reads: u64,
    /// The most bytes of records and bodies held at a time.
    pub memory_peak: usize,
    /// The byte budget.
    pub memory_budget: usize,
    /// What was deleted from the source, where the shipper is to
    /// [delete](crate::LogShipperBuilder::delete_shipped) what it has shipped.
    pub deletion: Option<Deletion>,
    /// The lanes, in the order in which they were given.
    pub lanes: Vec<LaneReport>,
}

/// What a run deleted from the source.
#[derive(Debug, Default, Serialize)]
#[non_exhaustive]
pub struct Deletion {
    /// Records deleted, each of which every lane had.
    pub deleted: u64,
    /// Records of the same stretch that were left, because some lane is not known to have them: they appeared after
    /// it was read for the last time, or were shipped before deletion was switched on.
    pub kept: u64,
    /// Why the rest was not deleted. The next run goes on with it.
    #[serde(serialize_with = "maybe_text")]
    pub error: Option<Error>,
}

impl RunReport {
    /// Whether every lane shipped all there was, and what was to be deleted is.
    pub fn is_complete(&self) -> bool {
        self.lanes.iter().all(|lane| matches!(lane.status, LaneStatus::Complete))
            && self.deletion.as_ref().is_none_or(|deletion| deletion.error.is_none())
    }

    /// The lane of this id.
    pub fn lane(&self, id: &str) -> Option<&LaneReport> {
        self.lanes.iter().find(|lane| lane.id == id)
    }

    /// The report, or the error of the first lane that stopped, or that of the deletion.
    pub fn require_complete(self) -> Result<RunReport, Error> {
        for lane in &self.lanes {
            match &lane.status {
                LaneStatus::Complete => {}
                LaneStatus::Interrupted => {
                    let message = "the run was stopped before this exporter had everything";
                    return Err(Error::new(crate::ErrorKind::Cancelled, "ship", message).with("exporter", &lane.id));
                }
                LaneStatus::Stopped(error) => return Err(error.duplicate().with("exporter", &lane.id)),
            }
        }
        match self.deletion.as_ref().and_then(|deletion| deletion.error.as_ref()) {
            Some(error) => Err(error.duplicate()),
            None => Ok(self),
        }
    }
}

/// What one lane did in a run.
///
/// Every record the lane read is in exactly one of four places:
/// `read = accepted + rejected + dropped + left`.
#[derive(Debug, Serialize)]
#[non_exhaustive]
pub struct LaneReport {
    /// The lane's id.
    pub id: String,
    /// The kind of its exporter.
    pub kind: &'static str,
    /// How it ended.
    #[serde(flatten)]
    pub status: LaneStatus,
    /// Records taken from the source.
    pub read: u64,
    /// Records that the destination confirmed.
    pub accepted: u64,
    /// Of those accepted, records that the destination kept elsewhere than asked for, such as in a failure store.
    pub diverted: u64,
    /// Of those accepted, records that the destination had before, and recognised by their ids.
    pub already_there: u64,
    /// Records refused for good by the destination or by its limits, and passed over because the lane says so.
    pub rejected: u64,
    /// Of those rejected, records that the lane's dead letter has accepted.
    pub dead_lettered: u64,
    /// Records refused since the last one that was accepted.
    #[serde(skip)]
    pub(crate) rejected_in_a_row: u64,
    /// Records not sent because of a rule, by reason.
    pub dropped: BTreeMap<&'static str, u64>,
    /// Records read and not finished. They are still in the source; the next run goes on with them.
    pub left: u64,
    /// Records sent again although an earlier attempt may have arrived, at a destination that cannot tell.
    pub possibly_duplicated: u64,
    /// Of those accepted, records that appeared behind others which had been shipped.
    pub late: u64,
    /// How old the latest of them was when it was shipped.
    #[serde(rename = "lateness_max_secs", serialize_with = "maybe_secs")]
    pub lateness_max: Option<Duration>,
    /// Records under way, without an answer, when the run ended. The next run sends them again.
    pub in_doubt: u64,
    /// Chunks delivered.
    pub chunks: u64,
    /// Requests made.
    pub attempts: u64,
    /// Requests made again after a failure, and records sent again after a partial one.
    pub retries: u64,
    /// How often attempts failed one after another until the lane sent one request at a time.
    pub circuit_opened: u64,
    /// Bytes of the delivered bodies before packing.
    pub bytes: u64,
    /// Bytes of all bodies sent, failed attempts included.
    pub wire_bytes: u64,
    /// Records refused, by code.
    pub rejected_by_code: BTreeMap<String, u64>,
    /// The first few refusals, in the destination's words.
    #[serde(serialize_with = "rejections")]
    pub rejections: Vec<(RecordId, Rejection)>,
    /// How far behind the run's end the last finished record was, if records are left.
    #[serde(rename = "lag_secs", serialize_with = "maybe_secs")]
    pub lag: Option<Duration>,
    /// The time of the last finished record.
    pub last_timestamp: Option<Timestamp>,
    /// Where files or objects were written; of more than ten thousand the newest.
    pub uris: Vec<String>,
    /// From the lane's start to its end.
    #[serde(rename = "elapsed_secs", serialize_with = "secs")]
    pub elapsed: Duration,
}

/// How a lane ended.
#[derive(Debug)]
#[non_exhaustive]
pub enum LaneStatus {
    /// It shipped all there was.
    Complete,
    /// The run was stopped before.
    Interrupted,
    /// It could not go on. What it did not finish is still in the source.
    Stopped(Error),
}

/// `status`: `complete`, `interrupted` or `stopped`, and then `error`.
impl Serialize for LaneStatus {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        let status = match self {
            LaneStatus::Complete => "complete",
            LaneStatus::Interrupted => "interrupted",
            LaneStatus::Stopped(_) => "stopped",
        };
        map.serialize_entry("status", status)?;
        if let LaneStatus::Stopped(error) = self {
            map.serialize_entry("error", &error.to_string())?;
        }
        map.end()
    }
}

fn secs<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

fn maybe_secs<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    duration.map(|duration| duration.as_secs_f64()).serialize(serializer)
}

fn maybe_text<S: Serializer>(error: &Option<Error>, serializer: S) -> Result<S::Ok, S::Error> {
    error.as_ref().map(Error::to_string).serialize(serializer)
}

fn rejections<S: Serializer>(all: &[(RecordId, Rejection)], serializer: S) -> Result<S::Ok, S::Error> {
    struct Refused<'a>(&'a (RecordId, Rejection));
    impl Serialize for Refused<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let (id, rejection) = self.0;
            let mut refused = serializer.serialize_struct("Refused", 3)?;
            refused.serialize_field("record", &id.to_string())?;
            refused.serialize_field("code", &rejection.code)?;
            refused.serialize_field("reason", &rejection.reason)?;
            refused.end()
        }
    }
    serializer.collect_seq(all.iter().map(Refused))
}

impl LaneReport {
    pub(crate) fn new(id: &str, kind: &'static str) -> Self {
        LaneReport {
            id: id.to_owned(),
            kind,
            status: LaneStatus::Interrupted,
            read: 0,
            accepted: 0,
            diverted: 0,
            already_there: 0,
            rejected: 0,
            dead_lettered: 0,
            rejected_in_a_row: 0,
            dropped: BTreeMap::new(),
            left: 0,
            possibly_duplicated: 0,
            late: 0,
            lateness_max: None,
            in_doubt: 0,
            chunks: 0,
            attempts: 0,
            retries: 0,
            circuit_opened: 0,
            bytes: 0,
            wire_bytes: 0,
            rejected_by_code: BTreeMap::new(),
            rejections: Vec::new(),
            lag: None,
            last_timestamp: None,
            uris: Vec::new(),
            elapsed: Duration::ZERO,
        }
    }

    /// Records not sent because of a rule.
    pub fn dropped_total(&self) -> u64 {
        self.dropped.values().sum()
    }

    /// Whether every record read is accounted for. Always true; the engine checks it, and so may a test.
    pub fn balances(&self) -> bool {
        self.read == self.accepted + self.rejected + self.dropped_total() + self.left
    }

    /// Accepted records in a second of the lane's time.
    pub fn records_per_second(&self) -> f64 {
        if self.elapsed.is_zero() { 0.0 } else { self.accepted as f64 / self.elapsed.as_secs_f64() }
    }

    pub(crate) fn reject(&mut self, id: &RecordId, rejection: &Rejection) {
        const REJECTIONS_KEPT: usize = 10;
        *self.rejected_by_code.entry(rejection.code.clone()).or_default() += 1;
        if self.rejections.len() < REJECTIONS_KEPT {
            let id = RecordId::new(id.partition().clone(), id.position().detached());
            self.rejections.push((id, rejection.clone()));
        }
    }
}

impl fmt::Display for LaneStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LaneStatus::Complete => f.write_str("complete"),
            LaneStatus::Interrupted => f.write_str("interrupted"),
            LaneStatus::Stopped(error) => write!(f, "stopped: {error}"),
        }
    }
}

impl fmt::Display for RunReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} records in {} reads of the source, {:.2} s, peak memory {} of {}",
            self.source_records,
            self.source_reads,
            self.elapsed.as_secs_f64(),
            Bytes(self.memory_peak as u64),
            Bytes(self.memory_budget as u64),
        )?;
        if let Some(deletion) = &self.deletion {
            write!(f, "{} records deleted from the source, {} kept", deletion.deleted, deletion.kept)?;
            match &deletion.error {
                Some(error) => writeln!(f, "; stopped: {error}")?,
                None => writeln!(f)?,
            }
        }
        let width = self.lanes.iter().map(|lane| lane.id.len()).max().unwrap_or(0).max("lane".len());
        writeln!(
            f,
            "{:width$} {:>9} {:>9} {:>8} {:>8} {:>8} {:>10} {:>10} {:>10}  status",
            "lane", "read", "accepted", "rejected", "dropped", "left", "bytes", "wire", "records/s",
        )?;
        for lane in &self.lanes {
            writeln!(
                f,
                "{:width$} {:>9} {:>9} {:>8} {:>8} {:>8} {:>10} {:>10} {:>10.0}  {}",
                lane.id,
                lane.read,
                lane.accepted,
                lane.rejected,
                lane.dropped_total(),
                lane.left,
                Bytes(lane.bytes).to_string(),
                Bytes(lane.wire_bytes).to_string(),
                lane.records_per_second(),
                lane.status,
            )?;
            let mut notes = Vec::new();
            if lane.retries > 0 {
                notes.push(format!("{} retries", lane.retries));
            }
            if lane.possibly_duplicated > 0 {
                notes.push(format!("{} possibly duplicated", lane.possibly_duplicated));
            }
            if lane.dead_lettered > 0 {
                notes.push(format!("{} in the dead letter", lane.dead_lettered));
            }
            if let Some(lateness) = lane.lateness_max.filter(|_| lane.late > 0) {
                notes.push(format!("{} late, by up to {:.1} s", lane.late, lateness.as_secs_f64()));
            }
            if lane.in_doubt > 0 {
                notes.push(format!("{} under way without an answer", lane.in_doubt));
            }
            if lane.already_there > 0 {
                notes.push(format!("{} were there already", lane.already_there));
            }
            if lane.diverted > 0 {
                notes.push(format!("{} kept elsewhere by the destination", lane.diverted));
            }
            notes.extend(lane.dropped.iter().map(|(reason, records)| format!("{records} dropped by {reason}")));
            notes.extend(lane.rejected_by_code.iter().map(|(code, records)| format!("{records} refused with {code}")));
            if let Some(lag) = lane.lag {
                notes.push(format!("{:.1} s behind", lag.as_secs_f64()));
            }
            if !notes.is_empty() {
                writeln!(f, "{:width$} {}", "", notes.join(", "))?;
            }
        }
        Ok(())
    }
}

/// A number of bytes for people: `12.3 MB`, in powers of ten.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0 as f64;
        match self.0 {
            0..1_000 => write!(f, "{bytes} B"),
            1_000..1_000_000 => write!(f, "{:.1} kB", bytes / 1e3),
            1_000_000..1_000_000_000 => write!(f, "{:.1} MB", bytes / 1e6),
            _ => write!(f, "{:.2} GB", bytes / 1e9),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_that_stopped_is_an_error_with_its_name() {
        let mut lane = LaneReport::new("es", "elasticsearch");
        lane.status = LaneStatus::Stopped(Error::new(crate::ErrorKind::Auth, "bulk", "401"));
        let report = RunReport {
            started: Timestamp::from_secs(0),
            elapsed: Duration::from_secs(1),
            source_records: 0,
            source_reads: 0,
            memory_peak: 0,
            memory_budget: 0,
            deletion: None,
            lanes: vec![lane],
        };
        assert!(!report.is_complete());
        assert!(report.to_string().contains("stopped: bulk: 401"), "{report}");
        assert_eq!(report.require_complete().unwrap_err().to_string(), "bulk: 401 (exporter: es)");
    }

    #[test]
    fn bytes_are_written_for_people() {
        for (bytes, text) in [(0, "0 B"), (999, "999 B"), (12_345, "12.3 kB"), (7_000_000, "7.0 MB")] {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
    }
}
