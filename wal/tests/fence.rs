//! Damage fences its groups, whether an open, a read or carrying finds it, and the damaged bytes are never thrown away.

mod common;

use common::busy::*;
use common::crashes::every_crash;
use common::*;
use logdrive_raft::{GroupId, LogIndex};
use logdrive_wal::{Append, ReadError, Recovered, SegmentSeq, Wal};

/// RULES.md invariant 18.
#[test]
fn a_fenced_group_stays_fenced_when_the_damaged_segment_is_set_aside() {
    let first = SegmentSeq(1);
    let (sim, damaged) = with_damage(8);
    let mut busy = Busy { group: 1, next: 2 };
    let fenced = |recovered: &Recovered| {
        let fenced = recovered.groups.iter().filter(|group| group.fenced.is_some());
        fenced.map(|group| group.group.get()).collect::<Vec<_>>()
    };
    for round in 0..3 {
        let (mut wal, recovered) = sim.open();
        assert_eq!(fenced(&recovered), [3], "round {round}");
        for group in recovered.groups.iter().filter(|group| [2, 4].contains(&group.group.get())) {
            assert_eq!(read_all(&wal, group), entries(group.group.get(), 1, 1, 3, 200));
        }
        while wal.metrics().retired < 4 {
            turn_over(&sim, &mut wal, &mut busy).unwrap();
        }
        sim.platter.crash();
    }
    assert!(!sim.platter.segments().contains(&first));
    assert_eq!(sim.platter.set_aside(), [first]);
    assert_eq!(first_segment(&sim), Some(damaged));
}

/// RULES.md C9, invariant 18.
/// The history that broke it:
/// 1. A group's batch in a later segment cannot be read when the log is opened: the group is fenced.
/// 2. The group's records in the first segment count as dead, and that segment is given up.
/// 3. At the next open the batch reads well again, and the group's log has a hole that nothing explains.
#[test]
fn a_fence_outlives_damage_that_reads_well_again_once_something_was_given_up() {
    let sim = Sim::new(11);
    let (mut wal, _) = sim.open();
    let mut busy = Busy::new(1);
    let later = SegmentSeq(4);
    wal.append(&write(3, 1, &entries(3, 1, 1, 3, 200))).unwrap();
    while !sim.platter.segments().contains(&SegmentSeq(5)) {
        busy.write(&mut wal, 10, 1000).unwrap();
        sim.settle(&mut wal);
    }
    let mut next = 4;
    let needle = loop {
        wal.append(&write(3, next, &entries(3, 1, next, 1, 200))).unwrap();
        busy.write(&mut wal, 10, 1000).unwrap();
        sim.settle(&mut wal);
        let needle = payload(3, 1, next, 200);
        next += 1;
        if find(&sim, later, &needle).is_some() {
            break needle;
        }
    };
    busy.write(&mut wal, 10, 1000).unwrap();
    sim.settle(&mut wal);
    drop(wal);
    sim.platter.crash();
    let at = find(&sim, later, &needle).unwrap();
    sim.platter.flip(later, at, 1);
    let is_fenced = |recovered: &Recovered| {
        recovered.groups.iter().any(|group| group.group == GroupId(3) && group.fenced.is_some())
    };
    let (mut wal, recovered) = sim.open();
    assert!(is_fenced(&recovered));
    for step in 0.. {
        if wal.metrics().retired > 0 {
            break;
        }
        assert!(step < 100, "not given up: {:?}", wal.metrics());
        if let Some(plan) = wal.maintain().unwrap() {
            wal.carried(plan.run()).unwrap();
        }
        wal.submit(0).unwrap();
        sim.platter.complete_all();
        wal.poll(0, &mut Vec::new()).unwrap();
    }
    let segments = sim.platter.segments();
    assert!(!segments.contains(&SegmentSeq(1)) && segments.contains(&later), "{segments:?}");
    drop(wal);
    sim.platter.crash();
    sim.platter.flip(later, at, 1);
    let (_, recovered) = sim.open();
    assert!(is_fenced(&recovered), "a fence was forgotten");
}

