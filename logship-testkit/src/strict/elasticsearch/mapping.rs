//! What types the fields of an index have, and whether a document fits them.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::answer::Refusal;

/// <https://www.elastic.co/docs/reference/elasticsearch/index-settings/mapping-limit> for both.
const FIELDS_MAX: usize = 1_000;
const DEPTH_MAX: usize = 20;
/// Lucene's longest term: <https://www.elastic.co/docs/reference/elasticsearch/mapping-reference/ignore-above>.
const TERM_BYTES_MAX: usize = 32_766;

/// What type a field has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Object,
    Date,
    Long,
    Double,
    Boolean,
    Keyword,
    Text,
    /// Text with a keyword beside it, which is what a string becomes of itself; counts as two fields.
    DynamicText,
    /// A type this server knows nothing about. It takes anything.
    Other,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Object => "object",
            Kind::Date => "date",
            Kind::Long => "long",
            Kind::Double => "float",
            Kind::Boolean => "boolean",
            Kind::Keyword => "keyword",
            Kind::Text | Kind::DynamicText => "text",
            Kind::Other => "other",
        }
    }
}

/// What an index does with a field it does not know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Dynamic {
    #[default]
    Add,
    Ignore,
    Refuse,
}

/// The fields of an index, by their full names.
#[derive(Clone, Debug, Default)]
pub(super) struct Mapping {
    fields: BTreeMap<String, Kind>,
    dynamic: Dynamic,
    /// Whether a new string that looks like a date makes its field a date.
    date_detection: bool,
}

impl Mapping {
    /// What an index has that nobody described.
    pub(super) fn dynamic() -> Self {
        Mapping { date_detection: true, ..Mapping::default() }
    }

    /// What a data stream for logs has before its first document.
    pub(super) fn of_data_stream() -> Self {
        Mapping { fields: BTreeMap::from([("@timestamp".to_owned(), Kind::Date)]), ..Mapping::default() }
    }

    /// Reads the `mappings` of a request that creates an index.
    pub(super) fn parse(mappings: &Value) -> Result<Self, Refusal> {
        let dynamic = match mappings.get("dynamic") {
            None => Dynamic::Add,
            Some(word) => match word.to_string().trim_matches('"') {
                "true" => Dynamic::Add,
                "false" => Dynamic::Ignore,
                "strict" => Dynamic::Refuse,
                word => {
                    return Err(Refusal::new(
                        400,
                        "mapper_parsing_exception",
                        format!("Could not convert [dynamic] to boolean: [{word}]"),
                    ));
                }
            },
        };
        let date_detection = mappings.get("date_detection") != Some(&json!(false));
        let mut mapping = Mapping { fields: BTreeMap::new(), dynamic, date_detection };
        mapping.add_properties("", mappings);
        Ok(mapping)
    }

    fn add_properties(&mut self, prefix: &str, object: &Value) {
        let properties = object.get("properties").and_then(Value::as_object).into_iter().flatten();
        for (name, field) in properties {
            let path = format!("{prefix}{name}");
            let kind = match field.get("type").and_then(Value::as_str) {
                None | Some("object" | "nested") => Kind::Object,
                Some("date" | "date_nanos") => Kind::Date,
                Some("long" | "integer" | "short" | "byte") => Kind::Long,
                Some("double" | "float" | "half_float") => Kind::Double,
                Some("boolean") => Kind::Boolean,
                // A keyword that ignores what is too long takes terms of any length.
                Some("keyword") if field.get("ignore_above").is_none() => Kind::Keyword,
                Some("keyword" | "text" | "match_only_text") => Kind::Text,
                Some(_) => Kind::Other,
            };
            self.add_properties(&format!("{path}."), field);
            self.fields.insert(path, kind);
        }
    }

    /// Checks a document and, if it fits, learns its new fields.
    pub(super) fn take(&mut self, id: &str, document: &Map<String, Value>) -> Result<(), Refusal> {
        let mut visit = Visit { mapping: self, id, new: BTreeMap::new() };
        visit.object("", document, 1)?;
        let new = visit.new;
        let count = |fields: &BTreeMap<String, Kind>| {
            fields.values().map(|kind| if *kind == Kind::DynamicText { 2 } else { 1 }).sum::<usize>()
        };
        if !new.is_empty() && count(&self.fields) + count(&new) > FIELDS_MAX {
            return Err(Refusal::illegal_argument(format!(
                "Limit of total fields [{FIELDS_MAX}] has been exceeded while adding new fields [{}]",
                count(&new)
            )));
        }
        self.fields.extend(new);
        Ok(())
    }
}

