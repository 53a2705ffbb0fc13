//! Microsoft's credentials: those of Entra, for tokens.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use azure_core::cloud::{CloudConfiguration, CustomConfiguration};
use azure_core::credentials::TokenCredential;
use azure_core::http::{ClientOptions, RetryOptions, Transport};
use azure_identity::{
    AzureCliCredential, ClientAssertionCredentialOptions, ClientSecretCredential, ClientSecretCredentialOptions,
    ManagedIdentityCredential, ManagedIdentityCredentialOptions, UserAssignedId, WorkloadIdentityCredential,
    WorkloadIdentityCredentialOptions,
};
use logship_core::{BuildContext, Error, ErrorKind, SecretRef, async_trait};
use serde::Deserialize;

use crate::Connection;
use crate::token::{AccessToken, TokenProvider, Tokens};

const OPERATION: &str = "ask Entra for a token";

/// How long asking one of them may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// How long managed identity may take where nobody knows whether there is any: it answers on the machine, or not at all.
const METADATA_TIMEOUT: Duration = Duration::from_secs(3);

/// Who we are at Microsoft Entra. In a configuration: `"default"`, `{"managed_identity": {}}`,
/// `{"workload_identity": {}}`, `{"cli": {}}`, or
/// `{"client_secret": {"tenant_id": …, "client_id": …, "client_secret": …}}`.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum EntraCredentials {
    /// The first that works of what the environment gives: a client secret (`AZURE_TENANT_ID`, `AZURE_CLIENT_ID`,
    /// `AZURE_CLIENT_SECRET`), workload identity (`AZURE_FEDERATED_TOKEN_FILE`), managed identity, the user of `az`.
    #[default]
    Default,
    /// An application and its secret.
    ClientSecret {
        /// The tenant.
        tenant_id: SecretRef,
        /// The application.
        client_id: SecretRef,
        /// Its secret.
        client_secret: SecretRef,
        /// The address of Entra, for national clouds. Default: `AZURE_AUTHORITY_HOST`, else the public cloud's.
        #[serde(default)]
        authority: Option<String>,
    },
    /// A Kubernetes service account that stands for an application.
    WorkloadIdentity {
        /// The tenant. Default: `AZURE_TENANT_ID`.
        #[serde(default)]
        tenant_id: Option<String>,
        /// The application. Default: `AZURE_CLIENT_ID`.
        #[serde(default)]
        client_id: Option<String>,
        /// Where the cluster puts its token. Default: `AZURE_FEDERATED_TOKEN_FILE`.
        #[serde(default)]
        token_file: Option<PathBuf>,
        /// The address of Entra, for national clouds. Default: `AZURE_AUTHORITY_HOST`, else the public cloud's.
        #[serde(default)]
        authority: Option<String>,
    },
    /// The identity of the machine or the app service.
    ManagedIdentity {
        /// The application, for one that was assigned. Default: the system's own.
        #[serde(default)]
        client_id: Option<String>,
    },
    /// The user of `az`, for trying things out.
    Cli {
        /// The tenant. Default: the user's own.
        #[serde(default)]
        tenant_id: Option<String>,
    },
    /// Tokens that the program gets.
    #[serde(skip)]
    Provider(Arc<dyn TokenProvider>),
}

impl EntraCredentials {
    /// The tokens for a scope, such as `https://storage.azure.com/.default`. They are asked for over this connection.
    ///
    /// # Errors
    /// [`ErrorKind::Config`], which names the field, for what cannot be; a secret is read here.
    pub fn tokens(&self, scope: &str, connection: &Connection, context: &BuildContext) -> Result<Tokens, Error> {
        self.tokens_in("credentials", scope, connection, context)
    }

    /// The same, for a configuration that has these in this field.
    ///
    /// # Errors
    /// Those of [`tokens`](EntraCredentials::tokens).
    pub fn tokens_in(
        &self,
        field: &'static str,
        scope: &str,
        connection: &Connection,
        context: &BuildContext,
    ) -> Result<Tokens, Error> {
        if let EntraCredentials::Provider(provider) = self {
            return Ok(Tokens::new(Arc::clone(provider), scope));
        }
        let (credentials, connection, context) = (self.clone(), connection.clone(), context.clone());
        let entra = Entra { field, credentials, connection, context, has_given: AtomicBool::new(false) };
        // Tells now what is wrong with the fields.
        if !matches!(self, EntraCredentials::Default | EntraCredentials::ManagedIdentity { .. }) {
            entra.credential(&entra.credentials)?;
        }
        Ok(Tokens::new(Arc::new(entra), scope))
    }

