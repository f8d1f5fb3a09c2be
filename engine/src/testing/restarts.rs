//! Machines that fail within a batch, and the new machines that take their place while the node runs (RULES.md P9).
//!
//! In:     a simulation; the machine's replica, when the new machine comes, how the first one fails.
//! Out:    the group with another machine, which the judge hears of before it is handed anything.
//! Fails:  invariant 27, if the new machine does not open.
//! Source: RULES.md T1.

use super::{
    disks::Decay,
    event::Event,
    invariants::Broken,
    sim::{Later, Sim},
};
use crate::{GroupError, GroupId};

/// If the machine has not failed by then, the replacement is tried again after so many steps.
const RETRY_STEPS: u64 = 5;

impl Sim<'_> {
    /// A group's machine fails within its next batch, and the group gets another machine `after` steps from now, or
    /// later if the first machine has not failed by then.
    pub(super) fn replace_machine(&mut self, at: usize, group: GroupId, after: u64, way: u64) {
        if self.break_machine(at, group, way) {
            self.in_a_while(after, Later::RestartGroup(at, group));
        }
    }

    /// A group whose machine has failed gets another one, unless its process has ended since.
    pub(super) fn restart_group(&mut self, at: usize, group: GroupId) {
        let (now, node) = (self.now(), &self.nodes[at]);
        let replica = (node.id, group);
        let Some(process) = node.process.as_ref().filter(|_| self.broken.contains(&replica)) else {
            return;
        };
        let has_failed =
            process.machines.get(&group).is_some_and(|(ledger, _)| ledger.has_failed());
        if !has_failed || now < node.paused_until {
            return self.in_a_while(RETRY_STEPS, Later::RestartGroup(at, group));
        }
        let factory = &*self.setup.machine;
        match self.nodes[at].restart_group(group, factory) {
            Ok(()) => {
                logdrive_raft::reached!("group has another machine");
                self.broken.remove(&replica);
                self.note(|| format!("{replica:?} gets another machine"));
                self.judge.see(&Event::Restarted { node: replica.0, group });
            }
            // The log has found the group damaged since, or the node has failed.
            Err(GroupError::Fenced { .. } | GroupError::Stopped(_)) => {}
            Err(error) => {
                let what = format!("{replica:?} gets no other machine: {error}");
                Broken { invariant: "27 reopened machine".to_owned(), what }.throw()
            }
        }
    }

    /// The groups that wait for another machine, and their nodes.
    pub(super) fn groups_to_restart(&self) -> Vec<(usize, GroupId)> {
        let waits = |(_, later): &(u64, Later)| match later {
            Later::RestartGroup(at, group) => Some((*at, *group)),
            _ => None,
        };
        self.later.iter().filter_map(waits).collect()
    }

    /// A batch of a full segment, which a later batch records as durable, rots while its node runs. A group that has
    /// entries in the batch gets another machine there, which is given the log again.
    pub(super) fn rot_at_work(&mut self, at: usize, batch: u64, bit: u64) {
        if self.nodes[at].process.is_none() {
            return;
        }
        if let Some(group) = self.damage_batch(at, batch, bit, &Decay::Bit, true) {
            self.replace_machine(at, group, 1, 0);
        }
    }
}
