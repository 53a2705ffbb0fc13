//! What all stand-ins do with bodies and addresses.

use std::io::{self, Read};

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, header};
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use http_body_util::{BodyExt, Full};

use super::stand::Reply;

/// A body, or `None` if it is larger. It is read to its end in either case: whoever sends it is to see the answer.
pub(super) async fn read_up_to(
    mut parts: impl Stream<Item = Result<Bytes, axum::Error>> + Unpin,
    bytes_max: usize,
) -> Option<Bytes> {
    let mut bytes = BytesMut::new();
    let mut is_too_large = false;
    while let Some(Ok(part)) = parts.next().await {
        is_too_large |= bytes.len() + part.len() > bytes_max;
        if !is_too_large {
            bytes.extend_from_slice(&part);
        }
    }
    (!is_too_large).then(|| bytes.freeze())
}

/// A body without its gzip; `None` if it is larger.
pub(super) fn unpack(wire: &[u8], bytes_max: usize) -> io::Result<Option<Bytes>> {
    unpacked(flate2::read::MultiGzDecoder::new(wire), bytes_max)
}

/// A body without its `deflate`, which by RFC 9110 is zlib; `None` if it is larger.
fn inflate(wire: &[u8], bytes_max: usize) -> io::Result<Option<Bytes>> {
    unpacked(flate2::read::ZlibDecoder::new(wire), bytes_max)
}

/// Why a body cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// It is larger than the destination takes.
    TooLarge,
    /// It is packed in a way the destination does not know.
    Encoding,
    /// It is not what its headers say.
    Broken,
}

/// A body without what it is packed in, if that is one of `encodings` and it is not too large.
pub(super) fn unpack_as(
    encoding: Option<&str>,
    encodings: &[&str],
    wire: &Bytes,
    bytes_max: usize,
) -> Result<Bytes, Unreadable> {
    let encoding = encoding.unwrap_or("identity");
    if !encodings.contains(&encoding) {
        return Err(Unreadable::Encoding);
    }
    let body = match encoding {
        "gzip" => unpack(wire, bytes_max),
        "deflate" => inflate(wire, bytes_max),
        _ => Ok((wire.len() <= bytes_max).then(|| wire.clone())),
    };
    body.map_err(|_| Unreadable::Broken)?.ok_or(Unreadable::TooLarge)
}

fn unpacked(packed: impl Read, bytes_max: usize) -> io::Result<Option<Bytes>> {
    let mut body = Vec::new();
    packed.take((bytes_max as u64).saturating_add(1)).read_to_end(&mut body)?;
    Ok((body.len() <= bytes_max).then(|| body.into()))
}

/// The answer with its full length in the header and half of its body. One that is empty says that it has a byte.
pub(super) async fn truncated(response: Response<Body>) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    let whole = read_up_to(body.into_data_stream(), usize::MAX).await.unwrap_or_default();
    parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(whole.len().max(1)));
    let half = whole.slice(..whole.len() / 2);
    let cut_off = Err(io::Error::from(io::ErrorKind::ConnectionAborted));
    Response::from_parts(parts, Body::from_stream(futures::stream::iter([Ok(half), cut_off])))
}

/// An answer of this status.
pub(super) fn answer(status: u16, content_type: &'static str, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    if let Ok(status) = status.try_into() {
        *response.status_mut() = status;
    }
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// The answer that a reply is.
pub(super) fn respond(reply: &Reply) -> Response<Body> {
    let body = match reply.trailers.as_slice() {
        [] => Body::from(reply.body.clone()),
        trailers => {
            let trailers = header_map(trailers);
            Body::new(Full::new(reply.body.clone()).with_trailers(async move { Some(Ok(trailers)) }))
        }
    };
    let mut response = answer(reply.status, reply.content_type, body);
    if reply.content_type.is_empty() {
        response.headers_mut().remove(header::CONTENT_TYPE);
    }
    response.headers_mut().extend(header_map(&reply.headers));
    response
}

/// Without those that cannot be sent.
fn header_map(headers: &[(&'static str, String)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        if let Ok(value) = HeaderValue::try_from(value) {
            map.append(HeaderName::from_static(name), value);
        }
    }
    map
}

/// The page of a proxy that stands before the destination.
pub(super) fn proxy_page(status: u16) -> Response<Body> {
    let page = format!("<html>\r\n<head><title>{status}</title></head>\r\n<body>nginx</body>\r\n</html>\r\n");
    answer(status, "text/html", page)
}

/// The names and values of a query.
pub(super) fn parse_query(query: &str) -> Vec<(String, String)> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (decoded(name), decoded(value)))
        .collect()
}

/// A part of a query without its percent signs.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let code = behind.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match (first, code.and_then(|digits| u8::from_str_radix(digits, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &behind[2..];
            }
            _ => {
                bytes.push(if *first == b'+' { b' ' } else { *first });
                rest = behind;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
