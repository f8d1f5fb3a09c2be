//! The log against a model, over random histories of appends, releases, destructions, carrying and crashes.

mod common;

use common::*;
use logdrive_raft::{Entry, GroupId, HardState, LogIndex, Term, WriteId};
use logdrive_wal::{
    Append, CarryPlan, Completed, Recovered, RecoveredGroup, Release, Wal, WalError,
};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// The smallest part of a write that a crash can keep or lose by itself.
#[derive(Clone, Debug)]
enum Atom {
    Membership(u64, Vec<u8>),
    HardState(u64, HardState),
    Entry(u64, Entry),
    Release(u64, LogIndex, Term),
    Destroy(u64),
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Group {
    membership: Vec<u8>,
    hard_state: HardState,
    released: (LogIndex, Term),
    /// The entries behind the released ones.
    entries: Vec<Entry>,
}

impl Group {
    fn last(&self) -> LogIndex {
        self.released.0.forward(self.entries.len() as u64)
    }

    fn at(&self, index: LogIndex) -> Option<&Entry> {
        let at = index.get().checked_sub(self.released.0.get() + 1)?;
        self.entries.get(usize::try_from(at).unwrap())
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
struct State {
    groups: BTreeMap<u64, Group>,
    destroyed: BTreeSet<u64>,
}

impl State {
    fn apply(&mut self, atom: &Atom) {
        match atom {
            Atom::Membership(group, bytes) => {
                self.groups.entry(*group).or_default().membership = bytes.clone();
            }
            Atom::HardState(group, hard_state) => {
                self.groups.entry(*group).or_default().hard_state = *hard_state;
            }
            Atom::Entry(group, entry) => {
                let group = self.groups.entry(*group).or_default();
                let kept = group.released.0.entries_until(entry.index.prev());
                group.entries.truncate(usize::try_from(kept).unwrap());
                group.entries.push(entry.clone());
            }
            Atom::Release(group, index, term) => {
                let group = self.groups.entry(*group).or_default();
                if *index <= group.released.0 {
                    return;
                }
                if group.at(*index).is_some_and(|entry| entry.term == *term) {
                    group.entries.retain(|entry| entry.index > *index);
                } else {
                    group.entries.clear();
                }
                group.released = (*index, *term);
            }
            Atom::Destroy(group) => {
                self.groups.remove(group);
                self.destroyed.insert(*group);
            }
        }
    }

    fn is_same(&self, other: &Self) -> bool {
        let empty = Group::default();
        let clamp = |group: &Group| {
            let mut group = group.clone();
            let commit = group.hard_state.commit.min(group.last());
            group.hard_state.commit = commit.max(group.released.0);
            group
        };
        let mut groups = self.groups.keys().chain(other.groups.keys());
        self.destroyed == other.destroyed
            && groups.all(|id| {
                let of = |state: &Self| clamp(state.groups.get(id).unwrap_or(&empty));
                of(self) == of(other)
            })
    }
}

fn state_of(wal: &Wal, recovered: &Recovered) -> State {
    let group = |group: &RecoveredGroup| {
        let entries = read_all(wal, group);
        for entry in &entries {
            let run = group.runs.iter().rev().find(|run| run.first <= entry.index).unwrap();
            assert_eq!(run.term, entry.term, "runs {:?}", group.runs);
        }
        let found = Group {
            membership: group.membership.to_vec(),
            hard_state: group.hard_state,
            released: (group.released, group.released_term),
            entries,
        };
        (group.group.get(), found)
    };
    State {
        groups: recovered.groups.iter().map(group).collect(),
        destroyed: recovered.destroyed.iter().map(|gone| gone.group.get()).collect(),
    }
}

/// The atoms written since the last open, in order, and how many of them are acknowledged.
struct Model {
    base: State,
    now: State,
    atoms: Vec<Atom>,
    /// Every write, with how many atoms had been written when it ended.
    writes: BTreeMap<WriteId, usize>,
    acked: usize,
    next_write: u64,
}

impl Model {
    fn new(base: State) -> Self {
        let now = base.clone();
        let (atoms, writes) = (Vec::new(), BTreeMap::new());
        Self { base, now, atoms, writes, acked: 0, next_write: 1 }
    }

    fn wrote(&mut self, atoms: Vec<Atom>) {
        atoms.iter().for_each(|atom| self.now.apply(atom));
        self.atoms.extend(atoms);
    }

    fn next_write(&mut self) -> WriteId {
        self.next_write += 1;
        WriteId(self.next_write)
    }

    /// Appends; false if there was no room.
    fn append(&mut self, wal: &mut Wal, group: u64, atoms: Vec<Atom>) -> bool {
        let mut membership = None;
        let mut hard_state = None;
        let mut entries = Vec::new();
        for atom in &atoms {
            match atom {
                Atom::Membership(_, bytes) => membership = Some(bytes.as_slice()),
                Atom::HardState(_, state) => hard_state = Some(*state),
                Atom::Entry(_, entry) => entries.push(entry.clone()),
                _ => unreachable!("not appended"),
            }
        }
        let write = self.next_write();
        let append =
            Append { group: GroupId(group), write, membership, hard_state, entries: &entries };
        match wal.append(&append) {
            Ok(()) => {}
            Err(WalError::NoSpace | WalError::OverQuota) => return false,
            Err(error) => panic!("{error}"),
        }
        self.wrote(atoms);
        self.writes.insert(write, self.atoms.len());
        true
    }

    /// Appends an empty write of a group that is never destroyed: once it is acknowledged, so are all atoms so far.
    fn mark(&mut self, wal: &mut Wal) {
        let write = self.next_write();
        match wal.append(&common::write(MARKS, write.0, &[])) {
            Ok(()) => {
                self.writes.insert(write, self.atoms.len());
            }
            Err(WalError::NoSpace | WalError::OverQuota) => {}
            Err(error) => panic!("{error}"),
        }
    }

    fn acknowledge(&mut self, completed: &[Completed]) {
        for durable in completed.iter().flat_map(|completed| &completed.durable) {
            self.acked = self.acked.max(self.writes[&durable.upto()]);
        }
    }

    fn check(&self, found: &State) -> State {
        let mut state = self.base.clone();
        self.atoms[..self.acked].iter().for_each(|atom| state.apply(atom));
        for n in self.acked..=self.atoms.len() {
            if state.is_same(found) {
                return state;
            }
            if let Some(atom) = self.atoms.get(n) {
                state.apply(atom);
            }
        }
        let (acked, all) = (self.acked, self.atoms.len());
        panic!("recovered state is no prefix (acked {acked} of {all}): {found:?}");
    }
}

/// The group of the empty writes.
const MARKS: u64 = 99;

#[derive(Clone, Copy, Debug)]
enum Step {
    Append { group: u64, back: u64, count: u64, bytes: usize, bump: bool, state: bool },
    Release { group: u64, keep: u64, foreign: bool },
    Destroy { group: u64 },
    Maintain,
    Deliver,
    Submit,
    Complete,
    Poll,
    Read { group: u64 },
    LandLate,
    Crash { power: bool, during_open: Option<u64> },
}

fn step() -> impl Strategy<Value = Step> {
    let append = (1u64..6, 0u64..6, 0u64..12, 1usize..3000, any::<bool>(), any::<bool>()).prop_map(
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
        20 => append,
        8 => (1u64..6, 0u64..10, 0u8..16)
            .prop_map(|(group, keep, n)| Step::Release { group, keep, foreign: n == 0 }),
        12 => Just(Step::Maintain),
        12 => Just(Step::Deliver),
        6 => Just(Step::Submit),
        12 => Just(Step::Complete),
        12 => Just(Step::Poll),
        3 => (1u64..6).prop_map(|group| Step::Read { group }),
        1 => (3u64..6).prop_map(|group| Step::Destroy { group }),
        1 => Just(Step::LandLate),
        2 => (any::<bool>(), proptest::option::of(0u64..40))
            .prop_map(|(power, during_open)| Step::Crash { power, during_open }),
    ]
}

/// How often the interesting things happened, so that the test is known to reach them.
#[derive(Debug, Default)]
struct Reached {
    carried: u64,
    retired: u64,
    recycled: u64,
    refused: u64,
    in_mid_carry: u64,
}

fn run(seed: u64, steps: &[Step], reached: &mut Reached) {
    let mut sim = Sim::new(seed);
    sim.config.log_bytes_max = seed.is_multiple_of(2).then_some(8 * sim.config.segment_bytes);
    let (mut wal, _) = sim.open();
    let mut limit = limit_of(&sim, &wal);
    let mut model = Model::new(State::default());
    let mut terms: BTreeMap<u64, u64> = BTreeMap::new();
    let mut plan: Option<CarryPlan> = None;
    for (n, step) in steps.iter().enumerate() {
        let n = n as u64;
        match *step {
            Step::Append { group, back, count, bytes, bump, state } => {
                if model.now.destroyed.contains(&group) {
                    let again = wal.append(&common::state(group, 1, hard_state(9, 1, 0)));
                    assert!(matches!(again, Err(WalError::Destroyed(_))), "{again:?}");
                    continue;
                }
                let now = model.now.groups.entry(group).or_default();
                let term = terms.entry(group).or_insert(1);
                *term = (*term).max(now.released.1.get());
                let first = if bump { now.last().next().get().saturating_sub(back) } else { 0 };
                let first = match bump {
                    true => first.max(now.released.0.get() + 1),
                    false => now.last().get() + 1,
                };
                *term += u64::from(bump);
                let mut atoms = Vec::new();
                if state {
                    // The commit index covers entries that the log has, and none of this write.
                    let commit = now.last().get().min(first - 1) / 2;
                    atoms.push(Atom::Membership(group, vec![7; bytes % 50]));
                    atoms.push(Atom::HardState(group, hard_state(*term, 1 + group, commit)));
                }
                let run = entries(group, *term, first, count, bytes);
                atoms.extend(run.into_iter().map(|entry| Atom::Entry(group, entry)));
                reached.refused += u64::from(!model.append(&mut wal, group, atoms));
            }
            Step::Release { group, keep, foreign } => {
                let Some(now) = model.now.groups.get(&group) else { continue };
                let term = terms.entry(group).or_insert(1);
                let (index, of) = if foreign {
                    // Another node's snapshot, ahead of this log or beside it.
                    *term += 1;
                    (LogIndex((now.last().get() + 3).saturating_sub(keep)), Term(*term))
                } else {
                    let index = LogIndex(now.last().get().saturating_sub(keep));
                    let Some(entry) = now.at(index) else { continue };
                    (index, entry.term)
                };
                let membership = &now.membership.clone();
                let release = Release { membership, ..released(group, index.get(), of.get()) };
                match wal.release(&release) {
                    Ok(()) => model.wrote(vec![Atom::Release(group, index, of)]),
                    Err(WalError::NoSpace | WalError::OverQuota) => {}
                    Err(error) => panic!("{error}"),
                }
                model.mark(&mut wal);
            }
            Step::Destroy { group } => {
                if model.now.groups.contains_key(&group)
                    && wal.destroy(GroupId(group), LogIndex::ZERO).is_ok()
                {
                    model.wrote(vec![Atom::Destroy(group)]);
                    model.mark(&mut wal);
                }
            }
            Step::Maintain => {
                if let Some(next) = wal.maintain().unwrap() {
                    assert!(plan.is_none(), "two plans at once");
                    plan = Some(next);
                }
            }
            Step::Deliver => {
                if let Some(plan) = plan.take() {
                    wal.carried(plan.run()).unwrap();
                }
            }
            Step::Submit => wal.submit(n).unwrap(),
            Step::Complete => sim.platter.complete_some(),
            Step::Poll => {
                let mut completed = Vec::new();
                wal.poll(n, &mut completed).unwrap();
                model.acknowledge(&completed);
            }
            Step::Read { group } => {
                let Some(state) = model.now.groups.get(&group) else { continue };
                let first = state.released.0.next();
                if let Ok(plan) = wal.plan_read(GroupId(group), first, state.last(), 5000) {
                    let back = plan.run().unwrap();
                    assert_eq!(back.as_slice(), &state.entries[..back.len()]);
                }
            }
            Step::LandLate => sim.platter.land_late(),
            // In a third of the cases crashes are rare, so that segments are recycled within one process.
            Step::Crash { .. } if seed.is_multiple_of(3) && !n.is_multiple_of(16) => {}
            Step::Crash { power, during_open } => {
                reached.in_mid_carry += u64::from(plan.take().is_some());
                note(&wal, limit, reached);
                if power {
                    sim.platter.crash();
                } else {
                    sim.platter.kill();
                }
                drop(wal);
                if let Some(at) = during_open {
                    sim.platter.set_power_fails_in(Some(at));
                    if let Ok((wal, recovered)) = sim.try_open() {
                        sim.platter.set_power_fails_in(None);
                        model.check(&state_of(&wal, &recovered));
                    }
                    sim.platter.crash();
                }
                if n.is_multiple_of(2) {
                    // Segments of another size from here on.
                    sim.config.segment_bytes = [64 << 10, 128 << 10][usize::from(power)];
                    let quota = sim.config.log_bytes_max.map(|_| 8 * sim.config.segment_bytes);
                    sim.config.log_bytes_max = quota;
                }
                let (again, recovered) = sim.open();
                wal = again;
                limit = limit_of(&sim, &wal);
                let found = model.check(&state_of(&wal, &recovered));
                let twin = sim.fork(n);
                let (twin_wal, twin_recovered) = twin.open();
                assert_eq!(twin_recovered.groups, recovered.groups);
                drop(twin_wal);
                for (group, state) in &found.groups {
                    let highest = state.entries.last().map_or(state.released.1, |entry| entry.term);
                    let term = terms.entry(*group).or_insert(1);
                    *term = (*term).max(highest.get()).max(state.hard_state.term.get()) + 1;
                }
                model = Model::new(found);
            }
        }
    }
    note(&wal, limit, reached);
}

/// The most bytes that the log may take: its quota, and more if the open was at the quota and went over it.
fn limit_of(sim: &Sim, wal: &Wal) -> Option<u64> {
    let segment = sim.config.segment_bytes;
    sim.config.log_bytes_max.map(|max| max.max(wal.usage().bytes + 2 * segment))
}

fn note(wal: &Wal, limit: Option<u64>, reached: &mut Reached) {
    let metrics = wal.metrics();
    reached.carried += metrics.carried;
    reached.retired += metrics.retired;
    reached.recycled += metrics.recycled;
    let usage = wal.usage();
    assert!(usage.live <= usage.written);
    assert!(limit.is_none_or(|limit| usage.bytes <= limit), "{usage:?}, {limit:?}");
}

/// RULES.md S6, W12, W14, M7, invariant 22.
#[test]
fn what_was_promised_is_there_whatever_is_carried_and_given_up() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
    let cases: u64 = std::env::var("LOGDRIVE_SPACE_CASES")
        .map_or(150, |cases| cases.parse().expect("a number of cases"));
    let mut reached = Reached::default();
    for case in 0..cases {
        let mut seed = [0u8; 32];
        seed[..8].copy_from_slice(&case.to_le_bytes());
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
        let mut runner = TestRunner::new_with_rng(Config::default(), rng);
        let steps = proptest::collection::vec(step(), 300..700);
        let steps = steps.new_tree(&mut runner).unwrap().current();
        let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            run(case, &steps, &mut reached);
        }));
        assert!(ran.is_ok(), "case {case} failed");
    }
    println!("{cases} cases: {reached:?}");
    assert!(reached.carried > 100 && reached.retired > 50 && reached.recycled > 20, "{reached:?}");
    assert!(reached.refused > 5 && reached.in_mid_carry > 2, "{reached:?}");
}
