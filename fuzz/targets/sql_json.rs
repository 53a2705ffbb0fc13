//! JSON columns of tables: read as another reader reads them, or left as text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use logship_sources::fuzzing::json_column;

fuzz_target!(|text: &str| {
    let read = json_column(text);
    let is_json = serde_json::from_str::<serde_json::Value>(text).is_ok();
    let is_deep = text.bytes().filter(|byte| matches!(byte, b'[' | b'{')).count() > 64;
    assert!(read.is_some() == is_json || is_deep, "{text}");
    if let Some(value) = read {
        // Keys and values are held by the page's arena, of which a clone is a part.
        assert_eq!(format!("{:?}", value.clone()), format!("{value:?}"));
    }
});
