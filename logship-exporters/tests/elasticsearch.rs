//! The exporter against servers that answer as Elasticsearch does.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]
#![cfg(feature = "elasticsearch")]

use std::io::Read;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use logship_core::{
    Advice, BuildContext, Certainty, Chunk, Cursor, Error, ErrorKind, Exporter, Fields, Idempotency, LogRecord, Page,
    PageEnd, Partition, RecordId, Registry, Timestamp, read_fields,
};
use logship_exporters::elasticsearch::{Elasticsearch, ElasticsearchConfig};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// A request as it came in, unpacked.
#[derive(Clone, Debug)]
struct Seen {
    path: String,
    query: String,
    headers: Vec<(String, String)>,
    body: String,
}

impl Seen {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn documents(&self) -> usize {
        self.body.lines().count() / 2
    }
}

struct Server {
    url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

/// A server that answers each request as `answer` says.
async fn serve<R: IntoResponse>(answer: impl Fn(&Seen) -> R + Clone + Send + Sync + 'static) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
    let log = seen.clone();
    let handle = move |request: Request| {
        let (answer, log) = (answer.clone(), log.clone());
        async move {
            let request = unpack(request).await;
            let response: Response = answer(&request).into_response();
            log.lock().unwrap().push(request);
            response
        }
    };
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(handle)).await.unwrap() });
    Server { url, seen }
}

async fn unpack(request: Request) -> Seen {
    let (parts, body) = request.into_parts();
    let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    let text = |value: &axum::http::HeaderValue| value.to_str().unwrap().to_owned();
    let headers: Vec<(String, String)> =
        parts.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
    let mut body = String::new();
    if headers.iter().any(|(name, value)| name == "content-encoding" && value == "gzip") {
        flate2::read::GzDecoder::new(&bytes[..]).read_to_string(&mut body).unwrap();
    } else {
        body.push_str(std::str::from_utf8(&bytes).unwrap());
    }
    let query = parts.uri.query().unwrap_or_default().to_owned();
    Seen { path: parts.uri.path().to_owned(), query, headers, body }
}

/// Every document was stored.
fn created(request: &Seen) -> String {
    let items: Vec<_> = (0..request.documents()).map(|_| json!({"create": {"status": 201}})).collect();
    json!({"took": 1, "errors": false, "items": items}).to_string()
}

/// An exporter with these fields beside, or in place of, a host and an index.
fn exporter(url: &str, more: serde_json::Value) -> Result<Elasticsearch, Error> {
    let mut fields: Fields = serde_json::from_value(json!({"hosts": [url], "index": "logs-shop-default"})).unwrap();
    fields.extend(serde_json::from_value::<Fields>(more).unwrap());
    Elasticsearch::new(read_fields::<ElasticsearchConfig>(fields)?, &BuildContext::default())
}

fn chunk(exporter: &Elasticsearch, records: i64) -> Chunk {
    let partition = Partition::new("logs");
    let record = |number| {
        let id = RecordId::new(partition.clone(), Cursor::number(number));
        let mut record = LogRecord::new(id, Timestamp::from_secs(number));
        record.body = format!("line {number}").into();
        record
    };
    let page = Page::new(partition.clone(), (1..=records).map(record).collect(), PageEnd::More);
    Chunk::of_page(page, exporter.encoding().as_deref()).unwrap()
}

/// What comes of a chunk whose request is answered so.
async fn error_under(status: u16, headers: &'static [(&'static str, &'static str)], body: &'static str) -> Error {
    let answer = move |_: &Seen| {
        let mut response = (StatusCode::from_u16(status).unwrap(), body).into_response();
        for (name, value) in headers {
            response.headers_mut().insert(*name, value.parse().unwrap());
        }
        response
    };
    let server = serve(answer).await;
    let exporter = exporter(&server.url, json!({})).unwrap();
    exporter.export(&chunk(&exporter, 2)).await.unwrap_err()
}

#[tokio::test]
async fn a_chunk_is_one_packed_request_with_everything_asked_for() {
    let server = serve(created).await;
    let more = json!({"pipeline": "geo ip", "require_data_stream": true, "auth": {"bearer": "t0ken"}});
    let exporter = exporter(&server.url, more).unwrap();
    let outcome = exporter.export(&chunk(&exporter, 3)).await.unwrap();
    assert_eq!(outcome.accepted_count(), 3);

    let request = server.seen.lock().unwrap().remove(0);
    assert_eq!(request.path, "/logs-shop-default/_bulk");
    let expected = "filter_path=took%2Cerrors%2Citems.*.status%2Citems.*.error%2Citems.*.failure_store&pipeline=geo+ip&require_data_stream=true";
    assert_eq!(request.query, expected);
    assert_eq!(request.header("content-type"), Some("application/x-ndjson"));
    assert_eq!(request.header("content-encoding"), Some("gzip"));
    assert_eq!(request.header("authorization"), Some("Bearer t0ken"));
    assert!(request.header("user-agent").unwrap().starts_with("logship/"));
    assert!(request.body.starts_with("{\"create\":{\"_id\":\"logs:00000000000000000001\"}}\n{\"@timestamp\":"));
    assert!(request.body.ends_with("}\n"));
    assert_eq!(request.documents(), 3);
}

