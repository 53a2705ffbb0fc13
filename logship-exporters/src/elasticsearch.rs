//! Elasticsearch, through `_bulk`.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, RwLock};

use elasticsearch::auth::Credentials;
use elasticsearch::cert::{Certificate, CertificateValidation};
use elasticsearch::http::Url;
use elasticsearch::http::transport::{
    CloudConnectionPool, ConnectionPool, MultiNodeConnectionPool, Transport, TransportBuilder,
};
use logship_core::{
    Advice, BuildContext, Capabilities, Certainty, Chunk, Compression, Encoding, Error, ErrorKind, Exporter,
    Idempotency, Limits, Outcome, Registry, Secret, SecretRef, async_trait, read_fields,
};
use serde::Deserialize;

use crate::bulk::{self, BulkEncoding};
use crate::bulk_transport::{self, Official, USER_AGENT, place};
pub use crate::bulk_transport::{BulkAnswer, BulkTransport};
use crate::conceal::Concealed;
use crate::dated::Dated;

const OPERATION: &str = "elasticsearch bulk";

/// The largest body a server takes, in bytes before packing: its `http.max_content_length`, 100 MiB unless changed.
/// <https://www.elastic.co/docs/reference/elasticsearch/configuration-reference/networking-settings>
const BODY_BYTES_MAX: usize = 100 * 1024 * 1024;

/// The part of an answer that we read; items always have a status, so all of them are in it.
const FILTER: &str = "took,errors,items.*.status,items.*.error,items.*.failure_store";

/// Where to write, and how.
///
/// ```
/// use logship_core::{BuildContext, Exporter, read_fields};
/// use logship_exporters::elasticsearch::{Elasticsearch, ElasticsearchConfig};
///
/// let fields = serde_json::json!({
///     "hosts": ["https://es-1:9200", "https://es-2:9200"],
///     "index": "logs-shop-default",
///     "auth": {"api_key": "VnVhQ2ZHY0JDZGJrUW0tZTVhT3g6dWkybHAyYXhUTm1zeWFrdzl0dk5udw=="},
/// });
/// let serde_json::Value::Object(fields) = fields else { unreachable!() };
/// let config: ElasticsearchConfig = read_fields(fields)?;
/// let exporter = Elasticsearch::new(config, &BuildContext::default())?;
/// assert_eq!(exporter.kind(), "elasticsearch");
/// # Ok::<(), logship_core::Error>(())
/// ```
#[derive(Clone, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ElasticsearchConfig {
    /// The addresses of the nodes, such as `https://es-1:9200`; requests go to each in turn. A path is kept as a
    /// prefix. Credentials do not belong here but into `auth`. Either this or `cloud_id`.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(with = "Vec<String>"))]
    pub hosts: Vec<Url>,
    /// The id of a deployment in Elastic Cloud.
    #[serde(default)]
    pub cloud_id: Option<String>,
    /// An index, alias or data stream. With `%Y`, `%m`, `%d` or `%H` in it, as in `logs-%Y.%m.%d`, each record goes to
    /// the index of its own time, in UTC, so that a record sent again meets itself. Documents are made with `create`,
    /// which all of them take, so nothing tells a data stream apart here.
    #[serde(alias = "indexName")]
    pub index: String,
    /// How to get in. By default nobody asks.
    #[serde(default)]
    pub auth: ElasticsearchAuth,
    /// The ingest pipeline to run documents through. By default the index's own.
    #[serde(default)]
    pub pipeline: Option<String>,
    /// PEM certificates to trust beside Mozilla's: those of the cluster's own authority. Read once.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// How bodies are packed: by default `gzip`, level 1.
    #[serde(default = "gzip")]
    pub compression: Compression,
    /// Refuses to write to anything but a data stream (Elasticsearch 8.13 and later). Off by default.
    #[serde(default)]
    pub require_data_stream: bool,
    /// Bytes of a body before packing: by default 10,000,000, at most 104,857,600. A record that is larger alone is
    /// rejected before it is sent.
    #[serde(default = "ten_megabytes")]
    pub chunk_bytes_max: usize,
    /// Gives each document the id of its record as `_id`, so that a repeat is recognised. On by default. Holds within
    /// one backing index: what is repeated across a rollover is stored twice. Must be off for time series data
    /// streams, which make ids of their own.
    #[serde(default = "yes")]
    pub ids: bool,
}

