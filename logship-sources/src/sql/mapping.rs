//! Which table holds the records, and what its columns mean.

use std::fmt;
use std::str::FromStr;

use logship_core::Error;
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Which table holds the records, and what its columns mean.
///
/// An index on the timestamp, better on timestamp and id, makes each page a range of it; the source's
/// [`check`](logship_core::Source::check) warns where there is none.
///
/// A configuration says its fields, or the name of one that is there: `kestra`, `kestra_postgres`, `audit` or
/// `kestra_audit`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, remote = "Self")]
pub struct TableMapping {
    /// The table or view. It is the name of the one partition, and part of each record's id.
    pub table: String,
    /// The schema (MySQL: the database) the table is in. Default: where the connection looks first.
    #[serde(default)]
    pub schema: Option<String>,
    /// The column that tells rows apart: unique, and never changed.
    pub id: String,
    /// What the ids are.
    #[serde(default)]
    pub id_format: IdFormat,
    /// The column that holds when it happened.
    pub timestamp: String,
    /// How it holds that.
    #[serde(default)]
    pub timestamp_format: TimestampFormat,
    /// The column that holds the severity's name.
    #[serde(default)]
    pub severity: Option<String>,
    /// The column that holds what the record says. Needed unless [`json`](Self::json) names a key for it.
    #[serde(default)]
    pub body: Option<String>,
    /// Attributes, and the columns that hold them, in the order in which records get them. A NULL gives no attribute.
    #[serde(default)]
    pub attributes: Vec<(String, String)>,
    /// A column that holds more attributes, as JSON.
    #[serde(default)]
    pub json: Option<JsonColumn>,
    /// The `service.name` of every record's resource.
    #[serde(default)]
    pub service_name: Option<String>,
    /// Only rows in which this column is NULL or has this value are read.
    #[serde(default)]
    pub only: Option<(String, String)>,
    /// Whether the columns of severity, attributes and `only` may be missing, and are then left out. For programs whose
    /// table grew over the years. Default: a missing column is an error.
    #[serde(default)]
    pub ignore_missing: bool,
}

/// A column that holds a JSON object, whose keys become attributes behind those of columns.
///
/// A key of a mapped attribute is left out, as the attribute's column decides, and so is a null. Text that is no JSON
/// object becomes one attribute of the column's name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct JsonColumn {
    /// The column.
    pub column: String,
    /// The key that holds what the record says.
    #[serde(default)]
    pub body: Option<String>,
    /// Keys that are left out.
    #[serde(default)]
    pub skip: Vec<String>,
    /// Attributes beside the keys, and where in the object they stand: keys with dots between them. So that what is
    /// inside an object can be filtered by. Of several of one name the first is taken that is there.
    #[serde(default)]
    pub attributes: Vec<(String, String)>,
    /// Keys whose values stay JSON text, as they have many shapes and destinations want one.
    #[serde(default)]
    pub text: Vec<String>,
}

/// What the ids of rows are. It decides in which order rows of one timestamp are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum IdFormat {
    /// Text, ordered by its bytes whatever the column's collation. Also UUIDs and the like, by their text.
    #[default]
    Text,
    /// Whole numbers.
    Integer,
}

/// How a column holds a time. Times without a zone are taken as UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum TimestampFormat {
    /// As the database's own type: `timestamptz`, `timestamp`, `datetime`. SQLite has none: there it is text.
    #[default]
    Native,
    /// As text that sorts as time does: ISO 8601, UTC, years of four digits.
    Text,
    /// As whole seconds since 1970.
    UnixS,
    /// As whole milliseconds since 1970.
    UnixMs,
    /// As whole microseconds since 1970.
    UnixUs,
    /// As whole nanoseconds since 1970.
    UnixNs,
}

impl TimestampFormat {
    /// Nanoseconds in one of the numbers the column holds; `None` where it holds no numbers.
    pub(crate) const fn unit_nanos(self) -> Option<i64> {
        match self {
            TimestampFormat::Native | TimestampFormat::Text => None,
            TimestampFormat::UnixS => Some(1_000_000_000),
            TimestampFormat::UnixMs => Some(1_000_000),
            TimestampFormat::UnixUs => Some(1_000),
            TimestampFormat::UnixNs => Some(1),
        }
    }
}

const KESTRA_ATTRIBUTES: [(&str, &str); 9] = [
    ("tenantId", "tenant_id"),
    ("namespace", "namespace"),
    ("flowId", "flow_id"),
    ("taskId", "task_id"),
    ("executionId", "execution_id"),
    ("taskRunId", "taskrun_id"),
    ("attemptNumber", "attempt_number"),
    ("triggerId", "trigger_id"),
    ("executionKind", "execution_kind"),
];

impl TableMapping {
    /// A table of these three columns with no more than that: a beginning for a mapping of one's own.
    pub fn new(table: &str, id: &str, timestamp: &str) -> Self {
        TableMapping {
            table: table.to_owned(),
            schema: None,
            id: id.to_owned(),
            id_format: IdFormat::default(),
            timestamp: timestamp.to_owned(),
            timestamp_format: TimestampFormat::default(),
            severity: None,
            body: None,
            attributes: Vec::new(),
            json: None,
            service_name: None,
            only: None,
            ignore_missing: false,
        }
    }

