//! A stand-in for Splunk's HTTP Event Collector.
//!
//! Written from Splunk's documents:
//! <https://help.splunk.com/en/splunk-enterprise/get-started/get-data-in/10.0/get-data-with-http-event-collector/format-events-for-http-event-collector>
//! for events, `.../troubleshoot-http-event-collector` beside it for the error codes, and
//! `.../about-http-event-collector-indexer-acknowledgment` for acknowledgement. Of a request with a bad event the ones
//! before it are kept, as users of the real one report; the documents do not say.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use logship_core::Secret;
use serde_json::{Map, Value, json};

use super::faults::SeenRequest;
use super::stand::{Call, Destination, Reply, Strict};
use super::wire::{Unreadable, unpack_as};

/// Splunk in this process, on a port of its own.
pub type StrictSplunk = Strict<Splunk>;

/// What Splunk does with a request.
#[derive(Debug)]
pub struct Splunk {
    /// `None` lets in whoever has any token.
    token: Option<Secret>,
    /// Whether the token asks for acknowledgement, `useACK`.
    acknowledges: bool,
    /// How often an acknowledgement is asked for until it is given.
    polls: usize,
    /// How many requests are received and then lost before they are indexed.
    losing: usize,
    /// The indexes there are; `None` for any.
    indexes: Option<BTreeSet<String>>,
    /// `max_content_length`, in bytes before packing.
    content_bytes_max: usize,
    /// Whether the events before a bad one are kept.
    keeps_prefix: bool,
    /// An event with this text in it is a bad one.
    refused: Option<String>,
    /// What the next acknowledgement is called, by channel.
    next_ack: BTreeMap<String, u64>,
    /// How often an acknowledgement has to be asked for; `None` if it never comes.
    pending: BTreeMap<(String, u64), Option<usize>>,
    events: Vec<Value>,
}

impl Default for Splunk {
    fn default() -> Self {
        Splunk {
            token: None,
            acknowledges: false,
            polls: 0,
            losing: 0,
            indexes: None,
            content_bytes_max: 838_860_800,
            keeps_prefix: true,
            refused: None,
            next_ack: BTreeMap::new(),
            pending: BTreeMap::new(),
            events: Vec::new(),
        }
    }
}

impl StrictSplunk {
    /// From now on lets in only who has this token.
    pub fn rotate_token(&self, token: impl Into<Secret>) {
        self.state().destination.token = Some(token.into());
    }

    /// From now on acknowledges what is indexed, each request when it is asked for the `polls`-th time after the first.
    pub fn acknowledge_after(&self, polls: usize) {
        let destination = &mut self.state().destination;
        (destination.acknowledges, destination.polls) = (true, polls);
    }

    /// Receives the next `requests`, and loses them before they are indexed.
    pub fn lose_received(&self, requests: usize) {
        self.state().destination.losing = requests;
    }

    /// From now on knows these indexes and no others; any unless set.
    pub fn indexes(&self, names: &[&str]) {
        self.state().destination.indexes = Some(names.iter().map(|name| (*name).to_owned()).collect());
    }

    /// Sets `max_content_length`, in bytes before packing: 838,860,800 unless set.
    pub fn max_content_length(&self, bytes: usize) {
        self.state().destination.content_bytes_max = bytes;
    }

    /// Whether the events before a bad one are kept. On unless set.
    pub fn keep_prefix(&self, is_on: bool) {
        self.state().destination.keeps_prefix = is_on;
    }

    /// From now on takes an event with this text in it for one that it cannot read.
    pub fn refuse_events_with(&self, text: impl Into<String>) {
        self.state().destination.refused = Some(text.into());
    }

    /// What was indexed, in order: events with their metadata, or the lines of raw requests under `raw`.
    pub fn events(&self) -> Vec<Value> {
        self.state().destination.events.clone()
    }
}

/// What a code means, and the status it comes with.
fn code(code: u16) -> Reply {
    code_with(code, json!({}))
}

/// A code with more to say.
fn code_with(code: u16, mut body: Value) -> Reply {
    let (status, text) = match code {
        1 => (403, "Token disabled"),
        2 => (401, "Token is required"),
        3 => (401, "Invalid authorization"),
        4 => (403, "Invalid token"),
        5 => (400, "No data"),
        6 => (400, "Invalid data format"),
        7 => (400, "Incorrect index"),
        8 => (500, "Internal server error"),
        9 => (503, "Server is busy"),
        10 => (400, "Data channel is missing"),
        11 => (400, "Invalid data channel"),
        12 => (400, "Event field is required"),
        13 => (400, "Event field cannot be blank"),
        14 => (400, "ACK is disabled"),
        15 => (400, "Error in handling indexed fields"),
        16 => (400, "Query string authorization is not enabled"),
        17 => (200, "HEC is healthy"),
        23 => (503, "Server is shutting down"),
        26 => (429, "HEC queue at capacity"),
        _ => (200, "Success"),
    };
    body["text"] = text.into();
    body["code"] = code.into();
    Reply::new(status, body)
}

