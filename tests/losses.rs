//! The ways in which log shippers lose records, by the numbers of our collection, and what keeps each from happening
//! here: a test in this file, or one that stands where the thing is.

#![allow(clippy::unwrap_used, reason = "a test says why it fails by its panic")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use logship::sources::jsonl::{JsonlConfig, JsonlFields, JsonlSource};
use logship::sources::memory::MemorySource;
use logship::state::memory::MemoryOffsets;
use logship::{
    Advice, ArrivalOrder, CancellationToken, Chunk, CpuWork, Cursor, Error, ErrorKind, Exporter, Lane, LaneStatus,
    Lease, LogRecord, LogShipper, LogShipperBuilder, OffsetKey, OffsetStore, Offsets, OffsetsDelta, OnReject, Outcome,
    Page, PageEnd, PageLimits, Partition, Progress, Query, RecordId, Source, Start, Timestamp, async_trait,
};

/// What else keeps a way of losing records from happening here: its number, the test, and where that stands.
const ELSEWHERE: &[(&str, &str, &str)] = &[
    ("H3 one status for a mixed answer", "mixed_outcome_keeps_each_fate", "logship-exporters/tests/elasticsearch.rs"),
    ("H4 item error logged and success returned", "every_item_has_its_fate", "logship-exporters/src/bulk.rs"),
    ("H5 200 with an error inside", "a_status_is_a_success_only_if_it_is_said_to_be", "logship-exporters/src/http.rs"),
    ("H5 the same, by record", "each_record_has_the_fate_the_answer_names", "logship-exporters/src/http.rs"),
    ("H6 409 retried for ever", "h6_what_is_there_already_is_accepted_and_counted", "tests/elasticsearch_faults.rs"),
    ("H7 expired token taken as final", "refreshes_expired_auth", "logship-exporters/src/http.rs"),
    ("H7 the same", "h7_a_key_that_expired_is_fetched_again_and_nothing_is_lost", "tests/elasticsearch_faults.rs"),
    ("H8 413 discards neighbours", "h8_a_giant_is_refused_alone", "logship-core/src/engine/chunker.rs"),
    ("H8 the same", "h8_a_body_that_is_too_large_is_split_and_nothing_of_it_is_lost", "tests/elasticsearch_faults.rs"),
    ("H12 torn state file", "c1_a_commit_cut_off_while_writing_changes_nothing", "logship-state/tests/file.rs"),
    (
        "H13 unlink before fsync",
        "c1_a_commit_cut_off_between_its_renames_changes_nothing",
        "logship-state/tests/file.rs",
    ),
    (
        "H14 damaged state",
        "c5_a_damaged_newest_file_loses_nothing_that_is_in_the_journal",
        "logship-state/tests/file.rs",
    ),
    ("H14 damaged journal", "c5_a_damaged_byte_of_a_journal_costs_its_line_alone", "logship-state/tests/journal.rs"),
    (
        "H12 torn journal",
        "c5_a_journal_that_is_cut_anywhere_has_every_line_before_the_cut",
        "logship-state/tests/journal.rs",
    ),
    (
        "H16 ties across a cut, at every source",
        "c1_each_record_is_given_once_and_in_order",
        "logship-testkit/src/conformance/source.rs",
    ),
    (
        "H16 PostgreSQL",
        "p4_ties_across_a_page_cut_are_neither_lost_nor_doubled",
        "logship-sources/src/postgres/tests.rs",
    ),
    ("H16 MySQL", "p4_ties_across_a_page_cut_are_neither_lost_nor_doubled", "logship-sources/src/mysql/tests.rs"),
    (
        "H19 after a reconnect",
        "a_server_that_goes_away_in_the_middle_is_an_error_that_passes",
        "logship-sources/src/postgres/tests.rs",
    ),
    ("H19 at a destination", "each_fault_leaves_every_record_there_once", "tests/elasticsearch_faults.rs"),
    (
        "H20 broken UTF-8, NUL",
        "broken_utf8_and_nul_are_kept_apart_from_their_neighbours",
        "logship-sources/src/jsonl/tests.rs",
    ),
    ("H20 NaN, any text", "any_record_is_a_document_that_reads_back", "logship-exporters/src/bulk.rs"),
    ("H20 depth", "what_is_too_deep_is_refused_and_what_is_not_is_written", "logship-exporters/src/encode/json.rs"),
    (
        "H22 discarded after a 2xx",
        "h22_outside_the_destinations_window_is_refused_before_sending",
        "logship-core/src/engine/chunker.rs",
    ),
    (
        "H23 refused for its span",
        "h23_a_chunk_spans_no_more_time_than_the_destination_takes",
        "logship-core/src/engine/chunker.rs",
    ),
    ("H24 fire and forget", "a_closed_pipe_confirms_nothing_and_stops_the_lane", "logship-exporters/src/console.rs"),
    ("all of them, in thousands of worlds", "the_promises_hold_for_every_seed", "logship-testkit/tests/simulation.rs"),
];

