//! Exporters, sources and offset stores by name.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::de::DeserializeOwned;

use crate::{Error, Exporter, NoSecrets, OffsetStore, Secret, SecretProvider, SecretRef, Source};

/// The configuration of one exporter, source or store: a map of fields, whatever it was written in.
pub type Fields = serde_json::Map<String, serde_json::Value>;

/// What a constructor may ask for beside its fields.
#[derive(Clone, Debug)]
pub struct BuildContext {
    secrets: Arc<dyn SecretProvider>,
}

impl BuildContext {
    /// With a program's own secret provider.
    pub fn new(secrets: Arc<dyn SecretProvider>) -> Self {
        BuildContext { secrets }
    }

    /// Finds the secret that stands in `field`.
    pub fn secret(&self, field: &str, reference: &SecretRef) -> Result<Secret, Error> {
        reference.resolve(field, self.secrets.as_ref())
    }

    /// Where secrets are kept, for whoever has to ask there first.
    pub fn secrets(&self) -> &Arc<dyn SecretProvider> {
        &self.secrets
    }

    /// Finds the secret that stands in `field`, if anything stands there.
    pub fn optional_secret(&self, field: &str, reference: Option<&SecretRef>) -> Result<Option<Secret>, Error> {
        reference.map(|reference| self.secret(field, reference)).transpose()
    }
}

impl Default for BuildContext {
    fn default() -> Self {
        BuildContext::new(Arc::new(NoSecrets))
    }
}

/// Reads fields into a configuration struct. The error names the field, also inside lists and maps, and what is wrong
/// with it: unknown, missing, or of the wrong type. It does not quote the value, which may be a secret in the wrong
/// place.
pub fn read_fields<C: DeserializeOwned>(fields: Fields) -> Result<C, Error> {
    serde_path_to_error::deserialize(serde_json::Value::Object(fields)).map_err(|error| {
        let path = error.path().to_string();
        let message = without_value(&error.into_inner().to_string());
        match path.as_str() {
            "." => Error::new(crate::ErrorKind::Config, "read configuration", message),
            path => Error::config(path, message),
        }
    })
}

/// What serde says of a wrong value, without the value: `invalid type: string, expected u16`.
fn without_value(message: &str) -> String {
    let quotes = ["unknown variant", "invalid type", "invalid value"].iter().any(|what| message.starts_with(what));
    // What is expected comes last, and is ours.
    match (quotes, message.rsplit_once(", expected ")) {
        (true, Some((found, expected))) => {
            let kind = found.find(['"', '`']).map_or(found, |quote| &found[..quote]).trim_end();
            format!("{kind}, expected {expected}")
        }
        (true, None) => message.split(['"', '`']).next().unwrap_or_default().trim_end().to_owned(),
        // Names of fields stand in backquotes; what other parsers put in quotes is the value.
        (false, _) => message.split('"').next().unwrap_or_default().trim_end_matches([':', ' ']).to_owned(),
    }
}

type Build<T> = Arc<dyn Fn(Fields, &BuildContext) -> Result<Arc<T>, Error> + Send + Sync>;

/// Exporters, sources and offset stores by the name a configuration gives them. Holds what the program compiled in,
/// and whatever it adds of its own.
///
/// Nothing registers itself: a registry is a value that somebody filled.
#[derive(Clone, Default)]
pub struct Registry {
    exporters: BTreeMap<&'static str, Build<dyn Exporter>>,
    sources: BTreeMap<&'static str, Build<dyn Source>>,
    stores: BTreeMap<&'static str, Build<dyn OffsetStore>>,
    #[cfg(feature = "schema")]
    pub(crate) schemas: Schemas,
}

/// What configurations look like, by the names of what they configure.
#[cfg(feature = "schema")]
#[derive(Clone, Default)]
pub(crate) struct Schemas {
    pub(crate) exporters: BTreeMap<&'static str, crate::schema::Describe>,
    pub(crate) sources: BTreeMap<&'static str, crate::schema::Describe>,
    pub(crate) stores: BTreeMap<&'static str, crate::schema::Describe>,
}

impl Registry {
    /// A registry that knows nothing.
    pub fn new() -> Self {
        Registry::default()
    }

