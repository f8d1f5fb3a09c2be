//! The log as a plain map: what was written since the last open, in order, and how much of it is acknowledged.

use super::{payload, read_all};
use logdrive_raft::{Entry, GroupId, HardState, LogId, LogIndex, Term, WriteId};
use logdrive_wal::{
    Append, Completed, Destroyed, Install, Installing, Recovered, RecoveredGroup, Release,
    Snapshot, SnapshotContent, SnapshotMark, Wal, WalError,
};
use std::collections::BTreeMap;

/// The smallest part of a write that a crash can keep or lose by itself.
#[derive(Clone, Debug)]
pub(crate) enum Atom {
    Membership(u64, Vec<u8>),
    HardState(u64, HardState),
    Entry(u64, Entry),
    Release(Released),
    Installing(u64, Installing),
    Destroy(u64),
}

/// All that a release makes true together.
#[derive(Clone, Debug)]
pub(crate) struct Released {
    pub(crate) group: u64,
    pub(crate) base: LogId,
    pub(crate) membership: Vec<u8>,
    pub(crate) hard_state: Option<HardState>,
    pub(crate) snapshot: Option<Kept>,
}

/// A snapshot: its mark, and its content if that is in the log.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Kept {
    pub(crate) mark: SnapshotMark,
    pub(crate) content: Vec<u8>,
}

impl Kept {
    /// A snapshot of `bytes` bytes at an entry, which only this entry has.
    pub(crate) fn new(group: u64, at: LogId, bytes: usize, is_in_log: bool) -> Self {
        let content = payload(group, at.term.get(), at.index.get(), bytes);
        let digest = u128::from(logdrive_wal::checksum(&content)) << 64 | u128::from(group);
        let mark = SnapshotMark { at, digest, bytes: content.len() as u64, is_in_log };
        Self { mark, content: if is_in_log { content } else { Vec::new() } }
    }

    pub(crate) fn snapshot(&self) -> Snapshot<'_> {
        let SnapshotMark { at, digest, bytes, is_in_log } = self.mark;
        let content = match is_in_log {
            true => SnapshotContent::InLog(&self.content),
            false => SnapshotContent::InFiles { bytes },
        };
        Snapshot { at, digest, content }
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Group {
    /// The membership at `released`.
    pub(crate) membership: Vec<u8>,
    pub(crate) hard_state: HardState,
    pub(crate) snapshot: Option<Kept>,
    pub(crate) installing: Option<Installing>,
    /// The entry before the log's first, and its term.
    pub(crate) released: (LogIndex, Term),
    pub(crate) entries: Vec<Entry>,
    pub(crate) destroyed: bool,
}

impl Group {
    pub(crate) fn last(&self) -> LogIndex {
        self.entries.last().map_or(self.released.0, |entry| entry.index)
    }

    fn release(&mut self, release: &Released) {
        let LogId { index, term } = release.base;
        if index < self.released.0 {
            return;
        }
        self.membership = release.membership.clone();
        if index > self.released.0 {
            self.let_go(index, term);
        }
        if let Some(state) = release.hard_state {
            self.hard_state = HardState { commit: state.commit.min(self.last()), ..state };
        }
        if release.snapshot.is_some() {
            self.snapshot = release.snapshot.clone();
        }
        self.snapshot = self.snapshot.take().filter(|kept| kept.mark.at.index >= index);
        self.installing = self.installing.filter(|installing| installing.at.index > index);
    }

    fn let_go(&mut self, index: LogIndex, term: Term) {
        let known = self.entries.iter().position(|entry| entry.index == index);
        match known {
            Some(at) if self.entries[at].term == term => drop(self.entries.drain(..=at)),
            _ => self.entries.clear(),
        }
        self.released = (index, term);
    }
}

pub(crate) type State = BTreeMap<u64, Group>;

pub(crate) fn apply(state: &mut State, atom: &Atom) {
    match atom {
        Atom::Membership(group, bytes) => {
            state.entry(*group).or_default().membership = bytes.clone();
        }
        Atom::HardState(group, hard_state) => {
            state.entry(*group).or_default().hard_state = *hard_state;
        }
        Atom::Entry(group, entry) => {
            let entries = &mut state.entry(*group).or_default().entries;
            while entries.pop_if(|last| last.index >= entry.index).is_some() {}
            entries.push(entry.clone());
        }
        Atom::Release(release) => {
            state.entry(release.group).or_default().release(release);
        }
        Atom::Installing(group, installing) => {
            state.entry(*group).or_default().installing = Some(*installing);
        }
        Atom::Destroy(group) => {
            state.insert(*group, Group { destroyed: true, ..Group::default() });
        }
    }
}

#[derive(Clone)]
pub(crate) struct Model {
    base: State,
    pub(crate) now: State,
    atoms: Vec<Atom>,
    /// Per group its writes: the id, and how many atoms had been written when the write ended.
    writes: BTreeMap<u64, Vec<(WriteId, usize)>>,
    acked: usize,
    next_write: u64,
    /// The highest commit index that the writes of each group have stated.
    commits: BTreeMap<u64, LogIndex>,
    /// The terms of the committed entries, by group and index.
    committed: BTreeMap<(u64, LogIndex), Term>,
}

impl Model {
    pub(crate) fn new(base: State) -> Self {
        let commit = |state: &Group| {
            let snapshot =
                state.snapshot.as_ref().map_or(LogIndex::ZERO, |kept| kept.mark.at.index);
            state.hard_state.commit.max(snapshot)
        };
        let commits = base.iter().map(|(group, state)| (*group, commit(state))).collect();
        let mut model = Self {
            now: base.clone(),
            base,
            atoms: Vec::new(),
            writes: BTreeMap::new(),
            acked: 0,
            next_write: 1,
            commits,
            committed: BTreeMap::new(),
        };
        model.note_committed();
        model
    }

