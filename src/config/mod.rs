//! A shipper as configuration: any format that serde reads, and files.

#[cfg(feature = "config")]
mod duration;
#[cfg(feature = "config")]
mod file;
#[cfg(feature = "schema")]
mod schema;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use logship_core::{
    BuildContext, Enrichment, Error, Fields, Lane, LaneOptions, LogShipper, Query, Redaction, RedactionConfig,
    Registry, SecretRef,
};
use serde::Deserialize;

#[cfg(feature = "config")]
pub use crate::document::Syntax;
#[cfg(feature = "config")]
pub use duration::{parse_duration, parse_range};
#[cfg(feature = "config")]
pub use file::ConfigFile;
#[cfg(feature = "schema")]
pub use schema::schema;

/// A shipper as configuration.
///
/// The `source`, the `offsets` and each of the `exporters` name what they are with `type`; their other fields are
/// those of that type. An exporter also has an `id`, and the fields of its lane ([`LaneOptions`]) under `lane`.
///
/// ```
/// use logship::{BuildContext, config::ShipperConfig, registry};
///
/// let config: ShipperConfig = serde_json::from_str(
///     r#"{
///         "source": {"type": "sqlite", "path": "logs.db"},
///         "offsets": {"type": "file", "dir": "offsets"},
///         "offset_key": "LogShipper-state",
///         "query": {"severity_min": "INFO"},
///         "exporters": [
///             {"id": "search", "type": "elasticsearch", "hosts": ["https://es:9200"], "index": "logs",
///              "auth": {"api_key": {"env": "ES_API_KEY"}}, "lane": {"chunk": 5000}}
///         ]
///     }"#,
/// )?;
/// // The secret is looked up when the shipper is built; here it is missing, and the error says so.
/// let error = config.build(&registry(), &BuildContext::default()).unwrap_err();
/// # let _ = error;
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ShipperConfig {
    /// Where records are read.
    #[cfg_attr(feature = "schema", schemars(schema_with = "schema::source"))]
    pub source: Typed,
    /// Where offsets are kept.
    #[cfg_attr(feature = "schema", schemars(schema_with = "schema::offsets"))]
    pub offsets: Typed,
    /// The name under which offsets are kept. Default `LogShipper-state`.
    #[serde(default = "default_offset_key")]
    pub offset_key: String,
    /// Which records are shipped. Default all.
    #[serde(default)]
    pub query: Query,
    /// How many seconds before now a lane begins that has no offset yet. Default 86 400, a day; 0 for the first record
    /// there is.
    #[serde(default = "default_lookback_secs")]
    pub lookback_secs: u64,
    /// How many seconds a record waits, so that earlier ones can still appear before it. Default 0.
    #[serde(default)]
    pub settle_secs: u64,
    /// How many seconds late a record may appear and be shipped all the same. Default 300.
    #[serde(default = "default_overlap_secs")]
    pub overlap_secs: u64,
    /// How many milliseconds the offset key stays taken after a process has gone without giving it back. Default 30 000.
    #[serde(default = "default_lease_ttl_ms")]
    pub lease_ttl_ms: u64,
    /// How many milliseconds a continuous run waits, when it has everything, before it asks the source again. Default
    /// 1000.
    #[serde(default = "default_poll_interval_ms")]
    pub poll_interval_ms: u64,
    /// The most bytes of records and bodies held at a time. Default 64 MiB.
    #[serde(default = "default_byte_budget")]
    pub byte_budget: usize,
    /// Whether records are deleted from the source once every exporter has them. Default false.
    #[serde(default)]
    pub delete: bool,
    /// Which secrets are kept out of everything that leaves. Default: nothing is changed; `{}` for all that is built in.
    #[serde(default)]
    pub redaction: Option<RedactionConfig>,
    /// What is added to every record. Default nothing.
    #[serde(default)]
    pub enrichment: Option<Enrichment>,
    /// Where records go. At least one.
    #[cfg_attr(feature = "schema", schemars(schema_with = "schema::exporters"))]
    pub exporters: Vec<ExporterEntry>,
}

fn default_offset_key() -> String {
    "LogShipper-state".to_owned()
}

fn default_lookback_secs() -> u64 {
    24 * 60 * 60
}

fn default_overlap_secs() -> u64 {
    5 * 60
}

fn default_lease_ttl_ms() -> u64 {
    30_000
}

fn default_poll_interval_ms() -> u64 {
    1_000
}

fn default_byte_budget() -> usize {
    64 * 1024 * 1024
}

/// Something that a [`Registry`] makes.
#[derive(Clone, Deserialize)]
pub struct Typed {
    /// Its name in the registry.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its own fields.
    #[serde(flatten)]
    pub fields: Fields,
}

