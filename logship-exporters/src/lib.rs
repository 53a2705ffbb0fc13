//! The exporters of [logship](https://docs.rs/logship), one module a destination, each behind a Cargo feature of its
//! name.
//!
//! A module has a configuration, whose fields are the manual, and an exporter, whose page says what it writes, what a
//! repeat does there, and what the destination's answers mean. [`register`] makes all of them known to configurations by
//! their names. Limits are constants with the vendor's page beside them.
//!
//! The guide has a section for each, with a configuration that works and the usual mistakes: [destinations].
//!
//! [destinations]: https://github.com/logship/logship/blob/main/docs/destinations.md

#[cfg(feature = "azure_blob")]
pub mod azure_blob;
#[cfg(feature = "azure_monitor")]
pub mod azure_monitor;
#[cfg(any(feature = "azure_monitor", feature = "gcp_logging"))]
mod bearer;
#[cfg(any(feature = "elasticsearch", feature = "opensearch", feature = "_fuzzing"))]
#[cfg_attr(
    not(any(feature = "elasticsearch", feature = "opensearch")),
    allow(dead_code, reason = "fuzzing uses a part of it")
)]
mod bulk;
#[cfg(feature = "elasticsearch")]
mod bulk_transport;
#[cfg(any(feature = "file", feature = "_objects"))]
mod chunk_name;
#[cfg(feature = "cloudwatch")]
pub mod cloudwatch;
#[cfg(any(feature = "elasticsearch", feature = "_http"))]
mod conceal;
#[cfg(feature = "console")]
pub mod console;
#[cfg(any(feature = "datadog", feature = "newrelic", feature = "splunk"))]
mod credential;
#[cfg(feature = "datadog")]
pub mod datadog;
#[cfg(any(feature = "elasticsearch", feature = "opensearch", feature = "_fuzzing", feature = "_objects"))]
#[cfg_attr(
    not(any(feature = "elasticsearch", feature = "opensearch", feature = "_objects")),
    allow(dead_code, reason = "fuzzing uses a part of it")
)]
mod dated;
#[cfg(feature = "_http")]
mod delivery;
#[cfg(any(feature = "elasticsearch", feature = "opensearch", feature = "_fuzzing"))]
mod ecs;
#[cfg(feature = "elasticsearch")]
pub mod elasticsearch;
pub mod encode;
#[cfg(feature = "file")]
pub mod file;
#[cfg(feature = "firehose")]
pub mod firehose;
#[allow(dead_code, reason = "not every exporter has long names")]
mod fnv;
#[cfg(feature = "_fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(feature = "gcp_logging")]
pub mod gcp_logging;
#[cfg(feature = "gcs")]
pub mod gcs;
#[cfg(feature = "http")]
pub mod http;
#[cfg(feature = "kinesis")]
pub mod kinesis;
#[cfg(feature = "loggly")]
pub mod loggly;
#[cfg(feature = "logzio")]
pub mod logzio;
#[cfg(feature = "loki")]
pub mod loki;
#[cfg(feature = "newrelic")]
pub mod newrelic;
#[cfg(feature = "_objects")]
pub mod objects;
#[cfg(feature = "opensearch")]
pub mod opensearch;
#[cfg(feature = "otlp")]
pub mod otlp;
#[cfg(feature = "otlp-sdk")]
pub mod otlp_sdk;
#[cfg(any(feature = "firehose", feature = "kinesis"))]
mod put_records;
#[cfg(any(feature = "elasticsearch", feature = "_fuzzing", feature = "_http"))]
mod retry_after;
#[cfg(feature = "_http")]
#[allow(dead_code, reason = "tokens of clouds are kept elsewhere")]
mod rotated;
#[cfg(feature = "s3")]
pub mod s3;
#[cfg(feature = "splunk")]
pub mod splunk;
#[cfg(feature = "sqs")]
pub mod sqs;
#[cfg(any(feature = "file", feature = "_objects"))]
mod written;

use logship_core::Registry;

/// Adds every exporter that is compiled in, under the name of its feature.
pub fn register(registry: &mut Registry) {
    #[cfg(feature = "azure_blob")]
    azure_blob::register(registry);
    #[cfg(feature = "azure_monitor")]
    azure_monitor::register(registry);
    #[cfg(feature = "cloudwatch")]
    cloudwatch::register(registry);
    #[cfg(feature = "console")]
    console::register(registry);
    #[cfg(feature = "datadog")]
    datadog::register(registry);
    #[cfg(feature = "elasticsearch")]
    elasticsearch::register(registry);
    #[cfg(feature = "file")]
    file::register(registry);
    #[cfg(feature = "firehose")]
    firehose::register(registry);
    #[cfg(feature = "gcp_logging")]
    gcp_logging::register(registry);
    #[cfg(feature = "gcs")]
    gcs::register(registry);
    #[cfg(feature = "http")]
    http::register(registry);
    #[cfg(feature = "kinesis")]
    kinesis::register(registry);
    #[cfg(feature = "loggly")]
    loggly::register(registry);
    #[cfg(feature = "logzio")]
    logzio::register(registry);
    #[cfg(feature = "loki")]
    loki::register(registry);
    #[cfg(feature = "newrelic")]
    newrelic::register(registry);
    #[cfg(feature = "opensearch")]
    opensearch::register(registry);
    #[cfg(feature = "otlp")]
    otlp::register(registry);
    #[cfg(feature = "s3")]
    s3::register(registry);
    #[cfg(feature = "splunk")]
    splunk::register(registry);
    #[cfg(feature = "sqs")]
    sqs::register(registry);
    // Without any exporter there is nothing to add to it.
    let _ = registry;
}
