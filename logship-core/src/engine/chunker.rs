//! Cuts pages into chunks of the size that one destination likes.

use std::sync::Arc;

use super::budget::Held;
use super::late::{Covered, Watch};
use crate::chunk::{Begins, Segment};
use crate::encoding::EncodedPage;
use crate::page::Head;
use crate::{Chunk, Cursor, Grouping, Limits, OnReject, Page, Query, Rejection, Start, Timestamp};

/// What a lane makes of a page.
#[derive(Debug)]
pub(crate) struct Input {
    /// The lane's number of the page's partition.
    pub(crate) partition: usize,
    pub(crate) page: Arc<Page>,
    /// The first record to take.
    pub(crate) from: usize,
    pub(crate) encoded: Option<Arc<EncodedPage>>,
    pub(crate) held: Arc<Held>,
}

/// A chunk, and how far each partition is covered once it is done.
#[derive(Debug)]
pub(crate) struct Cut {
    pub(crate) chunk: Chunk,
    /// All its records are late: it covers nothing.
    pub(crate) late: bool,
    /// Why the destination's limits refuse its records, if they do: one for each record, or none at all.
    pub(crate) refused: Vec<Rejection>,
    pub(crate) spans: Vec<Span>,
}

/// What a chunk has of one partition.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub(crate) partition: usize,
    /// Where the partition was covered before.
    pub(crate) begins: Start,
    /// Everything up to here is in this chunk or an earlier one, or is not wanted. Of late records the position and
    /// time of the first, which say nothing.
    pub(crate) end: Covered,
}

/// What the chunker did with a page.
#[derive(Debug, Default)]
pub(crate) struct Pushed {
    /// Chunks that are full.
    pub(crate) cuts: Vec<Cut>,
    /// Records that are waiting in a chunk or were cut into one.
    pub(crate) taken: usize,
    /// Whether what was skipped before is covered by a chunk now.
    pub(crate) covers: bool,
    /// Records that were read again, and have been taken before or are not wanted.
    pub(crate) known: usize,
    /// Records that the lane's own filter does not want.
    pub(crate) filtered: usize,
    /// Records that the destination's limits refuse, by index in the page.
    pub(crate) refused: Vec<(usize, Rejection)>,
    /// Whether it stopped in front of a refused record, the last of `refused`.
    pub(crate) stopped: bool,
    /// How far the partition is covered without anything waiting for it.
    pub(crate) skipped_to: Option<Covered>,
}

/// Gathers records until a limit is reached.
#[derive(Debug)]
pub(crate) struct Chunker {
    offset_key: Arc<str>,
    lane: Arc<str>,
    limits: Limits,
    filter: Query,
    separator_len: usize,
    frame_len: usize,
    grouping: Option<Arc<dyn Grouping>>,
    /// The group of a page that was measured last, and the most that it adds.
    measured: Option<(Arc<EncodedPage>, std::ops::Range<usize>, usize)>,
    on_reject: OnReject,
    /// By the lane's number of it.
    partitions: Vec<Place>,
    open: Open,
}

/// How far a partition has come.
#[derive(Debug)]
struct Place {
    /// Up to where it is covered: where the next chunk begins.
    covered: Start,
    /// Which span of the waiting chunk is its.
    span: Option<usize>,
}

/// A record that goes into the waiting chunk.
struct Taken<'a> {
    index: usize,
    bytes: usize,
    /// Bytes that a group of its own would add.
    group_len: usize,
    /// Who knows it as late, if it is.
    again: Option<&'a Watch>,
    /// Late records of its partition that were cut from this page.
    cut_late: usize,
    /// Why the destination's limits refuse it, if they do.
    refused: Option<Rejection>,
}

#[derive(Debug, Default)]
struct Open {
    segments: Vec<Segment>,
    spans: Vec<Span>,
    begins: Option<Arc<Begins>>,
    late: bool,
    refused: Vec<Rejection>,
    records: usize,
    bytes: usize,
    first: Option<Timestamp>,
    last: Option<Timestamp>,
}

