//! Reads pages, once for all lanes that are near each other.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::budget::Gauge;
use super::buffers::Buffers;
use super::offload::CpuWork;
use super::shelf::{Kept, Read, Shelf, Waiting, Window};
use crate::encoding::EncodedPage;
use crate::page::{Head, Preparation, Until};
use crate::{
    ArrivalOrder, Clock, Encoding, Error, ErrorKind, Page, PageEnd, PageLimits, Partition, Query, Source, Start,
    Timestamp, Transform,
};

/// A page, and the first of its records that the asking lane has not had.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) page: Arc<Page>,
    pub(crate) from: usize,
    /// The page in the lane's form, where that was made with the page.
    pub(crate) encoded: Option<Arc<EncodedPage>>,
}

/// Reads on demand of lanes. A page that another lane will want is kept, within the bytes set aside for that; two
/// lanes that want the same page at the same time share one read. A lane whose page is no longer kept reads for
/// itself, and finds kept pages again as soon as it has come near the others.
pub(crate) struct Reader {
    shared: Arc<Inner>,
}

/// What a reader asks a source for.
#[derive(Debug)]
pub(crate) struct ReaderOptions {
    pub(crate) query: Query,
    pub(crate) limits: PageLimits,
    /// Bytes of pages that are kept for lanes that follow.
    pub(crate) retained_max: usize,
    /// Where records may appear late, those of the last so much time wait.
    pub(crate) settle: Duration,
    /// Records of this time or later are not shipped.
    pub(crate) until: Option<Until>,
    /// In what form each lane wants records, by its number.
    pub(crate) forms: Vec<Form>,
    /// What every record goes through before a lane sees it.
    pub(crate) transforms: Arc<[Arc<dyn Transform>]>,
    pub(crate) cpu: CpuWork,
    pub(crate) clock: Arc<dyn Clock>,
    /// Where encoded pages are written.
    pub(crate) buffers: Arc<Buffers>,
}

/// In what form a lane wants records.
#[derive(Clone, Debug)]
pub(crate) struct Form {
    /// Written like this; `None` for the records themselves.
    pub(crate) encoding: Option<Arc<dyn Encoding>>,
    /// Whether it looks at the records all the same.
    pub(crate) looks: bool,
}

/// How long a lane that is said to move may take no page, as when its exporter keeps its thread, until others read on.
const PATIENCE: Duration = Duration::from_millis(20);

struct Inner {
    source: Arc<dyn Source>,
    options: ReaderOptions,
    gauge: Arc<Gauge>,
    lanes: AtomicUsize,
    reads: AtomicU64,
    records: AtomicU64,
    shelves: Mutex<HashMap<Partition, Arc<Shelf>>>,
    retained: AtomicUsize,
    /// Whether each lane, by its number, takes pages or works on one that it took. One that waits for its destination, or
    /// for others, does not move.
    moving: Vec<AtomicBool>,
    /// A lane has taken a page, or does not move any more.
    moved: Notify,
    /// Lanes that want nothing more.
    left: Mutex<BTreeSet<usize>>,
}

impl Reader {
    pub(crate) fn new(source: Arc<dyn Source>, options: ReaderOptions, gauge: Arc<Gauge>, lanes: usize) -> Self {
        // All begin at the same time.
        let moving = options.forms.iter().map(|_| AtomicBool::new(true)).collect();
        let shared = Inner {
            source,
            options,
            gauge,
            lanes: AtomicUsize::new(lanes),
            reads: AtomicU64::new(0),
            records: AtomicU64::new(0),
            shelves: Mutex::default(),
            retained: AtomicUsize::new(0),
            moving,
            moved: Notify::new(),
            left: Mutex::default(),
        };
        Reader { shared: Arc::new(shared) }
    }

    /// Where a partition's pages are kept.
    pub(crate) fn shelf(&self, partition: &Partition) -> Arc<Shelf> {
        let mut shelves = self.shared.lock();
        let new = || Arc::new(Shelf::new(partition.clone()));
        Arc::clone(shelves.entry(partition.clone()).or_insert_with(new))
    }

