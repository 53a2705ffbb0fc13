//! The statements that read and delete rows, in the words of each database.
//!
//! A page is found by its position (keyset pagination): never by counting, and no transaction stays open between pages.

use std::time::Duration;

use logship_core::{Condition, Cursor, Error, Filter, Query, Severity, Start};

use super::layout::{Column, Kind, Layout};
use super::position::{self, Times};
use super::{IdFormat, TimestampFormat};

/// Whose SQL to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    Mysql,
    Postgres,
    Sqlite,
}

/// A value beside a statement.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Bind {
    Text(String),
    Int(i64),
    Unsigned(u64),
    /// A point in time of PostgreSQL's own type, in microseconds since 1970.
    Micros(i64),
}

/// A statement, and what is bound to it. Names are quoted, and values of users are bound.
#[derive(Clone, Debug, Default)]
pub(crate) struct Statement {
    pub(crate) sql: String,
    pub(crate) bound: Vec<Bind>,
}

/// The names of severities that a level column may hold, in the case they are mostly written in.
const LEVELS: [&str; 19] = [
    "TRACE",
    "VERBOSE",
    "DEBUG",
    "INFO",
    "INFORMATION",
    "INFORMATIONAL",
    "NOTICE",
    "WARN",
    "WARNING",
    "ERR",
    "ERROR",
    "CRIT",
    "CRITICAL",
    "FATAL",
    "ALERT",
    "EMERG",
    "EMERGENCY",
    "PANIC",
    "UNSPECIFIED",
];

impl Dialect {
    /// A name as SQL quotes it.
    pub(crate) fn quoted(self, name: &str) -> String {
        match self {
            // SQLite takes a name in double quotes for a text where there is no such column
            // (<https://www.sqlite.org/quirks.html#double_quoted_string_literals_are_accepted>).
            Dialect::Mysql | Dialect::Sqlite => format!("`{}`", name.replace('`', "``")),
            Dialect::Postgres => format!("\"{}\"", name.replace('"', "\"\"")),
        }
    }

    pub(crate) fn table(self, layout: &Layout) -> String {
        let schema = layout.mapping.schema.as_ref().map_or(String::new(), |name| self.quoted(name) + ".");
        schema + &self.quoted(&layout.mapping.table)
    }

    /// How a time is written in positions.
    pub(crate) fn times(self, format: TimestampFormat) -> Times {
        match (format.unit_nanos(), format, self) {
            (Some(nanos), _, _) => Times::Unix(nanos),
            (None, TimestampFormat::Native, Dialect::Postgres) => Times::Micros,
            _ => Times::Text,
        }
    }

    /// A column as it is compared and ordered: texts by their bytes, whatever their collation, and everything else as
    /// the database does. It is the text that the record has, byte for byte.
    fn compared(self, column: &Column) -> String {
        let name = self.quoted(&column.name);
        match (self, column.kind) {
            (_, Kind::Integer | Kind::Unsigned | Kind::Boolean | Kind::Time) => name,
            (Dialect::Sqlite, _) => format!("{name} collate binary"),
            (Dialect::Postgres, Kind::Text) => format!("{name} collate \"C\""),
            (Dialect::Postgres, _) => format!("{name}::text collate \"C\""),
            // A comparison of binary strings knows neither case nor trailing spaces.
            (Dialect::Mysql, _) => format!("cast(convert({name} using utf8mb4) as binary)"),
        }
    }

    /// A column as a page selects it.
    fn selected(self, index: usize, column: &Column) -> String {
        let name = self.quoted(&column.name);
        match (self, column.kind) {
            // The time of the position comes first, and keeps the database's own form.
            (Dialect::Postgres, Kind::Time) if index == 0 => name,
            // By a name of its own, or it would also be what `order by` means.
            (Dialect::Postgres, Kind::Json | Kind::Time | Kind::Other) => {
                format!("{name}::text as \"logship {index}\"")
            }
            (Dialect::Mysql, Kind::Json | Kind::Time | Kind::Other) => format!("cast({name} as char)"),
            _ => name,
        }
    }
}

/// Writes the statements for one table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Statements<'a> {
    pub(crate) dialect: Dialect,
    pub(crate) layout: &'a Layout,
}

