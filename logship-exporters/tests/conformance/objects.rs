//! What all exporters of objects promise beside the contract.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use logship_connect::google::GoogleCredentials;
use logship_connect::token::{AccessToken, TokenProvider};
use logship_core::{
    Advice, BuildContext, Chunk, Cursor, Error, ErrorKind, Exporter, Fields, Lane, LogRecord, Page, PageEnd, Partition,
    RecordId, Registry, Timestamp, async_trait,
};
use logship_exporters::gcs::GcsConfig;
use logship_exporters::objects::ObjectExporter;
use logship_testkit::conformance::exporter::ship_records;
use logship_testkit::proxy::{ProxiedRequest, ProxyFault};
use logship_testkit::strict::gcs::StrictGcs;
use serde_json::json;

use super::clouds::{self, Cloud, lines};

/// A chunk of records with bodies of these lengths, all from where the partition begins.
fn chunk(exporter: &dyn Exporter, lengths: &[usize]) -> Chunk {
    let record = |(number, length): (usize, &usize)| {
        let id = RecordId::new(Partition::new("logs"), Cursor::number(number as i64 + 1));
        let mut record = LogRecord::new(id, Timestamp::parse("2026-11-20T23:59:59.5Z").unwrap());
        record.body = "x".repeat(*length).into();
        record
    };
    let records = lengths.iter().enumerate().map(record).collect();
    let page = Page::new(Partition::new("logs"), records, PageEnd::More);
    Chunk::of_page(page, exporter.encoding().as_deref()).unwrap()
}

/// The clouds for which there is a server.
async fn all() -> Vec<Cloud> {
    [clouds::gcs::cloud().await, clouds::s3::cloud().await, clouds::azure_blob::cloud().await]
        .into_iter()
        .flatten()
        .collect()
}

/// Goal: objects are what they say they are, to readers that are not ours.
#[tokio::test]
async fn each_form_and_packing_is_read_back_by_others() {
    for cloud in all().await {
        for (format, compression, suffix, content_type) in [
            ("json", "none", ".json", "application/x-ndjson"),
            ("JSON", "gzip", ".json.gz", "application/gzip"),
            ("ndjson", "zstd-3", ".json.zst", "application/zstd"),
            ("ion", "none", ".ion", "application/ion"),
            ("ION", "gzip-6", ".ion.gz", "application/gzip"),
            ("ion", "zstd", ".ion.zst", "application/zstd"),
        ] {
            let prefix = format!("{}-{compression}/%Y/%m/%d/%H/log", format.to_lowercase());
            let more = json!({"format": format, "compression": compression, "logFilePrefix": prefix});
            let exporter = cloud.exporter(&more);
            exporter.export(&chunk(&exporter, &[1, 2, 3])).await.unwrap();
            let uris = exporter.finish().await.unwrap().uris;
            assert_eq!(uris.len(), 1);
            let folder = prefix.replace("%Y/%m/%d/%H", "2026/11/20/23");
            let (key, bytes) = cloud.objects().await.into_iter().find(|(key, _)| uris[0].ends_with(key)).unwrap();
            assert!(key.starts_with(&folder) && key.ends_with(suffix), "{key}");
            assert!(uris[0].contains(&cloud.name), "{uris:?}");
            assert_eq!(lines(&key, &bytes), ["x", "xx", "xxx"]);
            let upload = cloud.proxy.requests().into_iter().rfind(ProxiedRequest::is_upload).unwrap();
            let said = upload.header("x-ms-blob-content-type").or(upload.header("content-type"));
            assert_eq!(said, Some(content_type));
            assert!(
                upload.header("content-encoding").is_none() && upload.header("x-ms-blob-content-encoding").is_none()
            );
        }
    }
}

