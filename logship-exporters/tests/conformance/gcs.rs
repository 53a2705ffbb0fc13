//! Against `strict::gcs::StrictGcs`.

use logship_testkit::exporter_conformance;

use super::clouds;

exporter_conformance!(async |_| clouds::gcs::cloud().await);
