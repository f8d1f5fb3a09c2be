//! Seeds on all cores, and one seed in full.
//!
//! In:     the command line.
//! Out:    a progress line on standard error, the results on standard output.

use super::{Args, replay};
use logdrive::testing::{Cluster, Counts, Coverage, EXCUSES, Failure, PLACES, shrink};
use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Seeds of a campaign that is not told how many.
const SEEDS: u64 = 100;

/// A campaign of so many seeds must reach every place.
const SEEDS_WITHOUT_HOLES: u64 = 1_000;

/// Failing seeds after which a campaign ends.
const FAILURES_MAX: usize = 5;

pub(super) fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    if let Some(name) =
        args.without_excuse.iter().find(|name| !EXCUSES.iter().any(|e| e.name == **name))
    {
        let known: Vec<&str> = EXCUSES.iter().map(|excuse| excuse.name).collect();
        return Err(format!("no excuse {name:?}; there are: {}", known.join(", ")).into());
    }
    match args.seed {
        Some(seed) if args.trace || args.only.is_some() || is_one(args) => one(seed, args),
        first => many(first.unwrap_or(0), args),
    }
}

fn cluster(seed: u64, args: &Args) -> Cluster {
    let excuses = args.without_excuse.iter();
    excuses.fold(Cluster::new(seed), |cluster, name| cluster.without_excuse(name))
}

/// `--seed` alone is one seed.
fn is_one(args: &Args) -> bool {
    args.r#for.is_none() && args.seeds.is_none()
}

fn one(seed: u64, args: &Args) -> Result<(), Box<dyn Error>> {
    let mut cluster = cluster(seed, args);
    if let Some(only) = &args.only {
        cluster = cluster.only(only.clone());
    }
    if args.trace {
        cluster = cluster.traced();
    }
    let mut out = std::io::stdout().lock();
    match cluster.run() {
        Ok(report) => {
            for line in &report.lines {
                writeln!(out, "{line}")?;
            }
            writeln!(out, "seed {seed} passes: {:?}, trace {:016x}", report.counts, report.trace)?;
            Ok(())
        }
        Err(failure) => {
            for line in &failure.lines {
                writeln!(out, "{line}")?;
            }
            if args.only.is_none() && !args.trace {
                explain(&mut out, seed, args, failure.clone())?;
            }
            Err(failure)
        }
    }
}

/// The fewest faults with which a seed fails, and how to look at it.
fn explain(
    out: &mut dyn Write,
    seed: u64,
    args: &Args,
    failure: Box<Failure>,
) -> std::io::Result<()> {
    let all = failure.faults.len();
    let names = failure.faults.clone();
    let shrunk = shrink(&cluster(seed, args), failure);
    let kept: BTreeSet<usize> = shrunk.faults.iter().copied().collect();
    writeln!(out, "  of {all} faults it takes {} ({} runs):", kept.len(), shrunk.runs)?;
    for (number, name) in names.iter().filter(|(number, _)| kept.contains(number)) {
        writeln!(out, "    {number}: {name}")?;
    }
    writeln!(out, "  then: {}", shrunk.failure)?;
    // With no fault left there is no list to give; a number past the schedule's end keeps none.
    let only = if kept.is_empty() { vec![all] } else { kept.into_iter().collect() };
    writeln!(out, "  replay: {}", replay(seed, args, Some(&only)))
}

struct Sum {
    seeds: u64,
    counts: Counts,
    excuses: BTreeMap<&'static str, u64>,
    coverage: Coverage,
    /// The number of seeds that reached each place.
    reached_by: BTreeMap<&'static str, u64>,
    failures: Vec<Failure>,
}

