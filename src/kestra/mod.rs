//! Log shippers written as flows of Kestra.
//!
//! A [`Flow`] is read from its YAML as it stands, and each task in it that ships logs becomes a [`Shipper`]. What a flow
//! does not hold comes from the program: the log store that is read, the offset store, secrets, and, in a
//! [`FlowContext`], variables and inputs.
//!
//! ```
//! use std::sync::Arc;
//!
//! use logship::kestra::{EnvironmentSecrets, Flow, FlowContext};
//! use logship::sources::memory::MemorySource;
//! use logship::state::memory::MemoryOffsets;
//! use logship::{BuildContext, registry};
//!
//! let flow = Flow::parse(
//!     r#"
//! id: log_shipper
//! namespace: company.team
//! tasks:
//!   - id: ship
//!     type: io.kestra.plugin.ee.core.log.LogShipper
//!     logLevelFilter: WARNING
//!     lookbackPeriod: P1W
//!     logExporters:
//!       - id: archive
//!         type: io.kestra.plugin.ee.core.log.FileLogExporter
//!         format: JSON
//! "#,
//!     &FlowContext::new().storage(std::env::temp_dir()),
//! )?;
//!
//! // Secrets as Kestra's open edition keeps them: SECRET_NAME in the environment, in base64.
//! let context = BuildContext::new(Arc::new(EnvironmentSecrets));
//! let source = Arc::new(MemorySource::new());
//! let offsets = Arc::new(MemoryOffsets::new());
//! for shipper in &flow.shippers {
//!     let log_shipper = shipper.build(source.clone(), offsets.clone(), &registry(), &context)?;
//!     // ... log_shipper.run_once().await, whenever `flow.triggers` say.
//! }
//! # Ok::<(), logship::Error>(())
//! ```
//!
//! What is written is checked when the flow is read, and what is missing when a shipper is built: a required property,
//! a secret, an exporter that is not compiled in. Errors name the property, the line and the column.
//!
//! `docs/migrating-from-kestra.md` says what maps to what, and what differs.

/// The page's example compiles.
#[cfg(all(doctest, feature = "postgres", feature = "file"))]
#[doc = include_str!("../../docs/migrating-from-kestra.md")]
struct MigrationPage;

mod exporters;
mod mapping;
mod reader;
mod secrets;
mod shipper;
mod template;

use std::fmt;
use std::path::PathBuf;

use logship_core::{Error, Fields};
use serde_json::{Map, Value};

pub use secrets::EnvironmentSecrets;
pub use shipper::{Exporter, Reads, Shipper};

use crate::document::{Content, Node, Place, Syntax};
use reader::{Reader, wrong};
use template::Renderer;

/// What a flow refers to and does not hold.
#[derive(Clone, Default)]
pub struct FlowContext {
    vars: Map<String, Value>,
    inputs: Map<String, Value>,
    outputs: Map<String, Value>,
    storage: Option<PathBuf>,
}

impl FlowContext {
    /// Nothing.
    pub fn new() -> Self {
        FlowContext::default()
    }

    /// With a variable, `{{ vars.name }}`. It wins over one of the same name in the flow's `variables`.
    #[must_use]
    pub fn variable(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.vars.insert(name.into(), value.into());
        self
    }

    /// With an input, `{{ inputs.name }}`. It wins over the default that the flow gives it.
    #[must_use]
    pub fn input(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.inputs.insert(name.into(), value.into());
        self
    }

    /// With what a task gave out, `{{ outputs.task. ... }}`: that of a shipper is [`Shipper::outputs`].
    #[must_use]
    pub fn output(mut self, task: impl Into<String>, value: impl Into<Value>) -> Self {
        self.outputs.insert(task.into(), value.into());
        self
    }

    /// With the folder that takes the place of Kestra's internal storage. The files of an exporter go into a folder of
    /// its own in there: `namespace/flow/task/exporter`. Default: `storage`, in the folder the program runs in.
    #[must_use]
    pub fn storage(mut self, folder: impl Into<PathBuf>) -> Self {
        self.storage = Some(folder.into());
        self
    }
}

/// Values may be secrets, so only names show.
impl fmt::Debug for FlowContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FlowContext")
            .field("vars", &self.vars.keys())
            .field("inputs", &self.inputs.keys())
            .field("outputs", &self.outputs.keys())
            .field("storage", &self.storage)
            .finish()
    }
}

/// A flow of Kestra's.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Flow {
    /// Its id.
    pub id: String,
    /// Its namespace.
    pub namespace: String,
    /// Whether it is switched off. Nothing here looks at it but the program.
    pub disabled: bool,
    /// The tasks that ship logs, in order.
    pub shippers: Vec<Shipper>,
    /// All other tasks, in order. Nothing here runs them.
    pub tasks: Vec<OtherTask>,
    /// What starts it.
    pub triggers: Vec<Trigger>,
    /// What was taken and has no effect here, and why.
    pub notes: Vec<Note>,
}

