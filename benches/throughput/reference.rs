//! The same work without logship: one thread that reads, parses, encodes, packs and sends, by the shortest way that is
//! known. What it does in a second of CPU is the limit that scenarios are held against.

use std::error::Error;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;

use logship::Timestamp;

use crate::corpus::Corpus;
use crate::row::{Row, Time};
use crate::rows;
use crate::scenario::{Packing, Scenario, To};
use crate::shipping::CHUNK;

/// Writes a string with the escapes that JSON needs.
fn string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut plain = 0;
    while let Some(found) = special(&bytes[plain..]) {
        out.extend_from_slice(&bytes[plain..plain + found]);
        match bytes[plain + found] {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\t' => out.extend_from_slice(b"\\t"),
            b'\r' => out.extend_from_slice(b"\\r"),
            other => write!(out, "\\u{other:04x}").unwrap_or_default(),
        }
        plain += found + 1;
    }
    out.extend_from_slice(&bytes[plain..]);
    out.push(b'"');
}

/// The first byte that cannot stand in a string as it is. Eight at a time.
fn special(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGHS: u64 = ONES << 7;
    let zero = |word: u64| word.wrapping_sub(ONES) & !word & HIGHS;
    let mut at = 0;
    while let Some(chunk) = bytes.get(at..at + 8).and_then(|chunk| chunk.try_into().ok()) {
        let word = u64::from_le_bytes(chunk);
        let low = word.wrapping_sub(ONES * 0x20) & !word & HIGHS;
        let found = low | zero(word ^ (ONES * u64::from(b'"'))) | zero(word ^ (ONES * u64::from(b'\\')));
        if found != 0 {
            return Some(at + found.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    bytes[at..].iter().position(|byte| *byte < 0x20 || matches!(byte, b'"' | b'\\')).map(|found| at + found)
}

/// Writes text as it is.
fn raw(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

fn int(out: &mut Vec<u8>, number: i64) {
    raw(out, itoa::Buffer::new().format(number));
}

fn time(out: &mut Vec<u8>, time: Time<'_>) {
    out.push(b'"');
    match time {
        Time::Text(text) => raw(out, text),
        Time::Nanos(nanos) => Timestamp::from_nanos(nanos).write_rfc3339(out),
    }
    out.push(b'"');
}

/// The id of a record, as long as logship's.
fn id(out: &mut Vec<u8>, number: u64) {
    raw(out, "\"corpus.jsonl:");
    int(out, 1_000_000_000_000_000 + number as i64);
    out.push(b'"');
}

/// A bulk action and its document, as long as logship's.
fn document(row: &Row<'_>, number: u64, out: &mut Vec<u8>) {
    raw(out, "{\"create\":{\"_id\":");
    id(out, number);
    raw(out, "}}\n{\"@timestamp\":");
    time(out, row.timestamp);
    raw(out, ",\"message\":");
    string(out, &row.message);
    raw(out, ",\"event\":{\"id\":");
    id(out, number);
    raw(out, "},\"log\":{\"level\":");
    string(out, row.level);
    raw(out, "},\"process\":{\"thread\":{\"name\":");
    string(out, row.thread);
    raw(out, "}},\"labels\":{");
    let labels = [
        ("\"tenantId\":", row.tenant_id),
        (",\"namespace\":", row.namespace),
        (",\"flowId\":", row.flow_id),
        (",\"executionId\":", row.execution_id),
        (",\"taskId\":", row.task_id),
        (",\"taskRunId\":", row.task_run_id),
        (",\"host_name\":", row.host.name),
        (",\"host_zone\":", row.host.zone),
        (",\"labels_team\":", row.labels.team),
        (",\"labels_tier\":", row.labels.tier),
        (",\"labels_cost\":", row.labels.cost),
        (",\"labels_run\":", row.labels.run),
    ];
    for (name, value) in labels {
        raw(out, name);
        string(out, value);
    }
    for (name, value) in [(",\"attemptNumber\":", row.attempt_number), (",\"durationMs\":", row.duration_ms)] {
        raw(out, name);
        int(out, value);
    }
    raw(out, "}}\n");
}

/// Packs a body into `packed`, and says which of the two is to be sent.
fn pack<'b>(packing: Packing, body: &'b [u8], packed: &'b mut Vec<u8>) -> std::io::Result<&'b [u8]> {
    packed.clear();
    let level = match packing {
        Packing::None => return Ok(body),
        Packing::Zstd1 => {
            *packed = zstd::bulk::compress(body, 1)?;
            return Ok(packed);
        }
        Packing::Gzip1 => 1,
        Packing::Gzip6 => 6,
    };
    let mut encoder = flate2::write::GzEncoder::new(packed, flate2::Compression::new(level));
    encoder.write_all(body)?;
    Ok(encoder.finish()?)
}

/// A connection for each lane.
struct Destinations {
    streams: Vec<BufReader<TcpStream>>,
    path: &'static str,
    encoding: &'static str,
    packing: Packing,
    packed: Vec<u8>,
    answer: Vec<u8>,
    file: Option<File>,
}

impl Destinations {
    fn open(scenario: Scenario, port: u16, dir: &Path) -> std::io::Result<Self> {
        let to_file = scenario.to == To::File;
        let stream =
            |_| TcpStream::connect(("127.0.0.1", port)).map(|stream| BufReader::with_capacity(1 << 18, stream));
        let streams = if matches!(scenario.to, To::File | To::Null) { 0 } else { scenario.lanes };
        Ok(Destinations {
            streams: (0..streams).map(stream).collect::<Result<_, _>>()?,
            path: if matches!(scenario.to, To::Bulk) { "/_bulk" } else { "/in" },
            encoding: match scenario.packing {
                Packing::None => "",
                Packing::Gzip1 | Packing::Gzip6 => "content-encoding: gzip\r\n",
                Packing::Zstd1 => "content-encoding: zstd\r\n",
            },
            packing: scenario.packing,
            packed: Vec::new(),
            answer: Vec::new(),
            file: to_file.then(|| File::create(dir.join("reference.jsonl"))).transpose()?,
        })
    }

    /// Sends a body to every lane, or to one of them.
    fn send(&mut self, body: &[u8], lane: Option<usize>) -> std::io::Result<()> {
        if let Some(file) = &mut self.file {
            return file.write_all(body);
        }
        let body = pack(self.packing, body, &mut self.packed)?;
        for (number, stream) in self.streams.iter_mut().enumerate() {
            if lane.is_some_and(|lane| lane != number) {
                continue;
            }
            let (path, encoding, length) = (self.path, self.encoding, body.len());
            let head = format!("POST {path} HTTP/1.1\r\nhost: receiver\r\n{encoding}content-length: {length}\r\n\r\n");
            stream.get_mut().write_all(head.as_bytes())?;
            stream.get_mut().write_all(body)?;
            let mut length = 0;
            loop {
                let mut line = String::new();
                stream.read_line(&mut line)?;
                if line == "\r\n" {
                    break;
                }
                if let Some(value) = line.strip_prefix("content-length: ") {
                    length = value.trim_end().parse().map_err(std::io::Error::other)?;
                }
            }
            self.answer.resize(length, 0);
            stream.read_exact(&mut self.answer)?;
        }
        Ok(())
    }
}

/// Bodies of one chunk, one for each format.
struct Bodies {
    formats: usize,
    bodies: Vec<Vec<u8>>,
    records: usize,
    sent: u64,
}

impl Bodies {
    fn new(scenario: Scenario) -> Self {
        let formats = match scenario.to {
            To::Null => 0,
            To::Three => 3,
            To::File | To::Bulk | To::Ndjson => 1,
        };
        Bodies { formats, bodies: vec![Vec::new(); formats], records: 0, sent: 0 }
    }

    fn one_more(&mut self, destinations: &mut Destinations) -> std::io::Result<()> {
        self.records += 1;
        self.sent += 1;
        if self.records == CHUNK { self.flush(destinations) } else { Ok(()) }
    }

    fn flush(&mut self, destinations: &mut Destinations) -> std::io::Result<()> {
        for (lane, body) in self.bodies.iter_mut().enumerate() {
            destinations.send(body, (self.formats > 1).then_some(lane))?;
            body.clear();
        }
        self.records = 0;
        Ok(())
    }
}

/// Runs a scenario and says how many records there were. `begin` is called when everything is prepared.
pub(crate) async fn run(
    scenario: Scenario,
    corpus: &Corpus,
    port: u16,
    dir: &Path,
    begin: impl FnOnce(),
) -> Result<u64, Box<dyn Error>> {
    let mut destinations = Destinations::open(scenario, port, dir)?;
    let mut bodies = Bodies::new(scenario);
    rows::each(scenario.from, corpus, begin, |row| {
        let number = bodies.sent;
        bodies.bodies.iter_mut().for_each(|body| document(row, number, body));
        bodies.one_more(&mut destinations)
    })
    .await?;
    bodies.flush(&mut destinations)?;
    Ok(bodies.sent)
}