/// A log whose first segment holds damage that fences group 3, and that segment's checksum.
fn with_damage(seed: u64) -> (Sim, u32) {
    let sim = Sim::new(seed);
    let (mut wal, _) = sim.open();
    for group in 2..5 {
        wal.append(&write(group, 1, &entries(group, 1, 1, 3, 200))).unwrap();
        sim.settle(&mut wal);
    }
    wal.append(&write(1, 1, &entries(1, 1, 1, 1, 10))).unwrap();
    sim.settle(&mut wal);
    sim.platter.crash();
    let first = SegmentSeq(1);
    let needle = payload(3, 1, 2, 200);
    let bytes = sim.platter.segment(first);
    let at = bytes.windows(needle.len()).position(|window| window == needle).unwrap();
    sim.platter.flip(first, at, 1);
    let damaged = logdrive_wal::checksum(&sim.platter.segment(first));
    (sim, damaged)
}

/// A running log whose first segment is full, and holds three live entries each of groups 2 to 4; damaged are group 3's,
/// at the place that is returned.
fn damaged_while_running(sim: &Sim) -> (Wal, Busy, usize) {
    let (mut wal, _) = sim.open();
    for group in 2..5 {
        let append =
            Append { membership: Some(b"members"), ..state(group, 1, hard_state(4, 1, 0)) };
        wal.append(&append).unwrap();
        wal.append(&write(group, 2, &entries(group, 4, 1, 3, 200))).unwrap();
    }
    let mut busy = Busy::new(1);
    while wal.metrics().rotations < 3 {
        busy.write(&mut wal, 10, 1000).unwrap();
        sim.settle(&mut wal);
    }
    let at = find(sim, SegmentSeq(1), &payload(3, 4, 2, 200)).unwrap();
    sim.platter.flip(SegmentSeq(1), at, 1);
    (wal, busy, at)
}

fn fenced(recovered: &Recovered) -> Vec<u64> {
    let fenced = recovered.groups.iter().filter(|group| group.fenced.is_some());
    fenced.map(|group| group.group.get()).collect()
}

/// RULES.md C1, rule 24. The history that broke it:
/// 1. A payload of one group rots in the oldest segment while the log runs.
/// 2. Carrying finds it, takes it for a read that failed, and keeps the segment.
/// 3. No segment is given back any more, so the log grows up to its quota; and the damaged group acts on.
#[test]
fn damage_that_carrying_finds_fences_its_group_and_holds_up_no_other() {
    let sim = Sim::new(31);
    let (mut wal, mut busy, at) = damaged_while_running(&sim);
    let mut found = Vec::new();
    for turn in 0.. {
        assert!(turn < 100, "not given up: {:?}", wal.metrics());
        if wal.metrics().retired >= 3 {
            break;
        }
        busy.write(&mut wal, 10, 1000).unwrap();
        busy.release_all(&mut wal).unwrap();
        if let Some(plan) = wal.maintain().unwrap() {
            found.extend(wal.carried(plan.run()).unwrap());
        }
        sim.settle(&mut wal);
        sim.platter.complete_all();
        wal.poll(0, &mut Vec::new()).unwrap();
    }
    let [(group, corrupt)] = &found[..] else { panic!("{found:?}") };
    assert_eq!((group.get(), corrupt.offset <= at as u64), (3, true), "{corrupt}");
    assert!(corrupt.file.ends_with("0000000001.seg"), "{corrupt}");
    assert_eq!(wal.group_bytes(GroupId(3)), Some(0));
    assert_eq!(sim.platter.set_aside(), [SegmentSeq(1)]);
    for _ in 0..2 {
        sim.platter.crash();
        drop(wal);
        let (again, recovered) = sim.open();
        wal = again;
        assert_eq!(fenced(&recovered), [3]);
        for group in recovered.groups.iter().filter(|group| [2, 4].contains(&group.group.get())) {
            assert_eq!(group.hard_state, hard_state(4, 1, 0));
            assert_eq!(read_all(&wal, group), entries(group.group.get(), 4, 1, 3, 200));
        }
    }
}

