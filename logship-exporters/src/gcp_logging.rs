//! Google Cloud Logging, through `entries.write` of its API, version 2.

mod answer;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use logship_connect::google::GoogleCredentials;
use logship_connect::google::Impersonation;
use logship_connect::token::Tokens;
pub use logship_connect::token::{AccessToken, TokenProvider};
use logship_core::{
    BuildContext, Capabilities, Chunk, Compression, Encoding, Error, ErrorKind, Exporter, Idempotency, Limits, Outcome,
    Registry, SecretRef, async_trait, read_fields,
};
use reqwest::{Request, Url};
use serde::Deserialize;

use crate::bearer;
use crate::delivery::{Answer, Delivery, endpoint, host_of, plain, post};
pub use crate::delivery::{Connection, TlsVersion};
use crate::encode::gcp_logging::EntryEncoding;

/// The largest request, in bytes before packing: 10 MB. <https://docs.cloud.google.com/logging/quotas#log-limits>
const BODY_BYTES_MAX: usize = 10_000_000;
/// The largest entry, in bytes. Google's limit is 256 KiB of a form of its own, which it calls approximate, so that 240
/// KiB of JSON are taken. Same page.
const ENTRY_BYTES_MAX: usize = 240 * 1024;
/// Entries in a request, as Google's own libraries send: so an answer that names all of them is read in full.
const ENTRIES_MAX: usize = 1_000;
/// How far ahead an entry's time may be: 24 hours.
/// <https://docs.cloud.google.com/logging/docs/reference/v2/rest/v2/LogEntry>
const AHEAD_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a bucket can be told to keep entries, in days. <https://docs.cloud.google.com/logging/quotas#logs_retention_periods>
const RETENTION_DAYS_MAX: u32 = 3_650;
/// Labels that entries may have; bytes of a label's name; bytes of its value. Same page as the largest request.
const LABELS_MAX: (usize, usize, usize) = (64, 512, 64 * 1024);

/// <https://docs.cloud.google.com/logging/docs/reference/v2/rest/v2/entries/write>
const ENDPOINT: &str = "https://logging.googleapis.com";
const PATH: &str = "/v2/entries:write";

/// What writing entries takes, and not more.
const SCOPE: &str = "https://www.googleapis.com/auth/logging.write";

/// Where to send, and as whom.
///
/// ```
/// use logship_core::{BuildContext, Exporter, read_fields};
/// use logship_exporters::gcp_logging::GcpLogging;
///
/// let fields = serde_json::from_str(
///     r#"{"project_id": "my-project", "log_id": "checkout", "credentials": "metadata", "labels": {"env": "prod"}}"#,
/// )?;
/// let exporter = GcpLogging::new(read_fields(fields)?, &BuildContext::default())?;
/// assert_eq!(exporter.limits().chunk_bytes_max, Some(10_000_000));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct GcpLoggingConfig {
    /// The project that the log is in. Default: the one that `service_account` is of.
    pub project_id: Option<String>,
    /// The log's name within the project: less than 512 letters, digits, `/`, `_`, `-` and `.`. Default: `logship`.
    pub log_id: Option<String>,
    /// The key of a service account, as JSON. It needs the role Logs Writer. Default: none, which leaves it to
    /// `credentials`.
    pub service_account: Option<SecretRef>,
    /// Who we are where `service_account` does not say. Default: `default`, what the machine has to give.
    pub credentials: GoogleCredentials,
    /// A service account that writes in our place. We need the role Service Account Token Creator on it. Default: none.
    pub impersonated_service_account: Option<String>,
    /// What tokens are asked for. Default: `https://www.googleapis.com/auth/logging.write`.
    pub scopes: Vec<String>,
    /// What the entries are of. Default: the resource `global` of the project.
    pub resource: MonitoredResource,
    /// Labels of all entries, at most 64. Default: none.
    pub labels: BTreeMap<String, String>,
    /// How many days the log's bucket keeps entries, 1 to 3,650. An older one would be answered with a success and not
    /// stored, so it is refused before it is sent. Default: 30, as of a bucket that was told nothing.
    pub retention_days: Option<u32>,
    /// Another address than Google's own, such as that of a region. Default: none.
    pub endpoint: Option<String>,
    /// How bodies are packed, `gzip` or `none`. Google does not document that it takes packed ones. Default: `none`.
    pub compression: Compression,
    /// How connections are made, but for those that `service_account` and `credentials` ask for tokens over.
    pub connection: Connection,
}

