//! Grafana Loki, through its push API.

mod encoding;
mod limits;
mod line;
mod refusals;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use logship_core::{
    Advice, BuildContext, Capabilities, Certainty, Chunk, Compression, Encoding, Error, ErrorKind, Exporter, Limits,
    Outcome, Registry, SecretRef, async_trait, read_fields,
};
use reqwest::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, Request, Url};
use serde::Deserialize;

use self::encoding::Fragments;
pub use self::limits::LokiLimits;
use self::refusals::Verdict;
use crate::delivery::{Answer, Delivery, basic, host_of, parse_url, secret_value};
pub use crate::delivery::{Connection, TlsVersion};
use crate::rotated::Rotated;

const OPERATION: &str = "loki push";

/// Label names of a stream, `max_label_names_per_series`.
/// <https://grafana.com/docs/loki/latest/configure/#limits_config>, as all that follow.
const LABELS_MAX: usize = 15;
/// Bytes of a label's name, `max_label_name_length`.
const LABEL_NAME_BYTES_MAX: usize = 1_024;
/// The largest body a server takes as it is sent: `max_recv_msg_size`. Unpacked it takes fifty times that, or as much in
/// versions with one limit for both, so what is within it before packing is within all of them.
/// <https://grafana.com/docs/loki/latest/configure/#distributor>
const BODY_BYTES_MAX: usize = 100 * 1024 * 1024;
/// The label by which Loki knows who wrote a line; it makes one up where there is none.
/// <https://grafana.com/docs/loki/latest/get-started/labels/#default-labels-for-all-users>
const SERVICE_NAME: &str = "service_name";

/// Where and how to push.
///
/// ```
/// use logship_core::{BuildContext, read_fields};
/// use logship_exporters::loki::Loki;
///
/// let fields = serde_json::from_str(
///     r#"{
///         "url": "https://loki.example.com",
///         "tenant": "payments",
///         "auth": {"basic": {"username": "1234", "password": "secret-token"}},
///         "labels": {"env": {"value": "prod"}, "namespace": {"attribute": "namespace"}, "level": "severity"}
///     }"#,
/// )?;
/// let exporter = Loki::new(read_fields(fields)?, BuildContext::default())?;
/// assert!(!format!("{exporter:?}").contains("secret-token"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct LokiConfig {
    /// Where Loki is, such as `http://loki:3100`; `/loki/api/v1/push` is added unless the path ends in `/push`. A user
    /// and password in it are sent as basic authentication.
    pub url: SecretRef,
    /// The tenant, sent as `X-Scope-OrgID`. Default: none.
    #[serde(default)]
    pub tenant: Option<String>,
    /// How to be let in. Default: `none`.
    #[serde(default)]
    pub auth: LokiAuth,
    /// The labels of streams, by name: at most 15, each with few values, as every combination is a stream and Loki
    /// takes 5,000 of a tenant. Default: `{"job": {"value": "logship"}}`. `service_name` is added if it is not there,
    /// from the attribute `service.name`.
    #[serde(default = "job")]
    pub labels: BTreeMap<String, LokiLabel>,
    /// What stands in a line. Default: `json`.
    #[serde(default)]
    pub line: LokiLine,
    /// How bodies are packed. Default: `gzip`.
    #[serde(default = "gzip")]
    pub compression: Compression,
    /// The largest body before packing, in bytes. Default: 1,000,000, well below the 4 MB a second with bursts of 6 MB
    /// that Loki takes of a tenant, and the 4 MiB that its parts send each other (`grpc_server_max_recv_msg_size`), both
    /// counted unpacked; at most 104,857,600.
    #[serde(default = "one_megabyte")]
    pub chunk_bytes_max: usize,
    /// Requests at a time. Default: 1, as Loki refuses what is more than an hour older than the newest line of its
    /// stream, and a later chunk that arrives first makes an earlier one of a long backlog too old.
    #[serde(default = "one")]
    pub concurrency_max: usize,
    /// What the server is set to take.
    #[serde(default)]
    pub limits: LokiLimits,
    /// How connections are made.
    #[serde(default)]
    pub connection: Connection,
}

