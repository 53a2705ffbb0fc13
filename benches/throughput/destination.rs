//! Where scenarios ship to: how logship is configured, what the reference loop writes instead, and the cheapest answer
//! that says all is well.

use std::path::Path;
use std::sync::Arc;

use logship::{BuildContext, Compression, Error, Exporter};

use crate::format;
use crate::row::Row;

/// As many records in a request as other agents were given.
pub(crate) const CHUNK: usize = 5_000;

/// One form of requests, and one kind of answer.
#[derive(Debug)]
pub(crate) struct Destination {
    /// In the names of scenarios.
    pub(crate) name: &'static str,
    /// The exporter's name in configurations.
    kind: &'static str,
    /// Its fields. `URL` stands for the receiver's address, and `DIR` for a folder.
    config: &'static str,
    /// Whether it can be told how to pack.
    packs: bool,
    /// Whether requests are signed, as by AWS, whose signature takes a hash of the body.
    pub(crate) signs: bool,
    /// Records in a request: fewer than [`CHUNK`] where the destination's own limits say so.
    pub(crate) chunk: usize,
    /// Where requests go, or what that begins with.
    pub(crate) path: &'static str,
    pub(crate) answer: Answer,
    /// A record as the reference loop writes it.
    pub(crate) write: fn(&Row<'_>, &mut Vec<u8>),
    pub(crate) begin: &'static [u8],
    pub(crate) separator: &'static [u8],
    /// Ends a body.
    pub(crate) finish: fn(&mut Vec<u8>),
}

/// What the receiver says.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Answer {
    /// That each of the documents was created.
    Bulk,
    /// Always the same: status, headers, body.
    Same(&'static str, &'static str, &'static str),
}

impl Destination {
    pub(crate) fn is_file(&self) -> bool {
        self.kind == "file"
    }

    /// The exporter, for a receiver at this port, or for a folder.
    pub(crate) fn exporter(&self, port: u16, dir: &Path, packing: Compression) -> Result<Arc<dyn Exporter>, Error> {
        let url = format!("http://127.0.0.1:{port}");
        let config = self.config.replace("URL", &url).replace("DIR", &dir.display().to_string());
        let mut fields: logship::Fields =
            serde_json::from_str(&config).map_err(|error| Error::config(self.name, error.to_string()))?;
        if self.packs {
            fields.insert("compression".to_owned(), String::from(packing).into());
        }
        logship::registry().exporter(self.kind, fields, &BuildContext::default())
    }
}

const OK: Answer = Answer::Same("200 OK", "", "");
const LINES: Destination = Destination {
    name: "ndjson",
    kind: "http",
    config: r#"{"url": "URL/in", "format": "ndjson"}"#,
    packs: true,
    signs: false,
    chunk: CHUNK,
    path: "/in",
    answer: OK,
    write: format::line,
    begin: b"",
    separator: b"",
    finish: |_| {},
};

/// What SQS says of ten messages.
const SENT: &str = r#"{"Successful":[
    {"Id":"0","MessageId":"m","MD5OfMessageBody":"d"},
    {"Id":"1","MessageId":"m","MD5OfMessageBody":"d"},
    {"Id":"2","MessageId":"m","MD5OfMessageBody":"d"},
    {"Id":"3","MessageId":"m","MD5OfMessageBody":"d"},
    {"Id":"4","MessageId":"m","MD5OfMessageBody":"d"},
    {"Id":"5","MessageId":"m","MD5OfMessageBody":"d"},
    {"Id":"6","MessageId":"m","MD5OfMessageBody":"d"},
    {"Id":"7","MessageId":"m","MD5OfMessageBody":"d"},
    {"Id":"8","MessageId":"m","MD5OfMessageBody":"d"},
    {"Id":"9","MessageId":"m","MD5OfMessageBody":"d"}
]}"#;

