//! Google Cloud Storage.

use std::fmt;
use std::sync::Arc;

use logship_core::{BuildContext, Error, ErrorKind, async_trait};
use object_store::ObjectStore;
use object_store::client::{CredentialProvider, StaticCredentialProvider};
use object_store::gcp::{GcpCredential, GoogleCloudStorageBuilder};
use object_store::path::Path;

use super::Bucket;
use super::wire::{Wire, no_retries};
use crate::google::GoogleCredentials;
use crate::token::Tokens;
use crate::{Connection, parse_url};

/// What reading and writing objects takes, and not more.
const SCOPE: &str = "https://www.googleapis.com/auth/devstorage.read_write";

/// Which bucket, and who we are.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct GcsConfig {
    /// The bucket's name.
    pub bucket: String,
    /// Another address than Google's own, for emulators and private endpoints. Default: none.
    pub endpoint: Option<String>,
    /// Who we are.
    pub credentials: GoogleCredentials,
    /// How connections to the bucket are made.
    pub connection: Connection,
}

impl GcsConfig {
    /// This bucket, everything else as by default.
    pub fn new(bucket: impl Into<String>) -> Self {
        GcsConfig {
            bucket: bucket.into(),
            endpoint: None,
            credentials: GoogleCredentials::default(),
            connection: Connection::default(),
        }
    }
}

/// A bucket of Google Cloud Storage.
#[derive(Debug)]
pub struct GcsBucket {
    bucket: String,
    store: Arc<dyn ObjectStore>,
    tokens: Option<Arc<Tokens>>,
}

impl GcsBucket {
    /// Asks nobody yet.
    ///
    /// # Errors
    /// [`ErrorKind::Config`], which names the field.
    pub fn new(config: &GcsConfig, context: &BuildContext) -> Result<(Self, Wire), Error> {
        check_name(&config.bucket)?;
        let wire = Wire::new("reach Google Cloud Storage", &config.connection, context)?;
        let tokens = config.credentials.tokens(SCOPE, context)?.map(Arc::new);
        let mut builder = GoogleCloudStorageBuilder::new()
            .with_bucket_name(&config.bucket)
            .with_retry(no_retries())
            .with_skip_signature(tokens.is_none())
            .with_http_connector(wire.clone());
        if let Some(endpoint) = &config.endpoint {
            let (url, auth) = parse_url("endpoint", endpoint)?;
            if auth.is_some() {
                return Err(Error::config("endpoint", "holds a user: the credentials have a field of their own"));
            }
            builder = builder.with_base_url(url.as_str().trim_end_matches('/'));
        }
        builder = match &tokens {
            Some(tokens) => builder.with_credentials(Arc::new(Bearer(Arc::clone(tokens)))),
            // Else it would look for some by itself.
            None => builder
                .with_credentials(Arc::new(StaticCredentialProvider::new(GcpCredential { bearer: String::new() }))),
        };
        let store = builder.build().map_err(|error| Error::config("bucket", error.to_string()))?;
        Ok((GcsBucket { bucket: config.bucket.clone(), store: Arc::new(store), tokens }, wire))
    }
}

/// <https://cloud.google.com/storage/docs/buckets#naming>
fn check_name(bucket: &str) -> Result<(), Error> {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
    let has_ends = bucket.starts_with(|c: char| c.is_ascii_alphanumeric())
        && bucket.ends_with(|c: char| c.is_ascii_alphanumeric());
    match (3..=222).contains(&bucket.len()) && bucket.chars().all(is_plain) && has_ends {
        true => Ok(()),
        false => {
            let message = format!(
                "`{}` cannot be a bucket: use 3 to 222 lower-case letters, digits, `-`, `_` and `.`",
                bucket.escape_debug()
            );
            Err(Error::config("bucket", message))
        }
    }
}

#[async_trait]
impl Bucket for GcsBucket {
    async fn store(&self) -> Result<Arc<dyn ObjectStore>, Error> {
        Ok(Arc::clone(&self.store))
    }

    async fn refresh(&self) -> Result<(), Error> {
        match &self.tokens {
            Some(tokens) => tokens.renew().await,
            None => Err(Error::new(ErrorKind::Auth, "refresh credentials", "`credentials` says that nobody asks")),
        }
    }

    fn uri(&self, key: &Path) -> String {
        format!("gs://{}/{key}", self.bucket)
    }
}

struct Bearer(Arc<Tokens>);

#[async_trait]
impl CredentialProvider for Bearer {
    type Credential = GcpCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<GcpCredential>> {
        let token = self.0.token().await;
        let token = token.map_err(|error| object_store::Error::Generic { store: "GCS", source: Box::new(error) })?;
        Ok(Arc::new(GcpCredential { bearer: token.expose().to_owned() }))
    }
}

impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
