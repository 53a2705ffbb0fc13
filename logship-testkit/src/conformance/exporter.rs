//! What any [`Exporter`] must do, by the numbers of its contract, in four worlds: all is well; the destination fails
//! and may recover; it fails for good; it takes some records and not others.
//!
//! ```
//! use std::sync::{Arc, Mutex};
//! use logship_core::{Chunk, Error, Exporter, Outcome, async_trait};
//! use logship_testkit::conformance::exporter::ExporterFixture;
//!
//! // The destination is a list.
//! #[derive(Clone, Debug, Default)]
//! struct List(Arc<Mutex<Vec<String>>>);
//!
//! #[async_trait]
//! impl Exporter for List {
//!     fn kind(&self) -> &'static str {
//!         "list"
//!     }
//!
//!     async fn export(&self, chunk: &Chunk) -> Result<Outcome, Error> {
//!         let texts = chunk.records().map(|record| record.body.as_str().unwrap_or_default().to_owned());
//!         self.0.lock().unwrap().extend(texts);
//!         Ok(Outcome::all_accepted(chunk.len()))
//!     }
//! }
//!
//! // In a file of `tests`: a destination of each test's own, which is empty.
//! struct Fixture(List);
//!
//! #[async_trait]
//! impl ExporterFixture for Fixture {
//!     async fn open(&self) -> Arc<dyn Exporter> {
//!         Arc::new(self.0.clone())
//!     }
//!
//!     async fn held(&self) -> Vec<String> {
//!         self.0.0.lock().unwrap().clone()
//!     }
//! }
//!
//! logship_testkit::exporter_conformance!(async |_| Some(Fixture(List::default())));
//! # fn main() {
//! #     use logship_testkit::conformance::exporter::c1_what_is_accepted_is_there as line;
//! #     let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
//! #     runtime.block_on(line(&Fixture(List::default())));
//! # }
//! ```

use std::sync::Arc;
use std::time::Duration;

use logship_core::{
    Advice, Certainty, ErrorKind, Exporter, Idempotency, Lane, LogRecord, LogShipper, RetryPolicy, RunReport,
    async_trait,
};

use self::records::{COPIES_SETTLE, accepted, chunk, chunk_of, export, held, numbered, spoilt, without_time};
use super::plain::{PlainOffsets, PlainSource};
use super::{POLLS_MAX, cut};

mod records;

/// How a destination behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum World {
    /// It takes nothing now, and says so: 429 or 503, a lock, a full queue.
    Busy,
    /// It breaks the connection before it has read the records, and takes none.
    BrokenBefore,
    /// It takes the records, and its answer gets lost.
    AnswerLost,
    /// It does not let us in.
    Denied,
    /// It refuses the request as a whole, whatever the records say, and would again: there is no such index.
    Refused,
    /// It takes the records but for those at these places, counted from 0, which it wants sent again later.
    Later(Vec<usize>),
}

/// The worlds in which the same again may succeed.
const TRANSIENT: [World; 3] = [World::Busy, World::BrokenBefore, World::AnswerLost];

/// All of them.
fn worlds() -> impl Iterator<Item = World> {
    TRANSIENT.into_iter().chain([World::Denied, World::Refused, World::Later(vec![0, 3])])
}

/// A request that a destination saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// How many records it carried.
    pub records: usize,
    /// Bytes of its body before packing.
    pub body_bytes: usize,
    /// Bytes of its body as sent.
    pub wire_bytes: usize,
}

/// A destination that is empty at first, and exporters that write to it.
#[async_trait]
pub trait ExporterFixture: Send + Sync {
    /// A new exporter that writes to the destination, as after a restart.
    async fn open(&self) -> Arc<dyn Exporter>;

    /// What the destination holds: a text for each copy of a record, in any form that has the record's body in it.
    async fn held(&self) -> Vec<String>;

    /// Lets so many requests that carry records meet this world, after which all is well again. `false`, as by default,
    /// where the destination cannot play it.
    async fn play(&self, world: World, requests: usize) -> bool {
        let _ = (world, requests);
        false
    }

    /// An exporter whose destination cannot be reached, if there is such a thing. By default there is none.
    async fn unreachable(&self) -> Option<Arc<dyn Exporter>> {
        None
    }

