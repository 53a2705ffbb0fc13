//! Tests for log shipping.
//!
//! - [`conformance`]: suites by which any exporter, source or offset store proves that it keeps its contract.
//! - [`proxy`]: a proxy in front of a real server, which fails on request.
//! - [`sim`]: logship's engine in a seeded, simulated world, with an oracle that checks its promises.
//! - [`strict`]: stand-ins for destinations: small servers inside the test's own process, written from a
//!   destination's documents and as unforgiving as the destination itself.

pub mod conformance;
pub mod proxy;
pub mod sim;
pub mod strict;