/// Goal: an object holds as many lines and bytes as it is told, and not one more. Method: the engine ships as many records
/// as fit, and one more; the objects say how they were cut.
#[tokio::test]
async fn an_object_holds_its_limits_of_lines_and_bytes_and_not_one_more() {
    const LINES: usize = 30;
    for cloud in all().await {
        let records = |count: usize| -> Vec<LogRecord> {
            let time = Timestamp::parse("2026-11-20T08:30:00Z").unwrap();
            let record = |number: usize| {
                let id = RecordId::new(Partition::new("logs"), Cursor::number(number as i64 + 1));
                let mut record = LogRecord::new(id, time);
                record.body = "x".into();
                record
            };
            (0..count).map(record).collect()
        };
        let page = Page::new(Partition::new("logs"), records(LINES), PageEnd::More);
        let exporter = cloud.exporter(&json!({}));
        let bytes = Chunk::of_page(page, exporter.encoding().as_deref()).unwrap().body().unwrap().unpacked_len;
        for (prefix, limits, count, expected) in [
            ("lines-at", json!({"max_lines_per_file": LINES}), LINES, vec![LINES]),
            ("lines-past", json!({"max_lines_per_file": LINES}), LINES + 1, vec![1, LINES]),
            ("lines-less", json!({"maxLinesPerFile": LINES - 1}), LINES, vec![1, LINES - 1]),
            ("bytes-at", json!({"max_bytes_per_file": bytes}), LINES, vec![LINES]),
            ("bytes-past", json!({"max_bytes_per_file": bytes - 1}), LINES, vec![1, LINES - 1]),
        ] {
            let exporter = cloud.exporter(&clouds::merged(limits, &json!({"prefix": prefix})));
            let report = ship_records(Lane::new("objects", exporter), records(count)).await;
            assert!(report.is_complete(), "{report}");
            let objects = cloud.objects().await.into_iter().filter(|(key, _)| key.starts_with(prefix));
            let mut cut: Vec<usize> = objects.map(|(key, bytes)| lines(&key, &bytes).len()).collect();
            cut.sort_unstable();
            assert_eq!(cut, expected, "{prefix}");
        }
    }
}

#[tokio::test]
async fn a_storage_class_is_asked_for_by_its_name() {
    for cloud in all().await {
        let exporter = cloud.exporter(&json!({"storage_class": "COOL"}));
        drop(exporter.export(&chunk(&exporter, &[1])).await);
        let upload = cloud.proxy.requests().into_iter().rfind(ProxiedRequest::is_upload).unwrap();
        let headers = ["x-amz-storage-class", "x-goog-storage-class", "x-ms-access-tier"];
        assert!(headers.iter().any(|name| upload.header(name) == Some("COOL")), "{upload:?}");
    }
}

/// How long a record is beside its body.
fn overhead(exporter: &dyn Exporter) -> usize {
    chunk(exporter, &[0]).body().unwrap().unpacked_len
}

/// Goal: 16 MiB go up in one piece, and one byte more in parts. Method: look at the requests, and read back.
#[tokio::test]
async fn what_is_large_goes_up_in_parts() {
    const WHOLE: usize = 16 * 1024 * 1024;
    for cloud in all().await {
        let exporter = cloud.exporter(&json!({"max_bytes_per_file": 100_000_000}));
        let overhead = overhead(&exporter);
        // Azure puts the list of its parts up in a body of its own.
        let is_part = |request: &ProxiedRequest| request.is_upload() && !request.target.contains("comp=blocklist");
        let uploads = || cloud.proxy.requests().into_iter().filter(is_part).count();
        for (bytes, parts) in [(WHOLE, 1), (WHOLE + 1, 3), (3 * WHOLE, 6)] {
            let before = uploads();
            exporter.export(&chunk(&exporter, &[bytes - overhead])).await.unwrap();
            assert_eq!(uploads() - before, parts, "{bytes} bytes");
            let (key, stored) = cloud.objects().await.pop().unwrap();
            assert_eq!((lines(&key, &stored)[0].len(), stored.len()), (bytes - overhead, bytes));
        }
    }
}

