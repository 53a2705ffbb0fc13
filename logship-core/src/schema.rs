//! What configurations look like, for editors: JSON Schema where it is not derived, and the descriptions a registry
//! keeps.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::{Compression, Registry, SecretRef, Severity};

/// How the fields of one type are described.
pub(crate) type Describe = fn(&mut SchemaGenerator) -> Schema;

impl Registry {
    /// Describes the fields of an exporter, for [`Registry::exporter_schema`]. One without a description takes any
    /// fields there.
    pub fn describe_exporter<C: JsonSchema>(&mut self, name: &'static str) -> &mut Self {
        self.schemas.exporters.insert(name, C::json_schema);
        self
    }

    /// Describes the fields of a source, for [`Registry::source_schema`].
    pub fn describe_source<C: JsonSchema>(&mut self, name: &'static str) -> &mut Self {
        self.schemas.sources.insert(name, C::json_schema);
        self
    }

    /// Describes the fields of an offset store, for [`Registry::store_schema`].
    pub fn describe_store<C: JsonSchema>(&mut self, name: &'static str) -> &mut Self {
        self.schemas.stores.insert(name, C::json_schema);
        self
    }

    /// The fields of the exporter of this name, if it is described.
    pub fn exporter_schema(&self, name: &str, generator: &mut SchemaGenerator) -> Option<Schema> {
        self.schemas.exporters.get(name).map(|describe| describe(generator))
    }

    /// The fields of the source of this name, if it is described.
    pub fn source_schema(&self, name: &str, generator: &mut SchemaGenerator) -> Option<Schema> {
        self.schemas.sources.get(name).map(|describe| describe(generator))
    }

    /// The fields of the offset store of this name, if it is described.
    pub fn store_schema(&self, name: &str, generator: &mut SchemaGenerator) -> Option<Schema> {
        self.schemas.stores.get(name).map(|describe| describe(generator))
    }
}

impl JsonSchema for Severity {
    fn schema_name() -> Cow<'static, str> {
        "Severity".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "How bad a record is. The names of syslog and `WARNING` are taken as well, in any case.",
            "type": "string",
            "examples": ["TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"],
        })
    }
}

impl JsonSchema for SecretRef {
    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let reference = |name: &str, what: &str| {
            let properties = serde_json::json!({ name: {"type": "string", "description": what} });
            serde_json::json!({
                "type": "object", "properties": properties, "required": [name], "additionalProperties": false,
            })
        };
        json_schema!({
            "description": "Where a secret is found, or, against advice, the secret itself.",
            "anyOf": [
                {"type": "string"},
                reference("env", "The name of an environment variable."),
                reference("file", "A file that holds it; one line break at its end is cut."),
                reference("secret", "A name that the program's secret provider knows."),
            ],
        })
    }
}

impl JsonSchema for Compression {
    fn schema_name() -> Cow<'static, str> {
        "Compression".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "How a body is packed: `none`, `gzip` (level 1), `gzip-6`, `zstd` (level 1) or `zstd-3`.",
            "type": "string",
            "pattern": "^(none|gzip(-[1-9])?|zstd(-(1?[0-9]))?)$",
        })
    }
}
