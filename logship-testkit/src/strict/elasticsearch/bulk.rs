//! How a bulk request is read.

use std::collections::HashSet;
use std::fmt;

use bytes::Bytes;
use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::answer::Refusal;

/// <https://www.elastic.co/docs/reference/elasticsearch/mapping-reference/mapping-id-field>
const ID_BYTES_MAX: usize = 512;

/// What is to be done with a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Create,
    Index,
    Update,
    Delete,
}

impl Action {
    pub(super) fn name(self) -> &'static str {
        match self {
            Action::Create => "create",
            Action::Index => "index",
            Action::Update => "update",
            Action::Delete => "delete",
        }
    }
}

/// One action of a bulk request. Its source is read when it is applied: a broken one fails its item alone.
#[derive(Clone, Debug)]
pub(super) struct Operation {
    pub(super) action: Action,
    pub(super) index: String,
    pub(super) id: Option<String>,
    pub(super) require_data_stream: bool,
    pub(super) source: Bytes,
}

/// Reads the body of a bulk request. One line that is not understood refuses the whole request, and nothing of it is
/// stored. <https://www.elastic.co/docs/api/doc/elasticsearch/operation/operation-bulk>
pub(super) fn parse(body: &Bytes, default_index: Option<&str>) -> Result<Vec<Operation>, Refusal> {
    if body.is_empty() {
        return Err(Refusal::new(400, "parse_exception", "request body is required"));
    }
    if !body.ends_with(b"\n") {
        return Err(Refusal::illegal_argument("The bulk request must be terminated by a newline [\\n]"));
    }
    let mut operations = Vec::new();
    let mut lines = body[..body.len() - 1].split(|byte| *byte == b'\n').enumerate();
    while let Some((index, line)) = lines.next() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let mut operation = parse_action(line, index + 1, default_index)?;
        if operation.action != Action::Delete {
            let Some((_, source)) = lines.next() else {
                let reason = format!("Malformed action/metadata line [{}], no source line follows it", index + 1);
                return Err(Refusal::illegal_argument(reason));
            };
            operation.source = body.slice_ref(source);
        }
        operations.push(operation);
    }
    match operations.is_empty() {
        true => Err(Refusal::invalid_request("no requests added")),
        false => Ok(operations),
    }
}

fn parse_action(line: &[u8], number: usize, default_index: Option<&str>) -> Result<Operation, Refusal> {
    let malformed =
        |what: &str| Refusal::illegal_argument(format!("Malformed action/metadata line [{number}], {what}"));
    let parsed: Value = serde_json::from_slice(line)
        .map_err(|error| Refusal::new(400, "x_content_parse_exception", format!("[{number}:1] {error}")))?;
    let object = parsed.as_object().ok_or_else(|| malformed("expected START_OBJECT"))?;
    let mut fields = object.iter();
    let (name, metadata) = fields.next().ok_or_else(|| malformed("expected FIELD_NAME but found [END_OBJECT]"))?;
    if fields.next().is_some() {
        return Err(malformed("expected END_OBJECT but found [FIELD_NAME]"));
    }
    let action = match name.as_str() {
        "create" => Action::Create,
        "index" => Action::Index,
        "update" => Action::Update,
        "delete" => Action::Delete,
        other => {
            let expected = "expected field [create], [delete], [index] or [update]";
            return Err(malformed(&format!("{expected} but found [{other}]")));
        }
    };
    let metadata = metadata.as_object().ok_or_else(|| malformed("expected START_OBJECT or END_OBJECT"))?;
    let mut operation = Operation {
        action,
        index: default_index.unwrap_or_default().to_owned(),
        id: None,
        require_data_stream: false,
        source: Bytes::new(),
    };
    for (name, value) in metadata {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        match name.as_str() {
            "_index" => operation.index = text,
            "_id" => operation.id = (!value.is_null()).then_some(text),
            "require_data_stream" => operation.require_data_stream = text == "true",
            "routing"
            | "version"
            | "version_type"
            | "if_seq_no"
            | "if_primary_term"
            | "retry_on_conflict"
            | "pipeline"
            | "dynamic_templates"
            | "require_alias"
            | "list_executed_pipelines" => {}
            unknown => {
                return Err(Refusal::illegal_argument(format!(
                    "Action/metadata line [{number}] contains an unknown parameter [{unknown}]"
                )));
            }
        }
    }
    check_action(operation)
}

/// What Elasticsearch checks of every action before it begins with any.
fn check_action(operation: Operation) -> Result<Operation, Refusal> {
    if operation.index.is_empty() {
        return Err(Refusal::invalid_request("index is missing"));
    }
    match operation.id.as_deref() {
        Some("") => Err(Refusal::illegal_argument("if _id is specified it must not be empty")),
        Some(id) if id.len() > ID_BYTES_MAX => Err(Refusal::invalid_request(&format!(
            "id [{id}] is too long, must be no longer than {ID_BYTES_MAX} bytes but was: {}",
            id.len()
        ))),
        None if matches!(operation.action, Action::Delete | Action::Update) => {
            Err(Refusal::invalid_request("id is missing"))
        }
        _ => Ok(operation),
    }
}

/// Looks through a JSON text for an object that has two fields of one name.
pub(super) fn refuse_duplicate_keys(json: &[u8]) -> Result<(), String> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    NoDuplicates.deserialize(&mut deserializer).map_err(|error| error.to_string())
}

struct NoDuplicates;

impl<'de> DeserializeSeed<'de> for NoDuplicates {
    type Value = ();
    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for NoDuplicates {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut names = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if names.contains(&name) {
                return Err(serde::de::Error::custom(format!("Duplicate field '{name}'")));
            }
            names.insert(name);
            map.next_value_seed(NoDuplicates)?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<(), A::Error> {
        while values.next_element_seed(NoDuplicates)?.is_some() {}
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(body: &str) -> String {
        parse(&Bytes::copy_from_slice(body.as_bytes()), Some("i")).unwrap_err().error["reason"].to_string()
    }

    #[test]
    fn one_wrong_line_refuses_the_request() {
        assert!(reason("{\"create\":{}}\n{}").contains("terminated by a newline"));
        assert!(reason("").contains("body is required"));
        assert!(reason("\n").contains("no requests added"));
        assert!(reason("{\"create\":{\"_type\":\"_doc\"}}\n{}\n").contains("unknown parameter [_type]"));
        assert!(reason("{\"insert\":{}}\n{}\n").contains("[update] but found [insert]"));
        assert!(reason("{\"create\":{}}\n").contains("no source line"));
        assert!(reason("{\"create\":\n{}\n").contains("EOF"));
        let long = "x".repeat(513);
        assert!(reason(&format!("{{\"create\":{{\"_id\":\"{long}\"}}}}\n{{}}\n")).contains("longer than 512 bytes"));
    }

    #[test]
    fn duplicate_keys_are_found_at_any_depth() {
        assert_eq!(refuse_duplicate_keys(br#"{"a":{"b":[1,"x",null,1.5,-2,true]},"c":{"b":1}}"#), Ok(()));
        let found = refuse_duplicate_keys(br#"{"a":[{"b":1,"b":2}]}"#).unwrap_err();
        assert!(found.contains("Duplicate field 'b'"), "{found}");
    }
}
