//! The exporters of logship, one module a destination, each behind a Cargo feature of its name.

#[cfg(feature = "_http")]
mod delivery;
#[cfg(feature = "http")]
pub mod http;

/// Adds every exporter that is compiled in to a registry, under the name of its feature.
pub fn register(registry: &mut logship_core::Registry) {
    #[cfg(feature = "http")]
    registry
        .add_exporter("http", |fields, context| http::Http::new(logship_core::read_fields(fields)?, context.clone()));
    let _ = registry;
}
