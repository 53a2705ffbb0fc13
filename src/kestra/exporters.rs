//! How each of Kestra's log exporters is called, and what its properties are called here.
//!
//! One table for each exporter. Left stands Kestra's name of a property, right the field of the exporter of
//! [`logship_exporters`]; a dot goes into a map.

use super::mapping::{Mapping, Property, Target};
use Target::{Flag, Header, Headers, Hosts, Millis, NoEffect, Number, Seconds, Secret, Text, Texts, UsedBy};

const fn required(name: &'static str, target: Target) -> Property {
    Property { name, target, required: true }
}

const fn optional(name: &'static str, target: Target) -> Property {
    Property { name, target, required: false }
}

/// How many records are sent at a time.
const CHUNK: Property = optional("chunk", Number("lane.chunk"));
/// The same where records are written to files, whose size is said by `maxLinesPerFile`.
const CHUNK_OF_FILES: Property =
    optional("chunk", NoEffect("how many records a file gets is said by `maxLinesPerFile`"));
/// How long Kestra waits for an answer.
const TIMEOUT: Property = optional("options.timeout.readIdleTimeout", Millis("lane.attempt_timeout_ms"));
const ANY_CERTIFICATE: Property =
    optional("options.ssl.insecureTrustAllCertificates", Flag("connection.insecure_skip_verify"));

/// All of them.
pub(super) const ALL: &[&Mapping] = &[
    &FILE,
    &ELASTICSEARCH,
    &OPENSEARCH,
    &DATADOG,
    &SPLUNK,
    &NEW_RELIC,
    &OPEN_TELEMETRY,
    &DASH0,
    &CLOUD_WATCH,
    &S3,
    &OPERATIONAL_SUITE,
    &GCS,
    &AZURE_MONITOR,
    &AZURE_STORAGE,
];

/// Exporters of Kestra's that have none here, and what to do instead.
pub(super) const NOT_TAKEN: &[(&str, &str)] = &[
    ("io.kestra.plugin.ee.graylog.LogExporter", "Graylog takes OpenTelemetry as well: use the OpenTelemetry exporter"),
    ("io.kestra.plugin.ee.syslog.LogExporter", "there is no exporter that writes CEF"),
    ("io.kestra.plugin.ee.huawei.lts.LogExporter", "there is no exporter for Log Tank Service"),
];

const FILE: Mapping = Mapping {
    types: &["io.kestra.plugin.ee.core.log.FileLogExporter"],
    exporter: "file",
    properties: &[
        optional("format", Text("format")),
        optional("logFilePrefix", Text("prefix")),
        optional("maxLinesPerFile", Number("max_lines_per_file")),
        CHUNK_OF_FILES,
    ],
    constants: &[],
};

const ELASTICSEARCH: Mapping = Mapping {
    types: &["io.kestra.plugin.ee.elasticsearch.LogExporter", "io.kestra.plugin.elasticsearch.LogExporter"],
    exporter: "elasticsearch",
    properties: &[
        required("connection.hosts", Hosts { field: "hosts", prefix: "connection.pathPrefix" }),
        optional("connection.pathPrefix", UsedBy("connection.hosts")),
        required("indexName", Text("index")),
        optional("connection.basicAuth.username", Text("auth.basic.username")),
        optional("connection.basicAuth.password", Secret("auth.basic.password")),
        optional("connection.headers", Headers { keys: "auth.api_key", tokens: "auth.bearer", others: None }),
        optional("connection.strictDeprecationMode", NoEffect("requests use nothing that is deprecated")),
        CHUNK,
    ],
    constants: &[],
};

const OPENSEARCH: Mapping = Mapping {
    types: &["io.kestra.plugin.ee.opensearch.LogExporter", "io.kestra.plugin.opensearch.LogExporter"],
    exporter: "opensearch",
    properties: &[
        required("connection.hosts", Hosts { field: "hosts", prefix: "connection.pathPrefix" }),
        optional("connection.pathPrefix", UsedBy("connection.hosts")),
        required("indexName", Text("index")),
        optional("connection.basicAuth.username", Text("auth.basic.username")),
        optional("connection.basicAuth.password", Secret("auth.basic.password")),
        optional(
            "connection.headers",
            Headers {
                keys: "connection.headers.Authorization",
                tokens: "connection.headers.Authorization",
                others: Some("connection.headers"),
            },
        ),
        optional("connection.strictDeprecationMode", NoEffect("requests use nothing that is deprecated")),
        optional("connection.trustAllSsl", Flag("connection.insecure_skip_verify")),
        CHUNK,
    ],
    constants: &[],
};

