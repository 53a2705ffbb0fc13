//! A stand-in for Elasticsearch 9.2.
//!
//! Written from Elasticsearch's documents: the bulk API
//! (<https://www.elastic.co/docs/api/doc/elasticsearch/operation/operation-bulk>), data streams and their failure
//! store, mappings and their limits, the shapes of errors. Documents can be read back as soon as they are stored; the
//! real one needs a second, or a refresh.

mod answer;
mod bulk;
pub(super) mod http;
mod mapping;
pub(super) mod store;

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use logship_core::Secret;
use serde_json::Value;
use tokio::sync::watch;

use super::faults::{Fault, Script, SeenRequest};
use super::server::Server;
pub use store::Block;
use store::Store;

/// `http.max_content_length`, 100 MiB:
/// <https://www.elastic.co/docs/reference/elasticsearch/configuration-reference/networking-settings>
const CONTENT_BYTES_MAX: usize = 100 * 1024 * 1024;

/// Who is let in.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Credentials {
    /// Everybody.
    #[default]
    None,
    /// A user with a password.
    Basic(String, Secret),
    /// An API key: its id and its secret part.
    ApiKey(String, Secret),
}

impl Credentials {
    /// A user with a password.
    pub fn basic(user: impl Into<String>, password: impl Into<Secret>) -> Self {
        Credentials::Basic(user.into(), password.into())
    }

    /// An API key.
    pub fn api_key(id: impl Into<String>, key: impl Into<Secret>) -> Self {
        Credentials::ApiKey(id.into(), key.into())
    }

    /// What the `Authorization` header has to say; `None` if anything will do.
    fn expected(&self) -> Option<String> {
        let encode = |name: &str, secret: &Secret| BASE64.encode(format!("{name}:{}", secret.expose()));
        match self {
            Credentials::None => None,
            Credentials::Basic(user, password) => Some(format!("Basic {}", encode(user, password))),
            Credentials::ApiKey(id, key) => Some(format!("ApiKey {}", encode(id, key))),
        }
    }
}

/// An Elasticsearch of one node in this process, on a port of its own on 127.0.0.1. It stops when it is dropped.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use logship_testkit::strict::Fault;
/// use logship_testkit::strict::elasticsearch::StrictElasticsearch;
///
/// let elasticsearch = StrictElasticsearch::start().await?;
/// elasticsearch.fail_next(2, Fault::status_after(429, "1"));
/// // Now point an exporter at it:
/// assert!(elasticsearch.url().starts_with("http://127.0.0.1:"));
/// assert_eq!(elasticsearch.count("logs-app-default"), 0);
/// # std::io::Result::Ok(())
/// # }).unwrap();
/// ```
#[derive(Debug)]
pub struct StrictElasticsearch {
    node: Arc<Node>,
    address: SocketAddr,
    /// `None` while it is taken away.
    server: Option<Server>,
}

/// What the handlers share.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) state: Mutex<State>,
    /// How many bulk requests have arrived.
    pub(super) arrived: watch::Sender<usize>,
    /// How many times hanging requests were released.
    pub(super) released: watch::Sender<usize>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) store: Store,
    credentials: Credentials,
    pub(super) content_bytes_max: usize,
    pub(super) script: Script,
    pub(super) requests: Vec<SeenRequest>,
    /// What another product that speaks the same API does otherwise.
    pub(super) dialect: Option<Arc<dyn http::Dialect>>,
}

