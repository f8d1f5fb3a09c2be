//! Votes on a full disk: they go on for ever in two segments that are made ahead of need (RULES.md W16).

mod common;

use common::busy::*;
use common::model::Kept;
use common::*;
use logdrive_raft::{GroupId, LogId, LogIndex, Term, WriteId};
use logdrive_wal::{Destroyed, Install, Installing, Recovered, Release, Room, Wal};

/// A log on a disk without room for a segment beside those that it has made, written to until it takes no more entries;
/// and the last entry's index.
fn full_disk(seed: u64, segment_bytes: u64, batch_bytes_max: u32) -> (Sim, Wal, u64) {
    let mut sim = Sim::new(seed);
    sim.config.segment_bytes = segment_bytes;
    sim.config.batch_bytes_max = batch_bytes_max;
    let (mut wal, _) = sim.open();
    give_back(&sim, &mut wal);
    sim.platter.set_segments_left(Some(0));
    let last = fill(&sim, &mut wal, 0);
    (sim, wal, last)
}

/// Writes entries of group 1 until the log takes none, small ones last; returns the last one's index.
fn fill(sim: &Sim, wal: &mut Wal, mut last: u64) -> u64 {
    for bytes in [9_000, 2_000, 10] {
        while wal.append(&write(1, last + 1, &entries(1, 1, last + 1, 1, bytes))).is_ok() {
            last += 1;
            give_back(sim, wal);
            assert!(last < 100_000, "never full");
        }
    }
    last
}

/// Opens the log on a disk that is full with so many segments, with room for one more while it opens.
fn open_with_room_for_one(sim: &Sim, files: usize) -> (Wal, Recovered) {
    let left = |max: usize| u32::try_from(max - sim.platter.segments().len()).unwrap();
    sim.platter.set_segments_left(Some(left(files + 1)));
    let opened = sim.open();
    sim.platter.set_segments_left(Some(left(files)));
    opened
}

/// RULES.md W16.
#[test]
fn a_full_disk_without_a_quota_takes_votes_for_ever() {
    for (sizes, votes) in [((64 << 10, 12 << 10), 100), ((1 << 20, 256 << 10), 400)] {
        takes_votes_on_a_full_disk_for_ever(sizes, votes, &|sim, wal, term| {
            wal.append(&state(2, term, hard_state(term, 1, 0))).unwrap();
            sim.settle(wal);
        });
    }
}

/// The bug: on a full disk without a quota votes ended with the active segment. `elect` appends what the election of a term
/// writes; the vote is of group 2. There are `votes` of them between two restarts.
fn takes_votes_on_a_full_disk_for_ever(
    (segment_bytes, batch_bytes_max): (u64, u32),
    votes: u64,
    elect: &dyn Fn(&Sim, &mut Wal, u64),
) {
    for seed in 0..3 {
        let (sim, mut wal, mut last) = full_disk(seed, segment_bytes, batch_bytes_max);
        let files = sim.platter.segments().len();
        let mut term = 0;
        for restart in 0..6 {
            for _ in 0..votes {
                term += 1;
                elect(&sim, &mut wal, term);
            }
            assert_ne!(wal.room(), Room::Free);
            assert!(wal.append(&write(1, last + 1, &entries(1, 1, last + 1, 1, 2000))).is_err());
            if restart % 2 == 0 {
                sim.platter.crash()
            } else {
                sim.platter.kill()
            }
            drop(wal);
            let (again, recovered) = open_with_room_for_one(&sim, files);
            wal = again;
            give_back(&sim, &mut wal);
            assert_eq!(recovered.groups[0].last, LogIndex(last));
            assert_eq!(recovered.groups[1].hard_state, hard_state(term, 1, 0));
            last = fill(&sim, &mut wal, last);
        }
        sim.platter.set_segments_left(None);
        give_back(&sim, &mut wal);
        assert_eq!(wal.room(), Room::Free);
        for _ in 0..100 {
            last += 1;
            wal.append(&write(1, last, &entries(1, 1, last, 1, 2000))).unwrap();
            give_back(&sim, &mut wal);
        }
    }
}

