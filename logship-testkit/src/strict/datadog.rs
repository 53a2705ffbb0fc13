//! A stand-in for Datadog's logs intake, version 2.
//!
//! Written from Datadog's documents: <https://docs.datadoghq.com/api/latest/logs/#send-logs>, and
//! <https://docs.datadoghq.com/logs/log_configuration/pipelines/#preprocessing> for what is read out of a log. The real
//! one answers 202 and then drops what is too old, cuts off what is too long, and shows an empty log for what has no
//! message; this one counts these, so that a test can say that there are none.

use std::time::Duration;

use logship_core::{Secret, Timestamp};
use serde_json::{Value, json};

use super::faults::SeenRequest;
use super::stand::{Call, Destination, Reply, Strict};
use super::wire::{Unreadable, unpack_as};

/// Bytes of a body, before packing: 5 MB.
const BODY_BYTES_MAX: usize = 5_000_000;
/// Bytes of one log: 1 MB.
const LOG_BYTES_MAX: usize = 1_000_000;
/// Logs in a request.
const LOGS_MAX: usize = 1_000;
/// How old a log may be: 18 hours.
const AGE_MAX: Duration = Duration::from_secs(18 * 60 * 60);

/// Datadog in this process, on a port of its own.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use logship_testkit::strict::Fault;
/// use logship_testkit::strict::datadog::StrictDatadog;
///
/// let datadog = StrictDatadog::start().await?;
/// datadog.fail_next(2, Fault::status_after(429, "1"));
/// // Now point an exporter at it:
/// assert!(datadog.url().starts_with("http://127.0.0.1:"));
/// assert!(datadog.logs().is_empty());
/// # std::io::Result::Ok(())
/// # }).unwrap();
/// ```
pub type StrictDatadog = Strict<Datadog>;

/// What Datadog does with a request.
#[derive(Debug, Default)]
pub struct Datadog {
    /// `None` lets in whoever has any key.
    key: Option<Secret>,
    logs: Vec<Value>,
    spoiled: Spoiled,
}

/// Logs that were answered with a success and are not there as they were sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spoiled {
    /// Too old, and dropped.
    pub too_old: usize,
    /// Too long, and cut off.
    pub cut_off: usize,
    /// Without a message, and shown as an empty log.
    pub empty: usize,
}

impl StrictDatadog {
    /// From now on lets in only who has this key.
    pub fn rotate_key(&self, key: impl Into<Secret>) {
        self.state().destination.key = Some(key.into());
    }

    /// What was taken, in order.
    pub fn logs(&self) -> Vec<Value> {
        self.state().destination.logs.clone()
    }

    /// What was answered with a success and is not there as it was sent.
    pub fn spoiled(&self) -> Spoiled {
        self.state().destination.spoiled
    }
}

impl Datadog {
    fn check_key(&self, call: &Call) -> Result<(), Reply> {
        match (call.header("dd-api-key"), &self.key) {
            (None, _) => Err(error(401, "Unauthorized", "the API key is missing")),
            (Some(given), Some(key)) if given != key.expose() => Err(error(403, "Forbidden", "the API key is invalid")),
            _ => Ok(()),
        }
    }

    fn take(&mut self, call: &Call, seen: &mut SeenRequest) -> Result<Reply, Reply> {
        if call.method != "POST" {
            return Err(error(405, "Method Not Allowed", "use POST"));
        }
        self.check_key(call)?;
        if call.media_type() != "application/json" {
            return Err(error(415, "Unsupported Media Type", "this stand-in reads application/json"));
        }
        let encodings = ["identity", "gzip", "deflate"];
        let body = unpack_as(call.header("content-encoding"), &encodings, &call.wire, BODY_BYTES_MAX);
        let body = body.map_err(|why| match why {
            Unreadable::TooLarge => error(413, "Request Entity Too Large", "more than 5 MB"),
            Unreadable::Encoding => error(415, "Unsupported Media Type", "unknown content encoding"),
            Unreadable::Broken => error(400, "Bad Request", "the body is not what its headers say"),
        })?;
        seen.body_bytes = body.len();
        let logs = match serde_json::from_slice(&body) {
            Ok(Value::Array(logs)) => logs,
            Ok(log @ Value::Object(_)) => vec![log],
            Ok(_) => return Err(error(400, "Bad Request", "neither a log nor a list of logs")),
            Err(why) => return Err(error(400, "Bad Request", &format!("invalid JSON: {why}"))),
        };
        if logs.len() > LOGS_MAX {
            return Err(error(413, "Request Entity Too Large", "more than 1000 logs"));
        }
        seen.items = logs.len();
        let stored_before = self.logs.len();
        logs.into_iter().for_each(|log| self.keep(log));
        seen.stored = self.logs.len() - stored_before;
        Ok(Reply::new(202, json!({})))
    }

    /// Keeps a log, unless it is one of those that the real one loses.
    fn keep(&mut self, log: Value) {
        let time = log.get("timestamp").and_then(Value::as_i64).map(Timestamp::from_millis);
        if time.is_some_and(|time| Timestamp::now().since(time) > AGE_MAX) {
            self.spoiled.too_old += 1;
            return;
        }
        self.spoiled.cut_off += usize::from(log.to_string().len() > LOG_BYTES_MAX);
        let tags = log.get("ddtags");
        let has_message = log.get("message").and_then(Value::as_str).is_some();
        self.spoiled.empty += usize::from(!has_message || tags.is_some_and(|tags| !tags.is_string()));
        self.logs.push(log);
    }
}

impl Destination for Datadog {
    fn takes_records_at(&self, path: &str) -> bool {
        path == "/api/v2/logs"
    }

    fn answer(&mut self, call: &Call, seen: &mut SeenRequest) -> Reply {
        match call.path.as_str() {
            "/api/v2/logs" => self.take(call, seen).unwrap_or_else(|refusal| refusal),
            // Whether a key is one of Datadog's: https://docs.datadoghq.com/api/latest/authentication/
            "/api/v1/validate" => match self.check_key(call) {
                Ok(()) => Reply::new(200, json!({"valid": true})),
                Err(_) => error(403, "Forbidden", "the API key is invalid"),
            },
            _ => error(404, "Not Found", "there is nothing"),
        }
    }

    fn failure(&self, status: u16) -> Reply {
        error(status, "failed on request", "this failure was asked for")
    }
}

fn error(status: u16, title: &str, detail: &str) -> Reply {
    Reply::new(status, json!({"errors": [{"status": status.to_string(), "title": title, "detail": detail}]}))
}
