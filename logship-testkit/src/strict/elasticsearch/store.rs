//! The indices and data streams of the stand-in, and what is in them.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::answer::{Refusal, matches};
use super::bulk::{Action, Operation};
use super::mapping::{Mapping, check_timestamp, unparsable};

/// Why an index takes no writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Block {
    /// Somebody set it read-only: 403.
    ReadOnly,
    /// The disk is nearly full: 429, until there is room again.
    FloodStage,
}

impl Block {
    fn refusal(self, index: &str) -> Refusal {
        let (status, why) = match self {
            Block::ReadOnly => (403, "FORBIDDEN/8/index write (api)"),
            Block::FloodStage => (
                429,
                "TOO_MANY_REQUESTS/12/disk usage exceeded flood-stage watermark, index has read-only-allow-delete block",
            ),
        };
        Refusal::new(status, "cluster_block_exception", format!("index [{index}] blocked by: [{why}];"))
    }
}

/// An index, or a data stream: several of which only the last is written to.
#[derive(Clone, Debug)]
struct Index {
    is_data_stream: bool,
    mapping: Mapping,
    /// The documents by id.
    current: BTreeMap<String, Value>,
    /// Those of a data stream's earlier backing indices, oldest first.
    earlier: Vec<BTreeMap<String, Value>>,
    /// The documents that did not fit, where they are kept.
    failure_store: Option<Vec<Value>>,
    block: Option<Block>,
}

impl Index {
    fn plain(mapping: Mapping) -> Self {
        Index {
            is_data_stream: false,
            mapping,
            current: BTreeMap::new(),
            earlier: Vec::new(),
            failure_store: None,
            block: None,
        }
    }

    fn data_stream(with_failure_store: bool) -> Self {
        Index {
            is_data_stream: true,
            failure_store: with_failure_store.then(Vec::new),
            ..Index::plain(Mapping::of_data_stream())
        }
    }

    /// What documents are said to be in: the index itself, or the stream's last backing index.
    fn written_to(&self, name: &str) -> String {
        match self.is_data_stream {
            true => format!(".ds-{name}-2026.11.20-{:06}", self.earlier.len() + 1),
            false => name.to_owned(),
        }
    }

    fn check(&mut self, id: &str, source: &[u8], duplicate_keys_refused: bool) -> Result<Value, Refusal> {
        let unreadable = |reason: String| unparsable("failed to parse").caused_by("x_content_parse_exception", reason);
        if duplicate_keys_refused {
            super::bulk::refuse_duplicate_keys(source).map_err(unreadable)?;
        }
        let document: Map<String, Value> =
            serde_json::from_slice(source).map_err(|error| unreadable(error.to_string()))?;
        if self.is_data_stream {
            check_timestamp(&document)?;
        }
        self.mapping.take(id, &document)?;
        Ok(Value::Object(document))
    }
}

/// What became of one item.
pub(super) enum Verdict {
    /// Stored, with this status; or put into the failure store, which has a status of success too.
    Stored,
    /// There already.
    Duplicate,
    /// Turned away.
    Refused,
}

/// Everything that was stored, and the rules for storing more.
#[derive(Debug)]
pub(in crate::strict) struct Store {
    indices: BTreeMap<String, Index>,
    pub(super) auto_create: bool,
    pub(super) failure_store: bool,
    pub(in crate::strict) duplicate_keys_refused: bool,
    /// Whether there is the template that makes data streams of `logs-*-*`.
    pub(in crate::strict) logs_template: bool,
    /// Whether documents make ids of their own and of no other kind.
    pub(in crate::strict) ids_refused: bool,
    next_id: u64,
}

impl Store {
    pub(super) fn new() -> Self {
        Store {
            indices: BTreeMap::new(),
            auto_create: true,
            failure_store: false,
            duplicate_keys_refused: false,
            logs_template: true,
            ids_refused: false,
            next_id: 0,
        }
    }

    pub(super) fn create_index(&mut self, name: &str, body: &Value) -> Result<(), Refusal> {
        check_name(name)?;
        if self.indices.contains_key(name) {
            let reason = format!("index [{name}/strict] already exists");
            return Err(Refusal::new(400, "resource_already_exists_exception", reason));
        }
        if self.logs_template && matches("logs-*-*", name) {
            return Err(Refusal::illegal_argument(format!(
                "cannot create index with name [{name}], because it matches with template [logs] that creates data \
                 streams only, use create data stream api instead"
            )));
        }
        let mapping = body.get("mappings").map_or_else(|| Ok(Mapping::dynamic()), Mapping::parse)?;
        self.indices.insert(name.to_owned(), Index::plain(mapping));
        Ok(())
    }

