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
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use logship_core::Secret;
use serde_json::Value;

use super::faults::{Fault, Items, SeenRequest};
use super::stand::{Call, Destination, Reply, Strict, usual_ways};
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

/// An Elasticsearch of one node.
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
pub type StrictElasticsearch = Strict<Elasticsearch>;

/// What Elasticsearch takes and keeps.
#[derive(Debug)]
pub struct Elasticsearch {
    pub(super) store: Store,
    credentials: Credentials,
    pub(super) content_bytes_max: usize,
    /// What another product that speaks the same API does otherwise.
    pub(super) dialect: Option<Arc<dyn http::Dialect>>,
}

impl Default for Elasticsearch {
    fn default() -> Self {
        Elasticsearch {
            store: Store::new(),
            credentials: Credentials::None,
            content_bytes_max: CONTENT_BYTES_MAX,
            dialect: None,
        }
    }
}

impl StrictElasticsearch {
    /// From now on lets in only who has these credentials.
    pub fn rotate_credentials(&self, credentials: Credentials) {
        self.state().destination.credentials = credentials;
    }

    /// Sets `http.max_content_length`, in bytes: how large a body may be, both packed and unpacked. 100 MiB unless set.
    pub fn max_content_length(&self, bytes: usize) {
        self.state().destination.content_bytes_max = bytes;
    }

    /// Whether writing to an index that is not there makes it. On unless set.
    pub fn auto_create(&self, is_on: bool) {
        self.state().destination.store.auto_create = is_on;
    }

    /// Whether data streams made from now on keep documents that do not fit in a failure store. Off unless set.
    pub fn failure_store(&self, is_on: bool) {
        self.state().destination.store.failure_store = is_on;
    }

    /// Whether a document in which an object has two fields of one name is refused, which is what Elasticsearch does
    /// since 7.0. Off unless set: the last one wins.
    pub fn refuse_duplicate_keys(&self, is_on: bool) {
        self.state().destination.store.duplicate_keys_refused = is_on;
    }

    /// Makes an index that is there take no writes, or take them again.
    pub fn block(&self, index: &str, block: Option<Block>) {
        self.state().destination.store.block(index, block);
    }

    /// Begins a new backing index of a data stream. An id that is in an earlier one can be created again, as in the
    /// real one.
    pub fn roll_over(&self, data_stream: &str) {
        self.state().destination.store.roll_over(data_stream);
    }

    /// The documents of an index or data stream by id; those of one id in several backing indices count once.
    pub fn documents(&self, index: &str) -> BTreeMap<String, Value> {
        self.state().destination.documents(index)
    }

    /// How many documents an index or data stream has; those of one id in several backing indices count each.
    pub fn count(&self, index: &str) -> usize {
        self.state().destination.count(index)
    }

    /// What the failure store of a data stream holds: each document's id and source, and why it did not fit.
    pub fn failed_documents(&self, data_stream: &str) -> Vec<Value> {
        self.state().destination.store.failed_documents(data_stream)
    }
}

impl Elasticsearch {
    /// The documents of an index or data stream by id.
    pub(super) fn documents(&self, index: &str) -> BTreeMap<String, Value> {
        let documents = self.store.documents(index).unwrap_or_default();
        documents.into_iter().map(|(id, source)| (id.clone(), source.clone())).collect()
    }

    /// How many documents an index or data stream has.
    pub(super) fn count(&self, index: &str) -> usize {
        self.store.documents(index).map_or(0, |documents| documents.len())
    }

    fn respond(&mut self, call: &Call, seen: &mut SeenRequest, busy: Option<&Items>) -> Reply {
        let reply = match http::Read::new(self, call, busy, seen) {
            Ok(request) => http::route(self, request),
            Err(refusal) => refusal,
        };
        self.signed(reply)
    }

    /// Official clients refuse servers that do not name the product.
    fn signed(&self, reply: Reply) -> Reply {
        if self.dialect.is_some() { reply } else { reply.with("x-elastic-product", "Elasticsearch") }
    }
}

impl Destination for Elasticsearch {
    fn takes_records_at(&self, path: &str) -> bool {
        path.ends_with("/_bulk")
    }

    fn answer(&mut self, call: &Call, seen: &mut SeenRequest) -> Reply {
        self.respond(call, seen, None)
    }

    fn answer_busy(&mut self, call: &Call, seen: &mut SeenRequest, items: &Items) -> Reply {
        self.respond(call, seen, Some(items))
    }

    fn failure(&self, status: u16) -> Reply {
        self.signed(http::refuse(&http::failure(status)))
    }

    fn ways_to_fail(&self) -> Vec<Fault> {
        let mut ways = usual_ways();
        ways.push(Fault::Busy(Items::Percent { percent: 30, seed: 0 }));
        ways
    }
}