#[expect(clippy::disallowed_methods, reason = "a campaign's time, told to people")]
fn many(first: u64, args: &Args) -> Result<(), Box<dyn Error>> {
    let (begun, cpu_begun) = (Instant::now(), cpu_time());
    let seeds = args.seeds.unwrap_or(SEEDS);
    let last = args.r#for.map_or(first.saturating_add(seeds), |_| u64::MAX);
    let over = |seed: u64, failed: usize| {
        seed >= last
            || failed >= FAILURES_MAX
            || args.r#for.is_some_and(|time| begun.elapsed() >= time.0)
    };
    let next = AtomicU64::new(first);
    let sum = Mutex::new(Sum {
        seeds: 0,
        counts: Counts::default(),
        excuses: EXCUSES.iter().map(|excuse| (excuse.name, 0)).collect(),
        coverage: Coverage::default(),
        reached_by: BTreeMap::new(),
        failures: Vec::new(),
    });
    let lock = || sum.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let work = || loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if over(seed, lock().failures.len()) {
            return;
        }
        let result = cluster(seed, args).run();
        let mut sum = lock();
        sum.seeds += 1;
        match result {
            Ok(report) => {
                sum.counts.add(&report.counts);
                sum.coverage.add(&report.coverage);
                for place in report.coverage.0.keys() {
                    *sum.reached_by.entry(place).or_default() += 1;
                }
                for (name, count) in report.excuses {
                    *sum.excuses.entry(name).or_default() += count;
                }
            }
            Err(failure) => sum.failures.push(*failure),
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = args.threads.unwrap_or(cores).max(1);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let shows = std::io::stderr().is_terminal();
        while workers.iter().any(|worker| !worker.is_finished()) {
            std::thread::sleep(Duration::from_millis(200));
            if shows {
                let (seeds, failed) = (lock().seeds, lock().failures.len());
                let rate = rate(seeds, begun.elapsed());
                let _ = write!(std::io::stderr(), "\r{seeds} seeds, {rate:.0}/s, {failed} failed ");
            }
        }
        if shows {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    });
    let sum = sum.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    report(&sum, first, args, begun.elapsed(), cpu_time() - cpu_begun)
}

fn report(
    sum: &Sum,
    first: u64,
    args: &Args,
    took: Duration,
    cpu: Duration,
) -> Result<(), Box<dyn Error>> {
    let mut out = std::io::stdout().lock();
    let Sum { seeds, counts, excuses, coverage, reached_by, failures } = sum;
    let hours = counts.steps as f64 / 3_600_000.0;
    writeln!(
        out,
        "{seeds} seeds from {first} in {:.1} s ({:.0}/s): {hours:.2} simulated hours, {} faults, {} crashes, \
         {} elections; commands: {} acknowledged, {} refused, {} unknown",
        took.as_secs_f64(),
        rate(*seeds, took),
        counts.faults,
        counts.crashes,
        counts.elections,
        counts.acknowledged,
        counts.refused,
        counts.unknown,
    )?;
    let per_second = |count: u64| count as f64 / cpu.as_secs_f64().max(0.001);
    writeln!(
        out,
        "per second of processor time: {:.0} commands committed, {:.0} faults, {:.1} seeds",
        per_second(counts.acknowledged),
        per_second(counts.faults),
        per_second(*seeds),
    )?;
    writeln!(out, "excused:")?;
    for excuse in EXCUSES {
        let (name, what) = (excuse.name, excuse.what);
        writeln!(out, "  {:>10}  {name}: {what}", excuses[name])?;
    }
    writeln!(out, "reached, and by how many seeds:")?;
    for (place, count) in &coverage.0 {
        let file = PLACES.iter().find(|(name, _)| name == place).map_or("", |(_, file)| file);
        let by = reached_by.get(place).copied().unwrap_or(0);
        writeln!(out, "  {count:>10} {by:>8}  {place}  ({file})")?;
    }
    let holes = coverage.holes();
    for hole in &holes {
        writeln!(out, "  HOLE: never reached: {hole}")?;
    }
    for failure in failures {
        writeln!(out, "FAILED: {failure}\n  replay: {}", replay(failure.seed, args, None))?;
        explain(&mut out, failure.seed, args, Box::new(failure.clone()))?;
    }
    match failures.len() {
        0 if *seeds >= SEEDS_WITHOUT_HOLES && !holes.is_empty() => {
            Err(format!("{} places were never reached in {seeds} seeds", holes.len()).into())
        }
        0 => Ok(()),
        failed => Err(format!("{failed} of {seeds} seeds failed").into()),
    }
}

fn rate(seeds: u64, took: Duration) -> f64 {
    seeds as f64 / took.as_secs_f64().max(0.001)
}

/// Processor time that this process has used.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let (seconds, nanoseconds) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Duration::new(seconds.unwrap_or(0), nanoseconds.unwrap_or(0))
}
