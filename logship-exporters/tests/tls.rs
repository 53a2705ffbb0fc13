//! How connections are made, against a server that speaks real TLS.

#![cfg(feature = "http")]
#![allow(clippy::unwrap_used, reason = "a test says why it fails by its panic")]

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use logship_core::{BuildContext, Certainty, Error, ErrorKind, Exporter, read_fields};
use logship_exporters::http::Http;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// An authority that signs certificates.
struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key.
struct Signed {
    certificate: CertificateDer<'static>,
    key: KeyPair,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn sign(&self, name: &str, purpose: ExtendedKeyUsagePurpose) -> Signed {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages = vec![purpose];
        Signed { certificate: params.signed_by(&key, &self.0).unwrap().der().clone(), key }
    }

    fn pem(&self) -> String {
        self.0.pem()
    }
}

fn pem_of(certificate: &CertificateDer<'_>) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
}

/// What the server asks of those who connect.
#[derive(Clone)]
struct Demands {
    versions: Versions,
    clients_of: Option<CertificateDer<'static>>,
}

type Versions = &'static [&'static SupportedProtocolVersion];

const ONLY_12: Versions = &[&TLS12];
const ONLY_13: Versions = &[&TLS13];
const ANY: Demands = Demands { versions: &[&TLS12, &TLS13], clients_of: None };

#[derive(Clone)]
struct Server {
    url: String,
    /// For each request the certificate its client showed.
    seen: Arc<Mutex<Vec<Option<CertificateDer<'static>>>>>,
}

impl Server {
    async fn start(authority: &Authority, demands: Demands) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://localhost:{}/in", listener.local_addr().unwrap().port());
        let acceptor = TlsAcceptor::from(server_config(authority, demands));
        let server = Server { url, seen: Arc::default() };
        let serving = server.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (serving, acceptor) = (serving.clone(), acceptor.clone());
                tokio::spawn(async move {
                    let mut stream = acceptor.accept(stream).await?;
                    let peer = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first().cloned());
                    let peer = peer.map(CertificateDer::into_owned);
                    answer_all(&mut stream, &|_| serving.seen.lock().unwrap().push(peer.clone())).await
                });
            }
        });
        server
    }

    fn clients(&self) -> Vec<Option<CertificateDer<'static>>> {
        self.seen.lock().unwrap().clone()
    }
}

/// Answers each request of a connection with nothing but a success.
async fn answer_all(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), see: &impl Fn(String)) -> std::io::Result<()> {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        see(String::from_utf8(head).unwrap());
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await?;
        stream.flush().await?;
    }
}

fn server_config(authority: &Authority, demands: Demands) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let signed = authority.sign("localhost", ExtendedKeyUsagePurpose::ServerAuth);
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_protocol_versions(demands.versions).unwrap();
    let builder = match demands.clients_of {
        None => builder.with_no_client_auth(),
        Some(root) => {
            let mut roots = RootCertStore::empty();
            roots.add(root).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.unwrap())
        }
    };
    let key = PrivateKeyDer::try_from(signed.key.serialize_der()).unwrap();
    Arc::new(builder.with_single_cert(vec![signed.certificate], key).unwrap())
}

/// A folder of PEM files.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Files(tempfile::tempdir().unwrap())
    }

    fn put(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn put_client(&self, signed: &Signed) -> (PathBuf, PathBuf) {
        let certificate = self.put("client.pem", &pem_of(&signed.certificate));
        (certificate, self.put("client.key", &signed.key.serialize_pem()))
    }
}

fn exporter(url: &str, connection: Value) -> Result<Http, Error> {
    let Value::Object(fields) = json!({"url": url, "connection": connection}) else { unreachable!() };
    Http::new(read_fields(fields)?, BuildContext::default())
}

async fn check(url: &str, connection: Value) -> Result<(), Error> {
    exporter(url, connection)?.check().await
}

