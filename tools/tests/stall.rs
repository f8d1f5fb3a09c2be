//! A disk that is slow or does not answer, on a real kernel: a slow follower holds up nobody; a node whose disk is stuck
//! gives way, and in the end gives up (RULES.md D1, D3, rule 18).
//!
//! One of three nodes keeps its log on a loop device whose writes are held back in the block layer. Needs root, a loop
//! device and a blkio control group; says SKIPPED without. `LOGDRIVE_LONG=1` stalls the portable driver too.

#![deny(unsafe_code)]

#[allow(unsafe_code, reason = "one ioctl that no safe crate offers")]
#[path = "support/ioctl.rs"]
mod ioctl;
#[path = "support/mount.rs"]
mod mount;
mod support;
#[path = "support/throttle.rs"]
mod throttle;

use mount::Disk;
use std::time::Duration;
use support::{
    cluster::{Cluster, directory},
    eventually,
    load::{Load, Shape},
    now, report, skipped, turn,
};
use throttle::Throttle;

/// RULES.md D3.
#[test]
fn a_stalled_disk_loses_its_leaderships_then_its_process() {
    let _turn = turn();
    // Both take half a minute.
    let drivers: &[&str] = match std::env::var_os("LOGDRIVE_LONG") {
        Some(_) => &["auto", "portable"],
        None => &["auto"],
    };
    for driver in drivers {
        let dir = directory();
        let disk = Disk::new(dir.path(), DISK_BYTES);
        let made = disk.and_then(|disk| Ok((Throttle::new(disk.device())?, disk)));
        let (throttle, disk) = match made {
            Ok(made) => made,
            Err(why) => {
                skipped("a_stalled_disk_loses_its_leaderships_then_its_process", why);
                return;
            }
        };
        stall(driver, dir.path(), &disk, &throttle);
        drop(throttle);
    }
}

/// RULES.md D1.
#[test]
fn a_followers_slow_disk_holds_up_nobody() {
    let _turn = turn();
    let dir = directory();
    let disk = Disk::new(dir.path(), DISK_BYTES);
    let made = disk.and_then(|disk| Ok((Throttle::new(disk.device())?, disk)));
    let (throttle, disk) = match made {
        Ok(made) => made,
        Err(why) => {
            skipped("a_followers_slow_disk_holds_up_nobody", why);
            return;
        }
    };
    let mut cluster = start("auto", dir.path(), &disk);
    let addresses = cluster.addresses();
    let probes = cluster.key_per_group("probe-");
    // The first node is to follow in all groups: a node that comes back while the others lead everything leads nothing.
    let status = cluster.nodes[0].stop();
    assert!(status.success(), "stopped with {status}{}", cluster.last_words());
    let others_lead = || cluster.nodes[1..].iter().map(|node| node.groups_led()).sum::<u64>();
    assert!(eventually(LIVE_MAX, || others_lead() == GROUPS as u64), "{}", cluster.last_words());
    cluster.restart();
    let shape = Shape {
        name: "slow",
        threads: 4,
        keys_per_thread: 200,
        value_bytes: 2_000,
        pause: Duration::from_millis(2),
    };
    let load = Load::start(&addresses, &shape);
    load.wait_for_more(200, LIVE_MAX);
    assert_eq!(cluster.nodes[0].groups_led(), 0, "it leads again{}", cluster.last_words());
    throttle.take(cluster.nodes[0].pid());
    let writes_in = |time: Duration| {
        let before = load.acknowledged();
        std::thread::sleep(time);
        load.acknowledged() - before
    };
    let swift = writes_in(LOOK);
    let resident = |cluster: &Cluster| -> Vec<u64> {
        cluster.nodes[1..].iter().map(|node| node.resident_bytes()).collect()
    };
    let resident_before = resident(&cluster);
    let made_before: Vec<u32> = cluster.nodes.iter().map(|node| node.segment_made()).collect();
    throttle.slow();
    let slow = writes_in(2 * LOOK) / 2;
    let resident_after = resident(&cluster);
    report(format_args!(
        "  {swift} writes in {LOOK:?} with a swift follower, {slow} with a slow one; leaders held {resident_before:?} \
         bytes and then {resident_after:?}"
    ));
    // A machine that is shared is half as fast at times. Leaders that waited for this disk would take two writes in a
    // hundred.
    assert!(slow > swift / 5, "{slow} writes in {LOOK:?} with a slow follower, {swift} without");
    for (before, after) in resident_before.iter().zip(&resident_after) {
        assert!(*after < before + HELD_BYTES_MAX, "{before} bytes resident, and then {after}");
    }
    let made = |at: usize| cluster.nodes[at].segment_made() - made_before[at];
    assert!(eventually(LIVE_MAX, || made(1) > made(0) + 1), "its disk is not slow");
    throttle.release();
    // The first node is a full member again: with the second one killed, a quorum needs it.
    load.wait_for_more(100, LIVE_MAX);
    cluster.nodes[1].kill();
    cluster.write_to_all(&probes, "after", TAKE_OVER_MAX);
    cluster.restart();
    load.wait_for_more(100, LIVE_MAX);
    load.finish().check(&addresses);
    cluster.assert_no_panic();
}

