//! Search: Elasticsearch and OpenSearch.
//!
//! What you will see: three records become documents of an index in both, each a strict stand-in inside this process; or
//! in the one that is named, at its address.
//!
//!     cargo run --example search
//!     cargo run --example search -- elasticsearch http://localhost:9200
//!
//! A cluster that asks who you are wants the field `auth`, such as `"auth": {"api_key": {"env": "ES_API_KEY"}}`.

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use logship::sources::memory::MemorySource;
use logship::state::memory::MemoryOffsets;
use logship::{BuildContext, Lane, LogShipper, RunReport, Severity, Timestamp, registry};
use logship_testkit::strict::elasticsearch::StrictElasticsearch;
use logship_testkit::strict::opensearch::{Access, StrictOpenSearch};
use serde_json::json;

/// Any error ends the example with its text.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Ships to the engine of this name at this address, or to the stand-ins of both.
pub async fn ship(given: Option<(String, String)>) -> Result<RunReport, Failure> {
    let (elasticsearch, opensearch) =
        (StrictElasticsearch::start().await?, StrictOpenSearch::start(Access::Open).await?);
    let mut engines =
        vec![("elasticsearch".to_owned(), elasticsearch.url()), ("opensearch".to_owned(), opensearch.url())];
    if let Some(given) = given {
        engines = vec![given];
    }

    let source = MemorySource::new();
    for text in ["started", "copied 3 rows", "ended"] {
        source.push("demo", Timestamp::now(), |record| {
            (record.severity, record.body) = (Severity::INFO, text.into());
            record.attributes = vec![("flowId".into(), "nightly-load".into())];
        });
    }
    let mut shipper = LogShipper::builder(source).offsets(MemoryOffsets::new());
    for (kind, url) in engines {
        // An index for each day; with the ids of records, so that a repeat is recognised.
        let fields = serde_json::from_value(json!({"hosts": [url], "index": "logs-demo-%Y.%m.%d"}))?;
        let exporter = registry().exporter(&kind, fields, &BuildContext::default())?;
        shipper = shipper.lane(Lane::shared(kind, exporter));
    }
    Ok(shipper.build()?.run_once().await?)
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    println!("{}", ship(std::env::args().nth(1).zip(std::env::args().nth(2))).await?);
    Ok(())
}
