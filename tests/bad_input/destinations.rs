//! Every kind of destination at once, and what has arrived at each.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::routing::post;
use logship::exporters::console::{Console, ConsoleFormat};
use logship::exporters::elasticsearch::{Elasticsearch, ElasticsearchConfig};
pub(crate) use logship::exporters::encode::Format;
use logship::exporters::file::{FileConfig, FileExporter};
use logship::exporters::http::Http;
use logship::state::memory::MemoryOffsets;
use logship::{
    ArrivalOrder, BuildContext, DeadLetter, Exporter, Lane, LaneReport, LaneStatus, LogRecord, LogShipper, PageEnd,
    PageLimits, Query, Redaction, RetryPolicy, Source, Start, Timestamp, read_fields,
};
use logship_testkit::strict::elasticsearch::StrictElasticsearch;
use serde_json::{Value, json};

pub(crate) const STREAM: &str = "logs-bad-default";

/// A buffer that can be written by one and read by another.
#[derive(Clone, Default)]
pub(crate) struct Shared(pub(crate) Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A server that takes every body, and where it is.
pub(crate) async fn http_server() -> (Shared, String) {
    async fn take(State(seen): State<Shared>, body: Bytes) {
        seen.0.lock().unwrap().extend_from_slice(&body);
    }
    let seen = Shared::default();
    let limit = axum::extract::DefaultBodyLimit::disable();
    let router = Router::new().route("/", post(take)).layer(limit).with_state(seen.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (seen, url)
}

pub(crate) fn file(dir: &Path, format: Format) -> FileExporter {
    FileExporter::new(FileConfig { dir: dir.into(), format, ..FileConfig::default() })
}

pub(crate) fn elasticsearch(server: &StrictElasticsearch) -> Elasticsearch {
    let config = ElasticsearchConfig::new(vec![server.url().parse().unwrap()], STREAM);
    Elasticsearch::new(config, &BuildContext::default()).unwrap()
}

/// All that stands in a folder's files.
pub(crate) fn folder(dir: &Path) -> String {
    let Ok(files) = std::fs::read_dir(dir) else { return String::new() };
    files.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap()).collect()
}

/// The ids of JSON lines.
pub(crate) fn ids_of_lines(lines: &str) -> BTreeSet<String> {
    let id = |line| serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{error}: {line:.200}"));
    lines.lines().map(|line| id(line)["id"].as_str().unwrap().to_owned()).collect()
}

/// The letters that a folder's files hold, as whoever ships them again would read them.
pub(crate) fn letters(dir: &Path) -> Vec<DeadLetter> {
    let rows = folder(dir);
    let letter = |row: &str| {
        let row: Value = serde_json::from_str(row).unwrap();
        DeadLetter::read_lines(row["bodyValue"].as_str().unwrap().as_bytes()).unwrap().remove(0)
    };
    rows.lines().map(letter).collect()
}

/// All records of a source that are not to wait, read page by page.
pub(crate) async fn read_all(source: &dyn Source) -> Vec<LogRecord> {
    let until = (source.arrival_order() == ArrivalOrder::Bounded).then(Timestamp::now);
    let limits = PageLimits { records_max: 100, bytes_max: 8_000_000, until };
    let mut records = Vec::new();
    for partition in source.partitions().await.unwrap() {
        let mut start = Start::Earliest;
        loop {
            let page = source.read(&partition, &start, &Query::all(), limits).await.unwrap();
            records.extend_from_slice(page.records());
            if let Some(next) = page.next() {
                start = Start::After(next.clone());
            }
            if page.end() == PageEnd::CaughtUp {
                break;
            }
        }
    }
    records
}

/// Ships a source to every kind of destination, each with a dead letter. What must hold at each: a record either
/// arrived or is in the dead letter, where it can be read again; one whose body says `good` arrived; none is in both.
pub(crate) async fn ship_everywhere(source: Arc<dyn Source>, dir: &Path) -> Vec<LaneReport> {
    let records = read_all(&*source).await;
    let all: BTreeSet<String> = records.iter().map(|record| record.id.to_string()).collect();
    assert_eq!(all.len(), records.len(), "ids tell the records apart");
    let is_good = |record: &&LogRecord| record.body.as_str().is_some_and(|body| body.starts_with("good"));
    let good: BTreeSet<String> = records.iter().filter(is_good).map(|record| record.id.to_string()).collect();
    assert!(good.len() >= 3, "there are good records between the bad ones");

    let server = StrictElasticsearch::start().await.unwrap();
    server.refuse_duplicate_keys(true);
    let (over_http, url) = http_server().await;
    let (text, lines) = (Shared::default(), Shared::default());
    let http = json!({"url": url, "compression": "none", "chunk_bytes_max": 20_000_000});
    let http = Http::new(read_fields(serde_json::from_value(http).unwrap()).unwrap(), BuildContext::default()).unwrap();
    let exporters: Vec<(&str, Arc<dyn Exporter>)> = vec![
        ("es", Arc::new(elasticsearch(&server))),
        ("http", Arc::new(http)),
        ("json", Arc::new(file(&dir.join("json"), Format::Json))),
        ("ion", Arc::new(file(&dir.join("ion"), Format::Ion))),
        ("console", Arc::new(Console::over(lines.clone(), ConsoleFormat::Json, false))),
        ("terminal", Arc::new(Console::over(text.clone(), ConsoleFormat::Text, true))),
    ];
    let mut builder = LogShipper::builder_shared(source)
        .offsets(MemoryOffsets::new())
        .lookback(None)
        .transform(Redaction::builtin())
        .overlap(Duration::from_secs(60));
    for (id, exporter) in &exporters {
        let dead = file(&dir.join(format!("dead-{id}")), Format::Json);
        let mut retry = RetryPolicy::default();
        retry.delay_initial = Duration::from_millis(1);
        builder = builder.lane(Lane::shared(*id, Arc::clone(exporter)).retry(retry).dead_letter(dead));
    }
    let report = builder.build().unwrap().run_once().await.unwrap();

    for lane in &report.lanes {
        assert!(matches!(lane.status, LaneStatus::Complete), "{}: {:.2000}", lane.id, format!("{lane:?}"));
        assert!(lane.balances() && lane.read == all.len() as u64, "{}: {:.2000}", lane.id, format!("{lane:?}"));
        let dead = letters(&dir.join(format!("dead-{}", lane.id)));
        assert!(dead.iter().all(|letter| !letter.reason.is_empty()), "every letter says why");
        let dead: BTreeSet<String> = dead.iter().map(|letter| letter.record.id.to_string()).collect();
        assert_eq!(dead.len() as u64, lane.dead_lettered, "{}", lane.id);
        let bytes = |shared: &Shared| String::from_utf8(shared.0.lock().unwrap().clone()).unwrap();
        let arrived = match lane.id.as_str() {
            "es" => server.documents(STREAM).into_keys().collect(),
            "http" => ids_of_lines(&bytes(&over_http)),
            "json" => ids_of_lines(&folder(&dir.join("json"))),
            "ion" => {
                let rows = folder(&dir.join("ion"));
                let id = |row: &str| serde_json::from_str(&row[4..row.find(",timestamp:").unwrap()]).unwrap();
                rows.lines().map(id).collect()
            }
            "console" => ids_of_lines(&bytes(&lines)),
            _ => {
                let text = bytes(&text);
                assert_eq!(text.matches(" good").count(), good.len());
                assert!(!text.contains('\0') && !text.contains('\u{9b}'), "nothing steers the terminal");
                assert_eq!(lane.accepted + lane.dead_lettered, all.len() as u64);
                continue;
            }
        };
        assert_eq!(&arrived | &dead, all, "{}", lane.id);
        assert!(arrived.is_disjoint(&dead), "{}", lane.id);
        assert!(good.is_subset(&arrived), "{}: {:?}", lane.id, &good - &arrived);
    }
    report.lanes
}
