//! Snapshots that the log keeps: they are carried for ever, the later one counts, and what they stand for leaves.

mod common;
mod forge;

use common::busy::*;
use common::model::Kept;
use common::*;
use forge::SegmentBytes;
use logdrive_raft::{GroupId, LogId, LogIndex, Term, WriteId};
use logdrive_wal::{
    Append, Install, Installing, ReadError, Release, SegmentSeq, Snapshot, SnapshotContent, Wal,
    WalError,
};

fn id(term: u64, index: u64) -> LogId {
    LogId { term: Term(term), index: LogIndex(index) }
}

/// A release with a snapshot at its base.
fn kept(group: u64, base: LogId, kept: &Kept) -> Release<'_> {
    let plain = released(group, base.index.get(), base.term.get());
    Release { membership: b"members", snapshot: Some(kept.snapshot()), ..plain }
}

fn read(wal: &Wal, group: u64) -> Result<Vec<u8>, ReadError> {
    Ok(wal.plan_snapshot(GroupId(group))?.run()?.to_vec())
}

/// RULES.md rule 28, S6.
#[test]
fn a_snapshot_in_the_log_outlives_every_segment_and_every_restart() {
    for bytes in [10, 5_000, 40_000] {
        let sim = Sim::new(7);
        let (mut wal, _) = sim.open();
        wal.append(&write(3, 1, &entries(3, 1, 1, 4, 100))).unwrap();
        let first = Kept::new(3, id(1, 4), bytes, true);
        wal.release(&kept(3, id(1, 4), &first)).unwrap();
        let in_files = Kept::new(4, id(1, 2), bytes, false);
        wal.append(&write(4, 1, &entries(4, 1, 1, 2, 100))).unwrap();
        wal.release(&kept(4, id(1, 2), &in_files)).unwrap();
        let mut busy = Busy::new(1);
        let mut log = Some(wal);
        for round in 0..6 {
            let mut wal = log.take().unwrap();
            for _ in 0..30 {
                turn_over(&sim, &mut wal, &mut busy).unwrap();
                assert_eq!(read(&wal, 3).unwrap(), first.content);
            }
            assert!(wal.metrics().retired > 0, "round {round}: nothing is given back");
            match round % 2 {
                0 => wal.close().unwrap(),
                _ => {
                    sim.platter.crash();
                    drop(wal);
                }
            }
            let (wal, recovered) = sim.open();
            let marks: Vec<_> = recovered.groups.iter().map(|group| group.snapshot).collect();
            assert_eq!(marks, [None, Some(first.mark), Some(in_files.mark)], "round {round}");
            assert_eq!(&recovered.groups[1].membership[..], b"members");
            assert_eq!(read(&wal, 3).unwrap(), first.content);
            assert!(matches!(read(&wal, 4), Err(ReadError::NoSnapshot(GroupId(4)))));
            assert_eq!(inspected(&sim), []);
            log = Some(wal);
        }
    }
}

/// The earlier snapshot's bytes are dead, and so is an install that has ended.
#[test]
fn a_later_snapshot_replaces_the_earlier_one_and_a_release_behind_it_drops_it() {
    let sim = Sim::new(8);
    let (mut wal, _) = sim.open();
    wal.append(&write(3, 1, &entries(3, 1, 1, 6, 100))).unwrap();
    let (first, second) = (Kept::new(3, id(1, 2), 9000, true), Kept::new(3, id(1, 5), 500, true));
    wal.release(&kept(3, id(1, 2), &first)).unwrap();
    assert!((9072..9200).contains(&wal.usage().snapshots), "{:?}", wal.usage());
    // A snapshot ahead of the release: what is between them is kept for followers.
    wal.release(&kept(3, id(1, 3), &second)).unwrap();
    assert!((572..700).contains(&wal.usage().snapshots), "{:?}", wal.usage());
    sim.settle(&mut wal);
    assert_eq!(read(&wal, 3).unwrap(), second.content);
    let live = wal.usage().live;
    let snapshot = Installing { at: id(4, 40), digest: 9 };
    wal.install(&Install { group: GroupId(3), write: WriteId(2), snapshot }).unwrap();
    assert_eq!(wal.usage().live, live + 48);
    wal.release(&released(3, 6, 1)).unwrap();
    assert_eq!(wal.usage().snapshots, 0);
    sim.settle(&mut wal);
    assert!(matches!(read(&wal, 3), Err(ReadError::NoSnapshot(_))));
    drop(wal);
    let (mut wal, recovered) = sim.open();
    assert_eq!(
        (recovered.groups[0].snapshot, recovered.groups[0].installing),
        (None, Some(snapshot))
    );
    let third = Kept::new(3, id(4, 40), 20, true);
    wal.release(&kept(3, id(4, 40), &third)).unwrap();
    sim.settle(&mut wal);
    drop(wal);
    let (_, recovered) = sim.open();
    let group = &recovered.groups[0];
    assert_eq!(
        (group.snapshot, group.installing, group.last),
        (Some(third.mark), None, LogIndex(40))
    );
}

