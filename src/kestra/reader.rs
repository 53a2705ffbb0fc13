//! Reads single values of a flow, with errors that say which and where.

use std::time::Duration;

use logship_core::Error;

use super::Note;
use super::template::{Renderer, Template};
use crate::config::parse_duration;
use crate::document::{Content, Node, Place};

/// Reads values, and gathers what is worth a note.
pub(super) struct Reader<'a> {
    pub(super) renderer: &'a Renderer,
    pub(super) notes: Vec<Note>,
}

/// A configuration error about this property, at this place.
pub(super) fn wrong(path: &str, place: Place, message: impl Into<String>) -> Error {
    place.locate(Error::config(path, message))
}

impl Reader<'_> {
    /// A text in which secrets still stand by their names.
    pub(super) fn template(&self, node: &Node, path: &str) -> Result<Template, Error> {
        let text = match &node.content {
            Content::Text(text) => text,
            // How it was written is gone, be it 010 or 1.10.
            Content::Number(_) | Content::Bool(_) => {
                let message = format!("must be a text, and is {}: put it in quotes", node.kind());
                return Err(wrong(path, node.place, message));
            }
            _ => return Err(wrong(path, node.place, format!("must be a text, and is {}", node.kind()))),
        };
        let template = self.renderer.render(text).map_err(|message| wrong(path, node.place, message))?;
        match template.as_text() {
            Some("") => Err(wrong(path, node.place, "must not be empty")),
            _ => Ok(template),
        }
    }

    /// A list of texts, or one text.
    pub(super) fn templates(&self, node: &Node, path: &str) -> Result<Vec<Template>, Error> {
        match &node.content {
            Content::List(nodes) if nodes.is_empty() => Err(wrong(path, node.place, "must not be empty")),
            Content::List(nodes) => {
                let each = nodes.iter().enumerate();
                each.map(|(index, node)| self.template(node, &format!("{path}[{index}]"))).collect()
            }
            Content::Text(_) => Ok(vec![self.template(node, path)?]),
            _ => Err(wrong(path, node.place, format!("must be a list of texts, and is {}", node.kind()))),
        }
    }

    /// A text in which no secret may stand.
    pub(super) fn text(&self, node: &Node, path: &str) -> Result<String, Error> {
        let template = self.template(node, path)?;
        let secret = || wrong(path, node.place, "must be known when the flow is read, and so cannot hold a secret");
        template.as_text().map(str::to_owned).ok_or_else(secret)
    }

    /// The text of a property that must be there.
    pub(super) fn required_text(&self, node: &Node, path: &str, name: &str) -> Result<String, Error> {
        let path = format!("{path}.{name}");
        match node.get(name) {
            Some(node) => self.text(node, &path),
            None => Err(wrong(&path, node.place, format!("`{name}` is required"))),
        }
    }

    /// A whole number of at least 1, also in quotes or from an expression.
    pub(super) fn number(&self, node: &Node, path: &str) -> Result<u64, Error> {
        let number = match &node.content {
            Content::Number(number) => number.as_u64(),
            Content::Text(_) => self.text(node, path)?.parse().ok(),
            _ => None,
        };
        let not = || wrong(path, node.place, format!("must be a whole number of at least 1, and is {}", node.kind()));
        number.filter(|number| *number > 0).ok_or_else(not)
    }

    /// True or false, also in quotes or from an expression.
    pub(super) fn flag(&self, node: &Node, path: &str) -> Result<bool, Error> {
        let flag = match &node.content {
            Content::Bool(flag) => Some(*flag),
            Content::Text(_) => self.text(node, path)?.parse().ok(),
            _ => None,
        };
        flag.ok_or_else(|| wrong(path, node.place, "must be true or false"))
    }

    /// A duration as ISO 8601 writes it.
    pub(super) fn duration(&self, node: &Node, path: &str) -> Result<Duration, Error> {
        let text = self.text(node, path)?;
        if !text.starts_with('P') {
            let message = "must be a duration of ISO 8601 such as P1D, PT12H or P1W";
            return Err(wrong(path, node.place, message));
        }
        parse_duration(&text).map_err(|message| wrong(path, node.place, message))
    }
}
