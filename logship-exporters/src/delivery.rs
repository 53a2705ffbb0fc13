//! What all exporters over HTTP share: one client, one way to send, one reading of statuses.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
pub use logship_connect::{Connection, TlsVersion};
use logship_connect::{RotatedClient, percent_decoded, tls};
#[allow(unused_imports, reason = "not every exporter has secrets of its own")]
pub(crate) use logship_connect::{basic_auth as basic, parse_url as parse_url_in, secret_header as secret_value};
use logship_core::{Advice, Body, BuildContext, Certainty, Error, ErrorKind};
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::{Method, Request, Url};

use crate::conceal::Concealed;
use crate::retry_after::retry_after;

/// Sends requests over kept-alive connections. It never retries, follows no redirect and has no time limit beyond
/// connecting; dropping a send closes its connection.
#[derive(Clone)]
pub(crate) struct Delivery {
    /// What is being done, for errors.
    operation: &'static str,
    answer_bytes_max: usize,
    /// Whether the address may hold a token, in its path or its query.
    is_address_secret: bool,
    shared: Arc<Shared>,
}

struct Shared {
    client: RotatedClient,
    /// What no answer may repeat, whatever is asked.
    concealed: Concealed,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The host and port that was asked.
    pub(crate) host: String,
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    /// The body, or its beginning.
    pub(crate) body: Bytes,
    /// Whether there was more of the body than is read.
    #[allow(dead_code, reason = "of some destinations the status says everything")]
    pub(crate) is_cut: bool,
}

impl Delivery {
    /// Makes a client, with secrets of the connection from wherever the program keeps them. Fails if a file cannot be
    /// read or the system has no roots.
    pub(crate) fn new(operation: &'static str, connection: &Connection, context: &BuildContext) -> Result<Self, Error> {
        let client = RotatedClient::new(operation, connection, context)?;
        let mut concealed = Concealed::default();
        connection.headers(context)?.values().for_each(|value| concealed.add(value.as_bytes()));
        let shared = Shared { client, concealed };
        let answer_bytes_max = connection.answer_bytes_max;
        Ok(Delivery { operation, answer_bytes_max, is_address_secret: true, shared: Arc::new(shared) })
    }

    /// For addresses that hold nothing but names, such as that of an index: what is said about these can be read.
    #[allow(dead_code, reason = "most addresses can be kept as a secret")]
    pub(crate) fn with_plain_address(self) -> Self {
        Delivery { is_address_secret: false, ..self }
    }

    /// Sends a request and reads its answer, whatever the status. An error means that there was no whole answer.
    pub(crate) async fn send(&self, request: Request) -> Result<Answer, Error> {
        let host = host_of(request.url());
        let concealed = self.concealed(&request);
        let fail = |error: reqwest::Error| no_answer(self.operation, &self.shared.client, &host, error);
        let mut response = self.shared.client.client().execute(request).await.map_err(fail)?;
        let mut body = BytesMut::new();
        let mut is_cut = false;
        while let Some(part) = response.chunk().await.map_err(fail)? {
            let room = self.answer_bytes_max - body.len();
            body.extend_from_slice(&part[..part.len().min(room)]);
            if part.len() > room {
                is_cut = true;
                break;
            }
        }
        let status = response.status().as_u16();
        let headers = std::mem::take(response.headers_mut());
        Ok(Answer { host, status, headers, body: concealed.hide(body.freeze()), is_cut })
    }

    /// What an answer may not repeat of a request: its secret headers, and what may be secret behind the host of its
    /// address.
    fn concealed(&self, request: &Request) -> Concealed {
        let mut concealed = self.shared.concealed.clone();
        for value in request.headers().values().filter(|value| value.is_sensitive()) {
            concealed.add(value.as_bytes());
        }
        if self.is_address_secret {
            let url = request.url();
            let written = url.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
            let parts = url.path_segments().into_iter().flatten().chain(written.map(|(_, value)| value));
            for part in parts {
                concealed.add(part.as_bytes());
                concealed.add(&percent_decoded(part));
            }
        }
        concealed
    }

    /// The error that an answer of this status is.
    pub(crate) fn refused(&self, answer: &Answer) -> Error {
        let meaning = classify_status(answer.status, &answer.headers, SystemTime::now());
        let mut error = Error::new(meaning.kind, self.operation, meaning.message)
            .advise(meaning.advice)
            .certainty_is(meaning.certainty)
            .with("host", &answer.host)
            .with("status", answer.status);
        if let Some(target) = redirect_target(answer) {
            error = error.with("redirect to", target);
        }
        if !answer.body.is_empty() {
            error = error.with("answer", Error::excerpt(&answer.body));
        }
        error
    }

    /// An answer that says success and cannot be understood: the records may be there.
    #[allow(dead_code, reason = "of some destinations the status says everything")]
    pub(crate) fn unintelligible(&self, answer: &Answer, message: &str) -> Error {
        Error::new(ErrorKind::Protocol, self.operation, message)
            .certainty_is(Certainty::Unknown)
            .with("host", &answer.host)
            .with("status", answer.status)
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery").field("operation", &self.operation).finish_non_exhaustive()
    }
}

