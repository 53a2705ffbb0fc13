//! Splunk, through its HTTP Event Collector.

mod answer;

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use logship_core::{
    Body, BuildContext, Chunk, Compression, Encoding, Error, ErrorKind, Exporter, Limits, Outcome, Registry, SecretRef,
    async_trait, read_fields,
};
use reqwest::header::{COOKIE, HeaderName, HeaderValue, SET_COOKIE};
use reqwest::{Method, Request, Url};
use serde::Deserialize;
use tokio::time::Instant;

use self::answer::Verdict;
use crate::credential::Credential;
use crate::delivery::{Answer, Delivery, endpoint, host_of, plain, post, secret_value};
pub use crate::delivery::{Connection, TlsVersion};
use crate::encode::records::Records;
use crate::encode::splunk::SplunkEncoding;

const OPERATION: &str = "splunk export";

/// The largest body, in bytes before packing. A server takes what its `max_content_length` says, 838,860,800 unless
/// changed, and 1,000,000 of old (<https://docs.splunk.com/Documentation/Splunk/latest/Admin/Limitsconf#.5Bhttp_input.5D>);
/// what is refused is split.
const CHUNK_BYTES_MAX: usize = 2 * 1024 * 1024;

/// The largest event, in bytes: Splunk cuts an event off at `TRUNCATE`, which is set for each source type
/// (<https://docs.splunk.com/Documentation/Splunk/latest/Admin/Propsconf>), so this is a bound of ours.
const EVENT_BYTES_MAX: usize = 1_000_000;

/// The header that names the channel. <https://docs.splunk.com/Documentation/Splunk/latest/Data/AboutHECIDXAck>
const CHANNEL: HeaderName = HeaderName::from_static("x-splunk-request-channel");

/// Where to send, and what to say of all events.
///
/// ```
/// use logship_core::{BuildContext, read_fields};
/// use logship_exporters::splunk::Splunk;
///
/// let fields = serde_json::from_str(
///     r#"{"url": "https://splunk:8088", "token": "B5A79AAD-D822-46CC-80D1-819F80D7BFB0", "index": "main"}"#,
/// )?;
/// let exporter = Splunk::new(read_fields(fields)?, &BuildContext::default())?;
/// assert!(!format!("{exporter:?}").contains("B5A79AAD"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct SplunkConfig {
    /// The collector's address, such as `https://splunk:8088`; `/services/collector/...` is added to it.
    #[serde(alias = "host", alias = "basePath")]
    pub url: SecretRef,
    /// The collector's token.
    pub token: SecretRef,
    /// Where events go: `event`, each with its own metadata, or `raw`, as lines of JSON. Default: `event`.
    #[serde(default)]
    pub endpoint: SplunkEndpoint,
    /// The index. Default: the token's.
    #[serde(default)]
    pub index: Option<String>,
    /// The source. Default: `logship`.
    #[serde(default = "default_source")]
    pub source: String,
    /// The source type. Default: `_json`.
    #[serde(default = "default_sourcetype")]
    pub sourcetype: String,
    /// The host of records that do not say `host.name`; of all, at the raw endpoint. Default: what Splunk makes of it.
    #[serde(default)]
    pub hostname: Option<String>,
    /// Further indexed fields of all events; not at the raw endpoint. Default: none.
    #[serde(default)]
    pub fields: BTreeMap<String, String>,
    /// Waits until events are indexed before they count as accepted. The token must have acknowledgement switched on
    /// (Splunk Cloud has it for Firehose only). Indexing takes Splunk seconds to minutes, so give the lane an
    /// `attempt_timeout` of five minutes and some `concurrency`. Default: false.
    #[serde(default)]
    pub acknowledge: bool,
    /// Milliseconds from one question whether events are indexed to the next. Default: 10,000, as Splunk's page has it.
    #[serde(default = "default_poll_ms", rename = "acknowledge_poll_ms")]
    pub acknowledge_poll_ms: u64,
    /// The channel, a GUID, needed where events are acknowledged. Each exporter needs one of its own. Default: one
    /// drawn by chance.
    #[serde(default)]
    pub channel: Option<String>,
    /// How bodies are packed, `gzip` or `none`. Default: `gzip`.
    #[serde(default = "default_compression")]
    pub compression: Compression,
    /// The largest body before packing, in bytes. Default: 2,097,152.
    #[serde(default = "default_chunk_bytes_max")]
    pub chunk_bytes_max: usize,
    /// How connections are made.
    #[serde(default)]
    pub connection: Connection,
}

