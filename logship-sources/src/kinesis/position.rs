//! Where in a shard a log record is.

use logship_core::{Cursor, Error, ErrorKind};

/// Digits of the number of a log record in its record.
const NUMBER_DIGITS: usize = 20;

/// The sequence number of a record of Kinesis and the number of a log record in it.
///
/// Sequence numbers have 56 digits or so, too many for any integer. How many there are is the number of the cursor, so
/// that its text is compared only with texts as long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place<'a> {
    pub(super) sequence: &'a str,
    number: u64,
}

impl<'a> Place<'a> {
    /// A log record, by its number in its payload, and the payload's among those that were put together in one record.
    pub(super) fn new(sequence: &'a str, payload: u32, number: u32) -> Self {
        Place { sequence, number: (u64::from(payload) << 32) | u64::from(number) }
    }

    /// Behind all that is in the record.
    pub(super) fn behind(sequence: &'a str) -> Self {
        Place { sequence, number: u64::MAX }
    }

    /// Whether nothing is left of the record.
    pub(super) fn is_whole(&self) -> bool {
        self.number == u64::MAX
    }

    pub(super) fn cursor(&self) -> Cursor {
        let digits = i64::try_from(self.sequence.len()).unwrap_or(i64::MAX);
        Cursor::new(digits, format!("{}.{:0NUMBER_DIGITS$}", self.sequence, self.number).into())
    }

    /// # Errors
    /// [`ErrorKind::State`] if no such place was ever given out.
    pub(super) fn of(cursor: &'a Cursor) -> Result<Self, Error> {
        let parts = cursor.as_text().split_once('.');
        let place = parts.and_then(|(sequence, number)| Some(Place { sequence, number: number.parse().ok()? }));
        place.ok_or_else(|| {
            let message = "the position is not a sequence number and the number of a log record";
            Error::new(ErrorKind::State, "read a shard", message).with("position", cursor)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn places_are_in_the_order_of_their_numbers(
            one: u128, other: u128, shift in 1u128.., a: (u32, u16), b: (u32, u16),
        ) {
            let (one, other) = (one % shift, other % shift);
            let (text, other_text) = (one.to_string(), other.to_string());
            let first = Place::new(&text, a.0, a.1.into()).cursor();
            let second = Place::new(&other_text, b.0, b.1.into()).cursor();
            prop_assert_eq!(first.cmp(&second), (one, a).cmp(&(other, b)));
            prop_assert!(first < Place::behind(&text).cursor());
            let read = first.to_string().parse::<Cursor>().unwrap();
            prop_assert_eq!(Place::of(&read).unwrap(), Place::new(&text, a.0, a.1.into()));
        }
    }

    #[test]
    fn a_position_of_another_source_is_an_error() {
        assert_eq!(Place::of(&Cursor::number(7)).unwrap_err().kind(), ErrorKind::State);
    }
}
