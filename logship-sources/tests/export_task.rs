//! Export tasks, against the stand-in for CloudWatch Logs.

#![cfg(feature = "cloudwatch")]
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use logship_core::{BuildContext, CancellationToken, ErrorKind, OffsetKey, OffsetStore, Timestamp};
use logship_sources::cloudwatch::{ExportTask, ExportTaskConfig, Exports};
use logship_state::memory::MemoryOffsets;
use logship_testkit::strict::cloudwatch::StrictCloudWatch;
use logship_testkit::strict::{Fault, Reply};
use serde_json::{Value, json};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn tasks(logs: &StrictCloudWatch, offsets: &MemoryOffsets) -> ExportTask {
    let config = json!({
        "log_group_prefixes": ["app/"], "exclude_log_groups": ["app/own"], "bucket": "archive", "prefix": "logs",
        "settle_secs": 3600, "poll_interval_secs": 1,
        "aws": {
            "region": "eu-west-1", "endpoint": logs.url(),
            "credentials": {"static": {"access_key_id": "AKIDKIT", "secret_access_key": "hunter2-secret"}},
        },
    });
    let config: ExportTaskConfig = serde_json::from_value(config).unwrap();
    ExportTask::new(config, offsets.clone(), "exports", &BuildContext::default()).unwrap()
}

/// Runs to the end of all groups, on a clock that waits for nobody.
async fn run(logs: &StrictCloudWatch, offsets: &MemoryOffsets) -> Exports {
    tasks(logs, offsets).run(CancellationToken::new()).await.unwrap()
}

/// How often each message was exported.
fn exported(logs: &StrictCloudWatch) -> BTreeMap<String, usize> {
    let mut times = BTreeMap::new();
    logs.exported().into_iter().for_each(|line| *times.entry(line.message).or_default() += 1);
    times
}

fn ago(time: Duration) -> i64 {
    Timestamp::now().saturating_sub(time).as_millis()
}

