//! The log against a plain map, over long random histories, each drawn from one seed.
//!
//! `LOGDRIVE_WAL_SEEDS=A..B` runs those seeds instead of the few dozen that always run. After every step that made
//! something durable, `common/reader.rs`, which shares no code with the log, reads what no power cut can take away. That
//! must be the state after a prefix of what was written, one that holds all that was acknowledged (invariants 9, 11, 13,
//! 14), also while segments are given up (22). The seed of a history that fails is printed.

mod common;

use common::model::{Atom, Group, Kept, Model, Released, State, state_of};
use common::*;
use logdrive_raft::{Entry, GroupId, LogId, LogIndex, Term, WriteId};
use logdrive_wal::disk::sim::{Answer, WriteFate};
use logdrive_wal::{Append, CarryPlan, Installing, ReadError, SnapshotPlan, Wal, WalError};
use std::collections::BTreeMap;
use std::io::ErrorKind;

/// Splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    fn size(&mut self, bound: u64) -> usize {
        usize::try_from(self.below(bound)).unwrap()
    }

    fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}

/// How often the histories of all seeds reached each event: histories that never reach one prove nothing about it.
#[derive(Debug, Default)]
pub(crate) struct Reached {
    crashes: u64,
    kills: u64,
    cuts: u64,
    poisoned: u64,
    refused: u64,
    carried: u64,
    retired: u64,
    recycled: u64,
    destroyed: u64,
    snapshots: u64,
    conflicts: u64,
    late: u64,
    closes: u64,
    /// Histories at whose end the index had listed much, and listed nothing any more.
    emptied: u64,
    /// Histories at whose end an entry was carried that no segment of the usual size holds.
    shrunk: u64,
}

struct History<'a> {
    seed: u64,
    random: Random,
    sim: Sim,
    wal: Option<Wal>,
    model: Model,
    /// The highest term each group has seen.
    terms: BTreeMap<u64, u64>,
    plan: Option<CarryPlan>,
    /// A disk error was ordered, which may poison the log.
    trouble: bool,
    /// How rarely the process ends: a process that lives long gets further, short lives end in more ways.
    end_once_in: u64,
    trace: u64,
    reached: &'a mut Reached,
}

const GROUPS: u64 = 5;

/// Groups that write only at the end of a history: one large entry, and what dies behind it.
const LARGE: u64 = GROUPS + 1;
const DEAD: u64 = GROUPS + 2;

/// Records that one group writes at the end of a history.
const RECORDS: usize = 200;

/// The most bytes that the index of a group takes when no entry of the group is left: 32 records of 24 bytes, and 32 terms
/// of 16.
const INDEX_BYTES_MAX: usize = 32 * (24 + 16);

impl<'a> History<'a> {
    fn new(seed: u64, reached: &'a mut Reached) -> Self {
        let mut random = Random(seed);
        let mut sim = Sim::new(seed);
        sim.config.batch_bytes_max = [4 << 10, 12 << 10, 64 << 10][random.size(3)];
        sim.config.in_flight_max = [1, 2, 4][random.size(3)];
        sim.config.spare_segments = 1 + random.size(2);
        sim.config.log_bytes_max = random.once_in(3).then_some(10 * (64 << 10));
        sim.platter.set_page_cache(random.once_in(4));
        let end_once_in = [1, 3, 12][random.size(3)];
        let (wal, _) = sim.open();
        Self {
            seed,
            end_once_in,
            random,
            sim,
            wal: Some(wal),
            model: Model::new(State::new()),
            terms: BTreeMap::new(),
            plan: None,
            trouble: false,
            trace: 0xCBF2_9CE4_8422_2325,
            reached,
        }
    }

    fn note(&mut self, word: u64) {
        for byte in word.to_le_bytes() {
            self.trace = (self.trace ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3);
        }
    }

    fn wal(&mut self) -> &mut Wal {
        self.wal.as_mut().expect("open between steps")
    }

