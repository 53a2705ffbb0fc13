//! Tokens of Entra, from a server that stands for it.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![cfg(feature = "azure")]

use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use logship_connect::Connection;
use logship_connect::azure::EntraCredentials;
use logship_connect::token::Tokens;
use logship_core::{BuildContext, Error, ErrorKind};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

const SCOPE: &str = "https://monitor.azure.com/.default";
const TENANT: &str = "72f988bf-86f1-41af-91ab-2d7cd011db47";

/// An authority with a certificate of its own, which answers each request with the next token, or with this status.
struct Entra {
    url: String,
    dir: tempfile::TempDir,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Entra {
    async fn start(status: u16) -> Self {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.pem"), made.cert.pem()).unwrap();
        let certificate = CertificateDer::from(made.cert.der().to_vec());
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&requests);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                let head = String::from_utf8(head).unwrap();
                let lower = head.to_lowercase();
                let length = lower.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
                let mut body = vec![0; length.parse().unwrap()];
                stream.read_exact(&mut body).await.unwrap();
                let number = {
                    let mut requests = kept.lock().unwrap();
                    requests.push(format!("{} {}", head.lines().next().unwrap(), String::from_utf8(body).unwrap()));
                    requests.len()
                };
                let text = match status {
                    200 => format!(r#"{{"token_type":"Bearer","expires_in":3599,"access_token":"eyJ0.{number}"}}"#),
                    _ => r#"{"error":"invalid_client","error_codes":[7000215],"error_description":"AADSTS7000215: Invalid client secret provided."}"#.to_owned(),
                };
                let answer = format!(
                    "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}",
                    text.len()
                );
                stream.write_all(answer.as_bytes()).await.unwrap();
                let _ = stream.shutdown().await;
            }
        });
        Entra { url, dir, requests }
    }

    fn tokens(&self, credentials: serde_json::Value) -> Result<Tokens, Error> {
        let credentials: EntraCredentials = serde_json::from_value(credentials).unwrap();
        credentials.tokens(SCOPE, &connection(self.dir.path()), &BuildContext::default())
    }

    fn client_secret(&self) -> serde_json::Value {
        serde_json::json!({"client_secret": {
            "tenant_id": TENANT, "client_id": "app", "client_secret": "hunter2hunter2", "authority": self.url,
        }})
    }
}

fn connection(dir: &Path) -> Connection {
    let mut connection = Connection::default();
    connection.ca_file = Some(dir.join("ca.pem"));
    connection.system_roots = false;
    connection.system_proxy = false;
    connection
}

#[tokio::test]
async fn a_client_secret_gets_one_token_for_many_requests_and_another_when_it_is_refused() {
    let entra = Entra::start(200).await;
    let tokens = entra.tokens(entra.client_secret()).unwrap();
    for _ in 0..3 {
        assert_eq!(tokens.token().await.unwrap().expose(), "eyJ0.1");
    }
    tokens.renew().await.unwrap();
    assert_eq!(tokens.token().await.unwrap().expose(), "eyJ0.2");
    let requests = entra.requests.lock().unwrap().clone();
    assert_eq!(requests.len(), 2);
    assert!(requests[0].starts_with(&format!("POST /{TENANT}/oauth2/v2.0/token ")), "{requests:?}");
    assert!(requests[0].contains("scope=https%3A%2F%2Fmonitor.azure.com%2F.default"), "{requests:?}");
    let said = format!("{tokens:?}");
    assert!(!said.contains("hunter2") && !said.contains("eyJ0"), "{said}");
}

/// Goal: a tenant and an application are read from where secrets are kept, as flows have them.
#[tokio::test]
async fn a_tenant_and_an_application_may_be_secrets() {
    let entra = Entra::start(200).await;
    let mut credentials = entra.client_secret();
    let file = entra.dir.path().join("tenant");
    std::fs::write(&file, TENANT).unwrap();
    credentials["client_secret"]["tenant_id"] = serde_json::json!({"file": file});
    assert_eq!(entra.tokens(credentials.clone()).unwrap().token().await.unwrap().expose(), "eyJ0.1");
    assert!(entra.requests.lock().unwrap()[0].starts_with(&format!("POST /{TENANT}/")));
    credentials["client_secret"]["client_id"] = serde_json::json!({"env": "LOGSHIP_TEST_NOT_SET"});
    let error = entra.tokens(credentials).unwrap_err();
    assert!(error.to_string().contains("credentials.client_secret.client_id"), "{error}");
}

#[tokio::test]
async fn workload_identity_shows_the_clusters_token() {
    let entra = Entra::start(200).await;
    let file = entra.dir.path().join("token");
    std::fs::write(&file, "cluster-token").unwrap();
    let credentials = serde_json::json!({"workload_identity": {
        "tenant_id": TENANT, "client_id": "app", "token_file": file, "authority": entra.url,
    }});
    assert_eq!(entra.tokens(credentials).unwrap().token().await.unwrap().expose(), "eyJ0.1");
    assert!(entra.requests.lock().unwrap()[0].contains("client_assertion=cluster-token"));
}

