//! What whole runs cost: records in a second of CPU, each scenario in a process of its own beside its reference loop,
//! against a receiver in a third one.
//!
//! `cargo bench --bench throughput -- --help` says what can be asked for.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark says what it found")]

mod corpus;
mod destination;
mod format;
mod json;
mod latency;
mod measure;
mod plot;
mod receiver;
mod reference;
mod row;
mod rows;
mod scenario;
mod shipping;
mod tables;

use std::error::Error;
use std::path::{Path, PathBuf};

use clap::Parser;
use serde::{Deserialize, Serialize};

use crate::corpus::Corpus;
use crate::latency::{LATENCIES, Latency};
use crate::measure::{Child, Measured};
use crate::receiver::Receiver;
use crate::scenario::{From, SCENARIOS, Scenario};

/// Programs that ship use an allocator of this kind; the library leaves the choice to them. Each thread counts what it
/// asks for, which costs both sides a nanosecond a time.
#[global_allocator]
static ALLOCATOR: alloc_tracker::Allocator<mimalloc::MiMalloc> = alloc_tracker::Allocator::new(mimalloc::MiMalloc);

/// Measures whole runs, each beside its reference loop.
#[derive(Parser)]
struct Arguments {
    /// Lines of the corpus.
    #[arg(long, default_value_t = 1_000_000)]
    records: u64,
    /// Only the scenario of this name, measured by default or not, or all that have this in their names.
    #[arg(long)]
    only: Vec<String>,
    /// How often each is run; the best counts, as noise only ever makes slower.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Where the results go. Default: `target/tmp/throughput.json`.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Draws the results, as SVG.
    #[arg(long)]
    plot: Option<PathBuf>,
    /// Takes results from here instead of measuring.
    #[arg(long)]
    results: Option<PathBuf>,
    /// Fails where a scenario has less than its share of the reference loop's rate.
    #[arg(long)]
    require: bool,
    /// What cargo says to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
    /// Runs the receiver instead.
    #[arg(long, hide = true)]
    receiver: bool,
    /// Runs one scenario, as JSON, instead.
    #[arg(long, hide = true)]
    child: Option<String>,
    /// Times records instead.
    #[arg(long, hide = true)]
    latency_child: Option<String>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    if arguments.receiver {
        return Ok(receiver::serve()?);
    }
    if let Some(child) = &arguments.child {
        return serde_json::from_str::<Child>(child)?.run();
    }
    if let Some(child) = &arguments.latency_child {
        return serde_json::from_str::<latency::Child>(child)?.run();
    }
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let results = match &arguments.results {
        Some(file) => serde_json::from_slice(&std::fs::read(file)?)?,
        None => {
            let results = measured(&arguments, dir)?;
            let json = arguments.json.unwrap_or_else(|| dir.join("throughput.json"));
            std::fs::write(&json, serde_json::to_vec_pretty(&results)?)?;
            println!("results: {}", json.display());
            results
        }
    };
    if let Some(file) = &arguments.plot {
        std::fs::write(file, plot::svg(&results)?)?;
    }
    if !results.failed.is_empty() {
        return Err(format!("{} scenarios could not be measured", results.failed.len()).into());
    }
    let short: Vec<&str> =
        results.throughput.iter().filter(|one| one.is_short()).map(|one| one.scenario.as_str()).collect();
    if arguments.require && !short.is_empty() {
        return Err(format!("less than their share: {}", short.join(", ")).into());
    }
    Ok(())
}

/// What was found out.
#[derive(Debug, Default, Deserialize, Serialize)]
struct Results {
    throughput: Vec<Measured>,
    latency: Vec<Latency>,
    /// What could not be measured, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    failed: Vec<String>,
}

impl Results {
    fn failed(&mut self, error: Box<dyn Error>) {
        eprintln!("FAILED {error}");
        self.failed.push(error.to_string());
    }
}

fn measured(arguments: &Arguments, dir: &Path) -> Result<Results, Box<dyn Error>> {
    let corpus = Corpus { dir: dir.join("throughput"), records: arguments.records };
    std::fs::create_dir_all(&corpus.dir)?;
    let scenarios = chosen(&arguments.only)?;
    prepare(&corpus, &scenarios)?;
    let receiver = Receiver::start()?;
    let mut results = Results::default();
    if !scenarios.is_empty() {
        println!("{}", Measured::HEAD);
    }
    for (scenario, least) in scenarios {
        match measure::measure(scenario, least, &corpus, &receiver, arguments.runs) {
            Ok(measured) => {
                println!("{measured}");
                results.throughput.push(measured);
            }
            Err(error) => results.failed(error),
        }
    }
    let latencies: Vec<&str> = LATENCIES.into_iter().filter(|name| is_chosen(name, &arguments.only)).collect();
    if !latencies.is_empty() {
        println!("{}", Latency::HEAD);
    }
    for name in latencies {
        match latency::measure(name, &corpus.dir.join("out"), &receiver) {
            Ok(latency) => {
                println!("{latency}");
                results.latency.push(latency);
            }
            Err(error) => results.failed(error),
        }
    }
    Ok(results)
}

/// Whether a scenario is asked for, by its name or by a part of it.
fn is_chosen(name: &str, only: &[String]) -> bool {
    let is_name = |text: &str| text.parse::<Scenario>().is_ok();
    only.is_empty() || only.iter().any(|part| if is_name(part) { name == part } else { name.contains(part.as_str()) })
}

/// What is to be measured, with the share it must have.
fn chosen(only: &[String]) -> Result<Vec<(Scenario, Option<f64>)>, String> {
    let mut chosen = Vec::new();
    for (name, least) in SCENARIOS {
        if is_chosen(name, only) {
            chosen.push((name.parse::<Scenario>()?, *least));
        }
    }
    let names = || SCENARIOS.iter().map(|(name, _)| *name).chain(LATENCIES);
    for name in only {
        match name.parse() {
            Ok(scenario) if chosen.iter().all(|(known, _)| known.to_string() != *name) => chosen.push((scenario, None)),
            Err(error) if names().all(|known| !known.contains(name.as_str())) => return Err(error),
            _ => {}
        }
    }
    if let Err(error) = tables::postgres_url() {
        let is_wanted = |scenario: &Scenario| {
            scenario.from != From::Postgres || only.iter().any(|part| part.starts_with("postgres"))
        };
        if chosen.iter().any(|(scenario, _)| !is_wanted(scenario)) {
            eprintln!("without PostgreSQL: {error}");
        }
        chosen.retain(|(scenario, _)| is_wanted(scenario));
    }
    Ok(chosen)
}

/// Makes what the scenarios read.
fn prepare(corpus: &Corpus, scenarios: &[(Scenario, Option<f64>)]) -> Result<(), Box<dyn Error>> {
    corpus.make_lines()?;
    let is_read = |from| scenarios.iter().any(|(scenario, _)| scenario.from == from);
    tokio::runtime::Runtime::new()?.block_on(async {
        if is_read(From::Sqlite) {
            tables::make_sqlite(corpus).await?;
        }
        if is_read(From::Postgres) {
            tables::make_postgres(corpus).await?;
        }
        Ok(())
    })
}
