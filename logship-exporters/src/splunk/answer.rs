//! What Splunk's answers mean: the code in the body says it, whatever the status is.
//! <https://docs.splunk.com/Documentation/Splunk/latest/Data/TroubleshootHTTPEventCollector#Possible_error_codes>

use std::collections::HashMap;
use std::time::SystemTime;

use logship_core::{Advice, Certainty, Error, ErrorKind, Outcome};
use serde::Deserialize;

use crate::delivery::{Answer, Delivery, classify_status};

/// The body of an answer.
#[derive(Debug, Default, Deserialize)]
struct Said {
    #[serde(default)]
    text: String,
    code: Option<u16>,
    #[serde(rename = "ackId")]
    ack: Option<u64>,
    /// The place of the first event that is refused.
    #[serde(rename = "invalid-event-number")]
    invalid: Option<usize>,
}

/// What became of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// All was taken; by this number Splunk knows whether it is indexed.
    Received(Option<u64>),
    /// One event was refused.
    Refused(Outcome),
}

/// Reads the answer to a request with records.
pub(super) fn verdict(delivery: &Delivery, answer: &Answer, records: usize) -> Result<Verdict, Error> {
    let is_success = (200..300).contains(&answer.status);
    let said: Option<Said> = serde_json::from_slice(&answer.body).ok().filter(|_| !answer.is_cut);
    match said {
        // 24 and 25 warn that a queue is nearly full.
        Some(Said { code: Some(0 | 24 | 25), ack, .. }) if is_success => Ok(Verdict::Received(ack)),
        Some(Said { code: Some(code), invalid: Some(place), text, .. }) if place < records && is_about_event(code) => {
            Ok(Verdict::Refused(refused_at(place, code, &text, records)))
        }
        Some(Said { code: Some(_), .. }) => Err(refused(delivery, answer)),
        _ if is_success => {
            let error = delivery.unintelligible(answer, "the answer is not that of an event collector: check `url`");
            // As like as not it comes from something in between that has a bad moment.
            Err(error.advise(Advice::After(None)))
        }
        _ => Err(refused(delivery, answer)),
    }
}

/// Whether a code is about what an event is like. An incorrect index (7) is not: all events name the same.
fn is_about_event(code: u16) -> bool {
    matches!(code, 6 | 12 | 13 | 15)
}

/// One event is refused. Nobody says whether those before it were kept, so nothing is said of them here either; those
/// behind it were not looked at.
fn refused_at(place: usize, code: u16, text: &str, records: usize) -> Outcome {
    let mut outcome = Outcome::builder(records);
    outcome.rejected(place, code.to_string(), Error::excerpt(text.as_bytes()));
    (place + 1..records).for_each(|index| outcome.retry(index));
    outcome.build()
}

/// The error that an answer is.
pub(super) fn refused(delivery: &Delivery, answer: &Answer) -> Error {
    let error = delivery.refused(answer);
    let Ok(Said { code: Some(code), .. }) = serde_json::from_slice(&answer.body) else { return error };
    let later = classify_status(503, &answer.headers, SystemTime::now()).advice;
    use Certainty::{NotDelivered, Unknown};
    let (kind, advice, certainty, message) = match code {
        1..=4 | 21 | 22 => (ErrorKind::Auth, Advice::Refresh, NotDelivered, "not let in: check `token`"),
        // The largest body is said without a code of its own.
        _ if answer.status == 413 => (ErrorKind::TooLarge, Advice::Split, NotDelivered, "the request is too large"),
        // Some event is at fault and is not named: what was before it may have been kept.
        6 | 12 | 13 | 15 => (ErrorKind::Rejected, Advice::Split, Unknown, "refused an event that it does not name"),
        7 => (ErrorKind::NotFound, Advice::Never, NotDelivered, "the token may not write to this `index`"),
        10 | 11 => (ErrorKind::Config, Advice::Never, NotDelivered, "does not take this `channel`"),
        14 => (ErrorKind::Config, Advice::Never, NotDelivered, "does not acknowledge: switch `acknowledge` off"),
        8 => (ErrorKind::Unavailable, later, Unknown, "failed"),
        9 | 26 | 27 => (ErrorKind::Throttled, later, NotDelivered, "is busy"),
        18..=20 | 23 => (ErrorKind::Unavailable, later, NotDelivered, "is not ready"),
        _ => return error,
    };
    let shown = Error::excerpt(&answer.body);
    Error::new(kind, error.operation(), message)
        .advise(advice)
        .certainty_is(certainty)
        .with("host", &answer.host)
        .with("status", answer.status)
        .with("answer", shown)
}

/// An error after which the events may be there all the same.
pub(super) fn received(error: Error) -> Error {
    error.certainty_is(Certainty::Unknown)
}

