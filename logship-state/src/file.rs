//! Offsets in files that a person can read.

mod files;
mod generation;
mod journal;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use logship_core::{
    Error, ErrorKind, Lease, OffsetKey, OffsetStore, Offsets, OffsetsDelta, Registry, async_trait, read_fields,
};
use serde::Deserialize;
use tokio::sync::{Mutex, OwnedMutexGuard};

use self::files::{CURRENT, Files, PREVIOUS, Tail, file_error};
use crate::fenced;

/// Keeps the offsets of each key in a file of its own, as JSON that a person can read, and edit after taking out the
/// line `checksum`.
///
/// In the folder, for a key `k`:
///
/// - `k.offsets.json`: the offsets, with the `version` of the form, the `key`, the `epoch` of the newest lease, a
///   `checksum` and the `lanes`;
/// - `k.offsets.journal`: the commits since, while somebody has the lease, or had it when the process was killed. A line
///   each: a checksum and JSON with the checksum of the file above, to which alone it belongs. Lines that are damaged are
///   left out, with a warning: what their commits covered is shipped once more;
/// - `k.offsets.previous.json` and `k.offsets.previous.journal`: the offsets as they were before, and the commits that
///   lead from there to the newer file. Read, with a warning, when that is damaged or missing, together with its journal:
///   so nothing is lost with one file. When neither `.json` can be read, every method fails with [`ErrorKind::State`] and
///   says what to do;
/// - `k.lock`: locked by the operating system for whoever has the lease, and says who that is.
///
/// **Leases.** The lock is the lease, also between two stores in one process. It ends when it is released, when the
/// store is dropped, or at once when its process ends, however it ends. That takes the place of a time to live, which
/// is not counted here: a holder that lives never expires. The folder must be on a disk whose locks work, which network
/// file systems do not promise.
///
/// Journals are folded into `k.offsets.json` when the lease is taken, when it is given back, and when they are longer than
/// 64 KiB and than that file. So while nobody has the lease, and nobody was killed, that file says everything. An edit
/// wins over the journal, also while somebody has the lease.
///
/// **Durability.** A commit adds a line and syncs it, on a thread for blocking work, so it costs the same however many
/// partitions are known that did not move. One that says where a lane begins writes both `.json` files instead, so that
/// no damage to one file or line can lose that. A file is written anew, synced and renamed, and the folder is synced.
/// After a call that failed the next one reads what is there, and goes on from that. A call that is dropped may still
/// finish; the next one waits for it.
///
/// The folder is made when the first lease is taken; the folder above it must exist.
#[derive(Debug)]
pub struct FileOffsets {
    dir: Arc<Path>,
    /// Taken before blocking work begins and kept until it ended, also when nobody waits for it any more.
    held: Arc<Mutex<Leases>>,
}

/// The leases of this store, by key. Closing the file unlocks it.
type Leases = BTreeMap<OffsetKey, Held>;

#[derive(Debug)]
struct Held {
    lock: File,
    epoch: u64,
    /// Where the next commit is added. `None` once one has failed.
    tail: Option<Tail>,
}

impl FileOffsets {
    /// A store in this folder.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        FileOffsets { dir: Arc::from(dir.into()), held: Arc::default() }
    }

    /// Works on the files of a key, alone in this store. Gives the leases back with the answer, so that what the work
    /// made is dropped if nobody waits for it: before the leases, or the next call would find a lock still held.
    async fn alone<T: Send + 'static>(
        &self,
        key: &OffsetKey,
        work: impl FnOnce(&Files, &mut Leases) -> Result<T, Error> + Send + 'static,
    ) -> Result<(T, OwnedMutexGuard<Leases>), Error> {
        let mut held = self.held.clone().lock_owned().await;
        let files = Files::new(&self.dir, key);
        blocking(move || work(&files, &mut held).map(|value| (value, held))).await
    }
}

