//! What the flows of the guide become.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use logship::kestra::{Flow, FlowContext, Reads, Shipper};
use logship::sources::memory::MemorySource;
use logship::state::memory::MemoryOffsets;
use logship::{
    BuildContext, Chunk, Error, Exporter, Fields, Filter, LogShipper, Outcome, Query, Registry, Secret, SecretProvider,
    Severity, async_trait, registry,
};
use serde_json::{Value, json};

use super::{FLOWS, Secrets, flow_of, text_of};

/// Takes everything; for looking at what an exporter is told.
#[derive(Debug)]
struct Told;

#[async_trait]
impl Exporter for Told {
    fn kind(&self) -> &'static str {
        "told"
    }
    async fn export(&self, chunk: &Chunk) -> Result<Outcome, Error> {
        Ok(Outcome::all_accepted(chunk.len()))
    }
}

/// What exporters were told, by their names in the registry.
type Heard = Arc<Mutex<Vec<(&'static str, Fields)>>>;

/// A registry whose exporters only remember what they were told.
fn listening() -> (Registry, Heard) {
    let told = Heard::default();
    let mut registry = Registry::new();
    for kind in [
        "azure_blob",
        "azure_monitor",
        "cloudwatch",
        "datadog",
        "elasticsearch",
        "file",
        "gcp_logging",
        "gcs",
        "newrelic",
        "opensearch",
        "otlp",
        "s3",
        "splunk",
    ] {
        let told = Arc::clone(&told);
        registry.add_exporter(kind, move |fields, _| {
            told.lock().unwrap().push((kind, fields));
            Ok(Told)
        });
    }
    (registry, told)
}

fn build(shipper: &Shipper, registry: &Registry, context: &BuildContext) -> Result<LogShipper, Error> {
    shipper.build(Arc::new(MemorySource::new()), Arc::new(MemoryOffsets::new()), registry, context)
}

/// What the exporters of a flow's one shipper are told.
fn told(name: &str) -> Vec<(&'static str, Value)> {
    let (registry, told) = listening();
    let flow = flow_of(name);
    build(&flow.shippers[0], &registry, &Secrets::of_the_guide().context()).unwrap();
    let told = told.lock().unwrap();
    told.iter().map(|(kind, fields)| (*kind, Value::Object(fields.clone()))).collect()
}

#[test]
fn k23_every_flow_of_the_guide_is_read_as_it_stands() {
    for name in FLOWS {
        let flow = flow_of(name);
        assert_eq!(flow.shippers.len(), 1, "{name}");
        let shipper = &flow.shippers[0];
        assert_eq!(shipper.lookback, Duration::from_secs(86_400), "{name}");
        assert!(!shipper.delete && !shipper.disabled, "{name}");
        // The chunk of an exporter to files, and the project of a bucket.
        let notes = match name {
            "three_clouds" => 2,
            "gcs" => 1,
            _ => 0,
        };
        assert_eq!(flow.notes.len(), notes, "{name}: {:?}", flow.notes);
        let is_daily = !["audit", "file_then_upload", "three_clouds"].contains(&name);
        let crons: Vec<&str> = flow.triggers.iter().filter_map(|trigger| trigger.cron.as_deref()).collect();
        match (is_daily, name) {
            (true, _) => assert_eq!(crons, ["@daily"], "{name}"),
            (false, "audit") => assert!(crons == ["0 0 * * *"] && flow.triggers[0].disabled),
            (false, _) => assert!(crons.is_empty(), "{name}"),
        }
        if name != "audit" {
            assert_eq!((&shipper.reads, shipper.query.severity_min), (&Reads::Executions, Some(Severity::INFO)));
        }
    }
    let keys = ["datadog", "elasticsearch", "audit"].map(|name| flow_of(name).shippers[0].offset_key.clone());
    assert_eq!(keys, ["company.team.LogShipper-state", "system.logShipperOffset", "system.logShipperOffset.audit"]);
}

#[test]
fn k7_each_exporter_gets_its_own_chunk() {
    let flow = flow_of("three_clouds");
    let chunks = flow.shippers[0].exporters.iter().map(|exporter| {
        let fields = exporter.fields(&Secrets::of_the_guide().context());
        fields.ok().and_then(|fields| fields.get("lane").map(|lane| lane["chunk"].clone()))
    });
    // The one in the middle misses its bucket.
    assert_eq!(chunks.collect::<Vec<_>>(), [Some(json!(5000)), None, Some(json!(1000))]);
}

#[test]
fn exporters_are_told_what_the_flow_says_in_their_own_words() {
    let keys = json!({"access_key_id": {"secret": "AWS_ACCESS_KEY_ID"},
        "secret_access_key": {"secret": "AWS_SECRET_KEY_ID"}});
    let aws = json!({"region": "eu-west-1", "credentials": {"static": keys}});
    let azure = json!({"client_secret": {"tenant_id": {"secret": "AZURE_TENANT_ID"},
        "client_id": {"secret": "AZURE_CLIENT_ID"}, "client_secret": {"secret": "AZURE_CLIENT_SECRET"}}});
    for (name, kind, fields) in [
        (
            "cloudwatch",
            "cloudwatch",
            json!({"log_group_name": "kestra", "log_stream_name": "kestra-log-stream", "aws": aws}),
        ),
        (
            "s3",
            "s3",
            json!({"bucket": "logbucket", "format": "JSON", "prefix": "kestra-log-file",
            "max_lines_per_file": 1_000_000, "aws": aws}),
        ),
        ("operational_suite", "gcp_logging", json!({"project_id": "my-gcp-project"})),
        (
            "gcs",
            "gcs",
            json!({"bucket": "my-bucket", "format": "JSON",
            "prefix": "kestra-log-file", "max_lines_per_file": 10_000}),
        ),
        (
            "azure_monitor",
            "azure_monitor",
            json!({"endpoint": "https://endpoint-host.ingest.monitor.azure.com",
            "rule_id": "dcr-69f0b123041d4d6e9f2bf72aad0b62cf", "stream_name": "kestraLogs", "credentials": azure}),
        ),
        (
            "azure_storage",
            "azure_blob",
            json!({"endpoint": "https://myblob.blob.core.windows.net/", "container": "logs",
            "format": "JSON", "prefix": "kestra-log-file", "max_lines_per_file": 1_000_000,
            "credentials": {"client_secret": {"tenant_id": "tenant_id", "client_id": "client_id",
                "client_secret": "client_secret"}}}),
        ),
        (
            "datadog",
            "datadog",
            json!({"url": {"secret": "DATADOG_INSTANCE_URL"},
            "api_key": {"secret": "DATADOG_APIK_KEY"}}),
        ),
        (
            "elasticsearch",
            "elasticsearch",
            json!({"hosts": ["https://elastic.example.com:9200"], "index": "kestra-logs",
            "auth": {"basic": {"username": "kestra_user", "password": {"secret": "ES_PASSWORD"}}}}),
        ),
        (
            "new_relic",
            "newrelic",
            json!({"url": "https://log-api.newrelic.com",
            "license_key": {"secret": "NEWRELIC_API_KEY"}}),
        ),
        (
            "splunk",
            "splunk",
            json!({"url": "https://example.splunkcloud.com:8088", "token": {"secret": "SPLUNK_API_KEY"},
            "source": "Kestra"}),
        ),
        ("opensearch", "opensearch", json!({"hosts": ["http://localhost:9200/"], "index": "logs"})),
        (
            "file_then_upload",
            "file",
            json!({"format": "JSON", "max_lines_per_file": 100,
            "dir": "storage/system/log_shipper_file/synchronize_logs/file"}),
        ),
    ] {
        assert_eq!(told(name), [(kind, fields)], "{name}");
    }
    let kinds: Vec<&str> = told("audit").iter().map(|(kind, _)| *kind).collect();
    let all = ["file", "cloudwatch", "gcp_logging", "azure_monitor", "datadog", "elasticsearch", "newrelic", "otlp"];
    assert_eq!(kinds, all);
}

#[test]
fn k22_an_audit_shipper_says_which_logs_it_wants() {
    let flow = flow_of("audit");
    let resources = ["FLOW", "EXECUTION"].map(str::to_owned).to_vec();
    assert_eq!(flow.shippers[0].query, Query::all().filter(Filter::one_of(Reads::RESOURCE, resources.clone())));
    assert_eq!(flow.shippers[0].reads, Reads::AuditLogs { resources });
    let spelled = text_of("audit").replace("- FLOW\n", "- kv store\n      - setting\n");
    let flow = Flow::parse(&spelled, &FlowContext::new()).unwrap();
    let Reads::AuditLogs { resources } = &flow.shippers[0].reads else { panic!("no audit logs") };
    let renamed = ["KV_STORE", "KVSTORE", "SETTING", "SYSTEM_SETTINGS", "TENANT_SETTINGS", "EXECUTION"];
    assert_eq!(resources, &renamed);
}

/// Goal: what is missing is said with its place, and what would be right. Method: the guide's first flow names an
/// exporter to Cloud Storage where Cloud Logging is meant.
#[test]
fn a_required_property_that_is_missing_is_said_when_the_shipper_is_built() {
    let (registry, _) = listening();
    let flow = flow_of("three_clouds");
    let context = Secrets::of_the_guide().context();
    let error = build(&flow.shippers[0], &registry, &context).unwrap_err().to_string();
    let words = ["`bucket` is required", "operationalsuite", "line: 20, column: 9", "exporter: googleOperationalSuite"];
    words.iter().for_each(|word| assert!(error.contains(word), "{error}"));
    let meant = text_of("three_clouds").replace("gcp.gcs", "gcp.operationalsuite");
    let flow = Flow::parse(&meant, &FlowContext::new()).unwrap();
    build(&flow.shippers[0], &registry, &context).unwrap();
}

#[test]
fn an_exporter_that_is_not_compiled_in_is_named_with_its_feature() {
    let context = Secrets::of_the_guide().context();
    for (name, kind) in [("s3", "s3"), ("operational_suite", "gcp_logging"), ("azure_storage", "azure_blob")] {
        let error = build(&flow_of(name).shippers[0], &Registry::new(), &context).unwrap_err().to_string();
        assert!(error.contains(&format!("no exporter `{kind}`")) && error.contains("feature"), "{error}");
        assert!(error.contains("logExporters[0].type") && error.contains(", column: 15"), "{error}");
    }
}

#[test]
fn older_names_and_further_spellings_are_taken() {
    let yaml = r#"
id: f
namespace: a
variables: {group: kestra, size: 250}
inputs:
  - {id: level, type: STRING, defaults: WARNING}
tasks:
  - id: both
    type: io.kestra.plugin.core.flow.Parallel
    tasks:
      - id: inner
        type: io.kestra.plugin.ee.core.log.LogShipper
        logLevelFilter: "{{ inputs.level }}"
        lookbackPeriod: PT12H
        batchSize: 1000
        flowId: nightly
        namespace: company
        timeout: PT10M
        delete: "true"
        logExporters:
          - {id: c, type: io.kestra.plugin.ee.aws.LogExporter, region: r, logGroupName: "{{ vars.group }}",
             logStreamName: s, chunk: "{{ vars.size }}"}
          - {id: g, type: io.kestra.plugin.ee.gcp.LogExporter}
          - {id: a, type: io.kestra.plugin.ee.azure.LogExporter, endpoint: e, ruleId: r, streamName: s}
          - {id: e, type: io.kestra.plugin.ee.elasticsearch.LogExporter, indexName: i, connection: {
             hosts: ["http://a:1/", "http://b:2"], pathPrefix: /es/, headers: ["Authorization: ApiKey {{ secret('K') }}"]}}
          - {id: o, type: io.kestra.plugin.ee.opensearch.LogExporter, indexName: i, connection: {hosts: "http://a:1",
             trustAllSsl: true, headers: ["X-Team: a", "Authorization: Bearer {{ secret('K') }}"]}}
          - {id: d, type: io.kestra.plugin.ee.dash0.LogExporter, endpoint: "https://x", authToken: "{{ secret('K') }}",
             dataset: prod}
"#;
    let flow = Flow::parse(yaml, &FlowContext::new()).unwrap();
    let shipper = &flow.shippers[0];
    let query = Query::all()
        .severity_min(Severity::WARN)
        .filter(Filter::equals("flowId", "nightly"))
        .filter(Filter::within("namespace", "company"));
    assert_eq!((&shipper.query, shipper.lookback), (&query, Duration::from_secs(43_200)));
    assert!(shipper.delete && shipper.timeout == Some(Duration::from_secs(600)));
    assert_eq!(flow.notes.len(), 1);
    assert!(flow.notes[0].to_string().contains("batchSize has no effect"), "{}", flow.notes[0]);
    let context = Secrets::default().with("K", "key").context();
    let fields: Vec<Value> =
        shipper.exporters.iter().map(|exporter| Value::Object(exporter.fields(&context).unwrap())).collect();
    assert_eq!(fields[0]["lane"], json!({"chunk": 250}));
    assert_eq!(fields[0]["log_group_name"], "kestra");
    assert_eq!(fields[3]["hosts"], json!(["http://a:1/es", "http://b:2/es"]));
    assert_eq!(fields[3]["auth"], json!({"api_key": {"secret": "K"}}));
    assert_eq!(fields[4]["connection"]["insecure_skip_verify"], true);
    assert_eq!(fields[4]["connection"]["headers"]["X-Team"], "a");
    assert_eq!(fields[5]["headers"]["Dash0-Dataset"], "prod");
    // For those that are compiled in, ours understand all of it.
    let mut mine = flow.clone();
    mine.shippers[0].exporters.drain(..3);
    build(&mine.shippers[0], &registry(), &context).unwrap();
}

/// Knows what it was asked to fetch, and nothing else.
#[derive(Debug, Default)]
struct Remote(Mutex<BTreeSet<String>>);

#[async_trait]
impl SecretProvider for Remote {
    fn secret(&self, name: &str) -> Option<Secret> {
        self.0.lock().unwrap().contains(name).then(|| Secret::new("hunter2"))
    }

    async fn fetch(&self, names: &BTreeSet<String>) -> Result<(), Error> {
        self.0.lock().unwrap().extend(names.iter().cloned());
        Ok(())
    }
}

/// Goal: secrets that are asked for over a network are all found before the flow is built, wherever they stand in it.
#[tokio::test]
async fn secrets_behind_a_network_are_fetched_before_a_flow_is_built() {
    let flow = r#"
id: f
namespace: n
tasks:
  - id: t
    type: io.kestra.plugin.ee.core.log.LogShipper
    logExporters:
      - {id: e, type: io.kestra.plugin.ee.elasticsearch.LogExporter, indexName: i, connection: {
         hosts: ["http://{{ secret('ssm:/host') }}:1/"], basicAuth: {username: u, password: "a{{ secret('ssm:/p') }}"}}}
      - {id: d, type: io.kestra.plugin.ee.dash0.LogExporter, endpoint: "http://x", dataset: prod,
         authToken: "{{ secret('secretsmanager:dash0#token') }}"}
"#;
    let flow = Flow::parse(flow, &FlowContext::new()).unwrap();
    let remote = Arc::new(Remote::default());
    let context = BuildContext::new(remote.clone());
    assert!(build(&flow.shippers[0], &registry(), &context).is_err(), "nobody has asked for them yet");
    flow.shippers[0].fetch_secrets(&context).await.unwrap();
    let fetched: Vec<String> = remote.0.lock().unwrap().iter().cloned().collect();
    assert_eq!(fetched, ["secretsmanager:dash0#token", "ssm:/host", "ssm:/p"]);
    build(&flow.shippers[0], &registry(), &context).unwrap();
}

/// Goal: nothing secret shows. Method: secrets written in clear, and one in a place where errors quote.
#[test]
fn p12_secrets_do_not_show() {
    let clear = text_of("opensearch")
        .replace("indexName: \"logs\"", "indexName: \"logs\"\n        chunk: 5")
        .replace("hosts:", "basicAuth: {username: u, password: hunter2-clear}\n          hosts:");
    let flow = Flow::parse(&clear, &FlowContext::new().variable("x", "hunter2-var")).unwrap();
    assert!(!format!("{flow:?}").contains("hunter2"), "{flow:?}");
    let quoted = text_of("opensearch").replace("http://localhost:9200/", "{{ secret('HOST') }}");
    let flow = Flow::parse(&quoted, &FlowContext::new()).unwrap();
    let context = Secrets::default().with("HOST", "hunter2:hunter2").context();
    let mut quoting = Registry::new();
    quoting.add_exporter("opensearch", |fields, _| -> Result<Told, Error> {
        Err(Error::config("hosts[0]", format!("{} is no address", fields["hosts"][0])))
    });
    for registry in [registry(), quoting] {
        let error = build(&flow.shippers[0], &registry, &context).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
        assert!(error.to_string().contains("connection.hosts") && error.to_string().contains("line: 21"), "{error}");
    }
}