    /// Makes this record one that the destination refuses for what it is. `false`, as by default, where it takes any.
    fn spoil(&self, record: &mut LogRecord) -> bool {
        let _ = record;
        false
    }

    /// The secrets that were planted in the exporter's configuration, which nothing may show. By default none.
    fn secrets(&self) -> Vec<String> {
        Vec::new()
    }

    /// The requests with records that the destination has seen. `None`, as by default, where it cannot tell.
    async fn requests(&self) -> Option<Vec<Request>> {
        None
    }
}

/// Writes a test for each line of the contract of [`Exporter`], and for the engine over it.
///
/// Takes an `async fn(&'static str) -> Option<impl ExporterFixture>`, which is given the test's name, and the name of
/// the module before it if there is to be more than one. Without a fixture a test is skipped.
#[macro_export]
macro_rules! exporter_conformance {
    ($fixture:expr) => {
        $crate::exporter_conformance!(conformance, $fixture);
    };
    ($module:ident, $fixture:expr) => {
        $crate::conformance_tests!(
            $module, $fixture, exporter:
            c1_what_is_accepted_is_there,
            c2_outcomes_name_the_records_of_the_chunk,
            c3_a_refused_record_is_named_and_the_others_are_taken,
            c3_a_record_that_is_to_come_later_is_named,
            c3_what_fails_for_good_is_an_error_that_says_so,
            c4_what_may_pass_is_tried_again_and_says_what_is_certain,
            c5_nothing_is_split_of_which_a_part_was_taken,
            c6_an_export_neither_waits_nor_tries_again,
            c7_an_export_that_is_dropped_loses_nothing,
            c7_exports_at_the_same_time_are_apart,
            c8_requests_stay_within_the_limits,
            c9_neither_errors_nor_debug_show_a_secret_or_a_record,
            c10_a_repeat_leaves_one_copy,
            the_engine_delivers_everything,
        );
    };
}

/// Contract 1: when all is well, every record is accepted and is there once, in chunks of any size.
pub async fn c1_what_is_accepted_is_there(fixture: &dyn ExporterFixture) {
    let exporter = fixture.open().await;
    exporter.check().await.expect("the destination can be reached");
    let mut first = 0;
    for len in [1, 2, 7, 20] {
        let range = first..first + len.min(exporter.limits().chunk_records_max.unwrap_or(len));
        first += len;
        let outcome = export(fixture, &*exporter, &range).await.expect("all is well");
        assert_eq!(outcome.accepted_count(), range.len(), "all is well: {outcome:?}");
    }
    let held = held(fixture).await;
    assert!(held.is_sorted_by(|a, b| a < b), "nothing was sent twice, and is there twice: {held:?}");
}

/// Contract 2: an outcome is about the records of the chunk, in every world. That each accepted one is there is looked
/// at in every line.
pub async fn c2_outcomes_name_the_records_of_the_chunk(fixture: &dyn ExporterFixture) {
    let exporter = fixture.open().await;
    for (index, world) in worlds().enumerate() {
        if !fixture.play(world.clone(), 1).await {
            continue;
        }
        let range = index * 10..index * 10 + 5;
        if let Ok(outcome) = export(fixture, &*exporter, &range).await {
            let named = accepted(&outcome).len() + outcome.undelivered().count() + outcome.rejected().count();
            assert_eq!(named, 5, "{world:?}: {outcome:?}");
        }
    }
}

/// Contract 3: of a chunk with records that the destination refuses, each has its own fate.
pub async fn c3_a_refused_record_is_named_and_the_others_are_taken(fixture: &dyn ExporterFixture) {
    let exporter = fixture.open().await;
    let Some(chunk) = spoilt(fixture, &*exporter, 0..7, &[1, 4]) else { return };
    match exporter.export(&chunk).await {
        Ok(outcome) => {
            let rejected: Vec<usize> = outcome.rejected().map(|(index, _)| index).collect();
            assert_eq!(rejected, [1, 4], "the refused records are named: {outcome:?}");
            assert_eq!(accepted(&outcome), [0, 2, 3, 5, 6], "the others are accepted: {outcome:?}");
            assert_eq!(held(fixture).await, [0, 2, 3, 5, 6], "what is accepted is there, and nothing else");
        }
        Err(error) => {
            assert!(!exporter.capabilities().answers_per_record, "it says that it answers for each: {error}");
            assert_eq!(error.advice(), Advice::Split, "only in parts can the others be delivered: {error:?}");
            assert!(held(fixture).await.is_empty(), "contract 5: split with a part of the records taken: {error:?}");
        }
    }
}

