//! A stand-in for New Relic's Log API.
//!
//! Written from New Relic's documents: <https://docs.newrelic.com/docs/logs/log-api/introduction-log-api/>, and
//! <https://docs.newrelic.com/docs/logs/ui-data/new-relic-event-data-types-attributes/> for what becomes of
//! attributes. The real one answers 202 before it looks at what it got; this one counts what it would drop or cut off,
//! so that a test can say that there is nothing.

use std::time::Duration;

use logship_core::{Secret, Timestamp};
use serde_json::{Map, Value, json};

use super::faults::SeenRequest;
use super::stand::{Call, Destination, Reply, Strict};
use super::wire::{Unreadable, unpack_as};

/// Bytes of a body: 1 MB.
const BODY_BYTES_MAX: usize = 1_000_000;
/// Attributes of a log, the common ones included.
const ATTRIBUTES_MAX: usize = 255;
/// Characters of an attribute's name.
const NAME_CHARS_MAX: usize = 255;
/// Bytes of a value; what is behind is cut off.
const VALUE_BYTES_MAX: usize = 128_000;
/// How old a log may be: 48 hours.
const AGE_MAX: Duration = Duration::from_secs(48 * 60 * 60);

/// New Relic in this process, on a port of its own.
pub type StrictNewRelic = Strict<NewRelic>;

/// What New Relic does with a request.
#[derive(Debug, Default)]
pub struct NewRelic {
    /// `None` lets in whoever has any key.
    key: Option<Secret>,
    /// Whether the largest body is meant before packing. The documents do not say.
    measures_unpacked: bool,
    logs: Vec<Value>,
    spoiled: Spoiled,
}

/// Logs that were answered with a success and are not there as they were sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spoiled {
    /// Too old, and dropped.
    pub too_old: usize,
    /// With more attributes than fit, or with one whose name is too long.
    pub attributes: usize,
    /// With a value of a type that is not known: a list.
    pub types: usize,
    /// With a value that was cut off.
    pub cut_off: usize,
    /// With a name that New Relic keeps for itself.
    pub reserved: usize,
}

impl StrictNewRelic {
    /// From now on lets in only who has this key.
    pub fn rotate_key(&self, key: impl Into<Secret>) {
        self.state().destination.key = Some(key.into());
    }

    /// Whether the largest body is meant before packing; after packing unless set.
    pub fn measure_unpacked(&self, is_on: bool) {
        self.state().destination.measures_unpacked = is_on;
    }

    /// What was taken, in order, each with the common attributes in it.
    pub fn logs(&self) -> Vec<Value> {
        self.state().destination.logs.clone()
    }

    /// What was answered with a success and is not there as it was sent.
    pub fn spoiled(&self) -> Spoiled {
        self.state().destination.spoiled
    }
}

impl NewRelic {
    fn take(&mut self, call: &Call, seen: &mut SeenRequest) -> Result<Reply, Reply> {
        if call.method != "POST" {
            return Err(error(405, "use POST"));
        }
        let given = call.header("api-key").or_else(|| call.header("x-license-key")).or(call.parameter("Api-Key"));
        let is_wrong = |given: &str| self.key.as_ref().is_some_and(|key| given != key.expose());
        if given.is_none_or(is_wrong) {
            return Err(error(403, "the license key is missing or invalid"));
        }
        if !["application/json", "application/gzip"].contains(&call.media_type()) {
            return Err(error(415, "unsupported media type"));
        }
        if call.wire.len() > BODY_BYTES_MAX {
            return Err(error(413, "more than 1 MB"));
        }
        let bytes_max = if self.measures_unpacked { BODY_BYTES_MAX } else { usize::MAX };
        let body = unpack_as(call.header("content-encoding"), &["identity", "gzip"], &call.wire, bytes_max);
        let body = body.map_err(|why| match why {
            Unreadable::TooLarge => error(413, "more than 1 MB"),
            Unreadable::Encoding => error(415, "unsupported content encoding"),
            Unreadable::Broken => error(400, "the body is not what its headers say"),
        })?;
        seen.body_bytes = body.len();
        let body = serde_json::from_slice(&body).map_err(|why| error(400, &format!("invalid JSON: {why}")))?;
        let logs = match body {
            log @ Value::Object(_) => vec![log],
            Value::Array(blocks) => blocks.into_iter().map(block).collect::<Result<Vec<_>, _>>()?.concat(),
            _ => return Err(error(400, "neither a log nor a list of blocks")),
        };
        seen.items = logs.len();
        let stored_before = self.logs.len();
        logs.into_iter().for_each(|log| self.keep(log));
        seen.stored = self.logs.len() - stored_before;
        Ok(Reply::new(202, json!({"requestId": "f0e7bfff-001a-b000-0000-01682bcf4565"})))
    }

