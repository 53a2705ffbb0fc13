//! Reaching AWS: who asks, in which region, over our own connections.
//!
//! [`AwsConfig`] is what a configuration says, [`Aws`] what an exporter, a source or a store holds. Clients of the
//! official SDKs are made from [`Aws::sdk_config`]; they speak through a [`Connection`], never retry, and share one cache
//! of credentials. [`failure`] says what an error of any of them means, [`error_code`] which one it was.

mod asking;
mod chain;
mod client;
mod credentials;
mod failure;
#[cfg(feature = "_aws_secrets")]
pub mod secrets;
mod sign;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use aws_config::Region;
pub use aws_config::SdkConfig;
pub use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use logship_core::{BuildContext, Error, SecretRef};
use serde::Deserialize;
use tokio::sync::OnceCell;

use crate::{Connection, RotatedClient};
pub use asking::Pace;
use chain::Chain;
use client::SdkClient;
#[cfg(feature = "s3")]
pub(crate) use credentials::no_credentials;
use credentials::{Cached, Keys};
pub use failure::{error_code, failure, is_denied};

/// Who asks AWS, and where.
///
/// In a configuration: `{"region": "eu-west-1", "credentials": {"static": {…}}, "role": {"arn": …}}`. Without any field
/// it is what the AWS command line would use on this machine.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct AwsConfig {
    /// The region, such as `eu-west-1`. Default: what `AWS_REGION`, the profile or the machine's metadata say.
    pub region: Option<String>,
    /// Where the access key comes from. Default: `default`, the SDKs' chain.
    pub credentials: AwsCredentials,
    /// A role that is assumed with these credentials. Default: none.
    pub role: Option<AssumeRole>,
    /// The address of the service, for a VPC endpoint or a stand-in. Default: the region's own, or what
    /// `AWS_ENDPOINT_URL` says.
    pub endpoint: Option<String>,
}

/// Where the access key comes from. In a configuration: `"default"`, `{"profile": {"name": …}}`,
/// `{"static": {"access_key_id": …, "secret_access_key": …, "session_token": …}}` or
/// `{"web_identity": {"token_file": …, "role_arn": …}}`.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum AwsCredentials {
    /// The SDKs' chain: the environment, the shared files, SSO, a web identity, the container, the machine
    /// (<https://docs.aws.amazon.com/sdkref/latest/guide/standardized-credentials.html>).
    #[default]
    Default,
    /// Here, or wherever a secret can be kept. Read again when they are no longer taken.
    Static {
        /// The id of the key.
        access_key_id: SecretRef,
        /// The key.
        secret_access_key: SecretRef,
        /// The token of temporary credentials. Default: none.
        #[serde(default)]
        session_token: Option<SecretRef>,
    },
    /// A profile of the shared files, `~/.aws/config` and `~/.aws/credentials`, whatever the environment says.
    Profile {
        /// Its name.
        name: String,
    },
    /// A token from a file, for a role: how pods of Kubernetes and jobs of CI systems are let in. A web identity that
    /// the environment names (`AWS_WEB_IDENTITY_TOKEN_FILE`) is part of `default`.
    WebIdentity {
        /// The file. Read again whenever a session ends.
        token_file: PathBuf,
        /// The role.
        role_arn: String,
        /// The name of the session. Default: `logship`.
        #[serde(default)]
        session_name: Option<String>,
    },
}

/// A role to assume (<https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html>).
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct AssumeRole {
    /// The role.
    pub arn: String,
    /// What the role's owner asks to be told. Default: none.
    #[serde(default)]
    pub external_id: Option<String>,
    /// The name of the session, as the other side's audit log shows it. Default: `logship`.
    #[serde(default)]
    pub session_name: Option<String>,
    /// How long a session lasts, in seconds, 900 to 43 200 as the role allows. A new one is asked for ahead of its end.
    /// Default: 3600, the service's own.
    #[serde(default)]
    pub session_secs: Option<u64>,
    /// The address of the Security Token Service. Default: the region's own.
    #[serde(default)]
    pub endpoint: Option<String>,
}

impl AssumeRole {
    /// This role.
    pub fn new(arn: impl Into<String>) -> Self {
        AssumeRole { arn: arn.into(), external_id: None, session_name: None, session_secs: None, endpoint: None }
    }
}

/// Access to AWS. Cheap to clone; all clones share one cache of credentials and one pool of connections.
///
/// Credentials are looked for at the first use, asked for ahead of their end, by one task at a time, and anew after
/// [`refresh`](Aws::refresh). No process-wide TLS provider is needed or installed.
///
/// ```
/// # use logship_connect::{Connection, aws::{Aws, AwsConfig}};
/// # async fn example() -> Result<(), logship_core::Error> {
/// let aws = Aws::new(&AwsConfig::default(), &Connection::default(), &Default::default())?;
/// let config = aws.sdk_config().await?;
/// // let client = aws_sdk_cloudwatchlogs::Client::new(config);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Aws(Arc<Inner>);

