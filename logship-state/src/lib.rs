//! The offset stores of [logship](https://docs.rs/logship), one module a store, each behind a Cargo feature of its name.
//!
//! | name | keeps offsets in | use it |
//! |---|---|---|
//! | `memory` | this process | in tests, and where the host keeps offsets itself |
//! | `file` | one readable file a key | on one machine, on a local disk |
//! | `sqlite` | a SQLite database | beside a SQLite log store |
//! | `postgres` | a PostgreSQL database | where shippers run on several machines |
//! | `s3`, `gcs`, `azure_blob` | one readable object a key | where there is no database, and beside an archive in a bucket |
//! | `mysql` | a MySQL or MariaDB database | where shippers run on several machines |
//!
//! All of them keep the contract of [`OffsetStore`](logship_core::OffsetStore).

#[cfg(feature = "azure_blob")]
pub mod azure_blob;
#[cfg(feature = "file")]
pub mod file;
#[cfg(feature = "gcs")]
pub mod gcs;
#[cfg(feature = "memory")]
pub mod memory;
#[cfg(feature = "mysql")]
pub mod mysql;
#[cfg(feature = "_objects")]
pub mod objects;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
mod rows;
#[cfg(feature = "s3")]
pub mod s3;
#[cfg(feature = "sqlite")]
pub mod sqlite;

use logship_core::{Error, ErrorKind, Lease, OffsetKey, Registry};

/// Adds every offset store that is compiled in.
pub fn register(registry: &mut Registry) {
    #[cfg(feature = "azure_blob")]
    azure_blob::register(registry);
    #[cfg(feature = "file")]
    file::register(registry);
    #[cfg(feature = "gcs")]
    gcs::register(registry);
    #[cfg(feature = "memory")]
    memory::register(registry);
    #[cfg(feature = "mysql")]
    mysql::register(registry);
    #[cfg(feature = "postgres")]
    postgres::register(registry);
    #[cfg(feature = "s3")]
    s3::register(registry);
    #[cfg(feature = "sqlite")]
    sqlite::register(registry);
    // Without any store there is nothing to add to it.
    let _ = registry;
}

/// Somebody else holds the lease of a key.
#[allow(dead_code, reason = "unused when no store is compiled in")]
fn busy(operation: &'static str, key: &OffsetKey, owner: &str) -> Error {
    let message = format!("the offsets of `{key}` are held by {owner}; wait until it is done, or stop it");
    Error::new(ErrorKind::Busy, operation, message)
}

/// The lease is not the newest of its key.
#[allow(dead_code, reason = "unused when no store is compiled in")]
fn fenced(operation: &'static str, lease: &Lease) -> Error {
    let message =
        format!("the lease of the offsets of `{}` is lost: it was given back or somebody newer took it", lease.key);
    Error::new(ErrorKind::Fenced, operation, message).with("epoch", lease.epoch)
}