#[test]
fn every_way_of_losing_records_has_its_test() {
    for (loss, test, file) in ELSEWHERE {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        assert!(text.contains(&format!("fn {test}(")), "{loss}: {file} has no test {test}");
    }
}

/// A destination that does as it is told, and keeps what it has confirmed.
#[derive(Clone, Debug)]
struct Told {
    stored: Arc<Mutex<Vec<RecordId>>>,
    requests: Arc<AtomicU32>,
    does: Does,
}

#[derive(Clone, Copy, Debug)]
enum Does {
    Accept,
    /// Takes the records and never answers.
    SwallowSilently,
    /// Says nothing of the last record of the first request.
    ForgetOne,
    Refuse,
    /// Takes so long.
    Dawdle(Duration),
    /// Refuses a request as a whole for one record in it, and does not say which.
    RefuseWhole(i64),
}

fn told(does: Does) -> Told {
    Told { stored: Arc::default(), requests: Arc::default(), does }
}

#[async_trait]
impl Exporter for Told {
    fn kind(&self) -> &'static str {
        "told"
    }
    async fn export(&self, chunk: &Chunk) -> Result<Outcome, Error> {
        let first = self.requests.fetch_add(1, Ordering::Relaxed) == 0;
        let mut outcome = Outcome::builder(chunk.len());
        match self.does {
            Does::SwallowSilently => std::future::pending().await,
            Does::Refuse => return Err(Error::new(ErrorKind::Unavailable, "be told", "away")),
            Does::Dawdle(time) => tokio::time::sleep(time).await,
            Does::RefuseWhole(bad) if chunk.records().any(|record| record.id.position().as_number() == bad) => {
                return Err(Error::new(ErrorKind::Rejected, "be told", "something in here").advise(Advice::Split));
            }
            Does::RefuseWhole(_) => {}
            Does::Accept | Does::ForgetOne => {}
        }
        for (index, record) in chunk.records().enumerate() {
            if first && matches!(self.does, Does::ForgetOne) && index + 1 == chunk.len() {
                continue;
            }
            self.stored.lock().unwrap().push(record.id.clone());
            outcome.accepted(index);
        }
        Ok(outcome.build())
    }
}

fn records(number: usize) -> MemorySource {
    let source = MemorySource::new();
    for _ in 0..number {
        source.push("logs", Timestamp::now(), |record| record.body = "x".repeat(100).into());
    }
    source
}

fn shipper(source: impl Source + 'static, store: &MemoryOffsets, exporter: &Told) -> LogShipperBuilder {
    let lane = Lane::new("told", exporter.clone()).chunk(10).attempt_timeout(Duration::from_secs(100));
    LogShipper::builder(source).offsets(store.clone()).offset_key("key").cpu_work(CpuWork::Inline).lane(lane)
}

