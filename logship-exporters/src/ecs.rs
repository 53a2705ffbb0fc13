//! Records as documents in the Elastic Common Schema (<https://www.elastic.co/docs/reference/ecs>).

use std::cell::RefCell;
use std::collections::HashSet;
use std::hash::{Hash, Hasher};

use logship_core::{LogRecord, Severity, Text, Timestamp, Unencodable, Value};

use crate::encode::json::{self, string};
use crate::encode::shape::{Named, Roles, Shapes, attribute, attributes, key_of, with_roles_by_name};

/// A field of the Elastic Common Schema that is taken from an attribute.
struct Field {
    name: &'static str,
    /// The field is a number; an attribute that is none stays a label.
    is_number: bool,
    /// The attributes it is taken from, the first there is.
    attributes: &'static [&'static str],
}

const fn text(name: &'static str, attributes: &'static [&'static str]) -> Field {
    Field { name, is_number: false, attributes }
}

const fn number(name: &'static str, attributes: &'static [&'static str]) -> Field {
    Field { name, is_number: true, attributes }
}

/// Which attributes have a field of their own, object by object as [`objects`] says. All others become labels.
const FIELDS: &[Field] = &[
    text("type", &["error.type", "exception.type"]),
    text("message", &["error.message", "exception.message"]),
    text("stack_trace", &["error.stack_trace", "exception.stacktrace"]),
    text("dataset", &["event.dataset"]),
    number("duration", &["event.duration"]),
    text("outcome", &["event.outcome"]),
    text("name", &["host.name"]),
    text("id", &["host.id"]),
    text("logger", &["log.logger", "logger.name"]),
    number("pid", &["process.pid"]),
    number("id", &["thread.id", "process.thread.id"]),
    text("name", &["thread.name", "thread", "process.thread.name"]),
    text("name", &["service.name"]),
    text("version", &["service.version"]),
    text("environment", &["service.environment", "deployment.environment.name", "deployment.environment"]),
];

/// Where the fields of each object stand among [`FIELDS`].
mod objects {
    use std::ops::Range;

    pub(super) const ERROR: Range<usize> = 0..3;
    pub(super) const EVENT: Range<usize> = 3..6;
    pub(super) const HOST: Range<usize> = 6..8;
    pub(super) const LOG: Range<usize> = 8..9;
    pub(super) const PROCESS: Range<usize> = 9..10;
    pub(super) const THREAD: Range<usize> = 10..12;
    pub(super) const SERVICE: Range<usize> = 12..15;
}

/// The field that an attribute of this name is for.
fn field_of(name: &str) -> Option<usize> {
    FIELDS.iter().position(|field| field.attributes.contains(&name))
}

/// The values of fields, by their place among [`FIELDS`].
type Taken<'a> = [Option<&'a Value>; FIELDS.len()];

/// Writes the document of one record. `id` writes what it is known by, with quotes.
pub(crate) fn document(record: &LogRecord, id: impl Fn(&mut Vec<u8>), out: &mut Vec<u8>) -> Result<(), Unencodable> {
    thread_local!(static KNOWN: RefCell<Shapes<Named<Places>>> = const { RefCell::new(Shapes::new()) });
    with_roles_by_name(&KNOWN, record, |places: Option<&Places>| {
        let Some(Places { fields, labels }) = places else { return unplanned(record, id, out) };
        let value = |place: usize| attribute(record, place).map(|(_, value)| value);
        let mut taken: Taken<'_> = [None; FIELDS.len()];
        fields.iter().for_each(|(place, field)| taken[*field] = value(*place));
        write(record, id, &taken, out, |members| {
            for (place, key) in labels {
                if let Some(value) = value(*place) {
                    members.member(key, value);
                }
            }
        })
    })
}

/// The same for a record whose names say nothing.
pub(crate) fn unplanned(record: &LogRecord, id: impl Fn(&mut Vec<u8>), out: &mut Vec<u8>) -> Result<(), Unencodable> {
    let (taken, list) = sorted(record);
    write(record, id, &taken, out, |labels| list.iter().for_each(|(name, value)| labels.label(name, value)))
}

/// Which attributes have fields of their own, and which are labels, whatever their names and values are.
fn sorted(record: &LogRecord) -> (Taken<'_>, Vec<&(Text, Value)>) {
    let mut taken: Taken<'_> = [None; FIELDS.len()];
    let mut labels = Labels { list: Vec::with_capacity(record.attributes.len()), known: HashSet::new() };
    for attribute in attributes(record).filter(|(_, value)| !matches!(value, Value::Null)) {
        let (name, value) = attribute;
        match field_of(name).filter(|field| !FIELDS[*field].is_number || matches!(value, Value::Int(_))) {
            Some(field) => drop(taken[field].get_or_insert(value)),
            None => labels.push(attribute),
        }
    }
    (taken, labels.list)
}

/// Where the fields and the labels of a document are among the attributes.
#[derive(Debug, Default)]
struct Places {
    /// Attributes that have fields of their own, and which ones among [`FIELDS`].
    fields: Vec<(usize, usize)>,
    /// Attributes that are labels, and the name of each as it is written.
    labels: Vec<(usize, Vec<u8>)>,
}

impl Roles for Places {
    fn add(&mut self, place: usize, name: &str) -> bool {
        if let Some(field) = field_of(name) {
            let is_free = self.fields.iter().all(|(_, taken)| *taken != field);
            self.fields.push((place, field));
            // Whether it is a number is for the value to say.
            return is_free && !FIELDS[field].is_number;
        }
        let key = label_key(name);
        let is_free = self.labels.iter().all(|(_, taken)| *taken != key);
        self.labels.push((place, key));
        is_free
    }
}

fn label_key(name: &str) -> Vec<u8> {
    key_of(&name.replace('.', "_"))
}

/// Writes a document of which it is known what becomes of the attributes.
fn write(
    record: &LogRecord,
    id: impl Fn(&mut Vec<u8>),
    taken: &Taken<'_>,
    out: &mut Vec<u8>,
    labels: impl FnOnce(&mut Object<'_>),
) -> Result<(), Unencodable> {
    let fields = |members: &mut Object<'_>, object: std::ops::Range<usize>| {
        for (field, value) in FIELDS[object.clone()].iter().zip(&taken[object]) {
            if let Some(value) = value {
                members.value(field.name, value, field.is_number);
            }
        }
    };
    let has = |object: &std::ops::Range<usize>| taken[object.clone()].iter().any(Option::is_some);
    let mut root = Object::open(out);
    root.time("@timestamp", record.timestamp);
    if record.body != Value::Null {
        root.value("message", &record.body, false);
    }
    root.object("event", |event| {
        event.key("id");
        id(event.out);
        if let Some(observed) = record.observed_timestamp {
            event.time("created", observed);
        }
        fields(event, objects::EVENT);
    });
    root.object("log", |log| {
        if let Some(level) = level(record.severity) {
            log.key("level");
            json::plain(log.out, level);
        }
        match &record.scope {
            Some(scope) if !has(&objects::LOG) && !scope.name.is_empty() => log.text("logger", &scope.name),
            _ => {}
        }
        fields(log, objects::LOG);
    });
    for (name, object) in [("service", objects::SERVICE), ("host", objects::HOST), ("error", objects::ERROR)] {
        if has(&object) {
            root.object(name, |members| fields(members, object));
        }
    }
    if has(&objects::PROCESS) || has(&objects::THREAD) {
        root.object("process", |process| {
            fields(process, objects::PROCESS);
            process.object("thread", |thread| fields(thread, objects::THREAD));
        });
    }
    root.hex("trace", record.trace_id.as_ref().map(<[u8; 16]>::as_slice));
    root.hex("span", record.span_id.as_ref().map(<[u8; 8]>::as_slice));
    root.object("labels", labels);
    let fault = root.fault.take();
    root.close();
    fault.map_or(Ok(()), Err)
}

/// The lower-case names of `log.level`.
fn level(severity: Severity) -> Option<&'static str> {
    Some(match severity.name() {
        "TRACE" => "trace",
        "DEBUG" => "debug",
        "INFO" => "info",
        "WARN" => "warn",
        "ERROR" => "error",
        "FATAL" => "fatal",
        _ => return None,
    })
}

