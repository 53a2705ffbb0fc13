//! The stand-ins for Datadog, New Relic and Splunk, seen by a client that knows nothing but HTTP.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{self, Write};

use logship_core::Timestamp;
use logship_testkit::strict::Fault;
use logship_testkit::strict::datadog::StrictDatadog;
use logship_testkit::strict::newrelic::StrictNewRelic;
use logship_testkit::strict::splunk::StrictSplunk;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const JSON: (&str, &str) = ("Content-Type", "application/json");
const CHANNEL: (&str, &str) = ("X-Splunk-Request-Channel", "0aeeac95-ac74-4aa9-b30d-6c4c0ac581ba");
const TOKEN: (&str, &str) = ("Authorization", "Splunk token");

/// Sends one request over a connection of its own, and gives the status and the body. An answer that breaks off is an
/// error.
async fn send(url: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> io::Result<(u16, Value)> {
    let mut stream = TcpStream::connect(url.trim_start_matches("http://")).await?;
    let mut head = format!("POST {path} HTTP/1.1\r\nHost: strict\r\nConnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body).await?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await?;
    let broken = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").ok_or_else(broken)?;
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    if length.is_some_and(|length: usize| length != bytes.len() - end - 4) {
        return Err(broken());
    }
    Ok((head[9..12].parse().unwrap(), serde_json::from_slice(&bytes[end + 4..]).unwrap_or(Value::Null)))
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(text).unwrap();
    packer.finish().unwrap()
}

fn logs(count: usize, message: &str) -> Vec<u8> {
    let log = json!({"message": message, "timestamp": Timestamp::now().as_millis()});
    serde_json::to_vec(&vec![log; count]).unwrap()
}

#[tokio::test]
async fn datadog_takes_what_its_documents_allow_and_nothing_else() {
    let server = StrictDatadog::start().await.unwrap();
    server.rotate_key("key");
    let key = ("DD-API-KEY", "key");
    let gzipped = [JSON, key, ("Content-Encoding", "gzip")];
    for (headers, body, expected) in [
        (&[JSON, key][..], logs(1, "m"), 202),
        (&gzipped[..], gzip(&logs(1_000, "m")), 202),
        (&gzipped[..], gzip(&logs(1_001, "m")), 413),
        (&gzipped[..], gzip(&logs(6, &"x".repeat(900_000))), 413),
        (&gzipped[..], logs(1, "m"), 400),
        (&[JSON, key, ("Content-Encoding", "zstd")][..], logs(1, "m"), 415),
        (&[JSON][..], logs(1, "m"), 401),
        (&[JSON, ("DD-API-KEY", "other")][..], logs(1, "m"), 403),
        (&[key][..], logs(1, "m"), 415),
        (&[JSON, key][..], b"[{\"message\"".to_vec(), 400),
        (&[JSON, key][..], b"7".to_vec(), 400),
    ] {
        let (status, _) = send(&server.url(), "/api/v2/logs", headers, &body).await.unwrap();
        assert_eq!(status, expected, "{headers:?}");
    }
    assert_eq!(server.logs().len(), 1_001);
    assert_eq!(send(&server.url(), "/v2/logs", &[JSON, key], b"[]").await.unwrap().0, 404);
}

/// Goal: what the real one loses behind a success is counted.
#[tokio::test]
async fn datadog_and_new_relic_count_what_they_would_lose() {
    let server = StrictDatadog::start().await.unwrap();
    let old = json!([{"message": "m", "timestamp": 1}, {"ddtags": ["a"], "message": "m"}, {"text": "m"}, [],
        {"message": "x".repeat(1_000_000)}]);
    let headers = [JSON, ("DD-API-KEY", "any")];
    let (status, _) = send(&server.url(), "/api/v2/logs", &headers, old.to_string().as_bytes()).await.unwrap();
    let spoiled = server.spoiled();
    assert_eq!((status, spoiled.too_old, spoiled.cut_off, spoiled.empty), (202, 1, 1, 3));

    let server = StrictNewRelic::start().await.unwrap();
    let many: serde_json::Map<String, Value> = (0..255).map(|n| (format!("n{n}"), json!(1))).collect();
    let body = json!([{"common": {"attributes": {"a": 1}}, "logs": [
        {"message": "m", "timestamp": 1}, {"message": "m", "attributes": many},
        {"message": "m", "attributes": {"list": [1], "eventType": "x"}}, {"message": "x".repeat(128_001)}]}]);
    let headers = [JSON, ("Api-Key", "any")];
    let (status, _) = send(&server.url(), "/log/v1", &headers, body.to_string().as_bytes()).await.unwrap();
    let spoiled = server.spoiled();
    assert_eq!(status, 202);
    let counts = (spoiled.too_old, spoiled.attributes, spoiled.types, spoiled.reserved, spoiled.cut_off);
    assert_eq!(counts, (1, 1, 1, 1, 1));
}

#[tokio::test]
async fn new_relic_takes_what_its_documents_allow_and_nothing_else() {
    let server = StrictNewRelic::start().await.unwrap();
    server.rotate_key("key");
    let key = ("Api-Key", "key");
    let gzipped = [JSON, key, ("Content-Encoding", "gzip")];
    let block = |count: usize| {
        let logs: Value = serde_json::from_slice(&logs(count, &"m".repeat(1_000))).unwrap();
        serde_json::to_vec(&json!([{"common": {"attributes": {"a": 1}}, "logs": logs}])).unwrap()
    };
    for (headers, body, expected) in [
        (&[JSON, key][..], block(1), 202),
        (&gzipped[..], gzip(&block(2_000)), 202),
        (&[JSON, key][..], block(2_000), 413),
        (&[JSON][..], block(1), 403),
        (&[JSON, ("Api-Key", "other")][..], block(1), 403),
        (&[key][..], block(1), 415),
        (&[JSON, key][..], b"[{\"common\":{}}]".to_vec(), 400),
    ] {
        assert_eq!(send(&server.url(), "/log/v1", headers, &body).await.unwrap().0, expected, "{headers:?}");
    }
    server.measure_unpacked(true);
    assert_eq!(send(&server.url(), "/log/v1", &gzipped, &gzip(&block(2_000))).await.unwrap().0, 413);
    assert_eq!((server.logs().len(), &server.logs()[0]["attributes"]), (2_001, &json!({"a": 1})));
}

#[tokio::test]
async fn splunk_says_what_it_refuses_by_its_codes() {
    let server = StrictSplunk::start().await.unwrap();
    server.rotate_token("token");
    server.indexes(&["main"]);
    let event = |fields: &str| format!("{{\"event\":\"m\"{fields}}}");
    for (body, expected) in [
        (event("") + &event(",\"time\":1795163400.123,\"fields\":{\"a\":[1,\"b\"]}"), (200, 0, None)),
        (String::new(), (400, 5, None)),
        ("[{\"event\":\"m\"}]".to_owned(), (400, 6, Some(0))),
        (event("") + "{\"event\":", (400, 6, Some(1))),
        (event("") + &event(",\"time\":\"now\""), (400, 6, Some(1))),
        (event(",\"index\":\"other\""), (400, 7, Some(0))),
        ("{\"time\":1}".to_owned(), (400, 12, Some(0))),
        ("{\"event\":\"\"}".to_owned(), (400, 13, Some(0))),
        (event("") + &event("") + &event(",\"fields\":{\"a\":{}}"), (400, 15, Some(2))),
    ] {
        let (status, said) = send(&server.url(), "/services/collector", &[TOKEN], body.as_bytes()).await.unwrap();
        let place = said["invalid-event-number"].as_u64();
        assert_eq!((status, said["code"].as_u64().unwrap(), place), expected, "{body}");
    }
    // Two, and those before a bad one.
    assert_eq!(server.events().len(), 2 + 1 + 1 + 2);
    for (headers, path, expected) in [
        (&[][..], "/services/collector", (401, 2)),
        (&[("Authorization", "Bearer token")][..], "/services/collector", (401, 3)),
        (&[("Authorization", "Splunk other")][..], "/services/collector", (403, 4)),
        (&[TOKEN][..], "/services/collector?token=token", (400, 16)),
        (&[TOKEN, ("X-Splunk-Request-Channel", "x")][..], "/services/collector", (400, 11)),
        (&[TOKEN][..], "/services/collector/ack", (400, 14)),
    ] {
        let (status, said) = send(&server.url(), path, headers, b"{\"event\":\"m\"}").await.unwrap();
        assert_eq!((status, said["code"].as_u64().unwrap()), expected, "{headers:?}");
    }
}

#[tokio::test]
async fn splunk_acknowledges_once_and_never_what_it_lost() {
    let server = StrictSplunk::start().await.unwrap();
    server.acknowledge_after(1);
    server.lose_received(1);
    let take = async || send(&server.url(), "/services/collector/event", &[TOKEN, CHANNEL], b"{\"event\":\"m\"}").await;
    assert_eq!(take().await.unwrap().1["ackId"], 0);
    assert_eq!(take().await.unwrap().1["ackId"], 1);
    assert_eq!(server.events().len(), 1);
    let ask = async || {
        let path = "/services/collector/ack";
        send(&server.url(), path, &[TOKEN, CHANNEL], b"{\"acks\":[0,1]}").await.unwrap().1["acks"].clone()
    };
    assert_eq!(ask().await, json!({"0": false, "1": false}));
    assert_eq!(ask().await, json!({"0": false, "1": true}));
    assert_eq!(ask().await, json!({"0": false, "1": false}));
    let (_, said) = send(&server.url(), "/services/collector", &[TOKEN], b"{\"event\":\"m\"}").await.unwrap();
    assert_eq!(said["code"], 10);
}

#[tokio::test]
async fn faults_store_what_they_say() {
    let server = StrictSplunk::start().await.unwrap();
    for (fault, status, stored) in [
        (Fault::status(503), Some(503), 0),
        (Fault::ProxyPage(502), Some(502), 0),
        (Fault::ErrorInSuccess, Some(200), 0),
        (Fault::DropUnread, None, 0),
        (Fault::DropRead, None, 0),
        (Fault::LoseAnswer, None, 1),
        (Fault::TruncateAnswer, None, 1),
    ] {
        let before = server.events().len();
        server.fail_next(1, fault.clone());
        let answer = send(&server.url(), "/services/collector", &[TOKEN], b"{\"event\":\"m\"}").await;
        assert_eq!(answer.ok().map(|(status, _)| status), status, "{fault:?}");
        assert_eq!(server.events().len() - before, stored, "{fault:?}");
    }
}
