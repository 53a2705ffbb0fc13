//! Azure Monitor, through its Logs Ingestion API.

use std::fmt;
use std::sync::Arc;

pub use logship_connect::azure::EntraCredentials;
use logship_connect::token::Tokens;
pub use logship_connect::token::{AccessToken, TokenProvider};
use logship_core::{
    Advice, BuildContext, Chunk, Compression, Encoding, Error, Exporter, Limits, Outcome, Registry, async_trait,
    read_fields,
};
use reqwest::Url;
use serde::Deserialize;

use crate::bearer;
use crate::delivery::{Answer, Delivery, endpoint, host_of, plain, post};
pub use crate::delivery::{Connection, TlsVersion};
use crate::encode::array::Array;
use crate::encode::azure_monitor::Row;

/// The largest body, in bytes: 1 MB, both before and after packing.
/// <https://learn.microsoft.com/azure/azure-monitor/fundamentals/service-limits#logs-ingestion-api>
const BODY_BYTES_MAX: usize = 1_000_000;

/// <https://learn.microsoft.com/azure/azure-monitor/logs/logs-ingestion-api-overview#uri>
const API_VERSION: &str = "2023-01-01";

/// What tokens are asked for, by what the endpoint's host ends with.
/// <https://learn.microsoft.com/azure/azure-monitor/logs/logs-ingestion-api-overview#authentication>
const SCOPES: [(&str, &str); 3] = [
    (".azure.cn", "https://monitor.azure.cn/.default"),
    (".azure.us", "https://monitor.azure.us/.default"),
    ("", "https://monitor.azure.com/.default"),
];

/// Where to send, and as whom.
///
/// ```
/// use logship_core::{BuildContext, Exporter, read_fields};
/// use logship_exporters::azure_monitor::AzureMonitor;
///
/// let fields = serde_json::from_str(
///     r#"{
///         "endpoint": "https://logs-ab12.westeurope-1.ingest.monitor.azure.com",
///         "rule_id": "dcr-69f0b123041d4d6e9f2bf72aad0b62cf",
///         "stream_name": "Custom-Checkout",
///         "credentials": {"client_secret": {
///             "tenant_id": "72f988bf-86f1-41af-91ab-2d7cd011db47",
///             "client_id": "0a1b2c3d-0000-0000-0000-000000000000",
///             "client_secret": "secret-word"
///         }}
///     }"#,
/// )?;
/// let exporter = AzureMonitor::new(read_fields(fields)?, &BuildContext::default())?;
/// assert_eq!(exporter.limits().chunk_bytes_max, Some(1_000_000));
/// assert!(!format!("{exporter:?}").contains("secret-word"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct AzureMonitorConfig {
    /// The address of the data collection endpoint, or the one for ingestion of a rule that has its own.
    pub endpoint: String,
    /// The immutable id of the data collection rule, such as `dcr-` and 32 digits. Whoever sends needs the role Monitoring
    /// Metrics Publisher on it.
    pub rule_id: String,
    /// The stream, as the rule declares it, such as `Custom-Logs`.
    pub stream_name: String,
    /// Who we are at Entra. Default: `default`, what the environment gives.
    #[serde(default)]
    pub credentials: EntraCredentials,
    /// How bodies are packed, `gzip` or `none`. Default: `gzip`.
    #[serde(default = "default_compression")]
    pub compression: Compression,
    /// How connections are made, also those to Entra.
    #[serde(default)]
    pub connection: Connection,
}

impl AzureMonitorConfig {
    /// Everything else by default.
    pub fn new(endpoint: impl Into<String>, rule_id: impl Into<String>, stream_name: impl Into<String>) -> Self {
        AzureMonitorConfig {
            endpoint: endpoint.into(),
            rule_id: rule_id.into(),
            stream_name: stream_name.into(),
            credentials: EntraCredentials::default(),
            compression: default_compression(),
            connection: Connection::default(),
        }
    }

    fn validate(&self) -> Result<(), Error> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        for (field, value) in [("rule_id", &self.rule_id), ("stream_name", &self.stream_name)] {
            if value.is_empty() || !value.bytes().all(is_plain) {
                return Err(Error::config(field, "must be of letters, digits, `-` and `_`, as the rule has it"));
            }
        }
        if !matches!(self.compression, Compression::None | Compression::Gzip(_)) {
            return Err(Error::config("compression", "Azure Monitor documents `gzip` and `none`"));
        }
        Ok(())
    }

    fn address(&self) -> Result<Url, Error> {
        let mut url = endpoint("endpoint", &self.endpoint, "/")?;
        let base = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{base}/dataCollectionRules/{}/streams/{}", self.rule_id, self.stream_name));
        url.set_query(Some(&format!("api-version={API_VERSION}")));
        Ok(url)
    }
}

