//! `logdrive sim`: runs the simulator over many seeds, replays one, shrinks what fails.
//!
//! In:     seeds, or a time.
//! Out:    a progress line, totals, places reached and not reached; a history on demand.
//! Cost:   all cores; some 20 ms a seed.
//! Fails:  exit code 1 if a seed fails, with the command that replays it; or if a campaign of 1,000 seeds or more
//!         leaves a place unreached.
//! Source: RULES.md T1.
//!
//! The simulator and its counters are compiled in by the feature `sim`, which no release has: `cargo run -p
//! logdrive-tools --features sim -- sim`.

use crate::time::Time;
use std::error::Error;

#[cfg(feature = "sim")]
mod campaign;

/// Run the simulator: whole clusters in one thread, from seeds.
#[derive(Debug, clap::Args)]
#[cfg_attr(not(feature = "sim"), allow(dead_code, reason = "a build without it has only the help"))]
pub(crate) struct Args {
    /// How many seeds to run, 100 if not given. From 1000 on, a place that none of them reached fails the campaign.
    #[arg(long, conflicts_with = "for")]
    seeds: Option<u64>,
    /// Run seeds for this long instead, e.g. 30s, 10m, 2h.
    #[arg(long)]
    r#for: Option<Time>,
    /// The first seed; alone, the only one.
    #[arg(long)]
    seed: Option<u64>,
    /// Print the history of the one seed.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Only these faults of the one seed's schedule, by number.
    #[arg(long, value_delimiter = ',', requires = "seed")]
    only: Option<Vec<usize>>,
    /// Make no excuse of this name; a campaign prints all of them at its end. May be given several times.
    #[arg(long, value_name = "NAME")]
    without_excuse: Vec<String>,
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
    Err(format!("this build has no simulator: {COMMAND}").into())
}

/// The command that shows one history, with `only` the faults that are kept of it. Of what else can be said to a
/// campaign, only excuses that are not made change a history.
#[cfg_attr(not(feature = "sim"), allow(dead_code, reason = "the simulator's"))]
fn replay(seed: u64, args: &Args, only: Option<&[usize]>) -> String {
    let excuses: Vec<String> =
        args.without_excuse.iter().map(|name| format!(" --without-excuse '{name}'")).collect();
    let excuses = excuses.concat();
    let only = only.map_or(String::new(), |only| {
        let numbers: Vec<String> = only.iter().map(ToString::to_string).collect();
        format!(" --only {}", numbers.join(","))
    });
    format!("{COMMAND} --seed {seed}{only}{excuses} --trace")
}

/// Runs here in any checkout: a binary may have been built without the simulator.
const COMMAND: &str = "cargo run -p logdrive-tools --features sim -- sim";

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn a_replay_is_the_readmes_command_and_says_all_that_made_the_history() {
        assert!(
            include_str!("../../../README.md").contains(&format!("{COMMAND} --seed 7 --trace"))
        );
        let Cli { args: strict } = Cli::parse_from(["sim", "--without-excuse", "quota"]);
        for (seed, only) in [(7, None), (u64::MAX, Some(vec![3])), (0, Some(vec![0, 12]))] {
            let text = replay(seed, &strict, only.as_deref());
            let flags = text.strip_prefix(COMMAND).expect("the command").replace('\'', "");
            let flags = flags.split_whitespace();
            let Cli { args } = Cli::try_parse_from(std::iter::once("sim").chain(flags)).unwrap();
            assert_eq!((args.seed, args.only, args.trace), (Some(seed), only, true), "{text}");
            assert_eq!(args.without_excuse, ["quota"], "{text}");
        }
    }
}
