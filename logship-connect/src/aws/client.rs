//! The SDKs' requests over our own connections, so that certificates, proxies and headers are what `connection` says.

use std::net::IpAddr;
use std::sync::Arc;

use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use logship_core::{BuildContext, Error};
use reqwest::{Body, Client, Request, Url};

use crate::{Connection, RotatedClient};

/// Sends what the SDKs ask.
#[derive(Clone, Debug)]
pub(super) struct SdkClient(Arc<Clients>);

#[derive(Debug)]
struct Clients {
    outside: RotatedClient,
    /// For the machine's own metadata, which no proxy knows and no header is for.
    link_local: Client,
}

impl SdkClient {
    pub(super) fn new(outside: RotatedClient, connection: &Connection, context: &BuildContext) -> Result<Self, Error> {
        let mut bare = connection.clone();
        (bare.proxy, bare.system_proxy) = (None, false);
        bare.headers.clear();
        let link_local = bare.client("connect to aws", context)?;
        Ok(SdkClient(Arc::new(Clients { outside, link_local })))
    }

    fn client_for(&self, url: &Url) -> Client {
        if is_link_local(url) { self.0.link_local.clone() } else { self.0.outside.client() }
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
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for SdkClient {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let this = self.clone();
        HttpConnectorFuture::new(async move {
            let request = request.try_into_http1x().map_err(|error| ConnectorError::user(error.into()))?;
            let request = Request::try_from(request.map(Body::wrap)).map_err(failed)?;
            let response = this.client_for(request.url()).execute(request).await.map_err(failed)?;
            let response = http::Response::<Body>::from(response).map(SdkBody::from_body_1_x);
            HttpResponse::try_from(response).map_err(|error| ConnectorError::other(error.into(), None))
        })
    }
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
