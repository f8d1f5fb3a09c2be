//! One sink for many commands, from a thread of one's own: `submit` gives each command a token, and the sink is called once
//! for a run of outcomes. Nothing is allocated per command but what the command itself needs.
//!
//! `cargo run --release -p logdrive --example completions`

mod support;

use logdrive::{Bytes, Completions, Outcome, ProposeError};
use std::{
    error::Error,
    path::Path,
    sync::{Arc, Condvar, Mutex},
};

/// The outcomes that have come, by token.
#[derive(Default)]
struct Sink {
    outcomes: Mutex<Vec<(u64, Outcome)>>,
    more: Condvar,
}

impl Completions for Sink {
    /// On the shard's thread: quick, and without a panic, which would end the process.
    fn complete(&self, outcomes: &mut Vec<(u64, Outcome)>) {
        if let Ok(mut all) = self.outcomes.lock() {
            all.append(outcomes);
        }
        self.more.notify_one();
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    support::run_and_print(run)
}

pub(crate) fn run(dir: &Path) -> Result<u64, Box<dyn Error>> {
    let (node, group) = support::alone(dir)?;
    let sink = Arc::new(Sink::default());
    let completions: Arc<dyn Completions> = sink.clone();
    for token in 0..1000 {
        // A refusal that is known at once is returned, and does not come to the sink.
        loop {
            match group.submit(&completions, token, Bytes::from_static(b"command")) {
                Ok(()) => break,
                Err(ProposeError::Overloaded { retry_after }) => std::thread::sleep(retry_after),
                Err(error) => return Err(error.into()),
            }
        }
    }
    let all = sink.outcomes.lock().map_err(|error| error.to_string())?;
    let all = sink.more.wait_while(all, |all| all.len() < 1000);
    let counted = all.map_err(|error| error.to_string())?.iter().filter(|(_, o)| o.is_ok()).count();
    node.close()?;
    Ok(u64::try_from(counted)?)
}