#[tokio::test]
async fn records_go_to_the_index_of_their_day_and_a_path_stays_a_prefix() {
    let server = serve(created).await;
    let more = json!({"index": "l-%Y.%m.%d", "compression": "none"});
    let exporter = exporter(&format!("{}/behind/a/proxy", server.url), more).unwrap();
    exporter.export(&chunk(&exporter, 1)).await.unwrap();
    let request = server.seen.lock().unwrap().remove(0);
    assert_eq!(request.path, "/behind/a/proxy/_bulk");
    assert_eq!(request.header("content-encoding"), None);
    assert!(request.body.starts_with("{\"create\":{\"_index\":\"l-1970.01.01\",\"_id\":"), "{}", request.body);
}

#[tokio::test]
async fn mixed_outcome_keeps_each_fate() {
    let items = json!({"took": 3, "errors": true, "items": [
        {"create": {"status": 201}},
        {"create": {"status": 409, "error": {"type": "version_conflict_engine_exception", "reason": "exists"}}},
        {"create": {"status": 400, "error": {"type": "document_parsing_exception", "reason": "failed to parse [n]"}}},
        {"create": {"status": 429, "error": {"type": "es_rejected_execution_exception", "reason": "queue full"}}},
        {"create": {"status": 201, "failure_store": "used"}},
    ]});
    let server = serve(move |_: &Seen| items.to_string()).await;
    let exporter = exporter(&server.url, json!({})).unwrap();
    let outcome = exporter.export(&chunk(&exporter, 5)).await.unwrap();
    assert_eq!((outcome.accepted_count(), outcome.diverted_count()), (3, 1));
    assert_eq!(outcome.undelivered().collect::<Vec<_>>(), [3]);
    let rejected: Vec<(usize, String)> = outcome.rejected().map(|(index, why)| (index, why.to_string())).collect();
    assert_eq!(rejected, [(2, "400 document_parsing_exception: failed to parse [n]".to_owned())]);
}

#[tokio::test]
async fn a_refused_request_says_what_to_do() {
    let security = r#"{"error":{"type":"security_exception","reason":"missing authentication"},"status":401}"#;
    let html = "<html>\n<h1>502 Bad Gateway</h1></html>";
    let wait = Advice::After(Some(Duration::from_secs(7)));
    for (status, body, kind, advice, certainty) in [
        (401, security, ErrorKind::Auth, Advice::Never, Certainty::NotDelivered),
        (403, security, ErrorKind::Auth, Advice::Never, Certainty::NotDelivered),
        (404, "", ErrorKind::NotFound, Advice::Never, Certainty::NotDelivered),
        (413, "", ErrorKind::TooLarge, Advice::Split, Certainty::NotDelivered),
        (400, "{}", ErrorKind::Rejected, Advice::Split, Certainty::NotDelivered),
        (429, "", ErrorKind::Throttled, wait, Certainty::NotDelivered),
        (503, "", ErrorKind::Unavailable, wait, Certainty::NotDelivered),
        (502, html, ErrorKind::Unavailable, wait, Certainty::Unknown),
        (504, html, ErrorKind::Unavailable, wait, Certainty::Unknown),
        (501, "", ErrorKind::Rejected, Advice::Never, Certainty::NotDelivered),
    ] {
        let error = error_under(status, &[("retry-after", "7")], body).await;
        assert_eq!((error.kind(), error.advice(), error.certainty()), (kind, advice, certainty), "{error}");
        assert!(error.to_string().contains("127.0.0.1"), "{error}");
        assert!(error.to_string().contains(&format!("status: {status}")), "{error}");
    }
    assert!(error_under(401, &[], security).await.to_string().contains("missing authentication"));
    let read_only = r#"{"error":{"type":"cluster_block_exception","reason":"disk"},"status":403}"#;
    assert!(error_under(403, &[], read_only).await.is_retryable());
    // A login page under 200 is no success.
    let error = error_under(200, &[], "<html>please log in</html>").await;
    assert_eq!((error.kind(), error.certainty()), (ErrorKind::Protocol, Certainty::Unknown));
    assert!(error.to_string().contains("please log in"), "{error}");
}

