//! A configuration file as a tree that knows where each of its values stands.

use std::fmt;

use logship_core::Error;
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Number, Value};
use serde_saphyr::Spanned;
use toml::de::{DeTable, DeValue};

/// Deeper than any configuration, and shallow enough for any stack.
const DEPTH_MAX: usize = 48;

/// In what a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Syntax {
    /// YAML 1.2, of which JSON is a part.
    Yaml,
    /// JSON.
    Json,
    /// TOML 1.0.
    Toml,
}

impl Syntax {
    /// The syntax that goes with the end of a file's name: `.toml`, `.json`, or else YAML.
    pub fn of(path: &std::path::Path) -> Self {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("toml") => Syntax::Toml,
            Some("json") => Syntax::Json,
            _ => Syntax::Yaml,
        }
    }
}

/// A line and a column, both from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) line: u64,
    pub(crate) column: u64,
}

impl Place {
    /// The error, with where it is.
    pub(crate) fn locate(self, error: Error) -> Error {
        if self == Place::default() { error } else { error.with("line", self.line).with("column", self.column) }
    }
}

/// A value and where it begins. It may be a secret, so it is never shown.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) content: Content,
}

#[derive(Clone)]
pub(crate) enum Content {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A name, where it stands, and what goes with it.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) place: Place,
    pub(crate) node: Node,
}

impl Node {
    /// Reads a text. The error quotes nothing of it but the names of fields.
    pub(crate) fn parse(text: &str, syntax: Syntax) -> Result<Node, Error> {
        match syntax {
            Syntax::Yaml | Syntax::Json => parse_yaml(text),
            Syntax::Toml => parse_toml(text),
        }
    }

    /// What it is, for errors.
    pub(crate) fn kind(&self) -> &'static str {
        match self.content {
            Content::Null => "nothing",
            Content::Bool(_) => "true or false",
            Content::Number(_) => "a number",
            Content::Text(_) => "a text",
            Content::List(_) => "a list",
            Content::Map(_) => "a map",
        }
    }

    /// The value without its places.
    pub(crate) fn to_value(&self) -> Value {
        match &self.content {
            Content::Null => Value::Null,
            Content::Bool(value) => Value::Bool(*value),
            Content::Number(value) => Value::Number(value.clone()),
            Content::Text(value) => Value::String(value.clone()),
            Content::List(nodes) => nodes.iter().map(Node::to_value).collect(),
            Content::Map(entries) => entries.iter().map(|entry| (entry.name.clone(), entry.node.to_value())).collect(),
        }
    }

    /// The entries, where it is a map.
    pub(crate) fn entries(&self) -> &[Entry] {
        if let Content::Map(entries) = &self.content { entries } else { &[] }
    }

    /// The nodes, where it is a list.
    pub(crate) fn items(&self) -> &[Node] {
        if let Content::List(nodes) = &self.content { nodes } else { &[] }
    }

    /// The entry of this name, where it is a map.
    pub(crate) fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries().iter().find(|entry| entry.name == name)
    }

    /// What goes with this name, where it is a map.
    pub(crate) fn get(&self, name: &str) -> Option<&Node> {
        self.entry(name).map(|entry| &entry.node)
    }

    /// What goes with this name, to be changed.
    pub(crate) fn get_mut(&mut self, name: &str) -> Option<&mut Node> {
        let Content::Map(entries) = &mut self.content else { return None };
        entries.iter_mut().find(|entry| entry.name == name).map(|entry| &mut entry.node)
    }

    /// The nodes, where it is a list, to be changed.
    pub(crate) fn items_mut(&mut self) -> &mut [Node] {
        if let Content::List(nodes) = &mut self.content { nodes } else { &mut [] }
    }

    /// The text, where it is one.
    pub(crate) fn as_text(&self) -> Option<&str> {
        if let Content::Text(text) = &self.content { Some(text) } else { None }
    }

    /// The nearest to what a path such as `exporters[1].hosts[0]` names.
    pub(crate) fn find(&self, path: &str) -> &Node {
        let steps = path.split(['.', '[']).map(|step| step.trim_end_matches(']'));
        let mut node = self;
        for step in steps {
            let next = match &node.content {
                Content::List(nodes) => step.parse().ok().and_then(|index: usize| nodes.get(index)),
                _ => node.get(step),
            };
            match next {
                Some(next) => node = next,
                None => break,
            }
        }
        node
    }

    /// Where an error about this node or something in it is: at the field it names, as far as that is there.
    pub(crate) fn place_of(&self, error: &Error) -> Place {
        let field = error.context("field").unwrap_or_default();
        let unknown = error.message().split_once("unknown field `").and_then(|(_, rest)| rest.split('`').next());
        match unknown {
            // The name itself, and not what goes with it.
            Some(name) => {
                let node = self.find(field.strip_suffix(name).unwrap_or(field).trim_end_matches('.'));
                node.place_of_name(name).unwrap_or(node.place)
            }
            None => self.find(field).place,
        }
    }

    fn place_of_name(&self, name: &str) -> Option<Place> {
        let here = self.entry(name).map(|entry| entry.place);
        here.or_else(|| self.entries().iter().find_map(|entry| entry.node.place_of_name(name)))
    }
}

