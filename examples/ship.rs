//! A whole log shipper as a program: reads a configuration, in logship's own form or as a flow of Kestra's, and ships.
//!
//! What you will see: a bar for each lane while it ships (on a terminal), then a table of what was shipped where.
//! Ctrl-C stops gracefully; a second one at once.
//!
//!     cargo run --release --example ship -- FILE.yaml [--plan] [--once | --follow] [--json]
//!     cargo run --release --example ship -- FILE.yaml --backfill 2026-11-01..2026-11-08 --to ID
//!     cargo run --release --example ship -- examples/ship.yaml --reset
//!
//! Where the file names no log store, and `--logs` does not either, it is `logs.db` here, in SQLite, which is made with
//! some rows to look at if it is not there. Secrets are looked for as Kestra does: `SECRET_NAME` in the environment,
//! in base64; and at AWS if their names begin with `ssm:` or `secretsmanager:`.
//!
//! It ends with 0 when all there was is shipped; 1 when a lane could not go on, and its records are still in the log
//! store; 2 when the configuration is wrong, and nothing was sent; 3 when another process has the offset key; 4 when it
//! was stopped before it was done.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program talks to who runs it")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use futures::StreamExt;
use futures::future::{join_all, try_join_all};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use logship::config::{ConfigFile, Syntax, parse_range, schema};
use logship::kestra::{EnvironmentSecrets, Flow, FlowContext};
use logship::secrets::{AwsConfig, AwsSecrets, Connection};
use logship::{
    BuildContext, Error, ErrorKind, Fields, LaneStatus, LogShipper, Progress, RunReport, Timestamp, registry,
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// Ships logs as a configuration says.
#[derive(Parser)]
pub(crate) struct Arguments {
    /// The configuration: YAML, JSON or TOML, or a flow of Kestra's.
    #[arg(required_unless_present = "schema")]
    file: Option<PathBuf>,
    /// The log store, where the file names none: a SQLite file, or the address of a PostgreSQL or MySQL database.
    #[arg(long, value_name = "STORE", default_value = "logs.db")]
    logs: String,
    /// The folder of the offsets, where the file names no place for them.
    #[arg(long, value_name = "FOLDER", default_value = "offsets")]
    offsets: PathBuf,
    /// A variable of a flow, `{{ vars.name }}`.
    #[arg(long = "var", value_name = "NAME=VALUE")]
    vars: Vec<String>,
    /// Says what would be shipped, and ships nothing.
    #[arg(long, conflicts_with_all = ["follow", "backfill", "reset"])]
    plan: bool,
    /// Ships what there is and ends. This is what it does unless told otherwise.
    #[arg(long, conflicts_with = "follow")]
    once: bool,
    /// Goes on until it is stopped.
    #[arg(long)]
    follow: bool,
    /// Ships a range of time again, FROM..TO or the last while such as 7d, to one exporter.
    #[arg(long, value_name = "RANGE", requires = "to", conflicts_with = "follow")]
    backfill: Option<String>,
    /// The exporter of --backfill, or the one of --reset.
    #[arg(long, value_name = "ID")]
    to: Option<String>,
    /// Forgets how far the exporters have come before it ships.
    #[arg(long)]
    reset: bool,
    /// Writes one report as JSON in place of tables.
    #[arg(long)]
    json: bool,
    /// Writes the JSON Schema of configurations, for an editor, and does nothing else.
    #[arg(long, exclusive = true)]
    schema: bool,
}

/// One shipper of the file.
struct Job {
    name: String,
    lanes: Vec<String>,
    shipper: LogShipper,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let stop = stopped_by_ctrl_c();
    ExitCode::from(run(&arguments, &stop).await.unwrap_or_else(|error| {
        eprintln!("{error}");
        code_of(&error)
    }))
}

pub(crate) fn code_of(error: &Error) -> u8 {
    match error.kind() {
        ErrorKind::Config | ErrorKind::Unsupported => 2,
        ErrorKind::Busy => 3,
        ErrorKind::Cancelled => 4,
        _ => 1,
    }
}

pub(crate) async fn run(arguments: &Arguments, stop: &CancellationToken) -> Result<u8, Error> {
    let Some(file) = &arguments.file else {
        println!("{:#}", schema(&registry()));
        return Ok(0);
    };
    let mut jobs = jobs(file, arguments).await?;
    if let Some(id) = &arguments.to {
        jobs.retain(|job| job.lanes.contains(id));
        if jobs.is_empty() {
            return Err(Error::config("--to", format!("there is no exporter `{id}` in {}", file.display())));
        }
    }
    if arguments.reset {
        try_join_all(jobs.iter().map(|job| job.shipper.reset_offsets(arguments.to.as_deref()))).await?;
    }
    let bars = MultiProgress::new();
    let runs = jobs.iter().map(|job| async {
        // Said when it happens, for the others may go on for days.
        ship(&job.shipper, arguments, stop, &bars).await.inspect_err(|error| eprintln!("{}: {error}", job.name))
    });
    let results = join_all(runs).await;
    let codes = results.iter().map(|result| match result {
        Ok(report) if is_stuck(report) => 1,
        // A run that goes on until it is stopped is done when it is stopped.
        Ok(report) if arguments.follow || report.is_complete() => 0,
        Ok(_) => 4,
        Err(error) => code_of(error),
    });
    // Of several, the one that most needs a person.
    let code = [2, 3, 1, 4].into_iter().find(|code| codes.clone().any(|found| found == *code)).unwrap_or(0);
    show(&jobs, &results, arguments.json)?;
    Ok(code)
}

fn is_stuck(report: &RunReport) -> bool {
    let lanes = report.lanes.iter().any(|lane| matches!(lane.status, LaneStatus::Stopped(_)));
    lanes || report.deletion.as_ref().is_some_and(|deletion| deletion.error.is_some())
}

/// The shippers of the file, over the stores it names or those of the command line.
async fn jobs(path: &Path, arguments: &Arguments) -> Result<Vec<Job>, Error> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Error::config("FILE", format!("cannot read {}", path.display())).with_source(error))?;
    let others = BuildContext::new(Arc::new(EnvironmentSecrets));
    let secrets = AwsSecrets::new(&AwsConfig::default(), &Connection::default(), &others)?;
    let context = BuildContext::new(Arc::new(secrets));
    let registry = registry();
    if !Flow::is_flow(&text) {
        let mut defaults = fields(json!({"offsets": {"type": "file", "dir": arguments.offsets}}));
        if !ConfigFile::has(&text, Syntax::of(path), "source") {
            let (kind, mut source) = log_store(&arguments.logs).await?;
            source.insert("type".to_owned(), kind.into());
            defaults.insert("source".to_owned(), source.into());
        }
        let file = ConfigFile::parse_with(&text, Syntax::of(path), &defaults)?;
        let lanes = file.config.exporters.iter().map(|exporter| exporter.id.clone()).collect();
        file.config.fetch_secrets(&context).await?;
        let shipper = file.build(&registry, &context)?;
        return Ok(vec![Job { name: file.config.offset_key.clone(), lanes, shipper }]);
    }
    let flow = Flow::parse(&text, &flow_context(arguments)?)?;
    flow.notes.iter().for_each(|note| eprintln!("{note}"));
    let (kind, source) = log_store(&arguments.logs).await?;
    let source = registry.source(kind, source, &context)?;
    let offsets = registry.store("file", fields(json!({"dir": arguments.offsets})), &context)?;
    let enabled = flow.shippers.iter().filter(|shipper| !shipper.disabled);
    try_join_all(enabled.clone().map(|task| task.fetch_secrets(&context))).await?;
    let jobs = enabled.map(|task| {
        let lanes = task.exporters.iter().map(|exporter| exporter.id.clone()).collect();
        let shipper = task.build(source.clone(), offsets.clone(), &registry, &context)?;
        Ok(Job { name: task.id.clone(), lanes, shipper })
    });
    jobs.collect()
}

