//! Tokens of Google, from a server that stands for its own.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![cfg(feature = "google")]

use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;
use logship_connect::Connection;
use logship_connect::google::{GoogleCredentials, Impersonation};
use logship_connect::token::Tokens;
use logship_core::{BuildContext, ErrorKind, SecretRef};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const SCOPE: &str = "https://www.googleapis.com/auth/logging.write";

/// Of nobody: made for these tests.
const PRIVATE_KEY: &str = include_str!("../../logship-testkit/src/strict/google/service_account.pem");

/// Answers each request with the next token, or with this status, and keeps the bodies.
async fn token_server(status: u16) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/token", listener.local_addr().unwrap());
    let bodies = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&bodies);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let head = String::from_utf8(head).unwrap().to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            let mut body = vec![0; length.parse().unwrap()];
            stream.read_exact(&mut body).await.unwrap();
            let number = {
                let mut bodies = kept.lock().unwrap();
                bodies.push(String::from_utf8(body).unwrap());
                bodies.len()
            };
            let text = match status {
                200 => format!(r#"{{"access_token":"ya29.{number}","expires_in":3599,"token_type":"Bearer"}}"#),
                _ => r#"{"error":"invalid_grant","error_description":"Invalid JWT Signature."}"#.to_owned(),
            };
            let answer = format!(
                "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}",
                text.len()
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (url, bodies)
}

fn key(url: &str) -> GoogleCredentials {
    let key = serde_json::json!({
        "type": "service_account", "project_id": "acme", "client_email": "logs@acme.iam.gserviceaccount.com",
        "private_key_id": "1", "private_key": PRIVATE_KEY, "token_uri": url,
    });
    GoogleCredentials::ServiceAccount(SecretRef::Value(key.to_string().into()))
}

#[tokio::test]
async fn a_service_account_gets_one_token_for_many_requests_and_another_when_it_is_refused() {
    let (url, bodies) = token_server(200).await;
    let tokens = key(&url).tokens(SCOPE, &BuildContext::default()).unwrap().unwrap();
    for _ in 0..3 {
        assert_eq!(tokens.token().await.unwrap().expose(), "ya29.1");
    }
    tokens.renew().await.unwrap();
    assert_eq!(tokens.token().await.unwrap().expose(), "ya29.2");
    let bodies = bodies.lock().unwrap().clone();
    assert_eq!(bodies.len(), 2);
    let (_, assertion) = bodies[0].split_once("assertion=").unwrap();
    let claims = assertion.split('.').nth(1).unwrap().replace("%3D", "=");
    let claims: serde_json::Value = serde_json::from_slice(&URL_SAFE.decode(claims).unwrap()).unwrap();
    assert_eq!((claims["scope"].as_str(), claims["aud"].as_str()), (Some(SCOPE), Some(url.as_str())));
    assert_eq!(claims["iss"], "logs@acme.iam.gserviceaccount.com");
    assert!(!format!("{tokens:?}").contains("ya29"));
}

#[tokio::test]
async fn a_refusal_may_pass_says_what_to_check_and_shows_no_key() {
    for status in [400, 503] {
        let (url, _) = token_server(status).await;
        let tokens = key(&url).tokens(SCOPE, &BuildContext::default()).unwrap().unwrap();
        let error = tokens.token().await.unwrap_err();
        assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Unavailable, true), "{error}");
        assert!(error.to_string().contains("check the service account"), "{error}");
        assert!(!format!("{error:?} {tokens:?}").contains("PRIVATE KEY") && !error.to_string().contains("assertion"));
    }
}

#[tokio::test]
async fn nobody_to_ask_may_be_there_later() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/token", listener.local_addr().unwrap());
    drop(listener);
    let tokens = key(&url).tokens(SCOPE, &BuildContext::default()).unwrap().unwrap();
    assert_eq!(tokens.token().await.unwrap_err().kind(), ErrorKind::Unavailable);
}

#[test]
fn credentials_are_read_from_a_configuration() {
    for (text, is_asked) in [(r#""default""#, true), (r#""metadata""#, true), (r#""none""#, false)] {
        let credentials: GoogleCredentials = serde_json::from_str(text).unwrap();
        assert_eq!(credentials.tokens(SCOPE, &BuildContext::default()).unwrap().is_some(), is_asked, "{text}");
    }
    let wrong: GoogleCredentials = serde_json::from_str(r#"{"service_account": "{\"hunter2\": 1}"}"#).unwrap();
    let error = wrong.tokens(SCOPE, &BuildContext::default()).unwrap_err();
    assert!(error.to_string().contains("credentials.service_account") && !format!("{error:?}").contains("hunter2"));
}

/// Answers each request as whoever gives out another account's tokens, and keeps what is asked.
async fn impersonation_server(status: u16) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&asked);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let head = String::from_utf8(head).unwrap();
            let lower = head.to_lowercase();
            let length = lower.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            let mut body = vec![0; length.parse().unwrap()];
            stream.read_exact(&mut body).await.unwrap();
            kept.lock().unwrap().push(format!("{head}{}", String::from_utf8(body).unwrap()));
            let text = match status {
                200 => r#"{"accessToken":"ya29.other","expireTime":"2999-01-01T00:00:00Z"}"#,
                _ => r#"{"error":{"code":403,"status":"PERMISSION_DENIED"}}"#,
            };
            let answer =
                format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}", text.len());
            stream.write_all(answer.as_bytes()).await.unwrap();
            let _ = stream.shutdown().await;
        }
    });
    (url, asked)
}

async fn impersonated(token_status: u16, status: u16) -> (Tokens, Arc<Mutex<Vec<String>>>) {
    let (token_url, _) = token_server(token_status).await;
    let (url, asked) = impersonation_server(status).await;
    let own = key(&token_url).tokens(Impersonation::SCOPE, &BuildContext::default()).unwrap().unwrap();
    let mut connection = Connection::default();
    connection.system_proxy = false;
    let account = "logs@other.iam.gserviceaccount.com";
    let impersonation = Impersonation::at(&url, own, account, &connection, &BuildContext::default()).unwrap();
    (Tokens::new(Arc::new(impersonation), format!("{SCOPE} openid")), asked)
}

#[tokio::test]
async fn another_accounts_token_is_asked_for_with_ours() {
    let (tokens, asked) = impersonated(200, 200).await;
    assert_eq!(tokens.token().await.unwrap().expose(), "ya29.other");
    assert_eq!(tokens.token().await.unwrap().expose(), "ya29.other");
    let asked = asked.lock().unwrap().clone();
    assert_eq!(asked.len(), 1);
    let path = "/v1/projects/-/serviceAccounts/logs@other.iam.gserviceaccount.com:generateAccessToken";
    assert!(asked[0].starts_with(&format!("POST {path} ")), "{asked:?}");
    assert!(asked[0].contains("Bearer ya29.1"), "{asked:?}");
    assert!(asked[0].ends_with(&format!(r#"{{"scope":["{SCOPE}","openid"]}}"#)), "{asked:?}");
}

#[tokio::test]
async fn an_account_that_is_not_ours_to_stand_for_is_said_so() {
    for (token_status, status, kind) in
        [(200, 403, ErrorKind::Auth), (200, 503, ErrorKind::Unavailable), (400, 200, ErrorKind::Unavailable)]
    {
        let (tokens, _) = impersonated(token_status, status).await;
        let error = tokens.token().await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        let said = format!("{error:?} {tokens:?}");
        assert!(!said.contains("ya29") && !said.contains("PRIVATE KEY"), "{said}");
    }
}
