//! Turns an exporter of Kestra's into one of ours, by its table.

use std::collections::BTreeMap;
use std::time::Duration;

use logship_core::{BuildContext, Error, ErrorKind, Fields, SecretRef};
use serde_json::Value;

use super::exporters::{ALL, NOT_TAKEN};
use super::reader::{Reader, wrong};
use super::template::Template;
use super::{Exporter, Note};
use crate::document::{Content, Entry, Node, Place};

/// How an exporter of Kestra's is called and set up here.
pub(super) struct Mapping {
    /// Kestra's names of it, the present one first.
    pub(super) types: &'static [&'static str],
    /// The exporter's name in the registry.
    pub(super) exporter: &'static str,
    pub(super) properties: &'static [Property],
    /// Fields that are set unless a property sets them.
    pub(super) constants: &'static [(&'static str, &'static str)],
}

/// A property of an exporter of Kestra's. A dot goes into a map.
pub(super) struct Property {
    pub(super) name: &'static str,
    pub(super) target: Target,
    pub(super) required: bool,
}

/// What becomes of a property.
#[derive(Clone, Copy)]
pub(super) enum Target {
    /// A text.
    Text(&'static str),
    /// A text that may not show.
    Secret(&'static str),
    /// A whole number, of at least 1.
    Number(&'static str),
    /// True or false.
    Flag(&'static str),
    /// A duration, as milliseconds.
    Millis(&'static str),
    /// A duration, as seconds.
    Seconds(&'static str),
    /// A list of texts.
    Texts(&'static str),
    /// Addresses, with what another property says as their path.
    Hosts { field: &'static str, prefix: &'static str },
    /// A header, with the name that another property gives it, or the usual one.
    Header { field: &'static str, name: &'static str, usual: &'static str, scheme: &'static str },
    /// Headers as `Name: value`. An authorization by key or by token has fields of its own.
    Headers { keys: &'static str, tokens: &'static str, others: Option<&'static str> },
    /// Taken, and of use to another property.
    UsedBy(&'static str),
    /// Taken, and of no effect because of this.
    NoEffect(&'static str),
}

/// One field of an exporter of ours, and where in the flow it comes from.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    /// The field: a dot goes into a map.
    pub(super) field: String,
    pub(super) path: String,
    pub(super) place: Place,
    pub(super) value: Setup,
}

#[derive(Clone, Debug)]
pub(super) enum Setup {
    Plain(Value),
    Text(Template),
    Texts(Vec<Template>),
    Secret(Template),
}

impl Mapping {
    /// The mapping of Kestra's type of this name.
    pub(super) fn of(name: &str) -> Result<&'static Mapping, String> {
        if let Some(mapping) = ALL.iter().find(|mapping| mapping.types.contains(&name)) {
            return Ok(mapping);
        }
        if let Some((_, instead)) = NOT_TAKEN.iter().find(|(known, _)| *known == name) {
            return Err(format!("`{name}` is not taken: {instead}"));
        }
        let known: Vec<&str> = ALL.iter().flat_map(|mapping| mapping.types.first()).copied().collect();
        Err(format!("`{name}` is no log exporter that is known here; there are: {}", known.join(", ")))
    }

    /// Reads the properties of one exporter.
    pub(super) fn read(&self, node: &Node, path: &str, reader: &mut Reader<'_>) -> Result<Exporter, Error> {
        let mut given = BTreeMap::new();
        self.collect(node, path, "", &mut given)?;
        let id = reader.required_text(node, path, "id")?;
        let mut settings = Vec::new();
        for property in self.properties {
            if let Some(entry) = given.get(property.name) {
                let at = At { exporter: path, path: format!("{path}.{}", property.name), place: entry.node.place };
                self.apply(property.target, entry, &at, &given, reader, &mut settings)?;
            }
        }
        for (field, value) in self.constants {
            if !settings.iter().any(|setting: &Setting| setting.field == *field) {
                let value = Setup::Plain(Value::from(*value));
                let (path, place) = (path.to_owned(), node.place);
                settings.push(Setting { field: (*field).to_owned(), path, place, value });
            }
        }
        let is_missing = |property: &&Property| property.required && !given.contains_key(property.name);
        let missing = self.properties.iter().filter(is_missing).map(|property| property.name).collect();
        let type_place = node.get("type").map_or(node.place, |node| node.place);
        let (kind, path) = (self.exporter, path.to_owned());
        Ok(Exporter { id, kind, settings, missing, path, place: node.place, type_place })
    }

    /// Finds the properties that are there, and refuses what is none.
    fn collect<'n>(
        &self,
        node: &'n Node,
        path: &str,
        above: &str,
        given: &mut BTreeMap<&'static str, &'n Entry>,
    ) -> Result<(), Error> {
        for entry in node.entries() {
            let name = format!("{above}{}", entry.name);
            if above.is_empty() && matches!(name.as_str(), "id" | "type") {
                continue;
            }
            let below = format!("{name}.");
            if let Some(property) = self.properties.iter().find(|property| property.name == name) {
                given.insert(property.name, entry);
            } else if self.properties.iter().any(|property| property.name.starts_with(&below)) {
                if !matches!(entry.node.content, Content::Map(_)) {
                    let message = format!("must be a map, and is {}", entry.node.kind());
                    return Err(wrong(&format!("{path}.{name}"), entry.node.place, message));
                }
                self.collect(&entry.node, path, &below, given)?;
            } else {
                let names = self.properties.iter().filter_map(|property| property.name.strip_prefix(above));
                let mut names: Vec<&str> = names.map(|name| name.split('.').next().unwrap_or(name)).collect();
                names.dedup();
                let message = format!("is no property that is taken here; there are: {}", names.join(", "));
                return Err(wrong(&format!("{path}.{name}"), entry.place, message));
            }
        }
        Ok(())
    }

    fn apply(
        &self,
        target: Target,
        entry: &Entry,
        at: &At<'_>,
        given: &BTreeMap<&'static str, &Entry>,
        reader: &mut Reader<'_>,
        settings: &mut Vec<Setting>,
    ) -> Result<(), Error> {
        let node = &entry.node;
        let mut set = |field: &str, value: Setup| settings.push(at.setting(field, value));
        match target {
            Target::Text(field) => set(field, Setup::Text(reader.template(node, &at.path)?)),
            Target::Secret(field) => set(field, Setup::Secret(reader.template(node, &at.path)?)),
            Target::Number(field) => set(field, Setup::Plain(reader.number(node, &at.path)?.into())),
            Target::Flag(field) => set(field, Setup::Plain(reader.flag(node, &at.path)?.into())),
            Target::Millis(field) => {
                set(field, Setup::Plain(millis(reader.duration(node, &at.path)?).into()));
            }
            Target::Seconds(field) => {
                set(field, Setup::Plain(reader.duration(node, &at.path)?.as_secs().into()));
            }
            Target::Texts(field) => set(field, Setup::Texts(reader.templates(node, &at.path)?)),
            Target::Hosts { field, prefix } => {
                let mut hosts = reader.templates(node, &at.path)?;
                if let Some(prefix) = at.other(prefix, given, reader)? {
                    hosts.iter_mut().for_each(|host| join(host, &prefix));
                }
                set(field, Setup::Texts(hosts));
            }
            Target::Header { field, name, usual, scheme } => {
                let name = at.other(name, given, reader)?;
                let value = reader.template(node, &at.path)?.with_prefix(scheme);
                set(&format!("{field}.{}", name.as_deref().unwrap_or(usual)), Setup::Secret(value));
            }
            Target::Headers { keys, tokens, others } => {
                for header in reader.templates(node, &at.path)? {
                    let (field, value) = self
                        .header(&header, keys, tokens, others)
                        .map_err(|message| wrong(&at.path, at.place, message))?;
                    set(&field, Setup::Secret(value));
                }
            }
            Target::UsedBy(user) if given.contains_key(user) => {}
            Target::UsedBy(user) => {
                let message = format!("is of no use without `{user}`");
                return Err(wrong(&at.path, entry.place, message));
            }
            Target::NoEffect(why) => reader.notes.push(Note::new(&at.path, entry.place, why)),
        }
        Ok(())
    }

    /// The field and the value of a header as `Name: value`.
    fn header(
        &self,
        header: &Template,
        keys: &str,
        tokens: &str,
        others: Option<&str>,
    ) -> Result<(String, Template), String> {
        let authorization = ["Authorization: ", "authorization: "].iter().find_map(|name| header.strip_prefix(name));
        if let Some(value) = authorization {
            // Where the header as a whole goes is where its scheme stays.
            let is_whole = keys == tokens;
            for (scheme, field) in [("ApiKey ", keys), ("Bearer ", tokens)] {
                if let Some(rest) = value.strip_prefix(scheme) {
                    return Ok((field.to_owned(), if is_whole { value } else { rest }));
                }
            }
            return Err("an `Authorization` can be an `ApiKey` or a `Bearer`; users have `basicAuth`".to_owned());
        }
        let (name, value) = header.split_name().ok_or("each header must be a text such as `Name: value`")?;
        match others {
            Some(field) => Ok((format!("{field}.{name}"), value)),
            None => Err(format!("`{}` sends no headers of one's own but `Authorization`", self.exporter)),
        }
    }
}

/// A property that is read.
struct At<'a> {
    exporter: &'a str,
    path: String,
    place: Place,
}

impl At<'_> {
    /// The text of another property of the same exporter, if it is there.
    fn other(
        &self,
        name: &str,
        given: &BTreeMap<&'static str, &Entry>,
        reader: &Reader<'_>,
    ) -> Result<Option<String>, Error> {
        let entry = given.get(name);
        entry.map(|entry| reader.text(&entry.node, &format!("{}.{name}", self.exporter))).transpose()
    }

    fn setting(&self, field: &str, value: Setup) -> Setting {
        Setting { field: field.to_owned(), path: self.path.clone(), place: self.place, value }
    }
}

impl Exporter {
    /// The fields of the exporter of ours, with `lane`.
    ///
    /// # Errors
    /// When a required property, or a secret in the place of a plain text, is not there.
    pub(super) fn build_fields(&self, context: &BuildContext) -> Result<Fields, Error> {
        if let Some(name) = self.missing.first() {
            let mut message = format!("`{name}` is required");
            if self.kind == "gcs" {
                message.push_str(
                    "; logs for Cloud Logging go through `io.kestra.plugin.ee.gcp.operationalsuite.LogExporter`",
                );
            }
            return Err(wrong(&format!("{}.{name}", self.path), self.place, message).with("exporter", &self.id));
        }
        let mut fields = Fields::new();
        for setting in &self.settings {
            // Each is looked for here, where it is known what asks for it.
            let resolve = |template: &Template| {
                template.expose(|name| {
                    let secret = context.secret(&setting.path, &SecretRef::Provider(name.to_owned()));
                    secret
                        .map(|secret| secret.expose().to_owned())
                        .map_err(|error| setting.place.locate(error).with("exporter", &self.id))
                })
            };
            let value = match &setting.value {
                Setup::Plain(value) => value.clone(),
                Setup::Text(template) => resolve(template)?.into(),
                Setup::Texts(templates) => {
                    templates.iter().map(|template| resolve(template).map(Value::from)).collect::<Result<_, _>>()?
                }
                Setup::Secret(template) => {
                    resolve(template)?;
                    self.reference(setting, template)
                }
            };
            set(&mut fields, &setting.field, value);
        }
        Ok(fields)
    }

    /// What a configuration says in the place of this secret.
    fn reference(&self, setting: &Setting, template: &Template) -> Value {
        match (template.as_text(), template.as_secret()) {
            (Some(text), _) => text.into(),
            (None, Some(name)) => serde_json::json!({"secret": name}),
            (None, None) => serde_json::json!({"secret": self.composed_name(setting)}),
        }
    }

    /// The names of the secrets in it.
    pub(super) fn secret_names(&self) -> impl Iterator<Item = &str> {
        let templates = self.settings.iter().flat_map(|setting| match &setting.value {
            Setup::Plain(_) => [].as_slice(),
            Setup::Text(template) | Setup::Secret(template) => std::slice::from_ref(template),
            Setup::Texts(templates) => templates.as_slice(),
        });
        templates.flat_map(Template::secrets)
    }

    /// Texts that hold secrets among other words, by the names under which a provider finds them.
    pub(super) fn composed(&self) -> impl Iterator<Item = (String, Template)> {
        self.settings.iter().filter_map(|setting| match &setting.value {
            Setup::Secret(template) if template.as_text().is_none() && template.as_secret().is_none() => {
                Some((self.composed_name(setting), template.clone()))
            }
            _ => None,
        })
    }

    fn composed_name(&self, setting: &Setting) -> String {
        format!("({} of {})", setting.field, self.path)
    }

    /// An error about the exporter of ours, said of the flow.
    pub(super) fn translate(&self, error: Error, context: &BuildContext) -> Error {
        let field = error
            .context("field")
            .or_else(|| error.message().split_once("missing field `").and_then(|(_, rest)| rest.split('`').next()));
        let of = |field: &str| {
            let is_of = |setting: &&Setting| {
                let rest = field.strip_prefix(setting.field.as_str());
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
            };
            self.settings.iter().find(is_of)
        };
        let (path, place) = match (field, field.and_then(of)) {
            (_, Some(setting)) => (setting.path.clone(), setting.place),
            (Some("type"), None) => (format!("{}.type", self.path), self.type_place),
            (_, None) => (self.path.clone(), self.place),
        };
        // A plain text may hold a secret, and an error may quote a plain text.
        let text = error.to_string();
        let quotes = self.settings.iter().any(|setting| {
            let templates = match &setting.value {
                Setup::Text(template) | Setup::Secret(template) => std::slice::from_ref(template),
                Setup::Texts(templates) => templates,
                Setup::Plain(_) => &[],
            };
            templates.iter().flat_map(Template::secrets).any(|name| {
                let secret = context.secret(&setting.path, &SecretRef::Provider(name.to_owned()));
                secret.is_ok_and(|secret| !secret.expose().is_empty() && text.contains(secret.expose()))
            })
        });
        let error = match quotes {
            true => Error::new(ErrorKind::Config, "read configuration", "what the secret holds is not taken here"),
            false => error,
        };
        place.locate(error.with("property", path).with("exporter", &self.id))
    }
}

impl Template {
    fn with_prefix(mut self, prefix: &str) -> Template {
        if !prefix.is_empty() {
            self.0.insert(0, super::template::Piece::Text(prefix.to_owned()));
        }
        self.joined()
    }

    /// `Name: value` as the two.
    fn split_name(&self) -> Option<(String, Template)> {
        let super::template::Piece::Text(first) = self.0.first()? else { return None };
        let (name, _) = first.split_once(':')?;
        let value = self.strip_prefix(&format!("{name}: ")).or_else(|| self.strip_prefix(&format!("{name}:")))?;
        Some((name.trim().to_owned(), value))
    }
}

/// Puts a path behind an address.
fn join(host: &mut Template, prefix: &str) {
    use super::template::Piece::Text;
    if let Some(Text(last)) = host.0.last_mut() {
        last.truncate(last.trim_end_matches('/').len());
    }
    host.0.push(Text(format!("/{}", prefix.trim_matches('/'))));
    *host = host.clone().joined();
}

fn set(fields: &mut Fields, field: &str, value: Value) {
    match field.split_once('.') {
        // What comes after a map of headers is a name, dots and all.
        Some((first, rest)) => {
            let below = fields.entry(first).or_insert_with(|| Value::Object(Fields::new()));
            if let Value::Object(below) = below {
                if first == "headers" {
                    below.insert(rest.to_owned(), value);
                } else {
                    set(below, rest, value);
                }
            }
        }
        None => {
            fields.insert(field.to_owned(), value);
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
