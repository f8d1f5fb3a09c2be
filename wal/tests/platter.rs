//! Tests of the simulated platter's own claims: the page cache, the full disk, copies of the directory.

mod common;

use common::*;
use logdrive_raft::LogIndex;
use logdrive_wal::disk::sim::{Damage, SimPlatter, WriteFate};
use logdrive_wal::{Identity, Recovered, Wal, WalError};
use std::io::ErrorKind;

fn put(wal: &mut Wal, index: u64) {
    wal.append(&write(1, index, &entries(1, 1, index, 1, 100))).unwrap();
    wal.submit(0).unwrap();
}

fn last(recovered: &Recovered) -> LogIndex {
    recovered.groups.first().map_or(LogIndex::ZERO, |group| group.last)
}

fn buffered(seed: u64) -> (Sim, Wal) {
    let sim = Sim::new(seed);
    sim.platter.set_page_cache(true);
    let (mut wal, _) = sim.open();
    put(&mut wal, 1);
    sim.settle(&mut wal);
    (sim, wal)
}

#[test]
fn a_buffered_write_is_read_from_its_start_and_durable_at_its_end() {
    let (sim, mut wal) = buffered(1);
    put(&mut wal, 2);
    assert!(!sim.platter.undurable().is_empty());
    let lost = Sim { platter: sim.platter.twin(), config: sim.config.clone() };
    lost.platter.crash_choosing(|_| false);
    assert_eq!(last(&lost.open().1), LogIndex(1));
    let killed = Sim { platter: sim.platter.twin(), config: sim.config.clone() };
    killed.platter.kill();
    assert_eq!(last(&killed.open().1), LogIndex(2), "the page cache outlives the process");
    // Bytes that an open has read and synced stay.
    killed.platter.crash_choosing(|_| false);
    assert_eq!(last(&killed.open().1), LogIndex(2));
    sim.platter.complete_all();
    assert!(sim.platter.undurable().is_empty());
}

#[test]
fn a_failed_buffered_write_is_clean_in_the_cache_and_on_no_disk() {
    for fate in [WriteFate::Error(ErrorKind::Other), WriteFate::Lost] {
        let (sim, mut wal) = buffered(2);
        let is_told = fate != WriteFate::Lost;
        sim.platter.set_fate(0, fate);
        put(&mut wal, 2);
        sim.platter.complete_all();
        assert_eq!(wal.poll(0, &mut Vec::new()).is_err(), is_told);
        assert_eq!(sim.platter.failures(), u64::from(is_told));
        let segment = sim.platter.segments()[0];
        let there = |platter: &SimPlatter| {
            platter.segment_head(segment, 64 << 10).windows(6).any(|bytes| bytes == b"1/1/2;")
        };
        sim.platter.kill();
        drop(wal);
        assert!(there(&sim.platter));
        sim.platter.crash_choosing(|_| true);
        assert!(!there(&sim.platter));
        let is_lost = |(_, _, what): &(_, _, Damage)| *what == Damage::Lost;
        assert_eq!(sim.platter.damage().iter().any(is_lost), !is_told);
    }
}

#[test]
fn the_error_of_a_buffered_write_is_told_to_exactly_one_in_flight() {
    let mut told = [0; 2];
    for seed in 0..40 {
        let sim = Sim::new(seed);
        let (mut wal, _) = sim.open();
        // Switched on behind the log's back: a log that knew of the page cache would have one write in flight.
        sim.platter.set_page_cache(true);
        sim.platter.fail_write(0);
        put(&mut wal, 1);
        put(&mut wal, 2);
        // The write that fails ends first.
        sim.platter.complete_nth(0);
        let first = sim.platter.failures();
        sim.platter.complete_nth(0);
        assert_eq!(sim.platter.failures(), 1);
        told[usize::from(first == 0)] += 1;
    }
    assert!(told.iter().all(|count| *count > 5), "{told:?}");
}

#[test]
fn a_restored_copied_or_wiped_directory_is_what_it_was_made_of() {
    let sim = Sim::new(3);
    let (mut wal, _) = sim.open();
    put(&mut wal, 1);
    sim.settle(&mut wal);
    let copy = sim.platter.image();
    put(&mut wal, 2);
    sim.settle(&mut wal);
    let later = sim.platter.image();
    // The directory is replaced under the process that had it open: its next write fails.
    sim.platter.restore(&copy);
    put_fails(&mut wal);
    drop(wal);
    assert_eq!(last(&sim.open().1), LogIndex(1));
    let clone = Sim::new(4);
    for (image, expected) in [(&later, 2), (&copy, 1)] {
        clone.platter.restore(image);
        clone.platter.crash_choosing(|_| false);
        assert_eq!(last(&clone.open().1), LogIndex(expected));
    }
    let store = Identity { store: 0xdef, ..identity() };
    sim.platter.wipe(&store, 0);
    assert!(matches!(sim.try_open().map(|_| ()), Err(WalError::Foreign { .. })));
    let mut wiped = Sim { platter: sim.platter.clone(), config: sim.config.clone() };
    wiped.config.identity = store;
    let (_, recovered) = wiped.open();
    assert!(recovered.groups.is_empty() && wiped.platter.segments().len() == 1);
}

fn put_fails(wal: &mut Wal) {
    wal.append(&write(1, 3, &entries(1, 1, 3, 1, 100))).unwrap();
    assert!(wal.submit(0).is_err());
}