/// What entries are of. <https://docs.cloud.google.com/logging/docs/api/v2/resource-list>
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct MonitoredResource {
    /// The type, such as `generic_task`. Default: `global`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The labels that the type has. Default: none, but `project_id` of `global`.
    pub labels: BTreeMap<String, String>,
}

impl Default for MonitoredResource {
    fn default() -> Self {
        MonitoredResource { kind: "global".to_owned(), labels: BTreeMap::new() }
    }
}

impl GcpLoggingConfig {
    /// This project, everything else as by default.
    pub fn new(project_id: impl Into<String>) -> Self {
        GcpLoggingConfig { project_id: Some(project_id.into()), ..GcpLoggingConfig::default() }
    }

    fn validate(&self) -> Result<(), Error> {
        if self.service_account.is_some() && !matches!(self.credentials, GoogleCredentials::Default) {
            return Err(Error::config("credentials", "there is a `service_account` too: leave one of them out"));
        }
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/_-.".contains(&byte);
        if !(1..512).contains(&self.log_id().len()) || !self.log_id().bytes().all(is_plain) {
            let message = "not a log's name: use less than 512 letters, digits, `/`, `_`, `-` and `.`";
            return Err(Error::config("log_id", message));
        }
        let (labels_max, name_bytes_max, value_bytes_max) = LABELS_MAX;
        if self.labels.len() > labels_max {
            return Err(Error::config("labels", format!("more than {labels_max}")));
        }
        for (name, value) in &self.labels {
            if name.len() > name_bytes_max || value.len() > value_bytes_max {
                let message = format!("more than {name_bytes_max} bytes of a name or {value_bytes_max} of a value");
                return Err(Error::config("labels", message));
            }
        }
        if self.resource.kind.is_empty() {
            return Err(Error::config("resource.type", "is empty"));
        }
        if self.scopes.iter().any(|scope| scope.is_empty() || scope.contains(char::is_whitespace)) {
            return Err(Error::config("scopes", "not the name of a scope"));
        }
        if !(1..=RETENTION_DAYS_MAX).contains(&self.retention_days()) {
            let message = format!("{} is not between 1 and {RETENTION_DAYS_MAX} days", self.retention_days());
            return Err(Error::config("retention_days", message));
        }
        if !matches!(self.compression, Compression::None | Compression::Gzip(_)) {
            return Err(Error::config("compression", "Google takes `gzip` and `none`"));
        }
        Ok(())
    }

    fn log_id(&self) -> &str {
        self.log_id.as_deref().unwrap_or("logship")
    }

    fn retention_days(&self) -> u32 {
        self.retention_days.unwrap_or(30)
    }

    /// The project's id, where it is said or known from the key.
    fn project(&self, context: &BuildContext) -> Result<String, Error> {
        #[derive(Deserialize)]
        struct Key {
            project_id: Option<String>,
        }
        let named = match (&self.project_id, &self.service_account) {
            (Some(project), _) => Some(project.clone()),
            (None, Some(reference)) => {
                let key = context.secret("service_account", reference)?;
                // What is wrong with the key is said where it is used.
                serde_json::from_str::<Key>(key.expose()).ok().and_then(|key| key.project_id)
            }
            (None, None) => None,
        };
        let project = named.ok_or_else(|| Error::config("project_id", "no project is named"))?;
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-.:".contains(&byte);
        if project.is_empty() || !project.bytes().all(is_plain) {
            return Err(Error::config("project_id", "not the id of a project, such as `my-project`"));
        }
        Ok(project)
    }

    /// The tokens to send with; `None` where nobody asks.
    fn tokens(&self, context: &BuildContext) -> Result<Option<Tokens>, Error> {
        let (field, credentials) = match &self.service_account {
            Some(key) => ("service_account", GoogleCredentials::ServiceAccount(key.clone())),
            None => ("credentials.service_account", self.credentials.clone()),
        };
        let scopes = if self.scopes.is_empty() { SCOPE.to_owned() } else { self.scopes.join(" ") };
        let Some(account) = &self.impersonated_service_account else {
            return credentials.tokens_in(field, &scopes, context);
        };
        let Some(own) = credentials.tokens_in(field, Impersonation::SCOPE, context)? else {
            return Err(Error::config("impersonated_service_account", "`credentials` says that nobody asks"));
        };
        let impersonation = Impersonation::new(own, account, &self.connection, context)?;
        Ok(Some(Tokens::new(Arc::new(impersonation), scopes)))
    }
}

