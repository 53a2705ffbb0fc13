//! How requests come in, and how answers go out or fail to.

use std::io::Read;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, Method, Response, header};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use prost::Message;
use tokio::sync::watch;

use super::super::faults::{Fault, SeenRequest};
use super::super::server::Line;
use super::answer::{Form, answer, refusal, success, truncated};
use super::{GRPC_BYTES_MAX, HTTP_BYTES_MAX, Node};

const HTTP_PATH: &str = "/v1/logs";
const GRPC_PATH: &str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";

/// Why a request is refused: a status of HTTP and words.
struct Refusal(u16, String);

/// A request that was read.
struct Call {
    form: Form,
    request: ExportLogsServiceRequest,
    /// Its place in the log of requests.
    seen: usize,
    /// What a refusal repeats of it.
    repeated: String,
}

/// Answers a request, unless it is to get no answer.
pub(super) async fn handle(
    State(node): State<Arc<Node>>,
    ConnectInfo(line): ConnectInfo<Line>,
    request: Request,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let header = |name: header::HeaderName| parts.headers.get(name).and_then(|value| value.to_str().ok());
    let seen = {
        let mut state = node.state();
        state.requests.push(SeenRequest {
            method: parts.method.to_string(),
            path: parts.uri.path().to_owned(),
            user_agent: header(header::USER_AGENT).unwrap_or_default().to_owned(),
            ..SeenRequest::default()
        });
        state.requests.len() - 1
    };
    let form = form_of(header(header::CONTENT_TYPE).unwrap_or_default());
    // A fault is for a request with records, and these are not looked at before it is known.
    let is_empty = header(header::CONTENT_LENGTH).is_some_and(|len| len == "0" || len == "2");
    let mut parts_of_body = body.into_data_stream();
    let first = if is_empty { None } else { parts_of_body.next().await };
    let is_empty = is_empty || first.is_none() || matches!(&first, Some(Ok(bytes)) if bytes[..] == [0; 5]);
    let fault = if is_empty { None } else { node.state().script.next() };
    // Whoever waits for the arrival and then releases reaches this request too.
    let released = node.released.subscribe();
    if !is_empty {
        node.arrived.send_modify(|arrived| *arrived += 1);
    }
    if fault == Some(Fault::DropUnread) {
        line.cut();
        return Response::default();
    }
    let rest = futures::stream::iter(first).chain(parts_of_body);
    let response = match read(&node, &parts.method, parts.uri.path(), &parts.headers, form, rest, seen).await {
        Err(Refusal(status, words)) => refusal(form.unwrap_or(Form::Json), status, None, &words),
        Ok((form, request)) => {
            let repeated = if node.state().repeats_headers { format!(": {:?}", parts.headers) } else { String::new() };
            let call = Call { form, request, seen, repeated };
            answer_with_fault(&node, &line, &call, fault, released).await
        }
    };
    node.state().requests[seen].status = Some(response.status().as_u16());
    response
}

fn form_of(content_type: &str) -> Option<Form> {
    match content_type.split(';').next().unwrap_or_default().trim() {
        "application/x-protobuf" => Some(Form::Protobuf),
        "application/json" => Some(Form::Json),
        "application/grpc" | "application/grpc+proto" => Some(Form::Grpc),
        _ => None,
    }
}

/// Reads, unpacks and decodes a body, if who sends it is let in and it has a form that the protocol knows.
async fn read(
    node: &Node,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
    form: Option<Form>,
    body: impl futures::Stream<Item = Result<Bytes, axum::Error>> + Unpin,
    seen: usize,
) -> Result<(Form, ExportLogsServiceRequest), Refusal> {
    let (credentials, bytes_max) = {
        let state = node.state();
        (state.credentials.clone(), state.bytes_max)
    };
    let bytes_max = bytes_max.unwrap_or(if form == Some(Form::Grpc) { GRPC_BYTES_MAX } else { HTTP_BYTES_MAX });
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    // It is read to its end in any case: whoever sends it is to see the answer.
    let wire = read_up_to(body, bytes_max + 5).await?;
    let Some(form) = form else { return Err(Refusal(415, "unsupported content type".to_owned())) };
    if path != if form == Form::Grpc { GRPC_PATH } else { HTTP_PATH } {
        return Err(Refusal(404, format!("nothing is at {path}")));
    }
    if method != Method::POST {
        return Err(Refusal(405, "use POST".to_owned()));
    }
    if let Some((name, value)) = credentials
        && header(&name) != Some(value.expose())
    {
        return Err(Refusal(401, "who are you".to_owned()));
    }
    let too_large = || Refusal(413, format!("received message larger than max ({bytes_max})"));
    let (wire, packing) = match form {
        Form::Grpc => unframed(&wire, headers)?,
        _ => (wire, header("content-encoding").unwrap_or("identity")),
    };
    let wire = if wire.len() > bytes_max { return Err(too_large()) } else { wire };
    node.state().requests[seen].wire_bytes = wire.len();
    let broken = |error: std::io::Error| Refusal(400, format!("cannot unpack: {error}"));
    let mut message = Vec::new();
    let limit = bytes_max as u64 + 1;
    match packing {
        "identity" => message.extend_from_slice(&wire),
        "gzip" => {
            let unpacking = flate2::read::MultiGzDecoder::new(&wire[..]);
            unpacking.take(limit).read_to_end(&mut message).map_err(broken)?;
        }
        "zstd" => {
            let unpacking = zstd::stream::read::Decoder::new(&wire[..]).map_err(broken)?;
            unpacking.take(limit).read_to_end(&mut message).map_err(broken)?;
        }
        other => return Err(Refusal(415, format!("cannot unpack {other}"))),
    }
    if message.len() > bytes_max {
        return Err(too_large());
    }
    node.state().requests[seen].body_bytes = message.len();
    let request = match form {
        Form::Json => serde_json::from_slice(&message).map_err(|error| error.to_string()),
        _ => ExportLogsServiceRequest::decode(&message[..]).map_err(|error| error.to_string()),
    };
    request.map(|request| (form, request)).map_err(|error| Refusal(400, format!("cannot decode: {error}")))
}

