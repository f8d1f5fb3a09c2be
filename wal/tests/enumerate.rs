//! Small histories with every possible crash: at each point, each combination of what a power cut can keep and lose.

mod common;

use common::crashes::{Image, every_crash, image};
use common::model::{Atom, Kept, Model, Released, State, state_of};
use common::*;
use logdrive_raft::{Entry, LogId, LogIndex, Term};
use logdrive_wal::disk::sim::SimPlatter;
use logdrive_wal::{Config, Installing, Wal};
use std::collections::BTreeSet;

/// A history under exploration.
struct Run {
    sim: Sim,
    wal: Wal,
    model: Model,
    /// Second crashes are tried too, at every operation of the recovery after the first.
    twice: bool,
    crashes: u32,
    /// The disks whose recovery was checked already, each with the number of acknowledged atoms.
    seen: BTreeSet<(usize, Image)>,
}

impl Run {
    fn new(seed: u64, twice: bool) -> Self {
        Self::with(seed, twice, |_| {})
    }

    fn with(seed: u64, twice: bool, configure: impl FnOnce(&mut Config)) -> Self {
        let mut sim = Sim::new(seed);
        configure(&mut sim.config);
        let (wal, _) = sim.open();
        let model = Model::new(State::new());
        Self { sim, wal, model, twice, crashes: 0, seen: BTreeSet::new() }
    }

    fn append(&mut self, group: u64, term: u64, first: u64, count: u64, bytes: usize) {
        self.model.append_entries(&mut self.wal, group, entries(group, term, first, count, bytes));
        self.explore();
    }

    /// Releases entries of term 1 up to `base`, with a membership, a hard state and a snapshot at `at`.
    fn release(&mut self, group: u64, base: u64, at: u64, bytes: usize, is_in_log: bool) {
        let snapshot = Some(Kept::new(group, id(1, at), bytes, is_in_log));
        let hard_state = Some(hard_state(1 + at, 2, at));
        let membership = vec![u8::try_from(base).unwrap(); 30];
        let release = Released { group, base: id(1, base), membership, hard_state, snapshot };
        self.model.try_release(&mut self.wal, release).unwrap();
    }

    fn submit(&mut self) {
        self.wal.submit(0).unwrap();
        self.explore();
    }

    fn complete(&mut self, n: usize) {
        self.sim.platter.complete_nth(n);
        self.explore();
    }

    fn poll(&mut self) {
        self.poll_quietly();
        self.explore();
    }

    fn poll_quietly(&mut self) {
        let mut completed = Vec::new();
        self.wal.poll(0, &mut completed).unwrap();
        self.model.acknowledge(&completed);
    }

    /// Finishes all work, without trying crashes on the way.
    fn settle(&mut self) {
        let completed = self.sim.settle(&mut self.wal);
        self.model.acknowledge(&completed);
        self.sim.platter.complete_all();
        self.wal.poll(0, &mut Vec::new()).unwrap();
    }

    /// Tries every possible crash at this point.
    fn explore(&mut self) {
        // A reader that shares nothing with the log finds all that was acknowledged (invariants 9, 13, 14).
        self.model.check(&reader::durable_state(&self.sim.platter));
        let Self { sim, model, twice, crashes, seen, .. } = self;
        let mut second = 0;
        *crashes += every_crash(&sim.platter, |platter| {
            let sim = Sim { platter, config: sim.config.clone() };
            sim.platter.set_segments_left(None);
            if !seen.insert((model.acked(), image(&sim.platter))) {
                return;
            }
            let found = recover(&sim.fork(1), model);
            if *twice {
                second += crash_during_recovery(&sim, model, &found, seen);
            }
        });
        *crashes += second;
    }

    /// Appends one entry after the other until the log goes on in another segment. The maker takes no step meanwhile.
    fn fill_to_rotation(&mut self, index: &mut u64) {
        let rotations = self.wal.metrics().rotations;
        while self.wal.metrics().rotations == rotations {
            self.model.append_entries(&mut self.wal, 1, entries(1, 1, *index, 1, 1500));
            *index += 1;
            self.wal.submit(0).unwrap();
            while self.sim.platter.writes_in_flight() > 0 {
                self.sim.platter.complete_nth(0);
                self.poll_quietly();
            }
        }
    }
}

