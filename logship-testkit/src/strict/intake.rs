//! What the stand-ins for destinations with one address to post to share: they differ in their [`Rules`].

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State as Shared};
use axum::http::{HeaderMap, HeaderValue, Response, header};
use bytes::Bytes;
use tokio::sync::watch;

use super::faults::{Fault, Items, SeenRequest};
use super::server::{Line, Server};
use super::wire::{Unreadable, answer as plain_answer, parse_query, proxy_page, read_up_to, truncated, unpack_as};

/// A request whose body was read and unpacked.
#[derive(Debug)]
pub struct Call {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) query: Vec<(String, String)>,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Call {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub(super) status: u16,
    pub(super) content_type: &'static str,
    pub(super) body: String,
}

impl Reply {
    pub(super) fn text(status: u16, body: impl Into<String>) -> Self {
        Reply { status, content_type: "text/plain; charset=utf-8", body: body.into() }
    }

    pub(super) fn json(status: u16, body: impl fmt::Display) -> Self {
        Reply { status, content_type: "application/json", body: body.to_string() }
    }

    fn response(self) -> Response<Body> {
        let is_empty = self.body.is_empty();
        let mut response = plain_answer(self.status, self.content_type, self.body);
        if is_empty {
            response.headers_mut().remove(header::CONTENT_TYPE);
        }
        response
    }
}

/// What was done with the records of a request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Taken {
    pub(super) items: usize,
    pub(super) stored: usize,
    pub(super) duplicates: usize,
}

/// What a destination takes, and what it says.
pub trait Rules: fmt::Debug + Send + 'static {
    /// The largest body, in bytes, packed or not.
    fn body_bytes_max(&self) -> usize;

    /// Whether a request carries records; only such ones are met by faults.
    fn is_push(&self, path: &str) -> bool;

    /// Turns away who is not let in and what has no form it reads. The body is not read yet.
    fn admit(&self, call: &Call) -> Result<(), Reply>;

    /// Stores what it takes. `busy` names the records to turn away for now, where it can.
    fn take(&mut self, call: &Call, busy: Option<&Items>) -> (Reply, Taken);

    /// The answer of this status in the destination's own shape.
    fn failure(&self, status: u16) -> Reply;

    /// Answers under which nothing is stored and which are no plain failures, such as a success with an error in it.
    fn oddities(&self) -> Vec<Reply>;
}

#[derive(Debug)]
enum Plan {
    Fault(Fault),
    Say(Reply),
}

#[derive(Debug)]
pub(super) struct State<R> {
    pub(super) rules: R,
    plans: VecDeque<Plan>,
    chaos: Option<(fastrand::Rng, u8)>,
    requests: Vec<SeenRequest>,
}

impl<R: Rules> State<R> {
    /// What happens to the next push: what was planned, else something by chance, if chance was asked for.
    fn next(&mut self) -> Option<Plan> {
        if let Some(plan) = self.plans.pop_front() {
            return Some(plan);
        }
        let (chance, percent) = self.chaos.as_mut()?;
        if chance.u8(..100) >= *percent {
            return None;
        }
        let mut oddities = self.rules.oddities();
        let fault = match chance.usize(..9 + oddities.len()) {
            0 => Fault::status_after(429, "0"),
            1 => Fault::status(429),
            2 => Fault::status(503),
            3 => Fault::ProxyPage(502),
            4 => Fault::DropUnread,
            5 => Fault::LoseAnswer,
            6 => Fault::TruncateAnswer,
            7 => Fault::Hang,
            8 => Fault::Busy(Items::Percent { percent: 30, seed: chance.u64(..) }),
            odd => return Some(Plan::Say(oddities.swap_remove(odd - 9))),
        };
        Some(Plan::Fault(fault))
    }
}

#[derive(Debug)]
struct Desk<R> {
    state: Mutex<State<R>>,
    arrived: watch::Sender<usize>,
    released: watch::Sender<usize>,
}

/// A stand-in in this process, on a port of its own on 127.0.0.1. It stops when it is dropped.
#[derive(Debug)]
pub struct StandIn<R> {
    desk: Arc<Desk<R>>,
    address: SocketAddr,
    /// `None` while it is taken away.
    server: Option<Server>,
}

impl<R: Rules> StandIn<R> {
    pub(super) async fn open(port: u16, rules: R) -> io::Result<Self> {
        let state = State { rules, plans: VecDeque::new(), chaos: None, requests: Vec::new() };
        let desk = Arc::new(Desk {
            state: Mutex::new(state),
            arrived: watch::Sender::new(0),
            released: watch::Sender::new(0),
        });
        let server = Server::listen((Ipv4Addr::LOCALHOST, port).into(), router(&desk)).await?;
        Ok(StandIn { address: server.address(), desk, server: Some(server) })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State<R>> {
        self.desk.state()
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
            self.server = Some(Server::listen(self.address, router(&self.desk)).await?);
        }
        Ok(())
    }

    /// Lets each of the next `times` requests with records fail so, after those that were planned before. A
    /// destination that cannot turn away single records turns away all under [`Fault::Busy`], with a 429.
    pub fn fail_next(&self, times: usize, fault: Fault) {
        self.state().plans.extend((0..times).map(|_| Plan::Fault(fault.clone())));
    }

    /// Lets each of the next `times` requests with records be answered so, with nothing stored.
    pub fn answer_next(&self, times: usize, status: u16, body: &str) {
        self.state().plans.extend((0..times).map(|_| Plan::Say(Reply::text(status, body))));
    }

