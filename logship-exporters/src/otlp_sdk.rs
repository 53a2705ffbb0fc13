//! Any log exporter of the OpenTelemetry SDK, as an exporter of ours.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use logship_core::{
    Advice, Certainty, Chunk, Error, ErrorKind, Exporter, Limits, LogRecord, Outcome, Scope, Text, Timestamp, Value,
    async_trait,
};
use opentelemetry::logs::{AnyValue, LogRecord as _, Logger, LoggerProvider, Severity};
use opentelemetry::{InstrumentationScope, Key, KeyValue, SpanId, TraceId};
use opentelemetry_sdk::error::OTelSdkError;
use opentelemetry_sdk::logs::{LogBatch, LogExporter, SdkLogRecord, SdkLogger, SdkLoggerProvider};

const OPERATION: &str = "otlp-sdk export";

/// The attribute by which a receiver can tell that it has a record already
/// (<https://opentelemetry.io/docs/specs/semconv/registry/attributes/log/>).
const UID: &str = "log.record.uid";
/// The writer's own word for the severity, where it is none that the SDK could say.
const SEVERITY_TEXT: &str = "log.record.severity_text";

/// Makes an exporter of a log exporter of the OpenTelemetry SDK, such as `opentelemetry_otlp::LogExporter`.
///
/// It is for programs that have such an exporter set up, or one of a vendor's own. Its guarantees are weaker than those
/// of [`otlp`](crate::otlp), because the SDK's trait cannot say more:
///
/// - A partial success is none: `opentelemetry_otlp` logs that records were refused and reports success, so these are
///   lost.
/// - An error says neither what was wrong nor when to try again. Each is tried again as the lane sees fit, until the
///   lane stops; what was sent may be there, and is counted as possibly repeated. A chunk is never split, so one record
///   that the destination refuses stops the lane.
/// - `opentelemetry_otlp` tries again by itself, of which the lane knows nothing: switch that off, with
///   `with_retry_policy(RetryPolicy::disabled())`.
/// - [`check`](Exporter::check) looks at nothing.
///
/// And its records say less: a record's resource becomes attributes of the record, as the SDK's resource belongs to the
/// exporter; one whose name the record has already gets `resource.` before it. Members of maps lose their order,
/// values that are nothing are left out, and a severity in words of the writer's own becomes the attribute
/// `log.record.severity_text`. A record without an observed time gets its own time as such. Each record has its id as
/// `log.record.uid`.
///
/// ```
/// use logship_exporters::otlp_sdk::SdkExporter;
/// use opentelemetry_sdk::error::OTelSdkResult;
/// use opentelemetry_sdk::logs::{LogBatch, LogExporter};
///
/// #[derive(Debug)]
/// struct Printer;
///
/// impl LogExporter for Printer {
///     async fn export(&self, batch: LogBatch<'_>) -> OTelSdkResult {
///         batch.iter().for_each(|(record, scope)| println!("{}: {:?}", scope.name(), record.body()));
///         Ok(())
///     }
/// }
///
/// let lane = logship_core::Lane::new("printer", SdkExporter::new(Printer)).chunk(512);
/// # let _ = lane;
/// ```
pub struct SdkExporter<E> {
    exporter: E,
    limits: Limits,
    /// The SDK makes records nowhere else.
    records: SdkLogger,
}

impl<E: LogExporter + 'static> SdkExporter<E> {
    /// Without limits.
    pub fn new(exporter: E) -> Self {
        let records = SdkLoggerProvider::builder().build().logger("logship");
        SdkExporter { exporter, limits: Limits::none(), records }
    }

    /// With limits, which the SDK's exporter knows nothing of. Bytes are counted as held in memory.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    fn record(&self, record: &LogRecord) -> SdkLogRecord {
        let mut out = self.records.create_log_record();
        out.set_timestamp(system_time(record.timestamp));
        out.set_observed_timestamp(system_time(record.observed_timestamp.unwrap_or(record.timestamp)));
        if let Some(severity) = severity(record.severity.number()) {
            out.set_severity_number(severity);
            out.set_severity_text(record.severity.name());
        }
        if let Some(text) = record.severity_text.as_deref().filter(|text| *text != record.severity.name()) {
            out.add_attribute(SEVERITY_TEXT, text.to_owned());
        }
        if let Some(body) = any_value(&record.body) {
            out.set_body(body);
        }
        if record.trace_id.is_some() || record.span_id.is_some() {
            let trace_id = TraceId::from_bytes(record.trace_id.unwrap_or_default());
            out.set_trace_context(trace_id, SpanId::from_bytes(record.span_id.unwrap_or_default()), None);
        }
        if record.attribute(UID).is_none() {
            let mut id = Vec::new();
            record.id.write(&mut id);
            out.add_attribute(UID, String::from_utf8_lossy(&id).into_owned());
        }
        for (name, value) in &record.attributes {
            if let Some(value) = any_value(value) {
                out.add_attribute(name.as_str().to_owned(), value);
            }
        }
        for (name, value) in &record.resource.attributes {
            let Some(value) = any_value(value) else { continue };
            match record.attribute(name) {
                None => out.add_attribute(name.as_str().to_owned(), value),
                Some(_) => out.add_attribute(format!("resource.{name}"), value),
            }
        }
        out
    }
}