/// Sends logs to Google Cloud Logging.
///
/// **Entries** have `timestamp`, `severity`, `insertId` (the record's id), `trace` and `spanId`. The payload is an
/// object: `message` (the body), `logger` (the scope), `severity_text` (where it says more than the severity), and the
/// attributes of the record and its resource by their names; those named like one of ours are in `attributes`. Of two of
/// one name the record's wins, then the first. A whole number beyond 2⁵³ is text.
///
/// **Limits.** 1,000 entries and 10 MB a request, 240 KiB an entry, nothing older than the bucket keeps it, and nothing
/// further ahead than 24 hours.
///
/// **Fates.** `partialSuccess` is asked for, so that each entry has its own: those which Google names are refused, or
/// sent again where its code says that it is busy, and the others are written. A request that is refused without a name
/// is split. Google recognises an entry that is there already by its time and `insertId`, and shows it once; where the
/// project routes the log elsewhere, both may arrive there. 401 is tried again once with another token.
///
/// # Cancellation
/// Dropping an export closes its connection. Google may have taken the logs.
pub struct GcpLogging {
    delivery: Delivery,
    url: Url,
    tokens: Option<Tokens>,
    encoding: Arc<EntryEncoding>,
    /// A request that writes nothing.
    rehearsal: Vec<u8>,
    config: GcpLoggingConfig,
}

pub(crate) fn register(registry: &mut Registry) {
    #[cfg(feature = "schema")]
    registry.describe_exporter::<GcpLoggingConfig>("gcp_logging");
    registry.add_exporter("gcp_logging", |fields, context| GcpLogging::new(read_fields(fields)?, context));
}

impl GcpLogging {
    /// Checks a configuration, finds its secrets and makes a client. Sends nothing.
    pub fn new(config: GcpLoggingConfig, context: &BuildContext) -> Result<Self, Error> {
        config.validate()?;
        let project = config.project(context)?;
        let url = endpoint("endpoint", config.endpoint.as_deref().unwrap_or(ENDPOINT), PATH)?;
        let tokens = config.tokens(context)?;
        let delivery = Delivery::new("gcp_logging export", &config.connection, context)?.with_plain_address();
        let log = format!("projects/{project}/logs/{}", config.log_id().replace('/', "%2F"));
        let mut resource = config.resource.labels.clone();
        if config.resource.kind == "global" && resource.is_empty() {
            resource.insert("project_id".to_owned(), project.clone());
        }
        let resource = (config.resource.kind.as_str(), &resource);
        let encoding = EntryEncoding::new(&project, &log, resource, &config.labels, config.compression);
        let mut rehearsal = EntryEncoding::envelope(&log, resource, &config.labels, "\"dryRun\":true");
        rehearsal.extend_from_slice(b"{\"textPayload\":\"logship\"}]}");
        Ok(GcpLogging { delivery, url, tokens, encoding: Arc::new(encoding), rehearsal, config })
    }

    async fn send(&self, request: Request) -> Result<Answer, Error> {
        match &self.tokens {
            Some(tokens) => bearer::send(&self.delivery, tokens, request).await,
            None => self.delivery.send(request).await,
        }
    }
}