/// How to get in.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ElasticsearchAuth {
    /// Nobody asks.
    #[default]
    None,
    /// An API key, as the `encoded` field gives it on creation: base64 of `id:api_key`.
    ApiKey(SecretRef),
    /// A user.
    Basic {
        /// The name.
        username: String,
        /// The password.
        password: SecretRef,
    },
    /// A token, such as that of a service account.
    Bearer(SecretRef),
}

impl ElasticsearchConfig {
    /// This index on these hosts, everything else as by default.
    pub fn new(hosts: Vec<Url>, index: impl Into<String>) -> Self {
        ElasticsearchConfig {
            hosts,
            cloud_id: None,
            index: index.into(),
            auth: ElasticsearchAuth::None,
            pipeline: None,
            ca_file: None,
            compression: gzip(),
            require_data_stream: false,
            chunk_bytes_max: ten_megabytes(),
            ids: true,
        }
    }

    fn validate(&self) -> Result<(), Error> {
        bulk::check_index(&self.index)?;
        if self.chunk_bytes_max == 0 || self.chunk_bytes_max > BODY_BYTES_MAX {
            let message = format!("{} is not between 1 and {BODY_BYTES_MAX} bytes", self.chunk_bytes_max);
            return Err(Error::config("chunk_bytes_max", message));
        }
        for url in &self.hosts {
            if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
                return Err(Error::config("hosts", format!("`{}` is not an http or https address", place(url))));
            }
            if !url.username().is_empty() || url.password().is_some() {
                return Err(Error::config("hosts", format!("put the credentials of {} into `auth`", place(url))));
            }
        }
        Ok(())
    }
}

impl fmt::Debug for ElasticsearchConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Somebody may have put a password into an address.
        let hosts: Vec<String> = self.hosts.iter().map(place).collect();
        f.debug_struct("ElasticsearchConfig")
            .field("hosts", &hosts)
            .field("cloud_id", &self.cloud_id)
            .field("index", &self.index)
            .field("auth", &self.auth)
            .finish_non_exhaustive()
    }
}

fn gzip() -> Compression {
    Compression::GZIP
}

fn ten_megabytes() -> usize {
    10_000_000
}

fn yes() -> bool {
    true
}

/// Writes records to Elasticsearch.
///
/// **Documents** follow the Elastic Common Schema: `@timestamp` (nanoseconds), `message`, `log.level` (lower case),
/// `log.logger` (the scope), `event.id` (the record's id), `event.created` (when it was observed), `trace.id`,
/// `span.id`; from attributes of the record or its resource `service.name|version|environment`, `host.name|id`,
/// `error.type|message|stack_trace` (also from `exception.*`), `event.dataset|duration|outcome`, `process.pid` and
/// `process.thread.name|id`. Everything else goes to `labels`, as text and with dots in names turned into `_`, so that
/// neither a new type nor a nested name is refused. A value that is a list or map is JSON text in one label; a body
/// that is one is JSON text in `message`. Of two attributes that come to the same name the record's wins, then the
/// first. Names that never end need a mapping of `labels` as `flattened`: an index takes 1,000 fields.
///
/// **Fates.** Stored, and "already there" (409), are accepted; kept in a failure store is accepted and reported as
/// diverted; 429, 5xx and a read-only index are tried again; any other refusal is the record's own and carries
/// Elasticsearch's words. Where every record fails for a reason that is ours (no index, no right to write, not a place
/// for `create`), the request fails instead.
///
/// **TLS** is verified against Mozilla's authorities and `ca_file`. Needs no process-wide TLS provider.
///
/// A request is bounded by the lane's time limit alone. Dropped, it may have been delivered.
pub struct Elasticsearch {
    transport: Arc<dyn BulkTransport>,
    encoding: Arc<BulkEncoding>,
    path: String,
    query: Vec<(&'static str, String)>,
    auth: ElasticsearchAuth,
    context: BuildContext,
    chunk_bytes_max: usize,
}

pub(crate) fn register(registry: &mut Registry) {
    #[cfg(feature = "schema")]
    registry.describe_exporter::<ElasticsearchConfig>("elasticsearch");
    registry.add_exporter("elasticsearch", |fields, context| Elasticsearch::new(read_fields(fields)?, context));
}

impl Elasticsearch {
    /// An exporter with a transport of its own. Connects on first use.
    pub fn new(config: ElasticsearchConfig, context: &BuildContext) -> Result<Self, Error> {
        config.validate()?;
        let transport = build_transport(&config, context)?;
        Self::with(config, Arc::new(transport), context)
    }

