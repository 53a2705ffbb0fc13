//! A stand-in for Loggly's bulk endpoint, written from
//! <https://documentation.solarwinds.com/en/success_center/loggly/content/admin/http-bulk-endpoint.htm>.
//!
//! A body is taken or refused as a whole. Packed bodies are refused, as the page does not speak of them.

use std::io;

use logship_core::Secret;
use serde_json::{Value, json};

use super::faults::{Fault, SeenRequest};
use super::stand::{Call, Destination, Reply, Strict, unpacked, usual_ways};

/// "A maximum of 5MB per batch and up to 1MB per event", in the smaller reading.
const BATCH_BYTES_MAX: usize = 5_000_000;
const EVENT_BYTES_MAX: usize = 1_000_000;

/// A Loggly.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use logship_testkit::strict::loggly::StrictLoggly;
///
/// let loggly = StrictLoggly::start("token").await?;
/// assert!(loggly.events().is_empty());
/// # std::io::Result::Ok(())
/// # }).unwrap();
/// ```
pub type StrictLoggly = Strict<Loggly>;

/// What Loggly takes and keeps.
#[derive(Debug)]
pub struct Loggly {
    token: Secret,
    event_bytes_max: usize,
    events: Vec<Event>,
}

/// An event as it was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Event {
    /// Its text.
    pub text: String,
    /// Its tags.
    pub tags: Vec<String>,
    /// Whether it has a time of its own, in the one form that is read: a `timestamp` at its root, in ISO 8601 with `T`
    /// and a zone and at most six digits of a second's fraction. Any other event gets the time it was received at.
    /// <https://documentation.solarwinds.com/en/success_center/loggly/content/admin/automated-parsing.htm>
    pub has_time: bool,
}

impl StrictLoggly {
    /// Starts one on any free port, which knows this token.
    pub async fn start(token: &str) -> io::Result<Self> {
        Self::start_on(0, token).await
    }

    /// Starts one on this port; 0 is any free one.
    pub async fn start_on(port: u16, token: &str) -> io::Result<Self> {
        Self::of(Loggly { token: token.into(), event_bytes_max: EVENT_BYTES_MAX, events: Vec::new() }, port).await
    }

    /// How long an event may be, in bytes. 1,000,000 unless set.
    pub fn max_event_length(&self, bytes: usize) {
        self.state().destination.event_bytes_max = bytes;
    }

    /// What was stored, in order.
    pub fn events(&self) -> Vec<Event> {
        self.state().destination.events.clone()
    }
}

fn has_time(text: &str) -> bool {
    let event: Value = serde_json::from_str(text).unwrap_or_default();
    let Some((_, time)) = event["timestamp"].as_str().and_then(|text| text.split_once('T')) else { return false };
    let Some(time) = time.strip_suffix('Z').or_else(|| time.rsplit_once(['+', '-']).map(|(time, _)| time)) else {
        return false;
    };
    let (clock, fraction) = time.split_once('.').unwrap_or((time, ""));
    clock.len() == 8 && fraction.len() <= 6
}

impl Loggly {
    /// Turns away who is not let in and what has no form it reads.
    fn admit(&self, call: &Call) -> Result<(), Reply> {
        let segments: Vec<&str> = call.path.split('/').filter(|segment| !segment.is_empty()).collect();
        let ["bulk", token, rest @ ..] = segments.as_slice() else { return Err(self.failure(404)) };
        if *token != self.token.expose() {
            return Err(self.failure(403));
        }
        if !matches!(rest, [] | ["tag", _]) {
            return Err(self.failure(404));
        }
        if call.method != "POST" {
            return Err(self.failure(405));
        }
        let content_type = call.header("content-type").unwrap_or_default().split(';').next().unwrap_or_default();
        let is_packed = call.header("content-encoding").is_some();
        match content_type {
            "text/plain" | "application/json" if !is_packed => Ok(()),
            _ => Err(self.failure(415)),
        }
    }

    fn take(&mut self, call: &Call, seen: &mut SeenRequest) -> Result<Reply, Reply> {
        self.admit(call)?;
        let body = unpacked(call, seen, BATCH_BYTES_MAX).map_err(|status| self.failure(status))?;
        let text = std::str::from_utf8(&body).map_err(|_| self.failure(400))?;
        let lines: Vec<&str> = text.split('\n').filter(|line| !line.is_empty()).collect();
        seen.items = lines.len();
        if lines.is_empty() {
            return Err(self.failure(400));
        }
        if lines.iter().any(|line| line.len() > self.event_bytes_max) {
            return Err(self.failure(413));
        }
        let tags = call.path.split_once("/tag/").map_or("", |(_, tags)| tags.trim_end_matches('/'));
        let tags: Vec<String> = tags.split(',').filter(|tag| !tag.is_empty()).map(str::to_owned).collect();
        self.events.extend(lines.iter().map(|line| Event {
            text: (*line).to_owned(),
            tags: tags.clone(),
            has_time: has_time(line),
        }));
        seen.stored = lines.len();
        Ok(Reply::new(200, json!({"response": "ok"})))
    }
}

impl Destination for Loggly {
    fn takes_records_at(&self, path: &str) -> bool {
        path.starts_with("/bulk/")
    }

    fn answer(&mut self, call: &Call, seen: &mut SeenRequest) -> Reply {
        self.take(call, seen).unwrap_or_else(|refusal| refusal)
    }

    fn failure(&self, status: u16) -> Reply {
        let message = match status {
            403 => "Forbidden",
            413 => "Request Entity Too Large",
            429 => "Too Many Requests",
            _ => "failed on request",
        };
        Reply::new(status, json!({"message": message}))
    }

    fn error_in_success(&self) -> Option<Reply> {
        Some(Reply::new(200, json!({"response": "error"})))
    }

    fn ways_to_fail(&self) -> Vec<Fault> {
        let mut ways = usual_ways();
        ways.extend([Fault::ErrorInSuccess, Fault::Answer(Reply::page(200))]);
        ways
    }
}
