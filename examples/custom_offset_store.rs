//! An offset store of one's own: `redb`, an embedded database of pure Rust, with a JSON text for each key.
//!
//! What you will see: a file is shipped to the terminal, its offset is kept, and so a second run has nothing to ship. It
//! passes the suite of `logship-testkit` (`tests/third_party.rs`).
//!
//!     cargo run --example custom_offset_store

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use logship::config::ShipperConfig;
use logship::{
    BuildContext, Error, ErrorKind, Lease, OffsetDocument, OffsetKey, OffsetStore, Offsets, OffsetsDelta, Registry,
    RunReport, Timestamp, async_trait, read_fields,
};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::Deserialize;
use tokio::sync::Mutex;

/// By offset key, all that is kept of it.
pub const KEYS: TableDefinition<'_, &str, String> = TableDefinition::new("logship");

/// What a configuration says of it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RedbConfig {
    path: PathBuf,
}

/// One process at a time has the file open, so this process's clock is the store's.
#[derive(Clone, Debug)]
pub struct RedbOffsets(pub Arc<Mutex<Database>>);

/// Makes it known to configurations as `redb`.
pub fn register(registry: &mut Registry) {
    registry.add_store("redb", |fields, _| RedbOffsets::open(&read_fields::<RedbConfig>(fields)?.path).map_err(failed));
}

impl RedbOffsets {
    /// A store in this file, which is made if it is not there.
    pub fn open(path: &Path) -> Result<Self, redb::Error> {
        let database = Database::create(path)?;
        let transaction = database.begin_write()?;
        transaction.open_table(KEYS)?;
        transaction.commit()?;
        Ok(RedbOffsets(Arc::new(Mutex::new(database))))
    }

    /// Changes what is kept of a key. A call that is dropped goes on behind its caller's back, but holds the lock until
    /// it is done, so that the next finds what it left.
    async fn change<T: Send>(
        &self,
        key: &OffsetKey,
        change: impl FnOnce(&mut OffsetDocument) -> Result<T, Error> + Send,
    ) -> Result<T, Error> {
        let database = Arc::clone(&self.0).lock_owned().await;
        let mut document = read(&database, key)?;
        let result = change(&mut document)?;
        let (key, text) = (key.clone(), document.write()?);
        let write = move || -> Result<(), redb::Error> {
            let transaction = database.begin_write()?;
            transaction.open_table(KEYS)?.insert(key.as_str(), text)?;
            Ok(transaction.commit()?)
        };
        tokio::task::spawn_blocking(write).await.map_err(failed)?.map_err(failed).map(|()| result)
    }
}

fn read(database: &Database, key: &OffsetKey) -> Result<OffsetDocument, Error> {
    let rows = database.begin_read().map_err(failed)?.open_table(KEYS).map_err(failed)?;
    let stored = rows.get(key.as_str()).map_err(failed)?.map(|text| text.value());
    OffsetDocument::read(key, stored.as_deref())
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::State, "use the database of offsets", "redb refused").with_source(error)
}

#[async_trait]
impl OffsetStore for RedbOffsets {
    fn kind(&self) -> &'static str {
        "redb"
    }

    async fn acquire(&self, key: &OffsetKey, owner: &str, ttl: Duration) -> Result<Lease, Error> {
        self.change(key, |document| document.acquire(owner, ttl, Timestamp::now())).await
    }

    async fn renew(&self, lease: &Lease, ttl: Duration) -> Result<(), Error> {
        self.change(&lease.key, |document| document.renew(lease, ttl, Timestamp::now())).await
    }

    async fn release(&self, lease: &Lease) -> Result<(), Error> {
        self.change(&lease.key, |document| document.release(lease)).await
    }

    async fn load(&self, key: &OffsetKey) -> Result<Offsets, Error> {
        Ok(read(&*self.0.lock().await, key)?.offsets().clone())
    }

    async fn commit(&self, lease: &Lease, delta: &OffsetsDelta) -> Result<(), Error> {
        self.change(&lease.key, |document| document.commit(lease, delta)).await
    }

    async fn list(&self) -> Result<Vec<OffsetKey>, Error> {
        let database = self.0.lock().await;
        let rows = database.begin_read().map_err(failed)?.open_table(KEYS).map_err(failed)?;
        let mut keys = Vec::new();
        for row in rows.iter().map_err(failed)? {
            let key = OffsetKey::new(row.map_err(failed)?.0.value())?;
            if !read(&database, &key)?.offsets().lanes.is_empty() {
                keys.push(key);
            }
        }
        Ok(keys)
    }

    async fn reset(&self, key: &OffsetKey, lane: Option<&str>) -> Result<(), Error> {
        self.change(key, |document| document.reset(lane, Timestamp::now())).await
    }
}

/// Ships a record twice to the terminal of which the second run finds nothing new.
pub async fn ship(dir: &Path) -> Result<[RunReport; 2], Box<dyn std::error::Error>> {
    std::fs::write(dir.join("log.jsonl"), "{\"time\": \"2026-11-20T08:30:00Z\", \"msg\": \"hello\"}\n")?;
    let mut registry = logship::registry();
    register(&mut registry);
    let yaml = "
        source: {type: jsonl, paths: [DIR/log.jsonl]}
        offsets: {type: redb, path: DIR/offsets.redb}
        lookback_secs: 0
        exporters:
          - {id: terminal, type: console}";
    let config: ShipperConfig = serde_saphyr::from_str(&yaml.replace("DIR", &dir.display().to_string()))?;
    let shipper = config.build(&registry, &BuildContext::default())?;
    Ok([shipper.run_once().await?, shipper.run_once().await?])
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::temp_dir().join(format!("logship-custom-offset-store-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let [first, second] = ship(&dir).await?;
    #[allow(clippy::print_stdout, reason = "an example shows what it does")]
    {
        println!("1. The first run ships it:\n\n{first}\n2. The second finds nothing new:\n\n{second}");
    }
    Ok(())
}
