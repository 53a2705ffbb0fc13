//! How records are written: JSON for everybody, and the rows of log files, in JSON or Ion, with Kestra's names.

#[cfg(any(feature = "loggly", feature = "logzio"))]
mod events;
#[allow(dead_code, reason = "each exporter uses its part")]
pub(crate) mod json;
#[cfg(feature = "http")]
mod records;
#[cfg(feature = "file")]
mod rows;

#[cfg(any(feature = "loggly", feature = "logzio"))]
pub(crate) use self::events::Events;
#[cfg(feature = "http")]
pub(crate) use self::records::Records;
#[cfg(feature = "file")]
pub use self::rows::{Format, Rows};
