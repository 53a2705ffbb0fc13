//! The stores of objects keep the contract of `OffsetStore`: over a bucket in memory, against what stands for S3 and
//! Azure, and against a stand-in of ours for Google: the other one takes writes whatever their condition.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![cfg(any(feature = "azure_blob", feature = "gcs", feature = "s3"))]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use logship_connect::Connection;
use logship_connect::objects::object_store::memory::InMemory;
use logship_connect::objects::object_store::path::Path;
use logship_connect::objects::object_store::{ObjectStore, ObjectStoreExt};
use logship_core::{BuildContext, Cursor, Error, ErrorKind, OffsetKey, OffsetStore, async_trait};
use logship_state::objects::{Bucket, ObjectOffsets, Write};
use logship_testkit::conformance::offset_store::{OffsetStoreFixture, TTL, key, moved};
use logship_testkit::conformance::server;
use logship_testkit::offset_store_conformance;
use logship_testkit::proxy::{FaultProxy, ProxyFault};

const PREFIX: &str = "company/state";

#[derive(Debug, Default)]
struct Memory(Arc<InMemory>);

#[async_trait]
impl Bucket for Memory {
    async fn store(&self) -> Result<Arc<dyn ObjectStore>, Error> {
        Ok(Arc::clone(&self.0) as _)
    }

    async fn refresh(&self) -> Result<(), Error> {
        Ok(())
    }

    fn uri(&self, key: &Path) -> String {
        format!("memory://{key}")
    }
}

/// A bucket of a test's own, which is empty.
struct Fixture {
    bucket: Arc<dyn Bucket>,
    open: Box<dyn Fn() -> ObjectOffsets + Send + Sync>,
}

impl Fixture {
    fn in_memory() -> Self {
        let bucket: Arc<dyn Bucket> = Arc::new(Memory::default());
        let opened = Arc::clone(&bucket);
        let open = move || ObjectOffsets::new("memory", Arc::clone(&opened), PREFIX, Write::EachCommit).unwrap();
        Fixture { bucket, open: Box::new(open) }
    }

    async fn read(&self, key: &OffsetKey) -> Option<String> {
        let path = Path::from(format!("{PREFIX}/{key}.offsets.json"));
        let found = self.bucket.store().await.unwrap().get(&path).await.ok()?;
        Some(String::from_utf8(found.bytes().await.unwrap().to_vec()).unwrap())
    }

    async fn write(&self, key: &OffsetKey, text: String) {
        let path = Path::from(format!("{PREFIX}/{key}.offsets.json"));
        self.bucket.store().await.unwrap().put(&path, text.into()).await.unwrap();
    }
}

#[async_trait]
impl OffsetStoreFixture for Fixture {
    async fn open(&self) -> Box<dyn OffsetStore> {
        Box::new((self.open)())
    }

    /// No store's clock can be moved, so the stored times to live are shortened.
    async fn pass(&self, time: Duration) -> bool {
        let store = self.bucket.store().await.unwrap();
        let found = store.list_with_delimiter(Some(&Path::from(PREFIX))).await.unwrap();
        for object in found.objects {
            let name = object.location.filename().unwrap().strip_suffix(".offsets.json").unwrap();
            let name = OffsetKey::new(name).unwrap();
            let mut state: serde_json::Value = serde_json::from_str(&self.read(&name).await.unwrap()).unwrap();
            if let Some(ttl) = state["lease"]["ttl_ms"].as_i64() {
                state["lease"]["ttl_ms"] = (ttl - time.as_millis() as i64).into();
                self.write(&name, state.to_string()).await;
            }
        }
        true
    }

    async fn damage(&self, key: &OffsetKey) -> bool {
        self.write(key, "{".to_owned()).await;
        true
    }

    async fn text(&self, key: &OffsetKey) -> Option<String> {
        self.read(key).await
    }
}

offset_store_conformance!(in_memory, async |_| Some(Fixture::in_memory()));

/// A name that nobody has had, also not in another run against the same server.
fn new_name() -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("state-{}-{}-{number}", std::time::UNIX_EPOCH.elapsed().unwrap().as_millis(), std::process::id())
}

#[cfg(feature = "s3")]
mod s3 {
    use super::*;
    use logship_connect::objects::{S3Bucket, S3Config};

