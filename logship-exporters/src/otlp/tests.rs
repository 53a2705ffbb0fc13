use std::sync::Arc;

use logship_core::{
    Chunk, Cursor, LogRecord, Page, PageEnd, Partition, RecordId, Resource, Scope, Severity, Text, Timestamp, Value,
};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Kind;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use proptest::prelude::*;
use prost::Message;
use serde_json::json;

use super::*;

fn record(number: i64) -> LogRecord {
    let id = RecordId::new(Partition::new("logs"), Cursor::number(number));
    let mut record = LogRecord::new(id, Timestamp::from_nanos(1_795_163_400_123_456_789 + number));
    record.body = format!("text {number}").into();
    record
}

fn chunk(records: Vec<LogRecord>, encoding: &dyn Encoding) -> Chunk {
    Chunk::of_page(Page::new(Partition::new("logs"), records, PageEnd::More), Some(encoding)).unwrap()
}

/// What another decoder reads from the body of these records, in both forms.
fn decoded(records: &[LogRecord], with_uid: bool) -> [ExportLogsServiceRequest; 2] {
    let protobuf = chunk(records.to_vec(), &Protobuf::new(with_uid, Compression::None));
    let json = chunk(records.to_vec(), &Json::new(with_uid, Compression::None));
    let json = &json.body().unwrap().bytes();
    [
        ExportLogsServiceRequest::decode(protobuf.body().unwrap().bytes()).unwrap(),
        serde_json::from_slice(json).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(json))),
    ]
}

/// A value of ours that another decoder read.
fn value(read: Option<&AnyValue>) -> Value {
    match read.and_then(|value| value.value.as_ref()) {
        None => Value::Null,
        Some(Kind::StringValue(text)) => text.as_str().into(),
        Some(Kind::BoolValue(value)) => (*value).into(),
        Some(Kind::IntValue(number)) => (*number).into(),
        Some(Kind::DoubleValue(number)) => (*number).into(),
        Some(Kind::ArrayValue(values)) => Value::Array(values.values.iter().map(|inner| value(Some(inner))).collect()),
        Some(Kind::KvlistValue(members)) => Value::Map(entries(&members.values)),
        Some(Kind::BytesValue(bytes)) => Value::Bytes(bytes.clone().into()),
        Some(other) => panic!("nothing of ours: {other:?}"),
    }
}

fn entries(read: &[KeyValue]) -> Vec<(Text, Value)> {
    read.iter().map(|entry| (entry.key.as_str().into(), value(entry.value.as_ref()))).collect()
}

/// The records of ours that another decoder read, in order.
fn read_back(request: &ExportLogsServiceRequest) -> Vec<LogRecord> {
    let mut records = Vec::new();
    for of_resource in &request.resource_logs {
        let resource = of_resource.resource.as_ref().map(|resource| entries(&resource.attributes)).unwrap_or_default();
        for of_scope in &of_resource.scope_logs {
            for read in &of_scope.log_records {
                let mut record = record(records.len() as i64);
                record.timestamp = Timestamp::from_nanos(read.time_unix_nano as i64);
                let observed = read.observed_time_unix_nano;
                record.observed_timestamp = (observed > 0).then_some(Timestamp::from_nanos(observed as i64));
                record.severity = Severity::from_number(read.severity_number as u8).unwrap();
                record.severity_text = (!read.severity_text.is_empty()).then(|| read.severity_text.as_str().into());
                record.body = value(read.body.as_ref());
                record.attributes = entries(&read.attributes);
                record.resource = Arc::new(Resource { attributes: resource.clone() });
                record.scope = of_scope.scope.as_ref().map(|scope| {
                    let version = (!scope.version.is_empty()).then(|| scope.version.as_str().into());
                    let attributes = entries(&scope.attributes);
                    Arc::new(Scope { name: scope.name.as_str().into(), version, attributes })
                });
                record.trace_id = (!read.trace_id.is_empty()).then(|| read.trace_id.as_slice().try_into().unwrap());
                record.span_id = (!read.span_id.is_empty()).then(|| read.span_id.as_slice().try_into().unwrap());
                assert_eq!((read.flags, read.dropped_attributes_count), (0, 0));
                records.push(record);
            }
        }
    }
    records
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        // The other reader of JSON rounds what has more digits.
        any::<i32>().prop_map(|number| Value::from(f64::from(number) / 64.0)),
        "(\\PC|[\\x00-\\x1f\"]){0,6}|x{120,300}".prop_map(Value::from),
        prop::collection::vec(any::<u8>(), 0..5).prop_map(|bytes| Value::Bytes(bytes.into())),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            prop::collection::btree_map("[a-zé.]{0,4}", inner, 0..4).prop_map(|members| {
                Value::Map(members.into_iter().map(|(name, value)| (name.as_str().into(), value)).collect())
            }),
        ]
    })
}

