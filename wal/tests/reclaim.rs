//! Giving space back on a full disk, at the quota, or while a read fails: it takes no room from the votes, and goes on by
//! itself once it can.

mod common;

use common::busy::*;
use common::*;
use logdrive_raft::{GroupId, LogIndex, WriteId};
use logdrive_wal::{Room, SegmentSeq, Wal, WalError};

/// RULES.md W9.
#[test]
fn a_full_disk_heals_by_what_is_given_back_while_an_order_waits_for_room() {
    let sim = Sim::new(3);
    let (mut wal, _) = sim.open();
    let mut busy = Busy::new(1);
    for _ in 0..20 {
        busy.write(&mut wal, 10, 1000).unwrap();
        sim.settle(&mut wal);
    }
    sim.platter.complete_all();
    wal.poll(0, &mut Vec::new()).unwrap();
    sim.platter.set_segments_left(Some(0));
    loop {
        match busy.write(&mut wal, 1, 2000) {
            Ok(()) => {}
            Err(WalError::NoSpace) => break,
            Err(error) => panic!("{error}"),
        }
        sim.settle(&mut wal);
        sim.platter.complete_some();
        wal.poll(0, &mut Vec::new()).unwrap();
    }
    assert!(sim.platter.orders() > 0, "no order waits for room");
    busy.release_all(&mut wal).unwrap();
    give_back(&sim, &mut wal);
    // The disk is as full as it was; the log has its own files to go on in.
    for _ in 0..100 {
        turn_over(&sim, &mut wal, &mut busy).unwrap();
    }
    sim.platter.crash();
    drop(wal);
    sim.platter.set_segments_left(None);
    let (_wal, recovered) = sim.open();
    assert_eq!(recovered.groups[0].last, LogIndex(busy.next - 1));
}

/// RULES.md C9.
#[test]
fn a_segment_that_cannot_be_read_is_kept_and_tried_again() {
    let sim = Sim::new(9);
    let (mut wal, _) = sim.open();
    wal.append(&write(2, 1, &entries(2, 1, 1, 5, 100))).unwrap();
    let mut busy = Busy::new(1);
    sim.platter.fail_reads_of(Some(SegmentSeq(1)));
    for _ in 0..40 {
        turn_over(&sim, &mut wal, &mut busy).unwrap();
    }
    assert_eq!(wal.metrics().retired, 0);
    sim.platter.fail_reads_of(None);
    for _ in 0..40 {
        turn_over(&sim, &mut wal, &mut busy).unwrap();
    }
    assert!(wal.metrics().retired > 3);
    let back = wal.plan_read(GroupId(2), LogIndex(1), LogIndex(5), 1 << 20).unwrap().run().unwrap();
    assert_eq!(back.as_slice(), entries(2, 1, 1, 5, 100));
}

/// RULES.md C9, W9.
/// The history that broke it:
/// 1. A log takes no entries any more: it is at its quota, or its disk is full.
/// 2. Enough is released, but one read of what the oldest segment still holds fails.
/// 3. The log would read it again only once another segment is full. No segment can become full without the room that the
///    oldest one holds.
#[test]
fn a_read_that_failed_is_tried_again_where_no_segment_can_become_full() {
    for is_disk_full in [false, true] {
        let mut sim = Sim::new(9);
        if !is_disk_full {
            sim.config.log_bytes_max = Some(8 * sim.config.segment_bytes);
        }
        let (mut wal, _) = sim.open();
        wal.append(&write(2, 1, &entries(2, 1, 1, 5, 100))).unwrap();
        let mut busy = Busy::new(1);
        while busy.write(&mut wal, 1, 2000).is_ok() {
            sim.settle(&mut wal);
            sim.platter.complete_all();
            wal.poll(0, &mut Vec::new()).unwrap();
            if is_disk_full && wal.metrics().rotations == 5 {
                sim.platter.set_segments_left(Some(0));
            }
        }
        let refused = if is_disk_full { Room::Reserve } else { Room::Quota };
        assert_eq!(wal.room(), refused);
        sim.platter.fail_reads_of(Some(SegmentSeq(1)));
        busy.release_all(&mut wal).unwrap();
        // Every failed read wakes the shard for a turn. A turn alone must not be a reason to read again.
        let reads = idle_turns(&sim, &mut wal, 1000);
        assert!((2..10).contains(&reads), "tried {reads} times in 1000 turns");
        assert_eq!((wal.metrics().retired, wal.room()), (0, refused));
        sim.platter.fail_reads_of(None);
        idle_turns(&sim, &mut wal, 1000);
        assert_eq!(wal.room(), Room::Free, "{:?} {:?}", wal.usage(), wal.metrics());
        busy.write(&mut wal, 1, 2000).unwrap();
        let back = wal.plan_read(GroupId(2), LogIndex(1), LogIndex(5), 1 << 20).unwrap();
        assert_eq!(back.run().unwrap().as_slice(), entries(2, 1, 1, 5, 100));
    }
}