async fn cursors(store: &MemoryOffsets) -> BTreeMap<String, Cursor> {
    let offsets = store.load(&OffsetKey::new("key").unwrap()).await.unwrap();
    offsets.lanes.get("told").map(|lane| lane.cursors.clone()).unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn h1_the_offset_never_passes_what_was_only_handed_on() {
    let (store, exporter) = (MemoryOffsets::new(), told(Does::SwallowSilently));
    let shipper = shipper(records(30), &store, &exporter).build().unwrap();
    let run = tokio::time::timeout(Duration::from_secs(50), shipper.run_once()).await;
    assert!(run.is_err() && exporter.requests.load(Ordering::Relaxed) == 1);
    assert!(cursors(&store).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn h2_a_forgotten_record_is_not_delivered() {
    let (store, exporter) = (MemoryOffsets::new(), told(Does::ForgetOne));
    let shipper = shipper(records(30), &store, &exporter).build().unwrap();
    shipper.run_once().await.unwrap().require_complete().unwrap();
    assert_eq!((exporter.stored.lock().unwrap().len(), exporter.requests.load(Ordering::Relaxed)), (30, 4));
}

#[tokio::test(start_paused = true)]
async fn p10_a_chunk_that_is_refused_as_a_whole_is_halved_down_to_the_one_record() {
    let (store, exporter) = (MemoryOffsets::new(), told(Does::RefuseWhole(17)));
    let lane = Lane::new("told", exporter.clone()).chunk(32).on_reject(OnReject::Drop);
    let builder = LogShipper::builder(records(64)).offsets(store.clone()).offset_key("key").cpu_work(CpuWork::Inline);
    let report = builder.lane(lane).build().unwrap().run_once().await.unwrap().require_complete().unwrap();
    let lane = &report.lanes[0];
    assert_eq!((lane.accepted, lane.rejected, lane.rejections[0].0.position().as_number()), (63, 1, 17));
    let stored: Vec<i64> = exporter.stored.lock().unwrap().iter().map(|id| id.position().as_number()).collect();
    assert!(stored.is_sorted() && stored.len() == 63, "in order, and once: {stored:?}");
    // Of 32 records one is found by ten more requests.
    assert_eq!(exporter.requests.load(Ordering::Relaxed), 1 + 10 + 1);
}

#[tokio::test(start_paused = true)]
async fn h9_where_a_queue_would_be_full_the_reader_waits() {
    let (store, exporter) = (MemoryOffsets::new(), told(Does::Dawdle(Duration::from_secs(1))));
    let shipper = shipper(records(5_000), &store, &exporter).page_records(10).byte_budget(256 * 1024).build().unwrap();
    let report = shipper.run_once().await.unwrap().require_complete().unwrap();
    assert_eq!((report.lanes[0].accepted, report.lanes[0].dropped_total()), (5_000, 0));
    assert!(report.memory_peak < 256 * 1024, "{}", report.memory_peak);
}

#[tokio::test(start_paused = true)]
async fn h10_giving_up_leaves_the_records_in_the_source() {
    let (store, source) = (MemoryOffsets::new(), records(30));
    let report = shipper(source.clone(), &store, &told(Does::Refuse)).build().unwrap().run_once().await.unwrap();
    let LaneStatus::Stopped(error) = &report.lanes[0].status else { panic!("{report}") };
    assert!(error.to_string().contains("attempts: 10"), "{error}");
    assert!(cursors(&store).await.is_empty() && report.lanes[0].left == report.lanes[0].read);
    let works = told(Does::Accept);
    shipper(source, &store, &works).build().unwrap().run_once().await.unwrap().require_complete().unwrap();
    assert_eq!(works.stored.lock().unwrap().len(), 30);
}

#[tokio::test(start_paused = true)]
async fn h11_a_stop_waits_for_what_is_under_way_until_the_grace_is_over() {
    for (takes, delivered) in [(5, 10), (15, 0)] {
        let (store, exporter) = (MemoryOffsets::new(), told(Does::Dawdle(Duration::from_secs(takes))));
        let shipper = shipper(records(30), &store, &exporter).grace(Duration::from_secs(10)).build().unwrap();
        let stop = CancellationToken::new();
        let (report, ()) = tokio::join!(shipper.run_once_until(stop.clone()), async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            stop.cancel();
        });
        let lane = &report.unwrap().lanes[0];
        assert!(matches!(lane.status, LaneStatus::Interrupted));
        assert_eq!((lane.accepted, lane.in_doubt), (delivered, 10 - delivered), "{takes} s");
        let cursor = cursors(&store).await.get("logs").map_or(0, Cursor::as_number);
        assert_eq!(cursor, delivered as i64, "{takes} s");
    }
}

/// By partition: numbers and times.
type Rows = BTreeMap<String, Vec<(i64, Timestamp)>>;

/// A table of rows by number, which are given two at a time, those that are not wanted as pages without a record; a
/// row can appear behind others.
#[derive(Clone, Debug, Default)]
struct Table {
    rows: Arc<Mutex<Rows>>,
}

impl Table {
    fn add(&self, partition: &str, number: i64) {
        let mut tables = self.rows.lock().unwrap();
        let rows = tables.entry(partition.to_owned()).or_default();
        rows.push((number, Timestamp::now()));
        rows.sort();
    }
}

#[async_trait]
impl Source for Table {
    fn kind(&self) -> &'static str {
        "table"
    }
    fn fingerprint(&self) -> String {
        "table".to_owned()
    }
    fn arrival_order(&self) -> ArrivalOrder {
        ArrivalOrder::Bounded
    }
    async fn partitions(&self) -> Result<Vec<Partition>, Error> {
        Ok(self.rows.lock().unwrap().keys().map(Partition::new).collect())
    }
    async fn read(&self, partition: &Partition, start: &Start, _: &Query, _: PageLimits) -> Result<Page, Error> {
        let after = if let Start::After(cursor) = start { cursor.as_number() } else { i64::MIN };
        let rows = self.rows.lock().unwrap();
        let mut behind = rows[partition.as_str()].iter().filter(|(number, _)| *number > after);
        let two: Vec<_> = behind.by_ref().take(2).collect();
        let end = if behind.next().is_some() { PageEnd::More } else { PageEnd::CaughtUp };
        let next = two.last().map(|(number, _)| Cursor::number(*number));
        let record =
            |number| LogRecord::new(RecordId::new(partition.clone(), Cursor::number(number)), Timestamp::now());
        // Every number divisible by ten is wanted.
        let wanted = two.iter().filter(|(number, _)| number % 10 == 0);
        let records = wanted.map(|(number, time)| {
            let mut record = record(*number);
            record.timestamp = *time;
            record
        });
        Ok(Page::ending_at(partition.clone(), records.collect(), next, end))
    }
}

#[tokio::test(start_paused = true)]
async fn h15_a_row_that_appears_behind_the_cursor_is_shipped_once() {
    let (store, exporter, table) = (MemoryOffsets::new(), told(Does::Accept), Table::default());
    [10, 30].into_iter().for_each(|number| table.add("t", number));
    let shipper = shipper(table.clone(), &store, &exporter).build().unwrap();
    shipper.run_once().await.unwrap().require_complete().unwrap();
    table.add("t", 20);
    for late in [1, 0, 0] {
        let report = shipper.run_once().await.unwrap().require_complete().unwrap();
        assert_eq!((report.lanes[0].late, report.lanes[0].accepted), (late, late));
    }
    let stored: Vec<i64> = exporter.stored.lock().unwrap().iter().map(|id| id.position().as_number()).collect();
    assert_eq!(stored, [10, 30, 20]);
}

#[tokio::test(start_paused = true)]
async fn h17_a_page_without_records_is_not_the_end() {
    let (store, exporter, table) = (MemoryOffsets::new(), told(Does::Accept), Table::default());
    (1..=40).for_each(|number| table.add("t", number));
    shipper(table, &store, &exporter).build().unwrap().run_once().await.unwrap().require_complete().unwrap();
    assert_eq!(exporter.stored.lock().unwrap().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn h18_every_partition_begins_at_its_own_place() {
    let (store, exporter, table) = (MemoryOffsets::new(), told(Does::Accept), Table::default());
    (1..=40).for_each(|number| table.add("far", number));
    let shipper = shipper(table.clone(), &store, &exporter).lookback(None).build().unwrap();
    shipper.run_once().await.unwrap().require_complete().unwrap();
    // Two appear that are far behind the first.
    (1..=40).for_each(|number| table.add("a", number));
    (1..=20).for_each(|number| table.add("z", number));
    let report = shipper.run_once().await.unwrap().require_complete().unwrap();
    assert_eq!(report.lanes[0].accepted, 6);
    let ends: Vec<(String, i64)> =
        cursors(&store).await.into_iter().map(|(name, cursor)| (name, cursor.as_number())).collect();
    assert_eq!(ends, [("a".to_owned(), 40), ("far".to_owned(), 40), ("z".to_owned(), 20)]);
}

#[tokio::test(start_paused = true)]
async fn h21_counters_move_after_the_fact_and_add_up() {
    let (store, exporter) = (MemoryOffsets::new(), told(Does::Dawdle(Duration::from_secs(5))));
    let shipper = shipper(records(30), &store, &exporter).build().unwrap();
    let mut progress = shipper.progress();
    let watch = async {
        use futures::StreamExt;
        let mut seen = Vec::new();
        while seen.len() < 3 {
            if let Some(Progress::Delivered { accepted, .. }) = progress.next().await {
                // What is counted is there.
                seen.push((accepted, exporter.stored.lock().unwrap().len()));
            }
        }
        seen
    };
    let (report, seen) = tokio::join!(shipper.run_once(), watch);
    assert_eq!(seen, [(10, 10), (20, 20), (30, 30)]);
    assert!(report.unwrap().lanes[0].balances());
}

#[tokio::test(start_paused = true)]
async fn h26_a_second_run_on_a_key_is_turned_away_at_once() {
    let (store, exporter) = (MemoryOffsets::new(), told(Does::Dawdle(Duration::from_secs(5))));
    let source = records(30);
    let (first, second) = (shipper(source.clone(), &store, &exporter), shipper(source, &store, &exporter));
    let (first, second) = (first.build().unwrap(), second.build().unwrap());
    let late = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        second.run_once().await.unwrap_err()
    };
    let (report, busy) = tokio::join!(first.run_once(), late);
    assert_eq!(busy.kind(), ErrorKind::Busy, "{busy}");
    report.unwrap().require_complete().unwrap();
    assert_eq!(exporter.stored.lock().unwrap().len(), 30);
}

/// Lists its partitions after so long.
#[derive(Debug)]
struct SlowToList(MemorySource, Duration);

#[async_trait]
impl Source for SlowToList {
    fn kind(&self) -> &'static str {
        "slow to list"
    }
    fn fingerprint(&self) -> String {
        self.0.fingerprint()
    }
    fn arrival_order(&self) -> ArrivalOrder {
        self.0.arrival_order()
    }
    async fn partitions(&self) -> Result<Vec<Partition>, Error> {
        tokio::time::sleep(self.1).await;
        self.0.partitions().await
    }
    async fn read(&self, of: &Partition, start: &Start, query: &Query, limits: PageLimits) -> Result<Page, Error> {
        self.0.read(of, start, query, limits).await
    }
}

/// What takes long before the first record is read must not cost the lease, or a second run begins beside this one.
#[tokio::test(start_paused = true)]
async fn p6_the_lease_is_kept_from_the_moment_it_is_taken() {
    let (store, exporter) = (MemoryOffsets::new(), told(Does::Accept));
    let source = SlowToList(records(30), Duration::from_secs(100));
    let first = shipper(source, &store, &exporter).build().unwrap();
    let second = shipper(records(30), &store, &exporter).build().unwrap();
    let late = async {
        tokio::time::sleep(Duration::from_secs(90)).await;
        second.run_once().await.unwrap_err()
    };
    let (report, busy) = tokio::join!(first.run_once(), late);
    assert_eq!(busy.kind(), ErrorKind::Busy, "{busy}");
    report.unwrap().require_complete().unwrap();
}

/// What a run with an end has not shipped, the next one does, in whatever order it lies there.
#[tokio::test(start_paused = true)]
async fn p1_what_lies_behind_the_end_of_a_run_waits_for_the_next() {
    let (store, exporter, source) = (MemoryOffsets::new(), told(Does::Accept), MemorySource::new());
    for second in [10, 20, 40, 25, 50] {
        source.push("logs", Timestamp::from_secs(second), |_| {});
    }
    let until = |second| shipper(source.clone(), &store, &exporter).lookback(None).until(Timestamp::from_secs(second));
    for (second, accepted) in [(30, 2), (30, 0), (45, 2), (60, 1)] {
        let report = until(second).build().unwrap().run_once().await.unwrap().require_complete().unwrap();
        assert_eq!(report.lanes[0].accepted, accepted, "until {second}");
    }
    assert_eq!(exporter.stored.lock().unwrap().len(), 5);
}

/// Old files are cleaned up; that is no reason to stop.
#[tokio::test]
async fn a_file_that_is_removed_after_it_was_shipped_stops_no_lane() {
    use futures::StreamExt;
    let dir = tempfile::tempdir().unwrap();
    let config = JsonlConfig { paths: vec![dir.path().into()], fields: JsonlFields::default() };
    let (store, exporter) = (MemoryOffsets::new(), told(Does::Accept));
    let shipper = shipper(JsonlSource::new(config).unwrap(), &store, &exporter);
    let shipper = shipper.lookback(None).poll_interval(Duration::from_millis(5)).build().unwrap();
    let mut progress = shipper.progress();
    let stop = CancellationToken::new();
    let (running, stopped) = (shipper.clone(), stop.clone());
    let run = tokio::spawn(async move { running.run(stopped).await });
    for name in ["a.jsonl", "b.jsonl", "c.jsonl"] {
        std::fs::write(dir.path().join(name), b"{\"msg\":\"1\"}\n").unwrap();
        loop {
            match progress.next().await.unwrap() {
                Progress::Committed { .. } => break,
                Progress::Stopped { .. } => panic!("{}", run.await.unwrap().unwrap()),
                _ => {}
            }
        }
        std::fs::remove_file(dir.path().join(name)).unwrap();
    }
    stop.cancel();
    let report = run.await.unwrap().unwrap();
    assert_eq!(report.lanes[0].accepted, 3);
    assert!(!matches!(report.lanes[0].status, LaneStatus::Stopped(_)), "{report}");
}

/// Refuses everything; as a dead letter, is away once, during which the run is told to stop.
#[derive(Clone, Debug)]
struct Letters {
    stop: CancellationToken,
    taken: Arc<AtomicU32>,
}

#[async_trait]
impl Exporter for Letters {
    fn kind(&self) -> &'static str {
        "letters"
    }
    async fn export(&self, chunk: &Chunk) -> Result<Outcome, Error> {
        if !self.stop.is_cancelled() {
            self.stop.cancel();
            return Err(Error::new(ErrorKind::Unavailable, "take letters", "away"));
        }
        self.taken.fetch_add(chunk.len() as u32, Ordering::Relaxed);
        Ok(Outcome::all_accepted(chunk.len()))
    }
}

