//! The tasks that ship logs.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use logship_core::{
    BuildContext, Error, Fields, Filter, Lane, LaneOptions, LogShipper, LogShipperBuilder, OffsetKey, OffsetStore,
    Query, Registry, RunReport, Severity, Source, read_fields,
};
use serde_json::{Map, Value, json};

use super::mapping::{Mapping, Setting, Setup};
use super::reader::{Reader, wrong};
use super::secrets::Composed;
use super::{Flow, FlowContext, Note};
use crate::document::{Content, Node, Place};

const LOG_SHIPPER: &str = "io.kestra.plugin.ee.core.log.LogShipper";
const AUDIT_LOG_SHIPPER: &str = "io.kestra.plugin.ee.core.log.AuditLogShipper";
/// The types of the tasks that ship logs.
pub(super) const TYPES: &[&str] = &[LOG_SHIPPER, AUDIT_LOG_SHIPPER];

/// A task that ships logs: an equivalent of a [`LogShipper`], but for the stores that its flow does not hold.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Shipper {
    /// The task's id.
    pub id: String,
    /// Which logs it reads, and so which source it needs.
    pub reads: Reads,
    /// Which of them are shipped.
    pub query: Query,
    /// How far before now it begins where there is no offset yet. Kestra's default, a day.
    pub lookback: Duration,
    /// The name of its offsets: `namespace.offsetKey`, for audit logs with `.audit` behind it, so that neither another
    /// namespace nor the other kind of shipper ever writes to them.
    pub offset_key: String,
    /// Whether logs are deleted from the log store once every exporter has them.
    pub delete: bool,
    /// How long a run may take. Default: without end.
    pub timeout: Option<Duration>,
    /// Whether the task is switched off. Nothing here looks at it but the program.
    pub disabled: bool,
    /// Where the logs go.
    pub exporters: Vec<Exporter>,
    path: String,
    place: Place,
    offset_key_place: Place,
}

/// Which logs a shipper reads.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reads {
    /// The logs of executions: Kestra's `logs` table, which is the default of the sources `postgres`, `mysql` and
    /// `sqlite`.
    Executions,
    /// Audit logs.
    AuditLogs {
        /// Only those about these resources, by Kestra's names in upper case, such as `FLOW` and `KV_STORE`; each also
        /// by the other names it has had. Empty for all. They are in [`Shipper::query`] too, as a condition on
        /// [`Reads::RESOURCE`].
        resources: Vec<String>,
    },
}

impl Reads {
    /// The attribute of an audit log that says what it is about.
    pub const RESOURCE: &str = "resource";
}

/// One exporter of a shipper.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Exporter {
    /// Its id, which is that of its lane.
    pub id: String,
    /// What it is in the [`Registry`], such as `elasticsearch`.
    pub kind: &'static str,
    pub(super) settings: Vec<Setting>,
    pub(super) missing: Vec<&'static str>,
    pub(super) path: String,
    pub(super) place: Place,
    pub(super) type_place: Place,
}

/// Names that Kestra has changed: each list is one resource.
const RESOURCE_NAMES: &[&[&str]] = &[&["KV_STORE", "KVSTORE"], &["SETTING", "SYSTEM_SETTINGS", "TENANT_SETTINGS"]];

