//! CloudWatch Logs to Elasticsearch, by way of Kinesis, as an AWS Lambda function: subscription filters put the events of
//! log groups into a stream, and each run ships what is new there, masked, to Elasticsearch; what cannot be read and what
//! Elasticsearch refuses for good goes to a queue. A run stops 30 s before its time is up, and the next goes on where it
//! stopped.
//!
//! A schedule starts it, every minute. It reads the stream by itself, so it needs no trigger of Kinesis's. A second run at
//! a time does no harm: it finds the offsets taken, and fails; a reserved concurrency of one spares that.
//!
//! The environment says what:
//!
//! | variable | what it is |
//! |---|---|
//! | `STREAM` | the stream, by its name |
//! | `ELASTICSEARCH_URL` | the cluster |
//! | `ELASTICSEARCH_KEY` | where its API key is: `ssm:/path/name`, or `secretsmanager:name#field` |
//! | `INDEX` | the index, `logs-cloudwatch-default` unless set |
//! | `QUEUE_URL` | the queue of SQS for what is broken |
//! | `STATE_URL` | where the offsets are: `s3://bucket/prefix` |
//! | `MASK_FIELDS` | fields to mask, with commas between them; what looks like a secret is masked anyway |
//!
//! The function's role lets it `kinesis:ListShards`, `kinesis:GetShardIterator` and `kinesis:GetRecords`;
//! `sqs:SendMessage`; `s3:GetObject` and `s3:PutObject` of the state, and `s3:ListBucket` of its bucket; and
//! `ssm:GetParameter` or `secretsmanager:GetSecretValue` of the key. Its own log group is left out by itself.
//!
//! Outside of Lambda it handles one event and says what it did, with the credentials of the AWS command line; with
//! `AWS_ENDPOINT_URL` it asks a stand-in such as moto:
//!
//!     STREAM=logs ELASTICSEARCH_URL=http://localhost:9200 ELASTICSEARCH_KEY=ssm:/logs/key \
//!         QUEUE_URL=https://sqs.eu-west-1.amazonaws.com/123456789012/broken STATE_URL=s3://state/logship \
//!         cargo run --release --example kinesis_to_elasticsearch_lambda
//!
//! `TIMEOUT_SECS`, 60 unless set, is how much time that event has.

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lambda_runtime::{Context, LambdaEvent, service_fn};
use logship::exporters::elasticsearch::{Elasticsearch, ElasticsearchConfig};
use logship::exporters::sqs::{Sqs, SqsConfig};
use logship::secrets::{AwsConfig, AwsSecrets, Connection};
use logship::sources::jsonl::JsonlFields;
use logship::sources::kinesis::{KinesisSource, KinesisSourceConfig, Payload};
use logship::state::s3::{ObjectOffsets, S3OffsetsConfig};
use logship::{
    BuildContext, Filter, Lane, LaneStatus, LogShipper, Query, Redact, Redaction, RedactionConfig, SecretProvider,
};
use serde_json::{Value, json};

/// Any error fails the invocation with its text.
type Failure = lambda_runtime::Error;

/// Before its time is up, a run begins no new chunk so early.
const STOP_BEFORE: Duration = Duration::from_secs(30);

/// Of that, chunks under way may take so much; the rest is for the last commit.
const GRACE: Duration = Duration::from_secs(15);

/// What the source says of a payload that it cannot read.
const BROKEN: &str = "logship.parse_error";

/// What is shipped, where to, what is masked, and where the state is.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The stream.
    pub source: KinesisSourceConfig,
    /// The cluster.
    pub search: ElasticsearchConfig,
    /// The names of the secrets that it takes.
    pub secret_names: BTreeSet<String>,
    /// Who asks for them.
    pub secrets: AwsConfig,
    /// The queue for what is broken.
    pub queue: SqsConfig,
    /// What is masked before anything leaves.
    pub redaction: RedactionConfig,
    /// How far each shard has come.
    pub state: S3OffsetsConfig,
}

impl Settings {
    fn from_environment() -> Result<Self, Failure> {
        let variable = |name: &str| std::env::var(name).map_err(|_| format!("{name} is not set"));
        let mut source = KinesisSourceConfig::new(variable("STREAM")?);
        source.payload = Payload::Cloudwatch;
        // Messages that are objects of JSON are read, so that their fields can be masked.
        source.json = Some(JsonlFields::default());
        let key = variable("ELASTICSEARCH_KEY")?;
        let index = variable("INDEX").unwrap_or_else(|_| "logs-cloudwatch-default".to_owned());
        let search = json!({
            "hosts": [variable("ELASTICSEARCH_URL")?], "index": index, "auth": {"api_key": {"secret": key}},
        });
        let fields = variable("MASK_FIELDS").unwrap_or_default();
        let fields = fields.split(',').map(str::trim).filter(|field| !field.is_empty());
        let fields = fields.map(|field| (field.to_owned(), Redact::Mask)).collect();
        Ok(Settings {
            source,
            search: serde_json::from_value(search)?,
            secret_names: BTreeSet::from([key]),
            secrets: AwsConfig::default(),
            queue: SqsConfig::new(variable("QUEUE_URL")?),
            redaction: RedactionConfig { fields, ..RedactionConfig::default() },
            state: serde_json::from_value(json!({"url": variable("STATE_URL")?}))?,
        })
    }

    /// The secrets of AWS, those that are needed at hand.
    async fn context(&self) -> Result<BuildContext, Failure> {
        let secrets = AwsSecrets::new(&self.secrets, &Connection::default(), &BuildContext::default())?;
        secrets.fetch(&self.secret_names).await?;
        Ok(BuildContext::new(Arc::new(secrets)))
    }
}

/// Handles one event: ships until all is shipped, or until 30 s before the deadline.
pub async fn handle(settings: &Settings, event: LambdaEvent<Value>) -> Result<Value, Failure> {
    let left = event.context.deadline().duration_since(SystemTime::now()).unwrap_or_default();
    let context = settings.context().await?;
    let search = Elasticsearch::new(settings.search.clone(), &context)?;
    let queue = Arc::new(Sqs::new(settings.queue.clone(), &context)?);
    let shipper = LogShipper::builder(KinesisSource::new(settings.source.clone(), &context)?)
        .offsets(ObjectOffsets::s3(&settings.state, &context)?)
        .offset_key("kinesis-to-elasticsearch")
        .lookback(None)
        .transform(Redaction::new(settings.redaction.clone(), &context)?)
        .secrets(Arc::clone(context.secrets()))
        .deadline(left.saturating_sub(STOP_BEFORE - GRACE))
        .grace(GRACE)
        .lane(
            Lane::new("search", search)
                .chunk(5_000)
                .filter(Query::all().filter(Filter::absent(BROKEN)))
                .dead_letter_shared(queue.clone()),
        )
        .lane(Lane::shared("broken", queue).filter(Query::all().filter(Filter::exists(BROKEN))))
        .build()?;
    let report = shipper.run_once().await?;
    println!("{report}");
    // To run out of time is no failure; a lane that cannot go on is one, so that alarms hear of it.
    for lane in &report.lanes {
        if let LaneStatus::Stopped(error) = &lane.status {
            return Err(format!("{}: {error}", lane.id).into());
        }
    }
    let accepted = |lane: &str| report.lane(lane).map_or(0, |lane| lane.accepted);
    let (search, broken) = (accepted("search"), accepted("broken"));
    Ok(json!({"complete": report.is_complete(), "accepted": search, "broken": broken}))
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
