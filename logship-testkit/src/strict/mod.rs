//! Stand-ins for destinations that enforce what the destination's documents say.
//!
//! A stand-in keeps what it accepted, so that a test can count; logs the requests it saw; and fails on request in the
//! ways a real destination fails (see [`Fault`]).

mod amazon;
pub mod azure_monitor;
pub mod cloudwatch;
pub mod datadog;
pub mod elasticsearch;
mod faults;
pub mod firehose;
pub mod gcp_logging;
pub mod gcs;
pub mod google;
pub mod http;
pub mod kinesis;
pub mod loggly;
pub mod logzio;
pub mod loki;
pub mod newrelic;
pub mod opensearch;
pub mod otlp;
mod server;
pub mod splunk;
mod stand;
mod wire;

pub use faults::{Fault, Items, SeenRequest};
pub use stand::{Call, Destination, Reply, Strict};