/// A letter belongs to a chunk that is under way, and has the same grace.
#[tokio::test(start_paused = true)]
async fn p9_a_stop_waits_for_the_letters_of_what_is_under_way() {
    let (store, exporter) = (MemoryOffsets::new(), told(Does::RefuseWhole(3)));
    let letters = Letters { stop: CancellationToken::new(), taken: Arc::default() };
    let lane = Lane::new("told", exporter.clone()).chunk(10).dead_letter(letters.clone());
    let shipper = LogShipper::builder(records(10)).offsets(store.clone()).offset_key("key").lane(lane);
    let shipper = shipper.lookback(None).cpu_work(CpuWork::Inline).build().unwrap();
    let report = shipper.run_once_until(letters.stop.clone()).await.unwrap();
    assert_eq!((letters.taken.load(Ordering::Relaxed), report.lanes[0].dead_lettered), (1, 1), "{report}");
}

/// What many lanes want is read once, also where only a part of it can be kept.
#[tokio::test(start_paused = true)]
async fn p2_lanes_that_move_share_one_read() {
    let source = records(60_000);
    let exporters: Vec<Told> = (0..10).map(|_| told(Does::Accept)).collect();
    let mut builder = LogShipper::builder(source).offsets(MemoryOffsets::new()).offset_key("key");
    for (number, exporter) in exporters.iter().enumerate() {
        builder = builder.lane(Lane::new(format!("lane{number}"), exporter.clone()).chunk(1_000 + number));
    }
    let shipper = builder.lookback(None).byte_budget(8_000_000).cpu_work(CpuWork::Inline).build().unwrap();
    let report = shipper.run_once().await.unwrap().require_complete().unwrap();
    assert_eq!(report.source_records, 60_000, "{report}");
}

