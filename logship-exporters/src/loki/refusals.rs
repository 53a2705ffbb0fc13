//! Which lines of a push were not stored, by the words of a 400.
//!
//! The words are those of Loki's source:
//! <https://github.com/grafana/loki/blob/main/pkg/validation/validate.go> for what the distributor refuses, several
//! joined by `; `, and <https://github.com/grafana/loki/blob/main/pkg/ingester/stream.go> for what an ingester does.

use std::collections::BTreeMap;

use logship_core::Timestamp;
use serde::Deserialize;

use super::encoding::fragments;

/// What became of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Stored,
    /// It may be there or not: send it again.
    Unknown,
    /// For what it is, in Loki's words.
    Refused(String),
}

/// A line of a push, as Loki judges it.
struct Line {
    stream: String,
    labels: usize,
    nanos: i64,
    bytes: usize,
    metadata_bytes: usize,
    metadata_entries: usize,
}

/// Whether a 429 says that nothing of the request was stored.
pub(super) fn is_whole_request(text: &str) -> bool {
    text.starts_with("Ingestion rate limit exceeded") || text.starts_with("ingestion rate limit exceeded")
}

/// What the text of a 400 says of each line; `None` if some of it is not understood.
pub(super) fn read(text: &str, encoded: &[u8]) -> Option<Vec<Verdict>> {
    let lines: Vec<Line> = fragments(encoded).map(|(head, entry)| line(head, entry)).collect::<Option<_>>()?;
    let text = text.trim();
    let verdicts = match text.contains("total ignored: ") {
        true => by_ingester(text, &lines)?,
        false => by_distributor(text, &lines)?,
    };
    // A refusal of nothing is none that we understand.
    verdicts.iter().any(|verdict| *verdict != Verdict::Stored).then_some(verdicts)
}

fn line(head: &[u8], entry: &[u8]) -> Option<Line> {
    #[derive(Deserialize)]
    struct Head {
        stream: BTreeMap<String, String>,
    }
    let head = [head.get(1..)?, b"]}"].concat();
    let Head { stream } = serde_json::from_slice(&head).ok()?;
    let (nanos, text, metadata): (String, String, BTreeMap<String, String>) = serde_json::from_slice(entry).ok()?;
    let pairs: Vec<String> = stream.iter().map(|(name, value)| format!("{name}={}", quoted(value))).collect();
    Some(Line {
        stream: format!("{{{}}}", pairs.join(", ")),
        labels: stream.len(),
        nanos: nanos.parse().ok()?,
        bytes: text.len(),
        metadata_bytes: metadata.iter().map(|(name, value)| name.len() + value.len()).sum(),
        metadata_entries: metadata.len(),
    })
}

/// As Go quotes what a label usually holds; anything else makes a text that is not understood.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

const LABEL_LIMIT: &str = " label names, limit ";

/// What a distributor refuses it names by limits, so every line beyond the limit is meant, whatever line is quoted: old
/// versions quote the last one alone. All others are stored.
fn by_distributor(text: &str, lines: &[Line]) -> Option<Vec<Verdict>> {
    let mut verdicts = vec![Verdict::Stored; lines.len()];
    // The one message that has what stands between messages in itself.
    let text = text.replace(" label names; limit ", LABEL_LIMIT);
    for message in without_count(&text, " errors: ").split("; ") {
        let message = without_count(message, " errors like: ");
        let rule = rule(message)?;
        let mut is_of_none = true;
        for (line, verdict) in lines.iter().zip(&mut verdicts).filter(|(line, _)| rule(line)) {
            *verdict = Verdict::Refused(without_stream(message, &line.stream));
            is_of_none = false;
        }
        // A line was refused, and is not one that we would call stored.
        if is_of_none {
            return None;
        }
    }
    Some(verdicts)
}

type Rule = Box<dyn Fn(&Line) -> bool>;

