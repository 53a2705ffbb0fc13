//! Offsets in stores of objects: S3, Google Cloud Storage, Azure Blob Storage, or any other [`Bucket`].

mod state;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

pub use logship_connect::objects::Bucket;
use logship_connect::objects::object_store::path::Path;
use logship_connect::objects::object_store::{
    self, Attribute, Attributes, ObjectStoreExt, PutMode, PutOptions, PutPayload, UpdateVersion,
};
use logship_connect::objects::{Wire, failure, is_bucket_missing, parse_path};
use logship_core::{Advice, Error, ErrorKind, Lease, OffsetKey, OffsetStore, Offsets, OffsetsDelta, async_trait};
use serde::Deserialize;
use tokio::sync::Mutex;

use self::state::{Holder, State};
use crate::{busy, fenced};

/// What stands behind a key in the name of its object.
const SUFFIX: &str = ".offsets.json";

/// How long one request may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Stores tell times in whole seconds: what seems a second old may be new.
const CLOCK_GRAIN: Duration = Duration::from_secs(1);

/// How often a write is tried that somebody else's keeps getting in front of.
const TRIES_MAX: usize = 8;

/// How often the last write of a run is tried.
const LAST_TRIES_MAX: u32 = 3;

/// When offsets are written. In a configuration: `each_commit` or `at_end`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Write {
    /// With each commit.
    #[default]
    EachCommit,
    /// When a run ends or is stopped, and whenever its lease is renewed: for short runs, one read and two writes each.
    /// A commit is then not durable when the engine takes it for durable. What a crash takes away is shipped again, the
    /// whole run at most: nothing is lost, and destinations that know records by id still have each once; those that know
    /// objects by name may have some twice. Where the last write fails, giving the lease back is an
    /// [`ErrorKind::State`], or an [`ErrorKind::Fenced`] where somebody else has taken the lease.
    AtEnd,
}

/// Keeps the offsets of each key in an object of its own, as JSON that a person can read and edit: for a key `k`, the
/// object `<prefix>/k.offsets.json`, with the `version` of the form, the `key`, the `epoch` of the newest lease, the
/// `lease` while there is one, a `revision` that counts writes, and the `lanes`.
///
/// **Fencing.** Each write replaces the object only as it was last seen (`If-Match`, or the generation at Google), and
/// makes it only where there is none. So of two who write, one finds that it came second, reads what the other wrote,
/// and learns whether its lease is still the newest. A write that arrives late, by whoever lost its lease or its
/// process, changes nothing. The store must honour these conditions, which S3, Google and Azure do and what speaks like
/// S3 may not.
///
/// **Leases** end by the store's own clock: an object's time of change, which the store sets at each write, held against
/// the time on its last answer (`Date`). No clock of a holder counts. Both tell whole seconds, so a lease may last a
/// second longer than it has to, and never less. Each commit makes it last as long again as when it was taken or renewed.
///
/// **Requests.** To take a lease is a read and a write; the first load after it asks nobody; a commit, a renewal and
/// giving it back are a write each. [`Write::AtEnd`] spares the commits.
///
/// Rights: to read, write and list; without the last, S3 does not say whether there are offsets yet.
pub struct ObjectOffsets {
    kind: &'static str,
    bucket: Arc<dyn Bucket>,
    prefix: String,
    write: Write,
    clock: Option<Wire>,
    /// The leases that were taken by this store. Each has a lock of its own, which is held while the store is asked, so
    /// that a key whose request hangs holds up no other.
    held: std::sync::Mutex<BTreeMap<OffsetKey, Slot>>,
}

type Slot = Arc<Mutex<Option<Held>>>;

/// An object as it was read or written last.
struct Seen {
    state: State,
    version: UpdateVersion,
    changed_at: SystemTime,
}

/// A lease, and the object as its holder left it.
struct Held {
    state: State,
    version: UpdateVersion,
    /// There are commits that were not written yet.
    is_ahead: bool,
    /// Nobody can have changed it since it was read for the lease.
    is_fresh: bool,
}

impl ObjectOffsets {
    /// A store in a bucket of one's own, under this prefix, which may be empty; `kind` is what a configuration calls it.
    /// Leases are counted by this machine's clock.
    ///
    /// # Errors
    /// [`ErrorKind::Config`], which names the field, `url`.
    pub fn new(kind: &'static str, bucket: Arc<dyn Bucket>, prefix: &str, write: Write) -> Result<Self, Error> {
        let prefix = prefix.trim_matches('/');
        if !prefix.is_empty() {
            parse_path("url", prefix)?;
        }
        let prefix = prefix.to_owned();
        Ok(ObjectOffsets { kind, bucket, prefix, write, clock: None, held: std::sync::Mutex::default() })
    }

