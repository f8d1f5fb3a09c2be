//! The bytes that a node's disk had said to be durable and no longer holds, and how the node's log may react.
//!
//! In:     the platter's atlas of damaged sectors; the batches that were ever whole there.
//! Out:    [`Harm`]: the fences and refusals that are explained, and whether there is a loss that no log can see.
//! Source: RULES.md C1-C3, C9, C10, W7, W8; rules 21, 22, 24.

use crate::{GroupId, LogIndex, NodeId};
use logdrive_wal::{
    BLOCK_BYTES, Position, SegmentSeq,
    disk::sim::{Damage, SECTOR_BYTES},
    landed::{LandedBatch, LandedRecord},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

/// A batch that was whole on a platter, or of which the platter said so.
pub(super) struct Stored {
    pub(super) position: Position,
    pub(super) bytes: u64,
    /// Everything before this position was durable when the batch was built.
    pub(super) durable: Position,
    groups: Vec<GroupId>,
    /// The entries in it: the first and the last of each run.
    entries: Vec<(GroupId, LogIndex, LogIndex)>,
    /// The bytes without which a reader cannot tell which groups the batch has records of.
    indispensable: [Range<u64>; 2],
}

impl Stored {
    pub(super) fn new(batch: &LandedBatch, bytes: u64) -> Self {
        let at = u64::from(batch.position.offset());
        let directory = at + batch.directory_at as u64;
        let directory_end = directory + 8 * batch.groups.len() as u64;
        // A segment's first batch says in its first record what it follows.
        let head = if at == BLOCK_BYTES as u64 { bytes } else { 1 };
        Self {
            position: batch.position,
            bytes,
            durable: batch.durable,
            groups: batch.groups.clone(),
            entries: batch.records.iter().filter_map(run).collect(),
            indispensable: [at..at + head, directory..directory_end],
        }
    }

    /// A group of which the batch holds entries.
    pub(super) fn group_of_entries(&self) -> Option<GroupId> {
        self.entries.first().map(|(group, ..)| *group)
    }

    fn has(&self, segment: SegmentSeq, damaged: &Range<u64>) -> bool {
        let at = u64::from(self.position.offset());
        self.position.segment() == segment && overlap(&(at..at + self.bytes), damaged)
    }
}

fn run(record: &LandedRecord) -> Option<(GroupId, LogIndex, LogIndex)> {
    let LandedRecord::Entries { group, first, checksums, .. } = record else { return None };
    let last = first.get() + checksums.len() as u64 - 1;
    Some((*group, *first, LogIndex(last)))
}

fn overlap(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}

/// The bytes that are lost with a damaged sector: an unreadable one takes its block with it, as reads are of blocks.
fn damaged_bytes(sector: u64, damage: Damage) -> Range<u64> {
    let unit = if damage == Damage::Unreadable { BLOCK_BYTES } else { SECTOR_BYTES } as u64;
    let at = sector - sector % unit;
    at..at + unit
}

/// The fences and refusals that are explained by what was done to a disk.
#[derive(Debug, Default)]
pub(super) struct Harm {
    /// Groups of damaged batches: they may be fenced.
    pub(super) groups: BTreeSet<GroupId>,
    /// Bytes that say which groups have lost something are damaged: the log may refuse to open, or fence any group.
    pub(super) refuses: bool,
    /// The disk lost the end of what it had said to be durable, and nothing on it shows that: no log can know
    /// (RULES.md C3, W8).
    pub(super) unseen: bool,
}

impl Harm {
    /// The harm to a disk with these segments and this damage, which had these batches. `lied` says that names and
    /// sizes of files may be lost, too.
    pub(super) fn of(
        batches: &[Stored],
        segments: &[SegmentSeq],
        damage: &[(SegmentSeq, u64, Damage)],
        lied: bool,
    ) -> Self {
        let mut harm = Self { refuses: lied, ..Self::default() };
        let damaged = |(segment, sector, damage): &(SegmentSeq, u64, Damage)| {
            (*segment, damaged_bytes(*sector, *damage))
        };
        let damage: Vec<_> = damage.iter().map(damaged).collect();
        for (segment, bytes) in &damage {
            let Some(batch) = batches.iter().find(|batch| batch.has(*segment, bytes)) else {
                // A segment's header, or a batch that the log was never told of.
                harm.refuses = true;
                continue;
            };
            harm.groups.extend(&batch.groups);
            // A later segment vouches for the batch only if that segment's first batch reached the disk: without
            // its first batch a segment does not follow the one before.
            let is_vouched_for = batches.iter().any(|other| {
                let is_beginning = other.position.offset() as usize == BLOCK_BYTES;
                let is_later = other.position.segment() > *segment;
                if is_later { is_beginning } else { other.durable > batch.position }
            });
            harm.refuses |= !is_vouched_for;
            harm.refuses |= batch.indispensable.iter().any(|needed| overlap(needed, bytes));
        }
        if damage.is_empty() && !lied {
            return harm;
        }
        let is_whole = |batch: &&Stored| {
            let is_hit = damage.iter().any(|(segment, bytes)| batch.has(*segment, bytes));
            !is_hit && segments.contains(&batch.position.segment())
        };
        let known = batches.iter().filter(is_whole).map(|batch| batch.durable).max();
        // The first lost batch that no whole batch vouches for looks like the end of the log, and all behind it like a
        // torn tail.
        let lost = batches.iter().filter(|batch| !is_whole(batch) && Some(batch.position) >= known);
        let end = lost.map(|batch| batch.position).min();
        let is_unseen = |batch: &Stored| {
            !batch.groups.is_empty() && end.is_some_and(|end| batch.position >= end)
        };
        harm.unseen = batches.iter().any(is_unseen);
        harm
    }

    pub(super) fn explains_fence(&self, group: GroupId) -> bool {
        self.refuses || self.groups.contains(&group)
    }
}

/// The fault atlas: all that faults destroyed for good, on all nodes. Each entry stays whole on a majority of nodes. A
/// group must halt if too many of its replicas have lost something, even if no two have lost the same.
#[derive(Debug, Default)]
pub(super) struct Losses {
    /// Nodes that may have lost anything.
    nodes: BTreeSet<NodeId>,
    /// Replicas that have lost something, and are fenced or will be.
    replicas: BTreeSet<(NodeId, GroupId)>,
    /// Nodes on which an entry is gone.
    entries: BTreeMap<(GroupId, LogIndex), BTreeSet<NodeId>>,
}

impl Losses {
    /// A node may lose anything from now on.
    pub(super) fn node(&mut self, node: NodeId) {
        self.nodes.insert(node);
    }

    /// A replica has lost something.
    pub(super) fn replica(&mut self, node: NodeId, group: GroupId) {
        self.replicas.insert((node, group));
    }

    /// Notes the loss of a batch on a node, if each of its entries stays whole on all nodes but `spare`; else gives
    /// false.
    pub(super) fn batch(&mut self, node: NodeId, batch: &Stored, spare: usize) -> bool {
        let entries = batch.entries.iter().flat_map(|(group, first, last)| {
            (first.get()..=last.get()).map(|index| (*group, LogIndex(index)))
        });
        let entries: Vec<_> = entries.collect();
        let stays = |entry: &(GroupId, LogIndex)| {
            let gone = self.entries.get(entry).into_iter().flatten();
            let mut gone: BTreeSet<NodeId> = gone.chain(&self.nodes).copied().collect();
            gone.insert(node);
            gone.len() <= spare
        };
        let mut less = self.nodes.clone();
        less.insert(node);
        if less.len() > spare || !entries.iter().all(stays) {
            return false;
        }
        for entry in entries {
            self.entries.entry(entry).or_default().insert(node);
        }
        self.replicas.extend(batch.groups.iter().map(|group| (node, *group)));
        true
    }

    /// True if the node has lost something.
    pub(super) fn has(&self, node: NodeId) -> bool {
        self.nodes.contains(&node) || self.replicas.iter().any(|(of, _)| *of == node)
    }

    /// Nodes that have lost something.
    pub(super) fn harmed(&self) -> BTreeSet<NodeId> {
        let replicas = self.replicas.iter().map(|(node, _)| *node);
        replicas.chain(self.nodes.iter().copied()).collect()
    }

    /// Nodes whose replica of a group has lost something.
    pub(super) fn harmed_of(&self, group: GroupId) -> BTreeSet<NodeId> {
        let replicas = self.replicas.iter().filter(|(_, of)| *of == group).map(|(node, _)| *node);
        replicas.chain(self.nodes.iter().copied()).collect()
    }
}