#[tokio::test]
async fn a_redirect_is_not_taken_for_an_answer() {
    let elsewhere = serve(created).await;
    let target = format!("{}/elsewhere", elsewhere.url);
    let server = serve(move |_: &Seen| (StatusCode::FOUND, [("location", target.clone())], "")).await;
    let exporter = exporter(&server.url, json!({})).unwrap();
    let error = exporter.export(&chunk(&exporter, 1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    assert!(error.to_string().contains(&elsewhere.url), "{error}");
}

#[tokio::test]
async fn refreshes_expired_auth() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key");
    std::fs::write(&file, "b2xk\n").unwrap();
    let answer = |request: &Seen| match request.header("authorization") {
        Some("ApiKey bmV3") => (StatusCode::OK, created(request)),
        _ => (StatusCode::UNAUTHORIZED, String::new()),
    };
    let server = serve(answer).await;
    let rotated = exporter(&server.url, json!({"auth": {"api_key": {"file": file}}})).unwrap();
    let chunk = chunk(&rotated, 1);
    let error = rotated.export(&chunk).await.unwrap_err();
    assert_eq!((error.kind(), error.advice()), (ErrorKind::Auth, Advice::Refresh), "{error}");

    std::fs::write(&file, "bmV3\n").unwrap();
    rotated.refresh().await.unwrap();
    assert_eq!(rotated.export(&chunk).await.unwrap().accepted_count(), 1);

    // A key that stands in the configuration itself stays what it is.
    let fixed = exporter(&server.url, json!({"auth": {"api_key": "b2xk"}})).unwrap();
    assert_eq!(fixed.export(&chunk).await.unwrap_err().advice(), Advice::Never);
    assert_eq!(fixed.refresh().await.unwrap_err().kind(), ErrorKind::Auth);
}

#[tokio::test]
async fn an_unreachable_host_is_named_and_took_nothing() {
    // A port that was free a moment ago and that nobody listens on.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let place = listener.local_addr().unwrap().to_string();
    drop(listener);
    let exporter = exporter(&format!("http://{place}"), json!({})).unwrap();
    let errors = [exporter.export(&chunk(&exporter, 1)).await.unwrap_err(), exporter.check().await.unwrap_err()];
    for error in errors {
        assert_eq!((error.kind(), error.certainty()), (ErrorKind::Unavailable, Certainty::NotDelivered), "{error}");
        assert!(error.is_retryable() && error.to_string().contains(&place), "{error}");
    }
}

/// The connection breaks before the answer, and in the middle of it, after the request was read.
#[tokio::test]
async fn a_truncated_answer_is_unknown() {
    for answer in ["", "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 900\r\n\r\n{\"items\":["] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let exporter = exporter(&url, json!({"compression": "none"})).unwrap();
        let chunk = chunk(&exporter, 2);
        let body = chunk.body().unwrap().bytes();
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(&body) {
                assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0);
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
        };
        let (result, ()) = tokio::join!(exporter.export(&chunk), server);
        let error = result.unwrap_err();
        assert_eq!(error.certainty(), Certainty::Unknown, "{answer:?}: {error}");
        assert!(error.is_retryable(), "{answer:?}: {error}");
    }
}