impl Chunker {
    pub(crate) fn new(
        (offset_key, lane): (Arc<str>, Arc<str>),
        limits: Limits,
        filter: Query,
        encoding: Option<&dyn crate::Encoding>,
        on_reject: OnReject,
    ) -> Self {
        Chunker {
            offset_key,
            lane,
            limits,
            filter,
            separator_len: encoding.map_or(0, |encoding| encoding.separator().len()),
            frame_len: encoding.map_or(0, |encoding| encoding.begin().len() + encoding.end().len()),
            grouping: encoding.and_then(|encoding| encoding.grouping()),
            measured: None,
            on_reject,
            partitions: Vec::new(),
            open: Open::default(),
        }
    }

    /// Adds the next partition, which is covered up to `start`.
    pub(crate) fn add_partition(&mut self, start: Start) {
        self.partitions.push(Place { covered: start, span: None });
    }

    /// Whether no record is waiting.
    pub(crate) fn is_empty(&self) -> bool {
        self.open.records == 0
    }

    /// Whether late records are waiting.
    pub(crate) fn is_late(&self) -> bool {
        self.open.late
    }

    /// Where a partition is covered.
    pub(crate) fn covered(&self, partition: usize) -> &Start {
        &self.partitions[partition].covered
    }

    /// Takes a page, in the order of its partition. `watch` knows what of it has been taken before.
    pub(crate) fn push(&mut self, input: &Input, watch: Option<&Watch>, now: Timestamp) -> Pushed {
        let mut pushed = Pushed::default();
        let wants_all = self.filter == Query::all();
        // The record up to which the partition is covered, if it is one of this page.
        let mut covered: Option<Head<'_>> = None;
        let mut cut_late = 0;
        let is_plain = wants_all && watch.is_none() && self.looks_at_sizes_alone(input);
        let mut index = input.from;
        while index < input.page.len() {
            let run = if is_plain { self.take_run(input, index) } else { 0 };
            if run > 0 {
                index += run;
                pushed.taken += run;
                pushed.covers = true;
                covered = Some(input.page.head(index - 1));
                continue;
            }
            let record = input.page.head(index);
            let again = watch.filter(|watch| watch.is_again(record.position));
            if again.is_some_and(|watch| watch.is_seen(record.position)) {
                pushed.known += 1;
                index += 1;
                continue;
            }
            let wanted = wants_all || self.filter.matches(&input.page.records()[index]);
            let group_len = if wanted { self.group_len(input, index) } else { 0 };
            let refused = if wanted { self.refuses(input, index, group_len, now) } else { None };
            match refused {
                _ if !wanted => *if again.is_some() { &mut pushed.known } else { &mut pushed.filtered } += 1,
                Some(rejection) if self.on_reject != OnReject::DeadLetter => {
                    pushed.refused.push((index, rejection));
                    if self.on_reject == OnReject::Stop {
                        pushed.stopped = true;
                        break;
                    }
                }
                refused => {
                    let bytes = self.bytes_of(input, index);
                    let taken = Taken { index, bytes, group_len, again, cut_late, refused };
                    if self.is_full(input, &taken) {
                        if let Some(covered) = covered {
                            self.cover(input.partition, &Covered::at(covered, &input.page));
                        }
                        let cut = self.cut();
                        let late = cut.as_ref().filter(|cut| cut.late);
                        cut_late += late.map_or(0, |cut| cut.chunk.heads_of(input.page.partition()).count());
                        pushed.cuts.extend(cut);
                    }
                    self.take(input, Taken { cut_late, ..taken });
                    pushed.taken += 1;
                    pushed.covers |= again.is_none();
                }
            }
            if again.is_none() {
                covered = Some(record);
            }
            index += 1;
        }
        // It would hold the page.
        self.measured = None;
        let end = match (pushed.stopped, input.page.next()) {
            (false, Some(next)) if watch.is_some_and(|watch| watch.is_again(next)) => None,
            (false, Some(next)) => Some(Covered::behind(next, covered, &input.page)),
            _ => covered.map(|record| Covered::at(record, &input.page)),
        };
        pushed.skipped_to = end.filter(|end| !self.cover(input.partition, end));
        // What is full waits for nothing.
        pushed.cuts.extend(if self.has_all() { self.cut() } else { None });
        pushed
    }

    /// Whether the waiting chunk has as many records as it may have.
    fn has_all(&self) -> bool {
        self.limits.chunk_records_max.is_some_and(|max| self.open.records >= max)
    }