fn default_compression() -> Compression {
    Compression::GZIP
}

/// Sends logs to Azure Monitor.
///
/// **Rows** have the columns `TimeGenerated` and `Timestamp` (both the record's time), `ObservedTimestamp`, `RecordId` (by
/// which repeats can be seen), `Severity`, `SeverityNumber`, `Message` (a body that is no text as its JSON), `Logger` (the
/// scope), `TraceId`, `SpanId`, and the objects `Attributes` and `Resource`, for columns of the type `dynamic`. The rule
/// says which of them it takes; Azure drops the others without a word. It also replaces a `TimeGenerated` of more than 2
/// days ago, or of more than 1 day ahead, by the time of arrival
/// (<https://learn.microsoft.com/azure/azure-monitor/logs/log-standard-columns#timegenerated>), so a rule should take
/// `Timestamp` too. Of two attributes of one name the first is there. A whole number beyond 2⁵³ is text.
///
/// **Limits.** 1 MB a request, before and after packing. A record with a column of more than 64,000 bytes is refused
/// before it is sent: Azure answers such a row with a success and cuts it off.
///
/// **Fates.** A success means that all rows of the request were taken; Azure says nothing of single ones, and cannot tell a
/// repeat. A 400 is split to find the row at fault, unless it is about the stream. 401 is tried again once with another
/// token.
///
/// # Cancellation
/// Dropping an export closes its connection. Azure may have taken the logs.
pub struct AzureMonitor {
    delivery: Delivery,
    url: Url,
    tokens: Tokens,
    encoding: Arc<Array<Row>>,
    config: AzureMonitorConfig,
}

/// What an answer says that is no success.
#[derive(Default, Deserialize)]
struct Said {
    #[serde(default)]
    error: Reason,
}

#[derive(Default, Deserialize)]
struct Reason {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

impl Reason {
    /// Whether it is about where the rows go, which no row can help.
    fn is_about_address(&self) -> bool {
        [&self.code, &self.message].into_iter().any(|text| {
            let text = text.to_ascii_lowercase();
            ["stream", "api-version", "apiversion", "data collection rule"].iter().any(|word| text.contains(word))
        })
    }
}

pub(crate) fn register(registry: &mut Registry) {
    #[cfg(feature = "schema")]
    registry.describe_exporter::<AzureMonitorConfig>("azure_monitor");
    registry.add_exporter("azure_monitor", |fields, context| AzureMonitor::new(read_fields(fields)?, context));
}

impl AzureMonitor {
    /// Checks a configuration, finds its secrets and makes a client. Sends nothing.
    pub fn new(config: AzureMonitorConfig, context: &BuildContext) -> Result<Self, Error> {
        config.validate()?;
        let url = config.address()?;
        let host = url.host_str().unwrap_or_default();
        let scope = SCOPES.iter().find(|(end, _)| host.ends_with(end)).map_or("", |(_, scope)| scope);
        let tokens = config.credentials.tokens_in("credentials", scope, &config.connection, context)?;
        let delivery = Delivery::new("azure_monitor export", &config.connection, context)?.with_plain_address();
        let encoding = Arc::new(Array::new("azure_monitor", Row, config.compression));
        Ok(AzureMonitor { delivery, url, tokens, encoding, config })
    }

    fn refused(&self, answer: &Answer) -> Error {
        let said: Said = serde_json::from_slice(&answer.body).unwrap_or_default();
        match answer.status {
            // A body where there is none: somebody else has answered.
            200..300 => self
                .delivery
                .unintelligible(answer, "the answer is not that of Azure Monitor; is there a proxy in between?")
                .advise(Advice::After(None)),
            400 if said.error.is_about_address() => self.delivery.refused(answer).advise(Advice::Never),
            _ => self.delivery.refused(answer),
        }
    }
}

#[async_trait]
impl Exporter for AzureMonitor {
    fn kind(&self) -> &'static str {
        "azure_monitor"
    }

    fn limits(&self) -> Limits {
        Limits::none().chunk_bytes_max(BODY_BYTES_MAX).wire_bytes_max(BODY_BYTES_MAX)
    }