/// A log of two groups on a disk without room for another segment. Group 2 wrote first, `count` times `each` entries of
/// `bytes` bytes, and has released none of them. Then group 1, the `Busy` that is returned, wrote until no segment was
/// left ahead of the active one, and filled `used` bytes of that.
fn on_a_full_disk(
    sim: &mut Sim,
    segment_bytes: u64,
    (count, each, bytes): (u64, u64, usize),
    used: u64,
) -> (Wal, Busy) {
    sim.config.segment_bytes = segment_bytes;
    sim.config.batch_bytes_max = 256 << 10;
    let (mut wal, _) = sim.open();
    let mut lasting = Busy::new(2);
    for _ in 0..count {
        lasting.write(&mut wal, each, bytes).unwrap();
        sim.settle(&mut wal);
    }
    let mut busy = Busy::new(1);
    let mut turn = |wal: &mut Wal| {
        busy.write(wal, 1, 60 << 10).unwrap();
        sim.settle(wal);
        sim.platter.complete_all();
        wal.poll(0, &mut Vec::new()).unwrap();
    };
    while wal.metrics().rotations < 4 {
        turn(&mut wal);
    }
    sim.platter.set_segments_left(Some(0));
    while wal.room() != Room::Reserve {
        turn(&mut wal);
    }
    for _ in 0..used / (64 << 10) {
        turn(&mut wal);
    }
    (wal, busy)
}

/// Writes a vote, which takes a block; returns whether it becomes durable.
fn vote(sim: &Sim, wal: &mut Wal, term: u64) -> bool {
    wal.append(&state(3, term, hard_state(term, 1, 0))).unwrap();
    let mut completed = Vec::new();
    for _ in 0..20 {
        wal.submit(0).unwrap();
        sim.platter.complete_all();
        wal.poll(0, &mut completed).unwrap();
    }
    let mut durable = completed.iter().flat_map(|batch| &batch.durable);
    durable.any(|durable| (durable.group(), durable.upto()) == (GroupId(3), WriteId(term)))
}

/// RULES.md W9.
#[test]
fn on_a_full_disk_nothing_is_carried_that_cannot_be_carried_to_the_end() {
    let mut sim = Sim::new(21);
    // Three quarters of the first segment are live; an eighth of a segment is left when entries are refused.
    let (mut wal, mut busy) = on_a_full_disk(&mut sim, 4 << 20, (30, 1, 100 << 10), 0);
    while busy.write(&mut wal, 1, 60 << 10).is_ok() {
        sim.settle(&mut wal);
    }
    busy.release_all(&mut wal).unwrap();
    idle_turns(&sim, &mut wal, 600);
    assert_eq!((wal.metrics().carried, wal.metrics().retired), (0, 0), "{:?}", wal.usage());
    // The room that was not taken is there for votes.
    for term in 1..100 {
        assert!(vote(&sim, &mut wal, term), "vote {term} waits");
    }
    wal.release(&released(2, 28, 1)).unwrap();
    idle_turns(&sim, &mut wal, 600);
    assert_eq!(wal.room(), Room::Free, "{:?} {:?}", wal.usage(), wal.metrics());
}

/// RULES.md W9.
/// The history that broke it:
/// 1. The disk is full. There is room for all that must be carried, so carrying begins, with a large record.
/// 2. While the record is read, votes take some of the room.
/// 3. The record is written again, and the largest part of it waits for a segment that cannot be made.
/// 4. The next vote waits behind the record.
#[test]
fn on_a_full_disk_no_vote_waits_behind_what_is_carried() {
    let mut sim = Sim::new(22);
    let (mut wal, busy) = on_a_full_disk(&mut sim, 4 << 20, (1, 1, 1 << 20), 5 << 19);
    busy.release_all(&mut wal).unwrap();
    let plan =
        (0..5).find_map(|_| wal.maintain().unwrap()).expect("carrying pays, and there is room");
    for term in 1..150 {
        assert!(vote(&sim, &mut wal, term), "vote {term} waits");
    }
    wal.carried(plan.run()).unwrap();
    for term in 150..200 {
        assert!(vote(&sim, &mut wal, term), "vote {term} waits behind what was carried");
    }
    assert_eq!(wal.metrics().carried, 0);
    wal.release(&released(2, 1, 1)).unwrap();
    idle_turns(&sim, &mut wal, 600);
    assert_eq!(wal.room(), Room::Free, "{:?} {:?}", wal.usage(), wal.metrics());
}

/// RULES.md W9.
/// The history that broke it:
/// 1. The disk is nearly full. Many small entries are live, which take 17 bytes each in the log and count for 41 in memory.
/// 2. Counted as 17 bytes each they have room, so they are read; counted as 41 they have none, so they are dropped.
/// 3. The finished read wakes the shard, and its next turn reads them again.
#[test]
fn small_entries_are_read_once_to_be_carried_with_the_last_room() {
    let mut sim = Sim::new(23);
    let (mut wal, mut busy) = on_a_full_disk(&mut sim, 2 << 20, (1, 10_000, 1), 0);
    while busy.write(&mut wal, 1, 4 << 10).is_ok() {
        sim.settle(&mut wal);
    }
    for term in 1..10 {
        assert!(vote(&sim, &mut wal, term), "vote {term} waits");
    }
    busy.release_all(&mut wal).unwrap();
    let reads = idle_turns(&sim, &mut wal, 200);
    assert!(reads <= 4, "read {reads} times");
    assert!(wal.metrics().carried >= 10_000, "{:?}", wal.metrics());
    assert_eq!(wal.room(), Room::Free, "{:?} {:?}", wal.usage(), wal.metrics());
}
