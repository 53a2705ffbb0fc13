//! The flows of the guide deliver to destinations as strict as the vendors' documents.

use std::path::Path;
use std::sync::Arc;

use logship::kestra::{Flow, FlowContext};
use logship::sources::memory::MemorySource;
use logship::state::memory::MemoryOffsets;
use logship::{BuildContext, RunReport, Severity, Timestamp, registry};
use logship_connect::Connection;
use logship_connect::objects::object_store::ObjectStoreExt;
use logship_connect::objects::object_store::path::Path as Key;
use logship_connect::objects::{Bucket, S3Bucket, S3Config};
use logship_testkit::conformance::server;
use logship_testkit::strict::cloudwatch::StrictCloudWatch;
use logship_testkit::strict::datadog::StrictDatadog;
use logship_testkit::strict::elasticsearch::{Credentials, StrictElasticsearch};
use logship_testkit::strict::newrelic::StrictNewRelic;
use logship_testkit::strict::opensearch::{Access, StrictOpenSearch};
use logship_testkit::strict::otlp::StrictOtlp;
use logship_testkit::strict::splunk::StrictSplunk;
use serde_json::{Value, json};

use super::{Secrets, text_of};

const WANTED: usize = 250;

/// A log store of which an INFO filter wants 250 records, all of the last hour.
fn store() -> Arc<MemorySource> {
    let source = MemorySource::new();
    let begin = Timestamp::now().saturating_sub(std::time::Duration::from_secs(3_600));
    for number in 0..300_i64 {
        let time = Timestamp::from_millis(begin.as_millis() + number * 10_000);
        source.push("logs", time, |record| {
            record.severity = if number % 6 == 5 { Severity::DEBUG } else { Severity::WARN };
            record.body = format!("message-{number}").as_str().into();
            record.attributes.push(("namespace".into(), "company.team".into()));
            record.attributes.push(("flowId".into(), "nightly".into()));
        });
    }
    Arc::new(source)
}

/// Runs the one shipper of a flow, twice: the second time there is nothing new.
async fn ship(yaml: &str, context: &BuildContext) -> (Flow, RunReport) {
    ship_with(yaml, context, Path::new("storage")).await
}

/// The same, with files in this folder.
async fn ship_with(yaml: &str, context: &BuildContext, storage: &Path) -> (Flow, RunReport) {
    let flow = Flow::parse(yaml, &FlowContext::new().variable("region", "r").storage(storage)).unwrap();
    let (source, offsets) = (store(), Arc::new(MemoryOffsets::new()));
    let shipper = flow.shippers[0].build(source, offsets, &registry(), context).unwrap();
    let report = shipper.run_once().await.unwrap().require_complete().unwrap();
    assert_eq!(report.lanes[0].accepted as usize, WANTED, "{report}");
    let again = shipper.run_once().await.unwrap().require_complete().unwrap();
    assert_eq!(again.lanes[0].read, 0, "{again}");
    (flow, report)
}

/// The flow of this name, but to an address of this test.
fn at(name: &str, address: &str, ours: &str) -> String {
    let text = text_of(name);
    assert!(text.contains(address), "{name} does not name {address}");
    text.replace(address, ours)
}

fn count_messages<'a>(values: impl IntoIterator<Item = &'a Value>) -> usize {
    let mut messages: Vec<String> = Vec::new();
    for value in values {
        let text = value.to_string();
        let number: String = text.split_once("message-").unwrap().1.chars().take_while(char::is_ascii_digit).collect();
        messages.push(number);
        assert!(text.contains("nightly"), "{text}");
    }
    messages.sort();
    messages.dedup();
    messages.len()
}

#[tokio::test]
async fn k9_the_elasticsearch_flow_fills_its_index() {
    let server = StrictElasticsearch::start().await.unwrap();
    server.rotate_credentials(Credentials::basic("kestra_user", "es_password"));
    let yaml = at("elasticsearch", "https://elastic.example.com:9200", &server.url());
    ship(&yaml, &Secrets::of_the_guide().context()).await;
    assert_eq!(server.count("kestra-logs"), WANTED);
    assert_eq!(count_messages(server.documents("kestra-logs").values()), WANTED);
}