#[tokio::test]
async fn a_server_is_trusted_only_by_whom_the_configuration_says() {
    let (authority, other, files) = (Authority::new(), Authority::new(), Files::new());
    let server = Server::start(&authority, ANY).await;
    let ours = files.put("ca.pem", &authority.pem());
    let wrong = files.put("other.pem", &other.pem());
    for connection in [
        json!({"ca_file": ours}),
        json!({"ca_file": ours, "system_roots": false}),
        json!({"ca_file": ours, "system_roots": false, "tls_version_min": "1.3"}),
        json!({"insecure_skip_verify": true}),
    ] {
        check(&server.url, connection.clone()).await.unwrap_or_else(|error| panic!("{connection}: {error}"));
    }
    for connection in [json!({}), json!({"ca_file": wrong}), json!({"ca_file": wrong, "system_roots": false})] {
        let error = check(&server.url, connection.clone()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{connection}: {error}");
        assert_eq!(error.certainty(), Certainty::NotDelivered, "{error}");
        assert!(error.to_string().contains("TLS") && error.to_string().contains("localhost:"), "{error}");
    }
}

#[tokio::test]
async fn a_version_below_the_least_is_not_spoken() {
    let (authority, files) = (Authority::new(), Files::new());
    let demands = Demands { versions: ONLY_12, ..ANY };
    let server = Server::start(&authority, demands).await;
    let ca = files.put("ca.pem", &authority.pem());
    check(&server.url, json!({"ca_file": ca})).await.unwrap();
    let error = check(&server.url, json!({"ca_file": ca, "tls_version_min": "1.3"})).await.unwrap_err();
    assert!(error.to_string().contains("TLS"), "{error}");
}

#[tokio::test]
async fn a_client_shows_its_certificate_and_without_one_nothing_is_delivered() {
    let (authority, clients, files) = (Authority::new(), Authority::new(), Files::new());
    let ca = files.put("ca.pem", &authority.pem());
    let signed = clients.sign("shipper", ExtendedKeyUsagePurpose::ClientAuth);
    let (certificate, key) = files.put_client(&signed);
    for versions in [ONLY_12, ONLY_13] {
        let demands = Demands { versions, clients_of: Some(clients.0.der().clone()) };
        let server = Server::start(&authority, demands).await;
        let with = json!({"ca_file": ca, "client_certificate_file": certificate, "client_key_file": key});
        check(&server.url, with).await.unwrap();
        assert_eq!(server.clients(), [Some(signed.certificate.clone())]);
        let error = check(&server.url, json!({"ca_file": ca})).await.unwrap_err();
        assert_eq!(error.certainty(), Certainty::NotDelivered, "{error}");
        assert!(error.is_retryable() && error.to_string().contains("TLS"), "{error}");
    }
}

#[tokio::test]
async fn a_new_authority_is_taken_up_after_the_handshake_that_failed() {
    let (old, new, files) = (Authority::new(), Authority::new(), Files::new());
    let server = Server::start(&new, ANY).await;
    let ca = files.put("ca.pem", &old.pem());
    let exporter = exporter(&server.url, json!({"ca_file": ca})).unwrap();
    assert!(exporter.check().await.is_err());
    files.put("ca.pem", &(old.pem() + &new.pem()));
    exporter.check().await.unwrap();
    // What is written by half keeps what was there.
    files.put("ca.pem", "-----BEGIN CERT");
    pass(Duration::from_secs(61)).await;
    exporter.check().await.unwrap();
}

#[tokio::test]
async fn a_renewed_client_certificate_is_shown_within_a_minute() {
    let (authority, clients, files) = (Authority::new(), Authority::new(), Files::new());
    let demands = Demands { clients_of: Some(clients.0.der().clone()), ..ANY };
    let server = Server::start(&authority, demands).await;
    let ca = files.put("ca.pem", &authority.pem());
    let first = clients.sign("first", ExtendedKeyUsagePurpose::ClientAuth);
    let second = clients.sign("the second one", ExtendedKeyUsagePurpose::ClientAuth);
    let (certificate, key) = files.put_client(&first);
    let connection = json!({"ca_file": ca, "client_certificate_file": certificate, "client_key_file": key});
    let exporter = exporter(&server.url, connection).unwrap();
    exporter.check().await.unwrap();
    files.put_client(&second);
    exporter.check().await.unwrap();
    pass(Duration::from_secs(61)).await;
    exporter.check().await.unwrap();
    let [first, second] = [first, second].map(|signed| Some(signed.certificate));
    assert_eq!(server.clients(), [first.clone(), first, second]);
}

/// Goal: the same over gRPC, whose connections live long. Method: TLS in front of a server that speaks it, which notes
/// the certificate of each connection.
#[cfg(feature = "otlp")]
#[tokio::test]
async fn over_grpc_new_files_are_taken_up_too() {
    use logship_exporters::otlp::Otlp;
    use logship_testkit::strict::otlp::StrictOtlp;

    let (old, new, clients, files) = (Authority::new(), Authority::new(), Authority::new(), Files::new());
    let behind = StrictOtlp::start().await.unwrap();
    let demands = Demands { clients_of: Some(clients.0.der().clone()), ..ANY };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let mut config = Arc::unwrap_or_clone(server_config(&new, demands));
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let seen: Arc<Mutex<Vec<CertificateDer<'static>>>> = Arc::default();
    let (noted, plain) = (Arc::clone(&seen), behind.url().trim_start_matches("http://").to_owned());
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (acceptor, noted, plain) = (acceptor.clone(), Arc::clone(&noted), plain.clone());
            tokio::spawn(async move {
                let mut stream = acceptor.accept(stream).await?;
                let shown = stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned();
                noted.lock().unwrap().push(shown);
                let mut server = tokio::net::TcpStream::connect(plain).await?;
                tokio::io::copy_bidirectional(&mut stream, &mut server).await
            });
        }
    });

    let ca = files.put("ca.pem", &old.pem());
    let first = clients.sign("first", ExtendedKeyUsagePurpose::ClientAuth);
    let second = clients.sign("the second one", ExtendedKeyUsagePurpose::ClientAuth);
    let (certificate, key) = files.put_client(&first);
    let Value::Object(fields) = json!({"endpoint": url, "protocol": "grpc", "connection": {
        "ca_file": ca, "client_certificate_file": certificate, "client_key_file": key}})
    else {
        unreachable!()
    };
    let exporter = Otlp::new(read_fields(fields).unwrap(), BuildContext::default()).unwrap();
    let error = exporter.check().await.unwrap_err();
    assert_eq!((error.kind(), error.certainty()), (ErrorKind::Unavailable, Certainty::NotDelivered), "{error}");
    assert!(error.to_string().contains("TLS"), "{error}");
    // The handshake failed, so the next call looks at the files.
    files.put("ca.pem", &(old.pem() + &new.pem()));
    exporter.check().await.unwrap();
    files.put_client(&second);
    exporter.check().await.unwrap();
    assert_eq!(seen.lock().unwrap().len(), 1, "one connection, as long as nothing is looked at");
    pass(Duration::from_secs(61)).await;
    exporter.check().await.unwrap();
    assert_eq!(*seen.lock().unwrap(), [first.certificate, second.certificate]);
}