    /// With the clock of the server at the other end of this wire.
    #[must_use]
    pub fn with_clock(mut self, wire: Wire) -> Self {
        self.clock = Some(wire);
        self
    }

    fn path(&self, key: &OffsetKey) -> Path {
        match self.prefix.is_empty() {
            true => Path::from(format!("{key}{SUFFIX}")),
            false => Path::from(format!("{}/{key}{SUFFIX}", self.prefix)),
        }
    }

    /// Asks the store, in bounded time, and once more with new credentials where the first are not let in.
    async fn ask<T>(
        &self,
        operation: &'static str,
        first: impl Future<Output = Result<T, Error>>,
        again: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let late = |_| Error::new(ErrorKind::Timeout, operation, "no answer in time");
        match tokio::time::timeout(TIMEOUT, first).await.map_err(late)? {
            Err(error) if error.advice() == Advice::Refresh => {
                self.bucket.refresh().await?;
                tokio::time::timeout(TIMEOUT, again).await.map_err(late)?
            }
            answer => answer,
        }
    }

    /// The object of a key, if there is one.
    async fn read(&self, operation: &'static str, key: &OffsetKey) -> Result<Option<Seen>, Error> {
        let path = self.path(key);
        self.ask(operation, self.try_read(operation, key, &path), self.try_read(operation, key, &path)).await
    }

    async fn try_read(&self, operation: &'static str, key: &OffsetKey, path: &Path) -> Result<Option<Seen>, Error> {
        let failed = |error| failure(operation, error).with("object", self.bucket.uri(path));
        let found = match self.bucket.store().await?.get(path).await {
            Err(error @ object_store::Error::NotFound { .. }) if !is_bucket_missing(&error) => return Ok(None),
            found => found.map_err(failed)?,
        };
        let meta = found.meta.clone();
        let text = found.bytes().await.map_err(failed)?;
        let state = State::parse(operation, key, &text).map_err(|error| error.with("object", self.bucket.uri(path)))?;
        let version = UpdateVersion { e_tag: meta.e_tag, version: meta.version };
        Ok(Some(Seen { state, version, changed_at: meta.last_modified.into() }))
    }

    /// Writes the object of a key; `None` if somebody else's write came first. Of a write whose answer is lost nobody
    /// knows, until the next one finds out.
    async fn put(&self, operation: &'static str, state: &State, mode: PutMode) -> Result<Option<UpdateVersion>, Error> {
        let path = self.path(&state.key);
        let mut text = serde_json::to_vec_pretty(state).map_err(|error| {
            Error::new(ErrorKind::Unexpected, operation, "the offsets have no JSON").with_source(error)
        })?;
        text.push(b'\n');
        let text = PutPayload::from(text);
        let put = || self.try_put(operation, &path, text.clone(), mode.clone());
        self.ask(operation, put(), put()).await
    }

    async fn try_put(
        &self,
        operation: &'static str,
        path: &Path,
        text: PutPayload,
        mode: PutMode,
    ) -> Result<Option<UpdateVersion>, Error> {
        use object_store::Error::{AlreadyExists, NotFound, Precondition};
        let mut attributes = Attributes::new();
        attributes.insert(Attribute::ContentType, "application/json".into());
        let options = PutOptions { mode, attributes, ..PutOptions::default() };
        match self.bucket.store().await?.put_opts(path, text, options).await {
            Ok(put) => Ok(Some(UpdateVersion { e_tag: put.e_tag, version: put.version })),
            Err(error @ (AlreadyExists { .. } | NotFound { .. } | Precondition { .. }))
                if !is_bucket_missing(&error) =>
            {
                Ok(None)
            }
            Err(error) => Err(failure(operation, error).with("object", self.bucket.uri(path))),
        }
    }

    async fn try_list(&self, operation: &'static str) -> Result<Vec<Path>, Error> {
        let folder = (!self.prefix.is_empty()).then(|| Path::from(self.prefix.as_str()));
        let found = self.bucket.store().await?.list_with_delimiter(folder.as_ref()).await;
        let found = found.map_err(|error| failure(operation, error))?;
        Ok(found.objects.into_iter().map(|object| object.location).collect())
    }