/// One walk through one document.
struct Visit<'a> {
    mapping: &'a Mapping,
    id: &'a str,
    new: BTreeMap<String, Kind>,
}

impl Visit<'_> {
    fn object(&mut self, prefix: &str, object: &Map<String, Value>, depth: usize) -> Result<(), Refusal> {
        for (name, value) in object {
            let steps: Vec<&str> = name.split('.').collect();
            if steps.iter().any(|step| step.trim().is_empty()) {
                let reason = match name.trim().is_empty() {
                    true => "field name cannot be an empty string".to_owned(),
                    false => {
                        format!("field name starting or ending with a [.] makes object resolution ambiguous: [{name}]")
                    }
                };
                return Err(unparsable("failed to parse").caused_by("illegal_argument_exception", reason));
            }
            // A dotted name is an object within an object.
            let mut path = prefix.to_owned();
            for step in &steps[..steps.len() - 1] {
                path.push_str(step);
                self.expect_object(&path)?;
                path.push('.');
            }
            path.push_str(steps[steps.len() - 1]);
            self.field(&path, value, depth + steps.len() - 1)?;
        }
        Ok(())
    }

    fn field(&mut self, path: &str, value: &Value, depth: usize) -> Result<(), Refusal> {
        if depth > DEPTH_MAX {
            return Err(Refusal::illegal_argument(format!(
                "Limit of mapping depth [{DEPTH_MAX}] has been exceeded due to object field [{path}]"
            )));
        }
        match value {
            Value::Null => Ok(()),
            Value::Array(values) => values.iter().try_for_each(|value| self.field(path, value, depth)),
            Value::Object(fields) => match self.known(path) {
                Some(Kind::Other) => Ok(()),
                None if self.mapping.dynamic == Dynamic::Ignore => Ok(()),
                None | Some(Kind::Object) => {
                    self.expect_object(path)?;
                    self.object(&format!("{path}."), fields, depth + 1)
                }
                Some(kind) => Err(self
                    .misfit(path, kind, value)
                    .caused_by("illegal_state_exception", format!("Can't get {} on a START_OBJECT", kind.name()))),
            },
            _ => self.scalar(path, value),
        }
    }

    fn scalar(&mut self, path: &str, value: &Value) -> Result<(), Refusal> {
        let Some(kind) = self.known(path) else {
            return self.learn(path, self.guess(value));
        };
        match kind {
            Kind::Object => Err(unparsable(format!(
                "object mapping for [{path}] tried to parse field [{path}] as object, but found a concrete value"
            ))),
            Kind::Date if !is_date(value) => Err(self.misfit(path, kind, value).with(
                "caused_by",
                json!({
                    "type": "illegal_argument_exception",
                    "reason": format!("failed to parse date field [{}] with format [strict_date_optional_time||epoch_millis]", plain(value)),
                    "caused_by": {"type": "date_time_parse_exception", "reason": "Failed to parse with all enclosed parsers"},
                }),
            )),
            Kind::Long if !is_long(value) => Err(self
                .misfit(path, kind, value)
                .caused_by("illegal_argument_exception", format!("For input string: \"{}\"", plain(value)))),
            Kind::Double if plain(value).parse().map_or(true, |number: f64| !number.is_finite()) => Err(self
                .misfit(path, kind, value)
                .caused_by("number_format_exception", format!("For input string: \"{}\"", plain(value)))),
            Kind::Boolean if !matches!(plain(value).as_str(), "true" | "false" | "") => {
                Err(self.misfit(path, kind, value).caused_by(
                    "illegal_argument_exception",
                    format!("Failed to parse value [{}] as only [true] or [false] are allowed.", plain(value)),
                ))
            }
            Kind::Keyword if plain(value).len() > TERM_BYTES_MAX => Err(Refusal::illegal_argument(format!(
                "Document contains at least one immense term in field=\"{path}\" (whose UTF8 encoding is longer than \
                 the max length {TERM_BYTES_MAX}), all of which were skipped. Please correct the analyzer to not \
                 produce such terms."
            ))
            .caused_by(
                "max_bytes_length_exceeded_exception",
                format!("bytes can be at most {TERM_BYTES_MAX} in length; got {}", plain(value).len()),
            )),
            _ => Ok(()),
        }
    }

    fn known(&self, path: &str) -> Option<Kind> {
        self.mapping.fields.get(path).or_else(|| self.new.get(path)).copied()
    }

    fn guess(&self, value: &Value) -> Kind {
        match value {
            Value::Bool(_) => Kind::Boolean,
            Value::Number(number) if number.is_f64() => Kind::Double,
            Value::Number(_) => Kind::Long,
            // Only what looks like a date with separators is taken for one; digits alone are not.
            Value::String(text) if self.mapping.date_detection && text.contains('-') && is_date(value) => Kind::Date,
            _ => Kind::DynamicText,
        }
    }

    fn expect_object(&mut self, path: &str) -> Result<(), Refusal> {
        match self.known(path) {
            Some(Kind::Object | Kind::Other) => Ok(()),
            Some(kind) => Err(unparsable(format!(
                "can't merge a non object mapping [{path}] with an object mapping: it is of type [{}]",
                kind.name()
            ))),
            None => self.learn(path, Kind::Object),
        }
    }

    fn learn(&mut self, path: &str, kind: Kind) -> Result<(), Refusal> {
        match self.mapping.dynamic {
            Dynamic::Refuse => {
                let (parent, name) = path.rsplit_once('.').unwrap_or(("_doc", path));
                let reason = format!(
                    "[1:1] mapping set to strict, dynamic introduction of [{name}] within [{parent}] is not allowed"
                );
                return Err(Refusal::new(400, "strict_dynamic_mapping_exception", reason));
            }
            Dynamic::Add => {
                self.new.insert(path.to_owned(), kind);
            }
            Dynamic::Ignore => {}
        }
        Ok(())
    }

    fn misfit(&self, path: &str, kind: Kind, value: &Value) -> Refusal {
        let preview: String = plain(value).chars().take(50).collect();
        unparsable(format!(
            "failed to parse field [{path}] of type [{}] in document with id '{}'. Preview of field's value: '{preview}'",
            kind.name(),
            self.id
        ))
    }
}

