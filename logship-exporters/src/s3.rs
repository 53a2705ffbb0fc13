//! Objects in Amazon S3, and in what speaks like it.
//!
//! How they are named, and what a repeat does: [`objects`](crate::objects).

use std::sync::Arc;

pub use logship_connect::aws::{AssumeRole, AwsConfig, AwsCredentials};
use logship_connect::objects::S3Bucket;
pub use logship_connect::{Connection, TlsVersion};
use logship_core::{BuildContext, Compression, Error, Registry, read_fields};
use serde::Deserialize;

pub use crate::objects::{Format, ObjectExporter};
use crate::objects::{ObjectOptions, json, max_bytes_per_file, max_lines_per_file, prefix};

/// Where to write, and how.
///
/// ```
/// use logship_core::{BuildContext, read_fields};
/// use logship_exporters::s3::ObjectExporter;
///
/// let fields = serde_json::from_str(
///     r#"{
///         "bucket": "logs",
///         "aws": {
///             "region": "eu-west-1",
///             "credentials": {"static": {"access_key_id": "AKIDEXAMPLE", "secret_access_key": "secret-key"}}
///         },
///         "prefix": "archive/%Y/%m/%d/logs",
///         "compression": "gzip"
///     }"#,
/// )?;
/// let exporter = ObjectExporter::s3(read_fields(fields)?, BuildContext::default())?;
/// assert!(!format!("{exporter:?}").contains("secret-key"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct S3Config {
    /// The bucket. It must be there. Writing takes `s3:PutObject`; replacing what a crash left takes `s3:GetObject`, and
    /// objects beyond 16 MiB `s3:AbortMultipartUpload`.
    pub bucket: String,
    /// Who asks, in which region, at which address. Default: what the AWS command line would use on this machine.
    #[serde(default)]
    pub aws: AwsConfig,
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
    /// A storage class, such as `STANDARD_IA`. Default: the bucket's own.
    #[serde(default)]
    pub storage_class: Option<String>,
    /// The key of the Key Management Service that objects are encrypted with. Default: the bucket's own way.
    #[serde(default)]
    pub kms_key_id: Option<String>,
    /// Writes on the condition that nobody else did; off for a store that speaks like S3 and refuses `If-None-Match`.
    /// Default: true.
    #[serde(default = "yes")]
    pub conditional_writes: bool,
    /// How connections are made.
    #[serde(default)]
    pub connection: Connection,
}

fn yes() -> bool {
    true
}

impl S3Config {
    /// This bucket, everything else as by default.
    pub fn new(bucket: impl Into<String>) -> Self {
        S3Config {
            bucket: bucket.into(),
            aws: AwsConfig::default(),
            prefix: prefix(),
            format: json(),
            compression: Compression::None,
            max_lines_per_file: max_lines_per_file(),
            max_bytes_per_file: max_bytes_per_file(),
            storage_class: None,
            kms_key_id: None,
            conditional_writes: true,
            connection: Connection::default(),
        }
    }
}

impl ObjectExporter {
    /// Writes to S3 as the configuration says. Asks nobody yet.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](logship_core::ErrorKind::Config), which names the field.
    pub fn s3(config: S3Config, context: BuildContext) -> Result<Self, Error> {
        let mut place = logship_connect::objects::S3Config::new(config.bucket);
        place.aws = config.aws;
        place.kms_key_id = config.kms_key_id;
        place.conditional_writes = config.conditional_writes;
        place.connection = config.connection;
        let (bucket, _) = S3Bucket::new(&place, &context)?;
        let options = ObjectOptions {
            prefix: config.prefix,
            format: config.format,
            compression: config.compression,
            max_lines_per_file: config.max_lines_per_file,
            max_bytes_per_file: config.max_bytes_per_file,
            storage_class: config.storage_class,
            conditional_writes: config.conditional_writes,
        };
        ObjectExporter::new("s3", Arc::new(bucket), options)
    }
}

pub(crate) fn register(registry: &mut Registry) {
    registry.add_exporter("s3", |fields, context| ObjectExporter::s3(read_fields(fields)?, context.clone()));
    #[cfg(feature = "schema")]
    registry.describe_exporter::<S3Config>("s3");
}
