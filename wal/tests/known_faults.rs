//! Faults that are known and not mended yet: each test claims what is wrong, so that mending it turns the test red. Then
//! the claim is turned round, and the test moves to where its kind stands.

mod common;

use common::busy::*;
use common::*;
use logdrive_raft::LogIndex;
use logdrive_wal::{Append, WalError};

/// 1. A buffered write fails; the log is poisoned, as it should be.
/// 2. The process starts again, and the disk is well.
/// 3. The log reads the failed write out of the page cache, where it is clean, and the new segment's start record vouches for
///    it.
/// 4. The power fails, and whatever is dirty is written.
#[test]
fn w7_known_fault_an_open_counts_what_a_failed_buffered_write_left_in_the_page_cache() {
    let sim = Sim::new(1);
    sim.platter.set_page_cache(true);
    let (mut wal, _) = sim.open();
    wal.append(&write(1, 1, &entries(1, 1, 1, 1, 100))).unwrap();
    sim.settle(&mut wal);
    sim.platter.fail_write(0);
    wal.append(&write(1, 2, &entries(1, 1, 2, 1, 100))).unwrap();
    wal.submit(0).unwrap();
    sim.platter.complete_all();
    assert!(wal.poll(0, &mut Vec::new()).is_err());
    sim.platter.kill();
    drop(wal);
    let (wal, recovered) = sim.open();
    assert_eq!(recovered.groups[0].last, LogIndex(2));
    drop(wal);
    sim.platter.crash_choosing(|_| true);
    let refused = sim.try_open().map(|_| ());
    assert!(matches!(refused, Err(WalError::Corrupt(_))), "mended? {refused:?}");
}

/// Of two buffered writes in flight the first fails. The error is told once, to one that shares the open file: it may be
/// the second, and the first is acknowledged before.
#[test]
fn w7_known_fault_a_buffered_write_is_acknowledged_though_its_error_was_told_to_another() {
    let lost = |seed| {
        let mut sim = Sim::new(seed);
        sim.config.in_flight_max = 2;
        sim.platter.set_page_cache(true);
        let (mut wal, _) = sim.open();
        sim.platter.fail_write(0);
        for index in 1..=2 {
            wal.append(&write(1, index, &entries(1, 1, index, 1, 100))).unwrap();
            wal.submit(0).unwrap();
        }
        let mut completed = Vec::new();
        sim.platter.complete_nth(0);
        let is_said = wal.poll(0, &mut completed).is_ok() && !completed.is_empty();
        sim.platter.complete_all();
        assert!(!is_said || wal.poll(0, &mut completed).is_err(), "nobody is told");
        sim.platter.crash_choosing(|_| true);
        drop(wal);
        let there = sim.try_open().is_ok_and(|(_, recovered)| !recovered.groups.is_empty());
        is_said && !there
    };
    assert!((0..20).any(lost), "mended?");
}

/// Segments are given up by a new manifest, for which there is no room.
#[test]
fn w4_known_fault_a_disk_full_to_its_last_block_gives_nothing_back() {
    let sim = Sim::new(2);
    let (mut wal, _) = sim.open();
    let mut busy = Busy::new(1);
    while wal.metrics().rotations < 20 {
        busy.write(&mut wal, 5, 2000).unwrap();
        sim.settle(&mut wal);
    }
    sim.platter.complete_all();
    sim.platter.set_files_left(Some(0));
    busy.release_all(&mut wal).unwrap();
    idle_turns(&sim, &mut wal, 100);
    assert_eq!(wal.metrics().retired, 0, "mended?");
    // A block of room is enough.
    sim.platter.set_files_left(Some(1));
    idle_turns(&sim, &mut wal, 100);
    assert!(wal.metrics().retired > 10, "{:?}", wal.usage());
}

/// What fitted the segments it was written into may fit none of a later open's, and is to be carried there.
fn carry_into_smaller_segments(append: &Append<'_>) {
    let mut sim = Sim::new(5);
    sim.config.segment_bytes = 16 << 20;
    let (mut wal, _) = sim.open();
    wal.append(append).unwrap();
    sim.settle(&mut wal);
    drop(wal);
    sim.platter.kill();
    sim.config.segment_bytes = 64 << 10;
    let (mut wal, _) = sim.open();
    idle_turns(&sim, &mut wal, 10);
}

#[test]
#[should_panic(expected = "fits no segment")]
fn w1_known_fault_a_large_entry_aborts_every_open_with_smaller_segments() {
    carry_into_smaller_segments(&write(1, 1, &entries(1, 1, 1, 1, 900 << 10)));
}

#[test]
#[should_panic(expected = "fits no segment")]
fn w1_known_fault_a_large_membership_aborts_every_open_with_smaller_segments() {
    let membership = vec![7; 900 << 10];
    carry_into_smaller_segments(&Append { membership: Some(&membership), ..write(1, 1, &[]) });
}
