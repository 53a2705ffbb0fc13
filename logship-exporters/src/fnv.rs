//! What long names are made short with.

use std::fmt;

/// FNV-1a of 128 bits (<https://datatracker.ietf.org/doc/draft-eastlake-fnv/>), shown in hexadecimal: the same on every
/// machine, and wide enough that no two names are alike by chance.
#[derive(Clone, Copy)]
pub(crate) struct Fnv128(u128);

impl Fnv128 {
    /// Of nothing.
    pub(crate) fn new() -> Self {
        Fnv128(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d)
    }

    /// Of all up to now and these bytes.
    #[must_use]
    pub(crate) fn with(self, bytes: &[u8]) -> Self {
        Fnv128(bytes.iter().fold(self.0, |hash, byte| {
            (hash ^ u128::from(*byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
        }))
    }
}

impl fmt::Display for Fnv128 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_one_that_is_published() {
        let shown = |bytes: &[u8]| Fnv128::new().with(bytes).to_string();
        assert_eq!(shown(b""), "6c62272e07bb014262b821756295c58d");
        assert_eq!(shown(b"a"), "d228cb696f1a8caf78912b704e4a8964");
        assert_eq!(shown(b"foobar"), "343e1662793c64bf6f0d3597ba446f18");
        assert_eq!(Fnv128::new().with(b"foo").with(b"bar").to_string(), shown(b"foobar"));
    }
}
