//! P12 end to end: three hundred secrets in records and the credentials of every kind of configuration, and everything
//! that leaves the process or is shown: none of them is in it.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test says what it finds, and fails by its panic")]

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::io::Write;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use futures::StreamExt;
use logship::config::ShipperConfig;
use logship::exporters::azure_monitor::{
    AccessToken, AzureMonitor, AzureMonitorConfig, EntraCredentials, TokenProvider,
};
use logship::sources::memory::MemorySource;
use logship::state::memory::MemoryOffsets;
use logship::{
    BuildContext, Error, Exporter, Lane, LogShipper, Registry, RetryPolicy, Secret, Timestamp, Value, registry,
};
use logship_testkit::strict::google::service_account_key;
use serde_json::json;
use tracing_subscriber::fmt::format::FmtSpan;

/// A buffer that everything is written to.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<u8>>>);

impl Seen {
    fn add(&self, text: impl AsRef<[u8]>) {
        let mut seen = self.0.lock().unwrap();
        seen.extend_from_slice(text.as_ref());
        seen.push(b'\n');
    }

    fn show(&self, shown: &(impl Debug + ?Sized)) {
        self.add(format!("{shown:?}\n{shown:#?}"));
    }

    fn error(&self, error: &Error) {
        self.show(error);
        self.add(error.to_string());
        let mut cause = std::error::Error::source(error);
        while let Some(next) = cause {
            self.add(format!("{next} {next:?}"));
            cause = next.source();
        }
    }

    fn take(&self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut *self.0.lock().unwrap())).into_owned()
    }
}