/// A document that is not what its index expects.
pub(super) fn unparsable(reason: impl AsRef<str>) -> Refusal {
    Refusal::new(400, "document_parsing_exception", format!("[1:1] {}", reason.as_ref()))
}

/// Checks what a data stream asks of every document: one time stamp.
pub(super) fn check_timestamp(document: &Map<String, Value>) -> Result<(), Refusal> {
    let reason = match document.get("@timestamp") {
        None | Some(Value::Null) => "data stream timestamp field [@timestamp] is missing",
        Some(Value::Array(_)) => "data stream timestamp field [@timestamp] encountered multiple values",
        Some(_) => return Ok(()),
    };
    Err(unparsable(format!("failed to parse: {reason}")).caused_by("illegal_argument_exception", reason))
}

/// A value as a field of another type would read it.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Whole numbers take numbers and texts of numbers, and cut fractions off.
fn is_long(value: &Value) -> bool {
    let within = |number: f64| number.is_finite() && number.abs() < 9_223_372_036_854_775_808.0;
    !value.is_boolean() && (plain(value).parse::<i64>().is_ok() || plain(value).parse().is_ok_and(within))
}

/// `strict_date_optional_time||epoch_millis`, the format of a `date` field of which nothing else is said: a time stamp
/// in milliseconds, or ISO 8601 with `T` (a blank will not do) and at most nine digits of a second.
/// <https://www.elastic.co/docs/reference/elasticsearch/mapping-reference/mapping-date-format>
fn is_date(value: &Value) -> bool {
    let text = plain(value);
    if text.strip_prefix('-').unwrap_or(&text).parse::<u64>().is_ok() && (value.is_number() || text.len() > 4) {
        return true;
    }
    let (date, time) = text.split_once('T').map_or((text.as_str(), None), |(date, time)| (date, Some(time)));
    let parts: Vec<&str> = date.split('-').collect();
    let is_day = match parts.as_slice() {
        [year] => digits(year, 4, 0..=9_999),
        [year, month] => digits(year, 4, 0..=9_999) && digits(month, 2, 1..=12),
        [year, month, day] => {
            digits(year, 4, 0..=9_999) && digits(month, 2, 1..=12) && digits(day, 2, 1..=days_of(year, month))
        }
        _ => false,
    };
    is_day && time.is_none_or(|time| time.is_empty() || (parts.len() == 3 && is_time(time)))
}

