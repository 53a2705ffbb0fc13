//! Forty and more mistakes, one at a time, in a flow and in configurations of our own: each error names the field, the
//! line and the column, and says what would be right.

use std::sync::Arc;

use logship::config::{ConfigFile, Syntax};
use logship::kestra::{Flow, FlowContext};
use logship::sources::memory::MemorySource;
use logship::state::memory::MemoryOffsets;
use logship::{BuildContext, Error, ErrorKind, registry};

use super::Secrets;

const FLOW: &str = r#"id: ship
namespace: company
variables:
  region: eu-west-1
triggers:
  - id: daily
    type: io.kestra.plugin.core.trigger.Schedule
    cron: "@daily"
tasks:
  - id: logs
    type: io.kestra.plugin.ee.core.log.LogShipper
    logLevelFilter: INFO
    lookbackPeriod: P1D
    offsetKey: offsets
    delete: false
    logExporters:
      - id: file
        type: io.kestra.plugin.ee.core.log.FileLogExporter
        format: JSON
        maxLinesPerFile: 100
      - id: search
        type: io.kestra.plugin.ee.elasticsearch.LogExporter
        indexName: logs
        chunk: 500
        connection:
          basicAuth:
            username: user
            password: "{{ secret('ES_PASSWORD') }}"
          hosts:
            - https://es:9200
  - id: audit
    type: io.kestra.plugin.ee.core.log.AuditLogShipper
    resources: [FLOW]
    logExporters:
      - {id: splunk, type: io.kestra.plugin.ee.splunk.LogExporter, host: "https://s:8088", token: clear}
"#;

