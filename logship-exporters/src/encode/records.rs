//! A body of lines of JSON.

use logship_core::{Compression, Encoding, LogRecord, Unencodable};

use super::json;

/// Records as JSON with OpenTelemetry's names, one a line.
#[derive(Debug)]
pub(crate) struct Records {
    key: String,
    compression: Compression,
}

impl Records {
    pub(crate) fn new(compression: Compression) -> Self {
        Records { key: format!("records {compression:?}"), compression }
    }
}

impl Encoding for Records {
    fn key(&self) -> &str {
        &self.key
    }

    fn record(&self, record: &LogRecord, out: &mut Vec<u8>) -> Result<(), Unencodable> {
        json::record(out, record)?;
        out.push(b'\n');
        Ok(())
    }

    fn compression(&self) -> Compression {
        self.compression
    }
}