    pub(in crate::strict) fn create_data_stream(&mut self, name: &str) -> Result<(), Refusal> {
        check_name(name)?;
        if self.indices.contains_key(name) {
            let reason = format!("data_stream [{name}] already exists");
            return Err(Refusal::new(400, "resource_already_exists_exception", reason));
        }
        self.indices.insert(name.to_owned(), Index::data_stream(self.failure_store));
        Ok(())
    }

    pub(super) fn delete(&mut self, name: &str, as_data_stream: bool) -> Result<(), Refusal> {
        match self.indices.get(name) {
            Some(index) if index.is_data_stream && !as_data_stream => Err(Refusal::illegal_argument(format!(
                "The provided expression [{name}] matches a data stream, specify the corresponding concrete indices \
                 instead."
            ))),
            Some(index) if index.is_data_stream == as_data_stream => {
                self.indices.remove(name);
                Ok(())
            }
            _ => Err(Refusal::no_such_index(name)),
        }
    }

    pub(super) fn block(&mut self, name: &str, block: Option<Block>) {
        if let Some(index) = self.indices.get_mut(name) {
            index.block = block;
        }
    }

    pub(super) fn roll_over(&mut self, name: &str) {
        if let Some(index) = self.indices.get_mut(name).filter(|index| index.is_data_stream) {
            index.earlier.push(std::mem::take(&mut index.current));
        }
    }

    /// All documents of an index, the oldest backing index first: id and source.
    pub(in crate::strict) fn documents(&self, name: &str) -> Result<Vec<(&String, &Value)>, Refusal> {
        let index = self.indices.get(name).ok_or_else(|| Refusal::no_such_index(name))?;
        Ok(index.earlier.iter().chain([&index.current]).flatten().collect())
    }

    pub(super) fn failed_documents(&self, name: &str) -> Vec<Value> {
        let store = self.indices.get(name).and_then(|index| index.failure_store.as_ref());
        store.cloned().unwrap_or_default()
    }

    /// Applies one action of a bulk request; gives the item of the answer and what became of it.
    pub(super) fn apply(&mut self, operation: &Operation, require_data_stream: bool) -> (Value, Verdict) {
        let id = operation.id.clone().unwrap_or_else(|| self.new_id());
        match self.try_apply(operation, &id, require_data_stream || operation.require_data_stream) {
            Ok((fields, verdict)) => (json!({operation.action.name(): fields}), verdict),
            Err(refusal) => {
                let verdict = if refusal.status == 409 { Verdict::Duplicate } else { Verdict::Refused };
                (refused_item(operation, &id, &refusal), verdict)
            }
        }
    }

    fn try_apply(&mut self, operation: &Operation, id: &str, stream_only: bool) -> Result<(Value, Verdict), Refusal> {
        let name = &operation.index;
        if self.ids_refused && operation.id.is_some() {
            return Err(Refusal::illegal_argument("Document ID is not supported in create/index operation request"));
        }
        let duplicate_keys_refused = self.duplicate_keys_refused;
        let index = self.writable(name, stream_only)?;
        let written_to = index.written_to(name);
        if index.is_data_stream && operation.action != Action::Create {
            return Err(Refusal::illegal_argument(
                "only write ops with an op_type of create are allowed in data streams",
            ));
        }
        let here = index.current.contains_key(id);
        let (status, result) = match operation.action {
            Action::Create if here => {
                let reason = format!("[{id}]: version conflict, document already exists (current version [1])");
                return Err(Refusal::new(409, "version_conflict_engine_exception", reason)
                    .with("index", json!(written_to))
                    .with("shard", json!("0")));
            }
            Action::Update => return Err(Refusal::illegal_argument("this server keeps no updates")),
            Action::Delete if index.current.remove(id).is_some() => (200, "deleted"),
            Action::Delete => (404, "not_found"),
            Action::Create | Action::Index => {
                let document = match index.check(id, &operation.source, duplicate_keys_refused) {
                    Ok(document) => document,
                    Err(refusal) => return index.keep_failed(name, id, operation, refusal),
                };
                index.current.insert(id.to_owned(), document);
                if here { (200, "updated") } else { (201, "created") }
            }
        };
        let item = json!({
            "_index": written_to, "_id": id, "_version": 1, "result": result,
            "_shards": {"total": 2, "successful": 1, "failed": 0}, "_seq_no": 0, "_primary_term": 1, "status": status,
        });
        Ok((item, Verdict::Stored))
    }

