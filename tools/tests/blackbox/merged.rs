//! The nodes' logs, read from copies of their directories and merged into the one history they agree on.
//!
//! In:     directories of nodes that have stopped, and a place for the copies.
//! Out:    [`NodeLog`] per node; [`merge`]: the writes of each group in order.
//! Cost:   the logs are copied and held in memory: for small ones.
//! Fails:  by panicking with the group and the entries that contradict each other.
//! Source: RULES.md invariants 4 (log matching) and 7 (committed stays).
//!
//! Merging: of each group the most up-to-date log (highest last term, then longest) is taken. It would win an election
//! whose voters are all nodes, so it holds all that was committed; and all it holds may still be committed.

use super::{checker::Logged, support::cluster::Node, traffic::logged_in};
use logdrive_raft::{Entry, EntryKind, GroupId, LogIndex};
use logdrive_wal::{Config, DriverChoice, Home, Wal};
use std::{collections::BTreeMap, fs, path::Path};

/// The logs that one node has on disk.
#[derive(Debug)]
pub(crate) struct NodeLog {
    pub(crate) node: usize,
    pub(crate) groups: BTreeMap<GroupId, GroupLog>,
}

/// One group's log on one node.
#[derive(Debug)]
pub(crate) struct GroupLog {
    pub(crate) term: u64,
    commit: u64,
    /// From index 1 on.
    entries: Vec<Entry>,
}

impl GroupLog {
    /// The last entry's term and index, which elections compare.
    fn last(&self) -> (u64, usize) {
        (self.entries.last().map_or(0, |entry| entry.term.get()), self.entries.len())
    }
}

impl NodeLog {
    /// Reads a copy of the node's directory, made in `scratch`: opening a log begins a segment.
    pub(crate) fn read(node: &Node, scratch: &Path) -> Self {
        let copy = scratch.join(format!("copy-{}", node.id));
        copy_all(&node.dir, &copy);
        let home = Home::open(&copy).unwrap();
        let identity = home.identity().clone();
        let mut groups = BTreeMap::new();
        for shard in 0..identity.shards {
            let mut config = Config::new(home.shard_dir(shard), identity.clone(), shard);
            config.driver = DriverChoice::Portable;
            config.segment_bytes = SEGMENT_BYTES;
            let (wal, recovered) = Wal::open(config).unwrap();
            for group in recovered.groups {
                assert!(group.fenced.is_none(), "node {}: {:?}", node.id, group.fenced);
                let entries = read_group(&wal, group.group, group.last);
                let (term, commit) = (group.hard_state.term.get(), group.hard_state.commit.get());
                groups.insert(group.group, GroupLog { term, commit, entries });
            }
            wal.close().unwrap();
        }
        drop(home);
        fs::remove_dir_all(&copy).unwrap();
        Self { node: node.id, groups }
    }
}

fn read_group(wal: &Wal, group: GroupId, last: LogIndex) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut next = LogIndex::ZERO.next();
    while next <= last {
        let batch = wal.plan_read(group, next, last, READ_BYTES).unwrap().run().unwrap();
        entries.extend_from_slice(batch.as_slice());
        next = entries.last().expect("a plan gives at least one entry").index.next();
    }
    entries
}

/// Checks the logs against each other, and returns the writes of the history that they agree on.
pub(crate) fn merge(logs: &[NodeLog]) -> Vec<Logged> {
    let mut writes = Vec::new();
    let groups: Vec<GroupId> = logs.iter().flat_map(|log| log.groups.keys().copied()).collect();
    let groups: std::collections::BTreeSet<GroupId> = groups.into_iter().collect();
    for group in groups {
        let of: Vec<(usize, &GroupLog)> =
            logs.iter().filter_map(|log| Some((log.node, log.groups.get(&group)?))).collect();
        for (at, (node, log)) in of.iter().enumerate() {
            for (other_node, other) in &of[at + 1..] {
                assert_matching(group, (*node, log), (*other_node, other));
            }
        }
        let (newest_node, newest) = of.iter().max_by_key(|(_, log)| log.last()).unwrap();
        for (node, log) in &of {
            let commit = usize::try_from(log.commit).unwrap();
            assert!(
                commit <= log.entries.len() && commit <= newest.entries.len(),
                "{group:?}: node {node} committed {commit} of its {} entries, node {newest_node} has {}",
                log.entries.len(),
                newest.entries.len()
            );
            for at in 0..commit {
                let (here, there) = (&log.entries[at], &newest.entries[at]);
                assert!(
                    here == there,
                    "{group:?}: node {node} committed {here:?}, node {newest_node} has {there:?}"
                );
            }
        }
        let commands = newest.entries.iter().filter(|entry| entry.kind == EntryKind::Command);
        writes.extend(commands.filter_map(|entry| logged_in(&entry.payload)));
    }
    writes
}

/// Where two logs have an entry of the same index and term, they are the same up to there.
fn assert_matching(group: GroupId, a: (usize, &GroupLog), b: (usize, &GroupLog)) {
    let (left, right) = (&a.1.entries, &b.1.entries);
    let common = left.len().min(right.len());
    let meet = (0..common).rev().find(|at| left[*at].term == right[*at].term);
    for at in 0..meet.map_or(0, |at| at + 1) {
        assert!(
            left[at] == right[at],
            "{group:?}: nodes {} and {} agree on a later term, but have {:?} and {:?}",
            a.0,
            b.0,
            left[at],
            right[at]
        );
    }
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_all(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Size of the segment that opening begins: small, because it is written whole before it is used.
const SEGMENT_BYTES: u64 = 1 << 20;
const READ_BYTES: usize = 1 << 20;