/// How to be let in. In a configuration: `"none"`, `{"basic": {"username": …, "password": …}}` or
/// `{"bearer": {"token": …}}`.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum LokiAuth {
    /// Everybody is let in.
    #[default]
    None,
    /// A user with a password; in Grafana Cloud the number of the instance and an access token.
    Basic {
        /// The user.
        username: String,
        /// The password.
        password: SecretRef,
    },
    /// A token.
    Bearer {
        /// The token.
        token: SecretRef,
    },
}

/// Where a label's value is taken from. In a configuration: `{"value": …}`, `{"attribute": …}`, `"severity"`,
/// `"partition"` or `"scope"`. A record for which there is none goes without the label.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LokiLabel {
    /// The same for all records.
    Value(String),
    /// The attribute of this name, of the record or else of its resource.
    Attribute(String),
    /// The severity, in lower case: `info`.
    Severity,
    /// The partition of the source.
    Partition,
    /// The name of the scope: the logger.
    Scope,
}

/// What stands in a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LokiLine {
    /// The whole record as JSON, with its id; `level`, `logger`, `trace_id` and `span_id` are structured metadata too.
    #[default]
    Json,
    /// The text alone; the id, attributes and all else are structured metadata. To Loki, two records of one stream, one
    /// nanosecond and one text are one: use it where times are fine enough to tell records apart.
    Message,
}

impl LokiConfig {
    /// Everything by default.
    pub fn new(url: impl Into<SecretRef>) -> Self {
        LokiConfig {
            url: url.into(),
            tenant: None,
            auth: LokiAuth::None,
            labels: job(),
            line: LokiLine::Json,
            compression: gzip(),
            chunk_bytes_max: one_megabyte(),
            concurrency_max: one(),
            limits: LokiLimits::default(),
            connection: Connection::default(),
        }
    }

    fn validate(&self) -> Result<(), Error> {
        for name in self.labels.keys() {
            if !is_label_name(name) || name.len() > LABEL_NAME_BYTES_MAX {
                let message = format!(
                    "`{}` cannot be a label: use letters, digits and `_`, beginning with a letter, at most 1,024",
                    name.escape_debug()
                );
                return Err(Error::config("labels", message));
            }
        }
        let own = usize::from(!self.labels.contains_key(SERVICE_NAME));
        if self.labels.len() + own > LABELS_MAX {
            let message = format!("a stream has at most {LABELS_MAX} labels, `{SERVICE_NAME}` included");
            return Err(Error::config("labels", message));
        }
        if !matches!(self.compression.content_encoding(), None | Some("gzip")) {
            return Err(Error::config("compression", "must be `none` or `gzip`"));
        }
        if self.chunk_bytes_max == 0 || self.chunk_bytes_max > BODY_BYTES_MAX {
            let message = format!("{} is not between 1 and {BODY_BYTES_MAX} bytes", self.chunk_bytes_max);
            return Err(Error::config("chunk_bytes_max", message));
        }
        if self.concurrency_max == 0 {
            return Err(Error::config("concurrency_max", "must be more than 0"));
        }
        Ok(())
    }
}

/// Names that begin with two underscores are Loki's own.
/// <https://grafana.com/docs/loki/latest/get-started/labels/#label-format>
fn is_label_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && !name.starts_with("__")
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn job() -> BTreeMap<String, LokiLabel> {
    BTreeMap::from([("job".to_owned(), LokiLabel::Value("logship".to_owned()))])
}

fn gzip() -> Compression {
    Compression::GZIP
}

fn one_megabyte() -> usize {
    1_000_000
}

fn one() -> usize {
    1
}

/// Pushes chunks to a Loki.
///
/// Lines with the same labels are one stream of a request, in the order of their times. A line that is there already,
/// by stream, time and text, is usually recognised, but Loki does not promise it.
///
/// # Errors
/// Of a request with lines that Loki does not want it stores the others, and answers 400 with a text; the exporter reads
/// from it which lines were refused. A text that it cannot read leaves open what is there: the chunk is sent again in
/// halves, down to the line at fault. Limits of rate (429) are waited for.
///
/// # Cancellation
/// Dropping an export closes its connection. Loki may have taken the lines.
pub struct Loki {
    delivery: Delivery,
    url: Url,
    /// What the address itself says about who we are.
    url_auth: Option<HeaderValue>,
    config: LokiConfig,
    context: BuildContext,
    headers: Rotated<HeaderMap>,
    encoding: Arc<Fragments>,
}

