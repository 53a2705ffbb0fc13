//! What a program logs through `tracing` is shipped, also when the program is killed: whatever a flush has confirmed
//! arrives, each event once, and the spool does not grow.
//!
//! `LOGSHIP_KILLS` makes it longer.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test says why it fails by its panic")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use logship::exporters::file::{FileConfig, FileExporter};
use logship::sources::tracing::{Spool, SpoolConfig, SpoolSource, SpoolSourceConfig};
use logship::state::file::FileOffsets;
use logship::{
    BuildContext, CancellationToken, Chunk, Error, ErrorKind, Exporter, Lane, LogShipper, Outcome, async_trait,
    registry,
};
use logship_testkit::strict::elasticsearch::StrictElasticsearch;
use serde_json::json;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

const INDEX: &str = "logs-app-default";

fn shipper(source: SpoolSource, dir: &Path, elasticsearch: &str) -> LogShipper {
    let fields = serde_json::from_value(json!({"hosts": [elasticsearch], "index": INDEX})).unwrap();
    let exporter = registry().exporter("elasticsearch", fields, &BuildContext::default()).unwrap();
    LogShipper::builder(source)
        .offsets(FileOffsets::new(dir.join("offsets")))
        .lookback(None)
        .delete_shipped(true)
        .lease_ttl(Duration::from_millis(600))
        .poll_interval(Duration::from_millis(20))
        .lane(Lane::shared("es", exporter).chunk(100).concurrency(2))
        .build()
        .unwrap()
}

/// The program that is killed: logs without end, says what a flush has confirmed, and ships all the while.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "is run by the test below, as a process of its own"]
async fn child() {
    let Ok(dir) = std::env::var("LOGSHIP_SPOOL_DIR") else { return };
    let (dir, url) = (Path::new(&dir), std::env::var("LOGSHIP_SPOOL_URL").unwrap());
    let life = std::env::var("LOGSHIP_SPOOL_LIFE").unwrap();
    let spool = Spool::open(SpoolConfig::new(dir.join("spool.db"))).await.unwrap();
    tracing_subscriber::registry().with(spool.layer()).init();
    let shipper = shipper(spool.source(), dir, &url);
    tokio::spawn(async move {
        loop {
            match shipper.run(CancellationToken::new()).await {
                // The one that was killed has the lease for a while; and a machine that is busy elsewhere may not renew one
                // in time that lasts so shortly.
                Err(error) if matches!(error.kind(), ErrorKind::Busy | ErrorKind::Fenced) => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                ended => {
                    println!("\nfailed {ended:?}");
                    std::process::exit(1);
                }
            }
        }
    });
    let (mut rng, mut number) = (fastrand::Rng::new(), 0);
    loop {
        for _ in 0..rng.usize(1..200) {
            number += 1;
            tracing::info!(number, "event {life}-{number}");
        }
        spool.flush().await.unwrap();
        assert_eq!(spool.dropped(), 0);
        println!("\nconfirmed {number}");
        std::io::stdout().flush().unwrap();
        tokio::time::sleep(Duration::from_millis(rng.u64(0..5))).await;
    }
}