    /// A store in a new bucket, at this address, which may be that of a proxy.
    pub(super) async fn bucket(url: &str) -> String {
        let client = Connection::default().client("make a bucket", &BuildContext::default()).unwrap();
        let name = new_name();
        assert!(client.put(format!("{url}/{name}")).send().await.unwrap().status().is_success());
        name
    }

    fn aws(url: &str) -> serde_json::Value {
        serde_json::json!({
            "region": "us-east-1", "endpoint": url,
            "credentials": {"static": {"access_key_id": "AKIDEXAMPLE", "secret_access_key": "hunter2hunter2"}},
        })
    }

    pub(super) fn store(url: &str, bucket: &str, write: &str) -> ObjectOffsets {
        let config = serde_json::json!({"url": format!("s3://{bucket}/{PREFIX}"), "aws": aws(url), "write": write});
        ObjectOffsets::s3(&serde_json::from_value(config).unwrap(), &BuildContext::default()).unwrap()
    }

    async fn fixture(_: &str) -> Option<Fixture> {
        let url = server("LOGSHIP_MOTO_URL")?;
        let name = bucket(&url).await;
        let mut config = S3Config::new(&name);
        config.aws = serde_json::from_value(aws(&url)).unwrap();
        let (bucket, _) = S3Bucket::new(&config, &BuildContext::default()).unwrap();
        Some(Fixture { bucket: Arc::new(bucket), open: Box::new(move || store(&url, &name, "each_commit")) })
    }

    offset_store_conformance!(fixture);
}

#[cfg(feature = "gcs")]
mod gcs {
    use super::*;
    use logship_connect::google::GoogleCredentials;
    use logship_connect::objects::{GcsBucket, GcsConfig};
    use logship_connect::token::{AccessToken, TokenProvider};
    use logship_state::gcs::GcsOffsetsConfig;
    use logship_testkit::strict::gcs::StrictGcs;

    #[derive(Debug)]
    struct Known;

    #[async_trait]
    impl TokenProvider for Known {
        async fn token(&self, _: &str) -> Result<AccessToken, Error> {
            Ok(AccessToken::new("ya29.hunter2hunter2", Duration::from_secs(3_600)))
        }
    }

    async fn fixture(_: &str) -> Option<Fixture> {
        let server = StrictGcs::start("state", "ya29.hunter2hunter2").await.unwrap();
        let mut config = GcsConfig::new("state");
        config.endpoint = Some(server.url());
        config.credentials = GoogleCredentials::Provider(Arc::new(Known));
        let (bucket, _) = GcsBucket::new(&config, &BuildContext::default()).unwrap();
        let open = move || {
            let config = serde_json::json!({"url": format!("gs://state/{PREFIX}"), "endpoint": server.url()});
            let mut config: GcsOffsetsConfig = serde_json::from_value(config).unwrap();
            config.credentials = GoogleCredentials::Provider(Arc::new(Known));
            ObjectOffsets::gcs(&config, &BuildContext::default()).unwrap()
        };
        Some(Fixture { bucket: Arc::new(bucket), open: Box::new(open) })
    }

    offset_store_conformance!(fixture);
}

#[cfg(feature = "azure_blob")]
mod azure_blob {
    use super::*;
    use logship_connect::objects::object_store::azure::{AzureAccessKey, AzureAuthorizer, AzureCredential};
    use logship_connect::objects::object_store::client::{HttpRequest, HttpRequestBody};
    use logship_connect::objects::{AzureBlobConfig, AzureContainer};

    /// The account that Azurite has, and the key that its documents give away.
    const ACCOUNT: &str = "devstoreaccount1";
    const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

