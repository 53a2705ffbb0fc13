//! Azure Blob Storage.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use logship_core::{BuildContext, Error, ErrorKind, SecretRef, async_trait};
use object_store::ObjectStore;
use object_store::azure::{AzureAccessKey, AzureCredential, MicrosoftAzureBuilder, split_sas};
use object_store::client::CredentialProvider;
use object_store::path::Path;

use super::Bucket;
use super::wire::{Wire, no_retries};
use crate::azure::EntraCredentials;
use crate::token::Tokens;
use crate::{Connection, parse_url};

/// What reading and writing blobs takes
/// (<https://learn.microsoft.com/azure/storage/blobs/authorize-access-azure-active-directory>).
const SCOPE: &str = "https://storage.azure.com/.default";

/// Which container, and who we are.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct AzureBlobConfig {
    /// The container's name.
    pub container: String,
    /// The storage account. Default: the first name of `endpoint`'s host, or the connection string's.
    pub account: Option<String>,
    /// The address of the account. Default: `https://<account>.blob.core.windows.net`, or the connection string's.
    pub endpoint: Option<String>,
    /// Who we are at Entra, where no key is given.
    pub credentials: EntraCredentials,
    /// The account's key, in base64. Default: none.
    pub account_key: Option<SecretRef>,
    /// A shared access signature, with or without its question mark. Default: none.
    pub sas_token: Option<SecretRef>,
    /// All of it in one text, as the portal shows it. Default: none.
    pub connection_string: Option<SecretRef>,
    /// How connections are made.
    pub connection: Connection,
}

impl AzureBlobConfig {
    /// This container, everything else as by default.
    pub fn new(container: impl Into<String>) -> Self {
        AzureBlobConfig {
            container: container.into(),
            account: None,
            endpoint: None,
            credentials: EntraCredentials::default(),
            account_key: None,
            sas_token: None,
            connection_string: None,
            connection: Connection::default(),
        }
    }

    /// What a key of the configuration says, if there is one.
    fn key(&self, context: &BuildContext) -> Result<Option<Key>, Error> {
        let fields = [
            ("account_key", &self.account_key),
            ("sas_token", &self.sas_token),
            ("connection_string", &self.connection_string),
        ];
        let mut given = fields.into_iter().filter_map(|(field, reference)| Some((field, reference.as_ref()?)));
        let Some((field, reference)) = given.next() else { return Ok(None) };
        if let Some((other, _)) = given.next() {
            return Err(Error::config(other, format!("`{field}` is given as well: give one of them")));
        }
        let secret = context.secret(field, reference)?;
        let text = secret.expose().trim();
        match field {
            "account_key" => Ok(Some(Key::plain(account_key(field, text)?))),
            "sas_token" => Ok(Some(Key::plain(signature(field, text)?))),
            _ => Key::of_connection_string(field, text).map(Some),
        }
    }
}

/// What lets us in without Entra, and what a connection string says beside it.
struct Key {
    credential: AzureCredential,
    account: Option<String>,
    endpoint: Option<String>,
}

impl Key {
    fn plain(credential: AzureCredential) -> Self {
        Key { credential, account: None, endpoint: None }
    }

    /// <https://learn.microsoft.com/azure/storage/common/storage-configure-connection-string>
    fn of_connection_string(field: &str, text: &str) -> Result<Self, Error> {
        let pairs = text.split(';').filter(|pair| !pair.trim().is_empty());
        let parts: Option<BTreeMap<&str, &str>> = pairs.map(|pair| pair.trim().split_once('=')).collect();
        let parts =
            parts.ok_or_else(|| Error::config(field, "not a connection string: `name=value` and semicolons"))?;
        let part = |name: &str| parts.get(name).copied();
        let account = part("AccountName").map(str::to_owned);
        let endpoint = part("BlobEndpoint").map(str::to_owned).or_else(|| {
            let scheme = part("DefaultEndpointsProtocol").unwrap_or("https");
            Some(format!("{scheme}://{}.blob.{}", account.as_ref()?, part("EndpointSuffix")?))
        });
        let credential = match (part("AccountKey"), part("SharedAccessSignature")) {
            (Some(key), _) => account_key(field, key)?,
            (None, Some(sas)) => signature(field, sas)?,
            (None, None) => return Err(Error::config(field, "holds neither AccountKey nor SharedAccessSignature")),
        };
        Ok(Key { credential, account, endpoint })
    }
}

fn account_key(field: &str, text: &str) -> Result<AzureCredential, Error> {
    let key = AzureAccessKey::try_new(text);
    key.map(AzureCredential::AccessKey).map_err(|_| Error::config(field, "not the key of an account, which is base64"))
}

fn signature(field: &str, text: &str) -> Result<AzureCredential, Error> {
    let pairs = split_sas(text).map_err(|_| Error::config(field, "not a shared access signature"))?;
    match pairs.iter().any(|(name, value)| name == "sig" && !value.is_empty()) {
        true => Ok(AzureCredential::SASToken(pairs)),
        false => Err(Error::config(field, "not a shared access signature: it has no `sig`")),
    }
}

