//! Logz.io, through its listener for bulk uploads.

use std::fmt;
use std::sync::Arc;

use logship_core::{
    Advice, BuildContext, Certainty, Chunk, Compression, Encoding, Error, ErrorKind, Exporter, Limits, Outcome,
    Registry, SecretRef, async_trait, read_fields,
};
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderValue};
use reqwest::{Method, Request, Url};
use serde::Deserialize;

use crate::delivery::{Answer, Delivery, host_of, parse_url};
pub use crate::delivery::{Connection, TlsVersion};
use crate::encode::events::Events;
use crate::rotated::Rotated;

const OPERATION: &str = "logzio upload";

/// "Max body size: 10 MB (10,485,760 bytes)". Whether before or after packing is not said, so it is kept before.
/// <https://docs.logz.io/docs/shipping/Code/HTTP>
const BODY_BYTES_MAX: usize = 10_485_760;

/// "Max log line size: 500,000 bytes", to which the line feed does not belong.
/// <https://docs.logz.io/docs/shipping/Code/HTTP>
const LINE_BYTES_MAX: usize = 500_000;

/// Where and how to send.
///
/// ```
/// use logship_core::{BuildContext, read_fields};
/// use logship_exporters::logzio::Logzio;
///
/// let fields = serde_json::from_str(r#"{"region": "eu", "token": "secret-token", "type": "orchestrator"}"#)?;
/// let exporter = Logzio::new(read_fields(fields)?, BuildContext::default())?;
/// assert!(!format!("{exporter:?}").contains("secret-token"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct LogzioConfig {
    /// The shipping token of the account. It is sent in the address, which is therefore never shown.
    pub token: SecretRef,
    /// The code of the account's region, such as `us`, `eu`, `uk`, `ca` or `au`
    /// (<https://docs.logz.io/docs/user-guide/admin/hosting-regions/account-region/>). Default: `us`.
    #[serde(default = "us")]
    pub region: String,
    /// Another address than the region's, such as that of a proxy: `http` or `https`. Default: none.
    #[serde(default)]
    pub url: Option<String>,
    /// What the account's parsing goes by; without spaces. Default: `logship`.
    #[serde(default = "logship", rename = "type")]
    pub kind: String,
    /// How bodies are packed. Default: `gzip`.
    #[serde(default = "gzip")]
    pub compression: Compression,
    /// The largest body before packing, in bytes. Default: 5,000,000; at most 10,485,760.
    #[serde(default = "five_megabytes")]
    pub chunk_bytes_max: usize,
    /// How connections are made.
    #[serde(default)]
    pub connection: Connection,
}

impl LogzioConfig {
    /// Everything by default.
    pub fn new(token: impl Into<SecretRef>) -> Self {
        LogzioConfig {
            token: token.into(),
            region: us(),
            url: None,
            kind: logship(),
            compression: gzip(),
            chunk_bytes_max: five_megabytes(),
            connection: Connection::default(),
        }
    }

    fn validate(&self) -> Result<(), Error> {
        let is_code =
            |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if !is_code(&self.region) {
            return Err(Error::config("region", "is not the code of a region, such as `us` or `eu`"));
        }
        if self.kind.is_empty() || self.kind.contains(char::is_whitespace) {
            return Err(Error::config("type", "must not be empty, and cannot hold spaces"));
        }
        if !matches!(self.compression.content_encoding(), None | Some("gzip")) {
            return Err(Error::config("compression", "must be `none` or `gzip`"));
        }
        if self.chunk_bytes_max == 0 || self.chunk_bytes_max > BODY_BYTES_MAX {
            let message = format!("{} is not between 1 and {BODY_BYTES_MAX} bytes", self.chunk_bytes_max);
            return Err(Error::config("chunk_bytes_max", message));
        }
        Ok(())
    }

