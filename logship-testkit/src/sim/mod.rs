//! The engine in a simulated world: seeded, on a paused clock, with an oracle.
//!
//! One seed decides everything: which rows there are, what goes wrong, when the process crashes, what a destination
//! answers. The clock is tokio's, paused, so that a day passes in no time and a run with the same seed is the same run.
//!
//! The oracle turns every row that was written into an obligation. After a number of processes that crash, are dropped,
//! are stopped or end by themselves, the faults cease, a last process runs to its end, and every obligation must be
//! met: at every destination once, or more often only where a repeat was announced. Promises that hold at every moment
//! are checked at every moment: at each commit (P1), at each request (P8, limits), at each crash (P3).

mod destination;
mod source;
mod store;
mod world;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use logship_core::{
    CancellationToken, CpuWork, Error, ErrorKind, Idempotency, Lane, LaneStatus, Limits, LogShipper, OnReject,
    RetryPolicy, RunReport,
};

use self::destination::{SimDeadLetter, SimExporter};
use self::source::SimSource;
use self::store::SimStore;
use self::world::Arrival;
pub use self::world::World;

/// What one seed showed.
#[derive(Debug)]
pub struct Findings {
    /// Interesting things that happened. A test over many seeds asserts that each did, so that it cannot become
    /// vacuous.
    pub coverage: BTreeSet<&'static str>,
    /// Promises that were broken.
    pub violations: Vec<String>,
}

/// How a lane of the simulation is made.
#[derive(Clone, Debug)]
struct Plan {
    id: &'static str,
    idempotency: Idempotency,
    concurrency: usize,
    chunk: usize,
    chunk_bytes_max: usize,
    encodes: bool,
    refuses: bool,
    /// What is refused goes to a dead letter; records larger than a kilobyte are, before they are sent.
    dead_letter: bool,
    too_large: usize,
}

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// By itself, when there is no more.
    Once,
    /// It is told to stop.
    Stopped,
    /// Its future is dropped.
    Dropped,
    /// It is killed.
    Crashed,
    /// Somebody takes its lease away.
    Fenced,
}

const BUDGET: usize = 6 * 64 * 1024;
/// Records are smaller, or larger than this by far.
const GIANT: usize = 2_000;
const GRACE: Duration = Duration::from_secs(5);
const LEASE: Duration = Duration::from_secs(30);

/// Runs one seed from beginning to end, on a runtime of its own.
pub fn run_seed(seed: u64) -> std::io::Result<Findings> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    Ok(runtime.block_on(async {
        let world = World::new(seed);
        let plans = plan(&world);
        for plan in &plans {
            let destination = world::Destination { idempotency: plan.idempotency, ..world::Destination::default() };
            world.lock().destinations.insert(plan.id.to_owned(), destination);
        }
        let by = Duration::from_millis(world.pick(20_000).into());
        let arrivals = [Arrival::Total, Arrival::Late { by }, Arrival::Late { by }, Arrival::Horizon { by }];
        let arrival = arrivals[world.pick(4) as usize];
        world.lock().arrival = arrival;
        let deletes = world.pick(2) == 0;
        world.lock().deletes = deletes;
        let partitions = world.pick(3) + 1;
        for process in 0..world.pick(5) + 2 {
            for partition in 0..partitions {
                let rows = world.pick(120) as usize;
                world.append(&format!("p{partition}"), rows);
            }
            one_process(&world, &plans, seed, process.into(), partitions).await;
        }
        last_process(&world, &plans, seed).await;
        let state = &mut *world.lock();
        Findings { coverage: std::mem::take(&mut state.coverage), violations: std::mem::take(&mut state.violations) }
    }))
}

fn plan(world: &World) -> Vec<Plan> {
    let lane = |id, idempotency, concurrency: u32| Plan {
        id,
        idempotency,
        concurrency: world.pick(concurrency) as usize + 1,
        chunk: world.pick(40) as usize + 1,
        chunk_bytes_max: 4_000 + world.pick(20_000) as usize,
        encodes: world.pick(2) == 0,
        refuses: world.pick(2) == 0,
        dead_letter: world.pick(2) == 0,
        too_large: if world.pick(3) == 0 { world.pick(30) as usize + 1 } else { usize::MAX },
    };
    vec![
        lane("plain", Idempotency::None, 1),
        lane("wide", Idempotency::None, 4),
        lane("records", Idempotency::PerRecord, 4),
        Plan { refuses: false, too_large: usize::MAX, ..lane("objects", Idempotency::PerChunk, 1) },
    ]
}

