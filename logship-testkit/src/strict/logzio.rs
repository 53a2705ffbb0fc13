//! A stand-in for the Logz.io listener, written from <https://docs.logz.io/docs/shipping/Code/HTTP>.
//!
//! A body of lines, of which each is judged alone: what is valid is stored, and the answer counts what is not.

use std::io;

use logship_core::Secret;
use serde_json::{Map, Value, json};

use super::faults::Items;
use super::intake::{Call, Reply, Rules, StandIn, Taken};

/// 10 MB: "10,485,760 bytes".
const BODY_BYTES_MAX: usize = 10_485_760;
/// "Each log line must be 500,000 bytes or less".
const LINE_BYTES_MAX: usize = 500_000;

/// A Logz.io listener.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use logship_testkit::strict::logzio::StrictLogzio;
///
/// let logzio = StrictLogzio::start("token").await?;
/// assert!(logzio.logs().is_empty());
/// # std::io::Result::Ok(())
/// # }).unwrap();
/// ```
pub type StrictLogzio = StandIn<Logzio>;

/// What Logz.io takes and keeps.
#[derive(Debug)]
pub struct Logzio {
    token: Secret,
    line_bytes_max: usize,
    logs: Vec<Map<String, Value>>,
}

impl StrictLogzio {
    /// Starts one on any free port, which knows this token.
    pub async fn start(token: &str) -> io::Result<Self> {
        Self::start_on(0, token).await
    }

    /// Starts one on this port; 0 is any free one.
    pub async fn start_on(port: u16, token: &str) -> io::Result<Self> {
        Self::open(port, Logzio { token: token.into(), line_bytes_max: LINE_BYTES_MAX, logs: Vec::new() }).await
    }

    /// How long a line may be, in bytes. 500,000 unless set.
    pub fn max_line_length(&self, bytes: usize) {
        self.state().rules.line_bytes_max = bytes;
    }

    /// What was stored, in order.
    pub fn logs(&self) -> Vec<Map<String, Value>> {
        self.state().rules.logs.clone()
    }
}

impl Rules for Logzio {
    fn body_bytes_max(&self) -> usize {
        BODY_BYTES_MAX
    }

    fn is_push(&self, path: &str) -> bool {
        path == "/"
    }

    fn admit(&self, call: &Call) -> Result<(), Reply> {
        match call.parameter("token") {
            _ if call.method != "POST" || call.path != "/" => Err(Reply::text(404, "not found")),
            None => Err(Reply::text(401, "Logging token is missing")),
            Some(token) if token != self.token.expose() => Err(self.failure(401)),
            Some(_) => Ok(()),
        }
    }

    fn take(&mut self, call: &Call, busy: Option<&Items>) -> (Reply, Taken) {
        if busy.is_some() {
            return (self.failure(429), Taken::default());
        }
        let kind = call.parameter("type").unwrap_or("http-bulk");
        let (mut malformed, mut successful, mut oversized, mut empty) = (0, 0, 0, 0);
        let text = call.body.strip_suffix(b"\n").unwrap_or(&call.body);
        let lines: Vec<&[u8]> = if text.is_empty() { Vec::new() } else { text.split(|byte| *byte == b'\n').collect() };
        for line in &lines {
            if line.trim_ascii().is_empty() {
                empty += 1;
            } else if line.len() > self.line_bytes_max {
                oversized += 1;
            } else if let Ok(mut log) = serde_json::from_slice::<Map<String, Value>>(line) {
                // "If you include a type field in the log, it overrides type in the request."
                log.entry("type").or_insert_with(|| kind.into());
                self.logs.push(log);
                successful += 1;
            } else {
                malformed += 1;
            }
        }
        let taken = Taken { items: lines.len(), stored: successful, duplicates: 0 };
        if successful == lines.len() {
            return (Reply::text(200, ""), taken);
        }
        let counts = json!({
            "malformedLines": malformed, "successfulLines": successful, "oversizedLines": oversized,
            "emptyLogLines": empty,
        });
        (Reply::json(400, counts), taken)
    }

    fn failure(&self, status: u16) -> Reply {
        Reply::text(
            status,
            match status {
                401 => "Logging token is not valid",
                413 => "Request body is too large",
                429 => "Too many requests",
                _ => "failed on request",
            },
        )
    }

    fn oddities(&self) -> Vec<Reply> {
        // A proxy that wants its user to sign in says so under a status of success.
        vec![Reply { status: 200, content_type: "text/html", body: "<html>sign in first</html>".to_owned() }]
    }
}
