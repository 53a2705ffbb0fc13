//! What the environment says to what asks AWS: keys, profiles, regions, and which log group is our own. Each in a process
//! of its own, as an environment belongs to a process.

#![allow(clippy::unwrap_used, reason = "a test says why it fails by its panic")]

use std::process::Command;

use logship::{BuildContext, registry};
use logship_testkit::strict::cloudwatch::StrictCloudWatch;
use serde_json::{Value, json};

/// The process that has the environment: lists the streams there are.
#[tokio::test]
#[ignore = "is run by the tests below, as a process of its own"]
async fn child() {
    let Ok(fields) = std::env::var("LOGSHIP_SOURCE") else { return };
    let fields = serde_json::from_str(&fields).unwrap();
    let source = registry().source("cloudwatch", fields, &BuildContext::default()).unwrap();
    let partitions = source.partitions().await.unwrap();
    let names: Vec<&str> = partitions.iter().map(|partition| partition.as_str()).collect();
    assert_eq!(names.join(","), std::env::var("LOGSHIP_EXPECTED").unwrap());
}

/// Whether a process with this environment finds these streams, and nothing of its own says otherwise.
async fn finds(aws: Value, environment: &[(&str, &str)], expected: &str) -> bool {
    let fields = json!({"log_group_prefixes": ["app/"], "requests_per_second": 100, "aws": aws});
    let mut process = Command::new(std::env::current_exe().unwrap());
    process.args(["--exact", "child", "--ignored"]).env("LOGSHIP_SOURCE", fields.to_string());
    process.env("LOGSHIP_EXPECTED", expected);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AWS_")) {
        process.env_remove(name);
    }
    process.env("AWS_EC2_METADATA_DISABLED", "true").envs(environment.iter().copied());
    tokio::task::spawn_blocking(move || process.output().unwrap().status.success()).await.unwrap()
}

async fn logs() -> StrictCloudWatch {
    let logs = StrictCloudWatch::start().await.unwrap();
    logs.require_access_key("AKIDKIT");
    logs.create("app/a", "one");
    logs.create("app/own", "one");
    logs
}

const BOTH: &str = "app/a:one,app/own:one";
const KEYS: [(&str, &str); 3] =
    [("AWS_ACCESS_KEY_ID", "AKIDKIT"), ("AWS_SECRET_ACCESS_KEY", "secret"), ("AWS_REGION", "eu-west-1")];

#[tokio::test(flavor = "multi_thread")]
async fn without_a_word_it_is_what_the_command_line_would_use() {
    let logs = logs().await;
    let url = logs.url();
    let endpoint = [("AWS_ENDPOINT_URL", url.as_str())];
    assert!(finds(json!({}), &[KEYS.as_slice(), &endpoint].concat(), BOTH).await);
    let others = [("AWS_ACCESS_KEY_ID", "AKIDOTHER"), ("AWS_SECRET_ACCESS_KEY", "x"), ("AWS_REGION", "eu-west-1")];
    assert!(!finds(json!({}), &[others.as_slice(), &endpoint].concat(), BOTH).await, "another key is not let in");
    assert!(!finds(json!({}), &[&KEYS[..2], &endpoint].concat(), BOTH).await, "no region is known");
    assert!(!finds(json!({}), &[&KEYS[2..], &endpoint].concat(), BOTH).await, "there is no key");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_that_is_named_goes_before_the_environment() {
    let (logs, dir) = (logs().await, tempfile::tempdir().unwrap());
    let (config, credentials) = (dir.path().join("config"), dir.path().join("credentials"));
    std::fs::write(&config, "[profile shipper]\nregion = eu-west-1\n").unwrap();
    let keys = "[shipper]\naws_access_key_id = AKIDKIT\naws_secret_access_key = secret\n";
    std::fs::write(&credentials, keys).unwrap();
    let environment = [
        ("AWS_CONFIG_FILE", config.to_str().unwrap()),
        ("AWS_SHARED_CREDENTIALS_FILE", credentials.to_str().unwrap()),
        ("AWS_ACCESS_KEY_ID", "AKIDOTHER"),
        ("AWS_SECRET_ACCESS_KEY", "x"),
    ];
    let aws = |credentials: Value| json!({"endpoint": logs.url(), "credentials": credentials});
    assert!(finds(aws(json!({"profile": {"name": "shipper"}})), &environment, BOTH).await);
    assert!(!finds(aws(json!({"profile": {"name": "absent"}})), &environment, BOTH).await);
    assert!(!finds(aws(json!("default")), &environment, BOTH).await, "the environment's key is not let in");
}

#[tokio::test(flavor = "multi_thread")]
async fn n6_the_log_group_of_the_function_that_runs_is_never_shipped() {
    let logs = logs().await;
    let own = [("AWS_LAMBDA_LOG_GROUP_NAME", "app/own")];
    let aws = json!({"endpoint": logs.url()});
    assert!(finds(aws.clone(), &KEYS, BOTH).await);
    assert!(finds(aws, &[KEYS.as_slice(), &own].concat(), "app/a:one").await);
}
