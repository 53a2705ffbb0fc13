//! A stand-in for a server that takes logs by the OpenTelemetry protocol.
//!
//! Written from the protocol's specification (<https://opentelemetry.io/docs/specs/otlp/>) and gRPC's
//! (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>). One port takes protobuf and JSON over HTTP, at
//! `/v1/logs`, and gRPC, plain or packed with gzip or zstd. It decodes with the messages that OpenTelemetry generates.
//! In JSON it does not take numbers that are not finite, which the protocol allows.

mod answer;
mod serve;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use logship_core::Secret;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::faults::{Fault, Script, SeenRequest};
use super::server::Server;

/// What a server over HTTP should take at least, 64 MiB: <https://opentelemetry.io/docs/specs/otlp/#otlphttp>
const HTTP_BYTES_MAX: usize = 64 * 1024 * 1024;
/// What a server over gRPC takes unless told otherwise, 4 MiB:
/// <https://pkg.go.dev/google.golang.org/grpc#MaxRecvMsgSize>
const GRPC_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What becomes of a request that holds a record which is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refuses {
    /// The others are taken, and the answer counts those that are not: a partial success.
    TheRecord,
    /// None is taken: 400, or `INVALID_ARGUMENT`.
    TheRequest,
}

/// A server of OTLP in this process, on a port of its own on 127.0.0.1. It stops when it is dropped.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use logship_testkit::strict::Fault;
/// use logship_testkit::strict::otlp::StrictOtlp;
///
/// let otlp = StrictOtlp::start().await?;
/// otlp.fail_next(2, Fault::status_after(429, "1"));
/// // Now point an exporter at it, over HTTP or gRPC:
/// assert!(otlp.url().starts_with("http://127.0.0.1:"));
/// assert_eq!(otlp.count(), 0);
/// # std::io::Result::Ok(())
/// # }).unwrap();
/// ```
#[derive(Debug)]
pub struct StrictOtlp {
    node: Arc<Node>,
    address: SocketAddr,
    /// `None` while it is taken away.
    server: Option<Server>,
}

/// What the handlers share.
#[derive(Debug)]
struct Node {
    state: Mutex<State>,
    /// How many requests with records have arrived.
    arrived: watch::Sender<usize>,
    /// How many times hanging requests were released.
    released: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct State {
    records: Vec<Value>,
    /// A header that every request must have, with its value.
    credentials: Option<(String, Secret)>,
    bytes_max: Option<usize>,
    /// What makes a record one that is refused, and how.
    refused: Option<(String, Refuses)>,
    warning: Option<String>,
    repeats_headers: bool,
    script: Script,
    requests: Vec<SeenRequest>,
}

impl Node {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StrictOtlp {
    /// Starts one on any free port.
    pub async fn start() -> io::Result<Self> {
        Self::start_on(0).await
    }

    /// Starts one on this port; 0 is any free one.
    pub async fn start_on(port: u16) -> io::Result<Self> {
        let node =
            Arc::new(Node { state: Mutex::default(), arrived: watch::Sender::new(0), released: watch::Sender::new(0) });
        let server = Server::listen((Ipv4Addr::LOCALHOST, port).into(), router(&node)).await?;
        Ok(StrictOtlp { address: server.address(), node, server: Some(server) })
    }

    /// Where it listens, such as `http://127.0.0.1:40123`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Stops it for good.
    pub async fn shutdown(mut self) {
        self.take_away().await;
    }

    /// Closes the port and cuts all connections; what was taken stays. When this returns, connecting is refused.
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

    /// From now on lets in only who sends this header with this value.
    pub fn require_header(&self, name: impl Into<String>, value: impl Into<Secret>) {
        self.node.state().credentials = Some((name.into(), value.into()));
    }

    /// How large a request may be in bytes, both packed and unpacked. Unless set 64 MiB over HTTP and 4 MiB over gRPC.
    pub fn max_request_bytes(&self, bytes: usize) {
        self.node.state().bytes_max = Some(bytes);
    }

    /// Refuses records that have this text in their body or in an attribute of theirs.
    pub fn refuse(&self, text: impl Into<String>, what: Refuses) {
        self.node.state().refused = Some((text.into(), what));
    }

