//! The memory store keeps the contract of `OffsetStore`.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![cfg(feature = "memory")]

use std::time::Duration;

use logship_core::{BuildContext, Fields, OffsetStore, Registry, async_trait};
use logship_state::memory::MemoryOffsets;
use logship_testkit::conformance::offset_store::OffsetStoreFixture;
use logship_testkit::offset_store_conformance;

struct Fixture(MemoryOffsets);

#[async_trait]
impl OffsetStoreFixture for Fixture {
    async fn open(&self) -> Box<dyn OffsetStore> {
        Box::new(self.0.clone())
    }

    async fn pass(&self, time: Duration) -> bool {
        tokio::time::pause();
        tokio::time::advance(time).await;
        tokio::time::resume();
        true
    }
}

offset_store_conformance!(async |_| Some(Fixture(MemoryOffsets::new())));

#[test]
fn a_configuration_field_it_does_not_have_is_refused() {
    let mut registry = Registry::new();
    logship_state::register(&mut registry);
    let fields: Fields = serde_json::from_str(r#"{"dir": "/tmp"}"#).unwrap();
    let error = registry.store("memory", fields, &BuildContext::default()).unwrap_err();
    assert!(error.to_string().contains("unknown field `dir`"), "{error}");
    assert_eq!(registry.store("memory", Fields::new(), &BuildContext::default()).unwrap().kind(), "memory");
}