fn is_time(text: &str) -> bool {
    let (clock, zone) = match text.find(['Z', '+', '-']) {
        Some(at) => text.split_at(at),
        None => (text, ""),
    };
    let is_zone = match zone.strip_prefix(['+', '-']) {
        None => zone.is_empty() || zone == "Z",
        Some(offset) => match offset.split_once(':') {
            Some((hours, minutes)) => digits(hours, 2, 0..=18) && digits(minutes, 2, 0..=59),
            None => digits(offset, 2, 0..=18) || digits(offset, 4, 0..=1_859),
        },
    };
    let (clock, fraction) = clock.split_once('.').map_or((clock, None), |(clock, fraction)| (clock, Some(fraction)));
    let is_fraction =
        fraction.is_none_or(|text| (1..=9).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit()));
    let parts: Vec<&str> = clock.split(':').collect();
    let is_clock = match parts.as_slice() {
        [hour] => digits(hour, 2, 0..=23),
        [hour, minute] => digits(hour, 2, 0..=23) && digits(minute, 2, 0..=59),
        [hour, minute, second] => digits(hour, 2, 0..=23) && digits(minute, 2, 0..=59) && digits(second, 2, 0..=59),
        _ => false,
    };
    is_zone && is_fraction && is_clock && (fraction.is_none() || parts.len() == 3)
}

fn digits(text: &str, len: usize, range: std::ops::RangeInclusive<u32>) -> bool {
    let all_digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.len() == len && all_digits && text.parse().is_ok_and(|number| range.contains(&number))
}

fn days_of(year: &str, month: &str) -> u32 {
    let year: u32 = year.parse().unwrap_or(0);
    let is_leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    match month {
        "02" if is_leap => 29,
        "02" => 28,
        "04" | "06" | "09" | "11" => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_iso_with_a_t_or_milliseconds() {
        for good in [
            json!("2026-11-20T08:30:00.123456789Z"),
            json!("2026-11-20T08:30:00+01:00"),
            json!("2026-11-20T08:30"),
            json!("2026-11-20"),
            json!("2024-02-29"),
            json!(1_795_163_400_123_u64),
            json!("1795163400123"),
        ] {
            assert!(is_date(&good), "{good}");
        }
        for bad in [
            json!("2026-11-20 08:30:00"),
            json!("2026-02-29"),
            json!("2026-13-01"),
            json!("2026-11-20T25:00:00Z"),
            json!("2026-11-20T08:30:00.1234567890Z"),
            json!("20/Nov/2026"),
            json!("abc"),
            json!(true),
        ] {
            assert!(!is_date(&bad), "{bad}");
        }
    }

    #[test]
    fn a_field_keeps_the_type_of_its_first_value() {
        let mut mapping = Mapping::dynamic();
        let mut take = |document: Value| {
            mapping.take("x", document.as_object().unwrap()).map_err(|refusal| refusal.error["reason"].to_string())
        };
        take(json!({"n": 1, "o": {"a": "x"}, "day": "2026-11-20"})).unwrap();
        take(json!({"n": "7", "o.b": true, "day": 5})).unwrap();
        assert!(take(json!({"n": "seven"})).unwrap_err().contains("field [n] of type [long] in document with id 'x'"));
        assert!(take(json!({"o": 1})).unwrap_err().contains("but found a concrete value"));
        assert!(take(json!({"o": {"a": {"deep": 1}}})).unwrap_err().contains("field [o.a] of type [text]"));
        assert!(take(json!({"day": "soon"})).unwrap_err().contains("of type [date]"));
        assert!(take(json!({"a..b": 1})).is_err());
    }
}
