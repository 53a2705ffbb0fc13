//! The stand-ins for Cloud Logging and Azure Monitor, seen by a client that knows nothing but HTTP.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use logship_core::Timestamp;
use logship_testkit::strict::azure_monitor::StrictAzureMonitor;
use logship_testkit::strict::gcp_logging::StrictGcpLogging;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded";

/// Sends one request over a connection of its own, and gives the status and the body.
async fn send(url: &str, path: &str, token: &str, content_type: &str, body: &[u8]) -> (u16, Value) {
    let mut stream = TcpStream::connect(url.trim_start_matches("http://")).await.unwrap();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: strict\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: {content_type}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body).await.unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    let status = String::from_utf8_lossy(&bytes[9..12]).parse().unwrap();
    (status, serde_json::from_slice(&bytes[end + 4..]).unwrap_or(Value::Null))
}

fn now() -> String {
    let mut text = Vec::new();
    Timestamp::now().write_rfc3339(&mut text);
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn azure_monitor_takes_what_its_documents_allow_and_nothing_else() {
    let server = StrictAzureMonitor::start().await.unwrap();
    let token = server.token();
    let path = format!("/dataCollectionRules/{}/streams/{}", server.rule_id(), server.stream_name());
    let usual = format!("{path}?api-version=2023-01-01");
    let row = json!([{"TimeGenerated": now(), "Message": "m"}]).to_string();
    let large = |bytes: usize| {
        let beside = json!([{"Message": ""}]).to_string().len();
        json!([{"Message": "x".repeat(bytes - beside)}]).to_string()
    };
    for (path, token, content_type, body, expected) in [
        (&*usual, &*token, JSON, row.clone(), 204),
        (&usual, "eyJ0.other", JSON, row.clone(), 401),
        (&path, &token, JSON, row.clone(), 400),
        (&usual.replace("dcr-", "dcr-0"), &token, JSON, row.clone(), 404),
        (&usual.replace("Custom-", "Custom-0"), &token, JSON, row.clone(), 400),
        (&usual, &token, "text/plain", row.clone(), 415),
        (&usual, &token, JSON, "{}".to_owned(), 400),
        (&usual, &token, JSON, "[1]".to_owned(), 400),
        (&usual, &token, JSON, large(1_000_000), 204),
        (&usual, &token, JSON, large(1_000_001), 413),
    ] {
        let (status, _) = send(&server.url(), path, token, content_type, body.as_bytes()).await;
        assert_eq!(status, expected, "{path} {content_type}");
    }
    assert_eq!(server.rows().len(), 2);
    let spoilt = json!([{"TimeGenerated": "2001-01-01T00:00:00Z", "Other": 1, "Message": 7}]).to_string();
    assert_eq!(send(&server.url(), &usual, &token, JSON, spoilt.as_bytes()).await.0, 204);
    let spoiled = server.spoiled();
    assert_eq!((spoiled.undeclared, spoiled.types, spoiled.cut_off, spoiled.retimed), (1, 1, 1, 2));
    server.expire_tokens();
    assert_eq!(send(&server.url(), &usual, &token, JSON, row.as_bytes()).await.0, 401);
}

#[tokio::test]
async fn entra_gives_a_token_to_who_knows_the_secret() {
    let server = StrictAzureMonitor::start().await.unwrap();
    let known = server.client_secret("https://x")["client_secret"].clone();
    let field = |name: &str| known[name].as_str().unwrap().to_owned();
    let path = format!("/{}/oauth2/v2.0/token", field("tenant_id"));
    let form = format!(
        "grant_type=client_credentials&client_id={}&client_secret={}&scope=https%3A%2F%2Fmonitor.azure.com%2F.default",
        field("client_id"),
        field("client_secret").replace('~', "%7E")
    );
    for (form, expected) in [
        (form.clone(), 200),
        (form.replace("secret&", "wrong&"), 401),
        (form.replace("client_credentials", "password"), 400),
        (form.replace("monitor", "storage"), 400),
        (form.replace("0a1b2c3d", "00000000"), 400),
    ] {
        assert_eq!(send(&server.url(), &path, "", FORM, form.as_bytes()).await.0, expected, "{form}");
    }
    assert_eq!(server.tokens_given(), 1);
}

#[tokio::test]
async fn google_lets_nobody_in_without_a_signature_of_the_account() {
    let server = StrictGcpLogging::start().await.unwrap();
    let write = json!({"logName": "projects/acme/logs/x", "resource": {"type": "global"},
        "entries": [{"textPayload": "m"}]});
    let (status, said) = send(&server.url(), "/v2/entries:write", "ya29.1", JSON, write.to_string().as_bytes()).await;
    assert_eq!((status, said["error"]["status"].as_str()), (401, Some("UNAUTHENTICATED")));
    let grant = "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer";
    // {"alg":"RS256","typ":"JWT"} and {}, with no signature of anybody.
    let forged = "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9.e30.AAAA";
    for (form, error) in [
        (format!("{grant}&assertion={forged}"), "invalid_grant"),
        (format!("{grant}&assertion=none"), "invalid_grant"),
        (format!("grant_type=password&assertion={forged}"), "unsupported_grant_type"),
    ] {
        let (status, said) = send(&server.url(), "/token", "", FORM, form.as_bytes()).await;
        assert_eq!((status, said["error"].as_str()), (400, Some(error)), "{form}");
    }
    assert_eq!((server.tokens_given(), server.entries().len()), (0, 0));
}