/// Opens the log, compares what it finds with the model and with the bytes, and checks that a second open finds the same.
fn recover(sim: &Sim, model: &Model) -> State {
    let (wal, recovered) = sim.open();
    let found = state_of(&wal, &recovered);
    model.check(&found);
    drop(wal);
    assert_eq!(reader::state(&sim.platter), found, "the log and the reader differ");
    let (wal, again) = sim.open();
    assert_eq!(again.groups, recovered.groups, "a second recovery found something else");
    assert_eq!(again.cut, None);
    drop(wal);
    found
}

/// Lets the power fail at every operation of a recovery, in every way, and checks that the recovery after that finds
/// `first`, which is what one without a power cut finds. Returns the number of crashes.
fn crash_during_recovery(
    sim: &Sim,
    model: &Model,
    first: &State,
    seen: &mut BTreeSet<(usize, Image)>,
) -> u32 {
    let mut crashes = 0;
    for at in 0.. {
        let twin = Sim { platter: sim.platter.twin(), config: sim.config.clone() };
        twin.platter.set_power_fails_in(Some(at));
        let opened = twin.try_open();
        let survived = opened.is_ok();
        if survived {
            twin.platter.crash_choosing(|_| false);
        } else {
            crashes += every_crash(&twin.platter, |platter| {
                if !seen.insert((model.acked(), image(&platter))) {
                    return;
                }
                let (wal, recovered) = Sim { platter, config: sim.config.clone() }.open();
                let found = state_of(&wal, &recovered);
                model.check(&found);
                assert_eq!(&found, first, "a crash at operation {at} of the recovery");
            });
        }
        drop(opened);
        if survived {
            return crashes;
        }
    }
    unreachable!("every recovery ends")
}

/// RULES.md W1, W2, W3.
#[test]
fn every_subset_of_sectors_at_every_point_of_small_batches_twice() {
    let mut run = Run::new(1, true);
    run.append(1, 1, 1, 3, 50);
    run.submit();
    run.complete(0);
    run.poll();
    // One batch of several sectors.
    run.append(1, 1, 4, 4, 300);
    run.submit();
    run.complete(0);
    run.poll();
    // Two batches in flight, of two groups; the later one lands first.
    run.append(1, 1, 8, 2, 300);
    run.submit();
    run.append(2, 1, 1, 2, 300);
    run.submit();
    run.complete(1);
    run.poll();
    run.complete(0);
    run.poll();
    assert!(run.crashes > 500, "{} crashes", run.crashes);
}

/// RULES.md W2.
#[test]
fn three_batches_in_flight_count_up_to_the_first_torn_one() {
    let mut run = Run::new(2, false);
    for (n, first) in [1u64, 3, 5].into_iter().enumerate() {
        run.append(1, 1, first, 2, 350);
        run.submit();
        assert_eq!(run.sim.platter.writes_in_flight(), n + 1);
    }
    let in_flight = run.sim.platter.undurable();
    let sectors_per_batch = in_flight.len() / 3;
    assert!(in_flight.len() >= 6 && in_flight.len().is_multiple_of(3), "{in_flight:?}");
    for subset in 0u32..1 << in_flight.len() {
        let platter = run.sim.platter.twin();
        let kept = |sector| {
            in_flight.iter().position(|of| *of == sector).is_none_or(|n| subset >> n & 1 == 1)
        };
        platter.crash_keeping(|segment, at| kept((segment, at)));
        let whole = in_flight
            .chunks(sectors_per_batch)
            .take_while(|batch| batch.iter().all(|sector| kept(*sector)))
            .count() as u64;
        let (_wal, recovered) = Sim { platter, config: run.sim.config.clone() }.open();
        let last = recovered.groups.first().map_or(LogIndex::ZERO, |group| group.last);
        assert_eq!(last, LogIndex(2 * whole), "subset {subset:b} of {in_flight:?}");
    }
}

