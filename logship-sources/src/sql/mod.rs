//! What the sources of tables share: the mapping of a table, the statements that read it, and the making of records.

use logship_core::{Cursor, Error, ErrorKind, Partition, RecordId};

mod json;
mod layout;
mod mapping;
mod page;
mod position;
mod record;
mod rows;
mod statement;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

#[cfg(any(feature = "_fuzzing", feature = "tracing"))]
pub(crate) use json::JsonReader;
pub use mapping::{IdFormat, JsonColumn, TableMapping, TimestampFormat};

pub(crate) use layout::{Column, Kind, Layout};
#[cfg(feature = "mysql")]
pub(crate) use page::time;
pub(crate) use page::{Cause, PageBuilder, RowSizes};
pub(crate) use rows::{Cell, Contents};
pub(crate) use statement::{Bind, Dialect, Statements};

/// How many rows one statement deletes: few enough that it holds locks for a moment only, and that every database
/// takes its text (SQLite stops at 1000 alternatives, <https://www.sqlite.org/limits.html#max_expr_depth>).
const DELETE_ROWS: usize = 200;

/// The positions to delete, a statement's worth at a time.
///
/// # Errors
/// [`ErrorKind::Unexpected`] when a record is of another source: nothing is deleted then.
pub(crate) fn batches<'a>(
    partition: &Partition,
    ids: &'a [RecordId],
) -> Result<impl Iterator<Item = impl Iterator<Item = &'a Cursor>>, Error> {
    if let Some(foreign) = ids.iter().find(|id| id.partition() != partition) {
        let message = format!("the record {foreign} is not of the table `{partition}`");
        return Err(Error::new(ErrorKind::Unexpected, "delete rows", message));
    }
    Ok(ids.chunks(DELETE_ROWS).map(|batch| batch.iter().map(RecordId::position)))
}

/// The index that helps where a page looks at the whole table.
pub(crate) fn index_hint(mapping: &TableMapping) -> String {
    format!("create an index on {} ({}, {})", mapping.table, mapping.timestamp, mapping.id)
}

/// Warns where rows may have no position.
pub(crate) fn warn_of_nulls(layout: &Layout) {
    for column in [&layout.timestamp, &layout.id] {
        if column.nullable {
            tracing::warn!(
                table = layout.mapping.table,
                column = column.name,
                "rows in which this column is NULL have no position and are not shipped"
            );
        }
    }
}
