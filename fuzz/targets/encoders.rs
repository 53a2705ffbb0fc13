//! What is written of any record: JSON that serde_json reads, Ion that ion-rs reads, each of one line, each with the
//! record's text as it was.
#![no_main]

use ion_rs::Element;
use libfuzzer_sys::arbitrary::Unstructured;
use libfuzzer_sys::fuzz_target;
use logship::exporters::console::{Console, ConsoleFormat};
use logship::exporters::encode::{Format, Rows};
use logship::{Compression, Encoding, Exporter, LogRecord, Value};
use logship_exporters::fuzzing::bulk_lines;

fn written(encoding: &dyn Encoding, record: &LogRecord) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    encoding.record(record, &mut out).ok()?;
    Some(out)
}

fn json(line: &[u8]) -> serde_json::Value {
    assert_eq!(line.iter().position(|byte| *byte == b'\n'), Some(line.len() - 1), "one line");
    serde_json::from_slice(line).unwrap()
}

/// Whether a value is what was written of ours, as far as JSON can say it.
fn is_same(ours: &Value, theirs: &serde_json::Value) -> bool {
    match ours {
        Value::Null => theirs.is_null(),
        Value::Bool(value) => theirs.as_bool() == Some(*value),
        Value::Int(number) => theirs.as_i64() == Some(*number),
        Value::Double(number) if !number.is_finite() => theirs.is_string(),
        // The other reader is exact to the last digit but one.
        Value::Double(number) => theirs.as_f64().is_some_and(|read| (read - number).abs() <= number.abs() * 1e-15),
        Value::String(text) => theirs.as_str() == Some(text.as_str()),
        Value::Bytes(_) => theirs.is_string(),
        Value::Array(values) => theirs.as_array().is_some_and(|theirs| {
            theirs.len() == values.len() && values.iter().zip(theirs).all(|(ours, theirs)| is_same(ours, theirs))
        }),
        // Of a name that is there twice the other reader keeps the last.
        Value::Map(entries) => theirs.as_object().is_some_and(|theirs| {
            let last = |name: &str| entries.iter().rfind(|(known, value)| known == name && *value != Value::Null);
            entries.iter().all(|(name, value)| {
                *value == Value::Null
                    || last(name).is_some_and(|(_, last)| theirs.get(name.as_str()).is_some_and(|t| is_same(last, t)))
            })
        }),
    }
}

fuzz_target!(|data: &[u8]| {
    let Ok(record) = logship_fuzz::record(&mut Unstructured::new(data)) else { return };
    let row = written(&Rows::new(Format::Json, Compression::None), &record);
    if let Some(row) = &row {
        let row = json(row);
        assert_eq!(row["id"].as_str().unwrap(), record.id.to_string());
        assert!(is_same(&record.body, &row["bodyValue"]), "{record:?} {row}");
        assert!(is_same(&Value::Map(record.attributes.clone()), &row["attributes"]), "{record:?} {row}");
    }
    let ion = written(&Rows::new(Format::Ion, Compression::None), &record);
    assert_eq!(ion.is_some(), row.is_some(), "both take the same records");
    if let Some(ion) = ion {
        assert_eq!(ion.iter().filter(|byte| **byte == b'\n').count(), 1);
        let read = Element::read_one(&ion).unwrap();
        let read = read.as_struct().unwrap();
        assert_eq!(read.get("id").unwrap().as_string().unwrap(), record.id.to_string());
        assert_eq!(read.get("attributes").unwrap().as_struct().unwrap().len(), record.attributes.len());
        if let Value::String(text) = &record.body {
            assert_eq!(read.get("bodyValue").unwrap().as_string(), Some(text.as_str()));
        }
    }
    for format in [ConsoleFormat::Json, ConsoleFormat::Text] {
        let encoding = Console::over(Vec::new(), format, true).encoding().unwrap();
        let Some(line) = written(&*encoding, &record) else { continue };
        match format {
            ConsoleFormat::Json => drop(json(&line)),
            _ => {
                let text = String::from_utf8(line).unwrap().replace("\u{1b}[", "");
                assert!(!text.contains(|c: char| c.is_control() && c != '\n' && c != '\t'), "{text:?}");
            }
        }
    }
    if let Some(lines) = bulk_lines(&record) {
        let (action, document) = lines.split_at(lines.iter().position(|byte| *byte == b'\n').unwrap() + 1);
        assert!(json(action)["create"]["_id"].as_str().unwrap().len() <= 512);
        assert!(json(document)["@timestamp"].is_string());
    }
});
