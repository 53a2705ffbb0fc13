//! A configuration in a file, with errors that say where in the file.

use std::fmt;
use std::path::Path;

use logship_core::{BuildContext, Error, LaneOptions, LogShipper, Registry, read_fields};
use serde_json::{Map, Value};

use super::duration::parse_duration;
use super::{ShipperConfig, Syntax};
use crate::document::{Content, Entry, Node};

/// A [`ShipperConfig`] as a file says it, in YAML, JSON or TOML.
///
/// Errors name the field, the line and the column. In a file, a duration can be written with its unit: `lookback: 36h`
/// in the place of `lookback_secs: 129600`, and so with all fields that end in `_secs` or `_ms` of the shipper and its
/// lanes ([`parse_duration`] says how).
///
/// ```
/// use logship::config::{ConfigFile, Syntax};
/// use logship::{BuildContext, registry};
///
/// let file = ConfigFile::parse(
///     r#"
/// source: {type: jsonl, paths: [logs.jsonl]}
/// offsets: {type: memory}
/// lookback: 1 week
/// query: {severity_min: INFO}
/// exporters:
///   - id: archive
///     type: file
///     dir: archive
///     format: json
///     lane: {chunk: 5000, attempt_timeout: 2m}
/// "#,
///     Syntax::Yaml,
/// )?;
/// assert_eq!(file.config.lookback_secs, 7 * 24 * 60 * 60);
///
/// let wrong = "source: {type: jsonl, paths: [logs.jsonl]}\noffsets: {type: memory}\nexporters:\n  - id: archive\n    type: file\n    dri: x\n";
/// let error = ConfigFile::parse(wrong, Syntax::Yaml)?.build(&registry(), &BuildContext::default()).unwrap_err();
/// assert!(error.to_string().contains("unknown field `dri`") && error.to_string().contains("line: 6, column: 5"));
/// # Ok::<(), logship::Error>(())
/// ```
#[derive(Clone)]
pub struct ConfigFile {
    /// What it says.
    pub config: ShipperConfig,
    root: Node,
}

/// Durations of a shipper and of a lane that can be written with their unit: the name for that, and the name of the
/// field that holds the number.
pub(super) const SHIPPER_DURATIONS: &[(&str, &str)] = &[
    ("lookback", "lookback_secs"),
    ("settle", "settle_secs"),
    ("overlap", "overlap_secs"),
    ("lease_ttl", "lease_ttl_ms"),
    ("poll_interval", "poll_interval_ms"),
];
pub(super) const LANE_DURATIONS: &[(&str, &str)] =
    &[("linger", "linger_ms"), ("attempt_timeout", "attempt_timeout_ms")];
pub(super) const RETRY_DURATIONS: &[(&str, &str)] =
    &[("delay_initial", "delay_initial_ms"), ("delay_max", "delay_max_ms")];

impl ConfigFile {
    /// Reads a text.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](logship_core::ErrorKind::Config), with the line and the column, when the text is not of
    /// this syntax, or a field of the shipper or of a lane is unknown, missing or of the wrong type. The fields of
    /// exporters, sources and offset stores are looked at by [`ConfigFile::build`].
    pub fn parse(text: &str, syntax: Syntax) -> Result<ConfigFile, Error> {
        Self::parse_with(text, syntax, &Map::new())
    }

    /// The same, where these fields are not in the file: a `source` and `offsets` that the program chooses.
    ///
    /// # Errors
    /// As [`ConfigFile::parse`].
    pub fn parse_with(text: &str, syntax: Syntax, defaults: &Map<String, Value>) -> Result<ConfigFile, Error> {
        let mut root = Node::parse(text, syntax)?;
        if !matches!(root.content, Content::Map(_)) {
            let message = format!("a configuration is a map, and this is {}", root.kind());
            return Err(root.place.locate(Error::config("configuration", message)));
        }
        take_units(&mut root, SHIPPER_DURATIONS)?;
        if let Some(exporters) = root.get_mut("exporters") {
            for (index, exporter) in exporters.items_mut().iter_mut().enumerate() {
                check_lane(exporter, &format!("exporters[{index}].lane"))?;
            }
        }
        let Value::Object(mut fields) = root.to_value() else { return Err(Error::config("configuration", "no map")) };
        for (name, value) in defaults {
            fields.entry(name).or_insert_with(|| value.clone());
        }
        let config = read_fields(fields).map_err(|error| root.place_of(&error).locate(error))?;
        Ok(ConfigFile { config, root })
    }

