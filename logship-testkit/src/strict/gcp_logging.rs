//! A stand-in for Google Cloud Logging's `entries.write`, and for the server that gives out tokens for it.
//!
//! Written from Google's documents: <https://docs.cloud.google.com/logging/docs/reference/v2/rest/v2/entries/write>,
//! <https://docs.cloud.google.com/logging/docs/reference/v2/rest/v2/LogEntry>,
//! <https://docs.cloud.google.com/logging/quotas>. The real one answers a success to entries that are older than their
//! bucket keeps them, and drops them; this one counts these, so that a test can say that there are none.

use std::collections::BTreeMap;
use std::time::Duration;

use logship_core::Timestamp;
use serde_json::{Map, Value, json};

use super::faults::{Fault, Items, SeenRequest};
use super::google::GoogleTokens;
use super::stand::{Call, Destination, Reply, Strict, unpacked, usual_ways};

/// Bytes of a request: 10 MB.
const BODY_BYTES_MAX: usize = 10_000_000;
/// Bytes of an entry.
const ENTRY_BYTES_MAX: usize = 256 * 1024;
/// Labels of an entry, and the bytes of a label's name.
const LABELS_MAX: (usize, usize) = (64, 512);
/// How far ahead an entry's time may be.
const AHEAD_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a bucket keeps entries that was told nothing.
const RETENTION: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// What a token may be for, to write.
const SCOPES: [&str; 3] = [
    "https://www.googleapis.com/auth/logging.write",
    "https://www.googleapis.com/auth/logging.admin",
    "https://www.googleapis.com/auth/cloud-platform",
];
/// The resources that there are, and their labels.
const RESOURCES: [(&str, &[&str]); 3] = [
    ("global", &["project_id"]),
    ("generic_node", &["project_id", "location", "namespace", "node_id"]),
    ("generic_task", &["project_id", "location", "namespace", "job", "task_id"]),
];
const SEVERITIES: [&str; 9] =
    ["DEFAULT", "DEBUG", "INFO", "NOTICE", "WARNING", "ERROR", "CRITICAL", "ALERT", "EMERGENCY"];
const REQUEST_FIELDS: [&str; 6] = ["logName", "resource", "labels", "entries", "partialSuccess", "dryRun"];
const ENTRY_FIELDS: [&str; 14] = [
    "logName",
    "resource",
    "timestamp",
    "severity",
    "insertId",
    "labels",
    "textPayload",
    "jsonPayload",
    "httpRequest",
    "operation",
    "trace",
    "spanId",
    "traceSampled",
    "sourceLocation",
];

/// Google Cloud Logging in this process, on a port of its own, with the project `acme`.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use logship_testkit::strict::gcp_logging::StrictGcpLogging;
///
/// let logging = StrictGcpLogging::start().await?;
/// assert!(logging.service_account_key().contains(&format!("{}/token", logging.url())));
/// assert!(logging.entries().is_empty());
/// # std::io::Result::Ok(())
/// # }).unwrap();
/// ```
pub type StrictGcpLogging = Strict<GcpLogging>;

/// The project that there is.
const PROJECT: &str = "acme";

/// What Google Cloud Logging does with a request.
#[derive(Debug, Default)]
pub struct GcpLogging {
    tokens: GoogleTokens,
    entries: Vec<Value>,
    too_old: usize,
}

