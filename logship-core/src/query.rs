//! Which records are wanted.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{LogRecord, Severity, Value};

/// Which records of a source are wanted. A source applies it where that is cheapest: in its own query if it has one,
/// else with [`Query::matches`]. The default wants all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Query {
    /// The least severity wanted. Records whose severity is unknown always pass.
    pub severity_min: Option<Severity>,
    /// Conditions on attributes, all of which must hold.
    pub filters: Vec<Filter>,
}

impl Query {
    /// All records.
    pub fn all() -> Self {
        Query::default()
    }

    /// Only records of this severity or worse.
    #[must_use]
    pub fn severity_min(mut self, severity: Severity) -> Self {
        self.severity_min = Some(severity);
        self
    }

    /// Only records for which this condition holds as well.
    #[must_use]
    pub fn filter(mut self, filter: Filter) -> Self {
        self.filters.push(filter);
        self
    }

    /// Only records of this namespace and of its children: `company` takes `company` and `company.team`, and not
    /// `companyx`.
    #[must_use]
    pub fn namespace(self, namespace: impl Into<String>) -> Self {
        self.filter(Filter::within("namespace", namespace))
    }

    /// Whether a record is wanted.
    pub fn matches(&self, record: &LogRecord) -> bool {
        self.severity_min.is_none_or(|minimum| record.severity.passes(minimum))
            && self.filters.iter().all(|filter| filter.matches(record))
    }
}

impl fmt::Display for Query {
    /// One line that tells queries apart; it is part of the fingerprint kept with an offset.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.severity_min {
            Some(severity) => write!(f, "severity >= {severity}")?,
            None => f.write_str("every severity")?,
        }
        self.filters.iter().try_for_each(|filter| write!(f, ", {filter}"))
    }
}

/// A condition on one attribute of a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// The attribute's name.
    pub attribute: String,
    /// What its value must be.
    #[serde(flatten)]
    pub condition: Condition,
}

/// What the value of an attribute must be. Compared as text, so that a number matches its digits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Condition {
    /// This value.
    Equals(String),
    /// None of these values; a record without the attribute passes.
    NotIn(Vec<String>),
    /// One of these values.
    In(Vec<String>),
    /// This value, or one that continues it after a dot.
    Within(String),
    /// Any value at all, or, with false, none: the attribute is absent.
    Exists(bool),
}

impl Filter {
    /// The attribute has this value.
    pub fn equals(attribute: impl Into<String>, value: impl Into<String>) -> Self {
        Filter { attribute: attribute.into(), condition: Condition::Equals(value.into()) }
    }

    /// The attribute has one of these values.
    pub fn one_of<V: Into<String>>(attribute: impl Into<String>, values: impl IntoIterator<Item = V>) -> Self {
        Filter { attribute: attribute.into(), condition: Condition::In(values.into_iter().map(Into::into).collect()) }
    }

    /// The attribute has none of these values, or is absent.
    pub fn not_in<V: Into<String>>(attribute: impl Into<String>, values: impl IntoIterator<Item = V>) -> Self {
        Filter {
            attribute: attribute.into(),
            condition: Condition::NotIn(values.into_iter().map(Into::into).collect()),
        }
    }

    /// The attribute has this value, or is a child of it, after a dot.
    pub fn within(attribute: impl Into<String>, parent: impl Into<String>) -> Self {
        Filter { attribute: attribute.into(), condition: Condition::Within(parent.into()) }
    }

    /// The attribute is there, whatever its value.
    pub fn exists(attribute: impl Into<String>) -> Self {
        Filter { attribute: attribute.into(), condition: Condition::Exists(true) }
    }

    /// The attribute is not there.
    pub fn absent(attribute: impl Into<String>) -> Self {
        Filter { attribute: attribute.into(), condition: Condition::Exists(false) }
    }

    /// Whether the condition holds for a record.
    pub fn matches(&self, record: &LogRecord) -> bool {
        if let Condition::Exists(exists) = self.condition {
            return record.attribute(&self.attribute).is_some() == exists;
        }
        let digits;
        let value = match record.attribute(&self.attribute) {
            Some(Value::String(text)) => Some(text.as_str()),
            Some(Value::Int(number)) => {
                digits = number.to_string();
                Some(digits.as_str())
            }
            Some(Value::Bool(value)) => Some(if *value { "true" } else { "false" }),
            _ => None,
        };
        match (&self.condition, value) {
            (Condition::NotIn(values), value) => value.is_none_or(|value| !values.iter().any(|v| v == value)),
            (_, None) | (Condition::Exists(_), _) => false,
            (Condition::Equals(wanted), Some(value)) => wanted == value,
            (Condition::In(values), Some(value)) => values.iter().any(|wanted| wanted == value),
            (Condition::Within(parent), Some(value)) => {
                value.strip_prefix(parent.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            }
        }
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.condition {
            Condition::Equals(value) => write!(f, "{} = {value:?}", self.attribute),
            Condition::In(values) => write!(f, "{} in {values:?}", self.attribute),
            Condition::NotIn(values) => write!(f, "{} not in {values:?}", self.attribute),
            Condition::Within(parent) => write!(f, "{} within {parent:?}", self.attribute),
            Condition::Exists(true) => write!(f, "{} exists", self.attribute),
            Condition::Exists(false) => write!(f, "{} absent", self.attribute),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Cursor, Partition, RecordId, Timestamp};

    fn record(namespace: &str) -> LogRecord {
        let id = RecordId::new(Partition::new("t"), Cursor::number(1));
        let mut record = LogRecord::new(id, Timestamp::from_secs(1));
        record.severity = Severity::INFO;
        record.attributes.push(("namespace".into(), namespace.into()));
        record
    }

    #[test]
    fn a_namespace_takes_its_children_and_no_neighbour() {
        let query = Query::all().namespace("company");
        for (namespace, wanted) in
            [("company", true), ("company.team", true), ("companyx", false), ("x.company", false)]
        {
            assert_eq!(query.matches(&record(namespace)), wanted, "{namespace}");
        }
    }

    #[test]
    fn every_condition_must_hold() {
        let query = Query::all().severity_min(Severity::INFO).filter(Filter::one_of("namespace", ["a", "b"]));
        assert!(query.matches(&record("b")));
        assert!(!query.matches(&record("c")));
        assert!(!query.clone().severity_min(Severity::WARN).matches(&record("b")));
        assert!(!Query::all().filter(Filter::equals("flow", "x")).matches(&record("a")));
        assert!(Query::all().filter(Filter::not_in("flow", ["x"])).matches(&record("a")));
        assert!(!Query::all().filter(Filter::not_in("namespace", ["a"])).matches(&record("a")));
    }

    #[test]
    fn an_attribute_can_be_asked_for_whatever_its_value() {
        let (with, mut without) = (record("a"), record("a"));
        without.attributes.clear();
        let (exists, absent) = (Filter::exists("namespace"), Filter::absent("namespace"));
        assert!(exists.matches(&with) && !exists.matches(&without));
        assert!(!absent.matches(&with) && absent.matches(&without));
        let read: Filter = serde_json::from_str(r#"{"attribute": "namespace", "exists": false}"#).unwrap();
        assert_eq!((&read, read.to_string().as_str()), (&absent, "namespace absent"));
    }

    #[test]
    fn the_fingerprint_names_every_condition() {
        let query = Query::all().severity_min(Severity::WARN).namespace("a");
        assert_eq!(query.to_string(), r#"severity >= WARN, namespace within "a""#);
    }
}
