//! One call over gRPC, with the client that HTTP is sent with.
//!
//! A call of one message each way is a POST over HTTP/2 whose body has five bytes in front and whose status comes in
//! trailers (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>). That is little enough to need neither
//! generated code nor a second client with TLS, proxies and certificates of its own.

use std::convert::Infallible;
use std::fmt;
use std::time::SystemTime;

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::BodyExt;
use logship_connect::RotatedClient;
use logship_core::{Advice, Body, BuildContext, Certainty, Compression, Error, ErrorKind};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TE};
use reqwest::{Method, Request, Url};

use crate::conceal::Concealed;
use crate::delivery::{Connection, classify_status, host_of, no_answer};

/// Details come with and without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Makes calls. It never retries; dropping a call resets its stream.
pub(super) struct Calls {
    client: RotatedClient,
    operation: &'static str,
    answer_bytes_max: usize,
}

/// What came back.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) host: String,
    /// Of HTTP; where it is not 200 somebody else than the service answered.
    pub(super) http_status: u16,
    pub(super) headers: HeaderMap,
    /// The message, or what there was of a body that is none.
    pub(super) message: Bytes,
    pub(super) status: Option<Status>,
}

/// How the service says it went.
#[derive(Debug)]
pub(super) struct Status {
    pub(super) code: u32,
    pub(super) text: String,
    /// A `google.rpc.Status`.
    pub(super) details: Option<Vec<u8>>,
}

impl Status {
    /// The same without what it repeats of our credentials. Nothing is shown of the details.
    fn without(self, concealed: &Concealed) -> Self {
        let text = concealed.hide(self.text.into_bytes().into());
        Status { text: String::from_utf8_lossy(&text).into_owned(), ..self }
    }
}

impl Calls {
    /// Makes a client, as everything over HTTP does.
    pub(super) fn new(
        operation: &'static str,
        url: &Url,
        connection: &Connection,
        context: &BuildContext,
    ) -> Result<Self, Error> {
        let client = RotatedClient::grpc(operation, connection, context, url.scheme() == "http")?;
        Ok(Calls { client, operation, answer_bytes_max: connection.answer_bytes_max })
    }

    /// Sends a message and reads the reply. An error means that there was no whole reply.
    pub(super) async fn call(&self, url: Url, mut headers: HeaderMap, body: Option<&Body>) -> Result<Reply, Error> {
        let host = host_of(&url);
        let mut concealed = Concealed::default();
        headers.values().filter(|value| value.is_sensitive()).for_each(|value| concealed.add(value.as_bytes()));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(TE, HeaderValue::from_static("trailers"));
        let packing = body.and_then(|body| body.compression.content_encoding());
        if let Some(packing) = packing {
            headers.insert(HeaderName::from_static("grpc-encoding"), HeaderValue::from_static(packing));
        }
        let mut request = Request::new(Method::POST, url);
        *request.headers_mut() = headers;
        *request.body_mut() = Some(framed(body));
        let fail = |error: reqwest::Error| no_answer(self.operation, &self.client, &host, error);
        let response = self.client.client().execute(request).await.map_err(fail)?;
        let (http_status, mut headers) = (response.status().as_u16(), response.headers().clone());
        // A reply without a message has its status among the headers.
        let mut status = status_of(&headers);
        let mut body = reqwest::Body::from(response);
        let mut message = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(fail)?;
            match frame.into_data() {
                Ok(data) if message.len() + data.len() > self.answer_bytes_max => {
                    let words = "the answer is longer than connection.answer_bytes_max";
                    return Err(self.failed(&host, ErrorKind::Protocol, words));
                }
                Ok(data) => message.extend_from_slice(&data),
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    status = status_of(&trailers).or(status);
                    headers.extend(trailers);
                }
            }
        }
        let message = concealed.hide(unframed(message.freeze()));
        let status = status.map(|status| status.without(&concealed));
        Ok(Reply { host, http_status, headers, message, status })
    }

    /// What it means that somebody else than a service of gRPC answered. Read as gRPC asks
    /// (<https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md>), but for what HTTP says better.
    pub(super) fn not_grpc(&self, reply: &Reply) -> Error {
        let meaning = classify_status(reply.http_status, &reply.headers, SystemTime::now());
        let advice = match meaning.advice {
            Advice::After(_) if !matches!(reply.http_status, 429 | 502 | 503 | 504) => Advice::Never,
            advice => advice,
        };
        let error = Error::new(meaning.kind, self.operation, meaning.message).advise(advice);
        let error = error.certainty_is(meaning.certainty).with("host", &reply.host).with("status", reply.http_status);
        if reply.message.is_empty() { error } else { error.with("answer", Error::excerpt(&reply.message)) }
    }

    /// A call after which the records may be there.
    pub(super) fn failed(&self, host: &str, kind: ErrorKind, message: &str) -> Error {
        Error::new(kind, self.operation, message).certainty_is(Certainty::Unknown).with("host", host)
    }
}

impl fmt::Debug for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Calls").field("operation", &self.operation).finish_non_exhaustive()
    }
}

/// A message with its flag and length in front; without a body the empty one.
fn framed(body: Option<&Body>) -> reqwest::Body {
    let bytes = body.map(|body| body.bytes()).unwrap_or_default();
    let is_packed = body.is_some_and(|body| body.compression != Compression::None);
    let mut front = BytesMut::with_capacity(5);
    front.put_u8(u8::from(is_packed));
    // No destination takes a message of 4 GiB.
    front.put_u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    let parts = [front.freeze(), bytes].into_iter().filter(|part| !part.is_empty());
    reqwest::Body::wrap_stream(futures::stream::iter(parts.map(Ok::<_, Infallible>)))
}

/// The message behind its flag and length; as it is where there are none.
fn unframed(body: Bytes) -> Bytes {
    match body.get(1..5).and_then(|len| <[u8; 4]>::try_from(len).ok()) {
        Some(len) if body.len() == 5 + u32::from_be_bytes(len) as usize && body[0] == 0 => body.slice(5..),
        _ => body,
    }
}

fn status_of(headers: &HeaderMap) -> Option<Status> {
    let code = headers.get("grpc-status")?.to_str().ok()?.parse().ok()?;
    let text = headers.get("grpc-message").map(|value| decoded(value.as_bytes())).unwrap_or_default();
    let details = headers.get("grpc-status-details-bin").and_then(|value| BASE64.decode(value.as_bytes()).ok());
    Some(Status { code, text, details })
}

/// A message without its percent signs.
fn decoded(mut rest: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(rest.len());
    while let Some((first, behind)) = rest.split_first() {
        let digits = behind.get(..2).filter(|digits| *first == b'%' && digits.iter().all(u8::is_ascii_hexdigit));
        let code = digits.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &behind[2..] } else { behind };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
