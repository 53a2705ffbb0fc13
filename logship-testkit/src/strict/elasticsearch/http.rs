//! How requests come in, and how answers go out or fail to.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, Response, header};
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::super::faults::{Fault, Items, SeenRequest};
use super::super::server::Line;
use super::super::wire::{parse_query, proxy_page, read_up_to, truncated, unpack};
use super::answer::{Refusal, answer, json_answer};
use super::store::{Verdict, refused_item};
use super::{Node, bulk};

/// What another product that speaks the same API does otherwise.
pub(in crate::strict) trait Dialect: std::fmt::Debug + Send + Sync {
    /// Turns away who is not let in, and what is not known.
    fn admit(&self, head: &Parts, wire: &[u8]) -> Result<(), Box<Response<Body>>>;

    /// What is said of a body that is too large.
    fn too_large(&self, bytes_max: usize) -> Response<Body>;

    /// What it says about itself, if it does.
    fn banner(&self) -> Option<Value>;
}

/// What is left of a request when its body has been read.
struct Call {
    method: Method,
    path: String,
    query: Vec<(String, String)>,
    body: Bytes,
    /// Its place in the log of requests.
    seen: usize,
}

impl Call {
    fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn answer(&self, result: Result<(u16, Value), Refusal>) -> Response<Body> {
        match result {
            Ok((status, body)) => json_answer(status, &body, self.parameter("filter_path")),
            Err(refusal) => refuse(&refusal),
        }
    }

    fn json(&self) -> Result<Value, Refusal> {
        match self.body.is_empty() {
            true => Ok(json!({})),
            false => serde_json::from_slice(&self.body)
                .map_err(|error| Refusal::new(400, "x_content_parse_exception", error.to_string())),
        }
    }
}

/// Answers a request, unless it is to get no answer.
pub(super) async fn handle(
    State(node): State<Arc<Node>>,
    ConnectInfo(line): ConnectInfo<Line>,
    request: Request,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let header = |name: header::HeaderName| parts.headers.get(name).and_then(|value| value.to_str().ok());
    let seen = {
        let mut state = node.state();
        state.requests.push(SeenRequest {
            method: parts.method.to_string(),
            path: path.clone(),
            user_agent: header(header::USER_AGENT).unwrap_or_default().to_owned(),
            ..SeenRequest::default()
        });
        state.requests.len() - 1
    };
    let is_bulk = path.ends_with("/_bulk");
    let fault = if is_bulk { node.state().script.next() } else { None };
    // Whoever waits for the arrival and then releases reaches this request too.
    let released = node.released.subscribe();
    if is_bulk {
        node.arrived.send_modify(|arrived| *arrived += 1);
    }
    if fault == Some(Fault::DropUnread) {
        line.cut();
        return Response::default();
    }
    let mut response = match read(&node, &parts, body, seen).await {
        Err(response) => *response,
        Ok(body) => {
            let query = parse_query(parts.uri.query().unwrap_or_default());
            let call = Call { method: parts.method, path, query, body, seen };
            answer_with_fault(&node, &line, &call, fault, released).await
        }
    };
    let mut state = node.state();
    if state.dialect.is_some() {
        response.headers_mut().remove("x-elastic-product");
    }
    state.requests[seen].status = Some(response.status().as_u16());
    response
}

