//! A stand-in for a web service of one's own that takes records over HTTP.
//!
//! It does all that the exporter `http` says a receiver may do: it takes one JSON object a line or one array of them,
//! answers with a verdict for each, and keeps the `Idempotency-Key` of what it took
//! (<https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/>): the same key is given the same
//! answer, and nothing of it is stored again.

use std::collections::HashMap;

use logship_core::Secret;
use serde_json::{Value, json};

use super::faults::{Fault, Items, SeenRequest};
use super::stand::{Call, Destination, Reply, Strict, unpacked, usual_ways};

/// More than the exporter sends, unless it is told to.
const BODY_BYTES_MAX: usize = 10_000_000;

/// A web service that takes records.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use logship_testkit::strict::http::StrictHttp;
///
/// let service = StrictHttp::start().await?;
/// service.refuse("poison");
/// assert!(service.records().is_empty());
/// # std::io::Result::Ok(())
/// # }).unwrap();
/// ```
pub type StrictHttp = Strict<Http>;

/// What the service takes and keeps.
#[derive(Debug, Default)]
pub struct Http {
    token: Option<Secret>,
    refused: Option<String>,
    /// What was answered for each key.
    answers: HashMap<String, Reply>,
    forgets_keys: bool,
    records: Vec<Value>,
}

impl StrictHttp {
    /// Lets in only who has this token.
    pub fn require_bearer(&self, token: impl Into<Secret>) {
        self.state().destination.token = Some(token.into());
    }

    /// Refuses records that have this text in them.
    pub fn refuse(&self, text: impl Into<String>) {
        self.state().destination.refused = Some(text.into());
    }

    /// Whether it looks at no keys, and stores again what it has. Off unless set.
    pub fn forget_keys(&self, is_on: bool) {
        self.state().destination.forgets_keys = is_on;
    }

    /// What was stored, in order of arrival.
    pub fn records(&self) -> Vec<Value> {
        self.state().destination.records.clone()
    }
}

impl Http {
    fn take(&mut self, call: &Call, seen: &mut SeenRequest, busy: Option<&Items>) -> Result<Reply, Reply> {
        let expected = self.token.as_ref().map(|token| format!("Bearer {}", token.expose()));
        if expected.is_some() && call.header("authorization") != expected.as_deref() {
            return Err(self.failure(401));
        }
        match call.method.as_str() {
            "HEAD" => return Ok(Reply::text(200, "")),
            "POST" | "PUT" => {}
            _ => return Err(self.failure(405)),
        }
        let body = unpacked(call, seen, BODY_BYTES_MAX).map_err(|status| self.failure(status))?;
        let unread = || Reply::new(400, json!({"error": "the body is not what its headers say"}));
        let records: Vec<Value> = match call.media_type() {
            "application/x-ndjson" => {
                let lines = body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
                lines.map(serde_json::from_slice).collect::<Result<_, _>>().map_err(|_| unread())?
            }
            "application/json" => serde_json::from_slice(&body).map_err(|_| unread())?,
            _ => return Err(self.failure(415)),
        };
        seen.items = records.len();
        if call.header("x-logship-count") != Some(&records.len().to_string()) || !records.iter().all(Value::is_object) {
            return Err(unread());
        }
        let key = call.header("idempotency-key").ok_or_else(unread)?.to_owned();
        if let Some(answer) = self.answers.get(&key).filter(|_| !self.forgets_keys) {
            seen.duplicates = records.len();
            return Ok(answer.clone());
        }
        let turned_away = busy.map_or_else(|| vec![false; records.len()], |items| items.of(records.len()));
        let mut verdicts = Vec::new();
        for (record, is_turned_away) in records.into_iter().zip(turned_away) {
            let is_refused = self.refused.as_ref().is_some_and(|text| record.to_string().contains(text));
            verdicts.push(match (is_turned_away, is_refused) {
                (true, _) => json!({"status": 503}),
                (_, true) => json!({"status": 400, "error": "this one is not wanted"}),
                _ => {
                    seen.stored += 1;
                    self.records.push(record);
                    json!({"status": 202})
                }
            });
        }
        let answer = Reply::new(200, verdicts.into());
        self.answers.insert(key, answer.clone());
        Ok(answer)
    }
}

impl Destination for Http {
    fn takes_records_at(&self, _: &str) -> bool {
        true
    }

    /// Who asks for the head of an address sends no body.
    fn is_empty(&self, begin: &[u8]) -> bool {
        begin.is_empty()
    }

    fn answer(&mut self, call: &Call, seen: &mut SeenRequest) -> Reply {
        self.take(call, seen, None).unwrap_or_else(|refusal| refusal)
    }

    fn answer_busy(&mut self, call: &Call, seen: &mut SeenRequest, items: &Items) -> Reply {
        self.take(call, seen, Some(items)).unwrap_or_else(|refusal| refusal)
    }

    fn failure(&self, status: u16) -> Reply {
        Reply::new(status, json!({"error": format!("answered {status}")}))
    }

    fn ways_to_fail(&self) -> Vec<Fault> {
        let mut ways = usual_ways();
        ways.push(Fault::Busy(Items::Percent { percent: 30, seed: 0 }));
        ways
    }
}
