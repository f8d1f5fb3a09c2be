//! Golden streams, changed at random and opened: the oracle that fuzzing and `corpus.rs` share.
//!
//! In:     bytes that say which golden stream, and what is changed in it.
//! Out:    nothing.
//! Fails:  by panicking where the log broke a promise: it must not panic, give two results when it is opened twice, or
//!         refuse to work once it is open; and where bytes were only damaged it must show the state after some prefix of
//!         its history.

use super::golden::{Files, GOLDEN, golden, unpack};
use bytes::Bytes;
use logdrive_raft::{GroupId, HardState, LogIndex, NodeId, Term, WriteId};
use logdrive_wal::disk::sim::SimPlatter;
use logdrive_wal::inspect::{self, Event, Record};
use logdrive_wal::{
    Append, Config, Identity, Installing, Position, ReadError, Recovered, SegmentSeq, SnapshotMark,
    Wal, WalError,
};
use std::collections::{BTreeMap, BTreeSet};

/// A golden stream and its history.
pub(crate) struct Base {
    files: Files,
    batches: Vec<Batch>,
    /// The groups' states before the first batch, after it, and so on.
    states: Vec<State>,
    sound: bool,
    /// Groups with a fence record.
    fenced: BTreeSet<GroupId>,
}

struct Batch {
    position: Position,
    bytes: u64,
    durable: Position,
    groups: BTreeSet<GroupId>,
}

type State = BTreeMap<GroupId, Group>;

/// A group, as a plain map has it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Group {
    membership: Vec<u8>,
    hard_state: HardState,
    released: LogIndex,
    snapshot: Option<SnapshotMark>,
    installing: Option<Installing>,
    entries: BTreeMap<LogIndex, (Term, Bytes)>,
    last: LogIndex,
}

impl Base {
    /// All golden streams.
    pub(crate) fn all() -> Vec<Self> {
        GOLDEN.iter().map(|(name, _)| Self::new(golden(name))).collect()
    }

    fn new(files: Files) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        unpack(&files, dir.path());
        let mut batches = Vec::new();
        let mut states = vec![State::new()];
        let mut fenced = BTreeSet::new();
        let report = inspect::scan(dir.path(), None, &mut |event| {
            if let Event::Record(_, Record::Fence { group, .. }) = &event {
                fenced.insert(*group);
            }
            match event {
                Event::Batch(batch) => {
                    batches.push(Batch {
                        position: batch.position,
                        bytes: batch.bytes,
                        durable: batch.durable,
                        groups: batch.groups.iter().copied().collect(),
                    });
                    states.push(states.last().expect("there is a first").clone());
                }
                Event::Record(_, record) => apply(states.last_mut().expect("a batch"), &record),
                Event::Finding(_) => {}
            }
            Ok(())
        });
        let sound = report.expect("golden streams can be read").damage == 0;
        Self { files, batches, states, sound, fenced }
    }

    /// Panics unless the state recovered from `files` is the state after a prefix of the history that is long enough.
    fn check_prefix(&self, files: &Files, wal: &Wal, recovered: &Recovered) {
        let fenced: BTreeSet<GroupId> = recovered
            .groups
            .iter()
            .filter(|group| group.fenced.is_some())
            .map(|group| group.group)
            .collect();
        let changed: Vec<bool> =
            self.batches.iter().map(|batch| self.is_changed(batch, files)).collect();
        let touched = self.batches.iter().zip(&changed).filter(|(_, changed)| **changed);
        let may_be_fenced: BTreeSet<GroupId> = touched
            .flat_map(|(batch, _)| batch.groups.iter().copied())
            .chain(self.fenced.clone())
            .collect();
        assert!(fenced.is_subset(&may_be_fenced), "{fenced:?} fenced, {may_be_fenced:?} damaged");

        let untouched = changed.iter().take_while(|changed| !**changed).count();
        // Batches that an unchanged batch vouches for must not be cut.
        let durable = self.batches.iter().zip(&changed).filter(|(_, changed)| !**changed);
        let durable = durable.map(|(batch, _)| batch.durable).max().unwrap_or(Position::ZERO);
        let vouched = self.batches.iter().filter(|batch| batch.position < durable).count();
        let least = untouched.max(vouched);
        let found = state_of(wal, recovered, &fenced);
        let without = |state: &State| -> State {
            state
                .iter()
                .filter(|(id, _)| !fenced.contains(id))
                .map(|(id, group)| (*id, group.clone()))
                .collect()
        };
        assert!(
            self.states[least..].iter().any(|state| without(state) == found),
            "{found:?} is no state after {least} batches or more; the last one: {:?}",
            self.states.last()
        );
    }

    fn is_changed(&self, batch: &Batch, files: &Files) -> bool {
        let name = file_name(batch.position.segment());
        let from = batch.position.offset() as usize;
        let to = from + usize::try_from(batch.bytes).expect("inside a segment");
        files[&name][from..to] != self.files[&name][from..to]
    }
}

