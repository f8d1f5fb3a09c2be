//! The log against a model, with crashes: what was acknowledged is there, what follows it is a prefix of what
//! was written, and a second recovery finds what the first found.

mod common;

use common::model::{Atom, Model, State, state_of};
use common::*;
use logdrive_raft::{GroupId, LogIndex, Term, WriteId};
use logdrive_wal::ReadError;
use proptest::prelude::*;
use std::collections::BTreeMap;

#[derive(Clone, Copy, Debug)]
enum Step {
    Append { group: u64, back: u64, count: u64, bytes: usize, bump: bool, state: bool },
    Submit,
    Complete,
    Poll,
    Read { group: u64 },
    LandLate,
    Crash { power: bool, during_open: Option<u64> },
}

fn step() -> impl Strategy<Value = Step> {
    let append = (1u64..4, 0u64..6, 0u64..12, 1usize..900, any::<bool>(), any::<bool>()).prop_map(
        |(group, back, count, bytes, bump, state)| Step::Append {
            group,
            back,
            count,
            bytes,
            bump,
            state,
        },
    );
    prop_oneof![
        8 => append,
        4 => Just(Step::Submit),
        4 => Just(Step::Complete),
        4 => Just(Step::Poll),
        2 => (1u64..4).prop_map(|group| Step::Read { group }),
        1 => Just(Step::LandLate),
        1 => (any::<bool>(), proptest::option::of(0u64..40))
            .prop_map(|(power, during_open)| Step::Crash { power, during_open }),
    ]
}