impl Node {
    /// An empty one.
    pub(super) fn new(dialect: Option<Arc<dyn http::Dialect>>) -> Arc<Self> {
        let state = State {
            store: Store::new(),
            credentials: Credentials::None,
            content_bytes_max: CONTENT_BYTES_MAX,
            script: Script::default(),
            requests: Vec::new(),
            dialect,
        };
        Arc::new(Node { state: Mutex::new(state), arrived: watch::Sender::new(0), released: watch::Sender::new(0) })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StrictElasticsearch {
    /// Starts one on any free port.
    pub async fn start() -> io::Result<Self> {
        Self::start_on(0).await
    }

    /// Starts one on this port; 0 is any free one.
    pub async fn start_on(port: u16) -> io::Result<Self> {
        let node = Node::new(None);
        let server = Server::listen((Ipv4Addr::LOCALHOST, port).into(), router(&node)).await?;
        Ok(StrictElasticsearch { address: server.address(), node, server: Some(server) })
    }

    /// Where it listens, such as `http://127.0.0.1:40123`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Stops it for good.
    pub async fn shutdown(mut self) {
        self.take_away().await;
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

    /// From now on lets in only who has these credentials.
    pub fn rotate_credentials(&self, credentials: Credentials) {
        self.node.state().credentials = credentials;
    }

    /// Sets `http.max_content_length`, in bytes: how large a body may be, both packed and unpacked. 100 MiB unless set.
    pub fn max_content_length(&self, bytes: usize) {
        self.node.state().content_bytes_max = bytes;
    }

    /// Whether writing to an index that is not there makes it. On unless set.
    pub fn auto_create(&self, is_on: bool) {
        self.node.state().store.auto_create = is_on;
    }

    /// Whether data streams made from now on keep documents that do not fit in a failure store. Off unless set.
    pub fn failure_store(&self, is_on: bool) {
        self.node.state().store.failure_store = is_on;
    }

    /// Whether a document in which an object has two fields of one name is refused, which is what Elasticsearch does
    /// since 7.0. Off unless set: the last one wins.
    pub fn refuse_duplicate_keys(&self, is_on: bool) {
        self.node.state().store.duplicate_keys_refused = is_on;
    }

    /// Makes an index that is there take no writes, or take them again.
    pub fn block(&self, index: &str, block: Option<Block>) {
        self.node.state().store.block(index, block);
    }

    /// Begins a new backing index of a data stream. An id that is in an earlier one can be created again, as in the
    /// real one.
    pub fn roll_over(&self, data_stream: &str) {
        self.node.state().store.roll_over(data_stream);
    }

    /// Lets each of the next `times` bulk requests fail so, after those that were planned before.
    pub fn fail_next(&self, times: usize, fault: Fault) {
        self.node.state().script.plan(times, fault);
    }

    /// Lets bulk requests fail with this chance in a hundred, each in some way, as drawn from this seed.
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

    /// Waits until so many bulk requests have arrived since the start.
    pub async fn arrived(&self, requests: usize) {
        // The sender lives in `self`, so that waiting cannot fail.
        let _ = self.node.arrived.subscribe().wait_for(|arrived| *arrived >= requests).await;
    }

    /// The documents of an index or data stream by id; those of one id in several backing indices count once.
    pub fn documents(&self, index: &str) -> BTreeMap<String, Value> {
        let state = self.node.state();
        let documents = state.store.documents(index).unwrap_or_default();
        documents.into_iter().map(|(id, source)| (id.clone(), source.clone())).collect()
    }

    /// How many documents an index or data stream has; those of one id in several backing indices count each.
    pub fn count(&self, index: &str) -> usize {
        self.node.state().store.documents(index).map_or(0, |documents| documents.len())
    }

    /// What the failure store of a data stream holds: each document's id and source, and why it did not fit.
    pub fn failed_documents(&self, data_stream: &str) -> Vec<Value> {
        self.node.state().store.failed_documents(data_stream)
    }

    /// How many times a document was to be created that was there already.
    pub fn duplicates(&self) -> usize {
        self.node.state().requests.iter().map(|request| request.duplicates).sum()
    }

    /// All requests up to now.
    pub fn requests(&self) -> Vec<SeenRequest> {
        self.node.state().requests.clone()
    }
}

pub(super) fn router(node: &Arc<Node>) -> Router {
    Router::new().fallback(http::handle).with_state(Arc::clone(node))
}