impl Shipper {
    pub(super) fn read(
        node: &Node,
        path: &str,
        kind: &str,
        flow: &Flow,
        context: &FlowContext,
        reader: &mut Reader<'_>,
    ) -> Result<Shipper, Error> {
        let is_audit = kind == AUDIT_LOG_SHIPPER;
        let id = reader.required_text(node, path, "id")?;
        let (reads, usual_key, suffix) = match is_audit {
            true => (Reads::AuditLogs { resources: Vec::new() }, "AuditLogShipper-state", ".audit"),
            false => (Reads::Executions, "LogShipper-state", ""),
        };
        // Kestra's own default; audit logs have no level.
        let query = if is_audit { Query::all() } else { Query::all().severity_min(Severity::INFO) };
        let mut shipper = Shipper {
            id,
            reads,
            query,
            lookback: Duration::from_secs(24 * 60 * 60),
            offset_key: format!("{}.{usual_key}{suffix}", flow.namespace),
            delete: false,
            timeout: None,
            disabled: false,
            exporters: Vec::new(),
            path: path.to_owned(),
            place: node.place,
            offset_key_place: node.place,
        };
        for entry in node.entries() {
            let (node, path) = (&entry.node, format!("{path}.{}", entry.name));
            match entry.name.as_str() {
                "id" | "type" | "description" => {}
                "logExporters" => shipper.read_exporters(node, &path, &flow.namespace, &flow.id, context, reader)?,
                "lookbackPeriod" => shipper.lookback = reader.duration(node, &path)?,
                "offsetKey" => {
                    shipper.offset_key = format!("{}.{}{suffix}", flow.namespace, reader.text(node, &path)?);
                    shipper.offset_key_place = node.place;
                }
                "delete" => shipper.delete = reader.flag(node, &path)?,
                "disabled" => shipper.disabled = reader.flag(node, &path)?,
                "timeout" => shipper.timeout = Some(reader.duration(node, &path)?),
                "batchSize" => {
                    reader.number(node, &path)?;
                    let reason = "how much is read at a time follows from the byte budget";
                    reader.notes.push(Note::new(&path, entry.place, reason));
                }
                "resources" if is_audit => shipper.read_resources(node, &path, reader)?,
                "logLevelFilter" if !is_audit => shipper.query.severity_min = Some(level(node, &path, reader)?),
                "namespace" if !is_audit => shipper.narrow(Filter::within("namespace", reader.text(node, &path)?)),
                "flowId" if !is_audit => shipper.narrow(Filter::equals("flowId", reader.text(node, &path)?)),
                "executionId" if !is_audit => shipper.narrow(Filter::equals("executionId", reader.text(node, &path)?)),
                _ => {
                    let own = if is_audit { "resources" } else { "logLevelFilter, namespace, flowId, executionId" };
                    let message = format!(
                        "is no property that is taken here; there are: logExporters, {own}, lookbackPeriod, \
                         offsetKey, delete, batchSize, description, disabled, timeout"
                    );
                    return Err(wrong(&path, entry.place, message));
                }
            }
        }
        if shipper.exporters.is_empty() {
            let message = "`logExporters` is required, with at least one exporter";
            return Err(wrong(&format!("{path}.logExporters"), node.place, message));
        }
        OffsetKey::new(&shipper.offset_key)
            .map_err(|error| wrong(&format!("{path}.offsetKey"), shipper.offset_key_place, error.message()))?;
        Ok(shipper)
    }

    fn narrow(&mut self, filter: Filter) {
        self.query.filters.push(filter);
    }

    fn read_exporters(
        &mut self,
        node: &Node,
        path: &str,
        namespace: &str,
        flow: &str,
        context: &FlowContext,
        reader: &mut Reader<'_>,
    ) -> Result<(), Error> {
        if !matches!(node.content, Content::List(_)) {
            return Err(wrong(path, node.place, format!("must be a list of exporters, and is {}", node.kind())));
        }
        for (index, node) in node.items().iter().enumerate() {
            let path = format!("{path}[{index}]");
            let kind = reader.required_text(node, &path, "type")?;
            let type_place = node.get("type").map_or(node.place, |node| node.place);
            let mapping = Mapping::of(&kind).map_err(|message| wrong(&format!("{path}.type"), type_place, message))?;
            let mut exporter = mapping.read(node, &path, reader)?;
            if self.exporters.iter().any(|other| other.id == exporter.id) {
                let message = format!("two exporters have the id `{}`", exporter.id);
                return Err(wrong(&format!("{path}.id"), exporter.place, message));
            }
            if exporter.kind == "file" {
                let storage = context.storage.clone().unwrap_or_else(|| PathBuf::from("storage"));
                let dir = storage.join(namespace).join(flow).join(&self.id).join(&exporter.id);
                let value = Setup::Plain(json!(dir));
                exporter.settings.push(Setting { field: "dir".to_owned(), path, place: node.place, value });
            }
            self.exporters.push(exporter);
        }
        Ok(())
    }

