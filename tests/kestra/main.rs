//! Kestra's flows: the ones of its guide read as they stand, deliver, and a mistake in one is said with its place.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says why it fails by its panic")]

mod deliver;
mod flows;
mod mistakes;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use logship::kestra::{Flow, FlowContext};
use logship::{BuildContext, Secret, SecretProvider};

/// The flows of the guide, by the names of their files.
const FLOWS: [&str; 15] = [
    "audit",
    "azure_monitor",
    "azure_storage",
    "cloudwatch",
    "datadog",
    "elasticsearch",
    "file_then_upload",
    "gcs",
    "new_relic",
    "opensearch",
    "opentelemetry",
    "operational_suite",
    "s3",
    "splunk",
    "three_clouds",
];

fn text_of(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kestra/flows");
    std::fs::read_to_string(folder.join(format!("{name}.yaml"))).unwrap()
}

fn flow_of(name: &str) -> Flow {
    let context = FlowContext::new().variable("region", "eu-west-1");
    Flow::parse(&text_of(name), &context).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Secrets by name.
#[derive(Clone, Debug, Default)]
struct Secrets(BTreeMap<String, String>);

impl Secrets {
    /// Those that the flows of the guide ask for: each is its name in lower case, but for addresses.
    fn of_the_guide() -> Self {
        let names = [
            "AWS_ACCESS_KEY_ID",
            "AWS_SECRET_KEY_ID",
            "AZURE_TENANT_ID",
            "AZURE_CLIENT_ID",
            "AZURE_CLIENT_SECRET",
            "DATADOG_APIK_KEY",
            "DATADOG_API_KEY",
            "ES_PASSWORD",
            "NEWRELIC_API_KEY",
            "SPLUNK_API_KEY",
            "OTEL_TOKEN",
        ];
        let secrets = names.into_iter().map(|name| (name.to_owned(), name.to_lowercase()));
        Secrets(secrets.collect()).with("DATADOG_INSTANCE_URL", "https://http-intake.logs.datadoghq.com")
    }

    fn with(mut self, name: &str, value: &str) -> Self {
        self.0.insert(name.to_owned(), value.to_owned());
        self
    }

    fn context(self) -> BuildContext {
        BuildContext::new(Arc::new(self))
    }
}

impl SecretProvider for Secrets {
    fn secret(&self, name: &str) -> Option<Secret> {
        self.0.get(name).map(|value| Secret::new(value.as_str()))
    }
}