/// Goal: of an upload that fails nothing stays behind, however it ends.
#[tokio::test]
async fn parts_of_an_upload_that_fails_are_taken_back() {
    let cloud = clouds::gcs::cloud().await.unwrap();
    let strict = cloud.strict.as_ref().unwrap();
    let exporter = cloud.exporter(&json!({"max_bytes_per_file": 100_000_000}));
    let large = chunk(&exporter, &[20_000_000]);
    cloud.proxy.fail_next(1, ProxyFault::answer(503, "<Error><Code>SlowDown</Code></Error>"));
    let error = exporter.export(&large).await.unwrap_err();
    assert_eq!((error.kind(), error.advice()), (ErrorKind::Throttled, Advice::After(None)));
    assert_eq!((strict.unfinished_uploads(), strict.objects().len()), (0, 0));

    // The first part is under way.
    let uploads = || cloud.proxy.requests().into_iter().filter(ProxiedRequest::is_upload).count();
    let before = uploads();
    let began = async {
        while uploads() == before {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        _ = exporter.export(&large) => panic!("it ended before it was dropped"),
        () = began => {}
    }
    let gone = async {
        while strict.unfinished_uploads() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), gone).await.expect("a dropped upload is taken back");
    exporter.export(&large).await.unwrap();
    assert_eq!((strict.unfinished_uploads(), strict.objects().len()), (0, 1));
}

/// Goal: a write of a process that is gone, which arrives after its successor's, does not take the place of that.
/// Method: the first write is sent once more, as it was, after a larger one of the same beginning.
#[tokio::test]
async fn a_write_that_arrives_late_replaces_nothing() {
    for cloud in all().await {
        let exporter = cloud.exporter(&json!({}));
        exporter.export(&chunk(&exporter, &[1])).await.unwrap();
        let late = cloud.proxy.requests().into_iter().rfind(ProxiedRequest::is_upload).unwrap();
        cloud.exporter(&json!({})).export(&chunk(&exporter, &[1, 2])).await.unwrap();
        let client = logship_connect::Connection::default().client("repeat", &BuildContext::default()).unwrap();
        let mut again = client.put(format!("{}{}", cloud.proxy.url(), late.target)).body(late.body.clone());
        for (name, value) in late.headers.iter().filter(|(name, _)| !matches!(name.as_str(), "host" | "content-length"))
        {
            again = again.header(name, value);
        }
        let status = again.send().await.unwrap().status().as_u16();
        assert!(matches!(status, 409 | 412), "{status}");
        let objects = cloud.objects().await;
        assert_eq!(objects.len(), 1);
        assert_eq!(lines(&objects[0].0, &objects[0].1), ["x", "xx"]);
    }
}

/// A store that speaks like S3 and knows no conditions.
#[tokio::test]
async fn conditions_can_be_left_out() {
    let Some(cloud) = clouds::s3::cloud().await else { return };
    let exporter = cloud.exporter(&json!({"conditional_writes": false}));
    for lengths in [&[1][..], &[1, 2]] {
        exporter.export(&chunk(&exporter, lengths)).await.unwrap();
    }
    let uploads: Vec<_> = cloud.proxy.requests().into_iter().filter(ProxiedRequest::is_upload).collect();
    assert_eq!(uploads.len(), 2);
    assert!(
        uploads.iter().all(|upload| upload.header("if-none-match").is_none() && upload.header("if-match").is_none())
    );
    assert_eq!(cloud.objects().await.len(), 1);
}

/// Gives out `token-1`, `token-2`, ...
#[derive(Debug, Default)]
struct Counter(AtomicUsize);

#[async_trait]
impl TokenProvider for Counter {
    async fn token(&self, scope: &str) -> Result<AccessToken, Error> {
        assert_eq!(scope, "https://www.googleapis.com/auth/devstorage.read_write");
        let number = self.0.fetch_add(1, Ordering::SeqCst) + 1;
        Ok(AccessToken::new(format!("token-{number}"), Duration::from_secs(3_600)))
    }
}

#[tokio::test]
async fn a_token_that_is_no_longer_let_in_is_asked_for_anew() {
    let server = StrictGcs::start("logs", "token-1").await.unwrap();
    let mut config = GcsConfig::new("logs");
    config.endpoint = Some(server.url());
    config.credentials = GoogleCredentials::Provider(Arc::new(Counter::default()));
    let exporter = ObjectExporter::gcs(config, BuildContext::default()).unwrap();
    exporter.export(&chunk(&exporter, &[1])).await.unwrap();
    server.change_token("token-2");
    let error = exporter.export(&chunk(&exporter, &[1, 2])).await.unwrap_err();
    assert_eq!((error.kind(), error.advice()), (ErrorKind::Auth, Advice::Refresh), "{error}");
    exporter.refresh().await.unwrap();
    exporter.export(&chunk(&exporter, &[1, 2])).await.unwrap();
    assert_eq!(server.objects().len(), 1);
}