    fn read_resources(&mut self, node: &Node, path: &str, reader: &Reader<'_>) -> Result<(), Error> {
        let mut all = Vec::new();
        for (index, template) in reader.templates(node, path)?.iter().enumerate() {
            let name = template.as_text().unwrap_or_default().trim().to_ascii_uppercase().replace(' ', "_");
            let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || c == '_');
            if !is_name {
                let message = "must be the name of a resource such as FLOW, EXECUTION or KV_STORE";
                let place = node.items().get(index).map_or(node.place, |node| node.place);
                return Err(wrong(&format!("{path}[{index}]"), place, message));
            }
            match RESOURCE_NAMES.iter().find(|names| names.contains(&name.as_str())) {
                Some(names) => all.extend(names.iter().map(|name| (*name).to_owned())),
                None => all.push(name),
            }
        }
        all.dedup();
        self.narrow(Filter::one_of(Reads::RESOURCE, all.clone()));
        self.reads = Reads::AuditLogs { resources: all };
        Ok(())
    }

    /// A shipper that reads this source and keeps its offsets in this store. Nothing is read or sent.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](logship_core::ErrorKind::Config), with the property, the line and the column: when a
    /// required property or a secret is missing, when an exporter is not compiled in, or when it refuses what it is
    /// told.
    pub fn build(
        &self,
        source: Arc<dyn Source>,
        offsets: Arc<dyn OffsetStore>,
        registry: &Registry,
        context: &BuildContext,
    ) -> Result<LogShipper, Error> {
        let shipper = self.builder(source, offsets, registry, context)?.build();
        shipper.map_err(|error| self.place.locate(error.with("task", &self.id)))
    }

    /// The same before it is built, for what a flow cannot say: `settle`, `byte_budget`, transforms, further lanes.
    ///
    /// # Errors
    /// As [`Shipper::build`].
    pub fn builder(
        &self,
        source: Arc<dyn Source>,
        offsets: Arc<dyn OffsetStore>,
        registry: &Registry,
        context: &BuildContext,
    ) -> Result<LogShipperBuilder, Error> {
        let with_composed = self.with_composed(context);
        let mut builder = LogShipper::builder_shared(source)
            .offsets_shared(offsets)
            .secrets(Arc::clone(with_composed.secrets()))
            .offset_key(&self.offset_key)
            .query(self.query.clone())
            .lookback(self.lookback)
            .delete_shipped(self.delete);
        if let Some(timeout) = self.timeout {
            builder = builder.deadline(timeout);
        }
        for exporter in &self.exporters {
            let mut fields = exporter.build_fields(context)?;
            let options: LaneOptions = match fields.remove("lane") {
                Some(Value::Object(lane)) => read_fields(lane).map_err(|error| exporter.translate(error, context))?,
                _ => LaneOptions::default(),
            };
            let made = registry.exporter(exporter.kind, fields, &with_composed);
            let made = made.map_err(|error| exporter.translate(error, context))?;
            builder = builder.lane(Lane::shared(&exporter.id, made).options(options));
        }
        Ok(builder)
    }

    /// Asks for the secrets of the exporters, where the program's provider has to ask somebody: before [`build`](Self::build),
    /// which waits for nobody.
    ///
    /// # Errors
    /// As [`SecretProvider::fetch`](logship_core::SecretProvider::fetch).
    pub async fn fetch_secrets(&self, context: &BuildContext) -> Result<(), Error> {
        let names = self.exporters.iter().flat_map(Exporter::secret_names).map(str::to_owned).collect();
        context.secrets().fetch(&names).await
    }

    /// The context, which also knows the secrets that stand among other words.
    pub(super) fn with_composed(&self, context: &BuildContext) -> BuildContext {
        let templates = self.exporters.iter().flat_map(Exporter::composed).collect();
        Composed { context: context.clone(), templates }.context()
    }

    /// What a run gave out, as Kestra has it: `outputs`, by exporter, with `uris` and, for the first of them, `uri`. It
    /// goes into a [`FlowContext::output`] under the task's [`id`](Self::id).
    pub fn outputs(&self, report: &RunReport) -> Value {
        let mut outputs = Map::new();
        for lane in report.lanes.iter().filter(|lane| !lane.uris.is_empty()) {
            outputs.insert(lane.id.clone(), json!({"uri": lane.uris[0], "uris": lane.uris}));
        }
        json!({"outputs": outputs})
    }

    /// Where in the flow the task stands: `tasks[0]`.
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl Exporter {
    /// The fields that the exporter of ours gets, `lane` among them: as in a
    /// [`ShipperConfig`](crate::config::ShipperConfig), but that secrets in plain texts are filled in.
    ///
    /// # Errors
    /// When a required property or a secret is missing.
    pub fn fields(&self, context: &BuildContext) -> Result<Fields, Error> {
        self.build_fields(context)
    }
}

fn level(node: &Node, path: &str, reader: &Reader<'_>) -> Result<Severity, Error> {
    match reader.text(node, path)?.as_str() {
        "ERROR" => Ok(Severity::ERROR),
        "WARN" | "WARNING" => Ok(Severity::WARN),
        "INFO" => Ok(Severity::INFO),
        "DEBUG" => Ok(Severity::DEBUG),
        "TRACE" => Ok(Severity::TRACE),
        other => {
            let message = format!("`{other}` is no level; there are: ERROR, WARN (or WARNING), INFO, DEBUG, TRACE");
            Err(wrong(path, node.place, message))
        }
    }
}
