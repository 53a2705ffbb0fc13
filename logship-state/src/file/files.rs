//! The files of one key: locked, read, replaced and added to.

use std::collections::BTreeSet;
use std::fs::{self, File, Metadata, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use logship_core::{Error, ErrorKind, Lease, OffsetKey, OffsetsDelta};

use super::generation::{Content, Fault, Generation, VERSION};
use super::journal::{self, Entry};
use crate::{busy, fenced};

pub(super) const CURRENT: &str = ".offsets.json";
pub(super) const PREVIOUS: &str = ".offsets.previous.json";

/// A journal is folded into a new generation once it is longer than this and than the generation. So what a commit
/// costs for folding is in proportion to what it says.
const JOURNAL_BYTES_MIN: u64 = 64 * 1024;

/// The files of one key.
#[derive(Clone, Debug)]
pub(super) struct Files {
    key: OffsetKey,
    dir: Arc<Path>,
    current: PathBuf,
    /// The commits since the newest generation.
    journal: PathBuf,
    previous: PathBuf,
    /// The commits that lead from the generation before to the newest.
    previous_journal: PathBuf,
    /// What is being written, before it takes a place.
    new: PathBuf,
    /// The newest generation, before it takes the place of the one before.
    link: PathBuf,
    lock: PathBuf,
}

/// Where the next commit is added, as long as nobody else has touched the files.
#[derive(Debug)]
pub(super) struct Tail {
    /// The checksum of the newest generation.
    base: String,
    /// That of the one before.
    previous: Option<String>,
    /// The file of the newest generation.
    stamp: Stamp,
    lanes: BTreeSet<String>,
    /// Made by the first commit.
    journal: Option<(File, Stamp)>,
}

impl Tail {
    /// Whether a commit says where a lane begins. That stands in both generations and in no journal: who reads without
    /// it would begin later, and lose.
    pub(super) fn begins_lane(&self, delta: &OffsetsDelta) -> bool {
        let mut lanes = delta.lanes.iter();
        lanes.any(|(id, change)| !self.lanes.contains(id) || change.fingerprint.is_some() || change.since.is_some())
    }

    /// Whether another commit can be added before the journal is folded.
    pub(super) fn has_room(&self) -> bool {
        let len = self.journal.as_ref().map_or(0, |(_, stamp)| stamp.len);
        len <= self.stamp.len.max(JOURNAL_BYTES_MIN)
    }
}

/// What tells a file from what another program leaves under its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    /// The number of the file, where the system shows it.
    number: u64,
    len: u64,
    modified: Option<SystemTime>,
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        #[cfg(unix)]
        let number = std::os::unix::fs::MetadataExt::ino(metadata);
        #[cfg(not(unix))]
        let number = 0;
        Stamp { number, len: metadata.len(), modified: metadata.modified().ok() }
    }

    /// `None` where there is no file, or none that can be looked at.
    fn at(path: &Path) -> Option<Self> {
        fs::metadata(path).ok().map(|metadata| Stamp::of(&metadata))
    }
}

/// A generation on its way to its place.
pub(super) struct New {
    text: Vec<u8>,
    /// The newest file becomes the previous one.
    keeps_current: bool,
    stamp: Option<Stamp>,
}

/// How a generation takes its place. Whenever that is cut off, the newest file is whole and its journal is known by its
/// checksum: the old one until [`take_place`](Files::take_place), the new one, which has the old journal in it, from then
/// on. The previous file is the one before the newest, or the newest itself, and reaches the newest by the journals.
pub(super) const STEPS: [fn(&Files, &mut New) -> io::Result<()>; 5] =
    [Files::write_new, Files::link_current, Files::keep_current, Files::take_place, Files::keep_journal];

impl Files {
    pub(super) fn new(dir: &Arc<Path>, key: &OffsetKey) -> Self {
        let file = |suffix: &str| dir.join(format!("{key}{suffix}"));
        Files {
            key: key.clone(),
            dir: dir.clone(),
            current: file(CURRENT),
            journal: file(".offsets.journal"),
            previous: file(PREVIOUS),
            previous_journal: file(".offsets.previous.journal"),
            new: file(".offsets.new.json"),
            link: file(".offsets.link.json"),
            lock: file(".lock"),
        }
    }

    pub(super) fn exist(&self) -> bool {
        self.current.exists() || self.previous.exists()
    }

    pub(super) fn have_journal(&self) -> bool {
        self.journal.exists() || self.previous_journal.exists()
    }