fn fields(value: Value) -> Fields {
    if let Value::Object(fields) = value { fields } else { Fields::new() }
}

fn flow_context(arguments: &Arguments) -> Result<FlowContext, Error> {
    arguments.vars.iter().try_fold(FlowContext::new(), |context, var| match var.split_once('=') {
        Some((name, value)) => Ok(context.variable(name, value)),
        None => Err(Error::config("--var", format!("`{var}` is no NAME=VALUE"))),
    })
}

/// The source of a log store by its address.
async fn log_store(address: &str) -> Result<(&'static str, Fields), Error> {
    let (kind, field) = match address.split_once("://") {
        Some(("postgres" | "postgresql", _)) => ("postgres", "url"),
        Some(("mysql" | "mariadb", _)) => ("mysql", "url"),
        _ => ("sqlite", "path"),
    };
    if kind == "sqlite" && address == "logs.db" && !Path::new(address).exists() {
        eprintln!("There is no log store: making logs.db with 1000 rows to look at.");
        make_rows(address)
            .await
            .map_err(|error| Error::new(ErrorKind::State, "make logs.db", "cannot write it").with_source(error))?;
    }
    Ok((kind, fields(json!({ field: address }))))
}

/// Ships one shipper's part, with a bar for each of its lanes.
async fn ship(
    shipper: &LogShipper,
    arguments: &Arguments,
    stop: &CancellationToken,
    bars: &MultiProgress,
) -> Result<RunReport, Error> {
    let mut progress = shipper.progress();
    let work = async {
        match (&arguments.backfill, &arguments.to) {
            _ if arguments.plan => shipper.plan().await,
            (Some(range), Some(lane)) => {
                let (from, to) = parse_range(range, Timestamp::now())?;
                shipper.backfill_until(lane, from, to, stop.clone()).await
            }
            _ if arguments.follow => shipper.run(stop.clone()).await,
            _ => shipper.run_once_until(stop.clone()).await,
        }
    };
    tokio::pin!(work);
    let mut shown: BTreeMap<Arc<str>, ProgressBar> = BTreeMap::new();
    loop {
        tokio::select! {
            report = &mut work => {
                shown.values().for_each(ProgressBar::finish);
                return report;
            }
            Some(Progress::Delivered { lane, read, accepted, .. }) = progress.next() => {
                let bar = shown.entry(lane.clone()).or_insert_with(|| bars.add(bar(&lane)));
                bar.set_length(read);
                bar.set_position(accepted);
            }
        }
    }
}

