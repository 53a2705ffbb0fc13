//! Whole lines of a file, as many as fit into a page.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;

use bytes::Bytes;
use logship_core::{Error, ErrorKind, LogRecord, PageEnd, Text, TextBlock};

use super::{LINE_BYTES_MAX, Parser};

/// How much of a longer line is shipped.
pub(super) const TRUNCATED_BYTES: usize = 1024 * 1024;

/// Whole lines of a file.
#[derive(Debug)]
pub(super) struct Lines {
    /// Where they begin in the file.
    from: u64,
    pub(super) bytes: Bytes,
    /// Bytes of memory that these keep.
    pub(super) held: usize,
    /// All of them as text, if they are.
    pub(super) text: Option<TextBlock>,
    /// The length of the one line whose beginning is all that was read.
    truncated: Option<u64>,
    pub(super) end: PageEnd,
}

impl Lines {
    /// What was read from this place of a file: lines to the last byte.
    pub(super) fn new(from: u64, mut bytes: Vec<u8>, end: PageEnd) -> Self {
        // There is room for what might have been there, and there may be many small files.
        if bytes.capacity() / 2 > bytes.len() {
            bytes.shrink_to_fit();
        }
        let (held, bytes) = (bytes.capacity(), Bytes::from(bytes));
        let text = Text::from_utf8(bytes.clone()).ok().map(TextBlock::new);
        Lines { from, bytes, held, text, truncated: None, end }
    }

    /// The lines before this place in the file, behind which there are more.
    pub(super) fn before(mut self, behind: u64) -> Self {
        let len = (behind - self.from) as usize;
        if self.held / 2 > len {
            return Lines::new(self.from, self.bytes[..len].to_vec(), PageEnd::More);
        }
        self.bytes.truncate(len);
        self.end = PageEnd::More;
        self
    }

    /// Reads about so many bytes, and at least a whole line if there is one.
    pub(super) fn read(path: &Path, from: u64, bytes: usize) -> Result<Self, Error> {
        let failed = |error: std::io::Error| {
            let kind = match error.kind() {
                std::io::ErrorKind::NotFound => ErrorKind::NotFound,
                std::io::ErrorKind::PermissionDenied => ErrorKind::Config,
                _ => ErrorKind::Unavailable,
            };
            Error::new(kind, "read a file of logs", "it cannot be read").with("path", path.display()).with_source(error)
        };
        let mut file = File::open(path).map_err(failed)?;
        let len = file.metadata().map_err(failed)?.len();
        check_unchanged(&mut file, path, from, len).map_err(failed)??;
        let mut buffer = Vec::new();
        let mut wanted = bytes.clamp(64 * 1024, 1024 * 1024);
        loop {
            let missing = (wanted - buffer.len()) as u64;
            buffer.reserve_exact(wanted - buffer.len());
            (&mut file).take(missing).read_to_end(&mut buffer).map_err(failed)?;
            let is_all = buffer.len() < wanted;
            if let Some(last) = memchr::memrchr(b'\n', &buffer) {
                let end = if is_all { PageEnd::CaughtUp } else { PageEnd::More };
                buffer.truncate(last + 1);
                return Ok(Lines::new(from, buffer, end));
            }
            if is_all {
                // A line that has no end yet.
                return Ok(Lines::new(from, Vec::new(), PageEnd::CaughtUp));
            }
            if wanted >= LINE_BYTES_MAX {
                return Lines::of_a_giant(&mut file, from, buffer).map_err(failed);
            }
            wanted = (wanted * 2).min(LINE_BYTES_MAX);
        }
    }

    /// Of a line that is longer than is read, the beginning; nothing while it has no end.
    fn of_a_giant(file: &mut File, from: u64, mut buffer: Vec<u8>) -> std::io::Result<Self> {
        let mut len = buffer.len() as u64;
        let mut rest = vec![0; 1024 * 1024];
        let truncated = loop {
            let read = file.read(&mut rest)?;
            if read == 0 {
                break None;
            }
            if let Some(found) = memchr::memchr(b'\n', &rest[..read]) {
                break Some(len + found as u64);
            }
            len += read as u64;
        };
        buffer.truncate(if truncated.is_some() { TRUNCATED_BYTES } else { 0 });
        let end = if truncated.is_some() { PageEnd::More } else { PageEnd::CaughtUp };
        // Its end may lie in the midst of a character.
        Ok(Lines { truncated, text: None, ..Lines::new(from, buffer, end) })
    }

    /// Where each line is, without its line feed, and where the next one begins in the file.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Range<usize>, u64)> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let rest = self.bytes.get(at..).filter(|rest| !rest.is_empty())?;
            let len = if self.truncated.is_some() { rest.len() } else { memchr::memchr(b'\n', rest)? };
            let line = at..at + len;
            at += len + 1;
            Some((line.clone(), self.behind(&line)))
        })
    }

    /// Where in the file the line behind this one begins.
    pub(super) fn behind(&self, line: &Range<usize>) -> u64 {
        self.from + self.truncated.unwrap_or(line.end as u64) + 1
    }

    pub(super) fn is_blank(&self, line: &Range<usize>) -> bool {
        self.bytes[line.clone()].trim_ascii().is_empty()
    }

    pub(super) fn record(&self, parser: &mut Parser<'_>, line: Range<usize>, record: &mut LogRecord) {
        let bytes = &self.bytes[line.clone()];
        let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        if let Some(len) = self.truncated {
            return parser.truncated(Text::from_utf8_lossy(self.bytes.slice_ref(bytes)), len, record);
        }
        match &self.text {
            Some(text) => parser.record(text, line.start..line.start + bytes.len(), record),
            None => {
                let text = TextBlock::new(Text::from_utf8_lossy(self.bytes.slice_ref(bytes)));
                parser.record(&text, 0..text.as_str().len(), record);
            }
        }
    }
}

/// Whether the file is still the one that was read up to here.
fn check_unchanged(file: &mut File, path: &Path, from: u64, len: u64) -> std::io::Result<Result<(), Error>> {
    let changed = |message: String| {
        let message = format!(
            "{message}: it was written anew, and what is in it now cannot be told from what was shipped. Give new logs \
             a new name, or reset the offset to ship the file from its beginning"
        );
        Ok(Err(Error::new(ErrorKind::State, "read a file of logs", message).with("path", path.display())))
    };
    if len < from {
        return changed(format!("the file has {len} bytes, and {from} were read of it"));
    }
    if from == 0 {
        return Ok(Ok(()));
    }
    file.seek(SeekFrom::Start(from - 1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    if last != *b"\n" {
        return changed(format!("no line ends at byte {from} of the file, where one did"));
    }
    Ok(Ok(()))
}
