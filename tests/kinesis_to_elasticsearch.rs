//! CloudWatch Logs by way of a subscription and Kinesis to Elasticsearch and Logz.io: each event once and masked, what
//! cannot be read in a queue with the reason, and nothing of the log group that is left out. All of AWS is moto.

#![allow(clippy::unwrap_used, reason = "a test says why it fails by its panic")]

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use logship::config::ShipperConfig;
use logship::{BuildContext, DeadLetter, Timestamp, registry};
use logship_connect::Connection;
use logship_testkit::conformance::server;
use logship_testkit::strict::elasticsearch::StrictElasticsearch;
use logship_testkit::strict::logzio::StrictLogzio;
use serde_json::{Value, json};

/// Asks moto, which does not look at signatures.
async fn ask(url: &str, service: &str, target: &str, body: Value) -> Value {
    let client = Connection::default().client("ask moto", &BuildContext::default()).unwrap();
    let credential = format!("AKIDKIT/20261121/us-east-1/{service}/aws4_request");
    let request = client
        .post(url)
        .header("x-amz-target", target)
        .header("content-type", "application/x-amz-json-1.1")
        .header("authorization", format!("AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders=host, Signature=0"))
        .body(body.to_string());
    let answer = request.send().await.unwrap();
    let (status, text) = (answer.status(), answer.text().await.unwrap());
    assert!(status.is_success(), "{target}: {status} {text}");
    serde_json::from_str(&text).unwrap_or_default()
}

/// A stream with a log group that is subscribed to it, another whose events are to be left out, and a queue.
struct Account {
    url: String,
    name: String,
    queue_url: String,
}

impl Account {
    async fn new(url: String) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("logship-{}-{}-{number}", std::process::id(), Timestamp::now().as_millis());
        ask(&url, "kinesis", "Kinesis_20131202.CreateStream", json!({"StreamName": name, "ShardCount": 2})).await;
        let queue = ask(&url, "sqs", "AmazonSQS.CreateQueue", json!({"QueueName": name})).await;
        let account = Account { url, queue_url: queue["QueueUrl"].as_str().unwrap().to_owned(), name };
        for group in [account.group(), account.own_group()] {
            account.logs("CreateLogGroup", json!({"logGroupName": group})).await;
            account.logs("CreateLogStream", json!({"logGroupName": group, "logStreamName": "s"})).await;
            let stream = format!("arn:aws:kinesis:us-east-1:123456789012:stream/{}", account.name);
            let filter = json!({
                "logGroupName": group, "filterName": "f", "filterPattern": "", "destinationArn": stream,
                "roleArn": "arn:aws:iam::123456789012:role/r",
            });
            account.logs("PutSubscriptionFilter", filter).await;
        }
        account
    }

    fn group(&self) -> String {
        format!("{}/app", self.name)
    }

    fn own_group(&self) -> String {
        format!("{}/shipper", self.name)
    }

    async fn logs(&self, action: &str, body: Value) {
        ask(&self.url, "logs", &format!("Logs_20140328.{action}"), body).await;
    }

    async fn log(&self, group: &str, messages: impl IntoIterator<Item = String>) {
        let now = Timestamp::now().as_millis();
        let event = |message| json!({"timestamp": now, "message": message});
        let events: Vec<Value> = messages.into_iter().map(event).collect();
        self.logs("PutLogEvents", json!({"logGroupName": group, "logStreamName": "s", "logEvents": events})).await;
    }

    async fn put(&self, payload: &[u8]) {
        let record = json!({"StreamName": self.name, "Data": BASE64.encode(payload), "PartitionKey": "k"});
        ask(&self.url, "kinesis", "Kinesis_20131202.PutRecord", record).await;
    }

    /// All messages of the queue.
    async fn messages(&self) -> Vec<Value> {
        let mut messages = Vec::new();
        loop {
            let receive = json!({"QueueUrl": self.queue_url, "MaxNumberOfMessages": 10, "VisibilityTimeout": 43_200});
            let received = ask(&self.url, "sqs", "AmazonSQS.ReceiveMessage", receive).await;
            let Some(found) = received["Messages"].as_array().filter(|found| !found.is_empty()) else {
                return messages;
            };
            messages.extend(found.iter().map(|found| serde_json::from_str(found["Body"].as_str().unwrap()).unwrap()));
        }
    }
}