#[tokio::test]
async fn k10_the_opensearch_flow_fills_its_index() {
    let server = StrictOpenSearch::start(Access::Open).await.unwrap();
    ship(&at("opensearch", "http://localhost:9200/", &server.url()), &BuildContext::default()).await;
    assert_eq!(count_messages(server.documents("logs").values()), WANTED);
}

#[tokio::test]
async fn k11_the_datadog_flow_takes_address_and_key_from_secrets() {
    let server = StrictDatadog::start().await.unwrap();
    server.rotate_key("datadog_apik_key");
    let secrets = Secrets::of_the_guide().with("DATADOG_INSTANCE_URL", &server.url());
    ship(&text_of("datadog"), &secrets.context()).await;
    assert_eq!(count_messages(&server.logs()), WANTED);
    assert_eq!(server.spoiled(), Default::default());
}

#[tokio::test]
async fn k12_the_new_relic_flow_delivers() {
    let server = StrictNewRelic::start().await.unwrap();
    server.rotate_key("newrelic_api_key");
    let yaml = at("new_relic", "https://log-api.newrelic.com", &server.url());
    ship(&yaml, &Secrets::of_the_guide().context()).await;
    assert_eq!(count_messages(&server.logs()), WANTED);
}

#[tokio::test]
async fn k13_the_splunk_flow_delivers_as_kestra_does() {
    let server = StrictSplunk::start().await.unwrap();
    server.rotate_token("splunk_api_key");
    let yaml = at("splunk", "https://example.splunkcloud.com:8088", &server.url());
    ship(&yaml, &Secrets::of_the_guide().context()).await;
    assert_eq!(count_messages(&server.events()), WANTED);
    assert!(server.events().iter().all(|event| event["source"] == "Kestra"), "{}", server.events()[0]);
}

#[tokio::test]
async fn k14_the_opentelemetry_flow_puts_its_token_behind_the_word_bearer() {
    let server = StrictOtlp::start().await.unwrap();
    server.require_header("authorization", "Bearer otel_token");
    let yaml = at("opentelemetry", "http://otel-collector:4318", &server.url());
    ship(&yaml, &Secrets::of_the_guide().context()).await;
    assert_eq!(server.count(), WANTED);
    assert_eq!(count_messages(&server.records()), WANTED);
}

/// The flow of this name, with one more property of its exporter: Kestra's own way to another address.
fn overridden(name: &str, ours: &str) -> String {
    format!("{}\n        endpointOverride: {ours}\n", text_of(name).trim_end())
}

#[tokio::test]
async fn k15_the_cloudwatch_flow_fills_its_stream() {
    let server = StrictCloudWatch::start().await.unwrap();
    server.require_access_key("aws_access_key_id");
    server.create("kestra", "kestra-log-stream");
    ship(&overridden("cloudwatch", &server.url()), &Secrets::of_the_guide().context()).await;
    let events = server.events("kestra", "kestra-log-stream");
    let messages: Vec<Value> = events.iter().map(|event| serde_json::from_str(&event.message).unwrap()).collect();
    assert_eq!((events.len(), count_messages(&messages)), (WANTED, WANTED));
}

#[tokio::test]
async fn k16_the_s3_flow_writes_an_object_that_its_report_names() {
    let Some(url) = server("LOGSHIP_MOTO_URL") else { return };
    let client = Connection::default().client("use a bucket", &BuildContext::default()).unwrap();
    let bucket = format!("logbucket-{}-{}", std::process::id(), Timestamp::now().as_millis());
    assert!(client.put(format!("{url}/{bucket}")).send().await.unwrap().status().is_success());
    let yaml = overridden("s3", &url).replace("bucket: logbucket", &format!("bucket: {bucket}"));
    let (_, report) = ship(&yaml, &Secrets::of_the_guide().context()).await;
    let [uri] = &report.lanes[0].uris[..] else { panic!("{report}") };
    let key = uri.strip_prefix(&format!("s3://{bucket}/")).unwrap();
    assert!(key.starts_with("kestra-log-file"), "{key}");
    let aws = json!({"region": "r", "endpoint": url,
        "credentials": {"static": {"access_key_id": "key", "secret_access_key": "secret"}}});
    let mut place = S3Config::new(&bucket);
    place.aws = serde_json::from_value(aws).unwrap();
    let (place, _) = S3Bucket::new(&place, &BuildContext::default()).unwrap();
    let object = place.store().await.unwrap().get(&Key::parse(key).unwrap()).await.unwrap().bytes().await.unwrap();
    let object = String::from_utf8(object.to_vec()).unwrap();
    let records: Vec<Value> = object.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((records.len(), count_messages(&records)), (WANTED, WANTED));
}

