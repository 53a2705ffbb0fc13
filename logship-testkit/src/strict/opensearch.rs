//! A stand-in for OpenSearch 3: a cluster of one's own, a domain of Amazon OpenSearch Service, or a collection of Amazon
//! OpenSearch Serverless.
//!
//! It is the stand-in for Elasticsearch with what OpenSearch's documents have otherwise
//! (<https://docs.opensearch.org/latest/api-reference/document-apis/bulk/>,
//! <https://docs.aws.amazon.com/opensearch-service/latest/developerguide/limits.html>,
//! <https://docs.aws.amazon.com/opensearch-service/latest/developerguide/serverless-overview.html>): no built-in
//! template for logs, no failure store, a smaller body and signed requests at AWS, and no ids of one's own in
//! collections of time series.

mod signature;

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{Response, header};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use logship_core::Secret;
use serde_json::{Value, json};

use super::elasticsearch::http::Dialect;
use super::elasticsearch::{Node, router};
use super::faults::{Fault, SeenRequest};
use super::server::Server;
pub use signature::Signer;

/// The largest payload of small instance types, "10 MiB".
/// <https://docs.aws.amazon.com/opensearch-service/latest/developerguide/limits.html#network-limits>
const AWS_BYTES_MAX: usize = 10 * 1024 * 1024;

/// Where it runs, and who is let in.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Access {
    /// A cluster of one's own that lets in everybody.
    Open,
    /// A cluster of one's own that lets in a user.
    Basic(String, Secret),
    /// A domain of Amazon OpenSearch Service.
    Domain(Signer),
    /// A collection of Amazon OpenSearch Serverless.
    Collection {
        /// Who is let in.
        signer: Signer,
        /// Whether it is of time series, and takes no ids.
        is_time_series: bool,
    },
}

/// An OpenSearch in this process, on a port of its own on 127.0.0.1. It stops when it is dropped.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use logship_testkit::strict::opensearch::{Access, StrictOpenSearch};
///
/// let opensearch = StrictOpenSearch::start(Access::Basic("admin".to_owned(), "secret".into())).await?;
/// assert_eq!(opensearch.count("logs"), 0);
/// # std::io::Result::Ok(())
/// # }).unwrap();
/// ```
#[derive(Debug)]
pub struct StrictOpenSearch {
    node: Arc<Node>,
    address: SocketAddr,
    _server: Server,
}

impl StrictOpenSearch {
    /// Starts one on any free port.
    pub async fn start(access: Access) -> io::Result<Self> {
        Self::start_on(0, access).await
    }

    /// Starts one on this port; 0 is any free one.
    pub async fn start_on(port: u16, access: Access) -> io::Result<Self> {
        let node = Node::new(Some(Arc::new(OpenSearch(access.clone()))));
        {
            let mut state = node.state();
            state.store.logs_template = false;
            state.store.duplicate_keys_refused = true;
            state.store.ids_refused = matches!(access, Access::Collection { is_time_series: true, .. });
            if matches!(access, Access::Domain(_) | Access::Collection { .. }) {
                state.content_bytes_max = AWS_BYTES_MAX;
            }
        }
        let server = Server::listen((Ipv4Addr::LOCALHOST, port).into(), router(&node)).await?;
        Ok(StrictOpenSearch { address: server.address(), node, _server: server })
    }

    /// Where it listens, such as `http://127.0.0.1:40123`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on lets in only whom this names. What was stored stays.
    pub fn rotate(&self, access: Access) {
        self.node.state().dialect = Some(Arc::new(OpenSearch(access)));
    }

    /// Makes a data stream, as an index template of one's own would.
    pub fn create_data_stream(&self, name: &str) {
        // One that is there already is what was asked for.
        let _ = self.node.state().store.create_data_stream(name);
    }

    /// Sets `http.max_content_length`, in bytes. 100 MiB unless set, and 10 MiB at AWS.
    pub fn max_content_length(&self, bytes: usize) {
        self.node.state().content_bytes_max = bytes;
    }

    /// Lets each of the next `times` bulk requests fail so, after those that were planned before.
    pub fn fail_next(&self, times: usize, fault: Fault) {
        self.node.state().script.plan(times, fault);
    }

    /// Lets bulk requests fail with this chance in a hundred, each in some way, as drawn from this seed.
    pub fn fail_at_random(&self, seed: u64, percent: u8) {
        self.node.state().script.chaos(seed, percent);
    }