    /// The page behind `start`, for the lane of this number.
    pub(crate) async fn page(&self, lane: usize, shelf: &Arc<Shelf>, start: &Start) -> Result<Taken, Error> {
        if self.shared.options.forms.len() == 1 {
            let page = self.shared.read_page(shelf, start, &[lane]).await?;
            let taken = self.shared.take(&mut shelf.lock(), lane, page, 0);
            // Nobody else takes it, and the lane lets it go when it has packed it.
            taken.page.forget_encoded();
            return Ok(taken);
        }
        self.shared.moving[lane].store(true, Ordering::Relaxed);
        // Whoever could take the kept pages now does so, before this read drives them out.
        if self.shared.retained.load(Ordering::Relaxed) > self.shared.options.retained_max / 2 {
            self.shared.let_others_go_first(lane, shelf, start).await;
        }
        let read = {
            let mut window = shelf.lock();
            match self.shared.kept(&mut window, lane, start) {
                Some(taken) => return Ok(taken),
                None => self.shared.read(&mut window, lane, shelf, start),
            }
        };
        let page = read.await.map_err(|error| error.duplicate())?;
        Ok(self.shared.take(&mut shelf.lock(), lane, page, 0))
    }

    /// The lane of this number takes no page for now.
    pub(crate) fn rests(&self, lane: usize) {
        self.shared.rests(lane);
    }

    /// The lane of this number wants nothing more: nothing is kept for it.
    pub(crate) fn leave(&self, lane: usize) {
        self.rests(lane);
        self.shared.lanes.fetch_sub(1, Ordering::Relaxed);
        self.shared.left.lock().unwrap_or_else(PoisonError::into_inner).insert(lane);
        for shelf in self.shared.lock().values() {
            let mut window = shelf.lock();
            window.positions.retain(|(number, _)| *number != lane);
            self.shared.trim(&mut window);
        }
    }

    pub(crate) fn reads(&self) -> u64 {
        self.shared.reads.load(Ordering::Relaxed)
    }

