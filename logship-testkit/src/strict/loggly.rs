//! A stand-in for Loggly's bulk endpoint, written from
//! <https://documentation.solarwinds.com/en/success_center/loggly/content/admin/http-bulk-endpoint.htm>.
//!
//! A body is taken or refused as a whole. Packed bodies are refused, as the page does not speak of them.

use std::io;

use logship_core::Secret;
use serde_json::{Value, json};

use super::faults::Items;
use super::intake::{Call, Reply, Rules, StandIn, Taken};

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
pub type StrictLoggly = StandIn<Loggly>;

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
        Self::open(port, Loggly { token: token.into(), event_bytes_max: EVENT_BYTES_MAX, events: Vec::new() }).await
    }

    /// How long an event may be, in bytes. 1,000,000 unless set.
    pub fn max_event_length(&self, bytes: usize) {
        self.state().rules.event_bytes_max = bytes;
    }

    /// What was stored, in order.
    pub fn events(&self) -> Vec<Event> {
        self.state().rules.events.clone()
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

impl Rules for Loggly {
    fn body_bytes_max(&self) -> usize {
        BATCH_BYTES_MAX
    }

    fn is_push(&self, path: &str) -> bool {
        path.starts_with("/bulk/")
    }

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

    fn take(&mut self, call: &Call, busy: Option<&Items>) -> (Reply, Taken) {
        if busy.is_some() {
            return (self.failure(429), Taken::default());
        }
        let Ok(text) = std::str::from_utf8(&call.body) else { return (self.failure(400), Taken::default()) };
        let lines: Vec<&str> = text.split('\n').filter(|line| !line.is_empty()).collect();
        let taken = Taken { items: lines.len(), ..Taken::default() };
        if lines.is_empty() {
            return (self.failure(400), taken);
        }
        if lines.iter().any(|line| line.len() > self.event_bytes_max) {
            return (self.failure(413), taken);
        }
        let tags = call.path.split_once("/tag/").map_or("", |(_, tags)| tags.trim_end_matches('/'));
        let tags: Vec<String> = tags.split(',').filter(|tag| !tag.is_empty()).map(str::to_owned).collect();
        self.events.extend(lines.iter().map(|line| Event {
            text: (*line).to_owned(),
            tags: tags.clone(),
            has_time: has_time(line),
        }));
        (Reply::json(200, json!({"response": "ok"})), Taken { stored: lines.len(), ..taken })
    }

    fn failure(&self, status: u16) -> Reply {
        let message = match status {
            403 => "Forbidden",
            413 => "Request Entity Too Large",
            429 => "Too Many Requests",
            _ => "failed on request",
        };
        Reply::json(status, json!({"message": message}))
    }

    fn oddities(&self) -> Vec<Reply> {
        vec![
            Reply::json(200, json!({"response": "error"})),
            Reply { status: 200, content_type: "text/html", body: "<html>sign in first</html>".to_owned() },
        ]
    }
}
