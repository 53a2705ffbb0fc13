//! Secrets that AWS keeps, from moto, and what it says when it gives none.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![cfg(all(feature = "ssm", feature = "secretsmanager"))]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use aws_sdk_secretsmanager::primitives::Blob;
use aws_sdk_ssm::types::ParameterType;
use logship_connect::Connection;
use logship_connect::aws::secrets::AwsSecrets;
use logship_connect::aws::{Aws, AwsConfig};
use logship_core::{BuildContext, Error, ErrorKind, Secret, SecretProvider, SecretRef};
use logship_testkit::conformance::server;
use logship_testkit::proxy::{FaultProxy, ProxyFault};
use serde_json::json;

fn config(url: &str) -> AwsConfig {
    let credentials = json!({"static": {"access_key_id": "AKIDKIT", "secret_access_key": "hunter2-key"}});
    serde_json::from_value(json!({"region": "us-east-1", "endpoint": url, "credentials": credentials})).unwrap()
}

/// Knows one secret, of a name that AWS has nothing to do with.
#[derive(Debug)]
struct Own;

impl SecretProvider for Own {
    fn secret(&self, name: &str) -> Option<Secret> {
        (name == "OWN").then(|| "of the program".into())
    }
}

/// An account with names that no other run has, and a proxy in front of it.
struct Account {
    proxy: FaultProxy,
    parameters: aws_sdk_ssm::Client,
    secrets: aws_sdk_secretsmanager::Client,
    prefix: String,
}

impl Account {
    async fn new() -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let url = server("LOGSHIP_MOTO_URL")?;
        let since = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis();
        let prefix = format!("logship-{since}-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let aws = Aws::new(&config(&url), &Connection::default(), &BuildContext::default()).unwrap();
        let sdk = aws.sdk_config().await.unwrap();
        let (parameters, secrets) = (aws_sdk_ssm::Client::new(sdk), aws_sdk_secretsmanager::Client::new(sdk));
        Some(Account { proxy: FaultProxy::start(&url).await.unwrap(), parameters, secrets, prefix })
    }

    fn provider(&self) -> AwsSecrets {
        let own = BuildContext::new(Arc::new(Own));
        AwsSecrets::new(&config(&self.proxy.url()), &Connection::default(), &own).unwrap()
    }

    /// Keeps a parameter, and gives what it is called here.
    async fn parameter(&self, name: &str, kind: ParameterType, value: &str) -> String {
        let id = format!("/{}/{name}", self.prefix);
        let put = self.parameters.put_parameter().name(&id).r#type(kind).value(value).overwrite(true);
        put.send().await.unwrap();
        format!("ssm:{id}")
    }

    async fn secret(&self, name: &str, value: &str) -> String {
        let id = format!("{}/{name}", self.prefix);
        self.secrets.create_secret().name(&id).secret_string(value).send().await.unwrap();
        format!("secretsmanager:{id}")
    }

    async fn bytes(&self, name: &str, value: &[u8]) -> String {
        let id = format!("{}/{name}", self.prefix);
        self.secrets.create_secret().name(&id).secret_binary(Blob::new(value)).send().await.unwrap();
        format!("secretsmanager:{id}")
    }
}

async fn fetch(provider: &AwsSecrets, name: &str) -> Result<String, Error> {
    provider.fetch(&BTreeSet::from([name.to_owned()])).await?;
    Ok(provider.secret(name).unwrap().expose().to_owned())
}