/// A task that ships no logs.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct OtherTask {
    /// Its id.
    pub id: String,
    /// Its type.
    pub kind: String,
    node: Node,
    path: String,
    defaults: FlowContext,
}

/// What starts a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Trigger {
    /// Its id.
    pub id: String,
    /// Its type.
    pub kind: String,
    /// When, for a schedule: a cron expression or a name such as `@daily`, as it is written.
    pub cron: Option<String>,
    /// The time zone of `cron`. Where there is none, Kestra takes the server's.
    pub timezone: Option<String>,
    /// Whether it is switched off.
    pub disabled: bool,
}

/// Something that was taken and has no effect here.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Note {
    /// The property.
    pub property: String,
    /// Its line, from 1.
    pub line: u64,
    /// Why it has no effect.
    pub reason: String,
}

impl Note {
    fn new(path: &str, place: Place, reason: &str) -> Self {
        Note { property: path.to_owned(), line: place.line, reason: reason.to_owned() }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {} has no effect: {}", self.line, self.property, self.reason)
    }
}

/// What a flow may say. What is not one of these is a mistake.
const FLOW_PROPERTIES: &[&str] = &[
    "id",
    "namespace",
    "tasks",
    "triggers",
    "variables",
    "inputs",
    "outputs",
    "description",
    "labels",
    "disabled",
    "revision",
    "tenantId",
    "errors",
    "finally",
    "afterExecution",
    "concurrency",
    "pluginDefaults",
    "taskDefaults",
    "retry",
    "sla",
    "editable",
    "deleted",
    "workerGroup",
];

impl Flow {
    /// Whether a text looks like a flow, and not like a configuration of logship's own: it has `tasks`.
    pub fn is_flow(yaml: &str) -> bool {
        Node::parse(yaml, Syntax::Yaml).is_ok_and(|root| root.get("tasks").is_some())
    }

    /// Reads a flow.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](logship_core::ErrorKind::Config), with the property, the line and the column, for
    /// everything in a shipper that is not understood. Other tasks are taken as they are.
    pub fn parse(yaml: &str, context: &FlowContext) -> Result<Flow, Error> {
        let root = Node::parse(yaml, Syntax::Yaml)?;
        if !matches!(root.content, Content::Map(_)) {
            return Err(wrong("flow", root.place, format!("a flow is a map, and this is {}", root.kind())));
        }
        if let Some(entry) = root.entries().iter().find(|entry| !FLOW_PROPERTIES.contains(&entry.name.as_str())) {
            let message = format!("is no property of a flow; there are: {}", FLOW_PROPERTIES.join(", "));
            return Err(wrong(&entry.name, entry.place, message));
        }
        for name in ["pluginDefaults", "taskDefaults"] {
            root.get(name).map_or(Ok(()), |node| refuse_defaults(node, name))?;
        }
        let context = with_defaults(&root, context)?;
        let renderer = Renderer::new(&context);
        let mut reader = Reader { renderer: &renderer, notes: Vec::new() };
        let mut flow = Flow {
            id: reader.required_text(&root, "flow", "id")?,
            namespace: reader.required_text(&root, "flow", "namespace")?,
            disabled: root.get("disabled").map_or(Ok(false), |node| reader.flag(node, "disabled"))?,
            shippers: Vec::new(),
            tasks: Vec::new(),
            triggers: Vec::new(),
            notes: Vec::new(),
        };
        for name in ["tasks", "errors", "finally", "afterExecution"] {
            if let Some(tasks) = root.get(name) {
                flow.read_tasks(tasks, name, &context, &mut reader)?;
            }
        }
        if flow.shippers.is_empty() {
            let place = root.entry("tasks").map_or(root.place, |entry| entry.place);
            let message = format!("no task ships logs: that is one of type {}", shipper::TYPES.join(" or "));
            return Err(wrong("tasks", place, message));
        }
        for (index, node) in root.get("triggers").map(Node::items).unwrap_or_default().iter().enumerate() {
            flow.triggers.push(Trigger::read(node, &format!("triggers[{index}]"), &reader)?);
        }
        flow.notes = reader.notes;
        Ok(flow)
    }

    /// Reads a list of tasks, and the tasks in them.
    fn read_tasks(
        &mut self,
        tasks: &Node,
        path: &str,
        context: &FlowContext,
        reader: &mut Reader<'_>,
    ) -> Result<(), Error> {
        if !matches!(tasks.content, Content::List(_)) {
            return Err(wrong(path, tasks.place, format!("must be a list of tasks, and is {}", tasks.kind())));
        }
        for (index, node) in tasks.items().iter().enumerate() {
            let path = format!("{path}[{index}]");
            let kind = reader.required_text(node, &path, "type")?;
            if shipper::TYPES.contains(&kind.as_str()) {
                self.shippers.push(Shipper::read(node, &path, &kind, self, context, reader)?);
                continue;
            }
            if kind.ends_with("LogShipper") || node.get("logExporters").is_some() {
                let message = format!("`{kind}` is no shipper that is known; there are: {}", shipper::TYPES.join(", "));
                let place = node.get("type").map_or(node.place, |node| node.place);
                return Err(wrong(&format!("{path}.type"), place, message));
            }
            let id = reader.required_text(node, &path, "id")?;
            let defaults = context.clone();
            self.tasks.push(OtherTask { id, kind, node: node.clone(), path: path.clone(), defaults });
            for name in ["tasks", "then", "else"] {
                if let Some(inner) = node.get(name).filter(|inner| !inner.items().is_empty()) {
                    self.read_tasks(inner, &format!("{path}.{name}"), context, reader)?;
                }
            }
        }
        Ok(())
    }
}

