//! Positions of rows, in an order that is the database's.
//!
//! Times that are numbers are the number of the cursor, and times that are text stand in its text, before a tab and
//! the id. Integer ids have twenty digits, so that their text sorts as they do.

use logship_core::{Cursor, Error, ErrorKind, Timestamp};

use super::IdFormat;
use super::layout::Layout;
use super::statement::{Bind, Dialect};

/// How positions hold the time of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Times {
    /// As the database's text of it.
    Text,
    /// As the number the column holds, of so many nanoseconds each.
    Unix(i64),
    /// As microseconds since 1970, of a time type of the database.
    Micros,
}

impl Times {
    /// The first value of the column that is not before `moment`.
    pub(crate) fn at_or_after(self, moment: Timestamp) -> Bind {
        let rounded_up = |unit: i64| {
            let nanos = i128::from(moment.as_nanos());
            let number = (nanos + i128::from(unit) - 1).div_euclid(i128::from(unit));
            i64::try_from(number).unwrap_or(i64::MAX)
        };
        match self {
            Times::Text => Bind::Text(moment.to_string()),
            Times::Unix(unit) => Bind::Int(rounded_up(unit)),
            Times::Micros => Bind::Micros(rounded_up(1_000)),
        }
    }

    /// The point in time of a column's number, or the nearest there is.
    pub(crate) fn timestamp(self, number: i64) -> Timestamp {
        match self {
            Times::Text | Times::Micros => Timestamp::from_micros(number),
            Times::Unix(unit) => Timestamp::from_nanos(number.saturating_mul(unit)),
        }
    }
}

/// Writes an integer id so that byte order is numeric order: twenty digits, and for a negative number a `-` and its
/// distance from the smallest one.
pub(crate) fn write_integer(id: i128, out: &mut String) {
    use std::fmt::Write;
    let written = match u64::try_from(id) {
        Ok(number) => write!(out, "{number:020}"),
        Err(_) => write!(out, "-{:020}", id - i128::from(i64::MIN)),
    };
    // Writing to a string cannot fail.
    let _ = written;
}

fn read_integer(text: &str) -> Option<Bind> {
    match text.strip_prefix('-') {
        Some(distance) => {
            let id = distance.parse::<i128>().ok()?.checked_add(i128::from(i64::MIN))?;
            i64::try_from(id).ok().map(Bind::Int)
        }
        None => {
            let id: u64 = text.parse().ok()?;
            Some(i64::try_from(id).map_or(Bind::Unsigned(id), Bind::Int))
        }
    }
}

/// The time and the id of a position, to be compared with the columns.
///
/// # Errors
/// [`ErrorKind::State`] for a position that is of another mapping.
pub(crate) fn bound(dialect: Dialect, layout: &Layout, cursor: &Cursor) -> Result<(Bind, Bind), Error> {
    let foreign = || {
        let message = format!(
            "the position {cursor} is not of the table `{}` as it is mapped now: ship under a new offset key, or put the mapping back",
            layout.mapping.table
        );
        Error::new(ErrorKind::State, "read a position", message)
    };
    let (time, id) = match dialect.times(layout.mapping.timestamp_format) {
        Times::Text => {
            let (time, id) = cursor.as_text().split_once('\t').ok_or_else(foreign)?;
            (Bind::Text(time.to_owned()), id)
        }
        Times::Unix(_) => (Bind::Int(cursor.as_number()), cursor.as_text().as_str()),
        Times::Micros => (Bind::Micros(cursor.as_number()), cursor.as_text().as_str()),
    };
    let id = match layout.mapping.id_format {
        IdFormat::Text => Bind::Text(id.to_owned()),
        IdFormat::Integer => read_integer(id).ok_or_else(foreign)?,
    };
    Ok((time, id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn integer_ids_sort_as_their_text_and_read_back(a: i64, b: i64, large: u64) {
            let text = |id: i128| { let mut text = String::new(); write_integer(id, &mut text); text };
            prop_assert_eq!(a.cmp(&b), text(a.into()).cmp(&text(b.into())));
            prop_assert_eq!(i128::from(a).cmp(&i128::from(large)), text(a.into()).cmp(&text(large.into())));
            prop_assert_eq!(read_integer(&text(a.into())), Some(Bind::Int(a)));
        }

        #[test]
        fn a_start_in_time_is_the_first_number_not_before_it(nanos: i64, unit in prop::sample::select(vec![1_i64, 1_000, 1_000_000, 1_000_000_000])) {
            let times = Times::Unix(unit);
            let Bind::Int(number) = times.at_or_after(Timestamp::from_nanos(nanos)) else { unreachable!() };
            prop_assert!(i128::from(number) * i128::from(unit) >= i128::from(nanos));
            prop_assert!(i128::from(number - 1) * i128::from(unit) < i128::from(nanos));
        }
    }
}