    /// Whether nothing but the sizes of records decides in which chunk they go.
    fn looks_at_sizes_alone(&self, input: &Input) -> bool {
        let Limits { span_max, record_age_max, record_ahead_max, .. } = self.limits;
        [span_max, record_age_max, record_ahead_max] == [None; 3]
            && input.encoded.as_ref().is_none_or(|encoded| encoded.is_whole())
    }

    /// Takes the records from `index` on that fit into the waiting chunk as they are, all at once. Returns how many; the
    /// next one is for whoever looks closer.
    fn take_run(&mut self, input: &Input, index: usize) -> usize {
        let of_another = |span: &Span| span.partition != input.partition;
        let open = &self.open;
        if open.late || !open.refused.is_empty() || (self.limits.one_partition && open.spans.iter().any(of_another)) {
            return 0;
        }
        let group_end = match &self.grouping {
            None => input.page.len(),
            // Whoever begins a group is looked at closer.
            Some(_) if open.records == 0 || !self.is_shared(input, index) => return 0,
            Some(_) => input.encoded.as_ref().and_then(|encoded| encoded.group(index)).map_or(index, |(_, of)| of.end),
        };
        let records_max = self.limits.chunk_records_max.map_or(usize::MAX, |max| max.saturating_sub(open.records));
        let bytes_max = self.limits.chunk_bytes_max.unwrap_or(usize::MAX);
        let record_max = self.limits.record_bytes_max.unwrap_or(usize::MAX);
        let (mut end, mut bytes) = (index, open.bytes);
        for next in index..group_end.min(index.saturating_add(records_max)) {
            let size = self.bytes_of(input, next);
            let separator = if open.records == 0 && next == index { 0 } else { self.separator_len };
            if size > record_max || self.frame_len + bytes + separator + size > bytes_max {
                break;
            }
            bytes += separator + size;
            end = next + 1;
        }
        if end > index {
            self.extend(input, index..end);
            self.open.bytes = bytes;
        }
        end - index
    }

    /// Puts neighbouring records that are not late into the waiting chunk, but for the count of their bytes.
    fn extend(&mut self, input: &Input, range: std::ops::Range<usize>) {
        let place = &mut self.partitions[input.partition];
        let open = &mut self.open;
        open.begins.get_or_insert_with(|| Arc::new(Begins::Reading(place.covered.clone())));
        if place.span.is_none() {
            place.span = Some(open.spans.len());
            let (begins, end) = (place.covered.clone(), Covered::at(input.page.head(range.start), &input.page));
            open.spans.push(Span { partition: input.partition, begins, end });
        }
        open.records += range.len();
        match open.segments.last_mut() {
            Some(last) if Arc::ptr_eq(&last.page, &input.page) && last.range.end == range.start => {
                last.range.end = range.end;
            }
            _ => open.segments.push(Segment {
                page: Arc::clone(&input.page),
                encoded: input.encoded.clone(),
                range,
                _held: Some(Arc::clone(&input.held)),
            }),
        }
    }

    /// The chunk of what is waiting.
    pub(crate) fn cut(&mut self) -> Option<Cut> {
        if self.is_empty() {
            return None;
        }
        let open = std::mem::take(&mut self.open);
        for span in &open.spans {
            let place = &mut self.partitions[span.partition];
            place.span = None;
            if !open.late {
                place.covered = Start::After(span.end.position.clone());
            }
        }
        let chunk = Chunk {
            offset_key: Arc::clone(&self.offset_key),
            lane: Arc::clone(&self.lane),
            segments: open.segments,
            len: open.records,
            begins: open.begins,
            attempt: 0,
            body: None,
            sent: Arc::default(),
        };
        Some(Cut { chunk, late: open.late, refused: open.refused, spans: open.spans })
    }

    /// A partition is covered, and durably so, without a chunk.
    pub(crate) fn skipped(&mut self, partition: usize, end: Cursor) {
        self.partitions[partition].covered = Start::After(end);
    }