const DATADOG: Mapping = Mapping {
    types: &["io.kestra.plugin.ee.datadog.LogExporter"],
    exporter: "datadog",
    properties: &[
        required("basePath", Secret("url")),
        required("apiKey", Secret("api_key")),
        TIMEOUT,
        ANY_CERTIFICATE,
        CHUNK,
    ],
    constants: &[],
};

const SPLUNK: Mapping = Mapping {
    types: &["io.kestra.plugin.ee.splunk.LogExporter"],
    exporter: "splunk",
    properties: &[required("host", Secret("url")), required("token", Secret("token")), TIMEOUT, ANY_CERTIFICATE, CHUNK],
    // By which searches find what Kestra has sent so far.
    constants: &[("source", "Kestra")],
};

const NEW_RELIC: Mapping = Mapping {
    types: &["io.kestra.plugin.ee.newrelic.LogExporter"],
    exporter: "newrelic",
    properties: &[
        required("basePath", Secret("url")),
        required("apiKey", Secret("license_key")),
        TIMEOUT,
        ANY_CERTIFICATE,
        CHUNK,
    ],
    constants: &[],
};

const OPEN_TELEMETRY: Mapping = Mapping {
    types: &["io.kestra.plugin.ee.opentelemetry.LogExporter"],
    exporter: "otlp",
    properties: &[
        required("otlpEndpoint", Secret("endpoint")),
        optional("authorizationHeaderName", UsedBy("authorizationHeaderValue")),
        optional(
            "authorizationHeaderValue",
            Header { field: "headers", name: "authorizationHeaderName", usual: "Authorization", scheme: "" },
        ),
        CHUNK,
    ],
    constants: &[],
};

const DASH0: Mapping = Mapping {
    types: &["io.kestra.plugin.ee.dash0.LogExporter"],
    exporter: "otlp",
    properties: &[
        required("endpoint", Secret("endpoint")),
        required("authToken", Header { field: "headers", name: "", usual: "Authorization", scheme: "Bearer " }),
        optional("dataset", Header { field: "headers", name: "", usual: "Dash0-Dataset", scheme: "" }),
        CHUNK,
    ],
    constants: &[],
};

const CLOUD_WATCH: Mapping = Mapping {
    types: &["io.kestra.plugin.ee.aws.cloudwatch.LogExporter", "io.kestra.plugin.ee.aws.LogExporter"],
    exporter: "cloudwatch",
    properties: &[
        required("logGroupName", Text("log_group_name")),
        required("logStreamName", Text("log_stream_name")),
        required("region", Text("aws.region")),
        optional("accessKeyId", Secret("aws.credentials.static.access_key_id")),
        optional("secretKeyId", Secret("aws.credentials.static.secret_access_key")),
        optional("sessionToken", Secret("aws.credentials.static.session_token")),
        optional("stsRoleArn", Text("aws.role.arn")),
        optional("stsRoleExternalId", Text("aws.role.external_id")),
        optional("stsRoleSessionName", Text("aws.role.session_name")),
        optional("stsRoleSessionDuration", Seconds("aws.role.session_secs")),
        optional("stsEndpointOverride", Text("aws.role.endpoint")),
        optional("endpointOverride", Text("aws.endpoint")),
        CHUNK,
    ],
    constants: &[],
};

