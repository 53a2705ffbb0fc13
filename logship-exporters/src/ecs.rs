//! Records as documents in the Elastic Common Schema (<https://www.elastic.co/docs/reference/ecs>).

use logship_core::{LogRecord, Severity, Text, Timestamp, Value};

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
pub(crate) fn document(record: &LogRecord, id: &str, out: &mut Vec<u8>) {
    let attributes = || record.attributes.iter().chain(&record.resource.attributes);
    let mut taken: [Option<&Value>; FIELDS.len()] = [None; FIELDS.len()];
    for (name, value) in attributes().filter(|(_, value)| *value != Value::Null) {
        if let Some(slot) = field_of(name, value).map(|field| &mut taken[field]) {
            slot.get_or_insert(value);
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
    root.object("labels", |labels| {
        for (index, (name, value)) in attributes().enumerate() {
            let is_label = |name: &Text, value: &Value| *value != Value::Null && field_of(name, value).is_none();
            // Elasticsearch refuses a document that names a field twice; the first value stays.
            let is_first =
                || !attributes().take(index).any(|(other, value)| is_same_label(other, name) && is_label(other, value));
            if is_label(name, value) && is_first() {
                labels.label(name, value);
            }
        }
    });
    root.close();
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

fn is_same_label(a: &str, b: &str) -> bool {
    a.len() == b.len() && label_bytes(a).eq(label_bytes(b))
}

/// A JSON object that is being written.
struct Object<'a> {
    out: &'a mut Vec<u8>,
    is_empty: bool,
}

impl<'a> Object<'a> {
    fn open(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Object { out, is_empty: true }
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
        value_as_text(self.out, value, is_number);
    }

    fn label(&mut self, name: &str, value: &Value) {
        if name.contains('.') {
            self.value(&name.replace('.', "_"), value, false);
        } else {
            self.value(name, value, false);
        }
    }

    fn hex(&mut self, name: &str, id: Option<&[u8]>) {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let Some(id) = id else { return };
        self.object(name, |object| {
            object.key("id");
            object.out.push(b'"');
            for byte in id {
                object.out.extend_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
            }
            object.out.push(b'"');
        });
    }

    /// An object inside this one, left out if nothing is written to it.
    fn object(&mut self, name: &str, write: impl FnOnce(&mut Object<'_>)) {
        let (begin, was_empty) = (self.out.len(), self.is_empty);
        self.key(name);
        let mut inner = Object::open(self.out);
        write(&mut inner);
        if inner.is_empty {
            self.out.truncate(begin);
            self.is_empty = was_empty;
        } else {
            inner.close();
        }
    }
}

fn value_as_text(out: &mut Vec<u8>, value: &Value, is_number: bool) {
    match value {
        Value::String(text) => string(out, text),
        Value::Int(number) => {
            let mut buffer = itoa::Buffer::new();
            let digits = buffer.format(*number);
            match is_number {
                true => out.extend_from_slice(digits.as_bytes()),
                false => string(out, digits),
            }
        }
        Value::Bool(value) => string(out, if *value { "true" } else { "false" }),
        Value::Double(number) => string(out, &number.to_string()),
        Value::Bytes(bytes) => string(out, &String::from_utf8_lossy(bytes)),
        Value::Null | Value::Array(_) | Value::Map(_) => {
            string(out, &serde_json::to_string(value).unwrap_or_default());
        }
    }
}

/// Appends a quoted string.
pub(crate) fn string(out: &mut Vec<u8>, text: &str) {
    // Writing to memory does not fail.
    let _ = serde_json::to_writer(out, text);
}
