//! Ways in for the fuzz targets: what else can only be reached over a file or a database.

use bytes::Bytes;
use logship_core::{Cursor, LogRecord, Page, Partition, RecordId, Text, TextArena, Value};

// The reader alone, where the databases are not compiled in.
#[cfg(not(feature = "_sql"))]
#[path = "sql/json.rs"]
mod json;
#[cfg(not(feature = "_sql"))]
use self::json::JsonReader;
#[cfg(feature = "_sql")]
use crate::sql::JsonReader;

/// The record of a line.
pub fn jsonl_record(line: &[u8]) -> LogRecord {
    let id = RecordId::new(Partition::new("fuzzed"), Cursor::number(1));
    crate::jsonl::record_of_line(&Text::from_utf8_lossy(Bytes::copy_from_slice(line)), id)
}

/// The page of these lines.
pub fn jsonl_page(lines: Vec<u8>) -> Page {
    crate::jsonl::page_of_lines(lines)
}

/// The value of a JSON column.
pub fn json_column(text: &str) -> Option<Value> {
    JsonReader::default().read(text, &mut TextArena::new())
}
