//! Reaching AWS: who asks, in which region, over our own connections.
//!
//! [`AwsConfig`] is what a configuration says, [`Aws`] what an exporter, a source or a store holds. Clients of the
//! official SDKs are made from [`Aws::sdk_config`]; they speak through a [`Connection`], never retry, and share one cache
//! of credentials. [`failure`] says what an error of any of them means.

mod client;
mod credentials;
mod failure;
mod sign;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use aws_config::SdkConfig;
use aws_config::identity::IdentityCache;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::sts::AssumeRoleProvider;
use aws_config::web_identity_token::{StaticConfiguration, WebIdentityTokenCredentialsProvider};
use aws_config::{BehaviorVersion, Region};
pub use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use logship_core::{BuildContext, Error, SecretRef};
use serde::Deserialize;
use tokio::sync::OnceCell;

use crate::{Connection, RotatedClient};
use client::SdkClient;
#[cfg(feature = "s3")]
pub(crate) use credentials::no_credentials;
use credentials::{Cached, Keys};
pub use failure::failure;
pub use sign::SignedBy;

/// How sessions of assumed roles are called unless the configuration says otherwise.
const SESSION_NAME: &str = "logship";

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
        self.ready().await?.credentials.refresh().await
    }

    /// These were not let in. Several requests may have been under way with credentials that were replaced: when one of
    /// them has found the new ones, [`refresh`](Aws::refresh) after the others has to know which it were.
    pub async fn refuse(&self, credentials: SignedBy) {
        if let Some(ready) = self.0.ready.get() {
            ready.credentials.refuse(credentials.0).await;
        }
    }

    async fn ready(&self) -> Result<&Ready, Error> {
        self.0.ready.get_or_try_init(|| self.0.load()).await
    }
}

impl Inner {
    async fn load(&self) -> Result<Ready, Error> {
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(self.client.clone())
            .identity_cache(IdentityCache::no_cache())
            .retry_config(RetryConfig::disabled())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
        if let Some(region) = &self.config.region {
            loader = loader.region(Region::new(region.clone()));
        }
        if let AwsCredentials::Profile { name } = &self.config.credentials {
            // For the region, which a profile may hold.
            loader = loader.profile_name(name);
        }
        let found = loader.load().await;
        if found.region().is_none() {
            let message = "no region is known: give it, or set AWS_REGION in the environment";
            return Err(Error::config("aws.region", message));
        }
        let base = match self.base_credentials(&found) {
            Some(provider) => Some(provider),
            None => found.credentials_provider(),
        };
        let base = base.ok_or_else(|| Error::config("aws.credentials", "there are none"))?;
        let provider = match &self.config.role {
            None => base,
            Some(role) => SharedCredentialsProvider::new(assume(role, base, &found).await),
        };
        let credentials = Arc::new(Cached::new(provider));
        let shared = SharedCredentialsProvider::from(Arc::clone(&credentials) as Arc<dyn ProvideCredentials>);
        let mut sdk = found.into_builder().credentials_provider(shared);
        if let Some(endpoint) = &self.config.endpoint {
            sdk = sdk.endpoint_url(endpoint);
        }
        Ok(Ready { sdk: sdk.build(), credentials })
    }

    /// The credentials that the configuration names; none for those that the SDKs' chain finds.
    fn base_credentials(&self, found: &SdkConfig) -> Option<SharedCredentialsProvider> {
        let asks_with = || {
            ProviderConfig::without_region().with_region(found.region().cloned()).with_http_client(self.client.clone())
        };
        match &self.config.credentials {
            AwsCredentials::Default => None,
            AwsCredentials::Static { .. } => self.keys.clone().map(SharedCredentialsProvider::new),
            AwsCredentials::Profile { name } => {
                let profile = ProfileFileCredentialsProvider::builder().configure(&asks_with()).profile_name(name);
                Some(SharedCredentialsProvider::new(profile.build()))
            }
            AwsCredentials::WebIdentity { token_file, role_arn, session_name } => {
                let session_name = session_name.as_deref().unwrap_or(SESSION_NAME).to_owned();
                let from = StaticConfiguration {
                    web_identity_token_file: token_file.clone(),
                    role_arn: role_arn.clone(),
                    session_name,
                };
                let identity = WebIdentityTokenCredentialsProvider::builder().configure(&asks_with());
                Some(SharedCredentialsProvider::new(identity.static_configuration(from).build()))
            }
        }
    }
}

async fn assume(role: &AssumeRole, with: SharedCredentialsProvider, found: &SdkConfig) -> AssumeRoleProvider {
    // The credentials it is assumed with are asked for each time: the session is what is cached.
    let mut sdk = found.to_builder();
    if let Some(endpoint) = &role.endpoint {
        sdk = sdk.endpoint_url(endpoint);
    }
    let mut provider = AssumeRoleProvider::builder(&role.arn)
        .configure(&sdk.build())
        .session_name(role.session_name.as_deref().unwrap_or(SESSION_NAME));
    if let Some(id) = &role.external_id {
        provider = provider.external_id(id);
    }
    if let Some(secs) = role.session_secs {
        provider = provider.session_length(Duration::from_secs(secs));
    }
    provider.build_from_provider(with).await
}

impl fmt::Debug for Aws {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Aws").field("region", &self.0.config.region).finish_non_exhaustive()
    }
}
