//! What it costs to move one partition's offset, where there are others that did not move.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use logship::state::file::FileOffsets;
use logship::state::memory::MemoryOffsets;
use logship::state::sqlite::SqliteOffsets;
use logship::{Cursor, OffsetKey, OffsetStore, OffsetsDelta, Timestamp};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{Connection, Executor, SqliteConnection};
use tokio::runtime::Runtime;

use crate::Stages;

pub(crate) fn stages(stages: &mut Stages, runtime: &Runtime, dir: &Path) {
    let dir = &dir.join("commit");
    for partitions in [1, 100, 10_000] {
        std::fs::remove_dir_all(dir).ok();
        std::fs::create_dir_all(dir).unwrap();
        let mut cursors: BTreeMap<String, Cursor> = BTreeMap::new();
        let mut number = 0;
        stages.compare(
            &format!("commit: memory, of {partitions}"),
            1,
            commits(runtime, MemoryOffsets::new(), partitions),
            || {
                number += 1;
                cursors.insert(partition(0), Cursor::number(number));
            },
        );
        let of = |store: &str| format!("commit: {store}, of {partitions}");
        let mut file = File::create_new(dir.join("bare")).unwrap();
        stages.compare(&of("file"), 1, commits(runtime, FileOffsets::new(dir.join("file")), partitions), || {
            // The least that survives a power cut: a line that is added.
            file.write_all(b"{\"part00000\":\"00000000000000000001\"}\n").unwrap();
            file.sync_data().unwrap();
        });
        let store = SqliteOffsets::new(dir.join("offsets.sqlite"));
        let mut database = runtime.block_on(database(dir)).unwrap();
        stages.compare(&of("sqlite"), 1, commits(runtime, store, partitions), || {
            number += 1;
            let upsert = sqlx::query(
                "insert into cursors values ('part00000', ?) on conflict do update set cursor = excluded.cursor",
            );
            runtime.block_on(upsert.bind(Cursor::number(number).to_string()).execute(&mut database)).unwrap();
        });
    }
}

fn partition(number: i64) -> String {
    format!("part{number:05}")
}

/// Commits of the first partition, in a store that knows so many.
fn commits(runtime: &Runtime, store: impl OffsetStore, partitions: i64) -> impl FnMut() {
    let moved = |from: i64, to: i64, position: i64| {
        let mut delta = OffsetsDelta::default();
        let lane = delta.lanes.entry("lane".to_owned()).or_default();
        lane.cursors = (from..to).map(|number| (partition(number), Cursor::number(position))).collect();
        delta
    };
    let key = OffsetKey::new("bench").unwrap();
    let lease = runtime.block_on(store.acquire(&key, "bench", Duration::from_secs(3600))).unwrap();
    let mut first = moved(0, partitions, 1);
    let lane = first.lanes.get_mut("lane").unwrap();
    (lane.fingerprint, lane.since) = (Some("bench".to_owned()), Some(Timestamp::from_secs(0)));
    runtime.block_on(store.commit(&lease, &first)).unwrap();
    let mut position = 1;
    move || {
        position += 1;
        runtime.block_on(store.commit(&lease, &moved(0, 1, position))).unwrap();
    }
}

/// As durable as the store's own.
async fn database(dir: &Path) -> Result<SqliteConnection, sqlx::Error> {
    let options = SqliteConnectOptions::new().filename(dir.join("bare.sqlite")).create_if_missing(true);
    let options = options.journal_mode(SqliteJournalMode::Wal).synchronous(SqliteSynchronous::Full);
    let mut connection = SqliteConnection::connect_with(&options).await?;
    connection.execute("create table cursors (partition text primary key, cursor text not null)").await?;
    Ok(connection)
}
