//! The results as a picture: what logship reaches of each reference loop, on light and on dark pages.

use std::fmt::Write;

use crate::Results;
use crate::measure::Measured;

/// What is drawn, if it was measured, under headings.
const GROUPS: [(&str, &[(&str, &str)]); 3] = [
    (
        "from a file of JSON lines",
        &[
            ("jsonl-bulk-none-1", "Elasticsearch"),
            ("jsonl-bulk-gzip1-1", "Elasticsearch, gzip 1"),
            ("jsonl-bulk-gzip6-1", "Elasticsearch, gzip 6"),
            ("jsonl-bulk-zstd1-1", "Elasticsearch, zstd 1"),
            ("jsonl-bulk-none-3", "three Elasticsearch"),
            ("jsonl-otlp-none-1", "OTLP"),
            ("jsonl-splunk-none-1", "Splunk"),
            ("jsonl-datadog-none-1", "Datadog"),
            ("jsonl-file-none-1", "a file"),
        ],
    ),
    (
        "from tables",
        &[("sqlite-bulk-none-1", "SQLite to Elasticsearch"), ("postgres-bulk-none-1", "PostgreSQL to Elasticsearch")],
    ),
    (
        "from memory",
        &[
            ("memory-bulk-none-1", "Elasticsearch"),
            ("memory-bulk-gzip1-1", "Elasticsearch, gzip 1"),
            ("memory-otlp-none-1", "OTLP"),
            ("memory-ndjson-none-1", "HTTP, JSON lines"),
        ],
    ),
];

const WIDTH: usize = 820;
/// Where bars begin, and how long the limit's is.
const LEFT: usize = 230;
const FULL: usize = 330;
const ROW: usize = 24;

const STYLE: &str = "text{font:13px system-ui,sans-serif;fill:#424a53}.head{font-weight:600}.small{font-size:11px}\
.limit{fill:#d0d7de}.logship{fill:#1f6feb}\
@media(prefers-color-scheme:dark){text{fill:#c9d1d9}.limit{fill:#3d444d}.logship{fill:#4c8ef7}}";

/// An SVG picture of the results.
pub(crate) fn svg(results: &Results) -> Result<String, std::fmt::Error> {
    let mut rows = String::new();
    let mut y = 48;
    for (heading, scenarios) in GROUPS {
        let found: Vec<(&Measured, &str)> = scenarios
            .iter()
            .filter_map(|(name, label)| Some((results.throughput.iter().find(|one| one.scenario == *name)?, *label)))
            .collect();
        if found.is_empty() {
            continue;
        }
        y += ROW + 6;
        writeln!(rows, r#"<text class="head" x="12" y="{y}">{heading}</text>"#)?;
        for (measured, label) in found {
            y += ROW;
            row(&mut rows, y, label, measured)?;
        }
    }
    let (height, records) = (y + 44, results.throughput.iter().map(|one| one.logship.records).max().unwrap_or(0));
    let records = thousands(records as f64);
    Ok(format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" role="img">
<title>What logship ships in a second of CPU, beside a bare loop that does the same</title>
<style>{STYLE}</style>
<rect class="logship" x="12" y="14" width="12" height="12"/><text x="30" y="25">logship</text>
<rect class="limit" x="92" y="14" width="12" height="12"/><text x="110" y="25">the same work in a bare loop: no engine, offsets, retries or fan-out</text>
<text class="small" x="12" y="46">records in a second of CPU, and the share of the loop's; {records} lines of half a kilobyte, taken in one run</text>
{rows}<text class="small" x="12" y="{}">cargo bench --bench throughput -- --plot docs/throughput.svg</text>
</svg>
"#,
        height - 12
    ))
}

fn row(out: &mut String, y: usize, label: &str, measured: &Measured) -> std::fmt::Result {
    let (Some(ratio), Some(reference)) = (measured.ratio, &measured.reference) else { return Ok(()) };
    let (top, bar) = (y - 12, (FULL as f64 * ratio).min((WIDTH - LEFT) as f64));
    let (rate, limit) = (thousands(measured.logship.rate()), thousands(reference.rate()));
    let behind = LEFT + FULL.max(bar as usize) + 10;
    writeln!(out, r#"<text x="24" y="{y}">{label}</text>"#)?;
    writeln!(out, r#"<rect class="limit" x="{LEFT}" y="{top}" width="{FULL}" height="15"/>"#)?;
    writeln!(out, r#"<rect class="logship" x="{LEFT}" y="{top}" width="{bar:.0}" height="15"/>"#)?;
    writeln!(out, r#"<text x="{behind}" y="{y}">{rate} of {limit} = {:.0} %</text>"#, ratio * 100.0)
}

/// Three digits that count, with spaces between the thousands.
fn thousands(number: f64) -> String {
    let unit = 10_f64.powf((number.max(1.0).log10().floor() - 2.0).max(0.0));
    let digits = format!("{:.0}", (number / unit).round() * unit);
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}