    pub(super) fn make_dir(&self) -> Result<(), Error> {
        match fs::create_dir(&self.dir) {
            Ok(()) => self.dir.parent().map_or(Ok(()), sync_dir).map_err(|error| self.failed("create folder", error)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(self.failed("create folder", error)),
        }
    }

    /// Locks the key for as long as the file is open, and leaves the owner's name for the errors of others.
    pub(super) fn lock(&self, operation: &'static str, owner: &str) -> Result<File, Error> {
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

    /// The newest generation that can be read, with the commits since; one without lanes if there never was one.
    pub(super) fn read(&self) -> Result<Generation, Error> {
        loop {
            let stamp = Stamp::at(&self.current);
            let generation = self.read_once();
            // Whoever reads without the lease may have the files of two generations, when one was replaced meanwhile.
            if Stamp::at(&self.current) == stamp {
                return generation;
            }
        }
    }

    fn read_once(&self) -> Result<Generation, Error> {
        let newest = match self.read_file(&self.current) {
            Ok(mut content) => {
                self.replay(&self.journal, &mut content, |entry, sum| entry.base == sum)?;
                // To fall back to what a person has edited away would pass over what is to be shipped again.
                let in_both = content.checksum.is_none();
                return Ok(Generation { content, is_current: true, in_both });
            }
            Err(fault) => self.fall_back(&self.current, fault)?,
        };
        match self.read_file(&self.previous) {
            Ok(mut content) => {
                tracing::warn!(
                    key = %self.key,
                    file = %self.current.display(),
                    fault = newest.as_deref().unwrap_or("it is missing"),
                    "the newest offsets cannot be read; going on from the generation before them and the journals, so that what a commit covered that they do not have is shipped again"
                );
                for journal in [&self.previous_journal, &self.journal] {
                    let follows =
                        |entry: &Entry, sum: &str| entry.base == sum || entry.previous.as_deref() == Some(sum);
                    self.replay(journal, &mut content, follows)?;
                }
                Ok(Generation { content, is_current: false, in_both: true })
            }
            Err(fault) => {
                let previous = self.fall_back(&self.previous, fault)?;
                let Some(newest) = newest else {
                    return match previous {
                        None => {
                            let content = Content::empty(&self.key);
                            Ok(Generation { content, is_current: true, in_both: false })
                        }
                        Some(fault) => Err(self.unreadable("it is missing", &fault)),
                    };
                };
                Err(self.unreadable(&newest, previous.as_deref().unwrap_or("it is missing")))
            }
        }
    }

    /// Adds the commits of a journal to the generation that they follow, which is known by its checksum. Nothing follows
    /// a file that a person has edited, and has taken the checksum out of.
    fn replay(
        &self,
        journal: &Path,
        content: &mut Content,
        follows: impl Fn(&Entry, &str) -> bool,
    ) -> Result<(), Error> {
        let Some(sum) = content.checksum.clone() else { return Ok(()) };
        let text = match fs::read(journal) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            text => text.map_err(|error| file_error("read offsets", journal, error))?,
        };
        let damaged = journal::replay(&text, content, |entry| follows(entry, &sum));
        if damaged > 0 {
            tracing::warn!(
                key = %self.key,
                file = %journal.display(),
                damaged,
                "lines of the journal of offsets are damaged; going on without them, so that what their commits covered is shipped again"
            );
        }
        Ok(())
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

    fn unreadable(&self, newest: &str, previous: &str) -> Error {
        let message = format!(
            "neither {} ({newest}) nor {} ({previous}) can be read: put one back from a backup, or delete both to ship everything again",
            self.current.display(),
            self.previous.display()
        );
        Error::new(ErrorKind::State, "read offsets", message).with("key", &self.key)
    }

    /// The offsets as they are, if the lease has not been passed by another in the file, as happens when somebody
    /// deletes a lock.
    pub(super) fn read_held(&self, operation: &'static str, lease: &Lease) -> Result<Generation, Error> {
        let mut generation = self.read()?;
        if generation.content.epoch > lease.epoch {
            return Err(fenced(operation, lease));
        }
        // A smaller one is that of the generation before, when the newest was damaged since.
        generation.content.epoch = lease.epoch;
        Ok(generation)
    }

    /// Whether the files are as the holder of the lease left them.
    pub(super) fn are_as_left(&self, tail: &Tail) -> bool {
        Stamp::at(&self.current) == Some(tail.stamp)
            && Stamp::at(&self.journal) == tail.journal.as_ref().map(|(_, stamp)| *stamp)
    }

    /// Adds a commit to the journal. When that fails, nothing more may be added to it, as its last line may be cut off.
    pub(super) fn append(&self, tail: &mut Tail, epoch: u64, change: &OffsetsDelta) -> Result<(), Error> {
        self.try_append(tail, epoch, change).map_err(|error| self.failed("write offsets", error))
    }

    fn try_append(&self, tail: &mut Tail, epoch: u64, change: &OffsetsDelta) -> io::Result<()> {
        let (base, previous) = (tail.base.clone(), tail.previous.clone());
        let line = Entry { base, previous, epoch, change }.line()?;
        let is_new = tail.journal.is_none();
        let mut file = match tail.journal.take() {
            Some((file, _)) => file,
            None => File::create_new(&self.journal)?,
        };
        file.write_all(&line)?;
        file.sync_data()?;
        if is_new {
            sync_dir(&self.dir)?;
        }
        let stamp = Stamp::of(&file.metadata()?);
        tail.journal = Some((file, stamp));
        Ok(())
    }

    /// Makes this the newest generation, and the one that was the newest the previous.
    pub(super) fn write(&self, generation: Generation) -> Result<Tail, Error> {
        self.try_write(generation).map_err(|error| self.failed("write offsets", error))
    }

    fn try_write(&self, mut generation: Generation) -> io::Result<Tail> {
        self.forget_journals(&generation)?;
        let tail = self.replace(&mut generation)?;
        if generation.in_both { self.replace(&mut generation) } else { Ok(tail) }
    }

    /// Journals do not count for a file that a person has edited, and must not for the one that takes its place, which may
    /// have the checksum they follow.
    pub(super) fn forget_journals(&self, generation: &Generation) -> io::Result<()> {
        if generation.content.checksum.is_none() {
            remove_if_there(&self.journal)?;
            remove_if_there(&self.previous_journal)?;
        }
        Ok(())
    }

    fn replace(&self, generation: &mut Generation) -> io::Result<Tail> {
        let (mut new, previous) = new(generation)?;
        for step in STEPS {
            step(self, &mut new)?;
        }
        generation.is_current = true;
        let content = &generation.content;
        let missing = || io::Error::other("the new file was not looked at");
        Ok(Tail {
            base: content.checksum.clone().unwrap_or_default(),
            previous,
            stamp: new.stamp.ok_or_else(missing)?,
            lanes: content.lanes.keys().cloned().collect(),
            journal: None,
        })
    }

    fn write_new(&self, new: &mut New) -> io::Result<()> {
        remove_if_there(&self.new)?;
        let write = || {
            let mut file = File::create_new(&self.new)?;
            file.write_all(&new.text)?;
            file.sync_all()?;
            file.metadata()
        };
        // Half a file is only in the way of those who need the room.
        let written = write().inspect_err(|_| drop(fs::remove_file(&self.new)));
        new.stamp = Some(Stamp::of(&written?));
        Ok(())
    }

    fn link_current(&self, new: &mut New) -> io::Result<()> {
        remove_if_there(&self.link)?;
        if new.keeps_current && self.current.exists() && fs::hard_link(&self.current, &self.link).is_err() {
            // Not every file system has hard links.
            fs::copy(&self.current, &self.link)?;
            File::open(&self.link)?.sync_all()?;
        }
        Ok(())
    }

    fn keep_current(&self, _: &mut New) -> io::Result<()> {
        if self.link.exists() {
            fs::rename(&self.link, &self.previous)?;
            // Two names of one file are not renamed but left.
            remove_if_there(&self.link)?;
        }
        Ok(())
    }

    fn take_place(&self, _: &mut New) -> io::Result<()> {
        fs::rename(&self.new, &self.current)?;
        sync_dir(&self.dir)
    }

    /// The journal stays with the generation that it follows. Where the newest was damaged, it follows the previous one
    /// together with the previous journal, and both stay until the previous is replaced.
    fn keep_journal(&self, new: &mut New) -> io::Result<()> {
        if !new.keeps_current {
            return Ok(());
        }
        match fs::rename(&self.journal, &self.previous_journal) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => remove_if_there(&self.previous_journal),
            renamed => renamed,
        }
    }

    fn failed(&self, operation: &'static str, error: io::Error) -> Error {
        file_error(operation, &self.dir, error).with("key", &self.key)
    }
}

/// The text of a generation, and the checksum of the one before it.
pub(super) fn new(generation: &mut Generation) -> io::Result<(New, Option<String>)> {
    let content = &mut generation.content;
    content.version = VERSION;
    let sum = content.sum().map_err(|_| io::Error::other("the offsets cannot be written as JSON"))?;
    let previous = content.checksum.replace(sum);
    let mut text = serde_json::to_vec_pretty(content)?;
    text.push(b'\n');
    Ok((New { text, keeps_current: generation.is_current, stamp: None }, previous))
}

pub(super) fn file_error(operation: &'static str, path: &Path, error: io::Error) -> Error {
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