/// Values that a flow hands to tasks behind their backs would be lost without a word.
fn refuse_defaults(node: &Node, name: &str) -> Result<(), Error> {
    for (index, item) in node.items().iter().enumerate() {
        let kind = item.get("type").and_then(Node::as_text).unwrap_or_default();
        if kind.contains("LogExporter") || kind.contains("LogShipper") {
            let message = "defaults are not handed on to shippers and their exporters: write them there";
            return Err(wrong(&format!("{name}[{index}]"), item.place, message));
        }
    }
    Ok(())
}

/// The context with the flow's own variables and the defaults of its inputs behind the program's.
fn with_defaults(root: &Node, context: &FlowContext) -> Result<FlowContext, Error> {
    let mut context = context.clone();
    for entry in root.get("variables").map(Node::entries).unwrap_or_default() {
        if !context.vars.contains_key(&entry.name) {
            let value = render_all(&entry.node, &format!("variables.{}", entry.name), &Renderer::new(&context))?;
            context.vars.insert(entry.name.clone(), value);
        }
    }
    for input in root.get("inputs").map(Node::items).unwrap_or_default() {
        let (Some(id), Some(default)) = (input.get("id").and_then(Node::as_text), input.get("defaults")) else {
            continue;
        };
        if !context.inputs.contains_key(id) {
            context.inputs.insert(id.to_owned(), default.to_value());
        }
    }
    Ok(context)
}

/// A value with every expression in it filled in.
fn render_all(node: &Node, path: &str, renderer: &Renderer) -> Result<Value, Error> {
    Ok(match &node.content {
        Content::Text(text) => {
            let template = renderer.render(text).map_err(|message| wrong(path, node.place, message))?;
            match (template.as_text(), template.as_secret()) {
                (Some(text), _) => text.into(),
                (None, Some(name)) => serde_json::json!({"secret": name}),
                (None, None) => {
                    let message = "a secret among other words is taken in an exporter's properties only";
                    return Err(wrong(path, node.place, message));
                }
            }
        }
        Content::List(nodes) => {
            let each = nodes.iter().enumerate();
            each.map(|(index, node)| render_all(node, &format!("{path}[{index}]"), renderer))
                .collect::<Result<_, _>>()?
        }
        Content::Map(entries) => {
            let each = entries.iter().map(|entry| {
                let value = render_all(&entry.node, &format!("{path}.{}", entry.name), renderer)?;
                Ok((entry.name.clone(), value))
            });
            Value::Object(each.collect::<Result<_, Error>>()?)
        }
        _ => node.to_value(),
    })
}

impl OtherTask {
    /// The task's properties, with what is known filled in: variables, inputs, and the outputs of tasks that have run,
    /// as the context says them. A secret becomes `{"secret": "NAME"}`.
    ///
    /// # Errors
    /// When an expression is not understood, or refers to what is not known.
    pub fn properties(&self, context: &FlowContext) -> Result<Fields, Error> {
        let mut all = self.defaults.clone();
        all.vars.extend(context.vars.clone());
        all.inputs.extend(context.inputs.clone());
        all.outputs.extend(context.outputs.clone());
        let renderer = Renderer::new(&all);
        let own = self.node.entries().iter().filter(|entry| !matches!(entry.name.as_str(), "id" | "type"));
        own.map(|entry| {
            let value = render_all(&entry.node, &format!("{}.{}", self.path, entry.name), &renderer)?;
            Ok((entry.name.clone(), value))
        })
        .collect()
    }
}

impl Trigger {
    fn read(node: &Node, path: &str, reader: &Reader<'_>) -> Result<Trigger, Error> {
        let text = |name: &str| node.get(name).map(|node| reader.text(node, &format!("{path}.{name}"))).transpose();
        let kind = reader.required_text(node, path, "type")?;
        let is_schedule = kind.ends_with(".Schedule");
        Ok(Trigger {
            id: reader.required_text(node, path, "id")?,
            cron: if is_schedule { Some(reader.required_text(node, path, "cron")?) } else { None },
            timezone: if is_schedule { text("timezone")? } else { None },
            disabled: node.get("disabled").map_or(Ok(false), |node| reader.flag(node, &format!("{path}.disabled")))?,
            kind,
        })
    }
}
