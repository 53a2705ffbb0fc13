//! How requests are read, and where each goes.

use bytes::Bytes;
use serde_json::{Value, json};

use super::super::faults::{Items, SeenRequest};
use super::super::stand::{Call, Reply};
use super::super::wire::unpack;
use super::answer::{Refusal, json_answer};
use super::store::{Verdict, refused_item};
use super::{Elasticsearch, bulk};

/// What another product that speaks the same API does otherwise.
pub(in crate::strict) trait Dialect: std::fmt::Debug + Send + Sync {
    /// Turns away who is not let in, and what is not known.
    fn admit(&self, call: &Call) -> Result<(), Reply>;

    /// What is said of a body that is too large.
    fn too_large(&self, bytes_max: usize) -> Reply;

    /// What it says about itself, if it does.
    fn banner(&self) -> Option<Value>;
}

/// A request whose body was unpacked.
pub(super) struct Read<'a> {
    call: &'a Call,
    body: Bytes,
    /// The items to turn away for now.
    busy: Option<&'a Items>,
    seen: &'a mut SeenRequest,
}

impl<'a> Read<'a> {
    /// Unpacks a body, if who sends it is let in and it has a form Elasticsearch reads.
    pub(super) fn new(
        server: &Elasticsearch,
        call: &'a Call,
        busy: Option<&'a Items>,
        seen: &'a mut SeenRequest,
    ) -> Result<Self, Reply> {
        let bytes_max = server.content_bytes_max;
        if let Some(expected) = server.credentials.expected() {
            check_credentials(&expected, call.header("authorization"), &call.path)?;
        }
        // The real one has no body in this answer either.
        let too_large = || match &server.dialect {
            Some(dialect) => dialect.too_large(bytes_max),
            None => Reply::text(413, ""),
        };
        if call.wire.len() > bytes_max {
            return Err(too_large());
        }
        if let Some(dialect) = &server.dialect {
            dialect.admit(call)?;
        }
        if call.wire.is_empty() {
            return Ok(Read { call, body: Bytes::new(), busy, seen });
        }
        let content_type = call.header("content-type").unwrap_or_default();
        if !is_readable(content_type) {
            let error = format!("Content-Type header [{content_type}] is not supported");
            return Err(json_answer(406, &json!({"error": error, "status": 406}), None));
        }
        let body = match call.header("content-encoding") {
            None | Some("identity") => call.wire.clone(),
            Some("gzip") => match unpack(&call.wire, bytes_max) {
                Ok(body) => body.ok_or_else(too_large)?,
                Err(error) => return Err(refuse(&Refusal::new(400, "zip_exception", error.to_string()))),
            },
            Some(other) => {
                return Err(refuse(&Refusal::illegal_argument(format!("Content-Encoding [{other}] is not supported"))));
            }
        };
        seen.body_bytes = body.len();
        Ok(Read { call, body, busy, seen })
    }