/// RULES.md C1, invariant 18.
/// A log as of `damaged_while_running`, whose damage reads well again after the power has failed: the group is then whole,
/// with all that it ever had, or fenced.
#[test]
fn a_group_fenced_while_the_log_runs_is_fenced_or_whole_wherever_the_power_fails() {
    let (mut whole, mut gone) = (0, 0);
    for at in 0.. {
        let sim = Sim::new(at);
        let (mut wal, mut busy, flipped) = damaged_while_running(&sim);
        sim.platter.set_power_fails_in(Some(at));
        let survived = loop {
            if turn_over(&sim, &mut wal, &mut busy).is_err() {
                break false;
            }
            if wal.metrics().retired >= 2 {
                break true;
            }
        };
        sim.platter.set_power_fails_in(None);
        sim.platter.crash();
        drop(wal);
        if sim.platter.segments().contains(&SegmentSeq(1)) {
            sim.platter.flip(SegmentSeq(1), flipped, 1);
        } else {
            gone += 1;
        }
        let (wal, recovered) = sim.open();
        if fenced(&recovered).is_empty() {
            whole += 1;
            for group in recovered.groups.iter().filter(|group| (2..5).contains(&group.group.get()))
            {
                assert_eq!(group.hard_state, hard_state(4, 1, 0));
                assert_eq!(read_all(&wal, group), entries(group.group.get(), 4, 1, 3, 200));
            }
        } else {
            assert_eq!(fenced(&recovered), [3], "cut at {at}");
        }
        if survived {
            assert_eq!(fenced(&recovered), [3]);
            assert!(whole > 0 && gone > 3, "{whole} whole, {gone} without the segment");
            return;
        }
    }
}

/// RULES.md W9, invariant 18.
/// The history that broke it:
/// 1. A log at its quota has less room than a fence's record may take; carrying, which wins room back, takes less.
/// 2. Carrying finds a group damaged in the oldest segment, whose other records it has dealt with by then: all of the
///    group counts as dead from now on, and no record says why.
/// 3. The segment goes, and with it the damage. The next open finds the group whole: a vote, and no entry.
#[test]
fn a_group_fenced_without_room_for_its_record_has_one_before_its_segment_goes() {
    let mut sim = Sim::new(33);
    sim.config.log_bytes_max = Some(8 * sim.config.segment_bytes);
    let (mut wal, _) = sim.open();
    wal.append(&state(3, 1, hard_state(4, 1, 0))).unwrap();
    wal.append(&write(3, 2, &entries(3, 4, 1, 3, 200))).unwrap();
    let mut busy = Busy::new(1);
    let settle = |wal: &mut Wal| {
        sim.settle(wal);
        sim.platter.complete_all();
        wal.poll(0, &mut Vec::new()).unwrap();
    };
    while busy.write(&mut wal, 1, 2000).is_ok() {
        settle(&mut wal);
    }
    busy.release_all(&mut wal).unwrap();
    // Tombstones may take the same last room as a fence's record, and fill it here.
    let mut strangers = (1000..).map(GroupId);
    while wal.destroy(strangers.next().unwrap(), LogIndex::ZERO).is_ok() {
        settle(&mut wal);
    }
    let at = find(&sim, SegmentSeq(1), &payload(3, 4, 2, 200)).unwrap();
    sim.platter.flip(SegmentSeq(1), at, 1);
    let mut found = Vec::new();
    for turn in 0.. {
        assert!(turn < 1000, "not given up: {:?}", wal.metrics());
        if wal.metrics().retired >= 1 {
            break;
        }
        if let Some(plan) = wal.maintain().unwrap() {
            found.extend(wal.carried(plan.run()).unwrap());
        }
        settle(&mut wal);
    }
    assert!(matches!(&found[..], [(GroupId(3), _)]), "{found:?}");
    sim.platter.crash();
    drop(wal);
    let (_, recovered) = sim.open();
    assert_eq!(fenced(&recovered), [3]);
}