fn wrong(message: String, place: Place) -> Error {
    place.locate(Error::new(logship_core::ErrorKind::Config, "read configuration", message))
}

fn parse_yaml(text: &str) -> Result<Node, Error> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_depth: DEPTH_MAX },
        strict_booleans: true,
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let place = error.location().map(|at| Place { line: at.line(), column: at.column() });
        let message = error.without_snippet().to_string();
        // The place is said once, by us.
        let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(message, _)| message);
        let message = match message {
            // An unquoted expression is a map whose key is a map.
            "expected string scalar" => {
                "a name must be a text; an expression in braces stands in quotes: \"{{ ... }}\""
            }
            message => message.split(", set DuplicateKeyPolicy").next().unwrap_or(message),
        };
        wrong(message.to_owned(), place.unwrap_or_default())
    })
}

fn parse_toml(text: &str) -> Result<Node, Error> {
    let place_at = |offset: usize| {
        let before = text.get(..offset).unwrap_or(text);
        let line = before.rsplit_once('\n').map_or(before, |(_, line)| line);
        Place { line: before.matches('\n').count() as u64 + 1, column: line.chars().count() as u64 + 1 }
    };
    let table = DeTable::parse(text).map_err(|error| {
        let place = error.span().map(|span| place_at(span.start)).unwrap_or_default();
        wrong(error.message().to_owned(), place)
    })?;
    let place = place_at(0);
    Ok(Node { place, content: of_table(table.get_ref(), &place_at, 0)? })
}

fn of_table(table: &DeTable<'_>, place_at: &dyn Fn(usize) -> Place, depth: usize) -> Result<Content, Error> {
    let entries = table.iter().map(|(name, value)| {
        let node = of_toml(value.get_ref(), place_at(value.span().start), place_at, depth + 1)?;
        Ok(Entry { name: name.get_ref().to_string(), place: place_at(name.span().start), node })
    });
    entries.collect::<Result<_, _>>().map(Content::Map)
}

fn of_toml(value: &DeValue<'_>, place: Place, place_at: &dyn Fn(usize) -> Place, depth: usize) -> Result<Node, Error> {
    if depth > DEPTH_MAX {
        return Err(wrong(format!("more than {DEPTH_MAX} levels deep"), place));
    }
    let no_number = |text: &str| wrong(format!("`{text}` is not a number that can be used"), place);
    let content = match value {
        DeValue::String(text) => Content::Text(text.to_string()),
        DeValue::Integer(number) => {
            let parsed = i64::from_str_radix(number.as_str(), number.radix());
            Content::Number(parsed.map_err(|_| no_number(number.as_str()))?.into())
        }
        DeValue::Float(number) => {
            let parsed = number.as_str().parse().ok().and_then(Number::from_f64);
            Content::Number(parsed.ok_or_else(|| no_number(number.as_str()))?)
        }
        DeValue::Boolean(value) => Content::Bool(*value),
        DeValue::Datetime(time) => Content::Text(time.to_string()),
        DeValue::Array(values) => {
            let nodes =
                values.iter().map(|value| of_toml(value.get_ref(), place_at(value.span().start), place_at, depth + 1));
            Content::List(nodes.collect::<Result<_, _>>()?)
        }
        DeValue::Table(table) => of_table(table, place_at, depth)?,
    };
    Ok(Node { place, content })
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Spanned { value, referenced, .. } = Spanned::<Content>::deserialize(deserializer)?;
        Ok(Node { place: Place { line: referenced.line(), column: referenced.column() }, content: value })
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyContent)
    }
}

struct AnyContent;

