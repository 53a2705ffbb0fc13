//! Keys are replaced while requests are under way with the old ones: no lane stops for it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says why it fails by its panic")]

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use logship::config::ShipperConfig;
use logship::sources::memory::MemorySource;
use logship::state::memory::MemoryOffsets;
use logship::{
    BuildContext, Error, ErrorKind, Lane, LaneReport, LaneStatus, LogShipper, Secret, SecretProvider, Timestamp,
    async_trait, registry,
};
use serde_json::{Value, json};
use tokio::sync::Barrier;

const OLD: &str = "the-old-secret";
const NEW: &str = "the-new-secret";

/// A destination that lets in the new key only. The key is replaced when two requests have come with the old one.
#[derive(Clone)]
struct Door {
    kind: &'static str,
    key: PathBuf,
    old: Arc<Barrier>,
    refused: Arc<AtomicUsize>,
}

/// Whether a request has this secret, in whatever form and place.
fn has(secret: &str, uri: &Uri, headers: &HeaderMap) -> bool {
    let basic = STANDARD.encode(format!("user:{secret}"));
    uri.to_string().contains(secret)
        || headers.values().any(|value| value.to_str().is_ok_and(|text| text.contains(secret) || text.contains(&basic)))
}

async fn answer(State(door): State<Door>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let product = [("x-elastic-product", "Elasticsearch")];
    if !has(NEW, &uri, &headers) {
        assert!(has(OLD, &uri, &headers), "{uri} {headers:?}");
        door.old.wait().await;
        std::fs::write(&door.key, NEW).unwrap();
        door.refused.fetch_add(1, Ordering::SeqCst);
        let (status, words) = match door.kind {
            "datadog" | "newrelic" | "loggly" => (StatusCode::FORBIDDEN, ""),
            "splunk" => (StatusCode::FORBIDDEN, r#"{"text":"Invalid token","code":4}"#),
            _ => (StatusCode::UNAUTHORIZED, ""),
        };
        return (status, product, words).into_response();
    }
    match door.kind {
        "elasticsearch" | "opensearch" => {
            let items = vec![json!({"create": {"status": 201}}); body.split(|byte| *byte == b'\n').count() / 2];
            (product, json!({"took": 1, "errors": false, "items": items}).to_string()).into_response()
        }
        "loki" => StatusCode::NO_CONTENT.into_response(),
        "loggly" => r#"{"response":"ok"}"#.into_response(),
        "splunk" => r#"{"text":"Success","code":0}"#.into_response(),
        "datadog" | "newrelic" => (StatusCode::ACCEPTED, "{}").into_response(),
        _ => StatusCode::OK.into_response(),
    }
}

/// Ships two chunks at once, both of which meet the old key's end.
async fn ship_over_a_replaced_key(kind: &'static str, fields: impl FnOnce(&str, Value) -> Value) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), OLD).unwrap();
    let door = Door {
        kind,
        key: file.path().to_owned(),
        old: Arc::new(Barrier::new(2)),
        refused: Arc::new(AtomicUsize::new(0)),
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().fallback(answer).with_state(door.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });

    let Value::Object(mut fields) = fields(&url, json!({"file": file.path()})) else { unreachable!() };
    fields.insert("compression".to_owned(), "none".into());
    let exporter = registry().exporter(kind, fields, &BuildContext::default()).unwrap();
    let source = MemorySource::new();
    for number in 0..20 {
        source.push("logs", Timestamp::now(), |record| record.body = format!("record {number}").into());
    }
    let lane = Lane::shared("door", exporter).chunk(10).concurrency(2).attempt_timeout(Duration::from_secs(20));
    let shipper = LogShipper::builder(source).offsets(MemoryOffsets::new()).lookback(None).lane(lane).build().unwrap();
    let lane = shipper.run_once().await.unwrap().lanes.remove(0);
    assert!(matches!(lane.status, LaneStatus::Complete), "{kind}: {lane:?}");
    assert_eq!((lane.accepted, door.refused.load(Ordering::SeqCst)), (20, 2), "{kind}: {lane:?}");
}

/// A test for an exporter, with its configuration for an address and a secret.
macro_rules! go_on {
    ($($name:ident: $kind:literal, |$url:ident, $key:ident| $fields:expr;)*) => {$(
        #[tokio::test]
        async fn $name() {
            ship_over_a_replaced_key($kind, |$url, $key| $fields).await;
        }
    )*};
}

go_on! {
    datadog_goes_on_when_two_requests_meet_a_replaced_key: "datadog", |url, key| json!({"url": url, "api_key": key});
    elasticsearch_goes_on_when_two_requests_meet_a_replaced_key: "elasticsearch", |url, key|
        json!({"hosts": [url], "index": "logs", "auth": {"basic": {"username": "user", "password": key}}});
    http_goes_on_when_two_requests_meet_a_replaced_key: "http", |url, key|
        json!({"url": url, "auth": {"bearer": {"token": key}}});
    loggly_goes_on_when_two_requests_meet_a_replaced_key: "loggly", |url, key| json!({"url": url, "token": key});
    logzio_goes_on_when_two_requests_meet_a_replaced_key: "logzio", |url, key| json!({"url": url, "token": key});
    loki_goes_on_when_two_requests_meet_a_replaced_key: "loki", |url, key|
        json!({"url": url, "auth": {"basic": {"username": "user", "password": key}}, "concurrency_max": 2});
    newrelic_goes_on_when_two_requests_meet_a_replaced_key: "newrelic", |url, key|
        json!({"url": url, "license_key": key});
    opensearch_goes_on_when_two_requests_meet_a_replaced_key: "opensearch", |url, key|
        json!({"hosts": [url], "index": "logs", "auth": {"basic": {"username": "user", "password": key}}});
    opensearch_at_aws_goes_on_when_two_requests_meet_a_replaced_key: "opensearch", |url, key| {
        let key = json!({"access_key_id": "AKID", "secret_access_key": "x", "session_token": key});
        json!({"hosts": [url], "index": "logs", "auth": {"aws": {"region": "eu-west-1", "credentials": {"static": key}}}})
    };
    otlp_goes_on_when_two_requests_meet_a_replaced_key: "otlp", |url, key|
        json!({"endpoint": url, "headers": {"api-key": key}});
    splunk_goes_on_when_two_requests_meet_a_replaced_key: "splunk", |url, key| json!({"url": url, "token": key});
}

/// Secrets behind a network: the one that it gave out last, and what asking it anew comes to, time after time. One that
/// is found may come with the failure of another.
#[derive(Debug)]
struct Remote {
    known: Mutex<&'static str>,
    answers: Mutex<VecDeque<(&'static str, Option<ErrorKind>)>>,
}

#[async_trait]
impl SecretProvider for Remote {
    fn secret(&self, _: &str) -> Option<Secret> {
        Some(Secret::new(*self.known.lock().unwrap()))
    }

    async fn renew(&self) -> Result<(), Error> {
        let (known, failed) = self.answers.lock().unwrap().pop_front().unwrap();
        *self.known.lock().unwrap() = known;
        failed.map_or(Ok(()), |kind| Err(Error::new(kind, "ask the vault", "the vault says no")))
    }
}

/// Ships over a destination that takes the new token only, with a vault that answers so.
async fn ship_with(answers: impl IntoIterator<Item = (&'static str, Option<ErrorKind>)>) -> LaneReport {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let answer = |headers: HeaderMap| async move {
        if headers["authorization"] == format!("Bearer {NEW}") { StatusCode::OK } else { StatusCode::UNAUTHORIZED }
    };
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await });
    let remote = Arc::new(Remote { known: Mutex::new(OLD), answers: Mutex::new(answers.into_iter().collect()) });
    let config: ShipperConfig = serde_json::from_value(json!({
        "source": {"type": "memory"}, "offsets": {"type": "memory"}, "lookback_secs": 0,
        "exporters": [{
            "id": "door", "type": "http", "url": url, "auth": {"bearer": {"token": {"secret": "TOKEN"}}},
            "lane": {"retry": {"delay_initial_ms": 1, "delay_max_ms": 2}},
        }],
    }))
    .unwrap();
    let source = MemorySource::new();
    source.push("logs", Timestamp::now(), |record| record.body = "text".into());
    let mut registry = registry();
    registry.add_source("memory", move |_, _| Ok(source.clone()));
    let shipper = config.build(&registry, &BuildContext::new(remote)).unwrap();
    shipper.run_once().await.unwrap().lanes.remove(0)
}

/// Goal: a lane whose secret is behind a network finds the new one; where that may be had later it waits, where it is not to
/// be had it stops with the reason; and what became of another's secret is none of its business.
#[tokio::test]
async fn secrets_behind_a_network_are_asked_for_before_they_are_read_again() {
    let (throttled, gone) = (Some(ErrorKind::Throttled), Some(ErrorKind::NotFound));
    for answers in [vec![(NEW, None)], vec![(OLD, throttled), (NEW, None)], vec![(NEW, gone)]] {
        let lane = ship_with(answers.clone()).await;
        assert!(matches!(lane.status, LaneStatus::Complete) && lane.accepted == 1, "{answers:?}: {lane:?}");
    }
    for (answers, words) in [([(OLD, gone)], "the vault says no"), ([(OLD, None)], "still the ones")] {
        let LaneStatus::Stopped(error) = ship_with(answers).await.status else { panic!("{answers:?}") };
        assert!(error.to_string().contains(words), "{error}");
    }
}
