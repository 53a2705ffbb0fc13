//! Durations and ranges of time as people write them.

use std::time::Duration;

use jiff::{Span, SpanRelativeTo};
use logship_core::{Error, Timestamp};

/// Reads a duration: `36h`, `1 day`, `1h 30m`, `500ms`, or as ISO 8601 writes it, `P1D`, `PT12H`, `P1W`. A day has 24
/// hours. Months and years are refused, as nobody can say how long they are.
///
/// # Errors
/// What is wrong with it, and what would be right.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no duration such as 36h, 1 day, 500ms, P1D, PT12H or P1W");
    let span: Span = text.trim().parse().map_err(|_| wrong())?;
    if span.get_years() != 0 || span.get_months() != 0 {
        return Err(format!("`{text}` has months or years, which have no fixed length; use days or weeks"));
    }
    let duration = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| wrong())?;
    Duration::try_from(duration).map_err(|_| format!("`{text}` is negative; a duration here is positive"))
}

/// Reads a range of time: `FROM..TO`, each a day (`2026-11-20`, which begins at midnight, UTC) or a time
/// (`2026-11-20T08:30:00Z`), with `TO` itself left out; or a duration, such as `7d` or `P1W`, for the time up to `now`.
///
/// # Errors
/// What is wrong with it, and what would be right.
pub fn parse_range(text: &str, now: Timestamp) -> Result<(Timestamp, Timestamp), Error> {
    let wrong = |message: String| Error::config("range", message);
    match text.split_once("..") {
        Some((from, to)) => Ok((from.trim().parse().map_err(wrong)?, to.trim().parse().map_err(wrong)?)),
        None => {
            let back = parse_duration(text)
                .map_err(|message| wrong(format!("{message}, and no range such as 2026-11-01..2026-11-02 either")))?;
            Ok((now.saturating_sub(back), now))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_and_standards_write_them() {
        for (text, secs) in [
            ("P1D", 86_400),
            ("PT12H", 43_200),
            ("P1W", 604_800),
            ("P1DT2H", 93_600),
            ("36h", 129_600),
            ("1 day", 86_400),
            ("1h 30m", 5_400),
            ("PT0S", 0),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(secs)), "{text}");
        }
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        for (text, words) in [
            ("P1M", "months or years"),
            ("P", "no duration"),
            ("-P1D", "negative"),
            ("90", "no duration"),
            ("soon", "no duration"),
            ("P99999999D", "no duration"),
        ] {
            let error = parse_duration(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn ranges_are_days_times_or_the_time_up_to_now() {
        let time = |text: &str| text.parse::<Timestamp>().unwrap();
        let now = time("2026-11-21T12:00:00Z");
        let range = |text| parse_range(text, now).map_err(|error| error.to_string());
        assert_eq!(range("2026-11-01..2026-11-02T06:00:00Z"), Ok((time("2026-11-01"), time("2026-11-02T06:00:00Z"))));
        assert_eq!(range("12h"), Ok((time("2026-11-21T00:00:00Z"), now)));
        for text in ["yesterday", "2026-11-01", "2026-11-01..soon"] {
            assert!(range(text).unwrap_err().contains("2026-11-"), "{text}");
        }
    }
}