    /// The `logs` table of a Kestra database in SQLite's, MySQL's and H2's form, in which the message has a column.
    /// As Kestra's own log shipper reads it: rows of test and playground executions are left out. Attributes have
    /// Kestra's names. Works with the tables of old and new versions.
    pub fn kestra() -> Self {
        let mut mapping = TableMapping::new("logs", "key", "timestamp");
        mapping.severity = Some("level".to_owned());
        mapping.body = Some("message".to_owned());
        let attributes = KESTRA_ATTRIBUTES.into_iter().chain([("thread", "thread")]);
        mapping.attributes = attributes.map(|(name, column)| (name.to_owned(), column.to_owned())).collect();
        mapping.service_name = Some("Kestra".to_owned());
        mapping.only = Some(("execution_kind".to_owned(), "NORMAL".to_owned()));
        mapping.ignore_missing = true;
        mapping
    }

    /// The `logs` table of a Kestra database in PostgreSQL's form, in which message and thread are in the JSON column
    /// `value` alone. Otherwise as [`kestra`](Self::kestra).
    pub fn kestra_postgres() -> Self {
        let skip = ["id", "timestamp", "level", "deleted"].map(str::to_owned).to_vec();
        let json =
            JsonColumn { column: "value".to_owned(), body: Some("message".to_owned()), skip, ..JsonColumn::default() };
        let mut mapping = TableMapping { body: None, json: Some(json), ..TableMapping::kestra() };
        mapping.attributes.retain(|(name, _)| name != "thread");
        mapping
    }

    /// A table of audit records, `audit_log`, with the columns `id`, `at`, `action`, `resource_type`, `resource_id`,
    /// `user_id`, `namespace`, `before` and `after`, of which all but the first three may be missing. The body is the
    /// action; attributes are `action`, `resource`, `resourceId`, `userId`, `namespace`, `before` and `after`.
    pub fn audit() -> Self {
        let mut mapping = TableMapping::new("audit_log", "id", "at");
        mapping.body = Some("action".to_owned());
        mapping.attributes = pairs(&[
            ("action", "action"),
            ("resource", "resource_type"),
            ("resourceId", "resource_id"),
            ("userId", "user_id"),
            ("namespace", "namespace"),
            ("before", "before"),
            ("after", "after"),
        ]);
        mapping.ignore_missing = true;
        mapping
    }

    /// The audit logs of a Kestra database: `auditlogs`, as Kestra's other tables with a `key`, a column for the order,
    /// here `date`, and everything in the JSON column `value`. The body is what was done (`CREATE`, `LOGIN`, ...), as is
    /// the attribute `action`; `resource`, `namespace`, `flowId` and `executionId` are taken out of `detail`; what was
    /// changed, `appliedPatch` and `revertPatch`, stays JSON text.
    ///
    /// Kestra publishes what an audit log holds, and not its table: where this one is called otherwise, the source's
    /// check says which column it looks for.
    pub fn kestra_audit() -> Self {
        let mut mapping = TableMapping::new("auditlogs", "key", "date");
        mapping.service_name = Some("Kestra".to_owned());
        mapping.json = Some(JsonColumn {
            column: "value".to_owned(),
            body: Some("type".to_owned()),
            skip: ["id", "date", "deleted"].map(str::to_owned).to_vec(),
            attributes: pairs(&[
                ("action", "type"),
                ("resource", "detail.resource"),
                ("resource", "detail.resourceType"),
                ("namespace", "detail.namespace"),
                ("flowId", "detail.flowId"),
                ("executionId", "detail.executionId"),
            ]),
            text: ["appliedPatch", "revertPatch"].map(str::to_owned).to_vec(),
        });
        mapping
    }

    /// Whether the mapping makes sense by itself.
    pub(crate) fn validate(&self) -> Result<(), Error> {
        let json_body = self.json.as_ref().and_then(|json| json.body.as_ref());
        match (&self.body, json_body) {
            (None, None) => {
                return Err(Error::config("mapping.body", "name the column that holds what a record says"));
            }
            (Some(_), Some(_)) => {
                return Err(Error::config("mapping.json.body", "the body has a column already: name one of the two"));
            }
            _ => {}
        }
        for (index, (name, _)) in self.attributes.iter().enumerate() {
            if self.attributes[..index].iter().any(|(earlier, _)| earlier == name) {
                return Err(Error::config("mapping.attributes", format!("the attribute `{name}` is there twice")));
            }
        }
        Ok(())
    }

    /// What makes stored offsets comparable, on one line.
    pub(crate) fn fingerprint(&self) -> String {
        let schema = self.schema.as_ref().map_or(String::new(), |schema| format!("{schema}."));
        let only = self.only.as_ref().map_or(String::new(), |(column, value)| format!(" only {column} = {value}"));
        format!("table {schema}{} by {}, {}{only}", self.table, self.timestamp, self.id)
    }
}

impl FromStr for TableMapping {
    type Err = String;
    /// The mapping of this name: `kestra`, `kestra_postgres`, `audit` or `kestra_audit`.
    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "kestra" => Ok(TableMapping::kestra()),
            "kestra_postgres" => Ok(TableMapping::kestra_postgres()),
            "audit" => Ok(TableMapping::audit()),
            "kestra_audit" => Ok(TableMapping::kestra_audit()),
            _ => Err(format!("there is no mapping `{name}`; there are: kestra, kestra_postgres, audit, kestra_audit")),
        }
    }
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, from)| ((*name).to_owned(), (*from).to_owned())).collect()
}

impl Serialize for TableMapping {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        TableMapping::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for TableMapping {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NameOrFields)
    }
}

struct NameOrFields;

impl<'de> Visitor<'de> for NameOrFields {
    type Value = TableMapping;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the fields of a mapping, or the name of one")
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<TableMapping, E> {
        name.parse().map_err(E::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<TableMapping, A::Error> {
        TableMapping::deserialize(MapAccessDeserializer::new(fields))
    }
}
