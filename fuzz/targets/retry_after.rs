//! `Retry-After`: nothing, or a wait of an hour at most.
#![no_main]

use std::time::{Duration, SystemTime};

use libfuzzer_sys::fuzz_target;
use logship_exporters::fuzzing::retry_after;

fuzz_target!(|text: &str| {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_163_400);
    assert!(retry_after(text, now).is_none_or(|wait| wait <= Duration::from_secs(3_600)));
});