fn shipper(world: &World, plans: &[Plan], seed: u64) -> Result<LogShipper, Error> {
    let generation = world.lock().generation;
    let deletes = world.lock().deletes;
    let page_records = world.pick(50) as usize + 1;
    let overlap = match world.lock().arrival {
        Arrival::Late { by } => by,
        Arrival::Total | Arrival::Horizon { .. } => Duration::ZERO,
    };
    let mut builder = LogShipper::builder(SimSource { world: world.clone(), generation })
        .offsets(SimStore { world: world.clone(), generation })
        .lookback(None)
        .byte_budget(BUDGET)
        .page_records(page_records)
        .overlap(overlap)
        .delete_shipped(deletes)
        .poll_interval(Duration::from_millis(200))
        .lease_ttl(LEASE)
        .grace(GRACE)
        .clock(Arc::new(world.clone()))
        .seed(seed)
        .cpu_work(CpuWork::Inline);
    for plan in plans {
        let mut limits = Limits::none().chunk_records_max(plan.chunk).chunk_bytes_max(plan.chunk_bytes_max);
        if plan.dead_letter {
            limits = limits.record_bytes_max(GIANT);
        }
        let exporter = SimExporter {
            world: world.clone(),
            generation,
            lane: plan.id,
            idempotency: plan.idempotency,
            limits,
            encodes: plan.encodes,
            refuses: plan.refuses,
            has_dead_letter: plan.dead_letter,
            too_large: plan.too_large,
        };
        let mut retry = RetryPolicy::default();
        retry.attempts_max = 4;
        retry.delay_max = Duration::from_secs(3);
        let lane = Lane::new(plan.id, exporter)
            .concurrency(plan.concurrency)
            .on_reject(OnReject::Drop)
            .attempt_timeout(Duration::from_secs(2))
            .retry(retry);
        builder = builder.lane(match plan.dead_letter {
            true => lane.dead_letter(SimDeadLetter { world: world.clone(), generation, lane: plan.id.to_owned() }),
            false => lane,
        });
    }
    builder.build()
}

/// A process from its start to its end, and what must hold then.
async fn one_process(world: &World, plans: &[Plan], seed: u64, process: u64, partitions: u32) {
    let ending = [Ending::Once, Ending::Stopped, Ending::Dropped, Ending::Crashed, Ending::Crashed, Ending::Fenced]
        [world.pick(6) as usize];
    let shipper = match shipper(world, plans, seed ^ process) {
        Ok(shipper) => shipper,
        Err(error) => return world.violation(format!("the shipper could not be built: {error}")),
    };
    let before: Vec<usize> = plans.iter().map(|plan| world.lock().repeatable(plan.id)).collect();
    {
        let state = &mut *world.lock();
        state.fault_rate = [0, 30, 150][state.rng.usize(0..3)];
        state.crash_in = (ending == Ending::Crashed).then(|| state.rng.u64(1..250));
        state.destinations.values_mut().for_each(|destination| destination.run_copies.clear());
        state.hung = (state.rng.u32(0..6) == 0).then(|| plans[state.rng.usize(0..plans.len())].id);
    }
    world.jump();
    let moment = Duration::from_millis(world.pick(6_000).into());
    let stop = CancellationToken::new();
    let continuous = ending != Ending::Once && world.pick(2) == 0;
    let run = async {
        match continuous {
            true => shipper.run(stop.clone()).await,
            false => shipper.run_once_until(stop.clone()).await,
        }
    };
    let stopped_at = Cell::new(None);
    let end = end(world, ending, moment, &stop, &stopped_at);
    // A continuous run that is not told to stop is, in the end.
    let patience = tokio::time::sleep(Duration::from_secs(120));
    let result = tokio::select! {
        biased;
        () = world.crash() => None,
        result = run => Some(result),
        () = end => None,
        () = write(world, partitions) => None,
        () = patience => None,
    };
    drop(shipper);
    if let (Some(stopped_at), Some(Ok(_))) = (stopped_at.get(), &result)
        && stopped_at.elapsed() > GRACE + Duration::from_secs(3)
    {
        world.violation(format!("P9: a stop took {:?}", stopped_at.elapsed()));
    }
    match &result {
        Some(Ok(report)) => check_report(world, plans, report, &before, continuous),
        Some(Err(error)) if matches!(error.kind(), ErrorKind::Fenced | ErrorKind::Unavailable | ErrorKind::Busy) => {}
        Some(Err(error)) => world.violation(format!("the run failed: {error}")),
        None => check_crash(world, plans, &before, continuous),
    }
    // The dead process has no effect any more, and its lease runs out.
    let wait = {
        let state = &mut *world.lock();
        state.generation += 1;
        state.crash_in = None;
        state.lease_until.map(|until| until.saturating_duration_since(tokio::time::Instant::now()))
    };
    if let Some(wait) = wait.filter(|_| ending != Ending::Dropped) {
        expect_busy(world, plans, seed, wait).await;
        tokio::time::sleep(wait).await;
    } else {
        tokio::time::sleep(LEASE).await;
    }
}

