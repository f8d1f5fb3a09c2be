//! `floor`: what this machine's disk and loopback give, with nothing on top. See `floor.rs` of the library.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use logdrive_bench::floor;

/// Measures the least a replicated durable write can take here: the disk, the loopback, and both together.
#[derive(Debug, Parser)]
struct Args {
    /// A directory on the disk to measure: a real file system, not tmpfs.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Seconds for each of the three parts.
    #[arg(long, default_value_t = 5.0, value_parser = parse_seconds)]
    seconds: f64,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    floor::run_if_asked();
    let args = Args::parse();
    match floor::measure(&args.dir, args.seconds) {
        Ok(floor) if args.json => match serde_json::to_string_pretty(&floor) {
            Ok(json) => println!("{json}"),
            Err(error) => unreachable!("numbers always have a JSON form: {error}"),
        },
        Ok(floor) => print!("{floor}"),
        Err(error) => {
            eprintln!("floor: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn parse_seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "a number of seconds".to_owned())?;
    if (0.01..=3_600.0).contains(&seconds) { Ok(seconds) } else { Err("0.01 to 3600".to_owned()) }
}