/// Dots in the name of a label become `_`, so that labels stay flat and `a` does not clash with `a.b`.
fn label_bytes(name: &str) -> impl Iterator<Item = u8> {
    name.bytes().map(|byte| if byte == b'.' { b'_' } else { byte })
}

/// Up to how many labels are compared one by one.
const LABELS_FEW: usize = 64;

/// Attributes that become labels. Elasticsearch refuses a document that names a field twice; the first value stays.
struct Labels<'a> {
    list: Vec<&'a (Text, Value)>,
    /// The names in the list, once there are many.
    known: HashSet<Label<'a>>,
}

impl<'a> Labels<'a> {
    fn push(&mut self, attribute: &'a (Text, Value)) {
        let name = Label(&attribute.0);
        // A few names are compared faster than hashed; with many, each against each would take for ever.
        let is_new = if self.list.len() < LABELS_FEW {
            self.list.iter().all(|(known, _)| Label(known) != name)
        } else {
            if self.known.is_empty() {
                self.known.extend(self.list.iter().map(|(known, _)| Label(known)));
            }
            self.known.insert(name)
        };
        if is_new {
            self.list.push(attribute);
        }
    }
}

/// The name of an attribute, which is the same as another if their labels have the same name.
#[derive(Eq)]
struct Label<'a>(&'a str);

