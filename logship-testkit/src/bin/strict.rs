//! Runs a stand-in as a server of its own: `strict elasticsearch 9200`.

use std::io::{self, Write};

use logship_testkit::strict::elasticsearch::StrictElasticsearch;

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let port = match arguments.as_slice() {
        ["elasticsearch"] => Some(9200),
        ["elasticsearch", port] => port.parse().ok(),
        _ => None,
    };
    let Some(port) = port else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "usage: strict elasticsearch [PORT]"));
    };
    let elasticsearch = StrictElasticsearch::start_on(port).await?;
    writeln!(io::stdout(), "elasticsearch at {}", elasticsearch.url())?;
    // Until the process is killed.
    std::future::pending().await
}
