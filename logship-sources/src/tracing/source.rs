//! Reads the spool.

use std::path::PathBuf;
use std::sync::Arc;

use futures::TryStreamExt;
use logship_core::{
    Cursor, Error, ErrorKind, LogRecord, Page, PageEnd, PageLimits, Partition, Query, RecordId, Registry, Scope,
    Source, Start, Text, TextArena, Timestamp, Value, async_trait, read_fields,
};
use serde::Deserialize;
use sqlx::Row;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions, SqliteRow};

use super::Shared;
use crate::sql::JsonReader;
use crate::sqlite::failed;

/// What a configuration says of a [`SpoolSource`].
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpoolSourceConfig {
    /// The spool's file, as the program that logs has opened it.
    pub path: PathBuf,
}

/// Reads a [`Spool`](super::Spool), in the order in which events were written to it.
///
/// The partition is the spool's own name, drawn by chance when its file was made. So a file that is made anew is read
/// from its beginning, and the spools of many machines can be shipped to one place.
#[derive(Debug)]
pub struct SpoolSource {
    pool: SqlitePool,
    shared: Option<Arc<Shared>>,
}

pub(crate) fn register(registry: &mut Registry) {
    registry.add_source("tracing", |fields, _| SpoolSource::open(read_fields(fields)?));
}

/// How many rows one statement deletes: few enough that whoever logs waits for a moment only.
const DELETE_ROWS: usize = 500;

impl SpoolSource {
    /// Reads the spool that another process writes. Nothing is opened before the first use; new rows are found by
    /// asking.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when there is no such file.
    pub fn open(config: SpoolSourceConfig) -> Result<Self, Error> {
        if !config.path.is_file() {
            let message = format!("there is no spool {}: the program that logs makes it", config.path.display());
            return Err(Error::config("path", message));
        }
        let options = SqliteConnectOptions::new().filename(&config.path);
        let pool = SqlitePoolOptions::new().max_connections(2).idle_timeout(None).max_lifetime(None);
        Ok(SpoolSource::new(pool.connect_lazy_with(options), None))
    }

    pub(super) fn new(pool: SqlitePool, shared: Option<Arc<Shared>>) -> Self {
        SpoolSource { pool, shared }
    }

    async fn partition(&self) -> Result<Partition, Error> {
        let name: Result<String, _> =
            sqlx::query_scalar("select name from logship_spool_name").fetch_one(&self.pool).await;
        name.map(Partition::new).map_err(|error| failed("look at the spool", error))
    }

    /// The position in front of the first row that is not older than this.
    async fn before(&self, time: Timestamp) -> Result<i64, Error> {
        let first: Result<Option<i64>, _> = sqlx::query_scalar("select min(id) from logship_spool where at >= ?")
            .bind(time.as_nanos())
            .fetch_one(&self.pool)
            .await;
        // Where there is none yet, the next one to come is it.
        first.map(|id| id.map_or(i64::MAX, |id| id - 1)).map_err(|error| failed("look at the spool", error))
    }
}

#[async_trait]
impl Source for SpoolSource {
    fn kind(&self) -> &'static str {
        "tracing"
    }

    fn fingerprint(&self) -> String {
        "tracing spool".to_owned()
    }

    async fn partitions(&self) -> Result<Vec<Partition>, Error> {
        Ok(vec![self.partition().await?])
    }

    async fn read(
        &self,
        partition: &Partition,
        start: &Start,
        query: &Query,
        limits: PageLimits,
    ) -> Result<Page, Error> {
        const OPERATION: &str = "read the spool";
        let mut at = match start {
            Start::After(cursor) => cursor.as_number(),
            Start::At(time) => self.before(*time).await?,
            Start::Earliest => 0,
        };
        let asked = limits.records_max.max(1);
        let mut rows = sqlx::query(
            "select id, at, level, target, body, attributes, trace_id, span_id from logship_spool \
             where id > ? order by id limit ?",
        )
        .bind(at)
        .bind(i64::try_from(asked).unwrap_or(i64::MAX))
        .fetch(&self.pool);
        let (mut reader, mut records, mut bytes, mut read) = (RowReader::default(), Vec::new(), 0, 0);
        let mut end = PageEnd::CaughtUp;
        while let Some(row) = rows.try_next().await.map_err(|error| failed(OPERATION, error))? {
            let record = reader.record(partition, &row).map_err(|error| failed(OPERATION, error))?;
            let position = record.id.position().as_number();
            if query.matches(&record) {
                bytes += record.size();
                if bytes > limits.bytes_max && !records.is_empty() {
                    end = PageEnd::More;
                    break;
                }
                records.push(record);
            }
            (at, read) = (position, read + 1);
            if read == asked {
                end = PageEnd::More;
            }
        }
        let next = (read > 0).then(|| Cursor::number(at));
        Ok(Page::ending_at(partition.clone(), records, next, end))
    }

    async fn changed(&self) {
        match &self.shared {
            Some(shared) => shared.written.notified().await,
            None => std::future::pending().await,
        }
    }

    async fn check(&self) -> Result<(), Error> {
        self.partition().await.map(drop)
    }

    async fn delete(&self, ids: &[RecordId]) -> Result<u64, Error> {
        const OPERATION: &str = "delete from the spool";
        let partition = self.partition().await?;
        if let Some(foreign) = ids.iter().find(|id| *id.partition() != partition) {
            let message = format!("the record {foreign} is not of the spool {partition}");
            return Err(Error::new(ErrorKind::Unexpected, OPERATION, message));
        }
        let mut deleted = 0;
        for batch in ids.chunks(DELETE_ROWS) {
            let numbers: Vec<String> = batch.iter().map(|id| id.position().as_number().to_string()).collect();
            let delete = sqlx::query("delete from logship_spool where id in (select value from json_each(?))");
            let done = delete.bind(format!("[{}]", numbers.join(","))).execute(&self.pool).await;
            deleted += done.map_err(|error| failed(OPERATION, error))?.rows_affected();
        }
        Ok(deleted)
    }
}

/// Makes the records of a page.
#[derive(Default)]
struct RowReader {
    arena: TextArena,
    json: JsonReader,
    /// The last scope: neighbours often share it.
    scope: Option<Arc<Scope>>,
}

impl RowReader {
    fn record(&mut self, partition: &Partition, row: &SqliteRow) -> Result<LogRecord, sqlx::Error> {
        let id = RecordId::new(partition.clone(), Cursor::number(row.try_get(0)?));
        let mut record = LogRecord::new(id, Timestamp::from_nanos(row.try_get(1)?));
        record.severity = row.try_get::<&str, _>(2)?.parse().unwrap_or_default();
        let target: &str = row.try_get(3)?;
        if self.scope.as_ref().is_none_or(|scope| scope.name.as_str() != target) {
            self.scope = Some(Arc::new(Scope { name: Text::from(target), ..Scope::default() }));
        }
        record.scope = self.scope.clone();
        record.body = Value::String(self.arena.push(row.try_get(4)?));
        let attributes: &str = row.try_get(5)?;
        match self.json.read(attributes, &mut self.arena) {
            Some(Value::Map(entries)) => record.attributes = entries,
            _ => record.attributes.push((Text::from_static("attributes"), self.arena.push(attributes).into())),
        }
        record.trace_id = row.try_get::<Option<&str>, _>(6)?.and_then(bytes_of_hex);
        record.span_id = row.try_get::<Option<&str>, _>(7)?.and_then(bytes_of_hex);
        Ok(record)
    }
}

fn bytes_of_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(bytes)
}
