//! OpenSearch, through `_bulk`: clusters of one's own, Amazon OpenSearch Service and Amazon OpenSearch Serverless.

#[cfg(feature = "opensearch-aws")]
mod aws;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use logship_core::{
    Advice, BuildContext, Capabilities, Certainty, Chunk, Compression, Encoding, Error, ErrorKind, Exporter,
    Idempotency, Limits, Outcome, Registry, SecretRef, async_trait, read_fields,
};
use reqwest::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue};
use reqwest::{Method, Request, Url};
use serde::Deserialize;

#[cfg(feature = "opensearch-aws")]
pub use self::aws::{AssumeRole, AwsAuth, AwsCredentials, AwsService};
use crate::bulk::{self, BulkEncoding};
use crate::dated::Dated;
use crate::delivery::{Answer, Delivery, basic, host_of, parse_url};
pub use crate::delivery::{Connection, TlsVersion};
use crate::rotated::Rotated;

const OPERATION: &str = "opensearch bulk";

/// The largest body a server takes, in bytes before packing: its `http.max_content_length`, 100 MiB unless changed, and
/// 10 MiB on the small instances of Amazon OpenSearch Service.
/// <https://docs.aws.amazon.com/opensearch-service/latest/developerguide/limits.html#network-limits>
const BODY_BYTES_MAX: usize = 100 * 1024 * 1024;

/// An answer has an item for each record, and a cut one says nothing about any.
const ANSWER_BYTES_MIN: usize = 64 * 1024 * 1024;

/// The part of an answer that we read; items always have a status, so all of them are in it.
/// <https://docs.opensearch.org/latest/api-reference/common-parameters/#filtered-responses>
const FILTER: &str = "took,errors,items.*.status,items.*.error";

/// Where to write, and how.
///
/// ```
/// use logship_core::{BuildContext, Exporter, read_fields};
/// use logship_exporters::opensearch::OpenSearch;
///
/// let fields = serde_json::from_str(
///     r#"{
///         "hosts": ["https://opensearch:9200"],
///         "index": "logs-%Y.%m.%d",
///         "auth": {"basic": {"username": "shipper", "password": "secret-key"}}
///     }"#,
/// )?;
/// let exporter = OpenSearch::new(read_fields(fields)?, BuildContext::default())?;
/// assert!(!format!("{exporter:?}").contains("secret-key"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct OpenSearchConfig {
    /// The addresses of the nodes, of the domain or of the collection, at least one; requests go to each in turn. A path
    /// is kept as a prefix. Credentials do not belong here but into `auth`.
    pub hosts: Vec<String>,
    /// An index, alias or data stream. With `%Y`, `%m`, `%d` or `%H` in it, as in `logs-%Y.%m.%d`, each record goes to
    /// the index of its own time, in UTC, so that a record sent again meets itself. Documents are made with `create`,
    /// which all of them take, so nothing tells a data stream apart here.
    pub index: String,
    /// How to get in. Default: `none`.
    #[serde(default)]
    pub auth: OpenSearchAuth,
    /// The ingest pipeline to run documents through. Default: the index's own.
    #[serde(default)]
    pub pipeline: Option<String>,
    /// How bodies are packed: `gzip` or `none`. Default: `gzip`.
    #[serde(default = "gzip")]
    pub compression: Compression,
    /// Bytes of a body before packing. Default: 10,000,000, which every instance type takes; at most 104,857,600.
    #[serde(default = "ten_megabytes")]
    pub chunk_bytes_max: usize,
    /// Gives each document the id of its record as `_id`, so that a repeat is recognised. Default: on, but for
    /// collections (`aoss`), of which those of time series refuse ids; switch it on for one of search. A repeat is
    /// recognised within one backing index: what is sent again across a rollover is stored twice.
    #[serde(default)]
    pub ids: Option<bool>,
    /// How connections are made. At least 64 MiB of an answer are read, whatever `answer_bytes_max` says.
    #[serde(default)]
    pub connection: Connection,
}

/// How to get in. In a configuration: `"none"`, `{"basic": {"username": …, "password": …}}` or `{"aws": {…}}`.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum OpenSearchAuth {
    /// Nobody asks.
    #[default]
    None,
    /// A user.
    Basic {
        /// The name.
        username: String,
        /// The password.
        password: SecretRef,
    },
    /// A domain or a collection at AWS, to which each request is signed. Needs the feature `opensearch-aws`.
    #[cfg(feature = "opensearch-aws")]
    Aws(AwsAuth),
    #[cfg(not(feature = "opensearch-aws"))]
    #[doc(hidden)]
    #[serde(deserialize_with = "needs_the_feature")]
    #[cfg_attr(feature = "schema", schemars(skip))]
    Aws(std::convert::Infallible),
}

#[cfg(not(feature = "opensearch-aws"))]
fn needs_the_feature<'de, D: serde::Deserializer<'de>>(_: D) -> Result<std::convert::Infallible, D::Error> {
    Err(serde::de::Error::custom("`aws` needs the Cargo feature `opensearch-aws`"))
}

