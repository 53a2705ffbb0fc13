//! Tests for log shipping.
//!
//! - [`sim`]: logship's engine in a seeded, simulated world, with an oracle that checks its promises.

pub mod sim;