    /// Why the destination's limits refuse a record, if they do.
    fn refuses(&self, input: &Input, index: usize, group_len: usize, now: Timestamp) -> Option<Rejection> {
        let record = input.page.head(index);
        let refused = |code: &str, reason: String| Some(Rejection::new(code, reason));
        if let Some(reason) = input.encoded.as_ref().and_then(|encoded| encoded.unencodable(index)) {
            return refused("unencodable", reason.to_owned());
        }
        let bytes = self.bytes_of(input, index);
        let fits_alone = self.limits.chunk_bytes_max.map(|max| max.saturating_sub(self.frame_len + group_len));
        let max = [self.limits.record_bytes_max, fits_alone].into_iter().flatten().min();
        if let Some(max) = max.filter(|max| bytes > *max) {
            return refused("record too large", format!("{bytes} bytes; the destination takes {max}"));
        }
        let age = now.since(record.timestamp);
        if let Some(max) = self.limits.record_age_max.filter(|max| age > *max) {
            return refused("outside destination window", format!("{age:?} old; the destination takes {max:?}"));
        }
        let ahead = record.timestamp.since(now);
        if let Some(max) = self.limits.record_ahead_max.filter(|max| ahead > *max) {
            return refused("outside destination window", format!("{ahead:?} ahead; the destination takes {max:?}"));
        }
        None
    }

    /// The most that a group for a record adds to a body. Measured once for neighbours that share it.
    fn group_len(&mut self, input: &Input, index: usize) -> usize {
        let Some(grouping) = &self.grouping else { return 0 };
        // What has no form is refused, and its group may have none either.
        if input.encoded.as_ref().is_some_and(|encoded| encoded.unencodable(index).is_some()) {
            return 0;
        }
        let Some(encoded) = &input.encoded else { return 0 };
        if let Some((of, range, len)) = &self.measured
            && Arc::ptr_eq(of, encoded)
            && range.contains(&index)
        {
            return *len;
        }
        let Some((leader, range)) = encoded.group(index) else { return 0 };
        let mut head = Vec::new();
        grouping.begin(leader, self.limits.chunk_bytes_max.unwrap_or(u32::MAX as usize), &mut head);
        let len = head.len() + grouping.end().len();
        self.measured = Some((Arc::clone(encoded), range, len));
        len
    }

    /// Whether a record can stand in the group of the last one that waits.
    fn is_shared(&self, input: &Input, index: usize) -> bool {
        let (Some(grouping), Some(last)) = (&self.grouping, self.open.segments.last()) else { return false };
        let before = last.encoded.as_ref().and_then(|encoded| encoded.group(last.range.end - 1));
        let this = input.encoded.as_ref().and_then(|encoded| encoded.group(index));
        let (Some((one, of)), Some((other, range))) = (before, this) else { return false };
        (Arc::ptr_eq(&last.page, &input.page) && of == range) || grouping.is_shared(one, other)
    }

    fn bytes_of(&self, input: &Input, index: usize) -> usize {
        match &input.encoded {
            Some(encoded) => encoded.len(index),
            None => input.page.size(index),
        }
    }

    /// Whether one more record would pass a limit, or mix what is not to be mixed: late records do not move the
    /// cursor, and refused ones are not sent.
    fn is_full(&self, input: &Input, taken: &Taken<'_>) -> bool {
        let open = &self.open;
        if open.records == 0 {
            return false;
        }
        if open.late != taken.again.is_some() || open.refused.is_empty() != taken.refused.is_none() {
            return true;
        }
        let time = input.page.head(taken.index).timestamp;
        let group_len = if self.is_shared(input, taken.index) { 0 } else { taken.group_len };
        let bytes = self.frame_len + open.bytes + self.separator_len + group_len + taken.bytes;
        let first = open.first.map_or(time, |first| first.min(time));
        let last = open.last.map_or(time, |last| last.max(time));
        self.limits.chunk_records_max.is_some_and(|max| open.records >= max)
            || self.limits.chunk_bytes_max.is_some_and(|max| bytes > max)
            || self.limits.span_max.is_some_and(|max| last.since(first) > max)
            || (self.limits.one_partition && open.spans.iter().any(|span| span.partition != input.partition))
    }

    fn take(&mut self, input: &Input, taken: Taken<'_>) {
        let is_shared = self.is_shared(input, taken.index);
        let open = &mut self.open;
        let Taken { index, bytes, group_len, again, cut_late, refused } = taken;
        let time = input.page.head(index).timestamp;
        if open.records == 0 {
            open.late = again.is_some();
            open.begins = again.map(|watch| Arc::new(watch.begins(cut_late as u64)));
        } else {
            open.bytes += self.separator_len;
        }
        self.extend(input, index..index + 1);
        let open = &mut self.open;
        open.bytes += bytes + if is_shared { 0 } else { group_len };
        open.first = Some(open.first.map_or(time, |first| first.min(time)));
        open.last = Some(open.last.map_or(time, |last| last.max(time)));
        open.refused.extend(refused);
    }

