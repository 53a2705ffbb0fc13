//! What Google Cloud Logging's answers mean: beside an error, also which entries it is about.

use std::collections::BTreeMap;

use logship_core::{Advice, Certainty, Error, Outcome};
use serde::Deserialize;

use crate::delivery::{Answer, Delivery};

/// What names the entries that were not written, where `partialSuccess` was asked for: all others are.
/// <https://docs.cloud.google.com/logging/docs/reference/v2/rpc/google.logging.v2#writelogentriespartialerrors>
const PARTIAL: &str = "google.logging.v2.WriteLogEntriesPartialErrors";

/// A success: it says nothing.
#[derive(Deserialize)]
struct Written {}

#[derive(Deserialize)]
struct Failed {
    error: Failure,
}

#[derive(Deserialize)]
struct Failure {
    #[serde(default)]
    details: Vec<Detail>,
}

#[derive(Deserialize)]
struct Detail {
    #[serde(rename = "@type", default)]
    kind: String,
    #[serde(rename = "logEntryErrors", default)]
    entries: BTreeMap<usize, Status>,
}

/// Why an entry was not written.
#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    code: i32,
    #[serde(default)]
    message: String,
}

/// What an entry's code asks for. <https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto>
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It is there.
    Written,
    /// It may be taken later.
    Later,
    /// It is refused for what it is.
    Refused,
    /// Nobody's entries would be taken, whatever they say.
    KeptOut,
}

fn verdict(code: i32) -> Verdict {
    match code {
        0 | 6 => Verdict::Written,
        // CANCELLED, UNKNOWN, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, ABORTED, INTERNAL, UNAVAILABLE
        1 | 2 | 4 | 8 | 10 | 13 | 14 => Verdict::Later,
        // NOT_FOUND, PERMISSION_DENIED, UNAUTHENTICATED
        5 | 7 | 16 => Verdict::KeptOut,
        _ => Verdict::Refused,
    }
}

/// Reads the answer to a request with so many records.
pub(super) fn outcome(delivery: &Delivery, answer: &Answer, records: usize) -> Result<Outcome, Error> {
    if (200..300).contains(&answer.status) {
        return match serde_json::from_slice::<Written>(&answer.body) {
            Ok(_) => Ok(Outcome::all_accepted(records)),
            Err(_) => {
                let message = "the answer is not that of Cloud Logging; is there a proxy in between?";
                Err(delivery.unintelligible(answer, message).advise(Advice::After(None)))
            }
        };
    }
    let Some(errors) = partial(answer) else {
        let error = delivery.refused(answer);
        // What is cut off may have named some and so said that the others are there.
        let may_be_partial = answer.is_cut && error.advice() == Advice::Split;
        return Err(match may_be_partial {
            true => error.advise(Advice::After(None)).certainty_is(Certainty::Unknown),
            false => error,
        });
    };
    if errors.keys().any(|index| *index >= records) {
        let error = delivery.unintelligible(answer, "the answer names entries that were not sent");
        return Err(error.advise(Advice::After(None)));
    }
    let is_kept_out = |status: &Status| verdict(status.code) == Verdict::KeptOut;
    if errors.len() == records && errors.values().all(is_kept_out) {
        return Err(delivery.refused(answer));
    }
    let mut outcome = Outcome::builder(records);
    (0..records).for_each(|index| outcome.accepted(index));
    for (index, status) in errors {
        match verdict(status.code) {
            Verdict::Written => {}
            Verdict::Later => outcome.retry(index),
            Verdict::Refused | Verdict::KeptOut => {
                outcome.rejected(index, status.code.to_string(), Error::excerpt(status.message.as_bytes()));
            }
        }
    }
    Ok(outcome.build())
}

/// The entries that an answer names, if it names any.
fn partial(answer: &Answer) -> Option<BTreeMap<usize, Status>> {
    let failed: Failed = serde_json::from_slice(&answer.body).ok()?;
    let detail = failed.error.details.into_iter().find(|detail| detail.kind.ends_with(PARTIAL))?;
    (!detail.entries.is_empty()).then_some(detail.entries)
}
