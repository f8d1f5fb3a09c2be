//! The end of a group on this node: its machine failed, its log lost something, or the node stops. And the other machine
//! that a group gets whose machine has failed.
//!
//! In:     the error of a machine or of a read, a fence, the end of the node; another machine's place in the log.
//! Out:    an answer to everyone who waits for the group; from then on the group is silent here, until it has a machine.
//! Cost:   nothing on a proposal's path.
//! Fails:  a machine that is further than any was handed entries is not run.
//! Source: RULES.md P9, rule 24.
//!
//! A group without a machine is silent, and its Raft goes on hearing of its own writes: they are durable, or withdrawn for
//! want of room, whatever becomes of the machine. So it knows at any time what the log holds, and with another machine it
//! goes on from there, as after a restart of its node: nobody waits, no leader is known, and it says who its members are
//! before anything else. Messages that came meanwhile are lost, which the protocol stands.

use super::{Replica, Shard};
use crate::{
    MachineError, ProposeError, StopCause,
    shard::{Answer, Slot},
};
use logdrive_raft::{Event, FetchFor, GroupId, LogIndex, NodeId, Ticks};
use logdrive_wal::Corrupt;

impl Shard {
    /// A group's machine failed: the group stops here, alone (RULES.md P9).
    pub(crate) fn machine_failed(
        &mut self,
        slot: Slot,
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
            // Or another machine would wait for that read for ever.
            self.step(slot, Event::FetchFailed { purpose: FetchFor::Apply });
        }
    }

    /// A group stops here, alone; `told` is said to those whose commands are in the log.
    fn stop(
        &mut self,
        slot: Slot,
        cause: StopCause,
        told: &'static str,
        answers: &mut Vec<Answer>,
    ) {
        if logdrive_raft::bug!("failed_machine_stops_its_shard") {
            return self.abandon_all(&cause, told, answers);
        }
        let replica = &mut self.replicas[slot.at()];
        tracing::error!(group = replica.group.get(), %cause, "the group stops on this node");
        replica.view.set_handed(replica.raft.status().applying);
        replica.stop(cause);
        // It must not become a leader by a write that is still under way.
        replica.raft.step(self.now, Event::Resign);
        replica.proposals.refuse(&replica.refusal(), answers);
        replica.proposals.abandon(told, answers);
    }

    /// A group whose machine failed has another one, which has applied everything up to `applied`; gives its slot.
    ///
    /// # Errors
    /// The reason why that machine cannot be run: then the group is as it was.
    pub(crate) fn restart(
        &mut self,
        group: GroupId,
        applied: LogIndex,
    ) -> Result<Slot, MachineError> {
        let gone = || MachineError("the group does not wait for a machine".to_owned());
        let slot = self.slots.get(&group).copied().ok_or_else(gone)?;
        let replica = &mut self.replicas[slot.at()];
        if !replica.awaits_machine {
            return Err(gone());
        }
        if !replica.raft.replace_machine(applied) {
            let most = replica.raft.status().applying;
            return Err(MachineError(format!(
                "it is at {applied}, but none was handed more than {most}"
            )));
        }
        tracing::info!(
            group = group.get(),
            applied = applied.get(),
            "the group has another machine"
        );
        replica.run_again();
        if self.stands {
            self.step(slot, Event::Stand);
        }
        let without_room: Vec<NodeId> = self.rooms.without_room(group).collect();
        for peer in self.peers.clone() {
            let too_large_for = &self.replicas[slot.at()].too_large_for;
            let has_room = !without_room.contains(&peer) && !too_large_for.contains(&peer);
            self.step(slot, Event::Room { peer, has_room });
            self.tell_founding(slot, peer);
        }
        self.mark(slot);
        Ok(slot)
    }

    /// The machine that was on its way to a group is not run: another may be tried.
    pub(crate) fn end_restart(&self, group: GroupId) {
        if let Some(slot) = self.slots.get(&group) {
            self.replicas[slot.at()].view.end_restart();
        }
    }

    /// A group lost something in this node's log: it is silent here from now on (RULES.md rule 24), and clients are
    /// sent to its other members.
    pub(crate) fn fence(&mut self, group: GroupId, corrupt: &Corrupt, answers: &mut Vec<Answer>) {
        let Some(slot) = self.slots.get(&group).copied() else { return };
        let replica = &mut self.replicas[slot.at()];
        replica.fence(self.me, StopCause::Fenced(Box::new(corrupt.clone())));
        replica.proposals.refuse(&replica.refusal(), answers);
        replica.proposals.abandon("the group's log is damaged on this node", answers);
    }

    /// A group was founded with other members on a peer: it stops here, before anything of this gathering leaves, and only
    /// says what it was founded with (RULES.md M14).
    #[cold]
    pub(super) fn refuse_founding(
        &mut self,
        group: GroupId,
        peer: NodeId,
        answers: &mut Vec<Answer>,
    ) {
        let replica = &mut self.replicas[self.slots[&group].at()];
        replica.refuse_founding(peer);
        // It must not become a leader by a write that is still under way.
        replica.raft.step(self.now, Event::Resign);
        replica.proposals.refuse(&replica.refusal(), answers);
        replica.proposals.abandon("the group was founded with other members elsewhere", answers);
    }

    /// The node stops, and all who wait are told so.
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

/// A group without a machine hears of its own writes and of the end of its reads, and of nothing else.
pub(super) fn step_at_rest(replica: &mut Replica, now: Ticks, event: Event) {
    match event {
        Event::Durable(_) | Event::Withdrawn(_) => replica.raft.step(now, event),
        Event::Fetched { purpose, .. } | Event::FetchFailed { purpose } => {
            replica.raft.step(now, Event::FetchFailed { purpose });
        }
        _ => {}
    }
}