/// RULES.md W14.
#[test]
fn a_conflict_replaced_at_every_step_also_across_segments() {
    let mut run = Run::new(3, true);
    run.append(1, 1, 1, 2, 200);
    run.append(2, 1, 1, 1, 200);
    run.submit();
    run.complete(0);
    run.poll();
    // Entries are replaced while their write is in flight: the same index in another term (ABA), twice.
    run.append(1, 1, 3, 1, 200);
    run.submit();
    run.append(1, 2, 2, 1, 200);
    run.submit();
    run.complete(1);
    run.append(1, 3, 2, 2, 100);
    run.submit();
    run.poll();
    run.complete(1);
    run.poll();
    run.complete(0);
    run.poll();
    // The log grows over several segments; then everything from entry 2 on is replaced, which stands in the first.
    run.twice = false;
    run.append(1, 3, 4, 150, 1000);
    run.settle();
    assert!(run.sim.platter.segments().len() > 3);
    let hard_state = Atom::HardState(1, hard_state(5, 2, 1));
    let entry = entries(1, 5, 2, 1, 300).remove(0);
    run.model.append(&mut run.wal, 1, vec![hard_state, Atom::Entry(1, entry)]);
    run.twice = true;
    run.explore();
    run.submit();
    run.complete(0);
    run.poll();
    assert_eq!(run.model.now[&1].entries.len(), 2);
}

/// A write's hard state lands in an earlier batch than its entries. After a crash between the two, or between two entries,
/// nothing is called committed that is not.
#[test]
fn a_hard_state_lands_before_its_entries_at_every_crash_between_them() {
    let mut run = Run::new(7, false);
    // Entries 1 to 3 are committed. Entries 4 to 6 of term 2 are not, and are replaced.
    let write = |run: &mut Run, state, entries: Vec<Entry>| {
        let mut atoms = vec![Atom::HardState(1, state)];
        atoms.extend(entries.into_iter().map(|entry| Atom::Entry(1, entry)));
        run.model.append(&mut run.wal, 1, atoms);
        run.explore();
    };
    let old = [entries(1, 1, 1, 3, 40), entries(1, 2, 4, 3, 40)].concat();
    write(&mut run, hard_state(2, 0, 3), old);
    run.submit();
    run.complete(0);
    run.poll();
    // The entries have 12 KiB each, so a batch holds one of them.
    write(&mut run, hard_state(4, 2, 6), entries(1, 3, 4, 3, 12 << 10));
    run.wal.submit(0).unwrap();
    while run.sim.platter.writes_in_flight() > 0 {
        run.sim.platter.complete_nth(0);
        run.model.check(&reader::durable_state(&run.sim.platter));
        let platter = run.sim.platter.twin();
        platter.crash_choosing(|_| false);
        recover(&Sim { platter, config: run.sim.config.clone() }, &run.model);
        run.poll_quietly();
    }
    assert_eq!(run.model.now[&1].last(), LogIndex(6));
}

/// RULES.md W11.
/// Every step of making a segment: before it is created, after its zeros, its sync, its name, the directory's sync,
/// each of the manifest's steps, before the first batch in it. Once ahead of need, once with batches waiting for it.
#[test]
fn every_crash_at_every_step_of_a_rotation_twice() {
    for needed in [false, true] {
        let mut run = Run::new(4, false);
        run.settle();
        let mut index = 1;
        // The log goes on in the second segment, and the fifth is ordered; or the log needs the fifth before it is made.
        for _ in 0..if needed { 4 } else { 1 } {
            run.fill_to_rotation(&mut index);
        }
        run.append(1, 1, index, 1, 100);
        run.submit();
        let mut steps = 0;
        while run.sim.platter.make_step() {
            steps += 1;
            // Second crashes take much time. They are tried at two steps: the segment's name, and the manifest's, is not
            // durable there.
            run.twice = needed && matches!(steps, 4 | 8);
            run.explore();
        }
        run.poll();
        run.complete(0);
        run.poll();
        assert!(steps >= 9, "{steps} steps");
        assert!(run.crashes > 30, "{} crashes", run.crashes);
    }
}

/// RULES.md W16, rules 8, 28.
/// A segment of votes is written again into the next one; its file is given up, and made the segment after that. In the
/// first round the next segment's file is new; later it holds old batches.
#[test]
fn every_crash_while_votes_are_written_again_on_a_full_disk_twice() {
    let mut run = Run::new(8, false);
    run.settle();
    run.sim.platter.set_segments_left(Some(0));
    let files = run.sim.platter.segments().len();
    run.fill_to_rotation(&mut 1);
    let mut term = 0;
    for round in 0..4 {
        let rotations = run.wal.metrics().rotations;
        while run.wal.metrics().rotations == rotations {
            run.settle();
            term += 1;
            let vote = Atom::HardState(2, hard_state(term, 1, 0));
            run.model.append(&mut run.wal, 2, vec![vote]);
        }
        run.twice = round == 3;
        run.explore();
        run.submit();
        let mut writes = 0;
        while run.sim.platter.writes_in_flight() > 0 {
            writes += 1;
            run.complete(0);
            run.poll();
        }
        assert_eq!(writes, 3, "the rest of the first batch, its first block, the new vote");
        while run.sim.platter.make_step() {
            run.explore();
        }
        run.poll();
        assert_eq!(run.sim.platter.segments().len(), files);
    }
    assert!(run.model.is_all_acked() && term > 40, "{term} votes");
    assert!(run.wal.metrics().recycled >= 3, "{:?}", run.wal.metrics());
    assert!(run.crashes > 200, "{} crashes", run.crashes);
}

