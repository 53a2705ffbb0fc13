//! What offset stores keep: positions, windows and offsets are written as they were read, and times as well.
#![no_main]

use libfuzzer_sys::fuzz_target;
use logship::{Cursor, OffsetKey, Offsets, Timestamp, Window};
use serde::Serialize;
use serde::de::DeserializeOwned;

fn reads_back<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(data: &[u8]) {
    let Ok(read) = serde_json::from_slice::<T>(data) else { return };
    let written = serde_json::to_vec(&read).unwrap();
    assert_eq!(serde_json::from_slice::<T>(&written).unwrap(), read);
}

fuzz_target!(|data: &[u8]| {
    reads_back::<Cursor>(data);
    reads_back::<Window>(data);
    reads_back::<Offsets>(data);
    reads_back::<Timestamp>(data);
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(cursor) = text.parse::<Cursor>() {
        assert_eq!(cursor.to_string().parse::<Cursor>().unwrap(), cursor);
        assert_eq!(cursor.detached(), cursor);
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        assert_eq!(time.to_string().parse::<Timestamp>().unwrap(), time);
    }
    drop(OffsetKey::new(text));
});
