//! One scenario and its limit, each in a process of its own.

use std::error::Error;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use serde::{Deserialize, Serialize};

use crate::corpus::Corpus;
use crate::receiver::Receiver;
use crate::scenario::{Limit, Packing, Scenario};
use crate::{reference, shipping};

/// What one process measured.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Cost {
    pub(crate) records: u64,
    pub(crate) cpu_secs: f64,
    pub(crate) wall_secs: f64,
    /// The most that was ever resident, what was prepared included.
    pub(crate) rss_kib: i64,
    pub(crate) allocations: u64,
    /// Of the bodies that were sent or written, packed as they were.
    #[serde(default)]
    pub(crate) bytes: u64,
}

impl Cost {
    /// Records in a second of CPU.
    pub(crate) fn rate(&self) -> f64 {
        self.records as f64 / self.cpu_secs
    }
}

/// What is counted from when everything is prepared.
struct Meter {
    began: Instant,
    cpu_secs: f64,
    session: alloc_tracker::Session,
    span: alloc_tracker::ProcessSpan,
}

impl Meter {
    fn start() -> Self {
        let session = alloc_tracker::Session::new().no_stdout().no_file();
        let span = session.operation("run").measure_process().iterations(1);
        Meter { session, span, began: Instant::now(), cpu_secs: cpu_secs() }
    }

    fn stop(self, records: u64) -> Result<Cost, Box<dyn Error>> {
        let (wall_secs, cpu_secs) = (self.began.elapsed().as_secs_f64(), cpu_secs() - self.cpu_secs);
        drop(self.span);
        let rss_kib = getrusage(UsageWho::RUSAGE_SELF)?.max_rss();
        let report = self.session.to_report();
        let allocations = report.operations().map(|(_, counted)| counted.total_allocations_count()).sum();
        Ok(Cost { records, cpu_secs, wall_secs, rss_kib, allocations, bytes: 0 })
    }
}

/// What this process has cost, in the system too.
fn cpu_secs() -> f64 {
    getrusage(UsageWho::RUSAGE_SELF).map_or(0.0, |usage| {
        (usage.user_time().num_microseconds() + usage.system_time().num_microseconds()) as f64 / 1e6
    })
}

/// What a measured process is told.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Child {
    scenario: String,
    is_reference: bool,
    corpus: Corpus,
    port: u16,
    /// For what it writes.
    dir: PathBuf,
}

impl Child {
    /// Measures, in this process.
    pub(crate) fn run(&self) -> Result<(), Box<dyn Error>> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let cost = runtime.block_on(self.cost())?;
        println!("{}", serde_json::to_string(&cost)?);
        Ok(())
    }

    async fn cost(&self) -> Result<Cost, Box<dyn Error>> {
        let scenario: Scenario = self.scenario.parse()?;
        if self.is_reference {
            let mut meter = None;
            let begin = || meter = Some(Meter::start());
            let records = reference::run(scenario, &self.corpus, self.port, &self.dir, begin).await?;
            return meter.ok_or("nothing was measured")?.stop(records);
        }
        let shipper = shipping::shipper(scenario, &self.corpus, self.port, &self.dir).await?;
        let meter = Meter::start();
        let report = shipper.run_once().await?.require_complete()?;
        meter.stop(report.lanes[0].accepted)
    }

    /// Measures, in a process of its own.
    fn spawn(&self, receiver: &Receiver) -> Result<Cost, Box<dyn Error>> {
        std::fs::remove_dir_all(&self.dir).ok();
        std::fs::create_dir_all(&self.dir)?;
        receiver.taken()?;
        let mut command = Command::new(std::env::current_exe()?);
        // With huge pages, two megabytes are resident wherever a byte was touched.
        command.env("MIMALLOC_ALLOW_THP", "0");
        let output = command.args(["--child", &serde_json::to_string(self)?]).output()?;
        if !output.status.success() {
            return Err(format!("{} failed: {}", self.scenario, String::from_utf8_lossy(&output.stderr)).into());
        }
        let mut cost: Cost = serde_json::from_slice(&output.stdout)?;
        cost.bytes = receiver.taken()?.bytes + written(&self.dir)?;
        let is_memory = self.scenario.starts_with("memory");
        let there = if is_memory { self.corpus.records.min(shipping::IN_MEMORY_MAX) } else { self.corpus.records };
        if cost.records != there {
            return Err(format!("{} had {} of {there} records", self.scenario, cost.records).into());
        }
        Ok(cost)
    }
}

