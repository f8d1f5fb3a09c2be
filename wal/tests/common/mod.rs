//! The parts that the log's tests share: entries, a directory, a way to wait.

#![allow(dead_code)] // Each test file uses its own part.

pub(crate) mod busy;
pub(crate) mod crashes;
pub(crate) mod golden;
pub(crate) mod model;
pub(crate) mod mutate;
pub(crate) mod random;
pub(crate) mod reader;

use bytes::Bytes;
use logdrive_raft::{Entry, EntryKind, GroupId, HardState, LogId, LogIndex, NodeId, Term, WriteId};
use logdrive_wal::disk::sim::SimPlatter;
use logdrive_wal::inspect::{self, Event};
use logdrive_wal::{
    Append, Completed, Config, DriverChoice, Home, Identity, Recovered, RecoveredGroup, Release,
    Wal, WalError,
};
use std::collections::BTreeMap;

pub(crate) fn entry(term: u64, index: u64, payload: &[u8]) -> Entry {
    Entry {
        term: Term(term),
        index: LogIndex(index),
        kind: if payload.is_empty() { EntryKind::Noop } else { EntryKind::Command },
        checksum: logdrive_wal::checksum(payload),
        payload: Bytes::copy_from_slice(payload),
    }
}

/// `count` entries from `first` on. Each payload names its group, term and index, and is padded to `bytes`.
pub(crate) fn entries(group: u64, term: u64, first: u64, count: u64, bytes: usize) -> Vec<Entry> {
    (first..first + count)
        .map(|index| entry(term, index, &payload(group, term, index, bytes)))
        .collect()
}

pub(crate) fn payload(group: u64, term: u64, index: u64, bytes: usize) -> Vec<u8> {
    let mut payload = format!("{group}/{term}/{index};").into_bytes();
    payload.resize(bytes.max(payload.len()), b'.');
    payload
}

/// A hard state; a `vote` of 0 means that there is none. It is marked in every seventh term.
pub(crate) fn hard_state(term: u64, vote: u64, commit: u64) -> HardState {
    HardState {
        term: Term(term),
        voted_for: (vote != 0).then_some(NodeId(vote)),
        commit: LogIndex(commit),
        marked: term.is_multiple_of(7),
    }
}

pub(crate) fn write<'a>(group: u64, write: u64, entries: &'a [Entry]) -> Append<'a> {
    Append {
        group: GroupId(group),
        write: WriteId(write),
        membership: None,
        hard_state: None,
        entries,
    }
}

/// A release up to an entry; the group has no membership.
pub(crate) fn released(group: u64, index: u64, term: u64) -> Release<'static> {
    Release {
        group: GroupId(group),
        write: None,
        base: LogId { term: Term(term), index: LogIndex(index) },
        membership: &[],
        hard_state: None,
        snapshot: None,
    }
}

pub(crate) fn state(group: u64, write: u64, state: HardState) -> Append<'static> {
    Append {
        group: GroupId(group),
        write: WriteId(write),
        membership: None,
        hard_state: Some(state),
        entries: &[],
    }
}

pub(crate) fn identity() -> Identity {
    Identity {
        cluster: "test".into(),
        node: NodeId(1),
        store: 0xabc,
        shards: 1,
        incarnation: 1,
        settings: BTreeMap::new(),
    }
}

pub(crate) fn new_home(dir: &std::path::Path) -> Home {
    Home::create(dir, "test", NodeId(1), 1, BTreeMap::new()).unwrap()
}

pub(crate) fn config(home: &Home, driver: DriverChoice) -> Config {
    let mut config = Config::new(home.shard_dir(0), home.identity().clone(), 0);
    config.segment_bytes = 64 << 10;
    config.batch_bytes_max = 16 << 10;
    config.driver = driver;
    config
}

/// Submits and polls until the log has no work left.
pub(crate) fn settle(wal: &mut Wal) -> Vec<Completed> {
    let mut completed = Vec::new();
    while wal.has_work() {
        wal.submit(0).unwrap();
        wal.poll(0, &mut completed).unwrap();
        if wal.has_work() {
            std::thread::yield_now();
        }
    }
    completed
}

/// A log on a simulated platter.
pub(crate) struct Sim {
    pub(crate) platter: SimPlatter,
    pub(crate) config: Config,
}

