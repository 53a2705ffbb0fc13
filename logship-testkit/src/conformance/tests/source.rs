use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use logship_core::{
    ArrivalOrder, Cursor, Error, ErrorKind, LogRecord, Page, PageEnd, PageLimits, Partition, Query, RecordId, Source,
    Start, Timestamp, async_trait,
};

use super::is_broken;
use crate::conformance::plain::PlainSource;
use crate::conformance::source::{self as suite, Row, SourceFixture};

/// What is wrong with a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    Nothing,
    RepeatsTheLast,
    LosesTies,
    IgnoresTheTime,
    NamesItself,
    IgnoresSeverity,
    TakesChildrenForNeighbours,
    EmptyIsTheEnd,
    StaysWhereItIs,
    ReadsOnce,
    IgnoresBytes,
    LeavesGiantsOut,
    IgnoresUntil,
    EmptyWhenGone,
    RemembersADroppedRead,
    SharesItsPlace,
    DeletesNeighbours,
    CountsTheNamed,
    IsUnordered,
    LooksAhead,
}

/// A table in memory, ordered by time and key, and a source of it.
#[derive(Clone, Debug)]
struct Table {
    flaw: Flaw,
    source: PlainSource,
    snapshot: Arc<Mutex<Option<PlainSource>>>,
    instance: usize,
    instances: Arc<AtomicUsize>,
    is_gone: Arc<AtomicBool>,
    in_a_read: Arc<AtomicBool>,
    place: Arc<Mutex<Start>>,
    open: Arc<Mutex<Option<Row>>>,
}

impl Table {
    fn new(flaw: Flaw) -> Self {
        Table {
            flaw,
            source: PlainSource::default(),
            snapshot: Arc::default(),
            instance: 0,
            instances: Arc::default(),
            is_gone: Arc::default(),
            in_a_read: Arc::default(),
            place: Arc::new(Mutex::new(Start::Earliest)),
            open: Arc::default(),
        }
    }

    fn id(&self, row: &Row) -> RecordId {
        let number = self.source.all().len() as i64;
        let number = if self.flaw == Flaw::IsUnordered { number } else { row.timestamp.as_micros() };
        RecordId::new(Partition::new(format!("p{}", row.partition)), Cursor::new(number, row.key.as_str().into()))
    }

    /// Where to read on, as the flaw has it.
    fn start(&self, start: &Start) -> Start {
        match (self.flaw, start) {
            (Flaw::RepeatsTheLast, Start::After(cursor)) => {
                let text = cursor.as_text().as_str();
                let before = &text[..text.len() - 1];
                Start::After(Cursor::new(cursor.as_number(), before.into()))
            }
            (Flaw::LosesTies, Start::After(cursor)) => {
                Start::After(Cursor::new(cursor.as_number(), "\u{10ffff}".into()))
            }
            (Flaw::IgnoresTheTime, Start::At(_)) => Start::Earliest,
            _ => start.clone(),
        }
    }

    /// What is wanted, as the flaw has it.
    fn query(&self, query: &Query) -> Query {
        let mut query = query.clone();
        match self.flaw {
            Flaw::IgnoresSeverity => query.severity_min = None,
            Flaw::TakesChildrenForNeighbours => {
                for filter in &mut query.filters {
                    if let logship_core::Condition::Within(parent) = &filter.condition {
                        filter.condition = logship_core::Condition::Equals(parent.clone());
                    }
                }
            }
            _ => {}
        }
        query
    }

    async fn page(&self, partition: &Partition, start: &Start, query: &Query, limits: PageLimits) -> Page {
        let source = match self.flaw {
            Flaw::ReadsOnce => self.snapshot.lock().unwrap().get_or_insert_with(|| copied(&self.source)).clone(),
            _ => self.source.clone(),
        };
        let mut limits = limits;
        match self.flaw {
            Flaw::IgnoresBytes => limits.bytes_max = usize::MAX,
            Flaw::IgnoresUntil => limits.until = None,
            _ => {}
        }
        source.read(partition, &self.start(start), &self.query(query), limits).await.unwrap()
    }
}

fn copied(source: &PlainSource) -> PlainSource {
    PlainSource::new(source.all())
}

/// A page with other records, and the same end.
fn with(page: &Page, keep: impl Fn(&LogRecord) -> Option<LogRecord>) -> Page {
    let records = page.records().iter().filter_map(keep).collect();
    Page::ending_at(page.partition().clone(), records, page.next().cloned(), page.end())
}

