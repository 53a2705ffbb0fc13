//! CloudWatch Logs to S3 as an AWS Lambda function, started by a schedule: each run ships what is new in all streams of
//! some log groups, stops 30 s before its time is up, and the next goes on where it stopped.
//!
//! The environment says what: `LOG_GROUP_PREFIXES` (with commas between them), `BUCKET`, and `STATE_URL`
//! (`s3://bucket/prefix`). The function's role lets it `logs:DescribeLogGroups`, `logs:DescribeLogStreams` and
//! `logs:FilterLogEvents`; `s3:PutObject` and `s3:GetObject` in both buckets, and `s3:ListBucket` in that of the state. Its
//! own log group is left out by itself.
//!
//! Outside of Lambda it handles one event and says what it did, with the credentials of the AWS command line; with
//! `AWS_ENDPOINT_URL` it asks a stand-in such as moto:
//!
//!     LOG_GROUP_PREFIXES=/aws/eks/ BUCKET=archive STATE_URL=s3://archive-state/logship \
//!         cargo run --release --example cloudwatch_to_s3_lambda
//!
//! `TIMEOUT_SECS`, 60 unless set, is how much time that event has.

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::time::{Duration, SystemTime};

use lambda_runtime::{Context, LambdaEvent, service_fn};
use logship::exporters::s3::{ObjectExporter, S3Config};
use logship::sources::cloudwatch::{CloudWatchSource, CloudWatchSourceConfig};
use logship::state::s3::{ObjectOffsets, S3OffsetsConfig};
use logship::{BuildContext, Compression, Lane, LogShipper};
use serde_json::{Value, json};

/// Any error fails the invocation with its text.
type Failure = lambda_runtime::Error;

/// Before its time is up, a run begins no new chunk so early.
const STOP_BEFORE: Duration = Duration::from_secs(30);

/// Of that, chunks under way may take so much; the rest is for the last commit.
const GRACE: Duration = Duration::from_secs(15);

/// How late an event may arrive and be found.
const OVERLAP: Duration = Duration::from_secs(15 * 60);

/// What is shipped, where to, and where the state is.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The log groups.
    pub source: CloudWatchSourceConfig,
    /// The bucket.
    pub destination: S3Config,
    /// How far each stream has come.
    pub state: S3OffsetsConfig,
}

impl Settings {
    fn from_environment() -> Result<Self, Failure> {
        let variable = |name: &str| std::env::var(name).map_err(|_| format!("{name} is not set"));
        let mut source = CloudWatchSourceConfig::default();
        source.log_group_prefixes = variable("LOG_GROUP_PREFIXES")?.split(',').map(|text| text.trim().into()).collect();
        let mut destination = S3Config::new(variable("BUCKET")?);
        "logs/%Y/%m/%d/cloudwatch".clone_into(&mut destination.prefix);
        destination.compression = Compression::GZIP;
        // Written at each commit, so that a run which is killed repeats no object under another name.
        let state = serde_json::from_value(json!({"url": variable("STATE_URL")?}))?;
        Ok(Settings { source, destination, state })
    }
}

/// Handles one event: ships until all is shipped, or until 30 s before the deadline.
pub async fn handle(settings: &Settings, event: LambdaEvent<Value>) -> Result<Value, Failure> {
    let left = event.context.deadline().duration_since(SystemTime::now()).unwrap_or_default();
    let secrets = BuildContext::default();
    let exporter = ObjectExporter::s3(settings.destination.clone(), secrets.clone())?;
    let shipper = LogShipper::builder(CloudWatchSource::new(settings.source.clone(), &secrets)?)
        .offsets(ObjectOffsets::s3(&settings.state, &secrets)?)
        .offset_key("cloudwatch-to-s3")
        .lookback(None)
        .overlap(OVERLAP)
        .page_records(10_000)
        .deadline(left.saturating_sub(STOP_BEFORE - GRACE))
        .grace(GRACE)
        .lane(Lane::new("s3", exporter))
        .build()?;
    let report = shipper.run_once().await?;
    println!("{report}");
    let lane = report.lane("s3").ok_or("there is no lane")?;
    Ok(json!({"complete": report.is_complete(), "accepted": lane.accepted, "objects": lane.uris.len()}))
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let settings = Settings::from_environment()?;
    if std::env::var("AWS_LAMBDA_RUNTIME_API").is_ok() {
        return lambda_runtime::run(service_fn(|event| handle(&settings, event))).await;
    }
    let secs = std::env::var("TIMEOUT_SECS").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
    println!("{}", handle(&settings, event_with(Duration::from_secs(secs))?).await?);
    Ok(())
}

/// An event that has so much time.
pub fn event_with(time: Duration) -> Result<LambdaEvent<Value>, Failure> {
    let mut context = Context::default();
    let end = SystemTime::now() + time;
    context.deadline = u64::try_from(end.duration_since(SystemTime::UNIX_EPOCH)?.as_millis())?;
    Ok(LambdaEvent::new(json!({}), context))
}
