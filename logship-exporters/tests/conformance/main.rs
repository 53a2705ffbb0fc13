//! Every exporter keeps the contract of `Exporter`.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[cfg(feature = "console")]
mod console;
#[cfg(feature = "elasticsearch")]
mod elasticsearch;
#[cfg(feature = "file")]
mod file;
#[cfg(feature = "http")]
mod http;
#[cfg(feature = "otlp")]
mod otlp;
#[cfg(all(feature = "otlp", feature = "otlp-sdk"))]
mod otlp_sdk;

/// An address that was free a moment ago and that nobody listens on.
#[cfg(any(feature = "elasticsearch", feature = "http", feature = "otlp"))]
async fn nowhere() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}
