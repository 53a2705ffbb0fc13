//! Offsets in Azure Blob Storage. How they are kept: [`ObjectOffsets`].

use std::sync::Arc;

pub use logship_connect::Connection;
pub use logship_connect::azure::EntraCredentials;
use logship_connect::objects::{AzureBlobConfig, AzureContainer};
use logship_core::{BuildContext, Error, Registry, SecretRef, read_fields};
use serde::Deserialize;

use crate::objects::parse_url;
pub use crate::objects::{ObjectOffsets, Write};

/// What a configuration says of offsets in Azure Blob Storage.
///
/// ```
/// use logship_core::{BuildContext, read_fields};
/// use logship_state::azure_blob::ObjectOffsets;
///
/// let fields = serde_json::from_str(
///     r#"{"url": "az://state/logship", "account": "companystate", "account_key": "c2VjcmV0LWtleQ=="}"#,
/// )?;
/// let store = ObjectOffsets::azure_blob(&read_fields(fields)?, &BuildContext::default())?;
/// assert!(!format!("{store:?}").contains("c2VjcmV0"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct AzureBlobOffsetsConfig {
    /// Where the blobs lie: `az://container/prefix`. The container must be there.
    pub url: String,
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
    /// When offsets are written. Default: `each_commit`.
    #[serde(default)]
    pub write: Write,
    /// How connections are made.
    #[serde(default)]
    pub connection: Connection,
}

impl ObjectOffsets {
    /// A store in Azure Blob Storage. Asks nobody yet.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](logship_core::ErrorKind::Config), which names the field.
    pub fn azure_blob(config: &AzureBlobOffsetsConfig, context: &BuildContext) -> Result<Self, Error> {
        let (container, prefix) = parse_url("az", &config.url)?;
        let mut place = AzureBlobConfig::new(container);
        place.account = config.account.clone();
        place.endpoint = config.endpoint.clone();
        place.credentials = config.credentials.clone();
        place.account_key = config.account_key.clone();
        place.sas_token = config.sas_token.clone();
        place.connection_string = config.connection_string.clone();
        place.connection = config.connection.clone();
        let (container, wire) = AzureContainer::new(&place, context)?;
        Ok(ObjectOffsets::new("azure_blob", Arc::new(container), &prefix, config.write)?.with_clock(wire))
    }
}

pub(crate) fn register(registry: &mut Registry) {
    #[cfg(feature = "schema")]
    registry.describe_store::<AzureBlobOffsetsConfig>("azure_blob");
    registry.add_store("azure_blob", |fields, context| ObjectOffsets::azure_blob(&read_fields(fields)?, context));
}
