//! Answers in the protocol's three forms.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsPartialSuccess, ExportLogsServiceResponse};
use prost::Message;
use serde_json::json;

use super::super::stand::Reply;
use super::Verdict;

/// How a request came, and its answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Protobuf,
    Json,
    Grpc,
}

/// `google.rpc.Status`: <https://github.com/googleapis/googleapis/blob/master/google/rpc/status.proto>
#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `google.rpc.RetryInfo`, whose time is a message of seconds and nanoseconds.
#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<Time>,
}

#[derive(Clone, PartialEq, Message)]
struct Time {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

/// The request was read; the verdict says what became of its records.
pub(super) fn success(form: Form, verdict: &Verdict) -> Reply {
    let partial =
        ExportLogsPartialSuccess { rejected_log_records: verdict.rejected, error_message: verdict.message.clone() };
    let response = ExportLogsServiceResponse { partial_success: (*verdict != Verdict::default()).then_some(partial) };
    match form {
        Form::Protobuf => Reply::of(200, "application/x-protobuf", response.encode_to_vec()),
        Form::Json => Reply::of(200, "application/json", serde_json::to_vec(&response).unwrap_or_default()),
        Form::Grpc => {
            let message = response.encode_to_vec();
            let mut framed = vec![0];
            framed.extend_from_slice(&(message.len() as u32).to_be_bytes());
            framed.extend(message);
            let mut reply = Reply::of(200, "application/grpc", framed);
            reply.trailers.push(("grpc-status", "0".to_owned()));
            reply
        }
    }
}

/// A request that is refused as a whole, with the time after which it may be tried again.
pub(super) fn refusal(form: Form, status: u16, retry_after: Option<&str>, message: &str) -> Reply {
    let seconds = retry_after.and_then(|text| text.parse().ok());
    let code = code_of(status, seconds.is_some());
    let mut details = Vec::new();
    if let Some(seconds) = seconds.filter(|_| form == Form::Grpc) {
        let info = RetryInfo { retry_delay: Some(Time { seconds, nanos: 0 }) };
        let type_url = "type.googleapis.com/google.rpc.RetryInfo".to_owned();
        details.push(Any { type_url, value: info.encode_to_vec() });
    }
    let body = Status { code, message: message.to_owned(), details }.encode_to_vec();
    let reply = match form {
        Form::Protobuf => Reply::of(status, "application/x-protobuf", body),
        Form::Json => Reply::new(status, json!({"code": code, "message": message})),
        // Without a message the status stands among the headers.
        Form::Grpc => {
            return Reply::of(200, "application/grpc", "")
                .with("grpc-status", &code.to_string())
                .with("grpc-message", &escaped(message))
                .with("grpc-status-details-bin", &BASE64.encode(body));
        }
    };
    retry_after.into_iter().fold(reply, |reply, value| reply.with("retry-after", value))
}

/// The code of gRPC (<https://grpc.github.io/grpc/core/md_doc_statuscodes.html>) for a status of HTTP. Without a time "too many" means "never again" there
/// (<https://opentelemetry.io/docs/specs/otlp/#otlpgrpc-throttling>), so it is "unavailable".
fn code_of(status: u16, has_time: bool) -> i32 {
    match status {
        400 => 3,
        401 => 16,
        403 => 7,
        404 | 405 | 415 => 12,
        413 => 8,
        429 if has_time => 8,
        429 | 502 | 503 => 14,
        504 => 4,
        _ => 13,
    }
}

/// Text as `grpc-message` holds it.
fn escaped(text: &str) -> String {
    let plain = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b'%';
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}
