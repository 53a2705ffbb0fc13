//! Offsets in files that a person can read.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use logship_core::{
    Error, ErrorKind, Lease, OffsetKey, OffsetStore, Offsets, OffsetsDelta, Registry, async_trait, read_fields,
};
use serde::Deserialize;
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::generation::{Content, Fault, Generation, VERSION};
use crate::{busy, fenced};

const CURRENT: &str = ".offsets.json";
const PREVIOUS: &str = ".offsets.previous.json";

/// Keeps the offsets of each key in a file of its own, as JSON that a person can read, and edit after taking out the
/// line `checksum`.
///
/// In the folder, for a key `k`:
///
/// - `k.offsets.json`: the offsets, with the `version` of the form, the `key`, the `epoch` of the newest lease, a
///   `checksum` and the `lanes`;
/// - `k.offsets.previous.json`: the same, one commit older. Read, with a warning, when the newer file is damaged or
///   missing: what the lost commit covered is shipped once more. When neither can be read, every method fails with
///   [`ErrorKind::State`] and says what to do;
/// - `k.lock`: locked by the operating system for whoever has the lease, and says who that is.
///
/// **Leases.** The lock is the lease, also between two stores in one process. It ends when it is released, when the
/// store is dropped, or at once when its process ends, however it ends. That takes the place of a time to live, which
/// is not counted here: a holder that lives never expires. The folder must be on a disk whose locks work, which network
/// file systems do not promise.
///
/// **Durability.** A commit writes the whole file anew, syncs it, renames it and syncs the folder, on a thread for
/// blocking work. A call that is dropped may still finish there; the next one waits for it.
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
            files.write(&mut generation)?;
            Ok(Held { lock, epoch: generation.content.epoch })
        };
        let (held, mut leases) = self.alone(key, take).await?;
        let lease = Lease { key: key.clone(), epoch: held.epoch };
        leases.insert(key.clone(), held);
        Ok(lease)
    }

    async fn renew(&self, lease: &Lease, _ttl: Duration) -> Result<(), Error> {
        let (key, lease) = (lease.key.clone(), lease.clone());
        self.alone(&key, move |files, held| files.read_held("renew lease", &lease, held)).await?;
        Ok(())
    }

    async fn release(&self, lease: &Lease) -> Result<(), Error> {
        let mut leases = self.held.lock().await;
        if leases.get(&lease.key).is_some_and(|held| held.epoch == lease.epoch)
            && let Some(held) = leases.remove(&lease.key)
        {
            // The name in the file is only for errors while it is locked, so it matters to nobody if it stays.
            let _ = held.lock.set_len(0);
        }
        Ok(())
    }

    async fn load(&self, key: &OffsetKey) -> Result<Offsets, Error> {
        let files = Files::new(&self.dir, key);
        let generation = blocking(move || files.read()).await?;
        Ok(Offsets { lanes: generation.content.lanes })
    }

    async fn commit(&self, lease: &Lease, delta: &OffsetsDelta) -> Result<(), Error> {
        let (key, lease, delta) = (lease.key.clone(), lease.clone(), delta.clone());
        let write = move |files: &Files, held: &mut Leases| {
            let mut generation = files.read_held("commit offsets", &lease, held)?;
            let lanes = &generation.content.lanes;
            let begins_lane = delta
                .lanes
                .iter()
                .any(|(id, change)| !lanes.contains_key(id) || change.fingerprint.is_some() || change.since.is_some());
            let mut offsets = Offsets { lanes: std::mem::take(&mut generation.content.lanes) };
            offsets.apply(&delta);
            generation.content.lanes = offsets.lanes;
            files.write(&mut generation)?;
            // Where a lane begins stands in both generations: one that does not know it would begin later, and lose.
            if begins_lane { files.write(&mut generation) } else { Ok(()) }
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
            // Into both generations: to fall back to what was forgotten would skip what is to be shipped again.
            files.write(&mut generation)?;
            files.write(&mut generation)
        };
        self.alone(key, forget).await?;
        Ok(())
    }
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

/// The files of one key.
#[derive(Clone, Debug)]
struct Files {
    key: OffsetKey,
    dir: Arc<Path>,
    current: PathBuf,
    previous: PathBuf,
    /// What is being written, before it takes a place.
    new: PathBuf,
    lock: PathBuf,
}

impl Files {
    fn new(dir: &Arc<Path>, key: &OffsetKey) -> Self {
        let file = |suffix: &str| dir.join(format!("{key}{suffix}"));
        Files {
            key: key.clone(),
            dir: dir.clone(),
            current: file(CURRENT),
            previous: file(PREVIOUS),
            new: file(".offsets.new.json"),
            lock: file(".lock"),
        }
    }

    fn exist(&self) -> bool {
        self.current.exists() || self.previous.exists()
    }