/// Reads and unpacks a body, if who sends it is let in and it has a form Elasticsearch reads.
async fn read(node: &Node, parts: &Parts, body: Body, seen: usize) -> Result<Bytes, Box<Response<Body>>> {
    let (headers, path) = (&parts.headers, parts.uri.path());
    let (expected, bytes_max, dialect) = {
        let state = node.state();
        (state.credentials.expected(), state.content_bytes_max, state.dialect.clone())
    };
    let wire = read_up_to(body, bytes_max).await;
    let header = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(expected) = expected {
        check_credentials(&expected, header(header::AUTHORIZATION), path)?;
    }
    // The real one has no body in this answer either.
    let too_large = || {
        Box::new(match &dialect {
            Some(dialect) => dialect.too_large(bytes_max),
            None => answer(413, "text/plain; charset=UTF-8", Body::empty()),
        })
    };
    let wire = wire.ok_or_else(too_large)?;
    if let Some(dialect) = &dialect {
        dialect.admit(parts, &wire)?;
    }
    node.state().requests[seen].wire_bytes = wire.len();
    if wire.is_empty() {
        return Ok(wire);
    }
    let content_type = header(header::CONTENT_TYPE).unwrap_or_default();
    if !is_readable(content_type) {
        let error = format!("Content-Type header [{content_type}] is not supported");
        return Err(json_answer(406, &json!({"error": error, "status": 406}), None).into());
    }
    let body = match header(header::CONTENT_ENCODING) {
        None | Some("identity") => wire,
        Some("gzip") => match unpack(&wire, bytes_max) {
            Ok(body) => body.ok_or_else(too_large)?,
            Err(error) => return Err(refuse(&Refusal::new(400, "zip_exception", error.to_string())).into()),
        },
        Some(other) => {
            return Err(
                refuse(&Refusal::illegal_argument(format!("Content-Encoding [{other}] is not supported"))).into()
            );
        }
    };
    node.state().requests[seen].body_bytes = body.len();
    Ok(body)
}

fn check_credentials(expected: &str, given: Option<&str>, path: &str) -> Result<(), Box<Response<Body>>> {
    let reason = match given {
        Some(given) if given == expected => return Ok(()),
        None => format!("missing authentication credentials for REST request [{path}]"),
        Some(given) if given.starts_with("Basic ") => format!("unable to authenticate user for REST request [{path}]"),
        Some(_) => "unable to authenticate with provided credentials and anonymous access is not allowed for this \
                    request"
            .to_owned(),
    };
    let schemes = ["Basic realm=\"security\", charset=\"UTF-8\"", "Bearer realm=\"security\"", "ApiKey"];
    let refusal = Refusal::new(401, "security_exception", reason).with("header", json!({"WWW-Authenticate": schemes}));
    let mut response = refuse(&refusal);
    for scheme in schemes {
        response.headers_mut().append(header::WWW_AUTHENTICATE, HeaderValue::from_static(scheme));
    }
    Err(Box::new(response))
}

/// JSON or lines of it, plain or in the form that names a version. 9.x reads what was meant for 8 and 9.
/// <https://www.elastic.co/docs/reference/elasticsearch/rest-apis/compatibility>
fn is_readable(content_type: &str) -> bool {
    let mut parts = content_type.split(';').map(str::trim);
    let media_type = parts.next().unwrap_or_default();
    let are_parameters_known = parts.all(|parameter| {
        ["charset=utf-8", "compatible-with=8", "compatible-with=9"].contains(&parameter.to_ascii_lowercase().as_str())
    });
    let plain = media_type.strip_prefix("application/").map(|name| name.trim_start_matches("vnd.elasticsearch+"));
    are_parameters_known && matches!(plain, Some("json" | "x-ndjson"))
}

async fn answer_with_fault(
    node: &Node,
    line: &Line,
    call: &Call,
    fault: Option<Fault>,
    mut released: watch::Receiver<usize>,
) -> Response<Body> {
    match fault {
        None => route(node, call, None),
        Some(Fault::Busy(items)) => route(node, call, Some(&items)),
        Some(Fault::Status { status, retry_after }) => {
            let mut response = refuse(&failure(status));
            if let Some(value) = retry_after.and_then(|text| HeaderValue::try_from(text).ok()) {
                response.headers_mut().insert(header::RETRY_AFTER, value);
            }
            response
        }
        Some(Fault::ProxyPage(status)) => proxy_page(status),
        Some(Fault::LoseAnswer) => {
            let response = route(node, call, None);
            line.cut();
            response
        }
        Some(Fault::TruncateAnswer) => truncated(route(node, call, None)).await,
        Some(Fault::Hang) => tokio::select! {
            _ = released.changed() => route(node, call, None),
            () = line.is_cut() => Response::default(),
        },
        Some(Fault::Slow(time)) => {
            tokio::time::sleep(time).await;
            route(node, call, None)
        }
        // The other faults are not this destination's.
        Some(_) => Response::default(),
    }
}

