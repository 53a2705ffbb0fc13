//! A stand-in for Azure Monitor's Logs Ingestion API, and for the part of Entra that gives out tokens for it.
//!
//! Written from Microsoft's documents: <https://learn.microsoft.com/azure/azure-monitor/logs/logs-ingestion-api-overview>,
//! <https://learn.microsoft.com/azure/azure-monitor/fundamentals/service-limits#logs-ingestion-api>,
//! <https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow>. The real one answers a
//! success to rows with columns that are not declared, too long or not of these days, and drops, cuts off or replaces
//! them; this one counts these. Entra's clients want TLS, which a test puts before it.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use logship_core::Timestamp;
use serde_json::{Map, Value, json};

use super::faults::{Fault, SeenRequest};
use super::stand::{Call, Destination, Reply, Strict, unpacked, usual_ways};
use super::wire::parse_query;

/// Bytes of a body, before and after packing: 1 MB.
const BODY_BYTES_MAX: usize = 1_000_000;
/// Bytes of a column; what is behind is cut off.
const COLUMN_BYTES_MAX: usize = 64_000;
/// How old a `TimeGenerated` may be, and how far ahead; another is replaced.
const TIMES: (Duration, Duration) = (Duration::from_secs(2 * 24 * 60 * 60), Duration::from_secs(24 * 60 * 60));

const TENANT: &str = "72f988bf-86f1-41af-91ab-2d7cd011db47";
const CLIENT: &str = "0a1b2c3d-0000-0000-0000-000000000000";
const CLIENT_SECRET: &str = "hunter2~secret";
const SCOPE: &str = "https://monitor.azure.com/.default";
const RULE: &str = "dcr-69f0b123041d4d6e9f2bf72aad0b62cf";
const STREAM: &str = "Custom-Logs";

/// The columns that the stream declares, and their types.
const COLUMNS: [(&str, &str); 12] = [
    ("TimeGenerated", "datetime"),
    ("Timestamp", "datetime"),
    ("ObservedTimestamp", "datetime"),
    ("RecordId", "string"),
    ("Severity", "string"),
    ("SeverityNumber", "int"),
    ("Message", "string"),
    ("Logger", "string"),
    ("TraceId", "string"),
    ("SpanId", "string"),
    ("Attributes", "dynamic"),
    ("Resource", "dynamic"),
];

/// Azure Monitor in this process, on a port of its own, with one rule and one stream.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use logship_testkit::strict::azure_monitor::StrictAzureMonitor;
///
/// let monitor = StrictAzureMonitor::start().await?;
/// assert!(monitor.rule_id().starts_with("dcr-"));
/// assert!(monitor.rows().is_empty());
/// # std::io::Result::Ok(())
/// # }).unwrap();
/// ```
pub type StrictAzureMonitor = Strict<AzureMonitor>;

/// What Azure Monitor does with a request.
#[derive(Debug, Default)]
pub struct AzureMonitor {
    given: usize,
    good: BTreeSet<String>,
    rows: Vec<Value>,
    spoiled: Spoiled,
}

/// Rows that were answered with a success and are not there as they were sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spoiled {
    /// With a column that the stream does not declare.
    pub undeclared: usize,
    /// With a column that was cut off.
    pub cut_off: usize,
    /// With a time of another day, which was replaced.
    pub retimed: usize,
    /// With a column of another type than is declared, which is empty.
    pub types: usize,
}

impl StrictAzureMonitor {
    /// Who may write, as a configuration says it; `authority` is this server's address behind TLS.
    pub fn client_secret(&self, authority: &str) -> Value {
        json!({"client_secret": {
            "tenant_id": TENANT, "client_id": CLIENT, "client_secret": CLIENT_SECRET, "authority": authority,
        }})
    }

    /// The rule's immutable id.
    pub fn rule_id(&self) -> &'static str {
        RULE
    }

    /// The stream that the rule declares.
    pub fn stream_name(&self) -> &'static str {
        STREAM
    }

    /// A token, for whoever has other ways to get one than to ask.
    pub fn token(&self) -> String {
        self.state().destination.next_token()
    }

    /// No token that was given out is good any longer.
    pub fn expire_tokens(&self) {
        self.state().destination.good.clear();
    }

    /// How many tokens were given out.
    pub fn tokens_given(&self) -> usize {
        self.state().destination.given
    }

    /// What was taken, in order.
    pub fn rows(&self) -> Vec<Value> {
        self.state().destination.rows.clone()
    }

    /// What was answered with a success and is not there as it was sent.
    pub fn spoiled(&self) -> Spoiled {
        self.state().destination.spoiled
    }
}

impl AzureMonitor {
    fn next_token(&mut self) -> String {
        self.given += 1;
        let token = format!("eyJ0.{}", self.given);
        self.good.insert(token.clone());
        token
    }

