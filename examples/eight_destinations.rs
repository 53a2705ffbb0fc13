//! Eight destinations from one read: the whole shipper as a configuration, as a file would say it.
//!
//! What you will see: 20 000 rows of a SQLite log table are read once and shipped to Elasticsearch, OpenSearch, Datadog,
//! New Relic, Splunk, Loki, Logz.io and OTLP at the same time, each in its own form and within its own limits.
//!
//!     cargo run --release --example eight_destinations
//!
//! The destinations are strict stand-ins inside this process. For real ones, leave out `url` (or name your own) and keep
//! the secrets where they belong: `{"env": "DD_API_KEY"}` in the place of a text.

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::path::Path;

use logship::config::ShipperConfig;
use logship::{BuildContext, registry};
use logship_testkit::strict::datadog::StrictDatadog;
use logship_testkit::strict::elasticsearch::StrictElasticsearch;
use logship_testkit::strict::logzio::StrictLogzio;
use logship_testkit::strict::loki::StrictLoki;
use logship_testkit::strict::newrelic::StrictNewRelic;
use logship_testkit::strict::opensearch::{Access, StrictOpenSearch};
use logship_testkit::strict::otlp::StrictOtlp;
use logship_testkit::strict::splunk::StrictSplunk;
use serde_json::json;
use sqlx::Executor;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};

/// Any error ends the example with its text.
type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let dir = std::env::temp_dir().join(format!("logship-eight-destinations-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let database = dir.join("logs.db");
    add_rows(&database, 20_000).await?;

    let (elasticsearch, datadog) = (StrictElasticsearch::start().await?, StrictDatadog::start().await?);
    let (newrelic, splunk) = (StrictNewRelic::start().await?, StrictSplunk::start().await?);
    let (loki, logzio) = (StrictLoki::start().await?, StrictLogzio::start("token").await?);
    let (opensearch, otlp) = (StrictOpenSearch::start(Access::Open).await?, StrictOtlp::start().await?);
    let config = json!({
        "source": {"type": "sqlite", "path": database},
        "offsets": {"type": "file", "dir": dir.join("offsets")},
        "query": {"severity_min": "INFO"},
        "redaction": {},
        "exporters": [
            {"id": "elastic", "type": "elasticsearch", "hosts": [elasticsearch.url()], "index": "logs-orchestrator"},
            {"id": "opensearch", "type": "opensearch", "hosts": [opensearch.url()], "index": "logs-orchestrator"},
            {"id": "datadog", "type": "datadog", "url": datadog.url(), "api_key": "key", "ddtags": ["env:prod"]},
            {"id": "newrelic", "type": "newrelic", "url": newrelic.url(), "license_key": "key"},
            {"id": "splunk", "type": "splunk", "url": splunk.url(), "token": "token", "index": "main"},
            {"id": "loki", "type": "loki", "url": loki.url(), "labels": {"app": {"value": "orchestrator"}}},
            {"id": "logzio", "type": "logzio", "url": logzio.url(), "token": "token"},
            {"id": "otlp", "type": "otlp", "endpoint": otlp.url(), "protocol": "http_protobuf"},
        ],
    });
    let config: ShipperConfig = serde_json::from_value(config)?;
    let shipper = config.build(&registry(), &BuildContext::default())?;

    let report = shipper.run_once().await?;
    println!("{report}");
    let arrived = [
        elasticsearch.count("logs-orchestrator"),
        opensearch.count("logs-orchestrator"),
        datadog.logs().len(),
        newrelic.logs().len(),
        splunk.events().len(),
        loki.entries().len(),
        logzio.logs().len(),
        otlp.count(),
    ];
    println!("Arrived, by the destinations' own count: {arrived:?}");
    report.require_complete()?;
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

/// Writes rows as an orchestrator would: in Kestra's table, a second apart up to now.
async fn add_rows(database: &Path, rows: u32) -> Result<(), Failure> {
    let options = SqliteConnectOptions::new().filename(database).create_if_missing(true);
    let pool = SqlitePool::connect_with(options).await?;
    pool.execute(
        "create table logs (key text primary key, tenant_id text, namespace text not null, flow_id text not null, \
         task_id text, execution_id text, taskrun_id text, attempt_number integer, trigger_id text, \
         execution_kind text, level text, timestamp text, thread text, message text); \
         create index logs_by_time on logs (timestamp, key)",
    )
    .await?;
    let mut transaction = pool.begin().await?;
    for number in 0..rows {
        sqlx::query(
            "insert into logs (key, namespace, flow_id, task_id, execution_id, level, timestamp, message) \
             values (?1, 'company.team', 'nightly-load', 'copy', ?2, 'INFO', strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-' || ?3 || ' seconds'), ?4)",
        )
        .bind(format!("log-{number:08}"))
        .bind(format!("execution-{}", number / 50))
        .bind(rows - number)
        .bind(format!("copied {} rows from staging.orders to warehouse.orders", 1_000 + number % 7_000))
        .execute(&mut *transaction)
        .await?;
    }
    transaction.commit().await?;
    pool.close().await;
    Ok(())
}
