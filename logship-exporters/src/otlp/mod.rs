//! Any server that takes logs by the OpenTelemetry protocol, over HTTP or gRPC.

mod answer;
mod grpc;
mod json;
mod model;
mod protobuf;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use logship_core::{
    Advice, BuildContext, Chunk, Compression, Encoding, Error, ErrorKind, Exporter, Limits, Outcome, Registry, Secret,
    SecretRef, async_trait, read_fields,
};
use reqwest::header::{
    AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TE,
    TRANSFER_ENCODING,
};
use reqwest::{Method, Request, Url};
use serde::Deserialize;

use self::answer::{Said, grpc_error, outcome, read_json, read_protobuf, status_message};
use self::grpc::{Calls, Reply};
use self::json::Json;
use self::protobuf::Protobuf;
use crate::delivery::{Answer, Delivery, host_of, parse_url, secret_value};
pub use crate::delivery::{Connection, TlsVersion};
use crate::rotated::Rotated;

const OPERATION: &str = "otlp export";

/// Where logs go over HTTP, unless the endpoint says otherwise: <https://opentelemetry.io/docs/specs/otlp/#otlphttp-request>
const HTTP_PATH: &str = "/v1/logs";
/// Where they go over gRPC:
/// <https://github.com/open-telemetry/opentelemetry-proto/blob/main/opentelemetry/proto/collector/logs/v1/logs_service.proto>
const GRPC_PATH: &str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";

/// The largest request a client may make, before packing: 64 MiB
/// (<https://opentelemetry.io/docs/specs/otlp/#otlpgrpc>, <https://opentelemetry.io/docs/specs/otlp/#otlphttp>).
const CHUNK_BYTES_MOST: usize = 64 * 1024 * 1024;

/// Where and how to send.
///
/// ```
/// use logship_core::{BuildContext, read_fields};
/// use logship_exporters::otlp::Otlp;
///
/// let fields = serde_json::from_str(
///     r#"{
///         "endpoint": "https://otlp.example.com",
///         "protocol": "http_protobuf",
///         "headers": {"api-key": "secret-key"}
///     }"#,
/// )?;
/// let exporter = Otlp::new(read_fields(fields)?, BuildContext::default())?;
/// assert!(!format!("{exporter:?}").contains("secret-key"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct OtlpConfig {
    /// Where to send, `http` or `https`. Over HTTP an address without a path gets `/v1/logs`, and one with a path is
    /// used as it is; over gRPC there is no path. A server's usual port, 4318 for HTTP and 4317 for gRPC, has to be
    /// named. A user and password in it are sent as basic authentication. As it may hold a token, it can be kept
    /// wherever a secret can, and nothing but its host is ever shown.
    pub endpoint: SecretRef,
    /// How to send. Default: `http_protobuf`, as the specification recommends.
    #[serde(default)]
    pub protocol: OtlpProtocol,
    /// Headers of each request, over gRPC its metadata: `Authorization`, `api-key` and the like. Default: none.
    #[serde(default)]
    pub headers: BTreeMap<String, SecretRef>,
    /// How bodies are packed. Default: `gzip`, which every server has to take
    /// (<https://opentelemetry.io/docs/specs/otlp/#protocol-details>).
    #[serde(default = "default_compression")]
    pub compression: Compression,
    /// Whether each record gets its id as the attribute `log.record.uid`, by which a receiver can tell a repeat
    /// (<https://opentelemetry.io/docs/specs/semconv/registry/attributes/log/>). A record that has the attribute keeps
    /// its own. Default: true.
    #[serde(default = "default_record_uid")]
    pub record_uid: bool,
    /// The largest body before packing, in bytes, up to 67,108,864, the most a client may send. Default: 4,194,304, as
    /// servers over gRPC refuse larger messages unless told otherwise
    /// (<https://pkg.go.dev/google.golang.org/grpc#MaxRecvMsgSize>).
    #[serde(default = "default_chunk_bytes_max")]
    pub chunk_bytes_max: usize,
    /// How connections are made. Over gRPC without TLS they go through no proxy.
    #[serde(default)]
    pub connection: Connection,
}