/// RULES.md rule 15.
#[test]
fn what_was_released_counts_as_committed_and_a_late_release_undoes_nothing() {
    let sim = Sim::new(9);
    let (mut wal, _) = sim.open();
    let run = entries(3, 1, 1, 9, 10);
    wal.append(&Append { hard_state: Some(hard_state(2, 1, 1)), ..write(3, 1, &run) }).unwrap();
    let first = Kept::new(3, id(1, 8), 300, true);
    wal.release(&kept(3, id(1, 7), &first)).unwrap();
    let late = Kept::new(3, id(1, 4), 300, true);
    let hard_state = Some(hard_state(1, 2, 4));
    let late = Release { write: Some(WriteId(5)), hard_state, ..kept(3, id(1, 4), &late) };
    wal.release(&late).unwrap();
    // The late release changes nothing, and the write that came with it completes all the same.
    let completed = sim.settle(&mut wal);
    assert!(completed.iter().flat_map(|done| &done.durable).any(|it| it.covers(WriteId(5))));
    drop(wal);
    let (_wal, recovered) = sim.open();
    let group = &recovered.groups[0];
    assert_eq!((group.released, group.last), (LogIndex(7), LogIndex(9)));
    assert_eq!((group.hard_state.commit, group.hard_state.term), (LogIndex(7), Term(2)));
    assert_eq!(group.snapshot, Some(first.mark));
}

#[test]
fn a_read_tells_what_was_released_from_what_never_was() {
    let sim = Sim::new(10);
    let (mut wal, _) = sim.open();
    wal.append(&write(3, 1, &entries(3, 2, 1, 9, 10))).unwrap();
    wal.release(&released(3, 4, 2)).unwrap();
    sim.settle(&mut wal);
    let plan = |first, last| wal.plan_read(GroupId(3), LogIndex(first), LogIndex(last), 1000);
    for first in [1, 4] {
        let base = match plan(first, 9) {
            Err(ReadError::Compacted { base, .. }) => base,
            other => panic!("{:?}", other.map(|_| ())),
        };
        assert_eq!(base, id(2, 4));
    }
    assert!(matches!(plan(9, 10), Err(ReadError::OutOfRange { end: LogIndex(9), .. })));
    assert!(matches!(plan(10, 10), Err(ReadError::OutOfRange { end: LogIndex(9), .. })));
    assert_eq!(plan(5, 9).unwrap().run().unwrap().len(), 5);
}

/// RULES.md rule 4, C11.
/// A flipped bit of the content is found by every read, and by an inspection; to carry the snapshot then fences its group.
#[test]
fn a_damaged_snapshot_is_never_handed_out_and_fences_its_group_when_it_is_carried() {
    let sim = Sim::new(12);
    let (mut wal, _) = sim.open();
    wal.append(&write(3, 1, &entries(3, 1, 1, 4, 100))).unwrap();
    let first = Kept::new(3, id(1, 4), 3000, true);
    wal.release(&kept(3, id(1, 4), &first)).unwrap();
    let mut busy = Busy::new(1);
    while wal.durable().segment() < SegmentSeq(3) {
        busy.write(&mut wal, 10, 1000).unwrap();
        sim.settle(&mut wal);
        sim.platter.complete_all();
    }
    let at = find(&sim, SegmentSeq(1), &first.content).unwrap();
    sim.platter.flip(SegmentSeq(1), at + 1000, 4);
    match read(&wal, 3) {
        Err(ReadError::Corrupt(corrupt)) => assert!(corrupt.what.contains("content"), "{corrupt}"),
        other => panic!("{other:?}"),
    }
    // The same damage, in a batch with the right checksums: only the content's own tells.
    let mut forged = SegmentBytes::of(&sim, SegmentSeq(1));
    let batches = forged.batches();
    forged.sign(batches.iter().find(|batch| batch.records.contains(&at)).unwrap());
    sim.platter.set_segment(SegmentSeq(1), Some(forged.0));
    let found = inspected(&sim);
    assert!(found.contains(&("damaged_snapshot", (at - 72) as u64)), "{found:?}");
    busy.release_all(&mut wal).unwrap();
    let fenced = (0..20).find_map(|_| {
        sim.settle(&mut wal);
        sim.platter.complete_all();
        let fenced = wal.maintain().unwrap().map(|plan| wal.carried(plan.run()).unwrap());
        fenced.filter(|fenced| !fenced.is_empty())
    });
    assert_eq!(fenced.unwrap()[0].0, GroupId(3));
}

