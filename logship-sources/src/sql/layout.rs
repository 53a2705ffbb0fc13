//! The columns a table really has, and the mapping as it applies to them.

use std::sync::Arc;

use logship_core::{Error, Partition, Resource, Text};

use super::{IdFormat, TableMapping, TimestampFormat};

/// What a column holds, as far as reading and comparing it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Integer,
    /// Whole numbers above those of [`Kind::Integer`]: MySQL's unsigned ones.
    Unsigned,
    Boolean,
    Float,
    Bytes,
    Json,
    /// The database's own type of a point in time.
    Time,
    /// Anything else; read as the text the database makes of it.
    Other,
    /// Each row has a type of its own: SQLite.
    Dynamic,
}

/// A column of the table.
#[derive(Clone, Debug)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// The type as the database calls it, for errors.
    pub(crate) declared: String,
    pub(crate) nullable: bool,
}

/// A mapping with the columns of the table it is for, in the order in which a page selects them.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) mapping: TableMapping,
    pub(crate) partition: Partition,
    pub(crate) id: Column,
    pub(crate) timestamp: Column,
    pub(crate) body: Option<Column>,
    pub(crate) severity: Option<Column>,
    pub(crate) only: Option<(Column, String)>,
    pub(crate) attributes: Vec<(Text, Column)>,
    pub(crate) json: Option<Column>,
    pub(crate) resource: Arc<Resource>,
}

impl Layout {
    /// The mapping as it applies to a table with these columns.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](logship_core::ErrorKind::Config) with the field whose table or column is not there or
    /// has another type.
    pub(crate) fn new(mapping: &TableMapping, found: &[Column]) -> Result<Self, Error> {
        mapping.validate()?;
        if found.is_empty() {
            let message = format!("the database has no table `{}`, or we are not allowed to see it", mapping.table);
            return Err(Error::config("mapping.table", message));
        }
        let column =
            |field: &str, name: &str| find(found, name).cloned().ok_or_else(|| missing(mapping, found, field, name));
        let optional = |field: &str, name: &str| match column(field, name) {
            Ok(column) => Ok(Some(column)),
            Err(_) if mapping.ignore_missing => Ok(None),
            Err(error) => Err(error),
        };
        let mut attributes = Vec::new();
        for (name, from) in &mapping.attributes {
            let found = optional(&format!("attributes.{name}"), from)?;
            attributes.extend(found.map(|column| (Text::interned(name), column)));
        }
        let severity = mapping.severity.as_ref().map(|name| optional("severity", name)).transpose()?.flatten();
        let only = match &mapping.only {
            Some((name, value)) => optional("only", name)?.map(|column| (column, value.clone())),
            None => None,
        };
        let service_name = mapping.service_name.iter().map(|name| ("service.name".into(), name.as_str().into()));
        let layout = Layout {
            partition: Partition::new(&mapping.table),
            id: column("id", &mapping.id)?,
            timestamp: column("timestamp", &mapping.timestamp)?,
            body: mapping.body.as_ref().map(|name| column("body", name)).transpose()?,
            severity,
            only,
            attributes,
            json: mapping.json.as_ref().map(|json| column("json.column", &json.column)).transpose()?,
            resource: Arc::new(Resource { attributes: service_name.collect() }),
            mapping: mapping.clone(),
        };
        layout.check_formats()?;
        Ok(layout)
    }

    /// Whether ids and times are what the mapping says they are: the order of rows follows from it.
    fn check_formats(&self) -> Result<(), Error> {
        let id_fits = match self.mapping.id_format {
            IdFormat::Text => matches!(self.id.kind, Kind::Text | Kind::Other | Kind::Dynamic),
            IdFormat::Integer => matches!(self.id.kind, Kind::Integer | Kind::Unsigned | Kind::Dynamic),
        };
        if !id_fits {
            let message = format!(
                "the column `{}` is of type {}: does it hold text or integers?",
                self.id.name, self.id.declared
            );
            return Err(Error::config("mapping.id_format", message));
        }
        let kind = self.timestamp.kind;
        let time_fits = match self.mapping.timestamp_format {
            TimestampFormat::Native => matches!(kind, Kind::Time | Kind::Dynamic),
            TimestampFormat::Text => matches!(kind, Kind::Text | Kind::Other | Kind::Dynamic),
            _ => matches!(kind, Kind::Integer | Kind::Unsigned | Kind::Dynamic),
        };
        if !time_fits {
            let message = format!(
                "the column `{}` is of type {}: use native for the database's own times, text, or unix_s, unix_ms, unix_us or unix_ns for numbers",
                self.timestamp.name, self.timestamp.declared
            );
            return Err(Error::config("mapping.timestamp_format", message));
        }
        Ok(())
    }

    /// Every column a page selects, in order: what [`PageBuilder`](super::PageBuilder) reads by index.
    pub(crate) fn selected(&self) -> impl Iterator<Item = &Column> {
        [&self.timestamp, &self.id]
            .into_iter()
            .chain(&self.body)
            .chain(&self.severity)
            .chain(self.attributes.iter().map(|(_, column)| column))
            .chain(&self.json)
    }
}

/// Databases differ in whether names of columns have case; an exact match comes first.
fn find<'a>(found: &'a [Column], name: &str) -> Option<&'a Column> {
    let exact = found.iter().find(|column| column.name == name);
    exact.or_else(|| found.iter().find(|column| column.name.eq_ignore_ascii_case(name)))
}

fn missing(mapping: &TableMapping, found: &[Column], field: &str, name: &str) -> Error {
    let names: Vec<&str> = found.iter().map(|column| column.name.as_str()).collect();
    let message = format!("the table `{}` has no column `{name}`; it has: {}", mapping.table, names.join(", "));
    Error::config(&format!("mapping.{field}"), message)
}
