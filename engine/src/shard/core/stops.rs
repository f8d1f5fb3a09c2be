//! The end of a group on this node: its machine failed, its log lost something, or the node stops.
//!
//! In:     the error of a machine or of a read, a fence, the end of the node.
//! Out:    an answer to everyone who waits for the group; from then on the group is silent here.
//! Cost:   nothing on a proposal's path.
//! Fails:  never.
//! Source: RULES.md P9, rule 24.

use super::Shard;
use crate::{MachineError, ProposeError, StopCause, shard::Answer};
use logdrive_raft::GroupId;
use logdrive_wal::Corrupt;

impl Shard {
    /// A group's machine failed: the group stops here, alone (RULES.md P9).
    pub(crate) fn machine_failed(
        &mut self,
        slot: u32,
        error: MachineError,
        answers: &mut Vec<Answer>,
    ) {
        self.stop(slot, StopCause::Machine(error), "the group's state machine failed", answers);
    }

    /// A group's committed entries cannot be read back: it stops here, alone.
    pub(crate) fn unreadable(&mut self, group: GroupId, why: String, answers: &mut Vec<Answer>) {
        if let Some(slot) = self.slots.get(&group).copied() {
            let told = "the group's log cannot be read back";
            self.stop(slot, StopCause::Unreadable(why), told, answers);
        }
    }

    /// A group stops here, alone; `told` is said to those whose commands are in the log.
    fn stop(&mut self, slot: u32, cause: StopCause, told: &'static str, answers: &mut Vec<Answer>) {
        if logdrive_raft::bug!("failed_machine_stops_its_shard") {
            return self.abandon_all(&cause, told, answers);
        }
        let replica = &mut self.replicas[slot as usize];
        tracing::error!(group = replica.group.get(), %cause, "the group stops on this node");
        replica.stop(cause);
        replica.proposals.refuse(&replica.refusal(), answers);
        replica.proposals.abandon(told, answers);
    }

    /// A group lost something in this node's log: it is silent here from now on (RULES.md rule 24), and clients are
    /// sent to its other members.
    pub(crate) fn fence(&mut self, group: GroupId, corrupt: &Corrupt, answers: &mut Vec<Answer>) {
        let Some(slot) = self.slots.get(&group).copied() else { return };
        let replica = &mut self.replicas[slot as usize];
        replica.fence(self.me, StopCause::Fenced(Box::new(corrupt.clone())));
        replica.proposals.refuse(&replica.refusal(), answers);
        replica.proposals.abandon("the group lost something in this node's log", answers);
    }

    /// The node stops: whoever waits is told so.
    pub(crate) fn abandon_all(
        &mut self,
        cause: &StopCause,
        told: &'static str,
        answers: &mut Vec<Answer>,
    ) {
        for replica in &mut self.replicas {
            replica.stop(cause.clone());
            replica.proposals.refuse(&ProposeError::Stopped(cause.clone()), answers);
            replica.proposals.abandon(told, answers);
        }
    }
}
