//! Which transactions are still open, and so before which time nothing more can appear.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use logship_core::Timestamp;

use super::PostgresSource;

/// What is remembered from one question to the next.
#[derive(Debug, Default)]
pub(super) struct Horizon {
    /// When the open transactions began, in microseconds since 1970, by their number. A prepared transaction only
    /// knows when it was prepared; when it began was seen before that.
    open: BTreeMap<String, i64>,
    pub(super) has_warned: bool,
    /// For a replica: a position in the primary's log, and the horizon that holds once the replica has come there.
    ahead: Option<(String, i64)>,
    /// For a replica: the horizon that holds now.
    reached: Option<i64>,
}

/// What the primary says.
struct Seen {
    /// The number of each writing transaction, which it is given at its first write, and when it began, if we may know.
    open: Vec<(String, Option<i64>)>,
    now: i64,
    log_position: String,
}

const NOW: &str = "select (extract(epoch from clock_timestamp()) * 1000000)::int8,
    case when pg_is_in_recovery() then '' else pg_current_wal_lsn()::text end";

const OPEN: &str = "select backend_xid::text, floor(extract(epoch from xact_start) * 1000000)::int8
    from pg_catalog.pg_stat_activity where datname = current_database() and backend_xid is not null
    union all
    select transaction::text, floor(extract(epoch from prepared) * 1000000)::int8
    from pg_catalog.pg_prepared_xacts where database = current_database()";

/// When the oldest open transaction began.
pub(super) async fn ask(source: &PostgresSource) -> Result<Option<Timestamp>, sqlx::Error> {
    let mut connection = source.primary.acquire().await?;
    // The place in the log first: a transaction that is not open after it has ended before it, or begins later.
    let (now, log_position) = sqlx::query_as(NOW).fetch_one(&mut *connection).await?;
    let open = sqlx::query_as(OPEN).fetch_all(&mut *connection).await?;
    drop(connection);
    let seen = Seen { open, now, log_position };
    if seen.log_position.is_empty() {
        warn_once(
            source,
            "the database is a replica and knows nothing of open transactions: name the primary as `url`",
        );
        return Ok(None);
    }
    let Some(oldest) = source.horizon.lock().unwrap_or_else(PoisonError::into_inner).oldest(&seen) else {
        warn_once(
            source,
            "the user may not see the transactions of other users, and late rows are found by their time alone: grant pg_read_all_stats",
        );
        return Ok(None);
    };
    if !source.has_replica {
        return Ok(oldest.map(Timestamp::from_micros));
    }
    let ahead = {
        let mut horizon = source.horizon.lock().unwrap_or_else(PoisonError::into_inner);
        horizon.ahead.get_or_insert((seen.log_position, oldest.unwrap_or(seen.now))).clone()
    };
    let has_come: bool = sqlx::query_scalar(
        "select not pg_is_in_recovery() or coalesce(pg_last_wal_replay_lsn() >= $1::text::pg_lsn, false)",
    )
    .bind(&ahead.0)
    .fetch_one(&source.pages)
    .await?;
    let mut horizon = source.horizon.lock().unwrap_or_else(PoisonError::into_inner);
    if has_come {
        horizon.reached = Some(ahead.1);
        horizon.ahead = None;
    }
    // Until it is known once what the replica lacks, nothing of it is certain.
    Ok(Some(Timestamp::from_micros(horizon.reached.unwrap_or(i64::MIN))))
}

impl Horizon {
    /// When the oldest open transaction began, `Some(None)` if there is none, and `None` if we may not know.
    fn oldest(&mut self, seen: &Seen) -> Option<Option<i64>> {
        let mut open = BTreeMap::new();
        for (number, began) in &seen.open {
            let began = (*began)?;
            let began = self.open.get(number).map_or(began, |before| began.min(*before));
            open.insert(number.clone(), began);
        }
        self.open = open;
        Some(self.open.values().min().copied())
    }
}

fn warn_once(source: &PostgresSource, warning: &'static str) {
    let mut horizon = source.horizon.lock().unwrap_or_else(PoisonError::into_inner);
    if !std::mem::replace(&mut horizon.has_warned, true) {
        tracing::warn!(table = source.mapping.table, "{warning}");
    }
}
