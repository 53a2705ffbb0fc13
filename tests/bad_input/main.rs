//! Input that nobody should write and somebody does: whatever a source holds, every record arrives or is in the dead
//! letter, what stands beside it arrives, and an error says what failed, where, and what to do.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test says what it does, and why it fails by its panic"
)]

mod destinations;
mod gone;
mod records;
mod tables;
