//! CloudWatch Logs by way of a subscription and Kinesis to Elasticsearch and Logz.io: each event once and masked, what
//! cannot be read in a queue with the reason, and nothing of the log group that is left out. All of AWS is moto.

#![allow(clippy::unwrap_used, reason = "a test says why it fails by its panic")]

#[path = "../examples/kinesis_to_elasticsearch_lambda.rs"]
#[allow(dead_code, unreachable_pub)]
mod lambda;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use lambda::{Settings, event_with, handle};
use logship::config::ShipperConfig;
use logship::exporters::sqs::{AwsConfig, SqsConfig};
use logship::sources::jsonl::JsonlFields;
use logship::sources::kinesis::{KinesisSourceConfig, Payload};
use logship::{BuildContext, DeadLetter, Redact, RedactionConfig, Timestamp, registry};
use logship_connect::Connection;
use logship_testkit::conformance::server;
use logship_testkit::strict::Fault;
use logship_testkit::strict::elasticsearch::{Credentials, StrictElasticsearch};
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

fn aws(account: &Account) -> Value {
    json!({
        "region": "us-east-1", "endpoint": account.url,
        "credentials": {"static": {"access_key_id": "AKIDKIT", "secret_access_key": "hunter2-secret"}},
    })
}

fn config(account: &Account, elasticsearch: &str, logzio: &str, offsets: &std::path::Path) -> ShipperConfig {
    let aws = aws(account);
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

/// The settings of the Lambda function, with the key of Elasticsearch in the Parameter Store.
async fn settings(account: &Account, elasticsearch: &str) -> Settings {
    let aws_json = aws(account);
    let aws: AwsConfig = serde_json::from_value(aws_json.clone()).unwrap();
    let client = Connection::default().client("make a bucket", &BuildContext::default()).unwrap();
    let bucket = client.put(format!("{}/{}", account.url, account.name)).send().await.unwrap();
    assert!(bucket.status().is_success());
    let mut source = KinesisSourceConfig::new(&account.name);
    (source.payload, source.json, source.aws) = (Payload::Cloudwatch, Some(JsonlFields::default()), aws.clone());
    source.exclude_log_groups = vec![account.own_group()];
    let key = format!("ssm:/{}/key", account.name);
    let search = json!({"hosts": [elasticsearch], "index": "logs", "auth": {"api_key": {"secret": key}}});
    let mut queue = SqsConfig::new(&account.queue_url);
    queue.aws = aws.clone();
    let state = json!({"url": format!("s3://{}/state", account.name), "aws": aws_json});
    Settings {
        source,
        search: serde_json::from_value(search).unwrap(),
        secret_names: BTreeSet::from([key]),
        secrets: aws,
        queue,
        redaction: RedactionConfig { fields: vec![("card".to_owned(), Redact::Mask)], ..RedactionConfig::default() },
        state: serde_json::from_value(state).unwrap(),
    }
}

/// Puts a key into the Parameter Store, as Elasticsearch gives it out.
async fn keep_key(account: &Account, key: &str) {
    let name = format!("/{}/key", account.name);
    let value = BASE64.encode(format!("shipper:{key}"));
    let parameter = json!({"Name": name, "Value": value, "Type": "SecureString", "Overwrite": true});
    ask(&account.url, "ssm", "AmazonSSM.PutParameter", parameter).await;
}

/// Goal: a function that has too little time stops 30 s before that is up, and others go on where it stopped, each event
/// once and masked, and what is broken in the queue. Method: an Elasticsearch that takes its time for each request, so that
/// not all can be sent in the first run, and a key that is replaced before the second.
#[tokio::test(flavor = "multi_thread")]
async fn c7_a_run_of_the_function_stops_before_its_time_is_up_and_the_next_goes_on() {
    const BATCHES: usize = 60;
    const EVENTS: usize = 400;
    let Some(moto) = server("LOGSHIP_MOTO_URL") else { return };
    let (account, search) = (Account::new(moto).await, StrictElasticsearch::start().await.unwrap());
    keep_key(&account, "hunter2-first").await;
    search.rotate_credentials(Credentials::api_key("shipper", "hunter2-first"));
    let message = |number: usize| json!({"message": format!("event {number}"), "card": "secret-card"}).to_string();
    for batch in 0..BATCHES {
        account.log(&account.group(), (0..EVENTS).map(|number| message(batch * EVENTS + number))).await;
    }
    account.put(b"no JSON").await;
    let settings = settings(&account, &search.url()).await;
    // Three requests take longer than the time there is, and they have at most 5 000 of the 24 000 events each.
    search.fail_next(20, Fault::Slow(Duration::from_secs(4)));

    let began = Instant::now();
    let answer = handle(&settings, event_with(Duration::from_secs(38)).unwrap()).await.unwrap();
    let first = search.count("logs");
    assert_eq!(
        (answer["complete"].as_bool(), answer["accepted"].as_u64()),
        (Some(false), Some(first as u64)),
        "{answer}"
    );
    assert!(first > 0 && first < BATCHES * EVENTS, "{answer}");
    assert!(began.elapsed() < Duration::from_secs(38 - 15), "{:?}", began.elapsed());

    keep_key(&account, "hunter2-second").await;
    search.rotate_credentials(Credentials::api_key("shipper", "hunter2-second"));
    search.heal();
    let answer = handle(&settings, event_with(Duration::from_secs(600)).unwrap()).await.unwrap();
    let rest = (BATCHES * EVENTS - first) as u64;
    assert_eq!((answer["complete"].as_bool(), answer["accepted"].as_u64()), (Some(true), Some(rest)), "{answer}");
    let documents: Vec<Value> = search.documents("logs").into_values().collect();
    let messages: BTreeSet<&str> = documents.iter().map(|document| document["message"].as_str().unwrap()).collect();
    assert_eq!((documents.len(), messages.len(), search.duplicates()), (BATCHES * EVENTS, BATCHES * EVENTS, 0));
    assert!(!serde_json::to_string(&documents).unwrap().contains("secret-card"), "masked");
    let broken = account.messages().await;
    assert_eq!((broken.len(), &broken[0]["body"]), (1, &json!("no JSON")));
}

/// Goal: a function that cannot do its work fails, with words that say what is missing: a secret, and then the right one.
#[tokio::test]
async fn the_function_fails_where_it_cannot_go_on() {
    let Some(moto) = server("LOGSHIP_MOTO_URL") else { return };
    let (account, search) = (Account::new(moto).await, StrictElasticsearch::start().await.unwrap());
    search.rotate_credentials(Credentials::api_key("shipper", "hunter2-right"));
    let settings = settings(&account, &search.url()).await;
    let run = async || handle(&settings, event_with(Duration::from_secs(60)).unwrap()).await;
    let error = run().await.unwrap_err().to_string();
    assert!(error.contains(&format!("ssm:/{}/key", account.name)) && error.contains("no such parameter"), "{error}");
    keep_key(&account, "hunter2-wrong").await;
    assert_eq!(run().await.unwrap()["complete"], true, "there is nothing to ship yet");
    account.log(&account.group(), ["event".to_owned()]).await;
    let error = run().await.unwrap_err().to_string();
    assert!(error.contains("search: ") && error.contains("not let in") && !error.contains("hunter2"), "{error}");
    keep_key(&account, "hunter2-right").await;
    assert_eq!(run().await.unwrap()["accepted"], 1);
}
