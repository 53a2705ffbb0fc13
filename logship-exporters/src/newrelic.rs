//! New Relic, through its Log API.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use logship_core::{
    Advice, BuildContext, Chunk, Compression, Encoding, Error, Exporter, Limits, Outcome, Registry, SecretRef,
    async_trait, read_fields,
};
use reqwest::Url;
use serde::Deserialize;

use crate::credential::Credential;
use crate::delivery::{Answer, Delivery, endpoint, host_of, plain, post};
pub use crate::delivery::{Connection, TlsVersion};
use crate::encode::newrelic::NewRelicEncoding;

const OPERATION: &str = "newrelic export";

/// The largest body, in bytes: 1 MB. The page does not say whether before or after packing; what is refused all the
/// same is split. <https://docs.newrelic.com/docs/logs/log-api/introduction-log-api/#limits>
const BODY_BYTES_MAX: usize = 1_000_000;
/// How old a log may be: 48 hours. An older one is answered with a success and may be dropped, so it is refused here.
/// Same page.
const AGE_MAX: Duration = Duration::from_secs(48 * 60 * 60);
/// Common attributes that may be configured: few enough to leave room for a record's own.
const COMMON_MAX: usize = 50;

/// Where the Log API is, below its host. Same page.
const PATH: &str = "/log/v1";

/// Where to send, and what to say of all logs.
///
/// ```
/// use logship_core::{BuildContext, read_fields};
/// use logship_exporters::newrelic::NewRelic;
///
/// let fields = serde_json::from_str(r#"{"region": "eu", "license_key": "eu01xx0123456789NRAL"}"#)?;
/// let exporter = NewRelic::new(read_fields(fields)?, &BuildContext::default())?;
/// assert!(!format!("{exporter:?}").contains("eu01xx0123456789NRAL"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct NewRelicConfig {
    /// Where the account is: `us`, `eu` or `fedramp`. Default: `us`.
    #[serde(default)]
    pub region: Option<NewRelicRegion>,
    /// The Log API's address in place of a region, such as that of a proxy. Where it has no path, `/log/v1` is added.
    #[serde(default, alias = "basePath")]
    pub url: Option<SecretRef>,
    /// The license key.
    #[serde(alias = "apiKey", alias = "api_key")]
    pub license_key: SecretRef,
    /// Attributes of all logs, at most 50, such as `service.name`; a record's own of the same name wins. Default: none.
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
    /// How bodies are packed, `gzip` or `none`. Default: `gzip`.
    #[serde(default = "default_compression")]
    pub compression: Compression,
    /// The largest body before packing, in bytes. Default: 5,000,000, which packs to less than the 1,000,000 bytes that
    /// are sent at most. Set it to 1,000,000 if New Relic answers 413.
    #[serde(default = "default_chunk_bytes_max")]
    pub chunk_bytes_max: usize,
    /// How connections are made.
    #[serde(default)]
    pub connection: Connection,
}

/// Where an account is. <https://docs.newrelic.com/docs/logs/log-api/introduction-log-api/#endpoint>
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum NewRelicRegion {
    /// The United States: `log-api.newrelic.com`.
    #[default]
    Us,
    /// The European Union: `log-api.eu.newrelic.com`.
    Eu,
    /// The one authorised by FedRAMP: `gov-log-api.newrelic.com`.
    FedRamp,
}

impl NewRelicRegion {
    fn url(self) -> &'static str {
        match self {
            NewRelicRegion::Us => "https://log-api.newrelic.com",
            NewRelicRegion::Eu => "https://log-api.eu.newrelic.com",
            NewRelicRegion::FedRamp => "https://gov-log-api.newrelic.com",
        }
    }
}

impl NewRelicConfig {
    /// Everything by default.
    pub fn new(license_key: impl Into<SecretRef>) -> Self {
        NewRelicConfig {
            region: None,
            url: None,
            license_key: license_key.into(),
            attributes: BTreeMap::new(),
            compression: default_compression(),
            chunk_bytes_max: default_chunk_bytes_max(),
            connection: Connection::default(),
        }
    }

    fn validate(&self) -> Result<(), Error> {
        if self.chunk_bytes_max == 0 {
            return Err(Error::config("chunk_bytes_max", "must be more than 0"));
        }
        if !matches!(self.compression, Compression::None | Compression::Gzip(_)) {
            return Err(Error::config("compression", "New Relic documents `gzip` and `none`"));
        }
        if self.attributes.len() > COMMON_MAX {
            return Err(Error::config("attributes", format!("more than {COMMON_MAX}")));
        }
        Ok(())
    }

    fn address(&self, context: &BuildContext) -> Result<Url, Error> {
        match (&self.url, self.region) {
            (Some(_), Some(_)) => Err(Error::config("region", "there is a `url` too: leave one of them out")),
            (Some(url), None) => endpoint("url", context.secret("url", url)?.expose(), PATH),
            (None, region) => endpoint("region", region.unwrap_or_default().url(), PATH),
        }
    }
}

fn default_compression() -> Compression {
    Compression::GZIP
}

fn default_chunk_bytes_max() -> usize {
    5_000_000
}

