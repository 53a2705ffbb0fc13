//! A stand-in for the Logz.io listener, written from <https://docs.logz.io/docs/shipping/Code/HTTP>.
//!
//! A body of lines, of which each is judged alone: what is valid is stored, and the answer counts what is not.

use std::io;

use logship_core::Secret;
use serde_json::{Map, Value, json};

use super::faults::{Fault, SeenRequest};
use super::stand::{Call, Destination, Reply, Strict, unpacked, usual_ways};

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
pub type StrictLogzio = Strict<Logzio>;

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
        Self::of(Logzio { token: token.into(), line_bytes_max: LINE_BYTES_MAX, logs: Vec::new() }, port).await
    }

    /// How long a line may be, in bytes. 500,000 unless set.
    pub fn max_line_length(&self, bytes: usize) {
        self.state().destination.line_bytes_max = bytes;
    }

    /// What was stored, in order.
    pub fn logs(&self) -> Vec<Map<String, Value>> {
        self.state().destination.logs.clone()
    }
}

impl Logzio {
    /// Turns away who is not let in.
    fn admit(&self, call: &Call) -> Result<(), Reply> {
        match call.parameter("token") {
            _ if call.method != "POST" || call.path != "/" => Err(Reply::text(404, "not found")),
            None => Err(Reply::text(401, "Logging token is missing")),
            Some(token) if token != self.token.expose() => Err(self.failure(401)),
            Some(_) => Ok(()),
        }
    }

    fn take(&mut self, call: &Call, seen: &mut SeenRequest) -> Result<Reply, Reply> {
        self.admit(call)?;
        let body = unpacked(call, seen, BODY_BYTES_MAX).map_err(|status| self.failure(status))?;
        let kind = call.parameter("type").unwrap_or("http-bulk");
        let (mut malformed, mut successful, mut oversized, mut empty) = (0, 0, 0, 0);
        let text = body.strip_suffix(b"\n").unwrap_or(&body);
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
        (seen.items, seen.stored) = (lines.len(), successful);
        if successful == lines.len() {
            return Ok(Reply::text(200, ""));
        }
        let counts = json!({
            "malformedLines": malformed, "successfulLines": successful, "oversizedLines": oversized,
            "emptyLogLines": empty,
        });
        Err(Reply::new(400, counts))
    }
}

impl Destination for Logzio {
    fn takes_records_at(&self, path: &str) -> bool {
        path == "/"
    }

    fn answer(&mut self, call: &Call, seen: &mut SeenRequest) -> Reply {
        self.take(call, seen).unwrap_or_else(|refusal| refusal)
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

    fn ways_to_fail(&self) -> Vec<Fault> {
        let mut ways = usual_ways();
        // A proxy that wants its user to sign in says so under a status of success.
        ways.push(Fault::Answer(Reply::page(200)));
        ways
    }
}