    fn step(&mut self) {
        let what = self.random.below(100);
        self.note(what);
        let outcome = match what {
            0..28 => self.append(),
            28 if self.random.once_in(4) => self.install(),
            28..32 => self.small(),
            32..38 => self.release(),
            38 if self.random.once_in(4) => self.destroy(),
            39..52 => self.wal().submit(0),
            52..66 => {
                self.sim.platter.complete_some();
                Ok(())
            }
            66..70 => {
                for _ in 0..self.random.below(12) {
                    self.sim.platter.make_step();
                }
                Ok(())
            }
            70..80 => self.poll(),
            80..88 => self.maintain(),
            88..91 => self.read(),
            91 => {
                let left = [None, Some(0), Some(1), None][self.random.size(4)];
                // Sometimes there is no room for a manifest either.
                match self.random.once_in(4) {
                    true => self.sim.platter.set_files_left(left),
                    false => self.sim.platter.set_segments_left(left),
                }
                Ok(())
            }
            92 if self.random.once_in(3) => {
                self.make_trouble();
                Ok(())
            }
            93 => {
                self.sim.platter.land_late();
                self.reached.late += 1;
                Ok(())
            }
            95 => self.wal().seal(0),
            94 if self.random.once_in(self.end_once_in) => {
                self.end();
                Ok(())
            }
            _ => Ok(()),
        };
        match outcome {
            Ok(()) => {}
            Err(WalError::NoSpace | WalError::OverQuota) => self.reached.refused += 1,
            Err(error) => {
                assert!(self.trouble, "seed {}: {error}", self.seed);
                self.stay_poisoned();
                self.end();
            }
        }
        if what.is_multiple_of(8) {
            self.model.check(&reader::durable_state(&self.sim.platter));
        }
    }

    fn group(&mut self) -> Option<u64> {
        let group = 1 + self.random.below(GROUPS);
        let is_gone = self.model.now.get(&group).is_some_and(|group| group.destroyed);
        (!is_gone).then_some(group)
    }

    fn append(&mut self) -> Result<(), WalError> {
        let Some(group) = self.group() else { return Ok(()) };
        let committed = self.model.committed(group).get();
        let now = self.model.now.entry(group).or_default();
        let (first, last) = (now.released.0.get() + 1, now.last().get());
        let term = self.terms.entry(group).or_insert(1);
        let mut from = last + 1;
        let is_new_term = self.random.once_in(6);
        if is_new_term {
            *term += 1;
            from = first.max(last.saturating_sub(self.random.below(6))).max(committed + 1);
            self.reached.conflicts += u64::from(from <= last);
        }
        let term = *term;
        let large = self.wal().entry_bytes_max();
        let (count, bytes) = match self.random.below(5) {
            // The largest entry that fits: no smaller segment of a later open has room for it.
            _ if self.random.once_in(60) => (1, large),
            0 => (8, 3000),
            1 => (1, 0),
            _ => (1 + self.random.below(6), 1 + self.random.size(700)),
        };
        let mut atoms = Vec::new();
        if is_new_term || self.random.once_in(3) {
            // Half of these hard states cover some of the entries of the same write.
            let more = if self.random.once_in(2) { from + count - 1 - committed } else { 0 };
            let commit = committed + self.random.below(more + 1);
            atoms.push(Atom::HardState(group, hard_state(term, 1 + group, commit)));
        }
        let entries = entries(group, term, from, count, bytes).into_iter();
        atoms.extend(entries.map(|entry| Atom::Entry(group, entry)));
        let wal = self.wal.as_mut().expect("open");
        self.model.try_append(wal, group, atoms)
    }

    fn small(&mut self) -> Result<(), WalError> {
        let Some(group) = self.group() else { return Ok(()) };
        let term = self.terms.entry(group).or_insert(1);
        *term += 1;
        let commit = self.model.committed(group).get();
        let state = hard_state(*term, self.random.below(4), commit);
        let mut atoms = vec![Atom::HardState(group, state)];
        if self.random.once_in(3) {
            let membership = vec![7; 1 + self.random.size(90)];
            atoms.insert(0, Atom::Membership(group, membership));
        }
        let wal = self.wal.as_mut().expect("open");
        self.model.try_append(wal, group, atoms)
    }

    fn release(&mut self) -> Result<(), WalError> {
        let Some(group) = self.group() else { return Ok(()) };
        let Some(now) = self.model.now.get(&group) else { return Ok(()) };
        let (index, term) = if self.random.once_in(8) {
            // A release for state that came from elsewhere, up to an entry that this log never had.
            let term = self.terms.entry(group).or_insert(1);
            *term += 1;
            (now.last().forward(1 + self.random.below(5)), Term(*term))
        } else {
            // Mostly nearly all entries are released, or no segment would ever be given back.
            let behind = self.random.size(8);
            let Some(entry) = now.entries.iter().rev().nth(behind) else { return Ok(()) };
            (entry.index, entry.term)
        };
        let at = self.snapshot_at(group, LogId { term, index });
        let snapshot = at.map(|at| {
            let bytes = [60, 3000, 20_000][self.random.size(3)];
            Kept::new(group, at, bytes, !self.random.once_in(4))
        });
        let hard_state = self.random.once_in(3).then(|| {
            let term = self.terms.entry(group).or_insert(1);
            *term += 1;
            let commit = self.model.committed(group).max(index).get();
            hard_state(*term, self.random.below(4), commit)
        });
        self.reached.snapshots += u64::from(snapshot.is_some());
        let membership = vec![8; 1 + self.random.size(90)];
        let base = LogId { term, index };
        let wal = self.wal.as_mut().expect("open");
        self.model.try_release(wal, Released { group, base, membership, hard_state, snapshot })
    }

