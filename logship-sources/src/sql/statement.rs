//! The query of one page, in each database's own words.

use logship_core::{Condition, PageLimits, Query, Severity, Start, Timestamp};

use super::{IdType, Table, TimestampFormat};

/// Which words a database uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    #[cfg_attr(not(feature = "sqlite"), allow(dead_code, reason = "each source uses its own"))]
    Sqlite,
    #[cfg_attr(not(feature = "postgres"), allow(dead_code, reason = "each source uses its own"))]
    Postgres,
}

/// A value that goes with a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Bind {
    Text(String),
    Int(i64),
}

/// A statement that is being written, and the values that go with it.
#[derive(Debug)]
pub(crate) struct Statement {
    pub(crate) sql: String,
    pub(crate) binds: Vec<Bind>,
}

impl Dialect {
    /// A name as SQL quotes it; a schema before a dot is quoted apart.
    pub(crate) fn quoted(self, name: &str) -> String {
        let parts: Vec<String> = name.split('.').map(|part| format!("\"{}\"", part.replace('"', "\"\""))).collect();
        parts.join(".")
    }

    /// What a column is, or a key of a JSON column.
    fn column(self, column: &str) -> String {
        match (self, column.split_once("->")) {
            (_, None) => format!("\"{}\"", column.replace('"', "\"\"")),
            (Dialect::Sqlite, Some((column, key))) => {
                format!("json_extract({}, '$.\"{}\"')", self.column(column), key.replace('\'', "''"))
            }
            (Dialect::Postgres, Some((column, key))) => {
                format!("{} ->> '{}'", self.column(column), key.replace('\'', "''"))
            }
        }
    }

    fn text(self, expression: &str) -> String {
        format!("cast({expression} as text)")
    }

    /// Text that is compared and ordered by its bytes.
    fn bytewise(self, expression: &str) -> String {
        match self {
            // The collation BINARY is the default, and naming it keeps an index usable.
            Dialect::Sqlite => format!("{expression} collate binary"),
            Dialect::Postgres => format!("cast({expression} as text) collate \"C\""),
        }
    }

    /// A point in time of the database's own type as text that sorts as time does.
    fn native_as_text(self, column: &str) -> String {
        match self {
            Dialect::Sqlite => self.text(column),
            Dialect::Postgres => {
                format!("to_char({column} at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')")
            }
        }
    }
}

impl Table {
    /// The columns that give order: of the timestamp and of the id.
    fn keys(&self, dialect: Dialect) -> (String, String) {
        let timestamp = dialect.column(&self.mapping.timestamp);
        let id = dialect.column(&self.mapping.id);
        let timestamp = match (self.format, dialect) {
            (TimestampFormat::Text, _) => dialect.bytewise(&timestamp),
            _ => timestamp,
        };
        match self.mapping.id_type {
            IdType::Text => (timestamp, dialect.bytewise(&id)),
            IdType::Integer => (timestamp, id),
        }
    }

    /// The query of one page. `can_push` says for which columns the database's text is the record's.
    pub(crate) fn page_statement(
        &self,
        dialect: Dialect,
        start: &Start,
        query: &Query,
        limits: PageLimits,
        can_push: &dyn Fn(&str) -> bool,
    ) -> Statement {
        let mapping = &self.mapping;
        let (time_key, id_key) = self.keys(dialect);
        let (timestamp, id) = (dialect.column(&mapping.timestamp), dialect.column(&mapping.id));
        let mut columns = vec![
            match self.format {
                TimestampFormat::Text => dialect.text(&timestamp),
                TimestampFormat::Native => dialect.native_as_text(&timestamp),
                _ => format!("cast({timestamp} as bigint)"),
            },
            dialect.text(&id),
        ];
        let mut values = vec![Some(mapping.body.as_str()), mapping.severity.as_deref()];
        values.extend(mapping.attributes.iter().map(|(_, column)| Some(column.as_str())));
        columns.extend(values.into_iter().map(|column| match (column, dialect) {
            (None, _) => "null".to_owned(),
            (Some(column), Dialect::Sqlite) => dialect.column(column),
            // As text whatever it is; what it was is known from the catalog.
            (Some(column), Dialect::Postgres) => dialect.text(&dialect.column(column)),
        }));
        let mut conditions = Conditions { dialect, sql: Vec::new(), binds: Vec::new() };
        conditions.sql.push(format!("{timestamp} is not null and {id} is not null"));
        if (dialect, self.format) == (Dialect::Postgres, TimestampFormat::Native) {
            conditions.sql.push(format!("isfinite({timestamp})"));
        }
        self.begin_at(start, (&time_key, &id_key), &mut conditions);
        if let Some(until) = limits.until {
            let mark = self.time_mark(until, Bound::Until, &mut conditions);
            conditions.sql.push(format!("{time_key} < {mark}"));
        }
        if let Some((column, value)) = &mapping.only {
            let column = dialect.column(column);
            let mark = conditions.mark(Bind::Text(value.clone()));
            conditions.sql.push(format!("({column} is null or {} = {mark})", dialect.text(&column)));
        }
        self.push_down(query, can_push, &mut conditions);
        let sql = format!(
            "select {} from {} where {} order by {time_key}, {id_key} limit {}",
            columns.join(", "),
            dialect.quoted(&mapping.table),
            conditions.sql.join(" and "),
            limits.records_max,
        );
        Statement { sql, binds: conditions.binds }
    }

