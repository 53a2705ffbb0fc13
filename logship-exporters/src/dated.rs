//! Names that carry a date.

use logship_core::Timestamp;

/// A name with a date in it, such as the index `logs-%Y.%m.%d` or the folder `archive/%Y/%m/%d`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Dated {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    /// Where the digits stand in `2026-11-20T08:30:00`.
    Digits(usize, usize),
}

impl Dated {
    /// Reads `%Y`, `%m`, `%d` and `%H`; `None` for a name without a date. `Err` names what it does not know.
    pub(crate) fn parse(name: &str) -> Result<Option<Dated>, String> {
        let mut pieces = name.split('%');
        let mut parts = vec![Part::Text(pieces.next().unwrap_or_default().to_owned())];
        for piece in pieces {
            parts.push(match piece.as_bytes().first() {
                Some(b'Y') => Part::Digits(0, 4),
                Some(b'm') => Part::Digits(5, 7),
                Some(b'd') => Part::Digits(8, 10),
                Some(b'H') => Part::Digits(11, 13),
                _ => return Err(format!("`%{piece}` is not one of %Y, %m, %d and %H")),
            });
            parts.push(Part::Text(piece[1..].to_owned()));
        }
        Ok((parts.len() > 1).then_some(Dated { parts }))
    }

    /// The name at this time, in UTC.
    pub(crate) fn write(&self, time: Timestamp, out: &mut Vec<u8>) {
        let mut date = Vec::with_capacity(32);
        time.write_rfc3339(&mut date);
        for part in &self.parts {
            match part {
                Part::Text(text) => out.extend_from_slice(text.as_bytes()),
                Part::Digits(from, to) => out.extend_from_slice(&date[*from..*to]),
            }
        }
    }
}