/// Whether the answer to a question says that a request is indexed.
pub(super) fn is_indexed(delivery: &Delivery, answer: &Answer, ack: u64) -> Result<bool, Error> {
    #[derive(Deserialize)]
    struct Acks {
        acks: HashMap<String, bool>,
    }
    match answer.status {
        200..300 => match serde_json::from_slice::<Acks>(&answer.body) {
            Ok(Acks { acks }) => Ok(acks.get(&ack.to_string()).copied().unwrap_or(false)),
            Err(_) => {
                Err(delivery.unintelligible(answer, "no answer about what is indexed").advise(Advice::After(None)))
            }
        },
        // It cannot say now.
        408 | 425 | 429 | 500..600 => Ok(false),
        _ => Err(received(refused(delivery, answer))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::Connection;
    use reqwest::header::HeaderMap;

    fn answer(status: u16, body: &str) -> Answer {
        let (headers, body) = (HeaderMap::new(), body.to_owned().into());
        Answer { host: "splunk:8088".to_owned(), status, headers, body, is_cut: false }
    }

    fn delivery() -> Delivery {
        Delivery::new("splunk export", &Connection::default(), &logship_core::BuildContext::default()).unwrap()
    }

    fn of(status: u16, body: &str) -> Result<Verdict, Error> {
        verdict(&delivery(), &answer(status, body), 3)
    }

    #[test]
    fn every_code_has_its_meaning() {
        use Certainty::{NotDelivered, Unknown};
        let later = Advice::After(None);
        for (status, code, kind, advice, certainty) in [
            (403, 1, ErrorKind::Auth, Advice::Refresh, NotDelivered),
            (401, 2, ErrorKind::Auth, Advice::Refresh, NotDelivered),
            (401, 3, ErrorKind::Auth, Advice::Refresh, NotDelivered),
            (403, 4, ErrorKind::Auth, Advice::Refresh, NotDelivered),
            (400, 21, ErrorKind::Auth, Advice::Refresh, NotDelivered),
            (400, 5, ErrorKind::Rejected, Advice::Split, NotDelivered),
            (400, 6, ErrorKind::Rejected, Advice::Split, Unknown),
            (400, 7, ErrorKind::NotFound, Advice::Never, NotDelivered),
            (500, 8, ErrorKind::Unavailable, later, Unknown),
            (503, 9, ErrorKind::Throttled, later, NotDelivered),
            (400, 10, ErrorKind::Config, Advice::Never, NotDelivered),
            (400, 11, ErrorKind::Config, Advice::Never, NotDelivered),
            (400, 14, ErrorKind::Config, Advice::Never, NotDelivered),
            (400, 15, ErrorKind::Rejected, Advice::Split, Unknown),
            (503, 18, ErrorKind::Unavailable, later, NotDelivered),
            (503, 23, ErrorKind::Unavailable, later, NotDelivered),
            (429, 26, ErrorKind::Throttled, later, NotDelivered),
            (429, 27, ErrorKind::Throttled, later, NotDelivered),
            // An error inside a success.
            (200, 9, ErrorKind::Throttled, later, NotDelivered),
            (200, 4, ErrorKind::Auth, Advice::Refresh, NotDelivered),
            (413, 6, ErrorKind::TooLarge, Advice::Split, NotDelivered),
        ] {
            let error = of(status, &format!(r#"{{"text":"words","code":{code}}}"#)).unwrap_err();
            assert_eq!((error.kind(), error.advice(), error.certainty()), (kind, advice, certainty), "{status} {code}");
            assert!(error.to_string().contains("words") && error.to_string().contains("splunk:8088"), "{error}");
        }
    }

    #[test]
    fn a_success_is_one_only_if_its_body_says_so() {
        for (body, ack) in [
            (r#"{"text":"Success","code":0}"#, None),
            (r#"{"text":"Success","code":0,"ackId":7}"#, Some(7)),
            (r#"{"text":"near capacity","code":24}"#, None),
        ] {
            assert_eq!(of(200, body).unwrap(), Verdict::Received(ack));
        }
        for body in ["", "{}", "<html>", r#"{"text":"Success","code":0"#, r#"{"acks":{}}"#] {
            let error = of(200, body).unwrap_err();
            assert_eq!((error.kind(), error.certainty()), (ErrorKind::Protocol, Certainty::Unknown), "{body}");
            assert!(error.is_retryable(), "{body}");
        }
    }

    #[test]
    fn a_refused_event_is_named_and_nothing_is_said_of_those_before_it() {
        let Ok(Verdict::Refused(outcome)) = of(400, r#"{"text":"bad","code":6,"invalid-event-number":1}"#) else {
            panic!("no outcome");
        };
        assert_eq!(outcome.accepted_count(), 0);
        assert_eq!(outcome.undelivered().collect::<Vec<_>>(), [0, 2]);
        let rejected: Vec<(usize, String)> = outcome.rejected().map(|(at, why)| (at, why.to_string())).collect();
        assert_eq!(rejected, [(1, "6: bad".to_owned())]);
        // One that is not there is none.
        let error = of(400, r#"{"text":"bad","code":6,"invalid-event-number":3}"#).unwrap_err();
        assert_eq!(error.advice(), Advice::Split);
        let error = of(400, r#"{"text":"index","code":7,"invalid-event-number":0}"#).unwrap_err();
        assert_eq!(error.advice(), Advice::Never);
    }

    #[test]
    fn only_a_true_means_indexed() {
        let is_indexed = |status, body: &str| is_indexed(&delivery(), &answer(status, body), 7);
        assert!(is_indexed(200, r#"{"acks":{"7":true}}"#).unwrap());
        for (status, body) in [(200, r#"{"acks":{"7":false}}"#), (200, r#"{"acks":{"8":true}}"#), (503, "")] {
            assert!(!is_indexed(status, body).unwrap());
        }
        for (status, body) in [(200, ""), (400, r#"{"text":"ACK is disabled","code":14}"#), (403, "")] {
            assert_eq!(is_indexed(status, body).unwrap_err().certainty(), Certainty::Unknown);
        }
    }
}
