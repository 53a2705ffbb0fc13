//! What each lane of a shipper is given.

use std::sync::{Arc, Mutex};

use tokio_util::sync::CancellationToken;

use super::budget::Gauge;
use super::buffers::Buffers;
use super::circuit::Circuit;
use super::dead_letter::DeadLetterBox;
use super::delivery::Courier;
use super::meter::Meter;
use super::reader::Form;
use crate::report::LaneReport;
use crate::shipper::LogShipper;
use crate::{Idempotency, Lane, Limits, Query};

/// In what form a lane wants its records. A filter of its own looks at them, and so does what is said once for several.
pub(super) fn form(lane: &Lane) -> Form {
    Form { encoding: lane.exporter.encoding(), looks: lane.options.filter != Query::all() }
}

/// Whether another lane has the encoding of this one.
fn shares_encoding(shipper: &LogShipper, lane: &Lane) -> bool {
    let Some(encoding) = lane.exporter.encoding() else { return false };
    let others = shipper.lanes.iter().filter(|other| other.id != lane.id);
    others.filter_map(|other| other.exporter.encoding()).any(|other| other.key() == encoding.key())
}

/// What the deliveries of a lane need.
pub(super) fn courier(
    shipper: &LogShipper,
    lane: &Lane,
    number: usize,
    gauge: &Arc<Gauge>,
    bodies: &Arc<Buffers>,
    stop: &CancellationToken,
) -> Courier {
    let mut options = lane.options.clone();
    let idempotency = lane.exporter.capabilities().idempotency;
    let limits = lane_limits(lane);
    options.concurrency = options.concurrency.min(limits.concurrency_max.unwrap_or(usize::MAX)).max(1);
    let dead_letter = lane.dead_letter.as_ref().map(|exporter| {
        let mut lane = Lane::shared(format!("{}-dead-letter", lane.id), Arc::clone(exporter));
        lane.options.retry = options.retry;
        lane.options.attempt_timeout = options.attempt_timeout;
        // Letters are a part of a chunk that is under way, which is given its time when the run stops.
        let never = CancellationToken::new();
        Box::new(DeadLetterBox { courier: courier(shipper, &lane, number, gauge, bodies, &never) })
    });
    Courier {
        offset_key: Arc::from(shipper.offset_key.as_str()),
        lane: Arc::from(lane.id.as_str()),
        exporter: Arc::clone(&lane.exporter),
        secrets: Arc::clone(&shipper.secrets),
        encoding: lane.exporter.encoding(),
        limits,
        options,
        idempotency,
        dead_letter,
        clock: Arc::clone(&shipper.clock),
        cpu: shipper.cpu,
        gauge: Arc::clone(gauge),
        bodies: Arc::clone(bodies),
        shares_bodies: shares_encoding(shipper, lane),
        takes_parts: lane.exporter.capabilities().takes_parts,
        progress: shipper.progress.clone(),
        stop: stop.clone(),
        report: Mutex::new(LaneReport::new(&lane.id, lane.exporter.kind())),
        rng: Mutex::new(match shipper.seed {
            Some(seed) => fastrand::Rng::with_seed(seed.wrapping_add(number as u64)),
            None => fastrand::Rng::new(),
        }),
        not_before: Mutex::new(None),
        paced_until: Mutex::new(None),
        circuit: Circuit::default(),
        meter: Meter::new(
            &lane.id,
            lane.exporter.kind(),
            shipper.offset_key.as_str(),
            shipper.progress.board.clone(),
            !shipper.is_plan,
        ),
    }
}

/// As many as Kestra's log shipper sends.
const CHUNK_RECORDS_DEFAULT: usize = 1000;

/// A body larger than this gains nothing at any destination and costs memory.
const CHUNK_BYTES_DEFAULT: usize = 10_000_000;

/// How many records a page has at most. A chunk that is a page has the page's encoded form for its body, which need not
/// be copied, so the largest chunk is made of whole pages, or a page of whole chunks.
pub(crate) fn page_records(lanes: &[Lane]) -> usize {
    // Fewer cost a turn each for little, more are long to wait for.
    const USUAL: usize = 2_000;
    const MOST: usize = 5_000;
    let chunks = lanes.iter().filter_map(|lane| lane_limits(lane).chunk_records_max);
    match chunks.max().unwrap_or(USUAL) {
        0 => USUAL,
        chunk @ 1..USUAL => USUAL / chunk * chunk,
        chunk => chunk.div_ceil(chunk.div_ceil(MOST)),
    }
}

/// The exporter's limits, narrowed by the lane's options.
fn lane_limits(lane: &Lane) -> Limits {
    let idempotency = lane.exporter.capabilities().idempotency;
    let mut limits = lane.exporter.limits();
    let least = |max: Option<usize>, wanted: Option<usize>| max.into_iter().chain(wanted).min();
    limits.chunk_records_max = least(limits.chunk_records_max, lane.options.chunk).or(Some(CHUNK_RECORDS_DEFAULT));
    limits.chunk_bytes_max = least(limits.chunk_bytes_max, lane.options.chunk_bytes_max).or(Some(CHUNK_BYTES_DEFAULT));
    if idempotency == Idempotency::PerChunk {
        // A chunk that is known by where it begins begins in one place, and is alone under way.
        limits.one_partition = true;
        limits.concurrency_max = Some(1);
    }
    limits
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Chunk, Error, Exporter, Outcome, async_trait};

    #[derive(Debug)]
    struct Null;

    #[async_trait]
    impl Exporter for Null {
        fn kind(&self) -> &'static str {
            "null"
        }
        async fn export(&self, chunk: &Chunk) -> Result<Outcome, Error> {
            Ok(Outcome::all_accepted(chunk.len()))
        }
    }

    #[test]
    fn chunks_begin_and_end_with_pages() {
        let pages = |chunks: &[usize]| {
            let lane = |chunk: &usize| Lane::new(chunk.to_string(), Null).chunk(*chunk);
            page_records(&chunks.iter().map(lane).collect::<Vec<_>>())
        };
        assert_eq!(page_records(&[Lane::new("usual", Null)]), 2_000);
        for (chunks, records) in [
            (&[1][..], 2_000),
            (&[300], 1_800),
            (&[1_500], 1_500),
            (&[5_000], 5_000),
            (&[10_000], 5_000),
            (&[12_000], 4_000),
            (&[usize::MAX], 5_000),
            (&[100, 4_000, 1_000], 4_000),
        ] {
            assert_eq!(pages(chunks), records, "{chunks:?}");
        }
    }
}