/// RULES.md W16.
/// A segment of votes may hold entries, releases and tombstones as well; all of it is where it was.
#[test]
fn a_full_disk_takes_the_votes_of_many_groups_and_their_no_ops() {
    let (sim, mut wal, last) = full_disk(7, 256 << 10, 64 << 10);
    const GROUPS: u64 = 20;
    let destroyed = GroupId(99);
    wal.append(&write(99, 1, &[entry(1, 1, b"")])).unwrap();
    wal.destroy(destroyed, LogIndex::ZERO).unwrap();
    for round in 1..=200 {
        for group in 10..10 + GROUPS {
            wal.append(&state(group, 2 * round, hard_state(round, 1, 0))).unwrap();
            sim.settle(&mut wal);
        }
        // Each leader appends one no-op every twenty rounds, and releases those before.
        if round % 20 == 0 {
            for group in 10..10 + GROUPS {
                let index = round / 20;
                wal.append(&write(group, 2 * round + 1, &[entry(round, index, b"")])).unwrap();
                wal.release(&released(group, index - 1, round.max(21) - 20)).unwrap();
            }
        }
        give_back(&sim, &mut wal);
        // An entry that was written again is read from its new place.
        for index in 1..=round / 20 {
            let at = LogIndex(index);
            if let Ok(plan) = wal.plan_read(GroupId(10), at, at, 1) {
                assert_eq!(plan.run().unwrap().as_slice(), [entry(20 * index, index, b"")]);
                assert_eq!(index, round / 20);
            }
        }
    }
    assert!(wal.metrics().recycled > 50, "{:?}", wal.metrics());
    sim.platter.crash();
    drop(wal);
    sim.platter.set_segments_left(None);
    let (wal, recovered) = sim.open();
    assert_eq!(recovered.destroyed, [Destroyed { group: destroyed, since: LogIndex::ZERO }]);
    assert_eq!(recovered.groups[0].last, LogIndex(last));
    for group in &recovered.groups[1..] {
        assert_eq!(group.hard_state, hard_state(200, 1, 9));
        assert_eq!((group.released, group.last), (LogIndex(9), LogIndex(10)));
        assert_eq!(read_all(&wal, group), [entry(200, 10, b"")]);
    }
}

/// RULES.md rules 28, 29; W16.
/// The bug: what was written again was entries alone, and a snapshot or an install in the segment of votes went with it.
#[test]
fn a_segment_of_votes_is_written_again_with_the_snapshots_and_installs_in_it() {
    for seed in 0..8 {
        let (sim, mut wal, last) = full_disk(seed, 256 << 10, 64 << 10);
        let files = sim.platter.segments().len();
        let id = |term, index| LogId { term: Term(term), index: LogIndex(index) };
        let first = Kept::new(3, id(1, 1), 3_000, true);
        let second = Kept::new(3, id(2, 2), 9_000, true);
        let installing = Installing { at: id(2, 40), digest: 9 };
        let ended = Installing { at: id(1, 30), digest: 8 };
        vote_through_segments(&sim, &mut wal, 1);
        // Group 3 lets its log go twice, group 4 is about to install a snapshot, group 5 has installed one.
        wal.append(&write(3, 1, &[entry(1, 1, b"")])).unwrap();
        wal.release(&released_with(3, &first)).unwrap();
        wal.release(&released_with(3, &second)).unwrap();
        wal.install(&Install { group: GroupId(4), write: WriteId(1), snapshot: installing })
            .unwrap();
        wal.install(&Install { group: GroupId(5), write: WriteId(1), snapshot: ended }).unwrap();
        let installed = Kept::new(5, ended.at, 500, true);
        wal.release(&released_with(5, &installed)).unwrap();
        sim.settle(&mut wal);
        let check = |wal: &Wal| {
            for (group, kept) in [(3, &second), (5, &installed)] {
                let content = wal.plan_snapshot(GroupId(group)).unwrap().run().unwrap();
                assert_eq!(content, kept.content);
            }
            assert!((9_500..9_900).contains(&wal.usage().snapshots), "{:?}", wal.usage());
        };
        check(&wal);
        let live = wal.usage().live;
        vote_through_segments(&sim, &mut wal, 5);
        check(&wal);
        assert_eq!(wal.usage().live, live);
        for _ in 0..2 {
            sim.platter.crash();
            drop(wal);
            let (again, recovered) = open_with_room_for_one(&sim, files);
            wal = again;
            let found: Vec<_> = recovered.groups.iter().map(|group| group.group.get()).collect();
            assert_eq!(found, [1, 2, 3, 4, 5]);
            assert_eq!(recovered.groups[0].last, LogIndex(last));
            let [third, fourth, fifth] = &recovered.groups[2..] else { panic!("three groups") };
            assert_eq!((third.released, third.released_term), (LogIndex(2), Term(2)));
            assert_eq!(
                (third.snapshot, &third.membership[..]),
                (Some(second.mark), &b"members"[..])
            );
            assert_eq!((fourth.installing, fourth.snapshot), (Some(installing), None));
            assert_eq!((fifth.installing, fifth.snapshot), (None, Some(installed.mark)));
            check(&wal);
            vote_through_segments(&sim, &mut wal, 3);
            check(&wal);
        }
        assert_eq!(inspected(&sim), []);
    }
}

/// A release up to a snapshot's entry.
fn released_with(group: u64, kept: &Kept) -> Release<'_> {
    let (index, term) = (kept.mark.at.index.get(), kept.mark.at.term.get());
    let plain = released(group, index, term);
    Release { membership: b"members", snapshot: Some(kept.snapshot()), ..plain }
}

/// Group 2 votes until so many segments of votes were written again and made segments anew.
fn vote_through_segments(sim: &Sim, wal: &mut Wal, segments: u64) {
    let upto = wal.metrics().recycled + segments;
    let mut term = 0;
    while wal.metrics().recycled < upto {
        term += 1;
        assert!(term < 10_000, "no segment of votes is written again: {:?}", wal.metrics());
        wal.append(&state(2, term, hard_state(term, 1, 0))).unwrap();
        sim.settle(wal);
        sim.platter.complete_all();
        wal.poll(0, &mut Vec::new()).unwrap();
    }
}