impl OtlpConfig {
    /// Everything by default.
    pub fn new(endpoint: impl Into<String>) -> Self {
        OtlpConfig {
            endpoint: SecretRef::Value(Secret::new(endpoint)),
            protocol: OtlpProtocol::default(),
            headers: BTreeMap::new(),
            compression: default_compression(),
            record_uid: default_record_uid(),
            chunk_bytes_max: default_chunk_bytes_max(),
            connection: Connection::default(),
        }
    }
}

fn default_compression() -> Compression {
    Compression::GZIP
}

fn default_record_uid() -> bool {
    true
}

fn default_chunk_bytes_max() -> usize {
    4 * 1024 * 1024
}

/// How to send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum OtlpProtocol {
    /// Protobuf over HTTP.
    #[default]
    HttpProtobuf,
    /// JSON over HTTP.
    HttpJson,
    /// gRPC.
    Grpc,
}

/// Sends chunks by the OpenTelemetry protocol (<https://opentelemetry.io/docs/specs/otlp/>).
///
/// Neighbours of one resource and scope are sent under one `ResourceLogs` and `ScopeLogs`; order is kept. Values of one
/// name, which OTLP does not allow, become one array. A record whose time lies before 1970 or whose values are nested
/// deeper than 28 has no form.
///
/// # Partial success
/// A server can say that it refused some of a request's records, but not which. The protocol forbids to send any of
/// them again, and the others would be there twice. So *all* records of that request are reported as refused, with a
/// reason that says how many really were: with a dead letter they are kept there, and those that were refused are
/// among them; otherwise the lane stops and says so, or drops and counts them, as
/// [`OnReject`](logship_core::OnReject) has it. Replaying such dead letters, or going on after such a stop, sends again
/// what is there. With chunks of one record the server's answer is about that one.
///
/// # Errors
/// Tried again are, over HTTP, 429, 502, 503 and 504, after the time of a `Retry-After`; over gRPC, the codes that the
/// protocol lists, after the time of a `RetryInfo`. A request that was refused as a whole (400, `INVALID_ARGUMENT`) is
/// split to find the record at fault, as is one that is too large. A 401 or `UNAUTHENTICATED` is tried again once if
/// the secrets, read anew, have changed. Everything else stops the lane, 500 too.
///
/// # Cancellation
/// Dropping an export gives the request up. The server may have taken the records.
pub struct Otlp {
    transport: Transport,
    url: Url,
    /// What the address itself says about who we are.
    url_auth: Option<HeaderValue>,
    config: OtlpConfig,
    context: BuildContext,
    /// The configured headers with their secrets.
    headers: Rotated<HeaderMap>,
    encoding: Arc<dyn Encoding>,
}

#[derive(Debug)]
enum Transport {
    Http(Delivery),
    Grpc(Box<Calls>),
}

pub(crate) fn register(registry: &mut Registry) {
    #[cfg(feature = "schema")]
    registry.describe_exporter::<OtlpConfig>("otlp");
    registry.add_exporter("otlp", |fields, context| Otlp::new(read_fields(fields)?, context.clone()));
}