/// Applies a record to a plain map.
fn apply(state: &mut State, record: &Record<'_>) {
    let Some(id) = record.group() else { return };
    let group = state.entry(id).or_default();
    match record {
        Record::Membership { bytes, .. } => group.membership = bytes.to_vec(),
        Record::HardState { state, .. } => {
            group.hard_state = HardState { commit: state.commit.max(group.released), ..*state };
        }
        Record::Entries(run) | Record::Carried(run) => {
            if let Record::Entries(_) = record {
                group.entries.retain(|index, _| *index < run.first);
                group.last = run.last();
            }
            for entry in run.entries() {
                let payload = Bytes::copy_from_slice(entry.payload);
                group.entries.insert(entry.index, (run.term, payload));
            }
            group.last = group.last.max(run.last());
        }
        Record::Release { index, last, .. } => {
            group.entries.retain(|at, _| index < at && at <= last);
            group.last = *last;
            group.released = *index;
            group.hard_state.commit = group.hard_state.commit.max(*index);
            group.snapshot = group.snapshot.filter(|mark| mark.at.index >= *index);
            group.installing = group.installing.filter(|install| install.at.index > *index);
        }
        Record::Snapshot { mark, .. } => group.snapshot = Some(*mark),
        Record::Installing { installing, .. } => group.installing = Some(*installing),
        Record::Tombstone { .. } | Record::Fence { .. } => drop(state.remove(&id)),
        Record::Start { .. } | Record::Footer | Record::Optional => {}
    }
}

/// The same, as a log has it after it was opened.
fn state_of(wal: &Wal, recovered: &Recovered, fenced: &BTreeSet<GroupId>) -> State {
    let mut state = State::new();
    for found in recovered.groups.iter().filter(|found| !fenced.contains(&found.group)) {
        let mut group = Group {
            membership: found.membership.to_vec(),
            hard_state: found.hard_state,
            released: found.released,
            snapshot: found.snapshot,
            installing: found.installing,
            entries: BTreeMap::new(),
            last: found.last,
        };
        for entry in read(wal, found.group, found.released, found.last)
            .expect("what was recovered can be read")
        {
            group.entries.insert(entry.index, (entry.term, entry.payload));
        }
        state.insert(found.group, group);
    }
    state
}

fn read(
    wal: &Wal,
    group: GroupId,
    released: LogIndex,
    last: LogIndex,
) -> Result<Vec<logdrive_raft::Entry>, ReadError> {
    let mut all: Vec<logdrive_raft::Entry> = Vec::new();
    let mut next = released.next();
    while next <= last {
        let part = wal.plan_read(group, next, last, 4096)?.run()?.into_entries();
        next = part.last().expect("at least one entry").index.next();
        all.extend(part);
    }
    Ok(all)
}

/// One input: which golden stream, and what is done to it.
pub(crate) struct Input<'a> {
    base: usize,
    /// Whether the checksums are made right again: the result is then not damaged, but a log that was written so.
    sealed: bool,
    patches: Vec<(usize, usize, &'a [u8])>,
    /// These bytes instead of the first segment's.
    raw: Option<&'a [u8]>,
}

