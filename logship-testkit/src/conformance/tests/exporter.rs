use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use logship_core::{
    Advice, Capabilities, Certainty, Chunk, Error, ErrorKind, Exporter, Idempotency, Limits, LogRecord, Outcome,
    async_trait,
};

use super::is_broken;
use crate::conformance::exporter::{self as suite, ExporterFixture, Request, World};

/// What is wrong with an exporter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    Nothing,
    ConfirmsBeforeDelivery,
    SendsTwice,
    CountsOneMore,
    NamesTheNext,
    NamesNoRefusal,
    RetriesForEver,
    GivesUp,
    IsCertain,
    SplitsWhatIsThere,
    Waits,
    TriesAgain,
    LosesWhenDropped,
    SharesItsBuffer,
    ExceedsItsLimits,
    ShowsItsSecret,
    ShowsRecords,
    RepeatsUnderNewIds,
}

const SECRET: &str = "hunter2";

/// A shelf of records by id, which plays every world, and an exporter that writes to it.
#[derive(Clone)]
struct Shelf {
    flaw: Flaw,
    state: Arc<Mutex<State>>,
    is_reachable: bool,
}

#[derive(Default)]
struct State {
    worlds: VecDeque<World>,
    held: BTreeMap<String, String>,
    requests: Vec<Request>,
    /// The chunk that is being written, where exports share it.
    buffer: Vec<(String, String)>,
}

impl Shelf {
    fn new(flaw: Flaw) -> Self {
        Shelf { flaw, state: Arc::default(), is_reachable: true }
    }

    fn error(&self, kind: ErrorKind, chunk: &Chunk) -> Error {
        let mut error = Error::new(kind, "put on the shelf", "no");
        if self.flaw == Flaw::RetriesForEver {
            error = error.advise(Advice::After(None));
        }
        if self.flaw == Flaw::GivesUp {
            error = error.advise(Advice::Never);
        }
        match self.flaw {
            Flaw::ShowsItsSecret => error.with("key", SECRET),
            Flaw::ShowsRecords => error.with("record", chunk.first().unwrap().body.as_str().unwrap()),
            _ => error,
        }
    }

    /// One request: what becomes of each record, or of all.
    fn request(&self, chunk: &Chunk) -> Result<Outcome, Error> {
        let mut state = self.state.lock().unwrap();
        let excess = if self.flaw == Flaw::ExceedsItsLimits { 100 } else { 0 };
        state.requests.push(Request { records: chunk.len() + excess, ..Request::default() });
        let world = state.worlds.pop_front();
        match world {
            Some(World::Busy) => return Err(self.error(ErrorKind::Throttled, chunk)),
            Some(World::BrokenBefore) => return Err(self.error(ErrorKind::Unavailable, chunk)),
            Some(World::Denied) => return Err(self.error(ErrorKind::Auth, chunk)),
            Some(World::Refused) => return Err(self.error(ErrorKind::NotFound, chunk)),
            _ => {}
        }
        let is_later = |place: usize| matches!(&world, Some(World::Later(places)) if places.contains(&place));
        let len = if self.flaw == Flaw::CountsOneMore { chunk.len() + 1 } else { chunk.len() };
        let mut outcome = Outcome::builder(len);
        for (index, record) in chunk.records().enumerate() {
            let named = if self.flaw == Flaw::NamesTheNext { (index + 1) % chunk.len() } else { index };
            let is_spoilt = record.attribute("spoilt").is_some();
            let is_missed = self.flaw == Flaw::ConfirmsBeforeDelivery && index + 1 == chunk.len();
            if is_later(index) {
                outcome.retry(named);
            } else if is_spoilt && self.flaw != Flaw::NamesNoRefusal {
                outcome.rejected(named, "400", "spoilt");
            } else {
                outcome.accepted(named);
                let mut id = record.id.to_string();
                if self.flaw == Flaw::RepeatsUnderNewIds {
                    id.push_str(&format!("-{}", state.requests.len()));
                }
                if !is_missed && !is_spoilt {
                    let text = record.body.as_str().unwrap().to_owned();
                    if self.flaw == Flaw::SendsTwice {
                        state.held.insert(format!("{id}-again"), text.clone());
                    }
                    state.held.insert(id, text);
                }
            }
        }
        match (world, self.flaw) {
            (Some(World::AnswerLost), Flaw::IsCertain) => Err(self.error(ErrorKind::Unavailable, chunk)),
            (Some(World::AnswerLost), _) => Err(self.error(ErrorKind::Timeout, chunk)),
            (Some(World::Later(_)), Flaw::SplitsWhatIsThere) => {
                Err(self.error(ErrorKind::TooLarge, chunk).certainty_is(Certainty::Unknown))
            }
            _ => Ok(outcome.build()),
        }
    }
}

impl fmt::Debug for Shelf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.flaw == Flaw::ShowsItsSecret { SECRET } else { "Shelf" })
    }
}

