//! How connections are made: certificates, proxies, the headers of every request.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use logship_core::{BuildContext, Error, ErrorKind, SecretRef};
use reqwest::header::{
    CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderName, TRANSFER_ENCODING,
    USER_AGENT,
};
use reqwest::{Client, ClientBuilder, Proxy};
use serde::Deserialize;

use crate::address::{parse_url, secret_header};
use crate::tls;

/// How long connecting may take, name lookup and TLS included. How long a request may take is the engine's business.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How connections are made. Server certificates are checked against the system's roots and `ca_file`.
///
/// Files of certificates and keys are read again when they have changed, which is looked at once a minute and after a
/// TLS handshake that failed; so a certificate can be replaced under a running shipper. While a file cannot be read the
/// last good ones stay in use.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Connection {
    /// A PEM file of further certificates to trust. Default: none.
    pub ca_file: Option<PathBuf>,
    /// Trusts the system's roots. Without them `ca_file` is all that is trusted. Default: true.
    pub system_roots: bool,
    /// A PEM file of the certificate that shows the server who we are, with those between it and its root. Goes with
    /// `client_key_file`. Default: none.
    pub client_certificate_file: Option<PathBuf>,
    /// A PEM file of that certificate's private key, not encrypted. Default: none.
    pub client_key_file: Option<PathBuf>,
    /// The oldest version of TLS that is spoken: `1.2` or `1.3`. Default: `1.2`.
    pub tls_version_min: TlsVersion,
    /// Takes any certificate: whoever is in between can read and change everything. Default: false.
    pub insecure_skip_verify: bool,
    /// Goes through the proxy that the system's settings name (`HTTPS_PROXY` and the like). Default: true.
    pub system_proxy: bool,
    /// The address of a proxy, `http` or `https`, that everything goes through, whatever the system's settings say. A
    /// user and password in it are sent to the proxy. Default: none.
    pub proxy: Option<SecretRef>,
    /// Headers of every request, for whatever stands before the destination. One that the exporter sets itself is sent
    /// as the exporter sets it. Default: none.
    pub headers: BTreeMap<String, SecretRef>,
    /// What we call ourselves. Default: `logship/` and the version.
    pub user_agent: Option<String>,
    /// How many bytes of an answer are read. Default: 1 MiB.
    pub answer_bytes_max: usize,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub enum TlsVersion {
    /// 1.2
    #[default]
    #[serde(rename = "1.2")]
    V1_2,
    /// 1.3
    #[serde(rename = "1.3")]
    V1_3,
}

impl Default for Connection {
    fn default() -> Self {
        Connection {
            ca_file: None,
            system_roots: true,
            client_certificate_file: None,
            client_key_file: None,
            tls_version_min: TlsVersion::default(),
            insecure_skip_verify: false,
            system_proxy: true,
            proxy: None,
            headers: BTreeMap::new(),
            user_agent: None,
            answer_bytes_max: 1024 * 1024,
        }
    }
}

impl Connection {
    /// A client for these settings and what is in their files now. It speaks HTTP/2 where offered, follows no redirect
    /// and never retries. `operation` is what it is made for, for errors.
    ///
    /// # Errors
    /// [`ErrorKind::Config`], which names the field or the file.
    pub fn client(&self, operation: &'static str, context: &BuildContext) -> Result<Client, Error> {
        let client = self.builder(context, &[b"h2", b"http/1.1"])?;
        client.build().map_err(|error| no_client(operation, error))
    }

    /// The same for gRPC, which is HTTP/2 and nothing else. `is_plain` is whether it goes without TLS.
    ///
    /// # Errors
    /// [`ErrorKind::Config`], which names the field or the file.
    pub fn grpc_client(
        &self,
        operation: &'static str,
        context: &BuildContext,
        is_plain: bool,
    ) -> Result<Client, Error> {
        let mut client = self.builder(context, &[b"h2"])?.http2_prior_knowledge();
        // Without TLS there is no tunnel through a proxy, and few proxies speak HTTP/2 themselves.
        if is_plain && self.proxy.is_none() {
            client = client.no_proxy();
        }
        client.build().map_err(|error| no_client(operation, error))
    }

    /// The same without proxies and headers: for the machine's own metadata, which no proxy knows and no header is for.
    #[cfg(any(feature = "aws", feature = "azure"))]
    pub(crate) fn bare(&self) -> Connection {
        Connection { proxy: None, system_proxy: false, headers: BTreeMap::new(), ..self.clone() }
    }

    fn builder(&self, context: &BuildContext, protocols: &[&[u8]]) -> Result<ClientBuilder, Error> {
        let agent = self.user_agent.as_deref().unwrap_or(concat!("logship/", env!("CARGO_PKG_VERSION")));
        let mut headers = self.headers(context)?;
        headers.insert(USER_AGENT, secret_header("connection.user_agent", agent)?);
        let mut client = Client::builder()
            .tls_backend_preconfigured(tls::config_for(self, protocols)?)
            .default_headers(headers)
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never());
        if !self.system_proxy {
            client = client.no_proxy();
        }
        if let Some(proxy) = &self.proxy {
            client = client.proxy(proxy_of(context.secret("connection.proxy", proxy)?.expose())?);
        }
        Ok(client)
    }

    /// The headers of every request, as they are now.
    ///
    /// # Errors
    /// [`ErrorKind::Config`], which names the field.
    pub fn headers(&self, context: &BuildContext) -> Result<HeaderMap, Error> {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            let field = format!("connection.headers.{name}");
            let name = HeaderName::try_from(name.as_str()).map_err(|_| {
                Error::config(&field, format!("`{}` cannot be the name of a header", name.escape_debug()))
            })?;
            let ours = [CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, TRANSFER_ENCODING];
            if ours.contains(&name) {
                return Err(Error::config(&field, format!("`{name}` is set by the exporter itself")));
            }
            headers.insert(name, secret_header(&field, context.secret(&field, value)?.expose())?);
        }
        Ok(headers)
    }

    /// The files whose change asks for a new client, each as it is now.
    pub fn stamps(&self) -> Vec<Stamp> {
        let files = [&self.ca_file, &self.client_certificate_file, &self.client_key_file];
        files.into_iter().flatten().map(|file| Stamp::of(file)).collect()
    }
}

/// What tells that a file has changed: when it was written and how long it is; nothing of one that is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp(Option<(SystemTime, u64)>);

impl Stamp {
    fn of(file: &Path) -> Self {
        let metadata = std::fs::metadata(file).ok();
        Stamp(metadata.and_then(|metadata| Some((metadata.modified().ok()?, metadata.len()))))
    }
}

fn no_client(operation: &'static str, error: reqwest::Error) -> Error {
    Error::new(ErrorKind::Config, operation, "cannot make an HTTP client").with_source(error.without_url())
}

fn proxy_of(text: &str) -> Result<Proxy, Error> {
    const FIELD: &str = "connection.proxy";
    let (url, auth) = parse_url(FIELD, text)?;
    let wrong =
        |error: reqwest::Error| Error::config(FIELD, "not the address of a proxy").with_source(error.without_url());
    let proxy = Proxy::all(url).map_err(wrong)?;
    Ok(match auth {
        Some(auth) => proxy.custom_http_auth(auth),
        None => proxy,
    })
}
