//! Records in files of JSON lines.
//!
//! A file is a partition, known by its path; a position in it is the byte behind a line. Only whole lines are read: what
//! stands behind the last line feed waits. Files may grow, and files may appear, while a run lasts. A file that is
//! renamed is a new file, and one that is written anew under its old name is refused as soon as that shows (it is
//! shorter than what was read, or no line ends where one did): rotate by making new files, not by renaming old ones.
//!
//! A run that begins at a time begins with the first line of that time or later, and reads each file up to there to find
//! it.
//!
//! What is not an object of JSON is shipped all the same: the line is the body, and `logship.parse_error` says why.

mod fields;
mod lines;
mod parse;

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use logship_core::{
    Cursor, Error, ErrorKind, LogRecord, Page, PageEnd, PageLimits, Partition, Query, RawRecords, RecordId, Registry,
    Source, Start, Timestamp, async_trait, read_fields,
};
use serde::Deserialize;

pub use self::fields::JsonlFields;
use self::lines::Lines;
pub(crate) use self::parse::Parser;

/// What a configuration says of a [`JsonlSource`].
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct JsonlConfig {
    /// The files: a path, a folder of which every file is read whose name ends in `.json`, `.jsonl` or `.ndjson`, or a
    /// path with one `*` in the file's name.
    pub paths: Vec<PathBuf>,
    /// Which fields of a line are the record's own. Default: the usual names.
    #[serde(default)]
    pub fields: JsonlFields,
}

/// Reads files of JSON lines.
///
/// ```
/// use logship_sources::jsonl::{JsonlConfig, JsonlFields, JsonlSource};
///
/// let config = JsonlConfig { paths: vec!["logs/*.jsonl".into()], fields: JsonlFields::default() };
/// let source = JsonlSource::new(config)?;
/// # let _ = source;
/// # Ok::<(), logship_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct JsonlSource {
    config: Arc<JsonlConfig>,
    /// How long the lines of the last page were, so that hardly more is read than a page has room for.
    line_bytes: Arc<AtomicUsize>,
}

/// The most bytes of one line. Of a longer one the beginning is shipped, with its length in `logship.truncated`.
pub const LINE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// About so many times the bytes of its line a record has in memory.
const RECORD_BYTES_PER_BYTE: usize = 4;

/// How long lines are taken for before the first page.
const LINE_BYTES_GUESS: usize = 512;

pub(crate) fn register(registry: &mut Registry) {
    #[cfg(feature = "schema")]
    registry.describe_source::<JsonlConfig>("jsonl");
    registry.add_source("jsonl", |fields, _| JsonlSource::new(read_fields(fields)?));
}

impl JsonlSource {
    /// Reads these files. Nothing is opened before the first use.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] for a pattern that has its `*` elsewhere than once in the file's name.
    pub fn new(config: JsonlConfig) -> Result<Self, Error> {
        if config.paths.is_empty() {
            return Err(Error::config("paths", "at least one file, folder or pattern is required"));
        }
        for path in &config.paths {
            let stars = path.to_string_lossy().matches('*').count();
            let in_name = path.file_name().map_or(0, |name| name.to_string_lossy().matches('*').count());
            if stars > 1 || stars != in_name {
                let message = format!("{}: one `*` is allowed, in the file's name", path.display());
                return Err(Error::config("paths", message));
            }
        }
        Ok(JsonlSource { config: Arc::new(config), line_bytes: Arc::new(AtomicUsize::new(LINE_BYTES_GUESS)) })
    }

    /// The files there are now, in the order of their names.
    fn files(&self) -> Result<Vec<PathBuf>, Error> {
        let mut files = Vec::new();
        for path in &self.config.paths {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if let Some((begin, end)) = name.split_once('*') {
                let is_match = |name: &str| {
                    name.len() >= begin.len() + end.len() && name.starts_with(begin) && name.ends_with(end)
                };
                files.extend(files_in(path.parent().unwrap_or(Path::new("")), is_match)?);
            } else if path.is_dir() {
                let is_json = |name: &str| [".json", ".jsonl", ".ndjson"].iter().any(|end| name.ends_with(end));
                files.extend(files_in(path, is_json)?);
            } else {
                files.push(path.clone());
            }
        }
        files.sort();
        files.dedup();
        Ok(files)
    }