    /// Entra's answer to who asks for a token.
    fn give(&mut self, call: &Call) -> Reply {
        let form = parse_query(&String::from_utf8_lossy(&call.wire));
        let field = |name: &str| form.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value.as_str());
        let refusal = |status, error: &str, why: &str| {
            Reply::new(status, json!({"error": error, "error_description": why, "error_codes": []}))
        };
        if call.media_type() != "application/x-www-form-urlencoded" || field("grant_type") != "client_credentials" {
            return refusal(400, "unsupported_grant_type", "AADSTS70003: The app requested an unsupported grant type.");
        }
        if field("client_id") != CLIENT {
            return refusal(400, "unauthorized_client", "AADSTS700016: Application was not found in the directory.");
        }
        if field("client_secret") != CLIENT_SECRET {
            return refusal(401, "invalid_client", "AADSTS7000215: Invalid client secret provided.");
        }
        if field("scope") != SCOPE {
            return refusal(400, "invalid_scope", "AADSTS1002012: The provided value for scope is not valid.");
        }
        let token = self.next_token();
        Reply::new(200, json!({"token_type": "Bearer", "expires_in": 3_599, "access_token": token}))
    }

    fn take(&mut self, call: &Call, seen: &mut SeenRequest) -> Result<Reply, Reply> {
        if call.method != "POST" {
            return Err(error(405, "MethodNotAllowed", "use POST"));
        }
        let token = call.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
        if !token.is_some_and(|token| self.good.contains(token)) {
            return Err(error(401, "InvalidToken", "The authentication token is not valid."));
        }
        if call.parameter("api-version") != Some("2023-01-01") {
            return Err(error(400, "InvalidApiVersion", "The api-version is missing or not supported."));
        }
        let place = call.path.trim_start_matches("/dataCollectionRules/");
        let (rule, stream) = place.split_once("/streams/").unwrap_or_default();
        if rule != RULE {
            let message = format!("Data collection rule with immutable Id '{rule}' not found.");
            return Err(error(404, "NotFound", &message));
        }
        if stream != STREAM {
            return Err(error(400, "InvalidStream", "The stream was not configured in the data collection rule."));
        }
        if call.media_type() != "application/json" {
            return Err(error(415, "UnsupportedMediaType", "the body is not JSON"));
        }
        let body = unpacked(call, seen, BODY_BYTES_MAX).map_err(|status| match status {
            413 => error(413, "ContentLengthLimitExceeded", "Maximum allowed content length: 1000000 bytes."),
            _ => error(status, "InvalidContentEncoding", "the body is not what its headers say"),
        })?;
        let rows = rows(&body).ok_or_else(|| error(400, "InvalidPayload", "malformed JSON"))?;
        seen.items = rows.len();
        seen.stored = rows.len();
        rows.into_iter().for_each(|row| self.keep(row));
        Ok(Reply::text(204, ""))
    }

    /// Keeps what the real one keeps of a row.
    fn keep(&mut self, mut row: Map<String, Value>) {
        let mut spoiled = Spoiled::default();
        let before = row.len();
        row.retain(|name, _| COLUMNS.iter().any(|(known, _)| known == name));
        spoiled.undeclared = usize::from(row.len() < before);
        for (name, value) in &mut row {
            let kind = COLUMNS.iter().find(|(known, _)| known == name).map_or("", |(_, kind)| kind);
            let is_of_kind = match kind {
                "datetime" => value.as_str().and_then(Timestamp::parse).is_some(),
                "string" => value.is_string(),
                "int" => value.is_i64(),
                _ => true,
            };
            if !is_of_kind {
                spoiled.types = 1;
            }
            let bytes = value.as_str().map_or_else(|| value.to_string().len(), str::len);
            if bytes > COLUMN_BYTES_MAX {
                spoiled.cut_off = 1;
                *value = Value::Null;
            }
        }
        let time = row.get("TimeGenerated").and_then(Value::as_str).and_then(Timestamp::parse);
        let (age_max, ahead_max) = TIMES;
        let now = Timestamp::now();
        if time.is_none_or(|time| now.since(time) > age_max || time.since(now) > ahead_max) {
            spoiled.retimed = 1;
            let mut text = Vec::new();
            now.write_rfc3339(&mut text);
            row.insert("TimeGenerated".to_owned(), String::from_utf8_lossy(&text).into());
        }
        self.spoiled.undeclared += spoiled.undeclared;
        self.spoiled.types += spoiled.types;
        self.spoiled.cut_off += spoiled.cut_off;
        self.spoiled.retimed += spoiled.retimed;
        self.rows.push(Value::Object(row));
    }
}

/// The rows of a body, if it is a list of objects.
fn rows(body: &Bytes) -> Option<Vec<Map<String, Value>>> {
    serde_json::from_slice(body).ok()
}

impl Destination for AzureMonitor {
    fn takes_records_at(&self, path: &str) -> bool {
        path.starts_with("/dataCollectionRules/")
    }

    fn answer(&mut self, call: &Call, seen: &mut SeenRequest) -> Reply {
        if call.path == format!("/{TENANT}/oauth2/v2.0/token") {
            return self.give(call);
        }
        match self.takes_records_at(&call.path) {
            true => self.take(call, seen).unwrap_or_else(|refusal| refusal),
            false => error(404, "NotFound", "there is nothing"),
        }
    }

    fn failure(&self, status: u16) -> Reply {
        error(status, "Failure", "this failure was asked for")
    }

    fn error_in_success(&self) -> Option<Reply> {
        Some(Reply::page(200))
    }

    fn ways_to_fail(&self) -> Vec<Fault> {
        let mut ways = usual_ways();
        ways.push(Fault::ErrorInSuccess);
        ways
    }
}

fn error(status: u16, code: &str, message: &str) -> Reply {
    Reply::new(status, json!({"error": {"code": code, "message": message}}))
}
