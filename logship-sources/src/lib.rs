//! The sources of [logship](https://docs.rs/logship), one module a source, each behind a Cargo feature of its name.

#[cfg(feature = "memory")]
pub mod memory;

use logship_core::Registry;

/// Adds every source that is compiled in and can be configured, under the name of its feature.
pub fn register(registry: &mut Registry) {
    let _ = registry;
}