/// The bytes of all files in a folder.
fn written(dir: &Path) -> std::io::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        bytes += if entry.file_type()?.is_dir() { written(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(bytes)
}

/// A scenario beside its limit.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Measured {
    pub(crate) scenario: String,
    pub(crate) logship: Cost,
    pub(crate) reference: Option<Cost>,
    pub(crate) ratio: Option<f64>,
    pub(crate) least: Option<f64>,
}

/// Measures a scenario and its reference loop by turns, and keeps the best of each.
pub(crate) fn measure(
    scenario: Scenario,
    least: Option<f64>,
    corpus: &Corpus,
    receiver: &Receiver,
    runs: usize,
) -> Result<Measured, Box<dyn Error>> {
    let child = |scenario: Scenario, is_reference| {
        let (corpus, dir) = (corpus.clone(), corpus.dir.join("out"));
        Child { scenario: scenario.to_string(), is_reference, corpus, port: receiver.port, dir }
    };
    let (mut logship, mut reference): (Option<Cost>, Option<Cost>) = (None, None);
    let keep = |best: &mut Option<Cost>, cost: Cost| {
        if best.as_ref().is_none_or(|best| best.rate() < cost.rate()) {
            *best = Some(cost);
        }
    };
    for _ in 0..runs {
        keep(&mut logship, child(scenario, false).spawn(receiver)?);
        match scenario.limit() {
            Limit::Loop => keep(&mut reference, child(scenario, true).spawn(receiver)?),
            Limit::Scenario(limit) => keep(&mut reference, child(limit, false).spawn(receiver)?),
        }
    }
    let logship = logship.ok_or("nothing was measured")?;
    if let Some(reference) = &reference {
        same_work(scenario, &logship, reference)?;
    }
    let ratio = reference.as_ref().map(|reference| logship.rate() / reference.rate());
    Ok(Measured { scenario: scenario.to_string(), logship, reference, ratio, least })
}

/// Says so where the two did not write the same: a limit of other work is none.
fn same_work(scenario: Scenario, logship: &Cost, reference: &Cost) -> Result<(), String> {
    let (one, other) = (logship.bytes as f64, reference.bytes as f64);
    // The two use zstd in different ways.
    let difference_max = if scenario.packing == Packing::Zstd1 { 0.1 } else { 0.001 };
    let is_same = (one - other).abs() <= one * difference_max;
    let (one, other) = (one / logship.records as f64, other / reference.records as f64);
    if is_same {
        Ok(())
    } else {
        Err(format!("{scenario}: logship wrote {one:.1} bytes a record, its limit {other:.1}"))
    }
}

impl Measured {
    pub(crate) const HEAD: &'static str = "scenario                 | records per CPU-second     | ratio least | rec/s wall | peak RSS MiB | allocations/record
                         |      logship   reference |             |    logship | logship  ref | logship  reference";

    /// Whether it has less than it must.
    pub(crate) fn is_short(&self) -> bool {
        self.ratio.zip(self.least).is_some_and(|(ratio, least)| ratio < least)
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_dash =
            |value: Option<f64>, digits: usize| value.map_or("-".to_owned(), |value| format!("{value:.digits$}"));
        let (logship, reference) = (Some(&self.logship), self.reference.as_ref());
        let mib = |cost: &Cost| cost.rss_kib as f64 / 1024.0;
        let allocations = |cost: &Cost| cost.allocations as f64 / cost.records as f64;
        write!(
            f,
            "{:24} | {:>12} {:>11} | {:>5} {:>5} | {:>10.0} | {:>7} {:>4} | {:>7} {:>10}",
            self.scenario,
            or_dash(logship.map(Cost::rate), 0),
            or_dash(reference.map(Cost::rate), 0),
            or_dash(self.ratio, 2),
            or_dash(self.least, 2),
            self.logship.records as f64 / self.logship.wall_secs,
            or_dash(logship.map(mib), 0),
            or_dash(reference.map(mib), 0),
            or_dash(logship.map(allocations), 2),
            or_dash(reference.map(allocations), 3),
        )
    }
}
