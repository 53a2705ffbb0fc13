use std::collections::BTreeSet;
use std::time::Duration;

use logship_core::{
    Advice, BuildContext, Error, ErrorKind, PageEnd, PageLimits, Partition, Query, Source, Start, Timestamp,
    async_trait, read_fields,
};
use logship_sources::cloudwatch::CloudWatchSource;
use logship_testkit::conformance::source::{Row, SourceFixture, WIDE, read_on};
use logship_testkit::source_conformance;
use logship_testkit::strict::cloudwatch::StrictCloudWatch;
use logship_testkit::strict::{Fault, Reply};
use serde_json::json;

use super::level;

struct Fixture(StrictCloudWatch);

impl Fixture {
    async fn new(_: &str) -> Option<Self> {
        let server = StrictCloudWatch::start().await.unwrap();
        server.create("kit/a", "stream-0");
        server.create("kit/b", "stream-1");
        Some(Fixture(server))
    }
}

fn source(url: &str, fields: serde_json::Value) -> Result<CloudWatchSource, Error> {
    let mut all = json!({
        "log_group_prefixes": ["kit/"], "requests_per_second": 100_000, "list_interval_secs": 0,
        "aws": {
            "region": "eu-west-1", "endpoint": url,
            "credentials": {"static": {"access_key_id": "AKIDKIT", "secret_access_key": "hunter2-secret"}},
        },
    });
    let (Some(all), serde_json::Value::Object(fields)) = (all.as_object_mut(), fields) else { unreachable!() };
    all.extend(fields);
    CloudWatchSource::new(read_fields(all.clone())?, &BuildContext::default())
}

fn group(partition: usize) -> &'static str {
    ["kit/a", "kit/b"][partition]
}

#[async_trait]
impl SourceFixture for Fixture {
    async fn fill(&self, rows: &[Row]) {
        for row in rows {
            let mut message = json!({"body": row.body, "key": row.key});
            if let Some(level) = level(row.severity) {
                message["level"] = level.into();
            }
            if let Some(namespace) = &row.namespace {
                message["namespace"] = namespace.as_str().into();
            }
            let stream = format!("stream-{}", row.partition);
            self.0.put(group(row.partition), &stream, [(row.timestamp.as_millis(), message.to_string())]);
        }
    }

    async fn open(&self) -> Box<dyn Source> {
        Box::new(source(&self.0.url(), json!({"json": {}})).unwrap())
    }

    fn partitions(&self) -> usize {
        2
    }

    fn time_step(&self) -> Duration {
        Duration::from_millis(1)
    }

    async fn take_away(&self) -> bool {
        self.0.require_access_key("AKIDOTHER");
        true
    }
}

source_conformance!(Fixture::new);

fn names(partitions: &[Partition]) -> Vec<&str> {
    partitions.iter().map(Partition::as_str).collect()
}

/// Goal: what is configured is found, and nothing else. Method: names, prefixes that overlap, exclusions, more groups
/// and streams than one answer lists.
#[tokio::test]
async fn groups_are_found_by_name_and_prefix_and_each_stream_is_a_partition() {
    let server = StrictCloudWatch::start().await.unwrap();
    for (group, stream) in [("app/a", "one"), ("app/a", "two"), ("app/ab", "one"), ("other", "x-1"), ("other", "y-1")] {
        server.create(group, stream);
    }
    let found = async |fields: serde_json::Value| source(&server.url(), fields).unwrap().partitions().await;
    let all = found(json!({"log_group_prefixes": ["app/", "app/a"], "log_groups": ["other"]})).await.unwrap();
    assert_eq!(names(&all), ["app/a:one", "app/a:two", "app/ab:one", "other:x-1", "other:y-1"]);
    let some = found(
        json!({"log_group_prefixes": ["app/", "other"], "exclude_log_groups": ["app/a"], "log_stream_prefix": "x"}),
    );
    assert_eq!(names(&some.await.unwrap()), ["other:x-1"]);
    let error = found(json!({"log_groups": ["absent"]})).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    (0..120).for_each(|number| server.create("app/many", &format!("stream-{number}")));
    (0..60).for_each(|number| server.create(&format!("app/z{number}"), "one"));
    assert_eq!(found(json!({"log_group_prefixes": ["app/"]})).await.unwrap().len(), 3 + 120 + 60);
}

