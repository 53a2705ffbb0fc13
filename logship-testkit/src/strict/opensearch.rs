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
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use logship_core::{Secret, Timestamp};
use serde_json::{Value, json};

use super::elasticsearch::Elasticsearch;
use super::elasticsearch::http::Dialect;
use super::faults::{Fault, Items, SeenRequest};
use super::stand::{Call, Destination, Reply, Strict};
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

/// An OpenSearch.
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
pub type StrictOpenSearch = Strict<OpenSearch>;

/// What OpenSearch takes and keeps.
#[derive(Debug)]
pub struct OpenSearch(Elasticsearch);

impl StrictOpenSearch {
    /// Starts one on any free port.
    pub async fn start(access: Access) -> io::Result<Self> {
        Self::start_on(0, access).await
    }

    /// Starts one on this port; 0 is any free one.
    pub async fn start_on(port: u16, access: Access) -> io::Result<Self> {
        let mut server = Elasticsearch::default();
        server.store.logs_template = false;
        server.store.duplicate_keys_refused = true;
        server.store.ids_refused = matches!(access, Access::Collection { is_time_series: true, .. });
        if access.is_aws() {
            server.content_bytes_max = AWS_BYTES_MAX;
        }
        server.dialect = Some(Arc::new(access));
        Self::of(OpenSearch(server), port).await
    }

    /// From now on lets in only whom this names. What was stored stays.
    pub fn rotate(&self, access: Access) {
        self.state().destination.0.dialect = Some(Arc::new(access));
    }

    /// Makes a data stream, as an index template of one's own would.
    pub fn create_data_stream(&self, name: &str) {
        // One that is there already is what was asked for.
        let _ = self.state().destination.0.store.create_data_stream(name);
    }

    /// Sets `http.max_content_length`, in bytes. 100 MiB unless set, and 10 MiB at AWS.
    pub fn max_content_length(&self, bytes: usize) {
        self.state().destination.0.content_bytes_max = bytes;
    }

    /// The documents of an index or data stream by id.
    pub fn documents(&self, index: &str) -> BTreeMap<String, Value> {
        self.state().destination.0.documents(index)
    }

    /// How many documents an index or data stream has.
    pub fn count(&self, index: &str) -> usize {
        self.state().destination.0.count(index)
    }
}

impl Destination for OpenSearch {
    fn takes_records_at(&self, path: &str) -> bool {
        self.0.takes_records_at(path)
    }

    fn answer(&mut self, call: &Call, seen: &mut SeenRequest) -> Reply {
        self.0.answer(call, seen)
    }

    fn answer_busy(&mut self, call: &Call, seen: &mut SeenRequest, items: &Items) -> Reply {
        self.0.answer_busy(call, seen, items)
    }

    fn failure(&self, status: u16) -> Reply {
        self.0.failure(status)
    }

    fn ways_to_fail(&self) -> Vec<Fault> {
        self.0.ways_to_fail()
    }
}

impl Access {
    fn is_aws(&self) -> bool {
        matches!(self, Access::Domain(_) | Access::Collection { .. })
    }
}

/// What OpenSearch does otherwise.
impl Dialect for Access {
    fn admit(&self, call: &Call) -> Result<(), Reply> {
        let error = |status: u16, kind: &str, reason: String| {
            let cause = json!({"type": kind, "reason": reason});
            Err(Reply::new(
                status,
                json!({"error": {"root_cause": [cause], "type": kind, "reason": reason}, "status": status}),
            ))
        };
        match self {
            Access::Open => {}
            Access::Basic(user, password) => {
                let expected = format!("Basic {}", BASE64.encode(format!("{user}:{}", password.expose())));
                if call.header("authorization") != Some(&expected) {
                    return Err(Reply::text(401, "Unauthorized"));
                }
            }
            Access::Domain(signer) | Access::Collection { signer, .. } => {
                let service = if matches!(self, Access::Domain(_)) { "es" } else { "aoss" };
                signature::verify(call, signer, service, Timestamp::now())
                    .map_err(|message| Reply::new(403, json!({"message": message})))?;
            }
        }
        // "The Content-Length header must be set": a body of unknown length is not read.
        if call.headers.contains_key("transfer-encoding") {
            return error(411, "illegal_argument_exception", "Content-Length is required".to_owned());
        }
        let content_type = call.header("content-type").unwrap_or_default();
        if content_type.starts_with("application/vnd.") {
            let message = format!("Content-Type header [{content_type}] is not supported");
            return Err(Reply::new(406, json!({"error": message, "status": 406})));
        }
        let path = &call.path;
        if matches!(self, Access::Collection { .. }) && !path.ends_with("/_bulk") && path != "/" {
            return Err(Reply::new(404, json!({"status": 404, "error": {"reason": "Not Found", "type": "exception"}})));
        }
        if path.ends_with("/_bulk") && call.parameter("require_data_stream").is_some() {
            let reason = format!("request [{path}] contains unrecognized parameter: [require_data_stream]");
            return error(400, "illegal_argument_exception", reason);
        }
        Ok(())
    }

    fn too_large(&self, bytes_max: usize) -> Reply {
        match self.is_aws() {
            true => Reply::new(413, json!({"Message": format!("Request size exceeded {bytes_max} bytes")})),
            false => Reply::text(413, ""),
        }
    }

    fn banner(&self) -> Option<Value> {
        let version = json!({"distribution": "opensearch", "number": "3.2.0", "build_type": "tar"});
        let is_collection = matches!(self, Access::Collection { .. });
        (!is_collection).then(|| json!({"name": "strict", "cluster_name": "strict", "version": version}))
    }
}