impl OpenSearchConfig {
    /// This index on these hosts, everything else as by default.
    pub fn new(hosts: Vec<String>, index: impl Into<String>) -> Self {
        OpenSearchConfig {
            hosts,
            index: index.into(),
            auth: OpenSearchAuth::None,
            pipeline: None,
            compression: gzip(),
            chunk_bytes_max: ten_megabytes(),
            ids: None,
            connection: Connection::default(),
        }
    }

    fn validate(&self) -> Result<(), Error> {
        bulk::check_index(&self.index)?;
        if !matches!(self.compression.content_encoding(), None | Some("gzip")) {
            return Err(Error::config("compression", "must be `none` or `gzip`"));
        }
        if self.chunk_bytes_max == 0 || self.chunk_bytes_max > BODY_BYTES_MAX {
            let message = format!("{} is not between 1 and {BODY_BYTES_MAX} bytes", self.chunk_bytes_max);
            return Err(Error::config("chunk_bytes_max", message));
        }
        if self.hosts.is_empty() {
            return Err(Error::config("hosts", "give at least one"));
        }
        Ok(())
    }

    fn is_collection(&self) -> bool {
        match &self.auth {
            #[cfg(feature = "opensearch-aws")]
            OpenSearchAuth::Aws(auth) => auth.is_collection(),
            _ => false,
        }
    }

    /// Where bulk requests go on each host.
    fn addresses(&self, is_dated: bool) -> Result<Vec<Url>, Error> {
        let address = |host: &String| {
            let (mut url, auth) = parse_url(host).map_err(|error| Error::config("hosts", error.message()))?;
            if auth.is_some() || url.query().is_some() {
                return Err(Error::config("hosts", "cannot hold a user or a query: credentials go into `auth`"));
            }
            let prefix = url.path().trim_end_matches('/').to_owned();
            url.set_path(&match is_dated {
                true => format!("{prefix}/_bulk"),
                false => format!("{prefix}/{}/_bulk", self.index),
            });
            // Which parameters a collection knows is not said, so it is asked for nothing.
            if !self.is_collection() {
                url.query_pairs_mut().append_pair("filter_path", FILTER);
            }
            if let Some(pipeline) = &self.pipeline {
                url.query_pairs_mut().append_pair("pipeline", pipeline);
            }
            Ok(url)
        };
        self.hosts.iter().map(address).collect()
    }
}

impl fmt::Debug for OpenSearchConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Somebody may have put a password into an address.
        f.debug_struct("OpenSearchConfig").field("index", &self.index).field("auth", &self.auth).finish_non_exhaustive()
    }
}

fn gzip() -> Compression {
    Compression::GZIP
}

fn ten_megabytes() -> usize {
    10_000_000
}

/// Writes records to OpenSearch, as documents in the Elastic Common Schema: see
/// `logship_exporters::elasticsearch::Elasticsearch`, with which it shares them.
///
/// **Fates.** Stored, and "already there" (409), are accepted; 429, 5xx and a read-only index are tried again; any other
/// refusal is the record's own and carries OpenSearch's words. Where every record fails for a reason that is ours (no
/// index, no right to write, ids that a collection does not take), the request fails instead.
pub struct OpenSearch {
    delivery: Delivery,
    addresses: Vec<Url>,
    /// The next address.
    turn: AtomicUsize,
    hosts: String,
    config: OpenSearchConfig,
    context: BuildContext,
    auth: Auth,
    encoding: Arc<BulkEncoding>,
}

/// How to get in, secrets included.
enum Auth {
    Header(Rotated<Option<HeaderValue>>),
    #[cfg(feature = "opensearch-aws")]
    Signed(aws::Signer),
}

pub(crate) fn register(registry: &mut Registry) {
    #[cfg(feature = "schema")]
    registry.describe_exporter::<OpenSearchConfig>("opensearch");
    registry.add_exporter("opensearch", |fields, context| OpenSearch::new(read_fields(fields)?, context.clone()));
}

impl OpenSearch {
    /// Checks a configuration, finds its secrets and makes a client. Sends nothing.
    pub fn new(config: OpenSearchConfig, context: BuildContext) -> Result<Self, Error> {
        config.validate()?;
        let dated = Dated::parse(&config.index).map_err(|message| Error::config("index", message))?;
        let addresses = config.addresses(dated.is_some())?;
        let auth = Auth::new(&config, &context)?;
        let mut connection = config.connection.clone();
        connection.answer_bytes_max = connection.answer_bytes_max.max(ANSWER_BYTES_MIN);
        let delivery = Delivery::new(OPERATION, &connection, &context)?.with_plain_address();
        let ids = config.ids.unwrap_or(!config.is_collection());
        let encoding = Arc::new(BulkEncoding::new(dated, ids, config.compression));
        let hosts = addresses.iter().map(host_of).collect::<Vec<_>>().join(", ");
        Ok(OpenSearch { delivery, addresses, turn: AtomicUsize::new(0), hosts, config, context, auth, encoding })
    }

