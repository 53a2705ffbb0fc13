//! What went wrong, and what to do about it.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

/// A request, a read or a commit that failed as a whole.
///
/// Says what failed (`operation`), why (`kind`, `message`), what to do ([`Advice`]) and whether anything may have
/// happened all the same ([`Certainty`]). What a destination says about single records is not an error but an
/// [`Outcome`](crate::Outcome).
///
/// `Display` is one line; `Debug` has the source too. Neither may hold a secret or a record's text: whoever builds an
/// error keeps them out, and cuts foreign text with [`Error::excerpt`].
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    advice: Advice,
    certainty: Certainty,
    operation: &'static str,
    message: String,
    context: Vec<(&'static str, String)>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// What kind of thing went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The configuration is wrong, or does not fit what is stored. Nothing was sent.
    Config,
    /// Not let in.
    Auth,
    /// The thing addressed is not there: an index, a bucket, a table.
    NotFound,
    /// Asked to slow down.
    Throttled,
    /// Not reachable, or not working now.
    Unavailable,
    /// No answer in time.
    Timeout,
    /// The request was larger than the destination takes.
    TooLarge,
    /// The destination refused the request and would refuse it again.
    Rejected,
    /// The answer made no sense.
    Protocol,
    /// What is stored (an offset, a file) is unreadable or inconsistent.
    State,
    /// Somebody else holds the lease.
    Busy,
    /// The lease is lost: somebody newer holds it.
    Fenced,
    /// The thing asked for is not supported.
    Unsupported,
    /// Stopped on request.
    Cancelled,
    /// None of these.
    Unexpected,
}

/// What the engine should do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Advice {
    /// The same again would fail again: stop this lane.
    Never,
    /// Try again, after this time if the destination named one, else when the engine thinks fit.
    After(Option<Duration>),
    /// Try again in two halves; a single record is rejected. For a chunk that is too large, and for one that was
    /// refused as a whole, with nothing accepted, because of a record the destination does not name.
    Split,
    /// Get new credentials with [`Exporter::refresh`](crate::Exporter::refresh), then try again, once.
    Refresh,
}

/// Whether the destination may have taken the records in spite of the error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certainty {
    /// It has none of them.
    NotDelivered,
    /// The request left us and no answer came: it may have all, some or none.
    Unknown,
}

impl Error {
    /// An error with the advice that goes with its kind: `Throttled`, `Unavailable` and `Timeout` are tried again,
    /// `TooLarge` is split, everything else is final. A `Timeout` leaves the outcome unknown.
    pub fn new(kind: ErrorKind, operation: &'static str, message: impl Into<String>) -> Self {
        let advice = match kind {
            ErrorKind::Throttled | ErrorKind::Unavailable | ErrorKind::Timeout => Advice::After(None),
            ErrorKind::TooLarge => Advice::Split,
            _ => Advice::Never,
        };
        let certainty = if kind == ErrorKind::Timeout { Certainty::Unknown } else { Certainty::NotDelivered };
        Error(Box::new(Inner {
            kind,
            advice,
            certainty,
            operation,
            message: message.into(),
            context: Vec::new(),
            source: None,
        }))
    }

    /// A configuration error: `field` is wrong because of `message`.
    pub fn config(field: &str, message: impl Into<String>) -> Self {
        Error::new(ErrorKind::Config, "read configuration", message).with("field", field)
    }

    /// With other advice than the kind's own.
    #[must_use]
    pub fn advise(mut self, advice: Advice) -> Self {
        self.0.advice = advice;
        self
    }

    /// With other certainty than the kind's own.
    #[must_use]
    pub fn certainty_is(mut self, certainty: Certainty) -> Self {
        self.0.certainty = certainty;
        self
    }

    /// With one more thing that helps to find the cause. Never a secret, never a record's text.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl fmt::Display) -> Self {
        self.0.context.push((name, value.to_string()));
        self
    }

    /// With the error that caused this one. Its text is part of this error's, so it may not hold a secret either.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// What kind of thing went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// What to do about it.
    pub fn advice(&self) -> Advice {
        self.0.advice
    }

    /// Whether something may have been delivered all the same.
    pub fn certainty(&self) -> Certainty {
        self.0.certainty
    }

    /// What was being done.
    pub fn operation(&self) -> &'static str {
        self.0.operation
    }

    /// Why it failed.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What was added under this name with [`with`](Error::with), such as the `field` of a configuration error.
    pub fn context(&self, name: &str) -> Option<&str> {
        self.0.context.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    /// Whether the same again may succeed.
    pub fn is_retryable(&self) -> bool {
        !matches!(self.0.advice, Advice::Never)
    }

    /// A copy without the source, whose text is kept as context.
    pub(crate) fn duplicate(&self) -> Self {
        let mut context = self.0.context.clone();
        if let Some(source) = &self.0.source {
            context.push(("cause", source_chain(source.as_ref())));
        }
        Error(Box::new(Inner {
            kind: self.0.kind,
            advice: self.0.advice,
            certainty: self.0.certainty,
            operation: self.0.operation,
            message: self.0.message.clone(),
            context,
            source: None,
        }))
    }

    /// The first 512 bytes of a foreign text on one line, for an error: enough to understand it, too little to leak
    /// a chunk.
    pub fn excerpt(text: &[u8]) -> String {
        const EXCERPT_BYTES: usize = 512;
        let cut = &text[..text.len().min(EXCERPT_BYTES)];
        let mut line: String = String::from_utf8_lossy(cut).split_whitespace().collect::<Vec<_>>().join(" ");
        if text.len() > EXCERPT_BYTES {
            line.push_str(" ...");
        }
        line
    }
}

fn source_chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        // Many errors repeat their cause in their own text.
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.operation, self.0.message)?;
        if let Some(source) = &self.0.source {
            write!(f, ": {}", source_chain(source.as_ref()))?;
        }
        for (index, (name, value)) in self.0.context.iter().enumerate() {
            f.write_str(if index == 0 { " (" } else { ", " })?;
            write!(f, "{name}: {value}")?;
        }
        if self.0.context.is_empty() { Ok(()) } else { f.write_str(")") }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} ({:?}, {:?}): {self}", self.0.kind, self.0.advice, self.0.certainty)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_is_one_line_that_says_what_why_and_where() {
        let error = Error::new(ErrorKind::Unavailable, "elasticsearch bulk", "no answer")
            .with("host", "http://localhost:9200")
            .with("records", 812)
            .with_source(std::io::Error::other("connection refused"));
        assert_eq!(
            error.to_string(),
            "elasticsearch bulk: no answer: connection refused (host: http://localhost:9200, records: 812)"
        );
        assert_eq!(error.advice(), Advice::After(None));
        assert_eq!(error.certainty(), Certainty::NotDelivered);
    }

    #[test]
    fn a_timeout_may_have_been_delivered() {
        assert_eq!(Error::new(ErrorKind::Timeout, "export", "").certainty(), Certainty::Unknown);
    }

    #[test]
    fn excerpts_are_short_and_on_one_line() {
        assert_eq!(Error::excerpt(b"<html>\n  502\n</html>"), "<html> 502 </html>");
        assert!(Error::excerpt(&[b'x'; 10_000]).len() < 600);
    }
}