#[async_trait]
impl Exporter for Shelf {
    fn kind(&self) -> &'static str {
        "shelf"
    }

    fn limits(&self) -> Limits {
        Limits::none().chunk_records_max(40)
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::none().idempotency(Idempotency::PerRecord).answers_per_record()
    }

    async fn check(&self) -> Result<(), Error> {
        let error = Error::new(ErrorKind::Unavailable, "check", "nobody is there");
        if self.is_reachable { Ok(()) } else { Err(error) }
    }

    async fn export(&self, chunk: &Chunk) -> Result<Outcome, Error> {
        if !self.is_reachable {
            return Err(self.error(ErrorKind::Unavailable, chunk));
        }
        // Whoever drops an export here has taken away what was there, or mixed it up with another's.
        let taken = match self.flaw {
            Flaw::LosesWhenDropped => std::mem::take(&mut self.state.lock().unwrap().held),
            Flaw::SharesItsBuffer => {
                let pairs =
                    chunk.records().map(|record| (record.id.to_string(), record.body.as_str().unwrap().to_owned()));
                self.state.lock().unwrap().buffer = pairs.collect();
                BTreeMap::new()
            }
            _ => BTreeMap::new(),
        };
        tokio::task::yield_now().await;
        if self.flaw == Flaw::Waits {
            tokio::time::sleep(Duration::from_secs(3600)).await;
        }
        self.state.lock().unwrap().held.extend(taken);
        if self.flaw == Flaw::SharesItsBuffer {
            let mut state = self.state.lock().unwrap();
            let buffer = std::mem::take(&mut state.buffer);
            state.held.extend(buffer);
            return Ok(Outcome::all_accepted(chunk.len()));
        }
        let result = self.request(chunk);
        if self.flaw == Flaw::TriesAgain && result.is_err() { self.request(chunk) } else { result }
    }
}

#[async_trait]
impl ExporterFixture for Shelf {
    async fn open(&self) -> Arc<dyn Exporter> {
        Arc::new(self.clone())
    }

    async fn held(&self) -> Vec<String> {
        self.state.lock().unwrap().held.values().cloned().collect()
    }

    async fn play(&self, world: World, requests: usize) -> bool {
        self.state.lock().unwrap().worlds.extend(std::iter::repeat_n(world, requests));
        true
    }

    async fn unreachable(&self) -> Option<Arc<dyn Exporter>> {
        Some(Arc::new(Shelf { is_reachable: false, ..self.clone() }))
    }

    fn spoil(&self, record: &mut LogRecord) -> bool {
        record.attributes.push(("spoilt".into(), true.into()));
        true
    }

    fn secrets(&self) -> Vec<String> {
        vec![SECRET.to_owned()]
    }

    async fn requests(&self) -> Option<Vec<Request>> {
        Some(self.state.lock().unwrap().requests.clone())
    }
}

crate::exporter_conformance!(sound, async |_| Some(Shelf::new(Flaw::Nothing)));

macro_rules! breaks {
    ($($flaw:ident: $($line:ident),+;)+) => {
        $($(
            let fixture = Shelf::new(Flaw::$flaw);
            assert!(is_broken(suite::$line(&fixture)).await, "{} passes {:?}", stringify!($line), Flaw::$flaw);
        )+)+
    };
}

#[tokio::test]
async fn every_line_can_be_broken() {
    breaks! {
        ConfirmsBeforeDelivery: c1_what_is_accepted_is_there, the_engine_delivers_everything;
        SendsTwice: c1_what_is_accepted_is_there, the_engine_delivers_everything;
        CountsOneMore: c2_outcomes_name_the_records_of_the_chunk;
        NamesTheNext: c2_outcomes_name_the_records_of_the_chunk, c3_a_record_that_is_to_come_later_is_named;
        NamesTheNext: c3_a_refused_record_is_named_and_the_others_are_taken;
        NamesNoRefusal: c3_a_refused_record_is_named_and_the_others_are_taken;
        RetriesForEver: c3_what_fails_for_good_is_an_error_that_says_so;
        GivesUp: c4_what_may_pass_is_tried_again_and_says_what_is_certain;
        IsCertain: c4_what_may_pass_is_tried_again_and_says_what_is_certain;
        SplitsWhatIsThere: c5_nothing_is_split_of_which_a_part_was_taken;
        SplitsWhatIsThere: c3_a_record_that_is_to_come_later_is_named;
        TriesAgain: c6_an_export_neither_waits_nor_tries_again;
        LosesWhenDropped: c7_an_export_that_is_dropped_loses_nothing;
        SharesItsBuffer: c7_exports_at_the_same_time_are_apart;
        ExceedsItsLimits: c8_requests_stay_within_the_limits;
        ShowsItsSecret: c9_neither_errors_nor_debug_show_a_secret_or_a_record;
        ShowsRecords: c9_neither_errors_nor_debug_show_a_secret_or_a_record;
        RepeatsUnderNewIds: c10_a_repeat_leaves_one_copy, the_engine_delivers_everything;
    }
}

/// The one that leaves the clock standing still, which nobody after it could use.
#[tokio::test]
async fn an_export_that_waits_is_noticed() {
    breaks! {
        Waits: c6_an_export_neither_waits_nor_tries_again;
    }
}