    /// A group's last entry that is committed. A committed entry must not be replaced.
    pub(crate) fn committed(&self, group: u64) -> LogIndex {
        let all = (group, LogIndex::ZERO)..=(group, LogIndex(u64::MAX));
        self.committed.range(all).next_back().map_or(LogIndex::ZERO, |((_, index), _)| *index)
    }

    fn note_committed(&mut self) {
        for (group, commit) in &self.commits {
            let Some(now) = self.now.get(group) else { continue };
            for entry in now.entries.iter().take_while(|entry| entry.index <= *commit) {
                let term = *self.committed.entry((*group, entry.index)).or_insert(entry.term);
                assert_eq!(term, entry.term, "the test replaces {entry:?} of group {group}");
            }
        }
    }

    pub(crate) fn append(&mut self, wal: &mut Wal, group: u64, atoms: Vec<Atom>) {
        self.try_append(wal, group, atoms).unwrap();
    }

    /// Appends to the log, and to the model unless the log refuses.
    pub(crate) fn try_append(
        &mut self,
        wal: &mut Wal,
        group: u64,
        mut atoms: Vec<Atom>,
    ) -> Result<(), WalError> {
        let mut membership = None;
        let mut hard_state = None;
        let mut entries = Vec::new();
        for atom in &atoms {
            match atom {
                Atom::Membership(_, bytes) => membership = Some(bytes.as_slice()),
                Atom::HardState(_, state) => hard_state = Some(*state),
                Atom::Entry(_, entry) => entries.push(entry.clone()),
                Atom::Release(_) | Atom::Installing(..) | Atom::Destroy(_) => {
                    panic!("not part of an append")
                }
            }
        }
        let write = WriteId(self.next_write);
        self.next_write += 1;
        let append =
            Append { group: GroupId(group), write, membership, hard_state, entries: &entries };
        wal.append(&append)?;
        if let Some(HardState { commit, .. }) = hard_state {
            let known = self.commits.entry(group).or_default();
            *known = commit.max(*known);
            let last = self.now.get(&group).map_or(LogIndex::ZERO, Group::last);
            cover_accepted(&mut atoms, last);
        }
        self.wrote(atoms);
        self.writes.entry(group).or_default().push((write, self.atoms.len()));
        Ok(())
    }

    pub(crate) fn try_release(&mut self, wal: &mut Wal, release: Released) -> Result<(), WalError> {
        let (group, write) = (release.group, WriteId(self.next_write));
        self.next_write += 1;
        wal.release(&Release {
            group: GroupId(group),
            write: Some(write),
            base: release.base,
            membership: &release.membership,
            hard_state: release.hard_state,
            snapshot: release.snapshot.as_ref().map(Kept::snapshot),
        })?;
        let committed = [
            Some(release.base.index),
            release.hard_state.map(|state| state.commit),
            release.snapshot.as_ref().map(|kept| kept.mark.at.index),
        ];
        let known = self.commits.entry(group).or_default();
        *known = committed.into_iter().flatten().fold(*known, LogIndex::max);
        self.wrote(vec![Atom::Release(release)]);
        self.writes.entry(group).or_default().push((write, self.atoms.len()));
        Ok(())
    }

    pub(crate) fn try_install(
        &mut self,
        wal: &mut Wal,
        group: u64,
        snapshot: Installing,
    ) -> Result<(), WalError> {
        let write = WriteId(self.next_write);
        self.next_write += 1;
        wal.install(&Install { group: GroupId(group), write, snapshot })?;
        self.wrote(vec![Atom::Installing(group, snapshot)]);
        self.writes.entry(group).or_default().push((write, self.atoms.len()));
        Ok(())
    }

    pub(crate) fn try_destroy(&mut self, wal: &mut Wal, group: u64) -> Result<(), WalError> {
        wal.destroy(GroupId(group), LogIndex::ZERO)?;
        self.wrote(vec![Atom::Destroy(group)]);
        Ok(())
    }

    fn wrote(&mut self, atoms: Vec<Atom>) {
        atoms.iter().for_each(|atom| apply(&mut self.now, atom));
        self.atoms.extend(atoms);
        self.note_committed();
    }