/// What is written in the place of what, where the error is said to be, and the words it must have.
type Mistake = (&'static str, &'static str, &'static str, &'static [&'static str]);

const FLOW_MISTAKES: &[Mistake] = &[
    // The flow.
    ("namespace: company\n", "namespce: company\n", "namespce", &["namespce", "no property of a flow", "namespace"]),
    ("id: ship\n", "", "namespace: company", &["flow.id", "`id` is required"]),
    ("id: ship\n", "id: 17\n", "17", &["flow.id", "put it in quotes"]),
    ("    cron: \"@daily\"\n", "", "id: daily", &["triggers[0].cron", "`cron` is required"]),
    ("tasks:\n", "tasks: none\nerrors:\n", "none", &["tasks", "a list of tasks"]),
    (
        "log.LogShipper",
        "log.LogShiper",
        "io.kestra.plugin.ee.core.log.LogShiper",
        &["tasks[0].type", "no shipper that is known"],
    ),
    (
        "log.AuditLogShipper",
        "AuditLogShipper",
        "io.kestra.plugin.ee.core.AuditLogShipper",
        &["tasks[1].type", "no shipper that is known", "core.log.AuditLogShipper"],
    ),
    (
        "variables:\n",
        "pluginDefaults:\n  - {type: io.kestra.plugin.ee.splunk.LogExporter, values: {}}\nvariables:\n",
        "{type: io.kestra.plugin.ee.splunk",
        &["pluginDefaults[0]", "write them there"],
    ),
    // The shipper.
    (
        "logLevelFilter: INFO",
        "logLevelFiler: INFO",
        "logLevelFiler",
        &["tasks[0].logLevelFiler", "no property", "logLevelFilter"],
    ),
    (
        "logLevelFilter: INFO",
        "logLevelFilter: LOUD",
        "LOUD",
        &["tasks[0].logLevelFilter", "`LOUD` is no level", "WARN"],
    ),
    ("lookbackPeriod: P1D", "lookbackPeriod: 1 day", "1 day", &["tasks[0].lookbackPeriod", "ISO 8601", "PT12H"]),
    (
        "lookbackPeriod: P1D",
        "lookbackPeriod: P1M",
        "P1M",
        &["tasks[0].lookbackPeriod", "no fixed length", "days or weeks"],
    ),
    ("lookbackPeriod: P1D", "lookbackPeriod: PD", "PD", &["tasks[0].lookbackPeriod", "`PD` is no duration", "P1D"]),
    (
        "lookbackPeriod: P1D",
        "lookbackPeriod: [P1D]",
        "[P1D]",
        &["tasks[0].lookbackPeriod", "must be a text, and is a list"],
    ),
    ("offsetKey: offsets", "offsetKey: a/b", "a/b", &["tasks[0].offsetKey", "letters, digits"]),
    ("delete: false", "delete: maybe", "maybe", &["tasks[0].delete", "true or false"]),
    ("resources: [FLOW]", "resources: [FLOW, 7]", "7]", &["tasks[1].resources[1]", "put it in quotes"]),
    ("resources: [FLOW]", "resources: [FLOW-1]", "FLOW-1", &["tasks[1].resources[0]", "such as FLOW"]),
    (
        "resources: [FLOW]",
        "logLevelFilter: INFO",
        "logLevelFilter: INFO\n    logExporters:\n      - {id",
        &["tasks[1].logLevelFilter", "resources"],
    ),
    // Its exporters.
    (
        "FileLogExporter",
        "FileExporter",
        "io.kestra.plugin.ee.core.log.FileExporter",
        &["tasks[0].logExporters[0].type", "no log exporter that is known", "FileLogExporter"],
    ),
    (
        "ee.splunk.LogExporter",
        "ee.syslog.LogExporter",
        "io.kestra.plugin.ee.syslog.LogExporter",
        &["tasks[1].logExporters[0].type", "is not taken"],
    ),
    (
        "      - id: file\n        type",
        "      - type",
        "type: io.kestra.plugin.ee.core.log.FileLogExporter",
        &["tasks[0].logExporters[0].id", "`id` is required"],
    ),
    (
        "id: search",
        "id: file",
        "id: file\n        type: io.kestra.plugin.ee.elasticsearch",
        &["tasks[0].logExporters[1].id", "two exporters have the id `file`"],
    ),
    (
        "indexName: logs",
        "indexNam: logs",
        "indexNam",
        &["tasks[0].logExporters[1].indexNam", "there are:", "indexName"],
    ),
    ("        indexName: logs\n", "", "id: search", &["`indexName` is required", "exporter: search"]),
    ("chunk: 500", "chunk: 0", "0\n        connection", &["tasks[0].logExporters[1].chunk", "at least 1"]),
    ("chunk: 500", "chunk: many", "many", &["tasks[0].logExporters[1].chunk", "whole number"]),
    (
        "username: user",
        "user: user",
        "user: user",
        &["tasks[0].logExporters[1].connection.basicAuth.user", "username, password"],
    ),
    (
        "          hosts:\n            - https://es:9200\n",
        "          hosts: []\n",
        "[]",
        &["tasks[0].logExporters[1].connection.hosts", "must not be empty"],
    ),
    ("https://es:9200", "es", "- es", &["connection.hosts", "exporter: search"]),
    (
        "connection:\n",
        "connection: none\n        x:\n",
        "none",
        &["tasks[0].logExporters[1].connection", "must be a map"],
    ),
    ("format: JSON", "format: XML", "XML", &["tasks[0].logExporters[0].format", "`ion`", "`json`"]),
    (
        "          hosts:\n            - https://es:9200\n",
        "          pathPrefix: 9\n          hosts: [https://es:9200]\n",
        "9\n          hosts",
        &["tasks[0].logExporters[1].connection.pathPrefix", "put it in quotes"],
    ),
    ("          hosts:\n            - https://es:9200\n", "", "id: search", &["`connection.hosts` is required"]),
    // Expressions and secrets.
    (
        "indexName: logs",
        "indexName: \"{{ vars.regoin }}\"",
        "\"{{ vars.regoin",
        &["tasks[0].logExporters[1].indexName", "no `vars.regoin`", "there is: region"],
    ),
    (
        "indexName: logs",
        "indexName: \"{{ vars.region\"",
        "\"{{ vars.region",
        &["tasks[0].logExporters[1].indexName", "no expression"],
    ),
    ("indexName: logs", "indexName: {{ vars.region }}", "{ vars.region", &["stands in quotes"]),
    (
        "indexName: logs",
        "indexName: \"{{ kv('index') }}\"",
        "\"{{ kv",
        &["tasks[0].logExporters[1].indexName", "no such function", "secret"],
    ),
    (
        "indexName: logs",
        "indexName: \"{{ outputs.name.value }}\"",
        "\"{{ outputs",
        &["tasks[0].logExporters[1].indexName", "once their task has run"],
    ),
    (
        "lookbackPeriod: P1D",
        "lookbackPeriod: \"{{ secret('PERIOD') }}\"",
        "\"{{ secret('PERIOD",
        &["tasks[0].lookbackPeriod", "cannot hold a secret"],
    ),
    (
        "secret('ES_PASSWORD')",
        "secret('ES_PASWORD')",
        "\"{{ secret('ES_PASWORD",
        &["tasks[0].logExporters[1].connection.basicAuth.password", "ES_PASWORD", "exporter: search"],
    ),
    // YAML.
    ("delete: false", "delete: false\n    delete: true", "delete: true", &["duplicate mapping key: delete"]),
    ("resources: [FLOW]", "resources: [FLOW", ":\n      - {id: splunk", &["illegal placement of ':'"]),
];

const CONFIG: &str = r#"source: {type: jsonl, paths: [logs.jsonl]}
offsets: {type: memory}
lookback: 36h
query:
  severity_min: INFO
exporters:
  - id: archive
    type: file
    dir: archive
    format: json
    lane:
      chunk: 500
      retry: {attempts_max: 3, delay_max: 30s}
  - id: search
    type: elasticsearch
    hosts: ["https://es:9200"]
    index: logs
    auth: {api_key: {secret: ES_KEY}}
    dead_letter: {type: file, dir: dead}
"#;

const CONFIG_MISTAKES: &[Mistake] = &[
    ("lookback: 36h", "lookbak: 36h", "lookbak", &["unknown field `lookbak`", "lookback_secs"]),
    ("lookback: 36h", "lookback: 36", "36", &["field: lookback", "with its unit such as 36h", "lookback_secs"]),
    ("lookback: 36h", "lookback: 1 month", "1 month", &["field: lookback", "no fixed length"]),
    ("lookback: 36h", "lookback: 36h\nlookback_secs: 5", "36h\nlookback_secs", &["write one of them"]),
    ("lookback: 36h", "overlap: 1500ms", "1500ms", &["no whole number of seconds"]),
    ("severity_min: INFO", "severity_min: LOUD", "LOUD", &["field: query.severity_min", "use TRACE, DEBUG, INFO"]),
    ("severity_min: INFO", "severity: INFO", "severity", &["unknown field `severity`", "`severity_min`"]),
    ("type: jsonl", "type: oracle", "oracle", &["no source `oracle`", "sqlite", "in: source"]),
    ("offsets: {type: memory}\n", "", "source", &["missing field `offsets`"]),
    ("format: json", "format: xml", "xml", &["field: format", "`ion`", "exporter: archive"]),
    ("dir: archive", "dri: archive", "dri", &["unknown field `dri`", "`dir`", "exporter: archive"]),
    ("chunk: 500", "chunk: many", "many", &["field: chunk", "invalid type: string", "in: exporters[0].lane"]),
    ("chunk: 500", "chnk: 500", "chnk", &["unknown field `chnk`", "`chunk`"]),
    ("chunk: 500", "chunk: 0", "0\n      retry", &["field: chunk", "at least 1", "exporter: archive"]),
    ("delay_max: 30s", "delay_max: soon", "soon", &["field: delay_max", "`soon` is no duration"]),
    (
        "type: elasticsearch",
        "type: elastic",
        "elastic\n",
        &["no exporter `elastic`", "elasticsearch", "exporter: search"],
    ),
    ("https://es:9200", "es", "\"es\"", &["hosts", "exporter: search"]),
    ("    index: logs\n", "", "id: search", &["missing field `index`", "exporter: search"]),
    ("{secret: ES_KEY}", "{secret: ES_KYE}", "{secret: ES_KYE", &["ES_KYE", "auth.api_key", "exporter: search"]),
    ("{secret: ES_KEY}", "{secrt: ES_KEY}", "ES_KEY}", &["auth.api_key", "exporter: search"]),
    ("dir: dead}", "dir: dead, format: 5}", "5}", &["in: dead_letter", "field: format"]),
    ("id: search", "id: a b", "a b", &["`a b` cannot be a lane's id"]),
    ("exporters:\n", "exporters: 5\nmore:\n", "5\nmore", &["field: exporters", "expected a sequence"]),
];

fn build_flow(yaml: &str) -> Result<(), Error> {
    let flow = Flow::parse(yaml, &FlowContext::new())?;
    for shipper in &flow.shippers {
        let context = Secrets::default().with("ES_PASSWORD", "es_password").context();
        shipper.build(Arc::new(MemorySource::new()), Arc::new(MemoryOffsets::new()), &registry(), &context)?;
    }
    Ok(())
}

fn build_config(yaml: &str) -> Result<(), Error> {
    let context: BuildContext = Secrets::default().with("ES_KEY", "es_key").context();
    ConfigFile::parse(yaml, Syntax::Yaml)?.build(&registry(), &context).map(drop)
}

fn check(good: &str, mistakes: &[Mistake], build: impl Fn(&str) -> Result<(), Error>) {
    build(good).unwrap();
    let mut failures = Vec::new();
    for (from, to, place, words) in mistakes {
        assert!(good.contains(from), "{from}");
        let wrong = good.replacen(from, to, 1);
        let before = wrong.split_once(place).unwrap_or_else(|| panic!("no {place}")).0;
        let (line, column) = (before.matches('\n').count() + 1, before.rsplit('\n').next().unwrap().len() + 1);
        let error = match build(&wrong) {
            Err(error) => error,
            Ok(()) => {
                failures.push(format!("{to:?} is taken"));
                continue;
            }
        };
        let text = error.to_string();
        let missing: Vec<&str> = words.iter().copied().filter(|word| !text.contains(word)).collect();
        let at = format!("line: {line}, column: {column}");
        if error.kind() != ErrorKind::Config || !missing.is_empty() || !text.contains(&at) {
            failures.push(format!("{to:?} wants {missing:?} at {at}: {text}"));
        }
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

#[test]
fn a_mistake_in_a_flow_is_said_with_its_place_and_what_would_be_right() {
    assert!(FLOW_MISTAKES.len() >= 40);
    check(FLOW, FLOW_MISTAKES, build_flow);
}

#[test]
fn a_mistake_in_a_configuration_is_said_with_its_place_and_what_would_be_right() {
    assert!(CONFIG_MISTAKES.len() >= 20);
    check(CONFIG, CONFIG_MISTAKES, build_config);
}

/// Goal: the three syntaxes are one configuration. Method: the same mistake in each.
#[test]
fn json_and_toml_are_read_like_yaml() {
    let toml = "lookback = \"36h\"\n[source]\ntype = \"jsonl\"\npaths = [\"x\"]\n[offsets]\ntype = \"memory\"\n[[exporters]]\nid = \"a\"\n\
                type = \"file\"\nlane.linger = \"2s\"\n";
    let json = "{\"lookback\": \"36h\", \"source\": {\"type\": \"jsonl\", \"paths\": [\"x\"]}, \"offsets\": {\"type\": \"memory\"},\n\
                 \"exporters\": [{\"id\": \"a\", \"type\": \"file\",\n\"lane\": {\"linger\": \"2s\"}}]}";
    for (text, syntax) in [(toml, Syntax::Toml), (json, Syntax::Json)] {
        let file = ConfigFile::parse(text, syntax).unwrap();
        assert_eq!(file.config.lookback_secs, 36 * 3600);
        assert_eq!(file.config.exporters[0].lane.linger, std::time::Duration::from_secs(2));
        file.build(&registry(), &BuildContext::default()).unwrap();
        let error = ConfigFile::parse(&text.replace("2s", "soon"), syntax).unwrap_err().to_string();
        let place = if syntax == Syntax::Toml { "line: 10, column: 15" } else { "line: 3, column: 20" };
        assert!(error.contains("`soon` is no duration") && error.contains(place), "{error}");
    }
}

/// Goal: nothing that is written makes the reader fail but with an error. Method: flows with pieces cut out, doubled and
/// put elsewhere, from a seed.
#[test]
fn a_damaged_flow_is_a_flow_or_an_error_with_its_kind() {
    let mut random = fastrand::Rng::with_seed(7);
    let (mut taken, mut refused) = (0, 0);
    for _ in 0..3_000 {
        let mut text: Vec<char> = FLOW.chars().collect();
        for _ in 0..random.usize(1..4) {
            let from = random.usize(..text.len() - 40);
            let piece: Vec<char> = text[from..from + random.usize(1..40)].to_vec();
            let to = random.usize(..text.len() - 40);
            match random.u8(..3) {
                0 => drop(text.splice(to..to, piece)),
                1 => drop(text.splice(to..to + piece.len(), [])),
                _ => text[to] = ['{', '}', '"', ':', '-', '&', '*', '\n', '\t', '0', '|', '%'][random.usize(..12)],
            }
        }
        let text: String = text.into_iter().collect();
        match Flow::parse(&text, &FlowContext::new()) {
            Ok(_) => taken += 1,
            Err(error) => {
                refused += 1;
                assert_eq!(error.kind(), ErrorKind::Config, "{error}\n{text}");
                assert!(error.context("line").is_some(), "no place: {error}\n{text}");
            }
        }
    }
    assert!(taken > 100 && refused > 1_000, "{taken} taken, {refused} refused");
}