prop_compose! {
    fn any_attributes()(members in prop::collection::btree_map(".{0,6}", any_value(), 0..4)) -> Vec<(Text, Value)> {
        members.into_iter().map(|(name, value)| (name.as_str().into(), value)).collect()
    }
}

prop_compose! {
    fn any_record(resources: Vec<Arc<Resource>>, scopes: Vec<Option<Arc<Scope>>>)(
        time in 1..i64::MAX, observed in prop::option::of(1..i64::MAX), severity in 0u8..=24,
        severity_text in prop::option::of("[A-Zé]{1,5}"), body in any_value(), attributes in any_attributes(),
        trace_id: Option<[u8; 16]>, span_id: Option<[u8; 8]>,
        resource in prop::sample::select(resources), scope in prop::sample::select(scopes),
    ) -> LogRecord {
        let mut record = record(0);
        record.timestamp = Timestamp::from_nanos(time);
        record.observed_timestamp = observed.map(Timestamp::from_nanos);
        record.severity = Severity::from_number(severity).unwrap();
        record.severity_text = severity_text.map(Text::from);
        (record.body, record.attributes) = (body, attributes);
        (record.resource, record.scope) = (resource, scope);
        (record.trace_id, record.span_id) = (trace_id, span_id);
        record
    }
}

prop_compose! {
    /// Records of few resources and scopes, so that neighbours share some.
    fn any_records()(
        resources in prop::collection::vec(any_attributes(), 1..3),
        scopes in prop::collection::vec((".{0,3}", prop::option::of("[0-9.]{1,3}"), any_attributes()), 1..3),
    )(records in prop::collection::vec(any_record(
        resources.iter().map(|attributes| Arc::new(Resource { attributes: attributes.clone() })).collect(),
        scopes.iter().map(|(name, version, attributes)| Some(Arc::new(Scope {
            name: name.as_str().into(), version: version.clone().map(Text::from), attributes: attributes.clone(),
        }))).chain([None]).collect(),
    ), 1..12)) -> Vec<LogRecord> {
        records
    }
}

proptest! {
    /// Goal: nothing is lost on the way to any other reader. Method: the reader that OpenTelemetry generates.
    #[test]
    fn another_reader_reads_back_all_that_a_record_says(records in any_records()) {
        for request in decoded(&records, false) {
            let mut expected = records.clone();
            for (number, record) in expected.iter_mut().enumerate() {
                record.id = self::record(number as i64).id;
                if record.severity.number() > 0 {
                    record.severity_text = Some(record.severity_name().into());
                }
            }
            prop_assert_eq!(read_back(&request), expected);
            prop_assert!(request.resource_logs.iter().all(|of| of.scope_logs.iter().all(|of| !of.log_records.is_empty())));
        }
    }
}

/// Goal: lengths that are written behind what they are of take no more room than they need.
#[test]
fn every_length_has_as_few_digits_as_it_can() {
    for len in [0, 40, 80, 100, 119, 120, 121, 127, 128, 129, 16_100, 16_250, 16_300, 16_383, 16_384, 2_097_152] {
        let text = || Value::from("x".repeat(len));
        let inner = Value::Map(vec![("b".into(), text()), ("c".into(), Value::Array(vec![text(), 1.into()]))]);
        for (body, value) in [(Value::Null, 1.into()), (text(), Value::Null), (text(), text()), (Value::Null, inner)] {
            let mut record = record(1);
            record.body = body;
            record.attributes = vec![("a".into(), value.clone())];
            record.resource = Arc::new(Resource { attributes: vec![("a".into(), value)] });
            let chunk = chunk(vec![record], &Protobuf::new(true, Compression::None));
            let bytes = chunk.body().unwrap().bytes();
            let request = ExportLogsServiceRequest::decode(bytes.clone()).unwrap();
            assert_eq!(request.encoded_len(), bytes.len(), "{len}");
        }
    }
}

