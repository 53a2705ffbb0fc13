//! The expressions in braces: `{{ secret('X') }}`, `{{ vars.x }}`, `{{ inputs.x }}`, `{{ outputs.task.... }}`.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use minijinja::value::{Enumerator, Object, ObjectRepr, Serde, Value};
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior, filters};
use serde_json::Map;

use super::FlowContext;

/// A text in which secrets still stand by their names.
#[derive(Clone, PartialEq)]
pub(super) struct Template(pub(super) Vec<Piece>);

#[derive(Clone, PartialEq)]
pub(super) enum Piece {
    Text(String),
    Secret(String),
}

impl Template {
    /// The text, if there is no secret in it.
    pub(super) fn as_text(&self) -> Option<&str> {
        match self.0.as_slice() {
            [] => Some(""),
            [Piece::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// The secret's name, if the text is a secret and nothing else.
    pub(super) fn as_secret(&self) -> Option<&str> {
        if let [Piece::Secret(name)] = self.0.as_slice() { Some(name) } else { None }
    }

    /// The names of the secrets in it.
    pub(super) fn secrets(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|piece| if let Piece::Secret(name) = piece { Some(name.as_str()) } else { None })
    }

    /// The same without these words at its beginning, if it begins so.
    pub(super) fn strip_prefix(&self, prefix: &str) -> Option<Template> {
        let [Piece::Text(first), rest @ ..] = self.0.as_slice() else { return None };
        let first = first.strip_prefix(prefix)?;
        let first = (!first.is_empty()).then(|| Piece::Text(first.to_owned()));
        Some(Template(first.into_iter().chain(rest.iter().cloned()).collect()))
    }

    /// The same with neighbouring texts put together.
    pub(super) fn joined(self) -> Template {
        let mut pieces: Vec<Piece> = Vec::new();
        for piece in self.0 {
            match (pieces.last_mut(), piece) {
                (Some(Piece::Text(last)), Piece::Text(text)) => last.push_str(&text),
                (_, piece) => pieces.push(piece),
            }
        }
        Template(pieces)
    }

    /// The text, with each secret looked up; the first that fails ends it.
    pub(super) fn expose<E>(&self, mut secret: impl FnMut(&str) -> Result<String, E>) -> Result<String, E> {
        let mut text = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(part) => text.push_str(part),
                Piece::Secret(name) => text.push_str(&secret(name)?),
            }
        }
        Ok(text)
    }
}

/// Texts may be secrets written in clear.
impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = self.0.iter().map(|piece| match piece {
            Piece::Text(_) => "***".to_owned(),
            Piece::Secret(name) => format!("secret {name}"),
        });
        f.write_str(&parts.collect::<Vec<_>>().join(" + "))
    }
}

/// What stands in a rendered text in the place of a secret: between two characters for private use its number, and
/// letters that show if a filter has changed them.
const OPEN: char = '\u{f8f0}';
const CLOSE: char = '\u{f8f1}';
const SEAL: &str = "sEcReT";

/// What expressions can refer to.
pub(super) struct Renderer {
    environment: Environment<'static>,
    root: Value,
    secrets: Arc<Mutex<Vec<String>>>,
}

impl Renderer {
    pub(super) fn new(context: &FlowContext) -> Self {
        let secrets: Arc<Mutex<Vec<String>>> = Arc::default();
        let mut environment = Environment::empty();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.add_filter("first", filters::first);
        environment.add_filter("last", filters::last);
        environment.add_filter("lower", filters::lower);
        environment.add_filter("upper", filters::upper);
        let named = Arc::clone(&secrets);
        environment.add_function("secret", move |name: String| {
            let mut named = named.lock().unwrap_or_else(PoisonError::into_inner);
            named.push(name);
            format!("{OPEN}{SEAL}{}{CLOSE}", named.len() - 1)
        });
        let root =
            Root { vars: context.vars.clone(), inputs: context.inputs.clone(), outputs: context.outputs.clone() };
        Renderer { environment, root: Value::from_object(root), secrets }
    }

    /// Fills in what is known, or says what is not.
    pub(super) fn render(&self, text: &str) -> Result<Template, String> {
        if !["{{", "{%", "{#", "\u{f8f0}"].iter().any(|mark| text.contains(mark)) {
            return Ok(Template(vec![Piece::Text(text.to_owned())]));
        }
        self.secrets.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let rendered = self.environment.render_str(text, self.root.clone()).map_err(|error| explain(&error))?;
        let secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        let mut pieces = Vec::new();
        let mut parts = rendered.split(OPEN);
        pieces.extend(parts.next().filter(|part| !part.is_empty()).map(|part| Piece::Text(part.to_owned())));
        for part in parts {
            let changed = || "a secret can be put into a text, and not be changed by a filter".to_owned();
            let (mark, rest) = part.split_once(CLOSE).ok_or_else(changed)?;
            let index: Option<usize> = mark.strip_prefix(SEAL).and_then(|number| number.parse().ok());
            let name = index.and_then(|index| secrets.get(index)).ok_or_else(changed)?;
            pieces.push(Piece::Secret(name.clone()));
            if !rest.is_empty() {
                pieces.push(Piece::Text(rest.to_owned()));
            }
        }
        Ok(Template(pieces))
    }
}