pub(crate) fn register(registry: &mut Registry) {
    #[cfg(feature = "schema")]
    registry.describe_exporter::<LokiConfig>("loki");
    registry.add_exporter("loki", |fields, context| Loki::new(read_fields(fields)?, context.clone()));
}

impl Loki {
    /// Checks a configuration, finds its secrets and makes a client. Sends nothing.
    pub fn new(config: LokiConfig, context: BuildContext) -> Result<Self, Error> {
        config.validate()?;
        let (mut url, url_auth) = parse_url(context.secret("url", &config.url)?.expose())?;
        if !url.path().ends_with("/push") {
            let path = format!("{}/loki/api/v1/push", url.path().trim_end_matches('/'));
            url.set_path(&path);
        }
        let headers = Rotated::new(headers(&config, url_auth.as_ref(), &context)?);
        let delivery = Delivery::new(OPERATION, &config.connection, &context)?;
        let encoding = Arc::new(Fragments::new(&config));
        Ok(Loki { delivery, url, url_auth, headers, encoding, config, context })
    }

    async fn post(&self, body: Vec<u8>) -> Result<Answer, Error> {
        let mut request = Request::new(Method::POST, self.url.clone());
        let sent = self.headers.value();
        *request.headers_mut() = sent.clone();
        if let Some(packing) = self.config.compression.content_encoding() {
            request.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static(packing));
        }
        *request.body_mut() = Some(body.into());
        let answer = self.delivery.send(request).await?;
        if answer.status == 401 {
            self.headers.refuse(sent);
        }
        Ok(answer)
    }

    fn packed(&self, parts: &[&[u8]]) -> Result<Vec<u8>, Error> {
        let len = parts.iter().map(|part| part.len()).sum();
        self.config
            .compression
            .pack(parts.iter().copied(), len)
            .map_err(|error| Error::new(ErrorKind::Unexpected, OPERATION, "the packer failed").with_source(error))
    }

    /// What an answer says about the records of a chunk.
    fn outcome(&self, answer: &Answer, chunk: &Chunk, fragments: &[u8]) -> Result<Outcome, Error> {
        let is_empty = answer.body.trim_ascii().is_empty();
        let text = String::from_utf8_lossy(&answer.body);
        match answer.status {
            204 => Ok(Outcome::all_accepted(chunk.len())),
            200..300 if is_empty => Ok(Outcome::all_accepted(chunk.len())),
            // Writes are blocked under a status that the operator chooses, 260 by default.
            // <https://grafana.com/docs/loki/latest/configure/#limits_config>, `block_ingestion_status_code`
            200..300 if text.contains("ingestion blocked") => {
                let error = Error::new(ErrorKind::Unavailable, OPERATION, "takes no lines for now");
                Err(error.with("status", answer.status).with("answer", Error::excerpt(&answer.body)))
            }
            200..300 => Err(self
                .delivery
                .unintelligible(answer, "the answer is not that of a push; is there a proxy in between?")
                .advise(Advice::After(None))
                .with("answer", Error::excerpt(&answer.body))),
            400 => match refusals::read(&text, fragments).filter(|_| !answer.is_cut) {
                Some(verdicts) => Ok(outcome_of(&verdicts)),
                None if chunk.len() == 1 => {
                    let mut outcome = Outcome::builder(1);
                    outcome.rejected(0, "400", Error::excerpt(&answer.body));
                    Ok(outcome.build())
                }
                None => Err(self.delivery.refused(answer).certainty_is(Certainty::Unknown)),
            },
            // What the distributor took is too large for the ingesters, of which others may have taken their part.
            // <https://grafana.com/docs/loki/latest/configure/#server>, `grpc_server_max_recv_msg_size`
            500 if text.contains("received message larger than max") => {
                let error =
                    Error::new(ErrorKind::TooLarge, OPERATION, "too large for what Loki's parts send each other");
                let error = error.advise(Advice::Split).certainty_is(Certainty::Unknown);
                Err(error.with("host", &answer.host).with("answer", Error::excerpt(&answer.body)))
            }
            // The rate of a tenant is looked at before anything is stored, all else stream by stream.
            429 if !refusals::is_whole_request(&text) => {
                Err(self.delivery.refused(answer).certainty_is(Certainty::Unknown))
            }
            _ => Err(self.delivery.refused(answer)),
        }
    }
}