    fn make_dir(&self) -> Result<(), Error> {
        match fs::create_dir(&self.dir) {
            Ok(()) => self.dir.parent().map_or(Ok(()), sync_dir).map_err(|error| self.failed("create folder", error)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(self.failed("create folder", error)),
        }
    }

    /// Locks the key for as long as the file is open, and leaves the owner's name for the errors of others.
    fn lock(&self, operation: &'static str, owner: &str) -> Result<File, Error> {
        let failed = |error| file_error(operation, &self.lock, error);
        let mut options = File::options();
        let mut lock = options.read(true).write(true).create(true).truncate(false).open(&self.lock).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Some systems do not let others read a locked file.
                let holder = match lock.read_to_string(&mut holder) {
                    Ok(1..) => holder.as_str(),
                    _ => "another shipper",
                };
                return Err(busy(operation, &self.key, holder).with("lock", self.lock.display()));
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        lock.set_len(0).map_err(failed)?;
        write!(lock, "{owner} (process {})", std::process::id()).map_err(failed)?;
        Ok(lock)
    }

    /// The newest generation that can be read; one without lanes if there never was one.
    fn read(&self) -> Result<Generation, Error> {
        let newest = match self.read_file(&self.current) {
            Ok(content) => return Ok(Generation { content, is_current: true }),
            Err(fault) => self.fall_back(&self.current, fault)?,
        };
        match self.read_file(&self.previous) {
            Ok(content) => {
                tracing::warn!(
                    key = %self.key,
                    file = %self.current.display(),
                    fault = newest.as_deref().unwrap_or("it is missing"),
                    "the newest offsets cannot be read; going on from the generation before them, so that what the last commit covered is shipped again"
                );
                Ok(Generation { content, is_current: false })
            }
            Err(fault) => {
                let previous = self.fall_back(&self.previous, fault)?;
                let Some(newest) = newest else {
                    return match previous {
                        None => Ok(self.empty()),
                        Some(fault) => Err(self.unreadable("it is missing", &fault)),
                    };
                };
                Err(self.unreadable(&newest, previous.as_deref().unwrap_or("it is missing")))
            }
        }
    }

    /// What is wrong with a file whose place another may take: `None` where there is no file.
    fn fall_back(&self, path: &Path, fault: Fault) -> Result<Option<String>, Error> {
        match fault {
            Fault::Missing => Ok(None),
            Fault::Damaged(why) => Ok(Some(why)),
            Fault::Foreign(why) => {
                let message = format!("the offsets in {} cannot be used: {why}", path.display());
                Err(Error::new(ErrorKind::State, "read offsets", message).with("key", &self.key))
            }
            Fault::Io(error) => Err(file_error("read offsets", path, error)),
        }
    }

    fn read_file(&self, path: &Path) -> Result<Content, Fault> {
        let text = fs::read(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Fault::Missing,
            _ => Fault::Io(error),
        })?;
        Content::parse(&text, &self.key)
    }

    fn empty(&self) -> Generation {
        let content =
            Content { version: VERSION, key: self.key.clone(), epoch: 0, checksum: None, lanes: BTreeMap::new() };
        Generation { content, is_current: true }
    }

    fn unreadable(&self, newest: &str, previous: &str) -> Error {
        let message = format!(
            "neither {} ({newest}) nor {} ({previous}) can be read: put one back from a backup, or delete both to ship everything again",
            self.current.display(),
            self.previous.display()
        );
        Error::new(ErrorKind::State, "read offsets", message).with("key", &self.key)
    }

    /// The offsets as they are, if the lease is the newest: held by this store, and not passed by another in the file,
    /// as happens when somebody deletes a lock.
    fn read_held(&self, operation: &'static str, lease: &Lease, held: &Leases) -> Result<Generation, Error> {
        if held.get(&lease.key).is_none_or(|held| held.epoch != lease.epoch) {
            return Err(fenced(operation, lease));
        }
        let generation = self.read()?;
        // A smaller epoch is that of the generation before, when the newest was damaged since.
        if generation.content.epoch > lease.epoch { Err(fenced(operation, lease)) } else { Ok(generation) }
    }

    /// Makes this the newest generation, and the one that was the newest the previous. Whenever it is cut off, the
    /// newest file is whole: the old one until the last rename, the new one from then on.
    fn write(&self, generation: &mut Generation) -> Result<(), Error> {
        self.replace(generation).map_err(|error| self.failed("write offsets", error))?;
        generation.is_current = true;
        Ok(())
    }

    fn replace(&self, generation: &mut Generation) -> io::Result<()> {
        let content = &mut generation.content;
        content.checksum = content.sum().ok();
        let mut text = serde_json::to_vec_pretty(content)?;
        text.push(b'\n');

        if generation.is_current && self.current.exists() {
            remove_if_there(&self.new)?;
            if fs::hard_link(&self.current, &self.new).is_err() {
                // Not every file system has hard links.
                fs::copy(&self.current, &self.new)?;
                File::open(&self.new)?.sync_all()?;
            }
            fs::rename(&self.new, &self.previous)?;
            // Two names of one file are not renamed but left: writing to either would write to both.
            remove_if_there(&self.new)?;
        }
        let mut file = File::create_new(&self.new).or_else(|_| {
            remove_if_there(&self.new)?;
            File::create_new(&self.new)
        })?;
        file.write_all(&text)?;
        file.sync_all()?;
        drop(file);
        fs::rename(&self.new, &self.current)?;
        sync_dir(&self.dir)
    }

    fn failed(&self, operation: &'static str, error: io::Error) -> Error {
        file_error(operation, &self.dir, error).with("key", &self.key)
    }
}

fn file_error(operation: &'static str, path: &Path, error: io::Error) -> Error {
    let message = format!("cannot use {}: is the disk full, or the folder missing or not writable?", path.display());
    Error::new(ErrorKind::Unavailable, operation, message).with_source(error)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Makes renames in a folder durable.
fn sync_dir(dir: &Path) -> io::Result<()> {
    // Elsewhere a folder cannot be opened as a file, and the file system sees to it.
    if cfg!(unix) {
        let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        File::open(dir)?.sync_all()?;
    }
    Ok(())
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
