//! The exporters of [logship](https://docs.rs/logship), one module a destination, each behind a Cargo feature of its
//! name.

#[cfg(feature = "elasticsearch")]
mod bulk;
#[cfg(feature = "elasticsearch")]
mod bulk_transport;
#[cfg(feature = "elasticsearch")]
mod ecs;
#[cfg(feature = "elasticsearch")]
pub mod elasticsearch;

use logship_core::Registry;

/// Adds every exporter that is compiled in.
pub fn register(registry: &mut Registry) {
    #[cfg(feature = "elasticsearch")]
    elasticsearch::register(registry);
    // Without any exporter there is nothing to add to it.
    let _ = registry;
}
