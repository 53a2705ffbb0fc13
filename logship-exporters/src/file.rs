//! Files of log records in a folder: Ion or JSON lines, plain or packed.
//!
//! # Delivery
//! One chunk is one file. Its name says where the chunk begins, so a chunk that is made again after a crash replaces
//! its file and never stands beside it. A file appears whole: it is written under a hidden name, made durable, and
//! renamed.
//!
//! ```
//! use logship_core::Lane;
//! use logship_exporters::file::{FileConfig, FileExporter};
//!
//! let archive = FileExporter::new(FileConfig { dir: "archive".into(), ..FileConfig::default() });
//! // A lane's chunk is what a file holds at most, beside `max_lines_per_file`.
//! let lane = Lane::new("archive", archive).chunk(100_000);
//! # let _ = lane;
//! ```

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use logship_core::{
    Artifacts, Capabilities, Chunk, Compression, Encoding, Error, ErrorKind, Exporter, Idempotency, Limits, Outcome,
    Registry, async_trait, read_fields,
};
use serde::Deserialize;

use crate::chunk_name::chunk_name;
use crate::encode::{Format, Rows};
use crate::written::Written;

/// What a configuration says of a [`FileExporter`].
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct FileConfig {
    /// The folder. It is made when it is not there. Default `logs`.
    pub dir: PathBuf,
    /// What each file's name begins with. Default `kestra-log-file`, as in Kestra.
    #[serde(alias = "logFilePrefix")]
    pub prefix: String,
    /// The form of a record. Default Ion.
    pub format: Format,
    /// The most records in a file. Default 100 000.
    #[serde(alias = "maxLinesPerFile")]
    pub max_lines_per_file: usize,
    /// The most bytes in a file before packing. Default 8 MiB.
    pub max_bytes_per_file: usize,
    /// How files are packed. Default not at all.
    pub compression: Compression,
}

impl Default for FileConfig {
    fn default() -> Self {
        FileConfig {
            dir: "logs".into(),
            prefix: "kestra-log-file".to_owned(),
            format: Format::Ion,
            max_lines_per_file: 100_000,
            max_bytes_per_file: 8 * 1024 * 1024,
            compression: Compression::None,
        }
    }
}

/// Writes each chunk to a file of its own.
#[derive(Debug)]
pub struct FileExporter {
    config: FileConfig,
    encoding: Arc<Rows>,
    /// Held while a file is written. An attempt that was dropped is still at work behind its caller's back, on the file
    /// that the next attempt writes.
    turn: Arc<Mutex<()>>,
    written: Written,
}

/// Whether an attempt was dropped: it is, once this is.
#[derive(Default)]
struct Attempt(Arc<AtomicBool>);

impl Drop for Attempt {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

pub(crate) fn register(registry: &mut Registry) {
    #[cfg(feature = "schema")]
    registry.describe_exporter::<FileConfig>("file");
    registry.add_exporter("file", |fields, _| {
        let config: FileConfig = read_fields(fields)?;
        let positive =
            [("max_lines_per_file", config.max_lines_per_file), ("max_bytes_per_file", config.max_bytes_per_file)];
        match positive.iter().find(|(_, value)| *value == 0) {
            Some((field, _)) => Err(Error::config(field, "must be at least 1")),
            None => Ok(FileExporter::new(config)),
        }
    });
}

impl FileExporter {
    /// Writes as the configuration says. Touches nothing before the first chunk.
    pub fn new(config: FileConfig) -> Self {
        let encoding = Arc::new(Rows::new(config.format, config.compression));
        FileExporter { config, encoding, turn: Arc::default(), written: Written::default() }
    }

    /// The name of a chunk's file, which is all that a repeat has in common with it.
    fn name(&self, chunk: &Chunk) -> String {
        format!("{}-{}", self.config.prefix, chunk_name(chunk, self.config.format, self.config.compression))
    }
}

#[async_trait]
impl Exporter for FileExporter {
    fn kind(&self) -> &'static str {
        "file"
    }

    fn limits(&self) -> Limits {
        Limits::none()
            .chunk_records_max(self.config.max_lines_per_file)
            .chunk_bytes_max(self.config.max_bytes_per_file)
            .one_partition()
            .concurrency_max(1)
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::none().idempotency(Idempotency::PerChunk).takes_parts()
    }

    fn encoding(&self) -> Option<Arc<dyn Encoding>> {
        Some(Arc::clone(&self.encoding) as Arc<dyn Encoding>)
    }