/// Goal: throttling passes as what it is, a listing of many pages ends in spite of it, and no more than the set number
/// of requests goes out in a second. Method: a clock of our own, and a service that says no.
#[tokio::test(start_paused = true)]
async fn throttling_is_an_error_that_may_pass_and_slows_down_what_follows() {
    let server = StrictCloudWatch::start().await.unwrap();
    (0..120).for_each(|number| server.create("kit/a", &format!("stream-{number:03}")));
    server.put("kit/a", "stream-000", [(1, "text".to_owned())]);
    let source = source(&server.url(), json!({"requests_per_second": 5, "list_interval_secs": 600})).unwrap();
    server.fail_next(2, Fault::status(429));
    let began = tokio::time::Instant::now();
    let partitions = source.partitions().await.unwrap();
    assert_eq!(partitions.len(), 120);
    assert!(began.elapsed() >= Duration::from_secs(2), "each time it waited");
    server.fail_next(1, Fault::status(429));
    let read = async || source.read(&partitions[0], &Start::Earliest, &Query::all(), WIDE).await;
    let error = read().await.unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Throttled, true), "{error}");
    let began = tokio::time::Instant::now();
    assert_eq!(read().await.unwrap().records().len(), 1);
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
    let (before, began) = (server.requests().len(), tokio::time::Instant::now());
    for _ in 0..5 {
        read().await.unwrap();
    }
    let asked = u32::try_from(server.requests().len() - before).unwrap();
    assert!(began.elapsed() >= Duration::from_millis(200) * (asked - 1), "{asked} in {:?}", began.elapsed());
    let listed = server.requests().len();
    source.partitions().await.unwrap();
    assert_eq!(server.requests().len(), listed, "what was listed a moment ago is not listed again");
}

/// Goal: an event that arrives behind a position is where its time says, so that the engine finds it when it reads the
/// stretch again; nothing that was there changes its place.
#[tokio::test]
async fn what_arrives_late_takes_its_place_and_moves_nothing() {
    let server = StrictCloudWatch::start().await.unwrap();
    let now = Timestamp::now().as_millis();
    let events = |from: i64| (0..40).map(move |number| (now + from % 3, format!("text {from} {number}")));
    let (source, partition) = (source(&server.url(), json!({})).unwrap(), Partition::new("kit/a:stream"));
    let mut known = BTreeSet::new();
    for batch in 0..6 {
        server.put("kit/a", "stream", events(batch));
        for limits in [PageLimits { records_max: 7, ..WIDE }, WIDE] {
            let records = read_on(&source, &partition, Start::Earliest, &Query::all(), limits).await;
            let ids: BTreeSet<_> =
                records.iter().map(|record| (record.id.clone(), record.body.as_str().map(str::to_owned))).collect();
            assert_eq!(ids.len(), 40 * (batch as usize + 1));
            assert!(known.is_subset(&ids), "what was there has another id");
            known = ids;
        }
    }
}

