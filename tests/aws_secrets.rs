//! A configuration that names secrets of AWS, and a key that is replaced under a running shipper. AWS is moto.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says why it fails by its panic")]

use std::sync::Arc;

use logship::config::{ConfigFile, Syntax};
use logship::secrets::{AwsConfig, AwsSecrets, Connection};
use logship::{BuildContext, ErrorKind, LaneStatus, RunReport, Timestamp, registry};
use logship_testkit::conformance::server;
use logship_testkit::strict::elasticsearch::{Credentials, StrictElasticsearch};
use serde_json::{Value, json};

/// An account of moto's, with names that no other run has.
struct Account {
    url: String,
    prefix: String,
}

impl Account {
    fn new() -> Option<Self> {
        let url = server("LOGSHIP_MOTO_URL")?;
        let prefix = format!("logship-{}-{}", std::process::id(), Timestamp::now().as_nanos());
        Some(Account { url, prefix })
    }

    async fn ask(&self, service: &str, target: &str, body: Value) {
        let client = Connection::default().client("ask moto", &BuildContext::default()).unwrap();
        let credential = format!("Credential=AKIDKIT/20261121/us-east-1/{service}/aws4_request");
        let request = client
            .post(&self.url)
            .header("x-amz-target", target)
            .header("content-type", "application/x-amz-json-1.1")
            .header("authorization", format!("AWS4-HMAC-SHA256 {credential}, SignedHeaders=host, Signature=0"))
            .body(body.to_string());
        let answer = request.send().await.unwrap();
        assert!(answer.status().is_success(), "{target}: {}", answer.text().await.unwrap());
    }

    async fn keep_password(&self, password: &str) {
        let login = json!({"username": "shipper", "password": password}).to_string();
        let parameter = json!({"Name": format!("/{}/login", self.prefix), "Value": login, "Type": "SecureString", "Overwrite": true});
        self.ask("ssm", "AmazonSSM.PutParameter", parameter).await;
    }

    fn secrets(&self) -> AwsSecrets {
        let credentials = json!({"static": {"access_key_id": "AKIDKIT", "secret_access_key": "hunter2-key"}});
        let aws = json!({"region": "us-east-1", "endpoint": self.url, "credentials": credentials});
        let aws: AwsConfig = serde_json::from_value(aws).unwrap();
        AwsSecrets::new(&aws, &Connection::default(), &BuildContext::default()).unwrap()
    }

    /// A lane to Elasticsearch, its password in the Parameter Store, and the hashes' key in Secrets Manager.
    fn file(&self, elasticsearch: &str, logs: &std::path::Path) -> ConfigFile {
        let text = json!({
            "source": {"type": "jsonl", "paths": [logs]},
            "offsets": {"type": "file", "dir": logs.with_file_name("offsets")},
            "lookback": "0s",
            "redaction": {
                "fields": [["user", "hash"]], "hash_key": {"secret": format!("secretsmanager:{}/hash", self.prefix)},
            },
            "exporters": [{
                "id": "search", "type": "elasticsearch", "hosts": [elasticsearch], "index": "logs",
                "auth": {"basic": {
                    "username": "shipper", "password": {"secret": format!("ssm:/{}/login#password", self.prefix)},
                }},
            }],
        });
        ConfigFile::parse(&text.to_string(), Syntax::Json).unwrap()
    }
}

fn accepted(report: &RunReport) -> u64 {
    assert!(report.is_complete(), "{report}");
    report.lanes[0].accepted
}

/// Goal: secrets that a file names are found before anything is built, and one that is replaced while the shipper lives is
/// found when the old one is not let in any more. Method: one shipper, three runs: with the first password, with the next,
/// and with one that the destination does not take.
#[tokio::test]
async fn a_secret_of_aws_is_found_and_found_again_when_it_was_replaced() {
    let Some(account) = Account::new() else { return };
    let elasticsearch = StrictElasticsearch::start().await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let logs = dir.path().join("logs.jsonl");
    let file = account.file(&elasticsearch.url(), &logs);
    let context = BuildContext::new(Arc::new(account.secrets()));
    let names: Vec<String> = file.config.secret_names().into_iter().collect();
    assert_eq!(
        names,
        [format!("secretsmanager:{}/hash", account.prefix), format!("ssm:/{}/login#password", account.prefix)]
    );

    account.keep_password("hunter2-first").await;
    elasticsearch.rotate_credentials(Credentials::basic("shipper", "hunter2-first"));
    let error = file.config.fetch_secrets(&context).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    let hash = json!({"Name": format!("{}/hash", account.prefix), "SecretString": "hunter2-hash"});
    account.ask("secretsmanager", "secretsmanager.CreateSecret", hash).await;
    file.config.fetch_secrets(&context).await.unwrap();
    let shipper = file.build(&registry(), &context).unwrap();
    let line =
        |text: &str| json!({"time": Timestamp::now().to_string(), "message": text, "user": "ada"}).to_string() + "\n";

    std::fs::write(&logs, line("first")).unwrap();
    assert_eq!(accepted(&shipper.run_once().await.unwrap()), 1);
    account.keep_password("hunter2-second").await;
    elasticsearch.rotate_credentials(Credentials::basic("shipper", "hunter2-second"));
    std::fs::write(&logs, line("first") + &line("second")).unwrap();
    assert_eq!(accepted(&shipper.run_once().await.unwrap()), 1, "without being built anew");

    elasticsearch.rotate_credentials(Credentials::basic("shipper", "hunter2-third"));
    std::fs::write(&logs, line("first") + &line("second") + &line("third")).unwrap();
    let report = shipper.run_once().await.unwrap();
    let LaneStatus::Stopped(error) = &report.lanes[0].status else { panic!("{report}") };
    assert_eq!(error.kind(), ErrorKind::Auth, "{error}");
    let shown = format!("{report} {report:?} {shipper:?} {context:?}");
    assert!(!shown.contains("hunter2"), "{shown}");
    let documents = format!("{:?}", elasticsearch.documents("logs"));
    assert!(elasticsearch.count("logs") == 2 && !documents.contains("\"ada\""), "{documents}");
}