fn spawn(dir: &Path, url: &str, life: usize) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--nocapture"])
        .env("LOGSHIP_SPOOL_DIR", dir)
        .env("LOGSHIP_SPOOL_URL", url)
        .env("LOGSHIP_SPOOL_LIFE", life.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Lets the program live for so many confirmed flushes, kills it, and says how many of its events were confirmed.
fn live(mut child: Child, flushes: usize) -> usize {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let (mut last, mut heard) = (0, 0);
    for line in lines {
        assert!(!line.starts_with("failed"), "shipping ended by itself: {line}");
        if let Some(number) = line.strip_prefix("confirmed ") {
            (last, heard) = (number.parse().unwrap(), heard + 1);
        }
        // What it said before it was killed counts, too, and is still read.
        if heard == flushes {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    last
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_p3_what_a_flush_has_confirmed_arrives_once_over_kills() {
    let dir = tempfile::tempdir().unwrap();
    let elasticsearch = StrictElasticsearch::start().await.unwrap();
    let kills: usize = std::env::var("LOGSHIP_KILLS").map_or(8, |text| text.parse().unwrap());
    let mut rng = fastrand::Rng::new();
    let seed = rng.get_seed();
    let (mut confirmed, mut shipped_between) = (Vec::new(), 0);
    for life in 0..kills {
        let (before, flushes) = (elasticsearch.count(INDEX), rng.usize(1..150));
        let child = spawn(dir.path(), &elasticsearch.url(), life);
        confirmed.push(tokio::task::spawn_blocking(move || live(child, flushes)).await.unwrap());
        shipped_between += usize::from(elasticsearch.count(INDEX) > before);
    }
    // What is left is shipped by whoever reads the spool.
    let source = || SpoolSource::open(SpoolSourceConfig { path: dir.path().join("spool.db") }).unwrap();
    let shipper = shipper(source(), dir.path(), &elasticsearch.url());
    let report = loop {
        match shipper.run_once().await {
            Err(error) if error.kind() == ErrorKind::Busy => tokio::time::sleep(Duration::from_millis(10)).await,
            ended => break ended.unwrap(),
        }
    };
    assert!(report.is_complete(), "{report}");
    let documents = elasticsearch.documents(INDEX);
    let mut copies: BTreeMap<&str, usize> = BTreeMap::new();
    for document in documents.values() {
        *copies.entry(document["message"].as_str().unwrap()).or_default() += 1;
    }
    let twice: Vec<_> = copies.iter().filter(|(_, copies)| **copies > 1).collect();
    assert!(twice.is_empty(), "seed {seed}: there twice: {twice:?}");
    for (life, confirmed) in confirmed.iter().enumerate() {
        assert!(*confirmed > 0, "seed {seed}: life {life} confirmed nothing");
        let missing: Vec<usize> =
            (1..=*confirmed).filter(|number| !copies.contains_key(&*format!("event {life}-{number}"))).collect();
        assert!(missing.is_empty(), "seed {seed}: of {confirmed} of life {life} are missing {missing:?}");
    }
    assert!(shipped_between > 0, "seed {seed}: no program shipped anything before it was killed");
    let left = sqlx::SqlitePool::connect(&dir.path().join("spool.db").display().to_string()).await.unwrap();
    let left: i64 = sqlx::query_scalar("select count(*) from logship_spool").fetch_one(&left).await.unwrap();
    assert_eq!(left, 0, "what was shipped is deleted");
}

/// Logs while it ships, as the libraries below an exporter do.
#[derive(Clone, Debug, Default)]
struct Chatty(Arc<Mutex<Vec<String>>>);

#[async_trait]
impl Exporter for Chatty {
    fn kind(&self) -> &'static str {
        "chatty"
    }

    async fn export(&self, chunk: &Chunk) -> Result<Outcome, Error> {
        tracing::error!(target: "their::client", "sending");
        let texts = chunk.records().map(|record| record.body.as_str().unwrap_or_default().to_owned());
        self.0.lock().unwrap().extend(texts);
        Ok(Outcome::all_accepted(chunk.len()))
    }
}

/// Goal: shipping the logs of shipping has no end, and so is not begun, whatever is logged below an exporter. Method: a
/// filter that leaves only errors, as with it spans are gone that are not as bad.
#[tokio::test]
async fn what_is_logged_below_an_exporter_is_not_shipped() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(SpoolConfig::new(dir.path().join("spool.db"))).await.unwrap();
    let filtered =
        tracing_subscriber::registry().with(tracing_subscriber::filter::LevelFilter::ERROR).with(spool.layer());
    let _guard = tracing::subscriber::set_default(filtered);
    let exporter = Chatty::default();
    let archive = FileExporter::new(FileConfig { dir: dir.path().join("archive"), ..FileConfig::default() });
    let shipper = LogShipper::builder(spool.source())
        .offsets(FileOffsets::new(dir.path().join("offsets")))
        .lookback(None)
        .lane(Lane::new("chatty", exporter.clone()))
        .lane(Lane::new("archive", archive))
        .build()
        .unwrap();
    for number in 0..3 {
        tracing::error!("event {number}");
        spool.flush().await.unwrap();
        shipper.run_once().await.unwrap().require_complete().unwrap();
    }
    assert_eq!(*exporter.0.lock().unwrap(), ["event 0", "event 1", "event 2"]);
}
