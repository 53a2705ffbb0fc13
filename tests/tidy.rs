//! What the project promises of its own sources: sizes that a reader can hold, the field's words, documents that agree
//! with the code.

#![allow(clippy::unwrap_used, reason = "a test says why it fails by its panic")]

use std::path::{Path, PathBuf};

const FILE_LINES_MAX: usize = 450;
const FUNCTION_LINES_MAX: usize = 70;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All Rust files of the crates, with their text.
fn sources() -> Vec<(PathBuf, String)> {
    let mut folders: Vec<PathBuf> = ["src", "examples", "benches"].map(|name| root().join(name)).to_vec();
    for entry in std::fs::read_dir(root()).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_string_lossy().starts_with("logship-") {
            folders.push(path.join("src"));
        }
    }
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                files.push((path.strip_prefix(root()).unwrap().to_owned(), text));
            }
        }
    }
    assert!(files.len() > 50, "the walk found only {} files", files.len());
    files.sort();
    files
}

/// What stands before a file's tests.
fn code(path: &Path, text: &str) -> String {
    if path.file_stem().is_some_and(|name| name == "tests") {
        return String::new();
    }
    text.split("#[cfg(test)]").next().unwrap_or_default().to_owned()
}

#[test]
fn files_and_functions_are_of_a_size_to_be_read() {
    let mut too_long = Vec::new();
    for (path, text) in sources() {
        let code = code(&path, &text);
        let lines: Vec<&str> = code.lines().collect();
        if lines.len() > FILE_LINES_MAX {
            too_long.push(format!("{}: {} lines before its tests", path.display(), lines.len()));
        }
        for (begin, line) in lines.iter().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let is_function =
                ["fn ", "async fn ", "pub fn ", "pub async fn ", "pub(crate) fn ", "pub(crate) async fn "]
                    .iter()
                    .any(|start| line.trim_start().starts_with(start));
            if !is_function {
                continue;
            }
            let close = format!("{}}}", " ".repeat(indent));
            let length = lines[begin..].iter().position(|line| **line == close).unwrap_or(0);
            if length > FUNCTION_LINES_MAX {
                too_long.push(format!("{}:{}: a function of {length} lines", path.display(), begin + 1));
            }
        }
    }
    assert!(too_long.is_empty(), "too long:\n  {}", too_long.join("\n  "));
}

/// Words that stand for one of ours, or for nothing.
const BANNED: &[(&str, &str)] = &[
    (" sink", "exporter or destination"),
    ("pipeline stage", "transform"),
    ("best-effort", "what is promised"),
    ("TODO", "an issue"),
    ("FIXME", "an issue"),
    ("XXX", "an issue"),
    ("// ---", "nothing"),
];

#[test]
fn words_are_the_ones_of_the_architecture() {
    let mut found = Vec::new();
    for (path, text) in sources() {
        for (number, line) in text.lines().enumerate() {
            for (word, instead) in BANNED {
                if line.contains(word) {
                    found.push(format!("{}:{}: `{word}`; say {instead}", path.display(), number + 1));
                }
            }
        }
    }
    assert!(found.is_empty(), "banned words:\n  {}", found.join("\n  "));
}

/// Goal: what is compiled in is what the README says there is.
#[test]
fn the_readme_names_every_exporter_source_and_store() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let registry = logship::registry();
    for name in registry.exporter_names().chain(registry.source_names()).chain(registry.store_names()) {
        assert!(readme.contains(&format!("`{name}`")), "the README does not name `{name}`");
        let changes = std::fs::read_to_string(root().join("CHANGELOG.md")).unwrap();
        assert!(changes.contains(&format!("`{name}`")), "the changelog does not name `{name}`");
    }
}

/// The documents of the project, with their text, by their paths from its root.
fn documents() -> Vec<(PathBuf, String)> {
    let folders = [root().to_owned(), root().join("docs")];
    let entries = folders.iter().flat_map(|folder| std::fs::read_dir(folder).unwrap());
    let paths = entries.map(|entry| entry.unwrap().path());
    let documents: Vec<(PathBuf, String)> = paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .map(|path| (path.strip_prefix(root()).unwrap().to_owned(), std::fs::read_to_string(&path).unwrap()))
        .collect();
    assert!(documents.len() > 8, "the walk found only {} documents", documents.len());
    documents
}