#[tokio::test]
async fn check_asks_the_cluster_and_whether_we_are_let_in() {
    for (status, body, is_fine) in [
        (200, r#"{"version":{"number":"9.2.0"}}"#, true),
        // May write, and may not look at the cluster.
        (403, r#"{"error":{"type":"security_exception","reason":"no monitor"}}"#, true),
        (401, "", false),
        (403, "<html>blocked</html>", false),
        (503, "", false),
    ] {
        let server = serve(move |_: &Seen| (StatusCode::from_u16(status).unwrap(), body)).await;
        let exporter = exporter(&server.url, json!({})).unwrap();
        match exporter.check().await {
            Ok(()) => assert!(is_fine, "{status}"),
            Err(error) => assert!(!is_fine && error.to_string().contains(&server.url), "{error}"),
        }
        assert_eq!(server.seen.lock().unwrap()[0].path, "/");
    }
}

#[tokio::test]
async fn several_hosts_take_turns() {
    let (one, two) = (serve(created).await, serve(created).await);
    let exporter = exporter(&one.url, json!({"hosts": [one.url, two.url]})).unwrap();
    for _ in 0..4 {
        exporter.export(&chunk(&exporter, 1)).await.unwrap();
    }
    assert_eq!((one.seen.lock().unwrap().len(), two.seen.lock().unwrap().len()), (2, 2));
}

#[tokio::test]
async fn a_program_hands_in_its_own_client() {
    let server = serve(created).await;
    let transport = elasticsearch::http::transport::Transport::single_node(&server.url).unwrap();
    let config = ElasticsearchConfig::new(Vec::new(), "logs");
    let exporter = Elasticsearch::over(transport.clone(), config.clone()).unwrap();
    assert_eq!(exporter.export(&chunk(&exporter, 1)).await.unwrap().accepted_count(), 1);
    let config = ElasticsearchConfig { hosts: vec![server.url.parse().unwrap()], ..config };
    assert!(Elasticsearch::over(transport, config).unwrap_err().to_string().contains("hosts"));
}

/// Nothing in this process installed a TLS provider, and the constructor takes an https address all the same.
#[test]
fn the_constructor_needs_no_process_wide_tls_provider_and_no_runtime() {
    let usual = exporter("https://es.example:9200", json!({})).unwrap();
    assert_eq!(usual.capabilities().idempotency, Idempotency::PerRecord);
    assert!(usual.capabilities().answers_per_record);
    assert_eq!(usual.limits().chunk_bytes_max, Some(10_000_000));
    let plain = exporter("https://es.example:9200", json!({"ids": false, "chunk_bytes_max": 5})).unwrap();
    assert_eq!((plain.capabilities().idempotency, plain.limits().record_bytes_max), (Idempotency::None, Some(5)));
}

#[test]
fn secrets_never_show() {
    let config = |fields| read_fields::<ElasticsearchConfig>(serde_json::from_value(fields).unwrap()).unwrap();
    let auths = [
        json!({"api_key": "hunter2"}),
        json!({"bearer": "hunter2"}),
        json!({"basic": {"username": "u", "password": "hunter2"}}),
    ];
    for auth in auths {
        let exporter = exporter("https://es.example:9200", json!({"auth": auth})).unwrap();
        assert!(!format!("{exporter:?}").contains("hunter2"), "{exporter:?}");
        let config = config(json!({"hosts": ["https://es"], "index": "i", "auth": auth}));
        assert!(!format!("{config:?}").contains("hunter2"), "{config:?}");
    }
    let error = exporter("https://u:hunter2@es.example:9200", json!({})).unwrap_err();
    assert!(!format!("{error:?}").contains("hunter2") && error.to_string().contains("`auth`"), "{error:?}");
    let config = config(json!({"hosts": ["https://u:hunter2@es"], "index": "i"}));
    assert!(!format!("{config:?}").contains("hunter2"));
    // What cannot stand in a header is refused without being shown.
    let error = exporter("https://es.example:9200", json!({"auth": {"api_key": "hunter2\nx"}})).unwrap_err();
    assert!(!format!("{error:?}").contains("hunter2") && error.to_string().contains("auth.api_key"), "{error:?}");
}

#[test]
fn a_wrong_configuration_is_named_before_anything_is_sent() {
    for (more, words) in [
        (json!({"index": "Logs"}), "`Logs` cannot be an index"),
        (json!({"index": "-logs"}), "cannot be an index"),
        (json!({"index": "a/b"}), "cannot be an index"),
        (json!({"index": ""}), "cannot be an index"),
        (json!({"index": ".."}), "cannot be an index"),
        (json!({"index": "logs-%y"}), "`%y`"),
        (json!({"hosts": []}), "either `hosts`"),
        (json!({"cloud_id": "x:eA=="}), "either `hosts`"),
        (json!({"hosts": [], "cloud_id": "nonsense"}), "cloud_id"),
        (json!({"hosts": ["ftp://es"]}), "not an http or https address"),
        (json!({"hosts": ["es:9200"]}), "hosts"),
        (json!({"chunk_bytes_max": 104_857_601}), "104857600"),
        (json!({"chunk_bytes_max": 0}), "chunk_bytes_max"),
        (json!({"ca_file": "/no/such/ca.pem"}), "/no/such/ca.pem"),
        (json!({"auth": {"api_key": {"env": "LOGSHIP_TEST_NOT_SET"}}}), "LOGSHIP_TEST_NOT_SET"),
        (json!({"auth": {"token": "x"}}), "expected one of `none`, `api_key`"),
        (json!({"indx": "x"}), "unknown field `indx`"),
    ] {
        let error = exporter("https://es.example:9200", more.clone()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{more}: {error}");
        assert!(error.to_string().contains(words), "{more}: {error}");
    }
}

#[test]
fn it_is_registered_and_takes_kestras_name_of_the_index() {
    let mut registry = Registry::new();
    logship_exporters::register(&mut registry);
    let fields = json!({"cloud_id": "c:ZXhhbXBsZS5jb20kdXVpZA==", "indexName": "logs"});
    let fields = serde_json::from_value(fields).unwrap();
    let exporter = registry.exporter("elasticsearch", fields, &BuildContext::default()).unwrap();
    assert!(format!("{exporter:?}").contains("https://uuid.example.com:443"), "{exporter:?}");
}
