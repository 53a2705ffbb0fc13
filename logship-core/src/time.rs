//! Points in time, and the clock through which wall time enters the engine.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Datelike, NaiveDate, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::digits::write_digits;

/// A point in time: nanoseconds since 1970-01-01T00:00:00Z, as OpenTelemetry counts them.
///
/// Holds 1677-09-21 to 2262-04-11; a conversion from outside that range gives the nearest end of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

const NANOS: i64 = 1_000_000_000;

impl Timestamp {
    /// From nanoseconds since the epoch.
    pub const fn from_nanos(nanos: i64) -> Self {
        Timestamp(nanos)
    }

    /// From microseconds since the epoch.
    pub const fn from_micros(micros: i64) -> Self {
        Timestamp(micros.saturating_mul(1_000))
    }

    /// From milliseconds since the epoch.
    pub const fn from_millis(millis: i64) -> Self {
        Timestamp(millis.saturating_mul(1_000_000))
    }

    /// From seconds since the epoch.
    pub const fn from_secs(secs: i64) -> Self {
        Timestamp(secs.saturating_mul(NANOS))
    }

    /// The wall clock's present time.
    pub fn now() -> Self {
        Utc::now().into()
    }

    /// Nanoseconds since the epoch.
    pub const fn as_nanos(self) -> i64 {
        self.0
    }

    /// Whole microseconds since the epoch, rounded down.
    pub const fn as_micros(self) -> i64 {
        self.0.div_euclid(1_000)
    }

    /// Whole milliseconds since the epoch, rounded down.
    pub const fn as_millis(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// This point moved back by `duration`, or the earliest point there is.
    pub fn saturating_sub(self, duration: Duration) -> Self {
        Timestamp(self.0.saturating_sub(i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)))
    }

    /// This point moved forward by `duration`, or the latest point there is.
    pub fn saturating_add(self, duration: Duration) -> Self {
        Timestamp(self.0.saturating_add(i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)))
    }

    /// The time from `earlier` to this point; zero if `earlier` is later.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_nanos(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// Writes `2026-11-20T08:30:00.123456789Z` to `out`: RFC 3339, UTC, always nine digits, so that text sorts as time.
    pub fn write_rfc3339(self, out: &mut Vec<u8>) {
        let secs = self.0.div_euclid(NANOS);
        let (year, month, day) = civil_date(secs.div_euclid(86_400));
        let second_of_day = secs.rem_euclid(86_400) as u32;
        let nanos = self.0.rem_euclid(NANOS) as u32;
        let mut text = *b"0000-00-00T00:00:00.000000000Z";
        write_digits(&mut text[0..4], year.into());
        write_digits(&mut text[5..7], month.into());
        write_digits(&mut text[8..10], day.into());
        write_digits(&mut text[11..13], (second_of_day / 3_600).into());
        write_digits(&mut text[14..16], (second_of_day / 60 % 60).into());
        write_digits(&mut text[17..19], (second_of_day % 60).into());
        text[20] += (nanos / 100_000_000) as u8;
        write_digits(&mut text[21..29], (nanos % 100_000_000).into());
        out.extend_from_slice(&text);
    }

    /// Reads an RFC 3339 text with any offset, or the same without an offset, taken as UTC, with `T` or a space.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(time) = parse_usual(text.as_bytes()) {
            return Some(time);
        }
        if let Ok(time) = DateTime::parse_from_rfc3339(text) {
            return Some(time.to_utc().into());
        }
        ["%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f"]
            .iter()
            .find_map(|format| chrono::NaiveDateTime::parse_from_str(text, format).ok())
            .map(|time| time.and_utc().into())
    }
}

/// Reads the form that most logs have, `2026-11-20T08:30:00.123Z`, with up to nine digits of a second; `None` for any
/// other, and for what is no time.
fn parse_usual(text: &[u8]) -> Option<Timestamp> {
    let (clock, rest) = text.split_at_checked(19)?;
    let mut is_number = true;
    let mut number = |digits: &[u8]| {
        digits.iter().fold(0_u32, |sum, digit| {
            let digit = digit.wrapping_sub(b'0');
            is_number &= digit < 10;
            sum.wrapping_mul(10).wrapping_add(u32::from(digit))
        })
    };
    let separators = [clock[4], clock[7], clock[10], clock[13], clock[16]];
    if separators != *b"--T::" {
        return None;
    }
    let (year, month, day) = (number(&clock[..4]), number(&clock[5..7]), number(&clock[8..10]));
    let (hour, minute, second) = (number(&clock[11..13]), number(&clock[14..16]), number(&clock[17..19]));
    let nanos = match rest {
        b"Z" => 0,
        [b'.', digits @ .., b'Z'] if (1..=9).contains(&digits.len()) => {
            number(digits).wrapping_mul(10_u32.pow(9 - digits.len() as u32))
        }
        _ => return None,
    };
    // A leap second is left to whoever knows them all.
    if !is_number || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let days = days_of(year, month, day)?;
    let seconds = days * 86_400 + i64::from(hour * 3_600 + minute * 60 + second);
    seconds.checked_mul(1_000_000_000)?.checked_add(i64::from(nanos)).map(Timestamp)
}

