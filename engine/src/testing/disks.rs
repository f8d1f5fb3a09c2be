//! The acts of faults upon disks.
//!
//! In:     a simulation; a node, and what its fault was drawn with.
//! Out:    the simulation with the disk's future changed.
//! Source: RULES.md T1: faults that destroy durable bytes for good leave each entry whole on a majority of nodes, by
//!         the fault atlas ([`super::harm::Losses`]).

use super::{
    random::Random,
    sim::{Later, Sim},
};
use crate::GroupId;
use logdrive_wal::{
    BLOCK_BYTES,
    disk::sim::{SECTOR_BYTES, WriteFate},
};
use std::{collections::BTreeSet, io::ErrorKind};

/// A way in which a durable batch goes bad without an operation of the node.
pub(super) enum Decay {
    /// A bit flips.
    Bit,
    /// A sector cannot be read any more.
    Unreadable,
    /// Reads of a sector return another sector.
    Astray,
}

impl Sim<'_> {
    /// A node's process is killed, and a batch that a later batch records as durable decays.
    pub(super) fn decay(&mut self, at: usize, batch: u64, bit: u64, decay: &Decay) {
        if self.nodes[at].lost {
            return;
        }
        self.kill(at, 5);
        self.damage_batch(at, batch, bit, decay, false);
    }

    /// A batch that a later batch records as durable decays; if `is_read`, a batch of a full segment, which is read
    /// from its file. Gives a group that has entries in the batch; `None` if there is none, or no batch was damaged.
    pub(super) fn damage_batch(
        &mut self,
        at: usize,
        batch: u64,
        bit: u64,
        decay: &Decay,
        is_read: bool,
    ) -> Option<GroupId> {
        let (node, mut random) = (&self.nodes[at], Random::new(batch));
        let log = random.pick(&node.logs);
        let mut vouched = log.vouched_batches();
        if is_read {
            let newest = log.platter.segments().last().copied();
            vouched.retain(|batch| {
                Some(batch.position.segment()) < newest && batch.group_of_entries().is_some()
            });
        }
        if vouched.is_empty() {
            return None;
        }
        let hit = *random.pick(&vouched);
        let spare = self.spare();
        if !self.losses.batch(node.id, hit, spare) {
            return None;
        }
        let segment = hit.position.segment();
        let byte = u64::from(hit.position.offset()) + bit / 8 % hit.bytes;
        let offset = usize::try_from(byte).expect("inside a segment");
        match decay {
            Decay::Bit => {
                logdrive_raft::reached!("durable batch damaged at rest");
                log.platter.flip(segment, offset, 1 << (bit % 8));
            }
            Decay::Unreadable => {
                logdrive_raft::reached!("durable sector became unreadable");
                log.platter.fail_reads_in(segment, offset..offset + 1);
            }
            Decay::Astray => {
                logdrive_raft::reached!("durable sector read from elsewhere");
                let sector = byte - byte % SECTOR_BYTES as u64;
                log.platter.misdirect_reads(segment, sector, segment, 0);
            }
        }
        hit.group_of_entries()
    }

    /// A disk says that everything is durable and keeps none of it safe, for so many steps; after some honest ones its
    /// power fails.
    pub(super) fn lie(&mut self, at: usize, steps: u64, honest: u64) {
        if !self.may_lose_node(at) {
            return;
        }
        let node = &mut self.nodes[at];
        node.logs.iter().for_each(|log| log.platter.set_lying(true));
        node.lied = true;
        self.lose_node(at);
        self.in_a_while(steps, Later::Honest(at));
        self.in_a_while(steps + honest, Later::Crash(at, 5));
    }

    /// A disk loses the last batches of each log with the power, as if they had never been written.
    pub(super) fn lose_end(&mut self, at: usize, batches: u64, down: u64) {
        let is_whole = !self.losses.has(self.nodes[at].id) || self.nodes[at].has_lost_end;
        if !self.nodes[at].was_started || !is_whole || !self.may_lose_node(at) {
            return;
        }
        self.see_landed(at);
        self.crash(at, down);
        let node = &mut self.nodes[at];
        let told_within = 4 * batches;
        let batches = usize::try_from(batches).expect("a few");
        let have_lost: Vec<bool> = node.logs.iter_mut().map(|log| log.lose_end(batches)).collect();
        if have_lost.contains(&true) {
            (node.is_another, node.has_lost_end) = (true, true);
            // Each open finds a fence anew in the damaged bytes. If these bytes are lost, too, a record of the fence may
            // be left, or nothing.
            let (id, harm) = (node.id, node.harm());
            let lost = self.judge.ghost.fenced.extract_if(.., |(of, group)| {
                *of == id && !harm[node.log_of(*group)].explains_fence(*group)
            });
            let lost: Vec<GroupId> = lost.map(|(_, group)| group).collect();
            node.may_be_fenced.extend(lost);
            self.lose_node(at);
            if batches.is_multiple_of(2) {
                // A leader pauses after it may have told the replica of the loss, and before it may have answered.
                let (group, steps) =
                    (batches / 2 % self.shape.groups.len(), 3 * self.shape.election_ticks);
                self.in_a_while(down + told_within, Later::PauseLeader(group, steps));
            }
        }
    }

    /// A write fails once, and reads show it all the same, and syncs succeed, until the power fails.
    pub(super) fn fail_falsely(&mut self, at: usize, after: u64, power: u64) {
        if !self.may_lose_node(at) {
            return;
        }
        self.set_fate(at, after, WriteFate::ErrorThenLies(ErrorKind::Other));
        self.lose_node(at);
        self.in_a_while(power, Later::Crash(at, 5));
    }

    /// A write succeeds, but its bytes go to where another batch stands, or nowhere. The power fails after a while.
    pub(super) fn misplace_write(&mut self, at: usize, after: u64, place: u64) {
        if self.nodes[at].process.is_none() || !self.may_lose_node(at) {
            return;
        }
        let logs = &self.nodes[at].logs;
        let others = logs[usize::try_from(after).expect("small") % logs.len()].vouched_batches();
        let fate = if others.is_empty() || place.is_multiple_of(3) {
            WriteFate::Lost
        } else {
            let there = Random::new(place).pick(&others).position;
            WriteFate::Misdirected(there.segment(), there.offset().into())
        };
        self.set_fate(at, after, fate);
        self.lose_node(at);
        self.in_a_while(40, Later::Crash(at, 5));
    }

    /// Sets the fate of a write that is to come, in one of the node's logs.
    pub(super) fn set_fate(&mut self, at: usize, after: u64, fate: WriteFate) {
        let logs = &self.nodes[at].logs;
        let log = &logs[usize::try_from(after).expect("small") % logs.len()];
        log.platter.set_fate(after / logs.len() as u64, fate);
    }

    /// A disk's manifest or a segment's header, which are no batches, is damaged while the disk's power is off. The
    /// node must refuse to start, and leave everything as it is, until the damage is mended.
    pub(super) fn damage_metadata(&mut self, at: usize, what: u64, bit: u64) {
        // A node whose batches are damaged must not lose the note of that damage with the file.
        let id = self.nodes[at].id;
        if self.nodes[at].lost || !self.nodes[at].was_started || self.losses.has(id) {
            return;
        }
        self.crash(at, 5);
        let platter = Random::new(bit).pick(&self.nodes[at].logs).platter.clone();
        let damage = |mut bytes: Vec<u8>, within: usize| {
            let at = usize::try_from(bit / 8).unwrap_or(0) % within;
            if what == 1 {
                bytes.truncate(at)
            } else {
                bytes[at] ^= 1 << (bit % 8)
            }
            Some(bytes)
        };
        if what < 2 {
            let whole = platter.manifest().expect("it has started");
            platter.set_manifest(damage(whole.clone(), whole.len()));
            self.must_not_start(at);
            platter.set_manifest(Some(whole));
        } else if let Some(segment) = platter.segments().into_iter().max() {
            // The newest segment: the oldest may be about to be removed, and is then not read any more.
            let whole = platter.segment(segment);
            platter.set_segment(segment, damage(whole.clone(), BLOCK_BYTES));
            self.must_not_start(at);
            platter.set_segment(segment, Some(whole));
        }
    }

    /// An operation of the disk fails, in this process or, if `restart`, in the next one.
    pub(super) fn fail_operation(&mut self, at: usize, operation: u64, restart: bool) {
        if restart {
            self.kill(at, 2);
        }
        let logs = &self.nodes[at].logs;
        let log = &logs[usize::try_from(operation).expect("small") % logs.len()];
        log.platter.fail_operation(operation / logs.len() as u64);
    }

    /// The writes that dead processes still had under way reach a node's disk after a while.
    pub(super) fn land_late(&mut self, at: usize, after: u64) {
        self.in_a_while(after, Later::Land(at));
    }

    /// So many nodes may lose the same thing.
    fn spare(&self) -> usize {
        (self.nodes.len() - 1) / 2
    }

    /// Asks the atlas whether a fault may destroy anything on a node: a majority of nodes keeps everything.
    pub(super) fn may_lose_node(&self, at: usize) -> bool {
        let broken = self.broken.iter().map(|(node, _)| *node);
        let mut less: BTreeSet<_> = broken.chain(self.losses.harmed()).collect();
        less.insert(self.nodes[at].id);
        !self.nodes[at].lost && less.len() <= self.spare()
    }

    /// Asks the same for one replica: a majority of the group's replicas keeps everything.
    pub(super) fn may_lose_replica(&self, at: usize, group: GroupId) -> bool {
        let broken = self.broken.iter().filter(|(_, of)| *of == group).map(|(node, _)| *node);
        let mut less: BTreeSet<_> = broken.chain(self.losses.harmed_of(group)).collect();
        less.insert(self.nodes[at].id);
        !self.nodes[at].lost && less.len() <= self.spare()
    }

    /// Notes that a node may lose anything from now on.
    pub(super) fn lose_node(&mut self, at: usize) {
        self.losses.node(self.nodes[at].id);
    }
}
