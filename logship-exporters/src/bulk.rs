//! The body of a `_bulk` request and what its answer says, as Elasticsearch and OpenSearch share them
//! (<https://www.elastic.co/docs/api/doc/elasticsearch/operation/operation-bulk>).

use std::borrow::Cow;

use logship_core::{
    Advice, Certainty, Compression, Encoding, Error, ErrorKind, LogRecord, Outcome, RecordId, Unencodable,
};
use serde::Deserialize;

use crate::dated::Dated;
use crate::ecs::document;
use crate::encode::json;
use crate::fnv::Fnv128;

/// The longest `_id`, in bytes.
/// <https://www.elastic.co/docs/reference/elasticsearch/mapping-reference/mapping-id-field>
const ID_BYTES_MAX: usize = 512;

/// How much of the destination's own words about a record is kept.
const REASON_BYTES_MAX: usize = 4096;

/// Refuses what cannot be an index. Stricter than
/// <https://www.elastic.co/docs/api/doc/elasticsearch/operation/operation-indices-create>, so that a name can stand in an
/// address as it is.
pub(crate) fn check_index(index: &str) -> Result<(), Error> {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-+@%".contains(c);
    let name = index.replace("%Y", "").replace("%H", "");
    if index.len() > 255
        || !name.chars().all(is_plain)
        || name.starts_with(['-', '_', '+', '%'])
        || matches!(name.as_str(), "" | "." | "..")
    {
        let message = format!(
            "`{index}` cannot be an index: use at most 255 bytes of lower-case letters, digits, `.`, `-` and `_`, beginning with a letter, digit or `.`"
        );
        return Err(Error::config("index", message));
    }
    Ok(())
}

/// Writes records as `create` actions with documents in the Elastic Common Schema
/// (<https://www.elastic.co/docs/reference/ecs>).
#[derive(Debug)]
pub(crate) struct BulkEncoding {
    pub(crate) index: Option<Dated>,
    pub(crate) ids: bool,
    pub(crate) compression: Compression,
    key: String,
}

impl BulkEncoding {
    pub(crate) fn new(index: Option<Dated>, ids: bool, compression: Compression) -> Self {
        let key = format!("elasticsearch bulk, index {index:?}, ids {ids}, {compression:?}");
        BulkEncoding { index, ids, compression, key }
    }
}

impl Encoding for BulkEncoding {
    fn key(&self) -> &str {
        &self.key
    }

    fn record(&self, record: &LogRecord, out: &mut Vec<u8>) -> Result<(), Unencodable> {
        out.extend_from_slice(b"{\"create\":{");
        if let Some(index) = &self.index {
            out.extend_from_slice(b"\"_index\":\"");
            index.write(record.timestamp, out);
            out.extend_from_slice(if self.ids { b"\"," } else { b"\"" });
        }
        if !self.ids {
            out.extend_from_slice(b"}}\n");
            document(record, |out| write_id(&record.id, out), out)?;
        } else {
            out.extend_from_slice(b"\"_id\":");
            let begin = out.len();
            write_id(&record.id, out);
            let written = begin..out.len();
            out.extend_from_slice(b"}}\n");
            document(record, |out| out.extend_from_within(written.clone()), out)?;
        }
        out.push(b'\n');
        Ok(())
    }

    fn compression(&self) -> Compression {
        self.compression
    }
}

/// Appends a record's id in quotes, or, where that is too long for an `_id`, its 128-bit FNV-1a hash in hexadecimal: as
/// stable as the id itself.
fn write_id(id: &RecordId, out: &mut Vec<u8>) {
    if id.len() <= ID_BYTES_MAX {
        return json::id(out, id);
    }
    json::string(out, &Fnv128::new().with(id.to_string().as_bytes()).to_string());
}

/// The parts of an answer that decide over records: what remains of it under the `filter_path` we ask for.
#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    items: Vec<Item<'a>>,
}

/// One item, under the name of its action.
#[derive(Deserialize)]
struct Item<'a> {
    #[serde(borrow)]
    create: Verdict<'a>,
}

#[derive(Deserialize)]
struct Verdict<'a> {
    status: u16,
    #[serde(borrow, default)]
    error: Option<Cause<'a>>,
    #[serde(borrow, default)]
    failure_store: Cow<'a, str>,
}

/// Why something was refused.
#[derive(Deserialize)]
struct Cause<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(default)]
    reason: Option<String>,
    #[serde(borrow, default)]
    caused_by: Option<Box<Cause<'a>>>,
}