    pub(crate) fn records(&self) -> u64 {
        self.shared.records.load(Ordering::Relaxed)
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, HashMap<Partition, Arc<Shelf>>> {
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rests(&self, lane: usize) {
        if self.moving[lane].swap(false, Ordering::Relaxed) {
            self.moved.notify_waiters();
        }
    }

    /// Waits as long as the page behind `start` is not kept, kept pages are many, and a lane that moves will take one of
    /// them. Whoever waits here does not move, so no two lanes wait for each other.
    async fn let_others_go_first(&self, lane: usize, shelf: &Shelf, start: &Start) {
        let mut seen = None;
        loop {
            let moved = self.moved.notified();
            tokio::pin!(moved);
            // Waits from here on, so that nothing is missed between the look and the wait.
            moved.as_mut().enable();
            let (behind, taken, waiting) = {
                let mut window = shelf.lock();
                let is_many = self.retained.load(Ordering::Relaxed) > self.options.retained_max / 2;
                if !is_many || window.find(start).is_some() {
                    break;
                }
                let behind = self.behind(&window, lane);
                if behind.is_empty() {
                    break;
                }
                window.waiting.push(lane);
                (behind, window.taken, Waiting { shelf, lane })
            };
            let since = match seen {
                Some((before, since)) if before == taken => since,
                _ => Instant::now(),
            };
            seen = Some((taken, since));
            self.rests(lane);
            if timeout_at(since + PATIENCE, moved).await.is_err() {
                shelf.lock().given_up.extend(behind);
                break;
            }
            drop(waiting);
        }
        self.moving[lane].store(true, Ordering::Relaxed);
    }

    /// The other lanes that move and have a kept page of this partition to take.
    fn behind(&self, window: &Window, lane: usize) -> Vec<usize> {
        let has_one = |other: &usize| match window.position(*other) {
            Some(position) => window.find(&Start::After(position.clone())).is_some(),
            // It has not begun.
            None => true,
        };
        let moves = |other: &usize| {
            let is_moving = || self.moving[*other].load(Ordering::Relaxed);
            *other != lane && !window.given_up.contains(other) && (window.waiting.contains(other) || is_moving())
        };
        (0..self.moving.len()).filter(moves).filter(has_one).collect()
    }

    /// The page behind `start`, if it is kept.
    fn kept(&self, window: &mut Window, lane: usize, start: &Start) -> Option<Taken> {
        let (page, from) = window.find(start)?;
        window.taken += 1;
        Some(self.take(window, lane, page, from))
    }

    /// Joins the read that is under way behind `start`, or begins one.
    fn read(self: &Arc<Self>, window: &mut Window, lane: usize, shelf: &Arc<Shelf>, start: &Start) -> Read {
        window.reading.retain(|(_, read)| read.upgrade().is_some_and(|read| read.peek().is_none()));
        if let Some(read) = window.reading.iter().find(|(at, _)| at == start).and_then(|(_, read)| read.upgrade()) {
            return read;
        }
        let (inner, shelf, from) = (Arc::clone(self), Arc::clone(shelf), start.clone());
        let lanes = self.not_ahead(window, lane, start);
        let read = async move { inner.read_page(&shelf, &from, &lanes).await.map_err(Arc::new) }.boxed().shared();
        window.reading.extend(read.downgrade().map(|weak| (start.clone(), weak)));
        read
    }

    /// The lanes that will want what is behind `start`: the one that asks, and whichever is not known to have passed it.
    fn not_ahead(&self, window: &Window, lane: usize, start: &Start) -> Vec<usize> {
        let left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let is_behind = |other: &usize| match (window.position(*other), start) {
            _ if *other == lane => true,
            (Some(position), Start::After(start)) => position <= start,
            (Some(_), _) => false,
            (None, _) => !left.contains(other),
        };
        (0..self.options.forms.len()).filter(is_behind).collect()
    }

    /// Transforms and encodes a page, in one go while its records are at hand.
    async fn prepare(&self, page: Page, lanes: &[usize]) -> Result<Page, Error> {
        let transforms = Arc::clone(&self.options.transforms);
        // Elsewhere the source itself gives nothing of that time.
        let until = self.options.until.filter(|_| self.source.arrival_order() == ArrivalOrder::Total);
        let preparation = Preparation { transforms, until };
        let forms = lanes.iter().map(|lane| &self.options.forms[*lane]);
        let looks = forms.clone().any(|form| form.looks || form.encoding.is_none());
        let mut encodings: Vec<Arc<dyn Encoding>> = Vec::new();
        for encoding in forms.filter_map(|form| form.encoding.as_ref()) {
            if encodings.iter().all(|known| known.key() != encoding.key()) {
                encodings.push(Arc::clone(encoding));
            }
        }
        if page.is_prepared(&preparation, &encodings) {
            return Ok(page);
        }
        let buffers = Arc::clone(&self.options.buffers);
        self.options.cpu.run(move || page.prepared(&preparation, &encodings, looks, |bytes| buffers.take(bytes))).await
    }

    async fn read_page(&self, shelf: &Shelf, start: &Start, lanes: &[usize]) -> Result<Arc<Page>, Error> {
        let read_at = self.options.clock.now();
        let until = match self.source.arrival_order() {
            ArrivalOrder::Total => None,
            ArrivalOrder::Bounded => Some(self.until(shelf, read_at).await?),
        };
        let limits = PageLimits { until, ..self.options.limits };
        let mut page = self.source.read(&shelf.partition, start, &self.options.query, limits).await?;
        page = self.prepare(page, lanes).await?;
        self.verify(&page, start, until)?;
        page.read_at = read_at;
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.records.fetch_add(page.len() as u64, Ordering::Relaxed);
        page.charge(&self.gauge);
        let page = Arc::new(page);
        let mut window = shelf.lock();
        if page.end() == PageEnd::CaughtUp {
            window.horizon = None;
        }
        if !page.is_empty() && self.is_wanted(&window, &page) {
            let bytes = page.bytes() + page.encoded_bytes();
            self.retained.fetch_add(bytes, Ordering::Relaxed);
            window.pages.push_back(Kept { start: start.clone(), page: Arc::clone(&page), bytes });
            self.trim(&mut window);
        }
        Ok(page)
    }

    /// From which time on records wait, because older ones may still appear.
    async fn until(&self, shelf: &Shelf, now: Timestamp) -> Result<Timestamp, Error> {
        let known = shelf.lock().horizon;
        let horizon = match known {
            Some(horizon) => horizon,
            None => {
                let horizon = self.source.horizon().await?;
                shelf.lock().horizon = Some(horizon);
                horizon
            }
        };
        // A record of this very moment has happened.
        let settled = now.saturating_sub(self.options.settle).saturating_add(Duration::from_nanos(1));
        Ok([horizon, self.options.until.map(|until| until.time)].into_iter().flatten().fold(settled, Timestamp::min))
    }

    /// Whether some lane has not come to the end of a page. The lane that reads it has not, either.
    fn is_wanted(&self, window: &Window, page: &Page) -> bool {
        let Some(end) = page.next() else { return false };
        let lanes = self.lanes.load(Ordering::Relaxed);
        let ahead = window.positions.iter().filter(|(_, position)| position >= end).count();
        // One of those behind is the lane that asked for the page.
        lanes.saturating_sub(ahead) > 1
    }

    /// A lane takes a page, in its own form.
    fn take(&self, window: &mut Window, lane: usize, page: Arc<Page>, from: usize) -> Taken {
        let encoding = self.options.forms[lane].encoding.as_ref();
        let encoded = encoding.and_then(|encoding| page.find_encoded(encoding.key()));
        if self.options.forms.len() > 1
            && let Some(next) = page.next()
        {
            window.move_on(lane, next);
        }
        window.given_up.retain(|other| *other != lane);
        self.trim(window);
        self.moved.notify_waiters();
        Taken { page, from, encoded }
    }

    /// Forgets pages that every lane has had, and the oldest ones that are more than may be kept.
    fn trim(&self, window: &mut Window) {
        let lanes = self.lanes.load(Ordering::Relaxed);
        let Window { pages, positions, .. } = window;
        pages.retain(|Kept { page, bytes, .. }| {
            let had = positions.iter().filter(|(_, position)| page.next().is_none_or(|end| position >= end)).count();
            let keep = had < lanes;
            if !keep {
                self.retained.fetch_sub(*bytes, Ordering::Relaxed);
                // A lane that holds the page on pays for its own form of it, and for no other.
                page.forget_encoded();
            }
            keep
        });
        while self.retained.load(Ordering::Relaxed) > self.options.retained_max {
            let Some(Kept { bytes, .. }) = pages.pop_front() else { break };
            self.retained.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    /// Holds the source to its contract: what would lose or repeat records is an error, not a page.
    fn verify(&self, page: &Page, start: &Start, until: Option<Timestamp>) -> Result<(), Error> {
        let broken = |message: &str| {
            Err(Error::new(ErrorKind::Protocol, "read the source", format!("the source broke its contract: {message}"))
                .with("source", self.source.kind())
                .with("partition", page.partition()))
        };
        let mut last = match start {
            Start::After(cursor) => Some(cursor),
            Start::Earliest | Start::At(_) => None,
        };
        for Head { position, .. } in page.heads() {
            if last.is_some_and(|last| position <= last) {
                return broken("records are not in the order of their positions (contract line 1)");
            }
            last = Some(position);
        }
        if until.is_some_and(|until| page.heads().any(|record| record.timestamp >= until)) {
            return broken("a page gives records that are to wait (contract line 5)");
        }
        if page.next() < last && !(page.is_empty() && page.next().is_none()) {
            return broken("a page ends before its last record (contract line 3)");
        }
        let moved = match (page.next(), start) {
            (Some(next), Start::After(cursor)) => next > cursor,
            (next, _) => next.is_some(),
        };
        match page.end() {
            PageEnd::More if !moved => broken("a page says there is more and does not move on (contract line 4)"),
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("source", &self.shared.source).finish_non_exhaustive()
    }
}
