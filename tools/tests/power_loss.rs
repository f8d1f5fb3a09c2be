//! A power cut, on a real kernel: acknowledged writes are there after it, because they were synced.
//!
//! Three nodes run on an ext4 file system of their own, whose shutdown drops all that has not reached the disk, page
//! cache and journal included (RULES.md T6). Needs root and a loop device; says SKIPPED without.

#![deny(unsafe_code)]

#[allow(unsafe_code, reason = "one ioctl that no safe crate offers")]
#[path = "support/ioctl.rs"]
mod ioctl;
#[path = "support/log.rs"]
mod log;
#[path = "support/mount.rs"]
mod mount;
mod support;

use log::BareLog;
use logdrive::DriverChoice;
use logdrive_wal::WalError;
use mount::{Disk, Writes};
use std::time::Duration;
use support::{
    cluster::{Cluster, Node, directory},
    eventually,
    load::{Histories, Load, Shape},
    now, report, skipped, turn,
};

#[test]
fn acknowledged_writes_survive_power_cuts_of_all_nodes() {
    let _turn = turn();
    let dir = directory();
    let mut disk = match Disk::new(dir.path(), DISK_BYTES) {
        Ok(disk) => disk,
        Err(why) => {
            skipped("acknowledged_writes_survive_power_cuts_of_all_nodes", why);
            return;
        }
    };
    // Declared after the disk, so that it is dropped first: no process may hold the mount.
    let mut cluster = Cluster::start_logging_to(dir.path(), disk.path(), 48, SEGMENT_BYTES);
    let addresses = cluster.addresses();
    let mut before: Vec<Histories> = Vec::new();
    for (name, next) in [
        ("direct", Some((Writes::Cached, "auto"))),
        ("cached", Some((Writes::Cached, "portable"))),
        ("portable", None),
    ] {
        let shape = Shape {
            name,
            threads: 8,
            keys_per_thread: 32,
            value_bytes: 400,
            pause: Duration::ZERO,
        };
        let load = Load::start(&addresses, &shape);
        load.wait_for_more(1_000, LIVE_MAX);
        let driver = cluster.nodes[0].info().remove("disk_driver").expect("a driver");
        disk.cut_power();
        let cut = now();
        end_all(&mut cluster);
        report(format_args!(
            "  power cut, {name} ({driver}): the last node ended {:?} after it",
            cut.elapsed()
        ));
        before.push(load.finish());
        let (writes, driver) = next.unwrap_or((Writes::Direct, "auto"));
        disk.power_on(writes);
        for node in &mut cluster.nodes {
            node.set_flag("--driver", driver);
            if driver == "portable" {
                // Their standard error is on this disk too, and breaks at the last cut; they must end all the same.
                node.log_to(disk.path());
            }
        }
        cluster.restart();
        for histories in &mut before {
            histories.check(&addresses);
        }
    }
}

/// RULES.md W1, W6.
#[test]
fn a_log_alone_survives_power_cuts_and_is_poisoned_by_them() {
    let _turn = turn();
    for writes in [Writes::Direct, Writes::Cached] {
        for driver in [DriverChoice::Uring, DriverChoice::Portable] {
            let dir = directory();
            let mut disk = match Disk::with(dir.path(), LOG_DISK_BYTES, writes) {
                Ok(disk) => disk,
                Err(why) => {
                    skipped("a_log_alone_survives_power_cuts_and_is_poisoned_by_them", why);
                    return;
                }
            };
            let mut log = BareLog::create(&disk.path().join("log"), driver);
            for _ in 0..2 {
                log.run(40).unwrap();
                disk.cut_power();
                let error = log.run(100).expect_err("a disk without power takes no write");
                assert!(matches!(error, WalError::Io { .. }), "{error}");
                log.assert_poisoned();
                let left = log.leave();
                disk.power_on(writes);
                log = left.reopen();
            }
            log.run(1).unwrap();
            log.leave();
        }
    }
}

/// Rule 17: the first failed write poisons the log, and a node without a log ends. Only the last one may live on: alone
/// it has nothing to write.
fn end_all(cluster: &mut Cluster) {
    let ended = |node: &mut Node| node.exited().is_some();
    let two_ended = eventually(EXIT_MAX, || {
        cluster.nodes.iter_mut().filter_map(|node| node.exited()).count() >= 2
    });
    assert!(two_ended, "nodes without a disk go on{}", cluster.last_words());
    for node in &mut cluster.nodes {
        if eventually(LAST_EXIT_MAX, || ended(node)) {
            let status = node.wait_exit(EXIT_MAX);
            assert!(!status.success(), "node {} lost its disk and ended with {status}", node.id);
        } else {
            node.kill();
        }
    }
}

const LOG_DISK_BYTES: u64 = 128 << 20;
const DISK_BYTES: u64 = 768 << 20;
const LIVE_MAX: Duration = Duration::from_secs(30);
const EXIT_MAX: Duration = Duration::from_secs(30);
const LAST_EXIT_MAX: Duration = Duration::from_secs(2);
/// Large, so that segments are seldom made: making one syncs, and all that was written before that would survive without a
/// sync of its own.
const SEGMENT_BYTES: usize = 8 << 20;
