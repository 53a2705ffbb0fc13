//! What becomes of attributes, by their names. Records of one source mostly have the same names in the same order, and
//! then nothing has to be looked up or compared with each other.

use std::cell::RefCell;
use std::collections::HashSet;
use std::thread::LocalKey;

use logship_core::{LogRecord, Text, Value};

use super::json;

/// How many plans are kept.
const PLANS_MAX: usize = 8;

/// To make a plan costs more than to do without, so not every record that has none gets one.
const MISSES_FOR_A_PLAN: usize = 16;

/// After so many misses in a row all plans are new and none was of use: names differ from record to record.
const MISSES_IN_A_ROW_MAX: usize = PLANS_MAX * MISSES_FOR_A_PLAN;

/// For how many records nothing is looked for then.
const PAUSE: usize = 2_000;

/// More names than these are not worth a plan.
const NAMES_MAX: usize = 64;

/// Maps in maps beyond this have no plan.
const DEPTH_MAX: usize = 8;

/// The plans that one thread has made for one kind of encoding.
#[derive(Debug)]
pub(crate) struct Shapes<P> {
    plans: Vec<P>,
    misses: usize,
    misses_in_a_row: usize,
    pause: usize,
}

impl<P> Shapes<P> {
    pub(crate) const fn new() -> Self {
        Shapes { plans: Vec::new(), misses: 0, misses_in_a_row: 0, pause: 0 }
    }

    /// The plan that is for what is asked about; now and then it is made. `make` gives none where names alone do not say
    /// what becomes of attributes.
    pub(crate) fn find(&mut self, is_for: impl Fn(&P) -> bool, make: impl FnOnce() -> Option<P>) -> Option<&P> {
        if self.pause > 0 {
            self.pause -= 1;
            return None;
        }
        if let Some(found) = self.plans.iter().position(is_for) {
            self.misses_in_a_row = 0;
            return self.plans.get(found);
        }
        self.misses = self.misses.wrapping_add(1);
        self.misses_in_a_row += 1;
        if self.misses_in_a_row > MISSES_IN_A_ROW_MAX {
            (self.misses_in_a_row, self.pause) = (0, PAUSE);
        }
        if self.misses % MISSES_FOR_A_PLAN != 1 {
            return None;
        }
        let plan = make()?;
        if self.plans.len() == PLANS_MAX {
            self.plans.remove(0);
        }
        self.plans.push(plan);
        self.plans.last()
    }
}

/// What an encoding does with the attributes of a record, found out name by name. Encodings of one kind share what they
/// know, so it follows from names alone, whatever their configurations say.
pub(crate) trait Roles: Default + 'static {
    /// Takes note of the next attribute: its place, those of the resource behind the record's own, and its name, which
    /// no other one has. False where values decide: an earlier one has taken what it would be, or it is that only with
    /// some values.
    fn add(&mut self, place: usize, name: &str) -> bool;
}

/// The roles of attributes of these names.
#[derive(Debug)]
pub(crate) struct Named<R> {
    names: Vec<Text>,
    roles: R,
}

/// Hands over what becomes of a record's attributes. Whether that was known or not, the same is written where attributes
/// that are null are left out.
pub(crate) fn with_roles<R: Roles, T>(
    known: &'static LocalKey<RefCell<Shapes<Named<R>>>>,
    record: &LogRecord,
    then: impl FnOnce(&R) -> T,
) -> T {
    with_roles_by_name(known, record, |roles| match roles {
        Some(roles) => then(roles),
        None => then(&roles_of(record)),
    })
}

/// The same where that is known by names alone.
pub(crate) fn with_roles_by_name<R: Roles, T>(
    known: &'static LocalKey<RefCell<Shapes<Named<R>>>>,
    record: &LogRecord,
    then: impl FnOnce(Option<&R>) -> T,
) -> T {
    known.with_borrow_mut(|shapes| {
        let named = shapes.find(|named| is_named(record, &named.names), || roles_by_name(record));
        then(named.map(|named| &named.roles))
    })
}

fn is_named(record: &LogRecord, names: &[Text]) -> bool {
    let (own, shared) = (&record.attributes, &record.resource.attributes);
    let Some((first, behind)) = names.split_at_checked(own.len()) else { return false };
    are_named(own, first) && are_named(shared, behind)
}

