//! Ways in for the fuzz targets: what else can only be reached over a network.

use std::time::{Duration, SystemTime};

use logship_core::{Compression, Encoding, Error, LogRecord, Outcome};

use crate::bulk::{self, BulkEncoding};

/// What became of so many records by the answer to a bulk request.
pub fn bulk_outcome(body: &[u8], records: usize) -> Result<Outcome, Error> {
    bulk::outcome("fuzzing", body, records)
}

/// What an answer says about the request as a whole.
pub fn bulk_error(body: &[u8]) -> String {
    bulk::whole_error(body)
}

/// The two lines of a record in a bulk request.
pub fn bulk_lines(record: &LogRecord) -> Option<Vec<u8>> {
    let mut lines = Vec::new();
    BulkEncoding::new(None, true, Compression::None).record(record, &mut lines).ok()?;
    Some(lines)
}

/// The wait that a header asks for.
pub fn retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    crate::retry_after::retry_after(text, now)
}
