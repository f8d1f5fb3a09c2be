//! `counts`: what a committed command costs in instructions, cache misses and allocations, beside the file in the tree.

#![forbid(unsafe_code)]

use std::{
    env, fs,
    path::Path,
    process::{Command, ExitCode},
};

use clap::Parser;
use logdrive_bench::counts::Table;

/// Counts with valgrind what a committed command costs, and fails if it costs more than `bench/COUNTS.txt` says: over 3 %
/// more instructions, or any more allocations. Needs valgrind and gungraun-runner; see the bench `counts`.
#[derive(Debug, Parser)]
struct Args {
    /// Also the shapes of 10,000 and 100,000 groups, which take minutes.
    #[arg(long)]
    all: bool,
    /// Write the counts into the file: this declares a growth, or makes a gain the new bound.
    #[arg(long)]
    write: bool,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("counts: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<ExitCode, String> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let file = package.join("COUNTS.txt");
    let text = fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    let mut known = Table::parse(&text)?;
    let counted = count(package, args.all)?;
    print!("{counted}");
    let grown = known.growth(&counted);
    for what in &grown {
        println!("grown: {what}");
    }
    if args.write {
        known.update(counted);
        let is_comment = |line: &&str| line.starts_with("# ") && !line.starts_with("# groups");
        let mut text: String =
            text.lines().take_while(is_comment).flat_map(|line| [line, "\n"]).collect();
        text += &known.to_string();
        fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))?;
        println!("written to {}", file.display());
    } else if !grown.is_empty() {
        println!(
            "If this is meant, declare it: cargo run -p logdrive-bench --bin counts -- --write"
        );
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs the bench and reads what valgrind wrote.
fn count(package: &Path, all: bool) -> Result<Table, String> {
    let output = tempfile::tempdir().map_err(|error| format!("no directory: {error}"))?;
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["bench", "--locked", "-p", "logdrive-bench", "--features", "counts"])
        .args(["--bench", "counts", "--", if all { "*" } else { "*::usual::*" }])
        .env("GUNGRAUN_HOME", output.path())
        // `cargo run` makes this variable longer. The bench would inherit it, and a longer environment moves its stack.
        .env_remove("LD_LIBRARY_PATH")
        .current_dir(package)
        .status()
        .map_err(|error| format!("cargo cannot be started: {error}"))?;
    if !status.success() {
        return Err(format!("the bench failed: {status}"));
    }
    let mut table = Table::default();
    let usual = [("usual", 48), ("usual", 1_000)];
    let large = [("large", 10_000), ("large", 100_000)];
    for (function, groups) in usual.iter().chain(large.iter().filter(|_| all)) {
        let name = format!("{function}.groups_{groups}");
        let dir = output.path().join("logdrive-bench/counts/shapes").join(&name);
        let read = |tool: &str| {
            let file = dir.join(format!("{tool}.{name}.out"));
            fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))
        };
        table.add(*groups, &read("callgrind")?, &read("dhat")?)?;
    }
    Ok(table)
}