#[async_trait]
impl Source for Table {
    fn kind(&self) -> &'static str {
        "flawed"
    }

    fn fingerprint(&self) -> String {
        "flawed".to_owned()
    }

    fn arrival_order(&self) -> ArrivalOrder {
        ArrivalOrder::Bounded
    }

    async fn partitions(&self) -> Result<Vec<Partition>, Error> {
        self.source.partitions().await
    }

    async fn read(
        &self,
        partition: &Partition,
        start: &Start,
        query: &Query,
        limits: PageLimits,
    ) -> Result<Page, Error> {
        if self.is_gone.load(Ordering::SeqCst) {
            return match self.flaw {
                Flaw::EmptyWhenGone => Ok(Page::new(partition.clone(), Vec::new(), PageEnd::CaughtUp)),
                _ => Err(Error::new(ErrorKind::Unavailable, "read", "gone")),
            };
        }
        *self.place.lock().unwrap() = start.clone();
        let was_dropped = self.in_a_read.swap(true, Ordering::SeqCst);
        // A read that takes its time, and can be dropped on the way.
        tokio::task::yield_now().await;
        self.in_a_read.store(false, Ordering::SeqCst);
        let shared = self.place.lock().unwrap().clone();
        let start = if self.flaw == Flaw::SharesItsPlace { &shared } else { start };
        let page = self.page(partition, start, query, limits).await;
        let first = page.records().first().map(|record| record.id.clone());
        Ok(match self.flaw {
            Flaw::NamesItself => {
                let named = |record: &LogRecord| {
                    let mut record = record.clone();
                    let (number, text) = (record.id.position().as_number(), record.id.position().as_text());
                    let text = format!("{text}{}", self.instance);
                    record.id = RecordId::new(partition.clone(), Cursor::new(number, text.into()));
                    record
                };
                Page::new(partition.clone(), page.records().iter().map(named).collect(), page.end())
            }
            Flaw::EmptyIsTheEnd if page.records().is_empty() || page.records()[0].body.as_str() > Some("row 29") => {
                Page::new(partition.clone(), Vec::new(), PageEnd::CaughtUp)
            }
            Flaw::StaysWhereItIs => Page::new(partition.clone(), page.records().to_vec(), PageEnd::More),
            Flaw::LeavesGiantsOut => with(&page, |record| (record.size() < 100_000).then(|| record.clone())),
            Flaw::RemembersADroppedRead if was_dropped => {
                with(&page, |record| (Some(&record.id) != first.as_ref()).then(|| record.clone()))
            }
            _ => page,
        })
    }

    async fn horizon(&self) -> Result<Option<Timestamp>, Error> {
        let open = self.open.lock().unwrap().as_ref().map(|row| row.timestamp);
        Ok(if self.flaw == Flaw::LooksAhead { Some(Timestamp::now()) } else { open })
    }

    async fn delete(&self, ids: &[RecordId]) -> Result<u64, Error> {
        let mut ids = ids.to_vec();
        if self.flaw == Flaw::DeletesNeighbours {
            let all = self.source.all();
            let next = all.iter().position(|record| Some(&record.id) == ids.first()).and_then(|at| all.get(at + 1));
            ids.extend(next.map(|record| record.id.clone()));
        }
        let deleted = self.source.delete(&ids).await?;
        Ok(if self.flaw == Flaw::CountsTheNamed { ids.len() as u64 } else { deleted })
    }
}

#[async_trait]
impl SourceFixture for Table {
    async fn fill(&self, rows: &[Row]) {
        for row in rows {
            let mut record = LogRecord::new(self.id(row), row.timestamp);
            record.severity = row.severity;
            record.body = row.body.as_str().into();
            record.attributes = row.namespace.iter().map(|name| ("namespace".into(), name.as_str().into())).collect();
            let mut records = self.source.records.lock().unwrap();
            records.push(record);
            records.sort_by(|a, b| a.id.cmp(&b.id));
        }
    }

    async fn open(&self) -> Box<dyn Source> {
        let instance = self.instances.fetch_add(1, Ordering::SeqCst);
        Box::new(Table { instance, ..self.clone() })
    }

    fn partitions(&self) -> usize {
        2
    }

    fn can_delete(&self) -> bool {
        true
    }

    async fn take_away(&self) -> bool {
        self.is_gone.store(true, Ordering::SeqCst);
        true
    }

    async fn begin_write(&self, mut row: Row) -> Option<Timestamp> {
        row.timestamp = Timestamp::from_micros(Timestamp::now().as_micros());
        *self.open.lock().unwrap() = Some(row.clone());
        Some(row.timestamp)
    }

    async fn end_write(&self) {
        let row = self.open.lock().unwrap().take().unwrap();
        self.fill(&[row]).await;
    }
}

crate::source_conformance!(sound, async |_| Some(Table::new(Flaw::Nothing)));

macro_rules! breaks {
    ($($flaw:ident: $($line:ident),+;)+) => {
        $($(
            let fixture = Table::new(Flaw::$flaw);
            assert!(is_broken(suite::$line(&fixture)).await, "{} passes {:?}", stringify!($line), Flaw::$flaw);
        )+)+
    };
}

#[tokio::test]
async fn every_line_can_be_broken() {
    breaks! {
        RepeatsTheLast: c1_each_record_is_given_once_and_in_order, c1_a_start_is_exclusive;
        LosesTies: c1_each_record_is_given_once_and_in_order, c1_a_start_is_exclusive;
        IgnoresTheTime: c1_a_start_in_time_takes_that_moment_in;
        NamesItself: c2_another_instance_gives_the_same_ids;
        IgnoresSeverity: c3_what_is_wanted_is_what_the_query_says;
        TakesChildrenForNeighbours: c3_what_is_wanted_is_what_the_query_says;
        EmptyIsTheEnd: c4_a_page_without_records_is_not_the_end;
        StaysWhereItIs: c1_each_record_is_given_once_and_in_order, c4_a_page_without_records_is_not_the_end;
        ReadsOnce: c4_rows_that_are_added_later_are_found;
        IgnoresBytes: c5_a_giant_record_is_given_alone;
        LeavesGiantsOut: c5_a_giant_record_is_given_alone;
        IgnoresUntil: c5_nothing_from_a_time_on_is_given_or_passed;
        EmptyWhenGone: c6_a_store_that_is_gone_is_an_error;
        RemembersADroppedRead: c7_a_read_that_is_dropped_loses_nothing;
        SharesItsPlace: c7_reads_at_the_same_time_are_apart;
        DeletesNeighbours: c8_exactly_the_named_records_are_deleted;
        CountsTheNamed: c8_exactly_the_named_records_are_deleted;
        IsUnordered: c9_positions_are_in_the_order_of_time;
        LooksAhead: c10_nothing_older_than_the_horizon_appears;
    }
}