    /// Where Entra is, if the configuration says so.
    fn cloud(&self) -> Option<Arc<CloudConfiguration>> {
        let (EntraCredentials::ClientSecret { authority: Some(authority), .. }
        | EntraCredentials::WorkloadIdentity { authority: Some(authority), .. }) = self
        else {
            return None;
        };
        let mut cloud = CustomConfiguration::default();
        cloud.authority_host.clone_from(authority);
        Some(Arc::new(cloud.into()))
    }

    /// What the environment gives, in the order of Microsoft's own libraries.
    fn of_environment() -> Vec<EntraCredentials> {
        let mut found = Vec::new();
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        if let (Some(tenant_id), Some(client_id), Some(_)) =
            (variable("AZURE_TENANT_ID"), variable("AZURE_CLIENT_ID"), variable("AZURE_CLIENT_SECRET"))
        {
            let (tenant_id, client_id) = (tenant_id.as_str().into(), client_id.as_str().into());
            let client_secret = SecretRef::Env("AZURE_CLIENT_SECRET".to_owned());
            found.push(EntraCredentials::ClientSecret { tenant_id, client_id, client_secret, authority: None });
        }
        if variable("AZURE_FEDERATED_TOKEN_FILE").is_some() {
            found.push(EntraCredentials::WorkloadIdentity {
                tenant_id: None,
                client_id: None,
                token_file: None,
                authority: None,
            });
        }
        found.push(EntraCredentials::ManagedIdentity { client_id: variable("AZURE_CLIENT_ID") });
        found.push(EntraCredentials::Cli { tenant_id: None });
        found
    }
}

/// Whom to ask. Each time anew, as one that was asked keeps its own token, also when that was refused, and so that a
/// secret or a certificate which was replaced is found.
struct Entra {
    /// Where the credentials stand in the configuration.
    field: &'static str,
    credentials: EntraCredentials,
    connection: Connection,
    context: BuildContext,
    /// Whether a token was given before.
    has_given: AtomicBool,
}

impl Entra {
    /// Over our own client, and without repeats. What the machine gives, no proxy knows.
    fn options(&self, credentials: &EntraCredentials) -> Result<ClientOptions, Error> {
        let client = match credentials {
            EntraCredentials::ManagedIdentity { .. } => self.connection.bare().client(OPERATION, &self.context)?,
            _ => self.connection.client(OPERATION, &self.context)?,
        };
        Ok(ClientOptions {
            retry: RetryOptions::none(),
            transport: Some(Transport::new(Arc::new(client))),
            cloud: credentials.cloud(),
            ..ClientOptions::default()
        })
    }

    fn credential(&self, credentials: &EntraCredentials) -> Result<Arc<dyn TokenCredential>, Error> {
        let client_options = self.options(credentials)?;
        let made: azure_core::Result<Arc<dyn TokenCredential>> = match credentials {
            EntraCredentials::ClientSecret { tenant_id, client_id, client_secret, .. } => {
                let read = |name: &str, reference: &SecretRef| {
                    let value = self.context.secret(&format!("{}.client_secret.{name}", self.field), reference)?;
                    Ok::<_, Error>(value.expose().to_owned())
                };
                let secret = read("client_secret", client_secret)?;
                let (tenant_id, client_id) = (read("tenant_id", tenant_id)?, read("client_id", client_id)?);
                let options = ClientSecretCredentialOptions { client_options };
                ClientSecretCredential::new(&tenant_id, client_id, secret.into(), Some(options))
                    .map(|credential| credential as _)
            }
            EntraCredentials::WorkloadIdentity { tenant_id, client_id, token_file, .. } => {
                let options = WorkloadIdentityCredentialOptions {
                    credential_options: ClientAssertionCredentialOptions { client_options },
                    client_id: client_id.clone(),
                    tenant_id: tenant_id.clone(),
                    token_file_path: token_file.clone(),
                };
                WorkloadIdentityCredential::new(Some(options)).map(|credential| credential as _)
            }
            EntraCredentials::ManagedIdentity { client_id } => {
                let user_assigned_id = client_id.clone().map(UserAssignedId::ClientId);
                let options = ManagedIdentityCredentialOptions { user_assigned_id, client_options };
                ManagedIdentityCredential::new(Some(options)).map(|credential| credential as _)
            }
            EntraCredentials::Cli { tenant_id } => {
                let options =
                    azure_identity::AzureCliCredentialOptions { tenant_id: tenant_id.clone(), ..Default::default() };
                AzureCliCredential::new(Some(options)).map(|credential| credential as _)
            }
            EntraCredentials::Default | EntraCredentials::Provider(_) => {
                return Err(Error::new(ErrorKind::Unexpected, OPERATION, "there is nobody to ask"));
            }
        };
        made.map_err(|error| match credentials {
            // The library quotes what may be a secret.
            EntraCredentials::ClientSecret { .. } => {
                let message = "`client_secret` has a tenant, an application or a secret that cannot be one";
                Error::config(self.field, message)
            }
            _ => Error::config(self.field, error.to_string()),
        })
    }

