//! What whole runs cost: records in a second of CPU, each scenario in a process of its own beside its reference loop,
//! against a receiver in a third one.
//!
//! ```text
//! cargo bench --bench throughput -- [--records N] [--only TEXT] [--json FILE] [--require]
//! ```
//!
//! `--require` fails where a scenario has less than its share of the reference loop's rate.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark says what it found")]

mod corpus;
mod receiver;
mod reference;
mod scenario;
mod shipping;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use serde::{Deserialize, Serialize};

use crate::receiver::Receiver;
use crate::scenario::{SCENARIOS, Scenario};

/// Programs that ship use an allocator of this kind; the library leaves the choice to them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What one process measured.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Cost {
    records: u64,
    cpu_secs: f64,
    wall_secs: f64,
    rss_kib: i64,
}

impl Cost {
    fn rate(&self) -> f64 {
        self.records as f64 / self.cpu_secs
    }
}

/// A scenario beside its limit.
#[derive(Debug, Serialize)]
struct Measured {
    scenario: String,
    logship: Cost,
    reference: Option<Cost>,
    ratio: Option<f64>,
    least: Option<f64>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let value =
        |name: &str| arguments.iter().position(|argument| argument == name).and_then(|at| arguments.get(at + 1));
    if arguments.iter().any(|argument| argument == "--receiver") {
        return Ok(receiver::serve()?);
    }
    if let Some(scenario) = value("--child") {
        let path = |name| value(name).map(PathBuf::from).ok_or(format!("{name} is missing"));
        let is_reference = arguments.iter().any(|argument| argument == "--reference");
        let port = value("--port").ok_or("--port is missing")?.parse()?;
        return child(scenario.parse()?, is_reference, &path("--corpus")?, port, &path("--dir")?);
    }
    let records = value("--records").map_or(Ok(500_000), |records| records.parse())?;
    let only = value("--only").map_or("", String::as_str);
    let dir = std::env::temp_dir().join("logship-throughput");
    std::fs::create_dir_all(&dir)?;
    let corpus = corpus::file(&dir, records)?;
    let receiver = Receiver::start()?;
    let mut all = Vec::new();
    println!(
        "{:22} {:>10} {:>10} {:>6} {:>6} {:>9} {:>9}",
        "records/CPU-s", "logship", "reference", "ratio", "least", "wall", "RSS MiB"
    );
    for (scenario, least) in SCENARIOS.iter().filter(|(name, _)| name.contains(only)) {
        let scenario: Scenario = scenario.parse()?;
        let measured = measure(scenario, *least, &corpus, &receiver, &dir)?;
        let or_dash =
            |value: Option<f64>, digits: usize| value.map_or("-".to_owned(), |value| format!("{value:.digits$}"));
        println!(
            "{:22} {:>10.0} {:>10} {:>6} {:>6} {:>9.0} {:>9.1}",
            measured.scenario,
            measured.logship.rate(),
            or_dash(measured.reference.as_ref().map(Cost::rate), 0),
            or_dash(measured.ratio, 2),
            or_dash(measured.least, 2),
            measured.logship.records as f64 / measured.logship.wall_secs,
            measured.logship.rss_kib as f64 / 1024.0,
        );
        all.push(measured);
    }
    if let Some(file) = value("--json") {
        std::fs::write(file, serde_json::to_vec_pretty(&all)?)?;
    }
    let is_short =
        |measured: &&Measured| measured.ratio.zip(measured.least).is_some_and(|(ratio, least)| ratio < least);
    match all.iter().filter(is_short).count() {
        0 => Ok(()),
        short if arguments.iter().any(|argument| argument == "--require") => {
            Err(format!("{short} scenarios have less than their share").into())
        }
        _ => Ok(()),
    }
}

/// The best of three, of each: noise only ever makes slower.
fn measure(
    scenario: Scenario,
    least: Option<f64>,
    corpus: &Path,
    receiver: &Receiver,
    dir: &Path,
) -> Result<Measured, Box<dyn Error>> {
    let has_reference = scenario.to != scenario::To::Null;
    let (mut logship, mut reference): (Option<Cost>, Option<Cost>) = (None, None);
    let keep = |best: &mut Option<Cost>, cost: Cost| {
        if best.as_ref().is_none_or(|best| best.rate() < cost.rate()) {
            *best = Some(cost);
        }
    };
    for _ in 0..3 {
        keep(&mut logship, run(scenario, false, corpus, receiver, dir)?);
        if has_reference {
            keep(&mut reference, run(scenario, true, corpus, receiver, dir)?);
        }
    }
    let logship = logship.ok_or("nothing was measured")?;
    let ratio = reference.as_ref().map(|reference| logship.rate() / reference.rate());
    Ok(Measured { scenario: scenario.to_string(), logship, reference, ratio, least })
}

/// One scenario in a process of its own.
fn run(
    scenario: Scenario,
    reference: bool,
    corpus: &Path,
    receiver: &Receiver,
    dir: &Path,
) -> Result<Cost, Box<dyn Error>> {
    let out = dir.join("out");
    std::fs::remove_dir_all(&out).ok();
    std::fs::create_dir_all(&out)?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--child", &scenario.to_string(), "--port", &receiver.port.to_string()]);
    command.arg("--corpus").arg(corpus).arg("--dir").arg(&out);
    if reference {
        command.arg("--reference");
    }
    let output = command.output()?;
    if !output.status.success() {
        return Err(format!("{scenario} failed: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The measured process.
fn child(scenario: Scenario, reference: bool, corpus: &Path, port: u16, dir: &Path) -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let cost = runtime.block_on(async {
        let mut began = (Instant::now(), 0.0);
        let mut records = 0;
        if reference {
            records = reference::run(scenario, corpus, port, dir, || began = (Instant::now(), cpu_secs())).await?;
        } else {
            shipping::ship(scenario, corpus, port, dir, async |shipper| {
                began = (Instant::now(), cpu_secs());
                let report = shipper.run_once().await?.require_complete()?;
                records = report.lanes[0].accepted;
                Ok(records)
            })
            .await?;
        }
        let (wall_secs, cpu_secs) = (began.0.elapsed().as_secs_f64(), cpu_secs() - began.1);
        let rss_kib = getrusage(UsageWho::RUSAGE_SELF)?.max_rss();
        Ok::<_, Box<dyn Error>>(Cost { records, cpu_secs, wall_secs, rss_kib })
    })?;
    println!("{}", serde_json::to_string(&cost)?);
    Ok(())
}

/// What this process has cost, in the system too.
fn cpu_secs() -> f64 {
    getrusage(UsageWho::RUSAGE_SELF).map_or(0.0, |usage| {
        (usage.user_time().num_microseconds() + usage.system_time().num_microseconds()) as f64 / 1e6
    })
}
