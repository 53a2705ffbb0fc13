//! What benchmarks of single stages share with those of whole runs.

pub(crate) mod corpus;
pub(crate) mod destination;
pub(crate) mod format;
pub(crate) mod json;
pub(crate) mod row;
pub(crate) mod rows;
pub(crate) mod scenario;
pub(crate) mod shipping;
pub(crate) mod tables;