#[async_trait]
impl OffsetStore for FileOffsets {
    fn kind(&self) -> &'static str {
        "file"
    }

    async fn acquire(&self, key: &OffsetKey, owner: &str, _ttl: Duration) -> Result<Lease, Error> {
        let owner = owner.to_owned();
        let take = move |files: &Files, _: &mut Leases| {
            files.make_dir()?;
            let lock = files.lock("acquire lease", &owner)?;
            let mut generation = files.read()?;
            generation.raise_epoch();
            let epoch = generation.content.epoch;
            Ok(Held { lock, epoch, tail: Some(files.write(generation)?) })
        };
        let (held, mut leases) = self.alone(key, take).await?;
        let lease = Lease { key: key.clone(), epoch: held.epoch };
        leases.insert(key.clone(), held);
        Ok(lease)
    }

    async fn renew(&self, lease: &Lease, _ttl: Duration) -> Result<(), Error> {
        const OPERATION: &str = "renew lease";
        let (key, lease) = (lease.key.clone(), lease.clone());
        let look = move |files: &Files, leases: &mut Leases| {
            let held = held(OPERATION, &lease, leases)?;
            if held.tail.as_ref().is_some_and(|tail| files.are_as_left(tail)) {
                return Ok(());
            }
            files.read_held(OPERATION, &lease).map(drop)
        };
        self.alone(&key, look).await?;
        Ok(())
    }

    async fn release(&self, lease: &Lease) -> Result<(), Error> {
        const OPERATION: &str = "release lease";
        let (key, lease) = (lease.key.clone(), lease.clone());
        let give_back = move |files: &Files, leases: &mut Leases| {
            if held(OPERATION, &lease, leases).is_err() {
                return Ok(());
            }
            let held = leases.remove(&lease.key);
            if files.have_journal()
                && let Err(error) = fold(files, OPERATION, &lease)
                && error.kind() != ErrorKind::Fenced
            {
                tracing::warn!(
                    key = %lease.key,
                    %error,
                    "the journal of offsets could not be folded; it is whole, and the next lease does it"
                );
            }
            // The name in the file is only for errors while it is locked, so it matters to nobody if it stays.
            let _ = held.map(|held| held.lock.set_len(0));
            Ok(())
        };
        self.alone(&key, give_back).await?;
        Ok(())
    }

    async fn load(&self, key: &OffsetKey) -> Result<Offsets, Error> {
        let files = Files::new(&self.dir, key);
        let generation = blocking(move || files.read()).await?;
        Ok(Offsets { lanes: generation.content.lanes })
    }

    async fn commit(&self, lease: &Lease, delta: &OffsetsDelta) -> Result<(), Error> {
        const OPERATION: &str = "commit offsets";
        let (key, lease, delta) = (lease.key.clone(), lease.clone(), delta.clone());
        let write = move |files: &Files, leases: &mut Leases| {
            let held = held(OPERATION, &lease, leases)?;
            let tail = held.tail.take().filter(|tail| tail.has_room() && files.are_as_left(tail));
            let mut tail = match tail {
                Some(tail) => tail,
                None => files.write(files.read_held(OPERATION, &lease)?)?,
            };
            if tail.begins_lane(&delta) {
                let mut generation = files.read_held(OPERATION, &lease)?;
                generation.content.apply(&delta);
                generation.in_both = true;
                tail = files.write(generation)?;
            } else {
                files.append(&mut tail, lease.epoch, &delta)?;
            }
            held.tail = Some(tail);
            Ok(())
        };
        self.alone(&key, write).await?;
        Ok(())
    }

    async fn list(&self) -> Result<Vec<OffsetKey>, Error> {
        let dir = self.dir.clone();
        blocking(move || list(&dir)).await
    }

    async fn reset(&self, key: &OffsetKey, lane: Option<&str>) -> Result<(), Error> {
        let lane = lane.map(str::to_owned);
        let forget = move |files: &Files, _: &mut Leases| {
            if !files.exist() {
                return Ok(());
            }
            let _lock = files.lock("reset offsets", "a reset of the offsets")?;
            let mut generation = files.read()?;
            generation.raise_epoch();
            match lane {
                Some(lane) => drop(generation.content.lanes.remove(&lane)),
                None => generation.content.lanes.clear(),
            }
            // To fall back to what was forgotten would skip what is to be shipped again.
            generation.in_both = true;
            files.write(generation)?;
            Ok(())
        };
        self.alone(key, forget).await?;
        Ok(())
    }
}

/// The lease, if this store holds it.
fn held<'h>(operation: &'static str, lease: &Lease, leases: &'h mut Leases) -> Result<&'h mut Held, Error> {
    let held = leases.get_mut(&lease.key).filter(|held| held.epoch == lease.epoch);
    held.ok_or_else(|| fenced(operation, lease))
}

/// Leaves two generations that have everything, and no journal.
fn fold(files: &Files, operation: &'static str, lease: &Lease) -> Result<(), Error> {
    let mut generation = files.read_held(operation, lease)?;
    generation.in_both = true;
    files.write(generation).map(drop)
}

/// Runs file work where it may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        Error::new(ErrorKind::Unexpected, "work on offset files", "the work did not finish").with_source(error)
    })?
}

/// The keys that have a generation.
fn list(dir: &Path) -> Result<Vec<OffsetKey>, Error> {
    let failed = |error| file_error("list offsets", dir, error);
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut keys = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed)?.file_name();
        let Some(name) = name.to_str() else { continue };
        let key = name.strip_suffix(CURRENT).or_else(|| name.strip_suffix(PREVIOUS));
        keys.extend(key.and_then(|key| OffsetKey::new(key).ok()));
    }
    keys.sort();
    keys.dedup();
    Ok(keys)
}

/// Adds the store `file`, whose one field `dir` is the folder.
pub fn register(registry: &mut Registry) {
    #[derive(Deserialize)]
    #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
    #[serde(deny_unknown_fields)]
    struct Config {
        dir: PathBuf,
    }

    #[cfg(feature = "schema")]
    registry.describe_store::<Config>("file");
    registry.add_store("file", |fields, _| {
        let config: Config = read_fields(fields)?;
        Ok(FileOffsets::new(config.dir))
    });
}