#[tokio::test]
async fn a_refusal_is_in_entras_words_and_is_asked_for_once() {
    let entra = Entra::start(401).await;
    let error = entra.tokens(entra.client_secret()).unwrap().token().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Auth, "{error}");
    assert!(error.to_string().contains("AADSTS7000215") && !format!("{error:?}").contains("hunter2"), "{error:?}");
    assert_eq!(entra.requests.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn an_entra_that_is_busy_or_not_there_may_answer_later() {
    let entra = Entra::start(503).await;
    let error = entra.tokens(entra.client_secret()).unwrap().token().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert_eq!(entra.requests.lock().unwrap().len(), 1);
    let mut nowhere = entra.client_secret();
    nowhere["client_secret"]["authority"] = "https://127.0.0.1:1".into();
    let error = entra.tokens(nowhere).unwrap().token().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
}

/// The process that has an environment of its own: asks whom that names.
#[tokio::test]
#[ignore = "is run by the tests below, as a process of its own"]
async fn child() {
    let Ok(expected) = std::env::var("LOGSHIP_EXPECTED") else { return };
    let mut connection = Connection::default();
    connection.headers.insert("x-gateway".to_owned(), "hunter2".into());
    let began = std::time::Instant::now();
    let tokens = EntraCredentials::Default.tokens(SCOPE, &connection, &BuildContext::default()).unwrap();
    let error = tokens.token().await.unwrap_err();
    let took = began.elapsed().as_secs();
    let found = format!("{:?} {} {error}", error.kind(), if took < 10 { "soon" } else { "late" });
    assert!(found.starts_with(&expected), "{found} after {took} s");
}

/// Whether a process with this environment gets this error.
async fn fails_with(environment: &[(&str, &str)], expected: &str) -> bool {
    let mut process = Command::new(std::env::current_exe().unwrap());
    process.args(["--exact", "child", "--ignored"]).env("LOGSHIP_EXPECTED", expected);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AZURE_") || name.starts_with("IDENTITY_")) {
        process.env_remove(name);
    }
    // Nobody is signed in to `az`.
    process.env("PATH", "").envs(environment.iter().copied());
    tokio::task::spawn_blocking(move || process.output().unwrap().status.success()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_of_the_environment_that_cannot_be_asked_now_may_be_asked_later() {
    let application = [
        ("AZURE_TENANT_ID", TENANT),
        ("AZURE_CLIENT_ID", "app"),
        ("AZURE_CLIENT_SECRET", "hunter2hunter2"),
        ("AZURE_AUTHORITY_HOST", "https://127.0.0.1:1"),
    ];
    assert!(fails_with(&application, "Unavailable").await);
    assert!(fails_with(&[], "Auth").await, "there is nobody");
}

/// Goal: what is behind managed identity in the chain is asked soon, and no proxy sees what is for the machine alone.
/// Method: an endpoint that never answers.
#[tokio::test(flavor = "multi_thread")]
async fn managed_identity_is_asked_without_proxy_and_headers_and_not_waited_for_long() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        // Until the other side has had enough.
        let _ = stream.read_u8().await;
        String::from_utf8(head).unwrap().to_lowercase()
    });
    let environment = [
        ("IDENTITY_ENDPOINT", url.as_str()),
        ("IDENTITY_HEADER", "own"),
        ("HTTP_PROXY", "http://127.0.0.1:1"),
        ("http_proxy", "http://127.0.0.1:1"),
    ];
    assert!(fails_with(&environment, "Unavailable soon").await);
    let head = asked.await.unwrap();
    assert!(head.contains("x-identity-header: own") && !head.contains("hunter2"), "{head}");
}

#[tokio::test]
async fn credentials_that_cannot_be_are_refused_before_anybody_is_asked() {
    let entra = Entra::start(200).await;
    for (field, value) in [
        ("tenant_id", serde_json::json!("a b")),
        ("client_id", serde_json::json!("")),
        ("client_secret", serde_json::json!("")),
        ("client_secret", serde_json::json!({"env": "LOGSHIP_TEST_NOT_SET"})),
        ("authority", serde_json::json!("http://host")),
    ] {
        let mut credentials = entra.client_secret();
        credentials["client_secret"][field] = value;
        let error = entra.tokens(credentials).unwrap_err();
        assert!(error.kind() == ErrorKind::Config && error.to_string().contains("credentials"), "{field}: {error}");
    }
    assert!(entra.requests.lock().unwrap().is_empty());
    assert!(serde_json::from_str::<EntraCredentials>(r#"{"managed_identity": {}}"#).is_ok());
    assert!(serde_json::from_str::<EntraCredentials>(r#"{"cli": {}}"#).is_ok());
    assert!(serde_json::from_str::<EntraCredentials>(r#""default""#).is_ok());
}