/// Goal: what a store says no with has the meaning that its documents give it.
#[tokio::test]
async fn each_answer_has_its_meaning() {
    let cloud = clouds::gcs::cloud().await.unwrap();
    let exporter = cloud.exporter(&json!({}));
    let xml = |code: &str| format!("<Error><Code>{code}</Code><Message>{}</Message></Error>", clouds::gcs::TOKEN);
    for (status, code, kind, is_retried) in [
        (301, "PermanentRedirect", ErrorKind::Config, false),
        (400, "AuthorizationHeaderMalformed", ErrorKind::Config, false),
        (400, "RequestTimeout", ErrorKind::Unavailable, true),
        (400, "ExpiredToken", ErrorKind::Auth, true),
        (400, "InvalidArgument", ErrorKind::Rejected, false),
        (401, "", ErrorKind::Auth, true),
        (403, "AccessDenied", ErrorKind::Auth, false),
        (403, "SignatureDoesNotMatch", ErrorKind::Auth, true),
        (403, "RequestTimeTooSkewed", ErrorKind::Auth, false),
        (404, "NoSuchBucket", ErrorKind::NotFound, false),
        (408, "", ErrorKind::Unavailable, true),
        (413, "EntityTooLarge", ErrorKind::TooLarge, false),
        (429, "SlowDown", ErrorKind::Throttled, true),
        (500, "InternalError", ErrorKind::Unavailable, true),
        (503, "SlowDown", ErrorKind::Throttled, true),
        (503, "ServiceUnavailable", ErrorKind::Unavailable, true),
    ] {
        cloud.proxy.fail_next(1, ProxyFault::answer(status, xml(code)).header("retry-after", "7"));
        let error = exporter.export(&chunk(&exporter, &[1])).await.unwrap_err();
        assert_eq!((error.kind(), error.is_retryable()), (kind, is_retried), "{status} {code}: {error:?}");
        assert!(!format!("{error:?}").contains(clouds::gcs::TOKEN), "{error:?}");
        if error.kind() == ErrorKind::Throttled {
            assert_eq!(error.advice(), Advice::After(Some(Duration::from_secs(7))));
        }
    }
    assert!(cloud.objects().await.is_empty());
}

