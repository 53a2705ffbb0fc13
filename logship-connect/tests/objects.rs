//! What is between a store of objects and us, against a server that means harm.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![cfg(feature = "s3")]

use std::time::Duration;

use logship_connect::objects::object_store::ObjectStoreExt;
use logship_connect::objects::object_store::path::Path;
use logship_connect::objects::{Bucket, S3Bucket, S3Config, failure};
use logship_core::{BuildContext, ErrorKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// Goal: a refusal is read to a limit. Method: one without an end.
#[tokio::test]
async fn a_refusal_without_an_end_is_cut_off() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        stream.write_all(b"HTTP/1.1 403 x\r\ncontent-type: application/xml\r\n\r\n").await.unwrap();
        while stream.write_all(&[b'x'; 16 * 1024]).await.is_ok() {}
    });
    let mut config = S3Config::new("bucket");
    config.aws = serde_json::from_value(serde_json::json!({
        "region": "eu-west-1", "endpoint": url,
        "credentials": {"static": {"access_key_id": "AKID", "secret_access_key": "hunter2"}},
    }))
    .unwrap();
    let (bucket, _) = S3Bucket::new(&config, &BuildContext::default()).unwrap();
    let store = bucket.store().await.unwrap();
    let path = Path::from("a");
    let error = tokio::time::timeout(Duration::from_secs(60), store.get(&path)).await.unwrap().unwrap_err();
    assert_eq!(failure("get", error).kind(), ErrorKind::Auth);
}