/// The days from 1970-01-01 to a date, if there is such a date. Days-from-civil after Howard Hinnant,
/// <https://howardhinnant.github.io/date_algorithms.html#days_from_civil>.
fn days_of(year: u32, month: u32, day: u32) -> Option<i64> {
    let is_leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let last = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if is_leap => 29,
        2 => 28,
        _ => return None,
    };
    if !(1..=last).contains(&day) {
        return None;
    }
    let shifted_year = i64::from(year) - i64::from(month <= 2);
    let era = shifted_year.div_euclid(400);
    let year_of_era = shifted_year.rem_euclid(400);
    let shifted_month = i64::from((month + 9) % 12);
    let day_of_year = (153 * shifted_month + 2) / 5 + i64::from(day) - 1;
    Some(era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468)
}

/// Year, month and day of a day counted from 1970-01-01. The range of [`Timestamp`] keeps the year within four digits.
/// Days-to-civil after Howard Hinnant, <https://howardhinnant.github.io/date_algorithms.html#civil_from_days>.
fn civil_date(days: i64) -> (u32, u32, u32) {
    // The range begins far behind the year 0, from which these days count.
    let days = (days + 719_468) as u32;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u32::from(month <= 2);
    (year, month, day)
}

impl From<DateTime<Utc>> for Timestamp {
    fn from(time: DateTime<Utc>) -> Self {
        Timestamp(time.timestamp_nanos_opt().unwrap_or(if time.year() < 1970 { i64::MIN } else { i64::MAX }))
    }
}

impl From<Timestamp> for DateTime<Utc> {
    fn from(time: Timestamp) -> Self {
        DateTime::from_timestamp_nanos(time.0)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Vec::with_capacity(30);
        self.write_rfc3339(&mut text);
        f.pad(&String::from_utf8_lossy(&text))
    }
}

impl FromStr for Timestamp {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Timestamp::parse(text)
            .or_else(|| {
                NaiveDate::parse_from_str(text, "%Y-%m-%d")
                    .ok()
                    .map(|d| d.and_time(Default::default()).and_utc().into())
            })
            .ok_or_else(|| format!("`{text}` is not a time such as 2026-11-20T08:30:00Z"))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Wall time, as the engine sees it. Tests hand in their own; everything else takes [`SystemClock`].
///
/// Waiting never goes through this: the engine waits on `tokio::time`, which tests can pause.
pub trait Clock: fmt::Debug + Send + Sync {
    /// The present time.
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn text_has_nine_digits_and_sorts_as_time() {
        let time = Timestamp::from_nanos(1_795_163_400_123_456_789);
        assert_eq!(time.to_string(), "2026-11-20T08:30:00.123456789Z");
        assert_eq!(Timestamp::from_nanos(-1).to_string(), "1969-12-31T23:59:59.999999999Z");
    }

    #[test]
    fn both_widths_of_an_orchestrators_table_are_read() {
        for text in ["2026-11-20T08:30:00.123Z", "2026-11-20 08:30:00.123", "2026-11-20T09:30:00.123000+01:00"] {
            assert_eq!(Timestamp::parse(text), Some(Timestamp::from_millis(1_795_163_400_123)), "{text}");
        }
        assert_eq!(Timestamp::parse("yesterday"), None);
    }

    #[test]
    fn years_out_of_range_end_at_the_nearest_end() {
        assert_eq!(Timestamp::parse("0001-01-01T00:00:00Z"), Some(Timestamp::from_nanos(i64::MIN)));
        assert_eq!(Timestamp::parse("9999-12-31T23:59:59Z"), Some(Timestamp::from_nanos(i64::MAX)));
    }

    proptest! {
        #[test]
        fn the_usual_form_is_read_as_chrono_reads_it(
            year in 1_680..2_260, month in 0..14, day in 0..33, hour in 0..26, minute in 0..62, second in 0..60,
            digits in "[.]?[0-9]{0,10}",
        ) {
            let text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{digits}Z");
            let expected = DateTime::parse_from_rfc3339(&text).ok().map(|time| Timestamp::from(time.to_utc()));
            if let Some(time) = parse_usual(text.as_bytes()) {
                prop_assert_eq!(Some(time), expected, "{}", text);
            } else if digits.is_empty() || (digits.starts_with('.') && (2..=10).contains(&digits.len())) {
                prop_assert_eq!(expected, None, "{}", text);
            }
        }

        #[test]
        fn text_agrees_with_chrono_and_reads_back(nanos: i64) {
            let time = Timestamp::from_nanos(nanos);
            let chrono_text = DateTime::<Utc>::from(time).format("%Y-%m-%dT%H:%M:%S%.9fZ").to_string();
            prop_assert_eq!(time.to_string(), chrono_text);
            prop_assert_eq!(time.to_string().parse::<Timestamp>(), Ok(time));
        }
    }
}
