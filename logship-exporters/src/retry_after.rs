//! How long a destination asks us to wait.

use std::time::{Duration, SystemTime};

/// The longest that a destination's `Retry-After` is followed.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// Reads a `Retry-After` header: whole seconds, or an HTTP date, counted from `now`
/// (<https://www.rfc-editor.org/rfc/rfc9110#field.retry-after>); at most an hour. Anything else is as good as nothing.
pub(crate) fn retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    let text = text.trim();
    let wait = if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // A number too large to read is longer than an hour.
        text.parse().map_or(RETRY_AFTER_MAX, Duration::from_secs)
    } else {
        let date = httpdate::parse_http_date(text).ok()?;
        date.duration_since(now).unwrap_or(Duration::ZERO)
    };
    Some(wait.min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date_and_an_hour_at_most() {
        let date = "Fri, 20 Nov 2026 08:30:00 GMT";
        let now = httpdate::parse_http_date(date).unwrap();
        assert_eq!(retry_after("7", now), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("0", now), Some(Duration::ZERO));
        assert_eq!(retry_after("86400", now), Some(RETRY_AFTER_MAX));
        assert_eq!(retry_after("99999999999999999999999", now), Some(RETRY_AFTER_MAX));
        assert_eq!(retry_after(date, now - Duration::from_secs(90)), Some(Duration::from_secs(90)));
        assert_eq!(retry_after(date, now + Duration::from_secs(90)), Some(Duration::ZERO));
        assert_eq!(retry_after(date, now - Duration::from_secs(86_400)), Some(RETRY_AFTER_MAX));
        for nonsense in ["", "soon", "-1", "1.5"] {
            assert_eq!(retry_after(nonsense, now), None, "{nonsense}");
        }
    }
}
