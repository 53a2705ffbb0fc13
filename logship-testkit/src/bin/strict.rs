//! Runs a stand-in as a server of its own: `strict splunk 8088`.

use std::io::{self, Write};

use logship_testkit::strict::azure_monitor::StrictAzureMonitor;
use logship_testkit::strict::cloudwatch::StrictCloudWatch;
use logship_testkit::strict::datadog::StrictDatadog;
use logship_testkit::strict::elasticsearch::StrictElasticsearch;
use logship_testkit::strict::firehose::StrictFirehose;
use logship_testkit::strict::gcp_logging::StrictGcpLogging;
use logship_testkit::strict::http::StrictHttp;
use logship_testkit::strict::kinesis::StrictKinesis;
use logship_testkit::strict::loggly::StrictLoggly;
use logship_testkit::strict::logzio::StrictLogzio;
use logship_testkit::strict::loki::StrictLoki;
use logship_testkit::strict::newrelic::StrictNewRelic;
use logship_testkit::strict::opensearch::{Access, StrictOpenSearch};
use logship_testkit::strict::otlp::StrictOtlp;
use logship_testkit::strict::splunk::StrictSplunk;

/// What there is, and the port of each unless another is given.
const DESTINATIONS: [(&str, u16); 15] = [
    ("azure_monitor", 8284),
    ("cloudwatch", 4586),
    ("datadog", 8282),
    ("elasticsearch", 9200),
    ("firehose", 4573),
    ("gcp_logging", 8285),
    ("http", 8090),
    ("kinesis", 4568),
    ("loggly", 8080),
    ("logzio", 8070),
    ("loki", 3100),
    ("newrelic", 8283),
    ("opensearch", 9200),
    ("otlp", 4318),
    ("splunk", 8088),
];

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let usual_port = |name: &str| DESTINATIONS.iter().find(|(known, _)| *known == name).map(|(_, port)| *port);
    let (name, port) = match arguments.as_slice() {
        [name] => (*name, usual_port(name)),
        [name, port] => (*name, port.parse().ok()),
        _ => ("", None),
    };
    let usage = || {
        let names = DESTINATIONS.map(|(name, _)| name).join("|");
        io::Error::new(io::ErrorKind::InvalidInput, format!("usage: strict {names} [PORT]"))
    };
    let port = port.ok_or_else(usage)?;
    match name {
        "azure_monitor" => serve(name, StrictAzureMonitor::start_on(port).await?, |server| server.url()).await,
        "cloudwatch" => serve(name, StrictCloudWatch::start_on(port).await?, |server| server.url()).await,
        "datadog" => serve(name, StrictDatadog::start_on(port).await?, |server| server.url()).await,
        "elasticsearch" => serve(name, StrictElasticsearch::start_on(port).await?, |server| server.url()).await,
        "firehose" => {
            let server = StrictFirehose::start_on(port).await?;
            server.create("logs");
            serve(name, server, |server| format!("{}, stream logs", server.url())).await
        }
        // Where it asks for tokens is in its service account's key, which is shown beside its address.
        "gcp_logging" => {
            let server = StrictGcpLogging::start_on(port).await?;
            serve(name, server, |server| format!("{}, key {}", server.url(), server.service_account_key())).await
        }
        "http" => serve(name, StrictHttp::start_on(port).await?, |server| server.url()).await,
        "kinesis" => {
            let server = StrictKinesis::start_on(port).await?;
            server.create("logs");
            serve(name, server, |server| format!("{}, stream logs", server.url())).await
        }
        // Where a token is needed it is `token`.
        "loggly" => serve(name, StrictLoggly::start_on(port, "token").await?, |server| server.url()).await,
        "logzio" => serve(name, StrictLogzio::start_on(port, "token").await?, |server| server.url()).await,
        "loki" => serve(name, StrictLoki::start_on(port).await?, |server| server.url()).await,
        "newrelic" => serve(name, StrictNewRelic::start_on(port).await?, |server| server.url()).await,
        "opensearch" => serve(name, StrictOpenSearch::start_on(port, Access::Open).await?, |server| server.url()).await,
        "otlp" => serve(name, StrictOtlp::start_on(port).await?, |server| server.url()).await,
        "splunk" => serve(name, StrictSplunk::start_on(port).await?, |server| server.url()).await,
        _ => Err(usage()),
    }
}

/// Says where it is, and goes on until the process is killed.
async fn serve<S>(name: &str, server: S, url: impl Fn(&S) -> String) -> io::Result<()> {
    writeln!(io::stdout(), "{name} at {}", url(&server))?;
    std::future::pending().await
}
