//! What the reference loops write: a function for each form, and nothing that is only known at run time. A body is as
//! long as logship's, to the byte where nothing is packed.

use logship::Timestamp;

use crate::json::{int, padded, raw, string};
use crate::row::{Row, Time};

/// The level as the OpenTelemetry data model numbers it, and in small letters.
fn severity(row: &Row<'_>) -> (i64, &'static str) {
    match row.level {
        "DEBUG" => (5, "debug"),
        "WARN" => (13, "warn"),
        "ERROR" => (17, "error"),
        _ => (9, "info"),
    }
}

/// A time with so many digits behind the second. The corpus has three.
fn time(out: &mut Vec<u8>, row: &Row<'_>, digits: usize) {
    out.push(b'"');
    match row.timestamp {
        Time::Text(text) => {
            raw(out, text.trim_end_matches('Z'));
            raw(out, &"000000"[..digits - 3]);
        }
        Time::Nanos(nanos) => {
            Timestamp::from_nanos(nanos).write_rfc3339(out);
            out.truncate(out.len() - 1 - (9 - digits));
        }
    }
    raw(out, "Z\"");
}

fn id(out: &mut Vec<u8>, row: &Row<'_>) {
    out.push(b'"');
    raw(out, row.id_prefix);
    padded(out, row.number);
    out.push(b'"');
}

/// Members with text, the first of them without a comma before it.
fn texts(out: &mut Vec<u8>, members: &[(&str, &str)]) {
    for (name, value) in members {
        raw(out, name);
        string(out, value);
    }
}

fn host(out: &mut Vec<u8>, row: &Row<'_>) {
    texts(out, &[("{\"name\":", row.host.name), (",\"zone\":", row.host.zone)]);
    out.push(b'}');
}

fn labels(out: &mut Vec<u8>, row: &Row<'_>) {
    let labels = &row.labels;
    texts(out, &[("{\"team\":", labels.team), (",\"tier\":", labels.tier)]);
    texts(out, &[(",\"cost\":", labels.cost), (",\"run\":", labels.run)]);
    out.push(b'}');
}

/// Host and labels of a table, where each is a column.
fn flat(out: &mut Vec<u8>, row: &Row<'_>) {
    texts(out, &[(",\"host_name\":", row.host.name), (",\"host_zone\":", row.host.zone)]);
    texts(out, &[(",\"labels_team\":", row.labels.team), (",\"labels_tier\":", row.labels.tier)]);
    texts(out, &[(",\"labels_cost\":", row.labels.cost), (",\"labels_run\":", row.labels.run)]);
}

/// What a row belongs to: the members that every form has, behind the brace before them.
fn origin(out: &mut Vec<u8>, row: &Row<'_>) {
    texts(out, &[("\"tenantId\":", row.tenant_id), (",\"namespace\":", row.namespace), (",\"flowId\":", row.flow_id)]);
    texts(out, &[(",\"executionId\":", row.execution_id), (",\"taskId\":", row.task_id)]);
    texts(out, &[(",\"taskRunId\":", row.task_run_id)]);
    raw(out, ",\"attemptNumber\":");
}

/// All attributes as the members of an object.
fn attributes(out: &mut Vec<u8>, row: &Row<'_>) {
    origin(out, row);
    int(out, row.attempt_number);
    texts(out, &[(",\"thread\":", row.thread)]);
    if row.is_flat {
        flat(out, row);
    } else {
        raw(out, ",\"host\":");
        host(out, row);
        raw(out, ",\"labels\":");
        labels(out, row);
    }
    raw(out, ",\"durationMs\":");
    int(out, row.duration_ms);
}

/// A record of the generic HTTP exporter.
fn object(row: &Row<'_>, out: &mut Vec<u8>) {
    raw(out, "{\"id\":");
    id(out, row);
    raw(out, ",\"timestamp\":");
    time(out, row, 9);
    raw(out, ",\"severityNumber\":");
    int(out, severity(row).0);
    texts(out, &[(",\"severityText\":", row.level), (",\"body\":", &row.message)]);
    raw(out, ",\"attributes\":{");
    attributes(out, row);
    raw(out, "},\"resource\":{}}");
}

