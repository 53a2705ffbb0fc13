//! What stands for the clouds, each test with a bucket of its own and a proxy in front that fails on request; and a
//! bucket in memory, which needs nothing.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::TryStreamExt;
use ion_rs::Element;
use logship_connect::Connection;
use logship_connect::objects::object_store::path::Path;
use logship_connect::objects::object_store::{ObjectStore, ObjectStoreExt};
use logship_core::{BuildContext, Exporter, async_trait};
use logship_exporters::objects::{Bucket, ObjectExporter};
use logship_testkit::conformance::exporter::{ExporterFixture, Request, World};
use logship_testkit::conformance::server;
use logship_testkit::proxy::{FaultProxy, ProxyFault};
use serde_json::{Value, json};

use super::nowhere;

/// A cloud's own words for what can go wrong.
pub(crate) struct Words {
    pub(crate) busy: ProxyFault,
    pub(crate) denied: ProxyFault,
    pub(crate) refused: ProxyFault,
}

/// A bucket behind a proxy, and how to write to it.
pub(crate) struct Cloud {
    pub(crate) proxy: FaultProxy,
    /// The same bucket, not through the proxy.
    pub(crate) bucket: Arc<dyn Bucket>,
    pub(crate) fields: fn(url: &str, name: &str) -> Value,
    pub(crate) build: fn(Value) -> ObjectExporter,
    pub(crate) words: fn() -> Words,
    pub(crate) secrets: &'static [&'static str],
    pub(crate) name: String,
    /// The server, where it is one of ours.
    #[cfg(feature = "gcs")]
    pub(crate) strict: Option<logship_testkit::strict::gcs::StrictGcs>,
}

impl Cloud {
    /// An exporter with these fields beside those that lead to the bucket.
    pub(crate) fn exporter(&self, more: &Value) -> ObjectExporter {
        (self.build)(merged((self.fields)(&self.proxy.url(), &self.name), more))
    }

    /// The keys and contents of all objects, in order.
    pub(crate) async fn objects(&self) -> Vec<(String, Vec<u8>)> {
        objects(&*self.bucket.store().await.unwrap()).await
    }
}

pub(crate) fn merged(fields: Value, more: &Value) -> Value {
    let (Value::Object(mut fields), Value::Object(more)) = (fields, more.clone()) else { unreachable!() };
    fields.extend(more);
    Value::Object(fields)
}

pub(crate) async fn objects(store: &dyn ObjectStore) -> Vec<(String, Vec<u8>)> {
    let mut keys: Vec<Path> = store.list(None).map_ok(|found| found.location).try_collect().await.unwrap();
    keys.sort();
    let mut objects = Vec::new();
    for key in keys {
        let bytes = store.get(&key).await.unwrap().bytes().await.unwrap();
        objects.push((key.to_string(), bytes.to_vec()));
    }
    objects
}

/// What other programs than ours read in an object, as its name says.
pub(crate) fn lines(key: &str, bytes: &[u8]) -> Vec<String> {
    let mut text = String::new();
    let unpacked = match key.rsplit_once('.').unwrap().1 {
        "gz" => flate2::read::GzDecoder::new(bytes).read_to_string(&mut text),
        "zst" => zstd::Decoder::new(bytes).unwrap().read_to_string(&mut text),
        _ => { bytes }.read_to_string(&mut text),
    };
    unpacked.unwrap();
    let body = |line: &str| match key.contains(".ion") {
        true => {
            let row = Element::read_one(line).unwrap();
            row.as_struct().unwrap().get("bodyValue").unwrap().as_string().unwrap().to_owned()
        }
        false => serde_json::from_str::<Value>(line).unwrap()["bodyValue"].as_str().unwrap().to_owned(),
    };
    text.lines().map(body).collect()
}

/// A name that nobody has had, also not in another run against the same server.
pub(crate) fn new_name() -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let since = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis();
    format!("logship-{since}-{}-{number}", std::process::id())
}

/// Sends a request by our own client and expects a success.
async fn make(request: impl FnOnce(&reqwest::Client) -> reqwest::RequestBuilder) {
    let client = Connection::default().client("make a bucket", &BuildContext::default()).unwrap();
    let answer = request(&client).send().await.unwrap();
    let status = answer.status();
    assert!(status.is_success(), "{status}: {}", answer.text().await.unwrap());
}