    /// Whoever has an unexpired lease.
    fn holder<'a>(&self, seen: &'a Seen) -> Option<&'a str> {
        let holder = seen.state.lease.as_ref()?;
        let now = self.clock.as_ref().map_or_else(SystemTime::now, Wire::server_time);
        let age = now.duration_since(seen.changed_at).unwrap_or_default();
        let is_over = holder.ttl().is_none_or(|ttl| age >= ttl.saturating_add(CLOCK_GRAIN));
        (!is_over).then_some(holder.owner.as_str())
    }

    /// What is held of a key.
    fn slot(&self, key: &OffsetKey) -> Slot {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(held.entry(key.clone()).or_default())
    }

    /// The lease as this store last knew it; one that another store took is looked up.
    async fn held<'a>(
        &self,
        operation: &'static str,
        slot: &'a mut Option<Held>,
        lease: &Lease,
    ) -> Result<&'a mut Held, Error> {
        if slot.as_ref().is_none_or(|held| held.state.epoch != lease.epoch) {
            let seen = self.read(operation, &lease.key).await?.filter(|seen| seen.state.is_of(lease));
            let Seen { state, version, .. } = seen.ok_or_else(|| fenced(operation, lease))?;
            *slot = Some(Held { state, version, is_ahead: false, is_fresh: false });
        }
        slot.as_mut().ok_or_else(|| fenced(operation, lease))
    }

    /// Writes what a holder changes, as long as its lease is the newest.
    async fn write(
        &self,
        operation: &'static str,
        lease: &Lease,
        held: &mut Held,
        change: impl Fn(&mut State),
    ) -> Result<(), Error> {
        for _ in 0..TRIES_MAX {
            let mut next = held.state.clone();
            change(&mut next);
            next.revision += 1;
            if let Some(version) = self.put(operation, &next, PutMode::Update(held.version.clone())).await? {
                *held = Held { state: next, version, is_ahead: false, is_fresh: false };
                return Ok(());
            }
            // Either an earlier write of this very lease, whose answer was lost, or somebody else's.
            let seen = self.read(operation, &lease.key).await?.filter(|seen| seen.state.is_of(lease));
            let seen = seen.ok_or_else(|| fenced(operation, lease))?;
            held.version = seen.version;
            match held.is_ahead {
                true => held.state.revision = seen.state.revision,
                false => held.state = seen.state,
            }
        }
        Err(contended(operation))
    }
}

fn contended(operation: &'static str) -> Error {
    Error::new(ErrorKind::Unavailable, operation, "others keep writing the same offsets")
}