#[test]
fn a_release_that_fits_no_segment_is_refused_and_changes_nothing() {
    let sim = Sim::new(13);
    let (mut wal, _) = sim.open();
    wal.append(&write(3, 1, &entries(3, 1, 1, 4, 100))).unwrap();
    let before = wal.usage();
    let content = vec![1; wal.entry_bytes_max()];
    let content = SnapshotContent::InLog(&content);
    let snapshot = Some(Snapshot { at: id(1, 4), digest: 1, content });
    let refused = wal.release(&Release { snapshot, ..released(3, 4, 1) });
    assert!(matches!(refused, Err(WalError::TooLarge { .. })), "{refused:?}");
    assert_eq!(wal.usage(), before);
    assert!(
        wal.plan_read(GroupId(3), LogIndex(1), LogIndex(4), 10)
            .is_err_and(|error| { matches!(error, ReadError::NotDurable { .. }) })
    );
}

#[test]
#[should_panic(expected = "which is before")]
fn a_snapshot_before_the_release_is_a_broken_invariant() {
    let sim = Sim::new(14);
    let (mut wal, _) = sim.open();
    wal.append(&write(3, 1, &entries(3, 1, 1, 4, 100))).unwrap();
    let old = Kept::new(3, id(1, 2), 30, true);
    let _ = wal.release(&kept(3, id(1, 3), &old));
}

/// Changes a batch of the first segment, makes its checksums right again, and opens the log, which is refused.
fn refusal(sim: &Sim, batch: usize, change: impl FnOnce(&mut SegmentBytes, usize)) -> WalError {
    let mut bytes = SegmentBytes::of(sim, SegmentSeq(1));
    let place = bytes.batches()[batch].clone();
    change(&mut bytes, place.records.start);
    bytes.sign(&place);
    sim.platter.set_segment(SegmentSeq(1), Some(bytes.0));
    sim.try_open().err().expect("it is refused")
}

#[test]
fn a_snapshot_before_what_was_released_is_a_senseless_record() {
    let sim = Sim::new(1);
    let (mut wal, _) = sim.open();
    wal.append(&write(1, 1, &entries(1, 1, 1, 5, 100))).unwrap();
    wal.release(&released(1, 2, 1)).unwrap();
    sim.settle(&mut wal);
    let later = Kept::new(1, id(1, 3), 40, true);
    wal.release(&Release { snapshot: Some(later.snapshot()), ..released(1, 2, 1) }).unwrap();
    sim.settle(&mut wal);
    sim.platter.complete_all();
    sim.platter.crash();
    let error = refusal(&sim, 2, |bytes, at| {
        assert_eq!(bytes.0[at], 11, "a snapshot");
        bytes.put(at + 16, &1u64.to_le_bytes());
        bytes.sign_snapshot(at);
    });
    assert!(error.to_string().ends_with("[senseless_record]"), "{error}");
    assert_eq!(inspected(&sim)[0].0, "senseless_record");
}

/// RULES.md rule 30, P8.
#[test]
fn an_entry_of_an_unknown_kind_is_refused_with_its_kind_named() {
    let sim = Sim::new(1);
    let (mut wal, _) = sim.open();
    wal.append(&write(1, 1, &entries(1, 1, 1, 5, 100))).unwrap();
    sim.settle(&mut wal);
    sim.platter.complete_all();
    sim.platter.crash();
    let error = refusal(&sim, 1, |bytes, at| {
        assert_eq!(bytes.0[at], 4, "entries");
        bytes.put(at + 40 + 8 + 3, &[5]);
        bytes.sign_entries(at);
    });
    let named =
        matches!(error, WalError::Version { what: "an entry of kind", found: 5, known: 4, .. });
    assert!(named, "{error}");
    assert_eq!(inspected(&sim)[0].0, "unknown_record");
}
