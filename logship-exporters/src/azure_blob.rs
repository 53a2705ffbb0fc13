//! Blobs in Azure Blob Storage.
//!
//! How they are named, and what a repeat does: [`objects`](crate::objects).

use std::sync::Arc;

pub use logship_connect::azure::EntraCredentials;
use logship_connect::objects::AzureContainer;
pub use logship_connect::{Connection, TlsVersion};
use logship_core::{BuildContext, Compression, Error, Registry, SecretRef, read_fields};
use serde::Deserialize;

pub use crate::objects::{Format, ObjectExporter};
use crate::objects::{ObjectOptions, json, max_bytes_per_file, max_lines_per_file, prefix};

/// Where to write, and how.
///
/// ```
/// use logship_core::{BuildContext, read_fields};
/// use logship_exporters::azure_blob::ObjectExporter;
///
/// let fields = serde_json::from_str(
///     r#"{
///         "endpoint": "https://companylogs.blob.core.windows.net",
///         "container": "logs",
///         "credentials": {"client_secret": {
///             "tenant_id": "72f988bf-86f1-41af-91ab-2d7cd011db47",
///             "client_id": "0a1b2c3d-0000-0000-0000-000000000000",
///             "client_secret": "secret-word"
///         }}
///     }"#,
/// )?;
/// let exporter = ObjectExporter::azure_blob(read_fields(fields)?, BuildContext::default())?;
/// assert!(!format!("{exporter:?}").contains("secret-word"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct AzureBlobConfig {
    /// The container. It must be there. Writing takes the role Storage Blob Data Contributor.
    pub container: String,
    /// The storage account. Default: the first name of `endpoint`'s host, or the connection string's.
    #[serde(default)]
    pub account: Option<String>,
    /// The address of the account. Default: `https://<account>.blob.core.windows.net`, or the connection string's.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// Who we are at Entra, where no key is given. Default: `default`, what the environment gives.
    #[serde(default)]
    pub credentials: EntraCredentials,
    /// The account's key. Default: none.
    #[serde(default)]
    pub account_key: Option<SecretRef>,
    /// A shared access signature; it must allow to read, create, write and list. Default: none.
    #[serde(default)]
    pub sas_token: Option<SecretRef>,
    /// A connection string, as the portal shows it. Default: none.
    #[serde(default)]
    pub connection_string: Option<SecretRef>,
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
    /// An access tier, such as `Cool`. Default: the account's own.
    #[serde(default)]
    pub storage_class: Option<String>,
    /// How connections are made.
    #[serde(default)]
    pub connection: Connection,
}

impl AzureBlobConfig {
    /// This container, everything else as by default.
    pub fn new(container: impl Into<String>) -> Self {
        AzureBlobConfig {
            container: container.into(),
            account: None,
            endpoint: None,
            credentials: EntraCredentials::default(),
            account_key: None,
            sas_token: None,
            connection_string: None,
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
    /// Writes to Azure Blob Storage as the configuration says. Asks nobody yet.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](logship_core::ErrorKind::Config), which names the field.
    pub fn azure_blob(config: AzureBlobConfig, context: BuildContext) -> Result<Self, Error> {
        let mut place = logship_connect::objects::AzureBlobConfig::new(config.container);
        place.account = config.account;
        place.endpoint = config.endpoint;
        place.credentials = config.credentials;
        place.account_key = config.account_key;
        place.sas_token = config.sas_token;
        place.connection_string = config.connection_string;
        place.connection = config.connection;
        let (container, _) = AzureContainer::new(&place, &context)?;
        let options = ObjectOptions {
            prefix: config.prefix,
            format: config.format,
            compression: config.compression,
            max_lines_per_file: config.max_lines_per_file,
            max_bytes_per_file: config.max_bytes_per_file,
            storage_class: config.storage_class,
            conditional_writes: true,
        };
        ObjectExporter::new("azure_blob", Arc::new(container), options)
    }
}

pub(crate) fn register(registry: &mut Registry) {
    let build = |fields, context: &BuildContext| ObjectExporter::azure_blob(read_fields(fields)?, context.clone());
    registry.add_exporter("azure_blob", build);
    #[cfg(feature = "schema")]
    registry.describe_exporter::<AzureBlobConfig>("azure_blob");
}