/// Goal: what a shipper writes can be used by the next task. Method: the upload of the guide asks for a file's address.
#[tokio::test]
async fn k21_files_of_at_most_a_hundred_lines_are_an_output_of_the_task() {
    let dir = tempfile::tempdir().unwrap();
    let (flow, report) = ship_with(&text_of("file_then_upload"), &BuildContext::default(), dir.path()).await;
    let outputs = flow.shippers[0].outputs(&report);
    let uris = outputs["outputs"]["file"]["uris"].as_array().unwrap();
    assert_eq!(uris.len(), 3);
    let mut lines = Vec::new();
    for uri in uris {
        let path = uri.as_str().unwrap().strip_prefix("file://").unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text.lines().count() <= 100);
        lines.extend(text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()));
    }
    assert_eq!(count_messages(&lines), WANTED);
    assert_eq!(lines[0]["severity"], "WARN");

    let upload = &flow.tasks[0];
    assert_eq!((upload.id.as_str(), upload.kind.as_str()), ("upload", "io.kestra.plugin.aws.s3.Upload"));
    let before = upload.properties(&FlowContext::new()).unwrap_err().to_string();
    assert!(before.contains("once their task has run") && before.contains("line: 22, column: 11"), "{before}");
    let context = FlowContext::new().output(&flow.shippers[0].id, outputs.clone());
    let properties = upload.properties(&context).unwrap();
    assert_eq!(properties["from"], uris[0]);
    assert_eq!(properties["accessKeyId"], serde_json::json!({"secret": "AWS_ACCESS_KEY_ID"}));
}

/// The audit flow, but for those of its exporters that are not there yet.
#[tokio::test]
async fn k22_the_audit_flow_delivers_what_it_asks_for_to_all_its_destinations() {
    let (elasticsearch, datadog) = (StrictElasticsearch::start().await.unwrap(), StrictDatadog::start().await.unwrap());
    let (newrelic, otlp) = (StrictNewRelic::start().await.unwrap(), StrictOtlp::start().await.unwrap());
    otlp.require_header("authorization", "Bearer otel_token");
    let mut yaml = text_of("audit");
    for (address, ours) in [
        ("https://http-intake.logs.datadoghq.eu", datadog.url()),
        ("https://elastic.example.com:9200", elasticsearch.url()),
        ("https://log-api.newrelic.com", newrelic.url()),
        ("http://otel-collector:4318", otlp.url()),
    ] {
        yaml = yaml.replace(address, &ours);
    }
    let dir = tempfile::tempdir().unwrap();
    let mut flow = Flow::parse(&yaml, &FlowContext::new().storage(dir.path())).unwrap();
    let shipper = &mut flow.shippers[0];
    shipper.exporters.retain(|exporter| !["cloudwatch", "gcp_logging", "azure_monitor"].contains(&exporter.kind));
    let source = MemorySource::new();
    for (number, resource) in ["FLOW", "EXECUTION", "USER", "FLOW"].into_iter().cycle().take(40).enumerate() {
        let time = Timestamp::now().saturating_sub(std::time::Duration::from_secs(100 - number as u64));
        source.push("audit", time, |record| {
            record.body = format!("message-{number} nightly").as_str().into();
            record.attributes.push(("resource".into(), resource.into()));
        });
    }
    let context = Secrets::of_the_guide().context();
    let shipper = shipper.build(Arc::new(source), Arc::new(MemoryOffsets::new()), &registry(), &context).unwrap();
    let report = shipper.run_once().await.unwrap().require_complete().unwrap();
    assert_eq!(report.lanes.len(), 5);
    assert!(report.lanes.iter().all(|lane| lane.accepted == 30), "{report}");
    assert_eq!((elasticsearch.count("kestra-logs"), datadog.logs().len()), (30, 30));
    assert_eq!((newrelic.logs().len(), otlp.count()), (30, 30));
}