    /// The listener's address without the token.
    fn listener(&self) -> Result<Url, Error> {
        let text = match (&self.url, self.region.as_str()) {
            (Some(url), _) => url.clone(),
            (None, "us") => "https://listener.logz.io:8071/".to_owned(),
            (None, region) => format!("https://listener-{region}.logz.io:8071/"),
        };
        match parse_url(&text)? {
            (url, None) if url.query().is_none() => Ok(url),
            _ => Err(Error::config("url", "cannot hold a user or a query: the token goes into `token`")),
        }
    }
}

fn us() -> String {
    "us".to_owned()
}

fn logship() -> String {
    "logship".to_owned()
}

fn gzip() -> Compression {
    Compression::GZIP
}

fn five_megabytes() -> usize {
    5_000_000
}

/// Sends chunks to a Logz.io account.
///
/// A log has `@timestamp` (milliseconds, UTC), `type`, `message`, `level`, `id`, `logger`, `trace_id`, `span_id`,
/// `attributes` and `resource`. Logz.io knows no repeats; `id` shows them.
///
/// # Errors
/// The listener judges each line, keeps those it likes and counts the others without naming them. Lines that were too
/// long are the longest, so they can be told; of others only their number is known: then the lane stops, as sending
/// the chunk again would store what was kept twice.
pub struct Logzio {
    delivery: Delivery,
    listener: Url,
    config: LogzioConfig,
    context: BuildContext,
    /// The whole address.
    url: Rotated<Url>,
    encoding: Arc<Events>,
}

pub(crate) fn register(registry: &mut Registry) {
    #[cfg(feature = "schema")]
    registry.describe_exporter::<LogzioConfig>("logzio");
    registry.add_exporter("logzio", |fields, context| Logzio::new(read_fields(fields)?, context.clone()));
}

impl Logzio {
    /// Checks a configuration, finds its secrets and makes a client. Sends nothing.
    pub fn new(config: LogzioConfig, context: BuildContext) -> Result<Self, Error> {
        config.validate()?;
        let listener = config.listener()?;
        let url = Rotated::new(address(&listener, &config, &context)?);
        let delivery = Delivery::new(OPERATION, &config.connection, &context)?;
        let encoding = Events::new("@timestamp", 3, Some(config.kind.clone()), config.compression);
        Ok(Logzio { delivery, listener, url, encoding: Arc::new(encoding), config, context })
    }

    async fn post(&self, body: Option<&logship_core::Body>) -> Result<Answer, Error> {
        let url = self.url.value();
        let mut request = Request::new(Method::POST, url.clone());
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(body) = body {
            if let Some(packing) = body.compression.content_encoding() {
                request.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static(packing));
            }
            *request.body_mut() = Some(body.bytes().into());
        }
        let answer = self.delivery.send(request).await?;
        if answer.status == 401 {
            self.url.refuse(url);
        }
        Ok(answer)
    }

    /// A 400: some lines were kept and some were not.
    fn partial(&self, answer: &Answer, chunk: &Chunk) -> Result<Outcome, Error> {
        let Ok(counts) = serde_json::from_slice::<Counts>(&answer.body) else {
            return Err(self.delivery.refused(answer));
        };
        let refused = counts.malformed + counts.oversized + counts.empty;
        if refused + counts.successful != chunk.len() || refused == 0 {
            return Err(self.delivery.unintelligible(answer, "the counts of the answer are not those of the request"));
        }
        if counts.successful == 0 && chunk.len() > 1 {
            return Err(self.delivery.refused(answer));
        }
        let longest = (refused == counts.oversized).then(|| self.longest(chunk, refused)).flatten();
        let mut outcome = Outcome::builder(chunk.len());
        let words = |what: &str| format!("the listener says that the line is {what}");
        match longest {
            Some(places) => {
                (0..chunk.len()).for_each(|index| outcome.accepted(index));
                places.into_iter().for_each(|index| outcome.rejected(index, "400", words("too long")));
            }
            None if chunk.len() == 1 => outcome.rejected(0, "400", words("malformed")),
            None => {
                let message = "some lines were refused and the others kept, and which is not said: \
                               ship with a `chunk` of 1 to find them";
                let error = Error::new(ErrorKind::Rejected, OPERATION, message).certainty_is(Certainty::Unknown);
                return Err(error.with("answer", Error::excerpt(&answer.body)));
            }
        }
        Ok(outcome.build())
    }

    /// The places of the so many longest records, if there are as many that are longer than all others.
    fn longest(&self, chunk: &Chunk, count: usize) -> Option<Vec<usize>> {
        let mut line = Vec::new();
        let mut lengths: Vec<(usize, usize)> = Vec::with_capacity(chunk.len());
        for (index, record) in chunk.records().enumerate() {
            line.clear();
            self.encoding.record(record, &mut line).ok()?;
            lengths.push((line.len(), index));
        }
        lengths.sort_unstable_by(|a, b| b.cmp(a));
        let is_clear = lengths.get(count).is_none_or(|(length, _)| *length < lengths[count - 1].0);
        is_clear.then(|| lengths[..count].iter().map(|(_, index)| *index).collect())
    }

    /// An answer that is none of the listener's usual ones.
    fn refused(&self, answer: &Answer) -> Error {
        match answer.status {
            // A body where there is none: somebody else has answered.
            200..300 => self
                .delivery
                .unintelligible(answer, "the answer is not that of a listener; is there a proxy in between?")
                .advise(Advice::After(None))
                .with("answer", Error::excerpt(&answer.body)),
            _ => self.delivery.refused(answer),
        }
    }
}

