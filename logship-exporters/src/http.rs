//! Any server that takes records over HTTP.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use logship_core::{
    BuildContext, Chunk, Compression, Encoding, Error, Exporter, Limits, LogRecord, Outcome, Registry, Secret,
    SecretRef, Unencodable, async_trait, read_fields,
};
use reqwest::header::{
    AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue,
    TRANSFER_ENCODING,
};
use reqwest::{Method, Request, Url};
use serde::Deserialize;

use crate::delivery::{Answer, Delivery, basic, host_of, parse_url, secret_value};
pub use crate::delivery::{Connection, TlsVersion};
use crate::encode::array::{Array, Element};
use crate::encode::json;
use crate::encode::records::Records;
use crate::fnv::Fnv128;
use crate::rotated::Rotated;

const OPERATION: &str = "http export";

/// Where and how to send.
///
/// ```
/// use logship_core::{BuildContext, read_fields};
/// use logship_exporters::http::Http;
///
/// let fields = serde_json::from_str(
///     r#"{
///         "url": "https://logs.example.com/ingest",
///         "auth": {"bearer": {"token": "secret-token"}},
///         "headers": {"X-Team": "payments"}
///     }"#,
/// )?;
/// let exporter = Http::new(read_fields(fields)?, BuildContext::default())?;
/// assert!(!format!("{exporter:?}").contains("secret-token"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct HttpConfig {
    /// Where to send, `http` or `https`. A user and password in it are sent as basic authentication. As it may hold a
    /// token, it can be kept wherever a secret can, and nothing but its host is ever shown.
    pub url: SecretRef,
    /// How to send. Default: `POST`.
    #[serde(default)]
    pub method: HttpMethod,
    /// What bodies look like. Default: `ndjson`.
    #[serde(default)]
    pub format: HttpFormat,
    /// How bodies are packed. Default: `gzip`.
    #[serde(default = "default_compression")]
    pub compression: Compression,
    /// Further headers. A `Content-Type` here replaces the format's own.
    #[serde(default)]
    pub headers: BTreeMap<String, SecretRef>,
    /// How to be let in. Default: `none`.
    #[serde(default)]
    pub auth: HttpAuth,
    /// The statuses that mean the records were taken. Default: 200 to 299.
    #[serde(default)]
    pub success: Option<Vec<u16>>,
    /// The largest body before packing, in bytes. Default: 5,000,000, which common servers and proxies are set up for;
    /// no standard names a limit.
    #[serde(default = "default_chunk_bytes_max")]
    pub chunk_bytes_max: usize,
    /// How connections are made.
    #[serde(default)]
    pub connection: Connection,
}

impl HttpConfig {
    /// Everything by default.
    pub fn new(url: impl Into<String>) -> Self {
        HttpConfig {
            url: SecretRef::Value(Secret::new(url)),
            method: HttpMethod::default(),
            format: HttpFormat::default(),
            compression: default_compression(),
            headers: BTreeMap::new(),
            auth: HttpAuth::default(),
            success: None,
            chunk_bytes_max: default_chunk_bytes_max(),
            connection: Connection::default(),
        }
    }
}

fn default_compression() -> Compression {
    Compression::GZIP
}

fn default_chunk_bytes_max() -> usize {
    5_000_000
}

/// How to send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub enum HttpMethod {
    /// `POST`
    #[default]
    #[serde(rename = "POST")]
    Post,
    /// `PUT`
    #[serde(rename = "PUT")]
    Put,
}

/// What bodies look like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum HttpFormat {
    /// One JSON object a line: `application/x-ndjson`.
    #[default]
    Ndjson,
    /// One JSON array: `application/json`.
    JsonArray,
}

