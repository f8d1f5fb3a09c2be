//! Damage at rest: an error that names file and offset, never a panic, never less than was acknowledged.

mod common;

use common::*;
use logdrive_raft::{GroupId, LogIndex};
use logdrive_wal::{Corrupt, DriverChoice, ReadError, SegmentSeq, Wal, WalError};
use std::path::PathBuf;

/// Three segments' worth of acknowledged entries, with three acknowledged batches behind the last evidence.
fn filled(seed: u64) -> (Sim, Vec<SegmentSeq>) {
    let sim = Sim::new(seed);
    let (mut wal, _) = sim.open();
    for n in 0..12u64 {
        wal.append(&state(2, n + 1, hard_state(n + 1, 1, 0))).unwrap();
        wal.append(&write(1, n + 1, &entries(1, 1, 1 + n * 20, 20, 500))).unwrap();
        sim.settle(&mut wal);
    }
    sim.platter.complete_all();
    sim.platter.crash();
    drop(wal);
    let used: Vec<_> = sim
        .platter
        .segments()
        .into_iter()
        .filter(|segment| sim.platter.segment(*segment)[4096] != 0)
        .collect();
    assert!(used.len() >= 2, "only {used:?}");
    (sim, used)
}

/// Where the last batch of a segment begins, and where it ends.
fn last_batch(bytes: &[u8]) -> (usize, usize) {
    let mut at = 4096;
    loop {
        let body = u32::from_le_bytes(bytes[at + 32..at + 36].try_into().unwrap()) as usize;
        let end = at + (48 + body).next_multiple_of(4096);
        if end == bytes.len() || bytes[end] == 0 {
            return (at, end);
        }
        at = end;
    }
}

#[test]
fn c1_c2_a_flipped_bit_below_the_highest_durable_offset_is_an_error_with_its_place() {
    let (sim, used) = filled(1);
    let newest = *used.last().unwrap();
    for segment in &used {
        let bytes = sim.platter.segment(*segment);
        let (last, end) = last_batch(&bytes);
        // In the newest segment only what a later batch vouches for; elsewhere all of it.
        let vouched = if *segment == newest { last } else { end };
        let dense = (0..256).chain(4096..4352);
        for at in dense.chain((352..vouched).step_by(61)).chain(vouched - 64..vouched) {
            let twin = sim.fork(5);
            twin.platter.flip(*segment, at, 1 << (at % 8));
            match twin.try_open() {
                Err(WalError::Corrupt(Corrupt { file, offset, .. })) => {
                    assert_eq!(file, PathBuf::from(format!("sim/{:010}.seg", segment.0)));
                    let offset = usize::try_from(offset).unwrap();
                    assert!(offset <= at && at < offset + 16384, "flip at {at}, found at {offset}");
                }
                Err(error) => panic!("flip at {at} of {segment:?}: {error}"),
                Ok((_, recovered)) => panic!("flip at {at} of {segment:?} unseen: {recovered:?}"),
            }
        }
    }
}

#[test]
fn c3_a_flipped_bit_in_the_last_batch_is_taken_for_a_torn_tail_and_costs_only_that_batch() {
    let (sim, used) = filled(2);
    let newest = *used.last().unwrap();
    let (last, end) = last_batch(&sim.platter.segment(newest));
    let (_, whole) = sim.fork(1).open();
    for at in (last..end).step_by(7) {
        let twin = sim.fork(6);
        twin.platter.flip(newest, at, 0x40);
        let (_wal, recovered) = twin.open();
        let cut = recovered.cut.expect("a cut");
        assert_eq!(cut.position.offset() as usize, last);
        let (found, all) = (recovered.groups[0].last, whole.groups[0].last);
        assert!(found < all && found.get() + 20 >= all.get(), "{found:?} of {all:?}");
    }
}

#[test]
fn c4_a_foreign_segment_or_manifest_is_refused() {
    let (sim, used) = filled(3);
    let foreign = |change: &dyn Fn(&mut Sim)| {
        let mut twin = sim.fork(1);
        change(&mut twin);
        match twin.try_open() {
            Err(WalError::Foreign { what, .. }) => what,
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("opened"),
        }
    };
    foreign(&|twin| twin.config.identity.store ^= 1);
    foreign(&|twin| twin.config.identity.node.0 += 1);
    foreign(&|twin| twin.config.shard += 1);
    foreign(&|twin| twin.config.identity.cluster.push('x'));
    // C6: a copy under another name, and two files with their names swapped.
    let first = sim.platter.segment(used[0]);
    let second = sim.platter.segment(used[1]);
    let newest = *sim.platter.segments().last().unwrap();
    foreign(&|twin| twin.platter.set_segment(SegmentSeq(newest.0 + 1), Some(first.clone())));
    foreign(&|twin| {
        twin.platter.set_segment(used[0], Some(second.clone()));
        twin.platter.set_segment(used[1], Some(first.clone()));
    });
}