#[test]
fn numbers_that_are_not_finite_keep_what_they_are() {
    let mut odd = record(1);
    odd.body = Value::Array(vec![f64::NAN.into(), f64::INFINITY.into(), f64::NEG_INFINITY.into(), (-0.0).into()]);
    let protobuf = chunk(vec![odd.clone()], &Protobuf::new(true, Compression::None));
    let request = ExportLogsServiceRequest::decode(protobuf.body().unwrap().bytes()).unwrap();
    let body = format!("{:?}", value(request.resource_logs[0].scope_logs[0].log_records[0].body.as_ref()));
    assert_eq!(body, "Array([Double(NaN), Double(inf), Double(-inf), Double(-0.0)])");
    let json = chunk(vec![odd], &Json::new(true, Compression::None));
    let json: serde_json::Value = serde_json::from_slice(&json.body().unwrap().bytes()).unwrap();
    let values = &json["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0]["body"]["arrayValue"]["values"];
    let expected = json!([{"doubleValue": "NaN"}, {"doubleValue": "Infinity"}, {"doubleValue": "-Infinity"}, {"doubleValue": -0.0}]);
    assert_eq!(*values, expected);
}

#[test]
fn json_has_the_form_that_the_specification_shows() {
    let mut record = record(1);
    record.severity = Severity::WARN;
    record.attributes = vec![("attempt".into(), 1.into())];
    record.resource = Arc::new(Resource { attributes: vec![("service.name".into(), "checkout".into())] });
    record.scope = Some(Arc::new(Scope { name: "logger".into(), ..Scope::default() }));
    record.trace_id = Some([0xab; 16]);
    let chunk = chunk(vec![record], &Json::new(true, Compression::None));
    let read: serde_json::Value = serde_json::from_slice(&chunk.body().unwrap().bytes()).unwrap();
    let expected = json!({"resourceLogs": [{
        "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "checkout"}}]},
        "scopeLogs": [{"scope": {"name": "logger"}, "logRecords": [{
            "timeUnixNano": "1795163400123456790", "severityNumber": 13, "severityText": "WARN",
            "body": {"stringValue": "text 1"}, "traceId": "abababababababababababababababab",
            "attributes": [
                {"key": "attempt", "value": {"intValue": "1"}},
                {"key": "log.record.uid", "value": {"stringValue": "logs:00000000000000000001"}},
            ],
        }]}],
    }]});
    assert_eq!(read, expected);
}

#[test]
fn neighbours_of_one_resource_and_scope_are_sent_under_one() {
    let resource = |name: &str| Arc::new(Resource { attributes: vec![("service.name".into(), name.into())] });
    let scope = |name: &str| Some(Arc::new(Scope { name: name.into(), ..Scope::default() }));
    // Equal ones of two pages are not the same in memory.
    let of = [("a", "x"), ("a", "x"), ("a", "y"), ("b", "y"), ("b", "y"), ("a", "x")];
    let records = of.iter().enumerate().map(|(number, (name, logger))| {
        let mut record = record(number as i64);
        (record.resource, record.scope) = (resource(name), scope(logger));
        record
    });
    for request in decoded(&records.collect::<Vec<_>>(), true) {
        let counts: Vec<usize> = request.resource_logs.iter().map(|of| of.scope_logs[0].log_records.len()).collect();
        assert_eq!(counts, [2, 1, 2, 1]);
        assert!(request.resource_logs.iter().all(|of| of.scope_logs.len() == 1));
    }
}

#[test]
fn values_of_one_name_become_one_array_and_none_is_lost() {
    let names = |count: usize| -> Vec<(Text, Value)> {
        (0..count).map(|number| (format!("n{}", number % 2).as_str().into(), (number as i64).into())).collect()
    };
    for count in [3, 20] {
        let mut twice = record(1);
        twice.attributes = names(count);
        twice.body = Value::Map(names(count));
        twice.resource = Arc::new(Resource { attributes: names(count) });
        let array = |odd: i64| Value::Array((0..count as i64).filter(|n| n % 2 == odd).map(Value::from).collect());
        let odd = if count == 3 { 1.into() } else { array(1) };
        let expected = vec![("n0".into(), array(0)), ("n1".into(), odd)];
        for request in decoded(&[twice], false) {
            let read = read_back(&request).remove(0);
            assert_eq!(read.attributes, expected);
            assert_eq!(read.body, Value::Map(expected.clone()));
            assert_eq!(read.resource.attributes, expected);
        }
    }
}

#[test]
fn a_record_that_names_itself_keeps_its_name() {
    let mut named = record(1);
    named.attributes = vec![("log.record.uid".into(), "own".into())];
    for request in decoded(&[named, record(2)], true) {
        let uids: Vec<Value> =
            read_back(&request).iter().map(|r| r.attribute("log.record.uid").unwrap().clone()).collect();
        assert_eq!(uids, ["own".into(), Value::from("logs:00000000000000000002")]);
    }
}

#[test]
fn what_has_no_form_is_refused_and_what_other_readers_take_is_not() {
    let nested = |depth: usize, is_map: bool| {
        (0..depth).fold(Value::Null, |inner, _| match is_map {
            true => Value::Map(vec![("a".into(), inner)]),
            false => Value::Array(vec![inner]),
        })
    };
    let encodings: [Box<dyn Encoding>; 2] =
        [Box::new(Protobuf::new(true, Compression::None)), Box::new(Json::new(true, Compression::None))];
    for is_map in [false, true] {
        let mut deep = record(1);
        deep.attributes = vec![("a".into(), nested(28, is_map))];
        deep.resource = Arc::new(Resource { attributes: vec![("a".into(), nested(28, is_map))] });
        for request in decoded(std::slice::from_ref(&deep), false) {
            assert_eq!(read_back(&request)[0].attributes[0].1, nested(28, is_map));
        }
        let mut resource = record(1);
        resource.resource = Arc::new(Resource { attributes: vec![("a".into(), nested(29, is_map))] });
        let mut body = record(1);
        body.body = nested(2_000, is_map);
        let mut old = record(1);
        old.timestamp = Timestamp::from_nanos(-1);
        for encoding in &encodings {
            for (refused, why) in [(&resource, "28"), (&body, "28"), (&old, "1970")] {
                let error = encoding.record(refused, &mut Vec::new()).unwrap_err();
                assert!(error.reason.contains(why), "{error:?}");
            }
        }
    }
}

fn exporter(fields: serde_json::Value) -> Result<Otlp, Error> {
    let serde_json::Value::Object(fields) = fields else { panic!("fields are a map") };
    Otlp::new(read_fields(fields)?, BuildContext::default())
}

#[test]
fn an_address_without_a_path_gets_the_usual_one() {
    for (endpoint, protocol, expected) in [
        ("http://host:4318", "http_protobuf", "http://host:4318/v1/logs"),
        ("http://host:4318/", "http_json", "http://host:4318/v1/logs"),
        ("https://host/otlp/v1/logs?x=1", "http_json", "https://host/otlp/v1/logs?x=1"),
        ("http://host:4317", "grpc", "http://host:4317/opentelemetry.proto.collector.logs.v1.LogsService/Export"),
    ] {
        let exporter = exporter(json!({"endpoint": endpoint, "protocol": protocol})).unwrap();
        assert_eq!(exporter.url.as_str(), expected);
    }
}

#[test]
fn a_wrong_configuration_is_refused_before_anything_is_sent() {
    let url = "http://user:hunter2@localhost";
    for (fields, field) in [
        (json!({}), "endpoint"),
        (json!({"endpoint": "localhost:4317"}), "endpoint"),
        (json!({"endpoint": "http://user:hunter2@localhost/v1/logs", "protocol": "grpc"}), "endpoint"),
        (json!({"endpoint": url, "protocol": "smoke"}), "protocol"),
        (json!({"endpoint": url, "headers": {"Authorization": "hunter2"}}), "headers.authorization"),
        (json!({"endpoint": url, "headers": {"a b": "hunter2"}}), "headers.a b"),
        (json!({"endpoint": url, "headers": {"x": "hunter2\n"}}), "headers.x"),
        (json!({"endpoint": url, "headers": {"x": "hunter2", "X": "hunter2"}}), "headers.x"),
        (json!({"endpoint": url, "headers": {"Content-Type": "x"}}), "headers.Content-Type"),
        (json!({"endpoint": url, "headers": {"grpc-timeout": "1S"}}), "headers.grpc-timeout"),
        (json!({"endpoint": url, "chunk_bytes_max": 0}), "chunk_bytes_max"),
        (json!({"endpoint": url, "chunk_bytes_max": 67_108_865}), "chunk_bytes_max"),
        (json!({"endpoint": url, "compression": "lz4"}), "compression"),
        (json!({"endpoint": url, "retries": 3}), "retries"),
        (json!({"endpoint": {"env": "LOGSHIP_TEST_NOT_SET"}}), "LOGSHIP_TEST_NOT_SET"),
    ] {
        let shown = fields.to_string();
        let error = exporter(fields).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{shown}");
        assert!(error.to_string().contains(field), "{shown}: {error}");
        assert!(!format!("{error:?}").contains("hunter2"), "{shown}: {error}");
    }
}