impl Sim {
    pub(crate) fn new(seed: u64) -> Self {
        let mut config = Config::new("sim".into(), identity(), 0);
        config.segment_bytes = 64 << 10;
        config.batch_bytes_max = 12 << 10;
        Self { platter: SimPlatter::new(seed, &config.identity, 0), config }
    }

    pub(crate) fn fork(&self, seed: u64) -> Self {
        Self { platter: self.platter.fork(seed), config: self.config.clone() }
    }

    pub(crate) fn try_open(&self) -> Result<(Wal, Recovered), WalError> {
        // Segment ids differ from open to open, because they depend on what is on the platter.
        let mut id =
            self.platter.segments().iter().fold(u128::from(self.platter.writes()), |id, s| {
                id.wrapping_mul(0x1000_0000_01b3).wrapping_add(u128::from(s.0))
            });
        let entropy = Box::new(move || {
            id = id.wrapping_mul(0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645).wrapping_add(0x5851);
            id
        });
        Wal::open_on(self.platter.disk(self.config.segment_bytes), self.config.clone(), entropy)
    }

    pub(crate) fn open(&self) -> (Wal, Recovered) {
        self.try_open().unwrap()
    }

    /// Submits and completes everything.
    pub(crate) fn settle(&self, wal: &mut Wal) -> Vec<Completed> {
        let mut completed = Vec::new();
        while wal.has_work() {
            wal.submit(0).unwrap();
            self.platter.complete_some();
            wal.poll(0, &mut completed).unwrap();
        }
        completed
    }
}

/// The damage that an inspection of the log's files finds: its label, and its offset in the file.
pub(crate) fn inspected(sim: &Sim) -> Vec<(&'static str, u64)> {
    let dir = tempfile::tempdir().unwrap();
    for segment in sim.platter.segments() {
        let file = dir.path().join(format!("{:010}.seg", segment.0));
        std::fs::write(file, sim.platter.segment(segment)).unwrap();
    }
    std::fs::write(dir.path().join("manifest"), sim.platter.manifest().unwrap()).unwrap();
    let mut damage = Vec::new();
    inspect::scan(dir.path(), None, &mut |event| {
        if let Event::Finding(finding) = event
            && finding.damage
        {
            damage.push((finding.label, finding.offset));
        }
        Ok(())
    })
    .unwrap();
    damage
}

/// All entries a group has, read back.
pub(crate) fn read_all(wal: &Wal, group: &RecoveredGroup) -> Vec<Entry> {
    let mut all: Vec<Entry> = Vec::new();
    loop {
        let next = all.last().map_or(group.released, |entry| entry.index).next();
        if next > group.last {
            return all;
        }
        let plan = wal.plan_read(group.group, next, group.last, 4096).unwrap();
        let part = plan.run().unwrap().into_entries();
        assert!(!part.is_empty() && part[0].index == next);
        all.extend(part);
    }
}

/// Opens a log on real files; `None` where the system gives no ring to the driver that needs one, which is told.
pub(crate) fn open_or_skip(config: &Config) -> Option<Wal> {
    match Wal::open(config.clone()) {
        Ok((wal, _)) => Some(wal),
        Err(WalError::Io { source, .. }) if config.driver == DriverChoice::Uring => {
            skipped(format_args!("io_uring: {source}"));
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// A log whose last segment has one batch, nine entries of group 1, which was acknowledged before the power failed.
pub(crate) fn one_batch(seed: u64) -> Sim {
    let sim = Sim::new(seed);
    let (mut wal, _) = sim.open();
    wal.append(&write(1, 1, &entries(1, 1, 1, 9, 1000))).unwrap();
    sim.settle(&mut wal);
    sim.platter.crash();
    sim
}

/// Runs a read on another thread, as a reader does.
pub(crate) fn read_elsewhere(plan: logdrive_wal::ReadPlan) -> logdrive_raft::EntryBatch {
    std::thread::scope(|scope| scope.spawn(move || plan.run()).join().unwrap().unwrap())
}

/// Says why a test, or a part of one, was not run: it must not look as if it had passed.
pub(crate) fn skipped(reason: impl std::fmt::Display) {
    use std::io::Write;
    // Written past libtest's capture, which hides what a passing test prints.
    let _ = writeln!(std::io::stderr().lock(), "SKIPPED: {reason}");
}
