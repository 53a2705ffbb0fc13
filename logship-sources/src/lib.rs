//! The sources of [logship](https://docs.rs/logship), one module a source, each behind a Cargo feature of its name.
//!
//! A source is a store that can be read again: what has not been delivered is read from it anew. Where rows may appear
//! behind a position that was read, as in tables, its [order of arrival](logship_core::ArrivalOrder) is `Bounded`, and the
//! engine reads the last minutes again to find them. [`register`] makes all of them known to configurations by their
//! names.
//!
//! The guide says what each needs of a table or a file, and how to map one's own: [sources].
//!
//! [sources]: https://github.com/logship/logship/blob/main/docs/sources.md

#[cfg(feature = "_sql")]
pub mod audit;
#[cfg(any(feature = "cloudwatch", feature = "kinesis"))]
mod aws;
#[cfg(feature = "cloudwatch")]
pub mod cloudwatch;
#[cfg(feature = "_fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(any(feature = "jsonl", feature = "_sql"))]
mod in_place;
#[cfg(feature = "jsonl")]
pub mod jsonl;
#[cfg(feature = "kinesis")]
pub mod kinesis;
#[cfg(feature = "memory")]
pub mod memory;
#[cfg(feature = "mysql")]
pub mod mysql;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "_sql")]
#[cfg_attr(
    not(all(feature = "mysql", feature = "postgres", feature = "sqlite")),
    allow(dead_code, reason = "each database uses a part of it")
)]
pub mod sql;
#[cfg(feature = "sqlite")]
pub mod sqlite;
#[cfg(feature = "tracing")]
pub mod tracing;

use logship_core::Registry;

/// Adds every source that is compiled in and can be configured, under the name of its feature.
pub fn register(registry: &mut Registry) {
    #[cfg(feature = "cloudwatch")]
    cloudwatch::register(registry);
    #[cfg(feature = "jsonl")]
    jsonl::register(registry);
    #[cfg(feature = "kinesis")]
    kinesis::register(registry);
    #[cfg(feature = "mysql")]
    mysql::register(registry);
    #[cfg(feature = "postgres")]
    postgres::register(registry);
    #[cfg(feature = "sqlite")]
    sqlite::register(registry);
    #[cfg(feature = "tracing")]
    tracing::register(registry);
    // Without a source that can be configured there is nothing to add to it.
    let _ = registry;
}
