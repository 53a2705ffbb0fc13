//! Offsets in Amazon S3. How they are kept: [`ObjectOffsets`].

use std::sync::Arc;

pub use logship_connect::Connection;
pub use logship_connect::aws::{AssumeRole, AwsConfig, AwsCredentials};
use logship_connect::objects::{S3Bucket, S3Config};
use logship_core::{BuildContext, Error, Registry, read_fields};
use serde::Deserialize;

use crate::objects::parse_url;
pub use crate::objects::{ObjectOffsets, Write};

/// What a configuration says of offsets in S3.
///
/// ```
/// use logship_core::{BuildContext, read_fields};
/// use logship_state::s3::ObjectOffsets;
///
/// let fields = serde_json::from_str(
///     r#"{"url": "s3://company-state/logship", "aws": {"region": "eu-west-1"}, "write": "at_end"}"#,
/// )?;
/// let store = ObjectOffsets::s3(&read_fields(fields)?, &BuildContext::default())?;
/// # let _ = store;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct S3OffsetsConfig {
    /// Where the objects lie: `s3://bucket/prefix`. The bucket must be there.
    pub url: String,
    /// Who asks, in which region, at which address. Default: what the AWS command line would use on this machine.
    #[serde(default)]
    pub aws: AwsConfig,
    /// When offsets are written. Default: `each_commit`.
    #[serde(default)]
    pub write: Write,
    /// How connections are made.
    #[serde(default)]
    pub connection: Connection,
}

impl ObjectOffsets {
    /// A store in S3. Asks nobody yet.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](logship_core::ErrorKind::Config), which names the field.
    pub fn s3(config: &S3OffsetsConfig, context: &BuildContext) -> Result<Self, Error> {
        let (bucket, prefix) = parse_url("s3", &config.url)?;
        let mut place = S3Config::new(bucket);
        place.aws = config.aws.clone();
        place.connection = config.connection.clone();
        let (bucket, wire) = S3Bucket::new(&place, context)?;
        Ok(ObjectOffsets::new("s3", Arc::new(bucket), &prefix, config.write)?.with_clock(wire))
    }
}

pub(crate) fn register(registry: &mut Registry) {
    #[cfg(feature = "schema")]
    registry.describe_store::<S3OffsetsConfig>("s3");
    registry.add_store("s3", |fields, context| ObjectOffsets::s3(&read_fields(fields)?, context));
}