const S3: Mapping = Mapping {
    types: &["io.kestra.plugin.ee.aws.s3.LogExporter"],
    exporter: "s3",
    properties: &[
        required("bucket", Text("bucket")),
        required("region", Text("aws.region")),
        optional("format", Text("format")),
        optional("logFilePrefix", Text("prefix")),
        optional("maxLinesPerFile", Number("max_lines_per_file")),
        optional("accessKeyId", Secret("aws.credentials.static.access_key_id")),
        optional("secretKeyId", Secret("aws.credentials.static.secret_access_key")),
        optional("sessionToken", Secret("aws.credentials.static.session_token")),
        optional("stsRoleArn", Text("aws.role.arn")),
        optional("stsRoleExternalId", Text("aws.role.external_id")),
        optional("stsRoleSessionName", Text("aws.role.session_name")),
        optional("stsRoleSessionDuration", Seconds("aws.role.session_secs")),
        optional("stsEndpointOverride", Text("aws.role.endpoint")),
        optional("endpointOverride", Text("aws.endpoint")),
        CHUNK_OF_FILES,
    ],
    constants: &[("format", "json"), ("prefix", "kestra-log-file")],
};

const OPERATIONAL_SUITE: Mapping = Mapping {
    types: &["io.kestra.plugin.ee.gcp.operationalsuite.LogExporter", "io.kestra.plugin.ee.gcp.LogExporter"],
    exporter: "gcp_logging",
    properties: &[
        optional("projectId", Text("project_id")),
        optional("serviceAccount", Secret("service_account")),
        optional("impersonatedServiceAccount", Text("impersonated_service_account")),
        optional("scopes", Texts("scopes")),
        CHUNK,
    ],
    constants: &[],
};

const GCS: Mapping = Mapping {
    types: &["io.kestra.plugin.ee.gcp.gcs.LogExporter"],
    exporter: "gcs",
    properties: &[
        required("bucket", Text("bucket")),
        optional("projectId", NoEffect("the name of a bucket says where it is")),
        optional("format", Text("format")),
        optional("logFilePrefix", Text("prefix")),
        optional("maxLinesPerFile", Number("max_lines_per_file")),
        optional("serviceAccount", Secret("credentials.service_account")),
        optional("scopes", NoEffect("the one scope that writing to a bucket needs is always asked for")),
        CHUNK_OF_FILES,
    ],
    constants: &[("format", "json"), ("prefix", "kestra-log-file")],
};

const AZURE_MONITOR: Mapping = Mapping {
    types: &["io.kestra.plugin.ee.azure.monitor.LogExporter", "io.kestra.plugin.ee.azure.LogExporter"],
    exporter: "azure_monitor",
    properties: &[
        required("endpoint", Text("endpoint")),
        required("ruleId", Text("rule_id")),
        required("streamName", Text("stream_name")),
        optional("tenantId", Secret("credentials.client_secret.tenant_id")),
        optional("clientId", Secret("credentials.client_secret.client_id")),
        optional("clientSecret", Secret("credentials.client_secret.client_secret")),
        CHUNK,
    ],
    constants: &[],
};