/// Contract 3: records that are to come later are undelivered, the others accepted, under whatever status.
pub async fn c3_a_record_that_is_to_come_later_is_named(fixture: &dyn ExporterFixture) {
    let exporter = fixture.open().await;
    if !fixture.play(World::Later(vec![0, 3]), 1).await {
        return;
    }
    let outcome = export(fixture, &*exporter, &(0..5)).await.expect("an answer for each record is no error");
    assert_eq!(outcome.undelivered().collect::<Vec<_>>(), [0, 3], "{outcome:?}");
    assert_eq!(outcome.rejected().count(), 0, "what is to come later is not refused: {outcome:?}");
    assert_eq!(held(fixture).await, [1, 2, 4]);
}

/// Contract 3: a request that fails and would again is an error, after which nobody tries the same again.
pub async fn c3_what_fails_for_good_is_an_error_that_says_so(fixture: &dyn ExporterFixture) {
    let exporter = fixture.open().await;
    for (index, world) in [World::Denied, World::Refused].into_iter().enumerate() {
        if !fixture.play(world.clone(), 1).await {
            continue;
        }
        let range = index * 10..index * 10 + 3;
        let error = export(fixture, &*exporter, &range).await.expect_err("a request that failed is an error");
        // After a refresh the engine tries once more, and a split ends at single records.
        assert!(!matches!(error.advice(), Advice::After(_)), "{world:?} is not to be waited for: {error:?}");
        let is_kept_out = error.kind() == ErrorKind::Auth && error.certainty() == Certainty::NotDelivered;
        assert!(world != World::Denied || is_kept_out, "{error:?}");
        assert!(held(fixture).await.is_empty(), "{world:?} took records");
    }
}

/// Contract 4: a request that fails and may succeed later is an error that says so, and whether records may be there;
/// and sent again, all are.
pub async fn c4_what_may_pass_is_tried_again_and_says_what_is_certain(fixture: &dyn ExporterFixture) {
    if let Some(nowhere) = fixture.unreachable().await {
        let error = export(fixture, &*nowhere, &(900..903)).await.expect_err("nobody is there");
        assert!(error.is_retryable(), "somebody may be there later: {error:?}");
        assert_eq!(error.certainty(), Certainty::NotDelivered, "nobody took anything: {error:?}");
        let error = nowhere.check().await.expect_err("nobody is there");
        assert!(error.is_retryable(), "somebody may be there later: {error:?}");
    }
    let exporter = fixture.open().await;
    for (index, world) in TRANSIENT.into_iter().enumerate() {
        if !fixture.play(world.clone(), 1).await {
            continue;
        }
        let range = index * 10..index * 10 + 3;
        match export(fixture, &*exporter, &range).await {
            Err(error) => {
                assert!(matches!(error.advice(), Advice::After(_)), "{world:?} may pass: {error:?}");
                let is_lost = world == World::AnswerLost;
                assert!(!is_lost || error.certainty() == Certainty::Unknown, "{world:?}: {error:?}");
            }
            Ok(outcome) => {
                assert!(world == World::Busy, "{world:?} is no answer: {outcome:?}");
                assert_eq!(outcome.undelivered().count(), 3, "{world:?}: {outcome:?}");
            }
        }
        let outcome = export(fixture, &*exporter, &range).await.expect("all is well again");
        assert_eq!(outcome.accepted_count(), 3, "after {world:?}: {outcome:?}");
    }
}

/// Contract 5: the advice to split is never given when some record was taken, in any world. This is looked at whenever
/// something is exported.
pub async fn c5_nothing_is_split_of_which_a_part_was_taken(fixture: &dyn ExporterFixture) {
    let exporter = fixture.open().await;
    for (index, world) in worlds().enumerate() {
        if fixture.play(world, 1).await {
            drop(export(fixture, &*exporter, &(index * 10..index * 10 + 5)).await);
        }
    }
}

