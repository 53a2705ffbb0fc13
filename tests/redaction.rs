//! Secrets stay secret: redaction comes before any lane, dead letter, error and report.

#![allow(clippy::unwrap_used, reason = "a test says why it fails by its panic")]

use std::sync::{Arc, Mutex};

use logship::config::ShipperConfig;
use logship::{BuildContext, Chunk, Error, Exporter, Outcome, Registry, Secret, SecretProvider, async_trait, registry};
use serde_json::json;

/// Keeps everything it is given, and refuses every third record in words that quote it.
#[derive(Debug)]
struct Quoting(Arc<Mutex<String>>);

#[async_trait]
impl Exporter for Quoting {
    fn kind(&self) -> &'static str {
        "quoting"
    }
    async fn export(&self, chunk: &Chunk) -> Result<Outcome, Error> {
        let mut outcome = Outcome::builder(chunk.len());
        for (index, record) in chunk.records().enumerate() {
            let text = serde_json::to_string(record).unwrap();
            match index % 3 {
                2 => outcome.rejected(index, "400", format!("cannot parse {text}")),
                _ => outcome.accepted(index),
            }
            self.0.lock().unwrap().push_str(&text);
        }
        Ok(outcome.build())
    }
}

#[derive(Debug)]
struct Vault;

impl SecretProvider for Vault {
    fn secret(&self, name: &str) -> Option<Secret> {
        (name == "HASH").then(|| Secret::new("k3y"))
    }
}

fn with_quoting(seen: &Arc<Mutex<String>>) -> Registry {
    let mut registry = registry();
    let seen = Arc::clone(seen);
    registry.add_exporter("quoting", move |_, _| Ok(Quoting(Arc::clone(&seen))));
    registry
}

/// Goal: P12. Method: secrets in the bodies and attributes of files that are shipped to an exporter that quotes what it
/// refuses, with a dead letter; nothing that leaves has one of them.
#[tokio::test]
async fn p12_no_exporter_dead_letter_or_report_sees_a_secret() {
    let dir = tempfile::tempdir().unwrap();
    let lines: String = (0..90)
        .map(|number| {
            json!({
                "time": "2026-11-20T08:30:00Z", "level": "INFO",
                "msg": format!("connecting to amqp://svc:hunter{number}hunter@mq:5672 with password=hunter{number}hunter"),
                "headers": {"Authorization": format!("Bearer hunter{number}hunter")},
                "session": format!("hunter{number}hunter"),
            })
            .to_string()
                + "\n"
        })
        .collect();
    std::fs::write(dir.path().join("a.jsonl"), lines).unwrap();
    let seen = Arc::new(Mutex::new(String::new()));
    let config: ShipperConfig = serde_json::from_value(json!({
        "source": {"type": "jsonl", "paths": [dir.path().join("a.jsonl")]},
        "offsets": {"type": "memory"},
        "lookback_secs": 0,
        "redaction": {"fields": [["session", "hash"]], "hash_key": {"secret": "HASH"}},
        "enrichment": {"attributes": [["team", "payments"]]},
        "exporters": [
            {"id": "quoting", "type": "quoting", "dead_letter": {"type": "file", "dir": dir.path().join("dead")}},
            {"id": "archive", "type": "file", "dir": dir.path().join("archive"), "format": "json"},
        ],
    }))
    .unwrap();
    let shipper = config.build(&with_quoting(&seen), &BuildContext::new(Arc::new(Vault))).unwrap();
    let report = shipper.run_once().await.unwrap().require_complete().unwrap();
    assert_eq!(report.lane("quoting").unwrap().dead_lettered, 30);
    assert_eq!(report.lane("archive").unwrap().accepted, 90);
    let mut all = format!("{report} {report:?}") + &seen.lock().unwrap();
    for folder in ["dead", "archive"] {
        for file in std::fs::read_dir(dir.path().join(folder)).unwrap() {
            all += &std::fs::read_to_string(file.unwrap().path()).unwrap();
        }
    }
    assert!(all.len() > 50_000 && all.contains("payments") && all.contains("amqp://svc:***@mq:5672"), "{all:.300}");
    assert!(!all.contains("hunter"), "{:.200}", &all[all.find("hunter").unwrap_or(0)..]);
}

#[test]
fn a_redaction_that_cannot_be_is_refused_before_anything_is_read() {
    for (redaction, words) in [
        (json!({"patterns": [["(", "mask"]]}), "redaction.patterns"),
        (json!({"fields": [["session", "hash"]]}), "needs a key"),
    ] {
        let config: ShipperConfig = serde_json::from_value(json!({
            "source": {"type": "jsonl", "paths": ["x"]}, "offsets": {"type": "memory"}, "redaction": redaction,
            "exporters": [{"id": "console", "type": "console"}],
        }))
        .unwrap();
        let error = config.build(&registry(), &BuildContext::default()).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
}
