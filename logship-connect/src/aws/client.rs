//! The SDKs' requests over our own connections, so that certificates, proxies and headers are what `connection` says.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use logship_core::{BuildContext, Error};
use reqwest::header::CONTENT_TYPE;
use reqwest::{Body, Client, Request, Response, Url};
use tokio::time::error::Elapsed;

use crate::{Connection, RotatedClient};

/// The header with the token of temporary credentials.
const TOKEN: &str = "x-amz-security-token";

/// Sends what the SDKs ask.
#[derive(Clone, Debug)]
pub(super) struct SdkClient {
    clients: Arc<Clients>,
    /// How long an answer may take to begin, where an SDK says so: it does when it asks for credentials.
    patience: Option<Duration>,
}

#[derive(Debug)]
struct Clients {
    outside: RotatedClient,
    /// For the machine's own metadata, which no proxy knows and no header is for.
    link_local: Client,
}

impl SdkClient {
    pub(super) fn new(outside: RotatedClient, connection: &Connection, context: &BuildContext) -> Result<Self, Error> {
        let link_local = connection.bare().client("connect to aws", context)?;
        Ok(SdkClient { clients: Arc::new(Clients { outside, link_local }), patience: None })
    }

    fn within(&self, settings: &HttpConnectorSettings) -> Self {
        SdkClient { patience: settings.read_timeout(), ..self.clone() }
    }

    fn client_for(&self, url: &Url) -> Client {
        if is_link_local(url) { self.clients.link_local.clone() } else { self.clients.outside.client() }
    }
}

/// Whether the address is that of a machine's or container's metadata
/// (<https://docs.aws.amazon.com/sdkref/latest/guide/feature-container-credentials.html>).
fn is_link_local(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    match host.parse() {
        Ok(IpAddr::V4(address)) => address.is_link_local(),
        // fd00:ec2::/32
        Ok(IpAddr::V6(address)) => address.segments()[..2] == [0xfd00, 0x0ec2],
        Err(_) => false,
    }
}

impl HttpClient for SdkClient {
    fn http_connector(&self, settings: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.within(settings))
    }
}

impl HttpConnector for SdkClient {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let this = self.clone();
        HttpConnectorFuture::new(async move {
            let request = request.try_into_http1x().map_err(|error| ConnectorError::user(error.into()))?;
            let request = Request::try_from(request.map(Body::wrap)).map_err(failed)?;
            let token = request.headers().get(TOKEN).map(|token| token.as_bytes().to_vec());
            let client = this.client_for(request.url());
            let answer = client.execute(request);
            let response = match this.patience {
                Some(patience) => {
                    let late = |late: Elapsed| ConnectorError::timeout(late.into());
                    tokio::time::timeout(patience, answer).await.map_err(late)?
                }
                None => answer.await,
            };
            let response = response.map_err(failed)?;
            let response = match token {
                Some(token) if !token.is_empty() && !is_an_answer(&response) => {
                    concealed(response, &token).await.map_err(failed)?
                }
                _ => http::Response::<Body>::from(response).map(SdkBody::from_body_1_x),
            };
            HttpResponse::try_from(response).map_err(|error| ConnectorError::other(error.into(), None))
        })
    }
}

/// Whether this is what the SDK asked for, which it reads and does not show.
fn is_an_answer(response: &Response) -> bool {
    let content_type = response.headers().get(CONTENT_TYPE).and_then(|text| text.to_str().ok()).unwrap_or_default();
    response.status().is_success() && ["json", "xml", "cbor"].iter().any(|form| content_type.contains(form))
}

/// The same without the token of the session, which some repeat with the request they refuse. The SDK's errors and what it
/// traces hold what was answered. As long as before, as its length was said.
async fn concealed(mut response: Response, token: &[u8]) -> Result<http::Response<SdkBody>, reqwest::Error> {
    let (status, headers) = (response.status(), std::mem::take(response.headers_mut()));
    let mut body = response.bytes().await?.to_vec();
    let mut from = 0;
    while let Some(at) = body[from..].windows(token.len()).position(|part| part == token) {
        let end = from + at + token.len();
        body[from + at..end].fill(b'*');
        from = end;
    }
    let mut concealed = http::Response::new(SdkBody::from(body));
    (*concealed.status_mut(), *concealed.headers_mut()) = (status, headers);
    Ok(concealed)
}

fn failed(error: reqwest::Error) -> ConnectorError {
    let error = error.without_url();
    if error.is_builder() {
        ConnectorError::user(error.into())
    } else if error.is_connect() {
        ConnectorError::io(error.into()).never_connected()
    } else {
        ConnectorError::io(error.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_time_limit_of_the_sdks_is_kept() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let (connection, context) = (Connection::default(), BuildContext::default());
        let outside = RotatedClient::new("test", &connection, &context).unwrap();
        let client = SdkClient::new(outside, &connection, &context).unwrap();
        let settings = HttpConnectorSettings::builder().read_timeout(Duration::from_secs(5)).build();
        let request = HttpRequest::try_from(http::Request::get(url).body(SdkBody::empty()).unwrap()).unwrap();
        let error = client.within(&settings).call(request).await.unwrap_err();
        assert!(error.is_timeout(), "{error:?}");
    }

    #[test]
    fn metadata_is_asked_without_a_proxy() {
        for (address, expected) in [
            ("http://169.254.169.254/latest", true),
            ("http://169.254.170.2/v2/credentials", true),
            ("http://[fd00:ec2::254]/latest", true),
            ("http://127.0.0.1:4566/", false),
            ("https://logs.eu-west-1.amazonaws.com/", false),
        ] {
            assert_eq!(is_link_local(&Url::parse(address).unwrap()), expected, "{address}");
        }
    }
}
