//! What Kinesis and Firehose say of a request with many records: they answer for each of them.

use logship_connect::aws::error_code;
use logship_core::{Advice, Certainty, Error, ErrorKind, Outcome};

/// The error of a request that was refused as a whole.
pub(crate) fn refused(error: Error) -> Error {
    match error_code(&error) {
        // Of one record, which is not named: the halves will tell.
        "InvalidArgumentException" | "ValidationException" => error.advise(Advice::Split),
        _ => error,
    }
}

/// What became of each record, of which `answers` have either the code of an error or what the service calls the record
/// by. All those errors may pass: Kinesis has `ProvisionedThroughputExceededException` and `InternalFailure`, Firehose
/// `ServiceUnavailableException` and `InternalFailure`.
/// <https://docs.aws.amazon.com/kinesis/latest/APIReference/API_PutRecordsResultEntry.html>
/// <https://docs.aws.amazon.com/firehose/latest/APIReference/API_PutRecordBatch.html>
pub(crate) fn outcome<'a>(
    operation: &'static str,
    len: usize,
    answers: impl ExactSizeIterator<Item = (Option<&'a str>, Option<&'a str>)>,
) -> Result<Outcome, Error> {
    if answers.len() != len {
        let message = "the answer speaks of other records than were sent";
        return Err(Error::new(ErrorKind::Protocol, operation, message).certainty_is(Certainty::Unknown));
    }
    let mut outcome = Outcome::builder(len);
    for (place, answer) in answers.enumerate() {
        match answer {
            (Some(_), _) => outcome.retry(place),
            (None, Some(_)) => outcome.accepted(place),
            // It says nothing of this one.
            (None, None) => {}
        }
    }
    Ok(outcome.build())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAKEN: (Option<&str>, Option<&str>) = (None, Some("1"));

    #[test]
    fn c2_each_record_has_a_fate_of_its_own() {
        let answers = [TAKEN, (Some("InternalFailure"), None), TAKEN, (Some("InternalFailure"), Some("4"))];
        let outcome = outcome("put", 4, answers.into_iter()).unwrap();
        assert_eq!((outcome.accepted_count(), outcome.rejected().count()), (2, 0));
        assert_eq!(outcome.undelivered().collect::<Vec<_>>(), [1, 3]);
    }

    #[test]
    fn an_answer_about_other_records_confirms_nothing() {
        for sent in [1, 3] {
            let error = outcome("put", sent, [TAKEN, TAKEN].into_iter()).unwrap_err();
            assert_eq!((error.kind(), error.certainty()), (ErrorKind::Protocol, Certainty::Unknown));
        }
        let silent = outcome("put", 1, [(None, None)].into_iter()).unwrap();
        assert_eq!(silent.undelivered().collect::<Vec<_>>(), [0]);
    }

    #[test]
    fn what_may_be_wrong_with_one_record_is_looked_for_in_halves() {
        for (code, advice) in [
            ("InvalidArgumentException", Advice::Split),
            ("ValidationException", Advice::Split),
            ("ResourceNotFoundException", Advice::Never),
        ] {
            let error = Error::new(ErrorKind::Rejected, "put", "refused the request").with("code", code);
            assert_eq!(refused(error).advice(), advice, "{code}");
        }
    }
}