    async fn fixture(_: &str) -> Option<Fixture> {
        let url = format!("{}/{ACCOUNT}", server("LOGSHIP_AZURITE_URL")?);
        let name = new_name();
        let credential = AzureCredential::AccessKey(AzureAccessKey::try_new(KEY).unwrap());
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.method_mut() = "PUT".parse().unwrap();
        *request.uri_mut() = format!("{url}/{name}?restype=container").parse().unwrap();
        request.headers_mut().insert("content-length", "0".parse().unwrap());
        AzureAuthorizer::new(&credential, ACCOUNT).try_authorize(&mut request).unwrap();
        let client = Connection::default().client("make a container", &BuildContext::default()).unwrap();
        let made = client.put(request.uri().to_string()).headers(request.headers().clone()).send().await.unwrap();
        assert!(made.status().is_success(), "{made:?}");
        let mut config = AzureBlobConfig::new(&name);
        config.account = Some(ACCOUNT.to_owned());
        config.endpoint = Some(url.clone());
        config.account_key = Some(KEY.into());
        let (container, _) = AzureContainer::new(&config, &BuildContext::default()).unwrap();
        let open = move || {
            let config = serde_json::json!({
                "url": format!("az://{name}/{PREFIX}"), "account": ACCOUNT, "endpoint": url, "account_key": KEY,
            });
            ObjectOffsets::azure_blob(&serde_json::from_value(config).unwrap(), &BuildContext::default()).unwrap()
        };
        Some(Fixture { bucket: Arc::new(container), open: Box::new(open) })
    }

    offset_store_conformance!(fixture);
}

/// Goal: a lease ends by the store's clock, a second after its time at the most, and not before. Method: real time.
async fn ends_in_time(store: ObjectOffsets, other: ObjectOffsets) {
    let ttl = Duration::from_secs(1);
    store.acquire(&key("k"), "gone", ttl).await.unwrap();
    let began = Instant::now();
    loop {
        match other.acquire(&key("k"), "next", TTL).await {
            Ok(_) => break,
            Err(error) => assert_eq!(error.kind(), ErrorKind::Busy, "{error}"),
        }
        assert!(began.elapsed() < Duration::from_secs(10), "the lease does not end");
        tokio::task::yield_now().await;
    }
    assert!(began.elapsed() >= ttl - Duration::from_millis(100), "it ended after {:?}", began.elapsed());
}

#[tokio::test]
async fn c4_a_lease_in_memory_ends_in_time() {
    let fixture = Fixture::in_memory();
    ends_in_time((fixture.open)(), (fixture.open)()).await;
}

#[cfg(feature = "s3")]
#[tokio::test]
async fn c4_a_lease_ends_by_the_servers_clock() {
    let Some(url) = server("LOGSHIP_MOTO_URL") else { return };
    let name = s3::bucket(&url).await;
    ends_in_time(s3::store(&url, &name, "each_commit"), s3::store(&url, &name, "each_commit")).await;
}

/// Goal: a commit that was made although nobody was told is not taken for somebody else's, and nothing of it is lost.
#[cfg(feature = "s3")]
#[tokio::test]
async fn c1_a_commit_whose_answer_was_lost_hinders_no_other() {
    let Some(url) = server("LOGSHIP_MOTO_URL") else { return };
    let proxy = FaultProxy::start(&url).await.unwrap();
    let store = s3::store(&proxy.url(), &s3::bucket(&url).await, "each_commit");
    let lease = store.acquire(&key("k"), "me", TTL).await.unwrap();
    for number in 1..4 {
        proxy.fail_next(1, ProxyFault::LoseAnswer);
        let error = store.commit(&lease, &moved("es", "p", Cursor::number(number))).await.unwrap_err();
        assert!(error.is_retryable(), "{error}");
        store.commit(&lease, &moved("file", "p", Cursor::number(number))).await.unwrap();
        let lanes = store.load(&lease.key).await.unwrap().lanes;
        assert_eq!(lanes["es"].cursors["p"], Cursor::number(number));
        assert_eq!(lanes["file"].cursors["p"], Cursor::number(number));
    }
    proxy.fail_next(1, ProxyFault::LoseAnswer);
    assert!(store.renew(&lease, TTL).await.unwrap_err().is_retryable());
    store.renew(&lease, TTL).await.unwrap();
    store.release(&lease).await.unwrap();
}