/// Three nodes, the first of them on `disk`.
fn start(driver: &str, dir: &std::path::Path, disk: &Disk) -> Cluster {
    let mut cluster = Cluster::plan(dir, 3, GROUPS, SEGMENT_BYTES);
    cluster.nodes[0].dir = disk.path().join("n1");
    cluster.nodes[0].set_flag("--dir", &disk.path().join("n1").display().to_string());
    for node in &mut cluster.nodes {
        node.set_flag("--driver", driver);
        node.set_flag("--election-timeout", "500ms");
        // A node is to give up only where a test sets a shorter limit: writes that are held back must be over before,
        // however long they take on this machine.
        node.set_flag("--stall-fatal", "120s");
    }
    cluster.init();
    cluster
}

fn stall(driver: &str, dir: &std::path::Path, disk: &Disk, throttle: &Throttle) {
    let mut cluster = start(driver, dir, disk);
    let addresses = cluster.addresses();
    let probes = cluster.key_per_group("probe-");
    let shape = Shape {
        name: "stall",
        threads: 4,
        keys_per_thread: 200,
        value_bytes: 400,
        pause: Duration::from_millis(2),
    };
    let load = Load::start(&addresses, &shape);
    load.wait_for_more(200, LIVE_MAX);
    let led = cluster.make_lead(0);
    throttle.take(cluster.nodes[0].pid());

    throttle.stall();
    let stalled = now();
    // The others take over while the stalled node lives: its process has not given up yet, and answers.
    let gave_way = eventually(TAKE_OVER_MAX, || cluster.nodes[0].groups_led() == 0);
    assert!(gave_way, "a node with a stalled disk still leads{}", cluster.last_words());
    let gave_way = stalled.elapsed();
    cluster.write_to_all(&probes, "during", TAKE_OVER_MAX);
    let served = stalled.elapsed();
    assert!(cluster.nodes[0].exited().is_none(), "it ended early{}", cluster.last_words());
    for line in ["the log's disk has not answered for", "this node leads no group"] {
        let said = eventually(LIVE_MAX, || cluster.nodes[0].said().contains(line));
        assert!(said, "no '{line}'{}", cluster.last_words());
    }
    throttle.release();
    report(format_args!(
        "  stall, {driver} ({}): {led} of {GROUPS} groups given up {gave_way:?} after it began, every group took a \
         write after {served:?}",
        cluster.nodes[0].info()["disk_driver"]
    ));
    assert!(eventually(LIVE_MAX, || cluster.nodes[0].said().contains("goes on after a stall")));

    // The first node is a full member again: with the second one killed, a quorum needs it.
    load.wait_for_more(100, LIVE_MAX);
    cluster.nodes[1].kill();
    cluster.write_to_all(&probes, "after", TAKE_OVER_MAX);
    cluster.restart();
    load.wait_for_more(100, LIVE_MAX);

    let status = cluster.nodes[0].stop();
    assert!(status.success(), "stopped with {status}{}", cluster.last_words());
    cluster.nodes[0].set_flag("--stall-fatal", "5s");
    cluster.restart();
    load.wait_for_more(100, LIVE_MAX);
    throttle.take(cluster.nodes[0].pid());
    throttle.stall();
    let stalled = now();
    // The node's last line is one of these two: the thread that writes the first may come too late for the process' end.
    let last = ["the process ends", "the node stopped: shard 0: the log's disk has not answered"];
    let fatal = || last.iter().any(|line| cluster.nodes[0].said().contains(line));
    assert!(eventually(FATAL_MAX, fatal), "a stuck node goes on{}", cluster.last_words());
    let fatal = stalled.elapsed();
    // The process' threads may hang in the kernel until the disk answers; once it is silent it must stay silent meanwhile.
    let is_silent = eventually(SILENT_WITHIN, || !cluster.nodes[0].answers());
    let silent = now();
    let stays_silent = !eventually(SILENCE, || cluster.nodes[0].answers());
    let silence = silent.elapsed();
    throttle.release();
    assert!(is_silent && stays_silent, "it serves after its end{}", cluster.last_words());
    let status = cluster.nodes[0].wait_exit(EXIT_MAX);
    assert_eq!(status.code(), Some(1), "{}", cluster.last_words());
    report(format_args!(
        "  stall, {driver}: the process gave up {fatal:?} after the stall began, and was silent for {silence:?}"
    ));
    load.wait_for_more(100, LIVE_MAX);
    let mut histories = load.finish();
    cluster.restart();
    histories.check(&addresses);
    cluster.assert_no_panic();
}

const GROUPS: usize = 12;
const DISK_BYTES: u64 = 256 << 20;
const SEGMENT_BYTES: usize = 4 << 20;
const LOOK: Duration = Duration::from_secs(2);
/// Bytes in flight to the slow follower: at most 4 MiB for each of a few groups, and what the connection holds.
const HELD_BYTES_MAX: u64 = 64 << 20;
const LIVE_MAX: Duration = Duration::from_secs(30);
/// Two election timeouts of 500 ms until it gives way, one to four more for an election; the rest is for a busy machine.
const TAKE_OVER_MAX: Duration = Duration::from_secs(12);
const FATAL_MAX: Duration = Duration::from_secs(30);
/// A second for what is under way, which is the node's own grace; the rest is for a busy machine.
const SILENT_WITHIN: Duration = Duration::from_secs(10);
const SILENCE: Duration = Duration::from_secs(3);
const EXIT_MAX: Duration = Duration::from_secs(30);
