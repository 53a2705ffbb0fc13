//! What is measured: from where, to where, packed how, on how many lanes.

use std::fmt;
use std::str::FromStr;

use logship::Compression;

use crate::destination::{DESTINATIONS, Destination};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum From {
    Jsonl,
    /// Records that were made before the clock was started, in so many partitions.
    Memory(usize),
    Sqlite,
    Postgres,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum To {
    /// What takes everything at once.
    Null,
    One(&'static Destination),
    /// Elasticsearch, NDJSON and a JSON array, one lane each.
    Three,
}

impl To {
    fn name(self) -> &'static str {
        match self {
            To::Null => "null",
            To::One(destination) => destination.name,
            To::Three => "three",
        }
    }

    /// The destination of this lane.
    pub(crate) fn of_lane(self, lane: usize) -> Option<&'static Destination> {
        let named = |name| DESTINATIONS.iter().find(|destination| destination.name == name);
        match self {
            To::Null => None,
            To::One(destination) => Some(destination),
            To::Three => named(["bulk", "ndjson", "array"][lane % 3]),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    None,
    Gzip1,
    Gzip6,
    Zstd1,
}

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

/// One measurement. As text `jsonl-bulk-gzip1-3`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scenario {
    pub(crate) from: From,
    pub(crate) to: To,
    pub(crate) packing: Packing,
    pub(crate) lanes: usize,
}

impl Scenario {
    /// What it is measured against: its reference loop, or, for records in many partitions, the same in one.
    pub(crate) fn limit(self) -> Limit {
        match (self.from, self.to) {
            (From::Memory(partitions), _) if partitions > 1 => {
                Limit::Scenario(Scenario { from: From::Memory(1), ..self })
            }
            _ => Limit::Loop,
        }
    }
}

/// What a scenario is measured against.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Limit {
    /// The same work without logship.
    Loop,
    /// Another scenario.
    Scenario(Scenario),
}

/// What is measured by default, and, where it was set, the least share of the limit's rate.
pub(crate) const SCENARIOS: &[(&str, Option<f64>)] = &[
    ("jsonl-bulk-none-1", Some(0.80)),
    ("jsonl-bulk-gzip1-1", Some(0.85)),
    ("jsonl-bulk-gzip6-1", Some(0.90)),
    ("jsonl-bulk-zstd1-1", None),
    ("jsonl-bulk-none-3", Some(0.80)),
    ("jsonl-bulk-gzip1-3", Some(0.80)),
    ("jsonl-bulk-none-10", None),
    ("jsonl-three-none-3", Some(0.80)),
    ("jsonl-ndjson-none-1", None),
    ("jsonl-ndjson-gzip1-1", None),
    ("jsonl-file-none-1", None),
    ("jsonl-null-none-1", None),
    ("jsonl-opensearch-none-1", None),
    ("jsonl-datadog-none-1", None),
    ("jsonl-newrelic-none-1", None),
    ("jsonl-splunk-none-1", None),
    ("jsonl-otlp-none-1", None),
    ("jsonl-logzio-none-1", None),
    ("jsonl-loggly-none-1", None),
    ("jsonl-loki-none-1", None),
    ("jsonl-gcp-none-1", None),
    ("jsonl-s3-none-1", None),
    ("jsonl-gcs-none-1", None),
    ("jsonl-azureblob-none-1", None),
    ("jsonl-cloudwatch-none-1", None),
    ("jsonl-sqs-none-1", None),
    ("sqlite-bulk-none-1", None),
    ("sqlite-bulk-gzip1-1", None),
    ("sqlite-ndjson-none-1", None),
    ("sqlite-file-none-1", None),
    ("sqlite-null-none-1", None),
    ("postgres-bulk-none-1", None),
    ("postgres-bulk-gzip1-1", None),
    ("postgres-ndjson-none-1", None),
    ("postgres-file-none-1", None),
    ("postgres-null-none-1", None),
    ("memory-bulk-none-1", Some(0.70)),
    ("memory-bulk-gzip1-1", None),
    ("memory-bulk-gzip6-1", None),
    ("memory-ndjson-none-1", None),
    ("memory-file-none-1", None),
    ("memory-opensearch-none-1", None),
    ("memory-datadog-none-1", None),
    ("memory-newrelic-none-1", None),
    ("memory-splunk-none-1", None),
    ("memory-otlp-none-1", None),
    ("memory-otlp-gzip1-1", None),
    ("memory-logzio-none-1", None),
    ("memory-loggly-none-1", None),
    ("memory-loki-none-1", None),
    ("memory-gcp-none-1", None),
    ("memory-s3-none-1", None),
    ("memory-cloudwatch-none-1", None),
    ("memory-null-none-1", None),
    ("memory-null-none-3", None),
    ("memory-null-none-10", None),
    ("memory100-bulk-none-1", None),
    ("memory10000-bulk-none-1", None),
    ("memory100-null-none-1", None),
    ("memory10000-null-none-1", None),
];

const FROM: [(&str, From); 6] = [
    ("jsonl", From::Jsonl),
    ("memory", From::Memory(1)),
    ("memory100", From::Memory(100)),
    ("memory10000", From::Memory(10_000)),
    ("sqlite", From::Sqlite),
    ("postgres", From::Postgres),
];
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
        let mut destinations = vec![("null", To::Null), ("three", To::Three)];
        destinations.extend(DESTINATIONS.iter().map(|destination| (destination.name, To::One(destination))));
        Ok(Scenario {
            from: find(&FROM, from)?,
            to: find(&destinations, to)?,
            packing: find(&PACKING, packing)?,
            lanes: lanes.parse().map_err(|_| format!("`{lanes}` is no number of lanes"))?,
        })
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, to) = (name_of(&FROM, &self.from), self.to.name());
        write!(f, "{from}-{to}-{}-{}", name_of(&PACKING, &self.packing), self.lanes)
    }
}