impl PartialEq for Label<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.0.len() == other.0.len() && label_bytes(self.0).eq(label_bytes(other.0))
    }
}

impl Hash for Label<'_> {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        label_bytes(self.0).for_each(|byte| hasher.write_u8(byte));
    }
}

/// A JSON object that is being written.
struct Object<'a> {
    out: &'a mut Vec<u8>,
    is_empty: bool,
    /// Why what was written is no document, if it is none.
    fault: Option<Unencodable>,
}

impl<'a> Object<'a> {
    fn open(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Object { out, is_empty: true, fault: None }
    }

    fn close(self) {
        self.out.push(b'}');
    }

    #[inline(always)]
    fn key(&mut self, name: &str) {
        if !self.is_empty {
            self.out.push(b',');
        }
        self.is_empty = false;
        self.out.push(b'"');
        // The names of fields have nothing to escape.
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    fn text(&mut self, name: &str, text: &str) {
        self.key(name);
        string(self.out, text);
    }

    #[inline]
    fn time(&mut self, name: &str, time: Timestamp) {
        self.key(name);
        self.out.push(b'"');
        time.write_rfc3339(self.out);
        self.out.push(b'"');
    }

    /// Everything is text but what a field wants as a number: the first value of a field decides its type for all that
    /// come after, and a document of another type is refused.
    fn value(&mut self, name: &str, value: &Value, is_number: bool) {
        self.key(name);
        let result = value_as_text(self.out, value, is_number);
        self.note(result);
    }

    /// Keeps the first fault.
    #[inline]
    fn note(&mut self, result: Result<(), Unencodable>) {
        if let Err(fault) = result {
            self.fault.get_or_insert(fault);
        }
    }

    /// A member whose name is written as it is to be, with the comma before and the colon behind it.
    fn member(&mut self, key: &[u8], value: &Value) {
        json::append(self.out, &key[usize::from(self.is_empty)..]);
        self.is_empty = false;
        let result = value_as_text(self.out, value, false);
        self.note(result);
    }

    fn label(&mut self, name: &str, value: &Value) {
        self.member(&label_key(name), value);
    }

    fn hex(&mut self, name: &str, id: Option<&[u8]>) {
        let Some(id) = id else { return };
        self.object(name, |object| {
            object.key("id");
            object.out.push(b'"');
            json::hex(object.out, id);
            object.out.push(b'"');
        });
    }

    /// An object inside this one, left out if nothing is written to it.
    fn object(&mut self, name: &str, write: impl FnOnce(&mut Object<'_>)) {
        let (begin, was_empty) = (self.out.len(), self.is_empty);
        self.key(name);
        let mut inner = Object::open(self.out);
        write(&mut inner);
        let fault = inner.fault.take();
        self.fault = self.fault.take().or(fault);
        if inner.is_empty {
            self.out.truncate(begin);
            self.is_empty = was_empty;
        } else {
            inner.close();
        }
    }
}

#[inline]
fn value_as_text(out: &mut Vec<u8>, value: &Value, is_number: bool) -> Result<(), Unencodable> {
    match value {
        Value::String(text) => json::text(out, text),
        Value::Int(number) if is_number => json::int(out, *number),
        Value::Int(number) => json::plain(out, itoa::Buffer::new().format(*number)),
        Value::Bool(value) => json::plain(out, if *value { "true" } else { "false" }),
        Value::Double(number) => string(out, &number.to_string()),
        // What has no text of its own is written as the text of its JSON; bytes are base64 there.
        Value::Bytes(_) => json::value(out, value, 0)?,
        Value::Null | Value::Array(_) | Value::Map(_) => json::value_as_string(out, value)?,
    }
    Ok(())
}