/// Goal: row C5: one read and two writes a run, however much is committed.
#[cfg(feature = "s3")]
#[tokio::test]
async fn c5_a_run_that_writes_at_its_end_reads_once_and_writes_twice() {
    let Some(url) = server("LOGSHIP_MOTO_URL") else { return };
    let proxy = FaultProxy::start(&url).await.unwrap();
    let bucket = s3::bucket(&url).await;
    let store = s3::store(&proxy.url(), &bucket, "at_end");
    let lease = store.acquire(&key("k"), "me", TTL).await.unwrap();
    assert!(store.load(&lease.key).await.unwrap().lanes.is_empty());
    for number in 1..10 {
        store.commit(&lease, &moved("es", "p", Cursor::number(number))).await.unwrap();
    }
    let other = s3::store(&url, &bucket, "at_end");
    assert!(other.load(&lease.key).await.unwrap().lanes.is_empty(), "nothing is written yet");
    store.release(&lease).await.unwrap();
    let methods: Vec<String> = proxy.requests().into_iter().map(|request| request.method).collect();
    assert_eq!(methods, ["GET", "PUT", "PUT"]);
    assert_eq!(other.load(&lease.key).await.unwrap().lanes["es"].cursors["p"], Cursor::number(9));
}

fn at_end(bucket: &Arc<dyn Bucket>) -> ObjectOffsets {
    ObjectOffsets::new("memory", Arc::clone(bucket), PREFIX, Write::AtEnd).unwrap()
}

#[tokio::test]
async fn what_is_written_at_the_end_is_also_written_with_the_lease() {
    let fixture = Fixture::in_memory();
    let store = at_end(&fixture.bucket);
    let lease = store.acquire(&key("k"), "me", TTL).await.unwrap();
    store.commit(&lease, &moved("es", "p", Cursor::number(1))).await.unwrap();
    store.renew(&lease, TTL).await.unwrap();
    store.commit(&lease, &moved("es", "p", Cursor::number(2))).await.unwrap();
    assert_eq!(store.load(&lease.key).await.unwrap().lanes["es"].cursors["p"], Cursor::number(2), "its own commits");
    // The process ends without giving the lease back: what was not written is shipped again.
    drop(store);
    let next = at_end(&fixture.bucket);
    assert_eq!(next.load(&lease.key).await.unwrap().lanes["es"].cursors["p"], Cursor::number(1));
}

#[tokio::test]
async fn what_was_to_be_written_at_the_end_and_was_fenced_is_an_error() {
    let fixture = Fixture::in_memory();
    let store = at_end(&fixture.bucket);
    let lease = store.acquire(&key("k"), "me", TTL).await.unwrap();
    store.commit(&lease, &moved("es", "p", Cursor::number(1))).await.unwrap();
    fixture.pass(TTL * 2).await;
    let other = at_end(&fixture.bucket);
    let newer = other.acquire(&key("k"), "other", TTL).await.unwrap();
    assert_eq!(store.release(&lease).await.unwrap_err().kind(), ErrorKind::Fenced);
    other.release(&newer).await.unwrap();
    assert!(other.load(&lease.key).await.unwrap().lanes.is_empty());
}

/// Goal: a run whose offsets were lost can be told from one that merely kept its lease.
#[tokio::test]
async fn what_could_not_be_written_at_the_end_is_an_error_that_says_so() {
    let bucket = Arc::new(Faulty::default());
    let store = at_end(&(Arc::clone(&bucket) as _));
    for (is_ahead, kind) in [(true, ErrorKind::State), (false, ErrorKind::Auth)] {
        let lease = store.acquire(&key(if is_ahead { "ahead" } else { "idle" }), "me", TTL).await.unwrap();
        if is_ahead {
            store.commit(&lease, &moved("es", "p", Cursor::number(1))).await.unwrap();
        }
        bucket.refuses.store(true, Ordering::SeqCst);
        let error = store.release(&lease).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        bucket.refuses.store(false, Ordering::SeqCst);
        // What is still known is written by whoever tries again.
        store.release(&lease).await.unwrap();
    }
    assert_eq!(store.load(&key("ahead")).await.unwrap().lanes["es"].cursors["p"], Cursor::number(1));
}

/// A bucket that does not answer the next request, or lets nobody in.
#[derive(Debug, Default)]
struct Faulty {
    memory: Memory,
    hangs: AtomicBool,
    refuses: AtomicBool,
}

#[async_trait]
impl Bucket for Faulty {
    async fn store(&self) -> Result<Arc<dyn ObjectStore>, Error> {
        if self.hangs.swap(false, Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        if self.refuses.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Auth, "open", "not let in"));
        }
        self.memory.store().await
    }

    async fn refresh(&self) -> Result<(), Error> {
        Ok(())
    }

    fn uri(&self, key: &Path) -> String {
        self.memory.uri(key)
    }
}