#[test]
fn a_wrong_configuration_is_refused_before_anybody_is_asked() {
    let mut registry = Registry::new();
    logship_exporters::register(&mut registry);
    let gcs = json!({"bucket": "logs", "credentials": "none"});
    let azure = json!({"container": "logs", "account": "a", "account_key": "aHVudGVyMg=="});
    let s3 = json!({"bucket": "logs"});
    for (kind, fields, more, field) in [
        ("s3", &s3, json!({"bucket": ""}), "bucket"),
        ("s3", &s3, json!({"bucket": "Logs"}), "bucket"),
        ("s3", &s3, json!({"bucket": "x".repeat(64)}), "bucket"),
        ("s3", &s3, json!({"bucket": "a..b"}), "bucket"),
        ("s3", &s3, json!({"prefix": "a//b"}), "prefix"),
        ("s3", &s3, json!({"prefix": "../b"}), "prefix"),
        ("s3", &s3, json!({"prefix": "b%y"}), "prefix"),
        ("s3", &s3, json!({"prefix": "x".repeat(513)}), "prefix"),
        ("s3", &s3, json!({"max_lines_per_file": 0}), "max_lines_per_file"),
        ("s3", &s3, json!({"maxLinesPerFile": -1}), "maxLinesPerFile"),
        ("s3", &s3, json!({"max_bytes_per_file": 0}), "max_bytes_per_file"),
        ("s3", &s3, json!({"format": "csv"}), "format"),
        ("s3", &s3, json!({"compression": "lz4"}), "compression"),
        ("s3", &s3, json!({"aws": {"region": "x", "endpoint": "http://u:hunter2@host"}}), "endpoint"),
        ("s3", &s3, json!({"retries": 1}), "retries"),
        ("gcs", &gcs, json!({"bucket": "ab"}), "bucket"),
        ("gcs", &gcs, json!({"endpoint": "ftp://host"}), "endpoint"),
        ("gcs", &gcs, json!({"credentials": {"service_account": "{\"private_key\": \"hunter2\"}"}}), "credentials"),
        ("azure_blob", &azure, json!({"container": "a"}), "container"),
        ("azure_blob", &azure, json!({"container": "a--b"}), "container"),
        ("azure_blob", &azure, json!({"account": null}), "account"),
        ("azure_blob", &azure, json!({"account_key": "not base64 hunter2"}), "account_key"),
        ("azure_blob", &azure, json!({"sas_token": "sv=1&sig=hunter2"}), "sas_token"),
        ("azure_blob", &azure, json!({"account_key": null, "sas_token": "sv=hunter2"}), "sas_token"),
        ("azure_blob", &azure, json!({"account_key": null, "connection_string": "hunter2"}), "connection_string"),
        (
            "azure_blob",
            &azure,
            json!({"account_key": null, "connection_string": "AccountName=hunter2"}),
            "connection_string",
        ),
        ("azure_blob", &azure, json!({"endpoint": "https://u:hunter2@a.blob.core.windows.net"}), "endpoint"),
    ] {
        let serde_json::Value::Object(fields) = clouds::merged(fields.clone(), &more) else { unreachable!() };
        let fields: Fields = fields;
        let error = registry.exporter(kind, fields, &BuildContext::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{kind} {more}: {error}");
        assert!(
            error.to_string().contains(field) && !format!("{error:?}").contains("hunter2"),
            "{kind} {more}: {error}"
        );
    }
}

#[tokio::test]
async fn a_connection_string_opens_the_container() {
    let Some(cloud) = clouds::azure_blob::cloud().await else { return };
    let (account, key) = (clouds::azure_blob::ACCOUNT, clouds::azure_blob::KEY);
    let text = format!("AccountName={account};AccountKey={key};BlobEndpoint={}/{account};", cloud.proxy.url());
    let exporter = (cloud.build)(json!({"container": cloud.name, "connection_string": text}));
    exporter.check().await.unwrap();
    exporter.export(&chunk(&exporter, &[1])).await.unwrap();
    assert_eq!(cloud.objects().await.len(), 1);
}

/// Goal: a key that was replaced in its file is read again once it is not let in, and one that was not stops the lane.
#[tokio::test]
async fn an_account_key_that_was_replaced_is_read_again() {
    let Some(cloud) = clouds::azure_blob::cloud().await else { return };
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), clouds::azure_blob::KEY.replace("Eby8", "Eby9")).unwrap();
    let exporter = cloud.exporter(&json!({"account_key": {"file": file.path()}}));
    let failed = ProxyFault::answer(403, "").header("x-ms-error-code", "AuthenticationFailed");
    cloud.proxy.fail_next(1, failed);
    let error = exporter.export(&chunk(&exporter, &[1])).await.unwrap_err();
    assert_eq!((error.kind(), error.advice()), (ErrorKind::Auth, Advice::Refresh), "{error}");
    assert_eq!(exporter.refresh().await.unwrap_err().kind(), ErrorKind::Auth);
    std::fs::write(file.path(), clouds::azure_blob::KEY).unwrap();
    exporter.refresh().await.unwrap();
    exporter.export(&chunk(&exporter, &[1])).await.unwrap();
    assert_eq!(cloud.objects().await.len(), 1);
}

#[test]
fn connection_strings_are_read_as_the_portal_writes_them() {
    let mut registry = Registry::new();
    logship_exporters::register(&mut registry);
    for text in [
        "DefaultEndpointsProtocol=https;AccountName=acme;AccountKey=aHVudGVyMg==;EndpointSuffix=core.windows.net",
        "BlobEndpoint=https://acme.blob.core.windows.net/;SharedAccessSignature=sv=2023&sig=aHVudGVyMg%3D%3D",
    ] {
        let fields = json!({"container": "logs", "connection_string": text});
        let exporter =
            registry.exporter("azure_blob", serde_json::from_value(fields).unwrap(), &BuildContext::default()).unwrap();
        let said = format!("{exporter:?}");
        assert!(said.contains("https://acme.blob.core.windows.net/logs") && !said.contains("aHVu"), "{said}");
    }
}
