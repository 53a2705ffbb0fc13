#![cfg_attr(all(feature = "sqlite", feature = "config"), doc = include_str!("../README.md"))]
#![cfg_attr(
    not(all(feature = "sqlite", feature = "config")),
    doc = "An embeddable log shipper; the README says what it does."
)]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod config;
#[cfg(feature = "config")]
mod document;
#[cfg(all(doctest, feature = "full"))]
mod guide;
#[cfg(feature = "kestra")]
pub mod kestra;

/// Exporters, one module a destination.
pub use logship_exporters as exporters;
/// Sources, one module a source.
pub use logship_sources as sources;
/// Offset stores, one module a store.
pub use logship_state as state;

/// Secrets that AWS keeps, in the Parameter Store of Systems Manager (feature `ssm`) and in Secrets Manager (feature
/// `secretsmanager`).
#[cfg(any(feature = "secretsmanager", feature = "ssm"))]
pub mod secrets {
    pub use logship_connect::aws::secrets::AwsSecrets;
    pub use logship_connect::aws::{AssumeRole, AwsConfig, AwsCredentials};
    pub use logship_connect::{Connection, TlsVersion};
}

pub use logship_core::*;

/// Every exporter, source and offset store that is compiled in. A program adds its own with
/// [`Registry::add_exporter`] and its siblings.
pub fn registry() -> Registry {
    let mut registry = Registry::new();
    exporters::register(&mut registry);
    sources::register(&mut registry);
    state::register(&mut registry);
    registry
}
