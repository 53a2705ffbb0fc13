//! Tests for log shipping.
//!
//! [`strict`] holds stand-ins for destinations: small servers inside the test's own process, written from a
//! destination's documents and as unforgiving as the destination itself.

pub mod strict;