    /// An exporter over the program's own client, whose hosts, certificates and credentials are used: `hosts`,
    /// `cloud_id`, `ca_file` and `auth` must be left out. The client must not pack bodies itself.
    pub fn over(transport: Transport, config: ElasticsearchConfig) -> Result<Self, Error> {
        let hosts = "the program's own client".to_owned();
        Self::over_transport(Arc::new(Official { transport, hosts, concealed: RwLock::default() }), config)
    }

    /// As [`over`](Elasticsearch::over), with any transport.
    pub fn over_transport(transport: Arc<dyn BulkTransport>, config: ElasticsearchConfig) -> Result<Self, Error> {
        config.validate()?;
        let has_own = !config.hosts.is_empty() || config.cloud_id.is_some() || config.ca_file.is_some();
        if has_own || !matches!(config.auth, ElasticsearchAuth::None) {
            let message = "leave hosts, cloud_id, ca_file and auth out: the given transport has its own";
            return Err(Error::config("hosts", message));
        }
        Self::with(config, transport, &BuildContext::default())
    }

    fn with(
        config: ElasticsearchConfig,
        transport: Arc<dyn BulkTransport>,
        context: &BuildContext,
    ) -> Result<Self, Error> {
        let dated = Dated::parse(&config.index).map_err(|message| Error::config("index", message))?;
        let path = match dated {
            Some(_) => "/_bulk".to_owned(),
            None => format!("/{}/_bulk", config.index),
        };
        let mut query = vec![("filter_path", FILTER.to_owned())];
        query.extend(config.pipeline.map(|pipeline| ("pipeline", pipeline)));
        query.extend(config.require_data_stream.then(|| ("require_data_stream", "true".to_owned())));
        Ok(Elasticsearch {
            transport,
            encoding: Arc::new(BulkEncoding::new(dated, config.ids, config.compression)),
            path,
            query,
            auth: config.auth,
            context: context.clone(),
            chunk_bytes_max: config.chunk_bytes_max,
        })
    }

    /// An answer that is about the request as a whole.
    fn refused(&self, operation: &'static str, answer: &BulkAnswer) -> Error {
        let error = |kind, message| Error::new(kind, operation, message);
        let words = bulk::whole_error(&answer.body);
        let error = match answer.status {
            403 if words.starts_with("cluster_block_exception") => {
                error(ErrorKind::Unavailable, "the cluster is read-only for now")
            }
            401 | 403 => error(ErrorKind::Auth, "not let in: check `auth`").advise(match self.auth.can_change() {
                true => Advice::Refresh,
                false => Advice::Never,
            }),
            404 => error(ErrorKind::NotFound, "there is no such index or address: check `index` and `hosts`"),
            413 => error(ErrorKind::TooLarge, "the body is larger than the server takes: lower `chunk_bytes_max`"),
            408 | 425 | 429 => {
                error(ErrorKind::Throttled, "asked to slow down").advise(Advice::After(answer.retry_after))
            }
            503 => error(ErrorKind::Unavailable, "not working now").advise(Advice::After(answer.retry_after)),
            // A proxy that gave up waiting does not know what the server did with the request.
            500 | 502 | 504 => error(ErrorKind::Unavailable, "not working now")
                .advise(Advice::After(answer.retry_after))
                .certainty_is(Certainty::Unknown),
            400 => error(ErrorKind::Rejected, "the request was refused").advise(Advice::Split),
            300..400 => error(ErrorKind::Config, "answered by a redirect, which is not followed: check `hosts`"),
            _ => error(ErrorKind::Rejected, "the request was refused"),
        };
        error.with("status", answer.status).with("answer", words).with("hosts", self.transport.hosts())
    }
}

#[async_trait]
impl Exporter for Elasticsearch {
    fn kind(&self) -> &'static str {
        "elasticsearch"
    }

    fn limits(&self) -> Limits {
        Limits::none().chunk_bytes_max(self.chunk_bytes_max).record_bytes_max(self.chunk_bytes_max)
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
        let mut headers = vec![("content-type", "application/x-ndjson"), ("user-agent", USER_AGENT)];
        headers.extend(body.compression.content_encoding().map(|name| ("content-encoding", name)));
        let query: Vec<(&str, &str)> = self.query.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let answer = self.transport.post(&self.path, &query, &headers, body.bytes()).await?;
        match answer.status {
            200..300 => bulk::outcome(OPERATION, &answer.body, chunk.len()),
            _ => Err(self.refused(OPERATION, &answer)),
        }
    }

