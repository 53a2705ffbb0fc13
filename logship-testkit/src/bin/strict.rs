//! Runs a stand-in as a server of its own: `strict elasticsearch 9200`, `strict otlp 4318`.

use std::io::{self, Write};

use logship_testkit::strict::elasticsearch::StrictElasticsearch;
use logship_testkit::strict::otlp::StrictOtlp;

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let usage = || io::Error::new(io::ErrorKind::InvalidInput, "usage: strict elasticsearch|otlp [PORT]");
    let port = |usual: u16| match arguments.get(1..) {
        Some([port]) => port.parse().map_err(|_| usage()),
        Some([]) => Ok(usual),
        _ => Err(usage()),
    };
    // Each is kept, as it stops when it is dropped.
    let (_elasticsearch, _otlp);
    let url = match arguments.first() {
        Some(&"elasticsearch") => {
            _elasticsearch = StrictElasticsearch::start_on(port(9200)?).await?;
            _elasticsearch.url()
        }
        Some(&"otlp") => {
            _otlp = StrictOtlp::start_on(port(4318)?).await?;
            _otlp.url()
        }
        _ => return Err(usage()),
    };
    writeln!(io::stdout(), "{} at {url}", arguments[0])?;
    // Until the process is killed.
    std::future::pending().await
}