/// How to be let in. In a configuration: `"none"`, `{"basic": {"username": …, "password": …}}`,
/// `{"bearer": {"token": …}}` or `{"header": {"name": …, "value": …}}`.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum HttpAuth {
    /// Everybody is let in.
    #[default]
    None,
    /// A user with a password.
    Basic {
        /// The user.
        username: String,
        /// The password.
        password: SecretRef,
    },
    /// A token in the `Authorization` header.
    Bearer {
        /// The token.
        token: SecretRef,
    },
    /// A secret in a header of its own, such as `X-Api-Key`.
    Header {
        /// The header.
        name: String,
        /// The secret.
        value: SecretRef,
    },
}

/// Sends chunks to one address.
///
/// Every request says how many records it carries (`X-Logship-Count`) and has an `Idempotency-Key`, which is the same
/// whenever the same records are sent: a server that keeps the keys it has seen can tell a repeat.
///
/// A status of success means that all records were taken, unless the body names records:
/// `{"rejected":[{"index":1,"reason":"…"}]}`, or an array with one object a record,
/// `[{"status":202},{"status":400,"error":"…"}]`.
///
/// # Errors
/// A 400 or 422 that names no record is split to find the one at fault. A 401 is tried again once if the secrets, read
/// anew, have changed. A redirect is a configuration error: it is never followed.
///
/// # Cancellation
/// Dropping an export closes its connection. The server may have taken the records.
pub struct Http {
    delivery: Delivery,
    url: Url,
    /// What the address itself says about who we are.
    url_auth: Option<HeaderValue>,
    config: HttpConfig,
    context: BuildContext,
    /// The configured headers with their secrets.
    headers: Rotated<HeaderMap>,
    encoding: Arc<dyn Encoding>,
}

pub(crate) fn register(registry: &mut Registry) {
    #[cfg(feature = "schema")]
    registry.describe_exporter::<HttpConfig>("http");
    registry.add_exporter("http", |fields, context| Http::new(read_fields(fields)?, context.clone()));
}

impl Http {
    /// Checks a configuration, finds its secrets and makes a client. Sends nothing.
    pub fn new(config: HttpConfig, context: BuildContext) -> Result<Self, Error> {
        if config.chunk_bytes_max == 0 {
            return Err(Error::config("chunk_bytes_max", "must be more than 0"));
        }
        if let Some(status) = config.success.iter().flatten().find(|status| !(200..300).contains(*status)) {
            return Err(Error::config("success", format!("{status} is not a status from 200 to 299")));
        }
        let (url, url_auth) = parse_url(context.secret("url", &config.url)?.expose())?;
        let headers = headers(&config, url_auth.as_ref(), &context)?;
        let delivery = Delivery::new(OPERATION, &config.connection, &context)?;
        let encoding: Arc<dyn Encoding> = match config.format {
            HttpFormat::Ndjson => Arc::new(Records::new(config.compression)),
            HttpFormat::JsonArray => Arc::new(Array::new("record", Whole, config.compression)),
        };
        Ok(Http { delivery, url, url_auth, headers: Rotated::new(headers), encoding, config, context })
    }

    fn request(&self, method: Method) -> Request {
        let mut request = Request::new(method, self.url.clone());
        *request.headers_mut() = self.headers.value();
        request
    }

    fn is_success(&self, status: u16) -> bool {
        self.config.success.as_ref().map_or((200..300).contains(&status), |success| success.contains(&status))
    }

    /// What an answer says about the records of a chunk.
    fn outcome(&self, answer: &Answer, records: usize) -> Result<Outcome, Error> {
        // A status that refuses the records may still come with a verdict for each.
        let may_name_each = |status| self.is_success(status) || matches!(status, 400 | 422);
        let is_success = self.is_success(answer.status);
        if is_success && answer.is_cut {
            let message = "the answer is longer than connection.answer_bytes_max, so that refused records may be \
                           named in what was not read";
            return Err(self.delivery.unintelligible(answer, message));
        }
        match serde_json::from_slice(&answer.body) {
            Ok(Verdicts::Each(verdicts)) if verdicts.len() == records && may_name_each(answer.status) => {
                Ok(each(&verdicts))
            }
            Ok(Verdicts::Each(verdicts)) if is_success && !verdicts.is_empty() => {
                let message = format!("the answer has {} verdicts for {records} records", verdicts.len());
                Err(self.delivery.unintelligible(answer, &message))
            }
            Ok(Verdicts::Rejected { rejected }) if is_success => all_but(&rejected, records).ok_or_else(|| {
                self.delivery.unintelligible(answer, "the answer rejects a record that was not in the request")
            }),
            _ if is_success => Ok(Outcome::all_accepted(records)),
            _ => Err(self.delivery.refused(answer)),
        }
    }
}