/// Files, and those that speak HTTP, in the words of their documents.
pub(crate) const DESTINATIONS: &[Destination] = &[
    LINES,
    Destination { name: "file", kind: "file", config: r#"{"dir": "DIR", "format": "json"}"#, path: "", write: format::file, ..LINES },
    Destination {
        name: "array",
        config: r#"{"url": "URL/in", "format": "json_array"}"#,
        write: format::element,
        begin: b"[",
        separator: b",",
        finish: |body| body.push(b']'),
        ..LINES
    },
    Destination {
        name: "bulk",
        kind: "elasticsearch",
        config: r#"{"hosts": ["URL"], "index": "logs"}"#,
        path: "/logs/_bulk",
        answer: Answer::Bulk,
        write: format::bulk,
        ..LINES
    },
    Destination {
        name: "opensearch",
        kind: "opensearch",
        config: r#"{"hosts": ["URL"], "index": "logs"}"#,
        path: "/logs/_bulk",
        answer: Answer::Bulk,
        write: format::bulk,
        ..LINES
    },
    Destination {
        name: "datadog",
        kind: "datadog",
        config: r#"{"url": "URL", "api_key": "key"}"#,
        chunk: 1_000,
        path: "/api/v2/logs",
        answer: Answer::Same("202 Accepted", "", "{}"),
        write: format::datadog,
        begin: b"[",
        separator: b",",
        finish: |body| body.push(b']'),
        ..LINES
    },
    Destination {
        name: "newrelic",
        kind: "newrelic",
        config: r#"{"url": "URL", "license_key": "key"}"#,
        chunk: 1_000,
        path: "/log/v1",
        answer: Answer::Same("202 Accepted", "", "{}"),
        write: format::newrelic,
        begin: br#"[{"common":{"attributes":{"plugin.type":"logship"}},"logs":["#,
        separator: b",",
        finish: |body| body.extend_from_slice(b"]}]"),
        ..LINES
    },
    Destination {
        name: "splunk",
        kind: "splunk",
        config: r#"{"url": "URL", "token": "key"}"#,
        chunk: 2_000,
        path: "/services/collector",
        answer: Answer::Same("200 OK", "", r#"{"text":"Success","code":0}"#),
        write: format::splunk,
        ..LINES
    },
    Destination {
        name: "otlp",
        kind: "otlp",
        config: r#"{"endpoint": "URL"}"#,
        path: "/v1/logs",
        answer: Answer::Same("200 OK", "content-type: application/x-protobuf\r\n", ""),
        write: format::otlp::record,
        begin: format::otlp::BEGIN,
        finish: |body| format::otlp::finish(body),
        ..LINES
    },
    Destination {
        name: "logzio",
        kind: "logzio",
        config: r#"{"url": "URL", "token": "key"}"#,
        path: "/?token=key&type=logship",
        write: format::logzio,
        ..LINES
    },
    Destination {
        name: "loggly",
        kind: "loggly",
        config: r#"{"url": "URL", "token": "key"}"#,
        path: "/bulk/",
        answer: Answer::Same("200 OK", "", r#"{"response":"ok"}"#),
        write: format::loggly,
        ..LINES
    },
    Destination {
        name: "loki",
        kind: "loki",
        config: r#"{"url": "URL"}"#,
        chunk: 1_000,
        path: "/loki/api/v1/push",
        answer: Answer::Same("204 No Content", "", ""),
        write: format::loki,
        begin: br#"{"streams":[{"stream":{"job":"logship","service_name":"unknown_service"},"values":["#,
        separator: b",",
        finish: |body| body.extend_from_slice(b"]}]}"),
        ..LINES
    },
    Destination {
        name: "gcp",
        kind: "gcp_logging",
        config: r#"{"project_id": "project", "log_id": "logs", "endpoint": "URL", "credentials": "none"}"#,
        chunk: 1_000,
        path: "/v2/entries:write",
        answer: Answer::Same("200 OK", "", "{}"),
        write: format::gcp,
        begin: br#"{"logName":"projects/project/logs/logs","resource":{"type":"global","labels":{"project_id":"project"}},"labels":{},"partialSuccess":true,"entries":["#,
        separator: b",",
        finish: |body| body.extend_from_slice(b"]}"),
        ..LINES
    },
    Destination {
        name: "s3",
        kind: "s3",
        config: r#"{"bucket": "bucket", "aws": {"region": "eu-west-1", "endpoint": "URL", "credentials":
            {"static": {"access_key_id": "id", "secret_access_key": "key"}}}}"#,
        signs: true,
        path: "/bucket/",
        answer: Answer::Same("200 OK", "etag: \"1\"\r\n", ""),
        write: format::file,
        ..LINES
    },
    Destination {
        name: "gcs",
        kind: "gcs",
        config: r#"{"bucket": "google", "endpoint": "URL", "credentials": "none"}"#,
        path: "/google/",
        answer: Answer::Same("200 OK", "etag: \"1\"\r\nx-goog-generation: 1\r\n", ""),
        write: format::file,
        ..LINES
    },
    Destination {
        name: "azureblob",
        kind: "azure_blob",
        config: r#"{"container": "azure", "account": "account", "endpoint": "URL", "account_key": "a2V5"}"#,
        path: "/azure/",
        answer: Answer::Same("201 Created", "etag: \"1\"\r\n", ""),
        write: format::file,
        ..LINES
    },
    Destination {
        name: "sqs",
        kind: "sqs",
        config: r#"{"queue_url": "http://queue/q", "aws": {"region": "eu-west-1", "endpoint": "URL/sqs", "credentials":
            {"static": {"access_key_id": "id", "secret_access_key": "key"}}}}"#,
        packs: false,
        signs: true,
        chunk: 10,
        path: "/sqs",
        answer: Answer::Same("200 OK", "content-type: application/x-amz-json-1.0\r\n", SENT),
        write: format::sqs,
        begin: br#"{"QueueUrl":"http://queue/q","Entries":["#,
        separator: b",",
        finish: |body| body.extend_from_slice(b"]}"),
    },
    Destination {
        name: "cloudwatch",
        kind: "cloudwatch",
        config: r#"{"log_group_name": "group", "aws": {"region": "eu-west-1", "endpoint": "URL", "credentials":
            {"static": {"access_key_id": "id", "secret_access_key": "key"}}}}"#,
        packs: false,
        signs: true,
        chunk: 1_000,
        path: "/",
        answer: Answer::Same("200 OK", "content-type: application/x-amz-json-1.1\r\n", "{}"),
        write: format::cloudwatch,
        begin: br#"{"logGroupName":"group","logStreamName":"logship","logEvents":["#,
        separator: b",",
        finish: |body| body.extend_from_slice(b"]}"),
    },
];