    async fn export(&self, chunk: &Chunk) -> Result<Outcome, Error> {
        let body = chunk.require_body("write a log file")?;
        let (dir, name, body) = (self.config.dir.clone(), self.name(chunk), body.clone());
        let path = dir.join(&name);
        let (attempt, turn) = (Attempt::default(), Arc::clone(&self.turn));
        let is_dropped = Arc::clone(&attempt.0);
        let write = tokio::task::spawn_blocking(move || {
            let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
            write_whole(&dir, &name, body.parts(), &|| is_dropped.load(Ordering::SeqCst))
        });
        match write.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(failed(&path, error)),
            Err(error) => {
                return Err(Error::new(ErrorKind::Unexpected, "write a log file", "panicked").with_source(error));
            }
        }
        let uri = format!("file://{}", std::path::absolute(&path).unwrap_or(path).display());
        self.written.add(uri);
        Ok(Outcome::all_accepted(chunk.len()))
    }

    async fn check(&self) -> Result<(), Error> {
        fs::create_dir_all(&self.config.dir).map_err(|error| failed(&self.config.dir, error))
    }

    async fn finish(&self) -> Result<Artifacts, Error> {
        Ok(self.written.take())
    }
}

/// Makes a file appear whole and durable, or not at all. The hidden name is the same for every attempt, so that one
/// which was cut off leaves nothing that the next does not replace. An attempt that was dropped does not replace what
/// the next has written, which may be more.
fn write_whole(dir: &Path, name: &str, parts: &[Bytes], is_dropped: &dyn Fn() -> bool) -> io::Result<()> {
    if is_dropped() {
        return Ok(());
    }
    fs::create_dir_all(dir)?;
    let hidden = dir.join(format!(".{name}.part"));
    let mut file = File::create(&hidden)?;
    parts.iter().try_for_each(|part| file.write_all(part))?;
    file.sync_all()?;
    if is_dropped() {
        return fs::remove_file(&hidden);
    }
    fs::rename(&hidden, dir.join(name))?;
    // The name itself is durable only with the folder.
    #[cfg(unix)]
    File::open(dir)?.sync_all()?;
    Ok(())
}

fn failed(path: &Path, error: io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => ErrorKind::Auth,
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists | io::ErrorKind::InvalidFilename => {
            ErrorKind::Config
        }
        // A full disk is emptied, a network folder comes back.
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind, "write a log file", "the file system refused").with("path", path.display()).with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use logship_core::{Cursor, Fields, LogRecord, Page, PageEnd, Partition, RecordId, Timestamp};

    fn chunk(exporter: &FileExporter, partition: &str, records: i64) -> Chunk {
        let partition = Partition::new(partition);
        let record = |number| {
            let id = RecordId::new(partition.clone(), Cursor::number(number));
            LogRecord::new(id, Timestamp::from_secs(number))
        };
        let page = Page::new(partition.clone(), (1..=records).map(record).collect(), PageEnd::More);
        Chunk::of_page(page, exporter.encoding().as_deref()).unwrap()
    }

    fn lines(dir: &Path) -> Vec<usize> {
        let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files.iter().map(|path| fs::read_to_string(path).unwrap().lines().count()).collect()
    }

    #[tokio::test]
    async fn each_file_is_named_once_however_often_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let exporter = FileExporter::new(FileConfig { dir: dir.path().join("new"), ..FileConfig::default() });
        for (partition, records) in [("logs", 3), ("logs", 5), ("other", 2)] {
            exporter.export(&chunk(&exporter, partition, records)).await.unwrap();
        }
        let uris = exporter.finish().await.unwrap().uris;
        assert_eq!(uris.len(), 2);
        assert!(uris[0].starts_with("file:///") && uris[0].ends_with(".ion"), "{uris:?}");
    }

    #[tokio::test]
    async fn a_write_that_was_cut_off_leaves_no_half_file() {
        let dir = tempfile::tempdir().unwrap();
        let exporter = FileExporter::new(FileConfig { dir: dir.path().into(), ..FileConfig::default() });
        let chunk = chunk(&exporter, "logs", 3);
        fs::write(dir.path().join(format!(".{}.part", exporter.name(&chunk))), "half a rec").unwrap();
        exporter.export(&chunk).await.unwrap();
        assert_eq!(lines(dir.path()), [3]);
    }

    #[tokio::test]
    async fn a_folder_that_cannot_be_is_named_in_the_error() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        let exporter = FileExporter::new(FileConfig { dir: dir.path().join("file/below"), ..FileConfig::default() });
        let error = exporter.export(&chunk(&exporter, "logs", 1)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains("file/below"), "{error}");
    }

    #[test]
    fn kestras_spellings_configure_it_and_wrong_ones_are_named() {
        let mut registry = Registry::new();
        register(&mut registry);
        let build = |json: &str| {
            let fields: Fields = serde_json::from_str(json).unwrap();
            registry.exporter("file", fields, &Default::default())
        };
        let exporter = build(r#"{"format": "JSON", "logFilePrefix": "x", "maxLinesPerFile": 100}"#).unwrap();
        assert_eq!(exporter.limits().chunk_records_max, Some(100));
        assert!(build(r#"{"maxLines": 1}"#).unwrap_err().to_string().contains("maxLines"));
        assert!(build(r#"{"maxLinesPerFile": 0}"#).unwrap_err().to_string().contains("max_lines_per_file"));
    }
}