    fn answer(&self, result: Result<(u16, Value), Refusal>) -> Reply {
        match result {
            Ok((status, body)) => json_answer(status, &body, self.call.parameter("filter_path")),
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

fn check_credentials(expected: &str, given: Option<&str>, path: &str) -> Result<(), Reply> {
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
    Err(schemes.into_iter().fold(refuse(&refusal), |reply, scheme| reply.with("www-authenticate", scheme)))
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

pub(super) fn failure(status: u16) -> Refusal {
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

pub(super) fn refuse(refusal: &Refusal) -> Reply {
    json_answer(refusal.status, &refusal.body(), None)
}

/// What each address does.
pub(super) fn route(server: &mut Elasticsearch, mut request: Read<'_>) -> Reply {
    let call = request.call;
    let segments: Vec<&str> = call.path.split('/').filter(|segment| !segment.is_empty()).collect();
    let acknowledged = |()| (200, json!({"acknowledged": true}));
    let allowed: &str = match (call.method.as_str(), segments.as_slice()) {
        ("GET" | "HEAD", []) => return request.answer(about(server)),
        ("POST" | "PUT", ["_bulk"]) => {
            let done = bulk(server, &mut request, None);
            return request.answer(done);
        }
        ("POST" | "PUT", [index, "_bulk"]) => {
            let done = bulk(server, &mut request, Some(index));
            return request.answer(done);
        }
        ("GET", ["_cluster", "health"]) => return request.answer(Ok((200, health()))),
        ("GET" | "POST", [index, "_count"]) => return request.answer(count(server, index)),
        ("GET" | "POST", [index, "_search"]) => return request.answer(search(server, &request, index)),
        ("GET" | "POST", [index, "_refresh"]) => {
            let found = server.store.documents(index).map(|_| (200, json!({"_shards": shards()})));
            return request.answer(found);
        }
        ("PUT", ["_data_stream", name]) => {
            return request.answer(server.store.create_data_stream(name).map(acknowledged));
        }
        ("DELETE", ["_data_stream", name]) => {
            return request.answer(server.store.delete(name, true).map(acknowledged));
        }
        ("PUT", [index]) if !index.starts_with('_') => {
            let created = request.json().and_then(|body| server.store.create_index(index, &body));
            let body = json!({"acknowledged": true, "shards_acknowledged": true, "index": index});
            return request.answer(created.map(|()| (200, body)));
        }
        ("DELETE", [index]) if !index.starts_with('_') => {
            return request.answer(server.store.delete(index, false).map(acknowledged));
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
    refuse(&Refusal::new(405, "illegal_argument_exception", reason)).with("allow", allowed)
}

fn bulk(server: &mut Elasticsearch, request: &mut Read<'_>, index: Option<&str>) -> Result<(u16, Value), Refusal> {
    let operations = bulk::parse(&request.body, index)?;
    let stream_only = request.call.parameter("require_data_stream").is_some_and(|value| value != "false");
    let is_busy = request.busy.map_or_else(|| vec![false; operations.len()], |items| items.of(operations.len()));
    let (mut items, mut stored, mut duplicates) = (Vec::with_capacity(operations.len()), 0, 0);
    for (operation, is_busy) in operations.iter().zip(is_busy) {
        if is_busy {
            let refusal = failure(429);
            items.push(refused_item(operation, operation.id.as_deref().unwrap_or_default(), &refusal));
            continue;
        }
        let (mut item, verdict) = server.store.apply(operation, stream_only);
        if server.dialect.is_some() {
            older_name(&mut item, operation.action.name());
        }
        stored += usize::from(matches!(verdict, Verdict::Stored));
        duplicates += usize::from(matches!(verdict, Verdict::Duplicate));
        items.push(item);
    }
    let seen = &mut request.seen;
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

fn count(server: &Elasticsearch, index: &str) -> Result<(u16, Value), Refusal> {
    let count = server.store.documents(index)?.len();
    Ok((200, json!({"count": count, "_shards": shards()})))
}

/// All documents, `size` of them from the `from`th on. Queries are not looked at.
/// <https://www.elastic.co/docs/reference/elasticsearch/rest-apis/paginate-search-results>
fn search(server: &Elasticsearch, request: &Read<'_>, index: &str) -> Result<(u16, Value), Refusal> {
    const WINDOW_MAX: usize = 10_000;
    let body = request.json()?;
    let number = |name: &str, default: usize| {
        let in_query = request.call.parameter(name).and_then(|text| text.parse().ok());
        in_query.or_else(|| body.get(name)?.as_u64().map(|number| number as usize)).unwrap_or(default)
    };
    let (from, size) = (number("from", 0), number("size", 10));
    if from.saturating_add(size) > WINDOW_MAX {
        return Err(Refusal::illegal_argument(format!(
            "Result window is too large, from + size must be less than or equal to: [{WINDOW_MAX}] but was [{}]",
            from.saturating_add(size)
        )));
    }
    let documents = server.store.documents(index)?;
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
fn about(server: &Elasticsearch) -> Result<(u16, Value), Refusal> {
    match &server.dialect {
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
