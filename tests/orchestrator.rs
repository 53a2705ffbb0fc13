//! An orchestrator that embeds logship, as its example shows it: what it says of shipping while it ships, exporters that
//! are exchanged while it runs, and a graceful end.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says why it fails by its panic")]

#[path = "../examples/orchestrator.rs"]
#[allow(dead_code, unreachable_pub, missing_docs)]
mod orchestrator;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use logship::sources::memory::MemorySource;
use logship::state::memory::MemoryOffsets;
use logship::{
    Activity, CancellationToken, Chunk, Error, ErrorKind, Exporter, Lane, LogShipper, Outcome, RetryPolicy, Timestamp,
    async_trait,
};
use logship_testkit::strict::elasticsearch::StrictElasticsearch;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// The status and body of an answer.
async fn ask(address: SocketAddr, method: &str, path: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

async fn get(address: SocketAddr, path: &str) -> Value {
    serde_json::from_str(&ask(address, "GET", path, "").await.1).unwrap()
}

/// Asks for the lanes until this is so.
async fn until(address: SocketAddr, what: &str, is_so: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let mut lanes = Vec::new();
    for _ in 0..600 {
        lanes = get(address, "/shipping").await.as_array().unwrap().clone();
        if is_so(&lanes) {
            return lanes;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{what} did not come to be: {lanes:#?}");
}

struct Running {
    address: SocketAddr,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), orchestrator::Failure>>,
}

impl Running {
    async fn start(dir: &Path, recorder: PrometheusHandle) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        let (dir, stopped) = (dir.to_owned(), stop.clone());
        let task = tokio::spawn(async move { orchestrator::serve(&dir, listener, recorder, stopped).await });
        Running { address, stop, task }
    }

    async fn execute(&self, flow: &str, times: usize) {
        for _ in 0..times {
            assert_eq!(ask(self.address, "POST", &format!("/flows/{flow}/executions"), "").await.0, 202);
        }
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}

const INDEX: &str = "logs-orchestrator";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k24_x9_an_orchestrator_ships_while_it_runs_and_exchanges_exporters() {
    let dir = tempfile::tempdir().unwrap();
    let recorder = PrometheusBuilder::new().install_recorder().unwrap();
    let elasticsearch = StrictElasticsearch::start().await.unwrap();
    let running = Running::start(dir.path(), recorder.clone()).await;
    assert_eq!(ask(running.address, "POST", "/flows/unknown/executions", "").await.0, 404);
    // Three of INFO and above of one flow, two of the other.
    running.execute("nightly-load", 4).await;
    running.execute("invoice-run", 2).await;
    let has = |count: u64| {
        move |lanes: &[Value]| {
            lanes
                .iter()
                .all(|lane| lane["accepted"] == count && lane["activity"] == "caught_up" && lane["lag_secs"] == 0.0)
        }
    };
    until(running.address, "everything in the archive", has(4 * 3 + 2 * 2)).await;
    let executions = get(running.address, "/executions").await;
    let failed = executions.as_array().unwrap().iter().filter(|execution| execution["state"] == "FAILED").count();
    assert_eq!(failed, 2, "{executions}");

    // What is wrong is refused and named, and changes nothing.
    let (status, text) = ask(running.address, "PUT", "/exporters", r#"[{"id": "a", "type": "splnk"}]"#).await;
    assert!(status == 400 && text.contains("no exporter `splnk`"), "{status} {text}");
    let exporters = json!([
        {"id": "archive", "type": "file", "dir": dir.path().join("archive")},
        {"id": "search", "type": "elasticsearch", "hosts": [elasticsearch.url()], "index": INDEX},
    ]);
    let (status, text) = ask(running.address, "PUT", "/exporters", &exporters.to_string()).await;
    assert_eq!(status, 204, "{text}");
    let lanes = until(running.address, "the new lane has everything", |lanes| {
        lanes.len() == 2 && lanes[1]["accepted"] == 16 && lanes.iter().all(|lane| lane["activity"] == "caught_up")
    })
    .await;
    assert_eq!(lanes[0]["accepted"], 0, "the old one has gone on from its offset");

    let (_, text) = ask(running.address, "GET", "/metrics", "").await;
    let accepted = |lane: &str| {
        text.lines().any(|line| {
            line.starts_with("logship_records_accepted_total")
                && line.contains(&format!("lane=\"{lane}\""))
                && line.ends_with(" 16")
        })
    };
    assert!(accepted("archive") && accepted("search"), "{text}");

    // It ends with executions under way, and what they say is shipped all the same.
    running.execute("nightly-load", 3).await;
    running.end().await;
    assert_eq!(elasticsearch.count(INDEX), 16 + 3 * 3);
    assert_eq!(elasticsearch.duplicates(), 0);
}

/// Takes nothing while it is away.
#[derive(Debug, Default)]
struct Away(Arc<AtomicBool>);

#[async_trait]
impl Exporter for Away {
    fn kind(&self) -> &'static str {
        "away"
    }

    async fn export(&self, chunk: &Chunk) -> Result<Outcome, Error> {
        match self.0.load(Ordering::SeqCst) {
            true => Err(Error::new(ErrorKind::Unavailable, "export", "nobody is there")),
            false => Ok(Outcome::all_accepted(chunk.len())),
        }
    }
}

/// Goal: who asks learns what a lane is doing, why, and how far it is behind. Method: a clock that moves by itself when
/// all wait, and a destination that goes and comes.
#[tokio::test(start_paused = true)]
async fn the_state_of_a_lane_says_what_it_is_doing() {
    let (source, away) = (MemorySource::new(), Arc::new(AtomicBool::new(false)));
    let mut retry = RetryPolicy::default();
    retry.attempts_max = 3;
    let shipper = LogShipper::builder(source.clone())
        .offsets(MemoryOffsets::new())
        .lookback(None)
        .lane(Lane::new("one", Away(Arc::clone(&away))).retry(retry))
        .build()
        .unwrap();
    let state = || shipper.states().remove(0);
    let until = async |what: &str, is_so: &dyn Fn(&Activity) -> bool| {
        for _ in 0..10_000 {
            if is_so(&state().activity) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{what}: {:?}", state());
    };
    assert_eq!((state().activity, state().lag, state().kind), (Activity::Idle, None, "away"));
    let (stop, running) = (CancellationToken::new(), shipper.clone());
    let stopped = stop.clone();
    let run = tokio::spawn(async move { running.run(stopped).await });
    source.push("logs", Timestamp::from_secs(1), |record| record.body = "a".into());
    until("it ships", &|activity| *activity == Activity::CaughtUp).await;
    until("and has it", &|_| state().accepted == 1).await;
    assert_eq!((state().left, state().lag), (0, Some(Duration::ZERO)));

    away.store(true, Ordering::SeqCst);
    source.push("logs", Timestamp::from_secs(2), |record| record.body = "b".into());
    until(
        "it tries again",
        &|activity| matches!(activity, Activity::Retrying { error, .. } if error.contains("nobody")),
    )
    .await;
    assert!(state().lag.unwrap() > Duration::from_secs(60), "it is behind since the last it has: {:?}", state());
    until("it rests", &|activity| matches!(activity, Activity::Stopped { rests: Some(_), .. })).await;
    let json = serde_json::to_value(state()).unwrap();
    assert_eq!((&json["activity"], &json["rests_secs"]), (&json!("stopped"), &json!(60.0)), "{json}");

    away.store(false, Ordering::SeqCst);
    until("it has all", &|activity| *activity == Activity::CaughtUp).await;
    stop.cancel();
    run.await.unwrap().unwrap();
    assert_eq!(state().activity, Activity::Idle);
}