fn bar(lane: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg:20} {bar:40} {pos}/{len} {per_sec}");
    let bar = ProgressBar::new(0).with_message(lane.to_owned());
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn show(jobs: &[Job], results: &[Result<RunReport, Error>], as_json: bool) -> Result<(), Error> {
    let named = jobs.iter().map(|job| job.name.as_str()).zip(results);
    let reports: BTreeMap<&str, &RunReport> =
        named.filter_map(|(name, result)| Some((name, result.as_ref().ok()?))).collect();
    if as_json {
        let text = serde_json::to_string_pretty(&reports)
            .map_err(|error| Error::new(ErrorKind::Unexpected, "write report", "cannot").with_source(error))?;
        println!("{text}");
    } else {
        reports.iter().for_each(|(name, report)| println!("{name}\n{report}"));
    }
    Ok(())
}

/// Cancelled by the first Ctrl-C. The second ends the process.
fn stopped_by_ctrl_c() -> CancellationToken {
    let stop = CancellationToken::new();
    let cancel = stop.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            eprintln!("Stopping; what is under way gets some seconds.");
            cancel.cancel();
        }
        if tokio::signal::ctrl_c().await.is_ok() {
            std::process::exit(130);
        }
    });
    stop
}

/// A log table in Kestra's form, its rows a minute apart up to now.
pub(crate) async fn make_rows(path: &str) -> Result<(), sqlx::Error> {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path).create_if_missing(true);
    let pool = sqlx::SqlitePool::connect_with(options).await?;
    sqlx::raw_sql(
        "create table logs (key text primary key, tenant_id text, namespace text not null, flow_id text not null, \
         task_id text, execution_id text, taskrun_id text, attempt_number integer, trigger_id text, \
         execution_kind text, level text, timestamp text, thread text, message text); \
         create index logs_timestamp on logs (timestamp, key); \
         with recursive numbers(n) as (select 1 union all select n + 1 from numbers where n < 1000) \
         insert into logs (key, namespace, flow_id, task_id, execution_id, level, timestamp, message) \
         select printf('log-%06d', n), 'company.team', 'nightly-load', 'copy', printf('execution-%d', n / 50), \
         case when n % 10 = 0 then 'WARN' when n % 3 = 0 then 'DEBUG' else 'INFO' end, \
         strftime('%Y-%m-%dT%H:%M:%fZ', 'now', printf('-%d minutes', 1000 - n)), \
         printf('copied %d rows to warehouse.orders', 1000 + n * 7 % 5000) from numbers",
    )
    .execute(&pool)
    .await?;
    pool.close().await;
    Ok(())
}