#[tokio::test]
async fn each_way_to_keep_a_secret_is_read() {
    let Some(account) = Account::new().await else { return };
    let provider = account.provider();
    let text = account.parameter("text", ParameterType::String, "plain").await;
    let hidden = account.parameter("hidden", ParameterType::SecureString, "hunter2").await;
    let list = account.parameter("list", ParameterType::StringList, "a,b").await;
    let object = account.parameter("object", ParameterType::SecureString, r#"{"token": "hunter3"}"#).await;
    let secret = account.secret("secret", "hunter4").await;
    let login = account.secret("login", r#"{"username": "ada", "port": 9200}"#).await;
    let bytes = account.bytes("bytes", b"hunter5").await;
    for (name, expected) in [
        (text, "plain"),
        (hidden.clone(), "hunter2"),
        (format!("{hidden}:1"), "hunter2"),
        (list, "a,b"),
        (format!("{object}#token"), "hunter3"),
        (secret, "hunter4"),
        (format!("{login}#username"), "ada"),
        (format!("{login}#port"), "9200"),
        (bytes, "hunter5"),
        ("OWN".to_owned(), "of the program"),
    ] {
        assert_eq!(fetch(&provider, &name).await.unwrap(), expected, "{name}");
    }
    assert!(provider.secret("ssm:/not/fetched").is_none() && provider.secret("OTHER").is_none());
    let shown = format!("{provider:?} {provider:#?}");
    assert!(shown.contains("hidden") && !shown.contains("hunter") && !shown.contains("ada"), "{shown}");
}

/// Goal: whoever reads the error knows which secret it is about and what to do, and not what any secret is.
#[tokio::test]
async fn p12_what_cannot_be_had_is_told_apart() {
    let Some(account) = Account::new().await else { return };
    let provider = account.provider();
    let text = account.parameter("text", ParameterType::SecureString, "hunter2").await;
    let list = account.secret("list", r#"["hunter2"]"#).await;
    let object = account.secret("object", r#"{"a": {"b": "hunter2"}}"#).await;
    let bytes = account.bytes("bytes", b"hunter2\xff\x00").await;
    let deleted = account.secret("deleted", "hunter2").await;
    let id = deleted.strip_prefix("secretsmanager:").unwrap();
    account.secrets.delete_secret().secret_id(id).recovery_window_in_days(7).send().await.unwrap();
    for (name, kind, words) in [
        (format!("{text}-absent"), ErrorKind::NotFound, "no such parameter"),
        (format!("{text}:7"), ErrorKind::NotFound, "version"),
        (format!("{list}-absent"), ErrorKind::NotFound, "no such secret"),
        (deleted, ErrorKind::NotFound, "marked for deletion"),
        (format!("{text}#a"), ErrorKind::Config, "no object of JSON"),
        (format!("{list}#a"), ErrorKind::Config, "no object of JSON"),
        (format!("{object}#a"), ErrorKind::Config, "`a` is no text"),
        (format!("{object}#c"), ErrorKind::Config, "no field `c`"),
        (bytes, ErrorKind::Config, "base64"),
        ("ssm:".to_owned(), ErrorKind::Config, "no name"),
        ("secretsmanager:#a".to_owned(), ErrorKind::Config, "no name"),
    ] {
        let error = fetch(&provider, &name).await.unwrap_err();
        let said = format!("{error:?}");
        assert_eq!(error.kind(), kind, "{said}");
        assert!(said.contains(words) && said.contains(&name) && !said.contains("hunter2"), "{said}");
        assert!(!error.is_retryable(), "{said}");
    }
}

/// Goal: of what stands between, what may pass is told from what may not, for both stores.
#[tokio::test]
async fn refusals_say_what_right_is_missing_and_throttling_may_pass() {
    let Some(account) = Account::new().await else { return };
    let provider = account.provider();
    let names = [account.parameter("a", ParameterType::String, "x").await, account.secret("b", "x").await];
    for (name, right) in names.iter().zip(["ssm:GetParameter", "secretsmanager:GetSecretValue"]) {
        for (status, code, kind, words, may_pass) in [
            (400, "AccessDeniedException", ErrorKind::Auth, right, false),
            (400, "ThrottlingException", ErrorKind::Throttled, "slow down", true),
            (500, "InternalServerError", ErrorKind::Unavailable, "failed", true),
            (400, "ValidationException", ErrorKind::Config, "cannot have this name", false),
        ] {
            let said = json!({"__type": code, "message": "no"}).to_string();
            account.proxy.fail_next(1, ProxyFault::answer(status, said));
            let error = fetch(&provider, name).await.unwrap_err();
            assert_eq!((error.kind(), error.is_retryable()), (kind, may_pass), "{name} {code}: {error:?}");
            assert!(error.to_string().contains(words), "{name} {code}: {error}");
        }
        assert_eq!(fetch(&provider, name).await.unwrap(), "x", "and then it is there");
    }
    account.proxy.fail_next(2, ProxyFault::answer(400, json!({"__type": "ExpiredTokenException"}).to_string()));
    let error = fetch(&provider, &names[0]).await.unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Auth, false), "the key is the same: {error:?}");
}

/// Goal: whoever replaces the access key has nothing else to do, and a key that is not let in either is not tried for ever.
/// Method: the key is read from a file, which is written anew between two requests; answers are those that AWS gives.
#[tokio::test]
async fn a_key_that_was_replaced_is_read_again_once() {
    let proxy = FaultProxy::start("http://127.0.0.1:1").await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    let mut config = config(&proxy.url());
    config.credentials = serde_json::from_value(
        json!({"static": {"access_key_id": {"file": &file}, "secret_access_key": "hunter2-key"}}),
    )
    .unwrap();
    let ended = || ProxyFault::answer(400, json!({"__type": "ExpiredTokenException"}).to_string());
    for (name, kept, right) in [
        ("ssm:token", json!({"Parameter": {"Value": "x"}}), "ssm:GetParameter"),
        ("secretsmanager:token", json!({"SecretString": "x"}), "secretsmanager:GetSecretValue"),
    ] {
        std::fs::write(&file, "AKIDOLD").unwrap();
        let provider = AwsSecrets::new(&config, &Connection::default(), &BuildContext::default()).unwrap();
        let before = proxy.requests().len();
        proxy.fail_next(1, ProxyFault::answer(200, kept.to_string()));
        assert_eq!(fetch(&provider, name).await.unwrap(), "x");
        std::fs::write(&file, "AKIDNEW").unwrap();
        proxy.fail_next(1, ended());
        proxy.fail_next(1, ProxyFault::answer(200, kept.to_string()));
        assert_eq!(fetch(&provider, name).await.unwrap(), "x");
        let requests = proxy.requests();
        let signed = requests[before..].iter().map(|request| request.header("authorization").unwrap());
        let is_new: Vec<bool> = signed.map(|header| header.contains("AKIDNEW")).collect();
        assert_eq!(is_new, [false, false, true], "{name}");

        proxy.fail_next(2, ended());
        let error = fetch(&provider, name).await.unwrap_err();
        assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Auth, false), "{name}: {error:?}");
        assert_eq!(proxy.requests().len(), requests.len() + 2, "{name}");
        proxy.fail_next(1, ProxyFault::answer(400, json!({"__type": "AccessDeniedException"}).to_string()));
        let error = fetch(&provider, name).await.unwrap_err();
        assert!(error.to_string().contains(right), "{name}: {error}");
    }
}