#[tokio::test]
async fn a_commit_that_hangs_holds_up_no_other_key() {
    let bucket = Arc::new(Faulty::default());
    let store = ObjectOffsets::new("memory", Arc::clone(&bucket) as _, PREFIX, Write::EachCommit).unwrap();
    let one = store.acquire(&key("one"), "me", TTL).await.unwrap();
    let other = store.acquire(&key("other"), "me", TTL).await.unwrap();
    bucket.hangs.store(true, Ordering::SeqCst);
    let delta = moved("es", "p", Cursor::number(1));
    tokio::select! {
        biased;
        done = store.commit(&one, &delta) => panic!("it did not hang: {done:?}"),
        done = store.renew(&other, TTL) => done.unwrap(),
    }
}

/// Goal: the handle of a run that is restarted elsewhere moves what the same lease may move.
#[tokio::test]
async fn c2_a_lease_is_good_at_any_handle() {
    let fixture = Fixture::in_memory();
    let lease = (fixture.open)().acquire(&key("k"), "me", TTL).await.unwrap();
    let other = (fixture.open)();
    other.commit(&lease, &moved("es", "p", Cursor::number(1))).await.unwrap();
    (fixture.open)().release(&lease).await.unwrap();
    assert_eq!(other.commit(&lease, &moved("es", "p", Cursor::number(2))).await.unwrap_err().kind(), ErrorKind::Fenced);
}

#[tokio::test]
async fn c5_a_newer_form_and_another_keys_object_are_refused() {
    let fixture = Fixture::in_memory();
    let store = (fixture.open)();
    let lease = store.acquire(&key("k"), "me", TTL).await.unwrap();
    store.release(&lease).await.unwrap();
    let text = fixture.read(&key("k")).await.unwrap();
    fixture.write(&key("k"), text.replace("\"version\": 1", "\"version\": 2")).await;
    let error = store.load(&key("k")).await.unwrap_err();
    assert!(error.kind() == ErrorKind::State && error.to_string().contains("version 2"), "{error}");
    fixture.write(&key("other"), text).await;
    let error = store.load(&key("other")).await.unwrap_err();
    assert!(error.kind() == ErrorKind::State && error.to_string().contains("belongs to the key `k`"), "{error}");
}

#[cfg(all(feature = "azure_blob", feature = "gcs", feature = "s3"))]
#[test]
fn a_wrong_address_is_refused_before_anybody_is_asked() {
    let mut registry = logship_core::Registry::new();
    logship_state::register(&mut registry);
    for (name, fields, field) in [
        ("s3", r#"{"url": "gs://bucket"}"#, "url"),
        ("s3", r#"{"url": "s3://"}"#, "url"),
        ("s3", r#"{"url": "s3://Bucket/x"}"#, "bucket"),
        ("s3", r#"{"url": "s3://bucket/a//b"}"#, "url"),
        ("s3", r#"{"url": "s3://bucket/../b"}"#, "url"),
        ("s3", r#"{"url": "s3://hunter2:hunter2@bucket/b"}"#, "url"),
        ("s3", r#"{"url": "s3://bucket", "write": "never"}"#, "write"),
        ("s3", r#"{}"#, "url"),
        ("gcs", r#"{"url": "gcs://bucket", "credentials": "none"}"#, "url"),
        ("gcs", r#"{"url": "gs://bucket", "credentials": {"service_account": "hunter2"}}"#, "credentials"),
        ("azure_blob", r#"{"url": "az://container", "account_key": "aHVudGVyMg=="}"#, "account"),
        ("azure_blob", r#"{"url": "az://container", "account": "a", "account_key": "hunter2!"}"#, "account_key"),
        ("azure_blob", r#"{"url": "az://c", "account": "a", "account_key": "aHVudGVyMg=="}"#, "container"),
    ] {
        let error = registry.store(name, serde_json::from_str(fields).unwrap(), &BuildContext::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{fields}: {error}");
        assert!(error.to_string().contains(field) && !format!("{error:?}").contains("hunter2"), "{fields}: {error}");
    }
}
