//! Objects in Google Cloud Storage.
//!
//! How they are named, and what a repeat does: [`objects`](crate::objects).

use std::sync::Arc;

pub use logship_connect::google::GoogleCredentials;
use logship_connect::objects::GcsBucket;
pub use logship_connect::{Connection, TlsVersion};
use logship_core::{BuildContext, Compression, Error, Registry, read_fields};
use serde::Deserialize;

pub use crate::objects::{Format, ObjectExporter};
use crate::objects::{ObjectOptions, json, max_bytes_per_file, max_lines_per_file, prefix};

/// Where to write, and how.
///
/// ```
/// use logship_core::{BuildContext, read_fields};
/// use logship_exporters::gcs::ObjectExporter;
///
/// let fields = serde_json::from_str(
///     r#"{"bucket": "company-logs", "credentials": "metadata", "format": "ion", "prefix": "archive/%Y/%m/%d/logs"}"#,
/// )?;
/// let exporter = ObjectExporter::gcs(read_fields(fields)?, BuildContext::default())?;
/// # let _ = exporter;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct GcsConfig {
    /// The bucket. It must be there. Writing takes the role Storage Object Creator; replacing what a crash left takes
    /// Storage Object User.
    pub bucket: String,
    /// Who we are. Default: `default`, what the machine has to give.
    #[serde(default)]
    pub credentials: GoogleCredentials,
    /// Another address than Google's own, for emulators and private endpoints. Default: none.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// What each key begins with. Slashes make folders; `%Y`, `%m`, `%d` and `%H` stand for the time of the object's
    /// first record, in UTC, as in `archive/%Y/%m/%d/logs`. Default `kestra-log-file`, as in Kestra.
    #[serde(alias = "logFilePrefix", default = "prefix")]
    pub prefix: String,
    /// The form of a record: `json` (lines) or `ion`. Default: `json`.
    #[serde(default = "json")]
    pub format: Format,
    /// How objects are packed: `none`, `gzip` or `zstd`, with a level if you like. Default: `none`.
    #[serde(default)]
    pub compression: Compression,
    /// The most records in an object. Default 100,000.
    #[serde(alias = "maxLinesPerFile", default = "max_lines_per_file")]
    pub max_lines_per_file: usize,
    /// The most bytes in an object before packing. Default 8 MiB.
    #[serde(default = "max_bytes_per_file")]
    pub max_bytes_per_file: usize,
    /// A storage class, such as `NEARLINE`. Default: the bucket's own.
    #[serde(default)]
    pub storage_class: Option<String>,
    /// How connections to the bucket are made.
    #[serde(default)]
    pub connection: Connection,
}

impl GcsConfig {
    /// This bucket, everything else as by default.
    pub fn new(bucket: impl Into<String>) -> Self {
        GcsConfig {
            bucket: bucket.into(),
            credentials: GoogleCredentials::default(),
            endpoint: None,
            prefix: prefix(),
            format: json(),
            compression: Compression::None,
            max_lines_per_file: max_lines_per_file(),
            max_bytes_per_file: max_bytes_per_file(),
            storage_class: None,
            connection: Connection::default(),
        }
    }
}

impl ObjectExporter {
    /// Writes to Google Cloud Storage as the configuration says. Asks nobody yet.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](logship_core::ErrorKind::Config), which names the field.
    pub fn gcs(config: GcsConfig, context: BuildContext) -> Result<Self, Error> {
        let mut place = logship_connect::objects::GcsConfig::new(config.bucket);
        place.credentials = config.credentials;
        place.endpoint = config.endpoint;
        place.connection = config.connection;
        let (bucket, _) = GcsBucket::new(&place, &context)?;
        let options = ObjectOptions {
            prefix: config.prefix,
            format: config.format,
            compression: config.compression,
            max_lines_per_file: config.max_lines_per_file,
            max_bytes_per_file: config.max_bytes_per_file,
            storage_class: config.storage_class,
            conditional_writes: true,
        };
        ObjectExporter::new("gcs", Arc::new(bucket), options)
    }
}

pub(crate) fn register(registry: &mut Registry) {
    registry.add_exporter("gcs", |fields, context| ObjectExporter::gcs(read_fields(fields)?, context.clone()));
    #[cfg(feature = "schema")]
    registry.describe_exporter::<GcsConfig>("gcs");
}
