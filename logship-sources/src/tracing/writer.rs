//! Writes events to the spool's table, as many in a transaction as there are.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use logship_core::{Error, ErrorKind, Timestamp};
use sqlx::SqlitePool;
use tokio::sync::{mpsc, watch};
use tracing::instrument::WithSubscriber;
use tracing::subscriber::NoSubscriber;

use super::{Event, Shared, State};
use crate::sqlite::failed;

/// The most events in a transaction.
const EVENTS: usize = 1_000;

/// How long to wait after a failure.
const REST: Duration = Duration::from_millis(500);

/// The table, and the name that this spool has and no other. Ids grow and are never used again, also not those of rows
/// that were deleted (<https://www.sqlite.org/autoinc.html>).
pub(super) async fn make_table(pool: &SqlitePool) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(
        "create table if not exists logship_spool (
           id integer primary key autoincrement, at integer not null, level text not null, target text not null,
           body text not null, attributes text not null, trace_id text, span_id text);
         create table if not exists logship_spool_name (one integer primary key check (one = 1), name text not null);
         insert into logship_spool_name values (1, 'spool-' || lower(hex(randomblob(8)))) on conflict do nothing;",
    )
    .execute(pool)
    .await
    .map(drop)
}

/// Writes until every sender is gone.
pub(super) async fn run(
    mut inbox: mpsc::UnboundedReceiver<Event>,
    pool: SqlitePool,
    shared: Arc<Shared>,
    states: watch::Sender<State>,
) {
    let (mut events, mut reported) = (Vec::with_capacity(EVENTS), 0);
    while inbox.recv_many(&mut events, EVENTS).await > 0 {
        let dropped = loop {
            let dropped = shared.dropped.load(Ordering::SeqCst);
            // What the database's driver says of its work would be the next thing to be written.
            match insert(&pool, &events, dropped - reported).with_subscriber(NoSubscriber::default()).await {
                Ok(()) => break dropped,
                Err(error) => rest(&states, &error).await,
            }
        };
        reported = dropped;
        shared.buffered.fetch_sub(events.iter().map(Event::size).sum(), Ordering::SeqCst);
        let written = events.len() as u64;
        states.send_modify(|state| {
            state.written += written;
            state.error = None;
        });
        events.clear();
        shared.written.notify_waiters();
    }
}

/// Says what failed, and waits.
async fn rest(states: &watch::Sender<State>, error: &Error) {
    if states.borrow().error.is_none() {
        tracing::warn!(%error, "the spool cannot be written to; trying again");
    }
    states.send_modify(|state| {
        state.failures += 1;
        state.error = Some((error.kind(), error.to_string()));
    });
    tokio::time::sleep(REST).await;
}

async fn insert(pool: &SqlitePool, events: &[Event], dropped: u64) -> Result<(), Error> {
    const OPERATION: &str = "write to the spool";
    let is_full =
        |error: &sqlx::Error| error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == "13");
    let failed = |error: sqlx::Error| match is_full(&error) {
        true => Error::new(ErrorKind::Unavailable, OPERATION, "the spool is full, or the disk is").with_source(error),
        false => failed(OPERATION, error),
    };
    let mut transaction = pool.begin().await.map_err(failed)?;
    const INSERT: &str = "insert into logship_spool (at, level, target, body, attributes, trace_id, span_id) \
                          values (?, ?, ?, ?, ?, ?, ?)";
    for event in events {
        let insert = sqlx::query(INSERT).bind(event.at).bind(event.level).bind(&*event.target).bind(&event.body);
        let insert = insert.bind(&event.attributes).bind(&event.trace_id).bind(&event.span_id);
        insert.execute(&mut *transaction).await.map_err(failed)?;
    }
    if dropped > 0 {
        let body = format!("{dropped} events were dropped, as more was logged than could be written");
        let attributes = format!("{{\"logship.dropped\":{dropped}}}");
        let insert = sqlx::query(INSERT).bind(Timestamp::now().as_nanos()).bind("WARN").bind("logship").bind(body);
        insert
            .bind(attributes)
            .bind(None::<&str>)
            .bind(None::<&str>)
            .execute(&mut *transaction)
            .await
            .map_err(failed)?;
    }
    transaction.commit().await.map_err(failed)
}
