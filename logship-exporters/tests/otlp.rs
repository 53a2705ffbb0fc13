//! What the OTLP exporter makes of a server's answers.

#![cfg(feature = "otlp")]
#![allow(clippy::unwrap_used, reason = "a test says why it fails by its panic")]

use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use logship_core::{
    Advice, BuildContext, Certainty, Chunk, Cursor, Error, ErrorKind, Exporter, LogRecord, Outcome, Page, PageEnd,
    Partition, RecordId, Timestamp, read_fields,
};
use logship_exporters::otlp::Otlp;
use logship_testkit::strict::Fault;
use logship_testkit::strict::otlp::{Refuses, StrictOtlp};
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsPartialSuccess, ExportLogsServiceResponse};
use prost::Message;
use serde_json::json;

const PROTOCOLS: [&str; 3] = ["http_protobuf", "http_json", "grpc"];

fn exporter(url: &str, protocol: &str, more: serde_json::Value) -> Otlp {
    let mut fields = json!({"endpoint": url, "protocol": protocol});
    fields.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let serde_json::Value::Object(fields) = fields else { unreachable!() };
    Otlp::new(read_fields(fields).unwrap(), BuildContext::default()).unwrap()
}

fn chunk(exporter: &Otlp, records: i64) -> Chunk {
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

async fn export_to(url: &str, protocol: &str) -> Result<Outcome, Error> {
    let exporter = exporter(url, protocol, json!({}));
    exporter.export(&chunk(&exporter, 3)).await
}

/// A server, over HTTP/1 and HTTP/2, that answers every request alike.
async fn server<A: IntoResponse + Clone + Send + Sync + 'static>(answer: A) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let handle = async move |_: axum::body::Bytes| answer;
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(handle)).await });
    url
}

#[tokio::test]
async fn the_time_that_a_server_asks_for_is_passed_on() {
    for protocol in PROTOCOLS {
        for (fault, asked) in [
            (Fault::status_after(429, "7"), Some(Duration::from_secs(7))),
            (Fault::status_after(503, "7"), Some(Duration::from_secs(7))),
            (Fault::status(429), None),
            (Fault::status(503), None),
        ] {
            let server = StrictOtlp::start().await.unwrap();
            server.fail_next(1, fault.clone());
            let error = export_to(&server.url(), protocol).await.unwrap_err();
            assert_eq!(error.advice(), Advice::After(asked), "{protocol} {fault:?}: {error}");
            assert!(error.to_string().contains("failed on request"), "{protocol}: {error}");
        }
    }
}

/// <https://opentelemetry.io/docs/specs/otlp/#retryable-response-codes>
#[tokio::test]
async fn only_four_statuses_are_tried_again() {
    for (status, advice, certainty) in [
        (307, Advice::Never, Certainty::NotDelivered),
        (400, Advice::Split, Certainty::NotDelivered),
        (401, Advice::Refresh, Certainty::NotDelivered),
        (403, Advice::Never, Certainty::NotDelivered),
        (404, Advice::Never, Certainty::NotDelivered),
        (408, Advice::Never, Certainty::NotDelivered),
        (413, Advice::Split, Certainty::NotDelivered),
        (425, Advice::Never, Certainty::NotDelivered),
        (429, Advice::After(None), Certainty::NotDelivered),
        (500, Advice::Never, Certainty::Unknown),
        (501, Advice::Never, Certainty::NotDelivered),
        (502, Advice::After(None), Certainty::Unknown),
        (503, Advice::After(None), Certainty::Unknown),
        (504, Advice::After(None), Certainty::Unknown),
        (507, Advice::Never, Certainty::Unknown),
    ] {
        let url = server(StatusCode::from_u16(status).unwrap()).await;
        // Over gRPC such an answer is a proxy's.
        for protocol in PROTOCOLS {
            let error = export_to(&url, protocol).await.unwrap_err();
            assert_eq!((error.advice(), error.certainty()), (advice, certainty), "{protocol} {status}: {error}");
        }
    }
}

#[tokio::test]
async fn an_answer_that_is_no_servers_of_otlp_confirms_nothing() {
    for protocol in PROTOCOLS {
        let url = server("<html>please log in</html>").await;
        let error = export_to(&url, protocol).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Protocol | ErrorKind::Unavailable), "{error}");
        assert_eq!(error.certainty(), Certainty::Unknown, "{error}");
    }
    // A form that was not asked for, and an answer that says nothing.
    for (protocol, answer) in [("http_protobuf", "{}"), ("http_json", ""), ("http_protobuf", "")] {
        let url = server(answer).await;
        assert_eq!(export_to(&url, protocol).await.unwrap().accepted_count(), 3, "{protocol} {answer}");
    }
    let url = server(r#"{"partialSuccess":{"rejectedLogRecords":"3"}}"#).await;
    assert_eq!(export_to(&url, "http_protobuf").await.unwrap().rejected().count(), 3);
}

#[tokio::test]
async fn an_answer_too_long_to_read_confirms_nothing() {
    let server = StrictOtlp::start().await.unwrap();
    server.warn("w".repeat(2_000));
    for protocol in PROTOCOLS {
        let exporter = exporter(&server.url(), protocol, json!({"connection": {"answer_bytes_max": 1_000}}));
        let error = exporter.export(&chunk(&exporter, 1)).await.unwrap_err();
        assert_eq!((error.kind(), error.certainty()), (ErrorKind::Protocol, Certainty::Unknown), "{protocol}");
        assert!(error.to_string().contains("answer_bytes_max"), "{error}");
    }
}

