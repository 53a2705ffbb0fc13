//! Where the reference loops read from: a file in large blocks, records in memory, tables by keyset pages.

use std::error::Error;
use std::fmt::Write;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use logship::{LogRecord, Timestamp};
use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row as _, SqliteConnection};

use crate::corpus::Corpus;
use crate::row::{Host, Labels, Row, Time};
use crate::scenario::From;
use crate::shipping::Prepared;
use crate::tables;

/// As many rows as logship asks for at a time.
const PAGE: usize = 1_000;

/// Gives each row of the corpus to `take`, on one thread. `begin` is called when everything is prepared.
pub(crate) async fn each(
    from: From,
    corpus: &Corpus,
    begin: impl FnOnce(),
    mut take: impl FnMut(&Row<'_>) -> std::io::Result<()>,
) -> Result<(), Box<dyn Error>> {
    match from {
        From::Jsonl => {
            begin();
            lines(&corpus.lines(), take)
        }
        From::Memory(partitions) => {
            let pages: Vec<Vec<LogRecord>> = Prepared::read(corpus, partitions).await?.into_records().collect();
            begin();
            Ok(pages.iter().flatten().try_for_each(|record| take(&Row::of(record, "part00000:")))?)
        }
        From::Sqlite => {
            let options = sqlx::sqlite::SqliteConnectOptions::new().filename(corpus.sqlite()).read_only(true);
            let mut connection = SqliteConnection::connect_with(&options).await?;
            begin();
            sqlite(&mut connection, take).await
        }
        From::Postgres => {
            let mut connection = PgConnection::connect(&tables::postgres_url()?).await?;
            begin();
            postgres(&mut connection, &corpus.postgres(), &mut take).await
        }
    }
}

/// Goes over records in memory and lets them go, which is the least that can be done with them. Says how many there were.
pub(crate) async fn let_go(corpus: &Corpus, begin: impl FnOnce()) -> Result<u64, Box<dyn Error>> {
    let pages: Vec<Vec<LogRecord>> = Prepared::read(corpus, 1).await?.into_records().collect();
    begin();
    Ok(pages.into_iter().map(|page| page.len() as u64).sum())
}

fn lines(path: &Path, mut take: impl FnMut(&Row<'_>) -> std::io::Result<()>) -> Result<(), Box<dyn Error>> {
    let mut file = File::open(path)?;
    let id_prefix = format!("{}:", path.display());
    // As in logship's ids: where the line ends.
    let (mut block, mut kept, mut number) = (vec![0; 1 << 20], 0, 0);
    loop {
        let read = file.read(&mut block[kept..])?;
        if read == 0 {
            return Ok(());
        }
        let filled = kept + read;
        let mut at = 0;
        while let Some(len) = memchr::memchr(b'\n', &block[at..filled]) {
            let row = sonic_rs::from_slice(&block[at..at + len])?;
            (at, number) = (at + len + 1, number + len as u64 + 1);
            take(&Row { id_prefix: &id_prefix, number, ..row })?;
        }
        block.copy_within(at..filled, 0);
        kept = filled - at;
    }
}

async fn sqlite(
    connection: &mut SqliteConnection,
    mut take: impl FnMut(&Row<'_>) -> std::io::Result<()>,
) -> Result<(), Box<dyn Error>> {
    let sql = tables::page_sql("logs", "$1", PAGE);
    let (mut time, mut id, mut id_prefix) = (String::new(), -1_i64, String::new());
    loop {
        let statement = sqlx::query(AssertSqlSafe(sql.as_str())).bind(&time).bind(id);
        let rows: Vec<SqliteRow> = statement.fetch_all(&mut *connection).await?;
        for row in &rows {
            let (time, number): (&str, i64) = (row.try_get(1)?, row.try_get(0)?);
            id_prefix.clear();
            write!(id_prefix, "logs:/{time}\\t")?;
            let row = of_columns(Time::Text(time), |at| row.try_get(at), |at| row.try_get(at))?;
            take(&Row { id_prefix: &id_prefix, number: number as u64, ..row })?;
        }
        match rows.last() {
            Some(last) if rows.len() == PAGE => (id, time) = (last.try_get(0)?, last.try_get(1)?),
            _ => return Ok(()),
        }
    }
}

async fn postgres(
    connection: &mut PgConnection,
    table: &str,
    mut take: impl FnMut(&Row<'_>) -> std::io::Result<()>,
) -> Result<(), Box<dyn Error>> {
    let sql = tables::page_sql(table, "$1::timestamptz", PAGE);
    let (mut time, mut id, mut id_prefix) = (Timestamp::from_secs(0), -1_i64, String::new());
    loop {
        let statement = sqlx::query(AssertSqlSafe(sql.as_str())).bind(time.to_string()).bind(id);
        let rows: Vec<PgRow> = statement.fetch_all(&mut *connection).await?;
        for row in &rows {
            let (nanos, number): (i64, i64) = (nanos(row)?, row.try_get(0)?);
            id_prefix.clear();
            write!(id_prefix, "{table}:{:020}/", nanos / 1_000)?;
            let row = of_columns(Time::Nanos(nanos), |at| row.try_get(at), |at| row.try_get(at))?;
            take(&Row { id_prefix: &id_prefix, number: number as u64, ..row })?;
        }
        match rows.last() {
            Some(last) if rows.len() == PAGE => (id, time) = (last.try_get(0)?, Timestamp::from_nanos(nanos(last)?)),
            _ => return Ok(()),
        }
    }
}

/// The time of a row, as it is on the wire: microseconds since 2000.
fn nanos(row: &PgRow) -> Result<i64, Box<dyn Error>> {
    let value = row.try_get_raw(1)?;
    let bytes = value.as_bytes().map_err(|error| error.to_string())?;
    Ok((i64::from_be_bytes(bytes.try_into()?) + 946_684_800_000_000) * 1_000)
}

/// A row of [`tables::COLUMNS`], which follow the id and the time.
fn of_columns<'a>(
    timestamp: Time<'a>,
    text: impl Fn(usize) -> Result<&'a str, sqlx::Error>,
    number: impl Fn(usize) -> Result<i64, sqlx::Error>,
) -> Result<Row<'a>, sqlx::Error> {
    Ok(Row {
        id_prefix: "",
        number: 0,
        is_flat: true,
        timestamp,
        level: text(2)?,
        message: text(3)?.into(),
        tenant_id: text(4)?,
        namespace: text(5)?,
        flow_id: text(6)?,
        execution_id: text(7)?,
        task_id: text(8)?,
        task_run_id: text(9)?,
        attempt_number: number(10)?,
        thread: text(11)?,
        host: Host { name: text(12)?, zone: text(13)? },
        labels: Labels { team: text(14)?, tier: text(15)?, cost: text(16)?, run: text(17)? },
        duration_ms: number(18)?,
    })
}
