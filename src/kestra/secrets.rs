//! Where the secrets of a flow are found.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use logship_core::{BuildContext, Error, Secret, SecretProvider, SecretRef, async_trait};

use super::template::Template;

/// Secrets as Kestra's open edition keeps them: the secret `NAME` is in the environment variable `SECRET_NAME`, in
/// base64 (<https://kestra.io/docs/concepts/secret>).
#[derive(Clone, Copy, Debug, Default)]
pub struct EnvironmentSecrets;

impl SecretProvider for EnvironmentSecrets {
    fn secret(&self, name: &str) -> Option<Secret> {
        decode(&std::env::var(format!("SECRET_{name}")).ok()?)
    }
}

fn decode(encoded: &str) -> Option<Secret> {
    // The program `base64` breaks lines after 76 characters.
    let encoded: String = encoded.split_whitespace().collect();
    let text = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
    // A line break at the end comes from `echo`.
    Some(Secret::new(text.trim_end_matches(['\r', '\n'])))
}

/// The program's secrets, and texts with some of them in it, put together anew each time they are asked for.
pub(super) struct Composed {
    pub(super) context: BuildContext,
    pub(super) templates: BTreeMap<String, Template>,
}

impl Composed {
    pub(super) fn context(self) -> BuildContext {
        BuildContext::new(Arc::new(self))
    }
}

#[async_trait]
impl SecretProvider for Composed {
    fn secret(&self, name: &str) -> Option<Secret> {
        let find = |name: &str| {
            let secret = self.context.secret("", &SecretRef::Provider(name.to_owned())).ok();
            secret.ok_or(())
        };
        match self.templates.get(name) {
            Some(template) => {
                template.expose(|name| find(name).map(|secret| secret.expose().to_owned())).ok().map(Secret::new)
            }
            None => find(name).ok(),
        }
    }

    async fn fetch(&self, names: &BTreeSet<String>) -> Result<(), Error> {
        self.context.secrets().fetch(names).await
    }

    async fn renew(&self) -> Result<(), Error> {
        self.context.secrets().renew().await
    }
}

impl fmt::Debug for Composed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Composed").field("context", &self.context).field("templates", &self.templates).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_of_the_environment_is_base64_as_programs_write_it() {
        let exposed = |encoded| decode(encoded).map(|secret| secret.expose().to_owned());
        assert_eq!(exposed("aHVudGVyMg=="), Some("hunter2".to_owned()));
        assert_eq!(exposed("aHVu\ndGVyMgo=\n"), Some("hunter2".to_owned()));
        assert_eq!(exposed("hunter2"), None);
        assert!(EnvironmentSecrets.secret("LOGSHIP_TEST_NOT_SET").is_none());
    }
}