/// What is wrong with an expression, without what stands around it.
fn explain(error: &Error) -> String {
    let detail = error.detail().unwrap_or_default();
    match error.kind() {
        ErrorKind::SyntaxError => format!("this is no expression that is understood: {detail}"),
        ErrorKind::UnknownFilter => format!("{detail}; there are: first, last, lower, upper"),
        ErrorKind::UnknownFunction => format!("{detail}; there is: secret"),
        ErrorKind::InvalidOperation if detail.ends_with("is not callable") => {
            "there is no such function; there is: secret".to_owned()
        }
        ErrorKind::UndefinedError if detail.is_empty() => "a part of this expression is not there".to_owned(),
        _ if detail.is_empty() => error.kind().to_string(),
        _ => detail.to_owned(),
    }
}

/// The names that an expression can begin with.
#[derive(Debug)]
struct Root {
    vars: Map<String, serde_json::Value>,
    inputs: Map<String, serde_json::Value>,
    outputs: Map<String, serde_json::Value>,
}

impl Object for Root {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let known = |path: &str, hint, map: &Map<_, _>| {
            Some(Value::from_object(Known { path: path.to_owned(), hint, map: map.clone() }))
        };
        match key.as_str()? {
            "vars" => known("vars", "the flow's `variables` or the program that reads the flow can set it", &self.vars),
            "inputs" => known("inputs", "the program that reads the flow can set it", &self.inputs),
            "outputs" => known("outputs", "outputs are known once their task has run", &self.outputs),
            // A function, which is found elsewhere.
            "secret" => None,
            other => Some(missing(format!("`{other}` is not known here; use secret('X'), vars, inputs or outputs"))),
        }
    }
}

/// A map that says what it has when it is asked for something else.
#[derive(Debug)]
struct Known {
    path: String,
    hint: &'static str,
    map: Map<String, serde_json::Value>,
}

impl Object for Known {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Map
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let key = key.to_string();
        let path = format!("{}.{key}", self.path);
        Some(match self.map.get(&key) {
            Some(serde_json::Value::Object(map)) => {
                Value::from_object(Known { path, hint: self.hint, map: map.clone() })
            }
            Some(value) => Value::from(Serde(value)),
            None => {
                let names: Vec<&str> = self.map.keys().map(String::as_str).collect();
                let there = if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
                missing(format!("there is no `{path}`; in `{}` there is: {there}; {}", self.path, self.hint))
            }
        })
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.map.keys().map(|key| Value::from(key.as_str())).collect())
    }
}

fn missing(message: String) -> Value {
    Value::from(Error::new(ErrorKind::UndefinedError, message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn render(text: &str) -> Result<Template, String> {
        let context = FlowContext::new()
            .variable("region", "eu-west-1")
            .input("n", 5)
            .output("sync", json!({"outputs": {"file": {"uri": "file:///a", "uris": ["file:///a", "file:///b"]}}}));
        Renderer::new(&context).render(text)
    }

    #[test]
    fn what_is_known_is_filled_in_and_secrets_stay_names() {
        for (text, filled) in [
            ("plain", "plain"),
            ("{{ vars.region }}/{{inputs.n}}", "eu-west-1/5"),
            ("{{ vars['region'] | upper }}", "EU-WEST-1"),
            ("{{ outputs.sync.outputs.file.uri }}", "file:///a"),
            ("{{ outputs.sync.outputs.file.uris | last }}", "file:///b"),
        ] {
            assert_eq!(render(text).unwrap().as_text(), Some(filled), "{text}");
        }
        assert_eq!(render(r#"{{ secret("X") }}"#).unwrap().as_secret(), Some("X"));
        let bearer = render("Bearer {{ secret('A') }}{{ secret('B') }}").unwrap();
        assert_eq!(bearer.secrets().collect::<Vec<_>>(), ["A", "B"]);
        assert_eq!(bearer.expose(|name| Ok::<_, ()>(name.repeat(2))).unwrap(), "Bearer AABB");
        assert_eq!(bearer.strip_prefix("Bearer ").unwrap().secrets().count(), 2);
        assert_eq!(format!("{bearer:?}"), "*** + secret A + secret B");
    }

    #[test]
    fn what_is_not_known_is_named() {
        for (text, words) in [
            ("{{ vars.regoin }}", "there is no `vars.regoin`; in `vars` there is: region"),
            ("{{ outputs.other.uri }}", "known once their task has run"),
            ("{{ outputs.sync.outputs.fle.uri }}", "no `outputs.sync.outputs.fle`"),
            ("{{ flow.id }}", "`flow` is not known here"),
            ("{{ kv('x') }}", "there is no such function"),
            ("{{ secret('X') | upper }}", "not be changed by a filter"),
            ("{{ vars.region | trim }}", "filter trim is unknown"),
            ("{{ vars.region", "no expression that is understood"),
            ("{{ secret() }}", "missing"),
        ] {
            let error = render(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
