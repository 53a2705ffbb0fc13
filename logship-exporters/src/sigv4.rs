//! Requests signed for AWS, with Signature Version 4
//! (<https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv.html>).

use std::fmt;
use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{PayloadChecksumKind, SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4::SigningParams;
use logship_core::{BuildContext, Error, ErrorKind, Secret, SecretRef};
use reqwest::Request;
use reqwest::header::{HeaderName, HeaderValue};
use serde::Deserialize;

/// Who signs, and for what.
///
/// In a configuration: `{"service": "aoss", "region": "eu-west-1", "credentials": {"static": {…}}}`.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct AwsAuth {
    /// What is asked: `es`, a domain of Amazon OpenSearch Service, or `aoss`, a collection of Amazon OpenSearch
    /// Serverless. Default: `es`.
    pub service: AwsService,
    /// The region, such as `eu-west-1`. Default: what the environment says in `AWS_REGION` or `AWS_DEFAULT_REGION`.
    pub region: Option<String>,
    /// The access key. Default: `environment`.
    pub credentials: AwsCredentials,
}

/// What a signed request is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum AwsService {
    /// A domain of Amazon OpenSearch Service.
    #[default]
    Es,
    /// A collection of Amazon OpenSearch Serverless.
    Aoss,
}

impl AwsService {
    fn name(self) -> &'static str {
        match self {
            AwsService::Es => "es",
            AwsService::Aoss => "aoss",
        }
    }
}

/// Where an access key is. In a configuration: `"environment"` or
/// `{"static": {"access_key_id": …, "secret_access_key": …, "session_token": …}}`.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum AwsCredentials {
    /// In `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and, for temporary ones, `AWS_SESSION_TOKEN`
    /// (<https://docs.aws.amazon.com/sdkref/latest/guide/environment-variables.html>).
    #[default]
    Environment,
    /// Here, or wherever a secret can be kept.
    Static {
        /// The id of the key.
        access_key_id: SecretRef,
        /// The key.
        secret_access_key: SecretRef,
        /// The token of temporary credentials. Default: none.
        #[serde(default)]
        session_token: Option<SecretRef>,
    },
}

/// Signs requests with one key.
#[derive(Clone, PartialEq)]
pub(crate) struct Signer {
    service: AwsService,
    region: String,
    credentials: Credentials,
}

impl Signer {
    /// Finds the key and the region.
    pub(crate) fn new(auth: &AwsAuth, context: &BuildContext) -> Result<Self, Error> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let region = auth.region.clone().or_else(|| variable("AWS_REGION")).or_else(|| variable("AWS_DEFAULT_REGION"));
        let region =
            region.ok_or_else(|| Error::config("auth.aws.region", "give it, or set AWS_REGION in the environment"))?;
        let (id, key, token) = match &auth.credentials {
            AwsCredentials::Environment => (
                context.secret("auth.aws.credentials", &SecretRef::Env("AWS_ACCESS_KEY_ID".to_owned()))?,
                context.secret("auth.aws.credentials", &SecretRef::Env("AWS_SECRET_ACCESS_KEY".to_owned()))?,
                variable("AWS_SESSION_TOKEN").map(Secret::new),
            ),
            AwsCredentials::Static { access_key_id, secret_access_key, session_token } => (
                context.secret("auth.aws.credentials.static.access_key_id", access_key_id)?,
                context.secret("auth.aws.credentials.static.secret_access_key", secret_access_key)?,
                context.optional_secret("auth.aws.credentials.static.session_token", session_token.as_ref())?,
            ),
        };
        let token = token.map(|token| token.expose().to_owned());
        let credentials = Credentials::new(id.expose(), key.expose(), token, None, "logship");
        Ok(Signer { service: auth.service, region, credentials })
    }

    /// Signs a request over its body as it is sent. The signature is good for five minutes.
    pub(crate) fn sign(&self, request: &mut Request, operation: &'static str) -> Result<(), Error> {
        let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
            Error::new(ErrorKind::Config, operation, "the request cannot be signed").with_source(error)
        };
        let mut settings = SigningSettings::default();
        if self.service == AwsService::Aoss {
            // <https://docs.aws.amazon.com/opensearch-service/latest/developerguide/serverless-clients.html#serverless-signing>
            settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        }
        let identity = self.credentials.clone().into();
        let params = SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name(self.service.name())
            .time(SystemTime::now())
            .settings(settings)
            .build()
            .map_err(|error| failed(error.into()))?
            .into();
        let body = request.body().and_then(reqwest::Body::as_bytes).unwrap_or_default();
        // The host is taken from the address. No other header is signed, as a proxy may change it.
        let signable = SignableRequest::new(
            request.method().as_str(),
            request.url().as_str(),
            std::iter::empty(),
            SignableBody::Bytes(body),
        );
        let signable = signable.map_err(|error| failed(error.into()))?;
        let (instructions, _) = sign(signable, &params).map_err(|error| failed(error.into()))?.into_parts();
        let (headers, _) = instructions.into_parts();
        for header in headers {
            let mut value = HeaderValue::try_from(header.value()).map_err(|error| failed(error.into()))?;
            value.set_sensitive(true);
            request.headers_mut().insert(HeaderName::from_static(header.name()), value);
        }
        Ok(())
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("service", &self.service).field("region", &self.region).finish_non_exhaustive()
    }
}