/// Which lines a message is about.
fn rule(message: &str) -> Option<Rule> {
    let between = |begin: &str, end: &str| -> Option<&str> {
        let (_, behind) = message.split_once(begin)?;
        Some(if end.is_empty() { behind } else { behind.split_once(end)?.0 })
    };
    let number = |begin: &str, end: &str| between(begin, end)?.trim().parse::<usize>().ok();
    // Times are cut to seconds, so what lies in that second may be meant too.
    let seconds = |text: &str| Timestamp::parse(text.trim()).map(Timestamp::as_nanos);
    if message.starts_with("entry for stream '") {
        if let Some(oldest) = between("oldest acceptable timestamp is: ", "") {
            let oldest = seconds(oldest)?.saturating_add(1_000_000_000);
            return Some(Box::new(move |line| line.nanos < oldest));
        }
        if let Some(time) = between("' has timestamp too new: ", "") {
            let time = seconds(time)?;
            return Some(Box::new(move |line| line.nanos >= time));
        }
        let limit = between(LABEL_LIMIT, "")?.trim().parse::<usize>().ok()?;
        return Some(Box::new(move |line| line.labels > limit));
    }
    if message.starts_with("Max entry size '") || message.starts_with("max entry size '") {
        let limit = number("ax entry size '", "' bytes exceeded")?;
        return Some(Box::new(move |line| line.bytes > limit));
    }
    if message.contains("' has structured metadata too large: '") {
        let limit = number("limit: '", "' bytes")?;
        return Some(Box::new(move |line| line.metadata_bytes > limit));
    }
    if message.contains("' has too many structured metadata labels: '") {
        let limit = number("limit: '", "'.")?;
        return Some(Box::new(move |line| line.metadata_entries > limit));
    }
    // A label that is too long, or there twice.
    if message.starts_with("stream '") && message.contains("' has ") && message.contains(" label ") {
        let message = message["stream '".len()..].to_owned();
        return Some(Box::new(move |line| message.starts_with(&format!("{}' has ", line.stream))));
    }
    None
}

/// An ingester names a stream, up to ten times of lines, and how many lines of how many it did not store. What it says
/// hides what was said of other streams.
fn by_ingester(text: &str, lines: &[Line]) -> Option<Vec<Verdict>> {
    if !text.contains("entry too far behind") && !text.contains("entry out of order") {
        return None;
    }
    let (_, total) = text.rsplit_once("total ignored: ")?;
    let (ignored, rest) = total.split_once(" out of ")?;
    let (sent, stream) = rest.split_once(" for stream: ")?;
    let (ignored, sent): (usize, usize) = (ignored.parse().ok()?, sent.parse().ok()?);
    let mut named: Vec<(i64, usize)> = lines
        .iter()
        .enumerate()
        .filter(|(_, line)| line.stream == stream)
        .map(|(index, line)| (line.nanos, index))
        .collect();
    if ignored == 0 || ignored > named.len() {
        return None;
    }
    // They were sent in this order; behind the newest line of the stream are the first.
    named.sort_by_key(|(nanos, _)| *nanos);
    // With fewer lines than were sent some were dropped on the way, and nothing says which.
    let of_stream = if sent == named.len() { Verdict::Stored } else { Verdict::Unknown };
    let mut verdicts = vec![Verdict::Unknown; lines.len()];
    for (place, (_, index)) in named.iter().enumerate() {
        verdicts[*index] = match place < ignored {
            true => Verdict::Refused("entry too far behind the newest of its stream".to_owned()),
            false => of_stream.clone(),
        };
    }
    Some(verdicts)
}

/// A message without the number before it, as in `3 errors like: `.
fn without_count<'a>(text: &'a str, words: &str) -> &'a str {
    match text.split_once(words) {
        Some((count, rest)) if !count.is_empty() && count.bytes().all(|byte| byte.is_ascii_digit()) => rest,
        _ => text,
    }
}

/// A message for one line: labels are known already, and those of another line would be wrong.
fn without_stream(message: &str, stream: &str) -> String {
    let end = message.floor_char_boundary(1_024);
    message[..end].replace(stream, "{…}")
}

#[cfg(test)]
mod tests {
    use logship_core::{Chunk, Cursor, LogRecord, Page, PageEnd, Partition, RecordId};
    use proptest::prelude::*;

    use super::super::encoding::Fragments;
    use super::super::{LokiConfig, LokiLabel, LokiLine};
    use super::*;

    const A: &str = r#"{flow="a", job="logship", service_name="unknown_service"}"#;

    /// Lines of streams `a` and `b` at these seconds, with so long texts.
    fn encoded(lines: &[(&str, i64, usize)]) -> Vec<u8> {
        let mut config = LokiConfig::new("http://localhost");
        config.labels.insert("flow".to_owned(), LokiLabel::Attribute("flow".to_owned()));
        config.line = LokiLine::Message;
        let record = |(number, (flow, secs, len)): (usize, &(&str, i64, usize))| {
            let id = RecordId::new(Partition::new("p"), Cursor::number(number as i64));
            let mut record = LogRecord::new(id, Timestamp::from_secs(*secs));
            record.attributes = vec![("flow".into(), (*flow).into())];
            record.body = "x".repeat(*len).into();
            record
        };
        let page = Page::new(Partition::new("p"), lines.iter().enumerate().map(record).collect(), PageEnd::More);
        Chunk::of_page(page, Some(&Fragments::new(&config))).unwrap().body().unwrap().bytes().to_vec()
    }

