//! What lanes do, as metrics.

#![allow(clippy::unwrap_used, reason = "a test says why it fails by its panic")]

use std::collections::{BTreeMap, BTreeSet};

use logship::sources::memory::MemorySource;
use logship::state::memory::MemoryOffsets;
use logship::{
    Chunk, CpuWork, Error, ErrorKind, Exporter, Lane, LogShipper, OnReject, Outcome, Query, Severity, Timestamp,
    async_trait,
};
use metrics_util::debugging::{DebugValue, DebuggingRecorder};

/// Away at first; then refuses one record of a chunk, and has another already.
#[derive(Debug)]
struct Choosy;

#[async_trait]
impl Exporter for Choosy {
    fn kind(&self) -> &'static str {
        "choosy"
    }
    async fn export(&self, chunk: &Chunk) -> Result<Outcome, Error> {
        if chunk.attempt() == 1 {
            return Err(Error::new(ErrorKind::Unavailable, "choose", "away"));
        }
        let mut outcome = Outcome::builder(chunk.len());
        (0..chunk.len()).for_each(|index| outcome.accepted(index));
        outcome.rejected(0, "400", "no");
        outcome.already_there(1);
        Ok(outcome.build())
    }
}

/// The metrics of a run over 20 records, by name: their labels and value.
fn metrics_of_a_run() -> BTreeMap<String, (BTreeSet<String>, f64)> {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    metrics::with_local_recorder(&recorder, || {
        runtime.block_on(async {
            let source = MemorySource::new();
            for number in 0..20 {
                source.push("logs", Timestamp::now(), |record| {
                    record.severity = if number % 10 == 9 { Severity::DEBUG } else { Severity::INFO };
                });
            }
            let lane = Lane::new("search", Choosy).chunk(6).on_reject(OnReject::Drop);
            let shipper = LogShipper::builder(source)
                .offsets(MemoryOffsets::new())
                .offset_key("key")
                .lane(lane.filter(Query::all().severity_min(Severity::INFO)))
                .cpu_work(CpuWork::Inline)
                .build()
                .unwrap();
            shipper.run_once().await.unwrap().require_complete().unwrap();
        });
    });
    let metrics = snapshotter.snapshot().into_vec().into_iter();
    let value = |value| match value {
        DebugValue::Counter(count) => count as f64,
        DebugValue::Gauge(value) => value.into_inner(),
        DebugValue::Histogram(values) => values.len() as f64,
    };
    metrics
        .map(|(key, _, _, metric)| {
            let key = key.key();
            let labels = key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
            (key.name().to_owned(), (labels, value(metric)))
        })
        .collect()
}

#[test]
fn every_lane_counts_what_it_does() {
    let metrics = metrics_of_a_run();
    let expected = [
        ("logship_records_read_total", 20.0),
        ("logship_records_dropped_total", 2.0),
        ("logship_records_accepted_total", 15.0),
        ("logship_records_already_there_total", 3.0),
        ("logship_records_rejected_total", 3.0),
        ("logship_chunks_delivered_total", 3.0),
        ("logship_attempts_total", 6.0),
        ("logship_retries_total", 3.0),
        ("logship_attempt_seconds", 6.0),
        ("logship_records_left", 0.0),
        ("logship_lag_seconds", 0.0),
    ];
    for (name, value) in expected {
        assert_eq!(metrics[name].1, value, "{name}");
        assert_eq!(
            metrics[name].0,
            ["kind=choosy", "lane=search", "offset_key=key"].map(str::to_owned).into(),
            "{name}"
        );
    }
}

#[test]
fn every_metric_is_in_the_readme_and_no_other() {
    let named: BTreeSet<&str> = include_str!("../README.md")
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| {
            word.starts_with("logship_") && ["_total", "_seconds", "_left"].iter().any(|end| word.ends_with(end))
        })
        .collect();
    let metrics = metrics_of_a_run();
    assert_eq!(named, metrics.keys().map(String::as_str).collect());
}
