//! Lines of files: every line is a record, and an object that another reader reads is read without a fault.
#![no_main]

use libfuzzer_sys::fuzz_target;
use logship_sources::fuzzing::jsonl_record;

fn depth(value: &serde_json::Value) -> usize {
    match value {
        serde_json::Value::Array(values) => 1 + values.iter().map(depth).max().unwrap_or(0),
        serde_json::Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

fuzz_target!(|data: &[u8]| {
    for line in data.split(|byte| *byte == b'\n') {
        let record = jsonl_record(line);
        assert!(record.size() > 0);
        let fault = record.attribute("logship.parse_error");
        match serde_json::from_slice::<serde_json::Value>(line) {
            Ok(value) if value.is_object() && depth(&value) <= 64 => {
                let named = value.get("logship.parse_error").is_some();
                assert!(fault.is_none() || named, "{fault:?}: {value}");
            }
            Ok(_) => assert!(fault.is_some()),
            Err(_) => {}
        }
    }
});
