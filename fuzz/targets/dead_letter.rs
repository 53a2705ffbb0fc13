//! Dead letters: what was read is written as it was read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use logship::DeadLetter;

fuzz_target!(|data: &[u8]| {
    let letters = match DeadLetter::read_lines(data) {
        Ok(letters) => letters,
        Err(error) => return assert!(error.to_string().contains("line ")),
    };
    for letter in letters {
        let line = serde_json::to_vec(&letter).unwrap();
        let again = DeadLetter::read_lines(&line).unwrap();
        // By their text, for what is no number is not equal to itself.
        assert_eq!(format!("{again:?}"), format!("[{letter:?}]"));
    }
});