#[async_trait]
impl<E: LogExporter + 'static> Exporter for SdkExporter<E> {
    fn kind(&self) -> &'static str {
        "otlp-sdk"
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    async fn export(&self, chunk: &Chunk) -> Result<Outcome, Error> {
        // Neighbours mostly share their scope, which is made once for them.
        let mut scopes: Vec<(Option<&Arc<Scope>>, InstrumentationScope)> = Vec::new();
        let mut records = Vec::with_capacity(chunk.len());
        for record in chunk.records() {
            let of = record.scope.as_ref();
            if scopes.last().is_none_or(|(last, _)| last.map(Arc::as_ptr) != of.map(Arc::as_ptr)) {
                scopes.push((of, scope(of.map(Arc::as_ref))));
            }
            records.push((self.record(record), scopes.len() - 1));
        }
        let batch: Vec<_> = records.iter().map(|(record, scope)| (record, &scopes[*scope].1)).collect();
        match self.exporter.export(LogBatch::new(&batch)).await {
            Ok(()) => Ok(Outcome::all_accepted(chunk.len())),
            Err(error) => Err(failed(&error)),
        }
    }
}

impl<E> fmt::Debug for SdkExporter<E> {
    /// Without the SDK's exporter, which may show its headers.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SdkExporter").field("limits", &self.limits).finish_non_exhaustive()
    }
}

fn failed(error: &OTelSdkError) -> Error {
    let (kind, message) = match error {
        OTelSdkError::AlreadyShutdown => {
            let message = "the SDK's exporter was shut down";
            return Error::new(ErrorKind::Config, OPERATION, message).advise(Advice::Never);
        }
        OTelSdkError::Timeout(time) => (ErrorKind::Timeout, format!("no answer within {time:?}")),
        // An address may hold a token.
        OTelSdkError::InternalFailure(text) => {
            let words = text.split_whitespace().map(|word| if word.contains("://") { "(address)" } else { word });
            (ErrorKind::Unavailable, Error::excerpt(words.collect::<Vec<_>>().join(" ").as_bytes()))
        }
    };
    Error::new(kind, OPERATION, message).certainty_is(Certainty::Unknown)
}

fn system_time(time: Timestamp) -> SystemTime {
    let distance = Duration::from_nanos(time.as_nanos().unsigned_abs());
    if time.as_nanos() < 0 { SystemTime::UNIX_EPOCH - distance } else { SystemTime::UNIX_EPOCH + distance }
}

fn severity(number: u8) -> Option<Severity> {
    use Severity as S;
    const ALL: [Severity; 24] = [
        S::Trace,
        S::Trace2,
        S::Trace3,
        S::Trace4,
        S::Debug,
        S::Debug2,
        S::Debug3,
        S::Debug4,
        S::Info,
        S::Info2,
        S::Info3,
        S::Info4,
        S::Warn,
        S::Warn2,
        S::Warn3,
        S::Warn4,
        S::Error,
        S::Error2,
        S::Error3,
        S::Error4,
        S::Fatal,
        S::Fatal2,
        S::Fatal3,
        S::Fatal4,
    ];
    ALL.get(usize::from(number).checked_sub(1)?).copied()
}

fn scope(scope: Option<&Scope>) -> InstrumentationScope {
    let Some(scope) = scope else { return InstrumentationScope::default() };
    let attributes = scope.attributes.iter().map(|(name, value)| {
        let value: opentelemetry::Value = match value {
            Value::Bool(value) => (*value).into(),
            Value::Int(number) => (*number).into(),
            Value::Double(number) => (*number).into(),
            Value::String(text) => text.as_str().to_owned().into(),
            // Scopes have attributes of plain values only.
            other => serde_json::to_string(other).unwrap_or_default().into(),
        };
        KeyValue::new(name.as_str().to_owned(), value)
    });
    let mut builder = InstrumentationScope::builder(scope.name.as_str().to_owned()).with_attributes(attributes);
    if let Some(version) = &scope.version {
        builder = builder.with_version(version.as_str().to_owned());
    }
    builder.build()
}

