//! What an exporter of files or objects has made, for the report.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use logship_core::Artifacts;

/// As many as a report is good for. A continuous run makes more, and nobody asks before it ends.
const URIS_MAX: usize = 10_000;

/// The URIs of what was made since it was last asked for, each once; of many the newest.
#[derive(Debug, Default)]
pub(crate) struct Written(Mutex<VecDeque<String>>);

impl Written {
    /// A chunk was written to `uri`, maybe once more.
    pub(crate) fn add(&self, uri: String) {
        let mut uris = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if uris.back() != Some(&uri) {
            uris.push_back(uri);
        }
        if uris.len() > URIS_MAX {
            uris.pop_front();
        }
    }

    pub(crate) fn take(&self) -> Artifacts {
        let uris = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        Artifacts::uris(uris.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p5_of_many_uris_the_newest_are_kept() {
        let written = Written::default();
        for number in 0..=URIS_MAX {
            written.add(number.to_string());
            written.add(number.to_string());
        }
        let uris = written.take().uris;
        assert_eq!((uris.len(), uris[0].as_str()), (URIS_MAX, "1"));
        assert_eq!(written.take().uris, [""; 0]);
    }
}
