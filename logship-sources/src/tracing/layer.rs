//! Takes events as they happen.

use std::borrow::Cow;
use std::fmt::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use logship_core::{Severity, Timestamp};
use serde_json::{Map, Value};
use tokio::sync::mpsc;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::{Event, Shared};

/// A layer that puts events into the buffer of a [`Spool`](super::Spool). It never waits and never panics.
#[derive(Clone, Debug)]
pub struct SpoolLayer {
    inbox: mpsc::UnboundedSender<Event>,
    shared: Arc<Shared>,
}

/// The crates whose events would be about shipping events.
const OWN: [&str; 5] = ["logship", "logship_core", "logship_exporters", "logship_sources", "logship_state"];

/// What a span says, kept with the span.
struct SpanFields {
    fields: Fields,
    /// It is one of shipping.
    is_own: bool,
}

impl SpoolLayer {
    pub(super) fn new(inbox: mpsc::UnboundedSender<Event>, shared: Arc<Shared>) -> Self {
        SpoolLayer { inbox, shared }
    }

    fn is_excluded(&self, target: &str) -> bool {
        let is_below =
            |above: &str| target.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"));
        is_own(target) || self.shared.config.exclude_targets.iter().any(|above| is_below(above))
    }

    /// Puts an event into the buffer, if there is room.
    fn send(&self, event: Event) {
        let (size, max) = (event.size(), self.shared.config.buffer_bytes_max);
        let grown = |held: usize| held.checked_add(size).filter(|held| *held <= max);
        if self.shared.buffered.fetch_update(Ordering::SeqCst, Ordering::SeqCst, grown).is_err() {
            self.shared.dropped.fetch_add(1, Ordering::SeqCst);
            return;
        }
        // Before it is sent, so that a flush does not count less than lies before an event it waits for.
        self.shared.sent.fetch_add(1, Ordering::SeqCst);
        if self.inbox.send(event).is_err() {
            // The writer has ended with its runtime.
            self.shared.dropped.fetch_add(1, Ordering::SeqCst);
        }
    }
}

fn is_own(target: &str) -> bool {
    OWN.contains(&target.split("::").next().unwrap_or_default())
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for SpoolLayer {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        // Values are written before the span is locked: they may log themselves.
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            let is_own = is_own(attributes.metadata().target());
            // Another spool's layer may have put the same there.
            span.extensions_mut().replace(SpanFields { fields, is_own });
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        values.record(&mut fields);
        if let Some(span) = context.span(id)
            && let Some(span) = span.extensions_mut().get_mut::<SpanFields>()
        {
            span.fields.0.extend(fields.0);
        }
    }

    fn on_event(&self, event: &tracing::Event<'_>, context: Context<'_, S>) {
        if self.is_excluded(event.metadata().target()) {
            return;
        }
        let mut fields = Fields::default();
        event.record(&mut fields);
        let target = fields.target(event.metadata().target());
        if self.is_excluded(&target) {
            return;
        }
        let body = match fields.0.remove("message") {
            Some(Value::String(text)) => text,
            Some(value) => value.to_string(),
            None => String::new(),
        };
        for (index, span) in context.event_scope(event).into_iter().flatten().enumerate() {
            if index == 0 {
                fields.0.entry("span.name").or_insert_with(|| span.name().into());
            }
            let extensions = span.extensions();
            let Some(outer) = extensions.get::<SpanFields>() else { continue };
            if outer.is_own {
                return;
            }
            for (name, value) in &outer.fields.0 {
                if !fields.0.contains_key(name) {
                    fields.0.insert(name.clone(), value.clone());
                }
            }
        }
        let (trace_id, span_id) = (fields.take_id("trace_id", 32), fields.take_id("span_id", 16));
        let (at, level) = (Timestamp::now().as_nanos(), severity(event.metadata().level()).name());
        // A map of texts and JSON values is always JSON.
        let attributes = serde_json::to_string(&fields.0).unwrap_or_default();
        self.send(Event { at, level, target, body, attributes, trace_id, span_id });
    }
}

fn severity(level: &Level) -> Severity {
    match *level {
        Level::ERROR => Severity::ERROR,
        Level::WARN => Severity::WARN,
        Level::INFO => Severity::INFO,
        Level::DEBUG => Severity::DEBUG,
        Level::TRACE => Severity::TRACE,
    }
}

/// The fields of an event or a span.
#[derive(Debug, Default)]
struct Fields(Map<String, Value>);

impl Fields {
    fn set(&mut self, field: &Field, value: Value) {
        self.0.insert(field.name().to_owned(), value);
    }

    /// The event's target; of one that came through the `log` crate, what that says.
    fn target(&mut self, target: &'static str) -> Cow<'static, str> {
        if target != "log" {
            return target.into();
        }
        match self.0.remove("log.target") {
            Some(Value::String(target)) => target.into(),
            _ => target.into(),
        }
    }

    /// An id of so many hexadecimal digits, not all zero; what is none stays an attribute.
    fn take_id(&mut self, name: &str, digits: usize) -> Option<String> {
        let is_id = |text: &str| {
            text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit()) && text.bytes().any(|b| b != b'0')
        };
        if !self.0.get(name).and_then(Value::as_str).is_some_and(is_id) {
            return None;
        }
        self.0.remove(name).and_then(|id| id.as_str().map(str::to_ascii_lowercase))
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no infinity.
        let number = serde_json::Number::from_f64(value).map(Value::Number);
        self.set(field, number.unwrap_or_else(|| value.to_string().into()));
    }

    fn record_error(&mut self, field: &Field, error: &(dyn std::error::Error + 'static)) {
        let mut text = written(format_args!("{error}"));
        let mut cause = error.source();
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&written(format_args!("{error}")));
            cause = error.source();
        }
        self.set(field, text.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set(field, written(format_args!("{value:?}")).into());
    }
}

/// A value as it writes itself, as far as it does: a fault in that is not to end the program that logs it.
fn written(value: fmt::Arguments<'_>) -> String {
    let mut text = String::new();
    let is_whole = catch_unwind(AssertUnwindSafe(|| text.write_fmt(value))).is_ok_and(|result| result.is_ok());
    if !is_whole {
        text.push_str("<cannot be written>");
    }
    text
}
