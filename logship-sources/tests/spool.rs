//! What a program logs is in the spool, as it was said; what does not fit is counted; and nothing that goes wrong reaches
//! the program.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says why it fails by its panic")]
#![cfg(feature = "tracing")]

use std::fmt;

use logship_core::{LogRecord, PageLimits, Query, RecordId, Severity, Source, Start, Value};
use logship_sources::tracing::{Spool, SpoolConfig};
use tempfile::TempDir;
use tracing::Instrument;
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::layer::SubscriberExt;

const ALL: PageLimits = PageLimits { records_max: 10_000, bytes_max: usize::MAX, until: None };

async fn spool(change: impl FnOnce(&mut SpoolConfig)) -> (TempDir, Spool, DefaultGuard) {
    let dir = tempfile::tempdir().unwrap();
    let mut config = SpoolConfig::new(dir.path().join("spool.db"));
    change(&mut config);
    let spool = Spool::open(config).await.unwrap();
    let guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(spool.layer()));
    (dir, spool, guard)
}

async fn records(spool: &Spool) -> Vec<LogRecord> {
    let source = spool.source();
    let partition = source.partitions().await.unwrap().remove(0);
    source.read(&partition, &Start::Earliest, &Query::all(), ALL).await.unwrap().records().to_vec()
}

fn bodies(records: &[LogRecord]) -> Vec<&str> {
    records.iter().map(|record| record.body.as_str().unwrap()).collect()
}

#[tokio::test]
async fn what_was_logged_before_a_flush_is_there_with_all_it_said() {
    let (_dir, spool, _guard) = spool(|_| {}).await;
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let outer = tracing::info_span!(
        "execution",
        flow = "nightly",
        task = "outer",
        trace_id = trace,
        late = tracing::field::Empty
    );
    outer.record("late", 7);
    let inner = tracing::debug_span!(parent: &outer, "task", task = "load");
    async {
        tracing::warn!(target: "app::loader", rows = 3, big = u64::MAX, ratio = f64::NAN, ok = true, "loaded {} rows", 3);
    }
    .instrument(inner)
    .await;
    tracing::error!(trace_id = "not an id", "bare");
    spool.flush().await.unwrap();
    let records = records(&spool).await;
    assert_eq!(bodies(&records), ["loaded 3 rows", "bare"]);
    let record = &records[0];
    assert_eq!((record.severity, record.scope.as_ref().unwrap().name.as_str()), (Severity::WARN, "app::loader"));
    for (name, value) in [
        ("rows", 3.into()),
        ("big", Value::Double(u64::MAX as f64)),
        ("ratio", "NaN".into()),
        ("ok", Value::Bool(true)),
        ("task", "load".into()),
        ("flow", "nightly".into()),
        ("late", 7.into()),
        ("span.name", "task".into()),
    ] {
        assert_eq!(record.attribute(name), Some(&value), "{name}");
    }
    assert_eq!(record.trace_id.unwrap()[..2], [0x0a, 0xf7]);
    assert!(record.attribute("trace_id").is_none() && record.span_id.is_none());
    assert_eq!(records[1].attribute("trace_id"), Some(&"not an id".into()));
    assert!(records[1].trace_id.is_none());
}

#[tokio::test]
async fn what_is_logged_while_shipping_is_left_out() {
    let (_dir, spool, _guard) = spool(|config| config.exclude_targets.push("noise".to_owned())).await;
    for target in ["logship_core::engine", "logship", "hyper::client", "noise", "noise::below"] {
        // A target is a constant of its event.
        match target {
            "logship_core::engine" => tracing::error!(target: "logship_core::engine", "no"),
            "logship" => tracing::error!(target: "logship", "no"),
            "hyper::client" => tracing::error!(target: "hyper::client", "no"),
            "noise" => tracing::error!(target: "noise", "no"),
            _ => tracing::error!(target: "noise::below", "no"),
        }
    }
    let shipping = tracing::error_span!(target: "logship_core::engine", "logship");
    shipping.in_scope(|| tracing::error_span!("request").in_scope(|| tracing::error!(target: "dns", "no")));
    tracing::error!(target: "log", { log.target = "hyper::proto" }, "no");
    tracing::error!(target: "log", { log.target = "their::app" }, "yes, through log");
    tracing::error!(target: "noisemaker", "yes");
    tracing::error!(target: "logshipping_company", "yes");
    spool.flush().await.unwrap();
    let records = records(&spool).await;
    assert_eq!(bodies(&records), ["yes, through log", "yes", "yes"]);
    assert_eq!(records[0].scope.as_ref().unwrap().name.as_str(), "their::app");
}

