//! What the guide says is so: its configurations build, every exporter has its section, the errors of the runbook are ours,
//! the tests that it names are there, and the examples of destinations ship.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says why it fails by its panic")]

#[path = "../examples/log_services.rs"]
#[allow(dead_code, unreachable_pub, missing_docs)]
mod log_services;
#[path = "../examples/loki.rs"]
#[allow(dead_code, unreachable_pub, missing_docs)]
mod loki;
#[path = "../examples/otlp.rs"]
#[allow(dead_code, unreachable_pub, missing_docs)]
mod otlp;
#[path = "../examples/search.rs"]
#[allow(dead_code, unreachable_pub, missing_docs)]
mod search;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use logship::config::{ConfigFile, Syntax};
use logship::{BuildContext, Fields, RunReport, Secret, SecretProvider, registry};
use serde_json::{Value, json};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn page(name: &str) -> String {
    std::fs::read_to_string(root().join("docs").join(name)).unwrap()
}

/// The blocks of a page that are in this language.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let begin = format!("```{language}\n");
    page.split(&begin).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

/// All Rust of the crates, on one line, as a text that was broken is written.
fn sources() -> String {
    let mut folders: Vec<PathBuf> = vec![root().join("src"), root().join("tests")];
    for krate in ["connect", "core", "exporters", "sources", "state", "testkit"] {
        folders.extend(["src", "tests"].map(|part| root().join(format!("logship-{krate}")).join(part)));
    }
    let mut text = String::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                text.push_str(&std::fs::read_to_string(&path).unwrap());
            }
        }
    }
    let lines: Vec<&str> = text.lines().map(|line| line.trim_start().trim_end_matches('\\')).collect();
    lines.concat()
}

/// Has every secret there is.
#[derive(Debug)]
struct Everything;

impl SecretProvider for Everything {
    fn secret(&self, _: &str) -> Option<Secret> {
        Some(Secret::new("postgres://user:password@localhost/database"))
    }
}

/// A configuration of the guide, with what it leaves to the program. Secrets of the environment come from `Everything`, and
/// its databases are this file.
fn read(block: &str, database: &Path) -> ConfigFile {
    let path = format!("path: {}", database.display());
    let block = block.replace("path: logs.db", &path).replace("path: spool.db", &path).replace("{env: ", "{secret: ");
    let ours = json!({
        "source": {"type": "jsonl", "paths": ["logs.jsonl"]},
        "offsets": {"type": "memory"},
        "exporters": [{"id": "terminal", "type": "console"}],
    });
    let ours: Fields = serde_json::from_value(ours).unwrap();
    ConfigFile::parse_with(&block, Syntax::Yaml, &ours).unwrap_or_else(|error| panic!("{error}\n{block}"))
}

/// The kinds that a configuration names, to see that each is there.
fn kinds(block: &str) -> BTreeSet<String> {
    let value: Value = serde_saphyr::from_str(block).unwrap();
    let exporters = value["exporters"].as_array().cloned().unwrap_or_default();
    exporters.iter().chain([&value["source"]]).filter_map(|part| Some(part["type"].as_str()?.to_owned())).collect()
}

#[tokio::test]
async fn every_configuration_builds_and_no_exporter_or_source_is_left_out() {
    let registry = registry();
    let known: BTreeSet<&str> = registry.exporter_names().chain(registry.source_names()).collect();
    let context = BuildContext::new(Arc::new(Everything));
    let database = tempfile::NamedTempFile::new().unwrap();
    let mut built = BTreeSet::new();
    for name in ["destinations.md", "sources.md"] {
        for block in blocks(&page(name), "yaml") {
            // What is not compiled in is nowhere to be built.
            if !kinds(&block).iter().all(|kind| known.contains(kind.as_str())) {
                continue;
            }
            if let Err(error) = read(&block, database.path()).build(&registry, &context) {
                panic!("{name}: {error}\n{block}");
            }
            built.extend(kinds(&block));
        }
    }
    let missing: Vec<&&str> = known.iter().filter(|kind| !built.contains(**kind)).collect();
    assert!(missing.is_empty(), "docs/destinations.md or docs/sources.md has no configuration of {missing:?}");
}

/// Goal: who looks for an error in the runbook finds it. Method: what stands in the first column between backticks is in the
/// sources, but for what an ellipsis stands for; names and numbers apart.
#[test]
fn the_errors_of_the_runbook_are_ours() {
    let (operations, sources) = (page("operations.md"), sources());
    let rows: Vec<&str> = operations
        .lines()
        .skip_while(|line| !line.starts_with("| what you see"))
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .collect();
    let seen = rows.iter().map(|row| row.split('|').nth(1).unwrap());
    let quoted = seen.flat_map(|cell| cell.split('`').skip(1).step_by(2)).filter(|text| text.matches(' ').count() > 1);
    let fragments: Vec<&str> = quoted.flat_map(|text| text.split('…')).map(|part| part.trim_matches('`')).collect();
    let strange: Vec<&&str> = fragments.iter().filter(|part| !sources.contains(part.trim())).collect();
    assert!(fragments.len() > 15 && strange.is_empty(), "no error says {strange:?}");
}

#[test]
fn the_tests_that_hold_the_promises_are_there() {
    let (guarantees, sources) = (page("guarantees.md"), sources());
    let promises: Vec<&str> = guarantees.split("\n### P").skip(1).collect();
    assert_eq!(promises.len(), 12);
    for promise in promises {
        let held_by = promise.split("Held by: ").nth(1).unwrap().split("\n\n").next().unwrap();
        let tests: Vec<&str> = held_by.split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty(), "{promise}");
        for test in tests {
            assert!(sources.contains(&format!("fn {test}(")), "there is no test {test}");
        }
    }
}

/// Goal: an alert is on a metric that exists. Method: the README's table is held against the code, and this against it.
#[test]
fn the_metrics_of_the_guide_are_those_of_the_readme() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let operations = page("operations.md");
    let tables = ["logship_keys", "logship_lanes", "logship_offsets"];
    let named = operations.split('`').skip(1).step_by(2).filter_map(|code| code.split([' ', '(']).next());
    let metrics: Vec<&str> = named.filter(|name| name.starts_with("logship_") && !tables.contains(name)).collect();
    let strange: Vec<&&str> = metrics.iter().filter(|name| !readme.contains(**name)).collect();
    assert!(metrics.len() > 5 && strange.is_empty(), "{strange:?}");
}

fn assert_shipped(report: &RunReport, lanes: usize) {
    assert_eq!(report.lanes.len(), lanes, "{report}");
    assert!(report.lanes.iter().all(|lane| lane.accepted == 3) && report.is_complete(), "{report}");
}

#[tokio::test]
async fn every_family_of_destinations_has_an_example_that_ships() {
    assert_shipped(&log_services::ship(None).await.unwrap(), 5);
    assert_shipped(&search::ship(None).await.unwrap(), 2);
    assert_shipped(&otlp::ship(None).await.unwrap(), 2);
    assert_shipped(&loki::ship(None).await.unwrap(), 1);
}