    /// The entry at which a snapshot comes with a release up to `base`, if one comes: at the base or behind it, and not
    /// before an earlier one.
    fn snapshot_at(&mut self, group: u64, base: LogId) -> Option<LogId> {
        if self.random.once_in(2) {
            return None;
        }
        let now = &self.model.now[&group];
        let least = now.snapshot.as_ref().map_or(LogIndex::ZERO, |kept| kept.mark.at.index);
        let stays = now.entries.iter().any(|entry| entry.id() == base);
        let behind = now.entries.iter().filter(|entry| stays && entry.index > base.index);
        let all = [base].into_iter().chain(behind.map(Entry::id));
        let all: Vec<LogId> = all.filter(|at| at.index >= least).collect();
        (!all.is_empty()).then(|| all[self.random.size(all.len() as u64)])
    }

    /// A snapshot from elsewhere is about to replace the group's machine.
    fn install(&mut self) -> Result<(), WalError> {
        let Some(group) = self.group() else { return Ok(()) };
        let Some(now) = self.model.now.get(&group) else { return Ok(()) };
        let (term, ahead) = (self.terms.get(&group).map_or(1, |term| *term), self.random.below(9));
        let at = LogId { term: Term(term), index: now.released.0.forward(1 + ahead) };
        let wal = self.wal.as_mut().expect("open");
        self.model.try_install(wal, group, Installing { at, digest: u128::from(ahead) << 70 })
    }

    fn destroy(&mut self) -> Result<(), WalError> {
        let Some(group) = self.group() else { return Ok(()) };
        self.reached.destroyed += 1;
        let wal = self.wal.as_mut().expect("open");
        self.model.try_destroy(wal, group)?;
        let again = wal.append(&Append { write: WriteId(0), ..write(group, 0, &[]) });
        assert!(matches!(again, Err(WalError::Destroyed(_))), "{again:?}");
        Ok(())
    }

    fn poll(&mut self) -> Result<(), WalError> {
        let mut completed = Vec::new();
        let polled = self.wal().poll(0, &mut completed);
        self.model.acknowledge(&completed);
        let acked = self.model.acked() as u64;
        self.note(acked);
        if !completed.is_empty() {
            self.model.check(&reader::durable_state(&self.sim.platter));
        }
        polled
    }

    fn maintain(&mut self) -> Result<(), WalError> {
        match self.plan.take() {
            // Sometimes the plan is held back, while the log goes on.
            Some(plan) if self.random.once_in(2) => self.plan = Some(plan),
            Some(plan) => drop(self.wal().carried(plan.run())?),
            None => self.plan = self.wal().maintain()?,
        }
        Ok(())
    }

    fn read(&mut self) -> Result<(), WalError> {
        let group = 1 + self.random.below(GROUPS);
        let empty = Group::default();
        let now = self.model.now.get(&group).unwrap_or(&empty);
        if let Some(kept) = now.snapshot.as_ref().filter(|kept| kept.mark.is_in_log) {
            let wal = self.wal.as_ref().expect("open");
            match wal.plan_snapshot(GroupId(group)).map(SnapshotPlan::run) {
                Ok(Ok(content)) => assert_eq!(content, kept.content, "seed {}", self.seed),
                Ok(Err(error)) => assert!(self.trouble, "seed {}: {error}", self.seed),
                Err(ReadError::NoSnapshot(_)) => {}
                Err(error) => panic!("seed {}: {error}", self.seed),
            }
        }
        let Some(first) = now.entries.first().map(|entry| entry.index) else { return Ok(()) };
        let skip = self.random.below(now.entries.len() as u64);
        let from = first.forward(skip);
        let wal = self.wal.as_ref().expect("open");
        match wal.plan_read(GroupId(group), from, now.last(), 5000) {
            Ok(plan) => match plan.run() {
                Ok(back) => {
                    let expected: Vec<&Entry> = now
                        .entries
                        .iter()
                        .skip(usize::try_from(skip).unwrap())
                        .take(back.len())
                        .collect();
                    assert!(!back.is_empty() && back.as_slice().iter().eq(expected));
                }
                Err(error) => assert!(self.trouble, "seed {}: {error}", self.seed),
            },
            Err(ReadError::NotDurable { .. }) => {}
            Err(error) => panic!("seed {}: {error}", self.seed),
        }
        Ok(())
    }

