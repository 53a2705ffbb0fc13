//! A body that is one array of JSON.

use std::fmt;

use logship_core::{Compression, Encoding, LogRecord, Unencodable};

/// What an array has for each record.
pub(crate) trait Element: fmt::Debug + Send + Sync {
    /// Appends a record's element.
    fn write(&self, record: &LogRecord, out: &mut Vec<u8>) -> Result<(), Unencodable>;
}

/// Records as the elements of one array.
#[derive(Debug)]
pub(crate) struct Array<E> {
    key: String,
    element: E,
    compression: Compression,
}

impl<E: Element> Array<E> {
    /// `name` tells such elements from all others: what they are, and every option that changes a byte.
    pub(crate) fn new(name: &str, element: E, compression: Compression) -> Self {
        Array { key: format!("{name} {compression:?}"), element, compression }
    }
}

impl<E: Element> Encoding for Array<E> {
    fn key(&self) -> &str {
        &self.key
    }

    fn record(&self, record: &LogRecord, out: &mut Vec<u8>) -> Result<(), Unencodable> {
        self.element.write(record, out)
    }

    fn begin(&self) -> &[u8] {
        b"["
    }

    fn separator(&self) -> &[u8] {
        b","
    }

    fn end(&self) -> &[u8] {
        b"]"
    }

    fn compression(&self) -> Compression {
        self.compression
    }
}
