//! Records as documents in the Elastic Common Schema (<https://www.elastic.co/docs/reference/ecs>).

use std::collections::HashSet;
use std::hash::{Hash, Hasher};

use logship_core::{LogRecord, Severity, Text, Timestamp, Unencodable, Value};

use crate::encode::json::{self, string};

/// A field of the Elastic Common Schema that is taken from an attribute.
struct Field {
    object: &'static str,
    name: &'static str,
    /// The field is a number; an attribute that is none stays a label.
    is_number: bool,
    /// The attributes it is taken from, the first there is.
    attributes: &'static [&'static str],
}

const fn text(object: &'static str, name: &'static str, attributes: &'static [&'static str]) -> Field {
    Field { object, name, is_number: false, attributes }
}

const fn number(object: &'static str, name: &'static str, attributes: &'static [&'static str]) -> Field {
    Field { object, name, is_number: true, attributes }
}

/// Which attributes have a field of their own, object by object. All others become labels.
const FIELDS: &[Field] = &[
    text("error", "type", &["error.type", "exception.type"]),
    text("error", "message", &["error.message", "exception.message"]),
    text("error", "stack_trace", &["error.stack_trace", "exception.stacktrace"]),
    text("event", "dataset", &["event.dataset"]),
    number("event", "duration", &["event.duration"]),
    text("event", "outcome", &["event.outcome"]),
    text("host", "name", &["host.name"]),
    text("host", "id", &["host.id"]),
    text("log", "logger", &["log.logger", "logger.name"]),
    number("process", "pid", &["process.pid"]),
    number("thread", "id", &["thread.id", "process.thread.id"]),
    text("thread", "name", &["thread.name", "thread", "process.thread.name"]),
    text("service", "name", &["service.name"]),
    text("service", "version", &["service.version"]),
    text("service", "environment", &["service.environment", "deployment.environment.name", "deployment.environment"]),
];

/// The field that takes an attribute.
fn field_of(name: &str, value: &Value) -> Option<usize> {
    let takes =
        |field: &Field| field.attributes.contains(&name) && (!field.is_number || matches!(value, Value::Int(_)));
    FIELDS.iter().position(takes)
}

/// Writes the document of one record.
pub(crate) fn document(record: &LogRecord, id: &str, out: &mut Vec<u8>) -> Result<(), Unencodable> {
    let attributes = || record.attributes.iter().chain(&record.resource.attributes);
    let mut taken: [Option<&Value>; FIELDS.len()] = [None; FIELDS.len()];
    let mut labels = Labels { list: Vec::with_capacity(record.attributes.len()), known: HashSet::new() };
    for attribute in attributes().filter(|(_, value)| *value != Value::Null) {
        let (name, value) = attribute;
        match field_of(name, value) {
            Some(field) => drop(taken[field].get_or_insert(value)),
            None => labels.push(attribute),
        }
    }
    let fields = |members: &mut Object<'_>, object: &str| {
        for (field, value) in FIELDS.iter().zip(taken).filter(|(field, _)| field.object == object) {
            if let Some(value) = value {
                members.value(field.name, value, field.is_number);
            }
        }
    };

    let mut root = Object::open(out);
    root.time("@timestamp", record.timestamp);
    if record.body != Value::Null {
        root.value("message", &record.body, false);
    }
    root.object("event", |event| {
        event.text("id", id);
        if let Some(observed) = record.observed_timestamp {
            event.time("created", observed);
        }
        fields(event, "event");
    });
    root.object("log", |log| {
        if let Some(level) = level(record.severity) {
            log.text("level", level);
        }
        let has_logger = FIELDS.iter().zip(taken).any(|(field, value)| field.name == "logger" && value.is_some());
        match &record.scope {
            Some(scope) if !has_logger && !scope.name.is_empty() => log.text("logger", &scope.name),
            _ => {}
        }
        fields(log, "log");
    });
    for object in ["service", "host", "error"] {
        root.object(object, |members| fields(members, object));
    }
    root.object("process", |process| {
        fields(process, "process");
        process.object("thread", |thread| fields(thread, "thread"));
    });
    root.hex("trace", record.trace_id.as_ref().map(<[u8; 16]>::as_slice));
    root.hex("span", record.span_id.as_ref().map(<[u8; 8]>::as_slice));
    root.object("labels", |object| labels.list.iter().for_each(|(name, value)| object.label(name, value)));
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

    fn key(&mut self, name: &str) {
        if !self.is_empty {
            self.out.push(b',');
        }
        self.is_empty = false;
        string(self.out, name);
        self.out.push(b':');
    }

    fn text(&mut self, name: &str, text: &str) {
        self.key(name);
        string(self.out, text);
    }

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
        self.fault = self.fault.take().or(result.err());
    }

    fn label(&mut self, name: &str, value: &Value) {
        if name.contains('.') {
            self.value(&name.replace('.', "_"), value, false);
        } else {
            self.value(name, value, false);
        }
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
        self.fault = self.fault.take().or(inner.fault.take());
        if inner.is_empty {
            self.out.truncate(begin);
            self.is_empty = was_empty;
        } else {
            inner.close();
        }
    }
}

fn value_as_text(out: &mut Vec<u8>, value: &Value, is_number: bool) -> Result<(), Unencodable> {
    match value {
        Value::String(text) => string(out, text),
        Value::Int(number) if is_number => json::int(out, *number),
        Value::Int(number) => string(out, itoa::Buffer::new().format(*number)),
        Value::Bool(value) => string(out, if *value { "true" } else { "false" }),
        Value::Double(number) => string(out, &number.to_string()),
        // What has no text of its own is written as the text of its JSON; bytes are base64 there.
        Value::Bytes(_) => json::value(out, value, 0)?,
        Value::Null | Value::Array(_) | Value::Map(_) => {
            let mut text = Vec::new();
            json::value(&mut text, value, 0)?;
            string(out, &String::from_utf8_lossy(&text));
        }
    }
    Ok(())
}
