//! Groups, streams and events.

use std::collections::BTreeMap;

use logship_core::Timestamp;
use serde_json::{Value, json};

use super::export::Task;
use super::{Refusal, name, refuse};
use crate::strict::faults::SeenRequest;

const DAY_MILLIS: i64 = 24 * 3600 * 1000;
/// <https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_PutLogEvents.html>, as the next ones.
const EVENTS_MAX: usize = 10_000;
const BATCH_BYTES_MAX: usize = 1_048_576;
const OVERHEAD: usize = 26;
const AGE_MAX_MILLIS: i64 = 14 * DAY_MILLIS;
const AHEAD_MAX_MILLIS: i64 = 2 * 3600 * 1000;
/// Names in an answer that describes.
const NAMES_MAX: usize = 50;
/// What a page of events may hold.
/// <https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_FilterLogEvents.html>
const PAGE_EVENTS_MAX: usize = 10_000;
const PAGE_BYTES_MAX: usize = 1_048_576;

/// All there is.
#[derive(Debug, Default)]
pub(super) struct Store {
    pub(super) groups: BTreeMap<String, Group>,
    /// How many batches there were.
    puts: u64,
    pub(super) tasks: Vec<Task>,
    pub(super) exported: Vec<Exported>,
}

#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) streams: BTreeMap<String, Stream>,
    created: i64,
    retention_days: Option<i64>,
}

#[derive(Debug, Default)]
pub(super) struct Stream {
    created: i64,
    /// In the order in which they are read.
    pub(super) events: Vec<Event>,
}

/// An event as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Event {
    /// What it is known by.
    pub id: String,
    /// When it happened, in milliseconds.
    pub timestamp: i64,
    /// When it arrived, in milliseconds.
    pub ingestion_time: i64,
    /// Its message.
    pub message: String,
    /// Which batch it came in, and where in it.
    place: (u64, usize),
}

/// What events are read by: their time, their arrival, and the place they came in.
type Order = (i64, i64, (u64, usize));

/// A line that an export task has written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Exported {
    /// The bucket.
    pub bucket: String,
    /// What the object's key begins with: the prefix of the task and its id.
    pub prefix: String,
    /// The stream.
    pub stream: String,
    /// The event's time, in milliseconds.
    pub timestamp: i64,
    /// The event's message.
    pub message: String,
}

impl Event {
    fn order(&self) -> Order {
        (self.timestamp, self.ingestion_time, self.place)
    }
}

pub(super) fn now() -> i64 {
    Timestamp::now().as_millis()
}

fn gone<T>(what: &str) -> Result<T, Refusal> {
    refuse("ResourceNotFoundException", format!("The specified log {what} does not exist."))
}

/// Where to go on, and how much to give: what describes gives fifty names.
fn window<'a>(
    names: impl Iterator<Item = &'a String>,
    request: &Value,
) -> Result<(Vec<&'a str>, Option<String>), Refusal> {
    let limit = request["limit"].as_u64().unwrap_or(NAMES_MAX as u64) as usize;
    if !(1..=NAMES_MAX).contains(&limit) {
        return refuse("InvalidParameterException", "Value at 'limit' failed to satisfy constraint: at most 50");
    }
    let after = request["nextToken"].as_str();
    let mut names: Vec<&str> =
        names.map(String::as_str).filter(|name| after.is_none_or(|after| *name > after)).collect();
    let token = (names.len() > limit).then(|| names[limit - 1].to_owned());
    names.truncate(limit);
    Ok((names, token))
}

impl Store {
    pub(super) fn create_group(&mut self, group: &str) -> Result<(), Refusal> {
        let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || b"_-/.#".contains(&byte);
        if !group.bytes().all(is_fit) || group.starts_with("aws/") {
            return refuse("InvalidParameterException", "Value at 'logGroupName' failed to satisfy constraint");
        }
        if self.groups.contains_key(group) {
            return refuse("ResourceAlreadyExistsException", "The specified log group already exists");
        }
        self.groups.insert(group.to_owned(), Group { created: now(), ..Group::default() });
        Ok(())
    }

    pub(super) fn create_stream(&mut self, group: &str, stream: &str) -> Result<(), Refusal> {
        let Some(found) = self.groups.get_mut(group) else { return gone("group") };
        if stream.contains([':', '*']) {
            return refuse("InvalidParameterException", "Value at 'logStreamName' failed to satisfy constraint");
        }
        if found.streams.contains_key(stream) {
            return refuse("ResourceAlreadyExistsException", "The specified log stream already exists");
        }
        found.streams.insert(stream.to_owned(), Stream { created: now(), ..Stream::default() });
        Ok(())
    }

    pub(super) fn retain(&mut self, group: &str, days: i64) -> Result<(), Refusal> {
        let Some(found) = self.groups.get_mut(group) else { return gone("group") };
        found.retention_days = Some(days);
        Ok(())
    }

