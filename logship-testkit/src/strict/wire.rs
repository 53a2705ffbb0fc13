//! What stand-ins share of reading requests and cutting answers.

use std::io::Read;

use axum::body::Body;
use axum::http::{HeaderValue, Response, header};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;

/// A body, or `None` if it is larger. It is read to its end in either case: whoever sends it is to see the answer.
pub(super) async fn read_up_to(body: Body, bytes_max: usize) -> Option<Bytes> {
    let mut parts = body.into_data_stream();
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

pub(super) fn unpack(wire: &[u8], bytes_max: usize) -> std::io::Result<Option<Bytes>> {
    let mut body = Vec::new();
    flate2::read::MultiGzDecoder::new(wire).take(bytes_max as u64 + 1).read_to_end(&mut body)?;
    Ok((body.len() <= bytes_max).then(|| body.into()))
}

/// The answer with its full length in the header and half of its body.
pub(super) async fn truncated(response: Response<Body>) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    let whole = read_up_to(body, usize::MAX).await.unwrap_or_default();
    parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(whole.len()));
    let half = whole.slice(..whole.len() / 2);
    let cut_off = Err(std::io::Error::from(std::io::ErrorKind::ConnectionAborted));
    Response::from_parts(parts, Body::from_stream(futures::stream::iter([Ok(half), cut_off])))
}

pub(super) fn parse_query(query: &str) -> Vec<(String, String)> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (decoded(name), decoded(value)))
        .collect()
}

/// A part of a query without its percent signs.
pub(super) fn decoded(text: &str) -> String {
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
