use logship_testkit::exporter_conformance;

use super::clouds;

exporter_conformance!(async |_| clouds::s3::cloud().await);