struct Inner {
    config: AwsConfig,
    client: SdkClient,
    /// The keys that the configuration holds, if it does.
    keys: Option<Keys>,
    ready: OnceCell<Ready>,
}

struct Ready {
    sdk: SdkConfig,
    credentials: Arc<Cached>,
}

impl Aws {
    /// Checks the configuration and finds its secrets. Asks nobody yet.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](logship_core::ErrorKind::Config), which names the field or the file.
    pub fn new(config: &AwsConfig, connection: &Connection, context: &BuildContext) -> Result<Self, Error> {
        for (field, address) in [
            ("aws.endpoint", config.endpoint.as_ref()),
            ("aws.role.endpoint", config.role.as_ref().and_then(|role| role.endpoint.as_ref())),
        ] {
            if let Some((_, Some(_))) = address.map(|address| crate::parse_url(field, address)).transpose()? {
                return Err(Error::config(field, "holds a user: the credentials have a field of their own"));
            }
        }
        let secs = config.role.as_ref().and_then(|role| role.session_secs);
        if secs.is_some_and(|secs| !(900..=43_200).contains(&secs)) {
            return Err(Error::config("aws.role.session_secs", "must be 900 to 43200"));
        }
        let client = SdkClient::new(RotatedClient::new("connect to aws", connection, context)?, connection, context)?;
        let keys = match &config.credentials {
            AwsCredentials::Static { access_key_id, secret_access_key, session_token } => {
                let keys = Keys::new(access_key_id, secret_access_key, session_token.as_ref(), context);
                keys.read()?;
                Some(keys)
            }
            _ => None,
        };
        Ok(Aws(Arc::new(Inner { config: config.clone(), client, keys, ready: OnceCell::new() })))
    }

    /// What clients of the official SDKs are made of. Their credentials come through a cache that all share; retries,
    /// time limits and the SDKs' own cache are off, since all of that is the engine's or ours.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](logship_core::ErrorKind::Config) if no region is known.
    pub async fn sdk_config(&self) -> Result<&SdkConfig, Error> {
        Ok(&self.ready().await?.sdk)
    }

    /// The credentials, for whoever signs by themselves. They come out of the cache, so ask before each request.
    ///
    /// # Errors
    /// Those of [`sdk_config`](Aws::sdk_config).
    pub async fn credentials(&self) -> Result<SharedCredentialsProvider, Error> {
        Ok(SharedCredentialsProvider::from(Arc::clone(&self.ready().await?.credentials) as Arc<dyn ProvideCredentials>))
    }

    /// The region.
    ///
    /// # Errors
    /// Those of [`sdk_config`](Aws::sdk_config).
    pub async fn region(&self) -> Result<&str, Error> {
        Ok(self.ready().await?.sdk.region().map(Region::as_ref).unwrap_or_default())
    }

    /// Asks for new credentials, after an error that advised it. Whoever calls while another call is under way gets what
    /// that one found.
    ///
    /// # Errors
    /// [`ErrorKind::Auth`](logship_core::ErrorKind::Auth) if there are none, or they are still the ones that were not
    /// let in.
    pub async fn refresh(&self) -> Result<(), Error> {
        self.ready().await?.credentials.refresh(SystemTime::now()).await
    }

    async fn ready(&self) -> Result<&Ready, Error> {
        self.0.ready.get_or_try_init(|| self.0.load()).await
    }
}

impl Inner {
    async fn load(&self) -> Result<Ready, Error> {
        let (config, client, keys) = (self.config.clone(), self.client.clone(), self.keys.clone());
        let region = config.region.clone().map(Region::new);
        let mut chain = Chain { config, client, keys, region };
        let found = chain.environment().await;
        if found.region().is_none() {
            let message = "no region is known: give it, or set AWS_REGION in the environment";
            return Err(Error::config("aws.region", message));
        }
        chain.region = found.region().cloned();
        let credentials = Arc::new(Cached::new(SharedCredentialsProvider::new(chain)));
        let shared = SharedCredentialsProvider::from(Arc::clone(&credentials) as Arc<dyn ProvideCredentials>);
        let mut sdk = found.into_builder().credentials_provider(shared);
        if let Some(endpoint) = &self.config.endpoint {
            sdk = sdk.endpoint_url(endpoint);
        }
        Ok(Ready { sdk: sdk.build(), credentials })
    }
}

impl fmt::Debug for Aws {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Aws").field("region", &self.0.config.region).finish_non_exhaustive()
    }
}