fn put(logs: &StrictCloudWatch, group: &str, stream: &str, message: &str, age: Duration) {
    logs.put(group, stream, [(ago(age), message.to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn c6_each_group_is_exported_once_and_then_what_is_new() {
    let (logs, offsets) = (StrictCloudWatch::start().await.unwrap(), MemoryOffsets::new());
    // One stream's name is how another begins.
    for (group, stream) in
        [("app/a", "one"), ("app/a", "one-more"), ("app/b", "one"), ("app/own", "one"), ("other", "one")]
    {
        put(&logs, group, stream, &format!("{group} {stream} old"), DAY);
        put(&logs, group, stream, &format!("{group} {stream} young"), DAY / 48);
    }
    let done = run(&logs, &offsets).await;
    let groups: Vec<&str> = done.tasks.iter().map(|task| task.log_group.as_str()).collect();
    assert_eq!((groups, done.is_stopped), (vec!["app/a", "app/b"], false));
    let expected = ["app/a one old", "app/a one-more old", "app/b one old"].map(|message| (message.to_owned(), 1));
    assert_eq!(exported(&logs), BTreeMap::from(expected));
    let first = logs.exported().remove(0);
    assert_eq!(
        (first.bucket.as_str(), first.prefix.as_str()),
        ("archive", format!("logs/{}", done.tasks[0].task_id).as_str())
    );
    // The end of one range is where the next begins, to the millisecond.
    let kept = offsets.load(&OffsetKey::new("exports").unwrap()).await.unwrap();
    let ends: Vec<i64> =
        kept.lanes.values().flat_map(|lane| lane.cursors.values()).map(|end| end.as_number()).collect();
    assert_eq!(ends, done.tasks.iter().map(|task| task.to.as_millis()).collect::<Vec<_>>());
    // What has arrived since makes a group worth another task.
    assert_eq!(run(&logs, &offsets).await.tasks.len(), 2);
    assert_eq!(exported(&logs).len(), 3, "the young ones are still too young");
    for stream in ["one", "one-more"] {
        logs.age("app/a", stream, DAY);
    }
    let again = run(&logs, &offsets).await;
    assert_eq!(
        again.tasks.iter().map(|task| task.log_group.as_str()).collect::<Vec<_>>(),
        ["app/b"],
        "nothing arrived in the other"
    );
    assert!(exported(&logs).values().all(|times| *times == 1));
}

#[tokio::test(start_paused = true)]
async fn c6_a_task_waits_for_the_one_that_is_under_way() {
    let (logs, offsets) = (StrictCloudWatch::start().await.unwrap(), MemoryOffsets::new());
    put(&logs, "app/a", "one", "text", DAY);
    put(&logs, "other", "one", "text of another", DAY);
    // Somebody else's, of which nobody asks, but we do.
    let mut other: ExportTaskConfig = ExportTaskConfig::new(vec!["other".to_owned()], "elsewhere");
    other.settle_secs = 3600;
    other.aws = serde_json::from_value(json!({"region": "eu-west-1", "endpoint": logs.url(),
        "credentials": {"static": {"access_key_id": "AKID", "secret_access_key": "s"}}}))
    .unwrap();
    let other = ExportTask::new(other, MemoryOffsets::new(), "other", &BuildContext::default()).unwrap();
    let stop = CancellationToken::new();
    let ours = tasks(&logs, &offsets);
    let (theirs, ours) = tokio::join!(other.run(stop.clone()), ours.run(stop));
    assert_eq!((theirs.unwrap().tasks.len(), ours.unwrap().tasks.len()), (1, 1));
    let refused = logs.requests().iter().filter(|seen| seen.status == Some(400)).count();
    assert!(refused > 0, "one was told that there is another");
    assert_eq!(exported(&logs).len(), 2);
}

/// Goal: C7, and a process that dies. Method: a run is dropped, or stopped, as soon as its task has begun; the next run
/// finds that task.
#[tokio::test(start_paused = true)]
async fn c7_a_run_that_is_stopped_or_dies_leaves_a_task_that_the_next_one_takes_up() {
    for dies in [true, false] {
        let (logs, offsets) = (StrictCloudWatch::start().await.unwrap(), MemoryOffsets::new());
        put(&logs, "app/a", "one", "text", DAY);
        let (stop, exports) = (CancellationToken::new(), tasks(&logs, &offsets));
        // Streams, groups, tasks, the new task, and a look at it.
        let begun = async {
            logs.arrived(5).await;
            stop.cancel();
        };
        if dies {
            tokio::select! {
                biased;
                () = begun => {}
                done = exports.run(CancellationToken::new()) => panic!("it ended: {done:?}"),
            }
            // The lease of the dead ends by itself.
            tokio::time::sleep(Duration::from_secs(121)).await;
        } else {
            let (done, ()) = tokio::join!(exports.run(stop.clone()), begun);
            assert!(done.unwrap().is_stopped);
        }
        let done = run(&logs, &offsets).await;
        assert_eq!((done.tasks.len(), done.tasks[0].task_id.ends_with("000")), (1, true), "{done:?}");
        assert_eq!(exported(&logs), BTreeMap::from([("text".to_owned(), 1)]));
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_lost_makes_no_second_task() {
    let (logs, offsets) = (StrictCloudWatch::start().await.unwrap(), MemoryOffsets::new());
    put(&logs, "app/a", "one", "text", DAY);
    let exports = tasks(&logs, &offsets);
    let run = tokio::spawn(async move { exports.run(CancellationToken::new()).await });
    // The fourth request is the one that makes the task.
    logs.arrived(3).await;
    logs.fail_next(1, Fault::LoseAnswer);
    let done = run.await.unwrap().unwrap();
    assert_eq!(done.tasks.len(), 1);
    assert_eq!(exported(&logs), BTreeMap::from([("text".to_owned(), 1)]));
}

#[tokio::test(start_paused = true)]
async fn a_task_that_fails_is_an_error_and_moves_nothing() {
    let (logs, offsets) = (StrictCloudWatch::start().await.unwrap(), MemoryOffsets::new());
    put(&logs, "app/a", "one", "text", DAY);
    let failed: Value =
        json!({"exportTasks": [{"taskId": "x", "status": {"code": "FAILED", "message": "no such bucket"}}]});
    let exports = tasks(&logs, &offsets);
    let run = async { exports.run(CancellationToken::new()).await };
    let fail = async {
        logs.arrived(4).await;
        logs.fail_next(
            1,
            Fault::Answer(Reply { content_type: "application/x-amz-json-1.1", ..Reply::new(200, failed) }),
        );
    };
    let (done, ()) = tokio::join!(run, fail);
    let error = done.unwrap_err();
    assert!(error.kind() == ErrorKind::Rejected && error.to_string().contains("no such bucket"), "{error}");
    let kept = offsets.load(&OffsetKey::new("exports").unwrap()).await.unwrap();
    assert!(kept.lanes.values().all(|lane| lane.cursors.is_empty()));
    assert!(exported(&logs).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_group_that_is_deleted_after_it_was_listed_has_nothing_to_export() {
    // When its streams are asked for, and when its task is made.
    for after in [1, 3] {
        let (logs, offsets) = (StrictCloudWatch::start().await.unwrap(), MemoryOffsets::new());
        put(&logs, "app/a", "one", "text", DAY);
        put(&logs, "app/b", "one", "text", DAY);
        let exports = tasks(&logs, &offsets);
        let delete = async {
            logs.arrived(after).await;
            let words =
                json!({"__type": "ResourceNotFoundException", "message": "The specified log group does not exist."});
            logs.fail_next(1, Fault::Answer(Reply::new(400, words)));
        };
        let (done, ()) = tokio::join!(exports.run(CancellationToken::new()), delete);
        assert_eq!(done.unwrap().tasks.len(), 1, "the other is exported");
    }
}

/// Goal: what was reset is exported again. Method: AWS still lists the task of before.
#[tokio::test(start_paused = true)]
async fn c6_after_a_reset_all_is_exported_again() {
    let (logs, offsets) = (StrictCloudWatch::start().await.unwrap(), MemoryOffsets::new());
    put(&logs, "app/a", "one", "text", DAY);
    let first = run(&logs, &offsets).await.tasks.remove(0);
    offsets.reset(&OffsetKey::new("exports").unwrap(), None).await.unwrap();
    // AWS tells times in whole milliseconds.
    let made = Timestamp::now().as_millis();
    while Timestamp::now().as_millis() <= made {
        tokio::task::yield_now().await;
    }
    let again = run(&logs, &offsets).await.tasks.remove(0);
    assert_ne!(again.task_id, first.task_id);
    assert_eq!(exported(&logs), BTreeMap::from([("text".to_owned(), 2)]));
}

#[tokio::test]
async fn p6_one_run_at_a_time() {
    let (logs, offsets) = (StrictCloudWatch::start().await.unwrap(), Arc::new(MemoryOffsets::new()));
    let key = OffsetKey::new("exports").unwrap();
    let lease = offsets.acquire(&key, "another", Duration::from_secs(60)).await.unwrap();
    let error = tasks(&logs, &offsets).run(CancellationToken::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    offsets.release(&lease).await.unwrap();
    assert!(tasks(&logs, &offsets).run(CancellationToken::new()).await.is_ok());
}
