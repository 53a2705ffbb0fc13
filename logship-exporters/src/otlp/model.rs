//! What OTLP asks of values, whatever they are written as.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

use logship_core::{LogRecord, Text, Unencodable, Value};

use crate::encode::shape::{Outline, Shapes};

/// How deep values may be nested. Decoders of protobuf refuse more than 100 messages in one another
/// (<https://protobuf.dev/programming-guides/proto-limits/>), and those of JSON about as many objects; one level of
/// ours is three of the former and four of the latter.
pub(super) const DEPTH_MAX: usize = 28;

/// The attribute by which a receiver can tell that it has a record already
/// (<https://opentelemetry.io/docs/specs/semconv/registry/attributes/log/>).
pub(super) const UID: &str = "log.record.uid";

/// Entries in which each name is once. OTLP allows a name once in a list, and receivers may drop any of several
/// (<https://opentelemetry.io/docs/specs/otel/common/#attribute-collections>), so the values of one name become one
/// array, which loses none.
pub(super) fn unique(entries: &[(Text, Value)]) -> Result<Cow<'_, [(Text, Value)]>, Unencodable> {
    Ok(if has_repeats(entries, 0)? { Cow::Owned(merged(entries)) } else { Cow::Borrowed(entries) })
}

/// The same for a value that stands alone.
pub(super) fn unique_value(value: &Value) -> Result<Cow<'_, Value>, Unencodable> {
    Ok(if value_has_repeats(value, 0)? { Cow::Owned(merged_value(value)) } else { Cow::Borrowed(value) })
}

fn has_repeats(entries: &[(Text, Value)], depth: usize) -> Result<bool, Unencodable> {
    // Few names are compared faster than they are hashed.
    const FEW: usize = 16;
    let mut has_repeats = if entries.len() <= FEW {
        (1..entries.len()).any(|at| entries[..at].iter().any(|(name, _)| *name == entries[at].0))
    } else {
        let mut names = HashSet::with_capacity(entries.len());
        !entries.iter().all(|(name, _)| names.insert(name.as_str()))
    };
    for (_, value) in entries {
        has_repeats |= value_has_repeats(value, depth)?;
    }
    Ok(has_repeats)
}

fn value_has_repeats(value: &Value, depth: usize) -> Result<bool, Unencodable> {
    match value {
        Value::Array(_) | Value::Map(_) if depth >= DEPTH_MAX => {
            Err(Unencodable { reason: format!("its values are nested deeper than {DEPTH_MAX}") })
        }
        Value::Array(values) => {
            values.iter().try_fold(false, |found, value| Ok(found | value_has_repeats(value, depth + 1)?))
        }
        Value::Map(entries) => has_repeats(entries, depth + 1),
        _ => Ok(false),
    }
}

fn merged(entries: &[(Text, Value)]) -> Vec<(Text, Value)> {
    let mut places: HashMap<&str, (usize, bool)> = HashMap::with_capacity(entries.len());
    let mut merged: Vec<(Text, Value)> = Vec::with_capacity(entries.len());
    for (name, value) in entries {
        let value = merged_value(value);
        let Some((place, is_list)) = places.get_mut(name.as_str()) else {
            places.insert(name, (merged.len(), false));
            merged.push((name.clone(), value));
            continue;
        };
        match &mut merged[*place].1 {
            Value::Array(values) if *is_list => values.push(value),
            first => *first = Value::Array(vec![std::mem::take(first), value]),
        }
        *is_list = true;
    }
    merged
}

fn merged_value(value: &Value) -> Value {
    match value {
        Value::Array(values) => Value::Array(values.iter().map(merged_value).collect()),
        Value::Map(entries) => Value::Map(merged(entries)),
        other => other.clone(),
    }
}

/// What the names of a record's attributes say.
#[derive(Clone, Copy)]
struct Names {
    /// That no list has one twice. Where they do not say so, the lists are looked through.
    are_different: bool,
    /// That it says itself what [`UID`] is.
    has_uid: bool,
}

impl Names {
    fn of(record: &LogRecord) -> Self {
        thread_local!(static KNOWN: RefCell<Shapes<(Outline, Names)>> = const { RefCell::new(Shapes::new()) });
        let has_uid = || record.attribute(UID).is_some();
        let make = || Some((Outline::of(record)?, Names { are_different: true, has_uid: has_uid() }));
        KNOWN.with_borrow_mut(|shapes| {
            let known = shapes.find(|(outline, _)| outline.is_of(record), make).map(|(_, names)| *names);
            known.unwrap_or_else(|| Names { are_different: false, has_uid: has_uid() })
        })
    }
}

/// A record as OTLP can say it.
#[derive(Debug)]
pub(super) struct Sayable<'a> {
    /// Nanoseconds since 1970.
    pub(super) time: u64,
    pub(super) observed: u64,
    /// Empty where the writer did not classify it.
    pub(super) severity_text: &'a str,
    pub(super) body: Cow<'a, Value>,
    pub(super) attributes: Cow<'a, [(Text, Value)]>,
    /// Whether [`UID`] is to be the record's id: not where the record says it itself.
    pub(super) with_uid: bool,
}

impl<'a> Sayable<'a> {
    pub(super) fn new(record: &'a LogRecord, with_uid: bool) -> Result<Self, Unencodable> {
        let nanos = |time: logship_core::Timestamp| {
            let before_1970 = |_| Unencodable { reason: "its time lies before 1970, which OTLP cannot say".to_owned() };
            u64::try_from(time.as_nanos()).map_err(before_1970)
        };
        let Names { are_different, has_uid } = Names::of(record);
        // What its group says is checked here, where a record can still be refused.
        if !are_different {
            unique(&record.resource.attributes)?;
        }
        if let Some(scope) = &record.scope {
            unique(&scope.attributes)?;
        }
        let is_classified = record.severity_text.is_some() || record.severity.number() > 0;
        Ok(Sayable {
            time: nanos(record.timestamp)?,
            observed: record.observed_timestamp.map_or(Ok(0), nanos)?,
            severity_text: if is_classified { record.severity_name() } else { "" },
            body: unique_value(&record.body)?,
            attributes: if are_different { Cow::Borrowed(&record.attributes) } else { unique(&record.attributes)? },
            with_uid: with_uid && !has_uid,
        })
    }
}

/// Whether two records can stand under one resource and one scope.
pub(super) fn is_shared(one: &LogRecord, other: &LogRecord) -> bool {
    use std::sync::Arc;
    let is_same_resource = Arc::ptr_eq(&one.resource, &other.resource) || one.resource == other.resource;
    let is_same_scope = match (&one.scope, &other.scope) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other) || one == other,
        (None, None) => true,
        _ => false,
    };
    is_same_resource && is_same_scope
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::encode::shape::tests::pairs;

    proptest! {
        #[test]
        fn names_that_are_said_to_be_different_are((one, other) in pairs("(log.record.uid|[a-d])")) {
            for record in std::iter::repeat_n(&one, 20).chain([&other]) {
                let Names { are_different, has_uid } = Names::of(record);
                let lists = [&record.attributes, &record.resource.attributes];
                let has_repeats = lists.iter().any(|entries| has_repeats(entries, 0).unwrap());
                prop_assert!(!(are_different && has_repeats));
                prop_assert_eq!(has_uid, record.attribute(UID).is_some());
            }
        }
    }
}
