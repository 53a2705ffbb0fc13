//! A stand-in for Grafana Loki 3, of one distributor and one ingester.
//!
//! Written from Loki's documents (<https://grafana.com/docs/loki/latest/reference/loki-http-api/#ingest-logs>,
//! <https://grafana.com/docs/loki/latest/configure/#limits_config>) and the words of its own messages
//! (<https://github.com/grafana/loki/blob/main/pkg/validation/validate.go>,
//! <https://github.com/grafana/loki/blob/main/pkg/ingester/stream.go>). An entry that is not wanted is dropped, the
//! others of the request are stored, and the answer is a 400.

mod push;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use logship_core::Timestamp;

use self::push::{Fault, Push, Stream};
use super::faults::{self, Items, SeenRequest};
use super::stand::{Call, Destination, Reply, Strict, unpacked, usual_ways};

/// `max_recv_msg_size`: <https://grafana.com/docs/loki/latest/configure/#distributor>
const BODY_BYTES_MAX: usize = 100 * 1024 * 1024;

/// A Loki.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use logship_testkit::strict::loki::StrictLoki;
///
/// let loki = StrictLoki::start().await?;
/// loki.max_line_size(1_000);
/// assert!(loki.entries().is_empty());
/// # std::io::Result::Ok(())
/// # }).unwrap();
/// ```
pub type StrictLoki = Strict<Loki>;

/// An entry as it was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry {
    /// The labels of its stream, as Loki writes them: `{job="logship"}`.
    pub stream: String,
    /// Nanoseconds since 1970.
    pub nanos: i64,
    /// The line.
    pub line: String,
    /// What is known about it beside the labels.
    pub metadata: BTreeMap<String, String>,
}

/// What Loki takes and keeps.
#[derive(Debug)]
pub struct Loki {
    limits: Limits,
    authorization: Option<String>,
    tenant: Option<String>,
    forgets_repeats: bool,
    /// The newest time of each stream.
    newest: BTreeMap<String, i64>,
    entries: Vec<Entry>,
    /// The places of the entries of each stream and time.
    places: HashMap<(String, i64), Vec<usize>>,
}

/// `limits_config`, with its defaults.
#[derive(Clone, Debug)]
struct Limits {
    label_names: usize,
    label_name_bytes: usize,
    label_value_bytes: usize,
    streams: usize,
    line_bytes: usize,
    metadata_bytes: usize,
    metadata_entries: usize,
    age: Duration,
    ahead: Duration,
    /// Half of `max_chunk_age`.
    behind: Duration,
}

impl StrictLoki {
    /// Starts one on any free port.
    pub async fn start() -> io::Result<Self> {
        Self::start_on(0).await
    }

    /// Starts one on this port; 0 is any free one.
    pub async fn start_on(port: u16) -> io::Result<Self> {
        let limits = Limits {
            label_names: 15,
            label_name_bytes: 1_024,
            label_value_bytes: 2_048,
            streams: 5_000,
            line_bytes: 256 * 1024,
            metadata_bytes: 64 * 1024,
            metadata_entries: 128,
            age: Duration::from_secs(7 * 24 * 3600),
            ahead: Duration::from_secs(600),
            behind: Duration::from_secs(3600),
        };
        let loki = Loki {
            limits,
            authorization: None,
            tenant: None,
            forgets_repeats: false,
            newest: BTreeMap::new(),
            entries: Vec::new(),
            places: HashMap::new(),
        };
        Self::of(loki, port).await
    }

    /// Lets in only this user with this password, as the proxy before a Loki does.
    pub fn require_basic(&self, user: &str, password: &str) {
        self.state().destination.authorization = Some(format!("Basic {}", BASE64.encode(format!("{user}:{password}"))));
    }

    /// Lets in only who has this token.
    pub fn require_bearer(&self, token: &str) {
        self.state().destination.authorization = Some(format!("Bearer {token}"));
    }

    /// Takes only what names this tenant.
    pub fn require_tenant(&self, tenant: &str) {
        self.state().destination.tenant = Some(tenant.to_owned());
    }

    /// Sets `max_line_size`, in bytes. 256 KiB unless set.
    pub fn max_line_size(&self, bytes: usize) {
        self.state().destination.limits.line_bytes = bytes;
    }

    /// Sets `max_label_names_per_series`. 15 unless set.
    pub fn max_label_names(&self, names: usize) {
        self.state().destination.limits.label_names = names;
    }

    /// Sets `max_global_streams_per_user`. 5,000 unless set.
    pub fn max_streams(&self, streams: usize) {
        self.state().destination.limits.streams = streams;
    }