#[async_trait]
impl Exporter for Logzio {
    fn kind(&self) -> &'static str {
        "logzio"
    }

    fn limits(&self) -> Limits {
        // A record is encoded with its line feed.
        let line = (LINE_BYTES_MAX + 1).min(self.config.chunk_bytes_max);
        Limits::none().chunk_bytes_max(self.config.chunk_bytes_max).record_bytes_max(line)
    }

    fn encoding(&self) -> Option<Arc<dyn Encoding>> {
        Some(self.encoding.clone())
    }

    async fn export(&self, chunk: &Chunk) -> Result<Outcome, Error> {
        let body = chunk.require_body(OPERATION)?;
        let answer = self.post(Some(body)).await?;
        match answer.status {
            200..300 if answer.body.trim_ascii().is_empty() && !answer.is_cut => Ok(Outcome::all_accepted(chunk.len())),
            400 => self.partial(&answer, chunk),
            _ => Err(self.refused(&answer)),
        }
    }

    /// Reads the token anew.
    async fn refresh(&self) -> Result<(), Error> {
        let fresh = address(&self.listener, &self.config, &self.context)?;
        self.url.renew(fresh, "logzio refresh").map_err(|error| error.with("host", host_of(&self.listener)))
    }

    /// Sends an empty body, which an account that knows the token takes or calls bad input.
    async fn check(&self) -> Result<(), Error> {
        let answer = self.post(None).await?;
        match answer.status {
            200..300 | 400 => Ok(()),
            _ => Err(self.delivery.refused(&answer)),
        }
    }
}

impl fmt::Debug for Logzio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Logzio")
            .field("host", &host_of(&self.listener))
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// The answer to lines of which some were refused.
#[derive(Deserialize)]
struct Counts {
    #[serde(rename = "malformedLines", default)]
    malformed: usize,
    #[serde(rename = "successfulLines")]
    successful: usize,
    #[serde(rename = "oversizedLines", default)]
    oversized: usize,
    #[serde(rename = "emptyLogLines", default)]
    empty: usize,
}

/// The listener's address with the token and the type.
fn address(listener: &Url, config: &LogzioConfig, context: &BuildContext) -> Result<Url, Error> {
    let token = context.secret("token", &config.token)?;
    if token.expose().trim().is_empty() {
        return Err(Error::config("token", "is empty"));
    }
    let mut url = listener.clone();
    url.query_pairs_mut().append_pair("token", token.expose()).append_pair("type", &config.kind);
    Ok(url)
}
