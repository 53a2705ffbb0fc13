//! The stand-in for Elasticsearch, seen by a client that knows nothing but HTTP.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::io::{self, Write};
use std::time::Duration;

use base64::Engine;
use logship_testkit::strict::elasticsearch::{Block, Credentials, StrictElasticsearch};
use logship_testkit::strict::{Fault, Items};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const STREAM: &str = "/logs-app-default/_bulk";

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// The reason of an error of the whole request.
    fn reason(&self) -> String {
        self.json()["error"]["reason"].as_str().unwrap_or_default().to_owned()
    }

    /// Status and error type of each item.
    fn items(&self) -> Vec<(u64, String)> {
        let fate = |item: &Value| {
            let item = item.as_object().unwrap().values().next().unwrap();
            (item["status"].as_u64().unwrap(), item["error"]["type"].as_str().unwrap_or_default().to_owned())
        };
        self.json()["items"].as_array().expect("items").iter().map(fate).collect()
    }
}

/// Sends one request over a connection of its own. An answer that breaks off is an error.
async fn send(
    server: &StrictElasticsearch,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(server.url().trim_start_matches("http://")).await?;
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: strict\r\nConnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body).await?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await?;
    let broken = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").ok_or_else(broken)?;
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    let body = bytes[end + 4..].to_vec();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    if length.is_some_and(|length: usize| length != body.len()) {
        return Err(broken());
    }
    Ok(Answer { status: head[9..12].parse().map_err(|_| broken())?, head, body })
}

async fn bulk(server: &StrictElasticsearch, path: &str, body: &str) -> io::Result<Answer> {
    send(server, "POST", path, &[("Content-Type", "application/x-ndjson")], body.as_bytes()).await
}

/// One `create` with a time stamp for each id.
fn creates(ids: &[&str]) -> String {
    let line = |id: &&str| {
        format!("{{\"create\":{{\"_id\":\"{id}\"}}}}\n{{\"@timestamp\":\"2026-11-20T08:30:00Z\",\"message\":\"m\"}}\n")
    };
    ids.iter().map(line).collect()
}

async fn start() -> StrictElasticsearch {
    StrictElasticsearch::start().await.unwrap()
}

fn stored() -> (u64, String) {
    (201, String::new())
}

#[tokio::test]
async fn what_is_created_can_be_read_back_and_is_not_created_twice() {
    let server = start().await;
    let first = bulk(&server, STREAM, &creates(&["a", "b"])).await.unwrap();
    assert_eq!(first.items(), [stored(), stored()]);
    assert_eq!(first.json()["errors"], json!(false));
    let again = bulk(&server, STREAM, &creates(&["b", "c"])).await.unwrap();
    assert_eq!(again.status, 200);
    assert_eq!(again.items(), [(409, "version_conflict_engine_exception".to_owned()), stored()]);
    assert_eq!(again.json()["errors"], json!(true));
    assert_eq!(server.count("logs-app-default"), 3);
    assert_eq!(server.duplicates(), 1);
    assert_eq!(server.documents("logs-app-default")["a"]["message"], json!("m"));

    let count = send(&server, "GET", "/logs-app-default/_count", &[], b"").await.unwrap();
    assert_eq!(count.json()["count"], json!(3));
    let found = send(&server, "GET", "/logs-app-default/_search?from=1&size=1", &[], b"").await.unwrap();
    assert_eq!(found.json()["hits"]["total"]["value"], json!(3));
    assert_eq!(found.json()["hits"]["hits"][0]["_id"], json!("b"));
    let seen = server.requests();
    assert_eq!((seen[0].items, seen[0].stored, seen[0].status), (2, 2, Some(200)));
    assert_eq!((seen[1].items, seen[1].stored, seen[1].duplicates), (2, 1, 1));
}

#[tokio::test]
async fn an_id_is_new_again_behind_a_rollover() {
    let server = start().await;
    bulk(&server, STREAM, &creates(&["a"])).await.unwrap();
    server.roll_over("logs-app-default");
    assert_eq!(bulk(&server, STREAM, &creates(&["a"])).await.unwrap().items(), [stored()]);
    assert_eq!(server.count("logs-app-default"), 2);
    assert_eq!(server.documents("logs-app-default").len(), 1);
}

