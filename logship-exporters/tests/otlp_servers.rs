//! The OTLP exporter against servers that others wrote. `scripts/servers.sh` starts them.

#![cfg(feature = "otlp")]
#![allow(clippy::unwrap_used, reason = "a test says why it fails by its panic")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use logship_core::{
    BuildContext, Chunk, Cursor, Exporter, LogRecord, Page, PageEnd, Partition, RecordId, Resource, Scope, Severity,
    Timestamp, Value, read_fields,
};
use logship_exporters::otlp::Otlp;
use logship_testkit::conformance::server;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const RECORDS: usize = 10_000;
const CHUNK: usize = 1_000;

fn record(test: &str, number: usize) -> LogRecord {
    let id = RecordId::new(Partition::new(test), Cursor::number(number as i64));
    let mut record = LogRecord::new(id, Timestamp::from_nanos(1_795_163_400_123_456_789 + number as i64));
    record.observed_timestamp = Some(record.timestamp);
    record.severity = Severity::WARN;
    record.body = format!("{test} says \"hi\"\n\tfor the {number}th time, é").into();
    record.attributes = vec![
        ("attempt".into(), (number as i64).into()),
        ("ratio".into(), 0.25.into()),
        ("tags".into(), Value::Array(vec!["a".into(), true.into(), Value::Bytes(vec![0, 255].into())])),
        ("labels".into(), Value::Map(vec![("team".into(), "pay".into()), ("none".into(), Value::Null)])),
    ];
    let service = format!("service-{}", number / 300);
    record.resource = Arc::new(Resource { attributes: vec![("service.name".into(), service.as_str().into())] });
    record.scope = Some(Arc::new(Scope { name: "logger".into(), version: Some("1".into()), attributes: Vec::new() }));
    record.trace_id = Some([0x4b; 16]);
    record.span_id = Some([7; 8]);
    record
}

/// Ships all records in chunks.
async fn ship(endpoint: &str, protocol: &str, compression: &str, test: &str) {
    let fields = json!({
        "endpoint": endpoint, "protocol": protocol, "compression": compression, "connection": {"system_proxy": false},
    });
    let serde_json::Value::Object(fields) = fields else { unreachable!() };
    let exporter = Otlp::new(read_fields(fields).unwrap(), BuildContext::default()).unwrap();
    exporter.check().await.unwrap();
    for first in (0..RECORDS).step_by(CHUNK) {
        let records = (first..first + CHUNK).map(|number| record(test, number)).collect();
        let page = Page::new(Partition::new(test), records, PageEnd::More);
        let chunk = Chunk::of_page(page, exporter.encoding().as_deref()).unwrap();
        let outcome = exporter.export(&chunk).await.unwrap();
        assert_eq!(outcome.accepted_count(), CHUNK, "{endpoint} {protocol}");
    }
}