    /// Orders a failure of the disk at one of its next operations.
    fn make_trouble(&mut self) {
        let n = self.random.below(4);
        let fate = match self.random.below(6) {
            0 => WriteFate::Error(ErrorKind::Other),
            1 => WriteFate::ErrorButThere(ErrorKind::Other),
            2 => WriteFate::ErrorThenLies(ErrorKind::Other),
            // No error: the write is interrupted, then short, and at last whole.
            3 => WriteFate::Answers(vec![
                Answer::Error(ErrorKind::Interrupted),
                Answer::Bytes(4096 + 512),
                Answer::Error(ErrorKind::WouldBlock),
            ]),
            4 => WriteFate::Answers(vec![Answer::Bytes(512), Answer::Bytes(0)]),
            _ => {
                self.sim.platter.fail_operation(self.random.below(30));
                self.trouble = true;
                return;
            }
        };
        self.sim.platter.set_fate(n, fate);
        self.trouble = true;
    }

    /// After the first failure nothing is taken, nothing written, nothing acknowledged.
    fn stay_poisoned(&mut self) {
        self.reached.poisoned += 1;
        let writes = self.sim.platter.writes();
        for _ in 0..2 {
            self.sim.platter.complete_all();
            let mut completed = Vec::new();
            let polled = self.wal().poll(0, &mut completed);
            assert!(matches!(polled, Err(WalError::Poisoned { .. })) && completed.is_empty());
            assert!(self.wal().submit(0).is_err() && self.wal().maintain().is_err());
            let vote = self.wal().append(&state(1, 1, hard_state(9999, 1, 0)));
            assert!(matches!(vote, Err(WalError::Poisoned { .. } | WalError::Destroyed(_))));
        }
        assert_eq!(self.sim.platter.writes(), writes, "a poisoned log wrote again");
    }

    /// The process ends, one way or another, and the next one opens the log.
    fn end(&mut self) {
        self.plan = None;
        let wal = self.wal.take().expect("open");
        self.count(&wal);
        let after_trouble = std::mem::take(&mut self.trouble);
        match self.random.below(4) {
            0 if !after_trouble => {
                self.reached.kills += 1;
                self.sim.platter.kill();
                drop(wal);
            }
            1 if !after_trouble => {
                self.reached.closes += 1;
                // The close succeeds, or has no room for the open batch; then the process ends as by a crash.
                if wal.close().is_err() {
                    self.sim.platter.crash();
                }
            }
            _ => {
                self.reached.crashes += 1;
                self.sim.platter.crash();
                drop(wal);
            }
        }
        self.model.check(&reader::durable_state(&self.sim.platter));
        for _ in 0..self.random.below(3) {
            self.sim.platter.set_power_fails_in(Some(self.random.below(60)));
            if let Ok((wal, recovered)) = self.sim.try_open() {
                self.sim.platter.set_power_fails_in(None);
                self.model.check(&state_of(&wal, &recovered));
            }
            self.sim.platter.crash();
        }
        if self.random.once_in(3) {
            // Segments of another size from here on.
            let config = &mut self.sim.config;
            config.segment_bytes = [64 << 10, 96 << 10, 192 << 10][self.random.size(3)];
            config.log_bytes_max = config.log_bytes_max.map(|_| 10 * config.segment_bytes);
        }
        let (wal, recovered) = match self.sim.try_open() {
            Err(WalError::NoSpace) => {
                self.sim.platter.set_segments_left(None);
                self.sim.open()
            }
            opened => opened.unwrap_or_else(|error| panic!("seed {}: {error}", self.seed)),
        };
        self.reached.cuts += u64::from(recovered.cut.is_some());
        let found = self.model.check(&state_of(&wal, &recovered));
        for (group, state) in &found {
            let term = self.terms.entry(*group).or_insert(1);
            let highest = state.entries.last().map_or(state.released.1, |entry| entry.term);
            *term = (*term).max(highest.get()).max(state.hard_state.term.get()) + 1;
            self.trace ^= state.last().get().wrapping_mul(*group);
        }
        self.model = Model::new(found);
        self.wal = Some(wal);
    }

