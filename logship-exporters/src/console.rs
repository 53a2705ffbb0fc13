//! Log records on the terminal: for people who watch, and for programs behind a pipe.
//!
//! # Delivery
//! A record is accepted once the operating system has taken its line. A reader that has gone away (a closed pipe) stops
//! the lane.
//!
//! ```
//! use logship_core::Lane;
//! use logship_exporters::console::{Console, ConsoleConfig};
//!
//! let lane = Lane::new("console", Console::new(ConsoleConfig::default()));
//! # let _ = lane;
//! ```

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use logship_core::{
    Certainty, Chunk, Encoding, Error, ErrorKind, Exporter, LogRecord, Outcome, Registry, Severity, Unencodable, Value,
    async_trait, read_fields,
};
use serde::Deserialize;

use crate::encode::json;

/// What a configuration says of a [`Console`].
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct ConsoleConfig {
    /// The form of a record. Default text.
    pub format: ConsoleFormat,
    /// Where records are written. Default standard output.
    pub stream: ConsoleStream,
    /// Whether severities are coloured. Default: if the stream is a terminal and `NO_COLOR` is not set
    /// (<https://no-color.org>).
    pub color: Option<bool>,
}

/// The form of a record on the console.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ConsoleFormat {
    /// A line for people: time, severity, what it says, attributes. The further lines of a longer text follow,
    /// indented. Control characters are written as escapes, so that a record cannot steer the terminal.
    #[default]
    Text,
    /// One JSON object a line, with OpenTelemetry's names.
    Json,
}

/// Where records are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ConsoleStream {
    /// Standard output.
    #[default]
    Stdout,
    /// Standard error.
    Stderr,
}

/// Writes records to the console.
pub struct Console {
    encoding: Arc<Lines>,
    writer: Arc<Mutex<Box<dyn Write + Send>>>,
}

pub(crate) fn register(registry: &mut Registry) {
    #[cfg(feature = "schema")]
    registry.describe_exporter::<ConsoleConfig>("console");
    registry.add_exporter("console", |fields, _| Ok(Console::new(read_fields(fields)?)));
}

impl Console {
    /// Writes as the configuration says.
    pub fn new(config: ConsoleConfig) -> Self {
        let (is_terminal, writer): (bool, Box<dyn Write + Send>) = match config.stream {
            ConsoleStream::Stdout => (io::stdout().is_terminal(), Box::new(io::stdout())),
            ConsoleStream::Stderr => (io::stderr().is_terminal(), Box::new(io::stderr())),
        };
        let is_wanted = || is_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Console::over(writer, config.format, config.color.unwrap_or_else(is_wanted))
    }

    /// Writes to a writer of the program's own.
    pub fn over(writer: impl Write + Send + 'static, format: ConsoleFormat, color: bool) -> Self {
        let key = format!("console {format:?} {color}");
        Console { encoding: Arc::new(Lines { format, color, key }), writer: Arc::new(Mutex::new(Box::new(writer))) }
    }
}

impl fmt::Debug for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Console").field("encoding", &self.encoding).finish_non_exhaustive()
    }
}

#[async_trait]
impl Exporter for Console {
    fn kind(&self) -> &'static str {
        "console"
    }

    fn encoding(&self) -> Option<Arc<dyn Encoding>> {
        Some(Arc::clone(&self.encoding) as Arc<dyn Encoding>)
    }

    async fn export(&self, chunk: &Chunk) -> Result<Outcome, Error> {
        let bytes = chunk.body().map_or(Bytes::new(), |body| body.bytes());
        let writer = Arc::clone(&self.writer);
        // Whoever reads the other end of a pipe may take any time.
        let written = tokio::task::spawn_blocking(move || {
            let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
            writer.write_all(&bytes).and_then(|()| writer.flush())
        });
        // Some lines may have been written before what went wrong; writing all again would show them twice.
        let failed = |error: io::Error| {
            Error::new(ErrorKind::Rejected, "write to the console", "the stream is closed or full")
                .certainty_is(Certainty::Unknown)
                .with_source(error)
        };
        written.await.map_err(io::Error::other).and_then(|result| result).map_err(failed)?;
        Ok(Outcome::all_accepted(chunk.len()))
    }
}

/// Records as lines.
#[derive(Debug)]
struct Lines {
    format: ConsoleFormat,
    color: bool,
    key: String,
}

impl Encoding for Lines {
    fn key(&self) -> &str {
        &self.key
    }

    fn record(&self, record: &LogRecord, out: &mut Vec<u8>) -> Result<(), Unencodable> {
        match self.format {
            ConsoleFormat::Json => json::record(out, record)?,
            ConsoleFormat::Text => text(record, self.color, out)?,
        }
        out.push(b'\n');
        Ok(())
    }
}