#[async_trait]
impl OffsetStore for ObjectOffsets {
    fn kind(&self) -> &'static str {
        self.kind
    }

    async fn acquire(&self, key: &OffsetKey, owner: &str, ttl: Duration) -> Result<Lease, Error> {
        const OPERATION: &str = "acquire lease";
        for _ in 0..TRIES_MAX {
            let seen = self.read(OPERATION, key).await?;
            if let Some(holder) = seen.as_ref().and_then(|seen| self.holder(seen)) {
                return Err(busy(OPERATION, key, holder));
            }
            let (mut state, mode) = match seen {
                Some(seen) => (seen.state, PutMode::Update(seen.version)),
                None => (State::new(key), PutMode::Create),
            };
            state.epoch += 1;
            state.revision += 1;
            state.lease = Some(Holder::new(owner, ttl));
            if let Some(version) = self.put(OPERATION, &state, mode).await? {
                let lease = Lease { key: key.clone(), epoch: state.epoch };
                let held = Held { state, version, is_ahead: false, is_fresh: true };
                *self.slot(key).lock().await = Some(held);
                return Ok(lease);
            }
        }
        Err(contended(OPERATION))
    }

    async fn renew(&self, lease: &Lease, ttl: Duration) -> Result<(), Error> {
        const OPERATION: &str = "renew lease";
        let slot = self.slot(&lease.key);
        let mut slot = slot.lock().await;
        let held = self.held(OPERATION, &mut slot, lease).await?;
        let change = |state: &mut State| {
            if let Some(holder) = &mut state.lease {
                holder.set_ttl(ttl);
            }
        };
        self.write(OPERATION, lease, held, change).await
    }

    async fn release(&self, lease: &Lease) -> Result<(), Error> {
        const OPERATION: &str = "release lease";
        let slot = self.slot(&lease.key);
        let mut slot = slot.lock().await;
        let held = match self.held(OPERATION, &mut slot, lease).await {
            Ok(held) => held,
            Err(error) if error.kind() == ErrorKind::Fenced => return Ok(()),
            Err(error) => return Err(error),
        };
        let is_ahead = held.is_ahead;
        let mut done = self.write(OPERATION, lease, held, |state| state.lease = None).await;
        for tries in 1..LAST_TRIES_MAX {
            if is_ahead && done.as_ref().is_err_and(Error::is_retryable) {
                // No later write makes up for this one.
                tokio::time::sleep(Duration::from_secs(1) * tries).await;
                done = self.write(OPERATION, lease, held, |state| state.lease = None).await;
            }
        }
        let is_lost = done.as_ref().is_err_and(|error| error.kind() == ErrorKind::Fenced);
        if done.is_ok() || is_lost {
            *slot = None;
        }
        match done {
            Err(_) if is_lost && !is_ahead => Ok(()),
            Err(error) if is_ahead && !is_lost => {
                let message = "the offsets of this run could not be written at its end: its records are shipped again";
                Err(Error::new(ErrorKind::State, OPERATION, message).with("offset_key", &lease.key).with_source(error))
            }
            done => done,
        }
    }

    async fn load(&self, key: &OffsetKey) -> Result<Offsets, Error> {
        if let Some(held) = self.slot(key).lock().await.as_mut()
            && (std::mem::take(&mut held.is_fresh) || held.is_ahead)
        {
            return Ok(Offsets { lanes: held.state.lanes.clone() });
        }
        let seen = self.read("load offsets", key).await?;
        Ok(Offsets { lanes: seen.map(|seen| seen.state.lanes).unwrap_or_default() })
    }

    async fn commit(&self, lease: &Lease, delta: &OffsetsDelta) -> Result<(), Error> {
        const OPERATION: &str = "commit offsets";
        let slot = self.slot(&lease.key);
        let mut slot = slot.lock().await;
        let held = self.held(OPERATION, &mut slot, lease).await?;
        if self.write == Write::AtEnd {
            held.state.apply(delta);
            held.is_ahead = true;
            return Ok(());
        }
        self.write(OPERATION, lease, held, |state| state.apply(delta)).await
    }

    async fn list(&self) -> Result<Vec<OffsetKey>, Error> {
        const OPERATION: &str = "list offsets";
        let found = self.ask(OPERATION, self.try_list(OPERATION), self.try_list(OPERATION)).await?;
        let names = found.iter().filter_map(|path| path.filename()?.strip_suffix(SUFFIX));
        let mut keys = Vec::new();
        for key in names.filter_map(|name| OffsetKey::new(name).ok()) {
            if self.read(OPERATION, &key).await?.is_some_and(|seen| !seen.state.lanes.is_empty()) {
                keys.push(key);
            }
        }
        keys.sort();
        Ok(keys)
    }

    async fn reset(&self, key: &OffsetKey, lane: Option<&str>) -> Result<(), Error> {
        const OPERATION: &str = "reset offsets";
        for _ in 0..TRIES_MAX {
            let Some(seen) = self.read(OPERATION, key).await? else { return Ok(()) };
            if let Some(holder) = self.holder(&seen) {
                return Err(busy(OPERATION, key, holder));
            }
            let Seen { mut state, version, .. } = seen;
            // A holder whose lease expired must not put back what was forgotten.
            state.epoch += 1;
            state.revision += 1;
            state.lease = None;
            match lane {
                Some(lane) => drop(state.lanes.remove(lane)),
                None => state.lanes.clear(),
            }
            if self.put(OPERATION, &state, PutMode::Update(version)).await?.is_some() {
                return Ok(());
            }
        }
        Err(contended(OPERATION))
    }
}

impl fmt::Debug for ObjectOffsets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectOffsets")
            .field("kind", &self.kind)
            .field("bucket", &self.bucket)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

/// The bucket and the prefix of an address such as `s3://bucket/prefix`.
#[allow(dead_code, reason = "unused when no store of objects is compiled in")]
pub(crate) fn parse_url(scheme: &str, url: &str) -> Result<(String, String), Error> {
    let wrong =
        || Error::config("url", format!("must look like {scheme}://bucket/prefix, where the prefix may be left out"));
    let rest = url.strip_prefix(scheme).and_then(|rest| rest.strip_prefix("://")).ok_or_else(wrong)?;
    if rest.contains(['?', '#', '@']) {
        return Err(wrong());
    }
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    match bucket.is_empty() {
        true => Err(wrong()),
        false => Ok((bucket.to_owned(), prefix.to_owned())),
    }
}