/// Goal: an example in a document is one that compiles. Method: each page with Rust in it is included as the documentation
/// of something, so that its blocks are doc tests, and none of them is ignored.
#[test]
fn every_example_compiles() {
    let sources = sources();
    for (path, text) in &sources {
        assert!(!text.contains("```ignore") && !text.contains("```rust,ignore"), "{}", path.display());
    }
    for (path, text) in documents() {
        assert!(!text.contains("ignore\n"), "{}", path.display());
        let included = format!("{}\")", path.display());
        assert!(
            !text.contains("```rust") || sources.iter().any(|(_, source)| source.contains(&included)),
            "{} has Rust that nobody compiles: include it in src/guide.rs",
            path.display()
        );
    }
}

/// The anchor of a heading, as GitHub makes it.
fn anchor(heading: &str) -> String {
    let letters = heading.trim().to_lowercase().replace(' ', "-");
    letters.chars().filter(|letter| letter.is_alphanumeric() || matches!(letter, '-' | '_')).collect()
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    let (mut links, mut broken) = (0, Vec::new());
    for (path, text) in documents() {
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") {
                continue;
            }
            links += 1;
            let (file, wanted) = link.split_once('#').unwrap_or((link, ""));
            let target = root().join(&path).parent().unwrap().join(file);
            let target = if file.is_empty() { root().join(&path) } else { target };
            let is_there = match (std::fs::read_to_string(&target), wanted) {
                (Err(_), _) => false,
                (Ok(_), "") => true,
                (Ok(text), wanted) => {
                    text.lines().any(|line| line.starts_with('#') && anchor(line.trim_start_matches('#')) == wanted)
                }
            };
            if !is_there {
                broken.push(format!("{}: {link}", path.display()));
            }
        }
    }
    assert!(links > 20 && broken.is_empty(), "{links} links, of which these lead nowhere:\n  {}", broken.join("\n  "));
}

/// The crates of a build of `logship` with these features and no others; those of the default ones without any.
fn crates_of(features: Option<&str>) -> Vec<String> {
    let mut tree = std::process::Command::new(env!("CARGO"));
    tree.current_dir(root()).args([
        "tree",
        "--offline",
        "--package",
        "logship",
        "--edges",
        "normal",
        "--prefix",
        "none",
    ]);
    if let Some(features) = features {
        tree.args(["--no-default-features", "--features", features]);
    }
    let output = tree.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let mut names: Vec<String> = text.lines().filter_map(|line| Some(line.split(' ').next()?.to_owned())).collect();
    names.sort();
    names.dedup();
    names
}

/// What only some want: the SDKs of the clouds, and what reaches a network or a database.
fn is_heavy(name: &str) -> bool {
    ["aws-", "azure_", "gcp_auth", "object_store", "elasticsearch", "reqwest", "rustls", "hyper", "sqlx"]
        .iter()
        .any(|heavy| name.starts_with(heavy))
}

/// Goal: nobody builds the SDK of a cloud that is not asked for. Method: the crates that cargo would build, by feature.
#[test]
fn a_build_has_the_sdk_of_no_cloud_that_was_not_asked_for() {
    let default = crates_of(None);
    let heavy: Vec<&String> = default.iter().filter(|name| is_heavy(name)).collect();
    assert!(default.len() > 30 && heavy.is_empty(), "the default build has {heavy:?}");
    // Who gives out credentials of AWS.
    let shared = ["aws-sdk-sts", "aws-sdk-sso", "aws-sdk-ssooidc"];
    for (feature, sdks) in [
        ("azure_blob", vec!["azure_core", "azure_identity", "object_store"]),
        ("azure_monitor", vec!["azure_core", "azure_identity"]),
        ("cloudwatch", vec!["aws-sdk-cloudwatchlogs"]),
        ("elasticsearch", vec![]),
        ("firehose", vec!["aws-sdk-firehose"]),
        ("gcp_logging", vec!["gcp_auth"]),
        ("gcs", vec!["gcp_auth", "object_store"]),
        ("http", vec![]),
        ("kinesis", vec!["aws-sdk-kinesis"]),
        ("s3", vec!["object_store"]),
        ("secretsmanager", vec!["aws-sdk-secretsmanager"]),
        ("sqs", vec!["aws-sdk-sqs"]),
        ("ssm", vec!["aws-sdk-ssm"]),
    ] {
        let is_sdk = |name: &&String| {
            let clouds = ["azure_core", "azure_identity", "gcp_auth", "object_store"];
            let is_known = name.starts_with("aws-sdk-") || clouds.contains(&name.as_str());
            is_known && !shared.contains(&name.as_str())
        };
        let found = crates_of(Some(feature));
        let found: Vec<&str> = found.iter().filter(is_sdk).map(String::as_str).collect();
        assert_eq!(found, sdks, "{feature}");
    }
}