    /// Where the page begins.
    fn begin_at(&self, start: &Start, (time_key, id_key): (&str, &str), conditions: &mut Conditions) {
        match start {
            Start::Earliest => {}
            Start::At(time) => {
                let mark = self.time_mark(*time, Bound::From, conditions);
                conditions.sql.push(format!("{time_key} >= {mark}"));
            }
            Start::After(cursor) => {
                let (time, key) = match self.format.unit() {
                    Some(_) => (Bind::Int(cursor.as_number()), cursor.as_text().as_str()),
                    None => {
                        let text = cursor.as_text().as_str();
                        let (time, key) = text.split_once('\t').unwrap_or((text, ""));
                        (Bind::Text(time.to_owned()), key)
                    }
                };
                let key = match self.mapping.id_type {
                    IdType::Text => Bind::Text(key.to_owned()),
                    // A cursor of ours has digits only; one that somebody wrote by hand begins at the first row.
                    IdType::Integer => Bind::Int(key.parse().unwrap_or(-1)),
                };
                let mut mark = |bind: &Bind| self.cast_time(conditions.dialect, conditions.mark(bind.clone()));
                let (later, same, weak) = (mark(&time), mark(&time), mark(&time));
                let key = conditions.mark(key);
                conditions.sql.push(format!(
                    // The last part says the same more weakly, in a form for which a database uses an index.
                    "({time_key} > {later} or ({time_key} = {same} and {id_key} > {key})) and {time_key} >= {weak}"
                ));
            }
        }
    }

    /// A time that rows are compared with, at or before every way of writing it.
    fn time_mark(&self, time: Timestamp, bound: Bound, conditions: &mut Conditions) -> String {
        let bind = match (self.format, bound) {
            // Text without the fraction, or without the zone, lies before the text with it.
            (TimestampFormat::Text, Bound::From) => Bind::Text(time.to_string()[..19].to_owned()),
            (TimestampFormat::Text, Bound::Until) => Bind::Text(time.to_string()[..29].to_owned()),
            (TimestampFormat::Native, _) => Bind::Text(time.to_string()),
            (format, _) => Bind::Int(format.first_from(time)),
        };
        let mark = conditions.mark(bind);
        self.cast_time(conditions.dialect, mark)
    }

    /// A mark as what the timestamp's column holds.
    fn cast_time(&self, dialect: Dialect, mark: String) -> String {
        match (dialect, self.format) {
            (Dialect::Postgres, TimestampFormat::Native) => format!("cast({mark} as timestamptz)"),
            _ => mark,
        }
    }

    /// What of a query the database can decide. The rest, and every doubt, is decided on the record.
    fn push_down(&self, query: &Query, can_push: &dyn Fn(&str) -> bool, conditions: &mut Conditions) {
        let dialect = conditions.dialect;
        if let (Some(minimum), Some(column)) = (query.severity_min, &self.mapping.severity) {
            const NAMES: [&str; 5] = ["TRACE", "DEBUG", "INFO", "WARN", "ERROR"];
            let lower = NAMES.into_iter().filter(|name| Severity::from_name(name).is_some_and(|s| !s.passes(minimum)));
            let column = dialect.column(column);
            conditions.none_of(&format!("upper({})", dialect.text(&column)), &column, lower.map(str::to_owned));
        }
        for filter in &query.filters {
            let mapped = self.mapping.attributes.iter().find(|(name, _)| *name == filter.attribute);
            let Some((_, column)) = mapped.filter(|(_, column)| can_push(column)) else { continue };
            let column = dialect.column(column);
            let text = dialect.text(&column);
            match &filter.condition {
                Condition::Equals(value) => conditions.one_of(&text, std::slice::from_ref(value)),
                Condition::In(values) => conditions.one_of(&text, values),
                Condition::NotIn(values) if dialect == Dialect::Sqlite => {
                    // Any column may hold anything; what is neither text nor a whole number has no text to compare.
                    let other = format!("typeof({column}) not in ('text', 'integer')");
                    conditions.none_of_unless(&text, &other, values.iter().cloned());
                }
                Condition::NotIn(values) => conditions.none_of(&text, &column, values.iter().cloned()),
                Condition::Within(parent) => {
                    // What continues the parent after a dot lies between `parent.` and `parent/`, the next character.
                    let text = dialect.bytewise(&text);
                    let [same, from, to] = [parent.clone(), format!("{parent}."), format!("{parent}/")]
                        .map(|text| conditions.mark(Bind::Text(text)));
                    conditions.sql.push(format!("({text} = {same} or ({text} >= {from} and {text} < {to}))"));
                }
                _ => {}
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bound {
    From,
    Until,
}

struct Conditions {
    dialect: Dialect,
    sql: Vec<String>,
    binds: Vec<Bind>,
}

impl Conditions {
    fn mark(&mut self, bind: Bind) -> String {
        self.binds.push(bind);
        match self.dialect {
            Dialect::Sqlite => format!("?{}", self.binds.len()),
            Dialect::Postgres => format!("${}", self.binds.len()),
        }
    }

    fn one_of(&mut self, text: &str, values: &[String]) {
        let marks: Vec<String> = values.iter().map(|value| self.mark(Bind::Text(value.clone()))).collect();
        self.sql.push(if marks.is_empty() { "1 = 0".to_owned() } else { format!("{text} in ({})", marks.join(", ")) });
    }

    /// None of the values, or NULL.
    fn none_of(&mut self, text: &str, column: &str, values: impl Iterator<Item = String>) {
        self.none_of_unless(text, &format!("{column} is null"), values);
    }

    fn none_of_unless(&mut self, text: &str, unless: &str, values: impl Iterator<Item = String>) {
        let marks: Vec<String> = values.map(|value| self.mark(Bind::Text(value))).collect();
        if !marks.is_empty() {
            self.sql.push(format!("({unless} or {text} not in ({}))", marks.join(", ")));
        }
    }
}
