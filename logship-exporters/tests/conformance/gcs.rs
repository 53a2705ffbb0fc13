//! Against `strict::gcs::StrictGcs`, and what stands for Google on PyPI as far as that goes.

use logship_core::{BuildContext, Chunk, Cursor, Exporter, LogRecord, Page, PageEnd, Partition, RecordId, Timestamp};
use logship_exporters::gcs::{GcsConfig, GoogleCredentials};
use logship_exporters::objects::ObjectExporter;
use logship_testkit::conformance::server;
use logship_testkit::exporter_conformance;
use logship_testkit::proxy::FaultProxy;
use serde_json::json;

use super::clouds;

exporter_conformance!(async |_| clouds::gcs::cloud().await);

/// Goal: another server than ours takes our writes for what they are. It reads no percent signs in paths, takes writes
/// whatever their condition, and lists and describes objects by another interface than we do, by which it is asked here.
#[tokio::test]
async fn the_emulator_has_what_was_written() {
    let Some(url) = server("LOGSHIP_GCS_URL") else { return };
    let proxy = FaultProxy::start_decoding(&url).await.unwrap();
    let bucket = clouds::new_name();
    let client = logship_connect::Connection::default().client("look", &BuildContext::default()).unwrap();
    let made = client
        .post(format!("{url}/storage/v1/b?project=logship"))
        .header("content-type", "application/json")
        .body(json!({"name": bucket}).to_string());
    assert!(made.send().await.unwrap().status().is_success());
    let mut config = GcsConfig::new(&bucket);
    config.endpoint = Some(proxy.url());
    config.credentials = GoogleCredentials::None;
    config.prefix = "archive/%Y/%m/%d/logs".to_owned();
    let exporter = ObjectExporter::gcs(config, BuildContext::default()).unwrap();
    let id = RecordId::new(Partition::new("logs"), Cursor::number(1));
    let mut record = LogRecord::new(id, Timestamp::parse("2026-11-20T23:59:59.5Z").unwrap());
    record.body = "hello".into();
    let page = Page::new(Partition::new("logs"), vec![record], PageEnd::More);
    let chunk = Chunk::of_page(page, exporter.encoding().as_deref()).unwrap();
    for _ in 0..2 {
        exporter.export(&chunk).await.unwrap();
    }
    let read = async |path: String| client.get(format!("{url}{path}")).send().await.unwrap().text().await.unwrap();
    let list: serde_json::Value = serde_json::from_str(&read(format!("/storage/v1/b/{bucket}/o")).await).unwrap();
    let items = list["items"].as_array().unwrap();
    assert_eq!(items.len(), 1, "{list}");
    let name = items[0]["name"].as_str().unwrap();
    assert!(name.starts_with("archive/2026/11/20/logs-test-from-the-first-") && name.ends_with(".json"), "{name}");
    assert!(read(format!("/{bucket}/{name}")).await.contains("\"bodyValue\":\"hello\""));
}