fn xml(code: &str) -> String {
    format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>as asked</Message></Error>")
}

#[cfg(feature = "s3")]
pub(crate) mod s3 {
    use super::*;
    use logship_connect::objects::{S3Bucket, S3Config};

    fn fields(url: &str, name: &str) -> Value {
        json!({
            "bucket": name,
            "aws": {
                "region": "us-east-1", "endpoint": url,
                "credentials": {"static": {"access_key_id": "AKIDEXAMPLE", "secret_access_key": "hunter2hunter2"}},
            },
        })
    }

    pub(crate) async fn cloud() -> Option<Cloud> {
        let url = server("LOGSHIP_MOTO_URL")?;
        let name = new_name();
        make(|client| client.put(format!("{url}/{name}"))).await;
        let mut config = S3Config::new(&name);
        config.aws = serde_json::from_value(fields(&url, &name)["aws"].clone()).unwrap();
        let (bucket, _) = S3Bucket::new(&config, &BuildContext::default()).unwrap();
        Some(Cloud {
            proxy: FaultProxy::start(&url).await.unwrap(),
            bucket: Arc::new(bucket),
            fields,
            build: |fields| ObjectExporter::s3(serde_json::from_value(fields).unwrap(), Default::default()).unwrap(),
            words: || Words {
                busy: ProxyFault::answer(503, xml("SlowDown")),
                denied: ProxyFault::answer(403, xml("AccessDenied")),
                refused: ProxyFault::answer(404, xml("NoSuchBucket")),
            },
            secrets: &["hunter2hunter2"],
            name,
            #[cfg(feature = "gcs")]
            strict: None,
        })
    }
}

#[cfg(feature = "gcs")]
pub(crate) mod gcs {
    use super::*;
    use logship_connect::google::GoogleCredentials;
    use logship_connect::objects::{GcsBucket, GcsConfig};
    use logship_connect::token::{AccessToken, TokenProvider};
    use logship_core::Error;
    use logship_testkit::strict::gcs::StrictGcs;

    pub(crate) const TOKEN: &str = "ya29.hunter2hunter2";

    /// Gives out the same token for ever.
    #[derive(Debug)]
    struct Known;

    #[async_trait]
    impl TokenProvider for Known {
        async fn token(&self, _: &str) -> Result<AccessToken, Error> {
            Ok(AccessToken::new(TOKEN, std::time::Duration::from_secs(3_600)))
        }
    }

    fn fields(url: &str, name: &str) -> Value {
        json!({"bucket": name, "endpoint": url})
    }

    /// What stands for Google on PyPI takes writes whatever their condition, does not list as we do, and lets anybody
    /// in; so this is a stand-in of ours.
    pub(crate) async fn cloud() -> Option<Cloud> {
        let name = new_name();
        let server = StrictGcs::start(&name, TOKEN).await.unwrap();
        let url = server.url();
        let mut config = GcsConfig::new(&name);
        config.endpoint = Some(url.clone());
        config.credentials = GoogleCredentials::Provider(Arc::new(Known));
        let (bucket, _) = GcsBucket::new(&config, &BuildContext::default()).unwrap();
        Some(Cloud {
            proxy: FaultProxy::start(&url).await.unwrap(),
            bucket: Arc::new(bucket),
            fields,
            build: |fields| {
                let mut config: logship_exporters::gcs::GcsConfig = serde_json::from_value(fields).unwrap();
                config.credentials = GoogleCredentials::Provider(Arc::new(Known));
                ObjectExporter::gcs(config, BuildContext::default()).unwrap()
            },
            words: || Words {
                busy: ProxyFault::answer(429, xml("SlowDown")).header("retry-after", "0"),
                denied: ProxyFault::answer(403, xml("AccessDenied")),
                refused: ProxyFault::answer(404, xml("NoSuchBucket")),
            },
            secrets: &[TOKEN],
            name,
            strict: Some(server),
        })
    }
}