#[tokio::test]
async fn a_record_says_where_it_is_from_and_when_it_arrived() {
    let server = StrictCloudWatch::start().await.unwrap();
    server.put(
        "kit/a",
        "stream",
        [
            (1_795_163_400_123, "plain {".to_owned()),
            (1_795_163_400_124, r#"{"level":"WARN","msg":"hi","ts":1}"#.to_owned()),
        ],
    );
    let partition = Partition::new("kit/a:stream");
    let read = async |fields| {
        read_on(&source(&server.url(), fields).unwrap(), &partition, Start::Earliest, &Query::all(), WIDE).await
    };
    let plain = read(json!({})).await;
    assert_eq!(plain[1].body.as_str(), Some(r#"{"level":"WARN","msg":"hi","ts":1}"#));
    let parsed = read(json!({"json": {}})).await;
    assert_eq!((parsed[0].body.as_str(), parsed[0].attributes.len()), (Some("plain {"), 0));
    assert_eq!((parsed[1].body.as_str(), parsed[1].severity.name()), (Some("hi"), "WARN"));
    assert_eq!(parsed[1].timestamp, Timestamp::from_millis(1_795_163_400_124), "the event's own");
    assert!(parsed[1].observed_timestamp.unwrap() > Timestamp::from_millis(1_700_000_000_000));
    let resource: Vec<&str> = parsed[0].resource.attributes.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(resource, ["aws.log.group.names", "aws.log.stream.names"]);
}

#[tokio::test]
async fn what_was_deleted_has_no_more_events_and_a_group_that_is_named_is_an_error() {
    let server = StrictCloudWatch::start().await.unwrap();
    server.create("kit/a", "stream");
    let source = source(&server.url(), json!({"log_groups": ["kit/named"]})).unwrap();
    let read = async |name: &str| source.read(&Partition::new(name), &Start::Earliest, &Query::all(), WIDE).await;
    for gone in ["kit/a:gone", "kit/gone:stream"] {
        let page = read(gone).await.unwrap();
        assert!(page.records().is_empty() && page.end() == PageEnd::CaughtUp && page.next().is_none());
    }
    assert_eq!(read("kit/named:stream").await.unwrap_err().kind(), ErrorKind::NotFound);
}

/// Goal: groups come and go; a listing goes on without those that went. Method: a group is listed, and is not there when
/// its streams are asked for.
#[tokio::test]
async fn a_group_that_is_deleted_while_streams_are_listed_has_none() {
    let server = StrictCloudWatch::start().await.unwrap();
    server.create("kit/a", "stream");
    server.create("kit/b", "stream");
    for (fields, found) in [(json!({}), Some(1)), (json!({"log_groups": ["kit/a"]}), None)] {
        let source = source(&server.url(), fields).unwrap();
        let seen = server.requests().len();
        let delete = async {
            server.arrived(seen + 1).await;
            let words =
                json!({"__type": "ResourceNotFoundException", "message": "The specified log group does not exist."});
            server.fail_next(1, Fault::Answer(Reply::new(400, words)));
        };
        let (partitions, ()) = tokio::join!(source.partitions(), delete);
        assert_eq!(partitions.map(|partitions| partitions.len()).ok(), found);
    }
}

#[tokio::test]
async fn a_silent_stream_is_asked_nothing_if_that_was_wanted() {
    let server = StrictCloudWatch::start().await.unwrap();
    server.put("kit/a", "stream", [(5, "text".to_owned())]);
    for (fields, asked) in [(json!({}), true), (json!({"skip_idle_streams": true}), true)] {
        let source = source(&server.url(), fields).unwrap();
        let partitions = source.partitions().await.unwrap();
        let all = read_on(&source, &partitions[0], Start::Earliest, &Query::all(), WIDE).await;
        let before = server.requests().len();
        let start = Start::After(all[0].id.position().clone());
        source.read(&partitions[0], &start, &Query::all(), WIDE).await.unwrap();
        // It arrived a moment ago, so it is not silent.
        assert_eq!(server.requests().len() > before, asked);
    }
    server.age("kit/a", "stream", Duration::from_secs(2 * 3600));
    let source = source(&server.url(), json!({"skip_idle_streams": true})).unwrap();
    let partitions = source.partitions().await.unwrap();
    let all = read_on(&source, &partitions[0], Start::Earliest, &Query::all(), WIDE).await;
    let before = server.requests().len();
    let start = Start::After(all[0].id.position().clone());
    assert_eq!(source.read(&partitions[0], &start, &Query::all(), WIDE).await.unwrap().end(), PageEnd::CaughtUp);
    assert_eq!(server.requests().len(), before);
    server.put("kit/a", "stream", [(6, "later".to_owned())]);
    source.partitions().await.unwrap();
    assert_eq!(source.read(&partitions[0], &start, &Query::all(), WIDE).await.unwrap().records().len(), 1);
}

/// Goal: a silent stream is read to its end, also behind a position in its last millisecond. Method: pages of one event,
/// each by a process that knows nothing of the last; then the same process, which has found the end.
#[tokio::test]
async fn a_position_inside_the_last_millisecond_of_a_silent_stream_is_not_its_end() {
    let server = StrictCloudWatch::start().await.unwrap();
    server.put("kit/a", "stream", (0..3).map(|number| (5, format!("text {number}"))));
    server.age("kit/a", "stream", Duration::from_secs(2 * 3600));
    let one = PageLimits { records_max: 1, ..WIDE };
    let (mut start, mut found) = (Start::Earliest, BTreeSet::new());
    for is_end in [false, false, true, true] {
        let source = source(&server.url(), json!({"skip_idle_streams": true})).unwrap();
        let partitions = source.partitions().await.unwrap();
        let page = source.read(&partitions[0], &start, &Query::all(), one).await.unwrap();
        found.extend(page.records().iter().map(|record| record.id.clone()));
        assert_eq!(page.end() == PageEnd::CaughtUp, is_end);
        start = page.next().cloned().map_or(start, Start::After);
        if is_end {
            let before = server.requests().len();
            source.read(&partitions[0], &start, &Query::all(), one).await.unwrap();
            assert_eq!(server.requests().len(), before, "this process has seen the end");
        }
    }
    assert_eq!(found.len(), 3);
}

#[tokio::test]
async fn credentials_that_have_ended_are_read_again() {
    let server = StrictCloudWatch::start().await.unwrap();
    server.create("kit/a", "stream");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "AKIDOLD").unwrap();
    let credentials = json!({"static": {"access_key_id": {"file": file.path()}, "secret_access_key": "hunter2"}});
    let aws = json!({"region": "eu-west-1", "endpoint": server.url(), "credentials": credentials});
    let source = source(&server.url(), json!({"aws": aws})).unwrap();
    assert_eq!(source.partitions().await.unwrap().len(), 1);
    server.require_access_key("AKIDNEW");
    let error = source.partitions().await.unwrap_err();
    assert_eq!((error.kind(), error.advice()), (ErrorKind::Auth, Advice::Never), "{error}");
    assert!(!format!("{error:?} {source:?}").contains("hunter2"));
    std::fs::write(file.path(), "AKIDNEW").unwrap();
    assert_eq!(source.partitions().await.unwrap().len(), 1);
}

#[test]
fn a_wrong_configuration_is_refused() {
    let url = "http://localhost:4586";
    for (fields, field) in [
        (json!({"log_group_prefixes": []}), "log_groups"),
        (json!({"log_group_prefixes": [""]}), "log_groups"),
        (json!({"log_groups": ["own"], "exclude_log_groups": ["own"]}), "log_groups"),
        (json!({"requests_per_second": 0}), "requests_per_second"),
        (json!({"prefix": "x"}), "prefix"),
    ] {
        let shown = fields.to_string();
        let error = source(url, fields).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{shown}");
        assert!(error.to_string().contains(field), "{shown}: {error}");
    }
}