fn failure(status: u16) -> Refusal {
    let (kind, reason) = match status {
        429 => ("es_rejected_execution_exception", "rejected execution of coordinating operation"),
        503 => ("unavailable_shards_exception", "primary shard is not active Timeout: [1m]"),
        504 => ("process_cluster_event_timeout_exception", "failed to process cluster event"),
        401 | 403 => ("security_exception", "action [indices:data/write/bulk] is unauthorized"),
        400..500 => ("illegal_argument_exception", "refused on request"),
        _ => ("exception", "failed on request"),
    };
    Refusal::new(status, kind, reason)
}

fn refuse(refusal: &Refusal) -> Response<Body> {
    json_answer(refusal.status, &refusal.body(), None)
}

/// What each address does.
fn route(node: &Node, call: &Call, busy: Option<&Items>) -> Response<Body> {
    let segments: Vec<&str> = call.path.split('/').filter(|segment| !segment.is_empty()).collect();
    let acknowledged = |()| (200, json!({"acknowledged": true}));
    let allowed: &str = match (call.method.as_str(), segments.as_slice()) {
        ("GET" | "HEAD", []) => return call.answer(about(node)),
        ("POST" | "PUT", ["_bulk"]) => return call.answer(bulk(node, call, None, busy)),
        ("POST" | "PUT", [index, "_bulk"]) => return call.answer(bulk(node, call, Some(index), busy)),
        ("GET", ["_cluster", "health"]) => return call.answer(Ok((200, health()))),
        ("GET" | "POST", [index, "_count"]) => return call.answer(count(node, index)),
        ("GET" | "POST", [index, "_search"]) => return call.answer(search(node, call, index)),
        ("GET" | "POST", [index, "_refresh"]) => {
            let found = node.state().store.documents(index).map(|_| (200, json!({"_shards": shards()})));
            return call.answer(found);
        }
        ("PUT", ["_data_stream", name]) => {
            return call.answer(node.state().store.create_data_stream(name).map(acknowledged));
        }
        ("DELETE", ["_data_stream", name]) => {
            return call.answer(node.state().store.delete(name, true).map(acknowledged));
        }
        ("PUT", [index]) if !index.starts_with('_') => {
            let created = call.json().and_then(|body| node.state().store.create_index(index, &body));
            let body = json!({"acknowledged": true, "shards_acknowledged": true, "index": index});
            return call.answer(created.map(|()| (200, body)));
        }
        ("DELETE", [index]) if !index.starts_with('_') => {
            return call.answer(node.state().store.delete(index, false).map(acknowledged));
        }
        (_, []) => "GET, HEAD",
        (_, ["_bulk"] | [_, "_bulk"]) => "PUT, POST",
        (_, [_, "_count" | "_search" | "_refresh"]) => "GET, POST",
        (_, ["_cluster", "health"]) => "GET",
        (_, ["_data_stream", _]) => "PUT, DELETE",
        (_, [name]) if !name.starts_with('_') => "PUT, DELETE",
        _ => {
            let reason = format!("no handler found for uri [{}] and method [{}]", call.path, call.method);
            return refuse(&Refusal::new(404, "illegal_argument_exception", reason));
        }
    };
    let reason =
        format!("Incorrect HTTP method for uri [{}] and method [{}], allowed: [{allowed}]", call.path, call.method);
    let mut response = refuse(&Refusal::new(405, "illegal_argument_exception", reason));
    if let Ok(value) = HeaderValue::from_str(allowed) {
        response.headers_mut().insert(header::ALLOW, value);
    }
    response
}

