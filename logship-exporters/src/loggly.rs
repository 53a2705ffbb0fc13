//! SolarWinds Loggly, through its bulk endpoint.

use std::fmt;
use std::sync::Arc;

use logship_core::{
    Advice, BuildContext, Certainty, Chunk, Compression, Encoding, Error, Exporter, Limits, Outcome, Registry,
    SecretRef, async_trait, read_fields,
};
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderValue};
use reqwest::{Method, Request, Url};
use serde::Deserialize;

use crate::delivery::{Answer, Delivery, host_of, parse_url};
pub use crate::delivery::{Connection, TlsVersion};
use crate::encode::events::Events;
use crate::rotated::Rotated;

const OPERATION: &str = "loggly bulk";

/// "A maximum of 5MB per batch and up to 1MB per event", both in the smaller reading.
/// <https://documentation.solarwinds.com/en/success_center/loggly/content/admin/http-bulk-endpoint.htm>
const BATCH_BYTES_MAX: usize = 5_000_000;
/// As above; the line feed does not belong to the event.
const EVENT_BYTES_MAX: usize = 1_000_000;

/// Where and how to send.
///
/// ```
/// use logship_core::{BuildContext, read_fields};
/// use logship_exporters::loggly::Loggly;
///
/// let fields = serde_json::from_str(r#"{"token": "secret-token", "tags": ["orchestrator", "prod"]}"#)?;
/// let exporter = Loggly::new(read_fields(fields)?, BuildContext::default())?;
/// assert!(!format!("{exporter:?}").contains("secret-token"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct LogglyConfig {
    /// The customer token. It is sent in the address, which is therefore never shown.
    pub token: SecretRef,
    /// Where the account is. Default: `https://logs-01.loggly.com`.
    #[serde(default = "logs_01")]
    pub url: String,
    /// What events are found by: letters, digits, `-`, `.` and `_`, beginning with a letter or digit, at most 64
    /// (<https://documentation.solarwinds.com/en/success_center/loggly/content/admin/tags.htm>).
    /// Default: `logship`.
    #[serde(default = "logship")]
    pub tags: Vec<String>,
    /// How bodies are packed. Default: `none`, as Loggly does not say that it takes anything else.
    #[serde(default)]
    pub compression: Compression,
    /// The largest body before packing, in bytes. Default, and at most: 5,000,000.
    #[serde(default = "five_megabytes")]
    pub chunk_bytes_max: usize,
    /// How connections are made.
    #[serde(default)]
    pub connection: Connection,
}

impl LogglyConfig {
    /// Everything by default.
    pub fn new(token: impl Into<SecretRef>) -> Self {
        LogglyConfig {
            token: token.into(),
            url: logs_01(),
            tags: logship(),
            compression: Compression::None,
            chunk_bytes_max: five_megabytes(),
            connection: Connection::default(),
        }
    }

    fn validate(&self) -> Result<(), Error> {
        let is_tag = |tag: &String| {
            (1..=64).contains(&tag.len())
                && tag.starts_with(|first: char| first.is_ascii_alphanumeric())
                && tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
        };
        if let Some(tag) = self.tags.iter().find(|tag| !is_tag(tag)) {
            let message =
                format!("`{}` cannot be a tag: use 1 to 64 letters, digits, `-`, `.` and `_`", tag.escape_debug());
            return Err(Error::config("tags", message));
        }
        if !matches!(self.compression.content_encoding(), None | Some("gzip")) {
            return Err(Error::config("compression", "must be `none` or `gzip`"));
        }
        if self.chunk_bytes_max == 0 || self.chunk_bytes_max > BATCH_BYTES_MAX {
            let message = format!("{} is not between 1 and {BATCH_BYTES_MAX} bytes", self.chunk_bytes_max);
            return Err(Error::config("chunk_bytes_max", message));
        }
        Ok(())
    }
}

fn logs_01() -> String {
    "https://logs-01.loggly.com".to_owned()
}

fn logship() -> Vec<String> {
    vec!["logship".to_owned()]
}

fn five_megabytes() -> usize {
    BATCH_BYTES_MAX
}

/// Sends chunks to a Loggly account.
///
/// An event has `timestamp` (microseconds, UTC, which is what Loggly takes as the event's time), `message`, `level`,
/// `id`, `logger`, `trace_id`, `span_id`, `attributes` and `resource`. Loggly takes or refuses a request as a whole and
/// knows no repeats; `id` shows them. What it has answered `ok` to it has received, and indexes later.
pub struct Loggly {
    delivery: Delivery,
    base: Url,
    config: LogglyConfig,
    context: BuildContext,
    /// The whole address.
    url: Rotated<Url>,
    encoding: Arc<Events>,
}