#[tokio::test]
async fn what_a_server_says_of_all_records_is_said_of_each() {
    for protocol in PROTOCOLS {
        let server = StrictOtlp::start().await.unwrap();
        server.refuse("line", Refuses::TheRecord);
        let outcome = export_to(&server.url(), protocol).await.unwrap();
        let reasons: Vec<String> = outcome.rejected().map(|(_, why)| why.to_string()).collect();
        assert_eq!(reasons, vec!["rejected: some records are not wanted"; 3], "{protocol}");
    }
}

#[tokio::test]
async fn a_check_is_let_in_and_brings_no_record() {
    for protocol in PROTOCOLS {
        let server = StrictOtlp::start().await.unwrap();
        server.require_header("authorization", "Bearer t0ken");
        // It is no request with records, which would meet this.
        server.fail_next(1, Fault::status(500));
        let with = |token: &str| {
            let token = format!("Bearer {token}");
            exporter(&server.url(), protocol, json!({"headers": {"Authorization": token}}))
        };
        with("t0ken").check().await.unwrap();
        let error = with("other").check().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Auth, "{protocol}: {error}");
        assert!(!error.to_string().contains("other"), "{error}");
        assert_eq!(server.count(), 0);
    }
    let error = exporter(&server(StatusCode::NOT_FOUND).await, "http_json", json!({})).check().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_key_that_was_changed_is_read_again() {
    for protocol in PROTOCOLS {
        let server = StrictOtlp::start().await.unwrap();
        server.require_header("api-key", "new");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "old\n").unwrap();
        let exporter = exporter(&server.url(), protocol, json!({"headers": {"api-key": {"file": file.path()}}}));
        let error = exporter.export(&chunk(&exporter, 1)).await.unwrap_err();
        assert_eq!((error.kind(), error.advice()), (ErrorKind::Auth, Advice::Refresh));
        assert_eq!(exporter.refresh().await.unwrap_err().kind(), ErrorKind::Auth);
        std::fs::write(file.path(), "new\n").unwrap();
        exporter.refresh().await.unwrap();
        assert_eq!(exporter.export(&chunk(&exporter, 1)).await.unwrap().accepted_count(), 1);
    }
}

#[tokio::test]
async fn a_server_that_repeats_our_credentials_does_not_show_them() {
    for protocol in PROTOCOLS {
        let server = StrictOtlp::start().await.unwrap();
        server.repeat_headers(true);
        let exporter = exporter(&server.url(), protocol, json!({"headers": {"api-key": "a-long-s3cret"}}));
        server.fail_next(1, Fault::status(400));
        let error = exporter.export(&chunk(&exporter, 3)).await.unwrap_err();
        assert!(error.to_string().contains("***") && !format!("{error:?}").contains("s3cret"), "{error}");
    }
}

#[tokio::test]
async fn an_answer_that_repeats_our_credentials_is_read_all_the_same() {
    let partial = ExportLogsPartialSuccess {
        rejected_log_records: 2,
        error_message: "no room for what a-long-s3cret sends".to_owned(),
    };
    let body = ExportLogsServiceResponse { partial_success: Some(partial) }.encode_to_vec();
    let mut framed = vec![0, 0, 0, 0, body.len() as u8];
    framed.extend_from_slice(&body);
    for (protocol, headers, body) in [
        ("http_protobuf", [("content-type", "application/x-protobuf"), ("x", "")], body),
        ("grpc", [("content-type", "application/grpc"), ("grpc-status", "0")], framed),
    ] {
        let url = server((headers, body)).await;
        let exporter = exporter(&url, protocol, json!({"headers": {"api-key": "a-long-s3cret"}}));
        let outcome = exporter.export(&chunk(&exporter, 3)).await.unwrap();
        let reasons: Vec<String> = outcome.rejected().map(|rejection| format!("{rejection:?}")).collect();
        assert_eq!(reasons.len(), 3, "{protocol}: {outcome:?}");
        assert!(reasons[0].contains("no room for what ***"), "{protocol}: {reasons:?}");
        assert!(!reasons.concat().contains("s3cret"), "{protocol}: {reasons:?}");
    }
}

/// Goal: no vendor of a certificate that nobody trusts gets a record. Method: a server without TLS, and an authority
/// that is none.
#[tokio::test]
async fn tls_is_checked_over_grpc_too() {
    let server = StrictOtlp::start().await.unwrap();
    let error = export_to(&server.url().replace("http://", "https://"), "grpc").await.unwrap_err();
    assert_eq!((error.kind(), error.certainty()), (ErrorKind::Unavailable, Certainty::NotDelivered), "{error}");
    let file = tempfile::NamedTempFile::new().unwrap();
    let fields = json!({"endpoint": "https://host", "protocol": "grpc", "connection": {"ca_file": file.path()}});
    let serde_json::Value::Object(fields) = fields else { unreachable!() };
    let error = Otlp::new(read_fields(fields).unwrap(), BuildContext::default()).unwrap_err();
    assert!(error.to_string().contains("field: connection.ca_file"), "{error}");
}
