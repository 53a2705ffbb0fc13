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

/// Goal: an example in a document is one that compiles. Method: the README is the crate's documentation, so each of its
/// Rust blocks is a doc test; nothing else in it may be marked as Rust and ignored.
#[test]
fn no_example_is_ignored() {
    for (path, text) in sources() {
        assert!(!text.contains("```ignore") && !text.contains("```rust,ignore"), "{}", path.display());
    }
    assert!(!std::fs::read_to_string(root().join("README.md")).unwrap().contains("ignore\n"));
}
