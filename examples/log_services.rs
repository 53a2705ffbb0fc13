//! Log services: Datadog, New Relic, Splunk, Logz.io and Loggly.
//!
//! What you will see: three records are shipped to all five, each a strict stand-in inside this process; or to the one
//! that is named, at its address, with the key or token that is in LOGSHIP_KEY.
//!
//!     cargo run --example log_services
//!     LOGSHIP_KEY=... cargo run --example log_services -- datadog https://http-intake.logs.datadoghq.eu

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use logship::sources::memory::MemorySource;
use logship::state::memory::MemoryOffsets;
use logship::{BuildContext, Lane, LogShipper, RunReport, Severity, Timestamp, registry};
use logship_testkit::strict::datadog::StrictDatadog;
use logship_testkit::strict::loggly::StrictLoggly;
use logship_testkit::strict::logzio::StrictLogzio;
use logship_testkit::strict::newrelic::StrictNewRelic;
use logship_testkit::strict::splunk::StrictSplunk;
use serde_json::json;

/// Any error ends the example with its text.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Ships to the service of this name at this address, or to the stand-ins of all.
pub async fn ship(given: Option<(String, String)>) -> Result<RunReport, Failure> {
    let (datadog, newrelic) = (StrictDatadog::start().await?, StrictNewRelic::start().await?);
    let (splunk, logzio) = (StrictSplunk::start().await?, StrictLogzio::start("token").await?);
    let loggly = StrictLoggly::start("token").await?;
    let url = |stand_in: String| given.as_ref().map_or(stand_in, |(_, url)| url.clone());
    let key = if given.is_some() { json!({"env": "LOGSHIP_KEY"}) } else { json!("token") };
    let mut services = vec![
        ("datadog", json!({"url": url(datadog.url()), "api_key": key, "ddtags": ["env:demo"]})),
        ("newrelic", json!({"url": url(newrelic.url()), "license_key": key})),
        ("splunk", json!({"url": url(splunk.url()), "token": key})),
        ("logzio", json!({"url": url(logzio.url()), "token": key})),
        ("loggly", json!({"url": url(loggly.url()), "token": key, "tags": ["demo"]})),
    ];
    services.retain(|(kind, _)| given.as_ref().is_none_or(|(name, _)| name == kind));

    let source = MemorySource::new();
    for text in ["started", "copied 3 rows", "ended"] {
        source.push("demo", Timestamp::now(), |record| (record.severity, record.body) = (Severity::INFO, text.into()));
    }
    let mut shipper = LogShipper::builder(source).offsets(MemoryOffsets::new());
    for (kind, fields) in services {
        let exporter = registry().exporter(kind, serde_json::from_value(fields)?, &BuildContext::default())?;
        shipper = shipper.lane(Lane::shared(kind, exporter));
    }
    Ok(shipper.build()?.run_once().await?)
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    println!("{}", ship(std::env::args().nth(1).zip(std::env::args().nth(2))).await?);
    Ok(())
}
