//! How bad a record is.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The OpenTelemetry severity number: 1 to 4 TRACE, 5 to 8 DEBUG, 9 to 12 INFO, 13 to 16 WARN, 17 to 20 ERROR,
/// 21 to 24 FATAL, 0 unspecified
/// (<https://opentelemetry.io/docs/specs/otel/logs/data-model/#field-severitynumber>).
///
/// Read from and written as a name: the names of OpenTelemetry, slf4j and Kestra (`WARN`, also `WARNING`), and of
/// syslog (`emerg`, `crit`, `notice`, ...), in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Severity(u8);

impl Severity {
    /// The source did not say.
    pub const UNSPECIFIED: Severity = Severity(0);
    /// The finest.
    pub const TRACE: Severity = Severity(1);
    /// For whoever debugs.
    pub const DEBUG: Severity = Severity(5);
    /// An ordinary thing happened.
    pub const INFO: Severity = Severity(9);
    /// Ordinary but worth a look: syslog's `notice`, OpenTelemetry's INFO2.
    pub const NOTICE: Severity = Severity(10);
    /// Something may go wrong.
    pub const WARN: Severity = Severity(13);
    /// Something went wrong.
    pub const ERROR: Severity = Severity(17);
    /// The program or the system cannot go on.
    pub const FATAL: Severity = Severity(21);

    /// The severity of an OpenTelemetry number, `None` above 24.
    pub const fn from_number(number: u8) -> Option<Self> {
        if number <= 24 { Some(Severity(number)) } else { None }
    }

    /// The severity of a syslog number, 0 (emergency) to 7 (debug)
    /// (<https://www.rfc-editor.org/rfc/rfc5424#section-6.2.1>), `None` above 7.
    pub const fn from_syslog(number: u8) -> Option<Self> {
        // OpenTelemetry's own table, appendix B of its log data model.
        Some(Severity(match number {
            0 => 24,
            1 => 22,
            2 => 21,
            3 => 17,
            4 => 13,
            5 => 10,
            6 => 9,
            7 => 5,
            _ => return None,
        }))
    }

    /// The OpenTelemetry number.
    pub const fn number(self) -> u8 {
        self.0
    }

    /// The syslog number, 0 (emergency) to 7 (debug); unspecified counts as informational.
    pub const fn syslog(self) -> u8 {
        match self.0 {
            1..=8 => 7,
            0 | 9 => 6,
            10..=12 => 5,
            13..=16 => 4,
            17..=20 => 3,
            21 => 2,
            22 | 23 => 1,
            _ => 0,
        }
    }

    /// The short name that OpenTelemetry, slf4j and Kestra share: `TRACE`, `DEBUG`, `INFO`, `WARN`, `ERROR`, `FATAL`,
    /// or `UNSPECIFIED`.
    pub const fn name(self) -> &'static str {
        match self.0 {
            0 => "UNSPECIFIED",
            1..=4 => "TRACE",
            5..=8 => "DEBUG",
            9..=12 => "INFO",
            13..=16 => "WARN",
            17..=20 => "ERROR",
            _ => "FATAL",
        }
    }

    /// Whether a record of this severity passes a minimum. What has no severity always passes: a filter may not lose
    /// what nobody classified.
    pub const fn passes(self, minimum: Severity) -> bool {
        self.0 == 0 || self.0 >= minimum.0
    }

    /// The severity of a name, of any of the families above, in any case.
    pub fn from_name(name: &str) -> Option<Self> {
        const NAMES: &[(&str, Severity)] = &[
            ("INFO", Severity::INFO),
            ("WARN", Severity::WARN),
            ("ERROR", Severity::ERROR),
            ("DEBUG", Severity::DEBUG),
            ("TRACE", Severity::TRACE),
            ("FATAL", Severity::FATAL),
            ("WARNING", Severity::WARN),
            ("NOTICE", Severity::NOTICE),
            ("ERR", Severity::ERROR),
            ("CRIT", Severity::FATAL),
            ("CRITICAL", Severity::FATAL),
            ("ALERT", Severity(22)),
            ("EMERG", Severity(24)),
            ("EMERGENCY", Severity(24)),
            ("PANIC", Severity(24)),
            ("INFORMATIONAL", Severity::INFO),
            ("INFORMATION", Severity::INFO),
            ("VERBOSE", Severity::TRACE),
            ("UNSPECIFIED", Severity::UNSPECIFIED),
        ];
        NAMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, severity)| *severity)
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Severity {
    type Err = String;
    fn from_str(name: &str) -> Result<Self, String> {
        Severity::from_name(name)
            .ok_or_else(|| format!("`{name}` is not a severity: use TRACE, DEBUG, INFO, WARN, ERROR or FATAL"))
    }
}

impl Serialize for Severity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Severity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_every_family_are_known() {
        for (name, number) in [("warning", 13), ("WARN", 13), ("Notice", 10), ("crit", 21), ("err", 17), ("trace", 1)] {
            assert_eq!(name.parse::<Severity>().map(Severity::number), Ok(number), "{name}");
        }
        assert!("LOUD".parse::<Severity>().is_err());
    }

    #[test]
    fn syslog_numbers_survive_the_round_trip() {
        for number in 0..=7 {
            assert_eq!(Severity::from_syslog(number).map(Severity::syslog), Some(number));
        }
        assert_eq!(Severity::from_syslog(8), None);
    }

    #[test]
    fn what_nobody_classified_passes_every_minimum() {
        assert!(Severity::UNSPECIFIED.passes(Severity::FATAL));
        assert!(Severity::ERROR.passes(Severity::INFO));
        assert!(!Severity::DEBUG.passes(Severity::INFO));
    }
}