#[async_trait]
impl Exporter for Http {
    fn kind(&self) -> &'static str {
        "http"
    }

    fn limits(&self) -> Limits {
        Limits::none().chunk_bytes_max(self.config.chunk_bytes_max)
    }

    fn encoding(&self) -> Option<Arc<dyn Encoding>> {
        Some(Arc::clone(&self.encoding))
    }

    async fn export(&self, chunk: &Chunk) -> Result<Outcome, Error> {
        let body = chunk.require_body(OPERATION)?;
        let mut request = self.request(match self.config.method {
            HttpMethod::Post => Method::POST,
            HttpMethod::Put => Method::PUT,
        });
        let sent = request.headers().clone();
        let headers = request.headers_mut();
        if let Some(packing) = body.compression.content_encoding() {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static(packing));
        }
        headers.insert("x-logship-count", HeaderValue::from(chunk.len()));
        if let Ok(key) = HeaderValue::try_from(idempotency_key(chunk)) {
            headers.insert("idempotency-key", key);
        }
        *request.body_mut() = Some(body.bytes().into());
        let answer = self.delivery.send(request).await?;
        if answer.status == 401 {
            self.headers.refuse(sent);
        }
        self.outcome(&answer, chunk.len())
    }

    /// Reads the secrets anew: files and environments change when credentials are rotated.
    async fn refresh(&self) -> Result<(), Error> {
        let fresh = headers(&self.config, self.url_auth.as_ref(), &self.context)?;
        self.headers.renew(fresh, "http refresh").map_err(|error| error.with("host", host_of(&self.url)))
    }

    /// Asks for the head of the address. Any answer will do but one that does not let us in, for many servers that
    /// take records have nothing to give.
    async fn check(&self) -> Result<(), Error> {
        let answer = self.delivery.send(self.request(Method::HEAD)).await?;
        match answer.status {
            401 | 403 | 407 => Err(self.delivery.refused(&answer)),
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http").field("host", &host_of(&self.url)).field("config", &self.config).finish_non_exhaustive()
    }
}

/// The two shapes of an answer that name records.
#[derive(Deserialize)]
#[serde(untagged)]
enum Verdicts {
    Rejected { rejected: Vec<Rejected> },
    Each(Vec<Verdict>),
}

#[derive(Deserialize)]
struct Rejected {
    index: usize,
    #[serde(default)]
    reason: String,
}

#[derive(Deserialize)]
struct Verdict {
    status: u16,
    #[serde(default)]
    error: String,
}

fn each(verdicts: &[Verdict]) -> Outcome {
    let mut outcome = Outcome::builder(verdicts.len());
    for (index, verdict) in verdicts.iter().enumerate() {
        match verdict.status {
            200..300 => outcome.accepted(index),
            408 | 425 | 429 | 500..600 => outcome.retry(index),
            status => outcome.rejected(index, status.to_string(), Error::excerpt(verdict.error.as_bytes())),
        }
    }
    outcome.build()
}

/// A whole record, with OpenTelemetry's names.
#[derive(Debug)]
struct Whole;

impl Element for Whole {
    fn write(&self, record: &LogRecord, out: &mut Vec<u8>) -> Result<(), Unencodable> {
        json::record(out, record)
    }
}