#[test]
fn c5_a_missing_segment_or_manifest_is_never_taken_for_an_empty_log() {
    let (sim, _) = filled(4);
    for segment in sim.platter.segments() {
        let twin = sim.fork(1);
        twin.platter.set_segment(segment, None);
        match twin.try_open() {
            Err(WalError::Missing { file, .. }) => {
                assert_eq!(file, PathBuf::from(format!("sim/{:010}.seg", segment.0)));
            }
            Err(error) => panic!("without {segment:?}: {error}"),
            Ok(_) => panic!("opened without {segment:?}"),
        }
    }
    let twin = sim.fork(1);
    for segment in sim.platter.segments() {
        twin.platter.set_segment(segment, None);
    }
    assert!(matches!(twin.try_open(), Err(WalError::Missing { .. })));
    let twin = sim.fork(1);
    twin.platter.set_manifest(None);
    assert!(matches!(twin.try_open(), Err(WalError::Missing { .. })));
    let manifest = sim.platter.manifest().unwrap();
    for at in 0..manifest.len() {
        let twin = sim.fork(1);
        let mut bytes = manifest.clone();
        bytes[at] ^= 4;
        twin.platter.set_manifest(Some(bytes));
        assert!(matches!(twin.try_open(), Err(WalError::Corrupt(_))), "flip at {at}");
    }
}

#[test]
fn c1_a_truncated_segment_file_is_an_error() {
    let (sim, used) = filled(5);
    for segment in used {
        let twin = sim.fork(1);
        let mut bytes = sim.platter.segment(segment);
        bytes.truncate(bytes.len() - 4096);
        twin.platter.set_segment(segment, Some(bytes));
        assert!(matches!(twin.try_open(), Err(WalError::Corrupt(_))));
    }
}

#[test]
fn c9_an_unreadable_segment_is_an_error_that_names_it() {
    let (sim, used) = filled(6);
    let twin = sim.fork(1);
    twin.platter.fail_reads_of(Some(used[0]));
    match twin.try_open() {
        Err(WalError::Io { file, .. }) => assert!(file.to_string_lossy().contains("0000000001")),
        other => panic!("{:?}", other.map(|_| ())),
    }
}

#[test]
fn c1_an_entry_damaged_after_open_is_found_when_it_is_read() {
    let (sim, used) = filled(7);
    let (wal, recovered) = sim.open();
    let bytes = sim.platter.segment(used[0]);
    let needle = payload(1, 1, 3, 500);
    let at = bytes.windows(needle.len()).position(|window| window == needle).unwrap();
    sim.platter.flip(used[0], at + 100, 1);
    let last = recovered.groups[0].last;
    let read = |first: u64| wal.plan_read(GroupId(1), LogIndex(first), last, 600).unwrap().run();
    assert_eq!(read(2).unwrap().len(), 1);
    match read(3) {
        Err(ReadError::Corrupt(Corrupt { offset, .. })) => assert_eq!(offset, at as u64),
        other => panic!("{other:?}"),
    }
    // Its neighbours are whole.
    assert_eq!(read(4).unwrap().as_slice()[0].payload, payload(1, 1, 4, 500));
}

/// The same on real files.
#[test]
fn c1_a_flipped_bit_in_a_file_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let home = new_home(&dir.path().join("node"));
    let (mut wal, _) = Wal::open(config(&home, DriverChoice::Auto)).unwrap();
    for n in 0..4u64 {
        wal.append(&write(1, n + 1, &entries(1, 1, 1 + n * 5, 5, 300))).unwrap();
        settle(&mut wal);
    }
    wal.close().unwrap();
    let file = home.shard_dir(0).join("0000000001.seg");
    let whole = std::fs::read(&file).unwrap();
    for at in [0, 100, 4095, 4096, 4100, 4150, 8192, 8300, 12000] {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x20;
        std::fs::write(&file, &bytes).unwrap();
        match Wal::open(config(&home, DriverChoice::Auto)).map(|_| ()) {
            Err(WalError::Corrupt(corrupt)) => assert_eq!(corrupt.file, file, "flip at {at}"),
            other => panic!("flip at {at}: {other:?}"),
        }
    }
    std::fs::write(&file, &whole).unwrap();
    let (_wal, recovered) = Wal::open(config(&home, DriverChoice::Auto)).unwrap();
    assert_eq!(recovered.groups[0].last, LogIndex(20));
}