/// What it means that a request failed before its answer was whole.
pub(crate) fn no_answer(operation: &'static str, client: &RotatedClient, host: &str, error: reqwest::Error) -> Error {
    let tls = tls::fault(&error).map(tls::refuses_us);
    if tls.is_some() {
        client.look_soon();
    }
    let (kind, certainty, message) = if error.is_builder() {
        (ErrorKind::Config, Certainty::NotDelivered, "the request cannot be made")
    } else if tls.is_some() && error.is_connect() {
        (ErrorKind::Unavailable, Certainty::NotDelivered, "cannot agree on TLS: check the fields of `connection`")
    } else if tls == Some(true) {
        (ErrorKind::Unavailable, Certainty::NotDelivered, "the server ends TLS: check our client certificate")
    } else if error.is_connect() {
        (ErrorKind::Unavailable, Certainty::NotDelivered, "cannot connect")
    } else {
        (ErrorKind::Unavailable, Certainty::Unknown, "the connection broke before the answer was complete")
    };
    // The address may hold a token.
    let error = error.without_url();
    Error::new(kind, operation, message).certainty_is(certainty).with("host", host).with_source(error)
}

/// What a status means where a destination has no rules of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Meaning {
    pub(crate) kind: ErrorKind,
    pub(crate) advice: Advice,
    pub(crate) certainty: Certainty,
    pub(crate) message: &'static str,
}

/// Reads a status that is not a success. `now` is what a `Retry-After` with a date counts from.
pub(crate) fn classify_status(status: u16, headers: &HeaderMap, now: SystemTime) -> Meaning {
    use Certainty::{NotDelivered, Unknown};
    let later = Advice::After(headers.get(RETRY_AFTER).and_then(|value| retry_after(value.to_str().ok()?, now)));
    let (kind, advice, certainty, message) = match status {
        300..400 => {
            (ErrorKind::Config, Advice::Never, NotDelivered, "redirected, which is never followed: set the final url")
        }
        400 | 422 => (ErrorKind::Rejected, Advice::Split, NotDelivered, "refused the request as a whole"),
        401 => (ErrorKind::Auth, Advice::Refresh, NotDelivered, "not let in: check the credentials"),
        403 => (ErrorKind::Auth, Advice::Never, NotDelivered, "not allowed: check the credentials' rights"),
        404 => (ErrorKind::NotFound, Advice::Never, NotDelivered, "nothing is there: check the url"),
        407 => (ErrorKind::Auth, Advice::Never, NotDelivered, "the proxy does not let us in"),
        408 | 425 => (ErrorKind::Unavailable, later, NotDelivered, "asked to try again"),
        413 => (ErrorKind::TooLarge, Advice::Split, NotDelivered, "the request is too large"),
        429 => (ErrorKind::Throttled, later, NotDelivered, "asked to slow down"),
        501 | 505 => (ErrorKind::Rejected, Advice::Never, NotDelivered, "does not support such requests"),
        // A proxy says so too when the server behind it took the request and went away.
        500..600 => (ErrorKind::Unavailable, later, Unknown, "failed"),
        200..300 => (ErrorKind::Protocol, Advice::Never, Unknown, "answered a success that was not expected"),
        _ => (ErrorKind::Rejected, Advice::Never, NotDelivered, "refused the request"),
    };
    Meaning { kind, advice, certainty, message }
}

/// Where an answer redirects to, without the path and the query, which may hold a token.
fn redirect_target(answer: &Answer) -> Option<String> {
    let location = answer.headers.get(LOCATION).filter(|_| (300..400).contains(&answer.status))?;
    let url = Url::parse(location.to_str().ok()?).ok()?;
    Some(format!("{}://{}", url.scheme(), host_of(&url)))
}

/// Host and port, which is all that may be shown of an address.
pub(crate) fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port_or_known_default().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// The address without user and password, and these as a header. Errors do not show the address.
#[allow(dead_code, reason = "not every exporter has an address in a field of this name alone")]
pub(crate) fn parse_url(text: &str) -> Result<(Url, Option<HeaderValue>), Error> {
    parse_url_in("url", text)
}

/// The address in this field, with `path` added where it has none. A user in it is refused: keys have fields of their
/// own.
#[allow(dead_code, reason = "for destinations whose path is known")]
pub(crate) fn endpoint(field: &str, text: &str, path: &str) -> Result<Url, Error> {
    let (mut url, auth) = parse_url_in(field, text)?;
    if auth.is_some() {
        return Err(Error::config(field, "holds a user: the credentials have a field of their own"));
    }
    if url.path() == "/" {
        url.set_path(path);
    }
    Ok(url)
}