/// One exporter and its lane.
#[derive(Clone, Deserialize)]
pub struct ExporterEntry {
    /// The lane's id, in offsets and reports.
    pub id: String,
    /// The exporter's name in the registry.
    #[serde(rename = "type")]
    pub kind: String,
    /// How the lane ships.
    #[serde(default)]
    pub lane: LaneOptions,
    /// Where records go that the destination refuses for good: another exporter, with `type` and its own fields.
    #[serde(default)]
    pub dead_letter: Option<Typed>,
    /// The exporter's own fields.
    #[serde(flatten)]
    pub fields: Fields,
}

impl ShipperConfig {
    /// The names of the secrets that it asks a [`SecretProvider`](logship_core::SecretProvider) for, `{"secret": NAME}`.
    pub fn secret_names(&self) -> BTreeSet<String> {
        let letters = self.exporters.iter().filter_map(|entry| entry.dead_letter.as_ref());
        let exporters = self.exporters.iter().map(|entry| &entry.fields);
        let mut names = BTreeSet::new();
        for fields in [&self.source.fields, &self.offsets.fields].into_iter().chain(exporters) {
            fields.values().for_each(|value| collect_secrets(value, &mut names));
        }
        for letter in letters {
            letter.fields.values().for_each(|value| collect_secrets(value, &mut names));
        }
        let hash_key = self.redaction.as_ref().and_then(|redaction| redaction.hash_key.as_ref());
        if let Some(SecretRef::Provider(name)) = hash_key {
            names.insert(name.clone());
        }
        names
    }

    /// Asks for the secrets, where the program's provider has to ask somebody: before [`build`](Self::build), which
    /// waits for nobody.
    ///
    /// # Errors
    /// As [`SecretProvider::fetch`](logship_core::SecretProvider::fetch).
    pub async fn fetch_secrets(&self, context: &BuildContext) -> Result<(), Error> {
        context.secrets().fetch(&self.secret_names()).await
    }

    /// Makes the shipper. Nothing is read or sent.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](logship_core::ErrorKind::Config), naming the field, and the exporter where it is one's.
    pub fn build(self, registry: &Registry, context: &BuildContext) -> Result<LogShipper, Error> {
        let source = registry
            .source(&self.source.kind, self.source.fields, context)
            .map_err(|error| error.with("in", "source"))?;
        let offsets = registry
            .store(&self.offsets.kind, self.offsets.fields, context)
            .map_err(|error| error.with("in", "offsets"))?;
        let lookback = Some(Duration::from_secs(self.lookback_secs)).filter(|lookback| !lookback.is_zero());
        let mut builder = LogShipper::builder_shared(source)
            .offsets_shared(offsets)
            .offset_key(self.offset_key)
            .query(self.query)
            .lookback(lookback)
            .settle(Duration::from_secs(self.settle_secs))
            .overlap(Duration::from_secs(self.overlap_secs))
            .lease_ttl(Duration::from_millis(self.lease_ttl_ms))
            .poll_interval(Duration::from_millis(self.poll_interval_ms))
            .byte_budget(self.byte_budget)
            .secrets(Arc::clone(context.secrets()))
            .delete_shipped(self.delete);
        if let Some(redaction) = self.redaction {
            builder = builder.transform(Redaction::new(redaction, context)?);
        }
        if let Some(enrichment) = self.enrichment {
            builder = builder.transform(enrichment);
        }
        for entry in self.exporters {
            let exporter = registry
                .exporter(&entry.kind, entry.fields, context)
                .map_err(|error| error.with("exporter", &entry.id))?;
            let mut lane = Lane::shared(&entry.id, exporter).options(entry.lane);
            if let Some(Typed { kind, fields }) = entry.dead_letter {
                let exporter = registry
                    .exporter(&kind, fields, context)
                    .map_err(|error| error.with("in", "dead_letter").with("exporter", &entry.id))?;
                lane = lane.dead_letter_shared(exporter);
            }
            builder = builder.lane(lane);
        }
        builder.build()
    }
}

/// Finds `{"secret": NAME}` wherever it stands in a field.
fn collect_secrets(value: &serde_json::Value, names: &mut BTreeSet<String>) {
    match value {
        serde_json::Value::Array(items) => items.iter().for_each(|item| collect_secrets(item, names)),
        serde_json::Value::Object(fields) => match (fields.len(), fields.get("secret")) {
            (1, Some(serde_json::Value::String(name))) => {
                names.insert(name.clone());
            }
            _ => fields.values().for_each(|field| collect_secrets(field, names)),
        },
        _ => {}
    }
}

/// Fields may hold secrets written in clear, so only their names show.
impl std::fmt::Debug for Typed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Typed").field("type", &self.kind).field("fields", &self.fields.keys()).finish()
    }
}

/// Fields may hold secrets written in clear, so only their names show.
impl std::fmt::Debug for ExporterEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExporterEntry")
            .field("id", &self.id)
            .field("type", &self.kind)
            .field("lane", &self.lane)
            .field("dead_letter", &self.dead_letter)
            .field("fields", &self.fields.keys())
            .finish()
    }
}
