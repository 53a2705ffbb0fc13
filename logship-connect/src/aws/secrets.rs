//! Secrets that AWS keeps: the parameters of Systems Manager and the secrets of Secrets Manager.
//!
//! A configuration names them with the store before the name: `{"secret": "ssm:/prod/search/token"}`,
//! `{"secret": "secretsmanager:prod/search"}`. Where what is kept is an object of JSON, a field of it is named behind a
//! `#`: `secretsmanager:prod/search#password`. A parameter may be named with a version or a label, as AWS writes it
//! (`ssm:/prod/search/token:3`), and both by their ARN.

#[cfg(feature = "secretsmanager")]
mod secretsmanager;
#[cfg(feature = "ssm")]
mod ssm;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

use logship_core::{BuildContext, Certainty, Error, ErrorKind, Secret, SecretProvider, async_trait};
use serde_json::{Map, Value};
use tokio::sync::Mutex;

use super::{Aws, AwsConfig};
use crate::Connection;

const OPERATION: &str = "fetch secret";

/// Gives out secrets that AWS keeps, and for all other names those of another provider.
///
/// They are asked for by [`fetch`](SecretProvider::fetch), before a shipper is built, and by
/// [`renew`](SecretProvider::renew), which the shipper calls when a destination does not let it in any more; nobody is
/// asked otherwise, and nothing is written anywhere.
///
/// ```no_run
/// # async fn example() -> Result<(), logship_core::Error> {
/// use std::collections::BTreeSet;
/// use std::sync::Arc;
///
/// use logship_connect::Connection;
/// use logship_connect::aws::{AwsConfig, secrets::AwsSecrets};
/// use logship_core::{BuildContext, SecretProvider};
///
/// let others = BuildContext::default();
/// let secrets = AwsSecrets::new(&AwsConfig::default(), &Connection::default(), &others)?;
/// secrets.fetch(&BTreeSet::from(["ssm:/prod/search/token".to_owned()])).await?;
/// let context = BuildContext::new(Arc::new(secrets));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`ErrorKind::NotFound`] if there is no such secret, [`ErrorKind::Auth`] if the credentials may not read it, or are
/// refused once more after they were read anew, [`ErrorKind::Timeout`] for a call without an answer in 60 s,
/// [`ErrorKind::Throttled`] and others that may pass, [`ErrorKind::Config`] for a name, a field or a value that cannot
/// be one. They hold the secret's name, and never what it is.
///
/// # Cancellation
/// What was had before a fetch or a renewal is dropped stays.
pub struct AwsSecrets {
    aws: Aws,
    others: BuildContext,
    found: RwLock<BTreeMap<String, Secret>>,
    /// Held while all are asked for anew, so that several lanes which are not let in ask once.
    renewing: Mutex<()>,
    /// How often all could be had.
    renewals: AtomicU64,
}

impl AwsSecrets {
    /// Checks the configuration and finds its own secrets. Asks nobody yet. `context` has the secrets of other names.
    ///
    /// # Errors
    /// [`ErrorKind::Config`], which names the field.
    pub fn new(aws: &AwsConfig, connection: &Connection, context: &BuildContext) -> Result<Self, Error> {
        Ok(AwsSecrets {
            aws: Aws::new(aws, connection, context)?,
            others: context.clone(),
            found: RwLock::default(),
            renewing: Mutex::default(),
            renewals: AtomicU64::new(0),
        })
    }

    /// Asks for one secret and keeps it.
    async fn ask(&self, name: &str) -> Result<(), Error> {
        let secret = self.value(name).await.map_err(|error| error.with("secret", name))?;
        self.found.write().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), secret);
        Ok(())
    }

    async fn value(&self, name: &str) -> Result<Secret, Error> {
        let place = Place::parse(name).filter(|place| !place.id.is_empty());
        let place = place.ok_or_else(|| wrong("there is no name behind that of the store"))?;
        let text = match place.store {
            #[cfg(feature = "ssm")]
            Store::Ssm => ssm::get(&self.aws, place.id).await?,
            #[cfg(feature = "secretsmanager")]
            Store::SecretsManager => secretsmanager::get(&self.aws, place.id).await?,
            #[cfg(not(all(feature = "ssm", feature = "secretsmanager")))]
            store => return Err(wrong(format!("the Cargo feature `{}` is not switched on", store.name()))),
        };
        match place.field {
            Some(field) => field_of(&text, field).map_err(wrong),
            None => Ok(Secret::new(text)),
        }
    }
}

#[async_trait]
impl SecretProvider for AwsSecrets {
    fn secret(&self, name: &str) -> Option<Secret> {
        match Place::parse(name) {
            Some(_) => self.found.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned(),
            None => self.others.secrets().secret(name),
        }
    }

