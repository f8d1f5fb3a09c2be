//! A node that is killed or stopped under load starts again at once (RULES.md I10, W15, P10).
//!
//! With io_uring a dead process' ring lets go of the directory's lock a moment after the process is gone; a start waits
//! for that. `LOGDRIVE_RESTARTS=1000` restarts more often.

#![forbid(unsafe_code)]

mod support;

use std::{collections::BTreeMap, time::Duration};
use support::{
    client::{Client, Outcome},
    cluster::{Cluster, directory},
    load::{Load, Shape},
    now, report, turn,
};

/// RULES.md I10.
#[test]
fn a_node_starts_at_once_after_it_was_killed() {
    let _turn = turn();
    let restarts = std::env::var("LOGDRIVE_RESTARTS")
        .map_or(30, |count| count.parse().expect("LOGDRIVE_RESTARTS is a number"));
    let dir = directory();
    // One node alone, so that nothing but its own start is waited for.
    let mut cluster = Cluster::plan(dir.path(), 1, GROUPS, 64 << 10);
    cluster.nodes[0].set_flag("--election-timeout", "300ms");
    cluster.init();
    let addresses = cluster.addresses();
    let keys = cluster.key_per_group("restart-");
    let mut last: BTreeMap<&str, u32> = BTreeMap::new();
    let mut slowest = Duration::ZERO;
    for round in 1..=restarts {
        let mut client = Client::new(&addresses);
        for key in &keys {
            if let Some(written) = last.get(key.as_str()) {
                let found = client.get(key, LIVE_MAX).unwrap();
                assert_eq!(found, Some(written.to_string().into_bytes()), "{key} in round {round}");
            }
            let outcome = client.put(key, round.to_string().as_bytes(), LIVE_MAX);
            assert_eq!(outcome, Outcome::Yes, "{key} in round {round}{}", cluster.last_words());
            last.insert(key, round);
        }
        // The node is killed with writes in flight, of keys that are not read back.
        let busy = Load::start(&addresses, &busy(round));
        std::thread::sleep(Duration::from_millis(5));
        cluster.nodes[0].kill();
        let killed = now();
        cluster.nodes[0].start(&[]);
        let histories = busy.finish();
        cluster.wait_ready();
        slowest = slowest.max(killed.elapsed());
        drop(histories);
    }
    let driver = cluster.nodes[0].info()["disk_driver"].clone();
    report(format_args!(
        "  restart, {driver}: {restarts} times at once after SIGKILL, ready again after {slowest:?} at most"
    ));
    cluster.assert_no_panic();
}

/// RULES.md W15, P10.
#[test]
fn a_stop_under_load_ends_what_is_in_flight_and_succeeds() {
    let _turn = turn();
    for driver in ["auto", "portable"] {
        let dir = directory();
        let mut cluster = Cluster::plan(dir.path(), 1, GROUPS, 256 << 10);
        cluster.nodes[0].set_flag("--driver", driver);
        cluster.nodes[0].set_flag("--election-timeout", "300ms");
        cluster.init();
        let addresses = cluster.addresses();
        let mut slowest = Duration::ZERO;
        for round in 0..4 {
            let load = Load::start(&addresses, &busy(round));
            load.wait_for_more(100, LIVE_MAX);
            let asked = now();
            let status = cluster.nodes[0].stop();
            slowest = slowest.max(asked.elapsed());
            assert!(status.success(), "stopped with {status}{}", cluster.last_words());
            let mut histories = load.finish();
            cluster.restart();
            histories.check(&addresses);
        }
        report(format_args!("  stop, {driver}: under load, {slowest:?} at most"));
        cluster.assert_no_panic();
    }
}

/// A load without pauses, with keys of its own in each round.
fn busy(round: u32) -> Shape {
    Shape {
        name: format!("busy{round}").leak(),
        threads: 6,
        keys_per_thread: 8,
        value_bytes: 2_000,
        pause: Duration::ZERO,
    }
}

const GROUPS: usize = 4;
const LIVE_MAX: Duration = Duration::from_secs(30);
