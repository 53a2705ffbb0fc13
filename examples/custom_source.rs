//! A source of one's own: the logs of jobs, a text file for each run.
//!
//! What you will see: the lines of two files are shipped to the terminal, configured from YAML. It passes the suite of
//! `logship-testkit` (`tests/third_party.rs`).
//!
//!     cargo run --example custom_source

use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use logship::config::ShipperConfig;
use logship::{
    BuildContext, Cursor, Error, ErrorKind, LogRecord, Page, PageEnd, PageLimits, Partition, Query, RecordId, Registry,
    RunReport, Severity, Source, Start, Timestamp, async_trait, read_fields,
};
use serde::Deserialize;

/// What a configuration says of it. Each file of the folder is a partition, a position in it the byte behind a line,
/// and a line is `time level namespace text`, with `-` for what is not known. Files grow, and appear, but do not shrink.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobLogs {
    /// The folder.
    pub dir: PathBuf,
}

/// Makes it known to configurations as `job_logs`.
pub fn register(registry: &mut Registry) {
    registry.add_source("job_logs", |fields, _| read_fields::<JobLogs>(fields));
}

#[async_trait]
impl Source for JobLogs {
    fn kind(&self) -> &'static str {
        "job_logs"
    }

    fn fingerprint(&self) -> String {
        "job logs".to_owned()
    }

    async fn partitions(&self) -> Result<Vec<Partition>, Error> {
        let name = |entry: io::Result<std::fs::DirEntry>| Ok(Partition::new(entry?.file_name().to_string_lossy()));
        let mut names: Vec<_> =
            std::fs::read_dir(&self.dir).map_err(failed)?.map(name).collect::<Result<_, _>>().map_err(failed)?;
        names.sort();
        Ok(names)
    }

    async fn read(&self, part: &Partition, start: &Start, query: &Query, limits: PageLimits) -> Result<Page, Error> {
        let (path, part, start, query) = (self.dir.join(part.as_str()), part.clone(), start.clone(), query.clone());
        let read = move || read_page(&path, part, &start, &query, limits);
        tokio::task::spawn_blocking(read).await.map_err(io::Error::other).flatten().map_err(failed)
    }
}

/// Whole lines behind `start`, as far as they fit.
fn read_page(path: &Path, part: Partition, start: &Start, query: &Query, limits: PageLimits) -> io::Result<Page> {
    let mut at = if let Start::After(cursor) = start { cursor.as_number() } else { 0 };
    let mut file = BufReader::new(File::open(path)?);
    if (file.seek(SeekFrom::End(0))? as i64) < at {
        return Err(io::Error::other("the file is shorter than what was read of it"));
    }
    file.seek(SeekFrom::Start(at as u64))?;
    let (mut records, mut bytes, mut next, mut line) = (Vec::new(), 0, None, Vec::new());
    let end = loop {
        line.clear();
        if file.read_until(b'\n', &mut line)? == 0 || line.pop() != Some(b'\n') {
            break PageEnd::CaughtUp;
        }
        let position = Cursor::number(at + line.len() as i64 + 1);
        let record = record(RecordId::new(part.clone(), position.clone()), &String::from_utf8_lossy(&line));
        if query.matches(&record) && !matches!(start, Start::At(time) if record.timestamp < *time) {
            bytes += record.size();
            if records.len() == limits.records_max || (bytes > limits.bytes_max && !records.is_empty()) {
                break PageEnd::More;
            }
            records.push(record);
        }
        at = position.as_number();
        next = Some(position);
    };
    Ok(Page::ending_at(part, records, next, end))
}

/// What a line says. One that is written otherwise is shipped as it is, with the time at which it was read.
fn record(id: RecordId, line: &str) -> LogRecord {
    let words: Vec<&str> = line.splitn(4, ' ').collect();
    let time = words[0].parse();
    let mut record = LogRecord::new(id, time.clone().unwrap_or_else(|_| Timestamp::now()));
    record.body = line.into();
    if let (Ok(_), [_, level, namespace, text]) = (time, words.as_slice()) {
        record.severity = Severity::from_name(level).unwrap_or_default();
        record.attributes = Vec::from_iter((*namespace != "-").then(|| ("namespace".into(), (*namespace).into())));
        record.body = (*text).into();
    }
    record
}

fn failed(error: io::Error) -> Error {
    Error::new(ErrorKind::Unavailable, "read the logs of jobs", "the file system refused").with_source(error)
}

/// Ships the lines of two files in this folder.
pub async fn ship(dir: &Path) -> Result<RunReport, Box<dyn std::error::Error>> {
    std::fs::create_dir_all(dir.join("jobs"))?;
    let lines = "2026-11-20T08:30:00Z INFO company.team hello\n2026-11-20T08:30:01Z ERROR company.team exit code 1\n";
    std::fs::write(dir.join("jobs/build-17.log"), lines)?;
    std::fs::write(dir.join("jobs/build-18.log"), lines.replace("08:30", "08:31"))?;

    let mut registry = logship::registry();
    register(&mut registry);
    let yaml = "
        source: {type: job_logs, dir: DIR/jobs}
        offsets: {type: file, dir: DIR/offsets}
        lookback_secs: 0
        exporters:
          - {id: terminal, type: console}";
    let config: ShipperConfig = serde_saphyr::from_str(&yaml.replace("DIR", &dir.display().to_string()))?;
    Ok(config.build(&registry, &BuildContext::default())?.run_once().await?)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::temp_dir().join(format!("logship-custom-source-{}", std::process::id()));
    #[allow(clippy::print_stdout, reason = "an example shows what it does")]
    {
        println!("{}", ship(&dir).await?);
    }
    Ok(())
}