fn config(account: &Account, elasticsearch: &str, logzio: &str, offsets: &std::path::Path) -> ShipperConfig {
    let aws = json!({
        "region": "us-east-1", "endpoint": account.url,
        "credentials": {"static": {"access_key_id": "AKIDKIT", "secret_access_key": "hunter2-secret"}},
    });
    let is_broken = |exists: bool| json!({"filters": [{"attribute": "logship.parse_error", "exists": exists}]});
    let queue = json!({"type": "sqs", "queue_url": account.queue_url, "aws": aws});
    let mut broken = queue.clone();
    broken["id"] = "broken".into();
    broken["lane"] = json!({"filter": is_broken(true)});
    serde_json::from_value(json!({
        "source": {
            "type": "kinesis", "stream_name": account.name, "payload": "cloudwatch", "json": {}, "aws": aws,
            "exclude_log_groups": [account.own_group()], "requests_per_second": 1_000, "list_interval_secs": 0,
        },
        "offsets": {"type": "file", "dir": offsets},
        "lookback_secs": 0,
        "redaction": {"fields": [["card", "mask"]], "patterns": [["customer-[0-9]+", "mask"]]},
        "exporters": [
            {
                "id": "search", "type": "elasticsearch", "hosts": [elasticsearch], "index": "logs",
                "lane": {"filter": is_broken(false), "chunk": 100}, "dead_letter": queue,
            },
            {"id": "logzio", "type": "logzio", "token": "token", "url": logzio, "lane": {"filter": is_broken(false)}},
            broken,
        ],
    }))
    .unwrap()
}

/// Goal: N1 to N6. Method: two runs with new events between them, and a queue that is read to its end.
#[tokio::test]
async fn n1_each_event_of_a_subscription_arrives_once_and_masked_and_the_broken_lie_in_the_queue() {
    let Some(moto) = server("LOGSHIP_MOTO_URL") else { return };
    let account = Account::new(moto).await;
    let (search, logzio) = (StrictElasticsearch::start().await.unwrap(), StrictLogzio::start("token").await.unwrap());
    let offsets = tempfile::tempdir().unwrap();
    let broken = [&b"\x1f\x8b\x08 cut off"[..], b"no JSON", br#"{"messageType":"NEW_MESSAGE"}"#];
    for round in 0..2 {
        for batch in 0..10 {
            let message = |number: i32| {
                let what = format!("event {round} {batch} {number} of customer-{number}77");
                json!({"level": "WARN", "message": what, "card": format!("secret-card-{number}")}).to_string()
            };
            account.log(&account.group(), (0..30).map(message)).await;
            account.log(&account.own_group(), ["shipped".to_owned()]).await;
        }
        for payload in broken {
            account.put(payload).await;
        }
        let config = config(&account, &search.url(), &logzio.url(), offsets.path());
        let shipper = config.build(&registry(), &BuildContext::default()).unwrap();
        let report = shipper.run_once().await.unwrap();
        assert!(report.is_complete(), "{report}");
    }

    let expected: BTreeSet<String> =
        (0..600).map(|event| format!("event {} {} {} of ***", event / 300, event / 30 % 10, event % 30)).collect();
    let documents: Vec<Value> = search.documents("logs").into_values().collect();
    let logs: Vec<Value> = logzio.logs().into_iter().map(Value::Object).collect();
    for shipped in [&documents, &logs] {
        assert_eq!(shipped.len(), expected.len(), "each once");
        let messages: BTreeSet<String> =
            shipped.iter().map(|document| document["message"].as_str().unwrap().to_owned()).collect();
        assert_eq!(messages, expected);
        let text = serde_json::to_string(shipped).unwrap();
        assert!(!text.contains("secret-card") && !text.contains("customer-"), "masked");
        assert!(text.contains(&account.group()) && !text.contains(&account.own_group()), "its own group is left out");
    }
    assert_eq!(search.duplicates(), 0);

    let messages = account.messages().await;
    assert_eq!(messages.len(), 2 * broken.len());
    let reasons: BTreeSet<&str> =
        messages.iter().map(|message| message["attributes"]["logship.parse_error"].as_str().unwrap()).collect();
    assert_eq!(reasons.len(), broken.len(), "{reasons:?}");
    assert!(messages.iter().any(|message| message["body"] == "no JSON"), "the payload is there");
}

/// Goal: N5, of what Elasticsearch refuses. Method: one of three events has more fields than an index takes.
#[tokio::test]
async fn n5_what_the_destination_refuses_for_good_lies_in_the_queue_as_a_letter() {
    let Some(moto) = server("LOGSHIP_MOTO_URL") else { return };
    let account = Account::new(moto).await;
    let (search, logzio) = (StrictElasticsearch::start().await.unwrap(), StrictLogzio::start("token").await.unwrap());
    let offsets = tempfile::tempdir().unwrap();
    let fields = (0..1_200).map(|number| format!(r#","field{number}":"x""#)).collect::<String>();
    let events = [("one", ""), ("many", fields.as_str()), ("two", "")];
    let events = events.map(|(message, fields)| format!(r#"{{"message":"{message}"{fields}}}"#));
    account.log(&account.group(), events).await;
    let config = config(&account, &search.url(), &logzio.url(), offsets.path());
    let report = config.build(&registry(), &BuildContext::default()).unwrap().run_once().await.unwrap();
    assert!(report.is_complete(), "{report}");
    assert_eq!(search.count("logs"), 2);
    let messages = account.messages().await;
    let text: Vec<String> = messages.iter().map(Value::to_string).collect();
    let letters = DeadLetter::read_lines(text.join("\n").as_bytes()).unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!((letters[0].exporter.as_str(), letters[0].record.body.as_str()), ("search", Some("many")));
    assert!(!letters[0].reason.is_empty());
}
