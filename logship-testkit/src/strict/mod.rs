//! Stand-ins for destinations that enforce what the destination's documents say.
//!
//! A stand-in keeps what it accepted, so that a test can count; logs the requests it saw; and fails on request in the
//! ways a real destination fails (see [`Fault`]).

pub mod elasticsearch;
mod faults;
pub mod otlp;
mod server;

pub use faults::{Fault, Items, SeenRequest};
