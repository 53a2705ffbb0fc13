//! Values that must not show.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer};

use crate::{Error, ErrorKind, async_trait};

/// A password, token or key. It shows as `***` wherever it is printed, cannot be serialised, and its memory is wiped
/// when it is dropped.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// Hides a value.
    pub fn new(value: impl Into<String>) -> Self {
        Secret(SecretString::from(value.into()))
    }

    /// The value, for the one place that sends it.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl From<&str> for Secret {
    fn from(value: &str) -> Self {
        Secret::new(value)
    }
}

impl From<String> for Secret {
    fn from(value: String) -> Self {
        Secret::new(value)
    }
}

/// What a configuration says in the place of a secret: where to find it, or, against advice, the value itself.
///
/// In a configuration: `{"env": "NAME"}`, `{"file": "/run/secrets/name"}` (one trailing line break is cut),
/// `{"secret": "NAME"}` (asks the [`SecretProvider`]), or a plain string.
#[derive(Clone)]
pub enum SecretRef {
    /// The value itself.
    Value(Secret),
    /// The name of an environment variable.
    Env(String),
    /// A file that holds the value.
    File(PathBuf),
    /// A name known to the [`SecretProvider`].
    Provider(String),
}

impl SecretRef {
    /// Finds the value. `field` is the configuration field the reference stands in, for the error.
    pub fn resolve(&self, field: &str, provider: &dyn SecretProvider) -> Result<Secret, Error> {
        let missing = |message: String| Error::new(ErrorKind::Config, "resolve secret", message).with("field", field);
        match self {
            SecretRef::Value(secret) => Ok(secret.clone()),
            SecretRef::Env(name) => std::env::var(name)
                .map(Secret::new)
                .map_err(|_| missing(format!("the environment variable {name} is not set"))),
            SecretRef::File(path) => match std::fs::read_to_string(path) {
                Ok(text) => Ok(Secret::new(text.strip_suffix('\n').unwrap_or(&text).trim_end_matches('\r'))),
                Err(error) => Err(missing(format!("cannot read the file {}", path.display())).with_source(error)),
            },
            SecretRef::Provider(name) => provider
                .secret(name)
                .ok_or_else(|| missing(format!("no secret named {name} is known to this program's secret provider"))),
        }
    }
}

impl fmt::Debug for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SecretRef::Value(secret) => secret.fmt(f),
            SecretRef::Env(name) => write!(f, "env {name}"),
            SecretRef::File(path) => write!(f, "file {}", path.display()),
            SecretRef::Provider(name) => write!(f, "secret {name}"),
        }
    }
}

impl From<&str> for SecretRef {
    fn from(value: &str) -> Self {
        SecretRef::Value(value.into())
    }
}

impl<'de> Deserialize<'de> for SecretRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "snake_case")]
        enum Reference {
            Env(String),
            File(PathBuf),
            Secret(String),
        }

        // A hand-written visitor, because the errors of derived untagged enums may quote their input.
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = SecretRef;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(r#"a secret: a string, or {"env": NAME}, {"file": PATH} or {"secret": NAME}"#)
            }
            fn visit_str<E>(self, value: &str) -> Result<SecretRef, E> {
                Ok(SecretRef::Value(value.into()))
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<SecretRef, A::Error> {
                Ok(match Reference::deserialize(serde::de::value::MapAccessDeserializer::new(map))? {
                    Reference::Env(name) => SecretRef::Env(name),
                    Reference::File(path) => SecretRef::File(path),
                    Reference::Secret(name) => SecretRef::Provider(name),
                })
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// Where secrets are kept: a vault, a parameter store, the orchestrator's own.
///
/// Whoever holds them at hand writes [`secret`](SecretProvider::secret) alone. Who has to ask for them over a network
/// does so in [`fetch`](SecretProvider::fetch) and answers out of what it found, since nothing waits while a shipper is
/// built.
#[async_trait]
pub trait SecretProvider: fmt::Debug + Send + Sync {
    /// The secret of this name, or `None` if there is none. At once.
    fn secret(&self, name: &str) -> Option<Secret>;

    /// Asks for the secrets of these names, so that [`secret`](SecretProvider::secret) has them. Names that others know
    /// are passed over. By default there is nobody to ask.
    ///
    /// # Errors
    /// Which secret is not to be had, why, and what to do; never what a secret is.
    async fn fetch(&self, names: &BTreeSet<String>) -> Result<(), Error> {
        let _ = names;
        Ok(())
    }

    /// Asks anew for all that was fetched, because a destination does not let us in any more. What cannot be had stays
    /// as it was. By default there is nobody to ask.
    ///
    /// # Errors
    /// As [`fetch`](SecretProvider::fetch), of the first that cannot be had.
    async fn renew(&self) -> Result<(), Error> {
        Ok(())
    }
}

/// Knows no secrets. Environment variables and files need no provider.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoSecrets;

impl SecretProvider for NoSecrets {
    fn secret(&self, _name: &str) -> Option<Secret> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_never_shows() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret:?}"), "***");
        assert_eq!(format!("{:?}", SecretRef::Value(secret)), "***");
    }

    #[test]
    fn a_missing_secret_is_named_with_its_field() {
        let reference: SecretRef = serde_json::from_str(r#"{"env": "LOGSHIP_TEST_NOT_SET"}"#).unwrap();
        let error = reference.resolve("api_key", &NoSecrets).unwrap_err().to_string();
        assert!(error.contains("LOGSHIP_TEST_NOT_SET") && error.contains("api_key"), "{error}");
        let reference: SecretRef = serde_json::from_str(r#"{"secret": "ES"}"#).unwrap();
        assert!(reference.resolve("password", &NoSecrets).unwrap_err().to_string().contains("named ES"));
    }

    #[test]
    fn a_wrong_shape_is_refused_without_quoting_it() {
        let error = serde_json::from_str::<SecretRef>(r#"{"valu": "hunter2"}"#).unwrap_err().to_string();
        assert!(!error.contains("hunter2"), "{error}");
    }
}