#[tokio::test]
async fn a_data_stream_takes_creates_with_a_time_stamp_only() {
    let server = start().await;
    let body = "{\"index\":{\"_id\":\"a\"}}\n{\"@timestamp\":\"2026-11-20T08:30:00Z\"}\n\
                {\"create\":{\"_id\":\"b\"}}\n{\"message\":\"no time\"}\n\
                {\"create\":{\"_id\":\"c\"}}\n{\"@timestamp\":\"2026-11-20 08:30:00\"}\n\
                {\"create\":{\"_id\":\"d\"}}\n{\"@timestamp\":\n\
                {\"create\":{\"_id\":\"e\"}}\n{\"@timestamp\":1795163400123}\n";
    let answer = bulk(&server, STREAM, body).await.unwrap();
    let unparsable = (400, "document_parsing_exception".to_owned());
    let wrong_op = (400, "illegal_argument_exception".to_owned());
    assert_eq!(answer.items(), [wrong_op, unparsable.clone(), unparsable.clone(), unparsable, stored()]);
    let item = &answer.json()["items"][2]["create"];
    assert_eq!(item["error"]["caused_by"]["type"], json!("illegal_argument_exception"));
    assert_eq!(item["failure_store"], json!("not_enabled"));
    assert_eq!(server.count("logs-app-default"), 1);
}

#[tokio::test]
async fn a_failure_store_answers_success_for_what_it_could_not_index() {
    let server = start().await;
    server.failure_store(true);
    let body = creates(&["a"]) + "{\"create\":{\"_id\":\"b\"}}\n{\"@timestamp\":\"soon\"}\n";
    let answer = bulk(&server, STREAM, &body).await.unwrap();
    assert_eq!(answer.items(), [stored(), stored()]);
    assert_eq!(answer.json()["errors"], json!(false));
    assert_eq!(answer.json()["items"][1]["create"]["failure_store"], json!("used"));
    assert_eq!(answer.json()["items"][0]["create"].get("failure_store"), None);
    assert_eq!(server.count("logs-app-default"), 1);
    assert_eq!(server.failed_documents("logs-app-default")[0]["document"]["id"], json!("b"));
}

#[tokio::test]
async fn mappings_are_enforced() {
    let server = start().await;
    let mappings = json!({"mappings": {"dynamic": "strict", "properties": {
        "n": {"type": "long"}, "k": {"type": "keyword"}, "at": {"type": "date"},
    }}});
    let json = [("Content-Type", "application/json")];
    let body = mappings.to_string();
    assert_eq!(send(&server, "PUT", "/plain", &json, body.as_bytes()).await.unwrap().status, 200);
    let again = send(&server, "PUT", "/plain", &json, body.as_bytes()).await.unwrap();
    assert_eq!(again.json()["error"]["type"], json!("resource_already_exists_exception"));

    let documents = [
        json!({"n": 1, "k": "x", "at": "2026-11-20"}),
        json!({"n": "seven"}),
        json!({"other": 1}),
        json!({"k": "x".repeat(32_767)}),
        json!({"at": "20/Nov/2026"}),
        json!({"k": {"deep": 1}}),
    ];
    let body: String = documents.iter().map(|document| format!("{{\"create\":{{}}}}\n{document}\n")).collect();
    let kinds: Vec<String> =
        bulk(&server, "/plain/_bulk", &body).await.unwrap().items().into_iter().map(|(_, kind)| kind).collect();
    assert_eq!(
        kinds,
        [
            "",
            "document_parsing_exception",
            "strict_dynamic_mapping_exception",
            "illegal_argument_exception",
            "document_parsing_exception",
            "document_parsing_exception",
        ]
    );
    assert_eq!(server.count("plain"), 1);
}

