//! Events as they come, and the page they become.

use std::sync::Arc;

use aws_sdk_cloudwatchlogs::types::FilteredLogEvent;
use logship_core::{
    Cursor, Error, ErrorKind, LogRecord, Page, PageEnd, PageLimits, Partition, Query, RecordId, Resource, Text,
    TextBlock, Timestamp, Value,
};

use crate::jsonl::{JsonlFields, Parser};

/// Digits of an id, at least: shorter ones are filled up, so that ids are in the order of their numbers. AWS gives 56.
const ID_DIGITS: usize = 56;

/// Bytes that an event takes beside its text, about.
const EVENT_BYTES: usize = 256;

/// An event in its place.
struct Event {
    position: Cursor,
    arrived: Option<i64>,
    message: String,
}

/// Events of a stream behind a position, in the order of their times, and within a millisecond in any.
pub(super) struct Collected<'a> {
    after: Option<&'a Cursor>,
    limits: PageLimits,
    events: Vec<Event>,
    bytes: usize,
    /// The first that was left out, of a millisecond that holds more than a page. Nothing from there on is kept.
    cut_at: Option<Cursor>,
    /// What comes now is behind that millisecond.
    is_behind: bool,
}

impl<'a> Collected<'a> {
    pub(super) fn new(after: Option<&'a Cursor>, limits: PageLimits) -> Self {
        Collected { after, limits, events: Vec::new(), bytes: 0, cut_at: None, is_behind: false }
    }

    /// Takes what the next answer gives.
    ///
    /// # Errors
    /// [`ErrorKind::Protocol`] if an event has no time or no id: it could not be told from others.
    pub(super) fn add(&mut self, events: Vec<FilteredLogEvent>) -> Result<(), Error> {
        for event in events {
            let (Some(time), Some(id)) = (event.timestamp, event.event_id) else {
                return Err(Error::new(ErrorKind::Protocol, "read a log stream", "an event has no time or no id"));
            };
            let position = Cursor::new(time, format!("{id:0>ID_DIGITS$}").into());
            if self.after.is_some_and(|after| position <= *after) {
                continue;
            }
            if let Some(cut_at) = self.cut_at.as_ref().filter(|cut_at| position >= **cut_at) {
                self.is_behind |= time > cut_at.as_number();
                continue;
            }
            let message = event.message.unwrap_or_default();
            self.bytes += message.len() + EVENT_BYTES;
            self.events.push(Event { position, arrived: event.ingestion_time, message });
        }
        if self.is_full() && self.is_one_millisecond() {
            self.cut();
        }
        Ok(())
    }

    /// Whether more would be in vain: there is a page, and the millisecond it ends with is all there.
    pub(super) fn is_enough(&self) -> bool {
        self.is_behind || self.is_full() && !self.is_one_millisecond()
    }

    fn is_full(&self) -> bool {
        self.events.len() > self.limits.records_max || self.bytes > self.limits.bytes_max.saturating_add(EVENT_BYTES)
    }

    fn is_one_millisecond(&self) -> bool {
        let time = |event: Option<&Event>| event.map(|event| event.position.as_number());
        time(self.events.first()) == time(self.events.last())
    }

    /// Of a millisecond that holds more than a page, keeps what comes first by its ids. The others are read again.
    fn cut(&mut self) {
        self.events.sort_by(|one, other| one.position.cmp(&other.position));
        let (mut records, mut bytes) = (0, 0);
        for event in &self.events {
            let with = bytes + event.message.len() + EVENT_BYTES;
            if records > 0 && (records >= self.limits.records_max || with > self.limits.bytes_max) {
                break;
            }
            (records, bytes) = (records + 1, with);
        }
        if let Some(first) = self.events.get(records) {
            self.cut_at = Some(first.position.clone());
        }
        self.events.truncate(records);
        self.bytes = bytes;
    }

    /// The page. `is_all` says that the events were read to their end.
    pub(super) fn into_page(
        mut self,
        partition: &Partition,
        query: &Query,
        is_all: bool,
        json: Option<&JsonlFields>,
        resource: Arc<Resource>,
    ) -> Page {
        let mut is_more = self.cut_at.is_some();
        if !is_all && !self.is_one_millisecond() {
            // More of the last millisecond may be behind the token.
            let last = self.events.last().map(|event| event.position.as_number());
            self.events.retain(|event| Some(event.position.as_number()) != last);
            is_more = true;
        }
        self.events.sort_by(|one, other| one.position.cmp(&other.position));
        self.events.dedup_by(|one, other| one.position == other.position);
        let mut parser = json.map(|fields| Parser::new(fields, Timestamp::now()));
        let (mut records, mut next, mut bytes): (Vec<LogRecord>, _, _) = (Vec::new(), None, 0);
        for event in self.events {
            if records.len() >= self.limits.records_max {
                is_more = true;
                break;
            }
            let position = event.position.clone();
            let record = record_of(event, partition, parser.as_mut(), &resource);
            if query.matches(&record) {
                let size = record.size();
                if !records.is_empty() && bytes + size > self.limits.bytes_max {
                    is_more = true;
                    break;
                }
                bytes += size;
                records.push(record);
            }
            next = Some(position);
        }
        let end = if is_more { PageEnd::More } else { PageEnd::CaughtUp };
        Page::ending_at(partition.clone(), records, next, end)
    }
}

