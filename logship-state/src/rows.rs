//! What the stores in databases have in common: rows into offsets, and the refusal of newer forms.

#[cfg(any(feature = "mysql", feature = "postgres"))]
use std::ops::{Deref, DerefMut};

use logship_core::{Cursor, Error, ErrorKind, LaneOffset, OffsetKey, Offsets, Timestamp, Window};
#[cfg(any(feature = "mysql", feature = "postgres"))]
use sqlx::{Database, Pool, pool::PoolConnection};

/// The form of the tables. Rows of a later one are refused.
pub(crate) const VERSION: i64 = 1;

/// Lane, fingerprint and beginning.
pub(crate) type LaneRow = (String, String, Option<String>);

/// Lane, partition and cursor.
pub(crate) type CursorRow = (String, String, String);

/// Lane, partition, and what was shipped of the stretch in which records may still appear, as JSON.
pub(crate) type WindowRow = (String, String, String);

/// A connection of a pool for one call. It goes back when the call is done, and is closed when the call failed or was
/// dropped: what sqlx 0.9.0 would give back then may still be in a transaction, or have an answer to come that the next
/// statement takes for its own (<https://github.com/transact-rs/sqlx/issues/4393>).
#[cfg(any(feature = "mysql", feature = "postgres"))]
pub(crate) struct Session<D: Database> {
    connection: PoolConnection<D>,
    is_done: bool,
}

#[cfg(any(feature = "mysql", feature = "postgres"))]
impl<D: Database> Session<D> {
    pub(crate) async fn open(pool: &Pool<D>) -> Result<Self, sqlx::Error> {
        Ok(Session { connection: pool.acquire().await?, is_done: false })
    }

    /// Gives the connection back.
    pub(crate) fn done(mut self) {
        self.is_done = true;
    }
}

#[cfg(any(feature = "mysql", feature = "postgres"))]
impl<D: Database> Deref for Session<D> {
    type Target = D::Connection;

    fn deref(&self) -> &D::Connection {
        &self.connection
    }
}

#[cfg(any(feature = "mysql", feature = "postgres"))]
impl<D: Database> DerefMut for Session<D> {
    fn deref_mut(&mut self) -> &mut D::Connection {
        &mut self.connection
    }
}

#[cfg(any(feature = "mysql", feature = "postgres"))]
impl<D: Database> Drop for Session<D> {
    fn drop(&mut self) {
        if !self.is_done {
            self.connection.close_on_drop();
        }
    }
}

/// A window as a row keeps it.
pub(crate) fn window_text(window: &Window) -> Result<String, sqlx::Error> {
    serde_json::to_string(window).map_err(|error| sqlx::Error::Encode(error.into()))
}

/// Refuses offsets of a newer form.
pub(crate) fn check_version(operation: &'static str, key: &OffsetKey, version: Option<i64>) -> Result<(), Error> {
    match version {
        Some(version) if version > VERSION => {
            let message = format!(
                "the offsets of `{key}` have version {version}, and this program reads up to {VERSION}: use the newer program that wrote them"
            );
            Err(Error::new(ErrorKind::State, operation, message))
        }
        _ => Ok(()),
    }
}

/// The offsets that these rows of a key say.
pub(crate) fn offsets(
    operation: &'static str,
    key: &OffsetKey,
    lanes: Vec<LaneRow>,
    cursors: Vec<CursorRow>,
    windows: Vec<WindowRow>,
) -> Result<Offsets, Error> {
    let unreadable = |lane: &str, why: String| {
        let message = format!(
            "the offsets of the lane `{lane}` under `{key}` cannot be read: {why}; put the row right, or reset the lane to ship its records again"
        );
        Error::new(ErrorKind::State, operation, message)
    };
    let mut offsets = Offsets::default();
    for (id, fingerprint, since) in lanes {
        let parse = |text: &String| {
            Timestamp::parse(text).ok_or_else(|| unreadable(&id, format!("`{text}` in `since` is not a time")))
        };
        let since = since.as_ref().map(parse).transpose()?;
        offsets.lanes.insert(id, LaneOffset { fingerprint, since, ..LaneOffset::default() });
    }
    for (id, partition, cursor) in cursors {
        let cursor: Cursor = cursor.parse().map_err(|why| unreadable(&id, why))?;
        match offsets.lanes.get_mut(&id) {
            Some(lane) => drop(lane.cursors.insert(partition, cursor)),
            None => return Err(unreadable(&id, "it has a cursor but no row in logship_lanes".to_owned())),
        }
    }
    for (id, partition, window) in windows {
        let window = serde_json::from_str(&window).map_err(|why| unreadable(&id, why.to_string()))?;
        match offsets.lanes.get_mut(&id) {
            Some(lane) => drop(lane.windows.insert(partition, window)),
            None => return Err(unreadable(&id, "it has a window but no row in logship_lanes".to_owned())),
        }
    }
    Ok(offsets)
}