    /// Whether a file was found in a folder, which is there, and nobody has said that it stays.
    fn may_go(&self, partition: &Partition) -> bool {
        let path = Path::new(partition.as_str());
        !self.config.paths.iter().any(|named| named == path) && path.parent().is_some_and(Path::is_dir)
    }

    fn page(&self, partition: &Partition, start: &Start, query: &Query, limits: PageLimits) -> Result<Page, Error> {
        let (raw, next) = self.raw(partition, start, query, limits)?;
        let end = raw.lines.end;
        Ok(Page::raw(partition.clone(), raw, next.map(position), end))
    }

    /// The lines of a page, and where in the file it ends.
    fn raw(
        &self,
        partition: &Partition,
        start: &Start,
        query: &Query,
        limits: PageLimits,
    ) -> Result<(RawLines, Option<u64>), Error> {
        let path = Path::new(partition.as_str());
        let from = match start {
            Start::After(cursor) => cursor.as_number().unsigned_abs(),
            Start::Earliest => 0,
            Start::At(time) => self.first_since(path, *time)?,
        };
        let bytes_max = limits.bytes_max / RECORD_BYTES_PER_BYTE;
        let about = limits.records_max.saturating_mul(self.line_bytes.load(Ordering::Relaxed));
        // An eighth more, as the next lines may be longer.
        let mut lines = Lines::read(path, from, about.saturating_add(about / 8).min(bytes_max))?;
        let (mut ranges, mut next, mut cut) = (Vec::new(), None, None);
        for (line, behind) in lines.iter() {
            let is_full = ranges.len() >= limits.records_max || (behind - from) as usize > bytes_max;
            if !ranges.is_empty() && is_full {
                cut = next;
                break;
            }
            if !lines.is_blank(&line) {
                ranges.push(line);
            }
            next = Some(behind);
        }
        // What was passed to find the beginning is not read again.
        if next.is_none() && matches!(start, Start::At(_)) {
            next = Some(from);
        }
        if let Some(behind) = cut {
            lines = lines.before(behind);
        }
        if let Some(mean) = lines.bytes.len().checked_div(ranges.len()) {
            self.line_bytes.store(mean, Ordering::Relaxed);
        }
        let (config, query, now) = (Arc::clone(&self.config), query.clone(), Timestamp::now());
        Ok((RawLines { lines, ranges, config, partition: partition.clone(), query, now }, next))
    }

    /// Where the first line begins whose record is not older than this; the end of the file if there is none.
    fn first_since(&self, path: &Path, time: Timestamp) -> Result<u64, Error> {
        let mut parser = Parser::new(&self.config.fields, Timestamp::now());
        let mut record = LogRecord::new(RecordId::new(Partition::new(""), Cursor::default()), time);
        let mut from = 0;
        loop {
            let lines = Lines::read(path, from, LINE_BYTES_MAX)?;
            for (line, behind) in lines.iter() {
                if !lines.is_blank(&line) {
                    lines.record(&mut parser, line, &mut record);
                    if record.timestamp >= time {
                        return Ok(from);
                    }
                }
                from = behind;
            }
            if lines.end == PageEnd::CaughtUp {
                return Ok(from);
            }
        }
    }
}

/// The position behind a line.
fn position(behind: u64) -> Cursor {
    Cursor::number(i64::try_from(behind).unwrap_or(i64::MAX))
}

/// The lines of a page, which are parsed when their records are wanted.
#[derive(Debug)]
struct RawLines {
    lines: Lines,
    /// Where each line is that is not blank.
    ranges: Vec<Range<usize>>,
    config: Arc<JsonlConfig>,
    partition: Partition,
    query: Query,
    /// The time of records that do not say theirs.
    now: Timestamp,
}

