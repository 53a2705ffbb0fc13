//! The file store where the disk takes a part of what is written. Alone in its program: a process that is begun here has the
//! locks of all others for a moment.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![cfg(all(feature = "file", unix))]

use logship_core::{Cursor, OffsetStore};
use logship_state::file::FileOffsets;
use logship_testkit::conformance::offset_store::{TTL, key, moved};

/// The process of the test below, whose files may not grow beyond a limit.
#[tokio::test]
#[ignore = "is run by the test below, as a process of its own"]
async fn child() {
    let Ok(dir) = std::env::var("LOGSHIP_FULL_DISK") else { return };
    let store = FileOffsets::new(&dir);
    let lease = store.acquire(&key("k"), "me", TTL).await.unwrap();
    store.commit(&lease, &moved("es", "p", Cursor::number(0))).await.unwrap();
    let loaded = async || FileOffsets::new(&dir).load(&key("k")).await.unwrap().lanes["es"].cursors["p"].as_number();
    let mut failed = 0;
    for number in 1..=200 {
        let delta = moved("es", "p", Cursor::number(number));
        if let Err(error) = store.commit(&lease, &delta).await {
            failed += 1;
            assert!(error.is_retryable(), "{error}");
            assert_eq!(loaded().await, number - 1, "what failed half-way is not there");
            store.commit(&lease, &delta).await.unwrap();
        }
        assert_eq!(loaded().await, number);
    }
    assert!(failed > 1, "{failed} commits failed");
}

/// Method: the operating system lets no file grow beyond 8 KiB, so that the journal's last line is written in part.
#[test]
fn c1_a_commit_that_was_written_in_part_fails_and_works_again() {
    let dir = tempfile::tempdir().unwrap();
    let output = std::process::Command::new("bash")
        .args(["-c", "trap '' XFSZ; ulimit -f 8; exec \"$0\" --exact child --ignored"])
        .arg(std::env::current_exe().unwrap())
        .env("LOGSHIP_FULL_DISK", dir.path().join("offsets"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}
