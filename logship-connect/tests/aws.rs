//! Sessions of AWS, from a server that stands for its Security Token Service.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![cfg(feature = "aws")]

use std::process::Command;

use logship_connect::Connection;
use logship_connect::aws::{Aws, AwsConfig, ProvideCredentials};
use logship_core::{BuildContext, Error, ErrorKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// Answers each request with this.
async fn token_service(status: u16, text: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
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
            let length = text.len();
            let answer =
                format!("HTTP/1.1 {status} x\r\ncontent-type: text/xml\r\ncontent-length: {length}\r\n\r\n{text}");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    url
}

async fn assume(url: &str) -> Result<(), Error> {
    let config: AwsConfig = serde_json::from_value(serde_json::json!({
        "region": "eu-west-1",
        "credentials": {"static": {"access_key_id": "AKID", "secret_access_key": "hunter2"}},
        "role": {"arn": "arn:aws:iam::123456789012:role/logs", "endpoint": url},
    }))
    .unwrap();
    Aws::new(&config, &Connection::default(), &BuildContext::default())?.refresh().await
}

/// Goal: lanes stop for what has to be mended, and wait for what passes. Method: a role whose session is refused, in the
/// words of AWS, and one that is not to be had now.
#[tokio::test]
async fn a_session_that_is_refused_stops_and_one_that_is_not_to_be_had_now_is_waited_for() {
    const DENIED: &str = "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type>\
        <Code>AccessDenied</Code><Message>not authorized to perform: sts:AssumeRole</Message></Error></ErrorResponse>";
    const BUSY: &str = "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type>\
        <Code>Throttling</Code><Message>Rate exceeded</Message></Error></ErrorResponse>";
    let error = assume(&token_service(403, DENIED).await).await.unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Auth, false), "{error}");
    for (status, text) in [(400, BUSY), (503, "<html>busy</html>"), (500, "")] {
        let error = assume(&token_service(status, text).await).await.unwrap_err();
        assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Unavailable, true), "{error}");
    }
    let error = assume("http://127.0.0.1:1").await.unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Unavailable, true), "{error}");
    assert!(!format!("{error:?}").contains("hunter2"));
}

/// The process that has an environment of its own: has its keys replaced, and asks anew.
#[tokio::test]
#[ignore = "is run by the test below, as a process of its own"]
async fn child() {
    let (Ok(config), Ok(file)) = (std::env::var("LOGSHIP_AWS"), std::env::var("AWS_SHARED_CREDENTIALS_FILE")) else {
        return;
    };
    let config: AwsConfig = serde_json::from_str(&config).unwrap();
    let aws = Aws::new(&config, &Connection::default(), &BuildContext::default()).unwrap();
    let key = async || {
        let credentials = aws.credentials().await.unwrap().provide_credentials().await.unwrap();
        credentials.access_key_id().to_owned()
    };
    assert_eq!(key().await, "AKIDOLD");
    std::fs::write(file, shared_file("AKIDNEW")).unwrap();
    aws.refresh().await.unwrap();
    assert_eq!(key().await, "AKIDNEW");
}

fn shared_file(key: &str) -> String {
    ["default", "shipper"]
        .map(|name| format!("[{name}]\naws_access_key_id = {key}\naws_secret_access_key = hunter2\n"))
        .concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_were_replaced_in_the_shared_file_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("credentials");
    for credentials in [serde_json::json!("default"), serde_json::json!({"profile": {"name": "shipper"}})] {
        std::fs::write(&file, shared_file("AKIDOLD")).unwrap();
        let config = serde_json::json!({"region": "eu-west-1", "credentials": credentials});
        let mut process = Command::new(std::env::current_exe().unwrap());
        process.args(["--exact", "child", "--ignored"]).env("LOGSHIP_AWS", config.to_string());
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AWS_")) {
            process.env_remove(name);
        }
        process.env("AWS_EC2_METADATA_DISABLED", "true").env("AWS_SHARED_CREDENTIALS_FILE", &file);
        process.env("AWS_CONFIG_FILE", dir.path().join("absent"));
        let output = tokio::task::spawn_blocking(move || process.output().unwrap()).await.unwrap();
        assert!(output.status.success(), "{config}: {}", String::from_utf8_lossy(&output.stdout));
    }
}
