//! Runs a stand-in as a server of its own: `strict elasticsearch 9200`.

use std::io::{self, Write};

use logship_testkit::strict::elasticsearch::StrictElasticsearch;
use logship_testkit::strict::loggly::StrictLoggly;
use logship_testkit::strict::logzio::StrictLogzio;
use logship_testkit::strict::loki::StrictLoki;
use logship_testkit::strict::opensearch::{Access, StrictOpenSearch};

/// The names of the stand-ins, with the port that the real one has.
const KINDS: [(&str, u16); 5] =
    [("elasticsearch", 9200), ("loggly", 8080), ("logzio", 8070), ("loki", 3100), ("opensearch", 9200)];

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let usual = |kind: &str| KINDS.iter().find(|(name, _)| *name == kind).map(|(_, port)| *port);
    let asked = match arguments.as_slice() {
        [kind] => usual(kind).map(|port| (kind.as_str(), port)),
        [kind, port] => usual(kind).and_then(|_| Some((kind.as_str(), port.parse().ok()?))),
        _ => None,
    };
    let Some((kind, port)) = asked else {
        let names = KINDS.map(|(name, _)| name).join("|");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("usage: strict {names} [PORT]")));
    };
    // Where a token is needed it is `token`. The server lives in the future that never ends.
    match kind {
        "loggly" => {
            let server = StrictLoggly::start_on(port, "token").await?;
            serve(kind, &server.url()).await
        }
        "logzio" => {
            let server = StrictLogzio::start_on(port, "token").await?;
            serve(kind, &server.url()).await
        }
        "loki" => {
            let server = StrictLoki::start_on(port).await?;
            serve(kind, &server.url()).await
        }
        "opensearch" => {
            let server = StrictOpenSearch::start_on(port, Access::Open).await?;
            serve(kind, &server.url()).await
        }
        _ => {
            let server = StrictElasticsearch::start_on(port).await?;
            serve(kind, &server.url()).await
        }
    }
}

/// Says where it is, then waits until the process is killed.
async fn serve(kind: &str, url: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{kind} at {url}")?;
    std::future::pending().await
}
