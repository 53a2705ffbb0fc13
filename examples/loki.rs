//! Grafana Loki.
//!
//! What you will see: three records are pushed as lines of two streams, told apart by the labels `namespace` and
//! `level`, to a strict stand-in inside this process; or to the address that is given.
//!
//!     cargo run --example loki
//!     cargo run --example loki -- http://localhost:3100

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use logship::exporters::loki::{Loki, LokiConfig, LokiLabel};
use logship::sources::memory::MemorySource;
use logship::state::memory::MemoryOffsets;
use logship::{BuildContext, Lane, LogShipper, RunReport, Severity, Timestamp};
use logship_testkit::strict::loki::StrictLoki;

/// Any error ends the example with its text.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Ships to this address, or to the stand-in.
pub async fn ship(given: Option<String>) -> Result<RunReport, Failure> {
    let stand_in = StrictLoki::start().await?;
    let mut config = LokiConfig::new(given.unwrap_or_else(|| stand_in.url()).as_str());
    // Each combination of values is a stream: labels have few. All else can be found in the line.
    config.labels.insert("namespace".to_owned(), LokiLabel::Attribute("namespace".to_owned()));
    config.labels.insert("level".to_owned(), LokiLabel::Severity);

    let source = MemorySource::new();
    for (severity, text) in [(Severity::INFO, "started"), (Severity::WARN, "no rows"), (Severity::INFO, "ended")] {
        source.push("demo", Timestamp::now(), |record| {
            (record.severity, record.body) = (severity, text.into());
            record.attributes = vec![("namespace".into(), "company.team".into())];
        });
    }
    let shipper = LogShipper::builder(source)
        .offsets(MemoryOffsets::new())
        .lane(Lane::new("loki", Loki::new(config, BuildContext::default())?))
        .build()?;
    Ok(shipper.run_once().await?)
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    println!("{}", ship(std::env::args().nth(1)).await?);
    Ok(())
}