#[tokio::test]
async fn an_index_has_a_thousand_fields_at_most() {
    let server = start().await;
    let document = |from: usize| {
        let fields: Vec<String> = (from..from + 600).map(|number| format!("\"f{number}\":1")).collect();
        format!("{{\"index\":{{\"_id\":\"{from}\"}}}}\n{{{}}}\n", fields.join(","))
    };
    let answer = bulk(&server, "/wide/_bulk", &(document(0) + &document(600) + &document(0))).await.unwrap();
    assert_eq!(answer.items(), [stored(), (400, "illegal_argument_exception".to_owned()), (200, String::new())]);
    assert!(answer.json()["items"][1]["index"]["error"]["reason"].as_str().unwrap().contains("total fields [1000]"));
}

#[tokio::test]
async fn a_broken_request_stores_nothing() {
    let server = start().await;
    let good = creates(&["a"]);
    for (body, reason) in [
        (good.trim_end().to_owned(), "terminated by a newline"),
        (format!("{good}{{\"create\":{{\"_type\":\"_doc\"}}}}\n{{}}\n"), "unknown parameter [_type]"),
        (format!("{good}{{\"upsert\":{{}}}}\n{{}}\n"), "but found [upsert]"),
        (format!("{good}nonsense\n{{}}\n"), "expected"),
        ("\n".to_owned(), "no requests added"),
    ] {
        let answer = bulk(&server, STREAM, &body).await.unwrap();
        assert_eq!(answer.status, 400, "{body}");
        assert!(answer.reason().contains(reason), "{}", answer.reason());
        assert_eq!(answer.json()["error"]["root_cause"][0]["reason"], json!(answer.reason()));
    }
    assert!(bulk(&server, "/_bulk", &good).await.unwrap().reason().contains("index is missing"));
    assert_eq!(server.count("logs-app-default"), 0);
}

#[tokio::test]
async fn headers_and_sizes_are_checked() {
    let server = start().await;
    let body = creates(&["a"]);
    let status = async |headers: &[(&str, &str)], body: &[u8]| {
        send(&server, "POST", STREAM, headers, body).await.unwrap().status
    };
    assert_eq!(status(&[("Content-Type", "text/plain")], body.as_bytes()).await, 406);
    assert_eq!(status(&[], body.as_bytes()).await, 406);
    let compatible = "application/vnd.elasticsearch+x-ndjson;compatible-with=8";
    assert_eq!(status(&[("Content-Type", compatible)], body.as_bytes()).await, 200);
    let old = "application/vnd.elasticsearch+x-ndjson;compatible-with=7";
    assert_eq!(status(&[("Content-Type", old)], body.as_bytes()).await, 406);

    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(creates(&["b"; 100]).as_bytes()).unwrap();
    let packed = gzip.finish().unwrap();
    let json = ("Content-Type", "application/x-ndjson");
    assert_eq!(status(&[json, ("Content-Encoding", "zstd")], &packed).await, 400);
    assert_eq!(status(&[json, ("Content-Encoding", "gzip")], b"not gzip\n").await, 400);
    assert_eq!(status(&[json, ("Content-Encoding", "gzip")], &packed).await, 200);
    // Small enough when packed, too large when unpacked; then too large as it is.
    server.max_content_length(1_000);
    assert!(packed.len() < 1_000);
    assert_eq!(status(&[json, ("Content-Encoding", "gzip")], &packed).await, 413);
    assert_eq!(status(&[json], &[b' '; 1_001]).await, 413);
    assert_eq!(server.count("logs-app-default"), 2);
}

#[tokio::test]
async fn only_the_present_credentials_are_let_in() {
    let server = start().await;
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let ask = async |authorization: &str| {
        send(&server, "GET", "/", &[("Authorization", authorization)], b"").await.unwrap().status
    };
    server.rotate_credentials(Credentials::basic("elastic", "hunter2"));
    let (basic, key) = (format!("Basic {}", encode("elastic:hunter2")), format!("ApiKey {}", encode("id:key")));
    assert_eq!((ask(&basic).await, ask(&key).await), (200, 401));
    server.rotate_credentials(Credentials::api_key("id", "key"));
    assert_eq!((ask(&basic).await, ask(&key).await), (401, 200));
    let none = send(&server, "GET", "/", &[], b"").await.unwrap();
    assert_eq!(none.json()["error"]["type"], json!("security_exception"));
    assert!(none.head.contains("www-authenticate: apikey"), "{}", none.head);
    assert!(!format!("{server:?}").contains("hunter2"));
}

