//! A wrong configuration, a missing file, an unreachable server: an error that says what and where, and nothing lost.

#![allow(clippy::unwrap_used, reason = "a test says why it fails by its panic")]

use std::sync::{Arc, Mutex};

use logship::config::ShipperConfig;
use logship::{
    BuildContext, Chunk, Error, ErrorKind, Exporter, LaneStatus, LogShipper, Outcome, Registry, async_trait, registry,
};
use serde_json::{Value, json};

/// A configuration that works, over a database in this folder.
fn config(dir: &std::path::Path) -> Value {
    json!({
        "source": {"type": "sqlite", "path": dir.join("logs.db")},
        "offsets": {"type": "file", "dir": dir.join("offsets")},
        "query": {"severity_min": "INFO"},
        "lookback_secs": 0,
        "exporters": [{"id": "archive", "type": "file", "dir": dir.join("archive"), "lane": {"chunk": 2}}],
    })
}

async fn database(dir: &std::path::Path, rows: usize) {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(dir.join("logs.db")).create_if_missing(true);
    let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
    sqlx::raw_sql(
        "create table if not exists logs (key text primary key, timestamp text, level text, message text, \
         tenant_id text, namespace text, flow_id text, task_id text, execution_id text, taskrun_id text, \
         attempt_number int, trigger_id text, execution_kind text, thread text)",
    )
    .execute(&pool)
    .await
    .unwrap();
    for row in 0..rows {
        sqlx::query(
            "insert into logs (key, timestamp, level, message) values (?, '2026-11-20T08:30:00Z', 'INFO', 'm')",
        )
        .bind(format!("k{row}"))
        .execute(&pool)
        .await
        .unwrap();
    }
    pool.close().await;
}

fn build_in(config: Value, registry: &Registry) -> Result<LogShipper, Error> {
    let config: ShipperConfig = serde_json::from_value(config).unwrap();
    config.build(registry, &BuildContext::default())
}

fn build(config: Value) -> Result<LogShipper, Error> {
    build_in(config, &registry())
}

/// Goal: each mistake is named, with where it is. Method: one mistake at a time in a configuration that works.
#[tokio::test]
async fn a_mistake_in_the_configuration_is_named_before_anything_is_read() {
    let dir = tempfile::tempdir().unwrap();
    database(dir.path(), 1).await;
    build(config(dir.path())).unwrap();
    let mistakes: [(&str, Value, &[&str]); 9] = [
        ("/exporters/0/type", json!("flie"), &["no exporter `flie`", "file", "exporter: archive"]),
        ("/source/type", json!("oracle"), &["no source `oracle`", "sqlite", "in: source"]),
        ("/source/path", json!("/nowhere/logs.db"), &["/nowhere/logs.db", "field: path", "in: source"]),
        ("/source/pth", json!("x"), &["unknown field `pth`", "in: source"]),
        ("/exporters/0/format", json!("xml"), &["`ion`", "`json`", "field: format", "exporter: archive"]),
        ("/exporters/0/max_lines_per_file", json!(0), &["at least 1", "field: max_lines_per_file"]),
        ("/exporters/0/id", json!("a/b"), &["`a/b` cannot be a lane's id"]),
        ("/offset_key", json!("../up"), &["`../up` cannot be an offset key"]),
        ("/byte_budget", json!(1000), &["use at least 65536", "field: byte_budget"]),
    ];
    for (path, wrong, words) in mistakes {
        let mut config = config(dir.path());
        let (parent, name) = path.rsplit_once('/').unwrap();
        config.pointer_mut(parent).unwrap()[name] = wrong;
        let error = build(config).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{path}");
        words.iter().for_each(|word| assert!(error.to_string().contains(word), "{path}: {error}"));
    }
}

/// Goal: what is wrong with a secret is said without saying it.
#[tokio::test]
async fn p12_a_missing_secret_is_named_and_one_of_the_wrong_shape_is_not_quoted() {
    let dir = tempfile::tempdir().unwrap();
    database(dir.path(), 1).await;
    let with = |auth: Value| {
        let mut config = config(dir.path());
        let exporter = json!({"id": "es", "type": "elasticsearch", "hosts": ["http://localhost:1"], "index": "logs", "auth": auth});
        config["exporters"][0] = exporter;
        build(config).unwrap_err().to_string()
    };
    let missing = with(json!({"api_key": {"env": "LOGSHIP_TEST_NOT_SET"}}));
    assert!(missing.contains("LOGSHIP_TEST_NOT_SET") && missing.contains("exporter: es"), "{missing}");
    for wrong in [json!({"api_key": {"valu": "hunter2"}}), json!({"api_key": ["hunter2"]}), json!("hunter2")] {
        let error = with(wrong);
        assert!(!error.contains("hunter2") && error.contains("auth"), "{error}");
    }
}