/// Sends logs to New Relic.
///
/// **Logs** have `message` (a body that is no text as its JSON), `timestamp` (milliseconds), and as attributes `level`,
/// `record.id` (by which repeats can be seen), `trace.id`, `span.id`, `logger.name` (the scope) and those of the record
/// and its resource. Objects become names with dots, lists the text of their JSON. Of two of one name the record's wins,
/// then the first. Attributes that New Relic has no place for, because there are more than 255, or because it keeps
/// their names for itself, are in `logship.attributes`, as the text of their JSON.
///
/// **Limits.** 1 MB a request as sent, and nothing older than 48 hours, nor a value longer than 128,000 bytes: New Relic
/// answers such a log with a success and then drops it or cuts it off, so it is refused before it is sent.
///
/// **Fates.** Any success means that all logs of the request were received; New Relic checks them later, says nothing of
/// single ones but in `NrIntegrationError` events of the account, and cannot tell a repeat. A 400 is split to find the
/// log at fault. 401 and 403 are tried again once if the key, read anew, has changed.
///
/// # Cancellation
/// Dropping an export closes its connection. New Relic may have taken the logs.
pub struct NewRelic {
    delivery: Delivery,
    url: Url,
    key: Credential,
    encoding: Arc<NewRelicEncoding>,
    config: NewRelicConfig,
}

pub(crate) fn register(registry: &mut Registry) {
    #[cfg(feature = "schema")]
    registry.describe_exporter::<NewRelicConfig>("newrelic");
    registry.add_exporter("newrelic", |fields, context| NewRelic::new(read_fields(fields)?, context));
}

impl NewRelic {
    /// Checks a configuration, finds its secrets and makes a client. Sends nothing.
    pub fn new(config: NewRelicConfig, context: &BuildContext) -> Result<Self, Error> {
        config.validate()?;
        let url = config.address(context)?;
        let key = Credential::new("api-key", "", "license_key", config.license_key.clone(), context)?;
        let delivery = Delivery::new(OPERATION, &config.connection, context)?;
        // Tells New Relic, and whoever looks at its data, what sent them.
        let mut common = vec![("plugin.type".to_owned(), "logship".to_owned())];
        let is_other = |(name, _): &(&String, &String)| *name != "plugin.type";
        common.extend(config.attributes.iter().filter(is_other).map(|(name, value)| (name.clone(), value.clone())));
        let encoding = Arc::new(NewRelicEncoding::new(&common, config.compression));
        Ok(NewRelic { delivery, url, key, encoding, config })
    }

    fn refused(&self, answer: &Answer) -> Error {
        let error = self.delivery.refused(answer);
        match answer.status {
            // 403 says that the key is missing or wrong, on the page of the largest body.
            401 | 403 => error.advise(Advice::Refresh),
            _ => error,
        }
    }
}

#[async_trait]
impl Exporter for NewRelic {
    fn kind(&self) -> &'static str {
        "newrelic"
    }

    fn limits(&self) -> Limits {
        Limits::none()
            .chunk_bytes_max(self.config.chunk_bytes_max)
            .wire_bytes_max(BODY_BYTES_MAX)
            .record_age_max(AGE_MAX)
    }

    fn encoding(&self) -> Option<Arc<dyn Encoding>> {
        Some(Arc::clone(&self.encoding) as Arc<dyn Encoding>)
    }

    async fn export(&self, chunk: &Chunk) -> Result<Outcome, Error> {
        let body = chunk.require_body(OPERATION)?;
        let answer = self.key.send(&self.delivery, post(&self.url, "application/json", body)).await?;
        match answer.status {
            200..300 => Ok(Outcome::all_accepted(chunk.len())),
            _ => Err(self.refused(&answer)),
        }
    }

    async fn refresh(&self) -> Result<(), Error> {
        self.key.refresh("newrelic refresh")
    }

    /// Sends a list of no logs, which shows whether the key is taken. That New Relic may not like such a list is no
    /// fault.
    async fn check(&self) -> Result<(), Error> {
        let answer = self.key.send(&self.delivery, post(&self.url, "application/json", &plain("[]"))).await?;
        match answer.status {
            200..300 | 400 | 413 => Ok(()),
            _ => Err(self.refused(&answer)),
        }
    }
}

impl fmt::Debug for NewRelic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewRelic")
            .field("host", &host_of(&self.url))
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use logship_core::ErrorKind;
    use serde_json::json;

    fn exporter(fields: serde_json::Value) -> Result<NewRelic, Error> {
        let serde_json::Value::Object(fields) = fields else { panic!("fields are a map") };
        NewRelic::new(read_fields(fields)?, &BuildContext::default())
    }

    #[test]
    fn an_address_is_that_of_the_vendor_or_the_one_given() {
        for (fields, expected) in [
            (json!({"license_key": "hunter2"}), "https://log-api.newrelic.com/log/v1"),
            (json!({"license_key": "hunter2", "region": "eu"}), "https://log-api.eu.newrelic.com/log/v1"),
            (json!({"license_key": "hunter2", "region": "fedramp"}), "https://gov-log-api.newrelic.com/log/v1"),
            (
                json!({"apiKey": "hunter2", "basePath": "https://log-api.newrelic.com"}),
                "https://log-api.newrelic.com/log/v1",
            ),
        ] {
            assert_eq!(exporter(fields).unwrap().url.as_str(), expected);
        }
    }

    #[test]
    fn a_wrong_configuration_is_named_and_shows_no_secret() {
        for (fields, field) in [
            (json!({}), "license_key"),
            (json!({"license_key": ""}), "license_key"),
            (json!({"license_key": "hunter2", "region": "mars"}), "region"),
            (json!({"license_key": "hunter2", "region": "eu", "url": "http://x"}), "region"),
            (json!({"license_key": "hunter2", "url": "http://hunter2@x"}), "url"),
            (json!({"license_key": "hunter2", "chunk_bytes_max": 0}), "chunk_bytes_max"),
            (json!({"license_key": "hunter2", "attributes": {"a": 1}}), "attributes.a"),
            (json!({"license_key": "hunter2", "key": 1}), "key"),
        ] {
            let shown = fields.to_string();
            let error = exporter(fields).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{shown}");
            assert!(error.to_string().contains(field), "{shown}: {error}");
            assert!(!format!("{error:?}").contains("hunter2"), "{shown}: {error}");
        }
    }
}