    /// Lets requests with records fail with this chance in a hundred, each in one of all the ways there are, as drawn
    /// from this seed.
    pub fn fail_at_random(&self, seed: u64, percent: u8) {
        self.state().chaos = Some((fastrand::Rng::with_seed(seed), percent));
    }

    /// Forgets all faults that lie ahead, and lets the requests that hang go on.
    pub fn heal(&self) {
        let mut state = self.state();
        state.plans.clear();
        state.chaos = None;
        drop(state);
        self.release();
    }

    /// Lets the requests that [hang](Fault::Hang) go on.
    pub fn release(&self) {
        self.desk.released.send_modify(|times| *times += 1);
    }

    /// Waits until so many requests with records have arrived since the start.
    pub async fn arrived(&self, requests: usize) {
        // The sender lives in `self`, so that waiting cannot fail.
        let _ = self.desk.arrived.subscribe().wait_for(|arrived| *arrived >= requests).await;
    }

    /// All requests up to now.
    pub fn requests(&self) -> Vec<SeenRequest> {
        self.state().requests.clone()
    }
}

impl<R> Desk<R> {
    fn state(&self) -> MutexGuard<'_, State<R>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn router<R: Rules>(desk: &Arc<Desk<R>>) -> Router {
    Router::new().fallback(handle::<R>).with_state(Arc::clone(desk))
}

async fn handle<R: Rules>(
    Shared(desk): Shared<Arc<Desk<R>>>,
    ConnectInfo(line): ConnectInfo<Line>,
    request: Request,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let mut call = Call {
        method: parts.method.to_string(),
        path: parts.uri.path().to_owned(),
        query: parse_query(parts.uri.query().unwrap_or_default()),
        headers: parts.headers,
        body: Bytes::new(),
    };
    let (seen, plan, is_push) = {
        let mut state = desk.state();
        state.requests.push(SeenRequest {
            method: call.method.clone(),
            path: call.path.clone(),
            user_agent: call.header("user-agent").unwrap_or_default().to_owned(),
            ..SeenRequest::default()
        });
        let is_push = state.rules.is_push(&call.path);
        (state.requests.len() - 1, if is_push { state.next() } else { None }, is_push)
    };
    // Whoever waits for the arrival and then releases reaches this request too.
    let released = desk.released.subscribe();
    if is_push {
        desk.arrived.send_modify(|arrived| *arrived += 1);
    }
    if matches!(plan, Some(Plan::Fault(Fault::DropUnread))) {
        line.cut();
        return Response::default();
    }
    let response = match read(&desk, &mut call, body, seen).await {
        Err(reply) => reply.response(),
        Ok(()) => answer(&desk, &line, &call, plan, seen, released).await,
    };
    desk.state().requests[seen].status = Some(response.status().as_u16());
    response
}

/// Reads and unpacks the body, if who sends it is let in.
async fn read<R: Rules>(desk: &Desk<R>, call: &mut Call, body: Body, seen: usize) -> Result<(), Reply> {
    let bytes_max = desk.state().rules.body_bytes_max();
    let wire = read_up_to(body, bytes_max).await;
    let failure = |status| desk.state().rules.failure(status);
    desk.state().rules.admit(call)?;
    let wire = wire.ok_or_else(|| failure(413))?;
    desk.state().requests[seen].wire_bytes = wire.len();
    let body = unpack_as(call.header("content-encoding"), &["identity", "gzip"], &wire, bytes_max);
    call.body = body.map_err(|why| match why {
        Unreadable::TooLarge => failure(413),
        Unreadable::Encoding => failure(415),
        Unreadable::Broken => failure(400),
    })?;
    desk.state().requests[seen].body_bytes = call.body.len();
    Ok(())
}

async fn answer<R: Rules>(
    desk: &Desk<R>,
    line: &Line,
    call: &Call,
    plan: Option<Plan>,
    seen: usize,
    mut released: watch::Receiver<usize>,
) -> Response<Body> {
    let take = |busy: Option<&Items>| {
        let mut state = desk.state();
        let (reply, taken) = state.rules.take(call, busy);
        let seen = &mut state.requests[seen];
        (seen.items, seen.stored, seen.duplicates) = (taken.items, taken.stored, taken.duplicates);
        reply.response()
    };
    let fault = match plan {
        None => return take(None),
        Some(Plan::Say(reply)) => return reply.response(),
        Some(Plan::Fault(fault)) => fault,
    };
    match fault {
        Fault::Status { status, retry_after } => {
            let mut response = desk.state().rules.failure(status).response();
            if let Some(value) = retry_after.and_then(|text| HeaderValue::try_from(text).ok()) {
                response.headers_mut().insert(header::RETRY_AFTER, value);
            }
            response
        }
        Fault::ProxyPage(status) => proxy_page(status),
        Fault::LoseAnswer => {
            let response = take(None);
            line.cut();
            response
        }
        Fault::TruncateAnswer => {
            let response = take(None);
            if response.headers().get(header::CONTENT_TYPE).is_none() {
                // There is no half of an empty body.
                line.cut();
                return response;
            }
            truncated(response).await
        }
        Fault::Hang => tokio::select! {
            _ = released.changed() => take(None),
            () = line.is_cut() => Response::default(),
        },
        Fault::Slow(time) => {
            tokio::time::sleep(time).await;
            take(None)
        }
        Fault::Busy(items) => take(Some(&items)),
        // The other faults are not these destinations'.
        _ => Response::default(),
    }
}