impl Otlp {
    /// Checks a configuration, finds its secrets and makes a client. Sends nothing.
    pub fn new(config: OtlpConfig, context: BuildContext) -> Result<Self, Error> {
        if !(1..=CHUNK_BYTES_MOST).contains(&config.chunk_bytes_max) {
            return Err(Error::config("chunk_bytes_max", format!("must be from 1 to {CHUNK_BYTES_MOST}")));
        }
        let (mut url, url_auth) = parse_url(context.secret("endpoint", &config.endpoint)?.expose())
            .map_err(|error| Error::config("endpoint", error.message()))?;
        let has_path = url.path() != "/";
        match config.protocol {
            OtlpProtocol::Grpc if has_path || url.query().is_some() => {
                return Err(Error::config("endpoint", "holds a path or a query, which gRPC has no place for"));
            }
            OtlpProtocol::Grpc => url.set_path(GRPC_PATH),
            _ if !has_path => url.set_path(HTTP_PATH),
            _ => {}
        }
        let headers = headers(&config, url_auth.as_ref(), &context)?;
        let transport = match config.protocol {
            OtlpProtocol::Grpc => Transport::Grpc(Calls::new(OPERATION, &url, &config.connection, &context)?.into()),
            _ => Transport::Http(Delivery::new(OPERATION, &config.connection, &context)?),
        };
        let encoding: Arc<dyn Encoding> = match config.protocol {
            OtlpProtocol::HttpJson => Arc::new(Json::new(config.record_uid, config.compression)),
            _ => Arc::new(Protobuf::new(config.record_uid, config.compression)),
        };
        Ok(Otlp { transport, url, url_auth, headers: Rotated::new(headers), encoding, config, context })
    }

    /// Sends a body, or a request without records where there is none, and reads what is said about the records.
    async fn send(&self, body: Option<&logship_core::Body>) -> Result<Said, Error> {
        let headers = self.headers.value();
        let said = self.send_with(headers.clone(), body).await;
        if said.as_ref().is_err_and(|error| error.advice() == Advice::Refresh) {
            self.headers.refuse(headers);
        }
        said
    }

    async fn send_with(&self, headers: HeaderMap, body: Option<&logship_core::Body>) -> Result<Said, Error> {
        match &self.transport {
            Transport::Http(delivery) => {
                let mut request = Request::new(Method::POST, self.url.clone());
                *request.headers_mut() = headers;
                let content_type = if self.is_json() { "application/json" } else { "application/x-protobuf" };
                request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
                if let Some(packing) = body.and_then(|body| body.compression.content_encoding()) {
                    request.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static(packing));
                }
                let nothing = || (if self.is_json() { "{}" } else { "" }).into();
                *request.body_mut() = Some(body.map_or_else(nothing, |body| body.bytes().into()));
                let answer = delivery.send(request).await?;
                self.http_answer(delivery, answer)
            }
            Transport::Grpc(calls) => {
                let reply = calls.call(self.url.clone(), headers, body).await?;
                grpc_reply(calls, &reply)
            }
        }
    }

    fn is_json(&self) -> bool {
        self.config.protocol == OtlpProtocol::HttpJson
    }

    fn http_answer(&self, delivery: &Delivery, mut answer: Answer) -> Result<Said, Error> {
        let content_type = answer.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let is_protobuf = content_type.starts_with("application/x-protobuf");
        if !(200..300).contains(&answer.status) {
            if is_protobuf {
                // Some say so and write something else.
                let plain = |byte: &u8| if byte.is_ascii_control() { b' ' } else { *byte };
                let words = status_message(&answer.body).map(<[u8]>::to_vec);
                answer.body = words.unwrap_or_else(|| answer.body.iter().map(plain).collect()).into();
            }
            return Err(refused(delivery, &answer));
        }
        if answer.is_cut {
            return Err(delivery.unintelligible(&answer, "the answer is longer than connection.answer_bytes_max"));
        }
        if answer.body.is_empty() {
            return Ok(Said::default());
        }
        // Servers are to answer in the form they were asked in; some say one form and write the other.
        let said = match self.is_json() {
            true => read_json(&answer.body).or_else(|| read_protobuf(&answer.body).filter(|_| is_protobuf)),
            false => read_protobuf(&answer.body).or_else(|| read_json(&answer.body)),
        };
        said.ok_or_else(|| delivery.unintelligible(&answer, "the answer is not that of a server of OTLP"))
    }
}