#[tokio::test]
async fn what_does_not_fit_is_dropped_counted_and_said() {
    let (_dir, spool, _guard) = spool(|config| config.buffer_bytes_max = 10_000).await;
    let long = "x".repeat(3_000);
    // The writer has no turn in between: the test's runtime has one thread, and this does not await.
    for _ in 0..10 {
        tracing::info!("{long}");
    }
    tracing::info!("{}", "x".repeat(20_000));
    assert_eq!(spool.dropped(), 8, "three fit");
    spool.flush().await.unwrap();
    let written = records(&spool).await;
    assert_eq!(written.len(), 4);
    let said = &written[3];
    assert_eq!((said.severity, said.attribute("logship.dropped")), (Severity::WARN, Some(&8.into())));
    tracing::info!("after");
    spool.flush().await.unwrap();
    assert_eq!(records(&spool).await.len(), 5, "there is room again, and what was said is not said again");
}

struct Bad;

impl fmt::Debug for Bad {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("a fault of the program");
    }
}

struct Worse;

impl fmt::Display for Worse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        tracing::info!("logged while logging");
        f.write_str("half")?;
        Err(fmt::Error)
    }
}

#[tokio::test]
async fn a_value_that_cannot_be_written_ends_nobody() {
    let (_dir, spool, _guard) = spool(|_| {}).await;
    let span = tracing::info_span!("span", bad = ?Bad, worse = %Worse);
    span.in_scope(|| tracing::info!(bad = ?Bad, other = 1, "said"));
    span.record("bad", tracing::field::debug(Bad));
    spool.flush().await.unwrap();
    let records = records(&spool).await;
    // What is logged while something is logged `tracing` itself leaves out.
    assert_eq!(bodies(&records), ["said"]);
    assert_eq!(records[0].attribute("bad"), Some(&"<cannot be written>".into()));
    assert_eq!(records[0].attribute("worse"), Some(&"half<cannot be written>".into()));
    assert_eq!(records[0].attribute("other"), Some(&1.into()));
}

#[tokio::test]
async fn a_full_spool_takes_again_what_is_deleted_and_uses_no_id_twice() {
    let (dir, spool, _guard) = spool(|config| config.spool_bytes_max = 100_000).await;
    let mut logged = 0;
    let error = loop {
        (0..20).for_each(|number| tracing::info!("{number} {}", "x".repeat(500)));
        logged += 20;
        assert!(logged < 1_000, "it never fills");
        if let Err(error) = spool.flush().await {
            break error;
        }
    };
    assert!(error.to_string().contains("full") && error.is_retryable(), "{error}");
    let before: Vec<RecordId> = records(&spool).await.into_iter().map(|record| record.id).collect();
    assert_eq!(spool.source().delete(&before).await.unwrap(), before.len() as u64);
    // The writer may be about to fail once more with what it found before.
    while spool.flush().await.is_err() {}
    let after = records(&spool).await;
    assert_eq!((before.len() + after.len(), spool.dropped()), (logged, 0), "all are written, in the end");
    assert!(after.iter().all(|record| before.iter().all(|id| *id < record.id)));
    assert!(std::fs::metadata(dir.path().join("spool.db")).unwrap().len() <= 100_000);
}

#[test]
fn a_runtime_that_is_gone_is_said_and_ends_nobody() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (_dir, spool, _guard) = runtime.block_on(spool(|_| {}));
    drop(runtime);
    tracing::info!("nobody writes this");
    assert_eq!(spool.dropped(), 1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let error = runtime.block_on(spool.flush()).unwrap_err();
    assert!(error.to_string().contains("runtime"), "{error}");
}

#[tokio::test]
async fn two_spools_may_hear_one_program_and_have_ids_of_their_own() {
    let (_dir, one, guard) = spool(|_| {}).await;
    drop(guard);
    let (_other_dir, two, guard) = spool(|_| {}).await;
    drop(guard);
    let both = tracing_subscriber::registry().with(one.layer()).with(two.layer());
    tracing::subscriber::with_default(both, || tracing::info_span!("span", a = 1).in_scope(|| tracing::info!("x")));
    one.flush().await.unwrap();
    two.flush().await.unwrap();
    let (one, two) = (records(&one).await.remove(0), records(&two).await.remove(0));
    assert_eq!((one.attribute("a"), two.attribute("a")), (Some(&1.into()), Some(&1.into())));
    assert_ne!(one.id, two.id);
}
