//! What a server's words mean for the records.

use std::time::Duration;

use logship_core::{Advice, Certainty, Error, ErrorKind, Outcome};
use serde::Deserialize;

use super::protobuf::{bytes_of, fields, number_of};

/// What an `ExportLogsServiceResponse` says.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Said {
    /// How many records were refused. Which ones OTLP does not say.
    pub(super) rejected: i64,
    pub(super) message: String,
}

/// A response in protobuf; `None` if it is none.
pub(super) fn read_protobuf(body: &[u8]) -> Option<Said> {
    let response = fields(body)?;
    let Some(partial) = bytes_of(&response, 1) else { return Some(Said::default()) };
    let partial = fields(partial)?;
    let message = bytes_of(&partial, 2).unwrap_or_default();
    Some(Said { rejected: number_of(&partial, 1) as i64, message: String::from_utf8_lossy(message).into_owned() })
}

/// A response in JSON; `None` if it is none.
pub(super) fn read_json(body: &[u8]) -> Option<Said> {
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Response {
        partial_success: Option<Partial>,
    }
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Partial {
        rejected_log_records: Option<Count>,
        error_message: Option<String>,
    }
    // Whole numbers of 64 bits are strings in this JSON, and numbers in that of many.
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Count {
        Number(i64),
        Text(String),
    }
    // An array would be read as an object without members.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return None;
    }
    let partial = serde_json::from_slice::<Response>(body).ok()?.partial_success.unwrap_or_default();
    let rejected = match partial.rejected_log_records {
        None => 0,
        Some(Count::Number(number)) => number,
        Some(Count::Text(text)) => text.parse().ok()?,
    };
    Some(Said { rejected, message: partial.error_message.unwrap_or_default() })
}

/// What becomes of the records of a request that succeeded, in whole or in part.
///
/// Where some were refused nobody knows which, and a client may not send any of them again
/// (<https://opentelemetry.io/docs/specs/otlp/#partial-success>), as the others are there. So none counts as accepted:
/// all of them are refused with words that say so.
pub(super) fn outcome(said: &Said, records: usize) -> Outcome {
    let Some(refused) = usize::try_from(said.rejected).ok().filter(|refused| *refused > 0) else {
        return Outcome::all_accepted(records);
    };
    let words = Error::excerpt(said.message.as_bytes());
    let words = if words.is_empty() { "no reason given".to_owned() } else { words };
    let (code, reason) = if refused >= records {
        ("rejected", words)
    } else {
        let reason = format!(
            "{refused} of the {records} records of a request were refused, and OTLP does not say which; the others are \
             there, so none of them is sent again: {words}"
        );
        ("partial success", reason)
    };
    let mut outcome = Outcome::builder(records);
    (0..records).for_each(|index| outcome.rejected(index, code, reason.clone()));
    outcome.build()
}

/// The message of a `google.rpc.Status` in protobuf, as a server answers where it refuses a request.
pub(super) fn status_message(body: &[u8]) -> Option<&[u8]> {
    bytes_of(&fields(body)?, 2)
}

/// How long to wait, by the `RetryInfo` among the details of a `google.rpc.Status`. `Some(None)` where there is a
/// `RetryInfo` that names no time.
/// <https://github.com/googleapis/googleapis/blob/master/google/rpc/error_details.proto>
pub(super) fn retry_info(status: &[u8]) -> Option<Option<Duration>> {
    use super::protobuf::Field;
    for (number, detail) in fields(status)? {
        let (3, Field::Bytes(any)) = (number, detail) else { continue };
        let any = fields(any)?;
        if !bytes_of(&any, 1).is_some_and(|url| url.ends_with(b"/google.rpc.RetryInfo")) {
            continue;
        }
        let info = fields(bytes_of(&any, 2).unwrap_or_default())?;
        let Some(delay) = bytes_of(&info, 1) else { return Some(None) };
        let delay = fields(delay)?;
        let (seconds, nanos) = (number_of(&delay, 1) as i64, number_of(&delay, 2) as i64);
        let time = u64::try_from(seconds).ok().zip(u32::try_from(nanos).ok());
        return Some(time.map(|(seconds, nanos)| Duration::from_secs(seconds).saturating_add(nanos_of(nanos))));
    }
    None
}