    /// Stores what it has already, as the real one does when the block that holds it was cut. Off unless set: an entry
    /// of the same stream, time and line is stored once.
    pub fn forget_repeats(&self, is_on: bool) {
        self.state().destination.forgets_repeats = is_on;
    }

    /// What was stored, in order of arrival.
    pub fn entries(&self) -> Vec<Entry> {
        self.state().destination.entries.clone()
    }
}

impl Loki {
    /// What the distributor says about a stream as a whole.
    fn check_stream(&self, stream: &Stream) -> Option<String> {
        let (name, limits) = (&stream.name, &self.limits);
        if stream.labels.is_empty() {
            return Some("error at least one label pair is required per stream".to_owned());
        }
        if stream.labels.len() > limits.label_names {
            let count = stream.labels.len();
            return Some(format!("entry for stream '{name}' has {count} label names; limit {}", limits.label_names));
        }
        for (label, value) in &stream.labels {
            if !push::is_label_name(label) {
                return Some(format!("Error parsing labels '{name}' with error: parse error: invalid label '{label}'"));
            }
            if label.len() > limits.label_name_bytes {
                return Some(format!("stream '{name}' has label name too long: '{label}'"));
            }
            if value.len() > limits.label_value_bytes {
                return Some(format!("stream '{name}' has label value too long: '{value}'"));
            }
        }
        None
    }

    /// What the distributor says about an entry.
    fn check_entry(&self, name: &str, entry: &Entry, now: Timestamp) -> Option<String> {
        let limits = &self.limits;
        let time = Timestamp::from_nanos(entry.nanos);
        let oldest = now.saturating_sub(limits.age);
        if time < oldest {
            return Some(format!(
                "entry for stream '{name}' has timestamp too old: {}, oldest acceptable timestamp is: {}",
                push::rfc3339(time),
                push::rfc3339(oldest)
            ));
        }
        if time > now.saturating_add(limits.ahead) {
            return Some(format!("entry for stream '{name}' has timestamp too new: {}", push::rfc3339(time)));
        }
        let length = entry.line.len();
        if length > limits.line_bytes {
            return Some(format!(
                "Max entry size '{}' bytes exceeded for stream '{name}' while adding an entry with length '{length}' bytes",
                limits.line_bytes
            ));
        }
        let bytes: usize = entry.metadata.iter().map(|(name, value)| name.len() + value.len()).sum();
        if bytes > limits.metadata_bytes {
            return Some(format!(
                "stream '{name}' has structured metadata too large: '{bytes}' bytes, limit: '{}' bytes. Please see `limits_config.max_structured_metadata_size` or contact your Loki administrator to increase it.",
                limits.metadata_bytes
            ));
        }
        let count = entry.metadata.len();
        (count > limits.metadata_entries).then(|| format!(
            "stream '{name}' has too many structured metadata labels: '{count}', limit: '{}'. Please see `limits_config.max_structured_metadata_entries_count` or contact your Loki administrator to increase it.",
            limits.metadata_entries
        ))
    }

    /// What the ingester does with the entries of one stream that are left, each with whether it is too busy for it.
    fn ingest(&mut self, stream: &str, entries: Vec<(Entry, bool)>, seen: &mut SeenRequest) -> Option<(u16, String)> {
        if !self.newest.contains_key(stream) && self.newest.len() >= self.limits.streams {
            return Some((
                429,
                format!(
                    "Maximum active stream limit exceeded when trying to create stream {stream}, reduce the number of active streams (reduce labels or reduce label values), or contact your Loki administrator to see if the limit can be increased, user: 'fake'"
                ),
            ));
        }
        let behind = i64::try_from(self.limits.behind.as_nanos()).unwrap_or(i64::MAX);
        let total = entries.len();
        let mut faults: Vec<Fault> = Vec::new();
        for (entry, is_busy) in entries {
            let newest = self.newest.entry(stream.to_owned()).or_insert(entry.nanos);
            let cutoff = newest.saturating_sub(behind);
            if is_busy {
                faults.push(Fault::rate_limited(&entry));
            } else if entry.nanos < cutoff {
                faults.push(Fault::too_far_behind(&entry, cutoff));
            } else {
                *newest = entry.nanos.max(*newest);
                let places = self.places.entry((entry.stream.clone(), entry.nanos)).or_default();
                if !self.forgets_repeats && places.iter().any(|place| self.entries[*place].line == entry.line) {
                    seen.duplicates += 1;
                } else {
                    seen.stored += 1;
                    places.push(self.entries.len());
                    self.entries.push(entry);
                }
            }
        }
        Fault::answer(&faults, total, stream)
    }