fn text(record: &LogRecord, color: bool, out: &mut Vec<u8>) -> Result<(), Unencodable> {
    record.timestamp.write_rfc3339(out);
    out.push(b' ');
    let color = if color { color_of(record.severity) } else { "" };
    out.extend_from_slice(color.as_bytes());
    printable(out, record.severity_name(), b" ");
    out.extend_from_slice(if color.is_empty() { "" } else { "\x1b[0m" }.as_bytes());
    out.push(b' ');
    value(out, &record.body, b"\n    ")?;
    for (name, inner) in record.attributes.iter().filter(|(_, inner)| *inner != Value::Null) {
        out.push(b' ');
        printable(out, name, b" ");
        out.push(b'=');
        value(out, inner, b"\\n")?;
    }
    Ok(())
}

/// The ANSI sequence that goes with a severity.
fn color_of(severity: Severity) -> &'static str {
    match severity.name() {
        "FATAL" | "ERROR" => "\x1b[31m",
        "WARN" => "\x1b[33m",
        "INFO" => "\x1b[32m",
        _ => "\x1b[2m",
    }
}

fn value(out: &mut Vec<u8>, value: &Value, line_break: &[u8]) -> Result<(), Unencodable> {
    match value {
        Value::String(text) => printable(out, text, line_break),
        // JSON escapes what is below a space, and no other control character.
        other => {
            let mut text = Vec::new();
            json::value(&mut text, other, 0)?;
            printable(out, &String::from_utf8_lossy(&text), line_break);
        }
    }
    Ok(())
}

/// Appends text with its control characters as escapes, C1 included (<https://www.unicode.org/charts/PDF/U0080.pdf>),
/// which terminals obey as well.
fn printable(out: &mut Vec<u8>, text: &str, line_break: &[u8]) {
    for character in text.trim_end_matches('\n').chars() {
        match character {
            '\n' => out.extend_from_slice(line_break),
            '\t' => out.push(b'\t'),
            character if character.is_control() => out.extend(character.escape_unicode().map(|part| part as u8)),
            character => out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use logship_core::{Cursor, Page, PageEnd, Partition, RecordId, Timestamp};

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn chunk(console: &Console) -> Chunk {
        let partition = Partition::new("logs");
        let id = RecordId::new(partition.clone(), Cursor::number(1));
        let mut record = LogRecord::new(id, Timestamp::from_millis(1_795_163_400_123));
        record.severity = Severity::ERROR;
        record.body = "failed: \x1b[2Jboom\u{9b}1A\n\tat Main.java:7\n".into();
        record.attributes = vec![("flow".into(), "load".into()), ("try".into(), 2.into()), ("no".into(), Value::Null)];
        let page = Page::new(partition, vec![record], PageEnd::CaughtUp);
        Chunk::of_page(page, Some(console.encoding.as_ref())).unwrap()
    }

    async fn shown(format: ConsoleFormat, color: bool) -> String {
        let written = Written::default();
        let console = Console::over(written.clone(), format, color);
        assert_eq!(console.export(&chunk(&console)).await.unwrap(), Outcome::all_accepted(1));
        let bytes = written.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[tokio::test]
    async fn a_record_is_a_line_for_people_that_cannot_steer_the_terminal() {
        assert_eq!(
            shown(ConsoleFormat::Text, false).await,
            "2026-11-20T08:30:00.123000000Z ERROR failed: \\u{1b}[2Jboom\\u{9b}1A\n    \tat Main.java:7 flow=load try=2\n"
        );
        assert!(shown(ConsoleFormat::Text, true).await.contains("Z \x1b[31mERROR\x1b[0m failed"));
    }

    #[test]
    fn a_text_inside_others_cannot_steer_the_terminal_either() {
        let id = RecordId::new(Partition::new("logs"), Cursor::number(1));
        let mut record = LogRecord::new(id, Timestamp::from_secs(0));
        record.body = Value::Map(vec![("a\u{7f}".into(), Value::Array(vec!["\u{9b}2J\n".into()]))]);
        let mut out = Vec::new();
        text(&record, false, &mut out).unwrap();
        let shown = String::from_utf8(out).unwrap();
        assert!(shown.ends_with(r#"{"a\u{7f}":["\u{9b}2J\n"]}"#), "{shown}");
    }

    #[tokio::test]
    async fn a_record_is_a_line_of_json() {
        let row: serde_json::Value = serde_json::from_str(&shown(ConsoleFormat::Json, true).await).unwrap();
        assert_eq!(row["severityText"], "ERROR");
        assert_eq!(row["attributes"]["try"], 2);
    }

    #[tokio::test]
    async fn a_closed_pipe_confirms_nothing_and_stops_the_lane() {
        let console = Console::over(Closed, ConsoleFormat::Text, false);
        let error = console.export(&chunk(&console)).await.unwrap_err();
        assert!(!error.is_retryable() && error.certainty() == Certainty::Unknown, "{error}");
    }
}