    /// Checks that a full disk still lets segments be given up.
    fn give_back_on_a_full_disk(&mut self) {
        if self.trouble {
            return;
        }
        self.sim.platter.set_files_left(Some(0));
        for group in 1..=GROUPS {
            let released = self.release_entries(group);
            assert!(matches!(released, Ok(()) | Err(WalError::NoSpace | WalError::OverQuota)));
        }
        for _ in 0..100 {
            self.sim.platter.complete_all();
            assert_eq!(self.sim.platter.retirements(), 0, "seed {}: a segment stays", self.seed);
            self.poll().unwrap();
            self.wal().submit(0).unwrap();
            self.maintain().unwrap();
        }
    }

    /// A group releases all entries that it has, and keeps its membership.
    fn release_entries(&mut self, group: u64) -> Result<(), WalError> {
        let Some(now) = self.model.now.get(&group).filter(|now| !now.destroyed) else {
            return Ok(());
        };
        let Some(entry) = now.entries.last() else { return Ok(()) };
        let (base, membership) = (entry.id(), now.membership.clone());
        let release = Released { group, base, membership, hard_state: None, snapshot: None };
        let wal = self.wal.as_mut().expect("open");
        self.model.try_release(wal, release)
    }

    /// A group takes many small writes, and then all groups release what they have: the index lists next to nothing any
    /// more, and must not keep memory for more.
    fn give_back_the_indexs_memory(&mut self) {
        let Some(group) = self.group() else { return };
        let term = self.terms.get(&group).copied().unwrap_or(1);
        for _ in 0..RECORDS {
            let first = self.model.now.get(&group).map_or(LogIndex::ZERO, Group::last).next();
            let entry = entries(group, term, first.get(), 1, 8).into_iter();
            let atoms = entry.map(|entry| Atom::Entry(group, entry)).collect();
            let wal = self.wal.as_mut().expect("open");
            match self.model.try_append(wal, group, atoms) {
                Ok(()) => {}
                Err(WalError::NoSpace | WalError::OverQuota) => return,
                Err(error) => panic!("seed {}: {error}", self.seed),
            }
        }
        let mut memberships = 0;
        for group in 1..=GROUPS {
            let Some(now) = self.model.now.get(&group) else { continue };
            memberships += now.membership.len();
            self.release_entries(group).unwrap();
        }
        let bytes = self.wal().metrics().index_bytes;
        let bytes_max = memberships + usize::try_from(GROUPS).unwrap() * INDEX_BYTES_MAX;
        assert!(
            bytes <= bytes_max,
            "seed {}: an index that lists nothing takes {bytes} bytes, not {bytes_max}",
            self.seed
        );
        self.reached.emptied += 1;
    }

    /// The segments become smaller than an entry that the log holds, and more than half of what is written behind that
    /// entry dies: the entry is carried, into a segment that is large enough for it.
    fn carry_into_smaller_segments(&mut self) {
        if self.sim.config.log_bytes_max.is_some() {
            return;
        }
        self.reopen(192 << 10);
        let bytes = self.wal().entry_bytes_max();
        self.write(LARGE, 1, bytes);
        self.settle();
        let large = self.wal().durable().segment();
        self.reopen(64 << 10);
        for _ in 0..20 {
            self.write(DEAD, 8, 3000);
        }
        for group in (1..=GROUPS).chain([DEAD]) {
            self.release_entries(group).unwrap();
        }
        self.settle();
        let has_gone = !self.sim.platter.segments().contains(&large);
        assert!(has_gone, "seed {}: {large:?} is not given back", self.seed);
        self.reached.shrunk += 1;
    }

    /// Writes entries of a group that nothing else writes.
    fn write(&mut self, group: u64, count: u64, bytes: usize) {
        let first = self.model.now.get(&group).map_or(LogIndex::ZERO, Group::last).next();
        let entries = entries(group, 1, first.get(), count, bytes);
        let wal = self.wal.as_mut().expect("open");
        self.model.append_entries(wal, group, entries);
    }

    /// Lets everything that is under way come to its end.
    fn settle(&mut self) {
        self.turns(200);
    }

    /// Takes turns in which nothing new is written, and everything ends.
    fn turns(&mut self, turns: u64) {
        for _ in 0..turns {
            self.sim.platter.complete_all();
            self.poll().unwrap();
            self.wal().submit(0).unwrap();
            self.maintain().unwrap();
        }
    }

