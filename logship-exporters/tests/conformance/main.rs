//! Every exporter keeps the contract of `Exporter`.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[cfg(feature = "azure_blob")]
mod azure_blob;
#[cfg(feature = "azure_monitor")]
mod azure_monitor;
#[cfg(any(feature = "azure_blob", feature = "gcs", feature = "s3"))]
mod clouds;
#[cfg(feature = "cloudwatch")]
mod cloudwatch;
#[cfg(feature = "console")]
mod console;
#[cfg(feature = "datadog")]
mod datadog;
#[cfg(feature = "elasticsearch")]
mod elasticsearch;
#[cfg(feature = "file")]
mod file;
#[cfg(feature = "firehose")]
mod firehose;
#[cfg(feature = "gcp_logging")]
mod gcp_logging;
#[cfg(feature = "gcs")]
mod gcs;
#[cfg(feature = "http")]
mod http;
#[cfg(feature = "kinesis")]
mod kinesis;
#[cfg(feature = "loggly")]
mod loggly;
#[cfg(feature = "logzio")]
mod logzio;
#[cfg(feature = "loki")]
mod loki;
#[cfg(feature = "newrelic")]
mod newrelic;
#[cfg(all(feature = "azure_blob", feature = "gcs", feature = "s3", feature = "zstd"))]
mod objects;
#[cfg(feature = "opensearch")]
mod opensearch;
#[cfg(feature = "otlp")]
mod otlp;
#[cfg(all(feature = "otlp", feature = "otlp-sdk"))]
mod otlp_sdk;
#[cfg(feature = "s3")]
mod s3;
#[cfg(feature = "splunk")]
mod splunk;
#[cfg(feature = "sqs")]
mod sqs;
#[allow(dead_code, reason = "not every destination answers for whole requests")]
mod stand;

/// An address that was free a moment ago and that nobody listens on.
#[allow(dead_code, reason = "not every destination has an address")]
async fn nowhere() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}