    /// Lets the requests that [hang](Fault::Hang) go on.
    pub fn release(&self) {
        self.node.released.send_modify(|times| *times += 1);
    }

    /// The documents of an index or data stream by id.
    pub fn documents(&self, index: &str) -> BTreeMap<String, Value> {
        let state = self.node.state();
        let documents = state.store.documents(index).unwrap_or_default();
        documents.into_iter().map(|(id, source)| (id.clone(), source.clone())).collect()
    }

    /// How many documents an index or data stream has.
    pub fn count(&self, index: &str) -> usize {
        self.node.state().store.documents(index).map_or(0, |documents| documents.len())
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

/// What OpenSearch does otherwise.
#[derive(Debug)]
struct OpenSearch(Access);

impl OpenSearch {
    fn is_aws(&self) -> bool {
        matches!(self.0, Access::Domain(_) | Access::Collection { .. })
    }
}

impl Dialect for OpenSearch {
    fn admit(&self, head: &Parts, wire: &[u8]) -> Result<(), Box<Response<Body>>> {
        let header = |name: header::HeaderName| head.headers.get(name).and_then(|value| value.to_str().ok());
        let error = |status: u16, kind: &str, reason: String| {
            let cause = json!({"type": kind, "reason": reason});
            Err(json_reply(
                status,
                json!({"error": {"root_cause": [cause], "type": kind, "reason": reason}, "status": status}),
            ))
        };
        match &self.0 {
            Access::Open => {}
            Access::Basic(user, password) => {
                let expected = format!("Basic {}", BASE64.encode(format!("{user}:{}", password.expose())));
                if header(header::AUTHORIZATION) != Some(&expected) {
                    let mut response = Response::new(Body::from("Unauthorized"));
                    *response.status_mut() = axum::http::StatusCode::UNAUTHORIZED;
                    return Err(Box::new(response));
                }
            }
            Access::Domain(signer) | Access::Collection { signer, .. } => {
                let service = if matches!(self.0, Access::Domain(_)) { "es" } else { "aoss" };
                signature::verify(head, wire, signer, service)
                    .map_err(|message| json_reply(403, json!({"message": message})))?;
            }
        }
        // "The Content-Length header must be set": a body of unknown length is not read.
        if head.headers.contains_key(header::TRANSFER_ENCODING) {
            return error(411, "illegal_argument_exception", "Content-Length is required".to_owned());
        }
        let content_type = header(header::CONTENT_TYPE).unwrap_or_default();
        if content_type.starts_with("application/vnd.") {
            let message = format!("Content-Type header [{content_type}] is not supported");
            return Err(json_reply(406, json!({"error": message, "status": 406})));
        }
        let path = head.uri.path();
        if matches!(self.0, Access::Collection { .. }) && !path.ends_with("/_bulk") && path != "/" {
            return Err(json_reply(404, json!({"status": 404, "error": {"reason": "Not Found", "type": "exception"}})));
        }
        if path.ends_with("/_bulk") && head.uri.query().is_some_and(|query| query.contains("require_data_stream")) {
            let reason = format!("request [{path}] contains unrecognized parameter: [require_data_stream]");
            return error(400, "illegal_argument_exception", reason);
        }
        Ok(())
    }

    fn too_large(&self, bytes_max: usize) -> Response<Body> {
        match self.is_aws() {
            true => *json_reply(413, json!({"Message": format!("Request size exceeded {bytes_max} bytes")})),
            false => {
                let mut response = Response::new(Body::empty());
                *response.status_mut() = axum::http::StatusCode::PAYLOAD_TOO_LARGE;
                response
            }
        }
    }

    fn banner(&self) -> Option<Value> {
        let version = json!({"distribution": "opensearch", "number": "3.2.0", "build_type": "tar"});
        let is_collection = matches!(self.0, Access::Collection { .. });
        (!is_collection).then(|| json!({"name": "strict", "cluster_name": "strict", "version": version}))
    }
}

fn json_reply(status: u16, body: Value) -> Box<Response<Body>> {
    let mut response = Response::new(Body::from(body.to_string()));
    if let Ok(status) = status.try_into() {
        *response.status_mut() = status;
    }
    response.headers_mut().insert(header::CONTENT_TYPE, axum::http::HeaderValue::from_static("application/json"));
    Box::new(response)
}
