//! `logdrive serve`: one node of the database.

/// `serve` takes no settings yet.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// Runs the node until it is told to stop.
pub(crate) fn run(_args: Args) -> Result<(), Box<dyn std::error::Error>> {
    Err("this build has no server".into())
}
