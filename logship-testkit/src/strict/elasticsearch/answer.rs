//! What Elasticsearch's answers look like.

use serde_json::{Map, Value, json};

use super::super::stand::Reply;

/// Something Elasticsearch refuses: a whole request, or one item of a bulk request.
#[derive(Clone, Debug)]
pub(in crate::strict) struct Refusal {
    pub(super) status: u16,
    /// The fields of the error object: `type`, `reason` and what else there is.
    pub(super) error: Value,
}

impl Refusal {
    pub(super) fn new(status: u16, kind: &str, reason: impl Into<String>) -> Self {
        Refusal { status, error: json!({"type": kind, "reason": reason.into()}) }
    }

    pub(super) fn illegal_argument(reason: impl Into<String>) -> Self {
        Refusal::new(400, "illegal_argument_exception", reason)
    }

    /// A request that is well formed and makes no sense. Elasticsearch refuses it as a whole.
    pub(super) fn invalid_request(reason: &str) -> Self {
        Refusal::new(400, "action_request_validation_exception", format!("Validation Failed: 1: {reason};"))
    }

    pub(super) fn no_such_index(index: &str) -> Self {
        Refusal::new(404, "index_not_found_exception", format!("no such index [{index}]"))
            .with("index_uuid", json!("_na_"))
            .with("index", json!(index))
    }

    /// With one more field in the error object.
    pub(super) fn with(mut self, name: &str, value: Value) -> Self {
        self.error[name] = value;
        self
    }

    pub(super) fn caused_by(self, kind: &str, reason: impl Into<String>) -> Self {
        self.with("caused_by", json!({"type": kind, "reason": reason.into()}))
    }

    /// As the body of an answer: the error, with itself as its root cause.
    pub(super) fn body(&self) -> Value {
        let mut error = self.error.clone();
        let mut root = self.error.clone();
        if let Some(root) = root.as_object_mut() {
            root.remove("caused_by");
        }
        error["root_cause"] = json!([root]);
        json!({"error": error, "status": self.status})
    }
}

/// An answer with a JSON body, cut down to what `filter_path` asks for.
pub(super) fn json_answer(status: u16, body: &Value, filter_path: Option<&str>) -> Reply {
    match filter_path {
        Some(patterns) => Reply::new(status, filtered(body, patterns)),
        None => Reply::of(status, "application/json", body.to_string()),
    }
}

/// The parts of `body` that one of the comma-separated patterns names. A pattern is a path of names divided by dots;
/// `*` stands for any part of one name, `**` for any number of names. Arrays are looked through.
/// <https://www.elastic.co/docs/reference/elasticsearch/rest-apis/common-options#common-options-response-filtering>
fn filtered(body: &Value, patterns: &str) -> Value {
    let patterns: Vec<Vec<&str>> = patterns.split(',').map(|pattern| pattern.trim().split('.').collect()).collect();
    let patterns: Vec<&[&str]> = patterns.iter().map(Vec::as_slice).collect();
    kept(body, &patterns).unwrap_or_else(|| json!({}))
}

/// What is kept of a value of which all of `patterns` name some part.
fn kept(value: &Value, patterns: &[&[&str]]) -> Option<Value> {
    if patterns.iter().any(|pattern| pattern.is_empty() || **pattern == ["**"]) {
        return Some(value.clone());
    }
    match value {
        Value::Object(fields) => {
            let mut rest = Map::new();
            for (name, field) in fields {
                let inner: Vec<&[&str]> = patterns.iter().flat_map(|pattern| step(pattern, name)).collect();
                if let Some(field) = kept(field, &inner).filter(|_| !inner.is_empty()) {
                    rest.insert(name.clone(), field);
                }
            }
            (!rest.is_empty()).then_some(Value::Object(rest))
        }
        Value::Array(values) => {
            let rest: Vec<Value> = values.iter().filter_map(|value| kept(value, patterns)).collect();
            (!rest.is_empty()).then_some(Value::Array(rest))
        }
        _ => None,
    }
}

/// What is left of a pattern behind `name`, in each way the pattern can be read.
fn step<'a>(pattern: &'a [&'a str], name: &str) -> Vec<&'a [&'a str]> {
    match pattern.split_first() {
        Some((&"**", rest)) => [vec![pattern], step(rest, name)].concat(),
        Some((first, rest)) if matches(first, name) => vec![rest],
        _ => Vec::new(),
    }
}

/// Whether a name has the form of a pattern, in which `*` stands for anything.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((before, after)) => name.strip_prefix(before).is_some_and(|rest| {
            (0..=rest.len()).filter(|at| rest.is_char_boundary(*at)).any(|at| matches(after, &rest[at..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filter_path_keeps_what_it_names_and_nothing_else() {
        let body = json!({"took": 3, "errors": true, "items": [
            {"create": {"_id": "a", "status": 201, "_shards": {"total": 1}}},
            {"create": {"_id": "b", "status": 400, "error": {"type": "t", "reason": "r"}}},
        ]});
        assert_eq!(filtered(&body, "took"), json!({"took": 3}));
        assert_eq!(
            filtered(&body, "errors,items.*.status,items.*.error"),
            json!({"errors": true, "items": [
                {"create": {"status": 201}},
                {"create": {"status": 400, "error": {"type": "t", "reason": "r"}}},
            ]})
        );
        assert_eq!(
            filtered(&body, "items.*.error"),
            json!({"items": [{"create": {"error": {"type": "t", "reason": "r"}}}]})
        );
        assert_eq!(filtered(&body, "**._id"), json!({"items": [{"create": {"_id": "a"}}, {"create": {"_id": "b"}}]}));
        assert_eq!(filtered(&body, "hits"), json!({}));
    }

    #[test]
    fn stars_match_within_a_name() {
        assert!(matches("logs-*-*", "logs-app-prod"));
        assert!(!matches("logs-*-*", "logs-app"));
        assert!(matches("*", ""));
    }
}
