//! A stand-in for Google Cloud Storage, written from <https://cloud.google.com/storage/docs/xml-api/reference-methods>:
//! objects with generations and the conditions on them, listing, uploads in parts.
//!
//! It never fails by itself but for what is wrong with a request: put a [`FaultProxy`](crate::proxy::FaultProxy) before
//! it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, Response};
use bytes::Bytes;
use logship_core::{Secret, Timestamp};

use super::server::Server;
use super::wire::parse_query;

/// <https://cloud.google.com/storage/quotas#objects>
const NAME_BYTES_MAX: usize = 1024;

/// What a part has at least, but the last. <https://cloud.google.com/storage/docs/multipart-uploads>
const PART_BYTES_MIN: usize = 5 * 1024 * 1024;

const BODY_BYTES_MAX: usize = 256 * 1024 * 1024;

/// An object as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoredObject {
    /// What it holds.
    pub bytes: Bytes,
    /// What its writer said that it is.
    pub content_type: String,
    /// How it is packed, if its writer said so.
    pub content_encoding: Option<String>,
    /// Its storage class, if its writer named one.
    pub storage_class: Option<String>,
    /// A number that no other state of this name has.
    pub generation: u64,
    changed_at: SystemTime,
}

/// A Google Cloud Storage with one bucket, in this process, on a port of its own on 127.0.0.1. It stops when it is
/// dropped.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use logship_testkit::strict::gcs::StrictGcs;
///
/// let gcs = StrictGcs::start("logs", "ya29.token").await?;
/// assert!(gcs.objects().is_empty());
/// # std::io::Result::Ok(())
/// # }).unwrap();
/// ```
#[derive(Debug)]
pub struct StrictGcs {
    server: Server,
    store: Arc<Mutex<Store>>,
}

#[derive(Debug)]
struct Store {
    bucket: String,
    token: Secret,
    objects: BTreeMap<String, StoredObject>,
    /// By their ids: the name, the headers of the beginning, and the parts by number.
    uploads: BTreeMap<String, Upload>,
    generation: u64,
}

#[derive(Debug)]
struct Upload {
    name: String,
    headers: HeaderMap,
    parts: BTreeMap<u32, Bytes>,
}

/// A request without what the transport adds.
struct Call {
    method: Method,
    name: String,
    query: Vec<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
}

impl StrictGcs {
    /// Starts one on any free port, with this bucket, which knows this token.
    pub async fn start(bucket: &str, token: &str) -> io::Result<Self> {
        let store = Arc::new(Mutex::new(Store {
            bucket: bucket.to_owned(),
            token: token.into(),
            objects: BTreeMap::new(),
            uploads: BTreeMap::new(),
            generation: 1_795_163_400_000_000,
        }));
        let router = Router::new().fallback(answer).with_state(Arc::clone(&store));
        Ok(StrictGcs { server: Server::listen((Ipv4Addr::LOCALHOST, 0).into(), router).await?, store })
    }

    /// Where it listens, such as `http://127.0.0.1:40123`.
    pub fn url(&self) -> String {
        format!("http://{}", self.server.address())
    }

    /// Knows this token from now on, and no other.
    pub fn change_token(&self, token: &str) {
        lock(&self.store).token = token.into();
    }

    /// All objects by name.
    pub fn objects(&self) -> BTreeMap<String, StoredObject> {
        lock(&self.store).objects.clone()
    }

    /// How many uploads in parts were begun and neither finished nor taken back.
    pub fn unfinished_uploads(&self) -> usize {
        lock(&self.store).uploads.len()
    }
}

fn lock(store: &Mutex<Store>) -> MutexGuard<'_, Store> {
    store.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn answer(State(store): State<Arc<Mutex<Store>>>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, BODY_BYTES_MAX).await else { return refusal(400, "IncompleteBody") };
    let path = decoded(parts.uri.path().trim_start_matches('/'));
    let (bucket, name) = path.split_once('/').unwrap_or((&path, ""));
    let query = parse_query(parts.uri.query().unwrap_or_default());
    let call = Call { method: parts.method, name: name.to_owned(), query, headers: parts.headers, body };
    let mut store = lock(&store);
    let token = call.header("authorization").and_then(|header| header.strip_prefix("Bearer "));
    if token != Some(store.token.expose()) {
        return refusal(401, "AuthenticationRequired");
    }
    if bucket != store.bucket {
        return refusal(404, "NoSuchBucket");
    }
    store.answer(&call).unwrap_or_else(|(status, code)| refusal(status, code))
}

