//! Reads pages, once for all lanes that are near each other.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};

use super::budget::Gauge;
use super::buffers::Buffers;
use super::offload::CpuWork;
use crate::encoding::EncodedPage;
use crate::page::{Head, Preparation, Until};
use crate::{
    ArrivalOrder, Clock, Cursor, Encoding, Error, ErrorKind, Page, PageEnd, PageLimits, Partition, Query, Source,
    Start, Timestamp, Transform,
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

/// How often others are let go first without any of them taking a page. To deliver and commit takes a lane a few turns.
const YIELDS_MAX: u32 = 16;

struct Inner {
    source: Arc<dyn Source>,
    options: ReaderOptions,
    gauge: Arc<Gauge>,
    lanes: AtomicUsize,
    reads: AtomicU64,
    records: AtomicU64,
    shelves: Mutex<HashMap<Partition, Arc<Shelf>>>,
    retained: AtomicUsize,
    /// Pages that lanes have taken.
    taken: AtomicU64,
    /// Lanes that want nothing more.
    left: Mutex<BTreeSet<usize>>,
}

type Read = Shared<BoxFuture<'static, Result<Arc<Page>, Arc<Error>>>>;
type WeakRead = WeakShared<BoxFuture<'static, Result<Arc<Page>, Arc<Error>>>>;

/// A partition, and what is known about it. Lanes keep theirs at hand, as looking one of ten thousand up for each page
/// costs more than a small page does.
pub(crate) struct Shelf {
    pub(crate) partition: Partition,
    window: Mutex<Window>,
}

/// What is known about one partition.
#[derive(Default)]
struct Window {
    /// Kept pages, oldest first.
    pages: VecDeque<Kept>,
    /// Reads under way. Each lives as long as a lane waits for it.
    reading: Vec<(Start, WeakRead)>,
    /// How far each lane has come, by its number. Nobody asks where there is one.
    positions: Vec<(usize, Cursor)>,
    /// What the source said of the time before which nothing appears, until there is a page that is not the last:
    /// that time only moves on.
    horizon: Option<Option<Timestamp>>,
}

/// A page that is kept for lanes that follow.
struct Kept {
    /// Where it was read from.
    start: Start,
    page: Arc<Page>,
    /// What it was counted as.
    bytes: usize,
}

impl Reader {
    pub(crate) fn new(source: Arc<dyn Source>, options: ReaderOptions, gauge: Arc<Gauge>, lanes: usize) -> Self {
        let shared = Inner {
            source,
            options,
            gauge,
            lanes: AtomicUsize::new(lanes),
            reads: AtomicU64::new(0),
            records: AtomicU64::new(0),
            shelves: Mutex::default(),
            retained: AtomicUsize::new(0),
            taken: AtomicU64::new(0),
            left: Mutex::default(),
        };
        Reader { shared: Arc::new(shared) }
    }

    /// Where a partition's pages are kept.
    pub(crate) fn shelf(&self, partition: &Partition) -> Arc<Shelf> {
        let mut shelves = self.shared.lock();
        let new = || Arc::new(Shelf { partition: partition.clone(), window: Mutex::default() });
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
        let mut idle = 0;
        // Whoever could take the kept pages now does so, before this read drives them out. Lanes that do not move are not
        // waited for.
        while idle < YIELDS_MAX && self.shared.retained.load(Ordering::Relaxed) > self.shared.options.retained_max / 2 {
            if let Some(taken) = self.shared.kept(&mut shelf.lock(), lane, start) {
                return Ok(taken);
            }
            let taken = self.shared.taken.load(Ordering::Relaxed);
            tokio::task::yield_now().await;
            idle = if self.shared.taken.load(Ordering::Relaxed) == taken { idle + 1 } else { 0 };
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

    /// The lane of this number wants nothing more: nothing is kept for it.
    pub(crate) fn leave(&self, lane: usize) {
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

impl Shelf {
    fn lock(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, HashMap<Partition, Arc<Shelf>>> {
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The page behind `start`, if it is kept.
    fn kept(&self, window: &mut Window, lane: usize, start: &Start) -> Option<Taken> {
        let (page, from) = window.find(start)?;
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
        self.taken.fetch_add(1, Ordering::Relaxed);
        self.trim(window);
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

impl Window {
    /// How far a lane has come.
    fn position(&self, lane: usize) -> Option<&Cursor> {
        self.positions.iter().find(|(number, _)| *number == lane).map(|(_, position)| position)
    }

    fn move_on(&mut self, lane: usize, to: &Cursor) {
        match self.positions.iter_mut().find(|(number, _)| *number == lane) {
            Some((_, position)) => position.clone_from(to),
            None => self.positions.push((lane, to.clone())),
        }
    }

    /// A kept page that begins at or spans `start`.
    fn find(&self, start: &Start) -> Option<(Arc<Page>, usize)> {
        self.pages.iter().find_map(|Kept { start: from, page, .. }| {
            if from == start {
                return Some((Arc::clone(page), 0));
            }
            let Start::After(cursor) = start else { return None };
            let first = page.heads().next()?.position;
            let begins_before = match from {
                Start::After(from) => from <= cursor,
                // Whatever lies between such a beginning and the first record is not known to be nothing.
                Start::Earliest | Start::At(_) => first <= cursor,
            };
            (begins_before && page.next().is_some_and(|end| cursor < end)).then(|| {
                let from = page.heads().take_while(|record| record.position <= cursor).count();
                (Arc::clone(page), from)
            })
        })
    }
}

impl fmt::Debug for Shelf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Shelf").field(&self.partition).finish()
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("source", &self.shared.source).finish_non_exhaustive()
    }
}