/// Goal: a run that cannot reach anything loses nothing. Method: the same records arrive once the server is there.
#[tokio::test]
async fn an_unreachable_server_and_a_missing_column_are_said_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    database(dir.path(), 5).await;
    let mut away = config(dir.path());
    away["exporters"][0] = json!({"id": "archive", "type": "elasticsearch", "hosts": ["http://127.0.0.1:1"],
        "index": "logs", "lane": {"chunk": 2, "retry": {"attempts_max": 2, "delay_initial_ms": 1}}});
    let report = build(away).unwrap().run_once().await.unwrap();
    let lane = report.lane("archive").unwrap();
    let LaneStatus::Stopped(error) = &lane.status else { panic!("{report}") };
    assert!(error.to_string().contains("127.0.0.1:1") && error.kind() == ErrorKind::Unavailable, "{error}");
    assert_eq!((lane.read, lane.accepted, lane.left), (5, 0, 5));

    let mut wrong = config(dir.path());
    wrong["source"]["mapping"] =
        json!({"table": "logs", "id": "key", "timestamp": "timestamp", "body": "text", "service_name": "s"});
    let error = build(wrong).unwrap().run_once().await.unwrap_err().to_string();
    assert!(error.contains("no column `text`") && error.contains("mapping.body"), "{error}");

    let report = build(config(dir.path())).unwrap().run_once().await.unwrap().require_complete().unwrap();
    assert_eq!(report.lane("archive").unwrap().accepted, 5);
}

/// Keeps what it is given.
#[derive(Debug)]
struct Kept(Arc<Mutex<Vec<String>>>);

#[async_trait]
impl Exporter for Kept {
    fn kind(&self) -> &'static str {
        "kept"
    }
    async fn export(&self, chunk: &Chunk) -> Result<Outcome, Error> {
        self.0.lock().unwrap().extend(chunk.records().map(|record| record.id.to_string()));
        Ok(Outcome::all_accepted(chunk.len()))
    }
}

/// Goal: an exporter that is not ours is configured like one of ours.
#[tokio::test]
async fn x7_a_third_party_registers_its_own_exporter() {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Fields {
        greeting: String,
    }
    let dir = tempfile::tempdir().unwrap();
    database(dir.path(), 3).await;
    let kept = Arc::new(Mutex::new(Vec::new()));
    let shared = Arc::clone(&kept);
    let mut registry = registry();
    registry.add_exporter("kept", move |fields, _| {
        let fields: Fields = logship::read_fields(fields)?;
        shared.lock().unwrap().push(fields.greeting);
        Ok(Kept(Arc::clone(&shared)))
    });
    let mut config = config(dir.path());
    config["exporters"][0] = json!({"id": "mine", "type": "kept", "greeting": "hello"});
    build_in(config.clone(), &registry).unwrap().run_once().await.unwrap().require_complete().unwrap();
    assert_eq!(kept.lock().unwrap().len(), 1 + 3);
    config["exporters"][0]["greting"] = json!("x");
    assert!(build_in(config, &registry).unwrap_err().to_string().contains("unknown field `greting`"));
}

/// Goal: what a destination refuses is kept, and can be shipped again. Method: a limit that one record passes.
#[tokio::test]
async fn p10_a_refused_record_goes_to_the_dead_letter_of_the_configuration() {
    #[derive(Debug)]
    struct Picky;
    #[async_trait]
    impl Exporter for Picky {
        fn kind(&self) -> &'static str {
            "picky"
        }
        async fn export(&self, chunk: &Chunk) -> Result<Outcome, Error> {
            let mut outcome = Outcome::builder(chunk.len());
            for (index, record) in chunk.records().enumerate() {
                match record.id.to_string().ends_with("k1") {
                    true => outcome.rejected(index, "mapper_parsing_exception", "no such day"),
                    false => outcome.accepted(index),
                }
            }
            Ok(outcome.build())
        }
    }
    let dir = tempfile::tempdir().unwrap();
    database(dir.path(), 3).await;
    let mut registry = registry();
    registry.add_exporter("picky", |_, _| Ok(Picky));
    let mut config = config(dir.path());
    config["exporters"][0] = json!({"id": "mine", "type": "picky",
        "dead_letter": {"type": "file", "dir": dir.path().join("dead"), "format": "json"}});
    let report = build_in(config, &registry).unwrap().run_once().await.unwrap().require_complete().unwrap();
    let lane = report.lane("mine").unwrap();
    assert_eq!((lane.accepted, lane.rejected, lane.dead_lettered), (2, 1, 1));
    let file = std::fs::read_dir(dir.path().join("dead")).unwrap().next().unwrap().unwrap().path();
    let letters = logship::DeadLetter::read_lines(&std::fs::read(file).unwrap()).unwrap();
    assert_eq!((letters[0].code.as_str(), letters[0].reason.as_str()), ("mapper_parsing_exception", "no such day"));
    assert!(letters[0].record.id.to_string().ends_with("k1"));
}
