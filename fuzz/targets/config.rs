//! Configuration: a shipper, or an error that quotes no secret.
#![no_main]

use libfuzzer_sys::fuzz_target;
use logship::config::ShipperConfig;
use logship::{BuildContext, registry};

fuzz_target!(|text: &str| {
    // A secret may be kept in any file; these never end.
    if text.contains("dev") || text.contains("proc") {
        return;
    }
    let Ok(config) = serde_json::from_str::<ShipperConfig>(text) else { return };
    let shown = format!("{config:?}");
    if let Err(error) = config.build(&registry(), &BuildContext::default()) {
        assert!(!format!("{error} {error:?}").is_empty());
    }
    assert!(!shown.contains("hunter2"), "{shown}");
});
