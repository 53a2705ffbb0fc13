//! What it means that a store did not do what it was asked.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use logship_core::{Advice, Certainty, Error, ErrorKind};
use object_store::client::{HttpError, HttpErrorKind};

use crate::cause::find;

/// An answer that says no.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub(super) host: String,
    pub(super) status: u16,
    /// The store's own word, such as `SlowDown`.
    pub(super) code: Option<String>,
    pub(super) said: String,
    /// Where a bucket of S3 really is.
    pub(super) region: Option<String>,
    pub(super) retry_after: Option<Duration>,
}

impl StdError for Refusal {}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} answered {}", self.host, self.status)
    }
}

/// What a failure of `object_store` means to the engine. Its own words are left out where they may show an address.
///
/// A condition that was not met ([`object_store::Error::Precondition`], [`object_store::Error::AlreadyExists`]) is
/// somebody's who looks for it; here it is something that stands in the way for a while.
pub fn failure(operation: &'static str, error: object_store::Error) -> Error {
    use object_store::Error as Store;
    // Whoever says who we are fails with our own error.
    let error = match error {
        Store::Generic { store, source } => match source.downcast::<Error>() {
            Ok(ours) => return *ours,
            Err(source) => Store::Generic { store, source },
        },
        error => error,
    };
    if let Some(refusal) = find::<Refusal>(&error) {
        return refused(operation, refusal);
    }
    if let Some(http) = find::<HttpError>(&error) {
        let (certainty, message) = match http.kind() {
            HttpErrorKind::Connect => (Certainty::NotDelivered, "cannot connect"),
            _ => (Certainty::Unknown, "the connection broke before the answer was complete"),
        };
        let error = Error::new(ErrorKind::Unavailable, operation, message).certainty_is(certainty);
        return match http.source() {
            Some(source) => error.with("cause", chain(source)),
            None => error,
        };
    }
    if is_bucket_missing(&error) {
        return Error::new(ErrorKind::NotFound, operation, "there is no such bucket or container: make it first");
    }
    let text = error.to_string();
    match error {
        Store::NotFound { path, .. } => {
            Error::new(ErrorKind::NotFound, operation, "nothing is there").with("key", path)
        }
        // Somebody writes the same object, or the container is being deleted.
        Store::AlreadyExists { path, .. } | Store::Precondition { path, .. } => {
            Error::new(ErrorKind::Unavailable, operation, "in conflict with another request").with("key", path)
        }
        Store::InvalidPath { .. } => Error::new(ErrorKind::Config, operation, text),
        Store::NotSupported { .. } | Store::NotImplemented { .. } => {
            Error::new(ErrorKind::Unsupported, operation, text)
        }
        // An answer that cannot be read may be one to a request that was carried out.
        _ => {
            Error::new(ErrorKind::Protocol, operation, Error::excerpt(text.as_bytes())).certainty_is(Certainty::Unknown)
        }
    }
}

/// Whether what was not found is the bucket itself, and not an object of it.
pub fn is_bucket_missing(error: &object_store::Error) -> bool {
    let is_missing = matches!(error, object_store::Error::NotFound { .. } | object_store::Error::Generic { .. });
    let text = error.to_string();
    is_missing && ["NoSuchBucket", "ContainerNotFound", "bucket does not exist"].iter().any(|word| text.contains(word))
}

/// What a status and a store's word mean.
///
/// - S3: <https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html>
/// - Google: <https://cloud.google.com/storage/docs/xml-api/reference-status>
/// - Azure: <https://learn.microsoft.com/rest/api/storageservices/blob-service-error-codes>
fn refused(operation: &'static str, refusal: &Refusal) -> Error {
    use Certainty::{NotDelivered, Unknown};
    let code = refusal.code.as_deref().unwrap_or_default();
    let later = Advice::After(refusal.retry_after);
    let is_clock = matches!(code, "RequestTimeTooSkewed" | "RequestExpired");
    // What may have been replaced where it is kept.
    let is_key = matches!(
        code,
        "ExpiredToken"
            | "TokenRefreshRequired"
            | "InvalidToken"
            | "InvalidAccessKeyId"
            | "SignatureDoesNotMatch"
            | "AuthenticationFailed"
            | "InvalidAuthenticationInfo"
    );
    let (kind, advice, certainty, message) = match refusal.status {
        _ if is_clock => (ErrorKind::Auth, Advice::Never, NotDelivered, "this machine's clock is wrong"),
        401 => (ErrorKind::Auth, Advice::Refresh, NotDelivered, "not let in: check the credentials"),
        400 | 403 if is_key => (ErrorKind::Auth, Advice::Refresh, NotDelivered, "not let in: check the credentials"),
        403 => (ErrorKind::Auth, Advice::Never, NotDelivered, "not allowed: check the credentials' rights"),
        300..400 => {
            (ErrorKind::Config, Advice::Never, NotDelivered, "the bucket is elsewhere: check region and endpoint")
        }
        400 if code == "AuthorizationHeaderMalformed" => {
            (ErrorKind::Config, Advice::Never, NotDelivered, "the bucket is elsewhere: check region and endpoint")
        }
        // S3 gives up waiting for a body with a status of its own.
        400 if code == "RequestTimeout" => (ErrorKind::Unavailable, later, NotDelivered, "asked to try again"),
        408 => (ErrorKind::Unavailable, later, NotDelivered, "asked to try again"),
        407 => (ErrorKind::Auth, Advice::Never, NotDelivered, "the proxy does not let us in"),
        413 => (ErrorKind::TooLarge, Advice::Never, NotDelivered, "the object is too large"),
        429 => (ErrorKind::Throttled, later, NotDelivered, "asked to slow down"),
        503 if matches!(code, "SlowDown" | "ServerBusy" | "Busy") => {
            (ErrorKind::Throttled, later, NotDelivered, "asked to slow down")
        }
        501 | 505 => (ErrorKind::Unsupported, Advice::Never, NotDelivered, "does not support such requests"),
        // A proxy says so too when the server behind it took the request and went away.
        500..600 => (ErrorKind::Unavailable, later, Unknown, "failed"),
        _ => (ErrorKind::Rejected, Advice::Never, NotDelivered, "refused the request"),
    };
    let mut error = Error::new(kind, operation, message)
        .advise(advice)
        .certainty_is(certainty)
        .with("host", &refusal.host)
        .with("status", refusal.status);
    if !code.is_empty() {
        error = error.with("code", code);
    }
    if let Some(region) = &refusal.region {
        error = error.with("region", region);
    }
    if refusal.said.is_empty() { error } else { error.with("answer", &refusal.said) }
}

/// The innermost cause says most: `connection refused`.
fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut last = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    last.to_string()
}
