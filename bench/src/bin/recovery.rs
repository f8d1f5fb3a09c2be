//! `recovery`: how long a log of a given size takes to open. See `recovery.rs` of the library.

#![forbid(unsafe_code)]

use std::error::Error;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use clap::Parser;
use logdrive_bench::recovery::{Shape, fill, measure};

/// Fills a log, opens it in a process of its own, and prints how long that took beside a plain read of its files.
#[derive(Debug, Parser)]
struct Args {
    /// Where the log goes: a new directory below this one, on a real file system. Removed in the end.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Bytes of the log.
    #[arg(long, default_value_t = 256 << 20)]
    bytes: u64,
    /// Groups in it.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..))]
    groups: u64,
    /// Bytes of an entry's payload.
    #[arg(long, default_value_t = 128)]
    payload: usize,
    /// Entries a group appends at a time.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..))]
    run: u64,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Open the log there, and nothing else.
    #[arg(long, hide = true)]
    open: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("recovery: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    if let Some(home) = &args.open {
        let report = measure(home)?;
        if args.json {
            println!("{}", serde_json::to_string_pretty(&report)?);
        } else {
            print!("{report}");
        }
        return Ok(());
    }
    let dir = tempfile::Builder::new().prefix("recovery-").tempdir_in(&args.dir)?;
    let home = dir.path().join("node");
    let Args { bytes, groups, payload, run, .. } = *args;
    fill(&home, &Shape { bytes, groups, payload, run })?;
    // In a process of its own, or its peak memory would be that of filling the log.
    let mut opener = Command::new(std::env::current_exe()?);
    opener.arg("--open").arg(&home).args(args.json.then_some("--json"));
    let status = opener.status()?;
    if status.success() { Ok(()) } else { Err(format!("the opener ended with {status}").into()) }
}