/// Contract 6: with a clock that stands still an export ends all the same, and sends one request, whether that fails or
/// not.
pub async fn c6_an_export_neither_waits_nor_tries_again(fixture: &dyn ExporterFixture) {
    let exporter = fixture.open().await;
    for (index, world) in [None, Some(World::Busy), Some(World::BrokenBefore), None].into_iter().enumerate() {
        if let Some(world) = &world
            && !fixture.play(world.clone(), 1).await
        {
            continue;
        }
        let before = fixture.requests().await.map(|requests| requests.len());
        let chunk = chunk(&*exporter, &(index * 10..index * 10 + 3));
        let result = without_time(exporter.export(&chunk)).await;
        let is_failed = result.as_ref().map_or(true, |outcome| outcome.accepted_count() == 0);
        assert_eq!(is_failed, world.is_some(), "{world:?} gave {result:?}: was it tried again?");
        let after = fixture.requests().await.map(|requests| requests.len());
        assert!(after <= before.map(|before| before + 1), "{world:?} was met by more than one request");
    }
}

/// Contract 7: an export that is dropped at any await spoils none that follows, of the same records or of a chunk that
/// begins like it and is larger.
pub async fn c7_an_export_that_is_dropped_loses_nothing(fixture: &dyn ExporterFixture) {
    let exporter = fixture.open().await;
    let is_idempotent = exporter.capabilities().idempotency != Idempotency::None;
    let len = 5.min(exporter.limits().chunk_records_max.unwrap_or(5));
    for polls in 1..POLLS_MAX {
        let mut is_whole = false;
        // What goes on behind a dropped call does not take the same time every time.
        for round in 0..8 {
            let first = (polls * 8 + round) * 10;
            let of = |range| chunk_of(&*exporter, &format!("kit-{first}"), range);
            is_whole = cut(exporter.export(&of(first..first + 1)), polls).await.is_some();
            let outcome = exporter.export(&of(first..first + len)).await.expect("an export after one that was dropped");
            assert_eq!(outcome.accepted_count(), len, "after a drop at await {polls}: {outcome:?}");
        }
        // What was dropped may still be at work.
        tokio::time::sleep(COPIES_SETTLE).await;
        let held = held(fixture).await;
        for number in (0..8).flat_map(|round| (polls * 8 + round) * 10..(polls * 8 + round) * 10 + len) {
            let copies = held.iter().filter(|held| **held == number).count();
            assert!(copies > 0, "record {number} is gone, after a drop at await {polls}");
            assert!(copies == 1 || !is_idempotent, "record {number} is there {copies} times, dropped at {polls}");
        }
        if is_whole {
            return;
        }
    }
}

/// Contract 7: several tasks export at the same time.
pub async fn c7_exports_at_the_same_time_are_apart(fixture: &dyn ExporterFixture) {
    let exporter = fixture.open().await;
    let chunks: Vec<_> = (0..6).map(|index| chunk(&*exporter, &(index * 10..index * 10 + 5))).collect();
    for outcome in futures::future::join_all(chunks.iter().map(|chunk| exporter.export(chunk))).await {
        assert_eq!(outcome.expect("all is well").accepted_count(), 5);
    }
    let expected: Vec<usize> = (0..6).flat_map(|index| index * 10..index * 10 + 5).collect();
    assert_eq!(held(fixture).await, expected);
}

/// Contract 8: what the engine cuts by the exporter's limits is what the destination sees.
pub async fn c8_requests_stay_within_the_limits(fixture: &dyn ExporterFixture) {
    let limits = fixture.open().await.limits();
    ship(fixture, 300).await;
    let Some(requests) = fixture.requests().await else { return };
    assert!(!requests.is_empty(), "requests are seen");
    for request in requests {
        let fits = |value: usize, limit: Option<usize>| limit.is_none_or(|limit| value <= limit);
        assert!(fits(request.records, limits.chunk_records_max), "{request:?} beyond {limits:?}");
        assert!(fits(request.body_bytes, limits.chunk_bytes_max), "{request:?} beyond {limits:?}");
        assert!(fits(request.wire_bytes, limits.wire_bytes_max), "{request:?} beyond {limits:?}");
    }
}