    /// True if every write is acknowledged. Tombstones behind the last write get no acknowledgement.
    pub(crate) fn is_all_acked(&self) -> bool {
        let last = self.writes.values().flatten().map(|(_, atoms)| *atoms).max();
        last.is_none_or(|last| self.acked >= last)
    }

    /// How much is acknowledged, in atoms.
    pub(crate) fn acked(&self) -> usize {
        self.acked
    }

    pub(crate) fn append_entries(&mut self, wal: &mut Wal, group: u64, entries: Vec<Entry>) {
        let atoms = entries.into_iter().map(|entry| Atom::Entry(group, entry)).collect();
        self.append(wal, group, atoms);
    }

    pub(crate) fn acknowledge(&mut self, completed: &[Completed]) {
        for durable in completed.iter().flat_map(|completed| &completed.durable) {
            let writes = &self.writes[&durable.group().get()];
            let (_, atoms) = writes.iter().find(|(id, _)| *id == durable.upto()).unwrap();
            self.acked = self.acked.max(*atoms);
        }
        for run in completed.iter().flat_map(|completed| &completed.frozen) {
            for (index, (term, checksum, payload)) in (run.first.get()..).zip(run.payloads()) {
                assert_eq!(checksum, logdrive_wal::checksum(&payload));
                let prefix = format!("{}/{}/{index};", run.group, term);
                assert!(payload.starts_with(prefix.as_bytes()), "{payload:?} is not {prefix}");
            }
        }
    }

    /// Checks that `found` is the state after some prefix of the writes, one that holds all acknowledged writes. A
    /// prefix may end within a write, behind its hard state and before its entries; even then `found` must not call an
    /// entry committed that is not.
    ///
    /// Returns that prefix's state as it was written: a commit index that recovery lowered to the log's end is
    /// still on disk as it was, and counts again once the entries are there (no other entry can be at that index,
    /// because every leader of that term or a later one has the committed entry).
    pub(crate) fn check(&self, found: &State) -> State {
        self.check_commits(found);
        let mut state = self.base.clone();
        for atom in &self.atoms[..self.acked] {
            apply(&mut state, atom);
        }
        for n in self.acked..=self.atoms.len() {
            if same(&state, found) {
                return state;
            }
            if let Some(atom) = self.atoms.get(n) {
                apply(&mut state, atom);
            }
        }
        panic!(
            "recovered state is no prefix (acked {} of {}): {found:?}",
            self.acked,
            self.atoms.len()
        );
    }

    /// Asserts that every entry that `found` calls committed is committed (invariants 7, 12).
    fn check_commits(&self, found: &State) {
        for (group, state) in found {
            let commit = state.hard_state.commit;
            for entry in state.entries.iter().take_while(|entry| entry.index <= commit) {
                let committed = self.committed.get(&(*group, entry.index));
                let (index, term) = (entry.index, entry.term);
                assert_eq!(Some(&term), committed, "{index:?} of {group} by commit {commit:?}");
            }
        }
    }
}

/// Lowers the commit index of a write's hard state to the one that the log saves: it covers no entry of the write
/// itself, and none behind `last`, the last entry that the log had before.
fn cover_accepted(atoms: &mut [Atom], last: LogIndex) {
    let first = atoms.iter().find_map(|atom| match atom {
        Atom::Entry(_, entry) => Some(entry.index),
        _ => None,
    });
    let accepted = first.map_or(last, |first| last.min(first.prev()));
    for atom in atoms {
        if let Atom::HardState(_, state) = atom {
            state.commit = state.commit.min(accepted);
        }
    }
}

fn same(a: &State, b: &State) -> bool {
    let empty = Group::default();
    let clamp = |group: &Group| {
        let last = group.last();
        let mut group = group.clone();
        group.hard_state.commit = group.hard_state.commit.min(last).max(group.released.0);
        group
    };
    a.keys()
        .chain(b.keys())
        .all(|group| clamp(a.get(group).unwrap_or(&empty)) == clamp(b.get(group).unwrap_or(&empty)))
}

pub(crate) fn state_of(wal: &Wal, recovered: &Recovered) -> State {
    let group = |group: &RecoveredGroup| {
        let entries = read_all(wal, group);
        // The recovered runs of terms agree with the entries that are read back.
        for entry in &entries {
            let run = group.runs.iter().rev().find(|run| run.first <= entry.index).unwrap();
            assert_eq!(run.term, entry.term, "runs {:?}", group.runs);
        }
        let content = group
            .snapshot
            .filter(|mark| mark.is_in_log)
            .map(|_| wal.plan_snapshot(group.group).unwrap().run().unwrap().to_vec());
        let content = content.unwrap_or_default();
        let found = Group {
            membership: group.membership.to_vec(),
            hard_state: group.hard_state,
            snapshot: group.snapshot.map(|mark| Kept { mark, content }),
            installing: group.installing,
            released: (group.released, group.released_term),
            entries,
            destroyed: false,
        };
        (group.group.get(), found)
    };
    let destroyed =
        |gone: &Destroyed| (gone.group.get(), Group { destroyed: true, ..Group::default() });
    recovered.groups.iter().map(group).chain(recovered.destroyed.iter().map(destroyed)).collect()
}