impl Cause<'_> {
    /// Elasticsearch's own words, those of the causes included.
    fn words(&self) -> String {
        let mut words = String::new();
        let mut next = Some(self);
        while let Some(cause) = next {
            if !words.is_empty() {
                words.push_str("; caused by ");
                words.push_str(&cause.kind);
                words.push_str(": ");
            }
            words.push_str(cause.reason.as_deref().unwrap_or("no reason given"));
            next = cause.caused_by.as_deref();
        }
        words.truncate(words.floor_char_boundary(REASON_BYTES_MAX));
        words
    }
}

/// What an item says about its record.
enum Fate {
    Accepted,
    AlreadyThere,
    Diverted,
    Retry,
    Rejected,
    /// Not about this record but about how we were set up.
    Stop(ErrorKind, &'static str),
}

impl Verdict<'_> {
    fn fate(&self) -> Fate {
        let (kind, reason) = match &self.error {
            Some(cause) => (cause.kind.as_ref(), cause.reason.as_deref().unwrap_or_default()),
            None => ("", ""),
        };
        match (self.status, kind) {
            (200 | 201, _) if self.failure_store == "used" => Fate::Diverted,
            (200 | 201, _) => Fate::Accepted,
            // It is there already: that is what `create` with an id is for.
            (409, _) => Fate::AlreadyThere,
            (429 | 500.., _) => Fate::Retry,
            // Read-only, often because a disk is full: over when somebody makes room.
            (_, "cluster_block_exception") => Fate::Retry,
            (401, _) | (403, "security_exception") => {
                Fate::Stop(ErrorKind::Auth, "the credentials do not allow to write to this index")
            }
            (_, "index_not_found_exception") => {
                Fate::Stop(ErrorKind::NotFound, "the index does not exist and is not made on first use; create it")
            }
            (_, "index_closed_exception") => Fate::Stop(ErrorKind::Config, "the index is closed; open it"),
            (400, "illegal_argument_exception") if reason.contains("op_type") => {
                Fate::Stop(ErrorKind::Config, "the index does not take `create`")
            }
            // Collections of time series and vectors at Amazon OpenSearch Serverless make ids of their own.
            // <https://docs.aws.amazon.com/opensearch-service/latest/developerguide/serverless-overview.html>
            (400, "illegal_argument_exception") if reason.starts_with("Document ID is not supported") => {
                Fate::Stop(ErrorKind::Config, "the collection takes no ids: set `ids` to false")
            }
            _ => Fate::Rejected,
        }
    }
}

/// What became of each of `records` records, by the body of an answer with a status of success.
pub(crate) fn outcome(operation: &'static str, body: &[u8], records: usize) -> Result<Outcome, Error> {
    let unclear = |message: String| {
        Error::new(ErrorKind::Protocol, operation, message).advise(Advice::After(None)).certainty_is(Certainty::Unknown)
    };
    if all_created(body, records) {
        return Ok(Outcome::all_accepted(records));
    }
    let answer: Answer<'_> = serde_json::from_slice(body).map_err(|error| {
        unclear("the answer is not that of a bulk request; is there a proxy in between?".to_owned())
            .with("answer", Error::excerpt(body))
            .with_source(error)
    })?;
    // Items have no name but their place, so an answer of another length says nothing about any record.
    if answer.items.len() != records {
        return Err(unclear(format!("the answer is about {} records, the request had {records}", answer.items.len())));
    }

    let mut outcome = Outcome::builder(records);
    let mut stops = 0;
    let mut stop = None;
    for (index, item) in answer.items.iter().enumerate() {
        match item.create.fate() {
            Fate::Accepted => outcome.accepted(index),
            Fate::AlreadyThere => outcome.already_there(index),
            Fate::Diverted => outcome.diverted(index),
            Fate::Retry => outcome.retry(index),
            Fate::Rejected => {
                let verdict = &item.create;
                let (code, reason) = match &verdict.error {
                    Some(cause) => (format!("{} {}", verdict.status, cause.kind), cause.words()),
                    None => (verdict.status.to_string(), "no reason given".to_owned()),
                };
                outcome.rejected(index, code, reason);
            }
            Fate::Stop(kind, what) => {
                outcome.retry(index);
                stops += 1;
                stop = stop.or(Some((kind, what, &item.create)));
            }
        }
    }
    match stop {
        // As long as some record has another fate it is named first; what is left is sent again and stops then.
        Some((kind, what, verdict)) if stops == records => {
            let words = verdict.error.as_ref().map(Cause::words).unwrap_or_default();
            Err(Error::new(kind, operation, what).with("answer", Error::excerpt(words.as_bytes())))
        }
        _ => Ok(outcome.build()),
    }
}