/// RULES.md rule 24.
#[test]
fn damage_that_a_read_finds_fences_its_group_once() {
    for is_disk_full in [false, true] {
        let sim = Sim::new(32);
        let (mut wal, mut busy, at) = damaged_while_running(&sim);
        if is_disk_full {
            sim.platter.set_segments_left(Some(0));
            // No write ends meanwhile, so the reserve of votes is not renewed.
            while wal.append(&state(5, 1, hard_state(1, 1, 0))).is_ok() {
                while sim.platter.make_step() {}
                wal.poll(0, &mut Vec::new()).unwrap();
            }
        }
        let read = wal.plan_read(GroupId(3), LogIndex(1), LogIndex(3), 1 << 20).unwrap().run();
        let Err(ReadError::Corrupt(corrupt)) = read else { panic!("{read:?}") };
        // The open batch holds a write of the group.
        if !is_disk_full {
            wal.append(&write(3, 3, &entries(3, 4, 4, 1, 200))).unwrap();
        }
        assert!(wal.fence(GroupId(3), &corrupt).unwrap());
        assert!(!wal.fence(GroupId(3), &corrupt).unwrap(), "fenced twice");
        assert!(wal.plan_read(GroupId(3), LogIndex(1), LogIndex(3), 1 << 20).is_err());
        sim.settle(&mut wal);
        assert_eq!(fenced_by_records(&sim, at), if is_disk_full { vec![] } else { vec![3] });
        if is_disk_full {
            // There is room again: the fence is recorded before a segment goes that holds anything of the group.
            sim.platter.set_segments_left(None);
            idle_turns(&sim, &mut wal, 20);
            busy.release_all(&mut wal).unwrap();
            idle_turns(&sim, &mut wal, 20);
            assert!(wal.metrics().retired > 0, "{:?}", wal.metrics());
            assert_eq!(fenced_by_records(&sim, at), [3]);
        } else {
            busy.write(&mut wal, 1, 1000).unwrap();
            sim.settle(&mut wal);
        }
        sim.platter.crash();
        drop(wal);
        sim.platter.set_segments_left(None);
        let (_, recovered) = sim.open();
        assert!(fenced(&recovered).contains(&3));
    }
}

/// RULES.md rule 3.
/// A length is checked before anything is allocated for it, and a wrong one is damage, not the end of a file.
#[test]
fn a_record_that_claims_to_reach_past_its_segment_is_damaged() {
    let sim = Sim::new(34);
    let (wal, _, _) = damaged_while_running(&sim);
    let headers = 40 + 3 * 8;
    let record = find(&sim, SegmentSeq(1), &payload(4, 4, 1, 200)).unwrap() - headers;
    // The record claims a million entries more, and sixteen million bytes more, than it has.
    sim.platter.flip(SegmentSeq(1), record + 34, 0x10);
    sim.platter.flip(SegmentSeq(1), record + 7, 0x01);
    let read = wal.plan_read(GroupId(4), LogIndex(1), LogIndex(3), 1 << 20).unwrap().run();
    let Err(ReadError::Corrupt(corrupt)) = read else { panic!("{read:?}") };
    assert_eq!(corrupt.offset, record as u64, "{corrupt}");
}

/// The groups that fence records name: they are found in a copy of the log in which the damage is undone.
fn fenced_by_records(sim: &Sim, damage_at: usize) -> Vec<u64> {
    let copy = sim.fork(1);
    copy.platter.set_segments_left(None);
    if copy.platter.segments().contains(&SegmentSeq(1)) {
        copy.platter.flip(SegmentSeq(1), damage_at, 1);
    }
    fenced(&copy.open().1)
}