/// Where events go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum SplunkEndpoint {
    /// `/services/collector/event`
    #[default]
    Event,
    /// `/services/collector/raw`
    Raw,
}

impl SplunkConfig {
    /// Everything by default.
    pub fn new(url: impl Into<SecretRef>, token: impl Into<SecretRef>) -> Self {
        SplunkConfig {
            url: url.into(),
            token: token.into(),
            endpoint: SplunkEndpoint::default(),
            index: None,
            source: default_source(),
            sourcetype: default_sourcetype(),
            hostname: None,
            fields: BTreeMap::new(),
            acknowledge: false,
            acknowledge_poll_ms: default_poll_ms(),
            channel: None,
            compression: default_compression(),
            chunk_bytes_max: default_chunk_bytes_max(),
            connection: Connection::default(),
        }
    }

    fn validate(&self) -> Result<(), Error> {
        if self.chunk_bytes_max == 0 {
            return Err(Error::config("chunk_bytes_max", "must be more than 0"));
        }
        if self.acknowledge_poll_ms == 0 {
            return Err(Error::config("acknowledge_poll_ms", "must be more than 0"));
        }
        if !matches!(self.compression, Compression::None | Compression::Gzip(_)) {
            return Err(Error::config("compression", "Splunk documents `gzip` and `none`"));
        }
        if self.endpoint == SplunkEndpoint::Raw && !self.fields.is_empty() {
            return Err(Error::config("fields", "the raw endpoint takes none"));
        }
        let is_guid = |text: &String| {
            let lengths = text.split('-').map(str::len);
            lengths.eq([8, 4, 4, 4, 12]) && text.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit())
        };
        if !self.channel.as_ref().is_none_or(is_guid) {
            return Err(Error::config("channel", "not a GUID, such as `0aeeac95-ac74-4aa9-b30d-6c4c0ac581ba`"));
        }
        Ok(())
    }

    /// What is said of all events; the index only where there is one.
    fn metadata(&self) -> Vec<(&'static str, String)> {
        let mut metadata = vec![("source", self.source.clone()), ("sourcetype", self.sourcetype.clone())];
        metadata.extend(self.index.clone().map(|index| ("index", index)));
        metadata
    }

    fn encoding(&self) -> Arc<dyn Encoding> {
        match self.endpoint {
            SplunkEndpoint::Raw => Arc::new(Records::new(self.compression)),
            SplunkEndpoint::Event => {
                let (hostname, fields) = (self.hostname.clone(), &self.fields);
                Arc::new(SplunkEncoding::new(&self.metadata(), fields, hostname, self.compression))
            }
        }
    }
}

fn default_source() -> String {
    "logship".to_owned()
}

fn default_sourcetype() -> String {
    "_json".to_owned()
}

fn default_poll_ms() -> u64 {
    10_000
}

fn default_compression() -> Compression {
    Compression::GZIP
}

fn default_chunk_bytes_max() -> usize {
    CHUNK_BYTES_MAX
}

/// Sends events to Splunk.
///
/// **Events** have `time` (to the nanosecond where the record has it), `host` (of the record's `host.name`, else of the
/// configuration), the configured `source`, `sourcetype` and `index`; as indexed `fields` `level`, `service`,
/// `record_id` (by which repeats can be seen), `trace_id`, `span_id` and the configured ones; and as the `event` an
/// object of `message`, `logger` (the scope) and all attributes by their names. Of two of one name the record's wins,
/// then the first; a `message` among them is in `attributes`. A whole number beyond 2⁵³ is text. The raw endpoint gets
/// records as lines of JSON, in OpenTelemetry's names.
///
/// **Fates.** Without acknowledgement a success means that Splunk received the events; what it has not indexed when it
/// crashes is lost. With `acknowledge` it means that they are indexed: an export then asks until Splunk says so, at once
/// and then in steps of `acknowledge_poll_ms`, and ends when the lane's `attempt_timeout` does, after which the events
/// are sent again and may be there twice. These questions are the only thing it waits for; nothing is sent twice by the
/// exporter itself. Answers name the first event they refuse: it is refused, those behind it are sent again, and so are
/// those before it, which Splunk may or may not have kept, and which count as possibly duplicated.
///
/// Splunk cannot tell a repeat. 401 and 403 are tried again once if the token, read anew, has changed.
///
/// Behind a load balancer, questions must reach the server that took the events: the cookies of the answer are sent back
/// with them.
///
/// # Cancellation
/// Dropping an export closes its connection. Splunk may have taken the events.
pub struct Splunk {
    delivery: Delivery,
    /// Where events go.
    url: Url,
    /// The collector.
    base: Url,
    token: Credential,
    channel: HeaderValue,
    encoding: Arc<dyn Encoding>,
    config: SplunkConfig,
}

