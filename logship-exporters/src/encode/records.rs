//! A body of JSON: lines, or one array.

use logship_core::{Compression, Encoding, LogRecord, Unencodable};

use super::json;

/// Records as JSON with OpenTelemetry's names, one a line, or in one array.
#[derive(Debug)]
pub(crate) struct Records {
    key: String,
    is_array: bool,
    compression: Compression,
}

impl Records {
    pub(crate) fn new(is_array: bool, compression: Compression) -> Self {
        Records { key: format!("records, array {is_array}, {}", String::from(compression)), is_array, compression }
    }
}

impl Encoding for Records {
    fn key(&self) -> &str {
        &self.key
    }

    fn record(&self, record: &LogRecord, out: &mut Vec<u8>) -> Result<(), Unencodable> {
        json::record(out, record)?;
        if !self.is_array {
            out.push(b'\n');
        }
        Ok(())
    }

    fn begin(&self) -> &'static [u8] {
        if self.is_array { b"[" } else { b"" }
    }

    fn separator(&self) -> &'static [u8] {
        if self.is_array { b"," } else { b"" }
    }

    fn end(&self) -> &'static [u8] {
        if self.is_array { b"]" } else { b"" }
    }

    fn compression(&self) -> Compression {
        self.compression
    }
}
