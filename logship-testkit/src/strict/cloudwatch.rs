//! A stand-in for CloudWatch Logs, written from
//! <https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/Welcome.html>: groups, streams, writing, reading
//! and export tasks, over AWS JSON 1.1. It checks who signs, not the signature.
//!
//! It is as awkward as the documents allow: events are read in the order of their times, then of their arrival, while
//! their ids within one millisecond are in no order; the first page of every reading is empty and has a token; one
//! export task runs at a time.

mod export;
mod store;

use std::time::Duration;

use serde_json::{Value, json};

use self::store::Store;
pub use self::store::{Event, Exported};
use super::amazon::{Refusal, asked, failure, refuse, reply};
use super::faults::{Fault, SeenRequest};
use super::stand::{Call, Destination, Reply, Strict, usual_ways};

/// CloudWatch Logs on a port of its own.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use logship_testkit::strict::cloudwatch::StrictCloudWatch;
///
/// let logs = StrictCloudWatch::start().await?;
/// logs.create("group", "stream");
/// assert!(logs.events("group", "stream").is_empty());
/// # std::io::Result::Ok(())
/// # }).unwrap();
/// ```
pub type StrictCloudWatch = Strict<CloudWatch>;

/// What CloudWatch Logs takes and keeps.
#[derive(Debug, Default)]
pub struct CloudWatch {
    store: Store,
    /// The only access key that is let in, if there is one.
    access_key_id: Option<String>,
}

impl StrictCloudWatch {
    /// Lets nobody in but who signs with this key.
    pub fn require_access_key(&self, id: &str) {
        self.state().destination.access_key_id = Some(id.to_owned());
    }

    /// Makes a stream, and its group.
    pub fn create(&self, group: &str, stream: &str) {
        let store = &mut self.state().destination.store;
        // Being there is what is asked for.
        let _ = store.create_group(group);
        let _ = store.create_stream(group, stream);
    }

    /// Lets a group forget after so many days.
    pub fn retain(&self, group: &str, days: i64) {
        let _ = self.state().destination.store.retain(group, days);
    }

    /// After how many days a group forgets, if it does; none for a group that is not there either.
    pub fn retention(&self, group: &str) -> Option<i64> {
        self.state().destination.store.retention(group)
    }

    /// Puts events into a stream as a writer does, each a time in milliseconds and a message, whatever their age.
    pub fn put(&self, group: &str, stream: &str, events: impl IntoIterator<Item = (i64, String)>) {
        self.create(group, stream);
        let _ = self.state().destination.store.append(group, stream, events.into_iter().collect());
    }

    /// Lets the events of a stream have arrived so much earlier.
    pub fn age(&self, group: &str, stream: &str, by: Duration) {
        self.state().destination.store.age(group, stream, by.as_millis() as i64);
    }

    /// The names of the streams of a group.
    pub fn streams(&self, group: &str) -> Vec<String> {
        self.state().destination.store.stream_names(group)
    }

    /// What a stream holds, in the order in which it is read.
    pub fn events(&self, group: &str, stream: &str) -> Vec<Event> {
        self.state().destination.store.events(group, stream)
    }

    /// What export tasks have written, in the order in which they ended.
    pub fn exported(&self) -> Vec<Exported> {
        self.state().destination.store.exported()
    }
}

impl CloudWatch {
    fn take(&mut self, call: &Call, seen: &mut SeenRequest) -> Result<Value, Refusal> {
        let (target, request) = asked(call, "logs", "Logs_20140328.", self.access_key_id.as_ref())?;
        seen.body_bytes = call.wire.len();
        let store = &mut self.store;
        match target.as_str() {
            "CreateLogGroup" => store.create_group(name(&request, "logGroupName")?).map(|()| json!({})),
            "CreateLogStream" => store
                .create_stream(name(&request, "logGroupName")?, name(&request, "logStreamName")?)
                .map(|()| json!({})),
            "PutRetentionPolicy" => {
                let days = request["retentionInDays"].as_i64().unwrap_or_default();
                store.retain(name(&request, "logGroupName")?, days).map(|()| json!({}))
            }
            "PutLogEvents" => store.put(&request, seen),
            "DescribeLogGroups" => store.describe_groups(&request),
            "DescribeLogStreams" => store.describe_streams(&request),
            "FilterLogEvents" => store.filter(&request),
            "CreateExportTask" => store.create_export(&request),
            "DescribeExportTasks" => store.describe_exports(&request),
            "CancelExportTask" => store.cancel_export(&request),
            _ => refuse("UnknownOperationException", ""),
        }
    }
}

/// A name that the request must hold.
fn name<'a>(request: &'a Value, field: &str) -> Result<&'a str, Refusal> {
    match request[field].as_str() {
        Some(name) if (1..=512).contains(&name.chars().count()) => Ok(name),
        _ => refuse("InvalidParameterException", format!("1 validation error detected: Value at '{field}' is wrong")),
    }
}

impl Destination for CloudWatch {
    fn takes_records_at(&self, _: &str) -> bool {
        true
    }

    fn answer(&mut self, call: &Call, seen: &mut SeenRequest) -> Reply {
        reply(self.take(call, seen))
    }

    fn failure(&self, status: u16) -> Reply {
        failure(status, "ThrottlingException")
    }

    fn ways_to_fail(&self) -> Vec<Fault> {
        let mut ways = usual_ways();
        ways.push(Fault::Answer(Reply::page(200)));
        ways
    }
}
