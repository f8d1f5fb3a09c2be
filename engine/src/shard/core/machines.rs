//! The choice of the groups that hand committed entries to their machines in a turn, and of the number of entries.
//!
//! In:     groups that have something to apply, in the order in which they came to have it; the room of the turn.
//! Out:    jobs for the machines ([`ApplyJob`]), and questions for entries that are not in memory.
//! Cost:   a queue's push and pop for each group that applies something.
//! Fails:  never. A group whose machine failed leaves the queue.
//! Source: RULES.md A4; `limits.rs` for the numbers.
//!
//! One frame of heartbeats may commit what all groups have waiting. So a turn hands out a bounded number of entries over all
//! groups, and the rest waits for the next turns: in Raft, where it was, and not in a queue of its own. The bound is
//! [`limits::TURN_APPLY_MAX`] and as many entries as the same turn has taken in. So what waits becomes less with each turn,
//! however much comes.
//!
//! The groups that wait stand in a queue, and each is handed an equal share of the turn's room before any is handed more.
//! If a group does not need all of its share, the rest goes to the others. A group that is not done goes to the end of the queue. So a
//! group with few entries does not wait for one with many: each group is handed something in every turn if no more groups
//! wait than a turn has room for, and otherwise waits until as many entries were handed out as groups stand before it.

use super::{ApplyMax, Shard};
use crate::{
    clock::Nanos,
    limits,
    shard::{ApplyJob, Round, Slot, replica::Replica},
};
use std::collections::VecDeque;

impl Shard {
    /// A turn begins: it has room for so many entries.
    pub(crate) fn begin_turn(&self, round: &mut Round) {
        round.room = self.turn_apply_max;
    }

    /// True if the turn's room was not enough: some groups wait for the next one.
    pub(crate) fn owes_machines(&self) -> bool {
        !self.appliers.is_empty()
    }

    /// Makes jobs of what the groups have to apply, as long as the turn has room.
    pub(crate) fn hand_out(&mut self, now: Nanos, round: &mut Round) {
        let nothing_more = ApplyMax { entries: 0, bytes: 0 };
        // The turn has taken in no more of these than it has room for, so none of them stays in memory.
        for slot in std::mem::take(&mut self.read_back) {
            self.hand_out_one(slot, nothing_more, now, round);
        }
        while has_room(round) && !self.appliers.is_empty() {
            let groups = self.appliers.len();
            let share = ApplyMax {
                entries: (round.room.entries / groups).max(1),
                bytes: round.room.bytes / groups,
            };
            for _ in 0..groups {
                if !has_room(round) {
                    break;
                }
                let slot = self.appliers.pop_front().expect("counted above");
                self.replicas[slot.at()].is_applier = false;
                self.hand_out_one(slot, share, now, round);
            }
        }
        if self.owes_machines() {
            logdrive_raft::reached!("a turn's entries for machines at their bound");
            if logdrive_raft::bug!("group_past_a_turns_machines_forgotten") {
                self.appliers.pop_front();
            }
        }
    }

    fn hand_out_one(&mut self, slot: Slot, max: ApplyMax, now: Nanos, round: &mut Round) {
        let replica = &mut self.replicas[slot.at()];
        if replica.stopped {
            return;
        }
        let entries = replica.raft.next_apply(max, limits::fetch_max(self.turn_apply_max));
        let Some(last) = entries.last() else {
            return self.mark(slot); // It asks for entries that are to be read back first.
        };
        round.room.entries = round.room.entries.saturating_sub(entries.len());
        round.room.bytes = round.room.bytes.saturating_sub(entries.cost_bytes());
        let wanted = replica.proposals.wants(last.index);
        round.applies.push(ApplyJob { slot, entries, wanted, committed: now });
        queue_applier(&mut self.appliers, slot, replica);
    }
}

/// A group that has something to apply joins the queue, unless it stands there already.
#[inline]
pub(super) fn queue_applier(appliers: &mut VecDeque<Slot>, slot: Slot, replica: &mut Replica) {
    if replica.raft.has_to_apply() && !replica.is_applier {
        replica.is_applier = true;
        appliers.push_back(slot);
    }
}

fn has_room(round: &Round) -> bool {
    let ApplyMax { entries, bytes } = round.room;
    entries > 0 && bytes > 0 || logdrive_raft::bug!("machines_of_a_turn_unbounded")
}