const AZURE_STORAGE: Mapping = Mapping {
    types: &["io.kestra.plugin.ee.azure.storage.LogExporter"],
    exporter: "azure_blob",
    properties: &[
        required("endpoint", Text("endpoint")),
        required("containerName", Text("container")),
        optional("tenantId", Secret("credentials.client_secret.tenant_id")),
        optional("clientId", Secret("credentials.client_secret.client_id")),
        optional("clientSecret", Secret("credentials.client_secret.client_secret")),
        optional("format", Text("format")),
        optional("logFilePrefix", Text("prefix")),
        optional("maxLinesPerFile", Number("max_lines_per_file")),
        CHUNK_OF_FILES,
    ],
    constants: &[("format", "json"), ("prefix", "kestra-log-file")],
};

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use logship_core::{BuildContext, SecretProvider};
    use logship_testkit::strict::google::service_account_key;

    use super::*;
    use crate::kestra::{Flow, FlowContext};

    #[test]
    fn the_migration_page_names_every_type_and_its_exporter() {
        let page = include_str!("../../docs/migrating-from-kestra.md");
        for mapping in ALL {
            for name in mapping.types {
                let short = name.strip_prefix("io.kestra.plugin.ee.").unwrap_or(name);
                assert!(page.contains(&format!("`{short}`")), "{name}");
            }
            assert!(page.contains(&format!("`{}`", mapping.exporter)), "{}", mapping.exporter);
        }
    }

    /// Secrets that are all one word, an address, or Google's key.
    #[derive(Debug)]
    struct Secrets;

    impl SecretProvider for Secrets {
        fn secret(&self, name: &str) -> Option<logship_core::Secret> {
            Some(match name {
                "URL" => "http://127.0.0.1:1".into(),
                "KEY" => service_account_key("word", "http://127.0.0.1:1").as_str().into(),
                _ => "word".into(),
            })
        }
    }

    /// A flow with one exporter, which says everything it can.
    fn with_every_property(mapping: &Mapping) -> String {
        let mut exporter = serde_json::json!({"id": "one", "type": mapping.types[0]});
        for property in mapping.properties {
            let is_address = ["endpoint", "basepath", "host"].iter().any(|part| {
                let name = property.name.to_lowercase();
                name.contains(part) && !name.starts_with("connection")
            });
            let value = match property.target {
                // Either this or a user.
                Headers { others: None, .. } => continue,
                Headers { .. } => serde_json::json!(["X-Team: a"]),
                Hosts { .. } => serde_json::json!(["http://127.0.0.1:1"]),
                Texts(_) => serde_json::json!(["word"]),
                Number(_) => 7.into(),
                Flag(_) => true.into(),
                Millis(_) | Seconds(_) => "PT1H".into(),
                NoEffect(_) if property.name == "chunk" => 7.into(),
                Secret(_) if is_address => "{{ secret('URL') }}".into(),
                Secret("service_account" | "credentials.service_account") => "{{ secret('KEY') }}".into(),
                Secret(_) => "{{ secret('WORD') }}".into(),
                // The account stands in the host.
                Text(_) if is_address && mapping.exporter == "azure_blob" => {
                    "https://word.blob.core.windows.net".into()
                }
                Text(_) if is_address => "http://127.0.0.1:1".into(),
                Text("format") => "JSON".into(),
                _ => serde_json::Value::from("word"),
            };
            let mut place = &mut exporter;
            for step in property.name.split('.') {
                place = &mut place[step];
            }
            *place = value;
        }
        let shipper = "io.kestra.plugin.ee.core.log.LogShipper";
        serde_json::json!({"id": "f", "namespace": "n",
            "tasks": [{"id": "t", "type": shipper, "logExporters": [exporter]}]})
        .to_string()
    }

    /// Goal: our exporters know every field that a table names. Method: each is told everything; one that is not compiled
    /// in cannot be asked.
    #[test]
    fn every_field_of_a_table_is_one_of_its_exporter() {
        let context = BuildContext::new(Arc::new(Secrets));
        let registry = crate::registry();
        let (mut asked, mut wrong) = (0, Vec::new());
        for mapping in ALL {
            let flow = Flow::parse(&with_every_property(mapping), &FlowContext::new());
            let flow = flow.unwrap_or_else(|error| panic!("{}: {error}", mapping.exporter));
            let mut fields = flow.shippers[0].exporters[0].fields(&context).unwrap();
            let lane = fields.remove("lane").unwrap_or_else(|| serde_json::json!({}));
            serde_json::from_value::<logship_core::LaneOptions>(lane).unwrap();
            if registry.exporter_names().any(|name| name == mapping.exporter) {
                asked += 1;
                if let Err(error) =
                    registry.exporter(mapping.exporter, fields, &flow.shippers[0].with_composed(&context))
                {
                    wrong.push(format!("{}: {error}", mapping.exporter));
                }
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
        assert!(asked >= 8 || registry.exporter_names().count() < 10, "{asked}");
    }

    #[test]
    fn what_a_property_is_used_by_is_there() {
        for mapping in ALL {
            let is_there = |name: &str| mapping.properties.iter().any(|property| property.name == name);
            for property in mapping.properties {
                match property.target {
                    UsedBy(name) => assert!(is_there(name), "{name}"),
                    Hosts { prefix, .. } => assert!(is_there(prefix), "{prefix}"),
                    Header { name, .. } => assert!(name.is_empty() || is_there(name), "{name}"),
                    _ => {}
                }
            }
        }
    }
}