/// The one message of a call, and how it is packed.
fn unframed<'a>(wire: &Bytes, headers: &'a HeaderMap) -> Result<(Bytes, &'a str), Refusal> {
    let wrong = |words: &str| Refusal(400, words.to_owned());
    if headers.get("te").is_none_or(|value| value != "trailers") {
        return Err(wrong("a call has the header `te: trailers`"));
    }
    let front = wire.get(..5).ok_or_else(|| wrong("a call without a message"))?;
    let len = u32::from_be_bytes([front[1], front[2], front[3], front[4]]) as usize;
    if wire.len() != 5 + len {
        return Err(wrong("a message of another length than its own"));
    }
    let packing = headers.get("grpc-encoding").and_then(|value| value.to_str().ok()).unwrap_or("identity");
    match (front[0], packing) {
        (0, _) => Ok((wire.slice(5..), "identity")),
        (1, packing) if packing != "identity" => Ok((wire.slice(5..), packing)),
        _ => Err(wrong("a packed message without `grpc-encoding`")),
    }
}

async fn read_up_to(
    mut body: impl futures::Stream<Item = Result<Bytes, axum::Error>> + Unpin,
    bytes_max: usize,
) -> Result<Bytes, Refusal> {
    let mut bytes = BytesMut::new();
    let mut is_too_large = false;
    while let Some(part) = body.next().await {
        let part = part.map_err(|error| Refusal(400, format!("the body broke off: {error}")))?;
        is_too_large |= bytes.len() + part.len() > bytes_max;
        if !is_too_large {
            bytes.extend_from_slice(&part);
        }
    }
    let words = format!("received message larger than max ({bytes_max})");
    if is_too_large { Err(Refusal(413, words)) } else { Ok(bytes.freeze()) }
}

async fn answer_with_fault(
    node: &Node,
    line: &Line,
    call: &Call,
    fault: Option<Fault>,
    mut released: watch::Receiver<usize>,
) -> Response<Body> {
    let form = call.form;
    let take = || match node.state().take(call.seen, &call.request) {
        Ok(verdict) => success(form, &verdict),
        Err(words) => refusal(form, 400, None, &words),
    };
    match fault {
        None => take(),
        Some(Fault::Busy(_)) => refusal(form, 429, Some("0"), "busy"),
        Some(Fault::Status { status, retry_after }) => {
            let words = if status == 413 { "received message larger than max (0)" } else { "failed on request" };
            refusal(form, status, retry_after.as_deref(), &format!("{words}{}", call.repeated))
        }
        Some(Fault::ProxyPage(status)) => {
            let page = format!("<html>\r\n<head><title>{status}</title></head>\r\n<body>nginx</body>\r\n</html>\r\n");
            answer(status, "text/html", page)
        }
        Some(Fault::LoseAnswer) => {
            let response = take();
            line.cut();
            response
        }
        Some(Fault::TruncateAnswer) => truncated(take()).await,
        Some(Fault::Hang) => tokio::select! {
            _ = released.changed() => take(),
            () = line.is_cut() => Response::default(),
        },
        Some(Fault::Slow(time)) => {
            tokio::time::sleep(time).await;
            take()
        }
        Some(Fault::DropUnread) => Response::default(),
        Some(Fault::DropRead) => {
            line.cut();
            Response::default()
        }
        // A partial success names a number, and that is what `reject` is for.
        Some(Fault::ErrorInSuccess | Fault::Answer(_)) => refusal(form, 503, None, "failed on request"),
    }
}