/// Ends a process in its own way. Returns if that is by dropping it.
async fn end(
    world: &World,
    ending: Ending,
    moment: Duration,
    stop: &CancellationToken,
    stopped_at: &Cell<Option<tokio::time::Instant>>,
) {
    if matches!(ending, Ending::Dropped | Ending::Stopped | Ending::Fenced) {
        tokio::time::sleep(moment).await;
    }
    match ending {
        Ending::Dropped => return,
        Ending::Stopped => {
            stopped_at.set(Some(tokio::time::Instant::now()));
            stop.cancel();
        }
        Ending::Fenced => world.steal_lease(),
        Ending::Once | Ending::Crashed => {}
    }
    std::future::pending().await
}

/// Writes more rows while a process runs.
async fn write(world: &World, partitions: u32) {
    for _ in 0..world.pick(6) {
        tokio::time::sleep(Duration::from_millis(world.pick(3_000).into())).await;
        world.jump();
        world.append(&format!("p{}", world.pick(partitions)), world.pick(40) as usize);
    }
    std::future::pending().await
}

/// P6: while a lease lasts, a second run is turned away.
async fn expect_busy(world: &World, plans: &[Plan], seed: u64, wait: Duration) {
    if wait < Duration::from_secs(1) {
        return;
    }
    world.lock().fault_rate = 0;
    if let Ok(shipper) = shipper(world, plans, seed) {
        match shipper.run_once().await {
            Err(error) if error.kind() == ErrorKind::Busy => {}
            other => world.violation(format!("P6: a second run was not turned away: {other:?}")),
        }
    }
}

/// What must hold when a run has reported.
fn check_report(world: &World, plans: &[Plan], report: &RunReport, before: &[usize], continuous: bool) {
    if report.memory_peak > BUDGET {
        world.violation(format!("P5: {} bytes were held, and {BUDGET} allowed", report.memory_peak));
    }
    for ((lane, plan), before) in report.lanes.iter().zip(plans).zip(before) {
        if !lane.balances() {
            world.violation(format!("P11: the report of {} does not balance: {lane:?}", lane.id));
        }
        if matches!(lane.status, LaneStatus::Complete) && lane.left != 0 {
            world.violation(format!("P11: {} is complete and has {} left", lane.id, lane.left));
        }
        let state = world.lock();
        let undisturbed = state.fault_rate == 0 && state.hung.is_some_and(|hung| hung != plan.id);
        drop(state);
        if undisturbed && let LaneStatus::Stopped(error) = &lane.status {
            world.violation(format!("P2: {} stopped beside a destination that hangs: {error}", lane.id));
        }
        if let LaneStatus::Stopped(error) = &lane.status
            && error.is_retryable()
        {
            world.cover("a lane gave up");
        }
        if plan.idempotency != Idempotency::None {
            continue;
        }
        let state = world.lock();
        let doubled: u64 = state.destinations[plan.id].run_copies.values().map(|copies| copies - 1).sum();
        let repeatable = state.repeatable(plan.id);
        drop(state);
        if doubled > lane.possibly_duplicated {
            world.violation(format!(
                "P3: {} has {doubled} records twice, and {} were announced",
                lane.id, lane.possibly_duplicated
            ));
        }
        if doubled > 0 {
            world.cover("a repeat was announced");
        }
        if !continuous && repeatable as u64 > *before as u64 + lane.in_doubt {
            world.violation(format!(
                "P9: {repeatable} records of {} are delivered and not behind its offset; {before} were before, {} are in doubt",
                lane.id, lane.in_doubt
            ));
        }
    }
}