fn nanos_of(nanos: u32) -> Duration {
    Duration::from_nanos(nanos.into())
}

/// What an answer over gRPC is where it is no success.
///
/// Which codes are tried again: <https://opentelemetry.io/docs/specs/otlp/#failures>. The codes themselves:
/// <https://grpc.github.io/grpc/core/md_doc_statuscodes.html>
pub(super) fn grpc_error(operation: &'static str, code: u32, text: &str, details: Option<&[u8]>) -> Error {
    use Certainty::{NotDelivered, Unknown};
    let asked = details.and_then(retry_info);
    let later = Advice::After(asked.flatten());
    // Servers have their own codes for it, one of which means "try again" everywhere else.
    let is_too_large =
        ["larger than", "too large", "exceeds maximum size"].iter().any(|words| text.to_lowercase().contains(words));
    let (kind, advice, certainty, message) = match code {
        8 | 11 if is_too_large => (ErrorKind::TooLarge, Advice::Split, NotDelivered, "the request is too large"),
        8 if asked.is_some() => (ErrorKind::Throttled, later, NotDelivered, "asked to slow down"),
        8 => (ErrorKind::Rejected, Advice::Never, NotDelivered, "has no room, and did not say when it will"),
        14 if asked.is_some() => (ErrorKind::Throttled, later, NotDelivered, "asked to slow down"),
        1 | 4 | 10 | 11 | 14 | 15 => (ErrorKind::Unavailable, later, Unknown, "failed"),
        3 => (ErrorKind::Rejected, Advice::Split, NotDelivered, "refused the request as a whole"),
        5 | 12 => (ErrorKind::NotFound, Advice::Never, NotDelivered, "takes no logs there: check the endpoint"),
        7 => (ErrorKind::Auth, Advice::Never, NotDelivered, "not allowed: check the credentials' rights"),
        16 => (ErrorKind::Auth, Advice::Refresh, NotDelivered, "not let in: check the credentials"),
        _ => (ErrorKind::Rejected, Advice::Never, Unknown, "failed, in a way that is not tried again"),
    };
    let error = Error::new(kind, operation, message).advise(advice).certainty_is(certainty);
    let error = error.with("grpc-status", code);
    if text.is_empty() { error } else { error.with("answer", Error::excerpt(text.as_bytes())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsPartialSuccess, ExportLogsServiceResponse};
    use proptest::prelude::*;
    use prost::Message;

    /// `google.rpc.Status` with a `RetryInfo` of so long, byte by byte.
    fn status(seconds: u8, nanos: u8) -> Vec<u8> {
        let url = b"type.googleapis.com/google.rpc.RetryInfo";
        let delay = [8, seconds, 16, nanos];
        let any = [&[10, url.len() as u8], &url[..], &[18, 6, 10, 4], &delay].concat();
        [&[8, 14, 18, 4], &b"busy"[..], &[26, any.len() as u8], &any].concat()
    }

    #[test]
    fn a_response_reads_alike_in_both_forms() {
        for (rejected, message) in [(0, ""), (3, "too old"), (0, "a warning"), (-1, "")] {
            let said = Said { rejected, message: message.to_owned() };
            let partial =
                ExportLogsPartialSuccess { rejected_log_records: rejected, error_message: message.to_owned() };
            let response = ExportLogsServiceResponse { partial_success: Some(partial) };
            assert_eq!(read_protobuf(&response.encode_to_vec()).as_ref(), Some(&said));
            for count in [rejected.to_string(), format!("\"{rejected}\"")] {
                let json = format!(
                    r#"{{"partialSuccess":{{"rejectedLogRecords":{count},"errorMessage":"{message}"}},"x":1}}"#
                );
                assert_eq!(read_json(json.as_bytes()).as_ref(), Some(&said));
            }
        }
        assert_eq!(read_protobuf(b""), Some(Said::default()));
        assert_eq!(read_json(b"{}"), Some(Said::default()));
        assert_eq!(read_json(br#"{"partialSuccess":null}"#), Some(Said::default()));
        for other in ["<html>", "ok", "[]", r#"{"partialSuccess":{"rejectedLogRecords":"x"}}"#] {
            assert_eq!(read_json(other.as_bytes()), None, "{other}");
        }
        assert_eq!(read_protobuf(b"<html>"), None);
    }

    #[test]
    fn some_that_were_refused_are_neither_lost_nor_sent_again() {
        let said = |rejected| Said { rejected, message: "too old".to_owned() };
        for (rejected, accepted) in [(0, 5), (-1, 5), (1, 0), (4, 0), (5, 0), (6, 0)] {
            let outcome = outcome(&said(rejected), 5);
            assert_eq!((outcome.accepted_count(), outcome.undelivered().count()), (accepted, 0), "{rejected}");
            assert_eq!(outcome.rejected().count(), 5 - accepted, "{rejected}");
        }
        let some = outcome(&said(2), 5).rejected().next().unwrap().1.to_string();
        assert!(some.contains("2 of the 5 records") && some.contains("too old"), "{some}");
        let all = outcome(&said(5), 5).rejected().next().unwrap().1.to_string();
        assert_eq!(all, "rejected: too old");
    }

    #[test]
    fn a_retry_info_names_the_time_to_wait() {
        assert_eq!(retry_info(&status(7, 5)), Some(Some(Duration::new(7, 5))));
        assert_eq!(retry_info(&[8, 14]), None);
        assert_eq!(status_message(&status(7, 5)), Some(&b"busy"[..]));
    }

    #[test]
    fn grpc_codes_are_tried_again_or_not_as_otlp_says() {
        use ErrorKind::{Auth, NotFound, Rejected, Throttled, TooLarge, Unavailable};
        let wait = Advice::After(Some(Duration::from_secs(7)));
        let details = status(7, 0);
        for (code, text, details, kind, advice) in [
            (1, "", None, Unavailable, Advice::After(None)),
            (2, "", None, Rejected, Advice::Never),
            (3, "", None, Rejected, Advice::Split),
            (4, "", None, Unavailable, Advice::After(None)),
            (5, "", None, NotFound, Advice::Never),
            (6, "", None, Rejected, Advice::Never),
            (7, "", None, Auth, Advice::Never),
            (8, "", None, Rejected, Advice::Never),
            (8, "", Some(&details[..]), Throttled, wait),
            (8, "grpc: received message larger than max (9 vs. 8)", None, TooLarge, Advice::Split),
            (8, "gRPC message exceeds maximum size 4194304: 5000000", None, TooLarge, Advice::Split),
            (11, "Error, decoded message length too large: found 9 bytes", None, TooLarge, Advice::Split),
            (9, "", None, Rejected, Advice::Never),
            (10, "", None, Unavailable, Advice::After(None)),
            (11, "", None, Unavailable, Advice::After(None)),
            (12, "", None, NotFound, Advice::Never),
            (13, "", None, Rejected, Advice::Never),
            (14, "", None, Unavailable, Advice::After(None)),
            (14, "", Some(&details[..]), Throttled, wait),
            (15, "", None, Unavailable, Advice::After(None)),
            (16, "", None, Auth, Advice::Refresh),
        ] {
            let error = grpc_error("test", code, text, details);
            assert_eq!((error.kind(), error.advice()), (kind, advice), "{code} {text}");
        }
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..60), records in 1usize..4) {
            for said in [read_protobuf(&bytes), read_json(&bytes)].into_iter().flatten() {
                prop_assert_eq!(outcome(&said, records).len(), records);
            }
            retry_info(&bytes);
            status_message(&bytes);
        }
    }
}