    /// The index of this name, made now if it is not there and may be.
    fn writable(&mut self, name: &str, stream_only: bool) -> Result<&mut Index, Refusal> {
        if !self.indices.contains_key(name) {
            if !self.auto_create {
                let reason = "and [action.auto_create_index] is [false]";
                return Err(
                    Refusal::no_such_index(name).with("reason", json!(format!("no such index [{name}] {reason}")))
                );
            }
            check_name(name)?;
            let is_stream = self.logs_template && matches("logs-*-*", name);
            if stream_only && !is_stream {
                return Err(Refusal::new(
                    404,
                    "index_not_found_exception",
                    format!(
                        "no such index [{name}] and the index creation request requires a data stream, but no matching index template with data stream template was found for it"
                    ),
                ));
            }
            let index =
                if is_stream { Index::data_stream(self.failure_store) } else { Index::plain(Mapping::dynamic()) };
            self.indices.insert(name.to_owned(), index);
        }
        let index = self.indices.get_mut(name).ok_or_else(|| Refusal::no_such_index(name))?;
        if stream_only && !index.is_data_stream {
            return Err(Refusal::new(404, "index_not_found_exception", format!("[{name}] is not a data stream")));
        }
        match index.block {
            Some(block) => Err(block.refusal(&index.written_to(name))),
            None => Ok(index),
        }
    }

    /// Twenty letters and digits, as Elasticsearch makes them.
    fn new_id(&mut self) -> String {
        self.next_id += 1;
        format!("auto{:016}", self.next_id)
    }
}

impl Index {
    /// A document that does not fit goes into the failure store, if there is one, under a status of success.
    /// <https://www.elastic.co/docs/manage-data/data-store/data-streams/failure-store>
    fn keep_failed(
        &mut self,
        name: &str,
        id: &str,
        operation: &Operation,
        refusal: Refusal,
    ) -> Result<(Value, Verdict), Refusal> {
        let Some(store) = &mut self.failure_store else {
            return Err(match self.is_data_stream {
                true => refusal.with("failure_store", json!("not_enabled")),
                false => refusal,
            });
        };
        let source = String::from_utf8_lossy(&operation.source);
        store.push(json!({"document": {"id": id, "source": source}, "error": refusal.error}));
        let item = json!({
            "_index": format!(".fs-{name}-2026.11.20-000001"), "_id": format!("failed{:014}", store.len()),
            "_version": 1, "result": "created", "_shards": {"total": 2, "successful": 1, "failed": 0}, "_seq_no": 0,
            "_primary_term": 1, "failure_store": "used", "status": 201,
        });
        Ok((item, Verdict::Stored))
    }
}

/// The item of an action that was turned away. Elasticsearch says beside the error what the failure store did.
pub(super) fn refused_item(operation: &Operation, id: &str, refusal: &Refusal) -> Value {
    let mut error = refusal.error.clone();
    let failure_store = error.as_object_mut().and_then(|error| error.remove("failure_store"));
    let mut item = json!({"_index": operation.index, "_id": id, "status": refusal.status, "error": error});
    if let Some(word) = failure_store {
        item["failure_store"] = word;
    }
    json!({operation.action.name(): item})
}

/// <https://www.elastic.co/docs/api/doc/elasticsearch/operation/operation-indices-create>
fn check_name(name: &str) -> Result<(), Refusal> {
    let why = if name.chars().any(char::is_uppercase) {
        "must be lowercase"
    } else if name.starts_with(['_', '-', '+']) {
        "must not start with '_', '-', or '+'"
    } else if name.contains([' ', '"', '*', '\\', '<', '|', ',', '>', '/', '?', '#', ':']) {
        "must not contain the following characters [' ','\"','*','\\','<','|',',','>','/','?']"
    } else if name.is_empty() || name == "." || name == ".." || name.len() > 255 {
        "must not be empty, '.', '..' or longer than 255 bytes"
    } else {
        return Ok(());
    };
    Err(Refusal::new(400, "invalid_index_name_exception", format!("Invalid index name [{name}], {why}"))
        .with("index", json!(name)))
}