    /// Whether a text has a field of this name at its top, so that a program knows what it has to choose itself. A text
    /// that cannot be read has none.
    pub fn has(text: &str, syntax: Syntax, field: &str) -> bool {
        Node::parse(text, syntax).is_ok_and(|root| root.get(field).is_some())
    }

    /// Reads a file, whose name says its [`Syntax`].
    ///
    /// # Errors
    /// As [`ConfigFile::parse`], and when the file cannot be read.
    pub fn read(path: impl AsRef<Path>) -> Result<ConfigFile, Error> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path).map_err(|error| {
            Error::config("configuration", format!("cannot read {}", path.display())).with_source(error)
        })?;
        Self::parse(&text, Syntax::of(path)).map_err(|error| error.with("file", path.display()))
    }

    /// Makes the shipper. Nothing is read or sent.
    ///
    /// # Errors
    /// As [`ShipperConfig::build`], with the line and the column.
    pub fn build(&self, registry: &Registry, context: &BuildContext) -> Result<LogShipper, Error> {
        self.config.clone().build(registry, context).map_err(|error| self.locate(error))
    }

    /// An error of building, with where it is in the file.
    fn locate(&self, error: Error) -> Error {
        let by_id = |id: &str| {
            let exporters = self.root.get("exporters").map(Node::items).unwrap_or_default();
            exporters.iter().find(|exporter| exporter.get("id").and_then(Node::as_text) == Some(id))
        };
        // Of an id that cannot be one, the message says which.
        let said = || error.context("field").filter(|field| *field == "id").and(error.message().split('`').nth(1));
        let owner = error.context("exporter").or_else(said).and_then(by_id).unwrap_or(&self.root);
        let owner = error.context("in").and_then(|name| owner.get(name)).unwrap_or(owner);
        // What is wrong with a lane is said without the word.
        let lane = owner.get("lane").filter(|lane| {
            error.context("field").is_some_and(|field| {
                let first = field.split('.').next().unwrap_or(field);
                owner.get(first).is_none() && lane.get(first).is_some()
            })
        });
        lane.unwrap_or(owner).place_of(&error).locate(error)
    }
}

/// Checks an exporter's lane by itself, as what stands beside fields of any kind is not followed on the way there.
fn check_lane(exporter: &mut Node, path: &str) -> Result<(), Error> {
    let Some(lane) = exporter.get_mut("lane") else { return Ok(()) };
    take_units(lane, LANE_DURATIONS)?;
    if let Some(retry) = lane.get_mut("retry") {
        take_units(retry, RETRY_DURATIONS)?;
    }
    let Value::Object(fields) = lane.to_value() else {
        return Err(lane.place.locate(Error::config(path, format!("must be a map, and is {}", lane.kind()))));
    };
    let read: Result<LaneOptions, Error> = read_fields(fields);
    read.map(drop).map_err(|error| lane.place_of(&error).locate(error.with("in", path)))
}

/// Puts numbers in the place of durations that are written with their unit.
fn take_units(node: &mut Node, durations: &[(&str, &str)]) -> Result<(), Error> {
    let Content::Map(entries) = &mut node.content else { return Ok(()) };
    for (name, field) in durations {
        let twice = entries.iter().any(|entry| entry.name == *field);
        let Some(entry) = entries.iter_mut().find(|entry| entry.name == *name) else { continue };
        let wrong = |entry: &Entry, message: String| entry.node.place.locate(Error::config(name, message));
        if twice {
            return Err(wrong(entry, format!("`{name}` and `{field}` are one: write one of them")));
        }
        let Some(text) = entry.node.as_text() else {
            return Err(wrong(entry, format!("must be a duration with its unit such as 36h; a number is `{field}`")));
        };
        let duration = parse_duration(text).map_err(|message| wrong(entry, message))?;
        let units = if field.ends_with("_ms") { duration.as_millis() } else { u128::from(duration.as_secs()) };
        if !field.ends_with("_ms") && duration.subsec_nanos() != 0 {
            return Err(wrong(entry, format!("`{text}` is no whole number of seconds")));
        }
        entry.name = (*field).to_owned();
        entry.node.content = Content::Number(u64::try_from(units).unwrap_or(u64::MAX).into());
    }
    Ok(())
}

impl fmt::Debug for ConfigFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.config.fmt(f)
    }
}