/// Whether these are the names of the entries.
fn are_named(entries: &[(Text, Value)], names: &[Text]) -> bool {
    entries.len() == names.len() && entries.iter().zip(names).all(|((name, _), known)| name == known)
}

fn roles_by_name<R: Roles>(record: &LogRecord) -> Option<Named<R>> {
    let names: Vec<Text> = attributes(record).map(|(name, _)| name.detached()).take(NAMES_MAX + 1).collect();
    let mut roles = R::default();
    let is_clear = are_different(&names) && names.iter().enumerate().all(|(place, name)| roles.add(place, name));
    is_clear.then_some(Named { names, roles })
}

/// What becomes of the attributes of this one record: of those that are not null, and of two of one name the first.
pub(crate) fn roles_of<R: Roles>(record: &LogRecord) -> R {
    let mut roles = R::default();
    for (place, (name, _)) in first_of_each(attributes(record)) {
        roles.add(place, name);
    }
    roles
}

/// Up to so many attributes are compared one by one, which is faster than a set.
const FEW: usize = 16;

/// Those of these attributes that are not null, with their places; of two of one name the first.
pub(crate) fn first_of_each<'a>(
    all: impl Iterator<Item = &'a (Text, Value)>,
) -> impl Iterator<Item = (usize, &'a (Text, Value))> {
    let mut list: Vec<(usize, &(Text, Value))> = Vec::with_capacity(all.size_hint().0);
    let mut known: HashSet<&str> = HashSet::new();
    for (place, attribute) in all.enumerate().filter(|(_, (_, value))| *value != Value::Null) {
        let name = attribute.0.as_str();
        let is_new = if list.len() < FEW {
            list.iter().all(|(_, (known, _))| known.as_str() != name)
        } else {
            if known.is_empty() {
                known.extend(list.iter().map(|(_, (known, _))| known.as_str()));
            }
            known.insert(name)
        };
        if is_new {
            list.push((place, attribute));
        }
    }
    list.into_iter()
}

/// The name of a member as it is written, with the comma before and the colon behind it.
pub(crate) fn key_of(name: &str) -> Vec<u8> {
    let mut key = vec![b','];
    json::string(&mut key, name);
    key.push(b':');
    key
}

fn are_different(names: &[Text]) -> bool {
    let mut known = HashSet::with_capacity(names.len());
    names.len() <= NAMES_MAX && names.iter().all(|name| known.insert(name.as_str()))
}

/// The attributes of a record, then those of its resource.
pub(crate) fn attributes(record: &LogRecord) -> impl Iterator<Item = &(Text, Value)> {
    record.attributes.iter().chain(&record.resource.attributes)
}

/// The attribute at a place, unless it is null.
#[inline]
pub(crate) fn attribute(record: &LogRecord, place: usize) -> Option<&(Text, Value)> {
    let own = &record.attributes;
    let found = own.get(place).or_else(|| record.resource.attributes.get(place.wrapping_sub(own.len())));
    found.filter(|(_, value)| !matches!(value, Value::Null))
}

/// Whether each name is there once. What is not known to be so counts as not so.
pub(crate) fn is_each_once(entries: &[(Text, Value)]) -> bool {
    thread_local!(static DIFFERENT: RefCell<Shapes<Vec<Text>>> = const { RefCell::new(Shapes::new()) });
    let make = || {
        let names: Vec<Text> = entries.iter().map(|(name, _)| name.detached()).take(NAMES_MAX + 1).collect();
        are_different(&names).then_some(names)
    };
    entries.len() < 2
        || DIFFERENT.with_borrow_mut(|shapes| shapes.find(|names| are_named(entries, names), make).is_some())
}

/// The names of a record's attributes and of what is in them: where those stand for more than the outermost ones do.
#[derive(Debug)]
pub(crate) struct Outline {
    /// How many attributes are the record's own.
    own: usize,
    /// Each name, before those inside it.
    names: Vec<Outlined>,
}

#[derive(Debug)]
struct Outlined {
    name: Text,
    /// How many members it has, if it is a map.
    members: Option<usize>,
}

