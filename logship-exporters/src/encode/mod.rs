//! How records are written: JSON for everybody, and the rows of log files, in JSON or Ion, with Kestra's names.

#[allow(dead_code, reason = "each exporter uses its part")]
pub(crate) mod array;
#[cfg(feature = "azure_monitor")]
pub(crate) mod azure_monitor;
#[cfg(feature = "datadog")]
pub(crate) mod datadog;
#[cfg(any(feature = "loggly", feature = "logzio"))]
pub(crate) mod events;
#[cfg(feature = "gcp_logging")]
pub(crate) mod gcp_logging;
#[allow(dead_code, reason = "each exporter uses its part")]
pub(crate) mod json;
#[cfg(feature = "newrelic")]
pub(crate) mod newrelic;
#[allow(dead_code, reason = "each exporter uses its part")]
pub(crate) mod object;
#[cfg(any(feature = "firehose", feature = "http", feature = "splunk", feature = "sqs"))]
pub(crate) mod records;
#[cfg(any(feature = "file", feature = "_objects"))]
mod rows;
#[allow(dead_code, reason = "each exporter uses its part")]
pub(crate) mod shape;
#[cfg(feature = "splunk")]
pub(crate) mod splunk;

#[cfg(any(feature = "file", feature = "_objects"))]
pub use self::rows::{Format, Rows};