/// Writes what was committed when the lease is given back, which fails.
#[derive(Debug)]
struct WritesAtTheEnd(MemoryOffsets);

#[async_trait]
impl OffsetStore for WritesAtTheEnd {
    fn kind(&self) -> &'static str {
        "writes at the end"
    }
    async fn acquire(&self, key: &OffsetKey, owner: &str, ttl: Duration) -> Result<Lease, Error> {
        self.0.acquire(key, owner, ttl).await
    }
    async fn renew(&self, lease: &Lease, ttl: Duration) -> Result<(), Error> {
        self.0.renew(lease, ttl).await
    }
    async fn release(&self, _: &Lease) -> Result<(), Error> {
        Err(Error::new(ErrorKind::State, "release lease", "what was committed is lost"))
    }
    async fn load(&self, key: &OffsetKey) -> Result<Offsets, Error> {
        self.0.load(key).await
    }
    async fn commit(&self, lease: &Lease, delta: &OffsetsDelta) -> Result<(), Error> {
        self.0.commit(lease, delta).await
    }
    async fn list(&self) -> Result<Vec<OffsetKey>, Error> {
        self.0.list().await
    }
    async fn reset(&self, key: &OffsetKey, lane: Option<&str>) -> Result<(), Error> {
        self.0.reset(key, lane).await
    }
}

/// A report that says `complete` is believed: nobody looks whether the same is shipped again.
#[tokio::test(start_paused = true)]
async fn p11_a_run_whose_last_offsets_are_lost_is_not_complete() {
    let exporter = told(Does::Accept);
    let lane = Lane::new("told", exporter.clone()).chunk(10);
    let shipper = LogShipper::builder(records(10)).offsets(WritesAtTheEnd(MemoryOffsets::new())).lane(lane);
    let error = shipper.offset_key("key").cpu_work(CpuWork::Inline).build().unwrap().run_once().await.unwrap_err();
    assert!(error.to_string().contains("what was committed is lost"), "{error}");
}