pub(crate) fn line(row: &Row<'_>, out: &mut Vec<u8>) {
    object(row, out);
    out.push(b'\n');
}

pub(crate) fn element(row: &Row<'_>, out: &mut Vec<u8>) {
    object(row, out);
}

/// A row of a file or an object.
pub(crate) fn file(row: &Row<'_>, out: &mut Vec<u8>) {
    raw(out, "{\"id\":");
    id(out, row);
    raw(out, ",\"timestamp\":");
    time(out, row, 9);
    raw(out, ",\"timestampEpochNanos\":");
    int(out, row.nanos());
    texts(out, &[(",\"severity\":", row.level)]);
    raw(out, ",\"resource\":{},\"attributes\":{");
    attributes(out, row);
    texts(out, &[("},\"bodyValue\":", &row.message)]);
    raw(out, "}\n");
}

/// A bulk action and its document.
pub(crate) fn bulk(row: &Row<'_>, out: &mut Vec<u8>) {
    raw(out, "{\"create\":{\"_id\":");
    id(out, row);
    raw(out, "}}\n{\"@timestamp\":");
    time(out, row, 9);
    texts(out, &[(",\"message\":", &row.message)]);
    raw(out, ",\"event\":{\"id\":");
    id(out, row);
    texts(out, &[("},\"log\":{\"level\":", severity(row).1), ("},\"process\":{\"thread\":{\"name\":", row.thread)]);
    raw(out, "}},\"labels\":{");
    origin(out, row);
    out.push(b'"');
    int(out, row.attempt_number);
    out.push(b'"');
    if row.is_flat {
        flat(out, row);
    } else {
        raw(out, ",\"host\":");
        quoted(out, |out| host(out, row));
        raw(out, ",\"labels\":");
        quoted(out, |out| labels(out, row));
    }
    raw(out, ",\"durationMs\":\"");
    int(out, row.duration_ms);
    raw(out, "\"}}\n");
}

/// JSON as a string in JSON.
fn quoted(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    thread_local! {
        static INNER: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
    }
    INNER.with_borrow_mut(|inner| {
        inner.clear();
        write(inner);
        string(out, str::from_utf8(inner).unwrap_or_default());
    });
}

pub(crate) fn datadog(row: &Row<'_>, out: &mut Vec<u8>) {
    texts(out, &[("{\"ddsource\":\"logship\",\"status\":", severity(row).1)]);
    raw(out, ",\"timestamp\":");
    int(out, row.nanos() / 1_000_000);
    texts(out, &[(",\"message\":", &row.message)]);
    raw(out, ",\"id\":");
    id(out, row);
    out.push(b',');
    origin(out, row);
    int(out, row.attempt_number);
    texts(out, &[(",\"thread\":", row.thread)]);
    raw(out, ",\"labels\":");
    labels(out, row);
    raw(out, ",\"durationMs\":");
    int(out, row.duration_ms);
    // Datadog has a meaning of its own for `host`.
    raw(out, ",\"attributes\":{\"host\":");
    host(out, row);
    raw(out, "}}");
}

pub(crate) fn newrelic(row: &Row<'_>, out: &mut Vec<u8>) {
    raw(out, "{\"timestamp\":");
    int(out, row.nanos() / 1_000_000);
    texts(out, &[(",\"message\":", &row.message)]);
    raw(out, ",\"attributes\":{\"record.id\":");
    id(out, row);
    texts(out, &[(",\"level\":", row.level)]);
    out.push(b',');
    origin(out, row);
    int(out, row.attempt_number);
    texts(out, &[(",\"thread\":", row.thread)]);
    texts(out, &[(",\"host.name\":", row.host.name), (",\"host.zone\":", row.host.zone)]);
    texts(out, &[(",\"labels.team\":", row.labels.team), (",\"labels.tier\":", row.labels.tier)]);
    texts(out, &[(",\"labels.cost\":", row.labels.cost), (",\"labels.run\":", row.labels.run)]);
    raw(out, ",\"durationMs\":");
    int(out, row.duration_ms);
    raw(out, "}}");
}