    async fn fetch(&self, names: &BTreeSet<String>) -> Result<(), Error> {
        let (ours, others): (BTreeSet<String>, _) =
            names.iter().cloned().partition(|name| Place::parse(name).is_some());
        for name in &ours {
            self.ask(name).await?;
        }
        self.others.secrets().fetch(&others).await
    }

    async fn renew(&self) -> Result<(), Error> {
        let before = self.renewals.load(Ordering::Acquire);
        let _alone = self.renewing.lock().await;
        if self.renewals.load(Ordering::Acquire) != before {
            return Ok(());
        }
        let known = self.found.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect::<Vec<_>>();
        let mut renewed = Ok(());
        for name in known {
            let asked = self.ask(&name).await;
            renewed = renewed.and(asked);
        }
        let others = self.others.secrets().renew().await;
        renewed.and(others)?;
        self.renewals.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }
}

impl fmt::Debug for AwsSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = self.found.read().unwrap_or_else(PoisonError::into_inner);
        f.debug_struct("AwsSecrets").field("aws", &self.aws).field("found", &found.keys()).finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Store {
    Ssm,
    SecretsManager,
}

impl Store {
    fn name(self) -> &'static str {
        match self {
            Store::Ssm => "ssm",
            Store::SecretsManager => "secretsmanager",
        }
    }
}

/// Where a secret is kept. Neither store takes a `#` in a name.
#[derive(Debug, PartialEq, Eq)]
struct Place<'n> {
    store: Store,
    id: &'n str,
    field: Option<&'n str>,
}

impl<'n> Place<'n> {
    /// None for names that others know.
    fn parse(name: &'n str) -> Option<Self> {
        let (store, rest) = name.split_once(':')?;
        let store = [Store::Ssm, Store::SecretsManager].into_iter().find(|known| known.name() == store)?;
        let (id, field) = rest.split_once('#').map_or((rest, None), |(id, field)| (id, Some(field)));
        Some(Place { store, id, field })
    }
}

fn wrong(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Config, OPERATION, message)
}

/// The field of an object of JSON, as text. What is wrong says nothing of the object but its form.
fn field_of(text: &str, field: &str) -> Result<Secret, String> {
    let object: Map<String, Value> = serde_json::from_str(text)
        .map_err(|_| format!("what is kept is no object of JSON, so there is no field `{field}`"))?;
    match object.get(field) {
        Some(Value::String(text)) => Ok(Secret::new(text)),
        Some(value @ (Value::Number(_) | Value::Bool(_))) => Ok(Secret::new(value.to_string())),
        Some(_) => Err(format!("the field `{field}` is no text")),
        None => Err(format!("the object has no field `{field}`")),
    }
}

/// The error of AWS in words that say what to do.
fn reworded(said: &Error, kind: ErrorKind, words: &str) -> Error {
    let error = Error::new(kind, OPERATION, words).certainty_is(Certainty::NotDelivered);
    let context = |error: Error, name| match said.context(name) {
        Some(value) => error.with(name, value),
        None => error,
    };
    ["status", "code", "answer"].into_iter().fold(error, context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_the_store_and_the_field() {
        for (name, store, id, field) in [
            ("ssm:/prod/token", Store::Ssm, "/prod/token", None),
            ("ssm:token:3", Store::Ssm, "token:3", None),
            ("ssm:/prod/login#user", Store::Ssm, "/prod/login", Some("user")),
            ("secretsmanager:prod/search#a#b", Store::SecretsManager, "prod/search", Some("a#b")),
            (
                "secretsmanager:arn:aws:secretsmanager:eu-west-1:123456789012:secret:search-a1b2c3",
                Store::SecretsManager,
                "arn:aws:secretsmanager:eu-west-1:123456789012:secret:search-a1b2c3",
                None,
            ),
        ] {
            assert_eq!(Place::parse(name), Some(Place { store, id, field }), "{name}");
        }
        for name in ["ES_TOKEN", "ssm", "vault:token", "SSM:/token", ""] {
            assert_eq!(Place::parse(name), None, "{name}");
        }
    }

    #[test]
    fn a_field_is_text_a_number_or_a_truth() {
        let text = r#"{"user": "ada", "port": 9200, "tls": true, "none": null, "many": ["hunter2"]}"#;
        for (field, expected) in [("user", "ada"), ("port", "9200"), ("tls", "true")] {
            assert_eq!(field_of(text, field).unwrap().expose(), expected);
        }
        for (text, field) in
            [(text, "none"), (text, "many"), (text, "absent"), ("hunter2", "a"), ("[\"hunter2\"]", "a")]
        {
            let error = field_of(text, field).unwrap_err();
            assert!(error.contains(field) && !error.contains("hunter2"), "{error}");
        }
    }
}