/// RULES.md W3, W11.
/// The power fails at each operation of the very first open, in every way.
#[test]
fn every_crash_of_a_first_open_leaves_an_empty_log() {
    let model = Model::new(State::new());
    let sim = Sim::new(5);
    let crashes = crash_during_recovery(&sim, &model, &State::new(), &mut BTreeSet::new());
    assert!(crashes > 20, "{crashes} crashes");
}

/// RULES.md W3, rules 8, 19.
/// A process is killed, the next one opens the log, and then the power fails: bytes that the open read may never have been
/// synced, and writes of the dead process may land late.
#[test]
fn what_a_killed_process_left_survives_every_power_cut_that_follows() {
    for seed in 0..60 {
        let mut run = Run::new(seed, false);
        run.append(1, 1, 1, 2, 300);
        run.settle();
        run.append(1, 1, 3, 2, 300);
        run.submit();
        run.append(1, 1, 5, 2, 300);
        run.submit();
        run.sim.platter.kill();
        let (wal, recovered) = run.sim.open();
        let found = state_of(&wal, &recovered);
        let seen = run.model.check(&found);
        // The state that this open reported stays there, whatever lands late and whatever the power does.
        let mut model = Model::new(seen);
        let mut wal = wal;
        let last = found[&1].entries.len() as u64;
        model.append_entries(&mut wal, 1, entries(1, 2, last, 2, 300));
        wal.submit(0).unwrap();
        every_crash(&run.sim.platter, |platter: SimPlatter| {
            recover(&Sim { platter, config: run.sim.config.clone() }, &model);
        });
        run.sim.platter.complete_all();
        let mut completed = Vec::new();
        wal.poll(0, &mut completed).unwrap();
        model.acknowledge(&completed);
        run.sim.platter.land_late();
        run.sim.platter.crash();
        recover(&run.sim, &model);
    }
}

/// RULES.md S6, W12, invariant 22.
/// The oldest segment holds the only vote of an idle group, and the entries of a slow one. They are carried, the manifest
/// passes the segment, and its file goes and comes back as another segment. Every crash at every step of it is tried.
#[test]
fn every_crash_while_a_segment_is_carried_given_up_and_recycled() {
    let mut run = Run::new(6, false);
    let vote = Atom::HardState(2, hard_state(7, 3, 0));
    run.model.append(&mut run.wal, 2, vec![Atom::Membership(2, vec![9; 20]), vote]);
    run.model.append_entries(&mut run.wal, 3, entries(3, 1, 1, 2, 100));
    // A snapshot in the log and one in files, each with its release; a group whose machine is being replaced.
    for (group, is_in_log) in [(4, true), (5, false)] {
        run.model.append_entries(&mut run.wal, group, entries(group, 1, 1, 3, 100));
        run.release(group, 2, 3, 700, is_in_log);
    }
    run.model.append_entries(&mut run.wal, 6, entries(6, 1, 1, 1, 100));
    let installing = Installing { at: id(2, 40), digest: 77 };
    run.model.try_install(&mut run.wal, 6, installing).unwrap();
    let mut index = 1;
    for _ in 0..5 {
        run.fill_to_rotation(&mut index);
        run.settle();
    }
    let released = LogIndex(index - 2);
    let base = id(1, released.get());
    let nothing =
        Released { group: 1, base, membership: Vec::new(), hard_state: None, snapshot: None };
    run.model.try_release(&mut run.wal, nothing).unwrap();
    run.model.append_entries(&mut run.wal, 1, entries(1, 1, index, 1, 100));
    run.submit();
    run.complete(0);
    run.poll();
    let (mut steps, mut carried) = (0, false);
    while run.wal.metrics().recycled == 0 {
        if let Some(plan) = run.wal.maintain().unwrap() {
            run.wal.carried(plan.run()).unwrap();
            carried = true;
            run.explore();
        }
        run.wal.submit(0).unwrap();
        // The maker takes one step at a time; at two of these steps recoveries are crashed too.
        let retired = run.wal.metrics().retired;
        while run.sim.platter.make_step() {
            steps += 1;
            run.twice = matches!(steps, 5 | 6);
            run.explore();
        }
        run.twice = false;
        run.poll_quietly();
        if run.wal.metrics().retired > retired {
            // The next segment is made of the file that was given up.
            run.fill_to_rotation(&mut index);
        }
        while run.sim.platter.writes_in_flight() > 0 {
            run.complete(0);
            run.poll_quietly();
        }
        assert!(steps < 200, "nothing is recycled");
    }
    run.explore();
    assert!(carried && steps >= 15 && run.crashes > 100, "{steps} steps, {} crashes", run.crashes);
    assert_eq!(run.model.now[&2].hard_state, hard_state(7, 3, 0));
    let kept = |group| run.model.now[&group].snapshot.as_ref().map(|kept| kept.mark.is_in_log);
    assert_eq!((kept(4), kept(5)), (Some(true), Some(false)));
    assert_eq!(run.model.now[&6].installing, Some(installing));
}