#[tokio::test]
async fn blocked_and_missing_indices_refuse_each_item() {
    let server = start().await;
    bulk(&server, "/plain/_bulk", &creates(&["a"])).await.unwrap();
    server.block("plain", Some(Block::FloodStage));
    let blocked = "cluster_block_exception".to_owned();
    assert_eq!(bulk(&server, "/plain/_bulk", &creates(&["b"])).await.unwrap().items(), [(429, blocked.clone())]);
    server.block("plain", Some(Block::ReadOnly));
    assert_eq!(bulk(&server, "/plain/_bulk", &creates(&["b"])).await.unwrap().items(), [(403, blocked)]);
    server.block("plain", None);
    assert_eq!(bulk(&server, "/plain/_bulk", &creates(&["b"])).await.unwrap().items(), [stored()]);

    let missing = (404, "index_not_found_exception".to_owned());
    let only_streams = "/other/_bulk?require_data_stream=true";
    assert_eq!(bulk(&server, only_streams, &creates(&["a"])).await.unwrap().items()[0], missing);
    server.auto_create(false);
    assert_eq!(bulk(&server, STREAM, &creates(&["a"])).await.unwrap().items(), [missing]);
    let named = send(&server, "PUT", "/_data_stream/logs-app-default", &[], b"").await.unwrap();
    assert_eq!(named.status, 200);
    assert_eq!(bulk(&server, STREAM, &creates(&["a"])).await.unwrap().items(), [stored()]);
}

#[tokio::test]
async fn filter_path_makes_answers_small() {
    let server = start().await;
    let path = format!("{STREAM}?filter_path=errors,items.*.error,items.*.status");
    bulk(&server, &path, &creates(&["a"])).await.unwrap();
    let answer = bulk(&server, &path, &creates(&["a", "b"])).await.unwrap().json();
    assert_eq!(answer["errors"], json!(true));
    assert_eq!(answer["items"][1], json!({"create": {"status": 201}}));
    assert_eq!(answer["items"][0]["create"]["error"]["type"], json!("version_conflict_engine_exception"));
    assert_eq!(answer.get("took"), None);
}

#[tokio::test]
async fn other_addresses_and_methods_are_errors() {
    let server = start().await;
    for (method, path, status) in
        [("GET", "/_nodes", 404), ("PATCH", "/_bulk", 405), ("GET", "/absent/_count", 404), ("PUT", "/Upper", 400)]
    {
        let answer = send(&server, method, path, &[], b"").await.unwrap();
        assert_eq!(answer.status, status, "{method} {path}");
        assert_eq!(answer.json()["status"], json!(status));
        assert!(answer.json()["error"]["type"].is_string());
    }
    let banner = send(&server, "GET", "/", &[], b"").await.unwrap();
    assert!(banner.head.contains("x-elastic-product: elasticsearch"));
    assert_eq!(banner.json()["version"]["number"], json!("9.2.0"));
}

#[tokio::test]
async fn planned_faults_come_in_order_and_then_end() {
    let server = start().await;
    server.fail_next(1, Fault::status_after(429, "7"));
    server.fail_next(1, Fault::ProxyPage(502));
    server.fail_next(1, Fault::DropUnread);
    server.fail_next(1, Fault::Busy(Items::At(vec![1])));
    let body = creates(&["a", "b"]);
    let busy = bulk(&server, STREAM, &body).await.unwrap();
    assert_eq!(busy.status, 429);
    assert!(busy.head.contains("retry-after: 7"), "{}", busy.head);
    let page = bulk(&server, STREAM, &body).await.unwrap();
    assert_eq!((page.status, page.json()), (502, Value::Null));
    bulk(&server, STREAM, &body).await.expect_err("the connection was closed");
    assert_eq!(server.count("logs-app-default"), 0);
    let partly = bulk(&server, STREAM, &body).await.unwrap();
    assert_eq!(partly.items(), [stored(), (429, "es_rejected_execution_exception".to_owned())]);
    assert_eq!(bulk(&server, STREAM, &body).await.unwrap().status, 200);
    assert_eq!(server.count("logs-app-default"), 2);
}

