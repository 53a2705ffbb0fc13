//! The README's table of exporters says what the code says: its features, repeats, answers, limits, and what each was
//! tested against.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says why it fails by its panic")]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use logship::{BuildContext, Exporter, Idempotency, Limits};
use serde_json::{Value, json};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The least that an exporter can be made of.
fn minimal(kind: &str) -> Value {
    let url = "http://127.0.0.1:1";
    match kind {
        "azure_blob" => json!({"container": "logs", "account": "acme", "account_key": "c2VjcmV0"}),
        "azure_monitor" => json!({"endpoint": url, "rule_id": "dcr-1", "stream_name": "Custom-Logs"}),
        "cloudwatch" => json!({"log_group_name": "logs"}),
        "console" => json!({}),
        "datadog" => json!({"api_key": "k"}),
        "elasticsearch" | "opensearch" => json!({"hosts": [url], "index": "logs"}),
        "file" => json!({"dir": std::env::temp_dir().join("logship-readme-table")}),
        "firehose" => json!({"delivery_stream_name": "logs"}),
        "gcp_logging" => json!({"project_id": "acme"}),
        "gcs" | "s3" => json!({"bucket": "logs"}),
        "http" | "loki" => json!({"url": url}),
        "kinesis" => json!({"stream_name": "logs"}),
        "loggly" | "logzio" => json!({"token": "t"}),
        "newrelic" => json!({"license_key": "k"}),
        "otlp" => json!({"endpoint": url}),
        "splunk" => json!({"url": url, "token": "t"}),
        "sqs" => json!({"queue_url": url}),
        _ => panic!("say here how a minimal `{kind}` is configured"),
    }
}

/// The rows of the table of exporters by feature, each by the name of its column.
fn rows() -> BTreeMap<String, BTreeMap<String, String>> {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let cells = |line: &str| -> Vec<String> {
        line.trim().trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    let mut lines = readme.lines().skip_while(|line| !line.starts_with("| exporter |"));
    let names = cells(lines.next().unwrap());
    let rows = lines.skip(1).take_while(|line| line.starts_with('|')).map(|line| {
        let row: BTreeMap<String, String> = names.iter().cloned().zip(cells(line)).collect();
        (row["feature"].trim_matches('`').to_owned(), row)
    });
    rows.collect()
}

/// A number as the table writes it: 5,000,000.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn time(time: Duration) -> String {
    match time.as_secs() {
        secs if secs % 86_400 == 0 && secs > 2 * 86_400 => format!("{} d", secs / 86_400),
        secs if secs % 3_600 == 0 => format!("{} h", secs / 3_600),
        secs => format!("{} min", secs / 60),
    }
}

/// Limits as the table has them.
fn limits(limits: &Limits) -> String {
    let count = |number: Option<usize>, what: &str| number.map(|number| format!("{} {what}", grouped(number)));
    let all = [
        count(limits.chunk_records_max, "records"),
        count(limits.chunk_bytes_max, "B a body"),
        count(limits.wire_bytes_max, "B packed"),
        count(limits.record_bytes_max, "B a record"),
        limits.record_age_max.map(|age| format!("{} old", time(age))),
        limits.record_ahead_max.map(|ahead| format!("{} ahead", time(ahead))),
        limits.concurrency_max.map(|requests| format!("{requests} at a time")),
    ];
    let all: Vec<String> = all.into_iter().flatten().collect();
    if all.is_empty() { "none".to_owned() } else { all.join(", ") }
}

/// What the row of an exporter has to say.
fn check(kind: &str, exporter: &dyn Exporter, row: &BTreeMap<String, String>) {
    assert_eq!(exporter.kind(), kind);
    let capabilities = exporter.capabilities();
    let repeat = &row["a repeat"];
    let words: &[&str] = match capabilities.idempotency {
        Idempotency::PerRecord => &["recognised by"],
        Idempotency::PerChunk => &["replaces its"],
        // Some such destinations recognise it now and then, which is no promise.
        _ => &["stored twice", "shown twice", "usually recognised"],
    };
    assert!(words.iter().any(|word| repeat.starts_with(word)), "{kind}: a repeat is {words:?}, not `{repeat}`");
    let answers = &row["answers per record"];
    assert_eq!(answers.starts_with("yes"), capabilities.answers_per_record, "{kind}: answers per record: `{answers}`");
    assert_eq!(row["limits unless set"], limits(&exporter.limits()), "{kind}: limits");
}

/// Whether there is a stand-in of this name, and the exporter is held against it.
fn has_stand_in(kind: &str) -> bool {
    let strict = root().join("logship-testkit/src/strict");
    let is_there = strict.join(format!("{kind}.rs")).exists() || strict.join(kind).join("mod.rs").exists();
    let conformance = root().join(format!("logship-exporters/tests/conformance/{kind}.rs"));
    is_there && std::fs::read_to_string(conformance).unwrap().contains(&format!("strict::{kind}::"))
}

#[test]
fn the_table_of_exporters_says_what_the_code_says() {
    let rows = rows();
    let registry = logship::registry();
    for kind in registry.exporter_names() {
        let row = rows.get(kind).unwrap_or_else(|| panic!("the README has no row for `{kind}`"));
        let fields = serde_json::from_value(minimal(kind)).unwrap();
        let exporter = registry.exporter(kind, fields, &BuildContext::default()).unwrap();
        check(kind, &*exporter, row);
        let tested = &row["tested against"];
        assert_eq!(tested.contains("strict stand-in"), has_stand_in(kind), "{kind}: `{tested}`");
        assert!(
            root().join(format!("logship-exporters/tests/conformance/{kind}.rs")).exists() && !tested.is_empty(),
            "{kind} is held against the contract"
        );
    }
    // Of what a configuration cannot name there is one.
    let unnamed: Vec<&String> =
        rows.keys().filter(|name| !registry.exporter_names().any(|kind| kind == *name)).collect();
    assert_eq!(unnamed, ["otlp-sdk"]);
}

/// Goal: a real server is named where there is one, and nowhere else. Method: `scripts/servers.sh` starts those that take
/// OTLP, and the test that asks for them is `otlp_servers.rs`.
#[test]
fn real_servers_are_named_where_a_test_asks_for_them() {
    let servers = std::fs::read_to_string(root().join("scripts/servers.sh")).unwrap();
    for (kind, row) in rows() {
        let tested = &row["tested against"];
        let test = root().join(format!("logship-exporters/tests/{}_servers.rs", kind.replace('-', "_")));
        assert_eq!(tested.contains("real"), test.exists(), "{kind}: `{tested}`");
        for name in ["Rotel", "Datadog's test agent"].iter().filter(|name| tested.contains(**name)) {
            assert!(servers.contains(name), "scripts/servers.sh does not start {name}");
        }
    }
}
