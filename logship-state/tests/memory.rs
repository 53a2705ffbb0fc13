//! The memory store keeps the contract of `OffsetStore`.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![cfg(feature = "memory")]

mod conformance;

use logship_core::{BuildContext, Fields, Registry};
use logship_state::memory::MemoryOffsets;

#[tokio::test]
async fn c1_commits_merge_and_change_nothing_they_do_not_name() {
    conformance::c1_commits_merge_and_change_nothing_they_do_not_name(&MemoryOffsets::new()).await;
}

#[tokio::test]
async fn c1_a_lane_without_a_cursor_is_kept() {
    conformance::c1_a_lane_without_a_cursor_is_kept(&MemoryOffsets::new()).await;
}

#[tokio::test]
async fn c1_windows_are_kept_and_forgotten() {
    conformance::c1_windows_are_kept_and_forgotten(&MemoryOffsets::new()).await;
}

#[tokio::test]
async fn c2_an_old_lease_moves_nothing() {
    conformance::c2_an_old_lease_moves_nothing(&MemoryOffsets::new()).await;
}

#[tokio::test]
async fn c3_a_held_key_is_busy_and_epochs_grow() {
    let store = MemoryOffsets::new();
    conformance::c3_a_held_key_is_busy_and_epochs_grow(&store, &store.clone()).await;
}

#[tokio::test(start_paused = true)]
async fn c4_a_lease_that_is_not_renewed_expires() {
    conformance::c4_a_lease_that_is_not_renewed_expires(&MemoryOffsets::new(), tokio::time::advance).await;
}

#[tokio::test]
async fn c5_a_clone_shares_what_is_kept() {
    let store = MemoryOffsets::new();
    conformance::c5_what_was_committed_is_there_after_a_restart(&store, &store.clone()).await;
}

#[tokio::test]
async fn keys_with_offsets_are_listed_in_order() {
    conformance::keys_with_offsets_are_listed_in_order(&MemoryOffsets::new()).await;
}

#[tokio::test]
async fn a_reset_forgets_and_is_refused_while_leased() {
    conformance::a_reset_forgets_and_is_refused_while_leased(&MemoryOffsets::new()).await;
}

#[test]
fn a_configuration_field_it_does_not_have_is_refused() {
    let mut registry = Registry::new();
    logship_state::register(&mut registry);
    let fields: Fields = serde_json::from_str(r#"{"dir": "/tmp"}"#).unwrap();
    let error = registry.store("memory", fields, &BuildContext::default()).unwrap_err();
    assert!(error.to_string().contains("unknown field `dir`"), "{error}");
    assert_eq!(registry.store("memory", Fields::new(), &BuildContext::default()).unwrap().kind(), "memory");
}