impl<'de> Visitor<'de> for AnyContent {
    type Value = Content;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Content, E> {
        Ok(Content::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Content, E> {
        Ok(Content::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Content, E> {
        Ok(Content::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Content, E> {
        Ok(Content::Number(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Content, E> {
        let number = Number::from_f64(value).ok_or_else(|| E::custom("not a number that can be used"))?;
        Ok(Content::Number(number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Content, E> {
        Ok(Content::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Content, A::Error> {
        let mut nodes = Vec::new();
        while let Some(node) = list.next_element()? {
            nodes.push(node);
        }
        Ok(Content::List(nodes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Content, A::Error> {
        let mut entries = Vec::new();
        while let Some((name, node)) = map.next_entry::<Spanned<String>, Node>()? {
            let place = Place { line: name.referenced.line(), column: name.referenced.column() };
            entries.push(Entry { name: name.value, place, node });
        }
        Ok(Content::Map(entries))
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}:{}", self.kind(), self.place.line, self.place.column)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(line: u64, column: u64) -> Place {
        Place { line, column }
    }

    #[test]
    fn the_three_syntaxes_say_the_same_and_know_where() {
        let yaml = Node::parse("a:\n  - b: 1\n    c: x\n", Syntax::Yaml).unwrap();
        let json = Node::parse("{\"a\": [\n {\"b\": 1,\n\t\"c\": \"x\"}]}", Syntax::Json).unwrap();
        let toml = Node::parse("[[a]]\nb = 1\nc = \"x\"\n", Syntax::Toml).unwrap();
        assert_eq!(yaml.to_value(), serde_json::json!({"a": [{"b": 1, "c": "x"}]}));
        assert_eq!((json.to_value(), toml.to_value()), (yaml.to_value(), yaml.to_value()));
        assert_eq!(yaml.find("a[0].c").place, place(3, 8));
        assert_eq!(json.find("a[0].c").place, place(3, 7));
        assert_eq!(toml.find("a[0].c").place, place(3, 5));
    }

    #[test]
    fn what_cannot_be_read_is_said_with_its_place() {
        for (text, syntax, line, words) in [
            ("a: [1", Syntax::Yaml, "line: 1, column: 4", "unclosed bracket"),
            ("a: 1\na: 2", Syntax::Yaml, "line: 2, column: 1", "duplicate mapping key: a"),
            ("a: {{ secret('X') }}", Syntax::Yaml, "line: 1, column: 5", "stands in quotes"),
            ("a = 1\nb = ", Syntax::Toml, "line: 2, column: ", "must be quoted"),
            ("a = 1\na = 2", Syntax::Toml, "line: 2, column: 1", "duplicate key"),
        ] {
            let error = Node::parse(text, syntax).unwrap_err().to_string();
            assert!(error.contains(line) && error.contains(words), "{text}: {error}");
        }
        for deep in ["[".repeat(10_000), format!("a = {}1{}", "[".repeat(200), "]".repeat(200))] {
            let syntax = if deep.starts_with('a') { Syntax::Toml } else { Syntax::Yaml };
            assert!(Node::parse(&deep, syntax).is_err());
        }
    }

    #[test]
    fn p12_what_cannot_be_read_is_not_quoted() {
        for (text, syntax) in [
            ("key: !!int hunter2", Syntax::Yaml),
            ("key: !!bool hunter2", Syntax::Yaml),
            ("key: !!binary hunter2", Syntax::Yaml),
            ("key: !!float hunter2", Syntax::Yaml),
            ("key: \"hunter2", Syntax::Yaml),
            ("key: 'hunter2\nx: 1", Syntax::Yaml),
            ("key: *hunter2", Syntax::Yaml),
            ("key: &a hunter2: x: y", Syntax::Yaml),
            ("key: \"hunter2\\q\"", Syntax::Yaml),
            ("key: {hunter2: hunter2", Syntax::Yaml),
            ("key = hunter2", Syntax::Toml),
            ("key = \"hunter2", Syntax::Toml),
            ("key = 1hunter2", Syntax::Toml),
            ("key = \"hunter2\" hunter2", Syntax::Toml),
        ] {
            if let Err(error) = Node::parse(text, syntax) {
                assert!(!format!("{error} {error:?}").contains("hunter2"), "{text}: {error}");
            }
        }
    }

    #[test]
    fn a_name_in_yaml_is_a_name() {
        let node = Node::parse("namespace: no\n", Syntax::Yaml).unwrap();
        assert_eq!(node.get("namespace").and_then(Node::as_text), Some("no"));
    }
}
