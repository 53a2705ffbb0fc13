//! What happens to every record before any lane sees it.

use std::fmt;
use std::sync::Arc;

use serde::Deserialize;

use crate::{LogRecord, Resource, Text, Value};

/// Changes records between the source and all lanes: no exporter, dead letter or error sees what was there before.
///
/// # Contract
/// 1. [`apply`](Transform::apply) MUST NOT change a record's id.
/// 2. [`apply`](Transform::apply) MUST make the same of the same record every time, whoever asks.
/// 3. [`apply`](Transform::apply) MUST NOT wait, for it runs for every record.
pub trait Transform: fmt::Debug + Send + Sync {
    /// Changes one record.
    fn apply(&self, record: &mut LogRecord);
}

/// Adds what is the same for every record. What a record says itself stays.
///
/// ```
/// use logship_core::{Cursor, Enrichment, LogRecord, Partition, RecordId, Timestamp, Transform};
///
/// let enrichment = Enrichment::new().resource("deployment.environment.name", "production");
/// let id = RecordId::new(Partition::new("logs"), Cursor::number(1));
/// let mut record = LogRecord::new(id, Timestamp::now());
/// enrichment.apply(&mut record);
/// assert_eq!(record.resource.attributes[0].1, "production".into());
/// ```
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Enrichment {
    /// Attributes of every record, by name.
    #[cfg_attr(feature = "schema", schemars(with = "Vec<(String, String)>"))]
    attributes: Vec<(Text, Text)>,
    /// Attributes of every record's resource, by name.
    #[cfg_attr(feature = "schema", schemars(with = "Vec<(String, String)>"))]
    resource: Vec<(Text, Text)>,
}

impl Enrichment {
    /// Adds nothing.
    pub fn new() -> Self {
        Enrichment::default()
    }

    /// Adds an attribute to every record.
    #[must_use]
    pub fn attribute(mut self, name: &str, value: &str) -> Self {
        self.attributes.push((name.into(), value.into()));
        self
    }

    /// Adds an attribute to every record's resource.
    #[must_use]
    pub fn resource(mut self, name: &str, value: &str) -> Self {
        self.resource.push((name.into(), value.into()));
        self
    }

    /// Adds the name of this machine as the resource's `host.name`
    /// (<https://opentelemetry.io/docs/specs/semconv/resource/host/>), where the environment says it (`HOSTNAME`) or
    /// `/etc/hostname` does.
    #[must_use]
    pub fn host_name(self) -> Self {
        let name = std::env::var("HOSTNAME").ok().or_else(|| std::fs::read_to_string("/etc/hostname").ok());
        match name.as_deref().map(str::trim).filter(|name| !name.is_empty()) {
            Some(name) => self.resource("host.name", name),
            None => self,
        }
    }
}

impl Transform for Enrichment {
    fn apply(&self, record: &mut LogRecord) {
        for (name, value) in &self.attributes {
            if record.attribute(name).is_none() {
                record.attributes.push((name.clone(), Value::String(value.clone())));
            }
        }
        let is_missing = |(name, _): &&(Text, Text)| !record.resource.attributes.iter().any(|(known, _)| known == name);
        let missing: Vec<_> = self.resource.iter().filter(is_missing).collect();
        if !missing.is_empty() {
            let mut attributes = record.resource.attributes.clone();
            attributes.extend(missing.into_iter().map(|(name, value)| (name.clone(), Value::String(value.clone()))));
            record.resource = Arc::new(Resource { attributes });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Cursor, Partition, RecordId, Timestamp};

    #[test]
    fn what_a_record_says_itself_stays() {
        let enrichment = Enrichment::new().attribute("team", "payments").attribute("flow", "x").resource("zone", "a");
        let id = RecordId::new(Partition::new("logs"), Cursor::number(1));
        let mut record = LogRecord::new(id.clone(), Timestamp::from_secs(0));
        record.attributes.push(("flow".into(), "load".into()));
        enrichment.apply(&mut record);
        let once = record.clone();
        enrichment.apply(&mut record);
        assert_eq!(record, once, "a second time changes nothing");
        assert_eq!(record.id, id);
        assert_eq!(record.attribute("flow"), Some(&"load".into()));
        assert_eq!(record.attribute("team"), Some(&"payments".into()));
        assert_eq!(record.resource.attributes, [("zone".into(), "a".into())]);
    }
}