/// A value as the SDK has it, which has none for nothing.
fn any_value(value: &Value) -> Option<AnyValue> {
    let members = |entries: &[(Text, Value)]| -> HashMap<Key, AnyValue> {
        let member = |(name, value): &(Text, Value)| Some((Key::from(name.as_str().to_owned()), any_value(value)?));
        entries.iter().filter_map(member).collect()
    };
    Some(match value {
        Value::Null => return None,
        Value::Bool(value) => AnyValue::Boolean(*value),
        Value::Int(number) => AnyValue::Int(*number),
        Value::Double(number) => AnyValue::Double(*number),
        Value::String(text) => AnyValue::String(text.as_str().to_owned().into()),
        Value::Bytes(bytes) => AnyValue::Bytes(Box::new(bytes.to_vec())),
        Value::Array(values) => AnyValue::ListAny(Box::new(values.iter().filter_map(any_value).collect())),
        Value::Map(entries) => AnyValue::Map(Box::new(members(entries))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use logship_core::{Cursor, Page, PageEnd, Partition, RecordId, Resource};
    use opentelemetry_sdk::error::OTelSdkResult;
    use std::sync::Mutex;

    /// Keeps what it was given, and answers as it was told.
    #[derive(Debug)]
    struct Kept(Mutex<Vec<(SdkLogRecord, InstrumentationScope)>>, Mutex<Option<OTelSdkError>>);

    impl LogExporter for Kept {
        async fn export(&self, batch: LogBatch<'_>) -> OTelSdkResult {
            let records = batch.iter().map(|(record, scope)| (record.clone(), scope.clone()));
            self.0.lock().unwrap().extend(records);
            self.1.lock().unwrap().take().map_or(Ok(()), Err)
        }
    }

    fn chunk() -> Chunk {
        let partition = Partition::new("logs");
        let mut record = LogRecord::new(
            RecordId::new(partition.clone(), Cursor::number(7)),
            Timestamp::from_millis(1_795_163_400_123),
        );
        record.severity = logship_core::Severity::WARN;
        record.severity_text = Some("Achtung".into());
        record.body = Value::Map(vec![("a".into(), 1.into()), ("nothing".into(), Value::Null)]);
        record.attributes = vec![("flow".into(), "pay".into())];
        record.resource =
            Arc::new(Resource { attributes: vec![("service.name".into(), "s".into()), ("flow".into(), 1.5.into())] });
        let attributes = vec![("list".into(), Value::Array(vec![1.into()]))];
        record.scope = Some(Arc::new(Scope { name: "logger".into(), version: Some("1".into()), attributes }));
        record.trace_id = Some([7; 16]);
        let mut other = record.clone();
        other.scope = None;
        other.timestamp = Timestamp::from_nanos(-1);
        Chunk::of_page(Page::new(partition, vec![record, other], PageEnd::More), None).unwrap()
    }

    #[tokio::test]
    async fn a_record_says_to_the_sdk_all_that_the_sdk_can_say() {
        let exporter = SdkExporter::new(Kept(Mutex::default(), Mutex::default()));
        assert_eq!(exporter.export(&chunk()).await.unwrap(), Outcome::all_accepted(2));
        let kept = exporter.exporter.0.lock().unwrap();
        let (record, scope) = &kept[0];
        assert_eq!((scope.name(), scope.version()), ("logger", Some("1")));
        assert_eq!(scope.attributes().next().unwrap().value.as_str(), "[1]");
        assert_eq!(record.timestamp(), Some(SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_163_400_123)));
        assert_eq!(record.observed_timestamp(), record.timestamp());
        assert_eq!((record.severity_number(), record.severity_text()), (Some(Severity::Warn), Some("WARN")));
        let body: HashMap<Key, AnyValue> = [("a".into(), 1.into())].into();
        assert_eq!(record.body(), Some(&AnyValue::Map(Box::new(body))));
        assert_eq!(record.trace_context().unwrap().trace_id, TraceId::from_bytes([7; 16]));
        let mut attributes: Vec<String> =
            record.attributes_iter().map(|(name, value)| format!("{name} {value:?}")).collect();
        attributes.sort();
        let expected = [
            r#"flow String(Owned("pay"))"#,
            r#"log.record.severity_text String(Owned("Achtung"))"#,
            r#"log.record.uid String(Owned("logs:00000000000000000007"))"#,
            "resource.flow Double(1.5)",
            r#"service.name String(Owned("s"))"#,
        ];
        assert_eq!(attributes, expected);
        assert_eq!(kept[1].1, InstrumentationScope::default());
        assert!(kept[1].0.timestamp().unwrap() < SystemTime::UNIX_EPOCH);
    }

    #[tokio::test]
    async fn an_error_leaves_the_outcome_unknown_and_shows_no_address() {
        let failing = |error| SdkExporter::new(Kept(Mutex::default(), Mutex::new(Some(error))));
        let text = "cannot send for url (http://host/?key=s3cret) status code: 429".to_owned();
        let error = failing(OTelSdkError::InternalFailure(text)).export(&chunk()).await.unwrap_err();
        assert_eq!((error.kind(), error.certainty()), (ErrorKind::Unavailable, Certainty::Unknown));
        assert_eq!(error.advice(), Advice::After(None));
        assert!(error.to_string().contains("429") && !error.to_string().contains("s3cret"), "{error}");
        let error = failing(OTelSdkError::Timeout(Duration::from_secs(1))).export(&chunk()).await.unwrap_err();
        assert_eq!((error.kind(), error.certainty()), (ErrorKind::Timeout, Certainty::Unknown));
        let error = failing(OTelSdkError::AlreadyShutdown).export(&chunk()).await.unwrap_err();
        assert_eq!(error.advice(), Advice::Never);
    }

    #[test]
    fn every_severity_has_its_number() {
        assert_eq!(severity(0), None);
        (1..=24).for_each(|number| assert_eq!(severity(number).map(|severity| severity as u8), Some(number)));
        assert_eq!(severity(25), None);
    }
}
