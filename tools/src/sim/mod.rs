//! `logdrive sim`: runs the simulator over many seeds, replays one, shrinks what fails.
//!
//! In:     seeds, or a time.
//! Out:    a progress line, totals, places reached and not reached; a history on demand.
//! Cost:   all cores; some 20 ms a seed.
//! Fails:  exit code 1 if a seed fails, with the command that replays it.
//! Source: FAULTS.md §3 (L1).
//!
//! The simulator and its counters are compiled in by the feature `sim`, which no release has: `cargo run -p
//! logdrive-tools --features sim -- sim`.

use std::error::Error;
use std::time::Duration;

#[cfg(feature = "sim")]
mod campaign;

/// Run the simulator: whole clusters in one thread, from seeds.
#[derive(Debug, clap::Args)]
#[cfg_attr(not(feature = "sim"), allow(dead_code, reason = "a build without it has only the help"))]
pub(crate) struct Args {
    /// How many seeds to run.
    #[arg(long, default_value_t = 100, conflicts_with = "for")]
    seeds: u64,
    /// Run seeds for this long instead, e.g. 30s, 10m, 2h.
    #[arg(long, value_parser = parse_time)]
    r#for: Option<Duration>,
    /// The first seed; alone, the only one.
    #[arg(long)]
    seed: Option<u64>,
    /// Print the history of the one seed.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Only these faults of the one seed's schedule, by number.
    #[arg(long, value_delimiter = ',', requires = "seed")]
    only: Option<Vec<usize>>,
    /// Threads; all cores if not given.
    #[arg(long)]
    threads: Option<usize>,
}

#[cfg(feature = "sim")]
pub(crate) fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    campaign::run(args)
}

#[cfg(not(feature = "sim"))]
pub(crate) fn run(_: &Args) -> Result<(), Box<dyn Error>> {
    Err("this build has no simulator: cargo run -p logdrive-tools --features sim -- sim".into())
}

fn parse_time(text: &str) -> Result<Duration, String> {
    let at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let number: u64 = number.parse().map_err(|_| format!("{text:?} begins with no number"))?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(format!("{text:?} ends neither in s, m nor h")),
    };
    Ok(Duration::from_secs(number.saturating_mul(seconds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit() {
        assert_eq!(parse_time("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(parse_time("7s"), Ok(Duration::from_secs(7)));
        assert!(parse_time("7").is_err() && parse_time("m").is_err() && parse_time("1d").is_err());
    }
}