type Answered = Result<Response<Body>, (u16, &'static str)>;

impl Store {
    fn answer(&mut self, call: &Call) -> Answered {
        if call.name.is_empty() {
            return match call.method {
                Method::GET => Ok(self.list(call)),
                _ => Err((405, "MethodNotAllowed")),
            };
        }
        if call.name.len() > NAME_BYTES_MAX || call.name.contains(['\r', '\n']) {
            return Err((400, "InvalidObjectName"));
        }
        match (call.method.as_str(), call.parameter("uploadId")) {
            ("PUT", None) => self.put(call, call.headers.clone(), call.body.clone()),
            ("PUT", Some(id)) => self.put_part(call, id),
            ("POST", None) if call.parameter("uploads").is_some() => Ok(self.begin(call)),
            ("POST", Some(id)) => self.complete(call, id),
            ("DELETE", Some(id)) => self.uploads.remove(id).map(|_| status(204)).ok_or((404, "NoSuchUpload")),
            ("DELETE", None) => self.objects.remove(&call.name).map(|_| status(204)).ok_or((404, "NoSuchKey")),
            ("GET" | "HEAD", None) => self.get(call),
            _ => Err((405, "MethodNotAllowed")),
        }
    }

    fn put(&mut self, call: &Call, headers: HeaderMap, bytes: Bytes) -> Answered {
        let there = self.objects.get(&call.name).map_or(0, |object| object.generation);
        let wanted = call.header("x-goog-if-generation-match").map(str::parse::<u64>);
        match wanted {
            Some(Err(_)) => return Err((400, "InvalidArgument")),
            Some(Ok(wanted)) if wanted != there => return Err((412, "PreconditionFailed")),
            _ => {}
        }
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        self.generation += 1;
        let object = StoredObject {
            bytes,
            content_type: header("content-type").unwrap_or_else(|| "application/octet-stream".to_owned()),
            content_encoding: header("content-encoding"),
            storage_class: header("x-goog-storage-class"),
            generation: self.generation,
            changed_at: SystemTime::now(),
        };
        let answer = described(&object, 200, Body::empty());
        self.objects.insert(call.name.clone(), object);
        Ok(answer)
    }

    fn get(&self, call: &Call) -> Answered {
        let object = self.objects.get(&call.name).ok_or((404, "NoSuchKey"))?;
        let answer = described(object, 200, Body::from(object.bytes.clone()));
        Ok(answer)
    }

    fn list(&self, call: &Call) -> Response<Body> {
        let (prefix, delimiter) = (call.parameter("prefix").unwrap_or_default(), call.parameter("delimiter"));
        let mut xml = "<?xml version='1.0' encoding='UTF-8'?><ListBucketResult>".to_owned();
        for (name, object) in self.objects.iter().filter(|(name, _)| name.starts_with(prefix)) {
            if delimiter.is_some_and(|delimiter| name[prefix.len()..].contains(delimiter)) {
                continue;
            }
            let (size, changed) = (object.bytes.len(), iso(object.changed_at));
            let _ = write!(
                xml,
                "<Contents><Key>{name}</Key><Generation>{0}</Generation><LastModified>{changed}</LastModified>\
                 <ETag>&quot;{0}&quot;</ETag><Size>{size}</Size></Contents>",
                object.generation
            );
        }
        xml.push_str("</ListBucketResult>");
        reply(200, xml)
    }

    fn begin(&mut self, call: &Call) -> Response<Body> {
        self.generation += 1;
        let id = format!("upload-{}", self.generation);
        let upload = Upload { name: call.name.clone(), headers: call.headers.clone(), parts: BTreeMap::new() };
        self.uploads.insert(id.clone(), upload);
        let (bucket, name) = (&self.bucket, &call.name);
        reply(
            200,
            format!(
                "<InitiateMultipartUploadResult><Bucket>{bucket}</Bucket><Key>{name}</Key><UploadId>{id}</UploadId>\
                 </InitiateMultipartUploadResult>"
            ),
        )
    }

    fn put_part(&mut self, call: &Call, id: &str) -> Answered {
        let number = call.parameter("partNumber").and_then(|number| number.parse().ok());
        let number = number.filter(|number| (1..=10_000).contains(number)).ok_or((400, "InvalidArgument"))?;
        let upload = self.uploads.get_mut(id).filter(|upload| upload.name == call.name).ok_or((404, "NoSuchUpload"))?;
        upload.parts.insert(number, call.body.clone());
        let mut answer = status(200);
        if let Ok(tag) = format!("\"part-{number}\"").parse() {
            answer.headers_mut().insert("etag", tag);
        }
        Ok(answer)
    }

    fn complete(&mut self, call: &Call, id: &str) -> Answered {
        let upload = self.uploads.get(id).filter(|upload| upload.name == call.name).ok_or((404, "NoSuchUpload"))?;
        let text = String::from_utf8_lossy(&call.body);
        let numbers = text.split("<PartNumber>").skip(1).filter_map(|rest| rest.split('<').next()?.parse::<u32>().ok());
        let numbers: Vec<u32> = numbers.collect();
        if numbers.is_empty() || !numbers.is_sorted_by(|a, b| a < b) {
            return Err((400, "InvalidPartOrder"));
        }
        let parts: Option<Vec<&Bytes>> = numbers.iter().map(|number| upload.parts.get(number)).collect();
        let parts = parts.ok_or((400, "InvalidPart"))?;
        if parts.iter().rev().skip(1).any(|part| part.len() < PART_BYTES_MIN) {
            return Err((400, "EntityTooSmall"));
        }
        let bytes: Vec<u8> = parts.into_iter().flatten().copied().collect();
        let Some(upload) = self.uploads.remove(id) else { return Err((404, "NoSuchUpload")) };
        self.put(call, upload.headers, bytes.into())?;
        let (bucket, name, tag) = (&self.bucket, &call.name, self.generation);
        Ok(reply(
            200,
            format!(
                "<CompleteMultipartUploadResult><Location>{name}</Location><Bucket>{bucket}</Bucket><Key>{name}</Key>\
                 <ETag>\"{tag}\"</ETag></CompleteMultipartUploadResult>"
            ),
        ))
    }
}

impl Call {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

fn reply(status: u16, xml: impl Into<Body>) -> Response<Body> {
    super::wire::answer(status, "application/xml; charset=UTF-8", xml)
}

fn status(status: u16) -> Response<Body> {
    reply(status, Body::empty())
}

/// An answer about an object.
fn described(object: &StoredObject, status: u16, body: Body) -> Response<Body> {
    let mut answer = reply(status, body);
    let changed = httpdate(object.changed_at);
    let generation = object.generation.to_string();
    for (name, value) in [
        ("etag", format!("\"{generation}\"")),
        ("x-goog-generation", generation),
        ("last-modified", changed),
        ("content-type", object.content_type.clone()),
    ] {
        if let Ok(value) = value.parse() {
            answer.headers_mut().insert(name, value);
        }
    }
    answer
}

/// An error in the shape of <https://cloud.google.com/storage/docs/xml-api/reference-status>.
fn refusal(status: u16, code: &str) -> Response<Body> {
    reply(
        status,
        format!("<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code><Message>no</Message></Error>"),
    )
}

fn iso(time: SystemTime) -> String {
    let nanos = time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    Timestamp::from_nanos(i64::try_from(nanos).unwrap_or_default()).to_string()
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`
fn httpdate(time: SystemTime) -> String {
    let text = iso(time);
    let secs = time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    // The first day there was, was a Thursday.
    let day = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"][(secs / 86_400 % 7) as usize];
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = text[5..7].parse::<usize>().map_or("Jan", |month| months[month.saturating_sub(1) % 12]);
    format!("{day}, {} {month} {} {} GMT", &text[8..10], &text[..4], &text[11..19])
}

fn decoded(text: &str) -> String {
    parse_query(&format!("name={}", text.replace('+', "%2B"))).pop().map(|(_, name)| name).unwrap_or_default()
}