#[async_trait]
impl Exporter for Loki {
    fn kind(&self) -> &'static str {
        "loki"
    }

    fn limits(&self) -> Limits {
        let secs = |secs: u64| (secs > 0).then(|| Duration::from_secs(secs));
        let mut limits = Limits::none()
            .chunk_bytes_max(self.config.chunk_bytes_max)
            .record_bytes_max(self.config.chunk_bytes_max.saturating_sub(encoding::ENVELOPE_BYTES).max(1))
            .concurrency_max(self.config.concurrency_max);
        limits.record_age_max = secs(self.config.limits.age_max_secs);
        limits.record_ahead_max = secs(self.config.limits.ahead_max_secs);
        limits
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::none().answers_per_record()
    }

    fn encoding(&self) -> Option<Arc<dyn Encoding>> {
        Some(self.encoding.clone())
    }

    async fn export(&self, chunk: &Chunk) -> Result<Outcome, Error> {
        let bytes = chunk.require_body(OPERATION)?.bytes();
        let times = chunk.timestamps().map(|time| time.as_nanos());
        let packed = self.packed(&encoding::grouped(&bytes, times))?;
        chunk.sends(packed.len());
        let answer = self.post(packed).await?;
        self.outcome(&answer, chunk, &bytes)
    }

    /// Reads the secrets anew.
    async fn refresh(&self) -> Result<(), Error> {
        let fresh = headers(&self.config, self.url_auth.as_ref(), &self.context)?;
        self.headers.renew(fresh, "loki refresh").map_err(|error| error.with("host", host_of(&self.url)))
    }

    /// Pushes no streams, which whoever may push is told to be too few.
    async fn check(&self) -> Result<(), Error> {
        let answer = self.post(self.packed(&[br#"{"streams":[]}"#])?).await?;
        match answer.status {
            200..300 | 400 | 422 => Ok(()),
            _ => Err(self.delivery.refused(&answer)),
        }
    }
}

impl fmt::Debug for Loki {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loki").field("host", &host_of(&self.url)).field("config", &self.config).finish_non_exhaustive()
    }
}

fn outcome_of(verdicts: &[Verdict]) -> Outcome {
    let mut outcome = Outcome::builder(verdicts.len());
    for (index, verdict) in verdicts.iter().enumerate() {
        match verdict {
            Verdict::Stored => outcome.accepted(index),
            Verdict::Unknown => outcome.retry(index),
            Verdict::Refused(words) => outcome.rejected(index, "400", words.as_str()),
        }
    }
    outcome.build()
}

/// The headers of every request, secrets included.
fn headers(config: &LokiConfig, url_auth: Option<&HeaderValue>, context: &BuildContext) -> Result<HeaderMap, Error> {
    let mut headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
    if let Some(tenant) = &config.tenant {
        let value = HeaderValue::try_from(tenant)
            .map_err(|_| Error::config("tenant", "holds a character that no header can"))?;
        headers.insert("x-scope-orgid", value);
    }
    let value = match &config.auth {
        LokiAuth::None => url_auth.cloned(),
        _ if url_auth.is_some() => {
            return Err(Error::config("auth", "the url holds a user and password too: leave one of them out"));
        }
        LokiAuth::Basic { username, password } => {
            let password = context.secret("auth.basic.password", password)?;
            Some(basic("auth.basic", username.as_bytes(), password.expose().as_bytes())?)
        }
        LokiAuth::Bearer { token } => {
            let token = context.secret("auth.bearer.token", token)?;
            Some(secret_value("auth.bearer.token", &format!("Bearer {}", token.expose()))?)
        }
    };
    headers.extend(value.map(|value| (AUTHORIZATION, value)));
    Ok(headers)
}