/// A container of Azure Blob Storage.
#[derive(Debug)]
pub struct AzureContainer {
    /// The container's own address.
    url: String,
    store: Arc<dyn ObjectStore>,
    entry: Arc<Entry>,
}

/// What lets us in.
enum Entry {
    Entra(Tokens),
    Key { config: AzureBlobConfig, context: BuildContext, current: RwLock<Arc<AzureCredential>> },
}

impl AzureContainer {
    /// Asks nobody yet.
    ///
    /// # Errors
    /// [`ErrorKind::Config`], which names the field.
    pub fn new(config: &AzureBlobConfig, context: &BuildContext) -> Result<(Self, Wire), Error> {
        check_name(&config.container)?;
        let wire = Wire::new("reach Azure Blob Storage", &config.connection, context)?;
        let key = config.key(context)?;
        let of_key = |part: fn(&Key) -> &Option<String>| key.as_ref().and_then(|key| part(key).clone());
        let endpoint = config.endpoint.clone().or_else(|| of_key(|key| &key.endpoint));
        let url = endpoint.as_deref().map(|endpoint| parse_url("endpoint", endpoint)).transpose()?;
        if url.as_ref().is_some_and(|(_, auth)| auth.is_some()) {
            return Err(Error::config("endpoint", "holds a user: the credentials have fields of their own"));
        }
        let of_host = || {
            let host = url.as_ref()?.0.domain()?;
            host.split_once('.').map(|(account, _)| account.to_owned())
        };
        let account = config.account.clone().or_else(|| of_key(|key| &key.account)).or_else(of_host);
        let account = account.filter(|account| !account.is_empty()).ok_or_else(|| {
            Error::config(
                "account",
                "is not known: give it, or an `endpoint` such as https://<account>.blob.core.windows.net",
            )
        })?;
        let endpoint = match url {
            Some((url, _)) => url.as_str().trim_end_matches('/').to_owned(),
            None => format!("https://{account}.blob.core.windows.net"),
        };
        let entry = Arc::new(match key {
            Some(Key { credential, .. }) => Entry::Key {
                config: config.clone(),
                context: context.clone(),
                current: RwLock::new(Arc::new(credential)),
            },
            None => Entry::Entra(config.credentials.tokens(SCOPE, &config.connection, context)?),
        });
        let store = MicrosoftAzureBuilder::new()
            .with_account(account)
            .with_container_name(&config.container)
            .with_endpoint(endpoint.clone())
            .with_retry(no_retries())
            .with_credentials(Arc::clone(&entry) as _)
            .with_http_connector(wire.clone())
            .build()
            .map_err(|error| Error::config("endpoint", error.to_string()))?;
        let url = format!("{endpoint}/{}", config.container);
        Ok((AzureContainer { url, store: Arc::new(store), entry }, wire))
    }
}

/// <https://learn.microsoft.com/rest/api/storageservices/naming-and-referencing-containers--blobs--and-metadata>
fn check_name(container: &str) -> Result<(), Error> {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let has_ends = !container.starts_with('-') && !container.ends_with('-') && !container.contains("--");
    let is_name = (3..=63).contains(&container.len()) && container.chars().all(is_plain) && has_ends;
    if is_name || matches!(container, "$root" | "$logs") {
        return Ok(());
    }
    let message = format!(
        "`{}` cannot be a container: use 3 to 63 lower-case letters, digits and single `-`, which stand between others",
        container.escape_debug()
    );
    Err(Error::config("container", message))
}

#[async_trait]
impl Bucket for AzureContainer {
    async fn store(&self) -> Result<Arc<dyn ObjectStore>, Error> {
        Ok(Arc::clone(&self.store))
    }

    async fn refresh(&self) -> Result<(), Error> {
        const OPERATION: &str = "refresh credentials";
        match &*self.entry {
            Entry::Entra(tokens) => tokens.renew().await,
            Entry::Key { config, context, current } => {
                let fresh = config.key(context)?.map(|key| key.credential);
                let mut current = current.write().unwrap_or_else(PoisonError::into_inner);
                match fresh.filter(|fresh| *fresh != **current) {
                    Some(fresh) => *current = Arc::new(fresh),
                    None => {
                        return Err(Error::new(
                            ErrorKind::Auth,
                            OPERATION,
                            "the key is still the one that was refused",
                        ));
                    }
                }
                Ok(())
            }
        }
    }

    fn uri(&self, key: &Path) -> String {
        format!("{}/{key}", self.url)
    }
}

#[async_trait]
impl CredentialProvider for Entry {
    type Credential = AzureCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AzureCredential>> {
        match self {
            Entry::Key { current, .. } => Ok(Arc::clone(&current.read().unwrap_or_else(PoisonError::into_inner))),
            Entry::Entra(tokens) => match tokens.token().await {
                Ok(token) => Ok(Arc::new(AzureCredential::BearerToken(token.expose().to_owned()))),
                Err(error) => Err(object_store::Error::Generic { store: "Azure", source: Box::new(error) }),
            },
        }
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Entry::Entra(tokens) => tokens.fmt(f),
            Entry::Key { .. } => f.write_str("***"),
        }
    }
}