/// Goal: what was replaced is found, and what cannot be had stays as it was. Method: one of three is replaced, and the
/// first request of the renewal is refused, whichever of the three it is about.
#[tokio::test]
async fn a_renewal_finds_what_was_replaced() {
    let Some(account) = Account::new().await else { return };
    let provider = account.provider();
    let mut names = Vec::new();
    for name in ["a", "b", "c"] {
        names.push(account.parameter(name, ParameterType::SecureString, "old").await);
        fetch(&provider, names.last().unwrap()).await.unwrap();
    }
    account.parameter("c", ParameterType::SecureString, "new").await;
    let value = |name: &str| {
        let context = SecretRef::Provider(name.to_owned());
        context.resolve("token", &provider).unwrap().expose().to_owned()
    };
    assert_eq!(value(&names[2]), "old", "nobody is asked until it is time");
    account.proxy.fail_next(1, ProxyFault::answer(400, json!({"__type": "ThrottlingException"}).to_string()));
    let error = provider.renew().await.unwrap_err();
    assert!(error.is_retryable() && error.to_string().contains(&names[0]), "{error}");
    assert_eq!((value(&names[0]), value(&names[2])), ("old".to_owned(), "new".to_owned()));

    let before = account.proxy.requests().len();
    let renewals = futures::future::join_all((0..8).map(|_| provider.renew())).await;
    assert!(renewals.iter().all(Result::is_ok));
    assert_eq!(account.proxy.requests().len() - before, names.len(), "one of them asked for all");
}