fn run(seed: u64, steps: &[Step]) {
    let mut sim = Sim::new(seed);
    let (mut wal, _) = sim.open();
    let mut model = Model::new(State::new());
    let mut terms: BTreeMap<u64, u64> = BTreeMap::new();
    for (n, step) in steps.iter().enumerate() {
        match *step {
            Step::Append { group, back, count, bytes, bump, state } => {
                let committed = model.committed(group).get();
                let now = model.now.entry(group).or_default();
                let term = terms.entry(group).or_insert(1);
                let len = now.entries.len() as u64;
                // Entries are replaced only by entries of a later term.
                let from = (len + 1).saturating_sub(back).max(committed + 1);
                let first = if bump { from } else { len + 1 };
                *term += u64::from(bump);
                let mut atoms = Vec::new();
                if state || bump {
                    atoms.push(Atom::Membership(group, vec![7; bytes % 50]));
                    // Some commit indices cover entries of the same write.
                    let commit = (first + count - 1).saturating_sub(back).max(committed);
                    atoms.push(Atom::HardState(group, hard_state(*term, 1 + group, commit)));
                }
                let run = entries(group, *term, first, count, bytes);
                atoms.extend(run.into_iter().map(|entry| Atom::Entry(group, entry)));
                model.append(&mut wal, group, atoms);
            }
            Step::Submit => wal.submit(n as u64).unwrap(),
            Step::Complete => sim.platter.complete_some(),
            Step::Poll => {
                let mut completed = Vec::new();
                wal.poll(n as u64, &mut completed).unwrap();
                assert!(completed.iter().all(|completed| completed.stamp <= n as u64));
                model.acknowledge(&completed);
            }
            Step::Read { group } => {
                let Some(state) = model.now.get(&group) else { continue };
                let last = LogIndex(state.entries.len() as u64);
                match wal.plan_read(GroupId(group), LogIndex(1), last, 5000) {
                    Ok(plan) => {
                        let back = plan.run().unwrap();
                        assert!(!back.is_empty());
                        assert_eq!(back.as_slice(), &state.entries[..back.len()]);
                    }
                    Err(ReadError::NotDurable { .. }) => {}
                    Err(ReadError::UnknownGroup(_) | ReadError::OutOfRange { .. }) => {
                        assert_eq!(last, LogIndex(0));
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            Step::LandLate => sim.platter.land_late(),
            Step::Crash { power, during_open } => {
                if power {
                    sim.platter.crash()
                } else {
                    sim.platter.kill()
                }
                drop(wal);
                // A second crash, in the middle of recovery, changes nothing (W3).
                if let Some(at) = during_open {
                    sim.platter.set_power_fails_in(Some(at));
                    if let Ok((wal, recovered)) = sim.try_open() {
                        sim.platter.set_power_fails_in(None);
                        model.check(&state_of(&wal, &recovered));
                    }
                    sim.platter.crash();
                }
                // From here on, new segments may have another size.
                sim.config.segment_bytes = [64 << 10, 96 << 10, 256 << 10][n % 3];
                let (again, recovered) = sim.open();
                wal = again;
                let found = model.check(&state_of(&wal, &recovered));
                // A second recovery, with nothing written in between, finds the same.
                let twin = sim.fork(n as u64);
                let (twin_wal, twin_recovered) = twin.open();
                assert_eq!(twin_recovered.groups, recovered.groups);
                assert_eq!(twin_recovered.cut, None);
                drop(twin_wal);
                for (group, state) in &found {
                    let highest = state.entries.last().map_or(0, |entry| entry.term.get());
                    let term = terms.entry(*group).or_insert(1);
                    *term = (*term).max(highest).max(state.hard_state.term.get()) + 1;
                }
                model = Model::new(found);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// RULES.md W1, W2, W3, W8, W14.
    #[test]
    fn recovery_finds_a_prefix_with_all_that_was_acknowledged(
        seed: u64,
        steps in proptest::collection::vec(step(), 1..150),
    ) {
        run(seed, &steps);
    }
}

/// RULES.md W2.
/// One durable batch, then two in flight, with every combination of their pieces of 1 KiB that may have landed.
#[test]
fn every_subset_of_the_sectors_in_flight_recovers_to_a_prefix() {
    // Each of the two batches is one block of 4 KiB: four pieces each.
    for subset in 0u32..256 {
        let sim = Sim::new(u64::from(subset));
        let (mut wal, _) = sim.open();
        wal.append(&write(1, 1, &entries(1, 1, 1, 3, 50))).unwrap();
        sim.settle(&mut wal);
        wal.append(&write(1, 2, &entries(1, 1, 4, 20, 150))).unwrap();
        wal.submit(0).unwrap();
        wal.append(&write(1, 3, &entries(1, 1, 24, 20, 150))).unwrap();
        wal.submit(0).unwrap();
        assert_eq!(sim.platter.writes_in_flight(), 2);
        let first = 3 * 4096;
        sim.platter.crash_keeping(|_, at| subset >> ((at - first) / 1024) & 1 == 1);
        drop(wal);
        let (wal, recovered) = sim.open();
        let expected = match (subset & 15 == 15, subset >> 4 == 15) {
            (true, true) => 43,
            (true, false) => 23,
            // A whole second batch behind a torn first one does not count.
            (false, _) => 3,
        };
        assert_eq!(recovered.groups[0].last, LogIndex(expected), "subset {subset:#010b}");
        // Nothing landed, the first batch did, or both: nothing is torn.
        assert_eq!(recovered.cut.is_none(), matches!(subset, 0 | 15 | 255));
        if let (Some(cut), false) = (&recovered.cut, subset & 15 == 15) {
            assert_eq!(cut.whole_behind, u64::from(subset >> 4 == 15));
        }
        // A second crash, after more was written, does not bring back the batches that the open has cut (W2).
        drop(wal);
        let (mut wal, _) = sim.open();
        let next = expected + 1;
        wal.append(&write(1, 1, &entries(1, 2, next, 1, 10))).unwrap();
        sim.settle(&mut wal);
        sim.platter.crash();
        drop(wal);
        let (_wal, recovered) = sim.open();
        assert_eq!(recovered.groups[0].last, LogIndex(next));
        assert_eq!(recovered.cut, None);
    }
}

#[test]
fn a_tail_that_stops_at_any_byte_opens_with_all_that_was_acknowledged() {
    let sim = Sim::new(1);
    let (mut wal, _) = sim.open();
    wal.append(&write(1, 1, &entries(1, 1, 1, 3, 50))).unwrap();
    sim.settle(&mut wal);
    wal.append(&write(1, 2, &entries(1, 1, 4, 20, 150))).unwrap();
    wal.submit(0).unwrap();
    sim.platter.crash_keeping(|_, _| true);
    drop(wal);
    let used = sim.platter.segments()[0];
    let whole = sim.platter.segment(used);
    let (start, end) = (3 * 4096, 4 * 4096);
    let last_byte = start + whole[start..end].iter().rposition(|byte| *byte != 0).unwrap();
    for stop in start..=end {
        let twin = sim.fork(9);
        let mut bytes = whole.clone();
        bytes[stop..].fill(0);
        twin.platter.set_segment(used, Some(bytes));
        let (_wal, recovered) = twin.open();
        let expected = if stop > last_byte { 23 } else { 3 };
        assert_eq!(recovered.groups[0].last, LogIndex(expected), "stopped at {stop}");
        assert_eq!(recovered.cut.is_some(), expected == 3 && stop > start, "stopped at {stop}");
    }
}

/// RULES.md W11.
/// Rotation, with the power failing at every operation of it.
#[test]
fn a_power_cut_at_any_operation_of_a_rotation_loses_nothing_acknowledged() {
    for at in 0.. {
        let sim = Sim::new(at);
        let (mut wal, _) = sim.open();
        sim.platter.set_power_fails_in(Some(at));
        let mut acked = 0;
        let mut survived = true;
        'fill: for round in 0..10u64 {
            let run = entries(1, 1, 1 + round * 20, 20, 600);
            let mut completed = Vec::new();
            if wal.append(&write(1, round + 1, &run)).is_err() || wal.submit(0).is_err() {
                survived = false;
                break;
            }
            while wal.has_work() {
                sim.platter.complete_some();
                if wal.poll(0, &mut completed).is_err() {
                    survived = false;
                }
                for durable in completed.drain(..).flat_map(|completed| completed.durable) {
                    acked = durable.upto().0 * 20;
                }
                if !survived {
                    break 'fill;
                }
            }
        }
        sim.platter.crash();
        drop(wal);
        let (wal, recovered) = sim.open();
        let last = recovered.groups.first().map_or(0, |group| group.last.get());
        assert!(last >= acked, "cut at {at}: {last} of {acked} acknowledged entries");
        if let Some(group) = recovered.groups.first() {
            read_all(&wal, group);
        }
        if survived {
            assert!(at > 20, "a rotation has more operations than {at}");
            return;
        }
    }
}

/// RULES.md W12.
#[test]
fn stale_batches_of_another_segment_are_not_replayed() {
    let sim = Sim::new(3);
    let (mut wal, _) = sim.open();
    // Two batches, durable, in the first segment.
    for n in 0..2u64 {
        wal.append(&write(1, n + 1, &entries(1, 1, 1 + n * 5, 5, 2000))).unwrap();
        sim.settle(&mut wal);
    }
    sim.platter.crash();
    drop(wal);
    let old = sim.platter.segments()[0];
    let (mut wal, _) = sim.open();
    wal.append(&write(1, 1, &entries(1, 2, 11, 1, 100))).unwrap();
    sim.settle(&mut wal);
    sim.platter.crash();
    drop(wal);
    // Old batches are put behind the new ones, as if the file had been the old segment in an earlier life.
    let stale = sim.platter.segment(old);
    let new = *sim
        .platter
        .segments()
        .iter()
        .find(|s| **s > old && sim.platter.segment(**s)[4096] != 0)
        .unwrap();
    let mut bytes = sim.platter.segment(new);
    let end = 3 * 4096;
    assert!(bytes[end..].iter().all(|byte| *byte == 0) && stale[end] != 0);
    bytes[end..].copy_from_slice(&stale[end..]);
    sim.platter.set_segment(new, Some(bytes));
    let (_wal, recovered) = sim.open();
    assert_eq!(recovered.groups[0].last, LogIndex(11));
    assert_eq!(recovered.groups[0].runs.last().unwrap().term, Term(2));
}

/// RULES.md W14.
#[test]
fn the_same_index_in_another_term_is_another_write() {
    let sim = Sim::new(4);
    let (mut wal, _) = sim.open();
    wal.append(&write(1, 1, &entries(1, 1, 1, 4, 40))).unwrap();
    wal.submit(1).unwrap();
    // Entries 2 to 4 are replaced while the write that holds them is in flight.
    wal.append(&write(1, 2, &entries(1, 2, 2, 1, 40))).unwrap();
    wal.submit(2).unwrap();
    let mut completed = Vec::new();
    sim.platter.complete_all();
    wal.poll(3, &mut completed).unwrap();
    let durable: Vec<_> = completed.iter().flat_map(|c| &c.durable).map(|d| d.upto()).collect();
    assert_eq!(durable, [WriteId(1), WriteId(2)]);
    assert_eq!(completed[0].stamp, 1);
    let plan = wal.plan_read(GroupId(1), LogIndex(1), LogIndex(2), 1 << 20).unwrap();
    let terms: Vec<_> = plan.run().unwrap().as_slice().iter().map(|entry| entry.term).collect();
    assert_eq!(terms, [Term(1), Term(2)]);
    sim.platter.crash();
    drop(wal);
    let (_wal, recovered) = sim.open();
    assert_eq!(recovered.groups[0].last, LogIndex(2));
}

/// RULES.md W5.
#[test]
fn durable_is_the_contiguous_prefix_of_finished_writes() {
    // Completions come in random order; over many seeds, a later write often finishes before an earlier one.
    let mut later_first = 0;
    for seed in 0..200 {
        let sim = Sim::new(seed);
        let (mut wal, _) = sim.open();
        for n in 1..=4u64 {
            wal.append(&write(n, 1, &entries(n, 1, 1, 1, 40))).unwrap();
            wal.submit(n).unwrap();
        }
        let mut order = Vec::new();
        let mut completed = Vec::new();
        while wal.has_work() {
            let before = sim.platter.writes_in_flight();
            sim.platter.complete_some();
            let finished = before != sim.platter.writes_in_flight();
            completed.clear();
            wal.poll(9, &mut completed).unwrap();
            later_first += u32::from(finished && completed.is_empty());
            order.extend(completed.iter().map(|completed| completed.stamp));
        }
        assert_eq!(order, [1, 2, 3, 4]);
    }
    assert!(later_first > 20, "only {later_first} completions out of order");
}

/// Entries 8 to 10 of term 2 are durable and nobody committed them. The write that replaces them saves commit index 12. It
/// stands behind an entry of another group, or its own entries are large, so that its first batch holds its hard state and
/// none of its entries. That batch lands, and the power fails.
#[test]
fn a_hard_state_that_lands_without_its_entries_calls_nothing_committed_that_they_replace() {
    for (entry_bytes, before) in [(40, 12_144), (12 << 10, 0)] {
        let sim = Sim::new(1);
        let (mut wal, _) = sim.open();
        let mut model = Model::new(State::new());
        let old = [entries(1, 1, 1, 7, 40), entries(1, 2, 8, 3, 40)].concat();
        let mut append = |wal: &mut logdrive_wal::Wal, state, run: Vec<_>| {
            let mut atoms = vec![Atom::HardState(1, state)];
            atoms.extend(run.into_iter().map(|entry| Atom::Entry(1, entry)));
            model.append(wal, 1, atoms);
        };
        append(&mut wal, hard_state(3, 0, 7), old);
        sim.settle(&mut wal);
        if before > 0 {
            wal.append(&write(2, 1, &entries(2, 1, 1, 1, before))).unwrap();
        }
        append(&mut wal, hard_state(4, 0, 12), entries(1, 3, 8, 5, entry_bytes));
        wal.submit(0).unwrap();
        assert!(sim.platter.writes_in_flight() > 1, "one batch holds it all");
        sim.platter.complete_nth(0);
        sim.platter.crash_choosing(|_| false);
        drop(wal);
        let (_wal, recovered) = sim.open();
        assert!(recovered.cut.is_none(), "nothing is torn");
        let group = &recovered.groups[0];
        assert_eq!((group.hard_state.term, group.last), (Term(4), LogIndex(10)));
        assert_eq!(group.runs.last().map(|run| run.term), Some(Term(2)), "the old entries");
        assert!(group.hard_state.commit <= LogIndex(7), "{:?}", group.hard_state);
    }
}
