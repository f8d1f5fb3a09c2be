//! The `logdrive` command: a key-value database on the engine, and the tools around it.
//!
//! In:     a command line.
//! Out:    what the subcommand says, on standard output.
//! Cost:   that of the subcommand.
//! Fails:  with one line on standard error and exit code 1; a bad command line is clap's, with exit code 2; `ctl` and
//!         `wal` have codes of their own.
//!
//! # Begin with
//!
//! Each subcommand is a module with `Args` and `run`:
//!
//! * [`serve`]: one node of the sharded database, which Redis Cluster clients can use.
//! * [`load`]: measures a cluster, one that it starts itself or one that runs.
//! * [`ctl`]: asks a node that runs how it is.
//! * [`mod@wal`]: reads a node's log on disk, and says what is in it or wrong with it.
//! * [`sim`]: runs the simulator over many seeds (with the feature `sim`).
//!
//! ```sh
//! cargo run --release -- load     # three nodes with 1,000 groups, loaded
//! ```
//!
//! Where to go on: README.md has a cluster of one's own; [`serve`] the path of a request; `tools/CONTRIBUTING.md` how to add
//! a command of the database.

#![forbid(unsafe_code)]
// Their macros panic where the stream is broken: whoever watches may leave.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod ctl;
mod load;
#[allow(
    dead_code,
    reason = "the request half is the server's, the reply half the load generator's"
)]
mod resp;

mod serve;
mod signals;
mod sim;
mod time;
mod wal;

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A sharded key-value database on one Raft log engine, and the tools that measure it.
#[derive(Debug, Parser)]
#[command(name = "logdrive", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one node of the database.
    Serve(serve::Args),
    Load(Box<load::Args>),
    Ctl(ctl::Args),
    Sim(sim::Args),
    Wal(wal::Args),
}

fn main() -> ExitCode {
    let result: Result<(), Box<dyn Error>> = match Cli::parse().command {
        Command::Serve(args) => serve::run(args).map_err(Into::into),
        Command::Ctl(args) => return ctl::run(&args),
        Command::Wal(args) => return wal::run(&args),
        Command::Load(args) => load::run(*args).map_err(Into::into),
        Command::Sim(args) => sim::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say_at_last(format!("logdrive: {}", one_line(error.as_ref())));
            ExitCode::FAILURE
        }
    }
}

/// The last line on standard error, which the end waits for a second at most: nobody may be reading.
fn say_at_last(line: String) {
    let (written, is_written) = std::sync::mpsc::sync_channel(1);
    let writing = std::thread::Builder::new().name("last line".to_owned()).spawn(move || {
        // `eprintln!` panics where standard error is broken.
        let _ = writeln!(std::io::stderr(), "{line}");
        let _ = written.send(());
    });
    if writing.is_ok() {
        let _ = is_written.recv_timeout(Duration::from_secs(1));
    }
}

/// The error and what caused it, outermost first. A cause its parent already printed is not printed twice.
fn one_line(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let text = inner.to_string();
        if !line.contains(&text) {
            line = format!("{line}: {text}");
        }
        cause = inner.source();
    }
    line
}
