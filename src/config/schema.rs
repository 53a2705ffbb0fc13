//! The configuration as JSON Schema.

use logship_core::{LaneOptions, Registry};
use schemars::generate::SchemaSettings;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

use super::ShipperConfig;
use super::file::{LANE_DURATIONS, RETRY_DURATIONS, SHIPPER_DURATIONS};

/// The JSON Schema (draft 2020-12) of a [`ConfigFile`](super::ConfigFile), with the fields of every exporter, source and
/// offset store in this registry that describes them. One that does not takes any fields.
///
/// The repository's `schema.json` is that of everything there is. An editor with the YAML language server takes it from
/// a first line such as `# yaml-language-server: $schema=schema.json`.
pub fn schema(registry: &Registry) -> Value {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    let lane = generator.subschema_for::<LaneOptions>().to_value();
    let mut sources = Vec::new();
    for name in registry.source_names() {
        let fields = registry.source_schema(name, &mut generator);
        sources.push(typed(name, fields, &[]));
    }
    let mut stores = Vec::new();
    for name in registry.store_names() {
        let fields = registry.store_schema(name, &mut generator);
        stores.push(typed(name, fields, &[]));
    }
    let own: [(&str, Value); 3] = [
        ("id", json!({"type": "string", "description": "The lane's id, in offsets and reports."})),
        ("lane", lane),
        ("dead_letter", json!({"$ref": "#/$defs/dead_letter"})),
    ];
    let mut exporters = Vec::new();
    for name in registry.exporter_names() {
        let fields = registry.exporter_schema(name, &mut generator);
        exporters.push(typed(name, fields, &own));
    }
    let names: Vec<&str> = registry.exporter_names().collect();
    let mut root = generator.into_root_schema_for::<ShipperConfig>().to_value();
    root["title"] = json!("logship");
    // What the program chooses where the file does not.
    root["required"] = json!(["exporters"]);
    with_units(&mut root, SHIPPER_DURATIONS);
    with_units(&mut root["$defs"]["LaneOptions"], LANE_DURATIONS);
    with_units(&mut root["$defs"]["RetryPolicy"], RETRY_DURATIONS);
    let one_of = |description: &str, types: Vec<Value>| json!({"description": description, "oneOf": types});
    root["$defs"]["source"] = one_of("Where records are read.", sources);
    root["$defs"]["offsets"] = one_of("Where offsets are kept.", stores);
    root["$defs"]["exporter"] = one_of("Where records go, and how.", exporters);
    // Its fields are an exporter's own, which need not be said twice.
    root["$defs"]["dead_letter"] = json!({
        "description": "Where records go that the destination refuses for good: an exporter, with its own fields.",
        "type": "object", "properties": {"type": {"enum": names}}, "required": ["type"],
    });
    root
}

/// The fields of a type, with `type` and what else stands beside them.
fn typed(name: &str, fields: Option<Schema>, beside: &[(&str, Value)]) -> Value {
    let mut schema = match fields {
        Some(fields) => fields.to_value(),
        None => json!({"type": "object"}),
    };
    schema["title"] = json!(name);
    let mut properties = Map::new();
    properties.insert("type".to_owned(), json!({"const": name}));
    properties.extend(beside.iter().map(|(name, schema)| ((*name).to_owned(), schema.clone())));
    if let Some(Value::Object(own)) = schema.get("properties") {
        for (name, field) in own {
            properties.entry(name).or_insert_with(|| field.clone());
        }
    }
    let mut required = vec![json!("type")];
    required.extend(beside.iter().filter(|(name, _)| *name == "id").map(|(name, _)| json!(name)));
    required.extend(schema.get("required").and_then(Value::as_array).into_iter().flatten().cloned());
    schema["properties"] = Value::Object(properties);
    schema["required"] = Value::Array(required);
    schema
}

/// Adds the names under which durations are written with their unit.
fn with_units(schema: &mut Value, durations: &[(&str, &str)]) {
    for (name, field) in durations {
        let description = format!("As `{field}`, with its unit: 36h, 1 day, 500ms, P1D.");
        schema["properties"][*name] = json!({"type": "string", "description": description});
    }
}

pub(super) fn source(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"$ref": "#/$defs/source"})
}

pub(super) fn offsets(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"$ref": "#/$defs/offsets"})
}

pub(super) fn exporters(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/exporter"}})
}