    pub(super) fn retention(&self, group: &str) -> Option<i64> {
        self.groups.get(group)?.retention_days
    }

    pub(super) fn stream_names(&self, group: &str) -> Vec<String> {
        self.groups.get(group).map(|group| group.streams.keys().cloned().collect()).unwrap_or_default()
    }

    pub(super) fn events(&self, group: &str, stream: &str) -> Vec<Event> {
        let found = self.groups.get(group).and_then(|group| group.streams.get(stream));
        found.map(|stream| stream.events.clone()).unwrap_or_default()
    }

    pub(super) fn age(&mut self, group: &str, stream: &str, millis: i64) {
        let found = self.groups.get_mut(group).and_then(|group| group.streams.get_mut(stream));
        found.into_iter().flat_map(|stream| &mut stream.events).for_each(|event| event.ingestion_time -= millis);
    }

    fn stream(&mut self, group: &str, stream: &str) -> Result<&mut Stream, Refusal> {
        let Some(found) = self.groups.get_mut(group) else { return gone("group") };
        found.streams.get_mut(stream).map_or_else(|| gone("stream"), Ok)
    }

    /// Keeps a batch.
    pub(super) fn append(&mut self, group: &str, stream: &str, events: Vec<(i64, String)>) -> Result<(), Refusal> {
        self.puts += 1;
        let (put, ingestion_time) = (self.puts, now());
        let found = self.stream(group, stream)?;
        for (index, (timestamp, message)) in events.into_iter().enumerate() {
            // In the order of time, and within a millisecond in none.
            let place = put.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17);
            let scrambled = (index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let id = format!("{:016}{:020}{:020}", timestamp.max(0), place, scrambled);
            found.events.push(Event { id, timestamp, ingestion_time, message, place: (put, index) });
        }
        found.events.sort_by_key(Event::order);
        Ok(())
    }

    pub(super) fn put(&mut self, request: &Value, seen: &mut SeenRequest) -> Result<Value, Refusal> {
        let wrong = |words: &str| refuse("InvalidParameterException", words);
        let (group, stream) = (name(request, "logGroupName")?.to_owned(), name(request, "logStreamName")?.to_owned());
        let Some(given) = request["logEvents"].as_array() else { return wrong("logEvents is missing") };
        let mut events = Vec::with_capacity(given.len());
        for event in given {
            let (Some(time), Some(message)) = (event["timestamp"].as_i64(), event["message"].as_str()) else {
                return refuse("SerializationException", "an event is none");
            };
            if message.is_empty() || time < 0 {
                return wrong("Member must have length greater than or equal to 1");
            }
            events.push((time, message.to_owned()));
        }
        seen.items = events.len();
        let bytes: usize = events.iter().map(|(_, message)| message.len() + OVERHEAD).sum();
        // What the limits are about is this count, not the JSON around it.
        seen.body_bytes = bytes;
        self.stream(&group, &stream)?;
        if !(1..=EVENTS_MAX).contains(&events.len()) {
            return wrong("Member must have length less than or equal to 10000");
        }
        if bytes > BATCH_BYTES_MAX {
            return wrong(&format!("Upload too large: {bytes} bytes exceeds limit of {BATCH_BYTES_MAX}"));
        }
        if events.windows(2).any(|pair| pair[0].0 > pair[1].0) {
            return wrong("Log events in a single PutLogEvents request must be in chronological order.");
        }
        let (first, last) = (events[0].0, events[events.len() - 1].0);
        if last - first > DAY_MILLIS {
            return wrong("The batch of log events in a single PutLogEvents request cannot span more than 24 hours.");
        }
        let now = now();
        let retention = self.retention(&group).map_or(i64::MAX, |days| days * DAY_MILLIS);
        let too_old = events.partition_point(|(time, _)| *time < now - AGE_MAX_MILLIS);
        let expired = events.partition_point(|(time, _)| now - *time > retention);
        let too_new = events.partition_point(|(time, _)| *time <= now + AHEAD_MAX_MILLIS);
        let len = events.len();
        let begin = too_old.max(expired).min(too_new);
        let kept: Vec<_> = events.drain(begin..too_new).collect();
        seen.stored = kept.len();
        self.append(&group, &stream, kept)?;
        let mut answer = json!({"nextSequenceToken": self.puts.to_string()});
        let borders = [
            ("tooOldLogEventEndIndex", too_old, too_old > 0),
            ("expiredLogEventEndIndex", expired, expired > 0),
            ("tooNewLogEventStartIndex", too_new, too_new < len),
        ];
        for (name, border, _) in borders.into_iter().filter(|(_, _, is_given)| *is_given) {
            answer["rejectedLogEventsInfo"][name] = border.into();
        }
        Ok(answer)
    }