    fn address(&self) -> &Url {
        &self.addresses[self.turn.fetch_add(1, Ordering::Relaxed) % self.addresses.len()]
    }

    /// Sends a request, signed as the last thing that is done to it.
    async fn send(&self, mut request: Request) -> Result<Answer, Error> {
        match &self.auth {
            Auth::Header(current) => {
                let sent = current.value();
                request.headers_mut().extend(sent.clone().map(|value| (AUTHORIZATION, value)));
                let answer = self.delivery.send(request).await?;
                if matches!(answer.status, 401 | 403) {
                    current.refuse(sent);
                }
                Ok(answer)
            }
            #[cfg(feature = "opensearch-aws")]
            Auth::Signed(signer) => {
                signer.sign(&mut request, OPERATION).await?;
                self.delivery.send(request).await
            }
        }
    }

    /// An answer that is about the request as a whole.
    fn refused(&self, answer: &Answer) -> Error {
        let words = bulk::whole_error(&answer.body);
        let error = self.delivery.refused(answer);
        match answer.status {
            403 if words.starts_with("cluster_block_exception") => {
                let error = Error::new(ErrorKind::Unavailable, OPERATION, "the cluster is read-only for now");
                error.with("hosts", &self.hosts).with("answer", words)
            }
            // What AWS says of temporary credentials that are over, or of a clock that is wrong.
            403 if words.contains("expired") || words.contains("security token") => error.advise(Advice::Refresh),
            _ => error,
        }
    }
}

#[async_trait]
impl Exporter for OpenSearch {
    fn kind(&self) -> &'static str {
        "opensearch"
    }

    fn limits(&self) -> Limits {
        Limits::none().chunk_bytes_max(self.config.chunk_bytes_max).record_bytes_max(self.config.chunk_bytes_max)
    }

    fn capabilities(&self) -> Capabilities {
        let idempotency = if self.encoding.ids { Idempotency::PerRecord } else { Idempotency::None };
        Capabilities::none().idempotency(idempotency).answers_per_record()
    }

    fn encoding(&self) -> Option<Arc<dyn Encoding>> {
        Some(self.encoding.clone())
    }

    async fn export(&self, chunk: &Chunk) -> Result<Outcome, Error> {
        let body = chunk.require_body(OPERATION)?;
        let mut request = Request::new(Method::POST, self.address().clone());
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
        if let Some(packing) = body.compression.content_encoding() {
            request.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static(packing));
        }
        *request.body_mut() = Some(body.bytes().into());
        let answer = self.send(request).await?;
        match answer.status {
            200..300 if answer.is_cut => {
                let message = "the answer is longer than connection.answer_bytes_max";
                Err(self.delivery.unintelligible(&answer, message).advise(Advice::After(None)))
            }
            200..300 => bulk::outcome(OPERATION, &answer.body, chunk.len()),
            _ => Err(self.refused(&answer)),
        }
    }

    /// Reads the secrets anew.
    async fn refresh(&self) -> Result<(), Error> {
        match &self.auth {
            Auth::Header(current) => {
                let fresh = header(&self.config.auth, &self.context)?;
                current.renew(fresh, "opensearch refresh").map_err(|error| error.with("hosts", &self.hosts))
            }
            #[cfg(feature = "opensearch-aws")]
            Auth::Signed(signer) => signer.refresh().await,
        }
    }

    /// Asks for the root of the cluster. Credentials that may write but not look at the cluster get a 403, which shows
    /// as well that they are known; a collection has no root, and says so to whom it knows.
    async fn check(&self) -> Result<(), Error> {
        let mut url = self.address().clone();
        let prefix = url.path().trim_end_matches("/_bulk").trim_end_matches(&self.config.index).to_owned();
        url.set_path(if prefix.is_empty() { "/" } else { &prefix });
        url.set_query(None);
        let answer = self.send(Request::new(Method::GET, url)).await?;
        match answer.status {
            200..300 => Ok(()),
            403 if bulk::whole_error(&answer.body).starts_with("security_exception") => Ok(()),
            404 if self.config.is_collection() => Ok(()),
            _ => Err(self.refused(&answer).certainty_is(Certainty::NotDelivered)),
        }
    }
}

impl fmt::Debug for OpenSearch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenSearch").field("hosts", &self.hosts).field("config", &self.config).finish_non_exhaustive()
    }
}

impl Auth {
    fn new(config: &OpenSearchConfig, context: &BuildContext) -> Result<Self, Error> {
        Ok(match &config.auth {
            #[cfg(feature = "opensearch-aws")]
            OpenSearchAuth::Aws(auth) => Auth::Signed(aws::Signer::new(auth, &config.connection, context)?),
            auth => Auth::Header(Rotated::new(header(auth, context)?)),
        })
    }
}

fn header(auth: &OpenSearchAuth, context: &BuildContext) -> Result<Option<HeaderValue>, Error> {
    let OpenSearchAuth::Basic { username, password } = auth else { return Ok(None) };
    let password = context.secret("auth.basic.password", password)?;
    basic("auth.basic", username.as_bytes(), password.expose().as_bytes()).map(Some)
}
