//! A stand-in for a server that takes logs by the OpenTelemetry protocol.
//!
//! Written from the protocol's specification (<https://opentelemetry.io/docs/specs/otlp/>) and gRPC's
//! (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>). One port takes protobuf and JSON over HTTP, at
//! `/v1/logs`, and gRPC, plain or packed with gzip or zstd. It decodes with the messages that OpenTelemetry generates.
//! In JSON it does not take numbers that are not finite, which the protocol allows.

mod answer;
mod request;

use logship_core::Secret;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use serde_json::{Value, json};

use self::answer::{Form, refusal, success};
use super::faults::{Fault, SeenRequest};
use super::stand::{Call, Destination, Reply, Strict, usual_ways};

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

/// A server of OTLP.
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
pub type StrictOtlp = Strict<Otlp>;

/// What such a server takes and keeps.
#[derive(Debug, Default)]
pub struct Otlp {
    records: Vec<Value>,
    /// A header that every request must have, with its value.
    credentials: Option<(String, Secret)>,
    bytes_max: Option<usize>,
    /// What makes a record one that is refused, and how.
    refused: Option<(String, Refuses)>,
    warning: Option<String>,
    repeats_headers: bool,
}

impl StrictOtlp {
    /// From now on lets in only who sends this header with this value.
    pub fn require_header(&self, name: impl Into<String>, value: impl Into<Secret>) {
        self.state().destination.credentials = Some((name.into(), value.into()));
    }

    /// How large a request may be in bytes, both packed and unpacked. Unless set 64 MiB over HTTP and 4 MiB over gRPC.
    pub fn max_request_bytes(&self, bytes: usize) {
        self.state().destination.bytes_max = Some(bytes);
    }

    /// Refuses records that have this text in their body or in an attribute of theirs.
    pub fn refuse(&self, text: impl Into<String>, what: Refuses) {
        self.state().destination.refused = Some((text.into(), what));
    }

    /// Says this with every success, in which nothing was refused.
    pub fn warn(&self, warning: impl Into<String>) {
        self.state().destination.warning = Some(warning.into());
    }

    /// Whether a refusal repeats the headers of the request, as some servers do.
    pub fn repeat_headers(&self, is_on: bool) {
        self.state().destination.repeats_headers = is_on;
    }

    /// The records it took, in order, each as `{"resource": …, "scope": …, "record": …}` in the protocol's JSON.
    pub fn records(&self) -> Vec<Value> {
        self.state().destination.records.clone()
    }

    /// How many records it took.
    pub fn count(&self) -> usize {
        self.state().destination.records.len()
    }
}

/// What was said about a request that can be read.
#[derive(Debug, Default, PartialEq)]
struct Verdict {
    rejected: i64,
    message: String,
}

impl Otlp {
    /// Takes the records of a request but for those that are refused. An error is the reason to take none.
    fn take(&mut self, seen: &mut SeenRequest, request: &ExportLogsServiceRequest) -> Result<Verdict, String> {
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
        (seen.items, seen.stored) = (taken.len() + rejected as usize, taken.len());
        self.records.extend(taken);
        let message = match rejected {
            0 => self.warning.clone().unwrap_or_default(),
            _ => "some records are not wanted".to_owned(),
        };
        Ok(Verdict { rejected, message })
    }
}

impl Destination for Otlp {
    fn takes_records_at(&self, path: &str) -> bool {
        [request::HTTP_PATH, request::GRPC_PATH].contains(&path)
    }

    fn is_empty(&self, begin: &[u8]) -> bool {
        [&b""[..], b"{}", &[0; 5]].contains(&begin)
    }

    fn answer(&mut self, call: &Call, seen: &mut SeenRequest) -> Reply {
        let form = request::form_of(call);
        let read = self.read(call, form, seen);
        match read {
            Err(request::Refusal(status, words)) => refusal(form.unwrap_or(Form::Json), status, None, &words),
            Ok((form, request)) => match self.take(seen, &request) {
                Ok(verdict) => success(form, &verdict),
                Err(words) => refusal(form, 400, None, &words),
            },
        }
    }

    fn failure(&self, status: u16) -> Reply {
        refusal(Form::Json, status, None, "failed on request")
    }

    fn fail(&self, call: &Call, status: u16, retry_after: Option<&str>) -> Reply {
        let words = if status == 413 { "received message larger than max (0)" } else { "failed on request" };
        let repeated = if self.repeats_headers { format!(": {:?}", call.headers) } else { String::new() };
        let form = request::form_of(call).unwrap_or(Form::Json);
        refusal(form, status, retry_after, &format!("{words}{repeated}"))
    }

    /// By the protocol a 500 is for good.
    fn ways_to_fail(&self) -> Vec<Fault> {
        let mut ways = usual_ways();
        ways.retain(|way| *way != Fault::status(500));
        ways.push(Fault::status_after(503, "0"));
        ways
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
