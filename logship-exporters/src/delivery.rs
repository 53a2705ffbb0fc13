//! What all exporters over HTTP share: one client, one way to send, one reading of statuses.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::conceal::Concealed;
use crate::retry_after::retry_after;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{Bytes, BytesMut};
use logship_core::{Advice, Certainty, Error, ErrorKind};
use reqwest::header::{HeaderMap, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::{Request, Url};
use rustls::ClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use serde::Deserialize;

/// How long connecting may take, name lookup and TLS included. How long a request may take is the engine's business.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How connections are made. Server certificates are checked against the system's roots.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Connection {
    /// A PEM file of further certificates to trust. Default: none.
    pub ca_file: Option<PathBuf>,
    /// Takes any certificate: whoever is in between can read and change everything. Default: false.
    pub insecure_skip_verify: bool,
    /// Goes through the proxy that the system's settings name (`HTTPS_PROXY` and the like). Default: true.
    pub system_proxy: bool,
    /// How many bytes of an answer are read. Default: 1 MiB.
    pub answer_bytes_max: usize,
}

impl Default for Connection {
    fn default() -> Self {
        Connection { ca_file: None, insecure_skip_verify: false, system_proxy: true, answer_bytes_max: 1024 * 1024 }
    }
}

/// Sends requests over kept-alive connections. It never retries, follows no redirect and has no time limit beyond
/// connecting; dropping a send closes its connection.
#[derive(Clone)]
pub(crate) struct Delivery {
    client: reqwest::Client,
    /// What is being done, for errors.
    operation: &'static str,
    answer_bytes_max: usize,
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
    pub(crate) is_cut: bool,
}

impl Delivery {
    /// Makes a client. Fails if `ca_file` cannot be read or the system has no roots.
    pub(crate) fn new(operation: &'static str, connection: &Connection) -> Result<Self, Error> {
        let mut client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls(connection)?)
            .user_agent(concat!("logship/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never());
        if !connection.system_proxy {
            client = client.no_proxy();
        }
        let client = client.build().map_err(|error| {
            Error::new(ErrorKind::Config, operation, "cannot make an HTTP client").with_source(error.without_url())
        })?;
        Ok(Delivery { client, operation, answer_bytes_max: connection.answer_bytes_max })
    }

    /// Sends a request and reads its answer, whatever the status. An error means that there was no whole answer.
    pub(crate) async fn send(&self, request: Request) -> Result<Answer, Error> {
        let host = host_of(request.url());
        let concealed = concealed(&request);
        let fail = |error: reqwest::Error| self.no_answer(&host, error);
        let mut response = self.client.execute(request).await.map_err(fail)?;
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

    /// What it means that a request failed before its answer was whole.
    fn no_answer(&self, host: &str, error: reqwest::Error) -> Error {
        let (kind, certainty, message) = if error.is_builder() {
            (ErrorKind::Config, Certainty::NotDelivered, "the request cannot be made")
        } else if error.is_connect() {
            (ErrorKind::Unavailable, Certainty::NotDelivered, "cannot connect")
        } else {
            (ErrorKind::Unavailable, Certainty::Unknown, "the connection broke before the answer was complete")
        };
        // The address may hold a token.
        let error = error.without_url();
        Error::new(kind, self.operation, message).certainty_is(certainty).with("host", host).with_source(error)
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

/// What an answer may not repeat of a request: its secret headers, and what stands behind the host in its address.
fn concealed(request: &Request) -> Concealed {
    let mut concealed = Concealed::default();
    for value in request.headers().values().filter(|value| value.is_sensitive()) {
        concealed.add(value.as_bytes());
    }
    let url = request.url();
    concealed.add(url.path().as_bytes());
    url.path_segments().into_iter().flatten().for_each(|segment| concealed.add(segment.as_bytes()));
    url.query_pairs().for_each(|(_, value)| concealed.add(value.as_bytes()));
    concealed.add(url.query().unwrap_or_default().as_bytes());
    concealed
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
pub(crate) fn parse_url(text: &str) -> Result<(Url, Option<HeaderValue>), Error> {
    let wrong = |why: &str| Error::config("url", why);
    let mut url = Url::parse(text).map_err(|error| wrong(&error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(wrong("must begin with http:// or https://"));
    }
    url.set_fragment(None);
    if url.username().is_empty() && url.password().is_none() {
        return Ok((url, None));
    }
    let (username, password) = (decoded(url.username()), decoded(url.password().unwrap_or_default()));
    let auth = basic("url", &username, &password)?;
    let cleared = url.set_username("").and_then(|()| url.set_password(None));
    cleared.map_err(|()| wrong("cannot hold a user"))?;
    Ok((url, Some(auth)))
}

/// A header's value that is not shown.
pub(crate) fn secret_value(field: &str, value: &str) -> Result<HeaderValue, Error> {
    let mut value = HeaderValue::try_from(value)
        .map_err(|_| Error::config(field, "holds a character that no header can, such as a line break"))?;
    value.set_sensitive(true);
    Ok(value)
}

pub(crate) fn basic(field: &str, username: &[u8], password: &[u8]) -> Result<HeaderValue, Error> {
    if username.contains(&b':') {
        return Err(Error::config(field, "the user name holds a colon, which basic authentication cannot carry"));
    }
    let credentials = BASE64.encode([username, b":", password].concat());
    secret_value(field, &format!("Basic {credentials}"))
}

/// A part of an address without its percent signs.
fn decoded(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let digits = behind.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let digits = digits.filter(|digits| *first == b'%' && digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let code = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &behind[2..] } else { behind };
    }
    bytes
}

/// TLS by a provider of our own. The process default belongs to the program, which may have none or another one.
fn tls(connection: &Connection) -> Result<ClientConfig, Error> {
    let failed = |error: rustls::Error| {
        Error::new(ErrorKind::Config, "set up TLS", "cannot check certificates").with_source(error)
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = if connection.insecure_skip_verify {
        Arc::new(AnyCertificate(Arc::clone(&provider)))
    } else {
        let extra = connection.ca_file.as_deref().map(certificates).transpose()?.unwrap_or_default();
        let verifier = rustls_platform_verifier::Verifier::new_with_extra_roots(extra, Arc::clone(&provider));
        Arc::new(verifier.map_err(failed)?)
    };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(failed)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let wrong = |why: String| Error::config("ca_file", format!("{}: {why}", file.display()));
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
    let certificates: Vec<_> = read.map_err(|error| wrong(error.to_string()))?;
    if certificates.is_empty() { Err(wrong("holds no PEM certificate".to_owned())) } else { Ok(certificates) }
}

/// Takes any certificate, for whoever asks for it by name. That the server holds the certificate's key is still
/// checked.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        text: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(text, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        text: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(text, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
    fn a_client_needs_no_process_wide_tls_provider() {
        assert!(CryptoProvider::get_default().is_none());
        for insecure_skip_verify in [false, true] {
            let connection = Connection { insecure_skip_verify, ..Connection::default() };
            Delivery::new("test", &connection).unwrap();
        }
        assert!(CryptoProvider::get_default().is_none());
    }

    #[test]
    fn a_wrong_ca_file_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for path in [file.path(), Path::new("/absent/ca.pem")] {
            let connection = Connection { ca_file: Some(path.to_owned()), ..Connection::default() };
            let error = Delivery::new("test", &connection).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.to_string().contains("field: ca_file"), "{error}");
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