impl Write for Seen {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

const WORD: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

fn text(rng: &mut fastrand::Rng, characters: &str, length: usize) -> String {
    (0..length).map(|_| characters.as_bytes()[rng.usize(..characters.len())] as char).collect()
}

/// A number of a payment card that passes the Luhn check.
fn card(rng: &mut fastrand::Rng) -> String {
    let number = format!("4{}", text(rng, "0123456789", 14));
    let doubled = |digit: u32| if digit > 4 { 2 * digit - 9 } else { 2 * digit };
    let digits = number.chars().rev().map(|digit| digit.to_digit(10).unwrap());
    let sum: u32 = digits.enumerate().map(|(at, digit)| if at % 2 == 0 { doubled(digit) } else { digit }).sum();
    format!("{number}{}", (10 - sum % 10) % 10)
}

/// A secret, and a text in which it stands as programs write it; where the secret is the value of a field that says so,
/// the field's name.
fn planted(rng: &mut fastrand::Rng, number: usize) -> (String, String, Option<&'static str>) {
    let secret = text(rng, WORD, 24);
    let said = match number % 14 {
        0 => format!("GET / HTTP/1.1\r\nAuthorization: Bearer {secret}\r\nAccept: */*"),
        1 => format!("cannot connect to postgres://app:{secret}@db.internal:5432/logs?sslmode=off"),
        2 => format!("proxy https://:{secret}@proxy.internal:3128 refused"),
        3 => {
            let pair = STANDARD.encode(format!("user:{secret}"));
            return (pair.clone(), format!("curl -H 'authorization: Basic {pair}' https://x"), None);
        }
        4 => {
            let id = format!("AKIA{}", text(rng, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", 16));
            return (id.clone(), format!("signing with {id}."), None);
        }
        5 => {
            let key = text(rng, WORD, 40);
            return (key.clone(), format!("[default]\naws_secret_access_key = {key}\nregion = eu-west-1"), None);
        }
        6 => {
            let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
            let claims = part(&format!("{{\"sub\":\"{secret}\"}}"));
            let token = format!("{}.{claims}.{}", part("{\"alg\":\"HS256\"}"), text(rng, WORD, 43));
            return (claims, format!("token accepted: {token}"), None);
        }
        7 => {
            let body = text(rng, WORD, 64);
            let pem = format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----");
            return (body, format!("loaded\n{pem}\ndone"), None);
        }
        8 => {
            let number = card(rng);
            return (number.clone(), format!("charged {number} twice"), None);
        }
        9 => {
            let number = card(rng);
            let spaced = format!("{} {} {} {}", &number[..4], &number[4..8], &number[8..12], &number[12..]);
            return (spaced.clone(), format!("card: {spaced}"), None);
        }
        10 => format!("{{\"user\":\"u\",\"password\":\"{secret}\"}}"),
        11 => return (secret.clone(), secret, Some("db.password")),
        12 => return (secret.clone(), secret, Some("api_key")),
        _ => {
            let token = format!("ghp_{}", text(rng, WORD, 36));
            return (token.clone(), format!("remote: https://{token}@github.com/x"), None);
        }
    };
    (secret, said, None)
}

/// Records with a secret each, wherever a record can hold one; and the secrets.
fn records() -> (MemorySource, Vec<String>) {
    let mut rng = fastrand::Rng::with_seed(12);
    let source = MemorySource::new();
    let mut secrets = Vec::new();
    for number in 0..308 {
        let (secret, said, field) = planted(&mut rng, number);
        source.push("logs", Timestamp::now(), |record| {
            let said = Value::from(said.as_str());
            if let Some(field) = field {
                let inner = Value::Map(vec![("who".into(), "u".into()), (field.into(), said.clone())]);
                record.body = Value::Map(vec![("login".into(), inner), (field.into(), said.clone())]);
                record.attributes = vec![(field.into(), said.clone()), (format!("app.{field}").into(), said)];
                return;
            }
            match number / 14 % 4 {
                0 => record.body = said,
                1 => record.attributes = vec![("note".into(), said.clone()), ("raw".into(), bytes(&said))],
                2 => record.attributes = vec![("list".into(), Value::Array(vec![Value::Null, said]))],
                _ => {
                    record.severity_text = said.as_str().map(Into::into);
                    let by_name = Value::Map(vec![(said.as_str().unwrap().into(), 1.into())]);
                    record.attributes = vec![("headers".into(), by_name)];
                }
            }
        });
        secrets.push(secret);
    }
    (source, secrets)
}

fn bytes(text: &Value) -> Value {
    Value::Bytes(text.as_str().unwrap().to_owned().into_bytes().into())
}

/// A server that keeps every body, and refuses in words that repeat everything it was sent.
#[derive(Clone, Default)]
struct Echo {
    bodies: Seen,
    requests: Arc<AtomicUsize>,
}

/// What a vendor says: it refuses the records of one kind, and repeats everything in a success, too.
fn vendor_says(request: usize, headers: &HeaderMap, body: &str) -> (StatusCode, String) {
    let repeated = format!("{headers:?} {body}");
    match request % 5 {
        0 => (StatusCode::SERVICE_UNAVAILABLE, repeated),
        1 => (StatusCode::TOO_MANY_REQUESTS, repeated),
        _ if body.contains("signing with") => (StatusCode::BAD_REQUEST, repeated),
        _ => {
            let said = json!({"text": "Success", "code": 0, "partialSuccess": {"errorMessage": repeated}});
            (StatusCode::OK, said.to_string())
        }
    }
}

async fn echo(State(echo): State<Echo>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let body = String::from_utf8_lossy(&body).into_owned();
    let product = [("x-elastic-product", "Elasticsearch")];
    if method != Method::POST {
        return (product, "{}").into_response();
    }
    echo.bodies.add(&body);
    let request = echo.requests.fetch_add(1, Ordering::SeqCst);
    if ["/api/v2/logs", "/log/v1", "/services/collector/event", "/v1/logs"].contains(&uri.path()) {
        return vendor_says(request, &headers, &body).into_response();
    }
    let said = match request % 7 {
        0 => (StatusCode::INTERNAL_SERVER_ERROR, format!("failed at {headers:?} {body}")),
        1 => (StatusCode::TOO_MANY_REQUESTS, format!("{body} {headers:?}")),
        // A bulk request that is refused so is our own fault, and the lane would stop.
        2 if headers.contains_key("x-logship-count") => {
            (StatusCode::UNPROCESSABLE_ENTITY, format!("cannot take {body}"))
        }
        3 => (StatusCode::BAD_GATEWAY, format!("{headers:?}")),
        _ if headers.contains_key("x-logship-count") => {
            let reason = format!("cannot parse {} of {headers:?}", body.lines().next().unwrap_or_default());
            (StatusCode::OK, json!({"rejected": [{"index": 0, "reason": reason}]}).to_string())
        }
        _ => {
            let item = |(at, document): (usize, &str)| match at % 3 {
                0 => json!({"create": {"status": 400, "error": {"type": "document_parsing_exception",
                    "reason": format!("preview of {document}"), "caused_by": {"type": "x", "reason": document}}}}),
                _ => json!({"create": {"status": 201}}),
            };
            let items: Vec<_> = body.lines().skip(1).step_by(2).enumerate().map(item).collect();
            (StatusCode::OK, json!({"errors": true, "items": items}).to_string())
        }
    };
    (product, said).into_response()
}

async fn serve() -> (Echo, String) {
    let state = Echo::default();
    let router = Router::new().fallback(echo).with_state(state.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move { axum::serve(listener, router).await });
    (state, address)
}

/// The credentials of configurations: each as it is written, and as headers carry it.
struct Credentials(Vec<String>);

impl Credentials {
    fn get(&mut self, name: &str) -> String {
        let secret = format!("{name}{}", text(&mut fastrand::Rng::with_seed(self.0.len() as u64), WORD, 20));
        self.0.push(secret.clone());
        self.0.push(STANDARD.encode(format!("user:{secret}")));
        secret
    }
}

/// One lane of every kind, those over HTTP to this address and with every kind of credentials.
fn exporters(address: &str, dir: &std::path::Path, credentials: &mut Credentials) -> serde_json::Value {
    let mut secret = |name| credentials.get(name);
    let lane = json!({"chunk": 20, "retry": {"attempts_max": 20, "delay_initial_ms": 1, "delay_max_ms": 5}});
    let mut lanes = vec![
        json!({"id": "in-url", "type": "http", "url": format!("http://user:{}@{address}/p-{}?token={}", secret("url"),
            secret("path"), secret("query")), "headers": {"X-Other": secret("header")}, "compression": "none"}),
        json!({"id": "bearer", "type": "http", "url": format!("http://{address}/"), "compression": "none",
            "auth": {"bearer": {"token": secret("bearer")}}}),
        json!({"id": "named", "type": "http", "url": format!("http://{address}/"), "compression": "none",
            "auth": {"header": {"name": "X-Api-Key", "value": secret("named")}}}),
        json!({"id": "es-basic", "type": "elasticsearch", "hosts": [format!("http://{address}/")], "index": "logs",
            "auth": {"basic": {"username": "user", "password": secret("es")}}, "compression": "none"}),
        json!({"id": "es-key", "type": "elasticsearch", "hosts": [format!("http://{address}/")], "index": "logs",
            "auth": {"api_key": secret("eskey")}, "compression": "none"}),
        json!({"id": "datadog", "type": "datadog", "url": format!("http://{address}/?token={}", secret("ddurl")),
            "api_key": secret("datadog"), "compression": "none"}),
        json!({"id": "newrelic", "type": "newrelic", "url": format!("http://{address}/log/v1"),
            "license_key": secret("newrelic"), "compression": "none"}),
        json!({"id": "splunk", "type": "splunk", "url": format!("http://{address}/"), "token": secret("splunk"),
            "compression": "none"}),
        json!({"id": "otlp", "type": "otlp", "endpoint": format!("http://user:{}@{address}/", secret("otlpuser")),
            "headers": {"api-key": secret("otlp")}, "compression": "none"}),
        json!({"id": "otlp-json", "type": "otlp", "endpoint": format!("http://{address}/"), "protocol": "http_json",
            "headers": {"authorization": format!("Bearer {}", secret("otlpbearer"))}, "compression": "none"}),
        json!({"id": "ion", "type": "file", "dir": dir.join("ion")}),
        json!({"id": "json", "type": "file", "dir": dir.join("json"), "format": "json"}),
    ];
    for entry in &mut lanes {
        let dead = dir.join(format!("dead-{}", entry["id"].as_str().unwrap()));
        entry["lane"] = lane.clone();
        entry["dead_letter"] = json!({"type": "file", "dir": dead, "format": "json"});
    }
    lanes.into()
}

fn config(source: serde_json::Value, exporters: serde_json::Value, redaction: serde_json::Value) -> ShipperConfig {
    serde_json::from_value(json!({
        "source": source, "offsets": {"type": "memory"}, "lookback_secs": 0, "redaction": redaction,
        "exporters": exporters,
    }))
    .unwrap()
}

/// Ships the records to every lane, and gives what was sent and written, and what was shown.
async fn ship(source: &MemorySource, redaction: serde_json::Value, credentials: &mut Credentials) -> (String, Seen) {
    let dir = tempfile::tempdir().unwrap();
    let (server, address) = serve().await;
    let shown = Seen::default();
    let mut registry: Registry = registry();
    let memory = source.clone();
    registry.add_source("memory", move |_, _| Ok(memory.clone()));
    let config = config(json!({"type": "memory"}), exporters(&address, dir.path(), credentials), redaction);
    shown.show(&config);
    let shipper = config.build(&registry, &BuildContext::default()).unwrap();
    shown.show(&shipper);
    let mut progress = shipper.progress();
    let heard = shown.clone();
    let listening = tokio::spawn(async move {
        while let Some(event) = progress.next().await {
            heard.show(&event);
        }
    });
    let report = shipper.run_once().await.unwrap();
    shown.show(&report);
    shown.add(report.to_string());
    for lane in &report.lanes {
        assert_eq!((lane.read, lane.left), (308, 0), "{}: {}", lane.id, lane.status);
        assert!(lane.id.starts_with(['i', 'j']) || lane.dead_lettered > 5 || lane.id == "in-url", "{lane:?}");
    }
    if let Err(error) = report.require_complete() {
        shown.error(&error);
    }
    drop(shipper);
    listening.await.unwrap();
    let mut bodies = server.bodies.take();
    for folder in std::fs::read_dir(dir.path()).unwrap() {
        for file in std::fs::read_dir(folder.unwrap().path()).unwrap() {
            bodies += &std::fs::read_to_string(file.unwrap().path()).unwrap();
        }
    }
    (bodies, shown)
}

/// A database that does not let us in, or is not there.
async fn fail_to_connect_to(kind: &'static str, url: String, shown: &Seen) {
    let source = json!({"type": kind, "url": url,
        "mapping": {"table": "t", "id": "id", "timestamp": "at", "body": "m"}});
    let config = config(source, json!([{"id": "console", "type": "console"}]), json!({}));
    shown.show(&config);
    let shipper = config.build(&registry(), &BuildContext::default()).unwrap();
    shown.show(&shipper);
    let source = registry().source(kind, fields(json!({"url": url})), &BuildContext::default()).unwrap();
    shown.show(&*source);
    let offsets = registry().store(kind, fields(json!({"url": url})), &BuildContext::default()).unwrap();
    shown.show(&*offsets);
    let key = logship::OffsetKey::new("key").unwrap();
    let (run, check, lease) = futures::join!(
        shipper.run_once(),
        source.check(),
        offsets.acquire(&key, "holder", std::time::Duration::from_secs(1))
    );
    shown.error(&run.unwrap_err());
    shown.error(&check.unwrap_err());
    shown.error(&lease.unwrap_err());
}

/// Every way not to get through, and everything that is shown of it.
async fn fail_to_connect(credentials: &mut Credentials) -> Seen {
    let shown = Seen::default();
    let dir = tempfile::tempdir().unwrap();
    // Nobody listens at this port, as it was just given back.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let servers = ["LOGSHIP_POSTGRES_URL", "LOGSHIP_MYSQL_URL"].map(|name| std::env::var(name).ok());
    let host = |url: &Option<String>| {
        let at = |url: &String| url.split_once('@').map(|(_, rest)| rest.split('/').next().unwrap().to_owned());
        url.as_ref().and_then(at).unwrap_or_else(|| closed.clone())
    };
    let databases = [("postgres", host(&servers[0])), ("mysql", host(&servers[1])), ("postgres", closed.clone())].map(
        |(kind, host)| {
            let url = format!("{kind}://user:{}@{host}/nowhere", credentials.get(kind));
            fail_to_connect_to(kind, url, &shown)
        },
    );
    futures::future::join_all(databases).await;
    let source = MemorySource::new();
    source.push("logs", Timestamp::now(), |record| record.body = "harmless".into());
    let mut entries = exporters(&closed, dir.path(), credentials);
    for entry in entries.as_array_mut().unwrap() {
        entry["lane"]["retry"]["attempts_max"] = 2.into();
    }
    let grpc = format!("http://user:{}@{closed}", credentials.get("grpc"));
    let mut grpc = json!({"id": "grpc", "type": "otlp", "endpoint": grpc, "protocol": "grpc",
        "headers": {"api-key": credentials.get("grpcheader")}});
    grpc["lane"] = entries[0]["lane"].clone();
    entries.as_array_mut().unwrap().push(grpc);
    for entry in entries.as_array().unwrap().iter().filter(|entry| entry["type"] != "file") {
        let mut registry = registry();
        let source = source.clone();
        registry.add_source("memory", move |_, _| Ok(source.clone()));
        let config = config(json!({"type": "memory"}), json!([entry]), json!({}));
        let shipper = config.build(&registry, &BuildContext::default()).unwrap();
        match shipper.run_once().await {
            Err(error) => shown.error(&error),
            Ok(report) => {
                shown.show(&report);
                shown.error(&report.require_complete().unwrap_err());
            }
        }
    }
    shown
}

fn fields(value: serde_json::Value) -> logship::Fields {
    serde_json::from_value(value).unwrap()
}

/// A server that refuses everything with this status, in words that repeat all it was sent, in the form of whoever is
/// asked. Only tokens are to be had.
async fn refuse(
    State((status, token)): State<(Arc<AtomicU16>, String)>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if uri.path() == "/token" {
        let given = json!({"access_token": token, "expires_in": 3_600, "token_type": "Bearer"});
        return ([("content-type", "application/json")], given.to_string()).into_response();
    }
    let repeated = format!("{uri} {headers:?} {}", String::from_utf8_lossy(&body));
    let is_of_aws = headers.get("content-type").is_some_and(|text| text.to_str().unwrap().contains("amz-json"));
    let said = match uri.path() {
        _ if is_of_aws => json!({"__type": "InvalidParameterException", "message": repeated}).to_string(),
        path if path.starts_with("/bucket") => {
            let repeated = repeated.replace(['<', '&'], " ");
            format!("<Error><Code>InvalidArgument</Code><Message>{repeated}</Message></Error>")
        }
        path if path.starts_with("/v2/entries") => json!({"error": {"code": 7, "message": repeated}}).to_string(),
        _ => repeated,
    };
    let status = StatusCode::from_u16(status.load(Ordering::SeqCst)).unwrap();
    (status, [("x-elastic-product", "Elasticsearch")], said).into_response()
}

/// A token that was given out.
#[derive(Debug)]
struct Given(Secret);

#[logship::async_trait]
impl TokenProvider for Given {
    async fn token(&self, _: &str) -> Result<AccessToken, Error> {
        Ok(AccessToken::new(self.0.expose(), std::time::Duration::from_secs(3_600)))
    }
}

/// One configuration of each kind of exporter that sends to this address, with credentials of every kind.
fn destinations(address: &str, credentials: &mut Credentials) -> Vec<(&'static str, serde_json::Value)> {
    let google: serde_json::Value =
        serde_json::from_str(&service_account_key("acme", &format!("{address}/token"))).unwrap();
    credentials.0.push(google["private_key"].as_str().unwrap().lines().nth(1).unwrap().to_owned());
    let account_key = STANDARD.encode(credentials.get("azurekey"));
    credentials.0.push(account_key.clone());
    let mut secret = |name: &str| credentials.get(name);
    let mut aws = |name: &str| {
        let name = format!("{name}key");
        let key = json!({"access_key_id": "AKIDEXAMPLE", "secret_access_key": secret(&name),
            "session_token": secret(&name)});
        json!({"region": "eu-west-1", "endpoint": address, "credentials": {"static": key}})
    };
    let (s3, cloudwatch, sqs, mut opensearch) = (aws("s3"), aws("cloudwatch"), aws("sqs"), aws("opensearch"));
    let (firehose, kinesis) = (aws("firehose"), aws("kinesis"));
    opensearch.as_object_mut().unwrap().remove("endpoint");
    let grpc = json!({"endpoint": address, "protocol": "grpc", "headers": {"api-key": secret("grpckey")}});
    vec![
        (
            "azure_blob",
            json!({"container": "bucket", "account": "a", "endpoint": format!("{address}/bucket"),
            "account_key": account_key}),
        ),
        (
            "azure_blob",
            json!({"container": "bucket", "account": "a", "endpoint": format!("{address}/bucket"),
            "sas_token": format!("sv=2024-11-04&sig={}", secret("sas"))}),
        ),
        ("cloudwatch", json!({"log_group_name": "g", "log_stream_name": "s", "aws": cloudwatch})),
        ("datadog", json!({"url": address, "api_key": secret("datadogkey")})),
        ("elasticsearch", json!({"hosts": [address], "index": "logs", "auth": {"bearer": secret("esbearer")}})),
        ("elasticsearch", json!({"hosts": [address], "index": "logs", "auth": {"api_key": secret("eskey")}})),
        ("gcp_logging", json!({"endpoint": address, "project_id": "acme", "service_account": google.to_string()})),
        (
            "gcs",
            json!({"bucket": "bucket", "endpoint": address,
            "credentials": {"service_account": google.to_string()}}),
        ),
        (
            "http",
            json!({"url": format!("{address}/{}?t={}", secret("httppath"), secret("httpquery")),
            "auth": {"bearer": {"token": secret("httpbearer")}}}),
        ),
        ("loggly", json!({"url": address, "token": secret("logglytoken")})),
        ("logzio", json!({"url": address, "token": secret("logziotoken")})),
        ("loki", json!({"url": address, "auth": {"basic": {"username": "user", "password": secret("lokibasic")}}})),
        ("loki", json!({"url": address, "auth": {"bearer": {"token": secret("lokibearer")}}})),
        ("newrelic", json!({"url": address, "license_key": secret("newrelickey")})),
        (
            "opensearch",
            json!({"hosts": [address], "index": "logs",
            "auth": {"basic": {"username": "user", "password": secret("osbasic")}}}),
        ),
        ("opensearch", json!({"hosts": [address], "index": "logs", "auth": {"aws": opensearch}})),
        ("firehose", json!({"delivery_stream_name": "logs", "aws": firehose})),
        ("kinesis", json!({"stream_name": "logs", "aws": kinesis})),
        ("otlp", json!({"endpoint": address, "headers": {"api-key": secret("otlpkey")}})),
        ("otlp", grpc),
        ("s3", json!({"bucket": "bucket", "aws": s3})),
        ("splunk", json!({"url": address, "token": secret("splunktoken")})),
        ("sqs", json!({"queue_url": format!("{address}/1/q"), "aws": sqs})),
    ]
}

/// Every exporter at a server that refuses everything, and everything that is shown of it.
async fn turn_away(credentials: &mut Credentials) -> Seen {
    let shown = Seen::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let status = Arc::new(AtomicU16::new(0));
    let router = Router::new().fallback(refuse).with_state((Arc::clone(&status), credentials.get("googletoken")));
    tokio::spawn(async move { axum::serve(listener, router).await });
    let mut exporters: Vec<Arc<dyn Exporter>> = Vec::new();
    for (kind, config) in destinations(&address, credentials) {
        exporters.push(registry().exporter(kind, fields(config), &BuildContext::default()).unwrap());
    }
    let mut config = AzureMonitorConfig::new(address, "dcr-1", "Custom-Logs");
    config.credentials = EntraCredentials::Provider(Arc::new(Given(credentials.get("entratoken").into())));
    exporters.push(Arc::new(AzureMonitor::new(config, &BuildContext::default()).unwrap()));
    let kinds: BTreeSet<&str> = exporters.iter().map(|exporter| exporter.kind()).collect();
    let missing: Vec<&str> = registry().exporter_names().filter(|kind| !kinds.contains(kind)).collect();
    assert_eq!(missing, ["console", "file"], "say above how these are configured, if they send anything");
    for refusal in [200, 400, 401, 403, 404, 413, 429, 500] {
        status.store(refusal, Ordering::SeqCst);
        for exporter in &exporters {
            turn_away_one(Arc::clone(exporter), &shown).await;
        }
    }
    shown
}

async fn turn_away_one(exporter: Arc<dyn Exporter>, shown: &Seen) {
    shown.show(&*exporter);
    let source = MemorySource::new();
    source.push("logs", Timestamp::now(), |record| record.body = "harmless".into());
    let mut retry = RetryPolicy::default();
    retry.attempts_max = 1;
    let lane = Lane::shared("away", Arc::clone(&exporter)).retry(retry);
    let shipper = LogShipper::builder(source).offsets(MemoryOffsets::new()).lookback(None).lane(lane).build().unwrap();
    shown.show(&shipper);
    let report = shipper.run_once().await.unwrap();
    shown.show(&report);
    shown.add(report.to_string());
    for said in [report.require_complete().err(), exporter.check().await.err(), exporter.refresh().await.err()] {
        said.iter().for_each(|error| shown.error(error));
    }
}

/// Secrets at wrong places in a configuration, and what is said of it.
fn misconfigure(credentials: &mut Credentials) -> Seen {
    let shown = Seen::default();
    let mut secret = |name| credentials.get(name);
    let wrong = [
        ("http", json!({"url": format!("http://user:{}@host:port/", secret("badport"))})),
        ("http", json!({"url": format!("ftp://user:{}@host/", secret("scheme"))})),
        ("http", json!({"url": "http://host/", "headers": {"X": format!("{}\n", secret("linebreak"))}})),
        ("http", json!({"url": "http://host/", "auth": {"bearer": secret("shape")}})),
        ("http", json!({"url": "http://host/", "auth": secret("variant")})),
        ("http", json!({"url": "http://host/", "auth": {"bearer": {"token": {"value": secret("ref")}}}})),
        ("http", json!({"url": ["http://host/", secret("list")]})),
        ("http", json!({"url": "http://host/", "chunk_bytes_max": secret("number")})),
        ("http", json!({"url": format!("http://user:{}@host/", secret("twice")), "auth": {"bearer": {"token": "x"}}})),
        ("elasticsearch", json!({"hosts": [format!("http://user:{}@host/", secret("hosts"))], "index": "logs"})),
        ("elasticsearch", json!({"hosts": [format!("http://user:{}@host:port/", secret("esport"))], "index": "logs"})),
        ("elasticsearch", json!({"hosts": ["http://host/"], "index": "logs", "auth": {"api_key": [secret("eslist")]}})),
        (
            "elasticsearch",
            json!({"hosts": ["http://host/"], "index": "logs",
            "auth": {"basic": {"username": "u", "password": format!("{}\n", secret("esline"))}}}),
        ),
        ("elasticsearch", json!({"cloud_id": secret("cloud"), "index": "logs"})),
        ("loggly", json!({"token": [secret("logglylist")]})),
        ("loggly", json!({"token": "x", "url": format!("http://user:{}@host/", secret("logglyuser"))})),
        ("loggly", json!({"token": secret("loggly")})),
        ("logzio", json!({"token": {"value": secret("logziolist")}})),
        ("logzio", json!({"token": "x", "url": format!("http://user:{}@host/", secret("logziouser"))})),
        ("logzio", json!({"token": "x", "url": format!("http://host/?token={}", secret("logzioquery"))})),
        ("logzio", json!({"token": secret("logzio")})),
        ("loki", json!({"url": format!("http://user:{}@host:port/", secret("lokiport"))})),
        ("loki", json!({"url": "http://host/", "auth": secret("lokivariant")})),
        ("loki", json!({"url": "http://host/", "auth": {"bearer": {"token": format!("{}\n", secret("lokiline"))}}})),
        ("loki", json!({"url": format!("http://user:{}@host/", secret("loki"))})),
        ("opensearch", json!({"hosts": [format!("http://user:{}@host/", secret("oshosts"))], "index": "logs"})),
        ("opensearch", json!({"hosts": ["http://host/"], "index": "logs", "auth": {"aws": secret("osvariant")}})),
        ("s3", json!({"bucket": "logs", "aws": {"credentials": {"static": secret("s3shape")}}})),
        ("s3", json!({"bucket": "logs", "aws": {"endpoint": format!("http://user:{}@host/", secret("s3user"))}})),
        (
            "s3",
            json!({"bucket": "logs", "aws": {"region": "eu-west-1", "credentials": {"static": {
                "access_key_id": "x", "secret_access_key": secret("s3key"), "session_token": secret("s3token")}}}}),
        ),
        ("cloudwatch", json!({"log_group_name": "logs", "aws": {"credentials": {"static": secret("cwshape")}}})),
        (
            "cloudwatch",
            json!({"log_group_name": "logs", "aws": {"credentials": {"static": {
                "access_key_id": "x", "secret_access_key": secret("cwkey"), "session_token": secret("cwtoken")}}}}),
        ),
        ("gcs", json!({"bucket": "logs", "credentials": {"service_account": secret("gcskey")}})),
        ("gcs", json!({"bucket": "logs", "credentials": secret("gcsvariant")})),
        ("azure_blob", json!({"container": "logs", "account": "a", "account_key": secret("azurekey")})),
        ("azure_blob", json!({"container": "logs", "account": "a", "account_key": {"env": [secret("azureenv")]}})),
        (
            "azure_blob",
            json!({"container": "logs", "account": "a", "sas_token": format!("sig={}", secret("azuresas"))}),
        ),
        ("azure_blob", json!({"container": "logs", "connection_string": format!("AccountKey={}", secret("azureall"))})),
        (
            "azure_blob",
            json!({"container": "logs", "account": "a", "credentials": {"client_secret": {
                "tenant_id": "t", "client_id": "c", "client_secret": secret("entra")}}}),
        ),
        ("gcp_logging", json!({"project_id": "p", "service_account": secret("gclkey")})),
        ("gcp_logging", json!({"project_id": "p", "service_account": [secret("gcllist")]})),
        ("gcp_logging", json!({"service_account": format!("{{\"project_id\":\"{}\"}}", secret("gclproject"))})),
        ("gcp_logging", json!({"project_id": "p", "endpoint": format!("http://user:{}@host/", secret("gcluser"))})),
        (
            "azure_monitor",
            json!({"endpoint": "http://host/", "rule_id": "r", "stream_name": "s", "credentials": {"client_secret": {
                "tenant_id": secret("amtenant"), "client_id": secret("amclient"), "client_secret": secret("amsecret")}}}),
        ),
        (
            "azure_monitor",
            json!({"endpoint": "http://host/", "rule_id": "r", "stream_name": "s", "credentials": {"client_secret": {
                "tenant_id": "t", "client_id": "c", "client_secret": [secret("amlist")]}}}),
        ),
        (
            "azure_monitor",
            json!({"endpoint": format!("http://user:{}@host:port/", secret("amuser")), "rule_id": "r",
                "stream_name": "s"}),
        ),
        (
            "kinesis",
            json!({"stream_name": "s", "aws": {"region": "r", "credentials": {"static": {
                "access_key_id": secret("kinesisid"), "secret_access_key": secret("kinesiskey")}}}}),
        ),
        ("kinesis", json!({"stream_name": "s", "aws": {"endpoint": format!("http://u:{}@h/", secret("kinesisuser"))}})),
        (
            "firehose",
            json!({"delivery_stream_name": "s", "aws": {"region": "r", "credentials": {"static": {
                "access_key_id": "x", "secret_access_key": [secret("firehoselist")]}}}}),
        ),
        (
            "firehose",
            json!({"delivery_stream_name": "s", "aws": {"region": "r", "credentials": {"static": {
                "access_key_id": "x", "secret_access_key": secret("firehosekey")}}}}),
        ),
        ("datadog", json!({"api_key": format!("{}\n", secret("ddline"))})),
        ("datadog", json!({"api_key": "k", "url": format!("http://user:{}@host/", secret("dduser"))})),
        ("datadog", json!({"api_key": "k", "chunk_bytes_max": secret("ddnumber")})),
        ("datadog", json!({"api_key": [secret("ddlist")]})),
        ("datadog", json!({"api_key": secret("ddgood")})),
        ("newrelic", json!({"license_key": format!("{}\n", secret("nrline"))})),
        ("newrelic", json!({"license_key": "k", "url": format!("http://user:{}@host:port/", secret("nruser"))})),
        ("newrelic", json!({"license_key": {"value": secret("nrref")}})),
        ("newrelic", json!({"license_key": secret("nrgood")})),
        ("splunk", json!({"url": "http://host/", "token": format!("{}\n", secret("splunkline"))})),
        ("splunk", json!({"url": format!("http://user:{}@host/", secret("splunkuser")), "token": "t"})),
        ("splunk", json!({"url": "http://host/", "token": [secret("splunklist")]})),
        ("splunk", json!({"url": "http://host/", "token": secret("splunkgood")})),
        ("otlp", json!({"endpoint": format!("http://user:{}@host:port/", secret("otlpport"))})),
        ("otlp", json!({"endpoint": format!("http://host/?token={}", secret("otlpquery")), "protocol": "grpc"})),
        ("otlp", json!({"endpoint": "http://host/", "headers": {"X": format!("{}\n", secret("otlpline"))}})),
        ("otlp", json!({"endpoint": "http://host/", "headers": [secret("otlplist")]})),
        ("otlp", json!({"endpoint": "http://host/", "headers": {"X": secret("otlpgood")}})),
        (
            "opensearch",
            json!({"hosts": ["http://host/"], "index": "logs", "auth": {"aws": {"region": "eu-west-1", "credentials":
                {"static": {"access_key_id": "x", "secret_access_key": secret("oskey"),
                    "session_token": secret("ostoken")}}}}}),
        ),
    ];
    for (kind, config) in wrong {
        match registry().exporter(kind, fields(config.clone()), &BuildContext::default()) {
            Err(error) => shown.error(&error),
            Ok(exporter) => shown.show(&*exporter),
        }
    }
    for kind in ["postgres", "mysql"] {
        for url in [format!("{kind}://user:{}@host:port/db", secret(kind)), format!("{}@host", secret("nourl"))] {
            shown.error(&registry().source(kind, fields(json!({"url": url})), &BuildContext::default()).unwrap_err());
            shown.error(&registry().store(kind, fields(json!({"url": url})), &BuildContext::default()).unwrap_err());
        }
    }
    shown
}

/// The secrets that are in a text, with what stands around the first of them.
fn found<'s>(secrets: &'s [String], text: &str) -> Vec<&'s str> {
    let found: Vec<&str> = secrets.iter().map(String::as_str).filter(|secret| text.contains(secret)).collect();
    if let Some(at) = found.first().and_then(|secret| text.find(secret)) {
        let around = text.floor_char_boundary(at.saturating_sub(400))..text.floor_char_boundary(at + 100);
        eprintln!("around `{}`: {}", found[0], &text[around]);
    }
    found
}

/// Goal: P12, for everything there is. Method: what is sent, written, said and traced is searched for every secret that
/// was planted; without the redaction the same search finds them all.
#[tokio::test]
async fn p12_no_planted_secret_leaves_or_shows() {
    let traced = Seen::default();
    let writer = traced.clone();
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_span_events(FmtSpan::FULL)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .init();
    let (source, secrets) = records();
    let mut credentials = Credentials(Vec::new());

    let (bodies, shown) = ship(&source, json!({}), &mut credentials).await;
    let away = fail_to_connect(&mut credentials).await;
    let turned = turn_away(&mut credentials).await;
    let wrong = misconfigure(&mut credentials);
    let places = [
        ("bodies", bodies),
        ("shown", shown.take()),
        ("away", away.take()),
        ("turned away", turned.take()),
        ("wrong", wrong.take()),
    ];
    for (place, text) in places.iter().map(|(place, text)| (*place, text.as_str())).chain([("traced", &*traced.take())])
    {
        assert!(text.len() > 2_000, "there is something to search in {place}: {}", text.len());
        assert!(place != "traced" || text.contains("the lane cannot go on"), "events are traced");
        assert!(place != "traced" || text.contains("the destination warns"), "and what destinations say, too");
        assert_eq!(found(&secrets, text), [""; 0], "of the records, in {place}");
        assert_eq!(found(&credentials.0, text), [""; 0], "of the configurations, in {place}");
    }
    assert!(places[0].1.contains("***") && credentials.0.len() > 60);

    let (bodies, shown) = ship(&source, json!(null), &mut Credentials(Vec::new())).await;
    assert_eq!(found(&secrets, &bodies).len(), secrets.len(), "without redaction the same search finds them");
    assert!(found(&secrets, &shown.take()).len() > 10, "and what destinations repeat is shown");
}