    pub(super) fn describe_groups(&self, request: &Value) -> Result<Value, Refusal> {
        let prefix = request["logGroupNamePrefix"].as_str().unwrap_or_default();
        let names = self.groups.keys().filter(|name| name.starts_with(prefix));
        let (names, token) = window(names, request)?;
        let described = names.iter().filter_map(|name| Some((name, self.groups.get(*name)?))).map(|(name, group)| {
            json!({"logGroupName": name, "creationTime": group.created, "retentionInDays": group.retention_days,
                "arn": format!("arn:aws:logs:eu-west-1:123456789012:log-group:{name}:*")})
        });
        Ok(json!({"logGroups": described.collect::<Vec<_>>(), "nextToken": token}))
    }

    pub(super) fn describe_streams(&self, request: &Value) -> Result<Value, Refusal> {
        let Some(group) = self.groups.get(name(request, "logGroupName")?) else { return gone("group") };
        let prefix = request["logStreamNamePrefix"].as_str().unwrap_or_default();
        let names = group.streams.keys().filter(|name| name.starts_with(prefix));
        let (names, token) = window(names, request)?;
        let described =
            names.iter().filter_map(|name| Some((name, group.streams.get(*name)?))).map(|(name, stream)| {
                let last = stream.events.iter().map(|event| event.ingestion_time).max();
                json!({"logStreamName": name, "creationTime": stream.created,
                "firstEventTimestamp": stream.events.first().map(|event| event.timestamp),
                "lastEventTimestamp": stream.events.last().map(|event| event.timestamp), "lastIngestionTime": last})
            });
        Ok(json!({"logStreams": described.collect::<Vec<_>>(), "nextToken": token}))
    }

    pub(super) fn filter(&self, request: &Value) -> Result<Value, Refusal> {
        let Some(group) = self.groups.get(name(request, "logGroupName")?) else { return gone("group") };
        let wanted: Vec<&str> =
            request["logStreamNames"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        if wanted.len() > 100 || request["logStreamNames"].as_array().is_some_and(Vec::is_empty) {
            return refuse("InvalidParameterException", "Member must have length between 1 and 100");
        }
        if wanted.iter().any(|name| !group.streams.contains_key(*name)) {
            return gone("stream");
        }
        let limit = request["limit"].as_u64().unwrap_or(PAGE_EVENTS_MAX as u64) as usize;
        if !(1..=PAGE_EVENTS_MAX).contains(&limit) {
            return refuse("InvalidParameterException", "Value at 'limit' failed to satisfy constraint: at most 10000");
        }
        let (start, end) =
            (request["startTime"].as_i64().unwrap_or(0), request["endTime"].as_i64().unwrap_or(i64::MAX));
        if start < 0 || end < 0 || start > end {
            return refuse("InvalidParameterException", "the range of time is none");
        }
        let token = request["nextToken"].as_str();
        let after = token.map(parse_token).transpose()?.flatten();
        let streams = group.streams.iter().filter(|(name, _)| wanted.is_empty() || wanted.contains(&name.as_str()));
        let mut events: Vec<(&str, &Event)> = streams
            .flat_map(|(name, stream)| {
                let from = stream.events.partition_point(|event| event.timestamp < start);
                let until = stream.events.partition_point(|event| event.timestamp <= end);
                let events = stream.events.get(from..until).unwrap_or_default();
                let from = events.partition_point(|event| after.is_some_and(|after| event.order() <= after));
                events[from..].iter().map(|event| (name.as_str(), event))
            })
            .collect();
        events.sort_by_key(|(_, event)| event.order());
        if token.is_none() && !events.is_empty() {
            // A page without events is no end.
            return Ok(json!({"events": [], "searchedLogStreams": [], "nextToken": "begin"}));
        }
        let mut bytes = 0;
        let fits = |(_, event): &&(&str, &Event)| {
            bytes += event.message.len() + OVERHEAD;
            bytes <= PAGE_BYTES_MAX
        };
        let page: Vec<_> = events.iter().take(limit).take_while(fits).collect();
        let last = page.last().filter(|_| page.len() < events.len()).map(|(_, event)| event.order());
        let token = last.map(|(time, arrived, (put, index))| format!("{time}/{arrived}/{put}/{index}"));
        let given = page.iter().map(|(name, event)| {
            json!({"logStreamName": name, "eventId": event.id, "timestamp": event.timestamp,
                "ingestionTime": event.ingestion_time, "message": event.message})
        });
        Ok(json!({"events": given.collect::<Vec<_>>(), "searchedLogStreams": [], "nextToken": token}))
    }
}

/// Where a page ended; nothing for the token of the empty first page.
fn parse_token(token: &str) -> Result<Option<Order>, Refusal> {
    if token == "begin" {
        return Ok(None);
    }
    let parts: Vec<i64> = token.split('/').filter_map(|part| part.parse().ok()).collect();
    match parts[..] {
        [time, arrived, put, index] => Ok(Some((time, arrived, (put as u64, index as usize)))),
        _ => refuse("InvalidParameterException", "The specified nextToken is invalid."),
    }
}