#[cfg(feature = "azure_blob")]
pub(crate) mod azure_blob {
    use super::*;
    use logship_connect::objects::object_store::azure::{AzureAccessKey, AzureAuthorizer, AzureCredential};
    use logship_connect::objects::object_store::client::{HttpRequest, HttpRequestBody};
    use logship_connect::objects::{AzureBlobConfig, AzureContainer};

    /// The account that Azurite has, and the key that its documents give away.
    const ACCOUNT: &str = "devstoreaccount1";
    const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

    fn fields(url: &str, name: &str) -> Value {
        json!({"container": name, "account": ACCOUNT, "endpoint": format!("{url}/{ACCOUNT}"), "account_key": KEY})
    }

    pub(crate) async fn cloud() -> Option<Cloud> {
        let url = server("LOGSHIP_AZURITE_URL")?;
        let name = new_name();
        let key = AzureCredential::AccessKey(AzureAccessKey::try_new(KEY).unwrap());
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.method_mut() = reqwest::Method::PUT;
        *request.uri_mut() = format!("{url}/{ACCOUNT}/{name}?restype=container").parse().unwrap();
        request.headers_mut().insert("content-length", reqwest::header::HeaderValue::from_static("0"));
        AzureAuthorizer::new(&key, ACCOUNT).try_authorize(&mut request).unwrap();
        make(|client| client.put(request.uri().to_string()).headers(request.headers().clone())).await;
        let mut config = AzureBlobConfig::new(&name);
        config.account = Some(ACCOUNT.to_owned());
        config.endpoint = Some(format!("{url}/{ACCOUNT}"));
        config.account_key = Some(KEY.into());
        let (container, _) = AzureContainer::new(&config, &BuildContext::default()).unwrap();
        Some(Cloud {
            proxy: FaultProxy::start(&url).await.unwrap(),
            bucket: Arc::new(container),
            fields,
            build: |fields| {
                ObjectExporter::azure_blob(serde_json::from_value(fields).unwrap(), Default::default()).unwrap()
            },
            words: || Words {
                busy: ProxyFault::answer(503, xml("ServerBusy")).header("x-ms-error-code", "ServerBusy"),
                denied: ProxyFault::answer(403, xml("AuthorizationPermissionMismatch"))
                    .header("x-ms-error-code", "AuthorizationPermissionMismatch"),
                refused: ProxyFault::answer(404, xml("ContainerNotFound"))
                    .header("x-ms-error-code", "ContainerNotFound"),
            },
            secrets: &[KEY],
            name,
            #[cfg(feature = "gcs")]
            strict: None,
        })
    }
}

/// Small enough that the suite sees the limits.
fn limits() -> Value {
    json!({"max_lines_per_file": 30, "max_bytes_per_file": 8_000, "prefix": "archive/%Y/%m/%d/kit"})
}

#[async_trait]
impl ExporterFixture for Cloud {
    async fn open(&self) -> Arc<dyn Exporter> {
        Arc::new(self.exporter(&limits()))
    }

    async fn held(&self) -> Vec<String> {
        self.objects().await.iter().flat_map(|(key, bytes)| lines(key, bytes)).collect()
    }

    async fn play(&self, world: World, requests: usize) -> bool {
        let words = (self.words)();
        let fault = match world {
            World::Busy => words.busy,
            World::BrokenBefore => ProxyFault::DropUnread,
            World::AnswerLost => ProxyFault::LoseAnswer,
            World::Denied => words.denied,
            World::Refused => words.refused,
            _ => return false,
        };
        self.proxy.fail_next(requests, fault);
        true
    }

    async fn unreachable(&self) -> Option<Arc<dyn Exporter>> {
        Some(Arc::new((self.build)(merged((self.fields)(&nowhere().await, &self.name), &limits()))))
    }

    fn secrets(&self) -> Vec<String> {
        self.secrets.iter().map(|secret| (*secret).to_owned()).collect()
    }

    async fn requests(&self) -> Option<Vec<Request>> {
        let uploads = self.proxy.requests().into_iter().filter(|request| request.is_upload());
        let request = |request: logship_testkit::proxy::ProxiedRequest| Request {
            records: request.body.iter().filter(|byte| **byte == b'\n').count(),
            body_bytes: request.body.len(),
            wire_bytes: request.body.len(),
        };
        Some(uploads.map(request).collect())
    }
}
