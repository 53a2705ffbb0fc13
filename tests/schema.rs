//! `schema.json` is what editors check configurations by: it is the code's own, and agrees with what the code takes.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says why it fails by its panic")]

use std::path::Path;

use logship::config::{ConfigFile, Syntax, schema};
use logship::registry;
use serde_json::Value;

fn committed() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("schema.json")
}

/// Goal: the file in the repository is that of the code. `LOGSHIP_WRITE_SCHEMA=1` writes it.
#[test]
fn the_committed_schema_is_the_one_of_the_code() {
    let text = format!("{}\n", serde_json::to_string_pretty(&schema(&registry())).unwrap());
    if std::env::var_os("LOGSHIP_WRITE_SCHEMA").is_some() {
        std::fs::write(committed(), &text).unwrap();
    }
    let committed = std::fs::read_to_string(committed()).unwrap();
    assert!(
        committed == text,
        "run `LOGSHIP_WRITE_SCHEMA=1 cargo test -p logship --test schema` and commit schema.json"
    );
}

/// Everything in the schema of a value that has fields and says which it takes.
fn check<'a>(root: &'a Value, schema: &'a Value, value: &Value, path: &str) -> Result<(), String> {
    if let Some(reference) = schema["$ref"].as_str() {
        return check(root, root.pointer(reference.trim_start_matches('#')).unwrap(), value, path);
    }
    for alternatives in ["oneOf", "anyOf"] {
        if let Some(schemas) = schema[alternatives].as_array() {
            let wrong: Vec<String> =
                schemas.iter().filter_map(|schema| check(root, schema, value, path).err()).collect();
            if wrong.len() == schemas.len() {
                return Err(format!("{path} is none of: {}", wrong.join("; ")));
            }
        }
    }
    let mut types = schema["type"].as_array().cloned().unwrap_or_default();
    types.extend(schema["type"].as_str().map(Value::from));
    let is = |name: &Value| match name.as_str().unwrap() {
        "string" => value.is_string(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => value.is_null(),
    };
    if !types.is_empty() && !types.iter().any(is) {
        return Err(format!("{path} is not {types:?}"));
    }
    if schema.get("const").is_some_and(|constant| constant != value) {
        return Err(format!("{path} is not {}", schema["const"]));
    }
    if schema["enum"].as_array().is_some_and(|values| !values.contains(value)) {
        return Err(format!("{path} is none of {}", schema["enum"]));
    }
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        check(root, &schema["items"], item, &format!("{path}[{index}]"))?;
    }
    let Some(fields) = value.as_object() else { return Ok(()) };
    for name in schema["required"].as_array().into_iter().flatten() {
        if !fields.contains_key(name.as_str().unwrap()) {
            return Err(format!("{path} has no {name}"));
        }
    }
    for (name, field) in fields {
        match schema["properties"].get(name) {
            Some(schema) => check(root, schema, field, &format!("{path}.{name}"))?,
            None if schema["additionalProperties"] == false => return Err(format!("{path} takes no {name}")),
            None => {}
        }
    }
    Ok(())
}

const GOOD: &str = r#"
source: {type: sqlite, path: logs.db}
offsets: {type: file, dir: offsets}
lookback: 36h
query: {severity_min: INFO, filters: [{attribute: namespace, within: company}]}
redaction: {emails: true}
enrichment: {resource: [[zone, a]]}
exporters:
  - {id: a, type: file, dir: archive, format: json, compression: gzip-6, lane: {chunk: 5, retry: {delay_max: 1m}}}
  - {id: b, type: elasticsearch, hosts: ["http://es"], index: i, auth: {basic: {username: u, password: {env: P}}}}
  - {id: c, type: opensearch, hosts: ["http://es"], index: i, auth: {aws: {service: aoss, credentials: default}}}
  - {id: d, type: datadog, api_key: {secret: K}, ddtags: [a], dead_letter: {type: file, dir: dead}}
  - {id: e, type: newrelic, license_key: k, region: eu, attributes: {a: b}}
  - {id: f, type: splunk, url: "http://s", token: t, endpoint: raw}
  - {id: g, type: loki, url: "http://l", labels: {app: {value: x}, level: severity}, line: message}
  - {id: h, type: otlp, endpoint: "http://o", protocol: grpc, connection: {tls_version_min: "1.3"}}
  - {id: i, type: console, format: text, stream: stderr, lane: {on_reject: drop}}
  - {id: j, type: http, url: "http://h", method: PUT, auth: {bearer: {token: t}}}
  - {id: k, type: loggly, token: t}
  - {id: l, type: logzio, token: t}
  - {id: m, type: gcp_logging, project_id: p, credentials: {service_account: {file: k}}, resource: {type: generic_node}}
  - {id: o, type: azure_monitor, endpoint: "http://a", rule_id: r, stream_name: s,
     credentials: {client_secret: {tenant_id: t, client_id: {env: C}, client_secret: {env: S}}}}
  - {id: p, type: s3, bucket: b, aws: {region: r, credentials: {static: {access_key_id: {env: A}, secret_access_key: {env: S}}}}}
  - {id: q, type: cloudwatch, log_group_name: g, message: text, aws: {role: {arn: a}}}
  - {id: r, type: gcs, bucket: b, credentials: metadata, format: ion}
  - {id: s, type: azure_blob, container: c, account: a, credentials: {cli: {}}, compression: gzip}
"#;

/// Goal: an editor says what the program says. Method: a configuration with every exporter, and one mistake at a time,
/// before both.
#[test]
fn the_schema_takes_what_the_code_takes_and_refuses_what_it_refuses() {
    let root: Value = serde_json::from_str(&std::fs::read_to_string(committed()).unwrap()).unwrap();
    let value = |yaml: &str| -> Value { serde_saphyr::from_str(yaml).unwrap() };
    ConfigFile::parse(GOOD, Syntax::Yaml).unwrap();
    check(&root, &root, &value(GOOD), "config").unwrap();
    for (from, to) in [
        ("lookback: 36h", "lookback: 36"),
        ("lookback: 36h", "lookbak: 36h"),
        ("{severity_min: INFO", "{severity: INFO"),
        ("chunk: 5", "chunk: many"),
        ("delay_max: 1m", "delay_max: 60000"),
        ("on_reject: drop", "on_reject: loose"),
        ("id: a, ", ""),
    ] {
        assert!(GOOD.contains(from));
        let wrong = GOOD.replacen(from, to, 1);
        assert!(ConfigFile::parse(&wrong, Syntax::Yaml).is_err(), "the code takes {to}");
        assert!(check(&root, &root, &value(&wrong), "config").is_err(), "the schema takes {to}");
    }
    for (from, to) in [
        ("format: json", "format: xml"),
        ("index: i, auth: {basic", "auth: {basic"),
        ("type: loggly", "type: logly"),
        ("{env: P}", "{environment: P}"),
        ("service: aoss", "service: s3"),
    ] {
        assert!(GOOD.contains(from));
        let wrong = GOOD.replacen(from, to, 1);
        assert!(check(&root, &root, &value(&wrong), "config").is_err(), "the schema takes {to}");
    }
}

#[test]
fn the_example_is_a_configuration_that_the_schema_takes() {
    let root: Value = serde_json::from_str(&std::fs::read_to_string(committed()).unwrap()).unwrap();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/ship.yaml");
    let example: Value = serde_saphyr::from_str(&std::fs::read_to_string(example).unwrap()).unwrap();
    check(&root, &root, &example, "config").unwrap();
}