/// A request that carries a body.
#[allow(dead_code, reason = "for destinations that only take this")]
pub(crate) fn post(url: &Url, content_type: &'static str, body: &Body) -> Request {
    let mut request = Request::new(Method::POST, url.clone());
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    if let Some(packing) = body.compression.content_encoding() {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static(packing));
    }
    *request.body_mut() = Some(body.bytes().into());
    request
}

/// A body that is not packed.
#[allow(dead_code, reason = "for destinations that are asked something")]
pub(crate) fn plain(bytes: impl Into<Bytes>) -> Body {
    Body::from(bytes.into())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD as BASE64;
    use proptest::prelude::*;
    use rustls::crypto::CryptoProvider;

    #[test]
    fn every_status_has_one_meaning() {
        use Certainty::{NotDelivered, Unknown};
        let later = Advice::After(None);
        for (status, kind, advice, certainty) in [
            (204, ErrorKind::Protocol, Advice::Never, Unknown),
            (301, ErrorKind::Config, Advice::Never, NotDelivered),
            (307, ErrorKind::Config, Advice::Never, NotDelivered),
            (400, ErrorKind::Rejected, Advice::Split, NotDelivered),
            (401, ErrorKind::Auth, Advice::Refresh, NotDelivered),
            (403, ErrorKind::Auth, Advice::Never, NotDelivered),
            (404, ErrorKind::NotFound, Advice::Never, NotDelivered),
            (405, ErrorKind::Rejected, Advice::Never, NotDelivered),
            (407, ErrorKind::Auth, Advice::Never, NotDelivered),
            (408, ErrorKind::Unavailable, later, NotDelivered),
            (413, ErrorKind::TooLarge, Advice::Split, NotDelivered),
            (422, ErrorKind::Rejected, Advice::Split, NotDelivered),
            (425, ErrorKind::Unavailable, later, NotDelivered),
            (429, ErrorKind::Throttled, later, NotDelivered),
            (500, ErrorKind::Unavailable, later, Unknown),
            (501, ErrorKind::Rejected, Advice::Never, NotDelivered),
            (502, ErrorKind::Unavailable, later, Unknown),
            (503, ErrorKind::Unavailable, later, Unknown),
            (504, ErrorKind::Unavailable, later, Unknown),
            (505, ErrorKind::Rejected, Advice::Never, NotDelivered),
        ] {
            let meaning = classify_status(status, &HeaderMap::new(), SystemTime::now());
            assert_eq!((meaning.kind, meaning.advice, meaning.certainty), (kind, advice, certainty), "{status}");
        }
    }

    #[test]
    fn an_answer_shows_the_names_of_an_address_and_no_secret() {
        let delivery = Delivery::new("test", &Connection::default(), &BuildContext::default()).unwrap();
        let url = Url::parse("http://host/application-logs/_bulk?pipeline=application-pipeline&t=a%2Dlong%2Dtoken");
        let mut request = Request::new(Method::POST, url.unwrap());
        request.headers_mut().insert("api-key", secret_value("key", "header-token").unwrap());
        let answer = "[application-logs] [application-pipeline] a-long-token a%2Dlong%2Dtoken header-token";
        let said = |delivery: &Delivery| {
            let hidden = delivery.concealed(&request).hide(answer.into());
            String::from_utf8(hidden.to_vec()).unwrap()
        };
        let stars = |text: &str| "*".repeat(text.len());
        let named = format!("{} {}", &answer[..answer.len() - 13], stars("header-token"));
        assert!(!["application", "long", "header"].iter().any(|word| said(&delivery).contains(word)));
        assert_eq!(said(&delivery.with_plain_address()), named);
    }

    #[test]
    fn a_client_needs_no_process_wide_tls_provider() {
        assert!(CryptoProvider::get_default().is_none());
        for insecure_skip_verify in [false, true] {
            let mut connection = Connection::default();
            connection.insecure_skip_verify = insecure_skip_verify;
            Delivery::new("test", &connection, &BuildContext::default()).unwrap();
        }
        assert!(CryptoProvider::get_default().is_none());
    }

    #[test]
    fn a_wrong_ca_file_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for path in [file.path(), Path::new("/absent/ca.pem")] {
            let mut connection = Connection::default();
            connection.ca_file = Some(path.to_owned());
            let error = Delivery::new("test", &connection, &BuildContext::default()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.to_string().contains("field: connection.ca_file"), "{error}");
            assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        }
    }

    proptest! {
        #[test]
        fn an_address_keeps_its_user_out_of_sight(user in "[a-z%@ /]{1,8}", password in "[a-z%@ /:+&=]{1,8}") {
            let encode = |text: &str| text.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
            let (url, auth) = parse_url(&format!("http://{}:{}@host/in", encode(&user), encode(&password))).unwrap();
            prop_assert_eq!(url.as_str(), "http://host/in");
            let expected = format!("Basic {}", BASE64.encode(format!("{user}:{password}")));
            prop_assert_eq!(auth.unwrap().to_str().unwrap().to_owned(), expected);
        }
    }
}
