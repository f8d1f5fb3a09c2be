//! Writes that go through the page cache, whose pages may show bytes that are on no disk.

mod common;

use common::*;
use logdrive_raft::LogIndex;
use logdrive_wal::disk::sim::WriteFate;
use logdrive_wal::{Recovered, Wal};
use std::io::ErrorKind;

fn put(wal: &mut Wal, index: u64, bytes: usize) {
    wal.append(&write(1, index, &entries(1, 1, index, 1, bytes))).unwrap();
    wal.submit(0).unwrap();
}

fn last(recovered: &Recovered) -> LogIndex {
    recovered.groups.first().map_or(LogIndex::ZERO, |group| group.last)
}

/// A log of ten entries on a disk with a page cache. If they are large, an open does not write them again just because
/// they are few bytes.
fn ten_entries(seed: u64, bytes: usize) -> (Sim, Wal) {
    let sim = Sim::new(seed);
    sim.platter.set_page_cache(true);
    let (mut wal, _) = sim.open();
    for index in 1..=10 {
        put(&mut wal, index, bytes);
        sim.settle(&mut wal);
    }
    (sim, wal)
}

/// RULES.md W7. The history:
/// 1. A buffered write fails; the log is poisoned, as it should be.
/// 2. The process starts again, and the disk is well.
/// 3. The log reads the failed write out of the page cache, where it is clean, and writes it again before it counts it.
/// 4. The power fails, and every dirty page reaches the disk.
#[test]
fn what_an_open_found_in_the_page_cache_is_on_disk() {
    for (bytes, fate) in [
        (100, WriteFate::Error(ErrorKind::Other)),
        (3000, WriteFate::Error(ErrorKind::Other)),
        (3000, WriteFate::ErrorThenLies(ErrorKind::Other)),
    ] {
        let (sim, mut wal) = ten_entries(1, bytes);
        sim.platter.set_fate(0, fate);
        put(&mut wal, 11, bytes);
        sim.platter.complete_all();
        assert!(wal.poll(0, &mut Vec::new()).is_err());
        sim.platter.kill();
        drop(wal);
        let (wal, recovered) = sim.open();
        assert_eq!(last(&recovered), LogIndex(11));
        assert_eq!(read_all(&wal, &recovered.groups[0]), entries(1, 1, 1, 11, bytes));
        sim.platter.crash_choosing(|_| true);
        drop(wal);
        let (wal, again) = sim.open();
        assert_eq!(again.groups, recovered.groups);
        assert_eq!(read_all(&wal, &again.groups[0]), entries(1, 1, 1, 11, bytes));
        assert_eq!(inspected(&sim), []);
    }
}

/// RULES.md W7.
/// A write fails with which an open writes the last batches again. Whatever the next open makes of it, nothing is lost
/// that was acknowledged, or that an open reported.
#[test]
fn what_is_written_again_may_fail_as_well() {
    for (n, keeps) in (0..3).flat_map(|n| [(n, true), (n, false)]) {
        let (sim, mut wal) = ten_entries(2, 3000);
        sim.platter.fail_write(0);
        put(&mut wal, 11, 3000);
        sim.platter.complete_all();
        assert!(wal.poll(0, &mut Vec::new()).is_err());
        sim.platter.kill();
        drop(wal);
        sim.platter.fail_write(n);
        let said = sim.try_open().map(|(_, recovered)| last(&recovered));
        assert_eq!(said.is_ok(), n == 2, "an open has two writes");
        sim.platter.kill();
        let (_wal, recovered) = sim.open();
        assert_eq!(last(&recovered), LogIndex(11));
        sim.platter.crash_choosing(|_| keeps);
        assert_eq!(last(&sim.open().1), LogIndex(11));
    }
}

/// RULES.md W7.
/// A batch that a later one vouches for is on disk, so an open leaves it where it is.
#[test]
fn what_is_vouched_for_is_not_written_again() {
    let (sim, mut wal) = ten_entries(3, 3000);
    wal.seal(0).unwrap();
    sim.settle(&mut wal);
    let before = sim.platter.segments()[0];
    let there = |segment, index| {
        let bytes = sim.platter.segment(segment);
        let needle = payload(1, 1, index, 3000);
        bytes.windows(needle.len()).any(|window| window == needle)
    };
    sim.platter.kill();
    drop(wal);
    let (wal, recovered) = sim.open();
    assert_eq!((last(&recovered), recovered.cut), (LogIndex(10), None));
    let segments = sim.platter.segments();
    assert!(there(before, 10) && segments.iter().all(|s| *s == before || !there(*s, 10)));
    drop(wal);
}

/// RULES.md W7.
/// With two buffered writes in flight, the kernel could report the error of the first to the second, after the log had
/// acknowledged the first.
#[test]
fn buffered_writes_are_in_flight_one_at_a_time() {
    for seed in 0..20 {
        let mut sim = Sim::new(seed);
        sim.config.in_flight_max = 4;
        sim.platter.set_page_cache(true);
        let (mut wal, _) = sim.open();
        assert_eq!(wal.describe().in_flight_max, 1);
        sim.platter.fail_write(0);
        put(&mut wal, 1, 100);
        put(&mut wal, 2, 100);
        assert_eq!(sim.platter.writes_in_flight(), 1);
        let mut completed = Vec::new();
        sim.platter.complete_all();
        assert!(wal.poll(0, &mut completed).is_err() && completed.is_empty());
    }
}
