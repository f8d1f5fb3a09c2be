//! The log as a plain map: what was written since the last open, in order, and how much of it is acknowledged.

use super::read_all;
use logdrive_raft::{Entry, GroupId, HardState, LogIndex, Term, WriteId};
use logdrive_wal::{Append, Completed, Destroyed, Recovered, RecoveredGroup, Wal, WalError};
use std::collections::BTreeMap;

/// The smallest part of a write that a crash can keep or lose by itself.
#[derive(Clone, Debug)]
pub(crate) enum Atom {
    Membership(u64, Vec<u8>),
    HardState(u64, HardState),
    Entry(u64, Entry),
    Release(u64, LogIndex, Term),
    Destroy(u64),
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Group {
    pub(crate) membership: Vec<u8>,
    pub(crate) hard_state: HardState,
    /// The entry before the log's first, and its term.
    pub(crate) released: (LogIndex, Term),
    pub(crate) entries: Vec<Entry>,
    pub(crate) destroyed: bool,
}

impl Group {
    pub(crate) fn last(&self) -> LogIndex {
        self.entries.last().map_or(self.released.0, |entry| entry.index)
    }

    fn release(&mut self, index: LogIndex, term: Term) {
        if index <= self.released.0 {
            return;
        }
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
        Atom::Release(group, index, term) => {
            state.entry(*group).or_default().release(*index, *term);
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
        let commits = base.iter().map(|(group, state)| (*group, state.hard_state.commit)).collect();
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
                Atom::Release(..) | Atom::Destroy(_) => panic!("not part of an append"),
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

    pub(crate) fn try_release(
        &mut self,
        wal: &mut Wal,
        group: u64,
        index: LogIndex,
        term: Term,
    ) -> Result<(), WalError> {
        wal.release(GroupId(group), index, term)?;
        self.wrote(vec![Atom::Release(group, index, term)]);
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

    /// True if every write is acknowledged. Releases and tombstones behind the last write get no acknowledgement.
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
        group.hard_state.commit = group.hard_state.commit.min(last);
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
        let found = Group {
            membership: group.membership.to_vec(),
            hard_state: group.hard_state,
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