    /// Keeps a log, unless it is one of those that the real one loses.
    fn keep(&mut self, log: Value) {
        let time = log.get("timestamp").and_then(Value::as_i64).map(Timestamp::from_millis);
        if time.is_some_and(|time| Timestamp::now().since(time) > AGE_MAX) {
            self.spoiled.too_old += 1;
            return;
        }
        let mut attributes = Vec::new();
        flatten(log.get("attributes").unwrap_or(&Value::Null), "", &mut attributes);
        let count = |what: &dyn Fn(&(String, &Value)) -> bool| usize::from(attributes.iter().any(what));
        let is_too_many = attributes.len() > ATTRIBUTES_MAX;
        let is_cut = |value: &Value| value.as_str().is_some_and(|text| text.len() > VALUE_BYTES_MAX);
        self.spoiled.attributes +=
            usize::from(is_too_many).max(count(&|(name, _)| name.chars().count() > NAME_CHARS_MAX));
        self.spoiled.types += count(&|(_, value)| value.is_array() || value.is_null());
        self.spoiled.cut_off +=
            count(&|(_, value)| is_cut(value)).max(usize::from(log.get("message").is_some_and(is_cut)));
        self.spoiled.reserved += count(&|(name, _)| {
            let is_id = matches!(name.as_str(), "entity.guid" | "entity.name" | "entity.type");
            is_id || matches!(name.as_str(), "accountId" | "eventType" | "appId")
        });
        self.logs.push(log);
    }
}

/// The logs of a block, each with the block's common attributes.
fn block(block: Value) -> Result<Vec<Value>, Reply> {
    let Some(Value::Array(logs)) = block.get("logs") else { return Err(error(400, "a block without logs")) };
    let common = block.get("common").cloned().unwrap_or_else(|| json!({}));
    let merge = |log: &Value| {
        let Value::Object(log) = log else { return Err(error(400, "a log that is no object")) };
        let mut log = log.clone();
        let own = log.remove("attributes").unwrap_or_else(|| json!({}));
        let mut attributes = common.get("attributes").and_then(Value::as_object).cloned().unwrap_or_else(Map::new);
        let Value::Object(own) = own else { return Err(error(400, "attributes that are no object")) };
        attributes.extend(own);
        log.insert("attributes".to_owned(), Value::Object(attributes));
        Ok(Value::Object(log))
    };
    logs.iter().map(merge).collect()
}

/// Attributes as New Relic keeps them: objects in objects by names with dots.
fn flatten<'a>(value: &'a Value, name: &str, out: &mut Vec<(String, &'a Value)>) {
    match value {
        Value::Object(members) => members.iter().for_each(|(key, value)| match name {
            "" => flatten(value, key, out),
            _ => flatten(value, &format!("{name}.{key}"), out),
        }),
        Value::Null if name.is_empty() => {}
        value => out.push((name.to_owned(), value)),
    }
}

impl Destination for NewRelic {
    fn takes_records_at(&self, path: &str) -> bool {
        path == "/log/v1"
    }

    fn answer(&mut self, call: &Call, seen: &mut SeenRequest) -> Reply {
        match call.path.as_str() {
            "/log/v1" => self.take(call, seen).unwrap_or_else(|refusal| refusal),
            _ => error(404, "there is nothing"),
        }
    }

    fn failure(&self, status: u16) -> Reply {
        error(status, "this failure was asked for")
    }
}

fn error(status: u16, message: &str) -> Reply {
    Reply::new(status, json!({"error": {"message": message}}))
}