pub(crate) fn register(registry: &mut Registry) {
    #[cfg(feature = "schema")]
    registry.describe_exporter::<SplunkConfig>("splunk");
    registry.add_exporter("splunk", |fields, context| Splunk::new(read_fields(fields)?, context));
}

impl Splunk {
    /// Checks a configuration, finds its secrets and makes a client. Sends nothing.
    pub fn new(config: SplunkConfig, context: &BuildContext) -> Result<Self, Error> {
        config.validate()?;
        let mut base = endpoint("url", context.secret("url", &config.url)?.expose(), "/services/collector")?;
        let path = base.path().trim_end_matches('/');
        let path = ["/event", "/raw"].iter().find_map(|end| path.strip_suffix(end)).unwrap_or(path).to_owned();
        let is_whole = path.ends_with("/services/collector");
        base.set_path(&if is_whole { path } else { path + "/services/collector" });
        base.set_query(None);
        let token = Credential::new("authorization", "Splunk ", "token", config.token.clone(), context)?;
        let delivery = Delivery::new(OPERATION, &config.connection, context)?;
        let channel = config.channel.clone().unwrap_or_else(guid);
        let url = match config.endpoint {
            SplunkEndpoint::Event => below(&base, "event"),
            SplunkEndpoint::Raw => {
                let mut url = below(&base, "raw");
                let mut query = url.query_pairs_mut();
                query.append_pair("channel", &channel);
                query.extend_pairs(config.metadata());
                query.extend_pairs(config.hostname.iter().map(|host| ("host", host)));
                drop(query);
                url
            }
        };
        let channel = secret_value("channel", &channel)?;
        Ok(Splunk { delivery, url, base, token, channel, encoding: config.encoding(), config })
    }

    fn request(&self, url: &Url, body: &Body) -> Request {
        let mut request = post(url, "application/json", body);
        request.headers_mut().insert(CHANNEL, self.channel.clone());
        request
    }

    /// Asks whether a request is indexed until it is. A `true` is given once, so an answer that gets lost leaves us
    /// without: the events are then sent again.
    async fn indexed(&self, ack: u64, answer: &Answer) -> Result<(), Error> {
        let mut request = self.request(&below(&self.base, "ack"), &plain(format!("{{\"acks\":[{ack}]}}")));
        if let Some(cookies) = cookies(answer) {
            request.headers_mut().insert(COOKIE, cookies);
        }
        let period = Duration::from_millis(self.config.acknowledge_poll_ms);
        let mut ticks = tokio::time::interval_at(Instant::now() + period, period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let Some(question) = request.try_clone() else {
                return Err(Error::new(ErrorKind::Unexpected, "splunk acknowledgement", "the question cannot be made"));
            };
            let answer = self.token.send(&self.delivery, question).await.map_err(answer::received)?;
            if answer::is_indexed(&self.delivery, &answer, ack)? {
                return Ok(());
            }
            ticks.tick().await;
        }
    }
}

#[async_trait]
impl Exporter for Splunk {
    fn kind(&self) -> &'static str {
        "splunk"
    }

    fn limits(&self) -> Limits {
        Limits::none().chunk_bytes_max(self.config.chunk_bytes_max).record_bytes_max(EVENT_BYTES_MAX)
    }

    fn encoding(&self) -> Option<Arc<dyn Encoding>> {
        Some(Arc::clone(&self.encoding))
    }

    async fn export(&self, chunk: &Chunk) -> Result<Outcome, Error> {
        let body = chunk.require_body(OPERATION)?;
        let answer = self.token.send(&self.delivery, self.request(&self.url, body)).await?;
        match answer::verdict(&self.delivery, &answer, chunk.len())? {
            Verdict::Refused(outcome) => Ok(outcome),
            Verdict::Received(Some(ack)) if self.config.acknowledge => {
                self.indexed(ack, &answer).await?;
                Ok(Outcome::all_accepted(chunk.len()))
            }
            Verdict::Received(None) if self.config.acknowledge => {
                let message =
                    "the token does not acknowledge: switch indexer acknowledgement on for it, or `acknowledge` off";
                Err(answer::received(Error::new(ErrorKind::Config, OPERATION, message)))
            }
            Verdict::Received(_) => Ok(Outcome::all_accepted(chunk.len())),
        }
    }

    async fn refresh(&self) -> Result<(), Error> {
        self.token.refresh("splunk refresh")
    }

    /// Asks for the collector's health, with the token.
    /// <https://docs.splunk.com/Documentation/Splunk/latest/RESTREF/RESTinput#services.2Fcollector.2Fhealth>
    async fn check(&self) -> Result<(), Error> {
        let request = Request::new(Method::GET, below(&self.base, "health"));
        let answer = self.token.send(&self.delivery, request).await?;
        match answer.status {
            200..300 => Ok(()),
            _ => Err(answer::refused(&self.delivery, &answer)),
        }
    }
}

