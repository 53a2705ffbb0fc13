//! What the stores in databases have in common: rows into offsets, and the refusal of newer forms.

use logship_core::{Cursor, Error, ErrorKind, LaneOffset, OffsetKey, Offsets, Timestamp, Window};

/// The form of the tables. Rows of a later one are refused.
pub(crate) const VERSION: i64 = 1;

/// Lane, fingerprint and beginning.
pub(crate) type LaneRow = (String, String, Option<String>);

/// Lane, partition and cursor.
pub(crate) type CursorRow = (String, String, String);

/// Lane, partition, and what was shipped of the stretch in which records may still appear, as JSON.
pub(crate) type WindowRow = (String, String, String);

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