impl Statements<'_> {
    /// At most `rows` rows behind `start`, in the order of their positions. With `until`, none of a later time.
    pub(crate) fn page(
        &self,
        start: &Start,
        query: &Query,
        rows: usize,
        until: Option<Bind>,
    ) -> Result<Statement, Error> {
        let columns: Vec<String> =
            self.layout.selected().enumerate().map(|(index, column)| self.dialect.selected(index, column)).collect();
        let mut statement = Writer { dialect: self.dialect, sql: String::new(), bound: Vec::new() };
        statement.push(&format!("select {} from {} where ", columns.join(", "), self.dialect.table(self.layout)));
        self.conditions(&mut statement, start, query)?;
        let (time, id) = (self.time(), self.id());
        if let Some(until) = until {
            statement.push(&format!(" and {time} <= "));
            statement.bind(until);
        }
        statement.push(&format!(" order by {time}, {id} limit {rows}"));
        Ok(statement.finish())
    }

    /// The number of the connection, and the time of the last of `rows` rows behind `start`, NULL if there are fewer.
    ///
    /// It looks at times only: a database that cannot sort by and by would sort the whole rest of the table to find the
    /// first rows by time and id.
    pub(crate) fn reach(&self, start: &Start, query: &Query, rows: usize) -> Result<Statement, Error> {
        let mut statement = Writer { dialect: self.dialect, sql: String::new(), bound: Vec::new() };
        let selected = self.dialect.selected(0, &self.layout.timestamp);
        let table = self.dialect.table(self.layout);
        statement.push(&format!("select connection_id(), (select {selected} from {table} where "));
        self.conditions(&mut statement, start, query)?;
        statement.push(&format!(" order by {} limit 1 offset {})", self.time(), rows.saturating_sub(1)));
        Ok(statement.finish())
    }

    /// Deletes the rows at exactly these positions.
    pub(crate) fn delete<'c>(&self, positions: impl Iterator<Item = &'c Cursor>) -> Result<Statement, Error> {
        let mut statement = Writer { dialect: self.dialect, sql: String::new(), bound: Vec::new() };
        statement.push(&format!("delete from {} where ", self.dialect.table(self.layout)));
        for (index, cursor) in positions.enumerate() {
            let (time, id) = position::bound(self.dialect, self.layout, cursor)?;
            // The first comparison is what an index on the id can serve, the second knows no collation.
            statement.push(if index == 0 { "(" } else { " or (" });
            statement.push(&format!("{} = ", self.dialect.quoted(&self.layout.id.name)));
            statement.bind(id.clone());
            if self.dialect == Dialect::Postgres && self.layout.id.kind == Kind::Other {
                // A UUID is compared with a UUID, or no index helps.
                statement.push(&format!("::text::{}", self.layout.id.declared));
            }
            statement.push(&format!(" and {} = ", self.id()));
            statement.bind(id);
            statement.push(&format!(" and {} = ", self.time()));
            statement.bind(time);
            statement.push(")");
        }
        Ok(statement.finish())
    }

    /// A start that a page could have, to ask how the database would find it.
    pub(crate) fn example(&self) -> Start {
        let mut id = String::new();
        match self.layout.mapping.id_format {
            IdFormat::Integer => position::write_integer(1, &mut id),
            IdFormat::Text => id.push('a'),
        }
        let cursor = match self.dialect.times(self.layout.mapping.timestamp_format) {
            Times::Text => Cursor::text(format!("2026-11-20 08:30:00.000000\t{id}").into()),
            _ => Cursor::new(1_795_163_400, id.into()),
        };
        Start::After(cursor)
    }

    /// Counts the rows that have no position.
    pub(crate) fn count_unreadable(&self) -> String {
        format!("select count(*) from {} where not ({})", self.dialect.table(self.layout), self.has_position())
    }

    fn time(&self) -> String {
        let column = &self.layout.timestamp;
        match column.kind {
            Kind::Dynamic if self.layout.mapping.timestamp_format.unit_nanos().is_some() => {
                self.dialect.quoted(&column.name)
            }
            _ => self.dialect.compared(column),
        }
    }

    fn id(&self) -> String {
        match self.layout.mapping.id_format {
            IdFormat::Integer => self.dialect.quoted(&self.layout.id.name),
            IdFormat::Text => self.dialect.compared(&self.layout.id),
        }
    }

    /// Rows without a time or an id cannot be ordered. In SQLite a value may also be of a type of its own.
    fn has_position(&self) -> String {
        let (time, id) = (self.dialect.quoted(&self.layout.timestamp.name), self.dialect.quoted(&self.layout.id.name));
        if self.dialect != Dialect::Sqlite {
            return format!("{time} is not null and {id} is not null");
        }
        let type_of_time = if self.layout.mapping.timestamp_format.unit_nanos().is_some() { "integer" } else { "text" };
        let type_of_id = if self.layout.mapping.id_format == IdFormat::Integer { "integer" } else { "text" };
        format!("typeof({time}) = '{type_of_time}' and typeof({id}) = '{type_of_id}'")
    }

    fn conditions(&self, statement: &mut Writer, start: &Start, query: &Query) -> Result<(), Error> {
        statement.push(&self.has_position());
        self.begin_at(statement, start)?;
        if let Some((column, value)) = &self.layout.only {
            let name = self.dialect.quoted(&column.name);
            statement.push(&format!(" and ({name} is null or {} = ", self.dialect.compared(column)));
            statement.bind(Bind::Text(value.clone()));
            statement.push(")");
        }
        if let (Some(minimum), Some(column)) = (query.severity_min, &self.layout.severity) {
            self.severity(statement, minimum, column);
        }
        for filter in &query.filters {
            let column = self.layout.attributes.iter().find(|(name, _)| *name == filter.attribute.as_str());
            if let Some((_, column)) = column {
                self.filter(statement, filter, column);
            }
        }
        Ok(())
    }

    fn begin_at(&self, statement: &mut Writer, start: &Start) -> Result<(), Error> {
        let (time, id) = (self.time(), self.id());
        match start {
            Start::Earliest => {}
            Start::At(moment) => match self.dialect.times(self.layout.mapping.timestamp_format) {
                Times::Text => {
                    // Texts write a moment with a `T` or a space, which sorts before it, and with a fraction of any
                    // length: begin at the shortest in both ways. What is too early all the same, as `01Z` sorts
                    // behind `01.5`, is left out by the reader.
                    let is_text = self.layout.timestamp.kind != Kind::Time;
                    // A column of times has microseconds, to which the database rounds as it likes.
                    let nanos = if is_text { Duration::ZERO } else { Duration::from_nanos(999) };
                    let text = moment.saturating_add(nanos).to_string();
                    let digits = if is_text { &text[11..29] } else { &text[11..26] };
                    let (day, second) = (&text[..10], digits.trim_end_matches('0').trim_end_matches('.'));
                    statement.push(&format!(" and {time} >= "));
                    statement.bind(Bind::Text(format!("{day} {second}")));
                    if is_text {
                        statement.push(&format!(" and ({time} >= "));
                        statement.bind(Bind::Text(format!("{day}T{second}")));
                        statement.push(&format!(" or {time} < "));
                        statement.bind(Bind::Text(format!("{day}T")));
                        statement.push(")");
                    }
                }
                times => {
                    statement.push(&format!(" and {time} >= "));
                    statement.bind(times.at_or_after(*moment));
                }
            },
            Start::After(cursor) => {
                let (at, after) = position::bound(self.dialect, self.layout, cursor)?;
                match self.dialect {
                    // MySQL finds no range for a comparison of rows.
                    Dialect::Mysql => {
                        statement.push(&format!(" and {time} >= "));
                        statement.bind(at.clone());
                        statement.push(&format!(" and ({time} > "));
                        statement.bind(at);
                        statement.push(&format!(" or {id} > "));
                        statement.bind(after);
                        statement.push(")");
                    }
                    Dialect::Postgres => {
                        statement.push(&format!(" and ({time}, {id}) > ("));
                        statement.bind(at);
                        statement.push(", ");
                        statement.bind(after);
                        statement.push(")");
                    }
                    // With the collation on the left SQLite would use no index.
                    Dialect::Sqlite => {
                        let (time, id) = (&self.layout.timestamp.name, &self.layout.id.name);
                        statement.push(&format!(
                            " and ({}, {}) > (",
                            self.dialect.quoted(time),
                            self.dialect.quoted(id)
                        ));
                        statement.bind(at);
                        statement.push(" collate binary, ");
                        statement.bind(after);
                        statement.push(" collate binary)");
                    }
                }
            }
        }
        Ok(())
    }

    /// Leaves out levels that are known to be too low. What is written otherwise is decided on the record.
    fn severity(&self, statement: &mut Writer, minimum: Severity, column: &Column) {
        if !matches!(column.kind, Kind::Text | Kind::Other | Kind::Dynamic) {
            return;
        }
        let too_low = LEVELS.iter().filter(|name| Severity::from_name(name).is_some_and(|s| !s.passes(minimum)));
        let words: Vec<String> = too_low
            .flat_map(|name| {
                let lower = name.to_ascii_lowercase();
                let capital = format!("{}{}", &name[..1], &lower[1..]);
                [format!("'{name}'"), format!("'{lower}'"), format!("'{capital}'")]
            })
            .collect();
        if !words.is_empty() {
            let name = self.dialect.quoted(&column.name);
            let compared = self.dialect.compared(column);
            statement.push(&format!(" and ({name} is null or {compared} not in ({}))", words.join(", ")));
        }
    }

    /// What of a filter the database can decide exactly as [`Filter::matches`] would. The rest is decided on the
    /// record.
    fn filter(&self, statement: &mut Writer, filter: &Filter, column: &Column) {
        let values: &[String] = match &filter.condition {
            Condition::In(values) | Condition::NotIn(values) => values,
            Condition::Equals(value) | Condition::Within(value) => std::slice::from_ref(value),
            _ => return,
        };
        // A record shows U+FFFD for bytes that are no text, and PostgreSQL takes no NUL.
        if values.iter().any(|value| value.contains(['\u{fffd}', '\0'])) {
            return;
        }
        let negated = matches!(filter.condition, Condition::NotIn(_));
        let name = self.dialect.quoted(&column.name);
        let begin = if negated { format!(" and ({name} is null or not (") } else { " and ((".to_owned() };
        let is_text = match column.kind {
            Kind::Text | Kind::Other => true,
            Kind::Dynamic => {
                statement.push(&format!("{begin}typeof({name}) in ('text', 'integer') and "));
                self.text_condition(statement, &filter.condition, &format!("cast({name} as text) collate binary"));
                statement.push("))");
                return;
            }
            Kind::Integer | Kind::Unsigned | Kind::Boolean | Kind::Float | Kind::Bytes => false,
            // As text a time depends on the session, and JSON may hold text.
            Kind::Json | Kind::Time => return,
        };
        statement.push(&begin);
        if is_text {
            self.text_condition(statement, &filter.condition, &self.dialect.compared(column));
        } else {
            // Only the very digits or words a record has can match, and no dot continues them.
            let literals: Vec<&str> = values.iter().filter_map(|value| literal(column.kind, value)).collect();
            match literals.as_slice() {
                [] => statement.push("1 = 0"),
                literals => statement.push(&format!("{name} in ({})", literals.join(", "))),
            }
        }
        statement.push("))");
    }

    fn text_condition(&self, statement: &mut Writer, condition: &Condition, text: &str) {
        match condition {
            Condition::Equals(value) => {
                statement.push(&format!("{text} = "));
                statement.bind(Bind::Text(value.clone()));
            }
            Condition::In(values) | Condition::NotIn(values) if !values.is_empty() => {
                statement.push(&format!("{text} in ("));
                for (index, value) in values.iter().enumerate() {
                    statement.push(if index == 0 { "" } else { ", " });
                    statement.bind(Bind::Text(value.clone()));
                }
                statement.push(")");
            }
            Condition::Within(parent) => {
                // What continues the parent after a dot lies between `parent.` and `parent/`, the next character.
                statement.push(&format!("({text} = "));
                statement.bind(Bind::Text(parent.clone()));
                statement.push(&format!(" or ({text} >= "));
                statement.bind(Bind::Text(format!("{parent}.")));
                statement.push(&format!(" and {text} < "));
                statement.bind(Bind::Text(format!("{parent}/")));
                statement.push("))");
            }
            _ => statement.push("1 = 0"),
        }
    }
}

/// The SQL of a value that a record of such a column can have, and `None` for any other text.
fn literal(kind: Kind, value: &str) -> Option<&str> {
    match kind {
        Kind::Boolean => matches!(value, "true" | "false").then_some(value),
        Kind::Integer | Kind::Unsigned => {
            value.parse::<i128>().is_ok_and(|number| number.to_string() == value).then_some(value)
        }
        _ => None,
    }
}

/// Text of a statement that is being written.
struct Writer {
    dialect: Dialect,
    sql: String,
    bound: Vec<Bind>,
}

impl Writer {
    fn push(&mut self, sql: &str) {
        self.sql.push_str(sql);
    }

    fn bind(&mut self, value: Bind) {
        self.bound.push(value);
        match self.dialect {
            Dialect::Postgres => self.sql.push_str(&format!("${}", self.bound.len())),
            _ => self.sql.push('?'),
        }
    }

    fn finish(self) -> Statement {
        Statement { sql: self.sql, bound: self.bound }
    }
}
