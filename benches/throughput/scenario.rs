//! What is measured: from where, to where, packed how, on how many lanes.

use std::fmt;
use std::str::FromStr;

use logship::Compression;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum From {
    Jsonl,
    Memory,
    Sqlite,
    Postgres,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum To {
    Null,
    File,
    Bulk,
    Ndjson,
    /// Elasticsearch, NDJSON and a JSON array, one lane each.
    Three,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    None,
    Gzip1,
    Gzip6,
    Zstd1,
}

/// One measurement. As text `jsonl-bulk-gzip1-3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scenario {
    pub(crate) from: From,
    pub(crate) to: To,
    pub(crate) packing: Packing,
    pub(crate) lanes: usize,
}

/// What is measured by default, and, where it was set, the least share of the reference loop's rate.
pub(crate) const SCENARIOS: &[(&str, Option<f64>)] = &[
    ("jsonl-bulk-none-1", Some(0.80)),
    ("jsonl-bulk-gzip1-1", Some(0.85)),
    ("jsonl-bulk-gzip6-1", Some(0.90)),
    ("jsonl-bulk-zstd1-1", None),
    ("jsonl-bulk-none-3", Some(0.80)),
    ("jsonl-bulk-gzip1-3", Some(0.80)),
    ("jsonl-three-none-3", Some(0.80)),
    ("jsonl-ndjson-none-1", None),
    ("jsonl-file-none-1", None),
    ("jsonl-null-none-1", None),
    ("sqlite-bulk-none-1", None),
    ("sqlite-bulk-gzip1-1", None),
    ("sqlite-null-none-1", None),
    ("postgres-bulk-none-1", None),
    ("postgres-bulk-gzip1-1", None),
    ("postgres-null-none-1", None),
    ("memory-bulk-none-1", Some(0.70)),
    ("memory-bulk-gzip1-1", None),
    ("memory-null-none-1", None),
    ("memory-null-none-3", None),
    ("memory-null-none-10", None),
];

impl Packing {
    pub(crate) fn compression(self) -> Compression {
        match self {
            Packing::None => Compression::None,
            Packing::Gzip1 => Compression::Gzip(1),
            Packing::Gzip6 => Compression::Gzip(6),
            Packing::Zstd1 => Compression::Zstd(1),
        }
    }
}

const FROM: [(&str, From); 4] =
    [("jsonl", From::Jsonl), ("memory", From::Memory), ("sqlite", From::Sqlite), ("postgres", From::Postgres)];
const TO: [(&str, To); 5] =
    [("null", To::Null), ("file", To::File), ("bulk", To::Bulk), ("ndjson", To::Ndjson), ("three", To::Three)];
const PACKING: [(&str, Packing); 4] =
    [("none", Packing::None), ("gzip1", Packing::Gzip1), ("gzip6", Packing::Gzip6), ("zstd1", Packing::Zstd1)];

fn find<T: Copy>(names: &[(&str, T)], name: &str) -> Result<T, String> {
    let known = names.iter().find(|(known, _)| *known == name);
    known
        .map(|(_, value)| *value)
        .ok_or_else(|| format!("`{name}` is none of {:?}", names.iter().map(|(n, _)| n).collect::<Vec<_>>()))
}

fn name_of<T: PartialEq>(names: &[(&'static str, T)], wanted: &T) -> &'static str {
    names.iter().find(|(_, value)| value == wanted).map_or("?", |(name, _)| name)
}

impl FromStr for Scenario {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split('-').collect();
        let [from, to, packing, lanes] = parts[..] else {
            return Err(format!("`{text}` is not FROM-TO-PACKING-LANES"));
        };
        Ok(Scenario {
            from: find(&FROM, from)?,
            to: find(&TO, to)?,
            packing: find(&PACKING, packing)?,
            lanes: lanes.parse().map_err(|_| format!("`{lanes}` is no number of lanes"))?,
        })
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, to) = (name_of(&FROM, &self.from), name_of(&TO, &self.to));
        write!(f, "{from}-{to}-{}-{}", name_of(&PACKING, &self.packing), self.lanes)
    }
}