    fn encoding(&self) -> Option<Arc<dyn Encoding>> {
        Some(Arc::clone(&self.encoding) as Arc<dyn Encoding>)
    }

    async fn export(&self, chunk: &Chunk) -> Result<Outcome, Error> {
        let body = chunk.require_body("azure_monitor export")?;
        let request = post(&self.url, "application/json", body);
        let answer = bearer::send(&self.delivery, &self.tokens, request).await?;
        match answer.status {
            200..300 if answer.body.is_empty() && !answer.is_cut => Ok(Outcome::all_accepted(chunk.len())),
            _ => Err(self.refused(&answer)),
        }
    }

    /// Asks for another token.
    async fn refresh(&self) -> Result<(), Error> {
        self.tokens.token().await.map(drop)
    }

    /// Sends a list of no rows, which shows whether we are let in. That Azure may not like such a list is no fault, but
    /// where it is about the stream.
    async fn check(&self) -> Result<(), Error> {
        let request = post(&self.url, "application/json", &plain("[]"));
        let answer = bearer::send(&self.delivery, &self.tokens, request).await?;
        let error = match answer.status {
            200..300 if answer.body.is_empty() => return Ok(()),
            _ => self.refused(&answer),
        };
        match answer.status {
            400 if error.advice() == Advice::Split => Ok(()),
            _ => Err(error),
        }
    }
}

impl fmt::Debug for AzureMonitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AzureMonitor")
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

    fn exporter(fields: serde_json::Value) -> Result<AzureMonitor, Error> {
        let serde_json::Value::Object(mut fields) = fields else { panic!("fields are a map") };
        for (name, value) in [("endpoint", "https://x.ingest.monitor.azure.com"), ("rule_id", "dcr-1")] {
            fields.entry(name).or_insert(value.into());
        }
        fields.entry("stream_name").or_insert("Custom-Logs".into());
        AzureMonitor::new(read_fields(fields)?, &BuildContext::default())
    }

    #[test]
    fn an_address_is_that_of_the_stream() {
        for (endpoint, expected) in [
            (
                "https://x.ingest.monitor.azure.com/",
                "https://x.ingest.monitor.azure.com/dataCollectionRules/dcr-1/streams/Custom-Logs?api-version=2023-01-01",
            ),
            ("http://proxy/a", "http://proxy/a/dataCollectionRules/dcr-1/streams/Custom-Logs?api-version=2023-01-01"),
        ] {
            assert_eq!(exporter(json!({"endpoint": endpoint})).unwrap().url.as_str(), expected);
        }
    }

    #[test]
    fn tokens_are_for_the_cloud_that_the_endpoint_is_in() {
        for (host, scope) in [
            ("x.ingest.monitor.azure.com", "https://monitor.azure.com/.default"),
            ("x.ingest.monitor.azure.cn", "https://monitor.azure.cn/.default"),
            ("x.ingest.monitor.azure.us", "https://monitor.azure.us/.default"),
        ] {
            let exporter = exporter(json!({"endpoint": format!("https://{host}")})).unwrap();
            assert!(format!("{:?}", exporter.tokens).contains(scope), "{:?}", exporter.tokens);
        }
    }

    #[test]
    fn a_wrong_configuration_is_named_and_shows_no_secret() {
        let secret = |tenant: &str, secret: &str| json!({"client_secret": {"tenant_id": tenant, "client_id": "app", "client_secret": secret}});
        for (fields, field) in [
            (json!({"rule_id": ""}), "rule_id"),
            (json!({"stream_name": "a/b"}), "stream_name"),
            (json!({"endpoint": "http://hunter2@x"}), "endpoint"),
            (json!({"endpoint": "x"}), "endpoint"),
            (json!({"credentials": secret("hunter2 hunter2", "hunter2")}), "credentials"),
            (json!({"credentials": secret("t", "")}), "credentials"),
            (json!({"credentials": {"client_secret": {"tenant_id": "t"}}}), "client_id"),
            (json!({"compression": "lz4"}), "compression"),
            (json!({"connection": {"ca_file": "/absent"}}), "connection.ca_file"),
            (json!({"key": 1}), "key"),
        ] {
            let shown = fields.to_string();
            let error = exporter(fields).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{shown}");
            assert!(error.to_string().contains(field), "{shown}: {error}");
            assert!(!format!("{error:?}").contains("hunter2"), "{shown}: {error}");
        }
    }
}
