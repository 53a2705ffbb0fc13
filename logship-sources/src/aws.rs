//! What the sources of CloudWatch Logs share, whichever way its events come.

use std::collections::BTreeSet;
use std::sync::Arc;

use logship_core::{Resource, Text, Value};

/// Where a Lambda function is told where its own output goes.
/// <https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html>
const OWN_GROUP: &str = "AWS_LAMBDA_LOG_GROUP_NAME";

/// The groups that are never read: those that are named, and the one that this program writes to.
pub(crate) fn excluded_groups(named: &[String]) -> BTreeSet<String> {
    named.iter().cloned().chain(std::env::var(OWN_GROUP).ok()).collect()
}

/// Where an event is from, as OpenTelemetry calls it
/// (<https://opentelemetry.io/docs/specs/semconv/resource/cloud-provider/aws/logs/>).
pub(crate) fn resource_of(group: &str, stream: &str, account: Option<&str>) -> Arc<Resource> {
    let one = |name: &str| Value::Array(vec![name.into()]);
    let mut attributes = vec![
        (Text::from_static("aws.log.group.names"), one(group)),
        (Text::from_static("aws.log.stream.names"), one(stream)),
    ];
    attributes.extend(account.map(|account| (Text::from_static("cloud.account.id"), Value::from(account))));
    Arc::new(Resource { attributes })
}
