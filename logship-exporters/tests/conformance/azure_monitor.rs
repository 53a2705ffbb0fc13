use std::path::PathBuf;
use std::sync::Arc;

use logship_core::{
    Advice, BuildContext, Certainty, Chunk, Cursor, Error, ErrorKind, Exporter, LogRecord, Outcome, Page, PageEnd,
    Partition, RecordId, Timestamp, async_trait, read_fields,
};
use logship_exporters::azure_monitor::AzureMonitor;
use logship_testkit::conformance::exporter::{ExporterFixture, Request, World};
use logship_testkit::exporter_conformance;
use logship_testkit::strict::Fault;
use logship_testkit::strict::azure_monitor::StrictAzureMonitor;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::{nowhere, stand};

/// TLS before a stand-in, as Entra's clients want it.
struct Authority {
    url: String,
    ca_file: PathBuf,
    _dir: tempfile::TempDir,
}

impl Authority {
    async fn before(server: &StrictAzureMonitor) -> Self {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let ca_file = dir.path().join("ca.pem");
        std::fs::write(&ca_file, made.cert.pem()).unwrap();
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
        let behind = server.url().trim_start_matches("http://").to_owned();
        tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                let (acceptor, behind) = (acceptor.clone(), behind.clone());
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let Ok(mut server) = TcpStream::connect(behind).await else { return };
                    // One that breaks off is the client's to notice.
                    let _ = copy_bidirectional(&mut stream, &mut server).await;
                });
            }
        });
        Authority { url, ca_file, _dir: dir }
    }
}

struct Fixture {
    server: StrictAzureMonitor,
    authority: Authority,
}

impl Fixture {
    async fn new(_: &str) -> Option<Self> {
        Some(Fixture::start().await)
    }

    async fn start() -> Self {
        let server = StrictAzureMonitor::start().await.unwrap();
        let authority = Authority::before(&server).await;
        Fixture { server, authority }
    }

    fn fields(&self) -> Value {
        json!({
            "endpoint": self.server.url(), "rule_id": self.server.rule_id(), "stream_name": self.server.stream_name(),
            "credentials": self.server.client_secret(&self.authority.url),
            "connection": {"headers": {"X-Gateway": "sw0rdfish-gate"}, "ca_file": self.authority.ca_file,
                "system_roots": false, "system_proxy": false},
        })
    }

    fn exporter(&self, field: &str, value: impl Into<Value>) -> AzureMonitor {
        let Value::Object(mut fields) = self.fields() else { unreachable!() };
        fields.insert(field.to_owned(), value.into());
        AzureMonitor::new(read_fields(fields).unwrap(), &BuildContext::default()).unwrap()
    }

    fn usual(&self) -> AzureMonitor {
        self.exporter("compression", "gzip")
    }
}

#[async_trait]
impl ExporterFixture for Fixture {
    async fn open(&self) -> Arc<dyn Exporter> {
        Arc::new(self.usual())
    }

    async fn held(&self) -> Vec<String> {
        let spoiled = self.server.spoiled();
        assert_eq!((spoiled.undeclared, spoiled.cut_off, spoiled.types), (0, 0, 0), "nothing is lost behind a success");
        self.server.rows().iter().map(ToString::to_string).collect()
    }

    async fn play(&self, world: World, requests: usize) -> bool {
        stand::play(&self.server, &world, 403, 404, requests)
    }

    async fn unreachable(&self) -> Option<Arc<dyn Exporter>> {
        Some(Arc::new(self.exporter("endpoint", nowhere().await)))
    }

    fn secrets(&self) -> Vec<String> {
        ["hunter2", "eyJ0.", "sw0rdfish"].map(str::to_owned).to_vec()
    }

    async fn requests(&self) -> Option<Vec<Request>> {
        Some(stand::requests(&self.server))
    }
}

exporter_conformance!(Fixture::new);

fn record(number: i64) -> LogRecord {
    let mut record = LogRecord::new(RecordId::new(Partition::new("p"), Cursor::number(number)), Timestamp::now());
    record.body = format!("text {number}").into();
    record
}

async fn export(exporter: &dyn Exporter, records: Vec<LogRecord>) -> Result<Outcome, Error> {
    let page = Page::new(Partition::new("p"), records, PageEnd::More);
    exporter.export(&Chunk::of_page(page, exporter.encoding().as_deref()).unwrap()).await
}

/// Goal: a request of the largest size before packing is taken, and one of a byte more is split.
#[tokio::test]
async fn a_request_is_taken_up_to_its_largest_size() {
    let fixture = Fixture::start().await;
    for compression in ["none", "gzip"] {
        let exporter = fixture.exporter("compression", compression);
        let limit = exporter.limits().chunk_bytes_max.unwrap();
        let chunk = |last: usize| {
            let mut records: Vec<LogRecord> = (0..21).map(record).collect();
            records.iter_mut().for_each(|record| record.body = "x".repeat(48_000).into());
            records[20].body = "x".repeat(last).into();
            let page = Page::new(Partition::new("p"), records, PageEnd::More);
            Chunk::of_page(page, exporter.encoding().as_deref()).unwrap()
        };
        let last = limit - chunk(0).body().unwrap().unpacked_len;
        let error = exporter.export(&chunk(last + 1)).await.unwrap_err();
        assert_eq!((error.kind(), error.advice()), (ErrorKind::TooLarge, Advice::Split), "{compression}: {error}");
        let before = fixture.server.rows().len();
        let outcome = exporter.export(&chunk(last)).await.unwrap();
        assert_eq!((outcome.accepted_count(), fixture.server.rows().len() - before), (21, 21), "{compression}");
    }
}