/// A code that is about the event at this place.
fn code_at(number: u16, place: usize) -> Reply {
    code_with(number, json!({"invalid-event-number": place}))
}

impl Splunk {
    fn check_token(&self, call: &Call) -> Result<(), Reply> {
        if call.parameter("token").is_some() {
            return Err(code(16));
        }
        let Some(given) = call.header("authorization") else { return Err(code(2)) };
        let basic = |given: &str| {
            let text = String::from_utf8(BASE64.decode(given.strip_prefix("Basic ")?).ok()?).ok()?;
            text.split_once(':').map(|(_, password)| password.to_owned())
        };
        let Some(given) = given.strip_prefix("Splunk ").map(str::to_owned).or_else(|| basic(given)) else {
            return Err(code(3));
        };
        match &self.token {
            Some(token) if given != token.expose() => Err(code(4)),
            _ => Ok(()),
        }
    }

    /// The channel of a request, which is a GUID; needed where something is acknowledged.
    fn channel(&self, call: &Call) -> Result<Option<String>, Reply> {
        let given = call.header("x-splunk-request-channel").or_else(|| call.parameter("channel"));
        match given {
            None if self.acknowledges => Err(code(10)),
            Some(given) if !is_guid(given) => Err(code(11)),
            given => Ok(given.map(str::to_owned)),
        }
    }

    fn body(&self, call: &Call, seen: &mut SeenRequest) -> Result<Vec<u8>, Reply> {
        let bytes_max = self.content_bytes_max;
        let body = unpack_as(call.header("content-encoding"), &["identity", "gzip"], &call.wire, bytes_max);
        let body = body.map_err(|why| match why {
            Unreadable::TooLarge => {
                Reply::new(413, json!({"text": format!("Content-Length is larger than {bytes_max}"), "code": 6}))
            }
            Unreadable::Encoding => Reply::new(415, json!({"text": "unsupported content encoding"})),
            Unreadable::Broken => code(6),
        })?;
        seen.body_bytes = body.len();
        if body.trim_ascii().is_empty() { Err(code(5)) } else { Ok(body.to_vec()) }
    }

    fn take(&mut self, call: &Call, seen: &mut SeenRequest, is_raw: bool) -> Result<Reply, Reply> {
        if call.method != "POST" {
            return Err(Reply::new(
                405,
                json!({"text": "The requested URL does not support this method", "code": 404}),
            ));
        }
        self.check_token(call)?;
        let channel = self.channel(call)?;
        let body = self.body(call, seen)?;
        let (events, refusal) = if is_raw { self.lines(call, &body)? } else { self.read_events(&body) };
        seen.items = events.len() + usize::from(refusal.is_some());
        let is_lost = refusal.is_none() && self.losing > 0;
        self.losing -= usize::from(is_lost);
        if !is_lost && (refusal.is_none() || self.keeps_prefix) {
            seen.stored = events.len();
            self.events.extend(events);
        }
        if let Some(refusal) = refusal {
            return Err(refusal);
        }
        let mut more = json!({});
        if let Some(channel) = channel.filter(|_| self.acknowledges) {
            let next = self.next_ack.entry(channel.clone()).or_default();
            more["ackId"] = json!(*next);
            self.pending.insert((channel, *next), (!is_lost).then_some(self.polls));
            *next += 1;
        }
        Ok(code_with(0, more))
    }

    /// The events up to the first bad one, and what is said of that.
    fn read_events(&self, body: &[u8]) -> (Vec<Value>, Option<Reply>) {
        let mut events = Vec::new();
        for event in serde_json::Deserializer::from_slice(body).into_iter::<Value>() {
            let place = events.len();
            let verdict = match &event {
                Ok(Value::Object(event)) => self.check_event(event),
                _ => Some(6),
            };
            match (verdict, event) {
                (None, Ok(event)) => events.push(event),
                (number, _) => return (events, Some(code_at(number.unwrap_or(6), place))),
            }
        }
        (events, None)
    }