    /// The power fails when all is quiet, and the next process has segments of another size.
    fn reopen(&mut self, segment_bytes: u64) {
        self.settle();
        self.plan = None;
        let wal = self.wal.take().expect("open");
        self.count(&wal);
        self.sim.platter.crash();
        drop(wal);
        self.sim.config.segment_bytes = segment_bytes;
        let (wal, recovered) = self.sim.open();
        self.model = Model::new(self.model.check(&state_of(&wal, &recovered)));
        self.wal = Some(wal);
    }

    /// Checks that a log on a full disk takes more votes than all segments that are made have room for.
    fn vote_on_a_full_disk(&mut self) {
        if self.sim.config.log_bytes_max.is_some() {
            return;
        }
        self.sim.platter.set_segments_left(Some(0));
        for term in 1..=6 * self.sim.config.segment_bytes / 4096 {
            let vote = Atom::HardState(GROUPS + 1, hard_state(term, 1, 0));
            let wal = self.wal.as_mut().expect("open");
            let taken = self.model.try_append(wal, GROUPS + 1, vec![vote]);
            assert!(taken.is_ok(), "seed {}: there is no room for vote {term}", self.seed);
            self.turns(4);
        }
        self.sim.platter.set_segments_left(None);
    }

    fn count(&mut self, wal: &Wal) {
        let metrics = wal.metrics();
        self.reached.carried += metrics.carried;
        self.reached.retired += metrics.retired;
        self.reached.recycled += metrics.recycled;
        self.note(metrics.bytes);
    }

    /// Ends the history with room and without failures: all that was written becomes durable, and a last recovery finds
    /// exactly that. Returns the checksum of the history.
    fn last_words(mut self) -> u64 {
        self.give_back_on_a_full_disk();
        self.sim.platter.set_segments_left(None);
        if self.trouble {
            self.sim.platter.crash();
            self.wal = None;
            self.plan = None;
            self.trouble = false;
            let (wal, recovered) = self.sim.open();
            self.model = Model::new(self.model.check(&state_of(&wal, &recovered)));
            self.wal = Some(wal);
        }
        self.give_back_the_indexs_memory();
        self.carry_into_smaller_segments();
        self.settle();
        self.vote_on_a_full_disk();
        self.turns(20);
        assert!(self.model.is_all_acked() && !self.wal().has_work(), "seed {}", self.seed);
        let wal = self.wal.take().expect("open");
        self.count(&wal);
        wal.close().unwrap();
        let (wal, recovered) = self.sim.open();
        let found = state_of(&wal, &recovered);
        let checked = self.model.check(&found);
        assert_eq!(checked, self.model.now, "seed {}: something is missing", self.seed);
        self.trace
    }
}

pub(crate) fn run(seed: u64, steps: u64, reached: &mut Reached) -> u64 {
    let mut history = History::new(seed, reached);
    for _ in 0..steps {
        history.step();
    }
    history.last_words()
}

fn seeds() -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("LOGDRIVE_WAL_SEEDS") else { return 0..60 };
    let parsed =
        text.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    parsed.unwrap_or_else(|| panic!("LOGDRIVE_WAL_SEEDS is a range like 0..1000, not {text:?}"))
}

/// RULES.md W1, W2, W3, W9, W14, M7, invariants 9, 11, 13, 14, 22.
#[test]
fn the_log_is_a_map_that_forgets_nothing() {
    let mut reached = Reached::default();
    for seed in seeds() {
        // A panic does not say which seed it was in; dropping this prints it.
        let named = Named(seed);
        run(seed, 350, &mut reached);
        std::mem::forget(named);
    }
    println!("{reached:?}");
    let all = [
        reached.crashes,
        reached.kills,
        reached.cuts,
        reached.poisoned,
        reached.refused,
        reached.carried,
        reached.retired,
        reached.recycled,
        reached.destroyed,
        reached.snapshots,
        reached.conflicts,
        reached.closes,
        reached.emptied,
        reached.shrunk,
    ];
    assert!(seeds().count() < 60 || all.iter().all(|count| *count > 3), "{reached:?}");
}

struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        eprintln!("the seed was {}: LOGDRIVE_WAL_SEEDS={}..{}", self.0, self.0, self.0 + 1);
    }
}

#[test]
fn the_same_seed_is_the_same_history() {
    let mut reached = Reached::default();
    for seed in 0..8 {
        assert_eq!(run(seed, 300, &mut reached), run(seed, 300, &mut reached), "seed {seed}");
    }
}
