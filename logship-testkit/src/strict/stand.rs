//! What stand-ins for destinations over HTTP have in common: a port, a log of requests, and failures on request.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, Response, header};
use bytes::Bytes;
use futures::StreamExt;
use serde_json::Value;
use tokio::sync::watch;

use super::faults::{Fault, Items, Script, SeenRequest};
use super::server::{Line, Server};
use super::wire::{Unreadable, answer, parse_query, proxy_page, read_up_to, respond, truncated, unpack_as};

/// More than any destination takes.
const BODY_BYTES_MAX: usize = 256 * 1024 * 1024;

/// A request as a destination sees it, its body as it came in.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Call {
    /// The method.
    pub method: String,
    /// The path, without the query.
    pub path: String,
    /// The names and values of the query.
    pub query: Vec<(String, String)>,
    /// The headers.
    pub headers: HeaderMap,
    /// The body as it was sent.
    pub wire: Bytes,
}

impl Call {
    /// The value of a header, or nothing.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The value of a parameter of the query, or nothing.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The media type of the body, without its parameters.
    pub fn media_type(&self) -> &str {
        let text = self.header("content-type").unwrap_or_default();
        text.split(';').next().unwrap_or_default().trim()
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// What the body is; nothing where there is none.
    pub content_type: &'static str,
    /// The body.
    pub body: Bytes,
    /// Further headers, by their names in lower case.
    pub headers: Vec<(&'static str, String)>,
    /// What comes behind the body, where the protocol has that.
    pub trailers: Vec<(&'static str, String)>,
}

impl Reply {
    /// This status with this body.
    pub fn of(status: u16, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        Reply { status, content_type, body: body.into(), headers: Vec::new(), trailers: Vec::new() }
    }

    /// This status with a body of JSON.
    pub fn new(status: u16, body: Value) -> Self {
        Reply::of(status, "application/json", body.to_string())
    }

    /// This status with a body of plain text.
    pub fn text(status: u16, body: impl Into<String>) -> Self {
        let body = body.into();
        Reply::of(status, if body.is_empty() { "" } else { "text/plain; charset=utf-8" }, body)
    }

    /// A page in place of an answer, as of a proxy that wants its user to sign in.
    pub(super) fn page(status: u16) -> Self {
        Reply::of(status, "text/html", "<html>sign in first</html>")
    }

    /// With one more header.
    pub(super) fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }
}

/// What is special about a destination. It is asked one request after another.
pub trait Destination: fmt::Debug + Send + 'static {
    /// Whether requests to this path carry records: only such ones fail on request.
    fn takes_records_at(&self, path: &str) -> bool;

    /// Whether a body that begins so has no records, as that of a check may have: such a request does not fail either.
    fn is_empty(&self, begin: &[u8]) -> bool {
        let _ = begin;
        false
    }

    /// Answers a request, keeps what it accepts, and notes in `seen` what it counted.
    fn answer(&mut self, call: &Call, seen: &mut SeenRequest) -> Reply;

    /// The same, but turns these records away as it does when it is too busy for them. A destination that cannot turn
    /// away single records turns away all, as by default, with a 429.
    fn answer_busy(&mut self, call: &Call, seen: &mut SeenRequest, items: &Items) -> Reply {
        let _ = (call, seen, items);
        self.failure(429)
    }

    /// How it fails with this status.
    fn failure(&self, status: u16) -> Reply;

    /// The same for this call, with a `Retry-After`.
    fn fail(&self, call: &Call, status: u16, retry_after: Option<&str>) -> Reply {
        let _ = call;
        let reply = self.failure(status);
        retry_after.into_iter().fold(reply, |reply, value| reply.with("retry-after", value))
    }

    /// A success that says in its body that nothing was taken. None, as by default, where there is no such thing.
    fn error_in_success(&self) -> Option<Reply> {
        None
    }

    /// The ways in which it fails by chance: all that it has.
    fn ways_to_fail(&self) -> Vec<Fault> {
        let mut ways = usual_ways();
        ways.extend(self.error_in_success().map(|_| Fault::ErrorInSuccess));
        ways
    }
}

/// The ways in which every destination fails.
pub(super) fn usual_ways() -> Vec<Fault> {
    vec![
        Fault::status(429),
        Fault::status_after(429, "0"),
        Fault::status(500),
        Fault::status(503),
        Fault::ProxyPage(502),
        Fault::ProxyPage(504),
        Fault::DropUnread,
        Fault::DropRead,
        Fault::LoseAnswer,
        Fault::TruncateAnswer,
        Fault::Hang,
    ]
}

/// The body of a request without what it is packed in, if it is not too large; else the status it is refused with.
pub(super) fn unpacked(call: &Call, seen: &mut SeenRequest, bytes_max: usize) -> Result<Bytes, u16> {
    if call.wire.len() > bytes_max {
        return Err(413);
    }
    let body = unpack_as(call.header("content-encoding"), &["identity", "gzip"], &call.wire, bytes_max);
    let body = body.map_err(|why| match why {
        Unreadable::TooLarge => 413_u16,
        Unreadable::Encoding => 415,
        Unreadable::Broken => 400,
    })?;
    seen.body_bytes = body.len();
    Ok(body)
}

/// A destination in this process, on a port of its own on 127.0.0.1. It stops when it is dropped.
#[derive(Debug)]
pub struct Strict<D> {
    node: Arc<Node<D>>,
    address: SocketAddr,
    /// `None` while it is taken away.
    server: Option<Server>,
}

#[derive(Debug)]
struct Node<D> {
    state: Mutex<Shared<D>>,
    /// How many requests with records have arrived.
    arrived: watch::Sender<usize>,
    /// How many times hanging requests were released.
    released: watch::Sender<usize>,
}

/// What the handlers share.
#[derive(Debug)]
pub(super) struct Shared<D> {
    pub(super) destination: D,
    script: Script,
    requests: Vec<SeenRequest>,
}

impl<D> Node<D> {
    fn state(&self) -> MutexGuard<'_, Shared<D>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<D: Destination + Default> Strict<D> {
    /// Starts one on any free port.
    pub async fn start() -> io::Result<Self> {
        Self::start_on(0).await
    }

