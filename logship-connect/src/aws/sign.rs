//! Requests signed for services that are asked without an SDK.

use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_credential_types::provider::ProvideCredentials;
use aws_sigv4::http_request::{PayloadChecksumKind, SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4::SigningParams;
use logship_core::{Error, ErrorKind};
use reqwest::Request;
use reqwest::header::{HeaderName, HeaderValue};

use super::Aws;
use super::credentials::no_credentials;

impl Aws {
    /// Signs a request for `service`, such as `es`, over its body as it is sent, with Signature Version 4
    /// (<https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv.html>). The signature is good for five minutes,
    /// and for the request as it is now but for headers: a proxy may change these. `operation` is what is done, for
    /// errors.
    ///
    /// # Errors
    /// Those of [`sdk_config`](Aws::sdk_config), and [`ErrorKind::Auth`] if there are no credentials.
    pub async fn sign(&self, request: &mut Request, service: &str, operation: &'static str) -> Result<(), Error> {
        let ready = self.ready().await?;
        let credentials = ready.credentials.provide_credentials().await.map_err(|error| no_credentials(&error))?;
        let signed = sign_as(&credentials, self.region().await?, service, SystemTime::now(), request);
        signed.map_err(|error| {
            Error::new(ErrorKind::Config, operation, "the request cannot be signed").with_source(error)
        })
    }
}

fn sign_as(
    credentials: &Credentials,
    region: &str,
    service: &str,
    time: SystemTime,
    request: &mut Request,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut settings = SigningSettings::default();
    // OpenSearch Serverless asks for the hash of the body in a header, and the others allow it.
    // <https://docs.aws.amazon.com/opensearch-service/latest/developerguide/serverless-clients.html#serverless-signing>
    settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
    let identity = credentials.clone().into();
    let params = SigningParams::builder().identity(&identity).region(region).name(service).time(time);
    let params = params.settings(settings).build()?.into();
    let body = request.body().and_then(reqwest::Body::as_bytes).unwrap_or_default();
    // The host is taken from the address.
    let (method, url) = (request.method().as_str(), request.url().as_str());
    let signable = SignableRequest::new(method, url, std::iter::empty(), SignableBody::Bytes(body))?;
    let (instructions, _) = sign(signable, &params)?.into_parts();
    let (headers, _) = instructions.into_parts();
    for header in headers {
        let mut value = HeaderValue::try_from(header.value())?;
        value.set_sensitive(true);
        request.headers_mut().insert(HeaderName::from_static(header.name()), value);
    }
    Ok(())
}
