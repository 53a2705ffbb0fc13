//! Offsets in Google Cloud Storage. How they are kept: [`ObjectOffsets`].

use std::sync::Arc;

pub use logship_connect::Connection;
pub use logship_connect::google::GoogleCredentials;
use logship_connect::objects::{GcsBucket, GcsConfig};
use logship_core::{BuildContext, Error, Registry, read_fields};
use serde::Deserialize;

use crate::objects::parse_url;
pub use crate::objects::{ObjectOffsets, Write};

/// What a configuration says of offsets in Google Cloud Storage, which takes about one write of the same object a second
/// (<https://cloud.google.com/storage/quotas#objects>); beyond that it asks to slow down, and the engine does.
///
/// ```
/// use logship_core::{BuildContext, read_fields};
/// use logship_state::gcs::ObjectOffsets;
///
/// let fields = serde_json::from_str(r#"{"url": "gs://company-state/logship", "credentials": "metadata"}"#)?;
/// let store = ObjectOffsets::gcs(&read_fields(fields)?, &BuildContext::default())?;
/// # let _ = store;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct GcsOffsetsConfig {
    /// Where the objects lie: `gs://bucket/prefix`. The bucket must be there.
    pub url: String,
    /// Who we are. Default: `default`, what the machine has to give.
    #[serde(default)]
    pub credentials: GoogleCredentials,
    /// Another address than Google's own, for emulators and private endpoints. Default: none.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// When offsets are written. Default: `each_commit`.
    #[serde(default)]
    pub write: Write,
    /// How connections to the bucket are made.
    #[serde(default)]
    pub connection: Connection,
}

impl ObjectOffsets {
    /// A store in Google Cloud Storage. Asks nobody yet.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](logship_core::ErrorKind::Config), which names the field.
    pub fn gcs(config: &GcsOffsetsConfig, context: &BuildContext) -> Result<Self, Error> {
        let (bucket, prefix) = parse_url("gs", &config.url)?;
        let mut place = GcsConfig::new(bucket);
        place.credentials = config.credentials.clone();
        place.endpoint = config.endpoint.clone();
        place.connection = config.connection.clone();
        let (bucket, wire) = GcsBucket::new(&place, context)?;
        Ok(ObjectOffsets::new("gcs", Arc::new(bucket), &prefix, config.write)?.with_clock(wire))
    }
}

pub(crate) fn register(registry: &mut Registry) {
    #[cfg(feature = "schema")]
    registry.describe_store::<GcsOffsetsConfig>("gcs");
    registry.add_store("gcs", |fields, context| ObjectOffsets::gcs(&read_fields(fields)?, context));
}