    async fn refresh(&self) -> Result<(), Error> {
        match self.auth.resolve(&self.context)? {
            Some(credentials) if self.auth.can_change() => {
                self.transport.set_credentials(credentials);
                Ok(())
            }
            _ => {
                Err(Error::new(ErrorKind::Auth, "elasticsearch refresh", "the credentials stand in the configuration"))
            }
        }
    }

    /// Asks for the root of the cluster. Credentials that may write but not look at the cluster get a 403, which shows
    /// as well that they are known.
    async fn check(&self) -> Result<(), Error> {
        let answer = self.transport.ping().await?;
        match answer.status {
            200..300 => Ok(()),
            403 if bulk::whole_error(&answer.body).starts_with("security_exception") => Ok(()),
            _ => Err(self.refused("elasticsearch check", &answer)),
        }
    }
}

impl fmt::Debug for Elasticsearch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Elasticsearch")
            .field("transport", &self.transport)
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// The client for a configuration.
fn build_transport(config: &ElasticsearchConfig, context: &BuildContext) -> Result<Official, Error> {
    let (hosts, builder) = match (&config.cloud_id, config.hosts.as_slice()) {
        (Some(id), []) => {
            let pool = CloudConnectionPool::new(id)
                .map_err(|error| Error::config("cloud_id", "not the id of a deployment").with_source(error))?;
            (place(&pool.next().url()), TransportBuilder::new(pool))
        }
        (None, hosts @ [_, ..]) => {
            let names: Vec<String> = hosts.iter().map(place).collect();
            let pool = MultiNodeConnectionPool::round_robin(hosts.to_vec(), None);
            (names.join(", "), TransportBuilder::new(pool))
        }
        _ => return Err(Error::config("hosts", "give either `hosts`, at least one, or `cloud_id`")),
    };
    let mut builder = builder.enable_meta_header(false);
    let mut concealed = Concealed::default();
    if let Some(credentials) = config.auth.resolve(context)? {
        concealed = bulk_transport::concealed(&credentials);
        builder = builder.auth(credentials);
    }
    if let Some(path) = &config.ca_file {
        let unreadable = || format!("cannot read certificates from {}", path.display());
        let text = std::fs::read(path).map_err(|error| Error::config("ca_file", unreadable()).with_source(error))?;
        let certificate =
            Certificate::from_pem(&text).map_err(|error| Error::config("ca_file", unreadable()).with_source(error))?;
        builder = builder.cert_validation(CertificateValidation::Full(certificate));
    }
    let transport = builder.build().map_err(|error| {
        Error::new(ErrorKind::Config, "elasticsearch client", "cannot be made of this configuration").with_source(error)
    })?;
    Ok(Official { transport, hosts, concealed: RwLock::new(concealed) })
}

impl ElasticsearchAuth {
    /// What the client sends.
    fn resolve(&self, context: &BuildContext) -> Result<Option<Credentials>, Error> {
        let header_text = |field: &'static str, reference: &SecretRef| {
            let secret: Secret = context.secret(field, reference)?;
            // The client panics on anything that cannot stand in a header.
            match secret.expose().bytes().all(|byte| byte.is_ascii_graphic()) && !secret.expose().is_empty() {
                true => Ok(secret.expose().to_owned()),
                false => Err(Error::config(field, "the secret is empty or has characters that no header can carry")),
            }
        };
        Ok(Some(match self {
            ElasticsearchAuth::None => return Ok(None),
            ElasticsearchAuth::ApiKey(key) => Credentials::EncodedApiKey(header_text("auth.api_key", key)?),
            ElasticsearchAuth::Bearer(token) => Credentials::Bearer(header_text("auth.bearer", token)?),
            ElasticsearchAuth::Basic { username, password } => {
                let password = context.secret("auth.basic.password", password)?;
                Credentials::Basic(username.clone(), password.expose().to_owned())
            }
        }))
    }

    /// Whether reading the secret again may give another.
    fn can_change(&self) -> bool {
        match self {
            ElasticsearchAuth::None => false,
            ElasticsearchAuth::ApiKey(secret)
            | ElasticsearchAuth::Bearer(secret)
            | ElasticsearchAuth::Basic { password: secret, .. } => !matches!(secret, SecretRef::Value(_)),
        }
    }
}