/// P3: a crash repeats at most the chunks that were in flight.
fn check_crash(world: &World, plans: &[Plan], before: &[usize], continuous: bool) {
    for (plan, before) in plans.iter().zip(before) {
        let repeatable = world.lock().repeatable(plan.id);
        if repeatable > *before {
            world.cover("a crash between delivery and commit");
        }
        let in_flight = plan.concurrency * plan.chunk;
        if plan.idempotency == Idempotency::None && !continuous && repeatable > before + in_flight {
            world.violation(format!(
                "P3: a crash repeats {repeatable} records of {}, {before} from before, and {in_flight} could be in flight",
                plan.id
            ));
        }
    }
}

/// Faults have ceased: every obligation is met.
async fn last_process(world: &World, plans: &[Plan], seed: u64) {
    {
        let state = &mut *world.lock();
        (state.fault_rate, state.hung) = (0, None);
        (state.clock_ahead, state.clock_behind) = (Duration::ZERO, Duration::ZERO);
    }
    // What was shipped within the overlap is deleted by the next run.
    let runs = if world.lock().deletes { 2 } else { 1 };
    for _ in 0..runs {
        // Everything that was written has appeared.
        tokio::time::sleep(Duration::from_secs(90)).await;
        let report = match shipper(world, plans, seed) {
            Ok(shipper) => shipper.run_once().await,
            Err(error) => Err(error),
        };
        match report {
            Ok(report) if report.is_complete() => {}
            Ok(report) => world.violation(format!("liveness: the last run did not complete:\n{report}")),
            Err(error) => world.violation(format!("liveness: the last run failed: {error}")),
        }
    }
    if world.lock().deletes {
        undeleted(world);
    }
    for plan in plans {
        let violations = unmet(world, plan);
        world.lock().violations.extend(violations.into_iter().take(3));
    }
}

/// P7: what every destination has goes, and what one of them has not stays.
fn undeleted(world: &World) {
    let state = &mut *world.lock();
    for (partition, rows) in &state.rows {
        for row in rows.iter().filter(|row| row.wanted) {
            let shipped = state.destinations.values().all(|destination| destination.has(partition, row.number));
            match (row.deleted, shipped, row.stray) {
                (false, true, false) => {
                    state.violations.push(format!("P7: row {} of {partition} was never deleted", row.number));
                }
                (false, false, true) => drop(state.coverage.insert("a row that nobody shipped was not deleted")),
                _ => {}
            }
        }
    }
}

/// The obligations towards one destination that are not met.
fn unmet(world: &World, plan: &Plan) -> Vec<String> {
    let state = world.lock();
    let destination = &state.destinations[plan.id];
    let mut violations = Vec::new();
    for (partition, rows) in &state.rows {
        for row in rows {
            let key = world::key(partition, row.number);
            let giant = plan.dead_letter && row.text.len() > GIANT;
            let refused = (plan.refuses && row.poison) || giant;
            match (row.wanted && !refused, destination.copies.contains_key(&key)) {
                (true, false) if row.stray => {}
                (true, false) => violations.push(format!("P1: {} never got row {key:?}", plan.id)),
                (false, true) => violations.push(format!("{} got row {key:?}, which is not for it", plan.id)),
                _ => {}
            }
        }
        let arrivals = destination.arrivals.get(partition).map(Vec::as_slice).unwrap_or_default();
        let in_order = state.arrival == Arrival::Total;
        if in_order
            && plan.concurrency == 1
            && !plan.refuses
            && plan.idempotency == Idempotency::PerChunk
            && !arrivals.is_sorted()
        {
            violations.push(format!("P8: {} got {partition} out of order", plan.id));
        }
    }
    if plan.dead_letter {
        let letters: BTreeSet<_> = destination.letters.values().flatten().collect();
        for row in destination.refused.iter().filter(|row| !letters.contains(row)) {
            violations.push(format!("P10: the letter of row {row:?} of {} was replaced by another", plan.id));
        }
    }
    let mut seen = BTreeSet::new();
    // A clock that was set back makes rows wait which were shipped before a crash, and what is shipped next begins
    // elsewhere.
    let is_promised = state.arrival == Arrival::Total || !state.clock_was_behind;
    for row in destination.objects.values().flatten().filter(|_| is_promised) {
        if !seen.insert(row) {
            violations.push(format!("P3: {} has row {row:?} in two objects", plan.id));
        }
    }
    violations
}