/// Contract 9: no planted secret and no text of a record is in what an exporter says, in any world.
pub async fn c9_neither_errors_nor_debug_show_a_secret_or_a_record(fixture: &dyn ExporterFixture) {
    let exporter = fixture.open().await;
    let mut said = vec![format!("{exporter:?} {exporter:#?}"), format!("{:?}", exporter.refresh().await)];
    for (index, world) in worlds().enumerate() {
        if fixture.play(world, 1).await {
            let result = exporter.export(&chunk(&*exporter, &(index * 10..index * 10 + 5))).await;
            said.push(format!("{result:?}"));
            said.extend(result.err().map(|error| error.to_string()));
        }
    }
    if let Some(nowhere) = fixture.unreachable().await {
        said.push(format!("{nowhere:?} {:?}", nowhere.check().await));
        said.push(format!("{:?}", nowhere.export(&chunk(&*nowhere, &(900..902))).await));
    }
    for text in said {
        for secret in fixture.secrets() {
            assert!(!text.contains(&secret), "the secret {secret} shows in {text}");
        }
        assert!(!text.contains(records::MARK), "a record's text shows in {text}");
    }
}

/// Contract 10: records that are sent again, also by an exporter after a restart, are there once, where the exporter
/// says so.
pub async fn c10_a_repeat_leaves_one_copy(fixture: &dyn ExporterFixture) {
    let exporter = fixture.open().await;
    let again: &[std::ops::Range<usize>] = match exporter.capabilities().idempotency {
        Idempotency::PerRecord => &[0..3, 0..3, 2..6, 0..6],
        Idempotency::PerChunk => &[0..3, 0..3, 0..6],
        _ => return,
    };
    for range in again {
        for exporter in [&exporter, &fixture.open().await] {
            let outcome = exporter.export(&chunk_of(&**exporter, "kit", range.clone())).await.expect("all is well");
            assert_eq!(outcome.accepted_count(), range.len(), "a repeat is accepted: {outcome:?}");
        }
    }
    assert_eq!(held(fixture).await, [0, 1, 2, 3, 4, 5], "one copy of each");
}

/// Through the whole engine, and with every fault that may pass on the way, every record is there: none is missing,
/// and none is there twice where the exporter says so.
pub async fn the_engine_delivers_everything(fixture: &dyn ExporterFixture) {
    for (world, requests) in [
        (World::Busy, 2),
        (World::BrokenBefore, 1),
        (World::AnswerLost, 1),
        (World::Later(vec![1, 2]), 1),
        (World::Busy, 1),
        (World::AnswerLost, 1),
    ] {
        fixture.play(world, requests).await;
    }
    ship(fixture, 500).await;
    let mut held = held(fixture).await;
    if fixture.open().await.capabilities().idempotency == Idempotency::None {
        held.dedup();
    }
    assert!(held.iter().copied().eq(0..500), "not each of 500 records once: {held:?}");
}

/// Ships so many records.
async fn ship(fixture: &dyn ExporterFixture, records: usize) {
    let mut retry = RetryPolicy::default();
    retry.delay_initial = Duration::from_millis(1);
    retry.delay_max = Duration::from_millis(20);
    let lane = Lane::shared("kit", fixture.open().await).chunk(50).concurrency(2).retry(retry);
    let report = ship_records(lane, (0..records).map(|number| numbered("kit", number)).collect()).await;
    let lane = report.lane("kit").expect("there is one lane");
    assert!(report.is_complete() && lane.balances(), "the run is not complete: {lane:?}");
    assert_eq!(lane.accepted, records as u64, "{lane:?}");
}

/// Ships these records, which are in the order of their positions, by the engine, in one run: for tests of what the engine
/// makes of an exporter's limits.
///
/// # Panics
/// If the lane's options are wrong.
pub async fn ship_records(lane: Lane, records: Vec<LogRecord>) -> RunReport {
    let source = PlainSource::new(records);
    let shipper = LogShipper::builder(source).offsets(PlainOffsets::default()).lookback(None).lane(lane).build();
    shipper.expect("a shipper can be built").run_once().await.expect("the run ends")
}