    /// What is wrong with an event, if anything is.
    fn check_event(&self, event: &Map<String, Value>) -> Option<u16> {
        const KEYS: [&str; 7] = ["time", "host", "source", "sourcetype", "index", "fields", "event"];
        let is_flat = |value: &Value| match value {
            Value::Array(values) => values.iter().all(|value| !value.is_array() && !value.is_object()),
            value => !value.is_object(),
        };
        let is_number = |value: &Value| match value {
            Value::String(text) => text.parse::<f64>().is_ok_and(f64::is_finite),
            value => value.is_number(),
        };
        match event.get("event") {
            None | Some(Value::Null) => return Some(12),
            Some(Value::String(text)) if text.is_empty() => return Some(13),
            _ => {}
        }
        match event.get("fields") {
            None => {}
            Some(Value::Object(fields)) if fields.values().all(is_flat) => {}
            _ => return Some(15),
        }
        let has_texts =
            ["host", "source", "sourcetype", "index"].iter().all(|name| event.get(*name).is_none_or(Value::is_string));
        let is_known = event.keys().all(|key| KEYS.contains(&key.as_str()));
        if !event.get("time").is_none_or(is_number) || !has_texts || !is_known {
            return Some(6);
        }
        let is_refused = |text: &String| event.get("event").is_some_and(|event| event.to_string().contains(text));
        if self.refused.as_ref().is_some_and(is_refused) {
            return Some(6);
        }
        let index = event.get("index").and_then(Value::as_str);
        (!self.knows(index)).then_some(7)
    }

    fn knows(&self, index: Option<&str>) -> bool {
        match (&self.indexes, index) {
            (Some(indexes), Some(index)) => indexes.contains(index),
            _ => true,
        }
    }

    /// The lines of a raw request, each with what the address says about all of them.
    fn lines(&self, call: &Call, body: &[u8]) -> Result<(Vec<Value>, Option<Reply>), Reply> {
        if !self.knows(call.parameter("index")) {
            return Err(code(7));
        }
        let text = String::from_utf8_lossy(body);
        let event = |line: &str| {
            let mut event = json!({"raw": line});
            for name in ["host", "source", "sourcetype", "index"] {
                if let Some(value) = call.parameter(name) {
                    event[name] = json!(value);
                }
            }
            event
        };
        Ok((text.lines().filter(|line| !line.is_empty()).map(event).collect(), None))
    }

    /// Which of these requests are indexed. What was said to be is forgotten.
    fn acks(&mut self, call: &Call) -> Result<Reply, Reply> {
        self.check_token(call)?;
        if !self.acknowledges {
            return Err(code(14));
        }
        let channel = self.channel(call)?.unwrap_or_default();
        let body: Value = serde_json::from_slice(&call.wire).map_err(|_| code(6))?;
        let Some(asked) = body.get("acks").and_then(Value::as_array) else { return Err(code(6)) };
        let mut answers = Map::new();
        for ack in asked.iter().filter_map(Value::as_u64) {
            let key = (channel.clone(), ack);
            let is_indexed = match self.pending.get_mut(&key) {
                Some(Some(0)) => self.pending.remove(&key).is_some(),
                Some(Some(left)) => {
                    *left -= 1;
                    false
                }
                _ => false,
            };
            answers.insert(ack.to_string(), json!(is_indexed));
        }
        Ok(Reply::new(200, json!({"acks": answers})))
    }

    fn health(&self, call: &Call) -> Result<Reply, Reply> {
        if call.header("authorization").is_some() {
            // Here a wrong token is a bad request.
            self.check_token(call).map_err(|refusal| Reply { status: 400, ..refusal })?;
        }
        Ok(code(17))
    }
}

impl Destination for Splunk {
    fn takes_records_at(&self, path: &str) -> bool {
        is_event_path(path) || is_raw_path(path)
    }

    fn answer(&mut self, call: &Call, seen: &mut SeenRequest) -> Reply {
        let result = match call.path.as_str() {
            path if is_event_path(path) => self.take(call, seen, false),
            path if is_raw_path(path) => self.take(call, seen, true),
            "/services/collector/ack" | "/services/collector/ack/1.0" => self.acks(call),
            "/services/collector/health" | "/services/collector/health/1.0" => self.health(call),
            _ => Err(Reply::new(404, json!({"text": "The requested URL was not found on this server.", "code": 404}))),
        };
        result.unwrap_or_else(|refusal| refusal)
    }

    fn failure(&self, status: u16) -> Reply {
        match status {
            400 => code(7),
            401 => code(2),
            403 => code(4),
            429 => code(26),
            500 => code(8),
            503 => code(9),
            status => Reply::new(status, json!({"text": "failed on request"})),
        }
    }

    fn error_in_success(&self) -> Option<Reply> {
        Some(Reply { status: 200, ..code(9) })
    }
}

fn is_event_path(path: &str) -> bool {
    matches!(path, "/services/collector" | "/services/collector/event" | "/services/collector/event/1.0")
}

fn is_raw_path(path: &str) -> bool {
    matches!(path, "/services/collector/raw" | "/services/collector/raw/1.0")
}

fn is_guid(text: &str) -> bool {
    let groups: Vec<&str> = text.split('-').collect();
    let is_hex = |group: &&str| group.bytes().all(|byte| byte.is_ascii_hexdigit());
    groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12]) && groups.iter().all(is_hex)
}