impl Outline {
    /// The outline of a record in which no list has a name twice.
    pub(crate) fn of(record: &LogRecord) -> Option<Self> {
        let (own, shared) = (&record.attributes, &record.resource.attributes);
        let mut names = Vec::new();
        (outline(own, 0, &mut names) && outline(shared, 0, &mut names)).then_some(Outline { own: own.len(), names })
    }

    /// Whether the record has these names, and maps where they are.
    pub(crate) fn is_of(&self, record: &LogRecord) -> bool {
        let mut names = self.names.iter();
        self.own == record.attributes.len()
            && is_outlined(&record.attributes, &mut names)
            && is_outlined(&record.resource.attributes, &mut names)
            && names.len() == 0
    }
}

/// Adds the names of these entries. False where they are too many, too deep, or there twice.
fn outline(entries: &[(Text, Value)], depth: usize, names: &mut Vec<Outlined>) -> bool {
    let mut known = HashSet::with_capacity(entries.len().min(NAMES_MAX));
    depth <= DEPTH_MAX
        && entries.iter().all(|(name, value)| {
            let members = if let Value::Map(members) = value { Some(members) } else { None };
            names.push(Outlined { name: name.detached(), members: members.map(Vec::len) });
            names.len() <= NAMES_MAX
                && is_flat(value)
                && known.insert(name.as_str())
                && members.is_none_or(|members| outline(members, depth + 1, names))
        })
}

fn is_outlined<'o>(entries: &[(Text, Value)], names: &mut impl Iterator<Item = &'o Outlined>) -> bool {
    for (name, value) in entries {
        let Some(known) = names.next() else { return false };
        let is_as_known = match (value, known.members) {
            (Value::Map(inner), Some(members)) => inner.len() == members,
            (Value::Map(_), None) | (_, Some(_)) => false,
            (value, None) => is_flat(value),
        };
        if !is_as_known || *name != known.name {
            return false;
        }
        if let Value::Map(inner) = value
            && !is_outlined(inner, names)
        {
            return false;
        }
    }
    true
}

