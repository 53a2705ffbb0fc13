//! Where credentials are found.

use std::time::Duration;

use aws_config::identity::IdentityCache;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::sts::AssumeRoleProvider;
use aws_config::web_identity_token::{StaticConfiguration, WebIdentityTokenCredentialsProvider};
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{self, ProvideCredentials, SharedCredentialsProvider, future};

use super::client::SdkClient;
use super::credentials::Keys;
use super::{AssumeRole, AwsConfig, AwsCredentials};

/// How sessions of assumed roles are called unless the configuration says otherwise.
const SESSION_NAME: &str = "logship";

/// Looks for credentials where the configuration says. All that gives them is made anew each time, as the SDKs' own
/// providers read the shared files once and never again.
#[derive(Clone, Debug)]
pub(super) struct Chain {
    pub(super) config: AwsConfig,
    pub(super) client: SdkClient,
    /// The keys that the configuration holds, if it does.
    pub(super) keys: Option<Keys>,
    /// None until it was looked for.
    pub(super) region: Option<Region>,
}

impl Chain {
    /// What the SDKs find on this machine.
    pub(super) async fn environment(&self) -> SdkConfig {
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(self.client.clone())
            .identity_cache(IdentityCache::no_cache())
            .retry_config(RetryConfig::disabled())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
        if let Some(region) = &self.region {
            loader = loader.region(region.clone());
        }
        if let AwsCredentials::Profile { name } = &self.config.credentials {
            // For the region, which a profile may hold.
            loader = loader.profile_name(name);
        }
        loader.load().await
    }

    async fn credentials(&self) -> provider::Result {
        let found = self.environment().await;
        let base = match self.base_credentials() {
            Some(provider) => Some(provider),
            None => found.credentials_provider(),
        };
        let base = base.ok_or_else(|| CredentialsError::not_loaded("there is nobody to ask"))?;
        match &self.config.role {
            None => base.provide_credentials().await,
            Some(role) => assume(role, base, &found).await.provide_credentials().await,
        }
    }

    /// The credentials that the configuration names; none for those that the SDKs' chain finds.
    fn base_credentials(&self) -> Option<SharedCredentialsProvider> {
        let asks_with =
            || ProviderConfig::without_region().with_region(self.region.clone()).with_http_client(self.client.clone());
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

impl ProvideCredentials for Chain {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.credentials())
    }
}