/// RULES.md rule 24.
#[test]
fn damage_in_a_segment_that_is_gone_fences_nobody() {
    let sim = Sim::new(33);
    let (mut wal, mut busy, _) = damaged_while_running(&sim);
    let plan = wal.plan_read(GroupId(3), LogIndex(1), LogIndex(3), 1 << 20).unwrap();
    wal.release(&released(3, 3, 4)).unwrap();
    while wal.metrics().retired == 0 {
        turn_over(&sim, &mut wal, &mut busy).unwrap();
    }
    let Err(ReadError::Corrupt(corrupt)) = plan.run() else { panic!("it reads well") };
    assert!(!wal.fence(GroupId(3), &corrupt).unwrap());
    wal.append(&write(3, 4, &entries(3, 4, 4, 1, 10))).unwrap();
}

/// The first segment's checksum, under whichever of its names.
fn first_segment(sim: &Sim) -> Option<u32> {
    let first = SegmentSeq(1);
    let named = sim.platter.segments().contains(&first).then(|| sim.platter.segment(first));
    let bytes = named.or_else(|| sim.platter.set_aside_segment(first));
    bytes.map(|bytes| logdrive_wal::checksum(&bytes))
}

/// RULES.md C1, rule 25.
/// The history that broke it:
/// 1. The manifest passes a damaged segment, durably; the segment's file is to be renamed next.
/// 2. The power fails.
/// 3. The next open takes the file for a leftover of a segment that was given up, and removes it.
#[test]
fn damage_is_kept_wherever_the_power_fails_while_it_is_set_aside() {
    let first = SegmentSeq(1);
    let (sim, damaged) = with_damage(8);
    let (mut wal, _) = sim.open();
    let mut busy = Busy { group: 1, next: 2 };
    let (mut passed, mut crashes) = (0, 0);
    let look = |crashed: Sim| {
        assert_eq!(first_segment(&crashed), Some(damaged), "after the power cut");
        // The next process may have to set the segment aside once more.
        let (mut wal, recovered) = crashed.open();
        assert!(recovered.groups.iter().any(|group| group.fenced.is_some()), "no fence");
        assert_eq!(first_segment(&crashed), Some(damaged), "after the next open");
        let found = recovered.groups.iter().find(|group| group.group == GroupId(1)).unwrap();
        let mut busy = Busy { group: 1, next: found.last.get() + 1 };
        while crashed.platter.segments().contains(&first) {
            turn_over(&crashed, &mut wal, &mut busy).unwrap();
            assert!(busy.next < 1000, "not given up: {:?}", wal.metrics());
        }
        crashed.platter.crash();
        drop(wal);
        drop(crashed.open());
        assert_eq!(first_segment(&crashed), Some(damaged), "in the end");
    };
    while wal.metrics().retired == 0 {
        assert!(busy.next < 1000, "not given up: {:?}", wal.metrics());
        busy.write(&mut wal, 10, 1000).unwrap();
        busy.release_all(&mut wal).unwrap();
        if let Some(plan) = wal.maintain().unwrap() {
            wal.carried(plan.run()).unwrap();
        }
        wal.submit(0).unwrap();
        while sim.platter.writes_in_flight() > 0 {
            sim.platter.complete_nth(0);
            wal.poll(0, &mut Vec::new()).unwrap();
        }
        while sim.platter.make_step() {
            crashes += every_crash(&sim.platter, |platter| {
                let crashed = Sim { platter, config: sim.config.clone() };
                passed += u32::from(sim.platter.manifest() != crashed.platter.manifest());
                look(crashed);
            });
        }
        wal.poll(0, &mut Vec::new()).unwrap();
    }
    assert_eq!(sim.platter.set_aside(), [first]);
    assert!(crashes > 20 && passed >= 2, "{crashes} crashes, {passed} with the older manifest");
}