    async fn ask(&self, credentials: &EntraCredentials, scope: &str, patience: Duration) -> Result<AccessToken, Error> {
        let credential = self.credential(credentials)?;
        match tokio::time::timeout(patience, credential.get_token(&[scope], None)).await {
            Ok(Ok(token)) => {
                let lasts = SystemTime::from(token.expires_on).duration_since(SystemTime::now());
                Ok(AccessToken::new(token.token.secret(), lasts.unwrap_or_default()))
            }
            Ok(Err(error)) => Err(refused(&error)),
            Err(_) => Err(Error::new(ErrorKind::Unavailable, OPERATION, "no answer in time")),
        }
    }
}

#[async_trait]
impl TokenProvider for Entra {
    async fn token(&self, scope: &str) -> Result<AccessToken, Error> {
        if !matches!(self.credentials, EntraCredentials::Default) {
            return self.ask(&self.credentials, scope, TIMEOUT).await;
        }
        let (mut reasons, mut may_pass) = (Vec::new(), self.has_given.load(Ordering::Relaxed));
        for credentials in EntraCredentials::of_environment() {
            // Whether the environment names it; the others are asked on every machine, though on most there is none.
            let (is_named, patience) = match credentials {
                EntraCredentials::ManagedIdentity { .. } => {
                    (std::env::var_os("IDENTITY_ENDPOINT").is_some(), METADATA_TIMEOUT)
                }
                EntraCredentials::Cli { .. } => (false, TIMEOUT),
                _ => (true, TIMEOUT),
            };
            match self.ask(&credentials, scope, patience).await {
                Ok(token) => {
                    self.has_given.store(true, Ordering::Relaxed);
                    return Ok(token);
                }
                Err(error) => {
                    may_pass |= is_named && error.is_retryable();
                    reasons.push(error.to_string());
                }
            }
        }
        let message = format!("the environment gives none: set `{}`; {}", self.field, reasons.join("; "));
        let kind = if may_pass { ErrorKind::Unavailable } else { ErrorKind::Auth };
        Err(Error::new(kind, OPERATION, message))
    }
}

impl fmt::Debug for Entra {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entra").field("credentials", &self.credentials).finish_non_exhaustive()
    }
}

/// What it means that none was given. The words are Entra's, which names applications and never quotes secrets.
fn refused(error: &azure_core::Error) -> Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    let mut kind = ErrorKind::Auth;
    while let Some(inner) = cause {
        if let Some(inner) = inner.downcast_ref::<azure_core::Error>() {
            match inner.kind() {
                azure_core::error::ErrorKind::Connection | azure_core::error::ErrorKind::Io => {
                    kind = ErrorKind::Unavailable;
                }
                azure_core::error::ErrorKind::HttpResponse { status, .. }
                    if u16::from(*status) == 429 || u16::from(*status) >= 500 =>
                {
                    kind = ErrorKind::Unavailable;
                }
                _ => {}
            }
        }
        cause = inner.source();
    }
    Error::new(kind, OPERATION, Error::excerpt(error.to_string().as_bytes()))
}