fn bulk(node: &Node, call: &Call, index: Option<&str>, busy: Option<&Items>) -> Result<(u16, Value), Refusal> {
    let operations = bulk::parse(&call.body, index)?;
    let stream_only = call.parameter("require_data_stream").is_some_and(|value| value != "false");
    let is_busy = busy.map_or_else(|| vec![false; operations.len()], |items| items.of(operations.len()));
    let mut state = node.state();
    let (mut items, mut stored, mut duplicates) = (Vec::with_capacity(operations.len()), 0, 0);
    for (operation, is_busy) in operations.iter().zip(is_busy) {
        if is_busy {
            let refusal = failure(429);
            items.push(refused_item(operation, operation.id.as_deref().unwrap_or_default(), &refusal));
            continue;
        }
        let (mut item, verdict) = state.store.apply(operation, stream_only);
        if state.dialect.is_some() {
            older_name(&mut item, operation.action.name());
        }
        stored += usize::from(matches!(verdict, Verdict::Stored));
        duplicates += usize::from(matches!(verdict, Verdict::Duplicate));
        items.push(item);
    }
    let seen = &mut state.requests[call.seen];
    (seen.items, seen.stored, seen.duplicates) = (items.len(), stored, duplicates);
    let has_error =
        |item: &Value| item.as_object().is_some_and(|item| item.values().any(|item| item.get("error").is_some()));
    let errors = items.iter().any(has_error);
    Ok((200, json!({"took": 1, "errors": errors, "items": items})))
}

/// Elasticsearch 8.8 gave an error a new name, OpenSearch did not.
fn older_name(item: &mut Value, action: &str) {
    if let Some(kind) = item.pointer_mut(&format!("/{action}/error/type"))
        && kind == "document_parsing_exception"
    {
        *kind = "mapper_parsing_exception".into();
    }
}

fn count(node: &Node, index: &str) -> Result<(u16, Value), Refusal> {
    let count = node.state().store.documents(index)?.len();
    Ok((200, json!({"count": count, "_shards": shards()})))
}

/// All documents, `size` of them from the `from`th on. Queries are not looked at.
/// <https://www.elastic.co/docs/reference/elasticsearch/rest-apis/paginate-search-results>
fn search(node: &Node, call: &Call, index: &str) -> Result<(u16, Value), Refusal> {
    const WINDOW_MAX: usize = 10_000;
    let body = call.json()?;
    let number = |name: &str, default: usize| {
        let in_query = call.parameter(name).and_then(|text| text.parse().ok());
        in_query.or_else(|| body.get(name)?.as_u64().map(|number| number as usize)).unwrap_or(default)
    };
    let (from, size) = (number("from", 0), number("size", 10));
    if from.saturating_add(size) > WINDOW_MAX {
        return Err(Refusal::illegal_argument(format!(
            "Result window is too large, from + size must be less than or equal to: [{WINDOW_MAX}] but was [{}]",
            from.saturating_add(size)
        )));
    }
    let state = node.state();
    let documents = state.store.documents(index)?;
    let total = json!({"value": documents.len().min(WINDOW_MAX), "relation": if documents.len() > WINDOW_MAX { "gte" } else { "eq" }});
    let hits: Vec<Value> = documents
        .into_iter()
        .skip(from)
        .take(size)
        .map(|(id, source)| json!({"_index": index, "_id": id, "_score": 1.0, "_source": source}))
        .collect();
    let hits = json!({"total": total, "max_score": 1.0, "hits": hits});
    Ok((200, json!({"took": 1, "timed_out": false, "_shards": shards(), "hits": hits})))
}

fn shards() -> Value {
    json!({"total": 1, "successful": 1, "skipped": 0, "failed": 0})
}

/// What the root of the cluster says.
fn about(node: &Node) -> Result<(u16, Value), Refusal> {
    match &node.state().dialect {
        None => Ok((200, banner())),
        Some(dialect) => {
            dialect.banner().map(|banner| (200, banner)).ok_or_else(|| Refusal::new(404, "exception", "not found"))
        }
    }
}

fn banner() -> Value {
    json!({
        "name": "strict", "cluster_name": "strict", "cluster_uuid": "strict",
        "version": {
            "number": "9.2.0", "build_flavor": "default", "build_type": "docker", "build_snapshot": false,
            "minimum_wire_compatibility_version": "8.19.0", "minimum_index_compatibility_version": "8.0.0",
        },
        "tagline": "You Know, for Search",
    })
}

fn health() -> Value {
    json!({"cluster_name": "strict", "status": "green", "timed_out": false, "number_of_nodes": 1})
}