/// A code of `google.rpc` and what it is called; the status that goes with it.
type Code = (i32, &'static str, u16);
const INVALID: Code = (3, "INVALID_ARGUMENT", 400);
const NOT_FOUND: Code = (5, "NOT_FOUND", 404);
const DENIED: Code = (7, "PERMISSION_DENIED", 403);
const EXHAUSTED: Code = (8, "RESOURCE_EXHAUSTED", 429);
const UNAUTHENTICATED: Code = (16, "UNAUTHENTICATED", 401);

impl StrictGcpLogging {
    /// The key of a service account that may write here.
    pub fn service_account_key(&self) -> String {
        super::google::service_account_key(PROJECT, &format!("{}/token", self.url()))
    }

    /// No token that was given out is good any longer.
    pub fn expire_tokens(&self) {
        self.state().destination.tokens.expire();
    }

    /// How many tokens were given out.
    pub fn tokens_given(&self) -> usize {
        self.state().destination.tokens.given()
    }

    /// What a query finds, in order: of entries of one time and one `insertId` the first.
    pub fn entries(&self) -> Vec<Value> {
        let mut known = std::collections::HashSet::new();
        let is_new = |entry: &&Value| known.insert((entry["timestamp"].to_string(), entry["insertId"].to_string()));
        self.state().destination.entries.iter().filter(is_new).cloned().collect()
    }

    /// How many entries were answered with a success and dropped, because they were too old.
    pub fn too_old(&self) -> usize {
        self.state().destination.too_old
    }
}

impl GcpLogging {
    fn write(&mut self, call: &Call, seen: &mut SeenRequest, busy: Option<&Items>) -> Result<Reply, Reply> {
        if call.method != "POST" {
            return Err(error(NOT_FOUND, "use POST"));
        }
        if !self.tokens.lets_in(call) {
            return Err(error(UNAUTHENTICATED, "Request had invalid authentication credentials."));
        }
        if call.media_type() != "application/json" {
            return Err(error(INVALID, "the body is not JSON"));
        }
        let body = unpacked(call, seen, BODY_BYTES_MAX).map_err(|status| match status {
            413 => error(INVALID, "Request payload size exceeds the limit: 10485760 bytes."),
            _ => error(INVALID, "the body is not what its headers say"),
        })?;
        let unread = |why: &str| error(INVALID, &format!("Invalid JSON payload received. {why}"));
        let request: Value = serde_json::from_slice(&body).map_err(|why| unread(&why.to_string()))?;
        let request = request.as_object().ok_or_else(|| unread("no object"))?;
        known(request, &REQUEST_FIELDS).map_err(|why| unread(&why))?;
        check_common(request)?;
        let entries = request.get("entries").and_then(Value::as_array).ok_or_else(|| unread("no entries"))?;
        seen.items = entries.len();
        let entries: Vec<&Map<String, Value>> =
            entries.iter().map(Value::as_object).collect::<Option<_>>().ok_or_else(|| unread("no entry"))?;
        entries.iter().try_for_each(|entry| well_formed(entry)).map_err(|why| unread(&why))?;
        let turned_away = busy.map(|items| items.of(entries.len())).unwrap_or_default();
        let mut failed: BTreeMap<usize, (Code, String)> = BTreeMap::new();
        for (index, entry) in entries.iter().enumerate() {
            if turned_away.get(index) == Some(&true) {
                failed.insert(index, (EXHAUSTED, "Quota exceeded for quota metric 'Write requests'.".to_owned()));
            } else if let Err(why) = check_entry(entry) {
                failed.insert(index, (INVALID, why));
            }
        }
        let is_partial = request.get("partialSuccess") == Some(&json!(true));
        let is_rehearsal = request.get("dryRun") == Some(&json!(true));
        if !is_rehearsal && (is_partial || failed.is_empty()) {
            let stored_before = self.entries.len();
            let written = entries.iter().enumerate().filter(|(index, _)| !failed.contains_key(index));
            written.for_each(|(_, entry)| self.keep(entry));
            seen.stored = self.entries.len() - stored_before;
        }
        match failed.first_key_value() {
            None => Ok(Reply::new(200, json!({}))),
            Some((_, (code, why))) if !is_partial => Err(error(*code, why)),
            Some((_, (code, why))) => Err(partial(*code, why, &failed)),
        }
    }

    /// Keeps an entry, unless it is one of those that the real one loses.
    fn keep(&mut self, entry: &Map<String, Value>) {
        let time = entry.get("timestamp").and_then(Value::as_str).and_then(Timestamp::parse);
        if time.is_some_and(|time| Timestamp::now().since(time) > RETENTION) {
            self.too_old += 1;
            return;
        }
        self.entries.push(Value::Object(entry.clone()));
    }
}

/// What is said of all entries.
fn check_common(request: &Map<String, Value>) -> Result<(), Reply> {
    let log = request.get("logName").and_then(Value::as_str).unwrap_or_default();
    let prefix = format!("projects/{PROJECT}/logs/");
    if !log.starts_with("projects/") {
        return Err(error(INVALID, "Log name is not valid"));
    }
    let Some(id) = log.strip_prefix(&prefix) else {
        return Err(error(DENIED, "Permission 'logging.logEntries.create' denied on resource (or it may not exist)."));
    };
    let id = id.replace("%2F", "/");
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/_-.".contains(&byte);
    if !(1..512).contains(&id.len()) || !id.bytes().all(is_plain) || log.matches('/').count() != 3 {
        return Err(error(INVALID, "Log name contains illegal character or is too long"));
    }
    let resource = request.get("resource").unwrap_or(&Value::Null);
    let kind = RESOURCES.iter().find(|(name, _)| resource["type"] == *name);
    let (_, labels) = kind.ok_or_else(|| error(INVALID, "Unrecognised resource type"))?;
    let given = resource["labels"].as_object().into_iter().flatten();
    match given.into_iter().all(|(name, value)| labels.contains(&name.as_str()) && value.is_string()) {
        true => check_labels(request.get("labels")).map_err(|why| error(INVALID, &why)),
        false => Err(error(INVALID, "Unrecognised resource label")),
    }
}

fn check_labels(labels: Option<&Value>) -> Result<(), String> {
    let Some(labels) = labels.and_then(Value::as_object) else { return Ok(()) };
    let (labels_max, name_bytes_max) = LABELS_MAX;
    if labels.len() > labels_max || labels.keys().any(|name| name.len() > name_bytes_max) {
        return Err("Too many labels, or a label's key is too long".to_owned());
    }
    Ok(())
}

/// Whether there are no fields but these.
fn known(fields: &Map<String, Value>, names: &[&str]) -> Result<(), String> {
    match fields.keys().find(|name| !names.contains(&name.as_str())) {
        Some(name) => Err(format!("Unknown name \"{name}\": Cannot find field.")),
        None => Ok(()),
    }
}

/// What makes the whole request unreadable.
fn well_formed(entry: &Map<String, Value>) -> Result<(), String> {
    known(entry, &ENTRY_FIELDS)?;
    let texts = ["timestamp", "insertId", "trace", "spanId", "textPayload"];
    if let Some(name) = texts.iter().find(|name| entry.get(**name).is_some_and(|value| !value.is_string())) {
        return Err(format!("Invalid value at '{name}'"));
    }
    if entry.get("severity").is_some_and(|value| !value.as_str().is_some_and(|name| SEVERITIES.contains(&name))) {
        return Err("Invalid value at 'severity'".to_owned());
    }
    if entry.get("timestamp").is_some_and(|value| value.as_str().and_then(Timestamp::parse).is_none()) {
        return Err("Invalid value at 'timestamp'".to_owned());
    }
    let is_object = |name: &str| entry.get(name).is_none_or(Value::is_object);
    match is_object("jsonPayload") && is_object("labels") {
        true => Ok(()),
        false => Err("Invalid value: no object".to_owned()),
    }
}

/// What is wrong with an entry by itself.
fn check_entry(entry: &Map<String, Value>) -> Result<(), String> {
    let bytes = Value::Object(entry.clone()).to_string().len();
    if bytes > ENTRY_BYTES_MAX {
        let size = bytes as f64 / 1024.0;
        return Err(format!("Log entry with size {size:.1}K exceeds maximum size of 256.0K"));
    }
    if !(entry.contains_key("textPayload") ^ entry.contains_key("jsonPayload")) {
        return Err("A log entry needs one payload".to_owned());
    }
    let time = entry.get("timestamp").and_then(Value::as_str).and_then(Timestamp::parse);
    if time.is_some_and(|time| time.since(Timestamp::now()) > AHEAD_MAX) {
        return Err("Log entry timestamp is too far in the future".to_owned());
    }
    check_labels(entry.get("labels"))
}

impl Destination for GcpLogging {
    fn takes_records_at(&self, path: &str) -> bool {
        path == "/v2/entries:write"
    }

    fn answer(&mut self, call: &Call, seen: &mut SeenRequest) -> Reply {
        match call.path.as_str() {
            "/v2/entries:write" => self.write(call, seen, None).unwrap_or_else(|refusal| refusal),
            "/token" => {
                let token_uri = format!("http://{}/token", call.header("host").unwrap_or_default());
                self.tokens.give(call, &token_uri, &SCOPES)
            }
            _ => error(NOT_FOUND, "there is nothing"),
        }
    }

    fn answer_busy(&mut self, call: &Call, seen: &mut SeenRequest, items: &Items) -> Reply {
        self.write(call, seen, Some(items)).unwrap_or_else(|refusal| refusal)
    }

    fn failure(&self, status: u16) -> Reply {
        let names = [(400, INVALID), (401, UNAUTHENTICATED), (403, DENIED), (404, NOT_FOUND), (429, EXHAUSTED)];
        let known = names.iter().find(|(known, _)| *known == status).map(|(_, code)| *code);
        error(known.unwrap_or((14, "UNAVAILABLE", status)), "this failure was asked for")
    }

    fn error_in_success(&self) -> Option<Reply> {
        Some(Reply::page(200))
    }

    fn ways_to_fail(&self) -> Vec<Fault> {
        let mut ways = usual_ways();
        ways.extend([Fault::ErrorInSuccess, Fault::Busy(Items::Percent { percent: 30, seed: 0 })]);
        ways
    }
}

fn error((code, name, status): Code, message: &str) -> Reply {
    let _ = code;
    Reply::new(status, json!({"error": {"code": status, "message": message, "status": name}}))
}

/// The answer to a request of which some entries were written: an error, which names the others.
fn partial((_, name, status): Code, message: &str, failed: &BTreeMap<usize, (Code, String)>) -> Reply {
    let entry = |(index, ((code, ..), why)): (&usize, &(Code, String))| {
        (index.to_string(), json!({"code": code, "message": why}))
    };
    let errors: Map<String, Value> = failed.iter().map(entry).collect();
    let kind = "type.googleapis.com/google.logging.v2.WriteLogEntriesPartialErrors";
    let details = json!([{"@type": kind, "logEntryErrors": errors}]);
    Reply::new(status, json!({"error": {"code": status, "message": message, "status": name, "details": details}}))
}
