//! The answers of Elasticsearch: any bytes are an outcome for every record of the request, or an error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use logship_exporters::fuzzing::{bulk_error, bulk_outcome};

fuzz_target!(|data: &[u8]| {
    let Some((records, answer)) = data.split_first() else { return };
    let records = usize::from(*records % 8);
    if let Ok(outcome) = bulk_outcome(answer, records) {
        assert!(outcome.accepted_count() <= records);
        // What nobody looks at may be no text, which the other reader does not take.
        if let Ok(answer) = serde_json::from_slice::<serde_json::Value>(answer) {
            let items = answer["items"].as_array().map(Vec::len);
            assert!(items == Some(records) || answer.is_array(), "each record has an item");
        }
    }
    assert!(bulk_error(answer).len() < 2_000);
});