impl RawRecords for RawLines {
    fn each(&self, take: &mut dyn FnMut(&mut LogRecord)) {
        let mut parser = Parser::new(&self.config.fields, self.now);
        let mut record = LogRecord::new(RecordId::new(self.partition.clone(), Cursor::default()), self.now);
        for line in &self.ranges {
            record.id.set_position(position(self.lines.behind(line)));
            self.lines.record(&mut parser, line.clone(), &mut record);
            if self.query.matches(&record) {
                take(&mut record);
            }
        }
    }

    fn bytes(&self) -> usize {
        self.lines.held + self.ranges.capacity() * size_of::<Range<usize>>()
    }
}

/// The record of a line alone.
#[cfg(feature = "_fuzzing")]
pub(crate) fn record_of_line(line: &logship_core::Text, id: RecordId) -> LogRecord {
    let now = Timestamp::now();
    let (mut record, block) = (LogRecord::new(id, now), line.clone().into());
    Parser::new(&JsonlFields::default(), now).record(&block, 0..line.len(), &mut record);
    record
}

/// The page of these lines alone.
#[cfg(feature = "_fuzzing")]
pub(crate) fn page_of_lines(lines: Vec<u8>) -> Page {
    let lines = Lines::new(0, lines, PageEnd::CaughtUp);
    let config = Arc::new(JsonlConfig { paths: Vec::new(), fields: JsonlFields::default() });
    let partition = Partition::new("lines");
    let (query, now) = (Query::all(), Timestamp::now());
    let ranges = lines.iter().map(|(line, _)| line).filter(|line| !lines.is_blank(line)).collect();
    let raw = RawLines { lines, ranges, config, partition: partition.clone(), query, now };
    Page::raw(partition, raw, None, PageEnd::CaughtUp)
}

/// The files of a folder whose names are wanted.
fn files_in(dir: &Path, is_wanted: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>, Error> {
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    let failed = |error: std::io::Error| {
        Error::new(ErrorKind::NotFound, "list files of logs", "the folder cannot be read")
            .with("path", dir.display())
            .with_source(error)
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.path().is_file() && is_wanted(&entry.file_name().to_string_lossy()) {
            files.push(entry.path());
        }
    }
    Ok(files)
}

/// Runs blocking work where it blocks nobody.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    let panicked =
        |error| Error::new(ErrorKind::Unexpected, "read a file of logs", "the reader panicked").with_source(error);
    tokio::task::spawn_blocking(work).await.map_err(panicked)?
}

#[async_trait]
impl Source for JsonlSource {
    fn kind(&self) -> &'static str {
        "jsonl"
    }

    fn fingerprint(&self) -> String {
        let paths: Vec<String> = self.config.paths.iter().map(|path| path.display().to_string()).collect();
        format!("lines of {}", paths.join(", "))
    }

    async fn partitions(&self) -> Result<Vec<Partition>, Error> {
        let source = self.clone();
        blocking(move || {
            let name = |path: &PathBuf| match path.to_str() {
                Some(name) => Ok(Partition::new(name)),
                None => Err(Error::config("paths", format!("the name of {} is not UTF-8", path.display()))),
            };
            source.files()?.iter().map(name).collect()
        })
        .await
    }

    async fn read(
        &self,
        partition: &Partition,
        start: &Start,
        query: &Query,
        limits: PageLimits,
    ) -> Result<Page, Error> {
        let (source, from, start, query) = (self.clone(), partition.clone(), start.clone(), query.clone());
        match blocking(move || source.page(&from, &start, &query, limits)).await {
            Err(error) if error.kind() == ErrorKind::NotFound && self.may_go(partition) => {
                tracing::warn!(%error, "a file of logs was removed before it was known to be read to its end");
                Ok(Page::ending_at(partition.clone(), Vec::new(), None, PageEnd::CaughtUp))
            }
            page => page,
        }
    }

    async fn check(&self) -> Result<(), Error> {
        let source = self.clone();
        blocking(move || {
            for file in source.files()? {
                File::open(&file).map_err(|error| {
                    Error::config("paths", "a file cannot be read").with("path", file.display()).with_source(error)
                })?;
            }
            Ok(())
        })
        .await
    }
}

#[cfg(test)]
mod tests;
