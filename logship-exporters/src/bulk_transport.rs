//! What carries bulk requests to a cluster.

use std::fmt;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use elasticsearch::auth::Credentials;
use elasticsearch::http::headers::{HeaderMap, HeaderName, HeaderValue};
use elasticsearch::http::transport::Transport;
use elasticsearch::http::{Method, Url};
use logship_core::{Certainty, Error, ErrorKind, async_trait};

use crate::conceal::Concealed;

/// What carries requests to a cluster: the official client's [`Transport`], or a program's own.
#[async_trait]
pub trait BulkTransport: fmt::Debug + Send + Sync {
    /// Posts a body. `Err` only if there is no answer.
    async fn post(
        &self,
        path: &str,
        query: &[(&str, &str)],
        headers: &[(&'static str, &str)],
        body: Bytes,
    ) -> Result<BulkAnswer, Error>;

    /// Gets the root of the cluster, for a check.
    async fn ping(&self) -> Result<BulkAnswer, Error>;

    /// The addresses, for errors; without secrets.
    fn hosts(&self) -> &str;

    /// Uses other credentials from now on.
    fn set_credentials(&self, credentials: Credentials);
}

/// An answer over HTTP.
#[derive(Clone, Debug)]
pub struct BulkAnswer {
    /// Its status.
    pub status: u16,
    /// What its header `Retry-After` asks for, if it does.
    pub retry_after: Option<Duration>,
    /// Its body.
    pub body: Bytes,
}

/// The official client's transport.
pub(crate) struct Official {
    pub(crate) transport: Transport,
    /// For errors.
    pub(crate) hosts: String,
    /// The credentials, as answers may repeat them.
    pub(crate) concealed: RwLock<Concealed>,
}

/// The credentials as headers carry them.
pub(crate) fn concealed(credentials: &Credentials) -> Concealed {
    let mut concealed = Concealed::default();
    match credentials {
        Credentials::Basic(name, secret) | Credentials::ApiKey(name, secret) => {
            concealed.add(BASE64.encode(format!("{name}:{secret}")).as_bytes());
        }
        Credentials::Bearer(token) | Credentials::EncodedApiKey(token) => concealed.add(token.as_bytes()),
        // Those of certificates are not sent.
        _ => {}
    }
    concealed
}

impl Official {
    async fn send(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        headers: &[(&'static str, &str)],
        body: Option<Bytes>,
    ) -> Result<BulkAnswer, Error> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let value = HeaderValue::from_str(value).map_err(|error| {
                Error::new(ErrorKind::Unexpected, "elasticsearch request", "a header is not text").with_source(error)
            })?;
            map.insert(HeaderName::from_static(name), value);
        }
        // The credentials may be others when the answer is there, and what it repeats are those that were sent.
        let concealed_before = self.concealed().clone();
        let sent = self.transport.send(method, path, map, Some(query), body, None).await;
        let response = sent.map_err(|error| self.unanswered(error))?;
        if !response.url().path().ends_with(path) {
            let message = format!("answered by a redirect to {}; configure that address", place(response.url()));
            let error = Error::new(ErrorKind::Config, "elasticsearch request", message);
            return Err(error.with("hosts", &self.hosts).certainty_is(Certainty::Unknown));
        }
        let status = response.status_code().as_u16();
        let retry_after = response.headers().get("retry-after").and_then(|value| value.to_str().ok());
        let retry_after = retry_after.and_then(|text| crate::retry_after::retry_after(text, SystemTime::now()));
        let body = response.bytes().await.map_err(|error| self.unanswered(error))?;
        let body = self.concealed().hide(concealed_before.hide(body));
        Ok(BulkAnswer { status, retry_after, body })
    }

    fn concealed(&self) -> RwLockReadGuard<'_, Concealed> {
        self.concealed.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Only where no connection was made is it certain that nothing arrived.
    fn unanswered(&self, error: elasticsearch::Error) -> Error {
        let is_timeout = error.is_timeout();
        let (kind, message, certainty) = match is_connect(&error) {
            true => (ErrorKind::Unavailable, "cannot connect", Certainty::NotDelivered),
            false if is_timeout => (ErrorKind::Timeout, "no answer in time", Certainty::Unknown),
            false => (ErrorKind::Unavailable, "the connection broke before the answer was whole", Certainty::Unknown),
        };
        let error = Error::new(kind, "elasticsearch request", message).with("hosts", &self.hosts).with_source(error);
        error.certainty_is(certainty)
    }
}

/// Whether the client failed before a connection was made. It does not say so but in the words of the connector.
fn is_connect(error: &elasticsearch::Error) -> bool {
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        if cause.to_string().contains("client error (Connect)") {
            return true;
        }
        next = cause.source();
    }
    false
}

#[async_trait]
impl BulkTransport for Official {
    async fn post(
        &self,
        path: &str,
        query: &[(&str, &str)],
        headers: &[(&'static str, &str)],
        body: Bytes,
    ) -> Result<BulkAnswer, Error> {
        self.send(Method::Post, path, query, headers, Some(body)).await
    }

    async fn ping(&self) -> Result<BulkAnswer, Error> {
        self.send(Method::Get, "/", &[], &[("user-agent", USER_AGENT)], None).await
    }

    fn hosts(&self) -> &str {
        &self.hosts
    }

    fn set_credentials(&self, credentials: Credentials) {
        let concealed = concealed(&credentials);
        // In this order no request goes out with credentials that are not concealed in its answer.
        self.transport.set_auth(credentials);
        *self.concealed.write().unwrap_or_else(PoisonError::into_inner) = concealed;
    }
}

impl fmt::Debug for Official {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The transport's own text has the credentials in it.
        f.debug_struct("Transport").field("hosts", &self.hosts).finish_non_exhaustive()
    }
}

/// How we introduce ourselves.
pub(crate) const USER_AGENT: &str = concat!("logship/", env!("CARGO_PKG_VERSION"));

/// A host's address without what may be secret.
pub(crate) fn place(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port_or_known_default() {
        Some(port) => format!("{}://{host}:{port}", url.scheme()),
        None => format!("{}://{host}", url.scheme()),
    }
}
