//! What became of each record of a chunk.

use std::fmt;

/// What became of each record of a chunk that was answered.
///
/// ```
/// use logship_core::Outcome;
///
/// // Three records: the first stored, the second refused, nothing said about the third.
/// let mut outcome = Outcome::builder(3);
/// outcome.accepted(0);
/// outcome.rejected(1, "400 document_parsing_exception", "failed to parse field [@timestamp]");
/// let outcome = outcome.build();
/// assert_eq!(outcome.accepted_count(), 1);
/// assert_eq!(outcome.undelivered().collect::<Vec<_>>(), [2]);
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Outcome {
    len: usize,
    /// Empty when all were accepted, which is the usual case and costs nothing.
    fates: Vec<Fate>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Unnamed,
    Accepted,
    AlreadyThere,
    Diverted,
    Retry,
    Rejected(Box<Rejection>),
}

impl Fate {
    pub(crate) fn is_accepted(&self) -> bool {
        matches!(self, Fate::Accepted | Fate::AlreadyThere | Fate::Diverted)
    }
}

/// Why a record was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rejection {
    /// The destination's code, short: a status, an error type.
    pub code: String,
    /// The destination's own words.
    pub reason: String,
}

impl Rejection {
    /// A refusal.
    pub fn new(code: impl Into<String>, reason: impl Into<String>) -> Self {
        Rejection { code: code.into(), reason: reason.into() }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.reason)
    }
}

impl Outcome {
    /// The destination confirmed all records of a chunk of this length.
    pub fn all_accepted(len: usize) -> Self {
        Outcome { len, fates: Vec::new() }
    }

    /// Names the records one by one. What is not named was not delivered.
    pub fn builder(len: usize) -> OutcomeBuilder {
        OutcomeBuilder { fates: vec![Fate::Unnamed; len] }
    }

    /// How many records the outcome is about.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it is about none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many were accepted, those stored elsewhere than asked for and those that were there before included.
    pub fn accepted_count(&self) -> usize {
        if self.fates.is_empty() {
            return self.len;
        }
        self.fates.iter().filter(|fate| fate.is_accepted()).count()
    }

    /// How many the destination had before, and recognised by their ids.
    pub fn already_there_count(&self) -> usize {
        self.fates.iter().filter(|fate| matches!(fate, Fate::AlreadyThere)).count()
    }

    /// How many were accepted and stored elsewhere than asked for.
    pub fn diverted_count(&self) -> usize {
        self.fates.iter().filter(|fate| matches!(fate, Fate::Diverted)).count()
    }

    /// The indexes to send again: those named so, and those not named.
    pub fn undelivered(&self) -> impl Iterator<Item = usize> + '_ {
        let is_undelivered = |fate: &Fate| matches!(fate, Fate::Unnamed | Fate::Retry);
        self.fates.iter().enumerate().filter(move |(_, fate)| is_undelivered(fate)).map(|(index, _)| index)
    }

    /// Whether the destination confirmed every record, and has more to say of none.
    pub(crate) fn is_all_accepted(&self) -> bool {
        self.fates.is_empty()
    }

    /// What became of one record.
    pub(crate) fn fate(&self, index: usize) -> &Fate {
        self.fates.get(index).unwrap_or(if self.fates.is_empty() { &Fate::Accepted } else { &Fate::Unnamed })
    }

    /// The indexes that were refused, and why.
    pub fn rejected(&self) -> impl Iterator<Item = (usize, &Rejection)> + '_ {
        self.fates.iter().enumerate().filter_map(|(index, fate)| match fate {
            Fate::Rejected(rejection) => Some((index, rejection.as_ref())),
            _ => None,
        })
    }
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outcome")
            .field("records", &self.len)
            .field("accepted", &self.accepted_count())
            .field("retry", &self.undelivered().count())
            .field("rejected", &self.rejected().count())
            .finish()
    }
}

/// Names what became of the records of a chunk, by index. An index beyond the chunk is ignored: nothing is delivered
/// by naming what is not there.
#[derive(Clone, Debug)]
pub struct OutcomeBuilder {
    fates: Vec<Fate>,
}

impl OutcomeBuilder {
    /// The destination confirmed this record.
    pub fn accepted(&mut self, index: usize) {
        self.set(index, Fate::Accepted);
    }

    /// The destination has this record already, and recognised it by its id. Counts as accepted, and is reported.
    pub fn already_there(&mut self, index: usize) {
        self.set(index, Fate::AlreadyThere);
    }

    /// The destination could not store this record as asked and kept it elsewhere, such as in Elasticsearch's failure
    /// store. Counts as accepted, and is reported.
    pub fn diverted(&mut self, index: usize) {
        self.set(index, Fate::Diverted);
    }

    /// The destination did not take this record now and may later.
    pub fn retry(&mut self, index: usize) {
        self.set(index, Fate::Retry);
    }

    /// The destination refused this record and would again.
    pub fn rejected(&mut self, index: usize, code: impl Into<String>, reason: impl Into<String>) {
        self.set(index, Fate::Rejected(Box::new(Rejection::new(code, reason))));
    }

    /// The outcome.
    pub fn build(self) -> Outcome {
        Outcome { len: self.fates.len(), fates: self.fates }
    }

    fn set(&mut self, index: usize, fate: Fate) {
        if let Some(slot) = self.fates.get_mut(index) {
            *slot = fate;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_named_is_not_delivered() {
        let mut outcome = Outcome::builder(3);
        outcome.accepted(1);
        outcome.accepted(7);
        let outcome = outcome.build();
        assert_eq!(outcome.accepted_count(), 1);
        assert_eq!(outcome.undelivered().collect::<Vec<_>>(), [0, 2]);
    }

    #[test]
    fn what_was_kept_elsewhere_is_accepted_and_counted() {
        let mut outcome = Outcome::builder(2);
        outcome.accepted(0);
        outcome.diverted(1);
        let outcome = outcome.build();
        assert_eq!((outcome.accepted_count(), outcome.diverted_count()), (2, 1));
        let mut outcome = Outcome::builder(2);
        outcome.accepted(0);
        outcome.already_there(1);
        let outcome = outcome.build();
        assert_eq!((outcome.accepted_count(), outcome.already_there_count()), (2, 1));
        assert_eq!(Outcome::all_accepted(5).undelivered().count(), 0);
    }
}