pub(crate) fn register(registry: &mut Registry) {
    #[cfg(feature = "schema")]
    registry.describe_exporter::<LogglyConfig>("loggly");
    registry.add_exporter("loggly", |fields, context| Loggly::new(read_fields(fields)?, context.clone()));
}

impl Loggly {
    /// Checks a configuration, finds its secrets and makes a client. Sends nothing.
    pub fn new(config: LogglyConfig, context: BuildContext) -> Result<Self, Error> {
        config.validate()?;
        let (base, None) = parse_url(&config.url)? else {
            return Err(Error::config("url", "cannot hold a user: the token goes into `token`"));
        };
        let url = Rotated::new(address(&base, &config, &context)?);
        let delivery = Delivery::new(OPERATION, &config.connection, &context)?;
        let encoding = Arc::new(Events::new("timestamp", 6, None, config.compression));
        Ok(Loggly { delivery, base, url, encoding, config, context })
    }

    fn request(&self, method: Method) -> Request {
        Request::new(method, self.url.value())
    }

    async fn send(&self, request: Request) -> Result<Answer, Error> {
        let url = request.url().clone();
        let answer = self.delivery.send(request).await?;
        if matches!(answer.status, 401 | 403) {
            self.url.refuse(url);
        }
        Ok(answer)
    }

    fn refused(&self, answer: &Answer) -> Error {
        let error = self.delivery.refused(answer);
        match answer.status {
            // A token that is not known, which another one may be.
            403 => error.advise(Advice::Refresh),
            200..300 => self
                .delivery
                .unintelligible(answer, "the answer is not Loggly's `ok`; is there a proxy in between?")
                .advise(Advice::After(None))
                .with("answer", Error::excerpt(&answer.body)),
            // Nothing was kept, but a proxy cannot know that.
            _ => error,
        }
    }
}

#[async_trait]
impl Exporter for Loggly {
    fn kind(&self) -> &'static str {
        "loggly"
    }

    fn limits(&self) -> Limits {
        // A record is encoded with its line feed.
        let event = (EVENT_BYTES_MAX + 1).min(self.config.chunk_bytes_max);
        Limits::none().chunk_bytes_max(self.config.chunk_bytes_max).record_bytes_max(event)
    }

    fn encoding(&self) -> Option<Arc<dyn Encoding>> {
        Some(self.encoding.clone())
    }

    async fn export(&self, chunk: &Chunk) -> Result<Outcome, Error> {
        let body = chunk.require_body(OPERATION)?;
        let mut request = self.request(Method::POST);
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(packing) = body.compression.content_encoding() {
            request.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static(packing));
        }
        *request.body_mut() = Some(body.bytes().into());
        let answer = self.send(request).await?;
        match serde_json::from_slice::<Taken>(&answer.body) {
            Ok(taken) if (200..300).contains(&answer.status) && taken.response == "ok" && !answer.is_cut => {
                Ok(Outcome::all_accepted(chunk.len()))
            }
            _ => Err(self.refused(&answer)),
        }
    }

    /// Reads the token anew.
    async fn refresh(&self) -> Result<(), Error> {
        let fresh = address(&self.base, &self.config, &self.context)?;
        self.url.renew(fresh, "loggly refresh").map_err(|error| error.with("host", host_of(&self.base)))
    }

    /// Asks for the head of the address, as an empty event would be one. Any answer will do but one that does not let
    /// us in.
    async fn check(&self) -> Result<(), Error> {
        let answer = self.send(self.request(Method::HEAD)).await?;
        match answer.status {
            401 | 403 | 407 => Err(self.refused(&answer).certainty_is(Certainty::NotDelivered)),
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for Loggly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loggly")
            .field("host", &host_of(&self.base))
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// The answer to a body that was taken.
#[derive(Deserialize)]
struct Taken {
    response: String,
}

/// The address with the token and the tags.
fn address(base: &Url, config: &LogglyConfig, context: &BuildContext) -> Result<Url, Error> {
    let token = context.secret("token", &config.token)?;
    if token.expose().trim().is_empty() {
        return Err(Error::config("token", "is empty"));
    }
    let mut url = base.clone();
    let tags = config.tags.join(",");
    let mut segments = url.path_segments_mut().map_err(|()| Error::config("url", "cannot be built upon"))?;
    segments.pop_if_empty().extend(["bulk", token.expose()]);
    if !tags.is_empty() {
        segments.extend(["tag", &tags]);
    }
    segments.push("");
    drop(segments);
    Ok(url)
}