impl fmt::Debug for Splunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Splunk")
            .field("host", &host_of(&self.url))
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// A path below the collector's.
fn below(base: &Url, name: &str) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}/{name}", base.path()));
    url
}

/// The cookies that an answer sets, as a client sends them back.
fn cookies(answer: &Answer) -> Option<HeaderValue> {
    let set = answer.headers.get_all(SET_COOKIE).iter().filter_map(|cookie| cookie.to_str().ok());
    let pairs: Vec<&str> = set.filter_map(|cookie| cookie.split(';').next()).collect();
    if pairs.is_empty() { None } else { HeaderValue::try_from(pairs.join("; ")).ok() }
}

/// A GUID of version 4. Chance comes from the seeds of the standard library's hash maps, which the system draws.
fn guid() -> String {
    let draw = || u128::from(RandomState::new().build_hasher().finish());
    let bits = (draw() << 64 | draw()) & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let text = format!("{bits:032x}");
    [&text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..]].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn exporter(fields: serde_json::Value) -> Result<Splunk, Error> {
        let serde_json::Value::Object(fields) = fields else { panic!("fields are a map") };
        Splunk::new(read_fields(fields)?, &BuildContext::default())
    }

    #[test]
    fn an_address_is_that_of_the_vendor_or_the_one_given() {
        for (fields, expected) in [
            (json!({"url": "https://s:8088", "token": "hunter2"}), "https://s:8088/services/collector/event"),
            (json!({"host": "https://s:8088/", "token": "hunter2"}), "https://s:8088/services/collector/event"),
            (json!({"url": "https://s/services/collector/event", "token": "t"}), "https://s/services/collector/event"),
            (
                json!({"url": "https://s/behind/services/collector/", "token": "t"}),
                "https://s/behind/services/collector/event",
            ),
            (json!({"url": "https://s/behind/", "token": "t"}), "https://s/behind/services/collector/event"),
            (
                json!({"url": "https://s:8088", "token": "hunter2", "endpoint": "raw", "channel": "0aeeac95-ac74-4aa9-b30d-6c4c0ac581ba", "index": "a b"}),
                "https://s:8088/services/collector/raw?channel=0aeeac95-ac74-4aa9-b30d-6c4c0ac581ba&source=logship&sourcetype=_json&index=a+b",
            ),
        ] {
            assert_eq!(exporter(fields).unwrap().url.as_str(), expected);
        }
    }

    #[test]
    fn a_wrong_configuration_is_named_and_shows_no_secret() {
        for (fields, field) in [
            (json!({}), "url"),
            (json!({"url": "https://s:8088"}), "token"),
            (json!({"url": "https://hunter2@s:8088", "token": "t"}), "url"),
            (json!({"url": "https://s:8088", "token": "hunter2", "channel": "one"}), "channel"),
            (json!({"url": "https://s:8088", "token": "hunter2", "endpoint": "raw", "fields": {"a": "b"}}), "fields"),
            (json!({"url": "https://s:8088", "token": "hunter2", "acknowledge_poll_ms": 0}), "acknowledge_poll_ms"),
            (json!({"url": "https://s:8088", "token": "hunter2", "chunk_bytes_max": 0}), "chunk_bytes_max"),
            (json!({"url": "https://s:8088", "token": "hunter2", "key": 1}), "key"),
        ] {
            let shown = fields.to_string();
            let error = exporter(fields).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{shown}");
            assert!(error.to_string().contains(field), "{shown}: {error}");
            assert!(!format!("{error:?}").contains("hunter2"), "{shown}: {error}");
        }
    }

    #[test]
    fn each_exporter_has_a_channel_of_its_own() {
        let channels = [guid(), guid()];
        assert_ne!(channels[0], channels[1]);
        for channel in channels {
            let lengths = channel.split('-').map(str::len);
            assert!(lengths.eq([8, 4, 4, 4, 12]) && &channel[14..15] == "4", "{channel}");
        }
    }
}
