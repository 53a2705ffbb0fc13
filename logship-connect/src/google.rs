//! Google's credentials.

mod impersonation;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use gcp_auth::{CustomServiceAccount, MetadataServiceAccount};
use logship_core::{BuildContext, Error, ErrorKind, SecretRef, async_trait};
use serde::Deserialize;

pub use self::impersonation::Impersonation;
use crate::token::{AccessToken, TokenProvider, Tokens};

const OPERATION: &str = "ask Google for a token";

/// How long asking may take, its own few repeats included.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Who we are at Google. In a configuration: `"default"`, `"metadata"`, `"none"`, or
/// `{"service_account": {"file": "key.json"}}`.
///
/// Tokens are asked for over connections of their own: these trust the system's roots and know neither proxies nor the
/// other settings of a [`Connection`](crate::Connection). Where that does not do, give a [`TokenProvider`] of your own;
/// so for workload identity federation.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum GoogleCredentials {
    /// What the machine has to give, by Google's rules
    /// (<https://cloud.google.com/docs/authentication/application-default-credentials>): the key that
    /// `GOOGLE_APPLICATION_CREDENTIALS` names, what `gcloud auth application-default login` left, the machine's service
    /// account; last the user of `gcloud`.
    #[default]
    Default,
    /// The key of a service account, as JSON.
    ServiceAccount(SecretRef),
    /// The service account of the machine, and nothing else.
    Metadata,
    /// Nobody asks, as in front of an emulator.
    None,
    /// Tokens that the program gets.
    #[serde(skip)]
    Provider(Arc<dyn TokenProvider>),
}

impl GoogleCredentials {
    /// The tokens for a scope, such as `https://www.googleapis.com/auth/devstorage.read_write`, or for several with
    /// spaces between them; `None` where nobody asks.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] for a key that cannot be one; it names the field, `credentials.service_account`.
    pub fn tokens(&self, scope: &str, context: &BuildContext) -> Result<Option<Tokens>, Error> {
        self.tokens_in("credentials.service_account", scope, context)
    }

    /// The same, for a configuration that has the key in this field.
    ///
    /// # Errors
    /// Those of [`tokens`](GoogleCredentials::tokens).
    pub fn tokens_in(&self, field: &'static str, scope: &str, context: &BuildContext) -> Result<Option<Tokens>, Error> {
        let provider: Arc<dyn TokenProvider> = match self {
            GoogleCredentials::None => return Ok(None),
            GoogleCredentials::Provider(provider) => Arc::clone(provider),
            GoogleCredentials::Default => Arc::new(Google::Default),
            GoogleCredentials::Metadata => Arc::new(Google::Metadata),
            GoogleCredentials::ServiceAccount(reference) => {
                let key = Google::ServiceAccount { field, reference: reference.clone(), context: context.clone() };
                key.service_account()?;
                Arc::new(key)
            }
        };
        Ok(Some(Tokens::new(provider, scope)))
    }
}

/// Whom to ask. Each time anew, as one that was asked keeps its own token, also when that was refused, and so that a key
/// which was replaced is found.
enum Google {
    Default,
    Metadata,
    ServiceAccount { field: &'static str, reference: SecretRef, context: BuildContext },
}

impl Google {
    fn service_account(&self) -> Result<CustomServiceAccount, Error> {
        let Google::ServiceAccount { field, reference, context } = self else {
            return Err(Error::new(ErrorKind::Unexpected, OPERATION, "there is no key"));
        };
        // What is wrong with the key might quote it.
        CustomServiceAccount::from_json(context.secret(field, reference)?.expose())
            .map_err(|_| Error::config(field, "not the JSON key of a service account, as the console gives it out"))
    }
}

impl fmt::Debug for Google {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Google::Default => "Default",
            Google::Metadata => "Metadata",
            Google::ServiceAccount { .. } => "ServiceAccount",
        })
    }
}

#[async_trait]
impl TokenProvider for Google {
    async fn token(&self, scope: &str) -> Result<AccessToken, Error> {
        let ask = async {
            let provider: Arc<dyn gcp_auth::TokenProvider> = match self {
                Google::Default => gcp_auth::provider().await.map_err(refused)?,
                Google::Metadata => Arc::new(MetadataServiceAccount::new().await.map_err(refused)?),
                Google::ServiceAccount { .. } => Arc::new(self.service_account()?),
            };
            let scopes: Vec<&str> = scope.split_ascii_whitespace().collect();
            provider.token(&scopes).await.map_err(refused)
        };
        let in_time = tokio::time::timeout(TIMEOUT, ask).await;
        let token = in_time.map_err(|_| Error::new(ErrorKind::Unavailable, OPERATION, "no answer in time"))??;
        let lasts = SystemTime::from(token.expires_at()).duration_since(SystemTime::now());
        Ok(AccessToken::new(token.as_str(), lasts.unwrap_or_default()))
    }
}

fn refused(error: gcp_auth::Error) -> Error {
    let (kind, message) = match &error {
        gcp_auth::Error::NoAuthMethod(..) => (ErrorKind::Auth, "no credentials were found: set `credentials`"),
        // A connection that fails, and an answer that is cut off.
        gcp_auth::Error::Http(..) => (ErrorKind::Unavailable, "no answer"),
        gcp_auth::Error::Other("HTTP request failed", _) => (ErrorKind::Unavailable, "cannot connect"),
        // The library does not say with which status, so this may be a key that is wrong as well as a service that is
        // busy, which must not stop anybody for good.
        gcp_auth::Error::Str("token request failed") => (
            ErrorKind::Unavailable,
            "refused, or not given now: if it stays so, check the service account, its key, and this machine's clock",
        ),
        _ => (ErrorKind::Auth, "not given"),
    };
    Error::new(kind, OPERATION, message).with_source(error)
}