/// Whether no names are in lists, which no outline has.
fn is_flat(value: &Value) -> bool {
    let is_nested = |value: &Value| matches!(value, Value::Array(_) | Value::Map(_));
    !matches!(value, Value::Array(values) if values.iter().any(is_nested))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use logship_core::{Cursor, Partition, RecordId, Resource, Timestamp};
    use proptest::prelude::*;

    use super::*;

    fn record(attributes: Vec<(Text, Value)>) -> LogRecord {
        let mut record = LogRecord::new(RecordId::new(Partition::new("p"), Cursor::number(1)), Timestamp::from_secs(1));
        record.attributes = attributes;
        record
    }

    fn leaf() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "(\\PC|[\\n\"]){0,6}".prop_map(Value::from),
            prop::collection::vec(any::<i64>().prop_map(Value::from), 0..3).prop_map(Value::Array),
        ]
    }

    /// Attributes with names of this form, some of them maps and maps in maps.
    pub(crate) fn entries(names: &'static str) -> impl Strategy<Value = Vec<(Text, Value)>> {
        let text = move || names.prop_map(|name| Text::from(name.as_str()));
        let value = leaf().prop_recursive(2, 12, 4, move |inner| {
            prop_oneof![
                prop::collection::vec((text(), inner.clone()), 0..4).prop_map(Value::Map),
                prop::collection::vec(inner, 0..2).prop_map(Value::Array),
            ]
        });
        prop::collection::vec((text(), value), 0..8)
    }

    /// Two records of the same names, the second one with other values in them.
    pub(crate) fn pairs(names: &'static str) -> impl Strategy<Value = (LogRecord, LogRecord)> {
        fn replaced(entries: &[(Text, Value)], leaves: &mut dyn Iterator<Item = Value>) -> Vec<(Text, Value)> {
            let mut list = Vec::new();
            for (name, value) in entries {
                let value = match value {
                    Value::Map(entries) => Value::Map(replaced(entries, leaves)),
                    _ => leaves.next().unwrap(),
                };
                list.push((name.clone(), value));
            }
            list
        }
        (entries(names), entries(names), prop::collection::vec(leaf(), 1..12)).prop_map(|(own, shared, leaves)| {
            let mut leaves = leaves.into_iter().cycle();
            let shared = &shared[..shared.len().min(2)];
            let mut other = record(replaced(&own, &mut leaves));
            other.resource = Arc::new(Resource { attributes: replaced(shared, &mut leaves) });
            let mut one = record(own);
            one.resource = Arc::new(Resource { attributes: shared.to_vec() });
            (one, other)
        })
    }

    /// What becomes of the attributes of `other`, once by the names of `one` alone and once by its own values, where the
    /// former can be said.
    pub(crate) fn both_roles<R: Roles>(one: &LogRecord, other: &LogRecord) -> Option<[R; 2]> {
        let named = roles_by_name::<R>(one)?;
        assert!(is_named(other, &named.names));
        Some([named.roles, roles_of(other)])
    }

    #[test]
    fn each_name_is_there_once_however_many_there_are() {
        for names in [10, 20, 100_000] {
            let record = record((0..2 * names).map(|n: i64| (format!("n{}", n % names).into(), n.into())).collect());
            let list: Vec<_> = first_of_each(attributes(&record)).collect();
            assert_eq!(list.len(), names as usize);
            assert!(list.iter().zip(0..names).all(|((_, (_, value)), number)| *value == Value::Int(number)));
        }
    }

    #[test]
    fn plans_are_made_now_and_then_and_the_oldest_are_forgotten() {
        let mut shapes: Shapes<usize> = Shapes::new();
        for number in 0..(2 * PLANS_MAX * MISSES_FOR_A_PLAN) {
            let found = shapes.find(|plan| *plan == number, || Some(number)).copied();
            assert_eq!(found.is_some(), number % MISSES_FOR_A_PLAN == 0);
            let last = *shapes.plans.last().unwrap();
            assert_eq!(shapes.find(|plan| *plan == last, || unreachable!()), Some(&last));
        }
        assert_eq!(shapes.plans.len(), PLANS_MAX);
        assert!(!shapes.plans.contains(&0), "it was forgotten");
    }

    #[test]
    fn where_names_always_differ_plans_are_not_looked_for_for_a_while() {
        let mut shapes: Shapes<usize> = Shapes::new();
        for number in 0..=MISSES_IN_A_ROW_MAX {
            shapes.find(|plan| *plan == number, || Some(number));
        }
        for _ in 0..PAUSE {
            assert_eq!(shapes.find(|_| unreachable!(), || unreachable!()), None);
        }
        let last = *shapes.plans.last().unwrap();
        assert_eq!(shapes.find(|plan| *plan == last, || unreachable!()), Some(&last));
    }

    #[test]
    fn a_record_of_other_names_has_another_outline() {
        let map = |name: &str| Value::Map(vec![(name.into(), 1.into())]);
        let known = record(vec![("a".into(), map("b")), ("c".into(), Value::Null)]);
        let outline = Outline::of(&known).unwrap();
        assert!(outline.is_of(&known) && outline.is_of(&record(vec![("a".into(), map("b")), ("c".into(), 7.into())])));
        for other in [
            vec![("a".into(), map("x")), ("c".into(), 1.into())],
            vec![("a".into(), Value::Null), ("c".into(), 1.into())],
            vec![("a".into(), map("b")), ("c".into(), map("d"))],
            vec![("a".into(), map("b")), ("c".into(), Value::Array(vec![map("d")]))],
            vec![("a".into(), map("b"))],
            vec![("a".into(), map("b")), ("c".into(), 1.into()), ("d".into(), 1.into())],
        ] {
            assert!(!outline.is_of(&record(other)));
        }
        assert!(Outline::of(&record(vec![("a".into(), 1.into()), ("a".into(), 2.into())])).is_none());
        let deep = (0..20).fold(Value::Null, |inner, _| Value::Map(vec![("a".into(), inner)]));
        assert!(Outline::of(&record(vec![("a".into(), deep)])).is_none());
    }

    proptest! {
        #[test]
        fn names_that_are_there_once_are_told(entries in entries("[a-d]")) {
            let mut names: Vec<&Text> = entries.iter().map(|(name, _)| name).collect();
            names.sort();
            names.dedup();
            for _ in 0..=MISSES_FOR_A_PLAN {
                prop_assert!(!is_each_once(&entries) || names.len() == entries.len());
            }
            if entries.len() < 2 {
                prop_assert!(is_each_once(&entries));
            }
        }
    }
}
