//! Datadog, through its logs intake, version 2.

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
use crate::encode::array::Array;
use crate::encode::datadog::DatadogLog;

const OPERATION: &str = "datadog export";

/// The largest body, in bytes before packing: 5 MB. <https://docs.datadoghq.com/api/latest/logs/#send-logs>
const BODY_BYTES_MAX: usize = 5_000_000;
/// The largest log, in bytes: 1 MB. A larger one is cut off and answered with a success, so it is refused here. Same
/// page.
const LOG_BYTES_MAX: usize = 1_000_000;
/// Logs in a request. Same page.
const LOGS_MAX: usize = 1_000;
/// How old a log may be: 18 hours. An older one is answered with a success and dropped, so it is refused here.
/// <https://docs.datadoghq.com/logs/log_configuration/pipelines/#date-attribute>
const AGE_MAX: Duration = Duration::from_secs(18 * 60 * 60);

/// Where the intake is, below a site's address. Same page as the largest body.
const PATH: &str = "/api/v2/logs";

/// Where to send, and what to call it.
///
/// ```
/// use logship_core::{BuildContext, Exporter, read_fields};
/// use logship_exporters::datadog::Datadog;
///
/// let fields = serde_json::from_str(
///     r#"{"site": "datadoghq.eu", "api_key": "0123456789abcdef", "ddtags": ["env:prod"], "service": "checkout"}"#,
/// )?;
/// let exporter = Datadog::new(read_fields(fields)?, &BuildContext::default())?;
/// assert_eq!(exporter.limits().chunk_records_max, Some(1_000));
/// assert!(!format!("{exporter:?}").contains("0123456789abcdef"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct DatadogConfig {
    /// Which Datadog: `datadoghq.com`, `us3.datadoghq.com`, `us5.datadoghq.com`, `datadoghq.eu`, `ap1.datadoghq.com`,
    /// `ap2.datadoghq.com`, `ddog-gov.com` and so on (<https://docs.datadoghq.com/getting_started/site/>). Default:
    /// `datadoghq.com`.
    #[serde(default)]
    pub site: Option<String>,
    /// The intake's address in place of a site, such as that of a proxy. Where it has no path, `/api/v2/logs` is added.
    #[serde(default, alias = "basePath")]
    pub url: Option<SecretRef>,
    /// The API key.
    #[serde(alias = "apiKey")]
    pub api_key: SecretRef,
    /// The technology the logs are of, which chooses their pipeline. Default: `logship`.
    #[serde(default = "default_source", alias = "source")]
    pub ddsource: String,
    /// Tags of all logs, such as `env:prod`. Default: none.
    #[serde(default)]
    pub ddtags: Vec<String>,
    /// The service of logs that do not say `service.name`. Default: none.
    #[serde(default)]
    pub service: Option<String>,
    /// The host of logs that do not say `host.name`. Default: none.
    #[serde(default)]
    pub hostname: Option<String>,
    /// How bodies are packed, `gzip` or `none`. Default: `gzip`.
    #[serde(default = "default_compression")]
    pub compression: Compression,
    /// The largest body before packing, in bytes. Default and maximum: 5,000,000.
    #[serde(default = "default_chunk_bytes_max")]
    pub chunk_bytes_max: usize,
    /// How connections are made.
    #[serde(default)]
    pub connection: Connection,
}

impl DatadogConfig {
    /// Everything by default.
    pub fn new(api_key: impl Into<SecretRef>) -> Self {
        DatadogConfig {
            site: None,
            url: None,
            api_key: api_key.into(),
            ddsource: default_source(),
            ddtags: Vec::new(),
            service: None,
            hostname: None,
            compression: default_compression(),
            chunk_bytes_max: default_chunk_bytes_max(),
            connection: Connection::default(),
        }
    }

    fn validate(&self) -> Result<(), Error> {
        if !(1..=BODY_BYTES_MAX).contains(&self.chunk_bytes_max) {
            let message = format!("{} is not between 1 and {BODY_BYTES_MAX} bytes", self.chunk_bytes_max);
            return Err(Error::config("chunk_bytes_max", message));
        }
        if !matches!(self.compression, Compression::None | Compression::Gzip(_)) {
            return Err(Error::config("compression", "Datadog documents `gzip` and `none`"));
        }
        if self.ddtags.iter().any(|tag| tag.contains(',')) {
            return Err(Error::config("ddtags", "a tag holds a comma, which would make two of it"));
        }
        Ok(())
    }

    fn address(&self, context: &BuildContext) -> Result<Url, Error> {
        match (&self.url, &self.site) {
            (Some(_), Some(_)) => Err(Error::config("site", "there is a `url` too: leave one of them out")),
            (Some(url), None) => endpoint("url", context.secret("url", url)?.expose(), PATH),
            (None, site) => {
                let site = site.as_deref().unwrap_or("datadoghq.com");
                let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
                if site.is_empty() || !site.bytes().all(is_name) {
                    return Err(Error::config("site", "not a site, such as `datadoghq.eu`"));
                }
                endpoint("site", &format!("https://http-intake.logs.{site}"), PATH)
            }
        }
    }
}

fn default_source() -> String {
    "logship".to_owned()
}

fn default_compression() -> Compression {
    Compression::GZIP
}

fn default_chunk_bytes_max() -> usize {
    BODY_BYTES_MAX
}