/// What is at an address of this machine.
async fn get(url: &str) -> Vec<u8> {
    let (host, path) = url.trim_start_matches("http://").split_once('/').unwrap();
    let mut stream = tokio::net::TcpStream::connect(host).await.unwrap();
    // By the old version the answer ends with the connection.
    let request = format!("GET /{path} HTTP/1.0\r\nHost: {host}\r\nContent-Type: application/json\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let body = answer.windows(4).position(|end| end == b"\r\n\r\n").unwrap() + 4;
    answer.split_off(body)
}

/// Names in camelCase: what the agent decoded itself it gives back in the names of the messages.
fn camel_case(value: serde_json::Value) -> serde_json::Value {
    let renamed = |name: String| {
        let mut words = name.split('_');
        let first = words.next().unwrap_or_default().to_owned();
        words.fold(first, |name, word| name + &word[..1].to_uppercase() + &word[1..])
    };
    match value {
        serde_json::Value::Array(values) => values.into_iter().map(camel_case).collect(),
        serde_json::Value::Object(members) => {
            members.into_iter().map(|(name, value)| (renamed(name), camel_case(value))).collect()
        }
        other => other,
    }
}

/// Goal: every record is there once, whole, over each protocol. Method: Datadog's agent for tests decodes what it
/// takes with OpenTelemetry's own messages for Python, and gives it back.
#[tokio::test]
async fn datadogs_test_agent_gives_back_every_record_once() {
    let Some(http) = server("LOGSHIP_OTLP_DATADOG_HTTP") else { return };
    let Some(grpc) = server("LOGSHIP_OTLP_DATADOG_GRPC") else { return };
    let Some(readback) = server("LOGSHIP_OTLP_DATADOG_READBACK") else { return };
    for (endpoint, protocol, compression) in
        [(&http, "http_protobuf", "gzip"), (&http, "http_json", "none"), (&grpc, "grpc", "gzip")]
    {
        get(&readback.replace("/logs", "/clear")).await;
        let test = format!("{protocol}-{compression}");
        ship(endpoint, protocol, compression, &test).await;
        let requests = camel_case(serde_json::from_slice(&get(&readback).await).unwrap());
        let mut uids = BTreeSet::new();
        let mut records = 0;
        let list = |value: &serde_json::Value| value.as_array().cloned().unwrap_or_default();
        for request in list(&requests) {
            for of_resource in list(&request["resourceLogs"]) {
                assert_eq!(of_resource["scopeLogs"][0]["scope"]["name"], "logger");
                for record in list(&of_resource["scopeLogs"][0]["logRecords"]) {
                    let attribute = |name: &str| {
                        let attributes = list(&record["attributes"]);
                        attributes.into_iter().find(|entry| entry["key"] == name).unwrap()["value"].clone()
                    };
                    let number: usize = attribute("attempt")["intValue"].as_str().unwrap().parse().unwrap();
                    let service = &of_resource["resource"]["attributes"][0]["value"]["stringValue"];
                    assert_eq!(*service, format!("service-{}", number / 300));
                    let body = format!("{test} says \"hi\"\n\tfor the {number}th time, é");
                    assert_eq!(record["body"]["stringValue"], body);
                    assert_eq!(record["timeUnixNano"], (1_795_163_400_123_456_789 + number).to_string());
                    assert_eq!(record["severityText"], "WARN");
                    let tags = json!([{"stringValue": "a"}, {"boolValue": true}, {"bytesValue": "AP8="}]);
                    assert_eq!(attribute("tags")["arrayValue"]["values"], tags);
                    assert_eq!(attribute("labels")["kvlistValue"]["values"][0]["value"]["stringValue"], "pay");
                    uids.insert(attribute("log.record.uid")["stringValue"].as_str().unwrap().to_owned());
                    records += 1;
                }
            }
        }
        assert_eq!((records, uids.len()), (RECORDS, RECORDS), "{test}");
    }
}

/// How many records Rotel says it took since it began.
fn taken_by_rotel(log: &str) -> usize {
    let text = std::fs::read_to_string(log).unwrap();
    // A log in colours.
    let plain: String = text.split('\u{1b}').map(|part| part.split_once('m').map_or(part, |(_, rest)| rest)).collect();
    let counts = plain.split_whitespace().filter_map(|word| word.strip_prefix("logs=")?.parse::<usize>().ok());
    counts.sum()
}

/// Goal: a collector of others takes each record once. Method: what Rotel counts in its log.
#[tokio::test]
async fn rotel_counts_every_record_once() {
    let Some(http) = server("LOGSHIP_OTLP_ROTEL_HTTP") else { return };
    let Some(grpc) = server("LOGSHIP_OTLP_ROTEL_GRPC") else { return };
    let Some(log) = server("LOGSHIP_OTLP_ROTEL_LOG") else { return };
    for (endpoint, protocol, compression) in [
        (&http, "http_protobuf", "none"),
        (&http, "http_protobuf", "gzip"),
        (&http, "http_json", "none"),
        (&http, "http_json", "gzip"),
        (&grpc, "grpc", "none"),
        (&grpc, "grpc", "gzip"),
    ] {
        let before = taken_by_rotel(&log);
        ship(endpoint, protocol, compression, "rotel").await;
        // It counts when it hands on, a moment after it has answered.
        for _ in 0..100 {
            if taken_by_rotel(&log) >= before + RECORDS {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(taken_by_rotel(&log) - before, RECORDS, "{protocol} {compression}");
    }
}