    /// Says this with every success, in which nothing was refused.
    pub fn warn(&self, warning: impl Into<String>) {
        self.node.state().warning = Some(warning.into());
    }

    /// Whether a refusal repeats the headers of the request, as some servers do.
    pub fn repeat_headers(&self, is_on: bool) {
        self.node.state().repeats_headers = is_on;
    }

    /// Lets each of the next `times` requests with records fail so, after those that were planned before. What is
    /// [busy](Fault::Busy) turns a whole request away, as the protocol has no other way.
    pub fn fail_next(&self, times: usize, fault: Fault) {
        self.node.state().script.plan(times, fault);
    }

    /// Lets requests with records fail with this chance in a hundred, each in some way, as drawn from this seed.
    pub fn fail_at_random(&self, seed: u64, percent: u8) {
        self.node.state().script.chaos(seed, percent);
    }

    /// Forgets all faults that lie ahead.
    pub fn heal(&self) {
        self.node.state().script.clear();
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

    /// The records it took, in order, each as `{"resource": …, "scope": …, "record": …}` in the protocol's JSON.
    pub fn records(&self) -> Vec<Value> {
        self.node.state().records.clone()
    }

    /// How many records it took.
    pub fn count(&self) -> usize {
        self.node.state().records.len()
    }

    /// All requests up to now.
    pub fn requests(&self) -> Vec<SeenRequest> {
        self.node.state().requests.clone()
    }
}

fn router(node: &Arc<Node>) -> Router {
    Router::new().fallback(serve::handle).with_state(Arc::clone(node))
}

/// What was said about a request that can be read.
#[derive(Debug, Default, PartialEq)]
struct Verdict {
    rejected: i64,
    message: String,
}

impl State {
    /// Takes the records of a request but for those that are refused. An error is the reason to take none.
    fn take(&mut self, seen: usize, request: &ExportLogsServiceRequest) -> Result<Verdict, String> {
        let mut taken = Vec::new();
        let mut rejected = 0;
        for of_resource in &request.resource_logs {
            let resource = of_resource.resource.as_ref();
            unique("a resource", resource.map_or(&[], |resource| &resource.attributes))?;
            for of_scope in &of_resource.scope_logs {
                unique("a scope", of_scope.scope.as_ref().map_or(&[], |scope| &scope.attributes))?;
                for record in &of_scope.log_records {
                    check(record)?;
                    let value = json!({"resource": resource, "scope": of_scope.scope, "record": record});
                    match &self.refused {
                        Some((text, Refuses::TheRequest)) if value["record"].to_string().contains(text) => {
                            return Err("a record is not wanted".to_owned());
                        }
                        Some((text, _)) if value["record"].to_string().contains(text) => rejected += 1,
                        _ => taken.push(value),
                    }
                }
            }
        }
        let request = &mut self.requests[seen];
        (request.items, request.stored) = (taken.len() + rejected as usize, taken.len());
        self.records.extend(taken);
        let message = match rejected {
            0 => self.warning.clone().unwrap_or_default(),
            _ => "some records are not wanted".to_owned(),
        };
        Ok(Verdict { rejected, message })
    }
}

/// What the protocol's messages ask of a record beyond their types
/// (<https://github.com/open-telemetry/opentelemetry-proto/blob/main/opentelemetry/proto/logs/v1/logs.proto>).
fn check(record: &LogRecord) -> Result<(), String> {
    unique("a record", &record.attributes)?;
    if !matches!(record.trace_id.len(), 0 | 16) || !matches!(record.span_id.len(), 0 | 8) {
        return Err("a trace id has 16 bytes and a span id 8".to_owned());
    }
    if !(0..=24).contains(&record.severity_number) {
        return Err(format!("{} is no severity", record.severity_number));
    }
    if let Some(any_value::Value::KvlistValue(members)) = record.body.as_ref().and_then(|body| body.value.as_ref()) {
        unique("a body", &members.values)?;
    }
    Ok(())
}

/// Names are there once.
fn unique(what: &str, entries: &[KeyValue]) -> Result<(), String> {
    let mut names = std::collections::HashSet::new();
    match entries.iter().find(|entry| !names.insert(entry.key.as_str())) {
        Some(entry) => Err(format!("{what} has the attribute `{}` twice", entry.key)),
        None => Ok(()),
    }
}