/// All accepted but these; `None` if one of them is not in the chunk.
fn all_but(rejected: &[Rejected], records: usize) -> Option<Outcome> {
    let mut outcome = Outcome::builder(records);
    (0..records).for_each(|index| outcome.accepted(index));
    for record in rejected {
        if record.index >= records {
            return None;
        }
        outcome.rejected(record.index, "rejected", Error::excerpt(record.reason.as_bytes()));
    }
    Some(outcome.build())
}

/// A hash of the ids of all records. Where a partition follows itself, it is not said again.
fn idempotency_key(chunk: &Chunk) -> String {
    let (mut id, mut partition) = (Vec::new(), None);
    let of_all = chunk.ids().fold(Fnv128::new(), |hash, record| {
        id.clear();
        if partition.as_ref() != Some(record.partition()) {
            id.extend_from_slice(record.partition().as_str().as_bytes());
            // No id holds this byte, which is not UTF-8, nor the next one, so that ids do not run into each other.
            id.push(0xfe);
            partition = Some(record.partition().clone());
        }
        record.position().write(&mut id);
        id.push(0xff);
        hash.with(&id)
    });
    of_all.to_string()
}

/// The headers of every request, secrets included.
fn headers(config: &HttpConfig, url_auth: Option<&HeaderValue>, context: &BuildContext) -> Result<HeaderMap, Error> {
    let content_type = match config.format {
        HttpFormat::Ndjson => "application/x-ndjson",
        HttpFormat::JsonArray => "application/json",
    };
    let mut headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(content_type))]);
    for (name, value) in &config.headers {
        let field = format!("headers.{name}");
        let name = header_name(&field, name)?;
        headers.insert(name, secret_value(&field, context.secret(&field, value)?.expose())?);
    }
    let (name, value) = match &config.auth {
        HttpAuth::None => match url_auth {
            Some(value) => (AUTHORIZATION, value.clone()),
            None => return Ok(headers),
        },
        _ if url_auth.is_some() => {
            return Err(Error::config("auth", "the url holds a user and password too: leave one of them out"));
        }
        HttpAuth::Basic { username, password } => {
            let password = context.secret("auth.basic.password", password)?;
            (AUTHORIZATION, basic("auth.basic", username.as_bytes(), password.expose().as_bytes())?)
        }
        HttpAuth::Bearer { token } => {
            let token = context.secret("auth.bearer.token", token)?;
            (AUTHORIZATION, secret_value("auth.bearer.token", &format!("Bearer {}", token.expose()))?)
        }
        HttpAuth::Header { name, value } => {
            let value = context.secret("auth.header.value", value)?;
            (header_name("auth.header.name", name)?, secret_value("auth.header.value", value.expose())?)
        }
    };
    if headers.contains_key(&name) && name != CONTENT_TYPE {
        return Err(Error::config("auth", format!("headers hold `{name}` too: leave one of them out")));
    }
    headers.insert(name, value);
    Ok(headers)
}

