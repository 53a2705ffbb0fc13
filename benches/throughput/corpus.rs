//! The lines that are shipped: rows of a workflow engine, about 480 bytes each, the same for the same seed.

use std::io::{BufWriter, Write};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

const MESSAGES: [&str; 8] = [
    "copied {} rows from staging.orders to warehouse.orders in 3 batches",
    "task started on worker pool default, waiting for {} upstream outputs before the script is run",
    "HTTP 200 from https://api.example.com/v2/customers?page={}&per_page=500, 482 customers were parsed",
    "query \"select * from orders where day = '2026-11-20' and region in ('eu', 'us')\" gave {} rows",
    "Überprüfung der Größen ergab {} Abweichungen – 詳細はレポートを参照してください",
    "retrying after a timeout of {} ms: the connection to db-7.internal:5432 was reset by the peer",
    "wrote s3://company-lake/raw/orders/dt=2026-11-20/part-{}.parquet, 182 MB, 14 columns, snappy",
    "variables: {\"region\": \"eu-west-1\", \"limit\": {}, \"dryRun\": false, \"path\": \"C:\\\\data\\\\in\"}",
];

const LEVELS: [&str; 8] = ["INFO", "INFO", "INFO", "INFO", "DEBUG", "INFO", "WARN", "ERROR"];

/// So many lines, in each of the places they are read from.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Corpus {
    pub(crate) dir: PathBuf,
    pub(crate) records: u64,
}

impl Corpus {
    /// The file of lines.
    pub(crate) fn lines(&self) -> PathBuf {
        self.dir.join(format!("corpus-{}.jsonl", self.records))
    }

    /// The database file.
    pub(crate) fn sqlite(&self) -> PathBuf {
        self.dir.join(format!("corpus-{}.sqlite", self.records))
    }

    /// The table in PostgreSQL.
    pub(crate) fn postgres(&self) -> String {
        format!("logship_corpus_{}", self.records)
    }

    /// Makes the file of lines, if it is not there yet.
    pub(crate) fn make_lines(&self) -> std::io::Result<()> {
        let path = self.lines();
        if path.exists() {
            return Ok(());
        }
        let unfinished = path.with_extension("unfinished");
        let mut out = BufWriter::with_capacity(1 << 20, std::fs::File::create(&unfinished)?);
        let mut rng = fastrand::Rng::with_seed(7);
        for number in 0..self.records {
            line(number, &mut rng, &mut out)?;
        }
        out.into_inner()?.sync_all()?;
        std::fs::rename(&unfinished, &path)
    }
}

fn line(number: u64, rng: &mut fastrand::Rng, out: &mut impl Write) -> std::io::Result<()> {
    let (second, millis) = (number / 1000 % 86_400, number % 1000);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let mut message = MESSAGES[rng.usize(0..MESSAGES.len())].replacen("{}", &rng.u32(..).to_string(), 1);
    if rng.u32(0..50) == 0 {
        (0..4).for_each(|frame| message.push_str(&format!("\n\tat com.company.Task.run{frame}(Task.java:{frame}7)")));
    }
    let (level, flow) = (LEVELS[rng.usize(0..LEVELS.len())], rng.u32(0..200));
    write!(
        out,
        r#"{{"timestamp":"2026-11-20T{hour:02}:{minute:02}:{second:02}.{millis:03}Z","level":"{level}","message":{},"#,
        serde_json::Value::from(message)
    )?;
    writeln!(
        out,
        r#""tenantId":"main","namespace":"company.team{}","flowId":"flow-{flow}","executionId":"{:022x}","taskId":"task-{}","taskRunId":"{:022x}","attemptNumber":{},"thread":"worker-{}","host":{{"name":"node-{}","zone":"eu-west-1{}"}},"labels":{{"team":"data","tier":"gold","cost":"{}","run":"nightly"}},"durationMs":{}}}"#,
        flow % 10,
        rng.u128(0..1 << 88),
        rng.u32(0..30),
        rng.u128(0..1 << 88),
        rng.u32(0..3),
        rng.u32(0..16),
        rng.u32(0..40),
        ['a', 'b', 'c'][rng.usize(0..3)],
        rng.u32(0..1000),
        rng.u32(0..60_000),
    )
}
