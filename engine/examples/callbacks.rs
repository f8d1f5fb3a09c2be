//! A callback per proposal, for programs without a runtime. It runs on the shard's thread, within its turn: it passes the
//! outcome on and does nothing else. A callback that blocks there holds up all groups of the shard, and a panic ends the process.
//!
//! `cargo run --release -p logdrive --example callbacks`

mod support;

use std::{error::Error, path::Path, sync::mpsc::sync_channel};

fn main() -> Result<(), Box<dyn Error>> {
    support::run_and_print(run)
}

pub(crate) fn run(dir: &Path) -> Result<u64, Box<dyn Error>> {
    let (node, group) = support::alone(dir)?;
    // Room for all outcomes, so that no callback waits.
    let (outcomes, received) = sync_channel(100);
    for _ in 0..100 {
        let outcomes = outcomes.clone();
        group.propose("command").on_done(move |outcome| drop(outcomes.send(outcome)));
    }
    drop(outcomes);
    let mut counted = 0;
    for outcome in received {
        counted = counted.max(u64::from_le_bytes(outcome?.reply[..].try_into()?));
    }
    node.close()?;
    Ok(counted)
}