fn header_name(field: &str, name: &str) -> Result<HeaderName, Error> {
    let header = HeaderName::try_from(name)
        .map_err(|_| Error::config(field, format!("`{}` cannot be the name of a header", name.escape_debug())))?;
    let ours = [CONTENT_LENGTH, CONTENT_ENCODING, TRANSFER_ENCODING];
    if ours.contains(&header) || matches!(header.as_str(), "idempotency-key" | "x-logship-count") {
        return Err(Error::config(field, format!("`{header}` is set by the exporter itself")));
    }
    Ok(header)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::sync::Mutex;
    use std::time::Duration;

    use axum::Router;
    use axum::body::Bytes;
    use axum::http::{HeaderMap, Method, StatusCode, Uri};
    use axum::response::IntoResponse;
    use logship_core::{
        Advice, Certainty, Cursor, ErrorKind, LogRecord, Page, PageEnd, Partition, RecordId, Timestamp, read_fields,
    };
    use proptest::prelude::*;
    use serde_json::json;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[derive(Debug)]
    struct Seen {
        method: Method,
        uri: Uri,
        headers: HeaderMap,
        body: Bytes,
    }

    impl Seen {
        fn header(&self, name: &str) -> &str {
            self.headers.get(name).map_or("", |value| value.to_str().unwrap())
        }

        fn unpacked(&self) -> String {
            let mut text = String::new();
            flate2::read::GzDecoder::new(self.body.as_ref()).read_to_string(&mut text).unwrap();
            text
        }
    }

    type Log = Arc<Mutex<Vec<Seen>>>;

    /// A server that answers every request alike and keeps it.
    async fn server<A: IntoResponse + Clone + Send + Sync + 'static>(answer: A) -> (String, Log) {
        let log = Log::default();
        let seen = Arc::clone(&log);
        let handle = async move |method: Method, uri: Uri, headers: HeaderMap, body: Bytes| {
            seen.lock().unwrap().push(Seen { method, uri, headers, body });
            answer
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, Router::new().fallback(handle)).await });
        (url, log)
    }

    /// A server that reads one request whole, says `answer` and hangs up.
    async fn raw_server(answer: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            // The body is not packed and ends in a record.
            while !request.ends_with(b"}\n") {
                stream.read_buf(&mut request).await.unwrap();
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        url
    }

    fn exporter(fields: serde_json::Value) -> Result<Http, Error> {
        let serde_json::Value::Object(fields) = fields else { panic!("fields are a map") };
        Http::new(read_fields(fields)?, BuildContext::default())
    }

    fn record(number: i64) -> LogRecord {
        let id = RecordId::new(Partition::new("logs"), Cursor::number(number));
        let mut record = LogRecord::new(id, Timestamp::from_secs(number));
        record.body = format!("text {number}").into();
        record
    }

    fn chunk(exporter: &Http, numbers: std::ops::Range<i64>) -> Chunk {
        let page = Page::new(Partition::new("logs"), numbers.map(record).collect(), PageEnd::More);
        Chunk::of_page(page, exporter.encoding().as_deref()).unwrap()
    }

    /// Sends three records and gives what came of it.
    async fn export_to(url: &str) -> Result<Outcome, Error> {
        let exporter = exporter(json!({"url": url, "compression": "none"})).unwrap();
        exporter.export(&chunk(&exporter, 0..3)).await
    }

    #[tokio::test]
    async fn a_packed_body_holds_the_records_and_headers_say_what_it_is() {
        let (url, log) = server("ok").await;
        for (format, content_type) in [("ndjson", "application/x-ndjson"), ("json_array", "application/json")] {
            let exporter = exporter(json!({
                "url": format!("{url}/in?tenant=7"), "format": format, "method": "PUT",
                "headers": {"X-Team": "payments"}, "auth": {"bearer": {"token": "t0ken"}},
            }));
            let exporter = exporter.unwrap();
            let outcome = exporter.export(&chunk(&exporter, 0..3)).await.unwrap();
            assert_eq!(outcome, Outcome::all_accepted(3));
            let seen = log.lock().unwrap().pop().unwrap();
            assert_eq!((seen.method.as_str(), seen.uri.to_string().as_str()), ("PUT", "/in?tenant=7"));
            assert_eq!(seen.header("content-type"), content_type);
            assert_eq!(seen.header("content-encoding"), "gzip");
            assert_eq!(seen.header("x-logship-count"), "3");
            assert_eq!(seen.header("x-team"), "payments");
            assert_eq!(seen.header("authorization"), "Bearer t0ken");
            assert!(seen.header("user-agent").starts_with("logship/"));
            let text = seen.unpacked();
            let expected: Vec<String> = (0..3).map(|number| format!("logs:{number:020} text {number}")).collect();
            let sent: Vec<serde_json::Value> = match format {
                "ndjson" => text.lines().map(|line| serde_json::from_str(line).unwrap()).collect(),
                _ => serde_json::from_str(&text).unwrap(),
            };
            let said =
                |row: &serde_json::Value| format!("{} {}", row["id"].as_str().unwrap(), row["body"].as_str().unwrap());
            assert_eq!(sent.iter().map(said).collect::<Vec<_>>(), expected);
            assert_eq!(text.ends_with('\n'), format == "ndjson");
        }
    }

    #[test]
    fn the_idempotency_key_is_that_of_the_records_on_every_machine() {
        let exporter = exporter(json!({"url": "http://localhost"})).unwrap();
        let key = |numbers| idempotency_key(&chunk(&exporter, numbers));
        assert_eq!(key(0..3), key(0..3));
        assert_ne!(key(0..3), key(0..4));
        assert_ne!(key(0..3), key(1..4));
        assert_eq!(key(0..1).len(), 32);
        // Changing this breaks the recognition of repeats across an upgrade.
        assert_eq!(key(0..2), "01faa2d15a1f02939751220cf0871e97");
    }

    #[tokio::test]
    async fn a_refused_request_says_who_what_and_when_to_try_again() {
        let (url, _) = server((StatusCode::TOO_MANY_REQUESTS, [("Retry-After", "7")], "slow down")).await;
        let error = export_to(&format!("{url}/?key=s3cret")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Throttled);
        assert_eq!(error.advice(), Advice::After(Some(Duration::from_secs(7))));
        assert_eq!(error.certainty(), Certainty::NotDelivered);
        let text = format!("{error:?}");
        assert!(text.contains(url.trim_start_matches("http://")) && text.contains("slow down"), "{text}");
        assert!(!text.contains("s3cret"), "{text}");

        let (url, _) = server((StatusCode::BAD_REQUEST, "no")).await;
        assert_eq!(export_to(&url).await.unwrap_err().advice(), Advice::Split);
        let (url, _) = server(StatusCode::PAYLOAD_TOO_LARGE).await;
        assert_eq!(export_to(&url).await.unwrap_err().kind(), ErrorKind::TooLarge);
        let (url, _) = server(StatusCode::BAD_GATEWAY).await;
        assert_eq!(export_to(&url).await.unwrap_err().certainty(), Certainty::Unknown);
    }

    #[tokio::test]
    async fn a_redirect_is_not_followed() {
        let (target, log) = server("ok").await;
        let (url, _) = server((StatusCode::TEMPORARY_REDIRECT, [("Location", format!("{target}/?key=s3cret"))])).await;
        let error = export_to(&url).await.unwrap_err();
        assert_eq!((error.kind(), error.advice()), (ErrorKind::Config, Advice::Never));
        assert!(error.to_string().contains(&target) && !error.to_string().contains("s3cret"), "{error}");
        assert!(log.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn an_answer_that_is_lost_or_broken_leaves_the_outcome_unknown() {
        for answer in ["", "HTTP/1.1 200 OK\r\nContent-Le", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"] {
            let error = export_to(&raw_server(answer).await).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{answer}");
            assert_eq!(error.certainty(), Certainty::Unknown, "{answer}");
            assert_eq!(error.advice(), Advice::After(None), "{answer}");
        }
    }

    #[tokio::test]
    async fn a_server_that_cannot_be_reached_is_named_and_has_nothing() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        // Nobody listens there any more; and nobody there speaks TLS.
        drop(listener);
        let (plain, _) = server("ok").await;
        let tls = plain.replace("http://", "https://");
        for url in [format!("http://user:hunter2@{address}/in?key=s3cret"), tls, "http://absent.invalid:81".to_owned()]
        {
            let error = export_to(&url).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
            assert_eq!(error.certainty(), Certainty::NotDelivered, "{error}");
            let text = format!("{error:?}");
            let host = host_of(&Url::parse(&url).unwrap());
            assert!(text.contains(&host), "{text}");
            assert!(!text.contains("hunter2") && !text.contains("s3cret"), "{text}");
        }
    }

    #[tokio::test]
    async fn each_record_has_the_fate_the_answer_names() {
        let (url, _) = server(r#"{"rejected":[{"index":1,"reason":"too old"}]}"#).await;
        let outcome = export_to(&url).await.unwrap();
        assert_eq!(outcome.accepted_count(), 2);
        assert_eq!(
            outcome.rejected().map(|(index, why)| (index, why.reason.as_str())).collect::<Vec<_>>(),
            [(1, "too old")]
        );

        let positional = r#"[{"status":202},{"status":400,"error":"bad"},{"status":429}]"#;
        for status in [StatusCode::OK, StatusCode::MULTI_STATUS, StatusCode::BAD_REQUEST] {
            let (url, _) = server((status, positional)).await;
            let outcome = export_to(&url).await.unwrap();
            assert_eq!(outcome.accepted_count(), 1);
            assert_eq!(outcome.undelivered().collect::<Vec<_>>(), [2]);
            assert_eq!(
                outcome.rejected().map(|(index, why)| (index, why.code.as_str())).collect::<Vec<_>>(),
                [(1, "400")]
            );
        }

        for other in ["", "[]", "ok", "{}", r#"{"rejected":[]}"#, r#"{"rejected":"none"}"#] {
            let (url, _) = server(other).await;
            assert_eq!(export_to(&url).await.unwrap().accepted_count(), 3, "{other}");
        }
        for wrong in [r#"{"rejected":[{"index":3}]}"#, r#"[{"status":400}]"#] {
            let (url, _) = server(wrong).await;
            let error = export_to(&url).await.unwrap_err();
            assert_eq!((error.kind(), error.certainty()), (ErrorKind::Protocol, Certainty::Unknown), "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_status_is_a_success_only_if_it_is_said_to_be() {
        let (url, _) = server(StatusCode::ACCEPTED).await;
        let exporter = exporter(json!({"url": url, "success": [200]})).unwrap();
        let error = exporter.export(&chunk(&exporter, 0..1)).await.unwrap_err();
        assert_eq!((error.kind(), error.certainty()), (ErrorKind::Protocol, Certainty::Unknown));
    }

    #[tokio::test]
    async fn an_answer_too_long_to_read_confirms_nothing() {
        for (status, kind) in [(200, ErrorKind::Protocol), (503, ErrorKind::Unavailable)] {
            let (url, _) = server((StatusCode::from_u16(status).unwrap(), "[".repeat(2_000))).await;
            let exporter = exporter(json!({"url": url, "connection": {"answer_bytes_max": 1_000}})).unwrap();
            let error = exporter.export(&chunk(&exporter, 0..1)).await.unwrap_err();
            assert_eq!(error.kind(), kind);
            assert_eq!(error.to_string().contains("answer_bytes_max"), status == 200, "{error}");
        }
    }

    #[tokio::test]
    async fn every_way_to_be_let_in_reaches_the_server() {
        let (url, log) = server("ok").await;
        let with_user = url.replace("http://", "http://us%65r:p%40ss@");
        for (fields, name, value) in [
            (json!({"url": url, "auth": "none"}), "authorization", ""),
            (
                json!({"url": url, "auth": {"basic": {"username": "user", "password": "p@ss"}}}),
                "authorization",
                "Basic dXNlcjpwQHNz",
            ),
            (json!({"url": with_user}), "authorization", "Basic dXNlcjpwQHNz"),
            (json!({"url": url, "auth": {"header": {"name": "X-Api-Key", "value": "p@ss"}}}), "x-api-key", "p@ss"),
        ] {
            let exporter = exporter(fields).unwrap();
            exporter.export(&chunk(&exporter, 0..1)).await.unwrap();
            exporter.check().await.unwrap();
            let [export, check]: [Seen; 2] = std::mem::take(&mut *log.lock().unwrap()).try_into().unwrap();
            assert_eq!((export.header(name), check.header(name)), (value, value));
            assert_eq!((check.method, check.body.len()), (Method::HEAD, 0));
            let shown = format!("{exporter:?}");
            assert!(!shown.contains("p@ss") && !shown.contains("p%40ss") && !shown.contains("dXNl"), "{shown}");
        }
    }

    #[tokio::test]
    async fn check_needs_to_be_let_in_and_nothing_more() {
        for (status, is_fine) in [(200, true), (404, true), (405, true), (500, true), (401, false), (403, false)] {
            let (url, _) = server(StatusCode::from_u16(status).unwrap()).await;
            let result = exporter(json!({"url": url})).unwrap().check().await;
            assert_eq!(result.is_ok(), is_fine, "{status}");
        }
        let error = exporter(json!({"url": "http://127.0.0.1:1"})).unwrap().check().await.unwrap_err();
        assert!(error.to_string().contains("127.0.0.1:1"), "{error}");
    }

    #[tokio::test]
    async fn refreshes_expired_auth() {
        let (url, log) = server("ok").await;
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "old\n").unwrap();
        let exporter = exporter(json!({"url": url, "auth": {"bearer": {"token": {"file": file.path()}}}})).unwrap();
        assert_eq!(exporter.refresh().await.unwrap_err().kind(), ErrorKind::Auth);
        std::fs::write(file.path(), "new\n").unwrap();
        exporter.refresh().await.unwrap();
        exporter.export(&chunk(&exporter, 0..1)).await.unwrap();
        assert_eq!(log.lock().unwrap()[0].header("authorization"), "Bearer new");
    }

    #[test]
    fn a_wrong_configuration_is_refused_before_anything_is_sent() {
        let url = "http://user:hunter2@localhost";
        for (fields, field) in [
            (json!({}), "url"),
            (json!({"url": "localhost:80"}), "url"),
            (json!({"url": "http://"}), "url"),
            (json!({"url": "ftp://user:hunter2@localhost"}), "url"),
            (json!({"url": url, "auth": {"bearer": {"token": "hunter2"}}}), "auth"),
            (json!({"url": url, "headers": {"Authorization": "hunter2"}}), "auth"),
            (json!({"url": url, "headers": {"a b": "hunter2"}}), "headers.a b"),
            (json!({"url": url, "headers": {"x": "hunter2\n"}}), "headers.x"),
            (json!({"url": url, "headers": {"Content-Length": "1"}}), "headers.Content-Length"),
            (json!({"url": url, "auth": {"basic": {"username": "a", "password": "hunter2", "x": 1}}}), "auth"),
            (json!({"url": url, "method": "GET"}), "method"),
            (json!({"url": url, "success": [302]}), "success"),
            (json!({"url": url, "chunk_bytes_max": 0}), "chunk_bytes_max"),
            (json!({"url": url, "retries": 3}), "retries"),
            (json!({"url": url, "headers": {"x": {"env": "LOGSHIP_TEST_NOT_SET"}}}), "LOGSHIP_TEST_NOT_SET"),
        ] {
            let shown = fields.to_string();
            let error = exporter(fields).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{shown}");
            assert!(error.to_string().contains(field), "{shown}: {error}");
            assert!(!format!("{error:?}").contains("hunter2"), "{shown}: {error}");
        }
    }

    proptest! {
        /// Whatever a server answers, records are refused, sent again or accepted one by one only as it says.
        #[test]
        fn verdicts_are_counted_as_given(statuses in prop::collection::vec(prop::sample::select(vec![200u16, 202, 400, 404, 413, 429, 503]), 1..20)) {
            let body = serde_json::to_vec(&statuses.iter().map(|status| json!({"status": status})).collect::<Vec<_>>()).unwrap();
            let Ok(Verdicts::Each(verdicts)) = serde_json::from_slice(&body) else { panic!("not read") };
            let outcome = each(&verdicts);
            let count = |wanted: &[u16]| statuses.iter().filter(|status| wanted.contains(status)).count();
            prop_assert_eq!(outcome.accepted_count(), count(&[200, 202]));
            prop_assert_eq!(outcome.undelivered().count(), count(&[429, 503]));
            prop_assert_eq!(outcome.rejected().count(), count(&[400, 404, 413]));
        }
    }
}