pub(crate) fn splunk(row: &Row<'_>, out: &mut Vec<u8>) {
    let millis = row.nanos() / 1_000_000;
    raw(out, "{\"time\":");
    int(out, millis / 1_000);
    // With the zeros in front: a thousand and so many, of which the first digit is the point.
    let point = out.len();
    int(out, 1_000 + millis % 1_000);
    out[point] = b'.';
    texts(out, &[(",\"source\":\"logship\",\"sourcetype\":\"_json\",\"fields\":{\"level\":", row.level)]);
    raw(out, ",\"record_id\":");
    id(out, row);
    texts(out, &[("},\"event\":{\"message\":", &row.message)]);
    out.push(b',');
    attributes(out, row);
    raw(out, "}}\n");
}

pub(crate) fn logzio(row: &Row<'_>, out: &mut Vec<u8>) {
    raw(out, "{\"@timestamp\":");
    time(out, row, 3);
    event(",\"type\":\"logship\",\"message\":", row, out);
}

pub(crate) fn loggly(row: &Row<'_>, out: &mut Vec<u8>) {
    raw(out, "{\"timestamp\":");
    time(out, row, 6);
    event(",\"message\":", row, out);
}

/// What the two have in common.
fn event(message: &str, row: &Row<'_>, out: &mut Vec<u8>) {
    texts(out, &[(message, &row.message), (",\"level\":", row.level)]);
    raw(out, ",\"id\":");
    id(out, row);
    raw(out, ",\"attributes\":{");
    attributes(out, row);
    raw(out, "}}\n");
}

/// An entry of the one stream.
pub(crate) fn loki(row: &Row<'_>, out: &mut Vec<u8>) {
    raw(out, "[\"");
    int(out, row.nanos());
    raw(out, "\",");
    quoted(out, |out| object(row, out));
    texts(out, &[(",{\"level\":", severity(row).1)]);
    raw(out, "}]");
}

pub(crate) fn gcp(row: &Row<'_>, out: &mut Vec<u8>) {
    raw(out, "{\"timestamp\":");
    time(out, row, 9);
    let severity = if row.level == "WARN" { "WARNING" } else { row.level };
    texts(out, &[(",\"severity\":", severity)]);
    raw(out, ",\"insertId\":");
    id(out, row);
    texts(out, &[(",\"jsonPayload\":{\"message\":", &row.message)]);
    out.push(b',');
    attributes(out, row);
    raw(out, "}}");
}

pub(crate) fn cloudwatch(row: &Row<'_>, out: &mut Vec<u8>) {
    raw(out, "{\"timestamp\":");
    int(out, row.nanos() / 1_000_000);
    raw(out, ",\"message\":");
    quoted(out, |out| object(row, out));
    out.push(b'}');
}

/// A message. Each of the ten of a request has a number of one digit.
pub(crate) fn sqs(row: &Row<'_>, out: &mut Vec<u8>) {
    raw(out, "{\"Id\":\"0\",\"MessageBody\":");
    quoted(out, |out| object(row, out));
    out.push(b'}');
}

/// OTLP's protobuf.
pub(crate) mod otlp {
    use super::{Row, padded, raw, severity};

    /// `resource_logs` and in it `scope_logs`, with room for their lengths.
    pub(crate) const BEGIN: &[u8] = b"\x0a\x80\x80\x80\x80\x00\x12\x80\x80\x80\x80\x00";

