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
//! in base64.
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
use logship::config::{ConfigFile, Syntax, parse_range};
use logship::kestra::{EnvironmentSecrets, Flow, FlowContext};
use logship::{
    BuildContext, Error, ErrorKind, Fields, LaneStatus, LogShipper, Progress, RunReport, Timestamp, registry,
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

/// Ships logs as a configuration says.
#[derive(Parser)]
struct Arguments {
    /// The configuration: YAML, JSON or TOML, or a flow of Kestra's.
    file: PathBuf,
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
    match run(&arguments).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(match error.kind() {
                ErrorKind::Config | ErrorKind::Unsupported => 2,
                ErrorKind::Busy => 3,
                ErrorKind::Cancelled => 4,
                _ => 1,
            })
        }
    }
}

async fn run(arguments: &Arguments) -> Result<ExitCode, Error> {
    let mut jobs = jobs(arguments).await?;
    if let Some(id) = &arguments.to {
        jobs.retain(|job| job.lanes.contains(id));
        if jobs.is_empty() {
            return Err(Error::config("--to", format!("there is no exporter `{id}` in {}", arguments.file.display())));
        }
    }
    if arguments.reset {
        try_join_all(jobs.iter().map(|job| job.shipper.reset_offsets(arguments.to.as_deref()))).await?;
    }
    let stop = stopped_by_ctrl_c();
    let bars = MultiProgress::new();
    let runs = jobs.iter().map(|job| ship(&job.shipper, arguments, &stop, &bars));
    let reports = join_all(runs).await.into_iter().collect::<Result<Vec<_>, _>>()?;
    show(&jobs, &reports, arguments.json)?;
    Ok(ExitCode::from(match arguments.follow {
        // A run that goes on until it is stopped is done when it is stopped.
        true => u8::from(reports.iter().any(is_stuck)),
        false if reports.iter().any(is_stuck) => 1,
        false => {
            if reports.iter().all(RunReport::is_complete) {
                0
            } else {
                4
            }
        }
    }))
}

fn is_stuck(report: &RunReport) -> bool {
    let lanes = report.lanes.iter().any(|lane| matches!(lane.status, LaneStatus::Stopped(_)));
    lanes || report.deletion.as_ref().is_some_and(|deletion| deletion.error.is_some())
}

/// The shippers of the file, over the stores it names or those of the command line.
async fn jobs(arguments: &Arguments) -> Result<Vec<Job>, Error> {
    let path = &arguments.file;
    let text = std::fs::read_to_string(path)
        .map_err(|error| Error::config("FILE", format!("cannot read {}", path.display())).with_source(error))?;
    let context = BuildContext::new(Arc::new(EnvironmentSecrets));
    let (registry, offsets) = (registry(), json!({"type": "file", "dir": arguments.offsets}));
    if Flow::is_flow(&text) {
        let flow = Flow::parse(&text, &flow_context(arguments)?)?;
        flow.notes.iter().for_each(|note| eprintln!("{note}"));
        let mut source = log_store(&arguments.logs).await?;
        let kind = source.remove("type").and_then(|kind| kind.as_str().map(str::to_owned)).unwrap_or_default();
        let source = registry.source(&kind, source, &context)?;
        let offsets =
            registry.store("file", [("dir".to_owned(), offsets["dir"].clone())].into_iter().collect(), &context)?;
        let enabled = flow.shippers.iter().filter(|shipper| !shipper.disabled);
        return enabled
            .map(|shipper| {
                let lanes = shipper.exporters.iter().map(|exporter| exporter.id.clone()).collect();
                let log_shipper = shipper.build(source.clone(), offsets.clone(), &registry, &context)?;
                Ok(Job { name: shipper.id.clone(), lanes, shipper: log_shipper })
            })
            .collect();
    }
    let mut defaults = Fields::new();
    defaults.insert("offsets".to_owned(), offsets);
    if !ConfigFile::has(&text, Syntax::of(path), "source") {
        defaults.insert("source".to_owned(), log_store(&arguments.logs).await?.into());
    }
    let file = ConfigFile::parse_with(&text, Syntax::of(path), &defaults)?;
    let lanes = file.config.exporters.iter().map(|exporter| exporter.id.clone()).collect();
    let shipper = file.build(&registry, &context)?;
    Ok(vec![Job { name: file.config.offset_key.clone(), lanes, shipper }])
}

fn flow_context(arguments: &Arguments) -> Result<FlowContext, Error> {
    arguments.vars.iter().try_fold(FlowContext::new(), |context, var| match var.split_once('=') {
        Some((name, value)) => Ok(context.variable(name, value)),
        None => Err(Error::config("--var", format!("`{var}` is no NAME=VALUE"))),
    })
}

/// The source of a log store by its address.
async fn log_store(address: &str) -> Result<Fields, Error> {
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
    Ok([("type".to_owned(), json!(kind)), (field.to_owned(), json!(address))].into_iter().collect())
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

fn show(jobs: &[Job], reports: &[RunReport], as_json: bool) -> Result<(), Error> {
    if as_json {
        let all: BTreeMap<&str, &RunReport> = jobs.iter().map(|job| job.name.as_str()).zip(reports).collect();
        let text = serde_json::to_string_pretty(&all)
            .map_err(|error| Error::new(ErrorKind::Unexpected, "write report", "cannot").with_source(error))?;
        println!("{text}");
        return Ok(());
    }
    for (job, report) in jobs.iter().zip(reports) {
        println!("{}\n{report}", job.name);
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
async fn make_rows(path: &str) -> Result<(), sqlx::Error> {
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