    /// Turns away who is not let in and what has no form it reads.
    fn admit(&self, call: &Call) -> Result<(), Reply> {
        if !self.takes_records_at(&call.path) {
            return Err(Reply::text(404, "404 page not found\n"));
        }
        if self.authorization.is_some() && call.header("authorization") != self.authorization.as_deref() {
            return Err(Reply::text(401, "authentication error: invalid token"));
        }
        match (&self.tenant, call.header("x-scope-orgid")) {
            (Some(wanted), Some(given)) if wanted == given => {}
            (None, _) => {}
            (Some(_), Some(_)) => return Err(Reply::text(403, "not a tenant of yours")),
            (Some(_), None) => return Err(Reply::text(401, "no org id\n")),
        }
        match (call.method.as_str(), call.header("content-type")) {
            ("POST", Some("application/json")) => Ok(()),
            // Anything else is read as protobuf, packed with snappy.
            ("POST", _) => Err(Reply::text(400, "snappy: corrupt input\n")),
            _ => Err(Reply::text(405, "")),
        }
    }

    /// Stores what it takes. `busy` names the entries to turn away for now.
    fn take(&mut self, call: &Call, seen: &mut SeenRequest, busy: Option<&Items>) -> Result<Reply, Reply> {
        self.admit(call)?;
        let body = unpacked(call, seen, BODY_BYTES_MAX).map_err(|status| self.failure(status))?;
        let push: Push = serde_json::from_slice(&body).map_err(|error| Reply::text(400, format!("{error}\n")))?;
        seen.items = push.streams.iter().map(|stream| stream.values.len()).sum();
        if seen.items == 0 {
            return Err(Reply::text(422, "error at least one valid stream is required for ingestion\n"));
        }
        let busy = busy.map_or_else(|| vec![false; seen.items], |items| items.of(seen.items));
        let mut busy = busy.into_iter();
        let now = Timestamp::now();
        let (mut refusals, mut answer) = (Vec::new(), None);
        for stream in push.streams {
            let fault = self.check_stream(&stream);
            let mut left = Vec::new();
            for entry in stream.values.iter().map(|value| value.entry(&stream.name)) {
                let is_busy = busy.next().unwrap_or_default();
                match fault.clone().or_else(|| self.check_entry(&stream.name, &entry, now)) {
                    Some(words) => refusals.push(words),
                    None => left.push((entry, is_busy)),
                }
            }
            if !left.is_empty() {
                answer = self.ingest(&stream.name, left, seen).or(answer);
            }
        }
        match answer {
            // What the ingester says hides what the distributor said.
            Some((status, words)) => Err(Reply::text(status, words + "\n")),
            None if refusals.is_empty() => Ok(Reply::text(204, "")),
            None => Err(Reply::text(400, push::grouped(&refusals) + "\n")),
        }
    }
}

impl Destination for Loki {
    fn takes_records_at(&self, path: &str) -> bool {
        path == "/loki/api/v1/push"
    }

    fn answer(&mut self, call: &Call, seen: &mut SeenRequest) -> Reply {
        self.take(call, seen, None).unwrap_or_else(|refusal| refusal)
    }

    fn answer_busy(&mut self, call: &Call, seen: &mut SeenRequest, items: &Items) -> Reply {
        self.take(call, seen, Some(items)).unwrap_or_else(|refusal| refusal)
    }

    fn failure(&self, status: u16) -> Reply {
        let words = match status {
            401 => "no org id",
            413 => "http: request body too large",
            429 => {
                "Ingestion rate limit exceeded for user fake (limit: 4194304 bytes/sec) while attempting to ingest '50' lines totaling '20000' bytes, reduce log volume or contact your Loki administrator to see if the limit can be increased"
            }
            503 => "too many unhealthy instances in the ring",
            _ => "failed on request",
        };
        Reply::text(status, format!("{words}\n"))
    }

    fn error_in_success(&self) -> Option<Reply> {
        let words = "ingestion blocked for user fake until '2026-11-21T00:00:00Z' with status code '260'\n";
        Some(Reply::text(260, words))
    }

    fn ways_to_fail(&self) -> Vec<faults::Fault> {
        let mut ways = usual_ways();
        ways.extend([
            faults::Fault::ErrorInSuccess,
            faults::Fault::Answer(Reply::page(200)),
            faults::Fault::Busy(Items::Percent { percent: 30, seed: 0 }),
        ]);
        ways
    }
}