    /// Writes the lengths, as varints of five bytes.
    pub(crate) fn finish(body: &mut [u8]) {
        for at in [1, 7] {
            let len = body.len() - at - 5;
            for (place, byte) in body[at..at + 5].iter_mut().enumerate() {
                let more = if place < 4 { 0x80 } else { 0 };
                *byte = (len >> (7 * place)) as u8 & 0x7f | more;
            }
        }
    }

    fn varint(out: &mut Vec<u8>, mut number: usize) {
        while number >= 0x80 {
            out.push(number as u8 | 0x80);
            number >>= 7;
        }
        out.push(number as u8);
    }

    /// The length of a text with its length, its field and that of what it is in.
    const fn text_len(text: &str) -> usize {
        text.len() + if text.len() < 0x80 { 2 } else { 3 }
    }

    fn text(out: &mut Vec<u8>, field: u8, text: &str) {
        out.push(field);
        varint(out, text.len());
        raw(out, text);
    }

    /// A key and what follows it, which has this length.
    fn key(out: &mut Vec<u8>, field: u8, name: &str, value_len: usize) {
        out.push(field);
        varint(out, text_len(name) + 1 + varint_len(value_len) + value_len);
        text(out, 0x0a, name);
        out.push(0x12);
        varint(out, value_len);
    }

    fn varint_len(number: usize) -> usize {
        (number.max(1).ilog2() / 7 + 1) as usize
    }

    fn pair(out: &mut Vec<u8>, field: u8, (name, value): (&str, &str)) {
        key(out, field, name, text_len(value));
        text(out, 0x0a, value);
    }

    fn int(out: &mut Vec<u8>, name: &str, number: i64) {
        let number = number as usize;
        key(out, 0x32, name, 1 + varint_len(number));
        out.push(0x18);
        varint(out, number);
    }

    fn map(out: &mut Vec<u8>, name: &str, pairs: &[(&str, &str)]) {
        // Names and values in it are short: one byte for each length.
        let len: usize = pairs.iter().map(|(name, value)| 2 + text_len(name) + 2 + text_len(value)).sum();
        key(out, 0x32, name, 1 + varint_len(len) + len);
        out.push(0x32);
        varint(out, len);
        pairs.iter().for_each(|(name, value)| pair(out, 0x0a, (name, value)));
    }

    /// One of `log_records`.
    pub(crate) fn record(row: &Row<'_>, out: &mut Vec<u8>) {
        // A record of the corpus is longer than 127 bytes and shorter than 16 384.
        out.extend_from_slice(&[0x12, 0, 0]);
        let begin = out.len();
        out.push(0x09);
        out.extend_from_slice(&row.nanos().to_le_bytes());
        out.extend_from_slice(&[0x10, severity(row).0 as u8]);
        text(out, 0x1a, row.level);
        out.push(0x2a);
        varint(out, text_len(&row.message));
        text(out, 0x0a, &row.message);
        let id_len = row.id_prefix.len() + 20;
        key(out, 0x32, "log.record.uid", id_len + 1 + varint_len(id_len));
        out.push(0x0a);
        varint(out, id_len);
        raw(out, row.id_prefix);
        padded(out, row.number);
        for text in [
            ("tenantId", row.tenant_id),
            ("namespace", row.namespace),
            ("flowId", row.flow_id),
            ("executionId", row.execution_id),
            ("taskId", row.task_id),
            ("taskRunId", row.task_run_id),
        ] {
            pair(out, 0x32, text);
        }
        int(out, "attemptNumber", row.attempt_number);
        pair(out, 0x32, ("thread", row.thread));
        map(out, "host", &[("name", row.host.name), ("zone", row.host.zone)]);
        let labels = &row.labels;
        let labels = [("team", labels.team), ("tier", labels.tier), ("cost", labels.cost), ("run", labels.run)];
        map(out, "labels", &labels);
        int(out, "durationMs", row.duration_ms);
        let len = out.len() - begin;
        (out[begin - 2], out[begin - 1]) = (len as u8 & 0x7f | 0x80, (len >> 7) as u8);
    }
}