impl<'a> Input<'a> {
    /// Byte 0: the golden stream's number, modulo how many there are. Byte 1: bit 0 makes the checksums right again, bit 1
    /// says that the rest is a segment. Without bit 1 the rest is patches: a file's number, two bytes of offset, a length,
    /// and the bytes that are XORed in there.
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let [base, flags, rest @ ..] = bytes else { return None };
        let mut input = Self {
            base: usize::from(*base) % GOLDEN.len(),
            sealed: flags & 1 != 0,
            patches: Vec::new(),
            raw: None,
        };
        if flags & 2 != 0 {
            input.raw = Some(rest);
            return Some(input);
        }
        let mut rest = rest;
        while let [file, low, high, len, more @ ..] = rest {
            let (patch, more) = more.split_at(more.len().min(usize::from(*len)));
            let at = usize::from(u16::from_le_bytes([*low, *high]));
            input.patches.push((usize::from(*file), at, patch));
            rest = more;
        }
        Some(input)
    }

    /// The files, changed.
    pub(crate) fn apply(&self, bases: &[Base]) -> Files {
        let base = &bases[self.base];
        let mut files = base.files.clone();
        let count = files.len();
        if let Some(raw) = self.raw {
            let first = files.values_mut().next().expect("a segment");
            first.fill(0);
            let len = raw.len().min(first.len());
            first[..len].copy_from_slice(&raw[..len]);
        }
        for (file, at, patch) in &self.patches {
            let file = files.values_mut().nth(file % count).expect("counted round");
            for (n, byte) in patch.iter().enumerate() {
                let at = (at + n) % file.len();
                file[at] ^= byte;
            }
        }
        if self.sealed {
            files.values_mut().for_each(|file| logdrive_wal::fuzz::seal(file));
        }
        files
    }

    /// Changes the golden stream and opens it.
    pub(crate) fn run(&self, bases: &[Base]) {
        let base = &bases[self.base];
        let files = self.apply(bases);
        let damaged = base.sound && !self.sealed && self.raw.is_none();
        open(&files, damaged.then_some(base));
    }
}

/// A machine with these files on its disk.
pub(crate) struct Machine {
    pub(crate) platter: SimPlatter,
    pub(crate) config: Config,
    opens: u128,
}

impl Machine {
    pub(crate) fn new(files: &Files) -> Self {
        let identity = Identity {
            cluster: "test".into(),
            node: NodeId(1),
            store: 0xabc,
            shards: 1,
            incarnation: 1,
            settings: BTreeMap::new(),
        };
        let platter = SimPlatter::new(1, &identity, 0);
        for (name, bytes) in files {
            match name.strip_suffix(".seg").and_then(|number| number.parse().ok()) {
                Some(number) => platter.set_segment(SegmentSeq(number), Some(bytes.clone())),
                None => platter.set_manifest(Some(bytes.clone())),
            }
        }
        let mut config = Config::new("sim".into(), identity, 0);
        config.segment_bytes = 64 << 10;
        config.batch_bytes_max = 16 << 10;
        Self { platter, config, opens: 0 }
    }

    pub(crate) fn open(&mut self) -> Result<(Wal, Recovered), WalError> {
        self.opens += 1;
        let mut id = (1 << 100) + (self.opens << 64);
        let entropy = Box::new(move || {
            id += 1;
            id
        });
        let disk = self.platter.disk(self.config.segment_bytes);
        Wal::open_on(disk, self.config.clone(), entropy)
    }
}

/// Opens a stream of any content. If it opens, it must open again to the same, and work.
fn open(files: &Files, base: Option<&Base>) {
    let mut machine = Machine::new(files);
    let mut open = || machine.open();
    let Ok((wal, recovered)) = open() else { return };
    if let Some(base) = base {
        base.check_prefix(files, &wal, &recovered);
    }
    drop(wal);
    let (mut wal, again) = open().expect("it was opened before");
    assert_eq!(recovered.groups, again.groups, "two opens, two results");
    // The log works: it takes a hard state, closes, and has the group when it is opened again.
    let group = GroupId(u64::MAX - 1);
    let append = Append {
        group,
        write: WriteId(1),
        membership: None,
        hard_state: Some(HardState { term: Term(1), ..HardState::default() }),
        entries: &[],
    };
    let known = recovered.groups.iter().any(|found| found.group == group);
    if !known {
        wal.append(&append).expect("an open log takes a hard state");
    }
    wal.close().expect("an open log can be closed");
    let (_, last) = open().expect("a closed log can be opened");
    assert_eq!(last.groups.len(), recovered.groups.len() + usize::from(!known));
}

fn file_name(segment: SegmentSeq) -> String {
    format!("{:010}.seg", segment.0)
}
