//! Which table holds the records, and what its columns mean.

use std::str::FromStr;

use logship_core::{Error, Timestamp};
use serde::{Deserialize, Serialize};

/// Which table holds the records, and what its columns mean.
///
/// A column is a column's name, or `column->key` for what a column of JSON has under a key, as text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableMapping {
    /// The table; with its schema before a dot, if need be.
    pub table: String,
    /// The column that tells rows apart, unique and never changed.
    pub id: String,
    /// What ids are. Default text.
    #[serde(default)]
    pub id_type: IdType,
    /// The column that holds when it happened.
    pub timestamp: String,
    /// How that is written. Default: text in SQLite, the database's own type elsewhere.
    #[serde(default)]
    pub timestamp_format: Option<TimestampFormat>,
    /// The column that holds the severity's name.
    #[serde(default)]
    pub severity: Option<String>,
    /// The column that holds what the record says.
    pub body: String,
    /// Attributes, and the columns that hold them, in the order in which records get them.
    #[serde(default)]
    pub attributes: Vec<(String, String)>,
    /// The `service.name` of every record's resource.
    #[serde(default)]
    pub service_name: Option<String>,
    /// Only rows in which this column is NULL or has this value are read.
    #[serde(default)]
    pub only: Option<(String, String)>,
}

/// What the ids of rows are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum IdType {
    /// Text, ordered by its bytes.
    #[default]
    Text,
    /// Whole numbers from 0 on.
    Integer,
}

/// How a table writes when it happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TimestampFormat {
    /// Text that sorts as time does: ISO 8601, UTC, always written in the same way.
    Text,
    /// The database's own type for a point in time; where that has no zone, UTC.
    Native,
    /// Whole seconds since 1970.
    UnixS,
    /// Whole milliseconds since 1970.
    UnixMs,
    /// Whole microseconds since 1970.
    UnixUs,
    /// Whole nanoseconds since 1970.
    UnixNs,
}

impl TimestampFormat {
    /// Nanoseconds of one unit, for a format that is a number.
    pub(crate) fn unit(self) -> Option<i64> {
        match self {
            TimestampFormat::Text | TimestampFormat::Native => None,
            TimestampFormat::UnixS => Some(1_000_000_000),
            TimestampFormat::UnixMs => Some(1_000_000),
            TimestampFormat::UnixUs => Some(1_000),
            TimestampFormat::UnixNs => Some(1),
        }
    }

    /// The first number that is not before this time.
    pub(crate) fn first_from(self, time: Timestamp) -> i64 {
        let unit = self.unit().unwrap_or(1);
        let nanos = time.as_nanos();
        nanos.div_euclid(unit) + i64::from(nanos.rem_euclid(unit) != 0)
    }
}

impl TableMapping {
    /// The `logs` table of a Kestra database on SQLite or of one that has a column for everything: as its own log
    /// shipper reads it, rows of test and playground executions left out. Attributes have Kestra's names.
    pub fn kestra() -> Self {
        let attributes = [
            ("tenantId", "tenant_id"),
            ("namespace", "namespace"),
            ("flowId", "flow_id"),
            ("taskId", "task_id"),
            ("executionId", "execution_id"),
            ("taskRunId", "taskrun_id"),
            ("attemptNumber", "attempt_number"),
            ("triggerId", "trigger_id"),
            ("executionKind", "execution_kind"),
            ("thread", "thread"),
        ];
        TableMapping {
            table: "logs".to_owned(),
            id: "key".to_owned(),
            id_type: IdType::Text,
            timestamp: "timestamp".to_owned(),
            timestamp_format: None,
            severity: Some("level".to_owned()),
            body: "message".to_owned(),
            attributes: attributes.map(|(name, column)| (name.to_owned(), column.to_owned())).to_vec(),
            service_name: Some("Kestra".to_owned()),
            only: Some(("execution_kind".to_owned(), "NORMAL".to_owned())),
        }
    }

    /// The `logs` table as Kestra makes it on PostgreSQL, where the message and the thread are in the JSON alone.
    pub fn kestra_postgres() -> Self {
        let mut mapping = TableMapping::kestra();
        mapping.body = "value->message".to_owned();
        for (name, column) in &mut mapping.attributes {
            if name == "thread" {
                *column = "value->thread".to_owned();
            }
        }
        mapping
    }

    /// Every column that is read, with the field of the mapping that names it.
    pub(crate) fn columns(&self) -> Vec<(String, &str)> {
        let mut columns = vec![("id".to_owned(), self.id.as_str()), ("timestamp".to_owned(), &self.timestamp)];
        columns.push(("body".to_owned(), &self.body));
        columns.extend(self.severity.iter().map(|column| ("severity".to_owned(), column.as_str())));
        columns.extend(self.only.iter().map(|(column, _)| ("only".to_owned(), column.as_str())));
        columns.extend(self.attributes.iter().map(|(name, column)| (format!("attributes.{name}"), column.as_str())));
        columns
    }

    /// Whether the table has every column, which `found` are those of.
    pub(crate) fn check_columns(&self, found: &[String]) -> Result<(), Error> {
        let table = &self.table;
        if found.is_empty() {
            return Err(Error::config("mapping.table", format!("the database has no table `{table}`")));
        }
        for (field, column) in self.columns() {
            let name = column.split_once("->").map_or(column, |(name, _)| name);
            if !found.iter().any(|found| found.eq_ignore_ascii_case(name)) {
                let message = format!("the table `{table}` has no column `{name}`; it has: {}", found.join(", "));
                return Err(Error::config(&format!("mapping.{field}"), message));
            }
        }
        Ok(())
    }
}

impl FromStr for TableMapping {
    type Err = String;
    /// The mapping of this name: `kestra` or `kestra_postgres`.
    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "kestra" => Ok(TableMapping::kestra()),
            "kestra_postgres" => Ok(TableMapping::kestra_postgres()),
            _ => Err(format!("there is no mapping `{name}`; there are: kestra, kestra_postgres")),
        }
    }
}
