//! What a server of Loki is set to take.

use serde::Deserialize;

/// What the server takes. Each default is that of `limits_config`
/// (<https://grafana.com/docs/loki/latest/configure/#limits_config>). What exceeds one is rejected before it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct LokiLimits {
    /// Bytes of a line, `max_line_size`. Default: 262,144 (256 KiB).
    pub line_bytes_max: usize,
    /// Bytes of the structured metadata of a line, names and values: `max_structured_metadata_size`. Default: 65,536.
    pub metadata_bytes_max: usize,
    /// Entries of the structured metadata of a line, `max_structured_metadata_entries_count`. Default: 128.
    pub metadata_entries_max: usize,
    /// Bytes of a label's value, `max_label_value_length`; a longer one is cut. Default: 2,048.
    pub label_value_bytes_max: usize,
    /// How old a line may be, in seconds, `reject_old_samples_max_age`; 0 for any. Default: 604,800 (a week).
    pub age_max_secs: u64,
    /// How far in the future a line may lie, in seconds, `creation_grace_period`; 0 for any. Default: 600.
    pub ahead_max_secs: u64,
}

impl Default for LokiLimits {
    fn default() -> Self {
        LokiLimits {
            line_bytes_max: 256 * 1024,
            metadata_bytes_max: 64 * 1024,
            metadata_entries_max: 128,
            label_value_bytes_max: 2_048,
            age_max_secs: 7 * 24 * 3600,
            ahead_max_secs: 600,
        }
    }
}
