//! logship
