//! The fast way in, beside the naive one: `spawn_on` puts the program's own work on the shard's thread, where `submit`
//! crosses no thread and takes no lock, and a sink there answers each outcome with the next command. One command at a time,
//! waited for, is bound by the disk's latency; with some thousand under way the same disk writes hundreds of them at once.
//!
//! `cargo run --release -p logdrive --example on_shard`

mod support;

use logdrive::{Bytes, Completions, Group, Outcome};
use std::{
    error::Error,
    path::Path,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

const UNDER_WAY: u64 = 1000;

/// Submits a command for each that is answered. A server would have its connections here.
struct Load {
    me: Weak<Self>,
    group: Group,
    answered: AtomicU64,
}

impl Load {
    fn submit(&self, token: u64) {
        let Some(me) = self.me.upgrade() else { return };
        let sink: Arc<dyn Completions> = me;
        // Refused once the node is closed: then this command is the last of its kind.
        let _ = self.group.submit(&sink, token, Bytes::from_static(b"command"));
    }
}

impl Completions for Load {
    fn complete(&self, outcomes: &mut Vec<(u64, Outcome)>) {
        for (token, outcome) in outcomes.drain(..) {
            if outcome.is_ok() {
                self.answered.fetch_add(1, Ordering::Relaxed);
                self.submit(token);
            }
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let home = tempfile::tempdir()?;
    let [naive, fast] = run(&home.path().join("node"), Duration::from_secs(2))?;
    println!("one at a time, waited for: {naive}/s; {UNDER_WAY} under way on the shard: {fast}/s");
    Ok(())
}

/// Commands a second, one way and the other, each for `time`.
pub(crate) fn run(dir: &Path, time: Duration) -> Result<[u64; 2], Box<dyn Error>> {
    let (node, group) = support::alone(dir)?;
    let load = Arc::new_cyclic(|me| Load {
        me: me.clone(),
        group: group.clone(),
        answered: AtomicU64::new(0),
    });
    let starting = load.clone();
    node.spawn_on(group.shard(), async move || (0..UNDER_WAY).for_each(|at| starting.submit(at)))?;
    std::thread::sleep(time);
    let fast = load.answered.load(Ordering::Relaxed);
    node.close()?;

    let (node, group) = support::alone(dir)?;
    let (ended, mut naive) = (node.spawn_on(group.shard(), move || tokio::time::sleep(time))?, 0);
    let mut ended = Some(ended);
    while let Some(still) = ended {
        group.propose("command").wait()?;
        naive += 1;
        ended = still.wait_timeout(Duration::ZERO).err();
    }
    node.close()?;
    let milliseconds = u64::try_from(time.as_millis())?.max(1);
    Ok([naive, fast].map(|count: u64| count * 1000 / milliseconds))
}