/// Whether an answer is, to the letter, the one to a request of which every document was created. Almost all are, and
/// to compare costs less than to read.
fn all_created(body: &[u8], records: usize) -> bool {
    const ITEM: &[u8] = br#"{"create":{"status":201}}"#;
    const HEAD_BYTES_MAX: usize = 128;
    const ITEMS: &[u8] = br#""items":["#;
    let Some(at) = memchr::memmem::find(&body[..body.len().min(HEAD_BYTES_MAX)], ITEMS) else { return false };
    let Some(items) = body[at + ITEMS.len()..].strip_suffix(b"]}") else { return false };
    if memchr::memmem::find(&body[..at], br#""errors":false"#).is_none() {
        return false;
    }
    let len = ITEM.len() + 1;
    items.len() + 1 == records * len && items.chunks(len).all(|item| item.strip_suffix(b",").unwrap_or(item) == ITEM)
}

/// What an answer says that is about the request as a whole, such as `security_exception: missing authentication`.
pub(crate) fn whole_error(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Whole<'a> {
        #[serde(borrow)]
        error: Cause<'a>,
    }
    match serde_json::from_slice::<Whole<'_>>(body) {
        Ok(whole) => Error::excerpt(format!("{}: {}", whole.error.kind, whole.error.words()).as_bytes()),
        Err(_) => Error::excerpt(body),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use logship_core::{Cursor, Partition, Resource, Scope, Severity, Timestamp, Value};
    use proptest::prelude::*;

    use super::*;
    use crate::ecs::unplanned;
    use crate::encode::shape::tests::pairs;

    fn outcome(body: &[u8], records: usize) -> Result<Outcome, Error> {
        super::outcome("test bulk", body, records)
    }

    fn record() -> LogRecord {
        let id = RecordId::new(Partition::new("logs"), Cursor::new(7, "k1".into()));
        let mut record = LogRecord::new(id, Timestamp::parse("2026-11-20T23:59:59.123456789Z").unwrap());
        record.observed_timestamp = Some(Timestamp::parse("2026-11-21T00:00:01Z").unwrap());
        record.severity = Severity::NOTICE;
        record.body = "card \"declined\"\n\u{1}ä".into();
        record.attributes = vec![
            ("k8s.pod".into(), "p-1".into()),
            ("thread".into(), "main".into()),
            ("process.pid".into(), 42.into()),
            ("attempt".into(), 2.into()),
            ("k8s_pod".into(), "second of the name".into()),
            ("nested".into(), Value::Map(vec![("a".into(), Value::Array(vec![1.into(), true.into()]))])),
            ("nothing".into(), Value::Null),
            ("exception.type".into(), "IOException".into()),
            ("ratio".into(), f64::NAN.into()),
        ];
        record.resource = Arc::new(Resource {
            attributes: vec![
                ("service.name".into(), "checkout".into()),
                ("host.name".into(), "web-1".into()),
                ("attempt".into(), "of the resource".into()),
                ("region".into(), "eu".into()),
            ],
        });
        record.scope = Some(Arc::new(Scope { name: "shop.Pay".into(), ..Scope::default() }));
        record.trace_id = Some([0xab; 16]);
        record.span_id = Some([1, 2, 3, 4, 5, 6, 7, 8]);
        record
    }

    fn encoded(record: &LogRecord, index: &str, ids: bool) -> String {
        let encoding = BulkEncoding::new(Dated::parse(index).unwrap(), ids, Compression::None);
        let mut out = Vec::new();
        encoding.record(record, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn an_answer_is_compared_only_where_it_is_the_usual_one_to_the_letter() {
        let created = r#"{"create":{"status":201}}"#;
        let answer = |head: &str, items: &[&str]| format!("{{{head}\"items\":[{}]}}", items.join(","));
        let usual = answer(r#""took":5,"errors":false,"#, &[created, created]);
        assert!(all_created(usual.as_bytes(), 2));
        assert!(!all_created(usual.as_bytes(), 1) && !all_created(usual.as_bytes(), 3));
        assert!(!all_created(&usual.as_bytes()[..usual.len() - 1], 2));
        for (head, items) in [
            (r#""errors":true,"#, [created, created]),
            ("", [created, created]),
            (r#""errors":false,"#, [created, r#"{"create":{"status":429}}"#]),
            (r#""errors":false,"#, [r#"{"create":{"status":409}}"#, created]),
        ] {
            let answer = answer(head, &items);
            assert!(!all_created(answer.as_bytes(), 2), "{answer}");
        }
        assert!(!all_created(b"{}", 0) && !all_created(b"", 0));
    }

    #[test]
    fn a_record_is_a_create_action_and_an_ecs_document() {
        let document = concat!(
            r#"{"@timestamp":"2026-11-20T23:59:59.123456789Z","message":"card \"declined\"\n\u0001ä","#,
            r#""event":{"id":"logs:00000000000000000007/k1","created":"2026-11-21T00:00:01.000000000Z"},"#,
            r#""log":{"level":"info","logger":"shop.Pay"},"service":{"name":"checkout"},"host":{"name":"web-1"},"#,
            r#""error":{"type":"IOException"},"process":{"pid":42,"thread":{"name":"main"}},"#,
            r#""trace":{"id":"abababababababababababababababab"},"span":{"id":"0102030405060708"},"#,
            r#""labels":{"k8s_pod":"p-1","attempt":"2","nested":"{\"a\":[1,true]}","ratio":"NaN","region":"eu"}}"#,
            "\n"
        );
        let action = "{\"create\":{\"_id\":\"logs:00000000000000000007/k1\"}}\n";
        assert_eq!(encoded(&record(), "logs", true), format!("{action}{document}"));
        assert_eq!(encoded(&record(), "logs", false), format!("{{\"create\":{{}}}}\n{document}"));
    }

    /// Goal: a record of very many attributes takes its length, not its square. Method: what would take hours.
    #[test]
    fn very_many_attributes_are_each_named_once() {
        let mut record = record();
        let name = |number: usize| format!("field.{number}").into();
        record.attributes = (0..300_000).map(|number| (name(number % 200_000), (number as i64).into())).collect();
        record.attributes.push(("field_7".into(), "again".into()));
        let line = encoded(&record, "logs", false);
        let document: serde_json::Value = serde_json::from_str(line.lines().nth(1).unwrap()).unwrap();
        assert_eq!(document["labels"]["field_199999"], "199999");
        assert_eq!((line.matches("\"field_7\":").count(), line.matches("\"field_").count()), (1, 200_000));
    }

    #[test]
    fn an_empty_record_has_a_time_and_an_id() {
        let id = RecordId::new(Partition::new("p"), Cursor::number(1));
        assert_eq!(
            encoded(&LogRecord::new(id, Timestamp::from_secs(0)), "logs", true),
            "{\"create\":{\"_id\":\"p:00000000000000000001\"}}\n{\"@timestamp\":\"1970-01-01T00:00:00.000000000Z\",\"event\":{\"id\":\"p:00000000000000000001\"}}\n"
        );
    }

    #[test]
    fn a_dated_index_is_that_of_the_records_own_day() {
        let action = |index, ids| encoded(&record(), index, ids).lines().next().unwrap().to_owned();
        assert_eq!(action("logs-%Y.%m.%d", false), r#"{"create":{"_index":"logs-2026.11.20"}}"#);
        assert_eq!(
            action("a-%Y-%m-%d-%H-b", true),
            r#"{"create":{"_index":"a-2026-11-20-23-b","_id":"logs:00000000000000000007/k1"}}"#
        );
        assert!(Dated::parse("logs-%y").unwrap_err().contains("%y"));
        assert!(Dated::parse("logs-%").is_err());
    }

    #[test]
    fn a_long_id_is_hashed_the_same_way_every_time() {
        let id = |length: usize| RecordId::new(Partition::new("p"), Cursor::text("x".repeat(length).into()));
        let text = |length| {
            let mut out = Vec::new();
            write_id(&id(length), &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(text(509).len(), 512 + 2);
        assert_eq!(text(510), "\"bfb142fd0314a5ad76855ab9e6cf6298\"");
        assert_ne!(text(510), text(511));
    }

    #[test]
    fn encodings_that_differ_in_a_byte_differ_in_their_key() {
        let key = |index: &str, ids, compression| {
            BulkEncoding::new(Dated::parse(index).unwrap(), ids, compression).key().to_owned()
        };
        let keys = [
            key("a", true, Compression::None),
            key("a", false, Compression::None),
            key("a", true, Compression::GZIP),
            key("a-%Y", true, Compression::None),
            key("b-%Y", true, Compression::None),
        ];
        let distinct: std::collections::BTreeSet<&String> = keys.iter().collect();
        assert_eq!(distinct.len(), keys.len());
        // The name of an index without a date stands in the address, not in the body.
        assert_eq!(key("a", true, Compression::None), key("b", true, Compression::None));
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(Value::Int),
            any::<f64>().prop_map(Value::Double),
            any::<String>().prop_map(Value::from),
            proptest::collection::vec(any::<u8>(), 0..8).prop_map(|bytes| Value::Bytes(bytes.into())),
        ];
        leaf.prop_recursive(2, 8, 3, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::Array),
                proptest::collection::vec(("[a-c.]{0,2}", inner), 0..3).prop_map(|entries| {
                    Value::Map(entries.into_iter().map(|(name, value)| (name.into(), value)).collect())
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn by_names_alone_the_same_is_written_as_by_values(
            (one, other) in pairs("(a.b|a_b|[a-c]|error.type|exception.type|process.pid|thread|service.name)"),
        ) {
            // Often enough for what the names say to become known.
            for record in std::iter::repeat_n(&one, 20).chain([&other]) {
                let id = |out: &mut Vec<u8>| write_id(&record.id, out);
                let (mut by_name, mut by_value) = (Vec::new(), Vec::new());
                let results = (document(record, id, &mut by_name), unplanned(record, id, &mut by_value));
                prop_assert_eq!((results.0, by_name), (results.1, by_value));
            }
        }

        /// Whatever is in a record, there are two lines of JSON, no object has a name twice, the message and every
        /// text come back, and every label is text.
        #[test]
        fn any_record_is_a_document_that_reads_back(
            body: String,
            key: String,
            attributes in proptest::collection::vec(
                ("[a-b._]{1,3}|error.type|exception.type|process.pid|thread|service.name", any_value()), 0..12),
        ) {
            let id = RecordId::new(Partition::new("p"), Cursor::text(key.as_str().into()));
            let mut record = LogRecord::new(id, Timestamp::from_secs(1));
            record.body = body.as_str().into();
            record.attributes = attributes.into_iter().map(|(name, value)| (name.into(), value)).collect();
            let text = encoded(&record, "logs", true);
            prop_assert_eq!(text.matches('\n').count(), 2);
            let lines: Vec<&str> = text.lines().collect();
            let action: serde_json::Value = serde_json::from_str(lines[0]).unwrap();
            prop_assert_eq!(action["create"]["_id"].as_str().unwrap(), record.id.to_string());
            let document: Strict = serde_json::from_str(lines[1]).unwrap();
            let Strict::Object(fields) = document else { panic!("no object") };
            prop_assert_eq!(&fields["message"], &Strict::Other(body.into()));
            if let Some(Strict::Object(labels)) = fields.get("labels") {
                for (name, value) in labels {
                    let is_text = matches!(value, Strict::Other(serde_json::Value::String(_)));
                    prop_assert!(is_text && !name.contains('.'), "{}", name);
                }
            }
        }
    }

    /// JSON in which no object may have a name twice, as Elasticsearch reads it.
    #[derive(Debug, PartialEq)]
    enum Strict {
        Object(BTreeMap<String, Strict>),
        Other(serde_json::Value),
    }

    impl<'de> Deserialize<'de> for Strict {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Visitor;
            impl<'de> serde::de::Visitor<'de> for Visitor {
                type Value = Strict;
                fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    f.write_str("an object, a string or a number")
                }
                fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Strict, A::Error> {
                    let mut fields = BTreeMap::new();
                    while let Some((name, value)) = map.next_entry::<String, Strict>()? {
                        if fields.insert(name.clone(), value).is_some() {
                            return Err(serde::de::Error::custom(format!("`{name}` stands there twice")));
                        }
                    }
                    Ok(Strict::Object(fields))
                }
                fn visit_str<E>(self, text: &str) -> Result<Strict, E> {
                    Ok(Strict::Other(text.into()))
                }
                fn visit_u64<E>(self, number: u64) -> Result<Strict, E> {
                    Ok(Strict::Other(number.into()))
                }
                fn visit_i64<E>(self, number: i64) -> Result<Strict, E> {
                    Ok(Strict::Other(number.into()))
                }
            }
            deserializer.deserialize_any(Visitor)
        }
    }

    /// What became of the one record that an item is about: a word, and the code and reason of a refusal.
    fn fate(item: &str) -> String {
        // A second record that was accepted keeps what is about the configuration from failing the request.
        let body = format!(r#"{{"errors":true,"took":3,"items":[{{"create":{item}}},{{"create":{{"status":201}}}}]}}"#);
        let outcome = outcome(body.as_bytes(), 2).unwrap();
        if let Some((_, rejection)) = outcome.rejected().next() {
            return rejection.to_string();
        }
        match (outcome.diverted_count(), outcome.already_there_count(), outcome.undelivered().next()) {
            (1, 0, None) => "diverted",
            (0, 1, None) => "already there",
            (0, 0, None) => "accepted",
            _ => "retry",
        }
        .to_owned()
    }

    #[test]
    fn every_item_has_its_fate() {
        let error =
            |status: u16, kind: &str| format!(r#"{{"status":{status},"error":{{"type":"{kind}","reason":"r"}}}}"#);
        for (item, expected) in [
            (r#"{"_id":"x","status":201,"result":"created"}"#.to_owned(), "accepted"),
            (r#"{"status":200}"#.to_owned(), "accepted"),
            (r#"{"status":201,"failure_store":"used"}"#.to_owned(), "diverted"),
            (r#"{"status":201,"failure_store":"not_enabled"}"#.to_owned(), "accepted"),
            (error(409, "version_conflict_engine_exception"), "already there"),
            (error(429, "es_rejected_execution_exception"), "retry"),
            (error(429, "circuit_breaking_exception"), "retry"),
            (error(503, "unavailable_shards_exception"), "retry"),
            (error(500, "node_closed_exception"), "retry"),
            (error(403, "cluster_block_exception"), "retry"),
            (error(403, "security_exception"), "retry"),
            (error(404, "index_not_found_exception"), "retry"),
            (error(400, "strict_dynamic_mapping_exception"), "400 strict_dynamic_mapping_exception: r"),
            (error(403, "something_else"), "403 something_else: r"),
            (r#"{"status":400}"#.to_owned(), "400: no reason given"),
            (
                r#"{"status":400,"error":{"type":"document_parsing_exception","reason":"[1:9] failed to parse field [\"n\"]","caused_by":{"type":"number_format_exception","reason":"For input string: \"x\"","caused_by":{"type":"a","reason":null}}}}"#.to_owned(),
                r#"400 document_parsing_exception: [1:9] failed to parse field ["n"]; caused by number_format_exception: For input string: "x"; caused by a: no reason given"#,
            ),
        ] {
            assert_eq!(fate(&item), expected, "{item}");
        }
    }

    #[test]
    fn what_all_items_say_about_the_configuration_fails_the_request() {
        let all = |status: u16, kind: &str, reason: &str| {
            let item = format!(r#"{{"create":{{"status":{status},"error":{{"type":"{kind}","reason":"{reason}"}}}}}}"#);
            outcome(format!(r#"{{"items":[{item},{item}]}}"#).as_bytes(), 2).unwrap_err()
        };
        for (error, kind) in [
            (all(403, "security_exception", "unauthorized"), ErrorKind::Auth),
            (all(404, "index_not_found_exception", "no such index [logs]"), ErrorKind::NotFound),
            (all(400, "index_closed_exception", "closed"), ErrorKind::Config),
            (all(400, "illegal_argument_exception", "only write ops with an op_type of create"), ErrorKind::Config),
        ] {
            assert_eq!((error.kind(), error.advice()), (kind, Advice::Never), "{error}");
        }
        assert!(all(404, "index_not_found_exception", "no such index [logs]").to_string().contains("[logs]"));
    }

    #[test]
    fn an_answer_that_names_too_few_or_is_no_json_is_unknown() {
        let two = r#"{"errors":false,"items":[{"create":{"status":201}},{"create":{"status":201}}]}"#;
        assert_eq!(outcome(two.as_bytes(), 2).unwrap().accepted_count(), 2);
        let answers =
            [two, "", "{}", "<html>502</html>", &two[..two.len() - 1], r#"{"items":[{"index":{"status":201}}]}"#];
        for answer in answers {
            let error = outcome(answer.as_bytes(), 3).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Protocol, "{answer}");
            assert_eq!(error.certainty(), Certainty::Unknown, "{answer}");
            assert!(error.is_retryable(), "{answer}");
        }
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(text in ".{0,60}", records in 0usize..4) {
            if let Ok(outcome) = outcome(text.as_bytes(), records) {
                prop_assert_eq!(outcome.len(), records);
            }
            prop_assert!(whole_error(text.as_bytes()).len() < 2_000);
        }
    }
}