#[tokio::test]
async fn a_lost_and_a_truncated_answer_were_stored() {
    let server = start().await;
    server.fail_next(1, Fault::LoseAnswer);
    server.fail_next(1, Fault::TruncateAnswer);
    bulk(&server, STREAM, &creates(&["a"])).await.expect_err("the answer is lost");
    bulk(&server, STREAM, &creates(&["b"])).await.expect_err("the answer is cut off");
    assert_eq!(server.documents("logs-app-default").into_keys().collect::<Vec<_>>(), ["a", "b"]);
}

#[tokio::test]
async fn a_hanging_request_goes_on_when_released() {
    let server = start().await;
    server.fail_next(1, Fault::Hang);
    let body = creates(&["a"]);
    let (answer, ()) = tokio::join!(bulk(&server, STREAM, &body), async {
        server.arrived(1).await;
        assert_eq!(server.count("logs-app-default"), 0);
        server.release();
    });
    assert_eq!(answer.unwrap().items(), [stored()]);
}

#[tokio::test]
async fn a_slow_request_is_answered_late() {
    let server = start().await;
    server.fail_next(1, Fault::Slow(Duration::from_millis(20)));
    let begin = std::time::Instant::now();
    assert_eq!(bulk(&server, STREAM, &creates(&["a"])).await.unwrap().status, 200);
    assert!(begin.elapsed() >= Duration::from_millis(20));
}

#[tokio::test]
async fn a_server_taken_away_refuses_connections_and_comes_back_with_its_documents() {
    let mut server = start().await;
    let url = server.url();
    bulk(&server, STREAM, &creates(&["a"])).await.unwrap();
    let mut idle = TcpStream::connect(url.trim_start_matches("http://")).await.unwrap();
    idle.write_all(b"GET / HTTP/1.1\r\nHost: strict\r\n\r\n").await.unwrap();
    assert!(idle.read(&mut [0; 1_024]).await.unwrap() > 0);
    server.take_away().await;
    // The idle connection ends, by an end of file or a reset.
    assert!(matches!(idle.read(&mut [0; 8_192]).await, Ok(0) | Err(_)));
    let refused = bulk(&server, STREAM, &creates(&["b"])).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    server.bring_back().await.unwrap();
    assert_eq!(server.url(), url);
    bulk(&server, STREAM, &creates(&["b"])).await.unwrap();
    assert_eq!(server.count("logs-app-default"), 2);
}

#[tokio::test]
async fn chance_repeats_itself_and_every_record_gets_there_in_the_end() {
    // Goal: random faults come from their seed alone. Method: send each record until it is there, twice, and compare.
    let run = async |seed: u64| {
        let server = start().await;
        server.fail_at_random(seed, 60);
        let mut fates = Vec::new();
        for number in 0..30 {
            let body = creates(&[&number.to_string()]);
            while !server.documents("logs-app-default").contains_key(&number.to_string()) {
                // One that hangs has no answer either.
                let sent = tokio::time::timeout(Duration::from_millis(400), bulk(&server, STREAM, &body)).await;
                fates.push(sent.ok().and_then(|answer| Some(answer.ok()?.status)));
            }
        }
        assert_eq!(server.count("logs-app-default"), 30);
        fates
    };
    let first = run(7).await;
    assert!(first.contains(&None) && first.contains(&Some(429)) && first.contains(&Some(200)), "{first:?}");
    assert_eq!(first, run(7).await);
    assert_ne!(first, run(8).await);
}

#[tokio::test]
async fn duplicate_keys_are_refused_when_asked_for() {
    let server = start().await;
    let body = |id: &str| {
        format!(
            "{{\"create\":{{\"_id\":\"{id}\"}}}}\n{{\"@timestamp\":\"2026-11-20\",\"labels\":{{\"a\":1,\"a\":2}}}}\n"
        )
    };
    assert_eq!(bulk(&server, STREAM, &body("a")).await.unwrap().items(), [stored()]);
    server.refuse_duplicate_keys(true);
    let refused = bulk(&server, STREAM, &body("b")).await.unwrap();
    assert_eq!(refused.items(), [(400, "document_parsing_exception".to_owned())]);
}