/// Goal: what a column holds is there in full, up to the longest; the engine is told before sending what is longer.
#[tokio::test]
async fn the_longest_column_is_not_cut_off() {
    let fixture = Fixture::start().await;
    let exporter = fixture.usual();
    let mut longest = record(1);
    // Two quotes are counted with it.
    longest.body = "x".repeat(63_998).into();
    assert_eq!(export(&exporter, vec![longest]).await.unwrap().accepted_count(), 1);
    assert_eq!(fixture.held().await.len(), 1);
    let mut longer = record(2);
    longer.body = "x".repeat(63_999).into();
    let encoding = exporter.encoding().unwrap();
    assert!(encoding.record(&longer, &mut Vec::new()).unwrap_err().reason.contains("64000"));
}

/// Goal: the time of an old record is there, though Azure replaces `TimeGenerated`.
#[tokio::test]
async fn an_old_record_keeps_its_time_in_a_column_of_its_own() {
    let fixture = Fixture::start().await;
    let mut old = record(1);
    old.timestamp = Timestamp::from_nanos(1_000_000_000_123_456_700);
    export(&fixture.usual(), vec![old]).await.unwrap();
    assert_eq!(fixture.server.spoiled().retimed, 1);
    assert_eq!(fixture.held().await.len(), 1);
    assert_eq!(fixture.server.rows()[0]["Timestamp"], "2001-09-09T01:46:40.1234567Z");
}

/// Goal: a token that is no longer good is replaced by one request, and records are sent again then.
#[tokio::test]
async fn an_expired_token_is_replaced_once() {
    let fixture = Fixture::start().await;
    let exporter = fixture.usual();
    export(&exporter, vec![record(1)]).await.unwrap();
    export(&exporter, vec![record(2)]).await.unwrap();
    assert_eq!(fixture.server.tokens_given(), 1);
    fixture.server.expire_tokens();
    let error = export(&exporter, vec![record(3)]).await.unwrap_err();
    assert_eq!((error.kind(), error.advice()), (ErrorKind::Auth, Advice::Refresh), "{error}");
    exporter.refresh().await.unwrap();
    assert_eq!(export(&exporter, vec![record(3)]).await.unwrap().accepted_count(), 1);
    assert_eq!((fixture.server.tokens_given(), fixture.server.rows().len()), (2, 3));
}

/// Goal: what no row can help is not split, and a row at fault is found by splitting.
#[tokio::test]
async fn what_is_wrong_with_the_stream_splits_nothing() {
    let fixture = Fixture::start().await;
    for (field, value, kind) in
        [("stream_name", "Custom-Other", ErrorKind::Rejected), ("rule_id", "dcr-1", ErrorKind::NotFound)]
    {
        let exporter = fixture.exporter(field, value);
        let error = export(&exporter, vec![record(1), record(2)]).await.unwrap_err();
        assert_eq!((error.kind(), error.advice()), (kind, Advice::Never), "{field}: {error}");
        assert_eq!(exporter.check().await.unwrap_err().advice(), Advice::Never, "{field}");
    }
    fixture.server.fail_next(1, Fault::status(400));
    let error = export(&fixture.usual(), vec![record(1), record(2)]).await.unwrap_err();
    assert_eq!((error.advice(), error.certainty()), (Advice::Split, Certainty::NotDelivered), "{error}");
    fixture.server.fail_next(1, Fault::status_after(429, "7"));
    let error = export(&fixture.usual(), vec![record(1)]).await.unwrap_err();
    assert_eq!(error.advice(), Advice::After(Some(std::time::Duration::from_secs(7))), "{error}");
    fixture.server.answer_next(1, 200, "<html>sign in first</html>");
    let error = export(&fixture.usual(), vec![record(1)]).await.unwrap_err();
    assert!(error.is_retryable() && error.certainty() == Certainty::Unknown, "{error}");
    assert!(fixture.server.rows().is_empty());
}

#[tokio::test]
async fn a_wrong_secret_is_said_in_entras_words() {
    let fixture = Fixture::start().await;
    let mut auth = fixture.server.client_secret(&fixture.authority.url);
    auth["client_secret"]["client_secret"] = "hunter2-wrong".into();
    let error = fixture.exporter("credentials", auth).check().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Auth, "{error}");
    assert!(error.to_string().contains("AADSTS7000215") && !format!("{error:?}").contains("hunter2"), "{error:?}");
}
