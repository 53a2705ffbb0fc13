//! How requests are read.

use std::io::Read;

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use prost::Message;

use super::super::faults::SeenRequest;
use super::super::stand::Call;
use super::answer::Form;
use super::{GRPC_BYTES_MAX, HTTP_BYTES_MAX, Otlp};

pub(super) const HTTP_PATH: &str = "/v1/logs";
pub(super) const GRPC_PATH: &str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";

/// Why a request is refused: a status of HTTP and words.
pub(super) struct Refusal(pub(super) u16, pub(super) String);

/// The form a request says it has.
pub(super) fn form_of(call: &Call) -> Option<Form> {
    match call.media_type() {
        "application/x-protobuf" => Some(Form::Protobuf),
        "application/json" => Some(Form::Json),
        "application/grpc" | "application/grpc+proto" => Some(Form::Grpc),
        _ => None,
    }
}

impl Otlp {
    /// Unpacks and decodes a body, if who sends it is let in and it has a form that the protocol knows.
    pub(super) fn read(
        &self,
        call: &Call,
        form: Option<Form>,
        seen: &mut SeenRequest,
    ) -> Result<(Form, ExportLogsServiceRequest), Refusal> {
        let unset = if form == Some(Form::Grpc) { GRPC_BYTES_MAX } else { HTTP_BYTES_MAX };
        let bytes_max = self.bytes_max.unwrap_or(unset);
        let Some(form) = form else { return Err(Refusal(415, "unsupported content type".to_owned())) };
        if call.path != if form == Form::Grpc { GRPC_PATH } else { HTTP_PATH } {
            return Err(Refusal(404, format!("nothing is at {}", call.path)));
        }
        if call.method != "POST" {
            return Err(Refusal(405, "use POST".to_owned()));
        }
        if let Some((name, value)) = &self.credentials
            && call.header(name) != Some(value.expose())
        {
            return Err(Refusal(401, "who are you".to_owned()));
        }
        let (wire, packing) = match form {
            Form::Grpc => unframed(call)?,
            _ => (call.wire.clone(), call.header("content-encoding").unwrap_or("identity")),
        };
        seen.wire_bytes = wire.len();
        let message = unpacked(&wire, packing, bytes_max)?;
        seen.body_bytes = message.len();
        let request = match form {
            Form::Json => serde_json::from_slice(&message).map_err(|error| error.to_string()),
            _ => ExportLogsServiceRequest::decode(&message[..]).map_err(|error| error.to_string()),
        };
        request.map(|request| (form, request)).map_err(|error| Refusal(400, format!("cannot decode: {error}")))
    }
}

fn unpacked(wire: &Bytes, packing: &str, bytes_max: usize) -> Result<Vec<u8>, Refusal> {
    let too_large = || Refusal(413, format!("received message larger than max ({bytes_max})"));
    let broken = |error: std::io::Error| Refusal(400, format!("cannot unpack: {error}"));
    if wire.len() > bytes_max {
        return Err(too_large());
    }
    let mut message = Vec::new();
    let limit = bytes_max as u64 + 1;
    match packing {
        "identity" => message.extend_from_slice(wire),
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
    if message.len() > bytes_max { Err(too_large()) } else { Ok(message) }
}

/// The one message of a call, and how it is packed.
fn unframed(call: &Call) -> Result<(Bytes, &str), Refusal> {
    let wire = &call.wire;
    let wrong = |words: &str| Refusal(400, words.to_owned());
    if call.header("te") != Some("trailers") {
        return Err(wrong("a call has the header `te: trailers`"));
    }
    let front = wire.get(..5).ok_or_else(|| wrong("a call without a message"))?;
    let len = u32::from_be_bytes([front[1], front[2], front[3], front[4]]) as usize;
    if wire.len() != 5 + len {
        return Err(wrong("a message of another length than its own"));
    }
    let packing = call.header("grpc-encoding").unwrap_or("identity");
    match (front[0], packing) {
        (0, _) => Ok((wire.slice(5..), "identity")),
        (1, packing) if packing != "identity" => Ok((wire.slice(5..), packing)),
        _ => Err(wrong("a packed message without `grpc-encoding`")),
    }
}