    /// One letter a line: stored, unknown or refused.
    fn verdicts(text: &str, lines: &[(&str, i64, usize)]) -> Option<String> {
        let letter = |verdict: &Verdict| match verdict {
            Verdict::Stored => 's',
            Verdict::Unknown => '?',
            Verdict::Refused(_) => 'r',
        };
        read(text, &encoded(lines)).map(|verdicts| verdicts.iter().map(letter).collect())
    }

    #[test]
    fn each_message_of_a_distributor_is_about_the_lines_beyond_its_limit() {
        let lines = [("a", 10, 5), ("a", 11, 50), ("b", 20, 50), ("b", 21, 6)];
        for (text, expected) in [
            (
                format!(
                    "Max entry size '10' bytes exceeded for stream '{A}' while adding an entry with length '50' bytes"
                ),
                "srrs",
            ),
            (
                format!(
                    "2 errors like: max entry size '49' bytes exceeded for stream '{A}' while adding an entry with length '50' bytes\n"
                ),
                "srrs",
            ),
            (
                format!(
                    "entry for stream '{A}' has timestamp too old: 1970-01-01T00:00:10Z, oldest acceptable timestamp is: 1970-01-01T00:00:10Z"
                ),
                "rsss",
            ),
            (format!("entry for stream '{A}' has timestamp too new: 1970-01-01T00:00:20Z"), "ssrr"),
            (format!("stream '{A}' has label value too long: 'a'"), "rrss"),
            (format!("entry for stream '{A}' has 3 label names; limit 2"), "rrrr"),
            (
                format!(
                    "stream '{A}' has structured metadata too large: '40' bytes, limit: '10' bytes. Please see `limits_config.max_structured_metadata_size` or contact your Loki administrator to increase it."
                ),
                "rrrr",
            ),
            (format!("stream '{A}' has too many structured metadata labels: '2', limit: '1'. Please see `x`"), "rrrr"),
            (
                format!(
                    "2 errors: stream '{A}' has label value too long: 'a'; entry for stream 'b' has timestamp too new: 1970-01-01T00:00:21Z"
                ),
                "rrsr",
            ),
        ] {
            assert_eq!(verdicts(&text, &lines).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn an_ingester_refuses_the_first_of_a_stream_and_says_nothing_of_others() {
        let lines = [("a", 30, 5), ("a", 10, 5), ("b", 20, 5), ("a", 11, 5)];
        let text = |ignored: usize, sent: usize| {
            format!(
                "entry with timestamp 1970-01-01 00:00:10 +0000 UTC ignored, reason: 'entry too far behind, entry timestamp is: 1970-01-01T00:00:10Z, oldest acceptable timestamp is: 1970-01-01T00:00:12Z',\nuser 'fake', total ignored: {ignored} out of {sent} for stream: {A}\n"
            )
        };
        assert_eq!(verdicts(&text(1, 3), &lines).as_deref(), Some("sr?s"));
        assert_eq!(verdicts(&text(2, 3), &lines).as_deref(), Some("sr?r"));
        assert_eq!(verdicts(&text(1, 2), &lines).as_deref(), Some("?r??"));
        assert_eq!(verdicts(&text(4, 4), &lines), None);
    }

    #[test]
    fn what_is_not_understood_confirms_nothing() {
        let lines = [("a", 10, 5), ("b", 20, 5)];
        for text in [
            "",
            "2 errors: max entry size '1' bytes exceeded for stream 'x' while adding an entry with length '5' bytes; entry for stream 'x' has timestamp too new: 2100-01-01T00:00:00Z",
            "<html>400</html>",
            "error at least one label pair is required per stream",
            "Max entry size '10' bytes exceeded for stream '{}' while adding an entry; something else",
            "Max entry size '10' bytes exceeded for stream '{}' while adding an entry with length '50' bytes",
            "user 'fake', total ignored: 1 out of 1 for stream: {a=\"b\"}",
        ] {
            assert_eq!(verdicts(text, &lines), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(entry for stream '|Max entry size '|[0-9]{1,3}|' bytes|; |total ignored: | out of |.{0,5}){0,8}") {
            let _ = read(&text, &encoded(&[("a", 10, 5), ("b", 20, 5)]));
        }
    }
}