/// RULES.md rule 29.
/// A release, its membership, its hard state and its snapshot are there together or not at all, though batches are as
/// small as can be and the open one is nearly full. A later snapshot replaces an earlier one, and an install that a release
/// has ended is not there any more.
#[test]
fn every_crash_leaves_all_of_a_release_or_none_of_it() {
    let mut run = Run::with(8, true, |config| config.batch_bytes_max = 4 << 10);
    run.append(1, 1, 1, 4, 100);
    run.submit();
    run.complete(0);
    run.poll();
    let (releases, batches) = ([(2, 3, 40), (3, 4, 300)], run.wal.metrics().batches);
    for (base, at, bytes) in releases {
        // The rest of the open batch has room for a part of the release, but not for all of it.
        let mut payload = payload(2, 1, base - 1, 0);
        payload.resize(3950, 0);
        run.model.append_entries(&mut run.wal, 2, vec![entry(1, base - 1, &payload)]);
        run.release(1, base, at, bytes, true);
        run.explore();
        run.submit();
        run.explore();
        while run.sim.platter.writes_in_flight() > 0 {
            run.complete(run.sim.platter.writes_in_flight() - 1);
            run.poll();
        }
    }
    assert!(run.wal.metrics().batches >= batches + 4);
    let kept = run.model.now[&1].snapshot.as_ref().map(|kept| kept.mark.at);
    assert_eq!(kept, Some(id(1, 4)));
    // A snapshot from elsewhere, larger than a batch may be, behind the log's end: the machine is replaced, and then
    // everything becomes true together.
    let installing = Installing { at: id(3, 9), digest: 5 };
    run.model.try_install(&mut run.wal, 1, installing).unwrap();
    run.explore();
    run.submit();
    run.complete(0);
    run.poll();
    run.twice = false;
    let snapshot = Some(Kept::new(1, id(3, 9), 5000, true));
    let (membership, hard_state) = (vec![4; 9], Some(hard_state(6, 0, 9)));
    let release = Released { group: 1, base: id(3, 9), membership, hard_state, snapshot };
    run.model.try_release(&mut run.wal, release).unwrap();
    run.wal.submit(0).unwrap();
    let sectors = run.sim.platter.undurable().len();
    for kept in 0..=sectors {
        let platter = run.sim.platter.twin();
        let mut n = 0;
        platter.crash_choosing(|_| {
            n += 1;
            n <= kept
        });
        recover(&Sim { platter, config: run.sim.config.clone() }, &run.model);
    }
    run.complete(0);
    run.poll();
    assert!(run.model.is_all_acked() && run.crashes > 300, "{} crashes", run.crashes);
    let found = recover(&run.sim.fork(1), &run.model);
    let group = &found[&1];
    assert_eq!((group.released, group.installing), ((LogIndex(9), Term(3)), None));
    assert_eq!((&group.membership[..], group.hard_state.commit), (&[4; 9][..], LogIndex(9)));
}

fn id(term: u64, index: u64) -> LogId {
    LogId { term: Term(term), index: LogIndex(index) }
}
