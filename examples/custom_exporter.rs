//! An exporter of one's own: a table of records, for a dashboard that asks a database.
//!
//! What you will see: three records of a file are shipped to a table, configured from YAML. It passes the suite of
//! `logship-testkit` (`tests/third_party.rs`).
//!
//!     cargo run --example custom_exporter

use std::path::{Path, PathBuf};

use logship::config::ShipperConfig;
use logship::{
    BuildContext, Capabilities, Certainty, Chunk, Error, ErrorKind, Exporter, Idempotency, Outcome, Registry,
    RunReport, async_trait, read_fields,
};
use serde::Deserialize;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions};

/// What a configuration says of it: the database, in which there is a table `records (id primary key, at, record)`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TableConfig {
    path: PathBuf,
}

/// Writes each record to a row of its own.
#[derive(Debug)]
pub struct TableExporter(SqlitePool);

/// Makes it known to configurations as `table`.
pub fn register(registry: &mut Registry) {
    registry.add_exporter("table", |fields, _| {
        let options = SqliteConnectOptions::new().filename(read_fields::<TableConfig>(fields)?.path);
        // Connections that never age need no task that closes them, and so no runtime to be made in.
        let pool = SqlitePoolOptions::new().max_connections(1).idle_timeout(None).max_lifetime(None);
        Ok(TableExporter(pool.connect_lazy_with(options)))
    });
}

#[async_trait]
impl Exporter for TableExporter {
    fn kind(&self) -> &'static str {
        "table"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::none().idempotency(Idempotency::PerRecord)
    }

    async fn export(&self, chunk: &Chunk) -> Result<Outcome, Error> {
        let mut outcome = Outcome::builder(chunk.len());
        // All of a chunk or nothing: also when the call is dropped.
        let mut transaction = self.0.begin().await.map_err(failed)?;
        for (index, record) in chunk.records().enumerate() {
            let Ok(json) = serde_json::to_string(record) else {
                outcome.rejected(index, "unencodable", "the record cannot be written as JSON");
                continue;
            };
            let insert = sqlx::query("insert into records values (?, ?, ?) on conflict do nothing")
                .bind(record.id.to_string())
                .bind(record.timestamp.to_string())
                .bind(json);
            match insert.execute(&mut *transaction).await.map_err(failed)?.rows_affected() {
                0 => outcome.already_there(index),
                _ => outcome.accepted(index),
            }
        }
        transaction.commit().await.map_err(|error| failed(error).certainty_is(Certainty::Unknown))?;
        Ok(outcome.build())
    }

    async fn check(&self) -> Result<(), Error> {
        sqlx::query("select id, at, record from records limit 1").execute(&self.0).await.map(drop).map_err(failed)
    }
}

/// What is locked or cannot be opened may come back (<https://www.sqlite.org/rescode.html>); what the database refuses
/// it would refuse again.
fn failed(error: sqlx::Error) -> Error {
    let code = error.as_database_error().and_then(|error| error.code()).and_then(|code| code.parse::<i32>().ok());
    let may_pass = code.is_none_or(|code| matches!(code & 0xff, 5 | 6 | 10 | 13 | 14));
    let kind = if may_pass { ErrorKind::Unavailable } else { ErrorKind::Rejected };
    Error::new(kind, "write to the table", "the database did not take it").with_source(error)
}

/// Ships the three records to `records.db` in this folder.
pub async fn ship(dir: &Path) -> Result<RunReport, Box<dyn std::error::Error>> {
    let lines =
        ["one", "two", "three"].map(|text| format!("{{\"time\": \"2026-11-20T08:30:00Z\", \"msg\": \"{text}\"}}"));
    std::fs::write(dir.join("log.jsonl"), lines.join("\n") + "\n")?;
    let options = SqliteConnectOptions::new().filename(dir.join("records.db")).create_if_missing(true);
    let pool = SqlitePool::connect_with(options).await?;
    sqlx::query("create table records (id text primary key, at text, record text)").execute(&pool).await?;

    let mut registry = logship::registry();
    register(&mut registry);
    let yaml = "
        source: {type: jsonl, paths: [DIR/log.jsonl]}
        offsets: {type: file, dir: DIR/offsets}
        lookback_secs: 0
        exporters:
          - {id: dashboard, type: table, path: DIR/records.db, lane: {chunk: 2}}";
    let config: ShipperConfig = serde_saphyr::from_str(&yaml.replace("DIR", &dir.display().to_string()))?;
    Ok(config.build(&registry, &BuildContext::default())?.run_once().await?)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::temp_dir().join(format!("logship-custom-exporter-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    #[allow(clippy::print_stdout, reason = "an example shows what it does")]
    {
        println!("{}\nThe table is in {}.", ship(&dir).await?, dir.join("records.db").display());
    }
    Ok(())
}