    /// Starts one on this port; 0 is any free one.
    pub async fn start_on(port: u16) -> io::Result<Self> {
        Self::of(D::default(), port).await
    }
}

impl<D: Destination> Strict<D> {
    /// Starts this one on this port; 0 is any free one.
    pub async fn of(destination: D, port: u16) -> io::Result<Self> {
        let state = Shared { destination, script: Script::default(), requests: Vec::new() };
        let (arrived, released) = (watch::Sender::new(0), watch::Sender::new(0));
        let node = Arc::new(Node { state: Mutex::new(state), arrived, released });
        let server = Server::listen((Ipv4Addr::LOCALHOST, port).into(), router(&node)).await?;
        Ok(Strict { address: server.address(), node, server: Some(server) })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, Shared<D>> {
        self.node.state()
    }

    /// Where it listens, such as `http://127.0.0.1:40123`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Closes the port and cuts all connections; what was stored stays. When this returns, connecting is refused.
    pub async fn take_away(&mut self) {
        if let Some(server) = self.server.take() {
            server.close().await;
        }
    }

    /// Opens the same port again. Fails if somebody else has taken it meanwhile.
    pub async fn bring_back(&mut self) -> io::Result<()> {
        if self.server.is_none() {
            self.server = Some(Server::listen(self.address, router(&self.node)).await?);
        }
        Ok(())
    }

    /// Lets each of the next `times` requests with records fail so, after those that were planned before.
    pub fn fail_next(&self, times: usize, fault: Fault) {
        self.state().script.plan(times, fault);
    }

    /// Lets each of the next `times` requests with records be answered so, with nothing stored.
    pub fn answer_next(&self, times: usize, status: u16, body: &str) {
        self.fail_next(times, Fault::Answer(Reply::text(status, body)));
    }

    /// Lets requests with records fail with this chance in a hundred, each in any of the ways the destination has, as
    /// drawn from this seed.
    pub fn fail_at_random(&self, seed: u64, percent: u8) {
        self.state().script.chaos(seed, percent);
    }

    /// The ways in which it [fails by chance](Strict::fail_at_random), each with how often it did.
    pub fn failed(&self) -> Vec<(Fault, usize)> {
        let state = self.state();
        let ways = state.destination.ways_to_fail();
        let met = state.script.met(ways.len());
        ways.into_iter().zip(met).collect()
    }

    /// Forgets all faults that lie ahead.
    pub fn heal(&self) {
        self.state().script.clear();
        self.release();
    }

    /// Lets the requests that [hang](Fault::Hang) go on.
    pub fn release(&self) {
        self.node.released.send_modify(|times| *times += 1);
    }

    /// Waits until so many requests with records have arrived since the start.
    pub async fn arrived(&self, requests: usize) {
        // The sender lives in `self`, so that waiting cannot fail.
        let _ = self.node.arrived.subscribe().wait_for(|arrived| *arrived >= requests).await;
    }

    /// How many times a record was to be stored that was there already.
    pub fn duplicates(&self) -> usize {
        self.state().requests.iter().map(|request| request.duplicates).sum()
    }

    /// All requests up to now.
    pub fn requests(&self) -> Vec<SeenRequest> {
        self.state().requests.clone()
    }

    /// The requests with records up to now.
    pub fn deliveries(&self) -> Vec<SeenRequest> {
        let state = self.state();
        let is_delivery = |request: &&SeenRequest| state.destination.takes_records_at(&request.path);
        state.requests.iter().filter(is_delivery).cloned().collect()
    }
}

fn router<D: Destination>(node: &Arc<Node<D>>) -> Router {
    Router::new().fallback(handle::<D>).with_state(Arc::clone(node))
}

/// Answers a request, unless it is to get no answer.
async fn handle<D: Destination>(
    State(node): State<Arc<Node<D>>>,
    ConnectInfo(line): ConnectInfo<Line>,
    request: Request,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let user_agent = parts.headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let place = {
        let mut state = node.state();
        state.requests.push(SeenRequest {
            method: parts.method.to_string(),
            path: path.clone(),
            user_agent: user_agent.to_owned(),
            ..SeenRequest::default()
        });
        state.requests.len() - 1
    };
    let mut body = body.into_data_stream();
    let begin = body.next().await;
    let (takes_records, fault) = {
        let mut state = node.state();
        let Shared { destination, script, .. } = &mut *state;
        let bytes = begin.as_ref().and_then(|part| part.as_ref().ok());
        let takes_records = destination.takes_records_at(&path)
            && !destination.is_empty(bytes.map(|bytes| &bytes[..]).unwrap_or_default());
        (takes_records, if takes_records { script.next(&destination.ways_to_fail()) } else { None })
    };
    // Whoever waits for the arrival and then releases reaches this request too.
    let released = node.released.subscribe();
    if takes_records {
        node.arrived.send_modify(|arrived| *arrived += 1);
    }
    if fault == Some(Fault::DropUnread) {
        line.cut();
        return Response::default();
    }
    let wire = read_up_to(futures::stream::iter(begin).chain(body), BODY_BYTES_MAX).await;
    let response = match wire {
        None => answer(413, "text/plain", Body::empty()),
        Some(wire) => {
            let query = parse_query(parts.uri.query().unwrap_or_default());
            let method = parts.method.to_string();
            let call = Call { method, path, query, headers: parts.headers, wire };
            node.state().requests[place].wire_bytes = call.wire.len();
            answer_with_fault(&node, &line, &call, place, fault, released).await
        }
    };
    node.state().requests[place].status = Some(response.status().as_u16());
    response
}

async fn answer_with_fault<D: Destination>(
    node: &Node<D>,
    line: &Line,
    call: &Call,
    place: usize,
    fault: Option<Fault>,
    mut released: watch::Receiver<usize>,
) -> Response<Body> {
    let usual = || {
        let mut state = node.state();
        let Shared { destination, requests, .. } = &mut *state;
        respond(&destination.answer(call, &mut requests[place]))
    };
    match fault {
        None => usual(),
        Some(Fault::Status { status, retry_after }) => {
            respond(&node.state().destination.fail(call, status, retry_after.as_deref()))
        }
        Some(Fault::ProxyPage(status)) => proxy_page(status),
        Some(Fault::Answer(reply)) => respond(&reply),
        Some(Fault::ErrorInSuccess) => {
            let reply = node.state().destination.error_in_success();
            reply.map_or_else(usual, |reply| respond(&reply))
        }
        Some(Fault::LoseAnswer) => {
            let response = usual();
            line.cut();
            response
        }
        Some(Fault::TruncateAnswer) => {
            let response = usual();
            if response.headers().get(header::CONTENT_TYPE).is_none() {
                // There is no half of an empty body.
                line.cut();
                return response;
            }
            truncated(response).await
        }
        Some(Fault::Hang) => tokio::select! {
            _ = released.changed() => usual(),
            () = line.is_cut() => Response::default(),
        },
        Some(Fault::Slow(time)) => {
            tokio::time::sleep(time).await;
            usual()
        }
        Some(Fault::Busy(items)) => {
            let mut state = node.state();
            let Shared { destination, requests, .. } = &mut *state;
            respond(&destination.answer_busy(call, &mut requests[place], &items))
        }
        Some(Fault::DropUnread | Fault::DropRead) => {
            line.cut();
            Response::default()
        }
    }
}