/// Sends logs to Datadog.
///
/// **Logs** have `message` (a body that is no text as its JSON), `timestamp` (milliseconds), `status`, `service` and
/// `hostname` (of the record's `service.name` and `host.name`, else of the configuration), `id` (the record's, by which
/// repeats can be seen), `dd.trace_id` and `dd.span_id`, `logger.name` (the scope), `error.kind|message|stack` (of
/// `error.*` and `exception.*`). All other attributes are there by their names; those whose names Datadog reads
/// something out of are in `attributes`. Of two of one name the record's wins, then the first. A whole number beyond 2⁵³
/// is text.
///
/// **Limits.** 1,000 logs and 5 MB a request, 1 MB a log, and nothing older than 18 hours: Datadog answers such a log
/// with a success and then cuts it off or drops it, so it is refused before it is sent.
///
/// **Fates.** Any success means that all logs of the request were taken; Datadog says nothing of single ones, and cannot
/// tell a repeat. A 400 is split to find the log at fault. 401 and 403 are tried again once if the key, read anew, has
/// changed.
///
/// # Cancellation
/// Dropping an export closes its connection. Datadog may have taken the logs.
pub struct Datadog {
    delivery: Delivery,
    url: Url,
    key: Credential,
    encoding: Arc<Array<DatadogLog>>,
    config: DatadogConfig,
}

pub(crate) fn register(registry: &mut Registry) {
    #[cfg(feature = "schema")]
    registry.describe_exporter::<DatadogConfig>("datadog");
    registry.add_exporter("datadog", |fields, context| Datadog::new(read_fields(fields)?, context));
}

impl Datadog {
    /// Checks a configuration, finds its secrets and makes a client. Sends nothing.
    pub fn new(config: DatadogConfig, context: &BuildContext) -> Result<Self, Error> {
        config.validate()?;
        let url = config.address(context)?;
        let key = Credential::new("dd-api-key", "", "api_key", config.api_key.clone(), context)?;
        let delivery = Delivery::new(OPERATION, &config.connection, context)?;
        let (service, hostname) = (config.service.as_deref(), config.hostname.as_deref());
        let encoding = DatadogLog::array(&config.ddsource, &config.ddtags, service, hostname, config.compression);
        Ok(Datadog { delivery, url, key, encoding: Arc::new(encoding), config })
    }

    fn refused(&self, answer: &Answer) -> Error {
        let error = self.delivery.refused(answer);
        match answer.status {
            // 401 says that there is no key, 403 that it is a wrong one; the page of the largest body has both.
            401 | 403 => error.advise(Advice::Refresh),
            _ => error,
        }
    }
}

#[async_trait]
impl Exporter for Datadog {
    fn kind(&self) -> &'static str {
        "datadog"
    }

    fn limits(&self) -> Limits {
        Limits::none()
            .chunk_records_max(LOGS_MAX)
            .chunk_bytes_max(self.config.chunk_bytes_max)
            .record_bytes_max(LOG_BYTES_MAX)
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
        self.key.refresh("datadog refresh")
    }

    /// Sends a list of no logs, which shows whether the key is taken. That Datadog may not like such a list is no fault.
    async fn check(&self) -> Result<(), Error> {
        let answer = self.key.send(&self.delivery, post(&self.url, "application/json", &plain("[]"))).await?;
        match answer.status {
            200..300 | 400 | 413 => Ok(()),
            _ => Err(self.refused(&answer)),
        }
    }
}

impl fmt::Debug for Datadog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Datadog")
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

    fn exporter(fields: serde_json::Value) -> Result<Datadog, Error> {
        let serde_json::Value::Object(fields) = fields else { panic!("fields are a map") };
        Datadog::new(read_fields(fields)?, &BuildContext::default())
    }

    #[test]
    fn an_address_is_that_of_the_vendor_or_the_one_given() {
        for (fields, expected) in [
            (json!({"api_key": "hunter2"}), "https://http-intake.logs.datadoghq.com/api/v2/logs"),
            (
                json!({"api_key": "hunter2", "site": "us5.datadoghq.com"}),
                "https://http-intake.logs.us5.datadoghq.com/api/v2/logs",
            ),
            (
                json!({"apiKey": "hunter2", "basePath": "https://http-intake.logs.datadoghq.eu"}),
                "https://http-intake.logs.datadoghq.eu/api/v2/logs",
            ),
            (json!({"api_key": "hunter2", "url": "http://proxy:8080/dd"}), "http://proxy:8080/dd"),
        ] {
            assert_eq!(exporter(fields).unwrap().url.as_str(), expected);
        }
    }

    #[test]
    fn a_wrong_configuration_is_named_and_shows_no_secret() {
        for (fields, field) in [
            (json!({}), "api_key"),
            (json!({"api_key": ""}), "api_key"),
            (json!({"api_key": "hunter2\n"}), "api_key"),
            (json!({"api_key": "hunter2", "site": "a/b"}), "site"),
            (json!({"api_key": "hunter2", "site": "datadoghq.eu", "url": "http://x"}), "site"),
            (json!({"api_key": "hunter2", "url": "http://hunter2@x"}), "url"),
            (json!({"api_key": "hunter2", "ddtags": ["a,b"]}), "ddtags"),
            (json!({"api_key": "hunter2", "chunk_bytes_max": 5_000_001}), "chunk_bytes_max"),
            (json!({"api_key": "hunter2", "compression": "lz4"}), "compression"),
            (json!({"api_key": "hunter2", "connection": {"ca_file": "/absent"}}), "connection.ca_file"),
            (json!({"api_key": "hunter2", "key": 1}), "key"),
        ] {
            let shown = fields.to_string();
            let error = exporter(fields).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{shown}");
            assert!(error.to_string().contains(field), "{shown}: {error}");
            assert!(!format!("{error:?}").contains("hunter2"), "{shown}: {error}");
        }
    }
}