#[async_trait]
impl Exporter for Otlp {
    fn kind(&self) -> &'static str {
        "otlp"
    }

    fn limits(&self) -> Limits {
        Limits::none().chunk_bytes_max(self.config.chunk_bytes_max)
    }

    fn encoding(&self) -> Option<Arc<dyn Encoding>> {
        Some(Arc::clone(&self.encoding))
    }

    async fn export(&self, chunk: &Chunk) -> Result<Outcome, Error> {
        let body = chunk.require_body(OPERATION)?;
        let said = self.send(Some(body)).await?;
        if said.rejected <= 0 && !said.message.is_empty() {
            // All is well, and the server has something to say.
            let words = Error::excerpt(said.message.as_bytes());
            tracing::warn!(lane = chunk.lane(), host = host_of(&self.url), words, "the destination warns");
        }
        Ok(outcome(&said, chunk.len()))
    }

    /// Reads the secrets anew: files and environments change when credentials are rotated.
    async fn refresh(&self) -> Result<(), Error> {
        let fresh = headers(&self.config, self.url_auth.as_ref(), &self.context)?;
        self.headers.renew(fresh, "otlp refresh").map_err(|error| error.with("host", host_of(&self.url)))
    }

    /// Sends a request without records, which servers are to answer with a success
    /// (<https://opentelemetry.io/docs/specs/otlp/#full-success-1>). Some refuse it as one they cannot read, after they
    /// have let us in.
    async fn check(&self) -> Result<(), Error> {
        match self.send(None).await {
            Err(error) if error.advice() != Advice::Split => Err(error),
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for Otlp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Otlp").field("host", &host_of(&self.url)).field("config", &self.config).finish_non_exhaustive()
    }
}

/// The error that an answer over HTTP is. The protocol has fewer statuses that are tried again than others have
/// (<https://opentelemetry.io/docs/specs/otlp/#retryable-response-codes>).
fn refused(delivery: &Delivery, answer: &Answer) -> Error {
    let error = delivery.refused(answer);
    let is_retryable = matches!(answer.status, 429 | 502 | 503 | 504);
    match error.advice() {
        Advice::After(_) if !is_retryable => error.advise(Advice::Never),
        _ => error,
    }
}

fn grpc_reply(calls: &Calls, reply: &Reply) -> Result<Said, Error> {
    match &reply.status {
        Some(status) if status.code == 0 => match read_protobuf(&reply.message) {
            Some(said) => Ok(said),
            None => Err(calls.failed(&reply.host, ErrorKind::Protocol, "the answer is not that of a server of OTLP")),
        },
        Some(status) => {
            let error = grpc_error(OPERATION, status.code, &status.text, status.details.as_deref());
            Err(error.with("host", &reply.host))
        }
        None if reply.http_status == 200 => {
            Err(calls.failed(&reply.host, ErrorKind::Unavailable, "the answer ended without a status"))
        }
        // A proxy, or a server of something else.
        None => Err(calls.not_grpc(reply)),
    }
}

/// The configured headers and who we are, with their secrets.
fn headers(config: &OtlpConfig, url_auth: Option<&HeaderValue>, context: &BuildContext) -> Result<HeaderMap, Error> {
    let mut headers = HeaderMap::new();
    for (name, value) in &config.headers {
        let field = format!("headers.{name}");
        let header = HeaderName::try_from(name)
            .map_err(|_| Error::config(&field, format!("`{}` cannot be the name of a header", name.escape_debug())))?;
        let ours = [CONTENT_TYPE, CONTENT_LENGTH, CONTENT_ENCODING, TRANSFER_ENCODING, TE];
        if ours.contains(&header) || header.as_str().starts_with("grpc-") {
            return Err(Error::config(&field, format!("`{header}` is set by the exporter itself")));
        }
        let value = secret_value(&field, context.secret(&field, value)?.expose())?;
        if headers.insert(header, value).is_some() {
            return Err(Error::config(&field, "is there twice, in other letters"));
        }
    }
    if let Some(auth) = url_auth
        && headers.insert(AUTHORIZATION, auth.clone()).is_some()
    {
        let message = "the endpoint holds a user and password too: leave one of them out";
        return Err(Error::config("headers.authorization", message));
    }
    Ok(headers)
}
