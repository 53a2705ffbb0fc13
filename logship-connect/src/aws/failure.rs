//! What an error of an SDK means.

use std::error::Error as StdError;

use aws_credential_types::provider::error::CredentialsError;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use logship_core::{Advice, Certainty, Error, ErrorKind};

use super::credentials::no_credentials;
use crate::cause::find;

/// The error of a request that failed as a whole, whichever service was asked. Codes that mean something else at one
/// service are for its exporter or source to look at first.
///
/// The message of AWS is in it, but for those about signatures, which repeat what was signed.
pub fn failure<E>(operation: &'static str, error: SdkError<E, HttpResponse>) -> Error
where
    E: StdError + ProvideErrorMetadata + Send + Sync + 'static,
{
    let status = error.raw_response().map(|response| response.status().as_u16());
    if let SdkError::ServiceError(answer) = &error {
        let (code, message) = (answer.err().code().unwrap_or_default(), answer.err().message().unwrap_or_default());
        let (kind, advice, certainty, words) = classify(code, status.unwrap_or_default());
        let mut failed = Error::new(kind, operation, words).advise(advice).certainty_is(certainty);
        failed = failed.with("status", status.unwrap_or_default());
        if !code.is_empty() {
            failed = failed.with("code", Error::excerpt(code.as_bytes()));
        }
        if !message.is_empty() && !code.contains("Signature") {
            failed = failed.with("answer", Error::excerpt(message.as_bytes()));
        }
        return failed;
    }
    if let Some(cause) = find::<CredentialsError>(&error) {
        return no_credentials(cause);
    }
    let (kind, certainty, words) = match (&error, find::<reqwest::Error>(&error)) {
        (SdkError::ConstructionFailure(_), _) => {
            (ErrorKind::Config, Certainty::NotDelivered, "the request cannot be made")
        }
        (SdkError::TimeoutError(_), _) => (ErrorKind::Timeout, Certainty::Unknown, "no answer in time"),
        (SdkError::ResponseError(_), None) => {
            (ErrorKind::Protocol, Certainty::Unknown, "the answer makes no sense: check the endpoint")
        }
        (_, Some(cause)) if cause.is_connect() => {
            (ErrorKind::Unavailable, Certainty::NotDelivered, "cannot connect: check the endpoint and `connection`")
        }
        (_, Some(_)) => {
            (ErrorKind::Unavailable, Certainty::Unknown, "the connection broke before the answer was complete")
        }
        _ => (ErrorKind::Config, Certainty::NotDelivered, "the request cannot be sent"),
    };
    let failed = Error::new(kind, operation, words).certainty_is(certainty);
    match (status, error.into_source()) {
        (Some(status), _) => failed.with("status", status),
        (None, Ok(source)) => failed.with_source(source),
        (None, Err(_)) => failed,
    }
}

/// The code that AWS gave with an error of [`failure`], without what names a service before it. Empty where it gave none.
pub fn error_code(error: &Error) -> &str {
    bare(error.context("code").unwrap_or_default())
}

/// Whether AWS has said that the credentials do not have the right to do this.
pub fn is_denied(error: &Error) -> bool {
    matches!(error_code(error), "AccessDenied" | "AccessDeniedException")
}

/// A code as the documents write it. What stands before a dot or a hash names a service.
fn bare(code: &str) -> &str {
    code.rsplit(['.', '#']).next().unwrap_or(code)
}

/// What kind of error a code alone says it is.
pub(super) fn kind_of(code: &str) -> ErrorKind {
    classify(code, 0).0
}

/// What a code means, and, where there is none that is known, the status
/// (<https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/CommonErrors.html>, and the like of the other
/// services).
fn classify(code: &str, status: u16) -> (ErrorKind, Advice, Certainty, &'static str) {
    use Certainty::{NotDelivered, Unknown};
    let later = Advice::After(None);
    match (bare(code), status) {
        (
            "ThrottlingException"
            | "KMSThrottlingException"
            | "Throttling"
            | "ThrottledException"
            | "RequestThrottled"
            | "RequestThrottledException"
            | "TooManyRequestsException"
            | "RequestLimitExceeded"
            | "ProvisionedThroughputExceededException"
            | "BandwidthLimitExceeded"
            | "SlowDown",
            _,
        )
        | (_, 429) => (ErrorKind::Throttled, later, NotDelivered, "asked to slow down"),
        (
            "ExpiredToken"
            | "ExpiredTokenException"
            | "RequestExpired"
            | "InvalidClientTokenId"
            | "UnrecognizedClientException"
            | "InvalidAccessKeyId"
            | "InvalidToken"
            | "AuthFailure",
            _,
        )
        | (_, 401) => (ErrorKind::Auth, Advice::Refresh, NotDelivered, "not let in: check the credentials"),
        ("SignatureDoesNotMatch" | "InvalidSignatureException", _) => (
            ErrorKind::Auth,
            Advice::Refresh,
            NotDelivered,
            "the signature was refused: check the secret key and the machine's clock",
        ),
        ("AccessDenied" | "AccessDeniedException" | "OptInRequired" | "NotAuthorized", _) | (_, 403) => {
            (ErrorKind::Auth, Advice::Never, NotDelivered, "not allowed: check the rights of the credentials")
        }
        ("ResourceNotFoundException", _) | (_, 404) => {
            (ErrorKind::NotFound, Advice::Never, NotDelivered, "what is addressed is not there")
        }
        ("RequestTimeout" | "RequestTimeoutException", _) | (_, 408) => {
            (ErrorKind::Unavailable, later, NotDelivered, "asked to try again")
        }
        ("OperationAbortedException", _) => {
            (ErrorKind::Unavailable, later, NotDelivered, "somebody else changes the same: asked to try again")
        }
        ("LimitExceededException", _) => {
            (ErrorKind::Unavailable, later, NotDelivered, "the account has come to a limit: asked to try again")
        }
        ("RequestEntityTooLarge", _) | (_, 413) => {
            (ErrorKind::TooLarge, Advice::Split, NotDelivered, "the request is too large")
        }
        // A success that cannot be read is an error to the SDKs, and what it was about may have happened. It may also be
        // the page of a proxy, which goes away.
        (_, 200..=299) => (ErrorKind::Protocol, later, Unknown, "the answer makes no sense: check the endpoint"),
        (_, 300..=399) => {
            (ErrorKind::Config, Advice::Never, NotDelivered, "redirected, which is never followed: set the endpoint")
        }
        (_, 500..=599) => (ErrorKind::Unavailable, later, Unknown, "failed"),
        _ => (ErrorKind::Rejected, Advice::Never, NotDelivered, "refused the request"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_says_more_than_its_status() {
        let later = Advice::After(None);
        for (code, status, kind, advice, certainty) in [
            ("ThrottlingException", 400, ErrorKind::Throttled, later, Certainty::NotDelivered),
            ("KMSThrottlingException", 400, ErrorKind::Throttled, later, Certainty::NotDelivered),
            ("KMS.ThrottlingException", 400, ErrorKind::Throttled, later, Certainty::NotDelivered),
            ("SlowDown", 503, ErrorKind::Throttled, later, Certainty::NotDelivered),
            ("ExpiredTokenException", 400, ErrorKind::Auth, Advice::Refresh, Certainty::NotDelivered),
            ("ExpiredToken", 403, ErrorKind::Auth, Advice::Refresh, Certainty::NotDelivered),
            ("AccessDeniedException", 400, ErrorKind::Auth, Advice::Never, Certainty::NotDelivered),
            ("ResourceNotFoundException", 400, ErrorKind::NotFound, Advice::Never, Certainty::NotDelivered),
            ("ServiceUnavailableException", 500, ErrorKind::Unavailable, later, Certainty::Unknown),
            ("", 200, ErrorKind::Protocol, later, Certainty::Unknown),
            ("", 503, ErrorKind::Unavailable, later, Certainty::Unknown),
            ("", 401, ErrorKind::Auth, Advice::Refresh, Certainty::NotDelivered),
            ("InvalidParameterException", 400, ErrorKind::Rejected, Advice::Never, Certainty::NotDelivered),
        ] {
            let (found, advised, certain, _) = classify(code, status);
            assert_eq!((found, advised, certain), (kind, advice, certainty), "{code} {status}");
        }
    }

    #[test]
    fn a_code_is_told_whatever_service_it_names() {
        for code in ["AccessDenied", "KMS.AccessDeniedException", "com.amazonaws.kinesis#AccessDeniedException"] {
            let error = Error::new(ErrorKind::Auth, "put", "not allowed").with("code", code);
            assert!(is_denied(&error), "{code}");
        }
        let coded = |code| Error::new(ErrorKind::Rejected, "put", "refused the request").with("code", code);
        assert_eq!(error_code(&coded("AWS.SimpleQueueService.BatchRequestTooLong")), "BatchRequestTooLong");
        assert!(!is_denied(&coded("KMSAccessDeniedException")));
        assert_eq!(error_code(&Error::new(ErrorKind::Timeout, "put", "no answer in time")), "");
    }
}
