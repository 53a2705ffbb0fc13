//! OTLP: any server that takes logs by the OpenTelemetry protocol, such as a Collector.
//!
//! What you will see: three records are shipped to a strict stand-in inside this process, in each of the protocol's
//! forms over HTTP; or to the address that is given, in protobuf, with the `Authorization` that is in LOGSHIP_KEY.
//!
//!     cargo run --example otlp
//!     cargo run --example otlp -- http://localhost:4318

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use logship::exporters::otlp::{Otlp, OtlpConfig, OtlpProtocol};
use logship::sources::memory::MemorySource;
use logship::state::memory::MemoryOffsets;
use logship::{BuildContext, Lane, LogShipper, RunReport, SecretRef, Severity, Timestamp};
use logship_testkit::strict::otlp::StrictOtlp;

/// Any error ends the example with its text.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Ships to this address, or to the stand-in.
pub async fn ship(given: Option<String>) -> Result<RunReport, Failure> {
    let stand_in = StrictOtlp::start().await?;
    let mut protobuf = OtlpConfig::new(given.clone().unwrap_or_else(|| stand_in.url()));
    if std::env::var_os("LOGSHIP_KEY").is_some() {
        protobuf.headers.insert("Authorization".to_owned(), SecretRef::Env("LOGSHIP_KEY".to_owned()));
    }

    let source = MemorySource::new();
    for text in ["started", "copied 3 rows", "ended"] {
        source.push("demo", Timestamp::now(), |record| {
            (record.severity, record.body) = (Severity::INFO, text.into());
            record.attributes = vec![("flowId".into(), "nightly-load".into())];
        });
    }
    let mut shipper = LogShipper::builder(source)
        .offsets(MemoryOffsets::new())
        .lane(Lane::new("protobuf", Otlp::new(protobuf, BuildContext::default())?));
    if given.is_none() {
        let mut json = OtlpConfig::new(stand_in.url());
        json.protocol = OtlpProtocol::HttpJson;
        shipper = shipper.lane(Lane::new("json", Otlp::new(json, BuildContext::default())?));
    }
    Ok(shipper.build()?.run_once().await?)
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    println!("{}", ship(std::env::args().nth(1)).await?);
    Ok(())
}