    /// The waiting chunk covers a partition up to here. `false` if it has nothing of it that could.
    fn cover(&mut self, partition: usize, end: &Covered) -> bool {
        if self.open.late {
            return false;
        }
        let Some(span) = self.partitions[partition].span else { return false };
        self.open.spans[span].end = end.clone();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::budget::Gauge;
    use crate::{Cursor, Encoding, Filter, LogRecord, PageEnd, Partition, RecordId, Unencodable};
    use std::time::Duration;

    /// Writes the body's text; a record whose text is `unencodable` has no form.
    #[derive(Debug)]
    struct Plain;

    impl Encoding for Plain {
        fn key(&self) -> &str {
            "plain"
        }
        fn record(&self, record: &LogRecord, out: &mut Vec<u8>) -> Result<(), Unencodable> {
            match record.body.as_str() {
                Some("unencodable") => Err(Unencodable { reason: "no form".to_owned() }),
                text => {
                    out.extend_from_slice(text.unwrap_or_default().as_bytes());
                    Ok(())
                }
            }
        }
        fn begin(&self) -> &'static [u8] {
            b"["
        }
        fn separator(&self) -> &'static [u8] {
            b","
        }
        fn end(&self) -> &'static [u8] {
            b"]"
        }
    }

    fn page(partition: &str, texts: &[&str], first: i64) -> Arc<Page> {
        let partition = Partition::new(partition);
        let records = texts.iter().enumerate().map(|(index, text)| {
            let number = first + index as i64;
            let id = RecordId::new(partition.clone(), Cursor::number(number));
            let mut record = LogRecord::new(id, Timestamp::from_secs(number));
            record.body = (*text).into();
            record.attributes.push(("text".into(), (*text).into()));
            record
        });
        Arc::new(Page::new(partition.clone(), records.collect(), PageEnd::More))
    }

    fn input(partition: usize, page: &Arc<Page>) -> Input {
        let held = Arc::new(Arc::new(Gauge::default()).hold(0));
        Input { partition, page: Arc::clone(page), from: 0, encoded: Some(page.encoded(&Plain)), held }
    }

    fn chunker(limits: Limits, filter: Query, stop: bool) -> Chunker {
        let mut chunker = Chunker::new(
            ("k".into(), "l".into()),
            limits,
            filter,
            Some(&Plain),
            if stop { OnReject::Stop } else { OnReject::Drop },
        );
        chunker.add_partition(Start::Earliest);
        chunker.add_partition(Start::Earliest);
        chunker
    }

    fn body(cut: &Cut) -> String {
        String::from_utf8(cut.chunk.pack(&Plain).unwrap().bytes().to_vec()).unwrap()
    }

    /// Writes the body's text, and before neighbours whose texts begin alike their first letter and their length.
    #[derive(Debug)]
    struct Grouped;

    impl Encoding for Grouped {
        fn key(&self) -> &str {
            "grouped"
        }
        fn record(&self, record: &LogRecord, out: &mut Vec<u8>) -> Result<(), Unencodable> {
            Plain.record(record, out)
        }
        fn begin(&self) -> &'static [u8] {
            b"["
        }
        fn separator(&self) -> &'static [u8] {
            b","
        }
        fn end(&self) -> &'static [u8] {
            b"]"
        }
        fn grouping(&self) -> Option<Arc<dyn Grouping>> {
            Some(Arc::new(Grouped))
        }
    }

    impl Grouping for Grouped {
        fn is_shared(&self, one: &LogRecord, other: &LogRecord) -> bool {
            one.body.as_str().unwrap().as_bytes()[0] == other.body.as_str().unwrap().as_bytes()[0]
        }
        fn begin(&self, record: &LogRecord, records_len: usize, out: &mut Vec<u8>) {
            out.extend_from_slice(format!("{}:{records_len}(", &record.body.as_str().unwrap()[..1]).as_bytes());
        }
        fn end(&self) -> &'static [u8] {
            b")"
        }
    }

    #[test]
    fn neighbours_share_a_group_across_pages_and_a_limit_counts_it() {
        let pages =
            [page("a", &["a1", "a2", "b3"], 1), page("a", &["b4", "a5"], 4), page("a", &["unencodable", "b"], 6)];
        let bodies = |max: usize| {
            let limits = Limits::none().chunk_bytes_max(max);
            let mut chunker =
                Chunker::new(("k".into(), "l".into()), limits, Query::all(), Some(&Grouped), OnReject::Drop);
            chunker.add_partition(Start::Earliest);
            let mut cuts = Vec::new();
            for page in &pages {
                let encoded = Some(page.encoded(&Grouped));
                cuts.extend(chunker.push(&Input { encoded, ..input(0, page) }, None, NOW).cuts);
            }
            cuts.extend(chunker.cut());
            let body = |cut: &Cut| String::from_utf8(cut.chunk.pack(&Grouped).unwrap().bytes().to_vec()).unwrap();
            cuts.iter().map(body).collect::<Vec<String>>()
        };
        assert_eq!(bodies(1_000), ["[a:5(a1,a2),b:5(b3,b4),a:2(a5),b:1(b)]"]);
        for max in 9..40 {
            let bodies = bodies(max);
            assert!(bodies.iter().all(|body| body.len() <= max), "{max}: {bodies:?}");
            let texts: Vec<&str> = bodies.iter().flat_map(|body| body.split(['(', ')', ','])).collect();
            let is_record = |text: &&&str| ["a1", "a2", "b3", "b4", "a5", "b"].contains(*text);
            assert_eq!(texts.iter().filter(is_record).count(), 6, "{max}: {bodies:?}");
        }
        // A record alone with its group has eight bytes.
        assert_eq!(bodies(8), ["[b:1(b)]"]);
        let chunk =
            Chunk::of_page(Page::new(Partition::new("a"), pages[0].records().to_vec(), PageEnd::More), Some(&Grouped));
        let some = chunk.unwrap().select(&[0, 2]).pack(&Grouped).unwrap();
        assert_eq!(some.bytes(), "[a:2(a1),b:2(b3)]");
    }

    const NOW: Timestamp = Timestamp::from_secs(1_000);

    #[test]
    fn k7_chunks_are_cut_by_records_across_pages() {
        let mut chunker = chunker(Limits::none().chunk_records_max(2), Query::all(), true);
        let first = chunker.push(&input(0, &page("a", &["1", "2", "3"], 1)), None, NOW);
        assert_eq!(first.cuts.iter().map(body).collect::<Vec<_>>(), ["[1,2]"]);
        let second = chunker.push(&input(0, &page("a", &["4", "5"], 4)), None, NOW);
        assert_eq!(second.cuts.iter().map(body).collect::<Vec<_>>(), ["[3,4]"]);
        let rest = chunker.cut().unwrap();
        assert_eq!((body(&rest).as_str(), rest.spans[0].end.position.clone()), ("[5]", Cursor::number(5)));
        assert_eq!(rest.chunk.begins(), Some(&Begins::Reading(Start::After(Cursor::number(4)))));
    }

    #[test]
    fn a_body_never_passes_its_exact_byte_limit() {
        // `[aa,bb]` is seven bytes and `[aa,bbb]` is eight.
        let mut chunker = chunker(Limits::none().chunk_bytes_max(7), Query::all(), true);
        let pushed = chunker.push(&input(0, &page("a", &["aa", "bb", "aa", "bbb"], 1)), None, NOW);
        let mut bodies: Vec<String> = pushed.cuts.iter().map(body).collect();
        bodies.extend(chunker.cut().iter().map(body));
        assert_eq!(bodies, ["[aa,bb]", "[aa]", "[bbb]"]);
    }

    #[test]
    fn h8_a_giant_is_refused_alone() {
        let limits = Limits::none().record_bytes_max(3);
        let mut chunker = chunker(limits, Query::all(), false);
        let pushed = chunker.push(&input(0, &page("a", &["1", "giant", "unencodable", "2"], 1)), None, NOW);
        let codes: Vec<_> = pushed.refused.iter().map(|(index, why)| (*index, why.code.as_str())).collect();
        assert_eq!(codes, [(1, "record too large"), (2, "unencodable")]);
        assert_eq!(body(&chunker.cut().unwrap()), "[1,2]");
    }

    #[test]
    fn p10_a_refusal_stops_in_front_of_the_record() {
        let mut chunker = chunker(Limits::none().record_bytes_max(3), Query::all(), true);
        let pushed = chunker.push(&input(0, &page("a", &["1", "giant", "2"], 1)), None, NOW);
        assert!(pushed.stopped);
        let cut = chunker.cut().unwrap();
        assert_eq!((body(&cut).as_str(), cut.spans[0].end.position.clone()), ("[1]", Cursor::number(1)));
    }

    #[test]
    fn h22_outside_the_destinations_window_is_refused_before_sending() {
        let limits = Limits::none().record_age_max(Duration::from_secs(990)).record_ahead_max(Duration::from_secs(5));
        let mut chunker = chunker(limits, Query::all(), false);
        let pushed = chunker.push(&input(0, &page("a", &["old", "edge"], 9)), None, NOW);
        assert_eq!(pushed.refused.len(), 1);
        let pushed = chunker.push(&input(0, &page("a", &["edge", "ahead"], 1_005)), None, NOW);
        assert_eq!(pushed.refused.len(), 1);
        assert_eq!(body(&chunker.cut().unwrap()), "[edge,edge]");
    }

    #[test]
    fn h23_a_chunk_spans_no_more_time_than_the_destination_takes() {
        let mut chunker = chunker(Limits::none().span_max(Duration::from_secs(2)), Query::all(), true);
        let pushed = chunker.push(&input(0, &page("a", &["1", "2", "3", "4"], 1)), None, NOW);
        assert_eq!(pushed.cuts.iter().map(body).collect::<Vec<_>>(), ["[1,2,3]"]);
    }

    #[test]
    fn chunks_keep_to_one_partition_where_asked() {
        let mut one = chunker(Limits::none().one_partition(), Query::all(), true);
        assert!(one.push(&input(0, &page("a", &["1"], 1)), None, NOW).cuts.is_empty());
        assert_eq!(
            one.push(&input(1, &page("b", &["2"], 1)), None, NOW).cuts.iter().map(body).collect::<Vec<_>>(),
            ["[1]"]
        );
        let mut any = chunker(Limits::none(), Query::all(), true);
        any.push(&input(0, &page("a", &["1"], 1)), None, NOW);
        any.push(&input(1, &page("b", &["2"], 1)), None, NOW);
        let cut = any.cut().unwrap();
        assert_eq!((body(&cut).as_str(), cut.spans.len()), ("[1,2]", 2));
    }

    #[test]
    fn p1_each_chunk_covers_each_of_many_partitions_from_where_the_last_one_ended() {
        let mut chunker = chunker(Limits::none().chunk_records_max(3), Query::all(), true);
        let mut cuts = Vec::new();
        for (first, partition) in [(1, 0), (1, 1), (3, 0), (3, 1)] {
            let page = page(["a", "b"][partition], &["x", "y"], first);
            cuts.extend(chunker.push(&input(partition, &page), None, NOW).cuts);
        }
        cuts.extend(chunker.cut());
        let position = |start: &Start| if let Start::After(cursor) = start { cursor.as_number() } else { 0 };
        let span = |span: &Span| (span.partition, position(&span.begins), span.end.position.as_number());
        let spans: Vec<Vec<_>> = cuts.iter().map(|cut| cut.spans.iter().map(span).collect()).collect();
        assert_eq!(spans, [vec![(0, 0, 2), (1, 0, 1)], vec![(1, 1, 2), (0, 2, 4)], vec![(1, 2, 4)]]);
    }

    #[test]
    fn what_a_filter_drops_is_covered_by_the_chunk_around_it() {
        let filter = Query::all().filter(Filter::not_in("text", ["x"]));
        let mut chunker = chunker(Limits::none().chunk_records_max(2), filter, true);
        let pushed = chunker.push(&input(0, &page("a", &["x", "1", "x", "2", "x", "3", "x"], 1)), None, NOW);
        assert_eq!((pushed.filtered, pushed.taken), (4, 3));
        assert_eq!(pushed.cuts[0].spans[0].end.position, Cursor::number(5));
        assert_eq!(chunker.cut().unwrap().spans[0].end.position, Cursor::number(7));
        let pushed = chunker.push(&input(0, &page("a", &["x", "x"], 8)), None, NOW);
        assert_eq!(pushed.skipped_to.map(|end| end.position), Some(Cursor::number(9)));
    }
}