#[async_trait]
impl Exporter for GcpLogging {
    fn kind(&self) -> &'static str {
        "gcp_logging"
    }

    fn limits(&self) -> Limits {
        let days = Duration::from_secs(24 * 60 * 60);
        Limits::none()
            .chunk_records_max(ENTRIES_MAX)
            .chunk_bytes_max(BODY_BYTES_MAX)
            .record_bytes_max(ENTRY_BYTES_MAX)
            .record_age_max(days * self.config.retention_days())
            .record_ahead_max(AHEAD_MAX)
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::none().idempotency(Idempotency::PerRecord).answers_per_record()
    }

    fn encoding(&self) -> Option<Arc<dyn Encoding>> {
        Some(Arc::clone(&self.encoding) as Arc<dyn Encoding>)
    }

    async fn export(&self, chunk: &Chunk) -> Result<Outcome, Error> {
        let body = chunk.require_body("gcp_logging export")?;
        let answer = self.send(post(&self.url, "application/json", body)).await?;
        answer::outcome(&self.delivery, &answer, chunk.len())
    }

    /// Asks for another token.
    async fn refresh(&self) -> Result<(), Error> {
        match &self.tokens {
            Some(tokens) => tokens.token().await.map(drop),
            None => Err(Error::new(ErrorKind::Auth, "gcp_logging refresh", "`credentials` says that nobody asks")),
        }
    }

    /// Sends an entry as a rehearsal, which is not stored.
    async fn check(&self) -> Result<(), Error> {
        let answer = self.send(post(&self.url, "application/json", &plain(self.rehearsal.clone()))).await?;
        match answer.status {
            200..300 => Ok(()),
            _ => Err(self.delivery.refused(&answer)),
        }
    }
}

impl fmt::Debug for GcpLogging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GcpLogging")
            .field("host", &host_of(&self.url))
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn exporter(fields: serde_json::Value) -> Result<GcpLogging, Error> {
        let serde_json::Value::Object(fields) = fields else { panic!("fields are a map") };
        GcpLogging::new(read_fields(fields)?, &BuildContext::default())
    }

    #[test]
    fn a_log_is_named_as_google_wants_it() {
        let exporter = exporter(json!({"project_id": "acme", "log_id": "a/b", "resource": {"type": "generic_node"}}));
        let exporter = exporter.unwrap();
        let begin = String::from_utf8(exporter.encoding.begin().to_vec()).unwrap();
        assert!(begin.contains("\"projects/acme/logs/a%2Fb\""), "{begin}");
        assert!(begin.contains("{\"type\":\"generic_node\",\"labels\":{}}"), "{begin}");
        assert_eq!(exporter.url.as_str(), "https://logging.googleapis.com/v2/entries:write");
    }

    #[test]
    fn a_wrong_configuration_is_named_and_shows_no_secret() {
        let labels: BTreeMap<String, String> = (0..65).map(|n| (n.to_string(), String::new())).collect();
        for (fields, field) in [
            (json!({}), "project_id"),
            (json!({"project_id": "projects/acme"}), "project_id"),
            (json!({"project_id": "acme", "log_id": ""}), "log_id"),
            (json!({"project_id": "acme", "log_id": "x".repeat(512)}), "log_id"),
            (json!({"project_id": "acme", "log_id": "a b"}), "log_id"),
            (json!({"project_id": "acme", "service_account": "hunter2"}), "service_account"),
            (json!({"project_id": "acme", "service_account": "hunter2", "credentials": "metadata"}), "credentials"),
            (json!({"project_id": "acme", "credentials": {"service_account": "hunter2"}}), "credentials"),
            (json!({"project_id": "acme", "impersonated_service_account": "a/b"}), "impersonated_service_account"),
            (
                json!({"project_id": "acme", "credentials": "none", "impersonated_service_account": "a"}),
                "impersonated_service_account",
            ),
            (json!({"project_id": "acme", "scopes": ["a b"]}), "scopes"),
            (json!({"project_id": "acme", "labels": labels}), "labels"),
            (json!({"project_id": "acme", "labels": {"x".repeat(513): ""}}), "labels"),
            (json!({"project_id": "acme", "resource": {"type": ""}}), "resource.type"),
            (json!({"project_id": "acme", "retention_days": 0}), "retention_days"),
            (json!({"project_id": "acme", "retention_days": 3_651}), "retention_days"),
            (json!({"project_id": "acme", "compression": "lz4"}), "compression"),
            (json!({"project_id": "acme", "endpoint": "http://hunter2@x"}), "endpoint"),
            (json!({"project_id": "acme", "key": 1}), "key"),
        ] {
            let shown = fields.to_string();
            let error = exporter(fields).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{shown}");
            assert!(error.to_string().contains(field), "{shown}: {error}");
            assert!(!format!("{error:?}").contains("hunter2"), "{shown}: {error}");
        }
    }
}
