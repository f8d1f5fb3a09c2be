//! Safety under `kill -9`: real nodes, killed by process id under load; what was acknowledged is read back.
//!
//! A killed process leaves its page cache to the kernel, so this says nothing about syncs: `power_loss.rs` does.

#![forbid(unsafe_code)]

mod support;

use std::time::Duration;
use support::{
    cluster::{Cluster, directory},
    load::{Load, Shape},
    now, report, turn,
};

#[test]
fn the_busiest_leader_is_killed_under_load_and_catches_up_from_sealed_segments() {
    let _turn = turn();
    let dir = directory();
    let mut cluster = Cluster::start(dir.path(), GROUPS, SEGMENT_BYTES);
    let addresses = cluster.addresses();
    let probes = cluster.key_per_group("probe-");
    assert_eq!(probes.len(), GROUPS);
    let shape = Shape {
        name: "busy",
        threads: 8,
        keys_per_thread: 24,
        value_bytes: 16 << 10,
        pause: Duration::from_millis(1),
    };
    let load = Load::start(&addresses, &shape);
    load.wait_for_more(300, LIVE_MAX);

    let (busiest, led) = cluster.leads_most();
    let killed = now();
    cluster.nodes[busiest].kill();
    cluster.write_to_all(&probes, "killed", TAKE_OVER_MAX);
    report(format_args!(
        "  take-over: every group took a write {:?} after node {} was killed, which led {led} of {GROUPS}",
        killed.elapsed(),
        busiest + 1
    ));

    // The killed node misses more than the others keep in memory for it, so that its entries are in sealed segments alone.
    let other = &cluster.nodes[(busiest + 1) % 3];
    let sealed = other.segments().len();
    let missed = load.acknowledged_bytes() + MISSED_BYTES;
    let start = now();
    while load.acknowledged_bytes() < missed {
        let behind = missed - load.acknowledged_bytes();
        assert!(
            start.elapsed() < FILL_MAX,
            "{behind} bytes are still to write{}",
            cluster.last_words()
        );
        load.wait_for_more(1, LIVE_MAX);
    }
    let grown = other.segments().len() - sealed;
    assert!(grown >= 6, "only {grown} segments were begun meanwhile");

    let back = now();
    cluster.restart();
    // The load goes on while it catches up. Another is killed now, so the groups go on only once it has caught up:
    // two of three make a quorum, and it is one of the two.
    load.wait_for_more(200, LIVE_MAX);
    let second = (busiest + 1) % 3;
    cluster.nodes[second].kill();
    cluster.write_to_all(&probes, "needed", TAKE_OVER_MAX);
    report(format_args!(
        "  catch-up: node {} missed {} MiB in {grown} segments; {:?} after its start every group took a write \
         that needs it",
        busiest + 1,
        MISSED_BYTES >> 20,
        back.elapsed()
    ));
    load.wait_for_more(100, LIVE_MAX);
    let mut histories = load.finish();
    histories.check(&addresses);

    cluster.restart();
    histories.check(&addresses);
    cluster.assert_no_panic();
}

#[test]
fn all_nodes_are_killed_at_once_twice_and_nothing_acknowledged_is_lost() {
    let _turn = turn();
    let dir = directory();
    let mut cluster = Cluster::start(dir.path(), 64, 256 << 10);
    let addresses = cluster.addresses();
    let mut before: Vec<support::load::Histories> = Vec::new();
    for name in ["first", "second"] {
        let shape = Shape {
            name,
            threads: 8,
            keys_per_thread: 40,
            value_bytes: 512,
            pause: Duration::ZERO,
        };
        let load = Load::start(&addresses, &shape);
        load.wait_for_more(2_000, LIVE_MAX);
        cluster.kill_all();
        let histories = load.finish();
        let back = now();
        cluster.restart();
        report(format_args!("  restart: {:?} until all groups had leaders again", back.elapsed()));
        before.push(histories);
        for histories in &mut before {
            histories.check(&addresses);
        }
    }
    cluster.assert_no_panic();
    for node in &mut cluster.nodes {
        let status = node.stop();
        assert!(status.success(), "node {} stopped with {status}: {}", node.id, node.said());
    }
    cluster.restart();
    for histories in &mut before {
        histories.check(&addresses);
    }
}

/// Few groups, so that a node misses more of each than the others keep in memory.
const GROUPS: usize = 6;
const SEGMENT_BYTES: usize = 4 << 20;
/// The engine keeps 4 MiB per group.
const MISSED_BYTES: u64 = 48 << 20;
/// An election takes one to two seconds, and a machine under load longer.
const TAKE_OVER_MAX: Duration = Duration::from_secs(30);
const LIVE_MAX: Duration = Duration::from_secs(30);
/// Each single write also has a bound of its own.
const FILL_MAX: Duration = Duration::from_secs(180);
