//! Every source keeps the contract of `Source`. The databases are real servers; see
//! [`server`](logship_testkit::conformance::server).

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![allow(dead_code, reason = "each source uses a part")]

#[cfg(feature = "cloudwatch")]
mod cloudwatch;
#[cfg(feature = "jsonl")]
mod jsonl;
#[cfg(feature = "kinesis")]
mod kinesis;
#[cfg(feature = "memory")]
mod memory;
#[cfg(feature = "mysql")]
mod mysql;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "sqlite")]
mod sqlite;
#[cfg(feature = "tracing")]
mod tracing;

#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
use logship_sources::sql::TableMapping;

/// A table of all that a row has.
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
fn mapping() -> TableMapping {
    TableMapping {
        body: Some("m".to_owned()),
        severity: Some("level".to_owned()),
        attributes: vec![("namespace".to_owned(), "namespace".to_owned())],
        ..TableMapping::new("t", "id", "at")
    }
}

/// The name of a severity as programs write it; nothing for none.
fn level(severity: logship_core::Severity) -> Option<String> {
    (severity != logship_core::Severity::UNSPECIFIED).then(|| severity.to_string())
}