fn record_of(
    event: Event,
    partition: &Partition,
    parser: Option<&mut Parser<'_>>,
    resource: &Arc<Resource>,
) -> LogRecord {
    let time = Timestamp::from_millis(event.position.as_number());
    let id = RecordId::new(partition.clone(), event.position);
    let message = Text::from(event.message);
    let mut record = match parser.filter(|_| message.trim_start().starts_with('{')) {
        Some(parser) => {
            let (mut record, message) = (LogRecord::new(id, time), TextBlock::new(message));
            parser.record(&message, 0..message.as_str().len(), &mut record);
            record.attributes.retain(|(name, _)| name.as_str() != "logship.timestamp_missing");
            record.timestamp = time;
            record
        }
        None => {
            let mut record = LogRecord::new(id, time);
            record.body = Value::String(message);
            record
        }
    };
    record.observed_timestamp = event.arrived.map(Timestamp::from_millis);
    record.resource = Arc::clone(resource);
    record
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn event(time: i64, id: u64, message: &str) -> FilteredLogEvent {
        FilteredLogEvent::builder().timestamp(time).event_id(id.to_string()).message(message).build()
    }

    /// Reads all there is, as the source does, with answers of so many events.
    fn read_all(stream: &[(i64, u64, usize)], limits: PageLimits, answer: usize, query: &Query) -> Vec<u64> {
        let mut ids = Vec::new();
        let mut after: Option<Cursor> = None;
        for _ in 0..1_000 {
            let from = after.as_ref().map_or(0, Cursor::as_number);
            let wanted: Vec<_> = stream.iter().filter(|(time, _, _)| *time >= from).collect();
            let mut collected = Collected::new(after.as_ref(), limits);
            let mut is_all = true;
            let mut at = 0;
            while at < wanted.len() {
                let events = wanted[at..].iter().take(answer);
                let events = events.map(|(time, id, len)| event(*time, *id, &"x".repeat(*len))).collect();
                collected.add(events).unwrap();
                at += answer;
                is_all = at >= wanted.len();
                if collected.is_enough() {
                    break;
                }
                let bound = 2 * limits.records_max + answer;
                assert!(collected.events.len() <= bound || !collected.is_one_millisecond(), "memory is bounded");
            }
            let page = collected.into_page(&Partition::new("g:s"), query, is_all, None, Arc::default());
            assert!(page.records().len() <= limits.records_max);
            let id =
                |record: &LogRecord| record.id.position().as_text().trim_start_matches('0').parse::<u64>().unwrap();
            ids.extend(page.records().iter().map(id));
            assert!(page.end() == PageEnd::CaughtUp || page.next() > after.as_ref(), "a page moves forward");
            if let Some(next) = page.next() {
                after = Some(next.clone());
            }
            if page.end() == PageEnd::CaughtUp {
                return ids;
            }
        }
        panic!("no end");
    }

    proptest! {
        #[test]
        fn every_event_is_given_once_however_many_share_a_millisecond(
            times in prop::collection::vec((1i64..5, 0usize..4), 0..60),
            records_max in 1usize..12,
            bytes_max in prop_oneof![Just(1usize), Just(600), Just(2_000), Just(usize::MAX)],
            answer in 1usize..20,
            seed: u64,
        ) {
            // In the order of time; ids in none.
            let mut rng = seed;
            let mut stream: Vec<(i64, u64, usize)> = times.into_iter().enumerate().map(|(index, (time, len))| {
                rng = rng.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (time, (rng >> 40) * 100 + index as u64 + 1, len * 100)
            }).collect();
            stream.sort_by_key(|(time, _, _)| *time);
            let mut expected = stream.clone();
            expected.sort_by_key(|(time, id, _)| (*time, *id));
            let expected: Vec<u64> = expected.into_iter().map(|(_, id, _)| id).collect();
            let limits = PageLimits { records_max, bytes_max, until: None };
            prop_assert_eq!(read_all(&stream, limits, answer, &Query::all()), expected);
            let nothing = Query::all().namespace("nowhere");
            prop_assert_eq!(read_all(&stream, limits, answer, &nothing), Vec::<u64>::new());
        }
    }

    #[test]
    fn an_event_without_an_id_is_an_error() {
        let mut collected = Collected::new(None, PageLimits { records_max: 9, bytes_max: 9, until: None });
        let event = FilteredLogEvent::builder().timestamp(1).message("text").build();
        assert_eq!(collected.add(vec![event]).unwrap_err().kind(), ErrorKind::Protocol);
    }
}