/// Lets the clock run ahead, while nothing is under way.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

#[tokio::test]
async fn a_proxy_and_headers_of_every_request_are_as_configured() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let heads: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = Arc::clone(&heads);
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        answer_all(&mut stream, &|head| seen.lock().unwrap().push(head.to_lowercase())).await
    });
    let connection = json!({
        "proxy": format!("http://us%65r:hunter2@{address}"), "user_agent": "acme-ships/2",
        "headers": {"X-Gateway": "sw0rdfish"},
    });
    let exporter = exporter("http://logs.invalid/in", connection).unwrap();
    exporter.check().await.unwrap();
    let head = heads.lock().unwrap()[0].clone();
    assert!(head.starts_with("head http://logs.invalid/in http/1.1"), "{head}");
    for line in
        ["user-agent: acme-ships/2\r\n", "x-gateway: sw0rdfish\r\n", "proxy-authorization: basic dxnlcjpodw50zxiy"]
    {
        assert!(head.contains(line), "{head}");
    }
    let shown = format!("{exporter:?}");
    assert!(!shown.contains("hunter2") && !shown.contains("sw0rdfish"), "{shown}");
}

#[test]
fn a_wrong_setting_is_named() {
    let (authority, files) = (Authority::new(), Files::new());
    let signed = [1, 2].map(|_| authority.sign("x", ExtendedKeyUsagePurpose::ClientAuth));
    let certificate = files.put("client.pem", &pem_of(&signed[0].certificate));
    let other_key = files.put("other.key", &signed[1].key.serialize_pem());
    let absent = Path::new("/absent/file.pem");
    for (connection, field) in [
        (json!({"ca_file": absent}), "connection.ca_file"),
        (json!({"system_roots": false}), "connection.ca_file"),
        (json!({"client_certificate_file": certificate}), "connection.client_key_file"),
        (json!({"client_key_file": other_key}), "connection.client_certificate_file"),
        (json!({"client_certificate_file": certificate, "client_key_file": absent}), "connection.client_key_file"),
        (
            json!({"client_certificate_file": absent, "client_key_file": other_key}),
            "connection.client_certificate_file",
        ),
        (json!({"client_certificate_file": certificate, "client_key_file": other_key}), "connection.client_key_file"),
        (json!({"tls_version_min": "1.1"}), "connection.tls_version_min"),
        (json!({"proxy": "socks5://hunter2@host"}), "connection.proxy"),
        (json!({"proxy": {"env": "LOGSHIP_TEST_NOT_SET"}}), "connection.proxy"),
        (json!({"headers": {"a b": "hunter2"}}), "connection.headers.a b"),
        (json!({"headers": {"Content-Type": "hunter2"}}), "connection.headers.Content-Type"),
        (json!({"headers": {"x": "hunter2\n"}}), "connection.headers.x"),
        (json!({"user_agent": "a\nb"}), "connection.user_agent"),
        (json!({"verify": false}), "connection.verify"),
    ] {
        let shown = connection.to_string();
        let error = exporter("https://localhost", connection).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{shown}");
        assert!(error.to_string().contains(&format!("field: {field}")), "{shown}: {error}");
        assert!(!format!("{error:?}").contains("hunter2"), "{shown}: {error}");
    }
}
