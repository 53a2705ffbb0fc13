//! Requests signed for AWS.

pub use logship_connect::aws::{AssumeRole, AwsCredentials};
use logship_connect::aws::{Aws, AwsConfig};
use logship_core::{BuildContext, Error};
use reqwest::Request;
use serde::Deserialize;

use super::Connection;

/// Who signs, and for what.
///
/// In a configuration: `{"service": "aoss", "region": "eu-west-1", "credentials": {"static": {…}}, "role": {"arn": …}}`.
/// Without any field it is a domain, and who the AWS command line would be on this machine.
///
/// ```
/// use logship_core::{BuildContext, read_fields};
/// use logship_exporters::opensearch::OpenSearch;
///
/// let fields = serde_json::from_str(
///     r#"{
///         "hosts": ["https://search-logs.eu-west-1.es.amazonaws.com"],
///         "index": "logs-%Y.%m.%d",
///         "auth": {"aws": {"region": "eu-west-1", "role": {"arn": "arn:aws:iam::123456789012:role/logs"}}}
///     }"#,
/// )?;
/// let exporter = OpenSearch::new(read_fields(fields)?, BuildContext::default())?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct AwsAuth {
    /// What is asked: `es`, a domain of Amazon OpenSearch Service, or `aoss`, a collection of Amazon OpenSearch
    /// Serverless. Default: `es`.
    pub service: AwsService,
    /// The region, such as `eu-west-1`. Default: what `AWS_REGION`, the profile or the machine's metadata say.
    pub region: Option<String>,
    /// Where the access key comes from. Default: `default`, the SDKs' chain.
    pub credentials: AwsCredentials,
    /// A role that is assumed with these credentials. Default: none.
    pub role: Option<AssumeRole>,
}

impl AwsAuth {
    pub(super) fn is_collection(&self) -> bool {
        self.service == AwsService::Aoss
    }
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

/// Signs requests.
pub(super) struct Signer {
    aws: Aws,
    /// What is asked, as signatures call it.
    service: &'static str,
}

impl Signer {
    /// Checks the configuration and finds its secrets. Asks nobody yet.
    pub(super) fn new(auth: &AwsAuth, connection: &Connection, context: &BuildContext) -> Result<Self, Error> {
        let mut config = AwsConfig::default();
        config.region.clone_from(&auth.region);
        config.credentials.clone_from(&auth.credentials);
        config.role.clone_from(&auth.role);
        let service = match auth.service {
            AwsService::Es => "es",
            AwsService::Aoss => "aoss",
        };
        Ok(Signer { aws: Aws::new(&config, connection, context).map_err(in_auth)?, service })
    }

    pub(super) async fn sign(&self, request: &mut Request, operation: &'static str) -> Result<(), Error> {
        self.aws.sign(request, self.service, operation).await.map_err(in_auth)
    }

    pub(super) async fn refresh(&self) -> Result<(), Error> {
        self.aws.refresh().await.map_err(in_auth)
    }
}

/// An error about a field of `aws`, which lies under `auth` here.
fn in_auth(error: Error) -> Error {
    match error.context("field") {
        Some(field) if field.starts_with("aws.") => Error::config(&format!("auth.{field}"), error.message()),
        _ => error,
    }
}