    /// Adds an exporter, or replaces the one of this name.
    pub fn add_exporter<E: Exporter + 'static>(
        &mut self,
        name: &'static str,
        build: impl Fn(Fields, &BuildContext) -> Result<E, Error> + Send + Sync + 'static,
    ) -> &mut Self {
        self.exporters.insert(name, Arc::new(move |fields, context| Ok(Arc::new(build(fields, context)?))));
        self
    }

    /// Adds a source, or replaces the one of this name.
    pub fn add_source<S: Source + 'static>(
        &mut self,
        name: &'static str,
        build: impl Fn(Fields, &BuildContext) -> Result<S, Error> + Send + Sync + 'static,
    ) -> &mut Self {
        self.sources.insert(name, Arc::new(move |fields, context| Ok(Arc::new(build(fields, context)?))));
        self
    }

    /// Adds an offset store, or replaces the one of this name.
    pub fn add_store<S: OffsetStore + 'static>(
        &mut self,
        name: &'static str,
        build: impl Fn(Fields, &BuildContext) -> Result<S, Error> + Send + Sync + 'static,
    ) -> &mut Self {
        self.stores.insert(name, Arc::new(move |fields, context| Ok(Arc::new(build(fields, context)?))));
        self
    }

    /// Makes the exporter of this name.
    pub fn exporter(&self, name: &str, fields: Fields, context: &BuildContext) -> Result<Arc<dyn Exporter>, Error> {
        find("exporter", &self.exporters, name)?(fields, context)
    }

    /// Makes the source of this name.
    pub fn source(&self, name: &str, fields: Fields, context: &BuildContext) -> Result<Arc<dyn Source>, Error> {
        find("source", &self.sources, name)?(fields, context)
    }

    /// Makes the offset store of this name.
    pub fn store(&self, name: &str, fields: Fields, context: &BuildContext) -> Result<Arc<dyn OffsetStore>, Error> {
        find("offset store", &self.stores, name)?(fields, context)
    }

    /// The names of all exporters.
    pub fn exporter_names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.exporters.keys().copied()
    }

    /// The names of all sources.
    pub fn source_names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.sources.keys().copied()
    }

    /// The names of all offset stores.
    pub fn store_names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.stores.keys().copied()
    }
}

fn find<'a, T: ?Sized>(
    what: &str,
    known: &'a BTreeMap<&'static str, Build<T>>,
    name: &str,
) -> Result<&'a Build<T>, Error> {
    known.get(name).ok_or_else(|| {
        let names: Vec<&str> = known.keys().copied().collect();
        let message = format!(
            "there is no {what} `{name}` here; there are: {}. Is its Cargo feature switched on?",
            names.join(", ")
        );
        Error::config("type", message)
    })
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("exporters", &self.exporters.keys())
            .field("sources", &self.sources.keys())
            .field("stores", &self.stores.keys())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Config {
        hosts: Vec<u16>,
        #[serde(default)]
        index: String,
    }

    fn error_of(json: &str) -> String {
        read_fields::<Config>(serde_json::from_str(json).unwrap()).unwrap_err().to_string()
    }

    #[test]
    fn a_wrong_field_is_named_with_its_path() {
        assert!(error_of(r#"{"hosts": [1, "x"]}"#).contains("field: hosts[1]"));
        assert!(error_of(r#"{"hosts": [], "indx": ""}"#).contains("unknown field `indx`"));
        assert!(error_of("{}").contains("missing field `hosts`"));
    }

    #[test]
    fn p12_a_wrong_value_is_not_quoted() {
        for json in [
            r#"{"hosts": ["hunter2"]}"#,
            r#"{"hosts": "hunter2, expected `hunter2"}"#,
            r#"{"hosts": [], "index": {"hunter2": 1}}"#,
        ] {
            let error = error_of(json);
            assert!(!error.contains("hunter2") && error.contains("invalid type"), "{error}");
        }
        assert_eq!(
            without_value("unknown variant `hunter2`, expected `a` or `b`"),
            "unknown variant, expected `a` or `b`"
        );
        assert_eq!(
            without_value("invalid value: integer `99`, expected 1 to 24"),
            "invalid value: integer, expected 1 to 24"
        );
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        let error = Registry::new().exporter("splnk", Fields::new(), &BuildContext::default()).unwrap_err();
        assert!(error.to_string().contains("no exporter `splnk`"), "{error}");
    }
}
