//! Amazon S3, and what speaks like it.

use std::fmt;
use std::sync::Arc;

use logship_core::{BuildContext, Error, async_trait};
use object_store::ObjectStore;
use object_store::aws::{AmazonS3Builder, AwsCredential, S3ConditionalPut};
use object_store::client::CredentialProvider;
use object_store::path::Path;
use tokio::sync::OnceCell;

use super::Bucket;
use super::wire::{Wire, no_retries};
use crate::Connection;
use crate::aws::{Aws, AwsConfig, ProvideCredentials, no_credentials};

/// Which bucket, and who we are.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct S3Config {
    /// The bucket's name.
    pub bucket: String,
    /// Who asks, in which region, at which address.
    pub aws: AwsConfig,
    /// Whether the store honours `If-None-Match` and `If-Match` on writes, as S3 itself does.
    pub conditional_writes: bool,
    /// The key of the Key Management Service that objects are encrypted with. Default: the bucket's own way.
    pub kms_key_id: Option<String>,
    /// How connections are made.
    pub connection: Connection,
}

impl S3Config {
    /// This bucket, everything else as by default.
    pub fn new(bucket: impl Into<String>) -> Self {
        S3Config {
            bucket: bucket.into(),
            aws: AwsConfig::default(),
            conditional_writes: true,
            kms_key_id: None,
            connection: Connection::default(),
        }
    }
}

/// A bucket of S3.
pub struct S3Bucket {
    config: S3Config,
    wire: Wire,
    aws: Aws,
    store: OnceCell<Arc<dyn ObjectStore>>,
}

impl S3Bucket {
    /// Asks nobody yet.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](logship_core::ErrorKind::Config), which names the field.
    pub fn new(config: &S3Config, context: &BuildContext) -> Result<(Self, Wire), Error> {
        check_name(&config.bucket)?;
        let wire = Wire::new("reach S3", &config.connection, context)?;
        let aws = Aws::new(&config.aws, &config.connection, context)?;
        Ok((S3Bucket { config: config.clone(), wire: wire.clone(), aws, store: OnceCell::new() }, wire))
    }

    async fn open(&self) -> Result<Arc<dyn ObjectStore>, Error> {
        let conditions = match self.config.conditional_writes {
            true => S3ConditionalPut::ETagMatch,
            false => S3ConditionalPut::Disabled,
        };
        // With an address of its own the bucket's name stands in the path, which every store understands.
        let region = self.aws.region().await?;
        let endpoint = self.aws.sdk_config().await?.endpoint_url().map(str::to_owned).or_else(|| address_in(region));
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&self.config.bucket)
            .with_region(region)
            .with_virtual_hosted_style_request(endpoint.is_none() && !self.config.bucket.contains('.'))
            .with_conditional_put(conditions)
            .with_retry(no_retries())
            .with_credentials(Arc::new(Keys(self.aws.clone())))
            .with_http_connector(self.wire.clone());
        if let Some(endpoint) = endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        if let Some(key) = &self.config.kms_key_id {
            builder = builder.with_sse_kms_encryption(key);
        }
        let store = builder.build().map_err(|error| Error::config("bucket", error.to_string()))?;
        Ok(Arc::new(store))
    }
}

/// The address of S3 where it is not the one that `object_store` takes for every region's
/// (<https://docs.amazonaws.cn/en_us/aws/latest/userguide/endpoints-Beijing.html>).
fn address_in(region: &str) -> Option<String> {
    region.starts_with("cn-").then(|| format!("https://s3.{region}.amazonaws.com.cn"))
}

/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html>
fn check_name(bucket: &str) -> Result<(), Error> {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
    let is_end = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let has_ends = bucket.starts_with(is_end) && bucket.ends_with(is_end) && !bucket.contains("..");
    if (3..=63).contains(&bucket.len()) && bucket.chars().all(is_plain) && has_ends {
        return Ok(());
    }
    let message =
        format!("`{}` cannot be a bucket: use 3 to 63 lower-case letters, digits, `-` and `.`", bucket.escape_debug());
    Err(Error::config("bucket", message))
}

#[async_trait]
impl Bucket for S3Bucket {
    async fn store(&self) -> Result<Arc<dyn ObjectStore>, Error> {
        self.store.get_or_try_init(|| self.open()).await.cloned()
    }

    async fn refresh(&self) -> Result<(), Error> {
        self.aws.refresh().await
    }

    fn uri(&self, key: &Path) -> String {
        format!("s3://{}/{key}", self.config.bucket)
    }
}

impl fmt::Debug for S3Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Bucket").field("bucket", &self.config.bucket).field("aws", &self.aws).finish_non_exhaustive()
    }
}

/// Our credentials, as `object_store` asks for them: before each request.
#[derive(Debug)]
struct Keys(Aws);

#[async_trait]
impl CredentialProvider for Keys {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let found = async {
            let keys = self.0.credentials().await?.provide_credentials().await;
            keys.map_err(|error| no_credentials(&error))
        };
        let keys =
            found.await.map_err(|error| object_store::Error::Generic { store: "S3", source: Box::new(error) })?;
        Ok(Arc::new(AwsCredential {
            key_id: keys.access_key_id().to_owned(),
            secret_key: keys.secret_access_key().to_owned(),
            token: keys.session_token().map(str::to_owned),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_of_china_have_addresses_of_their_own() {
        assert_eq!(address_in("cn-north-1").as_deref(), Some("https://s3.cn-north-1.amazonaws.com.cn"));
        assert_eq!(address_in("eu-west-1"), None);
    }
}
